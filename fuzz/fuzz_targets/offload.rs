//! Bytes both ways in super-segments, with any virtio_net_hdr before what the stack reads: they arrive as they were sent,
//! and nothing that the stack writes is more than its program has asked for.
//!
//! Input: family and what the SYN says (5 bytes), then acts, each a byte that says what and its parameters. The program
//! is sane: it acknowledges, sends again, and in the end lets everything come.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxyvpn_fuzz::cursor::Cursor;
use proxyvpn_fuzz::packets::{ACK, Between, FIN, SYN, Tcp};
use proxyvpn_fuzz::proxy::{self, REPLIES};
use proxyvpn_fuzz::talk::Talk;
use proxyvpn_fuzz::world::World;
use proxyvpn_fuzz::written;
use smoltcp::time::Duration;

const ACTS_MAX: usize = 100;
/// Most bytes each way, so that an input takes milliseconds.
const BYTES_MAX: usize = 400_000;
/// What smoltcp takes for an MSS that is not said, and the least it takes.
const MSS_DEFAULT: usize = 536;
const MSS_LEAST: usize = 48;
/// Where the two streams have their bytes from.
const SEEDS: [u32; 2] = [0x9e37_79b9, 0x85eb_ca6b];

struct Scene {
    world: World,
    talk: Talk,
    first: u32,
    /// Offsets in the stream that is sent: what is acknowledged, what was sent, how far the window goes.
    acknowledged: usize,
    sent: usize,
    allowed: usize,
    /// How much has come of the other, and how far the window that was offered for it went.
    received: usize,
    offered: usize,
    largest: usize,
    ended: bool,
    /// Of the proxy: bytes read, and written.
    got: Vec<u8>,
    given: usize,
    refused: bool,
}

impl Scene {
    /// Open a connection; None where the stack does not take its SYN.
    fn open(cursor: &mut Cursor<'_>) -> Option<Scene> {
        let [v4, _, _, v6] = Talk::some();
        let mut talk = if cursor.byte() < 128 { v4 } else { v6 };
        let mss = cursor.word();
        talk.next = cursor.pick(&[7, u32::MAX, u32::MAX - 70_000, 0x7fff_ff00]);
        let mut options = Vec::new();
        if mss > 0 {
            options.extend([2, 4, (mss >> 8) as u8, mss as u8]);
        }
        // without a scale: the windows of this program are as they are in its segments
        let stamped = cursor.byte() % 2 == 1;
        if stamped {
            options.extend([8, 10, 0, 0, 0, 1, 0, 0, 0, 0]);
        }
        let mut world = World::new(1, false);
        let syn = Tcp { options: &options, ..talk.segment(SYN, &[]) };
        world.inject(&frame([0; 10], &syn));
        talk.next = talk.next.wrapping_add(1);
        world.turn();
        world.turn();
        let stream = world.proxies.streams.first()?.as_ref()?;
        proxy::write(stream, REPLIES[0]);
        let written = world.turn();
        talk.received(&written);
        let answer = written.first()?.tcp.as_ref()?;
        assert_eq!(answer.flags, SYN | ACK);
        let mut request = Vec::new();
        proxy::read(world.proxies.streams[0].as_ref()?, &mut request, usize::MAX);
        assert!(request.starts_with(b"CONNECT ") && request.ends_with(b"\r\n\r\n"), "a request");
        let largest = if mss == 0 { MSS_DEFAULT } else { usize::from(mss).max(MSS_LEAST) };
        let mut scene = Scene {
            first: talk.next,
            world,
            acknowledged: 0,
            sent: 0,
            allowed: usize::from(talk.window),
            received: 0,
            offered: usize::from(u16::MAX),
            largest,
            ended: false,
            got: Vec::new(),
            given: 0,
            refused: false,
            talk,
        };
        scene.acknowledge(u16::MAX);
        Some(scene)
    }

    fn act(&mut self, cursor: &mut Cursor<'_>) {
        match cursor.byte() % 7 {
            0 | 1 => self.upload(cursor),
            2 => self.download(usize::from(cursor.word())),
            3 => {
                let window = cursor.word();
                self.acknowledge(window);
            }
            4 => self.proxy_reads(usize::from(cursor.word())),
            5 => {
                let millis = cursor.pick(&[1, 10, 200, 1000, 3000]);
                let end = self.world.now + Duration::from_millis(millis);
                while self.world.now < end {
                    self.turn();
                    self.world.now = self.world.stack.next_timer().unwrap_or(end).clamp(self.world.now, end);
                }
            }
            _ => self.turn(),
        }
    }

    /// Send a super-segment that begins where the last one ended, or earlier.
    fn upload(&mut self, cursor: &mut Cursor<'_>) {
        let from = self.sent - cursor.pick(&[0, 0, 0, 1, 100, 1460, 40_000]).min(self.sent - self.acknowledged);
        let length = usize::from(cursor.word()).min(self.allowed.min(BYTES_MAX).saturating_sub(from)).min(65_000);
        let mut header = [0; 10];
        header.copy_from_slice(&[cursor.take(10), &[0; 10]].concat()[..10]);
        self.send(from, length, header);
    }

    /// Send a part of the stream; where the header says so, the checksum is left out.
    fn send(&mut self, from: usize, length: usize, header: [u8; 10]) {
        let payload = stream(0, from, length);
        let mut segment = self.talk.segment(ACK, &payload);
        segment.sequence = self.first.wrapping_add(from as u32);
        segment.window = self.window();
        self.world.inject(&frame(header, &segment));
        self.sent = self.sent.max(from + length);
        self.turn();
    }

