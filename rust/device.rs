//! One TUN queue: packets in and out with their virtio_net_hdr, in buffers that are used again.
//!
//! Reading: super-segments of up to 64 KiB as the kernel has them. Writing: one packet at a time, as large as the stack
//! makes it; gso_size tells the kernel what to cut it into. A packet that the kernel does not take now (EAGAIN) is kept,
//! and nothing else is written before it: the stack never sees a loss here, for its shortest time-out is a second.
//! Never waits. Format: linux/virtio_net.h, struct virtio_net_hdr, 10 bytes, native byte order; tun.txt of the kernel.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;

use crate::datagram::Datagram;
use crate::packet::{self, Peek};
use crate::stats::Stats;

/// Bytes of the virtio_net_hdr before every packet.
pub const HEADER: usize = 10;
/// Largest IP packet.
pub const PACKET_MAX: usize = 65535;
/// Largest IP packet that is written: with the header of a link before it, it stays below the 64 KiB that a network device
/// takes in one piece (gso_max_size). One byte more, and the kernel cuts what it forwards into segments itself.
const WRITE_MAX: usize = PACKET_MAX - 255;
/// A packet may be longer than its own length field says where the kernel merges segments of IPv6.
const BUFFER: usize = HEADER + PACKET_MAX + 64;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const TCP_CHECKSUM_AT: u16 = 16;
const TCP_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// A queue, and the packet just read from it.
#[derive(Debug)]
pub struct Device {
    incoming: Vec<u8>,
    /// What the stack may read: a range of `incoming`.
    offered: Option<Range<usize>>,
    /// Whether the kernel vouches for the checksum of the packet just read.
    trusted: bool,
    out: Outgoing,
}

/// The way out: apart from the way in, because the stack answers a packet while it reads it.
#[derive(Debug)]
struct Outgoing {
    fd: OwnedFd,
    buffer: Vec<u8>,
    /// How much of `buffer` the kernel has not taken yet.
    stuck: Option<usize>,
    /// See `Device::limit_segments`; 0 for no limit.
    segment_limit: u16,
    stats: Arc<Stats>,
}

impl Device {
    /// Take a queue. It must be non-blocking and have IFF_VNET_HDR set.
    pub fn new(fd: OwnedFd, stats: Arc<Stats>) -> Device {
        let out = Outgoing { fd, buffer: vec![0; BUFFER], stuck: None, segment_limit: 0, stats };
        Device { incoming: vec![0; BUFFER], offered: None, trusted: false, out }
    }

    /// Read and look at one packet; None when there is none now. Errors mean that the queue is gone.
    pub fn read(&mut self) -> io::Result<Option<Peek>> {
        self.offered = None;
        let buffer = &mut self.incoming;
        // SAFETY: `buffer` is writable for its length.
        let length = unsafe { libc::read(self.out.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        let Ok(length) = usize::try_from(length) else {
            let error = io::Error::last_os_error();
            return if is_transient(&error) { Ok(None) } else { Err(error) };
        };
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.out.stats.tun_read.up();
        if length < HEADER {
            return Ok(Some(Peek::Bad));
        }
        self.trusted = buffer[0] & (NEEDS_CSUM | DATA_VALID) != 0;
        let mut found = packet::peek(&mut buffer[HEADER..length], self.trusted);
        match &mut found {
            Peek::Tcp { packet, .. } => *packet = packet.start + HEADER..packet.end + HEADER,
            Peek::Other => self.offered = Some(HEADER..length),
            Peek::Bad => {}
        }
        Ok(Some(found))
    }

    /// Give a part of what was just read.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.incoming[range]
    }

    /// Give the packet just read that is not TCP.
    pub fn other(&self) -> &[u8] {
        self.offered.clone().map_or(&[], |range| &self.incoming[range])
    }

    /// Give the datagram just read, if it is whole.
    pub fn datagram(&self) -> Option<Datagram<'_>> {
        Datagram::read(self.other(), self.trusted)
    }

    /// Take the FIN off a packet that was just read; see packet.rs.
    pub fn set_fin_apart(&mut self, range: Range<usize>) -> Vec<u8> {
        packet::set_fin_apart(&mut self.incoming[range])
    }

    /// Let the stack have a part of what was just read.
    pub fn offer(&mut self, range: Range<usize>) {
        self.offered = Some(range);
    }

    /// Let the stack have `packet`, which was read earlier.
    pub fn offer_again(&mut self, packet: &[u8]) {
        self.incoming[..packet.len()].copy_from_slice(packet);
        self.offered = Some(0..packet.len());
    }

    /// Write a finished packet; where one is stuck it is dropped, for what it answers will come again.
    pub fn answer(&mut self, packet: &[u8]) {
        if self.is_stuck() {
            self.out.stats.tun_dropped.up();
            return;
        }
        self.out.buffer[..HEADER].fill(0);
        self.out.buffer[HEADER..HEADER + packet.len()].copy_from_slice(packet);
        self.out.write(HEADER + packet.len());
    }

    /// Have what the stack writes from now on cut into segments of at most `size` bytes, options included. smoltcp 0.14
    /// tells the device the size for IPv4 only.
    pub fn limit_segments(&mut self, size: u16) {
        self.out.segment_limit = size;
    }

