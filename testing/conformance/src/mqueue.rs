//! POSIX message queues: `mq_open(2)` and the rest, but what a descriptor is besides.

use std::ptr;

use libc::{O_CREAT, O_EXCL, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY, SIGEV_NONE, SIGEV_SIGNAL, SIGEV_THREAD};

use crate::{
    Door,
    call::{
        Answer, Attr, close, dup, is_32_bit, mq_getattr, mq_getsetattr_raw, mq_notify, mq_notify_raw,
        mq_open, mq_open_named, mq_open_raw, mq_receive, mq_send, mq_setattr, mq_timedreceive,
        mq_timedreceive_raw, mq_timedsend, mq_timedsend_raw, mq_unlink, mq_unlink_raw, sized,
    },
    case::cases,
    check::{Failure, Outcome, ok, same},
    errno::{
        EACCES, EAGAIN, EBADF, EBUSY, EEXIST, EFAULT, EINTR, EINVAL, EMFILE, EMSGSIZE, ENAMETOOLONG, ENOENT,
        ENOSPC, EPERM, ETIMEDOUT,
    },
    memory::Pages,
    task::{
        Capability, PROCESSES, Task, Thread, become_for_good, become_root, become_user, block,
        executed_while_asleep, handle, have_only, let_others_run, own_pid, take_notice, umask, wait_until,
    },
};

cases! { "mqueue":
    open_and_unlink,
    names,
    attributes,
    default_attributes.limits(&[("fs.mqueue.msg_default", "5"), ("fs.mqueue.msgsize_default", "200"), ("fs.mqueue.msg_max", "3")]),
    attributes_out_of_range.root(),
    no_capability_overrides_the_hard_limits.root(),
    an_existing_queue_keeps_its_attributes,
    access_modes,
    permissions.root(),
    capabilities.root().differs(
        &[Door::Preload, Door::Trap, Door::Trap32, Door::Api],
        "the owner of a namespace has every right in it"
    ),
    umask_applies.root(),
    the_directory_is_sticky.root(),
    a_creator_needs_no_permission.root(),
    queues_max.root().limits(&[("fs.mqueue.queues_max", "2")]),
    none_allowed.root().limits(&[("fs.mqueue.queues_max", "0")]),
    any_number.root().limits(&[("fs.mqueue.queues_max", "-1")]),
    rlimit.root(),
    who_made_it_pays.root(),
    an_unlinked_queue_lives_on,
    a_name_is_free_at_once,
    a_call_holds_its_queue.root().limits(&[("fs.mqueue.queues_max", "1")]),
    what_the_dead_held_counts_no_more.root().limits(&[("fs.mqueue.queues_max", "1")]),
    bad_addresses,
    by_priority,
    fifo_in_a_priority,
    many_priorities.limits(&[("fs.mqueue.msg_max", "1000")]),
    empty_messages,
    sizes,
    order_of_checks,
    full_and_empty,
    timeouts,
    a_past_time_still_acts,
    nonblock_is_the_descriptions,
    getsetattr,
    a_fault_loses_the_message,
    a_waiting_receiver_gets_it,
    receivers_in_line,
    a_waiting_sender_goes_on,
    senders_in_line,
    the_more_urgent_first.root().only(&[Door::Kernel, Door::Preload, Door::Trap, Door::Stranger]),
    interrupted_by_a_handler,
    restarted,
    a_killed_receiver_is_passed_over,
    so_is_one_whose_process_executes.only(PROCESSES),
    notify_by_signal,
    notify_tells_of_another_user.root(),
    notify_fires_when_it_becomes_non_empty,
    notify_once,
    notify_is_one_processs,
    notify_arguments,
    notify_by_a_socket.only(&[Door::Kernel, Door::Kernel32, Door::Trap, Door::Trap32]),
    notify_none,
    notify_goes_with_any_close.differs(
        &[Door::Api],
        "what is closed of descriptors that the program has made itself is not seen"
    ),
    notify_goes_with_its_process,
    notify_is_not_a_childs,
    hand_over_does_not_notify,
    a_woken_sender_does_not_notify,
    a_child_has_the_descriptors,
    threads_share_descriptors,
    a_sleepers_queue_lives_on,
}

const RW: i32 = O_CREAT | O_RDWR;

/// A new queue for two messages of 16 bytes.
fn small() -> Answer<i32> {
    mq_open("/q", RW | O_EXCL, 0o600, sized(2, 16))
}

fn curmsgs(fd: i32) -> crate::call::Answer<i64> {
    Ok(mq_getattr(fd)?.curmsgs)
}

fn open_and_unlink() -> Outcome {
    same!(mq_open("/q", O_RDWR, 0, None), Err(ENOENT));
    same!(mq_unlink("q"), Err(ENOENT));
    let fd = ok!(mq_open("/q", RW, 0o600, None));
    same!(mq_open("/q", RW | O_EXCL, 0o600, None), Err(EEXIST));
    let other = ok!(mq_open("/q", O_RDWR, 0, None));
    ok!(mq_send(fd, b"hello", 3));
    same!(mq_receive(other, 8192), Ok((b"hello".to_vec(), 3)));
    same!(mq_unlink("q"), Ok(0));
    same!(mq_unlink("q"), Err(ENOENT));
    same!(mq_open("/q", O_RDWR, 0, None), Err(ENOENT));
    same!(close(fd), Ok(0));
    same!(close(fd), Err(EBADF));
    same!(mq_send(fd, b"", 0), Err(EBADF));
    same!(close(other), Ok(0));
    Ok(())
}

