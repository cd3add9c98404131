//! `/dev/mqueue`, the directory of the namespace's POSIX queues, where no view of it is mounted.
//!
//! What users see: `open` and `fopen` of `/dev/mqueue/NAME` give a file with the line of that moment, and make a queue with `O_CREAT`; `stat` and its
//! kin, `access`, `unlink` and `opendir` are those of `mount -t mqueue`. So `ls`, `cat`, `touch`, `rm` and shells can be used, whether or not the
//! machine has such a directory.
//! What is missing: paths that are not written so (relative, by links, with dots); `open` of the directory; `chmod`, `chown`; writing fails with `EPERM`.
//!
//! Calls that change something must not reach the kernel first, which may have queues of its own there; the others are looked at behind it, as
//! those of /proc.
//!
//! # Safety
//! A path is looked at only after the kernel has read it and did not answer `EFAULT`. A listing is used by one thread at a time, as libc's.

use core::cell::UnsafeCell;
use core::ffi::{c_char, c_int, c_long, c_uint, c_void};
use core::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use abi::{
    Errno, Result,
    mqueue::{O_CREAT, O_WRONLY},
};
use client::{
    mqd,
    queues::{self, Access, DIRECTORY, Seen},
};
use engine::{mqueue::do_mq_open, mqueuefs::MqStat};
use sys::file::{self, AT_FDCWD};

pub(super) use client::queues::is_path;

use super::{
    path,
    symbols::{close_number, flags_of, libc_closedir, stream_of},
    with,
};
use crate::loader::Next;

const O_DIRECTORY: c_int = 0o200_000;

/// What a path names.
#[derive(Clone, Copy)]
enum Place {
    Directory,
    /// The queue whose name begins there.
    Queue(usize),
}

/// What a path names, which the kernel has read; nothing if it is none of ours, or a view is mounted there.
#[cold]
fn place(path: usize) -> Option<Place> {
    // SAFETY: the caller's promise.
    let text = unsafe { path::text(path) };
    let rest = text.strip_prefix(DIRECTORY)?;
    let name = rest.iter().position(|byte| *byte != b'/');
    let found = match name {
        None => Place::Directory,
        Some(0) => return None,
        Some(at) => Place::Queue(path + DIRECTORY.len() + at),
    };
    // There must be a namespace, and one that this process may look into.
    (!is_view() && with(|_, _| Ok(())).is_ok()).then_some(found)
}

/// Whether a view of the namespace is mounted at the directory.
fn is_view() -> bool {
    const FUSE_SUPER_MAGIC: i64 = 0x6573_5546;
    // SAFETY: a terminated string.
    let opened =
        unsafe { file::openat(AT_FDCWD, c"/dev/mqueue".as_ptr().addr(), file::O_PATH | file::O_CLOEXEC) };
    opened.is_ok_and(|fd| file::is_on(fd.raw(), FUSE_SUPER_MAGIC))
}

/// As [`place`], of a path that the kernel has not read yet.
fn place_unread(path: usize) -> Option<Place> {
    file::can_be_read(path).then(|| place(path))?
}

/// The bytes of a queue's name.
fn bytes<'a>(name: usize) -> &'a [u8] {
    // SAFETY: the end of a path that the kernel has read.
    unsafe { path::text(name) }
}

fn find(name: usize, access: Access) -> Result<MqStat> {
    with(|ctx, _| queues::find(ctx, bytes(name), access))
}

// ---- open

/// A descriptor of a file with the queue's line, which is made if it is to be.
fn open_queue(name: usize, flags: c_int, mode: c_uint) -> Result<i64> {
    let seen = if flags & file::O_PATH != 0 {
        find(name, Access::Exists)
    } else {
        let mqd = with(|ctx, _| do_mq_open(ctx, name as u64, queues::asked(flags), mode, 0))?;
        let seen = with(|ctx, _| engine::mqueue::stat_mqd(ctx, mqd));
        close_number(mqd);
        seen
    };
    let opened = queues::make(&seen?, flags)?.leak();
    if flags & file::O_CLOEXEC == 0 {
        file::keep_over_exec(opened)?;
    }
    Ok(opened.into())
}

