//! What is said to a proxy on the way to a 2xx: the request, and the reading of its reply, again where the proxy wants
//! credentials.
//!
//! Knows nothing of stages and time limits; approach.rs does. What credentials are said is decided in auth.rs.

use std::io::ErrorKind;

use smoltcp::time::Instant;

use crate::auth::{Exchange, Step};
use crate::body::{Body, Rest};
use crate::connect::{self, Connect, Verdict};
use crate::login::Login;
use crate::pool::Pool;
use crate::refusal::Refusal;
use crate::target::Target;
use crate::token::Answer;
use crate::upstream::{Moved, Ready, Upstream};
use crate::upstreams::Proxy;

/// A reply's header mostly fits; more comes in pieces.
const SCRATCH: usize = 8 * 1024;

/// See the head of this file.
pub struct Attempt {
    pub target: Target,
    /// The place of the proxy.
    pub proxy: usize,
    /// Whether the connection was made before it was needed: it may have been hung up on since.
    pub warm: bool,
    /// Whether a 407 has come by this connection: the same is true then.
    reused: bool,
    login: Login,
    exchange: Exchange,
    turn: Turn,
    /// Empty as long as a token for it is waited for.
    request: Vec<u8>,
    sent: usize,
    reply: Connect,
    /// What the last refusal was.
    status: (u16, String),
    /// Bytes of the stream that came with a 2xx.
    early: Vec<u8>,
}

/// Whose turn it is on the connection.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// Ours: the request goes out.
    Ask,
    /// The proxy's.
    Hear,
    /// The proxy's: the body of its 407 is passed over.
    Skip(Body),
    /// Nobody's: the proxy does not keep the connection.
    Spent,
    /// It has said 2xx.
    Open,
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing that is complete.
    Nothing,
    /// A 2xx or a 407, and so this is to be done.
    Step(Step),
    /// The connection can be asked again, or, if not, another one has to be made.
    Free,
    Spent,
}

impl Attempt {
    /// Ask for `target`.
    pub fn new(target: Target) -> Attempt {
        let exchange = Exchange::new(target.to_string());
        Attempt {
            target,
            proxy: 0,
            warm: false,
            reused: false,
            login: Login::default(),
            exchange,
            turn: Turn::Ask,
            request: Vec::new(),
            sent: 0,
            reply: Connect::default(),
            status: (0, String::new()),
            early: Vec::new(),
        }
    }

    /// Turn to the proxy at `place`; give what is to be done beside dialling it.
    pub fn turn_to(&mut self, place: usize, proxies: &[Proxy], now: Instant) -> Step {
        self.proxy = place;
        self.login = proxies[place].login.clone();
        self.exchange = Exchange::new(self.target.to_string());
        self.request.clear();
        self.exchange.open(&mut self.login.memory(), now)
    }

    /// Take a connection to that proxy from the pool, or begin one.
    pub fn dial(&mut self, proxies: &[Proxy], pool: &mut Pool, now: Instant) -> Result<Upstream, Refusal> {
        let warm = pool.take(self.proxy, now);
        self.warm = warm.is_some();
        self.begin(&proxies[self.proxy], warm)
    }

    /// Ask by a connection that is there already, and new.
    pub fn resume(&mut self) {
        self.warm = false;
        self.start_over();
    }

    /// Begin a connection to the same proxy once more, in the place of one that was hung up on.
    pub fn dial_again(&mut self, proxies: &[Proxy]) -> Result<Upstream, Refusal> {
        self.warm = false;
        self.begin(&proxies[self.proxy], None)
    }

    /// The proxy is gone: whatever happens to the connection, there is no other one to it.
    pub fn is_the_last(&mut self) {
        (self.warm, self.reused) = (false, false);
    }

    fn start_over(&mut self) {
        (self.turn, self.reused) = (Turn::Ask, false);
        (self.sent, self.reply) = (0, Connect::default());
    }

    fn begin(&mut self, proxy: &Proxy, warm: Option<Upstream>) -> Result<Upstream, Refusal> {
        self.start_over();
        warm.map_or_else(|| proxy.dial(), Ok).map_err(Refusal::of_dial)
    }

    /// Let the request say `authorization`.
    pub fn authorize(&mut self, authorization: &[u8]) {
        self.request = connect::request(&self.target, authorization);
    }

    /// Take the answer to a wish for a token; give what is to be done then.
    pub fn take_token(&mut self, answer: Answer, now: Instant) -> Step {
        self.exchange.token(answer, &mut self.login.memory(), now)
    }

