//! A flow's place among the gauges: in exactly one of them from its SYN to its end, in none afterwards, whatever ends it.
//!
//! Counts when a phase changes, never for a packet.

use std::sync::Arc;

use crate::phase::Phase;
use crate::stats::{Counter, Stats};

/// A flow that is counted where it is; dropped, it is counted nowhere.
pub struct Counted {
    stats: Arc<Stats>,
    phase: Phase,
}

impl Counted {
    /// Count a flow that begins.
    pub fn begin(stats: &Arc<Stats>) -> Counted {
        stats.flows_begun.up();
        let mut counted = Counted { stats: Arc::clone(stats), phase: Phase::Gone };
        counted.at(Phase::Dialing);
        counted
    }

    /// Count it in `phase` from now on. It may be seen in two gauges for a moment, so that it is never seen below zero.
    pub fn at(&mut self, phase: Phase) {
        if let Some(gauge) = gauge(&self.stats, phase) {
            gauge.up();
        }
        if let Some(gauge) = gauge(&self.stats, self.phase) {
            gauge.down();
        }
        self.phase = phase;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.at(Phase::Gone);
    }
}

fn gauge(stats: &Stats, phase: Phase) -> Option<&Counter> {
    match phase {
        Phase::Dialing => Some(&stats.flows_dialing_now),
        Phase::Asking => Some(&stats.flows_asking_now),
        Phase::Granted => Some(&stats.flows_granted_now),
        Phase::Open => Some(&stats.flows_established_now),
        Phase::ClientDone => Some(&stats.flows_half_closed_by_client_now),
        Phase::UpstreamDone => Some(&stats.flows_half_closed_by_proxy_now),
        Phase::BothDone => Some(&stats.flows_closing_now),
        Phase::Severed | Phase::Draining | Phase::Resetting => Some(&stats.flows_breaking_now),
        Phase::Gone => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase::{Event, next};

    const EVENTS: [Event; 13] = [
        Event::Connected,
        Event::Retry,
        Event::Granted,
        Event::Accepted,
        Event::Failed,
        Event::ClientFin,
        Event::UpstreamEof,
        Event::SendFailed,
        Event::UpstreamReset,
        Event::ClientReset,
        Event::Drained,
        Event::Sent,
        Event::Finished,
    ];

    /// The gauges that are not zero; sums are not among them.
    fn gauges(stats: &Stats) -> Vec<(&'static str, u64)> {
        let is_sum = |name| ["flows_connecting_now", "flows_open_now"].contains(&name);
        let all = stats.snapshot().into_iter();
        all.filter(|(name, value)| name.ends_with("_now") && !is_sum(name) && *value != 0).collect()
    }

    /// Go every way of at most `steps` events through the table, looking at the gauges at each step.
    fn walk(phase: Phase, path: &mut Vec<Phase>, steps: usize, walked: &mut usize) {
        path.push(phase);
        *walked += 1;
        let stats = Arc::new(Stats::default());
        let mut counted = Counted::begin(&stats);
        for &phase in path.iter() {
            counted.at(phase);
            let expected = usize::from(phase != Phase::Gone);
            let found = gauges(&stats);
            assert!(found.len() == expected && found.iter().all(|(_, value)| *value == 1), "{path:?}: {found:?}");
        }
        drop(counted);
        assert_eq!(gauges(&stats), [], "{path:?}");
        if steps > 0 {
            for following in EVENTS.iter().filter_map(|event| next(phase, *event)) {
                walk(following, path, steps - 1, walked);
            }
        }
        path.pop();
    }

    #[test]
    fn flow_is_in_one_gauge_all_its_life_and_in_none_afterwards() {
        let mut walked = 0;
        walk(Phase::Dialing, &mut Vec::new(), 8, &mut walked);
        assert!(walked > 500, "{walked}");
    }

    #[test]
    fn flows_add_up() {
        let stats = Arc::new(Stats::default());
        let mut some: Vec<Counted> = (0..5).map(|_| Counted::begin(&stats)).collect();
        some[0].at(Phase::Open);
        some[1].at(Phase::BothDone);
        some[2].at(Phase::Gone);
        let all = stats.snapshot();
        let value = |name| all.iter().find(|(found, _)| *found == name).unwrap().1;
        assert_eq!((value("flows_connecting_now"), value("flows_open_now"), value("flows_begun")), (2, 2, 5));
    }
}
