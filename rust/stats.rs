//! What users and later tools read: counters that only grow, gauges named `*_now`, and notes for the log.
//!
//! Written by the packet threads without a lock on the way of a packet, read by anyone; what several threads write to
//! is their sum. Names are part of the interface, and docs/counters.md lists them: its lines are the words given here,
//! which a test below checks. A note is one printable line without secrets; the same kind of note comes at most once a
//! minute, with the number of those held back.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use smoltcp::time::{Duration, Instant};

use crate::latency::Latency;

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {
        /// All counters, shared by the threads of one stack.
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[doc = $doc])* pub $name: Counter,)*
            /// How long connects took.
            pub latency: Latency,
        }

        /// Each counter that is written, with what it counts.
        pub const COUNTED: &[(&str, &str)] = &[$((stringify!($name), concat!($($doc),*)),)*];

        impl Stats {
            fn counted(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }
        }
    };
}

counters! {
    /// Flows for which a connection to a proxy is being made.
    flows_dialing_now,
    /// Flows that wait for the proxy's answer to CONNECT.
    flows_asking_now,
    /// Flows that the proxy has opened, and whose program is about to be told.
    flows_granted_now,
    /// Flows that are open both ways.
    flows_established_now,
    /// Flows whose program has sent its last byte, and may still receive.
    flows_half_closed_by_client_now,
    /// Flows whose proxy has sent its last byte, and may still receive.
    flows_half_closed_by_proxy_now,
    /// Flows that both sides have finished; the last acknowledgements are under way.
    flows_closing_now,
    /// Flows that the proxy broke; the program still gets what came before that, then a RST.
    flows_breaking_now,
    /// Connects of programs: SYNs that began a flow.
    flows_begun,
    /// Flows that the proxy opened (2xx).
    flows_opened,
    /// Flows whose program gave up before it had an answer, or whose SYN the stack does not take.
    flows_abandoned,
    /// Opened flows that ended with a FIN both ways.
    flows_finished,
    /// Opened flows that a program, or its machine, reset.
    flows_reset_by_client,
    /// Opened flows that the proxy reset, or broke in another way.
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
    /// Connects for which there was no TLS with the proxy: its certificate, ours, or none at all.
    refused_tls,
    /// Connects for which there were no descriptors or ports left.
    refused_descriptors,
    /// Connects for which there was no memory left.
    refused_memory,
    /// Connects to a virtual address that no name has.
    refused_nameless,
    /// Connects to port 853 (DNS over TLS) with virtual addresses.
    refused_dns_over_tls,
    /// Connects for which no credentials could be shown: the proxy had refused them a while ago, or a token was missing.
    refused_credentials,
    /// Connects that the PAC file has no way for.
    refused_script,
    /// Connects that were to go past the proxies, as the PAC file wants, and failed.
    refused_direct,
    /// Connects that the proxy answered with 401 (Unauthorized).
    refused_status_401,
    /// Connects that the proxy answered with 403 (Forbidden).
    refused_status_403,
    /// Connects that the proxy answered with 404 (Not Found).
    refused_status_404,
    /// Connects that the proxy answered with 405 (Method Not Allowed).
    refused_status_405,
    /// Connects that the proxy answered with 407 (Proxy Authentication Required).
    refused_status_407,
    /// Connects that the proxy answered with 408 (Request Timeout).
    refused_status_408,
    /// Connects that the proxy answered with 429 (Too Many Requests).
    refused_status_429,
    /// Connects that the proxy answered with 500 (Internal Server Error).
    refused_status_500,
    /// Connects that the proxy answered with 501 (Not Implemented).
    refused_status_501,
    /// Connects that the proxy answered with 502 (Bad Gateway).
    refused_status_502,
    /// Connects that the proxy answered with 503 (Service Unavailable).
    refused_status_503,
    /// Connects that the proxy answered with 504 (Gateway Timeout).
    refused_status_504,
    /// Connects that the proxy answered with another status.
    refused_status_other,
    /// Attempts that went on to the next proxy.
    proxy_failovers,
    /// Attempts for which a second proxy was dialled, the first being slow to accept a connection.
    proxy_races,
    /// Times that one of several proxies was found to be down.
    proxies_lost,
    /// Connections to the proxy that wait for a connect, made before it.
    pool_idle_now,
    /// Connections that were made before they were needed.
    pool_made,
    /// Connects for which a connection to the proxy was at hand.
    pool_hits,
    /// Of these, those whose connection the proxy had hung up on.
    pool_stale,
    /// Questions to resolvers, by UDP and TCP, that were answered here or passed on.
    dns_questions,
    /// Of these, those that were malformed or of a kind that nobody answers.
    dns_refused,
    /// Of these, those that were sent to a resolver.
    dns_sent,
    /// Of these, those that got no answer but SERVFAIL, for want of a resolver, of time or of addresses.
    dns_failed,
    /// Connections of programs to port 53 that were served here.
    dns_sessions,
    /// Names that have a virtual address.
    names_now,
    /// Names that could not be written to the file that outlives the worker.
    names_unwritten,
    /// Segments of connections that this stack does not know; answered with RST.
    unknown_segments,
    /// Packets that were neither TCP nor questions to resolvers; answered with ICMP.
    not_tcp,
    /// Packets that were cut, fragmented or failed their checksum; dropped.
    bad_packets,
    /// Packets read from the TUN.
    tun_read,
    /// Packets written to the TUN.
    tun_written,
    /// Packets that the kernel did not take.
    tun_dropped,
    /// Lines about a refusal that were not written to the log, being like one of the same minute.
    notes_held_back,
}

