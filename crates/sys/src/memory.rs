//! Memory that is a file: segments of shared memory, and what is mapped where.
//!
//! # Safety
//! Mappings are made and removed where the program asked for it, by `shmat` and `shmdt`; the places of the other calls'
//! structures are ours and valid for them.

use core::ffi::CStr;

use abi::{Errno, Result};

use crate::{
    check,
    file::{AT_FDCWD, O_CLOEXEC, openat},
    net::Fd,
    syscall6,
};

/// `memfd_create`: closed by exec.
pub const MFD_CLOEXEC: u32 = 1;
/// `memfd_create`: may be sealed.
pub const MFD_ALLOW_SEALING: u32 = 2;
/// `memfd_create`: of huge pages.
pub const MFD_HUGETLB: u32 = 4;
/// No mapping can write from now on; refused with `EBUSY` while one could.
pub const F_SEAL_WRITE: u32 = 8;
const F_ADD_SEALS: usize = 1033;
const F_GET_SEALS: usize = 1034;

/// What a file is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stat {
    /// The file system's device.
    pub dev: u64,
    /// The inode's number.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// The unit of its memory, bytes.
    pub block: u64,
    /// Its kind and mode.
    pub mode: u32,
    /// How many names it has.
    pub links: u64,
}

/// A new file in memory.
///
/// # Errors
/// `EINVAL` for a size of huge pages that there is not, `EMFILE ENFILE ENOMEM`.
pub fn memfd(name: &CStr, flags: u32) -> Result<Fd> {
    // SAFETY: a terminated name.
    let fd = check(unsafe { syscall6(319, name.as_ptr() as usize, flags as usize, 0, 0, 0, 0) })?;
    Ok(Fd::new(fd as i32))
}

/// Sets a file's size.
///
/// # Errors
/// `EFBIG EINVAL ENOMEM`.
pub fn resize(file: &Fd, size: u64) -> Result<()> {
    const RLIMIT_FSIZE: usize = 1;
    // Above the limit, the kernel would send a signal that ends the program.
    if size > soft_limit(RLIMIT_FSIZE) {
        return Err(Errno::EFBIG);
    }
    // SAFETY: two integers.
    check(unsafe { syscall6(77, file.raw() as usize, size as usize, 0, 0, 0, 0) }).map(|_| ())
}

/// Takes the memory for all of a file.
///
/// # Errors
/// `ENOMEM ENOSPC`.
pub fn fill(file: &Fd, size: u64) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { syscall6(285, file.raw() as usize, 0, 0, size as usize, 0, 0) }).map(|_| ())
}

/// What the file of a descriptor is.
///
/// # Errors
/// `EBADF`.
pub fn stat(fd: i32) -> Result<Stat> {
    let mut words = [0u64; 18];
    // SAFETY: room for a `struct stat`.
    check(unsafe { syscall6(5, fd as usize, words.as_mut_ptr() as usize, 0, 0, 0, 0) })?;
    let mode = (words[3] & u64::from(u32::MAX)) as u32;
    Ok(Stat { dev: words[0], ino: words[1], size: words[6], block: words[7], mode, links: words[2] })
}

/// Adds seals to a file.
///
/// # Errors
/// `EBUSY` for [`F_SEAL_WRITE`] while it is mapped so that it could be written; `EPERM` if no seal may be added.
pub fn seal(file: &Fd, seals: u32) -> Result<()> {
    // SAFETY: integers.
    check(unsafe { syscall6(72, file.raw() as usize, F_ADD_SEALS, seals as usize, 0, 0, 0) }).map(|_| ())
}

/// Whether a file has [`F_SEAL_WRITE`].
pub fn is_write_sealed(file: &Fd) -> bool {
    // SAFETY: integers.
    let seals = check(unsafe { syscall6(72, file.raw() as usize, F_GET_SEALS, 0, 0, 0, 0) });
    seals.is_ok_and(|seals| seals & F_SEAL_WRITE as usize != 0)
}

/// Where a mapping of a file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where there is room.
    Anywhere,
    /// There, if nothing is.
    Free(usize),
    /// There, in place of what is.
    Over(usize),
}

