//! msgget(2), and with it what is common to the three kinds: ids, keys, permissions to look up.

use libc::{IPC_CREAT, IPC_EXCL, IPC_PRIVATE};

use crate::{
    call::{msg_remove, msg_stat, msgctl_raw, msgget, msgsnd, queue},
    case::cases,
    check::{Outcome, ok, same},
    errno::{EACCES, EEXIST, EINVAL, ENOENT, ENOSPC},
    task::{become_root, become_user, now},
};

cases! { "msgget":
    first_id_is_0,
    ids_cycle,
    index_range_grows_with_use,
    stale_id,
    private_is_always_new,
    keys,
    permission_is_what_flags_ask.root(),
    creator_and_mode.root(),
    full.limits(&[("kernel.msgmni", "3")]),
    none_allowed.limits(&[("kernel.msgmni", "0")]),
    new_queue_is_empty,
    new_queue_takes_msgmnb.limits(&[("kernel.msgmnb", "777")]),
}

const KEY: i32 = 0x5eed;

fn first_id_is_0() -> Outcome {
    same!(queue(), Ok(0));
    same!(queue(), Ok(1));
    Ok(())
}

/// Indexes 0…63, then the sequence number counts up and they start again.
fn ids_cycle() -> Outcome {
    for round in 0..3 {
        for index in 0..64 {
            let id = ok!(queue());
            same!(id, round * 32768 + index);
            same!(ok!(msg_stat(id)).msg_perm.__seq, round as u16);
            ok!(msg_remove(id));
        }
    }
    Ok(())
}

/// The range is half as large again as what is in use, once that is more than 64.
fn index_range_grows_with_use() -> Outcome {
    for index in 0..100 {
        same!(queue(), Ok(index));
    }
    ok!(msg_remove(5));
    // 99 are in use, so indexes end at 147, and then 5 is the lowest free one.
    for index in 100..148 {
        same!(queue(), Ok(index));
        ok!(msg_remove(index));
    }
    same!(queue(), Ok(32768 + 5));
    Ok(())
}

fn stale_id() -> Outcome {
    let old = ok!(queue());
    ok!(msg_remove(old));
    for _ in 1..64 {
        let id = ok!(queue());
        ok!(msg_remove(id));
    }
    same!(queue(), Ok(old + 32768));
    same!(msgsnd(old, 1, b"", 0), Err(EINVAL));
    same!(msg_remove(old), Err(EINVAL));
    same!(msg_remove(old + 2 * 32768), Err(EINVAL));
    Ok(())
}

fn private_is_always_new() -> Outcome {
    same!(msgget(IPC_PRIVATE, 0), Ok(0));
    same!(msgget(IPC_PRIVATE, IPC_CREAT | IPC_EXCL | 0o600), Ok(1));
    same!(ok!(msg_stat(1)).msg_perm.__key, 0);
    Ok(())
}

fn keys() -> Outcome {
    same!(msgget(KEY, 0o600), Err(ENOENT));
    same!(msgget(KEY, IPC_EXCL | 0o600), Err(ENOENT));
    let id = ok!(msgget(KEY, IPC_CREAT | 0o600));
    same!(ok!(msg_stat(id)).msg_perm.__key, KEY);
    same!(msgget(KEY, 0o600), Ok(id));
    same!(msgget(KEY, IPC_CREAT | 0o600), Ok(id));
    same!(msgget(KEY, IPC_EXCL | 0o600), Ok(id));
    same!(msgget(KEY, IPC_CREAT | IPC_EXCL | 0o600), Err(EEXIST));
    ok!(msg_remove(id));
    same!(msgget(KEY, 0o600), Err(ENOENT));
    let negative = ok!(msgget(-5, IPC_CREAT | 0o600));
    same!(msgget(-5, 0), Ok(negative));
    Ok(())
}

/// The low nine bits of the flags, folded together, are what is asked for: 0 asks for nothing.
fn permission_is_what_flags_ask() -> Outcome {
    let id = ok!(msgget(KEY, IPC_CREAT | 0o604));
    become_user(1000, 1000, &[]);
    same!(msgget(KEY, 0), Ok(id));
    for reading in [0o400, 0o040, 0o004] {
        same!(msgget(KEY, reading), Ok(id));
    }
    for writing in [0o200, 0o020, 0o002, 0o600, 0o001] {
        same!(msgget(KEY, writing), Err(EACCES));
    }
    same!(msgget(KEY, IPC_CREAT | IPC_EXCL | 0o600), Err(EEXIST));
    Ok(())
}

fn creator_and_mode() -> Outcome {
    ok!(queue());
    become_user(1000, 1001, &[1002]);
    let id = ok!(msgget(KEY, IPC_CREAT | 0o7640));
    become_root();
    let perm = ok!(msg_stat(id)).msg_perm;
    same!((perm.uid, perm.cuid, perm.gid, perm.cgid, perm.mode), (1000, 1000, 1001, 1001, 0o640));
    Ok(())
}

fn full() -> Outcome {
    for index in 0..3 {
        same!(queue(), Ok(index));
    }
    same!(queue(), Err(ENOSPC));
    same!(msgget(KEY, 0), Err(ENOENT));
    same!(msgget(KEY, IPC_CREAT), Err(ENOSPC));
    ok!(msg_remove(1));
    same!(queue(), Ok(3));
    Ok(())
}

fn none_allowed() -> Outcome {
    same!(queue(), Err(ENOSPC));
    Ok(())
}

fn new_queue_is_empty() -> Outcome {
    let before = now();
    let ds = ok!(msg_stat(ok!(queue())));
    same!((ds.msg_qnum, ds.__msg_cbytes, ds.msg_qbytes), (0, 0, 16384));
    same!((ds.msg_stime, ds.msg_rtime, ds.msg_lspid, ds.msg_lrpid), (0, 0, 0, 0));
    same!((before..=now()).contains(&ds.msg_ctime), true);
    same!(msgctl_raw(-1, libc::IPC_RMID, std::ptr::null_mut()), Err(EINVAL));
    Ok(())
}

fn new_queue_takes_msgmnb() -> Outcome {
    same!(ok!(msg_stat(ok!(queue()))).msg_qbytes, 777);
    Ok(())
}
