//! `mh.map`'s iterator: pulls its input as it goes, keeps a window of tasks in flight, hands out what is settled.
//!
//! # The window
//! Given `buffersize`, that many items are in flight or waiting to be taken. Otherwise twice what the executor runs at
//! once, and more while items are so short that the hand-over between consumer and workers would cost more than they
//! do: as long as a whole window is delivered in less than [`HAND_OVER`], the next is twice as large, or more for those
//! that are much faster, up to [`WIDEST`]. A window widened for that is refilled when half of it has been taken, so that workers and consumer do
//! not wake each other for every single item. In input order it also grows, up to the same limit, when its youngest
//! item is settled before its oldest: then one slow item would leave all workers without work.
//!
//! # Order
//! In input order the consumer waits for the oldest item; otherwise for a mailbox into which every settled item's
//! number is put.
//!
//! The state stays locked while an item is fetched, which runs the input's and the user's code; nobody waits for the
//! lock: whoever finds it held is told that the map is in use.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_engine::task::State as TaskState;
use manyhands_os::clock;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyTuple};

use crate::batched::{Batched, Bulks, Harvest, LARGE_BULK};
use crate::bulk::{Items, Manner};
use crate::detail::{Detail, History};
use crate::enter::{self, Turn};
use crate::error;
use crate::executor::Executor;
use crate::future::Future;
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::tally::Tally;
use crate::wait::{enrol, next_number};
use crate::waiter::{LoopWaiter, Mailbox, Waiter};
use crate::wire::{Reader, Times};

/// A window that is delivered faster than this is too small: about the interpreter's switch interval.
const HAND_OVER: Duration = Duration::from_millis(5);
/// The widest that a window grows by itself.
const WIDEST: usize = 1024;

/// The same, where items travel in bulks: enough for each of many workers to have some batches before it.
const HAND_OVER_OF_BULKS: Duration = Duration::from_millis(30);
const WIDEST_OF_BULKS: usize = 1 << 15;
/// How much wider the next window is at most.
const MOST_WIDENING: usize = 8;
/// How long items are gathered for a bulk.
const GATHERING: Duration = Duration::from_millis(1);
/// How many items share a look at the clock, at most.
const MOST_STRIDE: usize = 32;

/// After how many submissions in a row to look for signals and other threads; they cost about a microsecond each.
const SUBMISSIONS: usize = 256;

/// What to do with an item that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnError {
    Raise,
    Return,
    Skip,
    /// Raise, and keep no account of items: `Executor.map`.
    Bare,
}

/// How an input item becomes the function's arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// The one argument.
    Single,
    /// An iterable of the arguments.
    Spread,
}

/// An item in flight.
struct Flight {
    index: u64,
    future: Py<Future>,
    input: Option<Py<PyAny>>,
}

/// How a wait for the next item ended.
enum Waited {
    Settled(Flight),
    /// The youngest item was settled before the oldest.
    Outrun,
    TooLong,
}

/// The items in flight.
enum Flights {
    Ordered(VecDeque<Flight>),
    Unordered { flights: HashMap<u64, Flight>, mailbox: Arc<Mailbox> },
}

impl Flights {
    fn len(&self) -> usize {
        match self {
            Self::Ordered(flights) => flights.len(),
            Self::Unordered { flights, .. } => flights.len(),
        }
    }

    fn push(&mut self, py: Python<'_>, flight: Flight) {
        match self {
            Self::Ordered(flights) => flights.push_back(flight),
            Self::Unordered { flights, mailbox } => {
                enrol(mailbox, flight.future.bind(py), flight.index);
                flights.insert(flight.index, flight);
            }
        }
    }

    fn drain(&mut self) -> Vec<Flight> {
        match self {
            Self::Ordered(flights) => flights.drain(..).collect(),
            Self::Unordered { flights, .. } => flights.drain().map(|(_, flight)| flight).collect(),
        }
    }

    /// Takes the next item if it is settled.
    fn take_settled(&mut self, py: Python<'_>) -> Option<Flight> {
        match self {
            Self::Ordered(flights) => {
                flights.front()?.future.bind(py).get().state().is_done().then(|| flights.pop_front())?
            }
            Self::Unordered { flights, mailbox } => flights.remove(&mailbox.take()?),
        }
    }

