//! `ipcspace ls` and `ipcspace rm` on the kernel's own objects, in an IPC namespace of the kernel: compared with lsipc and ipcrm.

use std::process::{Command, Output};

use serde_json::Value;

const IPCSPACE: &str = env!("CARGO_BIN_EXE_ipcspace");
/// Segments, queues and sets of different modes, keys, contents and times.
const OBJECTS: &str = r#"
    ipcmk -Q -p 0644; ipcmk -Q -p 0600; ipcmk -S 5 -p 0660; ipcmk -S 100
    perl -e 'use IPC::SysV qw(:all);
        my $q = msgget(0x1234, IPC_CREAT | 0666); my $b;
        msgsnd($q, pack("l! a*", 1, "hello world"), 0); msgsnd($q, pack("l! a*", 1, "x" x 3000), 0);
        msgrcv($q, $b, 5000, 0, 0);
        my $s = semget(0x77, 3, IPC_CREAT | 0640); semop($s, pack("s3", 0, 1, 0));
        msgget(-5, IPC_CREAT); semget(IPC_PRIVATE, 2, IPC_CREAT | 0111);
        my $m = shmget(0x88, 5000, IPC_CREAT | 0640); shmread($m, $b, 0, 1);
        my $l = shmget(IPC_PRIVATE, 70000, IPC_CREAT | 0600); shmctl($l, 11, 0); shmget(-7, 1, IPC_CREAT);'
    ipcrm -q 1
"#;

