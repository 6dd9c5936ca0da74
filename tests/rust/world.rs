//! A small world in virtual time: a program's TCP (smoltcp again) on one end of a packet socket, our stack on the other,
//! and a proxy on a real loopback socket that does what each test says.
//!
//!     program (smoltcp) ──SEQPACKET pair, virtio_net_hdr──> Stack ──TCP on 127.0.0.1──> proxy (this test)
//!
//! Nothing sleeps: time moves by a millisecond a step, or straight to the next timer where nothing else happens.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use crate::counters;
use _tunstack::device::{Device, HEADER};
use _tunstack::shared::{Proxy, Shared};
use _tunstack::stack::Stack;
use _tunstack::stats::{Notes, Stats};
use _tunstack::upstream::{Ready, Upstream};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint};

const MEMORY: u64 = 1 << 30;
pub const TARGET: &str = "192.0.2.1:443";
pub const TARGET6: &str = "[2001:db8::1]:443";

/// What the wire between the program and the stack does to packets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wire {
    /// Of 256 packets, so many are lost, come twice, or are overtaken by the next one.
    pub lost: u8,
    pub doubled: u8,
    pub overtaken: u8,
    pub seed: u32,
}

pub struct World {
    pub now: Instant,
    pub stack: Stack,
    pub stats: Arc<Stats>,
    pub notes: Arc<Notes>,
    pub program: Program,
    pub proxies: Vec<TcpListener>,
    watched: Vec<Watched>,
}

/// What epoll(7) would watch: a descriptor, its token, and the socket that it was, whose end ends the watch even when
/// the number is given again.
struct Watched {
    fd: RawFd,
    token: u64,
    socket: Option<u64>,
}

/// The program's side: its interface and its sockets.
pub struct Program {
    interface: Interface,
    device: Packets,
    pub sockets: SocketSet<'static>,
}

impl World {
    /// Make a world with `proxies` proxies; the program's link has this MTU.
    pub fn new(proxies: usize, mtu: usize, wire: Wire) -> World {
        let (ours, theirs) = packet_pair();
        let (stats, notes) = (Arc::new(Stats::default()), Arc::new(Notes::default()));
        let listeners: Vec<TcpListener> = (0..proxies).map(|_| listener()).collect();
        let now = Instant::from_secs(1000);
        let stack = stack(ours, &listeners, 0, &stats, &notes, now);
        let program = Program::new(theirs, mtu, wire, now);
        World { now, stack, stats, notes, program, proxies: listeners, watched: Vec::new() }
    }

    pub fn plain() -> World {
        World::new(1, 65535, Wire::default())
    }

    /// Let everyone act once, and a millisecond go by.
    pub fn step(&mut self) {
        self.program.poll(self.now);
        self.stack_acts();
        self.program.poll(self.now);
    }

    /// Let the stack act alone, and a millisecond go by: what it sends waits in the TUN.
    pub fn stack_acts(&mut self) {
        while self.stack.read_packet(self.now).unwrap() {}
        self.report_readiness();
        self.stack.serve(self.now);
        let watch = |(fd, token)| Watched { fd, token, socket: inode(fd) };
        self.watched.extend(self.stack.dials().map(watch));
        self.stack.unstick();
        self.now += Duration::from_millis(1);
        counters::assert_add_up(&self.stats, self.stack.usage().0);
    }

    /// Give the counter that is called `name`.
    pub fn value(&self, name: &str) -> u64 {
        self.stats.snapshot().iter().find(|(found, _)| *found == name).unwrap().1
    }