fn names() -> Outcome {
    same!(mq_open_named("", RW), Err(ENOENT));
    for name in [".", "..", "a/b", "/a", "a/"] {
        same!(mq_open_named(name, RW), Err(EACCES));
        same!(mq_open_named(name, O_RDWR), Err(EACCES));
        same!(mq_unlink(name), Err(EACCES));
    }
    same!(mq_unlink(""), Err(ENOENT));
    let (longest, too_long) = ("x".repeat(255), "x".repeat(256));
    ok!(close(ok!(mq_open_named(&longest, RW))));
    ok!(mq_unlink(&longest));
    same!(mq_open_named(&too_long, RW), Err(ENAMETOOLONG));
    same!(mq_unlink(&too_long), Err(ENAMETOOLONG));
    same!(mq_open_named(&"x".repeat(4096), RW), Err(ENAMETOOLONG));
    same!(mq_open_named(&("x".repeat(300) + "/"), RW), Err(EACCES));
    for name in ["...", ".x", "..x", "a b", "\u{e4}", "x\n", "abcdefgh", "abcdefghi"] {
        let fd = ok!(mq_open_named(name, RW | O_EXCL));
        same!(mq_open_named("abcdefg", O_RDWR), Err(ENOENT));
        ok!(mq_unlink(name));
        ok!(close(fd));
    }
    // Wherever it lies.
    for (from, len) in (0..8).flat_map(|from| (1..20).map(move |len| (from, len))) {
        let mut text = [vec![b'/'; from], vec![b'n'; len], vec![0, b'/']].concat();
        let fd = ok!(mq_open_raw(text[from..].as_ptr().cast(), RW | O_EXCL, 0o600, ptr::null()));
        ok!(mq_unlink(&"n".repeat(len)));
        ok!(close(fd));
        text[from + len - 1] = b'/';
        same!(mq_unlink_raw(text[from..].as_ptr().cast()), Err(EACCES));
    }
    Ok(())
}

fn attributes() -> Outcome {
    let fd = ok!(mq_open(
        "/q",
        RW,
        0o600,
        Some(Attr { flags: O_NONBLOCK.into(), maxmsg: 7, msgsize: 99, curmsgs: 5 })
    ));
    same!(mq_getattr(fd), Ok(Attr { flags: 0, maxmsg: 7, msgsize: 99, curmsgs: 0 }));
    let waits = ok!(mq_open("/q", O_RDWR | O_NONBLOCK, 0, None));
    same!(mq_getattr(waits), Ok(Attr { flags: O_NONBLOCK.into(), maxmsg: 7, msgsize: 99, curmsgs: 0 }));
    ok!(mq_send(fd, b"x", 0));
    same!(curmsgs(fd), Ok(1));
    let fd = ok!(mq_open("/d", RW, 0o600, None));
    same!(mq_getattr(fd), Ok(Attr { flags: 0, maxmsg: 10, msgsize: 8192, curmsgs: 0 }));
    Ok(())
}

fn default_attributes() -> Outcome {
    let fd = ok!(mq_open("/d", RW, 0o600, None));
    same!(mq_getattr(fd), Ok(Attr { flags: 0, maxmsg: 3, msgsize: 200, curmsgs: 0 }));
    Ok(())
}

fn attributes_out_of_range() -> Outcome {
    // Without CAP_SYS_RESOURCE, so that the limits hold.
    become_user(1000, 1000, &[]);
    for (maxmsg, msgsize) in
        [(0, 8), (8, 0), (-1, 8), (8, -1), (11, 8), (8, 8193), (i64::MAX, 8), (8, i64::MAX)]
    {
        same!(mq_open("/q", RW, 0o600, sized(maxmsg, msgsize)), Err(EINVAL));
    }
    same!(mq_open("/q", O_RDWR, 0o600, None), Err(ENOENT));
    ok!(mq_open("/q", RW, 0o600, sized(10, 8192)));
    Ok(())
}

/// Where `CAP_SYS_RESOURCE` is held, more than these are `EINVAL` and these are not; where it is not, all of it is.
fn no_capability_overrides_the_hard_limits() -> Outcome {
    // What is in range is too much for the limit of what a user has.
    let hard = mq_open("/q", RW, 0o600, sized(65536, 1));
    same!(matches!(hard, Err(EMFILE | EINVAL)), true);
    same!(mq_open("/q", RW, 0o600, sized(1, 16_777_216)), hard);
    same!(mq_open("/q", RW, 0o600, sized(65536, 16_777_216)), hard);
    same!(mq_open("/q", RW, 0o600, sized(65537, 1)), Err(EINVAL));
    same!(mq_open("/q", RW, 0o600, sized(1, 16_777_217)), Err(EINVAL));
    Ok(())
}

fn an_existing_queue_keeps_its_attributes() -> Outcome {
    ok!(small());
    let fd = ok!(mq_open("/q", RW, 0o777, sized(-1, -1)));
    same!(mq_getattr(fd), Ok(Attr { flags: 0, maxmsg: 2, msgsize: 16, curmsgs: 0 }));
    Ok(())
}

fn access_modes() -> Outcome {
    let fd = ok!(small());
    let (reads, writes) = (ok!(mq_open("/q", O_RDONLY, 0, None)), ok!(mq_open("/q", O_WRONLY, 0, None)));
    same!(mq_send(reads, b"x", 0), Err(EBADF));
    same!(mq_send(writes, b"x", 0), Ok(0));
    same!(mq_receive(writes, 16), Err(EBADF));
    same!(mq_receive(reads, 16), Ok((b"x".to_vec(), 0)));
    same!(mq_open("/q", 3, 0, None), Err(EINVAL));
    same!(mq_open("/q", 3 | O_CREAT, 0, None), Err(EINVAL));
    let neither = ok!(mq_open("/neither", 3 | O_CREAT, 0o600, None));
    same!(mq_send(neither, b"x", 0), Err(EBADF));
    same!(mq_receive(neither, 8192), Err(EBADF));
    same!(curmsgs(neither), Ok(0));
    same!(mq_getattr(fd).map(|attr| attr.curmsgs), Ok(0));
    Ok(())
}

fn permissions() -> Outcome {
    umask(0);
    let lowest = ok!(mq_open("/first", RW, 0o600, sized(1, 8)));
    ok!(close(lowest));
    become_user(1000, 1000, &[]);
    let fd = ok!(mq_open("/lowest", RW, 0o600, sized(1, 8)));
    same!(fd, lowest);
    ok!(close(fd));
    for (name, mode) in [("/owner", 0o077), ("/group", 0o420), ("/other", 0o604), ("/write", 0o602)] {
        ok!(mq_open(name, RW, mode, sized(1, 8)));
    }
    same!(mq_open("/owner", O_RDONLY, 0, None), Err(EACCES));
    same!(mq_open("/group", O_RDONLY, 0, None).is_ok(), true);
    same!(mq_open("/group", O_WRONLY, 0, None), Err(EACCES));
    become_root();
    become_user(2000, 1000, &[]);
    same!(mq_open("/owner", O_RDWR, 0, None).is_ok(), true);
    same!(mq_open("/group", O_RDONLY, 0, None), Err(EACCES));
    same!(mq_open("/group", O_WRONLY, 0, None).is_ok(), true);
    same!(mq_open("/other", O_RDONLY, 0, None), Err(EACCES));
    become_root();
    become_user(2000, 2000, &[3000, 1000]);
    same!(mq_open("/group", O_WRONLY, 0, None).is_ok(), true);
    become_root();
    become_user(2000, 2000, &[]);
    same!(mq_open("/group", O_WRONLY, 0, None), Err(EACCES));
    same!(mq_open("/other", O_RDONLY, 0, None).is_ok(), true);
    same!(mq_open("/other", O_RDWR, 0, None), Err(EACCES));
    same!(mq_open("/write", O_RDONLY, 0, None), Err(EACCES));
    same!(mq_open("/write", O_WRONLY, 0, None).is_ok(), true);
    same!(mq_open("/other", RW | O_EXCL, 0, None), Err(EEXIST));
    become_root();
    same!(mq_open("/owner", O_RDWR, 0, None).is_ok(), true);
    Ok(())
}

