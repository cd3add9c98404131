//! Strangers: processes of other users, and of other user and PID namespaces, with the rights that they have in a namespace. That each call does for them what
//! it does for everybody is what `conformance --door stranger` shows.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::{env, fs, process};

use client::wire::calls;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr};

const IPCSPACE: &str = env!("CARGO_BIN_EXE_ipcspace");

/// What the scripts share. `as_` makes the rest the calls of a user and a group, with supplementary groups.
const PYTHON: &str = "
import ctypes, errno, os, signal, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
IPC_STAT, IPC_SET, IPC_RMID, CREAT, NOWAIT = 2, 1, 0, 0o1000, 0o4000
def done(value):
    return value if value != -1 else errno.errorcode[ctypes.get_errno()]
def get(key=0, mode=0o600): return done(libc.msgget(key, mode | CREAT))
def snd(q, text=b'x'): return done(libc.msgsnd(q, struct.pack('q', 1) + text, len(text), NOWAIT))
def rcv(q, flags=NOWAIT):
    room = ctypes.create_string_buffer(100)
    size = libc.msgrcv(q, room, 92, 0, flags)
    return done(size) if size == -1 else room.raw[8:8 + size].decode()
def stat(q):
    room = ctypes.create_string_buffer(120)
    return done(-1) if libc.msgctl(q, IPC_STAT, room) else struct.unpack_from('i5I', room.raw) + struct.unpack_from('ii', room.raw, 96)
def set_(q, uid, gid, mode):
    room = bytearray(120); struct.pack_into('iIIIII', room, 0, 0, uid, gid, 0, 0, mode); struct.pack_into('Q', room, 88, 16384)
    return done(libc.msgctl(q, IPC_SET, bytes(room)))
def rm(q): return done(libc.msgctl(q, IPC_RMID, None))
def as_(uid, gid=65534, groups=()):
    os.setgroups(groups); os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid)
def child(run, *args):
    pid = os.fork()
    if pid == 0:
        try: run(*args)
        finally: sys.stdout.flush(); os._exit(0)
    return os.waitpid(pid, 0)[1]
";

/// Whether this can be tried; says so if not.
fn possible() -> bool {
    let python =
        Command::new("python3").args(["-c", "import ctypes"]).output().is_ok_and(|o| o.status.success());
    if !nix::unistd::geteuid().is_root() || !python {
        eprintln!("not tested: this needs root, to be other users, and python3");
        return false;
    }
    true
}

fn ours(script: &str) -> Output {
    ours_with(&[], script)
}

fn ours_with(sysctls: &[&str], script: &str) -> Output {
    let options: Vec<&str> = sysctls.iter().flat_map(|sysctl| ["--sysctl", sysctl]).collect();
    ours_by("", &options, script)
}

/// By a `run` with these options, as on a kernel that lacks this.
fn ours_by(without: &str, options: &[&str], script: &str) -> Output {
    let mut command = Command::new(IPCSPACE);
    let script = format!("{PYTHON}{script}");
    command.env("IPCSPACE_WITHOUT", without).arg("run").args(options).args(["--", "python3", "-c", &script]);
    command.output().unwrap()
}

/// What a script prints on ours, with these limits.
fn prints_with(sysctls: &[&str], script: &str, expected: &str) {
    if possible() {
        let output = ours_with(sysctls, script);
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
    }
}

