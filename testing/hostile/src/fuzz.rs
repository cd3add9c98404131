//! Random messages to the broker, and random answers to what it asks.

use std::collections::VecDeque;
use std::error::Error;
use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use std::{io, thread};

use abi::syscall as nr;
use client::wire::{self, calls};
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::broker;
use crate::link::{Link, bytes_of, given_path, socket_path, words_of};
use crate::user::Process;

const UID: u32 = 3005;
/// Connections at a time: so few that the older ones are not forgotten.
const LINKS: usize = 12;
/// After how long it has to be served again, whoever means no harm.
const SERVES_AGAIN: Duration = Duration::from_secs(10);
/// What the owner's queue holds all the time.
const TEXT: [u64; 2] = [5, 0x756e_6861_726d_6564];

/// Send random messages to the broker
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Limits that are met.
pub(crate) fn sysctls() -> Vec<String> {
    vec!["ipcspace.stranger_objects=20".to_owned(), "ipcspace.stranger_bytes=200000".to_owned()]
}

/// Whether the broker took no harm.
pub(crate) fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    broker::warm_up(UID)?;
    // SAFETY: passes numbers.
    let queue = unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) };
    // SAFETY: a message of 8 bytes behind its type.
    if queue < 0 || unsafe { libc::msgsnd(queue, TEXT.as_ptr().cast(), 8, 0) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    let before = broker::held()?;
    let ended = Instant::now() + Duration::from_secs(options.seconds);
    let (mut held, mut rounds) = (true, 0);
    while held && Instant::now() < ended {
        let seed = options.seed.wrapping_add(rounds);
        // SAFETY: no memory is passed.
        let process = Process::start(UID, || Fuzzer::new(seed).run(Duration::from_secs(1)))?;
        held &= process.wait() && is_unharmed(queue)?;
        if !held {
            println!("seed {seed}: the broker serves no more, or somebody else's queue has changed");
        }
        rounds += 1;
    }
    held &= broker::gives_all_back(&before, queue)?;
    println!("{rounds} rounds from seed {}: {}", options.seed, if held { "no harm" } else { "harm" });
    Ok(held)
}

/// Whether the owner's queue is as it was.
fn is_unharmed(queue: i32) -> Result<bool, Box<dyn Error>> {
    let mut stat = std::mem::MaybeUninit::<libc::msqid_ds>::zeroed();
    let mut text = [0u64; 2];
    let at = text.as_mut_ptr();
    // SAFETY: room for the structure, which is all zeros otherwise, and for the message.
    let stat = unsafe {
        if libc::msgctl(queue, libc::IPC_STAT, stat.as_mut_ptr()) != 0
            || libc::msgrcv(queue, at.cast(), 8, 0, libc::IPC_NOWAIT) != 8
            || libc::msgsnd(queue, at.cast(), 8, 0) != 0
        {
            return Ok(false);
        }
        stat.assume_init()
    };
    Ok(text == TEXT && stat.msg_qnum == 1 && stat.msg_perm.mode == 0o600 && stat.msg_perm.uid == 0)
}

/// Whether somebody of the same user, who means no harm, is served still.
fn is_served() -> Result<(), Box<dyn Error>> {
    let link = Link::connect(&socket_path(), true)?;
    link.ask(wire::ASK_CALLS, [0; 2])?;
    link.wait(Duration::from_secs(10))?;
    link.receive(&mut [0; 64])?;
    link.call(nr::MSGGET, &[0x5eed, 0])?;
    link.wait(Duration::from_secs(10))?;
    match words_of(link.receive(&mut [0; 256])?)[..] {
        [calls::ANSWER, ..] => Ok(()),
        ref other => Err(format!("a call was answered by {other:?}").into()),
    }
}

struct Fuzzer {
    random: Xoshiro256PlusPlus,
    links: VecDeque<Link>,
    file: Option<File>,
    /// Descriptors of POSIX queues that it was given.
    queues: VecDeque<File>,
    /// Bytes to be sent.
    noise: Vec<u8>,
}

impl Fuzzer {
    fn new(seed: u64) -> Fuzzer {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut noise = vec![0; calls::BYTES_MAX + 4096];
        random.fill_bytes(&mut noise);
        Fuzzer {
            random,
            links: VecDeque::new(),
            file: File::open("/dev/null").ok(),
            queues: VecDeque::new(),
            noise,
        }
    }

