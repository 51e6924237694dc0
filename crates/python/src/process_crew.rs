//! Tasks on worker processes: who has what, and what to do when one of them ends.
//!
//! ```text
//! submit ──▶ scheduler ──dispatch──▶ task ring ──▶ worker ──▶ result ring ──▶ supervisor ──▶ future
//!                 ▲                      │ take back, or the worker's death           │ retry
//!                 └──────────────────────┴────────────────────────────────────────────┘
//! ```
//!
//! A worker runs its tasks in the order in which they were pushed, and answers in that order: the first of its flights
//! is the one that it runs, or is about to. What a worker has claimed is its own; the rest can be taken back.
//!
//! Everything here happens under the pool's lock and without the interpreter. Tasks are pushed by whoever holds the lock
//! when there is room: a submitting thread, or the [supervisor](crate::supervisor), which alone reads results.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_engine::scheduler::{Order, Pop, Scheduler};
use manyhands_engine::statistics::Statistics;
use manyhands_os::event::Event;
use manyhands_os::ring::{self, Consumer, Producer, PushError};
use manyhands_os::segment::Segment;
use pyo3::prelude::*;

use crate::call::Work;
use crate::detail::Detail;
use crate::future::Future;
use crate::message::{self, Task};
use crate::parcel::Parcel;

/// Bytes of each ring. What does not fit travels in a segment of its own.
pub(crate) const RING: usize = 1 << 20;
/// The words after the rings: how many answers outside the ring the pool has read, and whether the worker shall end.
/// They are no messages, so that every message in the task ring is a task.
pub(crate) const RELEASED: usize = 2 * RING / 8;
pub(crate) const STOPPED: usize = RELEASED + 1;
const SEGMENT: usize = 2 * RING + 64;
/// How much work is put ahead of a worker: enough to bridge the time until the next look, no more.
const AHEAD: Duration = Duration::from_millis(1);
const MOST_AHEAD: u32 = 256;
/// Work put ahead of a busy worker is taken back for an idle one if it would take longer than this.
const WORTH_TAKING: Duration = Duration::from_micros(200);
/// How many workers may end before they are ready, one after the other, before the pool gives up.
const MOST_STILLBORN: u32 = 3;

/// What is known of a worker's process.
#[derive(Default)]
pub(crate) struct Process {
    pub(crate) pid: Option<i32>,
    /// Ends it: `kill(pid, grace)`.
    pub(crate) kill: Option<Py<PyAny>>,
    pub(crate) ended: Option<Ended>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// Negative for a signal.
    pub(crate) exitcode: i32,
    pub(crate) peak_memory: u64,
}

/// One worker, as others see it.
pub(crate) struct ProcessHand {
    pub(crate) segment: Arc<Segment>,
    /// Wakes the worker.
    pub(crate) event: Event,
    pub(crate) results: Mutex<Consumer>,
    process: Mutex<Process>,
}

impl ProcessHand {
    fn new() -> io::Result<(Arc<Self>, Producer)> {
        let segment = Arc::new(Segment::create(SEGMENT)?);
        for offset in [0, RING] {
            ring::initialise(&segment, offset, RING).map_err(io::Error::other)?;
        }
        let tasks = ring::producer(Arc::clone(&segment), 0, RING).map_err(io::Error::other)?;
        let results = ring::consumer(Arc::clone(&segment), RING, RING).map_err(io::Error::other)?;
        let hand =
            Self { segment, event: Event::new()?, results: Mutex::new(results), process: Mutex::default() };
        Ok((Arc::new(hand), tasks))
    }

    /// Tells the worker that one more answer outside the ring was read.
    pub(crate) fn release(&self) {
        // Release: the reading comes before.
        self.segment.words()[RELEASED].fetch_add(1, Ordering::Release);
        self.event.signal();
    }

    /// Tells the worker to end when it has nothing to do.
    fn stop(&self) {
        self.segment.words()[STOPPED].store(1, Ordering::Release);
        self.event.signal();
    }

