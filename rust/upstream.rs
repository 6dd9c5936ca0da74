//! Sockets towards the proxy: non-blocking, ready at once or later, never waited for.
//!
//! connect(2): EINPROGRESS means later; writable then, with the outcome in SO_ERROR. tcp(7), socket(7).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

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
#[derive(Debug)]
pub struct Upstream {
    fd: OwnedFd,
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
        let upstream = Upstream { fd };
        upstream.set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
        upstream.set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
        upstream.set(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEPALIVE_IDLE);
        upstream.set(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, KEEPALIVE_INTERVAL);
        // the last ACK of the handshake goes with the request, which follows at once
        upstream.acknowledge_at_once(false);
        upstream.connect(address)?;
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

    /// Take a connection that somebody else has begun, and that is non-blocking.
    pub fn given(fd: OwnedFd) -> Upstream {
        Upstream { fd }
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
        match self.send(&[]) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Send what the kernel takes now of `bytes`; WouldBlock when that is nothing.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: `bytes` is readable for its length.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Receive what is there now; 0 at end of file, WouldBlock when there is nothing yet.
    pub fn receive(&self, bytes: &mut [u8]) -> io::Result<usize> {
        // SAFETY: `bytes` is writable for its length.
        let received = unsafe { libc::recv(self.fd.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// Say whether the far end has said nothing yet, not even goodbye.
    pub fn is_quiet(&self) -> bool {
        let mut byte = 0u8;
        // SAFETY: one byte is writable.
        let received = unsafe { libc::recv(self.fd.as_raw_fd(), (&raw mut byte).cast(), 1, libc::MSG_PEEK) };
        received < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
    }

    /// Tell the proxy that no more bytes come (half-close).
    pub fn finish(&self) {
        // SAFETY: plain system call. A failure means that the connection is gone, which shows when it is read.
        unsafe { libc::shutdown(self.fd.as_raw_fd(), libc::SHUT_WR) };
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
