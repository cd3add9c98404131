//! What a descriptor of a POSIX queue is besides: polled, read, closed in every way.
//!
//! Missing: descriptors that are handed to another process, or kept over exec, which `crates/cli/tests/mqueue.rs` sees to.

use std::ptr;
use std::thread::sleep;
use std::time::Duration;

use libc::{
    EPOLLET, EPOLLIN, EPOLLOUT, O_CREAT, O_EXCL, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY, POLLIN, POLLOUT,
    SIGEV_NONE, SIGEV_SIGNAL, SIGEV_THREAD, c_int, c_void,
};

use crate::{
    Door,
    call::{
        Answer, answer, close, dup, mq_getattr, mq_notify, mq_open, mq_receive, mq_send, mq_unlink, sized,
    },
    case::cases,
    check::{Outcome, ok, same},
    errno::{EACCES, EAGAIN, EBADF, EBUSY, EFAULT, EINVAL, EMFILE, ENOENT, EPERM},
    task::{Task, become_user, let_others_run, own_pid, umask},
};

/// The api has no numbers of its own, and the simulated machine has no files.
const REAL: &[Door] = &[Door::Kernel, Door::Preload, Door::Stranger, Door::Trap, Door::Trap32];
/// What is read from the descriptor by the trap is a FIFO's.
const READ: &[Door] = &[Door::Kernel, Door::Preload, Door::Stranger];

cases! { "mqueue/descriptor":
    shows_what_the_queue_has.only(REAL),
    edges.only(REAL),
    an_epoll_shows_all_of_many.only(REAL),
    wakes_who_polls.only(REAL),
    wakes_all_who_poll.only(REAL),
    a_killed_poller_is_passed_over.only(REAL),
    a_poller_does_not_disturb.only(REAL),
    has_a_line_to_read.only(READ),
    is_not_written_to.only(READ),
    is_a_regular_file.only(READ),
    times.only(READ),
    is_closed_by_exec.only(&[Door::Kernel, Door::Preload, Door::Trap, Door::Stranger]),
    is_held_wherever_it_is.only(&[Door::Kernel, Door::Preload, Door::Trap, Door::Trap32]),
    is_held_again_and_again.only(&[Door::Kernel, Door::Preload, Door::Trap, Door::Trap32]),
    is_held_though_its_closer_sees_nothing.root().only(&[Door::Kernel, Door::Preload, Door::Trap, Door::Trap32]),
    is_closed_by_an_instruction.only(&[Door::Kernel, Door::Preload, Door::Trap, Door::Trap32]),
    comes_first.only(REAL),
    is_what_its_number_is_now.only(REAL),
    closed_by_range.only(REAL),
    stays_where_nothing_is_put.only(REAL).differs(
        &[Door::Trap, Door::Trap32],
        "that a number was put to another description of its queue is not seen"
    ),
    stays_at_where_it_was_read_to.only(READ),
    a_registration_goes_with_exec.only(REAL),
    a_registration_is_shown_until_exec.only(READ),
    a_notice_goes_to_netlink.only(&[Door::Kernel, Door::Preload, Door::Trap, Door::Stranger]),
    libc_names_it_otherwise.root().only(&[Door::Kernel, Door::Preload, Door::Trap, Door::Trap32]),
}

const IN: i16 = POLLIN;
const OUT: i16 = POLLOUT;
const BOTH: i16 = POLLIN | POLLOUT;

fn queue(name: &str, maxmsg: i64) -> Answer<i32> {
    mq_open(name, O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK, 0o600, sized(maxmsg, 16))
}

fn poll_all(fds: &[i32], timeout_ms: c_int) -> Vec<i16> {
    let polled = |fd: &i32| libc::pollfd { fd: *fd, events: BOTH, revents: 0 };
    let mut polled: Vec<_> = fds.iter().map(polled).collect();
    // SAFETY: an array of that length.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as _, timeout_ms) };
    polled.iter().map(|polled| polled.revents).collect()
}

