//! A lock of processes, and one that a thread may acquire again.
//!
//! ```text
//! word 0  the lock (see `engine::shared::lock`)      1  the thread that has it      2  how often
//! ```
//!
//! The thread is taken away before the lock is released, so that no other thread of the process can take it for its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use manyhands_engine::clock::Tick;
use manyhands_engine::shared::board::Someone;
use manyhands_engine::shared::{Owner, lock};
use manyhands_os::shared::Shared;
use manyhands_os::shared::wait::{self, Nap, Slept};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::deadlock::{self, Awaited};
use super::{Kind, Patience, Place, Reduced, create, open, open_shared, patience, reduce, thread};
use crate::sync::watches_locks;

pub(super) const LOCK: Kind = Kind(1, "Lock");
pub(super) const RLOCK: Kind = Kind(2, "RLock");
/// How many words it takes.
pub(super) const WORDS: usize = 3;

/// The lock in some words of a segment.
#[derive(Clone)]
pub(super) struct Core {
    pub(super) shared: Arc<Shared>,
    /// Where it begins.
    first: usize,
    is_reentrant: bool,
}

impl Core {
    /// The lock in the first [`WORDS`] words of something.
    pub(super) fn new(shared: Shared, is_reentrant: bool) -> Self {
        Self::at(Arc::new(shared), 0, is_reentrant)
    }

    /// The lock in the [`WORDS`] words from `first` on.
    pub(super) const fn at(shared: Arc<Shared>, first: usize, is_reentrant: bool) -> Self {
        Self { shared, first, is_reentrant }
    }

    fn word(&self) -> &AtomicU64 {
        &self.shared.words()[self.first]
    }

    fn holder(&self) -> &AtomicU64 {
        &self.shared.words()[self.first + 1]
    }

    fn depth(&self) -> &AtomicU64 {
        &self.shared.words()[self.first + 2]
    }

    /// Whether whoever calls may release it: for a plain lock any thread of the process.
    pub(super) fn is_mine(&self, py: Python<'_>) -> bool {
        lock::is_held_by(self.word(), wait::me())
            && (!self.is_reentrant || self.holder().load(Ordering::Relaxed) == thread(py))
    }

    /// Acquires it: at once, or within `patience`; whether it did.
    #[inline]
    pub(super) fn acquire(&self, py: Python<'_>, patience: Patience) -> PyResult<bool> {
        if self.is_reentrant && self.is_mine(py) {
            self.depth().fetch_add(1, Ordering::Relaxed);
            return Ok(true);
        }
        let is_acquired = lock::try_acquire(self.word(), wait::me(), false)
            || match patience {
                Patience::None => wait::try_acquire(self.word()),
                Patience::Until(deadline) => self.wait(py, deadline)?,
            };
        if is_acquired {
            self.enter(py, 1);
        }
        Ok(is_acquired)
    }

    fn enter(&self, py: Python<'_>, depth: u64) {
        if self.is_reentrant {
            self.depth().store(depth, Ordering::Relaxed);
        }
        if self.is_reentrant || watches_locks() {
            self.holder().store(thread(py), Ordering::Relaxed);
        }
    }

    /// Which thread has it, as far as that is known.
    fn whose(&self) -> Someone {
        let process = || lock::holder(self.word()).map_or(0, Owner::word);
        let (before, thread) = (process(), self.holder().load(Ordering::Acquire));
        Someone { process: before, thread: if process() == before { thread } else { 0 } }
    }

    fn wait(&self, py: Python<'_>, deadline: Option<Tick>) -> PyResult<bool> {
        let mut nap = Nap::default();
        let mut watch = None;
        loop {
            match py.detach(|| wait::acquire(self.word(), &mut nap, deadline)) {
                Slept::Woken => return Ok(true),
                Slept::Interrupted | Slept::Enough => py.check_signals()?,
                Slept::TimedOut => return Ok(false),
            }
            if deadline.is_none() && watches_locks() {
                let holder = || self.whose();
                let awaited = Awaited { shared: &self.shared, first: self.first, holder: &holder };
                deadlock::look(py, &awaited, &mut watch)?;
            }
        }
    }

    /// Releases it, once.
    #[inline]
    pub(super) fn release(&self, py: Python<'_>) -> PyResult<()> {
        if !self.is_mine(py) {
            return Err(PyRuntimeError::new_err(self.complaint("release")));
        }
        if self.is_reentrant && self.depth().load(Ordering::Relaxed) > 1 {
            self.depth().fetch_sub(1, Ordering::Relaxed);
            return Ok(());
        }
        self.leave();
        Ok(())
    }

