//! The near end: opens connections, through a proxy by CONNECT where one is given, and measures.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use crate::net::{self, Poll};

const CHUNK: usize = 1 << 20;
/// Read at once; small enough to stay in the cache.
const SCRATCH: usize = 256 << 10;
/// So many connections are being opened at once when many are to stay idle: no SYN is lost.
const GENTLY: usize = 32;
/// How often a load with a limit looks how much it may move.
const PACE: Duration = Duration::from_micros(250);
const REQUEST: [u8; 64] = [b'r'; 64];

/// What to do, with how many connections at once, and for how long.
#[derive(Clone)]
pub struct Plan {
    pub wish: u8,
    pub target: SocketAddr,
    pub via: Option<SocketAddr>,
    pub clients: usize,
    pub seconds: f64,
    /// For `c`: so many connections in all, instead of a time.
    pub count: usize,
    /// For `u` and `d`: the most to move.
    pub gbit_s: f64,
    /// So many ports of the target are used in turn, from its own on: one runs out of near ports.
    pub ports: u16,
    /// For `i`: hold the connections until end of file on standard input.
    pub hold: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Step {
    Connecting,
    Asking,
    Running,
}

struct Client {
    fd: RawFd,
    target: SocketAddr,
    step: Step,
    seen: usize,
    since: Instant,
}

struct Load {
    plan: Plan,
    poll: Poll,
    clients: Vec<Client>,
    source: Vec<u8>,
    scratch: Vec<u8>,
    bytes: u64,
    /// Since when `bytes` are counted.
    since: Instant,
    /// Bytes and deeds of the warming up, which the figures leave out but processor time does not.
    before: (u64, usize),
    opened: usize,
    dialled: u16,
    done: usize,
    failed: usize,
    times: Vec<Duration>,
}

/// Carry out `plan` and print a line of JSON.
pub fn run(plan: Plan) -> io::Result<()> {
    let poll = Poll::new()?;
    let mut load = Load {
        plan: plan.clone(),
        poll,
        clients: Vec::new(),
        source: vec![b'x'; CHUNK],
        scratch: vec![0; SCRATCH],
        bytes: 0,
        since: Instant::now(),
        before: (0, 0),
        opened: 0,
        dialled: 0,
        done: 0,
        failed: 0,
        times: Vec::new(),
    };
    let first = if plan.wish == b'i' { plan.clients.min(GENTLY) } else { plan.clients };
    for index in 0..first {
        let client = load.dial(index)?;
        load.clients.push(client);
    }
    let warm = if plan.wish == b'i' || plan.count > 0 { 0.0 } else { plan.seconds * 0.2 };
    load.work(Duration::from_secs_f64(warm));
    load.before = (std::mem::take(&mut load.bytes), std::mem::take(&mut load.done));
    load.times.clear();
    let begin = Instant::now();
    load.work(Duration::from_secs_f64(plan.seconds));
    load.report(begin.elapsed());
    if plan.hold {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        for client in &load.clients {
            net::close(client.fd);
        }
        println!("closed");
    }
    Ok(())
}

impl Load {
    fn dial(&mut self, index: usize) -> io::Result<Client> {
        let mut target = self.plan.target;
        target.set_port(target.port() + self.dialled % self.plan.ports);
        self.dialled = self.dialled.wrapping_add(1);
        let fd = net::connect(self.plan.via.unwrap_or(target))?;
        self.poll.watch(fd, index as u64);
        Ok(Client { fd, target, step: Step::Connecting, seen: 0, since: Instant::now() })
    }

    fn work(&mut self, time: Duration) {
        self.since = Instant::now();
        let end = self.since + time;
        while !self.is_over(end) {
            if self.plan.gbit_s.is_finite() {
                std::thread::sleep(PACE); // what a connection becomes ready for meanwhile shows when it is tried
                (0..self.clients.len()).for_each(|index| _ = self.serve(index));
                continue;
            }
            for token in self.poll.wait(20) {
                let index = token as usize;
                // Made anew even when the time is over: what comes after the warming up has all its connections.
                if !self.serve(index) {
                    net::close(self.clients[index].fd);
                    match self.dial(index) {
                        Ok(client) => self.clients[index] = client,
                        Err(_) => self.failed += 1,
                    }
                }
            }
        }
    }

    fn is_over(&self, end: Instant) -> bool {
        match (self.plan.wish, self.plan.count) {
            (b'i', _) => self.done + self.failed >= self.plan.clients || Instant::now() >= end,
            (b'c', count) if count > 0 => self.done + self.failed >= count,
            _ => Instant::now() >= end,
        }
    }

