//! A program that sends what a test says, packet by packet: no TCP of its own.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};

use crate::streams::read_some;
use crate::world::{GRANT, World};
use _tunstack::packet::{checksum, pseudo_sum};
use smoltcp::time::Duration;
use smoltcp::wire::{Ipv4Packet, Ipv6Packet, TcpPacket};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// A TCP packet with right checksums. The first bytes of `tail`, 40 at most, are options.
pub struct Packet {
    pub source: SocketAddr,
    pub target: SocketAddr,
    pub flags: u8,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub window: u16,
    pub tail: Vec<u8>,
}

impl Packet {
    pub fn bytes(&self) -> Vec<u8> {
        let options = self.tail.len().min(40) / 4 * 4;
        let mut tcp = Vec::new();
        tcp.extend(self.source.port().to_be_bytes());
        tcp.extend(self.target.port().to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledgement.to_be_bytes());
        tcp.extend([((5 + options / 4) << 4) as u8, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(&self.tail);
        let (mut header, addresses) = match (self.source.ip(), self.target.ip()) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0];
                header.extend(source.octets());
                header.extend(target.octets());
                header[2..4].copy_from_slice(&((20 + tcp.len()) as u16).to_be_bytes());
                let sum = checksum(0, &header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                (header, [source.octets(), target.octets()].concat())
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                let mut header = vec![0x60, 0, 0, 0, 0, 0, 6, 64];
                header[4..6].copy_from_slice(&(tcp.len() as u16).to_be_bytes());
                header.extend(source.octets());
                header.extend(target.octets());
                (header, [source.octets(), target.octets()].concat())
            }
            _ => unreachable!(),
        };
        let sum = checksum(pseudo_sum(&addresses, 6, tcp.len()), &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        header.extend(tcp);
        header
    }
}

/// Put a virtio_net_hdr that promises nothing before `packet`.
pub fn framed(packet: &[u8]) -> Vec<u8> {
    [&[0; 10], packet].concat()
}

/// What stands between the IP header and TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    Nothing4,
    /// IPv4 options: a router alert, and padding.
    Options4,
    Nothing6,
    /// IPv6 extension headers: hop-by-hop, routing with nothing left, destination options.
    Extensions6,
}

impl Between {
    fn ends(self) -> (SocketAddr, SocketAddr) {
        let (source, target) = match self {
            Between::Nothing4 | Between::Options4 => ("10.0.0.2:40000", "192.0.2.1:443"),
            Between::Nothing6 | Between::Extensions6 => ("[2001:db8::2]:40000", "[2001:db8::1]:443"),
        };
        (source.parse().unwrap(), target.parse().unwrap())
    }

    fn insert(self, packet: &mut Vec<u8>) {
        match self {
            Between::Nothing4 | Between::Nothing6 => {}
            Between::Options4 => {
                packet.splice(20..20, [0x94, 4, 0, 0, 1, 1, 1, 0]);
                packet[0] = 0x47;
                let length = packet.len() as u16;
                packet[2..4].copy_from_slice(&length.to_be_bytes());
                packet[10..12].fill(0);
                let sum = checksum(0, &packet[..28]);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            Between::Extensions6 => {
                let extensions = [[43, 0, 1, 4, 0, 0, 0, 0], [60, 0, 4, 0, 0, 0, 0, 0], [6, 0, 1, 4, 0, 0, 0, 0]];
                packet.splice(40..40, extensions.concat());
                packet[6] = 0;
                let length = packet.len() as u16 - 40;
                packet[4..6].copy_from_slice(&length.to_be_bytes());
            }
        }
    }
}

/// A segment that the stack sent.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    pub flags: u8,
    pub acknowledgement: u32,
    pub window: u16,
    pub length: usize,
}

/// A program that sends what a test says; `first` is its initial sequence number.
pub struct Peer {
    pub world: World,
    pub between: Between,
    /// What it says about itself.
    pub first: u32,
    pub mss: Option<u16>,
    pub window: u16,
    pub scale: bool,
    /// What the stack has sent: every segment, the stream, the next sequence number, the largest segment.
    pub seen: Vec<Seen>,
    pub got: Vec<u8>,
    pub expected: u32,
    pub largest: usize,
}

impl Peer {
    pub fn new(first: u32) -> Peer {
        Peer {
            world: World::plain(),
            between: Between::Nothing4,
            first,
            mss: Some(1460),
            window: u16::MAX,
            scale: false,
            seen: Vec::new(),
            got: Vec::new(),
            expected: 0,
            largest: 0,
        }
    }