/// What a script prints, on ours and in an IPC namespace of the kernel.
fn prints(script: &str, expected: &str) {
    if !possible() {
        return;
    }
    let whole = format!("{PYTHON}{script}");
    let kernel = Command::new("unshare").args(["--ipc", "python3", "-c", &whole]).output().unwrap();
    for output in [kernel, ours(script)] {
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn rights_are_those_of_owner_groups_and_others() {
    prints(
        "
q = [get(mode=m) for m in (0o600, 0o640, 0o604, 0o606, 0o060, 0o666)]
for each in q: set_(each, 1000, 2000, [0o600, 0o640, 0o604, 0o606, 0o060, 0o666][q.index(each)]); snd(each)
def look(who, *args):
    as_(*args)
    print(who, *[('r' if not isinstance(stat(each), str) else '-') + ('w' if snd(each) == 0 else '-') for each in q], flush=True)
child(look, 'owner', 1000)
child(look, 'group', 1001, 2000)
child(look, 'supplementary', 1001, 65534, (5, 2000))
child(look, 'other', 1001)
",
        "owner rw rw rw rw -- rw\ngroup -- r- -- -- rw rw\nsupplementary -- r- -- -- rw rw\nother -- -- r- rw -- rw\n",
    );
}

#[test]
fn who_may_change_and_remove() {
    prints(
        "
def act(uid, expected):
    as_(uid); print(uid, set_(q, 1000, 65534, 0o666), rm(q), flush=True)
q = get(mode=0o666); set_(q, 1000, 65534, 0o666)
child(act, 1001, 0)
child(act, 1000, 0)
def make():
    as_(1000); made = get(77, 0o600); print(stat(made)[1:6], flush=True)
child(make)
q = get(77, 0); print(rm(q))
",
        "1001 EPERM EPERM\n1000 0 0\n(1000, 65534, 1000, 65534, 384)\n0\n",
    );
}

#[test]
fn files_are_everybodys_to_read_and_the_owners_to_write() {
    prints(
        "
get(0x77, 0o640); libc.semget(0x78, 3, 0o600 | CREAT); at = libc.shmget(0x79, 8192, 0o604 | CREAT)
def read(name): return open('/proc/' + name).read()
def write(name, text):
    try:
        with open('/proc/' + name, 'w') as file: file.write(text)
        return 'written'
    except OSError as error: return errno.errorcode[error.errno]
def look():
    as_(1000)
    for kind in ('msg', 'sem', 'shm'): print(*[row.split()[:4] for row in read('sysvipc/' + kind).splitlines()[1:]])
    print(read('sys/kernel/msgmni').strip(), read('sys/kernel/sem').split(), write('sys/kernel/msgmni', '7'), write('sys/kernel/sem_next_id', '7'))
    sys.stdout.flush()
print(write('sys/kernel/msgmni', '31000'), flush=True)
child(look)
print(read('sys/kernel/msgmni').strip(), write('sys/kernel/msgmni', '32000'))
",
        "written\n['119', '0', '640', '0']\n['120', '0', '600', '3']\n['121', '0', '604', '8192']\n\
         31000 ['32000', '1024000000', '500', '32000'] EACCES EACCES\n31000 written\n",
    );
}

#[test]
fn the_credentials_are_those_of_each_call() {
    prints(
        "
q = get(mode=0o600); set_(q, 1001, 65534, 0o600); p = get(mode=0o600); set_(p, 65534, 3000, 0o060)
def change():
    os.setgroups([]); os.setresgid(3001, 3001, 3001); os.setresuid(1000, 1000, 1001)
    print(snd(q), end=' ')
    os.seteuid(1001); print(snd(q), end=' ')
    os.seteuid(1000); print(snd(q))
def groups():
    os.setgroups([]); os.setresuid(0, 0, 0); os.setgroups([3000]); os.setresgid(7, 7, 7)
    os.setresuid(1000, 1000, 1000); print(snd(p), end=' ')
    sys.stdout.flush()
    if os.fork() == 0: print(snd(p)); sys.stdout.flush(); os._exit(0)
    os.wait()
child(change); child(groups)
",
        "EACCES 0 EACCES\n0 0\n",
    );
}

#[test]
fn friends_and_strangers_talk_sleep_and_wake() {
    prints(
        "
q = get(mode=0o666); s = done(libc.semget(0, 2, 0o666 | CREAT))
def stranger():
    as_(1000); print(rcv(q, 0), flush=True); snd(q, b'answer')
    libc.semop(s, struct.pack('hhh', 1, 1, 0x1000), 1); libc.semop(s, struct.pack('hhh', 0, -1, 0), 1)
    print('through', flush=True)
pid = os.fork()
if pid == 0: stranger(); os._exit(0)
time.sleep(0.2); snd(q, b'question'); time.sleep(0.1); print(rcv(q, 0), flush=True)
libc.semop(s, struct.pack('hhh', 1, -1, 0), 1); print(libc.semctl(s, 0, 14), flush=True)
libc.semop(s, struct.pack('hhh', 0, 1, 0), 1); os.waitpid(pid, 0); print(libc.semctl(s, 1, 12))
",
        "question\nanswer\n1\nthrough\n0\n",
    );
}

#[test]
fn a_segment_is_had_with_no_more_rights_than_its_mode_gives() {
    prints(
        "
m = done(libc.shmget(0, 4096, 0o604 | CREAT)); at = libc.shmat(m, None, 0); ctypes.memmove(at, b'secret', 6)
w = done(libc.shmget(0, 4096, 0o666 | CREAT)); n = done(libc.shmget(0, 4096, 0o600 | CREAT))
def reads():
    as_(1000); at = libc.shmat(m, None, 0o10000); print(ctypes.string_at(at, 6).decode(), end=' ')
    print(libc.shmat(m, None, 0) == 2**64 - 1, libc.shmat(n, None, 0o10000) == 2**64 - 1, libc.mprotect(ctypes.c_void_p(at), 4096, 3) == 0, flush=True)
    ctypes.memmove(at, b'x', 1)
def writes():
    as_(1000); at = libc.shmat(w, None, 0); ctypes.memmove(at, b'from afar', 9)
print(child(reads) & 127 == signal.SIGSEGV, child(writes)); at = libc.shmat(w, None, 0); print(ctypes.string_at(at, 9).decode())
libc.shmctl(w, IPC_RMID, None); libc.shmdt(ctypes.c_void_p(at)); print(done(libc.shmctl(w, IPC_STAT, ctypes.create_string_buffer(112))))
",
        "secret True True False\nTrue 0\nfrom afar\nEINVAL\n",
    );
}

#[test]
fn a_change_of_mode_is_for_attaches_to_come() {
    prints(
        "
w = libc.shmget(0, 4096, 0o666 | CREAT); attached, goes_on = os.pipe(), os.pipe()
def attach(flags=0):
    at = libc.shmat(w, None, flags); return at if at != 2**64 - 1 else errno.errorcode[ctypes.get_errno()]
def set_mode(mode):
    room = bytearray(112); struct.pack_into('iIIIII', room, 0, 0, 0, 0, 0, 0, mode); return done(libc.shmctl(w, IPC_SET, bytes(room)))
if os.fork() == 0:
    as_(1000); at = attach()
    for modes in range(3):
        os.write(attached[1], b'x'); os.read(goes_on[0], 1)
        ctypes.memset(at, 97 + modes, 1)
        print([again if isinstance(again, str) else libc.shmdt(ctypes.c_void_p(again)) for again in (attach(), attach(0o10000))], flush=True)
    os._exit(0)
for mode in (0o600, 0o604, 0o606):
    os.read(attached[0], 1); set_mode(mode); os.write(goes_on[1], b'x')
os.wait(); print(ctypes.string_at(attach(), 1))
",
        "['EACCES', 'EACCES']\n['EACCES', 0]\n[0, 0]\nb'c'\n",
    );
}

#[test]
fn ids_are_those_of_the_callers_user_and_pid_namespace() {
    if !possible() {
        return;
    }
    let inner = format!(
        "{PYTHON}print(get(5, 0o666), stat(0)[1:6], snd(0), stat(0)[6] == os.getpid(), set_(0, 7, 7, 0o600))
row = open('/proc/sysvipc/msg').read().splitlines()[1].split(); print(row[7:11], row[5] == str(os.getpid()))"
    );
    let dir = env::temp_dir().join(format!("ipcspace-strangers-{}", process::id()));
    fs::create_dir(&dir).unwrap();
    let (file, outer) = (dir.join("inner.py"), dir.join("outer.py"));
    fs::write(&file, inner).unwrap();
    for flags in ["-Ur", "-Urpf --mount-proc"] {
        let user = "setpriv --reuid=1000 --regid=1000 --clear-groups";
        if !Command::new("sh")
            .args(["-c", &format!("{user} unshare {flags} true")])
            .status()
            .unwrap()
            .success()
        {
            eprintln!("not tested: this machine allows no unshare {flags}");
            continue;
        }
        fs::write(&outer, format!("{PYTHON}print(stat(get(5, 0))[1:6])")).unwrap();
        let script =
            format!("cd /; {user} unshare {flags} python3 {0}; python3 {1}", file.display(), outer.display());
        for command in [vec!["unshare", "--ipc", "sh", "-c"], vec![IPCSPACE, "run", "--", "sh", "-c"]] {
            let output = Command::new(command[0]).args(&command[1..]).arg(&script).output().unwrap();
            // Inside it is root's; 7 is nobody there.
            let expected = "0 (0, 0, 0, 0, 438) 0 True EINVAL\n['0', '0', '0', '0'] True\n(1000, 1000, 1000, 1000, 438)\n";
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
        }
    }
    fs::remove_dir_all(dir).unwrap();
}

/// A namespace whose broker outlives the test's evil.
struct Running {
    command: Child,
    socket: PathBuf,
}

impl Running {
    /// One with a name, which others can come into.
    fn new() -> Running {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("strangers-{}-{}", process::id(), NUMBER.fetch_add(1, Relaxed));
        Running::by(&["-n", &name])
    }

    fn by(options: &[&str]) -> Running {
        let mut command = Command::new(IPCSPACE)
            .arg("run")
            .args(options)
            .args([
                "--",
                "sh",
                "-c",
                "ipcmk -Q -p 0666 >&2; echo $IPCSPACE_SOCKET; read x; ipcs -q | grep -c 0x; exit 7",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(command.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Running { command, socket: line.trim_end().into() }
    }

    /// Another stranger can do its work still.
    fn serves(&self, script: &str) -> String {
        let script = format!("{PYTHON}as_(1000); {script}");
        let library = fs::read_to_string(format!("/proc/{}/environ", self.shell())).unwrap();
        let library = library.split('\0').find_map(|v| v.strip_prefix("LD_PRELOAD=")).unwrap().to_owned();
        let output = Command::new("python3")
            .args(["-c", &script])
            .envs([("IPCSPACE_SOCKET", self.socket.as_os_str()), ("LD_PRELOAD", library.as_ref())])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn shell(&self) -> i32 {
        let directory = fs::read_dir("/proc").unwrap().flatten();
        let mut pids = directory.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let wanted = format!("IPCSPACE_SOCKET={}", self.socket.display());
        let is_it = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/environ"))
                .is_ok_and(|env| env.split('\0').any(|v| v == wanted))
        };
        pids.find(is_it).unwrap()
    }

    fn ends(mut self) {
        self.command.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert_eq!(self.command.wait().unwrap().code(), Some(7));
    }

    fn connect(&self, question: &[u32; 4]) -> Option<OwnedFd> {
        let link =
            socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        socket::connect(link.as_raw_fd(), &UnixAddr::new(&self.socket).unwrap()).unwrap();
        let bytes: Vec<u8> = question.iter().flat_map(|word| word.to_ne_bytes()).collect();
        socket::send(link.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL).unwrap();
        let mut answer = [0; 16];
        let got = socket::recv(link.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap();
        (got == 16 && answer[4..8] == [0; 4]).then_some(link)
    }
}

const ASK_CALLS: u32 = 26;

fn magic() -> u32 {
    client::wire::MAGIC
}

#[test]
fn nonsense_does_not_harm() {
    if !possible() {
        return;
    }
    let running = Running::new();
    let heads: Vec<Vec<u64>> = vec![
        vec![],
        vec![1],
        vec![0; 13],
        vec![u64::MAX; 13],
        // A call whose memory is not there, or more than was sent.
        vec![1, 69, 0, 0, 8, 0, 0, 0, 0, 100, 0, 0, 0],
        vec![1, 69, 0, 0, 8, 0, 0, 0, u64::MAX, u64::MAX, u64::MAX, u64::MAX, 0],
        vec![2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![1, 999, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        // One that sleeps, and is left alone.
        vec![1, 70, 0, 4096, 8, 0, 0, 0, 0, 0, 0, 0, 0],
        // One that sends, and does not say what.
        vec![1, 69, 0, 4096, 8, 0, 0, 0, 0, 0, 0, 0, 0],
    ];
    let mut open = Vec::new();
    for head in &heads {
        for question in [[magic(), ASK_CALLS, 0, 0], [magic(), ASK_CALLS, 1, 9]] {
            let link = running.connect(&question).expect("it is served");
            let bytes: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).collect();
            for bytes in [&bytes[..], &bytes[..bytes.len().saturating_sub(3)]] {
                let _ = socket::send(link.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL);
            }
            open.push(link);
        }
    }
    for question in [[0, ASK_CALLS, 0, 0], [magic(), 999, 0, 0]] {
        assert!(running.connect(&question).is_none());
    }
    assert_eq!(running.serves("print(snd(0), get())"), "0 1\n");
    drop(open);
    assert_eq!(running.serves("print(get())"), "2\n");
    running.ends();
}

#[test]
fn who_lies_about_what_it_had_attached_changes_nothing_of_others() {
    let script = format!(
        "
import socket
def shm(mode): return done(libc.shmget(0, 4096, mode | CREAT))
def told(seg):
    room = ctypes.create_string_buffer(112)
    return done(-1) if libc.shmctl(seg, IPC_STAT, room) else (struct.unpack_from('q', room.raw, 64)[0] > 0, struct.unpack_from('i', room.raw, 84)[0] > 0)
def lie(segs):
    as_(1000)
    for seg in segs:
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(os.environ['{env}'])
        s.send(struct.pack('4I', {magic}, {ASK_CALLS}, 0, 0)); s.recv(16)
        head = lambda *words: struct.pack('13Q', *words, *[0] * (13 - len(words)))
        s.send(head({call}, 67, 0x10000000))
        assert struct.unpack_from('Q', s.recv(104))[0] == {unmap}
        s.send(head({done}, 0, seg))
        assert struct.unpack_from('2Q', s.recv(104)) == ({answer}, 0)
segs = shm(0o600), shm(0o604)
assert child(lie, segs) == 0
print(*map(told, segs))
",
        env = client::wire::SOCKET_ENV,
        magic = magic(),
        call = calls::CALL,
        unmap = calls::UNMAP,
        done = calls::DONE,
        answer = calls::ANSWER,
    );
    // What it could have attached it could have detached.
    prints_with(&[], &script, "(False, False) (True, True)\n");
    prints_with(&["kernel.shm_rmid_forced=1"], &script, "(False, False) EINVAL\n");
}

#[test]
fn too_many_connections_of_one_user_leave_room_for_others() {
    if !possible() {
        return;
    }
    let running = Running::new();
    // This one is root's, but asks as strangers do.
    let question = [magic(), ASK_CALLS, 0, 0];
    let open: Vec<OwnedFd> = (0..300).map_while(|_| running.connect(&question)).collect();
    assert_eq!(open.len(), 256);
    assert_eq!(running.serves("print(snd(0))"), "0\n");
    drop(open);
    running.ends();
}

#[test]
fn a_user_has_so_many_objects_and_others_as_many() {
    prints_with(
        &["ipcspace.stranger_objects=3"],
        "
def makes(uid):
    as_(uid); print(uid, get(uid), done(libc.semget(0, 1, 0o600 | CREAT)), done(libc.shmget(0, 1, 0o600 | CREAT)), end=' ')
    print(get(), done(libc.semget(0, 1, 0o600 | CREAT)), done(libc.shmget(0, 1, 0o600 | CREAT)), get(uid), end=' ')
    print(rm(get(uid)), get() > 0, get(), flush=True)
child(makes, 1000); child(makes, 1001)
print('owner', all(get() > 0 for _ in range(9)))
def again():
    as_(1000); print(get() > 0, get(), flush=True)
def nothing():
    as_(1000); print(get(), flush=True)
child(nothing); libc.semctl(0, 0, IPC_RMID); child(again)
",
        "1000 0 0 0 ENOSPC ENOSPC ENOSPC 0 0 True ENOSPC\n1001 2 1 1 ENOSPC ENOSPC ENOSPC 2 0 True ENOSPC\nowner True\nENOSPC\nTrue ENOSPC\n",
    );
}

#[test]
fn what_a_user_has_made_holds_so_many_bytes() {
    prints_with(
        &["ipcspace.stranger_bytes=40000", "kernel.msgmnb=1000000"],
        "
q = get(mode=0o666)
def fill(q):
    count = 0
    while (error := snd(q, b'x' * 1000)) == 0: count += 1
    return count, error
def holds():
    as_(1000); own = get(mode=0o666); print(fill(own), snd(own), rcv(own, 0o14000) != 'E2BIG', snd(own, b'x' * 500), flush=True)
    print(done(libc.shmget(0, 4096, 0o600 | CREAT)), done(libc.semget(0, 1000, 0o600 | CREAT)), rm(own), end=' ')
    print(done(libc.shmget(0, 40000, 0o600 | CREAT)), done(libc.shmget(0, 20000, 0o600 | CREAT)), end=' ')
    s = done(libc.semget(0, 2000, 0o600 | CREAT)); print(s, done(libc.semop(s, struct.pack('hhh', 0, 1, 0x1000), 1)))
    print(fill(q)[0] > 800, flush=True)
child(holds)
",
        "(35, 'ENOMEM') 0 True 0\nENOSPC ENOSPC 0 ENOSPC 0 0 ENOMEM\nTrue\n",
    );
}

#[test]
fn so_many_calls_of_a_user_sleep() {
    prints_with(
        &["ipcspace.stranger_waiters=2"],
        "
q = get(mode=0o666); s = done(libc.semget(0, 1, 0o666 | CREAT)); pids = []
def sleeps():
    pid = os.fork()
    if pid == 0:
        as_(1000); print(rcv(q, 0), flush=True); os._exit(0)
    pids.append(pid); time.sleep(0.2)
sleeps(); sleeps(); sleeps(); os.waitpid(pids.pop(), 0)
def others():
    as_(1001); print(done(libc.semtimedop(s, struct.pack('hhh', 0, -1, 0), 1, struct.pack('qq', 0, 1000))), flush=True)
child(others)
for _ in pids: snd(q, b'awake'); os.wait()
",
        "ENOMEM\nEAGAIN\nawake\nawake\n",
    );
}

#[test]
fn who_says_nothing_keeps_nobody_waiting() {
    if !possible() {
        return;
    }
    let running = Running::new();
    let address = UnixAddr::new(&running.socket).unwrap();
    let silent = || {
        let kind = (AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
        let link = socket::socket(kind.0, kind.1, kind.2, None).unwrap();
        socket::connect(link.as_raw_fd(), &address).unwrap();
        link
    };
    let open: Vec<OwnedFd> = (0..100).map(|_| silent()).collect();
    assert!(running.connect(&[magic(), ASK_CALLS, 0, 0]).is_some());
    // One after the other, each would have been waited for before that, and sent away.
    let is_open = |link: &OwnedFd| {
        socket::recv(link.as_raw_fd(), &mut [0; 16], MsgFlags::MSG_DONTWAIT) == Err(nix::Error::EAGAIN)
    };
    assert!(open.iter().any(is_open));
    assert_eq!(running.serves("print(snd(0))"), "0\n");
    drop(open);
    running.ends();
}

/// Nobody comes into an IPC namespace of the kernel's who was not started in it: nor do strangers into one without a name, or one that is made in it.
#[test]
fn a_namespace_without_a_name_admits_descendants_only() {
    if !possible() {
        return;
    }
    let running = Running::by(&[]);
    assert_eq!(running.serves("print(get())"), "EACCES\n");
    running.ends();
    // Whoever started it, and whoever its parent is by now.
    let script = "
read, write = os.pipe()
if os.fork() == 0:
    if os.fork() != 0: os._exit(0)
    time.sleep(0.2); as_(1000); os.write(write, str(get()).encode()); os._exit(0)
os.wait(); print(os.read(read, 10).decode())
";
    prints_with(&[], script, "0\n");
    let inside = format!("{PYTHON}{script}");
    let output = Command::new(IPCSPACE)
        .args(["run", "--", "unshare", "--ipc", "python3", "-c", &inside])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n", "{output:?}");
}

#[test]
fn what_takes_long_to_close_keeps_nobody_waiting() {
    use client::wire::{ASK_STATUS, ASK_TAKE, GIVEN, SOCKET_ENV};
    // TCP sockets that are to linger, as what they have sent is not taken: nobody else has them any more when the broker meets them.
    let script = format!(
        "
import array, socket
path = os.environ['{SOCKET_ENV}']
def connect(path=path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(5); s.connect(path); return s
def ask(which):
    s = connect(); s.send(struct.pack('4I', {magic}, which, 0, 0))
    begun = time.monotonic(); answer = s.recv(100)
    return struct.unpack('8I', answer.ljust(32, b'\\0'))[6], time.monotonic() - begun
def lingering():
    a = socket.socket(); a.connect(listener.getsockname()); open_.append(listener.accept()[0]); a.setblocking(False)
    try:
        while True: a.send(b'x' * 65536)
    except BlockingIOError: pass
    a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 60))
    return a
def give(s, text):
    with lingering() as a: s.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [a.fileno()]))])
def harm():
    as_(1000)
    question = struct.pack('4I', {magic}, {ASK_STATUS}, 0, 0)
    links = connect(), connect(), connect()
    # Where the owner gives its files nobody else gets in, to linger there or to take up the room.
    try: connect(path + '{GIVEN}'); return
    except PermissionError: os.write(written, b'closed ')
    give(links[0], question)
    links[1].send(question); give(links[1], b'more')
    links[2].send(struct.pack('4I', {magic}, {ASK_CALLS}, 0, 0)); links[2].send(b''); give(links[2], b''); links[2].close()
listener = socket.socket(); listener.bind(('127.0.0.1', 0)); listener.listen(); open_ = []
broker, _ = ask({ASK_STATUS})
done, written = os.pipe()
os.kill(broker, signal.SIGSTOP)
pid = os.fork()
if pid == 0:
    try: harm(); os.write(written, b'done')
    finally: os.write(written, b'.'); os.close(written)
    signal.pause()
os.close(written); told = b''
while not told.endswith(b'.'): told += os.read(done, 20)
os.kill(broker, signal.SIGCONT)
took = []
for _ in range(50): took += [ask(which)[1] for which in ({ASK_STATUS}, {ASK_TAKE})]; time.sleep(0.01)
# While the user's threads are at those: what has nothing with it is not left to them.
if os.fork() == 0:
    as_(1000); question = struct.pack('4I', {magic}, {ASK_STATUS}, 0, 0)
    for _ in range(600): s = connect(); s.send(question); s.send(b'more'); s.close()
    os._exit(0)
os.wait(); ask({ASK_STATUS})
print(told.decode(), max(took) < 2, len(os.listdir(f'/proc/{{broker}}/fd')) < 200)
os.kill(pid, signal.SIGKILL)
",
        magic = magic()
    );
    prints_with(&[], &script, "closed done. True True\n");
}

#[test]
fn a_stranger_that_is_killed_leaves_nothing_begun() {
    if !possible() {
        return;
    }
    let script = "
q = get(mode=0o666); s = done(libc.semget(0, 1, 0o666 | CREAT))
def sleeps():
    as_(1000); libc.semop(s, struct.pack('hhh', 0, 5, 0x1000), 1); rcv(q, 0)
for _ in range(30):
    pid = os.fork()
    if pid == 0: sleeps()
    while libc.semctl(s, 0, 12) != 5: time.sleep(0.001)
    time.sleep(0.002); os.kill(pid, 9); os.waitpid(pid, 0)
    if libc.semctl(s, 0, 12) != 0: print('kept')
    snd(q, b'here')
    if rcv(q) != 'here': print('lost')
print('done', stat(q)[0])
";
    let output = ours(script);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("done") && output.status.success(), "{output:?}");
}

/// POSIX queues, for scripts.
const QUEUES: &str = "
import select
RD, WR, RW, MAKE = 0, 1, 2, 0o102
def mq(name, how, mode=0): return done(libc.mq_open(name, how, mode, struct.pack('8q', 0, 2, 16, 0, 0, 0, 0, 0)))
def put(q, text): return done(libc.mq_send(q, text, len(text), 1))
def take(q):
    room = ctypes.create_string_buffer(16)
    size = libc.mq_receive(q, room, 16, None)
    return done(size) if size == -1 else room.raw[:size].decode()
def shown(*queues):
    poll = select.poll()
    for q in queues: poll.register(q, 5)
    return dict(poll.poll(0))
def notify(q, signo): return done(libc.mq_notify(q, struct.pack('qii48x', 7, signo, 0)))
def told():
    info = signal.sigtimedwait({signal.SIGUSR1}, 10)
    return info and (info.si_code, info.si_pid, info.si_uid)
os.umask(0)
";

/// Runs a script with queues, and expects what it prints.
fn prints_of_queues(script: &str, expected: &str) {
    prints(&(QUEUES.to_owned() + script), expected);
}

#[test]
fn a_posix_queue_is_used_with_the_rights_that_its_mode_gives() {
    prints_of_queues(
        "
q = mq(b'/q', MAKE, 0o604)
put(q, b'hello'); put(q, b'you')
def stranger():
    as_(1000)
    print(mq(b'/q', RW), mq(b'/q', WR), done(libc.mq_unlink(b'/q')), end=' ')
    r = mq(b'/q', RD)
    print(shown(r)[r], put(r, b'x'), take(r), shown(r)[r], take(r), shown(r)[r])
    own = mq(b'/own', MAKE, 0o622)
    print(put(own, b'mine'), os.fstat(own).st_uid, os.fstat(r).st_uid, os.read(own, 10).decode())
    # What is given on is what it was.
    pid = os.fork()
    if pid == 0: print(take(own), flush=True); os._exit(0)
    os.waitpid(pid, 0)
child(stranger)
as_(1001)
print(mq(b'/own', RD), put(mq(b'/own', WR), b'other'))
",
        "EACCES EACCES EACCES 1 EBADF hello 5 you 4\n0 1000 0 QSIZE:4   \nmine\nEACCES 0\n",
    );
}

#[test]
fn who_waits_at_a_posix_queue_is_woken_by_whoever_it_is() {
    prints_of_queues(
        "
q = mq(b'/q', MAKE, 0o666)
def stranger(user):
    as_(user); s = mq(b'/q', RW)
    text = take(s)
    put(mq(b'/back', WR), text[::-1].encode())
back = mq(b'/back', MAKE, 0o622)
for user in 1000, 1001:
    pid = os.fork()
    if pid == 0: stranger(user); os._exit(0)
    time.sleep(0.2)
    put(q, b'abc'); print(take(back), end=' '); os.waitpid(pid, 0)
print()
",
        "cba cba \n",
    );
}

#[test]
fn a_posix_queue_tells_a_stranger_and_of_a_strangers_message() {
    prints_of_queues(
        "
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
q = mq(b'/q', MAKE, 0o666)
ready, go = os.pipe(), os.pipe()
owner = os.getpid()
pid = os.fork()
if pid == 0:
    as_(1000); s = mq(b'/q', RW)
    os.read(go[0], 1); put(s, b'x'); os.read(go[0], 1); take(s)
    print(notify(s, signal.SIGUSR1), end=' ', flush=True); os.write(ready[1], b'x')
    print(told() == (-3, owner, 0), flush=True)
    # A registration ends when its process does.
    print(notify(s, signal.SIGUSR1), flush=True); os._exit(0)
print(notify(q, signal.SIGUSR1), end=' ', flush=True); os.write(go[1], b'x')
print(told() == (-3, pid, 1000), end=' ', flush=True); os.write(go[1], b'x')
os.read(ready[0], 1); print(notify(q, signal.SIGUSR1), end=' ', flush=True)
put(q, b'x'); os.waitpid(pid, 0)
for _ in range(1000):
    if notify(q, signal.SIGUSR1) == 0: print('free'); break
    time.sleep(0.01)
",
        "0 True 0 EBUSY True\n0\nfree\n",
    );
}

#[test]
fn what_a_stranger_does_to_a_queues_descriptor_stops_nobody() {
    prints_of_queues(
        "
q = mq(b'/q', MAKE, 0o604)
spoilt, done_ = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    as_(1000); s = mq(b'/q', RD); shown(s)
    libc.fcntl(s, 4, 0o4000)
    for size in 4096, 1 << 20:
        libc.fcntl(s, 1031, size)
        while libc.syscall(1, s, b'x' * 4096, 4096) > 0: pass
        os.write(spoilt[1], b'x'); os.read(done_[0], 1)
        print(shown(s)[s], end=' ', flush=True)
        while libc.syscall(0, s, ctypes.create_string_buffer(4096), 4096) > 0: pass
        os.write(spoilt[1], b'x'); os.read(done_[0], 1)
        print(shown(s)[s], end=' ', flush=True)
    print(); os._exit(0)
for _ in range(2):
    os.read(spoilt[0], 1); put(q, b'x'); print(put(q, b'y'), shown(q)[q], flush=True, end=' '); os.write(done_[1], b'x')
    os.read(spoilt[0], 1); take(q); print(take(q), shown(q)[q], flush=True, end=' '); os.write(done_[1], b'x')
os.waitpid(pid, 0)
",
        "0 1 1 y 4 4 0 1 1 y 4 4 \n",
    );
}

#[test]
fn a_file_that_is_named_as_a_queues_is_none() {
    let script = "
NEWUSER, NEWNS = 0x10000000, 0x20000
q = mq(b'/q', MAKE, 0o600)
put(q, b'secret')
link = os.readlink(f'/proc/self/fd/{q}')
def stranger():
    os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)
    libc.prctl(4, 1, 0, 0, 0)
    if libc.unshare(NEWUSER | NEWNS): return print('no namespaces')
    for file, text in ('setgroups', 'deny'), ('uid_map', '0 1000 1'), ('gid_map', '0 1000 1'):
        open(f'/proc/self/{file}', 'w').write(text)
    get()
    if libc.mount(b'none', os.path.dirname(link).encode(), b'tmpfs', 0, None): return print('not mounted')
    os.mkfifo(link)
    forged = os.open(link, os.O_RDWR)
    print(os.readlink(f'/proc/self/fd/{forged}') == link, take(forged), put(forged, b'x'))
child(stranger)
print(take(q))
";
    if !possible() {
        return;
    }
    for (door, without) in [("auto", ""), ("trap", ""), ("trap", "pidfd_getfd")] {
        let script = QUEUES.to_owned() + script;
        let output = ours_by(without, &["--door", door], &script);
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "True EBADF EBADF\nsecret\n",
            "{door}: {output:?}"
        );
    }
}

