//! Any message that a program sends to a resolver, and any that a resolver sends back: no panic, no answer to an answer, no
//! answer that is longer than its asker takes, and nothing in it that the asker did not ask.
//!
//! Input: the length of the question (2 bytes), the question, then what a resolver answers to it (with the number 7).

#![no_main]

use std::sync::Arc;

use _tunstack::addresses::{Addresses, Table};
use _tunstack::dns::{Header, Heard, hear};
use _tunstack::names::{Mode, Names, Plan, Reach};
use _tunstack::reply::Reply;
use libfuzzer_sys::fuzz_target;
use proxyvpn_fuzz::cursor::Cursor;
use smoltcp::time::Instant;

fn check(asked: &[u8], answer: &[u8], limit: usize) {
    let (question, header) = (Header::read(asked).expect("a header"), Header::read(answer).expect("a header"));
    assert!(answer.len() <= limit, "{} bytes for {limit}", answer.len());
    assert!(header.flags & 0x8000 != 0 && question.flags & 0x8000 == 0, "only questions are answered, by answers");
    assert_eq!(header.id, question.id);
    assert_eq!(hear(answer), Heard::Nothing, "what we say is no question");
}

fuzz_target!(|input: &[u8]| {
    let mut cursor = Cursor::new(input);
    let length = usize::from(cursor.word());
    let asked = cursor.take(length);
    let replied = cursor.take(usize::MAX);
    let question = match hear(asked) {
        Heard::Nothing => return,
        Heard::Wrong(answer) => return check(asked, &answer, asked.len() + 11),
        Heard::Question(question) => question,
    };
    let limit = question.udp_limit();
    assert!((512..=1232).contains(&limit));
    for mode in [Mode::Virtual, Mode::Proxy] {
        let reach = Reach { proxy: true, direct: false };
        let names = Names::new(mode, Vec::new(), reach, Addresses::new(Table::new(4, Arc::default())));
        if let Plan::Answer(code, records, believe) = names.plan(&question, Instant::from_secs(1)) {
            let answer = question.answer(code, &records, believe, limit);
            check(asked, &answer, limit);
            let kept = &answer[12..12 + question.asked().len().min(answer.len() - 12)];
            assert_eq!(kept, question.asked(), "the question goes back as it came");
        }
    }
    assert!(matches!(hear(&question.forward(7)), Heard::Question(again) if again.name == question.name));
    if let Some(reply) = Reply::read(replied, &question) {
        check(asked, &reply.answer(&question, 3, limit), limit);
        let whole = reply.answer(&question, 0, 65535);
        assert!(Reply::read(&whole, &question).is_some() || whole.len() < 65535, "an answer stays one");
        assert!(reply.keep <= 3600);
    }
});
