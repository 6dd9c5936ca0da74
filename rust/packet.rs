//! A look at a packet, pure: which connection it belongs to, whether the stack may see it; and the short answers
//! (RST, ACK, ICMP unreachable) that need no connection.
//!
//! IPv4: RFC 791; IPv6 and its extension headers: RFC 8200; TCP and the answer to a segment that belongs to no
//! connection: RFC 9293 §3.10.7.1; ICMP errors and what must not be answered with one: RFC 1122 §3.2.2, RFC 4443 §2.4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use crate::datagram::UDP;

/// Protocol number of TCP.
pub const TCP: u8 = 6;
const ICMP4: u8 = 1;
const ICMP6: u8 = 58;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
/// An ICMP error quotes at most this much, so that it fits the minimum MTU of both families.
const QUOTE_MAX: usize = 512;

/// Bits of the TCP flags byte.
pub mod flag {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// The two ends of a connection as its client's packets name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FourTuple {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// The part of a TCP segment that decides who gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub tuple: FourTuple,
    pub flags: u8,
    pub sequence: u32,
    pub acknowledgement: u32,
    /// Bytes of data.
    pub payload: usize,
}

impl Segment {
    /// Say whether this segment opens a connection.
    pub fn opens(&self) -> bool {
        self.flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN) == flag::SYN
    }

    /// Say whether all of `flags` are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Give the sequence number that follows this segment.
    fn next_sequence(&self) -> u32 {
        let control = u32::from(self.has(flag::SYN)) + u32::from(self.has(flag::FIN));
        self.sequence.wrapping_add(self.payload as u32).wrapping_add(control)
    }
}

/// What a packet is.
#[derive(Debug, PartialEq, Eq)]
pub enum Peek {
    /// A TCP segment; the stack is to be given `packet`, a range of the bytes looked at.
    Tcp { segment: Segment, packet: Range<usize> },
    /// Something else that is whole.
    Other,
    /// Cut, a fragment, or with a wrong checksum.
    Bad,
}

/// Look at an IP packet. `trusted`: the kernel vouches for the TCP checksum (it is ours to fill in, or was verified).
///
/// IPv6 extension headers before a TCP header are cut out in place: the stack need not know them.
pub fn peek(bytes: &mut [u8], trusted: bool) -> Peek {
    let Some(found) = find(bytes) else { return Peek::Bad };
    if found.protocol != TCP {
        return Peek::Other;
    }
    let Some(segment) = segment(&bytes[..found.end], &found) else { return Peek::Bad };
    let transport = found.transport..found.end;
    if !trusted && checksum(tuple_sum(&segment.tuple, TCP, transport.len()), &bytes[transport.clone()]) != 0 {
        return Peek::Bad;
    }
    let packet = cut_extensions(bytes, &found);
    Peek::Tcp { segment, packet }
}

/// Where the transport header of a packet is, and where the packet ends.
pub struct Found {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub transport: usize,
    pub end: usize,
}

/// Look at a packet's IP header, and at what stands between it and the next one. None for one that is cut, or a fragment.
pub fn find(bytes: &[u8]) -> Option<Found> {
    match bytes.first()? >> 4 {
        4 => find4(bytes),
        6 => find6(bytes),
        _ => None,
    }
}

fn find4(bytes: &[u8]) -> Option<Found> {
    let header = bytes.get(..IPV4_HEADER)?;
    let transport = usize::from(header[0] & 0x0f) * 4;
    let end = usize::from(be16(header, 2));
    let fragment = be16(header, 6) & 0x3fff;
    if transport < IPV4_HEADER || end < transport || end > bytes.len() || fragment != 0 {
        return None;
    }
    if checksum(0, &bytes[..transport]) != 0 {
        return None;
    }
    Some(Found {
        source: Ipv4Addr::from(array::<4>(header, 12)).into(),
        destination: Ipv4Addr::from(array::<4>(header, 16)).into(),
        protocol: header[9],
        transport,
        end,
    })
}

