//! A flag that processes wait for.

use manyhands_engine::shared::event;
use manyhands_os::shared::Shared;
use manyhands_os::shared::wait::{self, Nap, Slept};
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::{Kind, Place, Reduced, create, open, open_shared, reduce};
use crate::enter;

const EVENT: Kind = Kind(7, "Event");

/// The core of `manyhands.shared.Event`.
#[pyclass(frozen, subclass, name = "SharedEvent", module = "manyhands._core")]
pub(crate) struct Event(Shared);

#[pymethods]
impl Event {
    #[new]
    #[pyo3(signature = (*, name=None, place=None), text_signature = "(*, name=None)")]
    fn new(name: Option<&str>, place: Option<Place>) -> PyResult<Self> {
        match place {
            Some(place) => open(place, &[EVENT], 1),
            None => create(EVENT, 1, name, |_| ()),
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

    /// Whether it is set.
    fn is_set(&self) -> bool {
        event::is_set(&self.0.words()[0])
    }

    /// Set it, and wake all who wait.
    fn set(&self) {
        let word = &self.0.words()[0];
        if event::set(word) {
            wait::wake(word, i32::MAX.unsigned_abs());
        }
    }

    /// Clear it: who waits from now on waits for the next `set`.
    fn clear(&self) {
        event::clear(&self.0.words()[0]);
    }

    /// Wait until it is set.
    ///
    /// Args:
    ///     timeout: How many seconds to wait at most; None for as long as it takes.
    ///
    /// Returns:
    ///     Whether it was set; False after the timeout.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let (word, deadline) = (&self.0.words()[0], enter::deadline(timeout)?);
        let before = event::look(word);
        let mut nap = Nap::default();
        while !event::was_set_since(word, before) {
            match py.detach(|| nap.sleep(word, before, deadline)) {
                Slept::Woken => {}
                Slept::TimedOut => return Ok(event::was_set_since(word, before)),
                // One that came between two naps has interrupted neither.
                Slept::Interrupted | Slept::Enough => py.check_signals()?,
            }
        }
        Ok(true)
    }
}
