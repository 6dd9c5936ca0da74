//! Memory for the two rings of a flow: slots of one size class each, from address space that is never zeroed by hand.
//!
//! A slot costs only the pages that were touched. Few flows get large rings, many get small ones: each class has a fixed
//! number of slots, and their sum is the most that a stack can ever hold. A slot that comes back is used again first
//! (its pages are warm); of the others, and of large ones, the pages go back to the kernel.

use std::io;
use std::ptr::NonNull;

use crate::error::Error;

/// (bytes of one ring, fewest slots, most slots) of each class, largest first.
const CLASSES: [(usize, usize, usize); 3] = [(1 << 20, 8, 128), (256 << 10, 64, 1024), (64 << 10, 4096, 19_000)];
/// The memory with which each class has its most slots; with less it has in proportion fewer.
const PLENTY: u64 = 8 << 30;
/// The memory with which each class has its fewest slots at least; with less it has in proportion fewer of these, too.
const LITTLE: u64 = 1 << 30;
/// So many free slots of a class keep their first pages.
const WARM: usize = 64;
const WARM_BYTES: usize = 64 << 10;

/// Both rings of one flow. Must be given back with `Rings::put`, when nothing uses `up` and `down` any more.
#[derive(Debug)]
pub struct Slot {
    class: usize,
    number: usize,
}

/// All slots of one thread.
#[derive(Debug)]
pub struct Rings {
    classes: Vec<Class>,
}

#[derive(Debug)]
struct Class {
    base: NonNull<u8>,
    ring: usize,
    slots: usize,
    /// Slots given out at least once are below this number.
    fresh: usize,
    free: Vec<usize>,
}

// SAFETY: the address space belongs to this value alone; `base` is not shared.
unsafe impl Send for Class {}

impl Rings {
    /// Reserve the address space, on a machine with `memory` bytes.
    pub fn new(memory: u64) -> Result<Rings, Error> {
        let share = |slots: usize, of: u64| (u128::from(memory.min(of)) * slots as u128 / u128::from(of)) as usize;
        let classes = CLASSES
            .iter()
            .map(|&(ring, fewest, most)| Class::new(ring, share(most, PLENTY).max(share(fewest, LITTLE)).max(1)));
        Ok(Rings { classes: classes.collect::<Result<_, Error>>()? })
    }

    /// Take a slot of the largest class that has one and whose rings are at most `ring` bytes; where none has, of a
    /// larger one, the smallest first. None at the limit.
    pub fn take(&mut self, ring: usize) -> Option<Slot> {
        let suits = self.classes.partition_point(|class| class.ring > ring);
        let mut order = (suits..self.classes.len()).chain((0..suits).rev());
        order.find_map(|class| Some(Slot { class, number: self.classes[class].take()? }))
    }

    /// Give the two rings of `slot`, to and from the proxy.
    ///
    /// # Safety
    /// The slices must be gone before the slot is put back, and this must be called once for each time it is taken.
    pub unsafe fn slices(&mut self, slot: &Slot) -> (&'static mut [u8], &'static mut [u8]) {
        let class = &self.classes[slot.class];
        // SAFETY: the slot lies within the mapping; the caller answers for there being one user.
        unsafe {
            let up = class.base.as_ptr().add(slot.number * 2 * class.ring);
            let down = up.add(class.ring);
            (std::slice::from_raw_parts_mut(up, class.ring), std::slice::from_raw_parts_mut(down, class.ring))
        }
    }

    /// Take back a slot in which at most `touched` bytes of either ring were used.
    pub fn put(&mut self, slot: Slot, touched: usize) {
        self.classes[slot.class].put(slot.number, touched);
    }

    /// Give the number of slots in use.
    pub fn used(&self) -> usize {
        self.classes.iter().map(|class| class.fresh - class.free.len()).sum()
    }
}

