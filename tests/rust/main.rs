//! The data plane as a whole, without a kernel's TUN and without time.

#![allow(clippy::unwrap_used)]

mod counters;
mod flows;
mod found;
mod hostile;
mod scripted;
mod segments;
mod timers;
mod world;
