//! A proxy that wants credentials, whatever its 407 looks like on the wire. See world.rs.

use std::io::Write;
use std::net::TcpStream;

use crate::streams::{bytes, exchange, read_some};
use crate::world::{GRANT, TARGET, World};
use _tunstack::means::Means;
use smoltcp::socket::tcp::State;
use smoltcp::time::Duration;

const BASIC: &str = "Proxy-Authorization: Basic YW5uOnNlY3JldA==\r\n";
const HEAD: &str = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n";

fn means() -> Means {
    Means { user: b"ann".to_vec(), password: b"secret".to_vec(), ..Means::default() }
}

/// Take the next wish for a token, as it says for `scheme` and `challenge`, by the proxy at the other end of `stream`.
fn wish(world: &mut World, stream: &TcpStream, scheme: &str, context: u64, challenge: &str) -> u64 {
    let port = stream.local_addr().unwrap().port();
    world.wish(format!("127.0.0.1\n{port}\n{scheme}\n{context}\n{challenge}").as_bytes())
}

/// A world in which a connection was begun, and the proxy's end of it.
fn begun(means: Means) -> (World, smoltcp::iface::SocketHandle, TcpStream) {
    let mut world = World::of(means, 1);
    let handle = world.connect(TARGET, 40000);
    let (stream, request) = world.request(0);
    assert!(!request.contains("Proxy-Authorization"), "{request}");
    (world, handle, stream)
}

/// Check that the answer to `reply` comes by the same connection, and opens it.
fn answered_by_the_same_connection(reply: &str, pieces: usize) {
    let (mut world, handle, mut stream) = begun(means());
    for piece in reply.as_bytes().chunks(reply.len().div_ceil(pieces)) {
        stream.write_all(piece).unwrap();
        world.step();
    }
    let request = world.next_request(&stream);
    assert!(request.starts_with("CONNECT 192.0.2.1:443 ") && request.contains(BASIC), "{request}");
    stream.write_all(GRANT).unwrap();
    world.connected(handle);
    let data = bytes(100_000, 3);
    exchange(&mut world, handle, &stream, &data, &data);
    assert!(world.notes.take().is_empty());
    world.assert_empty();
}

/// Check that the answer to `reply` comes by another connection; `hangs_up`: the proxy ends this one.
fn answered_by_another_connection(reply: &str, hangs_up: bool) {
    let (mut world, handle, mut stream) = begun(means());
    stream.write_all(reply.as_bytes()).unwrap();
    let first = (!hangs_up).then_some(stream);
    let (mut stream, request) = world.request(0);
    assert!(request.contains(BASIC), "{request}");
    stream.write_all(GRANT).unwrap();
    world.connected(handle);
    drop(first);
    assert_eq!(world.stats.pool_stale.get(), 0);
    assert!(world.notes.take().is_empty());
}

#[test]
fn answer_comes_by_the_same_connection_when_the_body_has_ended() {
    for body in [
        "Content-Length: 0\r\n\r\n",
        "Content-Length: 5\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nTrailer: x\r\n\r\n",
        "Proxy-Connection: keep-alive\r\nContent-Length: 12\r\n\r\n\r\n\r\nHTTP/1.1",
    ] {
        for pieces in [1, 2, 7, 1000] {
            answered_by_the_same_connection(&format!("{HEAD}{body}"), pieces);
        }
    }
    let old = HEAD.replace("HTTP/1.1", "HTTP/1.0");
    answered_by_the_same_connection(&format!("{old}Connection: keep-alive\r\nContent-Length: 2\r\n\r\nab"), 3);
    answered_by_the_same_connection(&format!("{HEAD}Content-Length: 200000\r\n\r\n{}", "x".repeat(200_000)), 50);
}

