//! The root of a namespace: its limits, as data, and its three classes of identifiers.

use abi::{Errno, Result, msg, sem};
use arena::{
    Arena, Host, Ref,
    sync::{AtomicI32, AtomicU32, AtomicU64, Ordering::*},
};

use crate::util::{IpcIds, arena_errno};

/// A limit of a namespace, by its sysctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Limit {
    /// `kernel.msgmax`: largest message, bytes.
    MsgMax,
    /// `kernel.msgmnb`: bytes of a new queue.
    MsgMnb,
    /// `kernel.msgmni`: most queues.
    MsgMni,
    /// `kernel.sem`, first: most semaphores of a set.
    SemMsl,
    /// `kernel.sem`, second: most semaphores.
    SemMns,
    /// `kernel.sem`, third: most operations of a call.
    SemOpm,
    /// `kernel.sem`, fourth: most sets.
    SemMni,
}

const LIMITS: usize = 7;

arena::shared! {
    /// A namespace, at the root of its arena.
    pub struct IpcNamespace {
        /// Whoever has this uid is root in the namespace.
        pub owner_uid: AtomicU32,
        /// Whether the namespace lives in the initial user namespace.
        pub initial_userns: AtomicU32,
        /// The broker sleeps here; see `ring`.
        pub doorbell: AtomicU32,
        /// What the broker is asked for: bits of `ASK_*`.
        pub asks: AtomicU32,
        limits: [AtomicI32; LIMITS],
        pad: AtomicU32,
        /// The broker's process id.
        pub broker_pid: AtomicU32,
        pad2: AtomicU32,
        unused: [AtomicU64; 8],
        /// Message queues.
        pub msg_ids: IpcIds,
        /// Semaphore sets.
        pub sem_ids: IpcIds,
        /// Segments (later).
        pub shm_ids: IpcIds,
    }
}

/// Memory may be given back.
pub const ASK_TRIM: u32 = 1;
/// Somebody waits for a lock for too long.
pub const ASK_STALLED: u32 = 2;

/// One sysctl: its name and the limits it shows.
const SYSCTLS: [(&str, &[Limit]); 4] = [
    ("kernel.msgmax", &[Limit::MsgMax]),
    ("kernel.msgmnb", &[Limit::MsgMnb]),
    ("kernel.msgmni", &[Limit::MsgMni]),
    ("kernel.sem", &[Limit::SemMsl, Limit::SemMns, Limit::SemOpm, Limit::SemMni]),
];
/// Sysctls that set the identifier of the next object.
const NEXT_IDS: [&str; 2] = ["kernel.msg_next_id", "kernel.sem_next_id"];

impl IpcNamespace {
    /// The namespace of an arena.
    ///
    /// # Errors
    /// `EIDRM` if the arena is not one.
    #[inline(always)]
    pub fn of<'a, H: Host>(arena: &'a Arena, host: &H) -> Result<Ref<'a, IpcNamespace>> {
        arena.root(host).map_err(arena_errno)
    }

    /// Sets the defaults of a new namespace.
    pub fn init(&self, owner_uid: u32, initial_userns: bool) {
        self.owner_uid.store(owner_uid, Relaxed);
        self.initial_userns.store(u32::from(initial_userns), Relaxed);
        for (limit, value) in [
            (Limit::MsgMax, msg::MSGMAX),
            (Limit::MsgMnb, msg::MSGMNB),
            (Limit::MsgMni, msg::MSGMNI),
            (Limit::SemMsl, sem::SEMMSL),
            (Limit::SemMns, sem::SEMMNS),
            (Limit::SemOpm, sem::SEMOPM),
            (Limit::SemMni, sem::SEMMNI),
        ] {
            self.limits[limit as usize].store(value, Relaxed);
        }
        for ids in [&self.msg_ids, &self.sem_ids, &self.shm_ids] {
            ids.init();
        }
    }

    /// A limit's value. The kernel's type is `int`.
    #[inline(always)]
    pub fn limit(&self, limit: Limit) -> i32 {
        self.limits[limit as usize].load(Relaxed)
    }

    /// The sysctls there are.
    pub fn sysctls() -> impl Iterator<Item = &'static str> {
        SYSCTLS.iter().map(|(name, _)| *name).chain(NEXT_IDS)
    }

    /// The values of a sysctl, in order; none if there is no such sysctl.
    pub fn sysctl(&self, name: &str) -> Option<impl Iterator<Item = i32> + '_> {
        let limits = SYSCTLS.iter().find(|(n, _)| *n == name).map(|(_, l)| *l);
        let next = self.next_id(name).map(|n| n.load(Relaxed));
        (limits.is_some() || next.is_some())
            .then(|| limits.unwrap_or(&[]).iter().map(|&l| self.limit(l)).chain(next))
    }

    fn next_id(&self, name: &str) -> Option<&AtomicI32> {
        match name {
            "kernel.msg_next_id" => Some(&self.msg_ids.next_id),
            "kernel.sem_next_id" => Some(&self.sem_ids.next_id),
            _ => None,
        }
    }

    /// Writes a sysctl as the kernel does: numbers separated by blanks; a short list changes only its beginning; what is out
    /// of range changes nothing, but `kernel.sem` keeps its first three values.
    ///
    /// # Errors
    /// `ENOENT` for an unknown name, `EINVAL` for what is no number or out of range, `ERANGE` for `semmni`.
    pub fn set_sysctl(&self, name: &str, text: &str) -> Result<()> {
        if let Some(next) = self.next_id(name) {
            let value = text.trim().parse().ok().filter(|v| *v >= 0).ok_or(Errno::EINVAL)?;
            next.store(value, Relaxed);
            return Ok(());
        }
        let (_, limits) = SYSCTLS.iter().find(|(n, _)| *n == name).ok_or(Errno::ENOENT)?;
        let mut words = text.split_ascii_whitespace();
        if words.clone().next().is_none()
            || words.clone().take(limits.len()).any(|w| w.parse::<i32>().is_err())
        {
            return Err(Errno::EINVAL);
        }
        for &limit in *limits {
            let Some(value) = words.next().and_then(|w| w.parse::<i32>().ok()) else { break };
            check_range(limit, value)?;
            self.limits[limit as usize].store(value, Relaxed);
        }
        Ok(())
    }

    /// Asks the broker for something. Returns whether it must be woken by a futex wake on `doorbell`.
    pub fn ring(&self, ask: u32) -> bool {
        let news = self.asks.fetch_or(ask, AcqRel) & ask == 0;
        if news {
            self.doorbell.fetch_add(1, Release);
        }
        news
    }
}

#[expect(clippy::cast_possible_wrap, reason = "a constant")]
fn check_range(limit: Limit, value: i32) -> Result<()> {
    let most = abi::ipc::IPCMNI as i32;
    match limit {
        Limit::MsgMax | Limit::MsgMnb if value < 0 => Err(Errno::EINVAL),
        Limit::MsgMni if !(0..=most).contains(&value) => Err(Errno::EINVAL),
        Limit::SemMni if !(0..=most).contains(&value) => Err(Errno::ERANGE),
        _ => Ok(()),
    }
}
