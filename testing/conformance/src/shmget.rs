//! shmget(2): ids, keys, sizes, limits.

use libc::{IPC_CREAT, IPC_EXCL, IPC_PRIVATE};

use crate::{
    Door,
    call::{
        SHM_LOCK, byte_at, segment, set_byte, shm_info, shm_remove, shm_stat, shm_stat_by, shmat, shmctl,
        shmdt, shmget,
    },
    case::cases,
    check::{Failure, Outcome, ok, same},
    errno::{EACCES, EEXIST, EINVAL, ENOENT, ENOMEM, ENOSPC, EPERM},
    task::{Task, become_root, become_user, limit_locked_memory, now, own_pid},
};

cases! { "shmget":
    ids_cycle,
    sizes.wide(),
    size_is_checked_for_existing_segments_too,
    size_before_permission.root(),
    permission_is_what_flags_ask.root(),
    keys,
    creator_and_mode.root(),
    new_segment_is_unattached,
    new_segment_is_zero,
    what_is_written_stays,
    outlives_its_maker,
    more_than_there_is_memory.wide(),
    huge_pages_that_are_not_there.differs(&[Door::Stranger], "strangers have no huge pages"),
    huge_pages_need_a_right.root(),
    huge_pages_are_attached_whole.root().system("huge pages"),
    shmmax_is_the_largest.limits(&[("kernel.shmmax", "8192")]),
    full_of_pages.limits(&[("kernel.shmall", "5")]),
    full_of_segments.limits(&[("kernel.shmmni", "2")]),
    many_at_a_time,
}

const KEY: i32 = 0x5eed;
const SHM_NORESERVE: i32 = 0o10000;
const SHM_HUGETLB: i32 = 0o4000;
const SHM_HUGE_SHIFT: u32 = 26;

fn ids_cycle() -> Outcome {
    for round in 0..2 {
        for index in 0..64 {
            let id = ok!(segment(1));
            same!(id, round * 32768 + index);
            same!(ok!(shm_stat(id)).shm_perm.__seq, round as u16);
            ok!(shm_remove(id));
        }
    }
    same!(shm_remove(0), Err(EINVAL));
    Ok(())
}

fn sizes() -> Outcome {
    for wrong in [0, usize::MAX, usize::MAX - (1 << 24) + 1, usize::MAX - (1 << 24), 1 << 63] {
        same!(segment(wrong), Err(EINVAL));
        same!(shmget(KEY, wrong, IPC_CREAT | 0o600), Err(EINVAL));
    }
    let mut pages = 0;
    for (size, its_pages) in [(1, 1), (4095, 1), (4096, 1), (4097, 2), (1 << 20, 256)] {
        let id = ok!(segment(size));
        same!(ok!(shm_stat(id)).shm_segsz, size);
        pages += its_pages;
        same!(ok!(shm_info()).1.shm_tot, pages);
    }
    Ok(())
}

fn size_is_checked_for_existing_segments_too() -> Outcome {
    let id = ok!(shmget(KEY, 5000, IPC_CREAT | 0o600));
    for fine in [0, 1, 4999, 5000] {
        same!(shmget(KEY, fine, 0o600), Ok(id));
    }
    for wrong in [5001, 8192, usize::MAX] {
        same!(shmget(KEY, wrong, 0o600), Err(EINVAL));
    }
    same!(shmget(KEY, 5001, IPC_CREAT | IPC_EXCL | 0o600), Err(EEXIST));
    Ok(())
}

fn size_before_permission() -> Outcome {
    ok!(shmget(KEY, 100, IPC_CREAT | 0o600));
    become_user(1000, 1000, &[]);
    same!(shmget(KEY, 101, 0o600), Err(EINVAL));
    same!(shmget(KEY, 100, 0o600), Err(EACCES));
    become_root();
    Ok(())
}

fn permission_is_what_flags_ask() -> Outcome {
    let id = ok!(shmget(KEY, 100, IPC_CREAT | 0o604));
    become_user(1000, 1000, &[]);
    for fine in [0, 0o400, 0o040, 0o004] {
        same!(shmget(KEY, 0, fine), Ok(id));
    }
    for wrong in [0o200, 0o100, 0o600, 0o002, 0o001] {
        same!(shmget(KEY, 0, wrong), Err(EACCES));
    }
    become_root();
    Ok(())
}

