//! The warning about a failure that nobody looked at.

use pyo3::prelude::*;

use crate::detail::Detail;
use crate::error;

/// Warns with the failure's traceback. Runs while an object is being collected: nothing may escape.
pub(crate) fn warn(py: Python<'_>, failure: &Bound<'_, PyAny>, _detail: Option<&Detail>) {
    let pending = PyErr::take(py);
    if let Err(error) = try_warn(py, failure) {
        error.write_unraisable(py, Some(failure));
    }
    if let Some(pending) = pending {
        pending.restore(py);
    }
}

fn try_warn(py: Python<'_>, failure: &Bound<'_, PyAny>) -> PyResult<()> {
    let traceback = failure.getattr("__traceback__")?;
    let lines: Vec<String> = py
        .import("traceback")?
        .call_method1("format_exception", (failure.get_type(), failure, traceback))?
        .extract()?;
    let message = format!(
        "a task failed and nobody looked: call result() or exception() on its future\n{}",
        lines.concat().trim_end()
    );
    py.import("warnings")?.call_method1("warn", (message, error::task_failure_warning(py)?))?;
    Ok(())
}
