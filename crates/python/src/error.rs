//! The one place that makes Python exceptions: ours from `manyhands.errors`, the standard library's by their names.

use manyhands_engine::task::State;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

macro_rules! python_types {
    ($($function:ident = $module:literal . $name:literal;)*) => {$(
        /// The Python class of that name.
        pub(crate) fn $function(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
            static TYPE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
            TYPE.import(py, $module, $name)
        }
    )*};
}

python_types! {
    cancelled_error = "concurrent.futures"."CancelledError";
    timeout_error = "concurrent.futures"."TimeoutError";
    invalid_state_error = "concurrent.futures"."InvalidStateError";
    broken_initializer = "manyhands.errors"."BrokenInitializer";
    executor_closed = "manyhands.errors"."ExecutorClosed";
    task_failure_warning = "manyhands.errors"."TaskFailureWarning";
    task_interrupted = "manyhands.errors"."TaskInterrupted";
    task_timeout = "manyhands.errors"."TaskTimeout";
    remote_traceback = "manyhands.errors"."RemoteTraceback";
    unsendable_error = "manyhands.errors"."UnsendableError";
    worker_died = "manyhands.errors"."WorkerDied";
    wrong_executor = "manyhands.errors"."WrongExecutor";
}

/// The exception `kind(message)`.
pub(crate) fn error(kind: PyResult<&Bound<'_, PyType>>, message: impl Into<String>) -> PyErr {
    match kind {
        Ok(kind) => PyErr::from_type(kind.clone(), (message.into(),)),
        Err(failure) => failure,
    }
}

/// The exception `kind(message)` with a `hint`.
pub(crate) fn error_with_hint(
    py: Python<'_>,
    kind: PyResult<&Bound<'_, PyType>>,
    message: impl Into<String>,
    hint: &str,
) -> PyErr {
    let error = error(kind, message);
    match error.value(py).setattr("hint", hint) {
        Ok(()) => error,
        Err(failure) => failure,
    }
}

pub(crate) fn cancelled(py: Python<'_>) -> PyErr {
    match cancelled_error(py) {
        Ok(kind) => PyErr::from_type(kind.clone(), ()),
        Err(failure) => failure,
    }
}

pub(crate) fn gave_up_waiting(py: Python<'_>) -> PyErr {
    match timeout_error(py) {
        Ok(kind) => PyErr::from_type(kind.clone(), ()),
        Err(failure) => failure,
    }
}

/// What the standard library raises for `set_result` on a future that is done.
pub(crate) fn invalid_state(future: &Bound<'_, PyAny>, state: State) -> PyErr {
    let shown = future.repr().map(|text| text.to_string()).unwrap_or_default();
    error(invalid_state_error(future.py()), format!("{}: {shown}", standard_name(state)))
}

/// A state in the words of `concurrent.futures`' private constants, which other libraries compare with.
pub(crate) const fn standard_name(state: State) -> &'static str {
    match state {
        State::Pending => "PENDING",
        State::Running => "RUNNING",
        State::Cancelled => "CANCELLED",
        State::CancelledAndNotified => "CANCELLED_AND_NOTIFIED",
        State::Finished => "FINISHED",
    }
}

/// Logs what concerns a whole pool, where `concurrent.futures` would log it.
pub(crate) fn log_message(py: Python<'_>, message: &str) {
    let logged = py.import("logging").and_then(|logging| {
        logging.call_method1("getLogger", ("concurrent.futures",))?.call_method1("critical", ("%s", message))
    });
    if let Err(failure) = logged {
        failure.write_unraisable(py, None);
    }
}

/// Logs an exception that has nobody to be raised to, where and as `concurrent.futures` would log it.
pub(crate) fn log_exception(py: Python<'_>, level: &str, message: &str, error: &PyErr) {
    let logged = py.import("logging").and_then(|logging| {
        let logger = logging.call_method1("getLogger", ("concurrent.futures",))?;
        let keywords = pyo3::types::PyDict::new(py);
        keywords.set_item("exc_info", error.value(py))?;
        logger.call_method(level, (message,), Some(&keywords))
    });
    if let Err(failure) = logged {
        failure.write_unraisable(py, None);
    }
}
