//! What every in-process executor shares: the queue, its rules and its figures, behind one lock.
//!
//! `engine`'s scheduler decides who is next. A [`Crew`] are the hands that run tasks: threads or event loops. Nobody
//! hands tasks out: an idle hand is woken, and takes the next task itself at the moment when it can run it, which is
//! also the moment when a gate's token is spent.
//!
//! The lock is never held across a Python call. Dropping a `Py` may be one, so tasks leave the lock before they are
//! dropped.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_engine::gate::{GateId, Limits};
use manyhands_engine::scheduler::{Order, Scheduler};
use manyhands_engine::start::Start;
use manyhands_engine::statistics::Statistics;
use manyhands_os::clock;
use manyhands_os::stock::Stock;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::attempt::{Ended, Ran};
use crate::bulk::Bulk;
use crate::call::{Call, Work};
use crate::detail::Detail;
use crate::error;
use crate::future::{Future, Outcome};
use crate::latch::Latch;
use crate::loop_crew::{Loop, LoopCrew, LoopHand};
use crate::parcel::{Functions, Parcel};
use crate::patience::Patience;
use crate::process_crew::{Dispatched, Flight, ProcessCrew, ProcessHand, Queue};
use crate::reading;
use crate::supervisor::{self, Desk, StandIn};
use crate::thread_crew::{Thread, ThreadCrew, ThreadHand};
use crate::waiter::Wakes;

/// Whether the interpreter is about to exit: what was submitted is still run, nothing more is taken.
static EXITING: AtomicBool = AtomicBool::new(false);

/// Has every executor, also those that nobody has used yet, take no more tasks. Called when the interpreter exits.
#[pyfunction]
pub(crate) fn refuse_new_tasks() {
    EXITING.store(true, Ordering::Relaxed);
}

/// How long whoever waits for a result of worker processes looks for it: the way to a sleeping worker and back.
const LOOK: Duration = Duration::from_micros(150);

/// How many times this process was forked from the one that loaded the module.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Tells every pool of the parent process that it has no hands here; called in the child after a fork.
pub(crate) fn after_fork_in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Whether the process was forked since `generation` was read by [`fork_generation`].
pub(crate) fn fork_generation() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// Those who run the tasks.
pub(crate) enum Crew {
    Threads(ThreadCrew),
    Loops(LoopCrew),
    Processes(ProcessCrew),
}

impl Crew {
    pub(crate) fn runs_coroutines(&self) -> bool {
        match self {
            Self::Threads(_) => false,
            Self::Loops(_) => true,
            Self::Processes(crew) => crew.concurrency.is_some(),
        }
    }
}

/// What a pool's hands are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    Threads,
    Loops,
    Processes,
}

/// Whom to wake for a task that came in, after the lock was released.
#[must_use]
pub(crate) enum Wake {
    Nobody,
    Thread(Arc<ThreadHand>),
    Loop(Arc<LoopHand>),
    /// Wake these workers, and the supervisor if it is needed.
    Processes(Dispatched),
    /// Another hand is needed: start it.
    Spawn,
}

/// The part of a pool that its lock guards.
pub(crate) struct Shared {
    pub(crate) scheduler: Scheduler<Py<Future>>,
    pub(crate) statistics: Statistics,
    pub(crate) crew: Crew,
    /// No task is taken any more; those that are queued still run.
    pub(crate) closed: bool,
    /// Why no task can run, if the initializer failed.
    pub(crate) broken: bool,
}

impl Shared {
    /// Whom to wake so that tasks get hands; `due` is when the task that has just come in may run, if not at once.
    pub(crate) fn wake(&mut self, due: Option<Tick>) -> Wake {
        match &mut self.crew {
            Crew::Threads(crew) => crew.wake(&self.scheduler, due),
            Crew::Loops(crew) => crew.wake(&self.scheduler),
            Crew::Processes(_) if self.broken => Wake::Nobody,
            Crew::Processes(crew) => {
                Wake::Processes(crew.dispatch(&mut self.scheduler, &mut self.statistics, clock::now()))
            }
        }
    }
}

