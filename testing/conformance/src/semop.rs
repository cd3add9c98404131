//! semop(2) and semtimedop(2): order of checks, order of sleepers, SEM_UNDO, timeouts, signals.

use std::{ptr, time::Duration};

use crate::{
    Door,
    call::{
        Answer, SEM_NOWAIT, UNDO, getall, getval, is_32_bit, op, sem_remove, sem_stat, semctl, semget, semop,
        semop_raw, semtimedop_for, semtimedop_raw, set_of, setall, setval, waiting,
    },
    case::cases,
    check::{Outcome, ok, same},
    errno::{E2BIG, EACCES, EAGAIN, EFAULT, EFBIG, EIDRM, EINTR, EINVAL, ERANGE},
    memory::Bad,
    task::{
        Moment, PROCESSES, Task, Thread, become_user, execute_sleep, executed_while_asleep, handle,
        let_others_run, now, own_pid, sleep_for_ever,
    },
};

cases! { "semop":
    counts_of_operations,
    five_hundred_operations,
    semopm_is_the_most.limits(&[("kernel.sem", "32000 1024000000 3 32000")]),
    count_before_pointer,
    bad_pointers,
    unknown_ids,
    number_beyond_the_set_before_permission.root(),
    permission_by_kind.root(),
    all_or_nothing,
    several_on_one_semaphore,
    above_the_largest_value,
    blocking_or_range_by_order,
    nowait_of_the_blocking_operation,
    stamps_every_named,
    waits_for_value,
    waits_for_zero,
    small_request_passes_large,
    first_in_line_among_those_that_can,
    caller_that_can_does_not_queue,
    complex_and_simple_in_one_line,
    sleeper_owns_its_result,
    zero_waiters_first,
    one_wakes_the_next,
    sleeper_ends_with_range_error,
    sleeper_ends_with_again,
    counts_of_sleepers,
    counts_follow_the_first_blocking,
    counts_stay_with_the_last_try,
    removed_while_asleep,
    interrupted_by_a_handler,
    interrupted_despite_restart,
    killed_while_asleep,
    executed_while_it_slept.only(PROCESSES),
    times_out,
    invalid_timeouts,
    bad_timeout_pointer,
    order_of_timeout_checks,
    undo_at_exit,
    undo_at_kill,
    undo_clamped_at_zero,
    undo_clamped_at_the_top,
    undo_range,
    undo_stamps,
    undo_of_what_was_refused,
    undo_wakes,
    undo_not_inherited_by_fork,
    undo_kept_over_exec,
    zero_operations_look_at_nobody,
    undo_shared_by_threads,
    undo_of_a_sleeper,
    undo_cleared_by_setval,
    undo_cleared_by_setall,
    undo_kept_by_set,
    undo_gone_with_the_set,
    undo_sums_up,
    barging_leaves_the_value.only(STOPPING).limits(BARGING),
    barging_wakes_as_many_as_there_is.only(STOPPING).limits(BARGING),
    barged_sleeper_keeps_its_place.only(STOPPING).limits(BARGING),
    barged_sleeper_times_out.only(STOPPING).limits(BARGING),
    barging_wakes_those_of_each_semaphore.only(OURS).limits(BARGING),
    barging_survives_the_woken.only(STOPPING).limits(BARGING),
    barging_and_interrupted.only(STOPPING).limits(BARGING),
    barging_and_removed.only(STOPPING).limits(BARGING),
    barging_waits_for_zero.only(STOPPING).limits(BARGING),
    barging_with_errors.only(OURS).limits(BARGING),
    barging_with_undo.only(OURS).limits(BARGING),
}

/// The kernel doesn't have barging.
const OURS: &[Door] = &[Door::Preload, Door::Trap, Door::Trap32, Door::Host];
/// Nor does a sleeper that is stopped sleep on there, or on a simulated machine.
const STOPPING: &[Door] = &[Door::Preload];
const BARGING: &[(&str, &str)] = &[("ipcspace.sem_barging", "1")];

/// A task asleep in these operations.
fn sleeper(id: i32, operations: &[libc::sembuf]) -> Outcome<Task<Answer<i32>>> {
    let operations = operations.to_vec();
    let task = Task::start(move || semop(id, &operations))?;
    task.asleep()?;
    Ok(task)
}

/// A task that has done `operations` on `id` and then sleeps; it ends when semaphore 0 of `gate` grows.
fn doer(id: i32, operations: &[libc::sembuf], gate: i32) -> Outcome<Task<Answer<i32>>> {
    let operations = operations.to_vec();
    let task = Task::start(move || {
        semop(id, &operations)?;
        semop(gate, &[op(0, -1, 0)])
    })?;
    task.asleep()?;
    Ok(task)
}

fn open_gate(gate: i32) -> Answer<i32> {
    semop(gate, &[op(0, 1, 0)])
}

fn counts_of_operations() -> Outcome {
    let id = ok!(set_of(&[0]));
    same!(semop(id, &[]), Err(EINVAL));
    same!(semop(id, &[op(0, 1, 0); 501]), Err(E2BIG));
    same!(semop(-1, &[op(0, 1, 0); 501]), Err(E2BIG));
    same!(getval(id, 0), Ok(0));
    Ok(())
}

fn five_hundred_operations() -> Outcome {
    let id = ok!(set_of(&[0; 500]));
    let operations: Vec<_> = (0..500).map(|num| op(num, num as i16, 0)).collect();
    same!(semop(id, &operations), Ok(0));
    same!(getall(id, 500), Ok((0..500).collect()));
    same!(semop(id, &[op(7, 1, UNDO); 500]), Ok(0));
    same!(getval(id, 7), Ok(507));
    Ok(())
}

