//! The symbols of libc that open, write, flush, close and copy.
//!
//! Each jumps to libc's function with the arguments it was called with: behind it, if there is something to be done then; in front of it
//! otherwise, so that libc's is cancelled and unwound as if nothing were between. `write` and `close` cost a compare more than libc's.
//!
//! # Safety
//! Each has the signature of libc's, of which no more is passed on than there is: registers as they were.

use core::{
    arch::naked_asm,
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use abi::Errno;
use client::{
    files::{File, Source as _},
    mqd::{self, Polling},
};

use crate::{loader::Next, namespaces};

use super::{
    Own, find_refused, identify, open_refused,
    path::{self, may_be_ours},
    queue, queues, replace, replace_by, stream, write,
};

unsafe extern "C" {
    fn fdopen(fd: c_int, mode: *const c_char) -> *mut c_void;
}

/// `name` calls libc's, then `behind` with the result and the first three arguments, whose result is the call's. `before`, if there is one,
/// says by the first two what libc is to be given as the first one, of three at most. `instead`, if there is one, names by the first three a function that the
/// whole call goes to, or none.
macro_rules! behind {
    ($($name:ident = $new:ident($libc:literal), $next:ident, $behind:path $(, before $before:ident)? $(, instead $instead:path)?;)*) => {
        fn find_behind() {
            $($next.find();)*
        }
    $(
        static $next: Next = Next::$new($libc);

        /// libc's, and what was opened is looked at.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            extern "C" fn find() -> usize {
                $next.find()
            }
            naked_asm!(
                ".cfi_startproc",
                "endbr64",
                $(
                    "push rdi",
                    "push rsi",
                    "push rdx",
                    "push rcx",
                    "sub rsp, 8",
                    ".cfi_adjust_cfa_offset 40",
                    concat!("call {instead} # ", stringify!($instead)),
                    "add rsp, 8",
                    "pop rcx",
                    "pop rdx",
                    "pop rsi",
                    "pop rdi",
                    ".cfi_adjust_cfa_offset -40",
                    "test rax, rax",
                    "jz 3f",
                    "jmp rax",
                    "3:",
                )?
                "push rdi",
                ".cfi_adjust_cfa_offset 8",
                "push rsi",
                ".cfi_adjust_cfa_offset 8",
                // The stack is aligned after this one.
                "push rdx",
                ".cfi_adjust_cfa_offset 8",
                "mov rax, [rip + {next} + {address}]",
                "test rax, rax",
                "jnz 2f",
                "push rcx",
                ".cfi_adjust_cfa_offset 8",
                "push r8",
                ".cfi_adjust_cfa_offset 8",
                "call {find}",
                "pop r8",
                ".cfi_adjust_cfa_offset -8",
                "pop rcx",
                ".cfi_adjust_cfa_offset -8",
                "mov rdx, [rsp]",
                "mov rsi, [rsp + 8]",
                "mov rdi, [rsp + 16]",
                "2:",
                $(
                    "push rax",
                    ".cfi_adjust_cfa_offset 8",
                    "sub rsp, 8",
                    ".cfi_adjust_cfa_offset 8",
                    concat!("call {before} # ", stringify!($before)),
                    "mov rdi, rax",
                    "add rsp, 8",
                    ".cfi_adjust_cfa_offset -8",
                    "pop rax",
                    ".cfi_adjust_cfa_offset -8",
                    "mov rdx, [rsp]",
                    "mov rsi, [rsp + 8]",
                )?
                "call rax",
                "pop rcx",
                ".cfi_adjust_cfa_offset -8",
                "pop rdx",
                ".cfi_adjust_cfa_offset -8",
                "pop rsi",
                ".cfi_adjust_cfa_offset -8",
                "mov rdi, rax",
                "jmp {behind}",
                ".cfi_endproc",
                next = sym $next,
                address = const Next::ADDRESS,
                find = sym find,
                $(before = sym $before,)?
                $(instead = sym $instead,)?
                behind = sym $behind,
            )
        }
    )* };
}

