//! shmdt(2): what it finds, and what it unmaps.

use libc::PROT_READ;

use crate::{
    Door,
    call::{
        byte_at, map_private, move_away, mprotect, munmap, nattch, room, segment, set_byte, shm_stat, shmat,
        shmdt,
    },
    case::cases,
    check::{Failure, Outcome, ok, same},
    errno::EINVAL,
    task::{Task, Thread, now, own_pid, sleep_for_ever},
};

const UNSEEN: &str = "what the library does not see unmapped is noted when somebody asks";

cases! { "shmdt":
    wrong_addresses,
    notes_time_and_process,
    only_its_own_attachment,
    after_the_head_is_unmapped,
    after_the_middle_is_unmapped,
    after_protection_has_cut_it_up,
    not_a_piece_that_was_moved,
    after_all_was_unmapped,
    not_what_was_mapped_since,
    not_what_was_mapped_over_it,
    of_one_that_was_put_over_another,
    // By the crate, which of two processes detached last is found out when somebody asks, in any order.
    what_is_left_of_one_below_another.only(&[
        Door::Kernel, Door::Preload, Door::Stranger, Door::Trap, Door::Kernel32, Door::Trap32, Door::Host
    ]),
    many_at_a_time_by_munmap.differs(&[Door::Trap, Door::Trap32, Door::Api], UNSEEN),
    what_is_left_below_the_same_segment.differs(&[Door::Trap, Door::Trap32, Door::Api], UNSEEN),
    thousands_in_any_order,
    inherited_by_a_child,
    of_a_mapping_that_another_thread_made,
}

const PAGE: usize = 4096;

fn wrong_addresses() -> Outcome {
    let id = ok!(segment(2 * PAGE));
    let at = ok!(shmat(id, 0, 0));
    for wrong in [at + 1, at + PAGE, at - PAGE, 0, 1, usize::MAX, usize::MAX - PAGE + 1] {
        same!(shmdt(wrong), Err(EINVAL));
    }
    same!(nattch(id), Ok(1));
    ok!(shmdt(at));
    same!(shmdt(at), Err(EINVAL));
    Ok(())
}

fn notes_time_and_process() -> Outcome {
    let id = ok!(segment(PAGE));
    let before = now();
    let child = Task::start(move || shmat(id, 0, 0).and_then(shmdt))?;
    let pid = child.pid();
    ok!(child.report()?);
    let ds = ok!(shm_stat(id));
    same!((ds.shm_lpid, ds.shm_nattch), (pid, 0));
    same!((before..=now()).contains(&ds.shm_dtime), true);
    Ok(())
}

fn only_its_own_attachment() -> Outcome {
    let id = ok!(segment(PAGE));
    let free = room(4 * PAGE);
    for page in 0..4 {
        same!(shmat(id, free + page * PAGE, 0), Ok(free + page * PAGE));
    }
    ok!(shmdt(free + PAGE));
    same!(nattch(id), Ok(3));
    for page in [0, 2, 3] {
        same!(byte_at(free + page * PAGE), 0);
        ok!(shmdt(free + page * PAGE));
    }
    same!(nattch(id), Ok(0));
    Ok(())
}

fn after_the_head_is_unmapped() -> Outcome {
    let id = ok!(segment(3 * PAGE));
    let at = ok!(shmat(id, 0, 0));
    ok!(munmap(at, PAGE));
    same!(nattch(id), Ok(1));
    same!(shmdt(at + PAGE), Err(EINVAL));
    ok!(shmdt(at));
    same!(nattch(id), Ok(0));
    Ok(())
}

fn after_the_middle_is_unmapped() -> Outcome {
    let id = ok!(segment(3 * PAGE));
    let at = ok!(shmat(id, 0, 0));
    ok!(munmap(at + PAGE, PAGE));
    same!(nattch(id), Ok(2));
    ok!(shmdt(at));
    same!(nattch(id), Ok(0));
    Ok(())
}

