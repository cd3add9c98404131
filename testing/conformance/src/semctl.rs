//! semctl(2): its commands, their order of checks, and what they show.

use libc::{
    GETALL, GETNCNT, GETPID, GETVAL, GETZCNT, IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, SEM_INFO, SEM_STAT,
};
use libc::{SEM_STAT_ANY, SETALL, SETVAL};

use crate::{
    call::{
        getall, getval, op, sem_info, sem_remove, sem_set, sem_stat, sem_stat_by, semctl, semget, semop,
        set_of, setall, setval,
    },
    case::cases,
    check::{Outcome, ok, same},
    errno::{EACCES, EFAULT, EINVAL, EPERM, ERANGE},
    memory::Bad,
    task::{Task, become_user, now, own_pid},
};

cases! { "semctl":
    unknown_commands.wide(),
    unknown_ids,
    bad_pointers,
    getval_permission_before_number.root(),
    setval_order_of_checks.root(),
    setval_stamps,
    setval_wakes,
    setall_order_of_checks.root(),
    setall_stamps,
    setall_wakes,
    getall_ignores_the_number,
    large_set_all_at_once,
    stat_needs_read_permission.root(),
    stat_by_index,
    set_changes,
    set_needs_the_owner.root(),
    limits,
    limits_as_set.limits(&[("kernel.sem", "100 2000 30 40")]),
    usage,
    highest_index,
}

fn unknown_commands() -> Outcome {
    let id = ok!(set_of(&[0]));
    for command in [-1, 4, 10, 21, 99, i32::MIN, 0x100 | IPC_STAT, 0x100 | IPC_RMID, 0x100 | GETVAL] {
        same!(semctl(id, 0, command, 0), Err(EINVAL));
    }
    same!(getval(id, 0), Ok(0));
    Ok(())
}

fn unknown_ids() -> Outcome {
    let commands = [
        GETVAL,
        GETPID,
        GETNCNT,
        GETZCNT,
        GETALL,
        SETVAL,
        SETALL,
        IPC_STAT,
        SEM_STAT,
        SEM_STAT_ANY,
        IPC_RMID,
    ];
    for id in [-1, 0, 3, 32768, i32::MAX, i32::MIN] {
        for command in commands {
            same!(semctl(id, 0, command, 0), Err(EINVAL));
        }
    }
    same!(semctl(-1, 0, IPC_INFO, 0), Err(EINVAL));
    same!(semctl(-1, 0, SEM_INFO, 0), Err(EINVAL));
    Ok(())
}

fn bad_pointers() -> Outcome {
    let id = ok!(set_of(&[3; 5]));
    let bad = Bad::new();
    for address in bad.unwritable() {
        for command in [IPC_STAT, SEM_STAT, SEM_STAT_ANY, IPC_INFO, SEM_INFO, GETALL] {
            same!(semctl(id, 0, command, address as usize), Err(EFAULT));
        }
    }
    for address in bad.unreadable() {
        same!(semctl(id, 0, SETALL, address as usize), Err(EFAULT));
        same!(semctl(77, 0, SETALL, address as usize), Err(EINVAL));
        same!(semctl(id, 0, IPC_SET, address as usize), Err(EFAULT));
        same!(semctl(77, 0, IPC_SET, address as usize), Err(EFAULT));
    }
    same!(getall(id, 5), Ok(vec![3; 5]));
    Ok(())
}

fn getval_permission_before_number() -> Outcome {
    let id = ok!(semget(libc::IPC_PRIVATE, 2, 0o622));
    for command in [GETVAL, GETPID, GETNCNT, GETZCNT] {
        same!(semctl(id, 2, command, 0), Err(EINVAL));
        same!(semctl(id, -1, command, 0), Err(EINVAL));
        same!(semctl(id, 1, command, 0), Ok(0));
    }
    become_user(1000, 1000, &[]);
    for command in [GETVAL, GETPID, GETNCNT, GETZCNT] {
        same!(semctl(id, 2, command, 0), Err(EACCES));
        same!(semctl(id, 1, command, 0), Err(EACCES));
    }
    same!(semctl(id, 0, GETALL, 0), Err(EACCES));
    Ok(())
}

