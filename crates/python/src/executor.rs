//! `_core.Executor`: a pool and the terms on which its tasks run, as Python sees them.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use manyhands_engine::statistics::Summary;
use manyhands_os::clock;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyFunction, PyTuple};

use crate::detail::{Detail, OwnedGate};
use crate::error;
use crate::future::Future;
use crate::loop_crew::{LoopCrew, not_a_coroutine_function};
use crate::policy::Policy;
use crate::pool::{Crew, Pool};
use crate::process_crew::ProcessCrew;
use crate::reading::is_loaded;
use crate::supervisor::ProcessPool;
use crate::thread_crew::ThreadCrew;

/// Closes the pool when the last executor object and view of it are gone: its hands finish the queue and end.
struct Owner(Arc<Pool>);

impl Drop for Owner {
    fn drop(&mut self) {
        error::put_aside(|py| self.0.close(py, false));
    }
}

/// The terms of a view.
struct Terms {
    policy: Py<Policy>,
    gate: Option<Arc<OwnedGate>>,
}

struct Opened {
    owner: Arc<Owner>,
    terms: Option<Terms>,
    takes_coroutines: bool,
    /// The coroutine function that was accepted last; most programs submit one again and again.
    accepted: Mutex<Option<Py<PyAny>>>,
}

/// What the executors of manyhands have in common. Not to be instantiated itself.
#[pyclass(frozen, subclass, module = "manyhands._core")]
pub(crate) struct Executor {
    opened: OnceLock<Opened>,
}

impl Executor {
    fn opened(&self) -> PyResult<&Opened> {
        self.opened.get().ok_or_else(|| {
            PyRuntimeError::new_err("could not use the executor: its __init__ was not called by the subclass")
        })
    }

    fn open(&self, crew: Crew, spawn: Py<PyAny>) {
        let takes_coroutines = crew.runs_coroutines();
        let owner = Arc::new(Owner(Pool::new(crew, spawn)));
        let _ = self.opened.set(Opened { owner, terms: None, takes_coroutines, accepted: Mutex::new(None) });
    }

    pub(crate) fn pool(&self) -> PyResult<&Arc<Pool>> {
        Ok(&self.opened()?.owner.0)
    }

    /// Whether tasks submitted here are under a policy.
    pub(crate) fn has_terms(&self) -> PyResult<bool> {
        Ok(self.opened()?.terms.is_some())
    }

    /// What a task submitted here carries; `None` for a plain one.
    pub(crate) fn detail(&self, py: Python<'_>) -> PyResult<Option<Box<Detail>>> {
        let Some(terms) = &self.opened()?.terms else { return Ok(None) };
        let gate = terms.gate.clone();
        Ok(Some(Box::new(Detail::new(Some(terms.policy.clone_ref(py)), gate, clock::now()))))
    }

    /// Checks that the function fits the model.
    pub(crate) fn check(&self, function: &Bound<'_, PyAny>) -> PyResult<()> {
        let opened = self.opened()?;
        if !opened.takes_coroutines {
            return Ok(());
        }
        let lock = || opened.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        if lock().as_ref().is_some_and(|accepted| accepted.is(function)) {
            return Ok(());
        }
        if !is_coroutine_function(function)? {
            return Err(not_a_coroutine_function(function));
        }
        let previous = lock().replace(function.clone().unbind());
        drop(previous);
        Ok(())
    }
}

/// Whether calling a function gives a coroutine, if that can be told without `inspect`, which is a large module. Once it
/// is there, it is asked: somebody may have used it to mark a function.
fn by_its_code(function: &Bound<'_, PyAny>) -> PyResult<Option<bool>> {
    const CO_COROUTINE: u32 = 0x80;
    if is_loaded(function.py(), "inspect")? {
        return Ok(None);
    }
    if function.is_exact_instance_of::<PyCFunction>() {
        return Ok(Some(false));
    }
    if !function.is_exact_instance_of::<PyFunction>() {
        return Ok(None);
    }
    let flags: u32 = function.getattr("__code__")?.getattr("co_flags")?.extract()?;
    Ok(Some(flags & CO_COROUTINE != 0))
}

/// Whether calling it gives a coroutine: an ``async def`` function, a partial of one, or an object with such a
/// ``__call__``.
#[pyfunction]
pub(crate) fn is_coroutine_function(function: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = function.py();
    if let Some(known) = by_its_code(function)? {
        return Ok(known);
    }
    let partial = py.import("functools")?.getattr("partial")?;
    let mut function = function.clone();
    while function.is_instance(&partial)? {
        function = function.getattr("func")?;
    }
    let is_one = py.import("inspect")?.getattr("iscoroutinefunction")?;
    if is_one.call1((&function,))?.is_truthy()? {
        return Ok(true);
    }
    match function.get_type().getattr("__call__") {
        Ok(call) => is_one.call1((call,))?.is_truthy(),
        Err(_) => Ok(false),
    }
}

