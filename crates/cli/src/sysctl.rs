//! `ipcspace sysctl`: the limits of a namespace, with the syntax of sysctl(8) and its messages.
//!
//! Otherwise than with sysctl(8): `-N` names a namespace (`--names` prints names only), a file is always named, and a
//! line of a file that begins with `-` fails in silence.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use abi::Errno;
use broker::sysv::Objects;
use clap::Args;
use engine::ipc_sysctl;
use engine::proc::Line;
use glob::{MatchOptions, Pattern};
use regex_lite::Regex;

use crate::output;
use crate::source::{self, Place, Unreachable};

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
#[expect(clippy::struct_excessive_bools, reason = "options")]
pub(crate) struct Sysctl {
    /// Display all variables
    #[arg(short, long, visible_short_aliases = ['A', 'X'])]
    all: bool,
    #[command(flatten)]
    place: Place,
    /// Print values without a new line
    #[arg(short, long)]
    binary: bool,
    /// Ignore errors about unknown variables
    #[arg(short = 'e', long)]
    ignore: bool,
    /// Print only names
    #[arg(long, conflicts_with = "values")]
    names: bool,
    /// Print only values
    #[arg(short = 'n', long)]
    values: bool,
    /// Read settings from a file ('-': standard input)
    #[arg(short = 'p', long, visible_short_alias = 'f', value_name = "FILE")]
    load: Vec<PathBuf>,
    /// Do not echo variables that are set
    #[arg(short, long)]
    quiet: bool,
    /// Every VARIABLE has a value
    #[arg(short, long)]
    write: bool,
    /// Only the variables whose names match this regular expression
    #[arg(short = 'r', long, value_name = "EXPRESSION")]
    pattern: Option<Regex>,
    /// Variables to show, or to set
    #[arg(value_name = "VARIABLE[=VALUE]")]
    variables: Vec<String>,
}

pub(crate) fn sysctl(sysctl: &Sysctl) -> ExitCode {
    if !sysctl.all && sysctl.load.is_empty() && sysctl.variables.is_empty() {
        eprintln!("ipcspace: no variables specified\nTry `ipcspace sysctl --help' for more information.");
        return ExitCode::FAILURE;
    }
    let reached = source::enter(&sysctl.place).and_then(|objects| match objects {
        Objects::OfNamespace => Ok(()),
        Objects::OfKernel => Err(Unreachable::NoNamespace),
    });
    if let Err(error) = reached {
        eprintln!("ipcspace: {error}");
        return ExitCode::FAILURE;
    }
    let Done { text, good } = sysctl.run();
    let printed = output::print(&text);
    if let Err(error) = &printed {
        eprintln!("ipcspace: {error}");
    }
    if good && printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Where a setting comes from.
struct Origin<'a> {
    file: &'a str,
    line: usize,
}

/// What was to be printed, and whether all was good.
struct Done {
    text: String,
    good: bool,
}

impl Done {
    fn complain(&mut self, what: &str) {
        eprintln!("ipcspace: {what}");
        self.good = false;
    }
}

impl Sysctl {
    fn run(&self) -> Done {
        let mut done = Done { text: String::new(), good: true };
        if self.all {
            self.show_below("", &mut done);
        }
        for file in &self.load {
            self.load(file, &mut done);
        }
        for (at, variable) in self.variables.iter().enumerate() {
            if self.write || variable.contains('=') {
                self.set_line(variable, &Origin { file: "command line", line: at }, &mut done);
            } else {
                self.show(variable.trim(), &mut done);
            }
        }
        done
    }

    fn load(&self, file: &Path, done: &mut Done) {
        let read = if file == Path::new("-") {
            let mut bytes = Vec::new();
            io::stdin().read_to_end(&mut bytes).map(|_| bytes)
        } else {
            fs::read(file)
        };
        let name = file.display().to_string();
        match read {
            // A comment may be of any encoding.
            Ok(bytes) => self.set_lines(&String::from_utf8_lossy(&bytes), &name, done),
            Err(error) => done.complain(&format!("cannot open \"{name}\": {}", error_text(&error))),
        }
    }

