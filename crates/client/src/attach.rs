//! The process's place in its namespace.
//!
//! One page that fork wipes says whether the process is attached: its first word is the attachment's number, its
//! second the lock under which a process attaches, its third that memory is shared with a vfork child, its fourth how many
//! threads are about to get a slot. The arena's mappings are inherited by fork and stay, until the process leaves.
//!
//! # Safety
//! The page is mapped once and never unmapped; its words are atomics.
#![expect(unsafe_code, reason = "the wiped page is raw memory")]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

use abi::{Errno, Result};
use arena::{Arena, ArenaError, Ctx, EXTENT_SHIFT, Handle, PROC_SLOT_SIZE, ProcSlot};
use engine::{IpcNamespace, Limit, Task as _, namespace::ASK_SEGMENTS, reap::Left};

use crate::{LinuxHost, holders, leave, tls::Tls, wire};

/// The process's view of its namespace's arena.
pub(crate) static ARENA: Arena = Arena::new();
static PAGE: AtomicPtr<Page> = AtomicPtr::new(core::ptr::null_mut());
type Page = [AtomicU32; 4];
static GENERATIONS: AtomicU32 = AtomicU32::new(0);
static PROCESS: AtomicU32 = AtomicU32::new(0);
static PID: AtomicU32 = AtomicU32::new(0);
static OWNER: AtomicU32 = AtomicU32::new(u32::MAX);
static INITIAL_USERNS: AtomicU32 = AtomicU32::new(0);
/// The pair of pages with the process slot in front.
static SLOT_PAGE: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
/// The inode's number of the arena's file, 0 while nothing is mapped. Another broker may have the place of one that was killed.
static INODE: AtomicU64 = AtomicU64::new(0);
/// The file, in a process that has it anyway (the broker, the command); -1 elsewhere.
static FIXED_FILE: AtomicUsize = AtomicUsize::new(usize::MAX);

static PATH_LEN: AtomicUsize = AtomicUsize::new(0);
static mut PATH: [u8; 108] = [0; 108];

unsafe extern "C" {
    fn getenv(name: *const core::ffi::c_char) -> *const core::ffi::c_char;
    fn setenv(name: *const core::ffi::c_char, value: *const core::ffi::c_char, overwrite: i32) -> i32;
}

fn page() -> Result<&'static Page> {
    let mut page = PAGE.load(Acquire);
    if page.is_null() {
        let new = sys::map_wiped_page()?.cast::<Page>();
        page = match PAGE.compare_exchange(page, new.as_ptr(), AcqRel, Acquire) {
            Ok(_) => new.as_ptr(),
            Err(first) => first,
        };
    }
    // SAFETY: a mapped page of zeros or what was stored, never unmapped.
    Ok(unsafe { &*page })
}

/// The attachment's number, 0 if the process is not attached.
#[inline(always)]
pub(crate) fn generation() -> u32 {
    let page = PAGE.load(Relaxed);
    if page.is_null() {
        return 0;
    }
    // SAFETY: as in `page`.
    unsafe { (*page)[0].load(Acquire) }
}

#[inline(always)]
pub(crate) fn process() -> Handle {
    Handle(PROCESS.load(Relaxed))
}

#[inline(always)]
pub(crate) fn pid() -> u32 {
    PID.load(Relaxed)
}

#[inline(always)]
pub(crate) fn ownership() -> (u32, bool) {
    (OWNER.load(Relaxed), INITIAL_USERNS.load(Relaxed) != 0)
}

/// Names the broker's socket, instead of the environment: for a process that is not attached, and by its only thread.
///
/// # Errors
/// `EINVAL` for a path that is too long.
pub fn use_socket(path: &[u8]) -> Result<()> {
    if path.len() >= 108 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: written while the process is not attached, by one thread.
    unsafe { (&raw mut PATH).cast::<u8>().copy_from(path.as_ptr(), path.len()) };
    PATH_LEN.store(path.len(), Release);
    Ok(())
}

/// Makes a namespace in an empty file that is large enough, with this process as its broker.
///
/// # Errors
/// `ENOMEM`.
pub fn found(file: i32, owner: u32, initial_userns: bool) -> Result<()> {
    FIXED_FILE.store(file as usize, Release);
    // The broker takes part without undo adjustments of its own: it needs no process slot.
    adopt(Handle::NULL, owner, initial_userns);
    let tls = crate::tls::get();
    tls.begin();
    let host = LinuxHost { tls };
    let ctx = Ctx::format(&ARENA, &host).map_err(engine::util::arena_errno)?;
    let ns = IpcNamespace::of(&ARENA, &host)?;
    ns.init(owner, initial_userns);
    ns.broker_pid.store(sys::getpid(), Relaxed);
    ns.mq_dir_time.store(host.now(), Relaxed);
    begun(tls, &ctx)
}

