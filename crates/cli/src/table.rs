//! Tables as lsipc prints them: in columns, raw, as KEY="value" pairs, one pair a line, JSON, or one row as a list.

use std::fmt::Write;
use std::iter;

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Columns,
    Raw,
    Export,
    Newline,
    Json,
}

/// Whether a column is aligned at its right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows under headings. A cell without a value is empty; an empty one is null in JSON.
#[derive(Debug)]
pub(crate) struct Table {
    /// Of the list in JSON.
    pub(crate) name: &'static str,
    pub(crate) columns: Vec<(&'static str, Align)>,
    pub(crate) rows: Vec<Vec<Option<String>>>,
}

/// What may be left away, and what is written otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Style {
    pub(crate) no_headings: bool,
    /// Headings that are names of shell variables.
    pub(crate) shell: bool,
}

fn text(cell: &Option<String>) -> &str {
    cell.as_deref().unwrap_or_default()
}

impl Table {
    pub(crate) fn render(&self, format: Format, style: Style) -> String {
        match format {
            Format::Json => self.json(style),
            // An empty table has not even a heading.
            _ if self.rows.is_empty() => String::new(),
            Format::Columns => self.aligned(style),
            Format::Raw => self.raw(style),
            Format::Export => self.pairs(" ", style),
            Format::Newline => self.pairs("\n", style),
        }
    }

    fn headings(&self, style: Style) -> Vec<String> {
        let heading =
            |&(name, _): &(&'static str, Align)| if style.shell { shell_name(name) } else { name.into() };
        self.columns.iter().map(heading).collect()
    }

    /// The lines of a table with headings, if they are wanted.
    fn lines(&self, style: Style, shown: impl Fn(&str) -> String) -> Vec<Vec<String>> {
        let headings = (!style.no_headings).then(|| self.headings(style));
        let rows = self.rows.iter().map(|row| row.iter().map(|cell| shown(text(cell))).collect());
        headings.into_iter().chain(rows).collect()
    }

    fn aligned(&self, style: Style) -> String {
        let lines = self.lines(style, printable);
        let headings = self.headings(style);
        // The heading counts even where it is not printed, as with lsipc.
        let all = || iter::once(&headings).chain(&lines);
        let width = |column: usize| all().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let last = self.columns.len().saturating_sub(1);
        let cell = |(column, value): (usize, &String)| match self.columns[column].1 {
            // Nothing stands behind the last one.
            _ if column == last && (value.is_empty() || self.columns[column].1 == Align::Left) => {
                value.clone()
            }
            Align::Right => format!("{value:>0$}", widths[column]),
            Align::Left => format!("{value:<0$}", widths[column]),
        };
        let line =
            |line: &Vec<String>| line.iter().enumerate().map(cell).collect::<Vec<_>>().join(" ") + "\n";
        lines.iter().map(line).collect()
    }

    fn raw(&self, style: Style) -> String {
        let lines = self.lines(style, |value| escape(value, "\\ "));
        lines.iter().map(|line| line.join(" ") + "\n").collect()
    }

    fn pairs(&self, separator: &str, style: Style) -> String {
        let headings = self.headings(style);
        let pair = |(heading, cell): (&String, &Option<String>)| {
            format!("{heading}=\"{}\"", escape(text(cell), "\\\"$`"))
        };
        let row =
            |row: &Vec<_>| headings.iter().zip(row).map(pair).collect::<Vec<_>>().join(separator) + "\n";
        self.rows.iter().map(row).collect()
    }

    fn json(&self, style: Style) -> String {
        let keys: Vec<String> = self.headings(style).iter().map(|name| name.to_lowercase()).collect();
        let pair = |(key, cell): (&String, &Option<String>)| {
            let value = cell.as_ref().filter(|value| !value.is_empty());
            let value = value.map_or_else(|| "null".into(), |value| quoted(value));
            format!("         {}: {value}", quoted(key))
        };
        let row = |row: &Vec<_>| keys.iter().zip(row).map(pair).collect::<Vec<_>>().join(",\n");
        let rows: Vec<String> =
            self.rows.iter().map(|cells| format!("{{\n{}\n      }}", row(cells))).collect();
        let list = if rows.is_empty() { String::new() } else { format!("      {}", rows.join(",")) };
        format!("{{\n   {}: [\n{list}\n   ]\n}}\n", quoted(self.name))
    }
}

/// One object, a line per property; those without a value are left out.
pub(crate) fn list(properties: &[(&str, Option<String>)]) -> String {
    let mut text = String::new();
    for (label, value) in properties {
        if let Some(value) = value {
            // Writing to a string never fails.
            let _ = writeln!(text, "{:<35} {:<36}", format!("{label}:"), printable(value));
        }
    }
    text
}

fn quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

/// As a terminal is to get it: what is another's choice, as names and command lines are, commands it nothing and forges no line.
pub(crate) fn printable(value: &str) -> String {
    escape(value, "")
}

/// Control characters, and what else would mislead a reader, become `\\x<code>`.
fn escape(value: &str, more: &str) -> String {
    let is_unsafe = |c: char| c.is_control() || more.contains(c);
    let replace = |c: char| if is_unsafe(c) { format!("\\x{:02x}", u32::from(c)) } else { c.into() };
    value.chars().map(replace).collect()
}

fn shell_name(name: &str) -> String {
    let name = name.replace('%', "_PCT");
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let cell = |value: &str| Some(value.to_owned());
        Table {
            name: "things",
            columns: vec![("NAME", Align::Left), ("USE%", Align::Right), ("LAST", Align::Left)],
            rows: vec![vec![cell("a b"), cell("12345"), None], vec![cell("longer"), None, cell("\"x\"")]],
        }
    }

