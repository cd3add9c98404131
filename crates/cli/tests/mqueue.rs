//! Descriptors of POSIX queues, and what libc adds to the kernel's calls.

mod python;

use std::process::{Command, Output};

use python::python;

const IPCSPACE: &str = env!("CARGO_BIN_EXE_ipcspace");

const QUEUES: &str = r#"
import fcntl, select, socket
O_CREAT, O_EXCL = os.O_CREAT, os.O_EXCL
def open_queue(name, flags, maxmsg=2, mode=0o600):
    return call("mq_open", name.encode(), flags, mode, (ctypes.c_long * 8)(0, maxmsg, 16))
def mq_send(fd): return call("mq_send", fd, b"hello", 5, 0)
def mq_receive(fd): return call("mq_receive", fd, ctypes.create_string_buffer(16), 16, None)
def ready(fd):
    poll = select.poll(); poll.register(fd, select.POLLIN | select.POLLOUT)
    return poll.poll(0)[0][1]
IN, OUT = select.POLLIN, select.POLLOUT
"#;

#[test]
fn a_queue_shows_what_it_has_to_who_polls() {
    python(
        &[],
        &format!(
            r#"{QUEUES}
for maxmsg in (1, 2, 3):
    fd = open_queue("/q", O_CREAT | O_EXCL | os.O_RDWR, maxmsg)
    reader = open_queue("/q", os.O_RDONLY)
    mq_send(fd)
    states = [OUT] + [IN | OUT] * (maxmsg - 1) + [IN]
    same(ready(reader), states[1]); same(mq_receive(fd), 5)
    edges = select.epoll(); edges.register(fd, select.EPOLLIN | select.EPOLLET)
    for round in range(3):
        for there in range(maxmsg):
            same([ready(fd), ready(reader)], [states[there]] * 2); same(mq_send(fd), 0)
        same(len(edges.poll(0)), 1); same(edges.poll(0), [])
        for there in range(maxmsg, 0, -1):
            same([ready(fd), ready(reader)], [states[there]] * 2); same(mq_receive(reader), 5)
        same(select.select([fd], [fd], [], 0), ([], [fd], []))
    # All that was shown goes with the last descriptor.
    mq_send(fd); same(ready(fd), states[1])
    edges.close()
    for each in (fd, reader): same(call("mq_close", each), 0)
    fd = open_queue("/q", os.O_RDWR)
    same(ready(fd), states[1])
    same((call("mq_unlink", b"/q"), call("mq_close", fd)), (0, 0))
"#
        ),
    );
}

#[test]
fn who_is_given_a_descriptor_polls_it() {
    python(
        &[],
        &format!(
            r#"{QUEUES}
fd = open_queue("/q", O_CREAT | os.O_RDWR)
ours, theirs = socket.socketpair()
child = os.fork()
if child == 0:
    os.close(fd)
    fd = socket.recv_fds(theirs, 1, 1)[1][0]
    same((os.fstat(fd).st_size, os.read(fd, 9)), (80, b"QSIZE:0  "))
    same(select.select([fd], [], [], 20)[0], [fd])
    same((mq_receive(fd), ready(fd)), (5, OUT))
    os._exit(0)
socket.send_fds(ours, [b"x"], [fd])
time.sleep(0.2)
mq_send(fd)
same(os.waitpid(child, 0)[1], 0)
same(ready(fd), OUT)
"#
        ),
    );
}

#[test]
fn who_is_left_a_descriptor_by_exec_polls_it() {
    python(
        &[],
        &format!(
            r#"{QUEUES}
fd = open_queue("/q", O_CREAT | os.O_RDWR)
for keep in (lambda: fcntl.ioctl(fd, 0x5450), lambda: fcntl.fcntl(fd, fcntl.F_SETFD, 0)):
    child = os.fork()
    if child == 0:
        keep()
        os.execv("/bin/sh", ["sh", "-c", "exec " + sys.executable + " -c 'import select, sys; sys.exit(len(select.select([%d], [], [], 20)[0]) + 10)'" % fd])
    time.sleep(0.3)
    mq_send(fd)
    same(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 11)
    same([mq_receive(fd), ready(fd)], [5, OUT])
"#
        ),
    );
}

