//! What is wrong in a command line is named, with what to do about it, and nothing has been changed.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::{env, fs, process};

const IPCSPACE: &str = env!("CARGO_BIN_EXE_ipcspace");

fn ipcspace(arguments: &[&str]) -> Output {
    let mut command = Command::new(IPCSPACE);
    // A directory in it that this user can't search would make any missing program EACCES.
    command.args(arguments).env("PATH", "/usr/bin:/bin");
    command.env_remove("IPCSPACE_SOCKET").env_remove("LD_PRELOAD").output().unwrap()
}

/// It printed nothing but an error with these parts, and ended with this code.
fn refused(output: &Output, code: i32, parts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} in: {said}");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(code), &b""[..]), "{said}");
}

const LONG: &str = "a-name-of-thirty-three-characters";

#[test]
fn what_is_wrong_with_a_run_is_named_before_anything_runs() {
    let cases: [(&[&str], i32, &[&str]); 19] = [
        (&[], 125, &["<CMD>", "--help"]),
        (&["--bogus"], 125, &["'--bogus'", "Usage"]),
        (&["-n"], 125, &["--name <NAME>"]),
        (&["-n", LONG], 125, &[LONG, "at most 32"]),
        (&["-n", "a/b"], 125, &["'a/b'", "use letters, digits"]),
        (&["-n", ".."], 125, &["'..'", "not beginning with '.'"]),
        (&["-n", ""], 125, &["''", "use letters"]),
        (
            &["--sysctl", "kernel.msgmnb"],
            125,
            &["'kernel.msgmnb'", "expected KEY=VALUE", "kernel.msgmnb=65536"],
        ),
        (&["--sysctl", "kernel.bogus=1"], 125, &["no sysctl 'kernel.bogus'", "there are: kernel.msgmax"]),
        (&["--sysctl", "vm.swappiness=1"], 125, &["no sysctl 'vm.swappiness'"]),
        (&["--sysctl", "kernel.msgmni=32769"], 125, &["kernel.msgmni", "'32769'", "0 to 32768"]),
        (&["--sysctl", "kernel.msgmax=-1"], 125, &["kernel.msgmax", "'-1'", "0 to 2147483647"]),
        (&["--sysctl", "kernel.msgmnb=99999999999"], 125, &["'99999999999'", "0 to 2147483647"]),
        (&["--sysctl", "kernel.sem=1 2 3 32769"], 125, &["kernel.sem", "then 0 to 32768"]),
        (&["--sysctl", "kernel.shmmax=much"], 125, &["'much'", "0 to 18446744073709551615"]),
        (&["--sysctl", "kernel.shm_rmid_forced=2"], 125, &["'2'", "0 to 1"]),
        (&["--sysctl", "kernel.msg_next_id="], 125, &["''", "0 to 2147483647"]),
        (&["--sysctl", "kernel.msgmni=7", "--sysctl", "kernel.shmmni=-7"], 125, &["kernel.shmmni", "'-7'"]),
        (&["--kill=yes"], 125, &["'--kill'"]),
    ];
    for (options, code, parts) in cases {
        let command: &[&str] = if options.is_empty() { &[] } else { &["--", "echo", "ran"] };
        // A name without a value takes the next word, whatever it is.
        let command = if options == ["-n"] { &[] } else { command };
        refused(&ipcspace(&[&["run"], options, command].concat()), code, parts);
    }
}

#[test]
fn a_command_that_cannot_be_run_is_named() {
    let script = env::temp_dir().join(format!("ipcspace-script-{}", process::id()));
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let script = script.to_str().unwrap();
    let long = "x".repeat(300);
    for (command, code, why) in [
        ("/etc/passwd", 126, "Permission denied"),
        ("/", 126, "Permission denied"),
        ("/etc/passwd/program", 126, "Not a directory"),
        (&long, 126, "File name too long"),
        ("no-such-program", 127, "No such file or directory"),
        ("/no/such/program", 127, "No such file or directory"),
        ("", 127, "No such file or directory"),
        (script, 127, "No such file or directory"),
    ] {
        let output = ipcspace(&["run", "--", command]);
        refused(&output, code, &[&format!("ipcspace: cannot run '{command}': {why}\n")]);
    }
    fs::remove_file(script).unwrap();
}

#[test]
fn what_is_wrong_with_a_look_or_a_removal_is_named() {
    let cases: [(&[&str], i32, &[&str]); 20] = [
        (&["bogus"], 2, &["'bogus'", "Usage"]),
        (&["ls", "-N", "a/b"], 2, &["'a/b'", "use letters"]),
        (&["rm", "-N", "a/b", "-q", "0"], 2, &["'a/b'", "use letters"]),
        (&["ls", "-N", LONG], 2, &[LONG, "at most 32"]),
        (
            &["ls", "-N", "no-such"],
            1,
            &["no namespace 'no-such'", "'ipcspace run -n no-such -- CMD' makes it"],
        ),
        (&["rm", "-N", "no-such", "-q", "0"], 1, &["no namespace 'no-such'", "makes it"]),
        (&["ls"], 1, &["no namespace", "--namespace", "ipcspace run"]),
        (&["rm", "-q", "0"], 1, &["no namespace", "--namespace", "ipcspace run"]),
        (&["rm", "-N", "no-such"], 1, &["there is no namespace"]),
        (&["rm", "-v"], 2, &["required", "--queue-id"]),
        (&["rm", "-q", "x"], 2, &["'x'", "--queue-id"]),
        (&["rm", "-q", "99999999999"], 2, &["'99999999999'", "--queue-id"]),
        (&["rm", "-Q", "0"], 2, &["private", "by identifier"]),
        (&["rm", "-S", "0x123456789"], 2, &["'0x123456789'", "--semaphore-key"]),
        (&["rm", "-M", "key"], 2, &["'key'", "--shmem-key"]),
        (&["rm", "--all=files"], 2, &["'files'", "shm, msg, sem"]),
        (&["ls", "-q", "-s"], 2, &["--queues", "--semaphores", "Usage"]),
        (&["ls", "-i", "3"], 2, &["--queues", "required"]),
        (&["ls", "-q", "-i", "x"], 2, &["'x'", "--id"]),
        (&["ls", "-q", "-o", "COLOUR", "-N", "no-such"], 1, &["no namespace 'no-such'"]),
    ];
    for (arguments, code, parts) in cases {
        refused(&ipcspace(arguments), code, parts);
    }
}

