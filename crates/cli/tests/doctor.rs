//! `ipcspace doctor` where everything works, and where something doesn't.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::{env, fs, process};

use serde_json::Value;

const IPCSPACE: &str = env!("CARGO_BIN_EXE_ipcspace");

fn bash(script: &str) -> Output {
    Command::new("bash")
        .args(["-c", script])
        .env("IPCSPACE", IPCSPACE)
        .env_remove("LD_PRELOAD")
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The line of a check.
fn of<'a>(name: &str, text: &'a str) -> &'a str {
    let is_it = |line: &&str| line.get(6..).is_some_and(|rest| rest.starts_with(name));
    text.lines().find(is_it).unwrap_or_else(|| panic!("nothing of {name} in {text}"))
}

#[test]
fn it_says_that_all_is_well() {
    let output = bash("$IPCSPACE doctor");
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    for name in ["kernel", "library", "memory", "processes", "files", "run"] {
        assert!(!of(name, &text).starts_with("no "), "{text}");
    }
    assert!(of("library", &text).ends_with("/libipcspace_preload.so"), "{text}");
}

#[test]
fn json_says_the_same() {
    let plain = text(&bash("$IPCSPACE doctor"));
    let json: Value = serde_json::from_str(&text(&bash("$IPCSPACE doctor --json"))).unwrap();
    assert_eq!(json["works"], true);
    let checks = json["checks"].as_array().unwrap();
    assert_eq!(checks.len(), plain.lines().count());
    for check in checks {
        let line = of(check["name"].as_str().unwrap(), &plain);
        assert_eq!(line.split_whitespace().next(), check["state"].as_str(), "{line}");
    }
}

#[test]
fn limits_are_told() {
    let text = text(&bash("ulimit -l 0; ulimit -v 1000000; ulimit -n 40; $IPCSPACE doctor"));
    assert_eq!(
        of("locked memory", &text),
        "note  locked memory  ulimit -l is 0: SHM_LOCK is EPERM without CAP_IPC_LOCK"
    );
    assert!(
        of("address space", &text).starts_with("note  address space  ulimit -v is 1000000 KiB"),
        "{text}"
    );
    assert!(of("descriptors", &text).starts_with("note  descriptors    ulimit -Hn is 40"), "{text}");
    assert!(of("run", &text).starts_with("ok "), "{text}");
}

#[test]
fn within_a_namespace_it_works_too() {
    let output = bash("$IPCSPACE run -- $IPCSPACE doctor");
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(of("kernel's IPC", &text).contains("within a namespace"), "{text}");
}

/// A directory with a program `sh` that no loader loads.
fn static_shell() -> PathBuf {
    let directory = env::temp_dir().join(format!("ipcspace-doctor-{}", process::id()));
    fs::create_dir(&directory).unwrap();
    let mut elf = vec![0; 64];
    elf[..5].copy_from_slice(b"\x7fELF\x02");
    let shell = directory.join("sh");
    fs::write(&shell, elf).unwrap();
    assert!(Command::new("chmod").arg("755").arg(&shell).status().unwrap().success());
    directory
}

#[test]
fn a_shell_that_cannot_be_served_is_named() {
    let directory = static_shell();
    let output = bash(&format!("PATH={} $IPCSPACE doctor", directory.display()));
    fs::remove_dir_all(&directory).unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(of("run", &text).starts_with("no ") && of("run", &text).contains("statically linked"), "{text}");
}

fn in_mount_namespace(script: &str) -> Output {
    let mut unshare = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let script = format!("exec 9<{IPCSPACE}; ipcspace() {{ /proc/self/fd/9 \"$@\"; }}; {script}");
    unshare.args(["--mount", "bash", "-c", &script]).env_remove("LD_PRELOAD").output().unwrap()
}

#[test]
fn without_dev_null_nothing_is_started() {
    let output =
        in_mount_namespace("mount -t tmpfs none /dev; ipcspace run -- echo ran; echo $?; ipcspace doctor");
    let (said, errors) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(said.starts_with("125\n"), "{said}");
    assert_eq!(errors, "ipcspace: /dev/null: No such file or directory (os error 2)\n");
    assert!(of("files", &said).starts_with("no ") && output.status.code() == Some(1), "{said}");
}

#[test]
fn without_a_place_for_the_library_nothing_works() {
    let output = in_mount_namespace(
        "for at in /run /tmp /var/tmp /dev/shm; do mount -t tmpfs -o noexec none $at; done; ipcspace doctor",
    );
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(of("library", &text).contains("/dev/shm/ipcspace-0: mounted noexec"), "{text}");
    assert!(
        of("run", &text).starts_with("no    run            found no place for the preload library"),
        "{text}"
    );
}
