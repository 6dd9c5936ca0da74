//! How connections end: half-closes, resets from either side, and the port being used again. See world.rs.

use std::io::{ErrorKind, Write};
use std::net::Shutdown;

use crate::streams::{bytes, exchange, read_some, received, reset, write_some};
use crate::world::{TARGET, World};
use smoltcp::socket::tcp::State;
use smoltcp::time::Duration;

#[test]
fn each_side_may_end_first_and_the_other_goes_on() {
    for program_first in [true, false] {
        let mut world = World::plain();
        let (handle, mut stream) = world.open(TARGET, 40000);
        let mut got = Vec::new();
        if program_first {
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
        } else {
            stream.shutdown(Shutdown::Write).unwrap();
            world.until("the program sees the end", |world| world.socket(handle).state() == State::CloseWait);
            world.socket(handle).send_slice(b"late").unwrap();
            world.socket(handle).close();
            world.until("the proxy gets the rest", |_| read_some(&stream, &mut got).unwrap());
            assert_eq!(got, b"late");
        }
        world.assert_empty();
        assert_eq!(world.stats.flows_finished.get(), 1);
    }
}

#[test]
fn reset_of_the_program_resets_the_proxy() {
    let mut world = World::plain();
    let (handle, stream) = world.open(TARGET, 40000);
    world.socket(handle).abort();
    let mut seen = Ok(false);
    world.until("the proxy sees it", |_| {
        seen = read_some(&stream, &mut Vec::new());
        seen != Ok(false)
    });
    assert_eq!(seen, Err(ErrorKind::ConnectionReset));
    world.assert_empty();
    assert_eq!(world.stats.flows_reset_by_client.get(), 1);
}

#[test]
fn port_is_used_again_in_the_moment_of_the_reset() {
    let mut world = World::plain();
    let (handle, first) = world.open(TARGET, 40000);
    world.socket(handle).send_slice(b"before").unwrap();
    world.step();
    world.socket(handle).abort();
    world.program.poll(world.now); // RST and SYN are in the TUN before the stack looks
    world.program.sockets.remove(handle);
    let (_, second) = world.open(TARGET, 40000);
    let mut got = Vec::new();
    let mut seen = Ok(false);
    world.until("the proxy sees the reset", |_| {
        seen = read_some(&first, &mut got);
        seen != Ok(false)
    });
    assert_eq!((&got[..], seen), (&b"before"[..], Err(ErrorKind::ConnectionReset)));
    assert_eq!(read_some(&second, &mut got), Ok(false));
    assert_eq!(world.stack.usage().0, 1, "flows");
}

#[test]
fn bytes_before_a_reset_arrive_though_the_program_still_sends() {
    let mut world = World::plain();
    let (handle, mut stream) = world.open(TARGET, 40000);
    let (down, mut sent) = (bytes(3_000_000, 5), 0);
    world.until("more than the rings hold is sent", |_| {
        write_some(&stream, &down, &mut sent);
        sent == down.len()
    });
    world.socket(handle).send_slice(b"one").unwrap();
    world.rest(Duration::from_secs(1));
    stream.flush().unwrap();
    reset(stream);
    world.socket(handle).send_slice(b"two").unwrap();
    world.rest(Duration::from_secs(1));
    let mut got = Vec::new();
    world.until("reset", |world| {
        got.extend(received(world.socket(handle)));
        world.socket(handle).state() == State::Closed
    });
    assert!(got.len() > 1 << 21 && got == down[..got.len()], "{} bytes", got.len());
    world.assert_empty();
}

#[test]
fn reset_of_the_proxy_resets_the_program_after_the_bytes_before_it() {
    let mut world = World::plain();
    let (handle, mut stream) = world.open(TARGET, 40000);
    stream.write_all(b"last words").unwrap();
    let mut got = Vec::new();
    world.until("last words", |world| {
        got.extend(received(world.socket(handle)));
        got == b"last words"
    });
    reset(stream);
    world.closed(handle);
    world.assert_empty();
    assert_eq!(world.stats.flows_reset_by_proxy.get(), 1);
}

