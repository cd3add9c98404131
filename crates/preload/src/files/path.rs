//! The paths that a program opens.
//!
//! # Safety
//! A path is looked at only after the kernel has read it and did not answer `EFAULT`.

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

/// Whether a path can name a file of the namespace, or a namespace: by its last component alone.
///
/// # Safety
/// A terminated string.
#[inline(always)]
pub(super) unsafe fn may_be_ours(path: usize) -> bool {
    // SAFETY: the caller's promise.
    let text = unsafe { text(path) };
    super::queues::is_path(text)
        || client::files::may_be_ours(text)
        || matches!(text, [.., b'/', b'i', b'p', b'c'] | b"ipc")
}
