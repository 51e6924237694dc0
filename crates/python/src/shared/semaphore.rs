//! So many permits for all processes together.

use manyhands_engine::shared::seats::{self, Refusal};
use manyhands_engine::shared::semaphore;
use manyhands_os::shared::Shared;
use manyhands_os::shared::wait;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::{
    Kind, Manners, Patience, Place, Reduced, SEATS, bury_dead, change, create_seats, guarded, open,
    open_shared, patience, reduce, refused, wait_for,
};

const SEMAPHORE: Kind = Kind(8, "Semaphore");

/// The core of `manyhands.shared.Semaphore`.
#[pyclass(frozen, subclass, name = "SharedSemaphore", module = "manyhands._core")]
pub(crate) struct Semaphore(Shared);

const MANNERS: Manners =
    Manners { bury: |seats, dead| seats.bury(dead, |_| ()), leave: |seats, seat| seats.free(seat) };

fn complaint(verb: &str, refusal: Refusal) -> PyErr {
    match refusal {
        Refusal::NotHeld => PyValueError::new_err(
            "could not release the semaphore: found fewer permits that this process has, expected as many",
        ),
        refusal => refused("semaphore", verb, refusal),
    }
}

impl Semaphore {
    fn try_acquire(&self, py: Python<'_>) -> PyResult<Result<bool, Refusal>> {
        guarded(py, &self.0, |seats| semaphore::acquire(seats, wait::me(), &mut None, false))
    }
}

#[pymethods]
impl Semaphore {
    #[new]
    #[pyo3(signature = (value=1, *, name=None, place=None), text_signature = "(value=1, *, name=None)")]
    fn new(value: i64, name: Option<&str>, place: Option<Place>) -> PyResult<Self> {
        let limit = u64::try_from(value).map_err(|_| {
            PyValueError::new_err(format!("could not use `value`: found {value}, expected 0 or more"))
        })?;
        let shared = match place {
            Some(place) => open(place, &[SEMAPHORE], seats::words(SEATS))?,
            None => create_seats(SEMAPHORE, name, limit)?,
        };
        Ok(Self(shared))
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

    /// Take a permit; wait until there is one, first come, first served.
    ///
    /// Args:
    ///     blocking: Whether to wait.
    ///     timeout: How many seconds to wait at most; None and -1 for as long as it takes.
    ///
    /// Returns:
    ///     Whether there was one.
    #[pyo3(signature = (blocking=true, timeout=None))]
    fn acquire(&self, py: Python<'_>, blocking: bool, timeout: Option<f64>) -> PyResult<bool> {
        let patience = patience(blocking, timeout)?;
        let found = self.try_acquire(py)?;
        if found == Ok(true) {
            return Ok(true);
        }
        let Patience::Until(deadline) = patience else {
            bury_dead(py, &self.0, MANNERS.bury)?;
            return self.try_acquire(py)?.map_err(|refusal| complaint("acquire", refusal));
        };
        let found = wait_for(py, &self.0, deadline, MANNERS, |seats, seat| {
            match semaphore::acquire(seats, wait::me(), seat, true) {
                Ok(false) => None,
                found => Some(found),
            }
        })?;
        found.unwrap_or(Ok(false)).map_err(|refusal| complaint("acquire", refusal))
    }

    /// Give back permits.
    ///
    /// Args:
    ///     n: How many.
    ///
    /// Raises:
    ///     ValueError: This process has not so many.
    #[pyo3(signature = (n=1))]
    fn release(&self, py: Python<'_>, n: u32) -> PyResult<()> {
        let released = change(py, &self.0, |seats| semaphore::release(seats, wait::me(), n))?;
        released.map_err(|refusal| complaint("release", refusal))
    }

    /// How many permits nobody has; those of processes that have died count as had until somebody looks for one.
    #[getter]
    fn value(&self, py: Python<'_>) -> PyResult<u64> {
        guarded(py, &self.0, semaphore::free)
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.acquire(py, true, None)
    }

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(&self, py: Python<'_>, _exc_info: &Bound<'_, PyAny>) -> PyResult<()> {
        self.release(py, 1)
    }
}
