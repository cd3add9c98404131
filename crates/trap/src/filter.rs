//! The filter that has the kernel ask us about the engine's system calls, and pass all others.
//!
//! It sees what the tables of calls ([`Syscall::decode`], [`compat::decode`]) know, by the numbers of x86-64 and of i386, which a 64-bit
//! program can use too (`int 0x80`). Of those who open files it may ask for a part only ([`Files`]), by where their instruction lies. Calls of x86-64 with the bit of
//! x32, whose structures are others, fail with `ENOSYS`, as where the kernel has no x32.
//!
//! # Safety
//! The program is a local that the kernel copies.

use std::os::fd::{FromRawFd, OwnedFd};

use engine::{Syscall, compat};
use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO, SECCOMP_RET_USER_NOTIF, sock_filter, sock_fprog,
};
use nix::errno::Errno;

use crate::files::numbers as numbers_of_files;
use crate::without;

/// `AUDIT_ARCH_X86_64`.
pub(crate) const ARCH_64: u32 = 0xc000_003e;
/// `AUDIT_ARCH_I386`.
pub(crate) const ARCH_32: u32 = 0x4000_0003;
/// The bit of a number that makes it one of x32.
const X32: u32 = 0x4000_0000;
/// No table of the kernel is longer.
const NUMBERS: std::ops::Range<u32> = 0..1024;

/// Why there is no trap.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A filter with a listener is there already: the command of another `run`, or a container's.
    #[error("a supervisor of this process's system calls is there already")]
    Occupied,
    /// Before Linux 5.19, or without seccomp.
    #[error("the kernel has no seccomp notifications that wait for the end of a call (Linux 5.19)")]
    Unsupported,
    /// Something forbids it.
    #[error("seccomp filters can't be installed here: {0}")]
    Forbidden(Errno),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Refusal {
        match errno {
            Errno::EBUSY => Refusal::Occupied,
            Errno::EINVAL | Errno::ENOSYS => Refusal::Unsupported,
            errno => Refusal::Forbidden(errno),
        }
    }
}

/// The numbers that the engine has.
fn ours() -> Vec<u32> {
    let is_ours = |number: &u32| Syscall::decode((*number).into(), [0; 6]).is_some();
    NUMBERS.filter(is_ours).collect()
}

