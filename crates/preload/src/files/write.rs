//! Writing a sysctl.
//!
//! A descriptor that is open for writing is a memfd with a mark in its name, so it is known wherever it goes: by dup, by fork, over exec. Its
//! place in the file is the kernel's. A table says which numbers may be such ones, so that all others cost no system call; whether one is,
//! its name tells each time. So the table may be wrong in what it says of a number that was closed, or that a vfork child has
//! changed.
//!
//! # Safety
//! What a program writes is only copied by the fault-safe copy.

use core::sync::atomic::{AtomicI32, Ordering::Relaxed};

use abi::{Errno, Result};
use client::{
    files,
    mqd::{SYSCTL, kinds},
};
use engine::ipc_sysctl::{Sysctl, Text};
use sys::file;

use super::there;

/// One more than the highest number that was ever ours.
static END: AtomicI32 = AtomicI32::new(0);

/// Whether a number may be ours.
pub(super) fn may_be_ours(fd: i32) -> bool {
    kinds(fd).is_some_and(|p| p.load(Relaxed) & SYSCTL != 0)
}

/// A number is ours now.
///
/// # Errors
/// `EMFILE` if the table does not reach so far.
pub(super) fn opened(fd: i32) -> Result<()> {
    kinds(fd).ok_or(Errno::EMFILE)?.fetch_or(SYSCTL, Relaxed);
    END.fetch_max(fd + 1, Relaxed);
    Ok(())
}

/// All numbers that may be ours.
pub(super) fn numbers() -> impl Iterator<Item = i32> {
    (0..END.load(Relaxed)).filter(|fd| may_be_ours(*fd))
}

/// `new` is what `old` is, since `dup`.
pub(super) fn copied(old: i32, new: i32) {
    client::mqd::copied(old, new);
    if new >= 0 && (may_be_ours(old) || files::written(old).is_some()) {
        let _ = opened(new);
    }
}

/// What the program was started with: its standard output may be ours.
extern "C" fn at_start() {
    for fd in [1, 2] {
        if files::written(fd).is_some() {
            let _ = opened(fd);
        }
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = at_start;

/// The sysctl that a descriptor is open for writing of.
pub(super) fn of_descriptor(fd: i32) -> Option<&'static Sysctl> {
    let place = kinds(fd).filter(|p| p.load(Relaxed) & SYSCTL != 0)?;
    let found = files::written(fd);
    if found.is_none() {
        place.fetch_and(!SYSCTL, Relaxed);
    }
    found
}

/// Writes to a sysctl at `offset`, or where the descriptor stands. `place` is where the text lies, if it is in one piece.
pub(super) fn write<T: Text>(
    fd: i32,
    sysctl: &Sysctl,
    offset: Option<i64>,
    place: Option<(usize, usize)>,
    load: impl FnOnce() -> Result<T>,
) -> Result<i64> {
    let at = match offset {
        None => file::position(fd)?,
        Some(offset) => u64::try_from(offset).map_err(|_| Errno::EINVAL)?,
    };
    let taken = there(client::proc::write(sysctl, load, place, at))?;
    if offset.is_none() {
        file::advance(fd, taken);
    }
    i64::try_from(taken).map_err(|_| Errno::EINVAL)
}

/// Plain numbers of the program's memory. Only in an operation: before the process is attached no fault is caught.
fn fetch<T: Copy + Default>(from: usize) -> Result<T> {
    let mut value = T::default();
    // SAFETY: `value` is ours and valid for any bytes, faults at `from` are caught.
    unsafe {
        sys::copy::copy(core::ptr::from_mut(&mut value).cast(), from as *const u8, size_of::<T>())?;
    }
    Ok(value)
}

/// Memory of the program's.
pub(super) struct Buffer {
    pub(super) start: usize,
    pub(super) size: usize,
}

impl Text for Buffer {
    fn size(&self) -> usize {
        self.size
    }

    fn byte(&self, at: usize) -> Result<u8> {
        fetch(self.start.wrapping_add(at))
    }
}

/// The buffers of `writev`, which are one text.
pub(super) struct Vector {
    start: usize,
    count: usize,
    size: usize,
}

impl Vector {
    pub(super) fn load(start: usize, count: i32) -> Result<Vector> {
        const MOST: usize = 1024;
        let count = usize::try_from(count).ok().filter(|c| *c <= MOST).ok_or(Errno::EINVAL)?;
        let mut vector = Vector { start, count, size: 0 };
        for at in 0..count {
            let size = vector.size.checked_add(vector.part(at)?.size);
            vector.size = size.filter(|s| isize::try_from(*s).is_ok()).ok_or(Errno::EINVAL)?;
        }
        Ok(vector)
    }

    fn part(&self, at: usize) -> Result<Buffer> {
        let place = self.start.wrapping_add(at * size_of::<[usize; 2]>());
        let [start, size] = fetch::<[usize; 2]>(place)?;
        Ok(Buffer { start, size })
    }
}

impl Text for Vector {
    fn size(&self) -> usize {
        self.size
    }

    fn byte(&self, mut at: usize) -> Result<u8> {
        for number in 0..self.count {
            let part = self.part(number)?;
            if at < part.size {
                return part.byte(at);
            }
            at -= part.size;
        }
        Err(Errno::EFAULT)
    }
}
