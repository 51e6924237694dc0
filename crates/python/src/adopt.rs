//! Futures of others: anything with `add_done_callback`, `result` and `cancel` becomes one of ours.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::future::{Future, Outcome};
use crate::waiter::Wakes;

/// Copies the outcome of a foreign future into ours.
#[pyclass(frozen, module = "manyhands._core")]
struct Copy {
    target: Py<Future>,
}

#[pymethods]
impl Copy {
    fn __call__(&self, source: &Bound<'_, PyAny>) -> PyResult<()> {
        let target = self.target.bind(source.py());
        if source.call_method0("cancelled")?.is_truthy()? {
            Future::cancel_now(target);
            return Ok(());
        }
        let result = source.call_method0("result").map(Bound::unbind);
        let _ = Future::finish(target, Outcome::of(source.py(), result), &mut Wakes::default())?;
        Ok(())
    }
}

/// Cancels a foreign future when ours was cancelled.
#[pyclass(frozen, module = "manyhands._core")]
struct Cancel {
    source: Py<PyAny>,
}

#[pymethods]
impl Cancel {
    fn __call__(&self, target: &Bound<'_, Future>) -> PyResult<()> {
        if target.get().state().is_cancelled() {
            self.source.bind(target.py()).call_method0("cancel")?;
        }
        Ok(())
    }
}

/// `future` itself if it is one of ours, else one of ours that follows it.
pub(crate) fn adopt<'py>(future: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Future>> {
    if let Ok(ours) = future.cast::<Future>() {
        return Ok(ours.clone());
    }
    let py = future.py();
    if !future.hasattr("add_done_callback")? || future.hasattr("get_loop")? {
        return Err(PyTypeError::new_err(format!(
            "could not wait for {}: expected a future of manyhands or concurrent.futures\n\
             hint: asyncio's own futures and coroutines belong to their loop; gather those with asyncio",
            future.repr()?
        )));
    }
    let target = Future::create(py)?;
    let name = pyo3::intern!(py, "add_done_callback");
    target.call_method1(name, (Bound::new(py, Cancel { source: future.clone().unbind() })?,))?;
    future.call_method1(name, (Bound::new(py, Copy { target: target.clone().unbind() })?,))?;
    Ok(target)
}
