//! Connections to the proxy that are made before they are needed: a connect then costs no round trip to it.
//!
//! Only for a proxy that is a while away, since at no distance there is nothing to gain; only as many as the connects of
//! late let expect to be used soon; and none for long: proxies hang up on connections that say nothing, and write a line
//! into their log. A connection that was hung up on meanwhile shows when it is used, and is replaced by a fresh one.

use std::collections::VecDeque;

use smoltcp::time::{Duration, Instant};

use crate::upstream::Upstream;

/// A proxy that takes less than this to accept a connection is near.
const FAR: Duration = Duration::from_millis(2);
/// Below the time that any proxy gives a client to say something.
const MAX_AGE: Duration = Duration::from_secs(3);
/// To all proxies together.
const MOST: usize = 16;
/// How often a handshake of TLS is looked after. Nobody watches these connections: there are few, and not for long.
const SHAKE_EVERY: Duration = Duration::from_millis(10);

/// The idle connections to all proxies, each known by its place.
#[derive(Default)]
pub struct Pool {
    stocks: Vec<Stock>,
    /// When handshakes are looked after again.
    shake: Option<Instant>,
}

/// Those to one proxy, and how often one was wanted.
#[derive(Default)]
struct Stock {
    idle: VecDeque<(Instant, Upstream)>,
    /// How long the proxy took to accept a connection, the last time.
    distance: Duration,
    rate: Rate,
}

/// Connects in this second, and in the one before.
#[derive(Debug, Default)]
struct Rate {
    second: i64,
    now: usize,
    before: usize,
}

impl Pool {
    /// Take note of the time that `proxy` took to accept a connection.
    pub fn measured(&mut self, proxy: usize, distance: Duration) {
        self.stock(proxy).distance = distance;
    }

    /// Give that time; zero where none is known.
    pub fn distance(&self, proxy: usize) -> Duration {
        self.stocks.get(proxy).map_or(Duration::ZERO, |stock| stock.distance)
    }

    /// Give a connection to `proxy`, if one is at hand.
    pub fn take(&mut self, proxy: usize, now: Instant) -> Option<Upstream> {
        let stock = self.stock(proxy);
        stock.rate.count(now);
        stock.age(now);
        while let Some((_, mut upstream)) = stock.idle.pop_front() {
            if upstream.is_quiet() {
                return Some(upstream);
            }
        }
        None
    }

    /// Say whether one more is to be made, to the proxy given; `give` it then.
    pub fn wants(&mut self, now: Instant) -> Option<usize> {
        self.age(now);
        if self.idle() >= MOST {
            return None;
        }
        self.stocks.iter_mut().position(|stock| {
            let expected = stock.rate.expected(now);
            stock.distance >= FAR && stock.idle.len() < expected
        })
    }

    /// Keep a connection to `proxy` that was just begun.
    pub fn give(&mut self, proxy: usize, upstream: Upstream, now: Instant) {
        if !upstream.is_open() {
            self.shake.get_or_insert(now + SHAKE_EVERY);
        }
        self.stock(proxy).idle.push_back((now, upstream));
    }

    /// Give the number of connections at hand.
    pub fn idle(&self) -> usize {
        self.stocks.iter().map(|stock| stock.idle.len()).sum()
    }

    /// Give the time at which there is something to do.
    pub fn next(&self) -> Option<Instant> {
        self.stocks.iter().filter_map(Stock::next).chain(self.shake).min()
    }

    /// Go on with handshakes of TLS, so that they are over when a connection is wanted.
    pub fn shake_hands(&mut self, now: Instant) {
        if self.shake.is_none_or(|at| at <= now) {
            let mut unfinished = false;
            for stock in &mut self.stocks {
                stock.idle.retain_mut(|(_, upstream)| upstream.is_open() || upstream.is_quiet());
                unfinished |= stock.idle.iter().any(|(_, upstream)| !upstream.is_open());
            }
            self.shake = unfinished.then_some(now + SHAKE_EVERY);
        }
    }

    /// Close those that are too old.
    pub fn age(&mut self, now: Instant) {
        self.stocks.iter_mut().for_each(|stock| stock.age(now));
    }

    /// The proxies have other places: for each, the one that it had before, if it was there.
    pub fn follow(&mut self, before: &[Option<usize>]) {
        let mut known = std::mem::take(&mut self.stocks);
        let kept = |place: &Option<usize>| place.and_then(|place| known.get_mut(place)).map(std::mem::take);
        self.stocks = before.iter().map(kept).map(Option::unwrap_or_default).collect();
    }

