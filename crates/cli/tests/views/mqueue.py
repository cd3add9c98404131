# What programs see of a file system of POSIX queues: one line a check, printed alike by the kernel's and by ours.
#
# The arguments: the directory, and how ordinary users are to be (uid) where root may try them. Queues are made and used by libc as well.
import ctypes, errno, fcntl, os, re, resource, select, stat, sys, threading, time

top = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
os.umask(0o022)

def call(function, *arguments):
    result = getattr(libc, function)(*arguments)
    return errno.errorcode[ctypes.get_errno()] if result == -1 else result

def say(name, *values):
    print(name + ":", *values, flush=True)

def attempt(function, *arguments, **named):
    try: return function(*arguments, **named)
    except OSError as error: return errno.errorcode[error.errno]

def at(name): return os.path.join(top, name)

def mq_open(name, flags=os.O_RDWR, mode=0o600, maxmsg=4, size=16):
    return call("mq_open", b"/" + name.encode(), flags, mode, (ctypes.c_long * 8)(0, maxmsg, size))

def send(fd, text=b"hello", prio=0): return call("mq_send", fd, text, len(text), prio)
def receive(fd): return call("mq_receive", fd, ctypes.create_string_buffer(16), 16, None)

def seen(name):
    s = attempt(os.stat, at(name))
    if isinstance(s, str): return s
    own = lambda id, of: "own" if id == of else id
    return oct(s.st_mode), s.st_nlink, own(s.st_uid, os.geteuid()), own(s.st_gid, os.getegid()), s.st_size, s.st_blocks, s.st_blksize

def content(name):
    with open(at(name)) as file: return file.read()

def opened(name, flags, mode=0o666):
    fd = attempt(os.open, at(name), flags, mode)
    if isinstance(fd, str): return fd
    os.close(fd)
    return "opened"

def recently(t): return abs(time.time() - t) < 5

