//! Connections to proxies that are slow to come about, while another one is dialled: whichever comes first is asked.
//!
//! A proxy that swallows packets costs a program the short time that each is given alone, not that of a time-out. Only
//! connections race, never requests: no proxy is asked for what another was asked for. (RFC 8305, section 5, does this
//! with the addresses of one host.)

use std::io;

use smoltcp::time::{Duration, Instant};

use crate::standing::Use;
use crate::upstream::Upstream;

/// How long a proxy is given alone: some times what it took the last time, at least and at most so long.
const TIMES: u32 = 4;
const ALONE_MIN: Duration = Duration::from_millis(250);
const ALONE_MAX: Duration = Duration::from_secs(2);

/// Give the time that a proxy is given alone, which took `distance` to accept the last connection.
pub fn alone(distance: Duration) -> Duration {
    (distance * TIMES).clamp(ALONE_MIN, ALONE_MAX)
}

/// A connection that is being made.
pub struct Rival {
    pub upstream: Upstream,
    pub used: Use,
    pub dialled: Instant,
}

/// Those that were dialled before the one that is waited for now, the oldest first.
#[derive(Default)]
pub struct Rivals(Vec<Rival>);

impl Rivals {
    /// Say whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Let one that is slow go on beside the next.
    pub fn add(&mut self, rival: Rival) {
        self.0.push(rival);
    }

    /// Take the last one back.
    pub fn pop(&mut self) -> Option<Rival> {
        self.0.pop()
    }

    /// Take the first that is connected. Those that have failed meanwhile are taken out, into `failed`.
    pub fn take_winner(&mut self, failed: &mut Vec<(Rival, io::Error)>) -> Option<Rival> {
        let mut index = 0;
        while index < self.0.len() {
            match self.0[index].upstream.is_connected() {
                Ok(true) => return Some(self.0.remove(index)),
                Ok(false) => index += 1,
                Err(error) => failed.push((self.0.remove(index), error)),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Arc;

    use super::*;
    use crate::standing::Standing;

    fn rival(address: std::net::SocketAddr) -> Rival {
        let standing = Arc::new(Standing::new(address, false, Instant::ZERO));
        let upstream = Upstream::dial(address).unwrap();
        Rival { upstream, used: Use::begin(&standing, Instant::ZERO), dialled: Instant::ZERO }
    }

    #[test]
    fn first_that_is_connected_wins_and_the_failed_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut rivals = Rivals::default();
        rivals.add(rival(gone));
        rivals.add(rival(there));
        let mut failed = Vec::new();
        let winner = rivals.take_winner(&mut failed).unwrap();
        assert_eq!(winner.used.standing.address, there);
        assert_eq!(failed.iter().map(|(rival, _)| rival.used.standing.address).collect::<Vec<_>>(), [gone]);
        assert!(rivals.is_empty());
    }

    #[test]
    fn far_proxy_is_given_longer_but_not_for_ever() {
        let alone = |millis| alone(Duration::from_millis(millis)).total_millis();
        assert_eq!([alone(0), alone(100), alone(9000)], [250, 400, 2000]);
    }
}
