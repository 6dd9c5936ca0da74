//! Connections from the SYN to the last acknowledgement, two TCP stacks back to back; see world.rs.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;

use crate::world::{TARGET, TARGET6, Wire, World, bytes, read_some, write_some};
use proptest::prelude::*;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::Duration;

/// Send `up` and `down` through an open connection at the same time, each side ending when it has sent all.
pub fn exchange(world: &mut World, handle: SocketHandle, stream: &TcpStream, up: &[u8], down: &[u8]) {
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    let (mut sent_up, mut sent_down) = (0, 0);
    let (mut closed, mut shut, mut eof) = (false, false, false);
    world.until("all bytes and both ends", |world| {
        let socket = world.socket(handle);
        if socket.can_send() && sent_up < up.len() {
            sent_up += socket.send_slice(&up[sent_up..]).unwrap();
        }
        // Not before all is acknowledged: smoltcp 0.14 as a sender does not repeat a FIN that came with data, was dropped
        // because of a hole before it, and was followed by three duplicate acknowledgements. Kernels do.
        if sent_up == up.len() && socket.send_queue() == 0 && !closed {
            socket.close();
            closed = true;
        }
        while socket.can_recv() {
            socket.recv(|ring| (ring.len(), got_down.extend_from_slice(ring))).unwrap();
        }
        let finished = !socket.may_recv();
        write_some(stream, down, &mut sent_down);
        if sent_down == down.len() && !shut {
            stream.shutdown(Shutdown::Write).unwrap();
            shut = true;
        }
        eof |= read_some(stream, &mut got_up).unwrap();
        eof && finished
    });
    assert_eq!(got_up.len(), up.len());
    assert_eq!(got_down.len(), down.len());
    assert!(got_up == up && got_down == down, "bytes are not those that were sent");
}

/// Take what the program's socket has received.
fn received(socket: &mut Socket<'_>) -> Vec<u8> {
    let mut got = Vec::new();
    while socket.can_recv() {
        socket.recv(|ring| (ring.len(), got.extend_from_slice(ring))).unwrap();
    }
    got
}

pub fn reset(stream: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: `linger` is valid for the call.
    unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), length);
    }
}

#[test]
fn bytes_go_both_ways_and_both_ends_end_in_order() {
    for (target, line) in [(TARGET, "CONNECT 192.0.2.1:443 "), (TARGET6, "CONNECT [2001:db8::1]:443 ")] {
        let mut world = World::plain();
        let handle = world.connect(target, 40000);
        let (mut stream, request) = world.request(0);
        assert!(request.starts_with(line), "{request}");
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let (up, down) = (bytes(3_000_000, 1), bytes(5_000_000, 2));
        world.until("connected", |world| world.socket(handle).state() == State::Established);
        exchange(&mut world, handle, &stream, &up, &down);
        world.assert_empty();
        assert_eq!(world.stats.flows_finished.get(), 1);
        assert_eq!((world.stats.bytes_up.get(), world.stats.bytes_down.get()), (3_000_000, 5_000_000));
    }
}

#[test]
fn syn_is_not_answered_before_the_proxy_has_said_2xx() {
    let mut world = World::plain();
    let handle = world.connect(TARGET, 40000);
    let (mut stream, _) = world.request(0);
    world.rest(Duration::from_secs(9)); // the program sends its SYN again and again
    assert_eq!(world.socket(handle).state(), State::SynSent);
    assert_eq!(world.stats.tun_written.get(), 0);
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    world.until("connected", |world| world.socket(handle).state() == State::Established);
    assert!(world.proxies[0].accept().is_err(), "one connection is enough");
}

#[test]
fn refusal_of_any_kind_is_a_reset_to_the_program() {
    let answers: [(&[u8], bool); 6] = [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", false),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", false),
        (b"HTTP/1.0 503 Service Unavailable\r\nA: b\r\n\r\n<html>", false),
        (b"SSH-2.0-OpenSSH_9.2\r\n", false),
        (b"HTTP/1.1 200", true),
        (b"", true),
    ];
    for (answer, ends) in answers {
        let mut world = World::plain();
        let handle = world.connect(TARGET, 40000);
        let (mut stream, _) = world.request(0);
        stream.write_all(answer).unwrap();
        if ends {
            drop(stream);
        }
        world.until("refused", |world| world.socket(handle).state() == State::Closed);
        assert_eq!(world.notes.take().len(), 1, "{answer:?}");
        world.assert_empty();
    }
}