impl Shared {
    /// How many calls wait for a hand.
    pub(crate) fn queued(&self) -> usize {
        let items = if let Crew::Processes(crew) = &self.crew { crew.waiting_items() } else { 0 };
        self.scheduler.len() + items
    }

    /// Takes out the tasks that were cancelled while a delay or a limit held them back: nobody shall wait for them.
    fn prune(&mut self) -> Vec<Py<Future>> {
        if !self.scheduler.holds_back() {
            return Vec::new();
        }
        let mut cancelled = Vec::new();
        for task in self.scheduler.drain() {
            let future = task.get();
            if future.state().is_done() {
                cancelled.push(task);
            } else {
                let order = future.detail().map_or_else(Order::default, Detail::order);
                self.scheduler.push(task, order);
            }
        }
        cancelled
    }

    /// Takes back what was put ahead of worker processes and has not begun.
    fn take_back(&mut self) {
        let Self { crew, scheduler, statistics, .. } = self;
        if let Crew::Processes(crew) = crew {
            crew.take_back(Queue { scheduler, statistics });
        }
    }

    /// Who runs a task that was cancelled, and what a worker process was given of it.
    fn runner_of(
        &mut self,
        future: &Bound<'_, Future>,
        was_running: bool,
    ) -> (Option<Runner>, Option<Flight>) {
        let Self { crew, scheduler, statistics, .. } = self;
        match crew {
            Crew::Threads(crew) if was_running => (crew.runner_of(future).map(Runner::Thread), None),
            Crew::Processes(crew) if was_running => {
                let given_up = crew.give_up(future, Queue { scheduler, statistics });
                statistics.interrupted += u64::from(given_up.runner.is_some());
                (given_up.runner.map(Runner::Process), given_up.flight)
            }
            _ => (None, None),
        }
    }

    fn is_supervised(&self) -> bool {
        matches!(&self.crew, Crew::Processes(crew) if crew.is_supervised)
    }

    /// Has every idle hand look whether it is still needed.
    fn wake_everybody(&mut self) -> Vec<Wake> {
        match &mut self.crew {
            Crew::Threads(crew) => crew.everybody().map(Wake::Thread).collect(),
            Crew::Loops(crew) => crew.everybody().map(Wake::Loop).collect(),
            Crew::Processes(_) => {
                vec![Wake::Processes(Dispatched { call_supervisor: true, ..Dispatched::default() })]
            }
        }
    }

    /// Counts how an attempt ended.
    pub(crate) fn count(&mut self, ended: Ended) {
        match ended {
            Ended::Succeeded => self.statistics.succeeded += 1,
            Ended::Failed => self.statistics.failed += 1,
            Ended::Retried | Ended::Skipped => {}
        }
    }

    /// Counts an attempt that is over, and its times.
    pub(crate) fn record(&mut self, ran: &Ran, now: Tick) {
        self.count(ran.ended);
        if ran.ended != Ended::Skipped {
            self.statistics.record_wait(ran.waited);
            self.statistics.record_run(now - ran.began);
        }
    }
}

/// A queue of tasks and the hands that run them.
pub(crate) struct Pool {
    shared: Mutex<Shared>,
    /// Starts a hand: a Python callable that is given a `_core.Thread` or `_core.Loop`.
    spawn: Py<PyAny>,
    born: u32,
    model: Model,
    runs_coroutines: bool,
    /// The functions that were sent to worker processes.
    pub(crate) functions: Functions,
    /// The memory in which large arguments travel.
    pub(crate) stock: Arc<Stock>,
    /// Opened when the supervisor of worker processes has nothing left to look after.
    pub(crate) over: Latch,
    /// How long to look for a result of worker processes.
    patience: Patience,
    /// What the supervisor of worker processes works with.
    pub(crate) desk: Desk,
}

