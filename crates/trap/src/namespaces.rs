//! `unshare`, `setns`, `clone` and `clone3` with `CLONE_NEWIPC`, and descriptors of `/proc/PID/ns/ipc`.
//!
//! What users see: as with the library (`preload/src/namespaces.rs`): a process, which needs no right of the host for it, goes to a new namespace of ours, or
//! to that of another process; other flags of the same call are the kernel's, with its checks, and come first. A child of `clone` is elsewhere from its first
//! instruction on, whoever shares memory with it.
//! What is missing: one of several threads can't go (`EINVAL`), nor a child that is a thread; whoever the library serves, and makes the call without
//! libc, makes it of the kernel.
//!
//! Each is done by a thread of its own, as another broker is asked, and has to begin. The thread that asks is held ([`Held`]) where something has to be
//! done by itself: the rest of the flags, or a child, which stops before it executes anything. Where a process is from then on, [`Routes`] know. What it
//! executes finds the namespace by its environment, in which the new socket's name is written over the old one's, if there is room.
//!
//! # Safety
//! What is written to a process is memory of ours, valid for its length.

use std::ffi::OsStr;
use std::fs::{self, read_link};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use abi::{Errno, Result};
use client::CLONE_NEWIPC;
use client::wire::SOCKET_ENV;
use engine::options::IPC_NS;
use nix::unistd::geteuid;
use sys::net::{self, Fd};

use crate::files::read;
use crate::filter::{ARCH_32, Sign, Test};
use crate::notify::Notification;
use crate::process::{descriptor_of, pidfd_open};
use crate::room::{Trap, spawn};
use crate::routes::{Space, socket_of};
use crate::target::{CAP_SYS_ADMIN, Status, capabilities, user_namespace, write};
use crate::trace::{self, Held};

const CAP_SYS_PTRACE: u32 = 19;
const CLONE_VM: u64 = 0x100;
const CLONE_THREAD: u64 = 0x1_0000;
const CLONE_SYSVSEM: u64 = 0x4_0000;
const CLONE_UNTRACED: u64 = 0x80_0000;

/// `struct clone_args`, as far as it is known: what is beyond has to be zeros.
const CLONE_ARGS: usize = 88;

#[derive(Clone, Copy)]
enum Kind {
    Unshare,
    Setns,
    Clone,
    Clone3,
}

/// The calls, by their numbers of x86-64 and of i386.
const CALLS: [(Kind, u32, u32); 4] =
    [(Kind::Unshare, 272, 310), (Kind::Setns, 308, 346), (Kind::Clone, 56, 120), (Kind::Clone3, 435, 435)];