#[test]
fn a_thread_of_a_strangers_is_told_of_a_message() {
    prints_of_queues(
        "
q = mq(b'/q', MAKE, 0o666)
def stranger():
    as_(1000); s = mq(b'/q', RD)
    came = []
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda value: came.append((value, take(s))))
    event = struct.pack('qiiQQ32x', 7, 0, 2, ctypes.cast(function, ctypes.c_void_p).value, 0)
    print(done(libc.mq_notify(s, event)), notify(s, signal.SIGUSR1), done(libc.mq_notify(s, None)), end=' ')
    print(done(libc.mq_notify(s, event)), end=' ', flush=True)
    os.write(ready[1], b'x')
    while not came: time.sleep(0.01)
    print(came, notify(s, 0), flush=True)
ready = os.pipe()
pid = os.fork()
if pid == 0: stranger(); os._exit(0)
os.read(ready[0], 1); put(q, b'hello'); os.waitpid(pid, 0)
",
        "0 EBUSY 0 0 [(7, 'hello')] 0\n",
    );
}

#[test]
fn posix_queues_count_for_the_quotas_of_who_made_them() {
    let script = "
def makes():
    as_(1000); a, b, c = (mq(name, MAKE, 0o622) for name in (b'/a', b'/b', b'/c'))
    print(a > 0, b > 0, c, get(), flush=True)
    libc.mq_unlink(b'/a'); os.closerange(3, 10)
    for _ in range(1000):
        if mq(b'/c', MAKE) != 'ENOSPC': print('made', flush=True); break
        time.sleep(0.01)
child(makes)
";
    prints_with(
        &["ipcspace.stranger_objects=2"],
        &(QUEUES.to_owned() + script),
        "True True ENOSPC ENOSPC\nmade\n",
    );
    let script = "
def fills():
    as_(1001, 1001); q = mq(b'/large', WR)
    print([put(q, b'x' * 8000) for _ in range(3)], flush=True)
def makes():
    as_(1000); done(libc.mq_open(b'/large', MAKE, 0o622, None))
child(makes); child(fills)
";
    prints_with(&["ipcspace.stranger_bytes=20000"], &(QUEUES.to_owned() + script), "[0, 0, 'ENOMEM']\n");
}

