//! A worker: a process, or a thread of one, that makes the calls it is told to.
//!
//! # Safety
//! Pointers handed to the calls come from [`Memory`], or are meant to be bad ones that the callee must
//! answer with EFAULT.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_long, c_uint, c_void};
use std::io::{IoSlice, IoSliceMut};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::{env, fs, io, ptr, thread};

use nix::sched::CloneFlags;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::{self, ForkResult, Gid, Pid, Uid};

use crate::arguments::{self, SystemCall, failed, returned};
use crate::memory::Memory;
use crate::wire::{self, Channel, Hello};
use crate::{ARENA, Call, Data, NOTICE, Notice, Ptr, Reply, TaskId};

/// The first argument of an executable that is to be a worker.
pub(crate) const ARGUMENT: &str = "--world-worker";

/// The task that all of [`World::spawn`](crate::World::spawn) descend from.
pub(crate) const FACTORY: TaskId = 0;

/// How the calls are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    /// On the kernel, in a namespace of the worker's own making; otherwise whoever started it has seen to it.
    pub(crate) kernel: bool,
    pub(crate) entry: Entry,
}

/// By what the calls are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// libc's symbol for the call.
    Symbol,
    /// syscall(2).
    Syscall,
    /// The instruction of 32-bit programs.
    Int80,
}

impl Mode {
    pub(crate) fn argument(self) -> &'static str {
        match (self.kernel, self.entry) {
            (true, Entry::Symbol) => "kernel",
            (true, Entry::Syscall) => "kernel-raw",
            (true, Entry::Int80) => "kernel-32",
            (false, Entry::Symbol) => "ours",
            (false, Entry::Syscall) => "ours-raw",
            (false, Entry::Int80) => "ours-32",
        }
    }

    fn parse(argument: &str) -> Option<Mode> {
        let entries = [Entry::Symbol, Entry::Syscall, Entry::Int80];
        let modes = entries.into_iter().flat_map(|entry| [true, false].map(|kernel| Mode { kernel, entry }));
        modes.into_iter().find(|mode| mode.argument() == argument)
    }
}

/// Becomes a worker, and never returns, if this process was started to be one. To be called first in `main`.
pub fn run_worker_if_asked() {
    let arguments: Vec<String> = env::args_os().filter_map(|argument| argument.into_string().ok()).collect();
    if let [_, first, address, task, mode] = &arguments[..]
        && first == ARGUMENT
        && let (Ok(task), Some(mode)) = (task.parse(), Mode::parse(mode))
    {
        if task == FACTORY {
            become_factory(mode);
        }
        block_notices();
        // In the kernel an exec detaches at once; ours learns of it by the new program's first call.
        by_libc((libc::SYS_shmctl, [0, libc::IPC_INFO as u64, 0, 0, 0, 0]));
        Worker::new(address.clone(), task, mode).serve();
        end_process();
    }
}

/// The first process of a world leads a group of its own, so that it can end what it has made; see `serve`.
fn become_factory(mode: Mode) {
    unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).expect("setpgid");
    if mode.kernel {
        enter_own_namespace().expect("a private IPC namespace (unshare)");
    }
}

fn enter_own_namespace() -> io::Result<()> {
    let (uid, gid) = (unistd::geteuid(), unistd::getegid());
    if uid.is_root() {
        return Ok(nix::sched::unshare(CloneFlags::CLONE_NEWIPC)?);
    }
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWIPC)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

fn end_process() -> ! {
    // SAFETY: ends the process; nothing of ours is to be run at its exit.
    unsafe { libc::_exit(0) }
}

unsafe extern "C" {
    // Missing from the libc crate.
    fn semtimedop(id: c_int, ops: *mut libc::sembuf, count: usize, timeout: *const libc::timespec) -> c_int;
}

struct Worker {
    address: String,
    task: TaskId,
    mode: Mode,
    memory: Memory,
}

impl Worker {
    fn new(address: String, task: TaskId, mode: Mode) -> Worker {
        Worker { address, task, mode, memory: Memory::new() }
    }

    /// Does what the driver says until the task is told to end, or the driver is gone.
    fn serve(mut self) {
        let mut channel = Channel::connect(&self.address).expect("the driver's socket");
        let hello = Hello { task: self.task, pid: unistd::getpid().as_raw(), tid: unistd::gettid().as_raw() };
        channel.send(&hello).expect("hello");
        loop {
            let Ok(Some(wire::Command { call, child })) = channel.receive() else {
                if self.task == FACTORY {
                    // The driver is gone: so is everything that was started for it.
                    let _ = nix::sys::signal::kill(Pid::from_raw(0), Signal::SIGKILL);
                }
                end_process();
            };
            let reply = match call {
                Call::Fork => match self.fork(child) {
                    Ok(Some(reply)) => reply,
                    Ok(None) => {
                        drop(channel);
                        self.serve();
                        end_process();
                    }
                    Err(error) => failed(error as i32),
                },
                Call::ExitThread => return,
                call => self.execute(call, child),
            };
            if channel.send(&reply).is_err() {
                end_process();
            }
        }
    }

