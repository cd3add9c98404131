//! A worker: a process, or a thread of one, that makes the calls it is told to.
//!
//! # Safety
//! Pointers handed to the calls come from [`Memory`], or are meant to be bad ones that the callee must
//! answer with EFAULT.

use std::ffi::{c_int, c_long, c_void};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};
use std::{env, fs, io, ptr, thread};

use nix::sched::CloneFlags;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::unistd::{self, ForkResult, Gid, Pid, Uid};

use crate::memory::{CAPACITY, Memory};
use crate::name::{MSG_STAT_ANY, SEM_STAT_ANY};
use crate::reply::{Data, MsgInfo, MsgStat, Perm, Reply, SemInfo, SemStat};
use crate::wire::{self, Channel, Hello};
use crate::{Arg, Call, Ptr, SemBuf, TaskId, Timeout};

/// The first argument of an executable that is to be a worker.
pub(crate) const ARGUMENT: &str = "--world-worker";

/// The task that all of [`World::spawn`](crate::World::spawn) descend from.
pub(crate) const FACTORY: TaskId = 0;

/// How the calls are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    /// On the kernel, in a namespace of the worker's own making; otherwise whoever started it has seen to it.
    pub(crate) kernel: bool,
    /// By syscall(2) instead of libc's symbol for the call.
    pub(crate) raw: bool,
}

impl Mode {
    pub(crate) fn argument(self) -> &'static str {
        match (self.kernel, self.raw) {
            (true, false) => "kernel",
            (true, true) => "kernel-raw",
            (false, false) => "ours",
            (false, true) => "ours-raw",
        }
    }

    fn parse(argument: &str) -> Option<Mode> {
        let modes = [(true, false), (true, true), (false, false), (false, true)];
        modes.map(|(kernel, raw)| Mode { kernel, raw }).into_iter().find(|mode| mode.argument() == argument)
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
    /// For the second pointer of a call.
    memory_of_timeout: Memory,
}

