//! Calls of IPC as a 32-bit program makes them (`int 0x80`), from a 64-bit program and with its structures: so that the stories told of
//! 64-bit calls can be told of 32-bit ones.
//!
//! [`call`] takes a call of x86-64. What its pointers lead to is brought to memory below 4 GiB, in the layout of i386, and results are
//! brought back. It lies there before a page without access, as many bytes as the caller's memory had: so a bad address stays one,
//! and who reads or writes too much is found out. The calls are made by turns by `ipc(2)` and by their own numbers.
//!
//! What is missing: numbers of more than 32 bits are the nearest ones of 32 bits. Of a structure all or nothing can be reached.
//!
//! # Safety
//! Memory that the kernel reads and writes is a mapping of ours, or the caller's affair, as with any system call.

mod layout;
mod memory;

use std::cell::RefCell;

use abi::compat::{nr, op};
use abi::ipc::IPC_64;
use libc::c_long;

use crate::layout::Kind;
use crate::memory::{Low, read, writable, write};

std::arch::global_asm!(
    ".hidden int80_call",
    "int80_call:",
    "push rbx",
    "push rbp",
    "mov r10, rsi",
    "mov eax, edi",
    "mov ebx, [r10]",
    "mov ecx, [r10 + 4]",
    "mov edx, [r10 + 8]",
    "mov esi, [r10 + 12]",
    "mov edi, [r10 + 16]",
    "mov ebp, [r10 + 20]",
    "int 0x80",
    "pop rbp",
    "pop rbx",
    "ret",
);

unsafe extern "C" {
    fn int80_call(number: u32, registers: *const [u32; 6]) -> i64;
}

/// A call of i386: what it returns, or its errno.
///
/// # Errors
/// The call's.
pub fn raw(number: u32, registers: [u32; 6]) -> Result<i64, i32> {
    // SAFETY: see the module's head.
    match unsafe { int80_call(number, &registers) } {
        error @ -4095..0 => Err(i32::try_from(-error).expect("an errno")),
        value => Ok(value),
    }
}

/// Bytes below 4 GiB, until the thread's next call of this; their address.
pub fn low(bytes: &[u8]) -> u32 {
    with(|low| low.words.put(bytes, true))
}

/// What lies there.
pub fn look(address: u32, length: usize) -> Vec<u8> {
    read(address.into(), length)
}

/// The thread's memory below 4 GiB.
struct Memory {
    /// Messages, operations, structures.
    first: Low,
    /// Times.
    second: Low,
    /// What `ipc(2)` takes or gives by another pointer.
    words: Low,
    turns: u32,
}

fn with<R>(act: impl FnOnce(&mut Memory) -> R) -> R {
    thread_local! {
        static MEMORY: RefCell<Option<Memory>> = const { RefCell::new(None) };
    }
    MEMORY.with_borrow_mut(|memory| {
        act(memory.get_or_insert_with(|| Memory {
            first: Low::new(),
            second: Low::new(),
            words: Low::new(),
            turns: 0,
        }))
    })
}

/// The nearest number of 32 bits.
fn narrow(register: u64) -> u32 {
    let value = register.cast_signed().clamp(i32::MIN.into(), i32::MAX.into());
    i32::try_from(value).expect("just clamped").cast_unsigned()
}

/// The nearest address or size of 32 bits.
fn size(register: u64) -> u32 {
    u32::try_from(register).unwrap_or(u32::MAX)
}

/// An int in a register.
#[expect(clippy::cast_possible_truncation, reason = "an int")]
fn int(register: u64) -> u32 {
    register as u32
}

/// Makes a call of x86-64 as one of i386: what it returns, or its errno.
///
/// # Errors
/// The call's.
///
/// # Panics
/// If it is no call of IPC.
pub fn call(number: c_long, registers: [u64; 6]) -> Result<i64, i32> {
    with(|memory| memory.call(number, registers))
}

