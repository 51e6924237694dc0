use std::collections::VecDeque;

use super::bytes::{self, Cursor, Writer};
use super::state::{Count, ONE, SLEEPING, STARVED, State};
use super::{ATTEMPTS, Field, Memory, RingError, WORD, corrupt};
use crate::prim::atomic::Ordering;

/// What the producer does next.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// The consumer sleeps: wake it.
    pub must_wake: bool,
}

/// Why a message was not pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// There is no room for it now.
    #[error("could not push a message: the ring is full")]
    Full,
    /// There will never be room for it.
    #[error("could not push a message: found it larger than the ring, expected at most {max} bytes")]
    TooLarge {
        /// The most bytes that a message of this ring may have.
        max: usize,
    },
    /// The ring is unusable.
    #[error(transparent)]
    Corrupt(#[from] RingError),
}

/// The side that pushes. One per ring.
#[derive(Debug)]
pub struct Producer<M> {
    memory: M,
    /// Where the next message goes.
    head: Cursor,
    /// Words that the consumer has done with.
    free: usize,
    /// The number of the next message.
    end: Count,
    /// The words of each message that the consumer may not have done with, oldest first. Kept here and not read
    /// from the ring, where the other side can write.
    sizes: VecDeque<u32>,
    broken: Option<RingError>,
}

impl<M: Memory> Producer<M> {
    /// Opens this side of a ring that nobody pushed to.
    ///
    /// # Errors
    /// [`RingError::InUse`] if somebody did.
    pub fn open(memory: M) -> Result<Self, RingError> {
        let state = memory.state().load(Ordering::Acquire);
        if state & !(SLEEPING | STARVED) != 0 {
            return Err(RingError::InUse { state });
        }
        Ok(Self::at(memory, Count::ZERO))
    }

    /// This side of an empty ring, before message `end`.
    pub(super) fn at(memory: M, end: Count) -> Self {
        let words = memory.data().len();
        Self { memory, head: Cursor::new(words), free: words, end, sizes: VecDeque::new(), broken: None }
    }

    /// The most bytes that a message may have.
    #[must_use]
    pub fn max_message(&self) -> usize {
        (self.memory.data().len() - 1) * WORD
    }

    /// Pushes one message, the parts in a row.
    ///
    /// # Errors
    /// See [`PushError`]. The message was not pushed, except perhaps into a corrupt ring.
    pub fn try_push(&mut self, parts: &[&[u8]]) -> Result<Pushed, PushError> {
        let length = parts.iter().map(|part| part.len()).sum();
        let words = self.reserve(length)?;
        let mut writer = Writer::new(self.memory.data(), self.head);
        writer.put_word(bytes::header(self.end.get(), narrow(length)));
        for part in parts {
            writer.put(part);
        }
        self.head = writer.finish();
        Ok(self.publish(words)?)
    }

    /// The words for a message of `length` bytes, once they are free.
    fn reserve(&mut self, length: usize) -> Result<usize, PushError> {
        if let Some(error) = self.broken {
            return Err(error.into());
        }
        let max = self.max_message();
        if length > max {
            return Err(PushError::TooLarge { max });
        }
        let words = bytes::words(length);
        if words > self.free {
            // Acquire pairs with the consumer's release of the words.
            self.observe(State(self.memory.state().load(Ordering::Acquire)))?;
        }
        if words > self.free { Err(PushError::Full) } else { Ok(words) }
    }

    fn publish(&mut self, words: usize) -> Result<Pushed, RingError> {
        // Release hands the words to the consumer; Acquire takes over those that it freed.
        let before = State(self.memory.state().fetch_add(ONE, Ordering::AcqRel));
        self.observe(before)?;
        self.end = self.end.plus(1);
        self.free -= words;
        self.sizes.push_back(narrow(words));
        Ok(Pushed { must_wake: before.is_sleeping() && self.call_off(SLEEPING) })
    }

