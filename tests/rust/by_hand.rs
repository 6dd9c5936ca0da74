//! A program that sends what a test says, packet by packet: no TCP of its own.

use std::io::Write;
use std::net::{IpAddr, TcpStream};

use crate::streams::read_some;
use crate::world::{GRANT, World};
use _tunstack::packet::{checksum, pseudo_sum};
use smoltcp::wire::{Ipv4Packet, TcpPacket};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// A program that sends what a test says; `first` is its initial sequence number.
pub struct Peer {
    pub world: World,
    first: u32,
    mss: u16,
    /// The next sequence number that the stack will send, and payload sizes seen.
    pub expected: u32,
    pub largest: usize,
    pub ended: bool,
}

impl Peer {
    pub fn new(first: u32, mss: u16) -> Peer {
        Peer { world: World::plain(), first, mss, expected: 0, largest: 0, ended: false }
    }

    /// Send `data` at `offset` from the first byte of the stream (-1 is the SYN).
    pub fn send(&mut self, flags: u8, offset: i32, data: &[u8]) {
        let mut tail = vec![1; 40]; // no-operations
        tail[..4].copy_from_slice(&[2, 4, (self.mss >> 8) as u8, self.mss as u8]);
        tail.extend(data);
        let sequence = self.first.wrapping_add(1).wrapping_add_signed(offset);
        let addresses = ("10.0.0.2".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let frame = packet(addresses.0, addresses.1, (40000, 443), flags, (sequence, self.expected), &tail);
        self.world.inject(&framed(&frame));
        self.turn();
    }

    /// Let the stack act and read what it sends.
    pub fn turn(&mut self) {
        for _ in 0..3 {
            self.world.stack_acts();
        }
        while let Some(frame) = self.world.program.link.taken() {
            let ip = Ipv4Packet::new_checked(&frame[10..]).unwrap();
            let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
            let gso = usize::from(u16::from_le_bytes([frame[4], frame[5]]));
            let size = if frame[1] == 0 { tcp.payload().len() } else { gso };
            self.largest = self.largest.max(size);
            self.ended |= tcp.fin();
            self.expected = (tcp.seq_number().0 as u32).wrapping_add(tcp.segment_len() as u32);
        }
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

    pub fn open(&mut self, data: &[u8]) -> TcpStream {
        self.send(SYN, -1, data);
        let mut stream = self.accept();
        stream.write_all(GRANT).unwrap();
        self.turn();
        self.send(ACK, 0, b"");
        let mut request = Vec::new();
        read_some(&stream, &mut request).unwrap();
        assert!(request.ends_with(b"\r\n\r\n"));
        stream
    }
}

/// A TCP packet from the program's address, with right checksums.
pub fn packet(
    source: IpAddr,
    target: IpAddr,
    ports: (u16, u16),
    flags: u8,
    numbers: (u32, u32),
    tail: &[u8],
) -> Vec<u8> {
    let options = tail.len().min(40) / 4 * 4;
    let mut tcp = Vec::new();
    tcp.extend(ports.0.to_be_bytes());
    tcp.extend(ports.1.to_be_bytes());
    tcp.extend(numbers.0.to_be_bytes());
    tcp.extend(numbers.1.to_be_bytes());
    tcp.extend([((5 + options / 4) << 4) as u8, flags, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.extend(tail);
    let (mut header, addresses) = match (source, target) {
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

pub fn framed(packet: &[u8]) -> Vec<u8> {
    [&[0; 10], packet].concat()
}
