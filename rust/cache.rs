//! What resolvers answered, for as long as it may be kept. Bounded in number and bytes; what came first goes first.

use std::collections::{HashMap, VecDeque};

use smoltcp::time::{Duration, Instant};

use crate::dns::{Name, Question};
use crate::names::Way;
use crate::reply::Reply;

const MOST: usize = 4096;
const BYTES_MOST: usize = 4 << 20;

/// What makes two questions the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    way: Way,
    name: Name,
    kind: u16,
    signatures: bool,
    unchecked: bool,
}

impl Key {
    /// Give that of `question`, asked by `way`.
    pub fn of(way: Way, question: &Question) -> Key {
        Key {
            way,
            name: question.name.clone(),
            kind: question.kind,
            signatures: question.wants_signatures(),
            unchecked: question.checks_itself(),
        }
    }
}

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Cache {
    replies: HashMap<Key, (Reply, Instant)>,
    /// Their keys in the order in which they came; some are there twice, and count where they stand last.
    order: VecDeque<(Key, Instant)>,
    bytes: usize,
}

impl Cache {
    /// Give the answer to `question` if there is one that may still be kept.
    pub fn find(&self, key: &Key, question: &Question, limit: usize, now: Instant) -> Option<Vec<u8>> {
        let (reply, since) = self.replies.get(key)?;
        let age = (now - *since).secs();
        (age < u64::from(reply.keep)).then(|| reply.answer(question, age as u32, limit))
    }

    /// Keep a reply, if it may be kept.
    pub fn keep(&mut self, key: Key, reply: Reply, now: Instant) {
        self.drop_old(now);
        if reply.keep == 0 || reply.size() > BYTES_MOST / 64 {
            return;
        }
        self.bytes += reply.size();
        self.order.push_back((key.clone(), now));
        if let Some((before, _)) = self.replies.insert(key, (reply, now)) {
            self.bytes -= before.size();
        }
        while self.order.len() > MOST || self.bytes > BYTES_MOST {
            self.drop_first();
        }
    }

    /// Give how many there are.
    pub fn count(&self) -> usize {
        self.replies.len()
    }

    fn drop_old(&mut self, now: Instant) {
        while let Some((key, since)) = self.order.front() {
            let is_over = self
                .replies
                .get(key)
                .is_none_or(|(reply, at)| at != since || now >= *at + Duration::from_secs(u64::from(reply.keep)));
            if !is_over {
                return;
            }
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        let Some((key, since)) = self.order.pop_front() else { return };
        if self.replies.get(&key).is_some_and(|(_, at)| *at == since)
            && let Some((reply, _)) = self.replies.remove(&key)
        {
            self.bytes -= reply.size();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::{Record, code, kind};

    fn question(number: usize) -> Question {
        Question::about(Name::parse(&format!("n{number}.example")).unwrap(), kind::A)
    }

    fn reply(number: usize, ttl: u32, size: usize) -> Reply {
        let record = Record { kind: kind::A, ttl, data: vec![7; size] };
        Reply::read(&question(number).answer(code::NOERROR, &[record], None, 65535), &question(number)).unwrap()
    }

    fn key(number: usize) -> Key {
        Key::of(Way::Proxy, &question(number))
    }

    fn at(seconds: i64) -> Instant {
        Instant::from_secs(seconds)
    }

    #[test]
    fn reply_is_found_until_its_time_is_over_and_by_its_key_only() {
        let mut cache = Cache::default();
        cache.keep(key(1), reply(1, 60, 4), at(0));
        assert!(cache.find(&key(1), &question(1), 512, at(59)).is_some());
        assert!(cache.find(&key(1), &question(1), 512, at(60)).is_none());
        assert!(cache.find(&Key::of(Way::Direct, &question(1)), &question(1), 512, at(0)).is_none());
        cache.keep(key(2), reply(2, 0, 4), at(60));
        assert_eq!((cache.count(), cache.bytes), (0, 0));
    }

    #[test]
    fn number_and_bytes_have_an_end_and_what_came_first_goes_first() {
        let mut cache = Cache::default();
        for number in 0..MOST + 10 {
            cache.keep(key(number), reply(number, 60, 4), at(0));
        }
        assert_eq!(cache.count(), MOST);
        assert!(cache.find(&key(9), &question(9), 512, at(1)).is_none());
        assert!(cache.find(&key(10), &question(10), 512, at(1)).is_some());
        for number in 0..1000 {
            cache.keep(key(number), reply(number, 60, 60_000), at(2));
        }
        assert!(cache.bytes <= BYTES_MOST && cache.count() > 60);
        cache.keep(key(0), reply(0, 60, 4), at(100));
        assert_eq!(cache.count(), 1);
    }

    #[test]
    fn same_question_again_takes_the_place_of_the_first() {
        let mut cache = Cache::default();
        for second in 0..10 {
            cache.keep(key(1), reply(1, 60, 4), at(second));
        }
        assert_eq!((cache.count(), cache.bytes), (1, reply(1, 60, 4).size()));
        assert!(cache.find(&key(1), &question(1), 512, at(68)).is_some());
    }
}
