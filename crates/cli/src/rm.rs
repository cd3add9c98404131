//! `ipcspace rm`: removes objects of a namespace, with the letters of ipcrm(1), or a namespace that is served.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use broker::posix;
use broker::service::Service;
use broker::sysv::Objects;
use clap::{Args, ValueEnum};

use crate::output;
use crate::source::{self, Place, Unreachable};
use crate::table::printable;

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
#[command(
    after_help = "With --namespace alone, a namespace that 'serve' keeps is ended, with all that is in it."
)]
pub(crate) struct Rm {
    /// Remove the shared memory segment of this identifier
    #[arg(short = 'm', long, value_name = "ID")]
    shmem_id: Vec<i32>,
    /// Remove the shared memory segment of this key
    #[arg(short = 'M', long, value_name = "KEY", value_parser = key, allow_negative_numbers = true)]
    shmem_key: Vec<i32>,
    /// Remove the message queue of this identifier
    #[arg(short = 'q', long, value_name = "ID", required_unless_present_any = [
        "shmem_id", "shmem_key", "queue_key", "semaphore_id", "semaphore_key", "posix_mqueue", "all",
        "namespace",
    ])]
    queue_id: Vec<i32>,
    /// Remove the message queue of this key
    #[arg(short = 'Q', long, value_name = "KEY", value_parser = key, allow_negative_numbers = true)]
    queue_key: Vec<i32>,
    /// Remove the semaphore set of this identifier
    #[arg(short = 's', long, value_name = "ID")]
    semaphore_id: Vec<i32>,
    /// Remove the semaphore set of this key
    #[arg(short = 'S', long, value_name = "KEY", value_parser = key, allow_negative_numbers = true)]
    semaphore_key: Vec<i32>,
    /// Remove the POSIX message queue of this name
    #[arg(long, value_name = "NAME")]
    posix_mqueue: Vec<OsString>,
    /// Remove all, or all of a kind
    #[arg(short, long, value_name = "KIND", num_args = 0..=1, require_equals = true, default_missing_value = "every")]
    all: Option<All>,
    /// Say what is removed
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum All {
    Shm,
    Msg,
    Sem,
    /// POSIX message queues
    Pmsg,
    #[value(hide = true)]
    Every,
}

/// A key as C writes numbers: decimal, 0x hexadecimal, 0 octal.
fn key(text: &str) -> Result<i32, String> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (digits, radix) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        None => (digits, 10),
    };
    let number = u32::from_str_radix(digits, radix).map_err(|error| error.to_string())?;
    if number == 0 {
        return Err("private objects have no key; remove them by identifier".into());
    }
    // A key is 32 bits, which tools show with or without a sign.
    Ok(if negative { number.wrapping_neg() } else { number }.cast_signed())
}

/// One kind of objects: how it is named, found and removed.
#[derive(Debug, Clone, Copy)]
struct Kind {
    name: &'static str,
    of_key: fn(Objects, i32) -> io::Result<i32>,
    remove: fn(Objects, i32) -> io::Result<()>,
}

const SEGMENT: Kind =
    Kind { name: "shared memory segment", of_key: Objects::segment_of, remove: Objects::remove_segment };
const QUEUE: Kind = Kind { name: "message queue", of_key: Objects::queue_of, remove: Objects::remove_queue };
const SET: Kind = Kind { name: "semaphore set", of_key: Objects::set_of, remove: Objects::remove_set };

const POSIX_QUEUE: &str = "POSIX message queue";

