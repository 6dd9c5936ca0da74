//! All connections of one TUN queue: four-tuple to flow, and which of them want to be served.
//!
//! One smoltcp interface serves all, but each flow has a socket set of its own, and packets are handed to that set
//! alone: smoltcp looks at every socket of a set for every packet. Pure of waiting: the caller says what is ready and
//! what time it is, and watches the descriptors that `dials` gives.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use smoltcp::iface::{Config, Interface};
use smoltcp::time::Instant;
use smoltcp::wire::HardwareAddress;

use crate::datagram::Datagram;
use crate::desk::{self, Desk, Heeded};
use crate::device::Device;
use crate::errand::{self, Errands};
use crate::flow::{Flow, Served};
use crate::link::Wire;
use crate::lookups::Asker;
use crate::names::Names;
use crate::naming::Resolver;
use crate::packet::{self, FourTuple, Peek, Segment, flag};
use crate::probe::Probe;
use crate::sessions::Sessions;
use crate::shared::Shared;
use crate::timer::Timers;
use crate::upstream::Ready;

/// See the head of this file.
pub struct Stack {
    wire: Wire,
    shared: Shared,
    flows: Vec<Place>,
    free: Vec<u32>,
    table: HashMap<FourTuple, u32>,
    /// Flows to serve, by index; each at most once.
    list: Vec<u32>,
    /// Flows to serve when the TUN takes packets again.
    blocked: Vec<u32>,
    timers: Timers,
    /// Flows that wait for a grant, by index; some may no longer.
    wishing: Vec<u32>,
    errands: Errands,
    sessions: Sessions,
    dials: Vec<(RawFd, u64)>,
    second: Second,
}

/// A place for a flow; `turn` tells its inhabitants apart.
#[derive(Default)]
struct Place {
    turn: u32,
    flow: Option<Box<Flow>>,
    /// The second in which the flow was last served.
    served: i64,
}

/// How many flows were served in this second, and in the one before.
#[derive(Default)]
struct Second {
    number: i64,
    flows: u32,
    before: u32,
}

