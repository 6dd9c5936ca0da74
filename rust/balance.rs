//! Which of several proxies the next connect goes to, pure.
//!
//! - Order: the first, unless it is not well; the others are for its failure.
//! - Round robin: each in turn, by weight (nginx' smooth weighted round robin).
//! - Least connections: the one with the fewest for its weight; in turn among equals.
//! - Destination: the same proxy for the same destination, by weighted rendezvous hashing: each proxy draws a number for
//!   the destination, and the best one has it. A proxy that is lost loses its own destinations, which the others share;
//!   all others stay where they are. (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998.)
//!
//! The weight is the share that health.rs says a proxy is due: it makes the slow start of one that is back.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::health::WHOLE;

/// See the head of this file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Balance {
    #[default]
    Order,
    RoundRobin,
    LeastConnections,
    Destination,
}

impl Balance {
    /// Give the one that a user calls so.
    pub fn named(name: &str) -> Option<Balance> {
        match name {
            "order" => Some(Balance::Order),
            "round-robin" => Some(Balance::RoundRobin),
            "least-connections" => Some(Balance::LeastConnections),
            "destination" => Some(Balance::Destination),
            _ => None,
        }
    }
}

/// A proxy that may be chosen.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// What it is known by, whatever its place among the others: see `key`.
    pub key: u64,
    /// Of WHOLE; 0: not to be chosen.
    pub share: u32,
    /// Connections that go through it now, or are about to.
    pub open: u64,
}