#[test]
fn answer_comes_by_another_connection_where_the_proxy_does_not_keep_the_first() {
    for hangs_up in [true, false] {
        for body in [
            "\r\n",
            "\r\n<html>until the end",
            "Connection: close\r\nContent-Length: 5\r\n\r\nhello",
            "Proxy-Connection: Close\r\nContent-Length: 0\r\n\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "Content-Length: 5\r\n\r\nhello and more",
            "Content-Length: 900000\r\n\r\n",
        ] {
            answered_by_another_connection(&format!("{HEAD}{body}"), hangs_up);
        }
        let old = HEAD.replace("HTTP/1.1", "HTTP/1.0");
        answered_by_another_connection(&format!("{old}Content-Length: 5\r\n\r\nhello"), hangs_up);
    }
    answered_by_another_connection(&format!("{HEAD}Content-Length: 5\r\n\r\nhel"), true);
    answered_by_another_connection(&format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n5\r\nhel"), true);
}

#[test]
fn proxy_that_says_it_keeps_the_connection_and_hangs_up_is_asked_by_another_one() {
    let (mut world, handle, mut stream) = begun(means());
    write!(stream, "{HEAD}Content-Length: 0\r\n\r\n").unwrap();
    assert!(world.next_request(&stream).contains(BASIC));
    drop(stream);
    let (mut stream, request) = world.request(0);
    assert!(request.contains(BASIC), "{request}");
    stream.write_all(GRANT).unwrap();
    world.connected(handle);
}

#[test]
fn later_connections_say_at_once_what_the_proxy_wanted() {
    let (mut world, handle, mut stream) = begun(means());
    write!(stream, "{HEAD}Content-Length: 0\r\n\r\n").unwrap();
    world.next_request(&stream);
    stream.write_all(GRANT).unwrap();
    world.connected(handle);
    world.replace_stack(1); // with a connection at hand, and the same memory, as another thread has it
    world.connect(TARGET, 40001);
    let (_, request) = world.request(0);
    assert!(request.contains(BASIC), "{request}");
    assert_eq!(world.stats.pool_hits.get(), 1);
}

#[test]
fn wrong_password_is_told_once_and_the_proxy_left_alone() {
    let (mut world, handle, mut stream) = begun(means());
    for _ in 0..2 {
        write!(stream, "{HEAD}Content-Length: 0\r\n\r\n").unwrap();
        world.rest(Duration::from_millis(50));
    }
    world.closed(handle);
    let notes = world.notes.take();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("refuses the user or the password; it is not asked with them for 5 minutes (407 Proxy"));
    assert!(!notes[0].contains("secret"));
    for port in 40001..40020 {
        let handle = world.connect(TARGET, port);
        world.closed(handle);
    }
    assert!(world.proxies[0].accept().is_err(), "nobody asks it");
    assert_eq!((world.value("refused_status_407"), world.value("refused_credentials")), (1, 19));
    assert!(world.notes.take().is_empty(), "it was told");
    world.assert_empty();
    let handle = world.connect(TARGET, 40030);
    let (mut stream, _) = world.request(0);
    write!(stream, "{HEAD}Content-Length: 0\r\n\r\n").unwrap();
    assert!(world.next_request(&stream).contains(BASIC));
    stream.write_all(GRANT).unwrap();
    world.connected(handle);
}

#[test]
fn status_401_is_a_wrong_password_where_one_was_shown() {
    let (mut world, handle, mut stream) = begun(means());
    write!(stream, "{HEAD}Content-Length: 0\r\n\r\n").unwrap();
    world.next_request(&stream);
    stream.write_all(b"HTTP/1.0 401 Unauthorized\r\n\r\n").unwrap();
    world.closed(handle);
    assert!(world.notes.take()[0].contains("refuses the user or the password"));
    let handle = world.connect(TARGET, 40001);
    world.closed(handle);
    assert_eq!((world.value("refused_status_401"), world.value("refused_credentials")), (1, 1));
}

#[test]
fn credentials_that_lead_to_another_refusal_were_right() {
    let (mut world, handle, mut stream) = begun(means());
    write!(stream, "{HEAD}Content-Length: 0\r\n\r\n").unwrap();
    world.next_request(&stream);
    stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").unwrap();
    world.closed(handle);
    world.connect(TARGET, 40001);
    let (_, request) = world.request(0);
    assert!(request.contains(BASIC), "{request}");
}

#[test]
fn proxy_that_cannot_be_satisfied_is_said_to_offer_what_it_does() {
    let (mut world, handle, mut stream) = begun(Means::default());
    stream.write_all(b"HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM, Basic realm=x\r\n\r\n").unwrap();
    world.closed(handle);
    let notes = world.notes.take();
    assert!(
        notes[0].ends_with("wants credentials by NTLM, Basic: give --proxy-user and --proxy-password-file (407 No)")
    );
    world.assert_empty();
}

#[test]
fn same_password_is_not_tried_at_the_next_proxy() {
    let mut world = World::of(means(), 2);
    let handle = world.connect(TARGET, 40000);
    let (mut stream, _) = world.request(0);
    write!(stream, "{HEAD}Content-Length: 0\r\n\r\n").unwrap();
    assert!(world.next_request(&stream).contains("Proxy-Authorization: "));
    write!(stream, "{HEAD}Content-Length: 0\r\n\r\n").unwrap();
    world.closed(handle);
    assert_eq!((world.stats.proxy_failovers.get(), world.stats.refused_status_407.get()), (0, 1));
}

#[test]
fn next_proxy_is_asked_where_the_first_wants_credentials_and_there_are_none() {
    let mut world = World::of(Means::default(), 2);
    let handle = world.connect(TARGET, 40000);
    let (mut stream, _) = world.request(0);
    write!(stream, "{HEAD}Content-Length: 0\r\n\r\n").unwrap();
    let (mut second, _) = world.request(1);
    second.write_all(GRANT).unwrap();
    world.connected(handle);
    assert_eq!(world.stats.proxy_failovers.get(), 1);
    assert!(read_some(&stream, &mut Vec::new()).is_err(), "the first was let go");
}

#[test]
fn wrong_password_is_shown_to_no_other_proxy() {
    let mut world = World::of(means(), 2);
    let handle = world.connect(TARGET, 40000);
    let (mut stream, _) = world.request(0);
    for _ in 0..2 {
        write!(stream, "{HEAD}Content-Length: 0\r\n\r\n").unwrap();
        world.rest(Duration::from_millis(50));
    }
    world.closed(handle);
    assert_eq!((world.stats.proxy_failovers.get(), world.value("refused_status_407")), (0, 1));
    assert!(world.proxies[1].accept().is_err());
}

