//! How long connects took, as a histogram: for each bound, how many were quicker.
//!
//! Measured from the SYN to the moment that its program is told, for the connects that a proxy opened: what the proxies
//! cost a program, dead ones that were tried first included. Refused connects are not in it: what they took is mostly the
//! time that somebody was waited for, and they are counted by reason. Written once a connect; the sums that make it
//! cumulative are made when it is read.

use smoltcp::time::Duration;

use crate::stats::Counter;

macro_rules! bounds {
    ($($ms:literal),*) => {
        const BOUNDS: [(u64, &str); [$($ms),*].len()] = [$(($ms, concat!("connect_under_", $ms, "_ms"))),*];

        /// Each name, with what it counts.
        pub const DESCRIBED: [(&str, &str); BOUNDS.len() + 2] = [
            $((
                concat!("connect_under_", $ms, "_ms"),
                concat!("Connects that took less than ", $ms, " ms, the quicker ones included."),
            ),)*
            ("connect_count", "Connects that were measured; as many as flows were opened."),
            ("connect_sum_us", "Microseconds that they took together."),
        ];
    };
}

bounds!(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000);

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Latency {
    /// Connects that were quicker than their bound, and not than the one before; the last have no bound.
    buckets: [Counter; BOUNDS.len() + 1],
    micros: Counter,
}

impl Latency {
    /// Count a connect that took `time`.
    pub fn count(&self, time: Duration) {
        self.buckets[BOUNDS.partition_point(|(ms, _)| Duration::from_millis(*ms) <= time)].up();
        self.micros.add(time.total_micros());
    }

    /// Give everything by name.
    pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
        let mut sum = 0;
        let names = BOUNDS.iter().map(|(_, name)| *name).chain(["connect_count"]);
        let mut all: Vec<_> = names
            .zip(&self.buckets)
            .map(|(name, bucket)| {
                sum += bucket.get();
                (name, sum)
            })
            .collect();
        all.push(("connect_sum_us", self.micros.get()));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(latency: &Latency, name: &str) -> u64 {
        latency.snapshot().iter().find(|(found, _)| *found == name).unwrap().1
    }

    #[test]
    fn connect_is_counted_under_every_bound_that_it_is_quicker_than() {
        let latency = Latency::default();
        for micros in [0, 999, 1000, 4999, 29_999_999, 30_000_000, 40_000_000] {
            latency.count(Duration::from_micros(micros));
        }
        for (name, expected) in [
            ("connect_under_1_ms", 2),
            ("connect_under_2_ms", 3),
            ("connect_under_5_ms", 4),
            ("connect_under_10000_ms", 4),
            ("connect_under_30000_ms", 5),
            ("connect_count", 7),
            ("connect_sum_us", 100_006_997),
        ] {
            assert_eq!(value(&latency, name), expected, "{name}");
        }
    }

    #[test]
    fn bounds_ascend() {
        assert!(BOUNDS.is_sorted());
    }

    #[test]
    fn everything_is_described() {
        let names: Vec<_> = Latency::default().snapshot().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, DESCRIBED.map(|(name, _)| name));
    }
}
