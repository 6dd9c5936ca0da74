//! What has a descriptor and a timer in a packet thread but is no connection of a program's: a probe of a proxy, a
//! connection to a resolver. There are few, so each is looked at in every round in which one of them has something to do.

use std::os::fd::RawFd;

use smoltcp::time::Instant;

use crate::link::Wire;
use crate::shared::Shared;
use crate::upstream::Ready;

/// Tokens of errands have this bit, which no place of a flow has: there are fewer of them.
pub const TOKEN: u64 = 1 << 31;
/// More are dropped at once: an errand that wants others must have an end.
const MOST: usize = 256;

/// See the head of this file.
pub trait Errand {
    /// Do all that can be done now; give when to be served again at the latest, or that it is over.
    fn serve(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared) -> Served;

    /// Take note of what the descriptor is ready for.
    fn wake(&mut self, ready: Ready);

    /// Give the descriptor to be watched.
    fn descriptor(&self) -> Option<RawFd>;

    /// Give how many descriptors it has had: when that has grown, there is another one to be watched.
    fn dials(&self) -> u32;
}

/// What is to be done with an errand that was served.
#[derive(Debug, PartialEq, Eq)]
pub enum Served {
    Until(Option<Instant>),
    Over,
}

struct Entry {
    number: u32,
    errand: Box<dyn Errand + Send>,
    known: u32,
    next: Option<Instant>,
    woken: bool,
}

/// The errands of one thread.
#[derive(Default)]
pub struct Errands {
    entries: Vec<Entry>,
    count: u32,
}

impl Errands {
    /// Take one in; it is served in the next round.
    pub fn add(&mut self, errand: Box<dyn Errand + Send>) {
        if self.entries.len() < MOST {
            self.count = (self.count + 1) % (TOKEN as u32 - 1); // never all ones: that is the TUN's
            self.entries.push(Entry { number: self.count, errand, known: 0, next: None, woken: true });
        }
    }

    /// Take note of what the descriptor of the errand with `token` is ready for. One that is over is no error.
    pub fn wake(&mut self, token: u64, ready: Ready) {
        let number = (token & (TOKEN - 1)) as u32;
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.number == number) {
            entry.errand.wake(ready);
            entry.woken = true;
        }
    }

    /// Let all be served in the next round: a grant came in, or there is news for them.
    pub fn wake_all(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.woken = true);
    }

    /// Say whether there is something to do now.
    pub fn is_pending(&self) -> bool {
        self.entries.iter().any(|entry| entry.woken)
    }

    /// Give the time at which there will be something to do.
    pub fn next(&self) -> Option<Instant> {
        self.entries.iter().filter_map(|entry| entry.next).min()
    }

    /// Serve those that something happened to, or whose time has come; add to `dials` the descriptors that are new.
    pub fn serve(&mut self, now: Instant, wire: &mut Wire, shared: &mut Shared, dials: &mut Vec<(RawFd, u64)>) {
        self.entries.retain_mut(|entry| {
            if !entry.woken && entry.next.is_none_or(|next| next > now) {
                return true;
            }
            entry.woken = false;
            match entry.errand.serve(now, wire, shared) {
                Served::Over => return false,
                Served::Until(next) => entry.next = next,
            }
            if entry.errand.dials() != entry.known {
                entry.known = entry.errand.dials();
                dials.extend(entry.errand.descriptor().map(|fd| (fd, TOKEN | u64::from(entry.number))));
            }
            true
        });
    }
}
