//! Putting right what the dead left.

use abi::{Errno, Result};
use arena::{
    CALL_DONE, CALL_FAILED, CALL_RECEIVES, Class, Ctx, Handle, Phase, ProcSlot, Ref, SLOT_DEAD, SLOT_FREE,
    ThreadSlot, Waiter, sync::Ordering::*,
};

use crate::{
    mqueue::{self, KIND_MQ_NOTIFY, KIND_MQ_RECV, KIND_MQ_SEND},
    msg::{self, KIND_RECV, KIND_SEND},
    msgutil::{MsgMsg, store_msg},
    options::{POSIX_MQUEUE, SYSVIPC},
    sem::{self, KIND_SEM},
    shm::{self, KIND_SHM},
    task::Task,
    util::{Head, OrErrno, lock_object, outcome_of, own_block},
};

/// Ends all that a dead thread had begun, and frees its slot.
pub fn reap_thread<'a, T: Task>(ctx: &Ctx<'a, T>, slot: &Ref<'a, ThreadSlot>, tid: u32) {
    settle_slot(ctx, slot, tid);
    ctx.release_slot(slot);
}

/// Ends all that a dead thread had begun. `ctx` may be of the slot's next owner. Errors are left behind as what they
/// are: objects that make no sense, which their users find out.
pub fn settle_slot<'a, T: Task>(ctx: &Ctx<'a, T>, slot: &Ref<'a, ThreadSlot>, tid: u32) {
    settle(ctx, slot, tid, &mut |_| ());
}

/// As [`settle_slot`]; `heard` is told of a call that was made for somebody who asks later.
fn settle<'a, T: Task>(
    ctx: &Ctx<'a, T>,
    slot: &Ref<'a, ThreadSlot>,
    tid: u32,
    heard: &mut impl FnMut(Left<'a>),
) {
    ctx.recover(slot, tid, |class, object| finish_left(ctx, class, object));
    let who = slot.part(|s| &s.waiter);
    let was_completed = end_sleep(ctx, &who);
    let caller = slot.caller.swap(0, Relaxed);
    if caller != 0 {
        let came = slot.came.load(Relaxed);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        let (came, what) = (u64::from(came as u32), (came >> 32) as u32);
        let given = [what, who.block.load(Relaxed)].map(Handle);
        let message = given.into_iter().find(|block| came == CALL_RECEIVES && !block.is_null());
        heard(Left {
            caller,
            call: slot.call.load(Relaxed),
            outcome: match came {
                CALL_DONE => Some(Ok(())),
                CALL_FAILED => Some(Err(Errno::from_raw(what.cast_signed()))),
                _ => was_completed.then(|| outcome_of(&who).map(drop)),
            },
            message: message.and_then(|block| {
                let msg: Ref<'a, MsgMsg> = ctx.at(block).ok()?;
                // Read once: who runs on may change it.
                let size = msg.size.load(Relaxed).into();
                Some((msg, size))
            }),
        });
    }
    let block = who.block.load(Relaxed);
    let in_flight = &slot.get().in_flight;
    if [&in_flight.chain, &in_flight.taking].iter().any(|place| place.load(Relaxed) == block) {
        // It died between the two stores of a hand-over to itself: one of the two places counts.
        who.block.store(0, Relaxed);
    }
    if in_flight.taking.load(Relaxed) == in_flight.doomed.load(Relaxed) {
        // It died while it freed the block of a removed object: that is all there is left to do.
        in_flight.doomed.store(0, Relaxed);
    }
    ctx.adopt(slot);
    // Whoever completed it may have given it a message, which dies with it.
    free_given(ctx, &who);
    let doomed = Handle(in_flight.doomed.load(Relaxed));
    if !doomed.is_null() {
        let _ = match in_flight.doomed_class.load(Relaxed) {
            _ if !SYSVIPC => mqueue::queue(ctx, doomed).and_then(|q| mqueue::evict_inode(ctx, &q)),
            KIND_SEM => sem::set(ctx, doomed).and_then(|s| sem::freeary(ctx, &s)),
            KIND_SHM => shm::segment(ctx, doomed).and_then(|s| shm::freeseg(ctx, &s)),
            KIND_MQ_RECV if POSIX_MQUEUE => {
                mqueue::queue(ctx, doomed).and_then(|q| mqueue::evict_inode(ctx, &q))
            }
            _ => msg::queue(ctx, doomed).and_then(|q| msg::freeque(ctx, &q)),
        };
        in_flight.doomed.store(0, Relaxed);
    }
    ctx.flush_wakes();
    ctx.trim_log();
}

