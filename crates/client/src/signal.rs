//! The program's signal handlers, put off while an operation is under way.
//!
//! What users see: a handler runs before an operation or after it, as around a system call, so it may make any call of its own
//! and may `siglongjmp` away; a sleep ends with `EINTR` at once. `sigaction` tells of the program's own handlers. A bad pointer gives
//! `EFAULT` whatever the program does with SIGSEGV and SIGBUS.
//! What is missing: handlers that are installed by the instruction `syscall` after the process has attached.
//!
//! In the kernel, each handler of the program is replaced by [`on_signal`], with the flags and the mask of the program;
//! [`TABLE`] has the address behind it. For SIGSEGV and SIGBUS this is so even where the program has none. Everything else is in the kernel only, so a child of fork
//! has both, and one of exec or posix_spawn needs neither.
//!
//! Where `on_signal` finds the thread busy, it sends the signal to the thread again and blocks all signals in the mask
//! that is restored behind it. At the end of the operation the thread restores its true mask ([`deliver`]), and the kernel
//! delivers. So nothing jumps out of an operation: who leaves a handler by `siglongjmp` leaves no operation behind.
//!
//! # Safety
//! Handlers are called as the kernel would call them. The interrupted thread is only moved to places that the
//! routines of `sys` name for it.
#![expect(unsafe_code, reason = "signal handlers get pointers from the kernel")]

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};

use abi::Result;
use sys::signal::{
    Context, FAULTS, KernelSigaction, LIBC, Mask, SA_RESETHAND, SA_RESTART, SA_RESTORER, SA_SIGINFO, SIG_DFL,
    SIG_IGN, SIGBUS, SIGSEGV, Siginfo, WITHOUT_HANDLER, bit, rt_sigaction, set_mask,
};

use crate::{
    IDLE,
    tls::{self, Tls},
    vfork,
};

const SIGNALS: i32 = 64;
/// Where a fault in the copy shows.
const PROTECTING: Mask = bit(SIGSEGV) | bit(SIGBUS);

/// The program's handler of each signal whose action in the kernel is `on_signal`, with what the flags there don't say.
static TABLE: [AtomicUsize; SIGNALS as usize + 1] = [const { AtomicUsize::new(0) }; SIGNALS as usize + 1];
/// The program has no `SA_SIGINFO`.
const PLAIN: usize = 1 << 63;
/// The program has `SA_RESETHAND`.
const ONCE: usize = 1 << 62;
/// The program has no restorer.
const BARE: usize = 1 << 61;
/// The program has `SA_RESTART`.
const AGAIN: usize = 1 << 60;
const BITS: usize = PLAIN | ONCE | BARE | AGAIN;

/// A handler has run.
pub(crate) const RAN: u32 = 1;
/// One that ends calls has run.
pub(crate) const ENDED: u32 = 2;

/// Whether handlers are replaced in this process: since it attached first.
static REPLACING: AtomicBool = AtomicBool::new(false);

// One may leave by unwinding, or end its thread. It is not declared so: see `cancel`.
type Handler = extern "C" fn(i32, *mut Siginfo, *mut u8);

fn ours() -> usize {
    on_signal as *const () as usize
}

/// An action with our handler in its place, and the word for the table.
fn replaced(program: &KernelSigaction) -> (KernelSigaction, usize) {
    let mut word = program.handler & !BITS;
    for (bit, set) in [
        (PLAIN, program.flags & SA_SIGINFO == 0),
        (ONCE, program.flags & SA_RESETHAND != 0),
        (BARE, program.flags & SA_RESTORER == 0),
        (AGAIN, program.flags & SA_RESTART != 0),
    ] {
        word |= if set { bit } else { 0 };
    }
    let restorer = if program.flags & SA_RESTORER == 0 { sys::signal::restorer() } else { program.restorer };
    let flags = program.flags & !SA_RESETHAND | SA_SIGINFO | SA_RESTORER;
    (KernelSigaction { handler: ours(), flags, restorer, mask: program.mask }, word)
}

/// The program's action behind ours.
fn original(kernel: &KernelSigaction, word: usize) -> KernelSigaction {
    let mut flags = kernel.flags;
    let mut restorer = kernel.restorer;
    if word & PLAIN != 0 {
        flags &= !SA_SIGINFO;
    }
    if word & ONCE != 0 {
        flags |= SA_RESETHAND;
    }
    if word & BARE != 0 {
        flags &= !SA_RESTORER;
        restorer = 0;
    }
    KernelSigaction { handler: word & !BITS, flags, restorer, mask: kernel.mask }
}

