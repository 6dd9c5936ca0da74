//! The trial of `up`: each proxy is asked for a tunnel, by the code that carries connections, before anything is changed.
//!
//! What counts is whether the proxy can be spoken to and takes the credentials; whether it likes the target does not.

use std::net::SocketAddr;

use crate::auth::Why;
use crate::refusal::Refusal;
use crate::target::Target;
use crate::upstreams::Proxy;

/// What the proxies are asked for when they are tried.
pub enum Question {
    Target(Target),
    /// Each for port 443 of itself, which proxies mostly allow where they allow anything, and so get to the credentials;
    /// where that one only hangs up, for its own port.
    Itself {
        /// By its name, if it has one: who refuses addresses may do so before asking for credentials.
        by_name: bool,
    },
}

const HTTPS: u16 = 443;

impl Question {
    /// Give what `proxy` is asked for.
    pub fn of(&self, proxy: &Proxy) -> Target {
        match self {
            Question::Target(target) => target.clone(),
            Question::Itself { by_name: true } => Target::parse(&proxy.name, HTTPS).unwrap_or_else(|| address(proxy)),
            Question::Itself { by_name: false } => address(proxy),
        }
    }
}

fn address(proxy: &Proxy) -> Target {
    SocketAddr::new(proxy.address.ip(), HTTPS).into()
}

/// What came of asking one proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its index.
    pub proxy: usize,
    /// `ok`, or the kind of the refusal.
    pub kind: &'static str,
    /// For a person; empty when it is fine.
    pub text: String,
}

impl Outcome {
    /// The proxy said 2xx.
    pub fn fine(proxy: usize) -> Outcome {
        Outcome { proxy, kind: "ok", text: String::new() }
    }

    /// The proxy refused: any status but that of credentials is as good as a 2xx here.
    pub fn of(proxy: usize, refusal: &Refusal, text: String) -> Outcome {
        match refusal {
            Refusal::Status(..) => Outcome::fine(proxy),
            Refusal::Credentials { status, reason, why: Why::Wrong { .. } } => {
                Outcome { proxy, kind: "wrong", text: format!("it answered {status} {reason}").trim_end().to_owned() }
            }
            Refusal::Credentials { why, .. } => Outcome { proxy, kind: "credentials", text: why.to_string() },
            Refusal::Tls(why) => Outcome { proxy, kind: "tls", text: why.clone() },
            _ => Outcome { proxy, kind: refusal.kind(), text },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(refusal: &Refusal) -> (&'static str, String) {
        let outcome = Outcome::of(0, refusal, "text".to_owned());
        (outcome.kind, outcome.text)
    }

    #[test]
    fn proxy_with_a_name_is_asked_for_it_where_names_are_virtual() {
        let mut proxy = Proxy::plain("192.0.2.1:3128".parse().unwrap());
        let itself = |proxy: &Proxy, by_name| Question::Itself { by_name }.of(proxy);
        assert_eq!(itself(&proxy, true), Target::parse("192.0.2.1", 443).unwrap());
        proxy.name = "proxy.corp.example".to_owned();
        assert_eq!(itself(&proxy, true), Target::parse("proxy.corp.example", 443).unwrap());
        assert_eq!(itself(&proxy, false), Target::parse("192.0.2.1", 443).unwrap());
    }

    #[test]
    fn only_credentials_and_what_is_no_answer_count() {
        assert_eq!(outcome(&Refusal::Status(403, "Forbidden".to_owned())).0, "ok");
        assert_eq!(outcome(&Refusal::Closed), ("closed", "text".to_owned()));
        let wrong = Refusal::Credentials { status: 407, reason: "No".to_owned(), why: Why::Wrong { rest: None } };
        assert_eq!(outcome(&wrong), ("wrong", "it answered 407 No".to_owned()));
        let why = Why::NoMeans { offered: "NTLM".to_owned(), reasons: String::new(), has_user: false };
        let none = Refusal::Credentials { status: 407, reason: String::new(), why };
        assert!(outcome(&none).1.starts_with("wants credentials by NTLM"), "{:?}", outcome(&none));
    }
}
