//! Operations on behalf of threads of other processes, for a door that many of them come through.
//!
//! The calling thread lends its locks and its process's memory; whose rights count, whose memory is read and written, and who
//! sleeps is the [`Caller`]'s affair. A call has a thread slot of its own as long as it lasts, so any number of them can sleep,
//! and any of the door's threads can go on with any of them. They are woken by one bell.
//!
//! What is missing: a bell has places for [`PLACES`] sleepers.

use core::ptr::NonNull;

use abi::{Plain, Result, mqueue::O_NONBLOCK, time::Clock};
use arena::{
    ArenaError, Ctx, Handle, Host, Phase, SharedBytes, ThreadSlot, Waiter,
    sync::{AtomicU32, Ordering::*},
};
use engine::{Backing, Cred, Descriptors, IpcNamespace, MapRequest, Mqd, NewMemory, Notice, Readiness, Task};
use sys::net::Fd;

use crate::{LinuxHost, attach, claim, enter_slow, memory, mqd, tls, wire};

pub use arena::PLACES;

/// Who a call is made for.
pub trait Caller {
    /// The process.
    fn tgid(&self) -> u32;
    /// The thread.
    fn pid(&self) -> u32;
    /// The slot of the process.
    fn process(&self) -> Handle;
    /// Whether nobody waits any more for the end of the call that sleeps at this place of the door's bell.
    fn is_gone(&self, place: u32) -> bool;
    /// Rights in a namespace of that owner.
    fn cred(&self, owner: u32, initial_userns: bool) -> Cred;
    /// Whether the call is one of a 32-bit program's.
    fn in_compat_syscall(&self) -> bool;
    /// Whether permissions of that group are the thread's.
    fn in_group(&self, gid: u32) -> bool;
    /// Copies from its memory to ours.
    ///
    /// # Errors
    /// `EFAULT`.
    fn read(&self, to: NonNull<u8>, from: u64, len: usize) -> Result<()>;
    /// Copies from our memory to its.
    ///
    /// # Errors
    /// `EFAULT`.
    fn write(&self, to: u64, from: NonNull<u8>, len: usize) -> Result<()>;
    /// Maps `size` bytes of a segment's file there.
    ///
    /// # Errors
    /// As [`Backing::map_memory`].
    fn map(&self, wanted: &MapRequest, file: &Fd, size: u64, replaced: impl FnMut(i32, bool)) -> Result<u64>;
    /// See [`Backing::unmap_memory`].
    ///
    /// # Errors
    /// As there.
    fn unmap(&self, addr: u64, segment_of: impl Fn(u64) -> Option<(i32, u64)>) -> Result<i32>;
    /// `RLIMIT_MEMLOCK`, bytes.
    fn memlock_limit(&self) -> u64;
    /// Gives it a descriptor of ours, closed by exec, when the call has ended well; returns a number that stands for it until then.
    fn give(&self, file: Fd) -> i32;
    /// Whether it has a number free for one.
    ///
    /// # Errors
    /// `EMFILE`.
    fn can_be_given(&self) -> Result<()>;
    /// It is not to be given that descriptor.
    fn take_back(&self, fd: i32);
    /// The queue that a descriptor of its is of, and the flags of `open`.
    ///
    /// # Errors
    /// `EBADF`.
    fn descriptor(&self, fd: i32) -> Result<(Mqd, i32)>;
    /// A descriptor of ours of that queue, if it is the one that the call has named.
    fn own_descriptor(&self, queue: Handle) -> Option<i32>;
    /// Sets the flags of a descriptor of its.
    fn set_flags(&self, fd: i32, flags: i32);
    /// Whether a descriptor of its is a netlink socket.
    ///
    /// # Errors
    /// `EBADF`, `ENOTSOCK`, and `EINVAL` for another socket.
    fn notify_socket(&self, fd: i32, cookie: [u64; 4]) -> Result<()>;
    /// `RLIMIT_MSGQUEUE`, bytes.
    fn msgqueue_limit(&self) -> u64;
    /// The process's umask.
    fn umask(&self) -> u32;
    /// As [`Descriptors::scheduling_priority`].
    fn scheduling_priority(&self) -> i32;
}

/// A thread of another process, by the hands of one of ours.
pub struct Behalf<'c, C> {
    own: LinuxHost,
    caller: &'c C,
    bell: &'c Bell,
}

