//! The shortest sequence that still shows a difference.

use std::time::{Duration, Instant};

/// Removes from `steps` what `fails` does not need: ever smaller pieces, as long as there is time.
pub fn shrink<T: Clone>(steps: &[T], limit: Duration, mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let deadline = Instant::now() + limit;
    let mut steps = steps.to_vec();
    let mut piece = steps.len().div_ceil(2);
    while piece > 0 {
        let mut removed = false;
        // From the end: what comes late is seldom needed, and shortens what has to be played again.
        let mut end = steps.len();
        while end > 0 && Instant::now() < deadline {
            let start = end.saturating_sub(piece);
            let rest = [&steps[..start], &steps[end..]].concat();
            if fails(&rest) {
                steps = rest;
                removed = true;
            }
            end = start;
        }
        piece = match piece {
            _ if Instant::now() >= deadline => 0,
            1 if removed => 1,
            piece => piece / 2,
        };
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_needed_remains() {
        let steps: Vec<u32> = (0..1000).collect();
        let needs = |steps: &[u32]| [3, 500, 999].iter().all(|step| steps.contains(step));
        assert_eq!(shrink(&steps, Duration::from_secs(60), needs), [3, 500, 999]);
    }

    #[test]
    fn without_time_nothing_is_lost() {
        let steps: Vec<u32> = (0..10).collect();
        assert_eq!(shrink(&steps, Duration::ZERO, |_| true), steps);
    }
}