fn find6(bytes: &[u8]) -> Option<Found> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    let header = bytes.get(..IPV6_HEADER)?;
    let end = IPV6_HEADER + usize::from(be16(header, 4));
    if end > bytes.len() {
        return None;
    }
    let (mut protocol, mut transport) = (header[6], IPV6_HEADER);
    while matches!(protocol, HOP_BY_HOP | ROUTING | DESTINATION) {
        let extension = bytes[..end].get(transport..transport + 8)?;
        if protocol == ROUTING && extension[3] != 0 {
            return None; // segments left: the packet is not for its destination address yet
        }
        protocol = extension[0];
        transport += 8 + usize::from(extension[1]) * 8;
    }
    if protocol == FRAGMENT || transport > end {
        return None;
    }
    Some(Found {
        source: Ipv6Addr::from(array::<16>(header, 8)).into(),
        destination: Ipv6Addr::from(array::<16>(header, 24)).into(),
        protocol,
        transport,
        end,
    })
}

fn segment(bytes: &[u8], found: &Found) -> Option<Segment> {
    let tcp = bytes.get(found.transport..)?;
    let header = tcp.get(..TCP_HEADER)?;
    let length = usize::from(header[12] >> 4) * 4;
    if length < TCP_HEADER || length > tcp.len() {
        return None;
    }
    Some(Segment {
        tuple: FourTuple {
            source: SocketAddr::new(found.source, be16(header, 0)),
            destination: SocketAddr::new(found.destination, be16(header, 2)),
        },
        flags: header[13],
        sequence: be32(header, 4),
        acknowledgement: be32(header, 8),
        payload: tcp.len() - length,
    })
}

/// Give the most bytes that the sender of a SYN takes in one segment, as the stack reads it (RFC 9293 §3.7.1).
pub fn segment_limit(syn: &[u8]) -> u16 {
    const DEFAULT: u16 = 536;
    const LEAST: u16 = 48;
    let ip = if syn[0] >> 4 == 4 { usize::from(syn[0] & 0x0f) * 4 } else { IPV6_HEADER };
    let end = ip + usize::from(syn[ip + 12] >> 4) * 4;
    let mut options = &syn[ip + TCP_HEADER..end];
    let mut found = None;
    loop {
        options = match options {
            [] | [0, ..] => break,
            [1, rest @ ..] => rest,
            [2, 4, high, low, rest @ ..] => {
                found = Some(u16::from_be_bytes([*high, *low])).filter(|&size| size != 0);
                rest
            }
            [_, length, ..] if (2..=options.len()).contains(&usize::from(*length)) => &options[usize::from(*length)..],
            _ => break,
        };
    }
    found.map_or(DEFAULT, |size| size.max(LEAST))
}

/// Move the IPv6 header next to the transport header when extension headers stand between; give the packet's range.
fn cut_extensions(bytes: &mut [u8], found: &Found) -> Range<usize> {
    if found.source.is_ipv4() || found.transport == IPV6_HEADER {
        return 0..found.end;
    }
    let start = found.transport - IPV6_HEADER;
    bytes.copy_within(..IPV6_HEADER, start);
    bytes[start + 6] = found.protocol;
    put16(&mut bytes[start..], 4, (found.end - found.transport) as u16);
    start..found.end
}

