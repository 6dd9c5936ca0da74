//! Where the body of a refusal ends, pure, so that the connection can be used again: RFC 9112 §6.3, §7.1, §9.3.
//!
//! Only for final replies to CONNECT that are no 2xx, whose body is passed over, and for those of a resolver. What is framed in two ways at
//! once, or wrongly, or is larger than is worth waiting for, ends with the connection: nothing that a proxy says may
//! make one reply look like two.

use crate::fields::{Fields, trim};

/// A longer body costs more than a new connection.
const MOST: u64 = 256 * 1024;
const MOST_LINE: usize = 4 * 1024;

/// What is left of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    part: Part,
    /// Bytes of it so far.
    seen: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Done,
    /// So many bytes, and then the body is done.
    Length(u64),
    /// So many bytes of a chunk.
    Chunk(u64),
    /// A line of the chunked coding, as far as it has come.
    Line(Line, Vec<u8>),
    /// It ends with the connection.
    Close,
}

/// `chunk-size [ chunk-ext ] CRLF`, the CRLF behind a chunk's bytes, or a line of the trailer section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Size,
    End,
    Trailer,
}

/// What there is to do with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// More of the body comes.
    More,
    /// It has ended, and the connection can be used again.
    Usable,
    /// The connection is of no use any more.
    Close,
}

impl Body {
    /// Give the body of a reply with these fields; `minor` is the digit of HTTP/1.x.
    pub fn of(minor: u8, status: u16, fields: &Fields) -> Body {
        let part = if keeps(minor, fields) { framing(status, fields) } else { Part::Close };
        Body { part, seen: 0 }
    }

    /// Give it also where the connection is not to be used again.
    pub fn framed(status: u16, fields: &Fields) -> Body {
        Body { part: framing(status, fields), seen: 0 }
    }

    /// Take the next bytes behind the header, which may be none. Bytes behind the body make the connection useless.
    pub fn feed(&mut self, bytes: &[u8]) -> Rest {
        self.read(bytes, |_| {})
    }

    /// Do the same, and give each piece of the content to `taken`.
    pub fn read(&mut self, mut bytes: &[u8], mut taken: impl FnMut(&[u8])) -> Rest {
        loop {
            match &mut self.part {
                Part::Done if bytes.is_empty() => return Rest::Usable,
                Part::Done | Part::Close => return self.close(),
                Part::Length(0) => self.part = Part::Done,
                Part::Chunk(0) => self.part = Part::Line(Line::End, Vec::new()),
                _ if bytes.is_empty() => return Rest::More,
                part => {
                    let is_content = matches!(part, Part::Length(_) | Part::Chunk(_));
                    let used = advance(part, bytes);
                    if is_content {
                        taken(&bytes[..used]);
                    }
                    self.seen += used as u64;
                    bytes = &bytes[used..];
                    if self.seen > MOST {
                        return self.close();
                    }
                }
            }
        }
    }

    fn close(&mut self) -> Rest {
        self.part = Part::Close;
        Rest::Close
    }
}

/// Say whether the other side keeps the connection (RFC 9112 §9.3). Proxy-Connection is no standard, and common.
pub fn keeps(minor: u8, fields: &Fields) -> bool {
    let says = |token| fields.has_token("connection", token) || fields.has_token("proxy-connection", token);
    !says("close") && (minor >= 1 || says("keep-alive"))
}

fn framing(status: u16, fields: &Fields) -> Part {
    let has_length = fields.values("content-length").next().is_some();
    let codings: Vec<&[u8]> = fields.tokens("transfer-encoding").collect();
    match codings.as_slice() {
        _ if status == 304 => Part::Done,
        [coding] if coding.eq_ignore_ascii_case(b"chunked") && !has_length => Part::Line(Line::Size, Vec::new()),
        [] if has_length => length(fields).map_or(Part::Close, Part::Length),
        _ => Part::Close,
    }
}

/// Several lengths must be the same (RFC 9110 §8.6).
fn length(fields: &Fields) -> Option<u64> {
    let mut lengths = fields.values("content-length").flat_map(|value| value.split(|&byte| byte == b','));
    let first = number(trim(lengths.next()?), 10)?;
    let agree = lengths.all(|other| number(trim(other), 10) == Some(first));
    (agree && first <= MOST).then_some(first)
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    let sound = !text.is_empty() && text.bytes().all(|byte| char::from(byte).is_digit(radix));
    sound.then(|| u64::from_str_radix(text, radix).ok()).flatten()
}

/// Take some of `bytes`, which are not empty; give how many.
fn advance(part: &mut Part, bytes: &[u8]) -> usize {
    match part {
        Part::Length(left) | Part::Chunk(left) => {
            let used = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= used as u64;
            used
        }
        Part::Line(kind, line) => {
            let end = bytes.iter().position(|&byte| byte == b'\n');
            let used = end.map_or(bytes.len(), |at| at + 1);
            line.extend_from_slice(&bytes[..used]);
            if line.len() > MOST_LINE {
                *part = Part::Close;
            } else if end.is_some() {
                *part = after(*kind, line);
            }
            used
        }
        Part::Done | Part::Close => 0,
    }
}

