//! Putting right what the dead left.

use arena::{Ctx, Handle, ProcSlot, Ref, SLOT_DEAD, SLOT_FREE, ThreadSlot, sync::Ordering::*};

use crate::{
    msg::{self, KIND_RECV, KIND_SEND},
    sem::{self, KIND_SEM},
    task::Task,
};

/// Ends all that a dead thread had begun, and frees its slot. Errors are left behind as what they are: objects
/// that make no sense, which their users find out.
pub fn reap_thread<'a, T: Task>(ctx: &Ctx<'a, T>, slot: &Ref<'a, ThreadSlot>, tid: u32) {
    let who = slot.part(|s| &s.waiter);
    let block = who.block.load(Relaxed);
    let in_hand = [&slot.in_flight.chain, &slot.in_flight.taking];
    if block != 0 && in_hand.iter().any(|place| place.load(Relaxed) == block) {
        // It died between the two stores of a hand-over to itself: one of the two places counts.
        who.block.store(0, Relaxed);
    }
    ctx.settle(slot, tid);
    let _ = match who.kind.load(Relaxed) {
        kind @ (KIND_RECV | KIND_SEND) => msg::abandon(ctx, &who, kind),
        KIND_SEM => sem::abandon(ctx, &who).map(|_| ()),
        _ => Ok(()),
    };
    // Whoever completed it may have given it a message, which dies with it.
    if let Some(block) = Handle(who.block.swap(0, Relaxed)).some() {
        ctx.slot.in_flight.chain.store(block.0, Relaxed);
        ctx.free_chain();
    }
    who.end();
    let doomed = Handle(slot.in_flight.doomed.load(Relaxed));
    if !doomed.is_null() {
        let _ = match slot.in_flight.doomed_class.load(Relaxed) {
            KIND_SEM => sem::set(ctx, doomed).and_then(|s| sem::freeary(ctx, &s)),
            _ => msg::queue(ctx, doomed).and_then(|q| msg::freeque(ctx, &q)),
        };
        slot.in_flight.doomed.store(0, Relaxed);
    }
    ctx.flush_wakes();
    ctx.release_slot(slot);
}

/// Ends all that a dead process had begun, applies its undo adjustments, and frees its slot.
pub fn reap_process<'a, T: Task>(ctx: &Ctx<'a, T>, process: Handle) {
    let Ok(slot) = ctx.at::<ProcSlot>(process) else { return };
    slot.state.store(SLOT_DEAD, Relaxed);
    if let Ok(threads) = ctx.threads() {
        for (thread, _, tid) in threads.filter(|(_, owner, _)| *owner == process) {
            reap_thread(ctx, &thread, tid);
        }
    }
    if slot.has_undo.load(Relaxed) != 0 {
        let _ = sem::exit_process(ctx, process);
    }
    slot.has_undo.store(0, Relaxed);
    slot.liveness.store(0, Relaxed);
    slot.state.store(SLOT_FREE, Release);
    ctx.hold(process);
    ctx.free(process);
}
