//! `ipcspace.toml`: the limits that new namespaces have unless the command line says otherwise.
//!
//! ```toml
//! [sysctl]
//! kernel.msgmnb = 1048576
//! kernel.sem = [32000, 1024000000, 500, 32000]
//!
//! [namespace.shop.sysctl]
//! kernel.msgmni = 100
//! ```
//!
//! It is `ipcspace/ipcspace.toml` in the user's directory of configuration, or else `/etc/ipcspace.toml`. What it says that means nothing is an error, with its line.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use broker::service;
use engine::ipc_sysctl::Sysctl;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What the file says of a namespace.
#[derive(Debug, Default)]
pub(crate) struct Config {
    file: PathBuf,
    settings: Vec<Setting>,
}

#[derive(Debug, PartialEq, Eq)]
struct Setting {
    key: String,
    value: String,
    line: usize,
}

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("{p}: {1}", p = .0.display())]
    Unreadable(PathBuf, io::Error),
    #[error("{p}:{1}: {2}", p = .0.display())]
    Line(PathBuf, usize, String),
    #[error("{p}:{1}: {2}", p = .0.display())]
    Value(PathBuf, usize, service::Error),
}

impl Config {
    /// What is to be said of a new namespace, named or not.
    pub(crate) fn of(name: Option<&str>) -> Result<Config, Invalid> {
        for file in places() {
            match fs::read_to_string(&file) {
                Ok(text) => {
                    let settings = read(&text, name);
                    return match settings {
                        Ok(settings) => Ok(Config { file, settings }),
                        Err((line, what)) => Err(Invalid::Line(file, line, what)),
                    };
                }
                // Or it is in a directory of another user's, whose home the environment still names.
                Err(error) if error.kind() == io::ErrorKind::NotFound || fs::metadata(&file).is_err() => {}
                Err(error) => return Err(Invalid::Unreadable(file, error)),
            }
        }
        Ok(Config::default())
    }

    /// The limits to set, with those of the command line, which have the last word.
    pub(crate) fn with(&self, more: &[(String, String)]) -> Vec<(String, String)> {
        let own = self.settings.iter().map(|setting| (setting.key.clone(), setting.value.clone()));
        own.chain(more.iter().cloned()).collect()
    }

    /// Says where a value that was refused stands, if it is of the file.
    pub(crate) fn explain(self, error: service::Error) -> Result<Invalid, service::Error> {
        let service::Error::BadValue(key, value, _) = &error else { return Err(error) };
        let found = self.settings.iter().find(|setting| setting.key == *key && setting.value == *value);
        match found {
            Some(setting) => Ok(Invalid::Value(self.file, setting.line, error)),
            None => Err(error),
        }
    }
}

/// Where the file may be: the first one counts.
fn places() -> impl Iterator<Item = PathBuf> {
    let absolute = |variable| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    own.map(|own| own.join("ipcspace/ipcspace.toml"))
        .into_iter()
        .chain([Path::new("/etc/ipcspace.toml").to_owned()])
}

/// What is wrong, and in which line.
type Wrong = (usize, String);

fn read(text: &str, name: Option<&str>) -> Result<Vec<Setting>, Wrong> {
    let line_at = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    let table = DeTable::parse(text).map_err(|error| {
        let line = line_at(error.span().map_or(0, |span| span.start));
        (line, error.message().to_owned())
    })?;
    let reader = Reader { line_at: &line_at };
    let (mut general, mut own) = (Vec::new(), Vec::new());
    for (key, value) in table.get_ref() {
        match key.get_ref().as_ref() {
            "sysctl" => reader.sysctls("", value, &mut general)?,
            "namespace" => {
                for (named, value) in reader.table(value)? {
                    let is_it = Some(named.get_ref().as_ref()) == name;
                    let mut of_it = Vec::new();
                    for (key, value) in reader.table(value)? {
                        match key.get_ref().as_ref() {
                            "sysctl" => reader.sysctls("", value, &mut of_it)?,
                            _ => return Err(reader.unknown(key)),
                        }
                    }
                    if is_it {
                        own = of_it;
                    }
                }
            }
            _ => return Err(reader.unknown(key)),
        }
    }
    general.append(&mut own);
    Ok(general)
}

type Key<'a> = Spanned<std::borrow::Cow<'a, str>>;

struct Reader<'t> {
    line_at: &'t dyn Fn(usize) -> usize,
}

