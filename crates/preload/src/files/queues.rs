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
    mqueue::{O_CREAT, O_EXCL, O_RDWR, O_WRONLY},
};
use client::mqd;
use engine::{
    IpcNamespace,
    mqueue::do_mq_open,
    mqueuefs::{self, MqStat},
    proc::Line,
};
use sys::file::{self, AT_FDCWD};

use super::{
    O_ACCMODE, path,
    symbols::{close_number, flags_of, libc_closedir, stream_of},
    with,
};
use crate::loader::Next;

const DIRECTORY: &[u8] = b"/dev/mqueue";
const O_DIRECTORY: c_int = 0o200_000;

/// What a path names.
#[derive(Clone, Copy)]
enum Place {
    Directory,
    /// The queue whose name begins there.
    Queue(usize),
}

/// Whether a path is one of the directory, or in it.
#[inline(always)]
pub(super) fn is_path(text: &[u8]) -> bool {
    text.len() >= DIRECTORY.len() && text[..DIRECTORY.len()] == *DIRECTORY
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

fn find(name: usize) -> Result<MqStat> {
    with(|ctx, _| mqueuefs::find(ctx, bytes(name)))
}

// ---- open

/// A descriptor of a file with the queue's line, which is made if it is to be.
fn open_queue(name: usize, flags: c_int, mode: c_uint) -> Result<i64> {
    // As a file is opened: with the same rights as a descriptor that can be sent to and received from.
    let asked = flags & (O_ACCMODE | O_CREAT | O_EXCL);
    let mqd = with(|ctx, _| do_mq_open(ctx, name as u64, asked, mode, 0))?;
    let seen = with(|ctx, _| engine::mqueue::stat_mqd(ctx, mqd));
    close_number(mqd);
    let mut line = Line::default();
    seen?.line(&mut line);
    let fd = file::memfd(c"/dev/mqueue")?;
    file::write_all(&fd, line.text())?;
    file::seal(&fd, file::SEALED)?;
    let opened = file::reopen(fd.raw(), flags & O_ACCMODE | file::O_CLOEXEC)?.leak();
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
    if flags & O_CREAT != 0 && place_unread(path).is_some() { ours } else { 0 }
}

// ---- access, unlink

/// Whether somebody may do that; nothing if the kernel's answer stays.
pub(super) fn accessed(path: usize, mode: usize) -> Option<Result<i64>> {
    const X_OK: usize = 1;
    const W_OK: usize = 2;
    const R_OK: usize = 4;
    let Place::Queue(name) = place(path)? else { return Some(Ok(0)) };
    let flags = match (mode & R_OK != 0, mode & W_OK != 0) {
        _ if mode & X_OK != 0 => return Some(find(name).and(Err(Errno::EACCES))),
        (false, false) => return Some(find(name).map(|_| 0)),
        (true, true) => O_RDWR,
        (true, false) => 0,
        (false, true) => O_WRONLY,
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

/// What `stat` tells, of whatever shape its structure is.
struct Seen {
    ino: u64,
    mode: u32,
    nlink: u32,
    uid: u32,
    gid: u32,
    size: u64,
    times: [i64; 3],
}

const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const BLOCK: u64 = 4096;
/// The directory's inode; a queue's is further on.
const INO: u64 = 1;

fn ino_of(stat: &MqStat) -> u64 {
    INO + 1 + u64::from(stat.id.cast_unsigned())
}

fn see(of: Place) -> Result<Seen> {
    match of {
        Place::Directory => with(|ctx, ns| {
            let directory = mqueuefs::directory(ctx)?;
            let owner = ns.owner_uid.load(Relaxed);
            let times = [directory.time; 3];
            Ok(Seen {
                ino: INO,
                mode: S_IFDIR | 0o1777,
                nlink: 2,
                uid: owner,
                gid: owner,
                size: directory.size,
                times,
            })
        }),
        Place::Queue(name) => find(name).map(|q| see_queue(&q)),
    }
}

fn see_queue(q: &MqStat) -> Seen {
    Seen {
        ino: ino_of(q),
        mode: S_IFREG | q.mode & 0o7777,
        nlink: u32::from(!q.unlinked),
        uid: q.uid,
        gid: q.gid,
        size: mqueuefs::FILENT_SIZE,
        times: [q.atime, q.mtime, q.ctime],
    }
}

/// `struct stat` of x86-64.
#[repr(C)]
pub struct Stat {
    dev: u64,
    ino: u64,
    nlink: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    pad: u32,
    rdev: u64,
    size: u64,
    blksize: u64,
    blocks: u64,
    times: [[i64; 2]; 3],
    unused: [u64; 3],
}
const _: () = assert!(size_of::<Stat>() == 144);

/// `struct statx`.
#[repr(C)]
pub struct Statx {
    mask: u32,
    blksize: u32,
    attributes: u64,
    nlink: u32,
    uid: u32,
    gid: u32,
    mode: u16,
    pad: u16,
    ino: u64,
    size: u64,
    blocks: u64,
    attributes_mask: u64,
    /// When it was read, made, changed and written: seconds, and parts of them that are 0.
    times: [[i64; 2]; 4],
    rest: [u64; 16],
}
const _: () = assert!(size_of::<Statx>() == 256);

/// Copies a structure to the program.
fn put<T>(to: usize, value: &T) -> Result<()> {
    // SAFETY: `value` is ours, without gaps; faults at `to` are caught: the process has attached.
    unsafe { client::copy(to as *mut u8, core::ptr::from_ref(value).cast(), size_of::<T>()) }
}

fn put_stat(seen: Seen, to: usize) -> Result<i64> {
    let Seen { ino, mode, nlink, uid, gid, size, times } = seen;
    let stat = Stat {
        dev: 0,
        ino,
        nlink: nlink.into(),
        mode,
        uid,
        gid,
        pad: 0,
        rdev: 0,
        size,
        blksize: BLOCK,
        blocks: 0,
        times: times.map(|seconds| [seconds, 0]),
        unused: [0; 3],
    };
    put(to, &stat).map(|()| 0)
}

#[expect(clippy::cast_possible_truncation, reason = "a mode, and a block")]
fn put_statx(seen: Seen, to: usize) -> Result<i64> {
    /// What is known: all but when it was made.
    const BASIC: u32 = 0x7ff;
    let Seen { ino, mode, nlink, uid, gid, size, times: [read, written, changed] } = seen;
    let stat = Statx {
        mask: BASIC,
        blksize: BLOCK as u32,
        attributes: 0,
        nlink,
        uid,
        gid,
        mode: mode as u16,
        pad: 0,
        ino,
        size,
        blocks: 0,
        attributes_mask: 0,
        times: [[read, 0], [0, 0], [changed, 0], [written, 0]],
        rest: [0; 16],
    };
    put(to, &stat).map(|()| 0)
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
        (result == 0 && mqd::is_queue(fd)).then(|| mqd::stat(fd).map(|q| see_queue(&q)))
    } else if is_path(text) {
        place(path).map(see)
    } else {
        None
    };
    seen.map_or(result, |seen| crate::finish_int(seen.and_then(put)))
}

macro_rules! stats {
    ($($name:ident($($argument:ident: $kind:ty),*), $next:ident, ($fd:expr, $path:expr) => $put:ident($to:ident);)*) => {
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
            after(libc($($argument),*), $fd, $path, |seen| $put(seen, $to))
        }
    )* };
}