behind! {
    open = new(c"open"), OPEN, opened, instead queues::before_open;
    open64 = new(c"open64"), OPEN64, opened, instead queues::before_open;
    __open_2 = new(c"__open_2"), OPEN_2, opened;
    __open64_2 = new(c"__open64_2"), OPEN64_2, opened;
    openat = new(c"openat"), OPENAT, opened_at, instead queues::before_openat_call;
    openat64 = new(c"openat64"), OPENAT64, opened_at, instead queues::before_openat_call;
    __openat_2 = new(c"__openat_2"), OPENAT_2, opened_at;
    __openat64_2 = new(c"__openat64_2"), OPENAT64_2, opened_at;
    creat = new(c"creat"), CREAT, created, instead queues::before_creat;
    creat64 = new(c"creat64"), CREAT64, created, instead queues::before_creat;
    fopen = pointer(c"fopen"), FOPEN, stream_opened, instead queues::before_fopen;
    fopen64 = pointer(c"fopen64"), FOPEN64, stream_opened, instead queues::before_fopen;
    freopen = pointer(c"freopen"), FREOPEN, stream_reopened, before path_to_reopen;
    freopen64 = pointer(c"freopen64"), FREOPEN64, stream_reopened, before path_to_reopen;
    access = new(c"access"), ACCESS, accessed;
    euidaccess = new(c"euidaccess"), EUIDACCESS, accessed;
    eaccess = new(c"eaccess"), EACCESS, accessed;
    faccessat = new(c"faccessat"), FACCESSAT, accessed_at;
    opendir = pointer(c"opendir"), OPENDIR, queues::directory_opened;
    recvmsg = new(c"recvmsg"), RECVMSG, queue::received;
}

/// `name` asks `choose` which function to jump to.
macro_rules! in_front {
    ($($name:ident = $libc:literal, $next:ident, $choose:path;)*) => {
        fn find_in_front() {
            $($next.find();)*
        }
    $(
        static $next: Next = Next::new($libc);

        /// libc's, but for descriptors of ours.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            extern "C" fn choose(first: usize, second: usize) -> usize {
                $choose(first, second).unwrap_or_else(|| $next.get())
            }
            naked_asm!(
                "endbr64",
                "push rdi",
                "push rsi",
                "push rdx",
                "push rcx",
                "push r8",
                "push r9",
                "sub rsp, 8",
                "call {choose}",
                "add rsp, 8",
                "pop r9",
                "pop r8",
                "pop rcx",
                "pop rdx",
                "pop rsi",
                "pop rdi",
                "jmp rax",
                choose = sym choose,
            )
        }
    )* };
}

in_front! {
    pwrite = c"pwrite", PWRITE, choose_pwrite;
    pwrite64 = c"pwrite64", PWRITE64, choose_pwrite;
    writev = c"writev", WRITEV, choose_writev;
    fcntl = c"fcntl", FCNTL, choose_fcntl;
    fcntl64 = c"fcntl64", FCNTL64, choose_fcntl64;
    sendmsg = c"sendmsg", SENDMSG, before_sendmsg;
    sendmmsg = c"sendmmsg", SENDMMSG, before_sendmmsg;
    fflush = c"fflush", FFLUSH, choose_flush;
    fflush_unlocked = c"fflush_unlocked", FFLUSH_UNLOCKED, choose_flush;
    fclose = c"fclose", FCLOSE, choose_fclose;
    unlink = c"unlink", UNLINK, queues::choose_unlink;
    remove = c"remove", REMOVE, queues::choose_unlink;
    unlinkat = c"unlinkat", UNLINKAT, queues::choose_unlinkat;
    readdir = c"readdir", READDIR, queues::choose_readdir;
    readdir64 = c"readdir64", READDIR64, queues::choose_readdir;
    readdir_r = c"readdir_r", READDIR_R, queues::choose_readdir_r;
    readdir64_r = c"readdir64_r", READDIR64_R, queues::choose_readdir_r;
    closedir = c"closedir", CLOSEDIR, queues::choose_closedir;
    rewinddir = c"rewinddir", REWINDDIR, queues::choose_rewinddir;
    telldir = c"telldir", TELLDIR, queues::choose_telldir;
    seekdir = c"seekdir", SEEKDIR, queues::choose_seekdir;
    dirfd = c"dirfd", DIRFD, queues::choose_dirfd;
    pthread_create = c"pthread_create", PTHREAD_CREATE, before_thread;
    thrd_create = c"thrd_create", THRD_CREATE, before_thread;
}

