//! The data plane as a whole, without a kernel's TUN and without time.

#![allow(clippy::unwrap_used)]

mod acknowledging;
mod authenticating;
mod authority;
mod balancing;
mod by_hand;
mod by_script;
mod carrying;
mod closing;
mod counters;
mod ends;
mod epoll;
mod found;
mod front;
mod fronted;
mod healing;
mod hole;
mod hostile;
mod machine;
mod naming;
mod opening;
mod program;
mod racing;
mod resets;
mod resolving;
mod scripted;
mod secured;
mod segments;
mod several;
mod streams;
mod timers;
mod windows;
mod wire;
mod world;