fn is_replaced(signal: i32, handler: usize) -> bool {
    (handler != SIG_DFL && handler != SIG_IGN) || PROTECTING & bit(signal) != 0
}

/// Replaces all handlers that there are.
pub(crate) fn replace_all() {
    REPLACING.store(true, SeqCst);
    for signal in (1..=SIGNALS).filter(|&s| (WITHOUT_HANDLER | LIBC) & bit(s) == 0) {
        replace(signal);
    }
}

/// Replaces a signal's handler, if it is not ours.
fn replace(signal: i32) {
    // SAFETY: only asks.
    let Ok(mut found) = (unsafe { rt_sigaction(signal, None) }) else { return };
    // Another thread may install one meanwhile, which is then taken in its turn.
    for _ in 0..8 {
        if found.handler == ours() || !is_replaced(signal, found.handler) {
            return;
        }
        let (action, word) = replaced(&found);
        TABLE[signal as usize].store(word, SeqCst);
        // SAFETY: ours.
        match unsafe { rt_sigaction(signal, Some(&action)) } {
            Ok(before) if before.handler != found.handler => found = before,
            _ => return,
        }
    }
}

/// Whether the program's handlers are replaced: otherwise the kernel has them.
pub fn replacing() -> bool {
    REPLACING.load(SeqCst)
}

/// The program's `sigaction`: the action before.
///
/// # Safety
/// The handler must be one, or `SIG_DFL` or `SIG_IGN`.
///
/// # Errors
/// `EINVAL`.
pub unsafe fn sigaction(signal: i32, new: Option<&KernelSigaction>) -> Result<KernelSigaction> {
    if !(1..=SIGNALS).contains(&signal) || (WITHOUT_HANDLER | LIBC) & bit(signal) != 0 {
        // SAFETY: the caller's promise.
        return unsafe { rt_sigaction(signal, new) };
    }
    let place = &TABLE[signal as usize];
    let before = place.load(SeqCst);
    // The table is its parent's as well; what a vfork child installs is in the kernel alone.
    let replacing = REPLACING.load(SeqCst) && !vfork::is_child(tls::get());
    let mut stored = None;
    let action = new.map(|new| {
        if !replacing || !is_replaced(signal, new.handler) {
            return *new;
        }
        let (action, word) = replaced(new);
        // Before the kernel has the action, or a signal could come that the table does not know. One that comes in between meets the new
        // handler, with the mask of the one before.
        place.store(word, SeqCst);
        stored = Some(word);
        action
    });
    // SAFETY: the caller's promise, or ours.
    let old = unsafe { rt_sigaction(signal, action.as_ref()) }.inspect_err(|_| {
        if let Some(word) = stored {
            let _ = place.compare_exchange(word, before, SeqCst, SeqCst);
        }
    })?;
    if !replacing && REPLACING.load(SeqCst) && !vfork::is_child(tls::get()) {
        // Another thread has attached the process meanwhile.
        replace(signal);
    }
    Ok(if old.handler == ours() { original(&old, before) } else { old })
}

/// What the kernel calls, for all signals.
///
/// # Safety
/// Called by the kernel only.
extern "C" fn on_signal(signal: i32, info: *mut Siginfo, context: *mut u8) {
    let tls = tls::get();
    // SAFETY: the kernel's own, as SA_SIGINFO is set for each of our actions.
    let fault = unsafe { (*info).is_fault(signal) };
    // SAFETY: the kernel's third argument.
    let thread = unsafe { Context::new(context) };
    if fault {
        if let Some(to) = sys::copy::after_fault(thread.rip()) {
            // SAFETY: the copy keeps nothing on the stack, so it can return from here.
            unsafe { thread.set_rip(to) };
            return;
        }
    // SAFETY: as above.
    } else if tls.busy.load(Relaxed) != IDLE && put_off(tls, signal, unsafe { &*info }, thread) {
        return;
    }
    run(tls, signal, info, context, fault);
}

/// Lets a signal wait for the operation's end. False if it can't be queued: then the handler has to run now.
fn put_off(tls: &Tls, signal: i32, info: &Siginfo, thread: Context) -> bool {
    let true_mask = thread.mask();
    // What code raises by itself stays open: blocked, it would end the process.
    let blocked = true_mask | !(FAULTS | LIBC) | bit(signal);
    let before = set_mask(blocked);
    if sys::signal::send_again(signal, info).is_err() {
        set_mask(before);
        return false;
    }
    if PROTECTING & bit(signal) != 0 {
        tls.unsure.store(1, Relaxed);
    }
    // Of several at once, the one that was interrupted last has the operation's own mask: it blocks the least.
    tls.deferred.fetch_or(!true_mask, Relaxed);
    thread.set_mask(blocked);
    if let Some(to) = sys::park::after_signal(thread.rip()) {
        // SAFETY: the sleep keeps nothing on the stack, so it can return from here.
        unsafe { thread.set_rip(to) };
    }
    true
}