fn semopm_is_the_most() -> Outcome {
    let id = ok!(set_of(&[0]));
    same!(semop(id, &[op(0, 1, 0); 3]), Ok(0));
    same!(semop(id, &[op(0, 1, 0); 4]), Err(E2BIG));
    Ok(())
}

fn count_before_pointer() -> Outcome {
    same!(semop_raw(0, ptr::null(), 0), Err(EINVAL));
    same!(semop_raw(0, ptr::null(), 501), Err(E2BIG));
    same!(semop_raw(0, ptr::null(), usize::MAX), Err(E2BIG));
    same!(semop_raw(-1, ptr::null(), 1), Err(EFAULT));
    // No address of any program's.
    let wild = if is_32_bit() { ptr::null() } else { ptr::without_provenance(0xdead << 48) };
    same!(semop_raw(0, wild, 0), Err(EINVAL));
    same!(semop_raw(-1, wild, 1), Err(EFAULT));
    Ok(())
}

fn bad_pointers() -> Outcome {
    let id = ok!(set_of(&[0]));
    for address in Bad::new().unreadable() {
        same!(semop_raw(id, address.cast(), 1), Err(EFAULT));
        same!(semop_raw(77, address.cast(), 500), Err(EFAULT));
    }
    Ok(())
}

fn unknown_ids() -> Outcome {
    for id in [-1, 0, 32768, i32::MIN, i32::MAX] {
        same!(semop(id, &[op(0, 1, 0)]), Err(EINVAL));
        same!(semop(id, &[op(0, 1, UNDO)]), Err(EINVAL));
        same!(semop(id, &[op(u16::MAX, 1, 0)]), Err(EINVAL));
    }
    Ok(())
}

fn number_beyond_the_set_before_permission() -> Outcome {
    let id = ok!(set_of(&[0, 0]));
    same!(semop(id, &[op(2, 1, 0)]), Err(EFBIG));
    same!(semop(id, &[op(0, 1, 0), op(u16::MAX, 0, SEM_NOWAIT)]), Err(EFBIG));
    become_user(1000, 1000, &[]);
    same!(semop(id, &[op(2, 1, 0)]), Err(EFBIG));
    same!(semop(id, &[op(1, 1, 0)]), Err(EACCES));
    Ok(())
}

/// Waiting for zero is reading; one operation that alters asks for writing.
fn permission_by_kind() -> Outcome {
    let readable = ok!(semget(libc::IPC_PRIVATE, 1, 0o604));
    let writable = ok!(semget(libc::IPC_PRIVATE, 1, 0o602));
    become_user(1000, 1000, &[]);
    same!(semop(readable, &[op(0, 0, 0)]), Ok(0));
    same!(semop(readable, &[op(0, 0, 0), op(0, 1, 0)]), Err(EACCES));
    same!(semop(readable, &[op(0, 0, UNDO)]), Ok(0));
    same!(semop(writable, &[op(0, 0, 0)]), Err(EACCES));
    same!(semop(writable, &[op(0, 0, 0), op(0, 1, 0)]), Ok(0));
    Ok(())
}

fn all_or_nothing() -> Outcome {
    let id = ok!(set_of(&[5, 0, 5]));
    let operations = [op(0, -2, 0), op(2, 3, UNDO), op(1, -1, SEM_NOWAIT)];
    same!(semop(id, &operations), Err(EAGAIN));
    same!(getall(id, 3), Ok(vec![5, 0, 5]));
    same!(ok!(sem_stat(id)).sem_otime, 0);
    same!(semop(id, &operations[..2]), Ok(0));
    same!(getall(id, 3), Ok(vec![3, 0, 8]));
    Ok(())
}

fn several_on_one_semaphore() -> Outcome {
    let id = ok!(set_of(&[0]));
    same!(semop(id, &[op(0, 1, 0), op(0, -1, 0)]), Ok(0));
    same!(semop(id, &[op(0, -1, SEM_NOWAIT), op(0, 1, 0)]), Err(EAGAIN));
    same!(semop(id, &[op(0, 0, 0), op(0, 2, 0), op(0, 0, SEM_NOWAIT)]), Err(EAGAIN));
    same!(semop(id, &[op(0, 0, 0), op(0, 2, 0)]), Ok(0));
    same!(semop(id, &[op(0, -2, 0), op(0, 0, 0), op(0, 7, 0)]), Ok(0));
    same!(getval(id, 0), Ok(7));
    Ok(())
}

fn above_the_largest_value() -> Outcome {
    let id = ok!(set_of(&[32766]));
    same!(semop(id, &[op(0, 1, 0)]), Ok(0));
    same!(semop(id, &[op(0, 1, 0)]), Err(ERANGE));
    same!(semop(id, &[op(0, 1, SEM_NOWAIT)]), Err(ERANGE));
    same!(semop(id, &[op(0, -1, 0), op(0, 1, 0)]), Ok(0));
    same!(semop(id, &[op(0, i16::MIN, SEM_NOWAIT)]), Err(EAGAIN));
    same!(semop(id, &[op(0, -i16::MAX, SEM_NOWAIT)]), Ok(0));
    Ok(())
}

