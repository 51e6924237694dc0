//! `manyhands.sync.RLock`.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use manyhands_engine::line::Ticket;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::awaiting::{Awaiting, Done, awaiting, nothing, yes};
use super::mutual::Mutual;
use super::patience::Patience;
use super::waiting::{Entered, Waitable, Waiter, block, block_stubbornly};
use super::who::{self, NOBODY};

/// Mutual exclusion that its owner, a thread or a task, may enter again.
///
/// Nobody but the owner writes `owner` and `depth`, and only while he has the permit; whoever else reads `owner` reads
/// somebody who is not himself.
pub(crate) struct Reentrant {
    mutual: Mutual,
    owner: AtomicU64,
    depth: AtomicUsize,
}

/// How deep an owner is in, kept while he waits for a condition.
pub(crate) struct Saved {
    pub(crate) depth: usize,
    pub(crate) owner: u64,
}

impl Reentrant {
    fn new() -> Self {
        Self { mutual: Mutual::new(), owner: AtomicU64::new(NOBODY), depth: AtomicUsize::new(0) }
    }

    /// The caller's identity, if it is the owner's: this thread, or the task or green thread that it runs.
    #[inline]
    fn owner_here(&self, py: Python<'_>) -> Option<u64> {
        let owner = self.owner.load(Ordering::Relaxed);
        let is_mine =
            if who::is_task(owner) { who::this_task(py) == Some(owner) } else { owner == who::caller(py) };
        is_mine.then_some(owner)
    }

    pub(crate) fn is_owned(&self, py: Python<'_>) -> bool {
        self.owner_here(py).is_some()
    }

    pub(crate) fn depth_here(&self, py: Python<'_>) -> usize {
        if self.is_owned(py) { self.depth.load(Ordering::Relaxed) } else { 0 }
    }

    #[inline]
    fn own(&self, owner: u64, depth: usize) {
        self.owner.store(owner, Ordering::Relaxed);
        self.depth.store(depth, Ordering::Relaxed);
    }

    /// Enters as this thread, if that needs no waiting.
    #[inline]
    pub(crate) fn try_take(&self, py: Python<'_>) -> bool {
        if self.owner.load(Ordering::Relaxed) != NOBODY && self.is_owned(py) {
            self.depth.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let taken = self.mutual.try_take();
        if taken {
            self.own(who::caller(py), 1);
        }
        taken
    }

    /// Takes note of who has just entered, for the first time or again.
    ///
    /// # Errors
    /// A warning about the order in which he takes locks; then he is out again.
    #[inline]
    fn note_taken(&self, py: Python<'_>, is_bound: bool) -> PyResult<()> {
        if self.depth.load(Ordering::Relaxed) > 1 {
            return Ok(());
        }
        let noted = self.mutual.note_taken(py, || self.owner.load(Ordering::Relaxed), is_bound);
        noted.inspect_err(|_| self.give_back(py, ()))
    }

    pub(crate) fn take(&self, py: Python<'_>, patience: &Patience) -> PyResult<bool> {
        if self.try_take(py) {
            self.note_taken(py, !matches!(patience, Patience::None))?;
            return Ok(true);
        }
        if matches!(patience, Patience::None) {
            return Ok(false);
        }
        let taken = block(py, &self.mutual, patience.deadline())?.is_some();
        if taken {
            self.own(who::caller(py), 1);
        }
        Ok(taken)
    }

    /// # Errors
    /// The caller does not own it.
    #[inline]
    pub(crate) fn give(&self, py: Python<'_>) -> PyResult<()> {
        if !self.is_owned(py) {
            return Err(PyRuntimeError::new_err("cannot release un-acquired lock"));
        }
        if self.depth.load(Ordering::Relaxed) > 1 {
            self.depth.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.own(NOBODY, 0);
            self.mutual.give(py);
        }
        Ok(())
    }

    /// Leaves it altogether.
    pub(crate) fn save(&self, py: Python<'_>) -> PyResult<Saved> {
        let Some(owner) = self.owner_here(py) else {
            return Err(PyRuntimeError::new_err("cannot release un-acquired lock"));
        };
        let saved = Saved { depth: self.depth.load(Ordering::Relaxed), owner };
        self.own(NOBODY, 0);
        self.mutual.give(py);
        Ok(saved)
    }

    /// Enters it again as deep, as the one with the permit.
    pub(crate) fn restore(&self, saved: &Saved) {
        self.own(saved.owner, saved.depth);
    }

    pub(crate) fn mutual(&self) -> &Mutual {
        &self.mutual
    }
}

/// As an asyncio task.
impl Waitable for Reentrant {
    type Gain = ();

