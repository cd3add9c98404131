//! Programs that no library can be preloaded into, by the trap; and the trap beside the library.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

const IPCSPACE: &str = env!("CARGO_BIN_EXE_ipcspace");

/// What the peer is compiled to: with the dynamic loader and without, for 64 bits and for 32.
const KINDS: [(&str, &[&str]); 4] = [
    ("dynamic", &[]),
    ("static", &["-static"]),
    ("dynamic32", &["-m32"]),
    ("static32", &["-m32", "-static"]),
];

/// The peers, by their kinds; those of 32 bits only where there is a compiler and a libc for them.
fn peers() -> &'static [(&'static str, PathBuf)] {
    static PEERS: OnceLock<Vec<(&str, PathBuf)>> = OnceLock::new();
    PEERS.get_or_init(|| {
        let source = beside("peer.c");
        let compiled = KINDS.into_iter().filter_map(|(kind, flags)| {
            let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("trap-peer-{kind}"));
            let mut compile = Command::new("cc");
            compile
                .args(["-O1", "-Wall", "-Werror", "-pthread", "-o"])
                .arg(&program)
                .arg(&source)
                .args(flags);
            let is_there = compile.output().expect("a C compiler").status.success();
            if !is_there {
                assert!(kind.ends_with("32"), "{compile:?}");
                println!("skipped: {kind} programs: gcc-multilib is not installed");
            }
            is_there.then_some((kind, program))
        });
        compiled.collect()
    })
}

/// A file in the tests' directory.
fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trap").join(name)
}

/// Runs a shell script by a door.
fn run(door: &str, script: &str) -> Output {
    by_door(door, script).output().unwrap()
}

fn by_door(door: &str, script: &str) -> Command {
    let mut command = Command::new(IPCSPACE);
    command.args(["run", "--kill", "--door", door, "--", "sh", "-c", script]);
    command.envs(peers().iter().map(|(kind, program)| (kind, program)));
    command.env("ipcspace", IPCSPACE);
    command
}

/// Where a program is, if it is installed.
fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: {name} is not installed");
    }
    found
}

