//! The two ends of a connection as the state machine drives and checks them: what each has sent, got and seen.
//!
//! Every stream begins with the number of the end that sends it, and every byte follows from that number and its place:
//! so the end that gets it can tell whose it is, and that nothing is missing, doubled, moved or mixed up.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::streams::{read_some, reset};
use crate::world::{GRANT, World};

const CHUNK: usize = 64 << 10;

/// What both kinds of end have.
#[derive(Debug, Default)]
pub struct End {
    pub number: u32,
    /// Which connection of the program: port numbers follow from it.
    pub slot: u16,
    /// Bytes to be sent, and those that were taken.
    pub wanted: usize,
    pub sent: usize,
    pub got: Vec<u8>,
    pub deaf: bool,
    /// Whether it ends when all is sent, and whether it has.
    pub ending: bool,
    pub finished: bool,
    /// The far end's FIN, and an error.
    pub eof: bool,
    pub error: bool,
    /// It has broken the connection itself.
    pub aborted: bool,
}

impl End {
    pub fn new(number: u32, slot: u16) -> End {
        End { number, slot, ..End::default() }
    }

    /// Want to send so many bytes more.
    pub fn want(&mut self, count: usize) {
        if !self.ending {
            self.wanted += count.max(4);
        }
    }

    /// Take note of what an attempt came to.
    fn tried<T>(&mut self, result: std::io::Result<T>) -> Option<T> {
        self.error |= result.as_ref().is_err_and(|error| error.kind() != ErrorKind::WouldBlock);
        result.ok()
    }

    fn next_chunk(&self) -> Vec<u8> {
        stream(self.number, self.sent..self.wanted.min(self.sent + CHUNK))
    }

    /// Give the number of the end whose bytes these are; None where there are none.
    pub fn partner(&self) -> Option<u32> {
        let first = self.got.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*first))
    }

    /// Check that what was got is what `from` sent, from its first byte on.
    pub fn check(&self, from: &End) {
        assert_eq!(self.slot, from.slot, "bytes of another connection");
        assert!(self.got.len() <= from.sent, "{} bytes of {}", self.got.len(), from.sent);
        assert!(self.got == stream(from.number, 0..self.got.len()), "not the bytes that were sent");
    }
}

fn stream(number: u32, range: std::ops::Range<usize>) -> Vec<u8> {
    let byte = |index: usize| match number.to_le_bytes().get(index) {
        Some(&byte) => byte,
        None => ((index as u32 ^ number.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b) >> 23) as u8,
    };
    range.map(byte).collect()
}

/// The program's end.
pub struct Caller {
    pub end: End,
    /// None when it was forgotten, as by the end of a machine.
    pub handle: Option<SocketHandle>,
    pub connected: bool,
    /// Whether the far end's FIN has come, before the bytes ahead of it were read.
    fin: bool,
}

impl Caller {
    pub fn new(number: u32, slot: u16, handle: SocketHandle) -> Caller {
        Caller { end: End::new(number, slot), handle: Some(handle), connected: false, fin: false }
    }

