//! The world of a simulated machine: every task is data, all of it in the caller's thread, and time passes when
//! [`World::settle`] says so. The same story goes the same way every time.

use std::cell::RefMut;
use std::collections::HashMap;
use std::time::Duration;

use kernel_host::{Access, AddressSpace, Credentials, Machine, Memory, PAGE, SIGSTOP, Tid};

use crate::arguments::{self, Buffers, CAPACITY, WILD, failed, returned};
use crate::{ARENA, Call, Data, NOTICE, Notice, Ptr, Reply, SHORT, State, TaskId, World};

/// Tasks on a [`Machine`], whose kernel is the engine.
pub struct Simulated {
    machine: Machine<AddressSpace>,
    /// By task number, which begins at 1.
    tasks: Vec<Task>,
    /// Where each process has attached something at no address of its choice.
    floating: HashMap<u32, Vec<u64>>,
}

struct Task {
    tid: Tid,
    buffers: Places,
    doing: Doing,
}

enum Doing {
    Nothing,
    /// In a call of the engine's.
    Call(Call),
    /// Another call has ended.
    Done(Reply),
    Dead,
}

impl Simulated {
    /// A machine with these limits, on which root has the capabilities that this process has.
    ///
    /// # Panics
    /// If there is no such limit, or it can't have the value.
    pub fn new<'a>(limits: impl IntoIterator<Item = (&'a str, &'a str)>) -> Simulated {
        let mut machine = Machine::new(has_sys_resource());
        let root = machine.spawn(AddressSpace::default());
        for (name, value) in limits {
            machine.write_sysctl(root, name, value).unwrap_or_else(|error| panic!("{name}={value}: {error}"));
        }
        machine.exit(root);
        Simulated { machine, tasks: Vec::new(), floating: HashMap::new() }
    }

    fn task(&mut self, task: TaskId) -> &mut Task {
        let index = (task as usize).checked_sub(1).expect("task numbers begin at 1");
        self.tasks.get_mut(index).expect("a task of this world")
    }

    fn add(&mut self, tid: Tid, buffers: Places) -> TaskId {
        self.tasks.push(Task { tid, buffers, doing: Doing::Nothing });
        self.tasks.len() as TaskId
    }

    fn system_call(&mut self, task: TaskId, call: &Call) {
        let Task { tid, buffers, .. } = *self.task(task);
        let real = match call {
            // Where there was room differs from world to world.
            Call::Shmdt { addr: 1 } => {
                let floating = self.floating.get_mut(&self.machine.pid(tid));
                &Call::Shmdt { addr: floating.and_then(Vec::pop).unwrap_or(1) }
            }
            call if call.takes_descriptor() => &call.clone().map_id(real_descriptor),
            call => call,
        };
        let mut buffers = self.in_memory(tid, buffers);
        let (number, registers) = arguments::encode(&mut buffers, real).expect("a call of the engine's");
        drop(buffers);
        self.task(task).doing = Doing::Call(call.clone());
        self.machine.call_by_number(tid, number, registers);
    }

    fn in_memory(&mut self, tid: Tid, places: Places) -> InMemory<'_> {
        let time = Duration::from_nanos(self.machine.realtime_ns());
        InMemory { places, memory: self.machine.memory(tid), time }
    }

    /// What a call does that is none of the engine's; none if it ends the task.
    fn other_call(&mut self, task: TaskId, call: &Call) -> Option<Reply> {
        let Task { tid, buffers, .. } = *self.task(task);
        let machine = &mut self.machine;
        let ret = match call {
            Call::Fork => {
                let child = machine.fork(tid);
                let attached = self.floating.get(&machine.pid(tid)).cloned().unwrap_or_default();
                self.floating.insert(child, attached);
                i64::from(self.add(child, buffers))
            }
            Call::SpawnThread => {
                let thread = machine.clone_thread(tid);
                let buffers = Places::of(thread);
                buffers.map(&mut machine.memory(thread));
                i64::from(self.add(thread, buffers))
            }
            Call::Exec => {
                machine.exec(tid, buffers.alone());
                self.floating.remove(&tid);
                0
            }
            Call::Exit => {
                machine.exit(tid);
                return None;
            }
            Call::ExitThread => {
                machine.exit_thread(tid);
                return None;
            }
            Call::SetIds { euid, egid, groups } | Call::BecomeUser { uid: euid, gid: egid, groups } => {
                machine.set_credentials(tid, Credentials::new(*euid, *egid, groups.clone()));
                0
            }
            Call::Handler { signal, restart } => machine.handle(tid, *signal, *restart) as i64,
            Call::WriteSysctl { name, value } => match machine.write_sysctl(tid, name, value) {
                Ok(()) => 0,
                Err(error) => return Some(failed(error.raw())),
            },
            Call::ReadFile { path } => match machine.read_file(tid, path) {
                Ok(text) => return Some(Reply { ret: 0, errno: 0, data: Data::Text(text) }),
                Err(error) => return Some(failed(error.raw())),
            },
            Call::Munmap { addr, len } => {
                machine.munmap(tid, *addr, *len);
                0
            }
            Call::Peek { addr } => {
                let mut byte = [0];
                match machine.memory(tid).read(*addr, &mut byte) {
                    Ok(()) => byte[0].into(),
                    Err(error) => return Some(failed(error.raw())),
                }
            }
            Call::Poke { addr, value } => match machine.memory(tid).write(*addr, &[*value]) {
                Ok(()) => 0,
                Err(error) => return Some(failed(error.raw())),
            },
            Call::Umask { mask } => machine.umask(tid, *mask).into(),
            Call::TakeNotice => {
                let Some(notice) = machine.take_notice(tid) else { return Some(failed(libc::EAGAIN)) };
                assert_eq!(notice.signo, NOTICE, "the only signal that queues are asked to send");
                let (pid, uid) = (notice.from_pid.cast_signed(), notice.from_uid);
                let notice = Notice { code: abi::mqueue::SI_MESGQ, pid, uid, value: notice.value };
                return Some(Reply { ret: NOTICE.into(), errno: 0, data: Data::Notice(notice) });
            }
            Call::Close { fd } => match machine.close(tid, real_descriptor(*fd)) {
                Ok(()) => 0,
                Err(error) => return Some(failed(error.raw())),
            },
            Call::Dup { fd } => match machine.dup(tid, real_descriptor(*fd)) {
                Ok(fd) => (fd - kernel_host::FIRST_FILE).into(),
                Err(error) => return Some(failed(error.raw())),
            },
            Call::Poll { .. } => {
                unreachable!("descriptors of the simulated machine are for calls on queues only")
            }
            _ => unreachable!("a call of the engine's"),
        };
        Some(returned(ret))
    }
}