impl Pool {
    pub(crate) fn new(crew: Crew, spawn: Py<PyAny>) -> Arc<Self> {
        Arc::new(Self {
            born: fork_generation(),
            runs_coroutines: crew.runs_coroutines(),
            model: match crew {
                Crew::Threads(_) => Model::Threads,
                Crew::Loops(_) => Model::Loops,
                Crew::Processes(_) => Model::Processes,
            },
            functions: Functions::default(),
            stock: match &crew {
                Crew::Processes(crew) => Arc::clone(&crew.stock),
                Crew::Threads(_) | Crew::Loops(_) => Arc::default(),
            },
            over: Latch::default(),
            patience: Patience::new(LOOK),
            desk: Desk::default(),
            spawn,
            shared: Mutex::new(Shared {
                scheduler: Scheduler::new(),
                statistics: Statistics::default(),
                crew,
                closed: false,
                broken: false,
            }),
        })
    }

    pub(crate) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a running task can be cancelled without further ado: a coroutine can, at its next `await`.
    pub(crate) fn cancels_running(&self) -> bool {
        self.runs_coroutines
    }

    /// Whether this process was forked from the one in which the pool has its hands.
    pub(crate) fn is_forked(&self) -> bool {
        self.born != fork_generation()
    }

    /// Has Python start a hand.
    pub(crate) fn spawn(&self, py: Python<'_>, hand: &Bound<'_, PyAny>) -> PyResult<()> {
        self.spawn.bind(py).call1((hand,)).map(drop)
    }

    /// The call in the form that the pool's hands need.
    pub(crate) fn work(
        &self,
        function: &Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        kwargs: Option<Bound<'_, PyDict>>,
        seed: Option<u64>,
    ) -> PyResult<Work> {
        if self.model == Model::Processes {
            let parcel = Parcel::new(&self.functions, &self.stock, function, &args, kwargs.as_ref())?;
            return Ok(Work::Parcel(Parcel { seed, ..parcel }));
        }
        let call = Call::new(function, args, kwargs)?;
        if let Some(seed) = seed {
            crate::seed::set(call.context.bind(function.py()), seed)?;
        }
        Ok(Work::Local(call))
    }

