//! Several proxies that are well: who gets which connection, and what is counted for whom. See world.rs.

use std::io::Write;
use std::net::TcpStream;

use crate::world::{GRANT, World, listener};
use _tunstack::balance::Balance;
use _tunstack::roster::Policy;
use smoltcp::iface::SocketHandle;

fn three(balance: Balance) -> World {
    World::choosing(vec![listener(), listener(), listener()], Policy { balance, ..Policy::default() })
}

/// Open a connection, by whichever proxy is asked: its number, and both ends.
pub fn open(world: &mut World, target: &str, port: u16) -> (usize, SocketHandle, TcpStream) {
    let handle = world.connect(target, port);
    let mut taken = None;
    world.until("a proxy is asked", |world| {
        taken = world.proxies.iter().enumerate().find_map(|(number, proxy)| Some((number, proxy.accept().ok()?.0)));
        taken.is_some()
    });
    let (number, mut stream) = taken.unwrap();
    stream.set_nonblocking(true).unwrap();
    stream.write_all(GRANT).unwrap();
    world.connected(handle);
    (number, handle, stream)
}

/// Open so many connections, each to another host; how many each proxy has got.
fn tally(world: &mut World, count: usize) -> [usize; 3] {
    let mut found = [0; 3];
    let mut kept = Vec::new();
    for number in 0..count {
        let (proxy, _, stream) = open(world, &format!("192.0.2.{number}:443"), 40000 + number as u16);
        found[proxy] += 1;
        kept.push(stream);
    }
    found
}

#[test]
fn connections_are_shared_out_as_the_user_wants() {
    assert_eq!(tally(&mut three(Balance::Order), 12), [12, 0, 0]);
    assert_eq!(tally(&mut three(Balance::RoundRobin), 12), [4, 4, 4]);
    assert_eq!(tally(&mut three(Balance::LeastConnections), 12), [4, 4, 4]);
    let by_destination = tally(&mut three(Balance::Destination), 60);
    assert!(by_destination.iter().all(|count| *count > 5), "{by_destination:?}");
}

#[test]
fn proxy_whose_connections_last_gets_fewer() {
    let mut world = three(Balance::LeastConnections);
    let mut kept = Vec::new();
    for port in 40000..40012 {
        let (proxy, handle, stream) = open(&mut world, "192.0.2.1:443", port);
        if proxy == 0 {
            kept.push(stream);
        } else {
            drop(stream);
            world.socket(handle).close();
            world.until("closed", |world| world.stack.usage().0 == kept.len());
        }
    }
    assert_eq!(kept.len(), 1);
}

#[test]
fn host_keeps_its_proxy_and_another_one_only_while_that_is_lost() {
    let mut world = three(Balance::Destination);
    let hosts: Vec<String> = (0..12).map(|number| format!("192.0.2.{number}:443")).collect();
    let mut first = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        first.push(open(&mut world, host, 40000 + number as u16).0);
    }
    let lost = first[0];
    world.roster.listed().standings[lost].learn(_tunstack::health::Event::Unreachable, world.now, world.now);
    for (number, host) in hosts.iter().enumerate() {
        let proxy = open(&mut world, &host.replace("443", "80"), 41000 + number as u16).0;
        assert_eq!(proxy == first[number], first[number] != lost, "{host}");
    }
}

#[test]
fn each_proxy_is_counted_by_itself_and_all_together() {
    let mut world = three(Balance::RoundRobin);
    let (proxy, handle, mut stream) = open(&mut world, "192.0.2.1:443", 40000);
    let (_, other, _kept) = open(&mut world, "192.0.2.1:443", 40001);
    for times in 1..=3 {
        stream.write_all(b"four").unwrap();
        world.socket(handle).send_slice(b"seven, ").unwrap();
        world.until("moved", |world| (world.value("bytes_up"), world.value("bytes_down")) == (7 * times, 4 * times));
    }
    let standings = world.roster.listed().standings;
    let tally = &standings[proxy].tally;
    let counted = [&tally.connects, &tally.opened, &tally.flows_now, &tally.bytes_up, &tally.bytes_down];
    assert_eq!(counted.map(|counter| counter.get()), [1, 1, 1, 21, 12]);
    assert_eq!(standings.iter().map(|standing| standing.tally.flows_now.get()).sum::<u64>(), 2);
    drop(stream);
    world.socket(handle).close();
    world.socket(other).abort();
    world.until("ended", |world| world.stack.usage().0 == 0);
    assert_eq!(standings.iter().map(|standing| standing.tally.flows_now.get()).sum::<u64>(), 0);
}
