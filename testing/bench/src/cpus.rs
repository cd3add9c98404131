//! The CPUs that rows use, and the processes beside the worker's own.

use std::io::{Read, Write};
use std::time::Duration;
use std::{fmt, io, mem, ptr};

use crate::Outcome;
use crate::objects::checked;

/// The CPUs that the rows use.
pub(crate) struct Cpus {
    /// Of the worker, and of the peer in the `same` rows.
    pub(crate) own: usize,
    /// Of the peer in the `cross` rows, if the machine has a second one.
    other: Option<usize>,
}

impl Cpus {
    /// The first two that this process may use.
    pub(crate) fn allowed() -> Outcome<Cpus> {
        // SAFETY: all-zero is the empty set.
        let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
        // SAFETY: the size is the set's.
        checked("sched_getaffinity", unsafe {
            libc::sched_getaffinity(0, mem::size_of::<libc::cpu_set_t>(), &mut set)
        })?;
        // SAFETY: the index is within the set.
        let mut cpus = (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) });
        Ok(Cpus { own: cpus.next().ok_or("no CPU is allowed")?, other: cpus.next() })
    }

    /// Lets the calling thread be on either, as the scheduler likes.
    pub(crate) fn unpin(&self) -> Outcome<()> {
        pin_to([Some(self.own), self.other].into_iter().flatten())
    }

    pub(crate) fn second(&self) -> Outcome<usize> {
        self.other.ok_or_else(|| "needs two CPUs".into())
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pinned to CPU {}, ", self.own)?;
        match self.other {
            Some(other) => write!(f, "peer of the cross rows to CPU {other}"),
            None => write!(f, "no second CPU for the cross rows"),
        }
    }
}

/// Binds the calling thread to one CPU.
pub(crate) fn pin(cpu: usize) -> Outcome<()> {
    pin_to([cpu])
}

fn pin_to(cpus: impl IntoIterator<Item = usize>) -> Outcome<()> {
    // SAFETY: all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    for cpu in cpus {
        // SAFETY: the index came out of such a set.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the size is the set's.
    checked("sched_setaffinity", unsafe {
        libc::sched_setaffinity(0, mem::size_of::<libc::cpu_set_t>(), &set)
    })
    .map(drop)
}

/// A process beside the worker.
pub(crate) struct Peer(libc::pid_t);

impl Peer {
    /// Starts one on a CPU, which ends when it has served. If it fails it ends the worker too, which would wait for it.
    pub(crate) fn fork(cpu: usize, serve: impl FnOnce() -> Outcome<()>) -> Outcome<Peer> {
        // SAFETY: the worker has one thread, so the child may go on with anything.
        match checked("fork", unsafe { libc::fork() })? {
            0 => {
                if let Err(error) = pin(cpu).and_then(|()| serve()) {
                    eprintln!("bench: a peer of the worker: {error}");
                    // SAFETY: the parent waits for this process, so its number is still its own.
                    unsafe { libc::kill(libc::getppid(), libc::SIGTERM) };
                }
                // SAFETY: ends the process.
                unsafe { libc::_exit(0) }
            }
            pid => Ok(Peer(pid)),
        }
    }

    /// What it has used so far, in the kernel and outside.
    pub(crate) fn cpu_time(&self) -> Outcome<Duration> {
        let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
        // SAFETY: the pointer is valid for the call.
        let error = unsafe { libc::clock_getcpuclockid(self.0, &mut clock) };
        if error != 0 {
            return Err(format!("clock_getcpuclockid: {}", io::Error::from_raw_os_error(error)).into());
        }
        // SAFETY: as above.
        checked("clock_gettime", unsafe { libc::clock_gettime(clock, &mut time) })?;
        Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    /// Uses its CPU for nothing. What a peer that is to be killed does.
    pub(crate) fn busy_as_long_as_its_parent_lives() -> Outcome<()> {
        // SAFETY: asks for a number.
        let parent = || unsafe { libc::getppid() };
        let first = parent();
        while parent() == first {
            (0..1_000_000).for_each(|_| std::hint::spin_loop());
        }
        Ok(())
    }

    pub(crate) fn kill(self) -> Outcome<()> {
        // SAFETY: a child that was not waited for: the number is still its own.
        checked("kill", unsafe { libc::kill(self.0, libc::SIGKILL) })?;
        self.join()
    }

    pub(crate) fn join(self) -> Outcome<()> {
        // SAFETY: a null status is allowed.
        checked("waitpid", unsafe { libc::waitpid(self.0, ptr::null_mut(), 0) }).map(drop)
    }
}

/// Where peers wait until all are ready.
pub(crate) struct Gate {
    ready: (io::PipeReader, io::PipeWriter),
    go: (io::PipeReader, io::PipeWriter),
}

impl Gate {
    pub(crate) fn new() -> Outcome<Gate> {
        Ok(Gate { ready: io::pipe()?, go: io::pipe()? })
    }

    /// A peer's part.
    pub(crate) fn wait(&self) -> Outcome<()> {
        (&self.ready.1).write_all(&[0])?;
        Ok((&self.go.0).read_exact(&mut [0])?)
    }

    /// Lets so many peers go, when all have come.
    pub(crate) fn open(&self, count: usize) -> Outcome<()> {
        let mut all = vec![0; count];
        (&self.ready.0).read_exact(&mut all)?;
        Ok((&self.go.1).write_all(&all)?)
    }
}
