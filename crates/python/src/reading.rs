//! Whether a thread reads what another process has sent, or imports modules for it.
//!
//! A module that starts worker processes while it is imported would be imported by them, too, and they would start more:
//! without end. So none are started meanwhile.

use std::cell::Cell;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::pickle;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// The calling thread reads as long as this lives.
pub(crate) struct Reading(());

impl Reading {
    pub(crate) fn begin() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        Self(())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Whether the calling thread reads what another process has sent: no worker process must be started by it.
#[pyfunction]
pub(crate) fn is_reading() -> bool {
    DEPTH.get() > 0
}

/// Refuses to give a task to worker processes while the thread reads one.
pub(crate) fn refuse_tasks() -> PyResult<()> {
    if !is_reading() {
        return Ok(());
    }
    Err(PyRuntimeError::new_err(
        "could not start worker processes: found a module that does so while a worker process imports it for a task, \
         expected that to be done in a function, or under `if __name__ == \"__main__\":`",
    ))
}

/// Whether a module is loaded: if not, nobody has used it.
pub(crate) fn is_loaded(py: Python<'_>, module: &str) -> PyResult<bool> {
    py.import("sys")?.getattr("modules")?.contains(module)
}

/// Import a module for worker processes.
#[pyfunction]
pub(crate) fn import_module<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyModule>> {
    let _reading = Reading::begin();
    py.import(name)
}

/// Read what this program has pickled in another process.
#[pyfunction]
pub(crate) fn unpickle<'py>(py: Python<'py>, pickled: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    pickle::load(py, pickled)
}
