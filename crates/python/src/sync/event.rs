//! `manyhands.sync.Event`.

use manyhands_engine::door;
use manyhands_engine::line::Ticket;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::awaiting::{Awaiting, awaiting, yes};
use super::patience::Patience;
use super::waiting::{Entered, Waitable, Waiter, block, tell};
use super::who::Generation;

/// A door that is open or shut, and threads and tasks before it.
pub(crate) struct Door {
    inner: door::Door<Waiter>,
    generation: Generation,
}

impl Door {
    pub(crate) fn new() -> Self {
        Self { inner: door::Door::default(), generation: Generation::new() }
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.inner.is_open()
    }

    pub(crate) fn open(&self, py: Python<'_>) {
        self.dismiss();
        tell(py, &self.inner.open());
    }

    pub(crate) fn shut(&self) {
        self.inner.shut();
    }

    pub(crate) fn pass(&self, py: Python<'_>, patience: &Patience) -> PyResult<bool> {
        match patience {
            _ if self.is_open() => Ok(true),
            Patience::None => Ok(false),
            patience => Ok(block(py, self, patience.deadline())?.is_some()),
        }
    }

    /// Forgets those whom a fork left behind.
    fn dismiss(&self) {
        if self.generation.has_passed() {
            drop(self.inner.dismiss(Waiter::is_gone));
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.inner.try_for_each_waiter(|waiter| waiter.traverse(visit))
    }
}

impl Waitable for Door {
    type Gain = ();

    fn try_now(&self, _py: Python<'_>) -> PyResult<Option<()>> {
        Ok(self.is_open().then_some(()))
    }

    fn enter(&self, _py: Python<'_>, waiter: Waiter) -> PyResult<Entered<()>> {
        self.dismiss();
        Ok(self.inner.enter(waiter).map_or(Entered::Through(()), Entered::Waits))
    }

    fn poll(&self, _py: Python<'_>, ticket: Ticket) -> PyResult<Option<()>> {
        Ok((!self.inner.waits(ticket)).then_some(()))
    }

    fn leave(&self, _py: Python<'_>, ticket: Ticket) -> Option<()> {
        self.inner.leave(ticket).then_some(())
    }

    fn give_back(&self, _py: Python<'_>, (): ()) {}
}

/// A flag that threads and asyncio tasks wait for: ``set`` lets all through, until ``clear``.
///
/// Whoever waits when it is set gets through, also if it is cleared at once.
///
/// Thread safety: every method may be called from any thread, and from any event loop.
///
/// Example:
///     >>> from manyhands.sync import Event
///     >>> ready = Event()
///     >>> ready.wait(timeout=0.001)
///     False
///     >>> ready.set()
///     >>> ready.wait()
///     True
///
/// Source: ``threading.Event`` and ``asyncio.Event`` of CPython, whose methods it has.
#[pyclass(frozen, subclass, weakref, module = "manyhands.sync")]
pub(crate) struct Event {
    door: Door,
}

impl Event {
    fn door(&self) -> &Door {
        &self.door
    }
}

#[pymethods]
impl Event {
    #[new]
    #[pyo3(signature = ())]
    fn new() -> Self {
        Self { door: Door::new() }
    }

    /// Whether the flag is set.
    fn is_set(&self) -> bool {
        self.door.is_open()
    }

    /// Set the flag, and wake everybody who waits for it.
    fn set(&self, py: Python<'_>) {
        self.door.open(py);
    }

    /// Take the flag back: from now on one waits.
    fn clear(&self) {
        self.door.shut();
    }

    /// Wait until the flag is set; return False if `timeout` seconds were too short for that.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        if self.door.is_open() {
            return Ok(true);
        }
        self.door.pass(py, &Patience::seconds(timeout)?)
    }

    /// Wait until the flag is set, as a coroutine; awaiting it gives True.
    fn await_(slf: Py<Self>) -> Awaiting {
        awaiting(slf, Self::door, yes)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        super::describe(slf.as_any(), if slf.get().door.is_open() { "set" } else { "unset" })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.door.traverse(&visit)
    }
}
