//! The memory of segments: made here, held by the broker, asked of it when it is to be mapped.
//!
//! What users see: a descriptor or two that the process did not open. A few are kept, closed by exec, so that a segment
//! that is attached again needs no question. One that the program has closed, or put something else in the place of, is noticed by its inode.
//! What is missing: memory is counted against overcommit as it is touched, not when a segment is made; where there is no overcommit, all of it is taken then.
//!
//! # Safety
//! The mapping made here is of a new file, and removed again before anybody knows it.
#![expect(unsafe_code, reason = "huge pages are reserved by mapping them")]

use core::ffi::CStr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::*};

use abi::{
    Errno, Result,
    shm::{SHM_HUGE_MASK, SHM_HUGE_SHIFT, SHM_HUGETLB, SHM_NORESERVE},
};
use arena::Handle;
use engine::{Backing, MapRequest, NewMemory, Task, namespace};
use sys::{
    memory::{self as files, Place},
    net::Fd,
};

use crate::{LinuxHost, attach, attachments, holders, wire};

/// How many descriptors a process keeps.
const KEPT: usize = 8;
/// The numbers below are standard input, output and error.
const STANDARD: i32 = 3;
/// The descriptor plus one, and the low half of the inode's number.
static KEPT_FILES: [AtomicU64; KEPT] = [const { AtomicU64::new(0) }; KEPT];
/// The devices of segments' inodes, plus one: of pages of the usual size, and of huge ones.
static DEVICES: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// What the process that holds the memory does itself, instead of asking for it.
#[derive(Debug)]
pub struct Keeper {
    /// See [`Backing::retire_memory`].
    pub retire: fn(u64, Option<i32>) -> Result<bool>,
    /// No segment needs the memory any more.
    pub forget: fn(u64),
    /// Something may be over: look soon.
    pub look: fn(),
}
static KEEPER: AtomicPtr<Keeper> = AtomicPtr::new(core::ptr::null_mut());
/// The thread that answers who asks the keeper.
static KEEPERS_THREAD: AtomicU32 = AtomicU32::new(0);

/// Makes this process the keeper of memory, and the calling thread, which has attached, the one that answers who asks.
pub fn keep_memory(keeper: &'static Keeper) {
    KEEPERS_THREAD.store(crate::tls::get().tid.load(Relaxed), Relaxed);
    KEEPER.store(core::ptr::from_ref(keeper).cast_mut(), Release);
}

pub(crate) fn keeper() -> Option<&'static Keeper> {
    // SAFETY: null, or what was stored: a reference that lives for ever.
    unsafe { KEEPER.load(Acquire).as_ref() }
}

/// The keeper, for the thread that answers who asks it: another one asks, as any process does.
pub(crate) fn keeper_itself(host: &LinuxHost) -> Option<&'static Keeper> {
    keeper().filter(|_| host.tls.tid.load(Relaxed) == KEEPERS_THREAD.load(Relaxed))
}

/// Whether this process is the keeper.
pub(crate) fn is_keeper() -> bool {
    keeper().is_some()
}

/// Whether an inode on this device can be a segment's.
pub(crate) fn is_device(dev: u64) -> bool {
    DEVICES.iter().any(|d| d.load(Relaxed) == dev + 1)
}

pub(crate) fn learn_device(dev: u64, huge: bool) {
    DEVICES[usize::from(huge)].store(dev + 1, Relaxed);
}

/// Learns the device of segments of ordinary pages, where none was made or attached yet.
pub(crate) fn learn_usual_device() -> Result<()> {
    let file = files::memfd(c"", files::MFD_CLOEXEC)?;
    learn_device(files::stat(file.raw())?.dev, false);
    Ok(())
}

const fn pack(fd: i32, memory: u64) -> u64 {
    (fd as u64 + 1) << 32 | memory & 0xffff_ffff
}

/// The kept descriptor in `packed`, if it is still what it was. What is not is the program's.
fn still_ours(packed: u64, memory: Option<u64>) -> Option<(Fd, u64)> {
    let fd = i32::try_from((packed >> 32).checked_sub(1)?).ok()?;
    let stat = files::stat(fd).ok()?;
    let same = memory.map_or(stat.ino & 0xffff_ffff == packed & 0xffff_ffff, |m| m == stat.ino);
    (same && is_device(stat.dev)).then(|| (Fd::new(fd), stat.size))
}

/// Takes the kept descriptor of some memory. While it is taken, no other thread has it.
fn take_kept(memory: u64) -> Option<(Fd, u64)> {
    KEPT_FILES.iter().find_map(|place| {
        let seen = place.load(Relaxed);
        let may_be = seen != 0 && seen & 0xffff_ffff == memory & 0xffff_ffff;
        (may_be && place.compare_exchange(seen, 0, AcqRel, Relaxed).is_ok())
            .then(|| still_ours(seen, Some(memory)))?
    })
}

