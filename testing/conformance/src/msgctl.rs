//! msgctl(2): its commands, their order of checks, and what they show.

use std::ptr;

use libc::{IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, MSG_INFO, MSG_STAT};

use crate::{
    call::{
        MSG_STAT_ANY, NOWAIT, msg_info, msg_remove, msg_set, msg_set_qbytes, msg_stat, msg_stat_by,
        msgctl_raw, msgget, msgrcv, msgsnd, queue,
    },
    case::cases,
    check::{Outcome, ok, same},
    errno::{EACCES, EFAULT, EINVAL, EPERM},
    memory::Bad,
    task::become_user,
};

cases! { "msgctl":
    unknown_commands.wide(),
    unknown_ids,
    bad_pointers,
    stat_needs_read_permission.root(),
    stat_by_index,
    set_changes,
    set_needs_the_owner.root(),
    owner_and_creator_may_set.root(),
    set_above_msgmnb.root(),
    set_of_invalid_ids,
    owner_class_decides_alone.root(),
    group_by_supplementary_groups.root(),
    remove_ignores_the_buffer,
    limits,
    limits_as_set.limits(&[("kernel.msgmax", "100"), ("kernel.msgmnb", "200"), ("kernel.msgmni", "30")]),
    usage,
    highest_index,
}

fn unknown_commands() -> Outcome {
    let id = ok!(queue());
    for command in [-1, 4, 10, 14, 99, i32::MIN, 0x100 | IPC_STAT, 0x100 | IPC_RMID, 0x100 | IPC_SET] {
        same!(msgctl_raw(id, command, ptr::null_mut()), Err(EINVAL));
    }
    same!(ok!(msg_stat(id)).msg_qnum, 0);
    Ok(())
}

fn unknown_ids() -> Outcome {
    for id in [-1, 0, 3, 32768, i32::MAX, i32::MIN] {
        for command in [IPC_STAT, MSG_STAT, MSG_STAT_ANY, IPC_RMID] {
            same!(msgctl_raw(id, command, ptr::null_mut()), Err(EINVAL));
        }
    }
    same!(msgctl_raw(-1, IPC_INFO, ptr::null_mut()), Err(EINVAL));
    same!(msgctl_raw(-1, MSG_INFO, ptr::null_mut()), Err(EINVAL));
    Ok(())
}

/// IPC_SET reads before it looks up, the others write at the end.
fn bad_pointers() -> Outcome {
    let id = ok!(queue());
    let bad = Bad::new();
    for address in bad.unwritable() {
        for command in [IPC_STAT, MSG_STAT, MSG_STAT_ANY, IPC_INFO, MSG_INFO] {
            same!(msgctl_raw(id, command, address), Err(EFAULT));
        }
        same!(msgctl_raw(77, IPC_STAT, address), Err(EINVAL));
    }
    for address in bad.unreadable() {
        same!(msgctl_raw(id, IPC_SET, address), Err(EFAULT));
        same!(msgctl_raw(77, IPC_SET, address), Err(EFAULT));
        same!(msgctl_raw(-1, IPC_SET, address), Err(EINVAL));
    }
    Ok(())
}

fn stat_needs_read_permission() -> Outcome {
    let id = ok!(msgget(libc::IPC_PRIVATE, 0o662));
    become_user(1000, 1000, &[]);
    same!(msgctl_raw(id, IPC_STAT, ptr::null_mut()), Err(EACCES));
    same!(msgctl_raw(id, MSG_STAT, ptr::null_mut()), Err(EACCES));
    same!(ok!(msg_stat_by(id, MSG_STAT_ANY)).0, id);
    same!(msg_info(IPC_INFO).is_ok() && msg_info(MSG_INFO).is_ok(), true);
    Ok(())
}

fn stat_by_index() -> Outcome {
    for _ in 0..64 {
        let id = ok!(queue());
        ok!(msg_remove(id));
    }
    let id = ok!(queue());
    same!(id, 32768);
    ok!(msgsnd(id, 1, b"x", 0));
    for command in [MSG_STAT, MSG_STAT_ANY] {
        for argument in [0, id, 2 * 32768] {
            let (real, ds) = ok!(msg_stat_by(argument, command));
            same!((real, ds.msg_qnum, ds.msg_perm.__seq), (id, 1, 1));
        }
        same!(msg_stat_by(1, command).map(|stat| stat.0), Err(EINVAL));
    }
    same!(msg_stat_by(id, IPC_STAT).map(|stat| stat.0), Ok(0));
    same!(msg_stat_by(0, IPC_STAT).map(|stat| stat.0), Err(EINVAL));
    Ok(())
}

fn set_changes() -> Outcome {
    let id = ok!(msgget(0x77, libc::IPC_CREAT | 0o600));
    let mut ds = ok!(msg_stat(id));
    let before = ds;
    (ds.msg_perm.uid, ds.msg_perm.gid, ds.msg_perm.mode) = (1000, 1001, 0o7642);
    (ds.msg_perm.cuid, ds.msg_perm.cgid, ds.msg_perm.__key) = (5, 5, 5);
    (ds.msg_qbytes, ds.msg_qnum, ds.msg_stime) = (1234, 9, 9);
    same!(msg_set(id, ds), Ok(0));
    let after = ok!(msg_stat(id));
    let perm = after.msg_perm;
    same!((perm.uid, perm.gid, perm.mode, after.msg_qbytes), (1000, 1001, 0o642, 1234));
    same!((perm.cuid, perm.cgid, perm.__key), (before.msg_perm.cuid, before.msg_perm.cgid, 0x77));
    same!((after.msg_qnum, after.msg_stime), (0, 0));
    same!(after.msg_ctime >= before.msg_ctime, true);
    Ok(())
}

