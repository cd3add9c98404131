//! Segments that are made, attached, written, handed on by forks, detached and removed by processes that are interrupted and killed at any step of their calls,
//! by a thousand seeds: nobody sees what was another segment's, each is counted as often as it is attached, and none is left that is removed and attached by
//! nobody.
//!
//! A seed that fails is in the message, and goes the same way again.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use abi::{
    Errno,
    ipc::{IPC_CREAT, IPC_PRIVATE, IPC_RMID},
    shm::{SHM_DEST, SHM_RDONLY},
};
use arena::Usage;
use engine::{
    Syscall,
    syscall::{Shmat, Shmctl, Shmdt, Shmget},
};
use kernel_host::{AddressSpace, Machine, Memory, SIGCONT, SIGSTOP, Schedule, State, Tid};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

const PAGE: u64 = 4096;
const KEYS: i32 = 3;
const PROCESSES: usize = 5;

#[derive(Clone, Copy, Debug)]
enum Doing {
    Get,
    Attach { id: i32, write: bool },
    Detach { at: u64 },
    Remove,
}

/// A segment that a process has attached.
#[derive(Clone, Copy, Debug)]
struct Attached {
    id: i32,
    at: u64,
}

struct Story {
    seed: u64,
    machine: Machine<AddressSpace>,
    dice: Xoshiro256PlusPlus,
    keeper: Tid,
    processes: BTreeMap<Tid, Vec<Attached>>,
    calls: BTreeMap<Tid, Doing>,
    /// Identifiers that somebody has heard of.
    known: Vec<i32>,
    attachments: u64,
    killed: u64,
}

/// A segment as the list of all shows it.
#[derive(Debug)]
struct Listed {
    id: i32,
    mode: u32,
    count: u64,
}

impl Story {
    fn new(seed: u64) -> Story {
        let pause_in = [1, 3, 10, 40][usize::try_from(seed % 4).unwrap()];
        let mut machine = Machine::with_schedule(true, Schedule::random(seed, pause_in, 100));
        let keeper = machine.spawn(AddressSpace::default());
        if seed.is_multiple_of(3) {
            machine.write_sysctl(keeper, "kernel.shm_rmid_forced", "1").unwrap();
        }
        Story {
            seed,
            machine,
            dice: Xoshiro256PlusPlus::seed_from_u64(!seed),
            keeper,
            processes: BTreeMap::new(),
            calls: BTreeMap::new(),
            known: Vec::new(),
            attachments: 0,
            killed: 0,
        }
    }

    fn tell(mut self) -> (u64, u64) {
        for _ in 0..300 {
            self.step();
        }
        self.all_rest();
        self.compare_counts();
        self.end()
    }

    fn step(&mut self) {
        while self.processes.len() < PROCESSES {
            let new = self.machine.spawn(AddressSpace::default());
            self.processes.insert(new, Vec::new());
        }
        let tids: Vec<Tid> = self.processes.keys().copied().collect();
        let tid = *tids.choose(&mut self.dice).unwrap();
        match self.machine.state(tid) {
            State::Idle => self.act(tid),
            State::Stopped => self.machine.signal(tid, SIGCONT),
            _ => _ = self.machine.turn(),
        }
        for _ in 0..self.dice.random_range(0..10) {
            self.machine.turn();
        }
        self.look();
    }

    fn act(&mut self, tid: Tid) {
        let id = self.known.choose(&mut self.dice).copied().unwrap_or(0);
        let (doing, call) = match self.dice.random_range(0..20) {
            0..5 => {
                let key = self.dice.random_range(0..=KEYS);
                let size = self.dice.random_range(1..=PAGE);
                // A key's segment may be smaller, then it is an error.
                let flags = IPC_CREAT | 0o600;
                (Doing::Get, Syscall::Shmget(Shmget { key, size, flags }))
            }
            5..11 => {
                let write = self.dice.random_ratio(2, 3);
                let flags = if write { 0 } else { SHM_RDONLY };
                (Doing::Attach { id, write }, Syscall::Shmat(Shmat { id, addr: 0, flags, raddr: None }))
            }
            11..15 => {
                let Some(Attached { at, .. }) = self.processes[&tid].choose(&mut self.dice).copied() else {
                    return;
                };
                (Doing::Detach { at }, Syscall::Shmdt(Shmdt { addr: at }))
            }
            15..17 => (Doing::Remove, Syscall::Shmctl(Shmctl { id, cmd: IPC_RMID, buf: 0 })),
            17 if self.processes.len() < 2 * PROCESSES => {
                let (child, has) = (self.machine.fork(tid), self.processes[&tid].clone());
                self.processes.insert(child, has);
                return;
            }
            17 => return self.machine.signal(tid, SIGSTOP),
            // By munmap(2), of which the machine tells the engine.
            18 => {
                if let Some(Attached { at, .. }) = self.processes.get_mut(&tid).unwrap().pop() {
                    self.machine.munmap(tid, at, PAGE);
                }
                return;
            }
            _ => return self.machine.exit(tid),
        };
        self.calls.insert(tid, doing);
        self.machine.call(tid, call);
    }

    /// Takes the results of all calls that are over, and looks who has died.
    fn look(&mut self) {
        for tid in self.processes.keys().copied().collect::<Vec<_>>() {
            match self.machine.state(tid) {
                State::Returned(result) => {
                    self.machine.take(tid);
                    let doing = self.calls.remove(&tid).unwrap();
                    self.check(tid, doing, result);
                }
                State::Dead => {
                    self.killed += 1;
                    self.processes.remove(&tid);
                    self.calls.remove(&tid);
                }
                _ => {}
            }
        }
    }

