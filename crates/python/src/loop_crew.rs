//! Coroutines on event loops.
//!
//! Each loop runs in a thread of its own. A task that comes in rings the bell of the loop with the fewest coroutines
//! in flight; the first ring has the loop call [`Loop::drain`], which takes tasks until the loop has as many as it
//! may. A coroutine runs as an `asyncio.Task` around a [`Runner`], which settles the future as part of the
//! coroutine's last step: nothing else has to be scheduled for that.
//!
//! # Who owns the outcome
//! A running task's future has a waiter that stands for its asyncio task. Who takes that waiter out, owns the outcome:
//! the runner when the coroutine ends, or whoever stops it before (a time limit, `cancel()`), who then also has the
//! asyncio task cancelled.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_engine::doorbell::Doorbell;
use manyhands_engine::scheduler::{Pop, Scheduler};
use manyhands_engine::start::Start;
use manyhands_os::clock;
use pyo3::exceptions::PyStopIteration;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use crate::attempt::{self, Ended, LastWords, Ran};
use crate::call::{Call, Work, function_name};
use crate::detail::Detail;
use crate::error;
use crate::future::{Future, Outcome};
use crate::latch::Latch;
use crate::native::{self, Sent};
use crate::pool::{Crew, Pool, Wake};
use crate::sync::{task_begun, task_steps, this_thread};
use crate::timers::{self, Alarm, Watched};
use crate::waiter::{LoopWaiter, Waiter, Wakes};

/// How many tasks a loop begins before it looks after what else it has to do.
const BATCH: usize = 256;

/// The event loops of a pool: the part of its state that concerns them.
pub(crate) struct LoopCrew {
    max: usize,
    /// How many coroutines one loop may have in flight.
    concurrency: usize,
    live: usize,
    hands: Vec<Arc<LoopHand>>,
    /// The earliest time for which some loop will look by itself.
    timekeeper: Option<Tick>,
}

impl LoopCrew {
    pub(crate) fn new(max: usize, concurrency: usize) -> Self {
        Self { max, concurrency, live: 0, hands: Vec::new(), timekeeper: None }
    }

    /// Whom to wake for the tasks in `scheduler`.
    pub(crate) fn wake(&mut self, scheduler: &Scheduler<Py<Future>>) -> Wake {
        if scheduler.is_empty() {
            return Wake::Nobody;
        }
        if self.live < self.max {
            self.live += 1;
            return Wake::Spawn;
        }
        let free = self.hands.iter().filter(|hand| hand.in_flight() < self.concurrency);
        free.min_by_key(|hand| hand.in_flight()).map_or(Wake::Nobody, |hand| Wake::Loop(Arc::clone(hand)))
    }

    pub(crate) fn everybody(&mut self) -> impl Iterator<Item = Arc<LoopHand>> {
        self.hands.clone().into_iter()
    }

    /// Takes note that a loop could not be started; returns how many there are.
    pub(crate) fn could_not_start(&mut self) -> usize {
        self.live -= 1;
        self.live
    }

    /// The number of the thread of that loop.
    pub(crate) fn thread_of(&self, event_loop: &Py<PyAny>) -> Option<u64> {
        let runs_it = |hand: &&Arc<LoopHand>| {
            hand.attached().as_ref().is_some_and(|attached| attached.event_loop.is(event_loop))
        };
        self.hands.iter().find(runs_it).map(|hand| hand.thread.load(Ordering::Relaxed))
    }

    /// The numbers of the threads of all loops that there will ever be; none as long as there may be more.
    pub(crate) fn all_threads(&self) -> Vec<u64> {
        let all = if self.hands.len() == self.max { self.hands.as_slice() } else { &[] };
        all.iter().map(|hand| hand.thread.load(Ordering::Relaxed)).collect()
    }

    fn dismiss(&mut self, hand: &Arc<LoopHand>) {
        self.live -= 1;
        self.hands.retain(|other| !Arc::ptr_eq(other, hand));
    }
}

