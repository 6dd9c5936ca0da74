//! A stack in virtual time, and what must hold after every one of its turns.
//!
//!     target ──SEQPACKET pair, virtio_net_hdr──> Stack ──TCP on 127.0.0.1, epoll──> proxy.rs
//!
//! The order of a turn is that of rust/worker.rs. The bounds are far above what is right and far below a storm.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use _tunstack::device::{Device, HEADER};
use _tunstack::packet::{FourTuple, Peek, peek, unreachable_for};
use _tunstack::shared::Shared;
use _tunstack::stack::Stack;
use _tunstack::stats::{Notes, Stats};
use _tunstack::upstream::Ready;
use _tunstack::upstreams::{Proxy, Upstreams};
use smoltcp::time::{Duration, Instant};

use crate::heap;
use crate::packets::RST;
use crate::proxy::Proxies;
use crate::written::{Written, checked};

const MEMORY: u64 = 1 << 30;
/// What a flow may have on the heap: its SYN, a reply's header, and itself.
const FLOW_HEAP: usize = 200 << 10;
const STACK_HEAP: usize = 2 << 20;
/// What is left on the heap by flows that are gone: tables that have grown once.
const EMPTY_HEAP: usize = 64 << 10;
/// Packets with data that one flow sends at once: its ring, in super-segments of a small window.
const DATA_AT_ONCE: usize = 64;
const AGE: Duration = Duration::from_secs(2400);
/// A flow without anyone left sends its whole ring again, and probes: with growing pauses, some thirty times in all.
const FLOW_REPEATS: usize = 30 * DATA_AT_ONCE;
const FLOW_WAKES: usize = 400;

pub struct World {
    pub now: Instant,
    pub stack: Stack,
    pub stats: Arc<Stats>,
    pub proxies: Proxies,
    tun: OwnedFd,
    /// Packets injected since the last turn that nothing may answer where there is no flow.
    silent: usize,
    epoll: OwnedFd,
    /// The lowest descriptor that was free, and the bytes on the heap, when there was no flow yet.
    first_free: RawFd,
    heap: usize,
}