fn text(output: &Output) -> &str {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn programs_of_either_kind_are_in_one_namespace() {
    for door in ["trap", "auto"] {
        let kinds = || peers().iter().map(|(kind, _)| kind);
        for (server, client) in kinds().flat_map(|server| kinds().map(move |client| (server, client))) {
            let output = run(door, &format!("${server} serve & ${client} ask; wait"));
            assert_eq!(text(&output), "21 twice is 42, attached 1\n", "{door}: {server}, {client}");
        }
    }
}

#[test]
fn programs_of_either_kind_have_the_same_posix_queues() {
    for door in ["trap", "auto"] {
        let kinds = || peers().iter().map(|(kind, _)| kind);
        for (server, client) in kinds().flat_map(|server| kinds().map(move |client| (server, client))) {
            let output = run(door, &format!("${server} mqserve & ${client} mqask; wait"));
            assert_eq!(text(&output), "21 twice is 42, 8\n", "{door}: {server}, {client}");
        }
    }
}

#[test]
fn a_queue_tells_threads_of_programs_of_any_kind() {
    for door in ["trap", "auto"] {
        for (kind, _) in peers() {
            let output = run(door, &format!("${kind} notice 20"));
            assert_eq!(text(&output), "210\n", "{door}: {kind}");
        }
    }
}

/// More of them than a process may have at a time.
#[test]
fn sockets_that_are_closed_count_no_more() {
    for (kind, _) in peers() {
        let output = run("trap", &format!("${kind} sockets 40"));
        assert_eq!(text(&output), "40\n", "{kind}");
    }
}

#[test]
fn programs_of_any_kind_are_guests_of_a_preloaded_one() {
    let mut guests: Vec<String> =
        peers().iter().map(|(_, program)| format!("{} guest", program.display())).collect();
    guests.push(format!("perl {}", beside("guest.pl").display()));
    if let Some(go) = installed("go") {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trap-guest-go");
        let mut build = Command::new(go);
        build.arg("build").arg("-o").arg(&program).arg(beside("guest.go"));
        build.env("CGO_ENABLED", "0").env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go"));
        assert!(build.status().unwrap().success(), "{build:?}");
        guests.push(program.display().to_string());
    }
    let quoted: String = guests.iter().map(|guest| format!(" '{guest}'")).collect();
    for door in ["auto", "trap"] {
        let output = run(door, &format!("python3 {} {quoted}", beside("host.py").display()));
        assert_eq!(text(&output), format!("{} guests\n", guests.len()), "{door}");
    }
}

#[test]
fn what_the_library_serves_does_not_come_to_the_trap() {
    // How often the broker's thread that takes questions has been on a CPU.
    let runs = "grep -lx trap /proc/$PPID/task/*/comm | sed s/comm/schedstat/ | xargs cut -d' ' -f3";
    // It has its name, and sleeps, once it has begun.
    let asleep = "grep -lx trap /proc/$PPID/task/*/comm | sed s/comm/stat/ | xargs grep -c '(trap) S '";
    let begun = format!("until [ \"$({asleep})\" = 1 ]; do sleep 0.01; done");
    let script =
        format!("{begun}; {runs}; $dynamic serve & $dynamic ask; wait $!; {runs}; $static count; {runs}");
    let output = run("auto", &script);
    let lines: Vec<&str> = text(&output).lines().collect();
    let [before, "21 twice is 42, attached 1", after, "1 queues", in_the_end] = lines[..] else {
        panic!("{lines:?}");
    };
    assert_eq!(before, after);
    assert_ne!(after, in_the_end);
}

/// By all calls that lead there; a vfork child executes something, as it has its parent's memory.
const APART: [&str; 6] = ["unshare", "clone", "clone3", "orphan", "user", "vfork"];

#[test]
fn a_new_namespace_is_ours_and_empty() {
    for (kind, _) in peers() {
        for how in APART {
            let what = if how == "vfork" { "$static count" } else { "" };
            let output = run("trap", &format!("$static make 2; ${kind} apart {how} {what}; $static count"));
            assert_eq!(text(&output), "0 queues\n2 queues\n", "{kind}, {how}");
        }
    }
}

/// Each kind goes to a new namespace and executes others, by either door: who is served by the library, and who by the trap, are there together.
#[test]
fn what_is_executed_in_a_new_namespace_is_there_whatever_its_kind() {
    let inside = "$dynamic make 2; $static make 1; $static count; $dynamic count";
    for door in ["auto", "trap"] {
        for (kind, _) in peers() {
            for how in ["unshare", "clone", "vfork", "user"] {
                // The library takes no child that shares its parent's memory.
                if door == "auto" && *kind == "dynamic" && how == "vfork" {
                    continue;
                }
                let output = run(
                    door,
                    &format!("$static make 1; ${kind} apart {how} sh -c '{inside}'; $dynamic count"),
                );
                assert_eq!(text(&output), "3 queues\n3 queues\n1 queues\n", "{door}, {kind}, {how}");
            }
        }
    }
}

/// A script as one word of another one.
fn quoted(script: &str) -> String {
    format!("'{}'", script.replace('\'', "'\\''"))
}

#[test]
fn namespaces_lie_in_each_other_and_in_runs() {
    let other = if peers().len() > 2 { "$static32" } else { "$static" };
    let innermost = quoted("$static make 4; $static apart unshare; $static count");
    let third = format!("$static make 3; $ipcspace run --door trap -- sh -c {innermost}; $static count");
    let second = format!("$static make 2; {other} apart clone sh -c {}; $static count", quoted(&third));
    let first = format!("$static make 1; $static apart unshare sh -c {}; $static count", quoted(&second));
    assert_eq!(text(&run("trap", &first)), "0 queues\n4 queues\n3 queues\n2 queues\n1 queues\n");
}

#[test]
fn a_namespace_is_joined_by_its_file_and_by_a_pidfd() {
    for door in ["trap", "auto"] {
        for (kind, _) in peers() {
            let script = format!(
                "$static make 1; ready=$(mktemp); $static apart unshare sh -c '$static make 3; echo $$ >$0; exec sleep 20' $ready & \
                 until [ -s $ready ]; do sleep 0.01; done; pid=$(cat $ready); rm $ready; \
                 ${kind} join /proc/$pid/ns/ipc; ${kind} join $pid; ${kind} join $pid $static make 1; ${kind} join $pid; \
                 $static count; kill $pid; wait"
            );
            let output = run(door, &script);
            let seen = "3 queues\n3 queues\n4 queues\n1 queues\n";
            assert_eq!(String::from_utf8_lossy(&output.stdout), seen, "{door}, {kind}: {output:?}");
        }
    }
}

#[test]
fn who_goes_takes_along_what_is_attached_and_comes_back() {
    for (kind, _) in peers() {
        for what in ["cycle", "refused", "threads"] {
            let output = run("trap", &format!("${kind} {what}"));
            assert_eq!(text(&output), "as it should be\n", "{kind}, {what}");
        }
    }
}

#[test]
fn a_new_namespace_ends_with_its_last_process() {
    // The orphan is not known by its parent any more.
    let script = "socket=$($static apart unshare sh -c '$static count >&2; echo $IPCSPACE_SOCKET; (sleep 1; $static count >&2) >&- &'); \
        [ -S $socket ] && sleep 1.5; until [ ! -e $socket ]; do sleep 0.05; done; echo gone";
    let output = run("trap", script);
    assert_eq!(output.stdout, b"gone\n", "{output:?}");
    assert_eq!(output.stderr, b"0 queues\n0 queues\n", "{output:?}");
}

/// The brokers inside have the listener as well, and must not keep who asks waiting.
#[test]
fn if_the_outermost_broker_is_killed_who_is_elsewhere_is_told() {
    let told = "$static make 1; kill -9 $PPID; $static make 1";
    for inside in [
        "broker=$PPID; export broker; $static apart unshare sh -c",
        "broker=$PPID; export broker; $ipcspace run --door trap -- sh -c",
    ] {
        let output = run("trap", &format!("{inside} {}", quoted(&told.replace("$PPID", "$broker"))));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "msgget: Function not implemented\n", "{inside}");
    }
}

