//! One connection: from the held SYN over the proxy's answer to the last acknowledgement.
//!
//! The SYN is held back, not answered, until a proxy has said 2xx: only then does a stack socket with its rings exist,
//! gets the SYN and answers it. So the program's connect() succeeds when the far end was reached, fails when it was
//! not, and a flood of SYNs costs no rings. phase.rs is the table of what may follow what.

use std::os::fd::{AsRawFd, RawFd};

use smoltcp::socket::tcp::State;
use smoltcp::time::{Duration, Instant};

use crate::addresses::Pin;
use crate::approach::{Approach, Granted, Progress, Stage};
use crate::counted::Counted;
use crate::link::{Link, Wire};
use crate::packet::{self, FourTuple, Segment};
use crate::phase::{self, Event, Phase};
use crate::refusal::Refusal;
use crate::relay::End;
use crate::shared::Shared;
use crate::standing::Use;
use crate::upstream::{Ready, Upstream};

/// For each side to take what the other sent before it broke the connection, or ended it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// For a program to learn that its connect() has succeeded, before a RST of the proxy would make it fail after all.
const SETTLE_TIME: Duration = Duration::from_millis(20);

/// A connection.
pub struct Flow {
    syn: Segment,
    /// When that came.
    begun: Instant,
    phase: Phase,
    /// Where it is counted: in its phase.
    counted: Counted,
    upstream: Option<Upstream>,
    /// By which the proxy counts it.
    used: Option<Use>,
    ready: Ready,
    body: Body,
    /// Bytes of the stream that came with the proxy's reply, until there is a socket for them.
    early: Vec<u8>,
    /// Keeps the name that its address stands for where it is, as long as this lives.
    _pin: Option<Pin>,
    /// From when on a RST may be sent to the program.
    settled: Instant,
    deadline: Option<Instant>,
    /// Connections to proxies begun so far.
    pub dials: u32,
    /// The timer entry now live; kept by the stack.
    pub armed: Option<Instant>,
    /// Whether the stack has this flow on its list; kept by the stack.
    pub listed: bool,
}

