//! TLS on one connection to a proxy, pure: bytes that came in and bytes to be sent, no socket. rustls' unbuffered
//! connection: whoever calls owns the bytes, so that nothing is queued that was not asked for.
//!
//! What is kept between calls, and its limits: of what came, what is not a whole record, or was read while there was room
//! and then found none (`incoming`, `plain`: two reads at most); of what is to be sent, what the kernel did not take
//! (`outgoing`: PIECE and a few small records).
//!
//! Ends: close_notify is a FIN, and so is an end of file without one, which is common, between two records (RFC 8446,
//! section 6.1, wants more, but a proxy that is killed looks the same without TLS). Within a record it is a broken
//! connection.

use std::cell::RefCell;
use std::io;

use rustls::Error;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};

use crate::trust::Client;

/// Most bytes of the stream that become records at a time; four records.
pub const PIECE: usize = 64 << 10;
/// Most bytes taken from the kernel at a time.
pub const READ: usize = 128 << 10;
/// A record on the wire at its largest (RFC 8446, section 5.2; RFC 5246, section 6.2.3).
const RECORD: usize = (16 << 10) + 2048 + 5;
/// Where what came and has no end exceeds this, it is no sane handshake.
const INCOMING: usize = 96 << 10;
/// What nobody asked us to send: answers to the proxy's own wishes.
const UNASKED: usize = 256 << 10;
/// Records that hold close_notify or an alert are smaller.
const SMALL: usize = 512;

thread_local! {
    /// Where bytes are decrypted, and where they are encrypted.
    static COMING: RefCell<Vec<u8>> = RefCell::new(vec![0; INCOMING + READ]);
    static GOING: RefCell<Vec<u8>> = RefCell::new(vec![0; PIECE + 8 * SMALL]);
}

/// See the head of this file.
pub struct Session {
    connection: UnbufferedClientConnection,
    incoming: Vec<u8>,
    /// `incoming` may begin with a whole record.
    unopened: bool,
    /// Decrypted, from `given` on not given yet.
    plain: Vec<u8>,
    given: usize,
    /// To be sent, from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    is_open: bool,
    is_ended: bool,
    has_finished: bool,
    /// What broke the connection, maybe behind bytes that are still to be given. rustls is not to be asked again: it may know
    /// places in bytes that are no more, and would panic.
    error: Option<Error>,
}

/// What reading has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes of the stream; whether there may be more before the kernel is asked again.
    Bytes(usize, bool),
    /// No bytes without asking the kernel.
    Nothing,
    /// No more will come.
    End,
}

impl Session {
    /// Begin a handshake.
    pub fn new(client: &Client) -> Result<Session, Error> {
        Ok(Session {
            connection: client.connection()?,
            incoming: Vec::new(),
            unopened: true, // the first message is made of nothing
            plain: Vec::new(),
            given: 0,
            outgoing: Vec::new(),
            sent: 0,
            is_open: false,
            is_ended: false,
            has_finished: false,
            error: None,
        })
    }

    fn check(&self) -> io::Result<()> {
        self.error.clone().map_or(Ok(()), |error| Err(broken(error)))
    }

    /// Say whether the handshake is over.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Give what is to be sent; say what became of it by `was_sent`.
    pub fn to_send(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// So many bytes of `to_send` have gone.
    pub fn was_sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent >= self.outgoing.len() {
            (self.outgoing, self.sent) = (Vec::new(), 0);
        }
    }

    /// Nobody takes what is to be sent any more.
    pub fn drop_unsent(&mut self) {
        self.was_sent(self.outgoing.len());
    }

    /// Say whether an end of file now would be within a record, or a handshake.
    pub fn is_within_record(&self) -> bool {
        !self.is_ended && (!self.is_open || !self.incoming.is_empty())
    }

