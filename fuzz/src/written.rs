//! What the stack writes, held against what the kernel demands of a frame with a virtio_net_hdr (linux/virtio_net.h,
//! drivers/net/tun.c), and finished as the kernel would finish it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use _tunstack::device::HEADER;
use _tunstack::packet::{FourTuple, TCP, checksum, put16};

use crate::packets::pseudo;

const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const ICMP4: u8 = 1;
const ICMP6: u8 = 58;

/// A packet that the stack has written.
pub struct Written {
    pub tuple: FourTuple,
    /// None for ICMP.
    pub tcp: Option<Tcp>,
}

/// A TCP segment, or super-segment.
pub struct Tcp {
    pub flags: u8,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub window: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    /// The payload of the largest packet that the kernel makes of it.
    pub segment_size: usize,
}

impl Tcp {
    /// Give the sequence number that follows.
    pub fn next_sequence(&self) -> u32 {
        let control = u32::from(self.flags & 2 != 0) + u32::from(self.flags & 1 != 0);
        self.sequence.wrapping_add(self.payload.len() as u32).wrapping_add(control)
    }
}

/// Take a frame apart. Panics where it is not what the kernel, or the program's TCP, would take.
pub fn checked(frame: &[u8]) -> Written {
    let (header, packet) = frame.split_at(HEADER);
    let mut packet = packet.to_vec();
    let v4 = packet[0] >> 4 == 4;
    let (transport, protocol, length) = if v4 {
        assert_eq!(packet[0], 0x45, "IPv4 without options");
        assert_eq!(checksum(0, &packet[..20]), 0, "IPv4 header checksum");
        (20, packet[9], be16(&packet, 2))
    } else {
        assert_eq!(packet[0] >> 4, 6);
        (40, packet[6], 40 + be16(&packet, 4))
    };
    assert_eq!(length, packet.len(), "length field and length");
    let gso = offloads(header, &mut packet, transport, v4);
    let (source, destination) = addresses(&packet, v4);
    let ports = if protocol == TCP { (be16(&packet, transport), be16(&packet, transport + 2)) } else { (0, 0) };
    let tuple = FourTuple {
        source: SocketAddr::new(source, ports.0 as u16),
        destination: SocketAddr::new(destination, ports.1 as u16),
    };
    let segment = &packet[transport..];
    let covered = if protocol == ICMP4 { 0 } else { pseudo(&tuple, protocol, segment.len()) };
    assert_eq!(checksum(covered, segment), 0, "transport checksum");
    match protocol {
        TCP => Written { tuple, tcp: Some(tcp(segment, gso)) },
        ICMP4 | ICMP6 => {
            assert!(gso == 0 && packet.len() <= 576, "an ICMP error fits any link");
            Written { tuple, tcp: None }
        }
        other => panic!("protocol {other} was written"),
    }
}

/// Check the virtio_net_hdr and fill in the checksum that it leaves to the kernel; give gso_size.
fn offloads(header: &[u8], packet: &mut [u8], transport: usize, v4: bool) -> usize {
    let field = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
    let (headers, gso, start, offset) = (field(2), field(4), field(6), field(8));
    if header[0] & NEEDS_CSUM != 0 {
        assert_eq!((start, offset), (transport, 16), "where the TCP checksum is");
        assert!(headers >= start + offset + 2 && headers <= packet.len(), "hdr_len");
        let sum = checksum(0, &packet[start..]);
        put16(packet, start + offset, sum);
    }
    match header[1] {
        0 => assert_eq!(gso, 0, "gso_size without a type"),
        kind => {
            assert_eq!(kind, if v4 { GSO_TCPV4 } else { GSO_TCPV6 }, "gso_type");
            assert!(gso > 0 && header[0] & NEEDS_CSUM != 0, "a super-segment has a size, and no checksum yet");
            assert_eq!(headers, transport + usize::from(packet[transport + 12] >> 4) * 4, "hdr_len");
        }
    }
    gso
}

fn tcp(segment: &[u8], gso: usize) -> Tcp {
    let header = usize::from(segment[12] >> 4) * 4;
    assert!((20..=segment.len()).contains(&header), "data offset");
    let payload = segment[header..].to_vec();
    Tcp {
        flags: segment[13],
        sequence: be32(segment, 4),
        acknowledgement: be32(segment, 8),
        window: be16(segment, 14) as u16,
        options: segment[20..header].to_vec(),
        segment_size: if gso == 0 { payload.len() } else { gso.min(payload.len()) },
        payload,
    }
}

fn addresses(packet: &[u8], v4: bool) -> (IpAddr, IpAddr) {
    fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
        bytes[at..at + N].try_into().expect("N bytes")
    }
    if v4 {
        (Ipv4Addr::from(array::<4>(packet, 12)).into(), Ipv4Addr::from(array::<4>(packet, 16)).into())
    } else {
        (Ipv6Addr::from(array::<16>(packet, 8)).into(), Ipv6Addr::from(array::<16>(packet, 24)).into())
    }
}

fn be16(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    (be16(bytes, at) as u32) << 16 | be16(bytes, at + 2) as u32
}
