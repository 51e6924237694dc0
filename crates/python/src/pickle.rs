//! Objects as bytes for another process of the same program.
//!
//! What is small is a byte string. Of what is large the parts stay where they are until they are copied, once, to where
//! the other process reads them: the stream of the pickle, and the buffers (of arrays, say) that pickle's protocol 5
//! leaves out of the stream. A large `bytes` or `bytearray` is no such buffer, but the pickler hands it to a file as it
//! is, so the stream has it without a copy, too.
//!
//! The standard pickler is fast, but sends what lives in `__main__` by name only, which a worker cannot find there, and
//! refuses lambdas. What it refuses, or names `__main__`, is pickled again by cloudpickle, which sends it by value.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use manyhands_engine::parts::Layout;
use manyhands_os::segment::Segment;
use manyhands_os::stock::{Loan, Stock};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyNone, PyString, PyTuple};

use crate::reading::Reading;
use crate::view;

/// From this size on, bytes are not worth passing through rings: to copy them four times takes as long as to map a
/// segment.
pub(crate) const LARGE: usize = 64 << 10;
/// Below this size a thread copies without letting others run: to get its turn back may take it longer.
const QUICK: usize = 1 << 20;
/// Chunks of the stream that are longer hold an object of the user's alone: the pickler ends a frame at 64 KiB.
const LONGEST_FRAME: usize = 128 << 10;

/// A pickled object.
pub(crate) enum Pickled {
    Small(Vec<u8>),
    Large(Parts),
}

impl Pickled {
    /// Pickles `object`; its `weight` decides how.
    pub(crate) fn new(object: &Bound<'_, PyAny>, weight: Weight) -> PyResult<Self> {
        match pickle_plainly(object, weight) {
            Ok(Some(pickled)) => Ok(pickled),
            _ => pickle_by_value(object),
        }
    }

    fn of_stream(stream: &Bound<'_, PyBytes>, buffers: Vec<PyBuffer<u8>>) -> PyResult<Self> {
        if buffers.is_empty() && stream.as_bytes().len() < LARGE {
            return Ok(Self::Small(stream.as_bytes().to_vec()));
        }
        Parts::new(vec![PyBuffer::get(stream)?], buffers).map(Self::Large)
    }
}

/// The parts of a large pickle: first the stream, then the buffers that it leaves out.
pub(crate) struct Parts {
    /// One after the other.
    stream: Vec<PyBuffer<u8>>,
    buffers: Vec<PyBuffer<u8>>,
    layout: Layout,
}

impl Parts {
    fn new(stream: Vec<PyBuffer<u8>>, buffers: Vec<PyBuffer<u8>>) -> PyResult<Self> {
        let len = stream.iter().map(|part| part.len_bytes()).sum();
        let lens = std::iter::once(len).chain(buffers.iter().map(|part| part.len_bytes()));
        let layout = Layout::new(lens).ok_or_else(|| {
            pyo3::exceptions::PyMemoryError::new_err("the object is larger than any memory")
        })?;
        Ok(Self { stream, buffers, layout })
    }

    /// The pieces of the stream, and the buffers.
    pub(crate) fn pieces(&self) -> (&[PyBuffer<u8>], &[PyBuffer<u8>]) {
        (&self.stream, &self.buffers)
    }

    /// How many bytes the whole takes.
    pub(crate) fn len(&self) -> usize {
        self.layout.end()
    }

    /// Whether whoever reads it should remember the segment: nothing looks into it once it is read, and the next will
    /// soon come in the same.
    pub(crate) fn is_memorable(&self) -> bool {
        self.buffers.is_empty() && self.len() <= view::MEMORABLE
    }

    /// Copies the whole into `target`, which is large enough.
    pub(crate) fn fill(&self, py: Python<'_>, target: &mut Segment) -> std::io::Result<()> {
        self.in_turn(py, || {
            let mut offset = 0;
            for word in self.layout.words() {
                target.fill(offset, &word.to_le_bytes())?;
                offset += size_of::<u64>();
            }
            self.each(|offset, piece| view::fill(target, offset, piece))
        })
    }

