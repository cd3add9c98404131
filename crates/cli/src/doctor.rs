//! `ipcspace doctor`: what works on this machine, and why not.
//!
//! What can be tried is tried: above all a command in a new namespace, which has to see that namespace's limits and not the kernel's.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::{env, fs};

use broker::sysv::Objects;
use clap::Args;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use serde::Serialize;

use crate::{library, program};

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Use the JSON output format
    #[arg(short = 'J', long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// Works, or is nothing that `run` needs; to be known all the same.
    Note,
    No,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    text: String,
}

/// What a check comes to.
type Found = (State, String);

type Look = fn() -> Found;

fn ok(text: impl Into<String>) -> Found {
    (State::Ok, text.into())
}

fn note(text: impl Into<String>) -> Found {
    (State::Note, text.into())
}

fn no(text: impl Into<String>) -> Found {
    (State::No, text.into())
}

/// In the order in which one explains the next; the last one is what it is all about.
const CHECKS: [(&str, Look); 14] = [
    ("kernel", kernel),
    ("library", library),
    ("memory", memory),
    ("processes", processes),
    ("files", files),
    ("tracing", tracing),
    ("huge pages", huge_pages),
    ("locked memory", locked_memory),
    ("address space", address_space),
    ("descriptors", descriptors),
    ("kernel's IPC", kernels_ipc),
    ("views", views),
    ("trap", trap),
    ("run", run),
];

pub(crate) fn doctor(doctor: &Doctor) -> ExitCode {
    let checks: Vec<Check> = CHECKS
        .iter()
        .map(|&(name, look)| {
            let (state, text) = look();
            Check { name, state, text }
        })
        .collect();
    let works = checks.last().is_some_and(|run| run.state == State::Ok);
    let text = if doctor.json {
        format!("{:#}\n", serde_json::json!({ "works": works, "checks": checks }))
    } else {
        checks.iter().map(line).collect()
    };
    // Whoever reads may have had enough.
    let _ = io::stdout().write_all(text.as_bytes());
    if works { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn line(check: &Check) -> String {
    let state = match check.state {
        State::Ok => "ok",
        State::Note => "note",
        State::No => "no",
    };
    format!("{state:<4}  {:<13}  {}\n", check.name, check.text)
}

fn kernel() -> Found {
    const OLDEST: (u32, u32) = (5, 10);
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST => {
            no(format!("Linux {release} is too old: 5.10 is needed"))
        }
        _ => ok(format!("Linux {release}")),
    }
}

/// What `mount` and `run --mount` need.
fn views() -> Found {
    match views::ways() {
        Ok(views::Ways { by_itself: true, .. }) => ok("mount and run --mount work, by /dev/fuse"),
        Ok(views::Ways { helper: true, .. }) => {
            ok("mount works by fusermount3, run --mount in a user namespace")
        }
        Ok(_) => note(format!(
            "run --mount works in a user namespace, mount does not: {}",
            views::Failure::NoHelper
        )),
        Err(failure) => note(format!("mount and run --mount do not work: {failure}")),
    }
}

/// Where the preload library lies, and who can load it from there.
fn library() -> Found {
    let path = match library::install() {
        Ok(path) => path,
        Err(error) => return no(error.to_string()),
    };
    let closed = path.ancestors().skip(1).find(|directory| {
        const OTHERS_MAY_PASS: u32 = 0o001;
        fs::metadata(directory).is_ok_and(|found| found.mode() & OTHERS_MAY_PASS == 0)
    });
    match closed {
        Some(directory) => note(format!(
            "{}; other users can't load it, as {} is closed to them: nor can a process that becomes one",
            path.display(),
            directory.display()
        )),
        None => ok(path.display().to_string()),
    }
}

/// A namespace and its segments are sealed memory files.
fn memory() -> Found {
    let sealed =
        memfd_create("ipcspace-doctor", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).and_then(|file| {
            ftruncate(&file, 4096)?;
            fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)
        });
    if let Err(error) = sealed {
        return no(format!("no memory file can be made and sealed: {error}"));
    }
    match number("/proc/sys/vm/overcommit_memory") {
        Some(2) => note(
            "vm.overcommit_memory is 2: a segment can be made for which no memory is left; touching it is SIGBUS then",
        ),
        _ => ok("memory files can be made and sealed"),
    }
}

/// The broker learns of deaths by pidfds.
fn processes() -> Found {
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => ok("their end can be watched"),
        Err(error) => no(format!("their end can't be watched (pidfd_open): {error}")),
    }
}

/// Attachments are counted in /proc/PID/maps.
fn files() -> Found {
    for path in ["/proc/self/maps", "/dev/null"] {
        if let Err(error) = fs::File::open(path) {
            return no(format!("{path}: {error}"));
        }
    }
    ok("/proc and /dev/null are there")
}

