//! Numbers in a row that processes share, as memory with a type: what numpy and `memoryview` look into without a copy.
//!
//! ```text
//! words 0 to 2  a lock, for changes that take more than one step      3  the type's letter      4  how many
//!       8…      the numbers
//! ```
//!
//! Who is handed the memory as a buffer reads and writes it as he likes, and so do others at the same time; an element
//! is written whole, for it is aligned and no larger than a word.
#![expect(unsafe_code, reason = "lending shared memory to Python objects")]

use std::ffi::{CStr, c_int};
use std::sync::atomic::Ordering;

use pyo3::exceptions::{PyBufferError, PyMemoryError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyMemoryView, PySlice, PyType};

use super::lock::Core;
use super::{Kind, Patience, Place, Reduced, corrupt, create, open, open_shared, reduce};

const ARRAY: Kind = Kind(6, "Array");
const LETTER: usize = 3;
const LEN: usize = 4;
const FIRST: usize = 8;

/// The types, by the letters that the module `array` gives them.
const TYPES: [(char, &CStr, usize); 12] = [
    ('b', c"b", 1),
    ('B', c"B", 1),
    ('h', c"h", 2),
    ('H', c"H", 2),
    ('i', c"i", 4),
    ('I', c"I", 4),
    ('l', c"l", 8),
    ('L', c"L", 8),
    ('q', c"q", 8),
    ('Q', c"Q", 8),
    ('f', c"f", 4),
    ('d', c"d", 8),
];

/// The core of `manyhands.shared.Array`.
#[pyclass(frozen, subclass, name = "SharedArray", module = "manyhands._core")]
pub(crate) struct Array {
    lock: Core,
    format: &'static CStr,
    letter: char,
    /// As a buffer has it, which points here.
    len: [isize; 1],
    item: [isize; 1],
}

impl Array {
    fn view<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyMemoryView>> {
        PyMemoryView::from(slf.as_any())
    }

    /// Others of its type with these numbers.
    fn numbers<'py>(&self, values: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        values.py().import("array")?.getattr("array")?.call1((self.letter, values))
    }
}

fn kind_of(letter: char) -> PyResult<(char, &'static CStr, usize)> {
    TYPES.into_iter().find(|kind| kind.0 == letter).ok_or_else(|| {
        let letters: String = TYPES.iter().map(|kind| kind.0).collect();
        PyValueError::new_err(format!(
            "could not use `typecode`: found {letter:?}, expected one of {letters}"
        ))
    })
}

/// The bytes of the first numbers, and how many there are.
fn contents(letter: char, content: &Bound<'_, PyAny>) -> PyResult<(usize, Vec<u8>)> {
    if content.is_instance_of::<PyInt>() {
        let count: i64 = content.extract()?;
        let count = usize::try_from(count).map_err(|_| {
            PyValueError::new_err(format!(
                "could not make an Array: found {count} numbers, expected 0 or more"
            ))
        })?;
        return Ok((count, Vec::new()));
    }
    let numbers = content.py().import("array")?.getattr("array")?.call1((letter, content))?;
    let bytes = numbers.call_method0("tobytes")?.cast_into::<PyBytes>()?;
    Ok((numbers.len()?, bytes.as_bytes().to_vec()))
}

fn make(
    letter: char,
    content: &Bound<'_, PyAny>,
    name: Option<&str>,
) -> PyResult<manyhands_os::shared::Shared> {
    let (_, _, item) = kind_of(letter)?;
    let (count, bytes) = contents(letter, content)?;
    let words = count.checked_mul(item).and_then(|size| size.div_ceil(8).checked_add(FIRST));
    let words = words.ok_or_else(|| PyMemoryError::new_err("the Array is larger than any memory"))?;
    create(ARRAY, words, name, |words| {
        words[LETTER].store(u64::from(letter), Ordering::Relaxed);
        words[LEN].store(count as u64, Ordering::Relaxed);
        for (word, bytes) in words[FIRST..].iter().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(whole), Ordering::Relaxed);
        }
    })
}