/// Goes on with a namespace whose broker was killed, with this process in its place: `wait` is called with the other one's process id, and returns when it
/// has ended. What it had begun is put right; `heard` is told of the calls that it made for others, and may copy what they had taken.
///
/// # Errors
/// `EIDRM` if the file is no namespace's; `ENOMEM`.
pub fn succeed(
    file: i32,
    wait: impl FnOnce(u32),
    heard: impl Fn(&Ctx<'_, LinuxHost>, &Left<'_>),
) -> Result<()> {
    FIXED_FILE.store(file as usize, Release);
    let tls = crate::tls::get();
    let host = LinuxHost { tls };
    let ns = IpcNamespace::of(&ARENA, &host)?;
    wait(ns.broker_pid.load(Relaxed));
    adopt(Handle::NULL, ns.owner_uid.load(Relaxed), ns.initial_userns.load(Relaxed) != 0);
    tls.begin();
    let (ctx, dead) = Ctx::succeed(&ARENA, &host).map_err(engine::util::arena_errno)?;
    engine::reap::end_broker(&ctx, dead, |left| heard(&ctx, &left))?;
    ns.broker_pid.store(sys::getpid(), Relaxed);
    begun(tls, &ctx)
}

/// The broker's first thread has its slot.
fn begun(tls: &Tls, ctx: &Ctx<'_, LinuxHost>) -> Result<()> {
    let generation = GENERATIONS.fetch_add(1, Relaxed) + 1;
    tls.slot.store(ctx.slot.handle().0, Relaxed);
    tls.generation.store(generation, Relaxed);
    page()?[0].store(generation, Release);
    Ok(())
}

/// Sleeps until the doorbell is no longer `seen`, or a minute has passed; returns its value. Needs no attachment of
/// the calling thread.
pub fn wait_doorbell(seen: u32) -> u32 {
    let host = LinuxHost { tls: crate::tls::get() };
    let Ok(ns) = IpcNamespace::of(&ARENA, &host) else { return seen };
    let _ = sys::futex_wait(&ns.get().doorbell, seen, 60_000_000_000);
    ns.doorbell.load(Acquire)
}

/// A limit of the namespace. Needs no attachment of the calling thread, and no lock.
///
/// # Errors
/// `EIDRM` if the namespace makes no sense.
pub fn limit(limit: Limit) -> Result<i32> {
    let host = LinuxHost { tls: crate::tls::get() };
    Ok(IpcNamespace::of(&ARENA, &host)?.limit(limit))
}

pub(crate) fn path() -> Result<&'static [u8]> {
    if PATH_LEN.load(Acquire) == 0 {
        let name = variable();
        // SAFETY: a terminated name; the value is a string of the environment.
        let value = unsafe { getenv(name.as_ptr().cast()) };
        if value.is_null() {
            return Err(Errno::ENOSYS);
        }
        // SAFETY: as above.
        use_socket(unsafe { core::ffi::CStr::from_ptr(value) }.to_bytes())?;
    }
    let len = PATH_LEN.load(Acquire).min(108);
    // SAFETY: written before the length was.
    Ok(unsafe { core::slice::from_raw_parts((&raw const PATH).cast::<u8>(), len) })
}

/// The name of the variable that names the socket, terminated.
fn variable() -> [u8; 32] {
    let mut name = [0u8; 32];
    name[..wire::SOCKET_ENV.len()].copy_from_slice(wire::SOCKET_ENV.as_bytes());
    name
}

/// Whether there is a namespace that this process could be in.
pub(crate) fn is_named() -> bool {
    path().is_ok()
}

/// Leaves the namespace, for another one: the only thread of the process, which is in no operation. The process finds the new one at
/// its next call, and so do the programs that it executes.
pub(crate) fn move_to(new: &[u8]) -> Result<()> {
    let mut terminated = [0u8; 108];
    // The last byte stays 0.
    terminated[..107].get_mut(..new.len()).ok_or(Errno::EINVAL)?.copy_from_slice(new);
    lock()?;
    if end_generation() != 0 {
        // Where the broker is no more, nobody can know.
        let _ = ask(wire::ASK_LEAVE, [0; 2]);
    }
    unmap_all(true);
    crate::memory::forget_kept();
    stop_giving();
    crate::attachments::leave_all();
    let moved = use_socket(new);
    // SAFETY: two terminated strings; there is no other thread that could use the environment.
    unsafe { setenv(variable().as_ptr().cast(), terminated.as_ptr().cast(), 1) };
    unlock();
    moved
}