    /// Queues a call.
    ///
    /// # Errors
    /// `ExecutorClosed` after shutdown or a fork, `BrokenInitializer` if the hands cannot run anything.
    pub(crate) fn submit<'py>(
        self: &Arc<Self>,
        py: Python<'py>,
        work: Work,
        detail: Option<Box<Detail>>,
    ) -> PyResult<Bound<'py, Future>> {
        let order = detail.as_ref().map_or_else(Order::default, |detail| detail.order());
        self.enqueue(py, 1, order, || Future::create_for(py, self, work, detail))
    }

    /// Looks for a result of a worker process as long as that is worth it. Those of this process are not looked for: that
    /// would keep their tasks from running.
    pub(crate) fn look(self: &Arc<Self>, deadline: Option<Tick>, is_over: impl Fn() -> bool) -> bool {
        let mut stand_in = StandIn::take_over(self);
        let is_there = || {
            if stand_in.as_mut().is_some_and(|stand_in| !stand_in.read()) {
                stand_in = None;
            }
            Ok::<_, Infallible>(is_over())
        };
        let Ok(found) = self.patience.look(clock::now(), deadline, is_there);
        found
    }

    /// The patience of those who wait for worker processes; `None` if nobody should.
    pub(crate) fn patience(&self) -> Option<&Patience> {
        (self.model == Model::Processes).then_some(&self.patience)
    }

    /// Whether many items may be submitted at once.
    pub(crate) fn takes_bulks(&self) -> bool {
        self.model == Model::Processes && !self.runs_coroutines
    }

    /// Queues items, by their token.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub(crate) fn submit_bulk<'py>(
        self: &Arc<Self>,
        py: Python<'py>,
        bulk: &Arc<Bulk>,
    ) -> PyResult<Bound<'py, Future>> {
        let mut detail = Detail::new(None, None, bulk.submitted);
        detail.bulk = Some(Arc::clone(bulk));
        if let Crew::Processes(crew) = &mut self.shared().crew {
            crew.add_bulk(bulk);
        }
        self.enqueue(py, bulk.len() as u64, Order::default(), || Future::create_token(py, Box::new(detail)))
    }

    /// Takes a bulk's items from the workers, ending those that are at some of them.
    pub(crate) fn give_up_bulk(self: &Arc<Self>, py: Python<'_>, bulk: &Arc<Bulk>) -> PyResult<()> {
        let runners = {
            let mut shared = self.shared();
            let Shared { crew, scheduler, statistics, .. } = &mut *shared;
            match crew {
                Crew::Processes(crew) => crew.give_up_bulk(bulk, Queue { scheduler, statistics }),
                _ => Vec::new(),
            }
        };
        runners.iter().try_for_each(|hand| supervisor::kill(py, hand, supervisor::GRACE))
    }

    /// Ends the worker that is at that item of a bulk; `false` if none is.
    pub(crate) fn end_item(
        self: &Arc<Self>,
        py: Python<'_>,
        bulk: &Arc<Bulk>,
        item: usize,
    ) -> PyResult<bool> {
        let (runner, wakes) = {
            let mut shared = self.shared();
            let Shared { crew, scheduler, statistics, .. } = &mut *shared;
            let Crew::Processes(crew) = crew else { return Ok(false) };
            let runner = crew.runner_of_item(bulk, item, Queue { scheduler, statistics });
            (runner, shared.wake_everybody())
        };
        self.wake_up(py, wakes);
        let Some(hand) = runner else { return Ok(false) };
        supervisor::kill(py, &hand, supervisor::GRACE).map(|()| true)
    }

    fn enqueue<'py>(
        self: &Arc<Self>,
        py: Python<'py>,
        calls: u64,
        order: Order,
        make: impl FnOnce() -> PyResult<Bound<'py, Future>>,
    ) -> PyResult<Bound<'py, Future>> {
        if self.is_forked() {
            return Err(forked(py));
        }
        if EXITING.load(Ordering::Relaxed) {
            return Err(exiting(py));
        }
        if self.model == Model::Processes {
            reading::refuse_tasks()?;
        }
        let future = make()?;
        let task = future.clone().unbind();
        let refused = {
            let mut shared = self.shared();
            if shared.closed || shared.broken {
                Err((task, shared.broken))
            } else {
                let age = shared.scheduler.push(task, order);
                shared.statistics.submitted += calls;
                Ok((age, shared.wake(None)))
            }
        };
        match refused {
            Ok((age, wake)) => {
                if let Some(detail) = future.get().detail() {
                    detail.history().age.get_or_insert(age);
                }
                if let Err(failure) = self.perform(py, wake) {
                    // Nobody would ever run it.
                    Future::cancel_now(&future);
                    return Err(failure);
                }
                Ok(future)
            }
            Err((_, true)) => Err(broken(py, self.model)),
            Err((_, false)) => Err(closed(py)),
        }
    }

    /// Queues a task again, for its next attempt. A closed pool still runs what it has begun.
    pub(crate) fn resubmit(
        self: &Arc<Self>,
        py: Python<'_>,
        future: Py<Future>,
        order: Order,
    ) -> PyResult<()> {
        let wake = {
            let mut shared = self.shared();
            let due = order.not_before;
            shared.scheduler.push(future, order);
            shared.statistics.retried += 1;
            shared.wake(due)
        };
        self.perform(py, wake)
    }

    /// Wakes or starts the hand that is needed.
    pub(crate) fn perform(self: &Arc<Self>, py: Python<'_>, wake: Wake) -> PyResult<()> {
        match wake {
            Wake::Nobody => Ok(()),
            Wake::Thread(hand) => {
                hand.parker.unpark();
                Ok(())
            }
            Wake::Loop(hand) => hand.call(py),
            Wake::Processes(dispatched) => self.wake_processes(dispatched),
            Wake::Spawn => self.start_hand(py),
        }
    }

    fn wake_processes(self: &Arc<Self>, dispatched: Dispatched) -> PyResult<()> {
        for hand in dispatched.wake {
            hand.event.signal();
        }
        if dispatched.call_supervisor {
            let event = match &self.shared().crew {
                Crew::Processes(crew) => Arc::clone(&crew.event),
                _ => return Ok(()),
            };
            supervisor::ensure(self)?;
            event.signal();
        }
        Ok(())
    }

    fn start_hand(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let start: Arc<Start> = Arc::default();
        let started = if self.model == Model::Loops {
            Loop::new(self, &start).into_pyobject(py).map(Bound::into_any)
        } else {
            Thread::new(self, &start).into_pyobject(py).map(Bound::into_any)
        }
        .and_then(|hand| self.spawn.bind(py).call1((hand,)));
        let Err(failure) = started else { return Ok(()) };
        let hands = if start.revoke() { self.could_not_start() } else { 1 };
        // With other hands at work the task will be run, only later. But Ctrl-C is nobody's failure.
        if hands == 0 || !failure.is_instance_of::<PyException>(py) { Err(failure) } else { Ok(()) }
    }

    /// A hand that was asked for will not come. Returns how many there are.
    fn could_not_start(&self) -> usize {
        match &mut self.shared().crew {
            Crew::Threads(crew) => crew.could_not_start(),
            Crew::Loops(crew) => crew.could_not_start(),
            // Started by the supervisor.
            Crew::Processes(_) => 1,
        }
    }

    /// A gate for the tasks of one policy.
    pub(crate) fn add_gate(&self, limits: Limits) -> GateId {
        self.shared().scheduler.add_gate(limits)
    }

    /// Gives back a task's place behind its gate, and wakes whoever can use it.
    pub(crate) fn release(self: &Arc<Self>, py: Python<'_>, gate: GateId) -> PyResult<()> {
        let wake = {
            let mut shared = self.shared();
            shared.scheduler.finished(gate);
            shared.wake(None)
        };
        self.perform(py, wake)
    }

    pub(crate) fn remove_gate(&self, gate: GateId) {
        self.shared().scheduler.remove_gate(gate);
    }

    /// Takes no more tasks; with `cancel` drops those that have not begun. Hands end when the queue is empty.
    pub(crate) fn close(self: &Arc<Self>, py: Python<'_>, cancel: bool) {
        if self.is_forked() {
            // Nobody here can run or finish anything, and the events are the parent's.
            return;
        }
        let (dropped, wakes) = {
            let mut shared = self.shared();
            shared.closed = true;
            if cancel {
                shared.take_back();
            }
            let dropped = if cancel { shared.scheduler.drain() } else { shared.prune() };
            (dropped, shared.wake_everybody())
        };
        for task in dropped {
            Future::cancel_now(task.bind(py));
        }
        self.wake_up(py, wakes);
        if !self.shared().is_supervised() {
            // No worker process was ever started.
            self.over.open();
        }
    }

    /// Takes no more tasks, drops those that have not begun, and ends the worker processes that run some.
    pub(crate) fn stop(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        if self.is_forked() {
            return Ok(());
        }
        self.close(py, true);
        let (calls, bulks) = match &self.shared().crew {
            Crew::Processes(crew) => crew.at_work(py),
            _ => Default::default(),
        };
        for future in &calls {
            Future::cancel_now(future.bind(py));
        }
        bulks.iter().try_for_each(|bulk| self.give_up_bulk(py, bulk))
    }

    fn wake_up(self: &Arc<Self>, py: Python<'_>, wakes: Vec<Wake>) {
        for wake in wakes {
            match wake {
                Wake::Thread(hand) => hand.parker.unpark(),
                // A loop that is gone has nothing left to close.
                Wake::Loop(hand) => drop(hand.call(py)),
                Wake::Processes(dispatched) => drop(self.wake_processes(dispatched)),
                Wake::Nobody | Wake::Spawn => {}
            }
        }
    }

    /// Fails every queued task, now and later, because the initializer raised.
    pub(crate) fn break_down(&self, py: Python<'_>) {
        let dropped = {
            let mut shared = self.shared();
            shared.broken = true;
            shared.scheduler.drain()
        };
        for task in dropped {
            let outcome = Outcome::of(py, Err(broken(py, self.model)));
            if let Err(failure) = Future::finish(task.bind(py), outcome, &mut Wakes::default()) {
                failure.write_unraisable(py, None);
            }
        }
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.shared().broken
    }

    /// Takes note of a cancellation, and stops the thread that runs the task.
    pub(crate) fn cancelled(self: &Arc<Self>, future: &Bound<'_, Future>, was_running: bool) {
        let py = future.py();
        let (hand, flight, dropped, wakes, wake) = {
            let mut shared = self.shared();
            shared.statistics.cancelled += 1;
            let wake = match future.get().detail().and_then(Detail::leave_gate) {
                Some(gate) => {
                    shared.scheduler.finished(gate);
                    shared.wake(None)
                }
                None => Wake::Nobody,
            };
            let (hand, flight) = shared.runner_of(future, was_running);
            let dropped = if shared.closed { shared.prune() } else { Vec::new() };
            let is_moved = flight.is_some();
            let wakes = if dropped.is_empty() && !is_moved { Vec::new() } else { shared.wake_everybody() };
            (hand, flight, dropped, wakes, wake)
        };
        drop((dropped, flight));
        self.wake_up(py, wakes);
        if let Err(failure) = self.perform(py, wake) {
            failure.write_unraisable(py, None);
        }
        match hand {
            Some(Runner::Thread((hand, serial))) => {
                crate::thread_crew::abandon(py, self, &hand, serial);
            }
            Some(Runner::Process(hand)) => {
                if let Err(failure) = supervisor::kill(py, &hand, supervisor::GRACE) {
                    failure.write_unraisable(py, None);
                }
            }
            None => {}
        }
    }
}

