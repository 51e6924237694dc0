//! Who stands in the lines of channels.
//!
//! A task stands there as a Python object, of which each line has a reference of its own: so the garbage collector, which
//! comes by every line, counts what the task refers to once however many lines it stands in.

use manyhands_engine::channel::{self, Token};
use manyhands_engine::prim::Arc;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::super::waiting::Waiter;

pub(crate) type Item = Py<PyAny>;
pub(crate) type Place = channel::Place<Item, Person>;

/// Somebody who stands in a line.
pub(crate) enum Person {
    Thread(Waiter),
    Task(Py<Candidate>),
}

impl Person {
    pub(crate) fn wake(&self, py: Python<'_>) -> bool {
        self.waiter().wake(py)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.waiter().is_gone()
    }

    fn waiter(&self) -> &Waiter {
        match self {
            Self::Thread(waiter) => waiter,
            Self::Task(candidate) => &candidate.get().waiter,
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Thread(_) => Ok(()),
            Self::Task(candidate) => visit.call(candidate),
        }
    }
}

/// A task that waits at channels, and what is decided for it.
#[pyclass(frozen, module = "manyhands._core")]
pub(crate) struct Candidate {
    waiter: Waiter,
    token: Arc<Token<Item>>,
}

impl Candidate {
    pub(crate) fn new(waiter: Waiter, token: &Arc<Token<Item>>) -> Self {
        Self { waiter, token: Arc::clone(token) }
    }
}

#[pymethods]
impl Candidate {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let mut result = Ok(());
        self.token.look(|item| result = visit.call(item));
        result?;
        self.waiter.traverse(&visit)
    }
}
