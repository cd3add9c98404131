//! What a user has made in a namespace, and what that holds: what quotas are about.
//!
//! What users see: nothing of their own namespace. The broker asks for strangers, whose quotas are `ipcspace.stranger_*`.
//!
//! Whatever an object holds counts for the user who made it, whoever put it there. No lock is taken, so a sum is not one of a moment.

use abi::Result;
use arena::{Ctx, sync::Ordering::*};

use crate::{
    IpcNamespace,
    mqueue::MqueueInodeInfo,
    msg::MsgQueue,
    sem::SemArray,
    shm::ShmidKernel,
    task::Task,
    util::{Object, object_at},
};

/// Objects, and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many there are.
    pub objects: u64,
    /// How much memory they hold, about.
    pub bytes: u64,
}

/// What the user's objects hold.
///
/// # Errors
/// `EIDRM` if the namespace makes no sense.
pub fn of_user<T: Task>(ctx: &Ctx<'_, T>, uid: u32) -> Result<Usage> {
    let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
    let mut usage = Usage::default();
    add::<MsgQueue, T>(ctx, &ns, uid, &mut usage);
    add::<SemArray, T>(ctx, &ns, uid, &mut usage);
    add::<ShmidKernel, T>(ctx, &ns, uid, &mut usage);
    add::<MqueueInodeInfo, T>(ctx, &ns, uid, &mut usage);
    Ok(usage)
}

fn add<O: Object, T: Task>(ctx: &Ctx<'_, T>, ns: &IpcNamespace, uid: u32, usage: &mut Usage) {
    let mut idx = 0;
    while let Some(used) = O::ids(ns).next_used(idx) {
        idx = used + 1;
        // It may be gone by now.
        if let Ok(object) = object_at::<O, T>(ctx, used)
            && object.perm().cuid.load(Relaxed) == uid
        {
            usage.objects += 1;
            usage.bytes = usage.bytes.saturating_add(object.holds());
        }
    }
}

/// A new object of the caller's, which holds so much, is about to be made.
///
/// # Errors
/// `ENOSPC`: it has too many, or too much.
#[inline(always)]
pub(crate) fn charge_new<T: Task>(ctx: &Ctx<'_, T>, bytes: u64) -> Result<()> {
    if T::HAS_QUOTAS {
        let fits = ctx.host.charge(ctx, ctx.host.cred().euid, Usage { objects: 1, bytes });
        return if fits { Ok(()) } else { Err(abi::Errno::ENOSPC) };
    }
    Ok(())
}

/// An object, found without a lock, is about to hold more.
///
/// # Errors
/// `ENOMEM`: who made it has too much.
#[inline(always)]
pub(crate) fn charge_more<O: Object, T: Task>(ctx: &Ctx<'_, T>, object: &O, bytes: u64) -> Result<()> {
    let creator = object.perm().cuid.load(Relaxed);
    let fits = ctx.host.charge(ctx, creator, Usage { objects: 0, bytes });
    if fits { Ok(()) } else { Err(abi::Errno::ENOMEM) }
}