#[test]
fn a_descriptor_says_how_it_was_opened() {
    python(
        &[],
        &format!(
            r#"{QUEUES}
flags = lambda fd: fcntl.fcntl(fd, fcntl.F_GETFL)
os.umask(0o777)
fd = open_queue("/q", O_CREAT | os.O_RDWR | os.O_NONBLOCK)
reader, writer = open_queue("/q", os.O_RDONLY), open_queue("/q", os.O_WRONLY)
same([flags(each) for each in (fd, reader, writer)], [os.O_RDWR | os.O_NONBLOCK, os.O_RDONLY, os.O_WRONLY])
assert all(fcntl.fcntl(each, fcntl.F_GETFD) == fcntl.FD_CLOEXEC for each in (fd, reader, writer))
# Flags are the description's: of all its descriptors, and of no others.
copy = os.dup(fd)
fcntl.fcntl(copy, fcntl.F_SETFL, 0)
same([flags(each) & os.O_NONBLOCK for each in (fd, copy)], [0, 0])
os.set_blocking(copy, False)
same(mq_receive(fd), "EAGAIN")
same([call("write", each, b"x", 1) for each in (fd, writer, reader)], ["EINVAL", "EINVAL", "EBADF"])
same([mq_send(reader), mq_receive(writer)], ["EBADF"] * 2)
# What a number was does not matter once it is another's.
null = os.open("/dev/null", os.O_RDWR)
os.dup2(null, writer); same([mq_send(writer), os.write(writer, b"x")], ["EBADF", 1])
os.dup2(fd, writer); same(mq_send(writer), 0)
same((call("close_range", 3, ctypes.c_uint(2**32 - 1), 0), mq_send(fd)), (0, "EBADF"))
same([open_queue("q", os.O_RDWR), open_queue("/q", os.O_RDWR) >= 0], ["EINVAL", True])
"#
        ),
    );
}

#[test]
fn a_queue_goes_with_the_last_descriptor_however_that_goes() {
    python(
        &[],
        &format!(
            r#"{QUEUES}
directory = os.path.dirname(os.environ["IPCSPACE_SOCKET"])
child = os.fork()
fds = [open_queue("/%d" % i, O_CREAT | os.O_RDWR) for i in range(3)]
if child == 0:
    time.sleep(20)
    os._exit(0)
os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
for i in range(3): same(call("mq_unlink", b"/%d" % i), 0)
held = lambda: sum(name.startswith("socket.queue.") for name in os.listdir(directory))
before = held()
os.close(fds[0]); os.dup2(1, fds[1]); libc.syscall(3, fds[2])
# What is over is used again: no more of them are needed.
fds = [open_queue("/%d" % i, O_CREAT | O_EXCL | os.O_RDWR) for i in range(3)]
same(held(), before)
"#
        ),
    );
}

#[test]
fn a_programs_own_descriptor_is_not_taken_for_the_kept_end() {
    python(
        &[],
        &format!(
            r#"{QUEUES}
CLONE_NEWIPC, KEPT = 0x8000000, 100
for round in range(2):
    fd = open_queue("/q", O_CREAT | os.O_RDWR)
    same((call("mq_unlink", b"/q"), call("mq_close", fd)), (0, 0))
same(fcntl.fcntl(KEPT, fcntl.F_GETFL) & os.O_ACCMODE, os.O_WRONLY)
fd = open_queue("/q", O_CREAT | os.O_RDWR)
os.dup2(fd, KEPT)
same(call("unshare", CLONE_NEWIPC), 0)
same(os.path.sameopenfile(fd, KEPT), True)
"#
        ),
    );
}

/// So the kernel sees to it that a clock which is set ends the sleep, or prolongs it.
#[test]
fn a_timeout_is_slept_by_the_clock_of_the_day() {
    python(
        &[],
        &format!(
            r#"{QUEUES}
import struct, time
FUTEX, WAIT_BITSET, CLOCK_REALTIME = "202", 9, 256
fd = open_queue("/q", O_CREAT | os.O_RDWR)
end = time.clock_gettime_ns(time.CLOCK_REALTIME) + 3_000_000_000
until = struct.pack("2q", *divmod(end, 1_000_000_000))
pid = os.fork()
if pid == 0:
    os._exit(call("mq_timedreceive", fd, ctypes.create_string_buffer(16), 16, None, until) != "ETIMEDOUT")
while True:
    number, *registers = open("/proc/%d/syscall" % pid).read().split()[:5]
    if number == FUTEX: break
op, at = int(registers[1], 16), int(registers[3], 16)
with open("/proc/%d/mem" % pid, "rb", 0) as memory:
    memory.seek(at); same((op, memory.read(16)), (WAIT_BITSET | CLOCK_REALTIME, until))
same(os.waitpid(pid, 0), (pid, 0))
"#
        ),
    );
}

