//! What the clients do: random operations, each noted in the ledger before and after.

use std::ffi::CStr;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::ipc::{self, Attached, Errno, Message, TEXT_SIZE, op};
use crate::matching::Receive;
use crate::shared::{CLIENTS, Doing, Letter, MUTEXES, QUEUES, SYSV_QUEUES, Shared, THREADS, TYPES};

/// Semaphores of the pool set: this many pools and a gate.
pub(crate) const POOLS: usize = 4;
pub(crate) const POOL_UNITS: i32 = 5;
/// Of the set whose sum stays.
pub(crate) const TRANSFERS: usize = 8;
pub(crate) const TRANSFER_UNITS: i32 = 4;
/// A healthy client's call that never waits takes less.
const LATENCY_NS_MAX: u64 = 1_000_000_000;
/// Keys of the queues and sets that come and go.
const KEY: libc::key_t = 0x6372_0000;
const KEYS: i32 = 3;
const GATE: usize = POOLS;
/// Names of the POSIX queues that come and go.
pub(crate) const POSIX_NAMES: [&CStr; 3] = [c"/crash-0", c"/crash-1", c"/crash-2"];

/// One thread of a client.
struct Worker {
    shared: &'static Shared,
    place: usize,
    thread: usize,
    incarnation: u64,
    random: Xoshiro256PlusPlus,
    message: Box<Message>,
    /// What it has attached of the segment that stays.
    held: Vec<Attached>,
}

/// Attachments that a thread holds at most.
const HELD: usize = 3;

/// The life of a client process, until it is killed or everybody finishes.
pub(crate) fn live(shared: &'static Shared, place: usize, seed: u64) {
    let incarnation = shared.clients[place].incarnation.load(SeqCst);
    let worker = |thread: usize| {
        let own_seed = seed ^ (incarnation << 16) ^ ((place * THREADS + thread) as u64) << 48;
        let random = Xoshiro256PlusPlus::seed_from_u64(own_seed);
        let message = Box::new(Message::new());
        Worker { shared, place, thread, incarnation, random, message, held: Vec::new() }
    };
    let mut first = worker(0);
    let threads = if first.random.random_ratio(1, 4) { THREADS } else { 1 };
    thread::scope(|scope| {
        for thread in 1..threads {
            scope.spawn(move || worker(thread).work());
        }
        first.work();
    });
}

impl Worker {
    fn work(&mut self) {
        while !self.shared.finishing.load(SeqCst) {
            match self.random.random_range(0..100) {
                0..36 => self.send(),
                36..72 => self.receive(),
                72..80 => self.use_mutex(),
                80..88 => self.use_pools(),
                88..94 => self.transfer(),
                94 => self.churn_queue(),
                95 => self.churn_posix_queue(),
                96 => self.churn_segment(),
                97 => self.hold_segment(),
                _ => self.churn_set(),
            }
            self.shared.clients[self.place].threads[self.thread].end();
        }
    }

    fn begin(&self, doing: Doing) {
        self.shared.clients[self.place].threads[self.thread].begin(doing);
    }

    /// Reports errors other than those that the situation allows.
    fn expect(&self, what: &str, result: Result<(), Errno>, allowed: &[Errno]) -> bool {
        match result {
            Ok(()) => true,
            Err(error) => {
                if !allowed.contains(&error) {
                    self.shared.violation(&format!(
                        "{what}: unexpected {}",
                        std::io::Error::from_raw_os_error(error)
                    ));
                }
                false
            }
        }
    }

    fn sometimes(&mut self, flag: i32) -> i32 {
        if self.random.random() { flag } else { 0 }
    }

    fn send(&mut self) {
        let Some(letter) = self.shared.new_letter() else {
            thread::sleep(Duration::from_millis(1));
            return;
        };
        let flags = self.sometimes(libc::IPC_NOWAIT);
        self.begin(Doing::Send { queue: letter.queue, size: letter.size });
        let sent = send(self.shared, &mut self.message, &letter, flags);
        self.expect("msgsnd or mq_send", sent, &[libc::EAGAIN, libc::EINTR]);
    }

