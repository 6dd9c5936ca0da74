//! Whether a proxy is well, as a table: what is learnt about it, and what follows. Pure.
//!
//! ```text
//!                      Answered, Reached, Proven
//!           Up <──────────────────────────────────── Suspected
//!          ^ │ └─────────────────Slow──────────────────^ │
//!          │ └──Unreachable, the third Faulty or Missed─┐ │ Unreachable, Faulty, Missed
//!     30 s │                                            v v
//!     SlowStart <──Answered, Proven── Probation <─────── Down ──Answered, Proven──> SlowStart
//!          │                              │     Reached  ^ │
//!          └──────────────┬───────────────┘              │ └──Missed──> Down, for longer
//!                         └─Slow, Unreachable, Faulty, Missed
//! ```
//!
//! What the programs' connects show costs nothing (passive health). A probe is made only where those cannot show it: of a
//! proxy that is suspected, at once; of one that is down, when its time has come; of one that is well, only where the
//! user named what to ask it for. A 403 or a 503 is an answer: who gives it is alive.
//!
//! Only what began after the state did counts: connects that hang since before a proxy came back say nothing about it.

use smoltcp::time::{Duration, Instant};

/// How long a proxy that is back takes to get its whole share again.
pub const SLOW_START: Duration = Duration::from_secs(30);
/// So many faults, one after the other, put a proxy down that accepts connections.
const STRIKES: u32 = 3;
/// Between putting down and the probe: the first time, and how often that doubles.
const BACK_OFF: Duration = Duration::from_secs(1);
const DOUBLINGS: u32 = 5;
/// Between probes of a proxy that is well, and after one that failed.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// Between probes of one that connects wait for, at least.
const CHECK_SOON: Duration = Duration::from_secs(5);
/// A probe that has not been heard of for so long is made again, by whoever looks.
pub const PROBE_LOST: Duration = Duration::from_secs(15);
/// A whole share, and the least that a proxy is given that is back.
pub const WHOLE: u32 = 1000;
const LEAST: u32 = 20;

/// How a proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It gets its share.
    Up,
    /// It took longer than it should to accept a connection: a probe finds out, and connects go elsewhere meanwhile.
    Suspected,
    /// It is passed over, unless there is no other.
    Down,
    /// It accepts connections again: one connect after the other may show whether it answers.
    Probation,
    /// It is back, and gets a share that grows.
    SlowStart,
}

impl State {
    /// Give the word that people read.
    pub fn name(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Suspected => "suspected",
            State::Down => "down",
            State::Probation => "probation",
            State::SlowStart => "slow start",
        }
    }
}

/// What is learnt about a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It answered a CONNECT, whatever it said.
    Answered,
    /// It has not accepted a connection within the time that it is given alone.
    Slow,
    /// It refused a connection, or did not accept it in time.
    Unreachable,
    /// It accepted a connection, and then hung up, made no sense, or said nothing in time.
    Faulty,
    /// A probe got a connection.
    Reached,
    /// A probe got the answer that the user wants to see.
    Proven,
    /// A probe got nothing, or another answer.
    Missed,
}

/// Give the state that follows; None where nothing changes. `last`: strikes would be full with this one.
pub fn next(state: State, event: Event, last: bool) -> Option<State> {
    use Event as E;
    use State as S;
    match (state, event) {
        (S::Up, E::Slow) => Some(S::Suspected),
        (S::Up, E::Unreachable) => Some(S::Down),
        (S::Up, E::Faulty | E::Missed) => last.then_some(S::Down),
        (S::Suspected, E::Answered | E::Reached | E::Proven) => Some(S::Up),
        (S::Suspected | S::Probation, E::Unreachable | E::Faulty | E::Missed) => Some(S::Down),
        (S::Down, E::Reached) => Some(S::Probation),
        (S::Down, E::Missed) | (S::Probation, E::Slow) => Some(S::Down),
        (S::Down | S::Probation, E::Answered | E::Proven) => Some(S::SlowStart),
        (S::SlowStart, E::Slow | E::Unreachable | E::Faulty | E::Missed) => Some(S::Down),
        _ => None,
    }
}