/// A call that a thread which is dead made for somebody else.
#[expect(missing_debug_implementations, reason = "a message in the arena has none")]
pub struct Left<'a> {
    /// The caller's process slot in the high half, and its thread in the low one.
    pub caller: u64,
    /// Its number.
    pub call: u64,
    /// What it had come to, or the sleep in the middle of it; none if to nothing yet.
    pub outcome: Option<Result<()>>,
    /// The message that it had taken, if it was to receive one, and its size.
    message: Option<(Ref<'a, MsgMsg>, u64)>,
}

impl Left<'_> {
    /// Type, or priority, and size of the message that it had taken.
    pub fn message(&self) -> Option<(i64, u64)> {
        let (message, size) = self.message.as_ref()?;
        Some((message.mtype.load(Relaxed), *size))
    }

    /// Copies the message to this place of the calling thread's, which has room for it.
    ///
    /// # Errors
    /// `EIDRM` if it makes no sense.
    pub fn copy<T: Task>(&self, ctx: &Ctx<'_, T>, to: u64) -> Result<()> {
        let Some((msg, size)) = &self.message else { return Ok(()) };
        store_msg(ctx, msg, to, *size).map_err(|_| Errno::EIDRM)
    }
}

/// Ends what a dead thread left undone at an object, the wakes of its sleepers mostly: it may be that nobody else ever comes there.
fn finish_left<T: Task>(ctx: &Ctx<'_, T>, class: Class, object: Handle) {
    // Whoever meets what makes no sense is told; nobody is here.
    let _ = match class {
        Class::QUEUE => msg::queue(ctx, object).and_then(|q| lock_object(ctx, q).map(drop)),
        Class::SEM_SET => sem::set(ctx, object).and_then(|s| lock_object(ctx, s).map(drop)),
        Class::MQUEUE => mqueue::queue(ctx, object).and_then(|q| lock_object(ctx, q).map(drop)),
        // A segment has no sleepers.
        _ => Ok(()),
    };
}

/// Whether the thread of `ctx` sleeps in a call that POSIX makes a cancellation point: of a message.
pub fn is_cancellable<T: Task>(ctx: &Ctx<'_, T>) -> bool {
    matches!(ctx.slot.waiter.kind.load(Relaxed), KIND_RECV | KIND_SEND | KIND_MQ_RECV | KIND_MQ_SEND)
}

/// Ends the sleep of the thread of `ctx`, whose call nobody goes on with. What it had been given goes with it.
pub fn give_up<T: Task>(ctx: &Ctx<'_, T>) {
    let who = ctx.slot.part(|s| &s.waiter);
    end_sleep(ctx, &who);
    free_given(ctx, &who);
    ctx.flush_wakes();
    ctx.trim_log();
}

/// Frees what a sleeper had been given.
fn free_given<T: Task>(ctx: &Ctx<'_, T>, who: &Waiter) {
    if who.block.load(Relaxed) != 0 {
        own_block(ctx, who);
        ctx.free_chain();
    }
}

/// Takes a dead thread's waiter off the list that it is on. Whether it was on none, as somebody had completed it.
fn end_sleep<'a, T: Task>(ctx: &Ctx<'a, T>, who: &Ref<'a, Waiter>) -> bool {
    let _ = match kind_of(ctx, who) {
        kind @ (KIND_RECV | KIND_SEND) if SYSVIPC => msg::abandon(ctx, who, kind),
        kind @ (KIND_MQ_RECV | KIND_MQ_SEND | KIND_MQ_NOTIFY) if POSIX_MQUEUE => {
            mqueue::abandon(ctx, who, kind)
        }
        KIND_SEM if SYSVIPC => sem::abandon(ctx, who),
        _ => Ok(()),
    };
    let was_completed = who.phase() == Phase::Done;
    who.end();
    was_completed
}

