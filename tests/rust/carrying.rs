//! Bytes through open connections: all of them, in order, whatever the wire does. See world.rs.

use std::io::Write;

use crate::streams::{bytes, exchange, received, write_some};
use crate::wire::Wire;
use crate::world::{GRANT, TARGET, TARGET6, World};
use proptest::prelude::*;
use smoltcp::time::Duration;

#[test]
fn bytes_go_both_ways_and_both_ends_end_in_order() {
    for (target, line) in [(TARGET, "CONNECT 192.0.2.1:443 "), (TARGET6, "CONNECT [2001:db8::1]:443 ")] {
        let mut world = World::plain();
        let handle = world.connect(target, 40000);
        let (mut stream, request) = world.request(0);
        assert!(request.starts_with(line), "{request}");
        stream.write_all(GRANT).unwrap();
        let (up, down) = (bytes(3_000_000, 1), bytes(5_000_000, 2));
        world.connected(handle);
        exchange(&mut world, handle, &stream, &up, &down);
        world.assert_empty();
        assert_eq!(world.stats.flows_finished.get(), 1);
        assert_eq!((world.stats.bytes_up.get(), world.stats.bytes_down.get()), (3_000_000, 5_000_000));
    }
}

#[test]
fn program_that_does_not_read_stops_the_proxy_and_loses_nothing() {
    let mut world = World::plain();
    let (handle, stream) = world.open(TARGET, 40000);
    let (down, mut sent) = (bytes(30_000_000, 4), 0);
    let mut before = usize::MAX;
    world.until("the proxy can send no more", |_| {
        let stopped = before == sent;
        before = sent;
        write_some(&stream, &down, &mut sent);
        stopped && sent > 0 && sent == before
    });
    assert!(sent < 20_000_000, "{sent} bytes are somewhere");
    world.rest(Duration::from_secs(100)); // zero-window probes
    let mut got = Vec::new();
    world.until("all of it", |world| {
        write_some(&stream, &down, &mut sent);
        got.extend(received(world.socket(handle)));
        got.len() >= down.len()
    });
    assert!(got == down);
}

#[test]
fn many_flows_at_once_keep_their_bytes_apart() {
    let mut world = World::plain();
    let mut pairs = Vec::new();
    for number in 0..100 {
        pairs.push(world.open(TARGET, 41000 + number));
    }
    for (number, (handle, stream)) in pairs.iter().enumerate() {
        let (up, down) = (bytes(5000 + number, number as u32), bytes(7000 + number, 500 + number as u32));
        exchange(&mut world, *handle, stream, &up, &down);
    }
    world.assert_empty();
    assert_eq!(world.stats.flows_finished.get(), 100);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever the wire does, the bytes that arrive are those that were sent, in order, and nothing is left.
    #[test]
    fn no_wire_changes_the_bytes(
        lost in 0u8..24, doubled in 0u8..24, overtaken in 0u8..24, seed in 1u32..u32::MAX,
        up in 0usize..200_000, down in 0usize..200_000, mtu in prop::sample::select(vec![576usize, 1500, 9000, 65535]),
    ) {
        let mut world = World::new(1, mtu, Wire { lost, doubled, overtaken, seed });
        let (handle, stream) = world.open(TARGET, 40000);
        exchange(&mut world, handle, &stream, &bytes(up, seed), &bytes(down, !seed));
        world.assert_empty();
    }
}
