//! Permits: so many may be out at a time, the others wait in line. A lock is one permit.
//!
//! Taking a permit that is there, and giving one back that nobody waits for, is one compare-and-swap of one word:
//!
//! ```text
//!   word = free permits << 1 | somebody waits
//! ```
//!
//! Everything else happens under the lock of the line. A releaser who finds nobody waiting gives back without it, so
//! who joins the line sets the bit in the very word that the releaser swaps: either the swap comes first, and the
//! joiner finds the permit, or the bit does, and the releaser finds the joiner.
//!
//! **Fairness.** A permit that comes free is announced to the first in line, and is there for whoever takes it first;
//! who was called in vain once is handed the next one. So a thread that takes and releases in a loop does not switch
//! threads at each turn, and nobody is passed over twice. Who has nothing to gain by being faster comes
//! [in his turn](Permits::take_in_turn_or_join): behind those who wait.
//!
//! **Invariant**, whenever the line's lock is free: as many are called as there are free permits, or everybody is.
//! While somebody is owed a permit none is free.

use crate::line::{Left, Line, Ticket};
use crate::prim::atomic::{AtomicUsize, Ordering};
use crate::prim::{Mutex, lock};

const WAITING: usize = 1;
const ONE: usize = 2;

/// Somebody to be woken.
#[derive(Debug)]
#[must_use]
pub enum Wake<W> {
    /// He is to come for a permit. If he cannot be woken, [`Permits::leave`] his ticket.
    Called(Ticket, W),
    /// He has a permit. If he cannot be woken, give it back.
    Served(W),
}

/// More permits would be free than there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

/// What became of somebody who gave up.
#[derive(Debug)]
#[must_use]
pub enum GaveUp<W> {
    /// He has left the line. These must be called in his stead.
    Left(Vec<Wake<W>>),
    /// He had been handed a permit meanwhile, and has it.
    Holds,
}

/// So many permits, and those who wait for one.
#[derive(Debug)]
pub struct Permits<W> {
    word: AtomicUsize,
    most: usize,
    line: Mutex<Line<W>>,
}

impl<W: Clone> Permits<W> {
    /// The most permits that can be counted.
    pub const LIMIT: usize = usize::MAX / ONE;

    /// `free` permits, of which never more than `most` are free.
    #[must_use]
    pub fn new(free: usize, most: usize) -> Self {
        debug_assert!(free <= most && most <= Self::LIMIT);
        Self { word: AtomicUsize::new(free * ONE), most, line: Mutex::default() }
    }