impl Memory {
    fn call(&mut self, number: c_long, [a, b, c, d, e, _]: [u64; 6]) -> Result<i64, i32> {
        self.turns += 1;
        let by_ipc = self.turns.is_multiple_of(2);
        let id = int(a);
        match number {
            libc::SYS_msgget if by_ipc => self.ipc(op::MSGGET, [id, int(b), 0, 0, 0]),
            libc::SYS_msgget => raw(nr::MSGGET, [id, int(b), 0, 0, 0, 0]),
            libc::SYS_semget if by_ipc => self.ipc(op::SEMGET, [id, int(b), int(c), 0, 0]),
            libc::SYS_semget => raw(nr::SEMGET, [id, int(b), int(c), 0, 0, 0]),
            libc::SYS_shmget if by_ipc => self.ipc(op::SHMGET, [id, size(b), int(c), 0, 0]),
            libc::SYS_shmget => raw(nr::SHMGET, [id, size(b), int(c), 0, 0, 0]),
            libc::SYS_msgsnd => {
                let message = layout::narrow_message(&read(b, 8 + room(c)));
                let at = self.first.place(b, &message, true);
                if by_ipc {
                    return self.ipc(op::MSGSND, [id, narrow(c), int(d), at, 0]);
                }
                raw(nr::MSGSND, [id, at, narrow(c), int(d), 0, 0])
            }
            libc::SYS_msgrcv => self.msgrcv(by_ipc, id, b, c, narrow(d), int(e)),
            libc::SYS_semop => self.semtimedop(true, id, b, c, 0),
            libc::SYS_semtimedop => self.semtimedop(by_ipc, id, b, c, d),
            libc::SYS_msgctl => self.control(by_ipc, nr::MSGCTL, [id, 0, int(b)], c, Kind::of_msg(int(b))),
            libc::SYS_semctl => {
                self.control(by_ipc, nr::SEMCTL, [id, int(b), int(c)], d, Kind::of_sem(int(c)))
            }
            libc::SYS_shmctl => self.control(by_ipc, nr::SHMCTL, [id, 0, int(b)], c, Kind::of_shm(int(b))),
            libc::SYS_shmat if by_ipc => {
                let place = self.words.put(&[0; 4], true);
                raw(nr::IPC, [op::SHMAT, id, int(c), place, size(b), 0])?;
                let bytes = read(place.into(), 4);
                Ok(u32::from_ne_bytes(bytes.try_into().expect("four bytes")).into())
            }
            libc::SYS_shmat => raw(nr::SHMAT, [id, size(b), int(c), 0, 0, 0]),
            libc::SYS_shmdt if by_ipc => self.ipc(op::SHMDT, [0, 0, 0, size(a), 0]),
            libc::SYS_shmdt => raw(nr::SHMDT, [size(a), 0, 0, 0, 0, 0]),
            libc::SYS_mq_open => {
                let (name, attr) = (self.name(a), given(&mut self.second, d, Kind::from_mq_attr()));
                raw(nr::MQ_OPEN, [name, int(b), int(c), attr, 0, 0])
            }
            libc::SYS_mq_unlink => raw(nr::MQ_UNLINK, [self.name(a), 0, 0, 0, 0, 0]),
            libc::SYS_mq_timedsend => {
                let text = self.first.place(b, &read(b, room(c)), true);
                let timeout = self.second.place(e, &layout::narrow_time(&read(e, 16), by_ipc), true);
                let number = if by_ipc { nr::MQ_TIMEDSEND } else { nr::MQ_TIMEDSEND_TIME64 };
                raw(number, [id, text, size(c), int(d), timeout, 0])
            }
            libc::SYS_mq_timedreceive => self.mq_timedreceive(by_ipc, id, b, c, d, e),
            libc::SYS_mq_notify => {
                let event = self.event(b);
                raw(nr::MQ_NOTIFY, [id, event, 0, 0, 0, 0])
            }
            libc::SYS_mq_getsetattr => {
                let new = given(&mut self.second, b, Kind::from_mq_attr());
                self.into(c, Kind::into_mq_attr(), |old| raw(nr::MQ_GETSETATTR, [id, new, old, 0, 0, 0]))
            }
            number => panic!("{number} is no call of IPC"),
        }
    }

    fn ipc(&self, op: u32, [first, second, third, ptr, fifth]: [u32; 5]) -> Result<i64, i32> {
        raw(nr::IPC, [op, first, second, third, ptr, fifth])
    }

    fn msgrcv(
        &mut self,
        by_ipc: bool,
        id: u32,
        to: u64,
        len: u64,
        kind: u32,
        flags: u32,
    ) -> Result<i64, i32> {
        let there = read(to, 8 + room(len));
        let writable = writable(to, there.len());
        // What can be written is what counts, or where none can, what can be read.
        let has = if writable == 0 { &there[..] } else { &there[..writable] };
        let at = self.first.place(to, &layout::narrow_message(has), writable > 0);
        let result = if by_ipc {
            let kludge = self.words.put(&[at.to_ne_bytes(), kind.to_ne_bytes()].concat(), true);
            self.ipc(op::MSGRCV, [id, narrow(len), flags, kludge, 0])
        } else {
            raw(nr::MSGRCV, [id, at, narrow(len), kind, flags, 0])
        };
        if let Ok(length) = result {
            let got = read(at.into(), 4 + usize::try_from(length).expect("a length"));
            write(to, &layout::widen_message(&got));
        }
        result
    }

