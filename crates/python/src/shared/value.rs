//! A number that processes share.
//!
//! ```text
//! words 0 to 2  a lock, for changes that take more than one step      8  the number
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

use manyhands_engine::shared::number;
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt, PyType};

use super::lock::Core;
use super::{Kind, Patience, Place, Reduced, create, open, open_shared, reduce};

const INT: Kind = Kind(3, "Value");
const FLOAT: Kind = Kind(4, "Value");
/// Not in the cache line of the lock.
const NUMBER: usize = 8;

/// The core of `manyhands.shared.Value`.
#[pyclass(frozen, subclass, name = "SharedValue", module = "manyhands._core", generic)]
pub(crate) struct Value {
    lock: Core,
    is_float: bool,
    /// The last sum that this object has made, which it begins the next with.
    last: AtomicU64,
}

impl Value {
    #[inline]
    fn word(&self) -> &AtomicU64 {
        &self.lock.shared.words()[NUMBER]
    }

    /// A number of this value's type as a word.
    #[inline]
    fn word_of(&self, number: &Bound<'_, PyAny>) -> PyResult<u64> {
        if self.is_float { Ok(number.extract::<f64>()?.to_bits()) } else { int_word(number) }
    }

    #[inline]
    fn shown<'py>(&self, py: Python<'py>, word: u64) -> Bound<'py, PyAny> {
        if self.is_float {
            PyFloat::new(py, f64::from_bits(word)).into_any()
        } else {
            PyInt::new(py, number::int(word)).into_any()
        }
    }

    /// Changes the number in one step; what it was.
    fn change(&self, step: impl Fn(u64) -> Option<u64>) -> u64 {
        match self.word().fetch_update(Ordering::AcqRel, Ordering::Acquire, step) {
            Ok(before) | Err(before) => before,
        }
    }

    /// Whether the second is larger, as numbers.
    fn is_less(&self, one: u64, other: u64) -> bool {
        if self.is_float {
            f64::from_bits(one) < f64::from_bits(other)
        } else {
            number::int(one) < number::int(other)
        }
    }
}

#[inline]
fn int_word(number: &Bound<'_, PyAny>) -> PyResult<u64> {
    // First what nearly all are: whether one is an instance of some class takes longer than the addition.
    if number.is_exact_instance_of::<PyInt>() {
        return number.extract().map(number::of_int);
    }
    if number.is_instance_of::<PyFloat>() {
        return Err(PyTypeError::new_err("could not use a float: found a shared Value of whole numbers"));
    }
    number.extract().map(number::of_int)
}

#[pymethods]
impl Value {
    #[new]
    #[pyo3(signature = (initial=None, *, name=None, place=None), text_signature = "(initial=0, *, name=None)")]
    fn new(initial: Option<&Bound<'_, PyAny>>, name: Option<&str>, place: Option<Place>) -> PyResult<Self> {
        let shared = match (place, initial) {
            (Some(place), _) => open(place, &[INT, FLOAT], NUMBER + 1)?,
            (None, initial) => {
                let float = initial.map(Bound::cast::<PyFloat>).and_then(Result::ok);
                let (kind, word) = match (float, initial) {
                    (Some(float), _) => (FLOAT, float.value().to_bits()),
                    (None, Some(number)) => (INT, int_word(number)?),
                    (None, None) => (INT, 0),
                };
                create(kind, NUMBER + 1, name, |words| words[NUMBER].store(word, Ordering::Relaxed))?
            }
        };
        let is_float = shared.kind() == FLOAT.0;
        Ok(Self { lock: Core::new(shared, true), is_float, last: AtomicU64::new(0) })
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
        reduce(slf.as_any(), Place::of(&slf.get().lock.shared))
    }

    /// The number. To read it and to set it are two steps: `value.value += 1` loses what others do between them, unless
    /// everybody does it within `with value:`.
    #[getter]
    fn value<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.shown(py, self.word().load(Ordering::Acquire))
    }

    #[setter]
    fn set_value(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.word().store(self.word_of(value)?, Ordering::Release);
        Ok(())
    }

    /// Add to it in one step, so that nothing is lost, whoever adds at the same time.
    ///
    /// Returns:
    ///     The sum.
    ///
    /// Raises:
    ///     OverflowError: A whole number would not fit into 64 bits; nothing was added.
    #[pyo3(signature = (number=None, /), text_signature = "(self, number=1, /)")]
    fn add<'py>(&self, py: Python<'py>, number: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        let last = self.last.load(Ordering::Relaxed);
        if self.is_float {
            let number = number.map_or(Ok(1.0), PyAnyMethods::extract)?;
            let sum = number::add_float(self.word(), number, last);
            self.last.store(sum.to_bits(), Ordering::Relaxed);
            return Ok(PyFloat::new(py, sum).into_any());
        }
        let number = number.map_or(Ok(1), |number| int_word(number).map(number::int))?;
        let sum = number::add_int(self.word(), number, last)
            .map_err(|overflow| PyOverflowError::new_err(format!("could not add {number}: {overflow}")))?;
        self.last.store(number::of_int(sum), Ordering::Relaxed);
        Ok(PyInt::new(py, sum).into_any())
    }

    /// Set it, in one step with reading what it was.
    ///
    /// Returns:
    ///     What it was.
    #[pyo3(signature = (number, /))]
    fn exchange<'py>(&self, number: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let before = self.word().swap(self.word_of(number)?, Ordering::AcqRel);
        Ok(self.shown(number.py(), before))
    }

    /// Set it to `desired` if it is `expected`, in one step.
    ///
    /// Returns:
    ///     Whether it was.
    fn compare_exchange(&self, expected: &Bound<'_, PyAny>, desired: &Bound<'_, PyAny>) -> PyResult<bool> {
        let (expected, desired) = (self.word_of(expected)?, self.word_of(desired)?);
        // 0.0 is -0.0, and NaN is nothing.
        #[expect(clippy::float_cmp, reason = "as Python compares them")]
        let is_expected = |seen| {
            seen == expected && !self.is_float
                || self.is_float && f64::from_bits(seen) == f64::from_bits(expected)
        };
        let step = |seen| is_expected(seen).then_some(desired);
        Ok(self.word().fetch_update(Ordering::AcqRel, Ordering::Acquire, step).is_ok())
    }

    /// Set it to `number` if that is larger, in one step.
    ///
    /// Returns:
    ///     What it was.
    #[pyo3(signature = (number, /))]
    fn fetch_max<'py>(&self, number: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let word = self.word_of(number)?;
        let before = self.change(|seen| self.is_less(seen, word).then_some(word));
        Ok(self.shown(number.py(), before))
    }

    /// Set it to `number` if that is smaller, in one step.
    ///
    /// Returns:
    ///     What it was.
    #[pyo3(signature = (number, /))]
    fn fetch_min<'py>(&self, number: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let word = self.word_of(number)?;
        let before = self.change(|seen| self.is_less(word, seen).then_some(word));
        Ok(self.shown(number.py(), before))
    }

    /// Whether a process died within its `with` block before this one.
    #[getter]
    fn was_abandoned(&self, py: Python<'_>) -> bool {
        self.lock.was_abandoned(py)
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        slf.get().lock.acquire(slf.py(), Patience::FOREVER)?;
        Ok(slf.clone())
    }

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(&self, py: Python<'_>, _exc_info: &Bound<'_, PyAny>) -> PyResult<()> {
        self.lock.release(py)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<Value {}>", self.value(py).repr()?))
    }
}