    /// How many are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.word.load(Ordering::Acquire) / ONE
    }

    /// The most that may be free.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// Takes a permit if one is free.
    #[inline]
    #[must_use]
    pub fn try_take(&self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while word >= ONE {
            // Acquire pairs with the Release in `give`: what the last holder wrote is seen.
            match self.word.compare_exchange_weak(word, word - ONE, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(found) => word = found,
            }
        }
        false
    }

    /// Takes a permit, or joins the line.
    pub fn take_or_join(&self, waiter: W) -> Option<Ticket> {
        let mut line = lock(&self.line);
        loop {
            if self.try_take() {
                return None;
            }
            // From here on a releaser comes by the line's lock.
            if self.mark_waiting() {
                return Some(line.join(waiter));
            }
        }
    }

    /// Takes a permit if one is free and nobody waits.
    #[inline]
    #[must_use]
    pub fn try_take_in_turn(&self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while word >= ONE && word & WAITING == 0 {
            match self.word.compare_exchange_weak(word, word - ONE, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(found) => word = found,
            }
        }
        false
    }

    /// Takes a permit if nobody waits, or joins the line; who finds a permit for himself too is called at once.
    pub fn take_in_turn_or_join(&self, waiter: W) -> Option<(Ticket, Vec<Wake<W>>)> {
        let mut line = lock(&self.line);
        while line.is_empty() {
            if self.try_take() {
                return None;
            }
            if self.mark_waiting() {
                return Some((line.join(waiter), Vec::new()));
            }
        }
        let ticket = line.join(waiter);
        Some((ticket, self.summon(&mut line)))
    }

    /// Sets the bit; `false` if a permit is free.
    fn mark_waiting(&self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word >= ONE {
                return false;
            }
            match self.word.compare_exchange_weak(word, WAITING, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(found) => word = found,
            }
        }
    }

    /// Whether the one with this ticket has a permit now: he was handed one, or took one.
    #[must_use]
    pub fn poll(&self, ticket: Ticket) -> bool {
        let mut line = lock(&self.line);
        if !line.contains(ticket) {
            return true;
        }
        if self.try_take() {
            let _ = line.leave(ticket);
            self.tidy(&line);
            return true;
        }
        line.pass_over(ticket);
        false
    }

    /// Takes the one with this ticket out of the line.
    pub fn leave(&self, ticket: Ticket) -> GaveUp<W> {
        let mut line = lock(&self.line);
        match line.leave(ticket) {
            Left::Served => GaveUp::Holds,
            Left::Waiting | Left::Called => {
                self.tidy(&line);
                GaveUp::Left(self.summon(&mut line))
            }
        }
    }

    /// Gives a permit back; `None` if somebody may wait for it: then [`give`](Self::give).
    ///
    /// # Errors
    /// [`TooMany`] if all are free already.
    #[inline]
    pub fn try_give(&self) -> Option<Result<(), TooMany>> {
        let mut word = self.word.load(Ordering::Relaxed);
        while word & WAITING == 0 {
            if word / ONE >= self.most {
                return Some(Err(TooMany));
            }
            // Release pairs with the Acquire in `try_take`.
            match self.word.compare_exchange_weak(word, word + ONE, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return Some(Ok(())),
                Err(found) => word = found,
            }
        }
        None
    }

    /// Gives `count` permits back; returns whom to wake. `hand` looks at each who is handed one, before anybody else
    /// can know.
    ///
    /// # Errors
    /// [`TooMany`] if more would be free than may be; then nothing has changed.
    pub fn give(&self, count: usize, mut hand: impl FnMut(&W)) -> Result<Vec<Wake<W>>, TooMany> {
        let mut line = lock(&self.line);
        let free = self.free();
        if count > self.most - free.min(self.most) {
            return Err(TooMany);
        }
        let mut wake = Vec::new();
        for _ in 0..count {
            if line.owes()
                && let Some(waiter) = line.serve()
            {
                hand(&waiter);
                wake.push(Wake::Served(waiter));
            } else {
                // Release pairs with the Acquire in `try_take`.
                self.word.fetch_add(ONE, Ordering::Release);
            }
        }
        self.tidy(&line);
        wake.append(&mut self.summon(&mut line));
        Ok(wake)
    }

    /// Forgets whoever waits, and sets how many permits are free: for a process in which the others do not exist.
    pub fn reset(&self, free: usize) -> Vec<W> {
        let mut line = lock(&self.line);
        self.word.store(free * ONE, Ordering::Release);
        line.serve_all()
    }

    /// Takes out those who are gone: for a process in which they do not exist.
    pub fn dismiss(&self, is_gone: impl Fn(&W) -> bool) -> Vec<W> {
        let mut line = lock(&self.line);
        let gone = line.dismiss(is_gone);
        self.tidy(&line);
        gone
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.line).len()
    }

    /// Looks at those who wait, in order. `look` must not call out.
    pub fn for_each_waiter(&self, look: impl FnMut(&W)) {
        lock(&self.line).iter().for_each(look);
    }

    /// Clears the bit when the last one has left.
    fn tidy(&self, line: &Line<W>) {
        if line.is_empty() {
            self.word.fetch_and(!WAITING, Ordering::Relaxed);
        }
    }

    /// Calls as many as there are free permits.
    fn summon(&self, line: &mut Line<W>) -> Vec<Wake<W>> {
        let free = self.free();
        let mut calls = Vec::new();
        while line.called() < free
            && let Some((ticket, waiter)) = line.call()
        {
            calls.push(Wake::Called(ticket, waiter));
        }
        calls
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
pub(crate) mod loom_tests;

#[cfg(all(test, loom))]
pub(crate) mod sleeper;
