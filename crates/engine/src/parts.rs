//! Where the parts of a large message lie in the memory that it travels in.
//!
//! ```text
//! words: count │ length of each … │ padding │ part 0 │ padding │ part 1 │ …
//! ```
//!
//! **Guarantees.** Parts do not overlap, lie within the memory and begin at multiples of [`ALIGN`], also when the words
//! come from somebody who writes nonsense.
//!
//! **Not here.** The memory itself, and what the parts mean.

use std::ops::Range;

/// At what each part is aligned: a cache line, and the widest vector that numerical libraries load.
pub const ALIGN: usize = 64;

const WORD: usize = size_of::<u64>();

/// The places of the parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    parts: Vec<Range<usize>>,
}

impl Layout {
    /// Lays out parts of these lengths; `None` if there is no memory so large.
    pub fn new(lens: impl IntoIterator<Item = usize>) -> Option<Self> {
        let mut parts: Vec<Range<usize>> = lens.into_iter().map(|len| 0..len).collect();
        let mut end = WORD.checked_mul(parts.len().checked_add(1)?)?;
        for part in &mut parts {
            let start = end.checked_next_multiple_of(ALIGN)?;
            end = start.checked_add(part.end)?;
            *part = start..end;
        }
        // What Rust can speak of as bytes.
        (end <= isize::MAX.unsigned_abs()).then_some(Self { parts })
    }

    /// Reads the layout of a message in memory of `len` bytes; `None` if it is none.
    pub fn read(len: usize, word: impl Fn(usize) -> Option<u64>) -> Option<Self> {
        let count = usize::try_from(word(0)?).ok()?;
        // Before anything is made of that size.
        if count >= len / WORD {
            return None;
        }
        let lens: Option<Vec<usize>> = (1..=count).map(|at| usize::try_from(word(at)?).ok()).collect();
        Self::new(lens?).filter(|layout| layout.end() <= len)
    }

    /// What to write in front, for whoever [reads](Self::read) it.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.parts.len() as u64).chain(self.parts.iter().map(|part| part.len() as u64))
    }

    /// The place of each part.
    #[must_use]
    pub fn parts(&self) -> &[Range<usize>] {
        &self.parts
    }

    /// How many bytes the whole takes.
    #[must_use]
    pub fn end(&self) -> usize {
        self.parts.last().map_or(WORD, |part| part.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_follow_each_other_in_lines() {
        let layout = Layout::new([100, 0, 64, 1]).unwrap();
        assert_eq!(layout.parts(), [64..164, 192..192, 192..256, 256..257]);
        assert_eq!(layout.end(), 257);
        assert_eq!(layout.words().collect::<Vec<_>>(), [4, 100, 0, 64, 1]);
    }

    #[test]
    fn what_no_memory_can_hold_has_no_layout() {
        assert_eq!(Layout::new([usize::MAX]), None);
        assert_eq!(Layout::new([usize::MAX / 2, usize::MAX / 2, 64]), None);
        assert_eq!(Layout::new([isize::MAX.unsigned_abs()]), None);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(lens in prop::collection::vec(0_usize..1 << 40, 0..20)) {
            let layout = Layout::new(lens.iter().copied()).unwrap();
            let words: Vec<u64> = layout.words().collect();
            let read = |len| Layout::read(len, |at| words.get(at).copied());
            prop_assert_eq!(read(layout.end().max(256)), Some(layout.clone()));
            prop_assert!(lens.is_empty() || read(layout.end() - 1).is_none());
        }

        #[test]
        fn nonsense_lies_within_the_memory_or_nowhere(
            words in prop::collection::vec(prop_oneof![0_u64..8, 0_u64..2000, any::<u64>()], 1..12),
            len in 8_usize..4000,
        ) {
            if let Some(layout) = Layout::read(len, |at| words.get(at).copied()) {
                let mut end = WORD * (layout.parts().len() + 1);
                for part in layout.parts() {
                    prop_assert!(part.start >= end && part.start.is_multiple_of(ALIGN) && part.end <= len);
                    end = part.end;
                }
            }
        }
    }
}
