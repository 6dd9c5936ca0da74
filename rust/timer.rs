//! When which flow wants to be looked at, pure: a heap with one live entry per flow.
//!
//! Deadlines move later all the time (every acknowledgement re-starts a retransmission timer). Such a move costs
//! nothing: the old entry stays, comes up early, and its flow says when it wants to be looked at next. Only a move to
//! an earlier time adds an entry. The one that it replaces is dead, as are those of flows that have ended: they are
//! dropped when they come up, or when they are the most.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use smoltcp::time::Instant;

/// So many dead entries are not worth looking for.
const SPARE: usize = 1024;

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

    /// Drop dead entries, where there may be more of them than the `most` that can be live.
    pub fn tidy(&mut self, most: usize, is_live: impl Fn(Instant, u64) -> bool) {
        if self.heap.len() > 2 * most + SPARE {
            self.heap.retain(|entry| is_live(entry.0.0, entry.0.1));
        }
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
    fn dead_entries_are_dropped_when_they_are_the_most() {
        let mut timers = Timers::default();
        for token in 0..SPARE as u64 + 2 {
            timers.arm(token, at(token as i64), None);
        }
        timers.tidy(1, |_, token| token == 7);
        assert_eq!(timers.len(), SPARE + 2);
        timers.arm(7, at(1), Some(at(7)));
        timers.tidy(1, |time, token| (time, token) == (at(1), 7));
        assert_eq!(timers.expired(at(99)), Some((at(1), 7)));
        assert_eq!(timers.len(), 0);
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
