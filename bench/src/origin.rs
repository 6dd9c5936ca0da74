//! The far end: what a connection wants, its first byte says.
//!
//! `u`: takes everything, answers nothing.  `d`: sends until the client closes.  `e`: sends back what it gets.
//! `c`: sends one byte and closes when the client has.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use crate::net::{self, Poll};

/// Tokens from here on are listeners.
const LISTENERS: u64 = 1 << 32;
const CHUNK: usize = 1 << 20;
/// Read at once; small enough to stay in the cache.
const SCRATCH: usize = 256 << 10;

struct Client {
    fd: RawFd,
    wish: u8,
    back: Vec<u8>,
}

/// Serve for ever, at `ports` ports from that of `address` on.
pub fn run(mut address: SocketAddr, ports: u16) -> io::Result<()> {
    let mut poll = Poll::new()?;
    for _ in 0..ports {
        let listener = net::listen(address)?;
        poll.add(listener, LISTENERS + listener as u64, libc::EPOLLIN);
        address.set_port(address.port() + 1);
    }
    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let source = vec![b'x'; CHUNK];
    let mut scratch = vec![0; SCRATCH];
    println!("ready");
    loop {
        for token in poll.wait(-1) {
            if token < LISTENERS {
                let Some(mut client) = clients[token as usize].take() else { continue };
                if client.serve(&source, &mut scratch) {
                    clients[token as usize] = Some(client);
                } else {
                    net::close(client.fd);
                    free.push(token as usize);
                }
                continue;
            }
            while let Some(fd) = net::accept((token - LISTENERS) as RawFd) {
                let index = free.pop().unwrap_or_else(|| {
                    clients.push(None);
                    clients.len() - 1
                });
                clients[index] = Some(Client { fd, wish: 0, back: Vec::new() });
                poll.watch(fd, index as u64);
            }
        }
    }
}

impl Client {
    /// Do what can be done; false when it is over.
    fn serve(&mut self, source: &[u8], scratch: &mut [u8]) -> bool {
        if self.wish == 0 {
            let mut first = [0];
            match net::receive(self.fd, &mut first) {
                Ok(1) => self.wish = first[0],
                result => return net::later(&result),
            }
            if self.wish == b'c' && net::send(self.fd, b"k").is_err() {
                return false;
            }
        }
        match self.wish {
            b'u' | b'c' => loop {
                match net::discard(self.fd, scratch) {
                    Ok(0) => return false,
                    Ok(_) => {}
                    result => return net::later(&result),
                }
            },
            b'd' => {
                if matches!(net::discard(self.fd, scratch), Ok(0)) {
                    return false;
                }
                loop {
                    match net::send(self.fd, source) {
                        Ok(_) => {}
                        result => return net::later(&result),
                    }
                }
            }
            _ => self.echo(),
        }
    }

    fn echo(&mut self) -> bool {
        let mut buffer = [0; 65536];
        loop {
            while !self.back.is_empty() {
                match net::send(self.fd, &self.back) {
                    Ok(count) => drop(self.back.drain(..count)),
                    result => return net::later(&result),
                }
            }
            match net::receive(self.fd, &mut buffer) {
                Ok(0) => return false,
                Ok(count) => self.back.extend_from_slice(&buffer[..count]),
                result => return net::later(&result),
            }
        }
    }
}
