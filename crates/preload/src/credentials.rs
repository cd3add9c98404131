//! The calls that change credentials: passed on to libc, and then all threads look at theirs again.
//!
//! What users see: a process that gives the uid of its namespace's owner up for good is a stranger when the call returns.

use core::ffi::c_int;

use client::UserChange;

use crate::loader::Next;

#[expect(clippy::cast_possible_truncation, reason = "an int in a register")]
fn user(argument: usize) -> u32 {
    argument as u32
}

macro_rules! watched {
    ($($name:ident($($arg:ident),*) $(leaves by $change:expr)?;)*) => {
        $(
            /// libc's, watched for the credentials that it changes.
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($($arg: usize),*) -> c_int {
                const NAME: &core::ffi::CStr =
                    match core::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                        Ok(name) => name,
                        Err(_) => panic!("has its end"),
                    };
                static NEXT: Next = Next::new(NAME);
                // SAFETY: libc's function of that name, whose arguments are all integers or pointers.
                let real: extern "C" fn($($arg: usize),*) -> c_int = unsafe { core::mem::transmute(NEXT.get()) };
                let leaving: Option<client::Leaving> = None;
                $(let leaving = leaving.or_else(|| client::before_user_change($change));)?
                // Also before: who was asleep has the new ones when libc wakes it, which is before this returns.
                client::credentials_changed();
                let result = real($($arg),*);
                client::credentials_changed();
                drop(leaving);
                result
            }
        )*
    };
}

watched! {
    setuid(uid) leaves by UserChange::Setuid(user(uid));
    setgid(gid);
    seteuid(uid);
    setegid(gid);
    setreuid(ruid, euid) leaves by UserChange::Setreuid(user(ruid), user(euid));
    setregid(rgid, egid);
    setresuid(ruid, euid, suid) leaves by UserChange::Setresuid(user(ruid), user(euid), user(suid));
    setresgid(rgid, egid, sgid);
    setfsuid(uid);
    setfsgid(gid);
    setgroups(count, groups);
    initgroups(name, gid);
    capset(header, data);
}

/// A system call has been made by number: it may be one of those that change the thread's credentials.
pub(crate) fn note_raw(number: i64) {
    // setuid setgid, setreuid setregid, setgroups setresuid, setresgid, setfsuid setfsgid, capset
    if matches!(number, 105 | 106 | 113 | 114 | 116 | 117 | 119 | 122 | 123 | 126) {
        client::credentials_changed();
    }
}
