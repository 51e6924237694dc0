//! `manyhands.sync.Condition`.
//!
//! Who waits joins the line first and lets go of the lock then: so no notification comes between. Whoever notifies
//! takes waiters out of the line; who gives up after that has the next one notified in his stead. The lock is taken
//! again before anything is raised.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use manyhands_engine::line::Ticket;
use manyhands_engine::notices::Notices;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::awaiting::{Awaiting, Done, Operation, boolean};
use super::detection::conditions::{self, Deed};
use super::detection::{self, Watched};
use super::monitor::{Kept, Monitor};
use super::patience::Patience;
use super::waiting::{Entered, Waitable, Waiter, block};
use super::who::Generation;

/// A condition under a lock, that threads and asyncio tasks wait for alike.
///
/// Args:
///     lock: A `Lock`, an `RLock` or, for threads alone, anything with ``acquire`` and ``release``; by default a new
///         `RLock`.
///
/// Threads use ``with``, ``wait`` and ``wait_for``, coroutines ``async with``, ``await_`` and ``await_for``; ``notify``
/// and ``notify_all`` are for both. Nobody wakes without a notification, and one for somebody who gave up goes to the next.
///
/// Thread safety: every method may be called from any thread, and from any event loop.
///
/// Example:
///     >>> import threading
///     >>> from manyhands.sync import Condition
///     >>> changed, basket = Condition(), []
///     >>> def fill():
///     ...     with changed:
///     ...         basket.append("apple")
///     ...         changed.notify()
///     >>> threading.Thread(target=fill).start()
///     >>> with changed:
///     ...     changed.wait_for(lambda: basket)
///     ['apple']
///
/// Source: ``threading.Condition`` and ``asyncio.Condition`` of CPython, whose methods and errors it has.
#[pyclass(frozen, subclass, weakref, module = "manyhands.sync")]
pub(crate) struct Condition {
    monitor: Monitor,
    notices: Notices<Waiter>,
    generation: Generation,
    watched: Watched,
}

impl Condition {
    /// # Errors
    /// The caller has not got the lock.
    fn require_lock(&self, py: Python<'_>, what: &str) -> PyResult<()> {
        if self.monitor.is_owned(py)? {
            return Ok(());
        }
        Err(PyRuntimeError::new_err(format!("cannot {what} on un-acquired lock")))
    }

    /// Looks which locks the caller has in hand.
    #[inline]
    fn look(&self, py: Python<'_>, deed: Deed) -> PyResult<()> {
        if detection::is_on() {
            conditions::look(py, &self.watched, self.monitor.watched(), deed)?;
        }
        Ok(())
    }

    fn join(&self, waiter: Waiter) -> Ticket {
        self.dismiss();
        self.notices.join(waiter)
    }

    /// Forgets those whom a fork left behind.
    fn dismiss(&self) {
        if self.generation.has_passed() {
            drop(self.notices.dismiss(Waiter::is_gone));
        }
    }

    fn is_notified(&self, ticket: Ticket) -> bool {
        self.notices.has(ticket)
    }

    /// Takes somebody out of the line; `true` if he had been notified.
    fn leave(&self, ticket: Ticket) -> bool {
        self.notices.leave(ticket)
    }

    /// Notifies so many who can be woken.
    fn notify_some(&self, py: Python<'_>, count: usize) {
        let waiting = self.notices.waiting();
        if waiting > 0 {
            self.dismiss();
        }
        for _ in 0..count.min(waiting) {
            loop {
                match self.notices.give() {
                    Some(waiter) if !waiter.wake(py) => {}
                    Some(_) => break,
                    None => return,
                }
            }
        }
    }