pub(crate) fn rm(rm: &Rm) -> ExitCode {
    if let Some(name) = rm.place.name().filter(|_| rm.names_no_objects()) {
        return remove_namespace(name);
    }
    let objects = match source::enter(&rm.place) {
        Ok(objects) => objects,
        Err(error) => {
            eprintln!("ipcspace: {error}");
            return ExitCode::FAILURE;
        }
    };
    let by_id = |kind: Kind, ids: &[i32]| every(ids.iter().map(|id| rm.remove(objects, kind, *id, "id", id)));
    let mut good = by_id(SEGMENT, &rm.shmem_id);
    good &= rm.by_key(objects, SEGMENT, &rm.shmem_key);
    good &= by_id(QUEUE, &rm.queue_id);
    good &= rm.by_key(objects, QUEUE, &rm.queue_key);
    good &= by_id(SET, &rm.semaphore_id);
    good &= rm.by_key(objects, SET, &rm.semaphore_key);
    good &= every(rm.posix_mqueue.iter().map(|name| rm.unlink(objects, name.as_bytes())));
    if let Some(all) = rm.all {
        good &= rm.all(objects, all);
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Does all, and says whether all was good.
fn every(results: impl Iterator<Item = bool>) -> bool {
    results.fold(true, |good, result| good & result)
}

/// Ends a namespace that is served.
fn remove_namespace(name: &str) -> ExitCode {
    let refused = match Service::remove(name) {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => Unreachable::Unknown(name.to_owned()),
        Err(error) => error.into(),
    };
    eprintln!("ipcspace: {refused}");
    ExitCode::FAILURE
}

impl Rm {
    fn names_no_objects(&self) -> bool {
        let lists = [
            &self.shmem_id,
            &self.shmem_key,
            &self.queue_id,
            &self.queue_key,
            &self.semaphore_id,
            &self.semaphore_key,
        ];
        self.all.is_none() && self.posix_mqueue.is_empty() && lists.iter().all(|list| list.is_empty())
    }

    fn by_key(&self, objects: Objects, kind: Kind, keys: &[i32]) -> bool {
        let remove = |key: i32| {
            let shown = format!("0x{key:08x}");
            match (kind.of_key)(objects, key) {
                Ok(id) => self.remove(objects, kind, id, "key", &shown),
                Err(error) => complain(kind.name, "key", &shown, &error),
            }
        };
        every(keys.iter().map(|&key| remove(key)))
    }

    fn all(&self, objects: Objects, all: All) -> bool {
        let mut found = Vec::new();
        let listed = (|| {
            if matches!(all, All::Shm | All::Every) {
                found.extend(objects.segments()?.iter().map(|segment| (SEGMENT, segment.perm.id)));
            }
            if matches!(all, All::Msg | All::Every) {
                found.extend(objects.queues()?.iter().map(|queue| (QUEUE, queue.perm.id)));
            }
            if matches!(all, All::Sem | All::Every) {
                found.extend(objects.sets()?.iter().map(|set| (SET, set.perm.id)));
            }
            io::Result::Ok(())
        })();
        if let Err(error) = listed {
            eprintln!("ipcspace: cannot read the objects: {error}");
            return false;
        }
        let good = every(found.iter().map(|(kind, id)| self.remove(objects, *kind, *id, "id", id)));
        if objects == Objects::OfKernel || !matches!(all, All::Pmsg | All::Every) {
            return good;
        }
        match posix::queues() {
            Ok(queues) => {
                good & every(
                    queues.iter().map(|queue| self.unlink(objects, &queue.name().collect::<Vec<_>>())),
                )
            }
            Err(error) => {
                eprintln!("ipcspace: cannot read the objects: {error}");
                false
            }
        }
    }

    /// What is verbose is said where it can be: to be removed is what counts.
    fn say(&self, line: &str) {
        if self.verbose
            && let Err(error) = output::print(line)
        {
            eprintln!("ipcspace: {error}");
        }
    }

    /// Removes a POSIX queue.
    fn unlink(&self, objects: Objects, name: &[u8]) -> bool {
        let shown = format!("/{}", printable(String::from_utf8_lossy(name).trim_start_matches('/')));
        if objects == Objects::OfKernel {
            eprintln!(
                "ipcspace: the kernel's POSIX queues are removed where an mqueue file system is mounted"
            );
            return false;
        }
        self.say(&format!("removing POSIX message queue '{shown}'\n"));
        posix::unlink(name).map_or_else(|error| complain(POSIX_QUEUE, "name", &shown, &error), |()| true)
    }

    fn remove(&self, objects: Objects, kind: Kind, id: i32, by: &str, shown: &dyn std::fmt::Display) -> bool {
        self.say(&format!("removing {} {by} '{shown}'\n", kind.name));
        (kind.remove)(objects, id).map_or_else(|error| complain(kind.name, by, shown, &error), |()| true)
    }
}

fn complain(name: &str, by: &str, shown: &dyn std::fmt::Display, error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOENT | libc::EIDRM) => {
            eprintln!("ipcspace: there is no {name} with the {by} {shown}");
        }
        Some(libc::EPERM | libc::EACCES) => {
            eprintln!(
                "ipcspace: the {name} with the {by} {shown} is not yours: its owner or creator may remove it"
            );
        }
        _ => eprintln!("ipcspace: cannot remove the {name} with the {by} {shown}: {error}"),
    }
    false
}

#[cfg(test)]
mod tests {
    use super::key;

    #[test]
    fn keys_are_read_as_c_does() {
        assert_eq!(key("12"), Ok(12));
        assert_eq!(key("0x1F"), Ok(31));
        assert_eq!(key("017"), Ok(15));
        assert_eq!(key("0xfffffffb"), Ok(-5));
        assert_eq!(key("-5"), Ok(-5));
        for bad in ["", "0", "x", "0x", "0x100000000", "08", "1 "] {
            assert!(key(bad).is_err(), "{bad}");
        }
    }
}
