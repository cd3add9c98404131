//! What only 32-bit programs can do: `ipc(2)`, the old structures, types and times of 32 bits.

use abi::compat::{
    CompatIpcPerm, CompatMsqid64Ds, CompatMsqidDs, CompatSemidDs, CompatShmidDs, CompatShminfo,
    CompatShminfo64, nr, op,
};
use abi::ipc::IPC_64;
use libc::{IPC_INFO, IPC_PRIVATE, IPC_SET, IPC_STAT};
use std::mem::offset_of;

use crate::{
    Door,
    call::{Answer, NOWAIT, UNDO, set_bytes},
    case::cases,
    check::{Outcome, ok, same},
    errno::{E2BIG, EAGAIN, EFAULT, EINVAL, ENOMSG, ENOSYS, Errno},
    memory::Pages,
    task::{Task, handle, own_pid},
};

const DOORS: &[Door] = &[Door::Kernel32, Door::Trap32];

cases! { "compat":
    operations_of_ipc.only(DOORS),
    receiving_by_ipc.only(DOORS),
    union_of_ipc_semctl.only(DOORS),
    operations_are_counted_without_sign.only(DOORS),
    address_of_ipc_shmat.only(DOORS),
    times.only(DOORS),
    old_structures.only(DOORS),
    old_structures_overflow.only(DOORS).root().limits(&[("kernel.msgmnb", "100000")]),
    setting_by_the_old_structure.only(DOORS),
    as_much_is_read_as_is_set.only(DOORS),
    limits_of_segments.only(DOORS),
    types_have_32_bits.only(DOORS),
    lengths_have_a_sign.only(DOORS),
    sleeps_are_interrupted.only(DOORS),
}

/// An address at which nothing is.
const BAD: u32 = 8;
const PAGE: u32 = 4096;

fn raw(number: u32, arguments: &[u32]) -> Answer<i64> {
    let mut registers = [0; 6];
    registers[..arguments.len()].copy_from_slice(arguments);
    int80::raw(number, registers).map_err(Errno)
}

/// `ipc(2)`, and the version of what it does.
fn ipc_version(version: u32, op: u32, arguments: &[u32]) -> Answer<i64> {
    raw(nr::IPC, &[&[version << 16 | op], arguments].concat())
}

fn ipc(op: u32, arguments: &[u32]) -> Answer<i64> {
    ipc_version(0, op, arguments)
}

fn u(value: i32) -> u32 {
    value.cast_unsigned()
}

fn id(made: Answer<i64>) -> Answer<u32> {
    made.map(|id| u32::try_from(id).expect("an id"))
}

fn queue() -> Answer<u32> {
    id(ipc(op::MSGGET, &[u(IPC_PRIVATE), 0o600]))
}

fn set(semaphores: u32) -> Answer<u32> {
    id(ipc(op::SEMGET, &[u(IPC_PRIVATE), semaphores, 0o600]))
}

fn segment(size: u32) -> Answer<u32> {
    id(ipc(op::SHMGET, &[u(IPC_PRIVATE), size, 0o600]))
}

/// Two pages below 4 GiB, the second without access: where the first one ends.
fn edge() -> (Pages, u32) {
    let pages = Pages::low(libc::PROT_READ | libc::PROT_WRITE, libc::PROT_NONE);
    let at = u32::try_from(pages.at(0).addr()).expect("below 4 GiB");
    (pages, at + PAGE)
}

/// A message of a type and the text `hello`, in memory until the next one.
fn hello(mtype: i32) -> u32 {
    int80::low(&[&mtype.to_ne_bytes()[..], b"hello"].concat())
}

fn send(queue: u32, mtype: i32) -> Answer<i64> {
    raw(nr::MSGSND, &[queue, hello(mtype), 5, 0])
}

fn word(at: u32) -> u32 {
    u32::from_ne_bytes(int80::look(at, 4).try_into().expect("four bytes"))
}

fn short(at: u32) -> u16 {
    u16::from_ne_bytes(int80::look(at, 2).try_into().expect("two bytes"))
}

fn operations_of_ipc() -> Outcome {
    for nothing in [0, 5, 10, 15, 20, 25, 99, 0xffff] {
        same!(ipc(nothing, &[0; 5]), Err(ENOSYS));
    }
    let id = ok!(queue());
    // The version matters to few of them.
    same!(ipc_version(7, op::MSGSND, &[id, 5, 0, hello(1)]), Ok(0));
    same!(ipc(op::MSGSND, &[u(-1), 5, 0, hello(1)]), Err(EINVAL));
    same!(ipc(op::MSGSND, &[id, u(-5), 0, hello(1)]), Err(EINVAL));
    same!(ipc(op::MSGSND, &[id, 5, 0, 0]), Err(EFAULT));
    same!(ipc(op::MSGCTL, &[id, u(libc::IPC_RMID)]), Ok(0));
    same!(ipc(op::MSGCTL, &[id, u(libc::IPC_RMID)]), Err(EINVAL));
    Ok(())
}

