//! `manyhands.sync.Barrier`.
//!
//! Each round of a barrier has a crowd of its own, so that the next round may begin while the last one's members have
//! not all woken yet.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use manyhands_engine::line::{Left, Ticket};
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::awaiting::{Awaiting, Done, Operation};
use super::crowd::{Crowd, tell};
use super::patience::Patience;
use super::waiting::{Entered, Waitable, Waiter, block};
use crate::error;

/// What became of a round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    Fills,
    /// All are there; the last one runs the action.
    Full,
    Passed,
    Broken,
}

type Members = Arc<Crowd<Round>>;

struct Inner {
    round: Members,
    is_broken: bool,
}

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
    parties: usize,
    action: Option<Py<PyAny>>,
    timeout: Option<f64>,
    inner: Mutex<Inner>,
}

/// Somebody's place in a round.
struct Membership {
    round: Members,
    /// How many had come before him.
    index: usize,
}

impl Membership {
    /// # Errors
    /// The round ended without passing.
    fn outcome(&self, py: Python<'_>, state: Round) -> PyResult<usize> {
        if state == Round::Passed { Ok(self.index) } else { Err(broken(py)) }
    }
}

enum Arrival {
    Waits(Membership, Ticket),
    /// He is the last one.
    Last(Members),
}

impl Barrier {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrive(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Arrival> {
        let mut inner = self.inner();
        if inner.is_broken {
            drop(inner);
            return Err(broken(py));
        }
        let round = Arc::clone(&inner.round);
        let mut crowd = round.lock();
        let index = crowd.line.len();
        if index + 1 < self.parties {
            let ticket = crowd.line.join(waiter);
            drop(crowd);
            return Ok(Arrival::Waits(Membership { round, index }, ticket));
        }
        crowd.state = Round::Full;
        drop(crowd);
        inner.round = Arc::new(Crowd::new(Round::Fills));
        Ok(Arrival::Last(round))
    }

    /// As the last one, runs the action and lets everybody pass.
    fn complete(&self, py: Python<'_>, round: &Members) -> PyResult<usize> {
        if let Some(action) = &self.action
            && let Err(error) = action.call0(py)
        {
            self.break_round(py, round);
            return Err(error);
        }
        if end(py, round, Round::Passed) == Round::Passed { Ok(self.parties - 1) } else { Err(broken(py)) }
    }

    /// Has nobody of this round pass, unless they have already, and nobody after them either.
    fn break_round(&self, py: Python<'_>, round: &Members) {
        end(py, round, Round::Broken);
        self.interrupt(py, true);
    }

    /// Ends the present round without passing; from now on the barrier is broken, or whole again.
    fn interrupt(&self, py: Python<'_>, is_broken: bool) {
        let round = {
            let mut inner = self.inner();
            inner.is_broken = is_broken;
            std::mem::replace(&mut inner.round, Arc::new(Crowd::new(Round::Fills)))
        };
        end(py, &round, Round::Broken);
    }
}

/// Ends a round, if it has not ended yet; returns how it ended.
fn end(py: Python<'_>, round: &Members, how: Round) -> Round {
    let (members, ended) = {
        let mut crowd = round.lock();
        if matches!(crowd.state, Round::Fills | Round::Full) {
            crowd.state = how;
        }
        (crowd.line.serve_all(), crowd.state)
    };
    tell(py, &members);
    ended
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
    membership: Mutex<Option<Membership>>,
}

impl<B> Visit<B> {
    fn new(barrier: B) -> Self {
        Self { barrier, membership: Mutex::new(None) }
    }

    fn membership(&self) -> MutexGuard<'_, Option<Membership>> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, py: Python<'_>, barrier: &Barrier, waiter: Waiter) -> PyResult<Entered<usize>> {
        match barrier.arrive(py, waiter)? {
            Arrival::Last(round) => barrier.complete(py, &round).map(Entered::Through),
            Arrival::Waits(membership, ticket) => {
                *self.membership() = Some(membership);
                Ok(Entered::Waits(ticket))
            }
        }
    }

    fn poll(&self, py: Python<'_>, ticket: Ticket) -> PyResult<Option<usize>> {
        let membership = self.membership();
        let Some(membership) = &*membership else { return Ok(None) };
        let state = {
            let crowd = membership.round.lock();
            if crowd.line.contains(ticket) {
                return Ok(None);
            }
            crowd.state
        };
        membership.outcome(py, state).map(Some)
    }

    /// Leaves the round; `Some` if he had passed before.
    fn leave(&self, ticket: Ticket) -> Option<usize> {
        let membership = self.membership();
        let membership = membership.as_ref()?;
        let mut crowd = membership.round.lock();
        let passed = crowd.line.leave(ticket) == Left::Served && crowd.state == Round::Passed;
        passed.then_some(membership.index)
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

    fn poll(&self, py: Python<'_>, ticket: Ticket) -> PyResult<Option<usize>> {
        Visit::poll(self, py, ticket)
    }

    fn leave(&self, _py: Python<'_>, ticket: Ticket) -> Option<usize> {
        Visit::leave(self, ticket)
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
        let passed = Visit::poll(self, py, ticket)?;
        Ok(passed.map_or(Entered::Waits(ticket), |index| Entered::Through(number(py, index))))
    }

    fn leave(&self, _py: Python<'_>, ticket: Ticket) {
        Visit::leave(self, ticket);
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
        let inner = Inner { round: Arc::new(Crowd::new(Round::Fills)), is_broken: false };
        Ok(Self { parties, action, timeout, inner: Mutex::new(inner) })
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
        let round = visit.membership().take().map(|membership| membership.round);
        if let Some(round) = round {
            self.break_round(py, &round);
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
        self.parties
    }

    /// How many wait now.
    #[getter]
    fn n_waiting(&self) -> usize {
        self.inner().round.lock().line.len()
    }

    /// Whether nobody passes any more.
    #[getter]
    fn broken(&self) -> bool {
        self.inner().is_broken
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let this = slf.get();
        let state = if this.broken() {
            "broken".to_owned()
        } else {
            format!("waiters={}/{}", this.n_waiting(), this.parties)
        };
        super::describe(slf.as_any(), &state)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.inner().round.traverse(&visit)?;
        self.action.as_ref().map_or(Ok(()), |action| visit.call(action))
    }
}
