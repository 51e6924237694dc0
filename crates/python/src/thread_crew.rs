//! Tasks on threads.
//!
//! A thread is a `threading.Thread` whose target is [`Thread::run`]: it takes a task, runs it, settles its future and
//! takes the next, attached all the while, so that a queue of small tasks costs no switches. With nothing to take it
//! enrols as idle, detaches and sleeps.
//!
//! Whom a new task wakes, and who wakes for a task that has to wait for a time, is decided by
//! [`engine::crew`](manyhands_engine::crew).
//!
//! # Stopping
//! What a thread runs is numbered (`serial`). To stop it, [`abandon`] marks the hand, under the hand's lock, as
//! abandoned in that very run, and raises `TaskInterrupted` in the thread; whoever marks it owns the outcome. The
//! thread's place in the crew is free at once. When the function does return, the thread finds the mark, takes back
//! an interruption that did not arrive in time, and ends.

use std::ffi::c_ulong;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_engine::crew;
use manyhands_engine::scheduler::{Pop, Scheduler};
use manyhands_engine::start::Start;
use manyhands_os::clock;
use manyhands_os::park::Parker;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::attempt::{self, Ended, LastWords, Ran};
use crate::call::{Work, function_name};
use crate::detail::Detail;
use crate::enter::Turn;
use crate::error;
use crate::future::{Future, Outcome};
use crate::latch::Latch;
use crate::native;
use crate::pool::{Crew, Pool, Wake};
use crate::sync::{task_begun, this_thread};
use crate::timers::{self, Alarm, Watched};
use crate::waiter::Wakes;

/// The threads of a pool: the part of its state that concerns them.
pub(crate) struct ThreadCrew {
    crew: crew::Crew<Arc<ThreadHand>>,
    max: usize,
    /// Every thread that is not abandoned.
    hands: Vec<Arc<ThreadHand>>,
}

impl ThreadCrew {
    pub(crate) fn new(max: usize) -> Self {
        Self { crew: crew::Crew::new(max), max, hands: Vec::new() }
    }

    /// Whom to wake for the tasks in `scheduler`; `due` is when the task that has just come in may run.
    pub(crate) fn wake(&mut self, scheduler: &Scheduler<Py<Future>>, due: Option<Tick>) -> Wake {
        match self.crew.wake(scheduler.ready_len() > 0, !scheduler.is_empty(), due) {
            crew::Wake::Nobody => Wake::Nobody,
            crew::Wake::Hand(hand) => Wake::Thread(hand),
            crew::Wake::Spawn => Wake::Spawn,
        }
    }

    pub(crate) fn everybody(&mut self) -> impl Iterator<Item = Arc<ThreadHand>> {
        self.crew.take_idle().into_iter()
    }

    /// Takes note that a thread could not be started; returns how many there are.
    pub(crate) fn could_not_start(&mut self) -> usize {
        self.crew.could_not_start()
    }

    /// The hand that runs `future` now, and the number of the run.
    pub(crate) fn runner_of(&self, future: &Bound<'_, Future>) -> Option<(Arc<ThreadHand>, u64)> {
        self.hands.iter().find_map(|hand| {
            let run = hand.run();
            let runs_it = run.task == Some(future.as_ptr() as usize);
            runs_it.then(|| (Arc::clone(hand), run.serial))
        })
    }

    /// The number of the thread that runs `future` now.
    pub(crate) fn thread_of(&self, future: &Bound<'_, Future>) -> Option<u64> {
        self.runner_of(future).map(|(hand, _)| hand.run().number)
    }

    /// The hand that runs a task in the calling thread.
    fn hand_here(&self, py: Python<'_>) -> Option<&Arc<ThreadHand>> {
        let ident = native::thread_ident(py);
        self.hands.iter().find(|hand| {
            let run = hand.run();
            run.ident == ident && run.task.is_some()
        })
    }

    /// Who waits for which result of this very pool, if every thread that it may have does: then none of them will come.
    fn starved(&self, py: Python<'_>) -> Option<Vec<(c_ulong, Py<Future>)>> {
        let waits = |hand: &Arc<ThreadHand>| {
            let run = hand.run();
            let future = run.waits_for.as_ref().filter(|future| !future.get().state().is_done())?;
            Some((run.ident, future.clone_ref(py)))
        };
        let waits: Vec<_> = self.hands.iter().filter_map(waits).collect();
        (waits.len() == self.max).then_some(waits)
    }

