//! The state word: two counters and three flags, and the changes they may undergo.
//!
//! ```text
//! bit 63 … 34   33        32     31         30        29 … 0
//!     end       (unused)  held   sleeping   starved   next
//! ```
//!
//! `end` is on top, so that adding to it carries into nothing.

/// Bits of a counter. Counters wrap; at most [`MAX_WORDS`](super::MAX_WORDS) messages are ever between them.
const COUNT_BITS: u32 = 30;
const COUNT_MASK: u32 = (1 << COUNT_BITS) - 1;
const END_SHIFT: u32 = 64 - COUNT_BITS;

/// One message more at the end: add it to publish.
pub(super) const ONE: u64 = 1 << END_SHIFT;
/// The consumer still reads the message that it claimed last.
pub(super) const HELD: u64 = 1 << 32;
/// The consumer sleeps, or is about to, until a message is published.
pub(super) const SLEEPING: u64 = 1 << 31;
/// The producer sleeps, or is about to, until words are freed.
pub(super) const STARVED: u64 = 1 << 30;

/// The number of a message, counted from the ring's beginning; wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count(u32);

impl Count {
    pub(super) const ZERO: Self = Self(0);

    pub(super) const fn plus(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count) & COUNT_MASK)
    }

    pub(super) const fn minus(self, count: u32) -> Self {
        Self(self.0.wrapping_sub(count) & COUNT_MASK)
    }

    /// How many messages lie from `earlier` up to here.
    pub(super) const fn since(self, earlier: Self) -> usize {
        (self.0.wrapping_sub(earlier.0) & COUNT_MASK) as usize
    }

    pub(super) const fn get(self) -> u32 {
        self.0
    }
}

/// A value of the state word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State(pub(super) u64);

impl State {
    /// The next message to claim.
    pub(super) const fn next(self) -> Count {
        #[expect(clippy::cast_possible_truncation, reason = "the counter is in the low bits")]
        Count(self.0 as u32 & COUNT_MASK)
    }

    /// The next message to publish.
    pub(super) const fn end(self) -> Count {
        Count((self.0 >> END_SHIFT) as u32)
    }

    pub(super) const fn unclaimed(self) -> usize {
        self.end().since(self.next())
    }

    pub(super) const fn is_held(self) -> bool {
        self.0 & HELD != 0
    }

    pub(super) const fn is_sleeping(self) -> bool {
        self.0 & SLEEPING != 0
    }

    pub(super) const fn is_starved(self) -> bool {
        self.0 & STARVED != 0
    }

    /// The next message claimed, and with it the one before let go.
    pub(super) const fn claimed(self) -> Self {
        Self(self.0 & !(COUNT_MASK as u64 | STARVED) | self.next().plus(1).0 as u64 | HELD)
    }

    /// The newest `count` messages withdrawn.
    pub(super) const fn withdrawn(self, count: u32) -> Self {
        Self(self.0.wrapping_sub(count as u64 * ONE))
    }
}