    /// None in the child, which is the new task from now on.
    fn fork(&mut self, child: TaskId) -> nix::Result<Option<Reply>> {
        // SAFETY: glibc makes its allocator usable in the child, and nothing else of the parent's threads is
        // needed there.
        match unsafe { unistd::fork() }? {
            ForkResult::Parent { .. } => Ok(Some(returned(i64::from(child)))),
            ForkResult::Child => {
                self.task = child;
                Ok(None)
            }
        }
    }

    fn execute(&mut self, call: Call, child: TaskId) -> Reply {
        match call {
            Call::SpawnThread => {
                let (address, mode) = (self.address.clone(), self.mode);
                thread::spawn(move || Worker::new(address, child, mode).serve());
                returned(i64::from(child))
            }
            Call::Exec => self.exec(),
            Call::SetIds { euid, egid, groups } => set_ids(euid, egid, &groups),
            Call::BecomeUser { uid, gid, groups } => become_user(uid, gid, &groups),
            Call::Handler { signal, restart } => handler(signal, restart),
            Call::WriteSysctl { name, value } => write_sysctl(&name, &value),
            Call::ReadFile { path } => read_file(&path),
            Call::Exit => end_process(),
            Call::Fork | Call::ExitThread => unreachable!("done by serve"),
            Call::Munmap { addr, len } => munmap(addr, len),
            Call::Peek { addr } => peek(addr),
            Call::Poke { addr, value } => poke(addr, value),
            Call::Umask { mask } => {
                // SAFETY: no pointers, no failure.
                returned(unsafe { libc::umask(mask) }.into())
            }
            Call::TakeNotice => take_notice(),
            Call::Close { fd } => close(fd),
            Call::Dup { fd } => dup(fd),
            Call::Poll { fd } => poll(fd),
            // Where there was room differs from world to world.
            Call::Shmdt { addr: 1 } => {
                let addr = floating().pop().unwrap_or(1);
                self.system_call(&Call::Shmdt { addr })
            }
            call => self.system_call(&call),
        }
    }

    fn exec(&mut self) -> Reply {
        let executable = env::current_exe().expect("/proc/self/exe");
        let task = self.task.to_string();
        let error =
            Command::new(executable).args([ARGUMENT, &self.address, &task, self.mode.argument()]).exec();
        failed(error.raw_os_error().unwrap_or(0))
    }

    fn system_call(&mut self, call: &Call) -> Reply {
        let real = if call.takes_descriptor() { &call.clone().map_id(real_descriptor) } else { call };
        let system_call = arguments::encode(&mut self.memory, real).expect("a call of System V or of queues");
        let returned =
            |value: c_long| if value == -1 { Err(nix::errno::Errno::last_raw()) } else { Ok(value) };
        let result = match self.mode.entry {
            Entry::Symbol if looked_at_by_libc(call) => returned(raw(system_call)),
            Entry::Symbol => returned(by_libc(system_call)),
            Entry::Syscall => returned(raw(system_call)),
            Entry::Int80 => int80::call(system_call.0, system_call.1),
        };
        let mut reply = arguments::decode(&self.memory, call, result);
        if let (Call::Shmat { .. }, Ok(at)) = (call, result)
            && !ARENA.contains(&(at as u64))
        {
            floating().push(at as u64);
            reply.ret = 1;
        }
        if let (Call::MqOpen { .. }, Ok(fd)) = (call, result) {
            reply.ret = note_descriptor(fd as c_int).into();
        }
        reply
    }
}

/// Has the call a bad pointer that libc itself follows?
fn looked_at_by_libc(call: &Call) -> bool {
    match call {
        Call::MqOpen { ptr, .. } | Call::MqUnlink { ptr, .. } => *ptr != Ptr::Valid,
        Call::MqNotify { event, .. } => event.is_some_and(|event| event.ptr != Ptr::Valid),
        _ => false,
    }
}

/// Makes a call by syscall(2).
fn raw((number, [a, b, c, d, e, f]): SystemCall) -> c_long {
    // SAFETY: see the module's head.
    unsafe { libc::syscall(number, a, b, c, d, e, f) }
}