/// The asyncio side of a hand, while its loop runs.
struct Attached {
    event_loop: Py<PyAny>,
    /// `Loop.drain`, bound.
    drain: Py<PyAny>,
    /// The asyncio tasks in flight; asyncio itself holds them only weakly.
    tasks: HashMap<u64, Py<PyAny>>,
}

/// One loop, as others see it.
#[derive(Default)]
pub(crate) struct LoopHand {
    bell: Doorbell,
    in_flight: AtomicUsize,
    draining: AtomicBool,
    next_task: AtomicUsize,
    attached: Mutex<Option<Attached>>,
    /// The number of its thread.
    thread: AtomicU64,
    /// Opened when the loop has left the pool.
    over: Latch,
}

impl LoopHand {
    fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn attached(&self) -> MutexGuard<'_, Option<Attached>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handles(&self, py: Python<'_>) -> Option<(Py<PyAny>, Py<PyAny>)> {
        let attached = self.attached();
        let attached = attached.as_ref()?;
        Some((attached.event_loop.clone_ref(py), attached.drain.clone_ref(py)))
    }

    /// Has the loop look at the queue, unless it is going to anyway.
    pub(crate) fn call(&self, py: Python<'_>) -> PyResult<()> {
        self.schedule(py, pyo3::intern!(py, "call_soon_threadsafe"))
    }

    fn schedule(&self, py: Python<'_>, method: &Bound<'_, pyo3::types::PyString>) -> PyResult<()> {
        if !self.bell.ring() {
            return Ok(());
        }
        // A loop that is not attached yet looks when it is.
        let Some((event_loop, drain)) = self.handles(py) else { return Ok(()) };
        event_loop.bind(py).call_method1(method, (drain,)).map(drop)
    }
}

/// Stops a coroutine that passed its time limit, and settles or retries its task.
pub(crate) fn time_out(future: &Bound<'_, Future>, attempt: u32) -> PyResult<()> {
    let Some(pool) = future.get().pool() else { return Ok(()) };
    let Some(detail) = future.get().detail() else { return Ok(()) };
    // First the mark, then the claim: whoever enrols the waiter in between finds the mark.
    if !detail.expire(attempt) {
        return Ok(());
    }
    let Some(waiter) = claim(future, |_| true) else { return Ok(()) };
    {
        let mut shared = pool.shared();
        shared.statistics.timed_out += 1;
        shared.statistics.interrupted += 1;
    }
    let last_words = LastWords { frame: last_frame(future.py(), &waiter), process: None };
    waiter.notify(future, &mut Wakes::default());
    let ended = attempt::timed_out(future, pool, last_words, &mut Wakes::default())?;
    pool.shared().count(ended);
    Ok(())
}

/// Where the coroutine is that such a waiter stands for.
fn last_frame(py: Python<'_>, waiter: &Waiter) -> Option<String> {
    let Waiter::Coroutine(running) = waiter else { return None };
    let runner = running.future.bind(py).call_method0("get_coro").ok()?.cast_into::<Runner>().ok()?;
    error::last_frame(py, "of_coroutine", (runner.get().coroutine.get()?,))
}

/// Takes out the waiter that stands for the running coroutine: who gets it owns the outcome.
///
/// After a retry, the coroutine of an attempt that was stopped may still be cleaning up while the next one runs: `is_it`
/// tells their asyncio tasks apart.
fn claim(future: &Bound<'_, Future>, is_it: impl Fn(&Py<PyAny>) -> bool) -> Option<Waiter> {
    future.get().unsubscribe(|waiter| matches!(waiter, Waiter::Coroutine(running) if is_it(&running.future)))
}

/// One event loop of a pool. Handed to Python, which runs the loop in a thread.
#[pyclass(frozen, module = "manyhands._core")]
pub(crate) struct Loop {
    pool: Arc<Pool>,
    hand: Arc<LoopHand>,
    start: Arc<Start>,
    name: OnceLock<String>,
}

