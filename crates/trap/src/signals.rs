//! Signals for those who sleep in a call.
//!
//! A thread that waits for our answer is woken by no signal but a fatal one. So from time to time it is looked at whether it has some, and if
//! so its call ends with the code by which the kernel begins it anew where no handler runs.
//!
//! That code must not reach the program. It doesn't if the kernel looks for signals on the way out of the call, as it does where one has been
//! sent to that thread, or to a process of one thread; what becomes of the signal meanwhile makes no difference. One that was sent to a
//! process of several threads may be another thread's: such a thread is made to look ([`crate::trace::interrupt`]).

use std::fs;

use crate::target::{Status, Subject};

/// What the signals of a sleeper ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It sleeps on.
    Nothing,
    /// The thread will see a signal.
    Sure,
    /// The thread may see a signal, unless another one of its process does.
    Maybe,
}

/// How often a thread had left its CPU, and how many threads there were: as long as that stays so, it has not gone on from its call.
pub(crate) type Rest = [Option<u32>; 3];

/// Other threads that are looked at for a stop of the whole process.
const OTHERS: usize = 16;

/// Whether signals end a thread's sleep, and how it rests; nothing if it can't be looked at.
pub(crate) fn of(subject: &Subject) -> Option<(Asked, Rest)> {
    let status = Status::of(subject.tid).ok()?;
    let lines = ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches", "Threads"];
    Some((asked(subject, &status), lines.map(|line| status.number(line))))
}

fn asked(subject: &Subject, status: &Status) -> Asked {
    let let_through = !(status.set("SigBlk") | status.set("SigIgn"));
    let is_alone = status.number("Threads") == Some(1);
    if status.set("SigPnd") & let_through != 0 {
        return Asked::Sure;
    }
    match status.set("ShdPnd") & let_through {
        0 if is_alone || !others_are_stopped(subject) => Asked::Nothing,
        0 => Asked::Sure,
        _ if is_alone => Asked::Sure,
        _ => Asked::Maybe,
    }
}

/// Whether the process is being stopped: then this thread is to stop too.
fn others_are_stopped(subject: &Subject) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{}/task", subject.tgid)) else { return false };
    let others =
        threads.flatten().filter(|thread| thread.file_name().to_str() != Some(&subject.tid.to_string()));
    let is_stopped = |thread: fs::DirEntry| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    others.take(OTHERS).any(is_stopped)
}
