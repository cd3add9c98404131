//! `ipcspace sysctl` beside sysctl(8), and `ipcspace.toml`.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::{env, fs, process};

const IPCSPACE: &str = env!("CARGO_BIN_EXE_ipcspace");

/// A directory that is removed with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = env::temp_dir().join(format!("ipcspace-sysctl-{name}-{}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(arguments: &[&str], config: &Scratch) -> Output {
    let mut command = Command::new(IPCSPACE);
    command.args(arguments).env("ipcspace", IPCSPACE).env("XDG_CONFIG_HOME", &config.0);
    command.output().unwrap()
}

/// A script in a new namespace, where `s` is ours.
fn ours(script: &str) -> Output {
    let script = format!("s() {{ {IPCSPACE} sysctl \"$@\"; }}; {script}");
    Command::new(IPCSPACE).args(["run", "--", "sh", "-c", &script]).output().unwrap()
}

/// The same, where it is the system's, in a new IPC namespace of the kernel; `None` where that can't be.
fn systems(script: &str) -> Option<Output> {
    let possible = |program: &str| {
        let output = Command::new("unshare").args(["--ipc", "sh", "-c", program]).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !possible("PATH=$PATH:/usr/sbin:/sbin sysctl kernel.msgmnb") {
        eprintln!("not tested: this needs sysctl(8), and root");
        return None;
    }
    let script = format!("export PATH=$PATH:/usr/sbin:/sbin; s() {{ sysctl \"$@\"; }}; {script}");
    Some(Command::new("unshare").args(["--ipc", "sh", "-c", &script]).output().unwrap())
}

/// What it says, whoever says it.
fn said(output: &Output) -> (String, String) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stderr =
        stderr.lines().map(|line| line.split_once(": ").map_or(line, |(_, what)| what).to_owned() + "\n");
    (String::from_utf8_lossy(&output.stdout).into_owned(), stderr.collect())
}

#[test]
fn it_says_what_sysctl_says() {
    let scratch = Scratch::new("same");
    // sysctl(8) complains of the syntax of all lines first.
    let file = scratch.file(
        "file",
        "# comment\n; comment\n\n  kernel.msgmnb = 17000\nkernel/msgmni=20\ngarbage line\nkernel.nosuch = 1\n\
         kernel.msgmax = -5\nkernel.sem = 1 2 3 4   \nkernel.shmall=\n",
    );
    let patterns = scratch.file(
        "patterns",
        "kernel.msgm*=31\nkernel.msgmni=32\n-kernel.msgmax\nkernel.shmmni=77\nkernel/shm?ax=1000\nkernel.nosuch*=4\n",
    );
    let latin = scratch.file("latin", b"# caf\xe9\nkernel.msgmnb = 17001\n");
    for script in [
        "s kernel.msgmnb; s kernel/msgmnb; s -n kernel.msgmnb kernel.msgmax; s -b kernel.sem; s -q kernel.shmmni".to_owned(),
        "s kernel.msgmnb=70000; s -w kernel/msgmnb=7; s kernel.msgmnb=0x10; s kernel.msgmnb; s -n kernel.msgmnb=4; s -q kernel.msgmnb=3; s kernel.msgmnb".to_owned(),
        "s 'kernel.msgmnb = 5'; s kernel.msgmnb; s kernel.msgmax=; s kernel.msgmax=x; echo $?".to_owned(),
        "s kernel.msgmax=-1; echo $?; s kernel.sem='1 2 3 400000'; echo $?; s kernel.sem; s kernel.sem='7 8'; s kernel.sem".to_owned(),
        "s kernel.nosuch; echo $?; s -e kernel.nosuch; echo $?; s kernel.nosuch=1; echo $?; s -e kernel.nosuch=1 kernel.msgmni; echo $?".to_owned(),
        "s -w kernel.msgmnb; echo $?; s -w 2>&1 | head -n 1 | cut -d: -f2; s -q -n 2>/dev/null; echo $?".to_owned(),
        "s kernel.auto_msgmni=1; s kernel.auto_msgmni=2; s kernel.shm_rmid_forced=1; s kernel.shm_rmid_forced".to_owned(),
        format!("s -p {file}; echo $?; s kernel.msgmnb kernel.msgmni kernel.sem kernel.msgmax kernel.shmall"),
        format!("s -p {patterns}; echo $?; s kernel.msgmax kernel.msgmnb; s -p {patterns} -r msgmni; s -r msgm kernel.shmall kernel.msgmni kernel.shmmni=5"),
        format!("s -a -r 'kernel.msgm|shmmni'; s -n -a --pattern '^kernel.sem$'; s -p {latin}; echo $?"),
        format!("s -q -p {file}; s -p {file}.not; echo $?; echo kernel.msgmnb=9 | s -p -; s kernel.msgmnb"),
    ] {
        let Some(expected) = systems(&script) else { return };
        assert_eq!(said(&ours(&script)), said(&expected), "{script}");
    }
}

