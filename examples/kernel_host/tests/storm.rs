//! Messages and semaphores between processes that are interrupted and killed at any step of their calls, by a thousand seeds: no message comes twice or
//! out of nowhere, none is lost but with who had just received it, nobody sleeps who could go on, and nothing is left behind.
//!
//! A seed that fails is in the message, and goes the same way again: all that is left to chance comes from it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use abi::{
    Errno,
    ipc::{IPC_CREAT, IPC_NOWAIT, IPC_PRIVATE, IPC_RMID},
    sem::{GETVAL, SEM_UNDO, SETVAL},
};
use engine::{
    Syscall,
    syscall::{Msgctl, Msgget, Msgrcv, Msgsnd, Semctl, Semget, Semtimedop},
};
use kernel_host::{Access, AddressSpace, Machine, Memory, SIGCONT, SIGSTOP, Schedule, State, Tid};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

const TEXT: u64 = 0x10000;
const ROOM: u64 = 0x11000;
const SOPS: u64 = 0x12000;
/// Bytes of a message: its number and its type again.
const SIZE: u64 = 16;
/// Messages that fit in the queue.
const CAPACITY: usize = 4;
const SEMS: u16 = 3;
/// What each semaphore is at first.
const FREE: i32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Send {
        number: u64,
        mtype: i64,
    },
    Receive {
        msgtyp: i64,
    },
    /// Takes or gives back one of a semaphore.
    Semop {
        num: u16,
        op: i16,
    },
    Make,
    Remove,
}

struct Story {
    seed: u64,
    machine: Machine<AddressSpace>,
    dice: Xoshiro256PlusPlus,
    keeper: Tid,
    queue: i32,
    set: i32,
    processes: Vec<Tid>,
    calls: BTreeMap<Tid, Doing>,
    /// What each process has of each semaphore.
    taken: BTreeMap<Tid, [i16; SEMS as usize]>,
    next_number: u64,
    /// Whether it was said to be sent, of those that nobody has received.
    sent: BTreeMap<u64, bool>,
    received: u64,
    /// Receivers that were killed, each maybe with a message.
    killed_receivers: usize,
    killed: u64,
}

fn memory() -> AddressSpace {
    let mut memory = AddressSpace::default();
    memory.map(TEXT, 0x3000, Access::ReadWrite);
    memory
}

impl Story {
    fn new(seed: u64) -> Story {
        let pause_in = [1, 3, 10, 40][usize::try_from(seed % 4).unwrap()];
        let mut machine = Machine::with_schedule(true, Schedule::random(seed, pause_in, 300));
        let keeper = machine.spawn(memory());
        machine.write_sysctl(keeper, "kernel.msgmnb", &(SIZE * CAPACITY as u64).to_string()).unwrap();
        let mut story = Story {
            seed,
            machine,
            dice: Xoshiro256PlusPlus::seed_from_u64(!seed),
            keeper,
            queue: 0,
            set: 0,
            processes: Vec::new(),
            calls: BTreeMap::new(),
            taken: BTreeMap::new(),
            next_number: 0,
            sent: BTreeMap::new(),
            received: 0,
            killed_receivers: 0,
            killed: 0,
        };
        story.queue = story.keep(|| Syscall::Msgget(Msgget { key: IPC_PRIVATE, flags: IPC_CREAT | 0o666 }));
        story.set =
            story.keep(|| Syscall::Semget(Semget { key: IPC_PRIVATE, nsems: SEMS.into(), flags: 0o666 }));
        for num in 0..SEMS {
            let (id, num, arg) = (story.set, num.into(), u64::try_from(FREE).unwrap());
            story.keep(|| Syscall::Semctl(Semctl { id, num, cmd: SETVAL, arg }));
        }
        story
    }

    /// A call of the keeper's, which is begun again if the keeper is killed in it.
    fn keep(&mut self, call: impl Fn() -> Syscall) -> i32 {
        loop {
            if self.machine.state(self.keeper) == State::Dead {
                self.keeper = self.machine.spawn(memory());
            }
            self.machine.call(self.keeper, call());
            while self.machine.state(self.keeper) == State::Running {
                self.machine.turn();
            }
            if let Some(result) = self.machine.take(self.keeper) {
                return i32::try_from(result.unwrap()).unwrap();
            }
        }
    }

    fn tell(mut self) -> (u64, u64) {
        for _ in 0..300 {
            self.step();
        }
        self.all_rest();
        self.look_for_oversleepers();
        self.end()
    }

