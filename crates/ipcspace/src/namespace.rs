//! Where the objects are.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use abi::Errno;
use broker::detached::{self, Refused};
use broker::service::{self, Lease, Service};
use client::wire::SOCKET_ENV;

use crate::backend::{Backend, is_preloaded};
use crate::limit::SEM_VALUES;
use crate::{
    Error, Key, Limit, MqueueOptions, QueueOptions, Result, SemaphoresOptions, Share, SharedOptions,
};

/// Where this process is, if it is in a namespace of user space.
static PLACE: Mutex<Option<PathBuf>> = Mutex::new(None);

/// A place for objects: a namespace of user space, or that of the system.
///
/// A process is in one namespace of user space at most: to open the same one again gives the same, another one is `EBUSY`.
///
/// ```
/// use ipcspace::{Key, Namespace};
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let ns = Namespace::private()?;
/// let queue = ns.queue(Key::new(1)).create_new(true).mode(0o600).open()?;
/// assert_eq!(queue.status()?.messages, 0);
///
/// let error = Namespace::open("somewhere-else").unwrap_err();
/// assert_eq!(error.to_string(), "namespace: there is no namespace 'somewhere-else'");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Namespace {
    pub(crate) backend: Backend,
}

impl Namespace {
    /// A new namespace of this process and the children that it forks from now on. It ends with the last of them.
    ///
    /// It is served by a process of its own, `ipcspace-broker`, which is forked off here, so that whoever dies, what it had in its
    /// hands is put right. Call this early: what the process has in memory by now, the broker shares with it, copied when either changes it.
    ///
    /// # Errors
    /// `EBUSY` if the process is in a namespace already; those of having no memory, no descriptor, or no place for the broker's socket.
    pub fn private() -> Result<Namespace> {
        Namespace::builder("").create()
    }

    /// The namespace of that name: of `ipcspace serve`, of `ipcspace run --name`, or of another program's [`Builder::create`]. It lives as long as this process,
    /// if not longer.
    ///
    /// # Errors
    /// `ENOENT` if there is none, `EBUSY` if the process is in another one, `EPROTO` if it is another version's, `EINVAL` for what is no name.
    pub fn open(name: &str) -> Result<Namespace> {
        let unknown =
            || Error::with_text("namespace", Errno::ENOENT, format!("there is no namespace '{name}'"));
        enter(|| Service::join(name).map_err(of_service)?.ok_or_else(unknown))
    }

    /// The namespace that `ipcspace run` has started this program in.
    ///
    /// # Errors
    /// `ENOENT` if it has not, `EBUSY` if the process has gone to another one.
    pub fn current() -> Result<Namespace> {
        let Some(socket) = env::var_os(SOCKET_ENV).map(PathBuf::from) else {
            let text = "this program was not started by 'ipcspace run'";
            return Err(Error::with_text("namespace", Errno::ENOENT, text));
        };
        // The library's part of this process is there already.
        if is_preloaded() {
            return Ok(Namespace::kernel());
        }
        let mut place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
        go_to(&mut place, &socket, |_| Ok(()))
    }

    /// The kernel's own objects, by system calls: the namespace(7) of the kernel's that this process is in. Within `ipcspace run`, system
    /// calls are answered by that one.
    pub const fn kernel() -> Namespace {
        Namespace { backend: Backend::System }
    }

    /// To make a namespace with limits of its own. Without a name (`""`) it is a private one.
    pub fn builder(name: &str) -> Builder {
        Builder { name: name.to_owned(), limits: Vec::new() }
    }

    /// What a limit is here.
    ///
    /// # Errors
    /// Those of asking for it.
    pub fn limit(&self, limit: Limit) -> Result<u64> {
        self.backend.limit(limit)
    }

    /// To open or make a System V message queue.
    pub fn queue(&self, key: Key) -> QueueOptions {
        QueueOptions::new(self.backend, key)
    }

    /// To open or make a set of so many semaphores; without a key, a new one.
    pub fn semaphores(&self, count: usize) -> SemaphoresOptions {
        SemaphoresOptions::new(self.backend, count)
    }

    /// To open or make a segment of shared memory that is a `T`; without a key, a new one.
    pub fn shared<T: Share>(&self) -> SharedOptions<T> {
        SharedOptions::new(self.backend)
    }

    /// To open or make the POSIX message queue of that name, which begins with a slash.
    pub fn mqueue(&self, name: &str) -> MqueueOptions {
        MqueueOptions::new(self.backend, name)
    }
}

fn of_service(error: service::Error) -> Error {
    of_refused(error.into())
}

fn of_refused(refused: Refused) -> Error {
    Error::with_text("namespace", refused.errno, refused.text)
}

