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

/// Calls by libc, which fail loudly. For a queue of either kind, what sends a number and what receives one.
const CALLS: &str = r#"
import ctypes, errno, os, select, signal, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
CREAT, UNDO, SETVAL, GETVAL, GETNCNT = 0o1000, 0x1000, 16, 12, 14

def check(value, what):
    if value in (-1, 2**64 - 1): raise OSError(ctypes.get_errno(), what + ": " + os.strerror(ctypes.get_errno()))
    return value
def semop(id, number, change, flags=0): check(libc.semop(id, (ctypes.c_short * 3)(number, change, flags), 1), "semop")
def value(id, number): return check(libc.semctl(id, number, GETVAL), "GETVAL")

class Queue:
    def __init__(self): self.id = check(libc.msgget(0, 0o666 | CREAT), "msgget")
    def send(self, number, type=1): check(libc.msgsnd(self.id, struct.pack("qq", type, number), 8, 0), "msgsnd")
    def receive(self, type=0):
        room = ctypes.create_string_buffer(16)
        if check(libc.msgrcv(self.id, room, 8, type, 0), "msgrcv") != 8: raise Exception("a message of another size")
        got, number = struct.unpack("qq", room.raw)
        if type not in (0, got): raise Exception("a message of type %d in the place of %d" % (got, type))
        return number

class PosixQueue:
    def __init__(self, name):
        self.name, self.fd = name.encode(), None
        check(libc.mq_open(self.name, os.O_CREAT | os.O_RDWR, 0o666, struct.pack("8q", 0, 8, 8, 0, 0, 0, 0, 0)), "mq_open")
    def mqd(self):
        # Each process has its own descriptor.
        if self.fd is None: self.fd = check(libc.mq_open(self.name, os.O_RDWR), "mq_open")
        return self.fd
    def send(self, number, priority=3): check(libc.mq_send(self.mqd(), struct.pack("q", number), 8, priority), "mq_send")
    def receive(self, expected=3):
        room, priority = ctypes.create_string_buffer(8), ctypes.c_uint()
        if check(libc.mq_receive(self.mqd(), room, 8, ctypes.byref(priority)), "mq_receive") != 8 or priority.value != expected:
            raise Exception("a message of another size or priority")
        return struct.unpack("q", room.raw)[0]

def as_other(uid, run):
    def other(*args):
        os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
        run(*args)
    other.__name__ = "%s of %d" % (run.__name__, uid)
    return other

workers = {}
def begin(run, *args):
    pid = os.fork()
    if pid == 0:
        # What was lost is waited for in vain.
        signal.alarm(60)
        try: run(*args)
        except BaseException as error:
            print(run.__name__, error, flush=True); os._exit(1)
        os._exit(0)
    workers[pid] = run.__name__
    return pid
def await_all():
    while workers:
        pid, status = os.wait()
        name = workers.pop(pid, None)
        if name and status: print(name, "ended with", status, flush=True)
os.umask(0)
"#;

/// What is at work all the time. It ends when its standard input does, and prints what it finds wrong.
const LOAD: &str = r#"
stop, stopping = os.pipe()

def goes_on(): return not select.select([stop], [], [], 0)[0]
def working(run):
    def work(*args):
        os.close(stopping)
        run(*args)
    work.__name__ = run.__name__
    return work

def send(queue):
    number = 0
    while goes_on():
        queue.send(number)
        number += 1
        if number % 16 == 0: time.sleep(0.001)
    queue.send(-1)

def receive(queue):
    next = 0
    while (number := queue.receive()) != -1:
        if number != next: raise Exception("message %d in the place of %d" % (number, next))
        next += 1
    if next < 100: raise Exception("only %d messages" % next)

def alternate(queue):
    # Each type and priority is without messages half of the time.
    number = 0
    while goes_on():
        for kind in 2, 1: queue.send(number + kind, kind)
        for kind in 2, 1:
            if queue.receive(kind) != number + kind: raise Exception("another message of kind %d" % kind)
        number += 2

def turns(set, own, other):
    done = 0
    while goes_on():
        semop(set, own, -1); semop(set, other, 1)
        done += 1
        if done % 16 == 0: time.sleep(0.001)
    semop(set, other, 1)

def undo(set):
    while goes_on():
        pid = os.fork()
        if pid == 0:
            semop(set, 0, -1, UNDO); os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
    # Its last adjustment is applied by whoever comes next, at the latest.
    semop(set, 0, -1); semop(set, 0, 1)
    if value(set, 0) != 1: raise Exception("an adjustment was lost")

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

def set_of(mode):
    set = check(libc.semget(0, 2, mode | CREAT), "semget")
    check(libc.semctl(set, 0, SETVAL, 1), "SETVAL")
    return set

