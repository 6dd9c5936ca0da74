//! The same semantics with TLS between us and the proxy as without: bytes, back-pressure, ends, half-ends, resets, early
//! bytes, connections at hand. See front.rs.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use rustls::HandshakeKind;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use smoltcp::time::Duration;

use crate::front::VERSIONS;
use crate::streams::{bytes, exchange, read_some, received, reset, write_some};
use crate::world::{GRANT, TARGET, World};

/// More than all rings and sockets on the way together hold.
const MUCH: usize = 24 << 20;

#[test]
fn bytes_go_both_ways_and_both_ends_end_in_order() {
    for version in VERSIONS {
        for (up, down) in [(0, 0), (1, 70_000), (3_000_000, 1), (5_000_000, 5_000_000)] {
            let mut world = World::secured(version);
            let (handle, stream) = world.open(TARGET, 40000);
            exchange(&mut world, handle, &stream, &bytes(up, 1), &bytes(down, 2));
            drop(stream);
            world.assert_empty();
            assert_eq!(world.stats.flows_finished.get(), 1);
            assert_eq!((world.stats.bytes_up.get(), world.stats.bytes_down.get()), (up as u64, down as u64));
        }
    }
}

#[test]
fn each_side_may_end_first_and_the_other_goes_on() {
    for version in VERSIONS {
        for polite in [true, false] {
            let mut world = World::secured(version);
            world.front.as_mut().unwrap().polite = polite;
            let (handle, mut stream) = world.open(TARGET, 40000);
            let mut got = Vec::new();
            world.socket(handle).send_slice(b"question").unwrap();
            world.socket(handle).close();
            world.until("the proxy sees the end", |_| read_some(&stream, &mut got).unwrap());
            assert_eq!(got, b"question");
            stream.write_all(&bytes(500_000, 3)).unwrap();
            drop(stream);
            let mut answer = Vec::new();
            world.until("the answer", |world| {
                answer.extend(received(world.socket(handle)));
                !world.socket(handle).may_recv()
            });
            assert!(answer == bytes(500_000, 3));
            world.assert_empty();

            let (handle, stream) = world.open(TARGET, 40001);
            let mut got = Vec::new();
            stream.shutdown(Shutdown::Write).unwrap();
            world.until("the program sees the end", |world| world.socket(handle).state() == State::CloseWait);
            world.socket(handle).send_slice(b"late").unwrap();
            world.socket(handle).close();
            world.until("the proxy gets the rest", |_| read_some(&stream, &mut got).unwrap());
            assert_eq!(got, b"late");
            world.assert_empty();
            assert_eq!(world.stats.flows_finished.get(), 2);
        }
    }
}

#[test]
fn program_that_does_not_read_stops_the_proxy_and_loses_nothing() {
    for version in VERSIONS {
        let mut world = World::secured(version);
        let (handle, stream) = world.open(TARGET, 40000);
        let (down, mut sent) = (bytes(MUCH, 4), 0);
        for _ in 0..3000 {
            write_some(&stream, &down, &mut sent);
            world.step();
        }
        assert!(sent < MUCH, "nobody holds all of it");
        let mut got = Vec::new();
        world.until("all of it", |world| {
            write_some(&stream, &down, &mut sent);
            got.extend(received(world.socket(handle)));
            got.len() == MUCH
        });
        assert!(got == down);
    }
}

#[test]
fn proxy_that_does_not_read_stops_the_program_and_gets_the_rest_when_nothing_else_happens() {
    for version in VERSIONS {
        let mut world = World::secured(version);
        let (handle, stream) = world.open(TARGET, 40000);
        world.front.as_mut().unwrap().listens = false;
        let (up, mut sent) = (bytes(MUCH, 5), 0);
        for _ in 0..3000 {
            let socket = world.socket(handle);
            if socket.can_send() && sent < up.len() {
                sent += socket.send_slice(&up[sent..]).unwrap();
            }
            world.step();
        }
        assert!(sent < MUCH, "nobody holds all of it");
        world.socket(handle).close();
        stream.shutdown(Shutdown::Write).unwrap();
        for _ in 0..100 {
            world.step();
        }
        world.front.as_mut().unwrap().listens = true;
        let mut got = Vec::new();
        world.until("the rest, and its end", |_| read_some(&stream, &mut got).unwrap());
        assert!(got == up[..sent]);
        drop(stream);
        world.assert_empty();
        assert_eq!(world.stats.flows_finished.get(), 1);
    }
}

#[test]
fn proxy_that_never_reads_the_last_bytes_is_given_up() {
    let mut world = World::secured(VERSIONS[1]);
    let (handle, stream) = world.open(TARGET, 40000);
    stream.shutdown(Shutdown::Write).unwrap();
    world.until("the program sees the end", |world| world.socket(handle).state() == State::CloseWait);
    world.front.as_mut().unwrap().listens = false;
    let (up, mut sent) = (bytes(MUCH, 6), 0);
    for _ in 0..3000 {
        let socket = world.socket(handle);
        if socket.can_send() && sent < up.len() {
            sent += socket.send_slice(&up[sent..]).unwrap();
        }
        world.step();
    }
    world.socket(handle).abort();
    world.assert_empty();
}

