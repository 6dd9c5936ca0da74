//! TLS to a proxy over real sockets: both versions, every split, half-closes, resumption, and what goes wrong.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use _tunstack::mistrust;
use _tunstack::trust::Client;
use _tunstack::upstream::{Moved, Ready, Upstream};
use rustls::ServerConfig;

use crate::authority::{Authority, BOTH, Identity, NAME, Peer, connect, server, trusting};

const YEARS: (i32, i32) = (2020, 2099);
const STRANGER: &str = "shows a certificate that no authority that is trusted here has issued; give that authority's certificate with --proxy-ca";

/// Receive until `done`; the proxy acts in between.
fn receive_until(upstream: &mut Upstream, peer: &mut Peer, room: usize, done: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; room]);
    for _ in 0..1_000_000 {
        peer.pump();
        match upstream.receive(&mut buffer) {
            Ok(Moved { bytes: 0, more: false }) => return all,
            Ok(received) => all.extend_from_slice(&buffer[..received.bytes]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
        if done(&all) {
            return all;
        }
    }
    panic!("never");
}

fn received_end(upstream: &mut Upstream, peer: &mut Peer) -> bool {
    receive_until(upstream, peer, 100, |_| false).is_empty()
}

/// Pump the proxy until it has heard so many bytes.
fn heard(peer: &mut Peer, upstream: &mut Upstream, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..1_000_000 {
        upstream.flush().unwrap();
        peer.pump();
        all.extend(peer.heard());
        if all.len() >= count {
            return all;
        }
        std::thread::yield_now();
    }
    panic!("never");
}

fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
}

fn pair(version: usize) -> (Upstream, Peer) {
    let authority = Authority::new("ours");
    connect(&trusting(&authority.pem(), None, NAME), &authority.server(BOTH[version], false)).unwrap()
}