    /// Give `into` what has come already.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<Read> {
        let mut given = self.take_plain(into);
        if given == 0 && self.plain.is_empty() {
            self.check()?;
        }
        if given == 0 && self.unopened {
            let mut came = std::mem::take(&mut self.incoming);
            let (used, opened) = self.open(&mut came, into).map_err(broken)?;
            came.drain(..used);
            given = opened;
            if !came.is_empty() {
                self.incoming = came; // an idle connection holds no memory
            }
        }
        Ok(self.outcome(given))
    }

    /// Let `receive` put bytes of the connection behind those that are there; give `into` what they say.
    pub fn read_from(
        &mut self,
        into: &mut [u8],
        receive: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Read> {
        self.check()?;
        COMING.with_borrow_mut(|scratch| {
            let had = self.incoming.len();
            let end = had + into.len().clamp(RECORD, READ);
            scratch[..had].copy_from_slice(&self.incoming);
            let received = receive(&mut scratch[had..end])?;
            let came = &mut scratch[..had + received];
            let (used, given) = self.open(came, into).map_err(broken)?;
            self.keep(&came[used..], given)
        })
    }

    fn keep(&mut self, rest: &[u8], given: usize) -> io::Result<Read> {
        if rest.is_empty() {
            self.incoming = Vec::new(); // as above
        } else {
            self.incoming.clear();
            self.incoming.extend_from_slice(rest);
        }
        if self.incoming.len() > INCOMING || self.to_send().len() > UNASKED {
            return Err(broken(Error::General("it sends what has no end".to_owned())));
        }
        Ok(self.outcome(given))
    }

    fn outcome(&self, given: usize) -> Read {
        match given {
            0 if self.is_ended => Read::End,
            0 => Read::Nothing,
            _ => Read::Bytes(given, self.has_more()),
        }
    }

    fn has_more(&self) -> bool {
        self.given < self.plain.len() || self.unopened || self.is_ended || self.error.is_some()
    }

    fn take_plain(&mut self, into: &mut [u8]) -> usize {
        let rest = &self.plain[self.given..];
        let taken = rest.len().min(into.len());
        into[..taken].copy_from_slice(&rest[..taken]);
        self.given += taken;
        if self.given == self.plain.len() {
            (self.plain, self.given) = (Vec::new(), 0);
        }
        taken
    }

    /// Decrypt `came` in place, as long as `into` has room; give how much of the one was used and of the other filled.
    fn open(&mut self, came: &mut [u8], into: &mut [u8]) -> Result<(usize, usize), Error> {
        let (mut used, mut given) = (0, 0);
        loop {
            let UnbufferedStatus { discard, state, .. } = self.connection.process_tls_records(&mut came[used..]);
            used += discard;
            let more = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        used += record.discard;
                        let taken = record.payload.len().min(into.len() - given);
                        into[given..given + taken].copy_from_slice(&record.payload[..taken]);
                        given += taken;
                        self.plain.extend_from_slice(&record.payload[taken..]);
                    }
                    given < into.len()
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.outgoing);
                    true
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    true
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.is_ended = true;
                    true
                }
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.is_open = true;
                    false
                }
                Ok(_) => false,
                Err(error) => {
                    self.say_goodbye(&mut came[used..]);
                    self.error = Some(error.clone());
                    if given == 0 && self.plain.is_empty() {
                        return Err(error);
                    }
                    used = came.len(); // what came before is for the stream
                    false
                }
            };
            if !more {
                break;
            }
        }
        if self.is_ended {
            used = came.len(); // what comes behind a close_notify is for nobody
        }
        self.unopened = given == into.len() && used < came.len();
        Ok((used, given))
    }

    /// Have the alert sent that says why.
    fn say_goodbye(&mut self, came: &mut [u8]) {
        let status = self.connection.process_tls_records(came);
        if let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state {
            encode(&mut data, &mut self.outgoing);
        }
    }

    /// Encrypt the first PIECE of `bytes`, and let `send` have the records; what it does not take is to be sent. Gives how
    /// many of `bytes` are on their way; none as long as something is to be sent.
    pub fn write(&mut self, bytes: &[u8], send: impl FnOnce(&[u8]) -> io::Result<usize>) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(PIECE)];
        if bytes.is_empty() || !self.to_send().is_empty() || !self.is_open || self.has_finished {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.check()?;
        GOING.with_borrow_mut(|scratch| {
            let sealed = self.seal(bytes, scratch).map_err(broken)?;
            let records = &scratch[..sealed];
            // something of our own comes first
            let sent = if self.to_send().is_empty() { none_is_later(send(records))? } else { 0 };
            self.outgoing.extend_from_slice(&records[sent..]);
            Ok(bytes.len())
        })
    }

    fn seal(&mut self, bytes: &[u8], into: &mut Vec<u8>) -> Result<usize, Error> {
        let mut sealed = Ok(0);
        self.when_writable(|traffic, _| {
            sealed = loop {
                match traffic.encrypt(bytes, into) {
                    Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
                        into.resize(required_size, 0);
                    }
                    Err(EncryptError::EncryptExhausted) => break Err(Error::EncryptError),
                    Ok(length) => break Ok(length),
                }
            };
        })?;
        sealed
    }

    /// Have the proxy told that no more bytes come.
    pub fn finish(&mut self) {
        if self.has_finished || !self.is_open {
            return;
        }
        self.has_finished = true;
        if self.error.is_some() {
            return;
        }
        // an error shows when it is read
        let _ = self.when_writable(|traffic, outgoing| {
            let at = outgoing.len();
            outgoing.resize(at + SMALL, 0);
            let length = traffic.queue_close_notify(&mut outgoing[at..]).unwrap_or(0);
            outgoing.truncate(at + length);
        });
    }

    /// Say whether `finish` was called.
    pub fn has_finished(&self) -> bool {
        self.has_finished
    }

    /// Go on to where bytes can be encrypted. What has come must be shown to rustls, as it knows places in it, and may
    /// be opened by that.
    fn when_writable(&mut self, mut act: impl FnMut(&mut Traffic<'_>, &mut Vec<u8>)) -> Result<(), Error> {
        loop {
            let UnbufferedStatus { discard, state, .. } = self.connection.process_tls_records(&mut self.incoming);
            let more = match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        self.plain.extend_from_slice(record?.payload);
                    }
                    true
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    encode(&mut data, &mut self.outgoing);
                    true
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    true
                }
                ConnectionState::PeerClosed => {
                    self.is_ended = true;
                    true
                }
                ConnectionState::WriteTraffic(mut traffic) => {
                    act(&mut traffic, &mut self.outgoing);
                    false
                }
                _ => return Err(Error::HandshakeNotComplete),
            };
            self.incoming.drain(..discard);
            if !more {
                return Ok(());
            }
        }
    }
}

type Traffic<'a> = WriteTraffic<'a, ClientConnectionData>;

/// Put a record of the handshake, which may be a chain of certificates, behind `outgoing`.
fn encode(data: &mut EncodeTlsData<'_, ClientConnectionData>, outgoing: &mut Vec<u8>) {
    let at = outgoing.len();
    outgoing.resize(at + RECORD, 0);
    let length = data.encode(&mut outgoing[at..]).unwrap_or(0);
    outgoing.truncate(at + length);
}

fn none_is_later(sent: io::Result<usize>) -> io::Result<usize> {
    match sent {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
        other => other,
    }
}

fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests;
