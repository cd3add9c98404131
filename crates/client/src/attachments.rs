//! What this process has attached: `shmat`, `shmdt`, and fork.
//!
//! What users see: a segment is mapped where and how the kernel would map it; `shmdt` unmaps what is left of the attachment, also
//! after the program has cut it up.
//! What is missing: a mapping that the program has put over an attachment, wholly and by a raw system call, is taken for
//! the attachment by `shmdt`.
//!
//! A table says what was mapped where. It is a hint: what it says is made sure of, and what it doesn't say is looked up in
//! /proc/self/maps.
//!
//! # Safety
//! Mappings are made where the program asks for them, and removed where it asks: what it still uses there is its own
//! affair, as with the kernel's calls.
#![expect(unsafe_code, reason = "mapping is what shmat is for; libc is told of the handlers for fork")]

use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

use abi::{Errno, Result};
use engine::{MapPlace, MapRequest, shm};
use sys::{
    libc_function,
    memory::{self as files, Mapping, Place},
    net::Fd,
};

use crate::{
    attach, leave, memory, stranger,
    wire::{self, calls},
};

/// Pages that are not used cost nothing.
const ENTRIES: usize = 4096;
const FREE: usize = 0;
/// Being filled or emptied.
const BUSY: usize = 1;

struct Entry {
    at: AtomicUsize,
    len: AtomicUsize,
    memory: AtomicU64,
    id: AtomicI32,
    /// The program has changed it by itself.
    cut: AtomicBool,
    /// The number of the call that unmaps something of it, and whether that is all.
    leaving: AtomicU64,
}

static TABLE: [Entry; ENTRIES] = [const {
    Entry {
        at: AtomicUsize::new(FREE),
        len: AtomicUsize::new(0),
        id: AtomicI32::new(0),
        memory: AtomicU64::new(0),
        cut: AtomicBool::new(false),
        leaving: AtomicU64::new(0),
    }
}; ENTRIES];
/// All entries from this one on are free.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Calls that unmapped something.
static CALLS: AtomicU32 = AtomicU32::new(0);
/// Whether the program has ever attached anything.
static EVER: AtomicBool = AtomicBool::new(false);
/// Whether there was once no room in the table.
static MORE: AtomicBool = AtomicBool::new(false);

/// Whether nobody says when the program maps and unmaps by itself.
static UNSEEN: AtomicBool = AtomicBool::new(false);

/// Nobody will say when the program maps and unmaps by itself ([`unmapping`]): what is left of an attachment is always looked up.
pub fn unseen_mappings() {
    UNSEEN.store(true, Relaxed);
}

impl Entry {
    fn claim(&self, seen: usize) -> bool {
        self.at.compare_exchange(seen, BUSY, AcqRel, Relaxed).is_ok()
    }
}

/// The entries that may be in use.
fn entries() -> &'static [Entry] {
    TABLE.get(..USED.load(Acquire)).unwrap_or(&TABLE)
}

/// Remembers an attachment, and forgets what was at its place before.
fn remember(at: usize, len: usize, id: i32, memory: u64) {
    let mut put = false;
    let used = entries().len();
    for (place, entry) in TABLE.iter().enumerate() {
        if place >= used && put {
            break;
        }
        let seen = entry.at.load(Acquire);
        let entry_end = seen + entry.len.load(Relaxed);
        let covered = seen > BUSY && at <= seen && entry_end <= at + len;
        if seen > BUSY && seen < at + len && at < entry_end && !covered {
            entry.cut.store(true, Relaxed);
        }
        if !(covered || seen == FREE && !put) || !entry.claim(seen) {
            continue;
        }
        if put {
            entry.at.store(FREE, Release);
            continue;
        }
        entry.len.store(len, Relaxed);
        entry.id.store(id, Relaxed);
        entry.memory.store(memory, Relaxed);
        entry.cut.store(UNSEEN.load(Relaxed), Relaxed);
        entry.leaving.store(0, Relaxed);
        USED.fetch_max(place + 1, AcqRel);
        entry.at.store(at, Release);
        put = true;
    }
    if !put {
        MORE.store(true, Relaxed);
    }
}