#[test]
fn proxy_that_does_not_answer_is_given_up_after_30_seconds() {
    let mut world = World::plain();
    let handle = world.connect(TARGET, 40000);
    let (mut stream, _) = world.request(0);
    let begin = world.now;
    world.until("refused", |world| {
        let _ = stream.write(b"").is_ok();
        world.socket(handle).state() == State::Closed
    });
    let waited = (world.now - begin).total_millis();
    assert!((30_000..31_500).contains(&waited), "{waited} ms");
    assert_eq!(world.stats.refused_timeout.get(), 1);
    world.assert_empty();
}

#[test]
fn dead_proxy_is_passed_over_and_the_program_notices_nothing() {
    let mut world = World::new(2, 65535, Wire::default());
    let dead = world.proxies[0].local_addr().unwrap();
    let alive = world.proxies.remove(1);
    world.proxies = vec![alive]; // the first listener is closed: connection refused
    let handle = world.connect(TARGET, 40000);
    let (mut stream, _) = world.request(0);
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    world.until("connected", |world| world.socket(handle).state() == State::Established);
    assert_eq!(world.stats.proxy_failovers.get(), 1);
    let note = world.notes.take().remove(0);
    assert!(note.starts_with(&format!("no connection to the proxy {dead}")), "{note}");
    world.connect(TARGET, 40001);
    world.request(0);
    assert_eq!(world.stats.proxy_failovers.get(), 1, "the dead one is not tried first again");
}

#[test]
fn proxy_that_refuses_or_does_not_answer_is_passed_over() {
    for answer in [&b"HTTP/1.1 403 Forbidden\r\n\r\n"[..], b"220 ftp\r\n", b""] {
        let mut world = World::new(2, 65535, Wire::default());
        let handle = world.connect(TARGET, 40000);
        let (mut first, _) = world.request(0);
        first.write_all(answer).unwrap();
        let (mut second, _) = world.request(1);
        second.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        world.until("connected", |world| world.socket(handle).state() == State::Established);
        assert_eq!(world.stats.proxy_failovers.get(), 1);
    }
}

#[test]
fn bytes_that_come_with_the_reply_are_kept() {
    let mut world = World::plain();
    let handle = world.connect(TARGET, 40000);
    let (mut stream, _) = world.request(0);
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0-OpenSSH\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    world.until("the banner and the end", |world| {
        got.extend(received(world.socket(handle)));
        world.socket(handle).state() == State::CloseWait
    });
    assert_eq!(got, b"SSH-2.0-OpenSSH\r\n");
}

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
fn reset_in_answer_to_the_held_back_syn_ack_ends_the_flow() {
    let mut world = World::plain();
    let handle = world.connect(TARGET, 40000);
    let (mut stream, _) = world.request(0);
    world.program.sockets.remove(handle); // close() in SYN-SENT: the kernel sends nothing, and forgets
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
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
fn connect_that_is_given_up_makes_room_for_the_next_from_its_port() {
    let mut world = World::plain();
    let handle = world.connect(TARGET, 40000);
    let (first, _) = world.request(0);
    world.program.sockets.remove(handle);
    let (_, _second) = world.open(TARGET, 40000);
    assert_eq!(read_some(&first, &mut Vec::new()), Err(ErrorKind::ConnectionReset));
}

#[test]
fn port_is_used_again_in_the_moment_of_the_reset() {
    let mut world = World::plain();
    let (handle, first) = world.open(TARGET, 40000);
    world.socket(handle).send_slice(b"before").unwrap();
    world.step();
    world.socket(handle).abort();
    world.program_acts(); // RST and SYN are in the TUN before the stack looks
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
    world.until("reset", |world| world.socket(handle).state() == State::Closed);
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
    world.until("connected", |world| world.socket(handle).state() == State::Established);
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
    world.until("reset", |world| world.socket(handle).state() == State::Closed);
    assert!(world.stats.unknown_segments.get() >= 1);
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

#[test]
fn connection_at_hand_is_used_and_one_that_was_hung_up_on_is_replaced() {
    let mut world = World::plain();
    world.replace_stack(1);
    let handle = world.connect(TARGET, 40000);
    let (stream, request) = world.request(0);
    assert!(request.starts_with("CONNECT 192.0.2.1:443"), "{request}");
    assert_eq!((world.stats.pool_hits.get(), world.stats.pool_stale.get()), (1, 0));
    drop(stream); // the proxy hangs up without a word: it may not have seen the request
    let (mut stream, again) = world.request(0);
    assert_eq!(again, request);
    assert_eq!((world.stats.pool_stale.get(), world.notes.take().len()), (1, 0));
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    world.until("connected", |world| world.socket(handle).state() == State::Established);
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
