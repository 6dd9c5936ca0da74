//! Who is asked next for one connect, of the proxies that have not been asked for it yet.
//!
//! First those that are due a share (health.rs), by the user's way of choosing (balance.rs); one on probation gets one
//! connect at a time. Where there are none, those that are suspected, or on probation for others; at last those that are
//! down, since nothing is lost by it: but not where a proxy has answered, even with no, for that takes a program's time.

use std::net::SocketAddr;
use std::sync::Arc;

use smoltcp::time::Instant;

use crate::balance::{self, Balance, Candidate, Chooser};
use crate::health::{State, WHOLE};
use crate::standing::{self, Standing};
use crate::target::Target;

/// More are never asked: a tunnel has at most as many.
const MOST: usize = 32;

/// The proxies, as one thread sees them, in the user's order.
pub struct Choice {
    standings: Vec<Arc<Standing>>,
    balance: Balance,
    chooser: Chooser,
    /// Room for the candidates of one choice.
    candidates: Vec<Candidate>,
}

/// What one connect has behind it. Proxies are known by address: their places may change meanwhile.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Those that are not to be asked (again).
    passed: Vec<SocketAddr>,
    /// A proxy has answered, though with no.
    answered: bool,
}

impl Asked {
    /// Do not ask the proxy at `address` (again).
    pub fn pass(&mut self, address: SocketAddr) {
        self.passed.push(address);
    }

    /// A proxy has answered.
    pub fn answered(&mut self) {
        self.answered = true;
    }

    fn has_passed(&self, standing: &Standing) -> bool {
        self.passed.contains(&standing.address)
    }
}

impl Choice {
    /// Begin with these; `turn` keeps threads from beginning with the same one.
    pub fn new(standings: Vec<Arc<Standing>>, balance: Balance, turn: usize) -> Choice {
        Choice { candidates: Vec::new(), standings, balance, chooser: Chooser::new(balance, turn) }
    }

    /// Give what stands for `target` where destinations are shared out: its host, whatever the port.
    pub fn destination(&self, target: &Target) -> u64 {
        match target {
            _ if self.balance != Balance::Destination => 0,
            Target::Address(address) => balance::key(&address.ip()),
            Target::Name(name, _) => balance::key(&name.to_ascii_lowercase()),
        }
    }

    /// Give what is known of each.
    pub fn standings(&self) -> &[Arc<Standing>] {
        &self.standings
    }

    /// Have these from now on.
    pub fn follow(&mut self, standings: Vec<Arc<Standing>>) {
        self.standings = standings;
    }

    /// Give the index of the one to ask next for `destination` (see balance::key); None when no more are to be asked.
    pub fn next(&mut self, asked: &Asked, destination: u64, now: Instant) -> Option<usize> {
        if let [standing] = &self.standings[..] {
            return (!asked.has_passed(standing)).then_some(0);
        }
        self.among_the_well(asked, destination, now)
            .or_else(|| self.among(asked, destination, |standing| standing.state(now).0 != State::Down))
            .or_else(|| if asked.answered { None } else { self.among(asked, destination, |_| true) })
    }

    /// The same, where only `order` may be asked, the first one first.
    pub fn next_of(&self, order: &[SocketAddr], asked: &Asked, now: Instant) -> Option<usize> {
        let place = |address: &SocketAddr| self.standings.iter().position(|standing| standing.address == *address);
        let left = || order.iter().filter_map(place).filter(|place| !asked.has_passed(&self.standings[*place]));
        let is_well = |standing: &Standing| {
            standing::share(standing, now) > 0 && (standing.state(now).0 != State::Probation || standing.may_try(now))
        };
        left()
            .find(|place| is_well(&self.standings[*place]))
            .or_else(|| left().find(|place| self.standings[*place].state(now).0 != State::Down))
            .or_else(|| if asked.answered { None } else { left().next() })
    }

    /// Say whether another could be asked beside one that takes long; `order`: of these only.
    pub fn has_another(&self, order: Option<&[SocketAddr]>, asked: &Asked, now: Instant) -> bool {
        let is_left = |standing: &Arc<Standing>| {
            !asked.has_passed(standing)
                && (!asked.answered || standing.state(now).0 != State::Down)
                && order.is_none_or(|order| order.contains(&standing.address))
        };
        self.standings.iter().any(is_left)
    }

    fn among_the_well(&mut self, asked: &Asked, destination: u64, now: Instant) -> Option<usize> {
        let mut tried = 0u32; // a bit for each that is on probation for another connect
        loop {
            let well = |index: usize, standing: &Standing| match tried & (1 << index) {
                0 if !asked.has_passed(standing) => standing::share(standing, now),
                _ => 0,
            };
            let index = self.choose(destination, well)?;
            let standing = &self.standings[index];
            if standing.state(now).0 != State::Probation || standing.may_try(now) {
                return Some(index);
            }
            tried |= 1 << index;
        }
    }

    fn among(&mut self, asked: &Asked, destination: u64, may: impl Fn(&Standing) -> bool) -> Option<usize> {
        self.choose(destination, |_, standing| if may(standing) && !asked.has_passed(standing) { WHOLE } else { 0 })
    }

