//! The calls, with slices and answers in place of pointers and errno; the `_raw` ones take any pointer.
//!
//! # Safety
//!
//! Each call below gets either memory that outlives it, or, in the `_raw` ones, an address that the
//! kernel (or what stands for it) has to check by itself: that it does is what the cases are about.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::{ffi::c_void, mem, ptr};

use libc::{c_int, c_long, msginfo, msqid_ds, sembuf, semid_ds, seminfo, shmid_ds, timespec};
use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::simulated::simulation;

pub(crate) type Answer<T> = Result<T, Errno>;

pub(crate) const MSG_COPY: c_int = 0o40000;
pub(crate) const MSG_STAT_ANY: c_int = 13;
pub(crate) const NOWAIT: c_int = libc::IPC_NOWAIT;
/// `IPC_NOWAIT` and `SEM_UNDO` as a `sembuf` holds them.
pub(crate) const SEM_NOWAIT: i16 = 0o4000;
pub(crate) const UNDO: i16 = 0x1000;

unsafe extern "C" {
    fn semtimedop(semid: c_int, sops: *mut sembuf, nsops: usize, timeout: *const timespec) -> c_int;
}

/// A received message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) mtype: i64,
    pub(crate) text: Vec<u8>,
}

/// A message, as a case expects it.
pub(crate) fn message(mtype: i64, text: &[u8]) -> Message {
    Message { mtype, text: text.to_vec() }
}

static IS_32_BIT: AtomicBool = AtomicBool::new(false);

/// From now on this process makes its calls as a 32-bit program.
pub(crate) fn be_32_bit() {
    IS_32_BIT.store(true, Relaxed);
}

/// Makes a call: on the simulated machine by its number and registers if the case is there, as a 32-bit program where it is one, else by libc.
fn make<T: TryFrom<i64> + Default + PartialOrd>(
    number: c_long,
    registers: [u64; 5],
    by_libc: impl FnOnce() -> T,
) -> Answer<T> {
    let [a, b, c, d, e] = registers;
    let registers = [a, b, c, d, e, 0];
    let value = match simulation() {
        Some(simulation) => simulation.call(number, registers).map_err(|error| Errno(error.raw()))?,
        None if IS_32_BIT.load(Relaxed) => int80::call(number, registers).map_err(Errno)?,
        None => return answer(by_libc()),
    };
    Ok(T::try_from(value).unwrap_or_else(|_| panic!("call {number} returns {value}")))
}

/// A register with an address.
fn at<T>(address: *const T) -> u64 {
    address.expose_provenance() as u64
}

/// A register with an int.
fn int(value: c_int) -> u64 {
    i64::from(value).cast_unsigned()
}

fn answer<T: Default + PartialOrd>(value: T) -> Answer<T> {
    if value < T::default() {
        Err(Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)))
    } else {
        Ok(value)
    }
}

pub(crate) fn msgget(key: i32, flags: c_int) -> Answer<i32> {
    // SAFETY: no memory is passed.
    make(libc::SYS_msgget, [int(key), int(flags), 0, 0, 0], || unsafe { libc::msgget(key, flags) })
}

/// A queue of its own, for the owner only.
pub(crate) fn queue() -> Answer<i32> {
    msgget(libc::IPC_PRIVATE, 0o600)
}

pub(crate) fn msgsnd(id: i32, mtype: i64, text: &[u8], flags: c_int) -> Answer<i32> {
    let mut buffer = mtype.to_ne_bytes().to_vec();
    buffer.extend_from_slice(text);
    msgsnd_raw(id, buffer.as_ptr().cast(), text.len(), flags)
}

pub(crate) fn msgsnd_raw(id: i32, buffer: *const c_void, size: usize, flags: c_int) -> Answer<i32> {
    // SAFETY: see the module's head.
    make(libc::SYS_msgsnd, [int(id), at(buffer), size as u64, int(flags), 0], || unsafe {
        libc::msgsnd(id, buffer, size, flags)
    })
}

pub(crate) fn msgrcv(id: i32, size: usize, mtype: i64, flags: c_int) -> Answer<Message> {
    let mut buffer = vec![0u8; 8 + size];
    let length = msgrcv_raw(id, buffer.as_mut_ptr().cast(), size, mtype, flags)?;
    let (head, text) = buffer.split_at(8);
    let mtype = i64::from_ne_bytes(head.try_into().expect("eight bytes"));
    Ok(message(mtype, &text[..length as usize]))
}