/// The process goes to another namespace: what it has attached stays, and has no identifier there.
pub(crate) fn leave_all() {
    for entry in entries() {
        entry.id.store(shm::ELSEWHERE, Relaxed);
    }
}

/// What the program unmaps of attachments by itself: noted when that is done.
#[derive(Debug, Default)]
#[must_use]
pub struct Unmapping {
    /// The call's number, 0 if it has to do with no attachment.
    call: u64,
}

/// The program is about to unmap a range by itself. Returns at once if nothing was ever attached.
#[inline(always)]
pub fn unmapping(at: usize, len: usize) -> Unmapping {
    if EVER.load(Relaxed) { leave(at, len, false) } else { Unmapping::default() }
}

/// The program is about to move mappings away by itself.
#[inline(always)]
pub fn moving(at: usize, len: usize) -> Unmapping {
    if EVER.load(Relaxed) { leave(at, len, true) } else { Unmapping::default() }
}

/// Whether anything of the attachment of some memory that was made at `at` is mapped in a range.
fn is_there(memory: u64, at: usize, from: usize, end: usize) -> bool {
    let its = |m: &Mapping| m.start >= at && m.offset == (m.start - at) as u64;
    let here =
        |m: &Mapping| m.ino == memory && memory::is_device(m.dev) && its(m) && m.start < end && from < m.end;
    // What lies behind the end is not looked at.
    let found = files::find_own_mapping(from, |m| m.start >= end || here(m));
    found.is_ok_and(|found| found.as_ref().is_some_and(here))
}

/// Marks the attachments that a call unmaps something of. One of which nothing will be left is nobody else's from now on, as the place
/// may be taken again before it is noted.
#[cold]
#[inline(never)]
fn leave(from: usize, len: usize, stays: bool) -> Unmapping {
    let end = from.saturating_add(len);
    let mut call = 0;
    for entry in entries() {
        let at = entry.at.load(Acquire);
        let len = entry.len.load(Relaxed);
        if at <= BUSY || at >= end || from >= at + len {
            continue;
        }
        // Of one that was cut before, there may be nothing left in that range.
        if entry.cut.load(Relaxed) && !is_there(entry.memory.load(Relaxed), at, from, end) {
            continue;
        }
        let whole = !stays && from <= at && at + len <= end && entry.claim(at);
        if !whole {
            entry.cut.store(true, Relaxed);
        }
        if call == 0 {
            call = u64::from(CALLS.fetch_add(1, Relaxed)) + 1;
        }
        entry.leaving.store(call << 1 | u64::from(whole), Relaxed);
    }
    Unmapping { call }
}

impl Unmapping {
    /// It is over: `done` or not.
    #[inline(always)]
    pub fn over(&self, done: bool) {
        if self.call == 0 {
            return;
        }
        let here = || {
            crate::with(|ctx| {
                self.each(|id, whole| shm::unmapped(ctx, id, whole));
                Ok(())
            })
        };
        if done && stranger::is_one() {
            self.each(tell_unmapped);
        } else if !done || leave::has_left() || here().is_err() {
            self.each(|_, _| ());
        }
    }

    /// Each segment of which something was unmapped, and whether nothing is left of that attachment.
    #[cold]
    #[inline(never)]
    fn each(&self, mut note: impl FnMut(i32, bool)) {
        for entry in entries().iter().filter(|_| self.call != 0) {
            let leaving = entry.leaving.load(Relaxed);
            if leaving >> 1 != self.call
                || entry.leaving.compare_exchange(leaving, 0, AcqRel, Relaxed).is_err()
            {
                continue;
            }
            let (at, id) = (entry.at.load(Acquire), entry.id.load(Relaxed));
            let mut whole = leaving & 1 != 0;
            if !whole {
                if at <= BUSY {
                    continue; // Detached meanwhile.
                }
                let end = at + entry.len.load(Relaxed);
                whole = !is_there(entry.memory.load(Relaxed), at, at, end) && entry.claim(at);
            }
            if whole {
                entry.at.store(FREE, Release);
            }
            note(id, whole);
        }
    }
}

