//! A small world in virtual time: a program's TCP (smoltcp again) on one end of a packet socket, our stack on the other,
//! and a proxy on a real loopback socket that does what each test says.
//!
//!     program (smoltcp) ──wire.rs, virtio_net_hdr──> Stack ──TCP on 127.0.0.1──> proxy (this test)
//!
//! Nothing sleeps: time moves by a millisecond a step, or straight to the next timer where nothing else happens.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use _tunstack::device::Device;
use _tunstack::login::Login;
use _tunstack::means::Means;
use _tunstack::names::Names;
use _tunstack::naming::Resolver;
use _tunstack::roster::{Policy, Roster};
use _tunstack::shared::Shared;
use _tunstack::stack::Stack;
use _tunstack::stats::{Notes, Stats};
use _tunstack::upstreams::{Proxy, Upstreams};
use _tunstack::wishes::{Grant, Inbox, Outbox, Wishes};
use rustls::SupportedProtocolVersion;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::{Duration, Instant};

use crate::counters;
use crate::epoll::Epoll;
use crate::front::Front;
use crate::program::Program;
use crate::streams::read_some;
use crate::wire::Wire;

const MEMORY: u64 = 1 << 30;
const SEED: u64 = 7;
pub const TARGET: &str = "192.0.2.1:443";
pub const TARGET6: &str = "[2001:db8::1]:443";
/// A proxy that lets connections through at once.
pub const GRANT: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

/// What is outside of the worker's sandbox: this test.
#[derive(Default)]
struct Outside {
    wishes: Arc<Outbox>,
    grants: Arc<Inbox>,
}

pub struct World {
    pub now: Instant,
    pub stack: Stack,
    pub stats: Arc<Stats>,
    pub notes: Arc<Notes>,
    pub program: Program,
    pub proxies: Vec<TcpListener>,
    login: Login,
    /// TLS in front of the first proxy, where there is some.
    pub front: Option<Front>,
    outside: Outside,
    pub roster: Arc<Roster>,
    epoll: Epoll,
}

impl World {
    /// Make a world with `proxies` proxies; the program's link has this MTU.
    pub fn new(proxies: usize, mtu: usize, wire: Wire) -> World {
        World::with((0..proxies).map(|_| listener()).collect(), mtu, wire)
    }

    /// Make a world with these proxies.
    pub fn with(proxies: Vec<TcpListener>, mtu: usize, wire: Wire) -> World {
        World::seeded(SEED, proxies, mtu, wire)
    }

    /// Make a world whose stack begins with the sequence numbers that follow from `seed`.
    pub fn seeded(seed: u64, proxies: Vec<TcpListener>, mtu: usize, wire: Wire) -> World {
        World::made((seed, proxies, Login::default()), Policy::default(), mtu, wire)
    }

    /// Make a world with `proxies` proxies, to all of which the same is said of the user.
    pub fn of(means: Means, proxies: usize) -> World {
        let proxies = (0..proxies).map(|_| listener()).collect();
        World::made((SEED, proxies, Login::new(means)), Policy::default(), 65535, Wire::default())
    }

    /// Make a world with these proxies, among which the stack chooses by `policy`.
    pub fn choosing(proxies: Vec<TcpListener>, policy: Policy) -> World {
        World::made((SEED, proxies, Login::default()), policy, 65535, Wire::default())
    }

    /// Make a world with one proxy, and TLS of this version in front of it.
    pub fn secured(version: &'static SupportedProtocolVersion) -> World {
        let proxy = listener();
        let front = Front::new(version, proxy.local_addr().unwrap());
        let mut world = World::plain();
        (world.proxies, world.front) = (vec![proxy], Some(front));
        world.replace_stack(0);
        world
    }

    fn made((seed, proxies, login): (u64, Vec<TcpListener>, Login), policy: Policy, mtu: usize, wire: Wire) -> World {
        let (ours, theirs) = packet_pair();
        let (stats, notes) = (Arc::new(Stats::default()), Arc::new(Notes::default()));
        let now = Instant::from_secs(1000);
        let outside = Outside::default();
        let roster = Arc::new(roster(&proxies, &login, None, policy));
        let stack = stack((ours, seed), (&roster, &outside), 0, &stats, &notes, now);
        let program = Program::new(theirs, mtu, wire, now);
        let (front, epoll) = (None, Epoll::new());
        World { now, stack, stats, notes, program, proxies, login, front, outside, roster, epoll }
    }

