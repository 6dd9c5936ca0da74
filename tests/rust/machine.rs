//! Whatever programs, proxies and the wire do, in any order: bytes out are bytes in, in order, or there is an error on
//! both sides; and no flow is ever stuck. See ends.rs and world.rs.
//!
//! PROXYVPN_CASES=5000 makes it a long run.

use proptest::prelude::*;
use smoltcp::time::Duration;

use crate::ends::{Answerer, Caller, End};
use crate::wire::Wire;
use crate::world::World;

const SLOTS: u16 = 4;
/// Shorter than the time after which the stack gives up a program that does not answer.
const DARK_MAX: u64 = 500_000;
/// A reset that was lost shows when the stack asks whether the program is there.
const PATIENCE: Duration = Duration::from_secs(900);
/// The kernel between stack and proxy has its own time, and timers of some 200 ms.
const KERNEL_PATIENCE: std::time::Duration = std::time::Duration::from_secs(3);
const KEEP_ALIVE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
enum Action {
    // of a program
    Connect(u16),
    Send(u16, usize),
    Finish(u16),
    Deaf(u16, bool),
    Reset(u16),
    Forget(u16),
    // of a proxy
    Grant(u16, usize),
    Refuse(u16, &'static str),
    Answer(u16, usize),
    EndAnswer(u16),
    DeafProxy(u16, bool),
    ResetProxy(u16),
    // of the world
    Mishaps(u8, u8, u8),
    Steps(usize),
    Rest(u64),
}

fn action() -> impl Strategy<Value = Action> {
    use Action as A;
    let slot = || 0..SLOTS;
    let length = || prop_oneof![4usize..100, 100usize..20_000, 20_000usize..400_000, Just(2_500_000)];
    let refusals = vec!["HTTP/1.1 403 No\r\n\r\n", "HTTP/1.1 503 Later\r\n\r\nbody", "SSH-2.0-x\r\n", "\0"];
    prop_oneof![
        5 => slot().prop_map(A::Connect),
        5 => (slot(), length()).prop_map(|(slot, count)| A::Send(slot, count)),
        2 => slot().prop_map(A::Finish),
        1 => (slot(), any::<bool>()).prop_map(|(slot, deaf)| A::Deaf(slot, deaf)),
        1 => slot().prop_map(A::Reset),
        1 => slot().prop_map(A::Forget),
        6 => slot().prop_map(|slot| A::Grant(slot, 100)),
        2 => (slot(), 1usize..20).prop_map(|(slot, count)| A::Grant(slot, count)),
        1 => (slot(), prop::sample::select(refusals)).prop_map(|(slot, answer)| A::Refuse(slot, answer)),
        5 => (slot(), length()).prop_map(|(slot, count)| A::Answer(slot, count)),
        2 => slot().prop_map(A::EndAnswer),
        1 => (slot(), any::<bool>()).prop_map(|(slot, deaf)| A::DeafProxy(slot, deaf)),
        1 => slot().prop_map(A::ResetProxy),
        1 => (0u8..40, 0u8..40, 0u8..40).prop_map(|(lost, doubled, overtaken)| A::Mishaps(lost, doubled, overtaken)),
        1 => Just(A::Mishaps(255, 0, 0)),
        2 => Just(A::Mishaps(0, 0, 0)),
        4 => (1usize..40).prop_map(A::Steps),
        2 => prop_oneof![1u64..3000, 3000u64..40_000].prop_map(A::Rest),
    ]
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// All read, send the rest and shut down.
    Orderly,
    ProgramsReset,
    ProxiesReset,
}

struct Machine {
    world: World,
    seed: u32,
    ring: usize,
    callers: Vec<Caller>,
    answerers: Vec<Answerer>,
    dark: bool,
    darkness: u64,
}

impl Machine {
    fn new(proxies: usize, mtu: usize, ring: usize, seed: u32) -> Machine {
        let world = World::new(proxies, mtu, Wire { seed, ..Wire::default() });
        Machine { world, seed, ring, callers: Vec::new(), answerers: Vec::new(), dark: false, darkness: 0 }
    }

    /// Give the proxy's end of it.
    fn answerer(&mut self, slot: u16) -> Option<&mut Answerer> {
        self.answerers.iter_mut().rev().find(|answerer| answerer.end.slot == slot && !answerer.is_over())
    }

    fn connect(&mut self, slot: u16) {
        let world = &mut self.world;
        if let Some(last) = self.callers.iter_mut().rev().find(|caller| caller.end.slot == slot) {
            if !last.is_over(world) {
                return;
            }
            last.forget(world); // its port is used again at once
        }
        let address = if slot.is_multiple_of(2) { "192.0.2.1" } else { "[2001:db8::1]" };
        let target = format!("{address}:{}", 1000 + slot).parse().unwrap();
        let handle = world.program.connect(target, 40_000 + slot, self.ring);
        world.socket(handle).set_keep_alive(Some(KEEP_ALIVE)); // a RST may be lost
        self.callers.push(Caller::new(self.callers.len() as u32 + 1, slot, handle));
    }