fn ppoll(fd: i32) -> i16 {
    let (mut polled, now) =
        (libc::pollfd { fd, events: BOTH, revents: 0 }, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: one entry, and a time.
    unsafe { libc::ppoll(&raw mut polled, 1, &raw const now, ptr::null()) };
    polled.revents
}

fn select(fd: i32) -> i16 {
    // SAFETY: plain sets of bits, where zero is none.
    let (mut read, mut write): (libc::fd_set, libc::fd_set) = unsafe { std::mem::zeroed() };
    let mut now = libc::timeval { tv_sec: 0, tv_usec: 0 };
    for set in [&raw mut read, &raw mut write] {
        // SAFETY: a set, and a number that it has room for.
        unsafe { libc::FD_SET(fd, set) };
    }
    // SAFETY: sets, and a time.
    unsafe { libc::select(fd + 1, &raw mut read, &raw mut write, ptr::null_mut(), &raw mut now) };
    // SAFETY: as above.
    let is_set = |set: *const libc::fd_set| unsafe { libc::FD_ISSET(fd, set) };
    let shown = |set, events| if is_set(set) { events } else { 0 };
    shown(&raw const read, IN) | shown(&raw const write, OUT)
}

/// An epoll of descriptors, which tells of them by their index.
fn epoll_of(fds: &[i32], events: c_int) -> Outcome<i32> {
    // SAFETY: no pointer.
    let epoll = ok!(answer(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }));
    for (at, fd) in fds.iter().enumerate() {
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: at as u64 };
        // SAFETY: an event.
        ok!(answer(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, *fd, &raw mut event) }));
    }
    Ok(epoll)
}

/// Which are ready, and for what.
fn epoll_wait(epoll: i32, timeout_ms: c_int) -> Vec<(u64, i16)> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
    // SAFETY: an array of that length.
    let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), 16, timeout_ms) };
    events
        .iter()
        .take(usize::try_from(count).unwrap_or(0))
        .map(|event| (event.u64, event.events as i16))
        .collect()
}

fn shows_what_the_queue_has() -> Outcome {
    for maxmsg in 1..=3 {
        let fd = ok!(queue("/q", maxmsg));
        let (reads, writes) = (ok!(mq_open("/q", O_RDONLY, 0, None)), ok!(mq_open("/q", O_WRONLY, 0, None)));
        let epoll = epoll_of(&[fd], EPOLLIN | EPOLLOUT)?;
        let shown = |there: i64| match there {
            0 => OUT,
            _ if there == maxmsg => IN,
            _ => BOTH,
        };
        let check = |there: i64| {
            // Whatever it was opened for.
            same!(poll_all(&[fd, reads, writes], 0), [shown(there); 3]);
            same!([ppoll(fd), select(reads)], [shown(there); 2]);
            same!(epoll_wait(epoll, 0), [(0, shown(there))]);
            Ok(())
        };
        for _ in 0..2 {
            for there in 0..maxmsg {
                check(there)?;
                ok!(mq_send(fd, b"x", 0));
            }
            same!(mq_send(fd, b"x", 0), Err(EAGAIN));
            for there in (1..=maxmsg).rev() {
                check(there)?;
                ok!(mq_receive(fd, 16));
            }
        }
        // What it had when nobody polled, and what is left when all have closed it.
        ok!(mq_send(fd, b"x", 0));
        same!(mq_unlink("q"), Ok(0));
        check(1)?;
        for fd in [fd, reads, writes, epoll] {
            ok!(close(fd));
        }
    }
    Ok(())
}

/// Whatever becomes of the queue is something new.
fn edges() -> Outcome {
    let fd = ok!(queue("/q", 3));
    let epoll = epoll_of(&[fd], EPOLLIN | EPOLLOUT | EPOLLET)?;
    let new = || epoll_wait(epoll, 0).first().map(|event| event.1);
    let send = || mq_send(fd, b"x", 0).map(|_| new());
    let receive = || mq_receive(fd, 16).map(|_| new());
    same!([new(), new()], [Some(OUT), None]);
    same!([send(), Ok(new())], [Ok(Some(BOTH)), Ok(None)]);
    same!([send(), send(), Ok(new())], [Ok(Some(BOTH)), Ok(Some(IN)), Ok(None)]);
    same!(
        [receive(), receive(), receive(), Ok(new())],
        [Ok(Some(BOTH)), Ok(Some(BOTH)), Ok(Some(OUT)), Ok(None)]
    );
    ok!(mq_send(fd, b"x", 0));
    ok!(mq_receive(fd, 16));
    same!([new(), new()], [Some(OUT), None]);
    // As readers wait, by the message; and as writers, by the room.
    let (readers, writers) = (epoll_of(&[fd], EPOLLIN | EPOLLET)?, epoll_of(&[fd], EPOLLOUT | EPOLLET)?);
    same!([epoll_wait(readers, 0), epoll_wait(writers, 0)], [vec![], vec![(0, OUT)]]);
    for _ in 0..3 {
        ok!(mq_send(fd, b"x", 0));
        same!([epoll_wait(readers, 0), epoll_wait(readers, 0)], [vec![(0, IN)], vec![]]);
    }
    epoll_wait(writers, 0);
    ok!(mq_receive(fd, 16));
    same!([epoll_wait(writers, 0), epoll_wait(writers, 0)], [vec![(0, OUT)], vec![]]);
    Ok(())
}

