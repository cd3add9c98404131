//! What an operation is done to: a queue, a set, a POSIX queue, and who sleeps on them; and the state that all of it is in.

use std::error::Error;
use std::ffi::CStr;
use std::time::{Duration, Instant};
use std::{fs, thread};

use super::scenarios::{Scenario, Sleep};
use crate::ipc::{self, Errno, Message, TEXT_SIZE, op};
use crate::usage;

/// Semaphores of the set.
pub(super) const SEMS: usize = 3;
/// Keys that operations create.
pub(super) const KEY: libc::key_t = 0x7374_0001;
/// The name of a POSIX queue that operations create and unlink; the stage's own has none.
pub(super) const NAME: &CStr = c"/step";
/// Messages that a POSIX queue has room for.
const MQ_ROOM: i64 = 2;
/// Whoever can go on has done so after this time. Less than the five seconds after which a sleeper looks by itself.
const PATIENCE: Duration = Duration::from_secs(3);

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// An error of a call that never may fail.
pub(super) fn failed(call: &'static str) -> impl Fn(Errno) -> String {
    move |error| format!("{call}: {}", std::io::Error::from_raw_os_error(error))
}

/// A queue, as calls show it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Queue {
    /// Types and sizes.
    messages: Vec<(i64, usize)>,
    qbytes: u64,
}

/// The objects, as calls show them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Objects {
    queue: Result<Queue, Errno>,
    /// GETVAL, GETNCNT and GETZCNT of each semaphore.
    set: Result<Vec<[i32; 3]>, Errno>,
    /// How many messages the POSIX queue tells of, and whether somebody is registered there.
    mq: (i64, bool),
    /// Whether there are a queue and a set of the key, and a POSIX queue of the name.
    keyed: [bool; 3],
    /// Queues, messages, bytes, sets, semaphores.
    totals: [i32; 5],
}

/// What became of a sleeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sleeper {
    Asleep,
    /// With this errno, or 0.
    Ended(i32),
    Killed,
}

/// All that can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    objects: Objects,
    sleepers: Vec<Sleeper>,
}

/// The objects and sleepers of one try.
pub(super) struct Stage {
    pub(super) queue: i32,
    pub(super) set: i32,
    /// A descriptor of a POSIX queue.
    pub(super) mq: i32,
    sleepers: Vec<(libc::pid_t, Sleeper)>,
    /// Whether sleepers are on the POSIX queue, whose end nobody is told of.
    stay: bool,
}

/// Makes a POSIX queue, and takes its name away again.
fn unnamed_mq() -> Result<i32, Errno> {
    let fd = named_mq(c"/step-unnamed")?;
    ipc::mq_unlink(c"/step-unnamed")?;
    Ok(fd)
}

/// A POSIX queue, made if it is not there.
pub(super) fn named_mq(name: &CStr) -> Result<i32, Errno> {
    ipc::mq_open(name, libc::O_CREAT | libc::O_RDWR, MQ_ROOM, TEXT_SIZE as i64)
}

/// Whether there is a POSIX queue of the name that operations create.
fn has_named_mq() -> bool {
    ipc::mq_open(NAME, libc::O_RDWR, 0, 0).and_then(ipc::mq_close).is_ok()
}

/// Has the driver and the namespace allocate what they keep: tables, blocks in magazines.
pub(super) fn warm_up() -> Outcome {
    for key in [libc::IPC_PRIVATE, KEY] {
        let queue = ipc::msgget(key, libc::IPC_CREAT | 0o600).map_err(failed("msgget"))?;
        let set = ipc::semget(key, SEMS as i32, libc::IPC_CREAT | 0o600).map_err(failed("semget"))?;
        ipc::msg_remove(queue).map_err(failed("IPC_RMID"))?;
        ipc::sem_remove(set).map_err(failed("IPC_RMID"))?;
    }
    unnamed_mq().and_then(ipc::mq_close).map_err(failed("mq_open, mq_unlink and mq_close"))?;
    usage::at_rest().map(drop)
}

/// Removes what a driver has left that failed.
pub(super) fn remove_all() -> Outcome {
    let (highest, _) = ipc::msg_info().map_err(failed("MSG_INFO"))?;
    for queue in (0..=highest).filter_map(|index| ipc::msg_at(index).ok()) {
        ipc::msg_remove(queue).map_err(failed("IPC_RMID"))?;
    }
    let (highest, _) = ipc::sem_info().map_err(failed("SEM_INFO"))?;
    for set in (0..=highest).filter_map(|index| ipc::sem_at(index).ok()) {
        ipc::sem_remove(set).map_err(failed("IPC_RMID"))?;
    }
    match ipc::mq_unlink(NAME) {
        Err(error) if error != libc::ENOENT => Err(failed("mq_unlink")(error).into()),
        _ => Ok(()),
    }
}

