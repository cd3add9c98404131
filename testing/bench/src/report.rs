//! The table, and the documents with the same figures.

mod html;

use std::fs;

use serde::Serialize;

use crate::clock::Histogram;
use crate::door::Worker;
use crate::rows::Row;

/// What was measured of one row. Times are nanoseconds per iteration.
#[derive(Serialize)]
pub(crate) struct Figures {
    name: &'static str,
    about: &'static str,
    kernel_ns: f64,
    ours_ns: f64,
    /// kernel / ours: above 1, ours is faster.
    ratio: f64,
    /// Distance of the quartiles, as a part of the median.
    kernel_spread: f64,
    ours_spread: f64,
    rounds: usize,
    #[serde(skip)]
    pub(crate) distribution: Option<Distribution>,
}

/// How long single iterations took.
pub(crate) struct Distribution {
    pub(crate) kernel: Histogram,
    pub(crate) ours: Histogram,
}

impl Figures {
    /// The figures of the samples; sorts them.
    pub(crate) fn new(row: &Row, kernel: &mut [f64], ours: &mut [f64]) -> Figures {
        kernel.sort_by(f64::total_cmp);
        ours.sort_by(f64::total_cmp);
        let (kernel_ns, ours_ns) = (median(kernel), median(ours));
        Figures {
            name: row.name,
            about: row.about,
            kernel_ns,
            ours_ns,
            ratio: kernel_ns / ours_ns,
            kernel_spread: spread(kernel),
            ours_spread: spread(ours),
            rounds: kernel.len(),
            distribution: None,
        }
    }

    /// One line of the table.
    pub(crate) fn print(&self, markdown: bool) {
        let (kernel_spread, ours_spread) = (self.kernel_spread * 100.0, self.ours_spread * 100.0);
        if markdown {
            println!(
                "| `{}` | {} | {} | {} | {kernel_spread:.0} % | {ours_spread:.0} % | {} |",
                self.name,
                grouped(self.kernel_ns),
                grouped(self.ours_ns),
                self.marked_ratio(),
                self.about
            );
        } else {
            println!(
                "{:<21} {:>12.1} {:>12.1} {:>8.3} {kernel_spread:>7.1}% {ours_spread:>7.1}%",
                self.name, self.kernel_ns, self.ours_ns, self.ratio,
            );
        }
    }

    /// The ratio to two digits or whole; where the kernel is faster it stands out.
    fn marked_ratio(&self) -> String {
        match self.ratio {
            10.0.. => grouped(self.ratio),
            ..0.1 => format!("**{:.3}**", self.ratio),
            ..0.995 => format!("**{:.2}**", self.ratio),
            ratio => format!("{ratio:.1}"),
        }
    }
}

/// A whole number with its digits in groups of three.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// Everything, as it goes to the file.
#[derive(Serialize)]
pub(crate) struct Document<'a> {
    machine: Machine,
    kernel_worker: &'a str,
    ours_worker: &'a str,
    rows: &'a [Figures],
}

/// The figures with the circumstances they were taken in.
pub(crate) fn document<'a>(rows: &'a [Figures], kernel: &'a Worker, ours: &'a Worker) -> Document<'a> {
    Document { machine: Machine::here(), kernel_worker: &kernel.greeting, ours_worker: &ours.greeting, rows }
}

/// The circumstances, ahead of the table.
pub(crate) fn print_machine(kernel: &Worker, ours: &Worker) {
    let machine = Machine::here();
    println!("CPU             {} x {}", machine.cpus, machine.cpu_model);
    println!("virtualisation  {}", machine.virtualisation);
    println!("Linux           {}", machine.linux);
    println!("kernel          {}", kernel.greeting);
    println!("ours            {}", ours.greeting);
}

/// The table's first line.
pub(crate) fn print_heading(markdown: bool) {
    if markdown {
        println!(
            "\n| row | kernel, ns | ipcspace, ns | kernel ÷ ipcspace | spread, kernel | spread, ipcspace | what it is |"
        );
        println!("|---|--:|--:|--:|--:|--:|---|");
    } else {
        println!(
            "\n{:<21} {:>12} {:>12} {:>8} {:>8} {:>8}",
            "row", "kernel ns", "ours ns", "ratio", "spread k", "spread o"
        );
    }
}

#[derive(Serialize)]
struct Machine {
    cpu_model: String,
    cpus: usize,
    virtualisation: String,
    linux: String,
}

impl Machine {
    fn here() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line =
                cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
            line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
        };
        let hypervisor = field("flags").split(' ').any(|flag| flag == "hypervisor");
        Machine {
            cpu_model: field("model name").to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            virtualisation: if hypervisor { hypervisor_name() } else { "none (bare metal)".to_owned() },
            linux: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        }
    }
}

/// The signature that a hypervisor shows in CPUID, such as KVMKVMKVM.
fn hypervisor_name() -> String {
    let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
    let signature: Vec<u8> = [leaf.ebx, leaf.ecx, leaf.edx].into_iter().flat_map(u32::to_le_bytes).collect();
    format!("virtual machine ({})", String::from_utf8_lossy(&signature).trim_end_matches('\0'))
}

/// Of sorted samples.
fn median(samples: &[f64]) -> f64 {
    let middle = samples.len() / 2;
    if samples.len() % 2 == 1 { samples[middle] } else { (samples[middle - 1] + samples[middle]) / 2.0 }
}

/// Of sorted samples.
fn spread(samples: &[f64]) -> f64 {
    let last = samples.len() - 1;
    (samples[last * 3 / 4] - samples[last / 4]) / median(samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows;

    fn figures(kernel: &mut [f64], ours: &mut [f64]) -> Figures {
        Figures::new(rows::matching("msg.pair.64").unwrap()[0], kernel, ours)
    }

    #[test]
    fn figures_are_medians_with_their_ratio_and_spread() {
        let row = figures(&mut [30.0, 10.0, 20.0, 900.0, 15.0], &mut [5.0, 10.0, 15.0, 10.0, 10.0]);
        assert_eq!((row.kernel_ns, row.ours_ns, row.ratio), (20.0, 10.0, 2.0));
        assert_eq!((row.kernel_spread, row.ours_spread), (0.75, 0.0));
    }

    #[test]
    fn an_even_number_of_samples_has_its_median_between_two() {
        assert_eq!(median(&[1.0, 2.0, 4.0, 8.0]), 3.0);
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(7.4), "7");
        assert_eq!(grouped(1_234_567.0), "1 234 567");
        assert_eq!(figures(&mut [9.0], &mut [10.0]).marked_ratio(), "**0.90**");
        assert_eq!(figures(&mut [2.0], &mut [1000.0]).marked_ratio(), "**0.002**");
        assert_eq!(figures(&mut [20.0], &mut [10.0]).marked_ratio(), "2.0");
        assert_eq!(figures(&mut [20_000.0], &mut [1.0]).marked_ratio(), "20 000");
    }
}
