//! `ipcspace ls`: the objects of a namespace, with the look and the letters of lsipc(1).
//!
//! Otherwise than with lsipc: an unknown identifier is exit code 1, `-q -g` has the columns of the summary only, and numeric
//! permissions work for queues too. `-Q` and its limits in the summary are for namespaces of ours: the kernel has no call that lists POSIX queues.

mod columns;

use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use broker::posix;
use broker::sysv::{Objects, Semaphore, Set};
use clap::{ArgGroup, Args};
use jiff::Zoned;

use crate::output::{self, Column, Manner, Output, TimeFormat, UnknownColumn, help_of};
use crate::source::{self, Place, Unreachable};
use crate::table::{self, Format, Style, Table};
use columns::Object;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("kind").args(["shmems", "queues", "semaphores", "posix_mqueues"]))]
#[command(after_help = help_of_columns())]
pub(crate) struct Ls {
    /// Shared memory segments
    #[arg(short = 'm', long)]
    shmems: bool,
    /// Message queues
    #[arg(short, long)]
    queues: bool,
    /// Semaphores
    #[arg(short, long)]
    semaphores: bool,
    /// POSIX message queues
    #[arg(short = 'Q', long, conflicts_with_all = ["id", "creator"])]
    posix_mqueues: bool,
    /// Usage and limits of the namespace (may be used with -m, -q, -s and -Q); the default
    #[arg(short, long, conflicts_with_all = ["id", "creator", "time"])]
    global: bool,
    /// Details of the resource of this identifier
    #[arg(short, long, value_name = "ID", requires = "kind")]
    id: Option<i32>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
    /// Don't truncate output (it never is)
    #[arg(long)]
    notruncate: bool,
    /// How dates are displayed
    #[arg(long, value_name = "TYPE")]
    time_format: Option<TimeFormat>,
    /// Print sizes in bytes rather than in human readable format
    #[arg(short, long)]
    bytes: bool,
    /// Show creator and owner
    #[arg(short, long, requires = "kind")]
    creator: bool,
    /// Force list output format (for example with --id)
    #[arg(short, long, group = "format")]
    list: bool,
    /// Print numeric permissions (PERMS column)
    #[arg(short = 'P', long)]
    numeric_perms: bool,
    /// Show times of attaching, detaching, sending, receiving, operation and change
    #[arg(short, long, requires = "kind")]
    time: bool,
}

fn help_of_columns() -> String {
    let (segments, queues, sets) = (columns::of_segments(), columns::of_queues(), columns::of_sets());
    let generic = queues.iter().position(|column| column.name == "USEDBYTES").unwrap_or(0);
    [
        help_of("Generic columns", &queues[..generic]),
        help_of("Shared-memory columns (--shmems)", &segments[generic..]),
        help_of("Message-queue columns (--queues)", &queues[generic..]),
        help_of("Semaphore columns (--semaphores)", &sets[generic..]),
        help_of("POSIX message-queue columns (--posix-mqueues)", &columns::of_posix_queues()),
        help_of("Summary columns (--global)", &columns::of_limits()),
    ]
    .concat()
    .trim_start()
    .to_owned()
}

