//! Packets as a program's machine may send them, syntactically valid unless asked otherwise: checksums, lengths and
//! next-header fields are right for whatever they are made of.

use std::net::{IpAddr, SocketAddr};

use _tunstack::packet::{FourTuple, TCP, checksum, pseudo_sum, put16};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

const ROUTING: u8 = 43;

/// Between the fixed IP header and the transport header: options (IPv4), or extension headers (IPv6).
#[derive(Default)]
pub struct Between {
    /// Padded to a multiple of four, cut to 40 bytes.
    pub options: Vec<u8>,
    /// Protocol number and body; padded to a multiple of eight.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Flags and offset of an IPv4 fragment.
    pub fragment: u16,
}

/// A TCP segment from the source of `tuple`; `options` are padded to a multiple of four and cut to 40 bytes.
pub struct Tcp<'a> {
    pub tuple: FourTuple,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub flags: u8,
    pub window: u16,
    pub options: &'a [u8],
    pub payload: &'a [u8],
}

impl Tcp<'_> {
    /// Give the IP packet with this segment.
    pub fn packet(&self, between: &Between) -> Vec<u8> {
        let options = padded(&self.options[..self.options.len().min(40)], 4);
        let mut bytes = Vec::with_capacity(20 + options.len() + self.payload.len());
        bytes.extend(self.tuple.source.port().to_be_bytes());
        bytes.extend(self.tuple.destination.port().to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgement.to_be_bytes());
        bytes.extend([((5 + options.len() / 4) << 4) as u8, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(options);
        bytes.extend(self.payload);
        let sum = checksum(pseudo(&self.tuple, TCP, bytes.len()), &bytes);
        put16(&mut bytes, 16, sum);
        ip(&self.tuple, TCP, between, &bytes)
    }
}

/// Give an IP packet; a payload that does not fit is cut.
pub fn ip(tuple: &FourTuple, protocol: u8, between: &Between, payload: &[u8]) -> Vec<u8> {
    match (tuple.source.ip(), tuple.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let options = padded(&between.options[..between.options.len().min(40)], 4);
            let payload = &payload[..payload.len().min(65535 - 20 - options.len())];
            let length = (20 + options.len() + payload.len()) as u16;
            let mut header = vec![(0x45 + options.len() / 4) as u8, 0];
            header.extend(length.to_be_bytes());
            header.extend([0, 0]);
            header.extend(between.fragment.to_be_bytes());
            header.extend([64, protocol, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            header.extend(options);
            let sum = checksum(0, &header);
            put16(&mut header, 10, sum);
            [&header, payload].concat()
        }
        (source, destination) => {
            let (first, chain) = extensions(&between.extensions, protocol);
            let payload = &payload[..payload.len().min(65535 - chain.len())];
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(((chain.len() + payload.len()) as u16).to_be_bytes());
            header.extend([first, 64]);
            header.extend(octets(source));
            header.extend(octets(destination));
            [&header, &chain[..], payload].concat()
        }
    }
}

/// Give the first next-header field, and the headers, each naming the next.
fn extensions(wanted: &[(u8, Vec<u8>)], protocol: u8) -> (u8, Vec<u8>) {
    let (mut next, mut chain) = (protocol, Vec::new());
    for (kind, body) in wanted.iter().rev() {
        let mut header = vec![next, 0];
        header.extend(body);
        let mut header = padded(&header, 8);
        header[1] = (header.len() / 8 - 1) as u8;
        if *kind == ROUTING && body.first() == Some(&0) {
            header[3] = 0; // no segments left
        }
        chain = [header, chain].concat();
        next = *kind;
    }
    (next, chain)
}

/// Give the sum of the pseudo-header of a transport segment from the source of `tuple`.
pub fn pseudo(tuple: &FourTuple, protocol: u8, length: usize) -> u32 {
    pseudo_sum(&[octets(tuple.source.ip()), octets(tuple.destination.ip())].concat(), protocol, length)
}

pub fn tuple(source: &str, destination: &str) -> FourTuple {
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address and a port");
    FourTuple { source: address(source), destination: address(destination) }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn padded(bytes: &[u8], to: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(to), 0);
    bytes
}
