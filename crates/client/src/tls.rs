//! The thread's own few words, in initial-exec thread-local storage: two instructions away, no allocation.
//!
//! # Safety
//! The storage is zeroed, private to the thread, and of plain atomics (so that a signal handler of the same thread may
//! look in).
#![expect(unsafe_code, reason = "thread-local storage without std needs assembly")]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

use engine::Cred;
use sys::robust::{self, RobustListHead};

use crate::{attach, vfork::Vfork};

/// What a thread knows of itself.
#[repr(C)]
pub(crate) struct Tls {
    /// Handle of the thread's slot.
    pub(crate) slot: AtomicU32,
    /// Attachment that the rest belongs to.
    pub(crate) generation: AtomicU32,
    pub(crate) tid: AtomicU32,
    pub(crate) busy: AtomicU32,
    /// libc's robust list head.
    pub(crate) head: AtomicUsize,
    /// What libc had announced in it.
    pub(crate) pending: AtomicUsize,
    cred_generation: AtomicU32,
    euid: AtomicU32,
    egid: AtomicU32,
    fsgid: AtomicU32,
    rights: AtomicU32,
    /// Whether SIGSEGV or SIGBUS may be blocked, so that a fault may kill: to be asked before the next copy.
    pub(crate) unsure: AtomicU32,
    /// Signals that wait for the operation's end: what to unblock then, 0 if none does.
    pub(crate) deferred: AtomicU64,
    pub(crate) pid: AtomicU32,
    /// Handle of the process's slot.
    pub(crate) process: AtomicU32,
    // From here on, nothing that each call needs.
    /// Whether the call is none of those that cancellation ends, though its sleep looks like it.
    pub(crate) uncancellable: AtomicU32,
    /// Which handlers of the program's have run since the thread's last restartable call began: [`crate::signal::RAN`], and more.
    pub(crate) handled: AtomicU32,
    /// Of waits for a peer, and of those in line.
    pub(crate) awake: Awake,
    pub(crate) awake_in_line: Awake,
    /// The credentials, as their generation, with which the process was told that it is a stranger; 0 if it was not. And its id.
    pub(crate) stranger: AtomicU32,
    pub(crate) stranger_pid: AtomicU32,
    /// The connection by which a stranger's calls are made: the descriptor plus one, and the low half of its inode's number. And whose it is, process and thread.
    pub(crate) connection: AtomicU64,
    pub(crate) connection_pid: AtomicU32,
    pub(crate) connection_tid: AtomicU32,
    /// The CPU that its last answer came from, plus one.
    pub(crate) connection_cpu: AtomicU32,
    uid: AtomicU32,
    fsuid: AtomicU32,
    /// What a vfork child has of its own.
    pub(crate) vfork: Vfork,
}
const _: () = assert!(size_of::<Tls>() <= 256);

/// How it paid to wait awake.
#[repr(C)]
pub(crate) struct Awake {
    /// How often in a row it did not.
    pub(crate) in_vain: AtomicU32,
    /// How many sleeps are to be slept before it is tried again.
    pub(crate) asleep_at_once: AtomicU32,
}

global_asm!(
    ".pushsection .tbss,\"awT\",@nobits",
    ".hidden ipcspace_tls",
    ".globl ipcspace_tls",
    ".type ipcspace_tls,@tls_object",
    ".p2align 6",
    "ipcspace_tls:",
    ".zero 256",
    ".size ipcspace_tls, 256",
    ".popsection",
);

#[inline(always)]
pub(crate) fn get() -> &'static Tls {
    let at: *const Tls;
    // SAFETY: reads the thread pointer and the symbol's offset from it.
    unsafe {
        asm!("mov {0}, qword ptr [rip + ipcspace_tls@GOTTPOFF]", "add {0}, qword ptr fs:[0]", out(reg) at,
             options(pure, readonly, nostack));
    }
    // SAFETY: 256 zeroed bytes of this thread, aligned to 64. The reference is not sent to other threads, and the
    // thread does not outlive its storage.
    unsafe { &*at }
}

/// A list head for the main thread, with room for a back link before it.
static MAIN_HEAD: [AtomicUsize; 4] = [const { AtomicUsize::new(0) }; 4];

