//! Processes that wait until others call them, under a lock.

use std::sync::Arc;

use manyhands_engine::clock::Tick;
use manyhands_engine::shared::condition;
use manyhands_engine::shared::seats;
use manyhands_os::clock;
use manyhands_os::shared::Shared;
use manyhands_os::shared::wait;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::lock::{self, Core, Lock};
use super::{
    Kind, Manners, Patience, Place, Reduced, SEATS, change, create, open, open_shared, patience, reduce,
    thread, wait_for,
};
use crate::enter;

const CONDITION: Kind = Kind(11, "Condition");

const MANNERS: Manners = Manners {
    bury: condition::bury,
    leave: |seats, seat| {
        let was_called = condition::is_called(seats, seat);
        seats.free(seat);
        if was_called {
            condition::notify(seats, 1);
        }
    },
};

/// Behind the seats is a lock of its own, for those who bring none.
const LOCK: usize = seats::words(SEATS);
const WORDS: usize = LOCK + lock::WORDS;

/// The core of `manyhands.shared.Condition`.
#[pyclass(frozen, subclass, name = "SharedCondition", module = "manyhands._core")]
pub(crate) struct Condition {
    shared: Arc<Shared>,
    core: Core,
    /// The lock, if somebody brought it.
    lock: Option<Py<PyAny>>,
}

