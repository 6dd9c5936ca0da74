//! May the user's credentials be shown to a proxy once more? Pure.
//!
//! Directories lock an account after some wrong passwords (three to ten, counted until half an hour has passed without
//! one). So a proxy that refuses credentials is left alone, and programs are refused without asking it:
//!
//! ```text
//!     never accepted so far     one refusal                                       rest
//!     accepted before           three refusals of different destinations, and     rest
//!                               nothing accepted between: some proxies say 407
//!                               where they mean that a user may not go there
//!     rest                      5 minutes the first time, later 35; then one
//!                               connection at a time asks, until one is accepted
//! ```
//!
//! A destination that was refused is not asked for again in that time, unless another was accepted since. That makes at
//! most four wrong passwords within any half hour, beside those of connections that were under way at the same time.
//!
//! A 2xx proves the credentials only to a proxy that had asked for them in the same breath: it may let everybody go to
//! some destinations, and not look. So after a refusal nothing is shown before a challenge, until that proof.

use smoltcp::time::{Duration, Instant};

const FIRST_REST: Duration = Duration::from_secs(5 * 60);
const LATER_REST: Duration = Duration::from_secs(35 * 60);
const MOST_REFUSALS: usize = 3;
/// For the one that asks after a rest to get its answer.
const TRIAL: Duration = Duration::from_secs(40);

/// What a proxy thinks of the user's credentials.
#[derive(Debug, Default)]
pub struct Standing {
    accepted: bool,
    /// Destinations refused since the last acceptance, and when.
    refused: Vec<(String, Instant)>,
    /// Nobody asks before this.
    rest: Option<Instant>,
    rests: u32,
}

impl Standing {
    /// Say whether the credentials may be shown for `target` now. After a rest only one is told so.
    pub fn may_ask(&mut self, target: &str, now: Instant) -> bool {
        if self.rest.is_some_and(|end| now < end) {
            return false;
        }
        if self.rest.is_some() {
            self.rest = Some(now + TRIAL);
            return true;
        }
        self.refused.retain(|(_, since)| now < *since + FIRST_REST);
        !self.refused.iter().any(|(known, _)| known == target)
    }

    /// Say until when no connection may ask, if it is so.
    pub fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.rest.filter(|&end| now < end)
    }

    /// Say whether nothing speaks against showing them before the proxy asks for them.
    pub fn is_clear(&self) -> bool {
        self.rest.is_none() && self.refused.is_empty()
    }

    /// There was a 2xx; `asked` says whether the proxy had asked for them.
    pub fn accept(&mut self, asked: bool) {
        if asked {
            *self = Standing { accepted: true, ..Standing::default() };
        } else if self.is_clear() {
            self.accepted = true;
        }
    }

    /// They were refused; give for how long nobody asks now, if it has come to that.
    pub fn refuse(&mut self, target: &str, now: Instant) -> Option<Duration> {
        if !self.refused.iter().any(|(known, _)| known == target) {
            self.refused.push((target.to_owned(), now));
        }
        if self.accepted && self.refused.len() < MOST_REFUSALS {
            return None;
        }
        let rest = if self.rests == 0 { FIRST_REST } else { LATER_REST };
        self.accepted = false;
        self.refused.clear();
        self.rests += 1;
        self.rest = Some(now + rest);
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: u64) -> Instant {
        Instant::from_millis(0) + Duration::from_secs(60 * minutes)
    }

    fn accepted() -> Standing {
        let mut standing = Standing::default();
        standing.accept(true);
        standing
    }

    #[test]
    fn credentials_that_were_never_accepted_are_shown_once() {
        let mut standing = Standing::default();
        assert!(standing.may_ask("a:1", at(0)));
        assert_eq!(standing.refuse("a:1", at(0)), Some(FIRST_REST));
        assert!(!standing.may_ask("b:1", at(4)));
        assert_eq!(standing.rests_until(at(4)), Some(at(5)));
        assert_eq!(standing.rests_until(at(5)), None);
    }

    #[test]
    fn answer_of_a_proxy_that_did_not_ask_proves_nothing_after_a_refusal() {
        let mut standing = Standing::default();
        standing.accept(false);
        assert!(standing.is_clear());
        for target in ["a:1", "b:1"] {
            assert_eq!(standing.refuse(target, at(0)), None);
            standing.accept(false);
            assert!(!standing.is_clear());
        }
        assert_eq!(standing.refuse("c:1", at(0)), Some(FIRST_REST));
        standing.accept(false);
        assert!(!standing.may_ask("d:1", at(1)) && !standing.is_clear());
    }

    #[test]
    fn after_a_rest_one_connection_asks_at_a_time_and_acceptance_ends_it() {
        let mut standing = Standing::default();
        standing.refuse("a:1", at(0));
        assert!(standing.may_ask("b:1", at(5)));
        assert!(!standing.may_ask("c:1", at(5)));
        assert!(standing.may_ask("c:1", at(6)), "the one that asked has had no answer");
        standing.accept(true);
        assert!(standing.may_ask("a:1", at(6)) && standing.may_ask("a:1", at(6)));
    }

    #[test]
    fn wrong_password_is_shown_four_times_within_any_half_hour_at_most() {
        let mut standing = accepted();
        let mut shown = Vec::new();
        for minute in 0..600 {
            for target in ["a:1", "b:1", "c:1", "d:1"] {
                if standing.may_ask(target, at(minute)) {
                    shown.push(minute);
                    standing.refuse(target, at(minute));
                }
            }
        }
        assert!(shown.len() > 10);
        for window in shown.windows(5) {
            assert!(window[4] - window[0] > 30, "{shown:?}");
        }
        assert!(shown.windows(2).skip(3).all(|pair| pair[1] - pair[0] > 30), "the directory forgets: {shown:?}");
    }

    #[test]
    fn destination_that_is_refused_to_a_known_user_does_not_stop_the_others() {
        let mut standing = accepted();
        assert_eq!(standing.refuse("a:1", at(0)), None);
        assert!(!standing.may_ask("a:1", at(1)) && standing.may_ask("b:1", at(1)));
        assert_eq!(standing.refuse("b:1", at(1)), None);
        standing.accept(true);
        assert!(standing.may_ask("a:1", at(1)));
        for target in ["a:1", "a:1", "b:1"] {
            assert_eq!(standing.refuse(target, at(2)), None);
        }
        assert!(standing.may_ask("a:1", at(7)), "after a while it is asked for again");
        assert!(standing.may_ask("b:1", at(7)));
        standing.refuse("a:1", at(7));
        standing.refuse("b:1", at(7));
        assert_eq!(standing.refuse("c:1", at(7)), Some(FIRST_REST));
    }
}