    /// Waits for the next item and takes it. With `may_be_outrun`, also ends when the youngest item is settled.
    fn wait(&mut self, py: Python<'_>, deadline: Option<Tick>, may_be_outrun: bool) -> PyResult<Waited> {
        match self {
            Self::Ordered(flights) => {
                let (Some(oldest), Some(youngest)) = (flights.front(), flights.back()) else {
                    return Ok(Waited::TooLong);
                };
                let (oldest, youngest) = (oldest.future.bind(py), youngest.future.bind(py));
                let awaited = [oldest, youngest];
                let count = if may_be_outrun { 2 } else { 1 };
                if !Future::wait_for_any(py, &awaited[..count], deadline)? {
                    return Ok(Waited::TooLong);
                }
                if !oldest.get().state().is_done() {
                    return Ok(Waited::Outrun);
                }
                Ok(flights.pop_front().map_or(Waited::TooLong, Waited::Settled))
            }
            Self::Unordered { flights, mailbox } => {
                let number = next_number(py, mailbox, deadline)?;
                Ok(number.and_then(|number| flights.remove(&number)).map_or(Waited::TooLong, Waited::Settled))
            }
        }
    }

    /// Has an asyncio future woken when the next item is settled; `false` if it is already.
    fn enrol_loop(&self, py: Python<'_>, waiter: LoopWaiter) -> bool {
        match self {
            Self::Ordered(flights) => flights
                .front()
                .is_some_and(|first| first.future.bind(py).get().subscribe(Waiter::Loop(waiter)).is_ok()),
            Self::Unordered { mailbox, .. } => mailbox.enrol_loop(waiter),
        }
    }
}

/// Results of a bulk that are handed out one by one.
struct Ready {
    harvest: Harvest,
    /// How many were handed out, and where in the bytes the next begins.
    taken: usize,
    offset: usize,
    is_measured: bool,
}

/// One of them.
struct Settled {
    index: u64,
    input: Py<PyAny>,
    result: PyResult<Py<PyAny>>,
    times: Times,
    /// Of the result.
    bytes: usize,
}

impl Ready {
    fn next(&mut self, py: Python<'_>) -> PyResult<Option<Settled>> {
        if self.taken == self.harvest.count {
            return Ok(None);
        }
        let bytes = &self.harvest.bytes;
        let mut reader = Reader::new(&bytes[self.offset..]);
        let times = reader.times(self.is_measured)?;
        let before = reader.remaining();
        let result = reader.decode(py).map(Bound::unbind);
        let after = reader.remaining();
        self.offset = bytes.len() - after;
        let index = self.harvest.first + self.taken as u64;
        let input = self.harvest.inputs[self.taken].clone_ref(py);
        self.taken += 1;
        Ok(Some(Settled { index, input, result, times, bytes: before - after }))
    }

    /// What is known of the item that was taken last.
    fn history(&self, times: Times, bytes: usize) -> History {
        let Harvest { worker, waited, .. } = &self.harvest;
        let mut history = History::default();
        history.attempts = u32::from(worker.is_some());
        history.waited = *waited;
        history.wall = times.wall;
        history.cpu = times.cpu.unwrap_or_default();
        history.bytes_in = self.harvest.sent(self.taken - 1) as u64;
        history.bytes_out = bytes as u64;
        history.worker = worker.as_ref().map(ToString::to_string);
        history
    }
}

/// How many items may be in flight or waiting to be taken.
struct Window {
    size: usize,
    widest: usize,
    hand_over: Duration,
    /// Widened windows are refilled by halves.
    is_widened: bool,
    /// How many of the present window have been delivered, since when; `None` if it does not grow.
    growth: Option<(usize, Tick)>,
}

impl Window {
    fn fixed(size: usize) -> Self {
        Self { size, widest: size, hand_over: HAND_OVER, is_widened: false, growth: None }
    }

    fn growing(size: usize) -> Self {
        let growth = Some((0, clock::now()));
        Self { size, widest: WIDEST, hand_over: HAND_OVER, is_widened: false, growth }
    }

    fn fit_for_bulks(&mut self) {
        self.widest = self.widest.max(WIDEST_OF_BULKS);
        self.hand_over = HAND_OVER_OF_BULKS;
    }

