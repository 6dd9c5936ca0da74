//! The file behind the table of virtual addresses: one record for each slot, at a place of its own.
//!
//! A record says what it belongs to and carries a sum, so that what was cut off by a power failure, or put there by
//! somebody else, is taken for what it is: a slot that had some name. Nothing in the file can do more than give a
//! virtual address a wrong name. The descriptor comes from outside the sandbox, opened for reading and writing; only
//! pwrite(2) is used on the way of a packet.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use crate::addresses::Slot;
use crate::dns::Name;

const NAME_MAX: usize = 253;
const SUM: usize = 8;
const TURN: usize = 8;
/// Sum, turn, length and name, and two bytes that are zero.
pub const RECORD: usize = 272;
/// Changes with the format, so that records of another one are none.
const FORMAT: u64 = 1;

/// See the head of this file.
#[derive(Debug)]
pub struct NamesFile(File);

/// What a record says: the name that a slot has, None where the record is damaged; and when it got it, as a place in the
/// order of all.
#[derive(Debug, PartialEq, Eq)]
pub struct Restored {
    pub slot: Slot,
    pub turn: u64,
    pub name: Option<String>,
}

impl NamesFile {
    /// Take a descriptor.
    pub fn new(fd: OwnedFd) -> NamesFile {
        NamesFile(File::from(fd))
    }

    /// Read the records of slots 1 to the last that was ever written, at most `most`. What cannot be read is not there.
    pub fn read(&mut self, most: Slot) -> Vec<Restored> {
        let mut bytes = Vec::new();
        let limit = (most as u64 + 1) * RECORD as u64;
        if self.0.seek(SeekFrom::Start(0)).is_err() || (&self.0).take(limit).read_to_end(&mut bytes).is_err() {
            bytes.clear();
        }
        bytes.chunks(RECORD).enumerate().skip(1).map(|(slot, record)| parse(slot as Slot, record)).collect()
    }

    /// Write one record; says whether that was possible.
    pub fn write(&mut self, slot: Slot, turn: u64, name: &str) -> bool {
        self.0.write_all_at(&record(slot, turn, name), u64::from(slot) * RECORD as u64).is_ok()
    }
}

fn record(slot: Slot, turn: u64, name: &str) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    let name = &name.as_bytes()[..name.len().min(NAME_MAX)];
    record[SUM..SUM + TURN].copy_from_slice(&turn.to_le_bytes());
    record[SUM + TURN] = name.len() as u8;
    record[SUM + TURN + 1..][..name.len()].copy_from_slice(name);
    let sum = sum(slot, &record[SUM..]);
    record[..SUM].copy_from_slice(&sum.to_le_bytes());
    record
}

fn parse(slot: Slot, record: &[u8]) -> Restored {
    whole(slot, record).unwrap_or(Restored { slot, turn: 0, name: None })
}

fn whole(slot: Slot, record: &[u8]) -> Option<Restored> {
    let (expected, rest) = record.split_first_chunk::<SUM>()?;
    if record.len() != RECORD || sum(slot, rest) != u64::from_le_bytes(*expected) {
        return None;
    }
    let (turn, rest) = rest.split_first_chunk::<TURN>()?;
    let (&length, rest) = rest.split_first()?;
    let text = std::str::from_utf8(rest.get(..usize::from(length))?).ok()?;
    let name = Name::parse(text)?.host().filter(|host| host == text)?;
    // a number near the end of all numbers would leave none for those to come
    let turn = u64::from_le_bytes(*turn);
    (turn < 1 << 62).then_some(Restored { slot, turn, name: Some(name) })
}

/// FNV-1a, by Fowler, Noll and Vo: against accidents, not against those who may write the file.
fn sum(slot: Slot, bytes: &[u8]) -> u64 {
    let seed = [FORMAT.to_le_bytes(), u64::from(slot).to_le_bytes()].concat();
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    seed.iter().chain(bytes).fold(0xcbf2_9ce4_8422_2325, step)
}
