//! A connection to a resolver: through a proxy, or past the tunnel where the helper has made it; over which questions are
//! asked as long as there are any.
//!
//! It takes questions from the desk and gives it the answers. When it is lost, or its resolver is silent for too long, the
//! desk sends what was asked over it once more, by another, which is to the next resolver.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, RawFd};

use smoltcp::time::{Duration, Instant};

use crate::approach::{Approach, Progress};
use crate::desk::Desk;
use crate::errand::{Errand, Served};
use crate::framing::Framing;
use crate::inner_tls::InnerTls;
use crate::link::Wire;
use crate::names::Way;
use crate::naming::{Resolver, Secure};
use crate::shared::Shared;
use crate::speech::{Found, Https, Speech};
use crate::standing::Use;
use crate::upstream::{Moved, Ready, Upstream};
use crate::upstreams::Upstreams;

/// For the connection, where another resolver may be asked.
const PATIENCE: Duration = Duration::from_secs(3);
/// For an answer, before another resolver is asked; and where there is none, before it is looked for by a new connection.
const SILENCE: Duration = Duration::from_secs(2);
const SILENCE_ALONE: Duration = Duration::from_secs(4);
/// Without questions it is closed after this time: resolvers do the same (RFC 7766 §6.2.3), and then it is a race.
const IDLE: Duration = Duration::from_secs(8);
const PIECE: usize = 16 << 10;

/// See the head of this file.
pub struct Enquiry {
    way: Way,
    /// By which the desk knows it.
    number: u64,
    /// In words.
    resolver: String,
    stage: Stage,
    /// When to give up the stage before the conversation.
    patience: Option<Instant>,
    silence: Duration,
    ready: Ready,
    speech: Speech,
    tls: Option<InnerTls>,
    /// What the connection is to send.
    out: Vec<u8>,
    /// What waits for an answer: since when, and its number.
    sent: VecDeque<(Instant, u16)>,
    /// When something was last asked or answered.
    last: Instant,
    dials: u32,
    /// By which the proxy counts it.
    _used: Option<Use>,
}

enum Stage {
    Approach(Box<Approach>),
    /// For a descriptor, by this number.
    Wish(u64),
    Dial(Upstream),
    Open(Upstream),
    Nothing,
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order, or after its resolver has answered something.
    Done,
    /// Its resolver could not be reached.
    Unreachable,
    /// Its resolver was silent.
    Silent,
    /// Its resolver did not prove who it is, or spoke no TLS.
    Untrusted,
}

impl End {
    /// Say it to a person; None where there is nothing to say.
    fn words(self) -> Option<&'static str> {
        match self {
            End::Done => None,
            End::Unreachable => Some("cannot be reached"),
            End::Silent => Some("does not answer in time"),
            End::Untrusted => Some("cannot be trusted: it does not prove who it is, or TLS with it failed"),
        }
    }
}

impl Enquiry {
    /// Begin to connect to `resolver`, behind the proxy.
    pub fn through(resolver: &Resolver, others: bool, number: u64, now: Instant, upstreams: &mut Upstreams) -> Enquiry {
        let (mut out, mut tls) = (Vec::new(), None);
        let speech = match &resolver.https {
            None => Speech::Stream(Framing::default()),
            Some(Secure { client, host, path }) => {
                tls = InnerTls::begin(client, &mut out).ok();
                Speech::Https(Box::new(Https::new(host, path)))
            }
        };
        let mut approach = Approach::begin(resolver.target.clone(), now, upstreams);
        let refused = approach.take_refusal().is_some() || (resolver.https.is_some() && tls.is_none());
        let stage = match refused {
            true => Stage::Nothing,
            false => Stage::Approach(Box::new(approach)),
        };
        let (patience, silence) = if others { (Some(now + PATIENCE), SILENCE) } else { (None, SILENCE_ALONE) };
        Enquiry { patience, silence, speech, tls, out, ..Enquiry::at(stage, Way::Proxy, number, now) }
            .called(resolver.target.to_string())
    }