/// A connection that keeps the namespace as long as it is open anywhere.
pub(crate) fn lease() -> Result<sys::net::Fd> {
    exchange(wire::ASK_LEASE, [0; 2]).map(|answer| answer.link)
}

/// Tells the broker of this process, a child of fork.
pub(crate) fn be_known() {
    let _ = ask(wire::ASK_ATTACH, [1, 0]);
}

/// What the broker has answered.
pub(crate) struct Answer {
    pub(crate) words: [u32; 4],
    file: Option<sys::net::Fd>,
    /// The connection.
    pub(crate) link: sys::net::Fd,
}

/// Asks the broker, and keeps the connection.
///
/// # Errors
/// The broker's, and `ENOSYS` if there is none.
pub(crate) fn exchange(which: u32, args: [u32; 2]) -> Result<Answer> {
    let mut answer = [0; wire::ANSWER];
    let request = wire::encode([wire::MAGIC, which, args[0], args[1]]);
    let mut tries = 0;
    let asked = loop {
        match sys::net::ask(path()?, &request, &mut answer) {
            // The broker waits for a question for a moment only, and a busy machine may be slower.
            Err(Errno::EPROTO | Errno::EPIPE | Errno::ECONNRESET) if tries < 10 => tries += 1,
            done => break done,
        }
    };
    let (link, file) = asked.map_err(|e| match e {
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EACCES => e,
        // Nobody there: as if the kernel had no IPC.
        _ => Errno::ENOSYS,
    })?;
    let words = wire::decode(&answer);
    match words {
        [wire::MAGIC, 0, ..] => Ok(Answer { words, file, link }),
        [wire::MAGIC, error, ..] => Err(Errno::from_raw(error.cast_signed())),
        _ => Err(Errno::ENOSYS),
    }
}

/// Asks the broker.
///
/// # Errors
/// As [`exchange`].
pub(crate) fn ask(which: u32, args: [u32; 2]) -> Result<([u32; 4], Option<sys::net::Fd>)> {
    exchange(which, args).map(|answer| (answer.words, answer.file))
}

/// Asks, and uses the file that comes with the answer before it is closed again. Where the process has no descriptor free, a
/// thread does it that has its own.
fn ask_for_file<R>(
    which: u32,
    arg: u32,
    use_file: impl Fn([u32; 4], &sys::net::Fd) -> Result<R>,
) -> Result<R> {
    let try_it = || {
        let (words, file) = ask(which, [arg, 0])?;
        // With one descriptor left for the question, the one in the answer is lost.
        use_file(words, &file.ok_or(Errno::EMFILE)?)
    };
    match try_it() {
        Err(Errno::EMFILE) => sys::thread::without_descriptors(try_it).map_err(|_| Errno::EMFILE)?,
        done => done,
    }
}

/// Tells the broker something, and waits for no answer.
///
/// # Errors
/// The socket's.
pub(crate) fn tell(message: &[u8]) -> Result<()> {
    sys::net::send_as_user(&sys::net::connect(path()?)?, message)
}

/// The connection by which files are given to the broker: the descriptor plus one, and the low half of its inode's number.
static GIVING: AtomicU64 = AtomicU64::new(0);

/// The kept connection, if it is still ours: the program may have closed it, or put something else in its place.
fn giving() -> Option<i32> {
    const S_IFMT: u32 = 0o170_000;
    const S_IFSOCK: u32 = 0o140_000;
    let kept = GIVING.load(Acquire);
    let fd = i32::try_from((kept >> 32).checked_sub(1)?).ok()?;
    let stat = sys::memory::stat(fd).ok()?;
    (stat.ino & 0xffff_ffff == kept & 0xffff_ffff && stat.mode & S_IFMT == S_IFSOCK).then_some(fd)
}

/// Closes the kept connection.
pub(crate) fn stop_giving() {
    if let Some(fd) = giving() {
        drop(sys::net::Fd::new(fd));
    }
    GIVING.store(0, Release);
}

