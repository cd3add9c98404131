//! `ipcspace serve`, `exec`, `ns` and `rm --namespace`: a namespace that is kept, and what ends it.

mod served;

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use ipcspace::{Key, MsgType, Namespace, Select};
use nix::sys::signal::Signal;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use served::{IPCSPACE, Served, WATCHDOG, activated, name, until};

fn ipcspace(arguments: &[&str]) -> Output {
    Command::new(IPCSPACE).args(arguments).env("ipcspace", IPCSPACE).output().unwrap()
}

fn text(output: &Output) -> &str {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn serve(name: &str, options: &[&str]) -> Served {
    Served::by(Command::new(IPCSPACE).arg("serve").args(options).arg(name))
}

fn shell(name: &str, script: &str) -> Output {
    ipcspace(&["exec", name, "--", "sh", "-c", script])
}

const QUEUES: &str = "$ipcspace ls -q -r --noheadings -o ID";

#[test]
fn objects_stay_while_nobody_is_there_and_go_with_the_server() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let name = name(signal.as_str());
        let mut served = serve(&name, &["--sysctl", "kernel.msgmni=3"]);
        assert_eq!(text(&ipcspace(&["run", "-n", &name, "--", "ipcmk", "-Q"])), "Message queue id: 0\n");
        assert_eq!(text(&shell(&name, &format!("ipcmk -Q; {QUEUES}"))), "Message queue id: 1\n0\n1\n");
        let third = shell(&name, "ipcmk -Q && ! ipcmk -Q");
        assert!(third.status.success(), "the limit is 3: {third:?}");
        served.signal(signal);
        assert_eq!(served.0.wait().unwrap().code(), Some(0));
        let gone = shell(&name, "echo ran");
        assert_eq!((gone.status.code(), gone.stdout.as_slice()), (Some(125), &b""[..]));
        assert!(said(&gone).contains(&format!("there is no namespace '{name}'")), "{gone:?}");
    }
}

#[test]
fn exec_ends_as_its_command_does() {
    let name = name("exec");
    let _served = serve(&name, &[]);
    assert_eq!(shell(&name, "exit 7").status.code(), Some(7));
    assert_eq!(ipcspace(&["exec", &name, "--", "/nonexistent"]).status.code(), Some(127));
    assert_eq!(ipcspace(&["exec", &name]).status.code(), Some(125));
}

#[test]
fn a_name_that_is_taken_is_refused_and_stays_whose_it_is() {
    let name = name("taken");
    let served = serve(&name, &[]);
    let second = ipcspace(&["serve", &name]);
    assert_eq!(second.status.code(), Some(1));
    assert!(said(&second).contains(&format!("there is a namespace '{name}' already")), "{second:?}");
    assert_eq!(text(&shell(&name, "ipcmk -Q")), "Message queue id: 0\n");
    // One that has ended leaves the name to the next.
    drop(served);
    let _next = serve(&name, &[]);
    assert_eq!(text(&shell(&name, "ipcmk -Q")), "Message queue id: 0\n");
}

