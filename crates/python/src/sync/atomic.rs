//! `manyhands.sync.AtomicInt` and `AtomicFlag`.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;

/// A whole number of 64 bits that threads change without a lock, and without losing a change.
///
/// Args:
///     value: The initial number.
///
/// What would leave the 64 bits is an ``OverflowError`` and changes nothing. Each method is one step that nobody sees half
/// of; two of them are two.
///
/// Thread safety: every method may be called from any thread.
///
/// Example:
///     >>> from manyhands.sync import AtomicInt
///     >>> hits = AtomicInt()
///     >>> hits.add(2), hits.sub(1), hits.get()
///     (2, 1, 1)
///     >>> hits.compare_exchange(1, 10), hits.compare_exchange(1, 20), hits.get()
///     (True, False, 10)
///
/// Source: the atomic integers of C++ and Rust; unlike theirs, ``add`` and ``sub`` give the new number, as ``+=`` would.
#[pyclass(frozen, subclass, weakref, module = "manyhands.sync")]
pub(crate) struct AtomicInt(AtomicI64);

impl AtomicInt {
    /// Changes the number; returns what it was and what it is.
    #[inline]
    fn change(&self, change: impl Fn(i64) -> Option<i64>) -> PyResult<(i64, i64)> {
        let mut before = self.0.load(Ordering::Acquire);
        loop {
            let Some(after) = change(before) else {
                return Err(PyOverflowError::new_err(
                    "could not change number: found a result beyond 64 bits, expected one between -2**63 and 2**63 - 1",
                ));
            };
            match self.0.compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok((before, after)),
                Err(found) => before = found,
            }
        }
    }
}

#[pymethods]
impl AtomicInt {
    #[new]
    #[pyo3(signature = (value=0))]
    fn new(value: i64) -> Self {
        Self(AtomicI64::new(value))
    }

    /// The number.
    fn get(&self) -> i64 {
        self.0.load(Ordering::Acquire)
    }

    /// Make it this number.
    fn set(&self, value: i64) {
        self.0.store(value, Ordering::Release);
    }

    /// Add `n`, and return the new number.
    #[pyo3(signature = (n=1))]
    fn add(&self, n: i64) -> PyResult<i64> {
        self.change(|value| value.checked_add(n)).map(|(_, after)| after)
    }

    /// Subtract `n`, and return the new number.
    #[pyo3(signature = (n=1))]
    fn sub(&self, n: i64) -> PyResult<i64> {
        self.change(|value| value.checked_sub(n)).map(|(_, after)| after)
    }

    /// Make it this number, and return what it was.
    fn exchange(&self, value: i64) -> i64 {
        self.0.swap(value, Ordering::AcqRel)
    }

    /// Make it `value` if it is `expected`; return whether it was.
    fn compare_exchange(&self, expected: i64, value: i64) -> bool {
        self.0.compare_exchange(expected, value, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Add `n`, and return what it was.
    #[pyo3(signature = (n=1))]
    fn fetch_add(&self, n: i64) -> PyResult<i64> {
        self.change(|value| value.checked_add(n)).map(|(before, _)| before)
    }

    /// Make it `value` if that is more, and return what it was.
    fn fetch_max(&self, value: i64) -> i64 {
        self.0.fetch_max(value, Ordering::AcqRel)
    }

    /// Make it `value` if that is less, and return what it was.
    fn fetch_min(&self, value: i64) -> i64 {
        self.0.fetch_min(value, Ordering::AcqRel)
    }

    fn __int__(&self) -> i64 {
        self.get()
    }

    fn __index__(&self) -> i64 {
        self.get()
    }

    fn __repr__(&self) -> String {
        format!("AtomicInt({})", self.get())
    }
}

/// A flag of which one thread alone learns that it has set it.
///
/// Thread safety: every method may be called from any thread.
///
/// Example:
///     >>> from manyhands.sync import AtomicFlag
///     >>> begun = AtomicFlag()
///     >>> begun.set(), begun.set(), bool(begun)
///     (True, False, True)
///
/// Source: ``atomic_flag`` of C++, whose ``test_and_set`` tells the contrary: what the flag was.
#[pyclass(frozen, subclass, weakref, module = "manyhands.sync")]
pub(crate) struct AtomicFlag(AtomicBool);

#[pymethods]
impl AtomicFlag {
    #[new]
    #[pyo3(signature = (value=false))]
    fn new(value: bool) -> Self {
        Self(AtomicBool::new(value))
    }

    /// Set it; return whether it was not set before, so that the caller is the one who did.
    fn set(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// Take it back; return whether it was set before.
    fn clear(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }

    /// Whether it is set.
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn __bool__(&self) -> bool {
        self.is_set()
    }

    fn __repr__(&self) -> &'static str {
        if self.is_set() { "AtomicFlag(True)" } else { "AtomicFlag(False)" }
    }
}
