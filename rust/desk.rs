//! Where the questions of programs come in, by whatever way, and are answered or passed on to a resolver; and where the
//! connections to resolvers get what they are to ask.

use std::sync::Arc;

use smoltcp::time::Instant;

use crate::dns::{self, Heard, Question, TCP_MOST};
use crate::enquiry::{End, Enquiry};
use crate::lookups::{Asked, Asker, Lookups};
use crate::names::{Names, Plan, Way};
use crate::naming::Resolver;
use crate::stats::Stats;
use crate::upstreams::Upstreams;

/// The port of resolvers.
pub const PORT: u16 = 53;
/// Connections to resolvers by one way.
const CONNECTIONS: usize = 4;
/// So many of this network's resolvers are tried for a question.
const DIRECT_TRIES: usize = 3;

/// Of one thread.
pub struct Desk {
    pub names: Names,
    pub lookups: Lookups,
    /// Those behind the proxy.
    resolvers: Arc<[Resolver]>,
    routes: [Route; 2],
    /// Connections begun so far.
    count: u64,
    stats: Arc<Stats>,
}

/// How resolvers are reached by one way.
#[derive(Debug, Default)]
struct Route {
    /// Connections there are, and those of them that are being made.
    all: usize,
    young: usize,
    /// Whose turn it is among the resolvers, and how many in a row could not be reached or were silent.
    turn: usize,
    failed: usize,
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Heeded {
    Answer(Vec<u8>),
    /// The answer will be among those that have come up for its asker.
    Later,
    /// It gets no answer.
    Nothing,
}

impl Desk {
    /// Begin without questions.
    pub fn new(names: Names, resolvers: Arc<[Resolver]>, stats: Arc<Stats>) -> Desk {
        Desk { names, lookups: Lookups::default(), resolvers, routes: Default::default(), count: 0, stats }
    }

    /// Take a message that somebody sent to a resolver; give the answer if there is one already.
    pub fn hear(&mut self, asker: Asker, message: &[u8], now: Instant) -> Heeded {
        self.stats.dns_questions.up();
        match dns::hear(message) {
            Heard::Question(question) => self.answer(asker, question, now),
            Heard::Wrong(answer) => {
                self.stats.dns_refused.up();
                Heeded::Answer(answer)
            }
            Heard::Nothing => {
                self.stats.dns_refused.up();
                Heeded::Nothing
            }
        }
    }

    fn answer(&mut self, asker: Asker, question: Question, now: Instant) -> Heeded {
        let limit = match asker {
            Asker::Datagram { .. } => question.udp_limit(),
            Asker::Session(_) => TCP_MOST,
        };
        match self.names.plan(&question, now) {
            Plan::Answer(code, records, believe) => {
                if code == dns::code::SERVFAIL {
                    self.stats.dns_failed.up();
                }
                Heeded::Answer(question.answer(code, &records, believe, limit))
            }
            Plan::Ask(way) => match self.lookups.ask(asker, question, limit, way, now) {
                Asked::Known(answer) => Heeded::Answer(answer),
                Asked::Later => Heeded::Later,
                Asked::Twice => Heeded::Nothing,
            },
        }
    }

    /// Give up what has waited for too long.
    pub fn look(&mut self, now: Instant) {
        let given_up = self.lookups.expire(now);
        self.stats.dns_failed.add(given_up);
    }

    /// Say whether connections have something to ask.
    pub fn any_unsent(&mut self) -> bool {
        self.lookups.any_unsent(Way::Proxy) | self.lookups.any_unsent(Way::Direct)
    }

    /// Give a connection that is to be made, because there is something to ask and those that there are do not.
    pub fn connect(&mut self, now: Instant, upstreams: &mut Upstreams) -> Option<Enquiry> {
        let way = [Way::Proxy, Way::Direct].into_iter().find(|&way| {
            let route = &self.routes[way as usize];
            route.young == 0 && route.all < CONNECTIONS && self.lookups.any_unsent(way)
        })?;
        let route = &mut self.routes[way as usize];
        (route.all, route.young) = (route.all + 1, route.young + 1);
        self.count += 1;
        Some(match way {
            Way::Direct => Enquiry::past(route.turn, self.count, now, upstreams),
            Way::Proxy => {
                let resolver = &self.resolvers[route.turn % self.resolvers.len()];
                Enquiry::through(resolver, self.resolvers.len() > 1, self.count, now, upstreams)
            }
        })
    }

    /// A connection is open.
    pub fn connected(&mut self, way: Way) {
        self.routes[way as usize].young -= 1;
    }

    /// Give what is to be sent next by `way`, over `connection`, and its number.
    pub fn next_unsent(&mut self, way: Way, connection: u64) -> Option<(u16, Vec<u8>)> {
        let found = self.lookups.next_unsent(way, connection)?;
        self.stats.dns_sent.up();
        Some(found)
    }

    /// Take a message that came over `connection`; says whether it was waited for.
    pub fn arrived(&mut self, way: Way, connection: u64, number: u16, message: &[u8], now: Instant) -> bool {
        let is_answer = self.lookups.arrived(connection, number, message, now);
        if is_answer {
            self.routes[way as usize].failed = 0;
        }
        is_answer
    }

    /// A connection has ended.
    pub fn ended(&mut self, way: Way, connection: u64, was_open: bool, end: End) {
        let tries = if way == Way::Direct { DIRECT_TRIES } else { self.resolvers.len() };
        let route = &mut self.routes[way as usize];
        route.all -= 1;
        route.young -= usize::from(!was_open);
        let given_up = self.lookups.lost(connection);
        if end != End::Done {
            (route.turn, route.failed) = (route.turn.wrapping_add(1), route.failed + 1);
        }
        let mut failed = given_up;
        if route.failed >= tries {
            route.failed = 0;
            failed += self.lookups.unreachable(way);
        }
        self.stats.dns_failed.add(failed);
    }
}
