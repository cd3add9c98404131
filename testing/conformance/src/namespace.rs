//! unshare(2), clone(2) and setns(2) with CLONE_NEWIPC: what is left behind, what comes along, and what a new namespace is like.

use std::{
    ffi::CString,
    fs,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use libc::{CLONE_NEWIPC, IPC_CREAT, IPC_EXCL, IPC_NOWAIT, SEM_UNDO, SIGCHLD};

use crate::{
    Door,
    call::{
        Answer, answer, byte_at, getval, mq_open, mq_receive, mq_send, msg_remove, msg_stat, msgget, msgrcv,
        msgsnd, nattch, op, queue, segment, semop, set_byte, set_of, shm_stat, shmat, shmdt,
    },
    case::cases,
    check::{Failure, Outcome, ok, same},
    errno::{EACCES, EBADF, EEXIST, EINVAL, ENOENT, ENOMSG, EPERM, Errno},
    task::{Task, Thread, sleep_for_ever},
};

/// The doors by which there are other namespaces.
const DOORS: &[Door] = &[Door::Kernel, Door::Preload, Door::Trap, Door::Trap32];
const OURS: &[Door] = &[Door::Preload, Door::Trap, Door::Trap32];

cases! { "namespace":
    a_new_one_is_empty.only(DOORS),
    a_new_one_has_the_default_limits.only(DOORS).limits(&[("kernel.msgmni", "7"), ("fs.mqueue.queues_max", "3")]),
    a_key_is_another_one_there.only(DOORS),
    undo_is_applied_on_leaving.only(DOORS),
    undo_is_applied_on_leaving_by_setns.only(DOORS),
    attachments_come_along.only(DOORS),
    a_removed_segment_stays_with_who_left.only(DOORS),
    descriptors_of_queues_come_along
        .only(DOORS)
        .differs(OURS, "a descriptor of a POSIX queue is of no use in another namespace"),
    children_follow_and_those_of_before_stay.only(DOORS),
    a_sleeper_sleeps_on.only(DOORS),
    clone_puts_only_the_child_there.only(DOORS),
    clone_with_shared_undo.only(DOORS),
    back_by_a_descriptor.only(DOORS),
    by_a_pidfd.only(DOORS),
    wrong_descriptors.only(DOORS),
    a_descriptor_keeps_it.only(DOORS),
    needs_a_capability.root().only(DOORS),
    of_several_threads_one_goes
        .only(DOORS)
        .differs(OURS, "a process goes as a whole: one of several threads gets EINVAL"),
}

const PAGE: usize = 4096;

fn unshare() -> Answer<i32> {
    // SAFETY: a number.
    answer(unsafe { libc::unshare(CLONE_NEWIPC) })
}

fn setns(fd: i32, kind: i32) -> Answer<i32> {
    // SAFETY: numbers.
    answer(unsafe { libc::setns(fd, kind) })
}

/// A descriptor of the namespace of a process.
fn namespace_of(pid: i32) -> Result<OwnedFd, Failure> {
    let path = CString::new(format!("/proc/{pid}/ns/ipc")).map_err(|error| Failure(error.to_string()))?;
    // SAFETY: a terminated string.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    // SAFETY: just opened, nobody else has it.
    if fd < 0 { Err(Failure(format!("open {path:?}"))) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) }
}

fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

/// A child that has gone to a new namespace, in which it has made so many queues.
fn child_elsewhere(queues: i32) -> Outcome<(Task<Answer<i32>>, i32)> {
    let (told, tell) = std::io::pipe().map_err(|error| Failure(error.to_string()))?;
    let child = Task::start(move || {
        let done = unshare().and_then(|_| (0..queues).try_fold(0, |_, _| queue()));
        drop(tell);
        done.map(|_| sleep_for_ever())
    })?;
    // It ends when all ends for writing are closed: the child's when it is there, ours with the closure.
    let _ = std::io::read_to_string(told);
    let pid = child.pid();
    Ok((child, pid))
}

fn a_new_one_is_empty() -> Outcome {
    let id = ok!(queue());
    let set = ok!(set_of(&[1]));
    let segment_id = ok!(segment(PAGE));
    let other = ok!(mq_open("/queue", libc::O_CREAT | libc::O_RDWR, 0o600, None));
    same!(other >= 0, true);
    ok!(unshare());
    same!(msg_stat(id).map(drop), Err(EINVAL));
    same!(getval(set, 0), Err(EINVAL));
    same!(shm_stat(segment_id).map(drop), Err(EINVAL));
    same!(mq_open("/queue", libc::O_RDWR, 0, None), Err(ENOENT));
    // Identifiers begin anew.
    same!(queue(), Ok(0));
    Ok(())
}