def pair(first, second):
    """Two who send to each other, and take turns: the owner's processes, or others'."""
    queue, posix, set = Queue(), PosixQueue("/%s-%s" % (first, second)), set_of(0o666)
    def by(uid, run): return as_other(uid, run) if uid else run
    for kind in queue, posix: begin(by(first, working(send)), kind); begin(by(second, working(receive)), kind)
    begin(by(first, working(turns)), set, 0, 1); begin(by(second, working(turns)), set, 1, 0)
    return set

sets = [pair(0, 0)]
begin(working(alternate), Queue()); begin(working(alternate), PosixQueue("/own"))
if os.geteuid() == 0:
    sets += [pair(1000, 1001), pair(1000, 0)]
    # Of users of their own, as a user's calls are made one at a time.
    for uid in range(2000, 2004):
        for queue in Queue(), PosixQueue("/of-%d" % uid): begin(as_other(uid, working(alternate)), queue)
begin(working(undo), set_of(0o600))
begin(working(segments))
print("at work", flush=True)
sys.stdin.read()
os.close(stopping)
await_all()
for set in sets:
    # One at first, and one that each gave last.
    if value(set, 0) + value(set, 1) != 3: print("a change of a semaphore was lost or made twice", flush=True)
print("done", flush=True)
"#;

/// Strangers that sleep in each of the calls that can. They are helped at the first line, and it is looked at the second what came of it.
const SLEEPERS: &str = r#"
empty, full, posix_empty, posix_full = Queue(), Queue(), PosixQueue("/empty"), PosixQueue("/full")
set = check(libc.semget(0, 2, 0o666 | CREAT), "semget")
for queue, number in (full, 16384 // 8), (posix_full, 8):
    for at in range(number): queue.send(at)

def receive(queue):
    if queue.receive() != 7: raise Exception("another message")
def send(queue): queue.send(8)
def change(set): semop(set, 0, -1)
def wait(set): semop(set, 1, 0)
def is_told(call, *args):
    try: call(*args)
    except OSError as error:
        if error.errno == errno.EIDRM: return
        raise
    raise Exception("nothing of the removal")
def within(outer, inner):
    def handle(_):
        if inner.receive() != 7: raise Exception("another message within")
    function = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)
    check(libc.signal(signal.SIGUSR1, function), "signal")
    while True:
        try: got = outer.receive()
        except OSError as error:
            if error.errno == errno.EINTR: continue
            raise
        if got != 7: raise Exception("another message after")
        return

semop(set, 1, 1)
for run, *args in (receive, empty), (receive, posix_empty), (send, full), (send, posix_full), (change, set), (wait, set):
    begin(as_other(1000, run), *args)