    /// A segment for the whole, for good.
    pub(crate) fn take_from(&self, py: Python<'_>, stock: &Stock) -> std::io::Result<Segment> {
        self.in_turn(py, || stock.take(self.len()))
    }

    /// A segment for the whole, on loan.
    ///
    /// # Errors
    /// If there is no room, or many are lent already.
    pub(crate) fn lend(&self, py: Python<'_>, stock: &Arc<Stock>) -> std::io::Result<Loan> {
        self.in_turn(py, || stock.lend(self.len(), false))
    }

    /// The whole as bytes.
    pub(crate) fn to_bytes(&self, py: Python<'_>) -> PyResult<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(self.len()).map_err(std::io::Error::from)?;
        bytes.extend(self.layout.words().flat_map(u64::to_le_bytes));
        bytes.resize(self.len(), 0);
        self.each(|offset, piece| {
            let target = bytes.get_mut(offset..offset + piece.len_bytes());
            target.map_or(Ok(()), |target| piece.copy_to_slice(py, target))
        })?;
        Ok(bytes)
    }

    fn in_turn<R: Send>(&self, py: Python<'_>, body: impl FnOnce() -> R + Send) -> R {
        if self.len() < QUICK { body() } else { py.detach(body) }
    }

    /// Visits the pieces with their places, in order.
    fn each<E>(&self, mut visit: impl FnMut(usize, &PyBuffer<u8>) -> Result<(), E>) -> Result<(), E> {
        let mut starts = self.layout.parts().iter().map(|part| part.start);
        let mut offset = starts.next().unwrap_or(0);
        for chunk in &self.stream {
            visit(offset, chunk)?;
            offset += chunk.len_bytes();
        }
        self.buffers.iter().zip(starts).try_for_each(|(buffer, start)| visit(start, buffer))
    }

