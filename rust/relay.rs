//! Bytes both ways between a flow's rings and its socket towards the proxy.
//!
//! Back-pressure is not to take what cannot be given: bytes that the proxy does not take stay in the ring, so the
//! window of the program closes; bytes for which the ring has no room stay in the kernel, so the window of the proxy
//! closes. Nothing is queued in between, nothing is copied twice.

use std::io::ErrorKind;

use smoltcp::socket::tcp::{RecvError, Socket};

use crate::upstream::{Moved, Upstream};

/// Most bytes moved in one turn of one flow, so that the others get theirs.
pub const TURN: usize = 1 << 20;

/// Why a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The side that gives has nothing more now.
    Empty,
    /// The side that takes has no more room now.
    Full,
    /// The turn is over; there may be more.
    Turn,
    /// The side that gives has said that no more will come.
    Eof,
    /// The connection to the proxy is broken.
    Broken,
}

/// Move what the program sent towards the proxy; give the number of bytes and why it ended.
pub fn upload(socket: &mut Socket<'_>, upstream: &mut Upstream) -> (usize, End) {
    let mut moved = 0;
    while moved < TURN {
        let result = socket.recv(|ring| match ring.len() {
            0 => (0, None),
            _ => match upstream.send(ring) {
                Ok(sent) => (sent.bytes, Some(Ok(sent))),
                Err(error) => (0, Some(Err(error.kind()))),
            },
        });
        match result {
            Ok(Some(Ok(sent))) => {
                moved += sent.bytes;
                if !sent.more {
                    return (moved, End::Full);
                }
            }
            Ok(Some(Err(ErrorKind::Interrupted))) => {}
            Ok(Some(Err(ErrorKind::WouldBlock))) => return (moved, End::Full),
            Ok(Some(Err(_))) => return (moved, End::Broken),
            Err(RecvError::Finished) => return (moved, End::Eof),
            // no bytes now; or a RST came, which shows in the socket's state
            Ok(None) | Err(RecvError::InvalidState) => return (moved, End::Empty),
        }
    }
    (moved, End::Turn)
}

/// Move what the proxy sent towards the program. `hangup`: the proxy has said that no more will come, so what is there
/// is to be read to its end.
pub fn download(socket: &mut Socket<'_>, upstream: &mut Upstream, hangup: bool) -> (usize, End) {
    let mut moved = 0;
    while moved < TURN {
        let result = socket.send(|ring| match ring.len() {
            0 => (0, None),
            _ => match upstream.receive(ring) {
                Ok(received) => (received.bytes, Some(Ok(received))),
                Err(error) => (0, Some(Err(error.kind()))),
            },
        });
        match result {
            Ok(Some(Ok(Moved { bytes: 0, more: false }))) => return (moved, End::Eof),
            Ok(Some(Ok(Moved { bytes: 0, more: true }))) => return (moved, End::Turn),
            Ok(Some(Ok(received))) => {
                moved += received.bytes;
                if !received.more && !hangup {
                    return (moved, End::Empty);
                }
            }
            Ok(Some(Err(ErrorKind::Interrupted))) => {}
            Ok(Some(Err(ErrorKind::WouldBlock))) => return (moved, End::Empty),
            Ok(Some(Err(_))) => return (moved, End::Broken),
            Ok(None) | Err(_) => return (moved, End::Full),
        }
    }
    (moved, End::Turn)
}
