//! DNS messages, pure: a question read, an answer built. What comes in is any program's, so nothing here may panic, and
//! no answer is larger than the asker can take.
//!
//! RFC 1035 §4; RFC 2181; RFC 6891 (EDNS); RFC 9619 (one question). A message that is an answer itself is never answered,
//! or two of us could talk for ever. The question goes back byte for byte: the case of its letters is a secret between
//! a resolver and its upstream (0x20). Written here rather than taken from a library, because all that is ever needed is
//! one question, three kinds of record about the name asked for, and an upstream's records passed on as they are
//! (upstream_answer.rs).

use std::fmt;

pub const HEADER: usize = 12;
const NAME_MAX: usize = 255;
const LABEL_MAX: usize = 63;
/// What every asker takes by UDP (RFC 1035 §4.2.1), and the most that is sent: it fits every link uncut (RFC 9715).
const UDP_LEAST: usize = 512;
const UDP_MOST: usize = 1232;
/// The limit of an answer by TCP.
pub const TCP_MOST: usize = 65535;

/// Types of records.
pub mod kind {
    pub const A: u16 = 1;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const AAAA: u16 = 28;
    pub const OPT: u16 = 41;
    pub const SVCB: u16 = 64;
    pub const HTTPS: u16 = 65;
    pub const ANY: u16 = 255;
    /// From here up to 254: no types of records, but other things to ask for (RFC 6895 §3.1).
    pub const FIRST_META: u16 = 128;
}

/// Response codes.
pub mod code {
    pub const NOERROR: u16 = 0;
    pub const FORMERR: u16 = 1;
    pub const SERVFAIL: u16 = 2;
    pub const NXDOMAIN: u16 = 3;
    pub const NOTIMP: u16 = 4;
    pub const REFUSED: u16 = 5;
    pub const BADVERS: u16 = 16;
}

/// Bits of the second pair of bytes in the header.
pub mod bit {
    pub const RESPONSE: u16 = 0x8000;
    pub const OPCODE: u16 = 0x7800;
    pub const TRUNCATED: u16 = 0x0200;
    pub const RECURSION_DESIRED: u16 = 0x0100;
    pub const RECURSION_AVAILABLE: u16 = 0x0080;
    pub const AUTHENTIC: u16 = 0x0020;
    pub const CHECKING_DISABLED: u16 = 0x0010;
}
const INTERNET: u16 = 1;
/// The DO bit of EDNS.
const DNSSEC_OK: u16 = 0x8000;
/// The name asked for, as a pointer to where it stands in every answer.
const SAME_NAME: [u8; 2] = [0xc0, HEADER as u8];

/// A domain name in wire format, its letters in lower case.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Take a name in wire format, without compression, from the front of `bytes`; None where there is none.
    pub fn take(bytes: &[u8]) -> Option<Name> {
        let mut at = 0;
        loop {
            match usize::from(*bytes.get(at)?) {
                0 => break,
                length if length <= LABEL_MAX => at += 1 + length,
                _ => return None,
            }
            if at >= NAME_MAX {
                return None;
            }
        }
        // the lengths of labels are no letters: none is above 63
        Some(Name(bytes[..=at].to_ascii_lowercase().into()))
    }

    /// Parse a name as a person writes it, with or without a dot at its end. None when it is no host name.
    pub fn parse(text: &str) -> Option<Name> {
        let mut wire = Vec::with_capacity(text.len() + 2);
        for label in text.strip_suffix('.').unwrap_or(text).split('.') {
            let length = u8::try_from(label.len()).ok().filter(|&length| (1..=LABEL_MAX as u8).contains(&length))?;
            wire.push(length);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        Name::take(&wire).filter(|name| name.host().is_some())
    }

    /// Give the labels, the one on the left first.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (length, tail) = rest.split_first().filter(|(length, _)| **length != 0)?;
            let (label, tail) = tail.split_at(usize::from(*length));
            rest = tail;
            Some(label)
        })
    }

    /// Say whether this name is `zone` or below it.
    pub fn is_within(&self, zone: &Name) -> bool {
        let mut at = 0;
        loop {
            if self.0[at..] == zone.0[..] {
                return true;
            }
            match self.0[at] {
                0 => return false,
                length => at += 1 + usize::from(length),
            }
        }
    }

    /// Give the name as a proxy is asked for it: letters, digits, hyphens, underscores and dots. None where it has other
    /// bytes, or ends like the digits of an address: then no host has it.
    pub fn host(&self) -> Option<String> {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let labels: Vec<&[u8]> = self.labels().collect();
        let last = labels.last()?;
        let number = last.iter().all(u8::is_ascii_digit)
            || last.strip_prefix(b"0x").is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        if number || !labels.iter().all(|label| label.iter().all(plain)) {
            return None;
        }
        String::from_utf8(labels.join(&b'.')).ok()
    }

    /// Give the wire format.
    pub fn wire(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.labels().try_for_each(|label| write!(out, "{}.", label.escape_ascii()))
    }
}

