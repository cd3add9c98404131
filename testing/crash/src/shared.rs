//! The ledger: memory shared by driver and clients in which each client notes what it is about to do and what it did.
//!
//! It is an ordinary shared mapping, made before the first fork, and no part of what is tested. Everything in it is
//! an atomic, for a client may be killed between any two stores.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize};
use std::{io, mem, ptr};

use crate::ipc::{Message, TEXT_SIZE};
use crate::matching::Receive;
use crate::queue::Queue;

pub(crate) const CLIENTS: usize = 12;
/// Of one client.
pub(crate) const THREADS: usize = 3;
/// Of System V.
pub(crate) const SYSV_QUEUES: usize = 4;
/// With those of POSIX, which come after them.
pub(crate) const QUEUES: usize = SYSV_QUEUES + 2;
pub(crate) const MUTEXES: usize = 4;
pub(crate) const TYPES: i64 = 6;
/// Messages of one epoch; senders stop when they are used up.
const LETTERS: usize = 1 << 24;
const REPORTS: usize = 40;
const REPORT_SIZE: usize = 240;

/// The index of messages that only wake someone.
pub(crate) const POISON: u32 = u32::MAX;

// What has happened to a message.
const SENDING: u8 = 1;
const SENT: u8 = 2;
const RECEIVED: u8 = 4;

/// The key of the segment that is attached for a while: mappings of it have the key in their name.
pub(crate) const HELD_KEY: i32 = 0x6373_0000;

/// All that driver and clients share.
pub(crate) struct Shared {
    /// Clients do nothing new, and end.
    pub(crate) finishing: AtomicBool,
    /// The prober has seen `finishing`, and is in no call.
    pub(crate) prober_rests: AtomicBool,
    /// Moves as long as the driver does.
    pub(crate) heartbeat: AtomicU64,
    pub(crate) kills: AtomicU64,
    pub(crate) stops: AtomicU64,
    pub(crate) violations: AtomicU64,
    /// Of the healthy prober's calls that never wait.
    pub(crate) latency_ns_max: AtomicU64,
    /// An identifier; of a POSIX queue a descriptor that everybody inherits.
    queues: [AtomicI32; QUEUES],
    /// Another descriptor of a POSIX queue, which never waits.
    nonblocking: [AtomicI32; QUEUES],
    pub(crate) mutexes: AtomicI32,
    pub(crate) pools: AtomicI32,
    pub(crate) transfers: AtomicI32,
    /// A segment that clients have attached for a while, under [`HELD_KEY`].
    pub(crate) held: AtomicI32,
    /// The tag of who is in the critical section of each mutex.
    pub(crate) owners: [AtomicU64; MUTEXES],
    pub(crate) clients: [Client; CLIENTS],
    pub(crate) letters_used: AtomicU32,
    letters: [AtomicU8; LETTERS],
    reports: [Report; REPORTS],
}

/// A place that one client process after the other fills.
pub(crate) struct Client {
    pub(crate) pid: AtomicI32,
    /// Counts the processes of this place.
    pub(crate) incarnation: AtomicU64,
    /// Incarnations up to this one are dead, or will be before they do anything more that matters.
    pub(crate) doomed: AtomicU64,
    pub(crate) threads: [Activity; THREADS],
}

/// What a thread is in the middle of.
pub(crate) struct Activity {
    kind: AtomicU32,
    object: AtomicUsize,
    detail: AtomicI64,
    except: AtomicBool,
    /// Operations begun.
    pub(crate) count: AtomicU64,
}

/// What a thread can be in the middle of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Doing {
    Nothing,
    /// Receiving from one of the lasting queues.
    Receive(Receive),
    /// Sending to one of the lasting queues, so many bytes.
    Send {
        queue: usize,
        size: usize,
    },
    /// Waiting for a mutex, holding or releasing it.
    Mutex(usize),
    /// Taking from the pools, or giving back.
    Pool,
    /// Moving a unit away from this semaphore.
    Transfer(usize),
    /// Something with objects that come and go.
    Churn,
}