/// What the queue had for a loop.
enum Next {
    Begin { task: Py<Future>, age: u64, now: Tick },
    LookAgain(Tick),
    PassOn(Wake),
    Nothing,
    End,
}

impl Loop {
    pub(crate) fn new(pool: &Arc<Pool>, start: &Arc<Start>) -> Self {
        let start = Arc::clone(start);
        Self { pool: Arc::clone(pool), hand: Arc::default(), start, name: OnceLock::new() }
    }

    fn next(&self) -> Next {
        let now = clock::now();
        let mut shared = self.pool.shared();
        let shared = &mut *shared;
        let Crew::Loops(crew) = &mut shared.crew else { return Next::End };
        if crew.timekeeper.is_some_and(|at| at <= now) {
            crew.timekeeper = None;
        }
        if self.hand.in_flight() >= crew.concurrency {
            // Another loop may have room for what woke this one.
            return Next::PassOn(crew.wake(&shared.scheduler));
        }
        match shared.scheduler.pop(now) {
            Pop::Ready { task, age } => {
                shared.statistics.started += 1;
                task.get().pass_gate();
                self.hand.in_flight.fetch_add(1, Ordering::Relaxed);
                Next::Begin { task, age, now }
            }
            Pop::Wait(at) if crew.timekeeper.is_none_or(|earliest| at < earliest) => {
                crew.timekeeper = Some(at);
                Next::LookAgain(at)
            }
            Pop::Empty if shared.closed && self.hand.in_flight() == 0 => Next::End,
            Pop::Wait(_) | Pop::Empty | Pop::Blocked => Next::Nothing,
        }
    }

    /// Begins one attempt.
    fn begin_task(
        &self,
        task: &Bound<'_, Future>,
        age: u64,
        now: Tick,
        event_loop: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = task.py();
        let detail = task.get().detail();
        let Some(work) = Future::start(task)? else {
            self.hand.in_flight.fetch_sub(1, Ordering::Relaxed);
            return match detail.and_then(Detail::leave_gate) {
                Some(gate) => self.pool.release(py, gate),
                None => Ok(()),
            };
        };
        let Work::Local(call) = &work else { unreachable!("loops are given local calls only") };
        let mut watched = None;
        if let Some(detail) = detail {
            let name = self.name.get().map_or("", String::as_str);
            let (attempt, deadline) = attempt::begin(py, detail, &work, age, now, name)?;
            let alarm = |future| Alarm::Coroutine { future, attempt };
            watched = deadline.map(|at| timers::arm(at, alarm(task.clone().unbind()))).transpose()?;
        }
        let waited = detail.map_or_else(|| now - call.submitted, |detail| detail.history().waited);
        let runner = Runner {
            pool: Arc::clone(&self.pool),
            hand: Arc::clone(&self.hand),
            future: task.clone().unbind(),
            body: Mutex::new(Body { watched, number: None }),
            coroutine: OnceLock::new(),
            began: now,
            waited,
        };
        match call.make(py).and_then(|made| expect_awaitable(call, made)) {
            Ok(coroutine) => {
                let _ = runner.coroutine.set(coroutine.unbind());
                let runner = Bound::new(py, runner)?;
                self.launch(task, &runner, call, event_loop)
            }
            Err(error) => {
                runner.settle(py, Ending::Result(Err(error)));
                Ok(())
            }
        }
    }