#[test]
fn a_descriptor_that_the_program_closes_or_takes_is_no_harm() {
    prints(
        "
q = get(mode=0o666)
def closes():
    as_(1000); snd(q)
    for fd in range(3, 30):
        try: os.close(fd)
        except OSError: pass
    print(snd(q), end=' ')
    for fd in range(3, 30):
        try: os.dup2(1, fd)
        except OSError: pass
    print(snd(q), flush=True)
child(closes)
",
        "0 0\n",
    );
}

#[test]
fn the_numbers_of_the_protocol_are_those_of_the_client() {
    assert_eq!((client::wire::ASK_CALLS, client::wire::calls::HEAD), (ASK_CALLS, 13));
}

/// Connects as a user that is a stranger, executes a program there that gains root's rights, and has somebody else use the connection.
const GAINS: &str = r#"
import socket
def connected(*first):
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.connect(os.environ['IPCSPACE_SOCKET'])
    for message in first: link.send(message)
    return link
def ids(pid): return open(f'/proc/{pid}/status').read().split('Uid:')[1].split('\n')[0].split()
def beside(link, use):
    # Who executes the program is its parent.
    parent = os.getpid()
    if os.fork() == 0:
        while ids(parent)[1] != '0': time.sleep(0.001)
        use(link); sys.stdout.flush(); os._exit(0)
    os.dup2(os.pipe()[0], 0); os.dup2(os.open('/dev/null', os.O_WRONLY), 2)
    os.execvp('su', ['su', '-c', 'true'])
