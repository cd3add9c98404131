//! shmctl(2): its commands, their order of checks.

use libc::{IPC_CREAT, IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT};

use crate::{
    call::{
        SHM_INFO, SHM_LOCK, SHM_LOCKED, SHM_STAT, SHM_STAT_ANY, SHM_UNLOCK, nattch, segment, set_byte,
        shm_info, shm_limits, shm_remove, shm_set, shm_stat, shm_stat_by, shmat, shmctl, shmctl_raw, shmdt,
        shmget,
    },
    case::cases,
    check::{Failure, Outcome, ok, same},
    errno::{EACCES, EFAULT, EINVAL, ENOMEM, EPERM},
    memory::Bad,
    task::{
        Capability, Task, become_really, become_root, become_user, have_only, limit_locked_memory, now,
        wait_until,
    },
};

cases! { "shmctl":
    wrong_arguments,
    stat_needs_reading.root(),
    stat_by_index,
    info,
    limits.limits(&[("kernel.shmmax", "100000"), ("kernel.shmall", "77"), ("kernel.shmmni", "33")]),
    resident_pages,
    bad_addresses,
    set_changes_owner_and_mode.root(),
    set_needs_the_owner.root(),
    remove_needs_the_owner.root(),
    lock_marks,
    lock_keeps_pages_in_memory.system("pages that are swapped out"),
    lock_rights.root(),
    lock_limit.root(),
    ipc_owner_passes_permissions.root(),
    sys_admin_changes_segments.root(),
    ipc_lock_locks.root(),
    forced_goes_with_the_last_attachment.limits(&[("kernel.shm_rmid_forced", "1")]),
    forced_goes_with_a_first_attachment_that_fails.wide().limits(&[("kernel.shm_rmid_forced", "1")]),
    forced_goes_with_its_creator.limits(&[("kernel.shm_rmid_forced", "1")]),
}

fn wrong_arguments() -> Outcome {
    let id = ok!(segment(1));
    for command in [IPC_RMID, IPC_STAT, SHM_STAT, SHM_STAT_ANY, SHM_INFO, IPC_INFO, SHM_LOCK, SHM_UNLOCK] {
        same!(shmctl(-1, command), Err(EINVAL));
    }
    for command in [-1, 4, 5, 10, 16, 0x100 | IPC_STAT] {
        same!(shmctl(id, command), Err(EINVAL));
    }
    for command in [IPC_RMID, IPC_STAT, SHM_STAT, SHM_LOCK, SHM_UNLOCK] {
        same!(shmctl(id + 1, command), Err(EINVAL));
    }
    Ok(())
}

fn stat_needs_reading() -> Outcome {
    let id = ok!(shmget(libc::IPC_PRIVATE, 1, 0o200));
    become_user(1000, 1000, &[]);
    same!(shm_stat(id).map(drop), Err(EACCES));
    same!(shm_stat_by(id, SHM_STAT).map(drop), Err(EACCES));
    same!(ok!(shm_stat_by(id, SHM_STAT_ANY)).0, id);
    same!(ok!(shm_info()).1.used_ids, 1);
    become_root();
    Ok(())
}

/// The index is enough, and of an identifier only the index counts.
fn stat_by_index() -> Outcome {
    let first = ok!(segment(1));
    let second = ok!(segment(77));
    for command in [SHM_STAT, SHM_STAT_ANY] {
        let (value, ds) = ok!(shm_stat_by(1, command));
        same!((value, ds.shm_segsz), (second, 77));
        same!(ok!(shm_stat_by(first + 32768, command)).0, first);
        same!(shm_stat_by(2, command).map(drop), Err(EINVAL));
    }
    Ok(())
}

fn info() -> Outcome {
    same!(ok!(shm_info()).0, 0);
    let ids = [ok!(segment(1)), ok!(segment(4097)), ok!(segment(1))];
    let (highest, info) = ok!(shm_info());
    same!(highest, 2);
    same!((info.used_ids, info.shm_tot), (3, 4));
    same!((info.swap_attempts, info.swap_successes), (0, 0));
    ok!(shm_remove(ids[2]));
    same!((ok!(shm_info()).0, ok!(shm_limits()).0), (1, 1));
    same!(ok!(shm_info()).1.shm_tot, 3);
    Ok(())
}

fn limits() -> Outcome {
    let (highest, limits) = ok!(shm_limits());
    same!(highest, 0);
    same!((limits.shmmax, limits.shmmin, limits.shmall), (100_000, 1, 77));
    same!((limits.shmmni, limits.shmseg), (33, 33));
    Ok(())
}

