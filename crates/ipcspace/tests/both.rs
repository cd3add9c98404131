//! One suite for both backends: a private namespace, and the kernel's, where each test removes what it makes.

mod forked;

use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use forked::fork;
use ipcspace::{Access, Key, Limit, MsgType, Namespace, Queue, Received, Select, Semaphores};

const SOON: Duration = Duration::from_millis(30);
const LONG: Duration = Duration::from_secs(20);

/// Both places. That of the kernel is a new one of this thread's and those it makes, where one may have such; else the tests clean up.
fn places() -> [Namespace; 2] {
    static PRIVATE: OnceLock<Namespace> = OnceLock::new();
    // SAFETY: passes a number.
    unsafe { libc::unshare(libc::CLONE_NEWIPC) };
    [*PRIVATE.get_or_init(|| Namespace::private().unwrap()), Namespace::kernel()]
}

fn kind(number: i64) -> MsgType {
    MsgType::new(number).unwrap()
}

fn queue(ns: Namespace) -> Queue {
    ns.queue(Key::PRIVATE).open().unwrap()
}

/// Waits until something is so.
fn until(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LONG, "it does not come to be");
        thread::sleep(Duration::from_millis(1));
    }
}

fn get(queue: &Queue, select: Select) -> Option<(i64, Vec<u8>)> {
    let mut text = [0; 64];
    match queue.try_recv(select, &mut text) {
        Ok(got) => Some((got.kind.number(), text[..got.len].to_vec())),
        Err(error) => {
            assert_eq!((error.errno(), error.call()), (libc::ENOMSG, "msgrcv"));
            None
        }
    }
}

#[test]
fn messages_come_by_selection() {
    for ns in places() {
        let queue = queue(ns);
        for (of, text) in [(5, "a"), (3, "bc"), (9, ""), (3, "d")] {
            queue.send(kind(of), text.as_bytes()).unwrap();
        }
        assert_eq!(get(&queue, Select::Exactly(kind(4))), None);
        assert_eq!(get(&queue, Select::AtMost(kind(4))), Some((3, b"bc".to_vec())));
        assert_eq!(get(&queue, Select::Not(kind(5))), Some((9, vec![])));
        assert_eq!(get(&queue, Select::Exactly(kind(3))), Some((3, b"d".to_vec())));
        assert_eq!(get(&queue, Select::Any), Some((5, b"a".to_vec())));
        assert_eq!(get(&queue, Select::Any), None);
        queue.remove().unwrap();
    }
}

#[test]
fn a_large_message_stays_or_is_cut() {
    for ns in places() {
        let queue = queue(ns);
        queue.send(MsgType::FIRST, b"0123456789").unwrap();
        let mut small = [b'-'; 4];
        let refused = queue.recv(Select::Any, &mut small).unwrap_err();
        assert_eq!((refused.errno(), small), (libc::E2BIG, [b'-'; 4]));
        let got = queue.recv_truncated(Select::Any, &mut small).unwrap();
        assert_eq!((got, &small), (Received { kind: MsgType::FIRST, len: 4 }, b"0123"));
        // Larger than what a thread keeps room for.
        assert_eq!(queue.try_recv(Select::Any, &mut vec![0; 1 << 20]).unwrap_err().errno(), libc::ENOMSG);
        queue.remove().unwrap();
    }
}

#[test]
fn waits_for_messages_end_in_time() {
    for ns in places() {
        let queue = queue(ns);
        let begun = Instant::now();
        let late = queue.recv_timeout(Select::Any, &mut [], SOON).unwrap_err();
        assert_eq!((late.errno(), late.is_not_now()), (libc::ETIMEDOUT, true));
        assert!(begun.elapsed() >= SOON);
        let past = Instant::now() - SOON;
        assert_eq!(queue.recv_deadline(Select::Any, &mut [], past).unwrap_err().errno(), libc::ETIMEDOUT);
        queue.set_capacity(4).unwrap();
        queue.send_deadline(MsgType::FIRST, b"full", past).unwrap();
        let full = queue.send_timeout(MsgType::FIRST, b"more", SOON).unwrap_err();
        assert_eq!(full.errno(), libc::ETIMEDOUT);
        let full = queue.try_send(MsgType::FIRST, b"more").unwrap_err();
        assert_eq!((full.errno(), full.limit()), (libc::EAGAIN, Some(Limit::MsgMnb)));
        // One that comes is taken at once.
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(SOON);
                queue.recv(Select::Any, &mut [0; 4]).unwrap();
            });
            queue.send_timeout(kind(2), b"more", LONG).unwrap();
        });
        assert_eq!(get(&queue, Select::Any), Some((2, b"more".to_vec())));
        queue.remove().unwrap();
    }
}

#[test]
fn children_of_fork_are_in_it() {
    for ns in places() {
        let queue = queue(ns);
        let child = fork(|| {
            let mut text = [0; 16];
            let got = queue.recv_timeout(Select::Exactly(kind(1)), &mut text, LONG).unwrap();
            assert_eq!(&text[..got.len], b"ask");
            queue.send(kind(2), b"answer").unwrap();
        });
        queue.send(kind(1), b"ask").unwrap();
        let mut text = [0; 16];
        let got = queue.recv_timeout(Select::Exactly(kind(2)), &mut text, LONG).unwrap();
        assert_eq!(&text[..got.len], b"answer");
        child.join();
        queue.remove().unwrap();
    }
}

