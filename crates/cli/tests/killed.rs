//! A server that is killed, and the next one in its place: the namespace goes on, as do those who are in it.

mod served;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{env, fs, thread};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;
use served::{IPCSPACE, Served, activated, name, until};

const KILLS: u32 = 5;

/// What is at work all the time. It ends when its standard input does, and prints what it finds wrong.
const LOAD: &str = r#"
import ctypes, errno, os, select, signal, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
KILLS, CREAT, NOWAIT, UNDO, SETVAL, GETVAL = int(sys.argv[1]), 0o1000, 0o4000, 0x1000, 16, 12
stop, stopping = os.pipe()

def goes_on(): return not select.select([stop], [], [], 0)[0]
def check(value, what):
    if value in (-1, 2**64 - 1): raise OSError(ctypes.get_errno(), what + ": " + os.strerror(ctypes.get_errno()))
    return value
def semop(id, number, change, flags=0): check(libc.semop(id, (ctypes.c_short * 3)(number, change, flags), 1), "semop")

def send(queue, allowed=0):
    number, interrupted = 0, 0
    while True:
        last = not goes_on()
        text = struct.pack("qq", 1, -1 if last else number)
        while libc.msgsnd(queue, text, 8, 0) == -1:
            interrupted += 1
            if ctypes.get_errno() != errno.EINTR or interrupted > allowed: check(-1, "msgsnd")
        if last: return
        number += 1
        if number % 64 == 0: time.sleep(0.001)

def receive(queue, allowed=0):
    room, next, wrong, interrupted = ctypes.create_string_buffer(16), 0, 0, 0
    while True:
        while libc.msgrcv(queue, room, 8, 0, 0) == -1:
            interrupted += 1
            if ctypes.get_errno() != errno.EINTR or interrupted > allowed: check(-1, "msgrcv")
        number = struct.unpack("qq", room.raw)[1]
        if number == -1: break
        if number != next: wrong += 1
        next = number + 1
    if wrong > allowed: raise Exception("%d of %d messages not as sent" % (wrong, next))
    if next < 100: raise Exception("only %d messages" % next)

def turns(set, own, other):
    while goes_on():
        semop(set, own, -1); semop(set, other, 1)
    semop(set, other, 1)

def undo(set):
    while goes_on():
        pid = os.fork()
        if pid == 0:
            semop(set, 0, -1, UNDO); os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
    # Its last adjustment is applied by whoever comes next, at the latest.
    semop(set, 0, -1); semop(set, 0, 1)
    if libc.semctl(set, 0, GETVAL) != 1: raise Exception("an adjustment was lost")

def segments():
    made = []
    def number_in(id):
        at = check(libc.shmat(id, None, 0), "shmat"); number = ctypes.c_long.from_address(at)
        return at, number
    while goes_on() and len(made) < 1000:
        id = check(libc.shmget(0, 4096, 0o600 | CREAT), "shmget")
        at, number = number_in(id); number.value = id + 1; check(libc.shmdt(ctypes.c_void_p(at)), "shmdt")
        made.append(id)
        if len(made) % 8 == 0: check(libc.shmctl(made.pop(0), 0, None), "IPC_RMID")
        time.sleep(0.002)
    while goes_on(): time.sleep(0.01)
    for id in made:
        at, number = number_in(id)
        if number.value != id + 1: raise Exception("segment %d lost what was in it" % id)
        check(libc.shmdt(ctypes.c_void_p(at)), "shmdt")

def stranger(uid, run, queue):
    def as_other(*args):
        os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
        run(*args, 2 * KILLS)
    return as_other, queue

queues = [check(libc.msgget(0, 0o666 | CREAT), "msgget") for _ in range(2)]
sets = [check(libc.semget(0, 2, 0o600 | CREAT), "semget") for _ in range(2)]
for set in sets: check(libc.semctl(set, 0, SETVAL, 1), "SETVAL")
work = [(send, queues[0]), (receive, queues[0]), (turns, sets[0], 0, 1), (turns, sets[0], 1, 0), (undo, sets[1]), (segments,)]
if os.geteuid() == 0: work += [stranger(1000, send, queues[1]), stranger(1001, receive, queues[1])]
workers = {}
for run, *args in work:
    pid = os.fork()
    if pid == 0:
        os.close(stopping)
        try: run(*args)
        except BaseException as error:
            print(run.__name__, error, flush=True); os._exit(1)
        os._exit(0)
    workers[pid] = run.__name__
