//! Keys of a shared dict as bytes: equal keys have equal bytes, in every process.
//!
//! What Python calls equal is one key, as in a `dict`: `1`, `1.0` and `True`. It is read back as the simplest of them.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyFloat, PyInt, PyString, PyTuple};

use super::corrupt;

const NONE: u8 = 0;
const WHOLE: u8 = 1;
/// A whole number beyond 64 bits, in decimal digits.
const LARGE: u8 = 2;
const FLOAT: u8 = 3;
const TEXT: u8 = 4;
const BYTES: u8 = 5;
const TUPLE: u8 = 6;
/// Tuples in tuples, no deeper than this: whoever reads them does so on his stack.
const DEEPEST: u32 = 50;

/// The bytes of a key.
///
/// # Errors
/// `TypeError` for what cannot be one.
pub(super) fn encode(key: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let mut bytes = Vec::with_capacity(32);
    push(key, &mut bytes, DEEPEST)?;
    Ok(bytes)
}

fn push(key: &Bound<'_, PyAny>, out: &mut Vec<u8>, depth: u32) -> PyResult<()> {
    if let Ok(text) = key.cast::<PyString>() {
        push_long(TEXT, text.to_str()?.as_bytes(), out)
    } else if key.is_instance_of::<PyInt>() {
        push_whole(key, out)
    } else if let Ok(bytes) = key.cast::<PyBytes>() {
        push_long(BYTES, bytes.as_bytes(), out)
    } else if let Ok(number) = key.cast::<PyFloat>() {
        let value = number.value();
        // Beyond 2**53 all are whole, and whole ones are equal to whole numbers.
        if value.fract() == 0.0 {
            return push_whole(&key.call_method0(pyo3::intern!(key.py(), "__int__"))?, out);
        }
        push_word(FLOAT, value.to_le_bytes(), out);
        Ok(())
    } else if key.is_none() {
        out.push(NONE);
        Ok(())
    } else if let (Ok(tuple), true) = (key.cast::<PyTuple>(), depth > 0) {
        out.push(TUPLE);
        out.extend_from_slice(&len(tuple.len())?.to_le_bytes());
        tuple.iter_borrowed().try_for_each(|element| push(&element, out, depth - 1))
    } else {
        Err(PyTypeError::new_err(format!(
            "could not use a key: found {}, expected a string, bytes, a number, None or a tuple of these",
            key.get_type().name()?
        )))
    }
}

fn push_whole(key: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> PyResult<()> {
    if let Ok(number) = key.extract::<i64>() {
        push_word(WHOLE, number.to_le_bytes(), out);
        return Ok(());
    }
    let py = key.py();
    let number = py.get_type::<PyInt>().call1((key,))?;
    let digits = number.call_method1(pyo3::intern!(py, "__format__"), ("x",))?;
    push_long(LARGE, digits.cast::<PyString>()?.to_str()?.as_bytes(), out)
}

fn push_word(tag: u8, word: [u8; 8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&word);
}

fn push_long(tag: u8, bytes: &[u8], out: &mut Vec<u8>) -> PyResult<()> {
    out.push(tag);
    out.extend_from_slice(&len(bytes.len())?.to_le_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

fn len(len: usize) -> PyResult<u32> {
    u32::try_from(len).map_err(|_| PyTypeError::new_err("could not use a key: it is too long"))
}

/// The key that bytes stand for, which another process may have written.
pub(super) fn decode<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    read(py, &mut { bytes }, DEEPEST)
}

fn read<'py>(py: Python<'py>, bytes: &mut &[u8], depth: u32) -> PyResult<Bound<'py, PyAny>> {
    let [tag] = take(bytes)?;
    Ok(match tag {
        NONE => py.None().into_bound(py),
        WHOLE => PyInt::new(py, i64::from_le_bytes(take(bytes)?)).into_any(),
        FLOAT => PyFloat::new(py, f64::from_le_bytes(take(bytes)?)).into_any(),
        LARGE => py.get_type::<PyInt>().call1((text(bytes)?, 16))?,
        TEXT => PyString::new(py, text(bytes)?).into_any(),
        BYTES => PyBytes::new(py, long(bytes)?).into_any(),
        TUPLE if depth > 0 => {
            let count = u32::from_le_bytes(take(bytes)?);
            let elements: Vec<_> = (0..count).map(|_| read(py, bytes, depth - 1)).collect::<PyResult<_>>()?;
            PyTuple::new(py, elements)?.into_any()
        }
        _ => return Err(corrupt()),
    })
}

fn take<const N: usize>(bytes: &mut &[u8]) -> PyResult<[u8; N]> {
    let (head, tail) = bytes.split_first_chunk::<N>().ok_or_else(corrupt)?;
    *bytes = tail;
    Ok(*head)
}

fn long<'a>(bytes: &mut &'a [u8]) -> PyResult<&'a [u8]> {
    let len = u32::from_le_bytes(take(bytes)?);
    let len = usize::try_from(len).map_err(|_| corrupt())?;
    let (head, tail) = bytes.split_at_checked(len).ok_or_else(corrupt)?;
    *bytes = tail;
    Ok(head)
}

fn text<'a>(bytes: &mut &'a [u8]) -> PyResult<&'a str> {
    std::str::from_utf8(long(bytes)?).map_err(|_| corrupt())
}
