//! The types of a queue's messages, in order: a crit-bit tree of those that are there, each with its messages in order of arrival.
//!
//! System V's types and POSIX's priorities are the same to it. Insertion and removal change one link each, which suits the undo log,
//! and no operation costs more than the number's 64 bits. The queue's lock guards all of it.

use abi::Result;
use arena::{
    Ctx, Handle, Ref, Tx,
    sync::{AtomicI64, AtomicU32, Ordering::*},
};

use crate::{
    msgutil::{MsgMsg, message},
    task::Task,
    util::{CORRUPT, OrErrno, set_chain},
};

/// Marks an inner node among the links of the tree.
const INNER: u32 = 1 << 31;

arena::shared! {
    /// The types of one queue.
    pub(crate) struct TypeTree {
        /// A type without messages that is kept in the tree for the next one.
        pub(crate) idle: AtomicU32,
        /// The type that was used last, if it is still in the tree: a short cut past it.
        pub(crate) recent: AtomicU32,
        root: AtomicU32,
    }

    /// One type that is in a queue: a leaf of the tree, and room for one inner node, which may be any above it.
    pub(crate) struct TypeNode {
        /// Next block of a chain, while it is in no tree.
        pub(crate) link: AtomicU32,
        bit: AtomicU32,
        pub(crate) mtype: AtomicI64,
        pub(crate) head: AtomicU32,
        tail: AtomicU32,
        child: [AtomicU32; 2],
    }
}

impl TypeTree {
    /// All that it holds: 0 in an empty one.
    pub(crate) fn words(&self) -> [&AtomicU32; 3] {
        [&self.root, &self.idle, &self.recent]
    }
}

fn node<'a, T: Task>(ctx: &Ctx<'a, T>, link: u32) -> Result<Ref<'a, TypeNode>> {
    ctx.at(Handle(link & !INNER)).or_errno()
}

#[expect(clippy::cast_sign_loss, reason = "types are not negative")]
fn side(inner: &TypeNode, mtype: i64) -> usize {
    (mtype as u64 >> (inner.bit.load(Relaxed) & 63) & 1) as usize
}

/// What a look for a type finds.
#[derive(Clone, Copy)]
pub(crate) enum Sought<'a> {
    /// The type.
    There(Ref<'a, TypeNode>),
    /// Where it would be.
    Missing(Gap<'a>),
}

/// Where in the tree a type that is missing belongs, until the tree is changed.
#[derive(Clone, Copy)]
pub(crate) struct Gap<'a> {
    place: Ref<'a, AtomicU32>,
    /// The highest bit by which it differs from what is below there.
    bit: u32,
}

#[inline(always)]
pub(crate) fn seek_type<'a, T: Task>(
    ctx: &Ctx<'a, T>,
    tree: &Ref<'a, TypeTree>,
    mtype: i64,
) -> Result<Sought<'a>> {
    let recent = tree.recent.load(Relaxed);
    if recent != 0 {
        let recent = node(ctx, recent)?;
        if recent.mtype.load(Relaxed) == mtype {
            return Ok(Sought::There(recent));
        }
    }
    descend(ctx, tree, mtype)
}

/// An inner node's leaf is one of those below it, so its type tells what they have in common: the way down ends where that differs.
fn descend<'a, T: Task>(ctx: &Ctx<'a, T>, tree: &Ref<'a, TypeTree>, mtype: i64) -> Result<Sought<'a>> {
    let mut place = tree.part(|tree| &tree.root);
    for _ in 0..=64 {
        let link = place.load(Relaxed);
        if link == 0 {
            return Ok(Sought::Missing(Gap { place, bit: 0 }));
        }
        let at = node(ctx, link)?;
        #[expect(clippy::cast_sign_loss, reason = "types are not negative")]
        let differ = (at.mtype.load(Relaxed) ^ mtype) as u64;
        let leaf = link & INNER == 0;
        if leaf && differ == 0 {
            return Ok(Sought::There(at));
        }
        if leaf || differ >> (at.bit.load(Relaxed) & 63) > 1 {
            return Ok(Sought::Missing(Gap { place, bit: 63 - differ.leading_zeros() }));
        }
        let which = side(&at, mtype);
        place = at.part(|n| &n.child[which]);
    }
    Err(CORRUPT)
}

