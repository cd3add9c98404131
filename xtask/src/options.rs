//! `cargo xtask options`: the engine with each of its build options left out, and with none of them.
//!
//! Each builds without a warning; what is out answers ENOSYS on the simulated machine, and what is in still passes there.

use std::error::Error;
use std::path::Path;

use crate::{cargo, target_directory};

/// The features of the engine, as crates/engine/Cargo.toml explains them.
const OPTIONS: [&str; 5] = ["sysvipc", "posix-mqueue", "ipc-ns", "sysctl", "compat"];

/// Tries all of it; whether all is well.
pub(crate) fn run(root: &Path) -> Result<bool, Box<dyn Error>> {
    // Other flags would build everything again, there and back.
    let target = target_directory(root).join("options");
    let without = |left: &str| OPTIONS.into_iter().filter(|option| *option != left).collect::<Vec<_>>();
    let mut sets: Vec<(Vec<&str>, &[&str])> = OPTIONS.map(|option| (without(option), tests(option))).into();
    sets.push((Vec::new(), &["options"]));
    let mut fine = true;
    for (features, tests) in sets {
        let features = features.join(",");
        let of = |task: &str, package: &str, more: &[&str]| {
            let arguments = [task, "--release", "--quiet", "--package", package, "--no-default-features"];
            let mut command = cargo(root, &[&arguments[..], &["--features", &features], more].concat());
            command.env("CARGO_TARGET_DIR", &target).env("RUSTFLAGS", "-D warnings");
            command
        };
        let mut well = of("check", "engine", &[]).status()?.success();
        if !tests.is_empty() {
            let tests: Vec<&str> = tests.iter().flat_map(|test| ["--test", test]).collect();
            well &= of("test", "kernel_host", &tests).status()?.success();
        }
        println!("options: {features:?}: {}", if well { "ok" } else { "FAILED" });
        fine &= well;
    }
    Ok(fine)
}

/// What can be tried of the rest where an option is left out; nothing for those that the simulated machine does not have.
fn tests(left_out: &str) -> &'static [&'static str] {
    match left_out {
        "sysvipc" => &["options", "mqueue"],
        "posix-mqueue" => &["options", "storm", "shm"],
        "sysctl" => &["options"],
        _ => &[],
    }
}
