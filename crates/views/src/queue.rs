//! Files of POSIX queues that are open: each holds its queue, and is told of what becomes of it.
//!
//! Who has a queue's file open has the queue: it does not end before the file is closed. So each open file has a descriptor of the
//! queue here, as a program that called `mq_open` has one (`client/mqd.rs`); and what that shows to who polls, the file shows.
//!
//! # Safety
//! Descriptors are just made, and nobody else's.

use std::collections::HashMap;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use abi::mqueue::O_NONBLOCK;
use abi::{Errno, Result};
use arena::Handle;
use engine::mqueuefs::MqStat;
use engine::{mqueue, mqueuefs};
use fuser::{PollEvents, PollNotifier};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use parking_lot::Mutex;
use std::os::fd::AsRawFd;

use crate::in_namespace;

/// A queue's file that somebody has open.
pub(crate) struct OpenQueue {
    queue: Handle,
    /// Closed before the queue is told.
    held: Option<OwnedFd>,
    /// Whether changes of the queue are waited for.
    watched: bool,
}

impl OpenQueue {
    /// # Errors
    /// `ENOENT` if the queue is over; those of having no descriptor.
    pub(crate) fn open(id: i32) -> Result<OpenQueue> {
        let hold = |queue: Handle| client::mqd::open_for(queue.0, O_NONBLOCK.cast_unsigned());
        let (queue, fd) = in_namespace(|ctx| mqueuefs::open(ctx, id, hold))?;
        // SAFETY: just opened, nobody else has it.
        let held = unsafe { OwnedFd::from_raw_fd(fd.leak()) };
        Ok(OpenQueue { queue, held: Some(held), watched: false })
    }
}

impl Drop for OpenQueue {
    fn drop(&mut self) {
        self.held = None;
        // It may have been the last thing that the queue was for.
        let _ = in_namespace(|ctx| mqueue::do_close(ctx, self.queue));
    }
}

/// What `poll` finds, whatever the file was opened for.
pub(crate) fn events(stat: &MqStat) -> PollEvents {
    let mut events = PollEvents::empty();
    if stat.curmsgs > 0 {
        events |= PollEvents::POLLIN | PollEvents::POLLRDNORM;
    }
    if stat.curmsgs < stat.maxmsg {
        events |= PollEvents::POLLOUT | PollEvents::POLLWRNORM;
    }
    events
}

/// Who waits for something to happen to a queue. There is one for a mount, with a thread once somebody waits.
#[derive(Default)]
pub(crate) struct Watch {
    waiting: Arc<Mutex<HashMap<u64, PollNotifier>>>,
    epoll: Mutex<Option<Arc<Epoll>>>,
}

impl Watch {
    /// From now on, the next change of the queue is told to `notifier`, once. `file` is the number of the open file.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn add(&self, file: u64, open: &mut OpenQueue, notifier: PollNotifier) -> Result<()> {
        self.waiting.lock().insert(file, notifier);
        if open.watched {
            return Ok(());
        }
        let held = open.held.as_ref().ok_or(Errno::EBADF)?;
        in_namespace(|ctx| mqueue::watch_queue(ctx, open.queue, held.as_raw_fd(), true))?;
        // At its edges only, and put there once: else the change would be told that is known, and told again.
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET, file);
        self.begin()?.add(held.as_fd(), event).map_err(|_| Errno::ENOMEM)?;
        open.watched = true;
        Ok(())
    }

    /// The file is closed.
    pub(crate) fn forget(&self, file: u64) {
        self.waiting.lock().remove(&file);
    }

    fn begin(&self) -> Result<Arc<Epoll>> {
        let mut begun = self.epoll.lock();
        if let Some(epoll) = begun.as_ref() {
            return Ok(epoll.clone());
        }
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|_| Errno::EMFILE)?);
        let (waiting, on) = (self.waiting.clone(), epoll.clone());
        let tell = move || {
            let mut events = [EpollEvent::empty(); 16];
            // Until the mount is over: then nobody but this thread has it.
            while Arc::strong_count(&on) > 1 {
                let ready = on.wait(&mut events, EpollTimeout::from(LOOK_AGAIN_MS)).unwrap_or(0);
                for event in &events[..ready] {
                    let notifier = waiting.lock().remove(&event.data());
                    // Who has gone meanwhile does not mind.
                    let _ = notifier.map(PollNotifier::notify);
                }
            }
        };
        let thread = thread::Builder::new().name("view-poll".into()).stack_size(128 << 10).spawn(tell);
        thread.map_err(|_| Errno::ENOMEM)?;
        Ok(begun.insert(epoll).clone())
    }
}

/// How often it is looked whether the mount is over.
const LOOK_AGAIN_MS: u16 = 1000;
