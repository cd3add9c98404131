//! Time (`<linux/time.h>`).

/// A clock, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Clock {
    /// `CLOCK_REALTIME`: since 1970. It can be set.
    Realtime = 0,
    /// `CLOCK_MONOTONIC`.
    Monotonic = 1,
}

crate::plain::plain! {
    /// `struct timespec`.
    pub struct Timespec {
        /// Seconds.
        pub tv_sec: i64,
        /// Nanoseconds below a second.
        pub tv_nsec: i64,
    }
}

impl Timespec {
    /// How many nanoseconds it is, as far as they can be counted; none if it is no time.
    pub fn duration_ns(self) -> Option<u64> {
        let nanoseconds = u64::try_from(self.tv_nsec).ok().filter(|ns| *ns < 1_000_000_000)?;
        let seconds = u64::try_from(self.tv_sec).ok()?;
        Some(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_time() {
        let ns = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec }.duration_ns();
        assert_eq!(ns(2, 999_999_999), Some(2_999_999_999));
        assert_eq!(ns(i64::MAX, 0), Some(u64::MAX), "longer than can be counted");
        assert_eq!([ns(0, -1), ns(0, 1_000_000_000), ns(-1, 0)], [None; 3]);
    }
}