/// The numbers that are asked about, and what of their arguments wants it, if they say.
pub(crate) fn numbers(compat: bool) -> [(u32, &'static [Sign]); 4] {
    const FLAG: u32 = CLONE_NEWIPC as u32;
    const FIRST: &[Sign] = &[Sign { argument: 0, test: Test::HasBit, value: FLAG }];
    const KINDS: &[Sign] = &[
        Sign { argument: 1, test: Test::HasBit, value: FLAG },
        Sign { argument: 1, test: Test::Equals, value: 0 },
    ];
    CALLS.map(|(kind, native, of_32)| {
        let signs = match kind {
            Kind::Unshare | Kind::Clone => FIRST,
            Kind::Setns => KINDS,
            Kind::Clone3 => &[][..],
        };
        (if compat { of_32 } else { native }, signs)
    })
}

/// What a call comes to that is asked about.
pub(crate) enum Wish {
    /// None of ours.
    Kernels,
    Unshare {
        flags: u64,
    },
    Setns {
        fd: i32,
        kinds: u64,
    },
    Clone {
        flags: u64,
    },
    /// With its structure.
    Clone3 {
        structure: Vec<u8>,
    },
    /// A descriptor of a process's namespace, with these flags of `open`.
    Open {
        pid: u32,
        flags: i32,
    },
}

/// What the call is, if it is one of these.
pub(crate) fn wish(asked: &Notification) -> Option<Wish> {
    let is_32 = asked.data.arch == ARCH_32;
    let number = asked.data.nr.cast_unsigned();
    let is_it = |call: &&(Kind, u32, u32)| number == if is_32 { call.2 } else { call.1 };
    let [a, b, ..] = asked.data.args.map(|register| if is_32 { register & 0xffff_ffff } else { register });
    #[expect(clippy::cast_possible_truncation, reason = "ints in registers")]
    let wish = match CALLS.iter().find(is_it)?.0 {
        Kind::Unshare => Wish::Unshare { flags: a },
        Kind::Setns => Wish::Setns { fd: a as i32, kinds: b & u64::from(u32::MAX) },
        Kind::Clone => Wish::Clone { flags: a & u64::from(u32::MAX) },
        Kind::Clone3 => match structure(asked.pid, a, b) {
            Some(structure) if flags_of(&structure) & CLONE_NEWIPC != 0 => Wish::Clone3 { structure },
            _ => Wish::Kernels,
        },
    };
    Some(wish)
}

/// `struct clone_args`, if that is what is there.
fn structure(tid: u32, at: u64, size: u64) -> Option<Vec<u8>> {
    // The first and the last there can be: a page.
    const SIZES: std::ops::RangeInclusive<u64> = 64..=4096;
    let mut structure = vec![0; usize::try_from(SIZES.contains(&size).then_some(size)?).ok()?];
    (read(tid, at, &mut structure) == Some(structure.len())).then_some(structure)
}

/// Its first field.
fn flags_of(structure: &[u8]) -> u64 {
    structure.first_chunk().map_or(0, |field| u64::from_ne_bytes(*field))
}

/// Sees to it in a thread of its own.
pub(crate) fn grant(trap: &Arc<Trap>, asked: Notification, wish: Wish) {
    let own = Arc::clone(trap);
    let begun = spawn("trap-namespace", move || {
        grant_here(&own, &asked, wish);
        trace::see_to_all_late();
        client::end_thread();
    });
    if begun.is_err() {
        trap.listener.answer(asked.id, Err(libc::ENOMEM));
    }
}

fn grant_here(trap: &Trap, asked: &Notification, wish: Wish) {
    let Notification { id, pid: tid, .. } = *asked;
    if let Wish::Open { pid, flags } = wish {
        match space_of_process(trap, tid, pid) {
            Ok(space) => trap.listener.answer_with(id, &space.kept, flags & libc::O_CLOEXEC != 0),
            // The kernel's, which is there in any case.
            Err(_) => trap.listener.pass(id),
        }
        return;
    }
    let going = Going { trap, asked, tid, compat: asked.data.arch == ARCH_32 };
    let done = match wish {
        Wish::Unshare { .. } | Wish::Clone { .. } | Wish::Clone3 { .. } if is_librarys(tid) => Ok(false),
        Wish::Unshare { flags } => going.unshare(flags),
        Wish::Setns { fd, kinds } => going.setns(fd, kinds),
        Wish::Clone { flags } => going.clone(flags, None),
        Wish::Clone3 { structure } => going.clone(flags_of(&structure), Some(structure)),
        Wish::Kernels | Wish::Open { .. } => Ok(false),
    };
    match done {
        Ok(true) => {}
        Ok(false) => trap.listener.pass(id),
        // Who has ended meanwhile does not mind.
        Err(error) => drop(trap.listener.answer(id, Err(error.raw()))),
    }
}

/// The namespace that a process is in, if a thread may know.
fn space_of_process(trap: &Trap, tid: u32, pid: u32) -> Result<Space> {
    if may_look_into(tid, pid)? { trap.routes.space_of_process(pid) } else { Err(Errno::EACCES) }
}

/// Whether a thread may look into a process, as the kernel's check `PTRACE_MODE_READ` has it: where user namespaces lie in each other below ours, only within one.
fn may_look_into(tid: u32, pid: u32) -> Result<bool> {
    let (own, other) = (Status::of(tid)?, Status::of(pid)?);
    if own.number("Tgid") == other.number("Tgid") {
        return Ok(true);
    }
    let (own_ns, other_ns) = (user_namespace(&tid.to_string()), user_namespace(&pid.to_string()));
    let is_same_ns = own_ns.is_some() && own_ns == other_ns;
    let is_outer = is_same_ns || own_ns == user_namespace("self");
    if is_outer && own.set("CapEff") >> CAP_SYS_PTRACE & 1 != 0 {
        return Ok(true);
    }
    let is_of = |ids: &str| {
        let fsid = own.numbers(ids).nth(3);
        other.numbers(ids).take(3).all(|id| Some(id) == fsid)
    };
    // Root's, where it hides itself.
    let is_open = || fs::metadata(format!("/proc/{pid}")).ok().map(|meta| meta.uid());
    let has_more = is_same_ns && other.set("CapPrm") & !own.set("CapPrm") != 0;
    Ok(is_outer && is_of("Uid") && is_of("Gid") && is_open() == own.numbers("Uid").nth(3) && !has_more)
}

/// Whether a broker that is no ancestor of a process can reach its memory: not where Yama restricts tracing to descendants.
fn may_reach_all() -> bool {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    scope.map_or(true, |scope| scope.trim() == "0") || sys::capabilities() >> CAP_SYS_PTRACE & 1 != 0
}

/// Whether the process has the library, which has attached it to a namespace.
fn is_librarys(tid: u32) -> bool {
    fs::read_to_string(format!("/proc/{tid}/maps")).is_ok_and(|maps| maps.contains("/libipcspace_preload.so"))
}

/// Somebody who asks.
struct Going<'t> {
    trap: &'t Trap,
    asked: &'t Notification,
    tid: u32,
    compat: bool,
}