/// What an asker says of itself by EDNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// The largest answer that it takes by UDP.
    pub size: u16,
    pub dnssec_ok: bool,
}

/// A well-formed question of class IN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub id: u16,
    /// As they stand in the header: RD, AD, CD.
    flags: u16,
    /// Name, type and class as they came.
    asked: Box<[u8]>,
    pub name: Name,
    pub kind: u16,
    pub edns: Option<Edns>,
}

/// What a message is.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Question(Question),
    /// A question that gets this error for an answer.
    Wrong(Vec<u8>),
    /// Nothing that may be answered.
    Nothing,
}

/// Read a message that somebody sent to a resolver.
pub fn hear(message: &[u8]) -> Heard {
    let Some(header) = Header::read(message).filter(|header| header.flags & bit::RESPONSE == 0) else {
        return Heard::Nothing;
    };
    if header.flags & bit::OPCODE != 0 {
        return Heard::Wrong(header.bare(code::NOTIMP));
    }
    let Some(asked) = header.sole_question(message) else { return Heard::Wrong(header.bare(code::FORMERR)) };
    let Some(edns) = header.additional(message, HEADER + asked.bytes.len()) else {
        return Heard::Wrong(header.bare(code::FORMERR));
    };
    let question = Question {
        id: header.id,
        flags: header.flags & (bit::RECURSION_DESIRED | bit::AUTHENTIC | bit::CHECKING_DISABLED),
        asked: asked.bytes.into(),
        name: asked.name,
        kind: asked.kind,
        edns: edns.map(|(edns, _)| edns),
    };
    if edns.is_some_and(|(_, version)| version > 0) {
        return Heard::Wrong(question.answer(code::BADVERS, &[], None, UDP_LEAST));
    }
    let is_meta = (kind::FIRST_META..kind::ANY).contains(&question.kind) || matches!(question.kind, 0 | kind::OPT);
    if asked.class != INTERNET || is_meta {
        return Heard::Wrong(question.answer(code::REFUSED, &[], None, UDP_LEAST));
    }
    Heard::Question(question)
}

impl Question {
    /// Give the question for `name`, as a program of ours would ask it.
    pub fn about(name: Name, kind: u16) -> Question {
        let mut asked = name.wire().to_vec();
        asked.extend_from_slice(&kind.to_be_bytes());
        asked.extend_from_slice(&INTERNET.to_be_bytes());
        Question { id: 0, flags: bit::RECURSION_DESIRED, asked: asked.into(), name, kind, edns: None }
    }

    /// Name, type and class as they came.
    pub fn asked(&self) -> &[u8] {
        &self.asked
    }

    /// Say whether the asker wants to know of signatures: by DO, or by AD, which asks for the verdict alone.
    pub fn wants_verdict(&self) -> bool {
        self.flags & bit::AUTHENTIC != 0 || self.wants_signatures()
    }

