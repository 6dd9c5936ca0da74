//! What all packet threads know of one address of a proxy: how it is, and what was counted.
//!
//! Shared, so that what one thread finds out helps the others. Nobody waits for a lock who only chooses: `glance` is one
//! atomic number, of which the lock's owner keeps the truth; and good news about a proxy that is well takes no lock either.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smoltcp::time::{Duration, Instant};

use crate::balance;
use crate::health::{self, Event, Health, SLOW_START, State};
use crate::refusal::Refusal;
use crate::tally::Tally;

/// How long another connect has to wait that would try a proxy on probation.
const TRIAL: Duration = Duration::from_secs(5);
const NEVER: u64 = u64::MAX;
const STATES: [State; 5] = [State::Up, State::Suspected, State::Down, State::Probation, State::SlowStart];

/// See the head of this file.
pub struct Standing {
    pub address: SocketAddr,
    /// What it is known by where destinations are shared out.
    pub key: u64,
    pub tally: Tally,
    health: Mutex<Health>,
    /// A state's place in STATES (three bits), whether there are strikes (one), and since when (microseconds).
    glance: AtomicU64,
    /// When to probe it.
    probe: AtomicU64,
    /// When a connect last tried it on probation, and from when on another may.
    trial: AtomicU64,
    chance: RandomState,
}

/// What a change of state was, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub from: State,
    pub to: State,
}

impl Change {
    /// Tell a person, where it is worth telling.
    pub fn text(self, address: SocketAddr) -> Option<String> {
        match (self.from, self.to) {
            (State::Probation, State::Down) => None, // it has never been back
            (_, State::Down) => Some(format!("the proxy {address} is down: others are asked")),
            (State::Down | State::Probation, State::SlowStart) => {
                Some(format!("the proxy {address} is back, and gets its share little by little"))
            }
            _ => None,
        }
    }
}

impl Standing {
    /// Begin with a proxy that is taken to be well. `checks`: the user named what to probe it with.
    pub fn new(address: SocketAddr, checks: bool, now: Instant) -> Standing {
        let health = Health::new(now, checks);
        let standing = Standing {
            address,
            key: balance::key(&address),
            tally: Tally::default(),
            glance: AtomicU64::new(0),
            probe: AtomicU64::new(0),
            trial: AtomicU64::new(0),
            chance: RandomState::new(),
            health: Mutex::new(health),
        };
        standing.publish(&standing.lock());
        standing
    }

    /// Give how it is, and since when.
    pub fn state(&self, now: Instant) -> (State, Instant) {
        let glance = self.glance.load(Ordering::Acquire);
        let (state, since) = (STATES[(glance & 7) as usize % STATES.len()], instant(glance >> 4));
        if state == State::SlowStart && now >= since + SLOW_START {
            return (State::Up, since + SLOW_START);
        }
        (state, since)
    }

    /// Learn from what began at `began`. Gives the change of state that it made.
    pub fn learn(&self, event: Event, began: Instant, now: Instant) -> Option<Change> {
        if event == Event::Answered && self.glance.load(Ordering::Acquire) & 0xf == 0 {
            return None; // up, without a strike
        }
        let mut health = self.lock();
        let before = health.learn(event, began, now, self.chance.hash_one(micros(now)) as u8);
        self.publish(&health);
        let change = Change { from: before?, to: health.state };
        if change.to == State::Down {
            self.tally.downs.up();
        }
        self.trial.store(0, Ordering::Release);
        Some(change)
    }

