//! One packet thread for each TUN queue, and what they have in common: counters, notes, the wish to stop.
//!
//! Threads share nothing else: a flow belongs to the queue that its packets come by. A panic ends its thread, not the
//! process; whoever reads the notes is told, and ends the process in order.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::device::Device;
use crate::error::Error;
use crate::shared::{Proxy, Shared, Successors};
use crate::stack::Stack;
use crate::stats::{Notes, Stats};
use crate::worker::{self, Signal};

/// The threads of one stack.
pub struct Threads {
    running: Vec<JoinHandle<()>>,
    stop: Vec<Arc<Signal>>,
    common: Arc<Common>,
}

struct Common {
    stats: Arc<Stats>,
    notes: Arc<Notes>,
    successors: Arc<Successors>,
    /// Raised when there are notes, or a thread has ended.
    signal: Signal,
    ended: AtomicBool,
}

/// Make a proxy of what Python says. An authorization must not hold a line break: it becomes a header line.
pub fn proxy(address: &str, port: u16, authorization: &[u8]) -> Result<Proxy, Error> {
    let ip: IpAddr = address.parse().map_err(|_| Error::Upstream(format!("{address:?} is not an IP address")))?;
    if port == 0 {
        return Err(Error::Upstream("a proxy cannot listen on port 0".to_owned()));
    }
    if authorization.iter().any(|byte| byte.is_ascii_control()) {
        return Err(Error::Upstream("an authorization holds a control character".to_owned()));
    }
    Ok(Proxy { address: SocketAddr::new(ip, port), authorization: authorization.to_vec() })
}

impl Threads {
    /// Start a thread for each of `queues`, which are duplicated.
    pub fn start(queues: &[RawFd], proxies: &[Proxy]) -> Result<Threads, Error> {
        if queues.is_empty() || proxies.is_empty() {
            return Err(Error::Upstream("at least one queue and one proxy are needed".to_owned()));
        }
        let common = Arc::new(Common {
            stats: Arc::default(),
            notes: Arc::default(),
            successors: Arc::default(),
            signal: Signal::new()?,
            ended: AtomicBool::new(false),
        });
        let mut threads = Threads { running: Vec::new(), stop: Vec::new(), common };
        for &queue in queues {
            threads.start_one(duplicate(queue)?, proxies, memory() / queues.len() as u64)?;
        }
        Ok(threads)
    }

    fn start_one(&mut self, queue: OwnedFd, proxies: &[Proxy], memory: u64) -> Result<(), Error> {
        let (common, stop) = (Arc::clone(&self.common), Arc::new(Signal::new()?));
        let device = Device::new(queue, Arc::clone(&common.stats));
        let mut shared = Shared::new(proxies.to_vec(), memory, Arc::clone(&common.stats), Arc::clone(&common.notes))?;
        shared.successors = Arc::clone(&common.successors);
        let mut stack = Stack::new(device, shared, RandomState::new().hash_one(0), worker::clock());
        self.stop.push(Arc::clone(&stop));
        let name = format!("packets-{}", self.running.len());
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let work = || worker::run(&mut stack, &stop, || common.tell());
            let result = catch_unwind(AssertUnwindSafe(work));
            common.end(
                result
                    .map_err(|_| "a packet thread panicked".to_owned())
                    .and_then(|end| end.map_err(|e| e.to_string())),
            );
        });
        self.running.push(thread.map_err(Error::Wait)?);
        Ok(())
    }

    /// Give the signal that is raised when `notes` has something.
    pub fn signal(&self) -> &Signal {
        &self.common.signal
    }

    /// Give the counters.
    pub fn stats(&self) -> &Stats {
        &self.common.stats
    }

    /// Let flows that begin from now on use `proxies`; those that are open stay where they are.
    pub fn replace(&self, proxies: Vec<Proxy>) {
        self.common.successors.announce(proxies);
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
        self.stop.drain(..).for_each(|stop| stop.raise());
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
        if self.notes.any() {
            self.signal.raise();
        }
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
