//! Sets of System V semaphores.

use std::mem;
use std::thread;
use std::time::{Duration, Instant};

use abi::{
    Errno,
    ipc::{IPC_CREAT, IPC_EXCL, IPC_NOWAIT, IPC_RMID, IPC_STAT},
    sem::{GETALL, GETNCNT, GETVAL, GETZCNT, SEM_UNDO, SEMVMX, SETVAL, SemBuf, Semid64Ds},
};
use engine::syscall::{Semctl, Semget, Semtimedop};

use crate::backend::{Backend, Raw, address_of, address_to_read};
use crate::queue::flags;
use crate::time::{Wait, left, timespec};
use crate::{Error, Key, Limit, Result};

/// How long whoever makes a set may take to give it its values.
const PATIENCE: Duration = Duration::from_secs(5);
/// Operations of a call that need no allocation.
const FEW: usize = 4;

/// To open or make a set: by [`crate::Namespace::semaphores`].
///
/// ```
/// use ipcspace::{Key, Namespace};
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let ns = Namespace::private()?;
/// let slots = ns.semaphores(2).key(Key::new(9)).create(true).initial(4).open()?;
/// assert_eq!(slots.values()?, [4, 4]);
/// // One that is there keeps its values.
/// assert_eq!(ns.semaphores(2).key(Key::new(9)).create(true).initial(7).open()?.values()?, [4, 4]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct SemaphoresOptions {
    backend: Backend,
    key: Key,
    count: usize,
    create: bool,
    create_new: bool,
    mode: u32,
    initial: u16,
}

impl SemaphoresOptions {
    pub(crate) fn new(backend: Backend, count: usize) -> SemaphoresOptions {
        let key = Key::PRIVATE;
        SemaphoresOptions { backend, key, count, create: false, create_new: false, mode: 0o600, initial: 0 }
    }

    /// The key by which others find it.
    pub fn key(mut self, key: Key) -> SemaphoresOptions {
        self.key = key;
        self
    }

    /// Whether it is made if there is none.
    pub fn create(mut self, create: bool) -> SemaphoresOptions {
        self.create = create;
        self
    }

    /// Whether it must be made: one that is there is `EEXIST`.
    pub fn create_new(mut self, create_new: bool) -> SemaphoresOptions {
        self.create_new = create_new;
        self
    }

    /// Who may use a new one, and what of it is asked for of one that is there: nine bits, 0o600 at first.
    pub fn mode(mut self, mode: u32) -> SemaphoresOptions {
        self.mode = mode;
        self
    }

    /// The value that each semaphore of a new set has, 0 at first. Who opens the set meanwhile waits until it has them, if it says a value as well.
    pub fn initial(mut self, value: u16) -> SemaphoresOptions {
        self.initial = value;
        self
    }

    /// Opens it.
    ///
    /// # Errors
    /// Those of semget(2); `ERANGE` for a value that is too large; `ETIMEDOUT` if whoever has made it gives it no values.
    pub fn open(&self) -> Result<Semaphores> {
        let mode = flags("semget", self.create, self.create_new, self.mode)?;
        if i32::from(self.initial) > SEMVMX {
            return Err(too_large("semget"));
        }
        let create = mode & IPC_CREAT != 0 || self.key == Key::PRIVATE;
        // Only who makes it gives it values, so it has to know whether it does.
        if self.initial == 0 || !create {
            return self.get(mode);
        }
        match self.get(mode | IPC_CREAT | IPC_EXCL) {
            Ok(new) => {
                let all: Vec<(u16, u16)> =
                    (0..=u16::MAX).take(self.count).map(|at| (at, self.initial)).collect();
                // Not by SETALL: an operation has a time, by which others see that it was made.
                new.release_all(&all)?;
                Ok(new)
            }
            Err(error) if error.is(Errno::EEXIST) && mode & IPC_EXCL == 0 => {
                let there = self.get(mode & !IPC_CREAT)?;
                there.wait_until_used()?;
                Ok(there)
            }
            Err(error) => Err(error),
        }
    }

