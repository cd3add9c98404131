//! Which paths are the namespace's.
//!
//! # Safety
//! A path is looked at only after the kernel has read it and did not answer `EFAULT`.

use engine::{ipc_sysctl::Sysctl, proc::Sysvipc};

pub(super) const SYSVIPC: &[u8] = b"/proc/sysvipc/";
pub(super) const SYSCTL: &[u8] = b"/proc/sys/kernel/";
/// Bytes of the longest last component.
const LONGEST: usize = b"shm_rmid_forced".len();

/// One of the namespace's files.
#[derive(Clone, Copy)]
pub(super) enum File {
    Sysvipc(Sysvipc),
    Sysctl(&'static Sysctl),
}

unsafe extern "C" {
    fn strlen(text: *const u8) -> usize;
}

/// The bytes of a path.
///
/// # Safety
/// A terminated string.
pub(super) unsafe fn text<'a>(path: usize) -> &'a [u8] {
    let start = path as *const u8;
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(start, strlen(start)) }
}

/// Whether a path can name one of the files: by its last component alone.
///
/// # Safety
/// A terminated string.
#[inline(always)]
pub(super) unsafe fn may_be_ours(path: usize) -> bool {
    // SAFETY: the caller's promise.
    let text = unsafe { text(path) };
    // The letters that their names end with.
    matches!(text.last(), Some(b'b' | b'c' | b'd' | b'g' | b'i' | b'l' | b'm' | b'x')) && has_name(text)
}

#[cold]
fn has_name(text: &[u8]) -> bool {
    let end = &text[text.len().saturating_sub(LONGEST + 1)..];
    let name = end.rsplit(|byte| *byte == b'/').next().unwrap_or(end);
    Sysvipc::named(name).is_some() || Sysctl::of_file(name).is_some() || name == b"ipc"
}

/// The file of a path in its normal form.
pub(super) fn of_path(path: &[u8]) -> Option<File> {
    if let Some(name) = path.strip_prefix(SYSVIPC) {
        return Sysvipc::named(name).map(File::Sysvipc);
    }
    Sysctl::of_file(path.strip_prefix(SYSCTL)?).map(File::Sysctl)
}