fn open_place(of: Place, flags: c_int, mode: c_uint) -> Result<i64> {
    match of {
        Place::Queue(_) if flags & O_DIRECTORY != 0 => Err(Errno::ENOTDIR),
        Place::Queue(name) => open_queue(name, flags, mode),
        // A descriptor of no directory would be of no use.
        Place::Directory => Err(Errno::EACCES),
    }
}

/// What `open` without `O_CREAT` gives for a path that the kernel has opened, or refused; nothing if it stays so.
pub(super) fn opened(path: usize, flags: c_int) -> Option<Result<i64>> {
    place(path).map(|of| open_place(of, flags, 0))
}

extern "C" fn open_ours(path: usize, flags: c_int, mode: c_uint) -> c_int {
    openat_ours(AT_FDCWD, path, flags, mode)
}

extern "C" fn creat_ours(path: usize, mode: c_uint) -> c_int {
    openat_ours(AT_FDCWD, path, O_CREAT | O_WRONLY, mode)
}

extern "C" fn openat_ours(_: c_int, path: usize, flags: c_int, mode: c_uint) -> c_int {
    crate::finish_int(place(path).ok_or(Errno::ENOENT).and_then(|of| open_place(of, flags, mode)))
}

extern "C" fn fopen_ours(path: usize, mode: *const c_char) -> *mut c_void {
    const FOR_ALL: c_uint = 0o666;
    // SAFETY: the program's mode, which was read before.
    let flags = unsafe { flags_of(mode) };
    let opened = place(path).ok_or(Errno::ENOENT).and_then(|of| open_place(of, flags | O_CREAT, FOR_ALL));
    stream_of(crate::finish_int(opened), mode)
}

/// Which function makes a queue's file, in libc's place; 0 if none does.
pub(super) extern "C" fn before_open(path: usize, flags: c_int) -> usize {
    before_openat(AT_FDCWD, path, flags, open_ours as *const () as usize)
}

/// As [`before_open`].
pub(super) extern "C" fn before_openat_call(dir: c_int, path: usize, flags: c_int) -> usize {
    before_openat(dir, path, flags, openat_ours as *const () as usize)
}

/// As [`before_open`].
pub(super) extern "C" fn before_creat(path: usize) -> usize {
    before_openat(AT_FDCWD, path, O_CREAT, creat_ours as *const () as usize)
}

/// As [`before_open`].
pub(super) extern "C" fn before_fopen(path: usize, mode: *const c_char) -> usize {
    // SAFETY: the program's mode, which libc reads too.
    let makes = unsafe { mode.read() } != b'r'.cast_signed();
    before_openat(AT_FDCWD, path, if makes { O_CREAT } else { 0 }, fopen_ours as *const () as usize)
}

fn before_openat(_: c_int, path: usize, flags: c_int, ours: usize) -> usize {
    let makes = flags & (O_CREAT | file::O_PATH) == O_CREAT;
    if makes && place_unread(path).is_some() { ours } else { 0 }
}

// ---- access, unlink

/// Whether somebody may do that; nothing if the kernel's answer stays.
pub(super) fn accessed(path: usize, mode: c_int) -> Option<Result<i64>> {
    let Place::Queue(name) = place(path)? else { return Some(Ok(0)) };
    let access = Access::of(mode);
    let Access::Open(flags) = access else {
        return Some(find(name, access).map(|_| 0));
    };
    let mqd = with(|ctx, _| do_mq_open(ctx, name as u64, flags, 0, 0));
    Some(mqd.map(|mqd| {
        close_number(mqd);
        0
    }))
}

/// Which function unlinks a queue, in libc's place.
pub(super) fn choose_unlink(path: usize, _: usize) -> Option<usize> {
    place_unread(path).map(|_| unlink_ours as *const () as usize)
}