    fn get(&self, flags: i32) -> Result<Semaphores> {
        let count = i32::try_from(self.count).unwrap_or(i32::MAX);
        match self.backend.raw(&Semget { key: self.key.0, nsems: count, flags }) {
            // An identifier is an int.
            Ok(id) => Ok(Semaphores { backend: self.backend, id: id as i32, undo: false }),
            Err(errno) => Err(self.backend.explain(
                "semget",
                errno,
                &[
                    (Errno::EINVAL, Limit::SemMsl, self.count as u64),
                    (Errno::ENOSPC, Limit::SemMns, self.count as u64),
                    (Errno::ENOSPC, Limit::SemMni, 1),
                ],
            )),
        }
    }
}

fn too_large(call: &'static str) -> Error {
    Error::new(call, Errno::ERANGE).with_limit(Limit::SemVmx, u64::try_from(SEMVMX).ok())
}

/// A set of semaphores.
///
/// ```
/// use ipcspace::Namespace;
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let ns = Namespace::private()?;
/// let set = ns.semaphores(3).initial(1).open()?;
/// {
///     let _both = set.acquire(&[(0, 1), (2, 1)])?; // at once, or not at all
///     assert_eq!(set.values()?, [0, 1, 0]);
///     assert!(set.try_acquire(&[(0, 1)]).unwrap_err().is_not_now());
/// } // given back
/// assert_eq!(set.values()?, [1, 1, 1]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Semaphores {
    backend: Backend,
    id: i32,
    undo: bool,
}

/// Operations of a call.
#[derive(Debug)]
enum Operations {
    Few([SemBuf; FEW], usize),
    Many(Vec<SemBuf>),
}

impl Operations {
    /// One for each semaphore and amount.
    #[inline]
    fn new(all: &[(u16, u16)], make: impl Fn(u16, i16) -> SemBuf, call: &'static str) -> Result<Operations> {
        let one = |&(at, amount): &(u16, u16)| match i16::try_from(amount) {
            Ok(amount) => Ok(make(at, amount)),
            Err(_) => Err(too_large(call)),
        };
        if all.len() > FEW {
            return Ok(Operations::Many(all.iter().map(one).collect::<Result<_>>()?));
        }
        let mut few = [SemBuf::default(); FEW];
        for (to, from) in few.iter_mut().zip(all) {
            *to = one(from)?;
        }
        Ok(Operations::Few(few, all.len()))
    }

    #[inline]
    fn all(&self) -> &[SemBuf] {
        match self {
            Operations::Few(few, count) => &few[..*count],
            Operations::Many(many) => many,
        }
    }

    #[inline]
    fn all_mut(&mut self) -> &mut [SemBuf] {
        match self {
            Operations::Few(few, count) => &mut few[..*count],
            Operations::Many(many) => many,
        }
    }
}

/// `semop` in the namespace that this process is in.
#[inline(never)]
fn operate_here(id: i32, all: &[SemBuf]) -> Raw {
    let (sops, nsops) = (address_to_read(all), all.len() as u64);
    client::call(&Semtimedop { id, sops, nsops, timeout: 0, time32: false })
}

impl Semaphores {
    /// Its identifier, for semop(2) and ipcs(1).
    pub fn id(&self) -> i32 {
        self.id
    }

    /// The same set; what is acquired and released by this handle is undone when the process ends, however it ends.
    #[must_use]
    pub fn undo(&self) -> Semaphores {
        Semaphores { undo: true, ..self.clone() }
    }

