//! The life of a connection as a table: which event may follow in which phase, and what comes of it.
//!
//! ```text
//!     Dialing ──Connected──> Asking ──Granted──> Granted ──Accepted──> Open
//!        ^ \__________________/ Retry            (the SYN was held      | ClientFin     ──> ClientDone ──UpstreamEof─┐
//!        └────────────────────┘                   back until here)      | UpstreamEof   ──> UpstreamDone ─ClientFin──┤
//!                                                                       | SendFailed    ──> Severed ──UpstreamReset─┐│
//!                                                                       | UpstreamReset ──> Draining <──────────────┘v
//!     from everywhere: Failed, ClientReset ──> Gone            Draining ──Drained──> Resetting ──Sent──> Gone    BothDone
//!                                                                                             BothDone ──Finished──> Gone
//! ```
//!
//! An event that the table does not know changes nothing.

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Connecting to a proxy; the program's SYN is held.
    Dialing,
    /// The CONNECT request is on its way, or its reply is.
    Asking,
    /// The proxy said 2xx; the SYN is about to be answered.
    Granted,
    /// Bytes move both ways.
    Open,
    /// The program has sent its last byte, and the proxy knows.
    ClientDone,
    /// The proxy has sent its last byte, and the stack tells the program.
    UpstreamDone,
    /// Both have; the last acknowledgements are under way.
    BothDone,
    /// The proxy takes no more bytes; what it had sent before is still read.
    Severed,
    /// The proxy broke the connection; the program still gets what came before that.
    Draining,
    /// The program is about to get a RST.
    Resetting,
    /// Nothing is left.
    Gone,
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Connected,
    Retry,
    Granted,
    Accepted,
    Failed,
    ClientFin,
    UpstreamEof,
    SendFailed,
    UpstreamReset,
    ClientReset,
    Drained,
    Sent,
    Finished,
}

/// Give the phase that follows; None when `event` cannot happen in `phase`.
pub fn next(phase: Phase, event: Event) -> Option<Phase> {
    use Event as E;
    use Phase as P;
    match (phase, event) {
        (P::Dialing, E::Connected) => Some(P::Asking),
        (P::Dialing | P::Asking, E::Retry) => Some(P::Dialing),
        (P::Asking, E::Granted) => Some(P::Granted),
        (P::Granted, E::Accepted) => Some(P::Open),
        (P::Dialing | P::Asking | P::Granted, E::Failed) => Some(P::Gone),
        (P::Open, E::ClientFin) => Some(P::ClientDone),
        (P::Open, E::UpstreamEof) => Some(P::UpstreamDone),
        (P::ClientDone, E::UpstreamEof) | (P::UpstreamDone, E::ClientFin) => Some(P::BothDone),
        (P::Open, E::SendFailed) => Some(P::Severed),
        (P::Open | P::ClientDone | P::UpstreamDone | P::Severed, E::UpstreamReset) => Some(P::Draining),
        (P::Severed | P::Draining, E::Drained) => Some(P::Resetting),
        (P::Resetting, E::Sent) | (P::BothDone, E::Finished) => Some(P::Gone),
        (P::Gone, _) => None,
        (_, E::ClientReset) => Some(P::Gone),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Event as E;
    use super::Phase as P;
    use super::next;

    const PHASES: [P; 11] = [
        P::Dialing,
        P::Asking,
        P::Granted,
        P::Open,
        P::ClientDone,
        P::UpstreamDone,
        P::BothDone,
        P::Severed,
        P::Draining,
        P::Resetting,
        P::Gone,
    ];

    /// The phases that follow `event`, one for each of PHASES.
    fn row(event: E, expected: [Option<P>; 11]) {
        assert_eq!(PHASES.map(|phase| next(phase, event)), expected, "{event:?}");
    }

    #[test]
    fn connection_begins_by_dialing_and_asking() {
        let n = None;
        row(E::Connected, [Some(P::Asking), n, n, n, n, n, n, n, n, n, n]);
        row(E::Retry, [Some(P::Dialing), Some(P::Dialing), n, n, n, n, n, n, n, n, n]);
        row(E::Granted, [n, Some(P::Granted), n, n, n, n, n, n, n, n, n]);
        row(E::Accepted, [n, n, Some(P::Open), n, n, n, n, n, n, n, n]);
    }

    #[test]
    fn only_a_connection_that_is_not_open_can_fail() {
        let (n, gone) = (None, Some(P::Gone));
        row(E::Failed, [gone, gone, gone, n, n, n, n, n, n, n, n]);
    }

    #[test]
    fn each_side_ends_once_and_both_make_an_end() {
        let (n, both) = (None, Some(P::BothDone));
        row(E::ClientFin, [n, n, n, Some(P::ClientDone), n, both, n, n, n, n, n]);
        row(E::UpstreamEof, [n, n, n, Some(P::UpstreamDone), both, n, n, n, n, n, n]);
        row(E::Finished, [n, n, n, n, n, n, Some(P::Gone), n, n, n, n]);
    }

    #[test]
    fn reset_of_the_proxy_drains_first_and_that_of_the_client_ends_at_once() {
        let (n, drain, gone) = (None, Some(P::Draining), Some(P::Gone));
        row(E::UpstreamReset, [n, n, n, drain, drain, drain, n, drain, n, n, n]);
        let reset = Some(P::Resetting);
        row(E::Drained, [n, n, n, n, n, n, n, reset, reset, n, n]);
        row(E::SendFailed, [n, n, n, Some(P::Severed), n, n, n, n, n, n, n]);
        row(E::Sent, [n, n, n, n, n, n, n, n, n, gone, n]);
        row(E::ClientReset, [gone, gone, gone, gone, gone, gone, gone, gone, gone, gone, n]);
    }
}
