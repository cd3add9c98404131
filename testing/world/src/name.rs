//! Flags, commands and errors by their names.

use std::fmt::Write;

/// Those of the bits that have a name, by name, and the rest in octal.
fn bits(value: i32, names: &[(i32, &str)]) -> String {
    let (mut text, mut rest) = (String::new(), value);
    for &(bit, name) in names {
        if rest & bit != 0 {
            rest &= !bit;
            text.push_str(if text.is_empty() { "" } else { "|" });
            text.push_str(name);
        }
    }
    if rest != 0 || text.is_empty() {
        let bar = if text.is_empty() { "" } else { "|" };
        let zero = if rest == 0 { "" } else { "0" };
        write!(text, "{bar}{zero}{rest:o}").expect("a String takes everything");
    }
    text
}

pub(crate) fn get_flags(flags: i32) -> String {
    bits(flags, &[(libc::IPC_CREAT, "IPC_CREAT"), (libc::IPC_EXCL, "IPC_EXCL")])
}

pub(crate) fn open_flags(flags: i32) -> String {
    let mode = named(flags & libc::O_ACCMODE, &[(0, "O_RDONLY"), (1, "O_WRONLY"), (2, "O_RDWR")]);
    let names = [(libc::O_CREAT, "O_CREAT"), (libc::O_EXCL, "O_EXCL"), (libc::O_NONBLOCK, "O_NONBLOCK")];
    match flags & !libc::O_ACCMODE {
        0 => mode,
        rest => format!("{mode}|{}", bits(rest, &names)),
    }
}

pub(crate) fn msg_flags(flags: i32) -> String {
    let names = [
        (libc::IPC_NOWAIT, "IPC_NOWAIT"),
        (libc::MSG_NOERROR, "MSG_NOERROR"),
        (libc::MSG_EXCEPT, "MSG_EXCEPT"),
        (libc::MSG_COPY, "MSG_COPY"),
    ];
    bits(flags, &names)
}

pub(crate) fn sem_flags(flags: i16) -> String {
    bits(i32::from(flags), &[(libc::IPC_NOWAIT, "IPC_NOWAIT"), (libc::SEM_UNDO, "SEM_UNDO")])
}

fn named(value: i32, names: &[(i32, &str)]) -> String {
    match names.iter().find(|(number, _)| *number == value) {
        Some((_, name)) => (*name).to_owned(),
        None => value.to_string(),
    }
}

const COMMON: [(i32, &str); 4] = [
    (libc::IPC_RMID, "IPC_RMID"),
    (libc::IPC_SET, "IPC_SET"),
    (libc::IPC_STAT, "IPC_STAT"),
    (libc::IPC_INFO, "IPC_INFO"),
];

pub(crate) fn msg_cmd(cmd: i32) -> String {
    let own = [(libc::MSG_STAT, "MSG_STAT"), (libc::MSG_INFO, "MSG_INFO"), (MSG_STAT_ANY, "MSG_STAT_ANY")];
    named(cmd, &[&COMMON[..], &own].concat())
}

pub(crate) fn sem_cmd(cmd: i32) -> String {
    let own = [
        (libc::GETPID, "GETPID"),
        (libc::GETVAL, "GETVAL"),
        (libc::GETALL, "GETALL"),
        (libc::GETNCNT, "GETNCNT"),
        (libc::GETZCNT, "GETZCNT"),
        (libc::SETVAL, "SETVAL"),
        (libc::SETALL, "SETALL"),
        (libc::SEM_STAT, "SEM_STAT"),
        (libc::SEM_INFO, "SEM_INFO"),
        (SEM_STAT_ANY, "SEM_STAT_ANY"),
    ];
    named(cmd, &[&COMMON[..], &own].concat())
}

pub(crate) fn shmat_flags(flags: i32) -> String {
    let names = [
        (libc::SHM_RDONLY, "SHM_RDONLY"),
        (libc::SHM_RND, "SHM_RND"),
        (libc::SHM_REMAP, "SHM_REMAP"),
        (libc::SHM_EXEC, "SHM_EXEC"),
    ];
    bits(flags, &names)
}

pub(crate) fn shm_cmd(cmd: i32) -> String {
    let own = [
        (libc::SHM_LOCK, "SHM_LOCK"),
        (libc::SHM_UNLOCK, "SHM_UNLOCK"),
        (SHM_STAT, "SHM_STAT"),
        (SHM_INFO, "SHM_INFO"),
        (SHM_STAT_ANY, "SHM_STAT_ANY"),
    ];
    named(cmd, &[&COMMON[..], &own].concat())
}

/// `EINVAL` for 22.
pub(crate) fn errno(errno: i32) -> String {
    match nix::errno::Errno::from_raw(errno) {
        nix::errno::Errno::UnknownErrno => format!("errno {errno}"),
        known => format!("{known:?}"),
    }
}

/// Missing from the libc crate.
pub(crate) const SHM_STAT: i32 = 13;
/// Missing from the libc crate.
pub(crate) const SHM_INFO: i32 = 14;
/// Missing from the libc crate.
pub(crate) const SHM_STAT_ANY: i32 = 15;
/// Missing from the libc crate.
pub(crate) const MSG_STAT_ANY: i32 = 13;
/// Missing from the libc crate.
pub(crate) const SEM_STAT_ANY: i32 = 20;
