//! POSIX queues in any order of calls, sleeps, signals and deaths: nothing is left behind, and what is received is what was sent.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use abi::{
    Errno, Result,
    mqueue::{O_CREAT, O_NONBLOCK, O_RDWR},
    time::Timespec,
};
use engine::{
    Syscall,
    syscall::{MqNotify, MqOpen, MqTimedreceive, MqTimedsend, MqUnlink},
};
use kernel_host::{Access, AddressSpace, Machine, Memory, SIGKILL, Schedule, State, Tid};

const NAMES: u64 = 0x10000;
const TEXT: u64 = 0x11000;
const ROOM: u64 = 0x12000;
const PRIO: u64 = 0x13000;
const SOON: u64 = 0x14000;
const ATTR: u64 = 0x15000;
const EVENT: u64 = 0x16000;
const SIGUSR1: i32 = 10;
/// Bytes of a message.
const SIZE: u64 = 16;
const SECOND: u64 = 1_000_000_000;

fn memory(maxmsg: i64) -> AddressSpace {
    let mut memory = AddressSpace::default();
    memory.map(NAMES, 0x7000, Access::ReadWrite);
    memory.fill(NAMES, b"queue a\0queue b\0").unwrap();
    let attr = [0, maxmsg, SIZE.cast_signed(), 0, 0, 0, 0, 0].map(i64::to_ne_bytes).concat();
    memory.fill(ATTR, &attr).unwrap();
    // SIGEV_NONE.
    memory.fill(EVENT + 12, &1i32.to_ne_bytes()).unwrap();
    memory
}

fn open(name: u64, oflag: i32) -> Syscall {
    Syscall::MqOpen(MqOpen { name: NAMES + name * 8, oflag: O_RDWR | oflag, mode: 0o600, attr: ATTR })
}

fn send(fd: i32, prio: u32, timeout: u64) -> Syscall {
    Syscall::MqTimedsend(MqTimedsend { fd, msg: TEXT, len: SIZE, prio, timeout, time32: false })
}

fn receive(fd: i32, timeout: u64) -> Syscall {
    Syscall::MqTimedreceive(MqTimedreceive { fd, msg: ROOM, len: SIZE, prio: PRIO, timeout, time32: false })
}

/// Random numbers, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

struct Story {
    seed: u64,
    machine: Machine<AddressSpace>,
    dice: Dice,
    processes: Vec<Tid>,
    /// Calls that have not returned.
    asleep: BTreeMap<Tid, Syscall>,
    maxmsg: i64,
    sleeps: u64,
    received: u64,
    killed_at_steps: u64,
}

impl Story {
    fn new(seed: u64, maxmsg: i64, schedule: Schedule) -> Story {
        Story {
            seed,
            machine: Machine::with_schedule(true, schedule),
            dice: Dice(seed),
            processes: Vec::new(),
            asleep: BTreeMap::new(),
            maxmsg,
            sleeps: 0,
            received: 0,
            killed_at_steps: 0,
        }
    }

    fn step(&mut self) {
        if self.processes.len() < 5 {
            let new = match self.processes.first() {
                // A child has its parent's descriptors; it is not asked of one in a call.
                Some(parent) if self.dice.below(2) == 0 && !self.asleep.contains_key(parent) => {
                    self.machine.fork(*parent)
                }
                _ => self.machine.spawn(memory(self.maxmsg)),
            };
            self.machine.handle(new, SIGUSR1, self.dice.below(2) == 0);
            self.processes.push(new);
        }
        let at = usize::try_from(self.dice.below(self.processes.len() as u64)).unwrap();
        let tid = self.processes[at];
        if self.asleep.contains_key(&tid) {
            match self.dice.below(12) {
                0 => self.machine.signal(tid, SIGUSR1),
                1 => self.kill(at),
                2 => {
                    if let Some(next) = self.machine.next_deadline() {
                        self.machine.advance_to(next);
                    }
                }
                _ => {}
            }
        } else {
            self.act(at, tid);
        }
        self.look();
    }

