//! Digest authentication, pure: RFC 7616, and RFC 2069 where a proxy names no qop.
//!
//! ```text
//!     response = H( H(A1) : nonce : nc : cnonce : qop : H(A2) )      A1 = user : realm : password
//!                                                                    A2 = CONNECT : host:port
//! ```
//!
//! Strings are unescaped before they are hashed, and escaped again where they are sent back, as squid and curl do it.
//! One client nonce serves as long as the nonce does, so that A1 of a `-sess` algorithm stays what the proxy has seen.

use std::fmt::Write as _;

use md5::{Digest as _, Md5};
use sha2::{Sha256, Sha512_256};

use crate::challenge::Challenge;

/// The hashes, the strongest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hash {
    Md5,
    Sha256,
    Sha512Of256,
}

/// Protection of the request's body, which a CONNECT does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quality {
    None,
    Auth,
    AuthInt,
}

/// A challenge that can be answered, and the number of answers to it.
#[derive(Debug, Clone)]
pub struct Session {
    pub hash: Hash,
    /// The algorithm as it was written, if it was.
    algorithm: Option<Vec<u8>>,
    is_session: bool,
    quality: Quality,
    realm: Vec<u8>,
    nonce: Vec<u8>,
    opaque: Option<Vec<u8>>,
    hides_user: bool,
    is_utf8: bool,
    cnonce: String,
    count: u32,
}

/// Who answers. The user is UTF-8, the password as well.
#[derive(Clone, Copy)]
pub struct Who<'a> {
    pub user: &'a [u8],
    pub password: &'a [u8],
}

/// Say whether the proxy only wants another nonce: the password was right.
pub fn is_stale(challenge: &Challenge) -> bool {
    challenge.parameter("stale").is_some_and(|value| value.eq_ignore_ascii_case(b"true"))
}

impl Session {
    /// Begin with a challenge; None where it lacks something or wants what nobody knows. `cnonce` is a new random word.
    pub fn new(challenge: &Challenge, cnonce: String) -> Option<Session> {
        let algorithm = challenge.parameter("algorithm");
        let (hash, is_session) = parse_algorithm(algorithm.unwrap_or(b"MD5"))?;
        let says = |name| challenge.parameter(name).is_some_and(|value| value.eq_ignore_ascii_case(b"true"));
        Some(Session {
            hash,
            algorithm: algorithm.map(<[u8]>::to_vec),
            is_session,
            quality: parse_quality(challenge.parameter("qop"))?,
            realm: challenge.parameter("realm")?.to_vec(),
            nonce: challenge.parameter("nonce")?.to_vec(),
            opaque: challenge.parameter("opaque").map(<[u8]>::to_vec),
            hides_user: says("userhash"),
            is_utf8: challenge.parameter("charset").is_some_and(|value| value.eq_ignore_ascii_case(b"utf-8")),
            cnonce,
            count: 0,
        })
    }

    /// Say whether `other` came of the same nonce.
    pub fn is_same(&self, other: &Session) -> bool {
        self.nonce == other.nonce && self.cnonce == other.cnonce
    }

    /// Go on with the nonce that Proxy-Authentication-Info names.
    pub fn renew(&mut self, nonce: &[u8], cnonce: String) {
        (self.nonce, self.cnonce, self.count) = (nonce.to_vec(), cnonce, 0);
    }

    /// Give the value of Proxy-Authorization for a CONNECT to `target`, as the request names it.
    pub fn answer(&mut self, who: Who, target: &str) -> Vec<u8> {
        self.count += 1;
        let count = format!("{:08x}", self.count);
        let response = self.response(who, target, &count);
        let mut value = b"Digest ".to_vec();
        self.push_user(&mut value, who.user);
        push_quoted(&mut value, ", realm", &self.realm);
        push_quoted(&mut value, ", nonce", &self.nonce);
        push_quoted(&mut value, ", uri", target.as_bytes());
        push_quoted(&mut value, ", response", response.as_bytes());
        if let Some(algorithm) = &self.algorithm {
            value.extend_from_slice(b", algorithm=");
            value.extend_from_slice(algorithm);
        }
        let quality = self.quality.name();
        if !quality.is_empty() {
            value.extend_from_slice(format!(", qop={quality}, nc={count}").as_bytes());
        }
        if !quality.is_empty() || self.is_session {
            push_quoted(&mut value, ", cnonce", self.cnonce.as_bytes());
        }
        if let Some(opaque) = &self.opaque {
            push_quoted(&mut value, ", opaque", opaque);
        }
        if self.hides_user {
            value.extend_from_slice(b", userhash=true");
        }
        value
    }