/// What is known of one proxy.
#[derive(Debug, Clone)]
pub struct Health {
    pub state: State,
    pub since: Instant,
    /// Faults one after the other.
    pub strikes: u32,
    /// How often it went down, or stayed there, since it was last well for a while.
    falls: u32,
    /// When to probe it, if that is to be done.
    pub probe: Option<Instant>,
    /// When it was last probed.
    probed: Instant,
    /// Whether the user named what to probe it with.
    checks: bool,
}

impl Health {
    /// Begin with a proxy that is taken to be well.
    pub fn new(now: Instant, checks: bool) -> Health {
        let probe = checks.then_some(now + CHECK_EVERY);
        Health { state: State::Up, since: now, strikes: 0, falls: 0, probe, probed: now, checks }
    }

    /// Learn from what began at `began`; `chance` (of 256) spreads the probes of many who know this proxy. Gives the state
    /// there was, where another follows.
    pub fn learn(&mut self, event: Event, began: Instant, now: Instant, chance: u8) -> Option<State> {
        self.settle(now);
        if began < self.since && self.state != State::Suspected {
            return None;
        }
        let fault = matches!(event, Event::Faulty | Event::Missed);
        let following = next(self.state, event, self.strikes + 1 >= STRIKES);
        self.strikes = if fault { self.strikes + 1 } else { 0 };
        let before = self.state;
        if let Some(state) = following {
            (self.state, self.strikes) = (state, 0);
            self.since = now;
            self.falls = self.falls.saturating_add(u32::from(state == State::Down));
        }
        if following.is_some() || matches!(event, Event::Proven | Event::Reached | Event::Missed) {
            self.probe = self.next_probe(now, chance);
        }
        following.filter(|state| *state != before).map(|_| before)
    }

    /// Take note that a probe is being made.
    pub fn probed(&mut self, now: Instant) {
        (self.probe, self.probed) = (Some(now + PROBE_LOST), now);
    }

    /// A connect waits for its answer: where the user named what to probe it with, do that now.
    pub fn is_awaited(&mut self, now: Instant) {
        let well = matches!(self.state, State::Up | State::SlowStart);
        if self.checks && well && self.strikes == 0 && now >= self.probed + CHECK_SOON {
            self.probe = self.probe.map(|probe| probe.min(now));
        }
    }

    /// A slow start that is over leaves nothing behind.
    fn settle(&mut self, now: Instant) {
        if self.state == State::SlowStart && now >= self.since + SLOW_START {
            (self.state, self.since, self.falls) = (State::Up, self.since + SLOW_START, 0);
        }
    }

    fn next_probe(&self, now: Instant, chance: u8) -> Option<Instant> {
        let wait = match self.state {
            State::Suspected => return Some(now),
            State::Down => BACK_OFF * (1 << (self.falls - 1).min(DOUBLINGS)),
            State::Probation if !self.checks => return None,
            State::Up | State::SlowStart if !self.checks => return None,
            State::Probation => BACK_OFF,
            State::Up | State::SlowStart if self.strikes > 0 => BACK_OFF,
            State::Up | State::SlowStart => CHECK_EVERY,
        };
        Some(now + spread(wait, chance))
    }
}

/// Give between three and five quarters of `wait`.
fn spread(wait: Duration, chance: u8) -> Duration {
    wait * 3 / 4 + Duration::from_micros(wait.total_micros() / 2 * u64::from(chance) / 256)
}