/// Give the number that stands for a proxy, or a destination: the same in every thread, and after a restart.
pub fn key(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// One thread's memory of whose turn it is.
#[derive(Debug, Clone, Default)]
pub struct Chooser {
    balance: Balance,
    credit: Vec<i64>,
    turn: usize,
}

impl Chooser {
    /// Begin with nobody's turn; `turn` keeps threads from beginning with the same proxy.
    pub fn new(balance: Balance, turn: usize) -> Chooser {
        Chooser { balance, credit: Vec::new(), turn }
    }

    /// Give the index of the one to ask first for `destination`; None when none may be chosen.
    pub fn choose(&mut self, candidates: &[Candidate], destination: u64) -> Option<usize> {
        self.credit.resize(candidates.len(), 0);
        self.turn = self.turn.wrapping_add(1);
        match self.balance {
            Balance::Order => self.in_order(candidates),
            Balance::RoundRobin => self.round_robin(candidates),
            Balance::LeastConnections => least(candidates, self.turn),
            Balance::Destination => best(candidates, destination),
        }
    }

    /// The first that has saved enough for a turn; who has a whole share has.
    fn in_order(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let mut last = None;
        for (index, candidate) in candidates.iter().enumerate().filter(|(_, candidate)| candidate.share > 0) {
            let credit = &mut self.credit[index];
            *credit += i64::from(candidate.share);
            last = Some(index);
            if *credit >= i64::from(WHOLE) {
                *credit -= i64::from(WHOLE);
                return last;
            }
        }
        last
    }

    fn round_robin(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let mut total = 0;
        let mut chosen = None;
        for step in 0..candidates.len() {
            let index = (self.turn.wrapping_add(step)) % candidates.len();
            let share = i64::from(candidates[index].share);
            if share == 0 {
                continue;
            }
            total += share;
            self.credit[index] += share;
            if chosen.is_none_or(|best: usize| self.credit[index] > self.credit[best]) {
                chosen = Some(index);
            }
        }
        if let Some(index) = chosen {
            self.credit[index] -= total;
        }
        chosen
    }
}

/// The one with the fewest connections for its share; `turn` decides among equals.
fn least(candidates: &[Candidate], turn: usize) -> Option<usize> {
    let load = |candidate: &Candidate| (candidate.open + 1) * u64::from(WHOLE) / u64::from(candidate.share);
    (0..candidates.len())
        .map(|step| turn.wrapping_add(step) % candidates.len())
        .filter(|index| candidates[*index].share > 0)
        .min_by_key(|index| load(&candidates[*index]))
}

/// The one with the best number for this destination.
fn best(candidates: &[Candidate], destination: u64) -> Option<usize> {
    (0..candidates.len())
        .filter(|index| candidates[*index].share > 0)
        .map(|index| (index, score(&candidates[index], destination)))
        .max_by(|(_, one), (_, other)| one.total_cmp(other))
        .map(|(index, _)| index)
}

/// -weight / ln(u), u between 0 and 1 by the hash: the best of these is a candidate's as often as its weight says.
fn score(candidate: &Candidate, destination: u64) -> f64 {
    let drawn = (key(&(candidate.key, destination)) >> 11) as f64 + 0.5;
    -f64::from(candidate.share) / (drawn / (1u64 << 53) as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidates(shares: &[u32]) -> Vec<Candidate> {
        shares.iter().enumerate().map(|(n, share)| Candidate { key: key(&n), share: *share, open: 0 }).collect()
    }

    /// How often each of them is chosen in `rounds`, connections staying open.
    fn tally(chooser: &mut Chooser, candidates: &mut [Candidate], rounds: u64) -> Vec<u64> {
        let mut counts = vec![0; candidates.len()];
        for round in 0..rounds {
            let chosen = chooser.choose(candidates, key(&round)).unwrap();
            counts[chosen] += 1;
            candidates[chosen].open += 1;
        }
        counts
    }

    const ALL: [Balance; 4] = [Balance::Order, Balance::RoundRobin, Balance::LeastConnections, Balance::Destination];

    #[test]
    fn order_keeps_to_the_first_that_is_well() {
        let mut chooser = Chooser::new(Balance::Order, 5);
        assert_eq!(tally(&mut chooser, &mut candidates(&[1000, 1000, 1000]), 100), [100, 0, 0]);
        assert_eq!(tally(&mut chooser, &mut candidates(&[0, 1000, 1000]), 100), [0, 100, 0]);
    }

    #[test]
    fn order_lets_one_that_is_back_begin_slowly() {
        let mut chooser = Chooser::new(Balance::Order, 0);
        assert_eq!(tally(&mut chooser, &mut candidates(&[200, 1000, 1000]), 100), [20, 80, 0]);
    }

    #[test]
    fn nobody_is_chosen_where_none_may_be() {
        for balance in ALL {
            assert_eq!(Chooser::new(balance, 0).choose(&candidates(&[0, 0]), 7), None, "{balance:?}");
            assert_eq!(Chooser::new(balance, 0).choose(&[], 7), None, "{balance:?}");
        }
    }

    #[test]
    fn threads_do_not_all_begin_with_the_same_proxy() {
        for balance in [Balance::RoundRobin, Balance::LeastConnections] {
            let first = |turn| Chooser::new(balance, turn).choose(&candidates(&[1000, 1000, 1000]), 0).unwrap();
            let mut found: Vec<usize> = (0..3).map(first).collect();
            found.sort_unstable();
            assert_eq!(found, [0, 1, 2], "{balance:?}");
        }
    }

    #[test]
    fn least_connections_evens_out_what_was_uneven() {
        let mut some = candidates(&[1000, 1000]);
        some[0].open = 50;
        assert_eq!(tally(&mut Chooser::new(Balance::LeastConnections, 0), &mut some, 60), [5, 55]);
    }

    #[test]
    fn one_that_is_back_is_not_run_over_for_having_no_connections() {
        let mut some = candidates(&[100, 1000]);
        some[1].open = 100;
        assert_eq!(tally(&mut Chooser::new(Balance::LeastConnections, 0), &mut some, 20), [11, 9]);
    }

    #[test]
    fn destinations_of_a_lost_proxy_alone_move_and_to_all_others() {
        let mut chooser = Chooser::new(Balance::Destination, 0);
        let (all, without) = (candidates(&[1000; 4]), candidates(&[1000, 1000, 0, 1000]));
        let mut moved = [0; 4];
        for destination in 0..4000u64 {
            let before = chooser.choose(&all, key(&destination)).unwrap();
            let after = chooser.choose(&without, key(&destination)).unwrap();
            assert!(before == after || before == 2, "{destination} moved from {before}");
            moved[after] += usize::from(before == 2);
        }
        assert!(moved.iter().sum::<usize>() > 800, "{moved:?}");
        assert!([0, 1, 3].iter().all(|&other| moved[other] > 200), "{moved:?}");
    }

    #[test]
    fn destination_depends_on_who_the_proxies_are_and_not_on_their_places() {
        let mut chooser = Chooser::new(Balance::Destination, 0);
        let some = candidates(&[1000; 3]);
        let turned: Vec<Candidate> = some.iter().rev().copied().collect();
        for destination in 0..100u64 {
            let (one, other) = (chooser.choose(&some, destination), chooser.choose(&turned, destination));
            assert_eq!(some[one.unwrap()].key, turned[other.unwrap()].key);
        }
    }

    #[test]
    fn every_balance_has_its_name() {
        let names = ["order", "round-robin", "least-connections", "destination"];
        assert_eq!(names.map(Balance::named), ALL.map(Some));
        assert_eq!(Balance::named("random"), None);
    }

    fn shares() -> impl Strategy<Value = Vec<u32>> {
        proptest::collection::vec(prop_oneof![2 => Just(WHOLE), 1 => 20..=WHOLE], 1..=8)
    }

    /// Three proxies that are there, or not, from one round to the next.
    fn comings_and_goings() -> impl Strategy<Value = Vec<Vec<u32>>> {
        let there = prop_oneof![Just(0), Just(WHOLE)];
        proptest::collection::vec(proptest::collection::vec(there, 3), 1..200)
    }

    proptest! {
        /// Each gets what its share says, within a connection or two.
        #[test]
        fn shares_are_kept(shares in shares(), turn in 0..9usize, least in any::<bool>()) {
            let balance = if least { Balance::LeastConnections } else { Balance::RoundRobin };
            let rounds = 2000;
            let found = tally(&mut Chooser::new(balance, turn), &mut candidates(&shares), rounds);
            let total: u64 = shares.iter().map(|share| u64::from(*share)).sum();
            for (share, count) in shares.iter().zip(&found) {
                let due = rounds * u64::from(*share) / total;
                prop_assert!(count.abs_diff(due) <= 9, "{shares:?} got {found:?}");
            }
        }

        /// By destination each gets about what its share says.
        #[test]
        fn destinations_are_shared_out(shares in shares()) {
            let rounds = 4000;
            let found = tally(&mut Chooser::new(Balance::Destination, 0), &mut candidates(&shares), rounds);
            let total: u64 = shares.iter().map(|share| u64::from(*share)).sum();
            for (share, count) in shares.iter().zip(&found) {
                let due = rounds * u64::from(*share) / total;
                prop_assert!(count.abs_diff(due) <= 60 + due / 5, "{shares:?} got {found:?}");
            }
        }

        /// Nobody who may be chosen waits long for its turn, whoever comes and goes; nobody else is chosen.
        #[test]
        fn nobody_starves(rounds in comings_and_goings()) {
            let mut chooser = Chooser::new(Balance::RoundRobin, 0);
            let mut waited = [0; 3];
            for shares in &rounds {
                let chosen = chooser.choose(&candidates(shares), 0);
                prop_assert_eq!(chosen.is_some(), shares.iter().any(|share| *share > 0));
                prop_assert!(chosen.is_none_or(|chosen| shares[chosen] > 0));
                for n in 0..3 {
                    waited[n] = if chosen == Some(n) || shares[n] == 0 { 0 } else { waited[n] + 1 };
                    prop_assert!(waited[n] <= 6, "{n} waited {}", waited[n]);
                }
            }
        }

        /// Whoever has the fewest connections gets the next, whoever comes and goes.
        #[test]
        fn nobody_is_loaded_above_others(rounds in comings_and_goings()) {
            let mut chooser = Chooser::new(Balance::LeastConnections, 0);
            let mut open = [0; 3];
            for shares in &rounds {
                let mut some = candidates(shares);
                (0..3).for_each(|n| some[n].open = open[n]);
                let fewest = (0..3).filter(|n| shares[*n] > 0).map(|n| open[n]).min();
                let chosen = chooser.choose(&some, 0);
                prop_assert_eq!(chosen.map(|chosen| open[chosen]), fewest);
                chosen.into_iter().for_each(|chosen| open[chosen] += 1);
            }
        }
    }
}
