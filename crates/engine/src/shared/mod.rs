//! The rules of what processes share: pure steps over words that lie in memory which all of them can write.
//!
//! A process can be killed between any two instructions. So each step commits with one store or exchange, what leads to
//! it is of no meaning before, and what a dead process leaves behind can be told by the [`Owner`] beside it.
//!
//! **Not here.** The memory, the sleep, and the knowledge of who is alive: `os` has them. The words may hold anything:
//! whatever is read from them is checked where it is used as a number of something else.

pub mod barrier;
pub mod bell;
pub mod board;
pub mod condition;
mod copy;
pub mod dict;
pub mod event;
pub mod lock;
#[cfg(all(test, loom))]
mod models;
pub mod number;
pub mod queue;
pub mod rwlock;
pub mod seats;
pub mod semaphore;

use crate::prim::atomic::AtomicU64;

/// Memory that may become more.
pub trait Memory {
    /// Why it cannot.
    type Error;

    /// The words up to that one, if they are there.
    fn words(&self, end: usize) -> Option<&[AtomicU64]>;

    /// Sees to it that there are so many words.
    ///
    /// # Errors
    /// If there is no room.
    fn grow(&self, end: usize) -> Result<(), Self::Error>;
}

/// A process: its number, and the time of its start, for numbers are given again.
///
/// ```text
/// word: start (32 bits, in the kernel's ticks) │ flags of whoever keeps the word (2) │ process number (30)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner(u64);

const PID: u64 = (1 << 30) - 1;
const START: u64 = !0 << 32;

impl Owner {
    /// The process of that number, started then.
    #[must_use]
    pub const fn new(pid: u32, start: u64) -> Self {
        Self(pid as u64 & PID | start << 32)
    }

    /// The owner that a word names; `None` for nobody's.
    #[must_use]
    pub const fn of_word(word: u64) -> Option<Self> {
        match word & PID {
            0 => None,
            _ => Some(Self(word & (PID | START))),
        }
    }

    /// As it is written to memory.
    #[must_use]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// Its process number.
    #[must_use]
    pub const fn pid(self) -> u32 {
        (self.0 & PID) as u32
    }

    /// The low half of the ticks at which it started.
    #[must_use]
    pub const fn start(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_its_number_and_its_start() {
        let owner = Owner::new(4_194_304, 0x1234_5678_9abc);
        assert_eq!((owner.pid(), owner.start()), (4_194_304, 0x5678_9abc));
        assert_eq!(Owner::of_word(owner.word() | 3 << 30), Some(owner));
        assert_eq!(Owner::of_word(3 << 30), None);
    }
}
