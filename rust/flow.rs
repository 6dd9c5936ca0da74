//! One connection: from the held SYN over the proxy's answer to the last acknowledgement.
//!
//! The SYN is held back, not answered, until a proxy has said 2xx: only then does a stack socket with its rings exist,
//! gets the SYN and answers it. So the program's connect() succeeds when the far end was reached, fails when it was
//! not, and a flood of SYNs costs no rings. phase.rs is the table of what may follow what.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

use smoltcp::iface::{Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{IpAddress, IpListenEndpoint};

use crate::connect::{self, Connect, Verdict};
use crate::device::Device;
use crate::packet::{self, FourTuple, Segment};
use crate::phase::{self, Event, Phase};
use crate::refusal::Refusal;
use crate::relay::{self, End};
use crate::rings::Slot;
use crate::shared::Shared;
use crate::upstream::Upstream;

/// For all connects of one flow together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT_MIN: Duration = Duration::from_secs(2);
/// From the request to the end of the reply's header.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// For a program to take what the proxy sent before it broke the connection.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// When a client that says nothing is asked whether it is there, and when it is given up (it may be a container that
/// vanished, which no kernel tells us).
const KEEP_ALIVE: Duration = Duration::from_secs(300);
const CLIENT_TIMEOUT: Duration = Duration::from_secs(900);
/// A reply's header mostly fits; more comes in pieces.
const SCRATCH: usize = 8 * 1024;

/// The stack's interface and its queue: what packets go through.
pub struct Wire {
    pub interface: Interface,
    pub device: Device,
}

/// What an upstream socket is ready for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ready {
    pub readable: bool,
    pub writable: bool,
    /// The far end has sent its last byte, or the connection is broken.
    pub hangup: bool,
    pub broken: bool,
}

/// A connection.
pub struct Flow {
    syn: Segment,
    phase: Phase,
    upstream: Option<Upstream>,
    ready: Ready,
    body: Body,
    deadline: Option<Instant>,
    /// The timer entry now live; kept by the stack.
    pub armed: Option<Instant>,
    /// Whether the stack has this flow on its list; kept by the stack.
    pub listed: bool,
}

enum Body {
    Attempt(Box<Attempt>),
    Link(Box<Link>),
    Nothing,
}

/// The way to a 2xx.
struct Attempt {
    /// The held packet, as the stack will get it.
    packet: Vec<u8>,
    /// The proxy tried first, how many were tried, and the one of this attempt.
    first: usize,
    tried: usize,
    proxy: usize,
    request: Vec<u8>,
    sent: usize,
    connect: Connect,
    /// Bytes of the stream that came with the reply.
    early: Vec<u8>,
}

/// The stack's end of an open connection.
struct Link {
    set: SocketSet<'static>,
    handle: SocketHandle,
    slot: Option<Slot>,
    early: Vec<u8>,
    up: u64,
    down: u64,
}

/// What the stack is to do with a flow that was served.
#[derive(Debug, PartialEq, Eq)]
pub enum Served {
    /// Wait for an event, or for this time.
    Until(Option<Instant>),
    /// Serve again soon: there is more, but others come first.
    Again,
    /// Serve again when the TUN takes packets.
    Blocked,
    /// It has ended.
    Gone,
}

impl Flow {
    /// Begin with a SYN, `packet`: dial the first proxy. None when that was refused, and answered, at once.
    pub fn begin(syn: Segment, packet: &[u8], now: Instant, wire: &mut Wire, shared: &mut Shared) -> Option<Flow> {
        let attempt = Attempt {
            packet: packet.to_vec(),
            first: shared.preferred_proxy(now),
            tried: 0,
            proxy: 0,
            request: Vec::new(),
            sent: 0,
            connect: Connect::default(),
            early: Vec::new(),
        };
        let mut flow = Flow {
            syn,
            phase: Phase::Dialing,
            upstream: None,
            ready: Ready::default(),
            body: Body::Attempt(Box::new(attempt)),
            deadline: None,
            armed: None,
            listed: false,
        };
        shared.stats.flows_connecting_now.up();
        flow.dial(now, wire, shared);
        (flow.phase != Phase::Gone).then_some(flow)
    }

