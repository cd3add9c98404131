//! The sysctls of a namespace: names and values of its limits, as text.
//!
//! What users see: the files `/proc/sys/kernel/{msgmax,msgmnb,msgmni,auto_msgmni,sem,shmmax,shmall,shmmni,shm_rmid_forced,
//! msg_next_id,sem_next_id,shm_next_id}` and `/proc/sys/fs/mqueue/{queues_max,msg_max,msgsize_max,msg_default,msgsize_default}`
//! with the kernel's ranges and errors, to the byte that a write says it took.
//! Besides `ipcspace.msgqueue`, which stands for each process's `RLIMIT_MSGQUEUE`, `ipcspace.sem_barging` and the quotas of strangers, `ipcspace.stranger_*`, which the kernel doesn't have, so there are no files of them: they are
//! set when the namespace is made, and by `ipcspace sysctl`.
//!
//! Values are single words of the namespace's root, so they need no lock.

use core::ops::RangeInclusive;

use abi::{
    Errno, Result,
    ipc::IPCMNI,
    mqueue::{HARD_MSGMAX, HARD_MSGSIZEMAX, MIN_MSGSIZEMAX},
};
use arena::{
    Ctx,
    sync::{AtomicI32, AtomicU64, Ordering::*},
};

use crate::{
    namespace::{IpcNamespace, Limit},
    options::{POSIX_MQUEUE, SYSCTL, SYSVIPC},
    proc::Line,
    shm,
    task::Task,
};

/// A sysctl.
pub struct Sysctl {
    name: &'static str,
    values: Values,
}

/// Where the values of a sysctl are.
enum Values {
    Ints(&'static [Limit]),
    Ulong(fn(&IpcNamespace) -> &AtomicU64),
    NextId(fn(&IpcNamespace) -> &AtomicI32),
    /// 0 or 1 is accepted and forgotten.
    Nowhere,
}

/// What the names of those begin with that have files, and the directory below `/proc/sys`.
const DIRECTORIES: [(&str, &[u8]); 2] = [("kernel.", b"kernel/"), ("fs.mqueue.", b"fs/mqueue/")];

static SYSCTLS: [Sysctl; 23] = [
    Sysctl { name: "kernel.msgmax", values: Values::Ints(&[Limit::MsgMax]) },
    Sysctl { name: "kernel.msgmnb", values: Values::Ints(&[Limit::MsgMnb]) },
    Sysctl { name: "kernel.msgmni", values: Values::Ints(&[Limit::MsgMni]) },
    Sysctl { name: "kernel.auto_msgmni", values: Values::Nowhere },
    Sysctl {
        name: "kernel.sem",
        values: Values::Ints(&[Limit::SemMsl, Limit::SemMns, Limit::SemOpm, Limit::SemMni]),
    },
    Sysctl { name: "kernel.shmmax", values: Values::Ulong(|ns| &ns.shm_ctlmax) },
    Sysctl { name: "kernel.shmall", values: Values::Ulong(|ns| &ns.shm_ctlall) },
    Sysctl { name: "kernel.shmmni", values: Values::Ints(&[Limit::ShmMni]) },
    Sysctl { name: "kernel.shm_rmid_forced", values: Values::Ints(&[Limit::ShmRmidForced]) },
    Sysctl { name: "kernel.msg_next_id", values: Values::NextId(|ns| &ns.msg_ids.next_id) },
    Sysctl { name: "kernel.sem_next_id", values: Values::NextId(|ns| &ns.sem_ids.next_id) },
    Sysctl { name: "kernel.shm_next_id", values: Values::NextId(|ns| &ns.shm_ids.next_id) },
    Sysctl { name: "fs.mqueue.queues_max", values: Values::Ints(&[Limit::MqQueuesMax]) },
    Sysctl { name: "fs.mqueue.msg_max", values: Values::Ints(&[Limit::MqMsgMax]) },
    Sysctl { name: "fs.mqueue.msgsize_max", values: Values::Ints(&[Limit::MqMsgsizeMax]) },
    Sysctl { name: "fs.mqueue.msg_default", values: Values::Ints(&[Limit::MqMsgDefault]) },
    Sysctl { name: "fs.mqueue.msgsize_default", values: Values::Ints(&[Limit::MqMsgsizeDefault]) },
    Sysctl { name: "ipcspace.msgqueue", values: Values::Ulong(|ns| &ns.msgqueue_limit) },
    Sysctl { name: "ipcspace.sem_barging", values: Values::Ints(&[Limit::SemBarging]) },
    Sysctl { name: "ipcspace.stranger_objects", values: Values::Ints(&[Limit::StrangerObjects]) },
    Sysctl { name: "ipcspace.stranger_bytes", values: Values::Ulong(|ns| &ns.stranger_bytes) },
    Sysctl { name: "ipcspace.stranger_waiters", values: Values::Ints(&[Limit::StrangerWaiters]) },
    Sysctl { name: "ipcspace.stranger_connections", values: Values::Ints(&[Limit::StrangerConnections]) },
];

/// Of a text that is written, the bytes that are looked at.
const WINDOW: usize = 4095;
/// Bytes of the longest number, with its sign or its `0x`.
const NUMBER: usize = 20;
/// A text of so many bytes is refused unseen.
const TOO_LARGE: usize = 4 << 20;

/// Text that is read byte by byte, wherever it is.
pub trait Text {
    /// How many bytes there are.
    fn size(&self) -> usize;
    /// One of them.
    ///
    /// # Errors
    /// `EFAULT` if it can't be read.
    fn byte(&self, at: usize) -> Result<u8>;
}

impl<T: Text + ?Sized> Text for &T {
    fn size(&self) -> usize {
        (**self).size()
    }