/// Give what follows a line. All end in CRLF, so that there is but one way to read them.
fn after(kind: Line, line: &[u8]) -> Part {
    let Some(line) = line.strip_suffix(b"\r\n") else { return Part::Close };
    match (kind, line.is_empty()) {
        (Line::Size, _) => after_size(line),
        (Line::End, true) => Part::Line(Line::Size, Vec::new()),
        (Line::End, false) => Part::Close,
        (Line::Trailer, true) => Part::Done,
        (Line::Trailer, false) => Part::Line(Line::Trailer, Vec::new()),
    }
}

fn after_size(line: &[u8]) -> Part {
    let end = line.iter().position(|&byte| byte == b';').unwrap_or(line.len());
    match number(trim(&line[..end]), 16) {
        Some(0) => Part::Line(Line::Trailer, Vec::new()),
        Some(size) if size <= MOST => Part::Chunk(size),
        _ => Part::Close,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feed `body` cut at every place, and byte by byte; all must agree.
    fn rest(head: &str, body: &[u8]) -> Rest {
        let whole = feed(head, &[body]);
        for cut in 0..=body.len() {
            assert_eq!(feed(head, &[&body[..cut], &body[cut..]]), whole, "{head:?} cut at {cut}");
        }
        assert_eq!(feed(head, &body.chunks(1).collect::<Vec<_>>()), whole, "{head:?} byte by byte");
        whole
    }

    fn feed(head: &str, pieces: &[&[u8]]) -> Rest {
        let fields = Fields::parse(format!("x\r\n{head}\r\n\r\n").as_bytes());
        let mut body = Body::of(1, 407, &fields);
        let mut rest = body.feed(b"");
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            rest = body.feed(piece);
        }
        rest
    }

    #[test]
    fn body_with_a_length_ends_there() {
        assert_eq!(rest("Content-Length: 5", b"hello"), Rest::Usable);
        assert_eq!(rest("Content-Length: 5", b"hell"), Rest::More);
        assert_eq!(rest("Content-Length: 5", b"hello!"), Rest::Close);
        assert_eq!(rest("Content-Length: 0", b""), Rest::Usable);
        assert_eq!(rest("Content-Length: 2, 2\r\nContent-Length: 2", b"ab"), Rest::Usable);
    }

    #[test]
    fn chunked_body_ends_after_its_trailers() {
        let chunked = "Transfer-Encoding: Chunked";
        assert_eq!(rest(chunked, b"5\r\nhello\r\n0\r\n\r\n"), Rest::Usable);
        assert_eq!(rest(chunked, b"a;x=\"y\"\r\n0123456789\r\n000\r\nA: b\r\nC: d\r\n\r\n"), Rest::Usable);
        assert_eq!(rest(chunked, b"0\r\nA\r\n"), Rest::More);
        assert_eq!(rest(chunked, b"1\r\na\r\n0\r\n\r\nx"), Rest::Close);
        assert_eq!(rest(chunked, b"0\r\n\r\n"), Rest::Usable);
    }

    #[test]
    fn chunks_that_could_be_read_in_two_ways_end_the_connection() {
        for body in [&b"5\nhello\r\n0\r\n\r\n"[..], b"1\r\nab\r\n0\r\n\r\n", b"-1\r\n", b"0x1\r\n", b"\r\n", b"1 2\r\n"]
        {
            assert_eq!(rest("Transfer-Encoding: chunked", body), Rest::Close, "{body:?}");
        }
        assert_eq!(rest("Transfer-Encoding: chunked", b"fffffffffffffffff\r\n"), Rest::Close);
        assert_eq!(rest("Transfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n"), Rest::Close);
        for lengths in ["1\r\nContent-Length: 2", "1, 2", "-1", "+1", "1 1", "", "99999999999999999999", "0x1"] {
            assert_eq!(rest(&format!("Content-Length: {lengths}"), b"a"), Rest::Close, "{lengths:?}");
        }
        for coding in ["gzip", "gzip, chunked", "chunked, chunked", "identity"] {
            assert_eq!(rest(&format!("Transfer-Encoding: {coding}"), b"0\r\n\r\n"), Rest::Close, "{coding}");
        }
    }

    #[test]
    fn body_without_an_end_and_one_that_is_too_long_end_with_the_connection() {
        assert_eq!(rest("A: b", b""), Rest::Close);
        assert_eq!(feed(&format!("Content-Length: {}", MOST + 1), &[b"a"]), Rest::Close);
        let chunk = format!("{MOST:x}\r\n{}", "a".repeat(MOST as usize));
        assert_eq!(feed("Transfer-Encoding: chunked", &[chunk.as_bytes()]), Rest::Close);
        let line = format!("1;{}", "a".repeat(MOST_LINE));
        assert_eq!(feed("Transfer-Encoding: chunked", &[line.as_bytes()]), Rest::Close);
    }

    #[test]
    fn proxy_says_whether_it_keeps_the_connection() {
        let keeps = |minor, lines: &str| {
            let fields = Fields::parse(format!("x\r\n{lines}Content-Length: 0\r\n\r\n").as_bytes());
            Body::of(minor, 407, &fields).feed(b"") == Rest::Usable
        };
        assert!(keeps(1, "") && !keeps(0, ""));
        assert!(keeps(0, "Connection: Keep-Alive\r\n") && keeps(0, "Proxy-Connection: keep-alive\r\n"));
        assert!(!keeps(1, "Connection: te, Close\r\n") && !keeps(1, "Proxy-Connection: close\r\n"));
        assert!(!keeps(1, "Connection: close\r\nProxy-Connection: keep-alive\r\n"));
    }
}
