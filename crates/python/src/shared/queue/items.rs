//! Items of a shared queue: what they are in its memory, and what becomes of them outside.
//!
//! Bytes go as they are, simple values as [`wire`] writes them, everything else is pickled. Of a large pickle the parts
//! that the pickler leaves out, the memory of arrays say, are copied from where they are to the queue, and from there to
//! where they stay.
//!
//! A pickle is code. It comes out of memory that only processes of the same user can open, and that somebody gave this
//! one on purpose: whoever could write it there could as well have sent the call.

use std::io;

use manyhands_engine::shared::queue::{self, Cursor, Draft, Failure, Long, SHORT, Take};
use manyhands_os::shared::{Shared, wait};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyMemoryError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyList, PyMemoryView};

use super::super::corrupt;
use crate::native::{self, Filling};
use crate::pickle::{self, Parts, Pickled, Weight};
use crate::reading::Reading;
use crate::{view, wire};

pub(super) type Rules<'a> = queue::Queue<'a, Shared>;

const BYTES: u8 = 1;
const BYTEARRAY: u8 = 2;
/// As `wire` writes it.
const VALUE: u8 = 3;
const PICKLE: u8 = 4;
/// The lengths of the parts of a large pickle, and these.
const PARTS: u8 = 5;

/// Whoever copies more lets others run meanwhile.
const QUICK: usize = 256 << 10;
/// The most that is copied from memory of others at a time: a page's worth, which stays in the cache.
const BITE: usize = 4096;
/// The most parts of a pickle.
const MOST_PARTS: usize = 1 << 20;

/// An item on its way into the queue, as its object gave it.
pub(super) struct Item<'py> {
    tag: u8,
    source: Source<'py>,
}

enum Source<'py> {
    Object(Bound<'py, PyBytes>),
    Own(Vec<u8>),
    Parts(Parts),
}

impl<'py> Item<'py> {
    pub(super) fn new(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = object.cast_exact::<PyBytes>() {
            return Ok(Self { tag: BYTES, source: Source::Object(bytes.clone()) });
        }
        // Room for what is short, so that it is allocated once.
        let mut bytes = Vec::with_capacity(64);
        if wire::encode_simple(object, &mut bytes) {
            return Ok(Self { tag: VALUE, source: Source::Own(bytes) });
        }
        if let Ok(array) = object.cast_exact::<PyByteArray>() {
            return Ok(Self { tag: BYTEARRAY, source: Source::Own(array.to_vec()) });
        }
        if object.is_exact_instance_of::<PyMemoryView>() {
            let bytes = object.py().get_type::<PyBytes>().call1((object,))?.cast_into()?;
            return Ok(Self { tag: BYTES, source: Source::Object(bytes) });
        }
        Ok(match Pickled::new(object, Weight::of(object))? {
            Pickled::Small(bytes) => Self { tag: PICKLE, source: Source::Own(bytes) },
            Pickled::Large(parts) => Self { tag: PARTS, source: Source::Parts(parts) },
        })
    }

    pub(super) const fn tag(&self) -> u8 {
        self.tag
    }

    /// Its length in the queue.
    pub(super) fn len(&self) -> usize {
        match &self.source {
            Source::Object(bytes) => bytes.as_bytes().len(),
            Source::Own(bytes) => bytes.len(),
            Source::Parts(parts) => {
                let (stream, buffers) = parts.pieces();
                let pieces = stream.iter().chain(buffers);
                let heads = (2 + stream.len() + buffers.len()) * size_of::<u64>();
                heads
                    + pieces.map(|piece| piece.len_bytes().next_multiple_of(size_of::<u64>())).sum::<usize>()
            }
        }
    }

    pub(super) fn is_short(&self) -> bool {
        self.tag != PARTS && self.len() <= SHORT
    }

    /// What is put if it is short.
    pub(super) fn draft<'a>(&self) -> Draft<'_, 'a, Shared> {
        Draft::Short(match &self.source {
            Source::Object(bytes) => bytes.as_bytes(),
            Source::Own(bytes) => bytes,
            Source::Parts(_) => &[],
        })
    }

    /// Writes it to pages of its own; `None` if there are not enough.
    pub(super) fn store<'a>(&self, py: Python<'_>, rules: &Rules<'a>) -> PyResult<Option<Long<'a, Shared>>> {
        let fill = |cursor: &mut Cursor<'_, 'a, Shared>| match &self.source {
            Source::Object(bytes) => write(py, cursor, bytes.as_bytes()),
            Source::Own(bytes) => write(py, cursor, bytes),
            Source::Parts(parts) => write_parts(py, cursor, parts),
        };
        rules.store(wait::me(), self.len(), fill)
    }
}

fn write(py: Python<'_>, cursor: &mut Cursor<'_, '_, Shared>, bytes: &[u8]) -> PyResult<()> {
    in_turn(py, bytes.len(), || cursor.write(bytes)).ok_or_else(corrupt)
}

fn in_turn<R: Send>(py: Python<'_>, len: usize, body: impl FnOnce() -> R + Send) -> R {
    if len < QUICK { body() } else { py.detach(body) }
}

fn write_parts(py: Python<'_>, cursor: &mut Cursor<'_, '_, Shared>, parts: &Parts) -> PyResult<()> {
    let (stream, buffers) = parts.pieces();
    in_turn(py, parts.len(), || {
        let lens = stream.iter().chain(buffers).map(|piece| piece.len_bytes());
        for head in [stream.len(), buffers.len()].into_iter().chain(lens) {
            cursor.write(&(head as u64).to_le_bytes())?;
        }
        stream.iter().chain(buffers).try_for_each(|piece| write_piece(cursor, piece))
    })
    .ok_or_else(corrupt)
}