    fn try_now(&self, py: Python<'_>) -> PyResult<Option<()>> {
        let task = who::this_task(py).unwrap_or_else(who::this_thread);
        if self.owner.load(Ordering::Relaxed) == task {
            self.depth.fetch_add(1, Ordering::Relaxed);
            return Ok(Some(()));
        }
        let taken = self.mutual.try_take_in_turn();
        if taken {
            self.own(task, 1);
            self.note_taken(py, true)?;
        }
        Ok(taken.then_some(()))
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<()>> {
        let entered = self.mutual.enter(py, waiter)?;
        if matches!(entered, Entered::Through(())) {
            self.own(who::this_task(py).unwrap_or_else(who::this_thread), 1);
        }
        Ok(entered)
    }

    fn poll(&self, py: Python<'_>, ticket: Ticket) -> PyResult<Option<()>> {
        let through = self.mutual.poll(py, ticket)?;
        if through.is_some() {
            self.own(who::this_task(py).unwrap_or_else(who::this_thread), 1);
        }
        Ok(through)
    }

    fn leave(&self, py: Python<'_>, ticket: Ticket) -> Option<()> {
        self.mutual.leave(py, ticket)
    }

    fn give_back(&self, py: Python<'_>, (): ()) {
        self.own(NOBODY, 0);
        self.mutual.give_back(py, ());
    }
}

/// A reentrant lock that threads and asyncio tasks wait for alike: its owner may take it again.
///
/// Its owner is the thread or greenlet that took it by ``acquire`` or ``with``, or the task that took it by ``aacquire`` or
/// ``async with``. Only the owner may release it, as often as it took it. Otherwise it is a `Lock`.
///
/// Thread safety: every method may be called from any thread, and from any event loop.
///
/// Example:
///     >>> from manyhands.sync import RLock
///     >>> lock = RLock()
///     >>> with lock, lock:
///     ...     lock.acquire(blocking=False)
///     True
///     >>> lock.release()
///
/// Source: ``threading.RLock`` of CPython, whose methods and errors it has.
#[pyclass(frozen, subclass, weakref, module = "manyhands.sync")]
pub(crate) struct RLock {
    reentrant: Reentrant,
}

impl RLock {
    pub(crate) fn reentrant(&self) -> &Reentrant {
        &self.reentrant
    }
}

#[pymethods]
impl RLock {
    #[new]
    #[pyo3(signature = ())]
    pub(crate) fn new() -> Self {
        Self { reentrant: Reentrant::new() }
    }

    /// Take the lock, once more if it is the caller's already; return whether it was got.
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
            return self.reentrant.take(py, &Patience::Endless);
        }
        let patience = Patience::of_lock(blocking, timeout)?;
        self.reentrant.take(py, &patience)
    }

    /// Undo one ``acquire``; after the last, let the next one have it.
    ///
    /// Raises:
    ///     RuntimeError: It is not the caller's.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.reentrant.give(py)
    }

    /// Whether somebody has it.
    fn locked(&self) -> bool {
        self.reentrant.mutual.is_taken()
    }

    /// Take the lock for the running task, as a coroutine; awaiting it gives True.
    fn aacquire(slf: Py<Self>) -> Awaiting {
        awaiting(slf, Self::reentrant, yes)
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.reentrant.take(py, &Patience::Endless)
    }

    #[pyo3(signature = (_kind=None, _value=None, _traceback=None))]
    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.reentrant.give(py)
    }

    fn __aenter__(slf: Py<Self>) -> Awaiting {
        awaiting(slf, Self::reentrant, nothing)
    }

    #[pyo3(signature = (_kind=None, _value=None, _traceback=None))]
    fn __aexit__(
        &self,
        py: Python<'_>,
        _kind: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Done> {
        self.reentrant.give(py)?;
        Ok(Done)
    }

    fn _is_owned(&self, py: Python<'_>) -> bool {
        self.reentrant.is_owned(py)
    }

    fn _recursion_count(&self, py: Python<'_>) -> usize {
        self.reentrant.depth_here(py)
    }

    fn _release_save(&self, py: Python<'_>) -> PyResult<(usize, u64)> {
        let saved = self.reentrant.save(py)?;
        Ok((saved.depth, saved.owner))
    }

    fn _acquire_restore(&self, py: Python<'_>, state: (usize, u64)) -> PyResult<()> {
        let ((), raised) = block_stubbornly(py, &self.reentrant.mutual)?;
        self.reentrant.restore(&Saved { depth: state.0, owner: state.1 });
        raised.map_or(Ok(()), Err)
    }

    fn _at_fork_reinit(&self) {
        self.reentrant.own(NOBODY, 0);
        self.reentrant.mutual.reset();
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let state = if slf.get().reentrant.mutual.is_taken() { "locked" } else { "unlocked" };
        let depth = slf.get().reentrant.depth.load(Ordering::Relaxed);
        let kind = slf.get_type().fully_qualified_name()?;
        Ok(format!("<{state} {kind} object count={depth} at {:p}>", slf.as_ptr()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.reentrant.mutual.traverse(&visit)
    }
}
