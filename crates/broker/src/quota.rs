//! What the users of strangers may have, and whose turn it is.
//!
//! What users see: the limits `ipcspace.stranger_{objects,bytes,waiters,connections}`, for each user who is a stranger. What is refused is `ENOSPC` where
//! something is made, `ENOMEM` where it is sent, undone or waited for, `EAGAIN` at connecting.
//! A user's calls are made one at a time, in the order in which they came; so each user has, at most, the processor time of one thread of the broker's,
//! and of one more that looks out for the next call.
//!
//! What a user has is counted anew whenever it may be too much (`engine::usage`); until then, what was added since is known.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arena::Ctx;
use engine::{IpcNamespace, Limit, Task, Usage, usage};
use parking_lot::{FairMutex, RawFairMutex, lock_api::ArcMutexGuard};

/// Connections of all users. One who has some already gets no more than half of those that are left.
const OF_ALL_MAX: usize = 2048;
/// Users of whom it is remembered what they have; there can be more while they are connected.
const KNOWN_MAX: usize = 4096;

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A user's turn, as long as it is held.
pub(crate) type Turn = ArcMutexGuard<RawFairMutex, ()>;

/// A user, with what it has.
#[derive(Debug, Default)]
pub(crate) struct User {
    connections: AtomicUsize,
    waiters: AtomicUsize,
    /// Whether a thread waits awake for a call of the user's.
    is_awaited: AtomicBool,
    /// Whose holder makes a call.
    turn: Arc<FairMutex<()>>,
    /// At most so much is held by what it has made; none if that is not known.
    most: Mutex<Option<Usage>>,
}

static USERS: Mutex<Option<HashMap<u32, Arc<User>>>> = Mutex::new(None);

/// The user of that number.
pub(crate) fn user(uid: u32) -> Arc<User> {
    with_users(|users| known(users, uid))
}

fn with_users<R>(run: impl FnOnce(&mut HashMap<u32, Arc<User>>) -> R) -> R {
    run(locked(&USERS).get_or_insert_default())
}

fn known(users: &mut HashMap<u32, Arc<User>>, uid: u32) -> Arc<User> {
    if users.len() >= KNOWN_MAX && !users.contains_key(&uid) {
        users.retain(|_, user| user.connections.load(Relaxed) > 0);
    }
    users.entry(uid).or_default().clone()
}

/// One of a user's connections; while it lives, it counts.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Whose it is.
    pub(crate) user: Arc<User>,
}

impl Connection {
    /// None if the user has too many, or all have.
    pub(crate) fn new(uid: u32) -> Option<Connection> {
        let most = usize::try_from(client::limit(Limit::StrangerConnections).unwrap_or(0)).unwrap_or(0);
        with_users(|users| {
            let all: usize = users.values().map(|user| user.connections.load(Relaxed)).sum();
            let user = known(users, uid);
            let own = user.connections.load(Relaxed);
            if own >= most || own > OF_ALL_MAX.saturating_sub(all) / 2 || all >= OF_ALL_MAX {
                return None;
            }
            user.connections.fetch_add(1, Relaxed);
            Some(Connection { user })
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.user.connections.fetch_sub(1, Relaxed);
    }
}

/// One of a user's calls that sleep.
pub(crate) struct Waiting<'a>(&'a User);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Relaxed);
    }
}

impl User {
    /// Waits until it is the caller's turn to make a call.
    pub(crate) fn turn(&self) -> Turn {
        self.turn.lock_arc()
    }

    /// Waits awake for the user's next call, where no other thread does. Whether it came.
    pub(crate) fn await_call(&self, wait: impl FnOnce() -> bool) -> bool {
        if self.is_awaited.swap(true, Acquire) {
            return false;
        }
        let came = wait();
        self.is_awaited.store(false, Release);
        came
    }

    /// A call is about to sleep; none if too many do.
    pub(crate) fn wait(&self) -> Option<Waiting<'_>> {
        let most = usize::try_from(client::limit(Limit::StrangerWaiters).unwrap_or(0)).unwrap_or(0);
        let waiting = self.waiters.fetch_add(1, Relaxed);
        let waiter = Waiting(self);
        (waiting < most).then_some(waiter)
    }

    /// Whether what the user has made may come to hold so much more; then it counts.
    pub(crate) fn charge<T: Task>(&self, ctx: &Ctx<'_, T>, uid: u32, more: Usage) -> bool {
        let Ok(ns) = IpcNamespace::of(ctx.arena, ctx.host) else { return false };
        let most_objects = u64::try_from(ns.limit(Limit::StrangerObjects)).unwrap_or(0);
        let most_bytes = ns.stranger_bytes.load(Relaxed);
        let with_more = |usage: Usage| Usage {
            objects: usage.objects.saturating_add(more.objects),
            bytes: usage.bytes.saturating_add(more.bytes),
        };
        let fits = |usage: &Usage| usage.objects <= most_objects && usage.bytes <= most_bytes;
        let mut most = locked(&self.most);
        let known = most.map(with_more).filter(fits);
        let counted = || usage::of_user(ctx, uid).ok().map(with_more).filter(fits);
        let Some(now) = known.or_else(counted) else { return false };
        *most = Some(now);
        true
    }
}

/// Who was refused first, until that has been told; no other is told of.
static REFUSAL: Mutex<Option<String>> = Mutex::new(None);
static HAS_REFUSED: AtomicBool = AtomicBool::new(false);

/// Notes that a process was refused.
pub(crate) fn refused(pid: i32, uid: u32) {
    if HAS_REFUSED.swap(true, Relaxed) {
        return;
    }
    let comm = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    // A stranger chooses its name: it must not speak to the user's terminal.
    let comm = comm.trim_ascii_end().escape_ascii();
    *locked(&REFUSAL) = Some(format!(
        "process {pid} ({comm}) of uid {uid} gets EAGAIN from its IPC calls, as there are too many of its user; more such processes are not reported"
    ));
}

/// Who was the first to be refused, and why: once.
pub(crate) fn refusal() -> Option<String> {
    locked(&REFUSAL).take()
}
