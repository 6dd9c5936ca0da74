//! The proxies as one thread sees them: who is asked next, connections at hand, and what is said of them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use smoltcp::time::Instant;

use crate::choice::Choice;
use crate::health::State;
use crate::login::Login;
use crate::pool::Pool;
use crate::refusal::Refusal;
use crate::roster::{Policy, Roster};
use crate::standing::{Change, Standing};
use crate::stats::{Notes, Stats};
use crate::target::Target;
use crate::trust::Client;
use crate::upstream::Upstream;
use crate::wishes::Wishes;

/// A proxy: where it listens, and what it is told.
#[derive(Clone)]
pub struct Proxy {
    pub address: SocketAddr,
    /// The host of its URL: the name in its certificate and of its service principal.
    pub name: String,
    /// What TLS with it begins with; None: it is spoken to in plain text.
    pub tls: Option<Client>,
    /// The credentials, and what is known of how the proxy wants them.
    pub login: Login,
}

impl Proxy {
    /// Give a proxy at `address` that is spoken to in plain text and without credentials.
    pub fn plain(address: SocketAddr) -> Proxy {
        Proxy { address, name: address.ip().to_string(), tls: None, login: Login::default() }
    }

    /// Begin a connection to it.
    pub fn dial(&self) -> io::Result<Upstream> {
        let upstream = Upstream::dial(self.address)?;
        match &self.tls {
            None => Ok(upstream),
            Some(client) => upstream.with_tls(client),
        }
    }
}

/// Let addresses of one proxy, and those of it that are `known` already, have one memory: an account is one, too.
pub fn share_logins(proxies: &mut [Proxy], known: &[Proxy]) {
    for index in 0..proxies.len() {
        let (before, rest) = proxies.split_at_mut(index);
        let Some(proxy) = rest.first_mut() else { return };
        let is_same = |other: &&Proxy| {
            (&other.name, other.address.port(), other.tls.is_some())
                == (&proxy.name, proxy.address.port(), proxy.tls.is_some())
                && other.login.has_means_of(&proxy.login)
        };
        if let Some(other) = known.iter().chain(before.iter()).find(is_same) {
            proxy.login = other.login.clone();
        }
    }
}

/// See the head of this file.
pub struct Upstreams {
    /// In the user's order; never empty. Places are those of `choice`, too.
    pub proxies: Vec<Proxy>,
    pub choice: Choice,
    roster: Arc<Roster>,
    /// The number of the list that was taken of it.
    turn: usize,
    pub pool: Pool,
    pub wishes: Wishes,
    pub stats: Arc<Stats>,
    pub notes: Arc<Notes>,
    /// The connections of the pool that are counted.
    counted_idle: u64,
}

impl Upstreams {
    /// Begin without connections, with proxies that nobody else has.
    pub fn new(proxies: Vec<Proxy>, stats: Arc<Stats>, notes: Arc<Notes>) -> Upstreams {
        let roster = Roster::new(proxies, Policy::default(), Instant::ZERO);
        Upstreams::of(Arc::new(roster), 0, Wishes::default(), (stats, notes))
    }

    /// Begin without connections, as thread `number` of those that have this roster.
    pub fn of(
        roster: Arc<Roster>,
        number: usize,
        wishes: Wishes,
        (stats, notes): (Arc<Stats>, Arc<Notes>),
    ) -> Upstreams {
        let listed = roster.listed();
        Upstreams {
            proxies: listed.proxies,
            choice: Choice::new(listed.standings, roster.policy.balance, number),
            turn: roster.turn(),
            roster,
            pool: Pool::default(),
            wishes,
            stats,
            notes,
            counted_idle: 0,
        }
    }

    /// Have `proxy` alone.
    pub fn only(&mut self, proxy: Proxy) {
        self.roster = Arc::new(Roster::new(vec![proxy], Policy::default(), Instant::ZERO));
        self.turn = 0;
        self.follow();
    }

    /// Take the proxies of now, if they have changed. What is under way keeps its connection.
    pub fn follow(&mut self) {
        if self.roster.turn() != self.turn {
            self.turn = self.roster.turn();
            let listed = self.roster.listed();
            let known = |standing: &Arc<Standing>| self.place(standing);
            self.pool.follow(&listed.standings.iter().map(known).collect::<Vec<_>>());
            self.proxies = listed.proxies;
            self.choice.follow(listed.standings);
        }
    }

    /// Give what the user wants of several proxies.
    pub fn policy(&self) -> &Policy {
        &self.roster.policy
    }

    /// Give the place that a proxy has now.
    pub fn place(&self, standing: &Arc<Standing>) -> Option<usize> {
        self.choice.standings().iter().position(|other| Arc::ptr_eq(other, standing))
    }

