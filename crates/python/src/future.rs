//! `_core.Future`: the handle of a task's outcome, PEP 3148's interface on `engine`'s task cell.
//!
//! `manyhands.Future` inherits it and `concurrent.futures.Future`; instances are made without running either's
//! `__init__`, so the standard library's attributes do not exist in the instance. `_state`, `_result`,
//! `_condition` and `_waiters`, which the standard library's `wait` and `as_completed` touch, are properties:
//! the first use of the condition makes one and [guards](manyhands_engine::task) the cell with it.
//!
//! Rules for this file: nothing Python-visible happens under the cell's lock but taking references, for the
//! garbage collector may look at any future at any allocation.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use manyhands_engine::clock::Tick;
use manyhands_engine::task::{Cancel, Cell, Finish, Key, Start, State};
use manyhands_os::{clock, park};
use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyList, PyType};

use crate::call::Work;
use crate::detail::Detail;
use crate::enter;
use crate::error;
use crate::parcel::Reply;
use crate::pool::Pool;
use crate::sync::{ResultWait, wait_for_result, watches_locks};
use crate::thread_crew::InnerWait;
use crate::waiter::{LoopWaiter, Waiter, Wakes, call_back};

/// How a task ended, if not by cancellation.
pub(crate) enum Outcome {
    Value(Py<PyAny>),
    /// An exception instance.
    Error(Py<PyAny>),
    /// A value or an exception as a worker process sent it, to be read by whoever asks first.
    Reply(Arc<Reply>),
}

impl Outcome {
    pub(crate) fn of(py: Python<'_>, result: PyResult<Py<PyAny>>) -> Self {
        match result {
            Ok(value) => Self::Value(value),
            Err(error) => Self::Error(error.into_value(py).into_any()),
        }
    }

    fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Value(value) => Self::Value(value.clone_ref(py)),
            Self::Error(error) => Self::Error(error.clone_ref(py)),
            Self::Reply(reply) => Self::Reply(Arc::clone(reply)),
        }
    }

    fn into_result(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Self::Value(value) => Ok(value),
            Self::Error(error) => Err(PyErr::from_value(error.into_bound(py))),
            Self::Reply(reply) => reply.read(py),
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        match self {
            Self::Value(_) => false,
            Self::Error(_) => true,
            Self::Reply(reply) => reply.has_failed,
        }
    }

    /// The same outcome as Python objects, which every further look gives again.
    pub(crate) fn read(self, py: Python<'_>) -> Self {
        match self {
            Self::Reply(reply) => Self::of(py, reply.read(py)),
            read => read,
        }
    }
}

/// What settling a task without the interpreter left to be done with it.
pub(crate) enum Rest {
    Nothing,
    /// These waiters are Python's.
    Tell(Vec<Waiter>),
    /// The task is guarded by the standard library's condition.
    Finish(Outcome),
    /// The outcome came too late; it is kept only to be dropped where Python objects may be.
    TooLate {
        _outcome: Outcome,
    },
}

/// What `concurrent.futures.wait` and `as_completed` need of a future.
struct Standard {
    condition: Py<PyAny>,
    waiters: Py<PyList>,
}

/// The handle of a task's outcome.
#[pyclass(frozen, subclass, generic, module = "manyhands._core")]
pub(crate) struct Future {
    cell: Cell<Work, Outcome, Waiter>,
    standard: OnceLock<Box<Standard>>,
    pool: OnceLock<Arc<Pool>>,
    detail: OnceLock<Box<Detail>>,
    observed: AtomicBool,
}

impl Future {
    fn blank() -> Self {
        Self {
            cell: Cell::default(),
            standard: OnceLock::new(),
            pool: OnceLock::new(),
            detail: OnceLock::new(),
            observed: AtomicBool::new(false),
        }
    }