    fn check(&mut self, tid: Tid, doing: Doing, result: abi::Result<i64>) {
        let seed = self.seed;
        match (doing, result) {
            (Doing::Get, Ok(id)) => self.known.push(i32::try_from(id).unwrap()),
            (Doing::Attach { id, write }, Ok(at)) => {
                self.attachments += 1;
                let at = u64::try_from(at).unwrap();
                self.processes.get_mut(&tid).unwrap().push(Attached { id, at });
                self.sign(tid, id, at, write);
            }
            (Doing::Detach { at }, Ok(_)) => {
                let attached = self.processes.get_mut(&tid).unwrap();
                let place = attached.iter().position(|one| one.at == at).unwrap();
                attached.remove(place);
            }
            (Doing::Remove, Ok(_)) => {}
            (_, Err(error)) => {
                let usual = [Errno::EINVAL, Errno::EIDRM];
                assert!(usual.contains(&error), "seed {seed}: {doing:?}: {error:?}");
                assert!(!matches!(doing, Doing::Detach { .. }), "seed {seed}: {doing:?}: {error:?}");
            }
        }
    }

    /// Looks whose segment it is, and writes that there.
    fn sign(&mut self, tid: Tid, id: i32, at: u64, write: bool) {
        let mut word = [0; 4];
        let mut memory = self.machine.memory(tid);
        memory.read(at, &mut word).unwrap();
        let seen = i32::from_ne_bytes(word);
        assert!(seen == 0 || seen == id + 1, "seed {}: segment {id} has what is {}'s", self.seed, seen - 1);
        let written = memory.write(at, &(id + 1).to_ne_bytes());
        assert_eq!(written, if write { Ok(()) } else { Err(Errno::EFAULT) }, "seed {}", self.seed);
    }

    /// Nobody is stopped, killed or in the middle of a call any more.
    fn all_rest(&mut self) {
        self.machine.schedule().calm_down();
        for tid in self.processes.keys().copied().collect::<Vec<_>>() {
            if self.machine.state(tid) == State::Stopped {
                self.machine.signal(tid, SIGCONT);
            }
        }
        while self.machine.turn() {}
        self.look();
    }

    fn listed(&mut self) -> Vec<Listed> {
        let list = self.machine.read_file(self.keeper, "/proc/sysvipc/shm").unwrap();
        let of = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            Listed {
                id: fields[1].parse().unwrap(),
                mode: u32::from_str_radix(fields[2], 8).unwrap(),
                count: fields[6].parse().unwrap(),
            }
        };
        list.lines().skip(1).map(of).collect()
    }

    /// Each segment is counted as often as the living have it attached; what is removed is there only if somebody has.
    fn compare_counts(&mut self) {
        let mut attached: BTreeMap<i32, u64> = BTreeMap::new();
        for one in self.processes.values().flatten() {
            *attached.entry(one.id).or_default() += 1;
        }
        let seed = self.seed;
        for segment in self.listed() {
            assert_eq!(segment.count, attached.remove(&segment.id).unwrap_or(0), "seed {seed}: {segment:?}");
            assert!(segment.mode & SHM_DEST == 0 || segment.count > 0, "seed {seed}: {segment:?} is over");
        }
        assert!(attached.is_empty(), "seed {seed}: {attached:?} are attached, and are no segments");
    }

    /// All end: with the segments all goes that they took.
    fn end(mut self) -> (u64, u64) {
        for tid in self.processes.keys().copied().collect::<Vec<_>>() {
            self.machine.exit(tid);
        }
        for Listed { id, mode, count } in self.listed() {
            assert_eq!((mode & SHM_DEST, count), (0, 0), "seed {}: {id}", self.seed);
            self.machine.call(self.keeper, Syscall::Shmctl(Shmctl { id, cmd: IPC_RMID, buf: 0 }));
            while self.machine.turn() {}
            assert_eq!(self.machine.take(self.keeper), Some(Ok(0)), "seed {}", self.seed);
        }
        self.machine.exit(self.keeper);
        assert_eq!(self.machine.segments(), 0, "seed {}: memory is left", self.seed);
        let left = self.machine.usage();
        assert_eq!(left.blocks, nothing().blocks, "seed {}: something is left", self.seed);
        (self.attachments, self.killed)
    }
}

/// What a namespace keeps for good that has once had a segment.
fn nothing() -> Usage {
    let mut machine = Machine::new(true);
    let only = machine.spawn(AddressSpace::default());
    let make = Syscall::Shmget(Shmget { key: IPC_PRIVATE, size: 1, flags: 0o600 });
    let remove = Syscall::Shmctl(Shmctl { id: 0, cmd: IPC_RMID, buf: 0 });
    for call in [make, remove] {
        machine.call(only, call);
        assert_eq!(machine.take(only), Some(Ok(0)));
    }
    machine.exit(only);
    machine.usage()
}

#[test]
fn a_thousand_storms_of_segments() {
    let (mut attachments, mut killed) = (0, 0);
    for seed in 1..=1000 {
        let (attached, deaths) = Story::new(seed).tell();
        (attachments, killed) = (attachments + attached, killed + deaths);
    }
    assert!(attachments > 10_000 && killed > 10_000, "{attachments} attachments, {killed} deaths");
}
