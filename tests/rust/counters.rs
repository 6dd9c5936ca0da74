//! What is counted while connections live: world.rs checks at every step of every test that it adds up.

use std::io::Write;
use std::net::Shutdown;

use crate::flows::reset;
use crate::world::{TARGET, Wire, World};
use _tunstack::stats::Stats;
use smoltcp::socket::tcp::State;
use smoltcp::time::Duration;

/// Check that each of `flows` is counted in exactly one gauge, and each connect by what became of it.
pub fn assert_add_up(stats: &Stats, flows: usize) {
    let all = stats.snapshot();
    let sum_of = |wanted: &dyn Fn(&str) -> bool| -> u64 {
        all.iter().filter(|(name, _)| wanted(name)).map(|(_, value)| value).sum()
    };
    let sum = |names: &[&str]| sum_of(&|name| names.contains(&name));
    assert_eq!(sum(&["flows_connecting_now", "flows_open_now"]), flows as u64);
    let refused = sum_of(&|name| name.starts_with("refused_"));
    let begun = refused + sum(&["flows_opened", "flows_abandoned", "flows_connecting_now"]);
    assert_eq!(sum(&["flows_begun"]), begun);
    let ends = ["flows_finished", "flows_reset_by_client", "flows_reset_by_proxy", "flows_open_now"];
    assert_eq!(sum(&["flows_opened"]), sum(&ends));
    assert_eq!(sum(&["flows_opened"]), sum(&["connect_count"]));
}

/// Wait until exactly one flow is counted, in this gauge and in this sum.
fn counted_in(world: &mut World, gauge: &str, sum: &str) {
    world.until(gauge, |world| world.value(gauge) == 1);
    assert_eq!(world.value(sum), 1, "{gauge} is a part of {sum}");
}

#[test]
fn flow_is_counted_where_it_is_from_the_request_to_the_last_byte() {
    for program_first in [true, false] {
        let mut world = World::plain();
        let handle = world.connect(TARGET, 40000);
        let (mut stream, _) = world.request(0);
        counted_in(&mut world, "flows_asking_now", "flows_connecting_now");
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        counted_in(&mut world, "flows_established_now", "flows_open_now");
        if program_first {
            world.socket(handle).close();
            counted_in(&mut world, "flows_half_closed_by_client_now", "flows_open_now");
            drop(stream);
        } else {
            stream.shutdown(Shutdown::Write).unwrap();
            counted_in(&mut world, "flows_half_closed_by_proxy_now", "flows_open_now");
            world.socket(handle).close();
        }
        world.until("finished", |world| world.value("flows_finished") == 1);
        world.assert_empty();
    }
}

#[test]
fn flow_that_the_proxy_broke_is_counted_until_its_program_has_the_rest() {
    let mut world = World::plain();
    let (handle, mut stream) = world.open(TARGET, 40000);
    while stream.write(&[7; 65536]).is_ok() {
        world.step(); // the program does not read
    }
    reset(stream);
    world.socket(handle).send_slice(b"?").unwrap();
    counted_in(&mut world, "flows_breaking_now", "flows_open_now");
    world.assert_empty();
    assert_eq!((world.value("flows_reset_by_proxy"), world.value("flows_opened")), (1, 1));
}

#[test]
fn connect_that_is_given_up_is_counted_as_that() {
    let mut world = World::plain();
    let handle = world.connect(TARGET, 40000);
    world.request(0);
    world.program.sockets.remove(handle); // close() in SYN-SENT: the kernel sends nothing, and forgets
    let again = world.connect(TARGET, 40000);
    world.until("given up", |world| world.value("flows_abandoned") == 1);
    assert_eq!(world.value("flows_reset_by_client"), 0, "it was never open");
    assert_eq!(world.socket(again).state(), State::SynSent);
}

#[test]
fn time_of_a_connect_is_that_from_its_syn_to_the_answer() {
    let mut world = World::plain();
    let handle = world.connect(TARGET, 40000);
    let (mut stream, _) = world.request(0);
    world.rest(Duration::from_millis(120));
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    world.until("connected", |world| world.socket(handle).state() == State::Established);
    assert_eq!((world.value("connect_under_100_ms"), world.value("connect_under_200_ms")), (0, 1));
    let micros = world.value("connect_sum_us");
    assert!((120_000..200_000).contains(&micros), "{micros}");
}

#[test]
fn time_of_a_connect_holds_that_of_a_proxy_tried_before() {
    let mut world = World::new(2, 65535, Wire::default());
    let handle = world.connect(TARGET, 40000);
    let (mut first, _) = world.request(0);
    world.rest(Duration::from_millis(120));
    first.write_all(b"HTTP/1.1 503 Busy\r\n\r\n").unwrap();
    let (mut second, _) = world.request(1);
    second.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    world.until("connected", |world| world.socket(handle).state() == State::Established);
    assert_eq!((world.value("connect_under_100_ms"), world.value("connect_count")), (0, 1));
}

#[test]
fn refused_connect_is_in_no_histogram() {
    let mut world = World::plain();
    let handle = world.connect(TARGET, 40000);
    let (mut stream, _) = world.request(0);
    stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").unwrap();
    world.until("refused", |world| world.socket(handle).state() == State::Closed);
    assert_eq!((world.value("connect_count"), world.value("refused_status_403")), (0, 1));
}

#[test]
fn connection_at_hand_is_counted_until_it_is_used() {
    let mut world = World::plain();
    world.replace_stack(1);
    world.step();
    assert_eq!(world.value("pool_idle_now"), 1);
    world.connect(TARGET, 40000);
    world.request(0);
    assert_eq!((world.value("pool_idle_now"), world.value("pool_hits")), (0, 1));
}