/// Where one is to be found: with the lock that it belongs to, if that is another object.
#[derive(FromPyObject)]
enum Whereabouts<'py> {
    Name(String),
    Handle((Place, Option<Bound<'py, PyAny>>)),
}

fn core_of(lock: &Bound<'_, PyAny>) -> PyResult<Core> {
    let lock = lock.cast::<Lock>().map_err(|_| {
        let found = lock.get_type();
        PyTypeError::new_err(format!("could not use `lock`: found {found}, expected a shared Lock or RLock"))
    })?;
    Ok(lock.get().0.clone())
}

impl Condition {
    fn expect_lock(&self, py: Python<'_>, verb: &str) -> PyResult<()> {
        if self.core.is_mine(py) {
            return Ok(());
        }
        Err(PyRuntimeError::new_err(format!("could not {verb}: found the lock not held, expected it held")))
    }

    fn wait_until(&self, py: Python<'_>, deadline: Option<Tick>) -> PyResult<bool> {
        self.expect_lock(py, "wait")?;
        let (me, thread) = (wait::me(), thread(py));
        // In the row before the lock is free: nobody can call before that.
        let mut mine = change(py, &self.shared, |seats| condition::wait(seats, me, thread))?
            .map(Some)
            .map_err(|refusal| super::refused("condition", "wait for", refusal))?;
        let depth = self.core.release_all(py)?;
        let called = wait_for(py, &self.shared, deadline, MANNERS, |seats, seat| {
            *seat = mine.take().or(*seat);
            let is_called = seat.is_none_or(|seat| condition::is_called(seats, seat));
            if is_called {
                seat.take().into_iter().for_each(|seat| seats.free(seat));
            }
            is_called.then_some(())
        });
        let restored = self.core.restore(py, depth);
        let called = called?.is_some();
        restored.map(|()| called)
    }

    fn notify_some(&self, py: Python<'_>, count: usize) -> PyResult<()> {
        self.expect_lock(py, "notify")?;
        change(py, &self.shared, |seats| condition::notify(seats, count))
    }
}

#[pymethods]
impl Condition {
    #[new]
    #[pyo3(signature = (lock=None, *, name=None, place=None), text_signature = "(lock=None, *, name=None)")]
    fn new(
        lock: Option<Bound<'_, PyAny>>,
        name: Option<&str>,
        place: Option<Whereabouts<'_>>,
    ) -> PyResult<Self> {
        let (shared, lock) = match place {
            Some(Whereabouts::Handle((place, lock))) => (open(place, &[CONDITION], WORDS)?, lock),
            Some(Whereabouts::Name(name)) => (open(Place::Name(name), &[CONDITION], WORDS)?, None),
            None if lock.is_some() && name.is_some() => {
                return Err(PyValueError::new_err(
                    "could not make a Condition: found a lock and a name, expected one of them",
                ));
            }
            None => (create(CONDITION, WORDS, name, |_| ())?, lock),
        };
        let shared = Arc::new(shared);
        let core = match &lock {
            Some(lock) => core_of(lock)?,
            None => Core::at(Arc::clone(&shared), LOCK, true),
        };
        Ok(Self { shared, core, lock: lock.map(Bound::unbind) })
    }

    /// Open the one of that name, which any process of this user may have made.
    ///
    /// Raises:
    ///     FileNotFoundError: No process has one.
    ///     TypeError: It is something else.
    #[classmethod]
    #[pyo3(signature = (name, /))]
    fn open<'py>(cls: &Bound<'py, PyType>, name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        open_shared(cls, name)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let this = slf.get();
        reduce(slf.as_any(), (Place::of(&this.shared), this.lock.as_ref().map(|lock| lock.bind(slf.py()))))
    }

    /// Acquire the lock.
    ///
    /// Args:
    ///     blocking: Whether to wait.
    ///     timeout: How many seconds to wait at most; None and -1 for as long as it takes.
    ///
    /// Returns:
    ///     Whether it was acquired.
    #[pyo3(signature = (blocking=true, timeout=None))]
    fn acquire(&self, py: Python<'_>, blocking: bool, timeout: Option<f64>) -> PyResult<bool> {
        self.core.acquire(py, patience(blocking, timeout)?)
    }

    /// Release the lock.
    ///
    /// Raises:
    ///     RuntimeError: It is not held.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.core.release(py)
    }

    /// Release the lock, wait until somebody calls, and acquire it again.
    ///
    /// Args:
    ///     timeout: How many seconds to wait for the call at most; None for as long as it takes.
    ///
    /// Returns:
    ///     Whether somebody has called; False after the timeout.
    ///
    /// Raises:
    ///     RuntimeError: The lock is not held.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        self.wait_until(py, enter::deadline(timeout)?)
    }

    /// Wait until the predicate is true, which is asked under the lock, at first and after every call.
    ///
    /// Args:
    ///     predicate: What to ask.
    ///     timeout: How many seconds to wait at most; None for as long as it takes.
    ///
    /// Returns:
    ///     What it said last.
    ///
    /// Raises:
    ///     RuntimeError: The lock is not held.
    #[pyo3(signature = (predicate, timeout=None))]
    fn wait_for<'py>(
        &self,
        py: Python<'py>,
        predicate: &Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let deadline = enter::deadline(timeout)?;
        loop {
            let said = predicate.call0()?;
            if said.is_truthy()? || deadline.is_some_and(|deadline| deadline <= clock::now()) {
                return Ok(said);
            }
            self.wait_until(py, deadline)?;
        }
    }

    /// Call some of those who wait, the first first.
    ///
    /// Args:
    ///     n: How many.
    ///
    /// Raises:
    ///     RuntimeError: The lock is not held.
    #[pyo3(signature = (n=1))]
    fn notify(&self, py: Python<'_>, n: usize) -> PyResult<()> {
        self.notify_some(py, n)
    }

    /// Call all who wait.
    ///
    /// Raises:
    ///     RuntimeError: The lock is not held.
    fn notify_all(&self, py: Python<'_>) -> PyResult<()> {
        self.notify_some(py, usize::MAX)
    }

    /// Whether the one who had the lock before died with it; see `Lock`.
    #[getter]
    fn was_abandoned(&self, py: Python<'_>) -> bool {
        self.core.was_abandoned(py)
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.core.acquire(py, Patience::FOREVER)
    }

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(&self, py: Python<'_>, _exc_info: &Bound<'_, PyAny>) -> PyResult<()> {
        self.core.release(py)
    }
}
