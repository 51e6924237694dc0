//! A dict that processes share.
//!
//! Keys and values become bytes before anything is locked and objects again after: under the guard no Python runs.
#![expect(clippy::redundant_closure_for_method_calls, reason = "the methods are of one lifetime, not of all")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use manyhands_engine::shared::dict::{self, Failure, GUARD, LEAST, Value};
use manyhands_os::shared::Shared;
use manyhands_os::shared::wait::Held;
use pyo3::exceptions::{PyKeyError, PyMemoryError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt, PyList, PyTuple, PyType};

use super::lock::Core;
use super::{Kind, Patience, Place, Reduced, corrupt, keys, open, open_shared, reduce, unmade};
use crate::wire;

const DICT: Kind = Kind(12, "Dict");
/// The words that the format leaves to a lock of its users.
const LOCK: usize = dict::SPARE;
/// Whoever copies more lets others run meanwhile.
const QUICK: usize = 1 << 20;

type Rules<'a> = dict::Dict<'a, Shared>;
/// A key and a value, as bytes.
type Pair = (Vec<u8>, Value<Vec<u8>>);
type Outcome<R> = Result<R, Failure<io::Error>>;

/// The core of `manyhands.shared.Dict`.
#[pyclass(frozen, subclass, name = "SharedDict", module = "manyhands._core", generic, mapping)]
pub(crate) struct Dict {
    memory: Arc<Shared>,
    lock: Core,
}

/// A value on its way into the memory.
fn encode(value: &Bound<'_, PyAny>) -> PyResult<Value<Vec<u8>>> {
    if let Ok(number) = value.cast_exact::<PyInt>()
        && let Ok(number) = number.extract()
    {
        return Ok(Value::Int(number));
    }
    if let Ok(number) = value.cast_exact::<PyFloat>() {
        return Ok(Value::Float(number.value()));
    }
    // Room for what is short, so that it is allocated once.
    let mut bytes = Vec::with_capacity(64);
    wire::encode(value, &mut bytes)?;
    Ok(Value::Bytes(bytes))
}

fn lent(value: &Value<Vec<u8>>) -> Value<&[u8]> {
    match value {
        Value::Bytes(bytes) => Value::Bytes(bytes),
        Value::Int(number) => Value::Int(*number),
        Value::Float(number) => Value::Float(*number),
    }
}

fn decode(py: Python<'_>, value: Value<Vec<u8>>) -> PyResult<Bound<'_, PyAny>> {
    match value {
        Value::Bytes(bytes) => wire::Reader::new(&bytes).decode(py),
        Value::Int(number) => Ok(PyInt::new(py, number).into_any()),
        Value::Float(number) => Ok(PyFloat::new(py, number).into_any()),
    }
}

fn size(value: &Value<Vec<u8>>) -> usize {
    if let Value::Bytes(bytes) = value { bytes.len() } else { 8 }
}

fn failed(failure: Failure<io::Error>) -> PyErr {
    match failure {
        Failure::Corrupt => corrupt(),
        Failure::Memory(error) if error.kind() == io::ErrorKind::OutOfMemory => {
            PyMemoryError::new_err(format!("could not enlarge a shared Dict: {error}"))
        }
        Failure::Memory(error) => error.into(),
        Failure::NoNumber => PyTypeError::new_err("could not add to a value: found no number"),
        Failure::Overflow => {
            PyOverflowError::new_err("could not add to a value: the sum does not fit into 64 bits")
        }
        Failure::TooLarge => PyValueError::new_err(
            "could not set a value: found more bytes than a shared Dict takes, expected keys below 16 MiB and values below 4 GiB",
        ),
    }
}

impl Dict {
    /// Does something with the dict while nobody else writes.
    fn guarded<R: Send>(
        &self,
        py: Python<'_>,
        bytes: usize,
        body: impl FnOnce(&Rules<'_>) -> Outcome<R> + Send,
    ) -> PyResult<R> {
        let guard = &self.memory.words()[GUARD];
        let run = |held: Held<'_>| {
            let rules = Rules::new(&self.memory)?;
            if held.is_abandoned() {
                dict::recover(&rules)?;
            }
            body(&rules)
        };
        let at_once = if bytes < QUICK { Held::soon(guard) } else { None };
        match at_once {
            Some(held) => run(held),
            None => py.detach(|| run(Held::now(guard))),
        }
        .map_err(failed)
    }

    fn rules(&self) -> PyResult<Rules<'_>> {
        Rules::new(&self.memory).map_err(failed)
    }

    fn find(&self, py: Python<'_>, key: &[u8]) -> PyResult<Option<Value<Vec<u8>>>> {
        match self.rules()?.peek(key) {
            Some(found) => Ok(found),
            None => self.guarded(py, 0, |rules| rules.get(key)),
        }
    }

    fn entries(&self, py: Python<'_>) -> PyResult<Vec<Pair>> {
        self.guarded(py, QUICK, |rules| rules.entries())
    }

    fn set(&self, py: Python<'_>, key: &[u8], value: &Value<Vec<u8>>) -> PyResult<()> {
        self.guarded(py, size(value), |rules| rules.set(key, &lent(value)))
    }

    fn set_all(&self, py: Python<'_>, pairs: &[Pair]) -> PyResult<()> {
        self.guarded(py, QUICK, |rules| {
            pairs.iter().try_for_each(|(key, value)| rules.set(key, &lent(value)))
        })
    }
}

