//! `_core.Errand`: something that the runtime does for Python, and tells when it is done.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use manyhands_queue::backend::Found;
use manyhands_queue::{Error, PublishError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokio::task::AbortHandle;

use super::{broker_error, publish_error, runtime};
use crate::latch::Latch;

/// What an errand brings.
pub(crate) enum Brought {
    Published(Result<(), PublishError>),
    Nothing(Result<(), Error>),
    Found(Result<Option<Found>, Error>),
}

/// What is known of a task, as Python gets it: its state and its document.
pub(crate) fn found_object(py: Python<'_>, found: Option<&Found>) -> PyResult<Py<PyAny>> {
    let Some(found) = found else { return Ok(py.None()) };
    let pair = (found.state.name(), PyBytes::new(py, &found.document));
    Ok(pair.into_pyobject(py)?.into_any().unbind())
}

impl Brought {
    fn object(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Self::Published(Ok(())) | Self::Nothing(Ok(())) => Ok(py.None()),
            Self::Published(Err(failure)) => Err(publish_error(failure)),
            Self::Nothing(Err(failure)) | Self::Found(Err(failure)) => Err(broker_error(failure)),
            Self::Found(Ok(found)) => found_object(py, found.as_ref()),
        }
    }
}

#[derive(Default)]
struct Stage {
    brought: Option<Arc<Brought>>,
    callback: Option<Py<PyAny>>,
}

#[derive(Default)]
struct Shared {
    stage: Mutex<Stage>,
    latch: Latch,
}

impl Shared {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, brought: Brought) {
        let callback = {
            let mut stage = self.stage();
            stage.brought = Some(Arc::new(brought));
            stage.callback.take()
        };
        self.latch.open();
        if let Some(callback) = callback {
            // An interpreter that is about to end has nobody left to tell; the callback is leaked with it.
            Python::try_attach(|py| call_back(callback.bind(py)));
        }
    }
}

/// Tells whoever asked to be told. A loop that was closed has nobody left.
fn call_back(callback: &Bound<'_, PyAny>) {
    let py = callback.py();
    if let Err(failure) = callback.call0()
        && !failure.is_instance_of::<pyo3::exceptions::PyRuntimeError>(py)
    {
        failure.write_unraisable(py, Some(callback));
    }
}

/// Something that is done in the background.
#[pyclass(module = "manyhands._core", frozen)]
pub(crate) struct Errand {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Errand {
    /// Sends somebody on an errand.
    pub(crate) fn send(errand: impl Future<Output = Brought> + Send + 'static) -> PyResult<Self> {
        let shared = Arc::new(Shared::default());
        let told = Arc::clone(&shared);
        let task = runtime::handle()?.spawn(async move { told.finish(errand.await) });
        Ok(Self { shared, task: task.abort_handle() })
    }
}

#[pymethods]
impl Errand {
    /// What it brought; waits for that. Not after `cancel()`.
    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.shared.latch.wait(py)?;
        let brought = self.shared.stage().brought.clone();
        brought.expect("the latch opens when it is there").object(py)
    }

    /// Have a function called, without arguments and in some thread, when it is done; at once if it is.
    fn then(&self, callback: Bound<'_, PyAny>) {
        let previous = {
            let mut stage = self.shared.stage();
            if stage.brought.is_none() {
                Ok(stage.callback.replace(callback.unbind()))
            } else {
                Err(callback)
            }
        };
        if let Err(callback) = previous {
            call_back(&callback);
        }
    }

    /// Whether it is done.
    #[getter]
    fn is_over(&self) -> bool {
        self.shared.latch.is_open()
    }

    /// Give it up, and tell nobody.
    fn cancel(&self) {
        self.task.abort();
        let callback = self.shared.stage().callback.take();
        drop(callback);
    }
}