    /// Give the bytes of the stream that came with the 2xx.
    pub fn take_early(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.early)
    }

    /// Give the last status that was none of 2xx, with its reason.
    pub fn status(&self) -> (u16, String) {
        self.status.clone()
    }

    /// Say whether the proxy has hung up before it could know of this request.
    pub fn was_hung_up(&self, refusal: &Refusal) -> bool {
        let is_old = self.warm || (self.reused && !self.exchange.is_pinned());
        is_old && !self.reply.begun() && matches!(refusal, Refusal::Closed | Refusal::Unreachable(_))
    }

    /// Say whether another connection is needed, and makes sense, for what comes next.
    pub fn needs_another(&self, upstream: &mut Upstream) -> bool {
        self.turn == Turn::Spent || (self.reused && self.turn == Turn::Ask && self.sent == 0 && !upstream.is_quiet())
    }

    /// Send what the kernel takes of the request; says whether any of it has gone, which tells that there is a
    /// connection.
    pub fn send(&mut self, upstream: &mut Upstream, ready: &mut Ready) -> Result<bool, Refusal> {
        if self.request.is_empty() || !matches!(self.turn, Turn::Ask | Turn::Hear) {
            return Ok(false);
        }
        match upstream.send(&self.request[self.sent..]) {
            Ok(sent) => {
                self.sent += sent.bytes;
                self.turn = Turn::Hear;
                upstream.acknowledge_at_once(true);
            }
            Err(error) if is_later(error.kind()) => ready.writable = false,
            Err(_) if self.sent > 0 => return Err(Refusal::Closed),
            Err(error) => return Err(Refusal::of_dial(error)),
        }
        Ok(self.sent > 0)
    }

    /// Say whether a part of the request is still to be sent, and can be.
    pub fn is_unsent(&self) -> bool {
        self.sent < self.request.len() && matches!(self.turn, Turn::Ask | Turn::Hear)
    }

    /// Read what there is of the reply.
    pub fn read(&mut self, upstream: &mut Upstream, ready: &mut Ready, now: Instant) -> Result<Heard, Refusal> {
        let mut scratch = [0; SCRATCH];
        while ready.readable && matches!(self.turn, Turn::Hear | Turn::Skip(_)) {
            let received = match upstream.receive(&mut scratch) {
                Err(error) if is_later(error.kind()) => {
                    ready.readable = false;
                    break;
                }
                Ok(Moved { bytes: 0, more: true }) => continue,
                Ok(Moved { bytes: 0, .. }) | Err(_) if matches!(self.turn, Turn::Skip(_)) => return Ok(self.spend()),
                Ok(Moved { bytes: 0, .. }) => return Err(Refusal::Closed),
                Err(error) => return Err(Refusal::of_reading(&error)),
                Ok(received) => received,
            };
            // fewer than asked for: there is nothing more yet, unless the end has come (epoll(7))
            ready.readable = received.more || ready.hangup;
            let heard = self.hear(&scratch[..received.bytes], now)?;
            if heard != Heard::Nothing {
                return Ok(heard);
            }
        }
        Ok(Heard::Nothing)
    }

    fn hear(&mut self, bytes: &[u8], now: Instant) -> Result<Heard, Refusal> {
        if let Turn::Skip(body) = &mut self.turn {
            return Ok(match body.feed(bytes) {
                Rest::More => Heard::Nothing,
                Rest::Close => self.spend(),
                Rest::Usable => {
                    self.turn = Turn::Ask;
                    Heard::Free
                }
            });
        }
        match self.reply.feed(bytes) {
            Verdict::More => Ok(Heard::Nothing),
            Verdict::Open { rest } => {
                self.early = bytes[rest..].to_vec();
                self.turn = Turn::Open;
                Ok(Heard::Step(self.exchange.granted(&self.reply.fields(), &mut self.login.memory())))
            }
            Verdict::Refused { status: 407, reason, rest } => {
                self.status = (407, reason);
                Ok(Heard::Step(self.take_challenge(&bytes[rest..], now)))
            }
            // what tinyproxy says to a wrong password
            Verdict::Refused { status: 401, reason, .. } if self.exchange.has_shown() => {
                self.status = (401, reason);
                Ok(Heard::Step(self.exchange.refused(&mut self.login.memory(), now)))
            }
            Verdict::Refused { status, reason, .. } => {
                if !matches!(status, 400 | 401 | 408 | 431) {
                    self.exchange.accepted(&self.reply.fields(), &mut self.login.memory());
                }
                Err(Refusal::Status(status, reason))
            }
            Verdict::Bad(why) => Err(Refusal::Garbage(why)),
        }
    }

    /// Take a 407 whose body begins with `bytes`.
    fn take_challenge(&mut self, bytes: &[u8], now: Instant) -> Step {
        let (fields, mut body) = (self.reply.fields(), self.reply.body(407));
        self.turn = match body.feed(bytes) {
            Rest::More => Turn::Skip(body),
            Rest::Usable => Turn::Ask,
            Rest::Close => Turn::Spent,
        };
        let kept = self.turn != Turn::Spent;
        (self.reused, self.sent, self.reply) = (true, 0, Connect::default());
        self.request.clear();
        self.exchange.challenged(&fields, kept, &mut self.login.memory(), now)
    }

    fn spend(&mut self) -> Heard {
        self.turn = Turn::Spent;
        Heard::Spent
    }
}

fn is_later(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