    /// Say whether the asker wants the signatures themselves.
    pub fn wants_signatures(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Say whether the asker checks signatures itself.
    pub fn checks_itself(&self) -> bool {
        self.flags & bit::CHECKING_DISABLED != 0
    }

    /// Give the most bytes of an answer by UDP.
    pub fn udp_limit(&self) -> usize {
        self.edns.map_or(UDP_LEAST, |edns| usize::from(edns.size).clamp(UDP_LEAST, UDP_MOST))
    }

    /// Give an answer of `records` about the name asked for; where there are none, for how many seconds that may be
    /// believed (RFC 2308).
    pub fn answer(&self, code: u16, records: &[Record], believe: Option<u32>, limit: usize) -> Vec<u8> {
        let mut body = Vec::new();
        records.iter().for_each(|record| record.put(&mut body));
        if let Some(seconds) = believe {
            soa(seconds).put(&mut body);
        }
        self.envelope(code, 0, [records.len() as u16, u16::from(believe.is_some()), 0], &body, limit)
    }

    /// Give the answer with `body` between question and OPT, of which it has `counts` records in each section; without it,
    /// and marked so, where it is longer than `limit`. `extra`: bits of the header.
    pub fn envelope(&self, code: u16, extra: u16, counts: [u16; 3], body: &[u8], limit: usize) -> Vec<u8> {
        let opt = if self.edns.is_some() { OPT_LENGTH } else { 0 };
        let fits = HEADER + self.asked.len() + body.len() + opt <= limit;
        let (body, counts) = if fits { (body, counts) } else { (&[][..], [0; 3]) };
        let kept = self.flags & (bit::RECURSION_DESIRED | bit::CHECKING_DISABLED);
        let cut = if fits { 0 } else { bit::TRUNCATED };
        let flags = bit::RESPONSE | bit::RECURSION_AVAILABLE | kept | cut | extra | (code & 0xf);
        let mut bytes = Vec::with_capacity(HEADER + self.asked.len() + body.len() + opt);
        let additional = counts[2] + u16::from(self.edns.is_some());
        for word in [self.id, flags, 1, counts[0], counts[1], additional] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.extend_from_slice(&self.asked);
        bytes.extend_from_slice(body);
        if let Some(edns) = self.edns {
            bytes.extend_from_slice(&opt_record(UDP_MOST as u16, code >> 4, edns.dnssec_ok));
        }
        bytes
    }

    /// Give this question as it is sent to a resolver, under another `id`, the letters of its name in lower case.
    pub fn forward(&self, id: u16) -> Vec<u8> {
        let flags = bit::RECURSION_DESIRED | bit::AUTHENTIC | (self.flags & bit::CHECKING_DISABLED);
        let mut bytes = Vec::with_capacity(HEADER + self.asked.len() + OPT_LENGTH);
        for word in [id, flags, 1, 0, 0, 1] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.extend_from_slice(self.name.wire());
        bytes.extend_from_slice(&self.kind.to_be_bytes());
        bytes.extend_from_slice(&INTERNET.to_be_bytes());
        bytes.extend_from_slice(&opt_record(UDP_MOST as u16, 0, self.wants_signatures()));
        bytes
    }
}

/// A record about the name that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: u16,
    /// Seconds for which it may be kept.
    pub ttl: u32,
    pub data: Vec<u8>,
}

impl Record {
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&SAME_NAME);
        bytes.extend_from_slice(&self.kind.to_be_bytes());
        bytes.extend_from_slice(&INTERNET.to_be_bytes());
        bytes.extend_from_slice(&self.ttl.to_be_bytes());
        bytes.extend_from_slice(&(self.data.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&self.data);
    }
}

/// The record that says for how long "there is none" may be believed. Its two names are the root.
fn soa(seconds: u32) -> Record {
    let mut data = vec![0, 0];
    for number in [1, seconds, seconds, seconds, seconds] {
        data.extend_from_slice(&number.to_be_bytes());
    }
    Record { kind: kind::SOA, ttl: seconds, data }
}

const OPT_LENGTH: usize = 11;

