//! Namespaces: each process is in one. So each of these works in children of its own.

mod forked;

use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::{fs, io, process};

use forked::fork;
use ipcspace::{Error, Key, Limit, MsgType, Namespace, Select};

fn name(of: &str) -> String {
    format!("test-{of}-{}", process::id())
}

#[test]
fn a_named_one_is_opened_by_others() {
    let name = name("named");
    // Each end is closed when the other side has come so far.
    let (mut made, make) = io::pipe().unwrap();
    let (mut done, finish) = io::pipe().unwrap();
    let maker = fork(|| {
        let ns = Namespace::builder(&name).limit(Limit::MsgMax, 4).create().unwrap();
        let queue = ns.queue(Key::new(1)).create_new(true).open().unwrap();
        queue.send(MsgType::FIRST, b"here").unwrap();
        assert_eq!(queue.send(MsgType::FIRST, b"large").unwrap_err().limit(), Some(Limit::MsgMax));
        (&make).write_all(b"x").unwrap();
        done.read_exact(&mut [0]).unwrap();
    });
    made.read_exact(&mut [0]).unwrap();
    fork(|| {
        let taken = Namespace::builder(&name).create().unwrap_err();
        assert_eq!(taken.errno(), libc::EEXIST);
        let ns = Namespace::open(&name).unwrap();
        let queue = ns.queue(Key::new(1)).open().unwrap();
        assert_eq!(queue.recv(Select::Any, &mut [0; 4]).unwrap().len, 4);
        // The same one again is no other one.
        Namespace::open(&name).unwrap();
        assert_eq!(Namespace::private().unwrap_err().errno(), libc::EBUSY);
    })
    .join();
    (&finish).write_all(b"x").unwrap();
    maker.join();
}

#[test]
fn what_can_be_no_namespace_is_an_error() {
    fork(|| {
        for bad in ["", "a/b", ".hidden", &"x".repeat(33), "nul\0"] {
            assert_eq!(Namespace::open(bad).unwrap_err().errno(), libc::EINVAL, "{bad:?}");
        }
        assert_eq!(Namespace::open("there-is-none").unwrap_err().errno(), libc::ENOENT);
        let bad = Namespace::builder("").limit(Limit::MsgMni, 1 << 40).create().unwrap_err();
        assert!(bad.errno() == libc::EINVAL && bad.to_string().contains("kernel.msgmni"), "{bad}");
        assert_eq!(Namespace::builder("a/b").create().unwrap_err().errno(), libc::EINVAL);
        // None of this was a step into one.
        Namespace::private().unwrap();
    })
    .join();
}

/// Takes the rights away from this process to go beyond the limits of queues, which root may have.
fn be_bound_by_limits() {
    const VERSION_3: u32 = 0x2008_0522;
    let (head, none) = ([VERSION_3, 0], [0u32; 6]);
    // SAFETY: a version and no pid, and two times three words.
    assert_eq!(unsafe { libc::syscall(libc::SYS_capset, head.as_ptr(), none.as_ptr()) }, 0);
}

