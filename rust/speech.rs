//! How messages are put on a connection to a resolver, and found on it again, pure: with their length before them (RFC
//! 7766), many at a time; or as HTTP requests (DNS over HTTPS, RFC 8484, by HTTP/1.1), one at a time.

use crate::body::{self, Body, Rest};
use crate::fields::Fields;
use crate::framing::{self, Framing};

/// Questions that may wait for their answers on one connection.
const MANY: usize = 64;
const HEAD_MOST: usize = 16 << 10;
const TYPE: &str = "application/dns-message";

/// Either way.
pub enum Speech {
    Stream(Framing),
    Https(Box<Https>),
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A message, and the number by which it was asked for.
    Message(u16, Vec<u8>),
    /// Nothing that is whole.
    Nothing,
    /// No resolver speaks like that, or it is done with this connection.
    End,
}

impl Speech {
    /// Give the most questions that may wait for their answers.
    pub fn most(&self) -> usize {
        match self {
            Speech::Stream(_) => MANY,
            Speech::Https(_) => 1,
        }
    }

    /// Put a question at the end of what is to be sent.
    pub fn put(&mut self, out: &mut Vec<u8>, number: u16, message: &[u8]) {
        match self {
            Speech::Stream(_) => framing::put(out, message),
            Speech::Https(https) => https.put(out, number, message),
        }
    }

    /// Take the next bytes that came.
    pub fn feed(&mut self, bytes: &[u8]) {
        match self {
            Speech::Stream(stream) => stream.feed(bytes),
            Speech::Https(https) => https.waiting.extend_from_slice(bytes),
        }
    }

    /// Give what there is.
    pub fn take(&mut self) -> Found {
        match self {
            Speech::Stream(stream) => match stream.take() {
                Some(message) => match message.first_chunk::<2>() {
                    Some(number) => Found::Message(u16::from_be_bytes(*number), message.to_vec()),
                    None => Found::End,
                },
                None => Found::Nothing,
            },
            Speech::Https(https) => https.take(),
        }
    }
}

/// A conversation by HTTP.
pub struct Https {
    /// The request up to its length.
    head: String,
    asked: Option<u16>,
    /// Bytes that were not looked at yet.
    waiting: Vec<u8>,
    reply: Option<Body>,
    content: Vec<u8>,
    /// The connection can be used for another request.
    keeps: bool,
}

impl Https {
    /// Begin; `host` is that of the URL, an address of IPv6 without brackets.
    pub fn new(host: &str, path: &str) -> Https {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {TYPE}\r\nContent-Type: {TYPE}\r\n");
        Https { head, asked: None, waiting: Vec::new(), reply: None, content: Vec::new(), keeps: true }
    }

    /// The number on the wire is zero, so that equal questions are equal to a cache of HTTP (RFC 8484 §4.1).
    fn put(&mut self, out: &mut Vec<u8>, number: u16, message: &[u8]) {
        self.asked = Some(number);
        out.extend_from_slice(format!("{}Content-Length: {}\r\n\r\n", self.head, message.len()).as_bytes());
        let begin = out.len();
        out.extend_from_slice(message);
        out[begin..].iter_mut().take(2).for_each(|byte| *byte = 0);
    }

    fn take(&mut self) -> Found {
        if !self.keeps && self.asked.is_none() {
            return Found::End;
        }
        if self.reply.is_none() {
            let Some(end) = self.waiting.windows(4).position(|four| four == b"\r\n\r\n") else {
                return if self.waiting.len() > HEAD_MOST { Found::End } else { Found::Nothing };
            };
            let head: Vec<u8> = self.waiting.drain(..end + 4).collect();
            let fields = Fields::parse(&head);
            let is_dns = fields.values("content-type").any(|value| value.eq_ignore_ascii_case(TYPE.as_bytes()));
            match head.strip_prefix(b"HTTP/1.") {
                Some([minor @ (b'0' | b'1'), b' ', b'2', b'0', b'0', b' ' | b'\r', ..]) if is_dns => {
                    self.keeps = body::keeps(minor - b'0', &fields);
                    self.reply = Some(Body::framed(200, &fields));
                    self.content.clear();
                }
                _ => return Found::End,
            }
        }
        let (Some(reply), Some(number)) = (&mut self.reply, self.asked) else { return Found::End };
        let content = &mut self.content;
        let rest = reply.read(&std::mem::take(&mut self.waiting), |piece| content.extend_from_slice(piece));
        match rest {
            Rest::More => Found::Nothing,
            Rest::Close => Found::End,
            Rest::Usable => {
                (self.reply, self.asked) = (None, None);
                Found::Message(number, std::mem::take(&mut self.content))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Speech {
        let mut speech = Speech::Https(Box::new(Https::new("dns.example", "/dns-query")));
        speech.put(&mut Vec::new(), 0x1234, b"\x12\x34question");
        speech
    }

    fn all(speech: &mut Speech, bytes: &[u8], piece: usize) -> Found {
        for piece in bytes.chunks(piece) {
            speech.feed(piece);
            match speech.take() {
                Found::Nothing => {}
                found => return found,
            }
        }
        Found::Nothing
    }

    #[test]
    fn request_says_all_that_a_resolver_wants_and_no_number() {
        let mut out = Vec::new();
        Https::new("2001:db8::1", "/q?x").put(&mut out, 0x1234, b"\x12\x34question");
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("POST /q?x HTTP/1.1\r\nHost: [2001:db8::1]\r\n"), "{text}");
        assert!(text.ends_with("Content-Length: 10\r\n\r\n\0\0question"), "{text}");
    }

    #[test]
    fn answers_are_found_however_they_are_cut_and_framed() {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/dns-message\r\n";
        for reply in [
            format!("{head}Content-Length: 6\r\n\r\nanswer"),
            format!("{head}Transfer-Encoding: chunked\r\n\r\n2\r\nan\r\n4\r\nswer\r\n0\r\n\r\n"),
        ] {
            for piece in 1..reply.len() {
                let mut speech = asked();
                for _ in 0..2 {
                    assert_eq!(all(&mut speech, reply.as_bytes(), piece), Found::Message(0x1234, b"answer".to_vec()));
                    speech.put(&mut Vec::new(), 0x1234, b"\x12\x34again");
                }
            }
        }
    }

    #[test]
    fn last_answer_of_a_connection_counts() {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/dns-message\r\nConnection: close\r\n";
        let mut speech = asked();
        let found = all(&mut speech, format!("{head}Content-Length: 6\r\n\r\nanswer").as_bytes(), 9);
        assert_eq!((found, speech.take()), (Found::Message(0x1234, b"answer".to_vec()), Found::End));
    }

    #[test]
    fn what_is_no_answer_ends_the_conversation() {
        for reply in [
            "HTTP/1.1 403 No\r\nContent-Type: application/dns-message\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n",
            "HTTP/2 200\r\nContent-Type: application/dns-message\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Type: application/dns-message\r\n\r\nanswer",
            "SSH-2.0\r\n\r\n",
        ] {
            assert_eq!(all(&mut asked(), reply.as_bytes(), 7), Found::End, "{reply}");
        }
        assert_eq!(all(&mut asked(), &[b'x'; HEAD_MOST + 2], 5000), Found::End);
        let mut unasked = Speech::Https(Box::new(Https::new("dns.example", "/")));
        let reply = "HTTP/1.1 200 OK\r\nContent-Type: application/dns-message\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(all(&mut unasked, reply.as_bytes(), 500), Found::End);
    }
}
