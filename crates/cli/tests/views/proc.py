# What programs see of the files of /proc/sysvipc and of the sysctls: one line a check, printed alike by the kernel's and by ours.
#
# The argument: where `sysvipc` and `sys` are. Objects are made by libc.
import ctypes, errno, os, re, select, sys

top = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)

def call(function, *arguments):
    result = getattr(libc, function)(*arguments)
    return errno.errorcode[ctypes.get_errno()] if result == -1 else result

def say(name, *values): print(name + ":", *values, flush=True)

def attempt(function, *arguments):
    try: return function(*arguments)
    except OSError as error: return errno.errorcode[error.errno]

def at(name): return os.path.join(top, name)
def content(name):
    with open(at(name)) as file: return file.read()
# Times and processes differ.
def rows(name): return re.sub(r"\b%d\b" % os.getpid(), "pid", re.sub(r"\b1\d{9}\b", "time", content(name)))

def write(name, text, flags=os.O_WRONLY):
    fd = attempt(os.open, at(name), flags)
    if isinstance(fd, str): return "open: " + fd
    written = attempt(os.write, fd, text.encode() if isinstance(text, str) else text)
    os.close(fd)
    return written

# ---- lists

say("empty", [content("sysvipc/" + name) for name in ("msg", "sem", "shm")])
say("modes", [oct(os.stat(at("sysvipc/" + name)).st_mode) for name in ("msg", "sem", "shm")], sorted(os.listdir(at("sysvipc"))))
queue = call("msgget", 0x1234, 0o1640)
call("msgsnd", queue, ctypes.c_char_p(b"\1" + b"\0" * 7 + b"hello"), 5, 0)
sets = call("semget", -5, 3, 0o1600)
segment = call("shmget", 0, 5000, 0o1600)
libc.shmat.restype = ctypes.c_void_p
libc.shmat(segment, None, 0)
for name in ("msg", "sem", "shm"): say(name, repr(rows("sysvipc/" + name)))
call("shmctl", segment, 0, None)
say("removed, and attached", repr(rows("sysvipc/shm")))
for n in range(40): call("msgget", 0, 0o1600)
with open(at("sysvipc/msg"), "rb", buffering=0) as file:
    whole = b"".join(iter(lambda: file.read(100), b""))
    say("in pieces", len(whole), whole.count(b"\n"), file.seek(0), file.read(50) == whole[:50], file.seek(100), file.read(20) == whole[100:120])
    call("msgctl", queue, 0, None)
    file.seek(0)
    say("anew from the beginning", len(b"".join(iter(lambda: file.read(4096), b""))) - len(whole))
def sent(name):
    with open(at(name)) as file, open("/dev/shm/sent-%d" % os.getpid(), "w+") as to:
        os.unlink(to.name)
        try:
            while os.sendfile(to.fileno(), file.fileno(), None, 4096): pass
        # As programs do, where the kernel's can't be sent.
        except OSError: to.write(file.read()); to.flush()
        to.seek(0)
        return to.read()
say("sent", sent("sysvipc/msg") == content("sysvipc/msg"), sent("sysvipc/shm") == content("sysvipc/shm"), repr(sent("sys/kernel/sem")), write("sys/kernel/sem", "7"), repr(sent("sys/kernel/sem")), write("sys/kernel/sem", "32000"))
say("not to be written", write("sysvipc/msg", "x") if os.geteuid() else attempt(os.access, at("sysvipc/msg"), os.X_OK))

# ---- sysctls

names = ["kernel/" + name for name in ("auto_msgmni msgmax msgmnb msgmni msg_next_id sem sem_next_id shm_next_id shm_rmid_forced shmall shmmax shmmni").split()]
names += ["fs/mqueue/" + name for name in "msg_default msg_max msgsize_default msgsize_max queues_max".split()]
say("values", [(name, content("sys/" + name)) for name in names])
say("their modes", [(oct(s.st_mode), s.st_uid, s.st_nlink) for s in (os.stat(at("sys/" + name)) for name in names)])
say("their names", sorted(os.listdir(at("sys/fs/mqueue"))))
for name in names:
    name = "sys/" + name
    say(name, [(text, write(name, text), content(name)) for text in (
        "1", "200\n", "0x10 ", "-1", "70000", "99999999999", "x", "", "\n", "1 2", "3\n4\n", "1\0", "5x", " 7\n", "400\t500", "2147483647", "2147483648")])
say("of sem", [(text, write("sys/kernel/sem", text), content("sys/kernel/sem")) for text in (
    "1 2 3 4", "5", "6 7", "8 9 10 40000", "11\t12\t13\t14\t15", "-1 -2 -3", "1 2 x")])
fd = os.open(at("sys/kernel/msgmax"), os.O_RDWR)
say("both ways", os.write(fd, b"100"), os.read(fd, 10), os.lseek(fd, 0, 0), os.read(fd, 2), os.read(fd, 10), os.lseek(fd, 0, 0), os.read(fd, 100))
say("at another offset", os.pwrite(fd, b"200", 1), content("sys/kernel/msgmax"), os.pread(fd, 10, 1), os.pwrite(fd, b"300", 0), os.pread(fd, 10, 0))
say("in parts", os.writev(fd, [b"4"]), os.lseek(fd, 0, 0), os.writev(fd, [b"5"]), content("sys/kernel/msgmax"))
os.close(fd)
say("truncated and appended to", write("sys/kernel/msgmax", "11", os.O_WRONLY | os.O_TRUNC), content("sys/kernel/msgmax"), write("sys/kernel/msgmax", "12", os.O_WRONLY | os.O_APPEND), content("sys/kernel/msgmax"))
say("made or removed", attempt(os.unlink, at("sys/kernel/msgmax")), attempt(os.mkdir, at("sys/kernel/x")), attempt(os.rename, at("sys/kernel/msgmax"), at("sys/kernel/x")), attempt(os.open, at("sys/kernel/x"), os.O_CREAT | os.O_RDWR), attempt(os.symlink, "x", at("sys/kernel/x")), attempt(os.mkdir, at("sys/kernel/msgmax")))
say("changed", attempt(os.chmod, at("sys/kernel/msgmax"), 0o600))
poll = select.poll(); file = open(at("sys/kernel/msgmax")); poll.register(file, select.POLLIN | select.POLLOUT)
say("poll", [hex(event) for _, event in poll.poll(0)])
say("ids", write("sys/kernel/msg_next_id", "7"), content("sys/kernel/msg_next_id"), call("msgget", 0, 0o1600), content("sys/kernel/msg_next_id"))
