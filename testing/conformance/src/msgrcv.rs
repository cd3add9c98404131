//! msgrcv(2): its order of checks, selection by type, copies, and how it waits.

use std::ptr;

use libc::{MSG_EXCEPT, MSG_NOERROR, PROT_NONE, PROT_READ, PROT_WRITE};

use crate::{
    Door,
    call::{
        Answer, MSG_COPY, Message, NOWAIT, message, msg_remove, msg_set, msg_stat, msgget, msgrcv,
        msgrcv_raw, msgsnd, queue,
    },
    case::cases,
    check::{Outcome, ok, same},
    errno::{E2BIG, EACCES, EFAULT, EIDRM, EINTR, EINVAL, ENOMSG},
    memory::{Bad, Pages},
    task::{
        PROCESSES, Task, Thread, become_user, executed_while_asleep, handle, let_others_run, now, own_pid,
        own_tid,
    },
};

cases! { "msgrcv":
    unknown_ids_and_sizes,
    empty,
    any_type_in_order,
    exact_type,
    all_but_one_type,
    except_needs_a_positive_type,
    lowest_type_up_to,
    lowest_type_of_all.wide(),
    too_long,
    too_long_cut,
    exact_room,
    needs_read_permission.root(),
    stamps,
    message_lost_on_bad_pointer,
    message_lost_over_the_edge,
    bad_pointer_without_message,
    copy,
    copy_flags,
    copy_without_room,
    copy_bad_pointer,
    copy_changes_nothing,
    waits,
    handed_over_leaves_queue_untouched,
    handed_over_in_order,
    handed_over_by_type,
    handed_over_to_a_thread,
    too_small_receivers_are_dropped,
    cutting_receiver_takes_any,
    receiver_without_buffer_loses,
    removed_while_asleep,
    interrupted_by_a_handler,
    interrupted_despite_restart,
    goes_on_after_stop,
    stopped_leaves_the_line.differs(
        &[Door::Preload, Door::Stranger, Door::Api],
        "a sleeper in futex(2) does not notice that it was stopped, so it keeps its place in the line"
    ),
    killed_while_asleep,
    executed_while_it_slept.only(PROCESSES),
    set_checks_again.root(),
    set_leaves_them_waiting,
    wakes_senders_round,
}

/// A queue with one message per type, each with its place as text.
fn queue_of(types: &[i64]) -> Outcome<i32> {
    let id = ok!(queue());
    for (place, &mtype) in types.iter().enumerate() {
        ok!(msgsnd(id, mtype, &[place as u8], NOWAIT));
    }
    Ok(id)
}

/// A task asleep in a receive.
fn receiver(id: i32, size: usize, mtype: i64, flags: i32) -> Outcome<Task<Answer<Message>>> {
    let task = Task::start(move || msgrcv(id, size, mtype, flags))?;
    task.asleep()?;
    Ok(task)
}

/// Takes messages with this filter until there is none; answers their places.
fn take_all(id: i32, mtype: i64, flags: i32) -> Vec<u8> {
    std::iter::from_fn(|| msgrcv(id, 1, mtype, flags | NOWAIT).ok()).map(|message| message.text[0]).collect()
}

fn unknown_ids_and_sizes() -> Outcome {
    for id in [-1, 0, 5, 32768, i32::MIN, i32::MAX] {
        same!(msgrcv(id, 1, 0, NOWAIT), Err(EINVAL));
        same!(msgrcv_raw(id, ptr::null_mut(), 1, 0, NOWAIT), Err(EINVAL));
    }
    let id = queue_of(&[1])?;
    same!(msgrcv_raw(id, ptr::null_mut(), usize::MAX, 0, NOWAIT), Err(EINVAL));
    same!(msgrcv_raw(id, ptr::null_mut(), isize::MIN as usize, 0, NOWAIT), Err(EINVAL));
    same!(ok!(msg_stat(id)).msg_qnum, 1);
    Ok(())
}

fn empty() -> Outcome {
    let id = ok!(queue());
    for mtype in [0, 1, -1, i64::MIN, i64::MAX] {
        same!(msgrcv(id, 1, mtype, NOWAIT), Err(ENOMSG));
    }
    Ok(())
}

fn any_type_in_order() -> Outcome {
    let id = queue_of(&[3, 1, 2, 1])?;
    same!(take_all(id, 0, 0), [0, 1, 2, 3]);
    Ok(())
}