#[inline(always)]
pub(crate) fn find_type<'a, T: Task>(
    ctx: &Ctx<'a, T>,
    tree: &Ref<'a, TypeTree>,
    mtype: i64,
) -> Result<Option<Ref<'a, TypeNode>>> {
    match seek_type(ctx, tree, mtype)? {
        Sought::There(leaf) => Ok(Some(leaf)),
        Sought::Missing(_) => Ok(None),
    }
}

/// The type with messages that is lowest (`end` 0) or highest (1).
pub(crate) fn outermost<'a, T: Task>(
    ctx: &Ctx<'a, T>,
    tree: &TypeTree,
    end: usize,
) -> Result<Option<Ref<'a, TypeNode>>> {
    let mut link = tree.root.load(Relaxed);
    let mut other = 0;
    for _ in 0..=130 {
        if link == 0 {
            return Ok(None);
        }
        let at = node(ctx, link)?;
        if link & INNER != 0 {
            link = at.child[end].load(Relaxed);
            other = at.child[1 - end].load(Relaxed);
        } else if at.head.load(Relaxed) != 0 {
            return Ok(Some(at));
        } else {
            // Only one node is without messages: the next one has some.
            (link, other) = (other, 0);
        }
    }
    Err(CORRUPT)
}

/// Puts a leaf into the tree.
///
/// A new one is known to nobody yet, but one that was in the tree before is to be its old self if the change is undone.
pub(crate) fn insert_type<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    gap: Gap<'a>,
    new: &Ref<'a, TypeNode>,
    mtype: i64,
) {
    let Gap { place, bit } = gap;
    new.head.store(0, Relaxed);
    new.tail.store(0, Relaxed);
    tx.set(new, |n| &n.mtype, mtype);
    let link = place.load(Relaxed);
    if link == 0 {
        tx.set(&place, |p| p, new.handle().0);
        return;
    }
    tx.set(new, |n| &n.bit, bit);
    let mine = side(new, mtype);
    tx.set(new, |n| &n.child[mine], new.handle().0);
    tx.set(new, |n| &n.child[1 - mine], link);
    tx.set(&place, |p| p, new.handle().0 | INNER);
}

/// As [`seek_type`], for who is about to add a message: where the type is missing and one without messages is kept, that one becomes it, so
/// that nothing has to be allocated.
pub(crate) fn obtain_type<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    tree: &Ref<'a, TypeTree>,
    mtype: i64,
) -> Result<Sought<'a>> {
    let ctx = tx.ctx();
    let sought = seek_type(ctx, tree, mtype)?;
    if let Sought::Missing(_) = sought
        && let Some(idle) = Handle(tree.idle.load(Relaxed)).some()
    {
        let idle: Ref<'a, TypeNode> = ctx.at(idle).or_errno()?;
        remove_type(tx, tree, &idle)?;
        // It may have been where the other belongs.
        let Sought::Missing(gap) = descend(ctx, tree, mtype)? else { return Err(CORRUPT) };
        insert_type(tx, gap, &idle, mtype);
        return Ok(Sought::There(idle));
    }
    Ok(sought)
}

/// Takes a leaf out of the tree. Its inner node, if in use, moves to the one that its removal sets free.
fn remove_type<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    tree: &Ref<'a, TypeTree>,
    leaf: &Ref<'a, TypeNode>,
) -> Result<()> {
    let ctx = tx.ctx();
    let mtype = leaf.mtype.load(Relaxed);
    if tree.recent.load(Relaxed) == leaf.handle().0 {
        tx.set(tree, |tree| &tree.recent, 0);
    }
    let mut place = tree.part(|tree| &tree.root);
    let mut parent: Option<(Ref<'a, AtomicU32>, Ref<'a, TypeNode>)> = None;
    let mut own: Option<Ref<'a, AtomicU32>> = None;
    for _ in 0..=64 {
        let link = place.load(Relaxed);
        if link & INNER == 0 {
            break;
        }
        let at = node(ctx, link)?;
        if at.handle() == leaf.handle() {
            own = Some(place);
        }
        parent = Some((place, at));
        let which = side(&at, mtype);
        place = at.part(|n| &n.child[which]);
    }
    if place.load(Relaxed) != leaf.handle().0 {
        return Err(CORRUPT);
    }
    let Some((above, inner)) = parent else {
        tx.set(&place, |p| p, 0);
        return Ok(());
    };
    let sibling = inner.child[1 - side(&inner, mtype)].load(Relaxed);
    tx.set(&above, |p| p, sibling);
    if inner.handle() != leaf.handle()
        && let Some(own) = own
    {
        tx.set(&inner, |n| &n.bit, leaf.bit.load(Relaxed));
        tx.set(&inner, |n| &n.child[0], leaf.child[0].load(Relaxed));
        tx.set(&inner, |n| &n.child[1], leaf.child[1].load(Relaxed));
        tx.set(&own, |p| p, inner.handle().0 | INNER);
    }
    Ok(())
}

