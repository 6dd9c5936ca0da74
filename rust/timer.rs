//! When which flow wants to be looked at, pure: a heap with one live entry per flow.
//!
//! Deadlines move later all the time (every acknowledgement re-starts a retransmission timer). Such a move costs
//! nothing: the old entry stays, comes up early, and its flow says when it wants to be looked at next. Only a move to
//! an earlier time adds an entry.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use smoltcp::time::Instant;

/// The pending deadlines; a `Token` names a flow.
#[derive(Debug, Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Instant, u64)>>,
}

impl Timers {
    /// Ask for `token` at `deadline`, unless the entry at `armed` comes up before that. Gives the entry now live.
    pub fn arm(&mut self, token: u64, deadline: Instant, armed: Option<Instant>) -> Instant {
        match armed {
            Some(earlier) if earlier <= deadline => earlier,
            _ => {
                self.heap.push(Reverse((deadline, token)));
                deadline
            }
        }
    }

    /// Take the next token whose time has come, with that time.
    pub fn expired(&mut self, now: Instant) -> Option<(Instant, u64)> {
        if self.heap.peek()?.0.0 > now {
            return None;
        }
        self.heap.pop().map(|entry| entry.0)
    }

    /// Give the number of entries.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Say whether there are none.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Give the time at which `expired` will have something.
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|entry| entry.0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn tokens_come_up_in_order_and_not_early() {
        let mut timers = Timers::default();
        timers.arm(1, at(30), None);
        timers.arm(2, at(10), None);
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.expired(at(9)), None);
        assert_eq!(timers.expired(at(40)), Some((at(10), 2)));
        assert_eq!(timers.expired(at(40)), Some((at(30), 1)));
        assert_eq!(timers.expired(at(40)), None);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn later_deadline_keeps_the_entry_and_an_earlier_one_adds_it() {
        let mut timers = Timers::default();
        let armed = timers.arm(1, at(10), None);
        assert_eq!(timers.arm(1, at(99), Some(armed)), at(10));
        assert_eq!(timers.heap.len(), 1);
        assert_eq!(timers.arm(1, at(5), Some(armed)), at(5));
        assert_eq!(timers.expired(at(5)), Some((at(5), 1)));
    }
}