fn connect_to_give() -> Result<i32> {
    let path = path()?;
    let mut name = [0; 108];
    let len = path.len() + wire::GIVEN.len();
    name.get_mut(..path.len()).ok_or(Errno::ENOSYS)?.copy_from_slice(path);
    name.get_mut(path.len()..len).ok_or(Errno::ENOSYS)?.copy_from_slice(wire::GIVEN.as_bytes());
    let seen = GIVING.load(Acquire);
    let socket = match sys::net::connect(&name[..len]) {
        Err(Errno::EACCES) => ask(wire::ASK_GIVE, [0; 2])?.1.ok_or(Errno::EMFILE)?,
        connected => connected?,
    };
    let socket = holders::out_of_the_way(socket);
    let ino = sys::memory::stat(socket.raw())?.ino & 0xffff_ffff;
    let new = (socket.raw() as u64 + 1) << 32 | ino;
    if GIVING.compare_exchange(seen, new, AcqRel, Relaxed).is_err() {
        return giving().ok_or(Errno::EAGAIN); // Another thread was faster.
    }
    let fd = socket.leak();
    // It is accepted at once; later, nobody needs to hear of what is given until somebody asks for it.
    ask(wire::ASK_TAKE, [0; 2])?;
    Ok(fd)
}

/// Gives the broker a file, and waits for no answer: it lies in the broker's socket from now on, whatever becomes of this process.
///
/// # Errors
/// `ENOSYS` if there is no broker; those of having no descriptor.
pub(crate) fn give(message: [u32; 4], file: &sys::net::Fd) -> Result<()> {
    let message = wire::encode(message);
    for _ in 0..64 {
        let socket = giving().map_or_else(connect_to_give, Ok);
        let sent = socket.and_then(|socket| sys::net::send_file(socket, &message, file));
        match sent {
            Ok(()) => return Ok(()),
            // Full: whoever asks empties it.
            Err(Errno::EAGAIN | Errno::ETOOMANYREFS) => drop(ask(wire::ASK_TAKE, [0; 2])?),
            // The broker was killed, and perhaps another one is in its place.
            Err(Errno::EPIPE | Errno::ECONNRESET) => stop_giving(),
            Err(error @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EACCES)) => {
                return Err(error);
            }
            Err(_) => return Err(Errno::ENOSYS),
        }
    }
    Err(Errno::ENOSYS)
}

/// Takes the lock under which the process attaches or leaves.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn lock() -> Result<()> {
    let page = page()?;
    while page[1].compare_exchange(0, 1, AcqRel, Relaxed).is_err() {
        // Whoever has it wakes us; the timeout is for the case that it is no more.
        let _ = sys::futex_wait(&page[1], 1, 50_000_000);
    }
    Ok(())
}

/// Gives the lock back.
pub(crate) fn unlock() {
    if let Ok(page) = page() {
        page[1].store(0, Release);
        sys::futex_wake(&page[1], u32::MAX);
    }
}

/// Attaches the process, if it is not.
pub(crate) fn attach() -> Result<()> {
    let page = page()?;
    if page[0].load(Acquire) != 0 {
        return Ok(());
    }
    lock()?;
    // Another thread may have been here since we looked. To attach twice would end what it has begun: the broker
    // takes it for an exec.
    let done = if page[0].load(Acquire) == 0 { attach_locked() } else { Ok(()) };
    if done.is_ok() && page[0].load(Relaxed) == 0 {
        leave::came_back();
        page[0].store(GENERATIONS.fetch_add(1, Relaxed) + 1, Release);
    }
    unlock();
    done
}

/// A thread is about to get a slot of the process's attachment.
pub(crate) struct Entering {
    page: &'static Page,
    pub(crate) generation: u32,
}

impl Entering {
    /// None if the process is not attached any more.
    pub(crate) fn begin() -> Option<Entering> {
        let page = page().ok()?;
        page[3].fetch_add(1, SeqCst);
        let entering = Entering { page, generation: page[0].load(SeqCst) };
        (entering.generation != 0).then_some(entering)
    }
}

impl Drop for Entering {
    fn drop(&mut self) {
        self.page[3].fetch_sub(1, Release);
    }
}

/// The process is not attached any more. Returns the attachment's number.
pub(crate) fn end_generation() -> u32 {
    page().map_or(0, |page| page[0].swap(0, SeqCst))
}

/// Waits until no thread is about to get a slot, as long as `pause` returns true.
pub(crate) fn wait_for_entering(pause: impl Fn() -> bool) -> bool {
    let is_over = || page().is_ok_and(|page| page[3].load(SeqCst) == 0);
    while !is_over() {
        if !pause() {
            return false;
        }
    }
    true
}