    /// Give the connection's ends.
    pub fn tuple(&self) -> &FourTuple {
        &self.syn.tuple
    }

    /// Give the descriptor to be watched.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.upstream.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Take note of what the upstream socket is ready for.
    pub fn wake(&mut self, ready: Ready) {
        self.ready.readable |= ready.readable | ready.hangup;
        self.ready.writable |= ready.writable | ready.hangup;
        self.ready.hangup |= ready.hangup;
        self.ready.broken |= ready.broken;
    }

    /// Give the offered packet to this flow's socket; false where there is none yet.
    pub fn ingress(&mut self, now: Instant, wire: &mut Wire) -> bool {
        let Body::Link(link) = &mut self.body else { return false };
        wire.interface.poll_ingress_single(now, &mut wire.device, &mut link.set);
        true
    }

    /// Do all that can be done now.
    pub fn serve(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) -> Served {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.give_up_waiting(now, wire, shared);
        }
        if self.phase == Phase::Dialing {
            self.await_connect(now, wire, shared);
        }
        if self.phase == Phase::Asking {
            self.ask(now, wire, shared);
        }
        if self.phase == Phase::Granted {
            self.accept(now, wire, shared);
        }
        match self.phase {
            Phase::Dialing | Phase::Asking => Served::Until(self.deadline),
            Phase::Granted => Served::Blocked,
            Phase::Gone => Served::Gone,
            _ => self.relay(now, wire, shared),
        }
    }

    /// Reset both ends: the worker stops.
    pub fn cut(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) {
        match &mut self.body {
            Body::Attempt(_) => wire.device.answer(&packet::reset_for(&self.syn)),
            Body::Link(link) => {
                link.socket().abort();
                wire.interface.poll_egress(now, &mut wire.device, &mut link.set);
            }
            Body::Nothing => {}
        }
        self.release(shared);
    }

    fn step(&mut self, event: Event) {
        if let Some(phase) = phase::next(self.phase, event) {
            self.phase = phase;
        }
    }

    // The way to a 2xx.

    fn dial(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) {
        let Body::Attempt(attempt) = &mut self.body else { return };
        attempt.proxy = (attempt.first + attempt.tried) % shared.proxies.len();
        attempt.tried += 1;
        let proxy = &shared.proxies[attempt.proxy];
        attempt.request = connect::request(self.syn.tuple.destination, &proxy.authorization);
        (attempt.sent, attempt.connect) = (0, Connect::default());
        self.ready = Ready::default();
        match Upstream::dial(proxy.address) {
            Ok(upstream) => {
                self.upstream = Some(upstream);
                let share = CONNECT_TIMEOUT / shared.proxies.len() as u32;
                self.deadline = Some(now + share.max(CONNECT_TIMEOUT_MIN));
                self.send_request(now, wire, shared);
            }
            Err(error) => self.fail(Refusal::of_dial(error), now, wire, shared),
        }
    }

    fn await_connect(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) {
        if !self.ready.writable {
            return;
        }
        match self.upstream.as_ref().map(Upstream::outcome) {
            Some(Ok(())) => self.send_request(now, wire, shared),
            Some(Err(error)) => self.fail(Refusal::of_dial(error), now, wire, shared),
            None => {}
        }
    }

    /// Send what the kernel takes of the request. The first byte taken tells that the connection is there.
    fn send_request(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) {
        let (Body::Attempt(attempt), Some(upstream)) = (&mut self.body, &self.upstream) else { return };
        match upstream.send(&attempt.request[attempt.sent..]) {
            Ok(sent) => {
                attempt.sent += sent;
                if self.phase == Phase::Dialing {
                    self.deadline = Some(now + REPLY_TIMEOUT);
                    self.step(Event::Connected);
                }
            }
            Err(error) if is_later(error.kind()) => self.ready.writable = false,
            Err(error) if self.phase == Phase::Dialing => self.fail(Refusal::of_dial(error), now, wire, shared),
            Err(_) => self.fail(Refusal::Closed, now, wire, shared),
        }
    }

    fn ask(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) {
        if let Body::Attempt(attempt) = &self.body
            && attempt.sent < attempt.request.len()
            && self.ready.writable
        {
            self.send_request(now, wire, shared);
        }
        while self.phase == Phase::Asking && self.ready.readable {
            self.read_reply(now, wire, shared);
        }
    }

    fn read_reply(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) {
        let (Body::Attempt(attempt), Some(upstream)) = (&mut self.body, &self.upstream) else { return };
        let mut scratch = [0; SCRATCH];
        let received = match upstream.receive(&mut scratch) {
            Ok(0) => return self.fail(Refusal::Closed, now, wire, shared),
            Ok(received) => received,
            Err(error) if is_later(error.kind()) => {
                self.ready.readable = false;
                return;
            }
            Err(_) => return self.fail(Refusal::Closed, now, wire, shared),
        };
        match attempt.connect.feed(&scratch[..received]) {
            Verdict::More => {}
            Verdict::Open { rest } => {
                attempt.early = scratch[rest..received].to_vec();
                self.deadline = None;
                self.step(Event::Granted);
            }
            Verdict::Refused { status, reason } => self.fail(Refusal::Status(status, reason), now, wire, shared),
            Verdict::Bad(why) => self.fail(Refusal::Garbage(why), now, wire, shared),
        }
    }

    fn give_up_waiting(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) {
        self.deadline = None;
        match self.phase {
            Phase::Dialing => self.fail(Refusal::Timeout("did not accept a connection"), now, wire, shared),
            Phase::Asking => self.fail(Refusal::Timeout("did not answer"), now, wire, shared),
            Phase::Draining => self.abort(),
            _ => {}
        }
    }

    /// Go on to the next proxy, or refuse the connection to the program.
    fn fail(&mut self, refusal: Refusal, now: Instant, wire: &mut Wire, shared: &mut Shared) {
        let Body::Attempt(attempt) = &self.body else { return };
        let (proxy, tried) = (attempt.proxy, attempt.tried);
        shared.note_refusal(&refusal, self.syn.tuple.destination, proxy, now);
        if let Some(upstream) = self.upstream.take() {
            upstream.reset();
        }
        if refusal.is_worth_another_proxy() && tried < shared.proxies.len() {
            shared.stats.proxy_failovers.up();
            self.step(Event::Retry);
            return self.dial(now, wire, shared);
        }
        refusal.counter(&shared.stats).up();
        wire.device.answer(&packet::reset_for(&self.syn));
        self.step(Event::Failed);
        self.release(shared);
    }

    /// Give the held SYN to a socket of its own, which answers it.
    fn accept(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) {
        if wire.device.is_stuck() {
            return;
        }
        let Some(slot) = shared.take_slot() else { return self.fail(Refusal::Memory, now, wire, shared) };
        // SAFETY: this flow has taken the slot, and `release` drops the socket before it puts the slot back.
        let (up, down) = unsafe { shared.rings.slices(&slot) };
        let socket = listening_socket(up, down, self.syn.tuple.destination);
        let Body::Attempt(attempt) = std::mem::replace(&mut self.body, Body::Nothing) else { return };
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let handle = set.add(socket);
        wire.device.offer_again(&attempt.packet);
        wire.interface.poll_ingress_single(now, &mut wire.device, &mut set);
        let accepted = set.get::<Socket<'_>>(handle).state() == State::SynReceived;
        self.body = Body::Link(Box::new(Link { set, handle, slot: Some(slot), early: attempt.early, up: 0, down: 0 }));
        shared.stats.flows_connecting_now.down();
        shared.stats.flows_open_now.up();
        if accepted {
            shared.stats.flows_opened.up();
            self.step(Event::Accepted);
        } else {
            // a SYN that the stack does not take: from a group address, say
            shared.stats.bad_packets.up();
            self.step(Event::Failed);
            self.release(shared);
        }
    }

    // Bytes.

    fn relay(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) -> Served {
        let mut again = self.download(shared);
        again |= self.upload(shared);
        if self.ready.broken && self.phase == Phase::UpstreamDone {
            self.lose_upstream(shared);
        }
        if self.phase == Phase::Draining && self.link().is_some_and(|link| link.socket().send_queue() == 0) {
            self.abort();
        }
        let Body::Link(link) = &mut self.body else { return Served::Gone };
        let settled = link.egress(now, wire);
        self.look_for_the_end(settled, shared);
        if self.phase == Phase::Gone {
            self.release(shared);
            return Served::Gone;
        }
        match (wire.device.is_stuck(), again) {
            (true, _) => Served::Blocked,
            (false, true) => Served::Again,
            (false, false) => Served::Until(self.next_look(now, wire)),
        }
    }

    /// Move bytes towards the program; says whether there may be more.
    fn download(&mut self, shared: &mut Shared) -> bool {
        let Body::Link(link) = &mut self.body else { return false };
        let socket = link.set.get_mut::<Socket<'_>>(link.handle);
        if !link.early.is_empty() {
            let taken = socket.send_slice(&link.early).unwrap_or(0);
            link.early.drain(..taken);
            link.down += taken as u64;
            shared.stats.bytes_down.add(taken as u64);
        }
        let giving = matches!(self.phase, Phase::Open | Phase::ClientDone);
        let (true, true, Some(upstream)) = (giving && link.early.is_empty(), self.ready.readable, &self.upstream)
        else {
            return false;
        };
        if !socket.can_send() {
            return false;
        }
        let (moved, end) = relay::download(socket, upstream, self.ready.hangup);
        link.down += moved as u64;
        shared.stats.bytes_down.add(moved as u64);
        match end {
            End::Empty => self.ready.readable = false,
            End::Eof => {
                socket.close();
                self.step(Event::UpstreamEof);
            }
            End::Broken => self.lose_upstream(shared),
            End::Full | End::Turn => {}
        }
        end == End::Turn
    }

    /// Move bytes towards the proxy; says whether there may be more.
    fn upload(&mut self, shared: &mut Shared) -> bool {
        let Body::Link(link) = &mut self.body else { return false };
        let taking = matches!(self.phase, Phase::Open | Phase::UpstreamDone);
        let (true, true, Some(upstream)) = (taking, self.ready.writable, &self.upstream) else { return false };
        let socket = link.set.get_mut::<Socket<'_>>(link.handle);
        if socket.state() == State::SynReceived {
            return false;
        }
        let (moved, end) = relay::upload(socket, upstream);
        link.up += moved as u64;
        shared.stats.bytes_up.add(moved as u64);
        match end {
            End::Full => self.ready.writable = false,
            End::Eof => {
                upstream.finish();
                self.step(Event::ClientFin);
            }
            End::Broken => self.lose_upstream(shared),
            End::Empty | End::Turn => {}
        }
        end == End::Turn
    }

    /// The proxy broke the connection: let the program have what came before, then a RST.
    fn lose_upstream(&mut self, shared: &mut Shared) {
        shared.stats.flows_reset_by_proxy.up();
        self.upstream = None;
        self.deadline = None;
        self.step(Event::UpstreamReset);
    }

    fn abort(&mut self) {
        if let Body::Link(link) = &mut self.body {
            link.socket().abort();
        }
        self.step(Event::Drained);
    }

    /// `settled`: the stack has nothing left to send now.
    fn look_for_the_end(&mut self, settled: bool, shared: &mut Shared) {
        let Some(link) = self.link() else { return };
        let socket = link.socket();
        let (state, unread) = (socket.state(), socket.can_recv());
        match self.phase {
            Phase::Resetting if settled => self.step(Event::Sent),
            Phase::BothDone if state == State::Closed || (state == State::TimeWait && settled) => {
                shared.stats.flows_finished.up();
                shared.remember(&self.syn.tuple);
                self.step(Event::Finished);
            }
            Phase::BothDone => self.upstream = None,
            // what came before a RST is for the proxy; what came before the last FIN, all the more
            Phase::Resetting => {}
            _ if state == State::Closed && !unread => {
                shared.stats.flows_reset_by_client.up();
                self.step(Event::ClientReset);
                if let Some(upstream) = self.upstream.take() {
                    upstream.reset();
                }
            }
            _ => {}
        }
    }

    /// Give the time of the stack's next timer, and set the deadline of a phase that has one.
    fn next_look(&mut self, now: Instant, wire: &mut Wire) -> Option<Instant> {
        if self.phase == Phase::Draining && self.deadline.is_none() {
            self.deadline = Some(now + DRAIN_TIMEOUT);
        }
        let Body::Link(link) = &mut self.body else { return self.deadline };
        if link.socket().state() == State::TimeWait {
            return self.deadline;
        }
        // A timer that is due though nothing could be sent would be due for ever.
        let timer = wire.interface.poll_at(now, &link.set).map(|at| at.max(now + Duration::from_millis(1)));
        match (timer, self.deadline) {
            (Some(timer), Some(deadline)) => Some(timer.min(deadline)),
            (timer, deadline) => timer.or(deadline),
        }
    }

    fn link(&mut self) -> Option<&mut Link> {
        match &mut self.body {
            Body::Link(link) => Some(link),
            _ => None,
        }
    }

    /// Give back everything.
    fn release(&mut self, shared: &mut Shared) {
        self.upstream = None;
        self.phase = Phase::Gone;
        match std::mem::replace(&mut self.body, Body::Nothing) {
            Body::Attempt(_) => shared.stats.flows_connecting_now.down(),
            Body::Link(link) => {
                let Link { set, slot, up, down, .. } = *link;
                drop(set);
                if let Some(slot) = slot {
                    shared.rings.put(slot, up.max(down) as usize);
                }
                shared.stats.flows_open_now.down();
            }
            Body::Nothing => {}
        }
    }
}