    fn launch(
        &self,
        future: &Bound<'_, Future>,
        runner: &Bound<'_, Runner>,
        call: &Call,
        event_loop: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = future.py();
        let number = self.hand.next_task.fetch_add(1, Ordering::Relaxed) as u64;
        runner.get().body().number = Some(number);
        let task = new_asyncio_task(runner.as_any(), event_loop, call.context.bind(py))?;
        if task.call_method0(pyo3::intern!(py, "done"))?.is_truthy()? {
            return Ok(());
        }
        if let Some(attached) = self.hand.attached().as_mut() {
            attached.tasks.insert(number, task.clone().unbind());
        }
        let waiter = LoopWaiter { event_loop: event_loop.clone().unbind(), future: task.clone().unbind() };
        if future.get().subscribe(Waiter::Coroutine(waiter)).is_err() {
            // Cancelled between its start and now.
            task.call_method0(pyo3::intern!(py, "cancel"))?;
        }
        task_begun(future);
        match future.get().detail().and_then(Detail::expired) {
            // The limit passed in the coroutine's first step, before there was anything to stop.
            Some(attempt) => time_out(future, attempt),
            None => Ok(()),
        }
    }
}

#[pymethods]
impl Loop {
    /// The thread of this hand begins; `False` if it must not, for it was revoked.
    fn begin(&self) -> bool {
        self.start.begin()
    }

    /// Do not let the thread begin; `False` if it has.
    fn revoke(&self) -> bool {
        self.start.revoke()
    }

    /// Take the running `event_loop` as the one to run coroutines on, and look at the queue for the first time.
    fn attach(slf: &Bound<'_, Self>, name: String, event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
        let this = slf.get();
        let _ = this.name.set(name);
        this.hand.thread.store(this_thread(), Ordering::Relaxed);
        let drain = slf.getattr("drain")?;
        *this.hand.attached() = Some(Attached {
            event_loop: event_loop.clone().unbind(),
            drain: drain.clone().unbind(),
            tasks: HashMap::new(),
        });
        if let Crew::Loops(crew) = &mut this.pool.shared().crew {
            crew.hands.push(Arc::clone(&this.hand));
        }
        event_loop.call_method1("call_soon", (drain,)).map(drop)
    }

    /// Leave the pool: the loop is about to be closed.
    fn detach(&self) {
        let attached = self.hand.attached().take();
        if let Crew::Loops(crew) = &mut self.pool.shared().crew {
            crew.dismiss(&self.hand);
        }
        self.hand.over.open();
        drop(attached);
    }

    /// Never: a coroutine that is stopped gives way.
    #[classattr]
    fn abandoned() -> bool {
        false
    }

    /// Take no more tasks into the pool.
    fn close(&self, py: Python<'_>) {
        self.pool.close(py, false);
    }

    /// Wait until the loop has left the pool.
    fn wait_until_over(&self, py: Python<'_>) -> PyResult<()> {
        self.hand.over.wait(py)
    }

    /// Fail everything in the pool, because the initializer raised.
    fn break_down(&self, py: Python<'_>) {
        self.pool.break_down(py);
        if let Crew::Loops(crew) = &mut self.pool.shared().crew {
            crew.dismiss(&self.hand);
        }
        self.hand.over.open();
    }

    /// Begin as many queued tasks as the loop may have in flight. Called on the loop.
    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        self.hand.bell.answer();
        let Some((event_loop, drain)) = self.hand.handles(py) else { return Ok(()) };
        let event_loop = event_loop.bind(py);
        self.hand.draining.store(true, Ordering::Relaxed);
        let more = self.begin_some(event_loop, drain.bind(py));
        self.hand.draining.store(false, Ordering::Relaxed);
        if more? { self.hand.schedule(py, pyo3::intern!(py, "call_soon")) } else { Ok(()) }
    }
}

