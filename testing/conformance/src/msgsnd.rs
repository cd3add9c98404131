//! msgsnd(2): its order of checks, what fits, and how it waits.

use std::ptr;

use libc::{PROT_NONE, PROT_READ, PROT_WRITE};

use crate::{
    call::{
        Answer, NOWAIT, message, msg_remove, msg_set, msg_set_qbytes, msg_stat, msgget, msgrcv, msgsnd,
        msgsnd_raw, queue,
    },
    case::cases,
    check::{Outcome, ok, same},
    errno::{EACCES, EAGAIN, EFAULT, EIDRM, EINTR, EINVAL, ENOMSG},
    memory::{Bad, Pages},
    task::{PROCESSES, Task, become_root, become_user, executed_while_asleep, handle, now, own_pid},
};

cases! { "msgsnd":
    type_below_1.wide(),
    sizes,
    msgmax_is_the_largest.limits(&[("kernel.msgmax", "100")]),
    bad_pointers,
    text_over_the_edge,
    bad_pointer_before_bad_id,
    bad_size_before_bad_pointer,
    unknown_ids,
    needs_write_permission.root(),
    full_by_bytes,
    full_by_count,
    qbytes_0_takes_nothing,
    stamps,
    waits_for_room,
    small_overtakes_large,
    removed_while_asleep,
    interrupted_by_a_handler,
    interrupted_despite_restart,
    goes_on_after_stop,
    killed_while_asleep,
    executed_while_it_slept.only(PROCESSES),
    permission_lost_while_asleep.root(),
    larger_queue_wakes,
    mixed_sizes_keep_their_text,
}

/// Sends `size` bytes from another task.
fn sender(id: i32, size: usize) -> Outcome<Task<Answer<i32>>> {
    let task = Task::start(move || msgsnd(id, 1, &vec![b's'; size], 0))?;
    task.asleep()?;
    Ok(task)
}

/// A queue with `qbytes` bytes, all of them used by one message.
fn full_queue(qbytes: usize) -> Outcome<i32> {
    let id = ok!(queue());
    ok!(msg_set_qbytes(id, qbytes as u64));
    ok!(msgsnd(id, 1, &vec![b'f'; qbytes], NOWAIT));
    Ok(id)
}

fn type_below_1() -> Outcome {
    let id = ok!(queue());
    for mtype in [0, -1, i64::MIN] {
        same!(msgsnd(id, mtype, b"x", 0), Err(EINVAL));
    }
    for mtype in [1, i64::from(i32::MAX) + 1, i64::MAX] {
        same!(msgsnd(id, mtype, b"x", 0), Ok(0));
        same!(msgrcv(id, 1, 0, NOWAIT), Ok(message(mtype, b"x")));
    }
    Ok(())
}

fn sizes() -> Outcome {
    let id = ok!(queue());
    same!(msgsnd(id, 1, b"", 0), Ok(0));
    same!(msgsnd(id, 1, &[7; 8192], 0), Ok(0));
    same!(msgsnd(id, 1, &[7; 8193], 0), Err(EINVAL));
    let head = 1i64;
    same!(msgsnd_raw(id, (&raw const head).cast(), usize::MAX, 0), Err(EINVAL));
    same!(msgsnd_raw(id, (&raw const head).cast(), isize::MIN as usize, 0), Err(EINVAL));
    same!(msgrcv(id, 0, 0, NOWAIT), Ok(message(1, b"")));
    Ok(())
}

fn msgmax_is_the_largest() -> Outcome {
    let id = ok!(queue());
    same!(msgsnd(id, 1, &[1; 100], 0), Ok(0));
    same!(msgsnd(id, 1, &[1; 101], 0), Err(EINVAL));
    Ok(())
}

fn bad_pointers() -> Outcome {
    let id = ok!(queue());
    for address in Bad::new().unreadable() {
        same!(msgsnd_raw(id, address, 8, 0), Err(EFAULT));
        same!(msgsnd_raw(id, address, 0, 0), Err(EFAULT));
    }
    same!(ok!(msg_stat(id)).msg_qnum, 0);
    Ok(())
}

/// The type can be read, the text only in part.
fn text_over_the_edge() -> Outcome {
    let id = ok!(queue());
    let pages = Pages::new(PROT_READ | PROT_WRITE, PROT_NONE);
    let mut bytes = 9i64.to_ne_bytes().to_vec();
    bytes.extend_from_slice(b"text");
    let buffer = pages.before_the_edge(&bytes);
    same!(msgsnd_raw(id, buffer, 5, 0), Err(EFAULT));
    same!(ok!(msg_stat(id)).msg_qnum, 0);
    same!(msgsnd_raw(id, buffer, 4, 0), Ok(0));
    same!(msgrcv(id, 4, 0, NOWAIT), Ok(message(9, b"text")));
    Ok(())
}

