//! What fuzzing found (fuzz/): sequences that no sane program and no sane proxy makes, and that must leave nothing.

use std::io::Write;
use std::net::TcpStream;

use crate::hostile::{framed, packet};
use crate::world::{TARGET, World};
use smoltcp::time::Duration;
use smoltcp::wire::{Ipv4Packet, TcpPacket};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
/// The initial sequence number of the program.
const FIRST: u32 = 1000;

/// Send a segment from an offset in the program's stream; -1 is the SYN.
fn send(world: &mut World, flags: u8, offset: i32, acknowledgement: u32, payload: &[u8]) {
    let mut tail = vec![1; 40]; // no-operations
    tail.extend(payload);
    let numbers = (FIRST.wrapping_add_signed(offset + 1), acknowledgement);
    let addresses = ("10.0.0.2".parse().unwrap(), "192.0.2.1".parse().unwrap());
    world.inject(&framed(&packet(addresses.0, addresses.1, (40000, 443), flags, numbers, &tail)));
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
    let frame = world.taken().unwrap();
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
    let mut world = World::plain();
    let mut tail = vec![1; 40];
    tail[..4].copy_from_slice(&[2, 4, 4, 196]); // an MSS of 1220
    let addresses = ("2001:db8::2".parse().unwrap(), "2001:db8::1".parse().unwrap());
    world.inject(&framed(&packet(addresses.0, addresses.1, (40000, 443), SYN, (FIRST, 0), &tail)));
    for _ in 0..10 {
        world.stack_acts();
    }
    let (mut stream, _) = world.proxies[0].accept().unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    world.stack_acts();
    let frame = world.taken().unwrap();
    let sequence = TcpPacket::new_checked(&frame[50..]).unwrap().seq_number().0 as u32;
    let numbers = (FIRST + 1, sequence.wrapping_add(1));
    world.inject(&framed(&packet(addresses.0, addresses.1, (40000, 443), ACK, numbers, &[1; 40])));
    stream.write_all(&[7; 10_000]).unwrap();
    for _ in 0..10 {
        world.stack_acts();
    }
    let frame = world.taken().unwrap();
    assert_eq!(frame.len(), 10 + 40 + 20 + 10_000);
    assert_eq!((frame[1], u16::from_ne_bytes([frame[4], frame[5]])), (4, 1220), "gso_type TCPV6, gso_size");
}