/// Maps a whole file, shared.
///
/// # Safety
/// What is mapped at [`Place::Over`] must be the program's to replace, at its wish.
///
/// # Errors
/// `EEXIST` if the place is not free; mmap's.
pub unsafe fn map_file(file: &Fd, len: usize, place: Place, write: bool, execute: bool) -> Result<usize> {
    const MAP_SHARED: usize = 1;
    const MAP_FIXED: usize = 0x10;
    const MAP_FIXED_NOREPLACE: usize = 0x10_0000;
    let (at, fixed) = match place {
        Place::Anywhere => (0, 0),
        Place::Free(at) => (at, MAP_FIXED_NOREPLACE),
        Place::Over(at) => (at, MAP_FIXED),
    };
    let prot = 1 | if write { 2 } else { 0 } | if execute { 4 } else { 0 };
    // SAFETY: the caller's promise; a new mapping harms nobody.
    check(unsafe { syscall6(9, at, len, prot, MAP_SHARED | fixed, file.raw() as usize, 0) })
}

/// Whether so much memory could be committed now.
pub fn can_commit(len: usize) -> bool {
    const READ_WRITE: usize = 3;
    const PRIVATE_ANONYMOUS: usize = 0x22;
    // SAFETY: it goes where there is room.
    let at = check(unsafe { syscall6(9, 0, len, READ_WRITE, PRIVATE_ANONYMOUS, usize::MAX, 0) });
    // SAFETY: just mapped, and nobody knows it.
    at.is_ok_and(|at| unsafe { unmap_range(at, len) }.is_ok())
}

/// Removes mappings.
///
/// # Safety
/// They must be the program's to remove, at its wish.
///
/// # Errors
/// `EINVAL ENOMEM`.
pub unsafe fn unmap_range(at: usize, len: usize) -> Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { syscall6(11, at, len, 0, 0, 0, 0) }).map(|_| ())
}

/// Whether a range is part of one single mapping.
pub fn is_one_mapping(at: usize, len: usize) -> bool {
    // SAFETY: to the size it has already, and not to be moved: nothing changes.
    check(unsafe { syscall6(25, at, len, len, 0, 0, 0) }) == Ok(at)
}

/// `RLIMIT_MEMLOCK`, bytes; all ones if there is none.
pub fn memlock_limit() -> u64 {
    const RLIMIT_MEMLOCK: usize = 8;
    soft_limit(RLIMIT_MEMLOCK)
}

fn soft_limit(resource: usize) -> u64 {
    let mut limit = [0u64; 2];
    // SAFETY: room for a `struct rlimit`.
    unsafe { syscall6(97, resource, limit.as_mut_ptr() as usize, 0, 0, 0, 0) };
    limit[0]
}

/// All memory of the machine and its swap space, bytes.
pub fn total_memory() -> u64 {
    let mut words = [0u64; 14];
    // SAFETY: room for a `struct sysinfo`.
    unsafe { syscall6(99, words.as_mut_ptr() as usize, 0, 0, 0, 0, 0) };
    let unit = (words[13] & u64::from(u32::MAX)).max(1);
    (words[4].saturating_add(words[8])).saturating_mul(unit)
}

fn open(path: &CStr) -> Result<Fd> {
    // SAFETY: a terminated path.
    unsafe { openat(AT_FDCWD, path.as_ptr() as usize, O_CLOEXEC) }
}

fn read(file: i32, at: usize, to: &mut [u8]) -> Result<usize> {
    loop {
        // SAFETY: `to` is valid for its length.
        let len = unsafe { syscall6(17, file as usize, to.as_mut_ptr() as usize, to.len(), at, 0, 0) };
        match check(len) {
            Err(Errno::EINTR) => {}
            done => return done.map(|n| n.min(to.len())),
        }
    }
}

/// The number in a file of /proc/sys.
pub fn read_number(path: &CStr) -> Option<u32> {
    let mut text = [0; 16];
    let len = read(open(path).ok()?.raw(), 0, &mut text).ok()?;
    core::str::from_utf8(text.get(..len)?).ok()?.trim().parse().ok()
}

/// A mapping, as /proc/PID/maps tells of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: usize,
    /// Address behind it.
    pub end: usize,
    /// Where in the file it begins.
    pub offset: u64,
    /// The file's device, as in [`Stat`].
    pub dev: u64,
    /// The file's inode, 0 if there is no file.
    pub ino: u64,
    /// Whether it is shared, if only to be read.
    pub is_shared: bool,
}

/// Room for all of a line but the file's name.
const FIELDS: usize = 120;

