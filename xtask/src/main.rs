//! The project's chores.
//!
//! - `cargo xtask tidy`: what no compiler checks: arrows of dependency, places of `unsafe`, file heads, paths.
//! - `cargo xtask test`: every test of the repository, in order; ends with `N passed, M failed, K skipped` steps.
//! - `cargo xtask dist`: the packages.
//! - `cargo xtask library PREFIX`: libipcspace, installed.
//! - `cargo xtask options [--quick]`: the engine with each of its build options left out, through to the doors.
//! - `cargo xtask public`: the public items of the crate `ipcspace` against the list of them, and whether each type has an example.
//!
//! Missing: the long runs of the crash and differential tests, and the benchmark, which are started by hand.
#![forbid(unsafe_code)]

mod dist;
mod library;
mod options;
mod public;
mod steps;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;

/// The project's chores.
#[derive(Parser)]
enum Chore {
    /// Check what no compiler checks
    Tidy,
    /// Build the command and run every test with it
    Test,
    /// Make the packages: a tarball, and a .deb
    Dist,
    /// Build the engine with each of its options left out, through to the doors, and try the rest
    Options {
        /// Build the command without the largest of them, and with none, only
        #[arg(long)]
        quick: bool,
    },
    /// Compare the public items of the crate ipcspace with their list
    Public {
        /// Write the list anew, after a change that is meant
        #[arg(long)]
        write: bool,
    },
    /// Build libipcspace and install it below a prefix, and below $DESTDIR
    Library {
        /// Where it will be
        prefix: String,
    },
}

fn main() -> ExitCode {
    let done = match Chore::parse() {
        Chore::Tidy => tidy::run(&root()),
        Chore::Test => steps::run(&root()),
        Chore::Dist => dist::run(&root()),
        Chore::Options { quick } => options::run(&root(), quick),
        Chore::Public { write } => public::run(&root(), write),
        Chore::Library { prefix } => library::run(&root(), &prefix),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::from(2)
        }
    }
}

/// The repository.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// The Cargo that runs us.
pub(crate) fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).args(arguments);
    command
}

/// Where Cargo puts what it builds.
pub(crate) fn target_directory(root: &Path) -> PathBuf {
    root.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}