/// Waits until something holds.
pub(super) fn until(what: &str, mut holds: impl FnMut() -> bool) -> Outcome {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > PATIENCE {
            return Err(format!("never happened: {what}").into());
        }
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Whether a process sleeps in a futex call, or for ever.
pub(super) fn is_asleep(pid: libc::pid_t) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    [libc::SYS_futex, libc::SYS_pause].iter().any(|nr| call.starts_with(&format!("{nr} ")))
}

/// Whether a process sleeps for ever, whatever becomes of the objects.
fn is_paused(pid: libc::pid_t) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    call.starts_with(&format!("{} ", libc::SYS_pause))
}

impl Stage {
    /// Makes the objects, fills them, and puts the sleepers to sleep.
    pub(super) fn set(scenario: &Scenario) -> Outcome<Stage> {
        let queue = ipc::msgget(libc::IPC_PRIVATE, 0o600).map_err(failed("msgget"))?;
        let set = ipc::semget(libc::IPC_PRIVATE, SEMS as i32, 0o600).map_err(failed("semget"))?;
        let mq = unnamed_mq().map_err(failed("mq_open"))?;
        let stay = scenario.sleepers.iter().any(|s| matches!(s, Sleep::MqReceive | Sleep::MqSend(..)));
        let mut stage = Stage { queue, set, mq, sleepers: Vec::new(), stay };
        if scenario.qbytes != 0 {
            ipc::msg_set_qbytes(queue, scenario.qbytes).map_err(failed("IPC_SET"))?;
        }
        for &(mtype, size) in scenario.messages {
            send(queue, mtype, size, libc::IPC_NOWAIT).map_err(failed("msgsnd"))?;
        }
        for &(prio, size) in scenario.mq_messages {
            mq_send(mq, prio, size).map_err(failed("mq_send"))?;
        }
        if scenario.gone != 0 {
            let come = send(queue, scenario.gone, 1, 0).and_then(|()| receive(queue, scenario.gone, 1, 0));
            come.map_err(failed("msgsnd and msgrcv"))?;
            let come = mq_send(mq, scenario.gone, 1).and_then(|()| mq_receive(mq));
            come.map_err(failed("mq_send and mq_receive"))?;
        }
        if scenario.named {
            let named = named_mq(NAME).map_err(failed("mq_open"))?;
            mq_send(named, 1, TEXT_SIZE).map_err(failed("mq_send"))?;
            ipc::mq_close(named).map_err(failed("mq_close"))?;
        }
        for (num, &value) in scenario.values.iter().enumerate().filter(|(_, value)| **value != 0) {
            ipc::sem_set_value(set, num, value).map_err(failed("SETVAL"))?;
        }
        for sleep in scenario.sleepers {
            let pid = ipc::fork(|| sleep.sleep(&stage).err().unwrap_or(0))?;
            stage.sleepers.push((pid, Sleeper::Asleep));
            // One after the other, so that their order is known.
            until("a sleeper sleeps", || is_asleep(pid))?;
        }
        Ok(stage)
    }

    /// Makes one call, so that the process is attached.
    pub(super) fn touch(&self) {
        let _ = ipc::sem_query(self.set, 0, libc::GETVAL);
    }

    pub(super) fn kill_sleepers(&mut self) {
        self.kill_those(|_| true);
    }

    fn kill_those(&mut self, meant: impl Fn(libc::pid_t) -> bool) {
        for (pid, state) in self.sleepers.iter_mut().filter(|(_, state)| *state == Sleeper::Asleep) {
            if meant(*pid) {
                ipc::kill(*pid, libc::SIGKILL);
                ipc::wait(*pid);
                *state = Sleeper::Killed;
            }
        }
    }

    /// Kills the first sleeper, who holds undo adjustments.
    pub(super) fn kill_holder(&mut self) {
        let (pid, state) = &mut self.sleepers[0];
        ipc::kill(*pid, libc::SIGKILL);
        ipc::wait(*pid);
        *state = Sleeper::Killed;
    }

    /// What is there now.
    pub(super) fn state(&mut self) -> Outcome<State> {
        thread::sleep(Duration::from_millis(30));
        Ok(State { objects: self.objects()?, sleepers: self.look_at_sleepers() })
    }

