//! Children of fork, for tests that need processes.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A child of fork that does some work and ends.
pub(crate) struct Child(i32);

/// Begins it.
pub(crate) fn fork(work: impl FnOnce()) -> Child {
    // SAFETY: the child runs the work, with libc's allocator made fit for that, and ends without unwinding out of here.
    match unsafe { libc::fork() } {
        0 => {
            let failed = catch_unwind(AssertUnwindSafe(work)).is_err();
            // SAFETY: ends the process.
            unsafe { libc::_exit(failed.into()) }
        }
        pid => {
            assert!(pid > 0, "fork");
            Child(pid)
        }
    }
}

impl Child {
    /// Waits for its end, which is to be a good one.
    pub(crate) fn join(self) {
        assert_eq!(self.wait(), 0, "the child's wait status");
    }

    /// Kills it.
    pub(crate) fn kill(self) {
        // SAFETY: a child of ours that was not waited for.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        assert_eq!(self.wait(), libc::SIGKILL);
    }

    fn wait(&self) -> i32 {
        let mut status = 0;
        // SAFETY: a valid place.
        assert_eq!(unsafe { libc::waitpid(self.0, &raw mut status, 0) }, self.0);
        status
    }
}
