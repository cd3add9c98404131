//! The operations that are stepped through, and what they find.

use super::stage::{KEY, NAME, SEMS, Stage, mq_receive, mq_send, named_mq, operate, receive, send};
use crate::ipc::{self, Errno, TEXT_SIZE};

/// What is done to the objects.
pub(super) type Act = fn(&Stage) -> Result<(), Errno>;

/// A sleeper.
pub(super) enum Sleep {
    /// Of this type, with that much room.
    Receive(i64, usize),
    /// A message of this type and size.
    Send(i64, usize),
    /// From the POSIX queue.
    MqReceive,
    /// To the POSIX queue: a message of this priority and size.
    MqSend(i64, usize),
    /// These operations: semaphore, change, flags.
    Semop(&'static [(usize, i32, i32)]),
    /// One that does these operations, and then sleeps for ever with what its end undoes.
    Hold(&'static [(usize, i32, i32)]),
}

/// Who is killed while the child stands at an instruction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Victims {
    /// The child.
    Child,
    /// First the sleepers, then the child.
    Both,
    /// The sleepers; the child goes on.
    Sleepers,
}

/// An operation, and what it finds.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// Of the queue; 0: as it is made.
    pub(super) qbytes: u64,
    pub(super) messages: &'static [(i64, usize)],
    pub(super) values: [i32; SEMS],
    /// Of the POSIX queue, which has room for two: priorities and sizes.
    pub(super) mq_messages: &'static [(i64, usize)],
    /// A type and a priority whose only message has come and gone, so that either queue keeps it without one; 0: none.
    pub(super) gone: i64,
    /// Whether there is another POSIX queue, with a name and a message, that nobody has open.
    pub(super) named: bool,
    pub(super) sleepers: &'static [Sleep],
    pub(super) act: Act,
    /// What wakes the child if it sleeps.
    pub(super) wake: Option<Act>,
    /// What happens before the child begins; its effect is certain, whoever brings it about.
    pub(super) start: Option<fn(&mut Stage)>,
    pub(super) victims: Victims,
    /// Whether the driver can do it again without leaving more than the child.
    pub(super) again: bool,
    /// Whether it is the child's first call, so that it attaches in it.
    pub(super) cold: bool,
}

const PLAIN: Scenario = Scenario {
    name: "",
    qbytes: 0,
    messages: &[],
    values: [0; SEMS],
    mq_messages: &[],
    gone: 0,
    named: false,
    sleepers: &[],
    act: |_| Ok(()),
    wake: None,
    start: None,
    victims: Victims::Child,
    again: true,
    cold: false,
};

const UNDO: i32 = libc::SEM_UNDO;
const NOWAIT: i32 = libc::IPC_NOWAIT;

/// More operations than fit into a waiter, which leave what `ops` leave.
fn many(set: i32, flags: i32) -> Result<(), Errno> {
    let mut ops = vec![(0, -1, flags), (1, 1, flags)];
    ops.extend((0..16).flat_map(|_| [(2, 1, flags), (2, -1, flags)]));
    operate(set, &ops)
}

