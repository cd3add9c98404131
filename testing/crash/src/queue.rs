//! A lasting queue of either kind, for those who send and receive letters.

use std::ffi::CStr;

use crate::ipc::{self, Errno, Message, TEXT_SIZE};

/// A message queue of System V, or a POSIX one: by a descriptor, and by another that never waits.
#[derive(Clone, Copy)]
pub(crate) enum Queue {
    SystemV(i32),
    Posix { fd: i32, nonblocking: i32 },
}

impl Queue {
    /// A new POSIX queue, whose name is free again: it lasts as long as somebody has a descriptor.
    pub(crate) fn new_posix(name: &CStr) -> Result<Queue, Errno> {
        const DEFAULT_MESSAGES: i64 = 10;
        let fd = ipc::mq_open(
            name,
            libc::O_CREAT | libc::O_EXCL | libc::O_RDWR,
            DEFAULT_MESSAGES,
            TEXT_SIZE as i64,
        )?;
        let nonblocking = ipc::mq_open(name, libc::O_RDWR | libc::O_NONBLOCK, 0, 0)?;
        ipc::mq_unlink(name)?;
        Ok(Queue::Posix { fd, nonblocking })
    }

    pub(crate) fn send(self, message: &Message, size: usize, flags: i32) -> Result<(), Errno> {
        match self {
            Queue::SystemV(id) => ipc::msgsnd(id, message, size, flags),
            Queue::Posix { nonblocking, .. } if flags & libc::IPC_NOWAIT != 0 => {
                ipc::mq_send(nonblocking, message, size)
            }
            Queue::Posix { fd, .. } => ipc::mq_send(fd, message, size),
        }
    }

    /// Errors are those of `msgrcv`.
    pub(crate) fn receive(
        self,
        message: &mut Message,
        room: usize,
        mtype: i64,
        flags: i32,
    ) -> Result<usize, Errno> {
        let received = match self {
            Queue::SystemV(id) => return ipc::msgrcv(id, message, room, mtype, flags),
            Queue::Posix { nonblocking, .. } if flags & libc::IPC_NOWAIT != 0 => {
                ipc::mq_receive(nonblocking, message)
            }
            Queue::Posix { fd, .. } => ipc::mq_receive(fd, message),
        };
        received.map_err(|error| if error == libc::EAGAIN { libc::ENOMSG } else { error })
    }

    /// How many messages it tells of, and bytes, if it does.
    pub(crate) fn counts(self) -> Result<(u64, Option<u64>), Errno> {
        Ok(match self {
            Queue::SystemV(id) => {
                let stat = ipc::msg_stat(id)?;
                (stat.msg_qnum, Some(stat.__msg_cbytes))
            }
            Queue::Posix { fd, .. } => (ipc::mq_attributes(fd)?.mq_curmsgs.cast_unsigned(), None),
        })
    }

    pub(crate) fn has_room(self, size: usize) -> Result<bool, Errno> {
        Ok(match self {
            Queue::SystemV(id) => {
                let stat = ipc::msg_stat(id)?;
                stat.__msg_cbytes + size as u64 <= stat.msg_qbytes && stat.msg_qnum < stat.msg_qbytes
            }
            Queue::Posix { fd, .. } => {
                let attributes = ipc::mq_attributes(fd)?;
                attributes.mq_curmsgs < attributes.mq_maxmsg
            }
        })
    }

    pub(crate) fn remove(self) -> Result<(), Errno> {
        match self {
            Queue::SystemV(id) => ipc::msg_remove(id),
            Queue::Posix { fd, nonblocking } => ipc::mq_close(nonblocking).and_then(|()| ipc::mq_close(fd)),
        }
    }
}
