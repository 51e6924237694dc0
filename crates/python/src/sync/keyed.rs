//! `manyhands.sync.KeyedLock`, and the lock of a key.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use manyhands_engine::keyed::{Entry, Table};
use manyhands_engine::line::Ticket;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::awaiting::{Awaiting, Done, Operation, boolean};
use super::mutual::Mutual;
use super::patience::Patience;
use super::waiting::{Entered, Waitable, Waiter, block};
use super::who;

type Slot = Arc<Entry<Py<PyAny>, Mutual>>;

/// A lock for each key: ``with locks("user-7"):`` excludes whoever wants the same key, and nobody else.
///
/// A key's lock is made when somebody wants it and dropped when nobody holds it or waits for it: so memory does not grow with
/// the keys that were seen. ``locks(key)`` has the methods of a `Lock`: ``acquire(blocking=True, timeout=-1)``,
/// ``release()``, ``locked()``, ``aacquire()``, ``with`` and ``async with``; equal keys mean the same lock, whoever asks.
/// Whoever holds one and wants it again waits for himself; and those who take several have to take them in one order.
///
/// ``len(locks)`` is how many keys are held or waited for.
///
/// Thread safety: every method may be called from any thread, and from any event loop.
///
/// Example:
///     >>> from manyhands.sync import KeyedLock
///     >>> locks = KeyedLock()
///     >>> with locks("user-7"):
///     ...     locks("user-7").locked(), locks("user-8").locked(), len(locks)
///     (True, False, 1)
///     >>> len(locks)
///     0
#[pyclass(frozen, subclass, weakref, generic, module = "manyhands.sync")]
pub(crate) struct KeyedLock {
    table: Table<Py<PyAny>, Mutual>,
}

/// The lock of a key of a `KeyedLock`; it has the methods of a `Lock`.
#[pyclass(frozen, module = "manyhands._core")]
pub(crate) struct KeyLock {
    locks: Py<KeyedLock>,
    key: Py<PyAny>,
    hash: isize,
    /// What was taken by way of this object last: to be given back without looking for it.
    taken: Mutex<Option<Slot>>,
}

impl KeyedLock {
    /// One more uses the lock of that key.
    ///
    /// # Errors
    /// What the comparison with another key raised.
    fn enter(&self, py: Python<'_>, key: &Py<PyAny>, hash: isize) -> PyResult<Slot> {
        self.table.enter(hash, key.clone_ref(py), Mutual::new(), |other| is_same(py, key, other))
    }

    /// One stops using it.
    fn leave(&self, slot: &Slot) {
        drop(self.table.leave(slot));
    }
}

fn is_same(py: Python<'_>, key: &Py<PyAny>, other: &Py<PyAny>) -> PyResult<bool> {
    Ok(key.is(other) || key.bind(py).eq(other)?)
}

impl KeyLock {
    fn taken(&self) -> MutexGuard<'_, Option<Slot>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, py: Python<'_>) -> PyResult<Slot> {
        self.locks.get().enter(py, &self.key, self.hash)
    }

    fn leave(&self, slot: &Slot) {
        self.locks.get().leave(slot);
    }

    fn note_taken(&self, slot: Slot) {
        let previous = self.taken().replace(slot);
        drop(previous);
    }

    fn find(&self, py: Python<'_>) -> PyResult<Option<Slot>> {
        self.locks.get().table.find(self.hash, |other| is_same(py, &self.key, other))
    }

    fn take(&self, py: Python<'_>, patience: &Patience) -> PyResult<bool> {
        let slot = self.enter(py)?;
        match Self::take_slot(py, slot.value(), patience) {
            Ok(true) => {
                self.note_taken(slot);
                Ok(true)
            }
            not => {
                self.leave(&slot);
                not
            }
        }
    }

    fn take_slot(py: Python<'_>, mutual: &Mutual, patience: &Patience) -> PyResult<bool> {
        if mutual.try_take() {
            let noted = mutual.note_taken(py, who::this_thread, !matches!(patience, Patience::None));
            noted.inspect_err(|_| mutual.give_back(py, ()))?;
            return Ok(true);
        }
        match patience {
            Patience::None => Ok(false),
            patience => Ok(block(py, mutual, patience.deadline())?.is_some()),
        }
    }

    fn free(&self, py: Python<'_>) -> PyResult<()> {
        let taken = self.taken().take();
        let slot = if taken.is_some() { taken } else { self.find(py)? };
        match slot {
            Some(slot) if slot.value().give(py) => {
                self.leave(&slot);
                Ok(())
            }
            _ => Err(PyRuntimeError::new_err("release unlocked lock")),
        }
    }

    fn is_taken(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.find(py)?.is_some_and(|slot| slot.value().is_taken()))
    }
}