    /// Send `data` at `offset` from the first byte of the stream (-1 is the SYN), and let the stack act.
    pub fn send(&mut self, flags: u8, offset: i32, data: &[u8]) {
        let frame = self.segment(flags, offset, data);
        self.world.inject(&frame);
        self.turn();
    }

    /// Make such a segment.
    pub fn segment(&self, flags: u8, offset: i32, data: &[u8]) -> Vec<u8> {
        let mut tail = vec![1; 40]; // no-operations
        if let Some(mss) = self.mss {
            tail[..4].copy_from_slice(&[2, 4, (mss >> 8) as u8, mss as u8]);
        }
        if self.scale {
            tail[4..7].copy_from_slice(&[3, 3, 0]);
        }
        tail.extend(data);
        let (source, target) = self.between.ends();
        let sequence = self.at(offset);
        let acknowledgement = if flags & ACK == 0 { 0 } else { self.expected };
        let window = self.window;
        let mut packet = Packet { source, target, flags, sequence, acknowledgement, window, tail }.bytes();
        self.between.insert(&mut packet);
        framed(&packet)
    }

    /// Give the sequence number at `offset` from the first byte of the stream.
    pub fn at(&self, offset: i32) -> u32 {
        self.first.wrapping_add(1).wrapping_add_signed(offset)
    }

    /// Let the stack act and read what it sends.
    pub fn turn(&mut self) {
        for _ in 0..3 {
            self.world.stack_acts();
        }
        self.look();
    }

    /// Say nothing for so long.
    pub fn wait(&mut self, duration: Duration) {
        let end = self.world.now + duration;
        while self.world.now < end {
            self.turn();
            let next = self.world.stack.next_timer().map_or(end, |at| at.min(end));
            self.world.now = self.world.now.max(next);
        }
    }

    /// Read what the stack has sent.
    pub fn look(&mut self) {
        while let Some(frame) = self.world.program.link.taken() {
            let packet = &frame[10..];
            let payload = if packet[0] >> 4 == 4 {
                Ipv4Packet::new_checked(packet).unwrap().payload()
            } else {
                Ipv6Packet::new_checked(packet).unwrap().payload()
            };
            let tcp = TcpPacket::new_checked(payload).unwrap();
            let gso = usize::from(u16::from_le_bytes([frame[4], frame[5]]));
            self.largest = self.largest.max(if frame[1] == 0 { tcp.payload().len() } else { gso });
            let sequence = tcp.seq_number().0 as u32;
            self.seen.push(Seen {
                flags: payload[13],
                acknowledgement: tcp.ack_number().0 as u32,
                window: tcp.window_len(),
                length: tcp.payload().len(),
            });
            if tcp.syn() || (sequence == self.expected && tcp.payload().len() <= usize::from(self.window)) {
                self.got.extend(tcp.payload());
                self.expected = sequence.wrapping_add(tcp.segment_len() as u32);
            }
        }
    }

    /// Give the last segment that the stack has sent.
    pub fn last(&self) -> Seen {
        *self.seen.last().unwrap()
    }

    /// Say whether the stack has sent a segment with these flags.
    pub fn has_seen(&self, flags: u8) -> bool {
        self.seen.iter().any(|seen| seen.flags & flags == flags)
    }

    pub fn accept(&mut self) -> TcpStream {
        for _ in 0..1000 {
            self.turn();
            if let Ok((stream, _)) = self.world.proxies[0].accept() {
                stream.set_nonblocking(true).unwrap();
                return stream;
            }
        }
        panic!("no connection to the proxy");
    }

    /// Send a SYN with `data`, let the proxy say 2xx; the SYN-ACK comes, and is not answered.
    pub fn half_open(&mut self, data: &[u8]) -> TcpStream {
        self.send(SYN, -1, data);
        let mut stream = self.accept();
        stream.write_all(GRANT).unwrap();
        self.turn();
        let mut request = Vec::new();
        read_some(&stream, &mut request).unwrap();
        assert!(request.ends_with(b"\r\n\r\n"));
        assert!(self.has_seen(SYN | ACK));
        stream
    }

    pub fn open(&mut self, data: &[u8]) -> TcpStream {
        let stream = self.half_open(data);
        self.send(ACK, 0, b"");
        stream
    }
}
