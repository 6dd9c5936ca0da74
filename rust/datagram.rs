//! UDP datagrams in IP packets, pure: one read, one built (RFC 768, RFC 8200 §8.1).

use std::net::SocketAddr;

use crate::packet::{self, FourTuple};

/// Protocol number of UDP.
pub const UDP: u8 = 17;
const HEADER: usize = 8;
const CHECKSUM_AT: usize = 6;

/// A whole datagram.
#[derive(Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub payload: &'a [u8],
}

impl Datagram<'_> {
    /// Read the datagram in an IP packet; None where there is none, or a broken one. `trusted`: the kernel vouches for the
    /// checksum.
    pub fn read(bytes: &[u8], trusted: bool) -> Option<Datagram<'_>> {
        let found = packet::find(bytes).filter(|found| found.protocol == UDP)?;
        let segment = &bytes[found.transport..found.end];
        let word = |at: usize| Some(u16::from_be_bytes([*segment.get(at)?, *segment.get(at + 1)?]));
        let (source, destination) = (word(0)?, word(2)?);
        let segment = segment.get(..usize::from(word(4)?)).filter(|segment| segment.len() >= HEADER)?;
        let tuple = FourTuple {
            source: SocketAddr::new(found.source, source),
            destination: SocketAddr::new(found.destination, destination),
        };
        let unchecked = word(CHECKSUM_AT) == Some(0) && found.source.is_ipv4();
        if !trusted && !unchecked && packet::checksum(packet::tuple_sum(&tuple, UDP, segment.len()), segment) != 0 {
            return None;
        }
        Some(Datagram { source: tuple.source, destination: tuple.destination, payload: &segment[HEADER..] })
    }

    /// Give the IP packet that carries it; both addresses are of one family.
    pub fn packet(&self) -> Vec<u8> {
        let length = HEADER + self.payload.len();
        let mut segment = Vec::with_capacity(length);
        for word in [self.source.port(), self.destination.port(), length as u16, 0] {
            segment.extend_from_slice(&word.to_be_bytes());
        }
        segment.extend_from_slice(self.payload);
        let tuple = FourTuple { source: self.source, destination: self.destination };
        let sum = match packet::checksum(packet::tuple_sum(&tuple, UDP, length), &segment) {
            0 => u16::MAX, // zero would mean that there is none
            sum => sum,
        };
        packet::put16(&mut segment, CHECKSUM_AT, sum);
        packet::packet(self.source.ip(), self.destination.ip(), UDP, &segment)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn datagram<'a>(v6: bool, payload: &'a [u8]) -> Datagram<'a> {
        let (source, destination) =
            if v6 { ("[2001:db8::2]:4000", "[2001:db8::1]:53") } else { ("10.0.0.2:4000", "192.0.2.1:53") };
        Datagram { source: source.parse().unwrap(), destination: destination.parse().unwrap(), payload }
    }

    proptest! {
        #[test]
        fn what_is_built_is_read_and_no_bit_may_change(
            v6: bool, payload in proptest::collection::vec(any::<u8>(), 0..300), at: usize, bit in 0u8..8,
        ) {
            let sent = datagram(v6, &payload);
            let mut packet = sent.packet();
            prop_assert_eq!(Datagram::read(&packet, false), Some(datagram(v6, &payload)));
            let transport = if v6 { 40 } else { 20 };
            let at = transport + at % (packet.len() - transport);
            packet[at] ^= 1 << bit;
            prop_assert_eq!(Datagram::read(&packet, false), None);
        }

        #[test]
        fn any_packet_can_be_read(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), v6: bool, trusted: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = if v6 { 0x60 } else { 0x45 };
            }
            let _ = Datagram::read(&bytes, trusted);
        }
    }

    #[test]
    fn checksum_may_be_missing_in_ipv4_only_or_be_the_kernels_to_fill_in() {
        for v6 in [false, true] {
            let mut packet = datagram(v6, b"x").packet();
            let at = packet.len() - 1 - HEADER + CHECKSUM_AT;
            packet[at..at + 2].fill(0);
            assert_eq!(Datagram::read(&packet, false).is_some(), !v6);
            packet[at] = 0x12;
            assert!(Datagram::read(&packet, false).is_none() && Datagram::read(&packet, true).is_some());
        }
    }

    #[test]
    fn length_is_the_datagrams_own() {
        let mut packet = datagram(false, b"abc").packet();
        packet[20 + 5] = 8 + 1;
        assert_eq!(Datagram::read(&packet, true).map(|found| found.payload), Some(&b"a"[..]));
        for wrong in [7, 12] {
            packet[20 + 5] = wrong;
            assert_eq!(Datagram::read(&packet, true), None);
        }
    }
}