impl Mapping {
    /// Reads the fields of a line.
    fn parse(line: &[u8]) -> Option<Mapping> {
        let mut fields = line.split(|b| *b == b' ').filter(|f| !f.is_empty());
        let (start, end) = pair(fields.next()?, b'-')?;
        let is_shared = fields.next()?.ends_with(b"s");
        let offset = hex(fields.next()?)?;
        let (major, minor) = pair(fields.next()?, b':')?;
        let ino = core::str::from_utf8(fields.next()?).ok()?.trim_end().parse().ok()?;
        let dev = device(major, minor);
        Some(Mapping { start: start as usize, end: end as usize, offset, dev, ino, is_shared })
    }
}

/// A device's number as [`Stat`] has it.
const fn device(major: u64, minor: u64) -> u64 {
    (major & 0xfff) << 8 | minor & 0xff | (minor & !0xff) << 12 | (major & !0xfff) << 32
}

fn hex(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
}

fn pair(field: &[u8], between: u8) -> Option<(u64, u64)> {
    let at = field.iter().position(|b| *b == between)?;
    Some((hex(field.get(..at)?)?, hex(field.get(at + 1..)?)?))
}

/// What a mapping must be to be looked at, as PROCMAP_QUERY has it.
const SHARED_VMA: u64 = 0x08;
const FILE_BACKED_VMA: u64 = 0x20;

/// The first shared mapping of a file in this process that ends above `from` and for which `wanted` says so.
///
/// # Errors
/// If /proc can't be read.
pub fn find_own_mapping(from: usize, wanted: impl FnMut(&Mapping) -> bool) -> Result<Option<Mapping>> {
    find_shared_mapping(open(c"/proc/self/maps")?.raw(), from, wanted)
}

/// The same in the process whose /proc/PID/maps this is. One that has ended has none.
///
/// # Errors
/// If that can't be read.
pub fn find_shared_mapping(
    maps: i32,
    from: usize,
    mut wanted: impl FnMut(&Mapping) -> bool,
) -> Result<Option<Mapping>> {
    find(maps, from, FILE_BACKED_VMA | SHARED_VMA, |m| m.is_shared && wanted(m))
}

/// As [`find_shared_mapping`], where `wanted` is asked of any mapping: the kernel passes over none by itself, and so is never at it for long.
///
/// # Errors
/// If that can't be read.
pub fn find_mapping(maps: i32, from: usize, wanted: impl FnMut(&Mapping) -> bool) -> Result<Option<Mapping>> {
    find(maps, from, 0, wanted)
}

/// Whether the process whose /proc/PID/maps this was has anything of a file mapped: it ended or executed another program if not.
///
/// # Errors
/// If that can't be read.
pub fn has_mappings(maps: i32) -> Result<bool> {
    find(maps, 0, FILE_BACKED_VMA, |_| true).map(|found| found.is_some())
}

/// The first mapping of a file that ends above `from` and for which `wanted` says so. The kernel may leave out what is not of this kind.
fn find(
    maps: i32,
    from: usize,
    kind: u64,
    mut wanted: impl FnMut(&Mapping) -> bool,
) -> Result<Option<Mapping>> {
    let mut above = from;
    loop {
        match query(maps, above, kind) {
            Ok(None) | Err(Errno::ESRCH) => return Ok(None),
            Ok(Some(mapping)) if wanted(&mapping) => return Ok(Some(mapping)),
            Ok(Some(mapping)) => above = mapping.end,
            Err(_) => return find_in_text(maps, above, wanted),
        }
    }
}

/// The first mapping of a kind that ends above `from`, asked of an open /proc/PID/maps. That costs half of what reading the text costs, and nothing
/// for what lies below, or is of another kind.
///
/// # Errors
/// `ENOTTY` before Linux 6.11; `ESRCH` if the process has ended.
fn query(maps: i32, from: usize, kind: u64) -> Result<Option<Mapping>> {
    const PROCMAP_QUERY: usize = 0xc068_6611;
    const COVERING_OR_NEXT_VMA: u64 = 0x10;
    let mut query = [0u64; 13];
    query[0] = size_of_val(&query) as u64;
    query[1] = COVERING_OR_NEXT_VMA | kind;
    query[2] = from as u64;
    // SAFETY: a `struct procmap_query`, which says its size and names no other places.
    let done =
        check(unsafe { syscall6(16, maps as usize, PROCMAP_QUERY, query.as_mut_ptr() as usize, 0, 0, 0) });
    match done {
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
        Ok(_) => {
            let dev = device(query[9] & u64::from(u32::MAX), query[9] >> 32);
            let [start, end] = [query[3], query[4]].map(|address| address as usize);
            let is_shared = query[5] & SHARED_VMA != 0;
            Ok(Some(Mapping { start, end, offset: query[7], dev, ino: query[8], is_shared }))
        }
    }
}

