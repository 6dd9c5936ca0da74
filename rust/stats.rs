//! What users and later tools read: counters that only grow, gauges named `*_now`, and notes for the log.
//!
//! Written by the packet threads without a lock on the way of a packet, read by anyone. A note is one printable line
//! without secrets; the same kind of note comes at most once a minute, with the number of those held back.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use smoltcp::time::{Duration, Instant};

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {
        /// All counters, shared by the threads of one stack.
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[doc = $doc])* pub $name: Counter,)*
        }

        impl Stats {
            /// Give every counter by name.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }
        }
    };
}

counters! {
    /// Flows that wait for the proxy's answer.
    flows_connecting_now,
    /// Flows that carry bytes.
    flows_open_now,
    /// Flows that the proxy opened (2xx).
    flows_opened,
    /// Connects that a program gave up before they were answered.
    connects_abandoned,
    /// Flows that ended with a FIN both ways.
    flows_finished,
    /// Flows that a program, or its machine, reset.
    flows_reset_by_client,
    /// Flows that the proxy reset.
    flows_reset_by_proxy,
    /// Bytes from programs to the proxy.
    bytes_up,
    /// Bytes from the proxy to programs.
    bytes_down,
    /// Connects that no proxy could be reached for.
    refused_unreachable,
    /// Connects that no proxy answered in time.
    refused_timeout,
    /// Connects to which the proxy's answer was not HTTP.
    refused_garbage,
    /// Connects that the proxy ended before it answered.
    refused_closed,
    /// Connects that the proxy answered with 403.
    refused_status_403,
    /// Connects that the proxy answered with 407.
    refused_status_407,
    /// Connects that the proxy answered with 502, 503 or 504.
    refused_status_50x,
    /// Connects that the proxy answered with another status.
    refused_status_other,
    /// Connects for which there were no descriptors or ports left.
    refused_descriptors,
    /// Connects for which there was no memory left.
    refused_memory,
    /// Connects for which a connection to the proxy was at hand.
    pool_hits,
    /// Of these, those whose connection the proxy had hung up on.
    pool_stale,
    /// Attempts that went on to the next proxy.
    proxy_failovers,
    /// Segments of connections that this stack does not know; answered with RST.
    unknown_segments,
    /// Packets that were not TCP; answered with ICMP.
    not_tcp,
    /// Packets that were cut, fragmented or failed their checksum; dropped.
    bad_packets,
    /// Packets read from the TUN.
    tun_read,
    /// Packets written to the TUN.
    tun_written,
    /// Packets that the kernel did not take.
    tun_dropped,
}

/// One number.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Add one.
    pub fn up(&self) {
        self.add(1);
    }

    /// Add `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Take one from a gauge.
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Give the number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

const NOTE_EVERY: Duration = Duration::from_secs(60);
const NOTES_MAX: usize = 64;

/// Lines for the log, waiting to be taken.
#[derive(Debug, Default)]
pub struct Notes {
    waiting: AtomicBool,
    inner: Mutex<NotesInner>,
}

#[derive(Debug, Default)]
struct NotesInner {
    lines: VecDeque<String>,
    last: HashMap<&'static str, (Instant, u64)>,
}

impl Notes {
    /// Add the line that `text` makes, unless one of this `kind` was added within a minute. Says whether it was.
    pub fn add(&self, kind: &'static str, now: Instant, text: impl FnOnce() -> String) -> bool {
        let Ok(mut inner) = self.inner.lock() else { return false };
        let mut held_back = 0;
        if let Some((last, held)) = inner.last.get_mut(kind) {
            if now < *last + NOTE_EVERY {
                *held += 1;
                return false;
            }
            held_back = *held;
        }
        inner.last.insert(kind, (now, 0));
        if inner.lines.len() >= NOTES_MAX {
            return false;
        }
        let more = if held_back > 0 { format!(" (and {held_back} more like it before)") } else { String::new() };
        inner.lines.push_back(text() + &more);
        self.waiting.store(true, Ordering::Release);
        true
    }

    /// Say whether there are lines; costs no lock.
    pub fn any(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    /// Take all lines.
    pub fn take(&self) -> Vec<String> {
        self.waiting.store(false, Ordering::Release);
        self.inner.lock().map(|mut inner| inner.lines.drain(..).collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_of_note_comes_once_a_minute_and_counts_the_rest() {
        let notes = Notes::default();
        let start = Instant::from_secs(7);
        assert!(notes.add("a", start, || "first".to_owned()));
        assert!(!notes.add("a", start + Duration::from_secs(59), || "second".to_owned()));
        assert!(notes.add("b", start, || "other".to_owned()));
        assert!(notes.add("a", start + Duration::from_secs(61), || "third".to_owned()));
        assert_eq!(notes.take(), ["first", "other", "third (and 1 more like it before)"]);
        assert!(notes.take().is_empty());
    }

    #[test]
    fn snapshot_names_every_counter() {
        let stats = Stats::default();
        stats.bytes_up.add(7);
        assert!(stats.snapshot().contains(&("bytes_up", 7)));
    }
}
