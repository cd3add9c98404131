//! Random bytes of the arena are overwritten while clients are at work in it.
//!
//! What must hold (SECURITY.md): calls may answer anything, but nobody dies of a signal, nobody goes round in circles, neither a client
//! nor the broker, and nothing is written behind the program's buffer. Who waits for a lock whose word was overwritten may wait for
//! ever, if what tells the broker of it was overwritten too: these rounds are counted apart.
//! Each round has a namespace of its own. A place is taken at random among the pages that have been written to.
//!
//! Missing: segments' contents, which are the programs' own.

use std::error::Error;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use clap::Args;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::ipc::{self, Message, TEXT_SIZE, op};
use crate::poison::arena;

/// Overwrite random bytes of the arena under running clients
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// How many namespaces are spoilt
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Clients of a round.
const CLIENTS: u64 = 4;
/// Bytes overwritten in a round.
const FLIPS: u32 = 40;
/// How long the clients of a round work.
const ROUND: Duration = Duration::from_millis(120);
/// How long a round may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who is seen in the same place so often stays there.
const LOOKS: u32 = 10;
/// A blocking call is interrupted by a signal so often.
const TICK_US: i64 = 3000;
/// Keys of the objects.
const KEYS: i32 = 4;

/// Whether nothing happened that must not.
pub(crate) fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    let (mut violations, mut stuck) = (0, 0);
    for seed in (options.seed..).take(options.rounds as usize) {
        let mut round = Command::new(crate::door::ipcspace()?)
            .args(["run", "--"])
            .arg(env::current_exe()?)
            .args(["--door", "inside", "flip-round", &seed.to_string()])
            .spawn()?;
        match await_end(&mut round)? {
            End::Ended(status) if status.success() => {}
            End::Ended(status) => {
                println!("round {seed}: {status}");
                violations += 1;
            }
            End::Stuck(who) => {
                println!("round {seed}: waits for a lock: {who}");
                stuck += 1;
            }
            End::Runs(who) => {
                println!("round {seed}: does not end: {who}");
                violations += 1;
            }
        }
    }
    println!("{} rounds, {stuck} of them stuck at a lock, {violations} violations", options.rounds);
    Ok(violations == 0)
}

enum End {
    Ended(ExitStatus),
    /// It can't go on, as this client waits for a lock.
    Stuck(String),
    /// It could go on, but does not end.
    Runs(String),
}

fn await_end(round: &mut Child) -> Result<End, Box<dyn Error>> {
    let start = Instant::now();
    while start.elapsed() < ROUND + PATIENCE {
        if let Some(status) = round.try_wait()? {
            return Ok(End::Ended(status));
        }
        thread::sleep(Duration::from_millis(2));
    }
    let mut processes = vec![round.id()];
    let mut at = 0;
    while let Some(pid) = processes.get(at) {
        processes.extend(children(*pid));
        at += 1;
    }
    let look = || -> Vec<String> { processes.iter().flat_map(|pid| threads(*pid)).collect() };
    let mut always = look();
    for _ in 0..LOOKS {
        thread::sleep(Duration::from_millis(20));
        let now = look();
        always.retain(|thread| now.contains(thread));
    }
    // A friend can keep another waiting for a lock for ever; not the broker.
    let waits = always.iter().find(|thread| waits_for_lock(thread));
    let bad = |thread: &&String| {
        thread.contains(": running") || thread.contains(" ipcspace-broker:") && waits_for_lock(thread)
    };
    let end = match (always.iter().find(bad), waits) {
        (Some(who), _) => End::Runs(who.clone()),
        (None, Some(who)) => End::Stuck(who.clone()),
        (None, None) => End::Runs(look().join("\n")),
    };
    for pid in processes.iter().skip(1) {
        // The tree is of our own making, and its root is still there.
        ipc::kill(pid.cast_signed(), libc::SIGKILL);
    }
    round.kill()?;
    round.wait()?;
    Ok(end)
}

fn children(pid: u32) -> Vec<u32> {
    let lists = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let list = lists.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    list.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The threads of a process, each with the system call it is in.
fn threads(pid: u32) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let read = |thread: fs::DirEntry| {
        let of = |file: &str| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        let id = thread.file_name();
        format!("{} {}: {}", id.display(), of("comm").trim_end(), of("syscall").trim_end())
    };
    threads.map(read).collect()
}