def as_user(uid, gid, does):
    """What an ordinary user gets: in a child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([]); os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid)
        os.write(writing, repr(does()).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    result = os.read(reading, 4096).decode()
    os.close(reading)
    return result

# ---- the directory

say("an empty directory", sorted(os.listdir(top)), seen("."))
say("nothing", seen("none"), opened("none", os.O_RDONLY), attempt(os.unlink, at("none")), attempt(open, at("none")) == "ENOENT")
fd = mq_open("made", os.O_RDWR | os.O_CREAT, 0o640)
say("made by mq_open", sorted(os.listdir(top)), seen("made"), seen("."))
s = os.stat(at("made")); d = os.stat(top)
say("times", [recently(t) for t in (s.st_atime, s.st_mtime, s.st_ctime, d.st_mtime, d.st_ctime)])
with os.scandir(top) as entries:
    say("entries", [(e.name, e.is_file(follow_symlinks=False), e.inode() == os.stat(at("made")).st_ino) for e in entries])
say("dots", os.path.samefile(at("."), top))

# ---- the line

say("an empty queue", repr(content("made")))
send(fd, b"x" * 16); send(fd, b"abc", 5)
say("two messages", repr(content("made")))
class Sigevent(ctypes.Structure):
    _fields_ = [("value", ctypes.c_long), ("signo", ctypes.c_int), ("notify", ctypes.c_int), ("pad", ctypes.c_long * 6)]
def notify(how, signo=0): return call("mq_notify", fd, ctypes.byref(Sigevent(0, signo, how)))
def line(): return re.sub(r"NOTIFY_PID:%-6d" % os.getpid(), "NOTIFY_PID:own", content("made"))
say("a signal", notify(0, 10), repr(line()), call("mq_notify", fd, None), repr(line()))
say("nothing but a registration", notify(1), repr(line()), call("mq_notify", fd, None))
with open(at("made"), "rb", buffering=0) as file:
    whole = file.read(100)
    say("read goes on", len(whole), file.read(10), file.seek(6), file.read(10), file.seek(0) == 0 and file.read(100) == whole)
    say("seek to the end", file.seek(0, 2), attempt(file.seek, -1, 0), file.seek(1000), file.read(1))
    receive(fd)
    say("a file that is open is read anew", file.seek(0), repr(file.read(100)))
    say("pread", repr(os.pread(file.fileno(), 8, 3)))
receive(fd)

# ---- what is not to be done

say("mkdir", attempt(os.mkdir, at("directory")), attempt(os.mkdir, at("made")))
say("rmdir", attempt(os.rmdir, at("made")), attempt(os.rmdir, at("none")))
say("rename", attempt(os.rename, at("made"), at("other")), attempt(os.rename, at("none"), at("other")))
say("link", attempt(os.link, at("made"), at("other")))
say("symlink", attempt(os.symlink, "made", at("other")))
say("mknod", [attempt(os.mknod, at("other"), kind | 0o600) for kind in (stat.S_IFIFO, stat.S_IFSOCK)])
say("readlink", attempt(os.readlink, at("made")))
say("below a queue", seen("made/x"), opened("made/x", os.O_RDONLY))
say("write", [opened("made", flags) for flags in (os.O_WRONLY, os.O_RDWR, os.O_APPEND | os.O_WRONLY)])
with open(at("made"), "rb+", buffering=0) as file:
    say("write to it", attempt(file.write, b"x"), attempt(os.pwrite, file.fileno(), b"x", 0), attempt(os.writev, file.fileno(), [b"x"]))
    say("map", attempt(__import__("mmap").mmap, file.fileno(), 10))
    say("ioctl", attempt(fcntl.ioctl, file.fileno(), 0x5401, b"\0" * 64))
    say("fsync", attempt(os.fsync, file.fileno()))
say("extended attributes", attempt(os.setxattr, at("made"), "user.x", b"1"), attempt(os.getxattr, at("made"), "user.x"), attempt(os.listxattr, at("made")))
say("names", opened("x" * 255, os.O_CREAT | os.O_RDWR), opened("x" * 256, os.O_CREAT | os.O_RDWR), attempt(os.unlink, at("x" * 255)))

# ---- made by files

say("touch", attempt(lambda: open(at("touched"), "a").close()), seen("touched"), sorted(os.listdir(top)), seen("."))
touched = mq_open("touched")
attributes = (ctypes.c_long * 8)()
say("its attributes", call("mq_getattr", touched, attributes), list(attributes)[:4])
say("used by mq", send(touched, b"from mq"), repr(content("touched")))
os.close(touched)
say("O_EXCL", opened("touched", os.O_CREAT | os.O_EXCL | os.O_RDWR), opened("new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o4777), seen("new"))
say("mknod of a file", attempt(os.mknod, at("node"), stat.S_IFREG | 0o604), seen("node"))
say("O_DIRECTORY", opened("new", os.O_DIRECTORY), opened(".", os.O_DIRECTORY), opened(".", os.O_RDWR))
say("cp", attempt(lambda: open(at("copied"), "w").write("x")), os.path.exists(at("copied")))
# The kernel shows the size that was given from then on; ours stays.
say("truncate", opened("node", os.O_WRONLY | os.O_TRUNC), attempt(os.truncate, at("node"), 5), len(content("node")))
fd2 = os.open(at("held"), os.O_CREAT | os.O_RDWR, 0o600)
say("unlinked and open", attempt(os.unlink, at("held")), seen("held"), os.fstat(fd2).st_nlink, os.fstat(fd2).st_size, len(os.read(fd2, 100)), mq_open("held"))
os.close(fd2)

# ---- modes and owners

say("chmod", attempt(os.chmod, at("new"), 0o604), seen("new"), attempt(os.chmod, at("new"), 0o6777), seen("new"))
say("utime", attempt(os.utime, at("new"), (1000, 2000)), [(os.stat(at("new")).st_atime, os.stat(at("new")).st_mtime)], attempt(os.utime, at("new")), recently(os.stat(at("new")).st_mtime))
say("access", [os.access(at("new"), mode) for mode in (os.R_OK, os.W_OK, os.X_OK)], os.access(top, os.W_OK | os.X_OK))
if os.geteuid() == 0 and len(sys.argv) > 2:
    user = int(sys.argv[2])
    say("chown", attempt(os.chown, at("new"), user, user + 1), seen("new"), attempt(os.chown, at("new"), -1, 7), seen("new"))
    os.chmod(at("made"), 0o600)
    say("a user reads", as_user(user, user, lambda: (sorted(os.listdir(top))[:2], opened("made", os.O_RDONLY), opened("made", os.O_WRONLY), os.access(at("made"), os.R_OK))))
    os.chmod(at("made"), 0o644)
    say("and may", as_user(user, user, lambda: (repr(content("made")), opened("made", os.O_WRONLY), os.access(at("made"), os.W_OK))))
    say("a user makes", as_user(user, user, lambda: (opened("users", os.O_CREAT | os.O_RDWR, 0o666), seen("users"))))
    say("the sticky bit", as_user(user, user, lambda: (attempt(os.unlink, at("made")), attempt(os.unlink, at("users")), seen("made")[0], seen("users"))))
    say("others' queues", as_user(user, user, lambda: (attempt(os.chmod, at("made"), 0o666), attempt(os.chown, at("made"), user, user), attempt(os.utime, at("made"), (1, 1)), attempt(os.truncate, at("made"), 1))))
    os.chown(at("made"), user, user)
    say("its own", as_user(user, user, lambda: (attempt(os.chmod, at("made"), 0o600), attempt(os.chown, at("made"), user + 1, -1), opened("made", os.O_RDWR), seen("made"))))
    say("by root", opened("made", os.O_RDWR))
    say("another user", as_user(user + 1, user + 1, lambda: (opened("made", os.O_RDONLY), attempt(os.unlink, at("made")))))
    say("by its group", os.chmod(at("made"), 0o640), as_user(user + 1, user, lambda: (opened("made", os.O_RDONLY), opened("made", os.O_WRONLY))))
    say("not the directory's", as_user(user, user, lambda: (attempt(os.chmod, top, 0o777), attempt(os.chown, top, user, user))))
    say("unlinked by its owner", as_user(user, user, lambda: attempt(os.unlink, at("made"))), seen("made"))
    os.close(fd)
    fd = mq_open("made", os.O_RDWR | os.O_CREAT, 0o640)

# ---- poll

def events(file, timeout=0):
    poll = select.poll(); poll.register(file, select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM)
    return [hex(event) for _, event in poll.poll(timeout)]
file = open(at("made"), "rb", buffering=0)
say("poll empty", events(file))
for n in range(4): send(fd)
say("poll full", events(file))
receive(fd)
say("poll between", events(file))
while receive(fd) != "EAGAIN" and content("made").split()[0] != "QSIZE:0": pass
def later(does):
    thread = threading.Thread(target=lambda: (time.sleep(0.2), does())); thread.start(); return thread
thread = later(lambda: send(fd))
say("poll waits for a message", select.select([file], [], [], 20)[0] == [file]); thread.join()
for n in range(3): send(fd)
thread = later(lambda: receive(fd))
poll = select.poll(); poll.register(file, select.POLLOUT)
say("poll waits for room", [hex(event) for _, event in poll.poll(20000)]); thread.join()
edges = select.epoll(); edges.register(file, select.EPOLLIN | select.EPOLLET)
say("edges", len(edges.poll(0)), len(edges.poll(0)))
while content("made").split()[0] != "QSIZE:0": receive(fd)
edges.poll(0)
send(fd); say("an edge", len(edges.poll(20)))
say("poll of the directory", events(os.open(top, os.O_RDONLY)))
file.close()

# ---- limits

say("many", [opened("many%d" % n, os.O_CREAT | os.O_RDWR) for n in range(3)])
if os.geteuid() == 0 and len(sys.argv) > 2:
    # A user of whom nobody else makes queues: two of the default attributes are within this, and count until they are over.
    def limited():
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (200000, 200000))
        made = [opened("limited%d" % n, os.O_CREAT | os.O_RDWR) for n in range(4)]
        held = os.open(at("limited0"), os.O_RDONLY); os.unlink(at("limited0"))
        again = opened("limited4", os.O_CREAT | os.O_RDWR)
        os.close(held)
        return made, again, opened("limited5", os.O_CREAT | os.O_RDWR), opened("limited5", os.O_CREAT | os.O_RDWR)
    say("RLIMIT_MSGQUEUE", as_user(54321, 54321, limited))
for name in os.listdir(top): os.unlink(at(name))
os.close(fd)
say("empty again", os.listdir(top), seen("."))