impl Going<'_> {
    /// Whether the call is answered; else it is the kernel's.
    fn unshare(&self, flags: u64) -> Result<bool> {
        let tgid = self.check(true)?;
        let space = self.trap.routes.new_space(self.tid)?;
        let rest = flags & !CLONE_NEWIPC;
        self.go(tgid, space, (rest != 0).then_some(|held: &mut Held| held.unshare(rest)))
    }

    fn setns(&self, fd: i32, kinds: u64) -> Result<bool> {
        let Some((space, is_pidfd)) = self.space_of_descriptor(fd, kinds)? else { return Ok(false) };
        if is_librarys(self.tid) {
            return Ok(false);
        }
        let tgid = self.check(true)?;
        let rest = kinds & !CLONE_NEWIPC;
        if rest != 0 && !is_pidfd {
            return Err(Errno::EINVAL);
        }
        self.go(tgid, space, (rest != 0).then_some(|held: &mut Held| held.setns(fd, rest)))
    }

    fn clone(&self, flags: u64, structure: Option<Vec<u8>>) -> Result<bool> {
        if !IPC_NS || flags & (CLONE_SYSVSEM | CLONE_THREAD) != 0 {
            return Err(Errno::EINVAL);
        }
        if structure
            .as_ref()
            .and_then(|all| all.get(CLONE_ARGS..))
            .is_some_and(|rest| rest.iter().any(|byte| *byte != 0))
        {
            return Err(Errno::E2BIG);
        }
        let parent = self.check(false)?;
        let space = self.trap.routes.new_space(self.tid)?;
        let number = u64::from(self.asked.data.nr.cast_unsigned());
        let [_, second, ..] = self.asked.data.args;
        // Who is not to be traced can't be held.
        let flags = flags & !(CLONE_NEWIPC | CLONE_UNTRACED);
        let held = self.hold()?;
        let instead = match structure {
            None => [flags, second],
            Some(mut structure) => {
                // There may be little room below the stack's end.
                structure.truncate(CLONE_ARGS);
                structure[..size_of::<u64>()].copy_from_slice(&flags.to_ne_bytes());
                let at = held.room(structure.len() as u64);
                if write(self.tid, at, &structure).is_err() {
                    held.release(Err(libc::ENOMEM));
                    return Ok(true);
                }
                [at, structure.len() as u64]
            }
        };
        held.release_cloning(number, instead, |child, is_there| {
            let has_own_memory = flags & CLONE_VM == 0;
            self.trap.routes.enter(child, parent, space, has_own_memory.then_some(is_there));
        });
        Ok(true)
    }

    /// The namespace that a descriptor stands for, and whether it is a process's.
    fn space_of_descriptor(&self, fd: i32, kinds: u64) -> Result<Option<(Space, bool)>> {
        let tid = self.tid;
        // The kernel says what is wrong with it.
        let Ok(link) = read_link(format!("/proc/{tid}/fd/{fd}")) else { return Ok(None) };
        if link.as_os_str().as_bytes().starts_with(b"socket:") {
            let process = Status::of(tid)?.number("Tgid").ok_or(Errno::ESRCH)?;
            let socket = pidfd_open(process).and_then(|pidfd| descriptor_of(&pidfd, fd))?;
            return Ok(self
                .trap
                .routes
                .space_of_socket(Fd::new(leak(socket)))
                .ok()
                .map(|space| (space, false)));
        }
        if kinds & CLONE_NEWIPC == 0 {
            return Ok(None);
        }
        let info = fs::read_to_string(format!("/proc/{tid}/fdinfo/{fd}")).unwrap_or_default();
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
        let space = pid.and_then(|pid| space_of_process(self.trap, tid, pid).ok());
        Ok(space.map(|space| (space, true)))
    }

    /// The process, if it may go: `EPERM`; and can, if that is what it wants: `EINVAL`.
    fn check(&self, whole: bool) -> Result<u32> {
        if !IPC_NS {
            return Err(Errno::EINVAL);
        }
        let status = Status::of(self.tid)?;
        let is_owner = status.numbers("Uid").nth(1) == Some(geteuid().as_raw());
        if !is_owner && capabilities(self.tid) >> CAP_SYS_ADMIN & 1 == 0 {
            return Err(Errno::EPERM);
        }
        if !may_reach_all() {
            return Err(Errno::EPERM);
        }
        if whole && status.number("Threads") != Some(1) {
            return Err(Errno::EINVAL);
        }
        let tgid = status.number("Tgid").ok_or(Errno::ESRCH)?;
        // That was about who still waits.
        if self.trap.listener.is_valid(self.asked.id) { Ok(tgid) } else { Err(Errno::ESRCH) }
    }

    fn hold(&self) -> Result<Held> {
        // What it is to do may take its time, and nobody else waits for us.
        Held::catch(&self.trap.listener, self.asked.id, self.tid, self.compat, None, || Ok(()))
            .map(|(held, ())| held)
    }

    /// Takes a process to a namespace, after the kernel's part.
    fn go(
        &self,
        tgid: u32,
        space: Space,
        kernels: Option<impl FnOnce(&mut Held) -> Result<()>>,
    ) -> Result<bool> {
        let held = match kernels {
            None => None,
            Some(act) => {
                let mut held = self.hold()?;
                if let Err(error) = act(&mut held) {
                    held.release(Err(error.raw()));
                    return Ok(true);
                }
                Some(held)
            }
        };
        self.trap.leave(tgid, &self.trap.routes.way(self.tid));
        let is_there =
            || held.as_ref().map_or_else(|| self.trap.listener.is_valid(self.asked.id), Held::is_there);
        self.trap.routes.enter(tgid, tgid, space, Some(&is_there));
        match held {
            Some(held) => held.release(Ok(0)),
            None => drop(self.trap.listener.answer(self.asked.id, Ok(0))),
        }
        Ok(true)
    }
}

