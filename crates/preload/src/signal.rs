//! The calls that install signal handlers and change signal masks.
//!
//! What users see: what libc's do. Handlers come between operations, see `client::signal`.
//! What is missing: `sigvec`, which is for programs of before 2014; and `sigblock`, `sigsetmask`, `sighold` and `sigpause`
//! are libc's, so that SIGSEGV blocked by one of these is not noticed.

use core::ffi::{c_int, c_ulong};
use core::sync::atomic::{AtomicU64, Ordering::*};

use abi::{Errno, Result, syscall as nr};
use client::signal;
use sys::signal::{
    KernelSigaction, LIBC, Mask, SA_INTERRUPT, SA_NODEFER, SA_RESETHAND, SA_RESTART, SA_RESTORER, bit,
};

use crate::files;

/// libc's `struct sigaction`.
#[repr(C)]
pub struct Sigaction {
    handler: usize,
    mask: [c_ulong; 16],
    flags: c_int,
    restorer: usize,
}

const SIG_ERR: usize = usize::MAX;
const SIG_HOLD: usize = 2;
const SIG_BLOCK: c_int = 0;
const SIG_UNBLOCK: c_int = 1;

/// `_sigintr`: those that `siginterrupt` has named.
static INTERRUPTING: AtomicU64 = AtomicU64::new(0);

fn checked(signal: c_int) -> Result<c_int> {
    if (1..=64).contains(&signal) && LIBC & bit(signal) == 0 { Ok(signal) } else { Err(Errno::EINVAL) }
}

fn install(signal: c_int, new: Option<&KernelSigaction>) -> Result<KernelSigaction> {
    if new.is_some() {
        files::find_all();
    }
    // SAFETY: the program's own handler.
    unsafe { signal::sigaction(checked(signal)?, new) }
}

fn action(handler: usize, flags: u64, mask: Mask) -> KernelSigaction {
    KernelSigaction { handler, flags: flags | SA_RESTORER, restorer: sys::signal::restorer(), mask }
}

/// `sigaction(2)`.
///
/// # Safety
/// As libc's: the pointers are valid or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigaction(signal: c_int, new: *const Sigaction, old: *mut Sigaction) -> c_int {
    // SAFETY: the caller's promise.
    let new = unsafe { new.as_ref() }.map(|new| {
        #[expect(clippy::cast_sign_loss, reason = "the bits")]
        let flags = new.flags as u32;
        action(new.handler, flags.into(), new.mask[0])
    });
    let before = install(signal, new.as_ref());
    // SAFETY: the caller's promise.
    if let (Ok(before), Some(old)) = (&before, unsafe { old.as_mut() }) {
        old.handler = before.handler;
        old.mask = [0; 16];
        old.mask[0] = before.mask;
        #[expect(clippy::cast_possible_truncation, reason = "the bits")]
        let flags = before.flags as u32;
        old.flags = flags.cast_signed();
        old.restorer = before.restorer;
    }
    crate::finish_int(before.map(|_| 0))
}

fn handler_or_error(before: Result<usize>) -> usize {
    before.unwrap_or_else(|error| {
        crate::finish(Err(error));
        SIG_ERR
    })
}

fn bsd(signal: c_int, handler: usize) -> Result<usize> {
    let own = bit(checked(signal)?);
    if handler == SIG_ERR {
        return Err(Errno::EINVAL);
    }
    let restart = if INTERRUPTING.load(Relaxed) & own == 0 { SA_RESTART } else { 0 };
    Ok(install(signal, Some(&action(handler, restart, own)))?.handler)
}

fn sysv(signal: c_int, handler: usize) -> Result<usize> {
    if handler == SIG_ERR {
        return Err(Errno::EINVAL);
    }
    let flags = SA_RESETHAND | SA_NODEFER | SA_INTERRUPT;
    Ok(install(signal, Some(&action(handler, flags, 0)))?.handler)
}

