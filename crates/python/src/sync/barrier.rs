//! `manyhands.sync.Barrier`.
//!
//! `engine`'s [rounds](manyhands_engine::rounds), and what the last one to come does for all.

use std::sync::{Mutex, MutexGuard, PoisonError};

use manyhands_engine::line::Ticket;
use manyhands_engine::rounds::{Arrival, Place, Round, Rounds, Seen};
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::awaiting::{Awaiting, Done, Operation};
use super::patience::Patience;
use super::waiting::{Entered, Waitable, Waiter, block, tell};
use super::who::Generation;
use crate::error;

/// A barrier that threads and asyncio tasks wait at alike: nobody passes before all are there.
///
/// Args:
///     parties: How many make a round (int ≥ 1).
///     action: A function without arguments, which the last one to come calls before all pass.
///     timeout: Seconds that ``wait`` waits at most unless it is told otherwise; None waits for ever.
///
/// When one gives up, by a timeout or because the action raised, the barrier breaks: everybody gets a
/// ``BrokenBarrierError``, until ``reset``. A coroutine that is cancelled only leaves the round. In a coroutine,
/// ``async with barrier:`` waits before the block.
///
/// Raises:
///     ValueError: `parties` is less than one.
///
/// Thread safety: every method may be called from any thread, and from any event loop.
///
/// Example:
///     >>> import manyhands as mh
///     >>> from manyhands.sync import Barrier
///     >>> start = Barrier(3)
///     >>> with mh.ThreadExecutor(3) as pool:
///     ...     futures = [pool.submit(start.wait) for _ in range(3)]
///     >>> sorted(future.result() for future in futures)
///     [0, 1, 2]
///
/// Source: ``threading.Barrier`` and ``asyncio.Barrier`` of CPython, whose methods and errors it has.
#[pyclass(frozen, subclass, weakref, module = "manyhands.sync")]
pub(crate) struct Barrier {
    action: Option<Py<PyAny>>,
    timeout: Option<f64>,
    rounds: Rounds<Waiter>,
    generation: Generation,
}

impl Barrier {
    fn rounds(&self) -> &Rounds<Waiter> {
        if self.generation.has_passed() {
            drop(self.rounds.dismiss(Waiter::is_gone));
        }
        &self.rounds
    }

    /// As the last one, runs the action and lets everybody pass.
    fn complete(&self, py: Python<'_>, round: &Round<Waiter>) -> PyResult<usize> {
        if let Some(action) = &self.action
            && let Err(error) = action.call0(py)
        {
            tell(py, &self.rounds.break_round(round));
            return Err(error);
        }
        let (has_passed, waiters) = round.pass();
        tell(py, &waiters);
        if has_passed { Ok(self.rounds.parties() - 1) } else { Err(broken(py)) }
    }

    /// Ends the present round without passing; from now on the barrier is broken, or whole again.
    fn interrupt(&self, py: Python<'_>, is_broken: bool) {
        tell(py, &self.rounds().interrupt(is_broken));
    }
}

fn broken(py: Python<'_>) -> PyErr {
    match error::broken_barrier_error(py) {
        Ok(kind) => PyErr::from_type(kind.clone(), ()),
        Err(failure) => failure,
    }
}

/// One wait at the barrier, by a thread or a task.
struct Visit<B> {
    barrier: B,
    place: Mutex<Option<Place<Waiter>>>,
}

impl<B> Visit<B> {
    fn new(barrier: B) -> Self {
        Self { barrier, place: Mutex::new(None) }
    }

    fn place(&self) -> MutexGuard<'_, Option<Place<Waiter>>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, py: Python<'_>, barrier: &Barrier, waiter: Waiter) -> PyResult<Entered<usize>> {
        match barrier.rounds().arrive(waiter) {
            Arrival::Broken => Err(broken(py)),
            Arrival::Last(round) => barrier.complete(py, &round).map(Entered::Through),
            Arrival::Waits(place) => {
                let ticket = place.ticket();
                *self.place() = Some(place);
                Ok(Entered::Waits(ticket))
            }
        }
    }

    fn poll(&self, py: Python<'_>) -> PyResult<Option<usize>> {
        match self.place().as_ref().map(Place::look) {
            None | Some(Seen::Waits) => Ok(None),
            Some(Seen::Passed(index)) => Ok(Some(index)),
            Some(Seen::Broken) => Err(broken(py)),
        }
    }

    /// Leaves the round; `Some` if he had passed before.
    fn leave(&self) -> Option<usize> {
        self.place().as_ref()?.leave()
    }
}