/// Whether it is in futex(2) on a word that names an owner and says that somebody waits.
fn waits_for_lock(thread: &str) -> bool {
    let arguments = thread.rsplit(": ").next().unwrap_or_default();
    let mut fields = arguments.split(' ');
    fields.next() == Some("202")
        && fields.nth(2).is_some_and(|value| value.len() == 10 && value.starts_with("0x8"))
}

/// One round, in a namespace of its own.
pub(crate) fn round(seed: u64) -> Result<bool, Box<dyn Error>> {
    let arena = arena()?;
    let end = Instant::now() + ROUND;
    let clients: Vec<_> =
        (0..CLIENTS).map(|i| ipc::fork(|| live(seed ^ (i + 1) << 32, end))).collect::<Result<_, _>>()?;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    // They attach first, and make something.
    thread::sleep(ROUND / 6);
    for _ in 0..FLIPS {
        flip(&arena, &mut random)?;
        thread::sleep(ROUND / (FLIPS + FLIPS / 3));
    }
    let mut held = true;
    for client in clients {
        let status = ipc::wait(client);
        if status != 0 {
            println!("round {seed}: client {client}: {}", ipc::ended(status));
            held = false;
        }
    }
    Ok(held)
}

/// Overwrites one to eight bytes, most often where something is.
fn flip(arena: &File, random: &mut Xoshiro256PlusPlus) -> Result<(), Box<dyn Error>> {
    /// How many places may be found to be zero.
    const EMPTY: u32 = 30;
    let pages = pages(arena)?;
    let Some(&first) = pages.first() else { return Ok(()) };
    let (mut at, mut before) = (0, 0);
    for _ in 0..EMPTY {
        let page = pages.get(random.random_range(0..pages.len())).unwrap_or(&first);
        at = page + random.random_range(0..512) * 8;
        let mut word = [0; 8];
        arena.read_exact_at(&mut word, at)?;
        before = u64::from_ne_bytes(word);
        if before != 0 {
            break;
        }
    }
    let after = match random.random_range(0..6) {
        0 => before ^ 1 << random.random_range(0..64),
        1 => before.wrapping_add(1),
        2 => u64::MAX,
        3 => random.random(),
        4 => before.swap_bytes(),
        // Small numbers are handles and counts that make sense elsewhere.
        _ => random.random_range(0..4096),
    };
    let length = [1, 4, 8][random.random_range(0..3)];
    arena.write_all_at(&after.to_ne_bytes()[..length], at)?;
    Ok(())
}

/// Where the pages are that have been written to.
fn pages(arena: &File) -> Result<Vec<u64>, Box<dyn Error>> {
    const PAGE: i64 = 4096;
    let mut pages = Vec::new();
    let mut hole = 0;
    // SAFETY: only numbers are passed.
    let seek = |from, whence| unsafe { libc::lseek(arena.as_raw_fd(), from, whence) };
    loop {
        let data = seek(hole, libc::SEEK_DATA);
        if data < 0 {
            return Ok(pages);
        }
        hole = seek(data, libc::SEEK_HOLE);
        if hole <= data {
            return Err(io::Error::last_os_error().into());
        }
        pages.extend((data..hole).step_by(PAGE as usize).map(|at| at as u64));
    }
}

/// A message with something behind it that must stay.
#[repr(C)]
struct Guarded {
    message: Message,
    guard: [u8; 64],
}

/// What a client does; the exit code.
fn live(seed: u64, end: Instant) -> i32 {
    ipc::interrupt_every(TICK_US);
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut buffer = Box::new(Guarded { message: Message::new(), guard: [0xa5; 64] });
    let mut until_child = 200;
    while Instant::now() < end {
        act(&mut random, &mut buffer.message);
        until_child -= 1;
        if until_child == 0 {
            // A process that is new to the arena, and one that dies in it.
            let seed = random.random();
            let kills = random.random();
            let Ok(child) = ipc::fork(|| live(seed, Instant::now() + Duration::from_millis(10))) else {
                continue;
            };
            if kills {
                ipc::kill(child, libc::SIGKILL);
            }
            let status = ipc::wait(child);
            if status != 0 && !(kills && libc::WTERMSIG(status) == libc::SIGKILL) {
                println!("a child of a client: {}", ipc::ended(status));
                return 3;
            }
            until_child = 200;
        }
    }
    if buffer.guard == [0xa5; 64] { 0 } else { 2 }
}

