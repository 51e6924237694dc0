//! Mutual exclusion: one permit and a note of who has it, under `Lock`, `RLock` and `Condition`.

use std::sync::atomic::{AtomicU64, Ordering};

use manyhands_engine::line::Ticket;
use manyhands_engine::permits::{GaveUp, Permits};
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::detection::{self, Watched};
use super::waiting::{Entered, Waitable, Waiter, take_or_join, wake_all};
use super::who::{self, Generation, NOBODY};

/// At most one has it. Not reentrant, and given back by anybody.
pub(crate) struct Mutual {
    permit: Permits<Waiter>,
    /// The number of the thread that has it. Written by whoever takes it or hands it over; a hint for everybody else.
    holder: AtomicU64,
    generation: Generation,
    watched: Watched,
}

impl Mutual {
    pub(crate) fn new() -> Self {
        let (holder, generation) = (AtomicU64::new(NOBODY), Generation::new());
        Self { permit: Permits::new(1, 1), holder, generation, watched: Watched::new("lock") }
    }

    #[inline]
    pub(crate) fn try_take(&self) -> bool {
        let taken = self.permit.try_take();
        if taken {
            self.holder.store(who::this_thread(), Ordering::Relaxed);
        }
        taken
    }

    /// Takes it if nobody has it or waits for it.
    #[inline]
    pub(crate) fn try_take_in_turn(&self) -> bool {
        let taken = self.permit.try_take_in_turn();
        if taken {
            self.holder.store(who::this_thread(), Ordering::Relaxed);
        }
        taken
    }

    /// Takes it for somebody who had it before, if nobody has it and nobody watches who does.
    pub(crate) fn try_retake(&self) -> bool {
        !detection::is_on() && self.try_take()
    }

    /// Takes note that `taker` has it, who would have waited for it if `is_bound`.
    ///
    /// # Errors
    /// A warning about the order in which he takes locks. He still has it.
    #[inline]
    pub(crate) fn note_taken(
        &self,
        py: Python<'_>,
        taker: impl FnOnce() -> u64,
        is_bound: bool,
    ) -> PyResult<()> {
        if detection::is_on() { self.watched.taken(py, taker(), is_bound) } else { Ok(()) }
    }

    pub(crate) fn watched(&self) -> &Watched {
        &self.watched
    }

    /// Gives it back; `false` if nobody has it.
    #[inline]
    pub(crate) fn give(&self, py: Python<'_>) -> bool {
        if detection::is_on() {
            self.watched.given();
        }
        match self.permit.try_give() {
            Some(given) => given.is_ok(),
            None => self.give_to_waiter(py),
        }
    }

    #[cold]
    fn give_to_waiter(&self, py: Python<'_>) -> bool {
        self.dismiss();
        let hand = |waiter: &Waiter| {
            self.holder.store(waiter.thread_number(), Ordering::Relaxed);
            if detection::is_on() {
                self.watched.handed(waiter);
            }
        };
        match self.permit.give(1, hand) {
            Ok(wakes) => {
                wake_all(py, self, wakes);
                true
            }
            Err(_) => false,
        }
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.permit.free() == 0
    }

    /// Makes it free, for a process in which nobody else can have it.
    pub(crate) fn reset(&self) {
        self.holder.store(NOBODY, Ordering::Relaxed);
        if detection::is_on() {
            self.watched.given();
        }
        drop(self.permit.reset(1));
    }

    /// Forgets those whom a fork left behind.
    fn dismiss(&self) {
        if self.generation.has_passed() {
            drop(self.permit.dismiss(Waiter::is_gone));
        }
    }

    /// # Errors
    /// Whoever has it does not exist in this process.
    fn refuse_orphan(&self) -> PyResult<()> {
        self.dismiss();
        if self.is_taken() && who::is_gone(self.holder.load(Ordering::Relaxed)) {
            return Err(PyRuntimeError::new_err(
                "could not acquire lock: found it held by a thread that was left behind by a fork, expected one that \
                 can release it",
            ));
        }
        Ok(())
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let mut result = Ok(());
        self.permit.for_each_waiter(|waiter| {
            if result.is_ok() {
                result = waiter.traverse(visit);
            }
        });
        result
    }
}

impl Waitable for Mutual {
    type Gain = ();

    fn try_now(&self, py: Python<'_>) -> PyResult<Option<()>> {
        let taken = self.try_take_in_turn();
        if taken {
            let who = || who::this_task(py).unwrap_or_else(who::this_thread);
            self.note_taken(py, who, true).inspect_err(|_| self.give_back(py, ()))?;
        }
        Ok(taken.then_some(()))
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<()>> {
        self.refuse_orphan()?;
        let watched = detection::is_on().then(|| waiter.clone());
        if let Some(waiter) = &watched {
            self.watched.waits(py, waiter.who(), waiter.manner())?;
        }
        let Some(ticket) = take_or_join(py, self, &self.permit, waiter) else {
            self.holder.store(who::this_thread(), Ordering::Relaxed);
            if let Some(waiter) = watched {
                Watched::stops(waiter.who());
                self.watched.handed(&waiter);
            }
            return Ok(Entered::Through(()));
        };
        if let Some(waiter) = watched {
            self.watched.joins(ticket, waiter.who());
        }
        Ok(Entered::Waits(ticket))
    }

    fn poll(&self, _py: Python<'_>, ticket: Ticket) -> PyResult<Option<()>> {
        let through = self.permit.poll(ticket);
        if through {
            self.holder.store(who::this_thread(), Ordering::Relaxed);
            if detection::is_on() {
                self.watched.leaves(ticket, true);
            }
        }
        Ok(through.then_some(()))
    }

    fn leave(&self, py: Python<'_>, ticket: Ticket) -> Option<()> {
        let left = self.permit.leave(ticket);
        if detection::is_on() {
            self.watched.leaves(ticket, matches!(left, GaveUp::Holds));
        }
        match left {
            GaveUp::Holds => Some(()),
            GaveUp::Left(wakes) => {
                wake_all(py, self, wakes);
                None
            }
        }
    }

    fn give_back(&self, py: Python<'_>, (): ()) {
        self.give(py);
    }
}