/// `name` goes to libc's at once if the table says so of its descriptor, and asks `choose` otherwise.
macro_rules! by_table {
    ($($name:ident = $libc:literal, $next:ident, $choose:path;)*) => {
        fn find_by_table() {
            $($next.find();)*
        }
    $(
        static $next: Next = Next::new($libc);

        /// libc's, but for descriptors of ours.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            extern "C" fn choose(fd: c_int, second: usize) -> usize {
                $choose(fd, second).unwrap_or_else(|| $next.get())
            }
            naked_asm!(
                "endbr64",
                "cmp edi, {numbers}",
                "jae 3f",
                "mov eax, edi",
                "lea r8, [rip + {table}]",
                "cmp byte ptr [r8 + rax], 0",
                "jne 2f",
                "3:",
                "mov rax, [rip + {next} + {address}]",
                "test rax, rax",
                "jz 2f",
                "jmp rax",
                "2:",
                "push rdi",
                "push rsi",
                "push rdx",
                "push rcx",
                "sub rsp, 8",
                "call {choose}",
                "add rsp, 8",
                "pop rcx",
                "pop rdx",
                "pop rsi",
                "pop rdi",
                "jmp rax",
                numbers = const client::mqd::NUMBERS,
                table = sym client::mqd::MAY_BE_OURS,
                next = sym $next,
                address = const Next::ADDRESS,
                choose = sym choose,
            )
        }
    )* };
}

by_table! {
    write = c"write", WRITE, choose_write;
    close = c"close", CLOSE, choose_close;
    read = c"read", READ, queue::choose_read;
    __read_chk = c"__read_chk", READ_CHK, queue::choose_read;
    pread = c"pread", PREAD, queue::choose_pread;
    pread64 = c"pread64", PREAD64, queue::choose_pread;
    __pread_chk = c"__pread_chk", PREAD_CHK, queue::choose_pread;
    __pread64_chk = c"__pread64_chk", PREAD64_CHK, queue::choose_pread;
    lseek = c"lseek", LSEEK, queue::choose_lseek;
    lseek64 = c"lseek64", LSEEK64, queue::choose_lseek;
    ioctl = c"ioctl", IOCTL, choose_ioctl;
}

type Dup = extern "C" fn(c_int, c_int, c_int) -> c_int;
type OfStream = unsafe extern "C" fn(*mut c_void) -> c_int;

type Poll = extern "C" fn(usize, usize, usize, usize, usize, usize) -> c_int;

/// Polls by libc's function; what is polled shows what it has meanwhile. Where the thread is cancelled, it is left so: see [`client::test_cancel`]
/// of how it is unwound.
#[inline(always)]
fn around(next: &Next, arguments: [usize; 6], add: impl FnOnce(&mut Polling, [usize; 6])) -> c_int {
    // SAFETY: libc's function has no more arguments, all of them integers or pointers.
    let poll = unsafe { core::mem::transmute::<usize, Poll>(next.get()) };
    let [a, b, c, d, e, f] = arguments;
    if !mqd::has_any() {
        return poll(a, b, c, d, e, f);
    }
    let mut polling = Polling::begin();
    add(&mut polling, arguments);
    let result = poll(a, b, c, d, e, f);
    polling.end();
    result
}

/// `name` polls, and `add` says what of its arguments.
macro_rules! around {
    ($($name:ident = $libc:literal, $next:ident, $add:expr;)*) => {
        fn find_around() {
            $($next.find();)*
        }
    $(
        static $next: Next = Next::new($libc);

        /// libc's, which sees what queues have.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_int {
            around(&$next, [a, b, c, d, e, f], $add)
        }
    )* };
}

