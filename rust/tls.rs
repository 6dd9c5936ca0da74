//! TLS inside a connection to a proxy: rustls keeps the protocol, this file the bytes.
//!
//! Back-pressure holds here as it does without TLS. Of what the kernel has, no more is taken than the caller has room
//! for, or one record; what a record holds beyond that room waits here, and nothing is taken meanwhile. What was encrypted
//! and the kernel does not take waits here too, and nothing is encrypted meanwhile. An idle connection holds no buffer.
//!
//! Half-closes: close_notify goes before our FIN, and is the end of what the proxy sends. Many proxies leave it out: a FIN
//! between two records is taken for the end as well, and noted (`is_cut`), since somebody on the way could have forged
//! it; one within a record breaks the connection. RFC 8446 §6.1, RFC 5246 §7.2.1.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::os::fd::RawFd;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{ClientConfig, HandshakeKind};

use crate::tls_error::TlsError;
use crate::upstream::Ready;

/// The longest record (RFC 5246 §6.2.3; RFC 8446 has shorter ones).
const RECORD: usize = 5 + (1 << 14) + 2048;
/// Most bytes that one system call receives, or that are encrypted for one.
const CHUNK: usize = 128 << 10;
/// Most bytes that may wait for the rest of a handshake message, which may be split over records.
const MOST_HELD: usize = 96 << 10;

thread_local! {
    /// Where records are decrypted and encrypted: one for all connections of a thread.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; MOST_HELD + CHUNK]);
}

/// What a connection to one proxy needs: what is trusted, and the name that the proxy's certificate must hold.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Give what is needed for the proxy that is called `host`, a name or an address; None when it is neither.
    pub fn new(config: Arc<ClientConfig>, host: &str) -> Option<Tls> {
        let name = ServerName::try_from(host.trim_end_matches('.').to_owned()).ok()?;
        Some(Tls { config, name })
    }
}

/// What may still come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Handshake,
    Open,
    /// The proxy has sent its last byte.
    Ended,
    Broken(ErrorKind),
}

/// What may still go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Open,
    /// close_notify was the last thing.
    Finished,
}

/// See the head of this file.
pub struct Session {
    connection: UnbufferedClientConnection,
    input: Input,
    output: Output,
    /// Received: the beginning of a record, or of a handshake message.
    held: Vec<u8>,
    /// Decrypted, and not yet taken by the caller.
    plain: Waiting,
    /// Encrypted, and not yet taken by the kernel.
    sealed: Waiting,
    /// The proxy's FIN came without close_notify.
    cut: bool,
}

impl Session {
    /// Begin a handshake: its first message waits to be sent.
    pub fn begin(tls: &Tls) -> io::Result<Session> {
        let connection = UnbufferedClientConnection::new(Arc::clone(&tls.config), tls.name.clone())
            .map_err(|error| TlsError::of(&error))?;
        let mut session = Session {
            connection,
            input: Input::Handshake,
            output: Output::Open,
            held: Vec::new(),
            plain: Waiting::default(),
            sealed: Waiting::default(),
            cut: false,
        };
        session.process(&mut [], &mut [])?;
        Ok(session)
    }

    /// Do of the handshake what can be done now; says whether it is complete, our last message of it sent.
    pub fn establish(&mut self, socket: RawFd, ready: &mut Ready) -> io::Result<bool> {
        loop {
            match self.flush(socket) {
                Ok(true) => {}
                Ok(false) => {
                    ready.writable = false;
                    return Ok(false);
                }
                Err(error) => return Err(self.explain(socket, error)),
            }
            if self.input != Input::Handshake {
                return Ok(true);
            }
            if !ready.readable {
                return Ok(false);
            }
            match SCRATCH.with_borrow_mut(|scratch| self.fetch(socket, scratch, &mut [])) {
                Ok(_) => {}
                Err(error) if is_later(&error) => ready.readable = false,
                Err(error) => return Err(error),
            }
        }
    }

    /// Say whether the handshake is under way.
    pub fn is_handshaking(&self) -> bool {
        self.input == Input::Handshake
    }

    /// Say whether the kernel has taken all that was to be sent.
    pub fn has_sent_all(&self) -> bool {
        self.sealed.is_empty()
    }

    /// Say whether this connection goes on with an earlier session; None before that is known.
    pub fn was_resumed(&self) -> Option<bool> {
        self.connection.handshake_kind().map(|kind| kind == HandshakeKind::Resumed)
    }

