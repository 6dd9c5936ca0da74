//! Any reply of a proxy, in pieces of any size, gets the same verdict as in one, and no panic.
//!
//! Input: where to cut (2 bytes), then the reply.

#![no_main]

use _tunstack::connect::{Connect, MAX_HEADER, Verdict};
use libfuzzer_sys::fuzz_target;
use proxyvpn_fuzz::cursor::Cursor;

/// Give the verdict, and where the stream begins.
fn verdict<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Verdict, usize) {
    let mut connect = Connect::default();
    let mut before = 0;
    for piece in pieces {
        match connect.feed(piece) {
            Verdict::More => before += piece.len(),
            Verdict::Open { rest } => {
                assert!(rest <= piece.len() && before + rest <= MAX_HEADER);
                return (Verdict::Open { rest: 0 }, before + rest);
            }
            Verdict::Refused { status, reason, rest } => {
                assert!((100..=999).contains(&status) && !(200..=299).contains(&status));
                assert!(reason.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{reason:?} in a log");
                return (Verdict::Refused { status, reason, rest: 0 }, before + rest);
            }
            bad @ Verdict::Bad(_) => return (bad, 0),
        }
    }
    assert!(before <= MAX_HEADER, "the wait for an end has an end");
    (Verdict::More, before)
}

fuzz_target!(|input: &[u8]| {
    let mut cursor = Cursor::new(input);
    let cut = usize::from(cursor.word());
    let reply = cursor.take(usize::MAX);
    let whole = verdict([reply]);
    let (left, right) = reply.split_at(cut.min(reply.len()));
    assert_eq!(verdict([left, right]), whole, "cut at {cut}");
    assert_eq!(verdict(reply.chunks(1)), whole, "byte by byte");
    assert_eq!(verdict(reply.chunks(1 + cut)), whole, "in pieces of {}", 1 + cut);
    if let (Verdict::Open { .. }, header) = whole {
        assert_eq!(verdict([&reply[..header]]), whole, "without the stream behind it");
    }
});
