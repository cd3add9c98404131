//! Threads that serve strangers' connections, one at a time each.
//!
//! What users see: who comes and goes again and again keeps nobody waiting. To make and to end a thread changes the mappings of the whole process several
//! times, for which all its threads wait for each other; so one that has served waits a while for the next connection.

use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SendError, Sender, channel};
use std::thread::{Builder, ThreadId, current};
use std::time::Duration;

use crate::quota::locked;

pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// How many wait at most, and how long.
const IDLE_MAX: usize = 64;
const IDLE_FOR: Duration = Duration::from_secs(1);

/// Those who wait, the one that began last at the end.
static IDLE: Mutex<Vec<(ThreadId, Sender<Job>)>> = Mutex::new(Vec::new());

/// Has a thread do it.
///
/// # Errors
/// There can be no more threads.
pub(crate) fn run(mut job: Job) -> io::Result<()> {
    while let Some((_, idle)) = take_last() {
        match idle.send(job) {
            Ok(()) => return Ok(()),
            Err(SendError(unsent)) => job = unsent,
        }
    }
    Builder::new().name("stranger".into()).stack_size(256 << 10).spawn(move || work(job)).map(drop)
}

fn take_last() -> Option<(ThreadId, Sender<Job>)> {
    locked(&IDLE).pop()
}

fn work(first: Job) {
    let (sender, receiver) = channel();
    let mut job = Some(first);
    while let Some(next) = job {
        next();
        job = wait(&sender, &receiver);
    }
    client::end_thread();
}

/// The next job; none if there are enough who wait, or none came.
fn wait(sender: &Sender<Job>, receiver: &Receiver<Job>) -> Option<Job> {
    let own = current().id();
    {
        let mut idle = locked(&IDLE);
        if idle.len() >= IDLE_MAX {
            return None;
        }
        idle.push((own, sender.clone()));
    }
    if let Ok(job) = receiver.recv_timeout(IDLE_FOR) {
        return Some(job);
    }
    let mut idle = locked(&IDLE);
    match idle.iter().position(|(id, _)| *id == own) {
        Some(at) => {
            idle.remove(at);
            None
        }
        // Whoever has taken the sender sends.
        None => {
            drop(idle);
            receiver.recv().ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    /// One after the other they are done by few threads; at a time, each by its own.
    #[test]
    fn a_thread_that_has_done_one_does_the_next() {
        let (tell, told) = channel();
        let (mut threads, rounds) = (std::collections::HashSet::new(), 20);
        for _ in 0..rounds {
            let tell = tell.clone();
            run(Box::new(move || tell.send(current().id()).unwrap())).unwrap();
            threads.insert(told.recv().unwrap());
            // It waits from here on, or a little later.
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(threads.len() < rounds, "{} threads", threads.len());

        let (barrier, inside) = (Arc::new(std::sync::Barrier::new(10)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..10 {
            let (barrier, inside, tell) = (barrier.clone(), inside.clone(), tell.clone());
            run(Box::new(move || {
                inside.fetch_add(1, SeqCst);
                // All are here at a time, or this never ends.
                barrier.wait();
                tell.send(current().id()).unwrap();
            }))
            .unwrap();
        }
        let at_a_time: std::collections::HashSet<_> = (0..10).map(|_| told.recv().unwrap()).collect();
        assert_eq!((at_a_time.len(), inside.load(SeqCst)), (10, 10));
    }
}
