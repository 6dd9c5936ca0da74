//! Why a connect was refused: how it is counted, and the one line that tells a person.

use std::io;
use std::net::SocketAddr;

use crate::auth::Why;
use crate::health::Event;
use crate::mistrust;
use crate::stats::{Counter, Stats};
use crate::target::Target;

/// What a proxy has not done in time that takes no connection; all other time-outs are of one that does.
pub const ACCEPT: &str = "did not accept a connection";

/// Why no proxy carried a connection.
#[derive(Debug)]
pub enum Refusal {
    /// connect(2) to the proxy failed.
    Unreachable(io::Error),
    /// No connection, or no answer, in time.
    Timeout(&'static str),
    /// The answer was not one of HTTP/1.
    Garbage(&'static str),
    /// The proxy ended the connection before it had answered.
    Closed,
    /// There is no TLS with the proxy: why, for a person.
    Tls(String),
    /// A final status other than 2xx.
    Status(u16, String),
    /// There was no authentication: the status that says so (0: it was not even asked), and why.
    Credentials { status: u16, reason: String, why: Why },
    /// No descriptor, port or kernel memory for a socket.
    Descriptors(io::Error),
    /// No ring, or a SYN that the stack does not take.
    Memory,
    /// To a virtual address that no name has.
    Nameless,
    /// DNS over TLS, whose answers could not be virtual addresses.
    OverTls,
    /// The PAC file has no way, or its answer did not come; who evaluates it has told a person why.
    Script,
    /// There is no connection past the proxies, where the PAC file wants one.
    Direct(String),
}

impl Refusal {
    /// Sort the error of a connect.
    pub fn of_dial(error: io::Error) -> Refusal {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL) => {
                Refusal::Descriptors(error)
            }
            _ => Refusal::Unreachable(error),
        }
    }

    /// Sort the error of a handshake of TLS.
    pub fn of_handshake(error: &io::Error) -> Refusal {
        Refusal::Tls(mistrust::words(error).unwrap_or_else(mistrust::of_end))
    }

    /// Sort the error of a reply that was read.
    pub fn of_reading(error: &io::Error) -> Refusal {
        mistrust::words(error).map_or(Refusal::Closed, Refusal::Tls)
    }

    /// Say whether the next proxy is asked. A policy's answer stands (unless `policy_too`): another proxy that says yes is
    /// not what was meant, and one that is asked with the same wrong credentials may lock an account.
    pub fn goes_on(&self, policy_too: bool) -> bool {
        match self {
            Refusal::Status(500..=599, _) | Refusal::Credentials { .. } => true,
            Refusal::Status(..) => policy_too,
            Refusal::Descriptors(_) | Refusal::Memory | Refusal::Nameless | Refusal::OverTls | Refusal::Script => false,
            Refusal::Unreachable(_) | Refusal::Timeout(_) | Refusal::Garbage(_) | Refusal::Closed | Refusal::Tls(_) => {
                true
            }
            Refusal::Direct(_) => true,
        }
    }

    /// Say whether a proxy has answered.
    pub fn is_an_answer(&self) -> bool {
        matches!(self, Refusal::Status(..) | Refusal::Credentials { .. })
    }

    /// Say whether the proxy wants other credentials; 401 is what tinyproxy says to wrong ones.
    pub fn is_of_credentials(&self) -> bool {
        matches!(self, Refusal::Status(401 | 407, _) | Refusal::Credentials { .. })
    }

    /// Give what it tells about the proxy's health.
    pub fn event(&self) -> Option<Event> {
        match self {
            Refusal::Unreachable(_) | Refusal::Timeout(ACCEPT) => Some(Event::Unreachable),
            Refusal::Timeout(_) | Refusal::Garbage(_) | Refusal::Closed | Refusal::Tls(_) => Some(Event::Faulty),
            Refusal::Descriptors(_) | Refusal::Memory | Refusal::Nameless | Refusal::OverTls => None,
            Refusal::Credentials { why: Why::Resting, .. } => None,
            Refusal::Script | Refusal::Direct(_) => None,
            Refusal::Status(..) | Refusal::Credentials { .. } => Some(Event::Answered),
        }
    }

    /// Say whether a person has been told already.
    pub fn is_told_already(&self) -> bool {
        matches!(self, Refusal::Credentials { why: Why::Resting, .. } | Refusal::Script)
    }

