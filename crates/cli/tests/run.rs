//! `ipcspace run` by its processes: exit codes, signals, job control, descriptors, and what is left.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

const IPCSPACE: &str = env!("CARGO_BIN_EXE_ipcspace");
/// After this, what should have happened won't.
const WATCHDOG: Duration = Duration::from_secs(20);

fn run(arguments: &[&str]) -> Command {
    let mut command = Command::new(IPCSPACE);
    command.arg("run").args(arguments);
    command
}

/// A path without directories that this user may not search, where execvp(3) says EACCES for what it doesn't find.
const PATH: &str = "/usr/bin:/bin";

fn shell(script: &str) -> Command {
    run(&["--", "sh", "-c", script])
}

fn status(arguments: &[&str]) -> ExitStatus {
    run(arguments).stderr(Stdio::null()).status().unwrap()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < WATCHDOG, "never happened: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

/// Whether it lives; a zombie doesn't, and is its parent's affair.
fn lives(pid: i32) -> bool {
    stat(pid).is_some_and(|fields| fields[0] != "Z" && fields[0] != "X")
}

fn is_stopped(pid: i32) -> bool {
    stat(pid).is_some_and(|fields| fields[0] == "T")
}

fn parent(pid: i32) -> i32 {
    stat(pid).unwrap()[1].parse().unwrap()
}

fn is_broker(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "ipcspace-broker\n")
}

/// A `run` whose command has written its process id as a first line.
struct Running {
    front: Child,
    output: BufReader<process::ChildStdout>,
    command: i32,
    broker: i32,
}