    /// Lets go of the lock, waits to be notified, and takes the lock again.
    fn wait_once(&self, py: Python<'_>, patience: &Patience) -> PyResult<bool> {
        self.require_lock(py, "wait")?;
        if matches!(patience, Patience::Endless) {
            self.look(py, Deed::Wait)?;
        }
        let notice = Notice { condition: self, kept: Cell::new(None) };
        // An empty wait still lets others have the lock.
        let waited = block(py, &notice, patience.limit());
        if let Some(kept) = notice.kept.take() {
            let restored = self.monitor.restore(py, &kept);
            if let Ok(notified) = waited {
                restored.inspect_err(|_| notified.into_iter().for_each(|()| self.notify_some(py, 1)))?;
            }
        }
        waited.map(|notified| notified.is_some())
    }
}

/// A thread's wait to be notified; it lets go of the lock when it has its place in the line.
struct Notice<'c> {
    condition: &'c Condition,
    kept: Cell<Option<Kept>>,
}

impl Waitable for Notice<'_> {
    type Gain = ();

    fn try_now(&self, _py: Python<'_>) -> PyResult<Option<()>> {
        Ok(None)
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<()>> {
        let ticket = self.condition.join(waiter);
        match self.condition.monitor.save(py) {
            Ok(kept) => {
                self.kept.set(Some(kept));
                self.condition.monitor.tell_of_wait(py, &self.condition.watched);
                Ok(Entered::Waits(ticket))
            }
            Err(error) => {
                if self.leave(py, ticket).is_some() {
                    self.give_back(py, ());
                }
                Err(error)
            }
        }
    }

    fn poll(&self, _py: Python<'_>, ticket: Ticket) -> PyResult<Option<()>> {
        Ok(self.condition.is_notified(ticket).then_some(()))
    }

    fn leave(&self, _py: Python<'_>, ticket: Ticket) -> Option<()> {
        self.condition.leave(ticket).then_some(())
    }

    fn give_back(&self, py: Python<'_>, (): ()) {
        self.condition.notify_some(py, 1);
    }
}

/// A task's wait: for a notification, then for the lock, and so on until the predicate is true.
struct AwaitNotice {
    condition: Py<Condition>,
    predicate: Option<Py<PyAny>>,
    phase: Mutex<Phase>,
}

enum Phase {
    /// It has the lock.
    Holding,
    Notice(Kept),
    /// It waits for the lock, notified or not.
    Lock(Kept, bool),
}

impl AwaitNotice {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_phase(&self) -> Phase {
        std::mem::replace(&mut *self.phase(), Phase::Holding)
    }

    /// Lets go of the lock, with a place in the line.
    fn begin(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Ticket> {
        let condition = self.condition.get();
        condition.monitor.mutual(py)?;
        let ticket = condition.join(waiter);
        match condition.monitor.save(py) {
            Ok(kept) => {
                *self.phase() = Phase::Notice(kept);
                Ok(ticket)
            }
            Err(error) => {
                if condition.leave(ticket) {
                    condition.notify_some(py, 1);
                }
                Err(error)
            }
        }
    }

    /// Takes the lock again; `Some` if that means to wait.
    fn reacquire(
        &self,
        py: Python<'_>,
        kept: Kept,
        waiter: Waiter,
        is_notified: bool,
    ) -> PyResult<Option<Ticket>> {
        let monitor = &self.condition.get().monitor;
        match monitor.mutual(py)?.enter(py, waiter.stubborn())? {
            Entered::Through(()) => {
                monitor.restored(&kept);
                Ok(None)
            }
            Entered::Waits(ticket) => {
                *self.phase() = Phase::Lock(kept, is_notified);
                Ok(Some(ticket))
            }
        }
    }

    /// With the lock in hand: whether this was what it waited for. Otherwise it waits again.
    fn check(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        let Some(predicate) = &self.predicate else { return Ok(Entered::Through(boolean(py, true))) };
        let answer = predicate.call0(py)?;
        if answer.is_truthy(py)? {
            return Ok(Entered::Through(answer));
        }
        self.begin(py, waiter).map(Entered::Waits)
    }

    /// The lock, if it is there by now; otherwise what to go on waiting for.
    fn poll_lock(
        &self,
        py: Python<'_>,
        kept: Kept,
        ticket: Ticket,
        is_notified: bool,
    ) -> PyResult<Option<Ticket>> {
        let monitor = &self.condition.get().monitor;
        if monitor.mutual(py)?.poll(py, ticket)?.is_some() {
            monitor.restored(&kept);
            return Ok(None);
        }
        *self.phase() = Phase::Lock(kept, is_notified);
        Ok(Some(ticket))
    }
}

impl Operation for AwaitNotice {
    fn try_now(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        if let Some(predicate) = &self.predicate {
            let answer = predicate.call0(py)?;
            if answer.is_truthy(py)? {
                return Ok(Some(answer));
            }
        }
        self.condition.get().require_lock(py, "wait").map(|()| None)
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        self.begin(py, waiter).map(Entered::Waits)
    }