fn an_epoll_shows_all_of_many() -> Outcome {
    let mut fds = Vec::new();
    for i in 0..20 {
        fds.push(ok!(queue(&format!("/{i}"), 2)));
    }
    let epoll = epoll_of(&fds, EPOLLIN)?;
    same!(epoll_wait(epoll, 0), vec![]);
    for (i, fd) in fds.iter().enumerate() {
        ok!(mq_send(*fd, b"x", 0));
        same!(epoll_wait(epoll, 0), [(i as u64, IN)]);
        same!(poll_all(&fds, 0).iter().position(|events| *events == BOTH), Some(i));
        // A copy is in it as well, when what it was copied from is closed.
        let copy = ok!(dup(*fd));
        ok!(close(*fd));
        same!(epoll_wait(epoll, 0), [(i as u64, IN)]);
        ok!(mq_receive(copy, 16));
        same!(epoll_wait(epoll, 0), vec![]);
        ok!(close(copy));
    }
    Ok(())
}

/// A child that polls for one of these until it comes, 20 seconds at most.
fn poller(fd: i32, events: i16) -> Outcome<Task<i16>> {
    let task = Task::start(move || {
        let mut polled = libc::pollfd { fd, events, revents: 0 };
        // SAFETY: one entry.
        unsafe { libc::poll(&raw mut polled, 1, 20_000) };
        polled.revents
    })?;
    let_others_run();
    Ok(task)
}

fn wakes_who_polls() -> Outcome {
    let fd = ok!(queue("/q", 1));
    for _ in 0..2 {
        let for_a_message = poller(fd, IN)?;
        ok!(mq_send(fd, b"x", 0));
        same!(for_a_message.report()?, IN);
        let for_room = poller(fd, OUT)?;
        ok!(mq_receive(fd, 16));
        same!(for_room.report()?, OUT);
        let in_epoll = Task::start(move || {
            let events = epoll_wait(epoll_of(&[fd], EPOLLIN).ok()?, 20_000);
            Some((events, mq_receive(fd, 16)))
        })?;
        let_others_run();
        ok!(mq_send(fd, b"x", 0));
        same!(in_epoll.report()?, Some((vec![(0, IN)], Ok((b"x".to_vec(), 0)))));
    }
    Ok(())
}

fn wakes_all_who_poll() -> Outcome {
    let fd = ok!(queue("/q", 1));
    let pollers = [poller(fd, IN)?, poller(fd, IN)?, poller(fd, IN)?, poller(fd, IN)?];
    ok!(mq_send(fd, b"x", 0));
    for poller in pollers {
        same!(poller.report()?, IN);
    }
    same!(poll_all(&[fd], 0), [IN]);
    Ok(())
}

fn a_killed_poller_is_passed_over() -> Outcome {
    let fd = ok!(queue("/q", 2));
    for _ in 0..3 {
        poller(fd, IN)?.kill();
        ok!(mq_send(fd, b"x", 0));
        same!(poll_all(&[fd], 0), [BOTH]);
        let other = poller(fd, IN)?;
        same!(other.report()?, IN);
        ok!(mq_receive(fd, 16));
        same!(poll_all(&[fd], 0), [OUT]);
    }
    Ok(())
}

/// What comes and goes while somebody else polls is not there any more for who comes later.
fn a_poller_does_not_disturb() -> Outcome {
    let fd = ok!(queue("/q", 3));
    let other = poller(fd, 0)?;
    for _ in 0..100 {
        ok!(mq_send(fd, b"x", 0));
        same!(poll_all(&[fd], 0), [BOTH]);
        ok!(mq_receive(fd, 16));
        same!(poll_all(&[fd], 0), [OUT]);
    }
    other.kill();
    Ok(())
}

