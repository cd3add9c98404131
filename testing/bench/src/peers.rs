//! Other ways to pass the same bytes by shared memory, in the kernel's place: iceoryx2's publish and subscribe, and boost's message_queue.
//!
//! Both are as in their first examples, with sender and receiver in one process, like the rows `msg.pair.*` that they are compared with. iceoryx2's receiver copies the bytes
//! out, as the others' do. Neither recovers from a process that dies in the middle as ours does: boost's locks then stay taken, iceoryx2 needs no locks but tells
//! the dead apart only when asked to clean up.

use std::ffi::c_void;
use std::ptr::NonNull;

use iceoryx2::prelude::*;

use crate::Outcome;
use crate::clock::Clock;
use crate::cpus::Cpus;
use crate::rows::Row;

pub(crate) static ROWS: [Row; 6] = [
    row("peers.iceoryx2.64", "msg.pair.64", "left: iceoryx2, publish and receive 64 bytes", |clock, _| {
        iceoryx(clock, 64)
    }),
    row("peers.iceoryx2.1k", "msg.pair.1k", "the same, 1 KiB", |clock, _| iceoryx(clock, 1024)),
    row("peers.iceoryx2.8k", "msg.pair.8k", "the same, 8 KiB", |clock, _| iceoryx(clock, 8192)),
    row("peers.boost.64", "msg.pair.64", "left: boost's message_queue, 64 bytes", |clock, _| {
        boost(clock, 64)
    }),
    row("peers.boost.1k", "msg.pair.1k", "the same, 1 KiB", |clock, _| boost(clock, 1024)),
    row("peers.boost.8k", "msg.pair.8k", "the same, 8 KiB", |clock, _| boost(clock, 8192)),
];

const fn row(
    name: &'static str,
    ours: &'static str,
    about: &'static str,
    run: fn(&mut Clock, &Cpus) -> Outcome<()>,
) -> Row {
    Row { ours, ..crate::rows::row(name, about, run) }
}

fn iceoryx(clock: &mut Clock, size: usize) -> Outcome<()> {
    set_log_level(LogLevel::Error);
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let name = format!("ipcspace-bench-{}", std::process::id());
    let service =
        node.service_builder(&name.as_str().try_into()?).publish_subscribe::<[u8]>().open_or_create()?;
    let publisher = service.publisher_builder().initial_max_slice_len(size).create()?;
    let subscriber = service.subscriber_builder().create()?;
    let mut text = vec![7u8; size];
    clock.time(|| {
        publisher.loan_slice_uninit(size)?.write_from_slice(&text).send()?;
        let sample = subscriber.receive()?.ok_or("iceoryx2: nothing was received")?;
        text.copy_from_slice(sample.payload());
        Ok(())
    })
}

unsafe extern "C" {
    fn peer_boost_open(size: usize) -> *mut c_void;
    fn peer_boost_pair(queue: *mut c_void, text: *mut c_void, size: usize) -> bool;
    fn peer_boost_close(queue: *mut c_void);
}

/// A queue of boost's, gone when dropped.
struct Boost(NonNull<c_void>);

impl Drop for Boost {
    fn drop(&mut self) {
        // SAFETY: opened, and closed only here.
        unsafe { peer_boost_close(self.0.as_ptr()) };
    }
}

fn boost(clock: &mut Clock, size: usize) -> Outcome<()> {
    // SAFETY: passes a number.
    let queue = Boost(NonNull::new(unsafe { peer_boost_open(size) }).ok_or("boost: no queue can be made")?);
    let mut text = vec![7u8; size];
    clock.time(|| {
        // SAFETY: the queue is open, and the text has `size` bytes.
        let passed = unsafe { peer_boost_pair(queue.0.as_ptr(), text.as_mut_ptr().cast(), size) };
        if passed { Ok(()) } else { Err("boost: the message was not passed".into()) }
    })
}