/// Give the share that is due to a proxy in `state` `since` then: of WHOLE; 0: none as long as others have one.
pub fn share(state: State, since: Instant, now: Instant) -> u32 {
    match state {
        State::Up | State::Probation => WHOLE,
        State::SlowStart => {
            let passed = (now - since).total_micros().min(SLOW_START.total_micros());
            (passed * u64::from(WHOLE) / SLOW_START.total_micros()).max(u64::from(LEAST)) as u32
        }
        State::Suspected | State::Down => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::Event as E;
    use super::State as S;
    use super::*;
    use proptest::prelude::*;

    const STATES: [S; 5] = [S::Up, S::Suspected, S::Down, S::Probation, S::SlowStart];
    const EVENTS: [E; 7] = [E::Answered, E::Slow, E::Unreachable, E::Faulty, E::Reached, E::Proven, E::Missed];

    /// The states that follow `event`, one for each of STATES.
    fn row(event: E, last: bool, expected: [Option<S>; 5]) {
        assert_eq!(STATES.map(|state| next(state, event, last)), expected, "{event:?}");
    }

    #[test]
    fn answer_clears_suspicion_and_brings_back_slowly() {
        let slow = Some(S::SlowStart);
        row(E::Answered, false, [None, Some(S::Up), slow, slow, None]);
        row(E::Proven, false, [None, Some(S::Up), slow, slow, None]);
    }

    #[test]
    fn connection_alone_is_no_proof_of_one_that_was_down() {
        row(E::Reached, false, [None, Some(S::Up), Some(S::Probation), None, None]);
    }

    #[test]
    fn slowness_is_a_reason_to_look_and_puts_down_who_is_not_well_yet() {
        row(E::Slow, false, [Some(S::Suspected), None, None, Some(S::Down), Some(S::Down)]);
    }

    #[test]
    fn who_cannot_be_reached_is_down() {
        let down = Some(S::Down);
        row(E::Unreachable, false, [down, down, None, down, down]);
    }

    #[test]
    fn who_is_well_has_three_strikes_and_others_none() {
        let down = Some(S::Down);
        row(E::Faulty, false, [None, down, None, down, down]);
        row(E::Faulty, true, [down, down, None, down, down]);
        row(E::Missed, false, [None, down, down, down, down]);
        row(E::Missed, true, [down, down, down, down, down]);
    }

    fn at(millis: i64) -> Instant {
        Instant::from_millis(millis)
    }

    /// Learn of something that began just now.
    fn learn(health: &mut Health, event: E, millis: i64) -> S {
        health.learn(event, at(millis), at(millis), 128);
        health.state
    }

    #[test]
    fn faults_count_only_one_after_the_other() {
        let mut health = Health::new(at(0), false);
        for (event, state) in [
            (E::Faulty, S::Up),
            (E::Faulty, S::Up),
            (E::Answered, S::Up),
            (E::Faulty, S::Up),
            (E::Faulty, S::Up),
            (E::Faulty, S::Down),
        ] {
            assert_eq!(learn(&mut health, event, 1), state);
        }
    }

    #[test]
    fn connects_that_began_before_a_state_say_nothing_about_it() {
        let mut health = Health::new(at(0), false);
        learn(&mut health, E::Unreachable, 100);
        assert_eq!(health.learn(E::Answered, at(99), at(101), 0), None, "it answered before it died");
        learn(&mut health, E::Answered, 1000);
        assert_eq!(health.state, S::SlowStart);
        assert_eq!(health.learn(E::Unreachable, at(999), at(5000), 0), None, "it hung since before the return");
        assert_eq!(health.learn(E::Unreachable, at(1000), at(5000), 0), Some(S::SlowStart));
    }

    #[test]
    fn old_connect_that_is_answered_after_all_clears_a_suspicion() {
        let mut health = Health::new(at(0), false);
        learn(&mut health, E::Slow, 250);
        assert_eq!(health.probe, Some(at(250)), "at once");
        assert_eq!(health.learn(E::Answered, at(0), at(300), 0), Some(S::Suspected));
        assert_eq!((health.state, health.probe), (S::Up, None));
    }

    /// Let probes of a dead proxy fail for a while; the time of each.
    fn probes(health: &mut Health, until: i64, chance: u8) -> Vec<i64> {
        let mut times = Vec::new();
        while let Some(time) = health.probe.filter(|time| *time <= at(until)) {
            times.push(time.total_millis());
            health.learn(E::Missed, time, time, chance);
        }
        times
    }

    #[test]
    fn probes_of_the_dead_become_rare_but_never_cease() {
        let mut health = Health::new(at(0), false);
        health.learn(E::Unreachable, at(0), at(0), 128);
        let times = probes(&mut health, 600_000, 128);
        assert_eq!(times[..6], [1000, 3000, 7000, 15_000, 31_000, 63_000]);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= 32_000), "{times:?}");
    }

    #[test]
    fn who_falls_again_in_its_slow_start_waits_longer_and_who_was_well_begins_anew() {
        let mut health = Health::new(at(0), false);
        learn(&mut health, E::Unreachable, 0);
        learn(&mut health, E::Reached, 1000);
        learn(&mut health, E::Answered, 1001);
        learn(&mut health, E::Faulty, 2000);
        assert_eq!((health.state, health.probe), (S::Down, Some(at(4000))));
        learn(&mut health, E::Answered, 4000);
        learn(&mut health, E::Unreachable, 35_000);
        assert_eq!(health.probe, Some(at(36_000)));
    }

    #[test]
    fn share_grows_from_little_to_the_whole() {
        assert_eq!(share(S::SlowStart, at(0), at(0)), LEAST);
        assert_eq!(share(S::SlowStart, at(0), at(15_000)), WHOLE / 2);
        assert_eq!(share(S::SlowStart, at(0), at(99_000)), WHOLE);
        assert_eq!([S::Up, S::Suspected, S::Down].map(|state| share(state, at(0), at(0))), [WHOLE, 0, 0]);
    }

    #[test]
    fn who_is_well_is_probed_only_where_the_user_named_with_what() {
        assert_eq!(Health::new(at(0), false).probe, None);
        let mut health = Health::new(at(0), true);
        assert_eq!(health.probe, Some(at(10_000)));
        learn(&mut health, E::Missed, 10_000);
        assert_eq!((health.state, health.probe), (S::Up, Some(at(11_000))), "soon again after one that failed");
        learn(&mut health, E::Proven, 11_000);
        assert_eq!(health.probe, Some(at(21_000)));
    }

    #[test]
    fn check_comes_at_once_but_not_all_the_time_where_a_connect_waits() {
        let mut health = Health::new(at(0), true);
        health.is_awaited(at(4_999));
        assert_eq!(health.probe, Some(at(10_000)));
        health.is_awaited(at(5_000));
        assert_eq!(health.probe, Some(at(5_000)));
        health.probed(at(5_000));
        learn(&mut health, E::Proven, 5_100);
        health.is_awaited(at(6_000));
        assert_eq!(health.probe, Some(at(15_100)));
        let mut unchecked = Health::new(at(0), false);
        unchecked.is_awaited(at(9_000));
        assert_eq!(unchecked.probe, None);
    }

    proptest! {
        /// Whatever is learnt: who is not well has a way back, and time spreads within its bounds.
        #[test]
        fn nobody_is_forgotten(steps in proptest::collection::vec((0..EVENTS.len(), 0..40_000i64, any::<u8>()), 1..60)) {
            let mut health = Health::new(at(0), false);
            let mut now = 0;
            for (event, passed, chance) in steps {
                now += passed;
                health.learn(EVENTS[event], at(now), at(now), chance);
                match health.state {
                    S::Suspected | S::Down => {
                        let probe = health.probe.expect("a probe");
                        prop_assert!(probe <= at(now) + Duration::from_secs(40));
                    }
                    state => prop_assert!(share(state, health.since, at(now)) >= LEAST),
                }
            }
        }
    }
}