fn read(fd: i32, size: usize) -> Answer<String> {
    let mut text = vec![0u8; size];
    // SAFETY: room for as many bytes.
    let len = answer(unsafe { libc::read(fd, text.as_mut_ptr().cast::<c_void>(), size) })?;
    text.truncate(len as usize);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn pread(fd: i32, size: usize, at: i64) -> Answer<String> {
    let mut text = vec![0u8; size];
    // SAFETY: room for as many bytes.
    let len = answer(unsafe { libc::pread64(fd, text.as_mut_ptr().cast::<c_void>(), size, at) })?;
    text.truncate(len as usize);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn lseek(fd: i32, offset: i64, whence: c_int) -> Answer<i64> {
    // SAFETY: no pointer.
    answer(unsafe { libc::lseek64(fd, offset, whence) })
}

/// What a queue's file says.
fn line(qsize: usize, notify: i32, signo: i32, pid: i32) -> String {
    format!("QSIZE:{qsize:<10} NOTIFY:{notify:<5} SIGNO:{signo:<5} NOTIFY_PID:{pid:<6}\n")
}

fn has_a_line_to_read() -> Outcome {
    let fd = ok!(queue("/q", 3));
    let (reads, writes) = (ok!(mq_open("/q", O_RDONLY, 0, None)), ok!(mq_open("/q", O_WRONLY, 0, None)));
    same!(read(fd, 100), Ok(line(0, 0, 0, 0)));
    same!(read(fd, 100), Ok(String::new()));
    for text in ["abc", "defghi"] {
        ok!(mq_send(fd, text.as_bytes(), 0));
    }
    same!(lseek(fd, 0, libc::SEEK_SET), Ok(0));
    same!((read(fd, 5), read(fd, 4)), (Ok("QSIZE".to_owned()), Ok(":9  ".to_owned())));
    same!(lseek(fd, 0, libc::SEEK_CUR), Ok(9));
    // The place is the description's.
    same!(read(reads, 5), Ok("QSIZE".to_owned()));
    for (offset, whence, answer) in [
        (-9, libc::SEEK_CUR, Ok(0)),
        (-1, libc::SEEK_CUR, Err(EINVAL)),
        (0, libc::SEEK_END, Ok(80)),
        (-80, libc::SEEK_END, Ok(0)),
        (1000, libc::SEEK_SET, Ok(1000)),
        (-1, libc::SEEK_SET, Err(EINVAL)),
        (0, 9, Err(EINVAL)),
    ] {
        same!(lseek(fd, offset, whence), answer);
    }
    same!(read(fd, 100), Ok(String::new()));
    same!((pread(fd, 4, 1), pread(fd, 9, 1000)), (Ok("SIZE".to_owned()), Ok(String::new())));
    same!(pread(fd, 1, -1), Err(EINVAL));
    same!((read(writes, 9), pread(writes, 9, 0)), (Err(EBADF), Err(EBADF)));
    ok!(lseek(fd, 0, libc::SEEK_SET));
    let nowhere = ptr::without_provenance_mut::<c_void>(4096);
    // SAFETY: the kernel checks the address.
    same!(answer(unsafe { libc::read(fd, nowhere, 9) }), Err(EFAULT));
    for (how, signo, expected) in
        [(SIGEV_NONE, 0, line(9, 1, 0, own_pid())), (SIGEV_SIGNAL, 10, line(9, 0, 10, own_pid()))]
    {
        ok!(mq_notify(fd, Some((how, signo, 0))));
        same!(pread(fd, 100, 0), Ok(expected));
        ok!(mq_notify(fd, None));
    }
    // Nothing of it is a message.
    same!(mq_getattr(fd).map(|attr| attr.curmsgs), Ok(2));
    same!(poll_all(&[fd], 0), [BOTH]);
    Ok(())
}

fn is_not_written_to() -> Outcome {
    let fd = ok!(queue("/q", 3));
    let reads = ok!(mq_open("/q", O_RDONLY, 0, None));
    let text: *const c_void = b"x".as_ptr().cast();
    for (fd, why) in [(fd, EINVAL), (reads, EBADF)] {
        for size in [0, 1] {
            // SAFETY: one byte.
            same!(answer(unsafe { libc::write(fd, text, size) }), Err(why));
        }
        // SAFETY: one byte.
        same!(answer(unsafe { libc::pwrite64(fd, text, 1, 0) }), Err(why));
    }
    same!(poll_all(&[fd], 0), [OUT]);
    Ok(())
}

/// Mode, links, owner, group, size, block's size, blocks.
fn stat(fd: i32) -> Answer<(u32, u64, u32, u32, i64, i64, i64)> {
    // SAFETY: plain numbers.
    let mut stat: libc::stat64 = unsafe { std::mem::zeroed() };
    // SAFETY: room for one.
    answer(unsafe { libc::fstat64(fd, &raw mut stat) })?;
    Ok((stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_gid, stat.st_size, stat.st_blksize, stat.st_blocks))
}

fn is_a_regular_file() -> Outcome {
    umask(0);
    let fd = ok!(mq_open("/q", O_CREAT | O_RDWR, 0o642, sized(1, 8)));
    // SAFETY: no memory.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    same!(stat(fd), Ok((libc::S_IFREG | 0o642, 1, uid, gid, 80, 4096, 0)));
    ok!(mq_unlink("q"));
    same!(stat(fd).map(|stat| (stat.0, stat.1, stat.4)), Ok((libc::S_IFREG | 0o642, 0, 80)));
    Ok(())
}

/// When it was last read, written and changed: a message that comes or goes is all of it.
fn times() -> Outcome {
    let times = |fd: i32| -> Answer<[i64; 3]> {
        // SAFETY: plain numbers.
        let mut stat: libc::stat64 = unsafe { std::mem::zeroed() };
        // SAFETY: room for one.
        answer(unsafe { libc::fstat64(fd, &raw mut stat) })?;
        Ok([stat.st_atime, stat.st_mtime, stat.st_ctime])
    };
    let fd = ok!(queue("/q", 2));
    let mut before = ok!(times(fd));
    let calls: [&dyn Fn() -> bool; 2] = [&|| mq_send(fd, b"x", 0).is_ok(), &|| mq_receive(fd, 16).is_ok()];
    for call in calls {
        sleep(Duration::from_millis(1100));
        same!(times(fd), Ok(before));
        same!(call(), true);
        let [accessed, modified, changed] = ok!(times(fd));
        same!((accessed > before[0], modified, changed), (true, accessed, accessed));
        before = [accessed; 3];
    }
    Ok(())
}

fn is_closed_by_exec() -> Outcome {
    let fd = ok!(queue("/q", 1));
    let again = ok!(mq_open("/q", O_RDONLY, 0, None));
    // SAFETY: no memory.
    same!([fd, again].map(|fd| unsafe { libc::fcntl(fd, libc::F_GETFD) }), [libc::FD_CLOEXEC; 2]);
    Ok(())
}

/// In a child that the caller is by now, until the case ends.
fn hold() -> ! {
    // SAFETY: system calls without memory.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::sleep(30);
        libc::_exit(0)
    }
}

/// Starts a program that holds what it is left.
fn spawn(actions: *const libc::posix_spawn_file_actions_t) -> Answer<c_int> {
    let mut pid = 0;
    let arguments = [c"sleep".as_ptr().cast_mut(), c"30".as_ptr().cast_mut(), ptr::null_mut()];
    let (path, none) = (c"/bin/sleep".as_ptr(), ptr::null::<libc::posix_spawnattr_t>());
    // SAFETY: terminated strings and arrays of them.
    let failed = unsafe {
        libc::posix_spawn(&raw mut pid, path, actions, none, arguments.as_ptr(), [ptr::null_mut()].as_ptr())
    };
    if failed == 0 { Ok(pid) } else { Err(crate::errno::Errno(failed)) }
}

/// A queue without a name, whose last descriptor here is closed: it lives on in another process, by whatever way it has got there.
fn is_held_wherever_it_is() -> Outcome {
    // SAFETY: the child makes no more than system calls.
    let fork = |fd| match unsafe { libc::fork() } {
        0 => hold(),
        pid => answer(pid).map(|pid| (pid, fd)),
    };
    // SAFETY: as above.
    let by_number = |fd| match unsafe { libc::syscall(libc::SYS_fork) as c_int } {
        0 => hold(),
        pid => answer(pid).map(|pid| (pid, fd)),
    };
    let terminal = |fd| {
        let mut master = 0;
        // SAFETY: room for a number; as above.
        match unsafe { libc::forkpty(&raw mut master, ptr::null_mut(), ptr::null(), ptr::null()) } {
            0 => hold(),
            pid => answer(pid).map(|pid| (pid, fd)),
        }
    };
    let inherited = |fd| {
        let kept = dup(fd)?;
        let started = spawn(ptr::null()).map(|pid| (pid, kept));
        close(kept)?;
        started
    };
    let put_there = |fd| {
        let mut actions = std::mem::MaybeUninit::uninit();
        // SAFETY: they are initialised before they are added to.
        unsafe {
            libc::posix_spawn_file_actions_init(actions.as_mut_ptr());
            libc::posix_spawn_file_actions_adddup2(actions.as_mut_ptr(), fd, 50);
        }
        spawn(actions.as_ptr()).map(|pid| (pid, 50))
    };
    let ways: [&dyn Fn(i32) -> Answer<(c_int, i32)>; 5] =
        [&fork, &by_number, &terminal, &inherited, &put_there];
    for way in ways {
        let fd = ok!(queue("/q", 1));
        ok!(mq_send(fd, b"x", 0));
        ok!(mq_unlink("q"));
        let (holder, number) = ok!(way(fd));
        ok!(close(fd));
        let_others_run();
        let path = std::ffi::CString::new(format!("/proc/{holder}/fd/{number}")).unwrap_or_default();
        // SAFETY: a terminated string.
        let again = ok!(answer(unsafe { libc::open(path.as_ptr(), O_RDWR | O_NONBLOCK) }));
        same!(mq_receive(again, 16), Ok((b"x".to_vec(), 0)));
        ok!(close(again));
        end(holder)?;
    }
    Ok(())
}

/// Who closes it last here has another root directory meanwhile.
fn is_held_though_its_closer_sees_nothing() -> Outcome {
    let fd = ok!(queue("/q", 1));
    ok!(mq_send(fd, b"x", 0));
    ok!(mq_unlink("q"));
    let closer = Task::start(move || {
        // SAFETY: a terminated string.
        answer(unsafe { libc::chroot(c"/dev".as_ptr()) }).and_then(|_| close(fd))
    })?;
    same!(closer.report()?, Ok(0));
    same!(mq_receive(fd, 16), Ok((b"x".to_vec(), 0)));
    Ok(())
}

/// The same of a queue that is made and removed all the time, also when the program has closed numbers that it didn't open, and has something else there.
fn is_held_again_and_again() -> Outcome {
    const HIGH: std::ops::Range<c_int> = 100..110;
    let close_high = || {
        // SAFETY: no memory; the case has no descriptors there but its own.
        unsafe { libc::close_range(HIGH.start.cast_unsigned(), HIGH.end.cast_unsigned(), 0) }
    };
    for round in 0..8 {
        if round == 6 {
            same!(close_high(), 0);
            let mut ends = [0; 2];
            // SAFETY: room for two numbers.
            ok!(answer(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }));
            for number in HIGH {
                // SAFETY: no memory.
                ok!(answer(unsafe { libc::fcntl(ends[1], libc::F_DUPFD_CLOEXEC, number) }));
            }
            // Whoever polls these is told of an error.
            ok!(close(ends[0]));
            ok!(close(ends[1]));
        }
        let fd = ok!(queue("/q", 1));
        ok!(mq_send(fd, b"x", 0));
        ok!(mq_unlink("q"));
        // SAFETY: the child makes no more than system calls.
        let holder = match unsafe { libc::fork() } {
            0 if round % 2 == 0 => hold(),
            // SAFETY: ends it.
            0 => unsafe { libc::_exit(0) },
            pid => ok!(answer(pid)),
        };
        if round % 2 == 1 {
            // SAFETY: no status is wanted.
            same!(unsafe { libc::waitpid(holder, ptr::null_mut(), 0) }, holder);
            ok!(close(fd));
            continue;
        }
        ok!(close(fd));
        let_others_run();
        let path = std::ffi::CString::new(format!("/proc/{holder}/fd/{fd}")).unwrap_or_default();
        // SAFETY: a terminated string.
        let again = ok!(answer(unsafe { libc::open(path.as_ptr(), O_RDWR | O_NONBLOCK) }));
        same!(mq_receive(again, 16), Ok((b"x".to_vec(), 0)));
        ok!(close(again));
        end(holder)?;
    }
    same!(close_high(), 0);
    Ok(())
}