#[test]
fn there_is_a_limit_of_depth() {
    let script = "n=0; export n; echo 'n=$((n+1)); exec $static apart unshare sh $0' >$deep; exec sh $deep";
    let deep = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trap-deep");
    let output = run("trap", &format!("deep={}; {script}", deep.display()));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "unshare: No space left on device\n");
}

#[test]
fn who_is_not_the_owner_may_not_go() {
    if !nix::unistd::geteuid().is_root() || installed("setpriv").is_none() {
        println!("skipped: only root can become another user");
        return;
    }
    for (kind, _) in peers() {
        for how in ["unshare", "clone", "clone3"] {
            let nobody = "setpriv --reuid=65534 --clear-groups";
            let output = run("trap", &format!("$static make 1; {nobody} ${kind} apart {how}; $static count"));
            assert_eq!(output.stdout, b"1 queues\n", "{kind}, {how}: {output:?}");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(stderr.contains("Operation not permitted"), "{kind}, {how}: {stderr}");
        }
    }
}

#[test]
fn what_is_executed_after_a_call_is_where_its_environment_leads() {
    let program = r#"
import ctypes, os, subprocess, time
inside = "$static make 3; echo $IPCSPACE_SOCKET; exec sleep 20"
other = subprocess.Popen([os.environ["static"], "apart", "unshare", "sh", "-c", inside], stdout=subprocess.PIPE)
socket = other.stdout.readline().strip()
ctypes.CDLL(None).msgget(0, 0o1600)
# Longer than a thread's number is taken for the same thread.
time.sleep(0.01)
os.execve(os.environ["static"], ["peer", "count"], dict(os.environ, IPCSPACE_SOCKET=socket))
"#;
    assert_eq!(text(&run("trap", &format!("exec python3 -c {}", quoted(program)))), "3 queues\n");
}

#[test]
fn a_socket_that_nobody_served_is_found_when_somebody_does() {
    let name = format!("later-{}", std::process::id());
    let program = r#"
import ctypes, sys, time
libc = ctypes.CDLL(None)
print(libc.msgget(77, 0), flush=True)
sys.stdin.readline()
end = time.monotonic() + 20
while libc.msgget(77, 0) < 0 and time.monotonic() < end:
    time.sleep(0.1)
print(libc.msgget(77, 0) >= 0)
"#;
    let served =
        Command::new(IPCSPACE).args(["run", "--", "sh", "-c", "echo $IPCSPACE_SOCKET"]).output().unwrap();
    let base = Path::new(text(&served).trim()).ancestors().nth(2).unwrap().to_owned();
    let mut run = Command::new(IPCSPACE);
    run.args([
        "run",
        "--kill",
        "--door",
        "trap",
        "--",
        "sh",
        "-c",
        "exec env IPCSPACE_SOCKET=$0 python3 -c \"$1\"",
    ]);
    run.arg(base.join(&name).join("socket")).arg(program);
    let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(run.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(said.next().as_deref(), Some("-1"));
    let make =
        "import ctypes, sys; print(ctypes.CDLL(None).msgget(77, 0o1600) >= 0, flush=True); sys.stdin.read()";
    let mut server = Command::new(IPCSPACE);
    server.args(["run", "--kill", "-n", &name, "--", "python3", "-c", make]);
    let mut server = server.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let made = BufReader::new(server.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    assert_eq!(made, "True");
    writeln!(run.stdin.take().unwrap()).unwrap();
    let found = said.next();
    run.wait().unwrap();
    drop(server.stdin.take());
    server.wait().unwrap();
    assert_eq!(found.as_deref(), Some("True"));
}

/// Runs a program of python's by the trap, as root, whose processes can become another user's; none if that can't be.
fn run_as_root(program: &str) -> Option<Output> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return None;
    }
    Some(run("trap", &format!("exec python3 -c {}", quoted(program))))
}