print("at work", flush=True)
sys.stdin.read()
os.close(stopping)
while workers:
    pid, status = os.wait()
    name = workers.pop(pid, None)
    if name and status: print(name, "ended with", status, flush=True)
print("done", flush=True)
"#;

/// A supervisor that keeps what it is given.
struct Supervisor {
    path: PathBuf,
    stored: Arc<Mutex<BTreeMap<String, OwnedFd>>>,
}

impl Supervisor {
    fn new(name: &str) -> Supervisor {
        let path = env::temp_dir().join(format!("{name}.notify"));
        let socket = UnixDatagram::bind(&path).unwrap();
        let stored = Arc::new(Mutex::new(BTreeMap::new()));
        let store = stored.clone();
        thread::spawn(move || while Supervisor::hear(&socket, &store) {});
        Supervisor { path, stored }
    }

    fn hear(socket: &UnixDatagram, stored: &Mutex<BTreeMap<String, OwnedFd>>) -> bool {
        let mut bytes = [0; 1000];
        let mut iov = [IoSliceMut::new(&mut bytes)];
        let mut space = nix::cmsg_space!([RawFd; 4]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let Ok(received) = recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), flags) else {
            return false;
        };
        let mut file = None;
        for control in received.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(files) = control {
                // SAFETY: just received, nobody else has them.
                file = files.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).next();
            }
        }
        let length = received.bytes;
        let said = String::from_utf8(bytes[..length].to_vec()).unwrap();
        let name = said.lines().find_map(|line| line.strip_prefix("FDNAME=")).map(str::to_owned);
        let mut stored = stored.lock().unwrap();
        match (name, file) {
            (Some(name), Some(file)) if said.contains("FDSTORE=1\n") => drop(stored.insert(name, file)),
            (Some(name), None) if said.contains("FDSTOREREMOVE=1\n") => drop(stored.remove(&name)),
            _ => assert!(!said.contains("FDSTORE"), "{said}"),
        }
        !said.contains("end of the test")
    }

    fn serve(&self, name: &str) -> Served {
        let stored = self.stored.lock().unwrap();
        let passed_on: Vec<(&str, &OwnedFd)> = stored.iter().map(|(name, fd)| (name.as_str(), fd)).collect();
        let mut command = Command::new(IPCSPACE);
        command.args(["serve", name]);
        if !passed_on.is_empty() {
            command = activated(name, &passed_on);
        }
        command.env("NOTIFY_SOCKET", &self.path);
        // While it starts, it may tell of more.
        drop(stored);
        Served::by(&mut command)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let socket = UnixDatagram::unbound().unwrap();
        let _ = socket.send_to(b"end of the test", &self.path);
        let _ = fs::remove_file(&self.path);
    }
}

/// The process that keeps what a served namespace has, if there is one.
fn store_of(name: &str) -> Option<Pid> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_store = |pid: &i32| {
        let of = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        of("comm") == "ipcspace-store\n" && of("cmdline").contains(name)
    };
    pids.filter(|pid| is_store(pid)).map(Pid::from_raw).next()
}

fn exec(name: &str, command: &[&str]) -> Command {
    let mut exec = Command::new(IPCSPACE);
    exec.args(["exec", name, "--"]).args(command).stdout(Stdio::piped()).stderr(Stdio::piped());
    exec
}

