//! The warning about a failure that nobody looked at.
//!
//! Many such futures live as long as the program and are collected when the interpreter is half gone: nothing can be
//! imported then. So what the warning needs is fetched while all is well.

use std::fmt::Write;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::error;

/// `traceback.format_exception` and the category of the warning.
struct Means {
    format: Py<PyAny>,
    category: Py<PyType>,
}

static MEANS: PyOnceLock<Means> = PyOnceLock::new();

/// Fetches what a warning needs. Called when a future is made.
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    means(py).map(drop)
}

fn means(py: Python<'_>) -> PyResult<&Means> {
    MEANS.get_or_try_init(py, || {
        Ok(Means {
            format: py.import("traceback")?.getattr("format_exception")?.unbind(),
            category: error::task_failure_warning(py)?.clone().unbind(),
        })
    })
}

/// Warns with the failure's traceback. Runs while an object is being collected: nothing may escape.
pub(crate) fn warn(py: Python<'_>, failure: &Bound<'_, PyAny>) {
    let pending = PyErr::take(py);
    if let Err(error) = try_warn(py, failure) {
        error.write_unraisable(py, Some(failure));
    }
    if let Some(pending) = pending {
        pending.restore(py);
    }
}

fn try_warn(py: Python<'_>, failure: &Bound<'_, PyAny>) -> PyResult<()> {
    let means = means(py)?;
    let shown = with_source(means.format.bind(py), failure).or_else(|_| without_source(failure))?;
    let shown = shown.trim_end().replace('\0', "\\0");
    let message =
        format!("a task failed and nobody looked: call result() or exception() on its future\n{shown}");
    PyErr::warn(py, means.category.bind(py), &std::ffi::CString::new(message)?, 1)
}

fn with_source(format: &Bound<'_, PyAny>, failure: &Bound<'_, PyAny>) -> PyResult<String> {
    let traceback = failure.getattr("__traceback__")?;
    let lines: Vec<String> = format.call1((failure.get_type(), failure, traceback))?.extract()?;
    Ok(lines.concat())
}

/// The traceback as it can be shown when sources cannot be read any more, for that takes an import.
fn without_source(failure: &Bound<'_, PyAny>) -> PyResult<String> {
    let mut shown = String::from("Traceback (most recent call last):\n");
    let mut entry = failure.getattr("__traceback__")?;
    while !entry.is_none() {
        let code = entry.getattr("tb_frame")?.getattr("f_code")?;
        let (file, line) = (code.getattr("co_filename")?, entry.getattr("tb_lineno")?);
        // Writing into a String cannot fail.
        let _ = writeln!(shown, "  File \"{file}\", line {line}, in {}", code.getattr("co_name")?);
        entry = entry.getattr("tb_next")?;
    }
    Ok(format!("{shown}{}: {failure}", failure.get_type().name()?))
}