    /// Take the next packet that waits for the program in the TUN, with its virtio_net_hdr.
    pub fn taken(&mut self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 70_000];
        // SAFETY: `frame` is writable for its length.
        let length = unsafe { libc::read(self.program.device.fd.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len()) };
        frame.truncate(usize::try_from(length).ok()?);
        Some(frame)
    }

    /// Let the program act alone: what it sends waits in the TUN.
    pub fn program_acts(&mut self) {
        self.program.poll(self.now);
    }

    /// Step until `done`; where nothing happens for long, time jumps to the next timer. Panics after many steps.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut World) -> bool) {
        for count in 0..200_000 {
            if done(self) {
                return;
            }
            self.step();
            if count % 50 == 49 {
                self.jump(None);
            }
        }
        panic!("never: {what}");
    }

    /// Go on for `duration` of virtual time.
    pub fn rest(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            for _ in 0..20 {
                self.step();
            }
            self.jump(Some(end));
        }
    }

    /// Let time go straight to the next timer, or to `end` where that comes first.
    fn jump(&mut self, end: Option<Instant>) {
        let program = self.program.interface.poll_at(self.now, &self.program.sockets);
        let next = [self.stack.next_timer(), program, end].into_iter().flatten().min();
        if let Some(at) = next
            && !self.stack.is_pending()
        {
            self.now = self.now.max(at);
        }
    }

    /// Put a new stack, which knows no connection, in the place of the one there is: a worker was replaced.
    /// It has `warm` connections to the first proxy at hand.
    pub fn replace_stack(&mut self, warm: usize) {
        // SAFETY: the descriptor is open; the copy is ours.
        let queue = unsafe { OwnedFd::from_raw_fd(libc::dup(self.stack.as_raw_fd())) };
        self.stats = Arc::default();
        self.stack = stack(queue, &self.proxies, warm, &self.stats, &self.notes, self.now);
        self.watched.clear();
    }

    fn report_readiness(&mut self) {
        self.watched.retain(|watched| watched.socket.is_some() && inode(watched.fd) == watched.socket);
        let events = libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP;
        let mut polled: Vec<libc::pollfd> =
            self.watched.iter().map(|watched| libc::pollfd { fd: watched.fd, events, revents: 0 }).collect();
        // SAFETY: `polled` is valid for its length; no time is spent.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, 0) };
        for (poll, watched) in polled.iter().zip(&self.watched) {
            let has = |flags| poll.revents & flags != 0;
            let ready = Ready {
                readable: has(libc::POLLIN),
                writable: has(libc::POLLOUT),
                hangup: has(libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR),
                broken: has(libc::POLLHUP | libc::POLLERR),
            };
            self.stack.wake(watched.token, ready);
        }
    }

    /// Put `frame`, whatever it is, on the wire to the stack, as the kernel would.
    pub fn inject(&mut self, frame: &[u8]) {
        // SAFETY: `frame` is readable for its length.
        unsafe { libc::write(self.program.device.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len()) };
    }

    /// Let the program open a connection.
    pub fn connect(&mut self, target: &str, local_port: u16) -> SocketHandle {
        self.program.connect(target.parse().unwrap(), local_port, 1 << 18)
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.program.sockets.get_mut(handle)
    }

    /// Take the next connection that the stack makes to proxy `number`, and its whole request.
    pub fn request(&mut self, number: usize) -> (TcpStream, String) {
        let mut taken = None;
        self.until("a connection to the proxy", |world| {
            taken = world.proxies[number].accept().ok();
            taken.is_some()
        });
        let stream = taken.unwrap().0;
        stream.set_nonblocking(true).unwrap();
        let mut request = Vec::new();
        self.until("a whole request", |_| {
            read_some(&stream, &mut request).unwrap();
            request.ends_with(b"\r\n\r\n")
        });
        (stream, String::from_utf8(request).unwrap())
    }

    /// Open a connection through the proxy: the program's end and the proxy's.
    pub fn open(&mut self, target: &str, local_port: u16) -> (SocketHandle, TcpStream) {
        let handle = self.connect(target, local_port);
        let (mut stream, _) = self.request(0);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        self.until("connected", |world| world.socket(handle).state() == State::Established);
        (handle, stream)
    }

    /// Check that nothing is left: no flow, no ring, and, when their time has come, no timer.
    pub fn assert_empty(&mut self) {
        self.rest(Duration::from_secs(2));
        self.rest(Duration::from_secs(1200));
        assert_eq!(self.stack.usage(), (0, 0, 0), "flows, timers, rings");
        let gauges = self.stats.snapshot().into_iter().filter(|(name, value)| name.ends_with("_now") && *value != 0);
        assert_eq!(gauges.collect::<Vec<_>>(), []);
    }
}