#[test]
fn bytes_go_both_ways_in_both_versions_whatever_the_room() {
    for version in 0..2 {
        for room in [1 << 20, 70_000, 1000] {
            let (mut upstream, mut peer) = pair(version);
            let bytes = noise(300_000);
            peer.say(&bytes);
            assert_eq!(receive_until(&mut upstream, &mut peer, room, |all| all.len() >= bytes.len()), bytes);
            let mut sent = 0;
            let mut got = Vec::new();
            while sent < bytes.len() {
                match upstream.send(&bytes[sent..]) {
                    Ok(moved) => sent += moved.bytes,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
                peer.pump();
                got.extend(peer.heard());
            }
            got.extend(heard(&mut peer, &mut upstream, bytes.len() - got.len()));
            assert_eq!(got, bytes);
        }
    }
}

#[test]
fn record_cut_anywhere_is_the_same_record() {
    let (mut upstream, mut peer) = pair(1);
    let mut raw = peer.socket.try_clone().unwrap();
    let record = |peer: &mut Peer| {
        peer.tls.writer().write_all(b"one two three").unwrap();
        let mut bytes = Vec::new();
        peer.tls.write_tls(&mut bytes).unwrap();
        bytes
    };
    let first = record(&mut peer);
    raw.write_all(&first).unwrap();
    assert_eq!(until_received(&mut upstream, &mut [0; 100]), b"one two three");
    for cut in 1..first.len() {
        let bytes = record(&mut peer);
        raw.write_all(&bytes[..cut]).unwrap();
        receive_nothing(&mut upstream);
        raw.write_all(&bytes[cut..]).unwrap();
        let mut buffer = [0; 100];
        assert_eq!(until_received(&mut upstream, &mut buffer), b"one two three", "cut at {cut}");
    }
}

fn receive_nothing(upstream: &mut Upstream) {
    let error = upstream.receive(&mut [0; 10]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

fn until_received<'a>(upstream: &mut Upstream, buffer: &'a mut [u8]) -> &'a [u8] {
    loop {
        match upstream.receive(buffer) {
            Ok(received) => return &buffer[..received.bytes],
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

#[test]
fn no_more_than_a_record_is_taken_beyond_the_room() {
    let (mut upstream, mut peer) = pair(1);
    peer.say(&noise(200_000));
    let waiting = |upstream: &Upstream| {
        let mut count: libc::c_int = 0;
        unsafe { libc::ioctl(upstream.as_raw_fd(), libc::FIONREAD, &raw mut count) };
        count as usize
    };
    let before = loop {
        let now = waiting(&upstream);
        if now > 100_000 {
            break now;
        }
    };
    let mut buffer = [0; 100];
    assert_eq!(upstream.receive(&mut buffer).unwrap(), Moved { bytes: 100, more: true });
    let after = waiting(&upstream);
    assert!(after + 20_000 >= before, "{before} {after}");
    for _ in 0..50 {
        upstream.receive(&mut buffer).unwrap();
    }
    assert!(waiting(&upstream) >= after, "nothing is taken while something waits");
}

#[test]
fn what_the_kernel_does_not_take_is_bounded_and_kept_and_flushed() {
    let (mut upstream, mut peer) = pair(1);
    let bytes = noise(64 << 20);
    let mut sent = 0;
    loop {
        match upstream.send(&bytes[sent..]) {
            Ok(moved) => sent += moved.bytes,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
    }
    assert!(!upstream.flush().unwrap());
    assert!(sent < bytes.len(), "the kernel has taken all: make it more");
    assert_eq!(upstream.send(b"x").unwrap_err().kind(), ErrorKind::WouldBlock);
    upstream.finish(); // it cannot overtake what waits
    assert_eq!(heard(&mut peer, &mut upstream, sent), bytes[..sent]);
    while !upstream.flush().unwrap() || !peer.pump() {}
    assert!(peer.tls.reader().read(&mut [0; 1]).is_ok_and(|count| count == 0), "close_notify came");
}

#[test]
fn each_side_may_end_first_and_still_hear_the_other() {
    for version in 0..2 {
        let (mut upstream, mut peer) = pair(version);
        peer.say(b"last words");
        peer.tls.send_close_notify();
        peer.flush();
        assert_eq!(receive_until(&mut upstream, &mut peer, 100, |_| false), b"last words");
        assert_eq!(upstream.send(b"still here").unwrap().bytes, 10);
        assert_eq!(heard(&mut peer, &mut upstream, 10), b"still here");
        upstream.finish();
        while !peer.pump() {}

        let (mut upstream, mut peer) = pair(version);
        upstream.send(b"the end").unwrap();
        upstream.finish();
        while !peer.pump() {}
        assert_eq!(peer.heard(), b"the end");
        peer.say(&noise(100_000));
        let got = receive_until(&mut upstream, &mut peer, 4096, |all| all.len() == 100_000);
        assert_eq!(got, noise(100_000));
        peer.tls.send_close_notify();
        peer.flush();
        assert!(received_end(&mut upstream, &mut peer));
    }
}

#[test]
fn fin_without_close_notify_is_an_end_between_records_and_a_break_within_one() {
    let (mut upstream, mut peer) = pair(1);
    peer.say(b"all");
    peer.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(receive_until(&mut upstream, &mut peer, 100, |_| false), b"all");

    let (mut upstream, mut peer) = pair(1);
    peer.tls.writer().write_all(b"all of it").unwrap();
    let mut bytes = Vec::new();
    peer.tls.write_tls(&mut bytes).unwrap();
    peer.socket.write_all(&bytes[..bytes.len() - 1]).unwrap();
    peer.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut upstream).kind(), ErrorKind::ConnectionReset);
}

fn end_of(upstream: &mut Upstream) -> io::Error {
    loop {
        match upstream.receive(&mut [0; 100]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return error,
            Ok(Moved { bytes: 0, more: false }) => panic!("it ended in order"),
            Ok(_) => {}
        }
    }
}

fn first_of(upstream: &mut Upstream, buffer: &mut [u8]) -> Moved {
    loop {
        match upstream.receive(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            result => return result.unwrap(),
        }
    }
}

#[test]
fn forged_record_breaks_the_connection_after_what_came_before() {
    let (mut upstream, mut peer) = pair(1);
    peer.tls.writer().write_all(b"good").unwrap();
    let mut bytes = Vec::new();
    peer.tls.write_tls(&mut bytes).unwrap();
    let good = bytes.len();
    peer.tls.writer().write_all(b"evil").unwrap();
    peer.tls.write_tls(&mut bytes).unwrap();
    bytes[good + 7] ^= 1;
    peer.socket.write_all(&bytes).unwrap();
    let mut buffer = [0; 100];
    let first = first_of(&mut upstream, &mut buffer);
    assert_eq!(&buffer[..first.bytes], b"good");
    assert!(first.more, "the caller must look again, since no event will come");
    assert_eq!(upstream.send(b"too late").unwrap_err().kind(), ErrorKind::InvalidData);
    upstream.finish();
    assert_eq!(end_of(&mut upstream).kind(), ErrorKind::InvalidData);
}

#[test]
fn keys_may_be_changed_by_the_proxy_at_any_time() {
    let (mut upstream, mut peer) = pair(1);
    for round in 0..5u8 {
        peer.tls.refresh_traffic_keys().unwrap();
        peer.say(&[round; 100]);
        assert_eq!(receive_until(&mut upstream, &mut peer, 30, |all| all.len() == 100), [round; 100]);
        upstream.send(&[round; 10]).unwrap();
        assert_eq!(heard(&mut peer, &mut upstream, 10), [round; 10]);
    }
}

#[test]
fn ticket_on_a_warm_connection_is_no_goodbye_but_a_word_or_an_end_is() {
    let (mut upstream, mut peer) = pair(1);
    peer.flush();
    for _ in 0..100 {
        assert!(upstream.is_quiet(), "tickets are no words");
    }
    peer.say(b"hello?");
    while upstream.is_quiet() {}
    let (mut upstream, mut peer) = pair(1);
    assert!(upstream.is_quiet());
    peer.tls.send_close_notify();
    peer.flush();
    while upstream.is_quiet() {}
    let (mut upstream, peer) = pair(1);
    drop(peer);
    while upstream.is_quiet() {}
}

/// The error of a connection to a proxy with this configuration.
fn refused(client: &Client, config: &Arc<ServerConfig>) -> String {
    match connect(client, config) {
        Ok(_) => panic!("it was not refused"),
        Err(error) => mistrust::words(&error).unwrap(),
    }
}

#[test]
fn certificates_are_for_one_name_or_address() {
    let authority = Authority::new("ours");
    let config = server(&authority.sign(&[NAME, "*.wild.example", "127.0.0.1", "::1"], YEARS), BOTH[1], None);
    for host in [NAME, "proxy.example.", "PROXY.example", "a.wild.example", "127.0.0.1", "::1"] {
        assert!(connect(&trusting(&authority.pem(), None, host), &config).is_ok(), "{host}");
    }
    for host in ["other.example", "a.b.wild.example", "wild.example", "127.0.0.2", "::2"] {
        let error = refused(&trusting(&authority.pem(), None, host), &config);
        assert!(error.contains("but for proxy.example, *.wild.example, 127.0.0.1"), "{error}");
    }
}

#[test]
fn certificates_of_strangers_and_of_other_times_are_refused() {
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let of = |years| {
        refused(&trusting(&authority.pem(), None, NAME), &server(&authority.sign(&[NAME], years), BOTH[1], None))
    };
    assert_eq!(refused(&trusting(&other.pem(), None, NAME), &authority.server(BOTH[0], false)), STRANGER);
    let (past, future) = (of((2000, 2010)), of((2090, 2099)));
    assert!(past.contains("expired"), "{past}");
    assert!(future.contains("is valid only in"), "{future}");
    // a name like the authority's is not enough
    let twin = Authority::new("ours");
    let words = refused(&trusting(&twin.pem(), None, NAME), &authority.server(BOTH[1], false));
    assert!(words.contains("only has the name") && words.contains("--proxy-ca"), "{words}");
}

#[test]
fn certificate_that_is_trusted_itself_needs_no_authority_but_its_name_and_time() {
    let alone = |names: &[&str], years| Identity::alone(names, false, years);
    let try_it =
        |identity: &Identity, host| connect(&trusting(&identity.pem(), None, host), &server(identity, BOTH[1], None));
    assert!(try_it(&alone(&[NAME], YEARS), NAME).is_ok());
    let words = |result: io::Result<_>| match result {
        Ok(_) => panic!("it was not refused"),
        Err(error) => mistrust::words(&error).unwrap(),
    };
    assert!(words(try_it(&alone(&[NAME], YEARS), "other.example")).contains("is not for other.example"));
    assert!(words(try_it(&alone(&[NAME], (2000, 2010)), NAME)).contains("expired"));
    assert!(words(try_it(&alone(&[NAME], (2090, 2099)), NAME)).contains("is valid only in"));
    let (ours, theirs) = (alone(&[NAME], YEARS), alone(&[NAME], YEARS));
    let strangers = connect(&trusting(&ours.pem(), None, NAME), &server(&theirs, BOTH[1], None));
    assert!(words(strangers).contains("--proxy-ca"));
    // as `openssl req -x509` makes it unless told otherwise
    let authority = Identity::alone(&[NAME], true, YEARS);
    assert!(try_it(&authority, NAME).is_ok());
    let strangers = connect(&trusting(&ours.pem(), None, NAME), &server(&authority, BOTH[1], None));
    assert!(words(strangers).contains("--proxy-ca"));
}

#[test]
fn proxy_that_wants_a_certificate_gets_it_or_says_so() {
    let authority = Authority::new("ours");
    let ours = authority.sign(&["client.example"], YEARS).pem();
    for version in BOTH {
        let config = authority.server(version, true);
        let (mut upstream, mut peer) = connect(&trusting(&authority.pem(), Some(&ours), NAME), &config).unwrap();
        peer.say(b"welcome");
        assert_eq!(receive_until(&mut upstream, &mut peer, 100, |all| !all.is_empty()), b"welcome");
        for identity in [None, Some(Identity::alone(&["client.example"], false, YEARS).pem())] {
            let words = told(&trusting(&authority.pem(), identity.as_deref(), NAME), &config);
            assert!(words.contains("client certificate"), "{words}");
        }
    }
}

/// What the proxy says to our certificate: in the handshake or, with TLS 1.3, right behind it.
fn told(client: &Client, config: &Arc<ServerConfig>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut upstream = Upstream::dial(listener.local_addr().unwrap()).unwrap().with_tls(client).unwrap();
    let mut peer = Peer::accept(&listener, config);
    loop {
        let mut ready = Ready { readable: true, writable: true, ..Ready::default() };
        let result = upstream.shake_hands(&mut ready).and_then(|done| match done {
            true => upstream.receive(&mut [0; 10]).map(drop),
            false => Ok(()),
        });
        peer.pump();
        match result {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return mistrust::words(&error).unwrap(),
            Ok(()) => {}
        }
    }
}

#[test]
fn proxy_that_speaks_no_tls_is_told_apart() {
    let authority = Authority::new("ours");
    let answer = |bytes: &[u8]| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = trusting(&authority.pem(), None, NAME);
        let mut upstream = Upstream::dial(listener.local_addr().unwrap()).unwrap().with_tls(&client).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(bytes).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        loop {
            let mut ready = Ready { readable: true, writable: true, ..Ready::default() };
            if let Err(error) = upstream.shake_hands(&mut ready) {
                return mistrust::words(&error).unwrap_or_else(mistrust::of_end);
            }
        }
    };
    for bytes in ["HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-OpenSSH_9.2p1\r\n", "", "H"] {
        let words = answer(bytes.as_bytes());
        assert!(words.contains("is it an http:// proxy?"), "{bytes:?}: {words}");
    }
}
