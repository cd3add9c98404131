//! Whether anybody holds a queue, asked of a writing end of its FIFO that is kept.
//!
//! What users see: up to four descriptors by numbers from 100 on that the process did not open, one for each queue that it makes and removes again and again.
//! They are for writing only, and so hold no queue; exec closes them.
//! The kernel answers, as it does to who opens the FIFO, but in a fifth of the time: it knows of every fork, `dup` and `SCM_RIGHTS`, which nobody here sees.
//!
//! The number may have been closed by the program, which then has something else there: so each answer is made sure of by the inode. A FIFO that was
//! removed has no name any more.

use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::*};

use abi::{Result, mqueue::O_WRONLY};
use arena::Handle;
use sys::{file, memory, net::Fd, queue};

use crate::files::O_ACCMODE;

struct End {
    /// Whether a thread is at it. If one was while another forked, it stays so in the child, which then asks by opening.
    taken: AtomicBool,
    /// The queue that it is of; 0 if there is none.
    queue: AtomicU32,
    fd: AtomicI32,
    inode: [AtomicU64; 2],
    /// The queue that was asked about last when there was no end of it.
    missed: AtomicU32,
}

static ENDS: [End; 4] = [const {
    End {
        taken: AtomicBool::new(false),
        queue: AtomicU32::new(0),
        fd: AtomicI32::new(-1),
        inode: [const { AtomicU64::new(0) }; 2],
        missed: AtomicU32::new(0),
    }
}; 4];

/// Below it are the numbers that programs count on.
pub(crate) const LOWEST: i32 = 100;

/// A descriptor that is to be kept, where the program is not likely to look, or to write because it takes it for another one.
pub(crate) fn out_of_the_way(file: Fd) -> Fd {
    if file.raw() >= LOWEST {
        return file;
    }
    file::duplicate(file.raw(), LOWEST).unwrap_or(file)
}

fn place(queue: Handle) -> &'static End {
    // Handles differ by multiples of a queue's size.
    &ENDS[(queue.0.wrapping_mul(0x9e37_79b9) >> 30) as usize]
}

impl End {
    /// For one thread at a time.
    fn take<R>(&self, does: impl FnOnce() -> Option<R>) -> Option<R> {
        if self.taken.swap(true, Acquire) {
            return None;
        }
        let done = does();
        self.taken.store(false, Release);
        done
    }

    /// Whether the number is what it was when it was kept, and whether what it is of still has its name.
    fn look(&self) -> (bool, bool) {
        match memory::stat(self.fd.load(Relaxed)) {
            Ok(stat) => {
                (self.inode.each_ref().map(|word| word.load(Relaxed)) == [stat.dev, stat.ino], stat.links > 0)
            }
            Err(_) => (false, false),
        }
    }

    fn drop_end(&self) {
        let fd = self.fd.load(Relaxed);
        // Another number is the program's, and so is one of the same FIFO that can be read, which holds a queue.
        let is_ours = || self.look().0 && file::flags(fd).is_ok_and(|flags| flags & O_ACCMODE == O_WRONLY);
        if self.queue.swap(0, Relaxed) != 0 && is_ours() {
            file::close(fd);
        }
    }
}

/// Whether anybody has a descriptor of the queue, if that can be said without opening its FIFO.
pub(crate) fn is_held(queue: Handle) -> Option<bool> {
    let end = place(queue);
    end.take(|| {
        if end.queue.load(Relaxed) != queue.0 {
            end.missed.store(queue.0, Relaxed);
            return None;
        }
        let held = queue::has_reader(end.fd.load(Relaxed));
        // Afterwards: what is something else by now does not become the end again.
        let whole = end.look() == (true, true);
        if !whole {
            end.drop_end();
        }
        whole.then_some(held)
    })
}

/// Keeps an end of the queue, which this process holds, if there would have been a use for it before.
pub(crate) fn keep(queue: Handle, open: impl FnOnce() -> Result<Fd>) {
    let end = place(queue);
    if end.missed.load(Relaxed) != queue.0 {
        return;
    }
    end.take(|| {
        end.missed.store(0, Relaxed);
        end.drop_end();
        // Without one it is asked as before.
        let kept = file::duplicate(open().ok()?.raw(), LOWEST).ok()?;
        let stat = memory::stat(kept.raw()).ok()?;
        for (word, value) in end.inode.iter().zip([stat.dev, stat.ino]) {
            word.store(value, Relaxed);
        }
        end.fd.store(kept.leak(), Relaxed);
        end.queue.store(queue.0, Relaxed);
        Some(())
    });
}

/// Keeps none: the process leaves the namespace that the queues are in.
pub(crate) fn forget_all() {
    for end in &ENDS {
        end.take(|| {
            end.missed.store(0, Relaxed);
            end.drop_end();
            Some(())
        });
    }
}