    fn byte(&self, at: usize) -> Result<u8> {
        (**self).byte(at)
    }
}

impl Text for [u8] {
    fn size(&self) -> usize {
        self.len()
    }

    fn byte(&self, at: usize) -> Result<u8> {
        self.get(at).copied().ok_or(Errno::EFAULT)
    }
}

impl Sysctl {
    /// All there are.
    pub fn all() -> impl Iterator<Item = &'static Sysctl> {
        SYSCTLS.iter().filter(|s| s.is_built())
    }

    /// The sysctl of a file of that name, whether it is built or not.
    pub fn of_file(file: &[u8]) -> Option<&'static Sysctl> {
        SYSCTLS.iter().find(|s| s.file() == Some(file))
    }

    /// Whether it is built: without what it limits there is no such file.
    pub fn is_built(&self) -> bool {
        let of_what_is_built = match self.directory() {
            b"kernel/" => SYSVIPC,
            b"fs/mqueue/" => POSIX_MQUEUE,
            _ => true,
        };
        SYSCTL && of_what_is_built
    }

    /// The name that sysctl(8) knows it by.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The directory of the file below `/proc/sys`, and the file's name, where there is one.
    fn place(&self) -> Option<(&'static [u8], &'static [u8])> {
        let in_it = |(prefix, directory)| Some((directory, self.name.strip_prefix(prefix)?.as_bytes()));
        DIRECTORIES.into_iter().find_map(in_it)
    }

    /// The name of the file, where there is one.
    pub fn file(&self) -> Option<&'static [u8]> {
        self.place().map(|(_, name)| name)
    }

    /// The directory of the file below `/proc/sys`, with a slash behind it.
    pub fn directory(&self) -> &'static [u8] {
        self.place().map_or(b"", |(directory, _)| directory)
    }

    /// The mode that the file shows.
    pub fn mode(&self) -> u32 {
        if matches!(self.values, Values::NextId(_)) { 0o444 } else { 0o644 }
    }

    /// The least and the most that each of its values can be.
    pub fn ranges(&self) -> impl Iterator<Item = (i64, u64)> {
        #[expect(clippy::cast_sign_loss, reason = "the most is never negative")]
        let of = |range: RangeInclusive<i32>| (i64::from(*range.start()), *range.end() as u64);
        let (limits, other): (&[Limit], _) = match self.values {
            Values::Ints(limits) => (limits, None),
            Values::Ulong(_) => (&[], Some((0, u64::MAX))),
            Values::NextId(_) => (&[], Some(of(0..=i32::MAX))),
            Values::Nowhere => (&[], Some((0, 1))),
        };
        limits.iter().map(move |limit| of(range(*limit))).chain(other)
    }

    /// Whether the caller may write it. Everybody may read.
    pub fn may_write<T: Task>(&self, task: &T, ns: &IpcNamespace) -> bool {
        let cred = task.cred();
        self.may_be_written(cred.euid, cred.checkpoint_restore, ns)
    }

    /// The same for whoever is that user, and has `CAP_CHECKPOINT_RESTORE` or `CAP_SYS_ADMIN` in the namespace or not.
    pub fn may_be_written(&self, euid: u32, checkpoint_restore: bool, ns: &IpcNamespace) -> bool {
        match self.values {
            Values::NextId(_) => checkpoint_restore,
            _ => euid == ns.owner_uid.load(Relaxed),
        }
    }

    /// What a reader sees.
    ///
    /// # Errors
    /// Those of a namespace that makes no sense.
    pub fn show<T: Task>(&self, ctx: &Ctx<'_, T>, line: &mut Line) -> Result<()> {
        let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
        let ns = ns.get();
        line.clear();
        match self.values {
            Values::Ints(limits) => {
                for (at, &limit) in limits.iter().enumerate() {
                    if at > 0 {
                        line.push(b'\t');
                    }
                    line.decimal(ns.limit(limit).into(), 0);
                }
            }
            Values::Ulong(of) => {
                line.natural(of(ns).load(Relaxed));
            }
            Values::NextId(of) => {
                line.decimal(of(ns).load(Relaxed).into(), 0);
            }
            Values::Nowhere => {
                line.decimal(0, 0);
            }
        }
        line.push(b'\n');
        self.used(ctx)
    }

    /// It was read or written. As in the kernel that is when orphans go, if they are to.
    fn used<T: Task>(&self, ctx: &Ctx<'_, T>) -> Result<()> {
        if self.is(Limit::ShmRmidForced) { shm::destroy_orphans(ctx) } else { Ok(()) }
    }

    fn is(&self, limit: Limit) -> bool {
        matches!(self.values, Values::Ints([only]) if *only == limit)
    }

    /// A write at `offset` in the file; how many bytes it took. Only one at the beginning changes anything.
    ///
    /// A list that is too short changes only its beginning, what is surplus is not taken. An error changes nothing but those of the values of
    /// `kernel.sem` before it.
    ///
    /// # Errors
    /// `EPERM` for who has lost the right since opening, `EINVAL` for what is no number or out of range, `ERANGE` for `semmni`, `ENOMEM` for a
    /// text of 4 MiB, `EFAULT`.
    pub fn write<T: Task>(
        &self,
        ctx: &Ctx<'_, T>,
        text: &(impl Text + ?Sized),
        offset: u64,
    ) -> Result<usize> {
        let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
        if !self.may_write(ctx.host, &ns) {
            return Err(Errno::EPERM);
        }
        let taken = match text.size() {
            TOO_LARGE.. => return Err(Errno::ENOMEM),
            size if size == 0 || offset != 0 => size,
            _ => self.set(ctx, &ns, text)?,
        };
        self.used(ctx)?;
        Ok(taken)
    }

    /// Sets what a text says; how many bytes of it were taken.
    fn set<T: Task>(
        &self,
        ctx: &Ctx<'_, T>,
        ns: &IpcNamespace,
        text: &(impl Text + ?Sized),
    ) -> Result<usize> {
        let mut words = Words { text, at: 0, end: text.size().min(WINDOW) };
        match self.values {
            Values::Ints(limits) => {
                for (at, &limit) in limits.iter().enumerate() {
                    match words.int()? {
                        Some(value) => {
                            check_range(limit, value)?;
                            if limit == Limit::ShmRmidForced {
                                shm::will_force(ctx, value)?;
                            }
                            ns.set_limit(limit, value);
                        }
                        None if at == 0 => return Err(Errno::EINVAL),
                        None => break,
                    }
                }
            }
            Values::Ulong(of) => match words.number()? {
                Some((false, value)) => of(ns).store(value, Relaxed),
                _ => return Err(Errno::EINVAL),
            },
            Values::NextId(of) => {
                let value = words.int()?.filter(|v| *v >= 0).ok_or(Errno::EINVAL)?;
                of(ns).store(value, Relaxed);
            }
            Values::Nowhere => {
                words.int()?.filter(|v| matches!(v, 0 | 1)).ok_or(Errno::EINVAL)?;
            }
        }
        words.skip_spaces()?;
        Ok(text.size() - (words.end - words.at))
    }
}