/// Without them root has the rights of the mode.
fn capabilities() -> Outcome {
    become_user(1000, 1000, &[]);
    ok!(mq_open("/q", RW, 0o600, sized(1, 8)));
    become_root();
    have_only(None);
    same!(mq_open("/q", O_RDONLY, 0, None), Err(EACCES));
    have_only(Some(Capability::DacReadSearch));
    same!(mq_open("/q", O_RDONLY, 0, None).is_ok(), true);
    same!(mq_open("/q", O_WRONLY, 0, None), Err(EACCES));
    same!(mq_open("/q", O_RDWR, 0, None), Err(EACCES));
    have_only(Some(Capability::DacOverride));
    same!(mq_open("/q", O_RDWR, 0, None).is_ok(), true);
    Ok(())
}

fn umask_applies() -> Outcome {
    umask(0o077);
    become_user(1000, 1000, &[]);
    ok!(mq_open("/q", RW, 0o666, sized(1, 8)));
    umask(0o700);
    ok!(mq_open("/r", RW, 0o666, sized(1, 8)));
    same!(mq_open("/r", O_RDONLY, 0, None), Err(EACCES));
    become_root();
    become_user(2000, 2000, &[]);
    same!(mq_open("/q", O_RDONLY, 0, None), Err(EACCES));
    same!(mq_open("/r", O_RDONLY, 0, None).is_ok(), true);
    Ok(())
}

fn the_directory_is_sticky() -> Outcome {
    umask(0);
    become_user(1000, 1000, &[]);
    for name in ["/p", "/q"] {
        ok!(mq_open(name, RW, 0o777, sized(1, 8)));
    }
    become_root();
    become_user(2000, 1000, &[1000]);
    same!(mq_unlink("q"), Err(EPERM));
    become_root();
    become_user(1000, 2000, &[]);
    same!(mq_unlink("q"), Ok(0));
    become_root();
    same!(mq_unlink("p"), Ok(0));
    Ok(())
}

fn a_creator_needs_no_permission() -> Outcome {
    become_user(1000, 1000, &[]);
    let fd = ok!(mq_open("/q", RW, 0, sized(1, 8)));
    ok!(mq_send(fd, b"x", 0));
    same!(mq_open("/q", O_RDONLY, 0, None), Err(EACCES));
    Ok(())
}

fn queues_max() -> Outcome {
    become_user(1000, 1000, &[]);
    let fd = ok!(mq_open("/a", RW, 0o600, sized(1, 8)));
    ok!(mq_open("/b", RW, 0o600, sized(1, 8)));
    same!(mq_open("/c", RW, 0o600, sized(1, 8)), Err(ENOSPC));
    same!(mq_open("/c", RW, 0o600, sized(-1, -1)), Err(ENOSPC));
    ok!(mq_open("/a", RW, 0o600, sized(1, 8)));
    // It counts as long as it is open.
    ok!(mq_unlink("a"));
    same!(mq_open("/c", RW, 0o600, sized(1, 8)), Err(ENOSPC));
    ok!(close(fd));
    same!(mq_open("/c", RW, 0o600, sized(1, 8)), Err(ENOSPC));
    Ok(())
}

fn a_call_holds_its_queue() -> Outcome {
    become_user(1000, 1000, &[]);
    let fd = full()?;
    let waiting = Thread::start(move || mq_timedsend(fd, b"c", 2, 400_000_000));
    let_others_run();
    ok!(mq_unlink("q"));
    ok!(close(fd));
    same!(mq_open("/other", RW, 0o600, sized(1, 8)), Err(ENOSPC));
    same!(waiting.join(), Some(Err(ETIMEDOUT)));
    same!(mq_open("/other", RW, 0o600, sized(1, 8)).is_ok(), true);
    Ok(())
}

/// What may take ours a moment, as the broker has yet to hear of it.
fn soon(call: impl Fn() -> Answer<i32>) -> Answer<i32> {
    for _ in 0..50 {
        if let Ok(done) = call() {
            return Ok(done);
        }
        let_others_run();
    }
    call()
}

fn what_the_dead_held_counts_no_more() -> Outcome {
    become_user(1000, 1000, &[]);
    for _ in 0..5 {
        let fd = ok!(mq_open("/q", RW, 0o600, sized(1, 8)));
        let waiting = Task::start(move || mq_receive(fd, 16))?;
        let_others_run();
        ok!(mq_unlink("q"));
        ok!(close(fd));
        same!(mq_open("/other", RW, 0o600, sized(1, 8)), Err(ENOSPC));
        waiting.kill();
        let other = ok!(soon(|| mq_open("/other", RW, 0o600, sized(1, 8))));
        ok!(mq_unlink("other"));
        ok!(close(other));
    }
    Ok(())
}

fn none_allowed() -> Outcome {
    become_user(1000, 1000, &[]);
    same!(mq_open("/a", RW, 0o600, sized(1, 8)), Err(ENOSPC));
    Ok(())
}

fn any_number() -> Outcome {
    become_user(1000, 1000, &[]);
    ok!(mq_open("/a", RW, 0o600, sized(1, 8)));
    Ok(())
}