    /// A new pending `manyhands.Future`.
    pub(crate) fn create(py: Python<'_>) -> PyResult<Bound<'_, Self>> {
        static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let class = CLASS.import(py, "manyhands.futures", "Future")?;
        crate::native::new_without_init(class)?.cast_into::<Self>().map_err(PyErr::from)
    }

    /// A new future for a call that `pool` will make.
    pub(crate) fn create_for<'py>(
        py: Python<'py>,
        pool: &Arc<Pool>,
        work: Work,
        detail: Option<Box<Detail>>,
    ) -> PyResult<Bound<'py, Self>> {
        let future = Self::create(py)?;
        let this = future.get();
        this.cell.set_call(work);
        let _ = this.pool.set(Arc::clone(pool));
        if let Some(detail) = detail {
            let _ = this.detail.set(detail);
        }
        Ok(future)
    }

    /// A new future that stands for a bulk, and is nobody's result.
    pub(crate) fn create_token(py: Python<'_>, detail: Box<Detail>) -> PyResult<Bound<'_, Self>> {
        let token = Self::create(py)?;
        let _ = token.get().detail.set(detail);
        Ok(token)
    }

    pub(crate) fn detail(&self) -> Option<&Detail> {
        self.detail.get().map(Box::as_ref)
    }

    /// Takes note that the scheduler handed the task out.
    pub(crate) fn pass_gate(&self) {
        if let Some(detail) = self.detail() {
            detail.pass_gate();
        }
    }

    pub(crate) fn pool(&self) -> Option<&Arc<Pool>> {
        self.pool.get()
    }

    /// Whether it was cancelled or raised.
    pub(crate) fn has_failed(&self) -> bool {
        self.cell.peek(|state, outcome, _| state.is_cancelled() || outcome.is_some_and(Outcome::has_failed))
    }

    pub(crate) fn state(&self) -> State {
        self.cell.state()
    }

    pub(crate) fn subscribe(&self, waiter: Waiter) -> Result<(), Waiter> {
        self.cell.subscribe(waiter)
    }

    pub(crate) fn unsubscribe(&self, is_it: impl FnMut(&Waiter) -> bool) -> Option<Waiter> {
        self.cell.unsubscribe(is_it)
    }

    /// Marks the task's failure as seen, so that nobody is warned of it.
    pub(crate) fn observe(&self) {
        self.observed.store(true, Ordering::Relaxed);
    }

    /// The outcome, if the task is settled: a value or an exception.
    pub(crate) fn outcome(&self, py: Python<'_>) -> Option<PyResult<Py<PyAny>>> {
        let (state, outcome) = self.look(py);
        match state {
            State::Pending | State::Running => None,
            State::Cancelled | State::CancelledAndNotified => Some(Err(error::cancelled(py))),
            State::Finished => Some(outcome.map_or_else(|| Ok(py.None()), |outcome| outcome.into_result(py))),
        }
    }

    /// The state and the outcome, as Python objects.
    fn look(&self, py: Python<'_>) -> (State, Option<Outcome>) {
        let look = || self.cell.peek(|state, outcome, _| (state, outcome.map(|it| it.clone_ref(py))));
        let (state, outcome) = look();
        let Some(Outcome::Reply(reply)) = outcome else { return (state, outcome) };
        let read = Outcome::Reply(reply).read(py);
        // Two threads may both have read it: then both go by what the first one put there.
        drop(self.cell.replace_outcome(read, |known| matches!(known, Outcome::Reply(_))));
        look()
    }

    /// Runs a transition, holding the standard library's condition if the cell is guarded by it.
    fn transition<R>(slf: &Bound<'_, Self>, step: impl Fn(Key) -> Option<R>) -> PyResult<R> {
        if let Some(done) = step(Key::None) {
            return Ok(done);
        }
        let py = slf.py();
        let standard = slf.get().standard(py)?;
        let condition = standard.condition.bind(py);
        condition.call_method0(pyo3::intern!(py, "acquire"))?;
        let done = step(Key::Held).expect("the holder of the condition is not refused");
        let told = Self::tell_standard_waiters(slf, standard);
        condition.call_method0(pyo3::intern!(py, "release"))?;
        told?;
        Ok(done)
    }

    /// Tells those enrolled by the standard library's `wait` and `as_completed`, as PEP 3148's executors do.
    fn tell_standard_waiters(slf: &Bound<'_, Self>, standard: &Standard) -> PyResult<()> {
        let py = slf.py();
        let method = match slf
            .get()
            .cell
            .peek(|state, outcome, _| (state, outcome.is_some_and(Outcome::has_failed)))
        {
            (State::Finished, true) => "add_exception",
            (State::Finished, false) => "add_result",
            (State::CancelledAndNotified, _) => "add_cancelled",
            _ => return standard.condition.bind(py).call_method0("notify_all").map(drop),
        };
        for waiter in standard.waiters.bind(py).iter() {
            waiter.call_method1(method, (slf,))?;
        }
        standard.condition.bind(py).call_method0("notify_all").map(drop)
    }

    fn standard(&self, py: Python<'_>) -> PyResult<&Standard> {
        if self.standard.get().is_none() {
            let condition = py.import("threading")?.getattr("Condition")?.call0()?.unbind();
            // Another thread may have been faster; then this one's is dropped unused.
            let _ = self.standard.set(Box::new(Standard { condition, waiters: PyList::empty(py).unbind() }));
        }
        self.cell.guard();
        Ok(self.standard.get().expect("set above"))
    }

    /// Takes the call to run it; `None` if there is nothing to run.
    pub(crate) fn start(slf: &Bound<'_, Self>) -> PyResult<Option<Work>> {
        let started = Self::transition(slf, |key| match slf.get().cell.start(key) {
            Start::Guarded => None,
            started => Some(started),
        })?;
        Ok(match started {
            Start::Run(call) => call,
            _ => None,
        })
    }

    /// Puts a running task back to pending, to be tried again; gives the call back if it was settled meanwhile.
    pub(crate) fn requeue(&self, work: Work) -> Result<(), Work> {
        self.cell.requeue(work)
    }

    /// Settles the task; `Err` says in which state it was already.
    pub(crate) fn finish(
        slf: &Bound<'_, Self>,
        outcome: Outcome,
        wakes: &mut Wakes,
    ) -> PyResult<Result<(), State>> {
        let offered = std::cell::Cell::new(Some(outcome));
        let finished = Self::transition(slf, |key| match slf.get().cell.finish(offered.take()?, key) {
            Finish::Guarded(outcome) => {
                offered.set(Some(outcome));
                None
            }
            Finish::Done(waiters) => Some(Ok(waiters)),
            Finish::Refused(_, state) => Some(Err(state)),
        })?;
        Ok(finished.map(|waiters| Self::notify(slf, waiters, wakes)))
    }

    /// Takes the work to do it elsewhere, without the interpreter; `None` if there is nothing to do.
    ///
    /// The standard library's protocol is about settled futures only, so a start needs no condition; a cancelled task
    /// is left for somebody who can tell its waiters.
    pub(crate) fn start_detached(&self) -> Option<Work> {
        match self.cell.start(Key::Held) {
            Start::Run(work) => work,
            Start::Cancelled | Start::Guarded | Start::Refused(_) => None,
        }
    }

    /// Settles the task without the interpreter, as far as that goes; what is left to be done with it is returned.
    pub(crate) fn finish_detached(&self, outcome: Outcome, wakes: &mut Wakes) -> Rest {
        let failed = outcome.has_failed();
        let retries = self.detail().map_or(0, |detail| detail.history().attempts.saturating_sub(1));
        match self.cell.finish(outcome, Key::None) {
            Finish::Done(waiters) => {
                let left = waiters
                    .into_iter()
                    .filter_map(|waiter| waiter.notify_detached(failed, retries.into(), wakes).err())
                    .collect::<Vec<_>>();
                if left.is_empty() { Rest::Nothing } else { Rest::Tell(left) }
            }
            Finish::Guarded(outcome) => Rest::Finish(outcome),
            Finish::Refused(outcome, _) => Rest::TooLate { _outcome: outcome },
        }
    }

    /// Does what [`finish_detached`](Self::finish_detached) had to leave.
    pub(crate) fn do_rest(slf: &Bound<'_, Self>, rest: Rest, wakes: &mut Wakes) -> PyResult<()> {
        match rest {
            Rest::Nothing | Rest::TooLate { .. } => Ok(()),
            Rest::Tell(waiters) => {
                Self::notify(slf, waiters, wakes);
                Ok(())
            }
            Rest::Finish(outcome) => Self::finish(slf, outcome, wakes).map(drop),
        }
    }

    fn notify(slf: &Bound<'_, Self>, waiters: Vec<Waiter>, wakes: &mut Wakes) {
        for waiter in waiters {
            waiter.notify(slf, wakes);
        }
    }

    fn try_cancel(slf: &Bound<'_, Self>, insist: bool) -> PyResult<bool> {
        let cancelled = Self::transition(slf, |key| match slf.get().cell.cancel(insist, key) {
            Cancel::Guarded => None,
            cancelled => Some(cancelled),
        })?;
        match cancelled {
            Cancel::Done { waiters, call, was_running } => {
                if let Some(pool) = slf.get().pool() {
                    pool.cancelled(slf, was_running);
                }
                Self::notify(slf, waiters, &mut Wakes::default());
                drop(call);
                Ok(true)
            }
            Cancel::Already => Ok(true),
            Cancel::Guarded | Cancel::Refused(_) => Ok(false),
        }
    }

    /// Cancels a task that has not begun, or whose model can stop it at no cost.
    pub(crate) fn cancel_gently(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let insist = slf.get().pool().is_some_and(|pool| pool.cancels_running());
        Self::try_cancel(slf, insist)
    }

    /// Cancels a task, running or not, and tells everybody.
    pub(crate) fn cancel_now(slf: &Bound<'_, Self>) {
        let told = Self::try_cancel(slf, true).and_then(|_| Self::start(slf).map(drop));
        if let Err(failure) = told {
            failure.write_unraisable(slf.py(), None);
        }
    }

    /// The asyncio task that runs the task, and its event loop.
    pub(crate) fn coroutine(&self, py: Python<'_>) -> Option<(Py<PyAny>, Py<PyAny>)> {
        let mut found = None;
        self.cell.for_each_waiter(|waiter| {
            if let Waiter::Coroutine(running) = waiter {
                found = Some((running.future.clone_ref(py), running.event_loop.clone_ref(py)));
            }
        });
        found
    }

    /// Waits until the task is settled; `false` if `deadline` came before.
    pub(crate) fn wait_until(slf: &Bound<'_, Self>, deadline: Option<Tick>) -> PyResult<bool> {
        Self::wait_for_any(slf.py(), &[slf], deadline)
    }

    /// Waits until one of the tasks is settled; `false` if `deadline` came before.
    pub(crate) fn wait_for_any(
        py: Python<'_>,
        futures: &[&Bound<'_, Self>],
        deadline: Option<Tick>,
    ) -> PyResult<bool> {
        let is_over = || futures.iter().any(|future| future.get().state().is_done());
        let [single] = futures else { return Self::park_for_any(py, futures, deadline, is_over) };
        let this = single.get();
        let Some((pool, patience)) = this.pool().and_then(|pool| Some((pool, pool.patience()?))) else {
            return Self::park_for_any(py, futures, deadline, is_over);
        };
        let began = clock::now();
        let found = py.detach(|| pool.look(deadline, || this.state().is_done()));
        let waited = if found { Ok(true) } else { Self::park_for_any(py, futures, deadline, is_over) };
        if let Ok(true) = waited {
            patience.learn(clock::now() - began);
        }
        waited
    }

    fn park_for_any(
        py: Python<'_>,
        futures: &[&Bound<'_, Self>],
        deadline: Option<Tick>,
        is_over: impl Fn() -> bool,
    ) -> PyResult<bool> {
        let inner_wait = match futures {
            [future] if deadline.is_none() && watches_locks() => InnerWait::begin(future)?,
            _ => None,
        };
        let parker = park::mine();
        for future in futures {
            if future.get().cell.subscribe(Waiter::Thread(Arc::clone(&parker))).is_err() {
                break;
            }
        }
        let waited = match futures {
            [future] if deadline.is_none() && watches_locks() => wait_for_result(future, &parker, is_over),
            _ => enter::wait_until(py, &parker, deadline, is_over),
        };
        for future in futures {
            future
                .get()
                .unsubscribe(|waiter| matches!(waiter, Waiter::Thread(other) if Arc::ptr_eq(other, &parker)));
        }
        drop(inner_wait);
        waited
    }

    fn settled(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<PyResult<Py<PyAny>>> {
        let py = slf.py();
        let this = slf.get();
        let outcome = match this.outcome(py) {
            Some(outcome) => outcome,
            None if Self::wait_until(slf, enter::deadline(timeout)?)? => {
                this.outcome(py).ok_or_else(|| error::gave_up_waiting(py))?
            }
            None => return Err(error::gave_up_waiting(py)),
        };
        this.observe();
        Ok(outcome)
    }

    /// Warns of a failure that nobody looked at.
    fn warn_if_unobserved(&self, outcome: Option<&Outcome>) {
        if self.observed.swap(true, Ordering::Relaxed) {
            return;
        }
        let Some(outcome) = outcome.filter(|outcome| outcome.has_failed()) else { return };
        error::put_aside(|py| {
            if let Outcome::Error(error) = outcome.clone_ref(py).read(py) {
                crate::unobserved::warn(py, error.bind(py));
            }
        });
    }
}

impl Drop for Future {
    fn drop(&mut self) {
        if !*self.observed.get_mut() {
            let (_, outcome, _) = self.cell.clear();
            self.warn_if_unobserved(outcome.as_ref());
        }
    }
}

#[pymethods]
impl Future {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        crate::unobserved::prepare(py)?;
        Ok(Self::blank())
    }

    /// Do nothing: the state was made with the object.
    #[expect(clippy::unused_self, reason = "without it, the standard library's __init__ would run")]
    fn __init__(&self) {}

    /// Return the task's value, or raise its exception, waiting up to `timeout` seconds for it.
    ///
    /// Args:
    ///     timeout: Seconds to wait; None waits for ever. Running out of them leaves the task running.
    ///
    /// Raises:
    ///     concurrent.futures.TimeoutError: It was not settled in time.
    ///     concurrent.futures.CancelledError: It was cancelled.
    #[pyo3(signature = (timeout = None))]
    fn result(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        Self::settled(slf, timeout)?
    }

    /// Return the exception that the task raised, or None, waiting up to `timeout` seconds for it.
    ///
    /// Args:
    ///     timeout: Seconds to wait; None waits for ever.
    ///
    /// Raises:
    ///     concurrent.futures.TimeoutError: It was not settled in time.
    ///     concurrent.futures.CancelledError: It was cancelled.
    #[pyo3(signature = (timeout = None))]
    fn exception(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Option<Py<PyAny>>> {
        let py = slf.py();
        match Self::settled(slf, timeout)? {
            Ok(_) => Ok(None),
            Err(error) if slf.get().state().is_cancelled() => Err(error),
            Err(error) => Ok(Some(error.into_value(py).into_any())),
        }
    }

    /// Cancel the task if it has not begun; a coroutine is cancelled while it runs, too.
    ///
    /// Args:
    ///     force: Stop a function that runs on a thread as well: its future is cancelled at once, the function is
    ///         interrupted at its next bytecode, and a fresh thread takes the place of the one that runs it.
    ///
    /// Returns:
    ///     Whether the task is cancelled.
    #[pyo3(signature = (*, force = false))]
    fn cancel(slf: &Bound<'_, Self>, force: bool) -> PyResult<bool> {
        if force { Self::try_cancel(slf, true) } else { Self::cancel_gently(slf) }
    }

    /// Whether the task was cancelled.
    fn cancelled(&self) -> bool {
        self.state().is_cancelled()
    }

    /// Whether the task is being run now.
    fn running(&self) -> bool {
        self.state() == State::Running
    }

    /// Whether the task has a value or an exception, or was cancelled.
    fn done(&self) -> bool {
        self.state().is_done()
    }

    /// Call `fn(future)` when the task is settled, at once if it is already.
    ///
    /// Callbacks run in the thread that settles the task, in the order in which they were added. What one raises
    /// is logged and otherwise ignored.
    fn add_done_callback(slf: &Bound<'_, Self>, r#fn: Py<PyAny>) {
        if let Err(Waiter::Callback(callback)) = slf.get().subscribe(Waiter::Callback(r#fn)) {
            call_back(callback.bind(slf.py()), slf);
        }
    }

    /// Mark the task as running; for implementers of executors.
    ///
    /// Returns:
    ///     False if it was cancelled: it must not be run, and those who wait have been told.
    fn set_running_or_notify_cancel(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let started = Self::transition(slf, |key| match slf.get().cell.start(key) {
            Start::Guarded => None,
            started => Some(started),
        })?;
        match started {
            Start::Run(_) => Ok(true),
            Start::Refused(state) => Err(pyo3::exceptions::PyRuntimeError::new_err(format!(
                "Future in unexpected state: {}",
                error::standard_name(state)
            ))),
            Start::Cancelled | Start::Guarded => Ok(false),
        }
    }

    /// Settle the task with a value; for implementers of executors.
    ///
    /// Raises:
    ///     concurrent.futures.InvalidStateError: It is settled already.
    fn set_result(slf: &Bound<'_, Self>, result: Py<PyAny>) -> PyResult<()> {
        Self::finish(slf, Outcome::Value(result), &mut Wakes::default())?
            .map_err(|state| error::invalid_state(slf.as_any(), state))
    }

    /// Settle the task with an exception; for implementers of executors.
    ///
    /// Raises:
    ///     concurrent.futures.InvalidStateError: It is settled already.
    fn set_exception(slf: &Bound<'_, Self>, exception: Bound<'_, PyAny>) -> PyResult<()> {
        Self::finish(slf, error_outcome(&exception)?, &mut Wakes::default())?
            .map_err(|state| error::invalid_state(slf.as_any(), state))
    }

    /// Have `future` of `event_loop` woken when the task is settled; False if it is settled already. The running task is
    /// taken to await that as long as the answer lives.
    fn _enrol_loop(slf: &Bound<'_, Self>, event_loop: Py<PyAny>, future: Py<PyAny>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let wait = ResultWait::of_task(slf)?;
        let is_to_come = slf.get().subscribe(Waiter::Loop(LoopWaiter { event_loop, future })).is_ok();
        match wait.filter(|_| is_to_come) {
            Some(wait) => Ok(Py::new(py, wait)?.into_any()),
            None => Ok(PyBool::new(py, is_to_come).to_owned().into_any().unbind()),
        }
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        let (state, outcome) =
            slf.get().cell.peek(|state, outcome, _| (state, outcome.map(|it| it.clone_ref(py))));
        let ending = match outcome {
            Some(Outcome::Value(value)) => format!(" returned {}", value.bind(py).get_type().name()?),
            Some(Outcome::Error(error)) => format!(" raised {}", error.bind(py).get_type().name()?),
            Some(Outcome::Reply(_)) | None => String::new(),
        };
        Ok(format!("<{} at {:#x} state={state}{ending}>", slf.get_type().name()?, slf.as_ptr() as usize))
    }

    #[getter]
    fn _condition(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.standard(py)?.condition.clone_ref(py))
    }

    #[getter]
    fn _waiters(&self, py: Python<'_>) -> PyResult<Py<PyList>> {
        Ok(self.standard(py)?.waiters.clone_ref(py))
    }

    #[getter]
    fn _state(&self) -> &'static str {
        error::standard_name(self.state())
    }

    #[setter(_state)]
    fn force_state(&self, name: &str) -> PyResult<()> {
        let state = match name {
            "PENDING" => State::Pending,
            "RUNNING" => State::Running,
            "CANCELLED" => State::Cancelled,
            "CANCELLED_AND_NOTIFIED" => State::CancelledAndNotified,
            "FINISHED" => State::Finished,
            _ => return Err(pyo3::exceptions::PyValueError::new_err(format!("no such state: {name}"))),
        };
        drop(self.cell.force(state, None));
        Ok(())
    }

    #[getter]
    fn _result(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match self.look(py).1 {
            Some(Outcome::Value(value)) => Some(value),
            _ => None,
        }
    }

    #[setter(_result)]
    fn force_result(&self, value: Option<Py<PyAny>>) {
        if let Some(value) = value {
            drop(self.cell.force(self.state(), Some(Outcome::Value(value))));
        }
    }

    #[getter]
    fn _exception(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match self.look(py).1 {
            Some(Outcome::Error(error)) => Some(error),
            _ => None,
        }
    }

    #[setter(_exception)]
    fn force_exception(&self, error: Option<Py<PyAny>>) {
        if let Some(error) = error {
            drop(self.cell.force(self.state(), Some(Outcome::Error(error))));
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let mut seen = self.cell.peek(|_, outcome, call| {
            match outcome {
                Some(Outcome::Value(object) | Outcome::Error(object)) => visit.call(object)?,
                Some(Outcome::Reply(_)) | None => {}
            }
            call.map_or(Ok(()), |call| call.traverse(visit))
        });
        self.cell.for_each_waiter(|waiter| {
            if seen.is_ok() {
                seen = waiter.traverse(visit);
            }
        });
        seen?;
        if let Some(standard) = self.standard.get() {
            visit.call(&standard.condition)?;
            visit.call(&standard.waiters)?;
        }
        self.detail().map_or(Ok(()), |detail| detail.traverse(visit))
    }

    fn __clear__(&self) {
        let (call, outcome, waiters) = self.cell.clear();
        self.warn_if_unobserved(outcome.as_ref());
        drop((call, outcome, waiters));
    }
}

/// An exception given by a user as an outcome; a class is called, as `raise` would.
fn error_outcome(exception: &Bound<'_, PyAny>) -> PyResult<Outcome> {
    use pyo3::exceptions::PyBaseException;
    if exception.is_instance_of::<PyBaseException>() {
        return Ok(Outcome::Error(exception.clone().unbind()));
    }
    if let Ok(class) = exception.cast::<PyType>()
        && class.is_subclass_of::<PyBaseException>()?
    {
        return Ok(Outcome::Error(class.call0()?.unbind()));
    }
    let found = exception.get_type().name()?;
    Err(PyTypeError::new_err(format!("could not set the exception: found {found}, expected an exception")))
}