#[test]
fn connect_has_succeeded_for_a_moment_before_a_reset_follows() {
    let mut world = World::plain();
    let handle = world.connect(TARGET, 40000);
    let (mut stream, _) = world.request(0);
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nlast words").unwrap();
    reset(stream);
    world.connected(handle);
    let begin = world.now;
    let mut got = Vec::new();
    world.until("reset", |world| {
        got.extend(received(world.socket(handle)));
        world.socket(handle).state() == State::Closed
    });
    assert_eq!(got, b"last words");
    assert!((world.now - begin).total_millis() >= 15);
    world.assert_empty();
}

#[test]
fn ports_can_be_used_again_at_once() {
    let mut world = World::plain();
    for round in 0..20 {
        let (handle, stream) = world.open(TARGET, 40000);
        exchange(&mut world, handle, &stream, &bytes(1000, round), &bytes(2000, round));
        world.until("closed", |world| {
            world.socket(handle).state() == State::Closed || world.socket(handle).state() == State::TimeWait
        });
        world.program.sockets.remove(handle);
    }
    world.assert_empty();
    assert_eq!(world.stats.flows_finished.get(), 20);
}

#[test]
fn segments_of_a_connection_that_is_not_known_are_reset() {
    let mut world = World::plain();
    let (handle, _stream) = world.open(TARGET, 40000);
    world.replace_stack(0);
    world.socket(handle).send_slice(b"are you there?").unwrap();
    world.closed(handle);
    assert!(world.stats.unknown_segments.get() >= 1);
}

#[test]
fn machine_that_has_forgotten_a_connection_can_open_it_anew() {
    for proxy_ended in [false, true] {
        let mut world = World::plain();
        let (handle, first) = world.open(TARGET, 40000);
        if proxy_ended {
            first.shutdown(Shutdown::Write).unwrap();
            world.rest(Duration::from_millis(10));
        }
        world.program.sockets.remove(handle); // it sends nothing: a container that died, say
        let begin = world.now;
        let (_, second) = world.open(TARGET, 40000);
        assert!((world.now - begin).total_millis() < 3000, "{}", world.now - begin);
        assert_eq!(read_some(&first, &mut Vec::new()), Err(ErrorKind::ConnectionReset));
        assert_eq!(read_some(&second, &mut Vec::new()), Ok(false));
        assert_eq!(world.stats.flows_reset_by_client.get(), 1);
    }
}

#[test]
fn stack_that_stops_resets_both_ends() {
    let mut world = World::plain();
    let (handle, stream) = world.open(TARGET, 40000);
    let waiting = world.connect(TARGET, 40001);
    let (asked, _) = world.request(0);
    world.stack.cut_all(world.now);
    for stream in [stream, asked] {
        assert_eq!(read_some(&stream, &mut Vec::new()), Err(ErrorKind::ConnectionReset));
    }
    world.program.poll(world.now);
    assert_eq!([handle, waiting].map(|handle| world.socket(handle).state()), [State::Closed, State::Closed]);
}

#[test]
fn proxy_that_never_reads_does_not_keep_a_connection_that_the_program_has_reset() {
    let mut world = World::plain();
    let (handle, stream) = world.open(TARGET, 40000);
    let (up, mut sent) = (bytes(30_000_000, 6), 0);
    for _ in 0..1000 {
        sent += world.socket(handle).send_slice(&up[sent..]).unwrap();
        world.step();
    }
    assert!(sent < up.len(), "the proxy takes all of it");
    world.socket(handle).abort();
    world.rest(Duration::from_secs(60));
    assert_eq!(world.stack.usage().0, 0, "flows");
    let mut got = Vec::new();
    assert_eq!(read_some(&stream, &mut got), Err(ErrorKind::ConnectionReset));
    assert!(got == up[..got.len()]);
}

#[test]
fn stack_that_dies_does_not_make_its_proxies_believe_in_an_end() {
    let mut world = World::plain();
    let (handle, stream) = world.open(TARGET, 40000);
    world.socket(handle).send_slice(b"half of").unwrap();
    world.rest(Duration::from_millis(10));
    world.replace_stack(0); // the old one is dropped as it is; the kernel closes what a process leaves
    assert_eq!(read_some(&stream, &mut Vec::new()), Err(ErrorKind::ConnectionReset));
}