    /// Give the addresses of the proxies that would be told the same password as the one of `standing`: none where there is
    /// none, and so no account that could be locked.
    pub fn same_credentials(&self, standing: &Arc<Standing>) -> impl Iterator<Item = SocketAddr> {
        let theirs = self.place(standing).map(|place| self.proxies[place].login.clone()).filter(Login::has_user);
        let is_same = move |proxy: &&Proxy| theirs.as_ref().is_some_and(|login| login.has_means_of(&proxy.login));
        self.proxies.iter().filter(is_same).map(|proxy| proxy.address)
    }

    /// Tell the log of a refusal, whatever comes of it.
    pub fn note_refusal(&mut self, refusal: &Refusal, target: &Target, address: SocketAddr, now: Instant) {
        if !self.notes.add(refusal.kind(), now, || refusal.text(target, address)) {
            self.stats.notes_held_back.up();
        }
    }

    /// Tell the log that a proxy was lost, or is back, where there are others.
    pub fn note_change(&mut self, change: Option<Change>, standing: &Standing) {
        let Some(change) = change.filter(|_| self.proxies.len() > 1) else { return };
        if change.to == State::Down {
            self.stats.proxies_lost.up();
        }
        if let Some(text) = change.text(standing.address) {
            self.notes.tell(text);
        }
    }

    /// Give the time at which a proxy is to be probed.
    pub fn next_probe(&self) -> Option<Instant> {
        if self.proxies.len() == 1 && self.policy().check.is_none() {
            return None; // it is asked in any case
        }
        self.choice.standings().iter().filter_map(|standing| standing.next_probe()).min()
    }

    /// Give a proxy that the caller is to probe now.
    pub fn due_probe(&mut self, now: Instant) -> Option<Arc<Standing>> {
        self.next_probe().filter(|at| *at <= now)?;
        self.choice.standings().iter().find(|standing| standing.may_probe(now)).cloned()
    }

    /// Close what has been in the pool for long, and make what is expected to be wanted soon.
    pub fn tend_pool(&mut self, now: Instant) {
        self.pool.shake_hands(now);
        while let Some(proxy) = self.pool.wants(now) {
            match self.proxies[proxy].dial() {
                Ok(upstream) => {
                    self.stats.pool_made.up();
                    self.pool.give(proxy, upstream, now);
                }
                Err(_) => break, // those who need one will be told why
            }
        }
        self.stats.pool_idle_now.follow(&mut self.counted_idle, self.pool.idle() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choice::Asked;
    use crate::means::Means;

    fn proxy(address: &str) -> Proxy {
        Proxy::plain(address.parse().unwrap())
    }

    #[test]
    fn addresses_of_one_proxy_share_what_is_known_of_the_account() {
        let named = |address: &str, name: &str, user: &str| {
            let means = Means { user: user.as_bytes().to_vec(), ..Means::default() };
            Proxy { name: name.to_owned(), login: Login::new(means), ..proxy(address) }
        };
        let known = [named("192.0.2.1:1", "a", "ann")];
        let mut proxies = [
            named("192.0.2.2:1", "a", "ann"),
            named("192.0.2.3:1", "a", "bob"),
            named("192.0.2.1:1", "b", "ann"),
            named("192.0.2.4:1", "b", "ann"),
            named("192.0.2.4:2", "b", "ann"),
        ];
        share_logins(&mut proxies, &known);
        assert!(proxies[0].login.is(&known[0].login) && proxies[2].login.is(&proxies[3].login));
        for (one, other) in [(0, 1), (0, 2), (3, 4)] {
            assert!(!proxies[one].login.is(&proxies[other].login), "{one} and {other}");
        }
    }

    #[test]
    fn other_proxies_are_for_connections_that_begin_later_and_may_be_fewer() {
        let proxies = |addresses: &[&str]| addresses.iter().map(|at| Proxy::plain(at.parse().unwrap())).collect();
        let three = proxies(&["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"]);
        let roster = Arc::new(Roster::new(three, Policy::default(), Instant::ZERO));
        let mut upstreams = Upstreams::of(Arc::clone(&roster), 0, Wishes::default(), Default::default());
        let last = Arc::clone(&upstreams.choice.standings()[2]);
        roster.replace(proxies(&["192.0.2.4:1", "192.0.2.3:1"]), Instant::ZERO);
        assert_eq!((upstreams.proxies.len(), upstreams.place(&last)), (3, Some(2)));
        upstreams.follow();
        assert_eq!((upstreams.proxies.len(), upstreams.place(&last)), (2, Some(1)));
        let first = upstreams.choice.next(&Asked::default(), 0, Instant::ZERO).unwrap();
        assert_eq!(upstreams.proxies[first].address.to_string(), "192.0.2.4:1");
    }
}
