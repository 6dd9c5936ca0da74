//! Proxies that fall ill, in one way or another, and get well again: what that costs programs, and what the proxies see
//! of it. See world.rs.

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use crate::balancing::open;
use crate::hole::BlackHole;
use crate::streams::read_some;
use crate::world::{GRANT, TARGET, World, listener};
use _tunstack::balance::Balance;
use _tunstack::health::State;
use _tunstack::roster::Policy;
use _tunstack::target::Target;
use smoltcp::time::Duration;

fn state(world: &World, number: usize) -> State {
    world.roster.listed().standings[number].state(world.now).0
}

fn two(first: TcpListener, balance: Balance) -> World {
    World::choosing(vec![first, listener()], Policy { balance, ..Policy::default() })
}

/// Open a connection, and give by which proxy.
fn proxy(world: &mut World, port: u16) -> usize {
    open(world, TARGET, port).0
}

/// Open a connection by the second proxy, and give how many milliseconds its program waited.
fn wait_for_the_second(world: &mut World, port: u16) -> u64 {
    let begin = world.now;
    let handle = world.connect(TARGET, port);
    let (mut stream, _) = world.request(1);
    stream.write_all(GRANT).unwrap();
    world.connected(handle);
    (world.now - begin).total_millis()
}

#[test]
fn proxy_that_swallows_syns_costs_one_short_delay_once() {
    for balance in [Balance::Order, Balance::RoundRobin, Balance::LeastConnections] {
        let hole = BlackHole::new();
        let mut world = two(hole.proxy(), balance);
        let times: Vec<_> = (40000..40020).map(|port| wait_for_the_second(&mut world, port)).collect();
        let slow: Vec<_> = times.iter().filter(|millis| **millis > 60).collect();
        assert!(slow.len() == 1 && (250..400).contains(slow[0]), "{balance:?}: {times:?}");
        world.rest(Duration::from_secs(6));
        assert_eq!(state(&world, 0), State::Down, "the probe has had no answer either");
        assert_eq!(world.stats.proxy_races.get(), 1);
    }
}

#[test]
fn many_programs_at_once_each_wait_one_short_delay_for_it_at_most() {
    let hole = BlackHole::new();
    let mut world = two(hole.proxy(), Balance::Order);
    let begin = world.now;
    let handles: Vec<_> = (40000..40050).map(|port| world.connect(TARGET, port)).collect();
    let mut streams = Vec::new();
    for _ in &handles {
        let (mut stream, _) = world.request(1);
        stream.write_all(GRANT).unwrap();
        streams.push(stream);
    }
    handles.into_iter().for_each(|handle| world.connected(handle));
    assert!((world.now - begin).total_millis() < 500, "{}", world.now - begin);
}

#[test]
fn proxy_that_was_dead_is_found_by_probes_that_ask_nothing_and_returns_slowly() {
    let dead = listener();
    let address = dead.local_addr().unwrap();
    let mut world = two(dead, Balance::Order);
    drop(world.proxies.remove(0));
    let begin = world.now;
    let handle = world.connect(TARGET, 40000);
    let (mut stream, _) = world.request(0); // the second, which is the only one there now
    stream.write_all(GRANT).unwrap();
    world.connected(handle);
    assert!((world.now - begin).total_millis() < 100, "refused at once, the next at once");
    assert_eq!(state(&world, 0), State::Down);
    world.rest(Duration::from_secs(60));
    let probes = world.roster.listed().standings[0].tally.probes.get();
    assert!((4..=8).contains(&probes), "{probes}");

    let back = TcpListener::bind(address).unwrap();
    back.set_nonblocking(true).unwrap();
    world.proxies.insert(0, back);
    world.until("probation", |world| state(world, 0) == State::Probation);
    let (probe, _) = world.proxies[0].accept().unwrap();
    assert_eq!(probe.peek(&mut [0]).unwrap(), 0, "it says nothing and goes");
    assert_eq!(proxy(&mut world, 40001), 0, "one connect shows that it answers, too");
    assert_eq!(state(&world, 0), State::SlowStart);
    let early: usize = (40002..40022).map(|port| proxy(&mut world, port)).sum();
    assert!(early >= 17, "{early} of 20 went to the second in the beginning");
    world.rest(Duration::from_secs(31));
    assert_eq!(state(&world, 0), State::Up);
    assert_eq!((40030..40040).map(|port| proxy(&mut world, port)).sum::<usize>(), 0);
    let notes = world.notes.take().join("\n");
    assert!(notes.contains("is down: others are asked") && notes.contains("is back"), "{notes}");
}