#[expect(clippy::cast_possible_wrap, reason = "a constant")]
fn range(limit: Limit) -> RangeInclusive<i32> {
    match limit {
        Limit::MsgMax
        | Limit::MsgMnb
        | Limit::StrangerObjects
        | Limit::StrangerWaiters
        | Limit::StrangerConnections => 0..=i32::MAX,
        Limit::MsgMni | Limit::ShmMni | Limit::SemMni => 0..=IPCMNI as i32,
        Limit::ShmRmidForced | Limit::SemBarging => 0..=1,
        Limit::MqMsgMax | Limit::MqMsgDefault => 1..=HARD_MSGMAX,
        Limit::MqMsgsizeMax | Limit::MqMsgsizeDefault => MIN_MSGSIZEMAX..=HARD_MSGSIZEMAX,
        Limit::SemMsl | Limit::SemMns | Limit::SemOpm | Limit::MqQueuesMax => i32::MIN..=i32::MAX,
    }
}

fn check_range(limit: Limit, value: i32) -> Result<()> {
    match limit {
        _ if range(limit).contains(&value) => Ok(()),
        Limit::SemMni => Err(Errno::ERANGE),
        _ => Err(Errno::EINVAL),
    }
}

/// The numbers in a text.
struct Words<'a, T: Text + ?Sized> {
    text: &'a T,
    at: usize,
    end: usize,
}

