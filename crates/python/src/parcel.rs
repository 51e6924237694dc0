//! Tasks as bytes: what is sent to a worker process, and what it sends back.
//!
//! The function is pickled once per pool, and sent once to each worker; a task names it by number. Arguments are pickled
//! in the thread that submits, results are read in the thread that asks: nobody in between needs the interpreter.
//!
//! The standard pickler is fast, but sends what lives in `__main__` by name only, which a worker cannot find there, and
//! refuses lambdas. What it refuses, or names `__main__`, is pickled again by cloudpickle, which sends it by value.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use manyhands_engine::clock::Tick;
use manyhands_os::clock;
use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple, PyWeakrefMethods, PyWeakrefReference};

use crate::call::function_name;
use crate::error;
use crate::native;

/// How many functions a pool remembers, before it begins anew: lambdas made in a loop must not pile up.
const MOST_FUNCTIONS: usize = 256;

/// A pickled function.
pub(crate) struct Function {
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// The functions that a pool has pickled, by identity.
#[derive(Default)]
pub(crate) struct Functions(Mutex<Table>);

#[derive(Default)]
struct Table {
    next: u32,
    /// With a weak reference, which says whether what is at an address is still what was pickled: a bound method
    /// must not keep its object alive. What cannot be referred to weakly is kept.
    known: HashMap<usize, (Referent, Arc<Function>)>,
}

/// An object that somebody else may let go of.
enum Referent {
    Weak(Py<PyWeakrefReference>),
    Strong(Py<PyAny>),
}

impl Referent {
    fn new(object: &Bound<'_, PyAny>) -> Self {
        match PyWeakrefReference::new(object) {
            Ok(weak) => Self::Weak(weak.unbind()),
            Err(_) => Self::Strong(object.clone().unbind()),
        }
    }

    fn is(&self, object: &Bound<'_, PyAny>) -> bool {
        match self {
            Self::Weak(weak) => weak.bind(object.py()).upgrade().is_some_and(|alive| alive.is(object)),
            Self::Strong(kept) => kept.is(object),
        }
    }
}

impl Functions {
    /// The function in pickled form.
    pub(crate) fn get(&self, function: &Bound<'_, PyAny>) -> PyResult<Arc<Function>> {
        let address = function.as_ptr() as usize;
        let table = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((referent, known)) = table().known.get(&address)
            && referent.is(function)
        {
            return Ok(Arc::clone(known));
        }
        let bytes = dump_by_value(function).map_err(|error| {
            let name = function_name(function);
            let culprit = Culprit { value: function, names: &[&name] };
            unpicklable(error, &format!("could not send the function `{name}` to a worker process"), &culprit)
        })?;
        let referent = Referent::new(function);
        let mut table = table();
        let forgotten =
            if table.known.len() < MOST_FUNCTIONS { None } else { Some(std::mem::take(&mut table.known)) };
        let number = table.next;
        table.next += 1;
        let pickled = Arc::new(Function { number, name: function_name(function), bytes });
        let replaced = table.known.insert(address, (referent, Arc::clone(&pickled)));
        drop(table);
        // Outside the lock: these hold Python objects.
        drop((forgotten, replaced));
        Ok(pickled)
    }
}

/// A call in another process.
#[derive(Clone)]
pub(crate) struct Parcel {
    pub(crate) function: Arc<Function>,
    /// Pickled `(args, kwargs)` or `(args, kwargs, context)`; empty for no arguments at all.
    pub(crate) arguments: Arc<Vec<u8>>,
    /// The seed of the item that it works on.
    pub(crate) seed: Option<u64>,
    pub(crate) submitted: Tick,
}

impl Parcel {
    /// Pickles a call.
    pub(crate) fn new(
        functions: &Functions,
        function: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let function = functions.get(function)?;
        let context = pack_context(args.py())?;
        let is_bare = args.is_empty() && kwargs.is_none_or(PyDictMethods::is_empty);
        let arguments = if is_bare && context.is_none() {
            Vec::new()
        } else {
            let kwargs = kwargs.into_pyobject(args.py())?.into_any();
            let call = match &context {
                None => PyTuple::new(args.py(), [args.as_any(), &kwargs])?,
                Some(context) => PyTuple::new(args.py(), [args.as_any(), &kwargs, context])?,
            };
            dump(call.as_any()).map_err(|error| {
                let (value, names) = (call.as_any(), ["args", "kwargs", "context"].as_slice());
                cannot_send(error, &function.name, &Culprit { value, names })
            })?
        };
        Ok(Self { function, arguments: Arc::new(arguments), seed: None, submitted: clock::now() })
    }
}

/// The calling thread's context variables in pickled form; `None` if there are none that can be sent.
fn pack_context(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    static PACK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let context = native::copy_current_context(py)?;
    if context.len()? == 0 {
        return Ok(None);
    }
    let packed = PACK.import(py, "manyhands.executors._context", "pack")?.call1((context,))?;
    Ok(Some(packed).filter(|packed| !packed.is_none()))
}

/// [`pack_context`] as bytes; none at all if there is nothing to send.
pub(crate) fn dump_context(py: Python<'_>) -> PyResult<Vec<u8>> {
    pack_context(py)?.map_or(Ok(Vec::new()), |packed| dump(&packed))
}

/// Sets variables that [`pack_context`] packed, in the calling thread's context.
pub(crate) fn apply_context(packed: &Bound<'_, PyAny>) -> PyResult<()> {
    static APPLY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    APPLY.import(packed.py(), "manyhands.executors._context", "apply")?.call1((packed,)).map(drop)
}

/// What could not be pickled, and what to call it; or its elements, if it is a tuple of things that have names.
pub(crate) struct Culprit<'a, 'py> {
    pub(crate) value: &'a Bound<'py, PyAny>,
    pub(crate) names: &'a [&'a str],
}