    fn choose(&mut self, destination: u64, share: impl Fn(usize, &Standing) -> u32) -> Option<usize> {
        let candidates = self.standings.iter().take(MOST).enumerate().map(|(index, standing)| Candidate {
            key: standing.key,
            share: share(index, standing),
            open: standing.tally.flows_now.get(),
        });
        self.candidates.clear();
        self.candidates.extend(candidates);
        self.chooser.choose(&self.candidates, destination)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Event;

    fn at(millis: i64) -> Instant {
        Instant::from_millis(millis)
    }

    fn three(balance: Balance) -> Choice {
        let address = |number| format!("192.0.2.{number}:3128").parse().unwrap();
        let standings = (1..=3).map(|number| Arc::new(Standing::new(address(number), false, at(0)))).collect();
        Choice::new(standings, balance, 0)
    }

    fn learn(choice: &Choice, index: usize, event: Event, millis: i64) {
        choice.standings()[index].learn(event, at(millis), at(millis));
    }

    /// Ask one after the other, each in vain.
    fn all(choice: &mut Choice, mut asked: Asked, now: Instant) -> Vec<usize> {
        let mut found = Vec::new();
        while let Some(index) = choice.next(&asked, 7, now) {
            asked.pass(choice.standings()[index].address);
            found.push(index);
        }
        found
    }

    #[test]
    fn all_are_asked_in_order_and_the_dead_at_last() {
        let mut choice = three(Balance::Order);
        assert_eq!(all(&mut choice, Asked::default(), at(0)), [0, 1, 2]);
        learn(&choice, 0, Event::Unreachable, 1);
        learn(&choice, 1, Event::Slow, 1);
        assert_eq!(all(&mut choice, Asked::default(), at(2)), [2, 1, 0]);
    }

    #[test]
    fn order_of_a_script_is_kept_the_dead_at_last_and_no_other_is_asked() {
        let mut choice = three(Balance::Order);
        let order: Vec<_> = [2, 0].map(|place| choice.standings()[place].address).to_vec();
        let all_of = |choice: &mut Choice, now| {
            let mut asked = Asked::default();
            let mut found = Vec::new();
            while let Some(place) = choice.next_of(&order, &asked, now) {
                asked.pass(choice.standings()[place].address);
                found.push(place);
            }
            found
        };
        assert_eq!(all_of(&mut choice, at(0)), [2, 0]);
        learn(&choice, 2, Event::Unreachable, 1);
        assert_eq!(all_of(&mut choice, at(2)), [0, 2]);
        learn(&choice, 0, Event::Unreachable, 3);
        assert_eq!(all_of(&mut choice, at(4)), [2, 0]);
        assert_eq!(choice.next_of(&[], &Asked::default(), at(4)), None);
    }

    #[test]
    fn dead_proxies_are_asked_only_where_none_has_answered() {
        let mut choice = three(Balance::Order);
        learn(&choice, 0, Event::Unreachable, 1);
        let mut asked = Asked::default();
        asked.pass(choice.standings()[1].address);
        asked.answered();
        assert!(choice.has_another(None, &asked, at(2)));
        assert_eq!(all(&mut choice, asked.clone(), at(2)), [2]);
        asked.pass(choice.standings()[2].address);
        assert!(!choice.has_another(None, &asked, at(2)));
    }

    #[test]
    fn where_all_are_down_they_are_asked_all_the_same() {
        for balance in [Balance::Order, Balance::RoundRobin, Balance::LeastConnections, Balance::Destination] {
            let mut choice = three(balance);
            (0..3).for_each(|index| learn(&choice, index, Event::Unreachable, 1));
            let mut found = all(&mut choice, Asked::default(), at(2));
            found.sort_unstable();
            assert_eq!(found, [0, 1, 2], "{balance:?}");
        }
    }

    #[test]
    fn proxy_on_probation_gets_one_connect_and_after_its_answer_a_growing_share() {
        let mut choice = three(Balance::Order);
        learn(&choice, 0, Event::Unreachable, 1);
        learn(&choice, 0, Event::Reached, 1000);
        let first: Vec<_> = (0..5).map(|_| choice.next(&Asked::default(), 7, at(1001)).unwrap()).collect();
        assert_eq!(first, [0, 1, 1, 1, 1]);
        learn(&choice, 0, Event::Answered, 1002);
        let half = at(1002 + 15_000);
        let shared: Vec<_> = (0..6).map(|_| choice.next(&Asked::default(), 7, half).unwrap()).collect();
        assert_eq!(shared.iter().filter(|index| **index == 0).count(), 3, "{shared:?}");
    }

    #[test]
    fn host_is_one_destination_whatever_its_port_and_its_letters() {
        let choice = three(Balance::Destination);
        let of = |host, port| choice.destination(&Target::parse(host, port).unwrap());
        assert_eq!(of("a.example", 80), of("A.Example", 443));
        assert_eq!(of("192.0.2.9", 80), of("192.0.2.9", 443));
        assert_ne!(of("a.example", 80), of("b.example", 80));
    }

    #[test]
    fn least_connections_counts_those_of_all_threads() {
        let mut choice = three(Balance::LeastConnections);
        let used: Vec<_> = [0, 2].map(|index| standing::Use::begin(&choice.standings()[index], at(0))).into();
        assert_eq!(choice.next(&Asked::default(), 7, at(0)), Some(1));
        drop(used);
    }

    #[test]
    fn single_proxy_is_always_asked_once() {
        let standing = Arc::new(Standing::new("192.0.2.1:3128".parse().unwrap(), false, at(0)));
        let mut choice = Choice::new(vec![standing], Balance::Order, 0);
        learn(&choice, 0, Event::Unreachable, 1);
        assert_eq!(all(&mut choice, Asked::default(), at(2)), [0]);
    }
}