    fn receive(&mut self) {
        let kind = self.random.random_range(0..8);
        let mtype = match kind {
            0..3 => 0,
            3..5 => -self.random.random_range(1..=TYPES),
            _ => self.random.random_range(1..=TYPES),
        };
        let queue = self.random.random_range(0..QUEUES);
        if queue >= SYSV_QUEUES {
            let any = Receive { queue, mtype: 0, except: false };
            let flags = self.sometimes(libc::IPC_NOWAIT);
            self.begin(Doing::Receive(any));
            let got = receive_into(self.shared, &mut self.message, &any, TEXT_SIZE, flags);
            self.expect("mq_receive", got, &[libc::ENOMSG, libc::EINTR]);
            return;
        }
        let receive = Receive { queue, mtype, except: kind == 7 };
        let mut flags = self.sometimes(libc::IPC_NOWAIT) | if receive.except { libc::MSG_EXCEPT } else { 0 };
        let mut room = TEXT_SIZE;
        if self.random.random_ratio(1, 8) {
            room = 64;
            flags |= self.sometimes(libc::MSG_NOERROR);
        }
        self.begin(Doing::Receive(receive));
        let got = receive_into(self.shared, &mut self.message, &receive, room, flags);
        self.expect("msgrcv", got, &[libc::ENOMSG, libc::E2BIG, libc::EINTR]);
    }

    fn use_mutex(&mut self) {
        let set = self.shared.mutexes.load(SeqCst);
        let mutex = self.random.random_range(0..MUTEXES);
        let down = |flags| [op(mutex, -1, libc::SEM_UNDO | flags)];
        self.begin(Doing::Mutex(mutex));
        let taken = match self.random.random_range(0..3) {
            0 => ipc::semop(set, &mut down(libc::IPC_NOWAIT)),
            1 => ipc::semtimedop(set, &mut down(0), 5),
            _ => ipc::semop(set, &mut down(0)),
        };
        if !self.expect("semop of a mutex", taken, &[libc::EAGAIN, libc::EINTR]) {
            return;
        }
        self.enter_section(mutex);
        for _ in 0..self.random.random_range(0..3) {
            thread::yield_now();
        }
        self.leave_section(mutex);
        let released = ipc::semop(set, &mut [op(mutex, 1, libc::SEM_UNDO)]);
        self.expect("semop that releases a mutex", released, &[]);
    }

    fn tag(&self) -> u64 {
        self.incarnation << 16 | ((self.place * THREADS + self.thread) as u64) << 1 | 1
    }

    /// Nobody may be in the section but who was killed there.
    fn enter_section(&self, mutex: usize) {
        let before = self.shared.owners[mutex].swap(self.tag(), SeqCst);
        if before == 0 {
            return;
        }
        let (incarnation, place) = (before >> 16, (before >> 1) as usize % (1 << 15) / THREADS);
        if self.shared.clients[place].doomed.load(SeqCst) < incarnation {
            self.shared.violation(&format!(
                "mutex {mutex} was given to client {} while client {place} holds it",
                self.place
            ));
        }
    }

    fn leave_section(&self, mutex: usize) {
        if self.shared.owners[mutex].swap(0, SeqCst) != self.tag() {
            self.shared.violation(&format!(
                "mutex {mutex}: somebody else came in while client {} held it",
                self.place
            ));
        }
    }

    /// Takes units of two pools at once while the gate is down, or raises the gate for a moment.
    fn use_pools(&mut self) {
        let set = self.shared.pools.load(SeqCst);
        let wait = self.sometimes(libc::IPC_NOWAIT);
        self.begin(Doing::Pool);
        if self.random.random_ratio(1, 6) {
            if self.expect(
                "semop that raises the gate",
                ipc::semop(set, &mut [op(GATE, 1, libc::SEM_UNDO)]),
                &[],
            ) {
                let lowered = ipc::semop(set, &mut [op(GATE, -1, libc::SEM_UNDO)]);
                self.expect("semop that lowers the gate", lowered, &[]);
            }
            return;
        }
        let first = self.random.random_range(0..POOLS);
        let second = (first + self.random.random_range(1..POOLS)) % POOLS;
        let units = self.random.random_range(1..=POOL_UNITS);
        let mut take = [
            op(GATE, 0, wait),
            op(first, -units, libc::SEM_UNDO | wait),
            op(second, -1, libc::SEM_UNDO | wait),
        ];
        let taken = ipc::semop(set, &mut take);
        if self.expect("semop that takes from pools", taken, &[libc::EAGAIN, libc::EINTR]) {
            let mut give = [op(first, units, libc::SEM_UNDO), op(second, 1, libc::SEM_UNDO)];
            self.expect("semop that gives back to pools", ipc::semop(set, &mut give), &[]);
        }
    }

