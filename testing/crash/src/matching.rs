//! Which lost messages can have been in the hands of killed receivers.

/// The receive that a client was in the middle of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Receive {
    pub(crate) queue: usize,
    pub(crate) mtype: i64,
    pub(crate) except: bool,
}

impl Receive {
    /// Whether it can have taken such a message.
    pub(crate) fn accepts(&self, queue: usize, mtype: i64) -> bool {
        self.queue == queue
            && match self.mtype {
                0 => true,
                wanted if wanted > 0 => (wanted == mtype) != self.except,
                limit => mtype <= -limit,
            }
    }

    /// A type that it accepts.
    pub(crate) fn some_type(&self) -> i64 {
        match (self.mtype, self.except) {
            (wanted, false) if wanted > 0 => wanted,
            (1, true) => 2,
            _ => 1,
        }
    }
}

/// The messages, given as (queue, type), that remain when each receive accounts for at most one of them, and as many
/// as possible are accounted for.
pub(crate) fn unaccounted(lost: &[(usize, i64)], receives: &[Receive]) -> Vec<usize> {
    let mut taken_by = vec![None; receives.len()];
    (0..lost.len())
        .filter(|&message| !assign(message, lost, receives, &mut taken_by, &mut vec![false; receives.len()]))
        .collect()
}

/// One step of Kuhn's matching: finds a receive for the message, moving others' where that helps.
fn assign(
    message: usize,
    lost: &[(usize, i64)],
    receives: &[Receive],
    taken_by: &mut [Option<usize>],
    visited: &mut [bool],
) -> bool {
    let (queue, mtype) = lost[message];
    for (i, receive) in receives.iter().enumerate() {
        if visited[i] || !receive.accepts(queue, mtype) {
            continue;
        }
        visited[i] = true;
        let free = match taken_by[i] {
            None => true,
            Some(other) => assign(other, lost, receives, taken_by, visited),
        };
        if free {
            taken_by[i] = Some(message);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(mtype: i64, except: bool) -> Receive {
        Receive { queue: 0, mtype, except }
    }

    #[test]
    fn filters_accept_what_msgrcv_would() {
        let accepted = |filter: Receive| (1..=4).filter(|&t| filter.accepts(0, t)).collect::<Vec<_>>();
        assert_eq!(accepted(receive(0, false)), [1, 2, 3, 4]);
        assert_eq!(accepted(receive(2, false)), [2]);
        assert_eq!(accepted(receive(2, true)), [1, 3, 4]);
        assert_eq!(accepted(receive(-3, false)), [1, 2, 3]);
        assert!(!receive(0, false).accepts(1, 1));
        for filter in
            [receive(0, false), receive(2, false), receive(1, true), receive(2, true), receive(-3, false)]
        {
            assert!(filter.accepts(0, filter.some_type()), "{filter:?}");
        }
    }

    #[test]
    fn a_receive_accounts_for_one_message_only() {
        assert_eq!(unaccounted(&[(0, 1), (0, 1)], &[receive(1, false)]), [1]);
        assert_eq!(unaccounted(&[(0, 1)], &[receive(2, false)]), [0]);
    }

    #[test]
    fn assignments_move_to_make_room() {
        assert!(unaccounted(&[(0, 1), (0, 2)], &[receive(0, false), receive(1, false)]).is_empty());
    }
}
