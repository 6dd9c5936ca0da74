//! The way to a 2xx, for a connection that begins or anything else that wants a tunnel: one proxy after the other is
//! dialled and asked; where one is slow to accept, the next is dialled beside it.
//!
//! Where the proxy wants credentials, it is asked again, by the same connection where it keeps that one. A token for that
//! may have to come from outside the sandbox; meanwhile the connection is made, or kept.
//!
//! Where a PAC file says which proxies may be asked, it is asked first; a connection past all proxies, if it wants one, is
//! begun outside and comes as a descriptor.
//!
//! Waits for nothing: whoever has one watches its descriptor, serves it when something happened to it or its time has
//! come, and gets the open connection or the reason why there is none.

mod rivals;
mod script;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use smoltcp::time::{Duration, Instant};

use crate::attempt::{Attempt, Heard};
use crate::auth::{Step, Why};
use crate::choice::Asked;
use crate::race::{self, Rivals};
use crate::refusal::{self, Refusal};
use crate::standing::{Standing, Use};
use crate::target::Target;
use crate::token::{self, Answer};
use crate::upstream::{Ready, Upstream};
use crate::upstreams::Upstreams;
use crate::ways::Way;

/// For all connects of one approach together; less for one that comes late in it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT_MIN: Duration = Duration::from_secs(5);
/// For the handshake of TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From the request to the end of the reply's header.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// For a token; whoever makes it has a shorter limit.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(20);
/// For the answer of a PAC file; others may be asked before.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(20);
/// A proxy that has not answered for so long is looked at, and again after so long; once it is found to be down it is not
/// waited for any more.
const SILENCE: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How far it has come with the proxy of this attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Connecting to it.
    Dialing,
    /// Beginning TLS with it.
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
    /// By which the connection is counted as long as it lives.
    pub used: Option<Use>,
}

/// See the head of this file.
pub struct Approach {
    attempt: Attempt,
    stage: Stage,
    begun: Instant,
    /// Whether no other proxy may be asked.
    alone: bool,
    asked: Asked,
    /// What its proxies are chosen by; see balance.rs.
    destination: u64,
    upstream: Option<Upstream>,
    used: Option<Use>,
    ready: Ready,
    deadline: Option<Instant>,
    /// The number of a wish for a token.
    fetching: Option<u64>,
    /// The number of a wish for the ways that a PAC file gives, or for a connection past all proxies; and which it is.
    choosing: Option<u64>,
    direct: bool,
    /// The ways that are left, and the proxies of the one that is tried; None: all of the user's.
    ways: VecDeque<Way>,
    order: Option<Vec<SocketAddr>>,
    is_granted: bool,
    /// When the next proxy is to be dialled beside this one, and those beside which that has happened.
    race: Option<Instant>,
    rivals: Rivals,
    /// Since when the proxy has been asked.
    asking: Instant,
    /// Why it will be refused, if no proxy is left: what a proxy has answered, before what kept another from answering.
    reason: Option<Refusal>,
    refused: Option<Refusal>,
    /// Connections to proxies begun so far, and when the last one was.
    dials: u32,
    dialled: Instant,
}

impl Approach {
    /// Begin by dialling the first proxy for `target`.
    pub fn begin(target: Target, now: Instant, upstreams: &mut Upstreams) -> Approach {
        upstreams.follow();
        let destination = upstreams.choice.destination(&target);
        let mut approach = Approach::new(target, destination, now);
        if upstreams.policy().by_script {
            approach.ask_script(now, upstreams);
        } else if !approach.dial(now, upstreams) {
            approach.refused = Some(Refusal::Closed); // there are no proxies
        }
        approach
    }

    /// Begin by dialling the proxy of `standing`, and ask no other, on nobody's behalf.
    pub fn alone(standing: &Arc<Standing>, target: Target, now: Instant, upstreams: &mut Upstreams) -> Approach {
        upstreams.follow();
        let mut approach = Approach::new(target, 0, now);
        approach.alone = true;
        match upstreams.place(standing) {
            Some(place) => approach.dial_at(place, Use::of_nobody(standing, now), now, upstreams),
            None => approach.refused = Some(Refusal::Closed), // it is gone
        }
        approach
    }