impl World {
    /// Make a world with one or two proxies, before which stands one that nobody reaches where `dead`.
    pub fn new(proxies: usize, dead: bool) -> World {
        let proxies = Proxies::addresses(proxies, dead);
        let proxies = proxies.into_iter().map(Proxy::plain).collect();
        let (stats, notes) = (Arc::new(Stats::default()), Arc::new(Notes::default()));
        let now = Instant::from_secs(1000);
        let shared = Shared::new(Upstreams::new(proxies, Arc::clone(&stats), notes), MEMORY).expect("address space");
        let (ours, tun) = packet_pair();
        let stack = Stack::new(Device::new(ours, Arc::clone(&stats)), shared, 7, now);
        // SAFETY: plain system call; the descriptor is new and ours.
        let epoll = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) };
        let (first_free, heap) = (first_free(), heap::used());
        World { now, stack, stats, proxies: Proxies::default(), tun, silent: 0, epoll, first_free, heap }
    }

    /// Put `frame` into the TUN.
    pub fn inject(&mut self, frame: &[u8]) {
        if std::env::var_os("FUZZ_SHOW").is_some() {
            eprintln!("< {:02x?}", &frame[..frame.len().min(90)]);
        }
        // SAFETY: `frame` is readable for its length. A full socket loses the packet, as a full queue does.
        let written = unsafe { libc::write(self.tun.as_raw_fd(), frame.as_ptr().cast(), frame.len()) };
        self.silent += usize::from(written > 0 && is_silent(frame));
    }

    /// Let the stack do all that it can, and a millisecond go by; give what it wrote.
    pub fn turn(&mut self) -> Vec<Written> {
        let (before, read) = (self.flows(), self.stats.tun_read.get());
        let mut written = Vec::new();
        for count in 0.. {
            assert!(count < 2000, "a turn without end");
            self.round();
            self.proxies.accept();
            let begin = written.len();
            while let Some(frame) = self.take() {
                written.push(checked(&frame));
            }
            if written.len() == begin && !self.stack.is_pending() {
                break;
            }
        }
        let read = (self.stats.tun_read.get() - read) as usize;
        let silent = std::mem::take(&mut self.silent);
        self.check_answers(&written, before, read, silent);
        self.check_heap(&written);
        if std::env::var_os("FUZZ_SHOW").is_some() {
            self.show(&written);
        }
        self.now += Duration::from_millis(1);
        written
    }

    fn round(&mut self) {
        self.report_readiness();
        self.stack.unstick();
        while self.stack.read_packet(self.now).expect("the TUN is there") {}
        self.stack.serve(self.now);
        for (fd, token) in self.stack.dials() {
            let interest = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
            let mut event = libc::epoll_event { events: interest, u64: token };
            // SAFETY: `event` is valid for the call; a descriptor that was closed again is nothing to watch.
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        }
    }

    fn report_readiness(&mut self) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: `events` is writable for its length; no time is spent.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), 64, 0) };
        for event in &events[..usize::try_from(count).unwrap_or(0)] {
            let has = |flags: libc::c_int| event.events & flags as u32 != 0;
            let ready = Ready {
                readable: has(libc::EPOLLIN),
                writable: has(libc::EPOLLOUT),
                hangup: has(libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR),
                broken: has(libc::EPOLLERR | libc::EPOLLHUP),
            };
            self.stack.wake(event.u64, ready);
        }
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let mut frame = vec![0; HEADER + 65535 + 1];
        // SAFETY: `frame` is writable for its length.
        let length = unsafe { libc::read(self.tun.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len()) };
        frame.truncate(usize::try_from(length).ok()?);
        Some(frame)
    }

    pub fn flows(&self) -> usize {
        self.stack.usage().0
    }

    /// No storm: where there was and is no flow, one answer for a packet, and none for a RST; a flow may add a few of its own.
    fn check_answers(&self, written: &[Written], before: usize, read: usize, silent: usize) {
        let flows = before.max(self.flows());
        let bare = written.iter().filter(|one| one.tcp.as_ref().is_none_or(|tcp| tcp.payload.is_empty())).count();
        let most = if flows == 0 { read - silent } else { 2 * (flows + read) };
        assert!(bare <= most, "{bare} packets without data, {read} read, {flows} flows");
        let most = if flows == 0 { 0 } else { DATA_AT_ONCE * (flows + read) };
        assert!(written.len() - bare <= most, "{} packets with data, {read} read, {flows} flows", written.len() - bare);
    }

    /// Say on stderr what happened, for whoever looks at a finding.
    fn show(&self, written: &[Written]) {
        eprintln!("at {}: {:?} flows, timers, rings", self.now, self.stack.usage());
        for one in written {
            match &one.tcp {
                Some(tcp) => eprintln!(
                    "  to {}: flags {:#x} seq {} ack {} window {} {} bytes",
                    one.tuple.destination,
                    tcp.flags,
                    tcp.sequence,
                    tcp.acknowledgement,
                    tcp.window,
                    tcp.payload.len()
                ),
                None => eprintln!("  to {}: ICMP", one.tuple.destination),
            }
        }
    }

    fn check_heap(&self, written: &[Written]) {
        let ours: usize = written.iter().filter_map(|one| one.tcp.as_ref()).map(|tcp| tcp.payload.len()).sum();
        let used = heap::used().saturating_sub(self.heap + ours);
        assert!(used <= STACK_HEAP + FLOW_HEAP * self.flows(), "{used} bytes on the heap, {} flows", self.flows());
    }

    /// Go on for `duration` of virtual time with nobody sending anything; `heard` gets what the stack writes.
    pub fn rest(&mut self, duration: Duration, mut heard: impl FnMut(&[Written])) {
        let (end, mut wakes, mut count) = (self.now + duration, 0, 0);
        let (flows, read) = (self.flows(), self.stats.tun_read.get());
        while self.now < end {
            let written = self.turn();
            count += written.len();
            heard(&written);
            wakes += 1;
            let known = flows + (self.stats.tun_read.get() - read) as usize;
            assert!(wakes <= 10 + FLOW_WAKES * (1 + known), "the stack does not rest");
            let next = self.stack.next_timer().unwrap_or(end).min(end);
            self.now = self.now.max(next);
        }
        let known = flows + (self.stats.tun_read.get() - read) as usize; // what waited in the TUN is read now
        assert!(count <= FLOW_REPEATS * known, "{count} packets at rest");
    }

    /// Let everything grow old. Panics unless nothing is left: no flow, timer, ring, descriptor, and little memory.
    pub fn end(mut self) {
        self.rest(AGE, |_| {});
        assert_eq!(self.flows(), 0, "a flow outlives everything but its proxy");
        self.proxies = Proxies::default();
        drop(self.turn());
        assert_eq!(self.stack.usage(), (0, 0, 0), "flows, timers, rings");
        self.assert_none_counted();
        assert_eq!(first_free(), self.first_free, "a descriptor is left open");
        let left = heap::used().saturating_sub(self.heap);
        assert!(left <= EMPTY_HEAP, "{left} bytes are left on the heap");
    }

    fn assert_none_counted(&self) {
        for (name, value) in self.stats.snapshot() {
            assert!(!name.starts_with("flows_") || !name.ends_with("_now") || value == 0, "{name}: {value}");
        }
    }

    /// End as a worker does that is told to: every connection is reset. Panics where one is not.
    pub fn stop(mut self) {
        self.stack.cut_all(self.now);
        self.assert_none_counted();
    }
}

/// Say whether a frame is a RST, or nothing that could be answered.
fn is_silent(frame: &[u8]) -> bool {
    let mut packet = frame.get(HEADER..).unwrap_or_default().to_vec();
    match peek(&mut packet, frame[0] & 3 != 0) {
        Peek::Tcp { segment, .. } => segment.has(RST),
        Peek::Other => unreachable_for(&packet).is_none(),
        Peek::Bad => true,
    }
}

/// Put a virtio_net_hdr that says nothing before a packet.
pub fn framed(packet: &[u8]) -> Vec<u8> {
    [&[0; HEADER], packet].concat()
}

/// Say whether `written` goes to the source of `tuple`.
pub fn answers(written: &Written, tuple: &FourTuple) -> bool {
    (written.tuple.source, written.tuple.destination) == (tuple.destination, tuple.source)
}

/// Give the lowest descriptor that is free: it rises when one is left open.
fn first_free() -> RawFd {
    // SAFETY: plain system calls; the descriptor is new, and closed at once.
    unsafe {
        let fd = libc::dup(0);
        libc::close(fd);
        fd
    }
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
