//! Proxy authentication, pure: a 407 in, what to do next out. RFC 9110 §11.
//!
//! An `Exchange` is one connect's own talk with a proxy; what all of them know is in login.rs.
//!
//! ```text
//!     open ──Ask──> request ──2xx──> granted
//!      │               └──407──> challenged ──Ask──> request …
//!      └───Fetch──> token ──Ask──> request …             └──Refuse
//! ```
//!
//! Credentials are shown once in answer to a challenge. Where they were said at once and the proxy wants them again (its
//! nonce is too old, say), there is one retry; the same Basic is never said twice.

use std::fmt;

use smoltcp::time::{Duration, Instant};

use crate::challenge::{self, Challenge};
use crate::digest::{self, Session, Who};
use crate::fields::Fields;
use crate::login::{Known, Memory};
use crate::means::{Offer, Scheme};
use crate::token::{Answer, Wish};

/// Most 407s in one exchange.
const MOST_ROUNDS: u32 = 6;

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send the request with this value of Proxy-Authorization, or without one where it is empty.
    Ask(Vec<u8>),
    /// Get a token, and say so with `token`.
    Fetch(Wish),
    /// The proxy has let us through, and proved itself where it can.
    Granted,
    Refuse(Why),
}

/// Why there is no way through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The proxy offers these, and there are no means for any; `reasons` says more of some.
    NoMeans { offered: String, reasons: String, has_user: bool },
    /// The credentials are wrong, and nobody asks with them again before that time has passed.
    Wrong { rest: Option<Duration> },
    /// They were wrong a while ago: the proxy was not asked.
    Resting,
    /// The proxy does not go on with what it began.
    Broken(String),
    /// The proxy is not who it should be.
    Untrusted(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Nothing,
    /// At once, as it did before.
    Known(Scheme),
    /// In answer to a challenge.
    Fresh(Scheme),
}

/// One connect's talk.
#[derive(Debug)]
pub struct Exchange {
    /// As the request names it.
    target: String,
    shown: Shown,
    session: Option<Session>,
    offers: Vec<Challenge>,
    rounds: u32,
    /// Whether the lockout's rules have let this one ask.
    is_let: bool,
    context: u64,
    fetching: Option<Scheme>,
    legs: u32,
}

impl Exchange {
    /// Begin one for `target`, as the request names it.
    pub fn new(target: String) -> Exchange {
        Exchange {
            target,
            shown: Shown::Nothing,
            session: None,
            offers: Vec::new(),
            rounds: 0,
            is_let: false,
            context: 0,
            fetching: None,
            legs: 0,
        }
    }

    /// Say whether what comes next must go by the same connection.
    pub fn is_pinned(&self) -> bool {
        self.legs > 1
    }

    /// Say whether the last request carried anything.
    pub fn has_shown(&self) -> bool {
        self.shown != Shown::Nothing
    }

    /// Give the first step on a new connection.
    pub fn open(&mut self, memory: &mut Memory, now: Instant) -> Step {
        (self.shown, self.session, self.legs) = (Shown::Nothing, None, 0);
        self.offers.clear();
        if memory.standing.rests_until(now).is_some() && !self.is_let {
            return Step::Refuse(Why::Resting);
        }
        let at_once = memory.means.preemptive && memory.means.has(Scheme::Basic);
        if !memory.standing.is_clear() || (memory.known.is_none() && !at_once) {
            return Step::Ask(Vec::new());
        }
        let who = Who { user: &memory.means.user, password: &memory.means.password };
        match &mut memory.known {
            None | Some(Known::Basic) => {
                self.shown = Shown::Known(Scheme::Basic);
                Step::Ask(memory.means.basic())
            }
            Some(Known::Digest(session)) => {
                self.shown = Shown::Known(Scheme::Digest);
                let value = session.answer(who, &self.target);
                self.session = Some(session.clone());
                Step::Ask(value)
            }
            Some(Known::Tokens(scheme)) => {
                let scheme = *scheme;
                self.fetch(scheme, memory)
            }
        }
    }