fn exact_type() -> Outcome {
    let id = queue_of(&[3, 1, 2, 1, 3])?;
    same!(msgrcv(id, 1, 4, NOWAIT), Err(ENOMSG));
    same!(take_all(id, 1, 0), [1, 3]);
    same!(take_all(id, 3, 0), [0, 4]);
    same!(take_all(id, 0, 0), [2]);
    Ok(())
}

fn all_but_one_type() -> Outcome {
    let id = queue_of(&[3, 1, 2, 1, 3])?;
    same!(take_all(id, 1, MSG_EXCEPT), [0, 2, 4]);
    same!(msgrcv(id, 1, 1, MSG_EXCEPT | NOWAIT), Err(ENOMSG));
    same!(take_all(id, 1, 0), [1, 3]);
    Ok(())
}

fn except_needs_a_positive_type() -> Outcome {
    let id = queue_of(&[3, 1, 2])?;
    same!(msgrcv(id, 1, 0, MSG_EXCEPT | NOWAIT), Ok(message(3, &[0])));
    same!(msgrcv(id, 1, -2, MSG_EXCEPT | NOWAIT), Ok(message(1, &[1])));
    Ok(())
}

fn lowest_type_up_to() -> Outcome {
    let id = queue_of(&[5, 3, 4, 3, 9])?;
    same!(msgrcv(id, 1, -2, NOWAIT), Err(ENOMSG));
    same!(take_all(id, -5, 0), [1, 3, 2, 0]);
    same!(take_all(id, -9, 0), [4]);
    Ok(())
}

/// LONG_MIN stands for LONG_MAX.
fn lowest_type_of_all() -> Outcome {
    let id = queue_of(&[i64::MAX, i64::MAX - 1])?;
    same!(take_all(id, i64::MIN, 0), [1, 0]);
    Ok(())
}

fn too_long() -> Outcome {
    let id = ok!(queue());
    ok!(msgsnd(id, 1, b"abcdef", 0));
    same!(msgrcv(id, 5, 0, NOWAIT), Err(E2BIG));
    same!(msgrcv(id, 0, 0, NOWAIT), Err(E2BIG));
    same!(msgrcv(id, 6, 0, NOWAIT), Ok(message(1, b"abcdef")));
    Ok(())
}

fn too_long_cut() -> Outcome {
    let id = ok!(queue());
    ok!(msgsnd(id, 1, b"abcdef", 0));
    ok!(msgsnd(id, 2, b"next", 0));
    same!(msgrcv(id, 3, 0, NOWAIT | MSG_NOERROR), Ok(message(1, b"abc")));
    same!(msgrcv(id, 0, 0, NOWAIT | MSG_NOERROR), Ok(message(2, b"")));
    same!(ok!(msg_stat(id)).__msg_cbytes, 0);
    Ok(())
}