fn bad_pointer_before_bad_id() -> Outcome {
    same!(msgsnd_raw(-1, ptr::null(), 1, 0), Err(EFAULT));
    same!(msgsnd_raw(77, ptr::null(), 1, 0), Err(EFAULT));
    let pages = Pages::new(PROT_READ | PROT_WRITE, PROT_NONE);
    let only_the_type = pages.before_the_edge(&1i64.to_ne_bytes());
    same!(msgsnd_raw(77, only_the_type, 1, 0), Err(EFAULT));
    same!(msgsnd_raw(-1, only_the_type, 1, 0), Err(EINVAL));
    Ok(())
}

/// The type is read before the size is looked at, the text after it.
fn bad_size_before_bad_pointer() -> Outcome {
    let id = ok!(queue());
    let pages = Pages::new(PROT_READ | PROT_WRITE, PROT_NONE);
    same!(msgsnd_raw(id, pages.before_the_edge(&1i64.to_ne_bytes()), 8193, 0), Err(EINVAL));
    same!(msgsnd_raw(id, pages.before_the_edge(&0i64.to_ne_bytes()), 1, 0), Err(EINVAL));
    same!(msgsnd_raw(id, ptr::null(), 8193, 0), Err(EFAULT));
    Ok(())
}

fn unknown_ids() -> Outcome {
    for id in [-1, 0, 1, 32768, i32::MAX, i32::MIN] {
        same!(msgsnd(id, 1, b"x", NOWAIT), Err(EINVAL));
    }
    Ok(())
}

fn needs_write_permission() -> Outcome {
    let id = ok!(msgget(libc::IPC_PRIVATE, 0o624));
    become_user(1000, 1000, &[]);
    same!(msgsnd(id, 1, b"x", NOWAIT), Err(EACCES));
    become_user_of_root_group();
    same!(msgsnd(id, 1, b"x", NOWAIT), Ok(0));
    Ok(())
}

fn become_user_of_root_group() {
    become_root();
    become_user(1000, 1000, &[0]);
}

fn full_by_bytes() -> Outcome {
    let id = ok!(queue());
    ok!(msg_set_qbytes(id, 10));
    same!(msgsnd(id, 1, &[0; 11], NOWAIT), Err(EAGAIN));
    same!(msgsnd(id, 1, &[0; 6], NOWAIT), Ok(0));
    same!(msgsnd(id, 1, &[0; 5], NOWAIT), Err(EAGAIN));
    same!(msgsnd(id, 1, &[0; 4], NOWAIT), Ok(0));
    same!(msgsnd(id, 1, b"", NOWAIT), Ok(0));
    let ds = ok!(msg_stat(id));
    same!((ds.msg_qnum, ds.__msg_cbytes), (3, 10));
    Ok(())
}

/// Empty messages count too: no more of them than qbytes.
fn full_by_count() -> Outcome {
    let id = ok!(queue());
    ok!(msg_set_qbytes(id, 3));
    for _ in 0..3 {
        same!(msgsnd(id, 1, b"", NOWAIT), Ok(0));
    }
    same!(msgsnd(id, 1, b"", NOWAIT), Err(EAGAIN));
    Ok(())
}

fn qbytes_0_takes_nothing() -> Outcome {
    let id = ok!(queue());
    ok!(msg_set_qbytes(id, 0));
    same!(msgsnd(id, 1, b"", NOWAIT), Err(EAGAIN));
    Ok(())
}

fn stamps() -> Outcome {
    let id = ok!(queue());
    let before = now();
    ok!(msgsnd(id, 1, b"abc", 0));
    let ds = ok!(msg_stat(id));
    same!(ds.msg_lspid, own_pid());
    same!((before..=now()).contains(&ds.msg_stime), true);
    same!((ds.msg_rtime, ds.msg_lrpid, ds.msg_qnum, ds.__msg_cbytes), (0, 0, 1, 3));
    Ok(())
}

fn waits_for_room() -> Outcome {
    let id = full_queue(10)?;
    let waiting = sender(id, 5)?;
    ok!(msgrcv(id, 10, 0, NOWAIT));
    same!(waiting.report()?, Ok(0));
    same!(msgrcv(id, 10, 0, NOWAIT), Ok(message(1, b"sssss")));
    Ok(())
}

