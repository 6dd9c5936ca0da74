//! What a program's machine remembers of its connections, so that a target can send a segment that fits, or one that
//! is off by as much as it likes.

use _tunstack::packet::FourTuple;

use crate::packets::{ACK, FIN, RST, SYN, Tcp, tuple};
use crate::world::{World, answers, framed};
use crate::written::Written;

/// One connection as its program sees it.
pub struct Talk {
    pub tuple: FourTuple,
    /// The next sequence number to send, and the next one expected.
    pub next: u32,
    pub expected: u32,
    /// The last window that the stack offered, as it was in the segment.
    pub window: u16,
}

impl Talk {
    /// Give connections of both families, of which two have the same ends but for a port.
    pub fn some() -> [Talk; 4] {
        [
            ("10.0.0.2:40000", "192.0.2.1:443"),
            ("10.0.0.2:40001", "192.0.2.1:443"),
            ("10.0.0.3:65535", "203.0.113.9:1"),
            ("[2001:db8::2]:40000", "[2001:db8::1]:443"),
        ]
        .map(|(source, destination)| Talk {
            tuple: tuple(source, destination),
            next: 0,
            expected: 0,
            window: 0,
        })
    }

    /// Give a segment that fits.
    pub fn segment<'a>(&self, flags: u8, payload: &'a [u8]) -> Tcp<'a> {
        Tcp {
            tuple: self.tuple,
            sequence: self.next,
            acknowledgement: if flags & ACK == 0 { 0 } else { self.expected },
            flags,
            window: u16::MAX,
            options: &[],
            payload,
        }
    }

    /// Take note of a segment that was sent.
    pub fn sent(&mut self, segment: &Tcp<'_>) {
        if segment.sequence == self.next || segment.flags & SYN != 0 {
            let control = u32::from(segment.flags & SYN != 0) + u32::from(segment.flags & FIN != 0);
            self.next = segment.sequence.wrapping_add(segment.payload.len() as u32).wrapping_add(control);
        }
    }

    /// Take note of what the stack wrote.
    pub fn received(&mut self, written: &[Written]) {
        for tcp in written.iter().filter(|one| answers(one, &self.tuple)).filter_map(|one| one.tcp.as_ref()) {
            if tcp.sequence == self.expected || tcp.flags & SYN != 0 {
                self.expected = tcp.next_sequence();
            }
            self.window = tcp.window;
        }
    }

    /// Send a segment that fits, and take note of it.
    pub fn send(&mut self, world: &mut World, flags: u8, payload: &[u8]) {
        let segment = self.segment(flags, payload);
        world.inject(&framed(&segment.packet(&Default::default())));
        let sent = Tcp { payload, options: &[], ..segment };
        self.sent(&sent);
    }

    /// Reset the connection.
    pub fn reset(&mut self, world: &mut World) {
        self.send(world, RST | ACK, &[]);
    }
}