impl Running {
    fn start(mut run: Command) -> Running {
        let mut front = run.process_group(0).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(front.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let command: i32 = line.trim().parse().unwrap();
        let broker = parent(command);
        until("the broker runs", || is_broker(broker));
        Running { front, output, command, broker }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.front.id() as i32)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn end(mut self) -> (ExitStatus, String) {
        let status = self.front.wait().unwrap();
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        (status, rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that failed leaves nothing running: with the front goes the command.
        let _ = self.front.kill();
    }
}

#[test]
fn the_exit_code_is_the_commands() {
    for code in [0, 1, 7, 125, 255] {
        assert_eq!(status(&["--", "sh", "-c", &format!("exit {code}")]).code(), Some(code));
    }
}

#[test]
fn without_a_command_the_codes_are_those_of_env() {
    assert_eq!(status(&[]).code(), Some(125));
    assert_eq!(status(&["--no-such-option", "true"]).code(), Some(125));
    assert_eq!(status(&["--", "/etc/passwd"]).code(), Some(126));
    assert_eq!(status(&["--", "/"]).code(), Some(126));
    let unknown = run(&["--", "no-such-program"]).env("PATH", PATH).output().unwrap();
    assert_eq!(unknown.status.code(), Some(127));
    assert_eq!(status(&["--", "/no/such/program"]).code(), Some(127));
}

#[test]
fn what_cannot_be_run_is_named() {
    let output = run(&["--", "no-such-program"]).env("PATH", PATH).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message, "ipcspace: cannot run 'no-such-program': No such file or directory\n");
}

#[test]
fn options_of_the_command_are_its_own() {
    let output = run(&["echo", "-n", "--kill", "-n"]).output().unwrap();
    assert_eq!(output.stdout, b"--kill -n");
}

#[test]
fn death_by_a_signal_is_passed_on() {
    let dir = env::temp_dir().join(format!("ipcspace-cores-{}", process::id()));
    fs::create_dir(&dir).unwrap();
    for signal in ["TERM", "KILL", "SEGV", "PIPE", "INT", "HUP", "RTMIN", "RTMAX-3"] {
        let script = format!("ulimit -c unlimited; kill -{signal} $$");
        let direct = Command::new("bash").args(["-c", &script]).current_dir(&dir).status().unwrap();
        let ours = run(&["--", "bash", "-c", &script]).current_dir(&dir).status().unwrap();
        assert_eq!(ours.signal(), direct.signal(), "{signal}");
        // Where the tests were started in the background or by nohup, these two are ignored and stay so.
        assert!(direct.signal().is_some() || ["INT", "HUP"].contains(&signal), "{signal}");
        assert!(!ours.core_dumped(), "{signal}");
    }
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn signals_to_the_front_reach_the_command() {
    let script =
        "trap 'echo usr1' USR1; trap 'echo term; exit 3' TERM; echo $$; while :; do sleep 0.01; done";
    let mut running = Running::start(shell(script));
    kill(running.pid(), Signal::SIGUSR1).unwrap();
    assert_eq!(running.line(), "usr1");
    kill(running.pid(), Signal::SIGTERM).unwrap();
    let (status, rest) = running.end();
    assert_eq!((status.code(), rest.as_str()), (Some(3), "term\n"));
}

#[test]
fn a_queued_signal_keeps_its_value() {
    let wait = "import os, signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2}); print(os.getpid(), flush=True)
while True:
    info = signal.sigwaitinfo({signal.SIGUSR2}); print(info.si_code, info.si_pid, flush=True); break";
    let running = Running::start(run(&["--", "python3", "-c", wait]));
    let value = libc::sigval { sival_ptr: 0x1234 as *mut libc::c_void };
    // SAFETY: the value is a number to both sides.
    assert_eq!(unsafe { libc::sigqueue(running.pid().as_raw(), libc::SIGUSR2, value) }, 0);
    let broker = running.broker;
    let (status, rest) = running.end();
    assert!(status.success());
    assert_eq!(rest, format!("-1 {broker}\n"));
}

#[test]
fn an_alarm_set_before_exec_reaches_the_command() {
    let output = Command::new("perl")
        .args(["-e", "alarm 1; exec @ARGV", IPCSPACE, "run", "--", "sleep", "60"])
        .status()
        .unwrap();
    assert_eq!(output.signal(), Some(libc::SIGALRM));
}

#[test]
fn a_signal_to_the_own_group_arrives_once() {
    let script = "$SIG{USR1} = sub { $n++ }; print \"$$\\n\"; $| = 1; kill USR1 => 0; \
                  select undef, undef, undef, 0.3; print \"$n\\n\"";
    let mut command = run(&["--", "perl", "-e", script]);
    let output = command.process_group(0).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().nth(1), Some("1"));
}

#[test]
fn the_front_stops_and_goes_on_with_the_command() {
    for signal in [Signal::SIGTSTP, Signal::SIGSTOP, Signal::SIGTTIN] {
        let running = Running::start(shell("echo $$; exec sleep 60"));
        for _ in 0..50 {
            kill(Pid::from_raw(running.command), signal).unwrap();
            assert_eq!(
                waitpid(running.pid(), Some(WaitPidFlag::WUNTRACED)),
                Ok(WaitStatus::Stopped(running.pid(), signal))
            );
            assert!(is_stopped(running.command));
            kill(running.pid(), Signal::SIGCONT).unwrap();
            until("the command goes on", || !is_stopped(running.command));
            until("the front goes on", || !is_stopped(running.pid().as_raw()));
        }
    }
}

/// A thread that is held by the trap stops again and again, of which the broker wants to hear nothing: of the command it does.
#[test]
fn the_front_stops_with_the_command_while_others_are_held() {
    let script = "
import ctypes, os, signal
libc = ctypes.CDLL(None)
libc.shmat.restype, libc.shmdt.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
m = libc.shmget(0, 4096, 0o1600)
if os.fork() == 0:
    libc.prctl(1, signal.SIGKILL)
    while True: libc.shmdt(libc.shmat(m, None, 0))
print(os.getpid(), flush=True)
while True: signal.pause()
";
    let running = Running::start(run(&["--kill", "--door", "trap", "--", "python3", "-c", script]));
    for _ in 0..100 {
        kill(Pid::from_raw(running.command), Signal::SIGSTOP).unwrap();
        assert_eq!(
            waitpid(running.pid(), Some(WaitPidFlag::WUNTRACED)),
            Ok(WaitStatus::Stopped(running.pid(), Signal::SIGSTOP))
        );
        kill(running.pid(), Signal::SIGCONT).unwrap();
        until("the command goes on", || !is_stopped(running.command));
        until("the front goes on", || !is_stopped(running.pid().as_raw()));
    }
}

#[test]
fn a_whole_group_stops_and_goes_on() {
    let running = Running::start(shell("echo $$; exec sleep 60"));
    for _ in 0..50 {
        killpg(running.pid(), Signal::SIGTSTP).unwrap();
        waitpid(running.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
        until("the command stops", || is_stopped(running.command));
        killpg(running.pid(), Signal::SIGCONT).unwrap();
        until("the command goes on", || !is_stopped(running.command));
        until("the front goes on", || !is_stopped(running.pid().as_raw()));
    }
}

#[test]
fn continuing_the_command_alone_continues_the_front() {
    let running = Running::start(shell("echo $$; exec sleep 60"));
    for _ in 0..50 {
        // Sometimes the front has stopped by then, sometimes not.
        kill(Pid::from_raw(running.command), Signal::SIGSTOP).unwrap();
        kill(Pid::from_raw(running.command), Signal::SIGCONT).unwrap();
    }
    kill(Pid::from_raw(running.command), Signal::SIGTERM).unwrap();
    let (status, _) = running.end();
    assert_eq!(status.signal(), Some(libc::SIGTERM));
}

/// Of a stop that is over, as the command has ended.
#[test]
fn a_front_that_hears_late_of_a_stop_does_not_stay_stopped() {
    for _ in 0..5 {
        let mut running = Running::start(shell("echo $$; exec sleep 60"));
        kill(running.pid(), Signal::SIGSTOP).unwrap();
        until("the front has stopped", || is_stopped(running.pid().as_raw()));
        kill(Pid::from_raw(running.command), Signal::SIGSTOP).unwrap();
        until("the command has stopped", || is_stopped(running.command));
        // Time for the broker to tell the front.
        thread::sleep(Duration::from_millis(20));
        kill(Pid::from_raw(running.command), Signal::SIGKILL).unwrap();
        let begun = Instant::now();
        let ended = loop {
            match running.front.try_wait().unwrap() {
                None if begun.elapsed() < WATCHDOG => thread::sleep(Duration::from_millis(2)),
                ended => break ended,
            }
        };
        assert_eq!(ended.and_then(|status| status.signal()), Some(libc::SIGKILL));
    }
}

#[test]
fn pipelines_work() {
    let mut front = run(&["--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let data: Vec<u8> = (0..1_000_000u32).map(|number| (number % 251) as u8).collect();
    let mut input = front.stdin.take().unwrap();
    let writer = thread::spawn({
        let data = data.clone();
        move || input.write_all(&data).unwrap()
    });
    let output = front.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success() && output.stdout == data);
}

#[test]
fn the_end_of_a_pipe_is_seen_at_once() {
    // Neither front nor broker hold on to what the command has closed.
    let running = Running::start(shell("echo $$; exec >&-; exec sleep 60"));
    let command = running.command;
    let mut rest = String::new();
    let mut running = running;
    running.output.read_to_string(&mut rest).unwrap();
    assert!(lives(command) && rest.is_empty());
}

/// What a process can see of how it was started.
const CIRCUMSTANCES: &str = "grep -E 'Sig|Umask|NoNewPrivs' /proc/self/status | grep -v SigQ; ls /proc/self/fd; pwd; ulimit -a; \
     ps -o pgid=,sid= -p $$ | sed \"s/.*/group $(($(ps -o sid= -p $$))) /\"";

fn circumstances(prefix: &str) -> [Output; 2] {
    let direct = Command::new("bash").args(["-c", &format!("{prefix} sh -c \"$0\""), CIRCUMSTANCES]).output();
    let script = format!("{prefix} {IPCSPACE} run -- sh -c \"$0\"");
    let ours = Command::new("bash").args(["-c", &script, CIRCUMSTANCES]).output();
    [direct.unwrap(), ours.unwrap()]
}

#[test]
fn the_command_finds_what_run_found() {
    for prefix in [
        "",
        "trap '' PIPE; ",
        "trap '' INT TERM HUP CHLD; ",
        "umask 027; cd /usr; ",
        "exec 7</etc/passwd 9>/dev/null; ",
        "exec <&-; ",
        "exec <&- 2>&-; ",
        "perl -e 'use POSIX; sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGUSR1, SIGINT)); exec @ARGV' ",
    ] {
        let [direct, ours] = circumstances(prefix);
        assert!(direct.status.success(), "{prefix}: {direct:?}");
        assert_eq!(
            String::from_utf8_lossy(&ours.stdout),
            String::from_utf8_lossy(&direct.stdout),
            "{prefix}"
        );
    }
}

#[test]
fn command_and_front_share_session_and_group_and_the_broker_does_not() {
    let running = Running::start(shell("echo $$; exec sleep 60"));
    let ids = |pid: i32| stat(pid).unwrap()[2..4].to_vec();
    assert_eq!(ids(running.command), ids(running.pid().as_raw()));
    let broker = running.broker.to_string();
    assert_eq!(ids(running.broker), [broker.as_str(), broker.as_str()]);
    killpg(running.pid(), Signal::SIGTERM).unwrap();
    let (status, _) = running.end();
    assert_eq!(status.signal(), Some(libc::SIGTERM));
}

#[test]
fn a_daemon_keeps_the_broker_and_nobody_waits_for_it() {
    let script = "setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $!";
    let output = shell(script).output().unwrap();
    let daemon: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    until("the daemon is the broker's", || is_broker(parent(daemon)));
    let broker = parent(daemon);
    thread::sleep(Duration::from_millis(50));
    assert!(lives(broker));
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        kill(Pid::from_raw(broker), signal).unwrap();
    }
    thread::sleep(Duration::from_millis(50));
    assert!(lives(broker));
    assert_eq!(fs::read_link(format!("/proc/{broker}/cwd")).unwrap().to_str(), Some("/"));
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
    until("the broker ends with it", || !lives(broker));
}

#[test]
fn with_kill_nobody_is_left() {
    let script = "setsid sleep 600 >/dev/null & (sleep 600 >/dev/null & exec sleep 600 >/dev/null) & \
                  echo $$; ps -o ppid= $$; exit 5";
    let output = run(&["--kill", "--", "sh", "-c", script]).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    let text = String::from_utf8(output.stdout).unwrap();
    let broker: i32 = text.lines().nth(1).unwrap().trim().parse().unwrap();
    // It ends after its children, and before the front.
    assert!(!lives(broker));
}

#[test]
fn when_the_front_is_killed_the_command_goes_too() {
    let mut running = Running::start(shell("trap '' HUP TERM; sleep 600 & echo $$; wait"));
    running.front.kill().unwrap();
    until("the command is killed and reaped", || stat(running.command).is_none());
    // Its child lives on, and so does the namespace.
    assert!(lives(running.broker));
    // An orphan may come to any thread of its new parent.
    let threads = fs::read_dir(format!("/proc/{}/task", running.broker)).unwrap();
    let children = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).unwrap());
    let child = children.collect::<String>().trim().parse().unwrap();
    kill(Pid::from_raw(child), Signal::SIGKILL).unwrap();
    until("the broker ends", || !lives(running.broker));
}

