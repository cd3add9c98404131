//! `cargo xtask test`: builds the command as users get it, then tests it by every means, each a step.
//!
//! A step that fails is named at once and the rest is run still: the sum at the end tells what holds.
//! What a step needs and this machine lacks is said in a line of its own; such a step counts as neither.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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
}

/// Runs all of it; whether all passed.
pub(crate) fn run(root: &Path) -> Result<bool, Box<dyn Error>> {
    let target = target_directory(root);
    if !cargo(root, &["build", "--release", "--package", "cli"]).status()?.success() {
        return Err("the command does not build, so nothing can be tested".into());
    }
    let command = target.join("release/ipcspace");
    let privileged = is_root()?;
    let (mut passed, mut failed) = (0, 0);
    for mut step in steps(root, &target) {
        println!("== {}", step.name);
        step.command.env("IPCSPACE_BIN", &command);
        let begun = Instant::now();
        match outcome(&mut step, privileged) {
            Outcome::Passed => {
                passed += 1;
                println!("== ok after {} s", begun.elapsed().as_secs());
            }
            Outcome::Failed(how) => {
                failed += 1;
                println!("FAILED {}: {how}", step.name);
            }
            Outcome::Skipped(why) => println!("skipped {}: {why}", step.name),
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
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
    let tool = |name, package, arguments: &[&str]| Step {
        name,
        needs: Needs::Root,
        command: cargo(
            root,
            &[&["run", "--release", "--quiet", "--package", package, "--"], arguments].concat(),
        ),
    };
    let differential = |name, door, area, calls| {
        tool(name, "differential", &["--door", door, "--area", area, "--calls", calls, "--seed", "1"])
    };
    let programs = |name, door, which: &[&str]| {
        let mut command = Command::new("testing/programs/run");
        command.current_dir(root).args(["--door", door]).args(which);
        Step { name, needs: Needs::Programs(root.join("target/programs/bin/limits")), command }
    };
    let mut installed = Command::new("testing/programs/installed.sh");
    installed.current_dir(root);
    let mut packages = Command::new("testing/packages/run");
    packages.current_dir(root);
    let options = cargo(root, &["run", "--quiet", "--package", "xtask", "--", "options"]);
    let unit = cargo(root, &["test", "--workspace", "--exclude", "preload"]);
    let library = cargo(root, &["test", "--release", "--package", "ipcspace", "--all-features"]);
    vec![
        Step { name: "unit and integration tests", needs: Needs::Nothing, command: unit },
        Step { name: "the library for programs, with its examples", needs: Needs::Nothing, command: library },
        Step { name: "build options", needs: Needs::Nothing, command: options },
        Step { name: "installed and moved", needs: Needs::Nothing, command: installed },
        Step { name: "models of the lock and the waiter", needs: Needs::Nothing, command: models },
        tool("conformance, kernel", "conformance", &["--door", "kernel"]),
        tool("conformance, preload", "conformance", &["--door", "preload"]),
        tool("conformance, strangers", "conformance", &["--door", "stranger"]),
        tool("conformance, trap", "conformance", &["--door", "trap"]),
        tool("conformance, kernel, 32 bits", "conformance", &["--door", "kernel32"]),
        tool("conformance, trap, 32 bits", "conformance", &["--door", "trap32"]),
        tool("conformance, api", "conformance", &["--door", "api"]),
        Step { needs: Needs::Nothing, ..tool("conformance, host", "conformance", &["--door", "host"]) },
        Step {
            needs: Needs::Nothing,
            ..tool(
                "conformance, host, a thousand schedules",
                "conformance",
                &["--door", "host", "--seeds", "1000"],
            )
        },
        differential("differential, host", "host", "all", "50000"),
        differential("differential, messages", "preload", "msg", "5000"),
        differential("differential, semaphores", "preload", "sem", "5000"),
        differential("differential, POSIX queues", "preload", "mq", "5000"),
        differential("differential, trap", "trap", "msg", "3000"),
        differential("differential, trap, 32 bits", "trap32", "sem", "3000"),
        differential("differential, strangers' messages", "stranger", "msg", "2500"),
        differential("differential, strangers' semaphores", "stranger", "sem", "2500"),
        tool("crash storm", "crash", &["storm", "--kills", "300", "--stops", "50", "--seed", "1"]),
        tool("hostile strangers", "hostile", &["flood", "--seconds", "5"]),
        tool("random messages", "hostile", &["fuzz", "--seconds", "60"]),
        tool("crash poison", "crash", &["poison"]),
        tool("crash flip", "crash", &["flip", "--rounds", "50", "--seed", "1"]),
        // A stride that has no factor in common with loops of the code.
        tool("crash steps", "crash", &["step", "--stride", "211"]),
        Step {
            needs: Needs::Valgrind,
            ..tool("instructions per operation", "bench", &["--instructions", "check"])
        },
        programs("programs, kernel", "kernel", &[]),
        programs("programs, ours", "auto", &[]),
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
                "word-size",
            ],
        ),
        Step {
            name: "packages",
            needs: Needs::Both(root.join("target/programs/bin/musl")),
            command: packages,
        },
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
