//! The calls, with slices and answers in place of pointers and errno; the `_raw` ones take any pointer.
//!
//! # Safety
//!
//! Each call below gets either memory that outlives it, or, in the `_raw` ones, an address that the
//! kernel (or what stands for it) has to check by itself: that it does is what the cases are about.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::{ffi::c_void, mem, ptr};

use kernel_host::Access;
use libc::{c_int, c_long, msginfo, msqid_ds, sembuf, semid_ds, seminfo, shmid_ds, timespec};
use serde::{Deserialize, Serialize};

use crate::api;
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

/// Whether this process makes its calls as a 32-bit program.
pub(crate) fn is_32_bit() -> bool {
    IS_32_BIT.load(Relaxed)
}

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
        None if api::is_on() => api::call(number, registers)?,
        None if is_32_bit() => int80::call(number, registers).map_err(Errno)?,
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

pub(crate) fn answer<T: Default + PartialOrd>(value: T) -> Answer<T> {
    if value < T::default() {
        Err(Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)))
    } else {
        Ok(value)
    }
}

pub(crate) fn msgget(key: i32, flags: c_int) -> Answer<i32> {
    if let Some(answer) = api::msgget(key, flags) {
        return answer;
    }
    // SAFETY: no memory is passed.
    make(libc::SYS_msgget, [int(key), int(flags), 0, 0, 0], || unsafe { libc::msgget(key, flags) })
}

/// A queue of its own, for the owner only.
pub(crate) fn queue() -> Answer<i32> {
    msgget(libc::IPC_PRIVATE, 0o600)
}

pub(crate) fn msgsnd(id: i32, mtype: i64, text: &[u8], flags: c_int) -> Answer<i32> {
    if let Some(answer) = api::msgsnd(id, mtype, text, flags) {
        return answer;
    }
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
    if let Some(answer) = api::msgrcv(id, size, mtype, flags) {
        return answer;
    }
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
    if let Some(answer) = api::msg_remove(id) {
        return answer;
    }
    msgctl_raw(id, libc::IPC_RMID, ptr::null_mut())
}

pub(crate) fn msg_info(command: c_int) -> Answer<(i32, msginfo)> {
    // SAFETY: all zeroes is a valid msginfo.
    let mut info: msginfo = unsafe { mem::zeroed() };
    let highest = msgctl_raw(0, command, (&raw mut info).cast())?;
    Ok((highest, info))
}

pub(crate) fn semget(key: i32, nsems: c_int, flags: c_int) -> Answer<i32> {
    if let Some(answer) = api::semget(key, nsems, flags) {
        return answer;
    }
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
    if let Some(answer) = api::semop(id, operations, None) {
        return answer;
    }
    semop_raw(id, operations.as_ptr(), operations.len())
}

pub(crate) fn semop_raw(id: i32, operations: *const sembuf, count: usize) -> Answer<i32> {
    // SAFETY: see the module's head; the operations are only read.
    make(libc::SYS_semop, [int(id), at(operations), count as u64, 0, 0], || unsafe {
        libc::semop(id, operations.cast_mut(), count)
    })
}

pub(crate) fn semtimedop_for(id: i32, operations: &[sembuf], sec: i64, nsec: i64) -> Answer<i32> {
    if let Some(answer) = api::semop(id, operations, Some((sec, nsec))) {
        return answer;
    }
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
    if let Some(answer) = api::getval(id, num) {
        return answer;
    }
    semctl(id, num, libc::GETVAL, 0)
}

pub(crate) fn setval(id: i32, num: c_int, value: i32) -> Answer<i32> {
    if let Some(answer) = api::setval(id, num, value) {
        return answer;
    }
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
    if let Some(answer) = api::sem_remove(id) {
        return answer;
    }
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
    if let Some(answer) = api::waiting(id, num) {
        return answer;
    }
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
    if let Some(simulation) = simulation() {
        return simulation.byte_at(addr as u64);
    }
    // SAFETY: the case has the address attached.
    unsafe { ptr::with_exposed_provenance::<u8>(addr).read_volatile() }
}