    pub(crate) fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn results(&self) -> MutexGuard<'_, Consumer> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that was pushed to a worker.
pub(crate) struct Flight {
    pub(crate) future: Py<Future>,
    pub(crate) parcel: Parcel,
    age: u64,
    pub(crate) serial: u64,
    /// When the worker can have begun it: when it was pushed, or when the one before it was answered.
    pub(crate) began: Option<Tick>,
    pub(crate) deadline: Option<Tick>,
    /// The message has the function in it, too.
    brings_function: bool,
    /// The message, if it did not fit the ring, until it is answered.
    outside: Option<Segment>,
}

impl Flight {
    /// Keeps the call for another attempt and for messages, before its future is settled.
    pub(crate) fn remember(&self, py: Python<'_>) -> PyResult<()> {
        match self.future.get().detail() {
            Some(detail) => detail.keep_origin(py, &Work::Parcel(self.parcel.clone())),
            None => Ok(()),
        }
    }

    fn begin(&mut self, now: Tick, name: &str) {
        self.began = Some(now);
        if let Some(detail) = self.future.get().detail() {
            self.deadline = detail.begin_detached(self.age, now, name);
        }
    }
}

/// One worker, and what it has to do.
pub(crate) struct Worker {
    pub(crate) hand: Arc<ProcessHand>,
    name: String,
    tasks: Producer,
    pub(crate) flights: VecDeque<Flight>,
    /// Numbers of the functions that it was sent.
    known: HashSet<u32>,
    /// How long its tasks take, by experience.
    mean: Option<Duration>,
    pub(crate) is_ready: bool,
    /// It was told to stop, or is being ended: it gets no more tasks.
    pub(crate) is_leaving: bool,
}

impl Worker {
    fn room(&self) -> usize {
        if self.is_leaving {
            return 0;
        }
        let most = match self.mean {
            None => 1,
            Some(mean) => {
                let fitting = AHEAD.as_nanos() / mean.as_nanos().max(1);
                1 + u32::try_from(fitting).unwrap_or(MOST_AHEAD).min(MOST_AHEAD)
            }
        };
        (most as usize).saturating_sub(self.flights.len())
    }

    /// Takes note of how long a task took.
    pub(crate) fn learn(&mut self, run: Duration) {
        self.mean = Some(self.mean.map_or(run, |mean| (mean * 7 + run) / 8));
    }

    /// Pushes a task, with its function if the worker does not know it; `Err` gives it back if there is no room.
    fn push(&mut self, mut flight: Flight, must_wake: &mut bool) -> Result<(), Box<Flight>> {
        let function = &flight.parcel.function;
        let pickled: &[u8] = if self.known.contains(&function.number) { &[] } else { &function.bytes };
        let task = Task {
            serial: flight.serial,
            function: function.number,
            function_len: u32::try_from(pickled.len()).unwrap_or(u32::MAX),
            seed: flight.parcel.seed,
        };
        match send(&mut self.tasks, &[&task.encode(), pickled, &flight.parcel.arguments]) {
            Ok((wake, outside)) => {
                *must_wake |= wake;
                flight.brings_function = self.known.insert(function.number);
                flight.outside = outside;
                self.flights.push_back(flight);
                Ok(())
            }
            Err(_) => Err(Box::new(flight)),
        }
    }

    /// Takes back up to `most` tasks that it has not claimed, the newest first.
    fn take_back(&mut self, most: usize) -> Vec<Flight> {
        let count = self.tasks.take_back(most).min(self.flights.len());
        let taken: Vec<Flight> = self.flights.drain(self.flights.len() - count..).rev().collect();
        for flight in taken.iter().filter(|flight| flight.brings_function) {
            self.known.remove(&flight.parcel.function.number);
        }
        taken
    }

    /// Has the worker end, which has nothing to do.
    pub(crate) fn stop(&mut self) {
        if !std::mem::replace(&mut self.is_leaving, true) {
            self.hand.stop();
        }
    }

    fn front_began(&mut self, now: Tick) {
        let name = &self.name;
        if let Some(front) = self.flights.front_mut().filter(|front| front.began.is_none()) {
            front.begin(now, name);
        }
    }

    /// Takes the first task, which was answered or has failed with its worker.
    pub(crate) fn answered(&mut self, now: Tick) -> Option<Flight> {
        let flight = self.flights.pop_front();
        self.front_began(now);
        flight
    }