#[pymethods]
impl Executor {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self { opened: OnceLock::new() }
    }

    /// Run tasks on up to `workers` threads, started with `spawn(thread)`.
    fn _open_threads(&self, workers: usize, spawn: Py<PyAny>) {
        self.open(Crew::Threads(ThreadCrew::new(workers)), spawn);
    }

    /// Run coroutines on `loops` event loops, `concurrency` at once on each, started with `spawn(loop)`.
    fn _open_loops(&self, loops: usize, concurrency: usize, spawn: Py<PyAny>) {
        self.open(Crew::Loops(LoopCrew::new(loops, concurrency)), spawn);
    }

    /// Run tasks in up to `workers` processes, started with `spawn(process)`: functions one after the other, or up to
    /// `concurrency` coroutines at a time in each.
    #[pyo3(signature = (workers, spawn, concurrency = None))]
    fn _open_processes(&self, workers: usize, spawn: Py<PyAny>, concurrency: Option<usize>) -> PyResult<()> {
        self.open(Crew::Processes(ProcessCrew::new(workers, concurrency)?), spawn);
        Ok(())
    }

    /// The pool of worker processes, for whoever has to wait for it.
    fn _process_pool(&self) -> PyResult<ProcessPool> {
        Ok(ProcessPool { pool: Arc::clone(self.pool()?) })
    }

    /// Be a view of `executor` whose tasks run under `policy`.
    fn _open_view(&self, executor: &Bound<'_, Self>, policy: Bound<'_, Policy>) -> PyResult<()> {
        let parent = executor.get().opened()?;
        let gate = policy.get().limits().map(|limits| OwnedGate::new(&parent.owner.0, limits));
        let terms = (!policy.get().is_trivial()).then(|| Terms { policy: policy.unbind(), gate });
        let _ = self.opened.set(Opened {
            owner: Arc::clone(&parent.owner),
            terms,
            takes_coroutines: parent.takes_coroutines,
            accepted: Mutex::new(None),
        });
        Ok(())
    }

    /// Schedule `function(*args, **kwargs)` and return its `Future`.
    ///
    /// The task sees the caller's context variables; in another process those of modules whose values pickle.
    ///
    /// Raises:
    ///     ExecutorClosed: After `shutdown()`, or in a forked child process.
    ///     BrokenInitializer: The executor's initializer raised.
    ///     WrongExecutor: A plain function was given to an `AsyncExecutor`.
    #[pyo3(signature = (function, /, *args, **kwargs))]
    fn submit<'py>(
        &self,
        py: Python<'py>,
        function: &Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        kwargs: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, Future>> {
        self.check(function)?;
        let pool = self.pool()?;
        let work = pool.work(function, args, kwargs, None)?;
        pool.submit(py, work, self.detail(py)?)
    }

    /// Take no more tasks; with `cancel` drop those that have not begun.
    fn _close(&self, py: Python<'_>, cancel: bool) -> PyResult<()> {
        self.pool()?.close(py, cancel);
        Ok(())
    }

    #[getter]
    fn _broken(&self) -> PyResult<bool> {
        Ok(self.pool()?.is_broken())
    }

    #[getter]
    fn _shutdown(&self) -> PyResult<bool> {
        Ok(self.pool()?.shared().closed)
    }

    /// The figures of the pool, by name.
    fn _statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (statistics, queued) = {
            let shared = self.pool()?.shared();
            (shared.statistics.clone(), shared.queued())
        };
        let figures = PyDict::new(py);
        figures.set_item("submitted", statistics.submitted)?;
        figures.set_item("queued", queued)?;
        figures.set_item("started", statistics.started)?;
        figures.set_item("succeeded", statistics.succeeded)?;
        figures.set_item("failed", statistics.failed)?;
        figures.set_item("cancelled", statistics.cancelled)?;
        figures.set_item("timed_out", statistics.timed_out)?;
        figures.set_item("retried", statistics.retried)?;
        figures.set_item("interrupted", statistics.interrupted)?;
        figures.set_item("wait", summary(statistics.wait_summary()))?;
        figures.set_item("run", summary(statistics.run_summary()))?;
        Ok(figures)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(opened) = self.opened.get() else { return Ok(()) };
        if let Some(terms) = &opened.terms {
            visit.call(&terms.policy)?;
        }
        let accepted = opened.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        visit.call(&*accepted)
    }
}

/// count, mean, p50, p90, p99, max; times in seconds.
fn summary(summary: Summary) -> (u64, f64, f64, f64, f64, f64) {
    (summary.count, summary.mean, summary.p50, summary.p90, summary.p99, summary.max)
}
