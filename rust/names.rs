//! What becomes of a question, pure but for the table of addresses: answered here, or asked of a resolver, and of which.
//!
//! In `virtual` no name is looked up: whatever could be a host gets an address that stands for it, and the proxy is
//! asked for the name. So that no other address slips past that, the records that carry hints of addresses (HTTPS, SVCB)
//! are none. In `proxy` a resolver behind the proxy knows all names. In both, some are nobody's but ours or this network's.
//!
//! RFC 6761 (localhost, invalid), RFC 6303 (reverse zones), RFC 7686 (onion), RFC 8482 (ANY), RFC 8880 (ipv4only.arpa),
//! RFC 9462 §6.4 (resolver.arpa); use-application-dns.net is how Firefox asks whether it should use the system's DNS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::time::Instant;

use crate::addresses::{self, Addresses};
use crate::dns::{Name, Question, Record, code, kind};

/// For how long "there is none" may be believed: as long as what there is.
const BELIEVE: u32 = addresses::TTL;
/// For how long what never changes may be kept.
const FIXED_TTL: u32 = 3600;

/// Where names are resolved, of those that are not `direct`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Virtual,
    Proxy,
}

/// See the head of this file.
#[derive(Debug, Clone)]
pub struct Names {
    mode: Mode,
    /// The domains whose names this network's resolvers know.
    direct: Vec<Name>,
    /// Which resolvers there are.
    reach: Reach,
    pub addresses: Addresses,
}

/// Which resolvers there are to ask: behind the proxy, in this network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    pub proxy: bool,
    pub direct: bool,
}

/// By which way a resolver is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    Proxy,
    Direct,
}

/// What is to be done with a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// Answer so: a code, records, and where there are none for how long to believe that.
    Answer(u16, Vec<Record>, Option<u32>),
    /// Ask a resolver.
    Ask(Way),
}

/// Names that mean the same everywhere.
struct Known {
    localhost: Name,
    invalid: Name,
    onion: Name,
    local: Name,
    canary: Name,
    resolver: Name,
    ipv4only: Name,
    reverse4: Name,
    reverse6: Name,
}

impl Known {
    fn get() -> &'static Known {
        static KNOWN: std::sync::LazyLock<Known> = std::sync::LazyLock::new(|| Known {
            localhost: fixed("localhost"),
            invalid: fixed("invalid"),
            onion: fixed("onion"),
            local: fixed("local"),
            canary: fixed("use-application-dns.net"),
            resolver: fixed("resolver.arpa"),
            ipv4only: fixed("ipv4only.arpa"),
            reverse4: fixed("in-addr.arpa"),
            reverse6: fixed("ip6.arpa"),
        });
        &KNOWN
    }
}

#[allow(clippy::expect_used)] // names of this file; a test looks at each
fn fixed(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

impl Names {
    /// Begin; `direct` are domains whose names are asked of this network's resolvers, as `.local` and single labels are.
    pub fn new(mode: Mode, mut direct: Vec<Name>, reach: Reach, addresses: Addresses) -> Names {
        direct.push(Known::get().local.clone());
        Names { mode, direct, reach, addresses }
    }

    /// Say what to do with `question`.
    pub fn plan(&self, question: &Question, now: Instant) -> Plan {
        let (name, known) = (&question.name, Known::get());
        if name.is_within(&known.localhost) {
            return host(question, (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST), FIXED_TTL);
        }
        if name.is_within(&known.invalid) || *name == known.canary {
            return absent();
        }
        if name.is_within(&known.resolver) {
            return nothing();
        }
        if let Some(address) = reversed(name, known)
            && let Some(plan) = self.pointer(address, question)
        {
            return plan;
        }
        if self.is_direct(name) {
            return if self.reach.direct { Plan::Ask(Way::Direct) } else { absent() };
        }
        match self.mode {
            Mode::Virtual => self.virtually(question, known, now),
            Mode::Proxy if name.is_within(&known.onion) => absent(),
            Mode::Proxy if self.reach.proxy => Plan::Ask(Way::Proxy),
            Mode::Proxy => failure(),
        }
    }

    /// Give where names are resolved.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    fn is_direct(&self, name: &Name) -> bool {
        name.labels().count() == 1 || self.direct.iter().any(|zone| name.is_within(zone))
    }

    fn virtually(&self, question: &Question, known: &Known, now: Instant) -> Plan {
        let name = &question.name;
        if *name == known.ipv4only {
            return if question.kind == kind::A { ipv4only() } else { nothing() };
        }
        match question.kind {
            kind::A | kind::AAAA | kind::ANY if name.labels().next().is_none() => nothing(),
            kind::A | kind::AAAA | kind::ANY => match name.host() {
                None => absent(),
                Some(text) => {
                    let slot = self.addresses.give(&text, now);
                    slot.map_or_else(failure, |slot| host(question, addresses::pair(slot), addresses::TTL))
                }
            },
            kind::HTTPS | kind::SVCB => nothing(),
            _ if self.reach.proxy => Plan::Ask(Way::Proxy),
            _ => nothing(),
        }
    }

    /// Say whose a reverse name is; None where it is for a resolver to know.
    fn pointer(&self, address: IpAddr, question: &Question) -> Option<Plan> {
        let target = if address.is_loopback() {
            Some(Known::get().localhost.clone())
        } else {
            let slot = addresses::slot_of(address)?;
            self.addresses.name(slot).and_then(|name| Name::parse(&name))
        };
        Some(match target {
            None => absent(),
            Some(target) if matches!(question.kind, kind::PTR | kind::ANY) => {
                let record = Record { kind: kind::PTR, ttl: addresses::TTL, data: target.wire().to_vec() };
                Plan::Answer(code::NOERROR, vec![record], None)
            }
            Some(_) => nothing(),
        })
    }
}

