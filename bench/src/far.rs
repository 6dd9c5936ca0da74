//! A long way: a relay that holds every byte back for a time, in both directions, before it passes it on.
//!
//! It bounds no rate: what is on its way is bounded by WINDOW alone. Copies, so it is slower than the splicing proxy.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use crate::net::{self, Poll};

const LISTENER: u64 = u64::MAX;
const CHUNK: usize = 256 << 10;
/// Bytes that may be on their way in one direction of one connection: 10 ms of 50 Gbit/s.
const WINDOW: usize = 64 << 20;

struct Held {
    due: Instant,
    bytes: Vec<u8>,
    sent: usize,
}

#[derive(Default)]
struct Way {
    queue: VecDeque<Held>,
    held: usize,
    eof: bool,
    done: bool,
}

struct Pair {
    fds: [RawFd; 2],
    ways: [Way; 2],
}

/// Serve for ever: connections to `listen` go on to `target`, and each byte is `delay` on its way.
pub fn run(listen: SocketAddr, target: SocketAddr, delay: Duration) -> io::Result<()> {
    let (mut poll, listener) = (Poll::new()?, net::listen(listen)?);
    poll.add(listener, LISTENER, libc::EPOLLIN);
    let mut pairs: Vec<Option<Pair>> = Vec::new();
    let mut busy: Vec<usize> = Vec::new();
    let mut spare: Vec<Vec<u8>> = Vec::new();
    println!("ready");
    loop {
        let mut turn = std::mem::take(&mut busy);
        for token in poll.wait(if turn.is_empty() { -1 } else { 1 }) {
            if token == LISTENER {
                while let Some(near) = net::accept(listener) {
                    let far = net::connect(target)?;
                    let index = pairs.iter().position(Option::is_none).unwrap_or(pairs.len());
                    if index == pairs.len() {
                        pairs.push(None);
                    }
                    pairs[index] = Some(Pair { fds: [near, far], ways: [Way::default(), Way::default()] });
                    poll.watch(near, index as u64);
                    poll.watch(far, index as u64);
                }
            } else {
                turn.push(token as usize);
            }
        }
        turn.sort_unstable();
        turn.dedup();
        for index in turn {
            let Some(pair) = pairs[index].as_mut() else { continue };
            if !pair.serve(delay, &mut spare) {
                pair.fds.into_iter().for_each(net::close);
                pairs[index] = None;
            } else if pair.ways.iter().any(|way| !way.queue.is_empty()) {
                busy.push(index);
            }
        }
    }
}

impl Pair {
    /// Do what can be done; false when it is over.
    fn serve(&mut self, delay: Duration, spare: &mut Vec<Vec<u8>>) -> bool {
        let [near, far] = self.fds;
        let [up, down] = &mut self.ways;
        up.take(near, delay, spare)
            && up.pass_on(far, spare)
            && down.take(far, delay, spare)
            && down.pass_on(near, spare)
            && !(up.done && down.done)
    }
}

impl Way {
    fn take(&mut self, from: RawFd, delay: Duration, spare: &mut Vec<Vec<u8>>) -> bool {
        while !self.eof && self.held < WINDOW {
            let mut bytes = spare.pop().unwrap_or_default();
            bytes.resize(CHUNK, 0);
            match net::receive(from, &mut bytes) {
                Ok(count) => {
                    bytes.truncate(count);
                    self.eof = count == 0;
                    self.held += count;
                    self.queue.push_back(Held { due: Instant::now() + delay, bytes, sent: 0 });
                }
                result => {
                    spare.push(bytes);
                    return net::later(&result) || is_unconnected(&result);
                }
            }
        }
        true
    }

    fn pass_on(&mut self, to: RawFd, spare: &mut Vec<Vec<u8>>) -> bool {
        let now = Instant::now();
        while let Some(held) = self.queue.front_mut().filter(|held| held.due <= now) {
            if held.bytes.is_empty() {
                unsafe { libc::shutdown(to, libc::SHUT_WR) };
                self.done = true;
            }
            while held.sent < held.bytes.len() {
                match net::send(to, &held.bytes[held.sent..]) {
                    Ok(count) => (held.sent, self.held) = (held.sent + count, self.held - count),
                    result => return net::later(&result),
                }
            }
            spare.extend(self.queue.pop_front().map(|held| held.bytes));
        }
        true
    }
}

fn is_unconnected<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::NotConnected)
}
