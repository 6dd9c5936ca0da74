//! The virtual addresses: each stands for a name that some program asked for, so that its connection can be asked of a
//! proxy by that name.
//!
//! An address is never given to a second name while the first may still be known to a program: for HOLD after it was
//! last given, as long as a connection to it is open, and for HOLD after the last of those. The names are in two orders:
//! by when they were last wanted (a list through the slots; its oldest is the next whose address another name gets),
//! and, in the file behind the table (names_file.rs), by slot. Pure but for that file.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smoltcp::time::{Duration, Instant};

use crate::names_file::{NamesFile, Restored};
use crate::stats::Stats;

/// Seconds for which an answer with a virtual address may be kept. Short, so that caches forget it soon after the tunnel
/// is down; asking again costs no network.
pub const TTL: u32 = 15;
/// How long a program may know an address after it was last given: the TTL, and what programs add to it. Browsers
/// keep addresses for 60 seconds whatever the TTL says, and connect after that.
pub const HOLD: Duration = Duration::from_secs(120);

const NETWORK4: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const MASK4: u32 = 0xfffe_0000;
const NETWORK6: u128 = 0xfd70_7670_006e_0001 << 64;
const MASK6: u128 = !0 << 64;
/// The addresses before the first slot's are the tunnel's own.
const RESERVED: u32 = 256;
/// The last slot, whose address is the last but one of the network.
pub const MOST: u32 = (!MASK4 - 1) - RESERVED;

/// A place of the table: 1 to MOST.
pub type Slot = u32;
const NONE: Slot = 0;

/// Give the addresses of a slot.
pub fn pair(slot: Slot) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::from_bits(NETWORK4 + RESERVED + slot), Ipv6Addr::from_bits(NETWORK6 | u128::from(slot)))
}

/// Say whether `address` is a virtual one, or would be if a name had it; and give its slot, NONE where there can be none.
pub fn slot_of(address: IpAddr) -> Option<Slot> {
    let number = match address {
        IpAddr::V4(address) if address.to_bits() & MASK4 == NETWORK4 => {
            u128::from(address.to_bits() & !MASK4).saturating_sub(u128::from(RESERVED))
        }
        IpAddr::V6(address) if address.to_bits() & MASK6 == NETWORK6 => address.to_bits() & !MASK6,
        _ => return None,
    };
    Some(u32::try_from(number).ok().filter(|slot| (1..=MOST).contains(slot)).unwrap_or(NONE))
}

/// What an address of a connection stands for.
#[derive(Debug)]
pub enum Meaning {
    /// Itself.
    Itself,
    /// This name, which keeps its address at least as long as the pin lives.
    Name(String, Pin),
    /// A virtual address that no name has.
    Nothing,
}

/// All of them, for all threads.
#[derive(Debug, Clone)]
pub struct Addresses(Arc<Mutex<Table>>);

impl Addresses {
    /// Begin with a table.
    pub fn new(table: Table) -> Addresses {
        Addresses(Arc::new(Mutex::new(table)))
    }

    /// Give the slot of a host's name, in lower case; None when all addresses are taken, or held back.
    pub fn give(&self, host: &str, now: Instant) -> Option<Slot> {
        self.table().give(host, now)
    }

    /// Give the name that `address` stands for, for a connection that begins.
    pub fn meaning(&self, address: IpAddr) -> Meaning {
        let Some(slot) = slot_of(address) else { return Meaning::Itself };
        match self.table().pin(slot) {
            Some(name) => Meaning::Name(name.to_owned(), Pin { addresses: self.clone(), slot }),
            None => Meaning::Nothing,
        }
    }

