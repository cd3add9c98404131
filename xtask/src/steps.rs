//! `cargo xtask test`: builds the command as users get it, then tests it by every means, each a step.
//!
//! A step that fails is named at once and the rest is run still: the sum at the end tells what holds.
//! What a step needs and this machine lacks is said in a line of its own; such a step is counted apart.
//!
//! Some steps wait more than they work, or work on one CPU: as root they are run side by side, and what each says is shown in one piece. Whatever measures,
//! floods, or kills at random is run alone.

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use crate::{cargo, target_directory};

/// What became of a step.
enum Outcome {
    Passed,
    Failed(String),
    Skipped(&'static str),
}

/// What a step needs of the machine.
enum Needs {
    Nothing,
    /// For namespaces of the kernel's.
    Root,
    /// What `testing/programs/install` fetches.
    Programs(PathBuf),
    Both(PathBuf),
    /// For counting instructions.
    Valgrind,
}

struct Step {
    name: &'static str,
    needs: Needs,
    command: Command,
    /// Whether it is run at the same time as the one before.
    beside: bool,
}

impl Step {
    fn new(name: &'static str, needs: Needs, command: Command) -> Step {
        Step { name, needs, command, beside: false }
    }

    fn beside(self) -> Step {
        Step { beside: true, ..self }
    }

