//! The part of an approach in which proxies are dialled side by side: the next one beside one that is slow to accept, and
//! whichever is connected first is asked. See race.rs.

use smoltcp::time::Instant;

use super::{Approach, CONNECT_TIMEOUT, CONNECT_TIMEOUT_MIN, Stage};
use crate::race::Rival;
use crate::refusal::Refusal;
use crate::upstream::Ready;
use crate::upstreams::Upstreams;

impl Approach {
    /// Dial the next proxy beside the one that is slow.
    pub(super) fn race_another(&mut self, now: Instant, upstreams: &mut Upstreams) {
        self.race = None;
        self.forget(upstreams);
        let (Some(upstream), Some(used)) = (self.upstream.take(), self.used.take()) else { return };
        upstreams.note_change(used.slow(now), &used.standing);
        self.rivals.add(Rival { upstream, used, dialled: self.dialled });
        if self.dial(now, upstreams) {
            upstreams.stats.proxy_races.up();
        } else {
            self.take_back(now, upstreams);
        }
    }

    /// Wait for the last of the rivals; false when there is none.
    pub(super) fn take_back(&mut self, now: Instant, upstreams: &mut Upstreams) -> bool {
        let Some(rival) = self.rivals.pop() else { return false };
        let Some(place) = upstreams.place(&rival.used.standing) else { return self.take_back(now, upstreams) };
        let connected = rival.upstream.is_connected();
        (self.upstream, self.used, self.dialled) = (Some(rival.upstream), Some(rival.used), rival.dialled);
        (self.ready, self.stage) = (Ready::default(), Stage::Dialing);
        self.deadline = Some((self.begun + CONNECT_TIMEOUT).max(now + CONNECT_TIMEOUT_MIN));
        self.attempt.resume();
        self.forget(upstreams);
        let step = self.attempt.turn_to(place, &upstreams.proxies, now);
        match connected {
            Err(error) => self.fail(Refusal::of_dial(error), now, upstreams),
            Ok(false) => self.obey(step, now, upstreams),
            Ok(true) => {
                // news of it have come while it was a rival
                (self.ready.readable, self.ready.writable) = (true, true);
                self.obey(step, now, upstreams);
                self.look_at_connect(now, upstreams);
            }
        }
        true
    }

    /// Let a rival that is connected take the place of the one that is waited for; says whether there was one.
    pub(super) fn judge_race(&mut self, now: Instant, upstreams: &mut Upstreams) -> bool {
        let mut failed = Vec::new();
        let winner = self.rivals.take_winner(&mut failed);
        for (rival, error) in failed {
            self.note(&Refusal::of_dial(error), &rival.used, now, upstreams);
        }
        let Some(winner) = winner else { return false };
        self.rivals.add(winner);
        self.take_back(now, upstreams)
    }
}