    /// Let the proxy send some bytes, as many as are taken.
    fn download(&mut self, length: usize) {
        let bytes = stream(1, self.given, length.min(BYTES_MAX - self.given));
        if let Some(Some(end)) = self.world.proxies.streams.first() {
            self.given += proxy::write(end, &bytes);
        }
        self.turn();
    }

    fn proxy_reads(&mut self, most: usize) {
        if let Some(Some(end)) = self.world.proxies.streams.first() {
            self.refused |= proxy::read(end, &mut self.got, most);
        }
        self.turn();
    }

    /// Give the window that keeps what was offered: a window may not shrink.
    fn window(&self) -> u16 {
        (self.offered - self.received).min(usize::from(u16::MAX)) as u16
    }

    /// Acknowledge what has come and offer a window, unless that would shrink it.
    fn acknowledge(&mut self, window: u16) {
        self.offered = self.offered.max(self.received + usize::from(window));
        let mut segment = self.talk.segment(ACK, &[]);
        segment.sequence = self.first.wrapping_add(self.sent as u32);
        segment.window = self.window();
        self.world.inject(&frame([0; 10], &segment));
        self.turn();
    }

    /// Let the stack act, and look at all that it wrote.
    fn turn(&mut self) {
        let begin = self.talk.expected.wrapping_sub(self.received as u32 + u32::from(self.ended));
        for one in self.world.turn() {
            let Some(tcp) = one.tcp else { panic!("an ICMP error for TCP") };
            self.look(&tcp, begin);
        }
    }

    /// `begin`: the sequence number of the first byte that the stack sends.
    fn look(&mut self, tcp: &written::Tcp, begin: u32) {
        assert_eq!(tcp.flags & !(ACK | FIN | 8), 0, "a reset, or a SYN");
        let acknowledged = tcp.acknowledgement.wrapping_sub(self.first) as usize;
        assert!(acknowledged <= self.sent + 1, "{acknowledged} acknowledged of {}", self.sent);
        self.acknowledged = self.acknowledged.max(acknowledged.min(self.sent));
        self.allowed = self.allowed.max(acknowledged + (usize::from(tcp.window) << SCALE));
        let from = tcp.sequence.wrapping_sub(begin);
        if from == u32::MAX {
            return; // a keep-alive, or a probe of a window
        }
        let (from, length) = (from as usize, tcp.payload.len());
        if length == 0 && tcp.flags & FIN == 0 {
            return;
        }
        assert!(from + length <= self.offered + 1, "{} bytes beyond the window", from + length - self.offered);
        assert!(tcp.segment_size + tcp.options.len() <= self.largest, "{} for {}", tcp.segment_size, self.largest);
        assert!(from + length <= self.given && tcp.payload == stream(1, from, length), "bytes from {from}");
        if from <= self.received {
            self.received = self.received.max(from + length);
            self.offered = self.offered.max(self.received); // a probe's byte was taken though it was not asked for
            self.ended |= tcp.flags & FIN != 0 && self.received == from + length;
            self.talk.expected = begin.wrapping_add(self.received as u32 + u32::from(self.ended));
        }
    }

    /// Let everything arrive, end both ways, and see that nothing is missing.
    fn finish(mut self) {
        self.until("all bytes", |scene| scene.got.len() == scene.sent && scene.received == scene.given);
        assert!(self.got == stream(0, 0, self.sent), "bytes of the program");
        let mut fin = self.talk.segment(ACK | FIN, &[]);
        fin.sequence = self.first.wrapping_add(self.sent as u32);
        self.world.inject(&frame([0; 10], &fin));
        self.turn();
        self.proxy_reads(1);
        assert!(self.refused, "the proxy has not heard of the end");
        self.world.proxies.end_all(false);
        self.until("the end", |scene| scene.ended);
        self.talk.next = self.first.wrapping_add(self.sent as u32 + 1);
        self.talk.send(&mut self.world, ACK, &[]);
        self.world.turn();
        assert_eq!(self.world.stats.flows_finished.get(), 1);
        drop(self.got);
        self.world.end();
    }

    fn until(&mut self, what: &str, done: impl Fn(&Scene) -> bool) {
        for count in 0..2000 {
            if done(self) {
                return;
            }
            self.proxy_reads(usize::MAX);
            self.acknowledge(u16::MAX);
            if count % 8 == 7 && self.acknowledged < self.sent {
                self.send(self.acknowledged, (self.sent - self.acknowledged).min(1400), [0; 10]);
            }
            self.world.now += Duration::from_millis(20);
        }
        panic!(
            "never: {what}; sent {} acknowledged {} got {}, given {} received {}",
            self.sent,
            self.acknowledged,
            self.got.len(),
            self.given,
            self.received
        );
    }
}

/// What the stack shifts its windows by: it says so in its SYN/ACK only to a SYN that does.
const SCALE: u32 = 0;

/// Put `header` before a segment; where it says that the checksum is the kernel's to fill in, that is only begun.
fn frame(header: [u8; 10], segment: &Tcp<'_>) -> Vec<u8> {
    let mut frame = [&header, &segment.packet(&Between::default())[..]].concat();
    if header[0] & 3 != 0 {
        let at = frame.len() - segment.payload.len() - segment.options.len().next_multiple_of(4) - 4;
        frame[at..at + 2].copy_from_slice(&header[8..10]);
    }
    frame
}

/// Give the bytes of stream `which` from an offset on.
fn stream(which: usize, from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(|at| ((at as u32).wrapping_mul(SEEDS[which]) >> 24) as u8).collect()
}

fuzz_target!(|input: &[u8]| {
    let mut cursor = Cursor::new(input);
    let Some(mut scene) = Scene::open(&mut cursor) else { return };
    for _ in 0..ACTS_MAX {
        if cursor.is_empty() {
            break;
        }
        scene.act(&mut cursor);
    }
    scene.finish();
});