    fn poll(&self, py: Python<'_>, ticket: Ticket, waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        let waits = match self.take_phase() {
            Phase::Notice(kept) if !self.condition.get().is_notified(ticket) => {
                *self.phase() = Phase::Notice(kept);
                Some(ticket)
            }
            Phase::Notice(kept) => self.reacquire(py, kept, waiter.clone(), true)?,
            Phase::Lock(kept, is_notified) => self.poll_lock(py, kept, ticket, is_notified)?,
            Phase::Holding => None,
        };
        waits.map_or_else(|| self.check(py, waiter), |ticket| Ok(Entered::Waits(ticket)))
    }

    fn leave(&self, py: Python<'_>, ticket: Ticket) {
        let condition = self.condition.get();
        match self.take_phase() {
            Phase::Notice(_) if condition.leave(ticket) => condition.notify_some(py, 1),
            Phase::Lock(_, is_notified) => {
                if is_notified {
                    condition.notify_some(py, 1);
                }
                if let Ok(mutual) = condition.monitor.mutual(py)
                    && mutual.leave(py, ticket).is_some()
                {
                    mutual.give_back(py, ());
                }
            }
            Phase::Notice(_) | Phase::Holding => {}
        }
    }

    /// A coroutine has the lock again before it sees an exception, a cancellation included.
    fn thrown(&self, py: Python<'_>, ticket: Ticket, waiter: Waiter) -> PyResult<Option<Ticket>> {
        let condition = self.condition.get();
        match self.take_phase() {
            Phase::Notice(kept) => {
                if condition.leave(ticket) {
                    condition.notify_some(py, 1);
                }
                self.reacquire(py, kept, waiter, false)
            }
            Phase::Lock(kept, is_notified) => {
                if is_notified {
                    condition.notify_some(py, 1);
                }
                self.poll_lock(py, kept, ticket, false)
            }
            Phase::Holding => Ok(None),
        }
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.condition)?;
        self.predicate.as_ref().map_or(Ok(()), |predicate| visit.call(predicate))
    }
}