#[pymethods]
impl Array {
    #[new]
    #[pyo3(
        signature = (typecode='d', content=None, *, name=None, place=None),
        text_signature = "(typecode, content, *, name=None)"
    )]
    fn new(
        typecode: char,
        content: Option<&Bound<'_, PyAny>>,
        name: Option<&str>,
        place: Option<Place>,
    ) -> PyResult<Self> {
        let shared = match (place, content) {
            (Some(place), _) => open(place, &[ARRAY], FIRST)?,
            (None, Some(content)) => make(typecode, content, name)?,
            (None, None) => return Err(PyValueError::new_err("could not make an Array: found no `content`")),
        };
        let [letter, len] = [LETTER, LEN].map(|index| shared.words()[index].load(Ordering::Relaxed));
        let letter = u32::try_from(letter).ok().and_then(char::from_u32).ok_or_else(corrupt)?;
        let (letter, format, item) = kind_of(letter)?;
        let size = usize::try_from(len).ok().and_then(|len| len.checked_mul(item)).ok_or_else(corrupt)?;
        if size > shared.len() - FIRST * 8 {
            return Err(corrupt());
        }
        let (len, item) = ([(size / item).cast_signed()], [item.cast_signed()]);
        Ok(Self { lock: Core::new(shared, true), format, letter, len, item })
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

    /// The letter of its type, as in the module `array`.
    #[getter]
    fn typecode(&self) -> char {
        self.letter
    }

    fn __len__(&self) -> usize {
        self.len[0].unsigned_abs()
    }

    fn __getitem__<'py>(slf: &Bound<'py, Self>, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let found = Self::view(slf)?.as_any().get_item(index)?;
        if index.is_instance_of::<PySlice>() { found.call_method0("tolist") } else { Ok(found) }
    }

    fn __setitem__(
        slf: &Bound<'_, Self>,
        index: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let view = Self::view(slf)?;
        if index.is_instance_of::<PySlice>() {
            view.as_any().set_item(index, slf.get().numbers(value)?)
        } else {
            view.as_any().set_item(index, value)
        }
    }

    fn __iter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Ok(Self::view(slf)?.as_any().try_iter()?.into_any())
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

    fn __repr__(&self) -> String {
        format!("<Array {:?} of {}>", self.letter, self.len[0])
    }

    /// # Safety
    /// As the slot of the type: `view` is NULL or may be filled.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("could not lend memory: found no view to fill"));
        }
        let array = slf.get();
        let wants = |flag: c_int| flags & flag == flag;
        let filled = ffi::Py_buffer {
            // Nobody reads the fields of this copy before they are all there.
            buf: array.lock.shared.as_ptr().wrapping_add(FIRST * 8).cast(),
            obj: slf.clone().into_any().into_ptr(),
            len: array.len[0] * array.item[0],
            readonly: 0,
            itemsize: array.item[0],
            format: if wants(ffi::PyBUF_FORMAT) {
                array.format.as_ptr().cast_mut()
            } else {
                std::ptr::null_mut()
            },
            ndim: 1,
            shape: if wants(ffi::PyBUF_ND) { array.len.as_ptr().cast_mut() } else { std::ptr::null_mut() },
            strides: if wants(ffi::PyBUF_STRIDES) {
                array.item.as_ptr().cast_mut()
            } else {
                std::ptr::null_mut()
            },
            suboffsets: std::ptr::null_mut(),
            internal: std::ptr::null_mut(),
        };
        // SAFETY: `view` may be filled, says the caller. What it points to then (the memory, shape and strides in the
        // object, the letter in the program) stays as long as the object, to which it has a reference; `new` has checked
        // that the memory is as long as it says.
        // Breaks if: `new` stops checking, or the fields move. Exercised by: tests/unit/test_shared_values.py.
        unsafe { view.write(filled) };
        Ok(())
    }
}
