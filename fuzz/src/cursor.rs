//! The input of a target, read from front to back: so that a seed can be written, and read, by hand. Zeroes follow.

/// See the head of this file.
pub struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// A number of two bytes, the more significant one first.
    pub fn word(&mut self) -> u16 {
        u16::from(self.byte()) << 8 | u16::from(self.byte())
    }

    /// A small number that is mostly zero: what is added to the right one.
    pub fn skew(&mut self) -> i32 {
        match self.byte() {
            0..=127 => 0,
            near @ 128..=247 => i32::from(near) - 188,
            248..=251 => i32::from(self.word()),
            _ => i32::from(self.word()) << 16,
        }
    }

    /// The next bytes, at most `most`.
    pub fn take(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }
}
