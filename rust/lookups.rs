//! Questions that resolvers are asked, pure: who waits for which, under which number it was sent, what has come.
//!
//! Equal questions are sent once. A question whose connection is lost before its answer came is sent once more, by another;
//! who asked gets SERVFAIL while it still waits. An answer counts only by the connection that its question was sent by,
//! under its number, and with that question in it. All of it is bounded, and who comes when it is full is told at once.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;

use smoltcp::time::{Duration, Instant};

use crate::cache::{Cache, Key};
use crate::dns::{Question, code};
use crate::names::Way;
use crate::reply::Reply;

/// A question is answered after this time, with SERVFAIL if need be: programs wait for 5 seconds and then ask again.
const LIMIT: Duration = Duration::from_millis(4500);
const MOST: usize = 1024;
/// Of those who wait for one answer, and of all.
const WAITING_EACH: usize = 64;
const WAITING: usize = 8192;
const TRIES: u8 = 2;

/// Who asked, and where the answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A datagram from `program`, to `resolver`.
    Datagram { program: SocketAddr, resolver: SocketAddr },
    /// The session with this number.
    Session(u64),
}

/// What becomes of a question now.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// This is its answer.
    Known(Vec<u8>),
    /// The answer will be among `take_answered`.
    Later,
    /// It has been asked by the same datagram already, which was sent again.
    Twice,
}

struct Waiter {
    asker: Asker,
    question: Question,
    limit: usize,
}

struct Lookup {
    key: Key,
    way: Way,
    /// Tells it apart from others that had its number.
    serial: u64,
    waiters: Vec<Waiter>,
    tries: u8,
    /// The connection that it was sent by.
    by: Option<u64>,
}

/// Of one thread.
#[derive(Default)]
pub struct Lookups {
    /// By the number that stands in the message to the resolver.
    open: HashMap<u16, Lookup>,
    numbers: HashMap<Key, u16>,
    unsent: [VecDeque<u16>; 2],
    /// When each is to be given up, in the order in which they began; some are over.
    deadlines: VecDeque<(Instant, u16, u64)>,
    answered: Vec<(Asker, Vec<u8>)>,
    waiting: usize,
    begun: u64,
    hasher: RandomState,
    pub cache: Cache,
}

impl Lookups {
    /// Find out the answer to `question` by `way`.
    pub fn ask(&mut self, asker: Asker, question: Question, limit: usize, way: Way, now: Instant) -> Asked {
        let key = Key::of(way, &question);
        if let Some(answer) = self.cache.find(&key, &question, limit, now) {
            return Asked::Known(answer);
        }
        let known = self.numbers.get(&key).copied();
        if matches!(asker, Asker::Datagram { .. })
            && let Some(lookup) = known.and_then(|number| self.open.get(&number))
            && lookup.waiters.iter().any(|waiter| waiter.asker == asker && waiter.question.id == question.id)
        {
            return Asked::Twice;
        }
        let waiting = known.and_then(|number| self.open.get(&number)).map_or(0, |lookup| lookup.waiters.len());
        if self.waiting >= WAITING || waiting >= WAITING_EACH || (known.is_none() && self.open.len() >= MOST) {
            return Asked::Known(failure(&question, limit));
        }
        let number = known.unwrap_or_else(|| self.begin(key, way, now));
        if let Some(lookup) = self.open.get_mut(&number) {
            lookup.waiters.push(Waiter { asker, question, limit });
            self.waiting += 1;
        }
        Asked::Later
    }

    fn begin(&mut self, key: Key, way: Way, now: Instant) -> u16 {
        self.begun += 1;
        let mut number = self.hasher.hash_one(self.begun) as u16;
        while self.open.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        self.numbers.insert(key.clone(), number);
        self.open.insert(number, Lookup { key, way, serial: self.begun, waiters: Vec::new(), tries: 0, by: None });
        self.unsent[way as usize].push_back(number);
        self.deadlines.push_back((now + LIMIT, number, self.begun));
        number
    }

    /// Say whether a question is to be sent by `way`.
    pub fn any_unsent(&mut self, way: Way) -> bool {
        let queue = &mut self.unsent[way as usize];
        while queue.front().is_some_and(|number| !is_unsent(&self.open, *number, way)) {
            queue.pop_front();
        }
        !queue.is_empty()
    }

    /// Give the next message to send by `way`, over `connection`, with its number.
    pub fn next_unsent(&mut self, way: Way, connection: u64) -> Option<(u16, Vec<u8>)> {
        while let Some(number) = self.unsent[way as usize].pop_front() {
            if is_unsent(&self.open, number, way)
                && let Some(lookup) = self.open.get_mut(&number)
            {
                (lookup.by, lookup.tries) = (Some(connection), lookup.tries + 1);
                return Some((number, lookup.waiters.first()?.question.forward(number)));
            }
        }
        None
    }

