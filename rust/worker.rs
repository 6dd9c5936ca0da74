//! The loop of one packet thread: the only file that waits.
//!
//! Wake-up, then: what descriptors are ready for; packets of the TUN, at most BATCH; each flow that something happened
//! to, once; new descriptors; and only then wait again, until an event or the next timer. epoll(7): flow descriptors are
//! added once and edge-triggered, the TUN is level-triggered.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, LazyLock};
use std::time;

use smoltcp::time::Instant;

use crate::approach::{Approach, Progress};
use crate::error::Error;
use crate::refusal::Refusal;
use crate::spin::{LOOK, Spin};
use crate::stack::Stack;
use crate::target::Target;
use crate::trial::{Outcome, Question};
use crate::upstream::Ready;
use crate::upstreams::{Proxy, Upstreams};
use crate::wishes::Wishes;

/// Packets read before flows are served: enough to gather bytes into few system calls, few enough to be fair.
const BATCH: usize = 64;
const EVENTS: usize = 256;
/// Tokens that no flow has: their place would be number 2^32 - 1.
const TUN: u64 = u32::MAX as u64;
const STOP: u64 = TUN + (1 << 32);
const BELL: u64 = TUN + (2 << 32);

static START: LazyLock<time::Instant> = LazyLock::new(time::Instant::now);

/// Give the time since the first call, by a clock that nobody sets (smoltcp's own would follow the wall clock).
pub fn clock() -> Instant {
    Instant::from_micros(i64::try_from(START.elapsed().as_micros()).unwrap_or(i64::MAX))
}

/// An eventfd(2) by which one thread tells another something.
#[derive(Debug)]
pub struct Signal(OwnedFd);

impl Signal {
    /// Create one that has not been raised.
    pub fn new() -> Result<Signal, Error> {
        // SAFETY: plain system call; the descriptor is new and ours.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        check(fd).map(|fd| Signal(unsafe_owned(fd)))
    }