fn missing(key: &Bound<'_, PyAny>) -> PyErr {
    PyKeyError::new_err((key.clone().unbind(),))
}

/// The pairs of what `dict` would take.
fn pairs(
    py: Python<'_>,
    other: Option<&Bound<'_, PyAny>>,
    keywords: Option<&Bound<'_, PyDict>>,
) -> PyResult<Vec<Pair>> {
    let all = PyDict::new(py);
    if let Some(other) = other {
        all.call_method1(pyo3::intern!(py, "update"), (other,))?;
    }
    if let Some(keywords) = keywords {
        all.update(keywords.as_mapping())?;
    }
    all.iter().map(|(key, value)| Ok((keys::encode(&key)?, encode(&value)?))).collect()
}

#[pymethods]
impl Dict {
    #[new]
    #[pyo3(signature = (content=None, /, *, name=None, place=None), text_signature = "(content=None, /, *, name=None)")]
    fn new(
        py: Python<'_>,
        content: Option<&Bound<'_, PyAny>>,
        name: Option<&str>,
        place: Option<Place>,
    ) -> PyResult<Self> {
        let create = || {
            let seed = fastrand::u64(..);
            let fill = |words: &[AtomicU64]| dict::initialise(words, seed);
            Shared::create_growing(DICT.0, LEAST * size_of::<u64>(), name, fill)
                .map_err(|error| unmade(DICT, name, error))
        };
        let shared = Arc::new(place.map_or_else(create, |place| open(place, &[DICT], LEAST))?);
        let made = Self { memory: Arc::clone(&shared), lock: Core::at(shared, LOCK, true) };
        if let Some(content) = content {
            made.set_all(py, &pairs(py, Some(content), None)?)?;
        }
        Ok(made)
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
        reduce(slf.as_any(), Place::of(&slf.get().memory))
    }

    fn __len__(&self) -> PyResult<usize> {
        usize::try_from(self.rules()?.len()).map_err(|_| corrupt())
    }

