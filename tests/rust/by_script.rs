//! A PAC file says which proxies may be asked, or that none is to be. See world.rs.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};

use crate::streams::{bytes, exchange};
use crate::world::{GRANT, TARGET, World, listener};
use _tunstack::roster::Policy;
use smoltcp::iface::SocketHandle;
use smoltcp::time::Duration;

const ASKED: &[u8] = b"443 192.0.2.1";
const DIRECTLY: &[u8] = b"192.0.2.1 443";

/// A world of three proxies in which a connection was begun, and the number of the wish for its ways.
fn begun() -> (World, SocketHandle, u64) {
    let policy = Policy { by_script: true, ..Policy::default() };
    let mut world = World::choosing(vec![listener(), listener(), listener()], policy);
    let handle = world.connect(TARGET, 40000);
    let number = world.wish_for("pac", ASKED);
    assert!(world.proxies.iter().all(|proxy| proxy.accept().is_err()), "no proxy is asked before the script");
    (world, handle, number)
}

/// The line of a grant that means proxy `number`.
fn line(world: &World, number: usize) -> String {
    format!("http 127.0.0.1 {}\n", world.proxies[number].local_addr().unwrap().port())
}

/// Let nobody listen any more where proxy `number` did.
fn kill(world: &mut World, number: usize) {
    drop(std::mem::replace(&mut world.proxies[number], listener()));
}

/// A server past all proxies, and what the helper would pass of a connection to it.
fn server() -> (TcpListener, OwnedFd) {
    let server = listener();
    let socket = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    socket.set_nonblocking(true).unwrap();
    (server, socket.into())
}

/// What the helper would pass of a connection that nobody takes.
fn refused() -> OwnedFd {
    let nobody = listener().local_addr().unwrap();
    // SAFETY: plain system calls; the descriptor is new and ours.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0);
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_port = nobody.port().to_be();
        address.sin_addr.s_addr = u32::from(std::net::Ipv4Addr::LOCALHOST).to_be();
        libc::connect(fd, (&raw const address).cast(), size_of_val(&address) as libc::socklen_t);
        OwnedFd::from_raw_fd(fd)
    }
}

#[test]
fn first_proxy_of_the_answer_is_asked() {
    let (mut world, handle, number) = begun();
    let answer = line(&world, 2) + &line(&world, 0);
    world.grant(number, answer.as_bytes());
    let (mut stream, request) = world.request(2);
    assert!(request.starts_with("CONNECT 192.0.2.1:443 "), "{request}");
    stream.write_all(GRANT).unwrap();
    world.connected(handle);
    let data = bytes(50_000, 5);
    exchange(&mut world, handle, &stream, &data, &data);
    world.assert_empty();
}

#[test]
fn proxy_that_is_gone_is_passed_over_and_no_other_than_those_of_the_answer_is_asked() {
    let (mut world, handle, number) = begun();
    let answer = line(&world, 2) + &line(&world, 1);
    kill(&mut world, 2);
    world.grant(number, answer.as_bytes());
    let (mut stream, _) = world.request(1);
    stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").unwrap();
    world.closed(handle);
    assert_eq!((world.value("refused_status_503"), world.value("proxy_failovers")), (1, 1));
    assert!(world.proxies[0].accept().is_err());
    world.assert_empty();
}

#[test]
fn direct_connection_is_wished_for_and_carries() {
    let (mut world, handle, number) = begun();
    world.grant(number, b"direct\n");
    let wish = world.wish_for("direct", DIRECTLY);
    let (server, socket) = server();
    world.give(wish, Ok((Vec::new(), Some(socket))));
    world.connected(handle);
    let (stream, _) = server.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let data = bytes(50_000, 5);
    exchange(&mut world, handle, &stream, &data, &data);
    assert!(world.notes.take().is_empty());
    world.assert_empty();
}

#[test]
fn way_after_the_one_that_failed_is_gone() {
    let (mut world, handle, number) = begun();
    let answer = line(&world, 0) + "direct\n" + &line(&world, 1);
    kill(&mut world, 0);
    world.grant(number, answer.as_bytes());
    let wish = world.wish_for("direct", DIRECTLY);
    world.give(wish, Ok((Vec::new(), Some(refused()))));
    let (mut stream, _) = world.request(1);
    stream.write_all(GRANT).unwrap();
    world.connected(handle);
    assert_eq!(world.value("proxy_failovers"), 2);
    let notes = world.notes.take().join("\n");
    assert!(notes.contains("past the proxies"), "{notes}");
}

#[test]
fn policy_of_a_proxy_stands() {
    let (mut world, handle, number) = begun();
    let answer = line(&world, 0) + "direct\n";
    world.grant(number, answer.as_bytes());
    let (mut stream, _) = world.request(0);
    stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").unwrap();
    world.closed(handle);
    assert_eq!(world.value("refused_status_403"), 1);
    world.assert_empty();
}

#[test]
fn connection_for_which_there_is_no_way_is_refused() {
    for grant in [Err("no idea".to_owned()), Ok((Vec::new(), None)), Ok((b"nonsense".to_vec(), None))] {
        let (mut world, handle, number) = begun();
        world.give(number, grant);
        world.closed(handle);
        assert_eq!(world.value("refused_script"), 1);
        assert!(world.notes.take().is_empty(), "who evaluates it has told why");
        world.assert_empty();
    }
}

#[test]
fn direct_connection_that_cannot_be_had_is_refused_and_told() {
    let (mut world, handle, number) = begun();
    world.grant(number, b"direct\n");
    let wish = world.wish_for("direct", DIRECTLY);
    world.give(wish, Err("no route to host".to_owned()));
    world.closed(handle);
    assert_eq!(world.value("refused_direct"), 1);
    let notes = world.notes.take().join("\n");
    assert!(notes.contains("192.0.2.1:443 past the proxies") && notes.contains("no route to host"), "{notes}");
    world.assert_empty();
}

#[test]
fn script_that_does_not_answer_is_not_waited_for_for_ever() {
    let (mut world, handle, number) = begun();
    world.rest(Duration::from_secs(25));
    world.closed(handle);
    assert_eq!(world.value("refused_script"), 1);
    world.grant(number, b"direct\n"); // too late: nobody wants it
    world.assert_empty();
}

#[test]
fn program_that_gives_up_leaves_nothing() {
    let (mut world, handle, number) = begun();
    world.socket(handle).abort();
    world.rest(Duration::from_secs(1));
    world.grant(number, b"direct\n");
    world.assert_empty();
}