    /// Moves a unit from one semaphore to another: the sum stays, whoever dies where.
    fn transfer(&mut self) {
        let set = self.shared.transfers.load(SeqCst);
        let from = self.random.random_range(0..TRANSFERS);
        let to = (from + self.random.random_range(1..TRANSFERS)) % TRANSFERS;
        let wait = self.sometimes(libc::IPC_NOWAIT);
        self.begin(Doing::Transfer(from));
        let moved = ipc::semop(set, &mut [op(from, -1, wait), op(to, 1, 0)]);
        self.expect("semop that transfers", moved, &[libc::EAGAIN, libc::EINTR]);
    }

    fn churn_queue(&mut self) {
        const GONE: [Errno; 5] = [libc::EINVAL, libc::EIDRM, libc::EAGAIN, libc::ENOMSG, libc::EINTR];
        self.begin(Doing::Churn);
        let private = self.random.random();
        let key = if private { libc::IPC_PRIVATE } else { KEY + self.random.random_range(0..KEYS) };
        let queue = match ipc::msgget(key, libc::IPC_CREAT | 0o600) {
            Ok(queue) => queue,
            Err(error) => {
                self.expect("msgget", Err(error), &[]);
                return;
            }
        };
        let size = self.random.random_range(0..2000);
        let wait = if private { libc::IPC_NOWAIT } else { self.sometimes(libc::IPC_NOWAIT) };
        self.message.mtype = 1;
        let allowed = if private { &[][..] } else { &GONE };
        match self.random.random_range(0..4) {
            _ if private => {
                self.expect("msgsnd to an own queue", ipc::msgsnd(queue, &self.message, size, wait), allowed);
                let got = ipc::msgrcv(queue, &mut self.message, TEXT_SIZE, 0, wait);
                self.expect("msgrcv from an own queue", got.map(drop), allowed);
                self.expect("IPC_RMID of an own queue", ipc::msg_remove(queue), allowed);
            }
            0 => drop(self.expect("IPC_RMID of a queue", ipc::msg_remove(queue), allowed)),
            1 | 2 => {
                let sent = ipc::msgsnd(queue, &self.message, size, wait);
                self.expect("msgsnd to a passing queue", sent, allowed);
            }
            _ => {
                let got = ipc::msgrcv(queue, &mut self.message, TEXT_SIZE, 0, wait);
                self.expect("msgrcv from a passing queue", got.map(drop), allowed);
            }
        }
    }

    fn churn_posix_queue(&mut self) {
        const MESSAGES: i64 = 2;
        const LENGTH: i64 = 100;
        self.begin(Doing::Churn);
        let name = POSIX_NAMES[self.random.random_range(0..POSIX_NAMES.len())];
        let flags = libc::O_CREAT | libc::O_RDWR | self.sometimes(libc::O_NONBLOCK);
        let fd = match ipc::mq_open(name, flags, MESSAGES, LENGTH) {
            Ok(fd) => fd,
            Err(error) => {
                self.expect("mq_open", Err(error), &[]);
                return;
            }
        };
        let gone = [libc::ENOENT];
        if self.random.random_ratio(1, 3) {
            self.expect("mq_unlink", ipc::mq_unlink(name), &gone);
        }
        if self.random.random_ratio(1, 4) {
            let on = self.random.random();
            self.expect("mq_notify", ipc::mq_notify(fd, on), &[libc::EBUSY]);
        }
        self.message.mtype = self.random.random_range(0..4);
        let size = self.random.random_range(0..=LENGTH as usize);
        if flags & libc::O_NONBLOCK != 0 {
            let sent = ipc::mq_send(fd, &self.message, size);
            self.expect("mq_send to a passing queue", sent, &[libc::EAGAIN]);
        }
        let got = ipc::mq_timedreceive(fd, &mut self.message, 3);
        let nothing = [libc::EAGAIN, libc::ETIMEDOUT, libc::EINTR];
        self.expect("mq_timedreceive from a passing queue", got.map(drop), &nothing);
        if self.random.random_ratio(1, 3) {
            self.expect("mq_unlink", ipc::mq_unlink(name), &gone);
        }
        self.expect("mq_close", ipc::mq_close(fd), &[]);
    }