fn resident_pages() -> Outcome {
    let id = ok!(segment(16 * 4096));
    same!(ok!(shm_info()).1.shm_rss, 0);
    let at = ok!(shmat(id, 0, 0));
    for page in 0..5 {
        set_byte(at + page * 4096, 1);
    }
    let info = ok!(shm_info()).1;
    same!((info.shm_rss, info.shm_swp), (5, 0));
    ok!(shmdt(at));
    same!(ok!(shm_info()).1.shm_rss, 5);
    ok!(shm_remove(id));
    same!(ok!(shm_info()).1.shm_rss, 0);
    Ok(())
}

fn bad_addresses() -> Outcome {
    let bad = Bad::new();
    let id = ok!(segment(1));
    for to in bad.unwritable() {
        for command in [IPC_STAT, SHM_STAT, SHM_STAT_ANY, IPC_INFO, SHM_INFO] {
            same!(shmctl_raw(id, command, to), Err(EFAULT));
        }
        // The identifier is looked at before the address.
        same!(shmctl_raw(id + 1, IPC_STAT, to), Err(EINVAL));
    }
    for from in bad.unreadable() {
        same!(shmctl_raw(id, IPC_SET, from), Err(EFAULT));
        same!(shmctl_raw(id + 1, IPC_SET, from), Err(EFAULT));
    }
    // It is not looked at by a command that needs none.
    same!(shmctl_raw(id, IPC_RMID, bad.unreadable()[1]), Ok(0));
    Ok(())
}

fn set_changes_owner_and_mode() -> Outcome {
    let id = ok!(shmget(0x5eed, 1, IPC_CREAT | 0o600));
    let mut ds = ok!(shm_stat(id));
    ds.shm_ctime = 0;
    ds.shm_segsz = 99;
    ds.shm_perm.uid = 1000;
    ds.shm_perm.gid = 2000;
    ds.shm_perm.mode = 0o7643;
    ds.shm_perm.__key = 1;
    let before = now();
    ok!(shm_set(id, ds));
    let ds = ok!(shm_stat(id));
    let perm = ds.shm_perm;
    same!((perm.uid, perm.gid, perm.cuid, perm.cgid), (1000, 2000, 0, 0));
    same!((u32::from(perm.mode), perm.__key, ds.shm_segsz), (0o643, 0x5eed, 1));
    same!((before..=now()).contains(&ds.shm_ctime), true);
    Ok(())
}

fn set_needs_the_owner() -> Outcome {
    let id = ok!(shmget(libc::IPC_PRIVATE, 1, 0o666));
    let ds = ok!(shm_stat(id));
    become_user(1000, 1000, &[]);
    same!(shm_set(id, ds), Err(EPERM));
    become_root();
    ok!(shm_set(id, ds));
    Ok(())
}

fn remove_needs_the_owner() -> Outcome {
    let id = ok!(shmget(libc::IPC_PRIVATE, 1, 0o666));
    become_user(1000, 1000, &[]);
    same!(shm_remove(id), Err(EPERM));
    let own = ok!(segment(1));
    ok!(shm_remove(own));
    become_root();
    ok!(shm_remove(id));
    Ok(())
}

fn lock_marks() -> Outcome {
    let id = ok!(segment(1));
    let mode = || Ok(u32::from(ok!(shm_stat(id)).shm_perm.mode));
    let before = ok!(shm_stat(id)).shm_ctime;
    ok!(shmctl(id, SHM_LOCK));
    same!(mode()?, 0o600 | SHM_LOCKED);
    ok!(shmctl(id, SHM_LOCK));
    ok!(shmctl(id, SHM_UNLOCK));
    same!(mode()?, 0o600);
    ok!(shmctl(id, SHM_UNLOCK));
    same!(ok!(shm_stat(id)).shm_ctime, before);
    Ok(())
}

/// What the machine can't swap out, in KiB: a few hundred come and go by others.
fn unevictable() -> Outcome<i64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").map_err(|e| Failure(e.to_string()))?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("Unevictable:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| Failure("no number of unevictable pages".into()))
}