fn leak(fd: std::os::fd::OwnedFd) -> i32 {
    use std::os::fd::IntoRawFd;
    fd.into_raw_fd()
}

/// Where a process that asked has its environment, and what that is.
fn environment(pid: u32) -> Option<(u64, Vec<u8>)> {
    const FIELD: usize = 47;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let start = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(FIELD)?.parse().ok()?;
    Some((start, fs::read(format!("/proc/{pid}/environ")).ok()?))
}

/// Names another socket in a process's environment, where that leads the programs that it executes; unless there is no room, or the memory is its
/// parent's as well, or whose it is can't be known.
pub(crate) fn rename(pid: u32, socket: &Path, is_there: &dyn Fn() -> bool) {
    let Some((start, environment)) = environment(pid) else { return };
    let mut at = 0;
    let found = environment.split(|byte| *byte == 0).find_map(|variable| {
        let from = at;
        at += variable.len() + 1;
        let value = variable.strip_prefix(SOCKET_ENV.as_bytes())?.strip_prefix(b"=")?;
        Some((start + (from + variable.len() - value.len()) as u64, value))
    });
    let Some((to, old)) = found else { return };
    let mut new = socket.as_os_str().as_bytes().to_vec();
    if new.len() > old.len() {
        return;
    }
    new.resize(old.len(), 0);
    // Its number, or what was its memory, may be another's if it has ended.
    let put = |bytes: &[u8]| is_there() && write(pid, to, bytes).is_ok();
    let Some(parent) = Status::of(pid).ok().and_then(|status| status.number("PPid")) else { return };
    let named = || socket_of(parent);
    if fs::read(format!("/proc/{parent}/environ")).is_err() {
        return;
    }
    let before = named();
    if put(&new) && before.as_deref() == Some(Path::new(OsStr::from_bytes(old))) && named() != before {
        put(old);
    }
}

/// What a descriptor's path says of whose namespace it is of: `/proc/PID/ns/ipc`, or that of a thread's.
pub(crate) fn pid_in(path: &[u8]) -> Option<u32> {
    let mut parts = path.strip_prefix(b"/proc/")?.strip_suffix(b"/ns/ipc")?.split(|byte| *byte == b'/');
    std::str::from_utf8(parts.next()?).ok()?.parse().ok()
}

/// A connection to a namespace's broker: where that is asked.
pub(crate) fn path_of(connection: &Fd) -> Option<std::path::PathBuf> {
    let mut room = [0; 108];
    let path = net::peer_path(connection.raw(), &mut room)?;
    Some(OsStr::from_bytes(path).into())
}