    fn take(&mut self, action: &Action) {
        let most = self.ring * 100; // a small window takes many rounds
        match *action {
            Action::Connect(slot) => self.connect(slot),
            Action::Send(slot, count) => self.with_caller(slot, |caller, _| caller.end.want(count.min(most))),
            Action::Finish(slot) => self.with_caller(slot, |caller, _| caller.end.ending = true),
            Action::Deaf(slot, deaf) => self.with_caller(slot, |caller, _| caller.end.deaf = deaf),
            Action::Reset(slot) => self.with_caller(slot, Caller::reset),
            Action::Forget(slot) => self.with_caller(slot, Caller::forget),
            Action::Grant(slot, count) => self.with_answerer(slot, |answerer| answerer.grant(count)),
            Action::Refuse(slot, answer) => self.with_answerer(slot, |answerer| answerer.refuse(answer)),
            Action::Answer(slot, count) => self.with_answerer(slot, |answerer| answerer.end.want(count.min(most))),
            Action::EndAnswer(slot) => self.with_answerer(slot, |answerer| answerer.end.ending = true),
            Action::DeafProxy(slot, deaf) => self.with_answerer(slot, |answerer| answerer.end.deaf = deaf),
            Action::ResetProxy(slot) => self.with_answerer(slot, Answerer::reset),
            Action::Mishaps(lost, doubled, overtaken) => self.change_wire(lost, doubled, overtaken),
            Action::Steps(count) => (0..count).for_each(|_| self.step()),
            Action::Rest(millis) => self.rest(millis),
        }
        self.step();
        self.step();
    }

    fn with_caller(&mut self, slot: u16, act: impl FnOnce(&mut Caller, &mut World)) {
        if let Some(caller) = self.callers.iter_mut().rev().find(|caller| caller.end.slot == slot) {
            act(caller, &mut self.world);
        }
    }

    fn with_answerer(&mut self, slot: u16, act: impl FnOnce(&mut Answerer)) {
        self.answerer(slot).map(act);
    }

    fn change_wire(&mut self, lost: u8, doubled: u8, overtaken: u8) {
        self.dark = lost == 255;
        self.world.program.link.change(Wire { lost, doubled, overtaken, seed: self.seed });
    }

    fn rest(&mut self, millis: u64) {
        if self.dark {
            if self.darkness + millis > DARK_MAX {
                return;
            }
            self.darkness += millis;
        }
        let end = self.world.now + Duration::from_millis(millis);
        while self.world.now < end {
            for _ in 0..20 {
                self.step();
            }
            self.world.jump(Some(end));
        }
    }

    /// Let everyone act once.
    fn step(&mut self) {
        let world = &mut self.world;
        world.step();
        for listener in &world.proxies {
            while let Ok((stream, _)) = listener.accept() {
                self.answerers.push(Answerer::new(0x4000_0000 + self.answerers.len() as u32, stream));
            }
        }
        for caller in &mut self.callers {
            let before = caller.connected;
            caller.act(world);
            let granted = |answerer: &Answerer| answerer.is_granted() && answerer.end.slot == caller.end.slot;
            assert!(before || !caller.connected || self.answerers.iter().any(granted), "connected to nothing");
        }
        self.answerers.iter_mut().for_each(Answerer::act);
    }

