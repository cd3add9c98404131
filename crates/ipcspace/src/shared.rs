//! Segments of System V shared memory.
//!
//! # Safety
//! A reference into a segment is only ever to a type of atomics, which other processes may change at any time, and any bytes are a value of. The segment is
//! at least as large as the type, and stays mapped as long as the reference lives.
#![expect(unsafe_code, reason = "a mapping as a reference")]

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16, AtomicU32, AtomicU64,
    AtomicUsize,
};

use abi::{
    Errno,
    ipc::{IPC_RMID, IPC_STAT},
    shm::Shmid64Ds,
};
use engine::syscall::{Shmat, Shmctl, Shmget};

use crate::backend::Backend;
use crate::queue::flags;
use crate::{Error, Key, Limit, Result};

/// What can lie in shared memory: atomics, arrays of them, and structures that [`shared!`](crate::shared!) makes of them.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// use ipcspace::{Namespace, Share, Shared};
///
/// fn place<T: Share>() -> ipcspace::Result<Shared<T>> {
///     Namespace::private()?.shared().open()
/// }
///
/// let counters = place::<[AtomicU64; 4]>()?;
/// assert_eq!(counters[3].fetch_add(2, Relaxed), 0);
/// # Ok::<(), ipcspace::Error>(())
/// ```
///
/// A plain number is not among them, though it is `Sync`: another process could change it while it is read.
///
/// ```compile_fail
/// let counter = ipcspace::Namespace::kernel().shared::<u64>(); // not a type that may be shared
/// ```
///
/// # Safety
/// Any bytes must be a value, and nothing of it may be changed but through atomics.
pub unsafe trait Share: Sync + 'static {}

macro_rules! shared_atomics {
    ($($ty:ty)*) => { $(
        // SAFETY: an atomic whose every value is a number.
        unsafe impl Share for $ty {}
    )* };
}
shared_atomics! { AtomicI8 AtomicI16 AtomicI32 AtomicI64 AtomicIsize AtomicU8 AtomicU16 AtomicU32 AtomicU64 AtomicUsize }
// SAFETY: as its elements.
unsafe impl<T: Share, const N: usize> Share for [T; N] {}

/// Declares a structure for shared memory, of fields that are [`Share`].
///
/// ```
/// use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
///
/// ipcspace::shared! {
///     /// Samples, and how many there have been.
///     pub struct Ring {
///         written: AtomicU32,
///         samples: [AtomicU64; 64],
///     }
/// }
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let ring = ipcspace::Namespace::private()?.shared::<Ring>().open()?;
/// ring.samples[0].store(7, Relaxed);
/// assert_eq!(ring.written.fetch_add(1, Relaxed), 0);
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! shared {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$fmeta:meta])* $fvis:vis $field:ident : $ty:ty),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        $vis struct $name { $($(#[$fmeta])* $fvis $field: $ty),* }
        // SAFETY: each field is.
        unsafe impl $crate::Share for $name where $($ty: $crate::Share),* {}
    };
}

/// To open or make a segment: by [`crate::Namespace::shared`].
///
/// ```
/// use std::sync::atomic::AtomicU64;
/// use ipcspace::{Key, Namespace};
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let ns = Namespace::private()?;
/// let small = ns.shared::<[AtomicU64; 8]>().key(Key::new(3)).create(true).open()?;
/// // Who takes it for more than it is, is told.
/// assert_eq!(ns.shared::<[AtomicU64; 4096]>().key(Key::new(3)).open().unwrap_err().errno(), 22);
/// # drop(small);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct SharedOptions<T> {
    backend: Backend,
    key: Key,
    create: bool,
    create_new: bool,
    mode: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for SharedOptions<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedOptions").field("key", &self.key).finish_non_exhaustive()
    }
}

impl<T> Clone for SharedOptions<T> {
    fn clone(&self) -> SharedOptions<T> {
        SharedOptions { ..*self }
    }
}

impl<T: Share> SharedOptions<T> {
    pub(crate) fn new(backend: Backend) -> SharedOptions<T> {
        let key = Key::PRIVATE;
        SharedOptions { backend, key, create: false, create_new: false, mode: 0o600, of: PhantomData }
    }

    /// The key by which others find it.
    pub fn key(mut self, key: Key) -> SharedOptions<T> {
        self.key = key;
        self
    }

    /// Whether it is made if there is none; a new one is all zeros.
    pub fn create(mut self, create: bool) -> SharedOptions<T> {
        self.create = create;
        self
    }