/// The thread's list head. musl gives a thread one only when it takes its first robust mutex; a main thread gets one of ours
/// meanwhile, so that the end of its process is marked. Other threads have none then, for nobody would know when its memory is free again:
/// the broker finds out of their end with the process's.
fn list_head(tid: u32) -> *mut RobustListHead {
    let head = robust::head();
    if !head.is_null() || tid != sys::getpid() {
        return head;
    }
    // SAFETY: static, and only one thread is the main one. There is a word before it.
    unsafe { robust::set_head(MAIN_HEAD[1..].as_ptr().cast_mut().cast()) };
    robust::head()
}

/// Counts changes of credentials: threads refresh theirs when it has moved on.
static CRED_GENERATION: AtomicU32 = AtomicU32::new(1);

/// The process's credentials have changed: all threads look again.
pub fn credentials_changed() {
    CRED_GENERATION.fetch_add(1, Release);
}

/// Counts changes of credentials; never 0.
pub(crate) fn credentials_generation() -> u32 {
    CRED_GENERATION.load(Acquire)
}

const IPC_OWNER: u32 = 1;
const SYS_ADMIN: u32 = 2;
const SYS_RESOURCE: u32 = 4;
const CHECKPOINT_RESTORE: u32 = 8;
const IPC_LOCK: u32 = 16;
const DAC_OVERRIDE: u32 = 32;
const DAC_READ_SEARCH: u32 = 64;
const FOWNER: u32 = 128;

impl Tls {
    /// Learns what does not change while the thread lives.
    pub(crate) fn begin(&self) {
        self.tid.store(sys::gettid(), Relaxed);
        self.pid.store(attach::pid(), Relaxed);
        self.process.store(attach::process().0, Relaxed);
        self.head.store(list_head(self.tid.load(Relaxed)) as usize, Relaxed);
        self.cred_generation.store(0, Relaxed);
        self.unsure.store(1, Relaxed);
    }

    /// The thread's credentials are looked at again.
    pub(crate) fn forget_credentials(&self) {
        self.cred_generation.store(0, Relaxed);
    }

    #[inline(always)]
    pub(crate) fn cred(&self, owner: u32, initial_userns: bool) -> Cred {
        let now = CRED_GENERATION.load(Acquire);
        if self.cred_generation.load(Relaxed) != now {
            self.refresh(owner, initial_userns);
            self.cred_generation.store(now, Relaxed);
        }
        let rights = self.rights.load(Relaxed);
        Cred {
            uid: self.uid.load(Relaxed),
            fsuid: self.fsuid.load(Relaxed),
            euid: self.euid.load(Relaxed),
            egid: self.egid.load(Relaxed),
            fsgid: self.fsgid.load(Relaxed),
            ipc_owner: rights & IPC_OWNER != 0,
            sys_admin: rights & SYS_ADMIN != 0,
            checkpoint_restore: rights & CHECKPOINT_RESTORE != 0,
            ipc_lock: rights & IPC_LOCK != 0,
            dac_override: rights & DAC_OVERRIDE != 0,
            dac_read_search: rights & DAC_READ_SEARCH != 0,
            fowner: rights & FOWNER != 0,
            sys_resource: rights & SYS_RESOURCE != 0,
        }
    }

    #[cold]
    #[inline(never)]
    fn refresh(&self, owner: u32, initial_userns: bool) {
        let euid = sys::geteuid();
        let caps = sys::capabilities();
        let has = |cap: u32| caps >> cap & 1 != 0;
        let is_owner = euid == owner;
        let mut rights = 0;
        for (right, granted) in [
            (IPC_OWNER, is_owner || has(15)),
            (SYS_ADMIN, is_owner || has(21)),
            (CHECKPOINT_RESTORE, is_owner || has(21) || has(40)),
            (SYS_RESOURCE, initial_userns && has(24)),
            (IPC_LOCK, has(14)),
            (DAC_OVERRIDE, is_owner || has(1)),
            (DAC_READ_SEARCH, is_owner || has(2)),
            (FOWNER, is_owner || has(3)),
        ] {
            rights |= if granted { right } else { 0 };
        }
        self.euid.store(euid, Relaxed);
        self.uid.store(sys::getuid(), Relaxed);
        self.fsuid.store(sys::getfsuid(), Relaxed);
        self.egid.store(sys::getegid(), Relaxed);
        self.fsgid.store(sys::getfsgid(), Relaxed);
        self.rights.store(rights, Relaxed);
    }
}