/// Take the FIN off a packet that carries data too (one that `peek` has found to be whole), and give it as a packet of
/// its own, to come after. smoltcp 0.14 would take a FIN at the end of data that its window cuts off: the bytes between
/// would be lost.
pub fn set_fin_apart(packet: &mut [u8]) -> Vec<u8> {
    let v4 = packet[0] >> 4 == 4;
    let transport = if v4 { usize::from(packet[0] & 0x0f) * 4 } else { IPV6_HEADER };
    let header = transport + usize::from(packet[transport + 12] >> 4) * 4;
    let (payload, mut fin) = (packet.len() - header, packet[..header].to_vec());
    packet[transport + 13] &= !flag::FIN;
    let (at, length) = if v4 { (2, header) } else { (4, header - transport) };
    put16(&mut fin, at, length as u16);
    let sequence = be32(&fin, transport + 4).wrapping_add(payload as u32);
    fin[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
    fin
}

/// Give the RST for a segment of a connection that does not exist, or that is refused (RFC 9293 §3.10.7.1).
pub fn reset_for(segment: &Segment) -> Vec<u8> {
    if segment.has(flag::ACK) {
        answer(&segment.tuple, segment.acknowledgement, 0, flag::RST)
    } else {
        answer(&segment.tuple, 0, segment.next_sequence(), flag::RST | flag::ACK)
    }
}

/// Give the ACK for a late FIN of a connection that has ended.
pub fn acknowledgement_for(segment: &Segment) -> Vec<u8> {
    answer(&segment.tuple, segment.acknowledgement, segment.next_sequence(), flag::ACK)
}

/// Give the ACK that makes whoever sent `syn` into a connection that exists reset it, if it has forgotten that connection
/// (RFC 5961 §4). The RST will have `number` for its sequence number, which tells that it is an answer to this.
pub fn challenge_for(syn: &Segment, number: u32) -> Vec<u8> {
    answer(&syn.tuple, number, number, flag::ACK)
}

/// Make a bare segment from the far end of `tuple` to the near one.
fn answer(tuple: &FourTuple, sequence: u32, acknowledgement: u32, flags: u8) -> Vec<u8> {
    let mut tcp = [0; TCP_HEADER];
    put16(&mut tcp, 0, tuple.destination.port());
    put16(&mut tcp, 2, tuple.source.port());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    tcp[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
    tcp[12] = ((TCP_HEADER / 4) << 4) as u8;
    tcp[13] = flags;
    let sum = checksum(tuple_sum(tuple, TCP, TCP_HEADER), &tcp);
    put16(&mut tcp, 16, sum);
    packet(tuple.destination.ip(), tuple.source.ip(), TCP, &tcp)
}

/// Give the ICMP error that says `packet`, which is whole and not TCP, cannot be carried; None where none is allowed.
pub fn unreachable_for(bytes: &[u8]) -> Option<Vec<u8>> {
    let found = find(bytes)?;
    let icmp_error = match found.protocol {
        ICMP4 => !matches!(bytes.get(found.transport)?, 0 | 8 | 13..=18),
        ICMP6 => *bytes.get(found.transport)? < 128,
        _ => false,
    };
    if icmp_error || !is_host(found.source) || !is_host(found.destination) {
        return None;
    }
    let (kind, code, protocol) = match (found.source, found.protocol) {
        (IpAddr::V4(_), UDP) => (3, 3, ICMP4),
        (IpAddr::V4(_), _) => (3, 2, ICMP4),
        (IpAddr::V6(_), UDP) => (1, 4, ICMP6),
        (IpAddr::V6(_), _) => (1, 1, ICMP6),
    };
    let mut icmp = vec![kind, code, 0, 0, 0, 0, 0, 0];
    icmp.extend_from_slice(&bytes[..found.end.min(QUOTE_MAX)]);
    let tuple =
        FourTuple { source: SocketAddr::new(found.source, 0), destination: SocketAddr::new(found.destination, 0) };
    let pseudo = if protocol == ICMP6 { tuple_sum(&tuple, ICMP6, icmp.len()) } else { 0 };
    let sum = checksum(pseudo, &icmp);
    put16(&mut icmp, 2, sum);
    Some(packet(found.destination, found.source, protocol, &icmp))
}

/// Say whether `address` is one host's: an error to or from anything else would be a storm.
fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !(address.is_multicast() || address.is_broadcast() || address.is_unspecified()),
        IpAddr::V6(address) => !(address.is_multicast() || address.is_unspecified()),
    }
}

