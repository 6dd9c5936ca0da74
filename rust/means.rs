//! What the user gave for a proxy, and which of the proxy's offers that is good for. Pure.
//!
//! The order is Negotiate (the password never leaves this machine, and the proxy proves itself), Digest by its hash, NTLM
//! (whose hash is weaker than Digest's SHA-256, and which costs a connection more), Basic (the password itself).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::challenge::Challenge;
use crate::digest::{Hash, Session};

/// A way to authenticate, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    Negotiate,
    Digest,
    Ntlm,
    Basic,
}

impl Scheme {
    /// All of them.
    pub const ALL: [Scheme; 4] = [Scheme::Negotiate, Scheme::Digest, Scheme::Ntlm, Scheme::Basic];

    /// Give its name in small letters.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Negotiate => "negotiate",
            Scheme::Digest => "digest",
            Scheme::Ntlm => "ntlm",
            Scheme::Basic => "basic",
        }
    }

    /// Give its name as it stands in a header.
    pub fn title(self) -> &'static str {
        match self {
            Scheme::Negotiate => "Negotiate",
            Scheme::Digest => "Digest",
            Scheme::Ntlm => "NTLM",
            Scheme::Basic => "Basic",
        }
    }

    /// Find one by its name in small letters.
    pub fn named(name: &str) -> Option<Scheme> {
        Scheme::ALL.into_iter().find(|scheme| scheme.name() == name)
    }

    /// Say whether its tokens are made outside the sandbox.
    pub fn talks_in_tokens(self) -> bool {
        matches!(self, Scheme::Negotiate | Scheme::Ntlm)
    }
}

/// What the user gave. Not `Debug`: it holds the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Means {
    /// In UTF-8; empty: none.
    pub user: Vec<u8>,
    pub password: Vec<u8>,
    /// What may be used.
    pub allowed: Vec<Scheme>,
    /// Whether Basic is sent before the proxy asks for it.
    pub preemptive: bool,
}

impl Default for Means {
    fn default() -> Means {
        Means { user: Vec::new(), password: Vec::new(), allowed: Scheme::ALL.to_vec(), preemptive: false }
    }
}

/// A way to answer.
#[derive(Debug, Clone)]
pub enum Offer {
    Basic,
    Digest(Session),
    Tokens(Scheme),
}

impl Means {
    /// Say whether there is a user's name for `scheme`, and whether it may be used. Tickets are found outside.
    pub fn has(&self, scheme: Scheme) -> bool {
        self.allowed.contains(&scheme) && (scheme == Scheme::Negotiate || !self.user.is_empty())
    }

    /// Give the strongest of `offers` that there are means for, leaving out `missing`.
    pub fn best(&self, offers: &[Challenge], missing: &[Scheme], cnonce: &str) -> Option<Offer> {
        let usable = offers.iter().filter_map(|challenge| {
            let scheme = Scheme::named(&challenge.scheme)?;
            let offer = match scheme {
                Scheme::Basic => Offer::Basic,
                Scheme::Digest => Offer::Digest(Session::new(challenge, cnonce.to_owned())?),
                Scheme::Negotiate | Scheme::Ntlm => Offer::Tokens(scheme),
            };
            (self.has(scheme) && !missing.contains(&scheme)).then_some(offer)
        });
        // of equals the first, which the proxy prefers (RFC 7616 §3.7)
        usable.min_by_key(Offer::rank)
    }

    /// Give the value of Proxy-Authorization for Basic (RFC 7617, in UTF-8).
    pub fn basic(&self) -> Vec<u8> {
        let pair = [self.user.as_slice(), b":", &self.password].concat();
        format!("Basic {}", STANDARD.encode(pair)).into_bytes()
    }
}

impl Offer {
    /// Give its scheme.
    pub fn scheme(&self) -> Scheme {
        match self {
            Offer::Basic => Scheme::Basic,
            Offer::Digest(_) => Scheme::Digest,
            Offer::Tokens(scheme) => *scheme,
        }
    }

    fn rank(&self) -> (Scheme, std::cmp::Reverse<Option<Hash>>) {
        let hash = match self {
            Offer::Digest(session) => Some(session.hash),
            _ => None,
        };
        (self.scheme(), std::cmp::Reverse(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::challenge;

    fn known() -> Means {
        Means { user: b"Aladdin".to_vec(), password: b"open sesame".to_vec(), ..Means::default() }
    }

    fn best(means: &Means, offers: &str, missing: &[Scheme]) -> Option<String> {
        let offers = challenge::parse([offers.as_bytes()].into_iter());
        let offer = means.best(&offers, missing, "c")?;
        Some(match offer {
            Offer::Digest(session) => format!("digest {:?}", session.hash),
            other => other.scheme().name().to_owned(),
        })
    }

    #[test]
    fn strongest_offer_is_taken_whatever_the_order() {
        let (md5, sha) = ("Digest realm=r, nonce=n", "Digest realm=r, nonce=n, algorithm=SHA-256");
        let all = ["Basic realm=x", md5, "NTLM", sha, "Negotiate"];
        let expected = ["negotiate", "digest Sha256", "digest Md5", "ntlm", "basic"];
        let mut left = all.to_vec();
        for (name, gone) in expected.iter().zip(["Negotiate", sha, md5, "NTLM", "Basic realm=x"]) {
            assert_eq!(best(&known(), &left.join(", "), &[]).as_deref(), Some(*name));
            left.reverse();
            assert_eq!(best(&known(), &left.join(", "), &[]).as_deref(), Some(*name));
            left.retain(|offer| *offer != gone);
        }
        assert_eq!(best(&known(), "Bearer, Basic2", &[]), None);
    }

    #[test]
    fn without_a_user_only_a_ticket_will_do() {
        let none = Means::default();
        assert_eq!(best(&none, "Negotiate, NTLM, Basic realm=x", &[]).as_deref(), Some("negotiate"));
        assert_eq!(best(&none, "NTLM, Basic realm=x, Digest realm=r, nonce=n", &[]), None);
    }

    #[test]
    fn what_is_missing_or_not_allowed_is_left_out() {
        let offers = "Negotiate, NTLM, Basic realm=x";
        assert_eq!(best(&known(), offers, &[Scheme::Negotiate]).as_deref(), Some("ntlm"));
        assert_eq!(best(&known(), offers, &[Scheme::Negotiate, Scheme::Ntlm]).as_deref(), Some("basic"));
        let picky = Means { allowed: vec![Scheme::Digest], ..known() };
        assert_eq!(best(&picky, offers, &[]), None);
        assert_eq!(best(&known(), "Digest realm=r, nonce=n, algorithm=unknown, Basic", &[]).as_deref(), Some("basic"));
    }

    #[test]
    fn basic_is_that_of_rfc_7617() {
        assert_eq!(known().basic(), b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let user = Means { user: b"test".to_vec(), password: "123\u{a3}".as_bytes().to_vec(), ..Means::default() };
        assert_eq!(user.basic(), b"Basic dGVzdDoxMjPCow==");
    }
}
