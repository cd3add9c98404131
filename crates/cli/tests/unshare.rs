//! Other IPC namespaces from inside: `unshare`, `clone`, `clone3`, `setns`, and util-linux's commands. Each script is run on the kernel too, where that can be.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use std::{env, process, thread};

const IPCSPACE: &str = env!("CARGO_BIN_EXE_ipcspace");
/// After this, what should have happened won't.
const WATCHDOG: Duration = Duration::from_secs(20);

/// What the scripts share: the numbers of calls and flags, and small functions.
const PERL: &str = r#"
    use strict; use warnings; use Errno; use Fcntl; use POSIX qw(_exit);
    use IPC::SysV qw(IPC_PRIVATE IPC_CREAT IPC_RMID IPC_STAT SETVAL GETVAL SEM_UNDO shmat shmdt memread);
    use constant { NEWIPC => 0x08000000, NEWUTS => 0x04000000, SYSVSEM => 0x40000, VM => 0x100, SIGCHLD => 17 };
    our ($| , $q, $s, $m) = (1);
    sub unshared { my $r = syscall(272, $_[0]); $r == 0 ? "ok" : ($! . "") }
    sub entered { my $r = syscall(308, $_[0], $_[1]); $r == 0 ? "ok" : ($! . "") }
    sub cloned { my $r = syscall(56, $_[0] | SIGCHLD, 0, 0, 0, 0); $r < 0 ? ($! . "") : $r }
    sub queue { my $id = msgget(IPC_PRIVATE, 0600); defined $id ? $id : ($! . "") }
    sub value { my $v = semctl($_[0], 0, GETVAL, 0); defined $v ? $v + 0 : ($! . "") }
    sub say_ { print join(" ", @_), "\n" }
    sub namespace { open(my $f, "<", "/proc/$_[0]/ns/ipc") or return; $f }
"#;

fn ours(command: &[&str]) -> Output {
    ours_by("auto", command)
}

fn ours_by(door: &str, command: &[&str]) -> Output {
    let mut ours = Command::new(IPCSPACE);
    ours.args(["run", "--door", door, "--"]).args(command).env("LC_ALL", "C").output().unwrap()
}

/// The same where the calls are the kernel's; `None` where that can't be.
fn kernels(command: &[&str]) -> Option<Output> {
    if !Command::new("unshare").args(["--ipc", "true"]).output().is_ok_and(|output| output.status.success()) {
        eprintln!("not compared with the kernel: that needs root");
        return None;
    }
    Some(Command::new("unshare").arg("--ipc").args(command).env("LC_ALL", "C").output().unwrap())
}

