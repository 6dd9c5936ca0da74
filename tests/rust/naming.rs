//! Questions to resolvers that end in the stack, by UDP and by TCP, and connections to what they got. See world.rs.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use _tunstack::addresses::{self, Addresses, Table};
use _tunstack::datagram::Datagram;
use _tunstack::device::HEADER;
use _tunstack::dns::{Header, Name, Question, code, kind};
use _tunstack::framing::{Framing, put};
use _tunstack::names::{Mode, Names, Reach};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use smoltcp::time::Duration;

use crate::by_hand::framed;
use crate::streams::received;
use crate::world::{GRANT, World};

const RESOLVERS: [(&str, &str); 2] = [("10.0.0.2:5000", "192.0.2.53:53"), ("[2001:db8::2]:5000", "[2001:db8::53]:53")];

fn world(most: u32) -> World {
    let mut world = World::plain();
    let addresses = Addresses::new(Table::new(most, Arc::clone(&world.stats)));
    let reach = Reach { proxy: false, direct: false };
    world.open_desk(Names::new(Mode::Virtual, Vec::new(), reach, addresses), &[]);
    world
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    Question::about(Name::parse(name).unwrap(), kind).forward(7)
}

/// Ask by UDP; give the answer, if one comes at once, and its ends.
fn ask(
    world: &mut World,
    (source, destination): (&str, &str),
    message: &[u8],
) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
    let datagram =
        Datagram { source: source.parse().unwrap(), destination: destination.parse().unwrap(), payload: message };
    world.inject(&framed(&datagram.packet()));
    world.stack_acts();
    let frame = world.program.link.taken()?;
    let answer = Datagram::read(&frame[HEADER..], false).unwrap();
    Some((answer.source, answer.destination, answer.payload.to_vec()))
}

fn code_of(answer: &[u8]) -> u16 {
    Header::read(answer).unwrap().flags & 0xf
}

/// Ask by a connection that is open.
fn send(world: &mut World, handle: SocketHandle, stream: &[u8]) {
    let sent = world.socket(handle).send_slice(stream).unwrap();
    assert_eq!(sent, stream.len());
}

fn answers(world: &mut World, handle: SocketHandle, count: usize) -> Vec<Vec<u8>> {
    let (mut framing, mut found) = (Framing::default(), Vec::new());
    world.until("answers", |world| {
        framing.feed(&received(world.socket(handle)));
        while let Some(message) = framing.take() {
            found.push(message.to_vec());
        }
        found.len() >= count
    });
    found
}

#[test]
fn datagram_is_answered_from_where_it_went_to() {
    for ends in RESOLVERS {
        let mut world = world(9);
        let (source, destination, answer) = ask(&mut world, ends, &question("www.example.com", kind::A)).unwrap();
        assert_eq!((source.to_string(), destination.to_string()), (ends.1.to_owned(), ends.0.to_owned()));
        assert_eq!((code_of(&answer), answer[..2] == [0, 7]), (code::NOERROR, true));
        assert!(answer.windows(4).any(|bytes| bytes == addresses::pair(1).0.octets()));
        assert_eq!((world.value("dns_questions"), world.value("names_now"), world.value("not_tcp")), (1, 1, 0));
    }
}

#[test]
fn answers_and_rubbish_get_nothing_and_other_ports_an_error() {
    let mut world = world(9);
    let mut message = question("www.example.com", kind::A);
    assert_eq!(ask(&mut world, RESOLVERS[0], b"rubbish"), None);
    message[2] |= 0x80;
    assert_eq!(ask(&mut world, RESOLVERS[0], &message), None);
    let datagram = Datagram {
        source: "10.0.0.2:5000".parse().unwrap(),
        destination: "198.18.1.1:443".parse().unwrap(),
        payload: b"QUIC",
    };
    world.inject(&framed(&datagram.packet()));
    world.stack_acts();
    let frame = world.program.link.taken().unwrap();
    assert_eq!((frame[HEADER + 9], frame[HEADER + 20]), (1, 3), "ICMP, unreachable");
    assert_eq!((world.value("dns_refused"), world.value("not_tcp")), (2, 1));
}

