//! Asks a proxy how it is, on nobody's behalf: by a connection alone or, where the user named something, by a CONNECT.
//!
//! A connection that is closed at once leaves little or nothing in a proxy's log, and shows only that somebody listens;
//! so it lets a proxy on probation, not back (health.rs).

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use smoltcp::time::{Duration, Instant};

use crate::approach::{Approach, Progress};
use crate::errand::{Errand, Served};
use crate::health::Event;
use crate::link::Wire;
use crate::shared::Shared;
use crate::standing::Standing;
use crate::upstream::{Ready, Upstream};
use crate::upstreams::Upstreams;

/// For all of it.
const PATIENCE: Duration = Duration::from_secs(3);

/// See the head of this file.
pub struct Probe {
    standing: Arc<Standing>,
    began: Instant,
    way: Way,
}

enum Way {
    Connect(Upstream),
    Ask(Box<Approach>),
    Nothing,
}

impl Probe {
    /// Begin one.
    pub fn begin(standing: Arc<Standing>, now: Instant, upstreams: &mut Upstreams) -> Probe {
        let way = match upstreams.policy().check.clone() {
            Some(target) => Way::Ask(Box::new(Approach::alone(&standing, target, now, upstreams))),
            None => Upstream::dial(standing.address).map_or(Way::Nothing, Way::Connect),
        };
        Probe { standing, began: now, way }
    }

    /// Give what it has found out, if it has.
    fn look(&mut self, now: Instant, upstreams: &mut Upstreams) -> Option<Event> {
        if now >= self.began + PATIENCE {
            return Some(Event::Missed);
        }
        match &mut self.way {
            Way::Nothing => Some(Event::Missed),
            Way::Connect(upstream) => match upstream.is_connected() {
                Ok(true) => Some(Event::Reached),
                Ok(false) => None,
                Err(_) => Some(Event::Missed),
            },
            Way::Ask(approach) => {
                match approach.take_refusal().map_or_else(|| approach.serve(now, upstreams), Progress::Refused) {
                    Progress::Waiting(_) => None,
                    Progress::Granted(_) => Some(Event::Proven),
                    Progress::Refused(_) => Some(Event::Missed),
                }
            }
        }
    }
}

impl Errand for Probe {
    fn serve(&mut self, now: Instant, _wire: &mut Wire, shared: &mut Shared) -> Served {
        let upstreams = &mut shared.upstreams;
        let Some(event) = self.look(now, upstreams) else { return Served::Until(Some(self.began + PATIENCE)) };
        let change = self.standing.learn(event, self.began, now);
        upstreams.note_change(change, &self.standing);
        Served::Over
    }

    fn wake(&mut self, ready: Ready) {
        if let Way::Ask(approach) = &mut self.way {
            approach.wake(ready);
        }
    }

    fn descriptor(&self) -> Option<RawFd> {
        match &self.way {
            Way::Connect(upstream) => Some(upstream.as_raw_fd()),
            Way::Ask(approach) => approach.descriptor(),
            Way::Nothing => None,
        }
    }

    fn dials(&self) -> u32 {
        match &self.way {
            Way::Connect(_) => 1,
            Way::Ask(approach) => approach.dials(),
            Way::Nothing => 0,
        }
    }
}