/// Writes a byte to an address of an attachment.
pub(crate) fn set_byte(addr: usize, value: u8) {
    if let Some(simulation) = simulation() {
        return simulation.set_byte(addr as u64, value);
    }
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
    if let Some(simulation) = simulation() {
        simulation.machine(|machine| machine.munmap(simulation.tid(), addr as u64, len as u64));
        return Ok(0);
    }
    // SAFETY: see `shmdt`.
    answer(unsafe { libc::munmap(ptr::without_provenance_mut(addr), len) })
}

pub(crate) fn mprotect(addr: usize, len: usize, access: c_int) -> Answer<i32> {
    if let Some(simulation) = simulation() {
        let access = if access & libc::PROT_WRITE == 0 { Access::Read } else { Access::ReadWrite };
        let done = simulation.space(|space| space.protect(addr as u64, len as u64, access));
        return done.map(|()| 0).map_err(|error| Errno(error.raw()));
    }
    // SAFETY: see `shmdt`.
    answer(unsafe { libc::mprotect(ptr::without_provenance_mut(addr), len, access) })
}

/// Moves a mapping to where there is a lot of room.
pub(crate) fn move_away(addr: usize, len: usize) -> Answer<usize> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let to = room(64 * len);
    if let Some(simulation) = simulation() {
        simulation.space(|space| space.relocate(addr as u64, len as u64, to as u64));
        return Ok(to);
    }
    // SAFETY: the place was found free; the case has one thread.
    let at = unsafe { libc::mremap(ptr::without_provenance_mut(addr), len, len, flags, to) };
    if at == libc::MAP_FAILED { answer(-1).map(|_: i32| 0) } else { Ok(at.expose_provenance()) }
}

/// Maps private memory there: with `MAP_FIXED`, or `MAP_FIXED_NOREPLACE`.
pub(crate) fn map_private(addr: usize, len: usize, how: c_int) -> Answer<usize> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    if let Some(simulation) = simulation() {
        if how == libc::MAP_FIXED {
            munmap(addr, len)?;
        }
        simulation.space(|space| space.map(addr as u64, len as u64, Access::ReadWrite));
        return Ok(addr);
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | how;
    // SAFETY: over nothing but attachments of the case's own.
    let at = unsafe { libc::mmap(ptr::without_provenance_mut(addr), len, access, flags, -1, 0) };
    if at == libc::MAP_FAILED { answer(-1).map(|_: i32| 0) } else { Ok(at.expose_provenance()) }
}

/// An address behind which nothing is mapped for `len` bytes.
pub(crate) fn room(len: usize) -> usize {
    if let Some(simulation) = simulation() {
        return simulation.space(|space| space.room(len as u64)).expect("room") as usize;
    }
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

// ---- POSIX message queues

/// `struct mq_attr`, without what it reserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attr {
    pub(crate) flags: i64,
    pub(crate) maxmsg: i64,
    pub(crate) msgsize: i64,
    pub(crate) curmsgs: i64,
}

/// What a queue of this size wants.
pub(crate) fn sized(maxmsg: i64, msgsize: i64) -> Option<Attr> {
    Some(Attr { flags: 0, maxmsg, msgsize, curmsgs: 0 })
}

fn mq_attr(attr: Attr) -> libc::mq_attr {
    // SAFETY: all zeroes is a valid mq_attr.
    let mut plain: libc::mq_attr = unsafe { mem::zeroed() };
    (plain.mq_flags, plain.mq_maxmsg) = (attr.flags, attr.maxmsg);
    (plain.mq_msgsize, plain.mq_curmsgs) = (attr.msgsize, attr.curmsgs);
    plain
}

/// By libc, whose names begin with a slash.
pub(crate) fn mq_open(name: &str, flags: c_int, mode: u32, attr: Option<Attr>) -> Answer<i32> {
    if let Some(answer) = api::mq_open(name, flags, mode, attr) {
        return answer;
    }
    let name = std::ffi::CString::new(name).expect("a name without a zero");
    let attr = attr.map(mq_attr);
    let attr = attr.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the string and the structure outlive the call.
    make(libc::SYS_mq_open, [at(name.as_ptr()) + 1, int(flags), mode.into(), at(attr), 0], || unsafe {
        libc::mq_open(name.as_ptr(), flags, mode, attr)
    })
}