/// Nobody sees that it is closed before its name is taken, and something else has its number: what it took of the limit comes back all the same.
fn is_closed_by_an_instruction() -> Outcome {
    let mut others = Vec::new();
    // More than a user may have at a time.
    for _ in 0..20 {
        let fd = ok!(mq_open("/q", O_CREAT | O_EXCL | O_RDWR, 0o600, None));
        // SAFETY: a number of the case's own.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") libc::SYS_close => _,
                in("rdi") i64::from(fd),
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        // SAFETY: a terminated string.
        others.push(ok!(answer(unsafe { libc::open(c"/dev/null".as_ptr(), O_RDWR) })));
        ok!(mq_unlink("q"));
    }
    for other in others {
        ok!(close(other));
    }
    Ok(())
}

/// No descriptor left, before what the name says and what is asked for.
fn comes_first() -> Outcome {
    ok!(queue("/q", 1));
    let child = Task::start(move || {
        let most = libc::rlimit { rlim_cur: 3, rlim_max: 3 };
        // SAFETY: a limit.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const most) };
        [
            mq_open("/none", O_RDWR, 0, None),
            mq_open("/q", O_RDWR, 0, None),
            mq_open("/q", O_CREAT | O_EXCL | O_RDWR, 0, None),
            mq_open("/q", 3, 0, None),
            mq_open("/new", O_CREAT | O_RDWR, 0o600, sized(-1, 8)),
        ]
    })?;
    same!(child.report()?, [Err(EMFILE); 5]);
    same!(mq_open("/none", O_RDWR, 0, None), Err(ENOENT));
    Ok(())
}

