//! A proxy that follows a script: what it says, in which pieces, and where it stops. See world.rs.

use std::io::Write;
use std::net::TcpStream;

use crate::streams::{received, reset};
use crate::world::{GRANT, TARGET, World};
use _tunstack::connect::MAX_HEADER;
use smoltcp::socket::tcp::State;
use smoltcp::time::Duration;

/// Let a connect be refused with `answer`, the proxy hanging up after it.
fn refused(world: &mut World, port: u16, answer: &[u8]) {
    let handle = world.connect(TARGET, port);
    let (mut stream, _) = world.request(0);
    stream.write_all(answer).unwrap();
    drop(stream);
    world.closed(handle);
}

#[test]
fn reply_in_two_pieces_opens_wherever_it_is_cut() {
    for cut in 1..GRANT.len() {
        let mut world = World::plain();
        let handle = world.connect(TARGET, 40000);
        let (mut stream, _) = world.request(0);
        stream.write_all(&GRANT[..cut]).unwrap();
        world.rest(Duration::from_millis(100));
        assert_eq!(world.socket(handle).state(), State::SynSent, "cut at {cut}");
        stream.write_all(&GRANT[cut..]).unwrap();
        world.connected(handle);
    }
}

#[test]
fn proxy_that_ends_anywhere_in_its_reply_refuses_once() {
    let ends: [fn(TcpStream); 2] = [drop, reset];
    for end in ends {
        for length in 0..GRANT.len() {
            let mut world = World::plain();
            let handle = world.connect(TARGET, 40000);
            let (mut stream, _) = world.request(0);
            stream.write_all(&GRANT[..length]).unwrap();
            end(stream);
            world.closed(handle);
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
fn reply_of_any_shape_that_is_a_2xx_opens_and_what_follows_it_is_for_the_program() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: bcdefghij\r\n".repeat(100));
    let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "b".repeat(MAX_HEADER - 24));
    let replies = [
        "HTTP/1.0 200 Connection established\r\n\r\n",
        "HTTP/1.1 201 Created\r\nA: b\r\n\r\n",
        "HTTP/1.1 204\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        &many,
        &long,
    ];
    for reply in replies {
        for together in [true, false] {
            let mut world = World::plain();
            let handle = world.connect(TARGET, 40000);
            let (mut stream, _) = world.request(0);
            let banner = "SSH-2.0-x\r\n\r\n";
            if together {
                stream.write_all(format!("{reply}{banner}").as_bytes()).unwrap();
            } else {
                stream.write_all(reply.as_bytes()).unwrap();
                world.rest(Duration::from_millis(10));
                stream.write_all(banner.as_bytes()).unwrap();
            }
            let mut got = Vec::new();
            world.until("the banner", |world| {
                got.extend(received(world.socket(handle)));
                got.len() >= banner.len()
            });
            assert_eq!(got, banner.as_bytes(), "{reply}");
        }
    }
}

#[test]
fn reply_that_is_none_is_refused_and_counted_as_garbage() {
    let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "b".repeat(MAX_HEADER + 1 - 24));
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(3000);
    for reply in [&long, &interim, "\0", "HTTP/2 200\r\n\r\n", "HTTP/1.1 2x0 OK\r\n\r\n", "\x16\x03\x01\x02"] {
        let mut world = World::plain();
        let handle = world.connect(TARGET, 40000);
        let (mut stream, _) = world.request(0);
        let _ = stream.write(reply.as_bytes()); // the stack may hang up in the middle
        world.closed(handle);
        assert_eq!(world.stats.refused_garbage.get(), 1, "{:?}", reply.get(..20));
        assert_eq!(world.notes.take().len(), 1);
        world.assert_empty();
    }
}

#[test]
fn reply_that_drips_but_comes_in_time_opens() {
    let mut world = World::plain();
    let handle = world.connect(TARGET, 40000);
    let (mut stream, _) = world.request(0);
    for byte in GRANT.chunks(1) {
        world.rest(Duration::from_millis(1500));
        assert_eq!(world.socket(handle).state(), State::SynSent);
        stream.write_all(byte).unwrap();
    }
    world.connected(handle);
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