/// A call, whatever it answers.
fn act(random: &mut Xoshiro256PlusPlus, message: &mut Message) {
    let key = random.random_range(1..=KEYS);
    let nowait = if random.random_ratio(7, 8) { libc::IPC_NOWAIT } else { 0 };
    let most = if random.random_ratio(1, 8) { TEXT_SIZE } else { 200 };
    let size = random.random_range(0..=most);
    let make = if random.random_ratio(1, 50) { libc::IPC_CREAT | 0o600 } else { 0 };
    let queue = ipc::msgget(key, make);
    match random.random_range(0..46) {
        40.. => act_on_posix_queue(random, message, size),
        0..12 => {
            message.mtype = random.random_range(1..9);
            let _ = queue.and_then(|q| ipc::msgsnd(q, message, size, nowait));
        }
        12..24 => {
            let mtype = random.random_range(-8..9);
            let flags = nowait | libc::MSG_NOERROR;
            let _ = queue.and_then(|q| ipc::msgrcv(q, message, size, mtype, flags));
        }
        24 => drop(queue.and_then(ipc::msg_stat)),
        25 => drop(ipc::msg_info()),
        26 if random.random_ratio(1, 8) => drop(queue.and_then(ipc::msg_remove)),
        27 => drop(ipc::sem_info()),
        28 => drop(ipc::msg_at(random.random_range(0..8))),
        29 => drop(ipc::sem_at(random.random_range(0..8))),
        30 => {
            let segment = ipc::shmget(key, 8192, make);
            if let Ok(attached) = segment.and_then(|segment| ipc::shmat(segment, 0)) {
                let _ = attached.detach();
            }
            if random.random_ratio(1, 8) {
                let _ = segment.and_then(ipc::shm_remove);
            }
        }
        kind => {
            let Ok(set) = ipc::semget(key, 5, make) else { return };
            let undo = if random.random() { libc::SEM_UNDO } else { 0 };
            let down = [-1, 1][random.random_range(0..2)];
            let mut ops = [
                op(random.random_range(0..5), down, nowait | undo),
                op(random.random_range(0..5), -down, nowait),
            ];
            let _ = match kind {
                31 => ipc::sem_query(set, 0, libc::GETNCNT).map(drop),
                32 => ipc::sem_set_all(set, &[1; 5]),
                33 if random.random_ratio(1, 8) => ipc::sem_remove(set),
                34 | 35 => ipc::semtimedop(set, &mut ops, 2),
                _ => ipc::semop(set, &mut ops[..random.random_range(1..=2)]),
            };
        }
    }
}

/// Likewise. Nothing waits for longer than a moment.
fn act_on_posix_queue(random: &mut Xoshiro256PlusPlus, message: &mut Message, size: usize) {
    let name = [c"/flip-1", c"/flip-2"][random.random_range(0..2)];
    let make = if random.random_ratio(1, 4) { libc::O_CREAT } else { 0 };
    let wait = if random.random_ratio(1, 4) { 0 } else { libc::O_NONBLOCK };
    let Ok(fd) = ipc::mq_open(name, libc::O_RDWR | make | wait, 4, TEXT_SIZE as i64) else { return };
    message.mtype = random.random_range(0..6);
    for _ in 0..random.random_range(0..3) {
        let _ = match random.random_range(0..6) {
            0..3 if wait != 0 => ipc::mq_send(fd, message, size),
            0..5 => ipc::mq_timedreceive(fd, message, 2).map(drop),
            _ => ipc::mq_notify(fd, random.random()),
        };
    }
    let _ = ipc::mq_attributes(fd);
    if random.random_ratio(1, 16) {
        let _ = ipc::mq_unlink(name);
    }
    let _ = ipc::mq_close(fd);
}