    /// How many items to submit now.
    fn vacant(&self, in_flight: usize) -> usize {
        if self.is_widened && in_flight > self.size / 2 {
            return 0;
        }
        self.size.saturating_sub(in_flight)
    }

    fn deliver(&mut self) {
        if let Some((delivered, _)) = &mut self.growth {
            *delivered += 1;
        }
    }

    /// Whether it may still grow.
    fn may_widen(&self) -> bool {
        self.growth.is_some() && self.size < self.widest
    }

    fn widen(&mut self, factor: usize) {
        self.size = (self.size * factor).min(self.widest);
        self.is_widened = true;
    }

    /// The consumer has to wait: widens the window if the last one was gone too fast.
    fn starve(&mut self) {
        let Some((delivered, began)) = self.growth else { return };
        if delivered < self.size {
            return;
        }
        let now = clock::now();
        let took = now - began;
        if took < self.hand_over && self.size < self.widest {
            let times = self.hand_over.as_nanos() / took.as_nanos().max(1);
            self.widen(usize::try_from(times).map_or(MOST_WIDENING, |times| times.clamp(2, MOST_WIDENING)));
        }
        self.growth = Some((0, now));
    }
}

/// What a look at the map gave.
enum Fetched {
    Item(Py<PyAny>),
    /// The next item is not settled.
    NotYet,
    End,
}

/// The moving parts of a map.
struct State {
    /// Let go as soon as there is nothing more to submit: whoever made it may have dropped it to have it closed.
    executor: Option<Py<Executor>>,
    /// `None` when it is exhausted.
    source: Option<Py<PyIterator>>,
    /// Whether anybody has asked for an item yet.
    is_begun: bool,
    /// What the source raised, to be raised when all before it has been handed out.
    source_error: Option<PyErr>,
    flights: Flights,
    /// Instead of flights, where many items travel together.
    bulks: Option<Box<Bulks>>,
    ready: Option<Ready>,
    next_index: u64,
    window: Window,
    /// How many items are worked on at once.
    capacity: usize,
    tally: Tally,
    progress: Option<Progress>,
}

/// A lazy iterator over a function's values for the items of an input. Made by `mh.map`.
#[pyclass(frozen, subclass, generic, module = "manyhands._core")]
pub(crate) struct Mapped {
    function: Py<PyAny>,
    shape: Shape,
    on_error: OnError,
    seed: Option<u64>,
    owns_executor: bool,
    deadline: Option<Tick>,
    state: Mutex<Option<Box<State>>>,
    /// The final figures, when the state is gone.
    summary: Mutex<Option<Py<PyDict>>>,
}