/// Give the IP packet that carries `payload`; both addresses are of one family.
pub fn packet(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0; IPV4_HEADER];
            header[0] = 0x45;
            put16(&mut header, 2, (IPV4_HEADER + payload.len()) as u16);
            header[6] = 0x40; // do not fragment
            header[8] = 64;
            header[9] = protocol;
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&destination.octets());
            let sum = checksum(0, &header);
            put16(&mut header, 10, sum);
            header
        }
        (source, destination) => {
            let mut header = vec![0; IPV6_HEADER];
            header[0] = 0x60;
            put16(&mut header, 4, payload.len() as u16);
            header[6] = protocol;
            header[7] = 64;
            header[8..24].copy_from_slice(&octets(source));
            header[24..40].copy_from_slice(&octets(destination));
            header
        }
    };
    bytes.extend_from_slice(payload);
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Give the sum, not yet folded, of the pseudo-header of a `length` byte transport segment between the two addresses
/// whose octets are `addresses` (RFC 9293 §3.1).
pub fn pseudo_sum(addresses: &[u8], protocol: u8, length: usize) -> u32 {
    sum16(addresses) + u32::from(protocol) + (length as u32 >> 16) + (length as u32 & 0xffff)
}

/// Give the same for the ends of a connection.
pub fn tuple_sum(tuple: &FourTuple, protocol: u8, length: usize) -> u32 {
    let mut addresses = octets(tuple.source.ip());
    addresses.extend(octets(tuple.destination.ip()));
    pseudo_sum(&addresses, protocol, length)
}

/// Give the Internet checksum (RFC 1071) of `bytes` after `sum`: zero when `bytes` hold their right checksum.
pub fn checksum(sum: u32, bytes: &[u8]) -> u16 {
    let mut sum = u64::from(sum);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_be_bytes(array::<8>(chunk, 0));
        sum += (word >> 48) + (word >> 32 & 0xffff) + (word >> 16 & 0xffff) + (word & 0xffff);
    }
    !fold(sum + u64::from(sum16(chunks.remainder())))
}

/// Fold a sum to 16 bits, without the final complement.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

