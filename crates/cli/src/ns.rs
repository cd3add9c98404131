//! `ipcspace ns`: the namespaces of this user, with the look of lsns(8).

use std::process::ExitCode;

use broker::service::{Error, Service, Status};
use clap::Args;
use jiff::Zoned;

use crate::output::{self, Column, Manner, Output, TimeFormat, UnknownColumn, column, help_of, owner};
use crate::table::Align::{Left, Right};

#[derive(Debug, Args)]
#[command(after_help = help_of("Columns", &columns()).trim_start().to_owned())]
pub(crate) struct Ns {
    #[command(flatten)]
    output: Output,
}

const DEFAULT: [&str; 6] = ["NAME", "OBJECTS", "NPROCS", "PID", "OWNER", "COMMAND"];

fn columns() -> Vec<Column<Status>> {
    vec![
        column("NAME", "Name", Left, "Name, if it has one", |s: &Status, _| s.name.clone()),
        column("OBJECTS", "Objects", Right, "Number of queues, sets and segments", |s, _| {
            Some((s.queues + s.sets + s.segments).to_string())
        }),
        column("QUEUES", "Message queues", Right, "Number of message queues", |s, _| {
            Some(s.queues.to_string())
        }),
        column("SEMAPHORES", "Semaphore sets", Right, "Number of semaphore sets", |s, _| {
            Some(s.sets.to_string())
        }),
        column("SHMEMS", "Segments", Right, "Number of shared memory segments", |s, _| {
            Some(s.segments.to_string())
        }),
        column("NPROCS", "Processes", Right, "Number of processes that have used it", |s, _| {
            Some(s.processes.to_string())
        }),
        column("PID", "Broker", Right, "PID of its broker", |s, _| Some(s.pid.to_string())),
        column("OWNER", "Owner", Left, "Username or UID of who is root in it", |s, _| Some(owner(s.owner))),
        column("UID", "Owner's UID", Right, "UID of who is root in it", |s, _| Some(s.owner.to_string())),
        column("SERVED", "Served", Left, "Whether it lives until it is removed", |s, _| {
            Some(if s.is_served { "yes" } else { "no" }.into())
        }),
        column("COMMAND", "Command", Left, "Command line of its broker", |s, _| output::command(s.pid)),
        column("SOCKET", "Socket", Left, "Where its broker is asked", |s, _| {
            Some(s.socket.display().to_string())
        }),
    ]
}

/// Why nothing is listed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Namespaces(#[from] Error),
    #[error("{0}; 'ipcspace ns --help' lists them")]
    UnknownColumn(#[from] UnknownColumn),
    #[error("cannot write: {0}")]
    System(#[from] std::io::Error),
}

pub(crate) fn ns(ns: &Ns) -> ExitCode {
    let (text, wrong) =
        ns.text().map_or_else(|failure| (Err(failure), Vec::new()), |(text, wrong)| (Ok(text), wrong));
    let shown = output::show(text, |failure| matches!(failure, Failure::UnknownColumn(_)));
    for error in &wrong {
        eprintln!("ipcspace: {error}");
    }
    if wrong.is_empty() { shown } else { ExitCode::FAILURE }
}

impl Ns {
    /// The table, and what is wrong with places that are not in it.
    fn text(&self) -> Result<(String, Vec<Error>), Failure> {
        let columns = columns();
        let chosen = self.output.chosen(&columns, &DEFAULT)?;
        let manner =
            Manner { bytes: false, numeric_perms: false, time: TimeFormat::Short, now: Zoned::now() };
        let (list, wrong) = Service::list()?;
        Ok((self.output.table("namespaces", &chosen, &list, &manner), wrong))
    }
}