around! {
    poll = c"poll", POLL, add_array;
    __poll_chk = c"__poll_chk", POLL_CHK, add_array;
    ppoll = c"ppoll", PPOLL, add_array;
    __ppoll_chk = c"__ppoll_chk", PPOLL_CHK, add_array;
    select = c"select", SELECT, add_sets;
    pselect = c"pselect", PSELECT, add_sets;
    epoll_wait = c"epoll_wait", EPOLL_WAIT, |_, _| {};
    epoll_pwait = c"epoll_pwait", EPOLL_PWAIT, |_, _| {};
    epoll_pwait2 = c"epoll_pwait2", EPOLL_PWAIT2, |_, _| {};
}

fn add_array(polling: &mut Polling, [polled, count, ..]: [usize; 6]) {
    polling.add_array(polled, count);
}

fn add_sets(polling: &mut Polling, [end, read, write, except, ..]: [usize; 6]) {
    polling.add_sets(as_int(end), [read, write, except]);
}

macro_rules! libc_functions {
    ($($name:ident = $next:ident: $kind:ty;)*) => { $(
        pub(super) fn $name() -> $kind {
            // SAFETY: libc's function of that name has this signature; surplus arguments are not looked at.
            unsafe { core::mem::transmute::<usize, $kind>($next.get()) }
        }
    )* };
}

libc_functions! {
    libc_fflush = FFLUSH: OfStream;
    libc_fclose = FCLOSE: OfStream;
    libc_closedir = CLOSEDIR: extern "C" fn(usize) -> c_int;
    libc_dup = DUP: Dup;
    libc_dup2 = DUP2: Dup;
    libc_dup3 = DUP3: Dup;
    libc_close = CLOSE: extern "C" fn(c_int) -> c_int;
    libc_epoll_ctl = EPOLL_CTL: extern "C" fn(c_int, c_int, c_int, usize) -> c_int;
    libc_close_range = CLOSE_RANGE: extern "C" fn(c_uint, c_uint, c_int) -> c_int;
    libc_closefrom = CLOSEFROM: extern "C" fn(c_int);
    libc_fcntl = FCNTL: Dup;
    libc_fcntl64 = FCNTL64: Dup;
}

/// Finds all of libc's functions, before there are threads and handlers: `dlsym` takes the loader's lock, which a `dlopen` holds while it
/// runs constructors, and those may wait for another thread's `write`. Not when a program starts: it would cost each some 9 µs.
pub(crate) fn find_all() {
    static FOUND: AtomicBool = AtomicBool::new(false);
    if FOUND.swap(true, Relaxed) {
        return;
    }
    find_behind();
    find_in_front();
    find_by_table();
    find_around();
    queues::find_all();
    for next in [&DUP, &DUP2, &DUP3, &EPOLL_CTL, &CLOSE_RANGE, &CLOSEFROM] {
        next.find();
    }
}

fn before_thread(_: usize, _: usize) -> Option<usize> {
    find_all();
    None
}

// ---- what is behind

/// Why libc's function failed; none if it didn't.
fn refused(result: isize) -> Option<Errno> {
    (result == -1).then(|| Errno::from_raw(crate::errno()))
}

/// Whether the path, which the kernel has seen, can be one of ours. Of other refusals than these nothing would come, and some (`EINVAL`)
/// are made before the path is read.
fn is_candidate(why: Option<Errno>, path: usize) -> bool {
    let was_read = matches!(why, None | Some(Errno::EACCES | Errno::EROFS | Errno::ENOENT));
    // SAFETY: the kernel has read it.
    was_read && path != 0 && unsafe { may_be_ours(path) }
}

#[expect(clippy::cast_possible_truncation, reason = "the calls return an int, and take them")]
extern "C" fn opened_at(result: c_int, dir: c_int, path: usize, flags: usize) -> c_int {
    let why = refused(result as isize);
    if is_candidate(why, path) { settle(result, why, dir, path, flags as i32) } else { result }
}

extern "C" fn opened(result: c_int, path: usize, flags: usize) -> c_int {
    opened_at(result, sys::file::AT_FDCWD, path, flags)
}

