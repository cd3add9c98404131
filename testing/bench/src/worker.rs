//! The measuring process: reads commands and answers them, as [`crate::door`] says.

use std::error::Error;
use std::ffi::CStr;
use std::io::{self, BufRead, Write};
use std::{fs, mem};

use crate::Door;
use crate::clock::Clock;
use crate::cpus::{self, Cpus};
use crate::door::{EACH, MQ_MESSAGES, MSGMNB};
use crate::rows;

/// Serves rows until the standard input ends.
pub(crate) fn serve(door: Door) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    let cpus = match prepare(door) {
        Ok(cpus) => cpus,
        Err(error) => {
            writeln!(out, "error {error}")?;
            return Ok(());
        }
    };
    writeln!(out, "ok calls go to {}; {cpus}", implementation()?)?;
    for line in io::stdin().lock().lines() {
        match sample(&line?, &cpus) {
            Ok(answer) => writeln!(out, "ok {answer}")?,
            Err(error) => writeln!(out, "error {error}")?,
        }
        out.flush()?;
    }
    Ok(())
}

fn prepare(door: Door) -> Result<Cpus, Box<dyn Error>> {
    match door {
        Door::Kernel => enter_private_namespace()?,
        Door::Preload if implementation()?.contains("libc.so") => {
            return Err("the calls go to libc: `ipcspace run` did not take them over".into());
        }
        Door::Preload | Door::Trap => {}
    }
    let cpus = Cpus::allowed()?;
    cpus::pin(cpus.own)?;
    Ok(cpus)
}

fn sample(line: &str, cpus: &Cpus) -> Result<String, Box<dyn Error>> {
    let mut words = line.split(' ');
    let (row, iterations) = words.next().zip(words.next()).ok_or("a command is ROW ITERATIONS")?;
    let mut clock = Clock::new(iterations.parse()?, words.next() == Some(EACH));
    rows::run(row, &mut clock, cpus)?;
    Ok(match clock.histogram() {
        Some(histogram) => histogram.line(),
        None => format!("{} {}", clock.elapsed().as_nanos(), clock.cost().as_nanos()),
    })
}

/// A namespace of the kernel with nothing of the host in it, and limits that let every row run.
fn enter_private_namespace() -> Result<(), Box<dyn Error>> {
    // SAFETY: the call has no arguments and no effect.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let flags = if uid == 0 { libc::CLONE_NEWIPC } else { libc::CLONE_NEWIPC | libc::CLONE_NEWUSER };
    // SAFETY: only flags are passed; this process has one thread.
    if unsafe { libc::unshare(flags) } != 0 {
        return Err(format!("a private IPC namespace: {}", io::Error::last_os_error()).into());
    }
    if uid != 0 {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    let limits = [("kernel/msgmnb", MSGMNB), ("fs/mqueue/msg_max", MQ_MESSAGES)];
    limits.into_iter().try_for_each(|(limit, value)| {
        fs::write(format!("/proc/sys/{limit}"), value.to_string())
            .map_err(|error| format!("raising the namespace's {limit}: {error}").into())
    })
}

/// The file that the symbol `msgsnd` comes from.
fn implementation() -> Result<String, Box<dyn Error>> {
    // SAFETY: all-zero is a valid Dl_info: null pointers.
    let mut info: libc::Dl_info = unsafe { mem::zeroed() };
    // SAFETY: `info` is writable; any address may be asked for.
    let found = unsafe { libc::dladdr(libc::msgsnd as *const libc::c_void, &mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return Err("the dynamic linker does not know where msgsnd comes from".into());
    }
    // SAFETY: dladdr succeeded, so this is a string that lives as long as the library.
    Ok(unsafe { CStr::from_ptr(info.dli_fname) }.to_string_lossy().into_owned())
}
