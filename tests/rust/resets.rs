//! A RST in every state, and the segments that only look like one; by hand. See by_hand.rs.

use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};

use crate::by_hand::{ACK, FIN, Peer, RST, SYN};
use crate::streams::{read_some, reset};

/// Bring a connection into a state; give the proxy's end, and the offset of the program's next byte.
type Way = fn(&mut Peer) -> (TcpStream, i32);

const STATES: [(&str, Way); 8] = [
    ("the SYN is held", |peer| {
        peer.send(SYN, -1, b"");
        (peer.accept(), 0)
    }),
    ("SYN-RECEIVED", |peer| (peer.half_open(b""), 0)),
    ("ESTABLISHED", |peer| (peer.open(b""), 0)),
    ("CLOSE-WAIT", |peer| {
        let stream = peer.open(b"");
        peer.send(ACK | FIN, 0, b"");
        (stream, 1)
    }),
    ("FIN-WAIT-1", |peer| {
        let stream = peer.open(b"");
        end(peer, &stream);
        (stream, 0)
    }),
    ("FIN-WAIT-2", |peer| {
        let stream = peer.open(b"");
        end(peer, &stream);
        peer.send(ACK, 0, b"");
        (stream, 0)
    }),
    ("CLOSING", |peer| {
        let stream = peer.open(b"");
        let before = peer.expected;
        end(peer, &stream);
        let after = std::mem::replace(&mut peer.expected, before);
        peer.send(ACK | FIN, 0, b"");
        peer.expected = after;
        (stream, 1)
    }),
    ("LAST-ACK", |peer| {
        let stream = peer.open(b"");
        peer.send(ACK | FIN, 0, b"");
        end(peer, &stream);
        (stream, 1)
    }),
];

fn end(peer: &mut Peer, stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
    peer.turn();
    assert!(peer.has_seen(FIN));
}

#[test]
fn reset_in_any_state_leaves_nothing_and_reaches_the_proxy() {
    for (state, way) in STATES {
        for flags in [RST, RST | ACK] {
            let mut peer = Peer::new(u32::MAX);
            let (stream, offset) = way(&mut peer);
            peer.seen.clear();
            peer.send(flags, offset, b"");
            assert_eq!(peer.world.stack.usage().0, 0, "{state}");
            assert!(peer.seen.is_empty(), "{state}: a RST was answered");
            let over = matches!(state, "CLOSING" | "LAST-ACK"); // both had said all
            assert_eq!(stream.take_error().unwrap().is_none(), over, "{state}");
            drop(stream);
            peer.world.assert_empty();
        }
    }
}

#[test]
fn reset_while_the_bytes_before_the_reset_of_the_proxy_wait_leaves_nothing() {
    let mut peer = Peer::new(7);
    let stream = peer.open(b"");
    peer.window = 0;
    peer.send(ACK, 0, b"");
    std::io::Write::write_all(&mut &stream, b"last words").unwrap();
    peer.turn();
    reset(stream);
    peer.turn();
    peer.send(RST, 0, b"");
    assert_eq!(peer.world.stack.usage().0, 0);
    peer.world.assert_empty();
}

#[test]
fn reset_beyond_the_window_is_passed_over() {
    let mut peer = Peer::new(7);
    let stream = peer.open(b"");
    for offset in [-2, -70_000, 1_000_000, i32::MAX] {
        peer.send(RST, offset, b"");
    }
    peer.send(ACK, 0, b"still here");
    let mut got = Vec::new();
    assert_eq!((read_some(&stream, &mut got), &got[..]), (Ok(false), &b"still here"[..]));
}

#[test]
fn syn_into_an_open_connection_only_ends_it_when_the_program_says_so() {
    let mut peer = Peer::new(7);
    let stream = peer.open(b"");
    peer.seen.clear();
    peer.send(SYN, 5_000_000, b"");
    let challenge = peer.last();
    assert_eq!((peer.seen.len(), challenge.flags), (1, ACK));
    peer.send(ACK, 0, b"that was not me");
    let mut got = Vec::new();
    assert_eq!((read_some(&stream, &mut got), &got[..]), (Ok(false), &b"that was not me"[..]));
    let answer = challenge.acknowledgement.wrapping_sub(peer.at(0)) as i32;
    peer.send(RST, answer, b"");
    assert_eq!(read_some(&stream, &mut got), Err(ErrorKind::ConnectionReset));
    assert_eq!(peer.world.stack.usage().0, 0);
}
