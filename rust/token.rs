//! Tokens of Negotiate and NTLM, which are made outside the sandbox, pure: what is asked for, and what comes back.
//!
//! ```text
//!     wish      NAME LF PORT LF SCHEME LF CONTEXT LF CHALLENGE   of the proxy's URL; CHALLENGE: base64, or empty
//!     answer    token BASE64 | done | missing WHY | wrong WHY    WHY: words for a person
//! ```
//!
//! RFC 4559 (Negotiate), MS-NLMP and MS-NTHT (NTLM). The context with number CONTEXT is begun by an empty challenge and
//! goes on with the proxy's; it lives outside.

use crate::means::Scheme;

const WHY_MAX: usize = 300;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub scheme: Scheme,
    pub context: u64,
    /// The proxy's token; empty to begin.
    pub challenge: String,
}

impl Wish {
    /// Give it as bytes, for the proxy with this name and port.
    pub fn bytes(&self, name: &str, port: u16) -> Vec<u8> {
        format!("{name}\n{port}\n{}\n{}\n{}", self.scheme.name(), self.context, self.challenge).into_bytes()
    }
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The next token for the proxy, in base64.
    Token(String),
    /// The proxy's last token was right.
    Done,
    /// There are no means to make one: no ticket, say.
    Missing(String),
    /// The proxy's token was wrong: it is not who it should be.
    Wrong(String),
}

impl Answer {
    /// Read an answer; one that makes no sense is a token that is missing.
    pub fn parse(bytes: &[u8]) -> Answer {
        let text = String::from_utf8_lossy(bytes);
        let (kind, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let why = || rest.chars().filter(|letter| !letter.is_control()).take(WHY_MAX).collect();
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
        match kind {
            "token" if !rest.is_empty() && rest.bytes().all(is_base64) => Answer::Token(rest.to_owned()),
            "done" => Answer::Done,
            "missing" => Answer::Missing(why()),
            "wrong" => Answer::Wrong(why()),
            _ => Answer::Missing("no answer that makes sense".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wish_names_proxy_scheme_context_and_challenge() {
        let wish = Wish { scheme: Scheme::Ntlm, context: 7, challenge: "TlRM".to_owned() };
        assert_eq!(wish.bytes("proxy.example", 3128), b"proxy.example\n3128\nntlm\n7\nTlRM");
    }

    #[test]
    fn answers_are_read_and_nothing_else_gets_into_a_header_or_a_log() {
        assert_eq!(Answer::parse(b"token YII+/=="), Answer::Token("YII+/==".to_owned()));
        assert_eq!(Answer::parse(b"done"), Answer::Done);
        assert_eq!(Answer::parse(b"missing no ticket: run kinit"), Answer::Missing("no ticket: run kinit".to_owned()));
        assert_eq!(Answer::parse(b"wrong a\r\nb\x1b"), Answer::Wrong("ab".to_owned()));
        for nonsense in [&b""[..], b"token", b"token a\r\nX: y", b"tokena", b"\xff"] {
            assert!(matches!(Answer::parse(nonsense), Answer::Missing(_)), "{nonsense:?}");
        }
    }
}