    /// Take a 407; `kept` says whether the connection can be used again.
    pub fn challenged(&mut self, fields: &Fields, kept: bool, memory: &mut Memory, now: Instant) -> Step {
        self.rounds += 1;
        self.offers = challenge::parse(fields.values("proxy-authenticate"));
        if self.rounds > MOST_ROUNDS {
            return Step::Refuse(Why::Broken("asks for credentials again and again".to_owned()));
        }
        if let Some((scheme, challenge)) = self.next_leg() {
            if !kept {
                let why = format!("closes the connection in the middle of {}", scheme.title());
                return Step::Refuse(Why::Broken(why));
            }
            self.fetching = Some(scheme);
            return Step::Fetch(Wish { scheme, context: self.context, challenge });
        }
        match self.shown {
            Shown::Nothing => {}
            _ if self.is_stale() => {}
            Shown::Known(Scheme::Basic) if self.is_basic_again(memory, now) => return self.refused(memory, now),
            Shown::Known(_) => memory.known = None,
            Shown::Fresh(Scheme::Negotiate) => {
                memory.miss(Scheme::Negotiate, now, "the proxy does not take the ticket".to_owned());
            }
            Shown::Fresh(_) => return self.refused(memory, now),
        }
        self.show_best(memory, now)
    }

    /// Take note that what was shown is wrong.
    pub fn refused(&mut self, memory: &mut Memory, now: Instant) -> Step {
        memory.known = None;
        self.is_let = false;
        Step::Refuse(Why::Wrong { rest: memory.standing.refuse(&self.target, now) })
    }

    /// Take the answer to a `Fetch`.
    pub fn token(&mut self, answer: Answer, memory: &mut Memory, now: Instant) -> Step {
        let Some(scheme) = self.fetching.take() else { return Step::Granted };
        match answer {
            Answer::Token(token) => {
                self.legs += 1;
                self.shown = if self.rounds == 0 { Shown::Known(scheme) } else { Shown::Fresh(scheme) };
                Step::Ask(format!("{} {token}", scheme.title()).into_bytes())
            }
            Answer::Done => Step::Granted,
            Answer::Wrong(why) => Step::Refuse(Why::Untrusted(why)),
            Answer::Missing(why) if self.legs > 0 => Step::Refuse(Why::Broken(why)),
            Answer::Missing(why) => {
                memory.miss(scheme, now, why);
                if self.rounds > 0 {
                    return self.show_best(memory, now);
                }
                memory.known = None;
                Step::Ask(Vec::new())
            }
        }
    }

    /// Take a 2xx. A token in it is to be right before the connection counts as granted.
    pub fn granted(&mut self, fields: &Fields, memory: &mut Memory) -> Step {
        self.accepted(fields, memory);
        let (Shown::Known(scheme) | Shown::Fresh(scheme)) = self.shown else { return Step::Granted };
        let values = fields.values("proxy-authenticate").chain(fields.values("proxy-authentication-info"));
        let mut proofs = challenge::parse(values).into_iter().filter(|proof| proof.scheme == "negotiate");
        match proofs.find_map(|proof| proof.token).filter(|_| scheme == Scheme::Negotiate) {
            Some(challenge) => {
                self.fetching = Some(scheme);
                Step::Fetch(Wish { scheme, context: self.context, challenge })
            }
            None => Step::Granted,
        }
    }

    /// Take note that the proxy has answered something else than a 407: the credentials, if any, were right.
    pub fn accepted(&mut self, fields: &Fields, memory: &mut Memory) {
        let (Shown::Known(scheme) | Shown::Fresh(scheme)) = self.shown else { return };
        memory.standing.accept(self.rounds > 0);
        if matches!(self.shown, Shown::Fresh(_)) || memory.known.is_none() {
            memory.known = match (scheme, self.session.clone()) {
                (Scheme::Basic, _) => Some(Known::Basic),
                (Scheme::Digest, Some(session)) => Some(Known::Digest(session)),
                (Scheme::Digest, None) => None,
                (scheme, _) => Some(Known::Tokens(scheme)),
            };
        }
        self.take_next_nonce(fields, memory);
    }

    /// Answer the strongest offer that there are means for.
    fn show_best(&mut self, memory: &mut Memory, now: Instant) -> Step {
        let Some(offer) = memory.best(&self.offers, now) else { return Step::Refuse(self.no_means(memory)) };
        if !self.is_let && !memory.standing.may_ask(&self.target, now) {
            return Step::Refuse(Why::Resting);
        }
        self.is_let = true;
        self.shown = Shown::Fresh(offer.scheme());
        match offer {
            Offer::Basic => Step::Ask(memory.means.basic()),
            Offer::Digest(mut session) => {
                let who = Who { user: &memory.means.user, password: &memory.means.password };
                let value = session.answer(who, &self.target);
                self.session = Some(session);
                Step::Ask(value)
            }
            Offer::Tokens(scheme) => self.fetch(scheme, memory),
        }
    }

