//! An HTTP CONNECT and SOCKS5 proxy that moves bytes by splice(2), so that it is not what a benchmark measures.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use crate::net::{self, Poll, check};
use crate::request::{self, Asked};

const PIPE: usize = 1 << 20;
const LISTENER: u64 = u64::MAX;

/// Answers for targets whose port is `from_port` or higher are held back for `time`: the distance to the origin.
#[derive(Clone, Copy)]
pub struct Delay {
    pub time: Duration,
    pub from_port: u16,
}

struct Pair {
    /// The client's socket, and the origin's.
    fds: [RawFd; 2],
    /// Bytes on their way: from the client, and to it.
    ways: [Way; 2],
    head: Vec<u8>,
    is_socks: bool,
    open: bool,
    /// Not answered before this.
    due: Instant,
}

#[derive(Default)]
struct Way {
    pipe: Option<[RawFd; 2]>,
    held: usize,
    eof: bool,
    done: bool,
}

pub struct Proxy {
    poll: Poll,
    listener: RawFd,
    pairs: Vec<Option<Pair>>,
    free: Vec<usize>,
    pipes: Vec<[RawFd; 2]>,
    delay: Delay,
    delayed: std::collections::VecDeque<usize>,
}

/// Serve for ever.
pub fn run(address: SocketAddr, delay: Delay) -> io::Result<()> {
    let (poll, listener) = (Poll::new()?, net::listen(address)?);
    poll.add(listener, LISTENER, libc::EPOLLIN);
    let (pairs, free, pipes) = (Vec::new(), Vec::new(), Vec::new());
    let delayed = std::collections::VecDeque::new();
    let mut proxy = Proxy { poll, listener, pairs, free, pipes, delay, delayed };
    println!("ready");
    loop {
        let wait = if proxy.delayed.is_empty() { -1 } else { 1 };
        for token in proxy.poll.wait(wait) {
            if token == LISTENER { proxy.accept() } else { proxy.serve(token as usize) }
        }
        proxy.release_delayed();
    }
}

impl Proxy {
    fn accept(&mut self) {
        while let Some(fd) = net::accept(self.listener) {
            let ways = [Way::default(), Way::default()];
            let due = Instant::now();
            let pair = Pair { fds: [fd, -1], ways, head: Vec::new(), is_socks: false, open: false, due };
            let index = self.free.pop().unwrap_or_else(|| {
                self.pairs.push(None);
                self.pairs.len() - 1
            });
            self.pairs[index] = Some(pair);
            self.poll.watch(fd, index as u64);
        }
    }

    fn serve(&mut self, index: usize) {
        let Some(mut pair) = self.pairs[index].take() else { return };
        let alive = if pair.open {
            self.relay(&mut pair)
        } else if pair.fds[1] < 0 {
            self.read_request(&mut pair, index)
        } else {
            self.answer(&mut pair, index)
        };
        if alive {
            self.pairs[index] = Some(pair);
            return;
        }
        for way in pair.ways {
            if let Some(pipe) = way.pipe {
                pipe.into_iter().for_each(net::close);
            }
        }
        pair.fds.into_iter().filter(|fd| *fd >= 0).for_each(net::close);
        self.free.push(index);
    }

    fn read_request(&mut self, pair: &mut Pair, index: usize) -> bool {
        let mut buffer = [0; 4096];
        match net::receive(pair.fds[0], &mut buffer) {
            Ok(0) => return false,
            Ok(count) => pair.head.extend_from_slice(&buffer[..count]),
            result => return net::later(&result),
        }
        self.obey_request(pair, index)
    }

    fn obey_request(&mut self, pair: &mut Pair, index: usize) -> bool {
        let target = match request::read(&mut pair.head) {
            Asked::Nothing => return pair.head.len() < 65536,
            Asked::Method => {
                pair.is_socks = true;
                return net::send(pair.fds[0], request::METHOD).is_ok() && self.obey_request(pair, index);
            }
            Asked::Target(target) => Some(target),
            Asked::Nonsense => None,
        };
        let Some((target, fd)) = target.and_then(|target| Some((target, net::connect(target).ok()?))) else {
            let _ = net::send(pair.fds[0], request::refusal(pair.is_socks));
            return false;
        };
        pair.fds[1] = fd;
        if target.port() >= self.delay.from_port {
            pair.due = Instant::now() + self.delay.time;
        }
        self.poll.watch(fd, index as u64);
        self.answer(pair, index)
    }

    fn answer(&mut self, pair: &mut Pair, index: usize) -> bool {
        let mut probe = libc::pollfd { fd: pair.fds[1], events: libc::POLLOUT, revents: 0 };
        if unsafe { libc::poll(&raw mut probe, 1, 0) } == 0 {
            return true;
        }
        if net::error_of(pair.fds[1]) != 0 {
            let _ = net::send(pair.fds[0], request::refusal(pair.is_socks));
            return false;
        }
        if Instant::now() < pair.due {
            self.delayed.push_back(index);
            return true;
        }
        pair.open = net::send(pair.fds[0], request::consent(pair.is_socks)).is_ok();
        pair.open && self.relay(pair)
    }

    fn release_delayed(&mut self) {
        for _ in 0..self.delayed.len() {
            if let Some(index) = self.delayed.pop_front()
                && self.pairs[index].as_ref().is_some_and(|pair| !pair.open)
            {
                self.serve(index);
            }
        }
    }

    fn relay(&mut self, pair: &mut Pair) -> bool {
        let [client, origin] = pair.fds;
        let [up, down] = &mut pair.ways;
        self.splice(up, client, origin) && self.splice(down, origin, client) && !(up.done && down.done)
    }

    /// Move what can be moved; false when the connection is broken.
    fn splice(&mut self, way: &mut Way, from: RawFd, to: RawFd) -> bool {
        if way.done {
            return true;
        }
        let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
        let null = std::ptr::null_mut::<libc::loff_t>();
        loop {
            let pipe = *way.pipe.get_or_insert_with(|| self.pipes.pop().unwrap_or_else(new_pipe));
            let mut moved = 0;
            if !way.eof && way.held < PIPE {
                let result = check(unsafe { libc::splice(from, null, pipe[1], null, PIPE - way.held, flags) });
                match result {
                    Ok(0) => way.eof = true,
                    Ok(count) => (way.held, moved) = (way.held + count, count),
                    result if net::later(&result) => {}
                    Err(_) => return false,
                }
            }
            if way.held > 0 {
                match check(unsafe { libc::splice(pipe[0], null, to, null, way.held, flags) }) {
                    Ok(count) => (way.held, moved) = (way.held - count, moved + count),
                    result if net::later(&result) => {}
                    Err(_) => return false,
                }
            }
            if way.held == 0 {
                self.pipes.extend(way.pipe.take());
                if way.eof {
                    unsafe { libc::shutdown(to, libc::SHUT_WR) };
                    way.done = true;
                    return true;
                }
            }
            if moved == 0 {
                return true;
            }
        }
    }
}

fn new_pipe() -> [RawFd; 2] {
    let mut pipe = [-1; 2];
    unsafe {
        libc::pipe2(pipe.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC);
        libc::fcntl(pipe[1], libc::F_SETPIPE_SZ, PIPE as libc::c_int);
    }
    pipe
}
