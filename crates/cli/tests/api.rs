//! Programs that use the crate `ipcspace`, started by `ipcspace run`: in that namespace, in one of their own beside it, or in another one by name.

use std::env;
use std::process::Command;

use ipcspace::{Key, MsgType, Namespace, Select};

const IPCSPACE: &str = env!("CARGO_BIN_EXE_ipcspace");
const DOORS: [&str; 3] = ["auto", "preload", "trap"];
const INSIDE: &str = "IPCSPACE_TEST_INSIDE";

/// Runs this test again, inside: by `run` at a door, which is passed on.
fn run_inside(test: &str, door: &str, arguments: &[&str]) {
    let status = Command::new(IPCSPACE)
        .args(["run", "--door", door])
        .args(arguments)
        .arg("--")
        .arg(env::current_exe().unwrap())
        .args([test, "--exact"])
        .env(INSIDE, door)
        .status()
        .unwrap();
    assert!(status.success(), "{test}, --door {door}: {status}");
}

#[test]
fn a_program_is_in_the_namespace_of_run() {
    const TEST: &str = "a_program_is_in_the_namespace_of_run";
    let Ok(door) = env::var(INSIDE) else {
        return DOORS.iter().for_each(|door| run_inside(TEST, door, &["--sysctl", "kernel.msgmax=77"]));
    };
    let ns = Namespace::current().unwrap();
    assert_eq!(ns.limit(ipcspace::Limit::MsgMax).unwrap(), 77);
    let queue = ns.queue(Key::new(5)).create_new(true).open().unwrap();
    queue.send(MsgType::FIRST, b"here").unwrap();
    // Another program of the same namespace.
    let shown = Command::new(IPCSPACE).args(["ls", "-q", "--noheadings", "-o", "KEY"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&shown.stdout).trim(), "0x00000005", "{door}");
    let jobs = ns.mqueue("/jobs").create(true).open().unwrap();
    jobs.send(b"tidy up", 3).unwrap();
    assert_eq!(jobs.recv_timeout(&mut [0; 8192], std::time::Duration::from_secs(9)).unwrap(), (7, 3));
}

#[test]
fn a_program_has_a_namespace_beside_that_of_run() {
    const TEST: &str = "a_program_has_a_namespace_beside_that_of_run";
    if env::var(INSIDE).is_err() {
        return ["auto", "preload"].iter().for_each(|door| run_inside(TEST, door, &[]));
    }
    let outer = Namespace::current().unwrap();
    let inner = Namespace::private().unwrap();
    for (ns, text) in [(outer, b"outer"), (inner, b"inner")] {
        let queue = ns.queue(Key::new(5)).create_new(true).open().unwrap();
        queue.send(MsgType::FIRST, text).unwrap();
    }
    for (ns, expected) in [(inner, b"inner"), (outer, b"outer")] {
        let mut text = [0; 5];
        ns.queue(Key::new(5)).open().unwrap().try_recv(Select::Any, &mut text).unwrap();
        assert_eq!(&text, expected);
    }
}

#[test]
fn that_of_run_opened_by_its_name_is_the_same() {
    const TEST: &str = "that_of_run_opened_by_its_name_is_the_same";
    let Ok(door) = env::var(INSIDE) else {
        let name = |door: &str| format!("api-{door}-{}", std::process::id());
        return DOORS.iter().for_each(|door| run_inside(TEST, door, &["--name", &name(door)]));
    };
    let socket = env::var("IPCSPACE_SOCKET").unwrap();
    let name = socket.rsplit('/').nth(1).unwrap();
    let queue = Namespace::current().unwrap().queue(Key::new(5)).create_new(true).open().unwrap();
    let named = Namespace::open(name).unwrap();
    assert_eq!(named.queue(Key::new(5)).open().unwrap(), queue, "{door}");
}