/// The range before everything, then the set, the number, and last the permission.
fn setval_order_of_checks() -> Outcome {
    let id = ok!(semget(libc::IPC_PRIVATE, 2, 0o644));
    same!(setval(id, 0, 32767), Ok(0));
    for wrong in [-1, 32768, i32::MIN, i32::MAX] {
        same!(setval(id, 0, wrong), Err(ERANGE));
        same!(setval(77, 0, wrong), Err(ERANGE));
    }
    same!(setval(-1, 0, -1), Err(EINVAL));
    same!(setval(77, 0, 1), Err(EINVAL));
    become_user(1000, 1000, &[]);
    same!(setval(id, 2, -1), Err(ERANGE));
    same!(setval(id, 2, 1), Err(EINVAL));
    same!(setval(id, -1, 1), Err(EINVAL));
    same!(setval(id, 1, 1), Err(EACCES));
    Ok(())
}

fn setval_stamps() -> Outcome {
    let id = ok!(semget(libc::IPC_PRIVATE, 2, 0o600));
    let before = now();
    same!(setval(id, 1, 7), Ok(0));
    let ds = ok!(sem_stat(id));
    same!(ds.sem_otime, 0);
    same!((before..=now()).contains(&ds.sem_ctime), true);
    same!(semctl(id, 0, GETPID, 0), Ok(0));
    same!(semctl(id, 1, GETPID, 0), Ok(own_pid()));
    Ok(())
}

/// A sleeper that goes on stamps the set.
fn setval_wakes() -> Outcome {
    let id = ok!(set_of(&[0]));
    let task = Task::start(move || semop(id, &[op(0, -2, 0)]))?;
    task.asleep()?;
    ok!(setval(id, 0, 1));
    same!(task.sleeps_on(), true);
    same!(ok!(sem_stat(id)).sem_otime, 0);
    ok!(setval(id, 0, 3));
    same!(getval(id, 0), Ok(1));
    same!(task.report()?, Ok(0));
    same!(ok!(sem_stat(id)).sem_otime > 0, true);
    Ok(())
}

fn setall_order_of_checks() -> Outcome {
    let id = ok!(semget(libc::IPC_PRIVATE, 3, 0o644));
    same!(setall(id, &[1, 2, 32767]), Ok(0));
    same!(setall(id, &[4, 5, 32768]), Err(ERANGE));
    same!(setall(id, &[u16::MAX, 5, 6]), Err(ERANGE));
    same!(getall(id, 3), Ok(vec![1, 2, 32767]));
    become_user(1000, 1000, &[]);
    same!(setall(id, &[4, 5, 32768]), Err(EACCES));
    same!(semctl(id, 0, SETALL, 0), Err(EACCES));
    same!(getall(id, 3), Ok(vec![1, 2, 32767]));
    Ok(())
}

fn setall_stamps() -> Outcome {
    let id = ok!(semget(libc::IPC_PRIVATE, 2, 0o600));
    ok!(setall(id, &[1, 0]));
    for num in 0..2 {
        same!(semctl(id, num, GETPID, 0), Ok(own_pid()));
    }
    same!(ok!(sem_stat(id)).sem_otime, 0);
    Ok(())
}

fn setall_wakes() -> Outcome {
    let id = ok!(set_of(&[1, 0]));
    let zero = Task::start(move || semop(id, &[op(0, 0, 0)]))?;
    zero.asleep()?;
    let both = Task::start(move || semop(id, &[op(0, 1, 0), op(1, -4, 0)]))?;
    both.asleep()?;
    ok!(setall(id, &[0, 5]));
    same!((zero.report()?, both.report()?), (Ok(0), Ok(0)));
    same!(getall(id, 2), Ok(vec![1, 1]));
    Ok(())
}

fn getall_ignores_the_number() -> Outcome {
    let id = ok!(set_of(&[4]));
    let mut value = 0u16;
    same!(semctl(id, 99, GETALL, (&raw mut value) as usize), Ok(0));
    same!(value, 4);
    same!(semctl(id, -1, SETALL, (&raw const value) as usize), Ok(0));
    Ok(())
}

fn large_set_all_at_once() -> Outcome {
    let id = ok!(semget(libc::IPC_PRIVATE, 32000, 0o600));
    let values: Vec<u16> = (0..32000).collect();
    same!(setall(id, &values), Ok(0));
    same!(getall(id, 32000) == Ok(values), true);
    same!(semop(id, &[op(31999, -31999, 0)]), Ok(0));
    same!((getval(id, 31999), getval(id, 31998)), (Ok(0), Ok(31998)));
    Ok(())
}