    /// RFC 7616 §3.4.1 to §3.4.3; without qop RFC 2069 §2.1.2.
    fn response(&self, who: Who, target: &str, count: &str) -> String {
        let hash = |parts: &[&[u8]]| self.hash.of(parts);
        let mut secret = hash(&[who.user, &self.realm, who.password]);
        if self.is_session {
            secret = hash(&[secret.as_bytes(), &self.nonce, self.cnonce.as_bytes()]);
        }
        let mut request: Vec<&[u8]> = vec![b"CONNECT", target.as_bytes()];
        let no_body = self.hash.of(&[b""]);
        if self.quality == Quality::AuthInt {
            request.push(no_body.as_bytes());
        }
        let request = hash(&request);
        let quality = self.quality.name().as_bytes();
        match self.quality {
            Quality::None => hash(&[secret.as_bytes(), &self.nonce, request.as_bytes()]),
            _ => hash(&[
                secret.as_bytes(),
                &self.nonce,
                count.as_bytes(),
                self.cnonce.as_bytes(),
                quality,
                request.as_bytes(),
            ]),
        }
    }

    /// RFC 7616 §3.4.4 (userhash), §3.4 (username*, for what is not ASCII, to those who know UTF-8).
    fn push_user(&self, value: &mut Vec<u8>, user: &[u8]) {
        if self.hides_user {
            push_quoted(value, "username", self.hash.of(&[user, &self.realm]).as_bytes());
        } else if self.is_utf8 && !user.is_ascii() {
            value.extend_from_slice(b"username*=UTF-8''");
            for &byte in user {
                match byte {
                    _ if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) => value.push(byte),
                    _ => value.extend_from_slice(format!("%{byte:02X}").as_bytes()),
                }
            }
        } else {
            push_quoted(value, "username", user);
        }
    }
}

impl Quality {
    fn name(self) -> &'static str {
        match self {
            Quality::None => "",
            Quality::Auth => "auth",
            Quality::AuthInt => "auth-int",
        }
    }
}

impl Hash {
    /// Give the hash of `parts` with colons between them, in hexadecimal.
    fn of(self, parts: &[&[u8]]) -> String {
        let joined = parts.join(&b':');
        match self {
            Hash::Md5 => hexadecimal(&Md5::digest(joined)),
            Hash::Sha256 => hexadecimal(&Sha256::digest(joined)),
            Hash::Sha512Of256 => hexadecimal(&Sha512_256::digest(joined)),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes all
        text
    })
}

fn parse_algorithm(name: &[u8]) -> Option<(Hash, bool)> {
    match name.to_ascii_lowercase().as_slice() {
        b"md5" => Some((Hash::Md5, false)),
        b"md5-sess" => Some((Hash::Md5, true)),
        b"sha-256" => Some((Hash::Sha256, false)),
        b"sha-256-sess" => Some((Hash::Sha256, true)),
        b"sha-512-256" => Some((Hash::Sha512Of256, false)),
        b"sha-512-256-sess" => Some((Hash::Sha512Of256, true)),
        _ => None,
    }
}

fn parse_quality(offered: Option<&[u8]>) -> Option<Quality> {
    let Some(offered) = offered else { return Some(Quality::None) };
    let has =
        |name: &[u8]| offered.split(|&byte| byte == b',').any(|word| word.trim_ascii().eq_ignore_ascii_case(name));
    match (has(b"auth"), has(b"auth-int")) {
        (true, _) => Some(Quality::Auth),
        (false, true) => Some(Quality::AuthInt),
        (false, false) => offered.trim_ascii().is_empty().then_some(Quality::None),
    }
}