#[test]
fn all_are_shown_and_the_files_say_the_same() {
    let output = ours("s -a; s kernel | cmp - /dev/fd/3 3<<E\n$(s -a | grep ^kernel)\nE\n");
    let (shown, complaints) = said(&output);
    assert!(output.status.success() && complaints.is_empty(), "{output:?}");
    let names: Vec<&str> = shown.lines().map(|line| line.split_once(" = ").unwrap().0).collect();
    assert!(
        names.is_sorted() && names.contains(&"kernel.sem") && names.contains(&"kernel.msg_next_id"),
        "{shown}"
    );
    // What one writes, the other reads. Options of ours have no files.
    for name in names.into_iter().filter(|name| !name.starts_with("ipcspace.")) {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        let script =
            format!("s -n {name}; cat {file}; s -q {name}=1; cat {file}; echo 0 >{file}; s -n {name}");
        let (text, complaints) = said(&ours(&script));
        let values: Vec<&str> = text.lines().map(|line| line.split('\t').next().unwrap()).collect();
        let [first, second, ones, zeros] = values[..] else { panic!("{name}: {text} {complaints}") };
        let one = if name == "kernel.auto_msgmni" { "0" } else { "1" };
        // Of POSIX queues, some can't be 1, and none can be 0.
        if name.starts_with("kernel.") {
            assert_eq!((first, ones, zeros), (second, one, "0"), "{name}: {complaints}");
        }
    }
}

#[test]
fn a_namespace_is_named_and_what_fails_in_silence_does() {
    let scratch = Scratch::new("named");
    let name = format!("test-sysctl-{}", process::id());
    let set = scratch.file("set", "-kernel.nosuch = 1\n-kernel.msgmax = -1\nkernel.msgmni = 3\n");
    let script = format!(
        "ipcmk -Q >/dev/null; $ipcspace sysctl -N {name} -p {set} && cat /proc/sys/kernel/msgmni; $ipcspace sysctl --names -a | grep ^kernel | head -1"
    );
    let output = run(&["run", "-n", &name, "--", "sh", "-c", &script], &scratch);
    assert_eq!(said(&output), ("kernel.msgmni = 3\n3\nkernel.auto_msgmni\n".into(), String::new()));
    for (arguments, part) in [
        (vec!["sysctl", "-N", &name, "-a"], "there is no namespace"),
        (vec!["sysctl", "-a"], "no namespace of ipcspace"),
    ] {
        let output = run(&arguments, &scratch);
        assert!(output.status.code() == Some(1) && said(&output).1.contains(part), "{output:?}");
    }
}

#[test]
fn an_ordinary_user_needs_no_right_of_the_host_and_a_stranger_only_reads() {
    if !nix::unistd::geteuid().is_root() {
        let output = ours("s -w kernel.msgmnb=5 kernel.msg_next_id=7");
        assert_eq!(said(&output), ("kernel.msgmnb = 5\nkernel.msg_next_id = 7\n".into(), String::new()));
        return;
    }
    // Who was root and is another user now, and has a copy that it may execute.
    let scratch = Scratch::new("stranger");
    let copy = scratch.0.join("ipcspace");
    fs::copy(IPCSPACE, &copy).unwrap();
    let user = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let copy = copy.display();
    let output = ours(&format!(
        "ipcmk -Q >/dev/null; {user} {copy} sysctl kernel.msgmnb; {user} {copy} sysctl kernel.msgmnb=5; {user} {copy} ls -q -r --noheadings -o ID,OWNER"
    ));
    let expected = ("kernel.msgmnb = 16384\n0 root\n", "permission denied on key \"kernel.msgmnb\"\n");
    assert_eq!(said(&output), (expected.0.into(), expected.1.into()));
}

#[test]
fn the_file_of_defaults_is_for_new_namespaces_and_the_command_line_has_the_last_word() {
    let scratch = Scratch::new("defaults");
    let name = format!("test-defaults-{}", process::id());
    scratch.file(
        "ipcspace/ipcspace.toml",
        format!("[sysctl]\nkernel.msgmnb = 11\nkernel.msgmni = 12\n[namespace.{name}.sysctl]\nkernel.msgmnb = 13\n"),
    );
    let show = ["--", IPCSPACE, "sysctl", "-n", "kernel.msgmnb", "kernel.msgmni"];
    let values = |options: &[&str]| said(&run(&[&["run"], options, &show].concat(), &scratch));
    assert_eq!(values(&[]), ("11\n12\n".into(), String::new()));
    assert_eq!(values(&["--sysctl", "kernel.msgmni=5"]), ("11\n5\n".into(), String::new()));
    assert_eq!(values(&["-n", &name]), ("13\n12\n".into(), String::new()));
}

#[test]
fn a_file_of_defaults_that_is_wrong_is_named_with_its_line() {
    let scratch = Scratch::new("wrong");
    for (text, line, part) in [
        ("[sysctl]\nkernel.msgmnbb = 1\n", 2, "'kernel.msgmnbb'"),
        ("[sysctl]\n\nkernel.msgmni = 40000\n", 3, "'40000'"),
        ("[limits]\n", 1, "'limits'"),
    ] {
        let file = scratch.file("ipcspace/ipcspace.toml", text);
        for (arguments, code) in [(vec!["run", "--", "echo", "ran"], 125), (vec!["serve", "test-wrong"], 1)] {
            let output = run(&arguments, &scratch);
            assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(code), &b""[..]));
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains(&format!("{file}:{line}: ")) && said.contains(part), "{said}");
        }
    }
}