#[test]
fn the_listener_is_given_to_nobody_elses_server() {
    let program = r#"
import os, socket, tempfile
os.setgid(65534); os.setuid(65534)
path = tempfile.mkdtemp() + "/socket"
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.bind(path); server.listen(8); server.settimeout(1)
if os.fork() == 0:
    os.execve(os.environ["static"], ["peer", "make", "1"], dict(os.environ, IPCSPACE_SOCKET=path))
try:
    link, _ = server.accept(); link.settimeout(1)
    asked = link.recv(64)
    if asked:
        link.send(asked[:4] + bytes(12))
        print("given", link.recvmsg(16, socket.CMSG_SPACE(4)))
except TimeoutError:
    pass
print("status", os.wait()[1])
"#;
    if let Some(output) = run_as_root(program) {
        assert_eq!(text(&output), "status 0\n");
    }
}

#[test]
fn the_namespace_of_another_users_process_is_for_those_who_may_look_into_it() {
    let program = r#"
import ctypes, os
def try_open(who, pid):
    try:
        fd = os.open(f"/proc/{pid}/ns/ipc", os.O_RDONLY)
        print(who, os.readlink(f"/proc/self/fd/{fd}").split(":")[0], flush=True)
    except OSError as error:
        print(who, error.strerror, flush=True)
def child(user):
    pid = os.fork()
    if pid == 0:
        os.close(asleep[1])
        os.setgroups([]); os.setgid(user); os.setuid(user)
        # Who has become another user hides itself.
        PR_SET_DUMPABLE = 4
        assert ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0
        os.write(ready[1], b".")
        os.read(asleep[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    return pid
asleep, ready = os.pipe(), os.pipe()
others, same = child(65533), child(65534)
root = os.getpid()
for pid in root, others, same:
    try_open("root", pid)
if os.fork() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    for pid in root, others, same, os.getpid():
        try_open("nobody", pid)
    os._exit(0)
os.wait()
os.close(asleep[1])
"#;
    if let Some(output) = run_as_root(program) {
        let stdout = String::from_utf8_lossy(&output.stdout);
        let refused = "nobody Permission denied\n".repeat(2);
        let seen = format!("{}{refused}{}", "root socket\n".repeat(3), "nobody socket\n".repeat(2));
        assert_eq!(stdout, seen, "{output:?}");
    }
}

#[test]
fn what_only_looks_like_a_namespaces_file_is_the_kernels() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root mounts something at /proc");
        return;
    }
    let script = "unshare --mount sh -c 'pid=$$; mount -t tmpfs none /proc; mkdir -p /proc/$pid/ns; \
        echo a file >/proc/$pid/ns/ipc; cat /proc/$pid/ns/ipc'";
    assert_eq!(text(&run("trap", script)), "a file\n");
}

#[test]
fn who_goes_with_other_flags_and_who_attaches_do_not_wait_for_each_other() {
    for (kind, _) in peers() {
        assert_eq!(text(&run("trap", &format!("${kind} beside unshare 200"))), "as it should be\n", "{kind}");
    }
}

#[test]
fn a_child_is_made_elsewhere_while_others_attach() {
    for (kind, _) in peers() {
        assert_eq!(text(&run("trap", &format!("${kind} beside clone3 200"))), "as it should be\n", "{kind}");
    }
}

#[test]
fn who_is_killed_while_it_is_held_is_heard_of_by_its_parent() {
    for (kind, _) in peers() {
        assert_eq!(text(&run("trap", &format!("${kind} killed 300"))), "as it should be\n", "{kind}");
    }
}

