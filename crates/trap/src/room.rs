//! Where calls are made, and those kept that sleep.
//!
//! Each sleeping call has a place: a thread slot in the arena, and its mark at our bell. Who completes it, rings. A sleeper is looked at
//! when its time is over, and for signals at growing intervals, so that thousands who sleep for long cost little.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::{io, thread};

use abi::{Errno, Result, compat::nr as nr_32, syscall as nr, time::Clock};
use arena::Handle;
use client::behalf::{self, Bell, PLACES};
use engine::syscall::MqNotify;
use engine::{Call, Cause, Deadline, Outcome, Syscall, Task, compat};
use libc::seccomp_data;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::files::{self, About, Answer, View, Written};
use crate::filter::{ARCH_32, ARCH_64};
use crate::namespaces::{self, Wish};
use crate::notices::{self, Registrations};
use crate::notify::{Listener, Notification};
use crate::queues;
use crate::routes::{self, Handed, Routes};
use crate::signals::{self, Asked, Rest};
use crate::target::{Errand, Subject, Targets};
use crate::trace;

const MS: u64 = 1_000_000;
/// How soon a new sleeper is looked at for signals, and how seldom an old one; in between, after a part of the time it has slept.
const FIRST_LOOK: u64 = 5 * MS;
const LAST_LOOK: u64 = 100 * MS;
const LOOK_PART: u64 = 8;
/// How many are looked at in a row, and how long nobody is then.
const LOOKS: usize = 16;
const PAUSE: u64 = 10 * MS;
/// A sleep that nobody will end.
const LONG: u64 = 3600 * 1000 * MS;

/// The kernel's own codes of calls that a signal has interrupted: begin it anew unless a handler runs that does not want that.
const ERESTARTSYS: i32 = 512;
/// Begin it anew unless a handler runs.
const ERESTARTNOHAND: i32 = 514;

struct Sleeper {
    id: u64,
    subject: Subject,
    call: Syscall,
    deadline: Option<Deadline>,
    since: u64,
    /// When it is to be looked at next.
    due: u64,
    /// When its time is over, as far as that is known.
    end: Option<u64>,
    /// It had signals at the last look that may have been another thread's.
    doubtful: bool,
    /// How it rested when it was last known to wait still.
    rest: Option<Rest>,
    /// A registration, of which a socket is told: the call is over.
    tells: Option<Told>,
}

/// A socket, by its inode, and the cookie that it is told.
#[derive(Clone, Copy)]
struct Told {
    socket: u64,
    cookie: [u64; 4],
}

impl Sleeper {
    fn new(id: u64, subject: Subject, call: Syscall, deadline: Option<Deadline>, since: u64) -> Sleeper {
        Sleeper {
            id,
            subject,
            call,
            deadline,
            since,
            due: 0,
            end: None,
            doubtful: false,
            rest: None,
            tells: None,
        }
    }

    /// How long until its time is over, if its clock is not set meanwhile.
    fn left(&self) -> u64 {
        self.deadline.map_or(u64::MAX, |end| end.ns.saturating_sub(client::clock_ns(end.clock)))
    }
}

struct Room {
    listener: Arc<Listener>,
    bell: Arc<Bell>,
    watch: Arc<Epoll>,
    targets: Targets,
    view: Arc<View>,
    written: Written,
    registrations: Registrations,
    /// The thread slot of each place.
    slots: Vec<Handle>,
    sleepers: Vec<Option<Sleeper>>,
    idle: Vec<u32>,
    /// When to look at whom.
    due: BTreeSet<(u64, u32)>,
    /// Whose time is over when: of these, all are seen to then.
    ends: BTreeSet<(u64, u32)>,
    /// When the second thread wakes by itself.
    wakes_at: u64,
}

fn now() -> u64 {
    client::clock_ns(Clock::Monotonic)
}

type Shared = Arc<Mutex<Room>>;

fn enter(room: &Shared) -> MutexGuard<'_, Room> {
    room.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the listener is.
pub(crate) struct Trap {
    pub(crate) listener: Arc<Listener>,
    pub(crate) routes: Routes,
    room: Shared,
}