    fn act(&mut self, at: usize, tid: Tid) {
        let fd = 3 + i32::try_from(self.dice.below(3)).unwrap();
        let name = self.dice.below(2);
        let soon = self.machine.realtime_ns() + 2_000_000;
        let soon = Timespec {
            tv_sec: (soon / 1_000_000_000).cast_signed(),
            tv_nsec: (soon % 1_000_000_000).cast_signed(),
        };
        let soon = [soon.tv_sec, soon.tv_nsec].map(i64::to_ne_bytes).concat();
        self.machine.memory(tid).fill(SOON, &soon).unwrap();
        let timeout = if self.dice.below(3) == 0 { SOON } else { 0 };
        let call = match self.dice.below(40) {
            0..12 => {
                let prio = u32::try_from(self.dice.below(8) * 4000).unwrap();
                // A message says with which priority it was sent.
                let text = [u64::from(prio), self.dice.below(1 << 20)].map(u64::to_ne_bytes).concat();
                self.machine.memory(tid).fill(TEXT, &text).unwrap();
                send(fd, prio, timeout)
            }
            12..24 => receive(fd, timeout),
            24..32 => open(name, if self.dice.below(4) == 0 { O_NONBLOCK } else { O_CREAT }),
            32..34 => Syscall::MqUnlink(MqUnlink { name: NAMES + name * 8 }),
            34..36 => Syscall::MqNotify(MqNotify { fd, sevp: EVENT * self.dice.below(2) }),
            36..39 => {
                let _: Result<()> = self.machine.close(tid, fd);
                return;
            }
            _ => return self.kill(at),
        };
        self.machine.call(tid, call);
        self.asleep.insert(tid, call);
        self.sleeps += u64::from(self.machine.state(tid) == State::Asleep);
    }

    fn kill(&mut self, at: usize) {
        let tid = self.processes.remove(at);
        self.asleep.remove(&tid);
        self.machine.signal(tid, SIGKILL);
    }

    /// Takes the results of all calls that are over, and looks who has died at a step of one.
    fn look(&mut self) {
        for _ in 0..self.dice.below(20) {
            self.machine.turn();
        }
        for tid in self.processes.clone() {
            if self.machine.state(tid) == State::Dead {
                self.processes.retain(|other| *other != tid);
                self.asleep.remove(&tid);
                self.killed_at_steps += 1;
            }
            if let State::Returned(result) = self.machine.state(tid) {
                self.machine.take(tid);
                self.check(tid, self.asleep[&tid], result);
                self.asleep.remove(&tid);
            }
        }
    }

    fn check(&mut self, tid: Tid, call: Syscall, result: Result<i64>) {
        const USUAL: [Errno; 6] =
            [Errno::EBADF, Errno::EAGAIN, Errno::ETIMEDOUT, Errno::EINTR, Errno::ENOENT, Errno::EBUSY];
        match (call, result) {
            (Syscall::MqTimedreceive(_), Ok(length)) => {
                assert_eq!(length, SIZE.cast_signed());
                let (mut text, mut prio) = ([0; 8], [0; 4]);
                self.machine.memory(tid).read(ROOM, &mut text).unwrap();
                self.machine.memory(tid).read(PRIO, &mut prio).unwrap();
                assert_eq!(u64::from_ne_bytes(text), u64::from(u32::from_ne_bytes(prio)));
                self.received += 1;
            }
            (_, Ok(value)) => assert!(value >= 0),
            (Syscall::MqOpen(_), Err(Errno::EMFILE)) => {}
            (_, Err(error)) => assert!(USUAL.contains(&error), "{call:?}: {error:?}"),
        }
    }