impl Culprit<'_, '_> {
    /// Where in it that is which cannot be pickled, for a message; empty if that is not to be found.
    pub(crate) fn place(&self) -> PyResult<String> {
        let py = self.value.py();
        let arguments = std::iter::once(self.value.clone())
            .chain(self.names.iter().map(|name| PyString::new(py, name).into_any()));
        let arguments = PyTuple::new(py, arguments.collect::<Vec<_>>())?;
        let module = py.import("manyhands.executors._culprit")?;
        let path = module.call_method1("path_to_culprit", arguments)?.extract::<Option<String>>()?;
        Ok(path.map_or_else(String::new, |path| format!(", found at `{path}`")))
    }
}

pub(crate) fn cannot_send(error: PyErr, name: &str, culprit: &Culprit<'_, '_>) -> PyErr {
    unpicklable(error, &format!("could not send the arguments of `{name}` to a worker process"), culprit)
}

/// What came of an attempt to pickle, explained: a `PicklingError` if it was one, else a `TypeError`. What is not an
/// `Exception` is nothing to explain: somebody wants to exit.
pub(crate) fn unpicklable(error: PyErr, what: &str, culprit: &Culprit<'_, '_>) -> PyErr {
    let py = culprit.value.py();
    if !error.is_instance_of::<PyException>(py) {
        return error;
    }
    let place = match culprit.place() {
        Err(exit) if !exit.is_instance_of::<PyException>(py) => return exit,
        place => place.unwrap_or_default(),
    };
    let text = format!("{what}: {}{place}", error.value(py));
    let explained = match py.import("_pickle").and_then(|module| module.getattr("PicklingError")) {
        Ok(kind) if error.matches(py, &kind).unwrap_or(false) => match kind.call1((text.as_str(),)) {
            Ok(value) => PyErr::from_value(value),
            Err(failed) => failed,
        },
        _ => PyTypeError::new_err(text),
    };
    explained.set_cause(py, Some(error));
    explained
}

fn pickler(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let dumps =
        DUMPS.get_or_try_init(py, || Ok::<_, PyErr>(py.import("_pickle")?.getattr("dumps")?.unbind()))?;
    Ok(dumps.bind(py))
}

/// Pickles an object for a process of the same program.
pub(crate) fn dump(object: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let plain = pickler(object.py())?.call1((object, 5)).and_then(|bytes| Ok(bytes.cast_into::<PyBytes>()?));
    match plain {
        Ok(bytes) if !names_main(bytes.as_bytes()) => Ok(bytes.as_bytes().to_vec()),
        _ => dump_by_value(object),
    }
}

fn names_main(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, b"__main__").is_some()
}

/// Pickles with cloudpickle, which sends by value what cannot be imported by name.
fn dump_by_value(object: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let bytes =
        DUMPS.import(object.py(), "manyhands.executors._pickling", "dumps_by_value")?.call1((object,))?;
    Ok(bytes.cast_into::<PyBytes>()?.as_bytes().to_vec())
}

/// Reads what [`dump`] wrote. Only bytes of the pool's own workers come here: pickle is code.
pub(crate) fn load<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let loads =
        LOADS.get_or_try_init(py, || Ok::<_, PyErr>(py.import("_pickle")?.getattr("loads")?.unbind()))?;
    loads.bind(py).call1((PyBytes::new(py, bytes),))
}

/// What a worker process answered.
pub(crate) struct Reply {
    pub(crate) has_failed: bool,
    /// The pickled value; or the pickled pair of exception and traceback text.
    pub(crate) bytes: Vec<u8>,
}

impl Reply {
    /// Reads the value, or the exception with the worker's traceback as its cause.
    pub(crate) fn read(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let read = load(py, &self.bytes)?;
        if !self.has_failed {
            return Ok(read.unbind());
        }
        Err(failure(&read))
    }
}

/// Reads a pickled pair of exception and traceback text, as what is to be raised.
pub(crate) fn read_failure(py: Python<'_>, bytes: &[u8]) -> PyErr {
    load(py, bytes).map_or_else(|error| error, |pair| failure(&pair))
}

/// The exception of such a pair, with the worker's traceback as its cause.
fn failure(pair: &Bound<'_, PyAny>) -> PyErr {
    let py = pair.py();
    let read = pair.extract::<(Bound<'_, PyAny>, Option<String>)>().and_then(|(exception, traceback)| {
        let error = PyErr::from_value(exception);
        if let Some(traceback) = traceback {
            let remote = error::remote_traceback(py)?.call1((traceback,))?;
            error.set_cause(py, Some(PyErr::from_value(remote)));
        }
        Ok(error)
    });
    read.unwrap_or_else(|error| error)
}