fn blocking_or_range_by_order() -> Outcome {
    let id = ok!(set_of(&[0, 32767]));
    same!(semop(id, &[op(0, -1, SEM_NOWAIT), op(1, 1, 0)]), Err(EAGAIN));
    same!(semop(id, &[op(1, 1, 0), op(0, -1, SEM_NOWAIT)]), Err(ERANGE));
    Ok(())
}

/// Only the first operation that blocks decides.
fn nowait_of_the_blocking_operation() -> Outcome {
    let id = ok!(set_of(&[0, 0]));
    same!(semop(id, &[op(0, -1, SEM_NOWAIT), op(1, -1, 0)]), Err(EAGAIN));
    let task = sleeper(id, &[op(0, -1, 0), op(1, -1, SEM_NOWAIT)])?;
    same!(task.sleeps_on(), true);
    ok!(semop(id, &[op(0, 1, 0), op(1, 1, 0)]));
    same!(task.report()?, Ok(0));
    Ok(())
}

/// Zero-waits stamp too.
fn stamps_every_named() -> Outcome {
    let id = ok!(set_of(&[0, 1, 1]));
    ok!(Task::start(move || setval(id, 1, 1))?.report()?);
    let before = now();
    let task = Task::start(move || semop(id, &[op(0, 0, 0), op(1, -1, 0)]))?;
    let pid = task.pid();
    ok!(task.report()?);
    same!(semctl(id, 0, libc::GETPID, 0), Ok(pid));
    same!(semctl(id, 1, libc::GETPID, 0), Ok(pid));
    same!(semctl(id, 2, libc::GETPID, 0), Ok(own_pid()));
    same!((before..=now()).contains(&ok!(sem_stat(id)).sem_otime), true);
    let other = ok!(semget(libc::IPC_PRIVATE, 1, 0o600));
    ok!(semop(other, &[op(0, 0, 0)]));
    same!((before..=now()).contains(&ok!(sem_stat(other)).sem_otime), true);
    same!(semctl(other, 0, libc::GETPID, 0), Ok(own_pid()));
    Ok(())
}

fn waits_for_value() -> Outcome {
    let id = ok!(set_of(&[0]));
    let task = sleeper(id, &[op(0, -2, 0)])?;
    ok!(semop(id, &[op(0, 1, 0)]));
    same!(task.sleeps_on(), true);
    ok!(semop(id, &[op(0, 1, 0)]));
    same!(task.report()?, Ok(0));
    same!(getval(id, 0), Ok(0));
    Ok(())
}

fn waits_for_zero() -> Outcome {
    let id = ok!(set_of(&[2]));
    let tasks = [sleeper(id, &[op(0, 0, 0)])?, sleeper(id, &[op(0, 0, 0), op(0, 5, 0)])?];
    ok!(semop(id, &[op(0, -1, 0)]));
    same!(tasks.iter().all(Task::sleeps_on), true);
    ok!(semop(id, &[op(0, -1, 0)]));
    for task in tasks {
        same!(task.report()?, Ok(0));
    }
    same!(getval(id, 0), Ok(5));
    Ok(())
}

fn small_request_passes_large() -> Outcome {
    let id = ok!(set_of(&[0]));
    let (large, small) = (sleeper(id, &[op(0, -3, 0)])?, sleeper(id, &[op(0, -1, 0)])?);
    ok!(semop(id, &[op(0, 2, 0)]));
    same!(small.report()?, Ok(0));
    same!(large.sleeps_on(), true);
    same!(getval(id, 0), Ok(1));
    ok!(semop(id, &[op(0, 2, 0)]));
    same!(large.report()?, Ok(0));
    Ok(())
}

fn first_in_line_among_those_that_can() -> Outcome {
    let id = ok!(set_of(&[0]));
    let mut tasks = Vec::new();
    for _ in 0..4 {
        tasks.push(sleeper(id, &[op(0, -1, 0)])?);
    }
    for _ in 0..4 {
        let first = tasks.remove(0);
        ok!(semop(id, &[op(0, 1, 0)]));
        same!(first.report()?, Ok(0));
        same!(tasks.iter().all(Task::sleeps_on), true);
    }
    Ok(())
}

fn caller_that_can_does_not_queue() -> Outcome {
    let id = ok!(set_of(&[2]));
    let task = sleeper(id, &[op(0, -3, 0)])?;
    same!(semop(id, &[op(0, -1, 0)]), Ok(0));
    same!(task.sleeps_on(), true);
    Ok(())
}

fn complex_and_simple_in_one_line() -> Outcome {
    let id = ok!(set_of(&[0, 0]));
    let simple = sleeper(id, &[op(0, -1, 0)])?;
    let complex = sleeper(id, &[op(0, -1, 0), op(1, -1, 0)])?;
    let last = sleeper(id, &[op(0, -1, 0)])?;
    ok!(semop(id, &[op(0, 1, 0), op(1, 1, 0)]));
    same!(simple.report()?, Ok(0));
    same!(complex.sleeps_on() && last.sleeps_on(), true);
    ok!(semop(id, &[op(0, 1, 0)]));
    same!(complex.report()?, Ok(0));
    same!(last.sleeps_on(), true);
    same!(getall(id, 2), Ok(vec![0, 0]));
    ok!(semop(id, &[op(0, 1, 0)]));
    same!(last.report()?, Ok(0));
    Ok(())
}