impl Program {
    fn new(fd: OwnedFd, mtu: usize, wire: Wire, now: Instant) -> Program {
        let mut device = Packets { fd, mtu, wire, random: wire.seed, held: None };
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut device, now);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::v4(10, 0, 0, 2), 0)).unwrap();
            addresses.push(IpCidr::new("2001:db8::2".parse().unwrap(), 0)).unwrap();
        });
        Program { interface, device, sockets: SocketSet::new(Vec::new()) }
    }

    fn poll(&mut self, now: Instant) {
        self.interface.poll(now, &mut self.device, &mut self.sockets);
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

fn xorshift(state: &mut u32) -> u32 {
    let mut x = *state | 1;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    *state = x;
    x
}

fn stack(
    queue: OwnedFd,
    proxies: &[TcpListener],
    warm: usize,
    stats: &Arc<Stats>,
    notes: &Arc<Notes>,
    now: Instant,
) -> Stack {
    let address = |proxy: &TcpListener| Proxy { address: proxy.local_addr().unwrap(), authorization: Vec::new() };
    let proxies = proxies.iter().map(address).collect();
    let mut shared = Shared::new(proxies, MEMORY, Arc::clone(stats), Arc::clone(notes)).unwrap();
    for _ in 0..warm {
        let upstream = Upstream::dial(shared.proxies[0].address).unwrap();
        shared.pool.give(upstream, now);
    }
    Stack::new(Device::new(queue, Arc::clone(stats)), shared, 7, now)
}

/// Give the number of the socket behind a descriptor; None when it was closed.
fn inode(fd: RawFd) -> Option<u64> {
    // SAFETY: all zeroes is a valid `stat`, which the call fills in.
    unsafe {
        let mut found: libc::stat = std::mem::zeroed();
        (libc::fstat(fd, &raw mut found) == 0).then_some(found.st_ino)
    }
}

fn listener() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

fn packet_pair() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for two; both descriptors are new and ours.
    unsafe {
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        assert_eq!(libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()), 0);
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    }
}

/// The program's link: packets with a virtio_net_hdr on a socket, and the mishaps of `wire` on the way out and in.
struct Packets {
    fd: OwnedFd,
    mtu: usize,
    wire: Wire,
    random: u32,
    held: Option<Vec<u8>>,
}

impl Packets {
    fn happens(&mut self, of_256: u8) -> bool {
        of_256 > 0 && (xorshift(&mut self.random) >> 7) as u8 <= of_256
    }

    /// Send `packet`, or not, or twice, or after the next one.
    fn send(&mut self, packet: &[u8]) {
        if self.happens(self.wire.lost) {
            return;
        }
        if self.held.is_none() && self.happens(self.wire.overtaken) {
            self.held = Some(packet.to_vec());
            return;
        }
        self.write(packet);
        if self.happens(self.wire.doubled) {
            self.write(packet);
        }
        if let Some(held) = self.held.take() {
            self.write(&held);
        }
    }

    fn write(&mut self, packet: &[u8]) {
        let mut framed = vec![0; HEADER];
        framed[0] = 1; // the checksum is the kernel's to fill in
        framed.extend_from_slice(packet);
        // SAFETY: `framed` is readable for its length. A full socket loses the packet, as a full queue does.
        unsafe { libc::write(self.fd.as_raw_fd(), framed.as_ptr().cast(), framed.len()) };
    }
}

impl phy::Device for Packets {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Incoming, Outgoing<'_>)> {
        loop {
            let mut buffer = vec![0; 70_000];
            // SAFETY: `buffer` is writable for its length.
            let length = unsafe { libc::read(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            let length = usize::try_from(length).ok()?;
            if !self.happens(self.wire.lost) {
                buffer.truncate(length);
                buffer.drain(..HEADER);
                return Some((Incoming(buffer), Outgoing(self)));
            }
        }
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities.checksum.tcp = Checksum::None;
        capabilities
    }
}

struct Incoming(Vec<u8>);

impl phy::RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Outgoing<'a>(&'a mut Packets);

impl phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, emit: F) -> R {
        let mut packet = vec![0; length];
        let result = emit(&mut packet);
        self.0.send(&packet);
        result
    }
}
