//! Proxies that are dead, each in its way, and others beside them. See world.rs.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use crate::streams::reset;
use crate::wire::Wire;
use crate::world::{GRANT, TARGET, World, listener};

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

#[test]
fn proxy_that_refuses_in_any_way_or_hangs_up_is_passed_over() {
    let statuses = [401, 403, 407, 429, 500, 502, 503, 504].map(|status| format!("HTTP/1.1 {status} No\r\n\r\n"));
    for answer in statuses.iter().map(String::as_str).chain(["220 ftp\r\n", ""]) {
        let mut world = World::new(2, 65535, Wire::default());
        let handle = world.connect(TARGET, 40000);
        let (mut first, _) = world.request(0);
        first.write_all(answer.as_bytes()).unwrap();
        if answer.is_empty() {
            drop(first);
        }
        let (mut second, _) = world.request(1);
        second.write_all(GRANT).unwrap();
        world.connected(handle);
        assert_eq!(world.stats.proxy_failovers.get(), 1, "{answer}");
    }
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

/// A proxy that never answers a SYN: the connections that wait to be accepted are as many as it allows.
struct BlackHole {
    listener: TcpListener,
    _waiting: TcpStream,
}

impl BlackHole {
    fn new() -> BlackHole {
        let listener = listener();
        // SAFETY: plain system call on a descriptor that is open.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let waiting = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        BlackHole { listener, _waiting: waiting }
    }

    fn proxy(&self) -> TcpListener {
        self.listener.try_clone().unwrap()
    }
}

#[test]
fn proxy_that_swallows_syns_is_passed_over_after_its_share_of_10_seconds() {
    let hole = BlackHole::new();
    let mut world = World::with(vec![hole.proxy(), listener()], 65535, Wire::default());
    let begin = world.now;
    let handle = world.connect(TARGET, 40000);
    let (mut stream, _) = world.request(1);
    assert!((5_000..6_000).contains(&(world.now - begin).total_millis()), "{}", world.now - begin);
    stream.write_all(GRANT).unwrap();
    world.connected(handle);
    let begin = world.now;
    world.connect(TARGET, 40001);
    world.request(1);
    assert!((world.now - begin).total_millis() < 100, "the dead one is not tried first again");
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
