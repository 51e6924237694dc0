//! The few functions that asyncio loops call on our behalf.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::wrap_pyfunction;

/// Ends the wait of an asyncio future, unless it was cancelled meanwhile.
#[pyfunction]
pub(crate) fn wake(future: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = future.py();
    if !future.call_method0(pyo3::intern!(py, "done"))?.is_truthy()? {
        future.call_method1(pyo3::intern!(py, "set_result"), (py.None(),))?;
    }
    Ok(())
}

/// Cancels an asyncio task.
#[pyfunction]
fn cancel(task: &Bound<'_, PyAny>) -> PyResult<()> {
    task.call_method0(pyo3::intern!(task.py(), "cancel"))?;
    Ok(())
}

/// [`wake`] as a Python object.
pub(crate) fn wake_function(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static FUNCTION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let function =
        FUNCTION.get_or_try_init(py, || Ok::<_, PyErr>(wrap_pyfunction!(wake, py)?.into_any().unbind()))?;
    Ok(function.bind(py))
}

/// [`cancel`] as a Python object.
pub(crate) fn cancel_function(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static FUNCTION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let function =
        FUNCTION.get_or_try_init(py, || Ok::<_, PyErr>(wrap_pyfunction!(cancel, py)?.into_any().unbind()))?;
    Ok(function.bind(py))
}