impl Mapped {
    /// The state, which nobody else can use meanwhile; `None` if the map is over.
    fn hold(&self) -> PyResult<MutexGuard<'_, Option<Box<State>>>> {
        match self.state.try_lock() {
            Ok(state) => Ok(state),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {
                Err(PyValueError::new_err("could not go on: another thread is fetching from this map"))
            }
        }
    }

    /// Runs `body` with the state, if the map is not over.
    fn with_state<R>(&self, body: impl FnOnce(&mut State) -> PyResult<R>) -> PyResult<Option<R>> {
        self.hold()?.as_deref_mut().map(body).transpose()
    }

    /// Submits items until the window is full.
    fn refill(&self, py: Python<'_>, state: &mut State) -> PyResult<()> {
        let mut turn = Turn::begin(clock::now());
        for count in 0..state.window.vacant(state.flights.len()) {
            if count % SUBMISSIONS == SUBMISSIONS - 1 {
                py.check_signals()?;
                turn.give_way(py, clock::now());
            }
            let Some(item) = self.pull(py, state)? else { break };
            self.launch(state, &item)?;
        }
        Ok(())
    }

    /// The next item of the source; `None` at its end, and after an error, which is kept.
    fn pull<'py>(&self, py: Python<'py>, state: &mut State) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(source) = &state.source else { return Ok(None) };
        let end = match source.clone_ref(py).into_bound(py).next() {
            Some(Ok(item)) => return Ok(Some(item)),
            end => end.and_then(Result::err),
        };
        state.source = None;
        if !self.owns_executor {
            state.executor = None;
        }
        if let Some(error) = end {
            if !error.is_instance_of::<PyException>(py) {
                return Err(error);
            }
            state.source_error = Some(error);
        }
        Ok(None)
    }

    /// Submits items in bulks until the window is full: one by one as long as nothing is known of source and function.
    fn refill_bulks(&self, py: Python<'_>, state: &mut State, bulks: &mut Bulks) -> PyResult<()> {
        let vacant = state.window.vacant(bulks.outstanding());
        let (mut items, mut inputs, mut began) = (Items::default(), Vec::new(), clock::now());
        // A look at the clock costs as much as a short item: several share one while they come fast.
        let (mut looked, mut stride) = (began, 1);
        for count in 1..=vacant {
            let Some(item) = self.pull(py, state)? else { break };
            items.push(|bytes| bulks.encode(&item, bytes))?;
            inputs.push(item.unbind());
            let is_enough = !state.window.is_widened || items.bytes_len() >= LARGE_BULK;
            let mut is_late = false;
            if is_enough || count % stride == 0 {
                let now = clock::now();
                stride = if now - looked < GATHERING / 64 { (stride * 2).min(MOST_STRIDE) } else { 1 };
                looked = now;
                is_late = now - began > GATHERING;
            }
            if is_enough || is_late {
                bulks.submit(py, std::mem::take(&mut items), std::mem::take(&mut inputs))?;
                began = looked;
            }
            if count % SUBMISSIONS == 0 {
                py.check_signals()?;
            }
        }
        bulks.submit(py, items, inputs)
    }

    /// As [`fetch`](Self::fetch), where items travel in bulks.
    fn fetch_of_bulks(
        &self,
        py: Python<'_>,
        state: &mut State,
        bulks: &mut Bulks,
        waits: bool,
    ) -> PyResult<Fetched> {
        let is_ordered = matches!(state.flights, Flights::Ordered(_));
        loop {
            while let Some(ready) = &mut state.ready
                && let Some(Settled { index, input, result, times, bytes }) = ready.next(py)?
            {
                state.window.deliver();
                if let Err(error) = &result {
                    error::name_item(py, error, index, Some(&input));
                }
                state.tally.count_item(py, index, times.wall, &input, result.as_ref().err())?;
                if self.on_error == OnError::Return {
                    let history = ready.history(times, bytes);
                    let outcome = Outcome::new(py, index, input, result, history, true)?;
                    return Ok(Fetched::Item(Py::new(py, outcome)?.into_any()));
                }
                match result {
                    Ok(value) => return Ok(Fetched::Item(value)),
                    Err(error)
                        if self.on_error == OnError::Skip && error.is_instance_of::<PyException>(py) => {}
                    Err(error) => return Err(error),
                }
            }
            self.refill_bulks(py, state, bulks)?;
            if bulks.outstanding() == 0 {
                return state.source_error.take().map_or(Ok(Fetched::End), Err);
            }
            bulks.empty_mailbox();
            let is_measured = self.on_error == OnError::Return;
            let ready = |harvest| Ready { harvest, taken: 0, offset: 0, is_measured };
            state.ready = bulks.take(py, is_ordered)?.map(ready);
            if state.ready.is_some() {
                continue;
            }
            if !waits {
                return Ok(Fetched::NotYet);
            }
            state.window.starve();
            // With one slow item ahead of all others the workers would soon have nothing left to do.
            if state.window.may_widen() && state.source.is_some() && bulks.unsettled() < state.capacity {
                state.window.widen(2);
                continue;
            }
            let is_full = state.source.is_none() || state.window.vacant(bulks.outstanding()) == 0;
            if is_full && !bulks.wait(py, self.deadline)? {
                return Err(error::gave_up_waiting(py));
            }
        }
    }

    fn launch(&self, state: &mut State, item: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = item.py();
        let args = match self.shape {
            Shape::Single => PyTuple::new(py, [item])?,
            Shape::Spread => match item.cast::<PyTuple>() {
                Ok(args) => args.clone(),
                Err(_) => py.get_type::<PyTuple>().call1((item,))?.cast_into()?,
            },
        };
        let index = state.next_index;
        let executor = state.executor.as_ref().expect("kept while there is a source").bind(py).get();
        let pool = executor.pool()?;
        let seed = self.seed.map(|seed| crate::seed::of_item(seed, index));
        let work = pool.work(self.function.bind(py), args, None, seed)?;
        let mut detail = executor.detail(py)?;
        let keeps_account = self.on_error != OnError::Bare;
        if keeps_account {
            let mut kept = detail.unwrap_or_else(|| Box::new(Detail::new(None, None, work.submitted())));
            kept.measured = self.on_error == OnError::Return;
            detail = Some(kept);
        }
        let future = pool.submit(py, work, detail)?;
        if let Some(progress) = &state.progress {
            let _ = future.get().subscribe(Waiter::Progress(Arc::clone(&progress.counts)));
        }
        let input = keeps_account.then(|| item.clone().unbind());
        state.flights.push(py, Flight { index, future: future.unbind(), input });
        state.next_index += 1;
        Ok(())
    }

    /// The next thing to hand out, waiting for it if need be.
    fn fetch(&self, py: Python<'_>, state: &mut State, waits: bool) -> PyResult<Fetched> {
        if let Some(mut bulks) = state.bulks.take() {
            let fetched = self.fetch_of_bulks(py, state, &mut bulks, waits);
            state.bulks = Some(bulks);
            return fetched;
        }
        loop {
            self.refill(py, state)?;
            if state.flights.len() == 0 {
                return state.source_error.take().map_or(Ok(Fetched::End), Err);
            }
            let flight = match state.flights.take_settled(py) {
                Some(flight) => flight,
                None if !waits => return Ok(Fetched::NotYet),
                None => {
                    state.window.starve();
                    let may_widen = state.window.may_widen() && state.source.is_some();
                    match state.flights.wait(py, self.deadline, may_widen)? {
                        Waited::Settled(flight) => flight,
                        Waited::Outrun => {
                            state.window.widen(2);
                            continue;
                        }
                        Waited::TooLong => return Err(error::gave_up_waiting(py)),
                    }
                }
            };
            state.window.deliver();
            if let Some(item) = self.hand_out(py, state, flight)? {
                return Ok(Fetched::Item(item));
            }
        }
    }

    /// What the consumer gets of a settled item; `None` for one to be skipped.
    fn hand_out(&self, py: Python<'_>, state: &mut State, flight: Flight) -> PyResult<Option<Py<PyAny>>> {
        let future = flight.future.bind(py).get();
        future.observe();
        let result = future.outcome(py).unwrap_or_else(|| Err(error::gave_up_waiting(py)));
        if let Err(error) = &result {
            error::name_item(py, error, flight.index, flight.input.as_ref());
        }
        let Some(input) = flight.input else { return result.map(Some) };
        state.tally.count(py, flight.index, future, &input, result.as_ref().err())?;
        match (self.on_error, result) {
            (OnError::Return, result) => {
                let history =
                    future.detail().map_or_else(History::default, |detail| detail.history().clone());
                let has_cpu = !future.pool().is_some_and(|pool| pool.cancels_running());
                let outcome = Outcome::new(py, flight.index, input, result, history, has_cpu)?;
                Ok(Some(Py::new(py, outcome)?.into_any()))
            }
            (_, Ok(value)) => Ok(Some(value)),
            (OnError::Skip, Err(error)) if error.is_instance_of::<PyException>(py) => Ok(None),
            (_, Err(error)) => Err(error),
        }
    }

    fn step(&self, py: Python<'_>, waits: bool) -> PyResult<Fetched> {
        let mut slot = self.hold()?;
        let Some(state) = slot.as_deref_mut() else { return Ok(Fetched::End) };
        state.is_begun = true;
        let fetched = self.fetch(py, state, waits);
        if let Ok(Fetched::Item(_) | Fetched::NotYet) = fetched {
            return fetched;
        }
        let state = slot.take();
        drop(slot);
        state.map_or(Ok(()), |state| self.finish(py, state))?;
        fetched
    }

    /// Ends the map: stops what is in flight, closes the executor if it is the map's own, keeps the figures.
    fn finish(&self, py: Python<'_>, mut state: Box<State>) -> PyResult<()> {
        state.tally.end();
        let figures = state.tally.figures(py)?.unbind();
        *self.summary.lock().unwrap_or_else(PoisonError::into_inner) = Some(figures);
        if self.owns_executor
            && let Some(executor) = &state.executor
        {
            executor.bind(py).get().pool()?.close(py, true);
        }
        if let Some(bulks) = &mut state.bulks {
            bulks.give_up(py, true)?;
        }
        let mut flights = state.flights.drain();
        // Those that have not begun first: they must not begin in the places of those that are stopped.
        flights.sort_by_key(|flight| flight.future.get().state() == TaskState::Running);
        for flight in flights {
            let future = flight.future.bind(py);
            future.get().observe();
            if self.on_error == OnError::Bare {
                Future::cancel_gently(future)?;
            } else {
                Future::cancel_now(future);
            }
        }
        if let Some(progress) = state.progress.take() {
            state.tally.settle(&progress.counts);
            py.detach(|| drop(progress));
        }
        Ok(())
    }
}