    fn fetch(&mut self, scheme: Scheme, memory: &mut Memory) -> Step {
        (self.context, self.legs, self.fetching) = (memory.number(), 0, Some(scheme));
        Step::Fetch(Wish { scheme, context: self.context, challenge: String::new() })
    }

    /// Give the proxy's token, where it goes on with a scheme that takes several.
    fn next_leg(&self) -> Option<(Scheme, String)> {
        let (Shown::Known(scheme) | Shown::Fresh(scheme)) = self.shown else { return None };
        let mut offers = self.offers.iter().filter(|offer| offer.scheme == scheme.name());
        let token = offers.find_map(|offer| offer.token.clone())?;
        scheme.talks_in_tokens().then_some((scheme, token))
    }

    fn is_stale(&self) -> bool {
        let is_digest = matches!(self.shown, Shown::Known(Scheme::Digest) | Shown::Fresh(Scheme::Digest));
        is_digest && self.offers.iter().any(|offer| offer.scheme == "digest" && digest::is_stale(offer))
    }

    fn is_basic_again(&self, memory: &mut Memory, now: Instant) -> bool {
        memory.best(&self.offers, now).is_none_or(|offer| offer.scheme() == Scheme::Basic)
    }

    /// RFC 7615 §3, RFC 7616 §3.5.
    fn take_next_nonce(&self, fields: &Fields, memory: &mut Memory) {
        let info = fields.values("proxy-authentication-info").map(challenge::parameters);
        let next = info.filter_map(|info| info.parameter("nextnonce").map(<[u8]>::to_vec)).next();
        let (Some(next), Some(ours)) = (next, &self.session) else { return };
        let cnonce = memory.cnonce();
        match &mut memory.known {
            Some(Known::Digest(session)) if session.is_same(ours) => session.renew(&next, cnonce),
            _ => {}
        }
    }

    fn no_means(&self, memory: &Memory) -> Why {
        let mut offered: Vec<String> = Vec::new();
        for offer in &self.offers {
            let name =
                Scheme::named(&offer.scheme).map_or_else(|| printable(&offer.scheme), |known| known.title().into());
            if !offered.contains(&name) {
                offered.push(name);
            }
        }
        let is_offered = |scheme: Scheme| self.offers.iter().any(|offer| offer.scheme == scheme.name());
        let missing = memory.missing.iter().filter(|(scheme, ..)| is_offered(*scheme));
        let reasons: Vec<String> = missing.map(|(scheme, _, why)| format!("{}: {why}", scheme.title())).collect();
        Why::NoMeans {
            offered: if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") },
            reasons: reasons.join("; "),
            has_user: !memory.means.user.is_empty(),
        }
    }
}

/// Cut a scheme's name, which is a token, to what fits into a line.
fn printable(name: &str) -> String {
    name.chars().filter(char::is_ascii_graphic).take(20).collect()
}

impl fmt::Display for Why {
    /// What the proxy does or wants, behind its name.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NoMeans { offered, reasons, has_user } => {
                write!(formatter, "wants credentials by {offered}")?;
                match (reasons.is_empty(), has_user) {
                    (false, _) => write!(formatter, " ({reasons})"),
                    (true, false) => write!(formatter, ": give --proxy-user and --proxy-password-file"),
                    (true, true) => write!(formatter, ", for none of which there are means: see --proxy-auth"),
                }
            }
            Why::Wrong { rest: Some(rest) } => {
                let minutes = rest.secs() / 60;
                write!(formatter, "refuses the user or the password; it is not asked with them for {minutes} minutes")
            }
            Why::Wrong { rest: None } => write!(formatter, "refuses the user or the password"),
            Why::Resting => write!(formatter, "has refused the user or the password a while ago"),
            Why::Broken(why) => write!(formatter, "does not finish the authentication: {why}"),
            Why::Untrusted(why) => write!(formatter, "cannot prove who it is: {why}"),
        }
    }
}

#[cfg(test)]
mod tests;