    fn look_at_sleepers(&mut self) -> Vec<Sleeper> {
        for (pid, state) in self.sleepers.iter_mut().filter(|(_, state)| *state == Sleeper::Asleep) {
            if let Some(status) = ipc::try_wait(*pid) {
                *state = if libc::WIFEXITED(status) {
                    Sleeper::Ended(libc::WEXITSTATUS(status))
                } else {
                    Sleeper::Killed
                };
            }
        }
        self.sleepers.iter().map(|(_, state)| *state).collect()
    }

    fn objects(&self) -> Outcome<Objects> {
        let queue = self.queue_now()?;
        let commands = [libc::GETVAL, libc::GETNCNT, libc::GETZCNT];
        let of_sem = |num| -> Result<[i32; 3], Errno> {
            let mut three = [0; 3];
            for (place, command) in three.iter_mut().zip(commands) {
                *place = ipc::sem_query(self.set, num, command)?;
            }
            Ok(three)
        };
        let (_, msg) = ipc::msg_info().map_err(failed("MSG_INFO"))?;
        let (_, sem) = ipc::sem_info().map_err(failed("SEM_INFO"))?;
        Ok(Objects {
            queue,
            set: (0..SEMS).map(of_sem).collect(),
            mq: self.mq_now()?,
            keyed: [ipc::msgget(KEY, 0).is_ok(), ipc::semget(KEY, 0, 0).is_ok(), has_named_mq()],
            totals: [msg.msgpool, msg.msgmap, msg.msgtql, sem.semusz, sem.semaem],
        })
    }

    fn queue_now(&self) -> Outcome<Result<Queue, Errno>> {
        loop {
            let stat = match ipc::msg_stat(self.queue) {
                Ok(stat) => stat,
                Err(error) => return Ok(Err(error)),
            };
            let messages = self.messages(&stat);
            // A sleeper that was woken may have sent meanwhile.
            let moved = ipc::msg_stat(self.queue).is_ok_and(|now| now.msg_qnum != stat.msg_qnum);
            if !moved {
                return Ok(Ok(Queue { messages: messages?, qbytes: stat.msg_qbytes }));
            }
        }
    }

    /// Nobody alive is registered, so that the driver can be for a moment.
    fn mq_now(&self) -> Outcome<(i64, bool)> {
        let registered = match ipc::mq_notify(self.mq, true) {
            Ok(()) => false,
            Err(libc::EBUSY) => true,
            Err(error) => return Err(failed("mq_notify")(error).into()),
        };
        ipc::mq_notify(self.mq, false).map_err(failed("mq_notify"))?;
        let attributes = ipc::mq_attributes(self.mq).map_err(failed("mq_getattr"))?;
        Ok((attributes.mq_curmsgs, registered))
    }

    /// Takes all that the POSIX queue tells of, which must be there, the most urgent first.
    fn drain_mq(&self) -> Outcome {
        let mut message = Message::new();
        let mut last = i64::MAX;
        let told = ipc::mq_attributes(self.mq).map_err(failed("mq_getattr"))?.mq_curmsgs;
        for _ in 0..told {
            ipc::mq_timedreceive(self.mq, &mut message, 0).map_err(failed("mq_timedreceive"))?;
            if message.mtype > last {
                return Err(format!("priority {} came after {last}", message.mtype).into());
            }
            last = message.mtype;
        }
        match ipc::mq_timedreceive(self.mq, &mut message, 0) {
            Err(libc::ETIMEDOUT) => Ok(()),
            other => Err(format!("the POSIX queue told of {told} messages, and then gave {other:?}").into()),
        }
    }

    /// The messages, one by one; what the queue says of them must agree.
    fn messages(&self, stat: &libc::msqid_ds) -> Outcome<Vec<(i64, usize)>> {
        let mut message = Message::new();
        let mut found = Vec::new();
        loop {
            let flags = libc::MSG_COPY | libc::IPC_NOWAIT | libc::MSG_NOERROR;
            match ipc::msgrcv(self.queue, &mut message, TEXT_SIZE, found.len() as i64, flags) {
                Ok(size) => found.push((message.mtype, size)),
                Err(libc::ENOMSG) => break,
                Err(error) => return Err(failed("MSG_COPY")(error).into()),
            }
        }
        let bytes: usize = found.iter().map(|(_, size)| size).sum();
        if (stat.msg_qnum, stat.__msg_cbytes) != (found.len() as u64, bytes as u64) {
            return Err(format!(
                "the queue tells of {} messages and {} bytes; it has {found:?}",
                stat.msg_qnum, stat.__msg_cbytes
            )
            .into());
        }
        Ok(found)
    }