enum Body {
    /// The way to a 2xx, and the held packet, as the stack will get it.
    Approach(Box<Approach>, Vec<u8>),
    /// There is a 2xx, and the packet is about to be given to a socket.
    Held(Vec<u8>),
    Link(Box<Link>),
    Nothing,
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
        let (target, pin) = match shared.target(syn.tuple.destination) {
            Ok(found) => found,
            Err(refusal) => return refuse_at_once(&refusal, &syn, now, wire, shared),
        };
        let mut approach = Approach::begin(target, now, &mut shared.upstreams);
        let refused = approach.take_refusal();
        let mut flow = Flow {
            syn,
            begun: now,
            phase: Phase::Dialing,
            counted: Counted::begin(&shared.stats),
            upstream: None,
            used: None,
            ready: Ready::default(),
            body: Body::Approach(Box::new(approach), packet.to_vec()),
            early: Vec::new(),
            _pin: pin,
            settled: now,
            deadline: None,
            dials: 0,
            armed: None,
            listed: false,
        };
        flow.follow_stage();
        let Some(refusal) = refused else { return Some(flow) };
        flow.refuse(&refusal, wire, shared);
        None
    }

    /// Give the connection's ends.
    pub fn tuple(&self) -> &FourTuple {
        &self.syn.tuple
    }

    /// Give the descriptor to be watched.
    pub fn descriptor(&self) -> Option<RawFd> {
        match &self.body {
            Body::Approach(approach, _) => approach.descriptor(),
            _ => self.upstream.as_ref().map(AsRawFd::as_raw_fd),
        }
    }

    /// Say whether it waits for a grant.
    pub fn is_wishing(&self) -> bool {
        matches!(&self.body, Body::Approach(approach, _) if approach.is_wishing())
    }

    /// Take note of what the upstream socket is ready for.
    pub fn wake(&mut self, ready: Ready) {
        match &mut self.body {
            Body::Approach(approach, _) => approach.wake(ready),
            _ => self.ready.add(ready),
        }
    }

    /// Say whether the program has reset the connection. In the handshake smoltcp answers that by listening again.
    pub fn is_over(&mut self) -> bool {
        self.link().is_some_and(|link| matches!(link.socket().state(), State::Closed | State::Listen))
    }

    /// Say whether `segment` is the SYN of another connection: a connect() that is given up sends no RST.
    pub fn is_superseded_by(&self, segment: &Segment) -> bool {
        segment.opens() && segment.sequence != self.syn.sequence
    }

    /// Say whether the SYN was answered.
    pub fn is_answered(&self) -> bool {
        matches!(self.body, Body::Link(_))
    }

    /// Give the number with which a program that opens this connection anew proves that it has forgotten it.
    pub fn challenge(&self, shared: &Shared) -> u32 {
        shared.secret(&(self.syn.tuple, self.syn.sequence))
    }

    /// Give the offered packet of `length` bytes to this flow's socket; false where there is none yet.
    pub fn ingress(&mut self, length: usize, now: Instant, wire: &mut Wire) -> bool {
        let Body::Link(link) = &mut self.body else { return false };
        link.ingress(length, now, wire);
        true
    }

    /// Do all that can be done now.
    pub fn serve(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) -> Served {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.give_up_waiting(shared);
        }
        if matches!(self.phase, Phase::Dialing | Phase::Asking) {
            self.come_closer(now, wire, shared);
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

    /// The program has broken the connection, or given up before it was answered: reset the proxy's side.
    pub fn abandon(&mut self, shared: &mut Shared) {
        self.reset_upstream();
        let was_open = self.is_answered();
        let counter = if was_open { &shared.stats.flows_reset_by_client } else { &shared.stats.flows_abandoned };
        counter.up();
        self.step(Event::ClientReset);
        self.release(shared);
    }

    /// Reset both ends: the worker stops.
    pub fn cut(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) {
        match &mut self.body {
            Body::Approach(..) | Body::Held(_) => wire.device.answer(&packet::reset_for(&self.syn)),
            Body::Link(link) => {
                link.socket().abort();
                link.egress(now, wire);
            }
            Body::Nothing => {}
        }
        self.reset_upstream();
        self.release(shared);
    }

    fn reset_upstream(&mut self) {
        self.upstream.take().into_iter().for_each(Upstream::reset);
        if let Body::Approach(approach, _) = &mut self.body {
            approach.abandon();
        }
    }

    fn step(&mut self, event: Event) {
        if let Some(phase) = phase::next(self.phase, event) {
            self.phase = phase;
            self.counted.at(phase);
            // a FIN says that all was sent, so there is none before it was
            if let (Phase::Granted | Phase::BothDone, Some(upstream)) = (phase, &self.upstream) {
                upstream.close_resets(phase == Phase::Granted);
            }
        }
    }

    // The way to a 2xx.

    fn come_closer(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) {
        let Body::Approach(approach, _) = &mut self.body else { return };
        let progress = approach.serve(now, &mut shared.upstreams);
        self.follow_stage();
        match progress {
            Progress::Waiting(deadline) => self.deadline = deadline,
            Progress::Granted(granted) => self.take_over(granted),
            Progress::Refused(refusal) => self.refuse(&refusal, wire, shared),
        }
    }

    /// Be in the phase that the approach has come to.
    fn follow_stage(&mut self) {
        let Body::Approach(approach, _) = &self.body else { return };
        self.dials = approach.dials();
        match (approach.stage(), self.phase) {
            (Stage::Asking, Phase::Dialing) => self.step(Event::Connected),
            (Stage::Dialing | Stage::Securing, Phase::Asking) => self.step(Event::Retry),
            _ => {}
        }
    }

    fn take_over(&mut self, granted: Granted) {
        let Body::Approach(_, packet) = std::mem::replace(&mut self.body, Body::Nothing) else { return };
        (self.upstream, self.ready, self.early) = (Some(granted.upstream), granted.ready, granted.early);
        self.used = granted.used;
        self.body = Body::Held(packet);
        self.deadline = None;
        self.step(Event::Granted);
    }

    fn give_up_waiting(&mut self, shared: &mut Shared) {
        match self.phase {
            Phase::Dialing | Phase::Asking => return, // the approach knows
            Phase::Severed | Phase::Draining => self.abort(),
            Phase::Open | Phase::UpstreamDone => self.abandon(shared),
            Phase::BothDone => self.reset_upstream(), // it does not take the last bytes
            _ => {}
        }
        self.deadline = None;
    }

    /// Refuse the connection to the program.
    fn refuse(&mut self, refusal: &Refusal, wire: &mut Wire, shared: &mut Shared) {
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
        let Some(slot) = shared.take_slot() else { return self.lack_memory(now, wire, shared) };
        let Body::Held(packet) = std::mem::replace(&mut self.body, Body::Nothing) else { return };
        let early = std::mem::take(&mut self.early);
        let mut link = Link::listen(self.syn.tuple.destination, slot, &mut shared.rings, early);
        link.limit_segments(packet::segment_limit(&packet));
        wire.device.offer_again(&packet);
        link.ingress(packet.len(), now, wire);
        let accepted = link.socket().state() == State::SynReceived;
        self.body = Body::Link(Box::new(link));
        if accepted {
            shared.stats.flows_opened.up();
            shared.stats.latency.count(now - self.begun);
            self.settled = now + SETTLE_TIME;
            self.step(Event::Accepted);
        } else {
            // a SYN that the stack does not take: from a group address, say
            shared.stats.bad_packets.up();
            shared.stats.flows_abandoned.up();
            self.upstream = None;
            self.step(Event::ClientReset);
            self.release(shared);
        }
    }

    fn lack_memory(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) {
        let destination = self.syn.tuple.destination;
        let proxy = self.used.as_ref().map_or(destination, |used| used.standing.address);
        shared.upstreams.note_refusal(&Refusal::Memory, &destination.into(), proxy, now);
        self.reset_upstream();
        self.refuse(&Refusal::Memory, wire, shared);
    }

    // Bytes.

    fn relay(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) -> Served {
        self.flush();
        let mut again = self.download(shared);
        again |= self.upload(shared);
        if self.ready.broken && self.phase == Phase::UpstreamDone {
            self.lose_upstream();
        }
        if self.phase == Phase::Draining
            && self.settled <= now
            && self.link().is_some_and(|link| link.socket().send_queue() == 0)
        {
            self.abort();
        }
        let Body::Link(link) = &mut self.body else { return Served::Gone };
        if let Some(used) = &self.used {
            link.tell(&used.standing.tally);
        }
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

    /// Send what TLS has taken and the kernel has not.
    fn flush(&mut self) {
        let Some(upstream) = self.upstream.as_mut().filter(|upstream| upstream.is_pending()) else { return };
        if !self.ready.writable {
            return;
        }
        if self.phase == Phase::BothDone {
            self.deadline = None; // it still takes some
        }
        match upstream.flush() {
            Ok(all) => self.ready.writable = all,
            // reading, which is to come to its end, tells the reason
            Err(_) => self.ready.add(Ready { hangup: true, ..Ready::default() }),
        }
    }

    /// Say whether the proxy has yet to get bytes that nobody else has.
    fn is_pending(&self) -> bool {
        self.upstream.as_ref().is_some_and(Upstream::is_pending)
    }

    /// Move bytes towards the program; says whether there may be more.
    fn download(&mut self, shared: &mut Shared) -> bool {
        let Body::Link(link) = &mut self.body else { return false };
        let upstream =
            self.upstream.as_mut().filter(|_| matches!(self.phase, Phase::Open | Phase::ClientDone | Phase::Severed));
        let end = link.download(upstream, &mut self.ready, &shared.stats);
        match end {
            // the error was told when bytes could not be sent
            End::Eof if self.phase == Phase::Severed => self.lose_upstream(),
            End::Eof => {
                link.socket().close();
                self.step(Event::UpstreamEof);
            }
            End::Broken => self.lose_upstream(),
            End::Empty | End::Full | End::Turn => {}
        }
        end == End::Turn
    }

    /// Move bytes towards the proxy; says whether there may be more.
    fn upload(&mut self, shared: &mut Shared) -> bool {
        let (Body::Link(link), Some(upstream)) = (&mut self.body, &mut self.upstream) else { return false };
        if !matches!(self.phase, Phase::Open | Phase::UpstreamDone) {
            return false;
        }
        let end = link.upload(upstream, &mut self.ready, &shared.stats);
        match end {
            End::Eof => {
                upstream.finish();
                self.step(Event::ClientFin);
            }
            End::Broken if self.phase == Phase::Open => {
                // what the proxy sent before is still to be read
                self.ready.add(Ready { hangup: true, ..Ready::default() });
                self.step(Event::SendFailed);
                return true;
            }
            End::Broken => self.lose_upstream(),
            End::Full | End::Empty | End::Turn => {}
        }
        end == End::Turn
    }

    /// The proxy broke the connection: let the program have what came before, then a RST.
    fn lose_upstream(&mut self) {
        self.upstream = None;
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
        let (state, can_recv) = (socket.state(), socket.can_recv());
        let pending = self.is_pending();
        // bytes behind a FIN, which no sane program sends and the stack takes, are for nobody
        let unread = can_recv && matches!(self.phase, Phase::Open | Phase::UpstreamDone);
        match self.phase {
            Phase::Resetting if settled => {
                shared.stats.flows_reset_by_proxy.up();
                self.step(Event::Sent);
            }
            Phase::BothDone if pending => {}
            Phase::BothDone if state == State::Closed || (state == State::TimeWait && settled) => {
                shared.stats.flows_finished.up();
                shared.remember(&self.syn.tuple);
                self.step(Event::Finished);
            }
            Phase::BothDone => self.upstream = None,
            // what came before a RST is for the proxy; what came before the last FIN, all the more
            Phase::Resetting => {}
            _ if matches!(state, State::Closed | State::Listen) && !unread => self.abandon(shared),
            _ => {}
        }
    }

    /// Give the time of the stack's next timer, and set the deadline of a phase that has one.
    fn next_look(&mut self, now: Instant, wire: &mut Wire) -> Option<Instant> {
        let breaking = matches!(self.phase, Phase::Severed | Phase::Draining);
        let waits_for_proxy = self.phase == Phase::BothDone && self.is_pending();
        if (breaking || waits_for_proxy || self.is_over()) && self.deadline.is_none() {
            self.deadline = Some(now + DRAIN_TIMEOUT);
        }
        let settled = Some(self.settled).filter(|&settled| breaking && settled > now);
        let timer = self.link().and_then(|link| link.next_timer(now, wire));
        [timer, self.deadline, settled].into_iter().flatten().min()
    }

    fn link(&mut self) -> Option<&mut Link> {
        match &mut self.body {
            Body::Link(link) => Some(link),
            _ => None,
        }
    }

    /// Give back everything.
    fn release(&mut self, shared: &mut Shared) {
        (self.upstream, self.used) = (None, None);
        self.phase = Phase::Gone;
        self.counted.at(Phase::Gone);
        match std::mem::replace(&mut self.body, Body::Nothing) {
            Body::Link(link) => link.release(&mut shared.rings),
            Body::Approach(mut approach, _) => approach.forget(&mut shared.upstreams),
            Body::Held(_) | Body::Nothing => {}
        }
    }
}

/// Refuse a connection for which no proxy need be asked.
fn refuse_at_once(
    refusal: &Refusal,
    syn: &Segment,
    now: Instant,
    wire: &mut Wire,
    shared: &mut Shared,
) -> Option<Flow> {
    drop(Counted::begin(&shared.stats));
    let destination = syn.tuple.destination; // nobody else is spoken of
    shared.upstreams.note_refusal(refusal, &destination.into(), destination, now);
    refusal.counter(&shared.stats).up();
    wire.device.answer(&packet::reset_for(syn));
    None
}