    /// Wish for a connection to the resolver of this network that is number `turn`.
    pub fn past(turn: usize, number: u64, now: Instant, upstreams: &mut Upstreams) -> Enquiry {
        let wish = upstreams.wishes.wish("direct", format!("resolver {turn}").into_bytes());
        let stage = wish.map_or(Stage::Nothing, Stage::Wish);
        Enquiry { patience: Some(now + PATIENCE), ..Enquiry::at(stage, Way::Direct, number, now) }
            .called("of this network".to_owned())
    }

    fn at(stage: Stage, way: Way, number: u64, now: Instant) -> Enquiry {
        Enquiry {
            way,
            number,
            resolver: String::new(),
            stage,
            patience: None,
            silence: SILENCE,
            ready: Ready::default(),
            speech: Speech::Stream(Framing::default()),
            tls: None,
            out: Vec::new(),
            sent: VecDeque::new(),
            last: now,
            dials: 0,
            _used: None,
        }
    }

    fn called(mut self, resolver: String) -> Enquiry {
        self.resolver = resolver;
        self
    }

    /// Do all that can be done now; give how it ended, or when to look again.
    fn advance(&mut self, now: Instant, desk: &mut Desk, upstreams: &mut Upstreams) -> Result<Option<Instant>, End> {
        let mut next = None;
        if let Stage::Approach(approach) = &mut self.stage {
            match approach.serve(now, upstreams) {
                Progress::Waiting(at) => next = at,
                Progress::Granted(granted) => {
                    self.dials = approach.dials();
                    (self.ready, self._used) = (granted.ready, granted.used);
                    self.open(granted.upstream, now, desk);
                    self.take_in(&granted.early)?;
                }
                Progress::Refused(_) => return Err(End::Unreachable),
            }
        }
        if let Stage::Wish(wish) = self.stage
            && let Some(grant) = upstreams.wishes.take(wish)
        {
            let fd = match grant {
                Ok((_, Some(fd))) => fd,
                Ok((_, None)) => return Err(End::Unreachable),
                Err(why) => {
                    self.resolver = format!("{} ({why})", self.resolver);
                    return Err(End::Unreachable);
                }
            };
            (self.stage, self.dials) = (Stage::Dial(Upstream::of(fd)), self.dials + 1);
        }
        if let Stage::Dial(upstream) = &self.stage
            && self.ready.writable
        {
            if upstream.outcome().is_err() {
                return Err(End::Unreachable);
            }
            if let Stage::Dial(upstream) = std::mem::replace(&mut self.stage, Stage::Nothing) {
                self.open(upstream, now, desk);
            }
        }
        match self.stage {
            Stage::Open(_) => self.talk(now, desk).map(Some),
            Stage::Nothing => Err(End::Unreachable),
            _ if self.patience.is_some_and(|patience| patience <= now) => Err(End::Unreachable),
            _ => Ok([next, self.patience].into_iter().flatten().min()),
        }
    }

    fn open(&mut self, upstream: Upstream, now: Instant, desk: &mut Desk) {
        (self.stage, self.last) = (Stage::Open(upstream), now);
        desk.connected(self.way);
    }

    /// Ask and hear; give when to look again.
    fn talk(&mut self, now: Instant, desk: &mut Desk) -> Result<Instant, End> {
        self.hear(now, desk)?;
        self.sent.retain(|(_, number)| desk.lookups.is_open(self.number, *number));
        self.ask(now, desk)?;
        match self.sent.front() {
            Some((since, _)) if now >= *since + self.silence => Err(End::Silent),
            Some((since, _)) => Ok(*since + self.silence),
            None if now >= self.last + IDLE => Err(End::Done),
            None => Ok(self.last + IDLE),
        }
    }