impl Link {
    fn socket(&mut self) -> &mut Socket<'static> {
        self.set.get_mut(self.handle)
    }

    /// Let the stack send what it can; says whether it has nothing left to send now.
    fn egress(&mut self, now: Instant, wire: &mut Wire) -> bool {
        // In TIME-WAIT the stack would forget what the program sent, in its own time; so it is not asked.
        while !self.is_resting(now, wire)
            && wire.interface.poll_egress(now, &mut wire.device, &mut self.set) != PollResult::None
        {}
        !wire.device.is_stuck()
    }

    fn is_resting(&mut self, now: Instant, wire: &mut Wire) -> bool {
        self.socket().state() == State::TimeWait && wire.interface.poll_at(now, &self.set).is_none_or(|at| at > now)
    }
}

fn is_later(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn listening_socket(up: &'static mut [u8], down: &'static mut [u8], target: SocketAddr) -> Socket<'static> {
    let mut socket = Socket::new(SocketBuffer::new(up), SocketBuffer::new(down));
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket.set_keep_alive(Some(KEEP_ALIVE));
    socket.set_timeout(Some(CLIENT_TIMEOUT));
    let endpoint = IpListenEndpoint { addr: Some(IpAddress::from(target.ip())), port: target.port() };
    // fails only for port 0, which the stack refuses before there is a flow
    let _ = socket.listen(endpoint);
    socket
}
