//! `manyhands.sync.Lock`.

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::awaiting::{Awaiting, Done, awaiting, nothing, yes};
use super::mutual::Mutual;
use super::patience::Patience;
use super::waiting::{Waitable, block};
use super::who;

/// A lock that threads and asyncio tasks wait for alike.
///
/// Whoever waits longest gets it next, unless a running thread is faster; nobody is passed over twice. Anybody may
/// release it, also from another thread. In the child of a fork, an unlocked lock works as before; one that another
/// thread of the parent held refuses to be waited for.
///
/// ``with`` and ``acquire`` block the thread, and its event loop with it: in a coroutine use ``async with`` and
/// ``await lock.aacquire()``. ``release`` never waits and is for both.
///
/// Thread safety: every method may be called from any thread, and from any event loop.
///
/// Example:
///     >>> from manyhands.sync import Lock
///     >>> lock = Lock()
///     >>> with lock:
///     ...     lock.locked()
///     True
///     >>> async def work():
///     ...     async with lock:
///     ...         return lock.locked()
///     >>> import asyncio
///     >>> asyncio.run(work())
///     True
///
/// Source: ``threading.Lock`` and ``asyncio.Lock`` of CPython, whose methods and errors it has.
#[pyclass(frozen, subclass, weakref, module = "manyhands.sync")]
pub(crate) struct Lock {
    mutual: Mutual,
}

impl Lock {
    pub(crate) fn mutual(&self) -> &Mutual {
        &self.mutual
    }

    #[inline]
    pub(crate) fn take(&self, py: Python<'_>, patience: &Patience) -> PyResult<bool> {
        if self.mutual.try_take() {
            let noted = self.mutual.note_taken(py, || who::caller(py), !matches!(patience, Patience::None));
            noted.inspect_err(|_| self.mutual.give_back(py, ()))?;
            return Ok(true);
        }
        match patience {
            Patience::None => Ok(false),
            patience => Ok(block(py, &self.mutual, patience.deadline())?.is_some()),
        }
    }

    #[inline]
    pub(crate) fn free(&self, py: Python<'_>) -> PyResult<()> {
        if self.mutual.give(py) { Ok(()) } else { Err(PyRuntimeError::new_err("release unlocked lock")) }
    }
}

#[pymethods]
impl Lock {
    #[new]
    #[pyo3(signature = ())]
    fn new() -> Self {
        Self { mutual: Mutual::new() }
    }

    /// Take the lock, waiting for it if need be; return whether it was got.
    ///
    /// Args:
    ///     blocking: Whether to wait at all.
    ///     timeout: Seconds to wait at most; -1 waits for ever.
    ///
    /// Raises:
    ///     ValueError: A timeout without blocking, or a negative one.
    ///     OverflowError: The timeout is above ``threading.TIMEOUT_MAX``.
    ///     RuntimeError: A thread held it that a fork has left behind.
    #[pyo3(signature = (blocking=None, timeout=None), text_signature = "($self, blocking=True, timeout=-1)")]
    fn acquire(
        &self,
        py: Python<'_>,
        blocking: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<bool> {
        if blocking.is_none() && timeout.is_none() {
            return self.take(py, &Patience::Endless);
        }
        let patience = Patience::of_lock(blocking, timeout)?;
        self.take(py, &patience)
    }

    /// Let the next one have it.
    ///
    /// Raises:
    ///     RuntimeError: Nobody has it.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.free(py)
    }

    /// Whether somebody has it.
    fn locked(&self) -> bool {
        self.mutual.is_taken()
    }

    /// Take the lock, as a coroutine; awaiting it gives True.
    fn aacquire(slf: Py<Self>) -> Awaiting {
        awaiting(slf, Self::mutual, yes)
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.take(py, &Patience::Endless)
    }

    #[pyo3(signature = (_kind=None, _value=None, _traceback=None))]
    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.free(py)
    }

    fn __aenter__(slf: Py<Self>) -> Awaiting {
        awaiting(slf, Self::mutual, nothing)
    }

    #[pyo3(signature = (_kind=None, _value=None, _traceback=None))]
    fn __aexit__(
        &self,
        py: Python<'_>,
        _kind: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Done> {
        self.free(py)?;
        Ok(Done)
    }

    fn _at_fork_reinit(&self) {
        self.mutual.reset();
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let state = if slf.get().mutual.is_taken() { "locked" } else { "unlocked" };
        let kind = slf.get_type().fully_qualified_name()?;
        Ok(format!("<{state} {kind} object at {:p}>", slf.as_ptr()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.mutual.traverse(&visit)
    }
}
