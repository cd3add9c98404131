//! The text of `/proc/sysvipc/msg`, `sem` and `shm`, to the byte.
//!
//! What users see: a header, and a row an object by ascending index. Nobody needs a right to see them.
//! What is missing: nothing of what is there on 64 bits.
//!
//! Text is made a row at a time in a buffer of the caller's, so a reader of a long list holds no lock and needs no memory. Each
//! row is a picture of its moment.

use abi::{Errno, Result, ipc::Ipc64Perm, msg::MSG_STAT_ANY, sem::SEM_STAT_ANY, shm::SHM_STAT_ANY};
use arena::Ctx;

use crate::{
    msg::msgctl_stat,
    namespace::IpcNamespace,
    options::{SYSVIPC, require},
    sem::semctl_stat,
    shm::{self, shmctl_stat},
    task::Task,
    util::CORRUPT,
};

/// A file of `/proc/sysvipc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sysvipc {
    /// Message queues.
    Msg,
    /// Semaphore sets.
    Sem,
    /// Segments of shared memory.
    Shm,
}

impl Sysvipc {
    /// The file of that name, whether it is built or not.
    pub fn named(name: &[u8]) -> Option<Sysvipc> {
        match name {
            b"msg" => Some(Sysvipc::Msg),
            b"sem" => Some(Sysvipc::Sem),
            b"shm" => Some(Sysvipc::Shm),
            _ => None,
        }
    }

