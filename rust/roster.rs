//! The proxies of now, and how each is: what all packet threads have in common of them.
//!
//! The list is replaced when a proxy's name has moved; each thread looks when a connection begins. An address that stays
//! keeps its standing: what is known of its health, and what was counted.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smoltcp::time::Instant;

use crate::balance::Balance;
use crate::standing::Standing;
use crate::target::Target;
use crate::upstreams::Proxy;

/// What the user wants of several proxies.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    pub balance: Balance,
    /// What a proxy that is well opens a connection to, where the user named something.
    pub check: Option<Target>,
    /// Whether another is asked also where one has refused as its policy.
    pub on_refusal: bool,
    /// Whether a PAC file says for each connection which proxies may be asked (see ways.rs).
    pub by_script: bool,
}

/// The proxies in the user's order, each with its standing.
#[derive(Clone, Default)]
pub struct Listed {
    pub proxies: Vec<Proxy>,
    pub standings: Vec<Arc<Standing>>,
}

/// See the head of this file.
pub struct Roster {
    pub policy: Policy,
    turn: AtomicUsize,
    listed: Mutex<Listed>,
}

impl Roster {
    /// Begin with these.
    pub fn new(proxies: Vec<Proxy>, policy: Policy, now: Instant) -> Roster {
        let roster = Roster { policy, turn: AtomicUsize::new(0), listed: Mutex::default() };
        roster.replace(proxies, now);
        roster
    }

    /// Let connections that begin from now on use `proxies`; none at all changes nothing.
    pub fn replace(&self, proxies: Vec<Proxy>, now: Instant) {
        if proxies.is_empty() {
            return;
        }
        let mut listed = self.lock();
        let known = |address| listed.standings.iter().find(|standing| standing.address == address).cloned();
        let fresh = |address: SocketAddr| Arc::new(Standing::new(address, self.policy.check.is_some(), now));
        let standings = proxies.iter().map(|proxy| known(proxy.address).unwrap_or_else(|| fresh(proxy.address)));
        *listed = Listed { standings: standings.collect(), proxies };
        self.turn.fetch_add(1, Ordering::Release);
    }

    /// Give the number of lists that there have been.
    pub fn turn(&self) -> usize {
        self.turn.load(Ordering::Acquire)
    }

    /// Give the list of now.
    pub fn listed(&self) -> Listed {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Listed> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Event, State};

    #[test]
    fn address_that_stays_keeps_its_standing() {
        let proxies = |addresses: &[&str]| addresses.iter().map(|at| Proxy::plain(at.parse().unwrap())).collect();
        let now = Instant::from_secs(1);
        let roster = Roster::new(proxies(&["192.0.2.1:1", "192.0.2.2:1"]), Policy::default(), Instant::ZERO);
        roster.listed().standings[1].learn(Event::Unreachable, now, now);
        roster.replace(proxies(&["192.0.2.3:1", "192.0.2.2:1"]), now);
        let states: Vec<State> = roster.listed().standings.iter().map(|standing| standing.state(now).0).collect();
        assert_eq!((states, roster.turn()), (vec![State::Up, State::Down], 2));
        roster.replace(Vec::new(), now);
        assert_eq!(roster.listed().proxies.len(), 2);
    }
}