    fn run(&mut self, privileged: bool) -> Done {
        let begun = Instant::now();
        let outcome = outcome(self, privileged);
        Done { name: self.name, outcome, seconds: begun.elapsed().as_secs() }
    }
}

/// A step that is over.
struct Done {
    name: &'static str,
    outcome: Outcome,
    seconds: u64,
}

#[derive(Default)]
struct Sum {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Sum {
    fn add(&mut self, Done { name, outcome, seconds }: &Done) {
        match outcome {
            Outcome::Passed => {
                self.passed += 1;
                println!("== ok after {seconds} s");
            }
            Outcome::Failed(how) => {
                self.failed += 1;
                println!("FAILED {name}: {how}");
            }
            Outcome::Skipped(why) => {
                self.skipped += 1;
                println!("skipped {name}: {why}");
            }
        }
    }
}

/// Runs all of it; whether all passed.
pub(crate) fn run(root: &Path) -> Result<bool, Box<dyn Error>> {
    let target = target_directory(root);
    if !cargo(root, &["build", "--release", "--package", "cli"]).status()?.success() {
        return Err("the command does not build, so nothing can be tested".into());
    }
    let command = target.join("release/ipcspace");
    let privileged = is_root()?;
    let mut sum = Sum::default();
    let mut steps = steps(root, &target);
    for step in &mut steps {
        step.command.env("IPCSPACE_BIN", &command);
    }
    // Only root can keep two apart, by namespaces of the kernel's.
    for group in steps.chunk_by_mut(|_, next| next.beside && privileged) {
        if let [step] = group {
            println!("== {}", step.name);
            sum.add(&step.run(privileged));
        } else {
            side_by_side(group, &target.join("steps"), privileged, &mut sum)?;
        }
    }
    let Sum { passed, failed, skipped } = sum;
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed == 0)
}

/// Runs steps at the same time. What each says goes to a file of `logs`, and is shown when it is over.
fn side_by_side(group: &mut [Step], logs: &Path, privileged: bool, sum: &mut Sum) -> io::Result<()> {
    let names: Vec<&str> = group.iter().map(|step| step.name).collect();
    println!("== side by side: {}", names.join(" | "));
    fs::create_dir_all(logs)?;
    let said: Vec<PathBuf> = names.iter().map(|name| logs.join(name.replace([' ', ','], "-"))).collect();
    for (step, file) in group.iter_mut().zip(&said) {
        let file = File::create(file)?;
        step.command.stdout(file.try_clone()?).stderr(file);
    }
    thread::scope(|scope| {
        let running: Vec<_> =
            group.iter_mut().map(|step| scope.spawn(move || step.run(privileged))).collect();
        for (step, file) in running.into_iter().zip(&said) {
            let done = step.join().expect("a step is waited for without a panic");
            println!("== {}", done.name);
            io::copy(&mut File::open(file)?, &mut io::stdout())?;
            sum.add(&done);
        }
        Ok(())
    })
}

fn outcome(step: &mut Step, privileged: bool) -> Outcome {
    match &step.needs {
        Needs::Root | Needs::Both(_) if !privileged => {
            return Outcome::Skipped("needs root, for namespaces of the kernel's");
        }
        Needs::Programs(fetched) | Needs::Both(fetched) if !fetched.exists() => {
            return Outcome::Skipped("the programs are not there; testing/programs/install fetches them");
        }
        Needs::Valgrind if !has_valgrind() => return Outcome::Skipped("needs valgrind"),
        _ => {}
    }
    match step.command.status() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(status.to_string()),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// In the order in which a failure says most.
fn steps(root: &Path, target: &Path) -> Vec<Step> {
    let mut models = cargo(
        root,
        &["test", "--release", "--package", "arena", "--test", "loom_lock", "--test", "loom_waiter"],
    );
    // A directory of its own: other flags would build everything again, there and back.
    models.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", target.join("loom"));
    let needing = |needs, name, package, arguments: &[&str]| {
        let run = ["run", "--release", "--quiet", "--package", package, "--"];
        Step::new(name, needs, cargo(root, &[&run, arguments].concat()))
    };
    let tool = |name, package, arguments: &[&str]| needing(Needs::Root, name, package, arguments);
    let differential = |name, door, area, calls| {
        tool(name, "differential", &["--door", door, "--area", area, "--calls", calls, "--seed", "1"])
    };
    let programs = |name, door, which: &[&str]| {
        let mut command = Command::new("testing/programs/run");
        command.current_dir(root).args(["--door", door]).args(which);
        Step::new(name, Needs::Programs(root.join("target/programs/bin/limits")), command)
    };
    let mut installed = Command::new("testing/programs/installed.sh");
    installed.current_dir(root);
    let mut packages = Command::new("testing/packages/run");
    packages.current_dir(root);
    let options = cargo(root, &["run", "--quiet", "--package", "xtask", "--", "options", "--quick"]);
    let unit = cargo(root, &["test", "--workspace", "--exclude", "preload"]);
    let library = cargo(root, &["test", "--release", "--package", "ipcspace", "--all-features"]);
    vec![
        Step::new("unit and integration tests", Needs::Nothing, unit),
        Step::new("the library for programs, with its examples", Needs::Nothing, library),
        Step::new("build options", Needs::Nothing, options),
        Step::new("models of the lock and the waiter", Needs::Nothing, models).beside(),
        Step::new("installed and moved", Needs::Nothing, installed),
        tool("conformance, kernel", "conformance", &["--door", "kernel"]),
        needing(
            Needs::Nothing,
            "conformance, host, a thousand schedules",
            "conformance",
            &["--door", "host", "--seeds", "1000"],
        )
        .beside(),
        needing(Needs::Nothing, "conformance, host", "conformance", &["--door", "host"]),
        tool("conformance, preload", "conformance", &["--door", "preload"]),
        tool("conformance, strangers", "conformance", &["--door", "stranger"]),
        differential("differential, host", "host", "all", "50000").beside(),
        tool("conformance, trap", "conformance", &["--door", "trap"]),
        tool("conformance, kernel, 32 bits", "conformance", &["--door", "kernel32"]),
        tool("conformance, trap, 32 bits", "conformance", &["--door", "trap32"]),
        tool("conformance, api", "conformance", &["--door", "api"]),
        differential("differential, messages", "preload", "msg", "5000"),
        differential("differential, semaphores", "preload", "sem", "5000"),
        differential("differential, POSIX queues", "preload", "mq", "5000"),
        differential("differential, trap", "trap", "msg", "3000"),
        differential("differential, trap's POSIX queues", "trap", "mq", "2500"),
        differential("differential, trap, 32 bits", "trap32", "sem", "3000"),
        differential("differential, strangers' messages", "stranger", "msg", "2500"),
        differential("differential, strangers' semaphores", "stranger", "sem", "2500"),
        differential("differential, strangers' POSIX queues", "stranger", "mq", "2500"),
        tool("crash storm", "crash", &["storm", "--kills", "300", "--stops", "50", "--seed", "1"]),
        tool("hostile strangers", "hostile", &["flood", "--seconds", "5"]),
        tool("random messages", "hostile", &["fuzz", "--seconds", "60"]),
        tool("crash poison", "crash", &["poison"]),
        tool("crash flip", "crash", &["flip", "--rounds", "50", "--seed", "1"]),
        // A stride that has no factor in common with loops of the code.
        tool("crash steps", "crash", &["step", "--stride", "211"]),
        needing(Needs::Valgrind, "instructions per operation", "bench", &["--instructions", "check"]),
        programs("programs, kernel", "kernel", &[]),
        programs("programs, ours", "auto", &[]).beside(),
        // All of them take too long here.
        programs(
            "programs, trap",
            "trap",
            &[
                "hello",
                "files",
                "glibc",
                "perl-core",
                "perl-ipc-sysv",
                "php",
                "postgresql",
                "svsematest",
                "sysv-ipc",
                "vfork",
                "word-size",
            ],
        ),
        Step::new("packages", Needs::Both(root.join("target/programs/bin/musl")), packages).beside(),
    ]
}

fn has_valgrind() -> bool {
    Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn is_root() -> Result<bool, Box<dyn Error>> {
    let id = Command::new("id").arg("-u").stderr(Stdio::inherit()).output()?;
    Ok(id.stdout.trim_ascii() == b"0")
}