    /// Give the name of `slot`.
    pub fn name(&self, slot: Slot) -> Option<String> {
        self.table().name(slot).map(str::to_owned)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the name of a slot where it is.
#[derive(Debug)]
pub struct Pin {
    addresses: Addresses,
    slot: Slot,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.addresses.table().unpin(self.slot);
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct Table {
    most: Slot,
    /// Slots that were ever used; that of index 0 is none.
    places: Vec<Place>,
    by_name: HashMap<Arc<str>, Slot>,
    oldest: Slot,
    newest: Slot,
    /// Grows with every name that gets an address: their order, for the file.
    turn: u64,
    file: Option<NamesFile>,
    stats: Arc<Stats>,
}

#[derive(Debug, Default)]
struct Place {
    /// None where the file had been damaged.
    name: Option<Arc<str>>,
    held: Held,
    /// The neighbours in the order of last use; pinned slots have none.
    older: Slot,
    newer: Slot,
    /// What the file knows of the order.
    turn: u64,
}

/// Until when a slot's name keeps it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Held {
    Until(Instant),
    /// As long as so many connections live.
    Pinned(u32),
    /// Since its last connection ended, which was at no time that is known.
    #[default]
    Released,
}

impl Table {
    /// Begin without names, with slots 1 to `most`.
    pub fn new(most: Slot, stats: Arc<Stats>) -> Table {
        Table {
            most: most.min(MOST),
            places: vec![Place::default()],
            by_name: HashMap::new(),
            oldest: NONE,
            newest: NONE,
            turn: 0,
            file: None,
            stats,
        }
    }

    /// Go on with the names that `file` has: each may have been given a moment ago.
    pub fn restore(mut file: NamesFile, most: Slot, now: Instant, stats: Arc<Stats>) -> Table {
        let mut table = Table::new(most, stats);
        let mut found: Vec<Restored> = file.read(table.most);
        found.sort_by_key(|each| (each.turn, each.slot));
        table.places.resize_with(found.len() + 1, Place::default);
        table.turn = found.last().map_or(0, |each| each.turn);
        for each in found {
            let name: Option<Arc<str>> = each.name.map(Arc::from);
            if let Some(name) = &name
                && let Some(earlier) = table.by_name.insert(Arc::clone(name), each.slot)
            {
                table.places[earlier as usize].name = None; // its record was to be overwritten, and was not
            }
            let place = &mut table.places[each.slot as usize];
            (place.name, place.turn, place.held) = (name, each.turn, Held::Until(now + HOLD));
            table.link(each.slot);
        }
        table.stats.names_now.add(table.by_name.len() as u64);
        table.file = Some(file);
        table
    }

    /// See `Addresses::give`.
    pub fn give(&mut self, host: &str, now: Instant) -> Option<Slot> {
        if let Some(&slot) = self.by_name.get(host) {
            self.touch(slot, now);
            return Some(slot);
        }
        let slot = self.vacate(now)?;
        let name: Arc<str> = Arc::from(host);
        self.by_name.insert(Arc::clone(&name), slot);
        self.stats.names_now.up();
        let place = &mut self.places[slot as usize];
        (place.name, place.held) = (Some(name), Held::Until(now + HOLD));
        self.link(slot);
        self.write(slot);
        Some(slot)
    }

    /// Give the name of a slot.
    pub fn name(&self, slot: Slot) -> Option<&str> {
        self.places.get(slot as usize)?.name.as_deref()
    }

    /// Keep the name of a slot, if it has one, where it is.
    fn pin(&mut self, slot: Slot) -> Option<&str> {
        self.name(slot)?;
        match self.places[slot as usize].held {
            Held::Pinned(pins) => self.places[slot as usize].held = Held::Pinned(pins + 1),
            _ => {
                self.unlink(slot);
                self.places[slot as usize].held = Held::Pinned(1);
            }
        }
        self.name(slot)
    }

    fn unpin(&mut self, slot: Slot) {
        match self.places[slot as usize].held {
            Held::Pinned(pins @ 2..) => self.places[slot as usize].held = Held::Pinned(pins - 1),
            Held::Pinned(_) => {
                self.places[slot as usize].held = Held::Released;
                self.link(slot);
            }
            _ => {}
        }
    }

    /// A slot's name was wanted again.
    fn touch(&mut self, slot: Slot, now: Instant) {
        let place = &mut self.places[slot as usize];
        if !matches!(place.held, Held::Pinned(_)) {
            place.held = Held::Until(now + HOLD);
            self.unlink(slot);
            self.link(slot);
        }
        // the file need not know the order exactly
        if self.turn - self.places[slot as usize].turn > u64::from(self.most / 16) {
            self.write(slot);
        }
    }

    /// Give a slot that nobody has: a fresh one while there are any, so that old ones are used again as late as can be.
    fn vacate(&mut self, now: Instant) -> Option<Slot> {
        if self.places.len() <= self.most as usize {
            self.places.push(Place::default());
            return Some(self.places.len() as Slot - 1);
        }
        while self.oldest != NONE {
            let slot = self.oldest;
            match self.places[slot as usize].held {
                Held::Released => {
                    self.unlink(slot);
                    self.places[slot as usize].held = Held::Until(now + HOLD);
                    self.link(slot);
                }
                Held::Until(time) if time <= now => {
                    self.unlink(slot);
                    if let Some(name) = self.places[slot as usize].name.take() {
                        self.by_name.remove(&name);
                        self.stats.names_now.down();
                    }
                    return Some(slot);
                }
                _ => return None, // all others are held for longer
            }
        }
        None
    }

    fn write(&mut self, slot: Slot) {
        self.turn += 1;
        let place = &mut self.places[slot as usize];
        place.turn = self.turn;
        if let (Some(file), Some(name)) = (&mut self.file, &place.name)
            && !file.write(slot, self.turn, name)
        {
            self.stats.names_unwritten.up();
        }
    }

    /// Put a slot at the newest end of the list.
    fn link(&mut self, slot: Slot) {
        let newest = std::mem::replace(&mut self.newest, slot);
        let place = &mut self.places[slot as usize];
        (place.older, place.newer) = (newest, NONE);
        match newest {
            NONE => self.oldest = slot,
            _ => self.places[newest as usize].newer = slot,
        }
    }

    fn unlink(&mut self, slot: Slot) {
        let place = &mut self.places[slot as usize];
        let (older, newer) = (std::mem::take(&mut place.older), std::mem::take(&mut place.newer));
        match older {
            NONE => self.oldest = newer,
            _ => self.places[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            _ => self.places[newer as usize].older = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;
    use crate::names_file::RECORD;

    fn at(seconds: i64) -> Instant {
        Instant::from_secs(seconds)
    }

    fn file() -> File {
        // SAFETY: plain system call; the descriptor is new and ours.
        unsafe { std::os::fd::FromRawFd::from_raw_fd(libc::memfd_create(c"names".as_ptr(), libc::MFD_CLOEXEC)) }
    }

    fn restored(file: &File, most: Slot) -> Table {
        Table::restore(NamesFile::new(file.try_clone().unwrap().into()), most, at(0), Arc::default())
    }

    #[test]
    fn slots_and_addresses_belong_together() {
        for slot in [1, 255, 256, MOST] {
            let (v4, v6) = pair(slot);
            assert_eq!((slot_of(v4.into()), slot_of(v6.into())), (Some(slot), Some(slot)));
        }
        assert_eq!(pair(1), ("198.18.1.1".parse().unwrap(), "fd70:7670:6e:1::1".parse().unwrap()));
        assert_eq!(pair(MOST).0.to_string(), "198.19.255.254");
        for outside in ["198.17.255.255", "198.20.0.0", "fd70:7670:6e::1", "fd70:7670:6e:2::1", "192.0.2.1"] {
            assert_eq!(slot_of(outside.parse().unwrap()), None, "{outside}");
        }
        for nobody in ["198.18.0.1", "198.18.1.0", "198.19.255.255", "fd70:7670:6e:1::", "fd70:7670:6e:1:1::1"] {
            assert_eq!(slot_of(nobody.parse().unwrap()), Some(NONE), "{nobody}");
        }
    }

    #[test]
    fn name_keeps_its_address_and_the_one_unused_for_longest_gives_it_up() {
        let mut table = Table::new(2, Arc::default());
        assert_eq!(
            (table.give("a.x", at(0)), table.give("b.x", at(1)), table.give("a.x", at(2))),
            (Some(1), Some(2), Some(1))
        );
        assert_eq!(table.give("c.x", at(120)), None, "both may still be known");
        assert_eq!(table.give("c.x", at(121)), Some(2), "b is the older one");
        assert_eq!((table.name(1), table.name(2)), (Some("a.x"), Some("c.x")));
        assert_eq!(table.give("d.x", at(122)), Some(1));
    }

    #[test]
    fn address_in_use_is_kept_and_for_some_time_after() {
        let addresses = Addresses::new(Table::new(1, Arc::default()));
        addresses.give("a.x", at(0));
        let address = pair(1).0.into();
        let (Meaning::Name(name, pin), Meaning::Name(_, second)) =
            (addresses.meaning(address), addresses.meaning(address))
        else {
            panic!()
        };
        assert_eq!(name, "a.x");
        drop(pin);
        assert_eq!(addresses.give("b.x", at(1000)), None, "one connection is left");
        drop(second);
        assert_eq!(addresses.give("b.x", at(2000)), None, "nobody knows how long ago that was");
        assert_eq!(addresses.give("b.x", at(2119)), None);
        assert_eq!(addresses.give("b.x", at(2120)), Some(1));
    }

    #[test]
    fn address_without_a_name_means_nothing_and_others_themselves() {
        let addresses = Addresses::new(Table::new(9, Arc::default()));
        assert!(matches!(addresses.meaning(pair(1).0.into()), Meaning::Nothing));
        assert!(matches!(addresses.meaning("198.18.0.1".parse().unwrap()), Meaning::Nothing));
        assert!(matches!(addresses.meaning("192.0.2.1".parse().unwrap()), Meaning::Itself));
    }

    #[test]
    fn names_survive_in_the_file_and_in_their_order() {
        let file = file();
        let mut table = restored(&file, 3);
        for (name, second) in [("a.x", 0), ("b.x", 1), ("c.x", 2), ("a.x", 3), ("d.x", 122)] {
            table.give(name, at(second)); // d takes the place of b
        }
        let mut table = restored(&file, 3);
        assert_eq!(
            [1, 2, 3].map(|slot| table.name(slot).map(str::to_owned)).map(Option::unwrap),
            ["a.x", "d.x", "c.x"]
        );
        assert_eq!(table.give("e.x", at(119)), None, "who asked before the restart may know them all");
        assert_eq!(table.give("d.x", at(120)), Some(2));
        assert_eq!(table.give("e.x", at(120)), Some(3), "c is the oldest");
    }

    #[test]
    fn damaged_record_is_a_name_unknown_whose_address_is_held_back() {
        let mut file = file();
        let mut table = restored(&file, 2);
        table.give("a.x", at(0));
        table.give("b.x", at(0));
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(RECORD as u64 + 20)).unwrap();
        file.write_all(b"torn").unwrap();
        let mut table = restored(&file, 2);
        assert_eq!((table.name(1), table.name(2)), (None, Some("b.x")));
        assert_eq!(table.give("c.x", at(119)), None);
        assert_eq!(table.give("c.x", at(120)), Some(1));
    }

    #[test]
    fn file_that_cannot_be_written_is_counted_and_no_more() {
        let read_only = File::open("/dev/null").unwrap();
        let mut table = restored(&read_only, 9);
        assert_eq!(table.give("a.x", at(0)), Some(1));
        assert_eq!((table.stats.names_now.get(), table.stats.names_unwritten.get()), (1, 1));
    }

    #[derive(Debug, Clone)]
    enum Act {
        Give(u8),
        Pin(u8),
        Unpin(u8),
        Wait(u8),
        Restart,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            6 => any::<u8>().prop_map(|n| Act::Give(n % 24)),
            3 => any::<u8>().prop_map(|n| Act::Pin(n % 9)),
            3 => any::<u8>().prop_map(Act::Unpin),
            3 => any::<u8>().prop_map(Act::Wait),
            1 => Just(Act::Restart),
        ]
    }

    proptest! {
        /// What any program may know of an address stays true, whatever happens.
        #[test]
        fn no_address_has_two_names_within_the_time_of_the_first(acts in proptest::collection::vec(act(), 1..200)) {
            const MOST: Slot = 8;
            let file = file();
            let (mut now, mut start) = (0, 0);
            let mut addresses = Addresses::new(restored(&file, MOST));
            let mut known: HashMap<Slot, (String, i64)> = HashMap::new();
            let mut pins: Vec<(Slot, String, Pin)> = Vec::new();
            for act in acts {
                match act {
                    Act::Give(number) => {
                        let name = format!("n{number}.x");
                        if let Some(slot) = addresses.give(&name, at(now - start)) {
                            prop_assert!((1..=MOST).contains(&slot));
                            if let Some((before, until)) = known.insert(slot, (name.clone(), now + 120)) {
                                prop_assert!(before == name || until <= now, "{slot} was {before} until {until}, at {now}");
                            }
                            prop_assert!(pins.iter().all(|(pinned, held, _)| *pinned != slot || *held == name));
                            let twice = known.iter().filter(|(_, (other, until))| *other == name && *until > now).count();
                            prop_assert_eq!(twice, 1);
                        }
                    }
                    Act::Pin(slot) => {
                        if let Meaning::Name(name, pin) = addresses.meaning(pair(u32::from(slot)).1.into()) {
                            pins.push((u32::from(slot), name, pin));
                        }
                    }
                    Act::Unpin(number) if !pins.is_empty() => {
                        let (slot, name, _) = pins.swap_remove(usize::from(number) % pins.len());
                        known.insert(slot, (name, now + 120));
                    }
                    Act::Unpin(_) => {}
                    Act::Wait(seconds) => now += i64::from(seconds),
                    Act::Restart => {
                        pins.clear();
                        let before: Vec<_> = (1..=MOST).map(|slot| addresses.name(slot)).collect();
                        (addresses, start) = (Addresses::new(restored(&file, MOST)), now);
                        prop_assert_eq!(before, (1..=MOST).map(|slot| addresses.name(slot)).collect::<Vec<_>>());
                        known.values_mut().for_each(|(_, until)| *until = (*until).max(now));
                    }
                }
            }
        }

        #[test]
        fn any_file_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..2000), names in 0usize..20) {
            let mut file = file();
            file.write_all(&bytes).unwrap();
            let mut table = restored(&file, 8);
            let slots: Vec<_> = (0..names).filter_map(|n| table.give(&format!("n{n}.x"), at(200))).collect();
            let mut once = slots.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), slots.len().min(8));
        }
    }
}