macro_rules! signal {
    ($($name:ident = $which:ident;)*) => {
        $(
            /// `signal(2)`, by one of its names.
            #[unsafe(no_mangle)]
            pub extern "C" fn $name(signal: c_int, handler: usize) -> usize {
                handler_or_error($which(signal, handler))
            }
        )*
    };
}
signal! {
    signal = bsd;
    bsd_signal = bsd;
    ssignal = bsd;
    sysv_signal = sysv;
    __sysv_signal = sysv;
    sigset = set;
}

fn set(signal: c_int, handler: usize) -> Result<usize> {
    let own = bit(checked(signal)?);
    let hold = handler == SIG_HOLD;
    let new = action(handler, 0, 0);
    let before = match handler {
        SIG_ERR => return Err(Errno::EINVAL),
        SIG_HOLD => install(signal, None)?,
        _ => install(signal, Some(&new))?,
    };
    let mut blocked = 0;
    // SAFETY: a valid place.
    unsafe {
        signal::sigprocmask(if hold { SIG_BLOCK } else { SIG_UNBLOCK }, Some(own), &raw mut blocked)?;
    }
    Ok(if blocked & own != 0 { SIG_HOLD } else { before.handler })
}

/// `siginterrupt(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn siginterrupt(signal: c_int, interrupt: c_int) -> c_int {
    let done = checked(signal).and_then(|_| install(signal, None)).and_then(|mut action| {
        if interrupt == 0 {
            INTERRUPTING.fetch_and(!bit(signal), Relaxed);
            action.flags |= SA_RESTART;
        } else {
            INTERRUPTING.fetch_or(bit(signal), Relaxed);
            action.flags &= !SA_RESTART;
        }
        install(signal, Some(&action))
    });
    crate::finish_int(done.map(|_| 0))
}

fn change_mask(how: c_int, set: *const Mask, old: *mut Mask) -> Result<()> {
    // SAFETY: libc's promise: valid or null. Only the first word is used, as by libc. The kernel writes to `old`.
    unsafe { signal::sigprocmask(how, set.as_ref().copied(), old) }
}

/// `sigprocmask(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn sigprocmask(how: c_int, set: *const Mask, old: *mut Mask) -> c_int {
    crate::finish_int(change_mask(how, set, old).map(|()| 0))
}

/// `pthread_sigmask(3)`: the error is what it returns.
#[unsafe(no_mangle)]
pub extern "C" fn pthread_sigmask(how: c_int, set: *const Mask, old: *mut Mask) -> c_int {
    change_mask(how, set, old).map_or_else(Errno::raw, |()| 0)
}

/// Copies a structure to the program.
fn put<T: Copy>(to: usize, value: &T) -> Result<()> {
    // SAFETY: `value` is ours, faults at `to` are caught.
    unsafe { client::copy(to as *mut u8, core::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// Copies a structure of plain numbers from the program.
fn get<T: Copy + Default>(from: usize) -> Result<T> {
    let mut value = T::default();
    // SAFETY: `value` is ours and valid for any bytes, faults at `from` are caught.
    unsafe { client::copy(core::ptr::from_mut(&mut value).cast(), from as *const u8, size_of::<T>()) }?;
    Ok(value)
}

/// A call by `syscall(2)`; none if the kernel should have it as it is.
pub(crate) fn raw(number: i64, [a, b, c, d]: [usize; 4]) -> Option<Result<i64>> {
    match number {
        nr::RT_SIGACTION if d == size_of::<Mask>() && signal::replacing() => Some(raw_sigaction(a, b, c)),
        nr::RT_SIGPROCMASK => {
            signal::mask_changes();
            None
        }
        _ => None,
    }
}

fn raw_sigaction(signal: usize, new: usize, old: usize) -> Result<i64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "as the kernel does")]
    let signal = signal as c_int;
    let new = if new == 0 { None } else { Some(get::<KernelSigaction>(new)?) };
    // SAFETY: the program's own handler.
    let before = unsafe { signal::sigaction(signal, new.as_ref()) }?;
    if old == 0 { Ok(0) } else { put(old, &before).map(|()| 0) }
}