/// Keeps a descriptor for the next time, in place of another one if need be.
pub(crate) fn keep(file: Fd, memory: u64) {
    let file = holders::out_of_the_way(file);
    // A program that has closed these may write to them all the same.
    if file.raw() < STANDARD {
        return;
    }
    let new = pack(file.leak(), memory);
    if KEPT_FILES.iter().any(|place| place.compare_exchange(0, new, AcqRel, Relaxed).is_ok()) {
        return;
    }
    #[expect(clippy::cast_possible_truncation, reason = "any place will do")]
    let place = &KEPT_FILES[memory as usize % KEPT];
    drop(still_ours(place.swap(new, AcqRel), None));
}

/// Closes all that is kept.
pub(crate) fn forget_kept() {
    for place in &KEPT_FILES {
        drop(still_ours(place.swap(0, AcqRel), None));
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the halves")]
fn halves(memory: u64) -> [u32; 2] {
    [memory as u32, (memory >> 32) as u32]
}

/// The descriptor of some memory, and its bytes: a kept one, or a new one from the broker.
pub(crate) fn file_of(memory: u64, read_only: bool) -> Result<(Fd, u64)> {
    if !read_only && let Some(found) = take_kept(memory) {
        return Ok(found);
    }
    let which = if read_only { wire::ASK_MEMORY_TO_READ } else { wire::ASK_MEMORY };
    let (_, file) = attach::ask(which, halves(memory))?;
    let file = file.ok_or(Errno::ENOSYS)?;
    let stat = files::stat(file.raw())?;
    if stat.ino != memory {
        return Err(Errno::EIDRM);
    }
    learn_device(stat.dev, stat.block > 4096);
    Ok((file, stat.size))
}

/// The memory that was cut off last, 0 once that is taken note of.
static LAST_CUT: AtomicU64 = AtomicU64::new(0);

/// Gives memory that nobody maps back at once: possible while the broker has not taken the file, which is then nothing to it.
/// Otherwise the broker has to close it.
fn cut(file: &Fd) -> bool {
    files::resize(file, 0).is_ok()
}

/// Whether the caller may have huge pages.
fn may_have_huge(host: &impl Task, size: u64) -> bool {
    let in_group = || {
        let group = files::read_number(c"/proc/sys/vm/hugetlb_shm_group");
        group.is_some_and(|gid| host.cred().egid == gid || host.in_group(gid))
    };
    host.cred().ipc_lock || in_group() || size <= host.memlock_limit()
}

/// `vm.overcommit_memory`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Overcommit {
    Guess,
    Always,
    Never,
}

/// What it is, or was a second ago: to ask each time would cost more than the rest of making a segment.
fn overcommit(host: &impl Task) -> Overcommit {
    static KNOWN: AtomicU64 = AtomicU64::new(u64::MAX);
    let now = host.now().cast_unsigned() << 2;
    let known = KNOWN.load(Relaxed);
    let mode = if known & !3 == now {
        known & 3
    } else {
        // Where that can't be read, it is as it mostly is.
        let read = files::read_number(c"/proc/sys/vm/overcommit_memory").unwrap_or(0).min(3);
        KNOWN.store(now | u64::from(read), Relaxed);
        read.into()
    };
    match mode {
        1 => Overcommit::Always,
        2 => Overcommit::Never,
        _ => Overcommit::Guess,
    }
}

/// `ENOMEM` for more than the machine could ever have, as the kernel's heuristics say.
fn check_overcommit(wanted: NewMemory, mode: Overcommit) -> Result<()> {
    /// Less than this needs no question.
    const SMALL: u64 = 32 << 20;
    let guess = mode == Overcommit::Guess && wanted.flags & SHM_NORESERVE == 0;
    if guess && wanted.size > SMALL && wanted.size > files::total_memory() {
        return Err(Errno::ENOMEM);
    }
    Ok(())
}

/// "SYSV" and the key's eight digits.
fn name_of(key: i32) -> [u8; 13] {
    let mut name = *b"SYSV00000000\0";
    for (at, digit) in name[4..12].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(key.cast_unsigned() >> (28 - 4 * at)) as usize & 15];
    }
    name
}

