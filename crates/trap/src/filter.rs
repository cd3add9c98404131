//! The filter that has the kernel ask us about the engine's system calls, and pass all others.
//!
//! It sees what the tables of calls ([`Syscall::decode`], [`compat::decode`]) know, by the numbers of x86-64 and of i386, which a 64-bit
//! program can use too (`int 0x80`). Of those who open files it may ask for a part only ([`Files`]), by where their instruction lies, and never for
//! what a library of ours opens for itself ([`sys::file::MARK`]), nor for `stat` of a descriptor. Of `unshare`, `clone` and `setns` it asks by their flags;
//! those of `clone3` are in memory, so it asks as about files. Of all other calls it looks at nothing but the number, so that the kernel finds out once that they
//! pass, and does not run it for them. Calls of x86-64 with the bit of
//! x32, whose structures are others, fail with `ENOSYS`, as where the kernel has no x32.
//!
//! # Safety
//! The program is a local that the kernel copies.

use std::os::fd::{FromRawFd, OwnedFd};

use engine::{Syscall, compat};
use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W,
    SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_USER_NOTIF, sock_filter, sock_fprog,
};
use nix::errno::Errno;

use crate::files::numbers as numbers_of_files;
use crate::{namespaces, without};

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

/// Whose opening of files is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// That of everybody.
    OfAll,
    /// That of instructions below 4 GiB: of 32-bit programs, and of statically linked ones at a fixed address. Dynamic ones have libc far above, and
    /// what they open is the library's affair.
    OfLowCode,
}

/// What the lower half of an argument says: to let a call pass, or to ask about it.
#[derive(Clone, Copy)]
pub(crate) struct Sign {
    pub(crate) argument: u32,
    pub(crate) test: Test,
    pub(crate) value: u32,
}

#[derive(Clone, Copy)]
pub(crate) enum Test {
    Equals,
    HasBit,
}

/// A program that is written from its end on, as jumps lead forward only.
#[derive(Default)]
struct Program(Vec<sock_filter>);

/// Where an instruction is, counted from the end.
type Place = usize;

impl Program {
    /// The field of a call.
    const NUMBER: u32 = 0;
    const ARCH: u32 = 4;
    /// Of the instruction's address, the upper half.
    const CODE: u32 = 12;
    const ARGUMENTS: u32 = 16;

    #[expect(clippy::cast_possible_truncation, reason = "codes are of 16 bits")]
    fn put(&mut self, code: u32, k: u32) -> Place {
        self.0.push(sock_filter { code: code as u16, jt: 0, jf: 0, k });
        self.0.len()
    }

    fn end(&mut self, action: u32) -> Place {
        self.put(BPF_RET | BPF_K, action)
    }

    fn load(&mut self, field: u32) -> Place {
        self.put(BPF_LD | BPF_W | BPF_ABS, field)
    }

    fn branch(&mut self, test: u32, k: u32, so: Place, otherwise: Place) -> Place {
        let here = self.0.len();
        let over = |place: Place| u8::try_from(here - place).expect("no longer than a jump");
        let (jt, jf) = (over(so), over(otherwise));
        let place = self.put(BPF_JMP | test | BPF_K, k);
        (self.0[here].jt, self.0[here].jf) = (jt, jf);
        place
    }

    /// Goes where the loaded number is to go, of `calls` in rising order.
    fn search(&mut self, calls: &[(u32, Place)], other: Place) -> Place {
        match *calls {
            [] => other,
            [(number, place)] => self.branch(BPF_JEQ, number, place, other),
            _ => {
                let (low, high) = calls.split_at(calls.len() / 2);
                let from = high[0].0;
                let (high, low) = (self.search(high, other), self.search(low, other));
                self.branch(BPF_JGE, from, high, low)
            }
        }
    }

    /// Goes to `action` with one of `numbers`.
    fn pick(&mut self, numbers: &[u32], action: u32) -> Place {
        let pass = self.end(SECCOMP_RET_ALLOW);
        let action = self.end(action);
        let calls: Vec<_> = numbers.iter().map(|number| (*number, action)).collect();
        self.search(&calls, pass)
    }

