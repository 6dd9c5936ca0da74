//! Questions that are passed on to resolvers, behind the proxy and past the tunnel. See world.rs; the resolver is this test.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use _tunstack::addresses::{Addresses, Table};
use _tunstack::datagram::Datagram;
use _tunstack::device::HEADER;
use _tunstack::dns::{Header, Heard, Name, Question, Record, code, hear, kind};
use _tunstack::framing::{Framing, put};
use _tunstack::names::{Mode, Names, Reach};
use _tunstack::naming::{Resolver, resolver};
use smoltcp::time::Duration;

use crate::by_hand::framed;
use crate::streams::{read_some, received};
use crate::world::{GRANT, World, listener};

const HERE: &str = "10.0.0.2:5000";
const ANYWHERE: &str = "203.0.113.53:53";
const ONE: &str = "192.0.2.53";
const OTHER: &str = "192.0.2.54";

fn world(mode: Mode, resolvers: &[&str]) -> World {
    let mut world = World::plain();
    let addresses = Addresses::new(Table::new(9, Arc::clone(&world.stats)));
    let reach = Reach { proxy: !resolvers.is_empty(), direct: true };
    let resolvers: Vec<Resolver> = resolvers.iter().map(|host| resolver(host, 53, "", None).unwrap()).collect();
    world.open_desk(Names::new(mode, Vec::new(), reach, addresses), &resolvers);
    world
}

fn ask(world: &mut World, id: u16, name: &str) {
    ask_of(world, id, name, kind::A);
}

fn ask_of(world: &mut World, id: u16, name: &str, kind: u16) {
    let message = Question::about(Name::parse(name).unwrap(), kind).forward(id);
    let datagram =
        Datagram { source: HERE.parse().unwrap(), destination: ANYWHERE.parse().unwrap(), payload: &message };
    world.inject(&framed(&datagram.packet()));
    world.stack_acts();
}

/// Go on until there is an answer; give its id, code and length.
fn answer(world: &mut World) -> (u16, u16, usize) {
    let mut found = None;
    for _ in 0..2000 {
        found = world.program.link.taken();
        if found.is_some() {
            break;
        }
        world.stack_acts();
        if !world.stack.is_pending() {
            world.now =
                world.now.max(world.stack.next_timer().unwrap_or(world.now).min(world.now + Duration::from_millis(50)));
        }
    }
    let frame = found.unwrap();
    let datagram = Datagram::read(&frame[HEADER..], false).unwrap();
    assert_eq!((datagram.source.to_string(), datagram.destination.to_string()), (ANYWHERE.into(), HERE.into()));
    let header = Header::read(datagram.payload).unwrap();
    (header.id, header.flags & 0xf, datagram.payload.len())
}

/// A resolver's end of a connection.
struct Far {
    stream: TcpStream,
    framing: Framing,
}

impl Far {
    /// Take the next connection to a resolver that the proxy is asked for.
    fn accept(world: &mut World, target: &str) -> Far {
        let (mut stream, request) = world.request(0);
        assert!(request.starts_with(&format!("CONNECT {target}:53 ")), "{request}");
        stream.write_all(GRANT).unwrap();
        Far { stream, framing: Framing::default() }
    }

    /// Take the next question.
    fn question(&mut self, world: &mut World) -> Question {
        let mut found = None;
        world.until("a question", |_| {
            let mut bytes = Vec::new();
            read_some(&self.stream, &mut bytes).unwrap();
            self.framing.feed(&bytes);
            found = self.framing.take().map(<[u8]>::to_vec);
            found.is_some()
        });
        let Heard::Question(question) = hear(&found.unwrap()) else { panic!("no question") };
        question
    }

    fn answer(&mut self, question: &Question, size: usize) {
        self.answer_all(&[question], size);
    }

    /// Answer in one piece: the kernel between has its own time.
    fn answer_all(&mut self, questions: &[&Question], size: usize) {
        let mut stream = Vec::new();
        for question in questions {
            let record = Record { kind: question.kind, ttl: 60, data: vec![7; size] };
            put(&mut stream, &question.answer(code::NOERROR, &[record], None, 65535));
        }
        self.stream.write_all(&stream).unwrap();
    }
}

