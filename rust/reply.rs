//! What a resolver answered, pure: whether it is the answer to a question, how long it may be kept, and the same again for
//! each who asks.
//!
//! The records are passed on as they are: names in them may point to where others stand, so nothing is moved. What is
//! changed are the times for which they may be kept (RFC 2181 §8: the top bit makes it zero; RFC 2308: for how long "there
//! is none" may be believed), and OPT, which is between two neighbours only (RFC 6891 §6.1.1); a hint that stood behind it
//! goes, too.

use crate::dns::{HEADER, Header, Place, Question, bit, code, kind};

/// Nothing is kept for longer, in seconds; "there is none" and failures for less.
const KEEP_MOST: u32 = 3600;
const KEEP_ABSENCE: u32 = 300;
const KEEP_FAILURE: u32 = 2;

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    authentic: bool,
    counts: [u16; 3],
    /// All records but OPT, as they stood behind the question.
    body: Vec<u8>,
    /// Where in `body` the times stand.
    times: Vec<usize>,
    /// Seconds for which it may be kept; 0: not at all.
    pub keep: u32,
}

/// Give the id that a message begins with.
pub fn id(message: &[u8]) -> Option<u16> {
    message.first_chunk::<2>().map(|id| u16::from_be_bytes(*id))
}

impl Reply {
    /// Read the answer to `question`; None when `message` is something else, or broken.
    pub fn read(message: &[u8], question: &Question) -> Option<Reply> {
        let header = Header::read(message)?;
        let asked = header.sole_question(message)?;
        let is_answer = header.flags & bit::RESPONSE != 0 && header.flags & (bit::OPCODE | bit::TRUNCATED) == 0;
        let is_of_it = asked.name == question.name && (asked.kind, asked.class) == (question.kind, 1);
        if !is_answer || !is_of_it {
            return None;
        }
        let begin = HEADER + asked.bytes.len();
        let mut reply = Reply {
            code: header.flags & 0xf,
            authentic: header.flags & bit::AUTHENTIC != 0,
            counts: [0; 3],
            body: Vec::new(),
            times: Vec::new(),
            keep: 0,
        };
        let mut walk = Walk { at: begin, end: None, least: KEEP_MOST, absence: None };
        for section in 0..3 {
            for _ in 0..header.counts[section + 1] {
                walk.take(message, section, &mut reply)?;
            }
        }
        if reply.code > 0xf {
            return None; // of EDNS, between us and the resolver
        }
        reply.body = message[begin..walk.end.unwrap_or(walk.at)].to_vec();
        reply.times.iter_mut().for_each(|at| *at -= begin);
        reply.keep = match (reply.code, reply.counts[0]) {
            (code::NOERROR, 1..) => walk.least,
            (code::NOERROR | code::NXDOMAIN, _) => walk.absence.map_or(0, |absence| absence.min(walk.least)),
            (code::SERVFAIL, _) => KEEP_FAILURE,
            _ => 0,
        };
        Some(reply)
    }

    /// Give it as an answer to `question`, the same that it was read for, after `age` seconds.
    pub fn answer(&self, question: &Question, age: u32, limit: usize) -> Vec<u8> {
        let mut body = self.body.clone();
        for &at in &self.times {
            if let Some(time) = body[at..].first_chunk_mut::<4>() {
                let left = seconds(u32::from_be_bytes(*time)).saturating_sub(age);
                *time = left.to_be_bytes();
            }
        }
        let authentic = if self.authentic && question.wants_verdict() { bit::AUTHENTIC } else { 0 };
        question.envelope(self.code, authentic, self.counts, &body, limit)
    }

    /// Give about how many bytes it takes to keep it.
    pub fn size(&self) -> usize {
        size_of::<Reply>() + self.body.len() + self.times.len() * size_of::<usize>()
    }
}

/// Where a look at all records has come to.
struct Walk {
    at: usize,
    /// Where what is kept ends, once OPT was found.
    end: Option<usize>,
    least: u32,
    absence: Option<u32>,
}

