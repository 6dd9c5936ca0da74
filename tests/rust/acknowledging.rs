//! When the stack acknowledges, and how large what it sends may be: what costs speed when it is wrong.

use std::io::Write;
use std::net::TcpStream;

use crate::by_hand::{ACK, Peer};
use crate::streams::{bytes, read_some};
use smoltcp::time::Duration;

const FULL: usize = 1460;

/// A program that has got an answer from the proxy's side.
fn answered() -> (Peer, TcpStream) {
    let mut peer = Peer::new(7);
    let mut stream = peer.open(b"");
    stream.write_all(b"welcome").unwrap();
    peer.turn();
    peer.send(ACK, 0, b"");
    assert_eq!(peer.got, b"welcome");
    peer.seen.clear();
    (peer, stream)
}

/// Send `data`, and read what the stack answers before any time has gone by for it.
fn send_once(peer: &mut Peer, offset: i32, data: &[u8]) {
    let segment = peer.segment(ACK, offset, data);
    peer.world.inject(&segment);
    peer.world.stack_acts();
    peer.look();
}

#[test]
fn first_bytes_are_acknowledged_at_once_for_a_second_write_may_wait_for_it() {
    let mut peer = Peer::new(7);
    let _stream = peer.open(b"");
    peer.seen.clear();
    send_once(&mut peer, 0, b"hello");
    assert_eq!(peer.last().acknowledgement, peer.at(5));
}

#[test]
fn small_request_is_acknowledged_with_its_answer() {
    let (mut peer, mut stream) = answered();
    send_once(&mut peer, 0, b"hello");
    assert!(peer.seen.is_empty(), "acknowledged apart: {:?}", peer.seen);
    let mut got = Vec::new();
    read_some(&stream, &mut got).unwrap();
    assert_eq!(got, b"hello", "the bytes themselves do not wait");
    stream.write_all(b"answer").unwrap();
    peer.turn();
    assert_eq!((peer.seen.len(), peer.last().length, peer.last().acknowledgement), (1, 6, peer.at(5)));
}

#[test]
fn request_without_an_answer_is_acknowledged_after_a_millisecond() {
    let (mut peer, _stream) = answered();
    peer.send(ACK, 0, b"hello");
    peer.wait(Duration::from_millis(3));
    assert_eq!((peer.seen.len(), peer.last().length, peer.last().acknowledgement), (1, 0, peer.at(5)));
}

#[test]
fn full_segment_is_acknowledged_at_once_also_behind_a_small_one() {
    for before in [&b""[..], b"hello"] {
        let (mut peer, _stream) = answered();
        let offset = before.len() as i32;
        if offset > 0 {
            send_once(&mut peer, 0, before);
        }
        send_once(&mut peer, offset, &bytes(FULL, 1));
        assert_eq!(peer.last().acknowledgement, peer.at(offset + FULL as i32), "after {offset} bytes");
    }
}

#[test]
fn packets_with_a_link_header_stay_below_what_a_device_takes_whole() {
    let mut peer = Peer::new(7);
    let mut stream = peer.open(b"");
    stream.write_all(&bytes(60_000, 1)).unwrap();
    stream.write_all(&bytes(60_000, 2)).unwrap();
    for _ in 0..50 {
        peer.turn();
        peer.send(ACK, 0, b"");
    }
    let largest = peer.seen.iter().map(|seen| seen.length).max().unwrap();
    assert!(largest > 40_000, "no large packet was sent: {largest}");
    assert!(40 + largest + 14 < 65_536, "{largest} bytes in a packet: gso_max_size");
}
