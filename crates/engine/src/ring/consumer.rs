use super::bytes::{self, Cursor};
use super::state::{Count, HELD, SLEEPING, STARVED, State};
use super::{ATTEMPTS, Field, Memory, RingError, Slot, WORD, corrupt};
use crate::prim::atomic::Ordering;

/// The side that pops. One per ring.
#[derive(Debug)]
pub struct Consumer<M> {
    memory: M,
    /// Where the next message lies.
    tail: Cursor,
    /// The number of the next message.
    next: Count,
    /// The state when this side last changed it or looked.
    seen: State,
    must_wake: bool,
    broken: Option<RingError>,
}

impl<M: Memory> Consumer<M> {
    /// Opens this side of a ring that nobody popped from; messages may be waiting in it.
    ///
    /// # Errors
    /// [`RingError::InUse`] if somebody did.
    pub fn open(memory: M) -> Result<Self, RingError> {
        let seen = State(memory.state().load(Ordering::Acquire));
        if seen.next() != Count::ZERO || seen.is_held() {
            return Err(RingError::InUse { state: seen.0 });
        }
        Ok(Self::at(memory, Count::ZERO))
    }

    /// This side of a ring whose first word is that of message `next`.
    pub(super) fn at(memory: M, next: Count) -> Self {
        let seen = State(memory.state().load(Ordering::Acquire));
        let tail = Cursor::new(memory.data().len());
        Self { memory, tail, next, seen, must_wake: false, broken: None }
    }

    /// Claims the oldest message and copies it out, in place of what `into` held. `false`: there was none.
    ///
    /// The words of the message are free again when this side claims the next or finds none.
    ///
    /// # Errors
    /// [`RingError::Corrupt`], now and ever after.
    pub fn try_pop(&mut self, into: &mut Vec<u8>) -> Result<bool, RingError> {
        let popped = match self.broken {
            None => self.pop(into),
            Some(error) => Err(error),
        };
        self.broken = popped.err();
        popped
    }

    fn pop(&mut self, into: &mut Vec<u8>) -> Result<bool, RingError> {
        if !self.claim()? {
            return Ok(false);
        }
        self.copy(into)?;
        // With more to come, the next claim lets this message go: half the changes of a word that the producer
        // changes as well.
        if self.seen.unclaimed() == 0 {
            self.let_go();
        }
        Ok(true)
    }

    fn claim(&mut self) -> Result<bool, RingError> {
        // What is known to wait may have been taken back since; then the exchange fails and tells.
        let mut state = if self.seen.unclaimed() > 0 { self.seen } else { self.look() };
        for _ in 0..ATTEMPTS {
            self.check(state)?;
            if state.unclaimed() == 0 {
                self.seen = state;
                if state.is_held() {
                    self.let_go();
                }
                return Ok(false);
            }
            // Acquire takes over the message's words, Release gives those of the one before back.
            let (new, word) = (state.claimed(), self.memory.state());
            match word.compare_exchange(state.0, new.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.seen = new;
                    self.must_wake |= state.is_starved();
                    return Ok(true);
                }
                Err(found) => state = State(found),
            }
        }
        Err(corrupt(Field::Changes, ATTEMPTS, ATTEMPTS - 1))
    }

    /// Copies the message just claimed.
    fn copy(&mut self, into: &mut Vec<u8>) -> Result<(), RingError> {
        let data = self.memory.data();
        let (number, length) = bytes::parse(self.tail.slot(data).load());
        if number != self.next.get() {
            return Err(corrupt(Field::Number, number, self.next.get()));
        }
        let most = (data.len() - 1) * WORD;
        let length = length as usize;
        if length > most {
            return Err(corrupt(Field::Length, length, most));
        }
        self.tail.advance(1);
        bytes::read(data, self.tail, length, into);
        self.tail.advance(bytes::words(length) - 1);
        self.next = self.next.plus(1);
        Ok(())
    }

    /// Gives back the words of the message that was claimed last.
    fn let_go(&mut self) {
        // Release: the words were read before. Acquire: messages may have come.
        let before = State(self.memory.state().fetch_and(!(HELD | STARVED), Ordering::AcqRel));
        self.must_wake |= before.is_starved();
        self.seen = State(before.0 & !(HELD | STARVED));
    }

    /// Whether room was made, since this was asked last, for a producer that sleeps: wake it.
    #[must_use]
    pub fn must_wake(&mut self) -> bool {
        std::mem::take(&mut self.must_wake)
    }

    /// Announces that this side sleeps until a message comes, and looks again. `true`: there is none, so sleep;
    /// the producer of the next one is told to wake it. `false`: there is something to do: pop.
    ///
    /// After the sleep: silence the event, [`end_sleep`](Self::end_sleep), and only then pop.
    #[must_use]
    pub fn prepare_sleep(&self) -> bool {
        // One change announces the sleep and looks: a message published after it finds the announcement.
        let before = State(self.memory.state().fetch_or(SLEEPING, Ordering::AcqRel));
        let idle = before.next() == self.next && before.unclaimed() == 0 && !before.is_held();
        let sleeps = idle && self.broken.is_none();
        if !sleeps {
            self.end_sleep();
        }
        sleeps
    }

    /// Takes the announcement back, after a sleep that ended for whatever reason.
    pub fn end_sleep(&self) {
        self.memory.state().fetch_and(!SLEEPING, Ordering::AcqRel);
    }

    /// Messages published that were not claimed. None in an unusable ring.
    #[must_use]
    pub fn unclaimed(&self) -> usize {
        let state = self.look();
        if self.broken.is_some() || self.check(state).is_err() { 0 } else { state.unclaimed() }
    }

    fn look(&self) -> State {
        State(self.memory.state().load(Ordering::Acquire))
    }

    /// Whether the producer can have made `state` of what it was.
    fn check(&self, state: State) -> Result<(), RingError> {
        if state.next() != self.next {
            return Err(corrupt(Field::Next, state.next().get(), self.next.get()));
        }
        let most = self.memory.data().len();
        if state.unclaimed() > most {
            return Err(corrupt(Field::Unclaimed, state.unclaimed(), most));
        }
        Ok(())
    }
}