    /// Receive what is there now, as Upstream::receive does.
    pub fn receive(&mut self, socket: RawFd, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = self.plain.take(into);
        while filled < into.len() {
            match self.input {
                Input::Ended => return Ok(filled),
                Input::Broken(_) if filled > 0 => return Ok(filled),
                Input::Broken(kind) => return Err(kind.into()),
                Input::Handshake => return Err(ErrorKind::WouldBlock.into()),
                Input::Open => {}
            }
            match SCRATCH.with_borrow_mut(|scratch| self.fetch(socket, scratch, &mut into[filled..])) {
                Ok((moved, short)) => {
                    filled += moved;
                    if short && filled > 0 {
                        return Ok(filled);
                    }
                }
                Err(_) if filled > 0 => return Ok(filled), // one that is not for later will be told then
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Say whether `receive` has something to say that no event of the socket will tell of.
    pub fn has_more(&self) -> bool {
        !self.plain.is_empty() || matches!(self.input, Input::Ended | Input::Broken(_))
    }

    /// Say whether the proxy ended without close_notify; once.
    pub fn take_cut(&mut self) -> bool {
        std::mem::take(&mut self.cut)
    }

    /// Encrypt and send what the kernel takes, as Upstream::send does; one chunk more is kept.
    pub fn send(&mut self, socket: RawFd, bytes: &[u8]) -> io::Result<usize> {
        if self.input == Input::Handshake || !self.flush(socket).map_err(|error| self.explain(socket, error))? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut taken = 0;
        for chunk in bytes.chunks(CHUNK / 2) {
            SCRATCH
                .with_borrow_mut(|scratch| {
                    let length = self.encrypt(chunk, scratch)?;
                    let sent = or_later(send(socket, &scratch[..length]))?.unwrap_or(0);
                    self.sealed.put(&scratch[sent..length]);
                    Ok(())
                })
                .map_err(|error: io::Error| self.explain(socket, error))?;
            taken += chunk.len();
            if !self.sealed.is_empty() {
                break;
            }
        }
        Ok(taken)
    }

    /// Send what waits to be sent; says whether nothing is left of it.
    pub fn flush(&mut self, socket: RawFd) -> io::Result<bool> {
        while !self.sealed.is_empty() {
            match or_later(send(socket, self.sealed.rest()))? {
                Some(sent) => self.sealed.skip(sent),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Say goodbye; says whether it was sent.
    pub fn finish(&mut self, socket: RawFd) -> io::Result<bool> {
        if self.output == Output::Open {
            self.output = Output::Finished;
            let mut goodbye = [0; 256];
            if let UnbufferedStatus { state: Ok(ConnectionState::WriteTraffic(mut traffic)), .. } =
                self.connection.process_tls_records(&mut self.held)
            {
                let length = traffic.queue_close_notify(&mut goodbye).map_err(io::Error::other)?;
                self.sealed.put(&goodbye[..length]);
            }
        }
        self.flush(socket)
    }

    /// Give the reason that the proxy told before it hung up, in the place of an error of sending.
    fn explain(&mut self, socket: RawFd, error: io::Error) -> io::Error {
        match SCRATCH.with_borrow_mut(|scratch| self.fetch(socket, scratch, &mut [])) {
            Err(told) if told.get_ref().is_some_and(|told| told.is::<TlsError>()) => told,
            _ => error,
        }
    }

    /// Receive once and decrypt all of it, into `into` first. Gives the bytes put there, and whether the kernel had no more.
    fn fetch(&mut self, socket: RawFd, scratch: &mut [u8], into: &mut [u8]) -> io::Result<(usize, bool)> {
        let held = self.held.len();
        if held > MOST_HELD - RECORD {
            return Err(self.breaks(TlsError::other("a handshake message of the proxy is too long")));
        }
        let room = into.len().clamp(RECORD, CHUNK).saturating_sub(held).max(RECORD);
        let received = match receive(socket, &mut scratch[held..held + room]) {
            Ok(0) => return self.end().map(|()| (0, false)),
            Ok(received) => received,
            Err(error) if is_later(&error) => return Err(error),
            Err(error) if self.input == Input::Open => {
                self.input = Input::Broken(error.kind());
                return Err(error);
            }
            Err(_) => return self.end().map(|()| (0, false)),
        };
        scratch[..held].copy_from_slice(&self.held);
        let bytes = &mut scratch[..held + received];
        let (done, moved) = self.process(bytes, into)?;
        match self.input {
            Input::Handshake | Input::Open => keep(&mut self.held, &bytes[done..]),
            Input::Ended | Input::Broken(_) => self.held = Vec::new(),
        }
        Ok((moved, received < room))
    }

    /// The proxy's FIN came.
    fn end(&mut self) -> io::Result<()> {
        match self.input {
            Input::Handshake => Err(self.breaks(TlsError::hung_up())),
            Input::Open if self.held.is_empty() => {
                (self.input, self.cut) = (Input::Ended, true);
                Ok(())
            }
            Input::Open => Err(self.breaks(TlsError::other("the proxy hung up within a record"))),
            Input::Ended | Input::Broken(_) => Ok(()),
        }
    }

    /// Let rustls do all that it can with `bytes`; gives how many of them it is done with, and how many it put into
    /// `into`. The rest of the plain text waits.
    fn process(&mut self, bytes: &mut [u8], into: &mut [u8]) -> io::Result<(usize, usize)> {
        let (mut done, mut moved) = (0, 0);
        loop {
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(&mut bytes[done..]);
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        let fitting = record.payload.len().min(into.len() - moved);
                        into[moved..moved + fitting].copy_from_slice(&record.payload[..fitting]);
                        self.plain.put(&record.payload[fitting..]);
                        moved += fitting;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.sealed),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.input = Input::Ended,
                Ok(ConnectionState::WriteTraffic(_)) => {
                    if self.input == Input::Handshake {
                        self.input = Input::Open;
                    }
                    return Ok((done + discard, moved));
                }
                Ok(_) => return Ok((done + discard, moved)),
                Err(error) => {
                    let error = match TlsError::of_first_bytes(bytes) {
                        Some(plain) if self.input == Input::Handshake => plain,
                        _ => TlsError::of(&error),
                    };
                    self.complain(&mut bytes[done + discard..]);
                    let broken = self.breaks(error);
                    // what came before is the program's
                    return if moved > 0 || !self.plain.is_empty() { Ok((bytes.len(), moved)) } else { Err(broken) };
                }
            }
            done += discard;
        }
    }

    fn breaks(&mut self, error: TlsError) -> io::Error {
        self.input = Input::Broken(ErrorKind::InvalidData);
        error.into()
    }

    /// Make ready the alert that tells the proxy what was wrong, if there is one.
    fn complain(&mut self, bytes: &mut [u8]) {
        if let Ok(ConnectionState::EncodeTlsData(alert)) = self.connection.process_tls_records(bytes).state {
            encode(alert, &mut self.sealed);
        }
    }

    fn encrypt(&mut self, bytes: &[u8], into: &mut [u8]) -> io::Result<usize> {
        match self.connection.process_tls_records(&mut self.held).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => traffic.encrypt(bytes, into).map_err(io::Error::other),
            _ => Err(ErrorKind::BrokenPipe.into()),
        }
    }
}

fn encode(mut data: EncodeTlsData<'_, ClientConnectionData>, into: &mut Waiting) {
    let mut message = vec![0; 4096];
    if let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut message).map(|length| message.truncate(length))
    {
        message.resize(needed.required_size, 0);
        let length = data.encode(&mut message).unwrap_or(0);
        message.truncate(length);
    }
    into.put(&message);
}

/// Bytes that somebody is to take, from the front.
#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    taken: usize,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    fn skip(&mut self, count: usize) {
        self.taken += count;
        if self.taken == self.bytes.len() {
            *self = Waiting::default();
        }
    }

    fn take(&mut self, into: &mut [u8]) -> usize {
        let count = self.rest().len().min(into.len());
        into[..count].copy_from_slice(&self.rest()[..count]);
        self.skip(count);
        count
    }
}

/// Keep `bytes` alone, and no memory for none.
fn keep(held: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.is_empty() {
        *held = Vec::new();
    } else {
        held.clear();
        held.extend_from_slice(bytes);
    }
}

/// Say whether an error means: not now.
pub fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn or_later<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_later(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn send(socket: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: `bytes` is readable for its length.
    let sent = unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

fn receive(socket: RawFd, bytes: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `bytes` is writable for its length.
    let received = unsafe { libc::recv(socket, bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}