/// Answer a question about a host that has these addresses.
fn host(question: &Question, (v4, v6): (Ipv4Addr, Ipv6Addr), ttl: u32) -> Plan {
    let mut records = Vec::new();
    if matches!(question.kind, kind::A | kind::ANY) {
        records.push(Record { kind: kind::A, ttl, data: v4.octets().to_vec() });
    }
    if matches!(question.kind, kind::AAAA | kind::ANY) {
        records.push(Record { kind: kind::AAAA, ttl, data: v6.octets().to_vec() });
    }
    if records.is_empty() { nothing() } else { Plan::Answer(code::NOERROR, records, None) }
}

/// The two addresses by which hosts look for a translator between the families: there is none here.
fn ipv4only() -> Plan {
    let record = |last| Record { kind: kind::A, ttl: FIXED_TTL, data: vec![192, 0, 0, last] };
    Plan::Answer(code::NOERROR, vec![record(170), record(171)], None)
}

/// The name exists, but has no such record.
fn nothing() -> Plan {
    Plan::Answer(code::NOERROR, Vec::new(), Some(BELIEVE))
}

/// The name does not exist.
fn absent() -> Plan {
    Plan::Answer(code::NXDOMAIN, Vec::new(), Some(BELIEVE))
}

/// It cannot be known now.
pub fn failure() -> Plan {
    Plan::Answer(code::SERVFAIL, Vec::new(), None)
}

/// Give the address whose reverse name (RFC 1035 §3.5, RFC 3596 §2.5) `name` is.
fn reversed(name: &Name, known: &Known) -> Option<IpAddr> {
    let labels = |zone: &Name| name.labels().take(name.labels().count() - zone.labels().count()).collect::<Vec<_>>();
    if name.is_within(&known.reverse4) {
        let bytes: Vec<u8> = labels(&known.reverse4).into_iter().rev().map(decimal).collect::<Option<_>>()?;
        return Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?));
    }
    if name.is_within(&known.reverse6) {
        let digits: Vec<u8> = labels(&known.reverse6).into_iter().rev().map(nibble).collect::<Option<_>>()?;
        let digits = <[u8; 32]>::try_from(digits).ok()?;
        return Some(IpAddr::from(Ipv6Addr::from_bits(digits.iter().fold(0, |sum, &d| sum << 4 | u128::from(d)))));
    }
    None
}

fn decimal(label: &[u8]) -> Option<u8> {
    let plain = label.iter().all(u8::is_ascii_digit) && (label.len() == 1 || label.first() != Some(&b'0'));
    std::str::from_utf8(label).ok().filter(|_| plain)?.parse().ok()
}

