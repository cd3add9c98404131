//! The library for programs: its typed calls, and the C library's, on the same payloads as the plain rows.
//!
//! The worker behind the kernel uses the kernel's objects by the same types; that of ours makes a namespace of its own, beside the one that it was started in, or is in that one,
//! where it was started without the preload library. The C library is opened as a program's plugin would be: the Rust crate is in this program already.

use std::ffi::{CStr, c_int, c_long, c_void};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::{env, mem};

use ipcspace::{Key, Limit, MsgType, Namespace, Select};

use crate::Outcome;
use crate::clock::Clock;

/// The namespace of this worker.
fn place() -> Outcome<Namespace> {
    static PLACE: OnceLock<Namespace> = OnceLock::new();
    if let Some(place) = PLACE.get() {
        return Ok(*place);
    }
    let made = match whose() {
        Whose::Kernels => Namespace::kernel(),
        Whose::Run => Namespace::current()?,
        Whose::Own => Namespace::builder("").limit(Limit::MsgMnb, crate::door::MSGMNB.into()).create()?,
    };
    Ok(*PLACE.get_or_init(|| made))
}

/// Whose objects this worker uses.
enum Whose {
    /// The kernel's: nobody has started it but the bench itself.
    Kernels,
    /// Those of `ipcspace run`, without the preload library in the way.
    Run,
    /// Those of a namespace of its own.
    Own,
}

fn whose() -> Whose {
    // valgrind has libraries of its own there.
    let is_preloaded = env::var("LD_PRELOAD").is_ok_and(|libraries| libraries.contains("ipcspace"));
    match env::var_os("IPCSPACE_SOCKET") {
        None => Whose::Kernels,
        Some(_) if is_preloaded => Whose::Own,
        Some(_) => Whose::Run,
    }
}

pub(crate) fn msg_pair(clock: &mut Clock, size: usize) -> Outcome<()> {
    let queue = place()?.queue(Key::PRIVATE).open()?;
    let (text, mut got) = (vec![7; size], vec![0; size]);
    let done = clock.time(|| {
        queue.send(MsgType::FIRST, &text)?;
        let received = queue.recv(Select::Exactly(MsgType::FIRST), &mut got)?;
        if received.len == size { Ok(()) } else { Err("the message came in part".into()) }
    });
    queue.remove()?;
    done
}

pub(crate) fn sem_pair(clock: &mut Clock) -> Outcome<()> {
    let set = place()?.semaphores(1).initial(1).open()?;
    let done = clock.time(|| Ok(set.acquire(&[(0, 1)])?.release()?));
    set.remove()?;
    done
}

pub(crate) fn mq_pair(clock: &mut Clock, size: usize) -> Outcome<()> {
    let options = place()?.mqueue("/bench-api").size(8, size);
    let queue = options.clone().create_new(true).open()?;
    options.remove()?;
    let (text, mut got) = (vec![7; size], vec![0; size]);
    clock.time(|| {
        queue.send(&text, 1)?;
        let (len, _) = queue.recv(&mut got)?;
        if len == size { Ok(()) } else { Err("the message came in part".into()) }
    })
}

/// The calls of the C library that the row needs.
struct Library {
    msgget: extern "C" fn(c_int, c_int) -> c_int,
    msgsnd: extern "C" fn(c_int, *const c_void, usize, c_int) -> c_int,
    msgrcv: extern "C" fn(c_int, *mut c_void, usize, c_long, c_int) -> isize,
    msgctl: extern "C" fn(c_int, c_int, *mut c_void) -> c_int,
}

impl Library {
    fn open() -> Outcome<&'static Library> {
        static LIBRARY: OnceLock<Library> = OnceLock::new();
        if let Some(open) = LIBRARY.get() {
            return Ok(open);
        }
        let path = match env::var_os("IPCSPACE_LIBRARY") {
            Some(named) => PathBuf::from(named),
            None => env::current_exe()?.with_file_name("../library/libipcspace.so"),
        };
        let text = path.display();
        let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
        // SAFETY: a library of ours, which does nothing when it is opened.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            return Err(
                format!("{text} can't be opened: `cargo build --profile library -p libipcspace`").into()
            );
        }
        let symbol = |name: &CStr| -> Outcome<*mut c_void> {
            // SAFETY: an open library, and a terminated string.
            let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
            if found.is_null() { Err(format!("{text} has no {name:?}").into()) } else { Ok(found) }
        };
        let choice = match whose() {
            Whose::Kernels => c"ipcspace_kernel",
            Whose::Run => c"ipcspace_current",
            Whose::Own => c"ipcspace_private",
        };
        // SAFETY: each is the function of that name in ipcspace.h.
        let (choose, library) = unsafe {
            (
                mem::transmute::<*mut c_void, extern "C" fn() -> c_int>(symbol(choice)?),
                Library {
                    msgget: mem::transmute::<*mut c_void, extern "C" fn(c_int, c_int) -> c_int>(symbol(
                        c"ipcspace_msgget",
                    )?),
                    msgsnd: mem::transmute::<
                        *mut c_void,
                        extern "C" fn(c_int, *const c_void, usize, c_int) -> c_int,
                    >(symbol(c"ipcspace_msgsnd")?),
                    msgrcv: mem::transmute::<
                        *mut c_void,
                        extern "C" fn(c_int, *mut c_void, usize, c_long, c_int) -> isize,
                    >(symbol(c"ipcspace_msgrcv")?),
                    msgctl: mem::transmute::<*mut c_void, extern "C" fn(c_int, c_int, *mut c_void) -> c_int>(
                        symbol(c"ipcspace_msgctl")?,
                    ),
                },
            )
        };
        if choose() != 0 {
            return Err("the C library has no namespace".into());
        }
        Ok(LIBRARY.get_or_init(|| library))
    }
}

pub(crate) fn c_msg_pair(clock: &mut Clock, size: usize) -> Outcome<()> {
    let library = Library::open()?;
    let queue = (library.msgget)(libc::IPC_PRIVATE, 0o600);
    let mut message = vec![1 as c_long; 1 + size.div_ceil(size_of::<c_long>())];
    let done = clock.time(|| {
        let sent = (library.msgsnd)(queue, message.as_ptr().cast(), size, 0);
        let got = (library.msgrcv)(queue, message.as_mut_ptr().cast(), size, 1, 0);
        if sent == 0 && usize::try_from(got) == Ok(size) {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error().into())
        }
    });
    (library.msgctl)(queue, libc::IPC_RMID, std::ptr::null_mut());
    done
}
