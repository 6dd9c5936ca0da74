//! Packets that no kernel would send: none may panic, leave a flow behind, or be answered more than once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::by_hand::{Packet, framed};
use crate::world::{TARGET, World};
use proptest::prelude::*;
use smoltcp::time::Duration;

fn address4() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        Just(Ipv4Addr::new(10, 0, 0, 2)),
        Just(Ipv4Addr::new(192, 0, 2, 1)),
        Just(Ipv4Addr::UNSPECIFIED),
        Just(Ipv4Addr::BROADCAST),
        Just(Ipv4Addr::new(224, 0, 0, 1)),
        any::<u32>().prop_map(Ipv4Addr::from),
    ]
    .prop_map(IpAddr::V4)
}

fn address6() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        Just("2001:db8::2".parse::<Ipv6Addr>().unwrap()),
        Just(Ipv6Addr::UNSPECIFIED),
        Just("ff02::1".parse().unwrap()),
        any::<u128>().prop_map(Ipv6Addr::from),
    ]
    .prop_map(IpAddr::V6)
}

fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![(address4(), address4()), (address6(), address6())]
}

/// Let the stack take what was injected and answer it; give how many packets it wrote.
fn reaction(world: &mut World) -> u64 {
    let before = world.stats.tun_written.get();
    world.rest(Duration::from_millis(20));
    world.stats.tun_written.get() - before
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_are_survived(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..20)) {
        let mut world = World::plain();
        for frame in &frames {
            world.inject(frame);
        }
        prop_assert!(reaction(&mut world) <= frames.len() as u64);
        world.assert_empty();
    }

    #[test]
    fn any_segment_is_answered_at_most_once(
        (source, target) in addresses(), ports in any::<(u16, u16)>(), flags in any::<u8>(),
        numbers in any::<(u32, u32)>(), tail in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut world = World::plain();
        world.proxies.clear(); // every dial is refused
        let (source, target) = (SocketAddr::new(source, ports.0), SocketAddr::new(target, ports.1));
        let (sequence, acknowledgement) = numbers;
        let packet = Packet { source, target, flags, sequence, acknowledgement, window: u16::MAX, tail };
        world.inject(&framed(&packet.bytes()));
        prop_assert!(reaction(&mut world) <= 1);
        world.assert_empty();
    }

    #[test]
    fn segments_into_an_open_connection_are_survived(
        segments in prop::collection::vec(
            (any::<u8>(), -3i32..70_000, -3i32..70_000, prop::collection::vec(any::<u8>(), 0..80)), 1..20,
        ),
    ) {
        let mut world = World::plain();
        let (handle, _stream) = world.open(TARGET, 40000);
        for (flags, sequence, acknowledgement, tail) in segments {
            let (source, target) = ("10.0.0.2:40000".parse().unwrap(), TARGET.parse().unwrap());
            let (sequence, acknowledgement) = (sequence as u32, acknowledgement as u32);
            let packet = Packet { source, target, flags, sequence, acknowledgement, window: u16::MAX, tail };
            world.inject(&framed(&packet.bytes()));
        }
        world.rest(Duration::from_millis(50));
        world.socket(handle).abort();
        world.rest(Duration::from_millis(50));
        world.assert_empty();
    }
}