fn nibble(label: &[u8]) -> Option<u8> {
    let [digit] = label else { return None };
    char::from(*digit).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::addresses::Table;

    const NOW: Instant = Instant::from_micros_const(9);
    const BOTH: Reach = Reach { proxy: true, direct: true };
    const NEITHER: Reach = Reach { proxy: false, direct: false };

    fn names(mode: Mode, reach: Reach) -> Names {
        Names::new(mode, vec![fixed("corp.example")], reach, Addresses::new(Table::new(100, Arc::default())))
    }

    fn ask(names: &Names, name: &str, kind: u16) -> Plan {
        let mut wire: Vec<u8> =
            name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
        wire.push(0);
        names.plan(&Question::about(Name::take(&wire).unwrap(), kind), NOW)
    }

    fn given(plan: &Plan) -> Vec<Vec<u8>> {
        let Plan::Answer(code::NOERROR, records, None) = plan else { panic!("{plan:?}") };
        records.iter().map(|record| record.data.clone()).collect()
    }

    #[test]
    fn virtual_gives_both_families_of_one_slot_and_no_other_hint() {
        let names = names(Mode::Virtual, NEITHER);
        let (v4, v6) = addresses::pair(1);
        assert_eq!(given(&ask(&names, "www.example.com", kind::A)), [v4.octets().to_vec()]);
        assert_eq!(given(&ask(&names, "WWW.example.COM", kind::AAAA)), [v6.octets().to_vec()]);
        assert_eq!(given(&ask(&names, "www.example.com", kind::ANY)).len(), 2);
        for kind in [kind::HTTPS, kind::SVCB, 15, 16, 33] {
            assert_eq!(ask(&names, "www.example.com", kind), nothing());
        }
    }

    #[test]
    fn virtual_asks_a_resolver_for_other_types_where_there_is_one_but_never_for_hints() {
        let names = names(Mode::Virtual, BOTH);
        assert_eq!(ask(&names, "example.com", 15), Plan::Ask(Way::Proxy));
        assert_eq!(ask(&names, "_ldap._tcp.example.com", 33), Plan::Ask(Way::Proxy));
        assert_eq!(ask(&names, "example.com", kind::HTTPS), nothing());
        assert_eq!(ask(&names, "example.com", kind::SVCB), nothing());
    }

    #[test]
    fn what_no_host_is_called_does_not_exist() {
        let names = names(Mode::Virtual, BOTH);
        for name in ["10.0.0.1", "a.0x7f", "a b.example", "a:1.example", "x.invalid", "use-application-dns.net"] {
            assert_eq!(ask(&names, name, kind::A), absent(), "{name}");
        }
        assert_eq!(names.addresses.name(1), None);
    }

    #[test]
    fn names_of_this_network_go_to_its_resolvers_in_every_mode() {
        for mode in [Mode::Virtual, Mode::Proxy] {
            for name in ["corp.example", "www.CORP.example", "printer.local", "local", "intranet"] {
                assert_eq!(ask(&names(mode, BOTH), name, kind::A), Plan::Ask(Way::Direct), "{name}");
                assert_eq!(ask(&names(mode, NEITHER), name, kind::A), absent(), "{name}");
            }
            for name in ["notcorp.example", "corp.example.net", "local.example"] {
                assert_ne!(ask(&names(mode, BOTH), name, kind::A), Plan::Ask(Way::Direct), "{name}");
            }
        }
    }

    #[test]
    fn proxy_mode_asks_for_all_that_has_no_fixed_meaning() {
        let names = names(Mode::Proxy, BOTH);
        for kind in [kind::A, kind::AAAA, kind::HTTPS, kind::PTR, 16, kind::ANY] {
            assert_eq!(ask(&names, "www.example.com", kind), Plan::Ask(Way::Proxy));
        }
        assert_eq!(ask(&names, "abc.onion", kind::A), absent());
        assert_eq!(ask(&names, "_dns.resolver.arpa", kind::SVCB), nothing());
        assert_eq!(ask(&self::names(Mode::Proxy, NEITHER), "www.example.com", kind::A), failure());
    }

    #[test]
    fn localhost_is_this_machine() {
        for mode in [Mode::Virtual, Mode::Proxy] {
            let names = names(mode, BOTH);
            assert_eq!(given(&ask(&names, "a.localhost", kind::A)), [vec![127, 0, 0, 1]]);
            assert_eq!(given(&ask(&names, "localhost", kind::AAAA)), [Ipv6Addr::LOCALHOST.octets().to_vec()]);
            assert_eq!(ask(&names, "localhost", 15), nothing());
            assert_eq!(given(&ask(&names, "1.0.0.127.in-addr.arpa", kind::PTR)), [fixed("localhost").wire().to_vec()]);
        }
    }

    #[test]
    fn reverse_names_of_virtual_addresses_are_known() {
        let names = names(Mode::Virtual, BOTH);
        ask(&names, "www.example.com", kind::A);
        let (v4, v6) = addresses::pair(1);
        let [a, b, c, d] = v4.octets();
        let four = format!("{d}.{c}.{b}.{a}.in-addr.arpa");
        let digits: Vec<String> = format!("{:032x}", v6.to_bits()).chars().rev().map(String::from).collect();
        let six = format!("{}.ip6.arpa", digits.join("."));
        let name = [fixed("www.example.com").wire().to_vec()];
        assert_eq!(given(&ask(&names, &four, kind::PTR)), name);
        assert_eq!(given(&ask(&names, &six, kind::PTR)), name);
        assert_eq!(ask(&names, &four, 16), nothing());
        assert_eq!(ask(&names, "2.1.18.198.in-addr.arpa", kind::PTR), absent());
        assert_eq!(ask(&names, "1.2.0.192.in-addr.arpa", kind::PTR), Plan::Ask(Way::Proxy));
    }

    #[test]
    fn no_translator_between_the_families_is_found() {
        let names = names(Mode::Virtual, NEITHER);
        assert_eq!(given(&ask(&names, "ipv4only.arpa", kind::A)).len(), 2);
        assert_eq!(ask(&names, "ipv4only.arpa", kind::AAAA), nothing());
    }

    #[test]
    fn full_table_is_a_failure_and_no_wrong_answer() {
        let names = Names::new(Mode::Virtual, Vec::new(), NEITHER, Addresses::new(Table::new(1, Arc::default())));
        ask(&names, "a.example", kind::A);
        assert_eq!(ask(&names, "b.example", kind::A), failure());
    }
}
