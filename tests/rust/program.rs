//! The program's side of the world: smoltcp once more, as the kernel's TCP under a program.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint};

use crate::wire::{Link, Wire};

/// Its interface and its sockets.
pub struct Program {
    interface: Interface,
    pub link: Link,
    pub sockets: SocketSet<'static>,
}

impl Program {
    pub fn new(fd: OwnedFd, mtu: usize, wire: Wire, now: Instant) -> Program {
        let mut link = Link::new(fd, mtu, wire);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = u64::from(wire.seed);
        let mut interface = Interface::new(config, &mut link, now);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::v4(10, 0, 0, 2), 0)).unwrap();
            addresses.push(IpCidr::new("2001:db8::2".parse().unwrap(), 0)).unwrap();
        });
        Program { interface, link, sockets: SocketSet::new(Vec::new()) }
    }

    /// Take what has come, and send what is to be sent.
    pub fn poll(&mut self, now: Instant) {
        self.link.flush();
        self.interface.poll(now, &mut self.link, &mut self.sockets);
    }

    /// Give the time of the next timer.
    pub fn next_timer(&mut self, now: Instant) -> Option<Instant> {
        self.interface.poll_at(now, &self.sockets)
    }

    /// Open a connection with rings of `ring` bytes.
    pub fn connect(&mut self, target: SocketAddr, local_port: u16, ring: usize) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; ring]);
        let handle = self.sockets.add(Socket::new(buffer(), buffer()));
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        let remote = IpEndpoint::new(target.ip().into(), target.port());
        socket.connect(self.interface.context(), remote, local_port).unwrap();
        handle
    }
}
