//! The way to a 2xx, for a connection that begins or anything else that wants a tunnel: one proxy after the other is
//! dialled and asked.
//!
//! Waits for nothing: whoever has one watches its descriptor, serves it when something happened to it or its time has
//! come, and gets the open connection or the reason why there is none.

use std::os::fd::{AsRawFd, RawFd};

use smoltcp::time::{Duration, Instant};

use crate::attempt::Attempt;
use crate::refusal::Refusal;
use crate::target::Target;
use crate::upstream::{Ready, Upstream};
use crate::upstreams::Upstreams;

/// For all connects of one approach together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT_MIN: Duration = Duration::from_secs(2);
/// From the request to the end of the reply's header.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// How far it has come with the proxy of this attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Connecting to it.
    Dialing,
    /// It has accepted the connection; the TLS handshake is under way.
    Securing,
    /// The request is on its way, or its reply is.
    Asking,
}

impl Stage {
    /// Say what a proxy has not done that did nothing more.
    fn awaited(self) -> &'static str {
        match self {
            Stage::Dialing => "did not accept a connection",
            Stage::Securing => "did not finish the TLS handshake (is this its https:// port?)",
            Stage::Asking => "did not answer",
        }
    }
}

/// What has come of it.
pub enum Progress {
    /// Nothing yet; to be served at this time at the latest.
    Waiting(Option<Instant>),
    /// A proxy has said 2xx.
    Granted(Granted),
    /// No proxy has. The last reason; each was noted.
    Refused(Refusal),
}

/// A connection that belongs to the stream from here on.
pub struct Granted {
    pub upstream: Upstream,
    pub ready: Ready,
    /// Bytes of the stream that came with the reply.
    pub early: Vec<u8>,
}

/// See the head of this file.
pub struct Approach {
    attempt: Attempt,
    stage: Stage,
    upstream: Option<Upstream>,
    ready: Ready,
    deadline: Option<Instant>,
    refused: Option<Refusal>,
    /// Connections to proxies begun so far, and when the last one was.
    dials: u32,
    dialled: Instant,
}

impl Approach {
    /// Begin by dialling the first proxy for `target`.
    pub fn begin(target: Target, now: Instant, upstreams: &mut Upstreams) -> Approach {
        let attempt = Attempt::new(target, upstreams.preferred(now));
        let mut approach = Approach {
            attempt,
            stage: Stage::Dialing,
            upstream: None,
            ready: Ready::default(),
            deadline: None,
            refused: None,
            dials: 0,
            dialled: now,
        };
        approach.dial(now, upstreams);
        approach
    }

    /// Give the descriptor to be watched.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.upstream.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Give the number of connections begun so far: when it has grown, there is another descriptor to be watched.
    pub fn dials(&self) -> u32 {
        self.dials
    }

    /// Give how far it has come.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Say whether it waits for a grant, so that it is to be served when the bell rings.
    pub fn is_wishing(&self) -> bool {
        false
    }

    /// Take note of what the descriptor is ready for.
    pub fn wake(&mut self, ready: Ready) {
        self.ready.add(ready);
    }

    /// Give it up: reset the connection to the proxy.
    pub fn abandon(&mut self) {
        self.upstream.take().into_iter().for_each(Upstream::reset);
    }

    /// Do all that can be done now. Not to be called again once it is over.
    pub fn serve(&mut self, now: Instant, upstreams: &mut Upstreams) -> Progress {
        if self.deadline.is_some_and(|deadline| deadline <= now) && self.refused.is_none() {
            self.fail(Refusal::Timeout(self.stage.awaited()), now, upstreams);
        }
        match self.stage {
            Stage::Dialing => self.await_connect(now, upstreams),
            Stage::Securing => self.send_request(now, upstreams),
            Stage::Asking => {}
        }
        if self.stage == Stage::Asking
            && let Some(early) = self.ask(now, upstreams)
            && let Some(upstream) = self.upstream.take()
        {
            return Progress::Granted(Granted { upstream, ready: self.ready, early });
        }
        match self.refused.take() {
            Some(refusal) => Progress::Refused(refusal),
            None => Progress::Waiting(self.deadline),
        }
    }

