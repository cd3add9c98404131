//! Python programs in a namespace, which reach libc's calls by ctypes.

use std::process::Command;

const IPCSPACE: &str = env!("CARGO_BIN_EXE_ipcspace");

const COMMON: &str = r#"
import ctypes, errno, os, signal, sys, threading, time, traceback
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
CREAT, NOWAIT, UNDO, SETVAL, GETVAL, STAT = 0o1000, 0o4000, 0x1000, 16, 12, 2
USER = 1000

def call(name, *args):
    ctypes.set_errno(0)
    result = getattr(libc, name)(*args)
    return result if result not in (-1, 2**64 - 1) else errno.errorcode[ctypes.get_errno()]

def semop(id, change, flags=0):
    return call("semop", id, (ctypes.c_short * 3)(0, change, flags), 1)

def send(queue, flags=NOWAIT):
    return call("msgsnd", queue, ctypes.c_char_p(b"\1" + b"\0" * 7 + b"hello"), 5, flags)

def receive(queue, type=0, flags=0):
    return call("msgrcv", queue, ctypes.create_string_buffer(100), 92, ctypes.c_long(type), flags)

def qnum(queue):
    room = ctypes.create_string_buffer(200)
    assert call("msgctl", queue, STAT, room) == 0
    return int.from_bytes(room[80:88], "little")

def mapped():
    "What of the namespace is mapped or open."
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try: links.append(os.readlink("/proc/self/fd/" + fd))
        except OSError: pass
    maps = [line.split(None, 5)[5].strip() for line in open("/proc/self/maps") if line.count(" ") > 5]
    return sorted(name for name in maps + links if "memfd:" in name or "socket:" in name)

def in_child(work):
    "The exit code of a child that does this."
    pid = os.fork()
    if pid == 0:
        try: work()
        except BaseException:
            traceback.print_exc(); sys.stderr.flush(); os._exit(9)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status

def same(found, expected):
    assert found == expected, (found, expected)
"#;

/// Runs a Python program in a namespace; `through` comes before it.
pub(crate) fn python(through: &[&str], program: &str) {
    let mut command = Command::new(IPCSPACE);
    let program = format!("{COMMON}\n{program}\nprint('done')");
    command.args(["run", "--"]).args(through).args(["python3", "-c", &program]);
    let output = command.output().unwrap();
    assert!(output.status.success() && output.stdout == b"done\n", "{output:?}");
}
