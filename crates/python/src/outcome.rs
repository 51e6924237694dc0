//! `mh.Outcome` and its receipt: what became of one item of a map.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::detail::History;

/// What one item of a map cost.
///
/// Example:
///     >>> import time, manyhands as mh
///     >>> [outcome] = mh.map(time.sleep, [0.05], on_error="return")
///     >>> outcome.receipt.wall >= 0.05 > outcome.receipt.cpu
///     True
#[pyclass(frozen, get_all, module = "manyhands")]
pub(crate) struct Receipt {
    /// Seconds in queues, over all attempts.
    waited: f64,
    /// Seconds running, over all attempts.
    wall: f64,
    /// Processor seconds of the thread that ran it, over all attempts but those that were stopped; None for coroutines,
    /// which share theirs.
    cpu: Option<f64>,
    /// Bytes sent to the worker; 0 within a process, where nothing is copied.
    bytes_in: u64,
    /// Bytes received from the worker; 0 within a process.
    bytes_out: u64,
}

#[pymethods]
impl Receipt {
    fn __repr__(&self) -> String {
        let Self { waited, wall, cpu, bytes_in, bytes_out } = self;
        let cpu = cpu.map_or_else(|| "None".to_owned(), |cpu| format!("{cpu:.6}"));
        format!(
            "Receipt(waited={waited:.6}, wall={wall:.6}, cpu={cpu}, bytes_in={bytes_in}, bytes_out={bytes_out})"
        )
    }
}

/// What became of one item of a map with ``on_error="return"``.
///
/// Example:
///     >>> import manyhands as mh
///     >>> good, bad = mh.map(int, ["7", "x"], on_error="return")
///     >>> good.unwrap(), bad.input, bad.exception
///     (7, 'x', ValueError("invalid literal for int() with base 10: 'x'"))
#[pyclass(frozen, get_all, generic, module = "manyhands")]
pub(crate) struct Outcome {
    /// The item's position in the input, from 0.
    index: u64,
    /// The item, or the tuple of items if there were several iterables.
    input: Py<PyAny>,
    /// What the function returned; None if it failed.
    value: Py<PyAny>,
    /// What it raised in its last attempt; None if it succeeded.
    exception: Option<Py<PyAny>>,
    /// How often it was tried.
    attempts: u32,
    /// The name of the thread that ran it last; None if it never started.
    worker: Option<String>,
    /// What it cost.
    receipt: Py<Receipt>,
}

impl Outcome {
    /// `has_cpu` is whether it had a thread of its own, whose processor time is the item's.
    pub(crate) fn new(
        py: Python<'_>,
        index: u64,
        input: Py<PyAny>,
        result: PyResult<Py<PyAny>>,
        history: History,
        has_cpu: bool,
    ) -> PyResult<Self> {
        let receipt = Receipt {
            waited: history.waited.as_secs_f64(),
            wall: history.wall.as_secs_f64(),
            cpu: has_cpu.then_some(history.cpu.as_secs_f64()),
            bytes_in: history.bytes_in,
            bytes_out: history.bytes_out,
        };
        let (value, exception) = match result {
            Ok(value) => (value, None),
            Err(error) => (py.None(), Some(error.into_value(py).into_any())),
        };
        let (attempts, worker) = (history.attempts, history.worker);
        Ok(Self { index, input, value, exception, attempts, worker, receipt: Py::new(py, receipt)? })
    }
}

#[pymethods]
impl Outcome {
    /// Whether the function returned.
    #[getter]
    fn ok(&self) -> bool {
        self.exception.is_none()
    }

    /// Return the value, or raise the exception.
    fn unwrap(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match &self.exception {
            None => Ok(self.value.clone_ref(py)),
            Some(error) => Err(PyErr::from_value(error.bind(py).clone())),
        }
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let ending = match &self.exception {
            None => format!("value={}", self.value.bind(py).repr()?),
            Some(error) => format!("exception={}", error.bind(py).repr()?),
        };
        Ok(format!("Outcome(index={}, {ending}, attempts={})", self.index, self.attempts))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.input)?;
        visit.call(&self.value)?;
        visit.call(&self.exception)
    }
}