    /// How many tasks the worker has claimed: at most one is running.
    pub(crate) fn claimed(&self) -> usize {
        self.flights.len().saturating_sub(self.tasks.unclaimed())
    }
}

/// Sends a message, in a segment of its own if it is too large for the ring.
fn send(ring: &mut Producer, parts: &[&[u8]]) -> Result<(bool, Option<Segment>), PushError> {
    match ring.try_push(parts) {
        Ok(pushed) => Ok((pushed.must_wake, None)),
        Err(PushError::TooLarge { .. }) => {
            let (header, outside) = message::outside(parts).map_err(|_| PushError::Full)?;
            ring.try_push(&[&header]).map(|pushed| (pushed.must_wake, Some(outside)))
        }
        Err(full) => Err(full),
    }
}

/// What dispatching came to.
#[derive(Default)]
pub(crate) struct Dispatched {
    /// Workers that sleep and have something to do.
    pub(crate) wake: Vec<Arc<ProcessHand>>,
    /// The supervisor has something to do: a worker to start, a cancelled task to tell of, an earlier time to keep.
    pub(crate) call_supervisor: bool,
}

/// The worker processes of a pool: the part of its state that concerns them.
pub(crate) struct ProcessCrew {
    max: usize,
    pub(crate) workers: Vec<Worker>,
    /// Wakes the supervisor; workers signal it, too.
    pub(crate) event: Arc<Event>,
    pub(crate) is_supervised: bool,
    /// When the supervisor will look by itself.
    pub(crate) supervisor_wakes: Tick,
    /// Tasks that were found cancelled; somebody with the interpreter has to say so.
    pub(crate) cancelled: Vec<Py<Future>>,
    /// Before when the tasks in the queue must not begin, as far as was looked.
    pub(crate) until: Option<Tick>,
    next_serial: u64,
    next_name: u64,
    /// Workers that ended before they were ready, in a row.
    stillborn: u32,
}

impl ProcessCrew {
    pub(crate) fn new(max: usize) -> io::Result<Self> {
        Ok(Self {
            max,
            workers: Vec::new(),
            event: Arc::new(Event::new()?),
            is_supervised: false,
            supervisor_wakes: Tick::ZERO,
            cancelled: Vec::new(),
            until: None,
            next_serial: 0,
            next_name: 0,
            stillborn: 0,
        })
    }

    /// Pushes tasks to workers that have room.
    pub(crate) fn dispatch(
        &mut self,
        scheduler: &mut Scheduler<Py<Future>>,
        statistics: &mut Statistics,
        now: Tick,
    ) -> Dispatched {
        let mut dispatched = Dispatched::default();
        self.until = None;
        while let Some(index) = self.least_busy() {
            match scheduler.pop(now) {
                Pop::Ready { task, age } => {
                    statistics.started += 1;
                    task.get().pass_gate();
                    self.push(index, task, age, now, scheduler, &mut dispatched);
                }
                Pop::Wait(at) => {
                    self.until = Some(at);
                    dispatched.call_supervisor |= at < self.supervisor_wakes;
                    break;
                }
                Pop::Empty | Pop::Blocked => break,
            }
        }
        let earliest = self.earliest_deadline();
        dispatched.call_supervisor |= self.wants_worker(scheduler)
            || !self.cancelled.is_empty()
            || earliest.is_some_and(|at| at < self.supervisor_wakes);
        dispatched
    }

    fn push(
        &mut self,
        index: usize,
        task: Py<Future>,
        age: u64,
        now: Tick,
        scheduler: &mut Scheduler<Py<Future>>,
        dispatched: &mut Dispatched,
    ) {
        let Some(Work::Parcel(parcel)) = task.get().start_detached() else {
            self.cancelled.push(task);
            return;
        };
        let serial = self.next_serial;
        self.next_serial += 1;
        let flight = Flight {
            future: task,
            parcel,
            age,
            serial,
            began: None,
            deadline: None,
            brings_function: false,
            outside: None,
        };
        let worker = &mut self.workers[index];
        let mut must_wake = false;
        if let Err(flight) = worker.push(flight, &mut must_wake) {
            // Its ring is full of large arguments: it has enough to do.
            worker.mean = Some(AHEAD);
            give_back(*flight, scheduler);
        }
        worker.front_began(now);
        if must_wake {
            dispatched.wake.push(Arc::clone(&worker.hand));
        }
    }

    fn least_busy(&self) -> Option<usize> {
        let with_room = self.workers.iter().enumerate().filter(|(_, worker)| worker.room() > 0);
        with_room.min_by_key(|(_, worker)| (worker.flights.len(), !worker.is_ready)).map(|(index, _)| index)
    }