fn opt_record(size: u16, code_high: u16, dnssec_ok: bool) -> [u8; OPT_LENGTH] {
    let [_, kind] = kind::OPT.to_be_bytes();
    let [high, low] = size.to_be_bytes();
    let flags = if dnssec_ok { DNSSEC_OK.to_be_bytes()[0] } else { 0 };
    [0, 0, kind, high, low, code_high as u8, 0, flags, 0, 0, 0]
}

/// The first twelve bytes.
pub struct Header {
    pub id: u16,
    pub flags: u16,
    /// Records in each section: question, answer, authority, additional.
    pub counts: [u16; 4],
}

/// The one question of a message.
pub struct Asked<'a> {
    pub bytes: &'a [u8],
    pub name: Name,
    pub kind: u16,
    pub class: u16,
}

impl Header {
    /// Read it; None where a message is too short to have one.
    pub fn read(message: &[u8]) -> Option<Header> {
        let words = message.get(..HEADER)?;
        let word = |at: usize| u16::from_be_bytes([words[at], words[at + 1]]);
        Some(Header { id: word(0), flags: word(2), counts: [word(4), word(6), word(8), word(10)] })
    }

    /// Give an answer that is this header alone, for a question that is not understood.
    fn bare(&self, code: u16) -> Vec<u8> {
        let flags = bit::RESPONSE | (self.flags & (bit::OPCODE | bit::RECURSION_DESIRED)) | code;
        [self.id, flags, 0, 0, 0, 0].iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    /// Give the question where there is one and no other.
    pub fn sole_question<'a>(&self, message: &'a [u8]) -> Option<Asked<'a>> {
        if self.counts[0] != 1 {
            return None;
        }
        let rest = message.get(HEADER..)?;
        let name = Name::take(rest)?;
        let bytes = rest.get(..name.wire().len() + 4)?;
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (kind, class) = (word(name.wire().len()), word(name.wire().len() + 2));
        Some(Asked { bytes, name, kind, class })
    }

    /// Look at what follows a question, which may be EDNS and things that are not understood. None where it is broken.
    #[allow(clippy::option_option)] // broken, absent, there
    fn additional(&self, message: &[u8], mut at: usize) -> Option<Option<(Edns, u8)>> {
        let [_, 0, 0, count] = self.counts else { return None };
        let mut edns = None;
        for _ in 0..count {
            let record = Place::of(message, at)?;
            if record.kind == kind::OPT {
                let is_first = edns.is_none() && message[at] == 0;
                let found = Edns { size: record.class, dnssec_ok: record.ttl & u32::from(DNSSEC_OK) != 0 };
                edns = is_first.then_some(Some((found, (record.ttl >> 16) as u8)))?;
            }
            at = record.end;
        }
        (at == message.len()).then_some(edns)
    }
}

/// Where a record of a message is, and what its fixed part says.
pub struct Place {
    pub kind: u16,
    pub class: u16,
    pub ttl: u32,
    /// Where its TTL stands; 6 bytes further on its data begin.
    pub ttl_at: usize,
    pub end: usize,
}

impl Place {
    /// Look at the record that begins at `at`; None where it is not whole.
    pub fn of(message: &[u8], at: usize) -> Option<Place> {
        let fixed = skip_name(message, at)?;
        let bytes = message.get(fixed..fixed + 10)?;
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let ttl = u32::from(word(4)) << 16 | u32::from(word(6));
        let end = fixed + 10 + usize::from(word(8));
        (end <= message.len()).then_some(Place { kind: word(0), class: word(2), ttl, ttl_at: fixed + 4, end })
    }
}