/// What fits is taken, though older senders sleep.
fn small_overtakes_large() -> Outcome {
    let id = full_queue(10)?;
    ok!(msgrcv(id, 10, 0, NOWAIT));
    ok!(msgsnd(id, 1, b"1234", NOWAIT));
    let large = sender(id, 8)?;
    same!(msgsnd(id, 1, b"567890", NOWAIT), Ok(0));
    same!(large.sleeps_on(), true);
    ok!(msgrcv(id, 10, 0, NOWAIT));
    same!(large.sleeps_on(), true);
    ok!(msgrcv(id, 10, 0, NOWAIT));
    same!(large.report()?, Ok(0));
    Ok(())
}

fn removed_while_asleep() -> Outcome {
    let id = full_queue(10)?;
    let (one, two) = (sender(id, 5)?, sender(id, 11)?);
    ok!(msg_remove(id));
    same!(one.report()?, Err(EIDRM));
    same!(two.report()?, Err(EIDRM));
    Ok(())
}

fn interrupted(flags: i32) -> Outcome {
    let id = full_queue(10)?;
    let waiting = Task::start(move || {
        handle(libc::SIGUSR1, flags);
        msgsnd(id, 1, b"x", 0)
    })?;
    waiting.asleep()?;
    waiting.signal(libc::SIGUSR1);
    same!(waiting.report()?, Err(EINTR));
    same!(ok!(msg_stat(id)).msg_qnum, 1);
    Ok(())
}

fn interrupted_by_a_handler() -> Outcome {
    interrupted(0)
}

fn interrupted_despite_restart() -> Outcome {
    interrupted(libc::SA_RESTART)
}

fn goes_on_after_stop() -> Outcome {
    let id = full_queue(10)?;
    let waiting = sender(id, 10)?;
    waiting.stop()?;
    waiting.signal(libc::SIGCONT);
    waiting.asleep()?;
    ok!(msgrcv(id, 10, 0, NOWAIT));
    same!(waiting.report()?, Ok(0));
    Ok(())
}

/// A dead sender sends nothing, and stands in nobody's way.
fn killed_while_asleep() -> Outcome {
    let id = full_queue(10)?;
    let (first, second) = (sender(id, 10)?, sender(id, 10)?);
    first.kill();
    ok!(msgrcv(id, 10, 0, NOWAIT));
    same!(second.report()?, Ok(0));
    same!(ok!(msg_stat(id)).msg_qnum, 1);
    Ok(())
}

fn executed_while_it_slept() -> Outcome {
    let id = full_queue(10)?;
    let text: &[u8] = &[b'x'; 10];
    let task = executed_while_asleep(|| (), move || msgsnd(id, 2, text, 0))?;
    let second = sender(id, 10)?;
    ok!(msgrcv(id, 10, 0, NOWAIT));
    same!(second.report()?, Ok(0));
    same!(msgrcv(id, 10, 2, NOWAIT), Err(ENOMSG));
    task.kill();
    Ok(())
}

fn permission_lost_while_asleep() -> Outcome {
    let id = full_queue(10)?;
    let mut ds = ok!(msg_stat(id));
    ds.msg_perm.mode = 0o622;
    ok!(msg_set(id, ds));
    let waiting = Task::start(move || {
        let _attached = msg_stat(id);
        become_user(1000, 1000, &[]);
        msgsnd(id, 1, b"x", 0)
    })?;
    waiting.asleep()?;
    ds.msg_perm.mode = 0o600;
    ds.msg_qbytes = 11;
    ok!(msg_set(id, ds));
    same!(waiting.report()?, Err(EACCES));
    Ok(())
}

fn larger_queue_wakes() -> Outcome {
    let id = full_queue(10)?;
    let waiting = sender(id, 5)?;
    ok!(msg_set_qbytes(id, 14));
    same!(waiting.sleeps_on(), true);
    ok!(msg_set_qbytes(id, 15));
    same!(waiting.report()?, Ok(0));
    Ok(())
}

/// A hundred messages of sizes up to msgmax, through a queue that holds two of the largest.
fn mixed_sizes_keep_their_text() -> Outcome {
    let id = ok!(queue());
    let sending = Task::start(move || {
        (0..100).map(|number| msgsnd(id, number + 1, &text(number as usize), 0)).find(Result::is_err)
    })?;
    for number in 0..100 {
        let received = ok!(msgrcv(id, 8192, 0, 0));
        same!(received == message(number + 1, &text(number as usize)), true);
    }
    same!(sending.report()?, None);
    same!(ok!(msg_stat(id)).__msg_cbytes, 0);
    Ok(())
}

/// The text of message `number`: no two alike, of sizes around every power of two and the ends.
fn text(number: usize) -> Vec<u8> {
    let size = match number % 4 {
        0 => (1 << (number / 4 % 14)) - 1,
        1 => 1 << (number / 4 % 14),
        2 => (number * 83) % 8193,
        _ => 8192 - number,
    };
    (0..size).map(|place| (place * 31 + place / 251 + number * 7) as u8).collect()
}