#[pymethods]
impl Mapped {
    #[new]
    #[pyo3(signature = (executor, function, source, *, spread, ordered, on_error, buffersize, capacity, total,
        progress, seed, owns_executor))]
    #[expect(clippy::too_many_arguments, reason = "called from one place, with the record of options")]
    fn new(
        py: Python<'_>,
        executor: Py<Executor>,
        function: Bound<'_, PyAny>,
        source: Py<PyIterator>,
        spread: bool,
        ordered: bool,
        on_error: &str,
        buffersize: Option<usize>,
        capacity: usize,
        total: Option<u64>,
        progress: Option<String>,
        seed: Option<u64>,
        owns_executor: bool,
    ) -> PyResult<Self> {
        let on_error = match on_error {
            "raise" => OnError::Raise,
            "return" => OnError::Return,
            "skip" => OnError::Skip,
            other => {
                return Err(PyValueError::new_err(format!(
                    "could not map: found on_error={other:?}, expected \"raise\", \"return\" or \"skip\""
                )));
            }
        };
        executor.bind(py).get().check(&function)?;
        let progress = progress.map(|label| Progress::start(label, total)).transpose()?;
        let mut window =
            buffersize.map_or_else(|| Window::growing(capacity.saturating_mul(2)), Window::fixed);
        let manner = Manner { spreads: spread, is_timed: true, is_measured: on_error == OnError::Return };
        let mut bulks =
            if seed.is_none() { Bulks::on(executor.bind(py).get(), &function, manner)? } else { None };
        if let Some(bulks) = &mut bulks {
            if let Some(progress) = &progress {
                bulks.set_progress(Arc::clone(&progress.counts));
            }
            window.fit_for_bulks();
        }
        let state = State {
            bulks: bulks.map(Box::new),
            capacity,
            ..State::new(executor, source, ordered, window, progress)
        };
        Ok(Self {
            function: function.unbind(),
            shape: if spread { Shape::Spread } else { Shape::Single },
            on_error,
            seed,
            owns_executor,
            deadline: None,
            state: Mutex::new(Some(Box::new(state))),
            summary: Mutex::new(None),
        })
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        match self.step(py, true)? {
            Fetched::Item(item) => Ok(Some(item)),
            Fetched::NotYet | Fetched::End => Ok(None),
        }
    }

    /// Return a 1-tuple of the next item, None if it is not settled yet; raise StopAsyncIteration at the end.
    fn _poll<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        match self.step(py, false)? {
            Fetched::Item(item) => Ok(Some(PyTuple::new(py, [item])?)),
            Fetched::NotYet => Ok(None),
            Fetched::End => Err(pyo3::exceptions::PyStopAsyncIteration::new_err(())),
        }
    }

    /// Have `future` of `event_loop` woken when the next item is settled; False if it is already.
    fn _enrol_loop(&self, py: Python<'_>, event_loop: Py<PyAny>, future: Py<PyAny>) -> PyResult<bool> {
        let enrolled = self.with_state(|state| {
            let waiter = LoopWaiter { event_loop, future };
            Ok(match &state.bulks {
                Some(bulks) => bulks.enrol_loop(waiter),
                None => state.flights.enrol_loop(py, waiter),
            })
        })?;
        Ok(enrolled.unwrap_or(false))
    }

    /// Stop: cancel what has not begun, stop what runs, release the workers. Harmless when the map is over.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let state = self.hold()?.take();
        state.map_or(Ok(()), |state| self.finish(py, state))
    }

    /// The figures so far, by name.
    fn _figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        if let Some(figures) = &*self.summary.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(figures.bind(py).clone());
        }
        let figures = self.with_state(|state| state.tally.figures(py))?;
        Ok(figures.unwrap_or_else(|| PyDict::new(py)))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)?;
        visit.call(&*self.summary.lock().unwrap_or_else(PoisonError::into_inner))?;
        // While somebody fetches, what it has is in use.
        let Ok(state) = self.state.try_lock() else { return Ok(()) };
        state.as_ref().map_or(Ok(()), |state| state.traverse(visit))
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = state.take() else { return };
        if self.on_error == OnError::Bare && !state.is_begun {
            // `Executor.map` is also called for what the function does; the standard library goes on, too.
            return;
        }
        error::put_aside(|py| {
            if let Err(error) = self.finish(py, state) {
                error.write_unraisable(py, None);
            }
        });
    }
}