#[test]
fn removal_ends_waits_and_closing_removes_nothing() {
    for ns in places() {
        // The handle that made it goes at once.
        let same = queue(ns).clone();
        thread::scope(|scope| {
            let waits = scope.spawn(|| same.recv(Select::Any, &mut []));
            thread::sleep(SOON);
            same.clone().remove().unwrap();
            assert!(waits.join().unwrap().unwrap_err().is_removed());
        });
        assert_eq!(same.status().unwrap_err().errno(), libc::EINVAL);
    }
}

#[test]
fn several_semaphores_are_acquired_at_once() {
    for ns in places() {
        let set = ns.semaphores(12).initial(1).open().unwrap();
        let guard = set.acquire(&[(0, 1), (11, 1)]).unwrap();
        let error = set.try_acquire(&[(5, 1), (11, 1)]).unwrap_err();
        assert_eq!((error.errno(), error.call()), (libc::EAGAIN, "semop"));
        assert_eq!((set.value(5).unwrap(), set.value(11).unwrap()), (1, 0));
        let late = set.acquire_timeout(&[(0, 1)], SOON).unwrap_err();
        assert_eq!(late.errno(), libc::ETIMEDOUT);
        set.wait_for_zero(&[0, 11]).unwrap();
        assert_eq!(set.try_wait_for_zero(&[1]).unwrap_err().errno(), libc::EAGAIN);
        guard.release().unwrap();
        // More than fit without an allocation.
        let all: Vec<(u16, u16)> = (0..12).map(|at| (at, 1)).collect();
        let guard = set.acquire(&all).unwrap();
        assert_eq!(set.values().unwrap(), [0; 12]);
        guard.keep();
        assert_eq!(set.values().unwrap(), [0; 12]);
        set.release(&all).unwrap();
        assert_eq!((set.values().unwrap(), set.len().unwrap()), (vec![1; 12], 12));
        set.remove().unwrap();
    }
}

#[test]
fn what_the_killed_held_is_given_back() {
    for ns in places() {
        let set = ns.semaphores(1).initial(1).open().unwrap();
        let holder = fork(|| {
            let lock = set.undo();
            let _guard = lock.acquire(&[(0, 1)]).unwrap();
            loop {
                thread::sleep(LONG);
            }
        });
        until(|| set.value(0).unwrap() == 0);
        let waiter = thread::scope(|scope| {
            let waits = scope.spawn(|| set.undo().acquire_timeout(&[(0, 1)], LONG).map(drop));
            until(|| set.waiting(0).unwrap() == (1, 0));
            holder.kill();
            waits.join().unwrap()
        });
        waiter.unwrap();
        assert_eq!(set.value(0).unwrap(), 1);
        set.remove().unwrap();
    }
}

#[test]
fn who_opens_a_set_finds_its_values() {
    for (key, ns) in (0x6f70_0001..).map(Key::new).zip(places()) {
        let open = || ns.semaphores(1).key(key).create(true).initial(3).open().unwrap();
        let sets: Vec<Semaphores> = thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(sets.iter().all(|set| set.id() == sets[0].id() && set.value(0).unwrap() == 3));
        sets[0].clone().remove().unwrap();
        assert_eq!(ns.semaphores(1).key(key).open().unwrap_err().errno(), libc::ENOENT);
    }
}

ipcspace::shared! {
    /// Something of several fields.
    struct Board {
        turns: AtomicU32,
        cells: [AtomicU64; 600],
    }
}

#[test]
fn shared_memory_is_the_childrens_too() {
    for ns in places() {
        let board = ns.shared::<Board>().open().unwrap();
        assert_eq!((board.size().unwrap(), board.attached().unwrap()), (4808, 1));
        let child = fork(|| {
            board.cells[599].store(42, SeqCst);
            board.turns.store(1, SeqCst);
        });
        until(|| board.turns.load(SeqCst) == 1);
        assert_eq!(board.cells[599].load(SeqCst), 42);
        child.join();
        board.remove().unwrap();
        board.turns.store(2, SeqCst);
    }
}

fn poll(queue: &impl AsFd) -> i16 {
    let mut fds =
        libc::pollfd { fd: queue.as_fd().as_raw_fd(), events: libc::POLLIN | libc::POLLOUT, revents: 0 };
    // SAFETY: one structure.
    assert!(unsafe { libc::poll(&raw mut fds, 1, 0) } >= 0);
    fds.revents
}

