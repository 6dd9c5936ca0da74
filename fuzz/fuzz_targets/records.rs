//! TLS records of a hostile proxy, in pieces of any size: what the stream gets is what was sealed for it, in order and
//! never more; nothing grows without bound; and no panic.
//!
//! Input: whether the handshake is over (1 byte), the sizes of pieces and of the room for the stream (2 bytes each), and
//! then words, each a byte with what belongs to it.

#![no_main]

use std::io::{self, ErrorKind};

use _tunstack::tls::{Read, Session};
use libfuzzer_sys::fuzz_target;
use proxyvpn_fuzz::cursor::Cursor;
use proxyvpn_fuzz::heap;
use proxyvpn_fuzz::sealing::{DATA, Sealer, opened, session};

/// Most bytes on the heap for one session: what rustls may gather of one handshake message, and what tls.rs may keep.
const MOST: usize = 1 << 20;
const KINDS: [u8; 6] = [DATA, 20, 21, 22, 24, 0];

struct Talk {
    session: Session,
    sealer: Option<Sealer>,
    /// On its way to the session.
    wire: Vec<u8>,
    piece: usize,
    room: usize,
    /// What was sealed for the stream, and how much of it has come out.
    meant: Vec<u8>,
    given: usize,
    is_over: bool,
}

impl Talk {
    fn word(&mut self, cursor: &mut Cursor<'_>) {
        match (cursor.byte() % 8, &mut self.sealer) {
            (0, Some(sealer)) => {
                let content = vec![cursor.byte(); usize::from(cursor.word()) % ((1 << 14) + 1)];
                self.meant.extend_from_slice(&content);
                self.wire.extend(sealer.seal(DATA, &content, 0));
            }
            (1, Some(sealer)) => {
                let (kind, length, padding) = (cursor.pick(&KINDS), cursor.byte(), usize::from(cursor.byte()));
                let content = cursor.take(usize::from(length));
                if kind == DATA {
                    self.meant.extend_from_slice(content);
                }
                self.wire.extend(sealer.seal(kind, content, padding));
            }
            (2, Some(sealer)) => {
                // a handshake message that says it is long, spread over records
                let part = vec![cursor.byte(); usize::from(cursor.word()) % (1 << 14)];
                let head = [4, 0, cursor.byte(), cursor.byte()];
                self.wire.extend(sealer.seal(22, &[&head[..], &part].concat()[..part.len().max(4)], 0));
            }
            (0..=3, _) => {
                let length = usize::from(cursor.byte());
                self.wire.extend_from_slice(cursor.take(length));
            }
            (4, _) => self.say(usize::from(cursor.word())),
            (5, _) => self.session.finish(),
            (6, _) => self.room = usize::from(cursor.word()),
            _ => self.listen(),
        }
    }

    fn say(&mut self, length: usize) {
        let result = self.session.write(&vec![1; length], |records| Ok(records.len() / 2));
        assert!(result.is_err() || result.is_ok_and(|taken| taken <= length));
        assert!(self.session.to_send().len() <= 512 << 10, "what is to be sent grows");
        let sent = self.session.to_send().len();
        self.session.was_sent(sent);
    }

    /// Let the session have all that is on its way.
    fn listen(&mut self) {
        let mut into = vec![0; self.room];
        let most = 2 * (self.wire.len() + self.meant.len()) + 1000;
        for count in 0.. {
            assert!(count < most, "reading has no end");
            let read = match self.session.read(&mut into) {
                Ok(Read::Nothing) => self.session.read_from(&mut into, |buffer| {
                    let length = self.wire.len().min(self.piece).min(buffer.len());
                    if length == 0 {
                        return Err(io::Error::from(ErrorKind::WouldBlock));
                    }
                    buffer[..length].copy_from_slice(&self.wire[..length]);
                    self.wire.drain(..length);
                    Ok(length)
                }),
                result => result,
            };
            let sent = self.session.to_send().len();
            assert!(sent <= 512 << 10, "what is to be sent grows");
            self.session.was_sent(sent);
            match read {
                Ok(Read::Bytes(bytes, _)) => {
                    assert!(bytes > 0 && bytes <= into.len());
                    assert_eq!(self.meant.get(self.given..self.given + bytes), Some(&into[..bytes]), "as it was meant");
                    self.given += bytes;
                }
                Ok(Read::Nothing) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(Read::End) | Err(_) => return self.is_over = true,
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut cursor = Cursor::new(input);
    let (session, sealer) = match cursor.byte() % 4 {
        0 => (session(), None),
        _ => {
            let (session, sealer) = opened();
            (session, Some(sealer))
        }
    };
    let before = heap::used();
    let (piece, room) = (1 + usize::from(cursor.word()), 1 + usize::from(cursor.word()));
    let (wire, meant) = (Vec::new(), Vec::new());
    let mut talk = Talk { session, sealer, wire, piece, room, meant, given: 0, is_over: false };
    while !cursor.is_empty() && !talk.is_over {
        talk.word(&mut cursor);
    }
    talk.room = talk.room.max(1);
    if !talk.is_over {
        talk.listen();
    }
    let ours = talk.wire.capacity() + talk.meant.capacity() + talk.room;
    let used = heap::used().saturating_sub(before + ours);
    assert!(used <= MOST, "{used} bytes on the heap");
});
