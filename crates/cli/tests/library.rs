//! Where `run` puts the preload library, in a mount namespace whose places for it are empty, unfit or spoilt.

use std::process::{Command, Output};

const IPCSPACE: &str = env!("CARGO_BIN_EXE_ipcspace");

/// Runs a script as root of a mount namespace; `places` are options of the file systems at /run, /tmp, /var/tmp and /dev/shm.
fn in_mount_namespace(places: [&str; 4], script: &str) -> Output {
    let mut unshare = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let mounts = ["/run", "/tmp", "/var/tmp", "/dev/shm"].iter().zip(places);
    let mounts: String =
        mounts.map(|(at, options)| format!("mount -t tmpfs -o {options} none {at} || exit 99; ")).collect();
    // The executable may lie below one of these places itself.
    let preamble =
        format!("umask 022; exec 9<{IPCSPACE}; {mounts} run() {{ /proc/self/fd/9 run -- \"$@\"; }}; ");
    unshare.args(["--mount", "bash", "-c", &(preamble + script)]).env_remove("LD_PRELOAD").output().unwrap()
}

const SHOW: &str = "run sh -c 'echo ${LD_PRELOAD%/lib/*}'; ";

fn place(places: [&str; 4], prepare: &str) -> String {
    let output = in_mount_namespace(places, &format!("{prepare} {SHOW}"));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn the_best_place_that_is_fit_is_taken() {
    assert_eq!(place(["exec"; 4], ""), "/run/ipcspace");
    assert_eq!(place(["noexec", "exec", "exec", "exec"], ""), "/tmp/ipcspace-0");
    assert_eq!(place(["noexec", "ro", "exec", "exec"], ""), "/var/tmp/ipcspace-0");
    assert_eq!(place(["noexec", "noexec", "ro", "exec"], ""), "/dev/shm/ipcspace-0");
}

#[test]
fn directories_that_others_can_write_to_are_refused() {
    for spoilt in [
        "mkdir -m 0770 /run/ipcspace/lib",
        "mkdir -m 0757 /run/ipcspace/lib",
        "mkdir /tmp/mine; ln -s /tmp/mine /run/ipcspace/lib",
        "touch /run/ipcspace/lib",
    ] {
        assert_eq!(
            place(["exec"; 4], &format!("mkdir /run/ipcspace; {spoilt}; ")),
            "/tmp/ipcspace-0",
            "{spoilt}"
        );
    }
}

#[test]
fn without_any_place_each_is_named_with_its_reason() {
    let output = in_mount_namespace(["noexec", "ro", "noexec", "noexec"], "run echo ran");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(125), &b""[..]), "{said}");
    for part in ["/run/ipcspace: mounted noexec", "/tmp/ipcspace-0: Read-only", "XDG_RUNTIME_DIR"] {
        assert!(said.contains(part), "{said}");
    }
}

/// What lies below the version's directory.
const TREE: &str = "\
.
./$LIB
./lib
./lib/i386-linux-gnu
./lib/libipcspace_preload.so
./lib/x86_64-linux-gnu
./lib32
./lib32/libipcspace_preload.so
./lib64
./libipcspace_preload.so
";

#[test]
fn the_library_is_written_once_and_repaired() {
    let script = "run true; F=$(echo /run/ipcspace/lib/*/libipcspace_preload.so); I=$(stat -c %i $F); cp $F /tmp/good; \
                  run true; test $(stat -c %i $F) = $I || echo written again; \
                  echo spoilt > $F; run true; cmp $F /tmp/good; \
                  chmod 0666 $F; run true; stat -c %a $F; cd /run/ipcspace/lib/*; find | sort";
    let output = in_mount_namespace(["exec"; 4], script);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("644\n{TREE}"));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn many_can_write_it_at_once() {
    let script = "for i in $(seq 40); do run sh -c 'test -s $LD_PRELOAD || echo missing' & done; wait; \
                  cd /run/ipcspace/lib/*; find | sort";
    let output = in_mount_namespace(["exec"; 4], script);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), TREE);
    // The loader would complain of a library that is not whole.
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn where_there_are_32_bit_programs_each_loader_finds_its_own() {
    let there_are = std::path::Path::new("/lib/ld-linux.so.2").exists();
    // A trap tells them apart; without one, the path has to.
    for (door, by_path) in [("auto", false), ("preload", there_are)] {
        let script = format!("/proc/self/fd/9 run --door {door} -- sh -c 'echo $LD_PRELOAD; /bin/true'");
        let output = in_mount_namespace(["exec"; 4], &script);
        let path = String::from_utf8(output.stdout).unwrap();
        assert_eq!(path.contains("/$LIB/"), by_path, "{path}");
        // Not loaded, it would be complained of.
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Runs a script with `run` as a user that is not root, or not at all.
fn as_ordinary_user(script: &str) -> Output {
    let preamble = format!("exec 9<{IPCSPACE}; run() {{ /proc/self/fd/9 run -- \"$@\"; }}; ");
    let mut shell = Command::new("setpriv");
    if nix::unistd::geteuid().is_root() {
        shell.args(["--reuid=54321", "--regid=54321", "--clear-groups"]);
    }
    shell.args(["bash", "-c", &(preamble + script)]).env_remove("LD_PRELOAD").output().unwrap()
}

#[test]
fn directories_whose_names_separate_libraries_are_passed_over() {
    let script = "set -e; D=$(mktemp -d '/tmp/a b:c.XXXXXX'); export TMPDIR=\"$D\" XDG_RUNTIME_DIR=\"$D\"; \
                  run sh -c 'echo ${LD_PRELOAD%/ipcspace-*}; ipcmk -Q >/dev/null; ipcs -q | grep -c ^0x'; \
                  rm -r \"$D\" /tmp/ipcspace-54321 || true";
    let output = as_ordinary_user(script);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/tmp\n1\n", "{output:?}");
}

#[test]
fn what_belongs_to_another_user_is_not_trusted() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root, to give files away");
        return;
    }
    let places = ["exec"; 4];
    // A directory of somebody else's is passed over; a file in one of ours is replaced, and so is a part of one.
    assert_eq!(
        place(places, "mkdir -p /run/ipcspace/lib; chown 65534 /run/ipcspace/lib;"),
        "/tmp/ipcspace-0"
    );
    let spoil = "run true; F=$(echo /run/ipcspace/lib/*/libipcspace_preload.so); cp $F /tmp/good; chown 65534 $F; truncate -s 5000 $F;";
    let script = format!("{spoil} run true; stat -c %u $F; cmp $F /tmp/good");
    let output = in_mount_namespace(places, &script);
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"0\n"[..], &b""[..]), "{output:?}");
}

#[test]
fn versions_lie_side_by_side() {
    let script = "run true; F=$(echo /run/ipcspace/lib/*); cp -r $F /run/ipcspace/lib/other; echo other >/run/ipcspace/lib/other/libipcspace_preload.so; \
                  run true; cat /run/ipcspace/lib/other/libipcspace_preload.so; ls /run/ipcspace/lib | wc -l";
    let output = in_mount_namespace(["exec"; 4], script);
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (&b"other\n2\n"[..], &b""[..]),
        "{output:?}"
    );
}

#[test]
fn other_users_can_read_it_whatever_the_umask() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root, to be another user");
        return;
    }
    let script =
        "umask 077; run setpriv --reuid=54321 --regid=54321 --clear-groups sh -c 'cat $LD_PRELOAD | wc -c'";
    let output = in_mount_namespace(["exec"; 4], script);
    assert!(output.stderr.is_empty(), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().trim().parse::<u32>().unwrap() > 10_000);
}