#[pymethods]
impl Condition {
    #[new]
    #[pyo3(signature = (lock=None))]
    fn new(py: Python<'_>, lock: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let monitor = match lock {
            Some(lock) => Monitor::of(lock),
            None => Monitor::Reentrant(Py::new(py, super::RLock::new())?),
        };
        let (generation, watched) = (Generation::new(), Watched::new("condition"));
        Ok(Self { monitor, notices: Notices::default(), generation, watched })
    }

    /// Take the lock, as its own `acquire` does.
    #[pyo3(signature = (*args, **kwargs))]
    fn acquire(
        &self,
        py: Python<'_>,
        args: &Bound<'_, pyo3::types::PyTuple>,
        kwargs: Option<&Bound<'_, pyo3::types::PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        if args.is_empty() && kwargs.is_none() && self.monitor.is_ours() {
            return self.monitor.take(py);
        }
        self.monitor.object(py).call_method("acquire", args, kwargs).map(Bound::unbind)
    }

    /// Let go of the lock.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.monitor.give(py)
    }

    /// Whether somebody has the lock.
    fn locked(&self, py: Python<'_>) -> PyResult<bool> {
        self.monitor.object(py).call_method0("locked")?.is_truthy()
    }

    /// Take the lock, as a coroutine; awaiting it gives True.
    fn aacquire(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.monitor.mutual(py)?;
        self.monitor.object(py).call_method0("aacquire").map(Bound::unbind)
    }

    /// Let go of the lock, wait to be notified, and take the lock again.
    ///
    /// Args:
    ///     timeout: Seconds to wait at most for a notification; None waits for ever. The lock is waited for in any case.
    ///
    /// Returns: Whether there was a notification.
    ///
    /// Raises:
    ///     RuntimeError: The caller has not got the lock.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        self.wait_once(py, &Patience::seconds(timeout)?)
    }

    /// Wait until `predicate()` is true, which is looked at now and after each notification.
    ///
    /// Args:
    ///     predicate: A function without arguments, called with the lock in hand.
    ///     timeout: Seconds to wait at most; None waits for ever.
    ///
    /// Returns: What the predicate gave last: something false means that the time was up.
    #[pyo3(signature = (predicate, timeout=None))]
    fn wait_for(
        &self,
        py: Python<'_>,
        predicate: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Py<PyAny>> {
        let patience = Patience::seconds(timeout)?;
        loop {
            let answer = predicate.call0()?;
            if answer.is_truthy()? || patience.is_over() {
                return Ok(answer.unbind());
            }
            self.wait_once(py, &patience)?;
        }
    }

    /// Wait to be notified, as a coroutine: ``wait`` without a timeout, for which there is ``asyncio.timeout``.
    fn await_(slf: Py<Self>) -> Awaiting {
        let phase = Mutex::new(Phase::Holding);
        Awaiting::new(Box::new(AwaitNotice { condition: slf, predicate: None, phase }))
    }

    /// Wait until `predicate()` is true, as a coroutine; awaiting it gives what the predicate gave last.
    fn await_for(slf: Py<Self>, predicate: Py<PyAny>) -> Awaiting {
        let phase = Mutex::new(Phase::Holding);
        Awaiting::new(Box::new(AwaitNotice { condition: slf, predicate: Some(predicate), phase }))
    }

    /// Wake `n` of those who wait, the first to come first. They go on when they get the lock.
    ///
    /// Raises:
    ///     RuntimeError: The caller has not got the lock.
    #[pyo3(signature = (n=1))]
    fn notify(&self, py: Python<'_>, n: isize) -> PyResult<()> {
        self.require_lock(py, "notify")?;
        self.look(py, Deed::Notify)?;
        self.notify_some(py, usize::try_from(n).unwrap_or(0));
        Ok(())
    }

    /// Wake all who wait.
    ///
    /// Raises:
    ///     RuntimeError: The caller has not got the lock.
    fn notify_all(&self, py: Python<'_>) -> PyResult<()> {
        self.require_lock(py, "notify")?;
        self.look(py, Deed::Notify)?;
        self.notify_some(py, usize::MAX);
        Ok(())
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.monitor.take(py)
    }

    #[pyo3(signature = (_kind=None, _value=None, _traceback=None))]
    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.monitor.give(py)
    }

    fn __aenter__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.monitor.mutual(py)?;
        self.monitor.object(py).call_method0("__aenter__").map(Bound::unbind)
    }

    #[pyo3(signature = (_kind=None, _value=None, _traceback=None))]
    fn __aexit__(
        &self,
        py: Python<'_>,
        _kind: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Done> {
        self.monitor.give(py)?;
        Ok(Done)
    }

    fn _is_owned(&self, py: Python<'_>) -> PyResult<bool> {
        self.monitor.is_owned(py)
    }

    fn _release_save(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.monitor.object(py).call_method0("_release_save").map(Bound::unbind)
    }

    fn _acquire_restore(&self, py: Python<'_>, state: Py<PyAny>) -> PyResult<()> {
        self.monitor.object(py).call_method1("_acquire_restore", (state,)).map(drop)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let waiting = self.notices.waiting();
        Ok(format!("<Condition({}, {waiting})>", self.monitor.object(py).repr()?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.monitor.traverse(&visit)?;
        self.notices.try_for_each_waiter(|waiter| waiter.traverse(&visit))
    }
}
