//! Stories that are the same in every world: in processes on the kernel, and in the simulated one.

use std::path::Path;
use std::time::Duration;

use libc::{EINTR, EINVAL, IPC_CREAT, IPC_NOWAIT, IPC_PRIVATE, IPC_RMID, IPC_STAT, SEM_UNDO, SETVAL};
use world::{Call, Data, Processes, Ptr, Start, State, Text, World};

/// Tells a story in both worlds.
macro_rules! in_both_worlds {
    ($($story:ident)*) => {
        mod kernel {
            $(#[test] fn $story() { super::$story(&mut super::kernel()); })*
        }
        mod simulated {
            $(#[test] fn $story() { super::$story(&mut world::Simulated::new([])); })*
        }
    };
}

in_both_worlds! {
    a_sleeping_receiver_gets_the_message_of_another_process
    pointers_point_where_they_say
    undo_is_of_the_process_and_survives_exec
    sleepers_hear_of_signals_removal_and_time
    limits_can_be_written_and_ids_changed
    the_next_id_outlives_a_create_that_fails_before_it_gets_one
}

fn kernel() -> Processes {
    Processes::start(&Start::kernel().worker(Path::new(env!("CARGO_BIN_EXE_world-worker")))).unwrap()
}

fn queue(world: &mut dyn World, task: u32) -> i32 {
    world.call(task, &Call::Msgget { key: IPC_PRIVATE, flags: IPC_CREAT | 0o600 }).id()
}

fn set(world: &mut dyn World, task: u32, nsems: i32) -> i32 {
    world.call(task, &Call::Semget { key: IPC_PRIVATE, nsems, flags: IPC_CREAT | 0o600 }).id()
}

fn value(world: &mut dyn World, task: u32, set: i32) -> i64 {
    world.call(task, &Call::semctl(set, 0, libc::GETVAL)).ok()
}

fn a_sleeping_receiver_gets_the_message_of_another_process(world: &mut dyn World) {
    let (receiver, sender) = (world.spawn(), world.spawn());
    let queue = queue(world, sender);
    assert_eq!(queue, 0, "the namespace is a new one");
    world.block(receiver, &Call::msgrcv(queue, 100, 0, 0));
    world.call(sender, &Call::msgsnd(queue, 7, b"hello", 0)).ok();
    let reply = world.finish(receiver);
    assert_eq!((reply.ret, reply.data), (5, Data::Message { mtype: 7, text: b"hello".to_vec() }));
    let Data::MsgStat(stat) = world.call(sender, &Call::msgctl(queue, IPC_STAT)).data else {
        panic!("no structure")
    };
    assert_eq!((world.task_of(stat.lspid), world.task_of(stat.lrpid)), (Some(sender), Some(receiver)));
    assert_eq!((stat.perm.mode, stat.qnum, stat.qbytes), (0o600, 0, 16384));
}

fn pointers_point_where_they_say(world: &mut dyn World) {
    let task = world.spawn();
    let queue = queue(world, task);
    let send =
        |ptr| Call::Msgsnd { id: queue, ptr, mtype: 1, text: Text::Bytes(vec![1; 8]), size: 8, flags: 0 };
    for ptr in [Ptr::Null, Ptr::Bad, Ptr::Wild, Ptr::Straddle(4), Ptr::Straddle(15)] {
        assert_eq!(world.call(task, &send(ptr)).errno, libc::EFAULT, "{ptr:?}");
    }
    for ptr in [Ptr::Valid, Ptr::ReadOnly, Ptr::Straddle(16)] {
        assert_eq!(world.call(task, &send(ptr)).errno, 0, "{ptr:?}");
    }
    let receive = Call::Msgrcv { id: queue, ptr: Ptr::ReadOnly, size: 8, mtype: 0, flags: 0 };
    assert_eq!(world.call(task, &receive).errno, libc::EFAULT);
}

fn undo_is_of_the_process_and_survives_exec(world: &mut dyn World) {
    let (watcher, user) = (world.spawn(), world.spawn());
    let set = set(world, watcher, 1);
    world.call(user, &Call::semop(set, &[(0, 3, SEM_UNDO as i16)])).ok();
    let thread = world.call(user, &Call::SpawnThread).ok() as u32;
    world.call(thread, &Call::semop(set, &[(0, 1, SEM_UNDO as i16)])).ok();
    world.start(thread, &Call::ExitThread);
    world.settle();
    assert_eq!(world.poll(thread), State::Dead);
    assert_eq!(value(world, watcher, set), 4);
    world.call(user, &Call::Exec).ok();
    assert_eq!(value(world, watcher, set), 4);
    let child = world.call(user, &Call::Fork).ok() as u32;
    world.kill(child);
    assert_eq!(value(world, watcher, set), 4);
    world.kill(user);
    assert_eq!((world.poll(user), value(world, watcher, set)), (State::Dead, 0));
}

fn sleepers_hear_of_signals_removal_and_time(world: &mut dyn World) {
    let (a, b) = (world.spawn(), world.spawn());
    let (queue, set) = (queue(world, a), set(world, a, 1));
    world.call(b, &Call::Handler { signal: libc::SIGUSR1, restart: true }).ok();
    world.block(b, &Call::msgrcv(queue, 10, 0, 0));
    world.signal(b, libc::SIGUSR1);
    assert_eq!(world.finish(b).errno, EINTR);
    assert_eq!(world.call(b, &Call::Handler { signal: libc::SIGUSR1, restart: true }).ret, 1);

    world.block(b, &Call::msgrcv(queue, 10, 0, 0));
    world.signal(b, libc::SIGSTOP);
    assert_eq!(world.poll(b), State::Stopped);
    world.signal(b, libc::SIGCONT);
    world.settle();
    assert_eq!(world.poll(b), State::Blocked, "goes on after SIGCONT");
    world.call(a, &Call::msgctl(queue, IPC_RMID)).ok();
    assert_eq!(world.finish(b).errno, libc::EIDRM);

    let call = Call::semtimedop(set, &[(0, -1, 0)], Duration::from_millis(20));
    assert_eq!(world.call(b, &call).errno, libc::EAGAIN);
    world.block(b, &Call::semtimedop(set, &[(0, -1, 0)], Duration::from_secs(1000)));
    world.call(a, &Call::semctl_int(set, 0, SETVAL, 1)).ok();
    world.finish(b).ok();
}

fn limits_can_be_written_and_ids_changed(world: &mut dyn World) {
    let (a, b) = (world.spawn(), world.spawn());
    let limit = |value: &str| Call::WriteSysctl { name: "kernel.msgmax".into(), value: value.into() };
    let queue = queue(world, a);
    world.call(a, &limit("4")).ok();
    assert_eq!(world.call(b, &Call::msgsnd(queue, 1, b"12345", IPC_NOWAIT)).errno, EINVAL);
    assert_eq!(world.call(a, &limit("-1")).errno, EINVAL);
    // SAFETY: no pointers, no failure.
    if unsafe { libc::geteuid() } == 0 {
        world.call(b, &Call::SetIds { euid: 1000, egid: 1000, groups: vec![1001] }).ok();
        assert_eq!(world.call(b, &Call::msgctl(queue, IPC_RMID)).errno, libc::EPERM);
    }
}

fn the_next_id_outlives_a_create_that_fails_before_it_gets_one(world: &mut dyn World) {
    // SAFETY: no pointers, no failure.
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    let task = world.spawn();
    let write = |world: &mut dyn World, name: &str, value: &str| {
        world.call(task, &Call::WriteSysctl { name: format!("kernel.{name}"), value: value.into() }).ok();
    };
    let (msgget, semget) = (Call::Msgget { key: IPC_PRIVATE, flags: 0o600 }, |nsems| Call::Semget {
        key: IPC_PRIVATE,
        nsems,
        flags: 0o600,
    });
    write(world, "msgmni", "0");
    write(world, "msg_next_id", "65541");
    assert_eq!(world.call(task, &msgget).errno, libc::ENOSPC);
    write(world, "msgmni", "10");
    assert_eq!([world.call(task, &msgget).id(), world.call(task, &msgget).id()], [65541, 0]);
    write(world, "sem_next_id", "7");
    write(world, "sem", "64 10 10 100");
    assert_eq!(world.call(task, &semget(0)).errno, EINVAL);
    assert_eq!(world.call(task, &semget(11)).errno, libc::ENOSPC);
    assert_eq!([world.call(task, &semget(1)).id(), world.call(task, &semget(1)).id()], [7, 0]);
    // Behind the last index is none: this time it is used up.
    write(world, "msg_next_id", "32767");
    assert_eq!(world.call(task, &msgget).id(), 32767);
    write(world, "msg_next_id", "32767");
    assert_eq!(world.call(task, &msgget).errno, libc::ENOSPC);
    assert_eq!(world.call(task, &msgget).id(), 1);
}

#[test]
fn raw_calls_are_the_same_calls() {
    let start = Start::kernel().worker(Path::new(env!("CARGO_BIN_EXE_world-worker"))).raw();
    let mut world = Processes::start(&start).unwrap();
    let task = world.spawn();
    let (queue, set) = (queue(&mut world, task), set(&mut world, task, 3));
    world.call(task, &Call::msgsnd(queue, 1, b"x", 0)).ok();
    assert_eq!(world.call(task, &Call::msgrcv(queue, 10, 1, 0)).ok(), 1);
    world.call(task, &Call::semop(set, &[(0, 5, 0)])).ok();
    let call = Call::semtimedop(set, &[(1, -1, 0)], Duration::ZERO);
    assert_eq!(world.call(task, &call).errno, libc::EAGAIN);
    assert_eq!(world.call(task, &Call::semctl(set, 0, libc::GETALL)).data, Data::Values(vec![5, 0, 0]));
}