    /// Take a message that came over `connection`; says whether it is the answer to something sent there. What stands
    /// where the number should is `number`.
    pub fn arrived(&mut self, connection: u64, number: u16, message: &[u8], now: Instant) -> bool {
        let lookup = self.open.get(&number).filter(|lookup| lookup.by == Some(connection));
        let question = lookup.and_then(|lookup| lookup.waiters.first()).map(|waiter| &waiter.question);
        let Some(reply) = question.and_then(|question| Reply::read(message, question)) else { return false };
        let Some(lookup) = self.end(number) else { return false };
        for waiter in &lookup.waiters {
            self.answered.push((waiter.asker, reply.answer(&waiter.question, 0, waiter.limit)));
        }
        self.cache.keep(lookup.key, reply, now);
        true
    }

    /// Say whether `number`, sent over `connection`, still waits for its answer.
    pub fn is_open(&self, connection: u64, number: u16) -> bool {
        self.open.get(&number).is_some_and(|lookup| lookup.by == Some(connection))
    }

    /// A connection is lost: what was sent over it is sent once more, or fails. Give how many did.
    pub fn lost(&mut self, connection: u64) -> u64 {
        let mut failed = 0;
        let lost: Vec<u16> =
            self.open.iter().filter(|(_, each)| each.by == Some(connection)).map(|(number, _)| *number).collect();
        for number in lost {
            let Some(lookup) = self.open.get_mut(&number) else { continue };
            if lookup.tries >= TRIES {
                self.fail(number);
                failed += 1;
            } else {
                lookup.by = None;
                // first, as a resolver may end each connection after so many questions
                self.unsent[lookup.way as usize].push_front(number);
            }
        }
        failed
    }

    /// No resolver can be reached by `way`: what was to be sent fails. Give how many those were.
    pub fn unreachable(&mut self, way: Way) -> u64 {
        let mut failed = 0;
        for number in std::mem::take(&mut self.unsent[way as usize]) {
            if is_unsent(&self.open, number, way) {
                self.fail(number);
                failed += 1;
            }
        }
        failed
    }

    /// Give up what has waited for too long; give how many those were.
    pub fn expire(&mut self, now: Instant) -> u64 {
        let mut count = 0;
        while let Some(&(at, number, serial)) = self.deadlines.front() {
            let is_over = self.open.get(&number).is_none_or(|lookup| lookup.serial != serial);
            if at > now && !is_over {
                break;
            }
            self.deadlines.pop_front();
            if at <= now && !is_over {
                self.fail(number);
                count += 1;
            }
        }
        count
    }

    /// Give the time at which `expire` will have something to do.
    pub fn next(&self) -> Option<Instant> {
        self.deadlines.front().map(|(at, _, _)| *at)
    }

    /// Take the answers that have come up.
    pub fn take_answered(&mut self) -> Vec<(Asker, Vec<u8>)> {
        std::mem::take(&mut self.answered)
    }

    /// Give how many questions wait for a resolver.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    fn fail(&mut self, number: u16) {
        for waiter in self.end(number).map(|lookup| lookup.waiters).unwrap_or_default() {
            self.answered.push((waiter.asker, failure(&waiter.question, waiter.limit)));
        }
    }

    fn end(&mut self, number: u16) -> Option<Lookup> {
        let lookup = self.open.remove(&number)?;
        self.numbers.remove(&lookup.key);
        self.waiting -= lookup.waiters.len();
        Some(lookup)
    }
}

fn is_unsent(open: &HashMap<u16, Lookup>, number: u16, way: Way) -> bool {
    open.get(&number).is_some_and(|lookup| lookup.way == way && lookup.by.is_none())
}