/// Give where the name that begins at `at` ends. A pointer ends it, and is not followed.
pub fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    let begin = at;
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            0xc0.. => return (at + 2 <= message.len()).then_some(at + 2),
            length if usize::from(length) <= LABEL_MAX => at += 1 + usize::from(length),
            _ => return None,
        }
        if at - begin >= NAME_MAX {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(flags: u16, counts: [u16; 4], rest: &[u8]) -> Vec<u8> {
        let words = [0x1234, flags, counts[0], counts[1], counts[2], counts[3]];
        [&words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>(), rest].concat()
    }

    fn asked(name: &[u8], kind: u16, class: u16) -> Vec<u8> {
        [name, &kind.to_be_bytes(), &class.to_be_bytes()].concat()
    }

    const NAME: &[u8] = b"\x03wWw\x07eXample\x03com\0";
    const RD: u16 = bit::RECURSION_DESIRED;

    fn question(message: &[u8]) -> Question {
        match hear(message) {
            Heard::Question(question) => question,
            other => panic!("{other:?}"),
        }
    }

    fn refused_with(message: &[u8]) -> u16 {
        let Heard::Wrong(answer) = hear(message) else { panic!("{:?}", hear(message)) };
        assert!(answer.len() <= message.len() + OPT_LENGTH, "an error is no larger than what caused it");
        let header = Header::read(&answer).unwrap();
        assert!(header.id == 0x1234 && header.flags & bit::RESPONSE != 0);
        let opt = (header.counts[3] == 1).then(|| answer[answer.len() - OPT_LENGTH + 5]);
        (header.flags & 0xf) | u16::from(opt.unwrap_or(0)) << 4
    }

    #[test]
    fn question_is_read_and_given_back_as_it_came() {
        let asked = asked(NAME, kind::A, 1);
        let found = question(&message(RD, [1, 0, 0, 0], &asked));
        assert_eq!(found.name.host().as_deref(), Some("www.example.com"));
        assert_eq!((found.kind, found.edns, found.udp_limit()), (kind::A, None, 512));
        let record = Record { kind: kind::A, ttl: 7, data: vec![192, 0, 2, 1] };
        let answer = found.answer(code::NOERROR, &[record], None, 512);
        let tail = [&asked[..], &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 7, 0, 4, 192, 0, 2, 1]].concat();
        assert_eq!(answer, message(0x8180, [1, 1, 0, 0], &tail));
    }

    #[test]
    fn edns_is_answered_with_edns_and_lets_an_answer_be_larger() {
        let mut rest = asked(NAME, kind::A, 1);
        rest.extend([0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 0]);
        let found = question(&message(RD | bit::CHECKING_DISABLED, [1, 0, 0, 1], &rest));
        assert_eq!(found.edns, Some(Edns { size: 4096, dnssec_ok: true }));
        assert_eq!(found.udp_limit(), 1232);
        let answer = found.answer(code::NXDOMAIN, &[], Some(15), 512);
        let header = Header::read(&answer).unwrap();
        assert_eq!(header.flags, 0x8190 | code::NXDOMAIN);
        assert_eq!(header.counts, [1, 0, 1, 1]);
        assert_eq!(answer[answer.len() - OPT_LENGTH..], opt_record(1232, 0, true));
    }

    #[test]
    fn answer_that_is_too_long_is_cut_to_the_question() {
        let found = question(&message(RD, [1, 0, 0, 0], &asked(NAME, 16, 1)));
        let record = Record { kind: 16, ttl: 7, data: vec![b'x'; 500] };
        let answer = found.answer(code::NOERROR, &[record], None, found.udp_limit());
        assert_eq!(answer, message(0x8380, [1, 0, 0, 0], &asked(NAME, 16, 1)));
    }

    #[test]
    fn what_is_no_question_gets_no_answer() {
        for wrong in [&[][..], &[0; 11], &message(bit::RESPONSE | RD, [1, 0, 0, 0], &asked(NAME, kind::A, 1))] {
            assert_eq!(hear(wrong), Heard::Nothing);
        }
    }

    #[test]
    fn malformed_questions_are_told_so() {
        let good = asked(NAME, kind::A, 1);
        let opt: &[u8] = &[0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 0];
        let cases: Vec<([u16; 4], Vec<u8>)> = vec![
            ([0, 0, 0, 0], Vec::new()),
            ([2, 0, 0, 0], [&good[..], &good].concat()),
            ([1, 0, 0, 0], good[..good.len() - 1].to_vec()),
            ([1, 0, 0, 0], [&good[..], b"x"].concat()),
            ([1, 1, 0, 0], [&good[..], &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]].concat()),
            ([1, 0, 0, 1], good.clone()),
            ([1, 0, 0, 2], [&good[..], opt, opt].concat()),
            ([1, 0, 0, 1], [&good[..], &opt[..10]].concat()),
            ([1, 0, 0, 0], asked(&[0xc0, 12], kind::A, 1)),
            ([1, 0, 0, 0], asked(&[0x41, b'a', 0], kind::A, 1)),
            ([1, 0, 0, 0], asked(&[[63; 64]; 4].concat(), kind::A, 1)),
        ];
        for (counts, rest) in cases {
            assert_eq!(refused_with(&message(RD, counts, &rest)), code::FORMERR, "{counts:?} {rest:?}");
        }
    }

    #[test]
    fn what_is_not_for_us_is_refused() {
        for (flags, kind, class, code) in [
            (RD | 0x2000, kind::A, 1, code::NOTIMP),
            (RD, kind::A, 3, code::REFUSED),
            (RD, kind::A, 255, code::REFUSED),
            (RD, 252, 1, code::REFUSED),
            (RD, 251, 1, code::REFUSED),
            (RD, kind::OPT, 1, code::REFUSED),
        ] {
            assert_eq!(refused_with(&message(flags, [1, 0, 0, 0], &asked(NAME, kind, class))), code);
        }
        let mut rest = asked(NAME, kind::A, 1);
        rest.extend([0, 0, 41, 4, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(refused_with(&message(RD, [1, 0, 0, 1], &rest)), code::BADVERS);
    }

    #[test]
    fn names_are_within_their_zones_by_whole_labels() {
        let name = |text| Name::parse(text).unwrap();
        assert!(name("a.corp.example").is_within(&name("corp.example.")));
        assert!(name("Corp.Example").is_within(&name("corp.example")));
        assert!(!name("acorp.example").is_within(&name("corp.example")));
        assert!(!name("example").is_within(&name("corp.example")));
        for wrong in ["", ".", "a..b", "a b", "1.2.3.4", "\u{e4}.example", &"a".repeat(64), &"a.".repeat(128)] {
            assert_eq!(Name::parse(wrong), None, "{wrong:?}");
        }
        assert!(Name::parse(&("a.".repeat(126) + "b")).is_some());
    }

    #[test]
    fn question_that_is_passed_on_asks_for_recursion_and_hides_the_case() {
        let mut rest = asked(NAME, kind::A, 1);
        rest.extend([0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 0]);
        let sent = question(&message(bit::CHECKING_DISABLED, [1, 0, 0, 1], &rest)).forward(7);
        let again = question(&sent);
        assert_eq!((again.id, again.asked()), (7, &asked(b"\x03www\x07example\x03com\0", kind::A, 1)[..]));
        assert!(again.wants_signatures() && again.checks_itself() && again.flags & RD != 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_heard_and_no_answer_is_longer_than_allowed(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            match hear(&bytes) {
                Heard::Nothing => {}
                Heard::Wrong(answer) => prop_assert!(answer.len() <= bytes.len() + OPT_LENGTH),
                Heard::Question(question) => {
                    let answer = question.answer(code::NOERROR, &[], Some(1), question.udp_limit());
                    prop_assert!(answer.len() <= question.udp_limit());
                }
            }
        }

        #[test]
        fn broken_questions_do_no_harm(at in 0usize..60, byte: u8, cut in 0usize..60) {
            let mut bytes = message(RD, [1, 0, 0, 1], &asked(NAME, kind::A, 1));
            bytes.extend([0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 0]);
            let length = bytes.len();
            bytes[at % length] = byte;
            let _ = hear(&bytes);
            let _ = hear(&bytes[..cut.min(length)]);
        }

        #[test]
        fn names_come_back_from_their_wire_format(labels in proptest::collection::vec("[a-z0-9_-]{1,20}", 1..8)) {
            let text = labels.join(".") + ".x";
            let name = Name::parse(&text).unwrap();
            prop_assert_eq!(Name::take(name.wire()), Some(name.clone()));
            prop_assert_eq!(name.host(), Some(text));
        }
    }
}