fn text(output: &Output) -> &str {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

fn begin_load(name: &str) -> Child {
    let mut load = exec(name, &["python3", "-c", LOAD, &KILLS.to_string()])
        .stdin(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut line = [0; 8];
    load.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"at work\n");
    load
}

/// Kills the server again and again under load. `serve` begins the next one.
fn survives(name: &str, serve: impl Fn() -> Served) {
    let mut served = serve();
    let load = begin_load(name);
    for kill in 0..KILLS {
        thread::sleep(Duration::from_millis(100 + 37 * u64::from(kill)));
        served.signal(Signal::SIGKILL);
        served.0.wait().unwrap();
        // Who comes while nobody is there, waits.
        let early = exec(name, &["ipcmk", "-Q"]).spawn().unwrap();
        thread::sleep(Duration::from_millis(50));
        served = serve();
        assert!(text(&early.wait_with_output().unwrap()).starts_with("Message queue id: "));
        let late = exec(name, &["sh", "-c", "ipcmk -M 4096 && ipcs -m >/dev/null"]).output().unwrap();
        assert!(text(&late).starts_with("Shared memory id: "));
    }
    // Its standard input ends there.
    assert_eq!(text(&load.wait_with_output().unwrap()), "done\n");
    served.signal(Signal::SIGTERM);
    assert_eq!(served.0.wait().unwrap().code(), Some(0));
    until("nothing is kept", || store_of(name).is_none());
}

#[test]
fn without_a_supervisor_the_next_of_the_name_goes_on() {
    let name = name("killed");
    survives(&name, || Served::by(Command::new(IPCSPACE).args(["serve", &name])));
}

#[test]
fn what_a_supervisor_has_stored_is_enough() {
    let name = name("supervised");
    let supervisor = Supervisor::new(&name);
    survives(&name, || {
        // As a supervisor does with what is left of a service.
        if let Some(store) = store_of(&name) {
            let _ = kill(store, Signal::SIGKILL);
            until("the store has ended", || store_of(&name).is_none());
        }
        supervisor.serve(&name)
    });
    assert!(supervisor.stored.lock().unwrap().is_empty(), "{:?}", supervisor.stored);
}

#[test]
fn a_store_that_ends_is_replaced_by_one_that_has_all() {
    let name = name("stored");
    let mut served = Served::by(Command::new(IPCSPACE).args(["serve", &name]));
    let script = "ipcmk -Q; ipcmk -S 2; ipcmk -M 4096; \
                  perl -MIPC::SysV=:all -e 'shmwrite(0, q(kept), 0, 4) or die; msgsnd(0, pack(q(l! a*), 1, q(kept)), 0) or die'";
    text(&exec(&name, &["sh", "-c", script]).output().unwrap());
    // One that makes a segment once there is another store, and goes on with what it had.
    let script = "$| = 1; $s = shmget(IPC_PRIVATE, 4096, 0600); shmwrite($s, q(first), 0, 5); print qq(up\n); <STDIN>; \
                  $t = shmget(IPC_PRIVATE, 4096, 0600); shmwrite($t, q(second), 0, 6) or die; print qq(up\n); <STDIN>; \
                  shmread($s, $x, 0, 5) and shmread($t, $y, 0, 6) or die; print qq($x $y\n)";
    let mut client =
        exec(&name, &["perl", "-MIPC::SysV=:all", "-e", script]).stdin(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(client.stdout.take().unwrap());
    let mut hear = |expected: &str| {
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, expected);
    };
    hear("up\n");
    for _ in 0..2 {
        let store = store_of(&name).unwrap();
        kill(store, Signal::SIGKILL).unwrap();
        until("there is another one", || store_of(&name).is_some_and(|other| other != store));
    }
    let mut go_on = |text: &[u8]| client.stdin.as_mut().unwrap().write_all(text).unwrap();
    go_on(b"\n");
    hear("up\n");
    // It has been asked since all was given, so that is with the store.
    text(&exec(&name, &["ipcs", "-m"]).output().unwrap());
    served.signal(Signal::SIGKILL);
    served.0.wait().unwrap();
    served = Served::by(Command::new(IPCSPACE).args(["serve", &name]));
    go_on(b"\n");
    hear("first second\n");
    assert!(client.wait().unwrap().success());
    let script = "shmread(0, $x, 0, 4) && msgrcv(0, $m, 9, 0, 0) or die; print $x, substr($m, 8), 0 + semctl(0, 0, GETVAL, 0)";
    let left = exec(&name, &["perl", "-MIPC::SysV=:all", "-e", script]).output().unwrap();
    assert_eq!(text(&left), "keptkept0");
    served.signal(Signal::SIGTERM);
    assert_eq!(served.0.wait().unwrap().code(), Some(0));
    until("nothing is kept", || store_of(&name).is_none());
}
