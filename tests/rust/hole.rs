//! A proxy that never answers a SYN.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use crate::world::listener;

/// The connections that wait to be accepted are as many as it allows.
pub struct BlackHole {
    listener: TcpListener,
    _waiting: TcpStream,
}

impl BlackHole {
    pub fn new() -> BlackHole {
        let listener = listener();
        // SAFETY: plain system call on a descriptor that is open.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let waiting = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        BlackHole { listener, _waiting: waiting }
    }

    pub fn proxy(&self) -> TcpListener {
        self.listener.try_clone().unwrap()
    }
}