impl Loop {
    /// Begins up to a batch of tasks; whether there may be more to begin at once.
    fn begin_some(&self, event_loop: &Bound<'_, PyAny>, drain: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = event_loop.py();
        for _ in 0..BATCH {
            match self.next() {
                Next::Begin { task, age, now } => {
                    let task = task.bind(py);
                    if let Err(error) = self.begin_task(task, age, now, event_loop) {
                        error.write_unraisable(py, Some(task.as_any()));
                    }
                }
                Next::LookAgain(at) => {
                    let delay = (at - clock::now()).as_secs_f64();
                    event_loop.call_method1(pyo3::intern!(py, "call_later"), (delay, drain))?;
                    return Ok(false);
                }
                Next::PassOn(wake) => return self.pool.perform(py, wake).map(|()| false),
                Next::Nothing => return Ok(false),
                Next::End => {
                    event_loop.call_method0(pyo3::intern!(py, "stop"))?;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// `asyncio.Task(runner, loop=…)` in `context`, its first step taken at once where Python can do that.
fn new_asyncio_task<'py>(
    runner: &Bound<'py, PyAny>,
    event_loop: &Bound<'py, PyAny>,
    context: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    static TASK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = runner.py();
    let class = TASK
        .get_or_try_init(py, || Ok::<_, PyErr>(py.import("asyncio")?.getattr("Task")?.unbind()))?
        .bind(py);
    let keywords = PyDict::new(py);
    keywords.set_item(pyo3::intern!(py, "loop"), event_loop)?;
    if cfg!(Py_3_11) {
        keywords.set_item(pyo3::intern!(py, "context"), context)?;
    }
    if cfg!(Py_3_12) {
        keywords.set_item(pyo3::intern!(py, "eager_start"), true)?;
    }
    let make = || class.call(PyTuple::new(py, [runner])?, Some(&keywords));
    // Before 3.11 a task copies the context in which it is made.
    if cfg!(Py_3_11) { make() } else { native::in_context(context, make) }
}

fn expect_awaitable<'py>(call: &Call, made: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = made.py();
    if native::is_coroutine(&made) {
        return Ok(made);
    }
    if made.hasattr(pyo3::intern!(py, "__await__"))? {
        return made.call_method0(pyo3::intern!(py, "__await__"));
    }
    Err(not_a_coroutine_function(call.function.bind(py)))
}

/// What a plain function given to an event loop is answered.
pub(crate) fn not_a_coroutine_function(function: &Bound<'_, PyAny>) -> PyErr {
    let py = function.py();
    error::error_with_hint(
        py,
        error::wrong_executor(py),
        format!(
            "could not run `{}` on an event loop: it is not an `async def` function, and would block the loop",
            function_name(function)
        ),
        "use ThreadExecutor, or on=\"thread\"",
    )
}

/// How a coroutine ended.
enum Ending {
    Result(PyResult<Py<PyAny>>),
    /// It let a cancellation through.
    Cancelled,
}

/// What changes while a runner runs.
struct Body {
    watched: Option<Watched>,
    number: Option<u64>,
}

/// A coroutine around the user's, which settles the future when that one ends.
#[pyclass(frozen, module = "manyhands._core")]
pub(crate) struct Runner {
    pool: Arc<Pool>,
    hand: Arc<LoopHand>,
    future: Py<Future>,
    coroutine: OnceLock<Py<PyAny>>,
    body: Mutex<Body>,
    began: Tick,
    waited: Duration,
}

impl Runner {
    fn body(&self) -> MutexGuard<'_, Body> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inner<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyAny>> {
        match self.coroutine.get() {
            Some(coroutine) => Ok(coroutine.bind(py)),
            None => Err(pyo3::exceptions::PyRuntimeError::new_err("the task has no coroutine")),
        }
    }

    /// The coroutine has ended: settles the future, unless somebody else owns the outcome, and frees the place.
    fn settle(&self, py: Python<'_>, ending: Ending) {
        let future = self.future.bind(py);
        let (watched, number) = {
            let mut body = self.body();
            (body.watched.take(), body.number)
        };
        let task = number.and_then(|number| self.hand.attached().as_mut()?.tasks.remove(&number));
        // An eager task that never waited was not enrolled: then only a cancellation could have come before.
        let mine = task.is_none_or(|task| claim(future, |running| running.is(&task)).is_some());
        if let Some(watched) = watched {
            watched.disarm();
        }
        let ended = if mine { self.end(future, ending) } else { Ended::Skipped };
        self.leave(py, ended);
    }

    fn end(&self, future: &Bound<'_, Future>, ending: Ending) -> Ended {
        let py = future.py();
        if let Some(detail) = future.get().detail() {
            attempt::measure(detail, clock::now() - self.began, Duration::ZERO);
        }
        let ended = match ending {
            Ending::Result(result) => {
                attempt::ended(future, &self.pool, Outcome::of(py, result), &mut Wakes::default())
            }
            Ending::Cancelled => {
                Future::cancel_now(future);
                match future.get().detail().and_then(Detail::leave_gate) {
                    Some(gate) => self.pool.release(py, gate).map(|()| Ended::Skipped),
                    None => Ok(Ended::Skipped),
                }
            }
        };
        ended.unwrap_or_else(|failure| {
            failure.write_unraisable(py, None);
            Ended::Failed
        })
    }

    /// Frees the place in the loop, and has the loop look for another task if there are any.
    fn leave(&self, py: Python<'_>, ended: Ended) {
        self.hand.in_flight.fetch_sub(1, Ordering::Relaxed);
        let look = {
            let mut shared = self.pool.shared();
            shared.record(&Ran { ended, waited: self.waited, began: self.began }, clock::now());
            !shared.scheduler.is_empty() || shared.closed
        };
        if look
            && !self.hand.draining.load(Ordering::Relaxed)
            && let Err(failure) = self.hand.schedule(py, pyo3::intern!(py, "call_soon"))
        {
            failure.write_unraisable(py, None);
        }
    }

    /// Handles what one step of the coroutine gave.
    fn stepped<'py>(
        &self,
        py: Python<'py>,
        step: PyResult<Sent<'py>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match step {
            Ok(Sent::Yielded(awaited)) => Ok(Some(awaited)),
            Ok(Sent::Returned(value)) => {
                self.settle(py, Ending::Result(Ok(value.unbind())));
                Ok(None)
            }
            Err(error) if is_cancellation(py, &error) => {
                self.settle(py, Ending::Cancelled);
                Err(error)
            }
            Err(error) => {
                self.settle(py, Ending::Result(Err(error)));
                Ok(None)
            }
        }
    }
}

