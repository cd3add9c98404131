//! Lists in shared memory that may go round in a circle, because somebody overwrote them.

/// A walk along a list, which notices that it goes in a circle after at most three rounds of it, without remembering where it has been
/// (Brent's algorithm).
pub(crate) struct Walk {
    /// A place where it has been.
    mark: u32,
    steps: u32,
    /// After how many steps the mark moves on.
    turn: u32,
}

impl Walk {
    /// A walk that has been nowhere.
    pub(crate) const fn new() -> Self {
        Self { mark: 0, steps: 0, turn: 1 }
    }

    /// Whether the walk, which comes to `place` (never 0), was there before.
    pub(crate) fn circles(&mut self, place: u32) -> bool {
        if place == self.mark {
            return true;
        }
        self.steps += 1;
        if self.steps == self.turn {
            (self.mark, self.steps, self.turn) = (place, 0, self.turn.saturating_mul(2));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::Walk;

    /// After how many steps a walk from place 1, in a list of `tail` places that leads into a circle of `circle`, notices it.
    fn noticed(tail: u32, circle: u32) -> u32 {
        let mut walk = Walk::new();
        let places = (1..=tail).chain((tail + 1..=tail + circle).cycle());
        places.take_while(|&place| !walk.circles(place)).count() as u32
    }

    #[test]
    fn a_circle_is_noticed_soon_and_a_list_is_none() {
        for tail in 0..40 {
            for circle in 1..40 {
                let steps = noticed(tail, circle);
                assert!(steps >= tail + circle, "{tail} {circle}: a place was taken for one that was seen");
                assert!(steps <= 3 * tail.max(circle) + circle, "{tail} {circle}: after {steps} steps");
            }
        }
        let mut walk = Walk::new();
        assert!((1..1_000_000).all(|place| !walk.circles(place)));
    }
}