impl Stack {
    /// Begin without connections. `seed` makes sequence numbers hard to guess.
    pub fn new(mut device: Device, shared: Shared, seed: u64, now: Instant) -> Stack {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, now);
        interface.set_any_ip(true);
        Stack {
            wire: Wire { interface, device },
            shared,
            flows: Vec::new(),
            free: Vec::new(),
            table: HashMap::new(),
            list: Vec::new(),
            blocked: Vec::new(),
            timers: Timers::default(),
            wishing: Vec::new(),
            errands: Errands::default(),
            sessions: Sessions::default(),
            dials: Vec::new(),
            second: Second::default(),
        }
    }

    /// Resolve names here from now on.
    pub fn open_desk(&mut self, names: Names, resolvers: Arc<[Resolver]>) {
        self.shared.open_desk(names, resolvers);
    }

    /// Read one packet from the TUN and act on it; false when there is none. Errors mean that the TUN is gone.
    pub fn read_packet(&mut self, now: Instant) -> io::Result<bool> {
        if self.wire.device.is_stuck() {
            return Ok(false); // the answer to it could not be written
        }
        match self.wire.device.read()? {
            None => return Ok(false),
            Some(Peek::Tcp { segment, packet }) => self.take_segment(segment, packet, now),
            Some(Peek::Other) => self.take_other(now),
            Some(Peek::Bad) => self.shared.stats.bad_packets.up(),
        }
        Ok(true)
    }

    /// A packet that is not TCP: a question to a resolver, or nothing that can be carried.
    fn take_other(&mut self, now: Instant) {
        if let Some(desk) = &mut self.shared.desk
            && let Some(datagram) = self.wire.device.datagram()
            && datagram.destination.port() == desk::PORT
        {
            let (program, resolver) = (datagram.source, datagram.destination);
            if let Heeded::Answer(answer) = desk.hear(Asker::Datagram { program, resolver }, datagram.payload, now) {
                self.answer_datagram(program, resolver, &answer);
            }
            return;
        }
        self.shared.stats.not_tcp.up();
        if let Some(answer) = packet::unreachable_for(self.wire.device.other()) {
            self.wire.device.answer(&answer);
        }
    }

    fn answer_datagram(&mut self, program: SocketAddr, resolver: SocketAddr, answer: &[u8]) {
        let datagram = Datagram { source: resolver, destination: program, payload: answer };
        self.wire.device.answer(&datagram.packet());
    }

    fn take_segment(&mut self, segment: Segment, packet: std::ops::Range<usize>, now: Instant) {
        let to_desk = segment.tuple.destination.port() == desk::PORT && self.sessions.has(&segment.tuple);
        if to_desk && self.sessions.take(&segment, packet.clone(), now, &mut self.wire, &mut self.shared) {
            return;
        }
        let Some(&index) = self.table.get(&segment.tuple) else { return self.take_unknown(segment, packet, now) };
        let Some(flow) = self.flows[index as usize].flow.as_mut() else { return };
        if segment.opens() && flow.is_over() {
            // the program has reset it and uses its port again, before the proxy was told
            self.table.remove(&segment.tuple);
            return self.begin(segment, packet, now);
        }
        if flow.is_answered() && flow.is_superseded_by(&segment) {
            // a machine that has forgotten the connection: smoltcp 0.14 would not answer, and the SYN would come in vain
            let challenge = packet::challenge_for(&segment, flow.challenge(&self.shared));
            return self.wire.device.answer(&challenge);
        }
        if segment.has(flag::RST) && segment.sequence == flow.challenge(&self.shared) {
            flow.abandon(&mut self.shared);
            return self.forget(index);
        }
        let fin_apart = segment.has(flag::FIN) && segment.payload > 0;
        let fin = fin_apart.then(|| self.wire.device.set_fin_apart(packet.clone()));
        self.wire.device.offer(packet.clone());
        if flow.ingress(packet.len(), now, &mut self.wire) {
            if let Some(fin) = fin {
                self.wire.device.offer_again(&fin);
                flow.ingress(fin.len(), now, &mut self.wire);
            }
            self.enlist(index);
        } else if segment.has(flag::RST) || flow.is_superseded_by(&segment) {
            flow.abandon(&mut self.shared);
            self.forget(index);
            if segment.opens() {
                self.begin(segment, packet, now);
            }
        }
    }

    fn take_unknown(&mut self, segment: Segment, packet: std::ops::Range<usize>, now: Instant) {
        if segment.has(flag::RST) {
            return;
        }
        if segment.opens() && segment.tuple.destination.port() != 0 {
            return self.begin(segment, packet, now);
        }
        self.shared.stats.unknown_segments.up();
        let late_fin = segment.has(flag::FIN | flag::ACK) && self.shared.ended_lately(&segment.tuple);
        let answer = if late_fin { packet::acknowledgement_for(&segment) } else { packet::reset_for(&segment) };
        self.wire.device.answer(&answer);
    }

    fn begin(&mut self, syn: Segment, packet: std::ops::Range<usize>, now: Instant) {
        if self.shared.desk.is_some() && syn.tuple.destination.port() == desk::PORT {
            return self.sessions.begin(syn, packet, now, &mut self.wire, &mut self.shared);
        }
        let bytes = self.wire.device.bytes(packet).to_vec();
        let Some(flow) = Flow::begin(syn, &bytes, now, &mut self.wire, &mut self.shared) else { return };
        let index = self.free.pop().unwrap_or_else(|| {
            self.flows.push(Place::default());
            self.flows.len() as u32 - 1
        });
        self.table.insert(syn.tuple, index);
        let place = &mut self.flows[index as usize];
        place.flow = Some(Box::new(flow));
        self.watch(index, 0);
        self.enlist(index);
    }

    /// Ask the caller to watch the flow's descriptor, if it has dialled since its `known` dials. The number of the
    /// descriptor would not tell: the kernel gives that of the one just closed again.
    fn watch(&mut self, index: u32, known: u32) {
        let place = &self.flows[index as usize];
        if let Some(flow) = &place.flow
            && flow.dials != known
            && let Some(fd) = flow.descriptor()
        {
            self.dials.push((fd, token(place.turn, index)));
        }
    }

    /// Give descriptors that are new, each with the token under which to report what it is ready for.
    pub fn dials(&mut self) -> std::vec::Drain<'_, (RawFd, u64)> {
        self.dials.drain(..)
    }

    /// Take note of what a descriptor is ready for. A token of a flow that has ended is no error.
    pub fn wake(&mut self, token: u64, ready: Ready) {
        if token & errand::TOKEN != 0 {
            return self.errands.wake(token, ready);
        }
        let index = token as u32;
        if let Some(place) = self.flows.get_mut(index as usize)
            && place.turn == (token >> 32) as u32
            && let Some(flow) = &mut place.flow
        {
            flow.wake(ready);
            self.enlist(index);
        }
    }

    /// The bell has rung: let those who wait for a grant look whether it has come.
    pub fn take_grants(&mut self) {
        if self.shared.upstreams.wishes.fetch() {
            for index in std::mem::take(&mut self.wishing) {
                self.enlist(index);
            }
            self.errands.wake_all();
        }
    }

    /// Say whether a packet waits for the TUN to take it.
    pub fn is_stuck(&self) -> bool {
        self.wire.device.is_stuck()
    }

    /// The TUN takes packets again.
    pub fn unstick(&mut self) {
        if self.wire.device.flush() {
            for index in std::mem::take(&mut self.blocked) {
                self.enlist(index);
            }
            self.sessions.wake_all();
        }
    }

    /// Serve every flow that something happened to, once.
    pub fn serve(&mut self, now: Instant) {
        while let Some((at, token)) = self.timers.expired(now) {
            self.expire(at, token);
        }
        self.second.turn(now, &mut self.shared.busy);
        for index in std::mem::take(&mut self.list) {
            self.serve_one(index, now);
        }
        self.timers.tidy(self.flows.len() - self.free.len(), |at, token| armed(&self.flows, token) == Some(at));
        self.sessions.serve(now, &mut self.wire, &mut self.shared); // before those that ask resolvers
        self.run_errands(now);
        self.deliver_answers(now);
        self.shared.upstreams.tend_pool(now);
    }

    fn run_errands(&mut self, now: Instant) {
        if self.shared.desk.as_mut().is_some_and(Desk::any_unsent) {
            self.errands.wake_all();
        }
        for errand in self.shared.errands.drain(..) {
            self.errands.add(errand);
        }
        while let Some(standing) = self.shared.upstreams.due_probe(now) {
            self.errands.add(Box::new(Probe::begin(standing, now, &mut self.shared.upstreams)));
        }
        self.errands.serve(now, &mut self.wire, &mut self.shared, &mut self.dials);
    }

    /// Pass on what resolvers have answered.
    fn deliver_answers(&mut self, now: Instant) {
        let Some(desk) = &mut self.shared.desk else { return };
        desk.look(now);
        if let Some(enquiry) = desk.connect(now, &mut self.shared.upstreams) {
            self.shared.errands.push(Box::new(enquiry));
        }
        for (asker, answer) in desk.lookups.take_answered() {
            match asker {
                Asker::Datagram { program, resolver } => self.answer_datagram(program, resolver, &answer),
                Asker::Session(number) => self.sessions.deliver(number, &answer),
            }
        }
    }

    fn expire(&mut self, at: Instant, token: u64) {
        if armed(&self.flows, token) == Some(at)
            && let Some(flow) = &mut self.flows[token as u32 as usize].flow
        {
            flow.armed = None;
            self.enlist(token as u32);
        }
    }

    fn serve_one(&mut self, index: u32, now: Instant) {
        let place = &mut self.flows[index as usize];
        let Some(flow) = &mut place.flow else { return };
        self.second.count(&mut place.served);
        flow.listed = false;
        let known = flow.dials;
        match flow.serve(now, &mut self.wire, &mut self.shared) {
            Served::Until(Some(at)) => {
                flow.armed = Some(self.timers.arm(token(place.turn, index), at, flow.armed));
            }
            Served::Until(None) => {}
            Served::Again => self.enlist(index),
            Served::Blocked => self.blocked.push(index),
            Served::Gone => return self.forget(index),
        }
        if self.flows[index as usize].flow.as_ref().is_some_and(|flow| flow.is_wishing()) {
            self.wishing.push(index);
        }
        self.watch(index, known);
    }

    /// Say whether `serve` has something to do already.
    pub fn is_pending(&self) -> bool {
        !self.list.is_empty()
            || self.errands.is_pending()
            || !self.shared.errands.is_empty()
            || self.sessions.is_pending()
    }

    /// Give the time at which `serve` will have something to do.
    pub fn next_timer(&self) -> Option<Instant> {
        let (shared, upstreams) = (&self.shared, &self.shared.upstreams);
        let lookups = shared.desk.as_ref().and_then(|desk| desk.lookups.next());
        let flows = [self.timers.next(), upstreams.pool.next(), upstreams.next_probe(), self.errands.next()];
        flows.into_iter().chain([self.sessions.next(), lookups]).flatten().min()
    }

    /// Reset every connection.
    pub fn cut_all(&mut self, now: Instant) {
        for place in &mut self.flows {
            if let Some(mut flow) = place.flow.take() {
                flow.cut(now, &mut self.wire, &mut self.shared);
            }
        }
        self.table.clear();
        self.sessions.cut_all(now, &mut self.wire, &mut self.shared);
    }

    fn enlist(&mut self, index: u32) {
        if let Some(flow) = &mut self.flows[index as usize].flow
            && !flow.listed
        {
            flow.listed = true;
            self.list.push(index);
        }
    }

    fn forget(&mut self, index: u32) {
        let place = &mut self.flows[index as usize];
        if let Some(flow) = place.flow.take()
            && self.table.get(flow.tuple()) == Some(&index)
        {
            self.table.remove(flow.tuple());
        }
        place.turn = place.turn.wrapping_add(1);
        self.free.push(index);
    }

    /// Take in an errand; it is served in the next round.
    pub fn add_errand(&mut self, errand: Box<dyn errand::Errand + Send>) {
        self.errands.add(errand);
    }

    /// Give the number of flows, of timers, and of slots in use.
    pub fn usage(&self) -> (usize, usize, usize) {
        (self.flows.len() - self.free.len(), self.timers.len(), self.shared.rings.used())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.flows.clear(); // before the rings that their sockets use
        self.sessions = Sessions::default();
    }
}

impl AsRawFd for Stack {
    fn as_raw_fd(&self) -> RawFd {
        self.wire.device.as_raw_fd()
    }
}

impl Second {
    /// Go on to the second of `now`; `busy` becomes the larger count of this and the last one.
    fn turn(&mut self, now: Instant, busy: &mut u32) {
        if now.secs() != self.number {
            (self.number, self.before, self.flows) = (now.secs(), self.flows, 0);
        }
        *busy = self.before.max(self.flows);
    }

    /// Count a flow that was last `served` in another second.
    fn count(&mut self, served: &mut i64) {
        if *served != self.number {
            *served = self.number;
            self.flows += 1;
        }
    }
}

/// Give the time of the live timer entry of the flow that `token` names.
fn armed(flows: &[Place], token: u64) -> Option<Instant> {
    let place = &flows[token as u32 as usize];
    place.flow.as_ref().filter(|_| place.turn == (token >> 32) as u32).and_then(|flow| flow.armed)
}

fn token(turn: u32, index: u32) -> u64 {
    u64::from(turn) << 32 | u64::from(index)
}
