//! shmat(2): addresses, permissions, what it notes; and how mappings are counted through fork, exec and death.

use std::process::Command;

use libc::{IPC_CREAT, PROT_EXEC, PROT_READ, PROT_WRITE};

use crate::{
    Door,
    call::{
        SHM_DEST, SHM_STAT_ANY, byte_at, move_away, mprotect, munmap, nattch, room, segment, semget,
        set_byte, shm_info, shm_remove, shm_set, shm_stat, shm_stat_by, shmat, shmdt, shmget,
    },
    case::cases,
    check::{Failure, Outcome, ok, same},
    errno::{EACCES, EINVAL, ENOMEM},
    memory::Pages,
    task::{Task, become_root, become_user, execute_sleep, now, own_pid, sleep_for_ever, wait_until},
};

cases! { "shmat":
    wrong_arguments,
    address_is_rounded_only_if_asked,
    address_that_is_taken,
    place_that_is_free_stays_free.wide().system("an address space"),
    remap_takes_the_place,
    wraps_around.wide(),
    larger_than_32_bits_reach.only(&[Door::Kernel32, Door::Trap32]),
    permissions.root(),
    read_only_stays_read_only,
    writing_to_what_is_read_only_kills.system("a program that dies of what it does"),
    executable.system("code that is executed"),
    no_room_in_the_address_space.system("a limit of addresses"),
    notes_time_and_process,
    same_segment_twice,
    removed_segment_while_attached.root(),
    counted_through_fork,
    counted_through_fork_without_handlers.system(UNSEEN_FORK),
    counted_through_spawning.system("a program that is begun by libc"),
    counted_through_exec,
    counted_through_exit,
    counted_through_kill,
    counted_by_mapping,
    not_inherited_with_dontfork.system("advice about memory"),
    removed_goes_with_the_last_process,
    removed_goes_with_a_child_that_never_calls.system(UNSEEN_FORK),
    removed_goes_with_the_last_reader,
    name_in_maps.system("/proc/PID/maps"),
    descriptors_are_the_programs.system("descriptors of all kinds"),
}

const UNSEEN_FORK: &str = "a fork that no library is told of";
const SHM_RDONLY: i32 = libc::SHM_RDONLY;
const SHM_RND: i32 = libc::SHM_RND;
const SHM_REMAP: i32 = libc::SHM_REMAP;
const SHM_EXEC: i32 = 0o100_000;
const PAGE: usize = 4096;

fn wrong_arguments() -> Outcome {
    let id = ok!(segment(PAGE));
    same!(shmat(-1, 0, 0), Err(EINVAL));
    same!(shmat(id + 1, 0, 0), Err(EINVAL));
    same!(shmat(id + 32768, 0, 0), Err(EINVAL));
    same!(shmat(id, 0, SHM_REMAP), Err(EINVAL));
    same!(shmat(id, 1, SHM_REMAP | SHM_RND), Err(EINVAL));
    same!(ok!(shm_stat(id)).shm_atime, 0);
    Ok(())
}

fn address_is_rounded_only_if_asked() -> Outcome {
    let id = ok!(segment(PAGE));
    let free = room(4 * PAGE);
    same!(shmat(id, free + 1, 0), Err(EINVAL));
    same!(shmat(id, free + 1, SHM_REMAP), Err(EINVAL));
    same!(shmat(id, free, 0), Ok(free));
    same!(shmat(id, free + 2 * PAGE - 1, SHM_RND), Ok(free + PAGE));
    same!(nattch(id), Ok(2));
    Ok(())
}

fn larger_than_32_bits_reach() -> Outcome {
    // Up to a whole page, 4 GiB.
    let id = ok!(shmget(0, u32::MAX as usize, 0o600));
    let taken = Pages::low(PROT_READ, PROT_READ);
    same!(shmat(id, taken.at(0).addr(), 0), Err(EINVAL));
    same!(shmat(id, 0, 0), Err(ENOMEM));
    same!(shm_remove(id), Ok(0));
    Ok(())
}

