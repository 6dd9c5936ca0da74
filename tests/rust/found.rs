//! What fuzzing found (fuzz/): sequences that no sane program and no sane proxy makes, and that must leave nothing.

use std::io::Write;
use std::net::TcpStream;

use crate::by_hand::{ACK, Between, FIN, Packet, Peer, RST, SYN, framed};
use crate::world::{TARGET, World};
use smoltcp::time::Duration;
use smoltcp::wire::{Ipv4Packet, TcpPacket};

/// The initial sequence number of the program.
const FIRST: u32 = 1000;

/// Send a segment from an offset in the program's stream; -1 is the SYN.
fn send(world: &mut World, flags: u8, offset: i32, acknowledgement: u32, payload: &[u8]) {
    let mut tail = vec![1; 40]; // no-operations
    tail.extend(payload);
    let (source, target) = ("10.0.0.2:40000".parse().unwrap(), TARGET.parse().unwrap());
    let sequence = FIRST.wrapping_add_signed(offset + 1);
    let packet = Packet { source, target, flags, sequence, acknowledgement, window: u16::MAX, tail };
    world.inject(&framed(&packet.bytes()));
    world.stack_acts();
}

/// Open a connection by hand: the proxy's end, and the next sequence number that the stack will send.
fn open(world: &mut World) -> (TcpStream, u32) {
    send(world, SYN, -1, 0, b"");
    for _ in 0..10 {
        world.stack_acts();
    }
    let (mut stream, _) = world.proxies[0].accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    world.stack_acts();
    let frame = world.program.link.taken().unwrap();
    let ip = Ipv4Packet::new_checked(&frame[10..]).unwrap();
    let expected = (TcpPacket::new_checked(ip.payload()).unwrap().seq_number().0 as u32).wrapping_add(1);
    send(world, ACK, 0, expected, b"");
    (stream, expected)
}

#[test]
fn bytes_behind_a_fin_do_not_keep_a_flow() {
    for reset in [false, true] {
        let mut world = World::plain();
        let (_stream, expected) = open(&mut world);
        send(&mut world, ACK | FIN, 0, expected, b"all");
        send(&mut world, ACK, 4, expected, b"and more");
        if reset {
            send(&mut world, RST | ACK, 12, expected, b"");
        } // or the machine vanishes
        world.rest(Duration::from_secs(1200));
        world.assert_empty();
    }
}

#[test]
fn reset_while_the_proxy_does_not_read_ends_the_flow() {
    let mut world = World::plain();
    let (handle, _stream) = world.open(TARGET, 40000);
    let (mut sent, mut before) = (0, usize::MAX);
    world.until("the program can send no more", |world| {
        let stopped = sent == before;
        before = sent;
        let socket = world.socket(handle);
        if socket.can_send() {
            sent += socket.send_slice(&[7; 60_000]).unwrap();
        }
        stopped && sent == before && socket.send_queue() > 0
    });
    assert!(world.stats.bytes_up.get() < sent as u64, "the proxy has read all of it");
    world.socket(handle).abort();
    world.rest(Duration::from_secs(60));
    world.assert_empty();
    assert_eq!(world.stats.flows_reset_by_client.get(), 1);
}

#[test]
fn super_segment_of_ipv6_is_cut_to_what_the_program_takes() {
    let mut peer = Peer::new(FIRST);
    (peer.between, peer.mss) = (Between::Nothing6, Some(1220));
    let mut stream = peer.open(b"");
    stream.write_all(&[7; 10_000]).unwrap();
    peer.turn();
    assert_eq!((peer.last().length, peer.largest), (10_000, 1220), "a packet, and what it is cut into");
}