impl<T: Text + ?Sized> Words<'_, T> {
    fn peek(&self) -> Result<Option<u8>> {
        if self.at < self.end { self.text.byte(self.at).map(Some) } else { Ok(None) }
    }

    fn skip_spaces(&mut self) -> Result<()> {
        // The kernel's isspace, with the blank of Latin-1.
        while let Some(b'\t'..=b'\r' | b' ' | 0xa0) = self.peek()? {
            self.at += 1;
        }
        Ok(())
    }

    /// Whether there was a minus, and the number behind it; none at the end.
    fn number(&mut self) -> Result<Option<(bool, u64)>> {
        self.skip_spaces()?;
        let start = self.at;
        let Some(first) = self.peek()? else { return Ok(None) };
        let minus = first == b'-';
        self.at += usize::from(minus);
        if !self.peek()?.is_some_and(|b| b.is_ascii_digit()) {
            return Err(Errno::EINVAL);
        }
        let base = self.base()?;
        let mut value = 0u64;
        while let Some(digit) = self.peek()?.and_then(|b| char::from(b).to_digit(base)) {
            let with = value.checked_mul(base.into()).and_then(|v| v.checked_add(digit.into()));
            value = with.ok_or(Errno::EINVAL)?;
            self.at += 1;
        }
        let ends = matches!(self.peek()?, None | Some(b' ' | b'\t' | b'\n'));
        if ends && self.at - start <= NUMBER { Ok(Some((minus, value))) } else { Err(Errno::EINVAL) }
    }

    /// The base of the digits that follow, whose mark is passed over.
    fn base(&mut self) -> Result<u32> {
        let ahead = |by: usize| -> Result<u8> {
            if self.at + by < self.end { self.text.byte(self.at + by) } else { Ok(0) }
        };
        Ok(if ahead(0)? != b'0' {
            10
        } else if matches!(ahead(1)?, b'x' | b'X') && ahead(2)?.is_ascii_hexdigit() {
            self.at += 2;
            16
        } else {
            8
        })
    }

    fn int(&mut self) -> Result<Option<i32>> {
        let Some((minus, value)) = self.number()? else { return Ok(None) };
        let value = i64::try_from(value).map_err(|_| Errno::EINVAL)?;
        i32::try_from(if minus { -value } else { value }).map(Some).map_err(|_| Errno::EINVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints(text: &[u8]) -> (Result<Option<i32>>, usize) {
        let mut words = Words { text, at: 0, end: text.len().min(WINDOW) };
        (words.int(), words.at)
    }

    #[test]
    fn numbers_are_the_kernels() {
        for (text, value) in [
            (&b"7"[..], 7),
            (b" \t\n\x0b\x0c\r\xa07\n", 7),
            (b"-1", -1),
            (b"-0", 0),
            (b"0x10", 16),
            (b"0X1f ", 31),
            (b"-0x1", -1),
            (b"010", 8),
            (b"00000000000000000005", 5),
            (b"1\n2", 1),
            (b"2147483647", i32::MAX),
            (b"-2147483648", i32::MIN),
        ] {
            assert_eq!(ints(text).0, Ok(Some(value)), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            &b"x"[..],
            b"+1",
            b"--1",
            b"-",
            b"- 1",
            b"1x",
            b"1\0",
            b"1\r\n",
            b"1\x0b",
            b"1\xa0",
            b"1,2",
            b"08",
            b"0x",
            b"0xg",
            b"000000000000000000005",
            b"-00000000000000000000",
            b"2147483648",
            b"-2147483649",
            b"4294967297",
            b"18446744073709551616",
        ] {
            assert_eq!(ints(text).0, Err(Errno::EINVAL), "{}", text.escape_ascii());
        }
        assert_eq!(ints(b" \n").0, Ok(None));
    }

    #[test]
    fn only_the_first_bytes_are_looked_at() {
        let mut text = [b' '; 5000];
        text[WINDOW - 1] = b'7';
        text[WINDOW] = b'8';
        assert_eq!(ints(&text), (Ok(Some(7)), WINDOW));
        text[WINDOW - 1] = b' ';
        assert_eq!(ints(&text), (Ok(None), WINDOW));
    }
}