/// 819200 bytes are enough for nine default queues of a user; what is unlinked and open counts.
fn rlimit() -> Outcome {
    become_for_good(54321);
    let fds: Vec<_> = (0..9).map(|i| mq_open(&format!("/{i}"), RW, 0o600, None)).collect();
    same!(fds.iter().all(Result::is_ok), true);
    same!(mq_open("/9", RW, 0o600, None), Err(EMFILE));
    // Each message costs two structures of 48 bytes.
    let left = 819_200 - 9 * 10 * (8192 + 96);
    let of_nine = left / 9 - 96;
    same!(mq_open("/9", RW, 0o600, sized(9, of_nine + 1)), Err(EMFILE));
    let fd = ok!(mq_open("/9", RW, 0o600, sized(9, of_nine)));
    ok!(mq_unlink("9"));
    ok!(close(fd));
    ok!(mq_unlink("0"));
    same!(mq_open("/9", RW, 0o600, None), Err(EMFILE));
    ok!(close(ok!(fds[0])));
    ok!(mq_open("/9", RW, 0o600, None));
    same!(mq_open("/x", RW, 0o600, None), Err(EMFILE));
    Ok(())
}

/// Whoever has the queue open.
fn who_made_it_pays() -> Outcome {
    umask(0);
    let (go, ready) =
        (ok!(mq_open("/go", RW, 0o600, sized(1, 1))), ok!(mq_open("/ready", RW, 0o600, sized(1, 1))));
    let holder = Task::start(move || {
        let told = || mq_timedreceive(go, 1, 10_000_000_000).map(drop);
        let held = told().and_then(|()| mq_open("/held", O_RDONLY, 0, None));
        (mq_send(ready, b"x", 0), held.map(drop), told())
    })?;
    // Not who has used the limit up in another case: the kernel gives back what a namespace had when it comes to that.
    become_for_good(54322);
    let fd = ok!(mq_open("/held", RW, 0o666, sized(9, 10)));
    ok!(mq_send(go, b"x", 0));
    for _ in 0..50 {
        if curmsgs(ready) == Ok(0) {
            let_others_run();
        }
    }
    same!(curmsgs(ready), Ok(1));
    let fds: Vec<_> = (0..9).map(|i| mq_open(&format!("/{i}"), RW, 0o600, None)).collect();
    same!(fds.iter().all(Result::is_ok), true);
    ok!(mq_unlink("held"));
    ok!(close(fd));
    // As much as is left without the held one.
    let size = (819_200 - 9 * 10 * (8192 + 96)) / 9 - 96;
    same!(mq_open("/9", RW, 0o600, sized(9, size)), Err(EMFILE));
    ok!(mq_send(go, b"x", 0));
    same!(holder.report()?, (Ok(0), Ok(()), Ok(())));
    wait_until(|| match mq_open("/9", RW, 0o600, sized(9, size)) {
        Err(EMFILE) => Ok(false),
        opened => opened.map(|_| true).map_err(|error| Failure(format!("{error:?}"))),
    })
}

fn an_unlinked_queue_lives_on() -> Outcome {
    let fd = ok!(small());
    ok!(mq_send(fd, b"x", 1));
    ok!(mq_unlink("q"));
    ok!(mq_send(fd, b"y", 2));
    same!(mq_receive(fd, 16), Ok((b"y".to_vec(), 2)));
    let again = ok!(dup(fd));
    ok!(close(fd));
    same!(mq_receive(again, 16), Ok((b"x".to_vec(), 1)));
    Ok(())
}

fn a_name_is_free_at_once() -> Outcome {
    let old = ok!(small());
    ok!(mq_send(old, b"old", 0));
    ok!(mq_unlink("q"));
    let new = ok!(small());
    same!(curmsgs(new), Ok(0));
    same!(mq_receive(old, 16), Ok((b"old".to_vec(), 0)));
    Ok(())
}

fn bad_addresses() -> Outcome {
    let pages = Pages::new(libc::PROT_READ | libc::PROT_WRITE, libc::PROT_NONE);
    let (bad, end) = (pages.at(4096).cast_const(), pages.before_the_edge(b"x\0"));
    same!(mq_open_raw(bad, RW, 0o600, ptr::null()), Err(EFAULT));
    same!(mq_open_raw(ptr::null(), RW, 0o600, ptr::null()), Err(EFAULT));
    same!(mq_unlink_raw(bad), Err(EFAULT));
    // A name may end where the memory does.
    same!(mq_open_raw(end, O_RDWR, 0, ptr::null()), Err(ENOENT));
    let name = c"q".as_ptr().cast();
    same!(mq_open_raw(name, RW, 0o600, bad), Err(EFAULT));
    // Those of a 32-bit program are read only where a queue may be made.
    same!(mq_open_raw(name, O_RDWR, 0o600, bad), Err(if is_32_bit() { ENOENT } else { EFAULT }));
    let fd = ok!(small());
    same!(mq_timedsend_raw(fd, bad, 4, 0, ptr::null()), Err(EFAULT));
    same!(mq_timedsend_raw(fd, bad, 0, 0, ptr::null()), Ok(0));
    same!(mq_timedsend_raw(fd, ptr::null(), 0, 0, bad.cast()), Err(EFAULT));
    same!(mq_timedreceive_raw(fd, ptr::null_mut(), 16, ptr::null_mut(), bad.cast()), Err(EFAULT));
    same!(curmsgs(fd), Ok(1));
    same!(mq_notify_raw(fd, bad), Err(EFAULT));
    same!(mq_getsetattr_raw(fd, bad, ptr::null_mut()), Err(EFAULT));
    same!(mq_getsetattr_raw(fd, ptr::null(), bad.cast_mut()), Err(EFAULT));
    same!(mq_getsetattr_raw(fd, ptr::null(), ptr::null_mut()), Ok(0));
    Ok(())
}

fn by_priority() -> Outcome {
    let fd = ok!(mq_open("/q", RW, 0o600, sized(6, 8)));
    for prio in [5, 1, 32767, 0, 5, 7] {
        ok!(mq_send(fd, &prio.to_string().into_bytes(), prio));
    }
    for prio in [32767, 7, 5, 5, 1, 0] {
        same!(mq_receive(fd, 8), Ok((prio.to_string().into_bytes(), prio)));
    }
    Ok(())
}

fn fifo_in_a_priority() -> Outcome {
    let fd = ok!(mq_open("/q", RW, 0o600, sized(6, 8)));
    for (text, prio) in [(b"a", 1), (b"b", 2), (b"c", 1), (b"d", 2), (b"e", 1)] {
        ok!(mq_send(fd, text, prio));
    }
    for (text, prio) in [(b"b", 2), (b"d", 2), (b"a", 1), (b"c", 1), (b"e", 1)] {
        same!(mq_receive(fd, 8), Ok((text.to_vec(), prio)));
    }
    Ok(())
}