    /// Whether a frame of the stream has the name; chunks that are longer than any are the user's bytes.
    fn names_main(&self, py: Python<'_>) -> PyResult<bool> {
        for frame in self.stream.iter().filter(|chunk| chunk.len_bytes() <= LONGEST_FRAME) {
            if names_main(&frame.to_vec(py)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What is known of an object's size without looking into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    Light,
    Unknown,
    /// It has a large byte string, which is not copied if the pickler is given a file.
    Heavy,
}

impl Weight {
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> Self {
        let by_len = |len: usize| if len < LARGE { Self::Light } else { Self::Heavy };
        if object.is_exact_instance_of::<PyInt>()
            || object.is_exact_instance_of::<PyFloat>()
            || object.is_exact_instance_of::<PyBool>()
            || object.is_exact_instance_of::<PyNone>()
        {
            Self::Light
        } else if let Ok(bytes) = object.cast_exact::<PyBytes>() {
            by_len(bytes.as_bytes().len())
        } else if object.is_exact_instance_of::<PyString>() || object.is_exact_instance_of::<PyByteArray>() {
            object.len().map_or(Self::Unknown, by_len)
        } else {
            Self::Unknown
        }
    }

    /// The weight of a call's arguments.
    pub(crate) fn of_call(args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        let mut weight = Self::Light;
        let values = kwargs.into_iter().flat_map(|kwargs| kwargs.iter().map(|(_, value)| value));
        for value in args.iter().chain(values) {
            match Self::of(&value) {
                Self::Light => {}
                Self::Unknown => weight = Self::Unknown,
                Self::Heavy => return Self::Heavy,
            }
        }
        weight
    }
}

/// Pickles with the standard pickler; `None` if a worker would not find what it names.
fn pickle_plainly(object: &Bound<'_, PyAny>, weight: Weight) -> PyResult<Option<Pickled>> {
    static PICKLER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = object.py();
    if weight == Weight::Heavy {
        let keeper = Bound::new(py, Keeper::default())?;
        let pickler = PICKLER.import(py, "_pickle", "Pickler")?;
        let pickler = pickler.call((&keeper, 5), Some(&callback(&keeper)?))?;
        pickler.call_method1(pyo3::intern!(py, "dump"), (object,))?;
        let Kept { stream, buffers } = keeper.get().take();
        let parts = Parts::new(stream, buffers)?;
        return Ok(if parts.names_main(py)? { None } else { Some(Pickled::Large(parts)) });
    }
    let (stream, buffers) = if weight == Weight::Light {
        (dumps(py)?.call1((object, 5))?, Vec::new())
    } else {
        let keeper = Bound::new(py, Keeper::default())?;
        let stream = dumps(py)?.call((object, 5), Some(&callback(&keeper)?))?;
        (stream, keeper.get().take().buffers)
    };
    let stream = stream.cast_into::<PyBytes>()?;
    if names_main(stream.as_bytes()) { Ok(None) } else { Pickled::of_stream(&stream, buffers).map(Some) }
}

fn pickle_by_value(object: &Bound<'_, PyAny>) -> PyResult<Pickled> {
    let keeper = Bound::new(object.py(), Keeper::default())?;
    let stream = dumps_by_value(object.py())?.call((object,), Some(&callback(&keeper)?))?;
    Pickled::of_stream(stream.cast::<PyBytes>()?, keeper.get().take().buffers)
}

fn callback<'py>(keeper: &Bound<'py, Keeper>) -> PyResult<Bound<'py, PyDict>> {
    let keywords = PyDict::new(keeper.py());
    keywords.set_item(pyo3::intern!(keeper.py(), "buffer_callback"), keeper)?;
    Ok(keywords)
}

fn dumps(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    DUMPS.import(py, "_pickle", "dumps")
}

/// What the pickler gives away, as its file and as its callback for buffers.
#[pyclass(frozen)]
#[derive(Default)]
struct Keeper(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    stream: Vec<PyBuffer<u8>>,
    buffers: Vec<PyBuffer<u8>>,
}

impl Keeper {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Kept {
        std::mem::take(&mut self.kept())
    }
}

#[pymethods]
impl Keeper {
    /// A piece of the stream.
    fn write(&self, piece: &Bound<'_, PyAny>) -> PyResult<()> {
        let is_kept = piece.is_exact_instance_of::<PyBytes>() || piece.is_exact_instance_of::<PyByteArray>();
        // Others may be views of memory that is the pickler's only for the time of this call.
        let buffer = if is_kept {
            PyBuffer::get(piece)
        } else {
            PyBuffer::get(&piece.py().get_type::<PyBytes>().call1((piece,))?)
        }?;
        self.kept().stream.push(buffer);
        Ok(())
    }

    /// A buffer; true if it shall be part of the stream.
    fn __call__(&self, buffer: &Bound<'_, PyAny>) -> PyResult<bool> {
        // Only a contiguous one has raw bytes; else the pickler says what it thinks of the other.
        let Ok(raw) = buffer.call_method0(pyo3::intern!(buffer.py(), "raw")) else { return Ok(true) };
        let raw = PyBuffer::get(&raw)?;
        let is_large = raw.len_bytes() >= LARGE;
        if is_large {
            self.kept().buffers.push(raw);
        }
        Ok(!is_large)
    }
}

/// Pickles an object as one byte string.
pub(crate) fn dump(object: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let plain = dumps(object.py())?.call1((object, 5)).and_then(|bytes| Ok(bytes.cast_into::<PyBytes>()?));
    match plain {
        Ok(bytes) if !names_main(bytes.as_bytes()) => Ok(bytes.as_bytes().to_vec()),
        _ => dump_by_value(object),
    }
}

fn names_main(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, b"__main__").is_some()
}

/// Pickles with cloudpickle, which sends by value what cannot be imported by name.
pub(crate) fn dump_by_value(object: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let bytes = dumps_by_value(object.py())?.call1((object,))?;
    Ok(bytes.cast_into::<PyBytes>()?.as_bytes().to_vec())
}

fn dumps_by_value(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    DUMPS.import(py, "manyhands.executors._pickling", "dumps_by_value")
}

/// Reads what [`dump`] wrote. Only bytes of the pool's own workers come here: pickle is code.
pub(crate) fn load<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let _reading = Reading::begin();
    loads(py)?.call1((PyBytes::new(py, bytes),))
}

pub(crate) fn loads(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    LOADS.import(py, "_pickle", "loads")
}