fn address_that_is_taken() -> Outcome {
    let id = ok!(segment(2 * PAGE));
    let at = ok!(shmat(id, 0, 0));
    same!(shmat(id, at, 0), Err(EINVAL));
    same!(shmat(id, at + PAGE, 0), Err(EINVAL));
    same!(shmat(id, at - PAGE, 0), Err(EINVAL));
    same!(nattch(id), Ok(1));
    ok!(shmdt(at));
    same!(shmat(id, at, 0), Ok(at));
    Ok(())
}

/// Whatever is made meanwhile.
fn place_that_is_free_stays_free() -> Outcome {
    const SIZE: usize = 16 << 20;
    // Where the system puts things.
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a mapping wherever there is room, and removed at once.
    let free = unsafe {
        let at = libc::mmap(std::ptr::null_mut(), SIZE, libc::PROT_NONE, anonymous, -1, 0);
        libc::munmap(at, SIZE);
        at.addr()
    };
    let id = ok!(segment(SIZE));
    for _ in 0..20 {
        ok!(semget(0, 30_000, 0o600));
    }
    same!(shmat(id, free, 0), Ok(free));
    Ok(())
}

fn remap_takes_the_place() -> Outcome {
    let (first, second) = (ok!(segment(2 * PAGE)), ok!(segment(PAGE)));
    let at = ok!(shmat(first, 0, 0));
    set_byte(at, 1);
    same!(shmat(second, at, SHM_REMAP), Ok(at));
    same!(byte_at(at), 0);
    same!((nattch(first), nattch(second)), (Ok(1), Ok(1)));
    // The second page is still of the first segment, whose beginning is gone.
    ok!(shmdt(at));
    same!((nattch(first), nattch(second)), (Ok(1), Ok(0)));
    ok!(shmdt(at));
    same!((nattch(first), nattch(second)), (Ok(0), Ok(0)));
    same!(shmdt(at), Err(EINVAL));
    Ok(())
}

fn wraps_around() -> Outcome {
    let id = ok!(segment(2 * PAGE));
    same!(shmat(id, usize::MAX - PAGE + 1, 0), Err(EINVAL));
    same!(shmat(id, 1 << 47, 0), Err(crate::errno::ENOMEM));
    same!(nattch(id), Ok(0));
    Ok(())
}

/// Reading always, writing unless `SHM_RDONLY`, executing with `SHM_EXEC`.
fn permissions() -> Outcome {
    for (mode, read, write, execute) in [
        (0o000, false, false, false),
        (0o004, true, false, false),
        (0o006, true, true, false),
        (0o005, true, false, true),
        (0o007, true, true, true),
        (0o002, false, false, false),
    ] {
        let id = ok!(shmget(libc::IPC_PRIVATE, PAGE, mode));
        become_user(1000, 1000, &[]);
        let can = |flags| match shmat(id, 0, flags) {
            Ok(at) => shmdt(at).map(|_| true),
            Err(EACCES) => Ok(false),
            Err(other) => Err(other),
        };
        same!((can(SHM_RDONLY), can(0)), (Ok(read), Ok(write)));
        same!(can(SHM_EXEC | SHM_RDONLY), Ok(read && execute));
        same!(can(SHM_EXEC), Ok(write && execute));
        become_root();
    }
    Ok(())
}

fn read_only_stays_read_only() -> Outcome {
    let id = ok!(segment(2 * PAGE));
    let at = ok!(shmat(id, 0, SHM_RDONLY));
    same!(byte_at(at), 0);
    same!(mprotect(at, PAGE, PROT_READ | PROT_WRITE), Err(EACCES));
    same!(mprotect(at, PAGE, PROT_READ | PROT_EXEC), Ok(0));
    let writable = ok!(shmat(id, 0, 0));
    set_byte(writable, 3);
    same!(byte_at(at), 3);
    same!(mprotect(writable, 2 * PAGE, PROT_READ), Ok(0));
    same!(mprotect(writable, 2 * PAGE, PROT_READ | PROT_WRITE), Ok(0));
    Ok(())
}