impl Activity {
    pub(crate) fn begin(&self, doing: Doing) {
        self.kind.store(0, SeqCst);
        let (kind, object, detail) = match doing {
            Doing::Nothing => (0, 0, 0),
            Doing::Receive(receive) => {
                self.except.store(receive.except, SeqCst);
                (1, receive.queue, receive.mtype)
            }
            Doing::Send { queue, size } => (2, queue, size as i64),
            Doing::Mutex(mutex) => (3, mutex, 0),
            Doing::Pool => (4, 0, 0),
            Doing::Transfer(from) => (5, from, 0),
            Doing::Churn => (6, 0, 0),
        };
        self.object.store(object, SeqCst);
        self.detail.store(detail, SeqCst);
        self.count.fetch_add(1, SeqCst);
        // Last, so that whoever sees the kind sees the rest too.
        self.kind.store(kind, SeqCst);
    }

    pub(crate) fn end(&self) {
        self.kind.store(0, SeqCst);
    }

    /// Exact once the thread is dead or asleep.
    pub(crate) fn doing(&self) -> Doing {
        let (object, detail) = (self.object.load(SeqCst), self.detail.load(SeqCst));
        match self.kind.load(SeqCst) {
            1 => Doing::Receive(Receive { queue: object, mtype: detail, except: self.except.load(SeqCst) }),
            2 => Doing::Send { queue: object, size: detail as usize },
            3 => Doing::Mutex(object),
            4 => Doing::Pool,
            5 => Doing::Transfer(object),
            6 => Doing::Churn,
            _ => Doing::Nothing,
        }
    }
}

/// What a message is follows from its index, so its sender and its receiver agree on it without talking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Letter {
    pub(crate) index: u32,
    pub(crate) queue: usize,
    pub(crate) mtype: i64,
    pub(crate) size: usize,
}

impl Letter {
    pub(crate) fn of(index: u32) -> Letter {
        // SplitMix64's finish: spreads neighbours.
        let mut bits = u64::from(index).wrapping_add(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let longest = [16, 64, 256, 1024, 2048, 4096, TEXT_SIZE][(bits >> 16) as usize % 7];
        Letter {
            index,
            queue: bits as usize % QUEUES,
            mtype: 1 + (bits >> 8) as i64 % TYPES,
            size: 4 + (bits >> 32) as usize % (longest - 3),
        }
    }

    /// A message that some receiver accepts, and that nobody accounts for.
    pub(crate) fn poison(receive: Receive) -> Letter {
        Letter { index: POISON, queue: receive.queue, mtype: receive.some_type(), size: 4 }
    }

    pub(crate) fn write(&self, message: &mut Message) {
        message.mtype = self.mtype;
        for (place, byte) in message.text[..self.size].iter_mut().enumerate() {
            *byte = (self.index as usize + place) as u8;
        }
        message.text[..4].copy_from_slice(&self.index.to_le_bytes());
    }

    /// What is wrong with a message that came from `queue`, `got` bytes of it into a buffer of `room`.
    fn fault(&self, message: &Message, queue: usize, got: usize, room: usize) -> Option<String> {
        let intact = (4..got).all(|place| message.text[place] == (self.index as usize + place) as u8);
        if !intact {
            return Some("its text is damaged".to_owned());
        }
        if self.index == POISON {
            return None;
        }
        (queue != self.queue || message.mtype != self.mtype || got != self.size.min(room)).then(|| {
            format!("came from queue {queue} with type {} and {got} bytes into {room}", message.mtype)
        })
    }
}

struct Report {
    ready: AtomicBool,
    length: AtomicUsize,
    text: [AtomicU8; REPORT_SIZE],
}

impl Shared {
    /// Maps a new, empty one, for this process and those it forks.
    pub(crate) fn map() -> io::Result<&'static Shared> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                mem::size_of::<Shared>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: page-aligned, large enough, never unmapped, and zeros are a valid value of all these atomics.
        Ok(unsafe { &*address.cast::<Shared>() })
    }