impl Reader<'_> {
    fn unknown(&self, key: &Key<'_>) -> Wrong {
        let what = format!("there is no '{}' here; there are: sysctl, namespace.NAME.sysctl", key.get_ref());
        ((self.line_at)(key.span().start), what)
    }

    fn table<'v, 'i>(&self, value: &'v Spanned<DeValue<'i>>) -> Result<&'v DeTable<'i>, Wrong> {
        let wrong = || ((self.line_at)(value.span().start), "a table is expected here".to_owned());
        value.get_ref().as_table().ok_or_else(wrong)
    }

    /// The sysctls below a part of their names.
    fn sysctls(
        &self,
        above: &str,
        value: &Spanned<DeValue<'_>>,
        found: &mut Vec<Setting>,
    ) -> Result<(), Wrong> {
        for (key, value) in self.table(value)? {
            let name = key.get_ref().replace('/', ".");
            let name = if above.is_empty() { name } else { format!("{above}.{name}") };
            if value.get_ref().is_table() {
                self.sysctls(&name, value, found)?;
                continue;
            }
            let line = (self.line_at)(key.span().start);
            if !Sysctl::all().any(|sysctl| sysctl.name() == name) {
                return Err((line, service::Error::UnknownSysctl(name).to_string()));
            }
            let what = "a number, a list of numbers or a string is expected here";
            let value = text_of(value.get_ref()).ok_or_else(|| (line, format!("{name}: {what}")))?;
            found.push(Setting { key: name, value, line });
        }
        Ok(())
    }
}

/// A value as it is written to the sysctl's file.
fn text_of(value: &DeValue<'_>) -> Option<String> {
    let number = |value: &DeValue<'_>| {
        let integer = value.as_integer()?;
        Some(i128::from_str_radix(integer.as_str(), integer.radix()).ok()?.to_string())
    };
    let text = value.as_str().map(str::to_owned).or_else(|| number(value));
    text.or_else(|| {
        let numbers = value.as_array()?.iter().map(|one| number(one.get_ref()));
        Some(numbers.collect::<Option<Vec<_>>>()?.join(" "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# Limits.
[sysctl]
kernel.msgmnb = 0x1_0000
kernel.shmmax = 18446744073692774399
kernel.sem = [1, 2, 3, 4]
\"kernel/msgmax\" = \"77\"

[namespace.shop.sysctl]
kernel.msgmni = 5
kernel.msgmnb = 6

[namespace.other]
sysctl.kernel.msgmni = 7
";

    #[test]
    fn a_namespaces_own_limits_come_last() {
        let read = |name| {
            let settings = read(FILE, name).unwrap().into_iter();
            settings.map(|s| format!("{}: {}={}", s.line, s.key, s.value)).collect::<Vec<_>>()
        };
        let general = [
            "6: kernel.msgmax=77",
            "3: kernel.msgmnb=65536",
            "5: kernel.sem=1 2 3 4",
            "4: kernel.shmmax=18446744073692774399",
        ];
        let mut all = read(None);
        all.sort_by_key(|line| line[3..].to_owned());
        assert_eq!(all, general);
        assert_eq!(read(Some("shop"))[4..], ["10: kernel.msgmnb=6", "9: kernel.msgmni=5"]);
        assert_eq!(read(Some("other"))[4..], ["13: kernel.msgmni=7"]);
    }

    #[test]
    fn what_means_nothing_is_refused_with_its_line() {
        for (text, line, part) in [
            ("[sysctl]\n\nkernel.nonsense = 1", 3, "kernel.msgmnb"),
            ("[sysctls]\nkernel.msgmnb = 1", 1, "'sysctls'"),
            ("\nkernel.msgmnb = 1", 2, "'kernel'"),
            ("[namespace.a]\nlimits = 1", 2, "'limits'"),
            ("[namespace]\na = 1", 2, "table"),
            ("sysctl = 1", 1, "table"),
            ("[sysctl]\nkernel.msgmnb = 1.5", 2, "number"),
            ("[sysctl]\nkernel.sem = [1, \"x\"]", 2, "number"),
            ("[sysctl]\nkernel.msgmnb = 1\nkernel.msgmnb = 2", 3, "duplicate"),
            ("[sysctl]\nkernel.msgmnb =", 2, ""),
            // Also of a namespace that is not meant.
            ("[namespace.other.sysctl]\nkernel.nonsense = 1", 2, "nonsense"),
        ] {
            let (at, what) = read(text, None).unwrap_err();
            assert!(at == line && what.contains(part), "{text}: {at}: {what}");
        }
    }
}