impl Worker {
    fn new(address: String, task: TaskId, mode: Mode) -> Worker {
        Worker { address, task, mode, memory: Memory::new(), memory_of_timeout: Memory::new() }
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
            Call::Msgget { key, flags } => self.msgget(key, flags),
            Call::Msgsnd { id, ptr, mtype, text, size, flags } => {
                self.msgsnd(id, ptr, mtype, &text.bytes(), size, flags)
            }
            Call::Msgrcv { id, ptr, size, mtype, flags } => self.msgrcv(id, ptr, size, mtype, flags),
            Call::Msgctl { id, cmd, arg } => self.msgctl(id, cmd, &arg),
            Call::Semget { key, nsems, flags } => self.semget(key, nsems, flags),
            Call::Semop { id, ptr, ops, count } => self.semop(id, ptr, &ops, count, None),
            Call::Semtimedop { id, ptr, ops, count, timeout } => {
                self.semop(id, ptr, &ops, count, Some(timeout))
            }
            Call::Semctl { id, num, cmd, arg } => self.semctl(id, num, cmd, &arg),
            Call::SpawnThread => {
                let (address, mode) = (self.address.clone(), self.mode);
                thread::spawn(move || Worker::new(address, child, mode).serve());
                returned(i64::from(child))
            }
            Call::Exec => self.exec(),
            Call::SetIds { euid, egid, groups } => set_ids(euid, egid, &groups),
            Call::Handler { signal, restart } => handler(signal, restart),
            Call::WriteSysctl { name, value } => write_sysctl(self.mode, &name, &value),
            Call::Exit => end_process(),
            Call::Fork | Call::ExitThread => unreachable!("done by serve"),
        }
    }

    fn exec(&mut self) -> Reply {
        let executable = env::current_exe().expect("/proc/self/exe");
        let task = self.task.to_string();
        let error =
            Command::new(executable).args([ARGUMENT, &self.address, &task, self.mode.argument()]).exec();
        failed(error.raw_os_error().unwrap_or(0))
    }

    fn msgget(&self, key: i32, flags: i32) -> Reply {
        let result = if self.mode.raw {
            // SAFETY: no pointers.
            unsafe { libc::syscall(libc::SYS_msgget, key, flags) }
        } else {
            // SAFETY: no pointers.
            c_long::from(unsafe { libc::msgget(key, flags) })
        };
        reply(result, || Data::None)
    }

    fn semget(&self, key: i32, nsems: i32, flags: i32) -> Reply {
        let result = if self.mode.raw {
            // SAFETY: no pointers.
            unsafe { libc::syscall(libc::SYS_semget, key, nsems, flags) }
        } else {
            // SAFETY: no pointers.
            c_long::from(unsafe { libc::semget(key, nsems, flags) })
        };
        reply(result, || Data::None)
    }

    fn msgsnd(&mut self, id: i32, ptr: Ptr, mtype: i64, text: &[u8], size: i64, flags: i32) -> Reply {
        // What the call reads behind a text shorter than its size must not depend on earlier calls.
        self.memory.fill(0, usize::try_from(size).unwrap_or(0).min(CAPACITY - 8) + 8);
        let message = [&mtype.to_ne_bytes(), text].concat();
        let address = self.memory.place(ptr, &message[..message.len().min(CAPACITY)]).cast::<c_void>();
        let result = if self.mode.raw {
            // SAFETY: see the module's head.
            unsafe { libc::syscall(libc::SYS_msgsnd, id, address, size, flags) }
        } else {
            // SAFETY: see the module's head.
            c_long::from(unsafe { libc::msgsnd(id, address, size as usize, flags) })
        };
        reply(result, || Data::None)
    }

    fn msgrcv(&mut self, id: i32, ptr: Ptr, size: i64, mtype: i64, flags: i32) -> Reply {
        /// Bytes behind the buffer that are watched.
        const BEHIND: usize = 16;
        const UNTOUCHED: u8 = 0xa5;
        let room = 8 + usize::try_from(size).unwrap_or(0).min(CAPACITY - 8 - BEHIND);
        self.memory.fill(UNTOUCHED, room + BEHIND);
        let address = self.memory.place(ptr, &[]).cast::<c_void>();
        let result = if self.mode.raw {
            // SAFETY: see the module's head.
            unsafe { libc::syscall(libc::SYS_msgrcv, id, address, size, mtype, flags) }
        } else {
            // SAFETY: see the module's head.
            unsafe { libc::msgrcv(id, address, size as usize, mtype, flags) as c_long }
        };
        let mut outcome = reply(result, || Data::None);
        if ptr == Ptr::Valid {
            let bytes = self.memory.read(room + BEHIND);
            let written = if result < 0 { 0 } else { 8 + result as usize };
            outcome.data = match bytes.get(written..) {
                Some(rest) if rest.iter().all(|&byte| byte == UNTOUCHED) => received(&bytes[..written]),
                _ => Data::Scribbled,
            };
        }
        outcome
    }

    /// The address that the last argument of a `*ctl` call stands for.
    fn argument(&mut self, arg: &Arg, set: impl FnOnce(&crate::Set) -> Vec<u8>) -> *mut c_void {
        match arg {
            Arg::Int(value) => ptr::without_provenance_mut(*value as usize),
            Arg::Buf(ptr) => self.memory.place(*ptr, &[]).cast(),
            Arg::Set(ptr, values) => self.memory.place(*ptr, &set(values)).cast(),
            Arg::Values(ptr, values) => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
                self.memory.place(*ptr, &bytes).cast()
            }
        }
    }

    fn msgctl(&mut self, id: i32, cmd: c_int, arg: &Arg) -> Reply {
        self.memory.fill(0, size_of::<libc::msqid_ds>());
        let address = self.argument(arg, msg_set);
        let result = if self.mode.raw {
            // SAFETY: see the module's head.
            unsafe { libc::syscall(libc::SYS_msgctl, id, cmd, address) }
        } else {
            // SAFETY: see the module's head.
            c_long::from(unsafe { libc::msgctl(id, cmd, address.cast()) })
        };
        reply(result, || match (arg, cmd) {
            (Arg::Buf(Ptr::Valid), libc::IPC_STAT | libc::MSG_STAT | MSG_STAT_ANY) => {
                Data::MsgStat(msg_stat(&self.structure()))
            }
            (Arg::Buf(Ptr::Valid), libc::IPC_INFO | libc::MSG_INFO) => {
                Data::MsgInfo(msg_info(&self.structure()))
            }
            _ => Data::None,
        })
    }

    fn semctl(&mut self, id: i32, num: c_int, cmd: c_int, arg: &Arg) -> Reply {
        /// No semaphore has this value, so it tells how far GETALL wrote.
        const NO_VALUE: u8 = 0xff;
        /// Bytes of the largest set's values, and two more.
        const VALUES: usize = 2 * 32000 + 4;
        match cmd {
            libc::GETALL => self.memory.fill(NO_VALUE, VALUES),
            _ => self.memory.fill(0, size_of::<libc::semid_ds>()),
        }
        let address = self.argument(arg, sem_set);
        let result = if self.mode.raw {
            // SAFETY: see the module's head.
            unsafe { libc::syscall(libc::SYS_semctl, id, num, cmd, address) }
        } else {
            // SAFETY: see the module's head.
            c_long::from(unsafe { libc::semctl(id, num, cmd, address) })
        };
        reply(result, || match (arg, cmd) {
            (Arg::Buf(Ptr::Valid), libc::IPC_STAT | libc::SEM_STAT | SEM_STAT_ANY) => {
                Data::SemStat(sem_stat(&self.structure()))
            }
            (Arg::Buf(Ptr::Valid), libc::IPC_INFO | libc::SEM_INFO) => {
                Data::SemInfo(sem_info(&self.structure()))
            }
            (Arg::Buf(Ptr::Valid), libc::GETALL) => Data::Values(self.values(VALUES)),
            _ => Data::None,
        })
    }

    fn values(&self, bytes: usize) -> Vec<u16> {
        let bytes = self.memory.read(bytes);
        let (pairs, _) = bytes.as_chunks::<2>();
        pairs.iter().map(|pair| u16::from_ne_bytes(*pair)).take_while(|&value| value != u16::MAX).collect()
    }

    /// What a call wrote to the valid area, as the structure that it is.
    fn structure<T: Plain>(&self) -> T {
        let bytes = self.memory.read(size_of::<T>());
        // SAFETY: T is made of integers, and there are as many bytes as it has.
        unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
    }

    fn semop(&mut self, id: i32, ptr: Ptr, ops: &[SemBuf], count: u64, timeout: Option<Timeout>) -> Reply {
        let bytes: Vec<u8> = ops.iter().flat_map(sembuf).collect();
        let address = self.memory.place(ptr, &bytes).cast::<libc::sembuf>();
        let time = timeout.map_or(ptr::null_mut(), |Timeout { ptr, sec, nsec }| {
            self.memory_of_timeout
                .place(ptr, &[sec.to_ne_bytes(), nsec.to_ne_bytes()].concat())
                .cast::<libc::timespec>()
        });
        let result = match (self.mode.raw, timeout.is_some()) {
            // SAFETY: see the module's head.
            (true, false) => unsafe { libc::syscall(libc::SYS_semop, id, address, count) },
            // SAFETY: see the module's head.
            (true, true) => unsafe { libc::syscall(libc::SYS_semtimedop, id, address, count, time) },
            // SAFETY: see the module's head.
            (false, false) => c_long::from(unsafe { libc::semop(id, address, count as usize) }),
            // SAFETY: see the module's head.
            (false, true) => c_long::from(unsafe { semtimedop(id, address, count as usize, time) }),
        };
        reply(result, || Data::None)
    }
}