/// Whether a process that was stopped while it held a lock can be let run until it has released it.
fn tracing() -> Found {
    let stuck = "if a process is stopped (Ctrl-Z) in the middle of a call, others may wait until it goes on";
    match number("/proc/sys/kernel/yama/ptrace_scope") {
        Some(3) => note(format!("forbidden by kernel.yama.ptrace_scope=3: {stuck}")),
        Some(2) if !nix::unistd::geteuid().is_root() => {
            note(format!("for root alone, by kernel.yama.ptrace_scope=2: {stuck}"))
        }
        Some(1) if !nix::unistd::geteuid().is_root() => ok(
            "of descendants alone, by kernel.yama.ptrace_scope=1: with `run -n`, those of another `run` are not helped on when they are stopped in a call",
        ),
        _ => ok("allowed"),
    }
}

fn huge_pages() -> Found {
    let sizes = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let free: Vec<String> = sizes
        .filter_map(|size| {
            let count = number(size.path().join("free_hugepages")).filter(|&count| count > 0)?;
            let name = size.file_name().into_string().ok()?;
            Some(format!("{count} of {}", name.strip_prefix("hugepages-")?))
        })
        .collect();
    if free.is_empty() { note("none free: SHM_HUGETLB is ENOMEM") } else { ok(free.join(", ")) }
}

/// The soft limit; none if there is none.
fn limit(resource: Resource) -> Option<u64> {
    getrlimit(resource).ok().map(|(soft, _)| soft).filter(|&soft| soft != RLIM_INFINITY)
}

fn locked_memory() -> Found {
    match limit(Resource::RLIMIT_MEMLOCK) {
        None => ok("no limit for SHM_LOCK"),
        Some(0) => note("ulimit -l is 0: SHM_LOCK is EPERM without CAP_IPC_LOCK"),
        Some(bytes) => ok(format!("SHM_LOCK up to {} KiB without CAP_IPC_LOCK", bytes / 1024)),
    }
}

fn address_space() -> Found {
    match limit(Resource::RLIMIT_AS) {
        None => ok("no limit"),
        Some(bytes) => note(format!(
            "ulimit -v is {} KiB: a program needs some 2 MiB of it for the namespace, and more with its objects, or gets ENOMEM",
            bytes / 1024
        )),
    }
}

fn descriptors() -> Found {
    const FEW: u64 = 64;
    // The broker has as many as it may.
    match getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(_, hard)| hard).filter(|&hard| hard != RLIM_INFINITY)
    {
        Some(count) if count < FEW => note(format!(
            "ulimit -Hn is {count}: the broker needs one for each process and each segment of the namespace"
        )),
        Some(count) => ok(format!("{count}")),
        None => ok("no limit"),
    }
}

/// What the others use: setuid programs, and where there is no trap static and 32-bit ones, and those that make system calls without libc.
fn kernels_ipc() -> Found {
    if env::var_os("IPCSPACE_SOCKET").is_some() {
        return note("can't be looked at from within a namespace of ipcspace");
    }
    match Objects::OfKernel.limits() {
        Ok(_) => ok(
            "there, for programs that are not served: setuid ones, and without a trap static and 32-bit ones",
        ),
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            note("not there: programs that are not served (setuid; without a trap static, 32-bit) have none")
        }
        Err(error) => note(format!(
            "refused to programs that are not served (setuid; without a trap static, 32-bit): {error}"
        )),
    }
}

/// The same without the library.
fn trap() -> Found {
    match run_by("trap") {
        (State::Ok, _) => ok("static and 32-bit programs, and system calls made without libc, are served"),
        (_, why) => note(format!("static and 32-bit programs use the kernel's IPC: {why}")),
    }
}

/// A shell in a new namespace reads a limit of it.
fn run() -> Found {
    run_by("auto")
}

fn run_by(door: &str) -> Found {
    const VALUE: &str = "4321";
    let shell = match program::unserved("sh".as_ref()) {
        Some((path, why)) => {
            return no(format!("{} {}: nothing here to try it with", path.display(), why.reason()));
        }
        None => "sh",
    };
    let itself = match env::current_exe() {
        Ok(itself) => itself,
        Err(error) => return no(format!("this program doesn't find itself: {error}")),
    };
    let mut command = Command::new(itself);
    command.args(["run", "--door", door, "--sysctl", &format!("kernel.msgmax={VALUE}"), "--", shell, "-c"]);
    command.arg("read value </proc/sys/kernel/msgmax && echo $value");
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return no(format!("this program can't be started: {error}")),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().strip_prefix("ipcspace: ").unwrap_or(said.trim());
    match String::from_utf8_lossy(&output.stdout).trim() {
        VALUE => ok("a command in a new namespace is served"),
        "" if said.is_empty() => no(format!("a command in a new namespace failed: {}", output.status)),
        "" => no(said.to_owned()),
        _ => no(format!(
            "a command in a new namespace used the kernel's IPC: the library was not loaded. {said}"
        )
        .trim_end()),
    }
}

fn number(path: impl AsRef<Path>) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
