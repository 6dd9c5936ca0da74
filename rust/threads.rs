//! One packet thread for each TUN queue, and what they have in common: counters, notes, the wish to stop.
//!
//! Threads share nothing else but how the proxies are: a flow belongs to the queue that its packets come by. A panic ends its thread, not the
//! process; whoever reads the notes is told, and ends the process in order.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::device::Device;
use crate::error::Error;
use crate::names::{Mode, Names};
use crate::roster::Roster;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::stack::Stack;
use crate::standing::Standing;
use crate::stats::{Notes, Stats};
use crate::target::Target;
use crate::trial::{Outcome, Question};
use crate::upstreams::{Proxy, Upstreams, share_logins};
use crate::wishes::{self, Grant, Inbox, Outbox, Wish, Wishes};
use crate::worker::{self, Signal};

/// The threads of one stack: those that carry packets, and the trial, which comes first.
pub struct Threads {
    settings: Settings,
    running: Vec<JoinHandle<()>>,
    lines: Vec<Arc<Line>>,
    common: Arc<Common>,
}

/// How one thread is reached.
struct Line {
    stop: Signal,
    bell: Signal,
    inbox: Arc<Inbox>,
}

struct Common {
    stats: Arc<Stats>,
    notes: Arc<Notes>,
    roster: Arc<Roster>,
    outbox: Arc<Outbox>,
    tried: Mutex<Option<Vec<Outcome>>>,
    /// Raised when there are notes, wishes or outcomes, or a thread has ended.
    signal: Signal,
    ended: AtomicBool,
}

impl Threads {
    /// Make ready, without any thread.
    pub fn new(settings: Settings) -> Result<Threads, Error> {
        let roster = Roster::new(settings.proxies.clone(), settings.policy.clone(), worker::clock());
        let common = Arc::new(Common {
            stats: Arc::default(),
            notes: Arc::default(),
            roster: Arc::new(roster),
            outbox: Arc::default(),
            tried: Mutex::default(),
            signal: Signal::new()?,
            ended: AtomicBool::new(false),
        });
        Ok(Threads { settings, running: Vec::new(), lines: Vec::new(), common })
    }

    /// Start a thread for each of `queues`, which are duplicated.
    pub fn carry(&mut self, queues: &[RawFd]) -> Result<(), Error> {
        if queues.is_empty() {
            return Err(Error::Setting("at least one queue is needed".to_owned()));
        }
        let naming = self.settings.naming.as_ref();
        let names = naming.map(|naming| naming.names(&self.common.stats, worker::clock())).transpose()?;
        for &queue in queues {
            self.carry_one(duplicate(queue)?, memory() / queues.len() as u64, names.clone())?;
        }
        Ok(())
    }

    fn carry_one(&mut self, queue: OwnedFd, memory: u64, names: Option<Names>) -> Result<(), Error> {
        let (line, wishes) = self.new_line()?;
        let common = Arc::clone(&self.common);
        let device = Device::new(queue, Arc::clone(&common.stats));
        let counted = (Arc::clone(&common.stats), Arc::clone(&common.notes));
        let upstreams = Upstreams::of(Arc::clone(&common.roster), self.running.len(), wishes, counted);
        let mut shared = Shared::new(upstreams, memory)?;
        if let Some(names) = names {
            let resolvers = self.settings.naming.as_ref().map_or(&[][..], |naming| &naming.resolvers);
            shared.open_desk(names, resolvers.into());
        }
        let mut stack = Stack::new(device, shared, RandomState::new().hash_one(0), worker::clock());
        let run = move || {
            let work = || worker::run(&mut stack, &line.stop, &line.bell, || common.tell());
            let result = catch_unwind(AssertUnwindSafe(work));
            common.end(
                result
                    .map_err(|_| "a packet thread panicked".to_owned())
                    .and_then(|end| end.map_err(|e| e.to_string())),
            );
        };
        self.spawn("packets", run)
    }

    /// Try every proxy, by asking it for `target` (None: for itself, by name where names are virtual); `tried` gives what
    /// came of it.
    pub fn attempt(&mut self, target: Option<Target>) -> Result<(), Error> {
        let (line, wishes) = self.new_line()?;
        let (common, proxies) = (Arc::clone(&self.common), self.settings.proxies.clone());
        let by_name = self.settings.naming.as_ref().is_some_and(|naming| naming.mode == Mode::Virtual);
        let question = target.map_or(Question::Itself { by_name }, Question::Target);
        let run = move || {
            let signals = (&line.stop, &line.bell);
            let work = || worker::try_proxies(&proxies, &question, wishes, signals, || common.tell());
            match catch_unwind(AssertUnwindSafe(work)) {
                Ok(Ok(outcomes)) => *common.tried() = Some(outcomes),
                Ok(Err(error)) => return common.end(Err(error.to_string())),
                Err(_) => return common.end(Err("the thread that tries the proxies panicked".to_owned())),
            }
            common.signal.raise();
        };
        self.spawn("trial", run)
    }

