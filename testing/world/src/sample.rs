//! Is a task asleep inside an IPC call?

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

/// A task's files below /proc.
#[derive(Debug)]
pub(crate) struct Watch {
    syscall: File,
    schedstat: File,
    stat: File,
    status: File,
}

/// What a look at a task found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Asleep in a call, having been on a CPU so many times. Two equal looks: it did not run in between.
    Asleep { runs: u64 },
    /// Running, or asleep elsewhere.
    Busy,
    /// There is no such task any more.
    Gone,
}

/// System calls that a task sleeps in: the kernel's own, and for ours futex(2), and ppoll(2) of whose calls another process makes.
const SLEEPS: [&str; 16] = [
    "65", "69", "70", "220", "202", "271", "117", "400", "401", "420", "242", "243", "279", "280", "418",
    "419",
];

impl Watch {
    pub(crate) fn new(pid: i32, tid: i32) -> io::Result<Watch> {
        let file = |name| File::open(format!("/proc/{pid}/task/{tid}/{name}"));
        Ok(Watch {
            syscall: file("syscall")?,
            schedstat: file("schedstat")?,
            stat: file("stat")?,
            status: file("status")?,
        })
    }

    /// Is the task still asleep as the first look found it? One that has been woken and waits for its CPU to
    /// notice looks asleep in all files but `stat`.
    pub(crate) fn still(&self, first: Look) -> bool {
        let mut buffer = [0; 512];
        let state = read(&self.stat, &mut buffer).ok().and_then(fields_of_stat).map(|(state, _)| state);
        state == Some('S') && self.look() == first
    }

    /// Whether a signal waits for the task that it does not block.
    pub(crate) fn has_signals(&self) -> bool {
        let mut buffer = [0; 4096];
        let status = read(&self.status, &mut buffer).unwrap_or_default();
        let set = |name: &str| {
            let digits = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            u64::from_str_radix(digits.trim(), 16).unwrap_or(0)
        };
        (set("SigPnd:") | set("ShdPnd:")) & !set("SigBlk:") != 0
    }

    pub(crate) fn look(&self) -> Look {
        self.try_look().unwrap_or(Look::Gone)
    }

    /// Fails when the task is gone.
    fn try_look(&self) -> io::Result<Look> {
        let mut buffer = [0; 256];
        let line = read(&self.syscall, &mut buffer)?;
        let number = line.split(' ').next().unwrap_or_default();
        if !SLEEPS.contains(&number) {
            return Ok(Look::Busy);
        }
        let runs = read(&self.schedstat, &mut buffer)?.trim_end().rsplit(' ').next().unwrap_or_default();
        Ok(Look::Asleep { runs: runs.parse().map_err(io::Error::other)? })
    }
}

/// All threads of a process that serves the tasks, such as a broker.
#[derive(Debug)]
pub(crate) struct Servant {
    pid: i32,
}

impl Servant {
    /// The parent of the process, unless that is the driver itself.
    pub(crate) fn parent_of(pid: i32) -> Option<Servant> {
        let parent = fields_of_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?.1;
        (parent != std::process::id() as i32).then_some(Servant { pid: parent })
    }

    /// How often each thread has been on a CPU; None while one is running, or cannot be looked at. Two equal
    /// looks: it did nothing in between.
    pub(crate) fn look(&self) -> Option<Vec<(OsString, String)>> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?;
        let look = |thread: io::Result<fs::DirEntry>| {
            let thread = thread.ok()?;
            let runs = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            let asleep = fields_of_stat(&fs::read_to_string(thread.path().join("stat")).ok()?)?.0 == 'S';
            asleep.then(|| (thread.file_name(), runs))
        };
        threads.map(look).collect()
    }
}

/// State and parent of a line of /proc/PID/stat.
pub(crate) fn fields_of_stat(stat: &str) -> Option<(char, i32)> {
    // The name before them may contain anything, but ends with the last parenthesis.
    let mut fields = stat.rsplit(") ").next()?.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn read<'a>(file: &File, buffer: &'a mut [u8]) -> io::Result<&'a str> {
    let length = file.read_at(buffer, 0)?;
    std::str::from_utf8(&buffer[..length]).map_err(io::Error::other)
}
