//! A proxy that follows a script: what it says, in which pieces, and where it stops. See world.rs.

use std::io::Write;
use std::net::TcpStream;

use crate::flows::reset;
use crate::world::{TARGET, Wire, World};
use smoltcp::socket::tcp::State;
use smoltcp::time::Duration;

const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

/// Let a connect be refused with `answer`, the proxy hanging up after it.
fn refused(world: &mut World, port: u16, answer: &[u8]) {
    let handle = world.connect(TARGET, port);
    let (mut stream, _) = world.request(0);
    stream.write_all(answer).unwrap();
    drop(stream);
    world.until("refused", |world| world.socket(handle).state() == State::Closed);
}

#[test]
fn reply_in_two_pieces_opens_wherever_it_is_cut() {
    for cut in 1..REPLY.len() {
        let mut world = World::plain();
        let handle = world.connect(TARGET, 40000);
        let (mut stream, _) = world.request(0);
        stream.write_all(&REPLY[..cut]).unwrap();
        world.rest(Duration::from_millis(100));
        assert_eq!(world.socket(handle).state(), State::SynSent, "cut at {cut}");
        stream.write_all(&REPLY[cut..]).unwrap();
        world.until("connected", |world| world.socket(handle).state() == State::Established);
    }
}

#[test]
fn proxy_that_ends_anywhere_in_its_reply_refuses_once() {
    let ends: [fn(TcpStream); 2] = [drop, reset];
    for end in ends {
        for length in 0..REPLY.len() {
            let mut world = World::plain();
            let handle = world.connect(TARGET, 40000);
            let (mut stream, _) = world.request(0);
            stream.write_all(&REPLY[..length]).unwrap();
            end(stream);
            world.until("refused", |world| world.socket(handle).state() == State::Closed);
            assert_eq!(world.stats.refused_closed.get(), 1, "after {length} bytes");
            assert_eq!(world.notes.take().len(), 1);
            world.assert_empty();
        }
    }
}

#[test]
fn every_status_is_counted_as_itself_and_noted_once_a_minute() {
    let kinds = [401, 403, 404, 405, 407, 408, 429, 500, 501, 502, 503, 504].map(|status| (status, status.to_string()));
    for (status, name) in kinds.into_iter().chain([301, 402, 505, 999].map(|status| (status, "other".to_owned()))) {
        let mut world = World::plain();
        let answer = format!("HTTP/1.1 {status} Because\r\n\r\n");
        for port in 40000..40003 {
            refused(&mut world, port, answer.as_bytes());
        }
        assert_eq!(world.value(&format!("refused_status_{name}")), 3, "{status}");
        assert_eq!(world.value("notes_held_back"), 2, "{status}");
        let notes = world.notes.take();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains(&format!("{status} Because")), "{notes:?}");
        world.assert_empty();
    }
}

#[test]
fn reply_that_drips_is_given_up_after_30_seconds() {
    let mut world = World::plain();
    let handle = world.connect(TARGET, 40000);
    let (mut stream, _) = world.request(0);
    stream.write_all(b"HTTP/1.1 200 OK\r\nA: ").unwrap();
    let begin = world.now;
    while world.socket(handle).state() != State::Closed {
        let _ = stream.write(b"a").is_ok();
        world.rest(Duration::from_millis(500));
        assert!((world.now - begin).total_millis() < 32_000, "not given up");
    }
    assert!((world.now - begin).total_millis() >= 29_500);
    assert_eq!(world.stats.refused_timeout.get(), 1);
    world.assert_empty();
}

#[test]
fn dead_proxies_refuse_within_the_timeout_and_one_that_comes_back_serves() {
    let mut world = World::new(2, 65535, Wire::default());
    let address = world.proxies[0].local_addr().unwrap();
    world.proxies.clear();
    let begin = world.now;
    let handle = world.connect(TARGET, 40000);
    world.until("refused", |world| world.socket(handle).state() == State::Closed);
    assert!((world.now - begin).total_millis() < 31_000);
    assert_eq!(world.stats.refused_unreachable.get(), 1);
    let back = std::net::TcpListener::bind(address).unwrap();
    back.set_nonblocking(true).unwrap();
    world.proxies.push(back);
    world.open(TARGET, 40001);
}
