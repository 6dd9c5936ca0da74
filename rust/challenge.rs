//! What Proxy-Authenticate says, pure: RFC 9110 §11.2, §11.3, §11.7.1.
//!
//! ```text
//!     Proxy-Authenticate = #challenge
//!     challenge          = auth-scheme [ 1*SP ( token68 / #auth-param ) ]
//! ```
//!
//! One comma separates both challenges and the parameters of one, so a word decides by what follows it: with a `=` behind
//! it, it is a parameter of the challenge before, else a new scheme. What makes no sense is passed over up to the next
//! comma: what another challenge offers may still do.

use crate::fields::{is_space, trim};

/// Most challenges, and most parameters of one, that are looked at.
const MOST: usize = 32;

/// One way that a proxy offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// In small letters.
    pub scheme: String,
    /// The token of schemes that talk in tokens (Negotiate, NTLM).
    pub token: Option<String>,
    parameters: Vec<(String, Vec<u8>)>,
}

impl Challenge {
    /// Give a parameter's value, without quotes; `name` is in small letters. Where there are two, the first counts.
    pub fn parameter(&self, name: &str) -> Option<&[u8]> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }
}

/// Give all challenges in the values of one or more fields, in their order.
pub fn parse<'a>(values: impl Iterator<Item = &'a [u8]>) -> Vec<Challenge> {
    let mut found = Vec::new();
    for value in values {
        Reader { rest: value }.challenges(&mut found);
    }
    found.truncate(MOST);
    found
}

/// Give the parameters in the value of Proxy-Authentication-Info (RFC 7615), as those of a challenge.
pub fn parameters(value: &[u8]) -> Challenge {
    let mut found = vec![Challenge { scheme: String::new(), token: None, parameters: Vec::new() }];
    Reader { rest: value }.challenges(&mut found);
    found.swap_remove(0)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn challenges(&mut self, found: &mut Vec<Challenge>) {
        // parameters before the first scheme of a field belong to no challenge
        let mut is_open = found.len() == 1 && found[0].scheme.is_empty();
        while self.skip_separators() && found.len() <= MOST {
            let word = self.word();
            if word.is_empty() {
                self.skip_element();
                continue;
            }
            let name = String::from_utf8_lossy(word).to_ascii_lowercase();
            if let Some(value) = self.value() {
                match found.last_mut() {
                    Some(challenge) if is_open && challenge.parameters.len() < MOST => {
                        challenge.parameters.push((name, value));
                    }
                    _ => {}
                }
            } else {
                let token = self.token68();
                found.push(Challenge { scheme: name, token, parameters: Vec::new() });
                is_open = true;
            }
        }
    }

    /// Go on to the next word; false at the end.
    fn skip_separators(&mut self) -> bool {
        while let [first, rest @ ..] = self.rest
            && (is_space(*first) || *first == b',')
        {
            self.rest = rest;
        }
        !self.rest.is_empty()
    }

    /// Pass over what makes no sense, up to the next comma that is not inside quotes.
    fn skip_element(&mut self) {
        while let [first, ..] = self.rest
            && *first != b','
        {
            if *first == b'"' {
                self.quoted();
            } else {
                self.rest = &self.rest[1..];
            }
        }
    }

    fn word(&mut self) -> &'a [u8] {
        self.take_while(is_token)
    }

    fn take_while(&mut self, wanted: fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|&byte| !wanted(byte)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// Take `=` and a value, if that is what follows.
    fn value(&mut self) -> Option<Vec<u8>> {
        let after = trim_start(self.rest).strip_prefix(b"=")?;
        self.rest = trim_start(after);
        let value = match self.rest.first() {
            Some(b'"') => self.quoted_with_quotes(),
            // more than a token: Microsoft's and others' parameters come unquoted with any character
            _ => trim(self.take_while(|byte| byte != b',')).to_vec(),
        };
        self.skip_element();
        Some(value)
    }

    /// Take a quoted string. Where somebody has put quotes into the quotes, as in `realm=""Our proxy, Inc.""`, they are
    /// taken for a part of it: it ends with a quote before a comma or the end.
    fn quoted_with_quotes(&mut self) -> Vec<u8> {
        let mut value = self.quoted();
        while !matches!(trim_start(self.rest).first(), None | Some(b',')) {
            value.push(b'"');
            value.extend_from_slice(self.take_while(|byte| byte != b'"'));
            if self.rest.is_empty() {
                break;
            }
            self.rest = &self.rest[1..];
        }
        value
    }

    /// Take a quoted string, which may lack its end, without quotes and backslashes.
    fn quoted(&mut self) -> Vec<u8> {
        let mut value = Vec::new();
        let mut bytes = self.rest.iter().enumerate().skip(1);
        let mut end = self.rest.len();
        while let Some((index, &byte)) = bytes.next() {
            match byte {
                b'"' => {
                    end = index + 1;
                    break;
                }
                b'\\' => value.extend(bytes.next().map(|(_, &escaped)| escaped)),
                other => value.push(other),
            }
        }
        self.rest = &self.rest[end..];
        value
    }

    /// Take the token behind a scheme: one only if a comma or the end follows, else it is a parameter.
    fn token68(&mut self) -> Option<String> {
        let start = trim_start(self.rest);
        if start.len() == self.rest.len() {
            return None;
        }
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
        let letters = start.iter().take_while(|&&byte| is_letter(byte)).count();
        let end = letters + start[letters..].iter().take_while(|&&byte| byte == b'=').count();
        let after = trim_start(&start[end..]);
        if letters == 0 || !(after.is_empty() || after.starts_with(b",")) {
            return None;
        }
        self.rest = after;
        Some(String::from_utf8_lossy(&start[..end]).into_owned())
    }
}

