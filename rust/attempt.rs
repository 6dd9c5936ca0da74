//! What is said to the proxies on the way to a 2xx: the request, and the reading of its reply; one proxy after the other.
//!
//! Knows nothing of stages and time; approach.rs does.

use std::io::ErrorKind;

use smoltcp::time::Instant;

use crate::connect::{self, Connect, Verdict};
use crate::pool::Pool;
use crate::refusal::Refusal;
use crate::target::Target;
use crate::upstream::{Ready, Upstream};
use crate::upstreams::Proxy;

/// A reply's header mostly fits; more comes in pieces.
const SCRATCH: usize = 8 * 1024;

/// See the head of this file.
pub struct Attempt {
    pub target: Target,
    /// The proxy tried first, how many were tried, and the one of this attempt.
    first: usize,
    pub tried: usize,
    pub proxy: usize,
    /// Whether the connection was made before it was needed: it may have been hung up on since.
    pub warm: bool,
    request: Vec<u8>,
    sent: usize,
    reply: Connect,
}

impl Attempt {
    /// Ask for `target`; `first` is the proxy to try first.
    pub fn new(target: Target, first: usize) -> Attempt {
        Attempt {
            target,
            first,
            tried: 0,
            proxy: 0,
            warm: false,
            request: Vec::new(),
            sent: 0,
            reply: Connect::default(),
        }
    }

    /// Take a connection to the next of `proxies` from the pool, or begin one.
    pub fn dial(&mut self, proxies: &[Proxy], pool: &mut Pool, now: Instant) -> Result<Upstream, Refusal> {
        self.proxy = (self.first + self.tried) % proxies.len();
        self.tried += 1;
        let warm = pool.take(self.proxy, now);
        self.warm = warm.is_some();
        self.begin(&proxies[self.proxy], warm)
    }

    /// Begin a connection to the same proxy once more, in the place of one that was hung up on in the pool.
    pub fn dial_again(&mut self, proxies: &[Proxy]) -> Result<Upstream, Refusal> {
        self.warm = false;
        self.begin(&proxies[self.proxy % proxies.len()], None) // there may be fewer by now
    }

    fn begin(&mut self, proxy: &Proxy, warm: Option<Upstream>) -> Result<Upstream, Refusal> {
        self.request = connect::request(&self.target, &connect::basic(&proxy.user, &proxy.password));
        (self.sent, self.reply) = (0, Connect::default());
        warm.map_or_else(|| proxy.dial(), Ok).map_err(Refusal::of_dial)
    }

    /// Say whether the proxy has hung up before it could know of this request.
    pub fn was_hung_up(&self, refusal: &Refusal) -> bool {
        self.warm && !self.reply.begun() && matches!(refusal, Refusal::Closed | Refusal::Unreachable(_))
    }

    /// Send what the kernel takes of the request; says whether any of it has gone, which tells that there is a
    /// connection.
    pub fn send(&mut self, upstream: &mut Upstream, ready: &mut Ready) -> Result<bool, Refusal> {
        match upstream.send(&self.request[self.sent..]) {
            Ok(sent) => {
                self.sent += sent;
                upstream.acknowledge_at_once(true);
            }
            Err(error) if is_later(error.kind()) => ready.writable = false,
            Err(error) if self.sent > 0 => return Err(Refusal::of_end(error)),
            Err(error) => return Err(Refusal::of_dial(error)),
        }
        Ok(self.sent > 0)
    }

    /// Say whether a part of the request is still to be sent.
    pub fn is_unsent(&self) -> bool {
        self.sent < self.request.len()
    }

    /// Read what there is of the reply: when it is a 2xx, the bytes of the stream that came with it.
    pub fn read(&mut self, upstream: &mut Upstream, ready: &mut Ready) -> Result<Option<Vec<u8>>, Refusal> {
        let mut scratch = [0; SCRATCH];
        while ready.readable {
            let received = match upstream.receive(&mut scratch) {
                Ok(0) => return Err(Refusal::Closed),
                Ok(received) => received,
                Err(error) if is_later(error.kind()) => {
                    ready.readable = false;
                    break;
                }
                Err(error) => return Err(Refusal::of_end(error)),
            };
            // fewer than asked for: there is nothing more yet, unless the end has come (epoll(7))
            ready.readable = received == SCRATCH || ready.hangup || upstream.has_more();
            match self.reply.feed(&scratch[..received]) {
                Verdict::More => {}
                Verdict::Open { rest } => return Ok(Some(scratch[rest..received].to_vec())),
                Verdict::Refused { status, reason } => return Err(Refusal::Status(status, reason)),
                Verdict::Bad(why) => return Err(Refusal::Garbage(why)),
            }
        }
        Ok(None)
    }
}

fn is_later(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