    fn render(format: Format) -> String {
        table().render(format, Style::default())
    }

    #[test]
    fn columns_are_aligned() {
        assert_eq!(render(Format::Columns), "NAME    USE% LAST\na b    12345 \nlonger       \"x\"\n");
        let style = Style { no_headings: true, ..Style::default() };
        assert_eq!(table().render(Format::Columns, style), "a b    12345 \nlonger       \"x\"\n");
    }

    #[test]
    fn control_characters_are_shown_as_such() {
        let cells = vec![Some("/a\x1b[2J\nb\\".into()), None, None];
        let table = Table { rows: vec![cells.clone()], ..table() };
        let style = Style { no_headings: true, ..Style::default() };
        assert_eq!(table.render(Format::Columns, style), "/a\\x1b[2J\\x0ab\\      \n");
        assert_eq!(
            list(&[("Name", cells[0].clone())]),
            format!("{:<35} {:<36}\n", "Name:", "/a\\x1b[2J\\x0ab\\")
        );
    }

    #[test]
    fn raw_cells_have_no_blanks() {
        assert_eq!(render(Format::Raw), "NAME USE% LAST\na\\x20b 12345 \nlonger  \"x\"\n");
    }

    #[test]
    fn pairs_are_quoted_and_shell_names_are_names() {
        assert_eq!(
            table().render(Format::Export, Style { shell: true, ..Style::default() }),
            "NAME=\"a b\" USE_PCT=\"12345\" LAST=\"\"\nNAME=\"longer\" USE_PCT=\"\" LAST=\"\\x22x\\x22\"\n"
        );
        assert!(render(Format::Newline).starts_with("NAME=\"a b\"\nUSE%=\"12345\"\nLAST=\"\"\nNAME="));
    }

    #[test]
    fn json_is_json() {
        let json: serde_json::Value = serde_json::from_str(&render(Format::Json)).unwrap();
        let expected = serde_json::json!({"things": [
            {"name": "a b", "use%": "12345", "last": null},
            {"name": "longer", "use%": null, "last": "\"x\""},
        ]});
        assert_eq!(json, expected);
        let empty = Table { rows: Vec::new(), ..table() };
        assert_eq!(empty.render(Format::Json, Style::default()), "{\n   \"things\": [\n\n   ]\n}\n");
        assert_eq!(empty.render(Format::Columns, Style::default()), "");
    }

    #[test]
    fn a_list_leaves_out_what_is_unknown() {
        let text = list(&[("Key", Some("1".into())), ("Sent", None)]);
        assert_eq!(text, format!("{:<35} {:<36}\n", "Key:", "1"));
    }
}
