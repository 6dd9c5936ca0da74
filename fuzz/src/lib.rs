//! What the fuzz targets share: a stack in virtual time between a TUN and a proxy that are this process.
//!
//! A target reads its input as a small programme (cursor.rs), lets packets.rs make the packets that it names, and
//! world.rs checks after every turn what must hold whatever comes: no panic, no storm of answers, no growth.

pub mod cursor;
pub mod heap;
pub mod packets;
pub mod proxy;
pub mod sealing;
pub mod talk;
pub mod world;
pub mod written;