fn many_priorities() -> Outcome {
    let fd = ok!(mq_open("/q", RW, 0o600, sized(1000, 8)));
    let mut seed = 7u32;
    let mut expected: Vec<(u32, u32)> = Vec::new();
    for round in 0..6000u32 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let sends = expected.is_empty() || expected.len() < 1000 && !seed.is_multiple_of(3);
        if sends {
            let prio = seed >> 8 & 0x7fff;
            ok!(mq_send(fd, &round.to_ne_bytes(), prio));
            expected.push((prio, round));
        } else {
            let best = expected.iter().map(|(prio, _)| *prio).max().unwrap_or(0);
            let at = expected.iter().position(|(prio, _)| *prio == best).unwrap_or(0);
            let (prio, round) = expected.remove(at);
            same!(mq_receive(fd, 8), Ok((round.to_ne_bytes().to_vec(), prio)));
        }
    }
    same!(curmsgs(fd), Ok(expected.len() as i64));
    Ok(())
}

fn empty_messages() -> Outcome {
    let fd = ok!(small());
    ok!(mq_send(fd, b"", 9));
    same!(mq_receive(fd, 16), Ok((vec![], 9)));
    Ok(())
}

fn sizes() -> Outcome {
    let fd = ok!(mq_open("/q", RW, 0o600, sized(2, 8192)));
    for len in [1, 4000, 4095, 4096, 8191, 8192] {
        let text: Vec<u8> = (0..len).map(|i: usize| (i * 7 + i / 256) as u8).collect();
        ok!(mq_send(fd, &text, 1));
        same!(mq_receive(fd, 8192), Ok((text, 1)));
    }
    same!(mq_send(fd, &[0; 8193], 0), Err(EMSGSIZE));
    // What counts is the queue's size, not the message's.
    ok!(mq_send(fd, b"x", 0));
    same!(mq_receive(fd, 8191), Err(EMSGSIZE));
    same!(mq_receive(fd, 8193), Ok((b"x".to_vec(), 0)));
    Ok(())
}

/// A time that is none, before a priority that is none, before a descriptor that is none, before a size.
fn order_of_checks() -> Outcome {
    let fd = ok!(small());
    let reads = ok!(mq_open("/q", O_RDONLY, 0, None));
    let writes = ok!(mq_open("/q", O_WRONLY, 0, None));
    let none = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000_000 };
    let negative = libc::timespec { tv_sec: -1, tv_nsec: 0 };
    let text: *const std::ffi::c_void = b"x".as_ptr().cast();
    for time in [&none, &negative] {
        // Though there is room.
        same!(mq_timedsend_raw(fd, text, 1, 0, time), Err(EINVAL));
        same!(mq_timedsend_raw(-1, text, 1, 0, time), Err(EINVAL));
        same!(mq_timedreceive_raw(-1, ptr::null_mut(), 16, ptr::null_mut(), time), Err(EINVAL));
    }
    same!(mq_send(fd, b"x", 32768), Err(EINVAL));
    same!(mq_send(-1, b"x", 32768), Err(EINVAL));
    same!(mq_send(-1, b"x", 0), Err(EBADF));
    same!(mq_send(0, b"x", 0), Err(EBADF));
    same!(mq_send(reads, &[0; 17], 0), Err(EBADF));
    same!(mq_timedsend_raw(fd, ptr::null(), 17, 0, ptr::null()), Err(EMSGSIZE));
    same!(mq_receive(writes, 1), Err(EBADF));
    same!(mq_receive(-1, 16), Err(EBADF));
    // Before it is full or empty.
    for text in [b"x", b"y"] {
        ok!(mq_send(fd, text, 0));
    }
    same!(mq_send(fd, &[0; 17], 0), Err(EMSGSIZE));
    same!(mq_timedsend_raw(fd, ptr::null(), 1, 0, ptr::null()), Err(EFAULT));
    Ok(())
}

fn full_and_empty() -> Outcome {
    ok!(small());
    let fd = ok!(mq_open("/q", O_RDWR | O_NONBLOCK, 0, None));
    same!(mq_receive(fd, 16), Err(EAGAIN));
    same!(mq_timedreceive(fd, 16, 1_000_000), Err(EAGAIN));
    for text in [b"a", b"b"] {
        ok!(mq_send(fd, text, 0));
    }
    same!(mq_send(fd, b"c", 0), Err(EAGAIN));
    same!(mq_timedsend(fd, b"c", 0, 1_000_000), Err(EAGAIN));
    same!(curmsgs(fd), Ok(2));
    Ok(())
}

fn timeouts() -> Outcome {
    let fd = ok!(small());
    same!(mq_timedreceive(fd, 16, 30_000_000), Err(ETIMEDOUT));
    same!(mq_timedreceive(fd, 16, -1_000_000_000), Err(ETIMEDOUT));
    for text in [b"a", b"b"] {
        ok!(mq_send(fd, text, 0));
    }
    same!(mq_timedsend(fd, b"c", 9, 30_000_000), Err(ETIMEDOUT));
    same!(mq_timedsend(fd, b"c", 9, -5_000_000_000), Err(ETIMEDOUT));
    same!(mq_receive(fd, 16), Ok((b"a".to_vec(), 0)));
    same!(curmsgs(fd), Ok(1));
    Ok(())
}

fn a_past_time_still_acts() -> Outcome {
    let fd = ok!(small());
    same!(mq_timedsend(fd, b"a", 1, -5_000_000_000), Ok(0));
    same!(mq_timedreceive(fd, 16, -5_000_000_000), Ok((b"a".to_vec(), 1)));
    Ok(())
}

fn nonblock_is_the_descriptions() -> Outcome {
    let fd = ok!(small());
    let (same_one, other) = (ok!(dup(fd)), ok!(mq_open("/q", O_RDWR, 0, None)));
    let before = ok!(mq_setattr(fd, Attr { flags: O_NONBLOCK.into(), maxmsg: 99, msgsize: 99, curmsgs: 99 }));
    same!(before, Attr { flags: 0, maxmsg: 2, msgsize: 16, curmsgs: 0 });
    same!(mq_getattr(same_one), Ok(Attr { flags: O_NONBLOCK.into(), maxmsg: 2, msgsize: 16, curmsgs: 0 }));
    same!(mq_getattr(other), Ok(Attr { flags: 0, maxmsg: 2, msgsize: 16, curmsgs: 0 }));
    same!(mq_receive(same_one, 16), Err(EAGAIN));
    same!(mq_timedreceive(other, 16, 10_000_000), Err(ETIMEDOUT));
    ok!(mq_setattr(same_one, Attr { flags: 0, maxmsg: 0, msgsize: 0, curmsgs: 0 }));
    same!(mq_timedreceive(fd, 16, 10_000_000), Err(ETIMEDOUT));
    Ok(())
}