/// The waker does the sleeper's work, in the sleeper's name.
fn sleeper_owns_its_result() -> Outcome {
    let id = ok!(set_of(&[0, 0]));
    let task = sleeper(id, &[op(0, -1, 0), op(1, 4, 0)])?;
    let pid = task.pid();
    ok!(semop(id, &[op(0, 1, 0)]));
    same!(getall(id, 2), Ok(vec![0, 4]));
    same!(semctl(id, 0, libc::GETPID, 0), Ok(pid));
    same!(semctl(id, 1, libc::GETPID, 0), Ok(pid));
    same!(task.report()?, Ok(0));
    Ok(())
}

fn zero_waiters_first() -> Outcome {
    let id = ok!(set_of(&[1]));
    let taking = sleeper(id, &[op(0, -2, 0)])?;
    let zero = sleeper(id, &[op(0, 0, 0), op(0, 2, 0)])?;
    ok!(semop(id, &[op(0, -1, 0)]));
    same!(zero.report()?, Ok(0));
    same!(taking.report()?, Ok(0));
    same!(getval(id, 0), Ok(0));
    Ok(())
}

/// What one sleeper gives lets another go on, in one go.
fn one_wakes_the_next() -> Outcome {
    let id = ok!(set_of(&[0; 4]));
    let chain = [
        sleeper(id, &[op(2, -1, 0), op(3, 1, 0)])?,
        sleeper(id, &[op(1, -1, 0), op(2, 1, 0)])?,
        sleeper(id, &[op(0, -1, 0), op(1, 1, 0)])?,
    ];
    ok!(semop(id, &[op(0, 1, 0)]));
    same!(getall(id, 4), Ok(vec![0, 0, 0, 1]));
    for task in chain {
        same!(task.report()?, Ok(0));
    }
    Ok(())
}

fn sleeper_ends_with_range_error() -> Outcome {
    let id = ok!(set_of(&[0, 0]));
    let task = sleeper(id, &[op(0, -1, 0), op(1, 1, 0)])?;
    ok!(setval(id, 1, 32767));
    same!(task.sleeps_on(), true);
    ok!(semop(id, &[op(0, 1, 0)]));
    same!(task.report()?, Err(ERANGE));
    same!(getall(id, 2), Ok(vec![1, 32767]));
    Ok(())
}

fn sleeper_ends_with_again() -> Outcome {
    let id = ok!(set_of(&[0, 0]));
    let task = sleeper(id, &[op(0, -1, 0), op(1, -1, SEM_NOWAIT)])?;
    ok!(semop(id, &[op(0, 1, 0)]));
    same!(task.report()?, Err(EAGAIN));
    same!(getall(id, 2), Ok(vec![1, 0]));
    Ok(())
}

fn counts_of_sleepers() -> Outcome {
    let id = ok!(set_of(&[1, 1]));
    same!(waiting(id, 0), Ok((0, 0)));
    let tasks = [sleeper(id, &[op(0, -2, 0)])?, sleeper(id, &[op(0, -3, 0)])?, sleeper(id, &[op(0, 0, 0)])?];
    same!(waiting(id, 0), Ok((2, 1)));
    same!(waiting(id, 1), Ok((0, 0)));
    let [two, three, zero] = tasks;
    three.kill();
    same!(waiting(id, 0), Ok((1, 1)));
    ok!(setval(id, 0, 0));
    same!(zero.report()?, Ok(0));
    same!(waiting(id, 0), Ok((1, 0)));
    two.kill();
    same!(waiting(id, 0), Ok((0, 0)));
    Ok(())
}

fn counts_follow_the_first_blocking() -> Outcome {
    let id = ok!(set_of(&[0, 1, 0]));
    let task = sleeper(id, &[op(0, -1, 0), op(1, 0, 0), op(2, -1, 0)])?;
    same!([waiting(id, 0), waiting(id, 1), waiting(id, 2)], [Ok((1, 0)), Ok((0, 0)), Ok((0, 0))]);
    ok!(setval(id, 0, 1));
    same!([waiting(id, 0), waiting(id, 1), waiting(id, 2)], [Ok((0, 0)), Ok((0, 1)), Ok((0, 0))]);
    ok!(setval(id, 1, 0));
    same!([waiting(id, 0), waiting(id, 1), waiting(id, 2)], [Ok((0, 0)), Ok((0, 0)), Ok((1, 0))]);
    ok!(setval(id, 0, 0));
    same!([waiting(id, 0), waiting(id, 1), waiting(id, 2)], [Ok((1, 0)), Ok((0, 0)), Ok((0, 0))]);
    ok!(setall(id, &[1, 0, 1]));
    same!(task.report()?, Ok(0));
    Ok(())
}

/// Who waits for zero is tried again only when something has become zero.
fn counts_stay_with_the_last_try() -> Outcome {
    let id = ok!(set_of(&[0, 1]));
    let task = sleeper(id, &[op(0, 0, 0), op(1, 0, 0)])?;
    ok!(semop(id, &[op(0, 1, 0)]));
    same!([waiting(id, 0), waiting(id, 1)], [Ok((0, 0)), Ok((0, 1))]);
    ok!(semop(id, &[op(1, -1, 0)]));
    same!([waiting(id, 0), waiting(id, 1)], [Ok((0, 1)), Ok((0, 0))]);
    ok!(semop(id, &[op(0, -1, 0)]));
    same!(task.report()?, Ok(0));
    Ok(())
}