/// Waits until so much more than `before` can't be swapped out, give or take a quarter of the segment's size.
fn wait_for_unevictable(before: i64, more: i64) -> Outcome {
    for _ in 0..1500 {
        if (unevictable()? - before - more).abs() < LOCKED_KIB / 4 {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Err(Failure(format!("{} KiB can't be swapped out, instead of {}", unevictable()?, before + more)))
}

const LOCKED_KIB: i64 = 6 << 10;

fn lock_keeps_pages_in_memory() -> Outcome {
    let before = unevictable()?;
    let size = LOCKED_KIB as usize * 1024;
    let id = ok!(segment(size));
    let at = ok!(shmat(id, 0, 0));
    let touch =
        |from: usize, to: usize| (at + from..at + to).step_by(4096).for_each(|page| set_byte(page, 1));
    ok!(shmctl(id, SHM_LOCK));
    same!(ok!(shm_info()).1.shm_rss, 0);
    touch(0, size / 2);
    wait_for_unevictable(before, LOCKED_KIB / 2)?;
    touch(size / 2, size);
    wait_for_unevictable(before, LOCKED_KIB)?;
    // Mapped or not.
    ok!(shmdt(at));
    wait_for_unevictable(before, LOCKED_KIB)?;
    ok!(shmctl(id, SHM_UNLOCK));
    wait_for_unevictable(before, 0)
}

fn lock_rights() -> Outcome {
    let others = ok!(shmget(libc::IPC_PRIVATE, 1, 0o666));
    limit_locked_memory(0);
    become_user(1000, 1000, &[]);
    let own = ok!(segment(1));
    same!((shmctl(others, SHM_LOCK), shmctl(others, SHM_UNLOCK)), (Err(EPERM), Err(EPERM)));
    same!(shmctl(own, SHM_LOCK), Err(EPERM));
    same!(shmctl(own, SHM_UNLOCK), Ok(0));
    become_root();
    same!(shmctl(own, SHM_LOCK), Ok(0));
    Ok(())
}

/// What is locked counts for the real user, and without root's rights. (The saved user stays root: who gives that up too leaves a namespace.)
fn lock_limit() -> Outcome {
    limit_locked_memory(2 * 4096);
    become_really(1007);
    let (large, small) = (ok!(segment(3 * 4096)), ok!(segment(2 * 4096)));
    let another = ok!(segment(1));
    same!(shmctl(large, SHM_LOCK), Err(ENOMEM));
    same!(shmctl(small, SHM_LOCK), Ok(0));
    same!(shmctl(another, SHM_LOCK), Err(ENOMEM));
    same!(shmctl(small, SHM_UNLOCK), Ok(0));
    same!(shmctl(another, SHM_LOCK), Ok(0));
    Ok(())
}

fn ipc_owner_passes_permissions() -> Outcome {
    let id = ok!(shmget(1, 4096, IPC_CREAT));
    become_user(1000, 1000, &[]);
    same!((shmget(1, 1, 0o666), shmat(id, 0, 0)), (Err(EACCES), Err(EACCES)));
    have_only(Some(Capability::IpcOwner));
    same!(shmget(1, 1, 0o666), Ok(id));
    same!(shmdt(ok!(shmat(id, 0, 0))), Ok(0));
    same!(shmdt(ok!(shmat(id, 0, libc::SHM_EXEC))), Ok(0));
    let ds = ok!(shm_stat(id));
    same!((shm_set(id, ds), shm_remove(id), shmctl(id, SHM_LOCK)), (Err(EPERM), Err(EPERM), Err(EPERM)));
    Ok(())
}

fn sys_admin_changes_segments() -> Outcome {
    let id = ok!(shmget(1, 4096, IPC_CREAT));
    let mut ds = ok!(shm_stat(id));
    ds.shm_perm.mode = 0o666;
    become_user(1000, 1000, &[]);
    have_only(Some(Capability::SysAdmin));
    same!(
        (shmget(1, 1, 0o666), shmat(id, 0, 0), shm_stat(id).err()),
        (Err(EACCES), Err(EACCES), Some(EACCES))
    );
    same!((shmctl(id, SHM_LOCK), shm_set(id, ds)), (Err(EPERM), Ok(0)));
    have_only(None);
    same!((shmget(1, 1, 0o666), shm_remove(id)), (Ok(id), Err(EPERM)));
    have_only(Some(Capability::SysAdmin));
    same!(shm_remove(id), Ok(0));
    Ok(())
}

fn ipc_lock_locks() -> Outcome {
    let id = ok!(segment(1));
    become_user(1000, 1000, &[]);
    have_only(Some(Capability::IpcLock));
    same!((shmctl(id, SHM_LOCK), shmctl(id, SHM_UNLOCK), shm_remove(id)), (Ok(0), Ok(0), Err(EPERM)));
    Ok(())
}

fn forced_goes_with_the_last_attachment() -> Outcome {
    let id = ok!(segment(1));
    let (first, second) = (ok!(shmat(id, 0, 0)), ok!(shmat(id, 0, 0)));
    ok!(shmdt(first));
    same!(nattch(id), Ok(1));
    ok!(shmdt(second));
    same!(nattch(id), Err(EINVAL));
    Ok(())
}

fn forced_goes_with_a_first_attachment_that_fails() -> Outcome {
    let id = ok!(segment(4096));
    same!(shmat(id, 1 << 47, 0), Err(ENOMEM));
    same!(nattch(id), Err(EINVAL));
    Ok(())
}

fn forced_goes_with_its_creator() -> Outcome {
    let own = ok!(segment(1));
    let child = Task::start(|| (segment(1), segment(1)))?;
    let (first, second) = child.report()?;
    let (first, second) = (ok!(first), ok!(second));
    // Of a stranger's end the broker hears a moment later.
    wait_until(|| Ok((nattch(first), nattch(second)) == (Err(EINVAL), Err(EINVAL))))?;
    same!(nattch(own), Ok(0));
    Ok(())
}
