//! A connection for the pool that is not ready with its first packet: the TLS handshake is made ahead, too.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use smoltcp::time::{Duration, Instant};

use crate::errand::{Errand, Served};
use crate::link::Wire;
use crate::shared::Shared;
use crate::standing::Standing;
use crate::upstream::{Ready, Upstream};

/// One that takes longer would hardly be of use any more.
const PATIENCE: Duration = Duration::from_secs(3);

/// See the head of this file.
pub struct Warming {
    upstream: Option<Upstream>,
    ready: Ready,
    /// Of the proxy that it is to.
    standing: Arc<Standing>,
    end: Instant,
}

impl Warming {
    /// Go on with a connection to the proxy of `standing` that was just begun.
    pub fn new(upstream: Upstream, standing: Arc<Standing>, now: Instant) -> Warming {
        Warming { upstream: Some(upstream), ready: Ready::default(), standing, end: now + PATIENCE }
    }
}

impl Errand for Warming {
    fn serve(&mut self, now: Instant, _: &mut Wire, shared: &mut Shared) -> Served {
        let Some(upstream) = &mut self.upstream else { return Served::Over };
        let ready = match upstream.establish(&mut self.ready) {
            Ok(false) if now < self.end => return Served::Until(Some(self.end)),
            Ok(ready) => ready,
            Err(_) => false, // those who need one will be told why
        };
        let upstream = self.upstream.take().filter(|_| ready);
        shared.upstreams.warmed(upstream, &self.standing, now);
        Served::Over
    }

    fn wake(&mut self, ready: Ready) {
        self.ready.add(ready);
    }

    fn descriptor(&self) -> Option<RawFd> {
        self.upstream.as_ref().map(AsRawFd::as_raw_fd)
    }

    fn dials(&self) -> u32 {
        1
    }
}