fn getsetattr() -> Outcome {
    let fd = ok!(small());
    for flags in [1, -1, i64::from(O_NONBLOCK) | 1, 1 << 40] {
        same!(mq_setattr(fd, Attr { flags, maxmsg: 0, msgsize: 0, curmsgs: 0 }), Err(EINVAL));
        same!(mq_setattr(-1, Attr { flags, maxmsg: 0, msgsize: 0, curmsgs: 0 }), Err(EINVAL));
    }
    same!(mq_getattr(-1), Err(EBADF));
    same!(mq_getattr(0), Err(EBADF));
    same!(mq_setattr(0, Attr { flags: 0, maxmsg: 0, msgsize: 0, curmsgs: 0 }), Err(EBADF));
    Ok(())
}

fn a_fault_loses_the_message() -> Outcome {
    let pages = Pages::new(libc::PROT_NONE, libc::PROT_NONE);
    let bad = pages.at(0);
    let fd = ok!(small());
    ok!(mq_send(fd, b"x", 0));
    same!(mq_timedreceive_raw(fd, bad, 16, ptr::null_mut(), ptr::null()), Err(EFAULT));
    same!(curmsgs(fd), Ok(0));
    ok!(mq_send(fd, b"x", 0));
    let mut text = [0u8; 16];
    same!(mq_timedreceive_raw(fd, text.as_mut_ptr().cast(), 16, bad.cast(), ptr::null()), Err(EFAULT));
    same!(curmsgs(fd), Ok(0));
    ok!(mq_send(fd, b"x", 0));
    same!(mq_timedreceive_raw(fd, text.as_mut_ptr().cast(), 16, ptr::null_mut(), ptr::null()), Ok(1));
    Ok(())
}

type Received = crate::call::Answer<(Vec<u8>, u32)>;

fn receiver(fd: i32) -> Outcome<Task<Received>> {
    let task = Task::start(move || mq_receive(fd, 16))?;
    task.asleep()?;
    Ok(task)
}

fn sender(fd: i32, text: &'static [u8], prio: u32) -> Outcome<Task<Answer<i32>>> {
    let task = Task::start(move || mq_send(fd, text, prio))?;
    task.asleep()?;
    Ok(task)
}

fn full() -> Outcome<i32> {
    let fd = ok!(small());
    for text in [b"a", b"b"] {
        ok!(mq_send(fd, text, 1));
    }
    Ok(fd)
}

fn a_waiting_receiver_gets_it() -> Outcome {
    let fd = ok!(small());
    let waiting = receiver(fd)?;
    ok!(mq_send(fd, b"hello", 7));
    same!(waiting.report()?, Ok((b"hello".to_vec(), 7)));
    same!(curmsgs(fd), Ok(0));
    Ok(())
}

fn receivers_in_line() -> Outcome {
    let fd = ok!(small());
    let (one, two) = (receiver(fd)?, receiver(fd)?);
    ok!(mq_send(fd, b"1", 0));
    ok!(mq_send(fd, b"2", 9));
    same!(one.report()?, Ok((b"1".to_vec(), 0)));
    same!(two.report()?, Ok((b"2".to_vec(), 9)));
    Ok(())
}

fn a_waiting_sender_goes_on() -> Outcome {
    let fd = full()?;
    let waiting = sender(fd, b"c", 2)?;
    same!(mq_receive(fd, 16), Ok((b"a".to_vec(), 1)));
    same!(waiting.report()?, Ok(0));
    same!(curmsgs(fd), Ok(2));
    same!(mq_receive(fd, 16), Ok((b"c".to_vec(), 2)));
    same!(mq_receive(fd, 16), Ok((b"b".to_vec(), 1)));
    // With a priority that is there already.
    let fd = {
        ok!(mq_unlink("q"));
        full()?
    };
    let waiting = sender(fd, b"c", 1)?;
    same!(mq_receive(fd, 16), Ok((b"a".to_vec(), 1)));
    same!(waiting.report()?, Ok(0));
    same!(mq_receive(fd, 16), Ok((b"b".to_vec(), 1)));
    same!(mq_receive(fd, 16), Ok((b"c".to_vec(), 1)));
    Ok(())
}

fn senders_in_line() -> Outcome {
    let fd = full()?;
    let (one, two) = (sender(fd, b"1", 0)?, sender(fd, b"2", 9)?);
    same!(mq_receive(fd, 16), Ok((b"a".to_vec(), 1)));
    same!(one.report()?, Ok(0));
    same!(two.sleeps_on(), true);
    same!(mq_receive(fd, 16), Ok((b"b".to_vec(), 1)));
    same!(two.report()?, Ok(0));
    same!(mq_receive(fd, 16), Ok((b"2".to_vec(), 9)));
    same!(mq_receive(fd, 16), Ok((b"1".to_vec(), 0)));
    Ok(())
}

/// A process of the scheduler's, which makes `call` as urgently as told: by real-time priority, or else by a nice value.
fn urgent<T: serde::Serialize + serde::de::DeserializeOwned + 'static>(
    realtime: i32,
    nice: i32,
    call: impl FnOnce() -> T + 'static,
) -> Outcome<Task<Option<T>>> {
    let waiting = Task::start(move || {
        let param = libc::sched_param { sched_priority: realtime };
        let set = if realtime > 0 {
            // SAFETY: a whole parameter.
            unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) }
        } else {
            // SAFETY: passes numbers.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }
        };
        (set == 0).then(call)
    })?;
    waiting.asleep()?;
    Ok(waiting)
}

