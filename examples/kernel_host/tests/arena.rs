//! What a call leaves in the arena, and what a call makes of an arena that was overwritten: where nothing else can happen in between.

#![expect(clippy::unwrap_used, reason = "tests")]

use abi::{
    Errno, Result,
    ipc::{IPC_NOWAIT, IPC_PRIVATE, IPC_RMID},
    msg::MSG_COPY,
    sem::{GETVAL, SETVAL},
};
use arena::OBJECT_LOCK;
use engine::{
    Syscall,
    syscall::{Msgctl, Msgget, Msgrcv, Msgsnd, Semctl, Semget, Semtimedop},
};
use kernel_host::{Access, AddressSpace, Credentials, Machine, State, Tid};

const BUFFER: u64 = 0x10000;
const KEY: i32 = 0x5eed_f00d;
const SIGUSR1: i32 = 10;
/// From an object's start to its key.
const OWN_KEY: u64 = 24;
/// More sets than one span has room for.
const MANY: usize = 600;
/// From an object's key to its first message, and to its first sleeper that alters.
const FIRST_MESSAGE: u64 = 72;
const FIRST_SLEEPER: u64 = 80;
/// The link to the next one, in a message and in a sleeper.
const NEXT_MESSAGE: u64 = 16;
const NEXT_SLEEPER: u64 = 28;
/// Of a handle.
const GRAIN: u64 = 64;

struct World {
    machine: Machine<AddressSpace>,
    process: Tid,
}

impl World {
    fn new() -> World {
        let mut machine = Machine::new(true);
        let mut memory = AddressSpace::default();
        memory.map(BUFFER, 0x4000, Access::ReadWrite);
        let process = machine.spawn(memory);
        World { machine, process }
    }

    fn thread(&mut self) -> Tid {
        self.machine.clone_thread(self.process)
    }

    /// A call that does not sleep.
    fn call(&mut self, tid: Tid, call: Syscall) -> Result<i64> {
        self.machine.call(tid, call);
        self.machine.take(tid).expect("a call that ends")
    }

    fn id(&mut self, call: Syscall) -> i32 {
        i32::try_from(self.call(self.process, call).unwrap()).unwrap()
    }

    fn semop(&mut self, set: i32, ops: &[(u16, i16)]) -> Syscall {
        let bytes: Vec<u8> = ops
            .iter()
            .flat_map(|(num, op)| [num.to_ne_bytes(), op.to_ne_bytes(), [0; 2]])
            .flatten()
            .collect();
        self.machine.memory(self.process).fill(BUFFER, &bytes).unwrap();
        Syscall::Semtimedop(Semtimedop {
            id: set,
            sops: BUFFER,
            nsops: ops.len() as u64,
            timeout: 0,
            time32: false,
        })
    }

    /// A thread that sleeps in a semop.
    fn sleeper(&mut self, set: i32, ops: &[(u16, i16)]) -> Tid {
        let (tid, call) = (self.thread(), self.semop(set, ops));
        self.machine.call(tid, call);
        assert_eq!(self.machine.state(tid), State::Asleep);
        tid
    }

    /// A process of this user's that has made many sets, of which the first has a key.
    fn maker_of_sets(&mut self, user: u32) -> (Tid, Vec<i32>) {
        let maker = self.machine.fork(self.process);
        self.machine.set_credentials(maker, Credentials::new(user, user, Vec::new()));
        let mut sets = Vec::new();
        for key in [KEY].into_iter().chain([IPC_PRIVATE; MANY - 1]) {
            let made = self.call(maker, Syscall::Semget(Semget { key, nsems: 1, flags: 0o1600 }));
            sets.push(i32::try_from(made.unwrap()).unwrap());
        }
        (maker, sets)
    }

    fn remove_sets(&mut self, maker: Tid, sets: &[i32]) {
        for id in sets {
            let remove = Semctl { id: *id, num: 0, cmd: IPC_RMID, arg: 0 };
            assert_eq!(self.call(maker, Syscall::Semctl(remove)), Ok(0));
        }
    }

    fn semctl(&mut self, set: i32, num: i32, cmd: i32, arg: u64) -> Result<i64> {
        self.call(self.process, Syscall::Semctl(Semctl { id: set, num, cmd, arg }))
    }

    fn word(&self, offset: u64) -> u32 {
        self.machine.overwrite(offset, |word| word)
    }

    /// Where the key of a living object lies: behind its id and its state.
    fn find_key(&self, id: i32) -> u64 {
        let head = [id, 1, KEY].map(i32::cast_unsigned);
        let mut found = (GRAIN..(1 << 20) - GRAIN).step_by(4).filter(|at| {
            self.word(*at) == head[0] && self.word(at + 4) == head[1] && self.word(at + 8) == head[2]
        });
        let at = found.next().expect("the object");
        assert_eq!(found.next(), None, "one object of the key");
        at + 8
    }
}