fn after_protection_has_cut_it_up() -> Outcome {
    let id = ok!(segment(5 * PAGE));
    let at = ok!(shmat(id, 0, 0));
    ok!(mprotect(at + PAGE, PAGE, PROT_READ));
    ok!(mprotect(at + 3 * PAGE, PAGE, PROT_READ));
    same!(nattch(id), Ok(5));
    ok!(shmdt(at));
    same!(nattch(id), Ok(0));
    Ok(())
}

fn not_a_piece_that_was_moved() -> Outcome {
    let id = ok!(segment(2 * PAGE));
    let at = ok!(shmat(id, 0, 0));
    set_byte(at + PAGE, 4);
    let moved = ok!(move_away(at + PAGE, PAGE));
    ok!(shmdt(at));
    same!(nattch(id), Ok(1));
    same!(byte_at(moved), 4);
    // What is left begins one page into the segment.
    same!(shmdt(moved), Err(EINVAL));
    ok!(shmdt(moved - PAGE));
    same!(nattch(id), Ok(0));
    Ok(())
}

fn after_all_was_unmapped() -> Outcome {
    let id = ok!(segment(2 * PAGE));
    let at = ok!(shmat(id, 0, 0));
    ok!(munmap(at, 2 * PAGE));
    same!(nattch(id), Ok(0));
    same!(ok!(shm_stat(id)).shm_dtime != 0, true);
    same!(shmdt(at), Err(EINVAL));
    Ok(())
}

/// Memory of the program's own at the place of an attachment is not one.
fn not_what_was_mapped_since() -> Outcome {
    let id = ok!(segment(2 * PAGE));
    let at = ok!(shmat(id, 0, 0));
    ok!(munmap(at, 2 * PAGE));
    map_own(at, 2 * PAGE, libc::MAP_FIXED_NOREPLACE)?;
    same!(shmdt(at), Err(EINVAL));
    same!(byte_at(at), 1);
    Ok(())
}

/// Maps private memory of which each page begins with a 1.
fn map_own(at: usize, len: usize, how: i32) -> Outcome {
    same!(map_private(at, len, how), Ok(at));
    (at..at + len).step_by(PAGE).for_each(|page| set_byte(page, 1));
    Ok(())
}

/// Memory put over an attachment ends it, or what is below.
fn not_what_was_mapped_over_it() -> Outcome {
    let id = ok!(segment(3 * PAGE));
    let at = ok!(shmat(id, 0, 0));
    map_own(at, 3 * PAGE, libc::MAP_FIXED)?;
    let ds = ok!(shm_stat(id));
    same!((ds.shm_nattch, ds.shm_dtime != 0), (0, true));
    same!(shmdt(at), Err(EINVAL));
    same!(byte_at(at), 1);
    let at = ok!(shmat(id, 0, 0));
    map_own(at + PAGE, PAGE, libc::MAP_FIXED)?;
    same!(nattch(id), Ok(2));
    ok!(shmdt(at));
    same!((nattch(id), byte_at(at + PAGE)), (Ok(0), 1));
    Ok(())
}

/// What is detached is forgotten, also if what it was put over is still there: a child that unmaps that place detaches nothing.
fn of_one_that_was_put_over_another() -> Outcome {
    let (below, above) = (ok!(segment(2 * PAGE)), ok!(segment(PAGE)));
    let at = ok!(shmat(below, 0, 0));
    same!(shmat(above, at, libc::SHM_REMAP), Ok(at));
    ok!(shmdt(at));
    same!(Task::start(move || munmap(at, PAGE))?.report()?, Ok(0));
    let own = own_pid();
    let ds = ok!(shm_stat(above));
    same!((ds.shm_nattch, ds.shm_lpid), (0, own));
    same!(nattch(below), Ok(1));
    Ok(())
}