    /// The name of a POSIX queue, up to its end.
    fn name(&mut self, at: u64) -> u32 {
        let mut name = read(at, abi::mqueue::PATH_MAX + 1);
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end + 1);
        }
        self.first.place(at, &name, true)
    }

    /// What a notification is to be, with its cookie.
    fn event(&mut self, at: u64) -> u32 {
        let mut event = read(at, size_of::<abi::mqueue::Sigevent>());
        if event.get(12..16) == Some(&abi::mqueue::SIGEV_THREAD.to_ne_bytes()) {
            let cookie = u64::from_ne_bytes(*event.first_chunk().expect("a value"));
            let low = self.words.place(cookie, &read(cookie, 32), true);
            event[..8].copy_from_slice(&u64::from(low).to_ne_bytes());
        }
        let Kind::From { native, narrow } = Kind::from_sigevent() else { unreachable!("what is read") };
        let has = if event.len() == native { narrow(&event) } else { Vec::new() };
        self.first.place(at, &has, true)
    }

    fn mq_timedreceive(
        &mut self,
        short: bool,
        id: u32,
        to: u64,
        len: u64,
        prio: u64,
        time: u64,
    ) -> Result<i64, i32> {
        let text = self.first.place(to, &vec![0; writable(to, room(len))], true);
        let of = self.words.place(prio, &vec![0; writable(prio, 4)], true);
        let timeout = self.second.place(time, &layout::narrow_time(&read(time, 16), short), true);
        let number = if short { nr::MQ_TIMEDRECEIVE } else { nr::MQ_TIMEDRECEIVE_TIME64 };
        let length = raw(number, [id, text, size(len), of, timeout, 0])?;
        write(to, &read(text.into(), usize::try_from(length).expect("a length")));
        write(prio, &read(of.into(), 4));
        Ok(length)
    }

    /// Makes a call that writes a structure, or has none to write.
    fn into(&mut self, to: u64, kind: Kind, call: impl FnOnce(u32) -> Result<i64, i32>) -> Result<i64, i32> {
        let Kind::Into { native, widen, .. } = kind else { unreachable!("what is written") };
        let has = if writable(to, native) == native { vec![0; kind.narrow_size()] } else { Vec::new() };
        let at = self.first.place(to, &has, true);
        let result = call(at);
        if result.is_ok() && to != 0 {
            write(to, &widen(&read(at.into(), kind.narrow_size())));
        }
        result
    }

    fn semtimedop(&mut self, by_ipc: bool, id: u32, ops: u64, count: u64, time: u64) -> Result<i64, i32> {
        let operations = read(ops, room(count.saturating_mul(6)));
        let at = self.first.place(ops, &operations, true);
        let given = read(time, 16);
        let timeout = self.second.place(time, &layout::narrow_time(&given, by_ipc), true);
        if by_ipc {
            let op = if time == 0 { op::SEMOP } else { op::SEMTIMEDOP };
            return self.ipc(op, [id, size(count), 0, at, timeout]);
        }
        raw(nr::SEMTIMEDOP_TIME64, [id, at, size(count), timeout, 0, 0])
    }

    fn control(
        &mut self,
        by_ipc: bool,
        number: u32,
        [id, num, cmd]: [u32; 3],
        arg: u64,
        kind: Kind,
    ) -> Result<i64, i32> {
        // The bit is no 64-bit program's, for whom the command is unknown.
        const UNKNOWN: u32 = 0x7f;
        let cmd = if cmd & IPC_64.cast_unsigned() == 0 { cmd } else { UNKNOWN };
        let at = match kind {
            Kind::Number => int(arg),
            Kind::Into { native, .. } => {
                let has =
                    if writable(arg, native) == native { vec![0; kind.narrow_size()] } else { Vec::new() };
                self.first.place(arg, &has, true)
            }
            Kind::From { .. } => given(&mut self.first, arg, kind),
            Kind::IntoValues => {
                self.first.place(arg, &vec![layout::NO_VALUE; writable(arg, layout::VALUES)], true)
            }
            Kind::FromValues => self.first.place(arg, &read(arg, layout::VALUES), true),
        };
        let result = match (by_ipc, number) {
            (false, nr::SEMCTL) => raw(number, [id, num, cmd, at, 0, 0]),
            (false, _) => raw(number, [id, cmd, at, 0, 0, 0]),
            (true, nr::SEMCTL) => {
                let union = self.words.put(&at.to_ne_bytes(), true);
                self.ipc(op::SEMCTL, [id, num, cmd | IPC_64.cast_unsigned(), union, 0])
            }
            (true, _) => {
                let op = if number == nr::MSGCTL { op::MSGCTL } else { op::SHMCTL };
                self.ipc(op, [id, cmd | IPC_64.cast_unsigned(), 0, at, 0])
            }
        };
        match kind {
            Kind::Into { widen, .. } if result.is_ok() => {
                write(arg, &widen(&read(at.into(), kind.narrow_size())));
            }
            Kind::IntoValues => {
                let mut values = read(at.into(), layout::VALUES);
                while values.pop_if(|byte| *byte == layout::NO_VALUE).is_some() {}
                write(arg, &values);
            }
            _ => {}
        }
        result
    }
}

/// Puts a structure where a 32-bit program could have it.
fn given(low: &mut Low, from: u64, kind: Kind) -> u32 {
    let Kind::From { native, narrow } = kind else { unreachable!("what is read") };
    let given = read(from, native);
    let has = if given.len() == native { narrow(&given) } else { Vec::new() };
    low.place(from, &has, true)
}

/// Bytes of a buffer that are looked at.
fn room(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX).min(memory::CAPACITY - 8)
}
