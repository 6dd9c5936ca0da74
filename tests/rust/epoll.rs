//! The same edges as worker.rs gets: epoll(7), edge-triggered, asked without waiting.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use _tunstack::upstream::Ready;

pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new() -> Epoll {
        // SAFETY: plain system call; the descriptor is new and ours.
        unsafe {
            let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            assert!(fd >= 0);
            Epoll(OwnedFd::from_raw_fd(fd))
        }
    }

    /// Watch `fd`, which the kernel forgets when it is closed.
    pub fn watch(&self, fd: RawFd, token: u64) {
        let events = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: `event` is valid for the call. It fails where the descriptor was closed again.
        unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
    }

    /// Take what has happened.
    pub fn news(&self) -> Vec<(u64, Ready)> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 256];
        // SAFETY: `events` is writable for its length; no time is spent.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 256, 0) };
        let ready = |flags: u32| {
            let has = |wanted: libc::c_int| flags & wanted as u32 != 0;
            Ready {
                readable: has(libc::EPOLLIN),
                writable: has(libc::EPOLLOUT),
                hangup: has(libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR),
                broken: has(libc::EPOLLHUP | libc::EPOLLERR),
            }
        };
        events[..count as usize].iter().map(|event| (event.u64, ready(event.events))).collect()
    }
}