/// Nothing is written beyond the message, however much room there is.
fn exact_room() -> Outcome {
    let id = ok!(queue());
    ok!(msgsnd(id, 1, b"ab", 0));
    let mut buffer = [0xffu8; 16];
    same!(msgrcv_raw(id, buffer.as_mut_ptr().cast(), 8, 0, NOWAIT), Ok(2));
    same!(buffer[8..], [b'a', b'b', 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    Ok(())
}

fn needs_read_permission() -> Outcome {
    let id = ok!(msgget(libc::IPC_PRIVATE, 0o662));
    ok!(msgsnd(id, 1, b"x", 0));
    become_user(1000, 1000, &[]);
    same!(msgrcv(id, 1, 0, NOWAIT), Err(EACCES));
    same!(msgrcv(id, 0, 0, NOWAIT), Err(EACCES));
    Ok(())
}

fn stamps() -> Outcome {
    let id = queue_of(&[1])?;
    let before = now();
    ok!(msgrcv(id, 1, 0, 0));
    let ds = ok!(msg_stat(id));
    same!(ds.msg_lrpid, own_pid());
    same!((before..=now()).contains(&ds.msg_rtime), true);
    same!((ds.msg_qnum, ds.__msg_cbytes), (0, 0));
    Ok(())
}

fn message_lost_on_bad_pointer() -> Outcome {
    for address in Bad::new().unwritable() {
        let id = queue_of(&[1, 2])?;
        same!(msgrcv_raw(id, address, 1, 0, NOWAIT), Err(EFAULT));
        let ds = ok!(msg_stat(id));
        same!((ds.msg_qnum, ds.msg_lrpid), (1, own_pid()));
        same!(msgrcv(id, 1, 0, NOWAIT), Ok(message(2, &[1])));
    }
    Ok(())
}

/// The type can be written, the text can't.
fn message_lost_over_the_edge() -> Outcome {
    let id = queue_of(&[1, 2])?;
    let pages = Pages::new(PROT_READ | PROT_WRITE, PROT_NONE);
    same!(msgrcv_raw(id, pages.before_the_edge(&[0; 8]), 1, 0, NOWAIT), Err(EFAULT));
    same!(msgrcv_raw(id, pages.before_the_edge(&[0; 9]), 8000, 0, NOWAIT), Ok(1));
    same!(ok!(msg_stat(id)).msg_qnum, 0);
    Ok(())
}

fn bad_pointer_without_message() -> Outcome {
    let id = queue_of(&[1])?;
    same!(msgrcv_raw(id, ptr::null_mut(), 1, 2, NOWAIT), Err(ENOMSG));
    same!(msgrcv_raw(id, ptr::null_mut(), 0, 0, NOWAIT), Err(E2BIG));
    same!(ok!(msg_stat(id)).msg_qnum, 1);
    Ok(())
}

fn copy() -> Outcome {
    let id = queue_of(&[5, 6, 7])?;
    for place in [2, 0, 1] {
        same!(msgrcv(id, 1, place, MSG_COPY | NOWAIT), Ok(message(5 + place, &[place as u8])));
    }
    for place in [3, -1, i64::MAX, i64::MIN] {
        same!(msgrcv(id, 1, place, MSG_COPY | NOWAIT), Err(ENOMSG));
    }
    same!(take_all(id, 0, 0), [0, 1, 2]);
    Ok(())
}

fn copy_flags() -> Outcome {
    let id = queue_of(&[5])?;
    same!(msgrcv(id, 1, 0, MSG_COPY), Err(EINVAL));
    same!(msgrcv(id, 1, 0, MSG_COPY | MSG_EXCEPT | NOWAIT), Err(EINVAL));
    same!(msgrcv(77, 1, 0, MSG_COPY | NOWAIT), Err(EINVAL));
    Ok(())
}

/// Copies are never cut.
fn copy_without_room() -> Outcome {
    let id = ok!(queue());
    ok!(msgsnd(id, 1, b"abcdef", 0));
    same!(msgrcv(id, 5, 0, MSG_COPY | NOWAIT), Err(E2BIG));
    same!(msgrcv(id, 5, 0, MSG_COPY | NOWAIT | MSG_NOERROR), Err(EINVAL));
    same!(msgrcv(id, 6, 0, MSG_COPY | NOWAIT | MSG_NOERROR), Ok(message(1, b"abcdef")));
    Ok(())
}

/// The buffer is read before the queue is looked up.
fn copy_bad_pointer() -> Outcome {
    let id = queue_of(&[5])?;
    for address in Bad::new().unreadable() {
        same!(msgrcv_raw(id, address, 1, 0, MSG_COPY | NOWAIT), Err(EFAULT));
        same!(msgrcv_raw(77, address, 1, 0, MSG_COPY | NOWAIT), Err(EFAULT));
        same!(msgrcv_raw(id, address, 1, 0, MSG_COPY), Err(EINVAL));
    }
    let read_only = Pages::new(PROT_READ, PROT_READ);
    same!(msgrcv_raw(id, read_only.at(0), 1, 0, MSG_COPY | NOWAIT), Err(EFAULT));
    same!(ok!(msg_stat(id)).msg_qnum, 1);
    Ok(())
}

fn copy_changes_nothing() -> Outcome {
    let id = queue_of(&[5])?;
    ok!(msgrcv(id, 1, 0, MSG_COPY | NOWAIT));
    let ds = ok!(msg_stat(id));
    same!((ds.msg_qnum, ds.__msg_cbytes, ds.msg_rtime, ds.msg_lrpid), (1, 1, 0, 0));
    Ok(())
}

fn waits() -> Outcome {
    let id = ok!(queue());
    let waiting = receiver(id, 10, 0, 0)?;
    ok!(msgsnd(id, 3, b"hello", 0));
    same!(waiting.report()?, Ok(message(3, b"hello")));
    Ok(())
}

fn handed_over_leaves_queue_untouched() -> Outcome {
    let id = ok!(queue());
    let waiting = receiver(id, 10, 0, 0)?;
    let pid = waiting.pid();
    let before = now();
    ok!(msgsnd(id, 3, b"hello", 0));
    let ds = ok!(msg_stat(id));
    same!((ds.msg_qnum, ds.__msg_cbytes, ds.msg_lrpid), (0, 0, pid));
    same!((before..=now()).contains(&ds.msg_rtime), true);
    same!(waiting.report()?, Ok(message(3, b"hello")));
    Ok(())
}

fn handed_over_in_order() -> Outcome {
    let id = ok!(queue());
    let waiting = [receiver(id, 1, 0, 0)?, receiver(id, 1, 0, 0)?, receiver(id, 1, 0, 0)?];
    for place in 0..3 {
        ok!(msgsnd(id, 1, &[place], 0));
    }
    for (place, task) in waiting.into_iter().enumerate() {
        same!(task.report()?, Ok(message(1, &[place as u8])));
    }
    Ok(())
}

fn handed_over_by_type() -> Outcome {
    let id = ok!(queue());
    let two = receiver(id, 1, 2, 0)?;
    let not_three = receiver(id, 1, 3, MSG_EXCEPT)?;
    let up_to_five = receiver(id, 1, -5, 0)?;
    ok!(msgsnd(id, 3, b"a", 0));
    same!(up_to_five.report()?, Ok(message(3, b"a")));
    ok!(msgsnd(id, 3, b"b", 0));
    same!(two.sleeps_on() && not_three.sleeps_on(), true);
    ok!(msgsnd(id, 9, b"c", 0));
    same!(not_three.report()?, Ok(message(9, b"c")));
    ok!(msgsnd(id, 2, b"d", 0));
    same!(two.report()?, Ok(message(2, b"d")));
    same!(ok!(msg_stat(id)).msg_qnum, 1);
    Ok(())
}

/// lrpid is the thread's own id after a hand-over, but the process's after a take.
fn handed_over_to_a_thread() -> Outcome {
    let id = ok!(queue());
    let out = ok!(queue());
    let task = Task::start(move || {
        let receiving = Thread::start(move || {
            let tid = own_tid();
            msgsnd(out, i64::from(tid), b"", 0)?;
            msgrcv(id, 1, 0, 0)?;
            msg_stat(id).map(|ds| ds.msg_lrpid)
        });
        receiving.join()
    })?;
    let tid = ok!(msgrcv(out, 0, 0, 0)).mtype as i32;
    same!(tid == task.pid(), false);
    // The thread's sleep: the task itself sleeps in the join, a futex too.
    let_others_run();
    ok!(msgsnd(id, 1, b"x", 0));
    same!(task.report()?, Some(Ok(tid)));
    Ok(())
}

/// They are told E2BIG, and the message goes on to the next.
fn too_small_receivers_are_dropped() -> Outcome {
    let id = ok!(queue());
    let small = [receiver(id, 1, 0, 0)?, receiver(id, 4, 0, 0)?];
    let other_type = receiver(id, 1, 7, 0)?;
    let large = receiver(id, 5, 0, 0)?;
    let later = receiver(id, 5, 0, 0)?;
    ok!(msgsnd(id, 1, b"hello", 0));
    for task in small {
        same!(task.report()?, Err(E2BIG));
    }
    same!(large.report()?, Ok(message(1, b"hello")));
    same!(other_type.sleeps_on() && later.sleeps_on(), true);
    same!(ok!(msg_stat(id)).msg_qnum, 0);
    Ok(())
}

fn cutting_receiver_takes_any() -> Outcome {
    let id = ok!(queue());
    let waiting = receiver(id, 2, 0, MSG_NOERROR)?;
    ok!(msgsnd(id, 1, b"hello", 0));
    same!(waiting.report()?, Ok(message(1, b"he")));
    Ok(())
}

/// Handed over and then not written: lost.
fn receiver_without_buffer_loses() -> Outcome {
    let id = ok!(queue());
    let waiting = Task::start(move || msgrcv_raw(id, ptr::null_mut(), 5, 0, 0))?;
    waiting.asleep()?;
    ok!(msgsnd(id, 1, b"hello", 0));
    same!(waiting.report()?, Err(EFAULT));
    same!(ok!(msg_stat(id)).msg_qnum, 0);
    Ok(())
}

fn removed_while_asleep() -> Outcome {
    let id = ok!(queue());
    let waiting = [receiver(id, 1, 0, 0)?, receiver(id, 1, 5, 0)?];
    ok!(msg_remove(id));
    for task in waiting {
        same!(task.report()?, Err(EIDRM));
    }
    Ok(())
}

fn interrupted(flags: i32) -> Outcome {
    let id = ok!(queue());
    let waiting = Task::start(move || {
        handle(libc::SIGUSR1, flags);
        msgrcv(id, 1, 0, 0)
    })?;
    waiting.asleep()?;
    waiting.signal(libc::SIGUSR1);
    same!(waiting.report()?, Err(EINTR));
    Ok(())
}

fn interrupted_by_a_handler() -> Outcome {
    interrupted(0)
}

fn interrupted_despite_restart() -> Outcome {
    interrupted(libc::SA_RESTART)
}

fn goes_on_after_stop() -> Outcome {
    let id = ok!(queue());
    let waiting = receiver(id, 1, 0, 0)?;
    waiting.stop()?;
    waiting.signal(libc::SIGCONT);
    waiting.asleep()?;
    ok!(msgsnd(id, 1, b"x", 0));
    same!(waiting.report()?, Ok(message(1, b"x")));
    Ok(())
}

/// A stopped receiver leaves the line, and queues up at its tail when it goes on.
fn stopped_leaves_the_line() -> Outcome {
    let id = ok!(queue());
    let (first, second) = (receiver(id, 1, 0, 0)?, receiver(id, 1, 0, 0)?);
    first.stop()?;
    ok!(msgsnd(id, 1, b"1", 0));
    ok!(msgsnd(id, 1, b"2", 0));
    same!(second.report()?, Ok(message(1, b"1")));
    first.signal(libc::SIGCONT);
    same!(first.report()?, Ok(message(1, b"2")));
    Ok(())
}

fn killed_while_asleep() -> Outcome {
    let id = ok!(queue());
    let (first, second) = (receiver(id, 1, 0, 0)?, receiver(id, 1, 0, 0)?);
    first.kill();
    ok!(msgsnd(id, 1, b"x", 0));
    same!(second.report()?, Ok(message(1, b"x")));
    Ok(())
}

/// Whether the first thread or the one that executes has made the process's first call.
fn executed_while_it_slept() -> Outcome {
    let id = ok!(queue());
    for other_first in [false, true] {
        let before = move || other_first.then(|| msg_stat(id));
        let task = executed_while_asleep(before, move || msgrcv(id, 1, 0, 0))?;
        ok!(msgsnd(id, 1, b"x", NOWAIT));
        same!(msgrcv(id, 1, 0, NOWAIT), Ok(message(1, b"x")));
        task.kill();
    }
    Ok(())
}

fn set_checks_again() -> Outcome {
    let id = ok!(msgget(libc::IPC_PRIVATE, 0o666));
    let waiting = Task::start(move || {
        let _attached = msg_stat(id);
        become_user(1000, 1000, &[]);
        msgrcv(id, 1, 0, 0)
    })?;
    waiting.asleep()?;
    let mut ds = ok!(msg_stat(id));
    ok!(msg_set(id, ds));
    same!(waiting.sleeps_on(), true);
    ds.msg_perm.mode = 0o600;
    ok!(msg_set(id, ds));
    same!(waiting.report()?, Err(EACCES));
    Ok(())
}

/// IPC_SET makes every receiver search again; what it finds nothing for waits on.
fn set_leaves_them_waiting() -> Outcome {
    let id = ok!(queue());
    let (first, second) = (receiver(id, 1, 1, 0)?, receiver(id, 1, 2, 0)?);
    ok!(msg_set(id, ok!(msg_stat(id))));
    same!(first.sleeps_on() && second.sleeps_on(), true);
    ok!(msgsnd(id, 2, b"x", 0));
    same!(second.report()?, Ok(message(2, b"x")));
    ok!(msgsnd(id, 1, b"y", 0));
    same!(first.report()?, Ok(message(1, b"y")));
    Ok(())
}

/// Of the sleeping senders the first that fits goes on; those that don't move behind the others.
fn wakes_senders_round() -> Outcome {
    let id = ok!(queue());
    ok!(crate::call::msg_set_qbytes(id, 10));
    ok!(msgsnd(id, 1, b"12345", 0));
    ok!(msgsnd(id, 1, b"67890", 0));
    let large = Task::start(move || msgsnd(id, 1, b"LARGELARGE", 0))?;
    large.asleep()?;
    let small = Task::start(move || msgsnd(id, 1, b"small", 0))?;
    small.asleep()?;
    ok!(msgrcv(id, 10, 0, NOWAIT));
    same!(small.report()?, Ok(0));
    same!(large.sleeps_on(), true);
    same!(msgrcv(id, 10, 0, NOWAIT), Ok(message(1, b"67890")));
    same!(large.sleeps_on(), true);
    same!(msgrcv(id, 10, 0, NOWAIT), Ok(message(1, b"small")));
    same!(large.report()?, Ok(0));
    Ok(())
}