#[test]
fn an_exhausted_limit_is_named() {
    fork(|| {
        let limits = [
            (Limit::MsgMni, 1),
            (Limit::SemMns, 4),
            (Limit::SemMni, 2),
            (Limit::ShmMax, 4 * 4096),
            (Limit::ShmAll, 3),
            (Limit::ShmMni, 2),
            (Limit::MqQueuesMax, 1),
            (Limit::MqMsgMax, 5),
            (Limit::MqMsgsizeMax, 200),
        ];
        let builder = Namespace::builder("");
        let builder = limits.into_iter().fold(builder, |builder, (limit, value)| builder.limit(limit, value));
        let ns = builder.create().unwrap();
        be_bound_by_limits();
        let named = |result: Result<(), Error>, call: &str, limit: Limit| {
            let error = result.unwrap_err();
            let value = ns.limit(limit).unwrap();
            assert_eq!(
                (error.call(), error.limit(), error.limit_value()),
                (call, Some(limit), Some(value)),
                "{error}"
            );
            assert!(error.to_string().ends_with(&format!("({limit} is {value})")), "{error}");
        };
        let queue = || ns.queue(Key::PRIVATE).open();
        let _queue = queue().unwrap();
        named(queue().map(drop), "msgget", Limit::MsgMni);

        let set = |count| ns.semaphores(count).open();
        let _set = set(3).unwrap();
        named(set(2).map(drop), "semget", Limit::SemMns);
        let _set = set(1).unwrap();
        named(set(1).map(drop), "semget", Limit::SemMns);

        named(ns.shared::<[AtomicU64; 4096]>().open().map(drop), "shmget", Limit::ShmMax);
        let _two_pages = ns.shared::<[AtomicU64; 1024]>().open().unwrap();
        named(ns.shared::<[AtomicU64; 1024]>().open().map(drop), "shmget", Limit::ShmAll);

        let mqueue =
            |name: &str, messages, size| ns.mqueue(name).create_new(true).size(messages, size).open();
        named(mqueue("/long", 6, 8).map(drop), "mq_open", Limit::MqMsgMax);
        named(mqueue("/wide", 2, 201).map(drop), "mq_open", Limit::MqMsgsizeMax);
        let _queue = mqueue("/one", 2, 8).unwrap();
        named(mqueue("/two", 2, 8).map(drop), "mq_open", Limit::MqQueuesMax);
    })
    .join();
    // Of two limits that may be in the way, it is the one that is.
    fork(|| {
        let ns = Namespace::builder("").limit(Limit::SemMni, 1).limit(Limit::ShmMni, 1).create().unwrap();
        let _set = ns.semaphores(1).open().unwrap();
        assert_eq!(ns.semaphores(1).open().unwrap_err().limit(), Some(Limit::SemMni));
        let _segment = ns.shared::<AtomicU64>().open().unwrap();
        assert_eq!(ns.shared::<AtomicU64>().open().unwrap_err().limit(), Some(Limit::ShmMni));
    })
    .join();
}

/// Answers whoever connects to a socket of that path, once for each of these answers.
fn answer(path: &Path, answers: &[&[u8]]) {
    // SAFETY: a structure that may be zero, filled in below the room it has; descriptors of this function's own.
    unsafe {
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        let text = path.as_os_str().as_encoded_bytes();
        for (to, from) in address.sun_path[..107].iter_mut().zip(text) {
            *to = from.cast_signed();
        }
        let size = size_of_val(&address) as libc::socklen_t;
        let listener = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0);
        assert_eq!(libc::bind(listener, (&raw const address).cast(), size), 0, "{path:?}");
        assert_eq!(libc::listen(listener, 8), 0);
        let answers: Vec<Vec<u8>> = answers.iter().map(|answer| answer.to_vec()).collect();
        std::thread::spawn(move || {
            for answer in answers {
                let link = libc::accept(listener, std::ptr::null_mut(), std::ptr::null_mut());
                libc::send(link, answer.as_ptr().cast(), answer.len(), libc::MSG_NOSIGNAL);
                // It is the asker who closes.
                libc::recv(link, [0u8; 64].as_mut_ptr().cast(), 64, 0);
                libc::recv(link, [0u8; 64].as_mut_ptr().cast(), 64, 0);
                libc::close(link);
            }
        });
    }
}

#[test]
fn one_of_another_version_is_an_error() {
    let name = name("version");
    let (mut made, make) = io::pipe().unwrap();
    let (mut done, finish) = io::pipe().unwrap();
    let maker = fork(|| {
        let _ns = Namespace::builder(&name).create().unwrap();
        (&make).write_all(b"x").unwrap();
        done.read_exact(&mut [0]).unwrap();
    });
    made.read_exact(&mut [0]).unwrap();
    fork(|| {
        let socket = broker::service::Service::join(&name).unwrap().unwrap().socket().to_owned();
        let aside = socket.with_extension("aside");
        fs::rename(&socket, &aside).unwrap();
        // The next layout's name; no name at all; too little.
        let next = (client::wire::MAGIC + 1).to_ne_bytes().repeat(4);
        let answers: [&[u8]; 3] = [&next, &[7; 16], b"hi"];
        answer(&socket, &answers);
        for _ in answers {
            let error = Namespace::open(&name).unwrap_err();
            assert_eq!(error.errno(), libc::EPROTO, "{error}");
            let text = error.to_string();
            assert!(text.contains(&name) && text.contains("another version of ipcspace"), "{text}");
        }
        fs::rename(&aside, &socket).unwrap();
        Namespace::open(&name).unwrap();
    })
    .join();
    (&finish).write_all(b"x").unwrap();
    maker.join();
}