#[test]
fn when_the_front_of_a_stopped_command_is_killed_all_end() {
    let mut running = Running::start(shell("echo $$; exec sleep 600"));
    kill(Pid::from_raw(running.command), Signal::SIGSTOP).unwrap();
    until("the front stops", || is_stopped(running.pid().as_raw()));
    running.front.kill().unwrap();
    until("all end", || !lives(running.command) && !lives(running.broker));
}

#[test]
fn when_the_broker_is_killed_the_command_goes_on() {
    let script = "trap 'echo usr1; exit 9' USR1; echo $$; while :; do sleep 0.01; done";
    let running = Running::start(shell(script));
    kill(Pid::from_raw(running.broker), Signal::SIGKILL).unwrap();
    let front = running.pid();
    until("the front takes over", || parent(running.command) == front.as_raw());
    kill(Pid::from_raw(running.command), Signal::SIGSTOP).unwrap();
    waitpid(front, Some(WaitPidFlag::WUNTRACED)).unwrap();
    kill(front, Signal::SIGCONT).unwrap();
    until("the command goes on", || !is_stopped(running.command));
    kill(front, Signal::SIGUSR1).unwrap();
    let (status, rest) = running.end();
    assert_eq!((status.code(), rest.as_str()), (Some(9), "usr1\n"));
}