fn a_new_one_has_the_default_limits() -> Outcome {
    let read = || {
        ["kernel/msgmni", "fs/mqueue/queues_max", "kernel/sem"]
            .map(|name| fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default())
    };
    same!(read(), ["7\n", "3\n", "32000\t1024000000\t500\t32000\n"].map(String::from));
    ok!(unshare());
    same!(read(), ["32000\n", "256\n", "32000\t1024000000\t500\t32000\n"].map(String::from));
    Ok(())
}

fn a_key_is_another_one_there() -> Outcome {
    let id = ok!(msgget(77, IPC_CREAT | IPC_EXCL | 0o600));
    ok!(msgsnd(id, 1, b"here", 0));
    same!(msgget(77, IPC_CREAT | IPC_EXCL | 0o600), Err(EEXIST));
    ok!(unshare());
    let there = ok!(msgget(77, IPC_CREAT | IPC_EXCL | 0o600));
    same!(msgrcv(there, 8, 0, IPC_NOWAIT).map(drop), Err(ENOMSG));
    Ok(())
}

fn undo_is_applied_on_leaving() -> Outcome {
    let set = ok!(set_of(&[1]));
    let child = Task::start(move || {
        semop(set, &[op(0, 5, SEM_UNDO as i16)])?;
        let before = getval(set, 0)?;
        unshare()?;
        Ok::<_, Errno>((before, getval(set, 0)))
    })?;
    same!(child.report()?, Ok((6, Err(EINVAL))));
    same!(getval(set, 0), Ok(1));
    Ok(())
}

fn undo_is_applied_on_leaving_by_setns() -> Outcome {
    let home = namespace_of(own_pid())?;
    ok!(unshare());
    let set = ok!(set_of(&[0]));
    let fd = home.as_raw_fd();
    let watcher = namespace_of(own_pid())?;
    let child = Task::start(move || {
        semop(set, &[op(0, 3, SEM_UNDO as i16)])?;
        setns(fd, CLONE_NEWIPC)?;
        Ok::<_, Errno>(())
    })?;
    same!(child.report()?, Ok(()));
    same!(getval(set, 0), Ok(0));
    drop(watcher);
    Ok(())
}

fn attachments_come_along() -> Outcome {
    let id = ok!(segment(PAGE));
    let at = ok!(shmat(id, 0, 0));
    set_byte(at, 7);
    let home = namespace_of(own_pid())?;
    ok!(unshare());
    same!(byte_at(at), 7);
    let other = ok!(segment(PAGE));
    let other_at = ok!(shmat(other, 0, 0));
    same!(nattch(other), Ok(1));
    // It is still counted where it is of.
    ok!(setns(home.as_raw_fd(), CLONE_NEWIPC));
    same!(nattch(id), Ok(1));
    ok!(shmdt(at));
    same!(shmdt(at), Err(EINVAL));
    same!(nattch(id), Ok(0));
    ok!(shmdt(other_at));
    Ok(())
}

fn a_removed_segment_stays_with_who_left() -> Outcome {
    let id = ok!(segment(PAGE));
    let at = ok!(shmat(id, 0, 0));
    set_byte(at, 9);
    ok!(crate::call::shm_remove(id));
    ok!(unshare());
    same!(byte_at(at), 9);
    ok!(shmdt(at));
    Ok(())
}

fn descriptors_of_queues_come_along() -> Outcome {
    let fd = ok!(mq_open("/queue", libc::O_CREAT | libc::O_RDWR, 0o600, None));
    ok!(unshare());
    ok!(mq_send(fd, b"here", 1));
    same!(mq_receive(fd, 8192), Ok((b"here".to_vec(), 1)));
    Ok(())
}

fn children_follow_and_those_of_before_stay() -> Outcome {
    let id = ok!(queue());
    let before = Task::start(move || msgrcv(id, 8, 0, 0).and_then(|_| queue()))?;
    before.asleep()?;
    let home = namespace_of(own_pid())?;
    ok!(unshare());
    same!((queue(), queue()), (Ok(0), Ok(1)));
    same!(Task::start(queue)?.report()?, Ok(2));
    ok!(setns(home.as_raw_fd(), CLONE_NEWIPC));
    ok!(msgsnd(id, 1, b"", 0));
    same!(before.report()?, Ok(1));
    Ok(())
}

