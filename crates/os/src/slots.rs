//! What was lent to another process, by the number by which it is given back.
//!
//! Whoever lends keeps the thing in a slot and tells the number. Whoever borrowed sets the slot's bit in memory that both
//! have, when nobody looks into the thing any more: no message, so nothing has to be read, or has to have room.

use std::sync::atomic::Ordering;

use crate::segment::Segment;

/// As many as a word has bits.
const MOST: u8 = 64;

/// Words that tell of slots that are free again; what is spoilt must not be used again.
#[derive(Debug, Clone, Copy)]
pub struct Freed {
    /// Where the word of those that may be used again lies, in words of the segment.
    pub free: usize,
    /// Where that of the others lies.
    pub spoilt: usize,
}

impl Freed {
    /// Marks a slot.
    pub fn mark(self, segment: &Segment, slot: u8, is_spoilt: bool) {
        let word = if is_spoilt { self.spoilt } else { self.free };
        // Release: the last look into the slot comes before.
        segment.words()[word].fetch_or(1 << (u32::from(slot) % u64::BITS), Ordering::Release);
    }

    /// Takes the slots that were marked since, each with whether it is spoilt.
    fn take(self, segment: &Segment) -> impl Iterator<Item = (u8, bool)> {
        [(self.free, false), (self.spoilt, true)].into_iter().flat_map(move |(word, is_spoilt)| {
            let word = &segment.words()[word];
            // Nearly always none are: then the line is not taken from the one who marks. Acquire: see `mark`.
            let bits = if word.load(Ordering::Relaxed) == 0 { 0 } else { word.swap(0, Ordering::Acquire) };
            (0..MOST).filter(move |slot| bits & (1 << slot) != 0).map(move |slot| (slot, is_spoilt))
        })
    }
}

/// Things that are lent.
#[derive(Debug)]
pub struct Slots<T> {
    lent: Vec<Option<T>>,
    freed: Freed,
}

impl<T> Slots<T> {
    /// None yet; by which words they are given back.
    #[must_use]
    pub const fn new(freed: Freed) -> Self {
        Self { lent: Vec::new(), freed }
    }

    /// Keeps a thing, under the number that it returns.
    ///
    /// # Errors
    /// Gives the thing back if all numbers are in use.
    pub fn lend(&mut self, thing: T) -> Result<u8, T> {
        let free = self.lent.iter().position(Option::is_none).unwrap_or(self.lent.len());
        match u8::try_from(free) {
            Ok(slot) if slot < MOST => {
                self.lent.resize_with(self.lent.len().max(free + 1), || None);
                self.lent[free] = Some(thing);
                Ok(slot)
            }
            _ => Err(thing),
        }
    }

    /// Takes back what the other has not seen.
    pub fn take(&mut self, slot: u8) -> Option<T> {
        self.lent.get_mut(usize::from(slot))?.take()
    }

    /// Takes back what was given back since, each with whether it is spoilt.
    pub fn take_freed(&mut self, segment: &Segment) -> impl Iterator<Item = (T, bool)> {
        self.freed.take(segment).filter_map(|(slot, is_spoilt)| Some((self.take(slot)?, is_spoilt)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREED: Freed = Freed { free: 3, spoilt: 5 };

    #[test]
    fn what_is_given_back_is_taken_once_and_its_number_used_again() {
        let segment = Segment::create(4096).unwrap();
        let mut slots = Slots::new(FREED);
        let numbers: Vec<u8> = ["a", "b", "c"].map(|thing| slots.lend(thing).unwrap()).to_vec();
        FREED.mark(&segment, numbers[1], false);
        FREED.mark(&segment, numbers[2], true);
        assert_eq!(slots.take_freed(&segment).collect::<Vec<_>>(), [("b", false), ("c", true)]);
        assert_eq!(slots.take_freed(&segment).count(), 0);
        assert_eq!(slots.lend("d"), Ok(numbers[1]));
        assert_eq!(slots.take(numbers[0]), Some("a"));
        assert_eq!(slots.take(numbers[0]), None);
    }

    #[test]
    fn numbers_run_out() {
        let mut slots = Slots::new(FREED);
        let numbers: Vec<u8> = (0..MOST).map(|_| slots.lend(()).unwrap()).collect();
        assert_eq!(numbers, (0..64).collect::<Vec<u8>>());
        assert_eq!(slots.lend(()), Err(()));
        slots.take(63);
        assert_eq!(slots.lend(()), Ok(63));
    }

    #[test]
    fn nonsense_in_the_words_frees_nothing_that_is_not_lent() {
        let segment = Segment::create(4096).unwrap();
        let mut slots = Slots::new(FREED);
        slots.lend("a").unwrap();
        segment.words()[FREED.free].store(u64::MAX, Ordering::Relaxed);
        segment.words()[FREED.spoilt].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(slots.take_freed(&segment).collect::<Vec<_>>(), [("a", false)]);
    }
}