    fn churn_segment(&mut self) {
        const GONE: [Errno; 2] = [libc::EINVAL, libc::EIDRM];
        const SIZE: usize = 3 * 4096;
        self.begin(Doing::Churn);
        let private = self.random.random();
        let key = if private { libc::IPC_PRIVATE } else { KEY + self.random.random_range(0..KEYS) };
        let segment = match ipc::shmget(key, SIZE, libc::IPC_CREAT | 0o600) {
            Ok(segment) => segment,
            Err(error) => {
                self.expect("shmget", Err(error), &[]);
                return;
            }
        };
        let allowed = if private { &[][..] } else { &GONE };
        let read_only = self.random.random_ratio(1, 4);
        let attached = match ipc::shmat(segment, if read_only { libc::SHM_RDONLY } else { 0 }) {
            Ok(attached) => attached,
            Err(error) => {
                self.expect("shmat", Err(error), allowed);
                return;
            }
        };
        let offset = self.random.random_range(0..SIZE);
        let before = attached.get(offset);
        if private && before != 0 {
            self.shared.violation(&format!("a new segment has a {before}"));
        }
        if !read_only {
            attached.set(offset, 1);
        }
        let removed_first = self.random.random();
        if removed_first {
            self.expect("IPC_RMID of an attached segment", ipc::shm_remove(segment), allowed);
        }
        // What is attached stays, removed or not.
        attached.get(SIZE - 1 - offset);
        self.expect("shmdt", attached.detach(), &[]);
        if private && !removed_first {
            self.expect("IPC_RMID of an own segment", ipc::shm_remove(segment), allowed);
        }
    }

    /// Attaches the segment that stays once more, or detaches it.
    fn hold_segment(&mut self) {
        self.begin(Doing::Churn);
        if self.held.len() == HELD || !self.held.is_empty() && self.random.random() {
            let place = self.random.random_range(0..self.held.len());
            let detached = self.held.swap_remove(place).detach();
            self.expect("shmdt of a held segment", detached, &[]);
        } else {
            let flags = self.sometimes(libc::SHM_RDONLY);
            match ipc::shmat(self.shared.held.load(SeqCst), flags) {
                Ok(attached) => self.held.push(attached),
                Err(error) => drop(self.expect("shmat of a held segment", Err(error), &[])),
            }
        }
    }

    fn churn_set(&mut self) {
        const GONE: [Errno; 5] = [libc::EINVAL, libc::EIDRM, libc::EAGAIN, libc::ERANGE, libc::EINTR];
        self.begin(Doing::Churn);
        let private = self.random.random();
        let key = if private { libc::IPC_PRIVATE } else { KEY + self.random.random_range(0..KEYS) };
        let set = match ipc::semget(key, 3, libc::IPC_CREAT | 0o600) {
            Ok(set) => set,
            Err(error) => {
                self.expect("semget", Err(error), &[]);
                return;
            }
        };
        let flags = self.sometimes(libc::IPC_NOWAIT) | self.sometimes(libc::SEM_UNDO);
        let allowed = if private { &[][..] } else { &GONE };
        match self.random.random_range(0..4) {
            _ if private => {
                self.expect("semop on an own set", ipc::semop(set, &mut [op(2, 1, libc::SEM_UNDO)]), allowed);
                self.expect("IPC_RMID of an own set", ipc::sem_remove(set), allowed);
            }
            0 => drop(self.expect("IPC_RMID of a set", ipc::sem_remove(set), allowed)),
            1 | 2 => {
                let raised = ipc::semop(set, &mut [op(0, 1, flags), op(1, 1, flags)]);
                self.expect("semop on a passing set", raised, allowed);
            }
            _ => {
                let lowered = ipc::semop(set, &mut [op(0, -1, flags)]);
                self.expect("semop on a passing set", lowered, allowed);
            }
        }
    }
}