    /// Give the reason when it is over already, after `begin`.
    pub fn take_refusal(&mut self) -> Option<Refusal> {
        self.refused.take()
    }

    fn dial(&mut self, now: Instant, upstreams: &mut Upstreams) {
        let dialled = self.attempt.dial(&upstreams.proxies, &mut upstreams.pool, now);
        if self.attempt.warm {
            upstreams.stats.pool_hits.up();
        }
        self.ask_by(dialled, now, upstreams);
    }

    /// Send the request by a new connection, now or when there is one.
    fn ask_by(&mut self, dialled: Result<Upstream, Refusal>, now: Instant, upstreams: &mut Upstreams) {
        (self.ready, self.stage) = (Ready::default(), Stage::Dialing);
        match dialled {
            Ok(upstream) => {
                self.upstream = Some(upstream);
                self.dials += 1;
                self.dialled = now;
                let share = CONNECT_TIMEOUT / upstreams.proxies.len() as u32;
                self.deadline = Some(now + share.max(CONNECT_TIMEOUT_MIN));
                self.send_request(now, upstreams);
            }
            Err(refusal) => self.fail(refusal, now, upstreams),
        }
    }

    fn await_connect(&mut self, now: Instant, upstreams: &mut Upstreams) {
        if !self.ready.writable {
            return;
        }
        match self.upstream.as_ref().map(Upstream::outcome) {
            Some(Ok(())) => self.send_request(now, upstreams),
            Some(Err(error)) => self.fail(Refusal::of_dial(error), now, upstreams),
            None => {}
        }
    }

    fn send_request(&mut self, now: Instant, upstreams: &mut Upstreams) {
        let Some(upstream) = &mut self.upstream else { return };
        match upstream.establish(&mut self.ready) {
            Ok(true) => {}
            Ok(false) if upstream.has_said_hello() => return self.stage = Stage::Securing,
            Ok(false) => return,
            Err(error) => return self.fail(Refusal::of_dial(error), now, upstreams),
        }
        match self.attempt.send(upstream, &mut self.ready) {
            Ok(true) if self.stage != Stage::Asking => {
                if !self.attempt.warm {
                    upstreams.count_handshake(upstream);
                    upstreams.pool.measured(self.attempt.proxy, now - self.dialled);
                }
                self.deadline = Some(now + REPLY_TIMEOUT);
                self.stage = Stage::Asking;
            }
            Ok(_) => {}
            Err(refusal) => self.fail(refusal, now, upstreams),
        }
    }

    /// Give the early bytes once there is a 2xx.
    fn ask(&mut self, now: Instant, upstreams: &mut Upstreams) -> Option<Vec<u8>> {
        if self.ready.writable && self.attempt.is_unsent() {
            self.send_request(now, upstreams);
        }
        let upstream = self.upstream.as_mut()?;
        if self.ready.writable {
            self.ready.writable = upstream.flush().unwrap_or(true); // what is amiss shows when it is read
        }
        match self.attempt.read(upstream, &mut self.ready) {
            Ok(early) => early,
            Err(refusal) => {
                self.fail(refusal, now, upstreams);
                None
            }
        }
    }

    /// Go on to the next proxy, or end.
    fn fail(&mut self, refusal: Refusal, now: Instant, upstreams: &mut Upstreams) {
        self.deadline = None;
        if self.attempt.was_hung_up(&refusal) {
            upstreams.stats.pool_stale.up();
            let dialled = self.attempt.dial_again(&upstreams.proxies);
            return self.ask_by(dialled, now, upstreams);
        }
        upstreams.note_refusal(&refusal, &self.attempt.target, self.attempt.proxy, now);
        self.abandon();
        if refusal.is_worth_another_proxy() && self.attempt.tried < upstreams.proxies.len() {
            upstreams.stats.proxy_failovers.up();
            return self.dial(now, upstreams);
        }
        self.refused = Some(refusal);
    }
}
