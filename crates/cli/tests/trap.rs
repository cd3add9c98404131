//! Programs that no library can be preloaded into, by the trap; and the trap beside the library.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

const IPCSPACE: &str = env!("CARGO_BIN_EXE_ipcspace");

/// The peer with the dynamic loader, and without.
fn peers() -> &'static [PathBuf; 2] {
    static PEERS: OnceLock<[PathBuf; 2]> = OnceLock::new();
    PEERS.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trap/peer.c");
        ["dynamic", "static"].map(|kind| {
            let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("trap-peer-{kind}"));
            let mut compile = Command::new("cc");
            compile.args(["-O1", "-Wall", "-Werror", "-pthread", "-o"]).arg(&program).arg(&source);
            compile.args((kind == "static").then_some("-static"));
            assert!(compile.status().expect("a C compiler").success(), "{compile:?}");
            program
        })
    })
}

/// Runs a shell script by a door.
fn run(door: &str, script: &str) -> Output {
    let [dynamic, fixed] = peers();
    let mut command = Command::new(IPCSPACE);
    command.args(["run", "--kill", "--door", door, "--", "sh", "-c", script]);
    command.env("ipcspace", IPCSPACE).env("dynamic", dynamic).env("static", fixed).output().unwrap()
}

fn text(output: &Output) -> &str {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn programs_of_either_kind_are_in_one_namespace() {
    for door in ["trap", "auto"] {
        for (server, client) in [("dynamic", "static"), ("static", "dynamic"), ("static", "static")] {
            let output = run(door, &format!("${server} serve & ${client} ask; wait"));
            assert_eq!(text(&output), "21 twice is 42, attached 1\n", "{door}: {server}, {client}");
        }
    }
}

#[test]
fn no_message_is_lost_under_signals() {
    for threads in [1, 3] {
        let output = run("trap", &format!("$static storm {threads} 600"));
        assert_eq!(text(&output), "600 of 600 once, 0 odd errors, status 0\n", "{threads} threads");
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
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(run("trap", "kill -USR1 $$").status.signal(), Some(10));
}

#[test]
fn a_second_trap_is_refused_and_the_library_goes_on_without() {
    let output = run("trap", "$ipcspace run --door trap -- true");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.starts_with("ipcspace: no trap: "), "{stderr}");
    let output = run("trap", "$ipcspace run --door auto -- sh -c '$dynamic serve & $dynamic ask; wait'");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.stdout, b"21 twice is 42, attached 1\n", "{stderr}");
    assert!(stderr.contains("warning"), "{stderr}");
}