impl Waitable for Visit<&Barrier> {
    type Gain = usize;

    fn try_now(&self, _py: Python<'_>) -> PyResult<Option<usize>> {
        Ok(None)
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<usize>> {
        Visit::enter(self, py, self.barrier, waiter)
    }

    fn poll(&self, py: Python<'_>, _ticket: Ticket) -> PyResult<Option<usize>> {
        Visit::poll(self, py)
    }

    fn leave(&self, _py: Python<'_>, _ticket: Ticket) -> Option<usize> {
        Visit::leave(self)
    }

    fn give_back(&self, _py: Python<'_>, _index: usize) {}
}

impl Operation for Visit<Py<Barrier>> {
    fn try_now(&self, _py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        Ok(None)
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        Ok(match Visit::enter(self, py, self.barrier.get(), waiter)? {
            Entered::Through(index) => Entered::Through(number(py, index)),
            Entered::Waits(ticket) => Entered::Waits(ticket),
        })
    }

    fn poll(&self, py: Python<'_>, ticket: Ticket, _waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        let passed = Visit::poll(self, py)?;
        Ok(passed.map_or(Entered::Waits(ticket), |index| Entered::Through(number(py, index))))
    }

    fn leave(&self, _py: Python<'_>, _ticket: Ticket) {
        Visit::leave(self);
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.barrier)
    }
}

fn number(py: Python<'_>, index: usize) -> Py<PyAny> {
    let Ok(index) = index.into_pyobject(py);
    index.into_any().unbind()
}

#[pymethods]
impl Barrier {
    #[new]
    #[pyo3(signature = (parties, action=None, timeout=None))]
    fn new(parties: isize, action: Option<Py<PyAny>>, timeout: Option<f64>) -> PyResult<Self> {
        let parties = usize::try_from(parties).unwrap_or(0);
        if parties == 0 {
            return Err(PyValueError::new_err("parties must be > 0"));
        }
        let (rounds, generation) = (Rounds::new(parties), Generation::new());
        Ok(Self { action, timeout, rounds, generation })
    }

    /// Wait until all are there.
    ///
    /// Args:
    ///     timeout: Seconds to wait at most; None is what the barrier was made with.
    ///
    /// Returns: How many had come before, in this round: a different number for each, 0 to ``parties - 1``.
    ///
    /// Raises:
    ///     threading.BrokenBarrierError: The barrier is broken, was reset meanwhile, or the time was up, which breaks it.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<usize> {
        let patience = Patience::seconds(timeout.or(self.timeout))?;
        let visit = Visit::new(self);
        if let Some(index) = block(py, &visit, patience.limit())? {
            return Ok(index);
        }
        let place = visit.place().take();
        if let Some(place) = place {
            tell(py, &self.rounds.break_round(place.round()));
        }
        Err(broken(py))
    }

    /// Wait until all are there, as a coroutine; awaiting it gives what ``wait`` returns.
    fn await_(slf: Py<Self>) -> Awaiting {
        Awaiting::new(Box::new(Visit::new(slf)))
    }

    fn __aenter__(slf: Py<Self>) -> Awaiting {
        Self::await_(slf)
    }

    #[pyo3(signature = (_kind=None, _value=None, _traceback=None))]
    #[expect(clippy::unused_self, reason = "a slot")]
    fn __aexit__(
        &self,
        _kind: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> Done {
        Done
    }

    /// Make the barrier whole and empty; who waits gets a ``BrokenBarrierError``.
    fn reset(&self, py: Python<'_>) {
        self.interrupt(py, false);
    }

    /// Break the barrier: who waits or comes gets a ``BrokenBarrierError``.
    fn abort(&self, py: Python<'_>) {
        self.interrupt(py, true);
    }

    /// How many make a round.
    #[getter]
    fn parties(&self) -> usize {
        self.rounds.parties()
    }

    /// How many wait now.
    #[getter]
    fn n_waiting(&self) -> usize {
        self.rounds().waiting()
    }

    /// Whether nobody passes any more.
    #[getter]
    fn broken(&self) -> bool {
        self.rounds.is_broken()
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let this = slf.get();
        let state = if this.broken() {
            "broken".to_owned()
        } else {
            format!("waiters={}/{}", this.n_waiting(), this.parties())
        };
        super::describe(slf.as_any(), &state)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.rounds.try_for_each_waiter(|waiter| waiter.traverse(&visit))?;
        self.action.as_ref().map_or(Ok(()), |action| visit.call(action))
    }
}
