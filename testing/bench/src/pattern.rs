//! Regular expressions, by libc.

use std::ffi::c_void;
use std::{mem, ptr};

use crate::Outcome;

/// A compiled POSIX extended regular expression.
pub(crate) struct Pattern(libc::regex_t);

impl Pattern {
    pub(crate) fn new(source: &str) -> Outcome<Pattern> {
        let c_source = std::ffi::CString::new(source)?;
        // SAFETY: all-zero is a valid value of this plain C structure, to be filled by regcomp.
        let mut compiled: libc::regex_t = unsafe { mem::zeroed() };
        // SAFETY: both pointers are valid for the call.
        let error =
            unsafe { libc::regcomp(&mut compiled, c_source.as_ptr(), libc::REG_EXTENDED | libc::REG_NOSUB) };
        if error != 0 {
            return Err(format!("{source:?} is no regular expression").into());
        }
        Ok(Pattern(compiled))
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        let Ok(name) = std::ffi::CString::new(name) else { return false };
        // SAFETY: the expression is compiled; no match positions are asked for.
        unsafe { libc::regexec(&self.0, name.as_ptr(), 0, ptr::null_mut::<c_void>().cast(), 0) == 0 }
    }
}

impl Drop for Pattern {
    fn drop(&mut self) {
        // SAFETY: compiled by regcomp, and not used any more.
        unsafe { libc::regfree(&mut self.0) };
    }
}