extern "C" fn created(result: c_int, path: usize) -> c_int {
    const O_WRONLY_CREAT_TRUNC: usize = 0o1101;
    opened_at(result, sys::file::AT_FDCWD, path, O_WRONLY_CREAT_TRUNC)
}

#[cold]
fn settle(result: c_int, why: Option<Errno>, dir: c_int, path: usize, flags: i32) -> c_int {
    // SAFETY: the kernel has read the path.
    let text = unsafe { path::text(path) };
    if namespaces::is_path(text) {
        if why.is_none() {
            // SAFETY: as above.
            unsafe { namespaces::opened(result, dir, text) };
        }
        return result;
    }
    if let Some(done) = queue_opened(text, path, flags) {
        if result >= 0 {
            sys::file::close(result);
        }
        return crate::finish_int(done);
    }
    let done = match why {
        // SAFETY: the kernel has read the path.
        Some(why) => unsafe { open_refused(why, dir, path, flags) },
        None => replace(result).map(|()| result),
    };
    if done.is_err() && result >= 0 {
        sys::file::close(result);
    }
    crate::finish_int(done.map(i64::from))
}

/// A file of a queue, if the path is one's.
fn queue_opened(text: &[u8], path: usize, flags: i32) -> Option<abi::Result<i64>> {
    if queues::is_path(text) { queues::opened(path, flags) } else { None }
}

extern "C" fn stream_opened(result: *mut c_void, path: usize, mode: *const c_char) -> *mut c_void {
    let why = result.is_null().then(|| Errno::from_raw(crate::errno()));
    if is_candidate(why, path) { settle_stream(result, why, path, mode) } else { result }
}

#[cold]
fn settle_stream(result: *mut c_void, why: Option<Errno>, path: usize, mode: *const c_char) -> *mut c_void {
    // SAFETY: the kernel has read the path, libc the mode.
    let (text, flags) = unsafe { (path::text(path), flags_of(mode)) };
    if let Some(done) = queue_opened(text, path, flags) {
        if !result.is_null() {
            // SAFETY: libc has just made it, and nobody else knows it.
            unsafe { libc_fclose()(result) };
        }
        return stream_of(crate::finish_int(done), mode);
    }
    let Some(why) = why else { return replace_stream(result, replace) };
    // SAFETY: as above.
    let opened = unsafe { open_refused(why, sys::file::AT_FDCWD, path, flags) };
    stream_of(crate::finish_int(opened.map(i64::from)), mode)
}

/// A stream of a descriptor of ours; none of -1.
pub(super) fn stream_of(fd: c_int, mode: *const c_char) -> *mut c_void {
    if fd == -1 {
        return core::ptr::null_mut();
    }
    // SAFETY: a descriptor of ours, and the program's mode.
    let stream = unsafe { fdopen(fd, mode) };
    if stream.is_null() {
        sys::file::close(fd);
    }
    stream
}

/// The flags of `open` for a mode of `fopen`.
///
/// # Safety
/// A terminated string.
pub(super) unsafe fn flags_of(mode: *const c_char) -> i32 {
    // SAFETY: the caller's promise.
    let mode = unsafe { CStr::from_ptr(mode) }.to_bytes();
    let kind = match mode.first() {
        _ if mode.contains(&b'+') => 2,
        Some(b'r') => super::O_RDONLY,
        _ => super::O_WRONLY,
    };
    kind | if mode.contains(&b'e') { sys::file::O_CLOEXEC } else { 0 }
}

/// A new stream: nothing was read yet, so another file can take the place of its own.
fn replace_stream(stream: *mut c_void, replace: impl FnOnce(c_int) -> abi::Result<()>) -> *mut c_void {
    // SAFETY: libc has just made it.
    match replace(unsafe { stream::descriptor(stream) }) {
        Ok(()) => stream,
        Err(error) => {
            // SAFETY: nobody else knows the stream.
            unsafe { libc_fclose()(stream) };
            crate::finish(Err(error));
            core::ptr::null_mut()
        }
    }
}

