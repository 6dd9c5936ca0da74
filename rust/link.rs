//! The stack's end of an open connection: a smoltcp socket in a set of its own, and its two rings.

use std::net::SocketAddr;

use smoltcp::iface::{Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{IpAddress, IpListenEndpoint};

use crate::device::Device;
use crate::relay::{self, End};
use crate::rings::{Rings, Slot};
use crate::stats::Stats;
use crate::tally::Tally;
use crate::upstream::{Ready, Upstream};

/// When a client that says nothing is asked whether it is there, and when it is given up: it may be a container that
/// vanished, which no kernel tells us.
const KEEP_ALIVE: Duration = Duration::from_secs(300);
const CLIENT_TIMEOUT: Duration = Duration::from_secs(900);

/// For so long an acknowledgement waits for bytes to go with, as every kernel's does (RFC 9293, section 3.8.6.3: at most
/// 500 ms). Only where the proxy has answered before: a program whose second write waits for the first to be
/// acknowledged (Nagle's algorithm) must not wait from the start.
const ACK_DELAY: Duration = Duration::from_millis(1);
/// A packet of fewer bytes is no full segment, so its sender has nothing more to send now.
const SMALL: usize = 1000;

/// The stack's interface and its queue: what packets go through.
pub struct Wire {
    pub interface: Interface,
    pub device: Device,
}

/// See the head of this file.
pub struct Link {
    set: SocketSet<'static>,
    handle: SocketHandle,
    slot: Slot,
    /// Bytes of the stream that came with the proxy's reply, for which there was no socket yet.
    early: Vec<u8>,
    /// The program's MSS.
    segment_limit: u16,
    up: u64,
    down: u64,
    /// Of these, those that the proxy's tally knows of.
    told: (u64, u64),
    /// Until when an acknowledgement may be held back.
    holds: Option<Instant>,
}

impl Link {
    /// Listen for `target` with the rings of `slot`. `early` is for the program, before all else.
    pub fn listen(target: SocketAddr, slot: Slot, rings: &mut Rings, early: Vec<u8>) -> Link {
        // SAFETY: `slot` was just taken, and `release` drops the socket before it puts the slot back.
        let (up, down) = unsafe { rings.slices(&slot) };
        let mut socket = Socket::new(SocketBuffer::new(up), SocketBuffer::new(down));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.set_keep_alive(Some(KEEP_ALIVE));
        socket.set_timeout(Some(CLIENT_TIMEOUT));
        let endpoint = IpListenEndpoint { addr: Some(IpAddress::from(target.ip())), port: target.port() };
        // fails only for port 0, which the stack refuses before there is a flow
        let _ = socket.listen(endpoint);
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let handle = set.add(socket);
        Link { set, handle, slot, early, segment_limit: 0, up: 0, down: 0, told: (0, 0), holds: None }
    }

    /// Send segments of at most `size` bytes, those of IPv6 too.
    pub fn limit_segments(&mut self, size: u16) {
        self.segment_limit = size;
    }

    /// Give the packet that the device offers, of `length` bytes, to the socket.
    pub fn ingress(&mut self, length: usize, now: Instant, wire: &mut Wire) {
        let (small, holds) = (length < SMALL && self.down > 0, self.holds.is_some_and(|until| now < until));
        // Where one is held back already, the stack ends that itself when a full segment comes; else a full one is
        // acknowledged at once.
        self.socket().set_ack_delay((small || holds).then_some(ACK_DELAY));
        if small && !holds {
            self.holds = Some(now + ACK_DELAY);
        }
        wire.device.limit_segments(self.segment_limit);
        wire.interface.poll_ingress_single(now, &mut wire.device, &mut self.set);
    }

    /// Let the socket send what it can; says whether it has nothing left to send now.
    pub fn egress(&mut self, now: Instant, wire: &mut Wire) -> bool {
        wire.device.limit_segments(self.segment_limit);
        // In TIME-WAIT the stack would forget what the program sent, in its own time; so it is not asked.
        while !self.is_resting(now, wire)
            && wire.interface.poll_egress(now, &mut wire.device, &mut self.set) != PollResult::None
        {
            self.holds = None; // whatever was sent acknowledges, too
        }
        !wire.device.is_stuck()
    }

    fn is_resting(&mut self, now: Instant, wire: &mut Wire) -> bool {
        self.socket().state() == State::TimeWait && wire.interface.poll_at(now, &self.set).is_none_or(|at| at > now)
    }

    /// Give the time of the socket's next timer.
    pub fn next_timer(&mut self, now: Instant, wire: &mut Wire) -> Option<Instant> {
        if self.socket().state() == State::TimeWait {
            return None;
        }
        // A timer that is due though nothing could be sent would be due for ever.
        wire.interface.poll_at(now, &self.set).map(|at| at.max(now + Duration::from_millis(1)))
    }

    /// Give the socket.
    pub fn socket(&mut self) -> &mut Socket<'static> {
        self.set.get_mut(self.handle)
    }

    /// Move bytes towards the program; give why it ended.
    pub fn download(&mut self, upstream: Option<&mut Upstream>, ready: &mut Ready, stats: &Stats) -> End {
        self.hand_over_early(stats);
        let (Some(upstream), true, true) = (upstream, ready.readable, self.early.is_empty()) else {
            return End::Empty;
        };
        if !self.socket().can_send() {
            return End::Full;
        }
        let (moved, end) = relay::download(self.socket(), upstream, ready.hangup);
        self.down += moved as u64;
        stats.bytes_down.add(moved as u64);
        if end == End::Empty {
            ready.readable = false;
        }
        end
    }

    fn hand_over_early(&mut self, stats: &Stats) {
        if !self.early.is_empty() {
            let socket = self.set.get_mut::<Socket<'_>>(self.handle);
            let taken = socket.send_slice(&self.early).unwrap_or(0);
            self.early.drain(..taken);
            self.down += taken as u64;
            stats.bytes_down.add(taken as u64);
        }
    }

    /// Move bytes towards the proxy; give why it ended.
    pub fn upload(&mut self, upstream: &mut Upstream, ready: &mut Ready, stats: &Stats) -> End {
        if !ready.writable || self.socket().state() == State::SynReceived {
            return End::Full;
        }
        let (moved, end) = relay::upload(self.socket(), upstream);
        self.up += moved as u64;
        stats.bytes_up.add(moved as u64);
        if end == End::Full {
            ready.writable = false;
        }
        end
    }

    /// Let the proxy's tally know of the bytes that have moved.
    pub fn tell(&mut self, tally: &Tally) {
        if self.told != (self.up, self.down) {
            tally.bytes_up.add(self.up - self.told.0);
            tally.bytes_down.add(self.down - self.told.1);
            self.told = (self.up, self.down);
        }
    }

    /// Give the rings back.
    pub fn release(self, rings: &mut Rings) {
        drop(self.set);
        rings.put(self.slot, self.up.max(self.down) as usize);
    }
}