    /// Goes to `so` if an argument is as the sign says.
    fn look(&mut self, Sign { argument, test, value }: Sign, so: Place, otherwise: Place) -> Place {
        let test = match test {
            Test::Equals => BPF_JEQ,
            Test::HasBit => BPF_JSET,
        };
        self.branch(test, value, so, otherwise);
        self.load(Program::ARGUMENTS + 8 * argument)
    }

    /// Asks about `numbers`, and about those of namespaces and of files.
    fn ask(&mut self, numbers: &[u32], compat: bool, of: Files) -> Place {
        let pass = self.end(SECCOMP_RET_ALLOW);
        let ask = self.end(SECCOMP_RET_USER_NOTIF);
        let look = match of {
            Files::OfAll => ask,
            Files::OfLowCode => {
                self.branch(BPF_JEQ, 0, ask, pass);
                self.load(Program::CODE)
            }
        };
        let mut calls: Vec<_> = numbers.iter().map(|number| (*number, ask)).collect();
        for (number, sign) in numbers_of_files(compat) {
            let place = sign.map_or(look, |sign| self.look(sign, pass, look));
            calls.push((number, place));
        }
        for (number, signs) in namespaces::numbers(compat) {
            // Without a sign, memory has to be looked at.
            let first = if signs.is_empty() { look } else { pass };
            let place = signs.iter().fold(first, |otherwise, sign| self.look(*sign, ask, otherwise));
            calls.push((number, place));
        }
        calls.sort_unstable();
        self.search(&calls, pass)
    }
}