#[test]
fn a_held_program_keeps_its_handler_of_traps() {
    for (kind, _) in peers() {
        assert_eq!(text(&run("trap", &format!("${kind} traps"))), "1 traps\n", "{kind}");
    }
}

#[test]
fn it_does_without_what_older_kernels_lack() {
    let mut command = Command::new(IPCSPACE);
    command.env("IPCSPACE_WITHOUT", "sync_wake").args(["run", "--door", "trap", "--"]);
    let output = command.arg(&peers()[1].1).args(["storm", "1", "60"]).output().unwrap();
    assert_eq!(text(&output), "60 of 60 once or gone with one of 1 receivers, 0 odd errors, status 0\n");
    // As where a program may be looked at, but not traced.
    for (kind, _) in peers() {
        let mut command =
            by_door("trap", &format!("${kind} mqserve & ${kind} mqask; wait; ${kind} notice 3"));
        let output = command.env("IPCSPACE_WITHOUT", "pidfd_getfd").output().unwrap();
        assert_eq!(text(&output), "21 twice is 42, 8\n6\n", "{kind}");
    }
    command.env("IPCSPACE_WITHOUT", "wait_killable");
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("Linux 5.19"), "{stderr}");
    let mut command = Command::new(IPCSPACE);
    let output =
        command.env("IPCSPACE_WITHOUT", "wait_killable").args(["run", "--", "ipcmk", "-Q"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && stderr.contains("warning"), "{stderr}");
}

/// `IPCSPACE_STORM=100000` makes it a long one.
#[test]
fn no_message_is_lost_in_a_storm_of_signals() {
    let count = std::env::var("IPCSPACE_STORM").map_or(600, |count| count.parse().unwrap());
    let kills = count / 50;
    for threads in [1, 3] {
        for (kind, _) in peers().iter().filter(|(kind, _)| kind.starts_with("static")) {
            let output = run("trap", &format!("${kind} storm {threads} {count}"));
            let whole = format!(
                "{count} of {count} once or gone with one of {kills} receivers, 0 odd errors, status 0\n"
            );
            assert_eq!(text(&output), whole, "{kind}, {threads} threads");
        }
    }
}

#[test]
fn lists_are_those_of_the_namespace_for_programs_of_any_kind() {
    for (kind, _) in peers() {
        for door in ["auto", "trap"] {
            let output = run(door, &format!("$static make 3; ${kind} lists"));
            assert_eq!(text(&output), "3 queues\n", "{kind}, {door}");
        }
    }
}

#[test]
fn the_directory_of_queues_is_the_namespaces_for_programs_of_any_kind() {
    for (kind, _) in peers() {
        for door in ["auto", "trap"] {
            // Dynamic ones have it of the library, without descriptors of the directory.
            if (*kind, door) != ("dynamic", "auto") {
                let output = run(door, &format!("${kind} directory"));
                assert_eq!(text(&output), "as it should be\n", "{kind}, {door}");
            }
        }
    }
}

#[test]
fn a_program_that_changes_its_memory_meanwhile_harms_nobody() {
    // libc reads the structures of 32-bit programs itself.
    for kind in ["static", "dynamic"] {
        let output = run("trap", &format!("${kind} lie 500; $dynamic serve & $dynamic ask; wait"));
        assert_eq!(text(&output), "all honest\n21 twice is 42, attached 1\n", "{kind}");
    }
}

#[test]
fn the_kernel_sees_nothing_of_it() {
    let count = || std::fs::read_to_string("/proc/sysvipc/msg").unwrap().lines().count();
    let before = count();
    text(&run("trap", "$static serve & $static ask; wait; ipcmk -Q"));
    assert_eq!(count(), before);
}

#[test]
fn code_and_signal_of_the_command_are_as_without() {
    assert_eq!(run("trap", "exit 7").status.code(), Some(7));
    assert_eq!(run("trap", "kill -USR1 $$").status.signal(), Some(10));
}

