//! `pthread_cancel` of a thread that sleeps.
//!
//! What users see: it takes effect at once in `msgsnd` and `msgrcv`, which are cancellation points, and not in `semop`, which is none.
//! A message that was handed over at the same moment goes with the thread, as in the kernel.
//!
//! The thread is cancellable at any instruction while it sleeps, and only then unless the program wants more. libc then unwinds its stack, or jumps
//! out of it, and on its way calls [`cancelled`], which takes the sleeper off its queue.
//!
//! # Safety
//! Nothing on the way out is to be dropped. What unwinds there is declared as what doesn't: Rust would guard its own frames,
//! in a build where panics abort, and such a guard ends the process. libc's unwinder needs the tables only, which all frames have. libc's functions are weak: an old libc has them only in programs that link threads.
#![expect(unsafe_code, reason = "libc's cancellation is C")]

use core::ffi::{c_int, c_void};

use arena::{Ctx, Handle, sync::Ordering::*};
use sys::libc_function;

use crate::{BUSY, IDLE, LinuxHost, Operation, attach, signal, tls};

/// Ends the thread here if it has been cancelled.
#[inline(always)]
pub fn test_cancel() {
    let address = libc_function!("pthread_testcancel");
    if address != 0 {
        // SAFETY: libc's function.
        let test: extern "C" fn() = unsafe { core::mem::transmute(address) };
        test();
    }
}

/// A call that is no cancellation point.
pub fn uncancellable<R>(call: impl FnOnce() -> R) -> R {
    let tls = tls::get();
    tls.uncancellable.store(1, Relaxed);
    let done = call();
    tls.uncancellable.store(0, Relaxed);
    done
}

/// libc's `struct _pthread_cleanup_buffer`; glibc and musl have it no larger.
#[repr(C)]
struct Buffer([usize; 4]);

const PTHREAD_CANCEL_ASYNCHRONOUS: c_int = 1;

/// Sleeps by `sleep`; the thread may be cancelled meanwhile, if its call is a cancellation point.
pub(crate) fn sleep<R>(ctx: &Operation<'_>, sleep: impl FnOnce() -> R) -> R {
    let functions = [
        libc_function!("pthread_setcanceltype"),
        libc_function!("_pthread_cleanup_push"),
        libc_function!("_pthread_cleanup_pop"),
    ];
    if functions.contains(&0) {
        return sleep();
    }
    let point = engine::reap::is_cancellable(ctx) && tls::get().uncancellable.load(Relaxed) == 0;
    // SAFETY: libc's functions.
    let set_type: extern "C" fn(c_int, *mut c_int) -> c_int = unsafe { core::mem::transmute(functions[0]) };
    // SAFETY: as above.
    let push: extern "C" fn(*mut Buffer, extern "C" fn(*mut c_void), *mut c_void) =
        unsafe { core::mem::transmute(functions[1]) };
    // SAFETY: as above.
    let pop: extern "C" fn(*mut Buffer, c_int) = unsafe { core::mem::transmute(functions[2]) };

    let mut buffer = Buffer([0; 4]);
    let mut before = 0;
    // Also where it is none: the program may have made the thread cancellable anywhere.
    push(&raw mut buffer, cancelled, core::ptr::null_mut());
    if point {
        set_type(PTHREAD_CANCEL_ASYNCHRONOUS, &raw mut before);
    }
    let slept = sleep();
    if point {
        set_type(before, &raw mut before);
    }
    pop(&raw mut buffer, 0);
    slept
}

/// What libc calls when the sleeper is cancelled: its operation ends here.
extern "C" fn cancelled(_: *mut c_void) {
    let tls = tls::get();
    tls.busy.store(BUSY, Relaxed);
    let host = LinuxHost { tls };
    if let Ok(ctx) = Ctx::new(&attach::ARENA, &host, Handle(tls.slot.load(Relaxed))) {
        engine::reap::give_up(&ctx);
    }
    tls.busy.store(IDLE, Relaxed);
    signal::deliver(tls);
}