fn removed_while_asleep() -> Outcome {
    let id = ok!(set_of(&[1, 0]));
    let tasks = [
        sleeper(id, &[op(0, -2, 0)])?,
        sleeper(id, &[op(0, 0, UNDO)])?,
        sleeper(id, &[op(0, -1, UNDO), op(1, -1, UNDO)])?,
    ];
    ok!(sem_remove(id));
    for task in tasks {
        same!(task.report()?, Err(EIDRM));
    }
    same!(semop(id, &[op(0, 1, 0)]), Err(EINVAL));
    Ok(())
}

fn interrupted(flags: i32) -> Outcome {
    let id = ok!(set_of(&[0]));
    let task = Task::start(move || {
        handle(libc::SIGUSR1, flags);
        semop(id, &[op(0, -1, UNDO)])
    })?;
    task.asleep()?;
    task.signal(libc::SIGUSR1);
    same!(task.report()?, Err(EINTR));
    same!(waiting(id, 0), Ok((0, 0)));
    Ok(())
}

fn interrupted_by_a_handler() -> Outcome {
    interrupted(0)
}

fn interrupted_despite_restart() -> Outcome {
    interrupted(libc::SA_RESTART)
}

fn killed_while_asleep() -> Outcome {
    let id = ok!(set_of(&[0]));
    let (first, second) = (sleeper(id, &[op(0, -1, 0)])?, sleeper(id, &[op(0, -1, 0)])?);
    first.kill();
    ok!(semop(id, &[op(0, 1, 0)]));
    same!(second.report()?, Ok(0));
    same!(getval(id, 0), Ok(0));
    Ok(())
}

fn executed_while_it_slept() -> Outcome {
    let id = ok!(set_of(&[0]));
    let task = executed_while_asleep(|| (), move || semop(id, &[op(0, -1, 0)]))?;
    same!(waiting(id, 0), Ok((0, 0)));
    ok!(semop(id, &[op(0, 1, 0)]));
    same!(getval(id, 0), Ok(1));
    task.kill();
    Ok(())
}

fn times_out() -> Outcome {
    let id = ok!(set_of(&[0]));
    let start = Moment::now();
    same!(semtimedop_for(id, &[op(0, -1, 0)], 0, 50_000_000), Err(EAGAIN));
    same!(start.elapsed() >= Duration::from_millis(50), true);
    same!(semtimedop_for(id, &[op(0, -1, 0)], 0, 0), Err(EAGAIN));
    same!(waiting(id, 0), Ok((0, 0)));
    same!(semtimedop_for(id, &[op(0, 1, 0)], 0, 0), Ok(0));
    let long = Task::start(move || semtimedop_for(id, &[op(0, -2, 0)], i64::MAX, 999_999_999))?;
    long.asleep()?;
    ok!(semop(id, &[op(0, 1, 0)]));
    same!(long.report()?, Ok(0));
    Ok(())
}

/// Wrong even where nothing has to wait.
fn invalid_timeouts() -> Outcome {
    let id = ok!(set_of(&[0]));
    for (sec, nsec) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MIN, 0), (0, i64::MAX)] {
        same!(semtimedop_for(id, &[op(0, 1, 0)], sec, nsec), Err(EINVAL));
        same!(semtimedop_for(id, &[op(0, -1, SEM_NOWAIT)], sec, nsec), Err(EINVAL));
    }
    same!(getval(id, 0), Ok(0));
    Ok(())
}

fn bad_timeout_pointer() -> Outcome {
    let id = ok!(set_of(&[0]));
    let operation = op(0, 1, 0);
    let [_, none, top] = Bad::new().unreadable();
    for address in [none, top] {
        same!(semtimedop_raw(id, &raw const operation, 1, address.cast()), Err(EFAULT));
        same!(semtimedop_raw(-1, ptr::null(), 0, address.cast()), Err(EFAULT));
    }
    same!(semtimedop_raw(id, &raw const operation, 1, ptr::null()), Ok(0));
    Ok(())
}

fn order_of_timeout_checks() -> Outcome {
    let wrong = libc::timespec { tv_sec: -1, tv_nsec: 0 };
    same!(semtimedop_raw(0, ptr::null(), 501, &raw const wrong), Err(E2BIG));
    same!(semtimedop_raw(0, ptr::null(), 1, &raw const wrong), Err(EFAULT));
    let id = ok!(set_of(&[0]));
    same!(semtimedop_for(id, &[op(9, 1, 0)], -1, 0), Err(EINVAL));
    Ok(())
}

fn undo_at_exit() -> Outcome {
    let id = ok!(set_of(&[5, 5, 5]));
    same!(Task::start(move || semop(id, &[op(0, -2, UNDO), op(1, 3, UNDO), op(2, 1, 0)]))?.report()?, Ok(0));
    same!(getall(id, 3), Ok(vec![5, 5, 6]));
    Ok(())
}

fn undo_at_kill() -> Outcome {
    let (id, gate) = (ok!(set_of(&[5])), ok!(set_of(&[0])));
    for _ in 0..20 {
        let task = doer(id, &[op(0, -2, UNDO)], gate)?;
        same!(getval(id, 0), Ok(3));
        task.kill();
        same!(getval(id, 0), Ok(5));
    }
    Ok(())
}

fn undo_clamped_at_zero() -> Outcome {
    let (id, gate) = (ok!(set_of(&[0])), ok!(set_of(&[0])));
    let task = doer(id, &[op(0, 5, UNDO)], gate)?;
    ok!(semop(id, &[op(0, -3, 0)]));
    task.kill();
    same!(getval(id, 0), Ok(0));
    Ok(())
}

