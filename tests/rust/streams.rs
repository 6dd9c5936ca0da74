//! Both ends of a connection in small: bytes to send, and what each end does with them without waiting.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;

use crate::world::World;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::Socket;

/// Read what is there; says whether the far end has closed, or reset.
pub fn read_some(mut stream: &TcpStream, into: &mut Vec<u8>) -> Result<bool, ErrorKind> {
    let mut buffer = [0; 65536];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(count) => into.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.kind()),
        }
    }
}

/// Write what is taken of `bytes` from `sent` on.
pub fn write_some(mut stream: &TcpStream, bytes: &[u8], sent: &mut usize) {
    while *sent < bytes.len() {
        match stream.write(&bytes[*sent..]) {
            Ok(count) => *sent += count,
            Err(_) => return,
        }
    }
}

/// Give `length` bytes that do not repeat in a simple way.
pub fn bytes(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    (0..length).map(|_| (xorshift(&mut state) >> 11) as u8).collect()
}

pub fn xorshift(state: &mut u32) -> u32 {
    let mut x = *state | 1;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    *state = x;
    x
}

/// Send `up` and `down` through an open connection at the same time, each side ending when it has sent all.
pub fn exchange(world: &mut World, handle: SocketHandle, stream: &TcpStream, up: &[u8], down: &[u8]) {
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    let (mut sent_up, mut sent_down) = (0, 0);
    let (mut closed, mut shut, mut eof) = (false, false, false);
    world.until("all bytes and both ends", |world| {
        let socket = world.socket(handle);
        if socket.can_send() && sent_up < up.len() {
            sent_up += socket.send_slice(&up[sent_up..]).unwrap();
        }
        // Not before all is acknowledged: smoltcp 0.14 as a sender does not repeat a FIN that came with data, was dropped
        // because of a hole before it, and was followed by three duplicate acknowledgements. Kernels do.
        if sent_up == up.len() && socket.send_queue() == 0 && !closed {
            socket.close();
            closed = true;
        }
        while socket.can_recv() {
            socket.recv(|ring| (ring.len(), got_down.extend_from_slice(ring))).unwrap();
        }
        let finished = !socket.may_recv();
        write_some(stream, down, &mut sent_down);
        if sent_down == down.len() && !shut {
            stream.shutdown(Shutdown::Write).unwrap();
            shut = true;
        }
        eof |= read_some(stream, &mut got_up).unwrap();
        eof && finished
    });
    assert_eq!(got_up.len(), up.len());
    assert_eq!(got_down.len(), down.len());
    assert!(got_up == up && got_down == down, "bytes are not those that were sent");
}

/// Take what the program's socket has received.
pub fn received(socket: &mut Socket<'_>) -> Vec<u8> {
    let mut got = Vec::new();
    while socket.can_recv() {
        socket.recv(|ring| (ring.len(), got.extend_from_slice(ring))).unwrap();
    }
    got
}

pub fn reset(stream: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: `linger` is valid for the call.
    unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), length);
    }
}
