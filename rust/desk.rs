//! Where the questions of programs come in, by whatever way, and are answered or passed on to a resolver.

use std::sync::Arc;

use smoltcp::time::Instant;

use crate::dns::{self, Heard, Question, TCP_MOST};
use crate::lookups::{Asked, Asker, Lookups};
use crate::names::{Names, Plan};
use crate::stats::Stats;

/// The port of resolvers.
pub const PORT: u16 = 53;

/// Of one thread.
pub struct Desk {
    pub names: Names,
    pub lookups: Lookups,
    stats: Arc<Stats>,
}

impl Desk {
    /// Begin without questions.
    pub fn new(names: Names, stats: Arc<Stats>) -> Desk {
        Desk { names, lookups: Lookups::default(), stats }
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

    /// Give up what has waited for too long.
    pub fn look(&mut self, now: Instant) {
        let given_up = self.lookups.expire(now);
        self.stats.dns_failed.add(given_up);
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