/// What libc is to open in `freopen`. Were it refused, it would close the stream: so where the kernel refuses a sysctl that the caller may
/// write here, it opens something else, and [`stream_reopened`] puts the sysctl in its place.
extern "C" fn path_to_reopen(path: usize, mode: *const c_char) -> usize {
    const CWD: c_int = sys::file::AT_FDCWD;
    // SAFETY: the program's mode, which libc reads too.
    let access = unsafe { flags_of(mode) } & super::O_ACCMODE;
    if access == super::O_RDONLY {
        return path;
    }
    // SAFETY: the kernel checks the address.
    let Some(File::Sysctl(sysctl)) = (unsafe { find_refused(Errno::EACCES, CWD, path, 0) }) else {
        return path;
    };
    // SAFETY: as above. To open a sysctl changes nothing.
    let refused = match unsafe { sys::file::openat(CWD, path, access | sys::file::O_CLOEXEC) } {
        Err(why) => matches!(why, Errno::EACCES | Errno::EROFS),
        Ok(_) => false,
    };
    if refused && Own.may_write(sysctl) == Ok(true) { c"/dev/null".as_ptr().addr() } else { path }
}

extern "C" fn stream_reopened(result: *mut c_void, path: usize) -> *mut c_void {
    if result.is_null() || !is_candidate(None, path) {
        return result;
    }
    replace_stream(result, |fd| match identify(fd) {
        Some(of) => replace_by(of, fd),
        // SAFETY: the kernel has read the path.
        None => unsafe { find_refused(Errno::EACCES, sys::file::AT_FDCWD, path, 0) }
            .map_or(Ok(()), |of| replace_by(of, fd)),
    })
}

extern "C" fn accessed_at(result: c_int, dir: c_int, path: usize, mode: usize) -> c_int {
    const X_OK: usize = 1;
    const W_OK: usize = 2;
    let why = refused(result as isize);
    // SAFETY: the kernel has read the path.
    let is_queues = || queues::is_path(unsafe { path::text(path) });
    if is_candidate(why, path)
        && is_queues()
        && let Some(done) = queues::accessed(path, as_int(mode))
    {
        return crate::finish_int(done);
    }
    let Some(why) = why else { return result };
    if mode & X_OK != 0 || !is_candidate(Some(why), path) {
        return result;
    }
    // SAFETY: the kernel has read the path.
    let found = unsafe { find_refused(why, dir, path, 0) };
    let allowed = found.ok_or(why).and_then(|of| {
        of.require()?;
        let may = mode & W_OK == 0 || matches!(of, File::Sysctl(sysctl) if Own.may_write(sysctl)?);
        if may { Ok(0) } else { Err(Errno::EACCES) }
    });
    crate::finish_int(allowed)
}

extern "C" fn accessed(result: c_int, path: usize, mode: usize) -> c_int {
    accessed_at(result, sys::file::AT_FDCWD, path, mode)
}

// ---- what is in front: the function to jump to, none for libc's

#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "an int in a register")]
fn as_int(register: usize) -> c_int {
    register as c_int
}

/// Which function writes to a descriptor of ours.
fn choose_writing(fd: c_int, ours: *const ()) -> Option<usize> {
    if mqd::is_queue(fd) {
        return Some(write_queue as *const () as usize);
    }
    write::of_descriptor(fd).map(|_| ours as usize)
}

fn choose_write(fd: c_int, _: usize) -> Option<usize> {
    choose_writing(fd, write_ours as *const ())
}

fn choose_pwrite(fd: usize, _: usize) -> Option<usize> {
    choose_writing(as_int(fd), pwrite_ours as *const ())
}

fn choose_writev(fd: usize, _: usize) -> Option<usize> {
    choose_writing(as_int(fd), writev_ours as *const ())
}

fn choose_close(fd: c_int, _: usize) -> Option<usize> {
    // Its last chance; nobody hears of an error.
    let _ = stream::carry(fd);
    mqd::is_queue(fd).then_some(close_queue as *const () as usize)
}

fn is_dup(command: usize) -> bool {
    const F_DUPFD: c_int = 0;
    const F_DUPFD_CLOEXEC: c_int = 1030;
    matches!(as_int(command), F_DUPFD | F_DUPFD_CLOEXEC)
}