#[test]
fn a_long_undo_log_is_given_back_whatever_comes_of_the_call() {
    let mut world = World::new();
    let set = world.id(Syscall::Semget(Semget { key: IPC_PRIVATE, nsems: 2, flags: 0o600 }));
    // Whoever comes to this set from now on reserves a log for so many operations.
    let long: Vec<_> = [(0, -1)].into_iter().chain((0..50).flat_map(|_| [(1, 1), (1, -1)])).collect();
    world.sleeper(set, &long);
    let other = world.thread();
    world.machine.handle(other, SIGUSR1, false);
    let before = world.machine.usage().blocks;

    let call = world.semop(set, &[(0, -1)]);
    world.machine.call(other, call);
    world.machine.signal(other, SIGUSR1);
    assert_eq!(world.machine.take(other), Some(Err(Errno::EINTR)));
    assert_eq!(world.machine.usage().blocks, before, "after an interrupted semop");

    let call = world.semop(set, &[(7, 1)]);
    assert_eq!(world.call(other, call), Err(Errno::EFBIG));
    assert_eq!(world.machine.usage().blocks, before, "after a semop that fails");

    assert_eq!(world.semctl(set, 7, GETVAL, 0), Err(Errno::EINVAL));
    assert_eq!(world.machine.usage().blocks, before, "after GETVAL of nothing");
    assert_eq!(world.semctl(set, 7, SETVAL, 1), Err(Errno::EINVAL));
    assert_eq!(world.machine.usage().blocks, before, "after SETVAL of nothing");
}

#[test]
fn messages_in_a_circle_have_an_end() {
    let mut world = World::new();
    let queue = world.id(Syscall::Msgget(Msgget { key: KEY, flags: 0o1600 }));
    world.machine.memory(world.process).fill(BUFFER, &1i64.to_ne_bytes()).unwrap();
    for _ in 0..3 {
        let sent = world.call(
            world.process,
            Syscall::Msgsnd(Msgsnd { id: queue, msgp: BUFFER, size: 8, flags: 0, mtype: None }),
        );
        assert_eq!(sent, Ok(0));
    }
    let first = world.word(world.find_key(queue) + FIRST_MESSAGE);
    let mut last = first;
    loop {
        match world.word(u64::from(last) * GRAIN + NEXT_MESSAGE) {
            0 => break,
            next => last = next,
        }
    }
    world.machine.overwrite(u64::from(last) * GRAIN + NEXT_MESSAGE, |_| first);

    let flags = MSG_COPY | IPC_NOWAIT;
    let copy = Msgrcv { id: queue, msgp: BUFFER, size: 8, msgtyp: i64::MAX, flags, text: None };
    assert_eq!(world.call(world.process, Syscall::Msgrcv(copy)), Err(Errno::ENOMSG));
    let remove = Syscall::Msgctl(Msgctl { id: queue, cmd: IPC_RMID, buf: 0 });
    assert_eq!(world.call(world.process, remove), Ok(0));
    assert_eq!(world.call(world.process, remove), Err(Errno::EINVAL));
}

#[test]
fn a_sleeper_that_follows_itself_is_woken_once() {
    let mut world = World::new();
    let set = world.id(Syscall::Semget(Semget { key: KEY, nsems: 1, flags: 0o1600 }));
    // What it does can be done again and again.
    let sleeper = world.sleeper(set, &[(0, -1), (0, 1)]);
    let waiter = world.word(world.find_key(set) + FIRST_SLEEPER);
    world.machine.overwrite(u64::from(waiter) * GRAIN + NEXT_SLEEPER, |_| waiter);
    assert_eq!(world.semctl(set, 0, SETVAL, 1), Err(Errno::EIDRM));
    assert_eq!(world.machine.take(sleeper), Some(Ok(0)));
    assert_eq!(world.semctl(set, 0, GETVAL, 0), Err(Errno::EIDRM));
}

#[test]
fn what_objects_of_any_user_took_is_given_back_when_their_maker_has_ended() {
    for user in [0, 1000] {
        let mut world = World::new();
        let before = world.machine.usage().spans;
        let (maker, sets) = world.maker_of_sets(user);
        let most = world.machine.usage().spans;
        world.remove_sets(maker, &sets);
        world.machine.exit(maker);
        let after = world.machine.usage().spans;
        // The table of identifiers stays.
        assert!(most >= after + 3, "user {user}: {before} spans before, {most} with the sets, {after} after");
    }
}

#[test]
fn a_span_is_left_alone_while_somebody_holds_the_lock_of_a_removed_object() {
    let spans_after = |hold: bool| {
        let mut world = World::new();
        let (maker, sets) = world.maker_of_sets(0);
        let lock = world.find_key(sets[0]) - OWN_KEY + OBJECT_LOCK;
        world.remove_sets(maker, &sets);
        if hold {
            // It came to the lock when the set was gone, and has not seen that yet.
            let late = world.thread();
            assert_eq!(world.machine.overwrite(lock, |_| late), 0, "the lock is free");
        }
        world.machine.exit(maker);
        (world.machine.usage().spans, world.word(lock))
    };
    let ((nobody, _), (somebody, lock)) = (spans_after(false), spans_after(true));
    assert_eq!(somebody, nobody + 1);
    assert_ne!(lock, 0, "who holds the lock holds it still");
}
