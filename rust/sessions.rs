//! Programs that ask by TCP: connections to port 53 that end in this process, in the stack, and never reach a proxy.
//!
//! RFC 7766: messages with their length before them, many on their way at a time, answered in any order; who says nothing
//! for a while is hung up on. There are few, so each is looked at in every round in which one has something to do; a
//! newcomer takes the place of the one that has been idle for longest.

use std::ops::Range;

use smoltcp::socket::tcp::{RecvError, State};
use smoltcp::time::{Duration, Instant};

use crate::desk::Heeded;
use crate::framing::{self, Framing};
use crate::link::{Link, Wire};
use crate::lookups::Asker;
use crate::packet::{self, FourTuple, Segment, flag};
use crate::shared::Shared;

const MOST: usize = 128;
/// Without a question, or a last acknowledgement, a session ends.
const IDLE: Duration = Duration::from_secs(10);
/// So many questions of one session may wait for resolvers, and so many bytes of answers for the program to take them;
/// the next question is read after that.
const WAITING_MOST: usize = 64;
const UNSENT_MOST: usize = 1 << 16;
/// Of the stack's two rings for a session; and bytes taken from one at a time.
const RING: usize = 64 << 10;
const PIECE: usize = 4096;

/// All of one thread.
#[derive(Default)]
pub struct Sessions {
    all: Vec<Session>,
    count: u64,
}

struct Session {
    number: u64,
    syn: Segment,
    link: Link,
    asked: Framing,
    unsent: Vec<u8>,
    waiting: usize,
    /// The program has sent its last byte.
    finished: bool,
    /// When it ends if nothing happens.
    deadline: Instant,
    next: Option<Instant>,
    woken: bool,
}

impl Sessions {
    /// Say whether one has these ends.
    pub fn has(&self, tuple: &FourTuple) -> bool {
        self.all.iter().any(|session| session.syn.tuple == *tuple)
    }

    /// Begin one with a SYN that was just read.
    pub fn begin(&mut self, syn: Segment, packet: Range<usize>, now: Instant, wire: &mut Wire, shared: &mut Shared) {
        if self.all.len() >= MOST {
            self.drop_oldest(now, wire, shared);
        }
        let Some(slot) = shared.rings.take(RING) else { return wire.device.answer(&packet::reset_for(&syn)) };
        let mut link = Link::listen(syn.tuple.destination, slot, &mut shared.rings, Vec::new());
        link.limit_segments(packet::segment_limit(wire.device.bytes(packet.clone())));
        wire.device.offer(packet.clone());
        link.ingress(packet.len(), now, wire);
        shared.stats.dns_sessions.up();
        self.count += 1;
        self.all.push(Session {
            number: self.count,
            syn,
            link,
            asked: Framing::default(),
            unsent: Vec::new(),
            waiting: 0,
            finished: false,
            deadline: now + IDLE,
            next: None,
            woken: true,
        });
    }

    /// Give a packet that was just read to its session; false when there is none any more, because its program has begun
    /// anew from the same port.
    pub fn take(
        &mut self,
        segment: &Segment,
        packet: Range<usize>,
        now: Instant,
        wire: &mut Wire,
        shared: &mut Shared,
    ) -> bool {
        let Some(at) = self.all.iter().position(|session| session.syn.tuple == segment.tuple) else { return false };
        if segment.opens() && segment.sequence != self.all[at].syn.sequence {
            self.all.swap_remove(at).link.release(&mut shared.rings);
            return false;
        }
        let session = &mut self.all[at];
        let fin_apart = segment.has(flag::FIN) && segment.payload > 0;
        let fin = fin_apart.then(|| wire.device.set_fin_apart(packet.clone()));
        wire.device.offer(packet.clone());
        session.link.ingress(packet.len(), now, wire);
        if let Some(fin) = fin {
            wire.device.offer_again(&fin);
            session.link.ingress(fin.len(), now, wire);
        }
        session.woken = true;
        true
    }

    /// Give a session the answer that it waits for. One that is gone is no error.
    pub fn deliver(&mut self, number: u64, answer: &[u8]) {
        if let Some(session) = self.all.iter_mut().find(|session| session.number == number) {
            session.waiting -= 1;
            framing::put(&mut session.unsent, answer);
            session.woken = true;
        }
    }