    /// Go on with one connection; false when it is to be made anew.
    fn serve(&mut self, index: usize) -> bool {
        let (fd, step) = (self.clients[index].fd, self.clients[index].step);
        if step == Step::Connecting {
            let first = match self.plan.via {
                Some(_) => {
                    format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", self.clients[index].target).into_bytes()
                }
                None => self.hello(),
            };
            let result = net::send(fd, &first);
            if result.is_err() {
                self.failed += usize::from(!net::later(&result));
                return net::later(&result);
            }
            self.clients[index].step = if self.plan.via.is_some() { Step::Asking } else { Step::Running };
            self.opened += 1;
        }
        if self.clients[index].step == Step::Asking {
            let mut reply = [0; 512];
            match net::receive(fd, &mut reply) {
                Ok(count) if reply[..count].starts_with(b"HTTP/1.1 200") => {}
                result => {
                    self.failed += usize::from(!net::later(&result));
                    return net::later(&result);
                }
            }
            self.clients[index].step = Step::Running;
            if net::send(fd, &self.hello()).is_err() {
                return false;
            }
        }
        self.transfer(index, fd)
    }

    /// The first bytes of a connection: its wish, and for an exchange the first request.
    fn hello(&self) -> Vec<u8> {
        match self.plan.wish {
            b'r' | b'i' => [b"e".as_slice(), &REQUEST].concat(),
            wish => vec![wish],
        }
    }

    fn transfer(&mut self, index: usize, fd: RawFd) -> bool {
        match self.plan.wish {
            b'u' | b'd' if self.is_ahead() => true,
            b'u' => loop {
                match net::send(fd, &self.source) {
                    Ok(count) => self.bytes += count as u64,
                    result => return net::later(&result),
                }
                if self.is_ahead() {
                    return true;
                }
            },
            b'd' => loop {
                match net::discard(fd, &mut self.scratch) {
                    Ok(0) => return false,
                    Ok(count) => self.bytes += count as u64,
                    result => return net::later(&result),
                }
                if self.is_ahead() {
                    return true;
                }
            },
            b'c' => {
                let mut byte = [0];
                match net::receive(fd, &mut byte) {
                    Ok(1) => {
                        self.done += 1;
                        self.times.push(self.clients[index].since.elapsed());
                        false
                    }
                    result => {
                        self.failed += usize::from(!net::later(&result));
                        net::later(&result)
                    }
                }
            }
            _ => self.exchange(index, fd),
        }
    }

    fn is_ahead(&self) -> bool {
        self.plan.gbit_s.is_finite()
            && self.bytes as f64 * 8.0 / 1e9 > self.since.elapsed().as_secs_f64() * self.plan.gbit_s
    }

    fn exchange(&mut self, index: usize, fd: RawFd) -> bool {
        let mut buffer = [0; REQUEST.len()];
        loop {
            match net::receive(fd, &mut buffer) {
                Ok(0) => {
                    self.failed += 1;
                    return false;
                }
                Ok(count) => self.clients[index].seen += count,
                result => return net::later(&result),
            }
            if self.clients[index].seen < REQUEST.len() {
                continue;
            }
            self.clients[index].seen = 0;
            self.done += 1;
            self.times.push(self.clients[index].since.elapsed());
            if self.plan.wish == b'i' {
                self.open_one_more();
                return true;
            }
            self.clients[index].since = Instant::now();
            if net::send(fd, &REQUEST).is_err() {
                return false;
            }
        }
    }

    fn open_one_more(&mut self) {
        let index = self.clients.len();
        if index < self.plan.clients {
            match self.dial(index) {
                Ok(client) => self.clients.push(client),
                Err(_) => self.failed += 1,
            }
        }
    }

    fn report(&mut self, took: Duration) {
        self.times.sort_unstable();
        let quantile = |share: f64| {
            let last = self.times.len().saturating_sub(1);
            self.times.get((last as f64 * share) as usize).map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        println!(
            "{{\"seconds\": {:.4}, \"gbit_s\": {:.3}, \"bytes\": {}, \"done\": {}, \"per_second\": {:.1}, \"failed\": {}, \
             \"p50_us\": {:.1}, \"p99_us\": {:.1}, \"all_bytes\": {}, \"all_done\": {}}}",
            took.as_secs_f64(),
            self.bytes as f64 * 8.0 / 1e9 / took.as_secs_f64(),
            self.bytes,
            self.done,
            self.done as f64 / took.as_secs_f64(),
            self.failed,
            quantile(0.5),
            quantile(0.99),
            self.before.0 + self.bytes,
            self.before.1 + self.done,
        );
    }
}