    fn run(&mut self, time: Duration) -> Result<(), Box<dyn Error>> {
        let ended = Instant::now() + time;
        while Instant::now() < ended {
            match self.random.random_range(0..20) {
                0 => self.come(),
                1 if self.links.len() > 1 => drop(self.links.pop_front()),
                2 => self.give(),
                _ => self.speak(),
            }
        }
        self.links.clear();
        let ended = Instant::now() + SERVES_AGAIN;
        loop {
            match is_served() {
                // Those before may still be at the door.
                Err(_) if Instant::now() < ended => thread::sleep(Duration::from_millis(10)),
                served => return served,
            }
        }
    }

    /// A number that somebody may have forgotten.
    fn number(&mut self) -> u64 {
        const ODD: [u64; 12] = [
            0,
            1,
            8,
            4096,
            65535,
            65536,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            1 << 62,
            u64::MAX - 4095,
            u64::MAX,
        ];
        match self.random.random_range(0..3) {
            0 => *ODD.choose(&mut self.random).unwrap_or(&0),
            1 => self.random.random_range(0..40),
            _ => self.random.next_u64() >> self.random.random_range(0..64),
        }
    }

    fn come(&mut self) {
        let Ok(link) = Link::connect(&socket_path(), false) else { return };
        let which =
            if self.random.random_ratio(4, 5) { wire::ASK_CALLS } else { self.random.random_range(0..40) };
        let magic = if self.random.random_ratio(19, 20) { wire::MAGIC } else { self.random.next_u32() };
        let mut question =
            wire::encode([magic, which, self.random.next_u32(), self.random.next_u32()]).to_vec();
        if self.random.random_ratio(1, 10) {
            let length = self.random.random_range(0..400);
            question.extend_from_slice(&self.noise[..400]);
            question.truncate(length);
        }
        let file = self.some_files();
        let _ = link.send(&question, file.as_ref().map(|(file, count)| (file.as_fd(), *count)));
        self.links.push_back(link);
        if self.links.len() > LINKS {
            self.links.pop_front();
        }
    }

    /// A file to be sent, and how often: mostly once, where it is meant to be.
    fn some_files(&mut self) -> Option<(File, usize)> {
        /// The kernel's SCM_MAX_FD.
        const MOST: usize = 253;
        if !self.random.random_ratio(1, 20) {
            return None;
        }
        let count = if self.random.random_ratio(1, 4) { self.random.random_range(0..=MOST) } else { 1 };
        Some((self.file.as_ref()?.try_clone().ok()?, count))
    }

    /// Says something where files are given.
    fn give(&mut self) {
        let Ok(link) = Link::connect(&given_path(), false) else { return };
        let length = self.random.random_range(0..40);
        let mut message = wire::encode([wire::MAGIC, wire::GIVE_MEMORY, self.random.next_u32(), 0]).to_vec();
        message.resize(length, 7);
        let file = self.some_files();
        let _ = link.send(&message, file.as_ref().map(|(file, count)| (file.as_fd(), *count)));
    }

    /// Says something at one of the connections, and looks at what comes.
    fn speak(&mut self) {
        let Some(link) = self.links.pop_front() else {
            self.come();
            thread::sleep(Duration::from_micros(200));
            return;
        };
        let mut room = vec![0; calls::BYTES_MAX + 256];
        let asked = match link.receive_with(&mut room) {
            Ok(([], _)) => return,
            Ok((bytes, file)) => {
                self.keep(file);
                words_of(bytes)
            }
            Err(_) => Vec::new(),
        };
        let (mut head, mut memory) = self.message(&asked);
        if self.random.random_ratio(1, 30) {
            let at = self.random.random_range(0..head.len());
            head[at] = self.number();
        }
        if self.random.random_ratio(1, 30) {
            let length = usize::try_from(self.number()).unwrap_or(0);
            memory = self.noise(length);
        }
        let mut bytes = bytes_of(&head);
        bytes.extend_from_slice(&memory);
        if self.random.random_ratio(1, 50) {
            bytes.truncate(self.random.random_range(0..bytes.len()));
        }
        let is_of_queue = head[0] == calls::CALL && calls::ON_QUEUES.contains(&head[1].cast_signed());
        let queue = if is_of_queue && self.random.random_ratio(9, 10) { self.some_queue() } else { None };
        let file = queue.or_else(|| self.some_files());
        let _ = link.send(&bytes, file.as_ref().map(|(file, count)| (file.as_fd(), *count)));
        self.links.push_back(link);
    }

