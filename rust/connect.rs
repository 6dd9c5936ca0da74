//! The HTTP CONNECT handshake, pure: request bytes out, reply bytes in, a verdict.
//!
//! RFC 9110 §9.3.6: any 2xx makes the connection a tunnel from the first byte after the header section, whatever
//! Content-Length or Transfer-Encoding say. §15.2: interim (1xx) replies come before the final one and are skipped.
//! RFC 9112 §2.2: a lone LF is taken for the end of a line. A target is an address, or a name of
//! letters, digits and `-_.` alone, so nothing can be injected into the request.

use crate::target::Target;

use crate::body::Body;
use crate::fields::Fields;

/// Most bytes of header that a proxy may send, interim replies included.
pub const MAX_HEADER: usize = 64 * 1024;
const REASON_MAX: usize = 80;

/// Give the request for a tunnel to `target`; `authorization` is the value of Proxy-Authorization, empty for none.
pub fn request(target: &Target, authorization: &[u8]) -> Vec<u8> {
    let mut bytes = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if !authorization.is_empty() {
        bytes.extend_from_slice(b"Proxy-Authorization: ");
        bytes.extend_from_slice(authorization);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// What the reply says so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The header section is not complete.
    More,
    /// A 2xx: of the bytes just fed, those from `rest` on belong to the stream.
    Open { rest: usize },
    /// A final status other than 2xx, with its reason made printable; its body begins at `rest` of the bytes just fed.
    Refused { status: u16, reason: String, rest: usize },
    /// Not an HTTP/1 reply, or too long a one.
    Bad(&'static str),
}

/// A reply as it comes in, in pieces of any size.
#[derive(Debug, Default)]
pub struct Connect {
    /// The current header section up to now.
    head: Vec<u8>,
    /// Bytes of earlier, interim header sections.
    skipped: usize,
}

impl Connect {
    /// Take the next bytes of the reply. Not to be called again after any verdict but `More`.
    pub fn feed(&mut self, bytes: &[u8]) -> Verdict {
        let mut used = 0;
        while used < bytes.len() {
            let (taken, complete) = self.take(&bytes[used..]);
            used += taken;
            if !starts_like_http(&self.head) {
                return Verdict::Bad("the reply is not HTTP/1");
            }
            if !complete {
                if self.skipped + self.head.len() > MAX_HEADER {
                    return Verdict::Bad("the reply's header is longer than 64 KiB");
                }
                return Verdict::More;
            }
            match status_line(&self.head) {
                None => return Verdict::Bad("the reply has no HTTP/1 status line"),
                Some((100 | 102..=199, _)) => {
                    self.skipped += self.head.len();
                    self.head.clear();
                    if self.skipped > MAX_HEADER {
                        return Verdict::Bad("the reply's header is longer than 64 KiB");
                    }
                }
                Some((200..=299, _)) if self.skipped + self.head.len() <= MAX_HEADER => {
                    return Verdict::Open { rest: used };
                }
                Some((200..=299, _)) => return Verdict::Bad("the reply's header is longer than 64 KiB"),
                Some((status, reason)) => return Verdict::Refused { status, reason, rest: used },
            }
        }
        Verdict::More
    }

    /// Say whether any byte of a reply has come.
    pub fn begun(&self) -> bool {
        self.skipped + self.head.len() > 0
    }

    /// Give the header fields of the final reply, once there is a verdict that is not `Bad`.
    pub fn fields(&self) -> Fields {
        Fields::parse(&self.head)
    }

    /// Give the body of a refusal, none of which has been fed to it yet.
    pub fn body(&self, status: u16) -> Body {
        let minor = self.head.get(b"HTTP/1.".len()).map_or(0, |digit| digit.wrapping_sub(b'0'));
        Body::of(minor, status, &self.fields())
    }

    /// Move bytes into `head` up to the end of the header section; give how many, and whether it is complete.
    fn take(&mut self, bytes: &[u8]) -> (usize, bool) {
        for (index, &byte) in bytes.iter().enumerate() {
            self.head.push(byte);
            if byte == b'\n' && (self.head.ends_with(b"\n\r\n") || self.head.ends_with(b"\n\n")) {
                return (index + 1, true);
            }
            if self.head.len() > MAX_HEADER {
                return (index + 1, false);
            }
        }
        (bytes.len(), false)
    }
}

/// Say whether `head` can still become an HTTP/1 reply, so that garbage is refused at its first wrong byte.
fn starts_like_http(head: &[u8]) -> bool {
    const VERSION: &[u8] = b"HTTP/1.";
    let known = head.len().min(VERSION.len());
    head[..known] == VERSION[..known]
}

/// Parse `HTTP/1.x SP 3DIGIT [SP reason]`; None when it is something else.
fn status_line(head: &[u8]) -> Option<(u16, String)> {
    let end = head.iter().position(|&byte| byte == b'\n')?;
    let line = head[..end].strip_suffix(b"\r").unwrap_or(&head[..end]);
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let (minor, rest) = rest.split_first()?;
    let rest = rest.strip_prefix(b" ")?;
    let (digits, reason) = rest.split_at_checked(3)?;
    if !minor.is_ascii_digit() || !digits.iter().all(u8::is_ascii_digit) || digits[0] == b'0' {
        return None;
    }
    if !(reason.is_empty() || reason.starts_with(b" ")) {
        return None;
    }
    let status = digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    Some((status, printable(reason)))
}

/// Keep what is printable ASCII, so that a reply cannot write control characters or a second line into a log.
fn printable(text: &[u8]) -> String {
    let clean: String = text
        .iter()
        .take(REASON_MAX)
        .map(|&byte| if (0x20..0x7f).contains(&byte) { char::from(byte) } else { '?' })
        .collect();
    clean.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feed `reply` cut at every place in two, and byte by byte; all must agree.
    fn verdict_in_every_split(reply: &[u8]) -> (Verdict, usize) {
        let whole = feed_pieces(&[reply]);
        for cut in 1..reply.len() {
            assert_eq!(feed_pieces(&[&reply[..cut], &reply[cut..]]), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = reply.chunks(1).collect();
        assert_eq!(feed_pieces(&bytes), whole, "byte by byte");
        whole
    }

    /// The verdict, with `rest` counted from the start of the reply.
    fn feed_pieces(pieces: &[&[u8]]) -> (Verdict, usize) {
        let mut connect = Connect::default();
        let mut before = 0;
        for piece in pieces {
            match connect.feed(piece) {
                Verdict::More => before += piece.len(),
                Verdict::Open { rest } => return (Verdict::Open { rest: 0 }, before + rest),
                Verdict::Refused { status, reason, rest } => {
                    return (Verdict::Refused { status, reason, rest: 0 }, before + rest);
                }
                bad @ Verdict::Bad(_) => return (bad, 0),
            }
        }
        (Verdict::More, before)
    }

    fn opens_after(reply: &[u8], header: usize) {
        assert_eq!(verdict_in_every_split(reply), (Verdict::Open { rest: 0 }, header));
    }

    fn refuses(reply: &[u8], status: u16, reason: &str) {
        let expected = Verdict::Refused { status, reason: reason.to_owned(), rest: 0 };
        let body = reply.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        assert_eq!(verdict_in_every_split(reply), (expected, body));
    }

    fn is_bad(reply: &[u8]) {
        assert!(matches!(verdict_in_every_split(reply).0, Verdict::Bad(_)), "{reply:?}");
    }

    #[test]
    fn request_names_the_target_twice_and_brackets_ipv6() {
        let target = Target::parse("2001:db8::1", 443).unwrap();
        let expected = b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n";
        assert_eq!(request(&target, b""), expected);
    }

    #[test]
    fn request_carries_the_authorization() {
        let target = Target::parse("192.0.2.1", 22).unwrap();
        let expected: &[u8] =
            b"CONNECT 192.0.2.1:22 HTTP/1.1\r\nHost: 192.0.2.1:22\r\nProxy-Authorization: Basic YTpi\r\n\r\n";
        assert_eq!(request(&target, b"Basic YTpi"), expected);
    }

    #[test]
    fn any_2xx_opens_and_keeps_the_bytes_behind_the_header() {
        opens_after(b"HTTP/1.1 200 Connection established\r\n\r\nSSH-2.0-x\r\n", 39);
        opens_after(b"HTTP/1.0 200 OK\r\n\r\n", 19);
        opens_after(b"HTTP/1.1 204\r\n\r\n", 16);
        opens_after(b"HTTP/1.1 201 Created\r\nA: b\r\n\r\n\r\n\r\n", 30);
        opens_after(b"HTTP/1.1 200 OK\n\nx", 17);
        opens_after(b"HTTP/1.1 200 OK\nA: b\n\r\nx", 23);
        opens_after(b"HTTP/1.1 200 OK\r\nA: b\r\n\nx", 24);
    }

    #[test]
    fn body_length_of_a_2xx_is_ignored() {
        let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello";
        opens_after(reply, reply.len() - 5);
    }

    #[test]
    fn interim_replies_are_skipped() {
        opens_after(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\nx",
            77,
        );
    }

    #[test]
    fn other_statuses_refuse_with_their_reason() {
        refuses(
            b"HTTP/1.1 407 Proxy Authentication Required\r\nA: b\r\n\r\nbody",
            407,
            "Proxy Authentication Required",
        );
        refuses(b"HTTP/1.0 503 \r\n\r\n", 503, "");
        refuses(b"HTTP/1.1 302 Found\r\n\r\n", 302, "Found");
        refuses(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", 101, "Switching Protocols");
        refuses(b"HTTP/1.1 403 \x1b[31mno\xff\r\n\r\n", 403, "?[31mno?");
    }

    #[test]
    fn refusal_hands_over_its_fields_and_its_body() {
        let reply =
            b"HTTP/1.0 407 No\r\nProxy-Authenticate: Basic\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab";
        let mut connect = Connect::default();
        let interim = b"HTTP/1.1 100 Continue\r\nProxy-Authenticate: NTLM\r\n\r\n";
        assert_eq!(connect.feed(interim), Verdict::More);
        let Verdict::Refused { rest, .. } = connect.feed(reply) else { panic!("not refused") };
        assert_eq!(connect.fields().values("proxy-authenticate").collect::<Vec<_>>(), [b"Basic"]);
        assert_eq!(connect.body(407).feed(&reply[rest..]), crate::body::Rest::Usable);
    }

    #[test]
    fn garbage_is_refused_at_its_first_wrong_byte() {
        is_bad(b"SSH-2.0-OpenSSH\r\n");
        is_bad(b"HTTP/2 200 OK\r\n\r\n");
        is_bad(b"HTTP/1.1 20 OK\r\n\r\n");
        is_bad(b"HTTP/1.1 2000 OK\r\n\r\n");
        is_bad(b"HTTP/1.1  200 OK\r\n\r\n");
        is_bad(b"\r\n\r\n");
        assert!(matches!(Connect::default().feed(b"X"), Verdict::Bad(_)));
    }

    #[test]
    fn header_of_64_kib_is_the_longest() {
        let mut reply = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
        reply.resize(MAX_HEADER - 4, b'x');
        let mut longest = reply.clone();
        longest.extend_from_slice(b"\r\n\r\n");
        assert_eq!(feed_pieces(&[&longest]), (Verdict::Open { rest: 0 }, MAX_HEADER));
        reply.extend_from_slice(b"x\r\n\r\n");
        assert!(matches!(feed_pieces(&[&reply]).0, Verdict::Bad(_)));
        let endless = vec![b'x'; 100_000];
        let mut connect = Connect::default();
        assert_eq!(connect.feed(b"HTTP/1.1 200 OK\r\nX: "), Verdict::More);
        assert!(matches!(connect.feed(&endless), Verdict::Bad(_)));
        assert!(connect.head.len() <= MAX_HEADER + 1);
    }

    #[test]
    fn endless_interim_replies_are_refused() {
        let mut connect = Connect::default();
        let mut verdict = Verdict::More;
        for _ in 0..10_000 {
            verdict = connect.feed(b"HTTP/1.1 100 Continue\r\n\r\n");
            if verdict != Verdict::More {
                break;
            }
        }
        assert!(matches!(verdict, Verdict::Bad(_)));
    }
}