    /// Let all be served: the TUN takes packets again.
    pub fn wake_all(&mut self) {
        self.all.iter_mut().for_each(|session| session.woken = true);
    }

    /// Say whether there is something to do now.
    pub fn is_pending(&self) -> bool {
        self.all.iter().any(|session| session.woken)
    }

    /// Give the time at which there will be something to do.
    pub fn next(&self) -> Option<Instant> {
        self.all.iter().filter_map(|session| session.next).min()
    }

    /// Serve those that something happened to, or whose time has come.
    pub fn serve(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) {
        let mut at = 0;
        while let Some(session) = self.all.get_mut(at) {
            if !session.woken && session.next.is_none_or(|next| next > now) {
                at += 1;
                continue;
            }
            session.woken = false;
            if session.serve(now, wire, shared) {
                at += 1;
            } else {
                let session = self.all.swap_remove(at);
                shared.remember(&session.syn.tuple);
                session.link.release(&mut shared.rings);
            }
        }
    }

    /// Reset all.
    pub fn cut_all(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) {
        for mut session in self.all.drain(..) {
            session.link.socket().abort();
            session.link.egress(now, wire);
            session.link.release(&mut shared.rings);
        }
    }

    fn drop_oldest(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) {
        let oldest = self.all.iter().enumerate().min_by_key(|(_, session)| session.deadline);
        if let Some((at, _)) = oldest {
            let mut session = self.all.swap_remove(at);
            session.link.socket().abort();
            session.link.egress(now, wire);
            session.link.release(&mut shared.rings);
        }
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        self.all.clear();
    }
}

impl Session {
    /// Do all that can be done now; false when it is over.
    fn serve(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) -> bool {
        self.read(now, shared);
        if !self.unsent.is_empty()
            && let Ok(sent) = self.link.socket().send_slice(&self.unsent)
            && sent > 0
        {
            self.unsent.drain(..sent);
            self.deadline = now + IDLE;
        }
        let done = self.waiting == 0 && self.unsent.is_empty();
        if now >= self.deadline {
            match self.link.socket().state() {
                State::Established | State::CloseWait if done => {
                    self.link.socket().close();
                    self.deadline = now + IDLE;
                }
                _ => self.link.socket().abort(), // nobody acknowledges, or takes an answer
            }
        } else if done && self.finished {
            self.link.socket().close();
        }
        let settled = self.link.egress(now, wire);
        let over = settled && matches!(self.link.socket().state(), State::Closed | State::Listen | State::TimeWait);
        self.next = [self.link.next_timer(now, wire), Some(self.deadline)].into_iter().flatten().min();
        self.woken |= self.asked_more();
        !over
    }

    /// Read questions as long as their answers have a place.
    fn read(&mut self, now: Instant, shared: &mut Shared) {
        let Some(desk) = &mut shared.desk else { return };
        while self.waiting < WAITING_MOST && self.unsent.len() < UNSENT_MOST {
            if let Some(message) = self.asked.take() {
                self.deadline = now + IDLE;
                match desk.hear(Asker::Session(self.number), message, now) {
                    Heeded::Answer(answer) => framing::put(&mut self.unsent, &answer),
                    Heeded::Later => self.waiting += 1,
                    Heeded::Nothing => {}
                }
                continue;
            }
            let asked = &mut self.asked;
            let taken = self.link.socket().recv(|ring| {
                let piece = ring.len().min(PIECE);
                asked.feed(&ring[..piece]);
                (piece, piece)
            });
            match taken {
                Ok(1..) => {}
                Ok(0) | Err(RecvError::InvalidState) => return,
                Err(RecvError::Finished) => {
                    self.finished = true;
                    return;
                }
            }
        }
    }

    /// Say whether there is a question to read for whose answer there is a place.
    fn asked_more(&mut self) -> bool {
        let has_place = self.waiting < WAITING_MOST && self.unsent.len() < UNSENT_MOST;
        has_place && (self.asked.is_ready() || self.link.socket().can_recv())
    }
}
