//! What came of the strangers' calls that a broker was making when it was killed.
//!
//! What users see: a call that sends, receives or changes semaphores goes on with the next broker, and does once what it is to do.
//! What is missing: where that one is killed too, before a caller has asked again, nobody knows any more.
//!
//! The arena tells: a call's number, which its caller repeats, stands in the slot of the thread that made it, and that it is done is stored as one
//! change with what it does (`engine::util::note_done`). A message that was received stays in the thread's hands until it is answered for.

use std::collections::BTreeMap;
use std::sync::Mutex;

use abi::Result;
use arena::{Ctx, Handle};
use client::LinuxHost;
use engine::reap;

use crate::quota::locked;

/// A call that was being made.
#[derive(Debug)]
pub(crate) struct Left {
    /// What it had come to, if it was to send or to change semaphores; or why its sleep had ended.
    pub(crate) outcome: Option<Result<()>>,
    /// What it had received: type or priority, and text.
    pub(crate) message: Option<(i64, Vec<u8>)>,
}

/// By the caller, its process slot in the high half and its thread in the low one, and the call's number: a handler makes calls in the
/// middle of another one.
static ALL: Mutex<BTreeMap<(u64, u64), Left>> = Mutex::new(BTreeMap::new());

/// Remembers one.
pub(crate) fn note(ctx: &Ctx<'_, LinuxHost>, left: &reap::Left<'_>) {
    let message = left.message().and_then(|(mtype, size)| {
        let mut text = vec![0; usize::try_from(size).ok()?];
        left.copy(ctx, text.as_mut_ptr().addr() as u64).ok()?;
        Some((mtype, text))
    });
    let known = Left { outcome: left.outcome, message };
    locked(&ALL).insert((left.caller, left.call), known);
}

/// What is known of this call, whose caller makes it anew.
pub(crate) fn take(caller: u64, call: u64) -> Option<Left> {
    locked(&ALL).remove(&(caller, call))
}

/// A process has ended.
pub(crate) fn forget(process: Handle) {
    locked(&ALL).retain(|(caller, _), _| caller >> 32 != u64::from(process.0));
}
