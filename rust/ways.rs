//! The ways to a host that a PAC file gives, pure: what is asked for, and what the answer means.
//!
//!     wish     PORT HOST
//!     grant    a line for each way, in order: `http HOST PORT`, `https HOST PORT`, `direct`
//!
//! The script is evaluated outside (python/proxyvpn/pac/source.py); here its proxies are found again among those that are
//! known, each at all of its addresses. What follows a `direct` is tried when that has failed.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::target::Target;
use crate::upstreams::Proxy;

pub const KIND: &str = "pac";
/// More than Python ever sends.
const MOST: usize = 64;

/// Where a connection may be tried next.
#[derive(Debug, PartialEq, Eq)]
pub enum Way {
    /// By one of these proxies, the first one first.
    Proxies(Vec<SocketAddr>),
    /// Past all proxies.
    Direct,
}

/// Ask for the ways to `target`.
pub fn wish(target: &Target) -> Vec<u8> {
    match target {
        Target::Address(address) => format!("{} {}", address.port(), address.ip()),
        Target::Name(name, port) => format!("{port} {name}"),
    }
    .into_bytes()
}

/// Ask for a connection past all proxies; None where the address is not known.
pub fn direct(target: &Target) -> Option<Vec<u8>> {
    match target {
        Target::Address(address) => Some(format!("{} {}", address.ip(), address.port()).into_bytes()),
        Target::Name(..) => None,
    }
}

/// Give the addresses of the proxy at `host` and `port` that is spoken to by TLS, or not.
pub fn addresses(proxies: &[Proxy], tls: bool, host: &str, port: u16) -> Vec<SocketAddr> {
    let is_meant = |proxy: &&Proxy| {
        proxy.tls.is_some() == tls && proxy.address.port() == port && proxy.name.eq_ignore_ascii_case(host)
    };
    proxies.iter().filter(is_meant).map(|proxy| proxy.address).collect()
}

/// Give the ways in a grant; None for what is no grant. `find` gives the addresses of a proxy (TLS, host, port).
pub fn parse(grant: &[u8], find: impl Fn(bool, &str, u16) -> Vec<SocketAddr>) -> Option<VecDeque<Way>> {
    let text = std::str::from_utf8(grant).ok()?;
    let mut ways = VecDeque::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["direct"] => ways.push_back(Way::Direct),
            [scheme @ ("http" | "https"), host, port] => {
                let (tls, port) = (scheme == "https", port.parse().ok()?);
                add(&mut ways, find(tls, host, port));
            }
            _ => return None,
        }
    }
    (ways.len() <= MOST).then_some(ways)
}

/// Proxies that follow each other are one way: which of them is well is known where they are chosen.
fn add(ways: &mut VecDeque<Way>, found: Vec<SocketAddr>) {
    for address in found {
        match ways.back_mut() {
            Some(Way::Proxies(addresses)) if addresses.contains(&address) => {}
            Some(Way::Proxies(addresses)) => addresses.push(address),
            _ => ways.push_back(Way::Proxies(vec![address])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(tls: bool, host: &str, port: u16) -> Vec<SocketAddr> {
        let texts: &[&str] = match (tls, host, port) {
            (false, "a.example", 3128) => &["192.0.2.1:3128", "[2001:db8::1]:3128"],
            (true, "a.example", 8443) => &["192.0.2.1:8443"],
            (false, "b.example", 3128) => &["192.0.2.2:3128"],
            _ => &[],
        };
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn proxy_is_found_by_its_name_and_port_whatever_the_case() {
        let at = |address: &str| Proxy { name: "A.example".to_owned(), ..Proxy::plain(address.parse().unwrap()) };
        let proxies = [at("192.0.2.1:3128"), at("192.0.2.2:80"), at("[2001:db8::1]:3128")];
        assert_eq!(addresses(&proxies, false, "a.Example", 3128), [proxies[0].address, proxies[2].address]);
        assert_eq!(addresses(&proxies, true, "a.example", 3128), []);
        assert_eq!(addresses(&proxies, false, "b.example", 3128), []);
    }

    fn at(texts: &[&str]) -> Way {
        Way::Proxies(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn proxies_that_follow_each_other_are_one_way_each_at_all_of_its_addresses() {
        let ways = parse(b"http b.example 3128\nhttp a.example 3128\n", known).unwrap();
        assert_eq!(ways, [at(&["192.0.2.2:3128", "192.0.2.1:3128", "[2001:db8::1]:3128"])]);
        let ways = parse(b"https a.example 8443\ndirect\nhttp b.example 3128\nhttp b.example 3128", known).unwrap();
        assert_eq!(ways, [at(&["192.0.2.1:8443"]), Way::Direct, at(&["192.0.2.2:3128"])]);
    }

    #[test]
    fn what_is_not_known_is_no_way() {
        for text in ["http a.example 8443\n", "https a.example 3128\n", "http c.example 3128\n", ""] {
            assert_eq!(parse(text.as_bytes(), known), Some(VecDeque::new()), "{text}");
        }
    }

    #[test]
    fn what_is_no_grant_is_none() {
        for text in ["socks a.example 1080\n", "http a.example\n", "http a.example x\n", "direct now\n", "\n"] {
            assert_eq!(parse(text.as_bytes(), known), None, "{text}");
        }
        assert_eq!(parse(&[0xff], known), None);
        assert_eq!(parse("direct\n".repeat(MOST + 1).as_bytes(), known), None);
    }

    #[test]
    fn wishes_name_port_and_host() {
        let name = Target::parse("a.example", 443).unwrap();
        let address = Target::parse("2001:db8::1", 22).unwrap();
        assert_eq!([wish(&name), wish(&address)], [b"443 a.example".to_vec(), b"22 2001:db8::1".to_vec()]);
        assert_eq!((direct(&name), direct(&address)), (None, Some(b"2001:db8::1 22".to_vec())));
    }
}