    fn dismiss(&mut self, hand: &Arc<ThreadHand>) {
        self.crew.dismiss();
        self.hands.retain(|other| other != hand);
    }
}

/// What a hand does at this moment.
#[derive(Default)]
struct Run {
    serial: u64,
    /// The address of the future that it runs, as an identity.
    task: Option<usize>,
    abandoned: bool,
    ident: c_ulong,
    /// The thread, as those who wait know it.
    number: u64,
    /// The future of its own pool that its task waits for, if deadlocks are looked for.
    waits_for: Option<Py<Future>>,
}

/// A task waits for a result of its own pool, as long as this lives.
pub(crate) struct InnerWait(Arc<ThreadHand>);

impl InnerWait {
    /// `None` if the calling thread is not one of those that might have to bring the result.
    ///
    /// # Errors
    /// `DeadlockError` if all of them wait for results of their pool, so that none will come.
    pub(crate) fn begin(future: &Bound<'_, Future>) -> PyResult<Option<Self>> {
        let py = future.py();
        let Some(pool) = future.get().pool() else { return Ok(None) };
        let (wait, starved) = {
            let shared = pool.shared();
            let Crew::Threads(crew) = &shared.crew else { return Ok(None) };
            let Some(hand) = crew.hand_here(py) else { return Ok(None) };
            hand.run().waits_for = Some(future.clone().unbind());
            (Self(Arc::clone(hand)), crew.starved(py))
        };
        match starved {
            Some(waits) => Err(error::starved(py, waits)),
            None => Ok(Some(wait)),
        }
    }
}

impl Drop for InnerWait {
    fn drop(&mut self) {
        let waited_for = self.0.run().waits_for.take();
        drop(waited_for);
    }
}

/// One thread, as others see it.
#[derive(Default)]
pub(crate) struct ThreadHand {
    pub(crate) parker: Parker,
    run: Mutex<Run>,
    /// Opened when nobody needs to wait for the thread any more.
    over: Latch,
}

impl PartialEq for ThreadHand {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl ThreadHand {
    fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, future: &Bound<'_, Future>) -> u64 {
        let mut run = self.run();
        run.serial += 1;
        run.task = Some(future.as_ptr() as usize);
        run.serial
    }

    /// Ends a run; `false` if it was abandoned meanwhile, and its outcome is not this thread's any more.
    fn leave(&self) -> bool {
        let mut run = self.run();
        run.task = None;
        !run.abandoned
    }
}

/// Stops the run `serial` of `hand`; `false` if it is over already. The caller of a `true` settles the task.
pub(crate) fn abandon(py: Python<'_>, pool: &Arc<Pool>, hand: &Arc<ThreadHand>, serial: u64) -> bool {
    let interruption = error::task_interrupted(py);
    {
        let mut run = hand.run();
        if run.serial != serial || run.task.is_none() || run.abandoned {
            return false;
        }
        run.abandoned = true;
        // Under the lock, so that the thread cannot have gone on to other things. It runs no Python code.
        native::set_async_exception(run.ident, interruption.ok());
    }
    hand.over.open();
    let wake = {
        let mut shared = pool.shared();
        shared.statistics.interrupted += 1;
        if let Crew::Threads(crew) = &mut shared.crew {
            crew.dismiss(hand);
        }
        shared.wake(None)
    };
    if let Err(failure) = pool.perform(py, wake) {
        failure.write_unraisable(py, None);
    }
    true
}

/// Stops a run that passed its time limit, and settles or retries its task.
pub(crate) fn time_out(
    py: Python<'_>,
    hand: &Arc<ThreadHand>,
    serial: u64,
    future: &Bound<'_, Future>,
) -> PyResult<()> {
    let Some(pool) = future.get().pool() else { return Ok(()) };
    // Before the interruption takes it somewhere else.
    let ident = hand.run().ident;
    let last_words = LastWords { frame: error::last_frame(py, "of_thread", (ident,)), process: None };
    if !abandon(py, pool, hand, serial) {
        return Ok(());
    }
    pool.shared().statistics.timed_out += 1;
    let ended = attempt::timed_out(future, pool, last_words, &mut Wakes::default())?;
    pool.shared().count(ended);
    Ok(())
}