/// Whatever was put there since the last call: another queue, what is none, and a queue again.
fn is_what_its_number_is_now() -> Outcome {
    let (first, second) = (ok!(queue("/first", 2)), ok!(queue("/second", 2)));
    ok!(mq_send(first, b"1", 1));
    ok!(mq_send(second, b"2", 2));
    let put = |from: i32, at: i32| {
        // SAFETY: descriptors of the case's own.
        answer(unsafe { libc::dup2(from, at) })
    };
    // SAFETY: a terminated string.
    let null = ok!(answer(unsafe { libc::open(c"/dev/null".as_ptr(), O_RDWR) }));
    let (mut ends, kept) = ([0; 2], ok!(put(first, 100)));
    // SAFETY: room for two descriptors.
    ok!(answer(unsafe { libc::pipe(ends.as_mut_ptr()) }));
    for none in [ends[0], null, ends[1], null] {
        ok!(put(second, first));
        same!(mq_receive(first, 16), Ok((b"2".to_vec(), 2)));
        ok!(put(none, first));
        same!((mq_receive(first, 16), mq_send(first, b"x", 0)), (Err(EBADF), Err(EBADF)));
        ok!(put(kept, first));
        same!(mq_receive(first, 16), Ok((b"1".to_vec(), 1)));
        ok!(mq_send(first, b"1", 1));
        ok!(mq_send(second, b"2", 2));
    }
    ok!(close(first));
    same!(mq_receive(first, 16), Err(EBADF));
    Ok(())
}