fn undo_clamped_at_the_top() -> Outcome {
    let (id, gate) = (ok!(set_of(&[10])), ok!(set_of(&[0])));
    let task = doer(id, &[op(0, -10, UNDO)], gate)?;
    ok!(semop(id, &[op(0, 32760, 0)]));
    task.kill();
    same!(getval(id, 0), Ok(32767));
    Ok(())
}

/// The adjustment itself has to stay within a short.
fn undo_range() -> Outcome {
    let id = ok!(set_of(&[0]));
    let all = op(0, 32767, UNDO);
    same!(semop(id, &[all]), Ok(0));
    same!(semop(id, &[op(0, -32767, 0)]), Ok(0));
    same!(semop(id, &[op(0, 1, UNDO)]), Ok(0));
    same!(semop(id, &[op(0, 1, UNDO)]), Err(ERANGE));
    same!(getval(id, 0), Ok(1));
    same!(semop(id, &[op(0, 1, 0)]), Ok(0));
    same!(semop(id, &[op(0, -1, UNDO), op(0, 1, UNDO)]), Ok(0));
    Ok(())
}

/// A record is made at the first try, and its end stamps the set though there is nothing to undo.
fn undo_of_what_was_refused() -> Outcome {
    for operations in [&[op(0, -1, SEM_NOWAIT | UNDO)][..], &[op(0, -1, SEM_NOWAIT), op(1, 1, UNDO)]] {
        let id = ok!(set_of(&[0, 0]));
        let operations = operations.to_vec();
        let before = ok!(sem_stat(id)).sem_otime;
        let task = Task::start(move || semop(id, &operations))?;
        same!(task.report()?, Err(EAGAIN));
        same!(before, 0);
        same!(ok!(sem_stat(id)).sem_otime > 0, true);
    }
    Ok(())
}

fn undo_stamps() -> Outcome {
    let (id, gate) = (ok!(set_of(&[5, 5])), ok!(set_of(&[0])));
    let task = doer(id, &[op(0, -1, UNDO), op(1, -1, 0)], gate)?;
    let pid = task.pid();
    ok!(setval(gate, 0, 0));
    ok!(semop(id, &[op(0, 1, 0), op(1, 1, 0)]));
    same!(semctl(id, 0, libc::GETPID, 0), Ok(own_pid()));
    task.kill();
    same!(semctl(id, 0, libc::GETPID, 0), Ok(pid));
    same!(semctl(id, 1, libc::GETPID, 0), Ok(own_pid()));
    Ok(())
}

fn undo_wakes() -> Outcome {
    let (id, gate) = (ok!(set_of(&[1])), ok!(set_of(&[0])));
    let holder = doer(id, &[op(0, -1, UNDO)], gate)?;
    let next = sleeper(id, &[op(0, -1, UNDO)])?;
    holder.kill();
    same!(next.report()?, Ok(0));
    same!(getval(id, 0), Ok(1));
    Ok(())
}

fn undo_not_inherited_by_fork() -> Outcome {
    let (id, gate) = (ok!(set_of(&[5])), ok!(set_of(&[0])));
    let parent = Task::start(move || {
        semop(id, &[op(0, -2, UNDO)])?;
        let child = Task::start(move || 0).and_then(Task::report);
        let after_child = getval(id, 0);
        semop(gate, &[op(0, -1, 0)])?;
        after_child.map(|value| (child.is_ok(), value))
    })?;
    parent.asleep()?;
    same!(getval(id, 0), Ok(3));
    ok!(open_gate(gate));
    same!(parent.report()?, Ok((true, 3)));
    same!(getval(id, 0), Ok(5));
    Ok(())
}

/// The adjustment survives exec, and is applied when the new program ends.
fn undo_kept_over_exec() -> Outcome {
    let id = ok!(set_of(&[5]));
    let task: Task<i32> = Task::start(move || {
        let _done = semop(id, &[op(0, -2, UNDO)]);
        execute_sleep()
    })?;
    task.executes_sleep()?;
    same!(getval(id, 0), Ok(3));
    task.kill();
    same!(getval(id, 0), Ok(5));
    Ok(())
}

/// A thread that ends changes nothing, the last one of the process does.
/// A sleeper that would fail now sleeps on until a value changes.
fn zero_operations_look_at_nobody() -> Outcome {
    let id = ok!(set_of(&[1, 0, 0]));
    let task = sleeper(id, &[op(1, 0, SEM_NOWAIT), op(0, 0, 0)])?;
    ok!(semop(id, &[op(1, 2, 0)]));
    ok!(semop(id, &[op(2, 0, 0)]));
    same!(task.sleeps_on(), true);
    ok!(semop(id, &[op(0, -1, 0)]));
    same!(task.report()?, Err(EAGAIN));
    Ok(())
}

fn undo_shared_by_threads() -> Outcome {
    let (id, gate) = (ok!(set_of(&[5])), ok!(set_of(&[0])));
    let task = Task::start(move || {
        let joined = Thread::start(move || semop(id, &[op(0, -2, UNDO)])).join().is_some();
        semop(id, &[op(0, 1, UNDO)])?;
        semop(gate, &[op(0, -1, 0)])?;
        Ok::<_, crate::errno::Errno>(joined)
    })?;
    // It also sleeps while it waits for its thread: then the semaphore has not come to 4 yet.
    for _ in 0..1000 {
        task.asleep()?;
        if getval(id, 0) == Ok(4) {
            break;
        }
    }
    same!(getval(id, 0), Ok(4));
    ok!(open_gate(gate));
    same!(task.report()?, Ok(true));
    same!(getval(id, 0), Ok(5));
    Ok(())
}