/// Whether it asks for the flags of a queue's descriptor, which has others than it shows.
fn asks_for_flags(fd: usize, command: usize) -> bool {
    const F_GETFL: c_int = 3;
    as_int(command) == F_GETFL && mqd::is_queue(as_int(fd))
}

fn keeps_over_exec(command: usize) -> bool {
    const F_SETFD: c_int = 2;
    as_int(command) == F_SETFD
}

/// What is kept over exec may be polled there by a program that knows nothing of it.
fn choose_ioctl(fd: c_int, request: usize) -> Option<usize> {
    const FIONCLEX: c_int = 0x5450;
    if as_int(request) == FIONCLEX {
        mqd::watch(fd);
    }
    namespaces::is_asked(fd, request).then_some(namespaces::ioctl_ns as *const () as usize)
}

fn choose_fcntl(fd: usize, command: usize) -> Option<usize> {
    match () {
        () if is_dup(command) => Some(fcntl_dup as *const () as usize),
        () if keeps_over_exec(command) => {
            mqd::watch(as_int(fd));
            None
        }
        () if asks_for_flags(fd, command) => Some(fcntl_getfl as *const () as usize),
        () => None,
    }
}

fn choose_fcntl64(fd: usize, command: usize) -> Option<usize> {
    if is_dup(command) { Some(fcntl64_dup as *const () as usize) } else { choose_fcntl(fd, command) }
}

/// What is sent along with data isn't looked at: it may well be descriptors. Who is handed a queue's may poll it at any time.
fn before_sendmsg(_: usize, message: usize) -> Option<usize> {
    if mqd::has_any() && mqd::sends_control(message) {
        watch_all();
    }
    None
}

fn before_sendmmsg(_: usize, _: usize) -> Option<usize> {
    watch_all();
    None
}

/// Any queue's descriptor may be polled at any time from now on.
pub(crate) fn watch_all() {
    mqd::numbers(0, c_int::MAX).for_each(mqd::watch);
}

fn of_stream(stream: usize) -> bool {
    let stream = core::ptr::with_exposed_provenance_mut(stream);
    // SAFETY: the program's stream.
    write::of_descriptor(unsafe { stream::descriptor(stream) }).is_some()
}

fn choose_flush(stream: usize, _: usize) -> Option<usize> {
    (stream == 0 || of_stream(stream)).then_some(stream::flush as *const () as usize)
}

fn choose_fclose(stream: usize, _: usize) -> Option<usize> {
    if stream == 0 {
        return None;
    }
    if of_stream(stream) {
        return Some(stream::close as *const () as usize);
    }
    // SAFETY: the program's stream.
    let fd = unsafe { stream::descriptor(stream as *mut c_void) };
    mqd::is_queue(fd).then_some(close_queues_stream as *const () as usize)
}

// ---- ours

fn write_to<T: engine::ipc_sysctl::Text>(
    fd: c_int,
    offset: Option<i64>,
    place: Option<(usize, usize)>,
    load: impl FnOnce() -> abi::Result<T>,
) -> isize {
    let written = write::of_descriptor(fd)
        .ok_or(Errno::EBADF)
        .and_then(|sysctl| write::write(fd, sysctl, offset, place, load));
    crate::finish(written) as isize
}

/// As the kernel: a queue is not written to so.
extern "C" fn write_queue(fd: c_int) -> isize {
    crate::finish(Err(if mqd::is_for_writing(fd) { Errno::EINVAL } else { Errno::EBADF })) as isize
}

extern "C" fn fcntl_getfl(fd: c_int) -> c_int {
    crate::finish_int(sys::file::flags(fd).map(|flags| mqd::flags_shown(flags).into()))
}

/// What had the number before `close` made it another's, or nobody's: a queue is told that a descriptor is closed.
fn closing(fd: c_int, close: impl FnOnce() -> c_int) -> c_int {
    let queue = mqd::forget(fd);
    let result = close();
    if result >= 0
        && let Some(queue) = queue
    {
        mqd::closed(queue);
    }
    result
}

