//! Any sequence of valid packets, from a machine that may be sane or not, while the proxies answer as they like.
//!
//! Input: which proxies there are and how it ends (1 byte), then acts, each a byte that says what and its parameters.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxyvpn_fuzz::cursor::Cursor;
use proxyvpn_fuzz::packets::{ACK, Between, FIN, SYN, Tcp, ip, tuple};
use proxyvpn_fuzz::proxy::{self, REPLIES};
use proxyvpn_fuzz::talk::Talk;
use proxyvpn_fuzz::world::{World, framed};
use smoltcp::time::Duration;

const ACTS_MAX: usize = 200;
/// What a program's data is made of.
static ZEROES: [u8; 65535] = [0; 65535];
/// Addresses that are no host's, and one that is.
const ODD: [(&str, &str); 8] = [
    ("0.0.0.0:1", "192.0.2.1:443"),
    ("255.255.255.255:40000", "192.0.2.1:443"),
    ("10.0.0.2:40000", "224.0.0.1:443"),
    ("10.0.0.2:40000", "192.0.2.1:0"),
    ("127.0.0.1:40000", "127.0.0.1:40000"),
    ("[::]:40000", "[2001:db8::1]:443"),
    ("[2001:db8::2]:40000", "[ff02::1]:443"),
    ("[::ffff:10.0.0.2]:40000", "[::ffff:192.0.2.1]:443"),
];
const OPTIONS: [&[u8]; 10] = [
    &[],
    &[2, 4, 5, 180, 1, 3, 3, 7, 4, 2],
    &[2, 4, 0, 1],
    &[2, 4, 0, 0],
    &[2, 4, 255, 255, 3, 3, 255],
    &[8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1],
    &[5, 10, 0, 0, 0, 1, 0, 0, 0, 9],
    &[2, 40],
    &[9, 0, 9, 0],
    &[0, 2, 4, 5, 180],
];

struct Scene {
    world: World,
    talks: [Talk; 4],
    /// Whether packets are gathered before the stack looks.
    gathering: bool,
}

impl Scene {
    fn act(&mut self, cursor: &mut Cursor<'_>) {
        match cursor.byte() % 14 {
            0 | 1 => self.send_any(cursor),
            2 => self.open(cursor),
            3 => self.send_fitting(cursor),
            4 => self.send_other(cursor),
            5 => self.send_spoilt(cursor),
            6 => self.reply(cursor),
            7 => self.proxy_writes(cursor),
            8 => self.proxy_reads(cursor),
            9 => self.proxy_ends(cursor),
            10 => self.time_passes(cursor),
            11 => self.gathering = !self.gathering,
            12 => self.reset(cursor),
            _ => self.turn(),
        }
    }

    fn turn(&mut self) {
        let written = self.world.turn();
        for talk in &mut self.talks {
            talk.received(&written);
        }
    }

    fn inject(&mut self, frame: &[u8]) {
        self.world.inject(frame);
        if !self.gathering {
            self.turn();
        }
    }

    fn talk(&mut self, cursor: &mut Cursor<'_>) -> usize {
        usize::from(cursor.byte()) % self.talks.len()
    }

    /// A segment of which everything may be wrong that checksums do not tell.
    fn send_any(&mut self, cursor: &mut Cursor<'_>) {
        let number = self.talk(cursor);
        let talk = &self.talks[number];
        let mut segment = talk.segment(cursor.byte(), &ZEROES[..payload_length(cursor)]);
        segment.sequence = talk.next.wrapping_add_signed(cursor.skew());
        segment.acknowledgement = talk.expected.wrapping_add_signed(cursor.skew());
        segment.window = cursor.pick(&[u16::MAX, 0, 1, 1000, 0x8000]);
        segment.options = cursor.pick(&OPTIONS);
        let between = between(cursor);
        let odd = cursor.byte();
        if odd >= 192 {
            let (source, destination) = ODD[usize::from(odd) % ODD.len()];
            segment.tuple = tuple(source, destination);
        }
        let packet = segment.packet(&between);
        if segment.tuple == talk.tuple {
            let sent = Tcp { options: &[], ..segment };
            self.talks[number].sent(&sent);
        }
        self.inject(&framed(&packet));
    }

    /// The handshake of a sane program, with a proxy that says 200, and its first words.
    fn open(&mut self, cursor: &mut Cursor<'_>) {
        let number = self.talk(cursor);
        let options = cursor.pick(&OPTIONS);
        let talk = &mut self.talks[number];
        talk.next = cursor.pick(&[1000, u32::MAX, u32::MAX - 100_000, 0x7fff_ffff]);
        let syn = Tcp { options, ..talk.segment(SYN, &[]) };
        self.world.inject(&framed(&syn.packet(&Between::default())));
        talk.sent(&Tcp { options: &[], ..syn });
        self.turn();
        self.turn();
        if let Some(Some(stream)) = self.world.proxies.streams.last() {
            proxy::write(stream, REPLIES[0]);
        }
        self.turn();
        self.talks[number].send(&mut self.world, ACK, &[]);
        self.turn();
    }

    fn send_fitting(&mut self, cursor: &mut Cursor<'_>) {
        let number = self.talk(cursor);
        let flags = cursor.pick(&[ACK, ACK | FIN, ACK | 8]);
        let length = payload_length(cursor).min(usize::from(self.talks[number].window));
        self.talks[number].send(&mut self.world, flags, &ZEROES[..length]);
        if !self.gathering {
            self.turn();
        }
    }

