//! A process that gives the uid of its namespace's owner up.

mod python;

/// Runs it as root, who can change its user.
fn python(through: &[&str], program: &str) {
    if nix::unistd::geteuid().is_root() {
        python::python(through, program);
    } else {
        eprintln!("not tested: only root can change its user");
    }
}

#[test]
fn who_gives_the_owners_uid_up_has_nothing_mapped_and_is_a_stranger() {
    python(
        &[],
        r#"
queue, segment = call("msgget", 5, CREAT | 0o600), call("shmget", 5, 4096, CREAT | 0o600)
call("semget", 5, 1, CREAT | 0o600)
def drop(name, *ids):
    at = call("shmat", segment, None, 0)
    same(send(queue), 0)
    ctypes.memset(at, 7, 1)
    assert any("ipcspace" in name for name in mapped())
    same(call(name, *ids), 0)
    same((os.getresuid(), mapped()), ((USER,) * 3, ["/memfd:SYSV00000005 (deleted)"]))
    same((call("msgget", 5, 0o600), send(queue), semop(0, 1)), ("EACCES",) * 3)
    same((call("shmget", 5, 0, 0o600), call("shmat", segment, None, 0)), ("EACCES",) * 2)
    # What is attached stays so, as with the kernel.
    same(ctypes.string_at(at, 1), b"\7")
    in_child(lambda: same((mapped()[:1], call("msgget", 5, 0o600)), (["/memfd:SYSV00000005 (deleted)"], "EACCES")))
    same((call("shmdt", ctypes.c_void_p(at + 1)), call("shmdt", ctypes.c_void_p(at)), [name for name in mapped() if "memfd" in name]), ("EINVAL", 0, []))
    same(call("shmdt", ctypes.c_void_p(at)), "EINVAL")
for name, *ids in [("setuid", USER), ("setreuid", USER, USER), ("setresuid", USER, USER, USER)]:
    in_child(lambda: drop(name, *ids))
    same(qnum(queue), 1); same(receive(queue), 5)
"#,
    );
}

#[test]
fn a_child_that_never_made_a_call_has_nothing_mapped_either() {
    python(
        &[],
        r#"
queue = call("msgget", 0, 0o600)
def drop():
    same(call("setuid", USER), 0)
    same((mapped(), send(queue)), ([], "EACCES"))
in_child(drop)
# One that has a parent's slot and its own maps its own alone.
def generations(left):
    same(send(queue), 0); same(receive(queue), 5)
    if left: in_child(lambda: generations(left - 1))
    else: same(len(mapped()), len(before))
before = mapped()
generations(5)
"#,
    );
}

#[test]
fn who_can_come_back_stays() {
    python(
        &[],
        r#"
queue = call("msgget", 0, 0o600)
for name, *ids in [("seteuid", USER), ("setreuid", -1, USER), ("setreuid", USER, 0), ("setresuid", USER, USER, 0), ("setresuid", USER, USER, -1)]:
    def work():
        same(send(queue), 0)
        same(call(name, *ids), 0)
        assert any("ipcspace" in name for name in mapped())
        same(receive(queue, 0, NOWAIT), 5 if os.geteuid() == 0 else "EACCES")
        same((call("setresuid", 0, 0, 0), receive(queue, 0, NOWAIT)), (0, "ENOMSG" if ids[-1] == 0 and name == "setreuid" else 5))
    in_child(work)
"#,
    );
}

#[test]
fn a_change_by_number_is_seen() {
    python(
        &[],
        r#"
queue = call("msgget", 0, 0o600)
same(send(queue), 0)
same((libc.syscall(117, -1, USER, -1), receive(queue), libc.syscall(117, -1, 0, -1), receive(queue)), (0, "EACCES", 0, 5))
"#,
    );
}