    /// Withdraws up to `most` of the newest messages that the consumer has not claimed, newest first; how many.
    /// None from an unusable ring: who has them is not known there.
    pub fn take_back(&mut self, most: usize) -> usize {
        for _ in 0..ATTEMPTS {
            let state = State(self.memory.state().load(Ordering::Acquire));
            let Ok(unclaimed) = self.observe(state) else { return 0 };
            let count = unclaimed.min(most);
            if count == 0 {
                return 0;
            }
            let withdrawn = state.withdrawn(narrow(count));
            let word = self.memory.state();
            let change = word.compare_exchange(state.0, withdrawn.0, Ordering::AcqRel, Ordering::Relaxed);
            if change.is_ok() {
                self.retract(count);
                return count;
            }
        }
        self.broken = Some(corrupt(Field::Changes, ATTEMPTS, ATTEMPTS - 1));
        0
    }

    fn retract(&mut self, count: usize) {
        for size in (0..count).map_while(|_| self.sizes.pop_back()) {
            self.head.retreat(size as usize);
            self.free += size as usize;
        }
        self.end = self.end.minus(narrow(count));
    }

    /// Messages pushed that the consumer has not claimed. None in an unusable ring.
    #[must_use]
    pub fn unclaimed(&self) -> usize {
        self.known_unclaimed().unwrap_or(0)
    }

    /// The same; `None` if the ring is unusable: who has what is not known there.
    #[must_use]
    pub fn known_unclaimed(&self) -> Option<usize> {
        self.check(State(self.memory.state().load(Ordering::Acquire))).ok().map(|(unclaimed, _)| unclaimed)
    }

    /// What made the ring unusable, once this side has come upon it.
    #[must_use]
    pub const fn broken(&self) -> Option<RingError> {
        self.broken
    }

    /// Announces that this side sleeps until there is room for a message of `length` bytes, and looks again.
    /// `true`: there is none, so sleep; the consumer wakes it when it frees any room, enough or not. `false`:
    /// there is, or there never will be, or the ring is unusable: push.
    #[must_use]
    pub fn prepare_sleep(&mut self, length: usize) -> bool {
        // One change announces the sleep and looks: room made after it finds the announcement.
        let before = State(self.memory.state().fetch_or(STARVED, Ordering::AcqRel));
        let may_come = self.observe(before).is_ok() && length <= self.max_message();
        let sleeps = may_come && bytes::words(length) > self.free;
        if !sleeps {
            self.end_sleep();
        }
        sleeps
    }

    /// Takes the announcement back, after a sleep that ended for whatever reason.
    pub fn end_sleep(&self) {
        self.call_off(STARVED);
    }

    /// Clears a flag; whether it was still set.
    fn call_off(&self, flag: u64) -> bool {
        self.memory.state().fetch_and(!flag, Ordering::AcqRel) & flag != 0
    }

    /// Takes note of what the consumer did, and frees the words it has done with; how many are unclaimed.
    fn observe(&mut self, state: State) -> Result<usize, RingError> {
        let checked = self.check(state);
        match checked {
            Ok((unclaimed, freed)) => {
                for size in (0..freed).map_while(|_| self.sizes.pop_front()) {
                    self.free += size as usize;
                }
                Ok(unclaimed)
            }
            Err(error) => {
                self.broken = Some(error);
                Err(error)
            }
        }
    }

    /// Whether the consumer can have made `state` of what it was: the messages unclaimed, and those freed since
    /// the last look.
    fn check(&self, state: State) -> Result<(usize, usize), RingError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        if state.end() != self.end {
            return Err(corrupt(Field::End, state.end().get(), self.end.get()));
        }
        let unclaimed = state.unclaimed();
        // The message being read is neither unclaimed nor free.
        let occupied = unclaimed + usize::from(state.is_held());
        match self.sizes.len().checked_sub(occupied) {
            Some(freed) => Ok((unclaimed, freed)),
            None => Err(corrupt(Field::Occupied, occupied, self.sizes.len())),
        }
    }
}

/// A count of words, messages or bytes of one message: each is far below 2³² by the bound on the data area.
#[expect(clippy::cast_possible_truncation, reason = "bounded by the data area, as said")]
const fn narrow(count: usize) -> u32 {
    count as u32
}