impl Trap {
    /// Takes a question.
    fn take(self: &Arc<Trap>, asked: Notification) {
        let about = files::about(&asked);
        match about {
            About::Kernels => return self.listener.pass(asked.id),
            About::Library => return files::give_library(&self.listener, asked.id),
            About::Namespace(pid, flags) => {
                return namespaces::grant(self, asked, Wish::Open { pid, flags });
            }
            About::Ours(_) | About::Queues(_) => {}
            About::Else => match namespaces::wish(&asked) {
                None => {}
                Some(Wish::Kernels) => return self.listener.pass(asked.id),
                Some(wish) => return namespaces::grant(self, asked, wish),
            },
        }
        self.route(asked, about);
    }

    /// Hands a question on, or answers it.
    fn route(self: &Arc<Trap>, asked: Notification, about: About) {
        match self.routes.hand_on(&asked) {
            Ok(Handed::Here) => enter(&self.room).answer(&asked, &about),
            Ok(Handed::Over) => {}
            Ok(Handed::Full(link)) => self.apart(asked, move |own| {
                if link.send(&asked).is_err() {
                    own.refuse(asked, &about);
                }
            }),
            Ok(Handed::Later(socket)) => self.apart(asked, move |own| {
                // Where that can't be, it is found to be elsewhere.
                let _ = own.routes.link(&socket);
                own.route(asked, about);
            }),
            Err(_) => self.refuse(asked, &about),
        }
    }

    /// Does what may take its time for a question.
    fn apart(self: &Arc<Trap>, asked: Notification, act: impl FnOnce(&Arc<Trap>) + Send + 'static) {
        let own = Arc::clone(self);
        let begun = spawn("trap-link", move || {
            act(&own);
            client::end_thread();
        });
        if begun.is_err() {
            self.listener.answer(asked.id, Err(libc::ENOMEM));
        }
    }

    /// Answers a question where whoever should is no more.
    fn refuse(&self, asked: Notification, about: &About) {
        if matches!(about, About::Ours(_) | About::Queues(_)) {
            self.listener.pass(asked.id);
        } else {
            self.listener.answer(asked.id, Err(libc::ENOSYS));
        }
    }

    /// A process leaves the namespace at that socket.
    pub(crate) fn leave(&self, tgid: u32, socket: &Path) {
        if self.routes.is_own(socket) {
            enter(&self.room).leave(tgid);
        } else {
            self.routes.tell_leaving(tgid, socket);
        }
    }
}

/// Where the listener is, in this process.
static TRAP: OnceLock<Arc<Trap>> = OnceLock::new();

/// A process comes to the namespace of this trap by the library. If it is below the trap, and one that was started with an environment of before it or its
/// parent went elsewhere: a connection to where it is. `again` says that its program has been somewhere already, so it has come on purpose.
pub fn elsewhere(pid: u32, again: bool) -> Option<OwnedFd> {
    TRAP.get()?.routes.elsewhere(pid, again)
}