    fn ask(&mut self, now: Instant, desk: &mut Desk) -> Result<(), End> {
        while self.sent.len() < self.speech.most()
            && let Some((number, message)) = desk.next_unsent(self.way, self.number)
        {
            let mut said = Vec::new();
            self.speech.put(&mut said, number, &message);
            match &mut self.tls {
                None => self.out.extend(said),
                Some(tls) => tls.send(&said, &mut self.out).map_err(|_| End::Untrusted)?,
            }
            self.sent.push_back((now, number));
            self.last = now;
        }
        let Stage::Open(upstream) = &mut self.stage else { return Ok(()) };
        while self.ready.writable && (!self.out.is_empty() || upstream.is_pending()) {
            let sent = match upstream.is_pending() {
                true => upstream.flush().map(|all| Moved { bytes: 0, more: all }),
                false => upstream.send(&self.out),
            };
            match sent {
                Ok(Moved { bytes, more }) => {
                    self.out.drain(..bytes);
                    self.ready.writable = more;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.ready.writable = false, // an error shows when it is read
            }
        }
        Ok(())
    }

    /// Take bytes that came by the connection.
    fn take_in(&mut self, bytes: &[u8]) -> Result<(), End> {
        let Some(tls) = &mut self.tls else {
            self.speech.feed(bytes);
            return Ok(());
        };
        let speech = &mut self.speech;
        match tls.receive(bytes, &mut self.out, |piece| speech.feed(piece)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(End::Done),
            Err(_) => Err(End::Untrusted),
        }
    }

    fn hear(&mut self, now: Instant, desk: &mut Desk) -> Result<(), End> {
        let Stage::Open(upstream) = &mut self.stage else { return Ok(()) };
        let mut piece = [0; PIECE];
        if self.ready.readable {
            // a resolver that writes each answer by itself may wait with the next until this one is acknowledged
            upstream.acknowledge_at_once(true);
        }
        let (mut came, mut ended) = (Vec::new(), false);
        while self.ready.readable && !ended {
            match upstream.receive(&mut piece) {
                Ok(Moved { bytes: 0, more: false }) => ended = true,
                Ok(Moved { bytes, .. }) => came.extend_from_slice(&piece[..bytes]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.ready.readable = false,
                Err(_) => ended = true,
            }
        }
        let closed = if came.is_empty() { Ok(()) } else { self.take_in(&came) };
        loop {
            match self.speech.take() {
                Found::Message(number, message) if desk.arrived(self.way, self.number, number, &message, now) => {
                    self.last = now;
                }
                Found::Message(..) => {} // too late, or never asked for
                Found::Nothing if !ended => return closed,
                Found::Nothing | Found::End => return Err(End::Done),
            }
        }
    }
}

impl Errand for Enquiry {
    fn serve(&mut self, now: Instant, _wire: &mut Wire, shared: &mut Shared) -> Served {
        let Shared { desk: Some(desk), upstreams, .. } = shared else { return Served::Over };
        match self.advance(now, desk, upstreams) {
            Ok(next) => Served::Until(next),
            Err(end) => {
                let was_open = matches!(self.stage, Stage::Open(_));
                match std::mem::replace(&mut self.stage, Stage::Nothing) {
                    Stage::Approach(mut approach) => {
                        approach.forget(upstreams);
                        approach.abandon();
                    }
                    Stage::Wish(number) => upstreams.wishes.forget(number),
                    _ => {}
                }
                if let Some(words) = end.words() {
                    let text = || format!("the resolver {} {words}", self.resolver);
                    upstreams.notes.add("resolver", now, text);
                }
                desk.ended(self.way, self.number, was_open, end);
                Served::Over
            }
        }
    }

    fn wake(&mut self, ready: Ready) {
        match &mut self.stage {
            Stage::Approach(approach) => approach.wake(ready),
            _ => self.ready.add(ready),
        }
    }

    fn descriptor(&self) -> Option<RawFd> {
        match &self.stage {
            Stage::Approach(approach) => approach.descriptor(),
            Stage::Dial(upstream) | Stage::Open(upstream) => Some(upstream.as_raw_fd()),
            Stage::Wish(_) | Stage::Nothing => None,
        }
    }

    fn dials(&self) -> u32 {
        match &self.stage {
            Stage::Approach(approach) => approach.dials(),
            _ => self.dials,
        }
    }
}
