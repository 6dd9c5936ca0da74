//! What all connections to one proxy know of it: what the user gave, how the proxy was satisfied last, so that later
//! connections say it at once, whether the credentials are in good standing there (lockout.rs), and which tokens cannot
//! be had now. Threads share it; nobody keeps the lock for longer than it takes to compute an answer.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smoltcp::time::{Duration, Instant};

use crate::challenge::Challenge;
use crate::digest::Session;
use crate::lockout::Standing;
use crate::means::{Means, Offer, Scheme};

/// A scheme whose token could not be had is tried again after this.
const MISSING: Duration = Duration::from_secs(60);
/// What all connections to one proxy know.
pub struct Memory {
    pub means: Means,
    pub known: Option<Known>,
    pub standing: Standing,
    /// Schemes without a token: until when, and why.
    pub missing: Vec<(Scheme, Instant, String)>,
    seed: RandomState,
    turn: u64,
}

/// The memory of one proxy, for all threads.
#[derive(Clone)]
pub struct Login(Arc<Mutex<Memory>>);

impl Login {
    /// Begin with what the user gave.
    pub fn new(means: Means) -> Login {
        Login(Arc::new(Mutex::new(Memory::new(means))))
    }

    /// Say whether this is the very memory that `other` is.
    pub fn is(&self, other: &Login) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Say whether it is for the same credentials as `other`.
    pub fn has_means_of(&self, other: &Login) -> bool {
        let theirs = other.memory().means.clone(); // both locked at once could be one
        self.memory().means == theirs
    }

    /// Say whether there is an account.
    pub fn has_user(&self) -> bool {
        !self.memory().means.user.is_empty()
    }

    /// Give the memory; nobody keeps it for longer than it takes to compute an answer.
    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Login {
    fn default() -> Login {
        Login::new(Means::default())
    }
}

/// How the proxy was satisfied last.
pub enum Known {
    Basic,
    Digest(Session),
    Tokens(Scheme),
}

impl Memory {
    /// Know nothing but what the user gave.
    pub fn new(means: Means) -> Memory {
        Memory {
            means,
            known: None,
            standing: Standing::default(),
            missing: Vec::new(),
            seed: RandomState::new(),
            turn: 0,
        }
    }

    /// Give a number that was not given before.
    pub fn number(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    /// Give a word that nobody can guess.
    pub fn cnonce(&mut self) -> String {
        let turn = self.number();
        format!("{:016x}{:016x}", self.seed.hash_one((turn, 0)), self.seed.hash_one((turn, 1)))
    }

    /// Do without `scheme` for a while.
    pub fn miss(&mut self, scheme: Scheme, now: Instant, why: String) {
        self.missing.retain(|(known, ..)| *known != scheme);
        self.missing.push((scheme, now + MISSING, why));
    }

    /// Give the strongest of `offers` that there are means for now.
    pub fn best(&mut self, offers: &[Challenge], now: Instant) -> Option<Offer> {
        self.missing.retain(|(_, until, _)| now < *until);
        let missing: Vec<Scheme> = self.missing.iter().map(|(scheme, ..)| *scheme).collect();
        let cnonce = self.cnonce();
        self.means.best(offers, &missing, &cnonce)
    }
}