/// Makes a call by its own symbol.
fn by_libc((number, [a, b, c, d, e, _]): SystemCall) -> c_long {
    let int = |register: u64| register as c_int;
    let size = |register: u64| register as usize;
    let at = |register: u64| ptr::with_exposed_provenance_mut::<c_void>(register as usize);
    // SAFETY: see the module's head.
    unsafe {
        match number {
            libc::SYS_msgget => libc::msgget(int(a), int(b)).into(),
            libc::SYS_msgsnd => libc::msgsnd(int(a), at(b), size(c), int(d)).into(),
            libc::SYS_msgrcv => libc::msgrcv(int(a), at(b), size(c), d as c_long, int(e)) as c_long,
            libc::SYS_msgctl => libc::msgctl(int(a), int(b), at(c).cast()).into(),
            libc::SYS_semget => libc::semget(int(a), int(b), int(c)).into(),
            libc::SYS_semop => libc::semop(int(a), at(b).cast(), size(c)).into(),
            libc::SYS_semtimedop => semtimedop(int(a), at(b).cast(), size(c), at(d).cast()).into(),
            libc::SYS_semctl => libc::semctl(int(a), int(b), int(c), at(d)).into(),
            libc::SYS_shmget => libc::shmget(int(a), size(b), int(c)).into(),
            libc::SYS_shmat => libc::shmat(int(a), at(b), int(c)) as c_long,
            libc::SYS_shmdt => libc::shmdt(at(a)).into(),
            libc::SYS_shmctl => libc::shmctl(int(a), int(b), at(c).cast()).into(),
            libc::SYS_mq_open => libc::mq_open(at(a - 1).cast(), int(b), c as c_uint, at(d)).into(),
            libc::SYS_mq_unlink => libc::mq_unlink(at(a - 1).cast()).into(),
            libc::SYS_mq_timedsend => {
                libc::mq_timedsend(int(a), at(b).cast(), size(c), d as c_uint, at(e).cast()).into()
            }
            libc::SYS_mq_timedreceive => {
                libc::mq_timedreceive(int(a), at(b).cast(), size(c), at(d).cast(), at(e).cast()) as c_long
            }
            libc::SYS_mq_notify => libc::mq_notify(int(a), at(b).cast()).into(),
            libc::SYS_mq_getsetattr => libc::mq_setattr(int(a), at(b).cast(), at(c).cast()).into(),
            _ => unreachable!("arguments::encode gives no other"),
        }
    }
}

/// Where this process has attached something at no address of its choice.
fn floating() -> MutexGuard<'static, Vec<u64>> {
    static FLOATING: Mutex<Vec<u64>> = Mutex::new(Vec::new());
    FLOATING.lock().expect("nobody panics with it")
}

/// This process's descriptors of POSIX queues, by the numbers they are called by. (Exec closes them.)
fn descriptors() -> MutexGuard<'static, BTreeMap<i32, c_int>> {
    static DESCRIPTORS: Mutex<BTreeMap<i32, c_int>> = Mutex::new(BTreeMap::new());
    DESCRIPTORS.lock().expect("nobody panics with it")
}

/// More descriptors than this no process has.
const NO_DESCRIPTOR: c_int = 100_000;

/// A number that is no queue's is none at all.
fn real_descriptor(fd: i32) -> c_int {
    descriptors().get(&fd).copied().unwrap_or(NO_DESCRIPTOR)
}

fn note_descriptor(real: c_int) -> i32 {
    let mut descriptors = descriptors();
    let free = (0..).find(|fd| !descriptors.contains_key(fd)).expect("an int");
    descriptors.insert(free, real);
    free
}

fn result_of(value: c_int) -> Result<c_int, Reply> {
    if value == -1 { Err(failed(nix::errno::Errno::last_raw())) } else { Ok(value) }
}

fn close(fd: i32) -> Reply {
    let real = descriptors().remove(&fd).unwrap_or(NO_DESCRIPTOR);
    // SAFETY: a descriptor that nobody else owns.
    result_of(unsafe { libc::close(real) }).map_or_else(|error| error, |_| returned(0))
}

fn dup(fd: i32) -> Reply {
    // SAFETY: no pointers.
    let new = result_of(unsafe { libc::fcntl(real_descriptor(fd), libc::F_DUPFD_CLOEXEC, 0) });
    new.map_or_else(|error| error, |new| returned(note_descriptor(new).into()))
}