/// The broker of this process's namespace, by whom it has at the other end of a connection.
fn broker() -> i32 {
    let stat = |pid: &str| fs::read_to_string(Path::new("/proc").join(pid).join("comm"));
    let mut all = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let pid = entry.file_name().into_string().ok()?;
        (stat(&pid).ok()? == "ipcspace-broker\n").then(|| pid.parse().ok())?
    });
    // SAFETY: asks for a number.
    let session = |pid: i32| unsafe { libc::getsid(pid) };
    let link = fs::read_dir("/proc/self/fd").unwrap().flatten().find_map(|entry| {
        let fd: i32 = entry.file_name().to_str()?.parse().ok()?;
        let (mut peer, mut len) = (libc::ucred { pid: 0, uid: 0, gid: 0 }, 12);
        // SAFETY: a structure and its length.
        let got = unsafe {
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut len)
        };
        (got == 0 && peer.pid != 0).then_some(peer.pid)
    });
    all.find(|pid| Some(*pid) == link && session(*pid) == *pid).expect("the broker, in a session of its own")
}

#[test]
fn the_broker_keeps_nothing_of_the_programs() {
    let (mut read, write) = io::pipe().unwrap();
    fork(|| {
        Namespace::private().unwrap();
        let fds = fs::read_dir(format!("/proc/{}/fd", broker())).unwrap();
        let links: Vec<_> = fds.flatten().map(|fd| fs::read_link(fd.path()).unwrap_or_default()).collect();
        let own =
            fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&write))).unwrap();
        assert!(!links.contains(&own), "{links:?}");
    })
    .join();
    drop(write);
    // So who waits for the end of the program's output has it with the program.
    assert_eq!(read.read(&mut [0]).unwrap(), 0);
}

#[test]
fn without_its_broker_calls_are_errors() {
    fork(|| {
        let ns = Namespace::private().unwrap();
        let queue = ns.queue(Key::PRIVATE).open().unwrap();
        // SAFETY: our own broker.
        unsafe { libc::kill(broker(), libc::SIGKILL) };
        // Who is there goes on, who comes later can't.
        queue.send(MsgType::FIRST, b"still").unwrap();
        fork(|| assert_eq!(queue.status().unwrap_err().errno(), libc::ENOSYS)).join();
        assert!(ns.shared::<[std::sync::atomic::AtomicU8; 9]>().open().is_err());
    })
    .join();
}

#[test]
fn it_ends_with_the_last_who_is_in_it() {
    let name = name("last");
    let (mut made, make) = io::pipe().unwrap();
    let last = fork(|| {
        Namespace::builder(&name).create().unwrap();
        (&make).write_all(b"x").unwrap();
        loop {
            std::thread::park();
        }
    });
    made.read_exact(&mut [0]).unwrap();
    assert_eq!(open_elsewhere(&name), 0);
    last.kill();
    let begun = std::time::Instant::now();
    while !matches!(open_elsewhere(&name), libc::ENOENT) {
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "it is still there");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The error number of opening it in a process that ends at once; 0 if it is there.
fn open_elsewhere(name: &str) -> i32 {
    let (mut read, write) = io::pipe().unwrap();
    fork(|| {
        let errno = Namespace::open(name).map_or_else(|error| error.errno(), |_| 0);
        (&write).write_all(&errno.to_ne_bytes()).unwrap();
    })
    .join();
    let mut errno = [0; 4];
    read.read_exact(&mut errno).unwrap();
    i32::from_ne_bytes(errno)
}
