//! Messages in memory: a header with the first bytes, and further blocks if it is longer.
//!
//! A message is a chain of blocks linked by their first word, header first.

use abi::{Errno, Result};
use arena::{
    Ctx, Handle, Ref,
    sync::{AtomicI64, AtomicU32, Ordering::*},
};

use crate::{
    task::Task,
    util::{CORRUPT, OrErrno},
};

arena::shared! {
    /// `msg_msg`: the header of a message; its text follows.
    pub(crate) struct MsgMsg {
        /// Next block of the text.
        link: AtomicU32,
        pub(crate) size: AtomicU32,
        pub(crate) mtype: AtomicI64,
        /// Neighbours in the queue.
        pub(crate) next: AtomicU32,
        pub(crate) prev: AtomicU32,
        /// Neighbours of the same type.
        pub(crate) tnext: AtomicU32,
        pub(crate) tprev: AtomicU32,
        /// The list of its type.
        pub(crate) tnode: AtomicU32,
        /// Of the first message of a run of one type: the run's last; of the last: its first.
        pub(crate) run: AtomicU32,
    }
}

/// The message that a link names.
#[inline(always)]
pub(crate) fn message<'a, T: Task>(ctx: &Ctx<'a, T>, link: u32) -> Result<Ref<'a, MsgMsg>> {
    ctx.at(Handle(link)).or_errno()
}

const HEADER: u64 = size_of::<MsgMsg>() as u64;
const LINK: u64 = 8;
/// Largest block for texts up to [`LONG`] bytes: has a magazine.
const BLOCK: u64 = 4096;
const LONG: u64 = 65536;

/// Bytes of text in the header's block, and in each further block of a message.
#[inline]
fn layout(size: u64) -> (u64, u64) {
    let block = if size > LONG { arena::SPAN } else { BLOCK };
    (size.min(block - HEADER), block - LINK)
}

/// `load_msg`: takes a message from the caller's memory, into the thread's in-flight chain.
pub(crate) fn load_msg<'a, T: Task>(
    ctx: &Ctx<'a, T>,
    text: u64,
    size: u64,
    mtype: i64,
) -> Result<Ref<'a, MsgMsg>> {
    let (head, per) = layout(size);
    let rest = size - head;
    // Back to front, so that the chain is in order when the header is there.
    let mut end = size;
    for at in (0..rest.div_ceil(per)).rev() {
        let start = head + at * per;
        let block = ctx.alloc(LINK + end - start).or_errno()?;
        ctx.chain(block).or_errno()?;
        copy_in(ctx, block, LINK, text.wrapping_add(start), end - start)?;
        end = start;
    }
    let block = ctx.alloc(HEADER + head).or_errno()?;
    ctx.chain(block).or_errno()?;
    let msg: Ref<'a, MsgMsg> = ctx.at(block).or_errno()?;
    #[expect(clippy::cast_possible_truncation, reason = "at most msgmax, an int")]
    msg.size.store(size as u32, Relaxed);
    msg.mtype.store(mtype, Relaxed);
    copy_in(ctx, block, HEADER, text, head)?;
    Ok(msg)
}

#[inline(always)]
fn copy_in<T: Task>(ctx: &Ctx<'_, T>, block: Handle, at: u64, from: u64, len: u64) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most a block")]
    ctx.host.copy_from_user(ctx.arena.bytes(ctx.host, block, at, len as usize).or_errno()?, from)
}

/// `store_msg`: copies the first `len` bytes of a message's text to the caller's memory.
pub(crate) fn store_msg<T: Task>(ctx: &Ctx<'_, T>, msg: &Ref<'_, MsgMsg>, text: u64, len: u64) -> Result<()> {
    let size = u64::from(msg.size.load(Relaxed));
    if len > size {
        return Err(CORRUPT);
    }
    let (head, per) = layout(size);
    let mut done = len.min(head);
    copy_out(ctx, msg.handle(), HEADER, text, done)?;
    let mut block = Handle(msg.link.load(Relaxed));
    while done < len {
        let part = (len - done).min(per);
        copy_out(ctx, block, LINK, text.wrapping_add(done), part)?;
        done += part;
        block = Handle(ctx.at::<AtomicU32>(block).or_errno()?.load(Relaxed));
    }
    Ok(())
}

#[inline(always)]
fn copy_out<T: Task>(ctx: &Ctx<'_, T>, block: Handle, at: u64, to: u64, len: u64) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most a block")]
    ctx.host.copy_to_user(to, ctx.arena.bytes(ctx.host, block, at, len as usize).or_errno()?)
}

/// `copy_msg`: copies the text of a queued message into one that `load_msg` made with at least its size.
pub(crate) fn copy_msg<T: Task>(
    ctx: &Ctx<'_, T>,
    from: &Ref<'_, MsgMsg>,
    to: &Ref<'_, MsgMsg>,
) -> Result<()> {
    let size = u64::from(from.size.load(Relaxed));
    if size > u64::from(to.size.load(Relaxed)) {
        return Err(Errno::EINVAL);
    }
    let mut source = Cursor::new(from);
    let mut target = Cursor::new(to);
    let mut left = size;
    while left > 0 {
        let step = source.ahead(ctx)?.min(target.ahead(ctx)?).min(left);
        #[expect(clippy::cast_possible_truncation, reason = "at most a block")]
        let bytes = |c: &Cursor| ctx.arena.bytes(ctx.host, c.block, c.at, step as usize).or_errno();
        bytes(&target)?.copy_from(bytes(&source)?);
        source.at += step;
        target.at += step;
        left -= step;
    }
    Ok(())
}

/// A place in a message's text.
struct Cursor {
    block: Handle,
    at: u64,
    end: u64,
    per: u64,
}

impl Cursor {
    fn new(msg: &Ref<'_, MsgMsg>) -> Cursor {
        let (head, per) = layout(u64::from(msg.size.load(Relaxed)));
        Cursor { block: msg.handle(), at: HEADER, end: HEADER + head, per }
    }
    /// Bytes up to the block's end; goes to the next block at the end of one.
    fn ahead<T: Task>(&mut self, ctx: &Ctx<'_, T>) -> Result<u64> {
        if self.at >= self.end {
            self.block = Handle(ctx.at::<AtomicU32>(self.block).or_errno()?.load(Relaxed));
            (self.at, self.end) = (LINK, LINK + self.per);
        }
        Ok(self.end - self.at)
    }
}