fn closed_by_range() -> Outcome {
    let by_libc = |fd: i32| {
        // SAFETY: no memory; a descriptor of the case's own.
        unsafe { libc::close_range(fd.cast_unsigned(), fd.cast_unsigned(), 0) }
    };
    let by_number = |fd: i32| {
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_close_range, fd, fd, 0) as c_int }
    };
    let fd = ok!(queue("/q", 1));
    for close_range in [&by_libc as &dyn Fn(i32) -> c_int, &by_number] {
        let other = ok!(mq_open("/q", O_RDONLY, 0, None));
        ok!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))));
        same!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))), Err(EBUSY));
        same!(close_range(other), 0);
        same!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))), Ok(0));
        same!(mq_receive(other, 16), Err(EBADF));
        ok!(mq_notify(fd, None));
    }
    Ok(())
}

fn dup2(from: i32, to: i32) -> Answer<i32> {
    // SAFETY: no memory; descriptors of the case's own.
    answer(unsafe { libc::dup2(from, to) })
}

fn dup3(from: i32, to: i32, flags: c_int) -> Answer<i32> {
    // SAFETY: as above.
    answer(unsafe { libc::dup3(from, to, flags) })
}

/// `dup2` and `dup3` that fail leave the number what it was; those that don't fail end its registration.
fn stays_where_nothing_is_put() -> Outcome {
    let fd = ok!(queue("/q", 1));
    let other = ok!(mq_open("/q", O_RDONLY, 0, None));
    ok!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))));
    same!(dup2(-1, other), Err(EBADF));
    same!(dup3(-1, other, 0), Err(EBADF));
    same!(dup3(fd, other, O_RDONLY | O_NONBLOCK), Err(EINVAL));
    same!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))), Err(EBUSY));
    ok!(mq_send(fd, b"x", 0));
    same!(mq_receive(other, 16), Ok((b"x".to_vec(), 0)));
    ok!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))));
    same!(dup2(fd, other), Ok(other));
    same!(mq_notify(other, Some((SIGEV_NONE, 0, 0))), Ok(0));
    Ok(())
}