    /// Which of the states it is in. Where nobody sleeps, it must be in one at once; sleepers must come to it soon.
    pub(super) fn settles_in(&mut self, allowed: &[(&'static str, State)]) -> Outcome<usize> {
        let start = Instant::now();
        let mut looked_twice = false;
        loop {
            let now = State { objects: self.objects()?, sleepers: self.look_at_sleepers() };
            let found = allowed.iter().position(|(_, state)| *state == now);
            let alike = allowed.iter().filter(|(_, state)| state.objects == now.objects).count();
            match found {
                // Where only the sleepers tell two states apart, they may still be about to.
                Some(_) if alike > 1 && !self.sleepers.is_empty() && !looked_twice => {
                    looked_twice = true;
                    thread::sleep(Duration::from_millis(20));
                    continue;
                }
                Some(which) => return Ok(which),
                None => {}
            }
            if self.sleepers.is_empty() || start.elapsed() > PATIENCE {
                return Err(format!("found {now:?}\n  allowed {allowed:?}").into());
            }
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// Removes all; whoever still sleeps must be told.
    pub(super) fn clear(mut self) -> Outcome {
        let allow_gone = |removed| match removed {
            Err(libc::EINVAL) => Ok(()),
            other => other,
        };
        allow_gone(ipc::msg_remove(self.queue)).map_err(failed("IPC_RMID"))?;
        allow_gone(ipc::sem_remove(self.set)).map_err(failed("IPC_RMID"))?;
        if let Ok(queue) = ipc::msgget(KEY, 0) {
            ipc::msg_remove(queue).map_err(failed("IPC_RMID"))?;
        }
        if let Ok(set) = ipc::semget(KEY, 0, 0) {
            ipc::sem_remove(set).map_err(failed("IPC_RMID"))?;
        }
        if ipc::mq_unlink(NAME).is_ok() && has_named_mq() {
            return Err("a POSIX queue can be opened by the name that it has lost".into());
        }
        let stay = self.stay;
        self.kill_those(|pid| stay || is_paused(pid));
        self.drain_mq()?;
        ipc::mq_close(self.mq).map_err(failed("mq_close"))?;
        until("all sleepers of removed objects end", || {
            self.look_at_sleepers().iter().all(|state| *state != Sleeper::Asleep)
        })
    }
}

/// Sends a message of that size.
pub(super) fn send(queue: i32, mtype: i64, size: usize, flags: i32) -> Result<(), Errno> {
    let mut message = Message::new();
    message.mtype = mtype;
    ipc::msgsnd(queue, &message, size, flags)
}

/// Receives a message.
pub(super) fn receive(queue: i32, mtype: i64, room: usize, flags: i32) -> Result<(), Errno> {
    ipc::msgrcv(queue, &mut Message::new(), room, mtype, flags).map(drop)
}

/// Sends a message of that size to a POSIX queue.
pub(super) fn mq_send(mq: i32, prio: i64, size: usize) -> Result<(), Errno> {
    let mut message = Message::new();
    message.mtype = prio;
    ipc::mq_send(mq, &message, size)
}

/// Receives a message from a POSIX queue.
pub(super) fn mq_receive(mq: i32) -> Result<(), Errno> {
    ipc::mq_receive(mq, &mut Message::new()).map(drop)
}

/// Does operations, each given as semaphore, change and flags.
pub(super) fn operate(set: i32, ops: &[(usize, i32, i32)]) -> Result<(), Errno> {
    let mut ops: Vec<_> = ops.iter().map(|&(num, change, flags)| op(num, change, flags)).collect();
    ipc::semop(set, &mut ops)
}

impl Sleep {
    fn sleep(&self, stage: &Stage) -> Result<(), Errno> {
        let Stage { queue, set, mq, .. } = *stage;
        match *self {
            Sleep::MqReceive => mq_receive(mq),
            Sleep::MqSend(prio, size) => mq_send(mq, prio, size),
            Sleep::Receive(mtype, room) => receive(queue, mtype, room, 0),
            Sleep::Send(mtype, size) => send(queue, mtype, size, 0),
            Sleep::Semop(ops) => operate(set, ops),
            Sleep::Hold(ops) => {
                operate(set, ops)?;
                nix::unistd::pause();
                Ok(())
            }
        }
    }
}