/// What a thread is to do next.
enum Step {
    Run { task: Py<Future>, age: u64, began: Tick, wake: Wake },
    Sleep { until: Option<Tick> },
    End,
}

/// A thread was idle, and had set its alarm for that time.
struct Slept {
    until: Option<Tick>,
}

/// One thread of a pool. Handed to Python to be run as the target of a `threading.Thread`.
#[pyclass(frozen, module = "manyhands._core")]
pub(crate) struct Thread {
    pool: Arc<Pool>,
    hand: Arc<ThreadHand>,
    start: Arc<Start>,
    name: OnceLock<String>,
}

impl Thread {
    pub(crate) fn new(pool: &Arc<Pool>, start: &Arc<Start>) -> Self {
        let start = Arc::clone(start);
        Self { pool: Arc::clone(pool), hand: Arc::default(), start, name: OnceLock::new() }
    }

    /// Decides, under the pool's lock, what to do next.
    fn next(&self, slept: Option<Slept>, ran: Option<Ran>) -> Step {
        let now = clock::now();
        let mut shared = self.pool.shared();
        let shared = &mut *shared;
        if let Some(ran) = ran {
            shared.record(&ran, now);
        }
        let Crew::Threads(crew) = &mut shared.crew else { return Step::End };
        if let Some(slept) = slept {
            crew.crew.is_up(&self.hand, slept.until);
        }
        match shared.scheduler.pop(now) {
            Pop::Ready { task, age } => {
                shared.statistics.started += 1;
                task.get().pass_gate();
                Step::Run { task, age, began: now, wake: crew.wake(&shared.scheduler, None) }
            }
            Pop::Empty if shared.closed => {
                crew.dismiss(&self.hand);
                Step::End
            }
            Pop::Wait(at) => Step::Sleep { until: crew.crew.lie_down(&self.hand, Some(at)) },
            Pop::Empty | Pop::Blocked => Step::Sleep { until: crew.crew.lie_down(&self.hand, None) },
        }
    }

    fn work(&self, py: Python<'_>) {
        let mut wakes = Wakes::default();
        let (mut slept, mut ran) = (None, None);
        let mut turn = Turn::begin(clock::now());
        loop {
            match self.next(slept.take(), ran.take()) {
                Step::Run { task, age, began, wake } => {
                    // Before the task, which may take long: whoever waits for the last one shall have it now.
                    wakes.flush();
                    report(py, self.pool.perform(py, wake));
                    turn.give_way(py, began);
                    let Some(done) = self.run_task(task.bind(py), age, began, &mut wakes) else { return };
                    ran = Some(done);
                }
                Step::Sleep { until } => {
                    slept = Some(Slept { until });
                    py.detach(|| {
                        wakes.flush();
                        // Why it ended does not matter: the queue says what there is to do.
                        let _ = self.hand.parker.park(until);
                    });
                    turn = Turn::begin(clock::now());
                }
                Step::End => return,
            }
        }
    }

    /// Runs one attempt; `None` if the thread was abandoned in it and has to end.
    fn run_task(&self, future: &Bound<'_, Future>, age: u64, began: Tick, wakes: &mut Wakes) -> Option<Ran> {
        let py = future.py();
        let detail = future.get().detail();
        let work = match Future::start(future) {
            Ok(Some(work)) => work,
            nothing => {
                report(py, nothing.map(drop));
                if let Some(gate) = detail.and_then(Detail::leave_gate) {
                    report(py, self.pool.release(py, gate));
                }
                return Some(Ran { ended: Ended::Skipped, waited: Duration::ZERO, began });
            }
        };
        let Work::Local(call) = &work else { unreachable!("threads are given local calls only") };
        let serial = self.hand.enter(future);
        task_begun(future);
        let watched = detail.map(|detail| self.watch(future, detail, &work, serial, age, began));
        let cpu = detail.filter(|detail| detail.measured).map(|_| clock::thread_cpu());
        let result =
            call.make(py).and_then(|value| refuse_coroutine(call.function.bind(py), value, "on a thread"));
        let mine = self.hand.leave();
        match watched.transpose() {
            Ok(Some(Some(watched))) => watched.disarm(),
            unwatched => report(py, unwatched.map(drop)),
        }
        if !mine {
            native::set_async_exception(self.hand.run().ident, None);
            return None;
        }
        if let Some(detail) = detail {
            let cpu = cpu.map_or(Duration::ZERO, |before| clock::thread_cpu().saturating_sub(before));
            attempt::measure(detail, clock::now() - began, cpu);
        }
        let waited = detail.map_or_else(|| began - call.submitted, |detail| detail.history().waited);
        let ended = attempt::ended(future, &self.pool, Outcome::of(py, result.map(Bound::unbind)), wakes);
        let ended = ended.unwrap_or_else(|failure| {
            failure.write_unraisable(py, None);
            Ended::Failed
        });
        Some(Ran { ended, waited, began })
    }

