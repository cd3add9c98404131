//! Getting behind the implementation under test.

use std::error::Error;
use std::ffi::CStr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs, io, mem};

use clap::ValueEnum;

/// Whose calls the clients make.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Door {
    /// The kernel's, in a private namespace of it
    Kernel,
    /// Ours, by way of `ipcspace run`
    Preload,
    /// Ours, and `ipcspace run` has already started this process
    #[value(hide = true)]
    Inside,
}

/// Returns in a process whose System V calls go where they should.
pub(crate) fn enter(door: Door) -> Result<(), Box<dyn Error>> {
    match door {
        Door::Kernel => enter_private_namespace(),
        Door::Preload => Err(start_again_under_ipcspace()?.into()),
        Door::Inside if implementation()?.contains("libc.so") => {
            Err("the calls go to libc: `ipcspace run` did not take them over".into())
        }
        Door::Inside => Ok(()),
    }
}

/// Replaces this process; returns only the error of having failed to.
fn start_again_under_ipcspace() -> Result<io::Error, Box<dyn Error>> {
    let program = ipcspace()?;
    let error = Command::new(&program)
        .args(["run", "--"])
        .arg(env::current_exe()?)
        .args(
            env::args_os()
                .skip(1)
                .filter(|arg| arg != "--door" && arg != "preload" && arg != "--door=preload"),
        )
        .args(["--door", "inside"])
        .exec();
    Ok(io::Error::new(error.kind(), format!("{}: {error}", program.display())))
}

/// The command under test: what `IPCSPACE_BIN` names, else the one beside this executable.
pub(crate) fn ipcspace() -> Result<PathBuf, Box<dyn Error>> {
    if let Some(named) = env::var_os("IPCSPACE_BIN") {
        return Ok(named.into());
    }
    let beside = env::current_exe()?.with_file_name("ipcspace");
    if beside.exists() {
        return Ok(beside);
    }
    Err(format!(
        "{} does not exist: build it with `cargo build --release -p cli`, or name another by IPCSPACE_BIN",
        beside.display()
    )
    .into())
}

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
    Ok(())
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