    fn step(&mut self) {
        while self.processes.len() < 5 {
            let new = self.machine.spawn(memory());
            self.processes.push(new);
            self.taken.insert(new, [0; SEMS as usize]);
        }
        let tid = self.processes[self.dice.random_range(0..self.processes.len())];
        match self.machine.state(tid) {
            State::Idle => self.act(tid),
            State::Asleep if self.dice.random_ratio(1, 8) => self.machine.exit(tid),
            State::Asleep if self.dice.random_ratio(1, 8) => self.machine.signal(tid, SIGSTOP),
            State::Stopped => self.machine.signal(tid, SIGCONT),
            _ => _ = self.machine.turn(),
        }
        for _ in 0..self.dice.random_range(0..10) {
            self.machine.turn();
        }
        self.look();
    }

    fn act(&mut self, tid: Tid) {
        let nowait = if self.dice.random_ratio(1, 4) { IPC_NOWAIT } else { 0 };
        let (doing, call) = match self.dice.random_range(0..20) {
            0..7 => {
                let (number, mtype) = (self.next_number, self.dice.random_range(1..4));
                self.next_number += 1;
                self.sent.insert(number, false);
                let words = [mtype, number.cast_signed(), mtype].map(i64::to_ne_bytes).concat();
                self.machine.memory(tid).fill(TEXT, &words).unwrap();
                let send = Msgsnd { id: self.queue, msgp: TEXT, size: SIZE, flags: nowait, mtype: None };
                (Doing::Send { number, mtype }, Syscall::Msgsnd(send))
            }
            7..14 => {
                let msgtyp = self.dice.random_range(-3..4);
                let receive =
                    Msgrcv { id: self.queue, msgp: ROOM, size: SIZE, msgtyp, flags: nowait, text: None };
                (Doing::Receive { msgtyp }, Syscall::Msgrcv(receive))
            }
            14..19 => {
                let num = self.dice.random_range(0..SEMS);
                let mine = self.taken[&tid][usize::from(num)];
                let op: i16 = if mine > 0 && self.dice.random_ratio(1, 2) { 1 } else { -1 };
                let flags = SEM_UNDO | i16::try_from(nowait).unwrap();
                let bytes = [num.to_ne_bytes(), op.to_ne_bytes(), flags.to_ne_bytes()].concat();
                self.machine.memory(tid).fill(SOPS, &bytes).unwrap();
                let semop = Semtimedop { id: self.set, sops: SOPS, nsops: 1, timeout: 0, time32: false };
                (Doing::Semop { num, op }, Syscall::Semtimedop(semop))
            }
            // An object that comes and goes, so that the table changes under the others.
            _ => (Doing::Make, Syscall::Msgget(Msgget { key: IPC_PRIVATE, flags: 0o600 })),
        };
        self.calls.insert(tid, doing);
        self.machine.call(tid, call);
    }

    /// Takes the results of all calls that are over, and looks who has died.
    fn look(&mut self) {
        for tid in self.processes.clone() {
            match self.machine.state(tid) {
                State::Returned(result) => {
                    self.machine.take(tid);
                    let doing = self.calls.remove(&tid).unwrap();
                    self.check(tid, doing, result);
                }
                State::Dead => {
                    self.killed += 1;
                    self.processes.retain(|other| *other != tid);
                    self.taken.remove(&tid);
                    if let Some(Doing::Receive { .. }) = self.calls.remove(&tid) {
                        self.killed_receivers += 1;
                    }
                }
                _ => {}
            }
        }
    }

    fn check(&mut self, tid: Tid, doing: Doing, result: abi::Result<i64>) {
        let seed = self.seed;
        match (doing, result) {
            (Doing::Send { number, .. }, Ok(_)) => {
                // It may have been received already.
                self.sent.entry(number).and_modify(|sent| *sent = true);
            }
            (Doing::Send { number, .. }, Err(_)) => {
                assert_eq!(
                    self.sent.remove(&number),
                    Some(false),
                    "seed {seed}: a message that was not sent"
                );
            }
            (Doing::Receive { msgtyp }, Ok(_)) => self.check_message(tid, msgtyp),
            (Doing::Semop { num, op }, Ok(_)) => {
                let taken = &mut self.taken.get_mut(&tid).unwrap()[usize::from(num)];
                *taken -= op;
            }
            (Doing::Make, Ok(id)) => {
                let remove = Msgctl { id: i32::try_from(id).unwrap(), cmd: IPC_RMID, buf: 0 };
                self.calls.insert(tid, Doing::Remove);
                self.machine.call(tid, Syscall::Msgctl(remove));
                return;
            }
            (Doing::Remove, Ok(_)) | (_, Err(_)) => {}
        }
        if let Err(error) = result {
            let usual = [Errno::EAGAIN, Errno::ENOMSG, Errno::EINTR];
            assert!(usual.contains(&error), "seed {seed}: {doing:?}: {error:?}");
        }
    }

