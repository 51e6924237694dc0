//! Mutual exclusion: one permit and a note of who has it, under `Lock`, `RLock` and `Condition`.

use std::sync::atomic::{AtomicU64, Ordering};

use manyhands_engine::line::Ticket;
use manyhands_engine::permits::{GaveUp, Permits};
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::waiting::{Entered, Waitable, Waiter, wake_all};
use super::who::{self, Generation, NOBODY};

/// At most one has it. Not reentrant, and given back by anybody.
pub(crate) struct Mutual {
    permit: Permits<Waiter>,
    /// The number of the thread that has it. Written by whoever takes it or hands it over; a hint for everybody else.
    holder: AtomicU64,
    generation: Generation,
}

impl Mutual {
    pub(crate) fn new() -> Self {
        Self { permit: Permits::new(1, 1), holder: AtomicU64::new(NOBODY), generation: Generation::new() }
    }

    #[inline]
    pub(crate) fn try_take(&self) -> bool {
        let taken = self.permit.try_take();
        if taken {
            self.holder.store(who::this_thread(), Ordering::Relaxed);
        }
        taken
    }

    /// Gives it back; `false` if nobody has it.
    #[inline]
    pub(crate) fn give(&self, py: Python<'_>) -> bool {
        match self.permit.try_give() {
            Some(given) => given.is_ok(),
            None => self.give_to_waiter(py),
        }
    }

    #[cold]
    fn give_to_waiter(&self, py: Python<'_>) -> bool {
        self.dismiss();
        let hand = |waiter: &Waiter| self.holder.store(waiter.thread_number(), Ordering::Relaxed);
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

    fn try_now(&self, _py: Python<'_>) -> PyResult<Option<()>> {
        Ok(self.try_take().then_some(()))
    }

    fn enter(&self, _py: Python<'_>, waiter: Waiter) -> PyResult<Entered<()>> {
        self.refuse_orphan()?;
        Ok(match self.permit.take_or_join(waiter) {
            None => {
                self.holder.store(who::this_thread(), Ordering::Relaxed);
                Entered::Through(())
            }
            Some(ticket) => Entered::Waits(ticket),
        })
    }

    fn poll(&self, _py: Python<'_>, ticket: Ticket) -> PyResult<Option<()>> {
        let through = self.permit.poll(ticket);
        if through {
            self.holder.store(who::this_thread(), Ordering::Relaxed);
        }
        Ok(through.then_some(()))
    }

    fn leave(&self, py: Python<'_>, ticket: Ticket) -> Option<()> {
        match self.permit.leave(ticket) {
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
