//! semget(2): ids, keys, the number of semaphores, limits.

use libc::{IPC_CREAT, IPC_EXCL, IPC_PRIVATE};

use crate::{
    call::{getall, sem_remove, sem_stat, semctl, semget},
    case::cases,
    check::{Outcome, ok, same},
    errno::{EACCES, EEXIST, EINVAL, ENOENT, ENOSPC},
    task::{become_user, now},
};

cases! { "semget":
    ids_cycle,
    numbers_of_semaphores,
    number_is_checked_for_existing_sets_too,
    number_before_permission.root(),
    permission_is_what_flags_ask.root(),
    keys,
    new_set_is_zero,
    largest_set,
    semmsl_is_the_largest.limits(&[("kernel.sem", "5 1024000000 500 32000")]),
    full_of_sets.limits(&[("kernel.sem", "32000 1024000000 500 2")]),
    full_of_semaphores.limits(&[("kernel.sem", "32000 10 500 32000")]),
}

const KEY: i32 = 0x5eed;

fn ids_cycle() -> Outcome {
    for round in 0..2 {
        for index in 0..64 {
            let id = ok!(semget(IPC_PRIVATE, 1, 0o600));
            same!(id, round * 32768 + index);
            same!(ok!(sem_stat(id)).sem_perm.__seq, round as u16);
            ok!(sem_remove(id));
        }
    }
    same!(sem_remove(0), Err(EINVAL));
    Ok(())
}

fn numbers_of_semaphores() -> Outcome {
    for wrong in [0, -1, 32001, i32::MIN, i32::MAX] {
        same!(semget(IPC_PRIVATE, wrong, 0o600), Err(EINVAL));
        same!(semget(KEY, wrong, IPC_CREAT | 0o600), Err(EINVAL));
    }
    same!(semget(IPC_PRIVATE, 1, 0o600), Ok(0));
    Ok(())
}

fn number_is_checked_for_existing_sets_too() -> Outcome {
    let id = ok!(semget(KEY, 3, IPC_CREAT | 0o600));
    for fine in 0..=3 {
        same!(semget(KEY, fine, 0o600), Ok(id));
    }
    for wrong in [4, 32000, 32001, -1] {
        same!(semget(KEY, wrong, 0o600), Err(EINVAL));
    }
    same!(semget(KEY, 4, IPC_CREAT | IPC_EXCL | 0o600), Err(EEXIST));
    same!(semget(KEY, 32001, IPC_CREAT | IPC_EXCL | 0o600), Err(EINVAL));
    same!(semget(KEY + 1, 0, 0o600), Err(ENOENT));
    same!(semget(KEY + 1, -1, 0o600), Err(EINVAL));
    Ok(())
}

fn number_before_permission() -> Outcome {
    ok!(semget(KEY, 3, IPC_CREAT | 0o600));
    become_user(1000, 1000, &[]);
    same!(semget(KEY, 4, 0o600), Err(EINVAL));
    same!(semget(KEY, 3, 0o600), Err(EACCES));
    Ok(())
}

fn permission_is_what_flags_ask() -> Outcome {
    let id = ok!(semget(KEY, 1, IPC_CREAT | 0o640));
    become_user(1000, 1000, &[0]);
    same!(semget(KEY, 1, 0), Ok(id));
    same!(semget(KEY, 1, 0o400), Ok(id));
    same!(semget(KEY, 1, 0o200), Err(EACCES));
    Ok(())
}

fn keys() -> Outcome {
    same!(semget(KEY, 1, 0o600), Err(ENOENT));
    let id = ok!(semget(KEY, 1, IPC_CREAT | IPC_EXCL | 0o600));
    same!(semget(KEY, 1, IPC_EXCL), Ok(id));
    same!(semget(KEY, 1, IPC_CREAT | IPC_EXCL), Err(EEXIST));
    same!(semget(IPC_PRIVATE, 1, 0), Ok(id + 1));
    ok!(sem_remove(id));
    same!(semget(KEY, 1, 0), Err(ENOENT));
    Ok(())
}

fn new_set_is_zero() -> Outcome {
    let before = now();
    let id = ok!(semget(KEY, 3, IPC_CREAT | 0o7640));
    let ds = ok!(sem_stat(id));
    same!((ds.sem_nsems, ds.sem_otime, ds.sem_perm.mode, ds.sem_perm.__key), (3, 0, 0o640, KEY));
    same!((before..=now()).contains(&ds.sem_ctime), true);
    same!(getall(id, 3), Ok(vec![0, 0, 0]));
    for num in 0..3 {
        same!(semctl(id, num, libc::GETPID, 0), Ok(0));
    }
    Ok(())
}

fn largest_set() -> Outcome {
    let id = ok!(semget(IPC_PRIVATE, 32000, 0o600));
    same!(ok!(sem_stat(id)).sem_nsems, 32000);
    same!(getall(id, 32000), Ok(vec![0; 32000]));
    Ok(())
}

fn semmsl_is_the_largest() -> Outcome {
    same!(semget(IPC_PRIVATE, 6, 0o600), Err(EINVAL));
    same!(semget(IPC_PRIVATE, 5, 0o600), Ok(0));
    Ok(())
}

fn full_of_sets() -> Outcome {
    ok!(semget(IPC_PRIVATE, 1, 0o600));
    ok!(semget(IPC_PRIVATE, 1, 0o600));
    same!(semget(IPC_PRIVATE, 1, 0o600), Err(ENOSPC));
    ok!(sem_remove(0));
    same!(semget(IPC_PRIVATE, 1, 0o600), Ok(2));
    Ok(())
}

fn full_of_semaphores() -> Outcome {
    ok!(semget(IPC_PRIVATE, 4, 0o600));
    ok!(semget(IPC_PRIVATE, 4, 0o600));
    same!(semget(IPC_PRIVATE, 3, 0o600), Err(ENOSPC));
    ok!(semget(IPC_PRIVATE, 2, 0o600));
    same!(semget(IPC_PRIVATE, 1, 0o600), Err(ENOSPC));
    ok!(sem_remove(0));
    ok!(semget(IPC_PRIVATE, 4, 0o600));
    Ok(())
}