/// Of two that began at the same place, the one whose rest is unmapped is detached.
fn what_is_left_of_one_below_another() -> Outcome {
    let (first, second) = (ok!(segment(3 * PAGE)), ok!(segment(2 * PAGE)));
    // Whichever comes first where attachments are remembered.
    let other = ok!(shmat(second, 0, 0));
    let at = ok!(shmat(first, 0, 0));
    ok!(shmdt(other));
    ok!(munmap(at, 2 * PAGE));
    same!(shmat(second, at, 0), Ok(at));
    ok!(munmap(at + PAGE, 2 * PAGE));
    let child = Task::start(|| sleep_for_ever() as ())?;
    let own = own_pid();
    same!((nattch(first), nattch(second)), (Ok(0), Ok(2)));
    same!(ok!(shm_stat(first)).shm_lpid, own);
    child.kill();
    same!(ok!(shm_stat(first)).shm_lpid, own);
    ok!(shmdt(at));
    same!(nattch(second), Ok(0));
    Ok(())
}

/// Each is noted at once, not when somebody asks: who attaches after that is the last one.
fn many_at_a_time_by_munmap() -> Outcome {
    const COUNT: usize = 9;
    let mut ids = Vec::new();
    for _ in 0..COUNT {
        ids.push(ok!(segment(PAGE)));
    }
    let free = room(COUNT * PAGE);
    for (number, id) in ids.iter().enumerate() {
        ok!(shmat(*id, free + number * PAGE, 0));
    }
    ok!(munmap(free, COUNT * PAGE));
    let attaches = ids.clone();
    let child = Task::start(move || {
        let done = attaches.iter().filter(|id| shmat(**id, 0, 0).is_ok()).count();
        let last: Vec<i32> =
            attaches.iter().filter_map(|id| shm_stat(*id).ok()).map(|ds| ds.shm_lpid).collect();
        (done, last)
    })?;
    let pid = child.pid();
    same!(child.report()?, (COUNT, vec![pid; COUNT]));
    Ok(())
}

/// A segment that is put over what is left of itself: one attachment ends, one begins.
fn what_is_left_below_the_same_segment() -> Outcome {
    let id = ok!(segment(2 * PAGE));
    let at = ok!(shmat(id, 0, 0));
    ok!(munmap(at, PAGE));
    same!(shmat(id, at, libc::SHM_REMAP), Ok(at));
    ok!(munmap(at, 2 * PAGE));
    let child = Task::start(move || (shmat(id, 0, 0).is_ok(), shm_stat(id).map(|ds| ds.shm_lpid)))?;
    let pid = child.pid();
    same!(child.report()?, (true, Ok(pid)));
    Ok(())
}

fn thousands_in_any_order() -> Outcome {
    // More than the library's table has room for.
    const COUNT: usize = 4100;
    let id = ok!(segment(2 * PAGE));
    let mut attached = Vec::new();
    for _ in 0..COUNT {
        attached.push(ok!(shmat(id, 0, 0)));
    }
    same!(nattch(id), Ok(COUNT as u64));
    let child = Task::start(move || nattch(id))?;
    same!(child.report()?, Ok(2 * COUNT as u64));
    ok!(munmap(attached[COUNT / 2], PAGE));
    let (odd, even): (Vec<_>, Vec<_>) =
        attached.into_iter().enumerate().partition(|(number, _)| number % 2 == 1);
    for (_, at) in odd.into_iter().chain(even.into_iter().rev()) {
        ok!(shmdt(at));
    }
    same!(nattch(id), Ok(0));
    Ok(())
}

fn inherited_by_a_child() -> Outcome {
    let id = ok!(segment(2 * PAGE));
    let at = ok!(shmat(id, 0, 0));
    let child = Task::start(move || (shmdt(at), nattch(id), shmdt(at)))?;
    let pid = child.pid();
    same!(child.report()?, (Ok(0), Ok(1), Err(EINVAL)));
    let ds = ok!(shm_stat(id));
    same!((ds.shm_nattch, ds.shm_lpid), (1, pid));
    same!(byte_at(at), 0);
    Ok(())
}

fn of_a_mapping_that_another_thread_made() -> Outcome {
    let id = ok!(segment(PAGE));
    let at = Thread::start(move || shmat(id, 0, 0)).join().ok_or_else(|| Failure("thread".into()))?;
    same!(nattch(id), Ok(1));
    ok!(shmdt(ok!(at)));
    same!(nattch(id), Ok(0));
    Ok(())
}
