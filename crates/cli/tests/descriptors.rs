//! Programs that close or replace every descriptor, as daemons do: what ipcspace may have among them is theirs to lose.

mod python;

use python::python;

/// Calls of every kind that must work, on objects with and without a mapping or a descriptor from before.
const WORKS: &str = r#"
def works():
    same((send(queue), receive(queue), semop(set, 1), call("semctl", set, 0, SETVAL, 0)), (0, 5, 0, 0))
    for id in (segment, call("shmget", 0, 8192, 0o600)):
        at = call("shmat", id, None, 0)
        ctypes.memset(at, 1, 4096)
        same(call("shmdt", ctypes.c_void_p(at)), 0)
    new = call("msgget", 0, 0o600)
    same((send(new), call("msgctl", new, 0, None)), (0, 0))
    # More than what is mapped by now.
    many = [call("semget", 0, 5000, 0o600) for _ in range(100)]
    same([call("semctl", id, 0, 0) for id in many], [0] * 100)
queue, set, segment = call("msgget", 0, 0o600), call("semget", 0, 1, 0o600), call("shmget", 0, 4096, 0o600)
"#;

#[test]
fn every_descriptor_can_be_closed() {
    python(
        &[],
        &format!(
            r#"{WORKS}
works()
for close in (lambda: call("close_range", 3, ctypes.c_uint(2**32 - 1), 0), lambda: os.closerange(3, 1000) or 0):
    same(close(), 0)
    works()
"#
        ),
    );
}

#[test]
fn every_descriptor_can_be_replaced() {
    python(
        &[],
        &format!(
            r#"{WORKS}
works()
null = os.open("/dev/null", os.O_RDWR)
def replace(): [os.dup2(null, fd) for fd in range(3, 64) if fd != null]
replace(); works()
replace(); works()
# None of them was taken for ipcspace's own and closed.
replace()
assert all(os.path.samestat(os.fstat(fd), os.stat("/dev/null")) for fd in range(3, 64))
works()
assert all(os.path.samestat(os.fstat(fd), os.stat("/dev/null")) for fd in range(3, 64))
"#
        ),
    );
}

#[test]
fn a_daemon_goes_on() {
    python(
        &[],
        &format!(
            r#"{WORKS}
works()
ready, done = os.pipe()
if os.fork() == 0:
    same(call("daemon", 0, 0), 0)
    try: works(); os.write(done, b"y")
    except BaseException: os.write(done, b"n")
    os._exit(0)
os.wait()
same(os.read(ready, 1), b"y")
"#
        ),
    );
}

/// As a daemon's that has closed them: what it writes there, as to standard error, must not come to a segment.
#[test]
fn what_is_kept_is_neither_standard_input_nor_output() {
    python(
        &[],
        r#"
for fd in range(3): os.dup2(fd, 200 + fd); os.close(fd)
segment = call("shmget", 0, 4096, 0o600)
at = call("shmat", segment, None, 0)
ctypes.memmove(at, b"whole", 5)
def refused(fd):
    try: return os.write(fd, b"GARBAGE")
    except OSError as error: return error.errno
refusals = [refused(fd) for fd in range(3)]
for fd in range(3): os.dup2(200 + fd, fd)
same(refusals, [errno.EBADF] * 3)
same(ctypes.string_at(at, 5), b"whole")
"#,
    );
}
