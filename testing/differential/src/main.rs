//! `differential --calls N --seed S [--area msg|sem|shm|mq|all] [--door preload|stranger|trap|trap32|host|kernel]`: random sequences of calls on
//! the kernel and on ours.
//!
//! Prints each difference as a short program with both results; the last line is `N calls, D differences`, and
//! the exit code 1 if there are any. `--door host` compares the engine below a simulated machine, which is quick and has
//! other uids and changing limits too; with `--door stranger` all tasks are processes of three other uids; `--door kernel` compares the kernel with itself, to check the comparison.
//!
//! Missing: behind the trap, forks and unmapping beside segments, and `dup` of queues, which it does not see; started by an ordinary user, tasks of other uids.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use differential::{Abilities, Difference, Generator, Kind, Limits, Make, explore, tolerated};
use world::{Call, Processes, Simulated, Start, World, run_worker_if_asked};

#[derive(Debug, Parser)]
struct Args {
    /// How many calls to make
    #[arg(long, default_value_t = 300_000)]
    calls: u64,
    /// Another seed makes other calls
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What the calls are about
    #[arg(long, default_value = "all")]
    area: Area,
    /// What is compared with the kernel
    #[arg(long, default_value = "preload")]
    door: Door,
    /// Calls in one namespace, before the next begins
    #[arg(long, default_value_t = 2000)]
    sequence: u64,
    /// Stop after so many differences
    #[arg(long, default_value_t = 10)]
    differences: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Area {
    Msg,
    Sem,
    Shm,
    Mq,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Door {
    Preload,
    /// The library, by processes of other users than the namespace's owner
    Stranger,
    Trap,
    /// The trap and the kernel, by calls of 32-bit programs
    Trap32,
    Host,
    Kernel,
}

fn main() -> ExitCode {
    run_worker_if_asked();
    let args = Args::parse();
    match compare(&args) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("differential: {error}");
            ExitCode::from(2)
        }
    }
}

/// The number of differences.
fn compare(args: &Args) -> Result<u64, String> {
    let kinds: &[Kind] = match args.area {
        Area::Msg => &[Kind::Msg],
        Area::Sem => &[Kind::Sem],
        Area::Shm => &[Kind::Shm],
        Area::Mq => &[Kind::Mq],
        Area::All => &[Kind::Msg, Kind::Sem, Kind::Shm, Kind::Mq],
    };
    let ipcspace = match args.door {
        Door::Preload | Door::Stranger | Door::Trap | Door::Trap32 => ipcspace()?,
        Door::Host | Door::Kernel => PathBuf::new(),
    };
    let other = |limits: &Limits| match args.door {
        Door::Preload | Door::Stranger | Door::Trap | Door::Trap32 => below(&ipcspace, args.door, limits),
        Door::Host => simulated(limits),
        Door::Kernel => kernel(&Start::kernel(), limits),
    };
    let by_trap = matches!(args.door, Door::Trap | Door::Trap32);
    let abilities = Abilities {
        other_users: is_root(),
        strangers: args.door == Door::Stranger,
        files: !by_trap,
        queue_files: !by_trap,
        wide: args.door != Door::Trap32,
        dups: !by_trap,
        polls: args.door != Door::Host,
        mappings: !by_trap,
    };
    if abilities.strangers && !abilities.other_users {
        return Err("only root can be other users".into());
    }
    let oracle = match args.door {
        Door::Trap32 => Start::kernel().compat(),
        // The machine has no libc.
        Door::Host => Start::kernel().raw(),
        _ => Start::kernel(),
    };
    let oracle = |limits: &Limits| kernel(&oracle, limits);
    let make: [Make<'_>; 2] = [&oracle, &other];
    let (mut calls, mut differences, mut sequence, mut without_rss) = (0, 0, 0, 0);
    while calls < args.calls && differences < args.differences {
        let mut generator = Generator::new(seed(args.seed, sequence), kinds, abilities);
        sequence += 1;
        let limits = generator.limits();
        let run = explore(make, &limits, &mut generator, args.sequence.min(args.calls - calls));
        calls += run.calls;
        without_rss += run.without_rss;
        if run.differs {
            differences += 1;
            println!("difference {differences}, in sequence {sequence}, after {calls} calls:");
            match Difference::shrunk(make, &limits, &run.steps) {
                Some(difference) => println!("{difference}"),
                None => println!(
                    "  not seen again when the {} steps were played once more; the last were\n{}",
                    run.steps.len(),
                    run.end(&limits)
                ),
            }
        }
    }
    if without_rss > 0 {
        let why = if tolerated::damon_takes_pages() { "DAMON pages out" } else { "memory was short" };
        println!("{without_rss} replies compared without how many pages are in memory: {why}");
    }
    println!("{calls} calls, {differences} differences");
    Ok(differences)
}

fn seed(seed: u64, sequence: u64) -> u64 {
    seed.wrapping_mul(1_000_003).wrapping_add(sequence)
}

fn is_root() -> bool {
    // SAFETY: no pointers, no failure.
    unsafe { libc::geteuid() == 0 }
}

fn kernel(start: &Start, limits: &Limits) -> Box<dyn World> {
    let mut world = Processes::start(start).expect("the worker's executable");
    if !limits.is_empty() {
        let task = world.spawn();
        for (name, value) in limits {
            world.call(task, &Call::WriteSysctl { name: name.clone(), value: value.clone() }).ok();
        }
        world.kill(task);
    }
    Box::new(world)
}

fn below(ipcspace: &Path, door: Door, limits: &Limits) -> Box<dyn World> {
    let name = if matches!(door, Door::Preload | Door::Stranger) { "preload" } else { "trap" };
    let mut prefix = vec![ipcspace.as_os_str().to_owned(), "run".into(), "--door".into(), name.into()];
    for (name, value) in limits {
        prefix.extend(["--sysctl".into(), format!("{name}={value}").into()]);
    }
    if door == Door::Stranger {
        // The kernel has no such quota.
        prefix.extend(["--sysctl".into(), format!("ipcspace.stranger_bytes={}", u64::MAX).into()]);
    }
    prefix.push("--".into());
    let start = Start::below(prefix).patient();
    let start = match door {
        Door::Trap => start.served(),
        Door::Stranger => start.served().sleeping_on(),
        Door::Trap32 => start.served().compat(),
        _ => start,
    };
    Box::new(Processes::start(&start).expect("ipcspace"))
}

fn simulated(limits: &Limits) -> Box<dyn World> {
    Box::new(Simulated::new(limits.iter().map(|(name, value)| (name.as_str(), value.as_str()))))
}

/// The command under test.
fn ipcspace() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os("IPCSPACE_BIN") {
        return Ok(path.into());
    }
    let beside = env::current_exe().map_err(|error| error.to_string())?.with_file_name("ipcspace");
    if !beside.exists() {
        let beside = beside.display();
        return Err(format!(
            "{beside} is missing: `cargo build --release -p cli`, or name another by IPCSPACE_BIN"
        ));
    }
    Ok(beside)
}