    /// Do what can be done.
    pub fn act(&mut self, world: &mut World) {
        let Some(handle) = self.handle else { return };
        let (socket, end) = (world.socket(handle), &mut self.end);
        let state = socket.state();
        self.connected |= !matches!(state, State::SynSent | State::Closed);
        while end.sent < end.wanted && socket.can_send() {
            end.sent += socket.send_slice(&end.next_chunk()).unwrap();
        }
        // see streams.rs on why a FIN comes after all was acknowledged
        if end.ending && self.connected && end.sent == end.wanted && socket.send_queue() == 0 && !end.finished {
            end.finished = socket.may_send();
            socket.close();
        }
        self.fin |= matches!(state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
        // smoltcp forgets what was not read when TIME-WAIT ends
        while socket.can_recv() && (!end.deaf || state == State::TimeWait) {
            socket.recv(|ring| (ring.len(), end.got.extend_from_slice(ring))).unwrap();
        }
        end.eof |= self.fin && !socket.can_recv();
        let clean = end.eof && end.finished && socket.send_queue() == 0;
        end.error |= socket.state() == State::Closed && !socket.can_recv() && !clean;
    }

    pub fn reset(&mut self, world: &mut World) {
        if let Some(handle) = self.handle
            && !self.is_over(world)
        {
            world.socket(handle).abort();
            self.end.aborted = true;
        }
    }

    /// Forget the connection without a word.
    pub fn forget(&mut self, world: &mut World) {
        self.end.aborted |= !self.is_over(world);
        if let Some(handle) = self.handle.take() {
            world.program.sockets.remove(handle);
        }
    }

    pub fn is_over(&self, world: &mut World) -> bool {
        let Some(handle) = self.handle else { return true };
        matches!(world.socket(handle).state(), State::Closed | State::TimeWait)
            && (self.end.deaf || self.has_seen_all())
    }

    fn has_seen_all(&self) -> bool {
        self.end.aborted || self.end.error || self.end.eof
    }

    /// Say whether it ended as it should.
    pub fn is_clean(&self) -> bool {
        self.end.eof && self.end.finished && !self.end.error && !self.end.aborted
    }
}

/// The proxy's end.
pub struct Answerer {
    pub end: End,
    stream: Option<TcpStream>,
    request: Vec<u8>,
    /// How much of the 2xx has been said; whether something else has.
    said: usize,
    refused: bool,
}

impl Answerer {
    pub fn new(number: u32, stream: TcpStream) -> Answerer {
        stream.set_nonblocking(true).unwrap();
        let end = End::new(number, u16::MAX);
        Answerer { end, stream: Some(stream), request: Vec::new(), said: 0, refused: false }
    }

    /// Say whether the request has come.
    pub fn is_asked(&self) -> bool {
        self.request.ends_with(b"\r\n\r\n")
    }

    pub fn is_granted(&self) -> bool {
        self.said == GRANT.len()
    }

    /// Say `count` bytes more of the 2xx.
    pub fn grant(&mut self, count: usize) {
        let silent = !self.is_asked() || self.refused || self.is_granted();
        if let (false, Some(stream)) = (silent, &mut self.stream) {
            let piece = &GRANT[self.said..GRANT.len().min(self.said + count)];
            self.said += self.end.tried(stream.write(piece)).unwrap_or(0);
        }
    }

    /// Say something else.
    pub fn refuse(&mut self, answer: &str) {
        if let (true, 0, Some(stream)) = (self.is_asked(), self.said, &mut self.stream) {
            self.end.tried(stream.write(answer.as_bytes()));
            self.refused = true;
        }
    }

    /// Do what can be done.
    pub fn act(&mut self) {
        if !self.is_asked() {
            return self.listen();
        }
        let Some(mut stream) = self.stream.as_ref() else { return };
        let end = &mut self.end;
        if self.said == GRANT.len() {
            while end.sent < end.wanted
                && let Some(count) = end.tried(stream.write(&end.next_chunk()))
            {
                end.sent += count;
            }
            if end.ending && end.sent == end.wanted && !end.finished {
                end.finished = end.tried(stream.shutdown(Shutdown::Write)).is_some();
            }
        }
        if !end.deaf && !end.eof && !end.error {
            match read_some(stream, &mut end.got) {
                Ok(eof) => end.eof = eof,
                Err(_) => end.error = true,
            }
        }
    }

    fn listen(&mut self) {
        let Some(stream) = self.stream.as_ref().filter(|_| !self.end.eof && !self.end.error) else { return };
        match read_some(stream, &mut self.request) {
            Ok(eof) => self.end.eof = eof,
            Err(_) => self.end.error = true,
        }
        let text = String::from_utf8(self.request.clone()).unwrap();
        if let (true, Some(authority)) = (self.is_asked(), text.split(' ').nth(1)) {
            let target: std::net::SocketAddr = authority.parse().unwrap();
            self.end.slot = target.port() - 1000;
        }
    }

    pub fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.end.aborted = true;
            reset(stream);
        }
    }

    pub fn is_over(&self) -> bool {
        let end = &self.end;
        end.aborted || end.error || (end.eof && (end.finished || !self.is_granted()))
    }

    /// Say whether it ended as it should.
    pub fn is_clean(&self) -> bool {
        self.is_granted() && self.end.eof && self.end.finished && !self.end.error && !self.end.aborted
    }
}
