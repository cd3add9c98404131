//! The world of processes, tried out on the kernel.

use std::path::Path;
use std::time::Duration;

use libc::{EINTR, EINVAL, IPC_CREAT, IPC_NOWAIT, IPC_PRIVATE, IPC_RMID, IPC_STAT, SEM_UNDO, SETVAL};
use world::{Call, Data, Processes, Ptr, Start, State, Text, World};

fn kernel() -> Processes {
    Processes::start(&Start::kernel().worker(Path::new(env!("CARGO_BIN_EXE_world-worker")))).unwrap()
}

fn queue(world: &mut Processes, task: u32) -> i32 {
    world.call(task, &Call::Msgget { key: IPC_PRIVATE, flags: IPC_CREAT | 0o600 }).id()
}

fn set(world: &mut Processes, task: u32, nsems: i32) -> i32 {
    world.call(task, &Call::Semget { key: IPC_PRIVATE, nsems, flags: IPC_CREAT | 0o600 }).id()
}

fn value(world: &mut Processes, task: u32, set: i32) -> i64 {
    world.call(task, &Call::semctl(set, 0, libc::GETVAL)).ok()
}

#[test]
fn a_sleeping_receiver_gets_the_message_of_another_process() {
    let mut world = kernel();
    let (receiver, sender) = (world.spawn(), world.spawn());
    let queue = queue(&mut world, sender);
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

#[test]
fn pointers_point_where_they_say() {
    let mut world = kernel();
    let task = world.spawn();
    let queue = queue(&mut world, task);
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

#[test]
fn undo_is_of_the_process_and_survives_exec() {
    let mut world = kernel();
    let (watcher, user) = (world.spawn(), world.spawn());
    let set = set(&mut world, watcher, 1);
    world.call(user, &Call::semop(set, &[(0, 3, SEM_UNDO as i16)])).ok();
    let thread = world.call(user, &Call::SpawnThread).ok() as u32;
    world.call(thread, &Call::semop(set, &[(0, 1, SEM_UNDO as i16)])).ok();
    world.start(thread, &Call::ExitThread);
    world.settle();
    assert_eq!(world.poll(thread), State::Dead);
    assert_eq!(value(&mut world, watcher, set), 4);
    world.call(user, &Call::Exec).ok();
    assert_eq!(value(&mut world, watcher, set), 4);
    let child = world.call(user, &Call::Fork).ok() as u32;
    world.kill(child);
    assert_eq!(value(&mut world, watcher, set), 4);
    world.kill(user);
    assert_eq!((world.poll(user), value(&mut world, watcher, set)), (State::Dead, 0));
}

#[test]
fn sleepers_hear_of_signals_removal_and_time() {
    let mut world = kernel();
    let (a, b) = (world.spawn(), world.spawn());
    let (queue, set) = (queue(&mut world, a), set(&mut world, a, 1));
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

#[test]
fn limits_can_be_written_and_ids_changed() {
    let mut world = kernel();
    let (a, b) = (world.spawn(), world.spawn());
    let limit = |value: &str| Call::WriteSysctl { name: "kernel.msgmax".into(), value: value.into() };
    let queue = queue(&mut world, a);
    world.call(a, &limit("4")).ok();
    assert_eq!(world.call(b, &Call::msgsnd(queue, 1, b"12345", IPC_NOWAIT)).errno, EINVAL);
    assert_eq!(world.call(a, &limit("-1")).errno, EINVAL);
    // SAFETY: no pointers, no failure.
    if unsafe { libc::geteuid() } == 0 {
        world.call(b, &Call::SetIds { euid: 1000, egid: 1000, groups: vec![1001] }).ok();
        assert_eq!(world.call(b, &Call::msgctl(queue, IPC_RMID)).errno, libc::EPERM);
    }
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
