//! `ipcspace ls`: the objects of a namespace, with the look and the letters of lsipc(1).
//!
//! Otherwise than with lsipc: an unknown identifier is exit code 1, `-q -g` has the columns of the summary only, and numeric
//! permissions work for queues too.

mod columns;
mod table;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use broker::sysv::{Objects, Semaphore, Set};
use clap::{ArgGroup, Args};
use jiff::Zoned;

use crate::source::{self, Place, Unreachable};
use columns::{Column, Manner, Object, TimeFormat};
use table::{Format, Style, Table};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("kind").args(["shmems", "queues", "semaphores"]))]
#[command(group = ArgGroup::new("format").args(["json", "export", "list", "newline", "raw"]))]
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
    /// Usage and limits of the namespace (may be used with -m, -q and -s); the default
    #[arg(short, long, conflicts_with_all = ["id", "creator", "time"])]
    global: bool,
    /// Details of the resource of this identifier
    #[arg(short, long, value_name = "ID", requires = "kind")]
    id: Option<i32>,
    #[command(flatten)]
    place: Place,
    /// Don't print headings
    #[arg(long)]
    noheadings: bool,
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
    /// Display in an export-able output format
    #[arg(short, long)]
    export: bool,
    /// Use the JSON output format
    #[arg(short = 'J', long)]
    json: bool,
    /// Display each piece of information on a new line
    #[arg(short, long)]
    newline: bool,
    /// Force list output format (for example with --id)
    #[arg(short, long)]
    list: bool,
    /// The columns to output; +COLUMN adds to the default
    #[arg(short, long, value_name = "COLUMNS")]
    output: Option<String>,
    /// Print numeric permissions (PERMS column)
    #[arg(short = 'P', long)]
    numeric_perms: bool,
    /// Display in raw mode
    #[arg(short, long)]
    raw: bool,
    /// Show times of attaching, detaching, sending, receiving, operation and change
    #[arg(short, long, requires = "kind")]
    time: bool,
    /// Use column names to be usable as shell variable identifiers
    #[arg(short = 'y', long)]
    shell: bool,
}

fn help_of_columns() -> String {
    fn lines<T>(title: &str, columns: &[Column<T>]) -> String {
        let line = |column: &Column<T>| format!("  {:>12}  {}\n", column.name, column.help);
        format!("\n{title}:\n{}", columns.iter().map(line).collect::<String>())
    }
    let (segments, queues, sets) = (columns::of_segments(), columns::of_queues(), columns::of_sets());
    let generic = queues.iter().position(|column| column.name == "USEDBYTES").unwrap_or(0);
    [
        lines("Generic columns", &queues[..generic]),
        lines("Shared-memory columns (--shmems)", &segments[generic..]),
        lines("Message-queue columns (--queues)", &queues[generic..]),
        lines("Semaphore columns (--semaphores)", &sets[generic..]),
        lines("Summary columns (--global)", &columns::of_limits()),
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
    #[error("unknown column: {0}; 'ipcspace ls --help' lists them")]
    UnknownColumn(String),
    #[error("there is no {kind} with the identifier {id}")]
    UnknownId { kind: &'static str, id: i32 },
    #[error("cannot read the objects: {0}")]
    System(#[from] io::Error),
}

pub(crate) fn ls(ls: &Ls) -> ExitCode {
    let written = ls.text().and_then(|text| match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ipcspace: {failure}");
            match failure {
                Failure::UnknownColumn(_) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
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
        } else {
            self.summary(objects)
        }
    }

    fn summary(&self, objects: Objects) -> Result<String, Failure> {
        let (limits, all) = (objects.limits()?, !self.shmems && !self.queues && !self.semaphores);
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
        let columns = columns::of_limits();
        let default: Vec<&str> = columns.iter().map(|column| column.name).collect();
        let chosen = self.chosen(&columns, &default)?;
        Ok(self.table("ipclimits", &chosen, &rows))
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
            return Ok(self.table(name, &self.chosen(&all, &names)?, &objects));
        }
        // Without a choice, everything there is to say of it.
        let is_free = !self.creator && !self.time && self.output.is_none();
        let names = if is_free { all.iter().map(|column| column.name).collect() } else { names };
        let chosen = self.chosen(&all, &names)?;
        let manner = self.manner();
        let property = |column: &&Column<T>| (column.label, (column.value)(&objects[0], &manner));
        Ok(table::list(&chosen.iter().map(property).collect::<Vec<_>>()))
    }

    /// Whether one object is described line by line.
    fn is_list(&self) -> bool {
        self.id.is_some() && !(self.json || self.export || self.list || self.newline || self.raw)
    }

    fn chosen<'a, T>(&self, all: &'a [Column<T>], default: &[&str]) -> Result<Vec<&'a Column<T>>, Failure> {
        let find = |name: &str| {
            let mut columns = all.iter();
            let found = columns.find(|column| column.name.eq_ignore_ascii_case(name.trim()));
            found.ok_or_else(|| Failure::UnknownColumn(name.trim().to_owned()))
        };
        let (added, named) = match self.output.as_deref() {
            None => (true, None),
            Some(names) => (names.starts_with('+'), Some(names.trim_start_matches('+'))),
        };
        let default = default.iter().copied().filter(|_| added);
        default.chain(named.into_iter().flat_map(|names| names.split(','))).map(find).collect()
    }

    fn table<T>(&self, name: &'static str, columns: &[&Column<T>], objects: &[T]) -> String {
        let manner = self.manner();
        let row = |object: &T| columns.iter().map(|column| (column.value)(object, &manner)).collect();
        let table = Table {
            name,
            columns: columns.iter().map(|column| (column.name, column.align)).collect(),
            rows: objects.iter().map(row).collect(),
        };
        table.render(self.format(), Style { no_headings: self.noheadings, shell: self.shell })
    }

    fn format(&self) -> Format {
        match () {
            () if self.json => Format::Json,
            () if self.export => Format::Export,
            () if self.newline => Format::Newline,
            () if self.raw => Format::Raw,
            () => Format::Columns,
        }
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
        let command = columns::command(pid).unwrap_or_default();
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