fn make(host: &impl Task, wanted: NewMemory) -> Result<(Fd, files::Stat)> {
    let NewMemory { key, size, flags } = wanted;
    if i64::try_from(size).is_err() {
        return Err(Errno::EINVAL);
    }
    let huge = flags & SHM_HUGETLB != 0;
    let mode = overcommit(host);
    let mut kind = files::MFD_CLOEXEC | files::MFD_ALLOW_SEALING;
    if huge {
        let log = flags >> SHM_HUGE_SHIFT & SHM_HUGE_MASK;
        kind |= files::MFD_HUGETLB | log.cast_unsigned() << SHM_HUGE_SHIFT;
    } else {
        check_overcommit(wanted, mode)?;
    }
    let name = name_of(key);
    let file = files::memfd(CStr::from_bytes_with_nul(&name).unwrap_or_default(), kind).map_err(|e| {
        // A size of pages that the machine has not.
        if huge && e != Errno::EMFILE && e != Errno::ENFILE && e != Errno::ENOMEM { Errno::EINVAL } else { e }
    })?;
    if huge && !may_have_huge(host, size) {
        return Err(Errno::EPERM);
    }
    let unit = if huge { files::stat(file.raw())?.block } else { 4096 };
    // The largest size is no multiple of a page.
    let rounded = size.checked_next_multiple_of(unit).filter(|r| i64::try_from(*r).is_ok()).unwrap_or(size);
    files::resize(&file, rounded).map_err(|_| Errno::ENOMEM)?;
    if mode == Overcommit::Never && !huge {
        // Nothing else commits memory to a file. What there is not is not begun with.
        let may = rounded <= files::total_memory() && usize::try_from(rounded).is_ok_and(files::can_commit);
        may.then_some(()).ok_or(Errno::ENOMEM)?;
        files::fill(&file, rounded).map_err(|_| Errno::ENOMEM)?;
    }
    if huge {
        // Huge pages are reserved for the file when they are first mapped, and then stay so.
        let len = usize::try_from(rounded).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: it goes where there is room.
        let at = unsafe { files::map_file(&file, len, Place::Anywhere, true, false) };
        let at = at.map_err(|_| Errno::ENOMEM)?;
        // SAFETY: just mapped, and nobody knows it.
        unsafe { files::unmap_range(at, len) }?;
    }
    let stat = files::stat(file.raw())?;
    learn_device(stat.dev, huge);
    Ok((file, stat))
}

/// See [`Backing::make_memory`].
pub(crate) fn make_and_give(
    host: &impl Task,
    wanted: NewMemory,
    named: impl FnOnce(u64) -> Handle,
) -> Result<()> {
    let (file, stat) = make(host, wanted)?;
    let segment = named(stat.ino);
    attach::give([wire::MAGIC, wire::GIVE_MEMORY, segment.0, host.tgid()], &file)?;
    // The keeper has it anyway.
    if keeper().is_none() {
        keep(file, stat.ino);
    }
    Ok(())
}

impl Backing for LinuxHost {
    fn make_memory(&self, wanted: NewMemory, named: impl FnOnce(u64) -> Handle) -> Result<()> {
        make_and_give(self, wanted, named)
    }

    fn map_memory(&self, wanted: &MapRequest, replaced: impl FnMut(i32, bool)) -> Result<u64> {
        attachments::map(wanted, replaced)
    }

    fn unmap_memory(&self, addr: u64, segment_of: impl Fn(u64) -> Option<(i32, u64)>) -> Result<i32> {
        attachments::unmap(addr, segment_of)
    }

    fn drop_memory(&self, memory: u64) {
        let kept = take_kept(memory);
        if let Some(keeper) = keeper() {
            (keeper.forget)(memory);
        } else if LAST_CUT.swap(0, Relaxed) != memory && !kept.is_some_and(|(file, _)| cut(&file)) {
            self.watch_removed();
        }
    }

    fn retire_memory(&self, memory: u64, read_only: Option<i32>) -> Result<bool> {
        if let Some(keeper) = keeper() {
            return (keeper.retire)(memory, read_only);
        }
        if let Some(id) = read_only {
            // Mappings that can't write don't hinder the seal: they are counted.
            let (words, _) = attach::ask(wire::ASK_COUNT, [id.cast_unsigned(), 0])?;
            if words[2] != 0 {
                return Ok(false);
            }
        }
        let file = match file_of(memory, false) {
            Err(Errno::EIDRM) => return Ok(true), // Nobody has it, so nobody can attach it any more.
            found => found?.0,
        };
        match files::seal(&file, files::F_SEAL_WRITE) {
            Ok(()) => {
                if cut(&file) {
                    LAST_CUT.store(memory, Relaxed);
                }
                Ok(true)
            }
            Err(error) => {
                keep(file, memory);
                // Of what somebody has sealed against further seals, the broker sees whether it is over.
                if matches!(error, Errno::EBUSY | Errno::EPERM) { Ok(false) } else { Err(error) }
            }
        }
    }

    fn settle(&self, id: Option<i32>) -> Result<(u64, u64)> {
        if keeper_itself(self).is_some() {
            return Err(Errno::ENOSYS);
        }
        let which = if id.is_some() { wire::ASK_COUNT } else { wire::ASK_USAGE };
        let (words, _) = attach::ask(which, [id.unwrap_or(0).cast_unsigned(), 0])?;
        Ok((words[2].into(), words[3].into()))
    }

    fn memory_usage(&self, memory: u64) -> Result<(u64, u64)> {
        let (words, _) = attach::ask(wire::ASK_MEMORY_USAGE, halves(memory))?;
        Ok((words[2].into(), words[3].into()))
    }

    fn lock_memory(&self, memory: u64, lock: bool) -> Result<()> {
        attach::ask(if lock { wire::ASK_LOCK } else { wire::ASK_UNLOCK }, halves(memory)).map(drop)
    }

    fn watch_removed(&self) {
        match keeper_itself(self) {
            Some(keeper) => (keeper.look)(),
            None => attach::ring(self, namespace::ASK_SEGMENTS),
        }
    }

    fn memlock_limit(&self) -> u64 {
        files::memlock_limit()
    }
}