impl Walk {
    fn take(&mut self, message: &[u8], section: usize, reply: &mut Reply) -> Option<()> {
        let place = Place::of(message, self.at)?;
        let begin = std::mem::replace(&mut self.at, place.end);
        if place.kind == kind::OPT {
            if section != 2 || self.end.is_some() {
                return None;
            }
            reply.code |= (place.ttl >> 24 << 4) as u16;
            self.end = Some(begin);
        }
        if self.end.is_none() {
            reply.counts[section] += 1;
            reply.times.push(place.ttl_at);
            self.least = self.least.min(seconds(place.ttl));
            if section == 1 && place.kind == kind::SOA {
                let minimum = message[place.ttl_at + 6..place.end].last_chunk::<4>()?;
                self.absence = Some(KEEP_ABSENCE.min(seconds(u32::from_be_bytes(*minimum))));
            }
        }
        Some(())
    }
}

fn seconds(time: u32) -> u32 {
    if time > i32::MAX as u32 { 0 } else { time.min(KEEP_MOST) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dns::{Heard, Name, Record, hear};

    fn question(kind: u16) -> Question {
        Question::about(Name::parse("www.example.com").unwrap(), kind)
    }

    fn as_answered(kind: u16, code: u16, records: &[Record], believe: Option<u32>) -> Vec<u8> {
        let Heard::Question(forwarded) = hear(&question(kind).forward(7)) else { panic!() };
        forwarded.answer(code, records, believe, 4096)
    }

    fn address(ttl: u32) -> Record {
        Record { kind: kind::A, ttl, data: vec![192, 0, 2, 1] }
    }

    #[test]
    fn records_come_back_younger_and_without_opt() {
        let message = as_answered(kind::A, code::NOERROR, &[address(300), address(20)], None);
        let reply = Reply::read(&message, &question(kind::A)).unwrap();
        assert_eq!(reply.keep, 20);
        let expected = question(kind::A).answer(code::NOERROR, &[address(293), address(13)], None, 512);
        assert_eq!(reply.answer(&question(kind::A), 7, 512), expected);
    }

    #[test]
    fn absence_is_kept_as_long_as_it_may_be_believed() {
        for code in [code::NOERROR, code::NXDOMAIN] {
            let keep =
                |believe| Reply::read(&as_answered(kind::A, code, &[], believe), &question(kind::A)).unwrap().keep;
            assert_eq!((keep(Some(60)), keep(Some(9000)), keep(None)), (60, 300, 0));
        }
    }

    #[test]
    fn strange_times_and_codes_are_not_kept_for_long() {
        let keep = |code, records: &[Record]| {
            Reply::read(&as_answered(kind::A, code, records, None), &question(kind::A)).unwrap().keep
        };
        assert_eq!(keep(code::NOERROR, &[address(u32::MAX)]), 0);
        assert_eq!(keep(code::NOERROR, &[address(i32::MAX as u32)]), 3600);
        assert_eq!((keep(code::SERVFAIL, &[]), keep(code::REFUSED, &[])), (2, 0));
    }

    #[test]
    fn answer_to_another_question_is_none() {
        let message = as_answered(kind::A, code::NOERROR, &[address(300)], None);
        let other = Question::about(Name::parse("www.example.net").unwrap(), kind::A);
        assert_eq!(Reply::read(&message, &other), None);
        assert_eq!(Reply::read(&message, &question(kind::AAAA)), None);
        assert_eq!(Reply::read(&question(kind::A).forward(7), &question(kind::A)), None);
        for cut in 0..message.len() {
            assert_eq!(Reply::read(&message[..cut], &question(kind::A)), None, "{cut}");
        }
    }

    #[test]
    fn verdict_of_the_resolver_is_for_those_who_want_it() {
        let mut message = as_answered(kind::A, code::NOERROR, &[address(300)], None);
        message[3] |= bit::AUTHENTIC as u8;
        let reply = Reply::read(&message, &question(kind::A)).unwrap();
        let Heard::Question(wants) = hear(&question(kind::A).forward(1)) else { panic!() };
        assert_eq!(reply.answer(&wants, 0, 512)[3] & bit::AUTHENTIC as u8, bit::AUTHENTIC as u8);
        assert_eq!(reply.answer(&question(kind::A), 0, 512)[3] & bit::AUTHENTIC as u8, 0);
    }

    proptest! {
        #[test]
        fn any_answer_can_be_read_and_given(at in 0usize..120, byte: u8, more in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut message = as_answered(kind::A, code::NOERROR, &[address(300), address(20)], Some(5));
            let length = message.len();
            message[at % length] = byte;
            message.extend(more);
            if let Some(reply) = Reply::read(&message, &question(kind::A)) {
                prop_assert!(reply.answer(&question(kind::A), 3, 512).len() <= 512);
                prop_assert!(reply.keep <= 3600);
            }
        }
    }
}
