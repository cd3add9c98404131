//! The sysctls of a namespace: names and values of its limits.
//!
//! What users see: `kernel.msgmax` and the others, with the kernel's ranges and errors.
//! What is missing: those of shared memory, and of POSIX queues.

use abi::{Errno, Result};
use arena::sync::{AtomicI32, Ordering::*};

use crate::namespace::{IpcNamespace, Limit};

/// One sysctl: its name and the limits it shows.
const SYSCTLS: [(&str, &[Limit]); 4] = [
    ("kernel.msgmax", &[Limit::MsgMax]),
    ("kernel.msgmnb", &[Limit::MsgMnb]),
    ("kernel.msgmni", &[Limit::MsgMni]),
    ("kernel.sem", &[Limit::SemMsl, Limit::SemMns, Limit::SemOpm, Limit::SemMni]),
];
/// Sysctls that set the identifier of the next object.
const NEXT_IDS: [&str; 2] = ["kernel.msg_next_id", "kernel.sem_next_id"];

impl IpcNamespace {
    /// The sysctls there are.
    pub fn sysctls() -> impl Iterator<Item = &'static str> {
        SYSCTLS.iter().map(|(name, _)| *name).chain(NEXT_IDS)
    }

    /// The values of a sysctl, in order; none if there is no such sysctl.
    pub fn sysctl(&self, name: &str) -> Option<impl Iterator<Item = i32> + '_> {
        let limits = SYSCTLS.iter().find(|(n, _)| *n == name).map(|(_, l)| *l);
        let next = self.next_id(name).map(|n| n.load(Relaxed));
        (limits.is_some() || next.is_some())
            .then(|| limits.unwrap_or(&[]).iter().map(|&l| self.limit(l)).chain(next))
    }

    fn next_id(&self, name: &str) -> Option<&AtomicI32> {
        match name {
            "kernel.msg_next_id" => Some(&self.msg_ids.next_id),
            "kernel.sem_next_id" => Some(&self.sem_ids.next_id),
            _ => None,
        }
    }

    /// Writes a sysctl as the kernel does: numbers separated by blanks; a short list changes only its beginning; what is out
    /// of range changes nothing, but `kernel.sem` keeps its first three values.
    ///
    /// # Errors
    /// `ENOENT` for an unknown name, `EINVAL` for what is no number or out of range, `ERANGE` for `semmni`.
    pub fn set_sysctl(&self, name: &str, text: &str) -> Result<()> {
        if let Some(next) = self.next_id(name) {
            let value = text.trim().parse().ok().filter(|v| *v >= 0).ok_or(Errno::EINVAL)?;
            next.store(value, Relaxed);
            return Ok(());
        }
        let (_, limits) = SYSCTLS.iter().find(|(n, _)| *n == name).ok_or(Errno::ENOENT)?;
        let mut words = text.split_ascii_whitespace();
        if words.clone().next().is_none()
            || words.clone().take(limits.len()).any(|w| w.parse::<i32>().is_err())
        {
            return Err(Errno::EINVAL);
        }
        for &limit in *limits {
            let Some(value) = words.next().and_then(|w| w.parse::<i32>().ok()) else { break };
            check_range(limit, value)?;
            self.set_limit(limit, value);
        }
        Ok(())
    }
}

#[expect(clippy::cast_possible_wrap, reason = "a constant")]
fn check_range(limit: Limit, value: i32) -> Result<()> {
    let most = abi::ipc::IPCMNI as i32;
    match limit {
        Limit::MsgMax | Limit::MsgMnb if value < 0 => Err(Errno::EINVAL),
        Limit::MsgMni if !(0..=most).contains(&value) => Err(Errno::EINVAL),
        Limit::SemMni if !(0..=most).contains(&value) => Err(Errno::ERANGE),
        _ => Ok(()),
    }
}