fn sum16(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    pairs.sum()
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

/// Write `value` at `at`, most significant byte first.
pub fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut copy = [0; N];
    copy.copy_from_slice(&bytes[at..at + N]);
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN4: FourTuple = FourTuple {
        source: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 40000),
        destination: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443),
    };

    fn tuple6() -> FourTuple {
        FourTuple { source: "[2001:db8::2]:40000".parse().unwrap(), destination: "[2001:db8::1]:443".parse().unwrap() }
    }

    /// A SYN from the near end of `tuple`.
    fn syn(tuple: &FourTuple) -> Vec<u8> {
        let swapped = FourTuple { source: tuple.destination, destination: tuple.source };
        answer(&swapped, 1000, 0, flag::SYN)
    }

    fn look(packet: &[u8]) -> Peek {
        peek(&mut packet.to_vec(), false)
    }

    fn segment_of(packet: &[u8]) -> Segment {
        match look(packet) {
            Peek::Tcp { segment, .. } => segment,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn syn_of_both_families_is_seen_with_its_tuple() {
        for tuple in [SYN4, tuple6()] {
            let segment = segment_of(&syn(&tuple));
            assert!(segment.opens());
            assert_eq!((segment.tuple, segment.sequence, segment.payload), (tuple, 1000, 0));
        }
    }

    #[test]
    fn reset_for_a_syn_acknowledges_it() {
        for tuple in [SYN4, tuple6()] {
            let reset = segment_of(&reset_for(&segment_of(&syn(&tuple))));
            assert_eq!(reset.flags, flag::RST | flag::ACK);
            assert_eq!((reset.sequence, reset.acknowledgement), (0, 1001));
            assert_eq!((reset.tuple.source, reset.tuple.destination), (tuple.destination, tuple.source));
        }
    }

    #[test]
    fn reset_for_an_acknowledgement_takes_its_number() {
        let segment = Segment { tuple: SYN4, flags: flag::ACK, sequence: 5, acknowledgement: 77, payload: 3 };
        let reset = segment_of(&reset_for(&segment));
        assert_eq!((reset.flags, reset.sequence), (flag::RST, 77));
    }

    #[test]
    fn late_fin_is_acknowledged_past_its_data() {
        let fin =
            Segment { tuple: SYN4, flags: flag::FIN | flag::ACK, sequence: u32::MAX, acknowledgement: 9, payload: 2 };
        let ack = segment_of(&acknowledgement_for(&fin));
        assert_eq!((ack.flags, ack.sequence, ack.acknowledgement), (flag::ACK, 9, 2));
    }

    #[test]
    fn wrong_checksum_is_bad_unless_the_kernel_vouches_for_it() {
        let mut packet = syn(&SYN4);
        packet[20 + 16] ^= 1;
        assert_eq!(look(&packet), Peek::Bad);
        assert!(matches!(peek(&mut packet, true), Peek::Tcp { .. }));
    }

    #[test]
    fn packet_cut_anywhere_is_bad() {
        for tuple in [SYN4, tuple6()] {
            let packet = syn(&tuple);
            for length in 0..packet.len() {
                assert_eq!(look(&packet[..length]), Peek::Bad, "{length} bytes");
            }
        }
    }

    #[test]
    fn fragment_is_bad() {
        let mut packet = syn(&SYN4);
        packet[6] = 0x20;
        put16(&mut packet, 10, 0);
        let sum = checksum(0, &packet[..20]);
        put16(&mut packet, 10, sum);
        assert_eq!(look(&packet), Peek::Bad);
    }

    #[test]
    fn extension_headers_are_cut_out() {
        let plain = syn(&tuple6());
        let mut packet = plain[..40].to_vec();
        packet[6] = 0;
        packet.extend_from_slice(&[60, 0, 1, 4, 0, 0, 0, 0]); // hop-by-hop, padding
        packet.extend_from_slice(&[6, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // destination options, padding
        packet.extend_from_slice(&plain[40..]);
        put16(&mut packet, 4, 44);
        let Peek::Tcp { segment, packet: range } = peek(&mut packet, false) else { panic!("not TCP") };
        assert_eq!(segment.tuple, tuple6());
        assert_eq!(packet[range], plain);
    }

    #[test]
    fn segment_limit_is_that_of_the_last_mss_option_or_the_default() {
        let limit = |options: &[u8]| {
            let mut packet = syn(&tuple6());
            packet[40 + 12] = 0x50 + ((options.len() as u8 / 4) << 4);
            packet.extend_from_slice(options);
            segment_limit(&packet)
        };
        assert_eq!(limit(&[]), 536);
        assert_eq!(limit(&[2, 4, 4, 196]), 1220);
        assert_eq!(limit(&[1, 3, 3, 7, 4, 2, 2, 4, 4, 196, 0, 0]), 1220);
        assert_eq!(limit(&[2, 4, 0, 0]), 536);
        assert_eq!(limit(&[2, 4, 0, 1]), 48);
        assert_eq!(limit(&[0, 2, 4, 255]), 536);
        assert_eq!(limit(&[9, 9, 2, 4]), 536);
    }

    #[test]
    fn udp_gets_port_unreachable_with_a_right_checksum() {
        for tuple in [SYN4, tuple6()] {
            let datagram = packet(tuple.source.ip(), tuple.destination.ip(), UDP, &[0; 8]);
            assert_eq!(look(&datagram), Peek::Other);
            let error = unreachable_for(&datagram).unwrap();
            let v4 = tuple.source.is_ipv4();
            let found = if v4 { find4(&error).unwrap() } else { find6(&error).unwrap() };
            assert_eq!(error[found.transport..found.transport + 2], if v4 { [3, 3] } else { [1, 4] });
            let swapped = FourTuple { source: tuple.destination, destination: tuple.source };
            let length = found.end - found.transport;
            let pseudo = if v4 { 0 } else { tuple_sum(&swapped, ICMP6, length) };
            assert_eq!(checksum(pseudo, &error[found.transport..]), 0);
        }
    }

    #[test]
    fn nothing_answers_an_icmp_error_or_a_group() {
        let error = unreachable_for(&packet(SYN4.source.ip(), SYN4.destination.ip(), UDP, &[0; 8])).unwrap();
        assert_eq!(unreachable_for(&error), None);
        let group = packet(SYN4.source.ip(), Ipv4Addr::new(224, 0, 0, 251).into(), UDP, &[0; 8]);
        assert_eq!(unreachable_for(&group), None);
    }
}