/// Structures of nothing but integers, without padding that matters.
///
/// # Safety
/// Every pattern of bits is a value.
unsafe trait Plain {}
// SAFETY: integers only.
unsafe impl Plain for libc::msqid_ds {}
// SAFETY: integers only.
unsafe impl Plain for libc::msginfo {}
// SAFETY: integers only.
unsafe impl Plain for libc::semid_ds {}
// SAFETY: integers only.
unsafe impl Plain for libc::seminfo {}

/// The outcome of a libc call, to be taken before errno changes.
fn reply(result: c_long, data: impl FnOnce() -> Data) -> Reply {
    if result == -1 {
        return failed(nix::errno::Errno::last_raw());
    }
    Reply { ret: result, errno: 0, data: data() }
}

fn returned(ret: i64) -> Reply {
    Reply { ret, errno: 0, data: Data::None }
}

fn failed(errno: i32) -> Reply {
    Reply { ret: -1, errno, data: Data::None }
}

fn received(bytes: &[u8]) -> Data {
    match bytes.split_first_chunk() {
        Some((mtype, text)) => Data::Message { mtype: i64::from_ne_bytes(*mtype), text: text.to_vec() },
        None => Data::None,
    }
}

fn sembuf(op: &SemBuf) -> [u8; 6] {
    let [[a, b], [c, d], [e, f]] = [op.num.to_ne_bytes(), op.op.to_ne_bytes(), op.flags.to_ne_bytes()];
    [a, b, c, d, e, f]
}