impl State {
    fn new(
        executor: Py<Executor>,
        source: Py<PyIterator>,
        ordered: bool,
        window: Window,
        progress: Option<Progress>,
    ) -> Self {
        let flights = if ordered {
            Flights::Ordered(VecDeque::new())
        } else {
            Flights::Unordered { flights: HashMap::new(), mailbox: Arc::default() }
        };
        Self {
            executor: Some(executor),
            source: Some(source),
            is_begun: false,
            source_error: None,
            flights,
            bulks: None,
            ready: None,
            capacity: 1,
            next_index: 0,
            window,
            tally: Tally::default(),
            progress,
        }
    }

    fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.executor)?;
        visit.call(&self.source)?;
        self.bulks.as_ref().map_or(Ok(()), |bulks| bulks.traverse(visit))?;
        if let Some(ready) = &self.ready {
            ready.harvest.inputs.iter().try_for_each(|input| visit.call(input))?;
        }
        let each = |flight: &Flight| {
            visit.call(&flight.future)?;
            visit.call(&flight.input)
        };
        match &self.flights {
            Flights::Ordered(flights) => flights.iter().try_for_each(each)?,
            Flights::Unordered { flights, .. } => flights.values().try_for_each(each)?,
        }
        self.tally.traverse(visit)
    }
}

