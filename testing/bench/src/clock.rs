//! The clock of a row: how many iterations it makes, what they took, and on demand how long each took.

use std::time::{Duration, Instant};

use crate::Outcome;

/// Times the iterations of one sample.
pub(crate) struct Clock {
    iterations: u64,
    elapsed: Duration,
    /// What the row is about, where that is not the elapsed time.
    cost: Option<Duration>,
    /// With it, each iteration is timed, which costs it two looks at the clock.
    histogram: Option<Histogram>,
}

impl Clock {
    pub(crate) fn new(iterations: u64, each: bool) -> Clock {
        Clock { iterations, elapsed: Duration::ZERO, cost: None, histogram: each.then(Histogram::new) }
    }

    pub(crate) fn iterations(&self) -> u64 {
        self.iterations
    }

    /// Makes the iterations under the clock.
    pub(crate) fn time(&mut self, iteration: impl FnMut() -> Outcome<()>) -> Outcome<()> {
        self.time_until(self.iterations, iteration, || Ok(()))
    }

    /// Makes `share` of the iterations under the clock, which runs on until `end`, where other processes make the rest of them.
    pub(crate) fn time_until(
        &mut self,
        share: u64,
        mut iteration: impl FnMut() -> Outcome<()>,
        end: impl FnOnce() -> Outcome<()>,
    ) -> Outcome<()> {
        let start = Instant::now();
        match &mut self.histogram {
            None => {
                for _ in 0..share {
                    iteration()?;
                }
            }
            Some(histogram) => {
                for _ in 0..share {
                    let begun = Instant::now();
                    iteration()?;
                    histogram.add(begun.elapsed());
                }
            }
        }
        end()?;
        self.elapsed = start.elapsed();
        Ok(())
    }

    /// The row is about this, and not about the elapsed time.
    pub(crate) fn set_cost(&mut self, cost: Duration) {
        self.cost = Some(cost);
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.elapsed
    }

    pub(crate) fn cost(&self) -> Duration {
        self.cost.unwrap_or(self.elapsed)
    }

    pub(crate) fn histogram(&self) -> Option<&Histogram> {
        self.histogram.as_ref()
    }
}

/// How many buckets the times between one power of two and the next fall into.
const PER_OCTAVE: usize = 8;

/// Counts of times, in buckets that are a ninth wide or less.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Histogram(Vec<u64>);

impl Histogram {
    fn new() -> Histogram {
        Histogram(vec![0; 64 * PER_OCTAVE])
    }

    fn add(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        // The three bits behind the highest one are the bucket within the octave.
        let octave = ns.ilog2() as usize;
        let within = ((u128::from(ns) * PER_OCTAVE as u128) >> octave) as usize - PER_OCTAVE;
        self.0[octave * PER_OCTAVE + within] += 1;
    }

    /// Where a bucket begins, nanoseconds.
    fn start(bucket: usize) -> f64 {
        let (octave, within) = (bucket / PER_OCTAVE, bucket % PER_OCTAVE);
        (1.0 + within as f64 / PER_OCTAVE as f64) * 2f64.powi(octave as i32)
    }

    /// The time that this part of all, 0 to 1, did not exceed: the end of a bucket.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let wanted = (self.0.iter().sum::<u64>() as f64 * part).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.0.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Histogram::start(bucket + 1);
            }
        }
        Histogram::start(0)
    }

    /// The buckets that have any: beginning and end in nanoseconds, and their part of all.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (f64, f64, f64)> {
        let all = self.0.iter().sum::<u64>() as f64;
        let used = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        used.map(move |(bucket, count)| {
            (Histogram::start(bucket), Histogram::start(bucket + 1), *count as f64 / all)
        })
    }

    /// One line, for [`Histogram::parse`].
    pub(crate) fn line(&self) -> String {
        let used = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        used.map(|(bucket, count)| format!("{bucket}:{count}")).collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn parse(line: &str) -> Outcome<Histogram> {
        let mut histogram = Histogram::new();
        for word in line.split_whitespace() {
            let (bucket, count) = word.split_once(':').ok_or("a bucket is NUMBER:COUNT")?;
            let bucket: usize = bucket.parse()?;
            *histogram.0.get_mut(bucket).ok_or("no such bucket")? = count.parse()?;
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_lies_in_its_bucket() {
        for ns in [1, 2, 3, 7, 8, 9, 100, 1023, 1024, 1025, 123_456_789, 1 << 60] {
            let mut histogram = Histogram::new();
            histogram.add(Duration::from_nanos(ns));
            let (start, end, part) = histogram.buckets().next().unwrap();
            assert!(start <= ns as f64 && (ns as f64) < end, "{start} {ns} {end}");
            assert!(end / start <= 1.126 && part == 1.0);
        }
    }

    #[test]
    fn quantiles_go_by_count() {
        let mut histogram = Histogram::new();
        for ns in [64, 64, 64, 1 << 20] {
            histogram.add(Duration::from_nanos(ns));
        }
        assert_eq!(histogram.quantile(0.75), 72.0);
        assert!(histogram.quantile(0.76) > f64::from(1 << 20));
    }

    #[test]
    fn a_line_says_all_of_a_histogram() {
        let mut histogram = Histogram::new();
        for ns in [5, 77, 77, 12_345] {
            histogram.add(Duration::from_nanos(ns));
        }
        assert_eq!(Histogram::parse(&histogram.line()).unwrap(), histogram);
        assert!(Histogram::parse("512:1").is_err());
    }

    #[test]
    fn only_the_share_is_made_and_the_clock_runs_on() {
        let mut clock = Clock::new(10, true);
        let mut made = 0;
        let count = || {
            made += 1;
            Ok(())
        };
        let end = || {
            std::thread::sleep(Duration::from_millis(1));
            Ok(())
        };
        clock.time_until(4, count, end).unwrap();
        assert_eq!(made, 4);
        assert!(clock.elapsed() >= Duration::from_millis(1));
        assert_eq!(clock.histogram().unwrap().buckets().map(|(_, _, part)| part).sum::<f64>(), 1.0);
    }
}