fn a_sleeper_sleeps_on() -> Outcome {
    let id = ok!(queue());
    let sleeper = Task::start(move || msgrcv(id, 8, 0, 0).map(|message| message.text))?;
    sleeper.asleep()?;
    let home = namespace_of(own_pid())?;
    ok!(unshare());
    // The same number, in another namespace.
    let there = ok!(queue());
    same!(there, id);
    ok!(msgsnd(there, 1, b"there", 0));
    same!(sleeper.sleeps_on(), true);
    ok!(setns(home.as_raw_fd(), CLONE_NEWIPC));
    ok!(msgsnd(id, 1, b"here", 0));
    same!(sleeper.report()?, Ok(b"here".to_vec()));
    Ok(())
}

/// Clones with the flags. The child makes a queue, and exits with its identifier.
fn clone_and_make(flags: i32) -> Answer<i32> {
    // SAFETY: a copy of this process, as fork makes it, which goes on here and ends at once.
    let pid = answer(unsafe { libc::syscall(libc::SYS_clone, flags | SIGCHLD, 0, 0, 0, 0) })?;
    if pid == 0 {
        // SAFETY: ends the child.
        unsafe { libc::_exit(queue().unwrap_or(99)) };
    }
    let mut status = 0;
    // SAFETY: a valid place.
    unsafe { libc::waitpid(i32::try_from(pid).unwrap_or(-1), &raw mut status, 0) };
    Ok(libc::WEXITSTATUS(status))
}

fn clone_puts_only_the_child_there() -> Outcome {
    same!((queue(), queue()), (Ok(0), Ok(1)));
    same!(clone_and_make(0), Ok(2));
    same!(clone_and_make(CLONE_NEWIPC), Ok(0));
    same!(queue(), Ok(3));
    Ok(())
}

fn clone_with_shared_undo() -> Outcome {
    same!(clone_and_make(CLONE_NEWIPC | libc::CLONE_SYSVSEM), Err(EINVAL));
    Ok(())
}

fn back_by_a_descriptor() -> Outcome {
    ok!(queue());
    let home = namespace_of(own_pid())?;
    ok!(unshare());
    same!((queue(), queue()), (Ok(0), Ok(1)));
    let away = namespace_of(own_pid())?;
    ok!(setns(home.as_raw_fd(), CLONE_NEWIPC));
    same!(queue(), Ok(1));
    // Any kind will do.
    ok!(setns(away.as_raw_fd(), 0));
    same!(queue(), Ok(2));
    Ok(())
}

fn by_a_pidfd() -> Outcome {
    ok!(queue());
    let (child, pid) = child_elsewhere(2)?;
    // SAFETY: numbers.
    let pidfd = ok!(answer(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }));
    let pidfd = i32::try_from(pidfd).unwrap_or(-1);
    // Of a process, it has to be said what of it is wanted.
    same!(setns(pidfd, 0), Err(EINVAL));
    ok!(setns(pidfd, CLONE_NEWIPC));
    same!(queue(), Ok(2));
    child.kill();
    same!(queue(), Ok(3));
    Ok(())
}

fn wrong_descriptors() -> Outcome {
    let home = namespace_of(own_pid())?;
    same!(setns(home.as_raw_fd(), libc::CLONE_NEWUTS), Err(EINVAL));
    same!(setns(-1, CLONE_NEWIPC), Err(EBADF));
    let file = fs::File::open("/proc/self/status").map_err(|error| Failure(error.to_string()))?;
    same!(setns(file.as_raw_fd(), CLONE_NEWIPC), Err(EINVAL));
    // Its own is none that one can't go to.
    ok!(queue());
    ok!(setns(home.as_raw_fd(), CLONE_NEWIPC));
    same!(queue(), Ok(1));
    Ok(())
}

fn a_descriptor_keeps_it() -> Outcome {
    let (child, pid) = child_elsewhere(2)?;
    let there = namespace_of(pid)?;
    child.kill();
    ok!(setns(there.as_raw_fd(), CLONE_NEWIPC));
    same!(queue(), Ok(2));
    Ok(())
}

fn needs_a_capability() -> Outcome {
    let home = namespace_of(own_pid())?;
    let fd = home.as_raw_fd();
    let id = ok!(msgget(1, IPC_CREAT | 0o600));
    let child = Task::start(move || {
        // SAFETY: numbers.
        unsafe { libc::setresuid(65534, 65534, 65534) };
        (unshare(), setns(fd, CLONE_NEWIPC), clone_and_make(CLONE_NEWIPC), msgget(1, 0o600))
    })?;
    same!(child.report()?, (Err(EPERM), Err(EPERM), Err(EPERM), Err(EACCES)));
    ok!(msg_remove(id));
    Ok(())
}

fn of_several_threads_one_goes() -> Outcome {
    same!((queue(), queue()), (Ok(0), Ok(1)));
    let gone = Thread::start(|| (unshare(), queue())).join();
    same!(gone, Some((Ok(0), Ok(0))));
    same!(queue(), Ok(2));
    Ok(())
}
