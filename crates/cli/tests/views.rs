//! `ipcspace mount` and `run --mount`: a namespace as files, beside the kernel's own.
//!
//! `views/mqueue.py`, `views/proc.py` and `views/sysctls.py` are lists of checks, which are run on the kernel's files and on ours and have to print the same;
//! `views/write.c` is what the last one writes by, where it is to be a program without the library.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

const IPCSPACE: &str = env!("CARGO_BIN_EXE_ipcspace");
const WATCHDOG: Duration = Duration::from_secs(20);
/// Becomes an ordinary user.
const USER: &str = "setpriv --reuid=1000 --regid=1000 --clear-groups";

/// A directory that is removed with the test, with a copy of the command that any user may execute.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = env::temp_dir().join(format!("ipcspace-views-{name}-{}", process::id()));
        fs::create_dir_all(path.join("view")).unwrap();
        fs::copy(IPCSPACE, path.join("ipcspace")).unwrap();
        for script in ["mqueue.py", "proc.py", "sysctls.py"] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/views").join(script);
            fs::copy(from, path.join(script)).unwrap();
        }
        for (name, mode) in [("", 0o755), ("view", 0o777)] {
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        Scratch(path)
    }

    /// A script in mounts of its own: `$i` is the command, `$view` an empty directory, `$user` makes an ordinary user, for whom `/dev/fuse`
    /// is there.
    fn shell(&self, script: &str) -> Command {
        let device = "mount -t tmpfs -o mode=755 none $d/dev && mknod -m 666 $d/dev/fuse c 10 229 && mount --bind $d/dev/fuse /dev/fuse";
        let script = format!(
            "d={}; i=$d/ipcspace; view=$d/view; user='{USER}'; mkdir -p $d/dev; {device} || exit 99; {script}",
            self.0.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--ipc", "sh", "-c", &script]).stdin(Stdio::null());
        command
    }

    fn run(&self, script: &str) -> Output {
        self.shell(script).output().unwrap()
    }

    /// Makes `$d/write`; whether that can be.
    fn compile(&self, flags: &[&str]) -> bool {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/views/write.c");
        let mut compile = Command::new("cc");
        compile.args(["-O1", "-Wall", "-Werror", "-o"]).arg(self.0.join("write")).arg(source).args(flags);
        compile.output().is_ok_and(|output| output.status.success())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether this can be tested here; says why not.
fn possible() -> bool {
    let lacks = |program: &str| Command::new(program).arg("--version").output().is_err();
    let why = match () {
        () if !nix::unistd::geteuid().is_root() => "root, for mounts of the kernel's",
        () if !Path::new("/sys/module/fuse").exists() && !Path::new("/dev/fuse").exists() => "FUSE",
        () if lacks("fusermount3") => "fusermount3",
        () if lacks("python3") => "python3",
        () => return true,
    };
    eprintln!("not tested: this needs {why}");
    false
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What was printed, if all went well.
fn good(output: &Output) -> String {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    text(&output.stdout)
}

fn same(scratch: &Scratch, kernels: &str, ours: &str) {
    let (kernels, ours) = (good(&scratch.run(kernels)), good(&scratch.run(ours)));
    assert!(kernels.lines().count() > 40, "{kernels}");
    for (kernels, ours) in kernels.lines().zip(ours.lines()) {
        assert_eq!(ours, kernels);
    }
    assert_eq!(ours.lines().count(), kernels.lines().count());
}

#[test]
fn queues_are_what_the_kernel_mounts() {
    if !possible() {
        return;
    }
    let scratch = Scratch::new("mqueue");
    same(
        &scratch,
        "mount -t mqueue none $view && python3 $d/mqueue.py $view 1000",
        "$i run -- sh -ec \"$i mount $view; python3 $d/mqueue.py $view/mqueue 1000; $i umount $view; ls $view\"",
    );
}

#[test]
fn so_they_are_for_an_ordinary_user() {
    if !possible() {
        return;
    }
    let scratch = Scratch::new("user");
    same(
        &scratch,
        "$user unshare -Ur --ipc --mount sh -c \"mount -t mqueue none $view && python3 $d/mqueue.py $view\"",
        "$user $i run --door preload -- sh -ec \"$i mount $view; python3 $d/mqueue.py $view/mqueue; $i umount $view; ls $view\"",
    );
}

#[test]
fn lists_and_sysctls_are_the_kernels_files() {
    if !possible() {
        return;
    }
    let scratch = Scratch::new("proc");
    same(
        &scratch,
        "python3 $d/proc.py /proc",
        "$i run -- sh -ec \"$i mount $view; python3 $d/proc.py $view/proc; $i umount $view\"",
    );
    // In the kernel's places, by programs that no door serves, of which the trap knows nothing either.
    let bare = "env -u LD_PRELOAD -u IPCSPACE_SOCKET";
    same(&scratch, "python3 $d/proc.py /proc", "$i run --mount -- python3 $d/proc.py /proc");
    let script = format!(
        "ipcmk -Q >/dev/null; {bare} ipcs -q | grep -c 0x; {bare} cat /proc/sys/kernel/msgmax; {bare} sysctl -qw kernel.msgmax=7; $i sysctl -n kernel.msgmax"
    );
    let seen = "1\n8192\n7\n";
    for who in ["", "$user"] {
        let output = scratch.run(&format!(
            "export i; PATH=$PATH:/sbin {who} $i run --mount -- sh -c '{script}'; cat /proc/sys/kernel/msgmax"
        ));
        assert_eq!(good(&output), format!("{seen}8192\n"), "{who}");
    }
}

/// The kernel's are those of a namespace that the user has made in a user namespace, as only there it may write them.
#[test]
fn an_ordinary_user_writes_every_sysctl_by_every_way() {
    if !possible() {
        return;
    }
    let scratch = Scratch::new("sysctls");
    let kernels = |how| format!("$user unshare -Ur --ipc python3 $d/sysctls.py /proc/sys {how}");
    for ours in [
        // The command, and the library.
        "run --door preload -- python3 $d/sysctls.py $i",
        "run --door preload -- python3 $d/sysctls.py /proc/sys",
        // Files: mounted, and mounted over the kernel's.
        "run --door preload -- sh -ec \"$i mount $view; python3 $d/sysctls.py $view/proc/sys; $i umount $view\"",
        "run --mount -- env -u LD_PRELOAD -u IPCSPACE_SOCKET python3 $d/sysctls.py /proc/sys",
        // By the trap.
        "run --door trap -- python3 $d/sysctls.py /proc/sys",
    ] {
        same(&scratch, &kernels(""), &format!("$user $i {ours}"));
    }
    for (kind, flags) in [("static", &["-static"][..]), ("32", &["-static", "-m32"])] {
        if !scratch.compile(flags) {
            eprintln!("not tested: programs of this kind can't be compiled: {kind}");
            continue;
        }
        for door in ["trap", "auto"] {
            let ours = format!("$user $i run --door {door} -- python3 $d/sysctls.py /proc/sys $d/write");
            same(&scratch, &kernels("$d/write"), &ours);
        }
    }
    // Without /dev/fuse, who writes by the trap hears of no error.
    let ours =
        "chmod 600 /dev/fuse; $user $i run --door trap -- python3 $d/sysctls.py /proc/sys deaf".to_owned();
    same(&scratch, &kernels("deaf"), &ours);
}

#[test]
fn who_writes_a_sysctl_by_the_trap_ends_when_the_broker_has_ended() {
    if !possible() {
        return;
    }
    let scratch = Scratch::new("ended");
    for user in ["", "$user"] {
        // The broker is the shell's parent.
        let script = "exec 3>/proc/sys/kernel/msgmax; echo 7 >&3; kill -KILL $PPID; while echo 8 >&3; do :; done 2>&1; exit 5";
        let output = scratch.run(&format!("{user} $i run --door trap -- bash -c '{script}'; echo $?"));
        let said = text(&output.stdout);
        // Either as the broker was ending, or when it had ended.
        let is_refused =
            ["connection abort\n5\n", "is not connected\n5\n"].iter().any(|end| said.ends_with(end));
        assert!(is_refused, "{output:?}");
    }
}

/// The broker of the inner one asks the outer trap, which asks nothing of the inner one's view.
#[test]
fn a_sysctl_is_written_in_a_run_within_a_run() {
    if !possible() {
        return;
    }
    let scratch = Scratch::new("inner");
    let write = "for value in 9 x; do echo $value >/proc/sys/kernel/msgmax; echo $?; done 2>/dev/null; cat /proc/sys/kernel/msgmax";
    for user in ["", "$user"] {
        let script = format!(
            "export i; {user} $i run --door trap -- sh -c '$i run --door trap -- sh -c \"{}\"; cat /proc/sys/kernel/msgmax'",
            write.replace('$', "\\$")
        );
        assert_eq!(good(&scratch.run(&script)), "0\n1\n9\n8192\n", "{user}");
    }
}

#[test]
fn run_mount_shows_queues_where_they_are_looked_for() {
    if !possible() {
        return;
    }
    let scratch = Scratch::new("dev");
    // A /dev that has the directory, as distributions make it.
    let script = r#"
        mkdir $d/dev/mqueue && touch $d/dev/null && mount --bind /dev/null $d/dev/null && mount --rbind $d/dev /dev
        for who in "" "$user"; do
            $who $i run --mount -- sh -ec 'touch /dev/mqueue/q; ls /dev/mqueue; cat /dev/mqueue/q; stat -c %A /dev/mqueue; mkdir /dev/mqueue/d 2>/dev/null || echo no'
        done
        ls /dev/mqueue"#;
    let line = "QSIZE:0          NOTIFY:0     SIGNO:0     NOTIFY_PID:0     ";
    let one = format!("q\n{line}\ndrwxrwxrwt\nno\n");
    assert_eq!(good(&scratch.run(script)), format!("{one}{one}"));
}

#[test]
fn the_library_does_not_let_the_kernels_queues_be_touched() {
    if !possible() {
        return;
    }
    let scratch = Scratch::new("kernels");
    let script = r#"
        mkdir $d/dev/mqueue && touch $d/dev/null && mount --bind /dev/null $d/dev/null && mount --rbind $d/dev /dev && mount -t mqueue none /dev/mqueue
        touch /dev/mqueue/k
        $i run -- sh -c 'ls /dev/mqueue; rm -f /dev/mqueue/k; touch /dev/mqueue/ours; >/dev/mqueue/k; ls /dev/mqueue; rm /dev/mqueue/k; test -e /dev/mqueue/k || echo gone'
        ls /dev/mqueue"#;
    assert_eq!(good(&scratch.run(script)), "k\nours\ngone\nk\n");
}

/// A namespace that is served as long as this lives.
struct Served {
    name: String,
    process: Child,
}

impl Served {
    fn new(of: &str) -> Served {
        let name = format!("test-views-{of}-{}", process::id());
        let process = Command::new(IPCSPACE).args(["serve", &name]).stderr(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        let is_there = || {
            let output = Command::new(IPCSPACE).args(["ls", "-N", &name]).output().unwrap();
            output.status.success()
        };
        while !is_there() {
            assert!(start.elapsed() < WATCHDOG, "never served");
            thread::sleep(Duration::from_millis(10));
        }
        Served { name, process }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn when_the_server_is_gone_nobody_reads_an_empty_list() {
    if !possible() {
        return;
    }
    let scratch = Scratch::new("dead");
    let look = "for what in 'ls $view/mqueue' 'cat $view/proc/sysvipc/msg' 'cat $view/proc/sys/kernel/msgmax' 'touch $view/mqueue/x' 'cat <&3'; do \
                eval $what 2>&1 | grep -o 'Transport endpoint is not connected\\|Software caused connection abort' || echo \"$what worked\"; done";
    for (of, end) in [("killed", "kill -KILL $server"), ("ended", "$i rm -N $name")] {
        let served = Served::new(of);
        let (name, server) = (&served.name, served.process.id());
        // Its parent, this test, has not waited for it.
        let over = "until grep -q '^State:.Z' /proc/$server/status; do sleep 0.05; done";
        let script = format!(
            "name={name} server={server}; $i mount $name $view && touch $view/mqueue/q && exec 3<$view/mqueue/q || exit 1; \
             {end}; {over}; {look}; exec 3<&-; $i umount $view && ls $view"
        );
        let said = good(&scratch.run(&script));
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines.len() == 5 && lines.iter().all(|line| !line.ends_with("worked")), "{end}: {said}");
    }
}

#[test]
fn what_goes_wrong_is_said_with_what_to_do() {
    if !possible() {
        return;
    }
    let scratch = Scratch::new("bad");
    let cases = [
        ("$i mount $d/none", "mkdir -p"),
        ("$i mount $d/mqueue.py", "is no directory"),
        ("$i mount nobody $view", "there is no namespace 'nobody'"),
        ("$i mount .bad $view", "can't name a namespace"),
        ("env -u IPCSPACE_SOCKET $i mount $view", "this is no namespace of ipcspace"),
        ("IPCSPACE_SOCKET=$d/none $i mount $view", "its broker has ended"),
        ("$i mount $view; $i mount $view", "shows a namespace already (ipcspace): 'ipcspace umount"),
        ("$i mount $view; exec 3<$view/mqueue; $i umount $view", "is in use"),
        ("$i umount $view", "is not where ipcspace has mounted"),
        ("mount -t tmpfs none $view; $i umount $view", "is not where ipcspace has mounted"),
        ("umount /dev/fuse; rm -f $d/dev/fuse; mount -t tmpfs none /dev; $i mount $view", "modprobe fuse"),
        ("PATH=$d $user2 $i mount $view", "apt install fuse3"),
    ];
    for (case, part) in cases {
        let inner = format!("unshare --mount sh -c \"{case}\"")
            .replace("$user2", "/usr/bin/setpriv --reuid=1000 --regid=1000 --clear-groups");
        let user = if case.contains("$user2") { "$user" } else { "" };
        let inner = if user.is_empty() { inner } else { case.replace("$user2", "") };
        let script = format!(
            "export i d view; {user} $i run --door preload -- sh -c '{}'",
            inner.replace('\'', "'\\''")
        );
        let output = scratch.run(&script);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(part), "{case}: {output:?}");
        assert_eq!(said.lines().count(), 1, "{case}: {said}");
    }
    // A device that is root's alone.
    let script = "umount /dev/fuse; chmod 600 $d/dev/fuse; mount --bind $d/dev/fuse /dev/fuse; $user $i run --mount -- true; echo $?; $user $i run -- $i mount $view; echo $?";
    let output = scratch.run(script);
    let said = text(&output.stderr);
    assert!(
        text(&output.stdout) == "125\n1\n" && said.matches("chmod 666 /dev/fuse").count() == 2,
        "{output:?}"
    );
    let output = scratch.run("$user $i run -- $i mount $view");
    let said = text(&output.stderr);
    // Where there is no trap, it can be done.
    assert!(
        output.status.success() || said.contains("no_new_privs") && said.contains("--door preload"),
        "{output:?}"
    );
    // Usage.
    for arguments in [&["mount"][..], &["mount", "a", "b", "c"], &["umount"]] {
        assert_eq!(Command::new(IPCSPACE).args(arguments).output().unwrap().status.code(), Some(2));
    }
}

#[test]
fn who_joins_a_namespace_sees_its_files_too() {
    if !possible() {
        return;
    }
    let scratch = Scratch::new("joined");
    let served = Served::new("joined");
    let name = &served.name;
    let script = format!(
        "$i sysctl -q -N {name} kernel.msgmax=7; for how in 'exec --mount {name}' 'run --mount -n {name}'; do $i $how -- env -u LD_PRELOAD cat /proc/sys/kernel/msgmax; done"
    );
    assert_eq!(good(&scratch.run(&script)), "7\n7\n");
    let own = format!("test-views-own-{}", process::id());
    let script = format!(
        "$user $i run -n {own} -- sh -c '$i run --mount -n {own} -- true; echo $?; $i exec --mount {own} -- true; echo $?'"
    );
    let output = scratch.run(&format!("export i; {script}"));
    assert!(
        text(&output.stdout) == "125\n125\n"
            && text(&output.stderr).matches("--mount is for a new one").count() == 2,
        "{output:?}"
    );
}