fn statement(code: u32, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

#[expect(clippy::cast_possible_truncation, reason = "codes are of 16 bits")]
fn jump(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

/// Whose opening of files is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// That of everybody.
    OfAll,
    /// That of instructions below 4 GiB: of 32-bit programs, and of statically linked ones at a fixed address. Dynamic ones have libc far above, and
    /// what they open is the library's affair.
    OfLowCode,
}

/// Compares the loaded number with each of `numbers`, and returns `action` for them and `ALLOW` for others.
fn pick(numbers: &[u32], action: u32) -> Vec<sock_filter> {
    let count = numbers.len();
    let compare = |(at, number): (usize, &u32)| {
        // Over those that are left, and over the return for all others.
        let to_action = u8::try_from(count - at).expect("fewer numbers than a jump is long");
        jump(BPF_JMP | BPF_JEQ | BPF_K, *number, to_action, 0)
    };
    let mut program: Vec<_> = numbers.iter().enumerate().map(compare).collect();
    program.push(statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    program.push(statement(BPF_RET | BPF_K, action));
    program
}

/// As [`pick`] to ask about `numbers`, and about those of files.
fn ask(numbers: &[u32], compat: bool, of: Files) -> Vec<sock_filter> {
    /// The upper half of the instruction's address.
    const HIGH: u32 = 12;
    let files = numbers_of_files(compat);
    // Behind the comparisons: to let pass, to look where the instruction lies, to ask.
    let (pass, look) = (numbers.len() + files.len(), numbers.len() + files.len() + 1);
    let asks = look + 2;
    let to_look = if of == Files::OfAll { asks } else { look };
    let wanted =
        numbers.iter().map(|number| (number, asks)).chain(files.iter().map(|number| (number, to_look)));
    let compare = |(at, (number, to)): (usize, (&u32, usize))| {
        let over = u8::try_from(to - at - 1).expect("fewer numbers than a jump is long");
        jump(BPF_JMP | BPF_JEQ | BPF_K, *number, over, 0)
    };
    let mut program: Vec<_> = wanted.enumerate().map(compare).collect();
    debug_assert_eq!(program.len(), pass);
    program.extend([
        statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        statement(BPF_LD | BPF_W | BPF_ABS, HIGH),
        jump(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
        statement(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    ]);
    program
}

fn program(files: Files) -> Vec<sock_filter> {
    const NUMBER: u32 = 0;
    const ARCH: u32 = 4;
    let load = |field| statement(BPF_LD | BPF_W | BPF_ABS, field);
    let over = |part: &[sock_filter]| u8::try_from(part.len()).expect("no longer than a jump");
    let numbers = ours();
    let plain = ask(&numbers, false, files);
    let mut native = vec![load(NUMBER), jump(BPF_JMP | BPF_JSET | BPF_K, X32, over(&plain), 0)];
    native.extend(plain);
    native.push(statement(BPF_ALU | BPF_AND | BPF_K, !X32));
    native.extend(pick(&numbers, SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()));
    let mut program = vec![load(ARCH), jump(BPF_JMP | BPF_JEQ | BPF_K, ARCH_64, 0, over(&native))];
    program.extend(native);
    program.extend([
        jump(BPF_JMP | BPF_JEQ | BPF_K, ARCH_32, 1, 0),
        statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        load(NUMBER),
    ]);
    program.extend(ask(&compat::NUMBERS, true, files));
    program
}

/// Installs the filter for the calling thread and all that it will start, and returns the listener. The calling process must have
/// one thread. Without privilege, it also gives up the rights that programs could gain when they start.
///
/// # Errors
/// See [`Refusal`].
pub fn install(files: Files) -> Result<OwnedFd, Refusal> {
    if without("wait_killable") {
        return Err(Refusal::Unsupported);
    }
    let mut program = program(files);
    let listener = match set(&mut program) {
        Err(Errno::EACCES) => {
            nix::sys::prctl::set_no_new_privs()?;
            set(&mut program)
        }
        done => done,
    };
    Ok(listener?)
}

fn set(program: &mut [sock_filter]) -> nix::Result<OwnedFd> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let program = sock_fprog { len: length, filter: program.as_mut_ptr() };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: a valid program.
    let fd = Errno::result(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })?;
    // SAFETY: a new descriptor of ours; numbers of descriptors are ints.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter says to a call: a machine for the few instructions that it has.
    fn verdict(arch: u32, number: u32) -> u32 {
        verdict_at(arch, number, 0x7f00_0000_0000, Files::OfLowCode)
    }

    /// The same, with the address of the instruction.
    fn verdict_at(arch: u32, number: u32, instruction: u64, files: Files) -> u32 {
        let program = program(files);
        let (mut at, mut value) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let branch = |taken: bool| usize::from(if taken { jt } else { jf });
            match u32::from(code) {
                c if c == BPF_LD | BPF_W | BPF_ABS => {
                    value = match k {
                        0 => number,
                        4 => arch,
                        _ => (instruction >> 32) as u32,
                    };
                }
                c if c == BPF_JMP | BPF_JEQ | BPF_K => at += branch(value == k),
                c if c == BPF_JMP | BPF_JSET | BPF_K => at += branch(value & k != 0),
                c if c == BPF_ALU | BPF_AND | BPF_K => value &= k,
                c if c == BPF_RET | BPF_K => return k,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn the_engines_calls_are_asked_about_and_no_others() {
        // shmget to shmctl, semget to msgctl, semtimedop; mq_open to mq_getsetattr.
        let ours = [29, 30, 31, 64, 65, 66, 67, 68, 69, 70, 71, 220, 240, 241, 242, 243, 244, 245];
        for number in NUMBERS {
            let wanted = if ours.contains(&number) { SECCOMP_RET_USER_NOTIF } else { SECCOMP_RET_ALLOW };
            assert_eq!(verdict(ARCH_64, number), wanted, "{number}");
        }
    }

    #[test]
    fn who_opens_files_is_asked_where_the_library_is_not() {
        let (low, high) = (0x40_1000, 0x7f12_0040_1000);
        // open, access, creat, openat, faccessat, openat2, faccessat2; stat, lstat, newfstatat, statx, unlink, unlinkat, getdents, getdents64.
        for number in [2, 21, 85, 257, 269, 437, 439, 4, 6, 262, 332, 87, 263, 78, 217] {
            assert_eq!(
                verdict_at(ARCH_64, number, low, Files::OfLowCode),
                SECCOMP_RET_USER_NOTIF,
                "{number}"
            );
            assert_eq!(verdict_at(ARCH_64, number, high, Files::OfLowCode), SECCOMP_RET_ALLOW, "{number}");
            assert_eq!(verdict_at(ARCH_64, number, high, Files::OfAll), SECCOMP_RET_USER_NOTIF, "{number}");
        }
        // The same of i386, and what has those numbers there.
        for number in [5, 33, 8, 295, 307, 437, 439, 195, 196, 300, 383, 10, 301, 141, 220] {
            assert_eq!(
                verdict_at(ARCH_32, number, low, Files::OfLowCode),
                SECCOMP_RET_USER_NOTIF,
                "{number}"
            );
        }
        for number in [2, 21, 85, 257, 269, 4, 6, 262, 332, 87, 263, 78, 217] {
            assert_eq!(verdict_at(ARCH_32, number, low, Files::OfAll), SECCOMP_RET_ALLOW, "{number}");
        }
    }

    #[test]
    fn numbers_of_32_bit_programs_are_others() {
        for number in NUMBERS {
            let is_ours = compat::NUMBERS.contains(&number);
            let wanted = if is_ours { SECCOMP_RET_USER_NOTIF } else { SECCOMP_RET_ALLOW };
            assert_eq!(verdict(ARCH_32, number), wanted, "{number}");
        }
    }

    #[test]
    fn x32_is_refused() {
        assert_eq!(verdict(ARCH_64, X32 | 69), SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned());
        assert_eq!(verdict(ARCH_64, X32 | 1), SECCOMP_RET_ALLOW);
    }

    #[test]
    fn other_machines_pass() {
        assert_eq!(verdict(0x4000_0028, 69), SECCOMP_RET_ALLOW);
    }
}