    fn __getitem__<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = key.py();
        let found = self.find(py, &keys::encode(key)?)?;
        decode(py, found.ok_or_else(|| missing(key))?)
    }

    fn __setitem__(&self, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.set(key.py(), &keys::encode(key)?, &encode(value)?)
    }

    fn __delitem__(&self, key: &Bound<'_, PyAny>) -> PyResult<()> {
        let bytes = keys::encode(key)?;
        let was_there = self.guarded(key.py(), 0, |rules| rules.remove(&bytes))?;
        if was_there { Ok(()) } else { Err(missing(key)) }
    }

    fn __contains__(&self, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let bytes = keys::encode(key)?;
        match self.rules()?.peek_contains(&bytes) {
            Some(is_there) => Ok(is_there),
            None => Ok(self.find(key.py(), &bytes)?.is_some()),
        }
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.keys(py)?.try_iter()?.into_any())
    }

    /// The value of the key, or the default.
    #[pyo3(signature = (key, default=None, /))]
    fn get<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = key.py();
        match self.find(py, &keys::encode(key)?)? {
            Some(value) => decode(py, value),
            None => Ok(default.unwrap_or_else(|| py.None().into_bound(py))),
        }
    }

    /// Take the key away and return its value, in one step.
    ///
    /// Args:
    ///     key: The key.
    ///     default: What to return if it is not there; without it, that is an error.
    ///
    /// Raises:
    ///     KeyError: It is not there, and there is no default.
    #[pyo3(signature = (key, /, *default), text_signature = "(self, key, default=..., /)")]
    fn pop<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        default: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, bytes) = (key.py(), keys::encode(key)?);
        if default.len() > 1 {
            return Err(PyTypeError::new_err(format!(
                "pop expected 1 or 2 arguments, got {}",
                1 + default.len()
            )));
        }
        let found = self.guarded(py, 0, |rules| {
            let found = rules.get(&bytes)?;
            if found.is_some() {
                rules.remove(&bytes)?;
            }
            Ok(found)
        })?;
        match found {
            Some(value) => decode(py, value),
            None => default.get_item(0).map_err(|_| missing(key)),
        }
    }

    /// The value of the key, which becomes the default if there is none, in one step.
    #[pyo3(signature = (key, default=None, /))]
    fn setdefault<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, bytes) = (key.py(), keys::encode(key)?);
        let default = default.unwrap_or_else(|| py.None().into_bound(py));
        let value = encode(&default)?;
        let found = self.guarded(py, size(&value), |rules| {
            let found = rules.get(&bytes)?;
            if found.is_none() {
                rules.set(&bytes, &lent(&value))?;
            }
            Ok(found)
        })?;
        found.map_or(Ok(default), |value| decode(py, value))
    }

    /// Set several keys, from a mapping or pairs, and from keywords. No other writer comes in between, but who reads may
    /// see a part of it.
    #[pyo3(signature = (content=None, /, **keywords))]
    fn update(
        &self,
        py: Python<'_>,
        content: Option<&Bound<'_, PyAny>>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.set_all(py, &pairs(py, content, keywords)?)
    }

    /// Add to the number of the key in one step; a key that is not there begins with 0.
    ///
    /// Returns:
    ///     The sum.
    ///
    /// Raises:
    ///     TypeError: The value is no number.
    ///     OverflowError: A whole number would not fit into 64 bits; nothing was added.
    #[pyo3(signature = (key, number=None, /), text_signature = "(self, key, number=1, /)")]
    fn add<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        number: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, bytes) = (key.py(), keys::encode(key)?);
        let number = number.map_or(Ok(Value::Int(1)), |number| match encode(number)? {
            Value::Bytes(_) => Err(PyTypeError::new_err(format!(
                "could not add {}: expected a float or a whole number of 64 bits",
                number.repr()?
            ))),
            number => Ok(number),
        })?;
        match self.guarded(py, 0, |rules| rules.add(&bytes, &lent(&number)))? {
            Value::Int(number) => Ok(PyInt::new(py, number).into_any()),
            Value::Float(number) => Ok(PyFloat::new(py, number).into_any()),
            Value::Bytes(_) => Err(corrupt()),
        }
    }

    /// Take all keys away, in one step.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.guarded(py, 0, |rules| rules.clear())
    }

    /// The keys of this moment, as a list.
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let keys = self.guarded(py, QUICK, |rules| rules.keys())?;
        let keys: Vec<_> = keys.iter().map(|key| keys::decode(py, key)).collect::<PyResult<_>>()?;
        PyList::new(py, keys)
    }

    /// The values of this moment, as a list.
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let entries = self.entries(py)?.into_iter();
        let values: Vec<_> = entries.map(|(_, value)| decode(py, value)).collect::<PyResult<_>>()?;
        PyList::new(py, values)
    }

    /// The keys and values of this moment, as a list of pairs.
    fn items<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let pair = |(key, value): (Vec<u8>, _)| Ok((keys::decode(py, &key)?, decode(py, value)?));
        let items: Vec<_> = self.entries(py)?.into_iter().map(pair).collect::<PyResult<_>>()?;
        PyList::new(py, items)
    }

    /// What is in it at this moment, as a `dict`.
    fn copy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let copy = PyDict::new(py);
        for (key, value) in self.entries(py)? {
            copy.set_item(keys::decode(py, &key)?, decode(py, value)?)?;
        }
        Ok(copy)
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

    fn __repr__(&self) -> PyResult<String> {
        Ok(format!("<Dict of {}>", self.__len__()?))
    }
}