def ask(which):
    def use(link):
        link.send(struct.pack('=4I', MAGIC, which, 0, 0))
        words, files, *_ = link.recvmsg(64, 1000)
        print(errno.errorcode.get(struct.unpack_from('=4I', words)[1], 'granted'), len(files))
    return use
def answers(link):
    # That it was begun, and what the call came to; nothing if it was sent away.
    link.recv(65536)
    answer = link.recv(65536)
    print('removed' if answer and struct.unpack_from('=2Q', answer)[1] == 0 else 'refused')
def gains(use, *first):
    pid = os.fork()
    if pid == 0:
        as_(65531)
        beside(connected(*first), use)
    time.sleep(0.3)
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
"#;

#[test]
fn a_program_that_gains_rights_gives_none_to_who_has_connected_before() {
    if !possible() {
        return;
    }
    const TRIES: usize = 8;
    let remove = format!(
        "q = get()\nfor _ in range({TRIES}):\n    gains(answers, struct.pack('=4I', MAGIC, {}, 0, 0), \
         struct.pack('=13Q', {}, 71, q, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0))\nprint(stat(q) != 'EINVAL')",
        ASK_CALLS,
        calls::CALL,
    );
    let ask = format!(
        "for which in ({}, {}):\n    gains(ask(which))\n",
        client::wire::ASK_FILE,
        client::wire::ASK_NEW_NAMESPACE,
    );
    for (script, expected) in
        [(ask, "EACCES 0\nEACCES 0\n".to_owned()), (remove, "refused\n".repeat(TRIES) + "True\n")]
    {
        let output = ours(&format!("MAGIC = {}{GAINS}{script}", magic()));
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
    }
}