#[test]
fn a_thread_is_told_of_a_message() {
    python(
        &[],
        &format!(
            r#"{QUEUES}
class Sigevent(ctypes.Structure):
    _fields_ = [("value", ctypes.c_void_p), ("signo", ctypes.c_int), ("notify", ctypes.c_int),
                ("function", ctypes.c_void_p), ("attributes", ctypes.c_void_p), ("pad", ctypes.c_long * 4)]
told = []
function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda value: told.append((value, signal.pthread_sigmask(signal.SIG_BLOCK, []))))
event = Sigevent(7, 0, 2, ctypes.cast(function, ctypes.c_void_p), None)
notify = lambda: call("mq_notify", fd, ctypes.byref(event))
fd = open_queue("/q", O_CREAT | os.O_RDWR)
same([notify(), notify()], [0, "EBUSY"])
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
same(mq_send(fd), 0)
while not told: time.sleep(0.01)
same(told, [(7, set())])
# Removed, and by the close of another descriptor: nobody is told.
same([mq_receive(fd), notify(), call("mq_notify", fd, None), mq_send(fd), mq_receive(fd)], [5, 0, 0, 0, 5])
same([notify(), os.close(os.dup(fd)), mq_send(fd), mq_receive(fd), notify()], [0, None, 0, 5, 0])
same(len(told), 1)
same(call("mq_notify", 1, ctypes.byref(event)), "EBADF")
"#
        ),
    );
}

#[test]
fn without_a_mount_the_directory_is_shown_by_the_library() {
    python(
        &[],
        r#"
import stat, subprocess
os.umask(0o022)
def attempt(function, *arguments, **named):
    try: return function(*arguments, **named)
    except OSError as error: return errno.errorcode[error.errno]
top = "/dev/mqueue"
at = lambda name: top + "/" + name
mq_open = lambda name, flags: call("mq_open", name, flags, 0o640, (ctypes.c_long * 8)(0, 4, 16))
same([os.listdir(top), attempt(os.stat, at("q")), attempt(open, at("q")), attempt(os.unlink, at("q"))], [[], "ENOENT", "ENOENT", "ENOENT"])
fd = mq_open(b"/q", os.O_RDWR | os.O_CREAT)
same(call("mq_send", fd, b"hello", 5, 0), 0)
line = "QSIZE:%-10d NOTIFY:0     SIGNO:0     NOTIFY_PID:0     \n"
same(open(at("q")).read(), line % 5)
s, d = os.stat(at("q")), os.stat(top)
same((oct(s.st_mode), s.st_nlink, s.st_uid, s.st_gid, s.st_size, s.st_blocks), ("0o100640", 1, os.geteuid(), os.getegid(), 80, 0))
same((oct(d.st_mode), d.st_size, abs(time.time() - s.st_mtime) < 20), ("0o41777", 60, True))
same([os.path.samestat(each, s) for each in (os.lstat(at("q")), os.stat("//dev/mqueue/q".replace("//", "/")), d)], [True, True, False])
same([os.access(at("q"), mode) for mode in (os.F_OK, os.R_OK, os.W_OK, os.R_OK | os.W_OK, os.X_OK)], [True] * 4 + [False])
# Made by files, with what the namespace has for those that say nothing.
open(at("new"), "a").close()
os.close(os.open(at("excl"), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o4777))
same(attempt(os.open, at("excl"), os.O_CREAT | os.O_EXCL | os.O_RDWR), "EEXIST")
same([oct(os.stat(at(name)).st_mode) for name in ("new", "excl")], ["0o100644", "0o104755"])
new = mq_open(b"/new", os.O_RDWR); attributes = (ctypes.c_long * 8)()
same((call("mq_getattr", new, attributes), list(attributes)[:4]), (0, [0, 10, 8192, 0]))
with os.scandir(top) as entries:
    same(sorted((e.name, e.is_file(), e.inode() == e.stat().st_ino) for e in entries), [(name, True, True) for name in ("excl", "new", "q")])
same([attempt(os.open, at("x" * 256), os.O_CREAT | os.O_RDWR), attempt(os.rmdir, at("q")) != None, attempt(os.listdir, at("q"))], ["ENAMETOOLONG", True, "ENOTDIR"])
# Descriptors and rights are as of any file.
fd = os.open(at("q"), os.O_RDONLY)
same((os.get_inheritable(fd), attempt(os.write, fd, b"x"), len(os.read(fd, 100)), os.lseek(fd, 6, 0), os.read(fd, 2)), (False, "EBADF", 60, 6, b"5 "))
# A name only, which asks for no right and makes nothing.
fd = os.open(at("q"), os.O_PATH | os.O_RDWR)
same((attempt(os.read, fd, 1), attempt(os.open, at("none"), os.O_PATH | os.O_CREAT)), ("EBADF", "ENOENT"))
# A bad address is the kernel's affair still.
same([call("open", ctypes.c_void_p(1), flags, 0) for flags in (os.O_RDONLY, os.O_CREAT | os.O_RDWR)], ["EFAULT"] * 2)
same([call("unlink", ctypes.c_void_p(1)), call("stat", ctypes.c_void_p(1), None), call("access", ctypes.c_void_p(1), 0)], ["EFAULT"] * 3)
# By programs.
run = lambda *command: subprocess.run(command, capture_output=True, text=True)
same(run("ls", top).stdout, "excl\nnew\nq\n")
listed = run("ls", "-l", top)
same((listed.stderr, [row.split()[0] for row in listed.stdout.splitlines()]), ("", ["total", "-rwsr-xr-x", "-rw-r--r--", "-rw-r-----"]))
same(run("cat", at("q")).stdout, line % 5)
same(run("stat", "-c", "%A %s %F", top, at("q")).stdout, "drwxrwxrwt 100 directory\n-rw-r----- 80 regular file\n")
same(run("sh", "-c", "touch /dev/mqueue/t && >/dev/mqueue/u && echo /dev/mqueue/* && rm /dev/mqueue/[tu] && test -e /dev/mqueue/q && ! test -e /dev/mqueue/t").stdout,
    " ".join(at(name) for name in ("excl", "new", "q", "t", "u")) + "\n")
for name in os.listdir(top): os.unlink(at(name))
same((os.listdir(top), os.stat(top).st_size, os.path.exists(at("q"))), ([], 40, False))
# Others' directories are what they were.
same(({"0", "1", "2"} <= set(os.listdir("/dev/fd")), os.path.isdir("/dev"), attempt(os.stat, "/dev/mqueuex"), attempt(os.unlink, "/dev/mqueuex")), (True, True, "ENOENT", "ENOENT"))
"#,
    );
}