    /// Takes note of the attempt that begins, and has its time limit watched.
    fn watch(
        &self,
        future: &Bound<'_, Future>,
        detail: &Detail,
        work: &Work,
        serial: u64,
        age: u64,
        began: Tick,
    ) -> PyResult<Option<Watched>> {
        let name = self.name.get().map_or("", String::as_str);
        let (_, deadline) = attempt::begin(future.py(), detail, work, age, began, name)?;
        let Some(deadline) = deadline else { return Ok(None) };
        let alarm = Alarm::Thread { hand: Arc::clone(&self.hand), serial, future: future.clone().unbind() };
        Ok(Some(timers::arm(deadline, alarm)?))
    }

    /// Runs the initializer; `false` if it raised, which breaks the pool.
    fn initialize(&self, initializer: &Bound<'_, PyAny>, args: &Bound<'_, PyTuple>) -> bool {
        let py = initializer.py();
        let Err(error) = native::call(initializer, args, None) else { return true };
        error::log_exception(py, "critical", "Exception in initializer:", &error);
        self.pool.break_down(py);
        false
    }
}

#[pymethods]
impl Thread {
    /// The thread of this hand begins; `False` if it must not, for it was revoked.
    fn begin(&self) -> bool {
        self.start.begin()
    }

    /// Do not let the thread begin; `False` if it has.
    fn revoke(&self) -> bool {
        self.start.revoke()
    }

    /// Run tasks until the pool is closed and its queue empty. The calling thread becomes a worker of the pool.
    #[pyo3(signature = (name, initializer = None, initargs = None))]
    fn run(
        &self,
        py: Python<'_>,
        name: String,
        initializer: Option<Bound<'_, PyAny>>,
        initargs: Option<Bound<'_, PyTuple>>,
    ) {
        let _ = self.name.set(name);
        {
            let mut run = self.hand.run();
            (run.ident, run.number) = (native::thread_ident(py), this_thread());
        }
        if let Crew::Threads(crew) = &mut self.pool.shared().crew {
            crew.hands.push(Arc::clone(&self.hand));
        }
        let initargs = initargs.unwrap_or_else(|| PyTuple::empty(py));
        if initializer.is_none_or(|initializer| self.initialize(&initializer, &initargs)) {
            self.work(py);
        } else if let Crew::Threads(crew) = &mut self.pool.shared().crew {
            crew.dismiss(&self.hand);
        }
        self.hand.over.open();
    }

    /// Whether the thread was stopped in a task: nobody should wait for it.
    #[getter]
    fn abandoned(&self) -> bool {
        self.hand.run().abandoned
    }

    /// Take no more tasks into the pool.
    fn close(&self, py: Python<'_>) {
        self.pool.close(py, false);
    }

    /// Wait until the thread is about to end, or was abandoned.
    fn wait_until_over(&self, py: Python<'_>) -> PyResult<()> {
        self.hand.over.wait(py)
    }
}

/// Reports what has nobody to be raised to.
fn report(py: Python<'_>, result: PyResult<()>) {
    if let Err(failure) = result {
        failure.write_unraisable(py, None);
    }
}

/// An `async def` function that is called like a plain one only makes a coroutine that nobody runs.
pub(crate) fn refuse_coroutine<'py>(
    function: &Bound<'py, PyAny>,
    value: Bound<'py, PyAny>,
    place: &str,
) -> PyResult<Bound<'py, PyAny>> {
    if !native::is_coroutine(&value) {
        return Ok(value);
    }
    let py = value.py();
    value.call_method0(pyo3::intern!(py, "close"))?;
    let name = function_name(function);
    Err(error::error_with_hint(
        py,
        error::wrong_executor(py),
        format!("could not run `{name}` {place}: it is an `async def` function"),
        "use AsyncExecutor, or on=\"async\"",
    ))
}
