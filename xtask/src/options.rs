//! `cargo xtask options [--quick]`: the engine with each of its build options left out, and with none of them, through to the doors.
//!
//! Each builds without a warning. On the simulated machine, and with a command that is built so, by its library and by its trap, what is out answers ENOSYS, and what is in
//! still passes. `--quick` tries the command without the largest of them and with none, which is what the gate has the time for.

use std::error::Error;
use std::path::Path;

use crate::{cargo, target_directory};

/// The features of the engine, as crates/engine/Cargo.toml explains them.
const OPTIONS: [&str; 5] = ["sysvipc", "posix-mqueue", "ipc-ns", "sysctl", "compat"];
/// The crates that have them, up to those that programs use. The preload library has a profile of its own.
const CRATES: [&str; 4] = ["engine", "cli", "ipcspace", "libipcspace"];
/// The library is to be built soon, not to be fast.
const SOON: [(&str, &str); 3] = [
    ("CARGO_PROFILE_PRELOAD_OPT_LEVEL", "1"),
    ("CARGO_PROFILE_PRELOAD_LTO", "off"),
    ("CARGO_PROFILE_PRELOAD_CODEGEN_UNITS", "16"),
];

/// What is left out, and how that is tried.
struct Without {
    options: &'static [&'static str],
    /// Tests of the simulated machine; none for what it does not have.
    tests: &'static [&'static str],
    /// Doors of the command.
    doors: &'static [&'static str],
    /// Parts of the names of conformance's cases: those of what is out, and some of the rest.
    cases: &'static [&'static str],
    is_quick: bool,
}

const ALL: [Without; 6] = [
    Without {
        options: &["sysvipc"],
        tests: &["options", "mqueue"],
        doors: &["preload", "trap", "trap32"],
        cases: &["options/", "mqueue/", "mqd/"],
        is_quick: true,
    },
    Without {
        options: &["posix-mqueue"],
        tests: &["options", "storm", "shm"],
        doors: &["preload", "trap", "trap32"],
        cases: &["options/", "msgrcv/", "semop/", "shmat/"],
        is_quick: false,
    },
    Without {
        options: &["ipc-ns"],
        tests: &[],
        doors: &["preload"],
        cases: &["options/", "msgget/", "mqd/"],
        is_quick: false,
    },
    Without {
        options: &["sysctl"],
        tests: &["options"],
        doors: &["preload", "trap"],
        cases: &["options/", "msgctl/", "semop/", "mqd/"],
        is_quick: false,
    },
    Without {
        options: &["compat"],
        tests: &[],
        doors: &["preload", "trap", "trap32"],
        cases: &["options/", "msgget/", "mqd/"],
        is_quick: false,
    },
    Without {
        options: &OPTIONS,
        tests: &["options"],
        doors: &["preload", "trap", "trap32"],
        cases: &["options/"],
        is_quick: true,
    },
];

/// Tries all of it; whether all is well.
pub(crate) fn run(root: &Path, quick: bool) -> Result<bool, Box<dyn Error>> {
    let target = target_directory(root);
    let mut fine = true;
    for Without { options, tests, doors, cases, is_quick } in ALL {
        let kept: Vec<&str> = OPTIONS.into_iter().filter(|option| !options.contains(option)).collect();
        let kept = kept.join(",");
        let of = |task: &[&str], packages: &[&str]| {
            let mut command = cargo(root, task);
            command.args(packages.iter().flat_map(|package| ["--package", package]));
            command.args(["--quiet", "--no-default-features", "--features", &kept]).envs(SOON);
            command
        };
        // Flags of rustc's would have what we depend on built anew; those of clippy's are for our crates alone.
        let strict = ["--", "-D", "warnings"];
        // That library is looked at by itself, not as a part of the command.
        let mut check = of(&["clippy"], &CRATES);
        let mut well = check.args(strict).env("IPCSPACE_PRELOAD_SO", "/dev/null").status()?.success();
        let mut check = of(&["clippy", "--profile", "preload"], &["preload"]);
        well &= check.args(strict).status()?.success();
        if !tests.is_empty() {
            let mut test = of(&["test", "--release"], &["kernel_host"]);
            well &= test.args(tests.iter().flat_map(|test| ["--test", test])).status()?.success();
        }
        if is_quick || !quick {
            well &= of(&["build"], &["cli"]).status()?.success();
            let mut conform = cargo(root, &["run", "--release", "--quiet", "--package", "conformance", "--"]);
            conform.args(doors.iter().flat_map(|door| ["--door", door]));
            conform.args(["--without", &options.join(",")]).args(cases);
            well &= conform.env("IPCSPACE_BIN", target.join("debug/ipcspace")).status()?.success();
        }
        println!("options: without {}: {}", options.join(", "), if well { "ok" } else { "FAILED" });
        fine &= well;
    }
    Ok(fine)
}
