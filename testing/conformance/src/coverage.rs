//! coverage/*.toml: which line of behaviour has which cases.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::case::Case;

const FILES: [(&str, &str); 8] = [
    ("coverage/compat.toml", include_str!("../../../coverage/compat.toml")),
    ("coverage/mqueue.toml", include_str!("../../../coverage/mqueue.toml")),
    ("coverage/msg.toml", include_str!("../../../coverage/msg.toml")),
    ("coverage/namespace.toml", include_str!("../../../coverage/namespace.toml")),
    ("coverage/options.toml", include_str!("../../../coverage/options.toml")),
    ("coverage/sem.toml", include_str!("../../../coverage/sem.toml")),
    ("coverage/sysctl.toml", include_str!("../../../coverage/sysctl.toml")),
    ("coverage/shm.toml", include_str!("../../../coverage/shm.toml")),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Coverage {
    line: Vec<Line>,
}

/// One line of behaviour.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    text: String,
    status: Status,
    #[serde(default)]
    cases: Vec<String>,
    /// Why the line has no case, or not all of it.
    #[serde(default)]
    note: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Covered,
    Partly,
    Missing,
}

/// Prints the lines with their cases; false if the list and the cases differ.
pub(crate) fn list(cases: impl Iterator<Item = &'static Case>) -> bool {
    let existing: BTreeSet<_> = cases.map(|case| case.name).collect();
    let mut named = BTreeSet::new();
    let mut complaints = Vec::new();
    let mut with_case = 0;
    let mut lines = 0;
    for (file, text) in FILES {
        let coverage: Coverage = match toml::from_str(text) {
            Ok(coverage) => coverage,
            Err(error) => {
                complaints.push(format!("{file}: {error}"));
                continue;
            }
        };
        println!("{file}");
        for line in coverage.line {
            lines += 1;
            with_case += usize::from(!line.cases.is_empty());
            println!("  {:7}  {}", word(line.status), line.text);
            line.cases.iter().for_each(|case| println!("             {case}"));
            if !line.note.is_empty() {
                println!("             ({})", line.note);
            }
            if (line.status == Status::Missing) != line.cases.is_empty() {
                complaints.push(format!("{file}: {:?}: its status and its cases disagree", line.text));
            }
            if line.status != Status::Covered && line.note.is_empty() {
                complaints.push(format!("{file}: {:?}: no note says why it is not covered", line.text));
            }
            named.extend(line.cases);
        }
    }
    complaints.extend(
        named.iter().filter(|name| !existing.contains(name.as_str())).map(|name| format!("no case {name}")),
    );
    complaints.extend(
        existing.iter().filter(|name| !named.contains(**name)).map(|name| format!("no line names {name}")),
    );
    complaints.iter().for_each(|complaint| println!("wrong: {complaint}"));
    println!("{with_case} of {lines} lines have a case; {} cases", existing.len());
    complaints.is_empty()
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Covered => "covered",
        Status::Partly => "partly",
        Status::Missing => "missing",
    }
}