    pub fn plain() -> World {
        World::new(1, 65535, Wire::default())
    }

    /// Let everyone act once, and a millisecond go by.
    pub fn step(&mut self) {
        self.program.poll(self.now);
        self.stack_acts();
        self.program.poll(self.now);
    }

    /// Let the stack act alone, and a millisecond go by: what it sends waits in the TUN.
    pub fn stack_acts(&mut self) {
        while self.stack.read_packet(self.now).unwrap() {}
        for (token, ready) in self.epoll.news() {
            self.stack.wake(token, ready);
        }
        self.stack.serve(self.now);
        for (fd, token) in self.stack.dials() {
            self.epoll.watch(fd, token);
        }
        self.stack.unstick();
        self.front.iter_mut().for_each(Front::pump);
        self.now += Duration::from_millis(1);
        counters::assert_add_up(&self.stats, self.stack.usage().0);
    }

    /// Give the counter that is called `name`.
    pub fn value(&self, name: &str) -> u64 {
        self.stats.snapshot().iter().find(|(found, _)| *found == name).unwrap().1
    }

    /// Step until `done`; where nothing happens for long, time jumps to the next timer. Panics after many steps.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut World) -> bool) {
        for count in 0..200_000 {
            if done(self) {
                return;
            }
            self.step();
            if count % 50 == 49 {
                self.jump(None);
            }
        }
        panic!("never: {what}");
    }

    /// Go on for `duration` of virtual time.
    pub fn rest(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            for _ in 0..20 {
                self.step();
            }
            self.jump(Some(end));
        }
    }

    /// Let time go straight to the next timer, or to `end` where that comes first.
    pub fn jump(&mut self, end: Option<Instant>) {
        let next = [self.stack.next_timer(), self.program.next_timer(self.now), end].into_iter().flatten().min();
        if let Some(at) = next
            && !self.stack.is_pending()
        {
            self.now = self.now.max(at);
        }
    }

    /// Put a new stack, which knows no connection, in the place of the one there is: a worker was replaced.
    /// It has `warm` connections to the first proxy at hand.
    pub fn replace_stack(&mut self, warm: usize) {
        // SAFETY: the descriptor is open; the copy is ours.
        let queue = unsafe { OwnedFd::from_raw_fd(libc::dup(self.stack.as_raw_fd())) };
        self.stats = Arc::default();
        self.roster = Arc::new(roster(&self.proxies, &self.login, self.front.as_ref(), Policy::default()));
        self.stack = stack((queue, SEED), (&self.roster, &self.outside), warm, &self.stats, &self.notes, self.now);
    }

    /// Let the stack resolve names.
    pub fn open_desk(&mut self, names: Names, resolvers: &[Resolver]) {
        self.stack.open_desk(names, resolvers.into());
    }

    /// Put `frame`, whatever it is, on the wire to the stack, as the kernel would.
    pub fn inject(&mut self, frame: &[u8]) {
        assert!(self.program.link.inject(frame), "the wire is full");
    }

    /// Let the program open a connection.
    pub fn connect(&mut self, target: &str, local_port: u16) -> SocketHandle {
        self.program.connect(target.parse().unwrap(), local_port, 1 << 18)
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.program.sockets.get_mut(handle)
    }

    /// Take the next connection that the stack makes to proxy `number`, and its whole request.
    pub fn request(&mut self, number: usize) -> (TcpStream, String) {
        let mut taken = None;
        self.until("a connection to the proxy", |world| {
            taken = world.proxies[number].accept().ok();
            taken.is_some()
        });
        let stream = taken.unwrap().0;
        stream.set_nonblocking(true).unwrap();
        let request = self.next_request(&stream);
        (stream, request)
    }

    /// Take the next whole request that comes by `stream`.
    pub fn next_request(&mut self, stream: &TcpStream) -> String {
        let mut request = Vec::new();
        self.until("a whole request", |_| {
            read_some(stream, &mut request).unwrap();
            request.ends_with(b"\r\n\r\n")
        });
        String::from_utf8(request).unwrap()
    }

    /// Take the next wish for a token, which is `content`; give its number.
    pub fn wish(&mut self, content: &[u8]) -> u64 {
        self.wish_for("token", content)
    }

    /// Take the next wish, which is for a `kind` and says this; give its number.
    pub fn wish_for(&mut self, kind: &str, content: &[u8]) -> u64 {
        let mut taken = Vec::new();
        self.until("a wish", |world| {
            taken = world.outside.wishes.take(1);
            !taken.is_empty()
        });
        assert_eq!((taken[0].kind, taken[0].content.as_slice()), (kind, content));
        taken[0].number
    }

    /// Answer wish `number`.
    pub fn grant(&mut self, number: u64, content: &[u8]) {
        self.give(number, Ok((content.to_vec(), None)));
    }

    /// Answer wish `number`, whatever that is.
    pub fn give(&mut self, number: u64, grant: Grant) {
        self.answer_wish(number, grant);
        self.step();
    }

    /// Answer it, and let nobody act on that yet.
    pub fn answer_wish(&mut self, number: u64, grant: Grant) {
        self.outside.grants.put(number, grant);
        self.stack.take_grants();
    }

    /// Open a connection through the proxy: the program's end and the proxy's.
    pub fn open(&mut self, target: &str, local_port: u16) -> (SocketHandle, TcpStream) {
        let handle = self.connect(target, local_port);
        let (mut stream, _) = self.request(0);
        stream.write_all(GRANT).unwrap();
        self.connected(handle);
        (handle, stream)
    }

    /// Go on until the program's connect() has succeeded.
    pub fn connected(&mut self, handle: SocketHandle) {
        self.until("connected", |world| world.socket(handle).state() == State::Established);
    }

    /// Go on until the program's connection is closed: its connect() has failed, or it was reset.
    pub fn closed(&mut self, handle: SocketHandle) {
        self.until("refused or reset", |world| world.socket(handle).state() == State::Closed);
    }

    /// Check that nothing is left: no flow, no ring, and, when their time has come, no timer.
    pub fn assert_empty(&mut self) {
        self.rest(Duration::from_secs(2));
        self.rest(Duration::from_secs(1200));
        assert_eq!(self.stack.usage(), (0, 0, 0), "flows, timers, rings");
        let gauges = self.stats.snapshot().into_iter().filter(|(name, value)| name.ends_with("_now") && *value != 0);
        assert_eq!(gauges.collect::<Vec<_>>(), []);
    }
}

