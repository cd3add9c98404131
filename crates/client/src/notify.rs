//! `mq_notify` by a thread.
//!
//! What users see: the program's function runs in a thread of its own once there is a message. libc makes that of a thread that listens at a socket; ours sleeps in
//! the namespace.
//!
//! # Safety
//! libc's functions have the signatures that they are called by, and so has the program's, by the promise of who calls.
#![expect(unsafe_code, reason = "threads are libc's")]

use core::{
    ffi::{c_int, c_void},
    sync::atomic::{AtomicU32, Ordering::*},
};

use abi::{Errno, Result, mqueue::Sigevent};
use engine::mqueue::NOTIFY_WOKENUP;
use sys::{
    libc_function,
    signal::{FAULTS, LIBC},
};

use crate::mqd;

/// What the thread is told, until it has registered: on the stack of who waits for that.
struct Order {
    fd: c_int,
    function: u64,
    value: u64,
    /// What became of it.
    registered: AtomicU32,
}

const PENDING: u32 = 0;
/// An error's number is less.
const DONE: u32 = 1 << 16;

type Start = extern "C" fn(*mut c_void) -> *mut c_void;
type PthreadCreate = extern "C" fn(*mut usize, *const c_void, Start, *mut c_void) -> c_int;

/// Registers a descriptor's queue for a thread, which is begun here: `mq_notify` with `SIGEV_THREAD`.
///
/// # Errors
/// `EBADF EBUSY`; those of beginning a thread; `ENOSYS` if the program has no threads.
///
/// # Safety
/// The event has a function that takes a `union sigval`, and attributes of a thread or none.
#[expect(clippy::cast_possible_truncation, reason = "addresses")]
pub unsafe fn notify_by_thread(fd: c_int, event: &Sigevent) -> Result<i64> {
    let create = libc_function!("pthread_create");
    if create == 0 {
        return Err(Errno::ENOSYS);
    }
    // SAFETY: libc's function.
    let create = unsafe { core::mem::transmute::<usize, PthreadCreate>(create) };
    let [function, attributes] = event.sigev_thread;
    let order = Order { fd, function, value: event.sigev_value, registered: AtomicU32::new(PENDING) };
    let mut thread = 0;
    // The thread begins with this one's mask.
    let mask = sys::signal::block(!(FAULTS | LIBC));
    let attributes = core::ptr::with_exposed_provenance(attributes as usize);
    let created = create(&raw mut thread, attributes, wait_for_message, (&raw const order).cast_mut().cast());
    sys::signal::set_mask(mask);
    if created != 0 {
        return Err(Errno::from_raw(created));
    }
    loop {
        match order.registered.load(Acquire) {
            PENDING => {
                let _ = sys::futex_wait(&order.registered, PENDING, 1_000_000_000);
            }
            DONE => return Ok(0),
            error => return Err(Errno::from_raw(error.cast_signed())),
        }
    }
}

/// Registers, sleeps until there is a message, and calls the program's function.
extern "C" fn wait_for_message(order: *mut c_void) -> *mut c_void {
    detach();
    // SAFETY: it is there until it is told that this thread has registered.
    let Order { fd, function, value, registered } = unsafe { &*order.cast::<Order>() };
    let (function, value) = (*function, *value);
    let tell = |what| {
        registered.store(what, Release);
        // Nothing is read there: it may be gone by now.
        sys::futex_wake(registered, 1);
    };
    let mut told = false;
    let woken = mqd::wait_for_notice(*fd, || {
        // Once it is told, who waited for that and what it was told are gone.
        if !core::mem::replace(&mut told, true) {
            tell(DONE);
        }
    });
    match woken {
        Ok(NOTIFY_WOKENUP) => {
            sys::signal::set_mask(0);
            #[expect(clippy::cast_possible_truncation, reason = "an address")]
            // SAFETY: the program's function, of this signature.
            let function = unsafe { core::mem::transmute::<usize, extern "C" fn(usize)>(function as usize) };
            #[expect(clippy::cast_possible_truncation, reason = "a union sigval in a register")]
            function(value as usize);
        }
        Err(error) if !told => tell(error.raw().cast_unsigned()),
        _ => {}
    }
    core::ptr::null_mut()
}

/// Nobody joins the thread.
fn detach() {
    let (own, detach) = (libc_function!("pthread_self"), libc_function!("pthread_detach"));
    if own != 0 && detach != 0 {
        // SAFETY: libc's functions.
        unsafe {
            let own: extern "C" fn() -> usize = core::mem::transmute(own);
            core::mem::transmute::<usize, extern "C" fn(usize) -> c_int>(detach)(own());
        }
    }
}
