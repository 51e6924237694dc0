//! A count that many processes add to at once.
//!
//! Each thread adds to one of 16 words, which lie in cache lines of their own; the count is the sum. So those who add
//! seldom take a line away from each other, which is most of what it costs them with a [`super::Value`].

use std::sync::atomic::Ordering;

use manyhands_engine::shared::number;
use manyhands_os::shared::Shared;
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::{Kind, Place, Reduced, create, open, open_shared, reduce, thread};

const COUNTER: Kind = Kind(5, "Counter");
const PARTS: usize = 16;
/// Words from one part to the next: processors fetch cache lines of 64 bytes in pairs.
const APART: usize = 16;
const WORDS: usize = PARTS * APART;

/// The core of `manyhands.shared.Counter`.
#[pyclass(frozen, subclass, name = "SharedCounter", module = "manyhands._core")]
pub(crate) struct Counter(Shared);

#[pymethods]
impl Counter {
    #[new]
    #[pyo3(signature = (start=0, *, name=None, place=None), text_signature = "(start=0, *, name=None)")]
    fn new(start: i64, name: Option<&str>, place: Option<Place>) -> PyResult<Self> {
        let shared = match place {
            Some(place) => open(place, &[COUNTER], WORDS)?,
            None => create(COUNTER, WORDS, name, |words| {
                words[0].store(number::of_int(start), Ordering::Relaxed);
            })?,
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

    /// Add to the count, or take away from it.
    ///
    /// Raises:
    ///     OverflowError: What this thread has added would not fit into 64 bits; nothing was added.
    #[pyo3(signature = (number=1, /))]
    fn add(&self, py: Python<'_>, number: i64) -> PyResult<()> {
        // The low bits of a thread's number are those of an address; a product has all of them in its high ones.
        let part = thread(py).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60;
        let word = &self.0.words()[usize::try_from(part).unwrap_or(0) * APART];
        // Seldom anybody else's cache line.
        number::add_int(word, number, word.load(Ordering::Relaxed))
            .map(drop)
            .map_err(|overflow| PyOverflowError::new_err(format!("could not add {number}: {overflow}")))
    }

    /// The count: all that was added before, and perhaps some of what is being added just now.
    #[getter]
    fn value(&self) -> i128 {
        let parts = self.0.words().iter().step_by(APART).take(PARTS);
        parts.map(|part| i128::from(number::int(part.load(Ordering::Acquire)))).sum()
    }

    fn __int__(&self) -> i128 {
        self.value()
    }

    fn __repr__(&self) -> String {
        format!("<Counter {}>", self.value())
    }
}
