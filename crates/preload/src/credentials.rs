//! The calls that change credentials: passed on to libc, and then all threads look at theirs again.

use core::ffi::{c_char, c_int, c_void};

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// libc's own symbol behind ours; none if it has none.
fn next(name: &core::ffi::CStr) -> Option<*mut c_void> {
    // SAFETY: RTLD_NEXT (-1) and a terminated name.
    let symbol = unsafe { dlsym(usize::MAX as *mut c_void, name.as_ptr()) };
    (!symbol.is_null()).then_some(symbol)
}

macro_rules! watched {
    ($($name:ident($($arg:ident),*);)*) => {
        $(
            /// libc's, watched for the credentials that it changes.
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($($arg: usize),*) -> c_int {
                const NAME: &core::ffi::CStr =
                    match core::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                        Ok(name) => name,
                        Err(_) => panic!("has its end"),
                    };
                let Some(symbol) = next(NAME) else {
                    return crate::finish_int(Err(abi::Errno::ENOSYS));
                };
                // SAFETY: libc's function of that name, whose arguments are all integers or pointers.
                let real: extern "C" fn($($arg: usize),*) -> c_int = unsafe { core::mem::transmute(symbol) };
                let result = real($($arg),*);
                client::credentials_changed();
                result
            }
        )*
    };
}

watched! {
    setuid(uid);
    setgid(gid);
    seteuid(uid);
    setegid(gid);
    setreuid(ruid, euid);
    setregid(rgid, egid);
    setresuid(ruid, euid, suid);
    setresgid(rgid, egid, sgid);
    setfsuid(uid);
    setfsgid(gid);
    setgroups(count, groups);
    initgroups(name, gid);
    capset(header, data);
}