fn is_cancellation(py: Python<'_>, error: &PyErr) -> bool {
    static CANCELLED: PyOnceLock<Py<pyo3::types::PyType>> = PyOnceLock::new();
    CANCELLED.import(py, "asyncio", "CancelledError").is_ok_and(|class| error.is_instance(py, class))
}

#[pymethods]
impl Runner {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let _step = task_steps(self.future.bind(py));
        let step = native::send(self.inner(py)?, py.None().bind(py));
        self.stepped(py, step)
    }

    /// Resume the coroutine with a value.
    fn send<'py>(&self, py: Python<'py>, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let _step = task_steps(self.future.bind(py));
        let step = native::send(self.inner(py)?, value);
        self.stepped(py, step)?.ok_or_else(|| PyStopIteration::new_err(()))
    }

    /// Raise an exception where the coroutine waits.
    #[pyo3(signature = (*exception))]
    fn throw<'py>(&self, py: Python<'py>, exception: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        let step = match self.inner(py)?.call_method1(pyo3::intern!(py, "throw"), exception.clone()) {
            Ok(awaited) => Ok(Sent::Yielded(awaited)),
            Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
                error.value(py).getattr(pyo3::intern!(py, "value")).map(Sent::Returned)
            }
            Err(error) => Err(error),
        };
        self.stepped(py, step)?.ok_or_else(|| PyStopIteration::new_err(()))
    }

    /// End the coroutine.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.inner(py)?.call_method0(pyo3::intern!(py, "close")).map(drop)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.future)?;
        self.coroutine.get().map_or(Ok(()), |coroutine| visit.call(coroutine))
    }
}