/// Whatever the order in which they came.
fn the_more_urgent_first() -> Outcome {
    const WAITING: [(i32, i32); 6] = [(0, 5), (0, 0), (0, -5), (1, 0), (50, 0), (50, 0)];
    let fd = ok!(small());
    let receivers = WAITING.map(|(realtime, nice)| urgent(realtime, nice, move || mq_receive(fd, 16)));
    // The last two came one after the other.
    for text in [b"5", b"6", b"4", b"3", b"2", b"1"] {
        ok!(mq_send(fd, text, 0));
    }
    for (receiver, text) in receivers.into_iter().zip(1..) {
        same!(receiver?.report()?, Some(Ok((format!("{text}").into_bytes(), 0))));
    }
    ok!(mq_unlink("q"));
    let fd = full()?;
    let senders = [1, 2, 3, 4, 5, 6].map(|text: u8| {
        let (realtime, nice) = WAITING[usize::from(text) - 1];
        urgent(realtime, nice, move || mq_send(fd, &[b'0' + text], 0))
    });
    let first: Vec<_> = (0..8).map(|_| mq_receive(fd, 16).map(|(text, _)| text)).skip(2).collect();
    same!(first, [b"5", b"6", b"4", b"3", b"2", b"1"].map(|text| Ok(text.to_vec())));
    for sender in senders {
        same!(sender?.report()?, Some(Ok(0)));
    }
    Ok(())
}

fn interrupted_by_a_handler() -> Outcome {
    let fd = ok!(small());
    let waiting = Task::start(move || {
        handle(libc::SIGUSR1, 0);
        mq_receive(fd, 16)
    })?;
    waiting.asleep()?;
    waiting.signal(libc::SIGUSR1);
    same!(waiting.report()?, Err(EINTR));
    let fd = {
        ok!(mq_unlink("q"));
        full()?
    };
    let waiting = Task::start(move || {
        handle(libc::SIGUSR1, 0);
        mq_send(fd, b"c", 0)
    })?;
    waiting.asleep()?;
    waiting.signal(libc::SIGUSR1);
    same!(waiting.report()?, Err(EINTR));
    same!(curmsgs(fd), Ok(2));
    Ok(())
}

/// Under `SA_RESTART`, and after a stop.
fn restarted() -> Outcome {
    let fd = ok!(small());
    let waiting = Task::start(move || {
        handle(libc::SIGUSR1, libc::SA_RESTART);
        mq_receive(fd, 16)
    })?;
    waiting.asleep()?;
    waiting.signal(libc::SIGUSR1);
    same!(waiting.sleeps_on(), true);
    waiting.stop()?;
    waiting.signal(libc::SIGCONT);
    waiting.asleep()?;
    ok!(mq_send(fd, b"x", 1));
    same!(waiting.report()?, Ok((b"x".to_vec(), 1)));
    Ok(())
}

fn a_killed_receiver_is_passed_over() -> Outcome {
    let fd = ok!(small());
    let (one, two) = (receiver(fd)?, receiver(fd)?);
    one.kill();
    ok!(mq_send(fd, b"x", 0));
    same!(two.report()?, Ok((b"x".to_vec(), 0)));
    same!(curmsgs(fd), Ok(0));
    Ok(())
}

fn so_is_one_whose_process_executes() -> Outcome {
    let fd = ok!(small());
    let task = executed_while_asleep(|| (), move || mq_receive(fd, 16))?;
    ok!(mq_send(fd, b"x", 0));
    same!(curmsgs(fd), Ok(1));
    task.kill();
    Ok(())
}

const SIG: i32 = libc::SIGUSR2;

fn notify_by_signal() -> Outcome {
    let fd = ok!(small());
    block(SIG);
    same!(mq_notify(fd, Some((SIGEV_SIGNAL, SIG, 0x1234))), Ok(0));
    let sent = Task::start(move || (own_pid(), mq_send(fd, b"x", 0)))?.report()?;
    same!(sent.1, Ok(0));
    // SAFETY: asks for a number.
    same!(take_notice(SIG), Some((-3, 0x1234, sent.0, unsafe { libc::getuid() })));
    same!(take_notice(SIG), None);
    Ok(())
}

/// The sender's real user.
fn notify_tells_of_another_user() -> Outcome {
    umask(0);
    let fd = ok!(mq_open("/q", RW, 0o666, sized(2, 16)));
    block(SIG);
    ok!(mq_notify(fd, Some((SIGEV_SIGNAL, SIG, 7))));
    let sent = Task::start(|| {
        become_for_good(54321);
        let sent = mq_open("/q", O_WRONLY, 0, None).and_then(|fd| mq_send(fd, b"x", 0));
        (own_pid(), sent)
    })?;
    let (pid, sent) = sent.report()?;
    same!(sent, Ok(0));
    same!(take_notice(SIG), Some((-3, 7, pid, 54321)));
    Ok(())
}

fn notify_fires_when_it_becomes_non_empty() -> Outcome {
    let fd = ok!(small());
    block(SIG);
    ok!(mq_send(fd, b"x", 0));
    same!(mq_notify(fd, Some((SIGEV_SIGNAL, SIG, 0))), Ok(0));
    ok!(mq_send(fd, b"y", 0));
    same!(take_notice(SIG), None);
    for _ in 0..2 {
        ok!(mq_receive(fd, 16));
    }
    same!(mq_notify(fd, Some((SIGEV_SIGNAL, SIG, 0))), Err(EBUSY));
    ok!(mq_send(fd, b"z", 0));
    same!(take_notice(SIG).is_some(), true);
    Ok(())
}

fn notify_once() -> Outcome {
    let fd = ok!(small());
    block(SIG);
    same!(mq_notify(fd, Some((SIGEV_SIGNAL, SIG, 0))), Ok(0));
    ok!(mq_send(fd, b"x", 0));
    same!(take_notice(SIG).is_some(), true);
    ok!(mq_receive(fd, 16));
    ok!(mq_send(fd, b"x", 0));
    same!(take_notice(SIG), None);
    same!(mq_notify(fd, Some((SIGEV_SIGNAL, SIG, 0))), Ok(0));
    Ok(())
}

fn notify_is_one_processs() -> Outcome {
    let fd = ok!(small());
    ok!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))));
    same!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))), Err(EBUSY));
    same!(Task::start(move || mq_notify(fd, Some((SIGEV_NONE, 0, 0))))?.report()?, Err(EBUSY));
    // Another process's is not removed, and that is no error.
    same!(Task::start(move || mq_notify(fd, None))?.report()?, Ok(0));
    same!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))), Err(EBUSY));
    same!(mq_notify(fd, None), Ok(0));
    same!(mq_notify(fd, None), Ok(0));
    same!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))), Ok(0));
    Ok(())
}