/// Has it noted for a stranger that it has unmapped something of a segment.
pub(crate) fn tell_unmapped(id: i32, whole: bool) {
    if id != shm::ELSEWHERE {
        let registers = [id.cast_unsigned().into(), whole.into(), 0, 0, 0, 0];
        let _ = stranger::ask(calls::SHM_UNMAPPED, registers);
    }
}

/// See [`engine::Backing::map_memory`].
pub(crate) fn map(wanted: &MapRequest, mut replaced: impl FnMut(i32, bool)) -> Result<u64> {
    let (file, size) = memory::file_of(wanted.memory, !wanted.write)?;
    let done = map_given(&file, size, wanted, &mut replaced);
    if wanted.write {
        memory::keep(file, wanted.memory);
    }
    done
}

/// Maps a file that this process was given.
pub(crate) fn map_given(
    file: &Fd,
    size: u64,
    wanted: &MapRequest,
    mut replaced: impl FnMut(i32, bool),
) -> Result<u64> {
    let done = usize::try_from(size).map_err(|_| Errno::ENOMEM).and_then(|len| {
        let gone = match wanted.place {
            MapPlace::Over(at) => unmapping(usize::try_from(at).unwrap_or(usize::MAX), len),
            _ => Unmapping::default(),
        };
        let mapped = map_file(file, len, wanted);
        gone.each(|id, whole| {
            if mapped.is_ok() {
                replaced(id, whole)
            }
        });
        mapped
    });
    let (at, len) = done?;
    // Before it is counted: a child that is forked from now on has it.
    if !EVER.swap(true, AcqRel) {
        watch_forks();
    }
    remember(at, len, wanted.id, wanted.memory);
    Ok(at as u64)
}

/// For how long a file is tried that can't be mapped to be written for the moment: the kernel takes up to some 150 ms to find out that it can't be
/// sealed, as it waits for pages that are in use for a moment.
const PATIENCE_NS: u64 = 1_000_000_000;

fn map_file(file: &Fd, len: usize, wanted: &MapRequest) -> Result<(usize, usize)> {
    let address = |at| usize::try_from(at).map_err(|_| Errno::EINVAL);
    let place = match wanted.place {
        MapPlace::Anywhere => Place::Anywhere,
        MapPlace::Over(at) => Place::Over(address(at)?),
        MapPlace::Free(at) => Place::Free(address(at)?),
    };
    let mut end = None;
    loop {
        // SAFETY: over what is there only if the program says so.
        let at = unsafe { files::map_file(file, len, place, wanted.write, wanted.execute) };
        match at {
            Err(Errno::EEXIST) => return Err(Errno::EINVAL),
            Err(Errno::EPERM) if files::is_write_sealed(file) => return Err(Errno::EIDRM),
            // Somebody is trying to seal it, and may yet find that it is mapped.
            Err(Errno::EPERM) if wanted.write => {
                let now = sys::monotonic_ns();
                if now > *end.get_or_insert(now + PATIENCE_NS) {
                    return Err(Errno::EPERM);
                }
                let _ = sys::futex_wait(&AtomicU32::new(0), 0, 100_000);
            }
            done => return Ok((done?, len)),
        }
    }
}

/// See [`engine::Backing::unmap_memory`].
pub(crate) fn unmap(addr: u64, segment_of: impl Fn(u64) -> Option<(i32, u64)>) -> Result<i32> {
    let addr = usize::try_from(addr).map_err(|_| Errno::EINVAL)?;
    let is_known = |e: &&Entry| addr > BUSY && e.at.load(Acquire) == addr;
    // Beside one that is whole there may be others, of which something is left above it.
    if let Some(entry) = entries().iter().find(|e| is_known(e) && !e.cut.load(Relaxed) && e.claim(addr)) {
        let (len, id) = (entry.len.load(Relaxed), entry.id.load(Relaxed));
        // SAFETY: the attachment that the program wants to be rid of.
        let whole = files::is_one_mapping(addr, len).then(|| unsafe { files::unmap_range(addr, len) });
        entry.at.store(FREE, Release);
        if let Some(unmapped) = whole {
            return unmapped.map(|()| id);
        }
    }
    let id = unmap_pieces(addr, segment_of)?;
    if let Some(entry) = entries().iter().find(|e| is_known(e) && e.id.load(Relaxed) == id && e.claim(addr)) {
        entry.at.store(FREE, Release);
    }
    Ok(id)
}

