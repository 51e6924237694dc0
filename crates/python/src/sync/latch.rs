//! `manyhands.sync.Latch`.

use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::awaiting::{Awaiting, awaiting, yes};
use super::event::Door;
use super::patience::Patience;

/// A count that goes down; at zero, threads and asyncio tasks that wait for it go on, and nobody waits any more.
///
/// It goes down only, and stays open. ``CountDownEvent`` is another name of it.
///
/// Args:
///     count: How many things have to happen (int ≥ 0).
///
/// Raises:
///     ValueError: `count` is negative.
///
/// Thread safety: every method may be called from any thread, and from any event loop.
///
/// Example:
///     >>> import threading
///     >>> from manyhands.sync import Latch
///     >>> ready = Latch(2)
///     >>> for _ in range(2):
///     ...     threading.Thread(target=ready.count_down).start()
///     >>> ready.wait(timeout=10), ready.count
///     (True, 0)
///
/// Source: ``CountDownLatch`` of Java, ``latch`` of C++.
#[pyclass(frozen, subclass, weakref, module = "manyhands.sync")]
pub(crate) struct Latch {
    left: AtomicUsize,
    door: Door,
}

impl Latch {
    fn door(&self) -> &Door {
        &self.door
    }
}

#[pymethods]
impl Latch {
    #[new]
    fn new(py: Python<'_>, count: isize) -> PyResult<Self> {
        let Ok(count) = usize::try_from(count) else {
            return Err(PyValueError::new_err(format!(
                "could not make latch: found count={count}, expected 0 or more"
            )));
        };
        let latch = Self { left: AtomicUsize::new(count), door: Door::new() };
        if count == 0 {
            latch.door.open(py);
        }
        Ok(latch)
    }

    /// Take `n` off the count, down to zero at most.
    ///
    /// Raises:
    ///     ValueError: `n` is less than one.
    #[pyo3(signature = (n=1))]
    fn count_down(&self, py: Python<'_>, n: isize) -> PyResult<()> {
        let Some(n) = usize::try_from(n).ok().filter(|n| *n > 0) else {
            return Err(PyValueError::new_err(format!(
                "could not count down: found n={n}, expected 1 or more"
            )));
        };
        let less = |left: usize| Some(left.saturating_sub(n));
        let before = self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).unwrap_or(0);
        if before <= n {
            self.door.open(py);
        }
        Ok(())
    }

    /// Wait until the count is zero; return False if `timeout` seconds were too short for that.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        self.door.pass(py, &Patience::seconds(timeout)?)
    }

    /// Wait until the count is zero, as a coroutine; awaiting it gives True.
    fn await_(slf: Py<Self>) -> Awaiting {
        awaiting(slf, Self::door, yes)
    }

    /// What is left of the count.
    #[getter]
    fn count(&self) -> usize {
        self.left.load(Ordering::Acquire)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        super::describe(slf.as_any(), &format!("count={}", slf.get().count()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.door.traverse(&visit)
    }
}