#[pymethods]
impl KeyedLock {
    #[new]
    #[pyo3(signature = ())]
    fn new() -> Self {
        Self { table: Table::default() }
    }

    /// The lock of a key.
    ///
    /// Args:
    ///     key: Anything that can be hashed, as the key of a dict.
    ///
    /// Raises:
    ///     TypeError: `key` cannot be hashed.
    fn __call__(slf: Py<Self>, py: Python<'_>, key: Py<PyAny>) -> PyResult<KeyLock> {
        let hash = key.bind(py).hash().map_err(|error| refuse(py, &key, error))?;
        Ok(KeyLock { locks: slf, key, hash, taken: Mutex::new(None) })
    }

    fn __len__(&self) -> usize {
        self.table.len()
    }

    #[expect(clippy::unused_self, reason = "a slot")]
    fn __bool__(&self) -> bool {
        true
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        super::describe(slf.as_any(), &format!("{} in use", slf.get().table.len()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.table.look(|slot| {
            visit.call(slot.key())?;
            slot.value().traverse(&visit)
        })
    }
}

/// Says of a key that cannot be hashed that it is none; what else went wrong is passed on.
fn refuse(py: Python<'_>, key: &Py<PyAny>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyTypeError>(py) {
        return error;
    }
    let key = key.bind(py);
    let kind = key.get_type().name().map(|name| name.to_string()).unwrap_or_default();
    let shown = key.repr().map(|text| text.to_string()).unwrap_or_default();
    let refused = PyTypeError::new_err(format!(
        "could not lock {shown}: found a key of type `{kind}`, expected one that can be hashed, such as a str or a tuple"
    ));
    refused.set_cause(py, Some(error));
    refused
}

#[pymethods]
impl KeyLock {
    /// Take the lock, waiting for it if need be; return whether it was got.
    #[pyo3(signature = (blocking=None, timeout=None), text_signature = "($self, blocking=True, timeout=-1)")]
    fn acquire(
        &self,
        py: Python<'_>,
        blocking: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<bool> {
        self.take(py, &Patience::of_lock(blocking, timeout)?)
    }

    /// Let the next one have it.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.free(py)
    }

    /// Whether somebody has it.
    fn locked(&self, py: Python<'_>) -> PyResult<bool> {
        self.is_taken(py)
    }

    /// Take the lock, as a coroutine; awaiting it gives True.
    fn aacquire(slf: Py<Self>) -> Awaiting {
        AwaitKey::of(slf, true)
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
        AwaitKey::of(slf, false)
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

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let state = if self.is_taken(py)? { "locked" } else { "unlocked" };
        Ok(format!("<sync.KeyedLock of {}: {state}>", self.key.bind(py).repr()?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.locks)?;
        visit.call(&self.key)
    }
}

/// A task's wait for the lock of a key.
struct AwaitKey {
    lock: Py<KeyLock>,
    says_yes: bool,
    /// What it waits for.
    slot: Mutex<Option<Slot>>,
}

impl AwaitKey {
    fn of(lock: Py<KeyLock>, says_yes: bool) -> Awaiting {
        Awaiting::new(Box::new(Self { lock, says_yes, slot: Mutex::new(None) }))
    }

    fn slot(&self) -> MutexGuard<'_, Option<Slot>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, py: Python<'_>, slot: Slot) -> Py<PyAny> {
        self.lock.get().note_taken(slot);
        if self.says_yes { boolean(py, true) } else { py.None() }
    }
}

impl Operation for AwaitKey {
    fn try_now(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let slot = self.lock.get().enter(py)?;
        let taken = slot.value().try_now(py);
        if matches!(taken, Ok(Some(()))) {
            return Ok(Some(self.has(py, slot)));
        }
        self.lock.get().leave(&slot);
        taken.map(|_| None)
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        let slot = self.lock.get().enter(py)?;
        match slot.value().enter(py, waiter) {
            Ok(Entered::Through(())) => Ok(Entered::Through(self.has(py, slot))),
            Ok(Entered::Waits(ticket)) => {
                *self.slot() = Some(slot);
                Ok(Entered::Waits(ticket))
            }
            Err(error) => {
                self.lock.get().leave(&slot);
                Err(error)
            }
        }
    }

    fn poll(&self, py: Python<'_>, ticket: Ticket, _waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        let Some(slot) = self.slot().clone() else { return Ok(Entered::Waits(ticket)) };
        if slot.value().poll(py, ticket)?.is_none() {
            return Ok(Entered::Waits(ticket));
        }
        *self.slot() = None;
        Ok(Entered::Through(self.has(py, slot)))
    }

    fn leave(&self, py: Python<'_>, ticket: Ticket) {
        let Some(slot) = self.slot().take() else { return };
        if slot.value().leave(py, ticket).is_some() {
            slot.value().give_back(py, ());
        }
        self.lock.get().leave(&slot);
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.lock)
    }
}
