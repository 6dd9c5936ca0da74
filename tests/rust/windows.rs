//! Windows that are tiny or closed, on either side, and programs that have gone: by hand where smoltcp as a program would
//! not do it. See by_hand.rs.

use std::io::{ErrorKind, Write};

use crate::by_hand::{ACK, FIN, Peer};
use crate::streams::{bytes, exchange, read_some};
use crate::world::{GRANT, TARGET, World};
use smoltcp::time::Duration;

#[test]
fn closed_window_is_probed_and_what_was_held_back_comes_when_it_opens() {
    let mut peer = Peer::new(7);
    let mut stream = peer.open(b"");
    peer.window = 0;
    peer.send(ACK, 0, b"");
    let data = bytes(5000, 1);
    stream.write_all(&data).unwrap();
    peer.seen.clear();
    peer.wait(Duration::from_secs(20));
    let probes = peer.seen.iter().filter(|seen| seen.length == 1).count();
    assert!((3..=10).contains(&probes), "{probes} probes");
    peer.send(ACK, 0, b""); // it is still closed
    peer.wait(Duration::from_secs(400));
    assert!(peer.got.is_empty() && peer.largest <= 1, "bytes into a closed window");
    peer.window = 3000;
    peer.send(ACK, 0, b"");
    peer.send(ACK, 0, b"");
    assert!(peer.got == data, "{} bytes", peer.got.len());
}

#[test]
fn window_closes_when_the_proxy_does_not_read_and_opens_when_it_does() {
    let mut peer = Peer::new(7);
    let stream = peer.open(b"");
    let (mut data, mut window) = (Vec::new(), usize::from(u16::MAX));
    while window > 0 {
        let piece = bytes(window.min(60_000), data.len() as u32);
        peer.send(ACK, data.len() as i32, &piece);
        data.extend(piece);
        window = usize::from(peer.last().window);
        assert!(data.len() < 30_000_000, "it is somewhere");
    }
    assert_eq!(peer.last().acknowledgement, peer.at(data.len() as i32));
    for _ in 0..5 {
        peer.send(ACK, data.len() as i32, b"p"); // a probe
        assert_eq!((peer.last().acknowledgement, peer.last().window), (peer.at(data.len() as i32), 0));
    }
    let mut got = Vec::new();
    for _ in 0..10_000 {
        assert_eq!(read_some(&stream, &mut got), Ok(false));
        peer.turn();
    }
    assert!(peer.last().window > 0, "the program was not told");
    peer.send(ACK | FIN, data.len() as i32, b"p");
    data.push(b'p');
    assert_eq!(read_some(&stream, &mut got), Ok(true));
    assert!(got == data, "{} of {} bytes", got.len(), data.len());
}

#[test]
fn windows_of_a_few_bytes_are_enough() {
    for ring in [1, 16, 600] {
        let mut world = World::plain();
        let handle = world.program.connect(TARGET.parse().unwrap(), 40000, ring);
        let (mut stream, _) = world.request(0);
        stream.write_all(GRANT).unwrap();
        world.connected(handle);
        exchange(&mut world, handle, &stream, &bytes(300, 1), &bytes(300, 2));
        world.assert_empty();
    }
}

#[test]
fn program_that_has_vanished_is_asked_and_given_up() {
    let mut peer = Peer::new(7);
    let stream = peer.open(b"");
    peer.seen.clear();
    peer.wait(Duration::from_secs(700));
    assert!(!peer.seen.is_empty(), "nobody asked");
    assert_eq!(read_some(&stream, &mut Vec::new()), Ok(false));
    peer.send(ACK, 0, b""); // it is there
    peer.wait(Duration::from_secs(800));
    assert_eq!(read_some(&stream, &mut Vec::new()), Ok(false));
    peer.wait(Duration::from_secs(200));
    assert_eq!(read_some(&stream, &mut Vec::new()), Err(ErrorKind::ConnectionReset));
    assert_eq!(peer.world.stack.usage().0, 0);
}

/// Give the offset up to which the stack has said it takes bytes, with the scale of its largest ring.
fn edge(peer: &Peer) -> usize {
    let last = peer.last();
    last.acknowledgement.wrapping_sub(peer.at(0)) as usize + (usize::from(last.window) << 5)
}

#[test]
fn window_whose_edge_moves_back_loses_no_byte_before_the_end() {
    let mut peer = Peer::new(7);
    peer.scale = true;
    let stream = peer.open(b"");
    let (mut data, mut end) = (Vec::new(), 60_000);
    while end - data.len() > 20_000 {
        let piece = bytes(10_007, data.len() as u32);
        peer.send(ACK, data.len() as i32, &piece);
        data.extend(piece);
        end = end.max(edge(&peer));
    }
    let last = end - 5000;
    let from = data.len();
    data.extend(bytes(end - from, 3));
    peer.send(ACK, from as i32, &data[from..last]);
    assert!(edge(&peer) < end, "it did not move back");
    peer.send(ACK | FIN, last as i32, &data[last..]); // was on its way
    let mut got = Vec::new();
    for _ in 0..1000 {
        assert_eq!(read_some(&stream, &mut got), Ok(false), "an end after {} of {end} bytes", got.len());
        peer.turn();
    }
    peer.send(ACK | FIN, last as i32, &data[last..]);
    while read_some(&stream, &mut got) == Ok(false) {
        peer.turn();
    }
    assert!(got == data, "{} of {end} bytes", got.len());
}