/// What is summed up when it is read: its name, what it counts, and of which gauges it is the sum.
pub const SUMS: [(&str, &str, &[&str]); 2] = [
    (
        "flows_connecting_now",
        "Flows whose program waits for its connect(): dialing, asking, granted.",
        &["flows_dialing_now", "flows_asking_now", "flows_granted_now"],
    ),
    (
        "flows_open_now",
        "Flows whose program is connected: all the others.",
        &[
            "flows_established_now",
            "flows_half_closed_by_client_now",
            "flows_half_closed_by_proxy_now",
            "flows_closing_now",
            "flows_breaking_now",
        ],
    ),
];

impl Stats {
    /// Give everything by name. What are sums or parts of each other here is so in every answer.
    pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
        let mut all = self.counted();
        let sums = SUMS.map(|(name, _, parts)| {
            (name, all.iter().filter(|(part, _)| parts.contains(part)).map(|(_, value)| value).sum())
        });
        all.extend(sums);
        all.extend(self.latency.snapshot());
        all
    }
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

    /// Make a gauge follow one of the numbers that it is the sum of: `counted` is what it knew of that one, `now` what
    /// there is to know.
    pub fn follow(&self, counted: &mut u64, now: u64) {
        if *counted != now {
            self.add(now.wrapping_sub(*counted));
            *counted = now;
        }
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

    /// Add a line of which there are few by their nature.
    pub fn tell(&self, line: String) {
        if let Ok(mut inner) = self.inner.lock()
            && inner.lines.len() < NOTES_MAX
        {
            inner.lines.push_back(line);
            self.waiting.store(true, Ordering::Release);
        }
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
    use std::collections::HashSet;

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
    fn snapshot_names_every_counter_once() {
        let stats = Stats::default();
        stats.bytes_up.add(7);
        let found = stats.snapshot();
        assert!(found.contains(&("bytes_up", 7)));
        let names: HashSet<&str> = found.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), found.len());
    }

    #[test]
    fn every_flow_gauge_is_part_of_one_sum() {
        let mut parts: Vec<&str> = SUMS.iter().flat_map(|(_, _, parts)| *parts).copied().collect();
        let mut gauges: Vec<&str> = COUNTED.iter().map(|(name, _)| *name).filter(|name| is_flow_gauge(name)).collect();
        parts.sort_unstable();
        gauges.sort_unstable();
        assert_eq!(parts, gauges);
    }

    fn is_flow_gauge(name: &str) -> bool {
        name.starts_with("flows_") && name.ends_with("_now")
    }

    #[test]
    fn gauge_that_follows_two_numbers_is_their_sum() {
        let (gauge, mut one, mut other) = (Counter::default(), 0, 0);
        gauge.follow(&mut one, 5);
        gauge.follow(&mut other, 2);
        gauge.follow(&mut one, 1);
        assert_eq!(gauge.get(), 3);
        gauge.follow(&mut other, 0);
        gauge.follow(&mut one, 0);
        assert_eq!(gauge.get(), 0);
    }

    /// The document lists exactly what a snapshot gives, with the words of this file.
    #[test]
    fn document_lists_every_counter() {
        let written: HashSet<&str> =
            include_str!("../docs/counters.md").lines().filter(|line| line.starts_with("| `")).collect();
        let known: HashSet<String> = described().iter().map(|(name, text)| format!("| `{name}` | {text} |")).collect();
        let missing: Vec<_> = known.iter().filter(|line| !written.contains(line.as_str())).collect();
        let stale: Vec<_> = written.iter().filter(|line| !known.contains(**line)).collect();
        assert!(missing.is_empty() && stale.is_empty(), "missing: {missing:#?}, stale: {stale:#?}");
        assert_eq!(known.len(), Stats::default().snapshot().len());
    }

    fn described() -> Vec<(&'static str, &'static str)> {
        let sums = SUMS.iter().map(|(name, text, _)| (*name, *text));
        COUNTED.iter().copied().chain(sums).chain(crate::latency::DESCRIBED).map(|(n, text)| (n, text.trim())).collect()
    }
}