/// `shmdt` of a process that has left: for what it has attached it needs nobody.
pub(crate) fn unmap_alone(addr: u64) -> Result<()> {
    unmap(addr, |_| None).map(drop)
}

/// Unmaps what is left of the attachment at `addr`: its first piece at or above that address whose place in the file is its distance
/// from there, and then the others of the same file.
fn unmap_pieces(addr: usize, segment_of: impl Fn(u64) -> Option<(i32, u64)>) -> Result<i32> {
    let fits =
        |m: &Mapping| m.start >= addr && m.offset == (m.start - addr) as u64 && memory::is_device(m.dev);
    let mut above = addr;
    let (first, id, size) = loop {
        let next = files::find_own_mapping(above, fits).map_err(|_| Errno::EINVAL)?;
        let next = next.ok_or(Errno::EINVAL)?;
        match segment_of(next.ino) {
            Some((id, size)) => break (next, id, size),
            None => above = next.end, // A memory file of the program's own.
        }
    };
    let end = addr.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
    let mut piece = Some(first);
    while let Some(Mapping { start, end: piece_end, .. }) = piece {
        // SAFETY: a piece of the attachment that the program wants to be rid of.
        unsafe { files::unmap_range(start, piece_end - start) }?;
        let same = |m: &Mapping| fits(m) && m.ino == first.ino && m.dev == first.dev && m.start < end;
        let found = files::find_own_mapping(piece_end, |m| m.start >= end || same(m)).unwrap_or(None);
        piece = found.filter(same);
    }
    Ok(id)
}

// ---- fork

type Handler = Option<extern "C" fn()>;

/// Calls these functions of libc's fork: before it, after it in the parent, and in the child.
pub(crate) fn at_fork(prepare: extern "C" fn(), parent: Handler, child: extern "C" fn()) {
    let (glibc, musl) = (libc_function!("__register_atfork"), libc_function!("pthread_atfork"));
    // SAFETY: libc's functions, of which glibc's takes the library to watch besides; ours is never unloaded.
    unsafe {
        if glibc != 0 {
            let register: extern "C" fn(Handler, Handler, Handler, usize) -> i32 =
                core::mem::transmute(glibc);
            register(Some(prepare), parent, Some(child), 0);
        } else if musl != 0 {
            let register: extern "C" fn(Handler, Handler, Handler) -> i32 = core::mem::transmute(musl);
            register(Some(prepare), parent, Some(child));
        }
    }
}

/// From now on, forks are noted: the child has what its parent had.
fn watch_forks() {
    at_fork(before_fork, None, in_child);
}

extern "C" fn before_fork() {
    if stranger::is_one() {
        let _ = stranger::ask(calls::SHM_FORK, [0; 6]);
        return;
    }
    if leave::has_left() {
        return;
    }
    let _ = crate::with(|ctx| {
        shm::fork_begin(ctx);
        Ok(())
    });
}

/// What this process has attached is what its parent had when it forked, whatever either has done since then. The broker then knows of
/// this process before it can have ended.
extern "C" fn in_child() {
    if leave::has_left() && !stranger::is_one() {
        return;
    }
    let mut message = [0; wire::LONGEST];
    let (head, places) = message.split_at_mut(wire::QUESTION);
    let mut count = 0;
    let is_here = |id: &AtomicI32| id.load(Relaxed) != shm::ELSEWHERE;
    let mut known = entries().iter().filter(|e| e.at.load(Acquire) > BUSY && is_here(&e.id));
    for (place, entry) in places.chunks_exact_mut(4).zip(known.by_ref()) {
        place.copy_from_slice(&entry.id.load(Relaxed).to_ne_bytes());
        count += 1;
    }
    let more = (known.next().is_some() || MORE.load(Relaxed)).into();
    head.copy_from_slice(&wire::encode([wire::MAGIC, wire::TELL_FORKED, count, more]));
    let _ = attach::tell(&message[..wire::QUESTION + 4 * count as usize]);
}