/// More operations than the undo log has room for by itself.
const LONG: [(usize, i32, i32); 101] = {
    let mut ops = [(0, -1, 0); 101];
    let mut at = 1;
    while at < ops.len() {
        ops[at] = (1, if at % 2 == 1 { 1 } else { -1 }, 0);
        at += 1;
    }
    ops
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "first-call", act: |s| send(s.queue, 1, 16, NOWAIT), cold: true, ..PLAIN },
    Scenario { name: "msgsnd-small", act: |s| send(s.queue, 1, 16, NOWAIT), ..PLAIN },
    Scenario { name: "msgsnd-large", act: |s| send(s.queue, 1, TEXT_SIZE, NOWAIT), ..PLAIN },
    Scenario {
        name: "msgsnd-new-type",
        messages: &[(1, 10), (2, 10), (1, 10)],
        act: |s| send(s.queue, 5, 100, NOWAIT),
        ..PLAIN
    },
    Scenario {
        name: "msgsnd-type-of-another",
        messages: &[(1, 10), (2, 10), (1, 10)],
        gone: 6,
        act: |s| send(s.queue, 5, 100, NOWAIT),
        ..PLAIN
    },
    Scenario {
        name: "msgrcv-small",
        messages: &[(1, 10), (2, 20), (1, 30), (4, 40)],
        act: |s| receive(s.queue, 2, 100, NOWAIT),
        ..PLAIN
    },
    Scenario {
        name: "msgrcv-large",
        messages: &[(1, TEXT_SIZE)],
        act: |s| receive(s.queue, 0, TEXT_SIZE, NOWAIT),
        ..PLAIN
    },
    Scenario {
        name: "hand-over",
        sleepers: &[Sleep::Receive(9, 100), Sleep::Receive(0, 100)],
        act: |s| send(s.queue, 1, 16, NOWAIT),
        ..PLAIN
    },
    Scenario {
        name: "hand-over-both-die",
        sleepers: &[Sleep::Receive(0, 100)],
        act: |s| send(s.queue, 1, 16, NOWAIT),
        victims: Victims::Both,
        again: false,
        ..PLAIN
    },
    Scenario {
        name: "hand-over-receiver-dies",
        sleepers: &[Sleep::Receive(0, 100)],
        act: |s| send(s.queue, 1, 16, NOWAIT),
        victims: Victims::Sleepers,
        again: false,
        ..PLAIN
    },
    Scenario {
        name: "msgrcv-makes-room",
        qbytes: 100,
        messages: &[(1, 50), (2, 50)],
        sleepers: &[Sleep::Send(3, 40), Sleep::Send(4, 90)],
        act: |s| receive(s.queue, 1, 100, NOWAIT),
        ..PLAIN
    },
    Scenario {
        name: "msgrcv-sleeps",
        act: |s| receive(s.queue, 0, 100, 0),
        wake: Some(|s| send(s.queue, 1, 16, NOWAIT)),
        again: false,
        ..PLAIN
    },
    Scenario {
        name: "msgsnd-sleeps",
        qbytes: 100,
        messages: &[(1, 80)],
        act: |s| send(s.queue, 2, 70, 0),
        wake: Some(|s| receive(s.queue, 1, 100, NOWAIT)),
        again: false,
        ..PLAIN
    },
    Scenario { name: "semop", values: [1, 0, 0], act: |s| operate(s.set, &[(0, -1, 0), (1, 1, 0)]), ..PLAIN },
    Scenario {
        name: "semop-undo",
        values: [1, 0, 0],
        act: |s| operate(s.set, &[(0, -1, UNDO), (1, 1, UNDO)]),
        again: false,
        ..PLAIN
    },
    Scenario {
        name: "semop-undo-again",
        values: [1, 5, 0],
        act: |s| operate(s.set, &[(1, -2, UNDO)]).and_then(|()| operate(s.set, &[(1, -2, UNDO), (0, -1, 0)])),
        again: false,
        ..PLAIN
    },
    Scenario { name: "semop-many", values: [1, 0, 0], act: |s| many(s.set, 0), ..PLAIN },
    Scenario {
        name: "semop-wakes",
        values: [0, 1, 0],
        sleepers: &[
            Sleep::Semop(&[(0, -1, 0)]),
            Sleep::Semop(&[(1, 0, 0)]),
            Sleep::Semop(&[(0, -2, UNDO), (2, 1, 0)]),
            Sleep::Semop(&[(0, -1, 0), (1, 0, 0), (2, -1, 0)]),
        ],
        act: |s| operate(s.set, &[(0, 4, 0), (1, -1, 0)]),
        ..PLAIN
    },
    Scenario {
        name: "semop-wakes-both-die",
        sleepers: &[Sleep::Semop(&[(0, -1, 0)])],
        act: |s| operate(s.set, &[(0, 1, 0)]),
        victims: Victims::Both,
        again: false,
        ..PLAIN
    },
    Scenario {
        name: "semop-sleeps",
        act: |s| operate(s.set, &[(0, -1, 0), (1, 1, 0)]),
        wake: Some(|s| operate(s.set, &[(0, 1, 0)])),
        again: false,
        ..PLAIN
    },
    Scenario {
        name: "semop-undo-sleeps",
        act: |s| operate(s.set, &[(0, -1, UNDO)]),
        wake: Some(|s| operate(s.set, &[(0, 1, 0)])),
        again: false,
        ..PLAIN
    },
    Scenario {
        name: "setval-wakes",
        sleepers: &[Sleep::Semop(&[(0, -1, 0)]), Sleep::Hold(&[(0, 0, 0), (1, 1, UNDO)])],
        act: |s| ipc::sem_set_value(s.set, 0, 3),
        ..PLAIN
    },
    Scenario {
        name: "setval-wakes-long",
        sleepers: &[Sleep::Semop(&LONG)],
        act: |s| ipc::sem_set_value(s.set, 0, 1),
        ..PLAIN
    },
    Scenario {
        name: "setall-wakes",
        values: [0, 5, 0],
        sleepers: &[Sleep::Semop(&[(0, -1, 0)]), Sleep::Semop(&[(1, 0, 0), (2, -2, 0)])],
        act: |s| ipc::sem_set_all(s.set, &[1, 0, 2]),
        ..PLAIN
    },
    Scenario {
        name: "undo-at-exit",
        values: [3, 0, 0],
        sleepers: &[
            Sleep::Hold(&[(0, -3, UNDO), (1, 2, UNDO), (2, 1, 0)]),
            Sleep::Semop(&[(0, -2, 0)]),
            Sleep::Semop(&[(1, 0, 0)]),
        ],
        // The child and the broker both meet the record: whoever is faster applies it.
        act: |s| ipc::sem_query(s.set, 0, libc::GETVAL).map(drop),
        start: Some(Stage::kill_holder),
        again: false,
        ..PLAIN
    },
    Scenario { name: "msgget", act: |_| ipc::msgget(KEY, libc::IPC_CREAT | 0o600).map(drop), ..PLAIN },
    Scenario { name: "semget", act: |_| ipc::semget(KEY, 7, libc::IPC_CREAT | 0o600).map(drop), ..PLAIN },
    Scenario {
        name: "msg-rmid",
        qbytes: 100,
        messages: &[(1, 50), (2, 50)],
        sleepers: &[Sleep::Send(3, 40), Sleep::Receive(9, 10), Sleep::Receive(8, 10)],
        act: |s| ipc::msg_remove(s.queue),
        ..PLAIN
    },
    Scenario {
        name: "sem-rmid",
        sleepers: &[Sleep::Semop(&[(0, -1, UNDO)]), Sleep::Hold(&[(1, 1, UNDO)]), Sleep::Semop(&[(1, 0, 0)])],
        act: |s| ipc::sem_remove(s.set),
        ..PLAIN
    },
    Scenario {
        name: "msg-set",
        qbytes: 100,
        messages: &[(1, 60)],
        sleepers: &[Sleep::Receive(9, 10), Sleep::Send(3, 50), Sleep::Send(4, 120)],
        act: |s| ipc::msg_set_qbytes(s.queue, 130),
        ..PLAIN
    },
    Scenario { name: "mq-send", act: |s| mq_send(s.mq, 1, 16), ..PLAIN },
    Scenario {
        name: "mq-send-new-priority",
        mq_messages: &[(1, 10)],
        act: |s| mq_send(s.mq, 5, TEXT_SIZE),
        ..PLAIN
    },
    Scenario {
        name: "mq-send-priority-of-another",
        mq_messages: &[(1, 10)],
        gone: 6,
        act: |s| mq_send(s.mq, 5, 16),
        ..PLAIN
    },
    Scenario { name: "mq-receive", mq_messages: &[(1, 10), (5, 20)], act: |s| mq_receive(s.mq), ..PLAIN },
    Scenario {
        name: "mq-hand-over",
        sleepers: &[Sleep::MqReceive, Sleep::MqReceive],
        act: |s| mq_send(s.mq, 1, 16),
        ..PLAIN
    },
    Scenario {
        name: "mq-hand-over-both-die",
        sleepers: &[Sleep::MqReceive],
        act: |s| mq_send(s.mq, 1, 16),
        victims: Victims::Both,
        again: false,
        ..PLAIN
    },
    Scenario {
        name: "mq-hand-over-receiver-dies",
        sleepers: &[Sleep::MqReceive],
        act: |s| mq_send(s.mq, 1, 16),
        victims: Victims::Sleepers,
        again: false,
        ..PLAIN
    },
    Scenario {
        name: "mq-receive-makes-room",
        mq_messages: &[(1, 10), (2, 10)],
        sleepers: &[Sleep::MqSend(7, 40), Sleep::MqSend(1, 90)],
        act: |s| mq_receive(s.mq),
        ..PLAIN
    },
    Scenario {
        name: "mq-receive-sleeps",
        act: |s| mq_receive(s.mq),
        wake: Some(|s| mq_send(s.mq, 1, 16)),
        again: false,
        ..PLAIN
    },
    Scenario {
        name: "mq-send-sleeps",
        mq_messages: &[(1, 10), (2, 10)],
        act: |s| mq_send(s.mq, 3, 70),
        wake: Some(|s| mq_receive(s.mq)),
        again: false,
        ..PLAIN
    },
    Scenario { name: "mq-open", act: |_| named_mq(NAME).and_then(ipc::mq_close), ..PLAIN },
    Scenario { name: "mq-unlink", named: true, act: |_| ipc::mq_unlink(NAME), again: true, ..PLAIN },
    Scenario { name: "mq-notify", act: |s| ipc::mq_notify(s.mq, true), again: false, ..PLAIN },
];
