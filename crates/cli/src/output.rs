//! What the commands that list something share: columns to choose from, and the ways to write them.

use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use jiff::Zoned;
use nix::unistd::{Uid, User};

use crate::table::{Align, Format, Style, Table};

/// How a list is written.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group = ArgGroup::new("format").args(["json", "export", "newline", "raw"]))]
pub(crate) struct Output {
    /// Don't print headings
    #[arg(long)]
    noheadings: bool,
    /// Display in an export-able output format
    #[arg(short, long)]
    export: bool,
    /// Use the JSON output format
    #[arg(short = 'J', long)]
    json: bool,
    /// Display each piece of information on a new line
    #[arg(short, long)]
    newline: bool,
    /// The columns to output; +COLUMN adds to the default
    #[arg(short, long, value_name = "COLUMNS")]
    output: Option<String>,
    /// Display in raw mode
    #[arg(short, long)]
    raw: bool,
    /// Use column names to be usable as shell variable identifiers
    #[arg(short = 'y', long)]
    shell: bool,
}

/// There is no column of that name.
#[derive(Debug, thiserror::Error)]
#[error("unknown column: {0}")]
pub(crate) struct UnknownColumn(String);

/// How values are written.
#[derive(Debug)]
pub(crate) struct Manner {
    pub(crate) bytes: bool,
    pub(crate) numeric_perms: bool,
    pub(crate) time: TimeFormat,
    pub(crate) now: Zoned,
}

/// How a time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TimeFormat {
    /// As little as tells it from now
    Short,
    /// As ctime(3)
    Full,
    /// ISO 8601
    Iso,
}

type Value<T> = fn(&T, &Manner) -> Option<String>;

/// One column of the objects of a kind.
#[derive(Debug)]
pub(crate) struct Column<T> {
    pub(crate) name: &'static str,
    /// In the list of one object.
    pub(crate) label: &'static str,
    pub(crate) align: Align,
    pub(crate) help: &'static str,
    pub(crate) value: Value<T>,
}

pub(crate) const fn column<T>(
    name: &'static str,
    label: &'static str,
    align: Align,
    help: &'static str,
    value: Value<T>,
) -> Column<T> {
    Column { name, label, align, help, value }
}

/// The columns under a title, as help.
pub(crate) fn help_of<T>(title: &str, columns: &[Column<T>]) -> String {
    let line = |column: &Column<T>| format!("  {:>12}  {}\n", column.name, column.help);
    format!("\n{title}:\n{}", columns.iter().map(line).collect::<String>())
}

/// The name of a user, or its number.
pub(crate) fn owner(uid: u32) -> String {
    user(uid).unwrap_or_else(|| uid.to_string())
}

/// Linked with all of glibc, whose look-up of names would load libraries of the machine that fit another glibc.
pub(crate) const IS_STATIC: bool = cfg!(all(target_env = "gnu", target_feature = "crt-static"));

/// Whose third field the number is.
pub(crate) fn name_in(file: &str, id: u32) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id.to_string()).then(|| name.to_owned())
    })
}

pub(crate) fn user(uid: u32) -> Option<String> {
    if IS_STATIC {
        return name_in("/etc/passwd", uid);
    }
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

/// The command line of a process, if it is there.
pub(crate) fn command(pid: i32) -> Option<String> {
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " "))
}

/// Writes what a command has to show.
pub(crate) fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes what a command has to show, or says why there is nothing. That a column is unknown is a mistake of usage.
pub(crate) fn show<E>(text: Result<String, E>, is_usage: impl Fn(&E) -> bool) -> ExitCode
where
    E: Display + From<io::Error>,
{
    match text.and_then(|text| Ok(print(&text)?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ipcspace: {failure}");
            if is_usage(&failure) { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

impl Output {
    /// Whether no columns were chosen.
    pub(crate) fn is_default(&self) -> bool {
        self.output.is_none()
    }

    pub(crate) fn chosen<'a, T>(
        &self,
        all: &'a [Column<T>],
        default: &[&str],
    ) -> Result<Vec<&'a Column<T>>, UnknownColumn> {
        let find = |name: &str| {
            let mut columns = all.iter();
            let found = columns.find(|column| column.name.eq_ignore_ascii_case(name.trim()));
            found.ok_or_else(|| UnknownColumn(name.trim().to_owned()))
        };
        let (added, named) = match self.output.as_deref() {
            None => (true, None),
            Some(names) => (names.starts_with('+'), Some(names.trim_start_matches('+'))),
        };
        let default = default.iter().copied().filter(|_| added);
        default.chain(named.into_iter().flat_map(|names| names.split(','))).map(find).collect()
    }

    pub(crate) fn table<T>(
        &self,
        name: &'static str,
        columns: &[&Column<T>],
        objects: &[T],
        manner: &Manner,
    ) -> String {
        let row = |object: &T| columns.iter().map(|column| (column.value)(object, manner)).collect();
        let table = Table {
            name,
            columns: columns.iter().map(|column| (column.name, column.align)).collect(),
            rows: objects.iter().map(row).collect(),
        };
        table.render(self.format(), Style { no_headings: self.noheadings, shell: self.shell })
    }

    pub(crate) fn format(&self) -> Format {
        match () {
            () if self.json => Format::Json,
            () if self.export => Format::Export,
            () if self.newline => Format::Newline,
            () if self.raw => Format::Raw,
            () => Format::Columns,
        }
    }
}