/// Sends a letter, and notes it before and after.
pub(crate) fn send(shared: &Shared, message: &mut Message, letter: &Letter, flags: i32) -> Result<(), Errno> {
    letter.write(message);
    shared.note_sending(letter);
    shared.queue(letter.queue).send(message, letter.size, flags)?;
    shared.note_sent(letter);
    Ok(())
}

/// Receives a letter, and notes it.
pub(crate) fn receive_into(
    shared: &Shared,
    message: &mut Message,
    receive: &Receive,
    room: usize,
    flags: i32,
) -> Result<(), Errno> {
    let got = shared.queue(receive.queue).receive(message, room, receive.mtype, flags)?;
    shared.note_received(message, receive.queue, got, room);
    Ok(())
}

/// A healthy client, never killed or stopped: its calls never wait, so none may take long, whoever is stopped where.
pub(crate) fn probe(shared: &'static Shared, seed: u64) {
    let random = Xoshiro256PlusPlus::seed_from_u64(!seed);
    // A place of its own in the tags, beyond the clients'; it holds no section.
    let mut worker = Worker {
        shared,
        place: CLIENTS,
        thread: 0,
        incarnation: 0,
        random,
        message: Box::new(Message::new()),
        held: Vec::new(),
    };
    loop {
        if shared.finishing.load(SeqCst) {
            shared.prober_rests.store(true, SeqCst);
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        shared.prober_rests.store(false, SeqCst);
        // `finishing` may have been set in between, and the driver have seen the rest of before.
        if !shared.finishing.load(SeqCst) {
            worker.probe_once();
        }
        thread::sleep(Duration::from_micros(200));
    }
}

impl Worker {
    fn probe_once(&mut self) {
        let queue = self.random.random_range(0..QUEUES);
        let mutex = self.random.random_range(0..MUTEXES);
        let shared = self.shared;
        self.timed("msgsnd or mq_send", |own| {
            let Some(letter) = shared.new_letter() else { return };
            let sent = send(shared, &mut own.message, &letter, libc::IPC_NOWAIT);
            own.expect("the prober's msgsnd", sent, &[libc::EAGAIN]);
        });
        self.timed("msgrcv or mq_receive", |own| {
            let any = Receive { queue, mtype: 0, except: false };
            let got = receive_into(shared, &mut own.message, &any, TEXT_SIZE, libc::IPC_NOWAIT);
            own.expect("the prober's msgrcv", got, &[libc::ENOMSG]);
        });
        self.timed("IPC_STAT or mq_getattr", |own| {
            own.expect("the prober's IPC_STAT", shared.queue(queue).counts().map(drop), &[]);
        });
        self.timed("semop", |own| {
            let set = shared.mutexes.load(SeqCst);
            let taken = ipc::semop(set, &mut [op(mutex, -1, libc::SEM_UNDO | libc::IPC_NOWAIT)]);
            if own.expect("the prober's semop", taken, &[libc::EAGAIN]) {
                own.expect("the prober's semop", ipc::semop(set, &mut [op(mutex, 1, libc::SEM_UNDO)]), &[]);
            }
        });
        self.timed("GETVAL", |own| {
            let set = shared.pools.load(SeqCst);
            match ipc::sem_query(set, queue % POOLS, libc::GETVAL) {
                Ok(value) if value > POOL_UNITS => shared.violation(&format!("a pool has {value} units")),
                other => drop(own.expect("the prober's GETVAL", other.map(drop), &[])),
            }
        });
        self.timed("msgget and IPC_RMID", |own| match ipc::msgget(libc::IPC_PRIVATE, 0o600) {
            Ok(id) => drop(own.expect("the prober's IPC_RMID", ipc::msg_remove(id), &[])),
            Err(error) => drop(own.expect("the prober's msgget", Err(error), &[])),
        });
    }

    fn timed(&mut self, what: &str, call: impl FnOnce(&mut Worker)) {
        let start = Instant::now();
        call(self);
        let elapsed_ns = start.elapsed().as_nanos() as u64;
        self.shared.latency_ns_max.fetch_max(elapsed_ns, SeqCst);
        if elapsed_ns > LATENCY_NS_MAX {
            self.shared.violation(&format!("the healthy prober's {what} took {} ms", elapsed_ns / 1_000_000));
        }
    }
}