    /// Whether it must be made: one that is there is `EEXIST`.
    pub fn create_new(mut self, create_new: bool) -> SharedOptions<T> {
        self.create_new = create_new;
        self
    }

    /// Who may use a new one, and what of it is asked for of one that is there: nine bits, 0o600 at first.
    pub fn mode(mut self, mode: u32) -> SharedOptions<T> {
        self.mode = mode;
        self
    }

    /// Opens it and maps it.
    ///
    /// # Errors
    /// Those of shmget(2) and shmat(2); `EINVAL` if one that is there is smaller.
    pub fn open(&self) -> Result<Shared<T>> {
        let flags = flags("shmget", self.create, self.create_new, self.mode)?;
        let size = size_of::<T>() as u64;
        let got = self.backend.raw(&Shmget { key: self.key.0, size, flags });
        let id = got.map_err(|errno| {
            let pages = size.div_ceil(abi::shm::SHMLBA);
            let wanted = [
                (Errno::EINVAL, Limit::ShmMax, size),
                (Errno::ENOSPC, Limit::ShmAll, pages),
                (Errno::ENOSPC, Limit::ShmMni, 1),
            ];
            self.backend.explain("shmget", errno, &wanted)
        })?;
        // An identifier is an int.
        let id = id as i32;
        let at = self.backend.call("shmat", &Shmat { id, addr: 0, flags: 0, raddr: None });
        let at = at.inspect_err(|_| self.forget_new(id))?.cast_unsigned() as usize;
        let place = NonNull::new(std::ptr::with_exposed_provenance_mut::<T>(at));
        let shared = place.map(|at| Shared { backend: self.backend, id, at });
        match shared.filter(|shared| shared.at.is_aligned()) {
            Some(shared) => Ok(shared),
            None => {
                Err(Error::with_text("shmat", Errno::EINVAL, "the type wants more than a page's alignment"))
            }
        }
    }

    /// One that nobody else can find, and that could not be mapped.
    fn forget_new(&self, id: i32) {
        if self.key == Key::PRIVATE {
            let _ = self.backend.raw(&Shmctl { id, cmd: IPC_RMID, buf: 0 });
        }
    }
}

/// A segment of shared memory that is a `T`, mapped as long as this lives.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
/// use ipcspace::{Key, Namespace};
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let ns = Namespace::private()?;
/// let one = ns.shared::<[AtomicU64; 512]>().key(Key::new(7)).create(true).open()?;
/// let other = ns.shared::<[AtomicU64; 512]>().key(Key::new(7)).open()?;
/// one[3].store(11, SeqCst);
/// assert_eq!(other[3].load(SeqCst), 11);
/// assert_eq!(one.attached()?, 2);
/// one.remove()?; // goes with the last mapping
/// # Ok(())
/// # }
/// ```
pub struct Shared<T: Share> {
    backend: Backend,
    id: i32,
    at: NonNull<T>,
}

// SAFETY: a reference to what is Sync, and nothing that is a thread's own.
unsafe impl<T: Share> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Share> Sync for Shared<T> {}

impl<T: Share> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: see the module's head.
        unsafe { self.at.as_ref() }
    }
}

impl<T: Share> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("id", &self.id).field("at", &self.at).finish()
    }
}

impl<T: Share> Shared<T> {
    /// Its identifier, for shmop(2) and ipcs(1).
    pub fn id(&self) -> i32 {
        self.id
    }

    /// How often it is mapped, by all processes.
    ///
    /// # Errors
    /// Those of shmctl(2).
    pub fn attached(&self) -> Result<u64> {
        Ok(self.stat()?.shm_nattch)
    }

    /// How many bytes it has: at least as many as a `T`.
    ///
    /// # Errors
    /// Those of shmctl(2).
    pub fn size(&self) -> Result<u64> {
        Ok(self.stat()?.shm_segsz)
    }

    fn stat(&self) -> Result<Shmid64Ds> {
        self.backend.info("shmctl", |buf| Shmctl { id: self.id, cmd: IPC_STAT, buf })
    }

    /// Removes the segment: nobody finds it any more, and its memory goes with the last mapping. This one stays.
    ///
    /// # Errors
    /// Those of shmctl(2).
    pub fn remove(&self) -> Result<()> {
        self.backend.call("shmctl", &Shmctl { id: self.id, cmd: IPC_RMID, buf: 0 }).map(|_| ())
    }
}

impl<T: Share> Drop for Shared<T> {
    fn drop(&mut self) {
        // Nothing to be done if it is not there any more.
        let _ = self.backend.detach(self.at.as_ptr().expose_provenance() as u64);
    }
}
