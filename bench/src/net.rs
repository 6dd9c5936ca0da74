//! Sockets and epoll, as thin as can be: non-blocking, edge-triggered, cubic.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

/// Give the result of a system call, or its error.
pub fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn socket(address: SocketAddr) -> io::Result<RawFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let fd = check(unsafe { libc::socket(family, kind, 0) } as isize)? as RawFd;
    set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    let cubic = b"cubic";
    unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, cubic.as_ptr().cast(), 5) };
    Ok(fd)
}

/// Set an integer socket option.
pub fn set(fd: RawFd, level: i32, name: i32, value: i32) {
    unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), 4) };
}

/// Listen at `address`, together with other processes that do.
pub fn listen(address: SocketAddr) -> io::Result<RawFd> {
    let fd = socket(address)?;
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1);
    let (storage, length) = sockaddr(address);
    check(unsafe { libc::bind(fd, (&raw const storage).cast(), length) } as isize)?;
    check(unsafe { libc::listen(fd, 4096) } as isize)?;
    Ok(fd)
}

/// Begin to connect to `address`.
pub fn connect(address: SocketAddr) -> io::Result<RawFd> {
    let fd = socket(address)?;
    let (storage, length) = sockaddr(address);
    let result = check(unsafe { libc::connect(fd, (&raw const storage).cast(), length) } as isize);
    match result {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
            close(fd);
            Err(error)
        }
        _ => Ok(fd),
    }
}

/// Take a connection; None when there is none now.
pub fn accept(listener: RawFd) -> Option<RawFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let fd = unsafe { libc::accept4(listener, std::ptr::null_mut(), std::ptr::null_mut(), flags) };
    (fd >= 0).then(|| {
        set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
        fd
    })
}

/// Give the pending error of a socket.
pub fn error_of(fd: RawFd) -> i32 {
    let (mut error, mut length) = (0, 4);
    unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut error).cast(), &raw mut length) };
    error
}

pub fn close(fd: RawFd) {
    unsafe { libc::close(fd) };
}

/// Receive what is there.
pub fn receive(fd: RawFd, bytes: &mut [u8]) -> io::Result<usize> {
    check(unsafe { libc::recv(fd, bytes.as_mut_ptr().cast(), bytes.len(), 0) })
}

/// Read what is there and throw it away. It is copied, as in any program that reads: uncopied (MSG_TRUNC), bytes would
/// cross a chain of splicing programs and never be touched, which flatters splicing beyond what anyone sees.
pub fn discard(fd: RawFd, scratch: &mut [u8]) -> io::Result<usize> {
    receive(fd, scratch)
}

/// Send what is taken.
pub fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    check(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) })
}

/// Say whether an operation has to wait.
pub fn later<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

pub fn sockaddr(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    unsafe {
        let mut storage: libc::sockaddr_storage = std::mem::zeroed();
        let length = match address {
            SocketAddr::V4(address) => {
                let into = (&raw mut storage).cast::<libc::sockaddr_in>();
                (*into).sin_family = libc::AF_INET as u16;
                (*into).sin_port = address.port().to_be();
                (*into).sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(address) => {
                let into = (&raw mut storage).cast::<libc::sockaddr_in6>();
                (*into).sin6_family = libc::AF_INET6 as u16;
                (*into).sin6_port = address.port().to_be();
                (*into).sin6_addr.s6_addr = address.ip().octets();
                size_of::<libc::sockaddr_in6>()
            }
        };
        (storage, length as libc::socklen_t)
    }
}

/// An epoll instance.
pub struct Poll(RawFd, Vec<libc::epoll_event>);

impl Poll {
    pub fn new() -> io::Result<Poll> {
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) } as isize)? as RawFd;
        Ok(Poll(fd, vec![libc::epoll_event { events: 0, u64: 0 }; 512]))
    }

    /// Watch `fd` for everything, edge-triggered.
    pub fn watch(&self, fd: RawFd, token: u64) {
        let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        self.add(fd, token, interest);
    }

    /// Watch `fd` for `interest`.
    pub fn add(&self, fd: RawFd, token: u64, interest: i32) {
        let mut event = libc::epoll_event { events: interest as u32, u64: token };
        unsafe { libc::epoll_ctl(self.0, libc::EPOLL_CTL_ADD, fd, &raw mut event) };
    }

    /// Wait; give tokens.
    pub fn wait(&mut self, milliseconds: i32) -> Vec<u64> {
        let count = unsafe { libc::epoll_wait(self.0, self.1.as_mut_ptr(), self.1.len() as i32, milliseconds) };
        self.1[..count.max(0) as usize].iter().map(|event| event.u64).collect()
    }
}