    fn check_message(&mut self, tid: Tid, msgtyp: i64) {
        let mut bytes = [0; 24];
        self.machine.memory(tid).read(ROOM, &mut bytes).unwrap();
        let word = |at: usize| i64::from_ne_bytes(bytes[8 * at..8 * at + 8].try_into().unwrap());
        let (mtype, number) = (word(0), word(1).cast_unsigned());
        assert_eq!(mtype, word(2), "seed {}: a message that is not what was sent", self.seed);
        let fits = match msgtyp {
            0 => true,
            1.. => mtype == msgtyp,
            _ => mtype <= -msgtyp,
        };
        assert!(fits, "seed {}: type {mtype} for {msgtyp}", self.seed);
        assert!(self.sent.remove(&number).is_some(), "seed {}: message {number} comes twice", self.seed);
        self.received += 1;
    }

    /// Nobody is stopped, killed or in the middle of a call any more.
    fn all_rest(&mut self) {
        self.machine.schedule().calm_down();
        for tid in self.processes.clone() {
            if self.machine.state(tid) == State::Stopped {
                self.machine.signal(tid, SIGCONT);
            }
        }
        loop {
            while self.machine.turn() {}
            let before = self.calls.len();
            self.look();
            if self.calls.len() == before && !self.processes.iter().any(|tid| self.is_busy(*tid)) {
                return;
            }
        }
    }

    fn is_busy(&self, tid: Tid) -> bool {
        matches!(self.machine.state(tid), State::Running | State::Returned(_))
    }

    /// Nobody sleeps who could go on.
    fn look_for_oversleepers(&mut self) {
        let values = self.values();
        let listed = self.machine.read_file(self.keeper, "/proc/sysvipc/msg").unwrap();
        let queue = listed
            .lines()
            .skip(1)
            .find(|line| line.split_whitespace().nth(1).is_some_and(|id| id == self.queue.to_string()));
        let messages: usize = queue.unwrap().split_whitespace().nth(4).unwrap().parse().unwrap();
        for (tid, doing) in &self.calls {
            let could = match *doing {
                Doing::Send { .. } => messages < CAPACITY,
                // Which types there are is not seen from outside, but for that there are some.
                Doing::Receive { msgtyp } => msgtyp == 0 && messages > 0,
                Doing::Semop { num, op } => op > 0 || values[usize::from(num)] > 0,
                Doing::Make | Doing::Remove => true,
            };
            assert!(!could, "seed {}: thread {tid} sleeps and could go on", self.seed);
        }
        // What was sent is there, or has been received, or was lost with its receiver.
        let sent = self.sent.values().filter(|sent| **sent).count();
        assert!(
            sent <= messages + self.killed_receivers,
            "seed {}: {sent} sent, {messages} there, {} receivers killed",
            self.seed,
            self.killed_receivers
        );
    }

    /// The identifiers of all objects of a kind.
    fn listed(&mut self, kind: &str) -> Vec<i32> {
        let list = self.machine.read_file(self.keeper, &format!("/proc/sysvipc/{kind}")).unwrap();
        list.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap()).collect()
    }

    fn values(&mut self) -> [i32; SEMS as usize] {
        let id = self.set;
        std::array::from_fn(|num| {
            self.keep(|| {
                Syscall::Semctl(Semctl { id, num: i32::try_from(num).unwrap(), cmd: GETVAL, arg: 0 })
            })
        })
    }

    /// All end: the semaphores are what they were, and with the objects all goes that they took.
    fn end(mut self) -> (u64, u64) {
        let held = self.taken.values().fold([0; SEMS as usize], |sum: [i32; SEMS as usize], taken| {
            std::array::from_fn(|num| sum[num] + i32::from(taken[num]))
        });
        assert_eq!(self.values(), held.map(|held| FREE - held), "seed {}: values of the living", self.seed);
        for tid in self.processes.clone() {
            self.machine.exit(tid);
        }
        assert_eq!(self.values(), [FREE; SEMS as usize], "seed {}: what the dead had taken", self.seed);
        // Whoever was killed between making an object and removing it, or telling of it, has left that behind, as in the kernel.
        for id in self.listed("msg") {
            self.keep(|| Syscall::Msgctl(Msgctl { id, cmd: IPC_RMID, buf: 0 }));
        }
        for id in self.listed("sem") {
            self.keep(|| Syscall::Semctl(Semctl { id, num: 0, cmd: IPC_RMID, arg: 0 }));
        }
        self.machine.exit(self.keeper);
        let left = self.machine.usage();
        assert_eq!(left.blocks, usage_of_nothing().blocks, "seed {}: something is left", self.seed);
        (self.received, self.killed)
    }
}