#[test]
fn token_comes_from_outside_and_the_connection_waits_for_it() {
    let (mut world, handle, mut stream) = begun(Means::default());
    stream.write_all(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nContent-Length: 0\r\n\r\n").unwrap();
    let number = wish(&mut world, &stream, "negotiate", 2, "");
    world.rest(Duration::from_secs(5));
    world.grant(number, b"token YII=");
    let request = world.next_request(&stream);
    assert!(request.contains("Proxy-Authorization: Negotiate YII=\r\n"), "{request}");
    stream.write_all(b"HTTP/1.1 200 OK\r\nProxy-Authenticate: Negotiate oYG=\r\n\r\nearly").unwrap();
    let number = wish(&mut world, &stream, "negotiate", 2, "oYG=");
    world.rest(Duration::from_secs(1));
    assert_eq!(world.socket(handle).state(), State::SynSent, "not before the proxy is known");
    world.grant(number, b"done");
    world.connected(handle);
    world.until("the early bytes", |world| world.socket(handle).recv_queue() == 5);
}

#[test]
fn later_token_is_wished_for_while_the_connection_is_made() {
    let (mut world, handle, mut stream) = begun(Means::default());
    stream.write_all(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\n\r\n").unwrap();
    let number = wish(&mut world, &stream, "negotiate", 2, "");
    world.grant(number, b"token YII=");
    let (mut stream, request) = world.request(0);
    assert!(request.contains("Negotiate YII="), "{request}");
    stream.write_all(GRANT).unwrap();
    world.connected(handle);
    let handle = world.connect(TARGET, 40001);
    let number = wish(&mut world, &stream, "negotiate", 3, "");
    world.rest(Duration::from_secs(12)); // longer than a connect may take
    assert_eq!(world.value("flows_asking_now"), 1);
    world.grant(number, b"token YIJ=");
    let (mut stream, request) = world.request(0);
    assert!(request.contains("Negotiate YIJ="));
    stream.write_all(GRANT).unwrap();
    world.connected(handle);
}

#[test]
fn proxy_whose_proof_is_wrong_is_not_used() {
    let (mut world, handle, mut stream) = begun(Means::default());
    stream.write_all(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nContent-Length: 0\r\n\r\n").unwrap();
    let number = wish(&mut world, &stream, "negotiate", 2, "");
    world.grant(number, b"token YII=");
    world.next_request(&stream);
    stream.write_all(b"HTTP/1.1 200 OK\r\nProxy-Authenticate: Negotiate oYG=\r\n\r\n").unwrap();
    let number = wish(&mut world, &stream, "negotiate", 2, "oYG=");
    world.grant(number, b"wrong bad checksum");
    world.closed(handle);
    assert!(world.notes.take()[0].contains("cannot prove who it is: bad checksum"));
    world.assert_empty();
}

#[test]
fn token_that_never_comes_is_given_up() {
    let (mut world, handle, mut stream) = begun(means());
    stream.write_all(b"HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n").unwrap();
    let number = wish(&mut world, &stream, "ntlm", 2, "");
    let begin = world.now;
    world.closed(handle);
    assert!((19..22).contains(&(world.now - begin).secs()));
    world.grant(number, b"token T1==");
    world.assert_empty();
}

#[test]
fn ntlm_goes_by_one_connection() {
    let (mut world, handle, mut stream) = begun(means());
    stream.write_all(b"HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nConnection: close\r\n\r\n").unwrap();
    let number = wish(&mut world, &stream, "ntlm", 2, "");
    world.grant(number, b"token T1==");
    let (mut stream, request) = world.request(0);
    assert!(request.contains("NTLM T1=="), "{request}");
    let challenge = b"HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM T2==\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab";
    stream.write_all(challenge).unwrap();
    let number = wish(&mut world, &stream, "ntlm", 2, "T2==");
    world.grant(number, b"token T3==");
    world.rest(Duration::from_millis(20));
    assert_eq!(read_some(&stream, &mut Vec::new()), Ok(false), "not before the body has ended");
    stream.write_all(b"c\r\n0\r\n\r\n").unwrap();
    assert!(world.next_request(&stream).contains("NTLM T3=="));
    stream.write_all(GRANT).unwrap();
    world.connected(handle);
}

#[test]
fn program_that_gives_up_while_a_token_is_waited_for_leaves_nothing() {
    let (mut world, handle, mut stream) = begun(means());
    stream.write_all(b"HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n").unwrap();
    let number = wish(&mut world, &stream, "ntlm", 2, "");
    world.socket(handle).abort();
    world.step();
    world.program.sockets.remove(handle);
    let (_, _other) = {
        let handle = world.connect(TARGET, 40000);
        (handle, world.request(0))
    };
    world.grant(number, b"token T1==");
    world.rest(Duration::from_secs(40));
    world.assert_empty();
}
