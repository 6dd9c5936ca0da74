//! Any reply of a proxy, in any two pieces, gets the same verdict as in one, and no panic.

#![no_main]

use _tunstack::connect::{Connect, Verdict};
use libfuzzer_sys::fuzz_target;

fn verdict(pieces: &[&[u8]]) -> (Verdict, usize) {
    let mut connect = Connect::default();
    let mut before = 0;
    for piece in pieces {
        match connect.feed(piece) {
            Verdict::More => before += piece.len(),
            Verdict::Open { rest } => return (Verdict::Open { rest: 0 }, before + rest),
            other => return (other, 0),
        }
    }
    (Verdict::More, before)
}

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, reply) = input;
    let (left, right) = reply.split_at(usize::from(cut).min(reply.len()));
    assert_eq!(verdict(&[left, right]), verdict(&[reply]));
    let bytes: Vec<&[u8]> = reply.chunks(1).collect();
    assert_eq!(verdict(&bytes), verdict(&[reply]));
});