    /// Make it readable.
    pub fn raise(&self) {
        let one = 1u64;
        // SAFETY: eight bytes, as eventfd(2) wants; it can only fail when it is raised already.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Make it unreadable.
    pub fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: eight bytes, as eventfd(2) wants; it can only fail when it is not raised.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

impl AsRawFd for Signal {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Carry packets until `stop` is raised; `bell` is when grants have come in. `told` is called after each round, for
/// whoever waits for notes and wishes.
pub fn run(stack: &mut Stack, stop: &Signal, bell: &Signal, told: impl Fn()) -> Result<(), Error> {
    let epoll = Epoll::new()?;
    epoll.control(libc::EPOLL_CTL_ADD, stop.as_raw_fd(), libc::EPOLLIN, STOP)?;
    epoll.control(libc::EPOLL_CTL_ADD, bell.as_raw_fd(), libc::EPOLLIN, BELL)?;
    epoll.control(libc::EPOLL_CTL_ADD, stack.as_raw_fd(), libc::EPOLLIN, TUN)?;
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
    let (mut work, mut was_stuck, mut spin) = (Work::default(), false, Spin::default());
    let mut packets = false;
    loop {
        let count = if work.more {
            epoll.wait(&mut events, 0)?
        } else {
            epoll.wait_long(&mut events, stack.next_timer(), &mut spin, work.done)?
        };
        let now = clock();
        packets |= count == EVENTS; // the TUN may be among those that found no room
        for event in &events[..count] {
            match event.u64 {
                STOP => {
                    stack.cut_all(now);
                    return Ok(());
                }
                TUN => packets = true,
                BELL => {
                    bell.clear();
                    stack.take_grants();
                }
                token => stack.wake(token, readiness(event.events)),
            }
        }
        work = round(stack, packets, now)?;
        packets = work.packets;
        work.done += count;
        for (fd, token) in stack.dials() {
            // fails where the flow has given its descriptor up again: then there is nothing to watch
            let _ = epoll.control(libc::EPOLL_CTL_ADD, fd, FLOW_EVENTS, token);
        }
        if stack.is_stuck() != was_stuck {
            was_stuck = !was_stuck;
            let interest = if was_stuck { libc::EPOLLOUT } else { libc::EPOLLIN };
            epoll.control(libc::EPOLL_CTL_MOD, stack.as_raw_fd(), interest, TUN)?;
        }
        told();
    }
}

/// Ask each of `proxies`, one after the other, until one takes it or `stop` is raised.
pub fn try_proxies(
    proxies: &[Proxy],
    question: &Question,
    wishes: Wishes,
    (stop, bell): (&Signal, &Signal),
    told: impl Fn(),
) -> Result<Vec<Outcome>, Error> {
    let epoll = Epoll::new()?;
    epoll.control(libc::EPOLL_CTL_ADD, stop.as_raw_fd(), libc::EPOLLIN, STOP)?;
    epoll.control(libc::EPOLL_CTL_ADD, bell.as_raw_fd(), libc::EPOLLIN, BELL)?;
    let mut upstreams = Upstreams::new(Vec::new(), Arc::default(), Arc::default());
    upstreams.wishes = wishes;
    let mut outcomes = Vec::new();
    for (index, proxy) in proxies.iter().enumerate() {
        upstreams.only(proxy.clone());
        let mut asked = question.of(proxy);
        let Some(mut outcome) = try_one(&mut upstreams, &asked, &epoll, bell, &told)? else { break };
        if matches!((question, &outcome), (Question::Itself { .. }, Some(Refusal::Closed))) {
            asked = proxy.address.into();
            let Some(second) = try_one(&mut upstreams, &asked, &epoll, bell, &told)? else { break };
            outcome = second;
        }
        let outcome = match outcome {
            None => Outcome::fine(index),
            Some(refusal) => Outcome::of(index, &refusal, refusal.text(&asked, proxy.address)),
        };
        outcomes.push(outcome);
        if outcomes.last().is_some_and(|last| last.kind == "ok") {
            break;
        }
    }
    Ok(outcomes)
}

/// Give the refusal, if there was one; None at all when it was stopped.
fn try_one(
    upstreams: &mut Upstreams,
    target: &Target,
    epoll: &Epoll,
    bell: &Signal,
    told: impl Fn(),
) -> Result<Option<Option<Refusal>>, Error> {
    let mut approach = Approach::begin(target.clone(), clock(), upstreams);
    if let Some(refusal) = approach.take_refusal() {
        return Ok(Some(Some(refusal)));
    }
    let (mut known, mut events) = (0, [libc::epoll_event { events: 0, u64: 0 }; 8]);
    loop {
        let until = match approach.serve(clock(), upstreams) {
            Progress::Granted(_) => return Ok(Some(None)),
            Progress::Refused(refusal) => return Ok(Some(Some(refusal))),
            Progress::Waiting(until) => until,
        };
        if approach.dials() != known
            && let Some(fd) = approach.descriptor()
        {
            known = approach.dials();
            epoll.control(libc::EPOLL_CTL_ADD, fd, FLOW_EVENTS, u64::from(known))?;
        }
        told();
        let count = epoll.wait(&mut events, wait_time(until))?;
        for event in &events[..count] {
            let token = event.u64;
            match token {
                STOP => return Ok(None),
                BELL => {
                    bell.clear();
                    upstreams.wishes.fetch();
                }
                _ if token == u64::from(known) => approach.wake(readiness(event.events)),
                _ => {} // of a connection before
            }
        }
    }
}

/// What a round did: events and packets, and whether there is more to do at once.
#[derive(Default)]
struct Work {
    done: usize,
    more: bool,
    /// There are packets left.
    packets: bool,
}

/// Read packets, if there are any, and serve flows.
fn round(stack: &mut Stack, packets: bool, now: Instant) -> Result<Work, Error> {
    if stack.is_stuck() {
        stack.unstick();
    }
    let (mut read, mut more) = (0, packets);
    while more && read < BATCH {
        more = stack.read_packet(now).map_err(Error::TunRead)?;
        read += usize::from(more);
    }
    stack.serve(now);
    Ok(Work { done: read, more: (more || stack.is_pending()) && !stack.is_stuck(), packets: more })
}

const FLOW_EVENTS: libc::c_int = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;

fn readiness(events: u32) -> Ready {
    let has = |flags: libc::c_int| events & flags as u32 != 0;
    Ready {
        readable: has(libc::EPOLLIN),
        writable: has(libc::EPOLLOUT),
        hangup: has(libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR),
        broken: has(libc::EPOLLERR | libc::EPOLLHUP),
    }
}

/// Give the milliseconds until `timer`, rounded up; -1 for ever.
fn wait_time(timer: Option<Instant>) -> libc::c_int {
    timer.map_or(-1, |at| {
        let micros = at.total_micros() - clock().total_micros();
        libc::c_int::try_from((micros.max(0) + 999) / 1000).unwrap_or(libc::c_int::MAX)
    })
}

struct Epoll(OwnedFd);

impl Epoll {
    fn new() -> Result<Epoll, Error> {
        // SAFETY: plain system call; the descriptor is new and ours.
        check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(|fd| Epoll(unsafe_owned(fd)))
    }

    fn control(&self, operation: libc::c_int, fd: RawFd, interest: libc::c_int, token: u64) -> Result<(), Error> {
        let mut event = libc::epoll_event { events: interest as u32, u64: token };
        // SAFETY: `event` is valid for the call.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &raw mut event) }).map(drop)
    }

    /// Wait until `timer`; look before sleeping where that is worth it.
    fn wait_long(
        &self,
        events: &mut [libc::epoll_event],
        timer: Option<Instant>,
        spin: &mut Spin,
        work: usize,
    ) -> Result<usize, Error> {
        let begin = time::Instant::now();
        let mut count = 0;
        while spin.is_earned() && count == 0 && begin.elapsed() < LOOK {
            count = self.wait(events, 0)?;
        }
        if count == 0 {
            count = self.wait(events, wait_time(timer))?;
        }
        spin.waited(begin.elapsed(), work);
        Ok(count)
    }

    fn wait(&self, events: &mut [libc::epoll_event], milliseconds: libc::c_int) -> Result<usize, Error> {
        // SAFETY: `events` is writable for its length.
        let count = unsafe {
            libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), events.len() as libc::c_int, milliseconds)
        };
        match check(count) {
            Err(Error::Wait(error)) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            result => result.map(|count| count as usize),
        }
    }
}

fn check(result: libc::c_int) -> Result<libc::c_int, Error> {
    if result < 0 { Err(Error::Wait(io::Error::last_os_error())) } else { Ok(result) }
}

fn unsafe_owned(fd: RawFd) -> OwnedFd {
    // SAFETY: only called with a descriptor that was just created and belongs to nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
