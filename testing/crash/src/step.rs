//! A client is killed at every single instruction of an operation; then every invariant is checked.
//!
//! For each instruction of the library that the operation executes: objects are made, sleepers put to sleep, a child
//! is stepped up to that instruction and killed. What is then there must be what was there before, or what the
//! operation leaves when it comes to its end; sleepers must have what that state owes them; an operation that was
//! not done must still be possible. At the end, the arena must hold as many blocks as before.
//!
//! An operation that sleeps is woken by the driver, so both its halves are stepped through. Some scenarios kill the
//! sleepers too, or instead, while the child stands at the instruction.

mod scenarios;
mod stage;

use std::error::Error;
use std::fs;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, alarm};

use crate::{ipc, usage};
use scenarios::{Act, SCENARIOS, Scenario, Victims};
use stage::{Stage, State};

/// A driver that needs longer for one instruction hangs.
const HANG_S: u32 = 30;
/// How long the broker is given to meet a sleeper's death while the child stands still.
const REAPING: Duration = Duration::from_millis(3);

/// Where to kill.
#[derive(Args)]
pub(crate) struct Options {
    /// Of one operation only
    #[arg(long)]
    op: Option<String>,
    /// Every how many instructions
    #[arg(long, default_value_t = 1)]
    stride: u64,
}

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Steps through the operations; whether every invariant held.
pub(crate) fn run(options: &Options) -> Outcome<bool> {
    let chosen: Vec<_> =
        SCENARIOS.iter().filter(|s| options.op.as_ref().is_none_or(|op| op == s.name)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = SCENARIOS.iter().map(|s| s.name).collect();
        return Err(format!("no such operation; there are: {}", names.join(", ")).into());
    }
    let mut failed = 0;
    for scenario in &chosen {
        // Each has a driver of its own: one that hangs must not keep the others from being tried.
        let driver = ipc::fork(|| match drive(scenario, options.stride.max(1)) {
            Ok(()) => 0,
            Err(error) => {
                println!("violation in {}: {error}", scenario.name);
                1
            }
        })?;
        let status = ipc::wait(driver);
        if libc::WIFSIGNALED(status) {
            println!("violation in {}: the driver was {} (14: it hung)", scenario.name, ipc::ended(status));
        }
        if status != 0 {
            failed += 1;
            stage::remove_all()?;
        }
    }
    println!("{} operations, {failed} with violations", chosen.len());
    Ok(failed == 0)
}

/// Where the library's instructions are; a child has it at the same place.
fn text_of_library() -> Outcome<Range<u64>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let line = maps.lines().find(|l| l.contains("/libipcspace_preload.so") && l.contains(" r-xp "));
    let (range, _) = line.and_then(|l| l.split_once(' ')).ok_or("the preload library is not loaded")?;
    let (start, end) = range.split_once('-').ok_or("a line of maps makes no sense")?;
    Ok(u64::from_str_radix(start, 16)?..u64::from_str_radix(end, 16)?)
}