    /// The first line.
    pub fn header(self) -> &'static str {
        match self {
            Sysvipc::Msg => {
                "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      \
                 stime      rtime      ctime\n"
            }
            Sysvipc::Sem => {
                "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n"
            }
            Sysvipc::Shm => {
                "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      \
                 atime      dtime      ctime                   rss                  swap\n"
            }
        }
    }

    /// The row of the first object at index `from` or above, into `line`; the index to go on from. None behind the last.
    ///
    /// # Errors
    /// Those of a namespace that makes no sense.
    pub fn row<T: Task>(self, ctx: &Ctx<'_, T>, mut from: u32, line: &mut Line) -> Result<Option<u32>> {
        require(SYSVIPC)?;
        let ns = IpcNamespace::of(ctx.arena, ctx.host)?;
        let ids = match self {
            Sysvipc::Msg => &ns.get().msg_ids,
            Sysvipc::Sem => &ns.get().sem_ids,
            Sysvipc::Shm => &ns.get().shm_ids,
        };
        while let Some(idx) = ids.next_used(from) {
            from = idx + 1;
            line.clear();
            let shown = match self {
                Sysvipc::Msg => sysvipc_msg_proc_show(ctx, idx.cast_signed(), line),
                Sysvipc::Sem => sysvipc_sem_proc_show(ctx, idx.cast_signed(), line),
                Sysvipc::Shm => sysvipc_shm_proc_show(ctx, idx.cast_signed(), line),
            };
            match shown {
                Ok(()) => return Ok(Some(from)),
                // Removed in between, or of no sense.
                Err(Errno::EINVAL | Errno::EIDRM | CORRUPT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

fn sysvipc_msg_proc_show<T: Task>(ctx: &Ctx<'_, T>, idx: i32, line: &mut Line) -> Result<()> {
    let (id, q) = msgctl_stat(ctx, idx, MSG_STAT_ANY)?;
    line.head(&q.msg_perm, id);
    line.unsigned(q.msg_cbytes, 11).unsigned(q.msg_qnum, 10);
    let [sender, receiver] = [q.msg_lspid, q.msg_lrpid].map(|pid| ctx.host.shown_pid(pid));
    line.signed(sender.into(), 5).signed(receiver.into(), 5);
    line.owners(ctx.host, &q.msg_perm);
    line.signed(q.msg_stime, 10).signed(q.msg_rtime, 10).signed(q.msg_ctime, 10).end();
    Ok(())
}

fn sysvipc_sem_proc_show<T: Task>(ctx: &Ctx<'_, T>, idx: i32, line: &mut Line) -> Result<()> {
    let (id, set) = semctl_stat(ctx, idx, SEM_STAT_ANY)?;
    line.head(&set.sem_perm, id);
    line.unsigned(set.sem_nsems, 10);
    line.owners(ctx.host, &set.sem_perm);
    line.signed(set.sem_otime, 10).signed(set.sem_ctime, 10).end();
    Ok(())
}

fn sysvipc_shm_proc_show<T: Task>(ctx: &Ctx<'_, T>, idx: i32, line: &mut Line) -> Result<()> {
    let (id, segment) = shmctl_stat(ctx, idx, SHM_STAT_ANY)?;
    // What was never attached has no page, and nobody needs to be asked.
    let (resident, swapped) =
        if segment.shm_atime == 0 { (0, 0) } else { shm::memory_usage(ctx, id).unwrap_or((0, 0)) };
    line.head(&segment.shm_perm, id);
    line.unsigned(segment.shm_segsz, 21);
    let [creator, last] = [segment.shm_cpid, segment.shm_lpid].map(|pid| ctx.host.shown_pid(pid));
    line.signed(creator.into(), 5).signed(last.into(), 5);
    line.push(b' ');
    line.unsigned(segment.shm_nattch, 5);
    line.owners(ctx.host, &segment.shm_perm);
    line.signed(segment.shm_atime, 10).signed(segment.shm_dtime, 10).signed(segment.shm_ctime, 10);
    line.unsigned(resident, 21).unsigned(swapped, 21).end();
    Ok(())
}

/// Bytes of the longest row, that of a segment: each of its fields as wide as its type allows.
const LONGEST: usize = 320;

/// A line that is being put together. What does not fit is left out.
#[derive(Debug)]
pub struct Line {
    text: [u8; LONGEST],
    len: usize,
}

impl Default for Line {
    fn default() -> Line {
        Line { text: [0; LONGEST], len: 0 }
    }
}

impl Line {
    /// The text so far.
    pub fn text(&self) -> &[u8] {
        &self.text[..self.len]
    }

    /// Begins anew.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds a byte.
    pub fn push(&mut self, byte: u8) {
        if let Some(place) = self.text.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    fn number(&mut self, minus: bool, mut value: u64, base: u64, width: usize) {
        // 22 octal digits and a sign.
        let mut digits = [0; 23];
        let mut at = digits.len();
        loop {
            at -= 1;
            #[expect(clippy::cast_possible_truncation, reason = "below the base")]
            let digit = (value % base) as u8;
            digits[at] = b'0' + digit;
            value /= base;
            if value == 0 {
                break;
            }
        }
        if minus {
            at -= 1;
            digits[at] = b'-';
        }
        for _ in digits.len() - at..width {
            self.push(b' ');
        }
        for &digit in &digits[at..] {
            self.push(digit);
        }
    }

    /// A field behind a blank.
    fn unsigned(&mut self, value: u64, width: usize) -> &mut Line {
        self.push(b' ');
        self.number(false, value, 10, width);
        self
    }

    /// A field behind a blank.
    fn signed(&mut self, value: i64, width: usize) -> &mut Line {
        self.push(b' ');
        self.decimal(value, width)
    }

    /// A number without a blank and without a sign.
    pub(crate) fn natural(&mut self, value: u64) -> &mut Line {
        self.number(false, value, 10, 0);
        self
    }

    /// A number without a blank.
    pub(crate) fn decimal(&mut self, value: i64, width: usize) -> &mut Line {
        self.number(value < 0, value.unsigned_abs(), 10, width);
        self
    }

    /// What every row begins with.
    fn head(&mut self, perm: &Ipc64Perm, id: i32) -> &mut Line {
        self.decimal(perm.key.into(), 10).signed(id.into(), 10);
        self.push(b' ');
        self.push(b' ');
        self.number(false, perm.mode.into(), 8, 4);
        self
    }

    fn owners(&mut self, task: &impl Task, perm: &Ipc64Perm) -> &mut Line {
        let [uid, cuid] = [perm.uid, perm.cuid].map(|uid| task.shown_user(uid));
        let [gid, cgid] = [perm.gid, perm.cgid].map(|gid| task.shown_group(gid));
        for id in [uid, gid, cuid, cgid] {
            self.unsigned(id.into(), 5);
        }
        self
    }

    fn end(&mut self) {
        self.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_padded_and_never_cut() {
        let mut line = Line::default();
        line.decimal(-7, 5).signed(i64::MIN, 3).unsigned(u64::MAX, 5).unsigned(0, 4).end();
        assert_eq!(line.text(), b"   -7 -9223372036854775808 18446744073709551615    0\n");
    }

    #[test]
    fn a_line_that_is_full_takes_no_more() {
        let mut line = Line::default();
        for _ in 0..100 {
            line.unsigned(u64::MAX, 21);
        }
        assert_eq!(line.text().len(), LONGEST);
    }
}