/// [`find`] for kernels that can't be asked for a single mapping.
fn find_in_text(maps: i32, from: usize, mut wanted: impl FnMut(&Mapping) -> bool) -> Result<Option<Mapping>> {
    let mut buffer = [0; 512];
    let mut line = [0; FIELDS];
    let (mut at, mut len) = (0, 0);
    loop {
        let got = read(maps, at, &mut buffer)?;
        if got == 0 {
            return Ok(None);
        }
        at += got;
        for &byte in &buffer[..got] {
            if byte != b'\n' {
                if let Some(place) = line.get_mut(len) {
                    *place = byte;
                    len += 1;
                }
                continue;
            }
            let mapping = Mapping::parse(&line[..len]).filter(|m| m.ino != 0 && m.end > from);
            if let Some(mapping) = mapping.filter(&mut wanted) {
                return Ok(Some(mapping));
            }
            len = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_read() {
        let line = b"7f4d8140e000-7f4d81410000 rwxs 00001000 00:01 6                          /SYSV00000000";
        let mapping = Mapping {
            start: 0x7f4d_8140_e000,
            end: 0x7f4d_8141_0000,
            offset: 4096,
            dev: 1,
            ino: 6,
            is_shared: true,
        };
        assert_eq!(Mapping::parse(line), Some(mapping));
        assert_eq!(
            Mapping::parse(b"7f4d8140e000-7f4d81410000 rw-p 00000000 103:02 77")
                .map(|m| (m.dev, m.is_shared)),
            Some((0x1_0302, false))
        );

        assert_eq!(Mapping::parse(b"nonsense"), None);
    }

    /// Both ways to look at mappings see the same ones, also when the text is read a second time.
    #[test]
    fn the_text_tells_what_the_query_tells() {
        const MAP_SHARED: usize = 1;
        const MAP_PRIVATE: usize = 2;
        const MAP_FIXED: usize = 0x10;
        let file = memfd(c"looked at", MFD_CLOEXEC).unwrap();
        resize(&file, 4 << 12).unwrap();
        let read_only = crate::file::reopen(file.raw(), 0).unwrap();
        let Stat { dev, ino, .. } = stat(file.raw()).unwrap();
        // SAFETY: it goes where there is room.
        let at = unsafe { map_file(&file, 4 << 12, Place::Anywhere, true, false) }.unwrap();
        // SAFETY: our own mapping, which nobody uses.
        unsafe { unmap_range(at + (1 << 12), 1 << 12) }.unwrap();
        for (page, how, file) in [(2, MAP_PRIVATE, &file), (3, MAP_SHARED, &read_only)] {
            // SAFETY: as above.
            let placed = unsafe {
                syscall6(9, at + (page << 12), 1 << 12, 1, how | MAP_FIXED, file.raw() as usize, page << 12)
            };
            assert_eq!(check(placed), Ok(at + (page << 12)));
        }
        let piece = |page: usize| Mapping {
            start: at + (page << 12),
            end: at + ((page + 1) << 12),
            offset: (page as u64) << 12,
            dev,
            ino,
            is_shared: page != 2,
        };
        let maps = open(c"/proc/self/maps").unwrap();
        let its = |m: &Mapping| m.ino == ino && m.dev == dev;
        for (from, found, shared) in [
            (0, Some(piece(0)), Some(piece(0))),
            (at + 4095, Some(piece(0)), Some(piece(0))),
            (at + 4096, Some(piece(2)), Some(piece(3))),
            (at + 3 * 4096, Some(piece(3)), Some(piece(3))),
            (at + 4 * 4096, None, None),
        ] {
            assert_eq!(find(maps.raw(), from, FILE_BACKED_VMA, its), Ok(found));
            assert_eq!(find_in_text(maps.raw(), from, its), Ok(found));
            assert_eq!(find_mapping(maps.raw(), from, its), Ok(found));
            assert_eq!(find_shared_mapping(maps.raw(), from, its), Ok(shared));
            assert_eq!(find_in_text(maps.raw(), from, |m| m.is_shared && its(m)), Ok(shared));
        }
        assert_eq!(has_mappings(maps.raw()), Ok(true));
        // SAFETY: as above.
        unsafe { unmap_range(at, 4 << 12) }.unwrap();
    }
}
