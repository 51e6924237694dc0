//! The one place that makes Python exceptions: ours from `manyhands.errors`, the standard library's by their names.

use manyhands_engine::task::State;
use pyo3::prelude::*;

use crate::attempt::LastWords;
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
    broken_barrier_error = "threading"."BrokenBarrierError";
    broker_error = "manyhands.errors"."BrokerError";
    broken_initializer = "manyhands.errors"."BrokenInitializer";
    channel_closed = "manyhands.errors"."ChannelClosed";
    executor_closed = "manyhands.errors"."ExecutorClosed";
    task_failure_warning = "manyhands.errors"."TaskFailureWarning";
    task_interrupted = "manyhands.errors"."TaskInterrupted";
    task_timeout = "manyhands.errors"."TaskTimeout";
    queue_empty = "queue"."Empty";
    queue_full = "queue"."Full";
    queue_shut_down = "manyhands.sync"."ShutDown";
    remote_traceback = "manyhands.errors"."RemoteTraceback";
    unsendable_error = "manyhands.errors"."UnsendableError";
    worker_died = "manyhands.errors"."WorkerDied";
    wrong_executor = "manyhands.errors"."WrongExecutor";
}

/// Says in an exception which item of a map it is about, if it is one about a task that was ended; only its number if
/// nobody has kept the item.
pub(crate) fn name_item(py: Python<'_>, error: &PyErr, index: u64, item: Option<&Py<PyAny>>) {
    let is_meant = |kind: PyResult<&Bound<'_, PyType>>| kind.is_ok_and(|kind| error.is_instance(py, kind));
    if !is_meant(worker_died(py)) && !is_meant(task_timeout(py)) {
        return;
    }
    let value = error.value(py);
    let named = match item {
        Some(item) => value.call_method1("_name_item", (index, item)),
        None => value.call_method1("_name_item", (index,)),
    };
    if let Err(failure) = named {
        failure.write_unraisable(py, None);
    }
}

/// Tells an error of an ended task where and how that was ended.
pub(crate) fn set_last_words(py: Python<'_>, error: &PyErr, last_words: LastWords) {
    let LastWords { frame, process } = last_words;
    let value = error.value(py);
    let set = frame.map_or(Ok(()), |frame| value.setattr("frame", frame)).and_then(|()| match process {
        Some((exitcode, peak_memory)) => {
            value.setattr("exitcode", exitcode)?;
            value.setattr("peak_memory", peak_memory)
        }
        None => Ok(()),
    });
    if let Err(failure) = set {
        failure.write_unraisable(py, None);
    }
}

/// Where a task is or was, if that is of any use to know.
pub(crate) fn last_frame<'py>(
    py: Python<'py>,
    function: &str,
    arguments: impl pyo3::call::PyCallArgs<'py>,
) -> Option<String> {
    let frames = py.import("manyhands.executors._last_frame").ok()?;
    frames.getattr(function).ok()?.call1(arguments).ok()?.extract().ok()?
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

/// The same, for whoever can say what did not come.
pub(crate) fn not_in_time(py: Python<'_>, text: String) -> PyErr {
    match timeout_error(py) {
        Ok(kind) => PyErr::from_type(kind.clone(), text),
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

/// Lets a destructor call Python. It may run while an exception is on its way, which would end the first function that it
/// calls, and be lost; nothing runs when the interpreter is gone.
pub(crate) fn put_aside(run: impl FnOnce(Python<'_>)) {
    Python::try_attach(|py| {
        let on_its_way = PyErr::take(py);
        run(py);
        if let Some(error) = on_its_way {
            error.restore(py);
        }
    });
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

/// A `DeadlockError`: the threads of those identities wait for results of their own pool, and no other is left to bring them.
pub(crate) fn starved(py: Python<'_>, waits: Vec<(std::ffi::c_ulong, Py<crate::future::Future>)>) -> PyErr {
    let made = py.import("manyhands._deadlock").and_then(|module| module.call_method1("starved", (waits,)));
    made.map_or_else(|failure| failure, PyErr::from_value)
}