#[test]
fn who_has_put_the_owners_rights_aside_has_them_still() {
    let script = "
os.seteuid(65531)
q, s = get(), done(libc.shmget(0, 4096, 0o1600))
at = libc.shmat(s, 0, 0)
print(rm(q), at not in (None, 2**64 - 1), open('/proc/sysvipc/shm').read().count('\\n'))
";
    prints(script, "0 True 2\n");
}

/// Who keeps a queue's descriptor may write to what it is of, which is a FIFO: no call waits for room there.
#[test]
fn a_full_fifo_holds_nobody_up() {
    if !possible() {
        return;
    }
    let script = format!(
        "{QUEUES}
q = mq(b'/full', MAKE, 0o600); e = select.epoll(); e.register(q, select.EPOLLIN | select.EPOLLET); os.set_inheritable(q, True)
pid = os.fork()
if pid == 0:
    as_(1000); os.execve('/bin/sh', ['sh', '-c', f'head -c 8192 /dev/zero >&{{q}}; sleep 60'], {{}})
time.sleep(0.5); signal.alarm(10)
print(put(q, b'one'), take(q), mq(b'/full', RW) > 0, get())
os.kill(pid, signal.SIGKILL)
"
    );
    for door in ["preload", "trap"] {
        let output = ours_by("", &["--kill", "--door", door], &script);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "0 one True 0\n", "{door}: {output:?}");
    }
}