/// The bytes of a structure of integers.
fn bytes_of<T: Plain>(value: &T) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<T>()];
    // SAFETY: as many bytes as the structure has; its padding, if any, came from zeroed memory.
    unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(ptr::from_ref(value).cast(), size_of::<T>()) };
    bytes
}

fn zeroed<T: Plain>() -> T {
    // SAFETY: T is made of integers.
    unsafe { std::mem::zeroed() }
}

fn msg_set(set: &crate::Set) -> Vec<u8> {
    let mut value: libc::msqid_ds = zeroed();
    (value.msg_perm.uid, value.msg_perm.gid) = (set.uid, set.gid);
    value.msg_perm.mode = set.mode as _;
    value.msg_qbytes = set.qbytes;
    bytes_of(&value)
}

fn sem_set(set: &crate::Set) -> Vec<u8> {
    let mut value: libc::semid_ds = zeroed();
    (value.sem_perm.uid, value.sem_perm.gid) = (set.uid, set.gid);
    value.sem_perm.mode = set.mode as _;
    bytes_of(&value)
}

fn perm(perm: &libc::ipc_perm) -> Perm {
    Perm {
        key: perm.__key,
        uid: perm.uid,
        gid: perm.gid,
        cuid: perm.cuid,
        cgid: perm.cgid,
        mode: u32::from(perm.mode),
        seq: u32::from(perm.__seq),
    }
}

fn msg_stat(stat: &libc::msqid_ds) -> MsgStat {
    MsgStat {
        perm: perm(&stat.msg_perm),
        stime: stat.msg_stime,
        rtime: stat.msg_rtime,
        ctime: stat.msg_ctime,
        cbytes: stat.__msg_cbytes,
        qnum: stat.msg_qnum,
        qbytes: stat.msg_qbytes,
        lspid: stat.msg_lspid,
        lrpid: stat.msg_lrpid,
    }
}

fn msg_info(info: &libc::msginfo) -> MsgInfo {
    MsgInfo {
        msgpool: info.msgpool,
        msgmap: info.msgmap,
        msgmax: info.msgmax,
        msgmnb: info.msgmnb,
        msgmni: info.msgmni,
        msgssz: info.msgssz,
        msgtql: info.msgtql,
        msgseg: info.msgseg,
    }
}

fn sem_stat(stat: &libc::semid_ds) -> SemStat {
    SemStat {
        perm: perm(&stat.sem_perm),
        otime: stat.sem_otime,
        ctime: stat.sem_ctime,
        nsems: stat.sem_nsems,
    }
}

fn sem_info(info: &libc::seminfo) -> SemInfo {
    SemInfo {
        semmap: info.semmap,
        semmni: info.semmni,
        semmns: info.semmns,
        semmnu: info.semmnu,
        semmsl: info.semmsl,
        semopm: info.semopm,
        semume: info.semume,
        semusz: info.semusz,
        semvmx: info.semvmx,
        semaem: info.semaem,
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

/// The one place that knows how a limit of the running namespace is changed: on the kernel by the file, under
/// ours by the command (which answers no errno of its own: each failure is EINVAL).
fn write_sysctl(mode: Mode, name: &str, value: &str) -> Reply {
    if mode.kernel {
        return match fs::write(format!("/proc/sys/{}", name.replace('.', "/")), value) {
            Ok(()) => returned(0),
            Err(error) => failed(error.raw_os_error().unwrap_or(0)),
        };
    }
    let ipcspace = env::var_os("IPCSPACE_BIN").unwrap_or_else(|| "ipcspace".into());
    match Command::new(ipcspace).arg("sysctl").arg(format!("{name}={value}")).status() {
        Ok(status) if status.success() => returned(0),
        Ok(_) => failed(libc::EINVAL),
        Err(error) => failed(error.raw_os_error().unwrap_or(0)),
    }
}

const _: () = assert!(size_of::<libc::sembuf>() == 6);