/// What wakes the sleepers of a door.
#[derive(Debug)]
pub struct Bell {
    slot: Handle,
}

/// The context of a call for somebody else.
pub type Errand<'a, 'c, C> = Ctx<'a, Behalf<'c, C>>;

/// The calling thread's own host, attached.
fn own() -> Result<LinuxHost> {
    let tls = tls::get();
    let generation = attach::generation();
    if generation == 0 || tls.generation.load(Relaxed) != generation {
        enter_slow()?;
    }
    Ok(LinuxHost { tls })
}

/// The thread slot of that handle.
fn thread_slot(own: &LinuxHost, slot: Handle) -> Result<arena::Ref<'static, ThreadSlot>> {
    attach::ARENA.at(own, slot).map_err(engine::util::arena_errno)
}

impl Bell {
    /// A bell of the calling thread, which must live as long as it is used.
    ///
    /// # Errors
    /// Those of attaching.
    pub fn new() -> Result<Bell> {
        memory::learn_usual_device()?;
        Ok(Bell { slot: claim(&own()?, true)?.slot.handle() })
    }

    /// A thread slot for calls that sleep at that place of the bell.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn claim_slot(&self, place: u32) -> Result<Handle> {
        let own = own()?;
        let ctx = claim(&own, true)?;
        ctx.slot.waiter.place.store(place, Relaxed);
        ctx.slot.waiter.bell.store(self.slot.0, Relaxed);
        Ok(ctx.slot.handle())
    }

    /// How often it has been rung.
    ///
    /// # Errors
    /// `EIDRM` if it is no more.
    pub fn rung(&self) -> Result<u32> {
        Ok(thread_slot(&own()?, self.slot)?.bell.word().load(Acquire))
    }

    /// Sleeps until it has been rung more often than `seen`, at most `ns` nanoseconds.
    ///
    /// # Errors
    /// `EIDRM` if it is no more.
    pub fn wait(&self, seen: u32, ns: u64) -> Result<()> {
        // Too early or not: who sleeps here looks.
        let _ = sys::futex_wait(thread_slot(&own()?, self.slot)?.bell.word(), seen, ns);
        Ok(())
    }

    /// Ends the sleep of whoever waits for it.
    ///
    /// # Errors
    /// `EIDRM` if it is no more.
    pub fn nudge(&self) -> Result<()> {
        let own = own()?;
        thread_slot(&own, self.slot)?.bell.nudge(&own);
        Ok(())
    }

    /// Takes the places whose sleepers were woken.
    ///
    /// # Errors
    /// `EIDRM` if it is no more.
    pub fn take(&self, each: impl FnMut(u32)) -> Result<()> {
        thread_slot(&own()?, self.slot)?.bell.take(each);
        Ok(())
    }

    /// Does an operation of `caller` on a slot that was claimed here. Sleepers of this bell that it wakes are found by
    /// [`Bell::take`] only: nobody who waits for the bell is woken for them.
    ///
    /// # Errors
    /// The operation's.
    pub fn on_behalf<C: Caller, R>(
        &self,
        slot: Handle,
        caller: &C,
        operation: impl FnOnce(&Errand<'_, '_, C>) -> Result<R>,
    ) -> Result<R> {
        let host = Behalf { own: own()?, caller, bell: self };
        let ctx = Ctx::new(&attach::ARENA, &host, slot).map_err(engine::util::arena_errno)?;
        let result = operation(&ctx);
        ctx.flush_wakes();
        result
    }
}

/// Announces that the call of `ctx` sleeps, so that it is rung for. False if its sleep is over already.
pub fn fall_asleep<H: Host>(ctx: &Ctx<'_, H>) -> bool {
    ctx.slot.waiter.park((), |_, _| Err(())).is_err()
}

/// Whether the sleep of the call of `ctx` is not over.
pub fn is_asleep<H: Host>(ctx: &Ctx<'_, H>) -> bool {
    ctx.slot.waiter.phase() == Phase::Waiting
}

/// Whether an inode on this device can be a segment's.
pub fn is_segments_device(dev: u64) -> bool {
    memory::is_device(dev)
}

/// A slot for a process whose end the kernel does not tell.
///
/// # Errors
/// `ENOMEM`.
pub fn add_process(pid: u32, start: u64) -> Result<Handle> {
    crate::with(|ctx| {
        let process = ctx.add_process(pid, start).map_err(engine::util::arena_errno)?;
        ctx.at::<arena::ProcSlot>(process).map_err(engine::util::arena_errno)?.mark();
        Ok(process)
    })
}

