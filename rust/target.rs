//! What a proxy is asked for: an address and a port, or a name and a port.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The far end of a connection, as a proxy is told it (RFC 9110, section 9.3.6: the authority form).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    Address(SocketAddr),
    /// A host name of letters, digits, `-`, `_` and `.` only: it becomes part of a request line.
    Name(Arc<str>, u16),
}

impl Target {
    /// Give `host`, an address or a name, with `port`; None for what cannot stand in a request line.
    pub fn parse(host: &str, port: u16) -> Option<Target> {
        if port == 0 {
            return None;
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            return Some(Target::Address(SocketAddr::new(address, port)));
        }
        let fits = !host.is_empty() && host.len() <= 253 && host.bytes().all(is_of_a_name);
        fits.then(|| Target::Name(host.into(), port))
    }
}

fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Target {
        Target::Address(address)
    }
}

impl fmt::Display for Target {
    /// IPv6 addresses stand in brackets.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Address(address) => match address.ip() {
                IpAddr::V4(ip) => write!(out, "{ip}:{}", address.port()),
                IpAddr::V6(ip) => write!(out, "[{ip}]:{}", address.port()),
            },
            Target::Name(name, port) => write!(out, "{name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_stand_in_a_request_line_is_no_target() {
        for bad in ["", "a b", "a\r\nb", "a/b", "a:b", "é.example", &"a".repeat(254)] {
            assert_eq!(Target::parse(bad, 80), None, "{bad:?}");
        }
        assert_eq!(Target::parse("a.example", 0), None);
        assert_eq!(Target::parse("a.example", 80).unwrap().to_string(), "a.example:80");
        assert_eq!(Target::parse("2001:db8::1", 443).unwrap().to_string(), "[2001:db8::1]:443");
    }
}