pub(crate) fn msgrcv_raw(
    id: i32,
    buffer: *mut c_void,
    size: usize,
    mtype: i64,
    flags: c_int,
) -> Answer<isize> {
    // SAFETY: see the module's head.
    make(libc::SYS_msgrcv, [int(id), at(buffer), size as u64, mtype.cast_unsigned(), int(flags)], || unsafe {
        libc::msgrcv(id, buffer, size, mtype, flags) as i64
    })
    .map(|length| length as isize)
}

pub(crate) fn msgctl_raw(id: i32, command: c_int, buffer: *mut c_void) -> Answer<i32> {
    // SAFETY: see the module's head.
    make(libc::SYS_msgctl, [int(id), int(command), at(buffer), 0, 0], || unsafe {
        libc::msgctl(id, command, buffer.cast())
    })
}

/// The answer of `IPC_STAT`, `MSG_STAT` or `MSG_STAT_ANY`, and what it wrote.
pub(crate) fn msg_stat_by(id: i32, command: c_int) -> Answer<(i32, msqid_ds)> {
    // SAFETY: all zeroes is a valid msqid_ds.
    let mut ds: msqid_ds = unsafe { mem::zeroed() };
    let value = msgctl_raw(id, command, (&raw mut ds).cast())?;
    Ok((value, ds))
}

pub(crate) fn msg_stat(id: i32) -> Answer<msqid_ds> {
    Ok(msg_stat_by(id, libc::IPC_STAT)?.1)
}

pub(crate) fn msg_set(id: i32, mut ds: msqid_ds) -> Answer<i32> {
    msgctl_raw(id, libc::IPC_SET, (&raw mut ds).cast())
}

pub(crate) fn msg_set_qbytes(id: i32, qbytes: u64) -> Answer<i32> {
    let mut ds = msg_stat(id)?;
    ds.msg_qbytes = qbytes;
    msg_set(id, ds)
}

pub(crate) fn msg_remove(id: i32) -> Answer<i32> {
    msgctl_raw(id, libc::IPC_RMID, ptr::null_mut())
}

pub(crate) fn msg_info(command: c_int) -> Answer<(i32, msginfo)> {
    // SAFETY: all zeroes is a valid msginfo.
    let mut info: msginfo = unsafe { mem::zeroed() };
    let highest = msgctl_raw(0, command, (&raw mut info).cast())?;
    Ok((highest, info))
}

pub(crate) fn semget(key: i32, nsems: c_int, flags: c_int) -> Answer<i32> {
    // SAFETY: no memory is passed.
    make(libc::SYS_semget, [int(key), int(nsems), int(flags), 0, 0], || unsafe {
        libc::semget(key, nsems, flags)
    })
}

/// A set of its own with these values.
pub(crate) fn set_of(values: &[u16]) -> Answer<i32> {
    let id = semget(libc::IPC_PRIVATE, values.len() as c_int, 0o600)?;
    setall(id, values)?;
    Ok(id)
}

/// One operation on the semaphore `num`.
pub(crate) fn op(num: u16, delta: i16, flags: i16) -> sembuf {
    sembuf { sem_num: num, sem_op: delta, sem_flg: flags }
}

pub(crate) fn semop(id: i32, operations: &[sembuf]) -> Answer<i32> {
    semop_raw(id, operations.as_ptr(), operations.len())
}

pub(crate) fn semop_raw(id: i32, operations: *const sembuf, count: usize) -> Answer<i32> {
    // SAFETY: see the module's head; the operations are only read.
    make(libc::SYS_semop, [int(id), at(operations), count as u64, 0, 0], || unsafe {
        libc::semop(id, operations.cast_mut(), count)
    })
}

pub(crate) fn semtimedop_for(id: i32, operations: &[sembuf], sec: i64, nsec: i64) -> Answer<i32> {
    let timeout = timespec { tv_sec: sec, tv_nsec: nsec };
    semtimedop_raw(id, operations.as_ptr(), operations.len(), &raw const timeout)
}

pub(crate) fn semtimedop_raw(
    id: i32,
    operations: *const sembuf,
    count: usize,
    timeout: *const timespec,
) -> Answer<i32> {
    // SAFETY: see the module's head; the operations are only read.
    make(libc::SYS_semtimedop, [int(id), at(operations), count as u64, at(timeout), 0], || unsafe {
        semtimedop(id, operations.cast_mut(), count, timeout)
    })
}

/// `argument` is the union: a value or an address.
pub(crate) fn semctl(id: i32, num: c_int, command: c_int, argument: usize) -> Answer<i32> {
    // SAFETY: see the module's head; a pointer-sized integer covers every member of the union.
    make(libc::SYS_semctl, [int(id), int(num), int(command), argument as u64, 0], || unsafe {
        libc::semctl(id, num, command, argument)
    })
}