fn failure(question: &Question, limit: usize) -> Vec<u8> {
    question.answer(code::SERVFAIL, &[], None, limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::{Header, Heard, Name, Record, hear, kind};

    fn question(name: &str, id: u16) -> Question {
        let mut question = Question::about(Name::parse(name).unwrap(), kind::A);
        question.id = id;
        question
    }

    fn at(millis: i64) -> Instant {
        Instant::from_millis(millis)
    }

    fn ask(lookups: &mut Lookups, session: u64, name: &str, now: i64) -> Asked {
        lookups.ask(Asker::Session(session), question(name, session as u16), 512, Way::Proxy, at(now))
    }

    fn reply_to(sent: &[u8]) -> Vec<u8> {
        let Heard::Question(question) = hear(sent) else { panic!() };
        question.answer(code::NOERROR, &[Record { kind: kind::A, ttl: 60, data: vec![192, 0, 2, 7] }], None, 4096)
    }

    fn answered(lookups: &mut Lookups) -> Vec<(Asker, u16, u16)> {
        let answers = lookups.take_answered().into_iter().map(|(asker, answer)| {
            let header = Header::read(&answer).unwrap();
            (asker, header.id, header.flags & 0xf)
        });
        answers.collect()
    }

    #[test]
    fn equal_questions_are_sent_once_and_all_are_answered() {
        let mut lookups = Lookups::default();
        for session in 1..=3 {
            assert_eq!(ask(&mut lookups, session, "a.example", 0), Asked::Later);
        }
        let resolver = "192.0.2.53:53".parse().unwrap();
        let datagram = Asker::Datagram { program: "10.0.0.2:5000".parse().unwrap(), resolver };
        for asked in [Asked::Later, Asked::Twice] {
            assert_eq!(lookups.ask(datagram, question("a.example", 4), 512, Way::Proxy, at(0)), asked);
        }
        let (number, sent) = lookups.next_unsent(Way::Proxy, 9).unwrap();
        assert!(lookups.next_unsent(Way::Proxy, 9).is_none());
        assert!(lookups.arrived(9, number, &reply_to(&sent), at(10)));
        let mut all: Vec<_> = (1..=3).map(|number| (Asker::Session(number), number as u16, code::NOERROR)).collect();
        all.push((datagram, 4, code::NOERROR));
        assert_eq!(answered(&mut lookups), all);
        assert!(matches!(ask(&mut lookups, 4, "a.example", 20), Asked::Known(_)), "it is kept");
        assert_eq!((lookups.count(), lookups.waiting), (0, 0));
    }

    #[test]
    fn answers_may_come_in_any_order_and_count_once() {
        let mut lookups = Lookups::default();
        ask(&mut lookups, 1, "a.example", 0);
        ask(&mut lookups, 2, "b.example", 0);
        let sent = [(); 2].map(|()| lookups.next_unsent(Way::Proxy, 9).unwrap());
        for (number, message) in sent.iter().rev() {
            assert!(lookups.arrived(9, *number, &reply_to(message), at(1)));
            assert!(!lookups.arrived(9, *number, &reply_to(message), at(1)));
        }
        assert_eq!(
            answered(&mut lookups).iter().map(|(asker, ..)| *asker).collect::<Vec<_>>(),
            [Asker::Session(2), Asker::Session(1)]
        );
    }

    #[test]
    fn answer_with_a_wrong_number_question_or_connection_does_not_count() {
        let mut lookups = Lookups::default();
        ask(&mut lookups, 1, "a.example", 0);
        ask(&mut lookups, 2, "b.example", 0);
        let (one, first) = lookups.next_unsent(Way::Proxy, 9).unwrap();
        let (other, second) = lookups.next_unsent(Way::Proxy, 9).unwrap();
        assert!(!lookups.arrived(9, one, &reply_to(&second), at(1)));
        assert!(!lookups.arrived(8, one, &reply_to(&first), at(1)));
        assert!(!lookups.arrived(9, one ^ other ^ 0x5555, &reply_to(&first), at(1)));
        assert!(lookups.take_answered().is_empty() && lookups.is_open(9, one));
    }

    #[test]
    fn question_is_sent_once_more_when_its_connection_is_lost_and_then_fails() {
        let mut lookups = Lookups::default();
        ask(&mut lookups, 1, "a.example", 0);
        lookups.next_unsent(Way::Proxy, 1).unwrap();
        lookups.lost(1);
        assert!(lookups.any_unsent(Way::Proxy) && !lookups.any_unsent(Way::Direct));
        lookups.next_unsent(Way::Proxy, 2).unwrap();
        lookups.lost(1);
        assert!(lookups.take_answered().is_empty());
        lookups.lost(2);
        assert_eq!(answered(&mut lookups), [(Asker::Session(1), 1, code::SERVFAIL)]);
    }

    #[test]
    fn who_waits_for_too_long_is_told_in_time() {
        let mut lookups = Lookups::default();
        ask(&mut lookups, 1, "a.example", 0);
        ask(&mut lookups, 2, "b.example", 1000);
        assert_eq!(lookups.next(), Some(at(4500)));
        assert_eq!(lookups.expire(at(4499)), 0);
        assert_eq!(lookups.expire(at(4500)), 1);
        assert_eq!(answered(&mut lookups), [(Asker::Session(1), 1, code::SERVFAIL)]);
        assert_eq!(lookups.next(), Some(at(5500)));
        lookups.unreachable(Way::Proxy);
        assert_eq!(answered(&mut lookups), [(Asker::Session(2), 2, code::SERVFAIL)]);
        assert_eq!(lookups.expire(at(9000)), 0);
        assert_eq!((lookups.next(), lookups.any_unsent(Way::Proxy)), (None, false));
    }

    #[test]
    fn flood_of_questions_has_an_end() {
        let mut lookups = Lookups::default();
        for number in 0..MOST as u64 {
            assert_eq!(ask(&mut lookups, number, &format!("n{number}.example"), 0), Asked::Later);
        }
        assert!(matches!(ask(&mut lookups, 1, "one.more.example", 0), Asked::Known(_)));
        for session in 1..WAITING_EACH as u64 {
            assert_eq!(ask(&mut lookups, 9000 + session, "n1.example", 0), Asked::Later);
        }
        assert!(matches!(ask(&mut lookups, 9999, "n1.example", 0), Asked::Known(_)));
        let numbers: std::collections::HashSet<u16> =
            std::iter::from_fn(|| lookups.next_unsent(Way::Proxy, 1).map(|(number, _)| number)).collect();
        assert_eq!(numbers.len(), MOST);
    }
}