fn roster(proxies: &[TcpListener], login: &Login, front: Option<&Front>, policy: Policy) -> Roster {
    let address = |proxy: &TcpListener| Proxy { login: login.clone(), ..Proxy::plain(proxy.local_addr().unwrap()) };
    let mut proxies: Vec<Proxy> = proxies.iter().map(address).collect();
    if let Some(front) = front {
        proxies[0].address = front.listener.local_addr().unwrap();
        proxies[0].tls = Some(front.client.clone());
    }
    Roster::new(proxies, policy, Instant::ZERO)
}

fn stack(
    (queue, seed): (OwnedFd, u64),
    (roster, outside): (&Arc<Roster>, &Outside),
    warm: usize,
    stats: &Arc<Stats>,
    notes: &Arc<Notes>,
    now: Instant,
) -> Stack {
    let counted = (Arc::clone(stats), Arc::clone(notes));
    let wishes = Wishes::new(Arc::clone(&outside.wishes), Arc::clone(&outside.grants), 0);
    let mut upstreams = Upstreams::of(Arc::clone(roster), 0, wishes, counted);
    for _ in 0..warm {
        let upstream = upstreams.proxies[0].dial().unwrap();
        upstreams.pool.give(0, upstream, now);
    }
    let shared = Shared::new(upstreams, MEMORY).unwrap();
    Stack::new(Device::new(queue, Arc::clone(stats)), shared, seed, now)
}

pub fn listener() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

fn packet_pair() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for two; both descriptors are new and ours.
    unsafe {
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        assert_eq!(libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()), 0);
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    }
}