fn set_needs_the_owner() -> Outcome {
    let id = ok!(msgget(libc::IPC_PRIVATE, 0o666));
    become_user(1000, 1000, &[]);
    same!(msg_set(id, ok!(msg_stat(id))), Err(EPERM));
    same!(msg_remove(id), Err(EPERM));
    same!(msgctl_raw(id, IPC_SET, ptr::null_mut()), Err(EFAULT));
    Ok(())
}

fn owner_and_creator_may_set() -> Outcome {
    let id = ok!(msgget(libc::IPC_PRIVATE, 0o600));
    let mut ds = ok!(msg_stat(id));
    ds.msg_perm.uid = 1000;
    ok!(msg_set(id, ds));
    become_user(1000, 1000, &[]);
    same!(msg_set(id, ok!(msg_stat(id))), Ok(0));
    let own = ok!(queue());
    let mut ds = ok!(msg_stat(own));
    ds.msg_perm.uid = 7;
    same!(msg_set(own, ds), Ok(0));
    same!(msg_remove(own), Ok(0));
    same!(msg_remove(id), Ok(0));
    Ok(())
}

fn set_above_msgmnb() -> Outcome {
    let _attached = ok!(queue());
    become_user(1000, 1000, &[]);
    let id = ok!(queue());
    same!(msg_set_qbytes(id, 16385), Err(EPERM));
    same!(msg_set_qbytes(id, 16384), Ok(0));
    same!(msg_set_qbytes(id, 0), Ok(0));
    same!(ok!(msg_stat(id)).msg_qbytes, 0);
    Ok(())
}

fn set_of_invalid_ids() -> Outcome {
    let id = ok!(queue());
    let before = ok!(msg_stat(id));
    for (uid, gid) in [(u32::MAX, 0), (0, u32::MAX)] {
        let mut ds = before;
        (ds.msg_perm.uid, ds.msg_perm.gid, ds.msg_qbytes) = (uid, gid, 5);
        same!(msg_set(id, ds), Err(EINVAL));
        same!(ok!(msg_stat(id)).msg_perm.uid, before.msg_perm.uid);
    }
    Ok(())
}

/// An owner with fewer rights than the others doesn't get theirs.
fn owner_class_decides_alone() -> Outcome {
    let _attached = ok!(queue());
    become_user(1000, 1000, &[]);
    let id = ok!(msgget(libc::IPC_PRIVATE, 0o266));
    same!(msgrcv(id, 1, 0, NOWAIT).err(), Some(EACCES));
    same!(msgsnd(id, 1, b"x", NOWAIT), Ok(0));
    Ok(())
}

fn group_by_supplementary_groups() -> Outcome {
    let id = ok!(msgget(libc::IPC_PRIVATE, 0o626));
    let mut ds = ok!(msg_stat(id));
    ds.msg_perm.gid = 1234;
    ok!(msg_set(id, ds));
    become_user(1000, 1000, &[5, 1234]);
    same!(msgsnd(id, 1, b"x", NOWAIT), Ok(0));
    same!(msgrcv(id, 1, 0, NOWAIT).err(), Some(EACCES));
    Ok(())
}

fn remove_ignores_the_buffer() -> Outcome {
    for address in Bad::new().unwritable() {
        let id = ok!(queue());
        same!(msgctl_raw(id, IPC_RMID, address), Ok(0));
        same!(msg_remove(id), Err(EINVAL));
    }
    Ok(())
}

fn limits() -> Outcome {
    let (_, info) = ok!(msg_info(IPC_INFO));
    same!((info.msgmni, info.msgmax, info.msgmnb), (32000, 8192, 16384));
    same!((info.msgpool, info.msgmap, info.msgssz), (512_000, 16384, 16));
    same!((info.msgtql, info.msgseg), (16384, 65535));
    Ok(())
}

fn limits_as_set() -> Outcome {
    let (_, info) = ok!(msg_info(IPC_INFO));
    same!((info.msgmax, info.msgmnb, info.msgmni), (100, 200, 30));
    Ok(())
}

fn usage() -> Outcome {
    let (one, two) = (ok!(queue()), ok!(queue()));
    ok!(msgsnd(one, 1, b"abc", 0));
    ok!(msgsnd(two, 1, b"defg", 0));
    ok!(msgsnd(two, 1, b"", 0));
    let (_, info) = ok!(msg_info(MSG_INFO));
    same!((info.msgpool, info.msgmap, info.msgtql), (2, 3, 7));
    ok!(msgrcv(two, 9, 0, 0));
    let (_, info) = ok!(msg_info(MSG_INFO));
    same!((info.msgpool, info.msgmap, info.msgtql), (2, 2, 3));
    ok!(msg_remove(one));
    let (_, info) = ok!(msg_info(MSG_INFO));
    same!((info.msgpool, info.msgmap, info.msgtql), (1, 1, 0));
    Ok(())
}

/// The highest index in use, not the number; 0 for none too.
fn highest_index() -> Outcome {
    let highest = || -> Outcome<[i32; 2]> { Ok([ok!(msg_info(IPC_INFO)).0, ok!(msg_info(MSG_INFO)).0]) };
    same!(highest()?, [0, 0]);
    for _ in 0..5 {
        ok!(queue());
    }
    same!(highest()?, [4, 4]);
    ok!(msg_remove(1));
    same!(highest()?, [4, 4]);
    ok!(msg_remove(4));
    ok!(msg_remove(3));
    same!(highest()?, [2, 2]);
    ok!(msg_remove(2));
    ok!(msg_remove(0));
    same!(highest()?, [0, 0]);
    Ok(())
}
