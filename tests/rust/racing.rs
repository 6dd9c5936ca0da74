//! Two proxies that are dialled one beside the other, with TLS or without: whichever is connected first is asked.
//!
//! The kernel connects at once here; what is late is that the approach is told so.

use std::io::Read;
use std::net::TcpListener;
use std::sync::Arc;

use crate::front::{Front, VERSIONS};
use crate::world::listener;
use _tunstack::approach::{Approach, Progress, Stage};
use _tunstack::target::Target;
use _tunstack::upstream::Ready;
use _tunstack::upstreams::{Proxy, Upstreams};
use smoltcp::time::{Duration, Instant};

const START: Instant = Instant::from_millis_const(1_000_000);
const WRITABLE: Ready = Ready { readable: false, writable: true, hangup: false, broken: false };

/// Begin to connect by TLS to the first of two proxies.
fn begun() -> ([TcpListener; 2], Upstreams, Approach) {
    let listeners = [listener(), listener()];
    let client = Front::new(VERSIONS[0], listeners[0].local_addr().unwrap()).client;
    let proxy = |at: &TcpListener| Proxy { tls: Some(client.clone()), ..Proxy::plain(at.local_addr().unwrap()) };
    let mut upstreams = Upstreams::new(listeners.iter().map(proxy).collect(), Arc::default(), Arc::default());
    let approach = Approach::begin(Target::parse("192.0.2.1", 443).unwrap(), START, &mut upstreams);
    assert_eq!((approach.stage(), approach.dials()), (Stage::Dialing, 1));
    (listeners, upstreams, approach)
}

/// Serve it, and give when it is to be served again.
fn serve(approach: &mut Approach, upstreams: &mut Upstreams, millis: u64) -> Instant {
    match approach.serve(START + Duration::from_millis(millis), upstreams) {
        Progress::Waiting(until) => until.unwrap(),
        _ => panic!("it is over"),
    }
}

/// Give the first byte that a proxy was sent, if it was dialled and sent one.
fn first_byte(proxy: &TcpListener) -> Option<u8> {
    let (mut stream, _) = proxy.accept().ok()?;
    stream.set_nonblocking(true).unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).ok().map(|()| byte[0])
}

#[test]
fn first_that_turns_out_to_be_connected_is_asked_though_the_second_was_dialled() {
    let ([first, second], mut upstreams, mut approach) = begun();
    assert_eq!(serve(&mut approach, &mut upstreams, 0), START + Duration::from_millis(250));
    serve(&mut approach, &mut upstreams, 250);
    assert_eq!((approach.stage(), approach.dials()), (Stage::Dialing, 2));
    approach.wake(WRITABLE);
    serve(&mut approach, &mut upstreams, 251);
    assert_eq!(approach.stage(), Stage::Securing);
    assert_eq!((first_byte(&first), first_byte(&second)), (Some(0x16), None), "a handshake, and nothing");
}

#[test]
fn first_that_is_connected_is_asked_when_the_second_refuses() {
    let ([first, second], mut upstreams, mut approach) = begun();
    drop(second);
    serve(&mut approach, &mut upstreams, 250);
    approach.wake(Ready { hangup: true, ..WRITABLE });
    serve(&mut approach, &mut upstreams, 251);
    assert_eq!((approach.stage(), first_byte(&first)), (Stage::Securing, Some(0x16)));
}

#[test]
fn proxy_that_is_slow_in_its_handshake_is_waited_for_without_haste() {
    let (_kept, mut upstreams, mut approach) = begun();
    approach.wake(WRITABLE);
    serve(&mut approach, &mut upstreams, 1);
    assert_eq!(approach.stage(), Stage::Securing);
    let next = serve(&mut approach, &mut upstreams, 300);
    assert!(next > START + Duration::from_secs(5), "it would be served all the time: {next}");
}
