//! Hubs: what schedules green threads, and lets one of them wait without keeping the others of its thread from running.
//!
//! A hub is an object of Python, as `manyhands._hubs` describes it. gevent's is looked for as soon as the program has
//! imported gevent; as long as there is none, all that this costs is a look at how many modules there are.
//!
//! No Python code runs under the list's lock.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_os::clock;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use super::waiting::Ending;

static HUBS: Mutex<Vec<Arc<Py<PyAny>>>> = Mutex::new(Vec::new());
static IS_ANY: AtomicBool = AtomicBool::new(false);
/// How many modules there were when gevent was last looked for.
static MODULES: AtomicUsize = AtomicUsize::new(0);

/// Has green threads wait through `hub`; see `manyhands._hubs`.
#[pyfunction]
pub(crate) fn register_hub(hub: Py<PyAny>) {
    hubs().push(Arc::new(hub));
    IS_ANY.store(true, Ordering::Release);
}

fn hubs() -> MutexGuard<'static, Vec<Arc<Py<PyAny>>>> {
    HUBS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether anybody here may be a green thread.
#[inline]
pub(crate) fn are_there(py: Python<'_>) -> bool {
    IS_ANY.load(Ordering::Acquire) || {
        let modules = module_count(py);
        modules != MODULES.load(Ordering::Relaxed) && look_for_gevent(py, modules)
    }
}

/// How many modules are imported; 0 if somebody has made their list something else.
#[inline]
fn module_count(py: Python<'_>) -> usize {
    static LIST: PyOnceLock<Option<Py<PyDict>>> = PyOnceLock::new();
    let list = LIST.get_or_init(py, || {
        let list = py.import("sys").and_then(|sys| sys.getattr("modules")).ok()?;
        list.cast_into::<PyDict>().ok().map(Bound::unbind)
    });
    list.as_ref().map_or(0, |list| list.bind(py).len())
}

#[cold]
fn look_for_gevent(py: Python<'_>, modules: usize) -> bool {
    // What is only half imported is looked for again.
    let is_over = find_gevent(py).unwrap_or_else(|failure| {
        failure.write_unraisable(py, None);
        true
    });
    if is_over {
        MODULES.store(modules, Ordering::Relaxed);
    }
    IS_ANY.load(Ordering::Acquire)
}

/// Has gevent's hub registered if the program has gevent; `false` if it is about to have it.
fn find_gevent(py: Python<'_>) -> PyResult<bool> {
    let modules = py.import("sys")?.getattr("modules")?;
    let gevent = modules.call_method1("get", ("gevent",))?;
    if gevent.is_none() {
        return Ok(true);
    }
    let is_ready = modules.contains("gevent.hub")? && gevent.hasattr("get_hub")?;
    if is_ready {
        py.import("manyhands._gevent")?;
    }
    Ok(is_ready)
}

/// What the first hub that has one gives for the caller.
fn ask(py: Python<'_>, question: &str) -> PyResult<Option<Py<PyAny>>> {
    let hubs = hubs().clone();
    for hub in hubs {
        let answer = hub.call_method0(py, question)?;
        if !answer.is_none(py) {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

/// The green thread that runs here; `None` if it is the thread itself.
pub(crate) fn green(py: Python<'_>) -> Option<Py<PyAny>> {
    ask(py, "green").unwrap_or_else(|failure| {
        failure.write_unraisable(py, None);
        None
    })
}

/// The wait of a green thread.
#[derive(Clone)]
pub(crate) struct GreenWait(Arc<(Py<PyAny>, Ending)>);

impl GreenWait {
    /// One for the caller; `None` if he can only wait as a thread.
    pub(crate) fn here(py: Python<'_>) -> PyResult<Option<Self>> {
        Ok(ask(py, "wait")?.map(|wait| Self(Arc::new((wait, Ending::default())))))
    }

    /// Lets others run until it is woken or `deadline` has come.
    ///
    /// # Errors
    /// What was thrown into the green thread.
    pub(crate) fn sleep(&self, py: Python<'_>, deadline: Option<Tick>) -> PyResult<()> {
        let left = deadline.map(|deadline| deadline.since(clock::now()));
        let seconds = left.as_ref().map(Duration::as_secs_f64);
        self.object().call_method1(py, pyo3::intern!(py, "sleep"), (seconds,)).map(drop)
    }

    pub(crate) fn wake(&self, py: Python<'_>) -> PyResult<()> {
        self.object().call_method0(py, pyo3::intern!(py, "wake")).map(drop)
    }

    pub(crate) fn close(&self, py: Python<'_>) {
        if let Err(failure) = self.object().call_method0(py, pyo3::intern!(py, "close")) {
            failure.write_unraisable(py, None);
        }
    }

    pub(crate) fn object(&self) -> &Py<PyAny> {
        &self.0.0
    }

    pub(crate) fn ending(&self) -> &Ending {
        &self.0.1
    }
}