fn receiving_by_ipc() -> Outcome {
    let id = ok!(queue());
    let nowait = u(NOWAIT);
    same!(ipc(op::MSGRCV, &[id, 100, nowait, 0]), Err(EINVAL));
    same!(ipc(op::MSGRCV, &[id, 100, nowait, BAD]), Err(EFAULT));
    same!(ipc(op::MSGRCV, &[u(-1), 100, nowait, BAD]), Err(EINVAL));
    same!(ipc(op::MSGRCV, &[id, u(-1), nowait, BAD]), Err(EINVAL));
    let (pages, end) = edge();
    let buffer = end - 9;
    let kludge = |mtype: i32| int80::low(&[buffer.to_ne_bytes(), mtype.to_ne_bytes()].concat());
    same!(ipc(op::MSGRCV, &[id, 5, nowait, kludge(0)]), Err(ENOMSG));
    for mtype in [3, 2] {
        ok!(send(id, mtype));
    }
    same!(ipc(op::MSGRCV, &[id, 5, nowait, kludge(-2)]), Ok(5));
    same!(word(buffer), 2);
    same!(int80::look(buffer + 4, 5), b"hello");
    // Other versions take the type by the fifth argument.
    for version in [1, 2, 0x8000] {
        same!(ipc_version(version, op::MSGRCV, &[id, 5, nowait, 0, 9]), Err(ENOMSG));
        same!(ipc_version(version, op::MSGRCV, &[id, 5, nowait, buffer, 3]), Ok(5));
        ok!(send(id, 3));
    }
    same!(ipc_version(1, op::MSGRCV, &[id, u(-1), nowait, buffer, 3]), Err(EINVAL));
    // The message is lost, as the buffer is too short for it.
    same!(ipc_version(1, op::MSGRCV, &[id, 5, nowait, buffer + 1, 3]), Err(EFAULT));
    same!(ipc_version(1, op::MSGRCV, &[id, 5, nowait, buffer, 3]), Err(ENOMSG));
    drop(pages);
    Ok(())
}

fn union_of_ipc_semctl() -> Outcome {
    let id = ok!(set(2));
    let getval = u(libc::GETVAL);
    same!(ipc(op::SEMCTL, &[id, 0, getval, 0]), Err(EINVAL));
    same!(ipc(op::SEMCTL, &[u(-1), 0, getval, 0]), Err(EINVAL));
    same!(ipc(op::SEMCTL, &[id, 0, getval, BAD]), Err(EFAULT));
    same!(ipc(op::SEMCTL, &[id, 1, u(libc::SETVAL), int80::low(&7u32.to_ne_bytes())]), Ok(0));
    let union = int80::low(&[0; 4]);
    same!(ipc(op::SEMCTL, &[id, 1, getval, union]), Ok(7));
    same!(ipc(op::SEMCTL, &[id, 1, getval | u(IPC_64), union]), Ok(7));
    same!(ipc(op::SEMCTL, &[id, 1, getval | (2 * u(IPC_64)), union]), Err(EINVAL));
    same!(ipc(op::SEMCTL, &[id, 1, u(-1), union]), Err(EINVAL));
    same!(raw(nr::SEMCTL, &[id, 1, getval, 0]), Ok(7));
    Ok(())
}

fn operation(delta: i16, flags: i16) -> [u8; 6] {
    let [[a, b], [c, d]] = [delta.to_ne_bytes(), flags.to_ne_bytes()];
    [0, 0, a, b, c, d]
}

fn operations_are_counted_without_sign() -> Outcome {
    let id = ok!(set(1));
    let up = int80::low(&operation(1, UNDO));
    same!(ipc(op::SEMOP, &[id, 1, 0, up]), Ok(0));
    same!(ipc(op::SEMOP, &[id, u(-1), 0, up]), Err(E2BIG));
    same!(ipc(op::SEMOP, &[id, 0, 0, up]), Err(EINVAL));
    same!(ipc(op::SEMOP, &[id, 501, 0, up]), Err(E2BIG));
    Ok(())
}

