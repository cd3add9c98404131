//! Programs of the machine in namespaces of ours: ipcmk makes objects, `ipcspace ls` and `rm` show and remove them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, process, thread};

const IPCSPACE: &str = env!("CARGO_BIN_EXE_ipcspace");

/// Runs a shell script in a namespace; `$ipcspace` is the command.
fn run(options: &[&str], script: &str) -> Output {
    let mut command = Command::new(IPCSPACE);
    command.arg("run").args(options).args(["--", "sh", "-c", script]);
    command.env("ipcspace", IPCSPACE).output().unwrap()
}

fn text(output: &Output) -> &str {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

fn name(of: &str) -> String {
    format!("test-{of}-{}", process::id())
}

const QUEUES: &str = "$ipcspace ls -q -r --noheadings -o ID,PERMS,MSGS,USEDBYTES";

#[test]
fn objects_are_made_shown_and_removed() {
    let output =
        run(&[], &format!("ipcmk -Q; ipcmk -Q -p 0600; ipcmk -S 3; {QUEUES}; $ipcspace rm -q 0; {QUEUES}"));
    let expected = "Message queue id: 0\nMessage queue id: 1\nSemaphore id: 0\n\
                    0 rw-r--r-- 0 0B\n1 rw------- 0 0B\n1 rw------- 0 0B\n";
    assert_eq!(text(&output), expected);
}

#[test]
fn ipcrm_removes_what_ipcmk_made() {
    let output = run(&[], &format!("ipcmk -Q; ipcmk -S 2; ipcrm -q 0 -s 0; {QUEUES}; $ipcspace ls -s"));
    assert_eq!(text(&output), "Message queue id: 0\nSemaphore id: 0\n");
}

#[test]
fn two_perl_programs_exchange_messages() {
    let send = "perl -MIPC::SysV=:all -e 'msgsnd(msgget(7, IPC_CREAT|0600), pack(q(l! a*), 5, q(hello)), 0) or die $!'";
    let receive = "perl -MIPC::SysV=:all -e 'msgrcv(msgget(7, IPC_CREAT|0600), $m, 100, 0, 0) or die $!; \
                   ($t, $x) = unpack q(l! a*), $m; print qq($t $x\\n)'";
    let output = run(&[], &format!("{receive} & {send}; wait; {QUEUES}"));
    assert_eq!(text(&output), "5 hello\n0 rw------- 0 0B\n");
}

#[test]
fn nothing_reaches_the_kernel() {
    let count = || fs::read_to_string("/proc/sysvipc/msg").unwrap().lines().count();
    let before = count();
    text(&run(&[], "ipcmk -Q; ipcmk -Q; ipcmk -Q"));
    assert_eq!(count(), before);
    // A second namespace is as new.
    assert_eq!(text(&run(&[], "ipcmk -Q")), "Message queue id: 0\n");
}

#[test]
fn the_summary_shows_limits_and_use() {
    let output = run(
        &["--sysctl", "kernel.msgmnb=12345", "--sysctl", "kernel/msgmni = 7"],
        "ipcmk -Q >/dev/null; ipcmk -S 4 >/dev/null; $ipcspace ls -b -r -o RESOURCE,LIMIT,USED --noheadings",
    );
    let expected = "MSGMNI 7 1\nMSGMAX 8192 -\nMSGMNB 12345 -\n\
                    SHMMNI 4096 0\nSHMALL 18446744073692774399 0\nSHMMAX 18446744073692774399 -\nSHMMIN 1 -\n\
                    SEMMNI 32000 1\nSEMMNS 1024000000 4\nSEMMSL 32000 -\nSEMOPM 500 -\nSEMVMX 32767 -\n\
                    MQUMNI 256 0\nMQUMAX 8192 -\nMQUMNB 10 -\n";
    assert_eq!(text(&output), expected);
}

/// Opens POSIX queues: /one with a message of five bytes, and /two of which a process that goes on is to be told by a signal.
const POSIX_QUEUES: &str = r#"
    exec 3< <(python3 -c '
import ctypes, os, time
libc = ctypes.CDLL(None)
open = lambda name, messages: libc.mq_open(name, os.O_CREAT | os.O_RDWR, 0o640, (ctypes.c_long * 8)(0, messages, 3000))
libc.mq_send(open(b"/one", 3), b"hello", 5, 7)
libc.mq_notify(open(b"/two", 1), (ctypes.c_int * 16)(0, 0, 10, 0))
print(os.getpid(), flush=True)
time.sleep(60)')
    read pid <&3
"#;

#[test]
fn posix_queues_are_listed_and_removed() {
    let script = format!(
        r#"{POSIX_QUEUES}
        list() {{ $ipcspace ls -Q -r --noheadings -o NAME,PERMS,USEDBYTES,MSGS,MAXMSGS,MSGSIZE,NOTIFY,NPID | sed "s/$pid/PID/"; }}
        list; $ipcspace ls -g -Q -r --noheadings -o RESOURCE,USED
        $ipcspace ls -Q -J -o NAME,MSGS,NOTIFY
        $ipcspace rm -v --posix-mqueue /one --posix-mqueue two; list
        for bad in one a/b .; do $ipcspace rm --posix-mqueue $bad 2>&1; done
        ipcmk -Q >/dev/null
        python3 -c 'import ctypes, os; ctypes.CDLL(None).mq_open(b"/thr\xff", os.O_CREAT | os.O_RDWR, 0o600, None)'
        $ipcspace rm -v --all=pmsg; $ipcspace ls -q -r --noheadings -o MSGS; kill $pid"#
    );
    let expected = "/one rw-r----- 5B 1 3 2.9K  0\n/two rw-r----- 0B 0 1 2.9K signal\\x2010 PID\n\
        MQUMNI 2\nMQUMAX -\nMQUMNB -\n\
        {\n   \"posixmqueues\": [\n      {\n         \"name\": \"/one\",\n         \"msgs\": \"1\",\n         \"notify\": null\n      },{\n\
        \x20        \"name\": \"/two\",\n         \"msgs\": \"0\",\n         \"notify\": \"signal 10\"\n      }\n   ]\n}\n\
        removing POSIX message queue '/one'\nremoving POSIX message queue '/two'\n\
        ipcspace: there is no POSIX message queue with the name /one\n\
        ipcspace: there is no POSIX message queue with the name /a/b\n\
        ipcspace: there is no POSIX message queue with the name /.\n\
        removing POSIX message queue '/thr\u{fffd}'\n0\n";
    assert_eq!(text(&run(&[], &format!("bash <<'END'\n{script}\nEND"))), expected);
}

#[test]
fn a_limit_out_of_range_is_named() {
    for (setting, parts) in [
        ("kernel.msgmni=40000", ["kernel.msgmni", "40000"]),
        ("kernel.msgmax=-1", ["kernel.msgmax", "-1"]),
        ("kernel.sem=many", ["kernel.sem", "many"]),
        ("kernel.nonsense=1", ["kernel.nonsense", "kernel.msgmnb"]),
    ] {
        let output = run(&["--sysctl", setting], "echo ran");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(125), &b""[..]), "{setting}");
        assert!(parts.iter().all(|part| said.contains(part)), "{setting}: {said}");
    }
}