#[test]
fn resets_go_both_ways_after_the_bytes_before_them() {
    for version in VERSIONS {
        let mut world = World::secured(version);
        let (handle, mut stream) = world.open(TARGET, 40000);
        stream.write_all(b"before").unwrap();
        world.rest(Duration::from_millis(100));
        reset(stream);
        let mut got = Vec::new();
        world.until("the program is reset", |world| {
            got.extend(received(world.socket(handle)));
            world.socket(handle).state() == State::Closed
        });
        assert_eq!(got, b"before");
        world.assert_empty();
        assert_eq!(world.stats.flows_reset_by_proxy.get(), 1);

        let (handle, stream) = world.open(TARGET, 40001);
        world.socket(handle).abort();
        let mut seen = Ok(false);
        world.until("the proxy sees it", |_| {
            seen = read_some(&stream, &mut Vec::new());
            seen != Ok(false)
        });
        assert_eq!(seen, Err(std::io::ErrorKind::ConnectionReset));
        world.assert_empty();
        assert_eq!(world.stats.flows_reset_by_client.get(), 1);
    }
}

#[test]
fn bytes_behind_the_2xx_are_the_streams() {
    for version in VERSIONS {
        for length in [20, 9000, 300_000] {
            let mut world = World::secured(version);
            let handle = world.connect(TARGET, 40000);
            let (stream, _) = world.request(0);
            let reply = [GRANT, &bytes(length, 7)].concat();
            let (mut sent, mut got) = (0, Vec::new());
            world.until("all bytes", |world| {
                write_some(&stream, &reply, &mut sent);
                got.extend(received(world.socket(handle)));
                got.len() == length
            });
            assert!(got == bytes(length, 7));
        }
    }
}

#[test]
fn connection_at_hand_has_its_handshake_behind_it_and_sessions_are_resumed() {
    for version in VERSIONS {
        let mut world = World::secured(version);
        drop(world.open(TARGET, 40000));
        world.replace_stack(2);
        world.rest(Duration::from_millis(500));
        assert_eq!(world.front.as_ref().unwrap().handshakes.len(), 3, "before anybody needs them");
        let (handle, stream) = world.open(TARGET, 40001);
        assert_eq!(world.stats.pool_hits.get(), 1);
        exchange(&mut world, handle, &stream, &bytes(100_000, 8), &bytes(100_000, 9));
        let front = world.front.as_ref().unwrap();
        assert_eq!(front.handshakes.len(), 3);
        assert_eq!(front.handshakes[0], HandshakeKind::Full);
        assert!(front.handshakes[1..].contains(&HandshakeKind::Resumed));
    }
}

#[test]
fn proxy_without_tls_is_a_refused_connect_and_a_guess() {
    let mut world = World::secured(VERSIONS[1]);
    let listener = std::mem::replace(&mut world.front.as_mut().unwrap().listener, crate::world::listener());
    let handle = world.connect(TARGET, 40000);
    let mut taken = None;
    world.until("a connection", |_| {
        taken = listener.accept().ok();
        taken.is_some()
    });
    taken.unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").unwrap();
    world.closed(handle);
    assert_eq!(world.stats.refused_tls.get(), 1);
    let notes = world.notes.take();
    assert!(notes.iter().any(|note| note.contains("is it an http:// proxy?")), "{notes:?}");
    world.assert_empty();
}

/// Let the program send pieces of `size` until one is not taken, or `most` were; the proxy does not read. Gives how many
/// were taken.
fn fill(world: &mut World, handle: SocketHandle, size: usize, most: usize) -> usize {
    let (piece, before) = (bytes(size, 10), world.stats.bytes_up.get());
    for count in 0..most {
        let wanted = before + ((count + 1) * size) as u64;
        let mut sent = 0;
        for _ in 0..40 {
            let socket = world.socket(handle);
            if socket.can_send() && sent < size {
                sent += socket.send_slice(&piece[sent..]).unwrap();
            }
            world.step();
            if world.stats.bytes_up.get() == wanted {
                break;
            }
        }
        if world.stats.bytes_up.get() < wanted {
            return count;
        }
    }
    most
}

/// A connection to a proxy that does not read, on which nearly as much was sent as the kernel takes.
fn nearly_full(large: usize) -> (World, SocketHandle, TcpStream) {
    let mut world = World::secured(VERSIONS[1]);
    let (handle, stream) = world.open(TARGET, 40000);
    world.front.as_mut().unwrap().listens = false;
    fill(&mut world, handle, 60_000, large);
    (world, handle, stream)
}

/// TLS takes one more small record than the kernel does: with one of these numbers of records it holds the last.
#[test]
fn last_bytes_are_sent_when_nothing_else_happens_any_more() {
    let (mut world, handle, _stream) = nearly_full(0);
    let large = fill(&mut world, handle, 60_000, 1000) - 1;
    let (mut world, handle, _stream) = nearly_full(large);
    let small = fill(&mut world, handle, 1000, 10_000);
    for count in small.saturating_sub(3)..=small + 3 {
        let (mut world, handle, stream) = nearly_full(large);
        let taken = large * 60_000 + 1000 * fill(&mut world, handle, 1000, count);
        world.front.as_mut().unwrap().listens = true;
        let mut got = Vec::new();
        world.until("all bytes, though the program says nothing more", |_| {
            read_some(&stream, &mut got).unwrap();
            got.len() >= taken
        });
        world.socket(handle).close();
        world.until("the end", |_| read_some(&stream, &mut got).unwrap());
        drop(stream);
        world.assert_empty();
        assert_eq!(world.stats.flows_finished.get(), 1);
    }
}