/// The system call itself, whose names have no slash.
pub(crate) fn mq_open_raw(name: *const c_void, flags: c_int, mode: u32, attr: *const c_void) -> Answer<i32> {
    // SAFETY: see the module's head.
    make(libc::SYS_mq_open, [at(name), int(flags), mode.into(), at(attr), 0], || unsafe {
        libc::syscall(libc::SYS_mq_open, name, flags, mode, attr)
    })
    .map(|fd: i64| fd as i32)
}

/// The system call itself, with a good name.
pub(crate) fn mq_open_named(name: &str, flags: c_int) -> Answer<i32> {
    let name = std::ffi::CString::new(name).expect("a name without a zero");
    mq_open_raw(name.as_ptr().cast(), flags, 0o600, ptr::null())
}

/// The system call itself, which has other errors than libc.
pub(crate) fn mq_unlink(name: &str) -> Answer<i32> {
    let name = std::ffi::CString::new(name).expect("a name without a zero");
    mq_unlink_raw(name.as_ptr().cast())
}

pub(crate) fn mq_unlink_raw(name: *const c_void) -> Answer<i32> {
    // SAFETY: see the module's head.
    make(libc::SYS_mq_unlink, [at(name), 0, 0, 0, 0], || unsafe { libc::syscall(libc::SYS_mq_unlink, name) })
        .map(|value: i64| value as i32)
}

pub(crate) fn mq_send(fd: i32, text: &[u8], prio: u32) -> Answer<i32> {
    if let Some(answer) = api::mq_send(fd, text, prio) {
        return answer;
    }
    mq_timedsend_raw(fd, text.as_ptr().cast(), text.len(), prio, ptr::null())
}

/// Until that time, nanoseconds after (or before) now.
pub(crate) fn mq_timedsend(fd: i32, text: &[u8], prio: u32, ns: i64) -> Answer<i32> {
    mq_timedsend_raw(fd, text.as_ptr().cast(), text.len(), prio, &raw const *Box::new(in_ns(ns)))
}

pub(crate) fn mq_timedsend_raw(
    fd: i32,
    text: *const c_void,
    len: usize,
    prio: u32,
    timeout: *const timespec,
) -> Answer<i32> {
    let registers = [int(fd), at(text), len as u64, prio.into(), at(timeout)];
    // SAFETY: see the module's head.
    make(libc::SYS_mq_timedsend, registers, || unsafe {
        libc::mq_timedsend(fd, text.cast(), len, prio, timeout)
    })
}

pub(crate) fn mq_receive(fd: i32, len: usize) -> Answer<(Vec<u8>, u32)> {
    if let Some(answer) = api::mq_receive(fd, len) {
        return answer;
    }
    mq_receive_until(fd, len, ptr::null())
}

/// Until that time, nanoseconds after (or before) now.
pub(crate) fn mq_timedreceive(fd: i32, len: usize, ns: i64) -> Answer<(Vec<u8>, u32)> {
    mq_receive_until(fd, len, &raw const *Box::new(in_ns(ns)))
}

fn mq_receive_until(fd: i32, len: usize, timeout: *const timespec) -> Answer<(Vec<u8>, u32)> {
    let (mut text, mut prio) = (vec![0u8; len], u32::MAX);
    let length = mq_timedreceive_raw(fd, text.as_mut_ptr().cast(), len, &raw mut prio, timeout)?;
    text.truncate(length as usize);
    Ok((text, prio))
}

pub(crate) fn mq_timedreceive_raw(
    fd: i32,
    text: *mut c_void,
    len: usize,
    prio: *mut u32,
    timeout: *const timespec,
) -> Answer<isize> {
    let registers = [int(fd), at(text), len as u64, at(prio), at(timeout)];
    // SAFETY: see the module's head.
    make(libc::SYS_mq_timedreceive, registers, || unsafe {
        libc::mq_timedreceive(fd, text.cast(), len, prio, timeout) as i64
    })
    .map(|length| length as isize)
}