    /// Keeps a file that came: a queue's, or a segment's.
    fn keep(&mut self, file: Option<File>) {
        const KEPT: usize = 6;
        self.queues.extend(file);
        if self.queues.len() > KEPT {
            self.queues.pop_front();
        }
    }

    fn some_queue(&mut self) -> Option<(File, usize)> {
        let at = self.random.random_range(0..self.queues.len().max(1));
        Some((self.queues.get(at)?.try_clone().ok()?, 1))
    }

    fn noise(&self, length: usize) -> Vec<u8> {
        self.noise[..length.min(self.noise.len())].to_vec()
    }

    /// A head, and the bytes that follow it: mostly what could be meant.
    fn message(&mut self, asked: &[u64]) -> ([u64; calls::HEAD], Vec<u8>) {
        let mut head = [0; calls::HEAD];
        match asked {
            // What was asked for is answered, more or less.
            [calls::FETCH, _, length, ..] if self.random.random_ratio(9, 10) => {
                head[0] = calls::DONE;
                return (head, self.noise(usize::try_from(*length).unwrap_or(0).min(calls::BYTES_MAX)));
            }
            [calls::MAP | calls::UNMAP, ..] if self.random.random_ratio(9, 10) => {
                let unmap = self.random.random_ratio(1, 2);
                head[0] = if unmap { calls::LOOK_UP } else { calls::DONE };
                head[1] = if self.random.random_ratio(1, 2) { 0 } else { self.number() };
                head[2] = self.number();
                return (head, Vec::new());
            }
            _ => {}
        }
        match self.random.random_range(0..12) {
            0 => head[0] = calls::INTERRUPT,
            1 => head[..2].copy_from_slice(&[calls::DONE, self.number()]),
            2 => head.fill_with(|| self.number()),
            _ => return self.call(),
        }
        (head, Vec::new())
    }

    /// A call that makes some sense.
    fn call(&mut self) -> ([u64; calls::HEAD], Vec<u8>) {
        const NUMBERS: [i64; 26] = [
            nr::MSGGET,
            nr::MSGSND,
            nr::MSGRCV,
            nr::MSGCTL,
            nr::SEMGET,
            nr::SEMTIMEDOP,
            nr::SEMCTL,
            nr::SHMGET,
            nr::SHMAT,
            nr::SHMDT,
            nr::SHMCTL,
            nr::MQ_OPEN,
            nr::MQ_UNLINK,
            nr::MQ_TIMEDSEND,
            nr::MQ_TIMEDRECEIVE,
            nr::MQ_NOTIFY,
            nr::MQ_GETSETATTR,
            calls::MQ_CLOSED,
            calls::MQ_WATCH,
            calls::MQ_NOTIFY_THREAD,
            calls::MQ_STAT,
            calls::SHM_UNMAPPED,
            calls::SHM_FORK,
            calls::SHOW,
            calls::MAY_WRITE,
            calls::WRITE,
        ];
        let number = *NUMBERS.choose(&mut self.random).unwrap_or(&nr::MSGGET);
        let mut head = [0; calls::HEAD];
        head[0] = calls::CALL;
        head[1] = number.cast_unsigned();
        for register in &mut head[2..8] {
            *register = self.number();
        }
        match number {
            // So that there is something to be used.
            nr::MSGGET | nr::SEMGET | nr::SHMGET => head[2] = self.random.random_range(0..8),
            nr::MSGSND | nr::MSGRCV if self.random.random_ratio(3, 4) => {
                head[4] = self.random.random_range(0..9000);
                head[6] |= 0o4000;
            }
            // There are no attributes.
            nr::MQ_OPEN => {
                head[3] |= self.random.random_range(0..3) | 0o100;
                head[5] = 0;
            }
            nr::MQ_TIMEDSEND | nr::MQ_TIMEDRECEIVE => head[4] = self.random.random_range(0..9000),
            _ => {}
        }
        let mut memory = Vec::new();
        if matches!(number, nr::MQ_OPEN | nr::MQ_UNLINK) && self.random.random_ratio(3, 4) {
            memory = format!("fuzz{}\0", self.random.random_range(0..4)).into_bytes();
            head[8] = head[2];
        } else if self.random.random_ratio(1, 2) {
            let length = self.random.random_range(0..300);
            memory = self.noise(length);
            head[8] = if number == calls::WRITE { head[4] } else { head[3] };
        }
        head[10] = memory.len() as u64;
        if number == calls::WRITE {
            head[5] = head[10];
        }
        (head[11], head[12]) = (self.number(), self.number());
        (head, memory)
    }
}