    fn stock(&mut self, proxy: usize) -> &mut Stock {
        if self.stocks.len() <= proxy {
            self.stocks.resize_with(proxy + 1, Stock::default);
        }
        &mut self.stocks[proxy]
    }
}

impl Stock {
    fn next(&self) -> Option<Instant> {
        self.idle.front().map(|(made, _)| *made + MAX_AGE)
    }

    fn age(&mut self, now: Instant) {
        while self.next().is_some_and(|end| end <= now) {
            self.idle.pop_front();
        }
    }
}

impl Rate {
    fn count(&mut self, now: Instant) {
        self.turn(now);
        self.now += 1;
    }

    fn turn(&mut self, now: Instant) {
        let passed = now.secs() - self.second;
        if passed != 0 {
            (self.before, self.now, self.second) = (if passed == 1 { self.now } else { 0 }, 0, now.secs());
        }
    }

    /// Give the number of connects to expect within a fifth of a second, and at least one after two in a second.
    fn expected(&mut self, now: Instant) -> usize {
        self.turn(now);
        self.before.max(self.now).div_ceil(5).saturating_sub(usize::from(self.before.max(self.now) < 2))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn at(millis: i64) -> Instant {
        Instant::from_millis(millis)
    }

    /// A proxy that is 20 ms away, and a pool that knows it.
    fn far() -> (TcpListener, Pool) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut pool = Pool::default();
        pool.measured(0, Duration::from_millis(20));
        (listener, pool)
    }

    /// Make all connections that the pool wants.
    fn fill(pool: &mut Pool, listener: &TcpListener, now: Instant) -> usize {
        let mut made = 0;
        while let Some(proxy) = pool.wants(now) {
            pool.give(proxy, Upstream::dial(listener.local_addr().unwrap()).unwrap(), now);
            made += 1;
        }
        made
    }

    #[test]
    fn connects_of_late_make_the_pool_and_rest_empties_it() {
        let (listener, mut pool) = far();
        assert_eq!(fill(&mut pool, &listener, at(0)), 0);
        for _ in 0..20 {
            assert!(pool.take(0, at(0)).is_none());
        }
        assert_eq!(fill(&mut pool, &listener, at(0)), 4);
        assert!(pool.take(0, at(100)).is_some());
        assert_eq!(pool.next(), Some(at(3000)));
        assert_eq!(fill(&mut pool, &listener, at(3000)), 0);
        assert_eq!(pool.next(), None);
    }

    #[test]
    fn single_connect_makes_nothing() {
        let (listener, mut pool) = far();
        pool.take(0, at(0));
        assert_eq!(fill(&mut pool, &listener, at(0)), 0);
    }

    #[test]
    fn near_proxy_and_one_that_nobody_asks_get_nothing() {
        let (listener, mut pool) = far();
        pool.measured(1, Duration::from_micros(100));
        pool.measured(2, Duration::from_millis(20));
        for _ in 0..20 {
            pool.take(1, at(0));
        }
        assert_eq!(fill(&mut pool, &listener, at(0)), 0);
    }

    #[test]
    fn each_proxy_has_a_stock_of_its_own_and_all_together_have_a_limit() {
        let (listener, mut pool) = far();
        pool.measured(1, Duration::from_millis(20));
        for _ in 0..20 {
            pool.take(0, at(0));
            pool.take(1, at(0));
        }
        assert_eq!(fill(&mut pool, &listener, at(0)), 8);
        for proxy in [0, 1] {
            assert_eq!((0..9).filter(|_| pool.take(proxy, at(1)).is_some()).count(), 4);
        }
        for _ in 0..500 {
            pool.take(1, at(2));
        }
        assert_eq!(fill(&mut pool, &listener, at(2)), MOST);
    }

    #[test]
    fn stock_follows_its_proxy_to_another_place_and_goes_with_it() {
        let (listener, mut pool) = far();
        for _ in 0..20 {
            pool.take(0, at(0));
        }
        fill(&mut pool, &listener, at(0));
        pool.follow(&[None, Some(0)]);
        assert!(pool.take(0, at(0)).is_none());
        assert!(pool.take(1, at(0)).is_some());
        pool.follow(&[None]);
        assert_eq!(pool.idle(), 0);
    }

    #[test]
    fn connection_that_was_hung_up_on_is_passed_over() {
        let (listener, mut pool) = far();
        for _ in 0..2 {
            pool.give(0, Upstream::dial(listener.local_addr().unwrap()).unwrap(), at(0));
        }
        drop(listener.accept().unwrap());
        let kept = listener.accept().unwrap();
        let mut given = pool.take(0, at(0)).unwrap();
        assert!(given.is_quiet());
        assert!(pool.take(0, at(0)).is_none());
        drop(kept);
    }
}