fn address_of_ipc_shmat() -> Outcome {
    let id = ok!(segment(PAGE + 1));
    let place = int80::low(&[0; 4]);
    same!(ipc(op::SHMAT, &[id, 0, place, 0]), Ok(0));
    let at = word(place);
    same!(at != 0 && at.is_multiple_of(PAGE), true);
    same!(word(at + PAGE), 0);
    same!(ipc(op::SHMDT, &[0, 0, 0, at]), Ok(0));
    same!(ipc(op::SHMDT, &[0, 0, 0, at]), Err(EINVAL));
    same!(ipc_version(1, op::SHMAT, &[id, 0, place, 0]), Err(EINVAL));
    same!(ipc_version(1, op::SHMAT, &[u(-1), 0, place, 0]), Err(EINVAL));
    same!(ipc_version(2, op::SHMAT, &[id, 0, place, 0]), Ok(0));
    // It stays attached where nobody learns the address.
    same!(ipc(op::SHMAT, &[id, 0, BAD, 0]), Err(EFAULT));
    same!(ipc(op::SHMAT, &[u(-1), 0, BAD, 0]), Err(EINVAL));
    let (_pages, end) = edge();
    ok!(raw(nr::SHMCTL, &[id, u(IPC_STAT), end - 84]));
    same!(word(end - 84 + 72), 2);
    let again = ok!(raw(nr::SHMAT, &[id, 0, 0]));
    same!(u32::try_from(again).is_ok(), true);
    Ok(())
}

fn times() -> Outcome {
    let id = ok!(set(1));
    let (_pages, end) = edge();
    let (_others, down) = edge();
    let down = down - 6;
    set_bytes(down as usize, &operation(-1, 0));
    let wait = |seconds: i32, nanoseconds: i32| {
        set_bytes(end as usize - 8, &[seconds.to_ne_bytes(), nanoseconds.to_ne_bytes()].concat());
        ipc(op::SEMTIMEDOP, &[id, 1, 0, down, end - 8])
    };
    same!(wait(0, 1000), Err(EAGAIN));
    for [seconds, nanoseconds] in [[0, -1], [0, 1_000_000_000], [-1, 0]] {
        same!(wait(seconds, nanoseconds), Err(EINVAL));
    }
    same!(ipc(op::SEMTIMEDOP, &[id, 1, 0, down, end - 7]), Err(EFAULT));
    let wait = |seconds: i64, nanoseconds: i64| {
        set_bytes(end as usize - 16, &[seconds.to_ne_bytes(), nanoseconds.to_ne_bytes()].concat());
        raw(nr::SEMTIMEDOP_TIME64, &[id, down, 1, end - 16])
    };
    same!(wait(0, 1000), Err(EAGAIN));
    // What is above the nanoseconds is padding.
    same!(wait(0, 1000 | 0x77 << 32), Err(EAGAIN));
    for [seconds, nanoseconds] in [[0, -1], [0, 1_000_000_000], [-1, 0]] {
        same!(wait(seconds, nanoseconds), Err(EINVAL));
    }
    same!(raw(nr::SEMTIMEDOP_TIME64, &[id, down, 1, end - 15]), Err(EFAULT));
    set_bytes(down as usize, &operation(1, 0));
    same!(ipc(op::SEMTIMEDOP, &[id, 1, 0, down, 0]), Ok(0));
    same!(raw(nr::SEMTIMEDOP_TIME64, &[id, down, 1, 0]), Ok(0));
    Ok(())
}

