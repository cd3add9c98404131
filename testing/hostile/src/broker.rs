//! What the broker holds, before and after.

use std::error::Error;
use std::ffi::CString;
use std::time::{Duration, Instant};
use std::{fs, thread};

use abi::Errno;
use engine::{IpcNamespace, Usage, mqueue, usage};

use crate::user::{Process, status};

/// What the dead left is put right after this time, on however busy a machine. Who has to be waited for in the middle of a call, for 10 s at most.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a broker holds that it should give back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) descriptors: usize,
    threads: u64,
    /// Blocks of the arena in use, by size class.
    blocks: Vec<u32>,
}

/// The broker: this process's parent.
pub(crate) fn pid() -> u32 {
    std::os::unix::process::parent_id()
}

/// Has the broker make what it makes once: a stranger uses one of each kind, and sleeps.
pub(crate) fn warm_up(uid: u32) -> Result<(), Box<dyn Error>> {
    let used = Process::start(uid, || {
        let sleep = libc::timespec { tv_sec: 0, tv_nsec: 1000 };
        let mut op = libc::sembuf { sem_num: 0, sem_op: -1, sem_flg: 0 };
        // SAFETY: numbers, a structure each for the sleep and the operation, and null where nothing is read.
        let done = unsafe {
            let (queue, set, segment) =
                (libc::msgget(0, 0o600), libc::semget(0, 1, 0o600), libc::shmget(0, 1, 0o600));
            libc::syscall(libc::SYS_semtimedop, set, &raw mut op, 1, &raw const sleep);
            let mqd = libc::mq_open(c"/warm".as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600, 0);
            libc::mq_send(mqd, c"".as_ptr(), 0, 0) == 0
                && libc::mq_unlink(c"/warm".as_ptr()) == 0
                && libc::mq_close(mqd) == 0
                && libc::shmdt(libc::shmat(segment, std::ptr::null(), 0)) == 0
                && libc::msgctl(queue, libc::IPC_RMID, std::ptr::null_mut()) == 0
                && libc::semctl(set, 0, libc::IPC_RMID) == 0
                && libc::shmctl(segment, libc::IPC_RMID, std::ptr::null_mut()) == 0
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
    })?;
    if used.wait() { Ok(()) } else { Err("a stranger is not served at all".into()) }
}

/// How many descriptors it has open.
pub(crate) fn descriptors() -> std::io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", pid()))?.count())
}

fn look() -> Result<Held, Box<dyn Error>> {
    const SHM_INFO: i32 = 14;
    let mut info = [0u64; 16];
    // The broker looks for segments that are over when it is asked how much there is.
    // SAFETY: there is room for the structure.
    unsafe { libc::shmctl(0, SHM_INFO, info.as_mut_ptr().cast()) };
    let blocks = client::with(|ctx| ctx.usage().map_err(engine::util::arena_errno)).map_err(named)?.blocks;
    Ok(Held { descriptors: descriptors()?, threads: status(pid(), "Threads"), blocks: blocks.to_vec() })
}

fn named(error: Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(error.raw())
}

/// What it holds when it has come to rest.
pub(crate) fn held() -> Result<Held, Box<dyn Error>> {
    let mut last = look()?;
    loop {
        thread::sleep(Duration::from_millis(100));
        let now = look()?;
        if now == last {
            return Ok(now);
        }
        last = now;
    }
}

/// Whether it comes to hold no more than before, when all objects but one are removed; says so if not.
pub(crate) fn gives_all_back(before: &Held, kept: i32) -> Result<bool, Box<dyn Error>> {
    let started = Instant::now();
    loop {
        // Of who was killed a call may be under way still.
        remove_all_but(kept)?;
        let now = look()?;
        // Slots of threads and processes stay, to be used again.
        let more = now.blocks.iter().zip(&before.blocks).any(|(now, before)| now > before);
        if now.descriptors <= before.descriptors && now.threads <= before.threads && !more {
            return Ok(true);
        }
        if started.elapsed() > PATIENCE {
            eprintln!("the broker holds {now:?}, before it were {before:?}");
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// What a user has made.
///
/// # Errors
/// The arena makes no sense.
pub(crate) fn usage_of(uid: u32) -> Result<Usage, Box<dyn Error>> {
    Ok(client::with(|ctx| usage::of_user(ctx, uid)).map_err(named)?)
}

/// Removes all objects but those.
fn remove_all_but(kept: i32) -> Result<(), Box<dyn Error>> {
    let used = client::with(|ctx| {
        let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
        Ok([&ns.msg_ids, &ns.sem_ids, &ns.shm_ids].map(|ids| {
            let mut from = 0;
            std::iter::from_fn(|| {
                let at = ids.next_used(from)?;
                from = at + 1;
                i32::try_from(at).ok()
            })
            .collect::<Vec<_>>()
        }))
    });
    let [queues, sets, segments] = used.map_err(named)?;
    while let Some((_, queue)) = client::with(|ctx| mqueue::next_queue(ctx, 0)).map_err(named)? {
        let name: Vec<u8> = b"/".iter().copied().chain(queue.name()).collect();
        // SAFETY: a terminated string.
        if unsafe { libc::mq_unlink(CString::new(name)?.as_ptr()) } != 0 {
            break;
        }
    }
    // Whatever has gone meanwhile need not be removed.
    for at in queues {
        let mut stat = std::mem::MaybeUninit::<libc::msqid_ds>::uninit();
        // SAFETY: there is room for the structure.
        let id = unsafe { libc::msgctl(at, 11, stat.as_mut_ptr()) };
        if id >= 0 && id != kept {
            // SAFETY: no memory is passed.
            unsafe { libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
        }
    }
    for at in sets {
        let mut stat = std::mem::MaybeUninit::<libc::semid_ds>::uninit();
        // SAFETY: there is room for the structure.
        let id = unsafe { libc::semctl(at, 0, 18, stat.as_mut_ptr()) };
        // SAFETY: no memory is passed.
        unsafe { libc::semctl(id, 0, libc::IPC_RMID) };
    }
    for at in segments {
        let mut stat = std::mem::MaybeUninit::<libc::shmid_ds>::uninit();
        // SAFETY: there is room for the structure.
        let id = unsafe { libc::shmctl(at, 13, stat.as_mut_ptr()) };
        // SAFETY: no memory is passed.
        unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    }
    Ok(())
}