fn writing_to_what_is_read_only_kills() -> Outcome {
    let id = ok!(segment(PAGE));
    let at = ok!(shmat(id, 0, SHM_RDONLY));
    let child = raw_fork(|| set_byte(at, 1))?;
    let mut status = 0;
    // SAFETY: room for the status of a child of ours.
    same!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    same!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, true);
    same!((byte_at(at), nattch(id)), (0, Ok(1)));
    Ok(())
}

fn no_room_in_the_address_space() -> Outcome {
    const LARGE: usize = 64 << 20;
    let (large, small) = (ok!(segment(LARGE)), ok!(segment(PAGE)));
    // What the process has by now, it has.
    ok!(shmat(small, 0, 0).and_then(shmdt));
    let attached = Task::start(move || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: usize = statm.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let most = (pages * PAGE + LARGE / 2) as u64;
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: a limit that lives through the call.
        let limited = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) } == 0;
        (limited && pages != 0, shmat(large, 0, 0), shmat(small, 0, 0).and_then(shmdt))
    })?;
    same!(attached.report()?, (true, Err(crate::errno::ENOMEM), Ok(0)));
    let ds = ok!(shm_stat(large));
    same!((ds.shm_nattch, ds.shm_atime), (0, 0));
    Ok(())
}

fn executable() -> Outcome {
    let id = ok!(shmget(libc::IPC_PRIVATE, PAGE, 0o700));
    let at = ok!(shmat(id, 0, SHM_EXEC));
    // mov eax, 42; ret
    for (offset, byte) in [0xb8, 42, 0, 0, 0, 0xc3].into_iter().enumerate() {
        set_byte(at + offset, byte);
    }
    let function = std::ptr::with_exposed_provenance::<()>(at);
    // SAFETY: the bytes above are a function of this type.
    let function: extern "C" fn() -> i32 = unsafe { std::mem::transmute(function) };
    same!(function(), 42);
    Ok(())
}

fn notes_time_and_process() -> Outcome {
    let id = ok!(segment(1));
    let before = now();
    let child = Task::start(move || {
        shmat(id, 0, 0).map(drop)?;
        shm_stat(id).map(|ds| (ds.shm_lpid, ds.shm_atime, ds.shm_dtime, ds.shm_nattch))
    })?;
    let pid = child.pid();
    let (lpid, atime, dtime, count) = ok!(child.report()?);
    same!((lpid, dtime, count), (pid, 0, 1));
    same!((before..=now()).contains(&atime), true);
    Ok(())
}

fn same_segment_twice() -> Outcome {
    let id = ok!(segment(1));
    let (first, second) = (ok!(shmat(id, 0, 0)), ok!(shmat(id, 0, 0)));
    set_byte(first, 9);
    same!(byte_at(second), 9);
    same!(nattch(id), Ok(2));
    ok!(shmdt(first));
    same!((nattch(id), byte_at(second)), (Ok(1), 9));
    Ok(())
}

fn removed_segment_while_attached() -> Outcome {
    let id = ok!(shmget(0x5eed, PAGE, IPC_CREAT | 0o600));
    let at = ok!(shmat(id, 0, 0));
    ok!(shm_remove(id));
    let perm = ok!(shm_stat(id)).shm_perm;
    same!((perm.__key, u32::from(perm.mode)), (0, 0o600 | SHM_DEST));
    // By its identifier it can still be attached, changed, and removed again; its key is free.
    let second = ok!(shmat(id, 0, 0));
    same!(nattch(id), Ok(2));
    ok!(shm_remove(id));
    let mut ds = ok!(shm_stat(id));
    ds.shm_perm.mode = 0o444;
    ok!(shm_set(id, ds));
    same!(u32::from(ok!(shm_stat(id)).shm_perm.mode), 0o444 | SHM_DEST);
    let other = ok!(shmget(0x5eed, PAGE, IPC_CREAT | 0o600));
    same!(other != id, true);
    ok!(shmdt(at));
    same!(nattch(id), Ok(1));
    ok!(shmdt(second));
    same!(shm_stat_by(id, libc::IPC_STAT).map(drop), Err(EINVAL));
    same!(shmat(id, 0, 0), Err(EINVAL));
    same!(shm_remove(id), Err(EINVAL));
    same!(shmget(0x5eed, 0, 0), Ok(other));
    same!(ok!(shm_info()).1.used_ids, 1);
    Ok(())
}