    /// Take what came of the trial, once.
    pub fn tried(&self) -> Option<Vec<Outcome>> {
        self.common.tried().take()
    }

    fn new_line(&mut self) -> Result<(Arc<Line>, Wishes), Error> {
        let line = Arc::new(Line { stop: Signal::new()?, bell: Signal::new()?, inbox: Arc::default() });
        let number = u8::try_from(self.lines.len()).unwrap_or(u8::MAX); // there are five at most
        self.lines.push(Arc::clone(&line));
        let inbox = Arc::clone(&line.inbox);
        Ok((line, Wishes::new(Arc::clone(&self.common.outbox), inbox, number)))
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let name = format!("{name}-{}", self.running.len());
        self.running.push(std::thread::Builder::new().name(name).spawn(run).map_err(Error::Wait)?);
        Ok(())
    }

    /// Give the signal that is raised when `notes`, `wishes` or `tried` has something.
    pub fn signal(&self) -> &Signal {
        &self.common.signal
    }

    /// Give the counters.
    pub fn stats(&self) -> &Stats {
        &self.common.stats
    }

    /// Let connections that begin from now on use `proxies`; those that are open stay where they are.
    pub fn replace(&self, mut proxies: Vec<Proxy>) {
        share_logins(&mut proxies, &self.settings.proxies);
        self.common.roster.replace(proxies, worker::clock());
    }

    /// Give how each proxy is, in the user's order.
    pub fn standings(&self) -> Vec<Arc<Standing>> {
        self.common.roster.listed().standings
    }

    /// Take the oldest wishes, at most `most`.
    pub fn wishes(&self, most: usize) -> Vec<Wish> {
        self.common.outbox.take(most)
    }

    /// Grant a wish, or refuse it. One that nobody has is no error.
    pub fn grant(&self, number: u64, grant: Grant) {
        if let Some(line) = self.lines.get(wishes::thread_of(number)) {
            line.inbox.put(number, grant);
            line.bell.raise();
        }
    }

    /// Take the notes; an error, once they are taken, when a thread has ended by itself.
    pub fn notes(&self) -> Result<Vec<String>, &'static str> {
        self.common.signal.clear();
        let lines = self.common.notes.take();
        if lines.is_empty() && self.common.ended.load(Ordering::Acquire) {
            self.common.signal.raise();
            return Err("a packet thread has ended");
        }
        if self.common.ended.load(Ordering::Acquire) {
            self.common.signal.raise();
        }
        Ok(lines)
    }

    /// End all threads and wait for them.
    pub fn stop(&mut self) {
        self.lines.drain(..).for_each(|line| line.stop.raise());
        for thread in self.running.drain(..) {
            let _ = thread.join(); // panics were caught inside
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Common {
    fn tell(&self) {
        if self.notes.any() || self.outbox.any() {
            self.signal.raise();
        }
    }

    fn tried(&self) -> MutexGuard<'_, Option<Vec<Outcome>>> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, result: Result<(), String>) {
        if let Err(why) = result {
            self.notes.add("ended", worker::clock(), || why);
            self.ended.store(true, Ordering::Release);
            self.signal.raise();
        }
    }
}

fn duplicate(fd: RawFd) -> Result<OwnedFd, Error> {
    // SAFETY: plain system calls; the new descriptor is ours.
    unsafe {
        let copy = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3);
        if copy < 0 {
            return Err(Error::TunRead(std::io::Error::last_os_error()));
        }
        libc::fcntl(copy, libc::F_SETFL, libc::fcntl(copy, libc::F_GETFL) | libc::O_NONBLOCK);
        Ok(OwnedFd::from_raw_fd(copy))
    }
}

/// Give the bytes of memory that this process may use: those of the machine (sysinfo(2); little where that cannot be
/// told), or less where its address space is limited (`ulimit -v`).
fn memory() -> u64 {
    // SAFETY: all zeroes is a valid sysinfo and a valid rlimit, which the calls fill.
    unsafe {
        let mut info: libc::sysinfo = std::mem::zeroed();
        libc::sysinfo(&raw mut info);
        let mut limit: libc::rlimit = std::mem::zeroed();
        let known = libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) == 0;
        (info.totalram * u64::from(info.mem_unit)).min(if known { limit.rlim_cur } else { u64::MAX })
    }
}
