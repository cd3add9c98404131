//! `ipcspace`: System V IPC and POSIX message queues of your own.
//!
//! `ipcspace run -- CMD` runs a command, and all it starts, in a private namespace of message queues, semaphores and shared memory that
//! needs no privilege and leaves nothing behind.

#![forbid(unsafe_code)]

mod config;
mod doctor;
mod library;
mod ls;
mod mount;
mod ns;
mod output;
mod pages;
mod program;
mod rm;
mod run;
mod serve;
mod source;
mod sysctl;
mod table;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "ipcspace", version, arg_required_else_help = true, disable_help_subcommand = true)]
#[command(about = "System V message queues, semaphores and shared memory in namespaces of your own")]
#[command(after_help = "\
Examples:
  ipcspace run -- sh -c 'ipcmk -Q; ipcspace ls -q'
  ipcspace run --sysctl kernel.msgmnb=1048576 -- ./server
  ipcspace run -n shared -- ./client
  ipcspace serve kept & ipcspace exec kept -- ./client; ipcspace rm -N kept")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command, and all it starts, in a namespace of its own
    ///
    /// The exit code is the command's. 125: ipcspace itself failed; 126: the command can't be executed; 127: it was not found.
    /// The namespace lives until its last process has ended.
    Run(run::Run),
    /// Make a namespace with a name, and keep it until this ends or 'rm --namespace' ends it
    ///
    /// SIGTERM, SIGINT and SIGHUP end it, and all that is in it. A supervisor is told by sd_notify(3) when it can be joined; it may have made
    /// the sockets: two of type SOCK_SEQPACKET, 'socket' and 'socket.given' in 'ipcspace/listening/NAME' below $XDG_RUNTIME_DIR, or below /run for root.
    Serve(serve::Serve),
    /// Run a command, and all it starts, in a namespace that is there
    ///
    /// Its exit code is as that of run.
    Exec(run::Exec),
    /// Show and set limits of a namespace, as sysctl does
    Sysctl(sysctl::Sysctl),
    /// The broker of a namespace that was made within so many others
    #[command(name = broker::offshoot::COMMAND, hide = true)]
    Offshoot { depth: u32, root: Option<u32> },
    /// The process that keeps what a served namespace has; the path is where it is asked
    #[command(name = broker::store::COMMAND, hide = true)]
    Store { _path: std::path::PathBuf },
    /// Show your namespaces, as lsns does
    Ns(ns::Ns),
    /// Show the objects of a namespace, as lsipc does
    Ls(ls::Ls),
    /// Remove objects of a namespace, as ipcrm does, or all of one that is served
    Rm(rm::Rm),
    /// Show a namespace as files: its POSIX queues, /proc/sysvipc, and its limits
    ///
    /// In the directory there are then 'mqueue', as 'mount -t mqueue' has it, 'proc/sysvipc' and 'proc/sys'. They are there until 'ipcspace umount', and keep
    /// no namespace alive: when it has ended, its files give errors.
    #[command(override_usage = "ipcspace mount [NAME] DIR")]
    Mount(mount::Mount),
    /// End what mount has begun
    Umount(mount::Umount),
    /// Say what works on this machine, and why not
    ///
    /// The exit code is 0 if `run` works, also where something else does not.
    Doctor(doctor::Doctor),
    /// Write the manual pages and the shells' completions
    Pages(pages::Pages),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli.command {
        Command::Run(run) => run::run(run),
        Command::Serve(serve) => serve::serve(&serve),
        Command::Exec(exec) => run::exec(exec),
        Command::Sysctl(sysctl) => sysctl::sysctl(&sysctl),
        Command::Offshoot { depth, root } => silently(broker::offshoot::serve(depth, root)),
        Command::Store { .. } => silently(broker::store::keep()),
        Command::Ns(ns) => ns::ns(&ns),
        Command::Ls(ls) => ls::ls(&ls),
        Command::Rm(rm) => rm::rm(&rm),
        Command::Mount(mount) => mount::mount(&mount),
        Command::Umount(umount) => mount::umount(&umount),
        Command::Doctor(doctor) => doctor::doctor(&doctor),
        Command::Pages(pages) => pages::pages(&pages),
    }
}

/// There is nobody to tell: whoever asked for it sees that it has not come to be.
fn silently(done: Result<(), broker::service::Error>) -> ExitCode {
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints help, version or what is wrong with the arguments.
fn usage(error: &clap::Error) -> ExitCode {
    // Nowhere is left to say that this failed.
    let _ = error.print();
    let is_run = std::env::args_os().nth(1).is_some_and(|command| command == "run" || command == "exec");
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ if is_run => ExitCode::from(run::FAILED),
        _ => ExitCode::from(2),
    }
}