#[test]
fn question_goes_through_the_proxy_once_and_its_answer_is_kept() {
    let mut world = world(Mode::Proxy, &[ONE]);
    ask(&mut world, 1, "www.example.com");
    ask(&mut world, 1, "www.example.com"); // the program asks again
    ask(&mut world, 2, "www.example.com");
    let mut far = Far::accept(&mut world, ONE);
    let question = far.question(&mut world);
    far.answer(&question, 4);
    assert_eq!((answer(&mut world).0, answer(&mut world).0), (1, 2));
    ask(&mut world, 3, "www.example.com");
    assert_eq!(answer(&mut world).0, 3);
    ask(&mut world, 4, "other.example.com"); // by the same connection
    let question = far.question(&mut world);
    far.answer(&question, 4);
    assert_eq!(answer(&mut world), (4, code::NOERROR, 12 + 23 + 16 + 11));
    assert_eq!((world.value("dns_questions"), world.value("dns_sent")), (5, 2));
    assert!(world.proxies[0].accept().is_err());
    world.rest(Duration::from_secs(10));
    assert_eq!(read_some(&far.stream, &mut Vec::new()), Ok(true), "it is closed when there is nothing to ask");
    world.assert_empty();
}

#[test]
fn answers_come_in_any_order_and_what_was_not_asked_is_passed_over() {
    let mut world = world(Mode::Proxy, &[ONE]);
    for id in 1..=3 {
        ask(&mut world, id, &format!("n{id}.example.com"));
    }
    let mut far = Far::accept(&mut world, ONE);
    let questions: Vec<_> = (0..3).map(|_| far.question(&mut world)).collect();
    let mut wrong = questions[0].clone();
    wrong.id ^= 0x4000;
    let mut swapped = questions[1].clone();
    swapped.id = questions[0].id;
    far.answer_all(&[&wrong, &swapped, &questions[2], &questions[1], &questions[0]], 4);
    assert_eq!([(); 3].map(|()| answer(&mut world)), [3, 2, 1].map(|id| (id, code::NOERROR, 32 + 16 + 11)));
}

#[test]
fn question_is_asked_again_when_its_connection_is_lost_and_fails_after_that() {
    let mut world = world(Mode::Proxy, &[ONE]);
    ask(&mut world, 1, "www.example.com");
    for _ in 0..2 {
        let mut far = Far::accept(&mut world, ONE);
        far.question(&mut world);
    }
    assert_eq!(answer(&mut world), (1, code::SERVFAIL, 44));
    assert_eq!((world.value("dns_sent"), world.value("dns_failed")), (2, 1));
    world.assert_empty();
}

#[test]
fn silent_resolver_gives_way_to_the_next() {
    let mut world = world(Mode::Proxy, &[ONE, OTHER]);
    ask(&mut world, 1, "www.example.com");
    let begin = world.now;
    let mut silent = Far::accept(&mut world, ONE);
    silent.question(&mut world);
    let mut far = Far::accept(&mut world, OTHER);
    let question = far.question(&mut world);
    far.answer(&question, 4);
    assert_eq!(answer(&mut world).1, code::NOERROR);
    assert!(world.now - begin < Duration::from_millis(2500));
}

#[test]
fn resolver_that_cannot_be_reached_gives_way_to_the_next_and_when_none_can_it_is_said_at_once() {
    let mut world = world(Mode::Proxy, &[ONE, OTHER]);
    ask(&mut world, 1, "www.example.com");
    let begin = world.now;
    for target in [ONE, OTHER] {
        let (mut stream, request) = world.request(0);
        assert!(request.starts_with(&format!("CONNECT {target}:53 ")), "{request}");
        stream.write_all(b"HTTP/1.1 403 No\r\n\r\n").unwrap();
    }
    assert_eq!(answer(&mut world).1, code::SERVFAIL);
    assert!(world.now - begin < Duration::from_millis(500));
    assert_eq!(world.value("refused_status_403"), 0, "no program's connect was refused");
    world.assert_empty();
}

#[test]
fn who_asks_is_answered_in_time_whatever_the_proxy_does() {
    let mut world = world(Mode::Proxy, &[ONE]);
    ask(&mut world, 1, "www.example.com");
    let begin = world.now;
    let _stuck = world.request(0);
    assert_eq!(answer(&mut world).1, code::SERVFAIL);
    let waited = (world.now - begin).total_millis();
    assert!((4400..4700).contains(&waited), "{waited} ms");
}

