//! A line of those who wait to be told something: under `Barrier`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use manyhands_engine::line::Line;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::waiting::Waiter;
use super::who::Generation;

/// A line with its lock, together with whatever state `S` is decided under that lock.
pub(crate) struct Crowd<S> {
    inner: Mutex<Told<S>>,
    generation: Generation,
}

/// What is under the lock.
pub(crate) struct Told<S> {
    pub(crate) line: Line<Waiter>,
    pub(crate) state: S,
}

impl<S> Crowd<S> {
    pub(crate) fn new(state: S) -> Self {
        Self { inner: Mutex::new(Told { line: Line::default(), state }), generation: Generation::new() }
    }

    /// The line and the state. While this is held, nothing of Python may be made, dropped or called.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Told<S>> {
        let mut told = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if self.generation.has_passed() {
            // Not dropped: what they refer to was another process's, and this is no place to drop it.
            std::mem::forget(told.line.dismiss(Waiter::is_gone));
        }
        told
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.lock().line.iter().try_for_each(|waiter| waiter.traverse(visit))
    }
}

/// Wakes them; who has nobody left to be woken has no use for the news either.
pub(crate) fn tell(py: Python<'_>, waiters: &[Waiter]) {
    for waiter in waiters {
        let _ = waiter.wake(py);
    }
}