/// Runs a script as a user that is not root, where `open COUNT [MESSAGES LENGTH]` opens new queues in a namespace that `run OPTIONS --` makes:
/// it says how many, and why not more. `ipcspace` is file 9.
fn as_ordinary_user(script: &str) -> Output {
    let program = r#"
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
count, size = int(sys.argv[1]), [int(n) for n in sys.argv[2:]]
attr = (ctypes.c_long * 8)(0, *size) if size else None
for i in range(count):
    if libc.mq_open(b"/%d" % i, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600, attr) < 0:
        sys.exit("%d, %s" % (i, errno.errorcode[ctypes.get_errno()]))
print("all")
"#;
    let preamble = format!(
        "exec 9<{IPCSPACE}; ulimit -q 819200; run() {{ /proc/self/fd/9 run \"$@\"; }}; open() {{ python3 -c '{program}' \"$@\" 2>&1; }};"
    );
    let mut shell = Command::new("setpriv");
    if nix::unistd::geteuid().is_root() {
        shell.args(["--reuid=54321", "--regid=54321", "--clear-groups"]);
    }
    let script = format!("{preamble} export -f open; {script}");
    shell.args(["bash", "-c", &script]).env_remove("LD_PRELOAD").output().unwrap()
}

#[test]
fn the_limit_of_a_users_queues_is_the_namespaces_own_if_it_has_one() {
    let output = as_ordinary_user(
        r#"
        run -- bash -c 'open 20'
        run --ulimit msgqueue=unlimited -- bash -c 'open 20; ulimit -q'
        run --ulimit msgqueue=200000 -- bash -c 'open 20'
        run --ulimit msgqueue=0 -- bash -c 'open 1 1 1'
        run --sysctl ipcspace.msgqueue=97 -- bash -c 'open 2 1 1'
        run --ulimit msgqueue=unlimited --sysctl fs.mqueue.msg_max=65536 --sysctl fs.mqueue.msgsize_max=1048576 -- \
            bash -c 'open 1 65536 1048576'
        "#,
    );
    let expected = ["9, EMFILE", "all", "819200", "2, EMFILE", "0, EMFILE", "1, EMFILE", "all"];
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{output:?}");
}