stats! {
    stat(path: usize, to: usize), STAT, (AT_FDCWD, path) => put_stat(to);
    stat64(path: usize, to: usize), STAT64, (AT_FDCWD, path) => put_stat(to);
    lstat(path: usize, to: usize), LSTAT, (AT_FDCWD, path) => put_stat(to);
    lstat64(path: usize, to: usize), LSTAT64, (AT_FDCWD, path) => put_stat(to);
    fstat(fd: c_int, to: usize), FSTAT, (fd, 0) => put_stat(to);
    fstat64(fd: c_int, to: usize), FSTAT64, (fd, 0) => put_stat(to);
    fstatat(dir: c_int, path: usize, to: usize, flags: c_int), FSTATAT, (dir, path) => put_stat(to);
    fstatat64(dir: c_int, path: usize, to: usize, flags: c_int), FSTATAT64, (dir, path) => put_stat(to);
    statx(dir: c_int, path: usize, flags: c_int, mask: c_uint, to: usize), STATX, (dir, path) => put_statx(to);
    // As programs that were built for an old libc call them.
    __xstat(version: c_int, path: usize, to: usize), XSTAT, (AT_FDCWD, path) => put_stat(to);
    __xstat64(version: c_int, path: usize, to: usize), XSTAT64, (AT_FDCWD, path) => put_stat(to);
    __lxstat(version: c_int, path: usize, to: usize), LXSTAT, (AT_FDCWD, path) => put_stat(to);
    __lxstat64(version: c_int, path: usize, to: usize), LXSTAT64, (AT_FDCWD, path) => put_stat(to);
    __fxstat(version: c_int, fd: c_int, to: usize), FXSTAT, (fd, 0) => put_stat(to);
    __fxstat64(version: c_int, fd: c_int, to: usize), FXSTAT64, (fd, 0) => put_stat(to);
    __fxstatat(version: c_int, dir: c_int, path: usize, to: usize, flags: c_int), FXSTATAT, (dir, path) => put_stat(to);
    __fxstatat64(version: c_int, dir: c_int, path: usize, to: usize, flags: c_int), FXSTATAT64, (dir, path) => put_stat(to);
}

// ---- listings

/// How many listings there can be at a time.
const LISTINGS_MAX: usize = 16;
const NAME_ROOM: usize = 256;
const DT_DIR: u8 = 4;
const DT_REG: u8 = 8;

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
        Some(Place::Queue(name)) => find(name).and(Err(Errno::ENOTDIR)),
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
    const DOTS: [&[u8]; 2] = [b".", b".."];
    let at = listing.at.load(Relaxed);
    let (next, ino, kind) = if let Some(name) = DOTS.get(at as usize) {
        set_name(entry, name.iter().copied());
        (at + 1, INO, DT_DIR)
    } else {
        let Some((next, stat)) = with(|ctx, _: &IpcNamespace| mqueuefs::next_queue(ctx, at - 2))? else {
            return Ok(false);
        };
        set_name(entry, stat.name());
        (next + 2, ino_of(&stat), DT_REG)
    };
    listing.at.store(next, Relaxed);
    entry.ino = ino;
    entry.off = next.into();
    entry.kind = kind;
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