    /// All end; then one more process takes the names away.
    fn end(mut self) -> (u64, u64) {
        self.machine.schedule().calm_down();
        while !self.processes.is_empty() {
            self.kill(0);
        }
        let last = self.machine.spawn(memory(self.maxmsg));
        for name in 0..2 {
            self.machine.call(last, Syscall::MqUnlink(MqUnlink { name: NAMES + name * 8 }));
            assert!(matches!(self.machine.take(last), Some(Ok(0) | Err(Errno::ENOENT))));
        }
        let after = self.machine.usage().blocks;
        self.machine.exit(last);

        // What a namespace keeps for good that has once had queues.
        let mut other = Story::new(0, self.maxmsg, Schedule::in_order());
        let only = other.machine.spawn(memory(self.maxmsg));
        for call in [open(0, O_CREAT), Syscall::MqUnlink(MqUnlink { name: NAMES })] {
            other.machine.call(only, call);
            assert!(other.machine.take(only).unwrap().is_ok());
        }
        other.machine.close(only, 3).unwrap();
        assert_eq!(
            after,
            other.machine.usage().blocks,
            "seed {}: something is left of queues that are over",
            self.seed
        );
        (self.sleeps, self.received)
    }
}

/// Two that sleep until the clock of the day shows ten seconds more: one waits for a message, one for room.
fn two_sleepers() -> (Machine<AddressSpace>, [Tid; 2], u64) {
    let mut machine = Machine::new(true);
    let end = machine.realtime_ns() + 10 * SECOND;
    let soon = [end / SECOND, end % SECOND].map(u64::to_ne_bytes).concat();
    let sleepers = [(0, receive(3, SOON)), (1, send(3, 0, SOON))].map(|(name, sleep)| {
        let mut memory = memory(1);
        memory.fill(SOON, &soon).unwrap();
        let tid = machine.spawn(memory);
        let filled = if name == 1 { vec![send(3, 0, 0)] } else { vec![] };
        for call in [vec![open(name, O_CREAT)], filled].concat() {
            machine.call(tid, call);
            assert!(machine.take(tid).unwrap().is_ok());
        }
        machine.call(tid, sleep);
        assert_eq!(machine.state(tid), State::Asleep);
        tid
    });
    (machine, sleepers, end)
}

#[test]
fn a_clock_that_is_set_forward_ends_a_sleep() {
    let (mut machine, sleepers, end) = two_sleepers();
    let before = machine.now_ns();
    machine.set_realtime(end - 1);
    assert_eq!(sleepers.map(|tid| machine.state(tid)), [State::Asleep; 2], "not yet");
    machine.set_realtime(end);
    assert_eq!(sleepers.map(|tid| machine.take(tid)), [Some(Err(Errno::ETIMEDOUT)); 2]);
    assert_eq!(machine.now_ns(), before, "no time has passed");
}

#[test]
fn a_clock_that_is_set_back_prolongs_a_sleep() {
    let (mut machine, sleepers, end) = two_sleepers();
    machine.set_realtime(end - 3610 * SECOND);
    machine.advance_to(machine.now_ns() + 3609 * SECOND);
    assert_eq!(sleepers.map(|tid| machine.state(tid)), [State::Asleep; 2], "it is not so late again");
    machine.advance_to(machine.next_deadline().unwrap());
    assert_eq!(machine.realtime_ns(), end);
    assert_eq!(sleepers.map(|tid| machine.take(tid)), [Some(Err(Errno::ETIMEDOUT)); 2]);
}

#[test]
fn any_story_ends_with_nothing_left() {
    for seed in 1..=8 {
        let mut story = Story::new(seed, 1 + i64::try_from(seed % 4).unwrap(), Schedule::in_order());
        for _ in 0..20_000 {
            story.step();
        }
        let (sleeps, received) = story.end();
        assert!(sleeps > 500 && received > 500, "seed {seed}: {sleeps} sleeps, {received} messages");
    }
}

#[test]
fn so_does_any_story_with_pauses_and_kills_at_any_step() {
    let (mut received, mut killed) = (0, 0);
    for seed in 1..=1000 {
        let schedule = Schedule::random(seed, 1 + u32::try_from(seed % 9).unwrap(), 400);
        let mut story = Story::new(seed, 1 + i64::try_from(seed % 4).unwrap(), schedule);
        for _ in 0..200 {
            story.step();
        }
        killed += story.killed_at_steps;
        received += story.end().1;
    }
    assert!(received > 5000 && killed > 5000, "{received} messages, {killed} killed at a step");
}