#[test]
fn answer_that_is_too_long_for_a_datagram_is_had_by_tcp() {
    let mut world = world(Mode::Proxy, &[ONE]);
    ask_of(&mut world, 1, "www.example.com", 16);
    let mut far = Far::accept(&mut world, ONE);
    let question = far.question(&mut world);
    far.answer(&question, 3000);
    assert_eq!(answer(&mut world), (1, code::NOERROR, 44));
    let handle = world.connect(ANYWHERE, 40000);
    world.connected(handle);
    let mut stream = Vec::new();
    put(&mut stream, &Question::about(Name::parse("www.example.com").unwrap(), 16).forward(9));
    world.socket(handle).send_slice(&stream).unwrap();
    let mut got = Vec::new();
    world.until("all of it", |world| {
        got.extend(received(world.socket(handle)));
        got.len() > 3000
    });
    assert_eq!(got[..4], [((got.len() - 2) >> 8) as u8, (got.len() - 2) as u8, 0, 9]);
    assert_eq!(world.value("dns_sent"), 1);
}

#[test]
fn question_by_tcp_is_passed_on_at_once() {
    let mut world = world(Mode::Proxy, &[ONE]);
    let handle = world.connect(ANYWHERE, 40000);
    world.connected(handle);
    let mut far = None;
    for name in ["a.example.com", "b.example.com"] {
        let begin = world.now;
        let mut stream = Vec::new();
        put(&mut stream, &Question::about(Name::parse(name).unwrap(), kind::A).forward(9));
        world.socket(handle).send_slice(&stream).unwrap();
        let far = far.get_or_insert_with(|| Far::accept(&mut world, ONE));
        let question = far.question(&mut world);
        far.answer(&question, 4);
        let mut got = Vec::new();
        world.until("the answer", |world| {
            got.extend(received(world.socket(handle)));
            got.len() > 12
        });
        assert_eq!(got[5] & 0xf, code::NOERROR as u8);
        assert!(world.now - begin < Duration::from_secs(1), "{}", world.now - begin);
    }
}

#[test]
fn direct_names_are_asked_by_a_connection_from_outside() {
    for mode in [Mode::Virtual, Mode::Proxy] {
        let mut world = world(mode, &[ONE]);
        ask(&mut world, 1, "printer.local");
        let number = world.wish_for("direct", b"resolver 0");
        let door = listener();
        let stream = TcpStream::connect(door.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        world.give(number, Ok((Vec::new(), Some(stream.into()))));
        let far = door.accept().unwrap().0;
        far.set_nonblocking(true).unwrap();
        let mut far = Far { stream: far, framing: Framing::default() };
        let question = far.question(&mut world);
        far.answer(&question, 4);
        assert_eq!(answer(&mut world).1, code::NOERROR);
        assert!(world.proxies[0].accept().is_err());
    }
}

#[test]
fn connections_to_several_resolvers_are_each_woken() {
    let mut world = world(Mode::Proxy, &[ONE]);
    ask(&mut world, 1, "www.example.com");
    let mut first = Far::accept(&mut world, ONE);
    let unanswered = first.question(&mut world);
    ask(&mut world, 2, "printer.local");
    let number = world.wish_for("direct", b"resolver 0");
    let door = listener();
    let stream = TcpStream::connect(door.local_addr().unwrap()).unwrap();
    stream.set_nonblocking(true).unwrap();
    world.give(number, Ok((Vec::new(), Some(stream.into()))));
    let far = door.accept().unwrap().0;
    far.set_nonblocking(true).unwrap();
    let mut second = Far { stream: far, framing: Framing::default() };
    let question = second.question(&mut world);
    second.answer(&question, 4);
    assert_eq!((answer(&mut world).0, unanswered.id != question.id), (2, true));
    first.answer(&unanswered, 4);
    assert_eq!(answer(&mut world).0, 1);
}

#[test]
fn direct_resolvers_are_tried_in_turn_and_all_of_them_failing_is_said_at_once() {
    let mut world = world(Mode::Virtual, &[]);
    ask(&mut world, 1, "printer.local");
    for turn in 0..3 {
        let number = world.wish_for("direct", format!("resolver {turn}").as_bytes());
        world.answer_wish(number, Err("no".to_owned()));
    }
    world.until("a failure", |world| world.value("dns_failed") == 1);
    world.assert_empty();
}