fn stat_needs_read_permission() -> Outcome {
    let id = ok!(semget(libc::IPC_PRIVATE, 2, 0o622));
    become_user(1000, 1000, &[]);
    same!(semctl(id, 0, IPC_STAT, 0), Err(EACCES));
    same!(semctl(id, 0, SEM_STAT, 0), Err(EACCES));
    let (real, ds) = ok!(sem_stat_by(id, SEM_STAT_ANY));
    same!((real, ds.sem_nsems), (id, 2));
    Ok(())
}

fn stat_by_index() -> Outcome {
    for _ in 0..64 {
        let id = ok!(set_of(&[0]));
        ok!(sem_remove(id));
    }
    let id = ok!(set_of(&[0; 3]));
    for command in [SEM_STAT, SEM_STAT_ANY] {
        for argument in [0, id] {
            let (real, ds) = ok!(sem_stat_by(argument, command));
            same!((real, ds.sem_nsems), (32768, 3));
        }
        same!(sem_stat_by(1, command).map(|stat| stat.0), Err(EINVAL));
    }
    same!(sem_stat_by(id, IPC_STAT).map(|stat| stat.0), Ok(0));
    Ok(())
}

fn set_changes() -> Outcome {
    let id = ok!(semget(0x77, 2, libc::IPC_CREAT | 0o600));
    let mut ds = ok!(sem_stat(id));
    (ds.sem_perm.uid, ds.sem_perm.gid, ds.sem_perm.mode) = (1000, 1001, 0o7642);
    (ds.sem_perm.cuid, ds.sem_perm.__key, ds.sem_nsems, ds.sem_otime) = (5, 5, 5, 5);
    same!(sem_set(id, ds), Ok(0));
    let after = ok!(sem_stat(id));
    let perm = after.sem_perm;
    same!((perm.uid, perm.gid, perm.mode, perm.__key), (1000, 1001, 0o642, 0x77));
    same!((after.sem_nsems, after.sem_otime, perm.cuid == 5), (2, 0, false));
    ds.sem_perm.uid = u32::MAX;
    same!(sem_set(id, ds), Err(EINVAL));
    Ok(())
}

fn set_needs_the_owner() -> Outcome {
    let id = ok!(semget(libc::IPC_PRIVATE, 1, 0o666));
    become_user(1000, 1000, &[]);
    same!(sem_set(id, ok!(sem_stat(id))), Err(EPERM));
    same!(sem_remove(id), Err(EPERM));
    same!(setval(id, 0, 4), Ok(0));
    let own = ok!(semget(libc::IPC_PRIVATE, 1, 0));
    same!(getval(own, 0), Err(EACCES));
    same!(sem_remove(own), Ok(0));
    Ok(())
}

fn limits() -> Outcome {
    let (_, info) = ok!(sem_info(IPC_INFO));
    same!((info.semmsl, info.semmns, info.semopm, info.semmni), (32000, 1_024_000_000, 500, 32000));
    same!((info.semmap, info.semmnu, info.semume), (1_024_000_000, 1_024_000_000, 500));
    same!((info.semusz, info.semvmx, info.semaem), (20, 32767, 32767));
    Ok(())
}

fn limits_as_set() -> Outcome {
    let (_, info) = ok!(sem_info(IPC_INFO));
    same!((info.semmsl, info.semmns, info.semopm, info.semmni), (100, 2000, 30, 40));
    Ok(())
}

fn usage() -> Outcome {
    let used = || -> Outcome<(i32, i32)> {
        let (_, info) = ok!(sem_info(SEM_INFO));
        Ok((info.semusz, info.semaem))
    };
    same!(used()?, (0, 0));
    let first = ok!(set_of(&[0; 3]));
    ok!(set_of(&[0; 4]));
    same!(used()?, (2, 7));
    ok!(sem_remove(first));
    same!(used()?, (1, 4));
    Ok(())
}

/// The highest index in use, not the number; 0 for none too.
fn highest_index() -> Outcome {
    let highest = || -> Outcome<[i32; 2]> { Ok([ok!(sem_info(IPC_INFO)).0, ok!(sem_info(SEM_INFO)).0]) };
    same!(highest()?, [0, 0]);
    for _ in 0..4 {
        ok!(set_of(&[0]));
    }
    same!(highest()?, [3, 3]);
    ok!(sem_remove(0));
    ok!(sem_remove(3));
    same!(highest()?, [2, 2]);
    Ok(())
}
