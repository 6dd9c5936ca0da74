//! The proxies as one thread sees them: which is tried first, connections at hand, and what is said of them.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use smoltcp::time::{Duration, Instant};

use crate::login::Login;
use crate::pool::Pool;
use crate::refusal::Refusal;
use crate::stats::{Notes, Stats};
use crate::target::Target;
use crate::tls::Tls;
use crate::upstream::Upstream;
use crate::warming::Warming;
use crate::wishes::Wishes;

/// After so long the first proxy is tried first again.
const PREFER_AGAIN: Duration = Duration::from_secs(30);

/// A proxy: where it listens, and what it is told.
#[derive(Clone)]
pub struct Proxy {
    pub address: SocketAddr,
    /// The host of its URL: the name in its certificate and of its service principal.
    pub name: String,
    /// How to speak TLS to it; None: plain HTTP.
    pub tls: Option<Tls>,
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
        Upstream::dial_by(self.address, self.tls.as_ref())
    }
}

/// Let addresses of one proxy, and those of it that are `known` already, have one memory: an account is one, too.
pub fn share_logins(proxies: &mut [Proxy], known: &[Proxy]) {
    for index in 0..proxies.len() {
        let (before, rest) = proxies.split_at_mut(index);
        let Some(proxy) = rest.first_mut() else { return };
        let same = |other: &Proxy| (other.name.clone(), other.address.port(), other.tls.is_some());
        let is_same = |other: &&Proxy| same(other) == same(proxy) && other.login.has_means_of(&proxy.login);
        if let Some(other) = known.iter().chain(before.iter()).find(is_same) {
            proxy.login = other.login.clone();
        }
    }
}

/// The proxies that take the place of those that the threads began with; each thread looks when a flow begins.
#[derive(Default)]
pub struct Successors {
    turn: AtomicUsize,
    proxies: Mutex<Vec<Proxy>>,
}

impl Successors {
    /// Let connections that begin from now on use `proxies`; none at all changes nothing.
    pub fn announce(&self, proxies: Vec<Proxy>) {
        if !proxies.is_empty() {
            *self.proxies.lock().unwrap_or_else(PoisonError::into_inner) = proxies;
            self.turn.fetch_add(1, Ordering::Release);
        }
    }
}

/// See the head of this file.
pub struct Upstreams {
    /// In the order in which they are tried; never empty.
    pub proxies: Vec<Proxy>,
    /// Where their successors are found, and how many of those have been taken.
    pub successors: Arc<Successors>,
    turn: usize,
    pub pool: Pool,
    pub wishes: Wishes,
    pub stats: Arc<Stats>,
    pub notes: Arc<Notes>,
    /// The proxy tried first, and since when that is not the first one.
    preferred: (usize, Option<Instant>),
    /// The connections of the pool that are counted.
    counted_idle: u64,
}

impl Upstreams {
    /// Begin without connections.
    pub fn new(proxies: Vec<Proxy>, stats: Arc<Stats>, notes: Arc<Notes>) -> Upstreams {
        Upstreams {
            proxies,
            successors: Arc::default(),
            turn: 0,
            pool: Pool::default(),
            wishes: Wishes::default(),
            stats,
            notes,
            preferred: (0, None),
            counted_idle: 0,
        }
    }

    /// Take the successors of the proxies, if there are any. What is under way keeps its connection.
    fn follow(&mut self) {
        let turn = self.successors.turn.load(Ordering::Acquire);
        if turn != self.turn {
            self.turn = turn;
            self.proxies = self.successors.proxies.lock().unwrap_or_else(PoisonError::into_inner).clone();
            (self.pool, self.preferred) = (Pool::default(), (0, None));
        }
    }

    /// Give the index of the proxy to try first, for a connection that begins.
    pub fn preferred(&mut self, now: Instant) -> usize {
        self.follow();
        if self.preferred.1.is_some_and(|since| now >= since + PREFER_AGAIN) {
            self.preferred = (0, None);
        }
        self.preferred.0
    }

    /// Count on another proxy first, and tell the log, when `refusal` is the fault of `proxy`.
    pub fn note_refusal(&mut self, refusal: &Refusal, target: &Target, proxy: usize, now: Instant) {
        if refusal.is_of_the_proxy() && proxy == self.preferred.0 && self.proxies.len() > 1 {
            self.preferred = ((proxy + 1) % self.proxies.len(), Some(now));
        }
        let address = self.proxies[proxy % self.proxies.len()].address; // it may have had more
        if refusal.is_told_already() {
            return;
        }
        if !self.notes.add(refusal.kind(), now, || refusal.text(target, address)) {
            self.stats.notes_held_back.up();
        }
    }

    /// Close what has been in the pool for long, and make what is expected to be wanted soon; give what is to be brought
    /// to its end as an errand.
    pub fn tend_pool(&mut self, now: Instant) -> Vec<Warming> {
        let mut warming = Vec::new();
        while let Some(proxy) = self.pool.wants(now) {
            match self.proxies[proxy].dial() {
                Ok(upstream) if self.proxies[proxy].tls.is_some() => {
                    self.pool.expect();
                    warming.push(Warming::new(upstream, (self.turn, proxy), now));
                }
                Ok(upstream) => self.add_to_pool(upstream, now),
                Err(_) => break, // those who need one will be told why
            }
        }
        self.stats.pool_idle_now.follow(&mut self.counted_idle, self.pool.idle() as u64);
        warming
    }

    /// Take in a connection to `proxy` of turn `turn` that is ready by now; None: it came to nothing.
    pub fn warmed(&mut self, upstream: Option<Upstream>, (turn, proxy): (usize, usize), now: Instant) {
        let wanted = turn == self.turn && self.pool.expect_no_more(proxy);
        if let Some(upstream) = upstream.filter(|_| wanted) {
            self.count_handshake(&upstream);
            self.add_to_pool(upstream, now);
        }
    }

    fn add_to_pool(&mut self, upstream: Upstream, now: Instant) {
        self.stats.pool_made.up();
        self.pool.give(upstream, now);
    }

    /// Count the TLS handshake of a connection, if it had one.
    pub fn count_handshake(&self, upstream: &Upstream) {
        if let Some(resumed) = upstream.was_resumed() {
            self.stats.tls_handshakes.up();
            self.stats.tls_resumed.add(u64::from(resumed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn successors_are_for_connections_that_begin_later_and_may_be_fewer() {
        let three = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"].map(proxy).to_vec();
        let mut upstreams = Upstreams::new(three, Arc::default(), Arc::default());
        let (now, target) = (Instant::from_millis(0), Target::parse("192.0.2.9", 80).unwrap());
        upstreams.note_refusal(&Refusal::Closed, &target, 0, now);
        upstreams.successors.announce(vec![proxy("192.0.2.4:1")]);
        assert_eq!(upstreams.proxies.len(), 3);
        assert_eq!(upstreams.preferred(now), 0);
        assert_eq!(upstreams.proxies[0].address.to_string(), "192.0.2.4:1");
        upstreams.note_refusal(&Refusal::Closed, &target, 2, now); // of a flow that began before
        upstreams.successors.announce(Vec::new());
        assert_eq!((upstreams.preferred(now), upstreams.proxies.len()), (0, 1));
    }
}