fn push_quoted(value: &mut Vec<u8>, name: &str, text: &[u8]) {
    value.extend_from_slice(name.as_bytes());
    value.extend_from_slice(b"=\"");
    for &byte in text {
        if byte == b'"' || byte == b'\\' {
            value.push(b'\\');
        }
        value.push(byte);
    }
    value.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::challenge;

    const MUFASA: Who = Who { user: b"Mufasa", password: b"Circle of Life" };
    const CNONCE: &str = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";

    fn session(value: &str, cnonce: &str) -> Option<Session> {
        Session::new(&challenge::parse([value.as_bytes()].into_iter())[0], cnonce.to_owned())
    }

    /// The response as RFC 7616 computes its own, for a GET.
    fn response_to_get(session: &Session, who: Who, path: &str, count: &str) -> String {
        let secret = session.hash.of(&[who.user, &session.realm, who.password]);
        let request = session.hash.of(&[b"GET", path.as_bytes()]);
        let parts: [&[u8]; 6] = [
            secret.as_bytes(),
            &session.nonce,
            count.as_bytes(),
            session.cnonce.as_bytes(),
            b"auth",
            request.as_bytes(),
        ];
        session.hash.of(&parts)
    }

    fn answered(session: &mut Session, who: Who) -> String {
        String::from_utf8(session.answer(who, "192.0.2.1:443")).unwrap()
    }

    fn field(value: &str, name: &str) -> Option<String> {
        let parsed = challenge::parse([value.as_bytes()].into_iter());
        parsed[0].parameter(name).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn hashes_are_those_of_the_examples_in_rfc_7616() {
        let offered = |algorithm| {
            format!(
                r#"Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={algorithm}, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS""#
            )
        };
        let md5 = session(&offered("MD5"), CNONCE).unwrap();
        let path = "/dir/index.html";
        assert_eq!(response_to_get(&md5, MUFASA, path, "00000001"), "8ca523f5e9506fed4657c9700eebdbec");
        let sha = session(&offered("SHA-256"), CNONCE).unwrap();
        let expected = "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1";
        assert_eq!(response_to_get(&sha, MUFASA, path, "00000001"), expected);
    }

    #[test]
    fn user_is_hashed_as_in_the_example_of_rfc_7616() {
        let mut session = session(
            r#"Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, charset=UTF-8, userhash=true, nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK""#,
            "NTg6RKcb9boFIAS3KrFK9BGeh+niz/sm",
        )
        .unwrap();
        let user = "J\u{e4}s\u{f8}n Doe".as_bytes();
        let value = answered(&mut session, Who { user, password: b"Secret, or not?" });
        // RFC 7616's own figures (488869477b…) are wrong, as erratum 4897 says; these are the corrected ones
        let expected = "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b";
        assert_eq!(field(&value, "username").unwrap(), expected);
        assert_eq!(field(&value, "userhash").unwrap(), "true");
    }

    #[test]
    fn answer_to_connect_is_what_other_programs_compute() {
        let mut plain = session(r#"Digest realm="r", nonce="n", qop="auth", algorithm=MD5"#, "c").unwrap();
        let value = answered(&mut plain, MUFASA);
        let expected = "22dc06a18abd5922d94f7dc452b34830"; // by Python's hashlib
        assert_eq!(field(&value, "response").unwrap(), expected);
        assert_eq!(
            value,
            format!(
                "Digest username=\"Mufasa\", realm=\"r\", nonce=\"n\", uri=\"192.0.2.1:443\", response=\"{expected}\", \
                 algorithm=MD5, qop=auth, nc=00000001, cnonce=\"c\""
            )
        );
    }

    #[test]
    fn count_goes_up_and_begins_anew_with_the_next_nonce() {
        let mut session = session(r#"Digest realm="r", nonce="n", qop=auth"#, "c").unwrap();
        let counts: Vec<_> = (0..17).map(|_| field(&answered(&mut session, MUFASA), "nc").unwrap()).collect();
        assert_eq!((counts[0].as_str(), counts[16].as_str()), ("00000001", "00000011"));
        session.renew(b"m", "d".to_owned());
        let value = answered(&mut session, MUFASA);
        let of = |name| field(&value, name).unwrap();
        assert_eq!((of("nonce"), of("nc"), of("cnonce")), ("m".to_owned(), "00000001".to_owned(), "d".to_owned()));
    }

    #[test]
    fn without_qop_the_answer_is_that_of_rfc_2069() {
        let mut session = session(r#"Digest realm="r", nonce="n", opaque="o\"o""#, "c").unwrap();
        let value = answered(&mut session, MUFASA);
        let (a1, a2) = (Hash::Md5.of(&[b"Mufasa:r:Circle of Life"]), Hash::Md5.of(&[b"CONNECT:192.0.2.1:443"]));
        assert_eq!(field(&value, "response").unwrap(), Hash::Md5.of(&[a1.as_bytes(), b"n", a2.as_bytes()]));
        for absent in ["qop", "nc", "cnonce", "algorithm", "userhash"] {
            assert_eq!(field(&value, absent), None, "{absent}");
        }
        assert!(value.ends_with(r#", opaque="o\"o""#), "{value}");
    }

    #[test]
    fn session_variants_hash_both_nonces_into_the_secret() {
        let mut session = session(r#"Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256-sess"#, "c").unwrap();
        let value = answered(&mut session, MUFASA);
        let hash = Hash::Sha256;
        let a1 = hash.of(&[hash.of(&[b"Mufasa:r:Circle of Life"]).as_bytes(), b"n", b"c"]);
        let a2 = hash.of(&[b"CONNECT:192.0.2.1:443"]);
        let expected = hash.of(&[a1.as_bytes(), b"n:00000001:c:auth", a2.as_bytes()]);
        assert_eq!(field(&value, "response").unwrap(), expected);
        assert_eq!(field(&value, "algorithm").unwrap(), "SHA-256-sess");
    }

    #[test]
    fn body_that_is_to_be_protected_is_empty() {
        let mut session = session(r#"Digest realm="r", nonce="n", qop="auth-int""#, "c").unwrap();
        let value = answered(&mut session, MUFASA);
        let (hash, a1) = (Hash::Md5, Hash::Md5.of(&[b"Mufasa:r:Circle of Life"]));
        let a2 = hash.of(&[b"CONNECT:192.0.2.1:443", b"d41d8cd98f00b204e9800998ecf8427e"]);
        let expected = hash.of(&[a1.as_bytes(), b"n:00000001:c:auth-int", a2.as_bytes()]);
        assert_eq!(
            (field(&value, "response").unwrap(), field(&value, "qop").unwrap()),
            (expected, "auth-int".to_owned())
        );
    }

    #[test]
    fn user_outside_ascii_is_marked_as_utf8_where_the_proxy_knows_that() {
        let user = Who { user: "J\u{e4}s \"q\" 100%".as_bytes(), password: b"x" };
        let mut knows = session(r#"Digest realm="r", nonce="n", qop="auth", charset=UTF-8"#, "c").unwrap();
        let value = answered(&mut knows, user);
        assert!(value.starts_with("Digest username*=UTF-8''J%C3%A4s%20%22q%22%20100%25, realm"), "{value}");
        let mut old = session(r#"Digest realm="r", nonce="n", qop="auth""#, "c").unwrap();
        assert!(answered(&mut old, user).starts_with("Digest username=\"J\u{e4}s \\\"q\\\" 100%\", "));
        assert!(answered(&mut knows, MUFASA).starts_with("Digest username=\"Mufasa\", "));
    }

    #[test]
    fn challenge_that_lacks_something_or_wants_the_unknown_is_none() {
        for value in [
            r#"Digest realm="r", qop="auth""#,
            r#"Digest nonce="n", qop="auth""#,
            r#"Digest realm="r", nonce="n", algorithm=SHA-1"#,
            r#"Digest realm="r", nonce="n", qop="auth-conf""#,
        ] {
            assert!(session(value, "c").is_none(), "{value}");
        }
        assert!(session(r#"Digest realm="", nonce="", qop="""#, "c").is_some());
    }
}
