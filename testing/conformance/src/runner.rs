//! Runs each case in a process and a namespace of its own.

use std::{
    env, fs, io,
    ops::Range,
    os::unix::process::{CommandExt, ExitStatusExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::{Command, ExitCode, Output},
};

use kernel_host::Schedule;

use crate::check::{Failure, Outcome};
use crate::options::{self, BuildOption};
use crate::{Door, api, call, case::Case, simulated};

/// A case that takes longer hangs, and SIGALRM ends it.
const WATCHDOG_S: u32 = 30;

/// Runs the cases whose names contain one of `names`, at each door; false if one failed.
///
/// What the build under test is `without` decides which apply. On the simulated machine with each of the schedules, if there are `seeds`.
pub(crate) fn run(
    doors: &[Door],
    cases: impl Iterator<Item = &'static Case>,
    names: &[String],
    without: &[BuildOption],
    seeds: &Range<u64>,
) -> bool {
    let wanted =
        |case: &&Case| names.is_empty() || names.iter().any(|name| case.name.contains(name.as_str()));
    let cases: Vec<_> = cases.filter(wanted).collect();
    if cases.is_empty() {
        eprintln!("conformance: no case has such a name");
        return false;
    }
    let (mut passed, mut failed) = (0, 0);
    for &door in doors {
        if let Err(reason) = usable(door) {
            println!("{}: not run: {reason}", label(door));
            failed += cases.len();
            continue;
        }
        let applies = |case: &&&Case| {
            let opens_files = case.name.starts_with("sysctl/");
            let fits = match door {
                Door::Host => !case.needs_system,
                Door::Stranger | Door::Api => !opens_files && !case.needs_root,
                Door::Kernel32 | Door::Trap32 => !case.is_wide,
                Door::Kernel | Door::Preload | Door::Trap => true,
            };
            let built = match case.without {
                Some(shown) => without.contains(&shown),
                None => !without.iter().any(|out| options::needs(case, door, *out)),
            };
            fits && built && case.only.is_none_or(|doors| doors.contains(&door))
        };
        for case in cases.iter().filter(applies) {
            if case.name.starts_with("sysctl/") && matches!(door, Door::Trap | Door::Trap32) && !has_fuse() {
                println!(
                    "{} {}: skipped: who writes by the trap hears of errors only where /dev/fuse can be opened",
                    label(door),
                    case.name
                );
                continue;
            }
            if case.needs_root && door != Door::Host && !is_root() {
                println!(
                    "{} {}: skipped: takes other identities, which only root can",
                    label(door),
                    case.name
                );
                continue;
            }
            let known = case.differs.filter(|(at, _)| at.contains(&door)).map(|(_, reason)| reason);
            match (run_apart(door, case, seeds), known) {
                (Ok(()), None) => passed += 1,
                (Err(_), Some(reason)) => {
                    println!("{} {}: known to differ: {reason}", label(door), case.name)
                }
                (Ok(()), Some(_)) => {
                    failed += 1;
                    println!("{} {}: passes, though it is said to differ", label(door), case.name);
                }
                (Err(report), None) => {
                    failed += 1;
                    println!("{} {}: FAILED\n    {}", label(door), case.name, report.trim());
                }
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    failed == 0
}

fn label(door: Door) -> &'static str {
    match door {
        Door::Kernel => "kernel",
        Door::Preload => "preload",
        Door::Stranger => "stranger",
        Door::Trap => "trap",
        Door::Kernel32 => "kernel32",
        Door::Trap32 => "trap32",
        Door::Api => "api",
        Door::Host => "host",
    }
}

fn is_root() -> bool {
    // SAFETY: asks for a number.
    unsafe { libc::geteuid() == 0 }
}

fn has_fuse() -> bool {
    fs::File::options().read(true).write(true).open("/dev/fuse").is_ok()
}

fn usable(door: Door) -> Result<(), String> {
    match door {
        Door::Kernel | Door::Kernel32 if !is_root() => Err("new IPC namespaces need root".into()),
        Door::Stranger if !is_root() => Err("only root can become another user".into()),
        Door::Kernel | Door::Kernel32 | Door::Api | Door::Host => Ok(()),
        Door::Preload | Door::Stranger | Door::Trap | Door::Trap32 => {
            let place = ipcspace();
            place.is_file().then_some(()).ok_or_else(|| {
                format!(
                    "{} is absent: build it (cargo build --release -p cli) or set IPCSPACE_BIN",
                    place.display()
                )
            })
        }
    }
}

/// The command: of `IPCSPACE_BIN`, else the one beside this executable.
fn ipcspace() -> PathBuf {
    env::var_os("IPCSPACE_BIN").map_or_else(|| this_executable().with_file_name("ipcspace"), PathBuf::from)
}

fn this_executable() -> PathBuf {
    env::current_exe().expect("/proc/self/exe can be read")
}

/// Starts this executable again for one case; an `Err` says what went wrong.
fn run_apart(door: Door, case: &Case, seeds: &Range<u64>) -> Result<(), String> {
    let mut command = match door {
        Door::Kernel | Door::Kernel32 => in_new_kernel_namespace(case),
        Door::Preload => in_namespace_of_ours(Door::Preload, case, &[]),
        // The kernel has no such quotas.
        Door::Stranger => {
            in_namespace_of_ours(Door::Preload, case, &[("ipcspace.stranger_bytes", "18446744073709551615")])
        }
        Door::Trap | Door::Trap32 => in_namespace_of_ours(Door::Trap, case, &[]),
        Door::Api | Door::Host => Command::new(this_executable()),
    };
    if !seeds.is_empty() {
        command.args(["--seed", &seeds.start.to_string(), "--seeds", &(seeds.end - seeds.start).to_string()]);
    }
    let Output { status, stdout, stderr } = command
        .args(["--door", label(door), "--here", case.name])
        .output()
        .map_err(|error| format!("{error}"))?;
    if status.success() {
        return Ok(());
    }
    let mut report = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    if status.signal() == Some(libc::SIGALRM) || status.code() == Some(128 + libc::SIGALRM) {
        report += &format!("it hung for {WATCHDOG_S} s");
    } else if status.code() != Some(1) {
        report += &format!("it ended with {status}");
    }
    Err(report)
}

fn in_new_kernel_namespace(case: &Case) -> Command {
    let limits = case.limits;
    let mut command = Command::new(this_executable());
    // SAFETY: between fork and exec of a process with one thread; opening files is allowed there.
    unsafe {
        command.pre_exec(move || {
            if libc::unshare(libc::CLONE_NEWIPC) != 0 {
                return Err(io::Error::last_os_error());
            }
            limits.iter().try_for_each(|(name, value)| {
                fs::write(format!("/proc/sys/{}", name.replace('.', "/")), value)
            })
        });
    }
    command
}

fn in_namespace_of_ours(door: Door, case: &Case, limits: &[(&str, &str)]) -> Command {
    let mut command = Command::new(ipcspace());
    command.args(["run", "--kill", "--door", label(door)]);
    for (name, value) in case.limits.iter().chain(limits) {
        command.arg("--sysctl").arg(format!("{name}={value}"));
    }
    command.arg("--").arg(this_executable());
    command
}

/// Becomes another user, in no group of the owner's.
fn become_stranger() {
    const NOBODY: u32 = 65534;
    // SAFETY: numbers, and no groups.
    let done = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(NOBODY, NOBODY, NOBODY) == 0
            && libc::setresuid(NOBODY, NOBODY, NOBODY) == 0
            // So that what its children do can be seen.
            && libc::prctl(libc::PR_SET_DUMPABLE, 1) == 0
    };
    assert!(done, "root can become another user");
}

/// Runs the case on simulated machines: one on which everything comes in order, or one for each seed.
fn run_simulated(case: &Case, seeds: &Range<u64>) -> Outcome {
    if seeds.is_empty() {
        return simulated::run(case.limits, Schedule::in_order(), case.run);
    }
    seeds.clone().try_for_each(|seed| {
        // SAFETY: passes a number.
        unsafe { libc::alarm(WATCHDOG_S) };
        // So few steps make up a call that it is interrupted now and then, and another time at every step.
        let schedule = Schedule::random(seed, [2, 10, 50][seed as usize % 3], 0);
        let again = AssertUnwindSafe(|| simulated::run(case.limits, schedule, case.run));
        let outcome = catch_unwind(again).unwrap_or_else(|_| Err(Failure("it panics".into())));
        outcome.map_err(|Failure(why)| Failure(format!("with --seed {seed}: {why}")))
    })
}

/// Runs the case `name` in this process: 0 if it passes, else 1 and the reason on standard output.
pub(crate) fn run_here(
    door: Option<Door>,
    mut cases: impl Iterator<Item = &'static Case>,
    name: &str,
    seeds: &Range<u64>,
) -> ExitCode {
    let Some(case) = cases.find(|case| case.name == name) else {
        println!("no case is named {name}");
        return ExitCode::FAILURE;
    };
    // SAFETY: passes a number.
    unsafe { libc::alarm(WATCHDOG_S) };
    if matches!(door, Some(Door::Kernel32 | Door::Trap32)) {
        call::be_32_bit();
    }
    if door == Some(Door::Stranger) {
        become_stranger();
    }
    if door == Some(Door::Api) {
        api::begin(case.limits);
    }
    let outcome = if door == Some(Door::Host) { run_simulated(case, seeds) } else { (case.run)() };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("{}", failure.0);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        call::{msgrcv, msgsnd, queue},
        check::ok,
        task::Task,
    };

    /// Fails, and says who came in which order.
    fn fails() -> Outcome {
        let id = ok!(queue());
        let tasks = (1..=4).map(|mtype| Task::start(move || msgsnd(id, mtype, b"text", 0)));
        let tasks = tasks.collect::<Outcome<Vec<_>>>()?;
        let received = [(); 4].map(|()| msgrcv(id, 8, 0, 0));
        for task in tasks {
            ok!(task.report()?);
        }
        Err(Failure(format!("{received:?}")))
    }

    #[test]
    fn a_seed_that_fails_fails_the_same_way_again() {
        let case = Case::new("replay", fails);
        let mut stories = BTreeSet::new();
        for seed in 1..=100 {
            let report = || run_simulated(&case, &(seed..seed + 1)).expect_err("it fails").0;
            let first = report();
            assert_eq!(first, report());
            stories.insert(first.replace(&format!("--seed {seed}:"), ""));
        }
        assert!(stories.len() > 50, "{stories:?}");
        // SAFETY: passes a number: the watch is over.
        unsafe { libc::alarm(0) };
    }
}