    /// Sets what the lines of a file say.
    fn set_lines(&self, text: &str, file: &str, done: &mut Done) {
        let lines = (1..).zip(text.lines().map(str::trim));
        let lines: Vec<(usize, &str)> =
            lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(['#', ';'])).collect();
        // What a line names is its own: patterns leave that alone, and `-NAME` is there for this only.
        let named = |line: &str| {
            let line = line.strip_prefix('-').unwrap_or(line);
            dotted(line.split_once('=').map_or(line, |(key, _)| key).trim())
        };
        let named: Vec<String> = lines.iter().map(|(_, line)| named(line)).collect();
        for (at, line) in lines {
            let origin = Origin { file, line: at };
            match line.split_once('=') {
                None if line.starts_with('-') => {}
                Some((key, value)) if is_pattern(key) => {
                    let silent = if key.starts_with('-') { "-" } else { "" };
                    let meant = matching(key.trim_start_matches('-').trim()).into_iter();
                    for sysctl in meant.filter(|sysctl| !named.iter().any(|name| name == sysctl)) {
                        self.set_line(&format!("{silent}{sysctl}={value}"), &origin, done);
                    }
                }
                _ => self.set_line(line, &origin, done),
            }
        }
    }

    /// Sets what `KEY = VALUE` says.
    fn set_line(&self, line: &str, origin: &Origin<'_>, done: &mut Done) {
        let (silent, line) = match line.strip_prefix('-') {
            Some(line) => (true, line),
            None => (false, line),
        };
        let Some((key, value)) = line.split_once('=') else {
            let Origin { file, line } = origin;
            return done.complain(&format!("{file}({line}): invalid syntax, continuing..."));
        };
        let (key, value) = (dotted(key.trim()), value.trim());
        if !self.is_wanted(&key) {
            return;
        }
        match self.set(&key, value) {
            Ok(()) if self.quiet => {}
            Ok(()) => self.print(&key, value, done),
            Err(_) if silent => {}
            Err(Some(why)) => done.complain(&why),
            // To be ignored.
            Err(None) => {}
        }
    }

    /// What to complain of, if it is not to be ignored.
    fn set(&self, key: &str, value: &str) -> Result<(), Option<String>> {
        let sysctl = self.find(key)?;
        // As it arrives from an editor or from echo(1).
        let text = format!("{value}\n");
        let place = (text.as_ptr().addr(), text.len());
        match client::proc::write(sysctl, || Ok(text.as_bytes()), Some(place), 0) {
            Ok(_) => Ok(()),
            Err(Errno::EPERM | Errno::EACCES) => Err(Some(format!("permission denied on key \"{key}\""))),
            Err(errno) => Err(Some(format!("setting key \"{key}\": {}", errno_text(errno)))),
        }
    }

    fn is_wanted(&self, key: &str) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(key))
    }

    fn find(&self, key: &str) -> Result<&'static ipc_sysctl::Sysctl, Option<String>> {
        ipc_sysctl::Sysctl::all().find(|sysctl| sysctl.name() == key).ok_or_else(|| {
            let path = key.replace('.', "/");
            let errno = errno_text(Errno::ENOENT);
            (!self.ignore).then(|| format!("cannot stat /proc/sys/{path}: {errno}"))
        })
    }

    fn show(&self, key: &str, done: &mut Done) {
        let key = dotted(key);
        let below = format!("{key}.");
        if ipc_sysctl::Sysctl::all().any(|sysctl| sysctl.name().starts_with(&below)) {
            return self.show_below(&below, done);
        }
        match self.find(&key) {
            Ok(sysctl) if !self.is_wanted(sysctl.name()) => {}
            Ok(sysctl) => self.show_one(sysctl, done),
            Err(Some(why)) => done.complain(&why),
            Err(None) => {}
        }
    }

    /// Shows all whose names begin so, by name.
    fn show_below(&self, prefix: &str, done: &mut Done) {
        let mut all: Vec<_> =
            ipc_sysctl::Sysctl::all().filter(|sysctl| sysctl.name().starts_with(prefix)).collect();
        all.retain(|sysctl| self.is_wanted(sysctl.name()));
        all.sort_by_key(|sysctl| sysctl.name());
        all.into_iter().for_each(|sysctl| self.show_one(sysctl, done));
    }

    fn show_one(&self, sysctl: &ipc_sysctl::Sysctl, done: &mut Done) {
        let mut line = Line::default();
        match client::proc::show(sysctl, &mut line) {
            Ok(()) => self.print(sysctl.name(), String::from_utf8_lossy(line.text()).trim_end(), done),
            Err(errno) => {
                done.complain(&format!("reading key \"{}\": {}", sysctl.name(), errno_text(errno)));
            }
        }
    }

    fn print(&self, key: &str, value: &str, done: &mut Done) {
        let line = match () {
            () if self.names => format!("{key}\n"),
            () if self.binary => value.to_owned(),
            () if self.values => format!("{value}\n"),
            () => format!("{key} = {value}\n"),
        };
        done.text += &line;
    }
}

fn is_pattern(key: &str) -> bool {
    key.contains(['*', '?', '['])
}

/// The names that a pattern means, which is one of paths: no part of it goes beyond a dot.
fn matching(pattern: &str) -> Vec<&'static str> {
    let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
    let Ok(pattern) = Pattern::new(&dotted(pattern).replace('.', "/")) else { return Vec::new() };
    let names = ipc_sysctl::Sysctl::all().map(ipc_sysctl::Sysctl::name);
    let mut names: Vec<_> =
        names.filter(|name| pattern.matches_with(&name.replace('.', "/"), options)).collect();
    names.sort_unstable();
    names
}

/// The name with dots. A slash that comes before any dot says that slashes separate, and dots are part of the names.
fn dotted(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(at) if key.as_bytes()[at] == b'/' => key.replace('/', "."),
        _ => key.to_owned(),
    }
}

fn errno_text(errno: Errno) -> String {
    error_text(&io::Error::from_raw_os_error(errno.raw()))
}

/// As strerror(3) has it.
fn error_text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error ").next().unwrap_or_default().to_owned()
}