    /// Whether there is more to do than there are workers, and another may be started.
    pub(crate) fn wants_worker(&self, scheduler: &Scheduler<Py<Future>>) -> bool {
        let in_flight: usize = self.workers.iter().map(|worker| worker.flights.len()).sum();
        self.workers.len() < self.max && scheduler.ready_len() + in_flight > self.workers.len()
    }

    /// Makes a worker, whose process is still to be started.
    pub(crate) fn add_worker(&mut self) -> io::Result<Arc<ProcessHand>> {
        let (hand, tasks) = ProcessHand::new()?;
        self.next_name += 1;
        self.workers.push(Worker {
            hand: Arc::clone(&hand),
            name: format!("process {}", self.next_name),
            tasks,
            flights: VecDeque::new(),
            known: HashSet::new(),
            mean: None,
            is_ready: false,
            is_leaving: false,
        });
        Ok(hand)
    }

    pub(crate) fn worker_of(&mut self, hand: &Arc<ProcessHand>) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| Arc::ptr_eq(&worker.hand, hand))
    }

    /// The worker that runs `future` now.
    fn runner_of(&mut self, future: &Bound<'_, Future>) -> Option<&mut Worker> {
        self.workers
            .iter_mut()
            .find(|worker| worker.flights.front().is_some_and(|front| front.future.is(future)))
    }

    /// The worker that runs `future`, which was cancelled, is to be ended: it gets no more tasks.
    pub(crate) fn give_up(&mut self, future: &Bound<'_, Future>) -> Option<Arc<ProcessHand>> {
        let worker = self.runner_of(future)?;
        worker.is_leaving = true;
        worker.flights.pop_front();
        Some(Arc::clone(&worker.hand))
    }

    /// The first worker whose running task has passed its limit.
    pub(crate) fn overdue(&mut self, now: Tick) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| {
            !worker.is_leaving
                && worker
                    .flights
                    .front()
                    .and_then(|front| front.deadline)
                    .is_some_and(|deadline| deadline <= now)
        })
    }

    pub(crate) fn earliest_deadline(&self) -> Option<Tick> {
        let running = self.workers.iter().filter(|worker| !worker.is_leaving);
        running.filter_map(|worker| worker.flights.front()?.deadline).min()
    }

    /// Gives idle workers what was put ahead of busy ones.
    pub(crate) fn level(&mut self, scheduler: &mut Scheduler<Py<Future>>) {
        let has_idle = self.workers.iter().any(|worker| worker.flights.is_empty() && worker.room() > 0);
        if !has_idle || !scheduler.is_empty() {
            return;
        }
        let longest = self.workers.iter_mut().max_by_key(|worker| worker.tasks.unclaimed());
        let Some(longest) = longest else { return };
        let ahead = longest.tasks.unclaimed();
        let length = longest.mean.unwrap_or(AHEAD) * u32::try_from(ahead).unwrap_or(u32::MAX);
        if ahead == 0 || length < WORTH_TAKING {
            return;
        }
        for flight in longest.take_back(ahead.div_ceil(2)) {
            give_back(flight, scheduler);
        }
    }

    /// Removes a worker that has ended. Returns the task that went with it; those that it had not begun go back.
    pub(crate) fn bury(
        &mut self,
        hand: &Arc<ProcessHand>,
        scheduler: &mut Scheduler<Py<Future>>,
    ) -> (Option<Flight>, bool) {
        let Some(index) = self.workers.iter().position(|worker| Arc::ptr_eq(&worker.hand, hand)) else {
            return (None, false);
        };
        let mut worker = self.workers.swap_remove(index);
        self.stillborn = if worker.is_ready || worker.is_leaving { 0 } else { self.stillborn + 1 };
        let has_claimed = worker.is_ready && worker.claimed() > 0;
        let victim = if has_claimed { worker.flights.pop_front() } else { None };
        for flight in worker.flights {
            give_back(flight, scheduler);
        }
        (victim, self.stillborn >= MOST_STILLBORN)
    }
}

/// Queues a task again that no worker has begun. Its gate has let it pass already.
fn give_back(flight: Flight, scheduler: &mut Scheduler<Py<Future>>) {
    let future = flight.future.get();
    if future.requeue(Work::Parcel(flight.parcel)).is_err() {
        return;
    }
    let order = future.detail().map_or_else(Order::default, Detail::order);
    scheduler.push(flight.future, Order { gate: None, not_before: None, age: Some(flight.age), ..order });
}
