//! How far into a batch of items a worker has claimed them, in one word, which its pool can cut short.
//!
//! The worker claims an item, runs it, claims the next. If one takes long, the pool cuts the batch off behind it and gives
//! what is left to somebody who is idle. Both change the word by compare-and-exchange, so each item is the one's or the
//! other's.
//!
//! ```text
//! word: batch (20 bits) │ limit (22) │ claimed (22)
//! ```
//!
//! **Guarantees.** Of each batch, the items before what [`cut`](Claims::cut) tells are the ones that the worker claims, and
//! nobody else runs; the others it never claims. A cut meant for another batch changes nothing.
//!
//! **Not here.** The memory that the word is in. Whoever reads a number out of memory that somebody else can write checks it
//! against what it can be.

const BITS: u32 = 22;
const MASK: u64 = (1 << BITS) - 1;

/// As many items as a batch can have.
pub const MOST: u32 = (1 << BITS) - 1;

/// The word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claims(u64);

impl Claims {
    /// Nothing is claimed yet of the `items` items, at most [`MOST`], of the batch of that number.
    #[must_use]
    pub fn new(batch: u64, items: u32) -> Self {
        Self(batch << (2 * BITS) | u64::from(items.min(MOST)) << BITS)
    }

    /// As it was read from memory.
    #[must_use]
    pub fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// As it is written to memory.
    #[must_use]
    pub fn word(self) -> u64 {
        self.0
    }

    /// With one more item claimed; `None` if there is none.
    #[must_use]
    pub fn claim(self) -> Option<Self> {
        (self.claimed() < self.limit()).then_some(Self(self.0 + 1))
    }

    /// With nothing more to claim; `None` if it is of another batch.
    #[must_use]
    pub fn cut(self, batch: u64) -> Option<Self> {
        let cut = Self(Self::new(batch, self.claimed()).0 | u64::from(self.claimed()));
        (self.0 >> (2 * BITS) == cut.0 >> (2 * BITS)).then_some(cut)
    }

    /// How many items are claimed.
    #[must_use]
    pub fn claimed(self) -> u32 {
        u32::try_from(self.0 & MASK).unwrap_or(MOST)
    }

    /// How many items are claimed of the batch of that number; `None` if the word can be no word of that batch, which has at
    /// most `most` items.
    #[must_use]
    pub fn of(self, batch: u64, most: u32) -> Option<u32> {
        let is_its = self.0 >> (2 * BITS) == Self::new(batch, 0).0 >> (2 * BITS);
        (is_its && self.claimed() <= self.limit() && self.limit() <= most).then(|| self.claimed())
    }

    fn limit(self) -> u32 {
        u32::try_from(self.0 >> BITS & MASK).unwrap_or(MOST)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_many_are_claimed_as_there_are(batch: u64, items in 0..=1000_u32) {
            let mut claims = Claims::new(batch, items);
            let mut count = 0;
            while let Some(next) = claims.claim() {
                claims = next;
                count += 1;
                prop_assert_eq!(claims.claimed(), count);
            }
            prop_assert_eq!(count, items);
        }

        #[test]
        fn nothing_is_claimed_behind_a_cut(batch: u64, items in 1..=MOST, claimed in 0..1000_u32) {
            let mut claims = Claims::new(batch, items);
            for _ in 0..claimed.min(items) {
                claims = claims.claim().unwrap();
            }
            let cut = claims.cut(batch).unwrap();
            prop_assert_eq!(cut.claimed(), claimed.min(items));
            prop_assert_eq!(cut.claim(), None);
            prop_assert_eq!(cut.cut(batch), Some(cut));
        }

        #[test]
        fn a_batch_is_not_cut_in_place_of_another(batch: u64, items in 0..=MOST, apart in 1..1_u64 << 20) {
            prop_assert_eq!(Claims::new(batch, items).cut(batch.wrapping_add(apart)), None);
        }

        #[test]
        fn a_word_tells_of_its_batch_only(batch: u64, items in 0..=1000_u32, claimed in 0..1000_u32, apart in 1..1_u64 << 20) {
            let claims = (0..claimed).try_fold(Claims::new(batch, items), |claims, _| claims.claim().ok_or(claims));
            let claims = claims.unwrap_or_else(|all| all);
            prop_assert_eq!(claims.of(batch, items), Some(claimed.min(items)));
            prop_assert_eq!(claims.cut(batch).unwrap().of(batch, items), Some(claimed.min(items)));
            prop_assert_eq!(claims.of(batch.wrapping_add(apart), items), None);
            prop_assert_eq!(Claims::from_word(claims.word() | u64::from(MOST)).of(batch, MOST - 1), None);
        }

        #[test]
        fn nonsense_has_numbers_in_their_range(word: u64, batch: u64) {
            let claims = Claims::from_word(word);
            prop_assert!(claims.claimed() <= MOST);
            prop_assert!(claims.claim().is_none_or(|next| next.claimed() == claims.claimed() + 1));
            prop_assert!(claims.cut(batch).is_none_or(|cut| cut.claim().is_none()));
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;
    use crate::prim::Arc;
    use crate::prim::atomic::{AtomicU64, Ordering};

    fn change(word: &AtomicU64, change: impl Fn(Claims) -> Option<Claims>) -> Option<Claims> {
        let changed = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            change(Claims::from_word(word)).map(Claims::word)
        });
        changed.ok().map(Claims::from_word)
    }

    #[test]
    fn loom_each_item_is_the_workers_or_the_pools() {
        loom::model(|| {
            let word = Arc::new(AtomicU64::new(Claims::new(7, 3).word()));
            let worker = {
                let word = Arc::clone(&word);
                thread::spawn(move || {
                    let mut ran = 0;
                    while change(&word, Claims::claim).is_some() {
                        ran += 1;
                    }
                    ran
                })
            };
            let taken_from = change(&word, |claims| claims.cut(7)).unwrap().claimed();
            assert_eq!(worker.join().unwrap(), taken_from);
        });
    }
}