/// As [`choose_unlink`].
pub(super) fn choose_unlinkat(_: usize, path: usize) -> Option<usize> {
    place_unread(path).map(|_| unlinkat_ours as *const () as usize)
}

extern "C" fn unlink_ours(path: usize) -> c_int {
    unlinkat_ours(AT_FDCWD, path, 0)
}

extern "C" fn unlinkat_ours(_: c_int, path: usize, flags: c_int) -> c_int {
    const AT_REMOVEDIR: c_int = 0x200;
    crate::finish_int(match place(path) {
        Some(Place::Queue(_)) if flags & AT_REMOVEDIR != 0 => Err(Errno::ENOTDIR),
        Some(Place::Queue(name)) => with(|ctx, _| engine::mqueue::do_mq_unlink(ctx, name as u64)).map(|()| 0),
        _ => Err(if flags & AT_REMOVEDIR != 0 { Errno::EBUSY } else { Errno::EISDIR }),
    })
}

// ---- stat

fn see(of: Place) -> Result<Seen> {
    match of {
        Place::Directory => with(|ctx, _| queues::see_directory(ctx)),
        Place::Queue(name) => find(name, Access::Exists).map(|q| Seen::from(&q)),
    }
}

/// Copies a structure to the program.
fn put<T>(to: usize, value: &T) -> Result<()> {
    // SAFETY: `value` is ours, without gaps; faults at `to` are caught: the process has attached.
    unsafe { client::copy(to as *mut u8, core::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// Behind libc's call of that result: what is ours takes its place, be it named by a path or, without one, by a descriptor.
fn after(result: c_int, fd: c_int, path: usize, put: impl FnOnce(Seen) -> Result<i64>) -> c_int {
    let was_read = result == 0 || matches!(Errno::from_raw(crate::errno()), Errno::ENOENT | Errno::EACCES);
    if !was_read {
        return result;
    }
    // SAFETY: the kernel has read it.
    let text = if path == 0 { &[] } else { unsafe { path::text(path) } };
    let seen = if text.is_empty() {
        (result == 0 && mqd::is_still_queue(fd)).then(|| mqd::stat(fd).map(|q| Seen::from(&q)))
    } else if is_path(text) {
        place(path).map(see)
    } else {
        None
    };
    seen.map_or(result, |seen| crate::finish_int(seen.and_then(put)))
}

macro_rules! stats {
    ($($name:ident($($argument:ident: $kind:ty),*), $next:ident, ($fd:expr, $path:expr) => $kind_of:ident($to:ident);)*) => {
        /// Finds libc's functions.
        pub(super) fn find_all() {
            $($next.find();)*
        }
    $(
        static $next: Next = {
            const NAME: &str = concat!(stringify!($name), "\0");
            match core::ffi::CStr::from_bytes_with_nul(NAME.as_bytes()) {
                Ok(name) => Next::new(name),
                Err(_) => panic!(),
            }
        };

        /// libc's, but for what is in `/dev/mqueue`.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($argument: $kind),*) -> c_int {
            // SAFETY: libc's function of that name has this signature.
            let libc: extern "C" fn($($kind),*) -> c_int = unsafe { core::mem::transmute($next.get()) };
            after(libc($($argument),*), $fd, $path, |seen| put($to, &seen.$kind_of()).map(|()| 0))
        }
    )* };
}

stats! {
    stat(path: usize, to: usize), STAT, (AT_FDCWD, path) => stat(to);
    stat64(path: usize, to: usize), STAT64, (AT_FDCWD, path) => stat(to);
    lstat(path: usize, to: usize), LSTAT, (AT_FDCWD, path) => stat(to);
    lstat64(path: usize, to: usize), LSTAT64, (AT_FDCWD, path) => stat(to);
    fstat(fd: c_int, to: usize), FSTAT, (fd, 0) => stat(to);
    fstat64(fd: c_int, to: usize), FSTAT64, (fd, 0) => stat(to);
    fstatat(dir: c_int, path: usize, to: usize, flags: c_int), FSTATAT, (dir, path) => stat(to);
    fstatat64(dir: c_int, path: usize, to: usize, flags: c_int), FSTATAT64, (dir, path) => stat(to);
    statx(dir: c_int, path: usize, flags: c_int, mask: c_uint, to: usize), STATX, (dir, path) => statx(to);
    // As programs that were built for an old libc call them.
    __xstat(version: c_int, path: usize, to: usize), XSTAT, (AT_FDCWD, path) => stat(to);
    __xstat64(version: c_int, path: usize, to: usize), XSTAT64, (AT_FDCWD, path) => stat(to);
    __lxstat(version: c_int, path: usize, to: usize), LXSTAT, (AT_FDCWD, path) => stat(to);
    __lxstat64(version: c_int, path: usize, to: usize), LXSTAT64, (AT_FDCWD, path) => stat(to);
    __fxstat(version: c_int, fd: c_int, to: usize), FXSTAT, (fd, 0) => stat(to);
    __fxstat64(version: c_int, fd: c_int, to: usize), FXSTAT64, (fd, 0) => stat(to);
    __fxstatat(version: c_int, dir: c_int, path: usize, to: usize, flags: c_int), FXSTATAT, (dir, path) => stat(to);
    __fxstatat64(version: c_int, dir: c_int, path: usize, to: usize, flags: c_int), FXSTATAT64, (dir, path) => stat(to);
}

// ---- listings

/// How many listings there can be at a time.
const LISTINGS_MAX: usize = 16;
const NAME_ROOM: usize = 256;

/// `struct dirent` of x86-64.
#[repr(C)]
struct Dirent {
    ino: u64,
    off: i64,
    reclen: u16,
    kind: u8,
    name: [u8; NAME_ROOM],
}

/// What a `DIR *` of ours leads to.
struct Listing {
    used: AtomicBool,
    /// How many entries were given: two for the dots, then one more than the index of a queue.
    at: AtomicU32,
    entry: UnsafeCell<Dirent>,
}

// SAFETY: only whoever has claimed a listing uses it, as POSIX has it of a `DIR`.
unsafe impl Sync for Listing {}

static LISTINGS: [Listing; LISTINGS_MAX] = [const {
    Listing {
        used: AtomicBool::new(false),
        at: AtomicU32::new(0),
        entry: UnsafeCell::new(Dirent { ino: 0, off: 0, reclen: 0, kind: 0, name: [0; NAME_ROOM] }),
    }
}; LISTINGS_MAX];

/// The listing of a `DIR *`, if it is of ours.
fn listing(dir: usize) -> Option<&'static Listing> {
    let from = dir.checked_sub(LISTINGS.as_ptr().addr())?;
    LISTINGS.get(from / size_of::<Listing>())
}

/// What `opendir` gives in the place of libc's listing; nothing if that stays.
pub(super) extern "C" fn directory_opened(result: usize, path: usize) -> usize {
    let was_read = result != 0
        || matches!(Errno::from_raw(crate::errno()), Errno::ENOENT | Errno::EACCES | Errno::ENOTDIR);
    // SAFETY: the kernel has read it.
    if !was_read || path == 0 || !is_path(unsafe { path::text(path) }) {
        return result;
    }
    let opened = match place(path) {
        None => return result,
        Some(Place::Queue(name)) => find(name, Access::Exists).and(Err(Errno::ENOTDIR)),
        Some(Place::Directory) => {
            let free = LISTINGS.iter().find(|one| !one.used.swap(true, Acquire));
            free.ok_or(Errno::EMFILE)
        }
    };
    if result != 0 {
        libc_closedir()(result);
    }
    match opened {
        Ok(listing) => {
            listing.at.store(0, Relaxed);
            core::ptr::from_ref(listing).addr()
        }
        Err(error) => {
            crate::finish(Err(error));
            0
        }
    }
}

/// The function for a listing of ours.
pub(super) fn choose_readdir(dir: usize, _: usize) -> Option<usize> {
    listing(dir).map(|_| readdir_ours as *const () as usize)
}

/// As [`choose_readdir`].
pub(super) fn choose_readdir_r(dir: usize, _: usize) -> Option<usize> {
    listing(dir).map(|_| readdir_r_ours as *const () as usize)
}

/// As [`choose_readdir`].
pub(super) fn choose_closedir(dir: usize, _: usize) -> Option<usize> {
    listing(dir).map(|_| closedir_ours as *const () as usize)
}

/// As [`choose_readdir`].
pub(super) fn choose_rewinddir(dir: usize, _: usize) -> Option<usize> {
    listing(dir).map(|_| rewinddir_ours as *const () as usize)
}

/// As [`choose_readdir`].
pub(super) fn choose_telldir(dir: usize, _: usize) -> Option<usize> {
    listing(dir).map(|_| telldir_ours as *const () as usize)
}

/// As [`choose_readdir`].
pub(super) fn choose_seekdir(dir: usize, _: usize) -> Option<usize> {
    listing(dir).map(|_| seekdir_ours as *const () as usize)
}

/// As [`choose_readdir`].
pub(super) fn choose_dirfd(dir: usize, _: usize) -> Option<usize> {
    listing(dir).map(|_| dirfd_ours as *const () as usize)
}

/// The next entry, into `entry`. Whether there is one.
fn next_entry(listing: &Listing, entry: &mut Dirent) -> Result<bool> {
    let at = listing.at.load(Relaxed);
    let Some((next, found)) = with(|ctx, _| queues::next_entry(ctx, at))? else { return Ok(false) };
    set_name(entry, found.name());
    listing.at.store(next, Relaxed);
    entry.ino = found.ino();
    entry.off = next.into();
    entry.kind = found.kind();
    #[expect(clippy::cast_possible_truncation, reason = "some hundred bytes")]
    let size = size_of::<Dirent>() as u16;
    entry.reclen = size;
    Ok(true)
}

fn set_name(entry: &mut Dirent, name: impl Iterator<Item = u8>) {
    entry.name = [0; NAME_ROOM];
    // The last byte stays 0.
    for (to, from) in entry.name[..NAME_ROOM - 1].iter_mut().zip(name) {
        *to = from;
    }
}

extern "C" fn readdir_ours(dir: usize) -> *const c_void {
    let Some(listing) = listing(dir) else { return core::ptr::null() };
    // SAFETY: nobody else uses the listing at the same time: the caller's promise to libc.
    let entry = unsafe { &mut *listing.entry.get() };
    match next_entry(listing, entry) {
        Ok(true) => core::ptr::from_ref(entry).cast(),
        Ok(false) => core::ptr::null(),
        Err(error) => {
            crate::finish(Err(error));
            core::ptr::null()
        }
    }
}

extern "C" fn readdir_r_ours(dir: usize, into: usize, result: usize) -> c_int {
    let Some(listing) = listing(dir) else { return Errno::EBADF.raw() };
    let mut entry = Dirent { ino: 0, off: 0, reclen: 0, kind: 0, name: [0; NAME_ROOM] };
    let filled = next_entry(listing, &mut entry).and_then(|found| {
        if found {
            put(into, &entry)?;
        }
        put(result, &if found { into } else { 0 })
    });
    filled.map_or_else(Errno::raw, |()| 0)
}

extern "C" fn closedir_ours(dir: usize) -> c_int {
    if let Some(listing) = listing(dir) {
        listing.used.store(false, Release);
    }
    0
}

extern "C" fn rewinddir_ours(dir: usize) {
    seekdir_ours(dir, 0);
}

extern "C" fn telldir_ours(dir: usize) -> c_long {
    listing(dir).map_or(-1, |listing| listing.at.load(Relaxed).into())
}

extern "C" fn seekdir_ours(dir: usize, to: c_long) {
    if let Some(listing) = listing(dir) {
        listing.at.store(u32::try_from(to).unwrap_or(u32::MAX), Relaxed);
    }
}

/// There is none.
extern "C" fn dirfd_ours(_: usize) -> c_int {
    crate::finish_int(Err(Errno::EOPNOTSUPP))
}