/// Whether this program has been attached, or what forked it was.
pub(crate) fn was_attached() -> bool {
    GENERATIONS.load(Relaxed) != 0
}

/// Whether anything of the arena is mapped, by this process or the one that forked it.
pub(crate) fn has_mappings() -> bool {
    INODE.load(Relaxed) != 0
}

/// Marks the process's liveness word, as the kernel can't do it any more: who meets what the process has left finds out
/// by itself whether it has ended.
pub(crate) fn mark_liveness() {
    if let Some(pair) = NonNull::new(SLOT_PAGE.load(Relaxed)) {
        // SAFETY: as in `register`.
        unsafe { pair.cast::<ProcSlot>().as_ref() }.mark();
    }
}

/// Unmaps the arena. Where not all is `quiet`, zeros take its place.
pub(crate) fn unmap_all(quiet: bool) {
    for (index, start) in ARENA.forget() {
        let len = usize::try_from(Arena::extent_len(index)).unwrap_or(0);
        // SAFETY: a mapping that was made for the arena, which has forgotten it. Nobody is in it, or zeros do.
        unsafe { if quiet { sys::unmap(start, len) } else { sys::map_zeros(start, len) } }
    }
    if let Some(pair) = NonNull::new(SLOT_PAGE.swap(core::ptr::null_mut(), Relaxed)) {
        // SAFETY: the page that was mapped for the process's slot. The one behind it is on a thread's robust list, for which a word
        // of zero is no lock.
        unsafe { sys::map_zeros(pair, PROC_SLOT_SIZE) };
    }
    crate::mqd::forget_all();
    PROCESS.store(0, Relaxed);
    INODE.store(0, Relaxed);
}

fn attach_locked() -> Result<()> {
    crate::signal::replace_all();
    let (process, pair) = ask_for_slot()?;
    let tls = crate::tls::get();
    tls.begin();
    let host = LinuxHost { tls };
    let ns = IpcNamespace::of(&ARENA, &host)?;
    adopt(process, ns.owner_uid.load(Relaxed), ns.initial_userns.load(Relaxed) != 0);
    // The slot of the process that forked this one.
    if let Some(before) = NonNull::new(SLOT_PAGE.swap(core::ptr::null_mut(), Relaxed)) {
        // SAFETY: nobody here uses it: the robust list that it is on is the other process's.
        unsafe { sys::unmap(before, 2 * PROC_SLOT_SIZE) };
    }
    // A process whose end nobody marks is found out by the broker all the same, a little later.
    if let Ok(pair) = pair {
        SLOT_PAGE.store(pair.as_ptr(), Relaxed);
        register(tls, pair, |slot| &slot.liveness);
    }
    Ok(())
}

/// Whether this is the file that is mapped already, if any is.
fn is_the_file(file: &sys::net::Fd) -> Result<bool> {
    let ino = sys::memory::stat(file.raw())?.ino;
    let before = INODE.compare_exchange(0, ino, Relaxed, Relaxed).unwrap_or_else(|before| before);
    Ok(before == 0 || before == ino)
}

/// A process slot for this process, and its pair of pages if they can be mapped.
fn ask_for_slot() -> Result<(Handle, Result<NonNull<u8>>)> {
    /// From one broker to the next.
    const HOPS: usize = 8;
    // After exec, all of this library's memory is new.
    let forked = GENERATIONS.load(Relaxed) != 0;
    for _ in 0..HOPS {
        let slot = ask_for_file(wire::ASK_ATTACH, forked.into(), |words, file| {
            if words[3] != 0 {
                follow(file)?;
                return Ok(None);
            }
            let process = Handle(words[2]);
            if !is_the_file(file)? {
                return Err(Errno::ENOSYS);
            }
            Ok(Some((process, sys::map_page_pair(file.raw(), process.offset()))))
        })?;
        if let Some(slot) = slot {
            return Ok(slot);
        }
    }
    Err(Errno::ENOSYS)
}

/// Goes where a connection leads: the process was started with an environment of before it, or its parent, was taken elsewhere.
fn follow(connection: &sys::net::Fd) -> Result<()> {
    let mut room = [0; 108];
    let path = sys::net::peer_path(connection.raw(), &mut room).ok_or(Errno::ENOSYS)?;
    // What this process executes later is led there by the broker as well: here a handler may have interrupted libc, so its environment stays.
    use_socket(path).map_err(|_| Errno::ENOSYS)
}