fn old_structures() -> Outcome {
    let (_pages, end) = edge();
    let pid = u(own_pid());
    let low = (pid & 0xffff) as u16;
    let queue = ok!(queue());
    ok!(send(queue, 1));
    let at = end - size_of::<CompatMsqidDs>() as u32;
    same!(ipc(op::MSGCTL, &[queue, u(IPC_STAT), 0, at]), Ok(0));
    let field = |offset: usize| at + offset as u32;
    same!(short(field(offset_of!(CompatIpcPerm, mode))), 0o600);
    same!(short(field(offset_of!(CompatMsqidDs, msg_cbytes))), 5);
    same!(short(field(offset_of!(CompatMsqidDs, msg_qnum))), 1);
    same!(short(field(offset_of!(CompatMsqidDs, msg_qbytes))), 16384);
    same!(short(field(offset_of!(CompatMsqidDs, msg_lspid))), low);
    same!(word(field(offset_of!(CompatMsqidDs, msg_lcbytes))), 0);
    same!(word(field(offset_of!(CompatMsqidDs, msg_lqbytes))), 0);
    same!(word(field(offset_of!(CompatMsqidDs, msg_stime))) != 0, true);
    same!(ipc(op::MSGCTL, &[queue, u(IPC_STAT), 0, at + 1]), Err(EFAULT));
    // The same command with the new structure.
    let new = end - size_of::<CompatMsqid64Ds>() as u32;
    same!(ipc(op::MSGCTL, &[queue, u(IPC_STAT) | u(IPC_64), 0, new]), Ok(0));
    same!(word(new + offset_of!(CompatMsqid64Ds, msg_lspid) as u32), pid);
    same!(raw(nr::MSGCTL, &[queue, u(IPC_STAT), new]), Ok(0));
    same!(raw(nr::MSGCTL, &[queue, u(IPC_STAT), new + 1]), Err(EFAULT));

    let set = ok!(set(3));
    let at = end - size_of::<CompatSemidDs>() as u32;
    same!(ipc(op::SEMCTL, &[set, 0, u(IPC_STAT), int80::low(&at.to_ne_bytes())]), Ok(0));
    same!(short(at + offset_of!(CompatSemidDs, sem_nsems) as u32), 3);
    same!(word(at + offset_of!(CompatSemidDs, sem_otime) as u32), 0);
    same!(word(at + offset_of!(CompatSemidDs, sem_ctime) as u32) != 0, true);

    let segment = ok!(segment(5000));
    ok!(raw(nr::SHMAT, &[segment, 0, 0]));
    let at = end - size_of::<CompatShmidDs>() as u32;
    same!(ipc(op::SHMCTL, &[segment, u(IPC_STAT), 0, at]), Ok(0));
    same!(word(at + offset_of!(CompatShmidDs, shm_segsz) as u32), 5000);
    same!(short(at + offset_of!(CompatShmidDs, shm_cpid) as u32), low);
    same!(short(at + offset_of!(CompatShmidDs, shm_nattch) as u32), 1);
    Ok(())
}

fn old_structures_overflow() -> Outcome {
    let (_pages, end) = edge();
    let id = ok!(queue());
    let new = end - size_of::<CompatMsqid64Ds>() as u32;
    ok!(raw(nr::MSGCTL, &[id, u(IPC_STAT), new]));
    set_bytes(new as usize + 4, &[70000u32.to_ne_bytes(), 65535u32.to_ne_bytes()].concat());
    let qbytes = new + offset_of!(CompatMsqid64Ds, msg_qbytes) as u32;
    set_bytes(qbytes as usize, &80000u32.to_ne_bytes());
    same!(raw(nr::MSGCTL, &[id, u(IPC_SET), new]), Ok(0));
    let at = end - size_of::<CompatMsqidDs>() as u32;
    same!(ipc(op::MSGCTL, &[id, u(IPC_STAT), 0, at]), Ok(0));
    same!([short(at + 4), short(at + 6)], [65534, 65535]);
    same!(short(at + offset_of!(CompatMsqidDs, msg_qbytes) as u32), (80000 - 65536) as u16);
    Ok(())
}

fn setting_by_the_old_structure() -> Outcome {
    let (_pages, end) = edge();
    let id = ok!(queue());
    let at = end - size_of::<CompatMsqidDs>() as u32;
    ok!(ipc(op::MSGCTL, &[id, u(IPC_STAT), 0, at]));
    set_bytes(at as usize + offset_of!(CompatIpcPerm, mode), &0o640u16.to_ne_bytes());
    set_bytes(at as usize + offset_of!(CompatMsqidDs, msg_lqbytes), &9999u32.to_ne_bytes());
    for qbytes in [4321u16, 0] {
        set_bytes(at as usize + offset_of!(CompatMsqidDs, msg_qbytes), &qbytes.to_ne_bytes());
        same!(ipc(op::MSGCTL, &[id, u(IPC_SET), 0, at]), Ok(0));
        let new = end - size_of::<CompatMsqid64Ds>() as u32;
        let kept = int80::look(at, size_of::<CompatMsqidDs>());
        ok!(raw(nr::MSGCTL, &[id, u(IPC_STAT), new]));
        same!(short(new + 20), 0o640);
        // The wider field is not looked at.
        same!(word(new + offset_of!(CompatMsqid64Ds, msg_qbytes) as u32), u32::from(qbytes));
        set_bytes(at as usize, &kept);
    }
    Ok(())
}