/// Who runs a task that was cancelled.
enum Runner {
    Thread((Arc<ThreadHand>, u64)),
    Process(Arc<ProcessHand>),
}

fn closed(py: Python<'_>) -> PyErr {
    error::error_with_hint(
        py,
        error::executor_closed(py),
        "cannot schedule new futures after shutdown",
        "submit before shutdown() or within the `with` block, or make a new executor",
    )
}

fn exiting(py: Python<'_>) -> PyErr {
    error::error_with_hint(
        py,
        error::executor_closed(py),
        "cannot schedule new futures after interpreter shutdown",
        "the program is over: submit before its main thread ends",
    )
}

fn forked(py: Python<'_>) -> PyErr {
    error::error_with_hint(
        py,
        error::executor_closed(py),
        "could not submit: this executor's workers live in the parent process, not in this fork of it",
        "make a new executor in the child process",
    )
}

fn broken(py: Python<'_>, model: Model) -> PyErr {
    let (text, hint) = match model {
        Model::Processes => (
            "the executor can run nothing: its initializer failed, or its worker processes cannot be started",
            "the cause was logged by `concurrent.futures`; mend it and make a new executor",
        ),
        Model::Threads | Model::Loops => (
            "a worker's initializer failed, so the executor can run nothing",
            "the initializer's own traceback was logged by `concurrent.futures`; mend it and make a new executor",
        ),
    };
    error::error_with_hint(py, error::broken_initializer(py), text, hint)
}