/// Goes to the namespace that there is a lease on.
fn enter(lease: impl FnOnce() -> Result<Lease>) -> Result<Namespace> {
    let mut place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    let lease = lease()?;
    let socket = lease.socket().to_owned();
    // The library's part of this process and this one would take each other's place.
    if is_preloaded() && env::var_os(SOCKET_ENV).is_some_and(|own| socket == Path::new(&own)) {
        return Ok(Namespace::kernel());
    }
    go_to(&mut place, &socket, |_| {
        lease.enter().map_err(|error| Error::with_text("namespace", Errno::EINVAL, error.to_string()))
    })
}

fn go_to(
    place: &mut Option<PathBuf>,
    socket: &Path,
    go: impl FnOnce(&Path) -> Result<()>,
) -> Result<Namespace> {
    match place {
        Some(there) if there != socket => Err(elsewhere()),
        Some(_) => Ok(Namespace { backend: Backend::Own }),
        None => {
            go(socket)?;
            client::unseen_mappings();
            *place = Some(socket.to_owned());
            Ok(Namespace { backend: Backend::Own })
        }
    }
}

fn elsewhere() -> Error {
    Error::with_text("namespace", Errno::EBUSY, "this process is in another namespace already")
}

/// To make a namespace with a name, or limits of its own.
///
/// ```
/// use ipcspace::{Limit, Namespace};
///
/// # fn main() -> Result<(), ipcspace::Error> {
/// let ns = Namespace::builder("").limit(Limit::MsgMax, 1 << 20).limit(Limit::SemOpm, 10).create()?;
/// assert_eq!((ns.limit(Limit::MsgMax)?, ns.limit(Limit::SemOpm)?), (1 << 20, 10));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    name: String,
    limits: Vec<(Limit, u64)>,
}

impl Builder {
    /// Sets a limit of it; the last one of several counts.
    pub fn limit(mut self, limit: Limit, value: u64) -> Builder {
        self.limits.push((limit, value));
        self
    }

    /// Makes it, and goes there. Others open it by its name, as long as somebody is in it.
    ///
    /// # Errors
    /// As [`Namespace::private`]; `EEXIST` if there is one of that name, `EINVAL` for a name that can't be one or a limit that is out of range.
    pub fn create(self) -> Result<Namespace> {
        with_sysctls(&self.name, &sysctls(&self.limits)?)
    }
}

/// As [`Builder::create`], with limits as sysctl(8) sets them.
///
/// # Errors
/// As there.
pub fn with_sysctls(name: &str, sysctls: &[(String, String)]) -> Result<Namespace> {
    let mut place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    if place.is_some() {
        return Err(elsewhere());
    }
    let name = Some(name).filter(|name| !name.is_empty());
    let lease = detached::make(name, sysctls).map_err(of_refused)?;
    let socket = lease.socket().to_owned();
    go_to(&mut place, &socket, |_| {
        lease.enter().map_err(|error| Error::with_text("namespace", Errno::EINVAL, error.to_string()))
    })
}

/// Limits as sysctl(8) sets them: those of semaphores are one.
fn sysctls(limits: &[(Limit, u64)]) -> Result<Vec<(String, String)>> {
    use abi::sem::{SEMMNI, SEMMNS, SEMMSL, SEMOPM};
    let mut all = Vec::new();
    let mut of_sets: [u64; SEM_VALUES] =
        [SEMMSL, SEMMNS, SEMOPM, SEMMNI].map(|value| u64::try_from(value).unwrap_or(0));
    let mut has_sets = false;
    for (limit, value) in limits {
        match limit.place() {
            Some(place) => {
                of_sets[place] = *value;
                has_sets = true;
            }
            None if *limit == Limit::SemVmx => {
                let error = Error::with_text("sysctl", Errno::EINVAL, "nobody can change this limit");
                return Err(error.with_limit(*limit, None));
            }
            None => all.push((limit.name().to_owned(), value.to_string())),
        }
    }
    if has_sets {
        let values = of_sets.map(|value| value.to_string()).join(" ");
        all.push((Limit::SemMsl.name().to_owned(), values));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_semaphores_are_one_sysctl() {
        let of = |limits: &[(Limit, u64)]| sysctls(limits).map_err(|error| error.errno());
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(of(&[(Limit::MsgMax, 5)]), Ok(vec![pair("kernel.msgmax", "5")]));
        let both = of(&[(Limit::SemOpm, 7), (Limit::SemMni, 9)]);
        assert_eq!(both, Ok(vec![pair("kernel.sem", "32000 1024000000 7 9")]));
        assert_eq!(of(&[(Limit::SemVmx, 5)]), Err(22));
    }
}