/// Runs a script in an IPC namespace of the kernel that nobody else is in.
fn in_kernel_namespace(script: &str) -> Output {
    let mut unshare = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let preamble =
        format!("exec 3>&1 >/dev/null; {OBJECTS} exec >&3; ours() {{ {IPCSPACE} \"$@\" --kernel; }};");
    unshare.args(["--ipc", "bash", "-c", &format!("{preamble} {script}")]).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn assert_same(options: &str) {
    // Again where a minute has ended between the two.
    for attempt in 1.. {
        let output = text(&in_kernel_namespace(&format!("lsipc {options}; echo =====; ours ls {options}")));
        let (theirs, ours) = output.split_once("=====\n").unwrap();
        assert!(!theirs.is_empty(), "{options}");
        if theirs == ours || attempt == 3 {
            assert_eq!(ours, theirs, "{options}");
            return;
        }
    }
}

#[test]
fn tables_are_those_of_lsipc() {
    for kind in ["-q", "-s"] {
        for options in
            ["", "-t", "-c", "-c -t", "--noheadings", "-t --time-format=full", "-t --time-format iso", "-b"]
        {
            assert_same(&format!("{kind} {options}"));
        }
    }
    for options in ["", "-t", "-c", "-c -t", "--noheadings", "-t --time-format=full", "-b", "-o +CUSER,size"]
    {
        assert_same(&format!("-m {options}"));
    }
    assert_same("-s -P");
    assert_same("--semaphores --numeric-perms --output +CUSER,cgroup,USER,Group,UID");
    assert_same("-q -o msgs,id,KEY,Ctime");
}

#[test]
fn other_formats_are_those_of_lsipc() {
    for kind in ["-m", "-q", "-s"] {
        for options in
            ["-J", "-e", "-r", "-n", "-J -t", "-e -t", "-r -t", "-n -t", "-e -y -c", "-r --noheadings"]
        {
            assert_same(&format!("{kind} {options}"));
        }
    }
}

#[test]
fn details_are_those_of_lsipc() {
    for id in [0, 2] {
        for options in ["", "-t", "-c", "-J", "-e", "-l", "-r", "-n", "-o ID,KEY", "--time-format=short"] {
            assert_same(&format!("-q -i {id} {options}"));
            assert_same(&format!("-s -i {id} {options}"));
            assert_same(&format!("-m -i {id} {options}"));
        }
    }
}

#[test]
fn the_summary_is_that_of_lsipc() {
    let output = text(&in_kernel_namespace("lsipc -J; echo =====; ours ls -J"));
    let (theirs, ours) = output.split_once("=====\n").unwrap();
    let [mut theirs, ours]: [Value; 2] = [theirs, ours].map(|json| serde_json::from_str(json).unwrap());
    let rows = theirs["ipclimits"].as_array_mut().unwrap();
    // lsipc miscounts the semaphores, and counts pages by the bytes of all segments together.
    for (resource, used) in [("SEMMNS", "110"), ("SHMALL", "21")] {
        rows.iter_mut().find(|row| row["resource"] == resource).unwrap()["used"] = used.into();
    }
    assert_eq!(ours, theirs);
    for options in ["-e", "-r", "-g -y -e", "-b -r"] {
        let script = format!(
            "lsipc {options}; echo =====; ours ls {options}) | (sed '/^SEMMNS/s/ 110 / 20 /; /SEMMNS/s/\"110\"/\"20\"/;
                /^SHMALL/s/ 21 / 18 /; /SHMALL/s/\"21\"/\"18\"/'"
        );
        let output = text(&in_kernel_namespace(&format!("({script})")));
        let (theirs, ours) = output.split_once("=====\n").unwrap();
        assert!(theirs == ours && theirs.contains("SEMVMX"), "{options}: {ours}{theirs}");
    }
}

#[test]
fn an_empty_namespace_has_empty_tables() {
    for (options, expected) in [("-q", ""), ("-s -e", ""), ("-s -J", "{\n   \"semaphores\": [\n\n   ]\n}\n")]
    {
        assert_eq!(text(&in_kernel_namespace(&format!("ipcrm -a; ours ls {options}"))), expected);
    }
}

#[test]
fn rm_removes_what_it_is_told() {
    let left = "ours ls -q -r -o id --noheadings; ours ls -s -r -o id --noheadings";
    for (arguments, expected) in [
        ("-q 0 -S 0x77", "2\n3\n0\n1\n3\n"),
        ("-Q 0xfffffffb -Q 4660 -s 0 -s 1", "0\n2\n3\n"),
        ("-Q -5 --semaphore-id=3", "0\n2\n0\n1\n2\n"),
        ("-m 0 -M 0xfffffff9 --all=msg", "0\n1\n2\n3\n"),
        ("-asem", "0\n2\n3\n"),
        ("-a", ""),
    ] {
        let arguments = arguments.replace("-asem", "-a=sem");
        assert_eq!(
            text(&in_kernel_namespace(&format!("ours rm {arguments} || echo failed; {left}"))),
            expected
        );
    }
}

#[test]
fn rm_removes_segments() {
    for (arguments, expected) in [
        ("-m 0 -m 1", "2\n"),
        ("-M 0x88 --shmem-key -7", "1\n"),
        ("--all=shm", ""),
        ("-a", ""),
        ("--all=sem", "0\n1\n2\n"),
    ] {
        let script = format!("ours rm {arguments} || echo failed; ours ls -m -r -o id --noheadings");
        assert_eq!(text(&in_kernel_namespace(&script)), expected, "{arguments}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let says = |script: &str, code: i32, message: &str| {
        let output = in_kernel_namespace(script);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(message), "{script}: {said}");
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(code), &b""[..]), "{script}");
    };
    says("ours ls -q -i 77", 1, "no message queue with the identifier 77");
    says("ours ls -q -o KEY,BOGUS", 2, "unknown column: BOGUS");
    says("ours ls -s -o MSGS", 2, "unknown column: MSGS");
    says("ours ls -q -s", 2, "cannot be used with");
    says("ours ls -J -r", 2, "cannot be used with");
    says("ours ls -i 3", 2, "required");
    says("ours ls -q --time-format=foo", 2, "[possible values: short, full, iso]");
    says("ours rm -q 77", 1, "no message queue with the id 77");
    says("ours rm -m 77", 1, "no shared memory segment with the id 77");
    says("ours rm -S 0x99", 1, "no semaphore set with the key 0x00000099");
    says("ours rm -Q 0", 2, "private");
    says("ours rm -Q zero", 2, "invalid");
    // What is right is done nevertheless.
    says("ours rm -q 77 -q 0; test $? = 1 && ours ls -q -i 0", 1, "no message queue with the identifier 0");
}

#[test]
fn outside_of_a_namespace_nothing_is_listed_or_removed() {
    for arguments in [&["ls"][..], &["ls", "-q"], &["rm", "-a"]] {
        let mut command = Command::new(IPCSPACE);
        let output =
            command.args(arguments).env_remove("IPCSPACE_SOCKET").env_remove("LD_PRELOAD").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("--namespace") && said.contains("ipcspace run"), "{said}");
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    }
}

#[test]
fn an_unknown_namespace_is_named() {
    let output = Command::new(IPCSPACE).args(["ls", "-N", "no-such-namespace"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("there is no namespace 'no-such-namespace'"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}
