//! The part of an approach that a PAC file decides: its ways are asked for outside, and gone one after the other; DIRECT is
//! a connection past all proxies, which the helper makes. See ways.rs.

use smoltcp::time::Instant;

use super::{Approach, CONNECT_TIMEOUT, SCRIPT_TIMEOUT, Stage};
use crate::refusal::Refusal;
use crate::upstream::{Ready, Upstream};
use crate::upstreams::Upstreams;
use crate::ways::{self, Way};

impl Approach {
    pub(super) fn ask_script(&mut self, now: Instant, upstreams: &mut Upstreams) {
        self.choosing = upstreams.wishes.wish(ways::KIND, ways::wish(&self.attempt.target));
        self.deadline = Some(now + SCRIPT_TIMEOUT);
        if self.choosing.is_none() {
            self.refused = Some(Refusal::Script);
        }
    }

    pub(super) fn take_choice(&mut self, now: Instant, upstreams: &mut Upstreams) {
        let Some(grant) = self.choosing.and_then(|number| upstreams.wishes.take(number)) else { return };
        self.choosing = None;
        match grant {
            Ok((_, Some(fd))) if self.direct => {
                self.upstream = Some(Upstream::of(fd));
                self.dials += 1;
                (self.ready, self.deadline) = (Ready::default(), Some(now + CONNECT_TIMEOUT));
            }
            Ok(_) if self.direct => self.fail(Refusal::Direct("it cannot be had".to_owned()), now, upstreams),
            Err(why) if self.direct => self.fail(Refusal::Direct(why), now, upstreams),
            Ok((bytes, _)) => {
                self.begun = now;
                self.ways = ways::parse(&bytes, |tls, host, port| ways::addresses(&upstreams.proxies, tls, host, port))
                    .unwrap_or_default();
                if !self.next_way(now, upstreams) {
                    self.refused = self.reason.take().or(Some(Refusal::Script));
                }
            }
            Err(_) => self.refused = Some(Refusal::Script),
        }
    }

    /// Go the next way; false when none is left.
    pub(super) fn next_way(&mut self, now: Instant, upstreams: &mut Upstreams) -> bool {
        self.direct = false;
        match self.ways.pop_front() {
            None => false,
            Some(Way::Proxies(order)) => {
                self.order = Some(order);
                self.dial(now, upstreams) || self.next_way(now, upstreams)
            }
            Some(Way::Direct) => {
                self.go_directly(now, upstreams);
                true
            }
        }
    }

    fn go_directly(&mut self, now: Instant, upstreams: &mut Upstreams) {
        self.attempt.is_the_last();
        (self.stage, self.direct) = (Stage::Dialing, true);
        let Some(wish) = ways::direct(&self.attempt.target) else {
            let why = "no address of it is known here; --direct-domain gives names theirs";
            return self.fail(Refusal::Direct(why.to_owned()), now, upstreams);
        };
        self.choosing = upstreams.wishes.wish("direct", wish);
        self.deadline = Some(now + CONNECT_TIMEOUT);
        if self.choosing.is_none() {
            self.fail(Refusal::Direct("too many are waited for".to_owned()), now, upstreams);
        }
    }
}