#[test]
fn proxy_that_accepts_and_talks_nonsense_is_given_up_after_three_and_tried_by_one_at_a_time() {
    let mut world = World::new(2, 65535, crate::wire::Wire::default());
    let mut nonsense = 0;
    for port in 40000..40010 {
        let handle = world.connect(TARGET, port);
        if nonsense < 3 {
            let (mut first, _) = world.request(0);
            first.write_all(b"220 ftp\r\n").unwrap();
            nonsense += 1;
        }
        let (mut stream, _) = world.request(1);
        stream.write_all(GRANT).unwrap();
        world.connected(handle);
    }
    assert_eq!(state(&world, 0), State::Down);
    world.until("probation", |world| state(world, 0) == State::Probation);
    world.proxies[0].accept().unwrap();
    let handle = world.connect(TARGET, 40010);
    let (mut first, _) = world.request(0);
    assert_eq!(proxy(&mut world, 40011), 1, "another goes elsewhere meanwhile");
    first.write_all(b"220 ftp\r\n").unwrap();
    let (mut stream, _) = world.request(1);
    stream.write_all(GRANT).unwrap();
    world.connected(handle);
    assert_eq!(state(&world, 0), State::Down);
}

#[test]
fn busy_proxy_that_says_so_is_not_taken_for_dead() {
    let mut world = World::new(2, 65535, crate::wire::Wire::default());
    for port in 40000..40010 {
        let handle = world.connect(TARGET, port);
        let (mut first, _) = world.request(0);
        first.write_all(b"HTTP/1.1 503 Busy\r\n\r\n").unwrap();
        let (mut stream, _) = world.request(1);
        stream.write_all(GRANT).unwrap();
        world.connected(handle);
    }
    assert_eq!(state(&world, 0), State::Up);
    assert_eq!(world.roster.listed().standings[0].tally.refused_5xx.get(), 10);
}

/// Accept all that comes to proxy `number`, and answer whatever is asked, if `answers`. Gives the requests.
fn act(world: &World, number: usize, answers: bool, open: &mut Vec<(TcpStream, Vec<u8>)>) -> Vec<String> {
    while let Ok((stream, _)) = world.proxies[number].accept() {
        stream.set_nonblocking(true).unwrap();
        open.push((stream, Vec::new()));
    }
    let mut requests = Vec::new();
    for (stream, head) in open {
        let known = head.len();
        let _ = read_some(stream, head);
        if known < head.len() && head.ends_with(b"\r\n\r\n") {
            requests.push(String::from_utf8(head.clone()).unwrap());
            if answers {
                stream.write_all(GRANT).unwrap();
            }
        }
    }
    requests
}

#[test]
fn check_that_the_user_named_finds_a_proxy_that_hangs_and_whoever_waits_for_it_goes_on() {
    let check = Target::parse("check.example", 443);
    let mut world = World::choosing(vec![listener(), listener()], Policy { check, ..Policy::default() });
    let (mut hanging, mut well, mut asked) = (Vec::new(), Vec::new(), Vec::new());
    let begin = world.now;
    let handle = world.connect(TARGET, 40000);
    world.until("the program is connected", |world| {
        asked.extend(act(world, 0, false, &mut hanging));
        act(world, 1, true, &mut well);
        world.socket(handle).may_send()
    });
    assert_eq!(state(&world, 0), State::Down);
    assert!((world.now - begin).total_millis() < 30_000, "sooner than the reply's time-out: {}", world.now - begin);
    let checks = asked.iter().filter(|request| request.starts_with("CONNECT check.example:443 HTTP/1.1\r\n")).count();
    assert!(checks >= 3 && asked.len() == checks + 1, "{asked:?}");
}

#[test]
fn proxies_that_are_well_are_checked_now_and_then_where_the_user_named_with_what() {
    let check = Target::parse("check.example", 443);
    let mut world = World::choosing(vec![listener(), listener()], Policy { check, ..Policy::default() });
    let (mut first, mut second, mut count) = (Vec::new(), Vec::new(), 0);
    let end = world.now + Duration::from_secs(100);
    while world.now < end {
        for _ in 0..20 {
            world.step();
            count += act(&world, 0, true, &mut first).len() + act(&world, 1, true, &mut second).len();
        }
        world.jump(Some(end));
    }
    assert!((16..=28).contains(&count), "{count} checks of two proxies in 100 s");
    assert_eq!([state(&world, 0), state(&world, 1)], [State::Up; 2]);
}

#[test]
fn single_proxy_is_asked_however_it_is_and_never_probed() {
    let mut world = World::plain();
    let address = world.proxies.remove(0).local_addr().unwrap();
    for port in 40000..40005 {
        let handle = world.connect(TARGET, port);
        world.closed(handle);
    }
    assert_eq!(state(&world, 0), State::Down);
    world.rest(Duration::from_secs(100));
    assert_eq!(world.roster.listed().standings[0].tally.probes.get(), 0);
    let back = TcpListener::bind(address).unwrap();
    back.set_nonblocking(true).unwrap();
    world.proxies.push(back);
    world.open(TARGET, 40010);
}