impl World for Simulated {
    fn spawn(&mut self) -> TaskId {
        let tid = self.machine.spawn(AddressSpace::default());
        let buffers = Places::of(tid);
        buffers.map(&mut self.machine.memory(tid));
        self.add(tid, buffers)
    }

    fn start(&mut self, task: TaskId, call: &Call) {
        match call {
            Call::Msgget { .. }
            | Call::Msgsnd { .. }
            | Call::Msgrcv { .. }
            | Call::Msgctl { .. }
            | Call::Semget { .. }
            | Call::Semop { .. }
            | Call::Semtimedop { .. }
            | Call::Semctl { .. }
            | Call::Shmget { .. }
            | Call::Shmat { .. }
            | Call::Shmdt { .. }
            | Call::Shmctl { .. }
            | Call::MqOpen { .. }
            | Call::MqUnlink { .. }
            | Call::MqTimedsend { .. }
            | Call::MqTimedreceive { .. }
            | Call::MqNotify { .. }
            | Call::MqGetsetattr { .. } => self.system_call(task, call),
            _ => {
                let reply = self.other_call(task, call);
                self.task(task).doing = reply.map_or(Doing::Dead, Doing::Done);
            }
        }
    }

    fn settle(&mut self) {
        let short = SHORT.as_nanos() as u64;
        let soon = self.machine.now_ns().saturating_add(short);
        while let Some(deadline) = self.machine.next_deadline().filter(|deadline| *deadline < soon) {
            self.machine.advance_to(deadline);
        }
    }

    fn poll(&mut self, task: TaskId) -> State {
        let Task { tid, buffers, .. } = *self.task(task);
        let state = self.machine.state(tid);
        if let kernel_host::State::Dead = state {
            self.task(task).doing = Doing::Dead;
        }
        let doing = std::mem::replace(&mut self.task(task).doing, Doing::Nothing);
        let (doing, seen) = match (doing, state) {
            (Doing::Dead, _) => (Doing::Dead, State::Dead),
            (Doing::Done(reply), _) => (Doing::Nothing, State::Done(reply)),
            (doing, kernel_host::State::Stopped) => (doing, State::Stopped),
            (Doing::Call(call), kernel_host::State::Returned(result)) => {
                self.machine.take(tid);
                let mut reply =
                    arguments::decode(&self.in_memory(tid, buffers), &call, result.map_err(abi::Errno::raw));
                match (&call, result) {
                    (Call::MqOpen { .. }, Ok(_)) => reply.ret -= i64::from(kernel_host::FIRST_FILE),
                    (Call::Shmat { .. }, Ok(at)) if !ARENA.contains(&at.cast_unsigned()) => {
                        let pid = self.machine.pid(tid);
                        self.floating.entry(pid).or_default().push(at.cast_unsigned());
                        reply.ret = 1;
                    }
                    _ => {}
                }
                (Doing::Nothing, State::Done(reply))
            }
            (doing @ Doing::Call(_), _) => (doing, State::Blocked),
            (Doing::Nothing, _) => (Doing::Nothing, State::Idle),
        };
        self.task(task).doing = doing;
        seen
    }

