//! Sockets towards the proxy: non-blocking, ready at once or later, never waited for. With TLS between the socket and the
//! stream where the proxy wants it, which changes what `send` and `receive` do, not what they mean.
//!
//! connect(2): EINPROGRESS means later; writable then, with the outcome in SO_ERROR. tcp(7), socket(7).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::tls::{Read, Session};
use crate::trust::Client;

/// Most reads for one `receive`: a proxy that sends records without content must not keep the thread.
const READS: usize = 32;

/// What a connection to the proxy is ready for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ready {
    pub readable: bool,
    pub writable: bool,
    /// The far end has sent its last byte, or the connection is broken.
    pub hangup: bool,
    pub broken: bool,
}

impl Ready {
    /// Take note of news. After a hang-up both ways are tried to their end.
    pub fn add(&mut self, news: Ready) {
        self.readable |= news.readable | news.hangup;
        self.writable |= news.writable | news.hangup;
        self.hangup |= news.hangup;
        self.broken |= news.broken;
    }
}

/// What was sent, or received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    pub bytes: usize,
    /// Whether more may be moved now; without bytes, `false` is the end of file.
    pub more: bool,
}

/// A connection to the proxy.
pub struct Upstream {
    fd: OwnedFd,
    tls: Option<Box<Tls>>,
}

struct Tls {
    session: Session,
    /// What ended the connection while there was something left to read.
    failure: Option<io::Error>,
}