fn program(files: Files) -> Vec<sock_filter> {
    let mut program = Program::default();
    let numbers = ours();
    let pass = program.end(SECCOMP_RET_ALLOW);
    program.ask(&compat::NUMBERS, true, files);
    let of_32 = program.load(Program::NUMBER);
    let not_64 = program.branch(BPF_JEQ, ARCH_32, of_32, pass);
    program.pick(&numbers, SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned());
    let x32 = program.put(BPF_ALU | BPF_AND | BPF_K, !X32);
    let plain = program.ask(&numbers, false, files);
    program.branch(BPF_JSET, X32, x32, plain);
    let of_64 = program.load(Program::NUMBER);
    program.branch(BPF_JEQ, ARCH_64, of_64, not_64);
    program.load(Program::ARCH);
    program.0.reverse();
    program.0
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
    use libc::seccomp_data;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};
    use sys::file;

    use super::*;

    const HIGH: u64 = 0x7f12_0040_1000;
    const LOW: u64 = 0x40_1000;

    /// What the filter says to a call, and whether it looks at more than its number and machine: a machine for the few instructions that it has.
    fn run(files: Files, call: &seccomp_data) -> (u32, bool) {
        let program = program(files);
        let (mut at, mut value, mut looks_closer) = (0, 0, false);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let branch = |taken: bool| usize::from(if taken { jt } else { jf });
            match u32::from(code) {
                c if c == BPF_LD | BPF_W | BPF_ABS => {
                    looks_closer |= k > Program::ARCH;
                    value = match k {
                        Program::NUMBER => call.nr.cast_unsigned(),
                        Program::ARCH => call.arch,
                        Program::CODE => (call.instruction_pointer >> 32) as u32,
                        lower => {
                            assert_eq!(lower % 8, 0);
                            call.args[(lower - Program::ARGUMENTS) as usize / 8] as u32
                        }
                    };
                }
                c if c == BPF_JMP | BPF_JEQ | BPF_K => at += branch(value == k),
                c if c == BPF_JMP | BPF_JGE | BPF_K => at += branch(value >= k),
                c if c == BPF_JMP | BPF_JSET | BPF_K => at += branch(value & k != 0),
                c if c == BPF_ALU | BPF_AND | BPF_K => value &= k,
                c if c == BPF_RET | BPF_K => return (k, looks_closer),
                other => panic!("{other:#x}"),
            }
        }
    }

    fn call(arch: u32, number: u32, instruction_pointer: u64, args: [u64; 6]) -> seccomp_data {
        seccomp_data { nr: number.cast_signed(), arch, instruction_pointer, args }
    }

    fn verdict(arch: u32, number: u32) -> u32 {
        verdict_at(arch, number, HIGH, Files::OfLowCode)
    }

    fn verdict_at(arch: u32, number: u32, instruction: u64, files: Files) -> u32 {
        run(files, &call(arch, number, instruction, [0; 6])).0
    }

    #[test]
    fn of_other_calls_nothing_but_the_number_is_looked_at() {
        for (arch, compat) in [(ARCH_64, false), (ARCH_32, true)] {
            let files = numbers_of_files(compat).map(|(number, _)| number);
            let namespaces = namespaces::numbers(compat).map(|(number, _)| number);
            let is_other = |number: &u32| !files.contains(number) && !namespaces.contains(number);
            for number in NUMBERS.filter(is_other) {
                let (_, looks_closer) = run(Files::OfLowCode, &call(arch, number, LOW, [0; 6]));
                assert!(!looks_closer, "{arch:#x} {number}");
            }
        }
    }

    #[test]
    fn what_a_library_of_ours_opens_passes() {
        let marked = [0, 0, 0, 0, 0, file::MARK.into()];
        for (arch, number, wanted) in [
            (ARCH_64, 257, SECCOMP_RET_ALLOW),
            (ARCH_64, 437, SECCOMP_RET_USER_NOTIF),
            // They have no library.
            (ARCH_32, 295, SECCOMP_RET_USER_NOTIF),
        ] {
            for files in [Files::OfAll, Files::OfLowCode] {
                assert_eq!(run(files, &call(arch, number, LOW, marked)).0, wanted, "{arch:#x} {number}");
            }
        }
    }

    #[test]
    fn a_descriptor_is_not_asked_about() {
        let empty_path = libc::AT_EMPTY_PATH as u64;
        let with = |at: usize, flags| std::array::from_fn(|place| if place == at { flags } else { 0 });
        // newfstatat, statx; fstatat64, statx.
        for (arch, number, at) in [(ARCH_64, 262, 3), (ARCH_64, 332, 2), (ARCH_32, 300, 3), (ARCH_32, 383, 2)]
        {
            let verdict = |flags| run(Files::OfAll, &call(arch, number, LOW, with(at, flags))).0;
            assert_eq!(verdict(empty_path), SECCOMP_RET_ALLOW, "{arch:#x} {number}");
            assert_eq!(verdict(!empty_path), SECCOMP_RET_USER_NOTIF, "{arch:#x} {number}");
        }
    }

    #[test]
    fn nobody_needs_to_answer_for_what_it_opens() {
        // SAFETY: the child ends without returning; besides system calls it allocates memory, which libc sees to in forks.
        let child = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                // SAFETY: it takes an integer. A child that waits is ended.
                unsafe { libc::alarm(10) };
                let listener = install(Files::OfAll);
                let is_open = listener.is_ok() && file::open_root().is_ok();
                // SAFETY: it takes an integer.
                unsafe { libc::_exit(i32::from(!is_open)) }
            }
        };
        assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
    }

    #[test]
    fn the_engines_calls_are_asked_about_and_no_others() {
        // shmget to shmctl, semget to msgctl, semtimedop; mq_open to mq_getsetattr.
        let ours = [29, 30, 31, 64, 65, 66, 67, 68, 69, 70, 71, 220, 240, 241, 242, 243, 244, 245];
        for number in NUMBERS.filter(|number| *number != SETNS.0) {
            let wanted = if ours.contains(&number) { SECCOMP_RET_USER_NOTIF } else { SECCOMP_RET_ALLOW };
            assert_eq!(verdict(ARCH_64, number), wanted, "{number}");
        }
    }

    /// Of x86-64 and of i386. Of other calls than this, a register of zeros wants nothing of us.
    const SETNS: (u32, u32) = (308, 346);

    #[test]
    fn who_leaves_for_another_namespace_of_ipc_is_asked_about() {
        let (newipc, newuts) = (client::CLONE_NEWIPC, 0x0400_0000);
        let verdict = |arch, number, args| run(Files::OfLowCode, &call(arch, number, HIGH, args)).0;
        let first = |flags| [flags, 0, 0, 0, 0, 0];
        // unshare, clone.
        for (arch, number) in [(ARCH_64, 272), (ARCH_64, 56), (ARCH_32, 310), (ARCH_32, 120)] {
            for flags in [newipc, newipc | newuts | 17] {
                assert_eq!(verdict(arch, number, first(flags)), SECCOMP_RET_USER_NOTIF, "{number}");
            }
            for flags in [0, newuts, newuts | 17] {
                assert_eq!(verdict(arch, number, first(flags)), SECCOMP_RET_ALLOW, "{number}");
            }
        }
        for (arch, number) in [(ARCH_64, SETNS.0), (ARCH_32, SETNS.1)] {
            for (kinds, wanted) in [
                (0, SECCOMP_RET_USER_NOTIF),
                (newipc, SECCOMP_RET_USER_NOTIF),
                (newipc | newuts, SECCOMP_RET_USER_NOTIF),
                (newuts, SECCOMP_RET_ALLOW),
            ] {
                assert_eq!(verdict(arch, number, [3, kinds, 0, 0, 0, 0]), wanted, "{number} {kinds:#x}");
            }
        }
        // clone3, whose flags are in memory.
        for (arch, code, files, wanted) in [
            (ARCH_64, HIGH, Files::OfLowCode, SECCOMP_RET_ALLOW),
            (ARCH_64, LOW, Files::OfLowCode, SECCOMP_RET_USER_NOTIF),
            (ARCH_64, HIGH, Files::OfAll, SECCOMP_RET_USER_NOTIF),
            (ARCH_32, LOW, Files::OfLowCode, SECCOMP_RET_USER_NOTIF),
        ] {
            assert_eq!(verdict_at(arch, 435, code, files), wanted, "{code:#x} {files:?}");
        }
    }

    #[test]
    fn who_opens_files_is_asked_where_the_library_is_not() {
        // open, access, creat, openat, faccessat, openat2, faccessat2; stat, lstat, newfstatat, statx, unlink, unlinkat, getdents, getdents64.
        for number in [2, 21, 85, 257, 269, 437, 439, 4, 6, 262, 332, 87, 263, 78, 217] {
            assert_eq!(
                verdict_at(ARCH_64, number, LOW, Files::OfLowCode),
                SECCOMP_RET_USER_NOTIF,
                "{number}"
            );
            assert_eq!(verdict_at(ARCH_64, number, HIGH, Files::OfLowCode), SECCOMP_RET_ALLOW, "{number}");
            assert_eq!(verdict_at(ARCH_64, number, HIGH, Files::OfAll), SECCOMP_RET_USER_NOTIF, "{number}");
        }
        // The same of i386, and what has those numbers there.
        for number in [5, 33, 8, 295, 307, 437, 439, 195, 196, 300, 383, 10, 301, 141, 220] {
            assert_eq!(
                verdict_at(ARCH_32, number, LOW, Files::OfLowCode),
                SECCOMP_RET_USER_NOTIF,
                "{number}"
            );
        }
        for number in [2, 21, 85, 257, 269, 4, 6, 262, 332, 87, 263, 78, 217] {
            assert_eq!(verdict_at(ARCH_32, number, LOW, Files::OfAll), SECCOMP_RET_ALLOW, "{number}");
        }
    }

    #[test]
    fn numbers_of_32_bit_programs_are_others() {
        for number in NUMBERS.filter(|number| *number != SETNS.1) {
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
