//! Charts as SVG, of what the report needs: two axes, lines over named places, and histograms. Colours are the style sheet's.

use std::fmt::{self, Display, Formatter, Write};

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 200.0;
/// Room for what stands beside the plot.
const LEFT: f64 = 44.0;
const RIGHT: f64 = 22.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 24.0;

/// A logarithmic scale from one power of ten to another.
pub(super) struct Scale {
    from: i32,
    to: i32,
}

impl Scale {
    /// The least that has all of the values, which are positive.
    pub(super) fn decades(values: impl Iterator<Item = f64>) -> Scale {
        let (low, high) = values.fold((f64::INFINITY, 0.0), |(low, high), v| (v.min(low), v.max(high)));
        let from = low.log10().floor() as i32;
        Scale { from, to: (high.log10().ceil() as i32).max(from + 1) }
    }

    /// Where a value is, 0 to 1.
    fn at(&self, value: f64) -> f64 {
        (value.log10() - f64::from(self.from)) / f64::from(self.to - self.from)
    }

    fn marks(&self) -> impl Iterator<Item = f64> {
        (self.from..=self.to).map(|power| 10f64.powi(power))
    }
}

/// A line over the places.
pub(super) struct Line<'a> {
    pub(super) values: &'a [f64],
    pub(super) y: &'a Scale,
    pub(super) class: &'a str,
}

/// A histogram: beginning, end and part of each bucket.
pub(super) struct Band<'a> {
    pub(super) buckets: Vec<(f64, f64, f64)>,
    pub(super) x: &'a Scale,
    /// The part that reaches the top.
    pub(super) highest: f64,
    pub(super) class: &'a str,
}

/// What can be drawn: the elements, and their class.
pub(super) trait Drawn {
    fn elements(&self) -> String;
    fn class(&self) -> &str;
}

impl Drawn for Line<'_> {
    fn elements(&self) -> String {
        let points: Vec<_> = self
            .values
            .iter()
            .enumerate()
            .map(|(at, value)| (place(at, self.values.len()), height(self.y.at(*value))))
            .collect();
        let joined: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let dots: String =
            points.iter().map(|(x, y)| format!("<circle cx='{x:.1}' cy='{y:.1}' r='3'/>")).collect();
        format!("<polyline points='{}'/>{dots}", joined.join(" "))
    }

    fn class(&self) -> &str {
        self.class
    }
}

impl Drawn for Band<'_> {
    fn elements(&self) -> String {
        self.buckets
            .iter()
            .map(|(start, end, part)| {
                let (left, right) = (width(self.x.at(*start)), width(self.x.at(*end)));
                let top = height(part / self.highest);
                let (wide, high) = (right - left, height(0.0) - top);
                format!("<rect x='{left:.1}' y='{top:.1}' width='{wide:.1}' height='{high:.1}'/>")
            })
            .collect()
    }

    fn class(&self) -> &str {
        self.class
    }
}

/// A chart that grows by what is drawn into it.
pub(super) struct Svg(String);

impl Svg {
    pub(super) fn new() -> Svg {
        Svg(String::new())
    }

    pub(super) fn draw(&mut self, what: &impl Drawn) {
        self.put(format_args!("<g class='{}'>{}</g>", what.class(), what.elements()));
    }

    /// The axis upwards, with its values.
    pub(super) fn rising(&mut self, y: &Scale, unit: &str) {
        for mark in y.marks() {
            let at = height(y.at(mark));
            self.put(format_args!(
                "<path class=grid d='M{LEFT} {at:.1}H{:.1}'/><text class=left x='{:.1}' y='{:.1}'>{}{unit}</text>",
                WIDTH - RIGHT,
                LEFT - 4.0,
                at + 4.0,
                short(mark)
            ));
        }
    }

    /// The axis across, with its times in nanoseconds.
    pub(super) fn across(&mut self, x: &Scale) {
        for mark in x.marks() {
            let at = width(x.at(mark));
            self.put(format_args!(
                "<path class=grid d='M{at:.1} {TOP}V{:.1}'/><text x='{at:.1}' y='{:.1}'>{}</text>",
                height(0.0),
                HEIGHT - 8.0,
                super::time(mark)
            ));
        }
    }

    /// The names of places across.
    pub(super) fn places(&mut self, labels: &[&str]) {
        for (at, label) in labels.iter().enumerate() {
            let x = place(at, labels.len());
            self.put(format_args!("<text x='{x:.1}' y='{:.1}'>{label}</text>", HEIGHT - 8.0));
        }
    }

    fn put(&mut self, what: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.0.write_fmt(what);
    }
}

impl Display for Svg {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "<svg viewBox='0 0 {WIDTH} {HEIGHT}' role=img>{}</svg>", self.0)
    }
}

/// Of a part of the plot's width.
fn width(part: f64) -> f64 {
    LEFT + part * (WIDTH - LEFT - RIGHT)
}

/// Of a part of the plot's height.
fn height(part: f64) -> f64 {
    HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)
}

/// Of one of some places.
fn place(at: usize, count: usize) -> f64 {
    width((at as f64 + 0.5) / count as f64)
}

/// A power of ten with a letter for its size.
fn short(number: f64) -> String {
    match number {
        1e9.. => format!("{}G", number / 1e9),
        1e6.. => format!("{}M", number / 1e6),
        1e3.. => format!("{}k", number / 1e3),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_has_all_values_and_whole_decades() {
        let scale = Scale::decades([30.0, 4000.0].into_iter());
        assert_eq!((scale.from, scale.to), (1, 4));
        assert_eq!(scale.at(10.0), 0.0);
        assert_eq!(scale.at(10_000.0), 1.0);
        assert_eq!(scale.marks().collect::<Vec<_>>(), [10.0, 100.0, 1000.0, 10_000.0]);
        let single = Scale::decades([100.0].into_iter());
        assert_eq!((single.from, single.to), (2, 3));
    }

    #[test]
    fn higher_values_are_further_up() {
        let line = Line { values: &[1.0, 10.0], y: &Scale { from: 0, to: 1 }, class: "ours" };
        let (bottom, top) = (height(0.0), height(1.0));
        assert!(bottom > top);
        let drawn = line.elements();
        assert!(
            drawn.contains(&format!(",{bottom:.1} ")) && drawn.contains(&format!(",{top:.1}'")),
            "{drawn}"
        );
    }
}