fn keys() -> Outcome {
    same!(shmget(KEY, 10, 0o600), Err(ENOENT));
    same!(shmget(KEY, 10, IPC_EXCL | 0o600), Err(ENOENT));
    let id = ok!(shmget(KEY, 10, IPC_CREAT | 0o600));
    same!(ok!(shm_stat(id)).shm_perm.__key, KEY);
    same!(shmget(KEY, 0, 0), Ok(id));
    same!(shmget(KEY, 10, IPC_EXCL | 0o600), Ok(id));
    same!(shmget(KEY, 10, IPC_CREAT | IPC_EXCL | 0o600), Err(EEXIST));
    same!(shmget(IPC_PRIVATE, 10, IPC_CREAT | IPC_EXCL | 0o600), Ok(1));
    ok!(shm_remove(id));
    same!(shmget(KEY, 10, 0o600), Err(ENOENT));
    Ok(())
}

fn creator_and_mode() -> Outcome {
    become_user(1000, 2000, &[]);
    let id = ok!(shmget(IPC_PRIVATE, 10, 0o3647));
    become_root();
    let perm = ok!(shm_stat(id)).shm_perm;
    same!((perm.uid, perm.cuid, perm.gid, perm.cgid), (1000, 1000, 2000, 2000));
    same!(perm.mode, 0o647);
    Ok(())
}

fn new_segment_is_unattached() -> Outcome {
    let before = now();
    let id = ok!(segment(10));
    let ds = ok!(shm_stat(id));
    same!((ds.shm_nattch, ds.shm_atime, ds.shm_dtime, ds.shm_lpid), (0, 0, 0, 0));
    same!(ds.shm_cpid, own_pid());
    same!((before..=now()).contains(&ds.shm_ctime), true);
    Ok(())
}

fn new_segment_is_zero() -> Outcome {
    // What a removed one held must not come back.
    for _ in 0..3 {
        let id = ok!(segment(3 * 4096));
        let at = ok!(shmat(id, 0, 0));
        for offset in (0..3 * 4096).step_by(512) {
            same!(byte_at(at + offset), 0);
            set_byte(at + offset, 0xff);
        }
        ok!(shmdt(at));
        ok!(shm_remove(id));
    }
    Ok(())
}

fn what_is_written_stays() -> Outcome {
    let id = ok!(segment(8192));
    let at = ok!(shmat(id, 0, 0));
    set_byte(at + 8191, 7);
    ok!(shmdt(at));
    let at = ok!(shmat(id, 0, 0));
    same!(byte_at(at + 8191), 7);
    Ok(())
}

fn outlives_its_maker() -> Outcome {
    let maker = Task::start(|| {
        let id = shmget(KEY, 100, IPC_CREAT | 0o600)?;
        let at = shmat(id, 0, 0)?;
        set_byte(at, 42);
        Ok::<i32, crate::errno::Errno>(id)
    })?;
    let pid = maker.pid();
    let id = ok!(maker.report()?);
    same!(shmget(KEY, 0, 0), Ok(id));
    let ds = ok!(shm_stat(id));
    same!((ds.shm_cpid, ds.shm_lpid, ds.shm_nattch), (pid, pid, 0));
    same!(byte_at(ok!(shmat(id, 0, 0))), 42);
    Ok(())
}

fn more_than_there_is_memory() -> Outcome {
    same!(segment(1 << 62), Err(ENOMEM));
    let id = ok!(shmget(IPC_PRIVATE, 1 << 62, SHM_NORESERVE | 0o600));
    same!(ok!(shm_stat(id)).shm_segsz, 1 << 62);
    same!(shmat(id, 0, 0), Err(ENOMEM));
    same!(ok!(shm_stat(id)).shm_nattch, 0);
    ok!(shm_remove(id));
    same!(shm_stat_by(id, libc::IPC_STAT).map(drop), Err(EINVAL));
    Ok(())
}

/// There are no pages of 8 KiB, and no reserve of pages of 1 GiB on a machine that runs tests.
fn huge_pages_that_are_not_there() -> Outcome {
    same!(shmget(IPC_PRIVATE, 4096, SHM_HUGETLB | 13 << SHM_HUGE_SHIFT | 0o600), Err(EINVAL));
    same!(shmget(IPC_PRIVATE, 4096, SHM_HUGETLB | 30 << SHM_HUGE_SHIFT | 0o600), Err(ENOMEM));
    same!(ok!(shm_info()).1.used_ids, 0);
    Ok(())
}