fn in_ns(ns: i64) -> timespec {
    const SECOND: i64 = 1_000_000_000;
    let now = match simulation() {
        Some(simulation) => simulation.machine(|machine| machine.realtime_ns()).cast_signed(),
        None => {
            let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: the timespec lives through the call.
            unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now) };
            now.tv_sec * SECOND + now.tv_nsec
        }
    };
    timespec { tv_sec: (now + ns).div_euclid(SECOND), tv_nsec: (now + ns).rem_euclid(SECOND) }
}

pub(crate) fn mq_getattr(fd: i32) -> Answer<Attr> {
    // SAFETY: all zeroes is a valid mq_attr.
    let mut old: libc::mq_attr = unsafe { mem::zeroed() };
    mq_getsetattr_raw(fd, ptr::null(), (&raw mut old).cast())?;
    Ok(Attr { flags: old.mq_flags, maxmsg: old.mq_maxmsg, msgsize: old.mq_msgsize, curmsgs: old.mq_curmsgs })
}

/// Sets all of it; answers what was before.
pub(crate) fn mq_setattr(fd: i32, new: Attr) -> Answer<Attr> {
    let new = mq_attr(new);
    // SAFETY: all zeroes is a valid mq_attr.
    let mut old: libc::mq_attr = unsafe { mem::zeroed() };
    mq_getsetattr_raw(fd, (&raw const new).cast(), (&raw mut old).cast())?;
    Ok(Attr { flags: old.mq_flags, maxmsg: old.mq_maxmsg, msgsize: old.mq_msgsize, curmsgs: old.mq_curmsgs })
}

/// The system call itself.
pub(crate) fn mq_getsetattr_raw(fd: i32, new: *const c_void, old: *mut c_void) -> Answer<i32> {
    // SAFETY: see the module's head.
    make(libc::SYS_mq_getsetattr, [int(fd), at(new), at(old), 0, 0], || unsafe {
        libc::syscall(libc::SYS_mq_getsetattr, fd, new, old)
    })
    .map(|value: i64| value as i32)
}

/// The system call itself: with `SIGEV_*`, a signal and a value; or without a sigevent.
pub(crate) fn mq_notify(fd: i32, event: Option<(c_int, c_int, usize)>) -> Answer<i32> {
    // SAFETY: all zeroes is a valid sigevent.
    let mut plain: libc::sigevent = unsafe { mem::zeroed() };
    let Some((notify, signo, value)) = event else { return mq_notify_raw(fd, ptr::null()) };
    (plain.sigev_notify, plain.sigev_signo) = (notify, signo);
    plain.sigev_value.sival_ptr = ptr::with_exposed_provenance_mut(value);
    mq_notify_raw(fd, (&raw const plain).cast())
}

pub(crate) fn mq_notify_raw(fd: i32, event: *const c_void) -> Answer<i32> {
    // SAFETY: see the module's head.
    make(libc::SYS_mq_notify, [int(fd), at(event), 0, 0, 0], || unsafe {
        libc::syscall(libc::SYS_mq_notify, fd, event)
    })
    .map(|value: i64| value as i32)
}

/// Closes a queue's descriptor.
pub(crate) fn close(fd: i32) -> Answer<i32> {
    if let Some(answer) = api::close(fd) {
        return answer;
    }
    match simulation() {
        Some(simulation) => {
            let tid = simulation.tid();
            let closed = simulation.machine(|machine| machine.close(tid, fd));
            closed.map(|()| 0).map_err(|error| Errno(error.raw()))
        }
        // SAFETY: passes a number.
        None => answer(unsafe { libc::close(fd) }),
    }
}

/// One more descriptor of what is open.
pub(crate) fn dup(fd: i32) -> Answer<i32> {
    match simulation() {
        Some(simulation) => {
            let tid = simulation.tid();
            simulation.machine(|machine| machine.dup(tid, fd)).map_err(|error| Errno(error.raw()))
        }
        // SAFETY: passes a number.
        None => answer(unsafe { libc::dup(fd) }),
    }
}