extern "C" fn close_queues_stream(stream: *mut c_void) -> c_int {
    // SAFETY: the program's stream, and libc's own function, called by the program.
    unsafe { closing(stream::descriptor(stream), || libc_fclose()(stream)) }
}

extern "C" fn close_queue(fd: c_int) -> c_int {
    closing(fd, || libc_close()(fd))
}

/// `mq_close`: as `close`, but that nobody is cancelled in it.
pub(crate) fn close_number(fd: c_int) -> c_int {
    closing(fd, || crate::finish_int(sys::file::closed(fd).map(|()| 0)))
}

extern "C" fn write_ours(fd: c_int, start: usize, size: usize) -> isize {
    write_to(fd, None, Some((start, size)), || Ok(write::Buffer { start, size }))
}

extern "C" fn pwrite_ours(fd: c_int, start: usize, size: usize, offset: i64) -> isize {
    write_to(fd, Some(offset), Some((start, size)), || Ok(write::Buffer { start, size }))
}

extern "C" fn writev_ours(fd: c_int, start: usize, count: c_int) -> isize {
    write_to(fd, None, None, || write::Vector::load(start, count))
}

static DUP: Next = Next::new(c"dup");
static DUP2: Next = Next::new(c"dup2");
static DUP3: Next = Next::new(c"dup3");

fn copied(old: c_int, new: c_int) -> c_int {
    write::copied(old, new);
    new
}

extern "C" fn fcntl_dup(fd: c_int, command: c_int, from: c_int) -> c_int {
    copied(fd, libc_fcntl()(fd, command, from))
}

extern "C" fn fcntl64_dup(fd: c_int, command: c_int, from: c_int) -> c_int {
    copied(fd, libc_fcntl64()(fd, command, from))
}

/// `dup(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn dup(fd: c_int) -> c_int {
    copied(fd, libc_dup()(fd, 0, 0))
}

/// What had the number goes, if another descriptor is put there; if none is, it stays what it was.
fn replacing(fd: c_int, to: c_int, dup: impl FnOnce() -> c_int) -> c_int {
    if fd == to {
        return dup();
    }
    choose_close(to, 0);
    let new = dup();
    if new >= 0
        && let Some(queue) = mqd::forget(to)
    {
        mqd::closed(queue);
    }
    copied(fd, new)
}

/// `dup2(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn dup2(fd: c_int, to: c_int) -> c_int {
    replacing(fd, to, || libc_dup2()(fd, to, 0))
}

/// `dup3(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
    replacing(fd, to, || libc_dup3()(fd, to, flags))
}

static EPOLL_CTL: Next = Next::new(c"epoll_ctl");

/// `epoll_ctl(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn epoll_ctl(epoll: c_int, operation: c_int, fd: c_int, event: usize) -> c_int {
    const EPOLL_CTL_DEL: c_int = 2;
    if operation != EPOLL_CTL_DEL {
        mqd::put_in_epoll(fd, event as u64);
    }
    libc_epoll_ctl()(epoll, operation, fd, event)
}

static CLOSE_RANGE: Next = Next::new(c"close_range");
static CLOSEFROM: Next = Next::new(c"closefrom");

/// `close_range(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    if flags == 0 {
        close_queues(first, last);
    }
    libc_close_range()(first, last, flags)
}

/// `closefrom(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn closefrom(first: c_int) {
    close_queues(first.try_into().unwrap_or(0), c_uint::MAX);
    libc_closefrom()(first);
}

fn queues_in(first: c_uint, last: c_uint) -> impl Iterator<Item = c_int> {
    let int = |number: c_uint| c_int::try_from(number).unwrap_or(c_int::MAX);
    mqd::numbers(int(first), int(last))
}

fn close_queues(first: c_uint, last: c_uint) {
    for fd in queues_in(first, last) {
        close_queue(fd);
    }
}

/// These have been closed, without libc.
pub(crate) fn closed_numbers(first: c_uint, last: c_uint) {
    for queue in queues_in(first, last).filter_map(mqd::forget) {
        mqd::closed(queue);
    }
}
