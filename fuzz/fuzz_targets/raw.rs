//! Any bytes from the TUN, their virtio_net_hdr included, are survived.
//!
//! Input: frames, each after its length (2 bytes). Where the highest bit of the length is set, the frame is an IP packet
//! whose checksums are put right, behind a virtio_net_hdr that says nothing.

#![no_main]

use _tunstack::packet::{checksum, put16};
use libfuzzer_sys::fuzz_target;
use proxyvpn_fuzz::cursor::Cursor;
use proxyvpn_fuzz::world::{World, framed};

/// Put the IPv4 header's checksum right, and let the kernel vouch for the transport's.
fn mended(packet: &[u8]) -> Vec<u8> {
    let mut frame = framed(packet);
    frame[0] = 1;
    let packet = &mut frame[10..];
    let header = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
    if packet.len() >= header && header >= 20 && packet[0] >> 4 == 4 {
        put16(packet, 10, 0);
        let sum = checksum(0, &packet[..header]);
        put16(packet, 10, sum);
    }
    frame
}

fuzz_target!(|input: &[u8]| {
    let mut cursor = Cursor::new(input);
    let mut world = World::new(1, false);
    while !cursor.is_empty() {
        let length = cursor.word();
        let bytes = cursor.take(usize::from(length & 0x7fff));
        let frame = if length & 0x8000 != 0 { mended(bytes) } else { bytes.to_vec() };
        if !frame.is_empty() {
            world.inject(&frame);
            world.turn();
        }
    }
    world.end();
});