#[test]
fn connection_to_a_virtual_address_is_asked_for_by_name_and_pins_it() {
    let mut world = world(1);
    ask(&mut world, RESOLVERS[0], &question("Www.Example.com", kind::A)).unwrap();
    for (target, port) in [("198.18.1.1:443", 40000), ("[fd70:7670:6e:1::1]:443", 40001)] {
        let handle = world.connect(target, port);
        let (mut stream, request) = world.request(0);
        assert!(
            request.starts_with("CONNECT www.example.com:443 HTTP/1.1\r\nHost: www.example.com:443\r\n"),
            "{request}"
        );
        stream.write_all(GRANT).unwrap();
        world.connected(handle);
        world.rest(Duration::from_secs(130));
        let (.., answer) = ask(&mut world, RESOLVERS[0], &question("other.example", kind::A)).unwrap();
        assert_eq!(code_of(&answer), code::SERVFAIL, "the one address is in use");
        world.socket(handle).abort();
        world.rest(Duration::from_secs(1));
    }
    let (.., answer) = ask(&mut world, RESOLVERS[0], &question("other.example", kind::A)).unwrap();
    assert_eq!(code_of(&answer), code::SERVFAIL, "it may still be known");
    world.rest(Duration::from_secs(121));
    let (.., answer) = ask(&mut world, RESOLVERS[0], &question("other.example", kind::A)).unwrap();
    assert_eq!(code_of(&answer), code::NOERROR);
}

#[test]
fn virtual_address_without_a_name_and_dns_over_tls_are_refused_at_once() {
    let mut world = world(9);
    for (target, port) in [("198.18.1.1:443", 1), ("[fd70:7670:6e:1::5]:443", 2), ("192.0.2.53:853", 3)] {
        let handle = world.connect(target, 40000 + port);
        world.closed(handle);
    }
    assert!(world.proxies[0].accept().is_err());
    assert_eq!((world.value("refused_nameless"), world.value("refused_dns_over_tls")), (2, 1));
    assert_eq!(world.notes.take().len(), 2);
    world.assert_empty();
}

#[test]
fn questions_by_tcp_are_answered_however_they_are_cut_and_no_proxy_sees_them() {
    for target in [RESOLVERS[0].1, RESOLVERS[1].1] {
        for piece in [1, 7, 4096] {
            let mut world = world(99);
            let handle = world.connect(target, 40000);
            world.connected(handle);
            let mut stream = Vec::new();
            for number in 0..20 {
                put(&mut stream, &question(&format!("n{number}.example"), kind::A));
            }
            for piece in stream.chunks(piece) {
                send(&mut world, handle, piece);
                world.step();
            }
            let all = answers(&mut world, handle, 20);
            assert!(all.iter().all(|answer| code_of(answer) == code::NOERROR));
            assert_eq!((world.value("dns_sessions"), world.value("names_now")), (1, 20));
            assert!(world.proxies[0].accept().is_err());
        }
    }
}

#[test]
fn program_that_says_it_is_done_gets_its_answers_and_the_end() {
    let mut world = world(9);
    let handle = world.connect(RESOLVERS[0].1, 40000);
    world.connected(handle);
    let mut stream = Vec::new();
    put(&mut stream, &question("a.invalid", kind::A));
    put(&mut stream, b"rubbish");
    put(&mut stream, &question("b.invalid", kind::A));
    send(&mut world, handle, &stream);
    world.socket(handle).close();
    assert_eq!(answers(&mut world, handle, 2).len(), 2);
    world.until("the end", |world| world.socket(handle).state() == State::TimeWait);
    world.assert_empty();
}

#[test]
fn silent_session_ends_and_one_that_asks_goes_on() {
    let mut world = world(9);
    let silent = world.connect(RESOLVERS[0].1, 40000);
    let asking = world.connect(RESOLVERS[0].1, 40001);
    world.connected(silent);
    world.connected(asking);
    for _ in 0..4 {
        world.rest(Duration::from_secs(4));
        let mut stream = Vec::new();
        put(&mut stream, &question("a.invalid", kind::A));
        send(&mut world, asking, &stream);
        answers(&mut world, asking, 1);
    }
    assert_eq!(world.socket(silent).state(), State::CloseWait);
    assert_eq!(world.socket(asking).state(), State::Established);
    world.socket(silent).close();
    world.socket(asking).abort();
    world.assert_empty();
}

#[test]
fn sessions_have_an_end_and_newcomers_take_the_place_of_the_idle() {
    let mut world = world(9);
    let first = world.connect(RESOLVERS[0].1, 40000);
    world.connected(first);
    for port in 1..=128 {
        let handle = world.connect(RESOLVERS[0].1, 40000 + port);
        world.connected(handle);
    }
    world.closed(first);
    world.rest(Duration::from_secs(30));
    world.stack.cut_all(world.now);
}

#[test]
fn program_that_forgot_its_session_may_begin_anew_from_its_port() {
    let mut world = world(9);
    let first = world.connect(RESOLVERS[0].1, 40000);
    world.connected(first);
    world.program.sockets.remove(first);
    let second = world.connect(RESOLVERS[0].1, 40000);
    world.connected(second);
    let mut stream = Vec::new();
    put(&mut stream, &question("a.invalid", kind::A));
    send(&mut world, second, &stream);
    answers(&mut world, second, 1);
    world.socket(second).abort();
    world.assert_empty();
}
