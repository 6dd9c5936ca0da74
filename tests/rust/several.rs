//! Proxies that are dead, each in its way, and others beside them. See world.rs.

use std::io::Write;
use std::net::TcpListener;

use crate::hole::BlackHole;
use crate::streams::reset;
use crate::wire::Wire;
use crate::world::{GRANT, TARGET, World, listener};
use _tunstack::roster::Policy;
use smoltcp::socket::tcp::State;

#[test]
fn dead_proxy_is_passed_over_and_the_program_notices_nothing() {
    let mut world = World::new(2, 65535, Wire::default());
    let dead = world.proxies[0].local_addr().unwrap();
    let alive = world.proxies.remove(1);
    world.proxies = vec![alive]; // the first listener is closed: connection refused
    let handle = world.connect(TARGET, 40000);
    let (mut stream, _) = world.request(0);
    stream.write_all(GRANT).unwrap();
    world.connected(handle);
    assert_eq!(world.stats.proxy_failovers.get(), 1);
    let note = world.notes.take().remove(0);
    assert!(note.starts_with(&format!("no connection to the proxy {dead}")), "{note}");
    world.connect(TARGET, 40001);
    world.request(0);
    assert_eq!(world.stats.proxy_failovers.get(), 1, "the dead one is not tried first again");
}

/// Let the first of two proxies answer, and say whether the second is asked. `how` is what the stack was told.
fn asks_another(how: &Policy, answer: &str) -> bool {
    let mut world = World::choosing(vec![listener(), listener()], how.clone());
    let handle = world.connect(TARGET, 40000);
    let (mut first, _) = world.request(0);
    first.write_all(answer.as_bytes()).unwrap();
    drop(first);
    world.until("a proxy is asked, or the program refused", |world| {
        world.stats.proxy_failovers.get() > 0 || world.socket(handle).state() == State::Closed
    });
    if world.stats.proxy_failovers.get() > 0 {
        let (mut second, _) = world.request(1);
        second.write_all(GRANT).unwrap();
        world.connected(handle);
    }
    world.stats.proxy_failovers.get() > 0
}

#[test]
fn another_proxy_is_asked_where_one_fails_and_not_where_its_policy_refuses() {
    let (plain, too) = (Policy::default(), Policy { on_refusal: true, ..Policy::default() });
    let failures = [500, 502, 503, 504, 599].map(|status| format!("HTTP/1.1 {status} No\r\n\r\n"));
    for answer in failures.iter().map(String::as_str).chain(["220 ftp\r\n", ""]) {
        assert!(asks_another(&plain, answer), "{answer}");
    }
    for status in [301, 400, 401, 403, 404, 429, 451] {
        let answer = format!("HTTP/1.1 {status} No\r\n\r\n");
        assert_eq!((asks_another(&plain, &answer), asks_another(&too, &answer)), (false, true), "{status}");
    }
    assert!(asks_another(&plain, "HTTP/1.1 407 Who are you?\r\n\r\n"), "there is no account to be locked");
}

#[test]
fn answer_of_a_proxy_counts_more_than_the_death_of_the_next() {
    let mut world = World::new(2, 65535, Wire::default());
    let handle = world.connect(TARGET, 40000);
    let (mut first, _) = world.request(0);
    world.proxies.truncate(1); // refuses connections from now on
    first.write_all(b"HTTP/1.1 504 Late\r\n\r\n").unwrap();
    world.closed(handle);
    assert_eq!((world.stats.refused_status_504.get(), world.stats.refused_unreachable.get()), (1, 0));
}

#[test]
fn silent_proxy_is_passed_over_after_30_seconds() {
    let mut world = World::new(2, 65535, Wire::default());
    let handle = world.connect(TARGET, 40000);
    let (_silent, _) = world.request(0);
    let begin = world.now;
    let (mut second, _) = world.request(1);
    assert!((29_000..31_000).contains(&(world.now - begin).total_millis()));
    second.write_all(GRANT).unwrap();
    world.connected(handle);
}

#[test]
fn proxies_that_all_refuse_refuse_the_program_once() {
    let mut world = World::new(2, 65535, Wire::default());
    let handle = world.connect(TARGET, 40000);
    for number in 0..2 {
        let (mut stream, _) = world.request(number);
        stream.write_all(b"HTTP/1.1 503 Later\r\n\r\n").unwrap();
    }
    world.closed(handle);
    assert_eq!((world.stats.refused_status_503.get(), world.stats.proxy_failovers.get()), (1, 1));
    world.assert_empty();
}

#[test]
fn proxies_that_all_swallow_syns_refuse_within_10_seconds() {
    for count in 1..=5 {
        let holes: Vec<BlackHole> = (0..count).map(|_| BlackHole::new()).collect();
        let mut world = World::with(holes.iter().map(BlackHole::proxy).collect(), 65535, Wire::default());
        let begin = world.now;
        let handle = world.connect(TARGET, 40000);
        world.closed(handle);
        let waited = (world.now - begin).total_millis();
        assert!((9_900..12_000).contains(&waited), "{count} proxies: {waited} ms");
        assert_eq!(world.stats.refused_timeout.get(), 1);
        world.assert_empty();
    }
}

#[test]
fn proxy_that_is_restarted_resets_its_connections_and_serves_new_ones() {
    let mut world = World::plain();
    let (handle, stream) = world.open(TARGET, 40000);
    let address = world.proxies.remove(0).local_addr().unwrap();
    reset(stream);
    world.closed(handle);
    let refused = world.connect(TARGET, 40001);
    world.closed(refused);
    assert_eq!(world.stats.refused_unreachable.get(), 1);
    let back = TcpListener::bind(address).unwrap();
    back.set_nonblocking(true).unwrap();
    world.proxies.push(back);
    world.open(TARGET, 40002);
}

#[test]
fn dead_proxies_refuse_within_the_timeout_and_one_that_comes_back_serves() {
    let mut world = World::new(2, 65535, Wire::default());
    let address = world.proxies[0].local_addr().unwrap();
    world.proxies.clear();
    let begin = world.now;
    let handle = world.connect(TARGET, 40000);
    world.closed(handle);
    assert!((world.now - begin).total_millis() < 31_000);
    assert_eq!(world.stats.refused_unreachable.get(), 1);
    let back = std::net::TcpListener::bind(address).unwrap();
    back.set_nonblocking(true).unwrap();
    world.proxies.push(back);
    world.open(TARGET, 40001);
}
