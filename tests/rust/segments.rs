//! Segments made by hand: what a kernel may send and smoltcp as a program never does.

use std::io::Write;
use std::net::Shutdown;

use crate::by_hand::{ACK, Between, FIN, Peer};
use crate::streams::{bytes, read_some, write_some};
use crate::wire::Wire;
use crate::world::{TARGET, World, listener};

#[test]
fn overlapping_and_swapped_segments_around_the_wrap_arrive_once() {
    for before in [0, 1, 5, 50, 99] {
        let mut peer = Peer::new(u32::MAX - before);
        let stream = peer.open(b"");
        let data = bytes(100, 9);
        for range in [50..80, 0..10, 5..60, 0..100, 20..30] {
            peer.send(ACK, range.start as i32, &data[range]);
        }
        peer.send(ACK | FIN, 90, &data[90..]);
        let mut got = Vec::new();
        assert_eq!(read_some(&stream, &mut got), Ok(true), "before {before}");
        assert_eq!(got, data);
        drop(stream);
        peer.turn();
        peer.send(ACK, 101, b"");
        peer.world.assert_empty();
    }
}

#[test]
fn data_in_the_syn_is_taken_once() {
    let mut peer = Peer::new(7);
    let stream = peer.open(b"hello");
    peer.send(ACK, 0, b"hello"); // sent again, as it was not acknowledged, or it was on the way
    peer.send(ACK | FIN, 5, b"");
    let mut got = Vec::new();
    assert_eq!(read_some(&stream, &mut got), Ok(true));
    assert_eq!(got, b"hello");
}

#[test]
fn ends_that_cross_close_the_flow() {
    let mut peer = Peer::new(7);
    let stream = peer.open(b"");
    let before = peer.expected;
    stream.shutdown(Shutdown::Write).unwrap();
    peer.turn();
    assert!(peer.has_seen(FIN));
    let after = std::mem::replace(&mut peer.expected, before);
    peer.send(ACK | FIN, 0, b""); // sent before the other end was seen
    peer.expected = after;
    peer.send(ACK, 1, b"");
    assert_eq!(read_some(&stream, &mut Vec::new()), Ok(true));
    drop(stream);
    peer.world.assert_empty();
    assert_eq!(peer.world.stats.flows_finished.get(), 1);
}

#[test]
fn segments_are_no_larger_than_the_program_asked_for() {
    for mss in [None, Some(536), Some(1220), Some(1460), Some(8960), Some(65495)] {
        let mut peer = Peer::new(7);
        peer.mss = mss;
        let mut stream = peer.open(b"");
        stream.write_all(&bytes(60_000, 1)).unwrap();
        for _ in 0..50 {
            peer.turn();
            peer.send(ACK, 0, b"");
        }
        assert!(peer.largest > 0 && peer.largest <= usize::from(mss.unwrap_or(536)), "{} for {mss:?}", peer.largest);
    }
}

#[test]
fn device_that_takes_nothing_for_a_while_loses_nothing() {
    let mut world = World::plain();
    let (handle, stream) = world.open(TARGET, 40000);
    let (down, mut sent, mut got) = (bytes(2_000_000, 3), 0, Vec::new());
    for _ in 0..100 {
        write_some(&stream, &down, &mut sent);
        world.stack_acts();
    }
    assert!(world.stack.is_stuck(), "the TUN is not full");
    world.until("all of it", |world| {
        write_some(&stream, &down, &mut sent);
        let socket = world.socket(handle);
        while socket.can_recv() {
            socket.recv(|ring| (ring.len(), got.extend_from_slice(ring))).unwrap();
        }
        got.len() >= down.len()
    });
    assert!(got == down);
}

#[test]
fn end_of_data_that_goes_beyond_the_window_waits_for_the_data() {
    let mut peer = Peer::new(u32::MAX - 65_000);
    let stream = peer.open(b"");
    let data = bytes(70_000, 4);
    let first = peer.segment(ACK, 0, &data[..40_000]);
    peer.world.inject(&first);
    peer.send(ACK | FIN, 40_000, &data[40_000..]); // without a scale the window is 65,535 bytes
    let mut got = Vec::new();
    assert_eq!(read_some(&stream, &mut got), Ok(false), "an end after {} bytes", got.len());
    peer.send(ACK | FIN, 40_000, &data[40_000..]);
    assert_eq!(read_some(&stream, &mut got), Ok(true));
    assert!(got == data, "{} bytes", got.len());
}

#[test]
fn end_of_data_that_comes_before_other_data_waits_for_it() {
    let mut peer = Peer::new(7);
    let stream = peer.open(b"");
    let data = bytes(20, 4);
    let mut got = Vec::new();
    peer.send(ACK | FIN, 10, &data[10..]);
    peer.send(ACK, 0, &data[..10]);
    assert_eq!(read_some(&stream, &mut got), Ok(false));
    peer.send(ACK | FIN, 10, &data[10..]); // sent again, as it was not acknowledged
    assert_eq!((read_some(&stream, &mut got), got), (Ok(true), data));
    assert_eq!(peer.last().acknowledgement, peer.at(21));
}

#[test]
fn headers_between_ip_and_tcp_are_no_hindrance() {
    for between in [Between::Nothing4, Between::Options4, Between::Nothing6, Between::Extensions6] {
        let mut peer = Peer::new(7);
        peer.between = between;
        let mut stream = peer.open(b"");
        peer.send(ACK, 0, b"ques");
        peer.send(ACK | FIN, 4, b"tion");
        let mut got = Vec::new();
        assert_eq!((read_some(&stream, &mut got), &got[..]), (Ok(true), &b"question"[..]), "{between:?}");
        stream.write_all(b"answer").unwrap();
        drop(stream);
        peer.turn();
        assert_eq!(peer.got, b"answer");
        peer.send(ACK, 9, b"");
        assert_eq!(peer.world.stack.usage().0, 0, "{between:?}");
    }
}

#[test]
fn bytes_for_the_program_pass_the_wrap() {
    let mut peer = Peer::new(7);
    peer.world = World::seeded(23055, vec![listener()], 65535, Wire::default()); // the first number is just before the wrap
    let mut stream = peer.open(b"");
    let first = peer.expected;
    assert!(first > u32::MAX - 50_000, "{first}: another seed is needed");
    let data = bytes(200_000, 5);
    stream.write_all(&data).unwrap();
    drop(stream);
    for _ in 0..100 {
        peer.turn();
        peer.send(ACK, 0, b"");
    }
    assert!(peer.got == data, "{} bytes", peer.got.len());
    assert_eq!(peer.expected, first.wrapping_add(200_001));
    peer.send(ACK | FIN, 0, b"");
    peer.send(ACK, 1, b"");
    assert_eq!(peer.world.value("flows_finished"), 1);
}
