//! Any 407, in pieces of any size: its body ends at the same byte however it is cut, its challenges are read without a
//! panic, and what is said in answer is one line of printable header however wild they are.
//!
//! Input: where to cut (2 bytes), then the reply, and behind its end what the proxy says next.

#![no_main]

use std::sync::LazyLock;

use _tunstack::auth::{Exchange, Step};
use _tunstack::body::Rest;
use _tunstack::connect::{Connect, Verdict};
use _tunstack::login::Memory;
use _tunstack::means::Means;
use _tunstack::token::Answer;
use libfuzzer_sys::fuzz_target;
use proxyvpn_fuzz::cursor::Cursor;
use smoltcp::time::Instant;

static MEANS: LazyLock<Means> =
    LazyLock::new(|| Means { user: "J\u{e4}s\"\\n".into(), password: b"secret".to_vec(), ..Means::default() });

/// Give what becomes of the connection, how many bytes the reply has, and the reply.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<(Rest, usize, Connect)> {
    let (mut connect, mut body, mut used) = (Connect::default(), None, 0);
    for piece in pieces {
        let mut begin = 0;
        if body.is_none() {
            match connect.feed(piece) {
                Verdict::More => {}
                Verdict::Refused { status, rest, .. } => (body, begin) = (Some(connect.body(status)), rest),
                _ => return None,
            }
        }
        if let Some(body) = &mut body {
            match body.feed(&piece[begin..]) {
                Rest::More => {}
                rest => return Some((rest, used + piece.len(), connect)),
            }
        }
        used += piece.len();
    }
    body.map(|_| (Rest::More, used, connect))
}

/// Say what a header may hold.
fn check(step: &Step) {
    match step {
        Step::Ask(value) => assert!(!value.iter().any(|&byte| matches!(byte, b'\r' | b'\n' | 0)), "{value:?}"),
        Step::Fetch(wish) => assert!(!wish.challenge.contains(['\n', '\r']), "{wish:?}"),
        Step::Granted => {}
        Step::Refuse(why) => {
            let text = why.to_string();
            assert!(!text.contains("secret") && !text.chars().any(char::is_control), "{text:?}");
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut cursor = Cursor::new(input);
    let cut = usize::from(cursor.word());
    let reply = cursor.take(usize::MAX);
    let Some((rest, _, connect)) = read([reply]) else { return };
    // byte by byte the end is seen at its last byte, so what comes behind it is not part of it
    if let Some((bytewise, end, _)) = read(reply.chunks(1)) {
        match bytewise {
            Rest::Usable => assert_eq!(rest, if end == reply.len() { Rest::Usable } else { Rest::Close }),
            other => assert_eq!(rest, other),
        }
        let (left, right) = reply.split_at(cut.min(end));
        let (halves, ..) = read([left, &right[..end - left.len()]]).expect("cut in two it is none");
        assert_eq!(halves, bytewise, "cut at {cut}");
    }
    let (fields, now) = (connect.fields(), Instant::from_secs(1));
    let mut memory = Memory::new(MEANS.clone());
    let mut exchange = Exchange::new("192.0.2.1:443".to_owned());
    assert_eq!(exchange.open(&mut memory, now), Step::Ask(Vec::new()));
    for round in 0..10 {
        let mut step = exchange.challenged(&fields, rest != Rest::Close, &mut memory, now);
        check(&step);
        if matches!(step, Step::Fetch(_)) {
            let answer = [&b"token AA=="[..], b"missing x"][round % 2];
            step = exchange.token(Answer::parse(answer), &mut memory, now);
            check(&step);
        }
        if !matches!(step, Step::Ask(_)) {
            break;
        }
        assert!(round < 7, "it has an end");
    }
    check(&exchange.granted(&fields, &mut memory));
    check(&Exchange::new("192.0.2.1:443".to_owned()).open(&mut memory, now));
});
