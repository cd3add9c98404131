//! What the namespace's files say and take: here, or for a stranger by the broker.
//!
//! What users see: `/proc/sysvipc/*` and the sysctls, to whoever may make a call in the namespace. A stranger's numbers are those of its own user and
//! PID namespace.

use abi::{Errno, Result};
use engine::{
    IpcNamespace,
    ipc_sysctl::{Sysctl, Text},
    proc::{Line, Sysvipc},
};

use crate::{
    stranger::{self, or_by_broker},
    wire::calls,
};

/// The lists, by the numbers that the broker knows them by; a sysctl's comes after them.
pub const LISTS: [Sysvipc; 3] = [Sysvipc::Msg, Sysvipc::Sem, Sysvipc::Shm];
/// The length of a line is in so many bits of an answer, and above them where to go on.
pub const LENGTH_BITS: u32 = 16;

/// The number of a sysctl.
fn number(sysctl: &Sysctl) -> u64 {
    let place = Sysctl::all().position(|other| core::ptr::eq(other, sysctl)).unwrap_or(usize::MAX);
    (LISTS.len() as u64).saturating_add(place as u64)
}

/// The sysctl of that number.
pub fn sysctl_of(number: u64) -> Option<&'static Sysctl> {
    let place = number.checked_sub(LISTS.len() as u64)?;
    Sysctl::all().nth(usize::try_from(place).ok()?)
}

/// A line of a file, from the broker; where to go on, 0 for nowhere.
fn line_of(number: u64, from: u32, line: &mut Line) -> Result<u32> {
    let mut room = [0u8; 512];
    let words = [number, from.into(), room.as_mut_ptr().expose_provenance() as u64, room.len() as u64, 0, 0];
    let answer = stranger::ask(calls::SHOW, words)?.cast_unsigned();
    let length = usize::try_from(answer & ((1 << LENGTH_BITS) - 1)).unwrap_or(usize::MAX);
    line.clear();
    room.iter().take(length).for_each(|byte| line.push(*byte));
    u32::try_from(answer >> LENGTH_BITS).map_err(|_| Errno::EINVAL)
}

/// As [`Sysvipc::row`].
///
/// # Errors
/// As there; those of reaching the namespace.
pub fn row(list: Sysvipc, from: u32, line: &mut Line) -> Result<Option<u32>> {
    let here = crate::with(|ctx| list.row(ctx, from, line));
    or_by_broker(here, || line_of(list as u64, from, line).map(|next| (next != 0).then_some(next)))
}

/// As [`Sysctl::show`].
///
/// # Errors
/// As there; those of reaching the namespace.
pub fn show(sysctl: &Sysctl, line: &mut Line) -> Result<()> {
    let here = crate::with(|ctx| sysctl.show(ctx, line));
    or_by_broker(here, || line_of(number(sysctl), 0, line).map(drop))
}

/// As [`Sysctl::may_write`].
///
/// # Errors
/// Those of reaching the namespace.
pub fn may_write(sysctl: &Sysctl) -> Result<bool> {
    let here =
        crate::with(|ctx| Ok(sysctl.may_write(ctx.host, IpcNamespace::of(ctx.arena, ctx.host)?.get())));
    or_by_broker(here, || {
        stranger::ask(calls::MAY_WRITE, [number(sysctl), 0, 0, 0, 0, 0]).map(|may| may != 0)
    })
}

/// Writes to a sysctl at `offset`; how many bytes were taken. `at` is where all of the text lies in the program's memory, if it lies in one place: only that can
/// be written for a stranger. It is loaded within the operation, as a bad address is caught only there.
///
/// # Errors
/// The sysctl's; `EFAULT`; those of reaching the namespace.
pub fn write<T: Text>(
    sysctl: &Sysctl,
    load: impl FnOnce() -> Result<T>,
    at: Option<(usize, usize)>,
    offset: u64,
) -> Result<usize> {
    let here = crate::with(|ctx| sysctl.write(ctx, &load()?, offset));
    or_by_broker(here, || {
        let (start, size) = at.ok_or(Errno::EACCES)?;
        let words = [number(sysctl), offset, start as u64, size as u64, 0, 0];
        usize::try_from(stranger::ask(calls::WRITE, words)?).map_err(|_| Errno::EINVAL)
    })
}
