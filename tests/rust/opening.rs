//! How connections begin: the held SYN, the proxy's answer, and what the program sees of it. See world.rs.

use std::io::{ErrorKind, Write};
use std::net::Shutdown;

use crate::streams::{read_some, received};
use crate::world::{GRANT, TARGET, World};
use smoltcp::socket::tcp::State;
use smoltcp::time::Duration;

#[test]
fn syn_is_not_answered_before_the_proxy_has_said_2xx() {
    let mut world = World::plain();
    let handle = world.connect(TARGET, 40000);
    let (mut stream, _) = world.request(0);
    world.rest(Duration::from_secs(9)); // the program sends its SYN again and again
    assert_eq!(world.socket(handle).state(), State::SynSent);
    assert_eq!(world.stats.tun_written.get(), 0);
    stream.write_all(GRANT).unwrap();
    world.connected(handle);
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
        world.closed(handle);
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
fn connect_that_is_given_up_makes_room_for_the_next_from_its_port() {
    let mut world = World::plain();
    let handle = world.connect(TARGET, 40000);
    let (first, _) = world.request(0);
    world.program.sockets.remove(handle);
    let (_, _second) = world.open(TARGET, 40000);
    assert_eq!(read_some(&first, &mut Vec::new()), Err(ErrorKind::ConnectionReset));
}

#[test]
fn reset_in_answer_to_the_held_back_syn_ack_ends_the_flow() {
    let mut world = World::plain();
    let handle = world.connect(TARGET, 40000);
    let (mut stream, _) = world.request(0);
    world.program.sockets.remove(handle); // close() in SYN-SENT: the kernel sends nothing, and forgets
    stream.write_all(GRANT).unwrap();
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
    stream.write_all(GRANT).unwrap();
    world.connected(handle);
}
