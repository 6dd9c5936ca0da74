//! What a client of the proxy asks for: HTTP CONNECT, or SOCKS5 (RFC 1928) without authentication, by address only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The answer to a SOCKS5 greeting: no authentication.
pub const METHOD: &[u8] = &[5, 0];

/// What a head asks for.
pub enum Asked {
    /// Not all of it is here.
    Nothing,
    /// A SOCKS5 greeting, taken from the head; it wants METHOD.
    Method,
    Target(SocketAddr),
    Nonsense,
}

/// Read what is there of a request.
pub fn read(head: &mut Vec<u8>) -> Asked {
    match head.as_slice() {
        [] => Asked::Nothing,
        // The second byte of a greeting counts methods; that of a request is 1 (CONNECT), followed by a reserved 0.
        [5, 1, 0, 1, rest @ ..] => socks_target(rest, 4, |bytes| <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)),
        [5, 1, 0, 4, rest @ ..] => socks_target(rest, 16, |bytes| <[u8; 16]>::try_from(bytes).ok().map(Ipv6Addr::from)),
        [5, count, rest @ ..] if rest.len() >= usize::from(*count) => {
            head.drain(..2 + usize::from(head[1]));
            Asked::Method
        }
        [5, ..] => Asked::Nothing,
        head if !head.ends_with(b"\r\n\r\n") => Asked::Nothing,
        head => std::str::from_utf8(head)
            .ok()
            .and_then(|head| head.strip_prefix("CONNECT ")?.split(' ').next()?.parse().ok())
            .map_or(Asked::Nonsense, Asked::Target),
    }
}

fn socks_target<A: Into<IpAddr>>(rest: &[u8], size: usize, address: impl Fn(&[u8]) -> Option<A>) -> Asked {
    let (Some(bytes), Some(&[high, low])) = (rest.get(..size), rest.get(size..)) else { return Asked::Nothing };
    let port = u16::from_be_bytes([high, low]);
    address(bytes).map_or(Asked::Nonsense, |address| Asked::Target(SocketAddr::new(address.into(), port)))
}

/// Give the answer when the target is reached.
pub fn consent(is_socks: bool) -> &'static [u8] {
    if is_socks { &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0] } else { b"HTTP/1.1 200 OK\r\n\r\n" }
}

/// Give the answer when it is not.
pub fn refusal(is_socks: bool) -> &'static [u8] {
    if is_socks { &[5, 1, 0, 1, 0, 0, 0, 0, 0, 0] } else { b"HTTP/1.1 502 Bad Gateway\r\n\r\n" }
}