/// Kills at each instruction of one operation, until it comes to its end before that.
fn drive(scenario: &Scenario, stride: u64) -> Outcome {
    // Child and driver take turns: on one CPU that is several times faster.
    let mut cpus = CpuSet::new();
    cpus.set(sched_getcpu()?)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;
    stage::warm_up()?;
    let in_use = usage::at_rest()?;
    let start = Instant::now();
    let driver = Driver { scenario, text: text_of_library()?, allowed: references(scenario)? };
    let mut seen = vec![0u64; driver.allowed.len()];
    let (mut at, mut kills) = (0, 0);
    while driver.kill_at(at, &mut seen).map_err(|e| format!("killed at instruction {at}: {e}"))? {
        at += stride;
        kills += 1;
    }
    if let Some(leak) = usage::leaked_since(&in_use)? {
        return Err(leak.into());
    }
    let states: Vec<_> =
        driver.allowed.iter().zip(&seen).map(|((name, _), n)| format!("{n} times {name}")).collect();
    println!(
        "{}: {kills} kills within {at} instructions, {}; {:.0} s",
        scenario.name,
        states.join(", "),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// The states that may be found after a death, each from a run in which nobody died in the middle.
fn references(scenario: &Scenario) -> Outcome<Vec<(&'static str, State)>> {
    let mut allowed = Vec::new();
    let mut note = |name, state: State| {
        if allowed.iter().all(|(_, known)| *known != state) {
            allowed.push((name, state));
        }
    };
    if scenario.start.is_none() {
        let mut stage = Stage::set(scenario)?;
        if scenario.victims != Victims::Child {
            stage.kill_sleepers();
        }
        note("not done", stage.state()?);
        stage.clear()?;
    }
    if let Some(wake) = scenario.wake {
        let mut stage = Stage::set(scenario)?;
        wake(&stage).map_err(stage::failed("waking"))?;
        note("woken", stage.state()?);
        stage.clear()?;
    }
    if scenario.victims != Victims::Child {
        let mut stage = Stage::set(scenario)?;
        stage.kill_sleepers();
        finish_child(scenario, &stage)?;
        note("done without sleepers", stage.state()?);
        stage.clear()?;
    }
    let mut stage = Stage::set(scenario)?;
    if let Some(start) = scenario.start {
        start(&mut stage);
    }
    finish_child(scenario, &stage)?;
    if scenario.victims != Victims::Child {
        stage.kill_sleepers();
    }
    note("done", stage.state()?);
    stage.clear()?;
    Ok(allowed)
}

/// Lets a child do the whole operation.
fn finish_child(scenario: &Scenario, stage: &Stage) -> Outcome {
    let child = start_child(scenario, stage)?;
    ptrace::detach(child, None)?;
    if let Some(wake) = scenario.wake {
        stage::until("the child sleeps", || stage::is_asleep(child.as_raw()))?;
        wake(stage).map_err(stage::failed("waking"))?;
    }
    match waitpid(child, None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        other => Err(format!("without any death, the operation came to {other:?}").into()),
    }
}

/// A child that is about to begin the operation, and stands there.
fn start_child(scenario: &Scenario, stage: &Stage) -> Outcome<Pid> {
    let child = ipc::fork(|| {
        if !scenario.cold {
            stage.touch();
        }
        if ptrace::traceme().is_err() || nix::sys::signal::raise(Signal::SIGSTOP).is_err() {
            return 255;
        }
        (scenario.act)(stage).err().unwrap_or(0)
    })?;
    let child = Pid::from_raw(child);
    match waitpid(child, None)? {
        WaitStatus::Stopped(_, Signal::SIGSTOP) => Ok(child),
        other => Err(format!("the child did not begin: {other:?}").into()),
    }
}

struct Driver<'a> {
    scenario: &'a Scenario,
    text: Range<u64>,
    allowed: Vec<(&'static str, State)>,
}

impl Driver<'_> {
    /// Kills a child that stands before instruction `at` of the library, and checks. False if it ended before.
    fn kill_at(&self, at: u64, seen: &mut [u64]) -> Outcome<bool> {
        alarm::set(HANG_S);
        let scenario = self.scenario;
        let mut stage = Stage::set(scenario)?;
        let child = start_child(scenario, &stage)?;
        if let Some(start) = scenario.start {
            start(&mut stage);
        }
        let reached = self.step(child, at, &stage)?;
        if scenario.victims != Victims::Child {
            stage.kill_sleepers();
            thread::sleep(REAPING);
        }
        if reached && scenario.victims == Victims::Sleepers {
            ptrace::detach(child, None)?;
            match waitpid(child, None)? {
                WaitStatus::Exited(_, 0) => {}
                other => return Err(format!("the child, which nobody killed, came to {other:?}").into()),
            }
        } else if reached {
            ipc::kill(child.as_raw(), libc::SIGKILL);
            waitpid(child, None)?;
        }
        let which = stage.settles_in(&self.allowed)?;
        seen[which] += 1;
        if self.allowed[which].0 == "not done" && scenario.again {
            (scenario.act)(&stage).map_err(stage::failed("the operation that was not done, again"))?;
            let done: Vec<_> = self.allowed.iter().filter(|(name, _)| *name == "done").cloned().collect();
            stage.settles_in(&done).map_err(|e| format!("after doing it again: {e}"))?;
        }
        stage.clear()?;
        Ok(reached)
    }

    /// Steps the child until it stands before instruction `at` of the library; false if it has ended before.
    fn step(&self, child: Pid, at: u64, stage: &Stage) -> Outcome<bool> {
        let mut wake = self.scenario.wake;
        let mut count = 0;
        loop {
            let rip = ptrace::read_user(child, rip_offset())?.cast_unsigned();
            if self.text.contains(&rip) {
                if count == at {
                    return Ok(true);
                }
                count += 1;
            }
            if let Some(behind) = behind_repetition(child, rip)? {
                run_to(child, behind)?;
                continue;
            }
            ptrace::step(child, None)?;
            match wait_for_step(child, stage, &mut wake)? {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
                WaitStatus::Exited(_, 0) => return Ok(false),
                other => return Err(format!("the child came to {other:?}").into()),
            }
        }
    }
}

/// Where a string instruction with a repeat prefix ends, if `rip` is at one: a step would be one of thousands.
fn behind_repetition(child: Pid, rip: u64) -> Outcome<Option<u64>> {
    let code = ptrace::read(child, address(rip))?.to_le_bytes();
    Ok(match code {
        [0xf3, 0xa4 | 0xa5 | 0xaa | 0xab, ..] => Some(rip + 2),
        [0xf3, 0x48, 0xa5 | 0xab, ..] => Some(rip + 3),
        _ => None,
    })
}

/// Lets the child run to an instruction, by a breakpoint there.
fn run_to(child: Pid, rip: u64) -> Outcome {
    const BREAKPOINT: i64 = 0xcc;
    let code = ptrace::read(child, address(rip))?;
    ptrace::write(child, address(rip), code & !0xff | BREAKPOINT)?;
    ptrace::cont(child, None)?;
    match waitpid(child, None)? {
        WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
        other => return Err(format!("the child came to {other:?}").into()),
    }
    ptrace::write(child, address(rip), code)?;
    let mut registers = ptrace::getregs(child)?;
    registers.rip = rip;
    Ok(ptrace::setregs(child, registers)?)
}

fn address(rip: u64) -> ptrace::AddressType {
    std::ptr::without_provenance_mut(rip as usize)
}

fn rip_offset() -> ptrace::AddressType {
    std::ptr::without_provenance_mut(std::mem::offset_of!(libc::user_regs_struct, rip))
}

/// Waits for the end of a step; a child that has gone to sleep in it is woken, once.
fn wait_for_step(child: Pid, stage: &Stage, wake: &mut Option<Act>) -> Outcome<WaitStatus> {
    while let Some(call) = *wake {
        for _ in 0..20 {
            match waitpid(child, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::StillAlive => thread::yield_now(),
                status => return Ok(status),
            }
        }
        if stage::is_asleep(child.as_raw()) {
            call(stage).map_err(stage::failed("waking"))?;
            *wake = None;
        }
    }
    Ok(waitpid(child, None)?)
}