/// What the waiter sleeps for. Read under the object's lock, as whoever completes it may be in the middle of that, and
/// may yet die and leave it to be taken back.
fn kind_of<'a, T: Task>(ctx: &Ctx<'a, T>, who: &Ref<'a, Waiter>) -> u32 {
    let object = Handle(who.object.load(Relaxed));
    let lock = ctx.at::<Head>(object).map(|head| head.part(|h| &h.lock));
    let held = lock.and_then(|lock| ctx.lock(lock));
    let kind = who.kind.load(Relaxed);
    drop(held);
    kind
}

/// A living process, which is in no operation, has gone to another namespace: as at its end, but what it has attached stays attached. Whether
/// there is any.
pub fn leave_process<'a, T: Task>(ctx: &Ctx<'a, T>, process: Handle) -> bool {
    let Ok(slot) = ctx.at::<ProcSlot>(process) else { return false };
    end_threads(ctx, process);
    apply_undo(ctx, &slot);
    let _ = shm::exit_shm(ctx, process);
    slot.left.store(1, Relaxed);
    shm::has_attachments(ctx, process)
}

/// A process that has left, and has something attached, is in this namespace again, or one that has executed another program; none of its
/// threads has begun anything yet.
///
/// # Errors
/// `EIDRM` if the slot makes no sense.
pub fn come_back<T: Task>(ctx: &Ctx<'_, T>, process: Handle) -> Result<()> {
    let slot = ctx.at::<ProcSlot>(process).map_err(crate::util::arena_errno)?;
    slot.left.store(0, Relaxed);
    slot.first.store(0, Relaxed);
    Ok(())
}

/// Ends all that the threads of a broker that was killed had begun, of which the calling one has taken the first one's place. `heard` is told of
/// the calls that they made for others, before what these had taken is freed.
///
/// # Errors
/// `EIDRM` if the arena makes no sense.
pub fn end_broker<'a, T: Task>(ctx: &Ctx<'a, T>, first: u32, mut heard: impl FnMut(Left<'a>)) -> Result<()> {
    ctx.open_closed().or_errno()?;
    forget_shared(ctx, &ctx.slot)?;
    settle_slot(ctx, &ctx.slot, first);
    for (thread, _, tid) in ctx.threads().or_errno()?.filter(|(_, process, _)| process.is_null()) {
        forget_shared(ctx, &thread)?;
        settle(ctx, &thread, tid, &mut heard);
        ctx.release_slot(&thread);
    }
    Ok(())
}

/// A broker that was killed in the middle of freeing an object which somebody dead had begun to remove may have had it in its hands as
/// well: then it is left to the other one's slot.
fn forget_shared<T: Task>(ctx: &Ctx<'_, T>, broker: &ThreadSlot) -> Result<()> {
    let taking = broker.in_flight.taking.load(Relaxed);
    let mut others = ctx.threads().or_errno()?.filter(|(_, process, _)| !process.is_null());
    if taking != 0 && others.any(|(other, ..)| other.in_flight.doomed.load(Relaxed) == taking) {
        broker.in_flight.taking.store(0, Relaxed);
    }
    Ok(())
}

/// Ends all that the threads of a process had begun, and frees their slots.
pub fn end_threads(ctx: &Ctx<'_, impl Task>, process: Handle) {
    let Ok(threads) = ctx.threads() else { return };
    for (thread, _, tid) in threads.filter(|(_, owner, _)| *owner == process) {
        reap_thread(ctx, &thread, tid);
    }
}

fn apply_undo<T: Task>(ctx: &Ctx<'_, T>, slot: &Ref<'_, ProcSlot>) {
    if SYSVIPC && slot.has_undo.load(Relaxed) != 0 {
        let _ = sem::exit_process(ctx, slot.handle());
    }
    slot.has_undo.store(0, Relaxed);
}

/// Ends all that a dead process had begun, applies its undo adjustments, detaches its segments, and frees its slot.
pub fn reap_process<'a, T: Task>(ctx: &Ctx<'a, T>, process: Handle) {
    let Ok(slot) = ctx.at::<ProcSlot>(process) else { return };
    slot.state.store(SLOT_DEAD, Relaxed);
    end_threads(ctx, process);
    apply_undo(ctx, &slot);
    if SYSVIPC {
        let _ = shm::exit_process(ctx, process);
    }
    if POSIX_MQUEUE {
        let _ = mqueue::exit_process(ctx, process);
    }
    slot.liveness.store(0, Relaxed);
    slot.state.store(SLOT_FREE, Release);
    ctx.hold(process);
    ctx.free(process);
}
