//! Things of several users, taken by turns: however many one user has, another one's waits for one of each.

use std::collections::{HashMap, VecDeque};

/// Queues of users.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    queues: HashMap<u32, VecDeque<T>>,
    /// The users who have any, in the order of their turns.
    order: VecDeque<u32>,
}

impl<T> Default for Turns<T> {
    fn default() -> Turns<T> {
        Turns { queues: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T> Turns<T> {
    /// Adds one thing of a user's.
    pub(crate) fn push(&mut self, uid: u32, thing: T) {
        let queue = self.queues.entry(uid).or_default();
        if queue.is_empty() {
            self.order.push_back(uid);
        }
        queue.push_back(thing);
    }

    /// Takes the oldest thing of the user whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let uid = self.order.pop_front()?;
        let queue = self.queues.get_mut(&uid)?;
        let thing = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&uid);
        } else {
            self.order.push_back(uid);
        }
        thing
    }

    /// How many users have anything.
    pub(crate) fn users(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_with_many_does_not_keep_another_waiting() {
        let mut turns = Turns::default();
        (0..100).for_each(|n| turns.push(1, (1, n)));
        turns.push(2, (2, 0));
        turns.push(3, (3, 0));
        turns.push(2, (2, 1));
        let first: Vec<_> = (0..6).filter_map(|_| turns.pop()).collect();
        assert_eq!(first, [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (1, 2)]);
        assert_eq!(turns.users(), 1);
        assert_eq!(std::iter::from_fn(|| turns.pop()).count(), 97);
        assert_eq!(turns.users(), 0);
    }
}
