//! Processes that wait for each other.

use manyhands_engine::shared::barrier::{self, Wait};
use manyhands_engine::shared::seats::{self, Refusal};
use manyhands_os::shared::Shared;
use manyhands_os::shared::wait;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::{
    Kind, Manners, Place, Reduced, SEATS, broken_barrier, change, create_seats, guarded, open, open_shared,
    reduce, refused, thread, wait_for,
};
use crate::enter;

const BARRIER: Kind = Kind(10, "Barrier");

const MANNERS: Manners = Manners {
    bury: barrier::bury,
    leave: |seats, seat| {
        if barrier::look(seats, seat) == Wait::Goes {
            barrier::abort(seats);
            seats.free(seat);
        }
    },
};

/// The core of `manyhands.shared.Barrier`.
#[pyclass(frozen, subclass, name = "SharedBarrier", module = "manyhands._core")]
pub(crate) struct Barrier(Shared);

#[pymethods]
impl Barrier {
    #[new]
    #[pyo3(signature = (parties=1, *, name=None, place=None), text_signature = "(parties, *, name=None)")]
    fn new(parties: i64, name: Option<&str>, place: Option<Place>) -> PyResult<Self> {
        let most = SEATS as u64;
        let limit = u64::try_from(parties).ok().filter(|parties| (1..=most).contains(parties));
        let limit = limit.ok_or_else(|| {
            PyValueError::new_err(format!("could not use `parties`: found {parties}, expected 1 to {most}"))
        })?;
        match place {
            Some(place) => open(place, &[BARRIER], seats::words(SEATS)),
            None => create_seats(BARRIER, name, limit),
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

    /// Wait until all have come.
    ///
    /// Args:
    ///     timeout: How many seconds to wait at most; None for as long as it takes. Who gives up breaks the barrier.
    ///
    /// Returns:
    ///     How many came before, a number that no other of this round gets.
    ///
    /// Raises:
    ///     threading.BrokenBarrierError: It is broken, or is broken or reset meanwhile.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<u64> {
        let (deadline, me, thread) = (enter::deadline(timeout)?, wait::me(), thread(py));
        let arrived = change(py, &self.0, |seats| barrier::arrive(seats, me, thread))?;
        let (before, mut mine) = arrived.map_err(|refusal| match refusal {
            Refusal::Broken => broken_barrier(py),
            refusal => refused("barrier", "wait at", refusal),
        })?;
        if mine.is_none() {
            return Ok(before);
        }
        let outcome = wait_for(py, &self.0, deadline, MANNERS, |seats, seat| {
            *seat = mine.take().or(*seat);
            let wait = barrier::look(seats, seat.as_ref().copied().unwrap_or(usize::MAX));
            (wait != Wait::Goes).then_some(wait)
        })?;
        if outcome == Some(Wait::Over) { Ok(before) } else { Err(broken_barrier(py)) }
    }

    /// Make it as new; whoever waits finds it broken.
    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        change(py, &self.0, barrier::reset)
    }

    /// Break it, for those who wait and all who come, until it is reset.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        change(py, &self.0, barrier::abort)
    }

    /// How many must come.
    #[getter]
    fn parties(&self, py: Python<'_>) -> PyResult<u64> {
        guarded(py, &self.0, barrier::parties)
    }

    /// How many wait.
    #[getter]
    fn n_waiting(&self, py: Python<'_>) -> PyResult<u64> {
        guarded(py, &self.0, barrier::waiting)
    }

    /// Whether it is broken.
    #[getter]
    fn broken(&self, py: Python<'_>) -> PyResult<bool> {
        guarded(py, &self.0, barrier::is_broken)
    }
}