/// The waker books the adjustment for the sleeper.
fn undo_of_a_sleeper() -> Outcome {
    let id = ok!(set_of(&[0]));
    let task: Task<i32> = Task::start(move || {
        let _done = semop(id, &[op(0, -1, UNDO)]);
        sleep_for_ever()
    })?;
    task.asleep()?;
    ok!(semop(id, &[op(0, 1, 0)]));
    same!(getval(id, 0), Ok(0));
    task.kill();
    same!(getval(id, 0), Ok(1));
    Ok(())
}

fn undo_cleared_by_setval() -> Outcome {
    let (id, gate) = (ok!(set_of(&[5, 5])), ok!(set_of(&[0])));
    let task = doer(id, &[op(0, -2, UNDO), op(1, -2, UNDO)], gate)?;
    ok!(setval(id, 0, 9));
    task.kill();
    same!(getall(id, 2), Ok(vec![9, 5]));
    Ok(())
}

fn undo_cleared_by_setall() -> Outcome {
    let (id, gate) = (ok!(set_of(&[5, 5])), ok!(set_of(&[0])));
    let task = doer(id, &[op(0, -2, UNDO), op(1, -2, UNDO)], gate)?;
    ok!(setall(id, &[7, 8]));
    task.kill();
    same!(getall(id, 2), Ok(vec![7, 8]));
    Ok(())
}

fn undo_kept_by_set() -> Outcome {
    let (id, gate) = (ok!(set_of(&[5])), ok!(set_of(&[0])));
    let task = doer(id, &[op(0, -2, UNDO)], gate)?;
    ok!(crate::call::sem_set(id, ok!(sem_stat(id))));
    task.kill();
    same!(getval(id, 0), Ok(5));
    Ok(())
}

fn undo_gone_with_the_set() -> Outcome {
    let gate = ok!(set_of(&[0]));
    let id = ok!(set_of(&[5]));
    let task = doer(id, &[op(0, -2, UNDO)], gate)?;
    ok!(sem_remove(id));
    let next = ok!(set_of(&[5]));
    task.kill();
    same!(getval(next, 0), Ok(5));
    Ok(())
}

fn undo_sums_up() -> Outcome {
    let id = ok!(set_of(&[100]));
    let task = Task::start(move || {
        (1..=10).map(|step| semop(id, &[op(0, -step, UNDO), op(0, 1, UNDO)])).find(Result::is_err)
    })?;
    same!(task.report()?, None);
    same!(getval(id, 0), Ok(100));
    Ok(())
}

/// Who is woken has to take it; a stopped one can't, and others may.
fn barging_leaves_the_value() -> Outcome {
    let id = ok!(set_of(&[0]));
    let first = sleeper(id, &[op(0, -1, 0)])?;
    first.stop()?;
    ok!(semop(id, &[op(0, 1, 0)]));
    same!((getval(id, 0), waiting(id, 0)), (Ok(1), Ok((1, 0))));
    same!(semop(id, &[op(0, -1, SEM_NOWAIT)]), Ok(0));
    same!((getval(id, 0), waiting(id, 0)), (Ok(0), Ok((1, 0))));
    first.signal(libc::SIGCONT);
    same!(first.sleeps_on(), true);
    ok!(semop(id, &[op(0, 1, 0)]));
    same!(first.report()?, Ok(0));
    same!((getval(id, 0), waiting(id, 0)), (Ok(0), Ok((0, 0))));
    Ok(())
}

/// Two of three, with one call and with two, and of other semaphores regardless of them.
fn barging_wakes_as_many_as_there_is() -> Outcome {
    let id = ok!(set_of(&[0, 0]));
    let tasks = [sleeper(id, &[op(0, -1, 0)])?, sleeper(id, &[op(0, -1, 0)])?, sleeper(id, &[op(0, -1, 0)])?];
    let other = sleeper(id, &[op(1, -1, 0)])?;
    let [first, second, third] = tasks;
    first.stop()?;
    ok!(semop(id, &[op(0, 2, 0)]));
    same!(second.report()?, Ok(0));
    same!(third.sleeps_on(), true);
    ok!(semop(id, &[op(1, 1, 0)]));
    same!(other.report()?, Ok(0));
    ok!(semop(id, &[op(0, 1, 0)]));
    same!(third.report()?, Ok(0));
    first.signal(libc::SIGCONT);
    same!(first.report()?, Ok(0));
    same!(getval(id, 0), Ok(0));
    Ok(())
}

/// Two who want the same use up nothing of what a third one wants.
fn barging_wakes_those_of_each_semaphore() -> Outcome {
    let id = ok!(set_of(&[0, 0]));
    let (first, second) = (sleeper(id, &[op(0, -1, 0)])?, sleeper(id, &[op(0, -1, 0)])?);
    let other = sleeper(id, &[op(1, -1, 0)])?;
    ok!(semop(id, &[op(0, 1, 0), op(1, 1, 0)]));
    same!(other.report()?, Ok(0));
    ok!(semop(id, &[op(0, 1, 0)]));
    same!((first.report()?, second.report()?), (Ok(0), Ok(0)));
    same!((getval(id, 0), waiting(id, 0)), (Ok(0), Ok((0, 0))));
    Ok(())
}