/// `Executor.map`: everything is submitted at once unless there is a buffer size.
#[pyfunction]
#[pyo3(signature = (executor, function, source, spread, timeout, buffersize))]
pub(crate) fn map_calls<'py>(
    py: Python<'py>,
    executor: Py<Executor>,
    function: Bound<'py, PyAny>,
    source: Bound<'py, PyAny>,
    spread: bool,
    timeout: Option<f64>,
    buffersize: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    executor.bind(py).get().check(&function)?;
    let mut source = source;
    if buffersize.is_none() {
        let itertools = py.import("itertools")?;
        match Batched::start(executor.bind(py).get(), &function, &source, spread, timeout)? {
            Ok(lists) => return itertools.getattr("chain")?.call_method1("from_iterable", (lists,)),
            Err(None) => {}
            Err(Some(first)) => source = itertools.call_method1("chain", ((first,), &source))?,
        }
    }
    let window = Window::fixed(buffersize.unwrap_or(usize::MAX));
    let mut state = State::new(executor, source.cast_into()?.unbind(), true, window, None);
    let mapped = Mapped {
        function: function.unbind(),
        shape: if spread { Shape::Spread } else { Shape::Single },
        on_error: OnError::Bare,
        seed: None,
        owns_executor: false,
        deadline: enter::deadline(timeout)?,
        state: Mutex::new(None),
        summary: Mutex::new(None),
    };
    let filled = mapped.refill(py, &mut state);
    let source_error = state.source_error.take();
    *mapped.hold()? = Some(Box::new(state));
    filled?;
    // The input is read here and now, so its failure is raised here and now.
    match source_error {
        Some(error) => Err(error),
        None => Ok(Bound::new(py, mapped)?.into_any()),
    }
}