impl Class {
    fn new(ring: usize, slots: usize) -> Result<Class, Error> {
        let length = 2 * ring * slots;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => {
                Ok(Class { base, ring, slots, fresh: 0, free: Vec::new() })
            }
            _ => Err(Error::Memory(io::Error::last_os_error())),
        }
    }

    fn take(&mut self) -> Option<usize> {
        self.free.pop().or_else(|| {
            let number = self.fresh;
            (number < self.slots).then(|| {
                self.fresh += 1;
                number
            })
        })
    }

    fn put(&mut self, number: usize, touched: usize) {
        let keep = if self.free.len() < WARM { WARM_BYTES } else { 0 };
        if touched > keep {
            for ring in [2 * number, 2 * number + 1] {
                self.give_back(ring * self.ring + keep, self.ring - keep);
            }
        }
        self.free.push(number);
    }

    /// Let the kernel have the pages of `length` bytes from `offset`.
    fn give_back(&self, offset: usize, length: usize) {
        // SAFETY: the range lies within the mapping, and nothing uses the slot.
        unsafe { libc::madvise(self.base.as_ptr().add(offset).cast(), length, libc::MADV_DONTNEED) };
    }
}

impl Drop for Class {
    fn drop(&mut self) {
        // SAFETY: this mapping, whole; the stack drops its flows before its rings.
        unsafe { libc::munmap(self.base.as_ptr().cast(), 2 * self.ring * self.slots) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_apart_and_used_again_last_in_first_out() {
        let mut rings = Rings::new(PLENTY).unwrap();
        let (first, second) = (rings.take(usize::MAX).unwrap(), rings.take(usize::MAX).unwrap());
        // SAFETY: one use for each slot, ended before they are put back.
        let ((up, down), (other, _)) = unsafe { (rings.slices(&first), rings.slices(&second)) };
        up.fill(1);
        down.fill(2);
        other.fill(3);
        assert!(up.iter().all(|&byte| byte == 1) && down.iter().all(|&byte| byte == 2));
        let number = second.number;
        rings.put(first, up.len());
        rings.put(second, other.len());
        assert_eq!(rings.used(), 0);
        assert_eq!(rings.take(usize::MAX).unwrap().number, number);
    }

    #[test]
    fn smaller_class_serves_when_the_larger_is_used_up_and_none_at_the_limit() {
        let mut rings = Rings::new(PLENTY).unwrap();
        let mut sizes = Vec::new();
        while let Some(slot) = rings.take(usize::MAX) {
            sizes.push(CLASSES[slot.class].0);
        }
        assert_eq!(sizes.len(), CLASSES.iter().map(|class| class.2).sum::<usize>());
        assert!(sizes.is_sorted_by(|a, b| a >= b));
        assert!(rings.take(usize::MAX).is_none());
    }

    #[test]
    fn slots_never_sum_up_to_more_than_most_of_a_small_memory() {
        for memory in [64 << 20, 256 << 20, LITTLE, PLENTY] {
            let rings = Rings::new(memory).unwrap();
            let all: usize = rings.classes.iter().map(|class| 2 * class.ring * class.slots).sum();
            assert!((all as u64) < memory * 6 / 10, "{all} of {memory}");
        }
    }

    #[test]
    fn larger_class_serves_before_any_flow_is_refused() {
        let mut rings = Rings::new(PLENTY).unwrap();
        let mut sizes = Vec::new();
        while let Some(slot) = rings.take(CLASSES[2].0) {
            sizes.push(CLASSES[slot.class].0);
        }
        assert_eq!(sizes.len(), CLASSES.iter().map(|class| class.2).sum::<usize>());
        assert!(sizes.is_sorted());
    }

    #[test]
    fn slot_with_bulk_data_gives_its_pages_back() {
        let mut rings = Rings::new(PLENTY).unwrap();
        let slot = rings.take(usize::MAX).unwrap();
        // SAFETY: one use, ended before the slot is put back.
        let (up, _) = unsafe { rings.slices(&slot) };
        up.fill(7);
        let length = up.len();
        rings.put(slot, length);
        let slot = rings.take(usize::MAX).unwrap();
        // SAFETY: as above; what is read are pages of an anonymous mapping.
        let (up, _) = unsafe { rings.slices(&slot) };
        assert_eq!(up[length - 1], 0, "the kernel has these pages");
        assert_eq!(up[0], 7, "the first pages are warm");
    }
}