#[test]
fn a_run_within_a_run_is_in_its_own_namespace() {
    // The peers' queue has a key, so one of the outer namespace would be found by them.
    let talk = "$static serve & $static ask; wait; ";
    // Who has lost the variable is where its parent is.
    let inner = format!("{talk} env -u IPCSPACE_SOCKET $static lists; true");
    for doors in [
        ["trap", "trap", "trap"],
        ["auto", "trap", "auto"],
        ["auto", "auto", "auto"],
        // Its programs come to the outermost trap.
        ["trap", "preload", "trap"],
    ] {
        let script = doors[1..].iter().rev().zip(2..).fold(inner.clone(), |within, (door, queues)| {
            let within = quoted(&within);
            format!("$static make {queues}; $ipcspace run --door {door} -- sh -c {within}; $static count")
        });
        let output = run(doors[0], &script);
        assert_eq!(text(&output), "21 twice is 42, attached 1\n1 queues\n2 queues\n3 queues\n", "{doors:?}");
    }
}

/// Somebody is at the place where those inside come, and says nothing.
const IDLERS: &str = r#"
import os, socket, subprocess
idlers = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
for idler in idlers: idler.connect("\0" + os.environ["IPCSPACE_TRAP"])
os._exit(subprocess.call([os.environ["ipcspace"], "run", "--door", "trap", "--", os.environ["static"], "make", "2"]))
"#;

#[test]
fn who_comes_and_says_nothing_does_not_keep_a_run_inside_waiting() {
    let output = run("trap", &format!("$static make 1; python3 -c {}; $static count", quoted(IDLERS)));
    assert_eq!(text(&output), "1 queues\n");
}

#[test]
fn a_stopped_command_that_is_killed_while_it_is_helped_out_of_a_lock_is_seen_to_end() {
    let dynamic = &peers().iter().find(|(kind, _)| *kind == "dynamic").unwrap().1;
    for ms in 0..24 {
        let mut command = Command::new(IPCSPACE);
        command
            .args(["run", "--door", "preload", "--"])
            .arg(dynamic)
            .args(["helped", &(ms % 12).to_string()]);
        let mut running = command.spawn().unwrap();
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = running.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > Duration::from_secs(20) {
                running.kill().unwrap();
                panic!("it hangs, killed {ms} ms after its stop");
            }
            thread::sleep(Duration::from_millis(2));
        };
        assert_eq!(status.signal(), Some(9), "{ms} ms");
    }
}

/// Another user listens where a trap is said to be.
const FOREIGN: &str = r#"
import os, socket, subprocess
place, ready = "ipcspace-foreign-%d" % os.getpid(), os.pipe()
if os.fork() == 0:
    os.setresuid(65531, 65531, 65531)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind("\0" + place); listener.listen()
    os.write(ready[1], b"."); listener.settimeout(10)
    link, _ = listener.accept()
    os._exit(0 if link.recv(100) == b"" else 1)
os.read(ready[0], 1)
inside = subprocess.run([os.environ["ipcspace"], "run", "--door", "trap", "--", "true"], env=dict(os.environ, IPCSPACE_TRAP=place), timeout=20, capture_output=True)
print(inside.returncode, inside.stderr.decode().split(":")[1].strip(), os.wait()[1])
"#;

#[test]
fn a_trap_of_another_users_is_none() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: this needs root, to be another user");
    }
    assert_eq!(text(&run("trap", &format!("python3 -c {}", quoted(FOREIGN)))), "125 no trap 0\n");
}

#[test]
fn a_broker_inside_that_is_stopped_keeps_nobody_else_waiting() {
    // More of its programs ask than its connection has room for.
    let inside = "kill -STOP $PPID; for n in $(seq 500); do $static make 1 & done; echo $PPID >$asked; wait; $static count";
    let outside = "sleep 1; timeout 20 $static make 2; $static count; kill -CONT $(cat $asked); wait";
    let asked = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trap-asked");
    let inner = format!("$ipcspace run --door trap -- sh -c {}", quoted(inside));
    let script = format!(
        "export asked={}; rm -f $asked; {inner} & until [ -s $asked ]; do sleep 0.1; done; {outside}",
        asked.display()
    );
    assert_eq!(text(&run("trap", &script)), "2 queues\n500 queues\n");
}

#[test]
fn one_whose_outer_trap_does_not_answer_is_refused_or_goes_on_without() {
    let output = run("trap", "IPCSPACE_TRAP=nowhere $ipcspace run --door trap -- true");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.starts_with("ipcspace: no trap: "), "{stderr}");
    let script = "IPCSPACE_TRAP=nowhere $ipcspace run -- sh -c '$dynamic serve & $dynamic ask; wait'";
    let output = run("trap", script);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.stdout, b"21 twice is 42, attached 1\n", "{stderr}");
    assert!(stderr.contains("warning"), "{stderr}");
}