fn poll(fd: i32) -> Reply {
    let events = libc::POLLIN | libc::POLLRDNORM | libc::POLLOUT | libc::POLLWRNORM | libc::POLLPRI;
    let mut polled = libc::pollfd { fd: real_descriptor(fd), events, revents: 0 };
    // SAFETY: one structure.
    let ready = result_of(unsafe { libc::poll(&raw mut polled, 1, 0) });
    ready.map_or_else(|error| error, |_| returned(polled.revents.into()))
}

fn notices() -> libc::sigset_t {
    // SAFETY: the set is made empty before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, NOTICE);
        set
    }
}

/// For this thread and those that it makes.
fn block_notices() {
    // SAFETY: a set, and nothing to be written.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &notices(), ptr::null_mut()) };
}

fn take_notice() -> Reply {
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a structure of integers and of pointers that nobody follows; the call fills it. Its sender and value are there, as who sends this
    // signal says so.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        match result_of(libc::sigtimedwait(&notices(), &raw mut info, &at_once)) {
            Ok(signo) => {
                let value = info.si_value().sival_ptr.addr() as u64;
                let (pid, uid) = (info.si_pid(), info.si_uid());
                let notice = Notice { code: info.si_code, pid, uid, value };
                Reply { ret: signo.into(), errno: 0, data: Data::Notice(notice) }
            }
            Err(error) => error,
        }
    }
}

fn munmap(addr: u64, len: u64) -> Reply {
    assert!(ARENA.contains(&addr) && addr + len <= ARENA.end, "a place where nothing of ours is");
    // SAFETY: just made sure.
    match unsafe { libc::munmap(ptr::without_provenance_mut(addr as usize), len as usize) } {
        -1 => failed(nix::errno::Errno::last_raw()),
        _ => returned(0),
    }
}

fn peek(addr: u64) -> Reply {
    let mut byte = [0];
    let there = [RemoteIoVec { base: addr as usize, len: 1 }];
    match process_vm_readv(unistd::getpid(), &mut [IoSliceMut::new(&mut byte)], &there) {
        Ok(_) => returned(byte[0].into()),
        Err(error) => failed(error as i32),
    }
}

fn poke(addr: u64, value: u8) -> Reply {
    let there = [RemoteIoVec { base: addr as usize, len: 1 }];
    match process_vm_writev(unistd::getpid(), &[IoSlice::new(&[value])], &there) {
        Ok(_) => returned(0),
        Err(error) => failed(error as i32),
    }
}

/// Through libc, so that a door which interposes these calls learns of it.
fn set_ids(euid: u32, egid: u32, groups: &[u32]) -> Reply {
    let groups: Vec<Gid> = groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    let outcome = unistd::seteuid(unistd::getuid())
        .and_then(|()| unistd::setgroups(&groups))
        .and_then(|()| unistd::setegid(Gid::from_raw(egid)))
        .and_then(|()| unistd::seteuid(Uid::from_raw(euid)));
    match outcome {
        Ok(()) => returned(0),
        Err(error) => failed(error as i32),
    }
}

/// As [`set_ids`], and nothing leads back.
fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Reply {
    let groups: Vec<Gid> = groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let outcome = unistd::setgroups(&groups)
        .and_then(|()| unistd::setresgid(gid, gid, gid))
        .and_then(|()| unistd::setresuid(uid, uid, uid));
    match outcome {
        Ok(()) => returned(0),
        Err(error) => failed(error as i32),
    }
}

static HANDLED: AtomicI64 = AtomicI64::new(0);

extern "C" fn count(_signal: c_int) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

fn handler(signal: i32, restart: bool) -> Reply {
    let flags = if restart { SaFlags::SA_RESTART } else { SaFlags::empty() };
    let action = SigAction::new(SigHandler::Handler(count), flags, SigSet::empty());
    let signal = match Signal::try_from(signal) {
        Ok(signal) => signal,
        Err(error) => return failed(error as i32),
    };
    // SAFETY: the handler only touches an atomic.
    match unsafe { nix::sys::signal::sigaction(signal, &action) } {
        Ok(_) => returned(HANDLED.load(Ordering::Relaxed)),
        Err(error) => failed(error as i32),
    }
}

fn write_sysctl(name: &str, value: &str) -> Reply {
    match fs::write(format!("/proc/sys/{}", name.replace('.', "/")), value) {
        Ok(()) => returned(0),
        Err(error) => failed(error.raw_os_error().unwrap_or(0)),
    }
}

fn read_file(path: &str) -> Reply {
    match fs::read_to_string(path) {
        Ok(text) => Reply { ret: 0, errno: 0, data: Data::Text(text) },
        Err(error) => failed(error.raw_os_error().unwrap_or(0)),
    }
}