    /// Give the counter that counts it.
    pub fn counter<'a>(&self, stats: &'a Stats) -> &'a Counter {
        match self {
            Refusal::Unreachable(_) => &stats.refused_unreachable,
            Refusal::Timeout(_) => &stats.refused_timeout,
            Refusal::Garbage(_) => &stats.refused_garbage,
            Refusal::Closed => &stats.refused_closed,
            Refusal::Tls(_) => &stats.refused_tls,
            Refusal::Status(status, _) => of_status(*status, stats),
            Refusal::Credentials { status: 0, .. } => &stats.refused_credentials,
            Refusal::Credentials { status, .. } => of_status(*status, stats),
            Refusal::Descriptors(_) => &stats.refused_descriptors,
            Refusal::Memory => &stats.refused_memory,
            Refusal::Nameless => &stats.refused_nameless,
            Refusal::OverTls => &stats.refused_dns_over_tls,
            Refusal::Script => &stats.refused_script,
            Refusal::Direct(_) => &stats.refused_direct,
        }
    }

    /// Name the kind of note that it makes.
    pub fn kind(&self) -> &'static str {
        match self {
            Refusal::Unreachable(_) => "unreachable",
            Refusal::Timeout(_) => "timeout",
            Refusal::Garbage(_) => "garbage",
            Refusal::Closed => "closed",
            Refusal::Tls(_) => "tls",
            Refusal::Status(403, _) => "403",
            Refusal::Credentials { why: Why::NoMeans { .. }, .. } => "407",
            Refusal::Credentials { .. } => "credentials",
            Refusal::Status(502..=504, _) => "50x",
            Refusal::Status(..) => "status",
            Refusal::Descriptors(_) => "descriptors",
            Refusal::Memory => "memory",
            Refusal::Nameless => "nameless",
            Refusal::OverTls => "over-tls",
            Refusal::Script => "script",
            Refusal::Direct(_) => "direct",
        }
    }

    /// Tell a person about it.
    pub fn text(&self, target: &Target, proxy: SocketAddr) -> String {
        match self {
            Refusal::Unreachable(error) => format!("no connection to the proxy {proxy}: {error}"),
            Refusal::Timeout(what) => format!("the proxy {proxy} {what} in time, for {target}"),
            Refusal::Garbage(why) => format!("the proxy {proxy} gave no sense for {target}: {why}"),
            Refusal::Closed => format!("the proxy {proxy} closed the connection without an answer, for {target}"),
            Refusal::Tls(why) => format!("the proxy {proxy} {why}"),
            Refusal::Credentials { status: 0, why, .. } => format!("the proxy {proxy} {why}"),
            Refusal::Credentials { status, reason, why } => {
                let said = format!("{status} {reason}");
                format!("the proxy {proxy} {why} ({})", said.trim_end())
            }
            Refusal::Status(status, reason) => {
                format!("the proxy {proxy} refused {target}: {}", format!("{status} {reason}").trim_end())
            }
            Refusal::Descriptors(error) => format!("no socket for a connection to {target}: {error}"),
            Refusal::Script => format!("the PAC file has no way to {target}"),
            Refusal::Direct(why) => format!("no connection to {target} past the proxies, as the PAC file wants: {why}"),
            Refusal::Memory => format!("no buffers for a connection to {target}: too many are open"),
            Refusal::Nameless => format!("no name is known for {target}: its program must ask for the address again"),
            Refusal::OverTls => format!("{target} was refused: DNS over TLS cannot give virtual addresses"),
        }
    }
}

/// Give the counter of a status; those that proxies are known for have one of their own.
fn of_status(status: u16, stats: &Stats) -> &Counter {
    match status {
        401 => &stats.refused_status_401,
        403 => &stats.refused_status_403,
        404 => &stats.refused_status_404,
        405 => &stats.refused_status_405,
        407 => &stats.refused_status_407,
        408 => &stats.refused_status_408,
        429 => &stats.refused_status_429,
        500 => &stats.refused_status_500,
        501 => &stats.refused_status_501,
        502 => &stats.refused_status_502,
        503 => &stats.refused_status_503,
        504 => &stats.refused_status_504,
        _ => &stats.refused_status_other,
    }
}