pub(crate) fn getval(id: i32, num: c_int) -> Answer<i32> {
    semctl(id, num, libc::GETVAL, 0)
}

pub(crate) fn setval(id: i32, num: c_int, value: i32) -> Answer<i32> {
    semctl(id, num, libc::SETVAL, value as usize)
}

/// All values of a set of `count`.
pub(crate) fn getall(id: i32, count: usize) -> Answer<Vec<u16>> {
    let mut values = vec![0u16; count];
    semctl(id, 0, libc::GETALL, values.as_mut_ptr() as usize)?;
    Ok(values)
}

pub(crate) fn setall(id: i32, values: &[u16]) -> Answer<i32> {
    semctl(id, 0, libc::SETALL, values.as_ptr() as usize)
}

/// The answer of `IPC_STAT`, `SEM_STAT` or `SEM_STAT_ANY`, and what it wrote.
pub(crate) fn sem_stat_by(id: i32, command: c_int) -> Answer<(i32, semid_ds)> {
    // SAFETY: all zeroes is a valid semid_ds.
    let mut ds: semid_ds = unsafe { mem::zeroed() };
    let value = semctl(id, 0, command, (&raw mut ds) as usize)?;
    Ok((value, ds))
}

pub(crate) fn sem_stat(id: i32) -> Answer<semid_ds> {
    Ok(sem_stat_by(id, libc::IPC_STAT)?.1)
}

pub(crate) fn sem_set(id: i32, mut ds: semid_ds) -> Answer<i32> {
    semctl(id, 0, libc::IPC_SET, (&raw mut ds) as usize)
}

pub(crate) fn sem_remove(id: i32) -> Answer<i32> {
    semctl(id, 0, libc::IPC_RMID, 0)
}

pub(crate) fn sem_info(command: c_int) -> Answer<(i32, seminfo)> {
    // SAFETY: all zeroes is a valid seminfo.
    let mut info: seminfo = unsafe { mem::zeroed() };
    let highest = semctl(0, 0, command, (&raw mut info) as usize)?;
    Ok((highest, info))
}

/// Sleepers that wait for the semaphore `num` to grow, and for it to be 0.
pub(crate) fn waiting(id: i32, num: c_int) -> Answer<(i32, i32)> {
    Ok((semctl(id, num, libc::GETNCNT, 0)?, semctl(id, num, libc::GETZCNT, 0)?))
}

/// `struct shm_info`, which libc does not have.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ShmInfo {
    pub(crate) used_ids: c_int,
    pub(crate) shm_tot: u64,
    pub(crate) shm_rss: u64,
    pub(crate) shm_swp: u64,
    pub(crate) swap_attempts: u64,
    pub(crate) swap_successes: u64,
}

/// `struct shminfo`, likewise.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ShmLimits {
    pub(crate) shmmax: u64,
    pub(crate) shmmin: u64,
    pub(crate) shmmni: u64,
    pub(crate) shmseg: u64,
    pub(crate) shmall: u64,
    unused: [u64; 4],
}

pub(crate) const SHM_STAT: c_int = 13;
pub(crate) const SHM_INFO: c_int = 14;
pub(crate) const SHM_STAT_ANY: c_int = 15;
pub(crate) const SHM_LOCK: c_int = 11;
pub(crate) const SHM_UNLOCK: c_int = 12;
pub(crate) const SHM_DEST: u32 = 0o1000;
pub(crate) const SHM_LOCKED: u32 = 0o2000;

pub(crate) fn shmget(key: i32, size: usize, flags: c_int) -> Answer<i32> {
    // SAFETY: no memory is passed.
    make(libc::SYS_shmget, [int(key), size as u64, int(flags), 0, 0], || unsafe {
        libc::shmget(key, size, flags)
    })
}

/// A segment of its own, for the owner only.
pub(crate) fn segment(size: usize) -> Answer<i32> {
    shmget(libc::IPC_PRIVATE, size, 0o600)
}

/// The address as a number: what lies there is not Rust's business.
pub(crate) fn shmat(id: i32, addr: usize, flags: c_int) -> Answer<usize> {
    // SAFETY: see the module's head; the cases map over nothing but their own mappings.
    let attached = make(libc::SYS_shmat, [int(id), addr as u64, int(flags), 0, 0], || unsafe {
        libc::shmat(id, ptr::without_provenance(addr), flags).expose_provenance() as i64
    });
    attached.map(|at| at as usize)
}

