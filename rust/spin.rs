//! Whether to look again for a moment before going to sleep, pure.
//!
//! Being woken costs some 30 us. Where a request is answered sooner than that, looking again for up to LOOK is the
//! shorter wait; everywhere else it is wasted time of a processor. So it is earned: by waits that ended soon after they
//! began, one after the other, in rounds with next to nothing to do. One wait that lasted spends all of it: a stack at
//! rest does not spin, and one under load has no time to.

use std::time::Duration;

/// How long to look.
pub const LOOK: Duration = Duration::from_micros(50);
/// A wait that ended within this would have been shorter by looking.
const SOON: Duration = Duration::from_micros(150);
/// Waits that must have ended soon, one after the other.
const EARNED: u32 = 16;
/// Events and packets of a round that still count as next to nothing.
const LIGHT: usize = 3;

/// How the last waits went.
#[derive(Debug, Default)]
pub struct Spin {
    soon: u32,
}

impl Spin {
    /// Say whether looking is worth it.
    pub fn is_earned(&self) -> bool {
        self.soon >= EARNED
    }

    /// Take note of a wait of `time`, which the round that did `work` (events and packets) came before.
    pub fn waited(&mut self, time: Duration, work: usize) {
        self.soon = if time < SOON && work <= LIGHT { self.soon.saturating_add(1) } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(waits: &[(u64, usize)]) -> bool {
        let mut spin = Spin::default();
        for &(micros, work) in waits {
            spin.waited(Duration::from_micros(micros), work);
        }
        spin.is_earned()
    }

    #[test]
    fn lock_step_earns_it_and_one_long_wait_spends_it() {
        assert!(!after(&[]));
        assert!(!after(&[(40, 1); 15]));
        assert!(after(&[(40, 1); 16]));
        assert!(!after(&[[(40, 1); 16].as_slice(), &[(10_000, 1)]].concat()));
    }

    #[test]
    fn load_does_not_earn_it() {
        assert!(!after(&[(5, 64); 1000]));
    }
}