fn barged_sleeper_keeps_its_place() -> Outcome {
    let id = ok!(set_of(&[0]));
    let (first, second) = (sleeper(id, &[op(0, -1, 0)])?, sleeper(id, &[op(0, -1, 0)])?);
    first.stop()?;
    ok!(semop(id, &[op(0, 1, 0)]));
    ok!(semop(id, &[op(0, -1, SEM_NOWAIT)]));
    first.signal(libc::SIGCONT);
    same!(first.sleeps_on(), true);
    ok!(semop(id, &[op(0, 1, 0)]));
    same!(first.report()?, Ok(0));
    same!(second.sleeps_on(), true);
    ok!(semop(id, &[op(0, 1, 0)]));
    same!(second.report()?, Ok(0));
    Ok(())
}

fn barged_sleeper_times_out() -> Outcome {
    let id = ok!(set_of(&[0]));
    let task = Task::start(move || semtimedop_for(id, &[op(0, -1, 0)], 0, 300_000_000))?;
    task.asleep()?;
    task.stop()?;
    ok!(semop(id, &[op(0, 1, 0)]));
    ok!(semop(id, &[op(0, -1, SEM_NOWAIT)]));
    task.signal(libc::SIGCONT);
    same!(task.report()?, Err(EAGAIN));
    same!(waiting(id, 0), Ok((0, 0)));
    Ok(())
}

/// One that is woken and dies leaves the value to the next.
fn barging_survives_the_woken() -> Outcome {
    let id = ok!(set_of(&[0]));
    let (first, second) = (sleeper(id, &[op(0, -1, 0)])?, sleeper(id, &[op(0, -1, 0)])?);
    first.stop()?;
    ok!(semop(id, &[op(0, 1, 0)]));
    same!(second.sleeps_on(), true);
    first.kill();
    same!(second.report()?, Ok(0));
    same!((getval(id, 0), waiting(id, 0)), (Ok(0), Ok((0, 0))));
    Ok(())
}

/// A signal takes nothing from one that was woken before: it has what there is, and goes without where it was barged.
fn barging_and_interrupted() -> Outcome {
    let id = ok!(set_of(&[0]));
    let start = || -> Outcome<Task<Answer<i32>>> {
        let task = Task::start(move || {
            handle(libc::SIGUSR1, 0);
            semop(id, &[op(0, -1, 0)])
        })?;
        task.asleep()?;
        task.stop()?;
        ok!(semop(id, &[op(0, 1, 0)]));
        Ok(task)
    };
    let barged = start()?;
    ok!(semop(id, &[op(0, -1, SEM_NOWAIT)]));
    barged.signal(libc::SIGUSR1);
    barged.signal(libc::SIGCONT);
    same!(barged.report()?, Err(EINTR));
    same!(waiting(id, 0), Ok((0, 0)));
    let served = start()?;
    served.signal(libc::SIGUSR1);
    served.signal(libc::SIGCONT);
    same!(served.report()?, Ok(0));
    same!((getval(id, 0), waiting(id, 0)), (Ok(0), Ok((0, 0))));
    Ok(())
}

fn barging_and_removed() -> Outcome {
    let id = ok!(set_of(&[0]));
    let (woken, asleep) = (sleeper(id, &[op(0, -1, 0)])?, sleeper(id, &[op(0, -1, 0)])?);
    woken.stop()?;
    ok!(semop(id, &[op(0, 1, 0)]));
    ok!(sem_remove(id));
    same!(asleep.report()?, Err(EIDRM));
    woken.signal(libc::SIGCONT);
    same!(woken.report()?, Err(EIDRM));
    Ok(())
}

/// All of them, as they take nothing.
fn barging_waits_for_zero() -> Outcome {
    let id = ok!(set_of(&[1]));
    let (first, second) = (sleeper(id, &[op(0, 0, 0)])?, sleeper(id, &[op(0, 0, 0)])?);
    let raising = sleeper(id, &[op(0, 0, 0), op(0, 1, 0)])?;
    first.stop()?;
    ok!(semop(id, &[op(0, -1, 0)]));
    // The third may have been faster than the second, which then waits for the next time.
    same!(raising.report()?, Ok(0));
    ok!(semop(id, &[op(0, -1, 0)]));
    same!(second.report()?, Ok(0));
    first.signal(libc::SIGCONT);
    same!(first.report()?, Ok(0));
    same!(waiting(id, 0), Ok((0, 0)));
    Ok(())
}

/// One that can only fail fails, and leaves what there is to the next.
fn barging_with_errors() -> Outcome {
    let id = ok!(set_of(&[0, 32767]));
    let failing = sleeper(id, &[op(0, -1, 0), op(1, 1, 0)])?;
    let next = sleeper(id, &[op(0, -1, 0)])?;
    ok!(semop(id, &[op(0, 1, 0)]));
    same!(failing.report()?, Err(ERANGE));
    same!(next.report()?, Ok(0));
    same!(getval(id, 0), Ok(0));
    Ok(())
}

/// What an end gives back wakes too; of the two who then come, either may be the first.
fn barging_with_undo() -> Outcome {
    let id = ok!(set_of(&[1]));
    let holder = Task::start(move || {
        let _ = semop(id, &[op(0, -1, UNDO)]);
        sleep_for_ever()
    })?;
    while getval(id, 0) != Ok(0) {
        let_others_run();
    }
    let (first, second) = (sleeper(id, &[op(0, -1, UNDO)])?, sleeper(id, &[op(0, -1, UNDO)])?);
    Task::<i32>::kill(holder);
    same!(first.report()?, Ok(0));
    same!(second.report()?, Ok(0));
    same!(getval(id, 0), Ok(1));
    Ok(())
}