impl Upstream {
    /// Begin to connect to `address`. Errors are those that connect(2) has at once.
    pub fn dial(address: SocketAddr) -> io::Result<Upstream> {
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        // SAFETY: plain system call; the descriptor is new and ours.
        let fd = unsafe {
            let fd = libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let upstream = Upstream::of(fd);
        // the last ACK of the handshake goes with the request, which follows at once
        upstream.acknowledge_at_once(false);
        upstream.connect(address)?;
        Ok(upstream)
    }

    /// Take over a socket that somebody else has begun to connect.
    pub fn of(fd: OwnedFd) -> Upstream {
        let upstream = Upstream { fd, tls: None };
        upstream.set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
        upstream.set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
        upstream.set(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEPALIVE_IDLE);
        upstream.set(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, KEEPALIVE_INTERVAL);
        upstream
    }

    /// Speak TLS: nothing else may have been said by it.
    pub fn with_tls(mut self, client: &Client) -> io::Result<Upstream> {
        let session = Session::new(client).map_err(io::Error::other)?;
        self.tls = Some(Box::new(Tls { session, failure: None }));
        Ok(self)
    }

    fn connect(&self, address: SocketAddr) -> io::Result<()> {
        let (storage, length) = sockaddr(address);
        // SAFETY: `storage` holds a socket address of `length` bytes.
        let result = unsafe { libc::connect(self.fd.as_raw_fd(), (&raw const storage).cast(), length) };
        match result {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Acknowledge what comes at once, or in up to 40 ms (tcp(7), TCP_QUICKACK): a proxy that writes its reply in two pieces
    /// may wait with the second until the first is acknowledged.
    pub fn acknowledge_at_once(&self, at_once: bool) {
        self.set(libc::IPPROTO_TCP, libc::TCP_QUICKACK, libc::c_int::from(at_once));
    }

    /// Give the outcome of a connect that is over, or the error that ended the connection.
    pub fn outcome(&self) -> io::Result<()> {
        let mut error: libc::c_int = 0;
        let mut length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: `error` and `length` are valid for the call.
        let result = unsafe {
            let into = (&raw mut error).cast();
            libc::getsockopt(self.fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR, into, &raw mut length)
        };
        match (result, error) {
            (0, 0) => Ok(()),
            (0, error) => Err(io::Error::from_raw_os_error(error)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Say whether the connect is over, without sending anything: nothing can be sent before that, not even no byte.
    pub fn is_connected(&self) -> io::Result<bool> {
        self.outcome()?;
        match send(&self.fd, &[]) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Go on with the handshake of TLS, on a socket that is connected; says whether it is over. `ready` is what is left.
    pub fn shake_hands(&mut self, ready: &mut Ready) -> io::Result<bool> {
        let Upstream { fd, tls: Some(tls) } = self else { return Ok(true) };
        tls.shake_hands(fd, ready)
    }

    /// Say whether bytes can be sent, as far as TLS has to do with it.
    pub fn is_open(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.session.is_open())
    }

    /// Send what can be sent now of `bytes`; WouldBlock when that is nothing.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<Moved> {
        match &mut self.tls {
            None => send(&self.fd, bytes).map(|sent| Moved { bytes: sent, more: sent == bytes.len() }),
            Some(tls) => tls.send(&self.fd, bytes),
        }
    }

    /// Receive what is there now; WouldBlock when there is nothing yet.
    pub fn receive(&mut self, bytes: &mut [u8]) -> io::Result<Moved> {
        match &mut self.tls {
            None => receive(&self.fd, bytes).map(|got| Moved { bytes: got, more: got > 0 && got == bytes.len() }),
            Some(tls) => tls.receive(&self.fd, bytes),
        }
    }

    /// Say whether something was taken that is not sent yet: then `flush` is to be called when the socket is writable.
    pub fn is_pending(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.session.to_send().is_empty())
    }

    /// Send what was taken; says whether all of it has gone.
    pub fn flush(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        tls.flush(&self.fd)
    }

    /// Say whether the far end has said nothing yet that is for us, not even goodbye.
    pub fn is_quiet(&mut self) -> bool {
        if self.tls.is_some() {
            return self.is_quiet_inside();
        }
        let mut byte = 0u8;
        // SAFETY: one byte is writable.
        let received = unsafe { libc::recv(self.fd.as_raw_fd(), (&raw mut byte).cast(), 1, libc::MSG_PEEK) };
        received < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
    }

    /// Have TLS take what is for it: the handshake, and tickets, which are not for us; one byte would be.
    fn is_quiet_inside(&mut self) -> bool {
        match self.shake_hands(&mut Ready { readable: true, writable: true, ..Ready::default() }) {
            Ok(true) => self.receive(&mut [0]).is_err_and(|error| is_later(&error)),
            Ok(false) => true,
            Err(_) => false,
        }
    }

    /// Tell the proxy that no more bytes come (half-close), when those that were taken have gone.
    pub fn finish(&mut self) {
        match &mut self.tls {
            None => shut_down(&self.fd),
            Some(tls) => tls.finish(&self.fd),
        }
    }

    /// Close with a RST instead of a FIN.
    pub fn reset(self) {
        self.close_resets(true);
    }

    /// Say whether closing sends a RST instead of a FIN (socket(7), SO_LINGER with a time of zero), also where it is the
    /// kernel that closes, because this process has died.
    pub fn close_resets(&self, resets: bool) {
        let linger = libc::linger { l_onoff: libc::c_int::from(resets), l_linger: 0 };
        self.set(libc::SOL_SOCKET, libc::SO_LINGER, linger);
    }

    /// Set an option; one that this kernel does not have changes speed, not meaning.
    fn set<T>(&self, level: libc::c_int, name: libc::c_int, value: T) {
        // SAFETY: `value` is valid for the call and of the size given.
        unsafe {
            let length = size_of::<T>() as libc::socklen_t;
            libc::setsockopt(self.fd.as_raw_fd(), level, name, (&raw const value).cast(), length);
        }
    }
}

impl Tls {
    fn shake_hands(&mut self, fd: &OwnedFd, ready: &mut Ready) -> io::Result<bool> {
        loop {
            let read = self.session.read(&mut [])?; // the first message is made without any
            if ready.writable && !self.flush_as_is(fd)? {
                ready.writable = false;
            }
            if self.session.is_open() {
                return Ok(true);
            }
            if read == Read::End {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if !ready.readable {
                return Ok(false);
            }
            let mut end = false;
            let result = self.session.read_from(&mut [], |into| {
                let received = receive(fd, into)?;
                end = received == 0;
                Ok(received)
            });
            match result {
                Ok(_) if end => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if is_later(&error) => ready.readable = false,
                Err(error) => {
                    let _ = self.flush_as_is(fd); // the alert that says why
                    return Err(error);
                }
            }
        }
    }

    fn send(&mut self, fd: &OwnedFd, bytes: &[u8]) -> io::Result<Moved> {
        if !self.flush(fd)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = self.session.write(bytes, |records| send(fd, records))?;
        Ok(Moved { bytes: taken, more: self.session.to_send().is_empty() })
    }

    fn receive(&mut self, fd: &OwnedFd, bytes: &mut [u8]) -> io::Result<Moved> {
        for _ in 0..READS {
            match self.session.read(bytes)? {
                // the kernel was not asked
                Read::Bytes(bytes, _) => return Ok(Moved { bytes, more: true }),
                Read::End => return Ok(Moved { bytes: 0, more: false }),
                Read::Nothing => {}
            }
            let (mut full, mut end) = (false, false);
            let result = self.session.read_from(bytes, |into| {
                let received = receive(fd, into)?;
                (full, end) = (received == into.len(), received == 0);
                Ok(received)
            });
            match result? {
                Read::Bytes(bytes, more) => return Ok(Moved { bytes, more: more || full }),
                _ if end => return self.end_of_file(),
                Read::End => return Ok(Moved { bytes: 0, more: false }),
                Read::Nothing => {}
            }
        }
        Ok(Moved { bytes: 0, more: true })
    }

    fn end_of_file(&mut self) -> io::Result<Moved> {
        match self.failure.take() {
            Some(error) => Err(error),
            None if self.session.is_within_record() => Err(io::ErrorKind::ConnectionReset.into()),
            None => Ok(Moved { bytes: 0, more: false }),
        }
    }

    /// Send what was taken. Where that fails, reading ends with the reason, since the kernel tells it only once.
    fn flush(&mut self, fd: &OwnedFd) -> io::Result<bool> {
        let result = self.flush_as_is(fd);
        if let Err(error) = &result {
            self.session.drop_unsent();
            self.failure = Some(error.kind().into());
        }
        result
    }

    fn flush_as_is(&mut self, fd: &OwnedFd) -> io::Result<bool> {
        while !self.session.to_send().is_empty() {
            match send(fd, self.session.to_send()) {
                Ok(sent) => self.session.was_sent(sent),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        if self.session.has_finished() {
            shut_down(fd);
        }
        Ok(true)
    }

    fn finish(&mut self, fd: &OwnedFd) {
        self.session.finish();
        let _ = self.flush(fd); // a failure shows when it is read
    }
}

fn send(fd: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: `bytes` is readable for its length.
    let sent = unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

fn receive(fd: &OwnedFd, bytes: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `bytes` is writable for its length.
    let received = unsafe { libc::recv(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

fn shut_down(fd: &OwnedFd) {
    // SAFETY: plain system call. A failure means that the connection is gone, which shows when it is read.
    unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) };
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Seconds without a byte before the kernel asks whether the proxy is still there, and between such questions.
const KEEPALIVE_IDLE: libc::c_int = 120;
const KEEPALIVE_INTERVAL: libc::c_int = 30;

impl AsRawFd for Upstream {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

fn sockaddr(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all zeroes is a valid sockaddr_storage, and it is large and aligned enough for both families.
    unsafe {
        let mut storage: libc::sockaddr_storage = std::mem::zeroed();
        let length = match address {
            SocketAddr::V4(address) => {
                let into = (&raw mut storage).cast::<libc::sockaddr_in>();
                (*into).sin_family = libc::AF_INET as libc::sa_family_t;
                (*into).sin_port = address.port().to_be();
                (*into).sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(address) => {
                let into = (&raw mut storage).cast::<libc::sockaddr_in6>();
                (*into).sin6_family = libc::AF_INET6 as libc::sa_family_t;
                (*into).sin6_port = address.port().to_be();
                (*into).sin6_addr.s6_addr = address.ip().octets();
                (*into).sin6_scope_id = address.scope_id();
                size_of::<libc::sockaddr_in6>()
            }
        };
        (storage, length as libc::socklen_t)
    }
}