#[test]
fn a_change_that_is_refused_changes_nothing() {
    python(
        &["setpriv", "--bounding-set=-setuid", "--inh-caps=-setuid"],
        r#"
queue, set = call("msgget", 0, 0o600), call("semget", 0, 1, 0o600)
same(call("semctl", set, 0, SETVAL, 3), 0)
def work():
    same((send(queue), semop(set, -2, UNDO)), (0, 0))
    same((call("setresuid", USER, USER, USER), os.getresuid()), ("EPERM", (0, 0, 0)))
    same((receive(queue, 0, NOWAIT), call("semctl", set, 0, GETVAL), semop(set, -1, UNDO)), (5, 1, 0))
in_child(work)
same(call("semctl", set, 0, GETVAL), 3)
"#,
    );
}

#[test]
fn who_has_kept_the_right_comes_back() {
    python(
        &[],
        r#"
queue, set = call("msgget", 0, 0o600), call("semget", 0, 1, 0o600)
PR_SET_KEEPCAPS, SETUID = 8, 1 << 7
def work():
    same((semop(set, 1, UNDO), call("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)), (0, 0))
    same((call("setuid", USER), mapped(), send(queue)), (0, [], "EACCES"))
    same(call("capset", (ctypes.c_uint * 2)(0x20080522, 0), (ctypes.c_uint * 6)(SETUID, SETUID)), 0)
    same((call("setresuid", 0, 0, 0), send(queue), semop(set, 1, UNDO)), (0, 0, 0))
in_child(work)
same((call("semctl", set, 0, GETVAL), receive(queue)), (0, 5))
"#,
    );
}

#[test]
fn adjustments_are_applied_at_the_end_and_at_once() {
    python(
        &[],
        r#"
set = call("semget", 0, 1, 0o600)
for n in range(200):
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        ok = semop(set, 1, UNDO) == 0 and call("setuid", USER) == 0 and mapped() == []
        os.write(done, b"y" if ok else b"n")
        time.sleep(100)
    os.close(done)
    same(os.read(ready, 1), b"y")
    os.close(ready)
    same(call("semctl", set, 0, GETVAL), 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    same(call("semctl", set, 0, GETVAL), 0)
"#,
    );
}

#[test]
fn threads_end_their_operations_first() {
    python(
        &[],
        r#"
queue, set = call("msgget", 0, 0o600), call("semget", 0, 1, 0o600)
def work(outcome):
    sleepers, counts, errors = [], [0] * 3, []
    def sleep(name, *args): sleepers.append(call(name, *args))
    room = [ctypes.create_string_buffer(100) for _ in range(3)]
    threads = [threading.Thread(target=sleep, args=("msgrcv", queue, room[n], 92, ctypes.c_long(77), 0)) for n in range(2)]
    threads.append(threading.Thread(target=sleep, args=("semop", set, (ctypes.c_short * 3)(0, -1, 0), 1)))
    def busy(n):
        while True:
            result = send(queue)
            if result == 0: counts[n] += 1
            elif result != "EAGAIN": break
            # Takes its own messages back, so that there is always room.
            result = receive(queue, 1, NOWAIT)
            if result == 5: counts[n] -= 1
            elif result != "ENOMSG": break
        errors.append(result)
    threads += [threading.Thread(target=busy, args=(n,)) for n in range(3)]
    for thread in threads: thread.start()
    time.sleep(0.02)
    # A thread may be asking the broker at this moment, in vain.
    same((call("setresuid", USER, USER, USER), [name for name in mapped() if "memfd" in name]), (0, []))
    for thread in threads: thread.join()
    same((sleepers, errors), (["EINTR"] * 3, ["EACCES"] * 3))
    os.write(outcome, sum(counts).to_bytes(8, "little", signed=True))
for n in range(15):
    ready, done = os.pipe()
    in_child(lambda: work(done))
    # What was acknowledged is there, and nothing else.
    left = int.from_bytes(os.read(ready, 8), "little", signed=True)
    same(qnum(queue), left)
    for _ in range(left): same(receive(queue), 5)
    # Nobody is left on a list.
    same((call("semctl", set, 0, 14), send(queue), receive(queue)), (0, 0, 5))
    os.close(ready); os.close(done)
"#,
    );
}