/// What a namespace keeps for good that has once had a queue and a set.
fn usage_of_nothing() -> arena::Usage {
    let mut machine = Machine::new(true);
    let only = machine.spawn(memory());
    let queue = Syscall::Msgget(Msgget { key: IPC_PRIVATE, flags: 0o600 });
    let set = Syscall::Semget(Semget { key: IPC_PRIVATE, nsems: 1, flags: 0o600 });
    let remove_queue = Syscall::Msgctl(Msgctl { id: 0, cmd: IPC_RMID, buf: 0 });
    let remove_set = Syscall::Semctl(Semctl { id: 0, num: 0, cmd: IPC_RMID, arg: 0 });
    for call in [queue, set, remove_queue, remove_set] {
        machine.call(only, call);
        assert_eq!(machine.take(only), Some(Ok(0)));
    }
    machine.exit(only);
    machine.usage()
}

#[test]
fn a_thousand_storms() {
    let (mut received, mut killed) = (0, 0);
    for seed in 1..=1000 {
        let (messages, deaths) = Story::new(seed).tell();
        (received, killed) = (received + messages, killed + deaths);
    }
    assert!(received > 10_000 && killed > 10_000, "{received} messages, {killed} deaths");
}

/// Who guesses an identifier finds what has it either whole or not at all.
#[test]
fn a_message_to_a_queue_that_is_being_made_is_in_it_or_refused() {
    const GUESSED: i32 = 1;
    let (mut sent, mut refused, mut killed) = (0, 0, 0);
    for seed in 1..=3000 {
        let pause_in = [3, 10, 30][usize::try_from(seed % 3).unwrap()];
        let mut machine = Machine::with_schedule(true, Schedule::random(seed, pause_in, 0));
        let mut dice = Xoshiro256PlusPlus::seed_from_u64(!seed);
        let [maker, sender] = [(); 2].map(|()| machine.spawn(memory()));
        machine.memory(sender).fill(TEXT, &[1; 24]).unwrap();
        let make = Syscall::Msgget(Msgget { key: IPC_PRIVATE, flags: 0o600 });
        let send = |id| Msgsnd { id, msgp: TEXT, size: SIZE, flags: IPC_NOWAIT, mtype: None };
        let whole = |machine: &mut Machine<AddressSpace>, call| {
            machine.call(sender, call);
            while machine.turn() {}
            machine.take(sender).unwrap()
        };
        // What a first queue and a first message need is there.
        assert_eq!(whole(&mut machine, make), Ok(0));
        assert_eq!(whole(&mut machine, Syscall::Msgsnd(send(0))), Ok(0));
        machine.call(maker, make);
        (0..dice.random_range(0..40)).for_each(|_| _ = machine.turn());
        machine.call(sender, Syscall::Msgsnd(send(GUESSED)));
        while [maker, sender].map(|tid| machine.state(tid)) == [State::Running; 2] {
            machine.turn();
        }
        if machine.state(maker) == State::Running {
            machine.exit(maker);
            killed += 1;
        }
        while machine.turn() {}
        let came = machine.take(sender).unwrap();
        let (msgp, flags) = (ROOM, IPC_NOWAIT);
        let receive = Msgrcv { id: GUESSED, msgp, size: SIZE, msgtyp: 0, flags, text: None };
        let received = whole(&mut machine, Syscall::Msgrcv(receive));
        if came == Ok(0) {
            assert_eq!(received, Ok(SIZE.cast_signed()), "seed {seed}: the message is lost");
            sent += 1;
        } else {
            assert_eq!(came, Err(Errno::EINVAL), "seed {seed}");
            refused += 1;
        }
    }
    assert!(sent > 100 && refused > 100 && killed > 100, "{sent} sent, {refused} refused, {killed} killed");
}

#[test]
fn a_seed_goes_the_same_way_again() {
    let story = |seed| {
        let mut story = Story::new(seed);
        (0..300).for_each(|_| story.step());
        let states: Vec<_> = story.processes.iter().map(|tid| story.machine.state(*tid)).collect();
        (story.machine.schedule().steps(), story.machine.now_ns(), story.received, story.killed, states)
    };
    assert_eq!(story(7), story(7));
    assert_ne!(story(7), story(8));
}