#[test]
fn nothing_is_left_of_many_runs() {
    for _ in 0..50 {
        let output = shell("ps -o ppid= $$").output().unwrap();
        let broker: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        assert!(!fs::exists(format!("/proc/{broker}")).unwrap(), "the broker is left, if only as a zombie");
        let left = files_of(broker);
        assert!(left.is_empty(), "{left:?}");
    }
}

/// What lies in the places for it and bears the name of that broker.
fn files_of(broker: i32) -> Vec<String> {
    let uid = nix::unistd::geteuid();
    let mut places = vec!["/run/ipcspace/ns".to_owned(), format!("/tmp/ipcspace-{uid}/ns")];
    places.extend(env::var("XDG_RUNTIME_DIR").map(|dir| format!("{dir}/ipcspace/ns")));
    let entries = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.split(|c: char| !c.is_ascii_digit()).any(|part| part == broker.to_string()))
        .collect()
}

/// A program of two instructions: exit(6).
fn static_program() -> Vec<u8> {
    let mut elf = vec![0; 64];
    elf[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf[16..24].copy_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    elf[24..32].copy_from_slice(&0x40_0078_u64.to_le_bytes()); // e_entry
    elf[32..40].copy_from_slice(&64_u64.to_le_bytes()); // e_phoff
    elf[52..58].copy_from_slice(&[64, 0, 56, 0, 1, 0]);
    let code = [0xbf, 6, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    elf.extend([1_u32, 5].iter().flat_map(|word| word.to_le_bytes())); // PT_LOAD, r-x
    let size = 0x78 + code.len() as u64;
    elf.extend(
        [0, 0x40_0000, 0x40_0000, size, size, 0x1000].iter().flat_map(|word: &u64| word.to_le_bytes()),
    );
    elf.extend(code);
    elf
}

#[test]
fn a_static_program_without_the_trap_is_run_with_a_warning() {
    let path = env::temp_dir().join(format!("ipcspace-static-{}", process::id()));
    fs::write(&path, static_program()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let output = run(&["--door", "preload", "--", path.to_str().unwrap()]).output().unwrap();
    fs::remove_file(&path).unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(6), "{message}");
    assert!(message.contains("statically linked") && message.lines().count() == 1, "{message}");
}

#[test]
fn the_library_comes_before_those_that_are_there() {
    let preload = |existing: Option<&str>| {
        let mut command = shell("echo \"$LD_PRELOAD\"");
        command.env_remove("LD_PRELOAD").stderr(Stdio::null());
        if let Some(existing) = existing {
            command.env("LD_PRELOAD", existing);
        }
        String::from_utf8(command.output().unwrap().stdout).unwrap().trim_end().to_owned()
    };
    let library = preload(None);
    assert!(library.ends_with("/libipcspace_preload.so") && fs::exists(&library).unwrap(), "{library}");
    assert_eq!(preload(Some("/no/such.so")), format!("{library}:/no/such.so"));
    // A run within a run doesn't load it twice.
    assert_eq!(preload(Some(&library)), library);
    let found = fs::metadata(&library).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o644);
}

#[test]
fn a_run_within_a_run_works() {
    let output = run(&["--", IPCSPACE, "run", "--", "sh", "-c", "echo within; exit 4"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(4), &b"within\n"[..]));
}

#[test]
fn a_bad_sysctl_is_refused_before_anything_runs() {
    let output = run(&["--sysctl", "kernel.nonsense=1", "--", "echo", "ran"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(125), &b""[..]));
    assert!(String::from_utf8(output.stderr).unwrap().contains("kernel.nonsense"));
    assert_eq!(status(&["--sysctl", "kernel.msgmnb", "--", "true"]).code(), Some(125));
}

/// Whichever descriptor is the one too many: the command is not begun and that is said, or its calls end.
#[test]
fn too_few_descriptors_are_told_of_and_nobody_waits() {
    let (mut refused, mut served) = (0, 0);
    for most in 5..40 {
        for door in ["preload", "auto"] {
            let script = format!("ulimit -n {most}; exec timeout 20 \"$0\" \"$@\"");
            let mut command = Command::new("bash");
            command.args(["-c", &script, IPCSPACE, "run", "--door", door, "--", "ipcmk", "-Q"]);
            let output = command.output().unwrap();
            let [said, message] =
                [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
            match output.status.code() {
                Some(125) => {
                    assert!(
                        said.is_empty() && message.contains("Too many open files"),
                        "{most}: {said}{message}"
                    );
                    refused += 1;
                }
                Some(0) => {
                    assert!(said.contains("queue id: 0"), "{most}: {said}{message}");
                    served += 1;
                }
                // The broker had one too few for the call.
                Some(1) => {
                    assert!(message.contains("create message queue failed"), "{most}: {said}{message}")
                }
                code => panic!("{door}, {most}: {code:?}: {said}{message}"),
            }
        }
    }
    assert!(refused > 0 && served > 0, "{refused} {served}");
}

/// The namespace's file is larger than most limits of files; it is not the command's.
#[test]
fn a_limit_of_file_sizes_is_told_of_and_ends_nothing() {
    let limited = |limit: &str, what: &[&str]| {
        let mut command = Command::new("bash");
        command.args(["-c", &format!("ulimit {limit} 100000; exec \"$0\" \"$@\""), IPCSPACE]).args(what);
        command.output().unwrap()
    };
    for command in [&["run", "--", "true"][..], &["serve", "test-limited"]] {
        let output = limited("-f", command);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(matches!(output.status.code(), Some(1 | 125)), "{:?}: {message}", output.status);
        assert!(message.contains("ulimit -f") && message.lines().count() == 1, "{message}");
    }
    // One that can be raised is, and the command has its own.
    let output = limited("-Sf", &["run", "--", "bash", "-c", "ipcmk -Q; ulimit -f"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "Message queue id: 0\n100000\n");
}

/// The address sanitizer of gcc wants its library to be the first.
#[test]
fn programs_with_a_sanitizer_start() {
    let scratch = env::temp_dir().join(format!("ipcspace-asan-{}", process::id()));
    fs::create_dir(&scratch).unwrap();
    let (source, program) = (scratch.join("a.c"), scratch.join("a"));
    fs::write(
        &source,
        "#include <sys/msg.h>\nint main(void) { return msgget(IPC_PRIVATE, 0600) == 0 ? 5 : 6; }",
    )
    .unwrap();
    let built = Command::new("cc").arg("-fsanitize=address").arg("-o").arg(&program).arg(&source).status();
    if built.is_ok_and(|status| status.success()) {
        for options in [None, Some("detect_leaks=0")] {
            let mut command = run(&["--", program.to_str().unwrap()]);
            command.env_remove("ASAN_OPTIONS").envs(options.map(|options| ("ASAN_OPTIONS", options)));
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(5), "{output:?}");
        }
    } else {
        println!("skipped: no compiler with a sanitizer");
    }
    fs::remove_dir_all(scratch).unwrap();
}

/// Where root's own place can't be written, or is another root's, there are others.
#[test]
fn where_there_is_no_place_below_run_there_is_another() {
    if !nix::unistd::geteuid().is_root() {
        println!("not tested: this needs root");
        return;
    }
    let read_only = "mount -t tmpfs -o ro none /run; exec \"$0\" run -- ipcmk -Q";
    let fake_root =
        "exec setpriv --reuid=1000 --regid=1000 --clear-groups unshare -Ur \"$0\" run -- ipcmk -Q";
    for script in [read_only, fake_root] {
        let program = fs::canonicalize(IPCSPACE).unwrap();
        // The build directory may be root's alone.
        let script = format!("exec 9<\"$0\"; set -- /proc/self/fd/9; {}", script.replace("\"$0\"", "\"$1\""));
        let output = Command::new("unshare")
            .args(["--mount", "bash", "-c", &script])
            .arg(program)
            .env_remove("XDG_RUNTIME_DIR")
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "Message queue id: 0\n", "{script}: {output:?}");
    }
}
