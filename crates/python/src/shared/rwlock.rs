//! Many processes that read, or one that writes.

use manyhands_engine::shared::rwlock::{self, Caller};
use manyhands_engine::shared::seats::{self, Refusal, Seats};
use manyhands_os::shared::Shared;
use manyhands_os::shared::wait;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::{
    Kind, Manners, Patience, Place, Reduced, SEATS, bury_dead, change, create_seats, guarded, open,
    open_shared, patience, reduce, refused, thread, wait_for,
};

const RWLOCK: Kind = Kind(9, "RWLock");

const MANNERS: Manners = Manners { bury: rwlock::bury, leave: |seats, seat| seats.free(seat) };

type Enter = fn(Seats<'_>, Caller, &mut Option<usize>, bool) -> Result<bool, Refusal>;
type Leave = fn(Seats<'_>, Caller) -> Result<(), Refusal>;

fn caller(py: Python<'_>) -> Caller {
    Caller { owner: wait::me(), thread: thread(py) }
}

fn complaint(verb: &str, refusal: Refusal) -> PyErr {
    refused("RWLock", verb, refusal)
}

/// The core of `manyhands.shared.RWLock`.
#[pyclass(frozen, subclass, name = "SharedRWLock", module = "manyhands._core")]
pub(crate) struct RWLock(Shared);

impl RWLock {
    fn enter(&self, py: Python<'_>, enter: Enter, blocking: bool, timeout: Option<f64>) -> PyResult<bool> {
        let (patience, me) = (patience(blocking, timeout)?, caller(py));
        let at_once = || {
            let found = guarded(py, &self.0, |seats| enter(seats, me, &mut None, false))?;
            found.map_err(|refusal| complaint("acquire", refusal))
        };
        if at_once()? {
            return Ok(true);
        }
        let Patience::Until(deadline) = patience else {
            bury_dead(py, &self.0, MANNERS.bury)?;
            return at_once();
        };
        let found =
            wait_for(py, &self.0, deadline, MANNERS, |seats, seat| match enter(seats, me, seat, true) {
                Ok(false) => None,
                found => Some(found),
            })?;
        found.unwrap_or(Ok(false)).map_err(|refusal| complaint("acquire", refusal))
    }

    fn leave(&self, py: Python<'_>, leave: Leave) -> PyResult<()> {
        let me = caller(py);
        let left = change(py, &self.0, |seats| leave(seats, me))?;
        left.map_err(|refusal| complaint("release", refusal))
    }
}

#[pymethods]
impl RWLock {
    #[new]
    #[pyo3(signature = (*, name=None, place=None), text_signature = "(*, name=None)")]
    fn new(name: Option<&str>, place: Option<Place>) -> PyResult<Self> {
        match place {
            Some(place) => open(place, &[RWLOCK], seats::words(SEATS)),
            None => create_seats(RWLOCK, name, 0),
        }
        .map(Self)
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
        reduce(slf.as_any(), Place::of(&slf.get().0))
    }

    /// Acquire it to read, beside others who read; wait until nobody writes, or has waited longer to write. A thread that
    /// reads may do so once more.
    ///
    /// Args:
    ///     blocking: Whether to wait.
    ///     timeout: How many seconds to wait at most; None and -1 for as long as it takes.
    ///
    /// Returns:
    ///     Whether it was acquired.
    ///
    /// Raises:
    ///     RuntimeError: This thread writes.
    #[pyo3(signature = (blocking=true, timeout=None))]
    fn acquire_read(&self, py: Python<'_>, blocking: bool, timeout: Option<f64>) -> PyResult<bool> {
        self.enter(py, rwlock::read, blocking, timeout)
    }

    /// Release it after reading.
    ///
    /// Raises:
    ///     RuntimeError: This thread does not read.
    fn release_read(&self, py: Python<'_>) -> PyResult<()> {
        self.leave(py, rwlock::end_read)
    }

    /// Acquire it to write, alone; wait until nobody reads or writes, or has waited longer.
    ///
    /// Args:
    ///     blocking: Whether to wait.
    ///     timeout: How many seconds to wait at most; None and -1 for as long as it takes.
    ///
    /// Returns:
    ///     Whether it was acquired.
    ///
    /// Raises:
    ///     RuntimeError: This thread reads or writes: it would wait for itself.
    #[pyo3(signature = (blocking=true, timeout=None))]
    fn acquire_write(&self, py: Python<'_>, blocking: bool, timeout: Option<f64>) -> PyResult<bool> {
        self.enter(py, rwlock::write, blocking, timeout)
    }

    /// Release it after writing.
    ///
    /// Raises:
    ///     RuntimeError: This thread does not write.
    fn release_write(&self, py: Python<'_>) -> PyResult<()> {
        self.leave(py, rwlock::end_write)
    }

    /// For a `with` block that reads.
    fn read(slf: &Bound<'_, Self>) -> RWLockGuard {
        RWLockGuard { lock: slf.clone().unbind(), is_writer: false }
    }

    /// For a `with` block that writes.
    fn write(slf: &Bound<'_, Self>) -> RWLockGuard {
        RWLockGuard { lock: slf.clone().unbind(), is_writer: true }
    }

    /// Whether a writer has died while it wrote, and none has written since: what it guards may be half changed.
    #[getter]
    fn was_abandoned(&self, py: Python<'_>) -> PyResult<bool> {
        bury_dead(py, &self.0, MANNERS.bury)?;
        guarded(py, &self.0, rwlock::is_abandoned)
    }
}

/// A `with` block of an `RWLock`.
#[pyclass(frozen, name = "SharedRWLockGuard", module = "manyhands._core")]
pub(crate) struct RWLockGuard {
    lock: Py<RWLock>,
    is_writer: bool,
}

#[pymethods]
impl RWLockGuard {
    fn __enter__(&self, py: Python<'_>) -> PyResult<()> {
        let enter = if self.is_writer { rwlock::write } else { rwlock::read };
        self.lock.get().enter(py, enter, true, None).map(drop)
    }

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(&self, py: Python<'_>, _exc_info: &Bound<'_, PyAny>) -> PyResult<()> {
        self.lock.get().leave(py, if self.is_writer { rwlock::end_write } else { rwlock::end_read })
    }
}