    fn kill(&mut self, task: TaskId) {
        let tid = self.task(task).tid;
        if self.machine.state(tid) != kernel_host::State::Dead {
            self.machine.signal(tid, libc::SIGKILL);
        }
    }

    fn signal(&mut self, task: TaskId, signal: i32) {
        let tid = self.task(task).tid;
        self.machine.signal(tid, signal);
    }

    fn stops_sleepers(&self) -> bool {
        true
    }

    fn task_of(&self, pid: i32) -> Option<TaskId> {
        let index = self.tasks.iter().position(|task| i64::from(task.tid) == i64::from(pid))?;
        Some(index as TaskId + 1)
    }
}

/// Descriptors are counted from 0, and a process of the machine has none but those of queues.
fn real_descriptor(fd: i32) -> i32 {
    kernel_host::FIRST_FILE.saturating_add(fd)
}

/// Has this process `CAP_SYS_RESOURCE`? In a container also root may be without.
fn has_sys_resource() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = capabilities.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> CAP_SYS_RESOURCE & 1 != 0)
}

/// Where in its process's memory a thread has its buffers.
#[derive(Clone, Copy)]
struct Places {
    base: u64,
}

/// From where on threads have their buffers: above [`ARENA`], and below where segments go whose place is left to the machine.
const BUFFERS: u64 = 1 << 40;
/// One half of the buffers: writable memory, nothing, and memory that can only be read.
const HALF: u64 = 4 * CAPACITY as u64;
const NOTHING: u64 = CAPACITY as u64;
const READ_ONLY: u64 = 2 * CAPACITY as u64;

impl Places {
    fn of(tid: Tid) -> Places {
        Places { base: BUFFERS + u64::from(tid) * 2 * HALF }
    }

    fn map(self, memory: &mut AddressSpace) {
        for half in [self.base, self.base + HALF] {
            memory.map(half, CAPACITY as u64, Access::ReadWrite);
            memory.map(half + READ_ONLY, CAPACITY as u64, Access::Read);
        }
    }

    /// A program's memory with nothing else.
    fn alone(self) -> AddressSpace {
        let mut memory = AddressSpace::default();
        self.map(&mut memory);
        memory
    }
}

/// A thread's buffers, at hand.
struct InMemory<'a> {
    places: Places,
    memory: RefMut<'a, AddressSpace>,
    time: Duration,
}

impl InMemory<'_> {
    fn read_at(&self, half: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length.min(CAPACITY)];
        self.memory.read(half, &mut bytes).expect("mapped by Places::map");
        bytes
    }

    fn place_at(&mut self, half: u64, ptr: Ptr, bytes: &[u8]) -> u64 {
        assert!(bytes.len() <= CAPACITY);
        let (at, bytes) = match ptr {
            Ptr::Valid => (half, bytes),
            Ptr::ReadOnly => (half + READ_ONLY, bytes),
            Ptr::Straddle(valid) => {
                let valid = valid.min(CAPACITY);
                (half + NOTHING - valid as u64, &bytes[..valid.min(bytes.len())])
            }
            Ptr::Bad => return half + NOTHING,
            Ptr::Null => return 0,
            Ptr::Wild => return WILD,
        };
        self.memory.fill(at, bytes).expect("mapped by Places::map");
        at
    }
}

impl Buffers for InMemory<'_> {
    fn place(&mut self, ptr: Ptr, bytes: &[u8]) -> u64 {
        self.place_at(self.places.base, ptr, bytes)
    }

    fn place_second(&mut self, ptr: Ptr, bytes: &[u8]) -> u64 {
        self.place_at(self.places.base + HALF, ptr, bytes)
    }

    fn fill(&mut self, byte: u8, length: usize) {
        let bytes = vec![byte; length.min(CAPACITY)];
        self.memory.fill(self.places.base, &bytes).expect("mapped by Places::map");
    }

    fn read(&self, length: usize) -> Vec<u8> {
        self.read_at(self.places.base, length)
    }

    fn read_second(&self, length: usize) -> Vec<u8> {
        self.read_at(self.places.base + HALF, length)
    }

    fn time(&self) -> Duration {
        self.time
    }
}

const _: () = assert!(ARENA.end <= BUFFERS && BUFFERS < kernel_host::ANYWHERE);
const _: () = assert!(CAPACITY.is_multiple_of(PAGE) && SIGSTOP == libc::SIGSTOP);