/// Why nothing is listed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error("{0}; 'ipcspace ls --help' lists them")]
    UnknownColumn(#[from] UnknownColumn),
    #[error("there is no {kind} with the identifier {id}")]
    UnknownId { kind: &'static str, id: i32 },
    #[error("the kernel lists its POSIX queues by a mounted mqueue file system only")]
    NotListed,
    #[error("cannot read the objects: {0}")]
    System(#[from] io::Error),
}

pub(crate) fn ls(ls: &Ls) -> ExitCode {
    output::show(ls.text(), |failure| matches!(failure, Failure::UnknownColumn(_)))
}

impl Ls {
    fn text(&self) -> Result<String, Failure> {
        let objects = source::enter(&self.place)?;
        if self.shmems && !self.global {
            self.objects(
                objects.segments()?,
                "shared memory segment",
                "sharedmemory",
                columns::of_segments(),
                SEGMENTS,
            )
        } else if self.queues && !self.global {
            self.objects(objects.queues()?, "message queue", "messages", columns::of_queues(), QUEUES)
        } else if self.semaphores && !self.global {
            let sets = objects.sets()?;
            let of_one = self.id.and_then(|id| sets.iter().find(|set| set.perm.id == id).copied());
            let mut text = self.objects(sets, "semaphore set", "semaphores", columns::of_sets(), SETS)?;
            if let Some(set) = of_one
                && self.is_list()
            {
                text += &elements(objects, &set);
            }
            Ok(text)
        } else if self.posix_mqueues && !self.global {
            if objects == Objects::OfKernel {
                return Err(Failure::NotListed);
            }
            let columns = columns::of_posix_queues();
            let times = if self.time { POSIX_QUEUES.times } else { &[] };
            let names = [POSIX_QUEUES.always, times, POSIX_QUEUES.last].concat();
            let chosen = self.output.chosen(&columns, &names)?;
            Ok(self.output.table("posixmqueues", &chosen, &posix::queues()?, &self.manner()))
        } else {
            self.summary(objects)
        }
    }

    fn summary(&self, objects: Objects) -> Result<String, Failure> {
        let all = !self.shmems && !self.queues && !self.semaphores && !self.posix_mqueues;
        let limits = objects.limits()?;
        let mut rows = Vec::new();
        if self.queues || all {
            rows.extend(columns::queue_limits(&limits));
        }
        if self.shmems || all {
            rows.extend(columns::segment_limits(&limits));
        }
        if self.semaphores || all {
            rows.extend(columns::semaphore_limits(&limits));
        }
        if (self.posix_mqueues || all) && objects == Objects::OfNamespace {
            match posix::limits() {
                Ok(limits) => rows.extend(columns::posix_queue_limits(&limits)),
                // The others can be had, of another user's namespace too.
                Err(error) if all && error.kind() == io::ErrorKind::PermissionDenied => {}
                Err(error) => return Err(error.into()),
            }
        }
        let columns = columns::of_limits();
        let default: Vec<&str> = columns.iter().map(|column| column.name).collect();
        let chosen = self.output.chosen(&columns, &default)?;
        Ok(self.output.table("ipclimits", &chosen, &rows, &self.manner()))
    }

    fn objects<T: Object>(
        &self,
        mut objects: Vec<T>,
        kind: &'static str,
        name: &'static str,
        all: Vec<Column<T>>,
        default: Default,
    ) -> Result<String, Failure> {
        if let Some(id) = self.id {
            objects.retain(|object| object.perm().id == id);
            if objects.is_empty() {
                return Err(Failure::UnknownId { kind, id });
            }
        }
        let mut names = default.always.to_vec();
        let times = if self.time { default.times } else { &[] };
        let creator: &[&str] = if self.creator { &["CUID", "CGID", "UID", "GID"] } else { &[] };
        if self.creator {
            names.extend(default.last.iter().chain(creator).chain(times));
        } else {
            names.extend(times.iter().chain(default.last));
        }
        if !self.is_list() {
            return Ok(self.output.table(name, &self.output.chosen(&all, &names)?, &objects, &self.manner()));
        }
        // Without a choice, everything there is to say of it.
        let is_free = !self.creator && !self.time && self.output.is_default();
        let names = if is_free { all.iter().map(|column| column.name).collect() } else { names };
        let chosen = self.output.chosen(&all, &names)?;
        let manner = self.manner();
        let property = |column: &&Column<T>| (column.label, (column.value)(&objects[0], &manner));
        Ok(table::list(&chosen.iter().map(property).collect::<Vec<_>>()))
    }

    /// Whether one object is described line by line.
    fn is_list(&self) -> bool {
        self.id.is_some() && !self.list && self.output.format() == Format::Columns
    }

    fn manner(&self) -> Manner {
        let default = if self.is_list() { TimeFormat::Full } else { TimeFormat::Short };
        Manner {
            bytes: self.bytes,
            numeric_perms: self.numeric_perms,
            time: self.time_format.unwrap_or(default),
            now: Zoned::now(),
        }
    }
}

/// The columns that are shown where none are chosen.
#[derive(Debug, Clone, Copy)]
struct Default {
    always: &'static [&'static str],
    times: &'static [&'static str],
    /// Behind the times, or before the creator.
    last: &'static [&'static str],
}

const SEGMENTS: Default = Default {
    always: &["KEY", "ID", "PERMS", "OWNER", "SIZE", "NATTCH", "STATUS", "CTIME", "CPID", "LPID"],
    times: &["ATTACH", "DETACH"],
    last: &["COMMAND"],
};
const QUEUES: Default = Default {
    always: &["KEY", "ID", "PERMS", "OWNER", "USEDBYTES", "MSGS", "LSPID", "LRPID"],
    times: &["SEND", "RECV", "CTIME"],
    last: &[],
};
const POSIX_QUEUES: Default = Default {
    always: &["NAME", "PERMS", "OWNER", "USEDBYTES", "MSGS", "MAXMSGS", "MSGSIZE"],
    times: &["ATIME", "MTIME"],
    last: &["NOTIFY", "NPID"],
};
const SETS: Default =
    Default { always: &["KEY", "ID", "PERMS", "OWNER", "NSEMS"], times: &["OTIME", "CTIME"], last: &[] };

/// The semaphores of one set, below its list.
fn elements(objects: Objects, set: &Set) -> String {
    use table::Align::{Left, Right};
    let semaphores = match objects.semaphores(set) {
        Ok(semaphores) => semaphores,
        // The list alone needs no right.
        Err(error) => return format!("Elements: cannot be read: {error}\n"),
    };
    let row = |(number, semaphore): (usize, &Semaphore)| {
        let Semaphore { value, ncount, zcount, pid } = *semaphore;
        let command = output::command(pid).unwrap_or_default();
        let numbers = [value, ncount, zcount, pid].map(|number| number.to_string());
        [number.to_string()].into_iter().chain(numbers).chain([command]).map(Some).collect()
    };
    let headings = ["SEMNUM", "VALUE", "NCOUNT", "ZCOUNT", "PID"].map(|name| (name, Right));
    let table = Table {
        name: "elements",
        columns: headings.into_iter().chain([("COMMAND", Left)]).collect(),
        rows: semaphores.iter().enumerate().map(row).collect(),
    };
    let mut text = String::new();
    // Writing to a string never fails.
    let _ = write!(text, "Elements:\n\n{}", table.render(Format::Columns, Style::default()));
    text
}