#[test]
fn a_named_namespace_can_be_joined_and_ends_with_its_last_process() {
    let name = name("join");
    let mut first = Command::new(IPCSPACE)
        .args(["run", "-n", &name, "--", "sh", "-c", "ipcmk -Q >/dev/null; echo made; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut made = [0; 5];
    std::io::Read::read_exact(first.stdout.as_mut().unwrap(), &mut made).unwrap();
    assert_eq!(
        text(&run(&["-n", &name], &format!("ipcmk -Q; {QUEUES}"))),
        "Message queue id: 1\n0 rw-r--r-- 0 0B\n1 rw-r--r-- 0 0B\n"
    );
    let list = || Command::new(IPCSPACE).args(["ls", "-q", "-r", "-o", "ID", "-N", &name]).output().unwrap();
    assert_eq!(text(&list()), "ID\n0\n1\n");
    let refused = run(&["-n", &name, "--sysctl", "kernel.msgmni=5"], "true");
    assert!(
        refused.status.code() == Some(125)
            && String::from_utf8_lossy(&refused.stderr).contains("exists already")
    );
    drop(first.stdin.take());
    assert!(first.wait().unwrap().success());
    let gone = list();
    assert!(
        gone.status.code() == Some(1)
            && String::from_utf8_lossy(&gone.stderr).contains("there is no namespace")
    );
}

#[test]
fn a_guest_keeps_the_namespace_after_its_founder() {
    let name = name("guest");
    let founder = "setsid $ipcspace run -n $0 -- sh -c 'ipcmk -Q >/dev/null; sleep 1; ipcmk -Q >/dev/null' </dev/null >/dev/null 2>&1 &
                   while ! $ipcspace ls -N $0 >/dev/null 2>&1; do sleep 0.01; done";
    let start = Instant::now();
    // The guest starts while the founder's command runs, and sees both queues after it has ended.
    let script = format!(
        "{founder}; exec $ipcspace run -n $0 -- sh -c 'sleep 2; $ipcspace ls -q -r --noheadings -o ID'"
    );
    let output = Command::new("sh").args(["-c", &script, &name]).env("ipcspace", IPCSPACE).output().unwrap();
    assert_eq!(text(&output), "0\n1\n");
    assert!(start.elapsed() > Duration::from_secs(2));
    until("the namespace ends", || !exists(&name));
}

fn exists(name: &str) -> bool {
    Command::new(IPCSPACE).args(["ls", "-N", name]).output().unwrap().status.success()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn many_founders_of_one_name_share_one_namespace() {
    let name = name("race");
    let run = || {
        let script = "ipcmk -Q; sleep 1";
        let mut command = Command::new(IPCSPACE);
        command.args(["run", "-n", &name, "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap()
    };
    let running: Vec<_> = (0..8).map(|_| run()).collect();
    let outputs = running.into_iter().map(|child| child.wait_with_output().unwrap());
    let mut ids: Vec<String> = outputs.map(|output| text(&output).to_owned()).collect();
    ids.sort();
    let expected: Vec<String> = (0..8).map(|id| format!("Message queue id: {id}\n")).collect();
    assert_eq!(ids, expected);
}

#[test]
fn a_bad_name_is_refused() {
    for name in ["a/b", "..", "", "a b"] {
        let output = run(&["-n", name], "echo ran");
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(125), &b""[..]), "{name}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("name"), "{output:?}");
    }
}

#[test]
fn a_namespace_within_a_namespace_is_another() {
    let output = run(&[], &format!("ipcmk -Q; $ipcspace run -- sh -c '{QUEUES}; ipcmk -Q'; {QUEUES}"));
    assert_eq!(text(&output), "Message queue id: 0\nMessage queue id: 0\n0 rw-r--r-- 0 0B\n");
}

#[test]
fn an_object_outlives_the_process_that_made_it_and_dies_with_the_last() {
    let script = "ipcmk -Q >/dev/null; (sleep 0.3; $ipcspace ls -q -r --noheadings -o ID) & exit 0";
    // The pipe ends with the last process.
    assert_eq!(text(&run(&[], script)), "0\n");
}

/// Runs a command whose broker is killed; returns the directory that it leaves.
fn left_over(options: &[&str]) -> PathBuf {
    let socket = run(options, "echo $IPCSPACE_SOCKET; kill -9 $(ps -o ppid= $$)");
    let directory = Path::new(text(&socket).trim_end()).parent().unwrap().to_owned();
    assert!(directory.exists());
    directory
}

#[test]
fn what_a_killed_broker_left_is_in_nobodys_way() {
    let name = name("killed");
    let left = left_over(&["-n", &name]);
    assert_eq!(text(&run(&["-n", &name], "ipcmk -Q")), "Message queue id: 0\n");
    assert!(!left.exists());
    // It may have died before it made the socket.
    let left = left_over(&["-n", &name]);
    fs::remove_file(left.join("socket")).unwrap();
    assert_eq!(text(&run(&["-n", &name], "ipcmk -Q")), "Message queue id: 0\n");
}

#[test]
fn what_killed_brokers_left_is_swept_and_what_lives_is_not() {
    let living = name("living");
    let mut server = Command::new(IPCSPACE)
        .args(["run", "-n", &living, "--", "sh", "-c", "ipcmk -Q >/dev/null; echo made; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(server.stdout.as_mut().unwrap(), &mut [0; 5]).unwrap();
    let names = ["swept", "swept-2"].map(name);
    let sweep_by_run = || text(&run(&[], "")).to_owned();
    let sweep_by_ls = || exists("nosuch").to_string();
    for sweep in [&sweep_by_run as &dyn Fn() -> String, &sweep_by_ls] {
        let left = [left_over(&[]), left_over(&["-n", &names[0]]), left_over(&["-n", &names[1]])];
        // Another test may sweep at this moment, in which case nobody need do it a second time.
        until("all is swept", || {
            sweep();
            left.iter().all(|directory| !directory.exists())
        });
        assert!(exists(&living));
    }
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
}

#[test]
fn nothing_is_swept_that_is_only_being_made() {
    // Brokers begin and are killed at any moment, while others make namespaces of the same names.
    let names = [name("begin-1"), name("begin-2")];
    let script = "for n in 1 2 3 4 5 6 7 8 9 10; do for name; do timeout -s KILL 0.0$n $ipcspace run -n $name -- sleep 0.05; done; done";
    let killers: Vec<_> = (0..2)
        .map(|_| {
            let mut shell = Command::new("sh");
            shell.args(["-c", script, "sh"]).args(&names).env("ipcspace", IPCSPACE);
            shell.stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for _ in 0..20 {
        for name in &names {
            assert!(text(&run(&["-n", name], "ipcmk -Q")).starts_with("Message queue id: "));
        }
    }
    for mut killer in killers {
        killer.wait().unwrap();
    }
}

#[test]
fn an_unknown_namespace_is_named() {
    let output = Command::new(IPCSPACE).args(["ls", "-N", "nosuch"]).output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("there is no namespace 'nosuch'"), "{message}");
}

#[test]
fn who_is_attached_goes_on_when_the_broker_is_killed() {
    let script = "perl -MIPC::SysV=:all -e '$q = msgget(IPC_PRIVATE, 0600); msgsnd($q, pack(q(l! a*), 1, q(a)), 0) or die; \
                  kill KILL => getppid; select undef, undef, undef, 0.1; \
                  msgrcv($q, $m, 9, 0, 0) or die; msgsnd($q, pack(q(l! a*), 2, q(b)), 0) or die; \
                  $s = msgget(IPC_PRIVATE, 0600); print defined $s ? qq(works) : qq(fails: $!)'; ";
    let output = run(&[], &format!("exec {script}"));
    assert_eq!(text(&output), "works");
}

/// Blocks of 512 bytes that the namespace's file has: its broker is the command's parent, and holds it more than once.
const RESIDENT: &str = r#"for fd in /proc/$PPID/fd/*; do
    case $(readlink $fd) in /memfd:ipcspace*) stat -L -c '%b' $fd;; esac; done | sort -u"#;

#[test]
fn memory_goes_back_when_all_objects_are_gone() {
    let fill = r#"perl -e '
        use IPC::SysV qw(:all);
        for my $n (1..400) {
            my $q = msgget(IPC_PRIVATE, 0600); my $s = semget(IPC_PRIVATE, 50, 0600);
            for my $m (1..20) { msgsnd($q, pack("l! a*", $m, "x" x (50 * $m)), 0) or die "$!"; }
            semop($s, pack("s3", $n % 50, 1, SEM_UNDO)) or die "$!";
        }
        for (1..300) { if (fork() == 0) { msgget(1, 0); exit } wait }'"#;
    let remove = "$ipcspace rm --all; sleep 2";
    let output = run(&[], &format!("{fill}; {RESIDENT}; {remove}; {RESIDENT}"));
    let bytes: Vec<u64> = text(&output).lines().map(|line| line.parse::<u64>().unwrap() * 512).collect();
    let [full, empty] = bytes[..] else { panic!("one file each time: {bytes:?}") };
    assert!(full > 4 << 20, "{full} bytes were there");
    assert!(empty <= 2 << 20, "{empty} bytes are left");
}
