//! Python values as bytes, for items that go to worker processes by the thousand.
//!
//! What a simple function takes and gives (None, booleans, whole numbers of 64 bits, floats, strings, bytes, and tuples
//! of these) is written as a tag and its value, which takes a tenth of the time of pickling it. Everything else is
//! pickled. Failures have a tag of their own.
//!
//! A value is read back by whoever shares the memory with a process that runs anybody's code: every length is checked.

use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyString, PyTuple};

use crate::bulk::Manner;
use crate::parcel;

const NONE: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const WHOLE: u8 = 3;
const FLOAT: u8 = 4;
const TEXT: u8 = 5;
const BYTES: u8 = 6;
const TUPLE: u8 = 7;
const PICKLE: u8 = 8;
const FAILURE: u8 = 9;

/// Tuples with more elements are pickled.
const MOST_ELEMENTS: usize = u8::MAX as usize;

/// Appends a value.
///
/// # Errors
/// What pickling raised; nothing is appended then.
pub(crate) fn encode(value: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> PyResult<()> {
    if !encode_simple(value, out) {
        push_long(PICKLE, &parcel::dump(value)?, out);
    }
    Ok(())
}

/// Appends a value that need not be pickled; `false`, and nothing appended, for any other.
pub(crate) fn encode_simple(value: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> bool {
    encode_scalar(value, out) || encode_tuple(value, out)
}

/// How long an item took, and how much of that on a processor if that was measured.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) wall: Duration,
    pub(crate) cpu: Option<Duration>,
}

/// Appends times.
pub(crate) fn encode_times(times: Times, out: &mut Vec<u8>) {
    for time in [Some(times.wall), times.cpu].into_iter().flatten() {
        out.extend(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
    }
}

/// Appends the failure of an item that nobody has worked on to its end, but for so long.
pub(crate) fn encode_failed_item(pickled: &[u8], manner: Manner, wall: Duration, out: &mut Vec<u8>) {
    if manner.is_timed {
        encode_times(Times { wall, cpu: manner.is_measured.then_some(Duration::ZERO) }, out);
    }
    encode_failure(pickled, out);
}

/// Appends a failure: the pickled pair of an exception and its traceback's text.
pub(crate) fn encode_failure(pickled: &[u8], out: &mut Vec<u8>) {
    push_long(FAILURE, pickled, out);
}

/// Appends a value of a simple type; `false`, and nothing appended, for any other.
fn encode_scalar(value: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> bool {
    if let Ok(number) = value.cast_exact::<PyInt>() {
        let Ok(number) = number.extract::<i64>() else { return false };
        push_word(WHOLE, number.to_le_bytes(), out);
    } else if let Ok(number) = value.cast_exact::<PyFloat>() {
        push_word(FLOAT, number.value().to_le_bytes(), out);
    } else if let Ok(text) = value.cast_exact::<PyString>() {
        // A lone surrogate has no UTF-8.
        let Ok(text) = text.to_str() else { return false };
        push_long(TEXT, text.as_bytes(), out);
    } else if value.is_none() {
        out.push(NONE);
    } else if let Ok(truth) = value.cast_exact::<PyBool>() {
        out.push(if truth.is_true() { TRUE } else { FALSE });
    } else if let Ok(bytes) = value.cast_exact::<PyBytes>() {
        push_long(BYTES, bytes.as_bytes(), out);
    } else {
        return false;
    }
    true
}

/// Appends a tuple of simple values. Others are pickled as a whole, so that what they share stays shared.
fn encode_tuple(value: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> bool {
    let Ok(tuple) = value.cast_exact::<PyTuple>() else { return false };
    if tuple.len() > MOST_ELEMENTS {
        return false;
    }
    let before = out.len();
    out.extend([TUPLE, u8::try_from(tuple.len()).unwrap_or(u8::MAX)]);
    if tuple.iter_borrowed().all(|element| encode_scalar(&element, out)) {
        return true;
    }
    out.truncate(before);
    false
}

/// Begins a tuple of so many values, which are to follow.
pub(crate) fn begin_tuple(count: u8, out: &mut Vec<u8>) {
    out.extend([TUPLE, count]);
}

/// Appends a whole number.
pub(crate) fn push_whole(number: i64, out: &mut Vec<u8>) {
    push_word(WHOLE, number.to_le_bytes(), out);
}

/// Appends a text.
pub(crate) fn push_text(text: &str, out: &mut Vec<u8>) {
    push_long(TEXT, text.as_bytes(), out);
}

/// Appends a byte string.
pub(crate) fn push_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    push_long(BYTES, bytes, out);
}

fn push_word(tag: u8, word: [u8; 8], out: &mut Vec<u8>) {
    let mut bytes = [tag; 9];
    bytes[1..].copy_from_slice(&word);
    out.extend_from_slice(&bytes);
}

fn push_long(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// A value that somebody reads without the interpreter.
pub(crate) enum Raw<'a> {
    Nothing,
    Bytes(&'a [u8]),
    /// The pickled pair of an exception and its traceback's text.
    Failure(&'a [u8]),
}

/// Reads values one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// How many bytes are left.
    pub(crate) fn remaining(&self) -> usize {
        self.0.len()
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    fn long(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(u64::from_le_bytes(self.take()?)).ok()?;
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    /// The times before a value.
    pub(crate) fn times(&mut self, is_measured: bool) -> PyResult<Times> {
        let mut time = || self.take().map(u64::from_le_bytes).map(Duration::from_nanos).ok_or_else(malformed);
        Ok(Times { wall: time()?, cpu: is_measured.then(time).transpose()? })
    }

    /// The next value; `Err` for a failure, as what was raised.
    pub(crate) fn decode<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let [tag] = self.take().ok_or_else(malformed)?;
        match tag {
            TUPLE => {
                let [count] = self.take().ok_or_else(malformed)?;
                let elements = (0..count).map(|_| {
                    let [tag] = self.take().ok_or_else(malformed)?;
                    self.scalar(py, tag)
                });
                let elements: Vec<_> = elements.collect::<PyResult<_>>()?;
                Ok(PyTuple::new(py, elements)?.into_any())
            }
            PICKLE => parcel::load(py, self.long().ok_or_else(malformed)?),
            FAILURE => Err(parcel::read_failure(py, self.long().ok_or_else(malformed)?)),
            tag => self.scalar(py, tag),
        }
    }

    /// The next value, of those that need no interpreter.
    pub(crate) fn raw(&mut self) -> PyResult<Raw<'a>> {
        let [tag] = self.take().ok_or_else(malformed)?;
        match tag {
            NONE => Ok(Raw::Nothing),
            BYTES => Ok(Raw::Bytes(self.long().ok_or_else(malformed)?)),
            FAILURE => Ok(Raw::Failure(self.long().ok_or_else(malformed)?)),
            _ => Err(malformed()),
        }
    }

    fn scalar<'py>(&mut self, py: Python<'py>, tag: u8) -> PyResult<Bound<'py, PyAny>> {
        Ok(match tag {
            NONE => py.None().into_bound(py),
            FALSE | TRUE => PyBool::new(py, tag == TRUE).to_owned().into_any(),
            WHOLE => i64::from_le_bytes(self.take().ok_or_else(malformed)?).into_pyobject(py)?.into_any(),
            FLOAT => PyFloat::new(py, f64::from_le_bytes(self.take().ok_or_else(malformed)?)).into_any(),
            TEXT => {
                let text =
                    std::str::from_utf8(self.long().ok_or_else(malformed)?).map_err(|_| malformed())?;
                PyString::new(py, text).into_any()
            }
            BYTES => PyBytes::new(py, self.long().ok_or_else(malformed)?).into_any(),
            _ => return Err(malformed()),
        })
    }
}

fn malformed() -> PyErr {
    PyRuntimeError::new_err("could not read what another process sent: found bytes that are no value")
}
