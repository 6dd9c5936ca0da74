//! What is counted for each address of a proxy by itself: counters that only grow, gauges named `*_now`.
//!
//! Written a few times in the life of a connection, never for a packet; read by anyone. Names are part of the interface:
//! docs/counters.md lists them, with the words given here, which a test below checks.

use crate::refusal::Refusal;
use crate::stats::Counter;

macro_rules! tally {
    ($($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {
        /// See the head of this file.
        #[derive(Debug, Default)]
        pub struct Tally {
            $($(#[doc = $doc])* pub $name: Counter,)*
        }

        /// Each counter, with what it counts.
        pub const TALLIED: &[(&str, &str)] = &[$((stringify!($name), concat!($($doc),*)),)*];

        impl Tally {
            /// Give everything by name.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }
        }
    };
}

tally! {
    /// Connects for which it was asked, or would have been, had it been reached.
    connects,
    /// Of these, those that it opened (2xx).
    opened,
    /// Of these, those that it could not be reached for.
    unreachable,
    /// Of these, those that it neither accepted nor answered in time.
    timeout,
    /// Of these, those to which its answer was not HTTP.
    garbage,
    /// Of these, those that found no TLS with it.
    tls,
    /// Of these, those that it ended before it answered.
    closed,
    /// Of these, those that it wanted other credentials for (407).
    refused_407,
    /// Of these, those that it refused as its policy (4xx).
    refused_4xx,
    /// Of these, those that it could not carry (5xx).
    refused_5xx,
    /// Of these, those that it answered with another status.
    refused_other,
    /// Connections through it that are open, or being made.
    flows_now,
    /// Bytes from programs to it.
    bytes_up,
    /// Bytes from it to programs.
    bytes_down,
    /// Microseconds from asking for a connection to it to its 2xx, of all that it opened together.
    connect_sum_us,
    /// Times that it was found to be down.
    downs,
    /// Probes that were made of it.
    probes,
}

impl Tally {
    /// Count a connect that was refused; what is not of a proxy's doing is nobody's.
    pub fn refused(&self, refusal: &Refusal) {
        match refusal {
            Refusal::Unreachable(_) => self.unreachable.up(),
            Refusal::Timeout(_) => self.timeout.up(),
            Refusal::Garbage(_) => self.garbage.up(),
            Refusal::Tls(_) => self.tls.up(),
            Refusal::Closed => self.closed.up(),
            Refusal::Status(407, _) | Refusal::Credentials { .. } => self.refused_407.up(),
            Refusal::Status(400..=499, _) => self.refused_4xx.up(),
            Refusal::Status(500..=599, _) => self.refused_5xx.up(),
            Refusal::Status(..) => self.refused_other.up(),
            Refusal::Descriptors(_)
            | Refusal::Memory
            | Refusal::Nameless
            | Refusal::OverTls
            | Refusal::Script
            | Refusal::Direct(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_is_counted_by_its_kind() {
        let tally = Tally::default();
        let status = |status| Refusal::Status(status, String::new());
        for refusal in [Refusal::Closed, status(403), status(429), status(407), status(503), status(302)] {
            tally.refused(&refusal);
        }
        let found: Vec<_> = tally.snapshot().into_iter().filter(|(_, value)| *value > 0).collect();
        let expected =
            [("closed", 1), ("refused_407", 1), ("refused_4xx", 2), ("refused_5xx", 1), ("refused_other", 1)];
        assert_eq!(found, expected);
    }

    /// The document lists exactly these, with the words of this file.
    #[test]
    fn document_lists_every_counter_of_a_proxy() {
        let document = include_str!("../docs/counters.md");
        for (name, text) in TALLIED {
            let line = format!("| **`{name}`** | {} |", text.trim());
            assert!(document.lines().any(|found| found == line), "missing: {line}");
        }
        assert_eq!(document.lines().filter(|line| line.starts_with("| **`")).count(), TALLIED.len());
    }
}