    fn leave(&self) {
        self.holder().store(0, Ordering::Relaxed);
        let _ = wait::release(self.word());
    }

    /// Releases it altogether; how often it was acquired.
    pub(super) fn release_all(&self, py: Python<'_>) -> PyResult<u64> {
        if !self.is_mine(py) {
            return Err(PyRuntimeError::new_err(self.complaint("wait without")));
        }
        let depth = self.depth().load(Ordering::Relaxed);
        self.leave();
        Ok(depth)
    }

    /// Acquires it as often as it was released. Of what signal handlers raise meanwhile, the first waits for the end;
    /// at the second it comes back without the lock.
    pub(super) fn restore(&self, py: Python<'_>, depth: u64) -> PyResult<()> {
        let mut raised = None;
        while !lock::try_acquire(self.word(), wait::me(), false) {
            match self.wait(py, None) {
                Ok(_) => break,
                Err(failure) if raised.is_some() => return Err(failure),
                Err(failure) => raised = Some(failure),
            }
        }
        self.enter(py, depth);
        raised.map_or(Ok(()), Err)
    }

    fn complaint(&self, verb: &str) -> String {
        let who = if self.is_reentrant { "thread" } else { "process" };
        format!("could not {verb} the lock: found it not held by this {who}")
    }

    pub(super) fn is_locked(&self) -> bool {
        lock::holder(self.word()).is_some_and(wait::is_alive)
    }

    pub(super) fn was_abandoned(&self, py: Python<'_>) -> bool {
        self.is_mine(py) && lock::is_abandoned(self.word())
    }
}

fn make(kind: Kind, name: Option<&str>, place: Option<Place>) -> PyResult<Lock> {
    let shared = match place {
        Some(place) => open(place, &[kind], WORDS)?,
        None => create(kind, WORDS, name, |_| ())?,
    };
    Ok(Lock(Core::new(shared, kind.0 == RLOCK.0)))
}

/// The core of `manyhands.shared.Lock`.
#[pyclass(frozen, subclass, name = "SharedLock", module = "manyhands._core")]
pub(crate) struct Lock(pub(super) Core);

#[pymethods]
impl Lock {
    #[new]
    #[pyo3(signature = (*, name=None, place=None), text_signature = "(*, name=None)")]
    fn new(name: Option<&str>, place: Option<Place>) -> PyResult<Self> {
        make(LOCK, name, place)
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
        reduce(slf.as_any(), Place::of(&slf.get().0.shared))
    }

    /// Acquire it; wait until it is free, or its holder dies. A thread that has an RLock acquires it once more, at once.
    ///
    /// Args:
    ///     blocking: Whether to wait.
    ///     timeout: How many seconds to wait at most; None and -1 for as long as it takes.
    ///
    /// Returns:
    ///     Whether it was acquired.
    #[pyo3(signature = (blocking=true, timeout=None))]
    fn acquire(&self, py: Python<'_>, blocking: bool, timeout: Option<f64>) -> PyResult<bool> {
        self.0.acquire(py, patience(blocking, timeout)?)
    }

    /// Release it once: an RLock is free when it was released as often as it was acquired.
    ///
    /// Raises:
    ///     RuntimeError: This process does not have it; of an RLock, this thread.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.0.release(py)
    }

    /// Whether some process has it.
    fn locked(&self) -> bool {
        self.0.is_locked()
    }

    /// Whether the one who had it before died with it, so that what it guards may be half changed. True for whoever has it
    /// now, until it is released.
    #[getter]
    fn was_abandoned(&self, py: Python<'_>) -> bool {
        self.0.was_abandoned(py)
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.0.acquire(py, Patience::FOREVER)
    }

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(&self, py: Python<'_>, _exc_info: &Bound<'_, PyAny>) -> PyResult<()> {
        self.0.release(py)
    }
}

/// The core of `manyhands.shared.RLock`: a [`Lock`] whose core counts.
#[pyclass(frozen, subclass, extends = Lock, name = "SharedRLock", module = "manyhands._core")]
pub(crate) struct RLock;

#[pymethods]
impl RLock {
    #[new]
    #[pyo3(signature = (*, name=None, place=None), text_signature = "(*, name=None)")]
    fn new(name: Option<&str>, place: Option<Place>) -> PyResult<PyClassInitializer<Self>> {
        Ok(PyClassInitializer::from(make(RLOCK, name, place)?).add_subclass(Self))
    }
}
