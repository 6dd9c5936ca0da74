//! Sockets towards the proxy: non-blocking, ready at once or later, never waited for.
//!
//! connect(2): EINPROGRESS means later; writable then, with the outcome in SO_ERROR. tcp(7), socket(7).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::tls::{Session, Tls};

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

/// A connection to the proxy.
pub struct Upstream {
    fd: OwnedFd,
    tls: Option<Box<Session>>,
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
        let upstream = Upstream { fd, tls: None };
        upstream.set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
        upstream.set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
        upstream.set(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEPALIVE_IDLE);
        upstream.set(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, KEEPALIVE_INTERVAL);
        // the last ACK of the handshake goes with the request, which follows at once
        upstream.acknowledge_at_once(false);
        upstream.connect(address)?;
        Ok(upstream)
    }

    /// Begin to connect to `address`, and to speak TLS there if `tls` says how.
    pub fn dial_by(address: SocketAddr, tls: Option<&Tls>) -> io::Result<Upstream> {
        let mut upstream = Upstream::dial(address)?;
        if let Some(tls) = tls {
            upstream.tls = Some(Box::new(Session::begin(tls)?));
        }
        Ok(upstream)
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

    /// Do what is to be done before bytes can be sent, as far as it can be done now; says whether all is. That there is a
    /// connection at all, `outcome` and `send` tell.
    pub fn establish(&mut self, ready: &mut Ready) -> io::Result<bool> {
        match &mut self.tls {
            None => Ok(true),
            Some(tls) => tls.establish(self.fd.as_raw_fd(), ready),
        }
    }

    /// Say whether TLS is spoken.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Say whether `establish` has sent something, and has yet to come to its end.
    pub fn has_said_hello(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking() && tls.has_sent_all())
    }

    /// Say whether a TLS session was resumed; None without TLS, and before it is known.
    pub fn was_resumed(&self) -> Option<bool> {
        self.tls.as_ref().and_then(|tls| tls.was_resumed())
    }

    /// Say whether the connect is over, without sending anything: nothing can be sent before that, not even no byte.
    pub fn is_connected(&self) -> io::Result<bool> {
        self.outcome()?;
        match self.send_bare(&[]) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Send what can be sent now of `bytes`; WouldBlock when that is nothing. Fewer than all: no more until the socket is
    /// reported writable.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.send_bare(bytes),
            Some(tls) => tls.send(self.fd.as_raw_fd(), bytes),
        }
    }

    fn send_bare(&self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: `bytes` is readable for its length.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Send what `send` took and the kernel did not; says whether nothing is left. To be called when the socket is
    /// reported writable, even where there is nothing new to send.
    pub fn flush(&mut self) -> io::Result<bool> {
        match &mut self.tls {
            None => Ok(true),
            Some(tls) => tls.flush(self.fd.as_raw_fd()),
        }
    }

    /// Receive what is there now; 0 at end of file, WouldBlock when there is nothing yet. Fewer than there is room for: no
    /// more until the socket is reported readable (epoll(7)), unless `has_more` says otherwise, or the far end has hung up.
    pub fn receive(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if let Some(tls) = &mut self.tls {
            return tls.receive(self.fd.as_raw_fd(), bytes);
        }
        // SAFETY: `bytes` is writable for its length.
        let received = unsafe { libc::recv(self.fd.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// Say whether `receive` has something to give that the socket will not be reported for.
    pub fn has_more(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_more())
    }

    /// Say, once, whether the far end came to its end in a way that somebody on the way could have forged.
    pub fn take_cut(&mut self) -> bool {
        self.tls.as_mut().is_some_and(|tls| tls.take_cut())
    }

    /// Say whether the far end has said nothing yet, not even goodbye. What TLS itself has to say does not count.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = 0u8;
        if let Some(tls) = self.tls.as_mut().filter(|tls| !tls.is_handshaking()) {
            let received = tls.receive(self.fd.as_raw_fd(), std::slice::from_mut(&mut byte));
            return received.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        }
        // SAFETY: one byte is writable.
        let received = unsafe { libc::recv(self.fd.as_raw_fd(), (&raw mut byte).cast(), 1, libc::MSG_PEEK) };
        received < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
    }

    /// Tell the proxy that no more bytes come (half-close); says whether it was told, else again when it is writable.
    pub fn finish(&mut self) -> io::Result<bool> {
        if let Some(tls) = &mut self.tls
            && !tls.finish(self.fd.as_raw_fd())?
        {
            return Ok(false);
        }
        // SAFETY: plain system call. A failure means that the connection is gone, which shows when it is read.
        unsafe { libc::shutdown(self.fd.as_raw_fd(), libc::SHUT_WR) };
        Ok(true)
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

/// Seconds without a byte before the kernel asks whether the proxy is still there, and between such questions.
const KEEPALIVE_IDLE: libc::c_int = 120;
const KEEPALIVE_INTERVAL: libc::c_int = 30;

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("fd", &self.fd).field("tls", &self.tls.is_some()).finish()
    }
}

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