fn huge_pages_need_a_right() -> Outcome {
    limit_locked_memory(0);
    become_user(1000, 1000, &[]);
    same!(shmget(IPC_PRIVATE, 4096, SHM_HUGETLB | 13 << SHM_HUGE_SHIFT | 0o600), Err(EINVAL));
    same!(shmget(IPC_PRIVATE, 4096, SHM_HUGETLB | 0o600), Err(EPERM));
    become_root();
    Ok(())
}

/// Pages of 2 MiB beyond the reserve, made when they are wanted, while this is not `None`.
struct Surplus(String);

impl Surplus {
    const FILE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages";

    fn allow(more: u64) -> Outcome<Surplus> {
        let text = |e: std::io::Error| Failure(e.to_string());
        let before = std::fs::read_to_string(Surplus::FILE).map_err(text)?;
        let count: u64 = before.trim().parse().unwrap_or(0);
        std::fs::write(Surplus::FILE, (count + more).to_string()).map_err(text)?;
        Ok(Surplus(before))
    }
}

impl Drop for Surplus {
    fn drop(&mut self) {
        let _ = std::fs::write(Surplus::FILE, &self.0);
    }
}

/// The size that was asked for is shown, the whole page is mapped, and locking has nothing to do.
fn huge_pages_are_attached_whole() -> Outcome {
    const HUGE: usize = 2 << 20;
    let _surplus = Surplus::allow(4)?;
    let id = ok!(shmget(IPC_PRIVATE, HUGE + 1, SHM_HUGETLB | 21 << SHM_HUGE_SHIFT | 0o600));
    same!((ok!(shm_stat(id)).shm_segsz, ok!(shm_info()).1.shm_tot), (HUGE + 1, 513));
    let at = ok!(shmat(id, 0, 0));
    same!(at % HUGE, 0);
    set_byte(at + 2 * HUGE - 1, 5);
    same!(byte_at(at + 2 * HUGE - 1), 5);
    same!(shmat(id, at + HUGE, 0), Err(EINVAL));
    same!(ok!(shm_stat(id)).shm_nattch, 1);
    ok!(shmctl(id, SHM_LOCK));
    same!(ok!(shm_stat(id)).shm_perm.mode, 0o600);
    ok!(shmdt(at));
    ok!(shm_remove(id));
    same!(ok!(shm_info()).1.used_ids, 0);
    Ok(())
}

fn shmmax_is_the_largest() -> Outcome {
    same!(segment(8192), Ok(0));
    same!(segment(8193), Err(EINVAL));
    Ok(())
}

fn full_of_pages() -> Outcome {
    let id = ok!(segment(3 * 4096));
    same!(segment(3 * 4096), Err(ENOSPC));
    same!(segment(2 * 4096), Ok(1));
    same!(segment(1), Err(ENOSPC));
    ok!(shm_remove(id));
    same!(segment(3 * 4096).is_ok(), true);
    Ok(())
}

fn full_of_segments() -> Outcome {
    let id = ok!(segment(1));
    let other = ok!(segment(1));
    same!(segment(1), Err(ENOSPC));
    // A removed one that is attached counts; its end makes room.
    let attached = Task::start(move || {
        let attached = shmat(other, 0, 0).is_ok() && shm_remove(other).is_ok();
        attached && segment(1) == Err(ENOSPC)
    })?;
    same!(attached.report()?, true);
    same!(segment(1).is_ok(), true);
    ok!(shm_remove(id));
    same!(segment(1).is_ok(), true);
    Ok(())
}

fn many_at_a_time() -> Outcome {
    let ids: Vec<i32> = (0..300).filter_map(|_| segment(1).ok()).collect();
    same!(ids.len(), 300);
    let places: Vec<usize> = ids.iter().filter_map(|id| shmat(*id, 0, 0).ok()).collect();
    same!(places.len(), 300);
    for (number, at) in places.iter().enumerate() {
        set_byte(*at, number as u8);
    }
    for (number, at) in places.iter().enumerate() {
        same!(byte_at(*at), number as u8);
        ok!(shmdt(*at));
    }
    for id in ids {
        ok!(shm_remove(id));
    }
    same!(ok!(shm_info()).1.used_ids, 0);
    Ok(())
}