/// Copies memory that others may write meanwhile, bite by bite.
fn write_piece(cursor: &mut Cursor<'_, '_, Shared>, piece: &PyBuffer<u8>) -> Option<()> {
    let mut bite = [0; BITE];
    (0..piece.len_bytes()).step_by(BITE).try_for_each(|start| {
        let bite = bite.get_mut(..BITE.min(piece.len_bytes() - start))?;
        view::copy(piece, start, bite)?;
        cursor.write(bite)
    })
}

/// The object of an item that was taken; `None` if there was none.
pub(super) fn object<'py>(py: Python<'py>, taken: Take<'_, Shared>) -> PyResult<Option<Bound<'py, PyAny>>> {
    match taken {
        Take::Short(tag, bytes) => short_object(py, tag, &bytes).map(Some),
        Take::Long(tag, long) => long_object(py, tag, &long).map(Some),
        Take::Empty | Take::Shut => Ok(None),
    }
}

fn short_object<'py>(py: Python<'py>, tag: u8, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match tag {
        BYTES => Ok(PyBytes::new(py, bytes).into_any()),
        BYTEARRAY => Ok(PyByteArray::new(py, bytes).into_any()),
        VALUE => wire::Reader::new(bytes).decode(py),
        PICKLE => pickle::load(py, bytes),
        _ => Err(corrupt()),
    }
}

fn long_object<'py>(py: Python<'py>, tag: u8, long: &Long<'_, Shared>) -> PyResult<Bound<'py, PyAny>> {
    let mut cursor = long.cursor();
    match tag {
        BYTES => Ok(read_bytes(py, &mut cursor, long.len())?.into_any()),
        BYTEARRAY => Ok(read_array(py, &mut cursor, long.len())?.into_any()),
        VALUE => wire::Reader::new(&read_own(py, &mut cursor, long.len())?).decode(py),
        PICKLE => {
            let stream = read_bytes(py, &mut cursor, long.len())?;
            let _reading = Reading::begin();
            pickle::loads(py)?.call1((stream,))
        }
        PARTS => read_parts(py, &mut cursor, long.len()),
        _ => Err(corrupt()),
    }
}

fn read(py: Python<'_>, cursor: &mut Cursor<'_, '_, Shared>, bytes: &mut [u8]) -> PyResult<()> {
    in_turn(py, bytes.len(), || cursor.read(bytes)).ok_or_else(corrupt)
}

fn read_own(py: Python<'_>, cursor: &mut Cursor<'_, '_, Shared>, len: usize) -> PyResult<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(io::Error::from)?;
    bytes.resize(len, 0);
    read(py, cursor, &mut bytes)?;
    Ok(bytes)
}

fn read_bytes<'py>(
    py: Python<'py>,
    cursor: &mut Cursor<'_, '_, Shared>,
    len: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let copy =
        |target: &mut Filling| in_turn(py, len, || cursor.visit(len, |words, len| target.append(words, len)));
    native::new_bytes(py, len, copy)?.ok_or_else(corrupt)
}

fn read_array<'py>(
    py: Python<'py>,
    cursor: &mut Cursor<'_, '_, Shared>,
    len: usize,
) -> PyResult<Bound<'py, PyByteArray>> {
    PyByteArray::new_with(py, len, |bytes| read(py, cursor, bytes))
}

fn read_parts<'py>(
    py: Python<'py>,
    cursor: &mut Cursor<'_, '_, Shared>,
    most: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let mut number = || {
        let mut word = [0; size_of::<u64>()];
        cursor.read(&mut word)?;
        usize::try_from(u64::from_le_bytes(word)).ok().filter(|number| *number <= most)
    };
    let counts = [number(), number()].map(|count| count.filter(|count| *count <= MOST_PARTS));
    let [Some(chunks), Some(buffers)] = counts else { return Err(corrupt()) };
    let lens: Option<Vec<usize>> = (0..chunks + buffers).map(|_| number()).collect();
    let lens = lens.ok_or_else(corrupt)?;
    let (chunks, buffers) = lens.split_at(chunks);
    let len = chunks.iter().try_fold(0_usize, |sum, len| sum.checked_add(*len)).filter(|len| *len <= most);
    let stream = PyBytes::new_with(py, len.ok_or_else(corrupt)?, |mut stream| {
        for len in chunks {
            let (chunk, rest) = std::mem::take(&mut stream).split_at_mut_checked(*len).ok_or_else(corrupt)?;
            read(py, cursor, chunk)?;
            stream = rest;
        }
        Ok(())
    })?;
    let buffers = buffers.iter().map(|len| read_array(py, cursor, *len)).collect::<PyResult<Vec<_>>>()?;
    let keywords = PyDict::new(py);
    keywords.set_item(pyo3::intern!(py, "buffers"), PyList::new(py, buffers)?)?;
    let _reading = Reading::begin();
    pickle::loads(py)?.call((stream,), Some(&keywords))
}

pub(super) fn failed(failure: Failure<io::Error>) -> PyErr {
    match failure {
        Failure::Corrupt => corrupt(),
        Failure::Memory(error) if error.kind() == io::ErrorKind::OutOfMemory => {
            PyMemoryError::new_err(format!("could not enlarge a shared Queue: {error}"))
        }
        Failure::Memory(error) => error.into(),
        Failure::TooLarge => PyValueError::new_err(
            "could not put an item: found more bytes than a shared Queue takes, expected 256 GiB in all at most",
        ),
    }
}