fn stays_at_where_it_was_read_to() -> Outcome {
    let fd = ok!(queue("/q", 1));
    let other = ok!(mq_open("/q", O_RDONLY, 0, None));
    same!(read(other, 5), Ok("QSIZE".to_owned()));
    same!(dup2(-1, other), Err(EBADF));
    same!(dup3(-1, other, 0), Err(EBADF));
    same!(dup3(fd, other, O_RDONLY | O_NONBLOCK), Err(EINVAL));
    same!(read(other, 1), Ok(":".to_owned()));
    Ok(())
}

/// A child that registers and then executes another program, which sleeps.
fn executes(fd: i32, how: (c_int, c_int, usize)) -> Outcome<c_int> {
    let mut ends = [0; 2];
    // SAFETY: room for two numbers.
    ok!(answer(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }));
    // SAFETY: the child makes no more than system calls.
    let child = ok!(answer(unsafe { libc::fork() }));
    if child == 0 {
        let arguments = [c"sleep".as_ptr(), c"20".as_ptr(), ptr::null()];
        if mq_notify(fd, Some(how)) == Ok(0) {
            // SAFETY: terminated strings, and a terminated array of them.
            unsafe { libc::execv(c"/bin/sleep".as_ptr(), arguments.as_ptr()) };
        }
        // SAFETY: ends it.
        unsafe { libc::_exit(1) };
    }
    ok!(close(ends[1]));
    // The other end is closed by exec.
    same!(read(ends[0], 1), Ok(String::new()));
    ok!(close(ends[0]));
    Ok(child)
}

/// Kills a child, which must not have ended before.
fn end(child: c_int) -> Outcome {
    let mut status = 0;
    // SAFETY: room for a status.
    same!(unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) }, 0);
    // SAFETY: a child of this process's, which waits for it.
    unsafe { libc::kill(child, libc::SIGKILL) };
    // SAFETY: as above.
    same!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    Ok(())
}

fn a_registration_goes_with_exec() -> Outcome {
    let fd = ok!(queue("/q", 2));
    let child = executes(fd, (SIGEV_NONE, 0, 0))?;
    same!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))), Ok(0));
    ok!(mq_notify(fd, None));
    end(child)?;
    // The next program is not sent what it knows nothing of.
    let child = executes(fd, (SIGEV_SIGNAL, libc::SIGUSR1, 0))?;
    ok!(mq_send(fd, b"x", 0));
    let_others_run();
    end(child)
}

fn a_registration_is_shown_until_exec() -> Outcome {
    let fd = ok!(queue("/q", 2));
    let child = executes(fd, (SIGEV_NONE, 0, 0))?;
    same!(pread(fd, 100, 0), Ok(line(0, 0, 0, 0)));
    end(child)
}

/// A notification to a thread, as libc has it from the kernel.
fn a_notice_goes_to_netlink() -> Outcome {
    let fd = ok!(queue("/q", 1));
    let cookie = [0u8; 32].as_ptr().expose_provenance();
    // SAFETY: passes numbers.
    let socket = ok!(answer(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0) }));
    same!(mq_notify(fd, Some((SIGEV_THREAD, socket, cookie))), Err(EINVAL));
    same!(mq_notify(-1, Some((SIGEV_THREAD, socket, cookie))), Err(EINVAL));
    same!(mq_notify(fd, Some((SIGEV_NONE, 0, 0))), Ok(0));
    Ok(())
}

/// As POSIX has it.
fn libc_names_it_otherwise() -> Outcome {
    umask(0);
    ok!(mq_open("/q", O_CREAT | O_RDWR, 0o666, sized(1, 8)));
    become_user(1000, 1000, &[]);
    let unlink = |name: &std::ffi::CStr| {
        // SAFETY: a terminated string.
        answer(unsafe { libc::mq_unlink(name.as_ptr()) })
    };
    same!(mq_unlink("q"), Err(EPERM));
    same!(unlink(c"/q"), Err(EACCES));
    same!(unlink(c"q"), Err(EINVAL));
    same!(unlink(c"/none"), Err(ENOENT));
    Ok(())
}