fn notify_arguments() -> Outcome {
    let fd = ok!(small());
    for (how, signo) in [(3, 1), (-1, 1), (4, 0), (SIGEV_SIGNAL, 65), (SIGEV_SIGNAL, -1)] {
        same!(mq_notify(fd, Some((how, signo, 0))), Err(EINVAL));
        same!(mq_notify(-1, Some((how, signo, 0))), Err(EINVAL));
    }
    same!(mq_notify(-1, Some((SIGEV_NONE, 0, 0))), Err(EBADF));
    same!(mq_notify(-1, None), Err(EBADF));
    same!(mq_notify(0, None), Err(EBADF));
    same!(mq_notify(fd, Some((SIGEV_THREAD, -1, 0))), Err(EFAULT));
    let cookie = [0u8; 32].as_ptr().expose_provenance();
    same!(mq_notify(fd, Some((SIGEV_THREAD, -1, cookie))), Err(EBADF));
    same!(mq_notify(fd, Some((SIGEV_THREAD, fd, cookie))), Err(crate::errno::ENOTSOCK));
    // No signal at all is a registration too, and neither reading nor writing is asked for.
    let writes = ok!(mq_open("/q", O_WRONLY, 0, None));
    same!(mq_notify(writes, Some((SIGEV_SIGNAL, 0, 0))), Ok(0));
    same!(mq_notify(fd, Some((SIGEV_SIGNAL, 64, 0))), Err(EBUSY));
    ok!(mq_send(fd, b"x", 0));
    same!(mq_notify(fd, Some((SIGEV_SIGNAL, 64, 0))), Ok(0));
    Ok(())
}

/// As libc has it done for `SIGEV_THREAD`.
fn notify_by_a_socket() -> Outcome {
    let fd = ok!(small());
    let cookie: [u8; 32] = std::array::from_fn(|i| i as u8 + 100);
    let pages = Pages::low(libc::PROT_READ | libc::PROT_WRITE, libc::PROT_NONE);
    // SAFETY: integers.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    let event = Some((SIGEV_THREAD, socket, pages.before_the_edge(&cookie).expose_provenance()));
    let told = move || {
        let mut bytes = [0u8; 64];
        // SAFETY: room of that length.
        let length = unsafe { libc::recv(socket, bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        (length, bytes[..31] == cookie[..31], bytes[31])
    };
    for _ in 0..3 {
        // In the first round, it waits at a socket that nobody has registered yet.
        let waiting = Thread::start(told);
        let_others_run();
        same!(mq_notify(fd, event), Ok(0));
        same!(mq_notify(fd, event), Err(EBUSY));
        ok!(mq_send(fd, b"x", 0));
        same!(waiting.join(), Some((32, true, 1)));
        ok!(mq_receive(fd, 16));
    }
    same!(mq_notify(fd, event), Ok(0));
    same!(mq_notify(fd, None), Ok(0));
    same!(told(), (32, true, 2));
    same!(mq_notify(fd, event), Ok(0));
    ok!(close(fd));
    same!(told(), (32, true, 2));
    same!(mq_notify(fd, event), Err(EBADF));
    Ok(())
}

fn notify_none() -> Outcome {
    let fd = ok!(small());
    ok!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))));
    ok!(mq_send(fd, b"x", 0));
    same!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))), Ok(0));
    Ok(())
}

fn notify_goes_with_any_close() -> Outcome {
    let fd = ok!(small());
    for other in [ok!(dup(fd)), ok!(mq_open("/q", O_RDONLY, 0, None))] {
        ok!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))));
        ok!(close(other));
        same!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))), Ok(0));
        ok!(mq_notify(fd, None));
    }
    Ok(())
}

fn notify_goes_with_its_process() -> Outcome {
    let fd = ok!(small());
    let registered = Task::start(move || mq_notify(fd, Some((SIGEV_NONE, 0, 0))))?;
    same!(registered.report()?, Ok(0));
    same!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))), Ok(0));
    Ok(())
}

fn notify_is_not_a_childs() -> Outcome {
    let fd = ok!(small());
    ok!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))));
    same!(Task::start(move || close(fd))?.report()?, Ok(0));
    same!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))), Err(EBUSY));
    Ok(())
}

fn hand_over_does_not_notify() -> Outcome {
    let fd = ok!(small());
    block(SIG);
    ok!(mq_notify(fd, Some((SIGEV_SIGNAL, SIG, 0))));
    let waiting = receiver(fd)?;
    ok!(mq_send(fd, b"x", 0));
    same!(waiting.report()?, Ok((b"x".to_vec(), 0)));
    same!(take_notice(SIG), None);
    ok!(mq_send(fd, b"y", 0));
    same!(take_notice(SIG).is_some(), true);
    Ok(())
}

fn a_woken_sender_does_not_notify() -> Outcome {
    let fd = ok!(mq_open("/q", RW, 0o600, sized(1, 16)));
    block(SIG);
    ok!(mq_send(fd, b"a", 0));
    ok!(mq_notify(fd, Some((SIGEV_SIGNAL, SIG, 0))));
    let waiting = sender(fd, b"b", 0)?;
    ok!(mq_receive(fd, 16));
    same!(waiting.report()?, Ok(0));
    let_others_run();
    same!(take_notice(SIG), None);
    Ok(())
}

fn a_child_has_the_descriptors() -> Outcome {
    let fd = ok!(small());
    ok!(mq_unlink("q"));
    let child = Task::start(move || {
        let sent = mq_send(fd, b"child", 0);
        (sent, close(fd), mq_send(fd, b"x", 0))
    })?;
    same!(child.report()?, (Ok(0), Ok(0), Err(EBADF)));
    same!(mq_receive(fd, 16), Ok((b"child".to_vec(), 0)));
    Ok(())
}

fn threads_share_descriptors() -> Outcome {
    let fd = ok!(small());
    let waiting = Thread::start(move || mq_receive(fd, 16));
    let_others_run();
    ok!(mq_send(fd, b"x", 0));
    same!(waiting.join(), Some(Ok((b"x".to_vec(), 0))));
    Ok(())
}

/// Closed and unlinked below a thread that sleeps in it.
fn a_sleepers_queue_lives_on() -> Outcome {
    let fd = ok!(small());
    let waiting = Thread::start(move || mq_timedreceive(fd, 16, 300_000_000));
    let_others_run();
    ok!(mq_unlink("q"));
    ok!(close(fd));
    same!(waiting.join(), Some(Err(ETIMEDOUT)));
    let fd = full()?;
    let waiting = Thread::start(move || mq_timedsend(fd, b"c", 0, 300_000_000));
    let_others_run();
    ok!(mq_unlink("q"));
    ok!(close(fd));
    same!(waiting.join(), Some(Err(ETIMEDOUT)));
    Ok(())
}