#[test]
fn a_limit_that_there_is_not_is_refused() {
    for bad in ["nofile=5", "msgqueue", "msgqueue=-1", "msgqueue=many"] {
        let output = Command::new(IPCSPACE).args(["run", "--ulimit", bad, "--", "true"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(125) && said.contains("--ulimit"), "{output:?}");
    }
}

/// A library that takes libc's clock's place, as those that shift time for a program do.
const SHIFTED: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int answer = syscall(SYS_clock_gettime, clock, now);
    now->tv_sec += atoi(getenv("SHIFT"));
    return answer;
}
"#;

#[test]
fn a_clock_that_a_library_shifts_moves_no_timeout() {
    let directory = env!("CARGO_TARGET_TMPDIR");
    let (source, library) = (format!("{directory}/shifted.c"), format!("{directory}/shifted.so"));
    std::fs::write(&source, SHIFTED).unwrap();
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o", &library, &source]).status();
    assert!(compiled.expect("a C compiler").success());
    for shift in ["3600", "-3600"] {
        let preload = format!("SHIFT={shift} LD_PRELOAD=$LD_PRELOAD:{library} exec \"$@\"");
        python(
            &["sh", "-c", &preload, "sh"],
            &format!(
                r#"{QUEUES}
assert abs(time.clock_gettime(time.CLOCK_REALTIME) - {shift} - os.stat("/proc/self").st_mtime) < 100
set = call("semget", 0, 1, CREAT | 0o600)
signal.alarm(20)
second = (ctypes.c_long * 2)(1, 0)
same(call("semtimedop", set, (ctypes.c_short * 3)(0, -1, 0), 1, second), "EAGAIN")
fd = open_queue("/q", os.O_RDWR | O_CREAT)
# Who sleeps takes no time of the CPU, however long.
child = os.fork()
if child == 0: select.select([], [], [], 2); mq_send(fd); os._exit(0)
before = time.process_time()
same(mq_receive(fd), 5)
assert time.process_time() - before < 1, time.process_time() - before
"#
            ),
        );
    }
}

#[test]
fn who_takes_one_message_for_each_edge_takes_all() {
    python(
        &[],
        &format!(
            r#"{QUEUES}
fd = open_queue("/q", O_CREAT | os.O_RDWR | os.O_NONBLOCK, 3)
edges = select.epoll(); edges.register(fd, select.EPOLLIN | select.EPOLLET)
for round in range(3):
    for there in range(3): same(mq_send(fd), 0)
    taken = 0
    while edges.poll(0.2): taken += mq_receive(fd) == 5
    same(taken, 3)
"#
        ),
    );
}

/// Python starts programs by vfork, and its children close all descriptors before they execute them.
#[test]
fn what_a_child_of_vfork_closes_its_parent_still_has() {
    python(
        &[],
        &format!(
            r#"{QUEUES}
import subprocess
fd = open_queue("/q", O_CREAT | os.O_RDWR | os.O_NONBLOCK)
for round in range(3):
    same(subprocess.run(["/bin/true"], close_fds=True).returncode, 0)
    if os.fork() == 0: time.sleep(0.1); os._exit(mq_send(fd))
    same(select.select([fd], [], [], 10)[0], [fd]); same(mq_receive(fd), 5)
    same(os.wait()[1], 0)
    same(os.pread(fd, 60, 0)[:6], b"QSIZE:")
"#
        ),
    );
}

#[test]
fn a_number_that_libc_has_closed_is_what_it_is_now() {
    python(
        &[],
        &format!(
            r#"{QUEUES}
libc.fdopen.restype = ctypes.c_void_p
fd = open_queue("/q", O_CREAT | os.O_RDWR | os.O_NONBLOCK)
number = os.dup(fd)
same(libc.fclose(ctypes.c_void_p(libc.fdopen(number, b"r"))), 0)
same(os.open("/etc/passwd", os.O_RDONLY), number)
same(os.read(number, 4) != b"QSIZ", True)
same(mq_send(number), "EBADF"); same(mq_send(fd), 0)
"#
        ),
    );
}