// SAFETY: all of it is LinuxHost's.
#[expect(unsafe_code, reason = "passed on")]
unsafe impl<C: Caller> Host for Behalf<'_, C> {
    fn map_extent(&self, index: u32) -> core::result::Result<NonNull<u8>, ArenaError> {
        self.own.map_extent(index)
    }

    fn back(&self, start: NonNull<u8>, len: usize) -> core::result::Result<(), ArenaError> {
        self.own.back(start, len)
    }

    fn unback(&self, start: NonNull<u8>, len: usize) {
        self.own.unback(start, len);
    }

    fn tid(&self) -> u32 {
        self.own.tid()
    }

    fn arm(&self, word: &AtomicU32) {
        self.own.arm(word);
    }

    fn disarm(&self) {
        self.own.disarm();
    }

    fn lock_wait(&self, word: &AtomicU32, value: u32, rounds: u32, offset: u64) {
        self.own.lock_wait(word, value, rounds, offset);
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        let is_ours = |slot: arena::Ref<'_, ThreadSlot>| core::ptr::eq(slot.get().bell.word(), word);
        if !attach::ARENA.at(&self.own, self.bell.slot).is_ok_and(is_ours) {
            self.own.wake(word, count);
        }
    }

    fn cpu(&self) -> u32 {
        self.own.cpu()
    }

    fn process_dead(&self, pid: u32, start: u64) -> bool {
        self.own.process_dead(pid, start)
    }

    fn thread_dead(&self, tid: u32) -> bool {
        self.own.thread_dead(tid)
    }

    fn trim_wanted(&self) {
        self.own.trim_wanted();
    }
}

impl<C: Caller> Backing for Behalf<'_, C> {
    fn make_memory(&self, wanted: NewMemory, named: impl FnOnce(u64) -> Handle) -> Result<()> {
        memory::make_and_give(self, wanted, named)
    }

    fn map_memory(&self, wanted: &MapRequest, replaced: impl FnMut(i32, bool)) -> Result<u64> {
        let (file, size) = memory::file_of(wanted.memory, !wanted.write)?;
        let mapped = self.caller.map(wanted, &file, size, replaced);
        if wanted.write {
            memory::keep(file, wanted.memory);
        }
        mapped
    }

    fn unmap_memory(&self, addr: u64, segment_of: impl Fn(u64) -> Option<(i32, u64)>) -> Result<i32> {
        self.caller.unmap(addr, segment_of)
    }

    fn drop_memory(&self, memory: u64) {
        self.own.drop_memory(memory);
    }

    fn retire_memory(&self, memory: u64, read_only: Option<i32>) -> Result<bool> {
        self.own.retire_memory(memory, read_only)
    }

    fn settle(&self, id: Option<i32>) -> Result<(u64, u64)> {
        // Also where the broker is this process: then it is another thread that counts.
        let which = if id.is_some() { wire::ASK_COUNT } else { wire::ASK_USAGE };
        let (words, _) = attach::ask(which, [id.unwrap_or(0).cast_unsigned(), 0])?;
        Ok((words[2].into(), words[3].into()))
    }

    fn memory_usage(&self, memory: u64) -> Result<(u64, u64)> {
        self.own.memory_usage(memory)
    }

    fn lock_memory(&self, memory: u64, lock: bool) -> Result<()> {
        self.own.lock_memory(memory, lock)
    }

    fn watch_removed(&self) {
        // The broker's own look is for its first thread, which sleeps now.
        attach::ring(&self.own, engine::namespace::ASK_SEGMENTS);
    }

    fn memlock_limit(&self) -> u64 {
        self.caller.memlock_limit()
    }
}

/// The caller has opened a queue: what another user than the namespace's owner may have put into it is relied on by nobody.
///
/// # Errors
/// Those of the queue.
pub fn distrust_strangers<C: Caller>(ctx: &Errand<'_, '_, C>, fd: i32) -> Result<()> {
    let (owner, _) = attach::ownership();
    if ctx.host.cred().euid == owner {
        return Ok(());
    }
    engine::mqueue::distrust(ctx, ctx.host.mqd(fd)?.queue)
}