#[test]
fn objects_that_are_not_there_are_named_and_the_others_stay() {
    let script = "ipcmk -Q >/dev/null; ipcmk -S 1 >/dev/null; ipcmk -M 1 >/dev/null
        for what in '-q 1' '-s 1' '-m 1' '-q -1' '-Q 0x55' '-S 66' '-M -7'; do \"$ipcspace\" rm $what; echo $?; done
        for what in -q -s -m; do \"$ipcspace\" ls $what -i 1; echo $?; \"$ipcspace\" ls $what -r --noheadings -o ID; done";
    let output = Command::new(IPCSPACE)
        .args(["run", "--", "sh", "-c", script])
        .env("ipcspace", IPCSPACE)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("{}{}", "1\n".repeat(3) + "2\n" + &"1\n".repeat(3), "1\n0\n".repeat(3))
    );
    let said = String::from_utf8_lossy(&output.stderr);
    for part in [
        "no message queue with the id 1\n",
        "no semaphore set with the id 1\n",
        "no shared memory segment with the id 1\n",
        "no message queue with the key 0x00000055\n",
        "no semaphore set with the key 0x00000042\n",
        "no shared memory segment with the key 0xfffffff9\n",
        "no message queue with the identifier 1\n",
        "no semaphore set with the identifier 1\n",
        "no shared memory segment with the identifier 1\n",
    ] {
        assert!(said.contains(part), "{part} in: {said}");
    }
}

/// The command where every user can execute it.
fn for_everybody() -> PathBuf {
    let copy = env::temp_dir().join(format!("ipcspace-for-everybody-{}", process::id()));
    fs::copy(IPCSPACE, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

#[test]
fn another_users_namespace_is_out_of_reach() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not tested: only root can start a process of another user");
        return;
    }
    let copy = for_everybody();
    let name = format!("test-theirs-{}", process::id());
    let mut server = Command::new(IPCSPACE)
        .args(["run", "-n", &name, "--", "sh", "-c", "ipcmk -Q >/dev/null; echo $IPCSPACE_SOCKET; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut socket = String::new();
    let mut lines = std::io::BufReader::new(server.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut lines, &mut socket).unwrap();
    let other = |socket: Option<&str>, arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy).args(arguments);
        command.env_remove("LD_PRELOAD").env_remove("IPCSPACE_SOCKET").env_remove("XDG_RUNTIME_DIR");
        command.envs(socket.map(|socket| ("IPCSPACE_SOCKET", socket))).output().unwrap()
    };
    // A name is one's own: theirs are others.
    refused(&other(None, &["ls", "-N", &name]), 1, &["no namespace", &name]);
    refused(&other(None, &["rm", "-N", &name, "-q", "0"]), 1, &["no namespace", &name]);
    let count = other(None, &["run", "-n", &name, "--", "sh", "-c", "ipcmk -Q"]);
    assert_eq!((count.stdout.as_slice(), count.stderr.as_slice()), (&b"Message queue id: 0\n"[..], &b""[..]));
    // And who finds out where it is has the rights of others there.
    let socket = socket.trim_end();
    let seen = other(Some(socket), &["ls", "-q", "-r", "--noheadings", "-o", "ID"]);
    assert_eq!((seen.stdout.as_slice(), seen.stderr.as_slice()), (&b"0\n"[..], &b""[..]));
    for arguments in [&["rm", "-q", "0"][..], &["rm", "--all"]] {
        refused(&other(Some(socket), arguments), 1, &["0 is not yours", "owner"]);
    }
    refused(&other(Some(socket), &["sysctl", "-w", "kernel.msgmni=1"]), 1, &["permission denied"]);
    let left = ipcspace(&["ls", "-q", "-r", "--noheadings", "-o", "ID", "-N", &name]);
    assert_eq!(left.stdout, b"0\n", "{left:?}");
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
    fs::remove_file(copy).unwrap();
}

#[test]
fn a_namespace_whose_broker_was_killed_is_named_as_such() {
    let script = "kill -9 $(ps -o ppid= $$); sleep 0.1; \"$ipcspace\" ls -q";
    let output = Command::new(IPCSPACE)
        .args(["run", "--", "sh", "-c", script])
        .env("ipcspace", IPCSPACE)
        .output()
        .unwrap();
    refused(&output, 1, &["nobody serves this namespace any more", "broker"]);
}