#[test]
fn a_posix_queue_is_a_descriptor() {
    for ns in places() {
        let name = format!("/ipcspace-test-{}", std::process::id());
        let options = ns.mqueue(&name).size(2, 16);
        let queue = options.clone().create_new(true).open().unwrap();
        assert_eq!(poll(&queue), libc::POLLOUT);
        queue.send(b"low", 1).unwrap();
        queue.send(b"high", 7).unwrap();
        assert_eq!(poll(&queue), libc::POLLIN);
        assert_eq!(queue.try_send(b"no room", 1).unwrap_err().errno(), libc::EAGAIN);
        assert_eq!(queue.send_timeout(b"no room", 1, SOON).unwrap_err().errno(), libc::ETIMEDOUT);
        assert_eq!(queue.send(b"seventeen bytes..", 1).unwrap_err().errno(), libc::EMSGSIZE);
        let reader = options.clone().access(Access::Receive).open().unwrap();
        let mut text = [0; 16];
        assert_eq!((reader.recv(&mut text).unwrap(), &text[..4]), ((4, 7), &b"high"[..]));
        assert_eq!(reader.send(b"", 0).unwrap_err().errno(), libc::EBADF);
        assert_eq!(reader.recv(&mut [0; 15]).unwrap_err().errno(), libc::EMSGSIZE);
        assert_eq!(poll(&reader), libc::POLLIN | libc::POLLOUT);
        let child = fork(|| assert_eq!(queue.recv_timeout(&mut [0; 16], LONG).unwrap(), (3, 1)));
        child.join();
        assert_eq!(reader.recv_timeout(&mut text, SOON).unwrap_err().errno(), libc::ETIMEDOUT);
        options.remove().unwrap();
        assert_eq!(options.open().unwrap_err().errno(), libc::ENOENT);
    }
}

#[test]
fn errors_name_the_limit() {
    for ns in places() {
        let of = |result: Result<(), ipcspace::Error>| {
            let error = result.unwrap_err();
            (error.errno(), error.limit(), error.limit_value() == error.limit().map(|l| ns.limit(l).unwrap()))
        };
        let queue = queue(ns);
        let most = usize::try_from(ns.limit(Limit::MsgMax).unwrap()).unwrap();
        let large = queue.send(MsgType::FIRST, &vec![0; most + 1]);
        assert_eq!(of(large), (libc::EINVAL, Some(Limit::MsgMax), true));
        queue.remove().unwrap();
        let most = usize::try_from(ns.limit(Limit::SemMsl).unwrap()).unwrap();
        assert_eq!(of(ns.semaphores(most + 1).open().map(drop)), (libc::EINVAL, Some(Limit::SemMsl), true));
        let set = ns.semaphores(1).open().unwrap();
        let most = usize::try_from(ns.limit(Limit::SemOpm).unwrap()).unwrap();
        let many = set.release(&vec![(0, 1); most + 1]);
        assert_eq!(of(many), (libc::E2BIG, Some(Limit::SemOpm), true));
        assert_eq!(of(set.set(0, 40_000)), (libc::ERANGE, Some(Limit::SemVmx), true));
        assert_eq!(of(set.release(&[(0, 40_000)])), (libc::ERANGE, Some(Limit::SemVmx), true));
        set.release(&[(0, 32_767)]).unwrap();
        assert_eq!(of(set.release(&[(0, 1)])), (libc::ERANGE, Some(Limit::SemVmx), true));
        // No other limit is blamed.
        assert_eq!(of(ns.semaphores(0).open().map(drop)), (libc::EINVAL, None, true));
        assert_eq!(of(set.acquire(&[(7, 1)]).map(drop)), (libc::EFBIG, None, true));
        set.remove().unwrap();
    }
}

#[test]
fn bad_input_is_an_error() {
    for ns in places() {
        let errno = |result: Result<(), ipcspace::Error>| result.unwrap_err().errno();
        assert_eq!(errno(ns.queue(Key::PRIVATE).mode(0o1777).open().map(drop)), libc::EINVAL);
        assert_eq!(errno(ns.shared::<[AtomicU64; 0]>().open().map(drop)), libc::EINVAL);
        assert_eq!(errno(ns.semaphores(usize::MAX).initial(1).open().map(drop)), libc::EINVAL);
        for name in ["", "/", "jobs", "/a/b", "/nul\0"] {
            assert!(ns.mqueue(name).create(true).open().is_err(), "{name:?}");
        }
        assert_eq!(errno(ns.mqueue(&format!("/{}", "x".repeat(300))).open().map(drop)), libc::ENAMETOOLONG);
        assert!(ns.mqueue("/ipcspace-none").create(true).size(0, 0).open().is_err());
        assert!(
            Key::from_path("/there/is/nothing", 1).unwrap_err().to_string().contains("/there/is/nothing")
        );
    }
}

#[cfg(feature = "serde")]
#[test]
fn values_are_messages() {
    for ns in places() {
        let queue = queue(ns);
        let value = (7u8, vec!["some".to_owned(), "text".to_owned()]);
        queue.send_value(kind(3), &value).unwrap();
        assert_eq!(queue.recv_value::<(u8, Vec<String>)>(Select::Any).unwrap(), (kind(3), value));
        queue.send(kind(3), b"").unwrap();
        let error = queue.recv_value::<(u8, Vec<String>)>(Select::Any).unwrap_err();
        assert_eq!(error.errno(), libc::EPROTO);
        queue.remove().unwrap();
    }
}
