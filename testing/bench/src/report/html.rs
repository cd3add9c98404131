//! The report: one HTML file with its charts in it as SVG, which needs nothing from elsewhere.
//!
//! What users see: the table; throughput over size, over the messages that wait and over the number of processes; for each row how long single iterations took. Light or
//! dark as the reader's system is.

mod chart;

use std::fmt::{self, Display, Formatter};

use super::{Distribution, Document, Figures, grouped};
use chart::{Band, Line, Scale, Svg};

const STYLE: &str = include_str!("html/style.css");

/// Rows whose throughputs make a curve.
struct Curve {
    title: &'static str,
    /// What varies, and the rows with what it is there.
    over: &'static str,
    rows: &'static [(&'static str, &'static str)],
}

static CURVES: [Curve; 5] = [
    Curve {
        title: "Messages sent and received by one process",
        over: "size of a message",
        rows: &[("64 B", "msg.pair.64"), ("1 KiB", "msg.pair.1k"), ("8 KiB", "msg.pair.8k")],
    },
    Curve {
        title: "Messages from one process to another",
        over: "size of a message",
        rows: &[("64 B", "msg.stream.64"), ("1 KiB", "msg.stream.1k"), ("8 KiB", "msg.stream.8k")],
    },
    Curve {
        title: "Messages sent and received by type",
        over: "messages ahead",
        rows: &[("1 000", "msg.select.1k"), ("10 000", "msg.select.10k"), ("100 000", "msg.select.100k")],
    },
    Curve {
        title: "One semaphore, −1 and +1, many processes",
        over: "processes",
        rows: &[("2", "sem.contend.2"), ("8", "sem.contend.8"), ("16", "sem.contend.16")],
    },
    Curve {
        title: "Queues made and removed",
        over: "queues there",
        rows: &[("0", "msg.create"), ("30 000", "msg.create.30000")],
    },
];

impl Document<'_> {
    /// The report.
    pub(crate) fn html(&self) -> String {
        let machine = &self.machine;
        format!(
            "<!DOCTYPE html>\n<html lang=en>\n<meta charset=utf-8>\n<meta name=viewport content='width=device-width'>\n\
             <title>ipcspace and the kernel</title>\n<style>\n{STYLE}</style>\n<h1>ipcspace and the kernel</h1>\n\
             <p>{} × {}, {}, Linux {}. Medians of {} samples, taken in turns. \
             <span class='key kernel'>kernel</span> <span class='key ours'>ipcspace</span></p>\n{}{}{}</html>\n",
            machine.cpus,
            Text(&machine.cpu_model),
            Text(&machine.virtualisation),
            Text(&machine.linux),
            self.rows.first().map_or(0, |row| row.rounds),
            Table(self.rows),
            Section("Throughput", CURVES.iter().filter_map(|curve| self.curve(curve))),
            Section("How long single iterations take", self.rows.iter().filter_map(distribution)),
        )
    }

    /// The curve's chart, if two of its rows were measured.
    fn curve(&self, curve: &Curve) -> Option<Figure> {
        let found: Vec<_> = curve
            .rows
            .iter()
            .filter_map(|(label, name)| Some((*label, self.rows.iter().find(|row| row.name == *name)?)))
            .collect();
        let per_second = |ns: f64| 1e9 / ns;
        let kernel: Vec<_> = found.iter().map(|(_, row)| per_second(row.kernel_ns)).collect();
        let ours: Vec<_> = found.iter().map(|(_, row)| per_second(row.ours_ns)).collect();
        if found.len() < 2 {
            return None;
        }
        let y = Scale::decades(kernel.iter().chain(&ours).copied());
        let labels: Vec<_> = found.iter().map(|(label, _)| *label).collect();
        let mut svg = Svg::new();
        svg.rising(&y, "/s");
        svg.places(&labels);
        svg.draw(&Line { values: &kernel, y: &y, class: "kernel" });
        svg.draw(&Line { values: &ours, y: &y, class: "ours" });
        Some(Figure { title: curve.title.to_owned(), svg, note: format!("per second, over {}", curve.over) })
    }
}

/// A chart of both sides, on one scale of time.
fn distribution(row: &Figures) -> Option<Figure> {
    let Distribution { kernel, ours } = row.distribution.as_ref()?;
    let sides = [(kernel, "kernel"), (ours, "ours")];
    let ends = sides.iter().flat_map(|(side, _)| side.buckets().flat_map(|(start, end, _)| [start, end]));
    let x = Scale::decades(ends);
    let highest =
        sides.iter().flat_map(|(side, _)| side.buckets().map(|(_, _, part)| part)).fold(0.0, f64::max);
    let mut svg = Svg::new();
    svg.across(&x);
    for (side, class) in sides {
        svg.draw(&Band { buckets: side.buckets().collect(), x: &x, highest, class });
    }
    let told = sides.map(|(side, class)| {
        let [half, most, nearly_all] = [0.5, 0.99, 0.999].map(|part| time(side.quantile(part)));
        format!("<span class='{class}'>half within {half}, 99 % {most}, 99.9 % {nearly_all}</span>")
    });
    Some(Figure { title: row.name.to_owned(), svg, note: told.join("<br>") })
}

/// A time in the unit that suits it.
fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ..1e3 => (ns.round(), "ns"),
        1e3..1e6 => (ns / 1e3, "µs"),
        1e6..1e9 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    let places = usize::from(value < 10.0 && value.fract() != 0.0);
    format!("{value:.places$} {unit}")
}

struct Figure {
    title: String,
    svg: Svg,
    note: String,
}

impl Display for Figure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Figure { title, svg, note } = self;
        writeln!(f, "<figure><figcaption><b>{}</b><br>{note}</figcaption>\n{svg}</figure>", Text(title))
    }
}

/// A heading and charts; nothing where there are no charts.
struct Section<I>(&'static str, I);

impl<I: Iterator<Item = Figure> + Clone> Display for Section<I> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut figures = self.1.clone().peekable();
        if figures.peek().is_none() {
            return Ok(());
        }
        writeln!(f, "<h2>{}</h2>\n<div class=figures>", self.0)?;
        figures.try_for_each(|figure| figure.fmt(f))?;
        writeln!(f, "</div>")
    }
}

struct Table<'a>(&'a [Figures]);

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "<table>\n<tr><th>row<th>kernel, ns<th>ipcspace, ns<th>kernel ÷ ipcspace<th>spread<th>what it is"
        )?;
        for row in self.0 {
            writeln!(
                f,
                "<tr><td>{}<td>{}<td>{}<td{}>{}<td>{:.0} %, {:.0} %<td>{}",
                row.name,
                grouped(row.kernel_ns),
                grouped(row.ours_ns),
                if row.ratio < 1.0 { " class=slower" } else { "" },
                row.marked_ratio().replace("**", ""),
                row.kernel_spread * 100.0,
                row.ours_spread * 100.0,
                Text(&row.about.replace('`', "")),
            )?;
        }
        writeln!(f, "</table>")
    }
}

/// Text that is not to be read as markup.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '<' => f.write_str("&lt;"),
            '&' => f.write_str("&amp;"),
            other => write!(f, "{other}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_their_unit() {
        let times = [7.0, 999.0, 1500.0, 15_000.0, 2.5e6, 3e9].map(time);
        assert_eq!(times, ["7 ns", "999 ns", "1.5 µs", "15 µs", "2.5 ms", "3 s"]);
    }

    #[test]
    fn text_is_no_markup() {
        assert_eq!(Text("<b> & c").to_string(), "&lt;b> &amp; c");
    }
}