/// What a script prints, on ours, by the library and by the trap, and on the kernel alike.
fn prints(command: &[&str], expected: &str) {
    let ours = ["auto", "trap"].map(|door| Some(ours_by(door, command)));
    for output in ours.into_iter().chain([kernels(command)]).flatten() {
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}

fn perl(script: &str, expected: &str) {
    prints(&["perl", "-e", &format!("{PERL}{script}")], expected);
}

#[test]
fn a_new_namespace_is_empty_and_has_the_default_limits() {
    perl(
        r#"queue(); queue(); open(my $f, ">", "/proc/sys/kernel/msgmni"); print $f "7"; close $f;
        my $buf = ""; say_(unshared(NEWIPC), queue(), defined msgctl(0, IPC_STAT, $buf) ? 1 : 0, defined msgctl(1, IPC_STAT, $buf) ? 1 : 0);
        open($f, "<", "/proc/sys/kernel/msgmni"); print <$f>; open($f, "<", "/proc/sysvipc/msg"); say_(scalar(() = <$f>));"#,
        "ok 0 1 0\n32000\n2\n",
    );
}

#[test]
fn other_flags_are_the_kernels_and_come_first() {
    // This one is in no kernel.
    perl(r"queue(); say_(unshared(NEWIPC | 1), queue());", "Invalid argument 1\n");
}

#[test]
fn children_are_where_their_parent_is_and_those_of_before_stay() {
    perl(
        r#"queue(); pipe(my $r, my $w); pipe(my $r2, my $w2);
        if (!fork) { close $w; <$r>; print "before ", queue(), "\n"; close $w2; _exit(0) }
        close $w2; unshared(NEWIPC); queue(); queue(); close $w; <$r2>;
        if (!fork) { print "after ", queue(), "\n"; _exit(0) } wait; wait;
        system($^X, "-e", "print 'executed ', msgget(0, 0600), qq(\n)"); say_(queue());"#,
        "before 1\nafter 2\nexecuted 3\n4\n",
    );
}

#[test]
fn undo_is_applied_when_the_process_leaves() {
    perl(
        r#"$s = semget(IPC_PRIVATE, 1, 0600); pipe(my $r, my $w); pipe(my $r2, my $w2);
        if (!fork) { semop($s, pack("s3", 0, 5, SEM_UNDO)) or die; syswrite $w, "x"; sysread $r2, my $x, 1;
            unshared(NEWIPC); syswrite $w, "y"; sysread $r2, $x, 1; _exit(0) }
        sysread $r, my $x, 1; print value($s), " "; syswrite $w2, "x"; sysread $r, $x, 1; say_(value($s));
        syswrite $w2, "x"; wait; say_(value($s));"#,
        "5 0\n0\n",
    );
}

#[test]
fn attachments_are_kept_and_detached() {
    perl(
        r#"$m = shmget(IPC_PRIVATE, 4096, 0600); my $at = shmat($m, undef, 0); shmwrite($m, "here", 0, 4);
        my $other = namespace($$); my $buf = "";
        say_(unshared(NEWIPC), defined shmctl($m, IPC_STAT, $buf) ? 1 : 0);
        memread($at, my $x, 0, 4); print "$x "; my $new = shmget(IPC_PRIVATE, 4096, 0600); my $at2 = shmat($new, undef, 0);
        say_(defined shmdt($at) ? "detached" : "$!", defined shmdt($at) ? 1 : 0, defined shmdt($at2) ? "detached" : "$!");
        say_(entered(fileno $other, NEWIPC), defined shmctl($m, IPC_STAT, $buf) ? 1 : 0, (unpack "x88 Q", $buf));"#,
        "ok 0\nhere detached 0 detached\nok 1 0\n",
    );
}

#[test]
fn a_process_comes_back_by_a_descriptor() {
    perl(
        r#"queue(); my $home = namespace($$); say_(unshared(NEWIPC), queue(), queue());
        my $away = namespace("self"); say_(entered(fileno $home, NEWIPC), queue());
        say_(entered(fileno $away, 0), queue()); say_(entered(fileno $home, 0), queue());
        say_(entered(fileno $home, NEWUTS), entered(99, NEWIPC), entered(0, NEWIPC));"#,
        "ok 0 1\nok 1\nok 2\nok 2\nInvalid argument Bad file descriptor Invalid argument\n",
    );
}

#[test]
fn a_descriptor_keeps_a_namespace_whose_processes_have_gone() {
    perl(
        r#"pipe(my $r, my $w); pipe(my $r2, my $w2); my $child;
        if (!($child = fork)) { unshared(NEWIPC); queue(); queue(); syswrite $w, "x"; sysread $r2, my $x, 1; _exit(0) }
        sysread $r, my $x, 1; my $kept = namespace($child); syswrite $w2, "x"; wait; select undef, undef, undef, 0.2;
        say_(queue(), entered(fileno $kept, NEWIPC), queue());"#,
        "0 ok 2\n",
    );
}

#[test]
fn a_pidfd_names_the_namespace_of_its_process() {
    perl(
        r#"pipe(my $r, my $w); pipe(my $r2, my $w2); my $child; queue();
        if (!($child = fork)) { unshared(NEWIPC); queue(); queue(); syswrite $w, "x"; sysread $r2, my $x, 1; _exit(0) }
        sysread $r, my $x, 1; my $pidfd = syscall(434, $child, 0);
        say_(entered($pidfd, NEWIPC), queue()); syswrite $w2, "x"; wait; say_(queue());"#,
        "ok 2\n3\n",
    );
}

#[test]
fn clone_makes_a_child_that_is_elsewhere() {
    perl(
        r#"queue(); my $pid = cloned(NEWIPC); if ($pid eq "0") { say_(queue(), queue()); _exit(0) } waitpid $pid, 0;
        say_($? >> 8, queue());
        my $args = pack("Q11", NEWIPC, 0, 0, 0, SIGCHLD, 0, 0, 0, 0, 0, 0);
        $pid = syscall(435, $args, 64); if ($pid == 0) { say_(queue()); _exit(0) } waitpid $pid, 0; say_($? >> 8, queue());
        say_(cloned(NEWIPC | SYSVSEM));"#,
        "0 1\n0 1\n0\n0 2\nInvalid argument\n",
    );
}

#[test]
fn libcs_clone_too() {
    // glibc's clone: a function, the stack's end, flags, an argument.
    let script = "import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
libc.msgget(0, 0o600)
def child(argument):
    os.write(1, b'%d %d\\n' % (libc.msgget(0, 0o600), argument or 0))
    return 7
function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(child)
stack = ctypes.create_string_buffer(1 << 20)
top = (ctypes.addressof(stack) + (1 << 20)) & ~15
pid = libc.clone(function, ctypes.c_void_p(top), 0x08000000 | signal.SIGCHLD, ctypes.c_void_p(5))
_, status = os.waitpid(pid, 0)
print(os.WEXITSTATUS(status), libc.msgget(0, 0o600), flush=True)
";
    if !Command::new("python3").args(["-c", "import ctypes"]).output().is_ok_and(|o| o.status.success()) {
        eprintln!("not tested: there is no python3");
        return;
    }
    prints(&["python3", "-c", script], "0 5\n7 1\n");
}

#[test]
fn util_linux_goes_in_and_out() {
    let script = "ipcmk -Q; unshare --ipc sh -c 'ipcmk -Q; ipcmk -Q; echo $$; sleep 0.1; exec sleep 20' >$0 & \
                  while [ $(wc -l <$0) -lt 3 ]; do sleep 0.01; done; pid=$(tail -1 $0); sleep 0.3; \
                  nsenter --ipc -t $pid ipcmk -Q; nsenter --ipc=/proc/$pid/ns/ipc ipcmk -Q; nsenter --ipc -t $$ ipcmk -Q; kill $pid";
    let file = env::temp_dir().join(format!("ipcspace-unshare-{}", process::id()));
    std::fs::write(&file, "").unwrap();
    let expected = [0, 2, 3, 1].map(|id| format!("Message queue id: {id}\n")).concat();
    for run in [kernels as fn(&[&str]) -> Option<Output>, |command| Some(ours(command))] {
        std::fs::write(&file, "").unwrap();
        if let Some(output) = run(&["sh", "-c", script, file.to_str().unwrap()]) {
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
        }
    }
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_namespace_ends_with_its_last_process() {
    let script = format!(
        "{PERL} unshared(NEWIPC); system('echo $IPCSPACE_SOCKET'); fork or (close STDOUT, close STDERR, sleep 1, _exit(0));"
    );
    let output = ours(&["perl", "-e", &script]);
    assert!(output.status.success(), "{output:?}");
    // The child that it left goes on for a second, and so does the namespace.
    let socket = Path::new(std::str::from_utf8(&output.stdout).unwrap().trim_end());
    assert!(socket.exists(), "{socket:?}");
    let start = Instant::now();
    while socket.exists() {
        assert!(start.elapsed() < WATCHDOG, "{socket:?}");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(start.elapsed() > Duration::from_millis(300), "it ended before its last process");
    assert!(!socket.parent().unwrap().exists());
}

#[test]
fn who_has_given_up_its_user_may_not_leave() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not tested: only root can become another user");
        return;
    }
    let script = "queue(); $> = 65534; say_(unshared(NEWIPC)); $> = 0; say_(unshared(NEWIPC));";
    perl(script, "Operation not permitted\nok\n");
}

#[test]
fn there_is_a_limit_of_depth() {
    let script = format!(
        "{PERL} my $n = 0; while ((my $r = unshared(NEWIPC)) eq 'ok') {{ last if ++$n > 40 }} say_($n, \"$!\");"
    );
    let output = ours(&["perl", "-e", &script]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "32 No space left on device\n", "{output:?}");
}

#[test]
fn a_process_of_several_threads_stays_where_it_is() {
    let script = "import ctypes, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.msgget(0, 0o600)
thread = threading.Thread(target=lambda: time.sleep(0.3))
thread.start()
print(libc.unshare(0x08000000), ctypes.get_errno(), libc.msgget(0, 0o600))
thread.join()
time.sleep(0.1)
print(libc.unshare(0x08000000), libc.msgget(0, 0o600))
";
    if !Command::new("python3").args(["-c", "import ctypes"]).output().is_ok_and(|o| o.status.success()) {
        eprintln!("not tested: there is no python3");
        return;
    }
    let output = ours(&["python3", "-c", script]);
    let expected = format!("-1 {} 1\n0 0\n", nix::libc::EINVAL);
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
}

/// lsns(8) asks each descriptor of a namespace whose it is, and shows nothing at all where one does not answer.
#[test]
fn lsns_lists_what_it_lists_elsewhere() {
    let list = |command: &mut Command| {
        let output = command.args(["lsns", "--noheadings", "--output", "TYPE"]).output().unwrap();
        let types: std::collections::BTreeSet<String> =
            String::from_utf8_lossy(&output.stdout).lines().map(|line| line.trim().to_owned()).collect();
        (output.status.code(), types)
    };
    let expected = list(&mut Command::new("env"));
    assert!(expected.1.contains("ipc"), "{expected:?}");
    assert_eq!(list(Command::new(IPCSPACE).args(["run", "--"])), expected);
    assert_eq!(list(Command::new(IPCSPACE).args(["run", "--", "unshare", "--ipc"])), expected);
}
