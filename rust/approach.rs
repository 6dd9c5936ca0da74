//! The way to a 2xx, for a connection that begins or anything else that wants a tunnel: one proxy after the other is
//! dialled and asked.
//!
//! Where the proxy wants credentials, it is asked again, by the same connection where it keeps that one. A token for that
//! may have to come from outside the sandbox; meanwhile the connection is made, or kept.
//!
//! Waits for nothing: whoever has one watches its descriptor, serves it when something happened to it or its time has
//! come, and gets the open connection or the reason why there is none.

use std::os::fd::{AsRawFd, RawFd};

use smoltcp::time::{Duration, Instant};

use crate::attempt::{Attempt, Heard};
use crate::auth::{Step, Why};
use crate::refusal::Refusal;
use crate::target::Target;
use crate::token::{self, Answer};
use crate::upstream::{Ready, Upstream};
use crate::upstreams::Upstreams;

/// For all connects of one approach together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT_MIN: Duration = Duration::from_secs(2);
/// From the request to the end of the reply's header.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// For a token; whoever makes it has a shorter limit.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(20);

/// How far it has come with the proxy of this attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Connecting to it.
    Dialing,
    /// It has accepted the connection; the TLS handshake is under way.
    Securing,
    /// The request is on its way, or its reply is, or a token for it.
    Asking,
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
    /// The number of a wish for a token.
    fetching: Option<u64>,
    is_granted: bool,
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
            fetching: None,
            is_granted: false,
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
        self.fetching.is_some()
    }

    /// Want nothing from outside any more.
    pub fn forget(&mut self, upstreams: &mut Upstreams) {
        if let Some(number) = self.fetching.take() {
            upstreams.wishes.forget(number);
        }
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
        self.take_token(now, upstreams);
        if self.deadline.is_some_and(|deadline| deadline <= now) && self.refused.is_none() {
            let refusal = self.lateness();
            self.fail(refusal, now, upstreams);
        }
        match self.stage {
            Stage::Dialing => self.await_connect(now, upstreams),
            Stage::Securing => self.secure(now, upstreams),
            Stage::Asking => {}
        }
        if self.stage == Stage::Asking && !self.is_granted {
            self.ask(now, upstreams);
        }
        if self.is_granted
            && let Some(upstream) = self.upstream.take()
        {
            return Progress::Granted(Granted { upstream, ready: self.ready, early: self.attempt.take_early() });
        }
        match self.refused.take() {
            Some(refusal) => Progress::Refused(refusal),
            None => Progress::Waiting(self.deadline),
        }
    }

    fn lateness(&self) -> Refusal {
        match self.stage {
            Stage::Dialing => Refusal::Timeout("did not accept a connection"),
            Stage::Securing => Refusal::Timeout("did not finish the TLS handshake (is this its https:// port?)"),
            Stage::Asking if self.fetching.is_some() => {
                self.refusal_for(Why::Broken("no token for it could be had in time".to_owned()))
            }
            Stage::Asking => Refusal::Timeout("did not answer"),
        }
    }

    fn refusal_for(&self, why: Why) -> Refusal {
        let (status, reason) = self.attempt.status();
        Refusal::Credentials { status, reason, why }
    }

    /// Give the reason when it is over already, after `begin`.
    pub fn take_refusal(&mut self) -> Option<Refusal> {
        self.refused.take()
    }

    fn dial(&mut self, now: Instant, upstreams: &mut Upstreams) {
        let step = self.attempt.turn_to_next(&upstreams.proxies, now);
        self.follow(step, now, upstreams);
        if self.refused.is_some() || self.upstream.is_some() {
            return; // it is over, or another proxy was dialled instead
        }
        let dialled = self.attempt.dial(&upstreams.proxies, &mut upstreams.pool, now);
        if self.attempt.warm {
            upstreams.stats.pool_hits.up();
        }
        self.ask_by(dialled, now, upstreams);
    }

    /// Do what the proxy's answer, or a token's, has led to.
    fn follow(&mut self, step: Step, now: Instant, upstreams: &mut Upstreams) {
        match step {
            Step::Ask(authorization) => self.attempt.authorize(&authorization),
            Step::Granted => self.is_granted = true,
            Step::Refuse(why) => {
                let refusal = self.refusal_for(why);
                self.fail(refusal, now, upstreams);
            }
            Step::Fetch(wish) => self.fetch(&wish, now, upstreams),
        }
    }

    fn fetch(&mut self, wish: &token::Wish, now: Instant, upstreams: &mut Upstreams) {
        let proxy = &upstreams.proxies[self.attempt.proxy % upstreams.proxies.len()];
        self.fetching = upstreams.wishes.wish("token", wish.bytes(&proxy.name, proxy.address.port()));
        if self.fetching.is_none() {
            let answer = Answer::Missing("too many are waited for".to_owned());
            let step = self.attempt.take_token(answer, now);
            self.follow(step, now, upstreams);
        } else if self.stage == Stage::Asking {
            self.deadline = Some(now + TOKEN_TIMEOUT);
        }
    }

    fn take_token(&mut self, now: Instant, upstreams: &mut Upstreams) {
        let Some(grant) = self.fetching.and_then(|number| upstreams.wishes.take(number)) else { return };
        self.fetching = None;
        let answer = grant.map_or_else(Answer::Missing, |(bytes, _)| Answer::parse(&bytes));
        let step = self.attempt.take_token(answer, now);
        self.follow(step, now, upstreams);
        if self.stage == Stage::Asking && self.fetching.is_none() && self.refused.is_none() {
            self.deadline = Some(now + REPLY_TIMEOUT);
        }
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
            Some(Ok(())) => self.secure(now, upstreams),
            Some(Err(error)) => self.fail(Refusal::of_dial(error), now, upstreams),
            None => {}
        }
    }

    /// Go on with the TLS handshake, if there is one.
    fn secure(&mut self, now: Instant, upstreams: &mut Upstreams) {
        let Some(upstream) = &mut self.upstream else { return };
        match upstream.establish(&mut self.ready) {
            Ok(false) => self.stage = Stage::Securing,
            Ok(true) if self.fetching.is_some() => self.is_connected(TOKEN_TIMEOUT, now, upstreams),
            Ok(true) => self.send_request(now, upstreams),
            Err(error) => self.fail(Refusal::of_dial(error), now, upstreams),
        }
    }

    fn is_connected(&mut self, limit: Duration, now: Instant, upstreams: &mut Upstreams) {
        if let Some(upstream) = self.upstream.as_ref().filter(|_| !self.attempt.warm) {
            upstreams.count_handshake(upstream);
            upstreams.pool.measured(self.attempt.proxy, now - self.dialled);
        }
        self.deadline = Some(now + limit);
        self.stage = Stage::Asking;
    }

    fn send_request(&mut self, now: Instant, upstreams: &mut Upstreams) {
        let Some(upstream) = &mut self.upstream else { return };
        match self.attempt.send(upstream, &mut self.ready) {
            Ok(true) if self.stage != Stage::Asking => self.is_connected(REPLY_TIMEOUT, now, upstreams),
            Ok(_) => {}
            Err(refusal) => self.fail(refusal, now, upstreams),
        }
    }

    fn ask(&mut self, now: Instant, upstreams: &mut Upstreams) {
        if let Some(upstream) = self.upstream.as_mut().filter(|_| self.ready.writable) {
            self.ready.writable = upstream.flush().unwrap_or(true); // what is amiss shows when it is read
        }
        loop {
            let Some(upstream) = &mut self.upstream else { return };
            if self.attempt.needs_another(upstream) {
                return self.dial_again(now, upstreams);
            }
            if self.ready.writable && self.attempt.is_unsent() {
                self.send_request(now, upstreams);
            }
            let Some(upstream) = &mut self.upstream else { return };
            match self.attempt.read(upstream, &mut self.ready, now) {
                Ok(Heard::Nothing) => return,
                Ok(Heard::Free | Heard::Spent) => {}
                Ok(Heard::Step(step)) => {
                    self.deadline = Some(now + REPLY_TIMEOUT);
                    self.follow(step, now, upstreams);
                }
                Err(refusal) => return self.fail(refusal, now, upstreams),
            }
            if self.is_granted || self.refused.is_some() || self.stage == Stage::Dialing {
                return;
            }
        }
    }

    /// Ask the same proxy by another connection.
    fn dial_again(&mut self, now: Instant, upstreams: &mut Upstreams) {
        let dialled = self.attempt.dial_again(&upstreams.proxies);
        self.ask_by(dialled, now, upstreams);
    }

    /// Go on to the next proxy, or end.
    fn fail(&mut self, refusal: Refusal, now: Instant, upstreams: &mut Upstreams) {
        self.deadline = None;
        if self.attempt.was_hung_up(&refusal) {
            if self.attempt.warm {
                upstreams.stats.pool_stale.up();
            }
            return self.dial_again(now, upstreams);
        }
        self.forget(upstreams);
        upstreams.note_refusal(&refusal, &self.attempt.target, self.attempt.proxy, now);
        self.abandon();
        if refusal.is_worth_another_proxy() && self.attempt.tried < upstreams.proxies.len() {
            upstreams.stats.proxy_failovers.up();
            return self.dial(now, upstreams);
        }
        self.refused = Some(refusal);
    }
}