removed, removed_set = Queue(), check(libc.semget(0, 2, 0o666 | CREAT), "semget")
for call, *args in (removed.receive,), (change, removed_set): begin(as_other(1000, is_told), call, *args)
nested = Queue(), Queue()
both = begin(as_other(1000, within), *nested)
time.sleep(0.3)
os.kill(both, signal.SIGUSR1)
time.sleep(0.3)
print("asleep", flush=True)
sys.stdin.readline()
for queue in empty, posix_empty, *nested: queue.send(7)
# With the next broker, they have to be asleep again first.
while check(libc.semctl(removed_set, 0, GETNCNT), "GETNCNT") == 0: time.sleep(0.01)
time.sleep(0.3)
check(libc.msgctl(removed.id, 0, None), "IPC_RMID"); check(libc.semctl(removed_set, 0, 0), "IPC_RMID")
got = [full.receive(), posix_full.receive()]
semop(set, 0, 1); semop(set, 1, -1)
print("helped", flush=True)
sys.stdin.readline()
await_all()
for queue, number in (full, 16384 // 8), (posix_full, 8):
    got = [queue.receive() for _ in range(number)]
    if got != list(range(1, number)) + [8]: print("not what was sent:", got, flush=True)
if (value(set, 0), value(set, 1)) != (0, 0): print("changed", value(set, 0), value(set, 1), flush=True)
for queue, number in (empty, 1), (posix_empty, 1): begin(as_other(1000, receive), queue); queue.send(7)
await_all()
print("done", flush=True)
"#;

/// Strangers whose kind of messages is not the only one without any. They are stopped after the first line, while a message is on its way to
/// them that their connection has no room for; and go on after the second.
const HALF_GIVEN: &str = r#"
text = bytes(range(256)) * 1200
size = len(text)
queue = check(libc.msgget(0, 0o666 | CREAT), "msgget")
posix = check(libc.mq_open(b"/large", os.O_CREAT | os.O_RDWR, 0o666, struct.pack("8q", 0, 2, size, 0, 0, 0, 0, 0)), "mq_open")

def msgrcv(kind):
    room = ctypes.create_string_buffer(8 + size)
    length = check(libc.msgrcv(queue, room, size, kind, 0), "msgrcv")
    return struct.unpack_from("q", room)[0], room.raw[8:8 + length]
def mq_receive(kind):
    room, priority = ctypes.create_string_buffer(size), ctypes.c_uint()
    length = check(libc.mq_receive(mqd, room, size, ctypes.byref(priority)), "mq_receive")
    return priority.value, room.raw[:length]
def stranger(receive):
    global mqd
    mqd = check(libc.mq_open(b"/large", os.O_RDWR), "mq_open")
    if receive(2) != (2, b"first"): raise Exception("another message at first")
    os.write(ready, b"r"); os.read(go, 1)
    if receive(1) != (1, text): raise Exception("another message")

for kind, sent in (2, b"first"), (1, text):
    check(libc.msgsnd(queue, struct.pack("q", kind) + sent, len(sent), 0), "msgsnd")
    check(libc.mq_send(posix, sent, len(sent), kind), "mq_send")
(go, going), (heard, ready) = os.pipe(), os.pipe()
for uid, receive in (1000, msgrcv), (1001, mq_receive):
    begin(as_other(uid, stranger), receive); os.read(heard, 1)
print("ready", flush=True)
sys.stdin.readline()
os.write(going, b"gg")
time.sleep(0.3)
for pid in workers: os.kill(pid, signal.SIGSTOP)
print("stopped", flush=True)
sys.stdin.readline()
for pid in workers: os.kill(pid, signal.SIGCONT)
await_all()
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

/// A script that has begun when it has said so.
fn begin(name: &str, script: &str, says: &str) -> Child {
    let mut begun = exec(name, &["python3", "-c", &[CALLS, script].concat()])
        .stdin(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    hear(&mut begun, says);
    begun
}

/// Waits until it says that.
fn hear(script: &mut Child, says: &str) {
    let mut line = vec![0; says.len() + 1];
    script.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(str::from_utf8(&line), Ok(format!("{says}\n").as_str()));
}

fn go_on(script: &mut Child) {
    script.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
}

/// Kills the server again and again under load. `serve` begins the next one.
fn survives(name: &str, serve: impl Fn() -> Served) {
    let mut served = serve();
    let load = begin(name, LOAD, "at work");
    let stranger: &[&str] = match nix::unistd::geteuid().is_root() {
        true => &["setpriv", "--reuid=1002", "--regid=1002", "--clear-groups"],
        false => &["env"],
    };
    for kill in 0..KILLS {
        thread::sleep(Duration::from_millis(100 + 37 * u64::from(kill)));
        served.signal(Signal::SIGKILL);
        served.0.wait().unwrap();
        // Who comes while nobody is there, waits.
        let early = [&[], stranger].map(|by| exec(name, &[by, &["ipcmk", "-Q"]].concat()).spawn().unwrap());
        thread::sleep(Duration::from_millis(50));
        served = serve();
        for early in early {
            assert!(text(&early.wait_with_output().unwrap()).starts_with("Message queue id: "));
        }
        for by in [&[], stranger] {
            let joins: &[&str] = &["sh", "-c", "ipcmk -M 4096 && ipcs -m >/dev/null"];
            let late = exec(name, &[by, joins].concat()).output().unwrap();
            assert!(text(&late).starts_with("Shared memory id: "));
        }
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
fn strangers_that_sleep_go_on_with_the_next() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let name = name("asleep");
    let serve = || Served::by(Command::new(IPCSPACE).args(["serve", &name]));
    for helped_meanwhile in [true, false] {
        let mut served = serve();
        let mut sleepers = begin(&name, SLEEPERS, "asleep");
        served.signal(Signal::SIGKILL);
        served.0.wait().unwrap();
        if helped_meanwhile {
            go_on(&mut sleepers);
            hear(&mut sleepers, "helped");
        }
        served = serve();
        if !helped_meanwhile {
            go_on(&mut sleepers);
            hear(&mut sleepers, "helped");
        }
        go_on(&mut sleepers);
        assert_eq!(text(&sleepers.wait_with_output().unwrap()), "done\n");
        served.signal(Signal::SIGTERM);
        assert_eq!(served.0.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_message_that_was_on_its_way_comes_with_the_next() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let name = name("half-given");
    let limits = ["kernel.msgmax=1000000", "kernel.msgmnb=1000000", "fs.mqueue.msgsize_max=1000000"];
    let serve = || {
        let mut command = Command::new(IPCSPACE);
        command.args(["serve", "--ulimit", "msgqueue=unlimited"]);
        command.args(limits.iter().flat_map(|limit| ["--sysctl", limit])).arg(&name);
        Served::by(&mut command)
    };
    let mut served = serve();
    let mut strangers = begin(&name, HALF_GIVEN, "ready");
    served.signal(Signal::SIGSTOP);
    go_on(&mut strangers);
    hear(&mut strangers, "stopped");
    served.signal(Signal::SIGCONT);
    thread::sleep(Duration::from_millis(300));
    served.signal(Signal::SIGKILL);
    served.0.wait().unwrap();
    served = serve();
    go_on(&mut strangers);
    assert_eq!(text(&strangers.wait_with_output().unwrap()), "done\n");
    served.signal(Signal::SIGTERM);
    assert_eq!(served.0.wait().unwrap().code(), Some(0));
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