fn as_much_is_read_as_is_set() -> Outcome {
    let (_pages, end) = edge();
    let (queue, set, segment) = (ok!(queue()), ok!(set(1)), ok!(segment(1)));
    let set_all = |have: u32| {
        let at = end - have;
        let union = int80::low(&at.to_ne_bytes());
        [
            raw(nr::MSGCTL, &[queue, u(IPC_SET), at]).is_ok(),
            raw(nr::SEMCTL, &[set, 0, u(IPC_SET), at]).is_ok(),
            raw(nr::SHMCTL, &[segment, u(IPC_SET), at]).is_ok(),
            ipc(op::MSGCTL, &[queue, u(IPC_SET), 0, at]).is_ok(),
            ipc(op::SEMCTL, &[set, 0, u(IPC_SET), union]).is_ok(),
            ipc(op::SHMCTL, &[segment, u(IPC_SET), 0, at]).is_ok(),
        ]
    };
    same!(set_all(12), [false; 6]);
    same!(set_all(16), [false, false, false, false, true, true]);
    same!(set_all(36), [false, true, true, false, true, true]);
    same!(set_all(68), [false, true, true, true, true, true]);
    same!(set_all(72), [true; 6]);
    Ok(())
}

fn limits_of_segments() -> Outcome {
    let (_pages, end) = edge();
    let limits = [0x7fff_ffff, 1, 4096, 4096, 0xfeff_ffff];
    let read = |at: u32| [0, 4, 8, 12, 16].map(|offset| word(at + offset));
    let new = end - size_of::<CompatShminfo64>() as u32;
    same!(raw(nr::SHMCTL, &[0, u(IPC_INFO), new]), Ok(0));
    same!(read(new), limits);
    let old = end - size_of::<CompatShminfo>() as u32;
    set_bytes(old as usize, &[0; 20]);
    same!(ipc(op::SHMCTL, &[0, u(IPC_INFO), 0, old]), Ok(0));
    same!(read(old), limits);
    Ok(())
}

fn types_have_32_bits() -> Outcome {
    let id = ok!(queue());
    let wide = [(1i64 << 32 | 5).to_ne_bytes(), *b"12345678"].concat();
    // SAFETY: a type and a text of that length.
    same!(unsafe { libc::msgsnd(u_id(id), wide.as_ptr().cast(), 8, 0) }, 0);
    let (_pages, end) = edge();
    let buffer = end - 12;
    // It is found by its whole type, of which half is seen.
    same!(raw(nr::MSGRCV, &[id, buffer, 8, 5, u(NOWAIT)]), Err(ENOMSG));
    same!(raw(nr::MSGRCV, &[id, buffer, 8, 0, u(NOWAIT)]), Ok(8));
    same!((word(buffer), int80::look(buffer + 4, 8)), (5, b"12345678".to_vec()));
    // A negative type has a sign.
    ok!(send(id, 9));
    same!(raw(nr::MSGRCV, &[id, buffer, 8, u(-8), u(NOWAIT)]), Err(ENOMSG));
    same!(raw(nr::MSGRCV, &[id, buffer, 8, u(-9), u(NOWAIT)]), Ok(5));
    same!(send(id, -9), Err(EINVAL));
    Ok(())
}

fn u_id(id: u32) -> i32 {
    id.cast_signed()
}

fn lengths_have_a_sign() -> Outcome {
    let id = ok!(queue());
    same!(raw(nr::MSGSND, &[id, hello(1), u(-1), 0]), Err(EINVAL));
    same!(raw(nr::MSGRCV, &[id, hello(1), u(-1), 0, u(NOWAIT)]), Err(EINVAL));
    Ok(())
}

fn sleeps_are_interrupted() -> Outcome {
    let (queue, set) = (ok!(queue()), ok!(set(1)));
    for restart in [0, libc::SA_RESTART] {
        for by_ipc in [false, true] {
            let receiver = Task::start(move || {
                handle(libc::SIGUSR1, restart);
                let buffer = int80::low(&[0; 16]);
                if by_ipc {
                    ipc_version(1, op::MSGRCV, &[queue, 12, 0, buffer, 0])
                } else {
                    raw(nr::MSGRCV, &[queue, buffer, 12, 0, 0])
                }
            })?;
            receiver.asleep()?;
            receiver.signal(libc::SIGUSR1);
            same!(receiver.report()?, Err(crate::errno::EINTR));
        }
        let waiter = Task::start(move || {
            handle(libc::SIGUSR1, restart);
            ipc(op::SEMOP, &[set, 1, 0, int80::low(&operation(-1, 0))])
        })?;
        waiter.asleep()?;
        waiter.signal(libc::SIGUSR1);
        same!(waiter.report()?, Err(crate::errno::EINTR));
    }
    let receiver = Task::start(move || raw(nr::MSGRCV, &[queue, int80::low(&[0; 16]), 12, 0, 0]))?;
    receiver.asleep()?;
    receiver.stop()?;
    receiver.signal(libc::SIGCONT);
    receiver.asleep()?;
    ok!(send(queue, 1));
    same!(receiver.report()?, Ok(5));
    Ok(())
}