    /// Say whether a packet waits for the kernel.
    pub fn is_stuck(&self) -> bool {
        self.out.stuck.is_some()
    }

    /// Try the stuck packet again; says whether the way is free.
    pub fn flush(&mut self) -> bool {
        if let Some(length) = self.out.stuck.take() {
            self.out.write(length);
        }
        !self.is_stuck()
    }
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> i32 {
        self.out.fd.as_raw_fd()
    }
}

impl Outgoing {
    fn write(&mut self, length: usize) {
        // SAFETY: `buffer` holds at least `length` initialised bytes.
        let written = unsafe { libc::write(self.fd.as_raw_fd(), self.buffer.as_ptr().cast(), length) };
        if written >= 0 {
            self.stats.tun_written.up();
        } else if is_transient(&io::Error::last_os_error()) {
            self.stuck = Some(length);
        } else {
            self.stats.tun_dropped.up();
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}

impl phy::Device for Device {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        if self.is_stuck() {
            return None;
        }
        let range = self.offered.take()?;
        Some((RxToken(&self.incoming[range]), TxToken { out: &mut self.out, segment_size: 0 }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<TxToken<'_>> {
        (!self.is_stuck()).then_some(TxToken { out: &mut self.out, segment_size: 0 })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = PACKET_MAX;
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::None;
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(WRITE_MAX);
        capabilities.segmentation.tcpv6 = NonZeroUsize::new(WRITE_MAX);
        capabilities
    }
}

/// The packet just read.
#[derive(Debug)]
pub struct RxToken<'a>(&'a [u8]);

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

/// The right to write one packet.
#[derive(Debug)]
pub struct TxToken<'a> {
    out: &'a mut Outgoing,
    segment_size: u16,
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, emit: F) -> R {
        let packet = &mut self.out.buffer[HEADER..HEADER + length];
        let result = emit(packet);
        let segment_size = if packet[0] >> 4 == 4 { self.segment_size } else { cut6(packet, self.out.segment_limit) };
        let header = offload(packet, segment_size);
        self.out.buffer[..HEADER].copy_from_slice(&header);
        self.out.write(HEADER + length);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment_size = meta.segmentation_offload_size.map_or(0, u16::from);
    }
}

/// Give the bytes of data in each segment that an IPv6 `packet` is to be cut into, so that none has more than `limit`
/// with its options; 0 where it need not be cut.
fn cut6(packet: &[u8], limit: u16) -> u16 {
    let header = usize::from(packet[IPV6_HEADER + 12] >> 4) * 4;
    let size = usize::from(limit).saturating_sub(header - TCP_HEADER);
    let data = packet.len() - IPV6_HEADER - header;
    if size > 0 && data > size { size as u16 } else { 0 }
}

/// Leave the TCP checksum of `packet` (an IP packet as the stack emits it: no options before TCP) to the kernel, and
/// the cutting into segments of `segment_size` bytes where it is not zero; give the header that says so.
fn offload(packet: &mut [u8], segment_size: u16) -> [u8; HEADER] {
    let v4 = packet[0] >> 4 == 4;
    let transport = if v4 { 20 } else { 40 };
    let (addresses, segment) = packet.split_at_mut(transport);
    let addresses = if v4 { &addresses[12..20] } else { &addresses[8..40] };
    let pseudo = packet::pseudo_sum(addresses, packet::TCP, segment.len());
    packet::put16(segment, usize::from(TCP_CHECKSUM_AT), packet::fold(u64::from(pseudo)));
    let headers = (transport + usize::from(segment[12] >> 4) * 4) as u16;
    let kind = match (segment_size, v4) {
        (0, _) => GSO_NONE,
        (_, true) => GSO_TCPV4,
        (_, false) => GSO_TCPV6,
    };
    let mut header = [0; HEADER];
    header[0] = NEEDS_CSUM;
    header[1] = kind;
    for (at, value) in [(2, headers), (4, segment_size), (6, transport as u16), (8, TCP_CHECKSUM_AT)] {
        header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_packet_asks_the_kernel_to_cut_it() {
        let mut packet = vec![0; 20 + 20 + 3000];
        packet[0] = 0x45;
        packet[20 + 12] = 0x50;
        let header = offload(&mut packet, 1460);
        assert_eq!(header[..2], [NEEDS_CSUM, GSO_TCPV4]);
        let field = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        assert_eq!([field(2), field(4), field(6), field(8)], [40, 1460, 20, 16]);
        // addresses are zero: protocol and length are all there is in the pseudo-header
        assert_eq!(packet[36..38], (6u16 + 3020).to_be_bytes());
    }

    #[test]
    fn ipv6_packet_is_cut_by_the_limit_less_its_options() {
        let mut packet = vec![0; 40 + 32 + 1209];
        packet[40 + 12] = 0x80;
        assert_eq!(cut6(&packet, 1220), 1208);
        assert_eq!(cut6(&packet[..packet.len() - 1], 1220), 0);
        assert_eq!(cut6(&packet, 0), 0);
    }

    #[test]
    fn small_packet_only_leaves_its_checksum() {
        let mut packet = vec![0; 40 + 20];
        packet[0] = 0x60;
        packet[40 + 12] = 0x50;
        assert_eq!(offload(&mut packet, 0)[..2], [NEEDS_CSUM, GSO_NONE]);
    }
}
