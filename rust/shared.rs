//! What all flows of one thread use: the proxies, the rings, the counters, errands, and who ended lately.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::addresses::{Meaning, Pin};
use crate::desk::Desk;
use crate::errand::Errand;
use crate::error::Error;
use crate::names::{Mode, Names};
use crate::naming::Resolver;
use crate::packet::FourTuple;
use crate::refusal::Refusal;
use crate::rings::{Rings, Slot};
use crate::stats::Stats;
use crate::target::Target;
use crate::upstreams::Upstreams;

const RECENT: usize = 1024;
/// The port of DNS over TLS.
const OVER_TLS: u16 = 853;
/// The largest ring for so many busy flows; see docs/performance.md.
const RING_SIZES: [(u32, usize); 3] = [(16, 1 << 20), (256, 256 << 10), (u32::MAX, 64 << 10)];

/// See the head of this file.
pub struct Shared {
    pub upstreams: Upstreams,
    /// None where names are resolved outside the tunnel.
    pub desk: Option<Desk>,
    pub rings: Rings,
    pub stats: Arc<Stats>,
    /// Errands that have come up; the stack takes them in after each round.
    pub errands: Vec<Box<dyn Errand + Send>>,
    /// Connections that ended in order, by hash: a late FIN of theirs gets its ACK.
    recent: Vec<Option<FourTuple>>,
    hasher: RandomState,
    /// Flows that moved bytes in the last second; kept by the stack.
    pub busy: u32,
}

impl Shared {
    /// Begin with nothing in use, on a machine (or a share of one) with `memory` bytes.
    pub fn new(upstreams: Upstreams, memory: u64) -> Result<Shared, Error> {
        let (rings, hasher) = (Rings::new(memory)?, RandomState::new());
        let stats = Arc::clone(&upstreams.stats);
        Ok(Shared {
            upstreams,
            desk: None,
            rings,
            stats,
            errands: Vec::new(),
            recent: vec![None; RECENT],
            hasher,
            busy: 0,
        })
    }

    /// Resolve names in this thread.
    pub fn open_desk(&mut self, names: Names, resolvers: Arc<[Resolver]>) {
        self.desk = Some(Desk::new(names, resolvers, Arc::clone(&self.stats)));
    }

    /// Give what a proxy is to be asked for, for a connection to `destination`; with the pin of its name if it has one.
    pub fn target(&self, destination: SocketAddr) -> Result<(Target, Option<Pin>), Refusal> {
        let Some(desk) = &self.desk else { return Ok((destination.into(), None)) };
        if destination.port() == OVER_TLS && desk.names.mode() == Mode::Virtual {
            return Err(Refusal::OverTls);
        }
        match desk.names.addresses.meaning(destination.ip()) {
            Meaning::Itself => Ok((destination.into(), None)),
            Meaning::Name(name, pin) => match Target::parse(&name, destination.port()) {
                Some(target) => Ok((target, Some(pin))),
                None => Err(Refusal::Nameless),
            },
            Meaning::Nothing => Err(Refusal::Nameless),
        }
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