fn trim_start(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.iter().take_while(|&&byte| is_space(byte)).count()..]
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Vec<Challenge> {
        parse(values.iter().map(|value| value.as_bytes()))
    }

    fn schemes(values: &[&str]) -> Vec<String> {
        read(values).into_iter().map(|challenge| challenge.scheme).collect()
    }

    fn text<'a>(challenge: &'a Challenge, name: &str) -> &'a str {
        std::str::from_utf8(challenge.parameter(name).unwrap()).unwrap()
    }

    #[test]
    fn challenges_come_in_one_field_or_in_several() {
        let one = ["Negotiate, NTLM, Basic realm=\"a, b\", Digest realm=\"c\", nonce=\"d\",qop=\"auth,auth-int\""];
        assert_eq!(schemes(&one), ["negotiate", "ntlm", "basic", "digest"]);
        let several = ["NEGOTIATE", "NTLM", "Basic realm=\"x\""];
        assert_eq!(schemes(&several), ["negotiate", "ntlm", "basic"]);
        let digest = &read(&one)[3];
        assert_eq!((text(digest, "realm"), text(digest, "qop")), ("c", "auth,auth-int"));
        assert_eq!(digest.parameter("realm2"), None);
    }

    #[test]
    fn example_of_rfc_9110_is_read() {
        let value = r#"Basic realm="simple", Newauth realm="apps", type=1, title="Login to \"apps\"""#;
        let found = read(&[value]);
        assert_eq!(found.len(), 2);
        assert_eq!(text(&found[0], "realm"), "simple");
        assert_eq!((text(&found[1], "type"), text(&found[1], "title")), ("1", "Login to \"apps\""));
    }

    #[test]
    fn token_stands_behind_its_scheme_alone() {
        let found = read(&["Negotiate YIIabc+/=, NTLM TlRM== , Basic realm=x"]);
        assert_eq!(found[0].token.as_deref(), Some("YIIabc+/="));
        assert_eq!(found[1].token.as_deref(), Some("TlRM=="));
        assert_eq!((found[2].token.as_deref(), text(&found[2], "realm")), (None, "x"));
        assert_eq!(read(&["Negotiate", "NTLM  "])[0].token, None);
    }

    #[test]
    fn spaces_empty_elements_and_odd_values_do_no_harm() {
        let found = read(&[", ,Digest  realm = \"a\" ,,  nonce\t=\tb==, algorithm=MD5 extra ,stale=FALSE,", ",,"]);
        assert_eq!(found.len(), 1);
        assert_eq!((text(&found[0], "realm"), text(&found[0], "nonce")), ("a", "b=="));
        assert_eq!((text(&found[0], "algorithm"), text(&found[0], "stale")), ("MD5 extra", "FALSE"));
    }

    #[test]
    fn what_makes_no_sense_is_passed_over_up_to_the_next_comma() {
        assert_eq!(schemes(&["realm=\"of nobody\", \"Basic, x\" y, @@, Basic realm=\"q"]), ["basic"]);
        assert_eq!(schemes(&["(Basic \"a,b\"), NTLM"]), ["ntlm"]);
        let unended = read(&["Basic realm=\"a\\"]);
        assert_eq!(text(&unended[0], "realm"), "a");
    }

    #[test]
    fn quotes_inside_of_quotes_belong_to_the_value() {
        let found = read(&["Digest realm=\"\"Our proxy, Inc.\"\", nonce=\"n\", Basic realm=\"a \"b\" c\""]);
        assert_eq!((text(&found[0], "realm"), text(&found[0], "nonce")), ("\"Our proxy, Inc.\"", "n"));
        assert_eq!((found.len(), text(&found[1], "realm")), (2, "a \"b\" c"));
        assert_eq!(text(&read(&["Basic realm=\"\"x"])[0], "realm"), "\"x");
    }

    #[test]
    fn first_of_two_equal_parameters_counts_and_numbers_are_bounded() {
        assert_eq!(text(&read(&["Digest nonce=a, nonce=b"])[0], "nonce"), "a");
        assert_eq!(read(&[&"Basic x=1, y, ".repeat(1000)]).len(), MOST);
        let many = format!("Digest {}", (0..1000).map(|n| format!("p{n}=1, ")).collect::<String>());
        assert_eq!(read(&[&many])[0].parameters.len(), MOST);
    }

    #[test]
    fn info_of_a_2xx_is_parameters_alone() {
        let info = parameters(b"nextnonce=\"abc\", qop=auth, rspauth=\"x\"");
        assert_eq!((text(&info, "nextnonce"), text(&info, "rspauth")), ("abc", "x"));
    }
}
