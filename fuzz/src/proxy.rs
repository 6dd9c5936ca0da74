//! The proxies: listeners on loopback that live as long as the process, and the ends of the connections made to them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::LazyLock;

static LISTENERS: LazyLock<[TcpListener; 2]> = LazyLock::new(|| [listener(), listener()]);

/// What a proxy may say to a CONNECT.
pub const REPLIES: [&[u8]; 12] = [
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0-banner\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
    b"HTTP/1.0 204 No Content\n\n",
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
    b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
    b"HTTP/1.1 2",
    b"00 OK\r\n",
    b"\r\n",
    b"SSH-2.0-garbage\r\n",
    b"",
];

/// The proxy's ends of all connections, in the order in which they came.
#[derive(Default)]
pub struct Proxies {
    pub streams: Vec<Option<TcpStream>>,
}

impl Proxies {
    /// Give the addresses of `count` proxies, the first of which refuses connections where `dead`.
    pub fn addresses(count: usize, dead: bool) -> Vec<SocketAddr> {
        let alive = LISTENERS.iter().take(count).map(|listener| listener.local_addr().expect("a bound socket"));
        dead.then_some(SocketAddr::from(([127, 0, 0, 1], 1))).into_iter().chain(alive).collect()
    }

    /// Take the connections that have come.
    pub fn accept(&mut self) {
        for listener in &*LISTENERS {
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true).expect("a socket");
                stream.set_nodelay(true).expect("a socket"); // real time does not pass in a world
                self.streams.push(Some(stream));
            }
        }
    }

    /// Give one of the connections, if there is any.
    pub fn stream(&mut self, number: u8) -> Option<&mut Option<TcpStream>> {
        let count = self.streams.len();
        self.streams.get_mut(usize::from(number) % count.max(1))
    }

    /// End all connections, with FIN or with RST.
    pub fn end_all(&mut self, hard: bool) {
        for stream in self.streams.iter_mut().filter_map(Option::take) {
            if hard { reset(stream) } else { drop(stream) }
        }
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        self.accept();
        self.end_all(true); // leaves no port in TIME-WAIT
    }
}

/// Send what is taken of `bytes`; gives how many that were.
pub fn write(mut stream: &TcpStream, bytes: &[u8]) -> usize {
    stream.write(bytes).unwrap_or(0)
}

/// Read what is there, at most `most` bytes, to the end of `into`; says whether the far end has closed or reset.
pub fn read(mut stream: &TcpStream, into: &mut Vec<u8>, most: usize) -> bool {
    let before = into.len();
    let mut buffer = [0; 16384];
    while into.len() - before < most {
        let room = buffer.len().min(most - (into.len() - before));
        match stream.read(&mut buffer[..room]) {
            Ok(0) => return true,
            Ok(count) => into.extend_from_slice(&buffer[..count]),
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
    false
}

/// Send a FIN and read on.
pub fn finish(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Write); // fails where the far end has reset: nothing to finish then
}

/// Close with a RST.
pub fn reset(stream: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: `linger` is valid for the call.
    unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), length);
    }
}

fn listener() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    listener.set_nonblocking(true).expect("a socket");
    listener
}
