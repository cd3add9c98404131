//! A ring of sensor data in shared memory: one process writes, any number read, nobody waits for anybody.
//!
//! Each slot has a number that is odd while it is written (a seqlock), so a reader knows whether what it read is one sample, and whether it has been
//! overtaken. Who writes never stops for readers: a slow one loses samples and can tell how many.
//!
//! Run it with `cargo run -p ipcspace --example sensor_ring`; its readers are children.

use std::sync::atomic::{AtomicU64, Ordering::*, fence};

use ipcspace::{Namespace, Result};

const SLOTS: u64 = 64;
const SAMPLES: u64 = 100_000;

ipcspace::shared! {
    /// A sample: when it was taken, and three axes.
    struct Slot {
        version: AtomicU64,
        values: [AtomicU64; 4],
    }
}

ipcspace::shared! {
    /// The ring, and how many samples were written.
    struct Ring {
        written: AtomicU64,
        slots: [Slot; SLOTS as usize],
    }
}

impl Ring {
    fn slot(&self, sample: u64) -> &Slot {
        &self.slots[(sample % SLOTS) as usize]
    }

    /// By the one who writes.
    fn write(&self, values: [u64; 4]) {
        let sample = self.written.load(Relaxed);
        let slot = self.slot(sample);
        slot.version.store(2 * sample + 1, Relaxed);
        fence(Release);
        for (to, value) in slot.values.iter().zip(values) {
            to.store(value, Relaxed);
        }
        slot.version.store(2 * sample + 2, Release);
        self.written.store(sample + 1, Release);
    }

    /// That sample, unless it has been overwritten.
    fn read(&self, sample: u64) -> Option<[u64; 4]> {
        let slot = self.slot(sample);
        let before = slot.version.load(Acquire);
        let values = slot.values.each_ref().map(|value| value.load(Relaxed));
        fence(Acquire);
        (before == 2 * sample + 2 && slot.version.load(Relaxed) == before).then_some(values)
    }
}

/// Reads to the end: how many samples it got, and how many it lost.
fn follow(ring: &Ring) -> (u64, u64) {
    let (mut next, mut got, mut lost) = (0, 0, 0);
    while next < SAMPLES {
        let written = ring.written.load(Acquire);
        if next == written {
            std::hint::spin_loop();
            continue;
        }
        match ring.read(next) {
            Some([time, x, y, z]) => {
                assert_eq!([x, y, z], [time, 2 * time, 3 * time], "a torn sample");
                got += 1;
                next += 1;
            }
            None => {
                let oldest = ring.written.load(Acquire).saturating_sub(SLOTS / 2).max(next + 1);
                lost += oldest - next;
                next = oldest;
            }
        }
    }
    (got, lost)
}

fn main() -> Result<()> {
    let ns = Namespace::private()?;
    let ring = ns.shared::<Ring>().open()?;
    let readers: Vec<i32> = (0..2)
        .map(|_| {
            // SAFETY: the child reads, prints, and ends.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let (got, lost) = follow(&ring);
                println!("read {got} samples, lost {lost}");
                assert!(got + lost >= SAMPLES);
                std::process::exit(0);
            }
            child
        })
        .collect();
    for time in 0..SAMPLES {
        ring.write([time, time, 2 * time, 3 * time]);
    }
    for reader in readers {
        let mut status = 0;
        // SAFETY: a child of this process, and a place for its status.
        unsafe { libc::waitpid(reader, &raw mut status, 0) };
        assert_eq!(status, 0);
    }
    println!("wrote {SAMPLES} samples");
    Ok(())
}