/// A room, and what tells of the ends of processes.
fn furnish(listener: &Arc<Listener>, view: Arc<View>) -> io::Result<(Shared, Arc<Epoll>)> {
    let failed = |error: Errno| io::Error::from_raw_os_error(error.raw());
    let bell = Arc::new(Bell::new().map_err(failed)?);
    let watch = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
    let (written, registrations) = (Written::new()?, Registrations::new()?);
    // By a number that no process has.
    watch.add(written.news(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    watch.add(registrations.news(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    let room = Arc::new(Mutex::new(Room {
        listener: Arc::clone(listener),
        bell: Arc::clone(&bell),
        watch: Arc::clone(&watch),
        targets: Targets::new()?,
        view,
        written,
        registrations,
        slots: Vec::new(),
        sleepers: Vec::new(),
        idle: Vec::new(),
        due: BTreeSet::new(),
        ends: BTreeSet::new(),
        wakes_at: 0,
    }));
    let shared = Arc::clone(&room);
    spawn("trap-wake", move || {
        while let Ok(seen) = bell.rung() {
            let mut pause = enter(&shared).see_to_sleepers();
            if trace::see_to_late() {
                pause = pause.min(trace::LOOK.as_nanos() as u64);
            }
            if bell.wait(seen, pause).is_err() {
                return;
            }
        }
    })?;
    Ok((room, watch))
}

/// Sees to the ends of processes.
fn watch_ends(room: Shared, watch: Arc<Epoll>, also: impl Fn() + Send + 'static) -> io::Result<()> {
    spawn("trap-ends", move || {
        loop {
            // Which ones is looked at when it is our turn.
            let _ = watch.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE);
            let mut room = enter(&room);
            room.see_ends();
            room.see_writes();
            room.see_closed();
            drop(room);
            also();
        }
    })
}

pub(crate) fn serve(listener: OwnedFd, socket: PathBuf, view: Arc<View>) -> io::Result<()> {
    let listener = Arc::new(Listener::new(listener, None));
    let (room, watch) = furnish(&listener, view)?;
    let routes = Routes::new(socket, listener.raw(), Arc::clone(&watch));
    let trap = Arc::new(Trap { listener: Arc::clone(&listener), routes, room: Arc::clone(&room) });
    let _ = TRAP.set(Arc::clone(&trap));
    // Where there can be no such place, who is inside does without.
    if let Ok(place) = routes::wait_at(routes::address()) {
        let trap = Arc::clone(&trap);
        spawn("trap-inside", move || trap.routes.welcome(&place))?;
    }
    let ends = Arc::clone(&trap);
    watch_ends(room, watch, move || ends.routes.forget_ended())?;
    spawn("trap", move || {
        while let Some(asked) = listener.receive() {
            trap.take(asked);
        }
    })
}

pub(crate) fn serve_for(listener: OwnedFd, link: OwnedFd, view: Arc<View>) -> io::Result<()> {
    let listener = Arc::new(Listener::new(listener, Some(link)));
    let (room, watch) = furnish(&listener, view)?;
    watch_ends(Arc::clone(&room), watch, || ())?;
    spawn("trap", move || {
        while let Some(asked) = listener.receive() {
            if asked.id == routes::LEAVES {
                enter(&room).leave(asked.pid);
                listener.acknowledge(&asked);
            } else {
                enter(&room).answer(&asked, &files::about(&asked));
            }
        }
        listener.let_go();
        trace::see_to_all_late();
    })
}

pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).stack_size(256 << 10).spawn(run).map(drop)
}

/// Whether a call makes, attaches or looks at shared memory.
fn is_about_segments(asked: &Notification) -> bool {
    let seccomp_data { arch, nr: number, args, .. } = asked.data;
    if arch == ARCH_32 {
        #[expect(clippy::cast_possible_truncation, reason = "a register of a 32-bit program")]
        compat::is_about_segments(number.cast_unsigned(), args[0] as u32)
    } else {
        matches!(i64::from(number), nr::SHMGET | nr::SHMAT | nr::SHMDT | nr::SHMCTL)
    }
}

/// Whether it matters to a call who has registered for a notification, or it may give a number anew that was closed.
fn is_about_registrations(asked: &Notification) -> bool {
    let number = asked.data.nr.cast_unsigned();
    if asked.data.arch == ARCH_32 {
        matches!(number, nr_32::MQ_OPEN | nr_32::MQ_NOTIFY | nr_32::MQ_TIMEDSEND | nr_32::MQ_TIMEDSEND_TIME64)
    } else {
        matches!(i64::from(number), nr::MQ_OPEN | nr::MQ_NOTIFY | nr::MQ_TIMEDSEND)
    }
}

fn decode<T: Task>(asked: &Notification, task: &T) -> Result<Syscall> {
    let seccomp_data { arch, nr: number, args, .. } = asked.data;
    match arch {
        ARCH_64 => Syscall::decode(number.into(), args).ok_or(Errno::ENOSYS),
        #[expect(clippy::cast_possible_truncation, reason = "registers of a 32-bit program")]
        ARCH_32 => compat::decode(task, number.cast_unsigned(), args.map(|register| register as u32)),
        _ => Err(Errno::ENOSYS),
    }
}

impl Room {
    /// Answers a question.
    fn answer(&mut self, asked: &Notification, about: &About) {
        self.see_writes();
        match about {
            About::Ours(request) => self.serve_file(asked, request),
            About::Queues(request) => self.serve_queues(asked, request),
            _ => self.serve(asked),
        }
        self.go_on();
    }

    /// A process goes to another namespace.
    fn leave(&mut self, tgid: u32) {
        self.see_writes();
        self.see_closed();
        self.targets.leave(tgid);
        self.go_on();
    }

    /// Makes a call that was asked about.
    fn serve(&mut self, asked: &Notification) {
        let listener = Arc::clone(&self.listener);
        let compat = asked.data.arch == ARCH_32;
        if is_about_segments(asked) {
            // What the dead had attached is detached for whoever asks.
            self.see_ends();
            self.targets.see_programs();
        }
        if !self.registrations.is_empty() && is_about_registrations(asked) {
            self.see_closed();
        }
        let Some((mut subject, place)) = self.meet(asked) else { return };
        subject.compat = compat;
        let descriptors = self.targets.descriptors(subject.tgid);
        let errand = Errand::new(&listener, asked.id, subject).with(descriptors);
        let begun = self.bell.on_behalf(self.slots[place as usize], &errand, |ctx| {
            let call = decode(asked, ctx.host)?;
            errand.is_for(&call);
            if matches!(call, Syscall::MqOpen(_)) {
                // Nobody told us of what was closed.
                engine::mqueue::settle_unlinked(ctx)?;
            }
            let begun = call.begin(ctx)?;
            for (memory, whole) in errand.replaced() {
                engine::shm::unmapped_memory(ctx, memory, whole);
            }
            if let (Syscall::MqOpen(_), Outcome::Done(fd)) = (call, begun.outcome) {
                let fd = i32::try_from(fd).unwrap_or(-1);
                behalf::distrust_strangers(ctx, fd)?;
                // Nobody tells us when it is about to be polled.
                engine::mqueue::watch(ctx, fd, true)?;
            }
            let sleeps = begun.outcome == Outcome::Blocked && behalf::fall_asleep(ctx);
            Ok((call, begun.outcome, sleeps, begun.deadline))
        });
        match begun {
            Ok((call @ Syscall::MqNotify(_), Outcome::Blocked, sleeps, _)) => {
                self.tell_later(place, &errand, call, sleeps);
            }
            Ok((call, Outcome::Blocked, sleeps, deadline)) => {
                let now = now();
                let sleeper = Sleeper::new(asked.id, subject, call, deadline, now);
                self.sleepers[place as usize] = Some(sleeper);
                listener.note_asleep(place, asked.id);
                self.look_later(place, now);
                if !sleeps {
                    self.resume(place, Cause::Woken, libc::EINTR);
                }
            }
            Ok((call, Outcome::Done(value), ..)) => {
                self.idle.push(place);
                if matches!(call, Syscall::Shmat(_)) {
                    self.targets.attaches(subject.tgid);
                }
                if let Syscall::MqNotify(MqNotify { fd, sevp: 1.. }) = call {
                    self.registrations.add(subject, fd);
                }
                let given = if self.registrations.is_empty() { None } else { errand.given() };
                if let (Some(number), Some(link)) = (errand.finish_giving(Ok(value)), given) {
                    self.registrations.opened(subject.tgid, &link, number);
                }
            }
            Err(error) => {
                self.idle.push(place);
                errand.finish(Err(error.raw()));
            }
        }
    }

    /// A registration sleeps, of which a socket is to be told; who has made it does not.
    fn tell_later(&mut self, place: u32, errand: &Errand<'_>, call: Syscall, sleeps: bool) {
        let Errand { listener, id, subject, told, .. } = errand;
        let taken = told.get().ok_or(Errno::EINVAL).and_then(|(fd, cookie)| {
            Ok(Told { socket: notices::take_place(listener, *id, subject, fd)?, cookie })
        });
        let mut sleeper = Sleeper::new(0, *subject, call, None, now());
        sleeper.tells = taken.ok();
        self.sleepers[place as usize] = Some(sleeper);
        if let Err(error) = taken {
            self.give_up(place);
            listener.answer(*id, Err(error.raw()));
            return;
        }
        if let Syscall::MqNotify(MqNotify { fd, .. }) = call {
            self.registrations.add(*subject, fd);
        }
        listener.answer(*id, Ok(0));
        if !sleeps {
            self.resume(place, Cause::Woken, libc::EINTR);
        }
    }

    /// Who asks, and a place for the call; none if it has been answered, or needs to be no more.
    fn meet(&mut self, asked: &Notification) -> Option<(Subject, u32)> {
        let met = self.targets.meet(asked.pid, &self.watch).and_then(|subject| Ok((subject, self.place()?)));
        match met {
            // One that still asks was the one that was learnt of.
            Ok(((subject, was_known), place)) if was_known || self.listener.is_valid(asked.id) => {
                Some((subject, place))
            }
            Ok((_, place)) => {
                self.idle.push(place);
                None
            }
            Err(error) => {
                self.listener.answer(asked.id, Err(error.raw()));
                None
            }
        }
    }

    /// Opens a file of the namespace for who asked.
    fn serve_file(&mut self, asked: &Notification, request: &files::Request) {
        // A list says who has segments attached.
        self.see_ends();
        let view = Arc::clone(&self.view);
        self.serve_by(asked, |ctx| request.serve(ctx, &*view));
    }

    /// Shows who asked something of the queues' directory, or changes it.
    fn serve_queues(&mut self, asked: &Notification, request: &queues::Request) {
        if !self.registrations.is_empty() {
            self.see_closed();
        }
        self.serve_by(asked, |ctx| request.serve(ctx));
    }

    /// Answers as `serve` does on behalf of who asked.
    fn serve_by(
        &mut self,
        asked: &Notification,
        serve: impl FnOnce(&behalf::Errand<'_, '_, Errand<'_>>) -> Result<Answer>,
    ) {
        let Some((mut subject, place)) = self.meet(asked) else { return };
        subject.compat = asked.data.arch == ARCH_32;
        let listener = Arc::clone(&self.listener);
        let errand = Errand::new(&listener, asked.id, subject);
        let served = self.bell.on_behalf(self.slots[place as usize], &errand, serve);
        self.idle.push(place);
        match served {
            Ok(Answer::Descriptor(fd, flags)) => {
                listener.answer_with(asked.id, &fd, flags & libc::O_CLOEXEC != 0);
            }
            Ok(Answer::Written(fd, flags, sysctl)) => match self.written.watch(sysctl, &fd, subject) {
                Ok(()) => listener.answer_with(asked.id, &fd, flags & libc::O_CLOEXEC != 0),
                Err(error) => errand.finish(Err(error.raw())),
            },
            Ok(Answer::Value(value)) => errand.finish(Ok(value)),
            Ok(Answer::Bytes(to, bytes)) => errand.finish_writing(to, &bytes),
            Err(error) => errand.finish(Err(error.raw())),
        }
    }

    /// Carries what has been written to sysctls to the namespace.
    fn see_writes(&mut self) {
        if self.written.is_empty() {
            return;
        }
        for text in self.written.take() {
            let Ok(place) = self.place() else { return };
            let listener = Arc::clone(&self.listener);
            let errand = Errand::new(&listener, 0, text.opener);
            // Who wrote has gone on and hears of no error.
            let _ = self.bell.on_behalf(self.slots[place as usize], &errand, |ctx| {
                text.sysctl.write(ctx, text.bytes.as_slice(), 0)
            });
            self.idle.push(place);
        }
    }

    /// Ends the registrations of which a descriptor was closed.
    fn see_closed(&mut self) {
        for (by, queue) in self.registrations.take_closed() {
            let Ok(place) = self.place() else { return };
            let listener = Arc::clone(&self.listener);
            let errand = Errand::new(&listener, 0, by);
            let _ = self
                .bell
                .on_behalf(self.slots[place as usize], &errand, |ctx| engine::mqueue::do_close(ctx, queue));
            self.idle.push(place);
        }
        self.go_on();
    }

    /// A place for a call.
    fn place(&mut self) -> Result<u32> {
        if let Some(place) = self.idle.pop() {
            return Ok(place);
        }
        let place =
            u32::try_from(self.slots.len()).ok().filter(|place| *place < PLACES).ok_or(Errno::ENOMEM)?;
        self.slots.push(self.bell.claim_slot(place)?);
        self.sleepers.push(None);
        Ok(place)
    }

    /// Goes on with those who were woken, and with whom these wake in turn.
    fn go_on(&mut self) {
        loop {
            let mut woken = Vec::new();
            if self.bell.take(|place| woken.push(place)).is_err() || woken.is_empty() {
                return;
            }
            for place in woken {
                self.resume(place, Cause::Woken, libc::EINTR);
            }
        }
    }

    /// Goes on with a sleeper. Where a signal is the cause and it has nothing else to tell, its call ends with `interrupted`.
    fn resume(&mut self, place: u32, cause: Cause, interrupted: i32) {
        let Some(Some(sleeper)) = self.sleepers.get(place as usize) else { return };
        let (id, subject, call, tells) = (sleeper.id, sleeper.subject, sleeper.call, sleeper.tells);
        let listener = Arc::clone(&self.listener);
        let errand = Errand::new(&listener, id, subject);
        errand.is_for(&call);
        let outcome = self.bell.on_behalf(self.slots[place as usize], &errand, |ctx| {
            if cause == Cause::Woken && behalf::is_asleep(ctx) {
                // A ring for nobody.
                return Ok(Outcome::Blocked);
            }
            if tells.is_none() && !listener.is_valid(id) {
                engine::reap::give_up(ctx);
                return Err(Errno::ESRCH);
            }
            let mut outcome = call.resume(ctx, cause)?;
            while outcome == Outcome::Blocked && !behalf::fall_asleep(ctx) {
                outcome = call.resume(ctx, Cause::Woken)?;
            }
            Ok(outcome)
        });
        let result = match outcome {
            Ok(Outcome::Blocked) => return,
            Ok(Outcome::Done(value)) => Ok(value),
            Err(Errno::EINTR) => Err(interrupted),
            Err(error) => Err(error.raw()),
        };
        self.forget(place);
        match (tells, result) {
            (None, result) => errand.finish(result),
            (Some(Told { socket, cookie }), Ok(what)) => {
                notices::tell(socket, cookie, u8::try_from(what).unwrap_or(0));
            }
            (Some(_), Err(_)) => {}
        }
    }

    /// The place's call is over.
    fn forget(&mut self, place: u32) {
        if let Some(sleeper) = self.sleepers[place as usize].take() {
            self.listener.note_asleep(place, 0);
            self.due.remove(&(sleeper.due, place));
            sleeper.end.map(|end| self.ends.remove(&(end, place)));
            self.idle.push(place);
        }
    }

    /// Says when a sleeper is to be looked at next.
    fn look_later(&mut self, place: u32, now: u64) {
        let Some(sleeper) = &mut self.sleepers[place as usize] else { return };
        self.due.remove(&(sleeper.due, place));
        sleeper.end.take().map(|end| self.ends.remove(&(end, place)));
        let interval = ((now - sleeper.since) / LOOK_PART).clamp(FIRST_LOOK, LAST_LOOK);
        sleeper.due = now + interval;
        self.due.insert((sleeper.due, place));
        sleeper.end = sleeper.deadline.is_some().then(|| now.saturating_add(sleeper.left()));
        sleeper.end.map(|end| self.ends.insert((end, place)));
        let next = sleeper.end.map_or(sleeper.due, |end| end.min(sleeper.due));
        if next < self.wakes_at {
            self.wakes_at = next;
            // Without the bell, nobody is woken by it.
            let _ = self.bell.nudge();
        }
    }

    /// Looks at the sleepers whose time it is; returns how long nobody needs to be looked at.
    fn see_to_sleepers(&mut self) -> u64 {
        self.go_on();
        let now = now();
        while self.ends.first().is_some_and(|(end, _)| *end <= now)
            && let Some((_, place)) = self.ends.pop_first()
        {
            if let Some(sleeper) = &mut self.sleepers[place as usize] {
                sleeper.end = None;
            }
            self.look_at(place, now);
        }
        let mut looks = 0;
        while looks < LOOKS
            && let Some((due, place)) = self.due.first().copied()
            && due <= now
        {
            looks += 1;
            self.look_at(place, now);
        }
        self.go_on();
        let next = |of: &BTreeSet<(u64, u32)>| of.first().map_or(now + LONG, |(at, _)| *at);
        let look = if looks == LOOKS { next(&self.due).max(now + PAUSE) } else { next(&self.due) };
        self.wakes_at = look.min(next(&self.ends));
        self.wakes_at.saturating_sub(self::now())
    }

    fn look_at(&mut self, place: u32, now: u64) {
        let Some(sleeper) = &self.sleepers[place as usize] else { return };
        let (id, subject, doubtful, rested) = (sleeper.id, sleeper.subject, sleeper.doubtful, sleeper.rest);
        if sleeper.left() == 0 {
            return self.resume(place, Cause::Timeout, libc::EINTR);
        }
        let (asked, rest) = signals::of(&subject).unzip();
        // The kernel finds one call by a walk along all that are open, so it is only asked of who may have gone on.
        let rests = rest.is_some() && rest == rested;
        if !rests && !self.listener.is_valid(id) {
            return self.give_up(place);
        }
        // Messages are waited for anew; operations on semaphores end whatever the signal does.
        let interrupted = match sleeper.call {
            Syscall::MqTimedsend(_) | Syscall::MqTimedreceive(_) => ERESTARTSYS,
            Syscall::Msgsnd(_) | Syscall::Msgrcv(_) => ERESTARTNOHAND,
            _ => libc::EINTR,
        };
        match asked {
            Some(Asked::Sure) => return self.resume(place, Cause::Signal, interrupted),
            Some(Asked::Maybe) if doubtful => return self.interrupt(place, interrupted),
            _ => {}
        }
        if let Some(sleeper) = &mut self.sleepers[place as usize] {
            sleeper.rest = rest;
            sleeper.doubtful |= asked == Some(Asked::Maybe);
        }
        self.look_later(place, now);
    }

    /// Ends the sleep of a thread that may see a signal, if it has nothing else to tell, so that the kernel looks for signals.
    fn interrupt(&mut self, place: u32, interrupted: i32) {
        let Some(sleeper) = &self.sleepers[place as usize] else { return };
        let (id, subject, call) = (sleeper.id, sleeper.subject, sleeper.call);
        if interrupted == libc::EINTR {
            return self.resume(place, Cause::Signal, interrupted);
        }
        let listener = Arc::clone(&self.listener);
        let errand = Errand::new(&listener, id, subject);
        let outcome =
            self.bell.on_behalf(self.slots[place as usize], &errand, |ctx| call.resume(ctx, Cause::Signal));
        self.forget(place);
        match outcome {
            Err(Errno::EINTR) => {
                if trace::interrupt(&listener, id, subject.tid, interrupted).is_err() {
                    // Somebody else traces it.
                    errand.finish(Err(libc::EINTR));
                }
            }
            Ok(Outcome::Done(value)) => errand.finish(Ok(value)),
            Ok(Outcome::Blocked) => errand.finish(Err(libc::EINTR)),
            Err(error) => errand.finish(Err(error.raw())),
        }
    }

    /// Nobody waits for the end of that call any more.
    fn give_up(&mut self, place: u32) {
        let Some(sleeper) = &self.sleepers[place as usize] else { return };
        let errand = Errand::new(&self.listener, sleeper.id, sleeper.subject);
        let _ = self.bell.on_behalf(self.slots[place as usize], &errand, |ctx| {
            engine::reap::give_up(ctx);
            Ok(())
        });
        self.forget(place);
    }

    /// Puts right what processes have left that have ended.
    fn see_ends(&mut self) {
        let mut events = [EpollEvent::empty(); 16];
        let ready = self.watch.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in &events[..ready] {
            self.bury(u32::try_from(event.data()).unwrap_or(0));
        }
    }

    fn bury(&mut self, tgid: u32) {
        if !self.targets.has_ended(tgid) {
            return;
        }
        let its = |sleeper: &Option<Sleeper>| sleeper.as_ref().is_some_and(|s| s.subject.tgid == tgid);
        let places: Vec<usize> =
            self.sleepers.iter().enumerate().filter(|(_, s)| its(s)).map(|(place, _)| place).collect();
        for place in places {
            self.give_up(u32::try_from(place).unwrap_or(PLACES));
        }
        self.targets.bury(tgid);
        self.go_on();
    }
}