/// An operation is over: lets those signals in that have waited for it.
#[cold]
#[inline(never)]
pub(crate) fn deliver(tls: &Tls) {
    let let_in = tls.deferred.swap(0, Relaxed);
    if let_in != 0 {
        // Calls of the handlers are their own.
        let uncancellable = tls.uncancellable.swap(0, Relaxed);
        set_mask(!let_in);
        tls.uncancellable.store(uncancellable, Relaxed);
    }
}

/// Does what the program wants done.
fn run(tls: &Tls, signal: i32, info: *mut Siginfo, context: *mut u8, fault: bool) {
    let place = &TABLE[signal as usize];
    let word = place.load(SeqCst);
    if word & ONCE != 0 && !spend(signal, word) {
        // Another thread was faster: this one gets the default.
        return default_action(signal, info, fault);
    }
    match word & !BITS {
        SIG_DFL => default_action(signal, info, fault),
        // Ignored, but for a fault.
        SIG_IGN if fault => default_action(signal, info, fault),
        SIG_IGN => {}
        address => {
            // SAFETY: the program's own handler for this signal.
            let handler: Handler = unsafe { core::mem::transmute(address) };
            // What it runs under blocks may be SIGSEGV.
            let before = tls.unsure.swap(1, Relaxed);
            let handled = tls.handled.load(Relaxed);
            handler(signal, info, context);
            tls.unsure.store(before, Relaxed);
            let ends = if word & AGAIN == 0 { ENDED } else { 0 };
            tls.handled.store(handled | RAN | ends, Relaxed);
        }
    }
}

/// `SA_RESETHAND`: takes the handler away, before it runs. False if it is gone already.
fn spend(signal: i32, word: usize) -> bool {
    let spent = word & BITS | SIG_DFL;
    if TABLE[signal as usize].compare_exchange(word, spent, SeqCst, SeqCst).is_err() {
        return false;
    }
    if PROTECTING & bit(signal) == 0 {
        // SAFETY: only asks.
        let Ok(action) = (unsafe { rt_sigaction(signal, None) }) else { return true };
        // SAFETY: the default.
        let _ = unsafe { rt_sigaction(signal, Some(&original(&action, spent))) };
    }
    true
}

/// As if nobody had ever caught the signal.
fn default_action(signal: i32, info: *mut Siginfo, fault: bool) {
    let action = KernelSigaction::default();
    // SAFETY: the default.
    let _ = unsafe { rt_sigaction(signal, Some(&action)) };
    // A fault comes again by itself.
    if !fault {
        // SAFETY: the kernel's own.
        let _ = sys::signal::send_again(signal, unsafe { &*info });
    }
}

/// The program's `rt_sigprocmask`; the mask before goes to `old`.
///
/// # Safety
/// `old` is the program's, null, or a bad address.
///
/// # Errors
/// `EINVAL EFAULT`.
pub unsafe fn sigprocmask(how: i32, set: Option<Mask>, old: *mut Mask) -> Result<()> {
    const SIG_UNBLOCK: i32 = 1;
    if how != SIG_UNBLOCK && set.is_some_and(|set| set & PROTECTING != 0) {
        mask_changes();
    }
    // SAFETY: the caller's promise.
    unsafe { sys::signal::rt_sigprocmask_to(how, set.map(|set| set & !LIBC), old) }
}

/// The thread's mask is about to change, unknown how.
pub fn mask_changes() {
    tls::get().unsure.store(1, Relaxed);
}

/// Whether a fault of this thread would end the process, because its signal is blocked.
pub(crate) fn faults_kill(tls: &Tls) -> bool {
    let kill = sys::signal::mask() & PROTECTING != 0;
    tls.unsure.store(u32::from(kill), Relaxed);
    kill
}

/// With no handler running in between: for what is not an operation and must not be interrupted by one.
pub(crate) fn undisturbed<R>(work: impl FnOnce() -> R) -> R {
    let before = sys::signal::block(!(FAULTS | LIBC));
    let done = work();
    set_mask(before);
    done
}