    /// Say whether this connect may try it, being on probation; the next may a while later.
    pub fn may_try(&self, now: Instant) -> bool {
        let free = self.trial.load(Ordering::Acquire);
        let then = micros(now + TRIAL);
        free <= micros(now) && self.trial.compare_exchange(free, then, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Give the time at which it is to be probed.
    pub fn next_probe(&self) -> Option<Instant> {
        let probe = self.probe.load(Ordering::Acquire);
        (probe != NEVER).then(|| instant(probe))
    }

    /// Say whether the caller is to probe it now: one only of all that ask is.
    pub fn may_probe(&self, now: Instant) -> bool {
        if self.probe.load(Ordering::Acquire) > micros(now) {
            return false;
        }
        let mut health = self.lock();
        if health.probe.is_none_or(|probe| probe > now) {
            return false;
        }
        health.probed(now);
        self.publish(&health);
        self.tally.probes.up();
        true
    }

    /// A connect waits for its answer: it may be time for a probe.
    pub fn is_awaited(&self, now: Instant) {
        let mut health = self.lock();
        health.is_awaited(now);
        self.publish(&health);
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, health: &Health) {
        let place = STATES.iter().position(|state| *state == health.state).unwrap_or(0) as u64;
        let strikes = u64::from(health.strikes > 0) << 3;
        self.glance.store(place | strikes | micros(health.since) << 4, Ordering::Release);
        self.probe.store(health.probe.map_or(NEVER, micros), Ordering::Release);
    }
}

/// A connect that a proxy was chosen for, and the connection that came of it: counted as long as it lives.
pub struct Use {
    pub standing: Arc<Standing>,
    began: Instant,
    /// Whether it is a program's, or one that is nobody's.
    counts: bool,
}

impl Use {
    /// Count one that begins.
    pub fn begin(standing: &Arc<Standing>, now: Instant) -> Use {
        standing.tally.connects.up();
        standing.tally.flows_now.up();
        Use { standing: Arc::clone(standing), began: now, counts: true }
    }

    /// Begin one that is neither counted nor learnt from.
    pub fn of_nobody(standing: &Arc<Standing>, now: Instant) -> Use {
        Use { standing: Arc::clone(standing), began: now, counts: false }
    }

    /// Say whether it is a program's.
    pub fn counts(&self) -> bool {
        self.counts
    }

    /// It is open.
    pub fn opened(&self, now: Instant) -> Option<Change> {
        if !self.counts {
            return None;
        }
        self.standing.tally.opened.up();
        self.standing.tally.connect_sum_us.add((now - self.began).total_micros());
        self.standing.learn(Event::Answered, self.began, now)
    }

    /// It was refused.
    pub fn refused(&self, refusal: &Refusal, now: Instant) -> Option<Change> {
        if !self.counts {
            return None;
        }
        self.standing.tally.refused(refusal);
        self.standing.learn(refusal.event()?, self.began, now)
    }

    /// It has waited longer than is usual for a connection.
    pub fn slow(&self, now: Instant) -> Option<Change> {
        if self.counts { self.standing.learn(Event::Slow, self.began, now) } else { None }
    }

    /// Say whether the proxy was found to be down since this began.
    pub fn is_lost(&self, now: Instant) -> bool {
        let (state, since) = self.standing.state(now);
        state == State::Down && since >= self.began
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if self.counts {
            self.standing.tally.flows_now.down();
        }
    }
}

/// Give the share that `standing` is due: see health.rs.
pub fn share(standing: &Standing, now: Instant) -> u32 {
    let (state, since) = standing.state(now);
    health::share(state, since, now)
}

fn micros(time: Instant) -> u64 {
    u64::try_from(time.total_micros()).unwrap_or(0)
}

fn instant(micros: u64) -> Instant {
    Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Instant {
        Instant::from_millis(millis)
    }

    fn standing() -> Arc<Standing> {
        Arc::new(Standing::new("192.0.2.1:3128".parse().unwrap(), false, at(0)))
    }

    fn down(standing: &Standing, millis: i64) {
        standing.learn(Event::Unreachable, at(millis), at(millis));
        assert_eq!(standing.state(at(millis)), (State::Down, at(millis)));
    }

    #[test]
    fn what_one_learns_all_see() {
        let one = standing();
        let other = Arc::clone(&one);
        let change = one.learn(Event::Unreachable, at(5), at(5));
        assert_eq!(change, Some(Change { from: State::Up, to: State::Down }));
        assert_eq!(other.state(at(6)), (State::Down, at(5)));
        assert_eq!(one.tally.downs.get(), 1);
    }

    #[test]
    fn one_alone_of_all_that_look_makes_the_probe() {
        let standing = standing();
        down(&standing, 0);
        assert!(!standing.may_probe(at(10)), "it is not time yet");
        let due = standing.next_probe().unwrap();
        assert_eq!([standing.may_probe(due), standing.may_probe(due)], [true, false]);
        let lost = due + health::PROBE_LOST;
        assert_eq!([standing.may_probe(lost), standing.may_probe(lost)], [true, false], "the first was never heard of");
    }

    #[test]
    fn one_connect_at_a_time_tries_a_proxy_on_probation() {
        let standing = standing();
        down(&standing, 0);
        standing.learn(Event::Reached, at(1000), at(1000));
        assert_eq!(standing.state(at(1000)).0, State::Probation);
        assert_eq!([standing.may_try(at(1000)), standing.may_try(at(1001))], [true, false]);
        assert!(standing.may_try(at(7000)), "the first was given up");
    }

    #[test]
    fn answer_counts_even_where_it_is_no() {
        let standing = standing();
        down(&standing, 0);
        let used = Use::begin(&standing, at(10));
        used.refused(&Refusal::Status(403, String::new()), at(11));
        assert_eq!(standing.state(at(11)).0, State::SlowStart);
        assert_eq!(standing.state(at(40_000)), (State::Up, at(11) + SLOW_START));
    }

    #[test]
    fn strikes_are_forgotten_by_an_answer() {
        let standing = standing();
        for _ in 0..5 {
            let used = Use::begin(&standing, at(1));
            used.refused(&Refusal::Closed, at(1));
            used.refused(&Refusal::Closed, at(1));
            used.opened(at(1));
        }
        assert_eq!(standing.state(at(1)).0, State::Up);
    }

    #[test]
    fn use_is_counted_until_its_end_and_knows_when_its_proxy_is_lost() {
        let standing = standing();
        let used = Use::begin(&standing, at(1));
        assert_eq!((standing.tally.flows_now.get(), used.is_lost(at(1))), (1, false));
        down(&standing, 2);
        assert!(used.is_lost(at(3)));
        assert!(!Use::begin(&standing, at(3)).is_lost(at(4)), "whoever asks it now knows");
        drop(used);
        assert_eq!(standing.tally.flows_now.get(), 0);
    }
}