/// Appends a message to its type.
#[inline(always)]
pub(crate) fn append_to_type<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    tree: &Ref<'a, TypeTree>,
    msg: &Ref<'a, MsgMsg>,
    of: &Ref<'a, TypeNode>,
) -> Result<()> {
    let me = msg.handle().0;
    let before = of.tail.load(Relaxed);
    msg.tnext.store(0, Relaxed);
    msg.tprev.store(before, Relaxed);
    msg.tnode.store(of.handle().0, Relaxed);
    if before == 0 {
        tx.set(of, |n| &n.head, me);
        if tree.idle.load(Relaxed) == of.handle().0 {
            tx.set(tree, |t| &t.idle, 0);
        }
    } else {
        tx.set(&message(tx.ctx(), before)?, |m| &m.tnext, me);
    }
    tx.set(of, |n| &n.tail, me);
    Ok(())
}

/// Takes a message off its type's list, and returns the type.
#[inline(always)]
pub(crate) fn unlink_from_type<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    msg: &Ref<'a, MsgMsg>,
) -> Result<Ref<'a, TypeNode>> {
    let ctx = tx.ctx();
    let of = node(ctx, msg.tnode.load(Relaxed))?;
    let (tnext, tprev) = (msg.tnext.load(Relaxed), msg.tprev.load(Relaxed));
    match tnext {
        0 => tx.set(&of, |n| &n.tail, tprev),
        _ => tx.set(&message(ctx, tnext)?, |m| &m.tprev, tprev),
    }
    match tprev {
        0 => tx.set(&of, |n| &n.head, tnext),
        _ => tx.set(&message(ctx, tprev)?, |m| &m.tnext, tnext),
    }
    Ok(of)
}

/// After a message has gone from `of`: one type without messages is kept; the one kept before goes to the front of the chain, which is
/// returned.
pub(crate) fn keep_idle<'a, T: Task>(
    tx: &mut Tx<'_, 'a, T>,
    tree: &Ref<'a, TypeTree>,
    of: &Ref<'a, TypeNode>,
    mut chain: Handle,
) -> Result<Handle> {
    if of.head.load(Relaxed) == 0 {
        if let Some(idle) = Handle(tree.idle.load(Relaxed)).some() {
            let idle: Ref<'a, TypeNode> = tx.ctx().at(idle).or_errno()?;
            remove_type(tx, tree, &idle)?;
            tx.set(&idle, |n| &n.link, chain.0);
            chain = idle.handle();
        }
        tx.set(tree, |t| &t.idle, of.handle().0);
    }
    Ok(chain)
}

/// Takes the type without messages out of the tree, into the thread's in-flight chain. False if there is none.
pub(crate) fn take_idle<'a, T: Task>(tx: &mut Tx<'_, 'a, T>, tree: &Ref<'a, TypeTree>) -> Result<bool> {
    let Some(idle) = Handle(tree.idle.load(Relaxed)).some() else { return Ok(false) };
    let idle: Ref<'a, TypeNode> = tx.ctx().at(idle).or_errno()?;
    remove_type(tx, tree, &idle)?;
    tx.set(&idle, |n| &n.link, 0);
    tx.set(tree, |t| &t.idle, 0);
    set_chain(tx, idle.handle());
    Ok(true)
}