fn counted_through_fork() -> Outcome {
    let id = ok!(segment(2 * PAGE));
    let at = ok!(shmat(id, 0, 0));
    ok!(mprotect(at, PAGE, PROT_READ));
    same!(nattch(id), Ok(2));
    let child = Task::start(|| sleep_for_ever() as ())?;
    same!(nattch(id), Ok(4));
    // The fork is the parent's attaching.
    same!(ok!(shm_stat(id)).shm_lpid, own_pid());
    let pid = child.pid();
    child.kill();
    let ds = ok!(shm_stat(id));
    same!((ds.shm_nattch, ds.shm_lpid), (2, pid));
    same!(ds.shm_dtime != 0, true);
    Ok(())
}

/// A child by clone(2), of which no handler for fork is told.
fn raw_fork(work: impl FnOnce()) -> Outcome<i32> {
    // SAFETY: as fork; the child makes no use of what libc keeps of its threads.
    match unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) } {
        -1 => Err(Failure("clone".into())),
        0 => {
            work();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(0) }
        }
        pid => Ok(pid as i32),
    }
}

fn end(pid: i32) {
    // SAFETY: a child of ours that is not reaped yet.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}

fn pause_for_ever() {
    loop {
        // SAFETY: only sleeps.
        unsafe { libc::pause() };
    }
}

fn counted_through_fork_without_handlers() -> Outcome {
    let id = ok!(segment(PAGE));
    let at = ok!(shmat(id, 0, 0));
    let child = raw_fork(pause_for_ever)?;
    same!(nattch(id), Ok(2));
    ok!(shmdt(at));
    same!(nattch(id), Ok(1));
    end(child);
    same!(nattch(id), Ok(0));
    Ok(())
}

fn counted_through_spawning() -> Outcome {
    let id = ok!(segment(PAGE));
    let at = ok!(shmat(id, 0, 0));
    let mut sleeper = Command::new("sleep").arg("60").spawn().map_err(|e| Failure(format!("sleep: {e}")))?;
    // spawn returns when the program has been executed.
    let counted = nattch(id);
    let _ = sleeper.kill();
    let _ = sleeper.wait();
    same!(counted, Ok(1));
    ok!(shmdt(at));
    same!(nattch(id), Ok(0));
    Ok(())
}

fn counted_through_exec() -> Outcome {
    let id = ok!(segment(PAGE));
    let execs = Task::start(move || {
        if shmat(id, 0, 0).is_ok() {
            execute_sleep();
        }
    })?;
    // Attached, and then not.
    let pid = execs.pid();
    wait_until(|| Ok(ok!(shm_stat(id)).shm_lpid == pid && ok!(nattch(id)) == 0))?;
    same!(ok!(shm_stat(id)).shm_dtime != 0, true);
    Ok(())
}

fn counted_through_exit() -> Outcome {
    let id = ok!(segment(PAGE));
    let child = Task::start(move || shmat(id, 0, 0).is_ok())?;
    let pid = child.pid();
    same!(child.report()?, true);
    let ds = ok!(shm_stat(id));
    same!((ds.shm_nattch, ds.shm_lpid), (0, pid));
    same!(ds.shm_dtime != 0, true);
    Ok(())
}

fn counted_through_kill() -> Outcome {
    let id = ok!(segment(PAGE));
    let child = Task::start(move || {
        let _ = shmat(id, 0, 0);
        let _ = shmat(id, 0, SHM_RDONLY);
        sleep_for_ever() as ()
    })?;
    wait_until(|| Ok(ok!(nattch(id)) == 2))?;
    child.kill();
    same!(nattch(id), Ok(0));
    Ok(())
}

fn counted_by_mapping() -> Outcome {
    let id = ok!(segment(4 * PAGE));
    let at = ok!(shmat(id, 0, 0));
    ok!(munmap(at + PAGE, PAGE));
    same!(nattch(id), Ok(2));
    ok!(mprotect(at + 2 * PAGE, PAGE, PROT_READ));
    same!(nattch(id), Ok(3));
    let moved = ok!(move_away(at + 3 * PAGE, PAGE));
    same!(nattch(id), Ok(3));
    same!(ok!(shm_stat_by(id, SHM_STAT_ANY)).1.shm_nattch, 3);
    ok!(munmap(at, 3 * PAGE));
    same!(nattch(id), Ok(1));
    ok!(munmap(moved, PAGE));
    same!(nattch(id), Ok(0));
    Ok(())
}

fn not_inherited_with_dontfork() -> Outcome {
    let id = ok!(segment(PAGE));
    let at = ok!(shmat(id, 0, 0));
    // SAFETY: advice about a mapping of ours.
    let advised = unsafe { libc::madvise(std::ptr::without_provenance_mut(at), PAGE, libc::MADV_DONTFORK) };
    same!(advised, 0);
    let child = Task::start(|| sleep_for_ever() as ())?;
    same!(nattch(id), Ok(1));
    child.kill();
    same!(nattch(id), Ok(1));
    Ok(())
}

fn removed_goes_with_the_last_process() -> Outcome {
    let id = ok!(segment(PAGE));
    let at = ok!(shmat(id, 0, 0));
    let child = Task::start(|| sleep_for_ever() as ())?;
    ok!(shm_remove(id));
    ok!(shmdt(at));
    same!(nattch(id), Ok(1));
    child.kill();
    same!(nattch(id), Err(EINVAL));
    same!(ok!(shm_info()).1.used_ids, 0);
    Ok(())
}

fn removed_goes_with_a_child_that_never_calls() -> Outcome {
    let id = ok!(segment(PAGE));
    let at = ok!(shmat(id, 0, 0));
    set_byte(at, 5);
    let child = raw_fork(pause_for_ever)?;
    ok!(shm_remove(id));
    ok!(shmdt(at));
    same!(nattch(id), Ok(1));
    let again = ok!(shmat(id, 0, 0));
    same!(byte_at(again), 5);
    ok!(shmdt(again));
    end(child);
    same!(nattch(id), Err(EINVAL));
    same!(ok!(shm_info()).1.used_ids, 0);
    Ok(())
}

fn removed_goes_with_the_last_reader() -> Outcome {
    let id = ok!(segment(PAGE));
    let at = ok!(shmat(id, 0, SHM_RDONLY));
    ok!(shm_remove(id));
    same!(nattch(id), Ok(1));
    same!(byte_at(at), 0);
    ok!(shmdt(at));
    same!(nattch(id), Err(EINVAL));
    Ok(())
}

/// The name of the memory has the key, also after the key is gone.
fn name_in_maps() -> Outcome {
    let id = ok!(shmget(0xbeef, PAGE, IPC_CREAT | 0o600));
    let at = ok!(shmat(id, 0, 0));
    ok!(shm_remove(id));
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|e| Failure(e.to_string()))?;
    let line = maps.lines().find(|line| line.starts_with(&format!("{at:x}-"))).unwrap_or("");
    same!(line.contains("SYSV0000beef (deleted)"), true);
    Ok(())
}

/// A program may close all descriptors, and use their numbers for its own.
fn descriptors_are_the_programs() -> Outcome {
    let id = ok!(segment(PAGE));
    let at = ok!(shmat(id, 0, 0));
    set_byte(at, 8);
    ok!(shmdt(at));
    let highest = 64;
    for number in 3..highest {
        // SAFETY: a copy of standard error over whatever has that number.
        unsafe { libc::dup2(2, number) };
    }
    let at = ok!(shmat(id, 0, 0));
    same!(byte_at(at), 8);
    ok!(shmdt(at));
    for number in 3..highest {
        // SAFETY: asks of a descriptor.
        same!(unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0, true);
        // SAFETY: of ours since the copy.
        unsafe { libc::close(number) };
    }
    same!(byte_at(ok!(shmat(id, 0, 0))), 8);
    ok!(shm_remove(id));
    same!(nattch(id), Ok(1));
    Ok(())
}