    /// Let the wire be whole and all come to an end; all must be over then, and right.
    fn finish(&mut self, ending: Ending) {
        self.change_wire(0, 0, 0);
        match ending {
            Ending::Orderly => {}
            Ending::ProgramsReset => self.callers.iter_mut().for_each(|caller| caller.reset(&mut self.world)),
            Ending::ProxiesReset => self.answerers.iter_mut().for_each(Answerer::reset),
        }
        if ending == Ending::ProgramsReset {
            // a proxy that does not read is no reason to keep a flow
            self.until("no flow is left", |machine| machine.world.stack.usage().0 == 0);
        }
        self.until("all is over", |machine| {
            for end in machine.callers.iter_mut().map(|caller| &mut caller.end) {
                (end.deaf, end.ending) = (false, true);
            }
            for end in machine.answerers.iter_mut().map(|answerer| &mut answerer.end) {
                (end.deaf, end.ending) = (false, true);
            }
            machine.is_over()
        });
        let right = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.check()));
        assert!(right.is_ok(), "wrong: {}", self.state());
        self.world.assert_empty();
    }

    /// Go on until `done`, for some minutes at most.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Machine) -> bool) {
        let (end, begin) = (self.world.now + PATIENCE, std::time::Instant::now());
        while !done(self) {
            assert!(self.world.now < end || begin.elapsed() < KERNEL_PATIENCE, "never: {what}: {}", self.state());
            (0..20).for_each(|_| self.step());
            // not further, for the kernel between stack and proxy has its own time
            self.world.jump(Some(self.world.now + Duration::from_secs(1)));
        }
    }

    fn is_over(&mut self) -> bool {
        let world = &mut self.world;
        self.answerers.iter().all(Answerer::is_over) && self.callers.iter().all(|caller| caller.is_over(world))
    }

    fn state(&mut self) -> String {
        let mut text = format!("usage {:?}", self.world.stack.usage());
        for caller in &self.callers {
            let state = caller.handle.map(|handle| self.world.socket(handle).state());
            text += &format!("\n  caller {} {state:?}", summary(&caller.end));
        }
        for answerer in &self.answerers {
            text += &format!("\n  answerer granted {} {}", answerer.is_granted(), summary(&answerer.end));
        }
        text
    }

    fn check(&self) {
        for caller in &self.callers {
            self.check_caller(caller);
        }
        for answerer in &self.answerers {
            self.check_answerer(answerer);
        }
    }

    fn check_caller(&self, caller: &Caller) {
        let end = &caller.end;
        let is_partner =
            |other: &&Answerer| end.partner() == Some(other.end.number) || other.end.partner() == Some(end.number);
        let partners: Vec<&Answerer> = self.answerers.iter().filter(is_partner).collect();
        assert!(partners.len() <= 1, "two ends for one: {}", summary(end));
        let Some(partner) = partners.first() else {
            assert!(end.got.is_empty(), "bytes from nowhere: {}", summary(end));
            let broke = |other: &Answerer| other.end.slot == end.slot && other.end.aborted;
            let fine = !caller.is_clean() || end.sent == 0 || self.answerers.iter().any(broke);
            assert!(fine, "nobody got it: {}", summary(end));
            return;
        };
        let both = format!("{} and {}", summary(end), summary(&partner.end));
        end.check(&partner.end);
        if end.eof {
            assert!(partner.end.finished && end.got.len() == partner.end.sent, "cut answer: {both}");
        }
        if caller.is_clean() && !partner.end.aborted {
            assert!(partner.end.eof && partner.end.got.len() == end.sent, "lost: {both}");
        }
        if end.error && !end.aborted {
            assert!(!partner.is_clean(), "error on one side only: {both}");
        }
    }

    fn check_answerer(&self, answerer: &Answerer) {
        let end = &answerer.end;
        let partner = self.callers.iter().find(|caller| end.partner() == Some(caller.end.number));
        let Some(partner) = partner else {
            assert!(end.got.is_empty(), "bytes from nowhere: {}", summary(end));
            let ended = |caller: &Caller| caller.end.slot == end.slot && caller.end.finished && caller.end.sent == 0;
            let fine = !end.eof || !answerer.is_granted() || self.callers.iter().any(ended);
            assert!(fine, "an end that nobody made: {}", summary(end));
            return;
        };
        let both = format!("{} and {}", summary(end), summary(&partner.end));
        end.check(&partner.end);
        if end.eof {
            assert!(partner.end.finished && end.got.len() == partner.end.sent, "cut: {both}");
        }
    }
}

fn summary(end: &End) -> String {
    let End { number, slot, wanted, sent, .. } = end;
    let flags = [("finished", end.finished), ("eof", end.eof), ("error", end.error), ("aborted", end.aborted)];
    let set: Vec<&str> = flags.iter().filter(|flag| flag.1).map(|flag| flag.0).collect();
    format!("{number:x} slot {slot} sent {sent} of {wanted}, got {}, {}", end.got.len(), set.join(" "))
}

fn cases() -> u32 {
    std::env::var("PROXYVPN_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(40)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_time: 20_000, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn bytes_arrive_or_both_sides_see_an_error_and_nothing_is_stuck(
        actions in prop::collection::vec(action(), 1..80),
        proxies in 1usize..=2,
        mtu in prop::sample::select(vec![576usize, 1500, 65535]),
        ring in prop::sample::select(vec![600usize, 5000, 1 << 18]),
        seed in 1u32..u32::MAX,
        ending in prop::sample::select(vec![Ending::Orderly, Ending::Orderly, Ending::ProgramsReset, Ending::ProxiesReset]),
    ) {
        let mut machine = Machine::new(proxies, mtu, ring, seed);
        for action in &actions {
            machine.take(action);
        }
        machine.finish(ending);
    }
}