    /// Takes these amounts of these semaphores, all at once; waits until it can. They are given back when the guard goes.
    ///
    /// # Errors
    /// Those of semop(2).
    #[inline]
    pub fn acquire(&self, wanted: &[(u16, u16)]) -> Result<Guard<'_>> {
        self.acquire_by(Wait::ForEver, wanted)
    }

    /// As [`Semaphores::acquire`], if it can be done now.
    ///
    /// # Errors
    /// `EAGAIN` if it can't; those of semop(2).
    #[inline]
    pub fn try_acquire(&self, wanted: &[(u16, u16)]) -> Result<Guard<'_>> {
        self.acquire_by(Wait::Not, wanted)
    }

    /// As [`Semaphores::acquire`]; waits for so long.
    ///
    /// # Errors
    /// `ETIMEDOUT` if it could not; those of semop(2).
    pub fn acquire_timeout(&self, wanted: &[(u16, u16)], timeout: Duration) -> Result<Guard<'_>> {
        self.acquire_by(Wait::during(timeout), wanted)
    }

    /// As [`Semaphores::acquire`]; waits until then.
    ///
    /// # Errors
    /// `ETIMEDOUT` if it could not; those of semop(2).
    pub fn acquire_deadline(&self, wanted: &[(u16, u16)], deadline: Instant) -> Result<Guard<'_>> {
        self.acquire_by(Wait::Until(deadline), wanted)
    }

    #[inline]
    fn acquire_by(&self, wait: Wait, wanted: &[(u16, u16)]) -> Result<Guard<'_>> {
        let mut taken = Operations::new(wanted, |at, amount| self.one(at, -amount), "semop")?;
        self.operate(wait, &mut taken)?;
        Ok(Guard { set: self, taken })
    }

    /// Adds these amounts to these semaphores, all at once.
    ///
    /// # Errors
    /// `ERANGE` if one gets too large; those of semop(2).
    #[inline]
    pub fn release(&self, given: &[(u16, u16)]) -> Result<()> {
        let mut given = Operations::new(given, |at, amount| self.one(at, amount), "semop")?;
        self.operate(Wait::ForEver, &mut given)
    }

    /// Waits until these semaphores are 0, all at once.
    ///
    /// # Errors
    /// Those of semop(2).
    pub fn wait_for_zero(&self, which: &[u16]) -> Result<()> {
        self.zero_by(Wait::ForEver, which)
    }

    /// As [`Semaphores::wait_for_zero`], if it is so now.
    ///
    /// # Errors
    /// `EAGAIN` if it is not; those of semop(2).
    pub fn try_wait_for_zero(&self, which: &[u16]) -> Result<()> {
        self.zero_by(Wait::Not, which)
    }

    /// As [`Semaphores::wait_for_zero`]; waits for so long.
    ///
    /// # Errors
    /// `ETIMEDOUT` if it did not come so; those of semop(2).
    pub fn wait_for_zero_timeout(&self, which: &[u16], timeout: Duration) -> Result<()> {
        self.zero_by(Wait::during(timeout), which)
    }

    fn zero_by(&self, wait: Wait, which: &[u16]) -> Result<()> {
        let mut zeros = Operations::Many(which.iter().map(|at| self.one(*at, 0)).collect());
        self.operate(wait, &mut zeros)
    }

    #[inline]
    fn one(&self, at: u16, amount: i16) -> SemBuf {
        SemBuf { sem_num: at, sem_op: amount, sem_flg: if self.undo { SEM_UNDO } else { 0 } }
    }

    /// As many as it has, in as many calls as it takes.
    fn release_all(&self, all: &[(u16, u16)]) -> Result<()> {
        let most = usize::try_from(self.backend.limit(Limit::SemOpm)?).unwrap_or(1).max(1);
        all.chunks(most).try_for_each(|some| self.release(some))
    }

    /// The way of nearly every call; what else there is, is not the caller's code.
    #[inline]
    fn operate(&self, wait: Wait, operations: &mut Operations) -> Result<()> {
        if self.backend == Backend::Own && matches!(wait, Wait::ForEver) {
            let all = operations.all();
            return operate_here(self.id, all)
                .map(|_| ())
                .map_err(|errno| self.refused(wait, errno, all.len()));
        }
        self.operate_further(wait, operations)
    }

    #[inline(never)]
    #[expect(clippy::cast_possible_truncation, reason = "the flag has few bits")]
    fn operate_further(&self, wait: Wait, operations: &mut Operations) -> Result<()> {
        if matches!(wait, Wait::Not) {
            for one in operations.all_mut() {
                one.sem_flg |= IPC_NOWAIT as i16;
            }
        }
        let all = operations.all();
        let (sops, nsops) = (address_to_read(all), all.len() as u64);
        let left = match wait {
            Wait::Until(deadline) => Some(timespec(left(deadline))),
            Wait::Not | Wait::ForEver => None,
        };
        let timeout = left.as_ref().map_or(0, address_to_read);
        let done = self.backend.raw(&Semtimedop { id: self.id, sops, nsops, timeout, time32: false });
        done.map(|_| ()).map_err(|errno| self.refused(wait, errno, all.len()))
    }

    #[cold]
    fn refused(&self, wait: Wait, errno: Errno, count: usize) -> Error {
        match (errno, wait) {
            (Errno::EAGAIN, Wait::Until(_)) => Error::new("semtimedop", Errno::ETIMEDOUT),
            (Errno::ERANGE, _) => too_large("semop"),
            (errno, _) => {
                self.backend.explain("semop", errno, &[(Errno::E2BIG, Limit::SemOpm, count as u64)])
            }
        }
    }

    fn control(&self, at: u16, cmd: i32, arg: u64) -> Result<i64> {
        self.backend.call("semctl", &Semctl { id: self.id, num: at.into(), cmd, arg })
    }

    /// The value of one.
    ///
    /// # Errors
    /// Those of semctl(2).
    pub fn value(&self, at: u16) -> Result<u16> {
        self.control(at, GETVAL, 0).map(|value| u16::try_from(value).unwrap_or(0))
    }

    /// All values.
    ///
    /// # Errors
    /// Those of semctl(2).
    pub fn values(&self) -> Result<Vec<u16>> {
        let mut values = vec![0u16; self.len()?];
        self.control(0, GETALL, address_of(values.as_mut_slice()))?;
        Ok(values)
    }

    /// How many there are.
    ///
    /// # Errors
    /// Those of semctl(2).
    pub fn len(&self) -> Result<usize> {
        Ok(usize::try_from(self.stat()?.sem_nsems).unwrap_or(0))
    }

    /// Never: a set has a semaphore at least.
    ///
    /// # Errors
    /// Those of semctl(2).
    pub fn is_empty(&self) -> Result<bool> {
        self.len().map(|len| len == 0)
    }

    fn stat(&self) -> Result<Semid64Ds> {
        self.backend.info("semctl", |arg| Semctl { id: self.id, num: 0, cmd: IPC_STAT, arg })
    }

    /// Sets the value of one, and forgets what was to be undone of it.
    ///
    /// # Errors
    /// `ERANGE` for one that is too large; those of semctl(2).
    pub fn set(&self, at: u16, value: u16) -> Result<()> {
        self.control(at, SETVAL, value.into()).map(|_| ()).map_err(|error| match error.is(Errno::ERANGE) {
            true => too_large("semctl"),
            false => error,
        })
    }

    /// How many sleep until one grows, and until it is 0.
    ///
    /// # Errors
    /// Those of semctl(2).
    pub fn waiting(&self, at: u16) -> Result<(usize, usize)> {
        let count = |cmd| Ok(usize::try_from(self.control(at, cmd, 0)?).unwrap_or(0));
        Ok((count(GETNCNT)?, count(GETZCNT)?))
    }

    fn wait_until_used(&self) -> Result<()> {
        let begun = Instant::now();
        while self.stat()?.sem_otime == 0 {
            if begun.elapsed() > PATIENCE {
                let text = "whoever has made the set has given it no values";
                return Err(Error::with_text("semget", Errno::ETIMEDOUT, text));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Removes the set. Whoever waits gets `EIDRM`.
    ///
    /// # Errors
    /// Those of semctl(2).
    pub fn remove(self) -> Result<()> {
        self.control(0, IPC_RMID, 0).map(|_| ())
    }
}

/// What was acquired, until it goes.
///
/// ```
/// use ipcspace::Namespace;
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let set = Namespace::private()?.semaphores(1).initial(2).open()?;
/// set.acquire(&[(0, 1)])?.keep(); // for good
/// let guard = set.acquire(&[(0, 1)])?;
/// guard.release()?; // as drop does, and tells whether it could
/// assert_eq!(set.value(0)?, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "what was acquired is given back when this goes"]
pub struct Guard<'a> {
    set: &'a Semaphores,
    taken: Operations,
}

impl Guard<'_> {
    /// Gives back what was acquired.
    ///
    /// # Errors
    /// Those of semop(2): the set may have been removed.
    #[inline]
    pub fn release(mut self) -> Result<()> {
        let given = self.give_back();
        mem::forget(self);
        given
    }

    /// It is not given back.
    pub fn keep(mut self) {
        // The room for many is freed still.
        self.taken = Operations::Few(Default::default(), 0);
    }

    #[inline]
    fn give_back(&mut self) -> Result<()> {
        let mut taken = mem::replace(&mut self.taken, Operations::Few(Default::default(), 0));
        if taken.all().is_empty() {
            return Ok(());
        }
        for one in taken.all_mut() {
            one.sem_op = -one.sem_op;
        }
        self.set.operate(Wait::ForEver, &mut taken)
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        // A set that was removed needs nothing back.
        let _ = self.give_back();
    }
}