/// Notes that a vfork child will share this memory; one of fork finds the note wiped.
pub(crate) fn note_shared_memory() -> Result<()> {
    page()?[2].store(1, Relaxed);
    Ok(())
}

/// Whether this is the memory that the note was made in.
pub(crate) fn is_shared_memory() -> bool {
    page().is_ok_and(|page| page[2].load(Relaxed) != 0)
}

/// Attaches a vfork child, beside the process whose memory it uses. Returns its process slot, and the pair of pages.
pub(crate) fn attach_beside(tls: &Tls) -> Result<(Handle, Option<NonNull<u8>>)> {
    let (process, pair) = ask_for_slot()?;
    let host = LinuxHost { tls: crate::tls::get() };
    let ns = IpcNamespace::of(&ARENA, &host)?;
    OWNER.store(ns.owner_uid.load(Relaxed), Relaxed);
    INITIAL_USERNS.store(u32::from(ns.initial_userns.load(Relaxed) != 0), Relaxed);
    if let Ok(pair) = pair {
        register(tls, pair, |slot| &slot.liveness);
    }
    Ok((process, pair.ok()))
}

fn adopt(process: Handle, owner: u32, initial_userns: bool) {
    PROCESS.store(process.0, Relaxed);
    PID.store(sys::getpid(), Relaxed);
    OWNER.store(owner, Relaxed);
    INITIAL_USERNS.store(u32::from(initial_userns), Relaxed);
}

/// Lets the kernel mark one of the process's two liveness words when this thread ends.
fn register(tls: &Tls, pair: NonNull<u8>, word: impl FnOnce(&ProcSlot) -> &AtomicU32) {
    // SAFETY: the page is a mapped process slot, made of atomics.
    let word = word(unsafe { pair.cast::<ProcSlot>().as_ref() });
    word.store(tls.tid.load(Relaxed), Relaxed);
    // SAFETY: the head is this thread's own, the pair's second page is private, has room for two nodes, and stays mapped.
    unsafe { sys::robust::register(tls.head.load(Relaxed) as *mut _, word.as_ptr().cast()) };
}

/// If the thread that registered the process's liveness word has ended, this one takes its part. The first thread has a word of its own as well.
pub(crate) fn register_if_needed(tls: &Tls) {
    let Some(pair) = NonNull::new(SLOT_PAGE.load(Relaxed)) else { return };
    // SAFETY: as in `register`.
    let slot = unsafe { pair.cast::<ProcSlot>().as_ref() };
    if slot.registrar_ended() {
        register(tls, pair, |slot| &slot.liveness);
    }
    let tid = tls.tid.load(Relaxed);
    if tid == pid() && slot.first.load(Relaxed) != tid {
        register(tls, pair, |slot| &slot.first);
    }
}

pub(crate) fn map_extent(index: u32) -> core::result::Result<NonNull<u8>, ArenaError> {
    let len = usize::try_from(Arena::extent_len(index)).map_err(|_| ArenaError::NoMemory)?;
    let offset = u64::from(index) << EXTENT_SHIFT;
    let fixed = FIXED_FILE.load(Acquire);
    if fixed != usize::MAX {
        return sys::map_shared(fixed as i32, offset, len).map_err(|_| ArenaError::NoMemory);
    }
    let map = |_, file: &sys::net::Fd| {
        if is_the_file(file)? { sys::map_shared(file.raw(), offset, len) } else { Err(Errno::ENOSYS) }
    };
    ask_for_file(wire::ASK_FILE, 0, map).map_err(|_| ArenaError::NoMemory)
}

pub(crate) fn more_threads() -> Result<()> {
    match ask(wire::ASK_THREADS, [0; 2]) {
        Err(Errno::EMFILE) => {
            sys::thread::without_descriptors(|| ask(wire::ASK_THREADS, [0; 2])).map_err(|_| Errno::EMFILE)?
        }
        done => done,
    }
    .map(|_| ())
}

/// Has the broker's first thread look for segments that are over.
pub fn have_segments_looked_at(host: &LinuxHost) {
    ring(host, ASK_SEGMENTS);
}

pub(crate) fn ring(host: &LinuxHost, what: u32) {
    if let Ok(ns) = IpcNamespace::of(&ARENA, host)
        && ns.ring(what)
    {
        sys::futex_wake(&ns.get().doorbell, 1);
    }
}
