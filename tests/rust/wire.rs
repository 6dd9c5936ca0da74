//! The wire between the program and the stack: packets with a virtio_net_hdr on a SEQPACKET socket, and the mishaps on
//! the way, the same in both directions.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};

use _tunstack::device::HEADER;
use _tunstack::packet::{Peek, flag, peek, set_fin_apart};
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use crate::streams::xorshift;

/// What happens to packets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wire {
    /// Of 256 packets, so many are lost (255: all), come twice, or are overtaken by the next one.
    pub lost: u8,
    pub doubled: u8,
    pub overtaken: u8,
    pub seed: u32,
}

/// The program's end of it.
pub struct Link {
    fd: OwnedFd,
    mtu: usize,
    out: Way,
    incoming: Way,
    /// Frames for which the socket has had no room yet, and packets that the program has not taken yet.
    waiting: VecDeque<Vec<u8>>,
    arrived: VecDeque<Vec<u8>>,
}

/// One direction.
struct Way {
    wire: Wire,
    random: u32,
    held: Option<Vec<u8>>,
}

impl Way {
    fn new(wire: Wire, seed: u32) -> Way {
        Way { wire, random: seed, held: None }
    }

    fn happens(&mut self, of_256: u8) -> bool {
        of_256 > 0 && (xorshift(&mut self.random) >> 7) as u8 <= of_256
    }

    /// Let `packet` through, or not, or twice, or after the next one.
    fn pass(&mut self, packet: Vec<u8>, mut deliver: impl FnMut(&[u8])) {
        if self.happens(self.wire.lost) {
            return;
        }
        if self.held.is_none() && self.happens(self.wire.overtaken) {
            self.held = Some(packet);
            return;
        }
        deliver(&packet);
        if self.happens(self.wire.doubled) {
            deliver(&packet);
        }
        if let Some(held) = self.held.take() {
            deliver(&held);
        }
    }
}

impl Link {
    pub fn new(fd: OwnedFd, mtu: usize, wire: Wire) -> Link {
        let (out, incoming) = (Way::new(wire, wire.seed), Way::new(wire, !wire.seed));
        Link { fd, mtu, out, incoming, waiting: VecDeque::new(), arrived: VecDeque::new() }
    }

    /// From now on this happens to packets.
    pub fn change(&mut self, wire: Wire) {
        (self.out.wire, self.incoming.wire) = (wire, wire);
    }

    /// Put `frame`, whatever it is, on the wire to the stack; says whether there was room.
    pub fn inject(&self, frame: &[u8]) -> bool {
        // SAFETY: `frame` is readable for its length.
        unsafe { libc::write(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len()) > 0 }
    }

    /// Take the next packet from the stack, with its virtio_net_hdr, without mishap.
    pub fn taken(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 70_000];
        // SAFETY: `frame` is writable for its length.
        let length = unsafe { libc::read(self.fd.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len()) };
        frame.truncate(usize::try_from(length).ok()?);
        Some(frame)
    }

    fn send(&mut self, packet: Vec<u8>) {
        let waiting = &mut self.waiting;
        self.out.pass(packet, |packet| {
            let mut framed = vec![0; HEADER];
            framed[0] = 1; // the checksum is the kernel's to fill in
            framed.extend_from_slice(packet);
            waiting.push_back(framed);
        });
        self.flush();
    }

    /// Write what waits, as far as there is room.
    pub fn flush(&mut self) {
        while let Some(frame) = self.waiting.front()
            && self.inject(frame)
        {
            self.waiting.pop_front();
        }
    }
}

impl phy::Device for Link {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Incoming, Outgoing<'_>)> {
        while self.arrived.is_empty() {
            let packet = self.taken()?.split_off(HEADER);
            let arrived = &mut self.arrived;
            self.incoming.pass(packet, |packet| {
                let mut packet = packet.to_vec();
                let fin = has_fin_and_data(&packet).then(|| set_fin_apart(&mut packet)); // for smoltcp, as it says there
                arrived.push_back(packet);
                arrived.extend(fin);
            });
        }
        Some((Incoming(self.arrived.pop_front()?), Outgoing(self)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities.checksum.tcp = Checksum::None;
        capabilities
    }
}

fn has_fin_and_data(packet: &[u8]) -> bool {
    match peek(&mut packet.to_vec(), true) {
        Peek::Tcp { segment, .. } => segment.has(flag::FIN) && segment.payload > 0,
        _ => false,
    }
}

pub struct Incoming(Vec<u8>);

impl phy::RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

pub struct Outgoing<'a>(&'a mut Link);

impl phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, emit: F) -> R {
        let mut packet = vec![0; length];
        let result = emit(&mut packet);
        self.0.send(packet);
        result
    }
}