    pub(crate) fn queue(&self, index: usize) -> Queue {
        let id = self.queues[index].load(SeqCst);
        match index {
            0..SYSV_QUEUES => Queue::SystemV(id),
            _ => Queue::Posix { fd: id, nonblocking: self.nonblocking[index].load(SeqCst) },
        }
    }

    pub(crate) fn set_queue(&self, index: usize, queue: Queue) {
        let (id, nonblocking) = match queue {
            Queue::SystemV(id) => (id, 0),
            Queue::Posix { fd, nonblocking } => (fd, nonblocking),
        };
        self.queues[index].store(id, SeqCst);
        self.nonblocking[index].store(nonblocking, SeqCst);
    }

    /// Notes a violation, for the supervisor to print.
    pub(crate) fn violation(&self, text: &str) {
        let number = self.violations.fetch_add(1, SeqCst) as usize;
        // Beyond these only the number grows.
        let Some(report) = self.reports.get(number) else { return };
        for (place, byte) in report.text.iter().zip(text.bytes()) {
            place.store(byte, SeqCst);
        }
        report.length.store(text.len().min(REPORT_SIZE), SeqCst);
        report.ready.store(true, SeqCst);
    }

    /// The violations in words, as far as there was room.
    pub(crate) fn reports(&self) -> Vec<String> {
        let text = |report: &Report| {
            let bytes: Vec<u8> =
                report.text[..report.length.load(SeqCst)].iter().map(|byte| byte.load(SeqCst)).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        self.reports.iter().filter(|report| report.ready.load(SeqCst)).map(text).collect()
    }

    /// A message that has not been sent yet; none when the epoch has used them up.
    pub(crate) fn new_letter(&self) -> Option<Letter> {
        if self.letters_used.load(SeqCst) as usize >= LETTERS - CLIENTS * THREADS - 1 {
            return None;
        }
        Some(Letter::of(self.letters_used.fetch_add(1, SeqCst)))
    }

    pub(crate) fn note_sending(&self, letter: &Letter) {
        self.letters[letter.index as usize].fetch_or(SENDING, SeqCst);
    }

    pub(crate) fn note_sent(&self, letter: &Letter) {
        self.letters[letter.index as usize].fetch_or(SENT, SeqCst);
    }

    /// Takes a received message into account, and checks that it is one that was sent, whole, and for the first time.
    pub(crate) fn note_received(&self, message: &Message, queue: usize, got: usize, room: usize) {
        if got < 4 {
            self.violation(&format!(
                "a message of {got} bytes came from queue {queue}: none is shorter than 4"
            ));
            return;
        }
        let index = u32::from_le_bytes([message.text[0], message.text[1], message.text[2], message.text[3]]);
        let letter = Letter::of(index);
        if let Some(fault) = letter.fault(message, queue, got, room) {
            self.violation(&format!("{letter:?}: {fault}"));
        }
        if index == POISON {
            return;
        }
        let Some(state) = self.letters.get(index as usize) else {
            self.violation(&format!("message {index} was never sent"));
            return;
        };
        let before = state.fetch_or(RECEIVED, SeqCst);
        if before & SENDING == 0 {
            self.violation(&format!("{letter:?} was received, and nobody sent it"));
        }
        if before & RECEIVED != 0 {
            self.violation(&format!("{letter:?} was received twice"));
        }
    }

    /// The messages whose sending was acknowledged and that nobody has received.
    pub(crate) fn missing(&self) -> Vec<Letter> {
        let acknowledged =
            |index: &u32| self.letters[*index as usize].load(SeqCst) & (SENT | RECEIVED) == SENT;
        (0..self.letters_used.load(SeqCst)).filter(acknowledged).map(Letter::of).collect()
    }

    /// Forgets all messages.
    pub(crate) fn forget_letters(&self) {
        for letter in &self.letters[..self.letters_used.swap(0, SeqCst) as usize] {
            letter.store(0, SeqCst);
        }
    }
}