pub(crate) fn shmdt(addr: usize) -> Answer<i32> {
    // SAFETY: see the module's head; no reference into an attachment outlives a call here.
    make(libc::SYS_shmdt, [addr as u64, 0, 0, 0, 0], || unsafe { libc::shmdt(ptr::without_provenance(addr)) })
}

pub(crate) fn shmctl_raw(id: i32, command: c_int, buffer: *mut c_void) -> Answer<i32> {
    // SAFETY: see the module's head.
    make(libc::SYS_shmctl, [int(id), int(command), at(buffer), 0, 0], || unsafe {
        libc::shmctl(id, command, buffer.cast())
    })
}

/// A command that takes no structure.
pub(crate) fn shmctl(id: i32, command: c_int) -> Answer<i32> {
    shmctl_raw(id, command, ptr::null_mut())
}

/// The answer of `IPC_STAT`, `SHM_STAT` or `SHM_STAT_ANY`, and what it wrote.
pub(crate) fn shm_stat_by(id: i32, command: c_int) -> Answer<(i32, shmid_ds)> {
    // SAFETY: all zeroes is a valid shmid_ds.
    let mut ds: shmid_ds = unsafe { mem::zeroed() };
    let value = shmctl_raw(id, command, (&raw mut ds).cast())?;
    Ok((value, ds))
}

pub(crate) fn shm_stat(id: i32) -> Answer<shmid_ds> {
    Ok(shm_stat_by(id, libc::IPC_STAT)?.1)
}

/// How often the segment is attached.
pub(crate) fn nattch(id: i32) -> Answer<u64> {
    Ok(shm_stat(id)?.shm_nattch)
}

pub(crate) fn shm_set(id: i32, mut ds: shmid_ds) -> Answer<i32> {
    shmctl_raw(id, libc::IPC_SET, (&raw mut ds).cast())
}

pub(crate) fn shm_remove(id: i32) -> Answer<i32> {
    shmctl(id, libc::IPC_RMID)
}

pub(crate) fn shm_info() -> Answer<(i32, ShmInfo)> {
    let mut info = ShmInfo::default();
    let highest = shmctl_raw(0, SHM_INFO, (&raw mut info).cast())?;
    Ok((highest, info))
}

pub(crate) fn shm_limits() -> Answer<(i32, ShmLimits)> {
    let mut info = ShmLimits::default();
    let highest = shmctl_raw(0, libc::IPC_INFO, (&raw mut info).cast())?;
    Ok((highest, info))
}

/// The byte at an address of an attachment.
pub(crate) fn byte_at(addr: usize) -> u8 {
    // SAFETY: the case has the address attached.
    unsafe { ptr::with_exposed_provenance::<u8>(addr).read_volatile() }
}

/// Writes a byte to an address of an attachment.
pub(crate) fn set_byte(addr: usize, value: u8) {
    // SAFETY: the case has the address attached, so that it can be written.
    unsafe { ptr::with_exposed_provenance_mut::<u8>(addr).write_volatile(value) };
}

/// Writes some, likewise.
pub(crate) fn set_bytes(addr: usize, values: &[u8]) {
    for (value, at) in values.iter().zip(addr..) {
        set_byte(at, *value);
    }
}

pub(crate) fn munmap(addr: usize, len: usize) -> Answer<i32> {
    // SAFETY: see `shmdt`.
    answer(unsafe { libc::munmap(ptr::without_provenance_mut(addr), len) })
}

pub(crate) fn mprotect(addr: usize, len: usize, access: c_int) -> Answer<i32> {
    // SAFETY: see `shmdt`.
    answer(unsafe { libc::mprotect(ptr::without_provenance_mut(addr), len, access) })
}

/// Moves a mapping to where there is a lot of room.
pub(crate) fn move_away(addr: usize, len: usize) -> Answer<usize> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let to = room(64 * len);
    // SAFETY: the place was found free; the case has one thread.
    let at = unsafe { libc::mremap(ptr::without_provenance_mut(addr), len, len, flags, to) };
    if at == libc::MAP_FAILED { answer(-1).map(|_: i32| 0) } else { Ok(at.expose_provenance()) }
}

/// An address behind which nothing is mapped for `len` bytes.
pub(crate) fn room(len: usize) -> usize {
    // Where 32-bit programs can be, too.
    let (none, anonymous) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT);
    // SAFETY: a mapping wherever there is room, and removed at once.
    unsafe {
        let at = libc::mmap(ptr::null_mut(), len, none, anonymous, -1, 0);
        assert_ne!(at, libc::MAP_FAILED, "mmap");
        libc::munmap(at, len);
        at.addr()
    }
}
