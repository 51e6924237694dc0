//! Tasks as bytes: what is sent to a worker process, and what it sends back.
//!
//! The function is pickled once per pool, and sent once to each worker; a task names it by number. Arguments are pickled
//! in the thread that submits, results are read in the thread that asks: nobody in between needs the interpreter.
//!
//! What is large lies in a segment, from the one to the other.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use manyhands_engine::clock::Tick;
use manyhands_os::clock;
use manyhands_os::stock::{Loan, Stock};
use pyo3::exceptions::{PyException, PyOSError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    PyCFunction, PyDict, PyFunction, PyModule, PyString, PyTuple, PyType, PyWeakrefMethods,
    PyWeakrefReference,
};

use crate::call::function_name;
use crate::error;
use crate::native;
use crate::pickle::{Pickled, Weight, dump_by_value};
pub(crate) use crate::pickle::{dump, load};
use crate::reading::is_loaded;
use crate::view::Bundle;

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
    /// Where the latest function is defined that workers import.
    module: Option<String>,
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
        let pickled = if is_plain(function)? { dump(function) } else { dump_by_value(function) };
        let bytes = pickled.map_err(|error| {
            let name = function_name(function);
            let culprit = Culprit { value: function, names: &[&name] };
            unpicklable(error, &format!("could not send the function `{name}` to a worker process"), &culprit)
        })?;
        let referent = Referent::new(function);
        let home = home(function);
        let mut table = table();
        let forgotten =
            if table.known.len() < MOST_FUNCTIONS { None } else { Some(std::mem::take(&mut table.known)) };
        let number = table.next;
        table.next += 1;
        table.module = home.or_else(|| table.module.take());
        let pickled = Arc::new(Function { number, name: function_name(function), bytes });
        let replaced = table.known.insert(address, (referent, Arc::clone(&pickled)));
        drop(table);
        // Outside the lock: these hold Python objects.
        drop((forgotten, replaced));
        Ok(pickled)
    }

    /// The module that a worker which is asked for now will import first, as far as is known.
    pub(crate) fn module(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).module.clone()
    }
}

/// The module in which a function can be found by its name.
fn home(function: &Bound<'_, PyAny>) -> Option<String> {
    let text = |name| function.getattr(name).ok()?.extract::<String>().ok();
    let py = function.py();
    // `<locals>` and `<lambda>` go by value.
    text(intern!(py, "__qualname__")).filter(|name| !name.contains('<'))?;
    text(intern!(py, "__module__"))
}

/// Whether cloudpickle would do nothing else with a function than the standard pickle. It is a large module, which
/// workers would have to import, too.
fn is_plain(function: &Bound<'_, PyAny>) -> PyResult<bool> {
    if is_loaded(function.py(), "cloudpickle")? {
        // Somebody may have told it to send a module by value.
        return Ok(false);
    }
    if function.is_exact_instance_of::<PyCFunction>() {
        return Ok(function.getattr("__self__")?.is_instance_of::<PyModule>());
    }
    Ok(function.is_exact_instance_of::<PyFunction>() || function.is_exact_instance_of::<PyType>())
}

/// Pickled arguments.
pub(crate) enum Arguments {
    /// They fit the message.
    Inline(Vec<u8>),
    /// Large ones in a segment, which is not used again before they are dropped.
    Lent { loan: Loan, len: usize, is_memorable: bool },
    /// Large ones that have no segment yet; that is taken from the stock when they are sent.
    Waiting(Vec<u8>, Arc<Stock>),
}

impl Arguments {
    fn new(py: Python<'_>, pickled: Pickled, stock: &Arc<Stock>) -> PyResult<Self> {
        let parts = match pickled {
            Pickled::Small(bytes) => return Ok(Self::Inline(bytes)),
            Pickled::Large(parts) => parts,
        };
        // Without room now there may be some when their turn comes.
        let Ok(mut loan) = parts.lend(py, stock) else {
            return Ok(Self::Waiting(parts.to_bytes(py)?, Arc::clone(stock)));
        };
        parts.fill(py, loan.segment_mut())?;
        Ok(Self::Lent { loan, len: parts.len(), is_memorable: parts.is_memorable() })
    }

    /// How many bytes they take.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Inline(bytes) | Self::Waiting(bytes, _) => bytes.len(),
            Self::Lent { len, .. } => *len,
        }
    }
}

/// A call in another process.
#[derive(Clone)]
pub(crate) struct Parcel {
    pub(crate) function: Arc<Function>,
    /// Pickled `(args, kwargs)` or `(args, kwargs, context)`; empty for no arguments at all.
    pub(crate) arguments: Arc<Arguments>,
    /// The seed of the item that it works on.
    pub(crate) seed: Option<u64>,
    pub(crate) submitted: Tick,
}

impl Parcel {
    /// Gives arguments that wait for a segment one; if they `must` have it, however many are in use.
    pub(crate) fn settle(&mut self, must: bool) -> io::Result<()> {
        if let Arguments::Waiting(bytes, stock) = &*self.arguments {
            let mut loan = stock.lend(bytes.len(), must)?;
            loan.segment_mut().fill(0, bytes)?;
            self.arguments = Arc::new(Arguments::Lent { loan, len: bytes.len(), is_memorable: false });
        }
        Ok(())
    }

    /// Pickles a call.
    pub(crate) fn new(
        functions: &Functions,
        stock: &Arc<Stock>,
        function: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let function = functions.get(function)?;
        let context = pack_context(args.py())?;
        let is_bare = args.is_empty() && kwargs.is_none_or(PyDictMethods::is_empty);
        let arguments = if is_bare && context.is_none() {
            Arguments::Inline(Vec::new())
        } else {
            let weight = if context.is_none() { Weight::of_call(args, kwargs) } else { Weight::Unknown };
            let kwargs = kwargs.into_pyobject(args.py())?.into_any();
            let call = match &context {
                None => PyTuple::new(args.py(), [args.as_any(), &kwargs])?,
                Some(context) => PyTuple::new(args.py(), [args.as_any(), &kwargs, context])?,
            };
            let pickled = Pickled::new(call.as_any(), weight).map_err(|error| {
                let (value, names) = (call.as_any(), ["args", "kwargs", "context"].as_slice());
                cannot_send(error, &function.name, &Culprit { value, names })
            })?;
            Arguments::new(args.py(), pickled, stock)?
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

/// What a worker process answered.
pub(crate) struct Reply {
    pub(crate) has_failed: bool,
    /// The pickled value; or the pickled pair of exception and traceback text.
    pub(crate) content: Received,
}

/// A pickle that came from another process.
pub(crate) enum Received {
    Inline(Vec<u8>),
    Large(Bundle),
    /// It was sent, but there is no room for it here.
    Lost(io::Error),
}

impl Received {
    /// How many bytes it takes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Inline(bytes) => bytes.len(),
            Self::Large(bundle) => bundle.len(),
            Self::Lost(_) => 0,
        }
    }

    fn load<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Inline(bytes) => load(py, bytes),
            Self::Large(bundle) => bundle.load(py),
            Self::Lost(why) => {
                Err(PyOSError::new_err(format!("could not receive the result of a task: {why}")))
            }
        }
    }
}

impl Reply {
    /// Reads the value, or the exception with the worker's traceback as its cause.
    pub(crate) fn read(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let read = self.content.load(py)?;
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