    fn new(target: Target, destination: u64, now: Instant) -> Approach {
        Approach {
            attempt: Attempt::new(target),
            stage: Stage::Dialing,
            begun: now,
            alone: false,
            asked: Asked::default(),
            destination,
            upstream: None,
            used: None,
            ready: Ready::default(),
            deadline: None,
            fetching: None,
            choosing: None,
            direct: false,
            ways: VecDeque::new(),
            order: None,
            is_granted: false,
            race: None,
            rivals: Rivals::default(),
            asking: now,
            reason: None,
            refused: None,
            dials: 0,
            dialled: now,
        }
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
        self.fetching.is_some() || self.choosing.is_some()
    }

    /// Want nothing from outside any more.
    pub fn forget(&mut self, upstreams: &mut Upstreams) {
        for number in [self.fetching.take(), self.choosing.take()].into_iter().flatten() {
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
        (self.rivals, self.used) = (Rivals::default(), None);
    }

    /// Do all that can be done now. Not to be called again once it is over.
    pub fn serve(&mut self, now: Instant, upstreams: &mut Upstreams) -> Progress {
        self.take_token(now, upstreams);
        self.take_choice(now, upstreams);
        if self.refused.is_none() {
            self.keep_time(now, upstreams);
        }
        if self.stage == Stage::Dialing {
            self.await_connect(now, upstreams);
        }
        if self.stage == Stage::Securing {
            self.secure(now, upstreams);
        }
        if self.stage == Stage::Asking && !self.is_granted {
            self.ask(now, upstreams);
        }
        if self.is_granted
            && let Some(upstream) = self.upstream.take()
        {
            self.opened(now, upstreams);
            let early = self.attempt.take_early();
            return Progress::Granted(Granted { upstream, ready: self.ready, early, used: self.used.take() });
        }
        match self.refused.take() {
            Some(refusal) => Progress::Refused(refusal),
            None => Progress::Waiting(self.next_look(now, upstreams)),
        }
    }

    fn lateness(&self) -> Refusal {
        match self.stage {
            Stage::Dialing if self.direct => Refusal::Direct("it takes too long".to_owned()),
            Stage::Dialing if self.choosing.is_some() => Refusal::Script,
            Stage::Dialing => Refusal::Timeout(refusal::ACCEPT),
            Stage::Securing => Refusal::Timeout("did not come to an end with the TLS handshake"),
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

    // What time brings.

    fn keep_time(&mut self, now: Instant, upstreams: &mut Upstreams) {
        self.follow(now, upstreams);
        if self.may_hang(now, upstreams) && now >= self.asking + SILENCE && self.is_lost(now) {
            self.fail(Refusal::Timeout("did not answer"), now, upstreams);
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            while let Some(rival) = self.rivals.pop() {
                self.note(&Refusal::Timeout(refusal::ACCEPT), &rival.used, now, upstreams);
            }
            let refusal = self.lateness();
            self.fail(refusal, now, upstreams);
        }
        if self.race.is_some_and(|race| race <= now) && self.stage == Stage::Dialing {
            self.race_another(now, upstreams);
        }
    }

    /// The proxies may have other places since the last look; a proxy that is gone is not asked any more.
    fn follow(&mut self, now: Instant, upstreams: &mut Upstreams) {
        let Some(used) = &self.used else { return };
        match upstreams.place(&used.standing) {
            Some(place) => self.attempt.proxy = place,
            None => {
                self.attempt.is_the_last();
                self.fail(Refusal::Closed, now, upstreams);
            }
        }
    }

    /// Say whether another would be asked, were this one found to be down.
    fn may_hang(&self, now: Instant, upstreams: &Upstreams) -> bool {
        let silent = self.stage == Stage::Asking && self.fetching.is_none();
        silent && !self.alone && self.has_another(upstreams, now)
    }

    /// Say whether somebody has found the proxy to be down; have it looked at.
    fn is_lost(&self, now: Instant) -> bool {
        let Some(used) = &self.used else { return false };
        used.standing.is_awaited(now);
        used.is_lost(now)
    }

    fn next_look(&self, now: Instant, upstreams: &Upstreams) -> Option<Instant> {
        let look = self.may_hang(now, upstreams).then(|| (self.asking + SILENCE).max(now + LOOK_EVERY));
        let race = self.race.filter(|_| self.stage == Stage::Dialing);
        [self.deadline, race, look].into_iter().flatten().min()
    }

    fn has_another(&self, upstreams: &Upstreams, now: Instant) -> bool {
        upstreams.choice.has_another(self.order.as_deref(), &self.asked, now)
    }

    // Dialling.

    /// Dial the next proxy; false when none is left to be asked.
    fn dial(&mut self, now: Instant, upstreams: &mut Upstreams) -> bool {
        let next = match &self.order {
            Some(order) => upstreams.choice.next_of(order, &self.asked, now),
            None => upstreams.choice.next(&self.asked, self.destination, now),
        };
        let Some(place) = next else { return false };
        let standing = Arc::clone(&upstreams.choice.standings()[place]);
        self.asked.pass(standing.address);
        self.dial_at(place, Use::begin(&standing, now), now, upstreams);
        true
    }

    fn dial_at(&mut self, place: usize, used: Use, now: Instant, upstreams: &mut Upstreams) {
        self.used = Some(used);
        let step = self.attempt.turn_to(place, &upstreams.proxies, now);
        self.obey(step, now, upstreams);
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
    fn obey(&mut self, step: Step, now: Instant, upstreams: &mut Upstreams) {
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
            self.obey(step, now, upstreams);
        } else if self.stage == Stage::Asking {
            self.deadline = Some(now + TOKEN_TIMEOUT);
        }
    }

    fn take_token(&mut self, now: Instant, upstreams: &mut Upstreams) {
        let Some(grant) = self.fetching.and_then(|number| upstreams.wishes.take(number)) else { return };
        self.fetching = None;
        let answer = grant.map_or_else(Answer::Missing, |(bytes, _)| Answer::parse(&bytes));
        let step = self.attempt.take_token(answer, now);
        self.obey(step, now, upstreams);
        if self.stage == Stage::Asking && self.fetching.is_none() && self.refused.is_none() {
            (self.deadline, self.asking) = (Some(now + REPLY_TIMEOUT), now);
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
                self.deadline = Some((self.begun + CONNECT_TIMEOUT).max(now + CONNECT_TIMEOUT_MIN));
                let alone = race::alone(upstreams.pool.distance(self.attempt.proxy));
                self.race = (!self.alone && self.has_another(upstreams, now)).then(|| now + alone);
                self.send_request(now, upstreams);
            }
            Err(refusal) => self.fail(refusal, now, upstreams),
        }
    }

    fn await_connect(&mut self, now: Instant, upstreams: &mut Upstreams) {
        if !self.ready.writable {
            return;
        }
        if !self.judge_race(now, upstreams) {
            self.look_at_connect(now, upstreams);
        }
    }

    /// See whether the connect has succeeded, which is over.
    fn look_at_connect(&mut self, now: Instant, upstreams: &mut Upstreams) {
        match self.upstream.as_ref().map(Upstream::outcome) {
            Some(Ok(())) if self.direct => (self.stage, self.is_granted) = (Stage::Asking, true),
            Some(Err(error)) if self.direct => self.fail(Refusal::Direct(error.to_string()), now, upstreams),
            Some(Ok(())) if self.upstream.as_ref().is_some_and(Upstream::is_open) => self.can_ask(now, upstreams),
            Some(Ok(())) => {
                self.stage = Stage::Securing;
                self.deadline = Some(now + HANDSHAKE_TIMEOUT);
            }
            Some(Err(error)) => self.fail(Refusal::of_dial(error), now, upstreams),
            None => {}
        }
    }

    fn secure(&mut self, now: Instant, upstreams: &mut Upstreams) {
        let Some(upstream) = &mut self.upstream else { return };
        match upstream.shake_hands(&mut self.ready) {
            Ok(true) => self.can_ask(now, upstreams),
            Ok(false) => {}
            Err(error) => self.fail(Refusal::of_handshake(&error), now, upstreams),
        }
    }

    fn can_ask(&mut self, now: Instant, upstreams: &mut Upstreams) {
        if self.fetching.is_some() {
            self.is_connected(TOKEN_TIMEOUT, now, upstreams);
        } else {
            self.send_request(now, upstreams);
        }
    }

    fn is_connected(&mut self, limit: Duration, now: Instant, upstreams: &mut Upstreams) {
        if !self.attempt.warm {
            upstreams.pool.measured(self.attempt.proxy, now - self.dialled);
        }
        (self.deadline, self.race) = (Some(now + limit), None);
        self.rivals = Rivals::default();
        (self.stage, self.asking) = (Stage::Asking, now);
    }

    fn send_request(&mut self, now: Instant, upstreams: &mut Upstreams) {
        let Some(upstream) = self.upstream.as_mut().filter(|upstream| upstream.is_open()) else { return };
        match self.attempt.send(upstream, &mut self.ready) {
            Ok(true) if self.stage != Stage::Asking => self.is_connected(REPLY_TIMEOUT, now, upstreams),
            Ok(_) => {}
            Err(refusal) => self.fail(refusal, now, upstreams),
        }
    }

    // Asking.

    fn ask(&mut self, now: Instant, upstreams: &mut Upstreams) {
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
                    (self.deadline, self.asking) = (Some(now + REPLY_TIMEOUT), now);
                    self.obey(step, now, upstreams);
                }
                Err(refusal) => return self.fail(refusal, now, upstreams),
            }
            if self.is_granted || self.refused.is_some() || self.stage != Stage::Asking {
                return;
            }
        }
    }

    /// Ask the same proxy by another connection.
    fn dial_again(&mut self, now: Instant, upstreams: &mut Upstreams) {
        let dialled = self.attempt.dial_again(&upstreams.proxies);
        self.ask_by(dialled, now, upstreams);
    }

    fn opened(&self, now: Instant, upstreams: &mut Upstreams) {
        if let Some(used) = &self.used {
            upstreams.note_change(used.opened(now), &used.standing);
        }
    }

    /// Go on to the next proxy, or end.
    fn fail(&mut self, refusal: Refusal, now: Instant, upstreams: &mut Upstreams) {
        (self.deadline, self.race) = (None, None);
        if self.attempt.was_hung_up(&refusal) {
            if self.attempt.warm {
                upstreams.stats.pool_stale.up();
            }
            return self.dial_again(now, upstreams);
        }
        self.forget(upstreams);
        if let Some(used) = self.used.take() {
            self.note(&refusal, &used, now, upstreams);
            if refusal.is_of_credentials() {
                upstreams.same_credentials(&used.standing).for_each(|address| self.asked.pass(address));
            }
        }
        if let Refusal::Direct(_) = refusal {
            let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
            upstreams.note_refusal(&refusal, &self.attempt.target, nobody, now);
        }
        self.upstream.take().into_iter().for_each(Upstream::reset);
        let goes_on = !self.alone && refusal.goes_on(upstreams.policy().on_refusal);
        if refusal.is_an_answer() {
            self.asked.answered();
        }
        if refusal.is_an_answer() || !goes_on || self.reason.is_none() {
            self.reason = Some(refusal);
        }
        if goes_on && (self.dial(now, upstreams) || self.take_back(now, upstreams) || self.next_way(now, upstreams)) {
            upstreams.stats.proxy_failovers.up();
        } else {
            self.refused = self.reason.take();
        }
    }

    fn note(&self, refusal: &Refusal, used: &Use, now: Instant, upstreams: &mut Upstreams) {
        if used.counts() && !refusal.is_told_already() {
            upstreams.note_refusal(refusal, &self.attempt.target, used.standing.address, now);
        }
        upstreams.note_change(used.refused(refusal, now), &used.standing);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Arc;

    use super::*;
    use crate::login::Known;
    use crate::means::Scheme;
    use crate::upstreams::Proxy;

    /// An approach to a proxy that is known to want a token, which does not come.
    fn wishing(now: Instant) -> (TcpListener, Upstreams, Approach) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::plain(listener.local_addr().unwrap());
        proxy.login.memory().known = Some(Known::Tokens(Scheme::Negotiate));
        let mut upstreams = Upstreams::new(vec![proxy], Arc::default(), Arc::default());
        let approach = Approach::begin(Target::parse("192.0.2.1", 443).unwrap(), now, &mut upstreams);
        assert!(approach.is_wishing() && upstreams.wishes.waiting() == 1);
        (listener, upstreams, approach)
    }

    #[test]
    fn approach_that_is_given_up_wants_nothing_any_more() {
        let (_listener, mut upstreams, mut approach) = wishing(Instant::from_secs(1));
        approach.forget(&mut upstreams);
        assert_eq!((approach.is_wishing(), upstreams.wishes.waiting()), (false, 0));
    }

    #[test]
    fn approach_that_fails_wants_nothing_any_more() {
        let (_listener, mut upstreams, mut approach) = wishing(Instant::from_secs(1));
        assert!(matches!(approach.serve(Instant::from_secs(60), &mut upstreams), Progress::Refused(_)));
        assert_eq!(upstreams.wishes.waiting(), 0);
    }
}