#[test]
fn bad_names_and_limits_are_refused() {
    for (arguments, code, part) in [
        (vec!["serve", "a/b"], 2, "can't name"),
        (vec!["exec", "a/b", "--", "true"], 125, "can't name"),
        (vec!["serve", "--sysctl", "kernel.msgmni=40000", "test-limit"], 1, "kernel.msgmni"),
    ] {
        let output = ipcspace(&arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(said(&output).contains(part), "{output:?}");
    }
    assert!(said(&shell("test-limit", "true")).contains("there is no namespace"));
}

#[test]
fn a_namespace_that_is_removed_wakes_its_sleepers_and_gives_no_more() {
    let name = name("removed");
    let mut served = serve(&name, &[]);
    let script = "$q = msgget(IPC_PRIVATE, 0600); $s = shmget(IPC_PRIVATE, 4096, 0600); shmread($s, $x, 0, 1); \
                  msgrcv($q, $m, 9, 0, 0); print $!{EIDRM} ? 1 : 0; \
                  print defined msgget(IPC_PRIVATE, 0600) || !$!{ENOSPC} ? 0 : 1; \
                  print defined shmget(IPC_PRIVATE, 4096, 0600) ? 0 : 1; \
                  print shmread($s, $x, 0, 1) ? 0 : 1";
    let sleeper = Command::new(IPCSPACE)
        .args(["exec", &name, "--", "perl", "-MErrno", "-MIPC::SysV=:all", "-e", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let objects = || text(&ipcspace(&["ns", "-r", "--noheadings", "-o", "NAME,OBJECTS"])).to_owned();
    until("both are made", || objects().lines().any(|line| line == format!("{name} 2")));
    // As long as it takes to fall asleep, usually.
    thread::sleep(Duration::from_millis(50));
    assert_eq!(text(&ipcspace(&["rm", "-N", &name])), "");
    assert_eq!(served.0.wait().unwrap().code(), Some(0));
    assert_eq!(text(&sleeper.wait_with_output().unwrap()), "1111");
    let gone = ipcspace(&["rm", "--namespace", &name]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(said(&gone).contains("there is no namespace"), "{gone:?}");
}

#[test]
fn objects_in_a_namespace_are_removed_without_it() {
    let name = name("some");
    let _served = serve(&name, &[]);
    assert_eq!(text(&shell(&name, "ipcmk -Q; ipcmk -Q")).lines().count(), 2);
    assert_eq!(text(&ipcspace(&["rm", "-N", &name, "-q", "0"])), "");
    assert_eq!(text(&shell(&name, QUEUES)), "1\n");
}

#[test]
fn the_namespace_of_a_run_ends_with_its_last_process_only() {
    let name = name("run");
    let script = format!("ipcmk -Q >/dev/null; ! $ipcspace rm -N {name} && {QUEUES}");
    let output = ipcspace(&["run", "-n", &name, "--", "sh", "-c", &script]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"0\n"[..]), "{output:?}");
    assert!(said(&output).contains("it ends with its last process"), "{output:?}");
}

#[test]
fn ns_lists_what_is_there() {
    let name = name("listed");
    let served = serve(&name, &[]);
    text(&shell(
        &name,
        "ipcmk -Q >/dev/null; ipcmk -Q >/dev/null; ipcmk -S 3 >/dev/null; ipcmk -M 4096 >/dev/null",
    ));
    let list = |arguments: &[&str]| text(&ipcspace(&[&["ns"], arguments].concat())).to_owned();
    let json: serde_json::Value = serde_json::from_str(&list(&[
        "--json",
        "-o",
        "NAME,QUEUES,SEMAPHORES,SHMEMS,OBJECTS,PID,UID,SERVED",
    ]))
    .unwrap();
    let found = json["namespaces"].as_array().unwrap().iter().find(|row| row["name"] == name.as_str());
    let expected = serde_json::json!({
        "name": name, "queues": "2", "semaphores": "1", "shmems": "1", "objects": "4", "pid": served.0.id().to_string(),
        "uid": nix::unistd::geteuid().to_string(), "served": "yes",
    });
    assert_eq!(found, Some(&expected), "{json}");
    let plain = list(&[]);
    assert!(plain.starts_with("NAME") && plain.contains(&format!("serve {name}")), "{plain}");
    // One without a name is listed where it is asked from within, with the one process that has used it.
    let script = format!(
        "ipcmk -Q >/dev/null; sleep 0.1; exec {IPCSPACE} ns -r --noheadings -o SERVED,NPROCS,PID,NAME"
    );
    let output = ipcspace(&["run", "--", "sh", "-c", &script]);
    assert!(text(&output).lines().any(|line| line.starts_with("no 0 ") && line.ends_with(' ')), "{output:?}");
    let unknown = ipcspace(&["ns", "-o", "COLOUR"]);
    assert!(unknown.status.code() == Some(2) && said(&unknown).contains("COLOUR"), "{unknown:?}");
    // Where something else listens, the others are listed.
    let alien = crate::name("alien");
    let directory = listening(&alien);
    fs::DirBuilder::new().recursive(true).mode(0o711).create(&directory).unwrap();
    let path = directory.join("socket");
    for (kind, words) in
        [(SockType::Stream, "no socket of ipcspace's"), (SockType::SeqPacket, "another version of ipcspace")]
    {
        let listener = socket_at(&path, kind);
        let answers = thread::spawn(move || {
            for _ in 0..if kind == SockType::Stream { 0 } else { 2 } {
                let link = socket::accept(listener.as_raw_fd()).unwrap();
                let _ = socket::recv(link, &mut [0; 64], socket::MsgFlags::empty());
                let answer = [0x6970_63ff_u32, 0, 0, 0].map(u32::to_ne_bytes).concat();
                let _ = socket::send(link, &answer, socket::MsgFlags::MSG_NOSIGNAL);
                nix::unistd::close(link).unwrap();
            }
            listener
        });
        let output = ipcspace(&["ns", "-o", "NAME", "-r"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).lines().any(|line| line == name), "{output:?}");
        let (named, joined) = (path.display().to_string(), ipcspace(&["exec", &alien, "--", "true"]));
        for output in [&output, &joined] {
            assert!(said(output).contains(&named) && said(output).contains(words), "{output:?}");
        }
        drop(answers.join());
        fs::remove_file(&path).unwrap();
    }
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_supervisor_is_told_when_it_can_be_joined_and_when_it_ends() {
    let name = name("notify");
    let path = env::temp_dir().join(format!("{name}.notify"));
    let supervisor = UnixDatagram::bind(&path).unwrap();
    supervisor.set_read_timeout(Some(WATCHDOG)).unwrap();
    let served = Served::by(Command::new(IPCSPACE).args(["serve", &name]).env("NOTIFY_SOCKET", &path));
    // What it is to store is what `killed.rs` is about.
    let hear = || loop {
        let mut told = [0; 100];
        let length = supervisor.recv(&mut told).unwrap();
        if !told.starts_with(b"FDSTORE") {
            break String::from_utf8_lossy(&told[..length]).into_owned();
        }
    };
    assert_eq!(hear(), "READY=1\n");
    served.signal(Signal::SIGTERM);
    assert_eq!(hear(), "STOPPING=1\n");
    fs::remove_file(path).unwrap();
}

/// Where a supervisor's sockets for this user are to be.
fn listening(name: &str) -> PathBuf {
    let uid = nix::unistd::geteuid();
    let ours = match env::var_os("XDG_RUNTIME_DIR") {
        _ if uid.is_root() => "/run/ipcspace".into(),
        Some(runtime) => PathBuf::from(runtime).join("ipcspace"),
        None => format!("/tmp/ipcspace-{uid}").into(),
    };
    ours.join("listening").join(name)
}

fn socket_at(path: &Path, kind: SockType) -> OwnedFd {
    let socket = socket::socket(AddressFamily::Unix, kind, SockFlag::empty(), None).unwrap();
    socket::bind(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    socket::listen(&socket, Backlog::new(16).unwrap()).unwrap();
    socket
}

/// `serve` with these sockets as a supervisor passes them on.
fn at_sockets(name: &str, sockets: &[OwnedFd]) -> Command {
    activated(name, &sockets.iter().map(|socket| ("ipcspace.socket", socket)).collect::<Vec<_>>())
}

#[test]
fn it_serves_at_the_sockets_of_a_supervisor_and_leaves_them() {
    let name = name("activated");
    let directory = listening(&name);
    fs::DirBuilder::new().recursive(true).mode(0o711).create(&directory).unwrap();
    let (asked, given) = (directory.join("socket"), directory.join("socket.given"));
    let sockets = [socket_at(&given, SockType::SeqPacket), socket_at(&asked, SockType::SeqPacket)];
    // Who joins before there is a server waits for it; the name is taken all the same.
    let early = Command::new(IPCSPACE)
        .args(["run", "-n", &name, "--", "ipcmk", "-Q"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let taken = ipcspace(&["serve", &name]);
    assert!(said(&taken).contains("already"), "{taken:?}");
    let mut served = Served::by(&mut at_sockets(&name, &sockets));
    assert_eq!(text(&early.wait_with_output().unwrap()), "Message queue id: 0\n");
    let segment = "ipcmk -M 4096 >/dev/null; perl -MIPC::SysV=:all -e 'shmwrite(0, q(x), 0, 1) or die; shmread(0, $x, 0, 1) or die; print $x'";
    assert_eq!(text(&shell(&name, segment)), "x");
    served.signal(Signal::SIGTERM);
    assert_eq!(served.0.wait().unwrap().code(), Some(0));
    assert!(asked.exists() && given.exists());
    // The next one that is begun is new.
    let next = Served::by(&mut at_sockets(&name, &sockets));
    assert_eq!(text(&shell(&name, "ipcmk -Q")), "Message queue id: 0\n");
    drop(next);
    // One that others can write to is nobody's.
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    let refused = at_sockets(&name, &sockets).output().unwrap();
    assert!(refused.status.code() == Some(1) && said(&refused).contains("others can write"), "{refused:?}");
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn sockets_that_are_not_a_namespaces_are_refused() {
    let name = name("sockets");
    let directory = env::temp_dir().join(&name);
    fs::create_dir(&directory).unwrap();
    let at = |file: &str, kind| socket_at(&directory.join(file), kind);
    for sockets in [
        vec![at("socket", SockType::SeqPacket)],
        vec![at("a", SockType::SeqPacket), at("b", SockType::SeqPacket)],
        vec![at("c", SockType::Stream), at("c.given", SockType::Stream)],
    ] {
        let refused = at_sockets(&name, &sockets).output().unwrap();
        assert!(refused.status.code() == Some(1) && said(&refused).contains("SOCK_SEQPACKET"), "{refused:?}");
    }
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn calls_in_a_namespace_that_has_been_ended_are_errors_that_say_which() {
    let name = name("ended");
    let mut served = serve(&name, &[]);
    let ns = Namespace::open(&name).unwrap();
    let queue = ns.queue(Key::PRIVATE).open().unwrap();
    let set = ns.semaphores(1).open().unwrap();
    let jobs = ns.mqueue("/jobs").create(true).size(2, 8).open().unwrap();
    let board = ns.shared::<AtomicU8>().open().unwrap();
    served.signal(Signal::SIGTERM);
    assert!(served.0.wait().unwrap().success());
    let all = [
        ("msgsnd", queue.send(MsgType::FIRST, b"x")),
        ("msgrcv", queue.recv(Select::Any, &mut []).map(drop)),
        ("msgctl", queue.status().map(drop)),
        ("msgget", ns.queue(Key::PRIVATE).open().map(drop)),
        ("semop", set.acquire(&[(0, 1)]).map(drop)),
        ("semget", ns.semaphores(1).open().map(drop)),
        ("shmget", ns.shared::<AtomicU8>().open().map(drop)),
        ("mq_getattr", jobs.attributes().map(drop)),
        ("namespace", Namespace::builder("another").create().map(drop)),
    ];
    for (call, result) in all {
        let error = result.unwrap_err();
        assert_eq!(error.call(), call, "{error}");
        assert!(error.to_string().starts_with(&format!("{call}: ")), "{error}");
    }
    assert_eq!(ns.mqueue("/more").create(true).open().unwrap_err().call(), "mq_open");
    // What it has mapped stays its own.
    board.store(7, Relaxed);
    assert_eq!(
        Namespace::open(&name).unwrap_err().to_string(),
        format!("namespace: there is no namespace '{name}'")
    );
}

/// Who waits for a server that says nothing can be told to end, and its command is not begun later.
#[test]
fn who_waits_to_join_can_be_ended() {
    let name = name("stopped");
    let served = serve(&name, &[]);
    served.signal(Signal::SIGSTOP);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        // A shell starts what is in the background with SIGINT ignored.
        let mut waiting = Command::new("env")
            .args(["--default-signal=INT,TERM", IPCSPACE, "exec", &name, "--", "echo", "ran"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(300));
        let begun = Instant::now();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(waiting.id().cast_signed()), signal).unwrap();
        let status = waiting.wait().unwrap();
        assert_eq!(status.signal(), Some(signal as i32), "{status:?}");
        assert!(begun.elapsed() < Duration::from_secs(3), "after {:?}", begun.elapsed());
        assert_eq!(std::io::read_to_string(waiting.stdout.unwrap()).unwrap(), "");
    }
    // One that is killed begins nothing either.
    let mut killed = Command::new(IPCSPACE)
        .args(["exec", &name, "--", "sh", "-c", "sleep 0.1; echo ran"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(300));
    killed.kill().unwrap();
    killed.wait().unwrap();
    served.signal(Signal::SIGCONT);
    assert_eq!(std::io::read_to_string(killed.stdout.unwrap()).unwrap(), "");
    assert_eq!(text(&shell(&name, "echo ran")), "ran\n");
}

/// What a supervisor that has stopped leaves of its sockets is in nobody's way.
#[test]
fn a_directory_that_nobody_listens_in_takes_no_name() {
    let name = name("deserted");
    let directory = listening(&name);
    fs::DirBuilder::new().recursive(true).mode(0o711).create(&directory).unwrap();
    drop(serve(&name, &[]));
    assert_eq!(text(&ipcspace(&["run", "-n", &name, "--", "ipcmk", "-Q"])), "Message queue id: 0\n");
    // Sockets without anybody at them.
    drop([
        socket_at(&directory.join("socket"), SockType::SeqPacket),
        socket_at(&directory.join("socket.given"), SockType::SeqPacket),
    ]);
    drop(serve(&name, &[]));
    assert_eq!(text(&ipcspace(&["run", "-n", &name, "--", "ipcmk", "-Q"])), "Message queue id: 0\n");
    fs::remove_dir_all(directory).unwrap();
}