    /// Something that is not TCP: at most one ICMP error comes of it.
    fn send_other(&mut self, cursor: &mut Cursor<'_>) {
        let number = self.talk(cursor);
        let protocol = cursor.pick(&[17, 1, 58, 132, 59, 44, 255]);
        let between = between(cursor);
        let length = usize::from(cursor.byte());
        let packet = ip(&self.talks[number].tuple, protocol, &between, cursor.take(length));
        self.inject(&framed(&packet));
    }

    /// A segment that would fit but for one byte, or that is cut, or longer than it says.
    fn send_spoilt(&mut self, cursor: &mut Cursor<'_>) {
        let number = self.talk(cursor);
        let segment = self.talks[number].segment(ACK, &ZEROES[..usize::from(cursor.byte())]);
        let mut frame = framed(&segment.packet(&between(cursor)));
        let (at, change, cut) = (usize::from(cursor.word()) % frame.len(), cursor.byte(), usize::from(cursor.byte()));
        frame[at] ^= change;
        match cut {
            0..128 => {}
            128..192 => frame.truncate(frame.len().saturating_sub(cut - 127).max(1)),
            _ => frame.extend(&ZEROES[..cut]),
        }
        self.inject(&frame);
    }

    fn reply(&mut self, cursor: &mut Cursor<'_>) {
        let (number, reply) = (cursor.byte(), cursor.pick(&REPLIES));
        let more = usize::from(cursor.byte() % 32);
        let bytes = [reply, cursor.take(more)].concat();
        if let Some(Some(stream)) = self.world.proxies.stream(number) {
            proxy::write(stream, &bytes);
        }
        self.turn();
    }

    fn proxy_writes(&mut self, cursor: &mut Cursor<'_>) {
        let (number, length) = (cursor.byte(), usize::from(cursor.word()) * 4);
        if let Some(Some(stream)) = self.world.proxies.stream(number) {
            proxy::write(stream, &vec![b'\n'; length]);
        }
        self.turn();
    }

    fn proxy_reads(&mut self, cursor: &mut Cursor<'_>) {
        let (number, most) = (cursor.byte(), usize::from(cursor.word()) * 4);
        if let Some(Some(stream)) = self.world.proxies.stream(number) {
            proxy::read(stream, &mut Vec::new(), most);
        }
        self.turn();
    }

    fn proxy_ends(&mut self, cursor: &mut Cursor<'_>) {
        let (number, how) = (cursor.byte(), cursor.byte());
        let Some(place) = self.world.proxies.stream(number) else { return };
        match (how % 3, place.take()) {
            (0, Some(stream)) => {
                proxy::finish(&stream);
                *place = Some(stream);
            }
            (1, stream) => drop(stream),
            (_, Some(stream)) => proxy::reset(stream),
            (_, None) => {}
        }
        self.turn();
    }

    fn time_passes(&mut self, cursor: &mut Cursor<'_>) {
        let millis = cursor.pick(&[1, 3, 20, 250, 1000, 4000, 11_000, 31_000, 301_000]);
        let talks = &mut self.talks;
        self.world.rest(Duration::from_millis(millis), |written| {
            talks.iter_mut().for_each(|talk| talk.received(written));
        });
    }

    fn reset(&mut self, cursor: &mut Cursor<'_>) {
        let number = self.talk(cursor);
        self.talks[number].reset(&mut self.world);
        if !self.gathering {
            self.turn();
        }
    }
}

fn payload_length(cursor: &mut Cursor<'_>) -> usize {
    match cursor.byte() {
        0..=99 => 0,
        small @ 100..=199 => usize::from(small) - 99,
        200..=229 => 1460,
        _ => usize::from(cursor.word()).min(60_000),
    }
}

/// Mostly nothing.
fn between(cursor: &mut Cursor<'_>) -> Between {
    let mut between = Between::default();
    match cursor.byte() {
        0..=159 => {}
        160..=199 => {
            let length = usize::from(cursor.byte() % 44);
            between.options = cursor.take(length).to_vec();
        }
        200..=239 => {
            for _ in 0..cursor.byte() % 8 {
                let kind = cursor.pick(&[0, 60, 43, 44, 51, 59]);
                let length = usize::from(cursor.byte() % 40);
                between.extensions.push((kind, cursor.take(length).to_vec()));
            }
        }
        _ => between.fragment = cursor.word(),
    }
    between
}

fuzz_target!(|input: &[u8]| {
    let mut cursor = Cursor::new(input);
    let how = cursor.byte();
    let world = World::new(1 + usize::from(how & 1), how & 2 != 0);
    let mut scene = Scene { world, talks: Talk::some(), gathering: false };
    for _ in 0..ACTS_MAX {
        if cursor.is_empty() {
            break;
        }
        scene.act(&mut cursor);
    }
    scene.turn();
    match how >> 2 & 7 {
        0 => {}
        1 => {
            for talk in &mut scene.talks {
                talk.reset(&mut scene.world);
            }
        }
        2 => scene.world.proxies.end_all(false),
        3 => scene.world.proxies.end_all(true),
        _ => return scene.world.stop(),
    }
    scene.world.end();
});
