//! What all flows of one thread use: the proxies, the rings, the counters, and who ended lately.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use smoltcp::time::{Duration, Instant};

use crate::error::Error;
use crate::packet::FourTuple;
use crate::pool::Pool;
use crate::refusal::Refusal;
use crate::rings::{Rings, Slot};
use crate::stats::{Notes, Stats};
use crate::upstream::Upstream;

/// After so long the first proxy is tried first again.
const PREFER_AGAIN: Duration = Duration::from_secs(30);
const RECENT: usize = 1024;
/// The largest ring for so many busy flows; see docs/performance.md.
const RING_SIZES: [(u32, usize); 3] = [(16, 1 << 20), (256, 256 << 10), (u32::MAX, 64 << 10)];

/// A proxy: where it listens, and the value of Proxy-Authorization for it (empty: none).
#[derive(Clone)]
pub struct Proxy {
    pub address: SocketAddr,
    pub authorization: Vec<u8>,
}

/// The proxies that take the place of those that the threads began with; each thread looks when a flow begins.
#[derive(Default)]
pub struct Successors {
    turn: AtomicUsize,
    proxies: Mutex<Vec<Proxy>>,
}

impl Successors {
    /// Let flows that begin from now on use `proxies`; none at all changes nothing.
    pub fn announce(&self, proxies: Vec<Proxy>) {
        if !proxies.is_empty() {
            *self.proxies.lock().unwrap_or_else(PoisonError::into_inner) = proxies;
            self.turn.fetch_add(1, Ordering::Release);
        }
    }
}

/// See the head of this file.
pub struct Shared {
    /// In the order in which they are tried; never empty.
    pub proxies: Vec<Proxy>,
    /// Where their successors are found, and how many of those have been taken.
    pub successors: Arc<Successors>,
    turn: usize,
    pub pool: Pool,
    pub rings: Rings,
    pub stats: Arc<Stats>,
    pub notes: Arc<Notes>,
    /// The proxy tried first, and since when that is not the first one.
    preferred: (usize, Option<Instant>),
    /// Connections that ended in order, by hash: a late FIN of theirs gets its ACK.
    recent: Vec<Option<FourTuple>>,
    hasher: RandomState,
    /// Flows that moved bytes in the last second; kept by the stack.
    pub busy: u32,
    /// The connections of the pool that are counted.
    counted_idle: u64,
}

impl Shared {
    /// Begin with nothing in use, on a machine (or a share of one) with `memory` bytes.
    pub fn new(proxies: Vec<Proxy>, memory: u64, stats: Arc<Stats>, notes: Arc<Notes>) -> Result<Shared, Error> {
        let (rings, hasher) = (Rings::new(memory)?, RandomState::new());
        Ok(Shared {
            proxies,
            successors: Arc::default(),
            turn: 0,
            pool: Pool::default(),
            rings,
            stats,
            notes,
            preferred: (0, None),
            recent: vec![None; RECENT],
            hasher,
            busy: 0,
            counted_idle: 0,
        })
    }

    /// Take the successors of the proxies, if there are any. Flows that are under way keep their connections.
    fn follow(&mut self) {
        let turn = self.successors.turn.load(Ordering::Acquire);
        if turn != self.turn {
            self.turn = turn;
            self.proxies = self.successors.proxies.lock().unwrap_or_else(PoisonError::into_inner).clone();
            (self.pool, self.preferred) = (Pool::default(), (0, None));
        }
    }

    /// Give the index of the proxy to try first, for a flow that begins.
    pub fn preferred_proxy(&mut self, now: Instant) -> usize {
        self.follow();
        if self.preferred.1.is_some_and(|since| now >= since + PREFER_AGAIN) {
            self.preferred = (0, None);
        }
        self.preferred.0
    }

    /// Count on another proxy first, and tell the log, when `refusal` is the fault of `proxy`.
    pub fn note_refusal(&mut self, refusal: &Refusal, target: SocketAddr, proxy: usize, now: Instant) {
        if refusal.is_of_the_proxy() && proxy == self.preferred.0 && self.proxies.len() > 1 {
            self.preferred = ((proxy + 1) % self.proxies.len(), Some(now));
        }
        let address = self.proxies[proxy % self.proxies.len()].address; // it may have had more
        if !self.notes.add(refusal.kind(), now, || refusal.text(target, address)) {
            self.stats.notes_held_back.up();
        }
    }

    /// Close what has been in the pool for long, and make what is expected to be wanted soon.
    pub fn tend_pool(&mut self, now: Instant) {
        while let Some(proxy) = self.pool.wants(now) {
            match Upstream::dial(self.proxies[proxy].address) {
                Ok(upstream) => {
                    self.stats.pool_made.up();
                    self.pool.give(upstream, now);
                }
                Err(_) => break, // those who need one will be told why
            }
        }
        self.stats.pool_idle_now.follow(&mut self.counted_idle, self.pool.idle() as u64);
    }

    /// Take rings that suit the number of busy flows.
    pub fn take_slot(&mut self) -> Option<Slot> {
        let size = RING_SIZES.iter().find(|(busy, _)| self.busy < *busy).map_or(0, |(_, ring)| *ring);
        self.rings.take(size)
    }

    /// Remember a connection that ended in order.
    pub fn remember(&mut self, tuple: &FourTuple) {
        let index = self.place(tuple);
        self.recent[index] = Some(*tuple);
    }

    /// Say whether a connection ended in order lately.
    pub fn ended_lately(&self, tuple: &FourTuple) -> bool {
        self.recent[self.place(tuple)].as_ref() == Some(tuple)
    }

    /// Give a number for `what` that nobody can guess.
    pub fn secret(&self, what: &impl Hash) -> u32 {
        self.hasher.hash_one(what) as u32
    }

    fn place(&self, tuple: &FourTuple) -> usize {
        self.hasher.hash_one(tuple) as usize % RECENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(address: &str) -> Proxy {
        Proxy { address: address.parse().unwrap(), authorization: Vec::new() }
    }

    #[test]
    fn successors_are_for_flows_that_begin_later_and_may_be_fewer() {
        let three = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"].map(proxy).to_vec();
        let mut shared = Shared::new(three, 1 << 30, Arc::default(), Arc::default()).unwrap();
        let (now, target) = (Instant::from_millis(0), "192.0.2.9:80".parse().unwrap());
        shared.note_refusal(&Refusal::Closed, target, 0, now);
        shared.successors.announce(vec![proxy("192.0.2.4:1")]);
        assert_eq!(shared.proxies.len(), 3);
        assert_eq!(shared.preferred_proxy(now), 0);
        assert_eq!(shared.proxies[0].address.to_string(), "192.0.2.4:1");
        shared.note_refusal(&Refusal::Closed, target, 2, now); // of a flow that began before
        shared.successors.announce(Vec::new());
        assert_eq!((shared.preferred_proxy(now), shared.proxies.len()), (0, 1));
    }
}