/// Descriptors are the caller's; what is done without them is done with ours.
impl<C: Caller> Descriptors for Behalf<'_, C> {
    fn new_mqd(&self, queue: Handle, oflag: i32) -> Result<i32> {
        self.caller.can_be_given()?;
        Ok(self.caller.give(mqd::open_new(queue, oflag)?))
    }

    fn mqd_possible(&self) -> Result<()> {
        self.caller.can_be_given()
    }

    fn drop_mqd(&self, fd: i32) {
        self.caller.take_back(fd);
    }

    fn mqd(&self, fd: i32) -> Result<Mqd> {
        self.caller.descriptor(fd).map(|(mqd, _)| mqd)
    }

    fn mqd_nonblock(&self, fd: i32) -> bool {
        self.caller.descriptor(fd).is_ok_and(|(_, flags)| flags & O_NONBLOCK != 0)
    }

    fn set_mqd_nonblock(&self, fd: i32, nonblock: bool) {
        let Ok((mqd, flags)) = self.caller.descriptor(fd) else { return };
        match self.caller.own_descriptor(mqd.queue) {
            // It is of the same description.
            Some(own) => self.own.set_mqd_nonblock(own, nonblock),
            None => self.caller.set_flags(fd, flags & !O_NONBLOCK | if nonblock { O_NONBLOCK } else { 0 }),
        }
    }

    fn queue_held(&self, queue: Handle) -> bool {
        self.own.queue_held(queue)
    }

    fn show_readiness(&self, queue: Handle, _: i32, from: Readiness, to: Readiness, edges: bool) {
        // By a descriptor of our own, which does not wait: the caller may have put there what it likes, and all other callers would wait too.
        self.own.show_readiness(queue, engine::mqueue::NO_FD, from, to, edges);
    }

    fn notify(&self, notice: &Notice) {
        self.own.notify(notice);
    }

    fn watch_unlinked(&self) {
        // As in `watch_removed`.
        attach::ring(&self.own, engine::namespace::ASK_SEGMENTS);
    }

    fn notify_socket(&self, fd: i32, cookie: [u64; 4]) -> Result<()> {
        self.caller.notify_socket(fd, cookie)
    }

    fn msgqueue_limit(&self) -> u64 {
        self.caller.msgqueue_limit()
    }

    fn umask(&self) -> u32 {
        self.caller.umask()
    }

    fn scheduling_priority(&self) -> i32 {
        self.caller.scheduling_priority()
    }
}

impl<C: Caller> Task for Behalf<'_, C> {
    fn tgid(&self) -> u32 {
        self.caller.tgid()
    }

    fn caller(&self) -> u32 {
        self.caller.pid()
    }

    fn process(&self) -> Handle {
        self.caller.process()
    }

    fn sleeper_gone(&self, who: &Waiter) -> bool {
        who.bell.load(Relaxed) == self.bell.slot.0 && self.caller.is_gone(who.place.load(Relaxed))
    }

    fn cred(&self) -> Cred {
        let (owner, initial) = IpcNamespace::of(&attach::ARENA, &self.own).map_or((u32::MAX, false), |ns| {
            (ns.owner_uid.load(Relaxed), ns.initial_userns.load(Relaxed) != 0)
        });
        self.caller.cred(owner, initial)
    }

    fn in_compat_syscall(&self) -> bool {
        self.caller.in_compat_syscall()
    }

    fn in_group(&self, gid: u32) -> bool {
        self.caller.in_group(gid)
    }

    fn now(&self) -> i64 {
        self.own.now()
    }

    fn clock_ns(&self, clock: Clock) -> u64 {
        self.own.clock_ns(clock)
    }

    fn copy_from_user(&self, to: SharedBytes<'_>, from: u64) -> Result<()> {
        self.caller.read(to.start(), from, to.len())
    }

    fn copy_to_user(&self, to: u64, from: SharedBytes<'_>) -> Result<()> {
        self.caller.write(to, from.start(), from.len())
    }

    fn put_user<P: Plain>(&self, to: u64, value: &P) -> Result<()> {
        self.caller.write(to, NonNull::from(value).cast(), size_of::<P>())
    }

    fn get_user<P: Plain>(&self, from: u64) -> Result<P> {
        let mut value = P::default();
        self.caller.read(NonNull::from(&mut value).cast(), from, size_of::<P>())?;
        Ok(value)
    }
}
