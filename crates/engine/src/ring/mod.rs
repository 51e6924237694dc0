//! A bounded queue of messages between two processes, over memory that both can write.
//!
//! One [`Producer`] pushes, one [`Consumer`] pops, oldest first. The producer may also take its newest messages
//! back, as long as the consumer has not claimed them: that is what lets a pool put tasks ahead of a worker and
//! still give them to another. Either side can announce that it sleeps and is then told of every wake-up that
//! the other side owes it, so a busy ring needs no system call.
//!
//! The protocol, with its proof, stands in `README.md` beside this file. Its whole shared state is one 64-bit
//! word: every race meets there, in the single order of that word's changes.
//!
//! # Guarantees
//! - A message is popped or taken back, never both, and popped in the order in which it was pushed.
//! - Words of the data area are reused only after the consumer has copied them out.
//! - No wake-up is lost: see [`Consumer::prepare_sleep`] and [`Producer::prepare_sleep`].
//! - Each side survives the other: nothing read from the memory is believed before it has been checked, so
//!   garbage ends in [`RingError::Corrupt`], never in a panic, an endless loop or a foreign access. After that
//!   error the handle refuses to work.
//!
//! What it does not do: it does not notice that the other side died, and it does not sleep. Both are `os`'s.

mod bytes;
mod consumer;
#[cfg(all(test, loom))]
mod loom_tests;
mod producer;
mod state;
#[cfg(all(test, not(loom)))]
mod tests;

use crate::prim::atomic::{AtomicU64, Ordering};

pub use consumer::Consumer;
pub use producer::{Producer, PushError, Pushed};

/// Bytes of a word, the unit in which messages are laid out.
pub const WORD: usize = size_of::<u64>();

/// The most words a data area may have: more would not fit the counters in the state word.
pub const MAX_WORDS: usize = 1 << 28;

/// How often a change of the state word is tried. Each failure means that the other side changed it in the
/// nanoseconds between; so many in a row are not the work of a ring's other end.
const ATTEMPTS: u32 = 10_000;

/// One word of the data area. Both accesses are relaxed: the state word orders them.
pub trait Slot {
    /// Reads the word.
    fn load(&self) -> u64;
    /// Writes the word.
    fn store(&self, word: u64);
}

impl Slot for AtomicU64 {
    #[inline]
    fn load(&self) -> u64 {
        self.load(Ordering::Relaxed)
    }

    #[inline]
    fn store(&self, word: u64) {
        self.store(word, Ordering::Relaxed);
    }
}

/// Where a ring lives. The two handles of a ring see the same memory; zeroed memory is an empty ring.
pub trait Memory {
    /// A word of the data area.
    type Slot: Slot;

    /// The state word.
    fn state(&self) -> &AtomicU64;

    /// The data area: always the same words, at least 2 and at most [`MAX_WORDS`].
    fn data(&self) -> &[Self::Slot];
}

/// What made a ring unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The memory holds what the other side of a ring cannot have written.
    #[error("could not use the ring: found {field} {found}, expected {}{expected}", .field.relation())]
    Corrupt {
        /// What it should have been.
        field: Field,
        /// What was there.
        found: u64,
        /// What should have been there, or the most that could have been.
        expected: u64,
    },
    /// This side of the ring was opened before: where its messages lie is known to that handle alone.
    #[error("could not open the ring: found it in use (state {state:#018x}), expected a new one")]
    InUse {
        /// The state word.
        state: u64,
    },
    /// There is no ring here.
    #[error("could not open the ring: found mark {found:#018x}, expected {expected:#018x}")]
    Foreign {
        /// What stands at the beginning.
        found: u64,
        /// What a ring of this version begins with.
        expected: u64,
    },
    /// The place given for the ring cannot hold one.
    #[error(
        "could not place a ring of {len} bytes at {offset}: expected a multiple of {align} within {segment} bytes, of at least {least} bytes"
    )]
    Place {
        /// Where it should begin.
        offset: usize,
        /// How many bytes it should have.
        len: usize,
        /// What `offset` must be a multiple of.
        align: usize,
        /// The bytes of the segment.
        segment: usize,
        /// The least bytes of a ring.
        least: usize,
    },
}

/// What was found [corrupt](RingError::Corrupt).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The number of the next message to claim.
    Next,
    /// The number of the next message to publish.
    End,
    /// The count of messages published and not claimed.
    Unclaimed,
    /// The count of messages published and not freed.
    Occupied,
    /// The number that a message bears.
    Number,
    /// The length of a message, in bytes.
    Length,
    /// How often the state changed while one change of ours was tried.
    Changes,
    /// The ring's capacity, in bytes, as its creator wrote it down.
    Capacity,
}

impl Field {
    const fn relation(self) -> &'static str {
        match self {
            Self::Next | Self::End | Self::Number | Self::Capacity => "",
            Self::Unclaimed | Self::Occupied | Self::Length | Self::Changes => "at most ",
        }
    }
}

impl std::fmt::Display for Field {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Next => "next message",
            Self::End => "end of messages",
            Self::Unclaimed => "unclaimed messages",
            Self::Occupied => "occupied messages",
            Self::Number => "message number",
            Self::Length => "message length",
            Self::Changes => "changes of state",
            Self::Capacity => "capacity",
        })
    }
}

fn corrupt(field: Field, found: impl TryInto<u64>, expected: impl TryInto<u64>) -> RingError {
    let number = |value: Result<u64, _>| value.unwrap_or(u64::MAX);
    RingError::Corrupt {
        field,
        found: number(found.try_into().map_err(drop)),
        expected: number(expected.try_into().map_err(drop)),
    }
}
