//! What a packet thread wants from outside the sandbox, and how it gets it: a token that needs a file, a socket that only
//! the helper may make, the verdict of a script.
//!
//! A wish is a number, a kind and bytes. Whoever reads the outbox grants it, some time or never; the thread that wished is
//! rung by its bell and finds the grant under the number. Nothing here waits.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Wishes of all threads that nobody has read yet; more are refused, since their number must have an end.
const MOST_UNREAD: usize = 4096;

/// Something wanted.
#[derive(Debug, PartialEq, Eq)]
pub struct Wish {
    pub number: u64,
    pub kind: &'static str,
    pub content: Vec<u8>,
}

/// What became of a wish: bytes, and maybe a descriptor; or, in words for a person, why not.
pub type Grant = Result<(Vec<u8>, Option<OwnedFd>), String>;

/// The wishes of all threads.
#[derive(Debug, Default)]
pub struct Outbox(Mutex<VecDeque<Wish>>);

/// The grants for one thread, which rings `bell` when one comes in.
#[derive(Default)]
pub struct Inbox {
    grants: Mutex<Vec<(u64, Grant)>>,
}

/// The wishes of one thread.
#[derive(Default)]
pub struct Wishes {
    outbox: Arc<Outbox>,
    inbox: Arc<Inbox>,
    thread: u8,
    count: u64,
    /// Those that somebody waits for, with what came.
    wanted: HashMap<u64, Option<Grant>>,
}

impl Outbox {
    /// Take the oldest ones, at most `most`.
    pub fn take(&self, most: usize) -> Vec<Wish> {
        let mut wishes = lock(&self.0);
        let count = most.min(wishes.len());
        wishes.drain(..count).collect()
    }

    /// Say whether there is any.
    pub fn any(&self) -> bool {
        !lock(&self.0).is_empty()
    }
}

impl Inbox {
    /// Put a grant in; its thread is to be rung then.
    pub fn put(&self, number: u64, grant: Grant) {
        lock(&self.grants).push((number, grant));
    }
}

impl Wishes {
    /// Begin without any; `thread` is the number by which grants find their way back.
    pub fn new(outbox: Arc<Outbox>, inbox: Arc<Inbox>, thread: u8) -> Wishes {
        Wishes { outbox, inbox, thread, ..Wishes::default() }
    }

    /// Wish for something; give the number to ask for, None when too many wait already.
    pub fn wish(&mut self, kind: &'static str, content: Vec<u8>) -> Option<u64> {
        let mut wishes = lock(&self.outbox.0);
        if wishes.len() >= MOST_UNREAD {
            return None;
        }
        self.count += 1;
        let number = u64::from(self.thread) << 48 | self.count;
        wishes.push_back(Wish { number, kind, content });
        self.wanted.insert(number, None);
        Some(number)
    }

    /// Take what came for wish `number`; None when it has not come.
    pub fn take(&mut self, number: u64) -> Option<Grant> {
        let grant = self.wanted.get_mut(&number)?.take()?;
        self.wanted.remove(&number);
        Some(grant)
    }

    /// Wait for it no longer.
    pub fn forget(&mut self, number: u64) {
        self.wanted.remove(&number);
    }

    /// Give how many are waited for.
    pub fn waiting(&self) -> usize {
        self.wanted.len()
    }

    /// The bell has rung: look what has come. Says whether anything has that somebody waits for.
    pub fn fetch(&mut self) -> bool {
        let mut any = false;
        for (number, grant) in std::mem::take(&mut *lock(&self.inbox.grants)) {
            if let Some(place) = self.wanted.get_mut(&number) {
                *place = Some(grant);
                any = true;
            }
        }
        any
    }
}

/// Give the thread to which the grant of wish `number` goes.
pub fn thread_of(number: u64) -> usize {
    (number >> 48) as usize
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_threads() -> (Arc<Outbox>, [Arc<Inbox>; 2], [Wishes; 2]) {
        let (outbox, inboxes) = (Arc::<Outbox>::default(), [Arc::<Inbox>::default(), Arc::<Inbox>::default()]);
        let wishes = [0, 1].map(|n| Wishes::new(Arc::clone(&outbox), Arc::clone(&inboxes[usize::from(n)]), n));
        (outbox, inboxes, wishes)
    }

    #[test]
    fn grant_finds_the_thread_and_the_wish() {
        let (outbox, inboxes, mut wishes) = two_threads();
        let number = wishes[1].wish("token", b"x".to_vec()).unwrap();
        assert_eq!(outbox.take(9), [Wish { number, kind: "token", content: b"x".to_vec() }]);
        assert!(!outbox.any());
        assert!(wishes[1].take(number).is_none());
        inboxes[thread_of(number)].put(number, Ok((b"y".to_vec(), None)));
        assert!(!wishes[0].fetch() && wishes[1].fetch());
        assert_eq!(wishes[1].take(number).unwrap().unwrap().0, b"y");
        assert!(wishes[1].take(number).is_none());
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_dropped() {
        let (_, inboxes, mut wishes) = two_threads();
        let number = wishes[0].wish("token", Vec::new()).unwrap();
        wishes[0].forget(number);
        inboxes[0].put(number, Err("no".to_owned()));
        inboxes[0].put(77, Err("no".to_owned()));
        assert!(!wishes[0].fetch());
        assert!(wishes[0].take(number).is_none() && wishes[0].wanted.is_empty());
    }

    #[test]
    fn unread_wishes_have_an_end() {
        let (outbox, _, mut wishes) = two_threads();
        for _ in 0..MOST_UNREAD {
            assert!(wishes[0].wish("token", Vec::new()).is_some());
        }
        assert!(wishes[0].wish("token", Vec::new()).is_none());
        assert_eq!(outbox.take(10).len(), 10);
        assert!(wishes[0].wish("token", Vec::new()).is_some());
    }
}
