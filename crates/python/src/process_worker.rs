//! The worker's side: takes tasks from its ring, calls, answers. Runs in the worker process's main thread.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_os::clock;
use manyhands_os::event::Event;
use manyhands_os::ring::{self, Consumer, Producer, PushError};
use manyhands_os::segment::{Segment, Writes};
use manyhands_os::slots::Slots;
use manyhands_os::stock::Stock;
use pyo3::exceptions::{PyBaseException, PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::bulk::Manner;
use crate::cancellations;
use crate::draft::{self, Draft};
use crate::enter::Turn;
use crate::lines::{Lines, STREAMS};
use crate::message::{self, Content, Order, Place, Task};
use crate::native;
use crate::offer;
use crate::parcel::{self, Culprit};
use crate::patience::Patience;
use crate::pickle::{Parts, Pickled, Weight};
use crate::pool;
use crate::process_crew::{ARGUMENTS, INLINE, OPENED, RELEASED, RESULTS, RETIRED, RING, SEGMENT, STOPPED};
use crate::view::{Bundle, Known, Lender};
use crate::wire::{self, Reader, Times};

/// How long an idle worker looks for its next task before it sleeps.
const LOOK: Duration = Duration::from_micros(50);
/// How soon a worker whose answer finds no room looks again: twice as long each time, up to so long. A pool that reads
/// empties a ring in a fraction of a millisecond; one that does not may leave it full for long.
const FULL: Duration = Duration::from_micros(25);
const LONGEST_FULL: Duration = Duration::from_millis(1);

/// How often to look whether the pool has opened an answer, and for how long: it may be busy, or stopped.
const OPENING: Duration = Duration::from_micros(20);
const LONGEST_OPENING: Duration = Duration::from_millis(50);
/// A result of fewer bytes is written in no time.
const SMALL_RESULT: usize = 256;
/// After how many items of a batch to look at the clock and for other threads.
const LOOK_AROUND: u32 = 16;
/// A batch that turns out to take longer is given back.
const LONGEST_BATCH: Duration = Duration::from_millis(10);

/// What a worker holds.
struct Body {
    tasks: Consumer,
    functions: HashMap<u32, PyResult<Py<PyAny>>>,
    /// Answers that did not fit the ring, until the pool has read them; and how many have been forgotten.
    outside: VecDeque<Segment>,
    forgotten: u64,
    /// How many answers lay in memory of this process.
    shown: u64,
    /// Large answers into which the pool may look; and memory for the next.
    lent: Slots<Segment>,
    stock: Stock,
    control: Arc<Control>,
    share: Share,
    patience: Arc<Patience>,
}

/// The segment that the worker has in common with its pool, and others of the pool's.
struct Control(Arc<Segment>, Known);

impl Lender for Control {
    fn give_back(&self, slot: u8, _len: usize, is_spoilt: bool) {
        ARGUMENTS.mark(&self.0, slot, is_spoilt);
    }

    fn known(&self) -> &Known {
        &self.1
    }
}

/// What a worker may do before another takes its place.
struct Share {
    /// Tasks that it may still run.
    tasks: Option<u64>,
    /// The most memory that it may hold after a task, in bytes.
    memory: Option<u64>,
}

impl Body {
    /// Takes the next task from the ring, if there is one and it may run one, and notes that it begins.
    fn pop(&mut self, message: &mut Vec<u8>) -> PyResult<bool> {
        let has_task = !self.has_retired() && self.tasks.try_pop(message).map_err(corrupt)?;
        if has_task && let Some(serial) = message::serial(message) {
            draft::begin(&self.control.0, serial);
        }
        Ok(has_task)
    }

    /// Looks for the next task as long as that may pay.
    fn look(&mut self, began: Tick, message: &mut Vec<u8>) -> PyResult<bool> {
        let patience = Arc::clone(&self.patience);
        patience.look(began, None, || self.pop(message))
    }

    fn is_stopped(&self) -> bool {
        self.control.0.words()[STOPPED].load(Ordering::Acquire) != 0
    }

    fn has_retired(&self) -> bool {
        self.control.0.words()[RETIRED].load(Ordering::Relaxed) != 0
    }

    /// How many of so many tasks it may still run.
    fn share_of(&self, tasks: u32) -> u32 {
        self.share.tasks.map_or(tasks, |most| tasks.min(u32::try_from(most).unwrap_or(u32::MAX)))
    }

    /// Takes note of tasks that were run. Announced before their answer, so that nothing is put ahead after it.
    fn count_tasks(&mut self, count: u32) {
        if let Some(tasks) = &mut self.share.tasks {
            *tasks = tasks.saturating_sub(count.into());
        }
        let is_large = |most: u64| manyhands_os::memory::resident().is_ok_and(|held| held > most);
        if self.share.tasks == Some(0) || self.share.memory.is_some_and(is_large) {
            self.control.0.words()[RETIRED].store(1, Ordering::Release);
        }
    }

    /// Takes back the memory of answers that the pool has read.
    fn forget_read(&mut self) {
        let released = self.control.0.words()[RELEASED].load(Ordering::Acquire);
        while self.forgotten < released && self.outside.pop_front().is_some() {
            self.forgotten += 1;
        }
        for (segment, is_spoilt) in self.lent.take_freed(&self.control.0) {
            if !is_spoilt {
                self.stock.put(segment);
            }
        }
    }

    /// Waits until the pool has opened what this process has answered in its own memory, for the next task may end it.
    fn await_opening(&mut self, py: Python<'_>) {
        let opened = || self.control.0.words()[OPENED].load(Ordering::Acquire);
        if opened() >= self.shown {
            return;
        }
        let began = clock::now();
        py.detach(|| {
            while opened() < self.shown && !self.is_stopped() && clock::now() - began < LONGEST_OPENING {
                // The pool opens it without our asking; there is no event for that, for it is done in no time.
                std::thread::sleep(OPENING);
            }
        });
        // If it did not, it is not waited for again.
        self.shown = opened().min(self.shown);
    }

    /// Keeps a large answer as it is until the pool does not look into it any more.
    fn lend(&mut self, segment: Segment, is_memorable: bool) -> Place {
        let place = Place::new(&segment, None, is_memorable);
        let slot = self.lent.lend(segment).map_err(|segment| self.outside.push_back(segment)).ok();
        Place { slot, ..place }
    }

    /// Arguments as they came, or where they lie.
    fn receive<'a>(&self, content: Content<'a>, parent: i32, writes: Writes) -> io::Result<Arguments<'a>> {
        let lender: Arc<dyn Lender> = Arc::<Control>::clone(&self.control);
        match content {
            Content::Inline(bytes) => Ok(Arguments::Inline(bytes)),
            Content::Large(place) => Bundle::open(parent, place, writes, &lender).map(Arguments::Large),
        }
    }
}

/// Pickled arguments; none at all if empty.
enum Arguments<'a> {
    Inline(&'a [u8]),
    Large(Bundle),
}

/// A worker process, as its Python main function sees it.
#[pyclass(frozen, module = "manyhands._core")]
pub(crate) struct ProcessWorker {
    parent: i32,
    /// What becomes of what tasks write to large arguments.
    writes: Writes,
    event: Event,
    pool_event: Event,
    body: Mutex<Option<Body>>,
    /// Locked for single messages only, and never while the interpreter is waited for: tasks' threads push notes.
    answers: Mutex<Producer>,
    lines: Lines,
    born: u32,
}

impl ProcessWorker {
    /// Sends an answer about a task, in a segment of its own if it is too large for the ring.
    fn answer(&self, py: Python<'_>, body: &mut Body, serial: u64, parts: &[&[u8]]) -> PyResult<()> {
        if parts.iter().map(|part| part.len()).sum::<usize>() <= INLINE {
            return self.push(py, parts);
        }
        body.forget_read();
        let (header, segment) = message::outside(serial, parts)?;
        body.outside.push_back(segment);
        body.shown += 1;
        self.push(py, &[&header])
    }

    /// Pushes an answer, waiting for room.
    fn push(&self, py: Python<'_>, parts: &[&[u8]]) -> PyResult<()> {
        let mut pause = FULL;
        loop {
            let pushed = self.answers.lock().unwrap_or_else(PoisonError::into_inner).try_push(parts);
            match pushed {
                Ok(pushed) => {
                    if pushed.must_wake {
                        self.pool_event.signal();
                    }
                    return Ok(());
                }
                // The pool reads without our asking; there is no event for room, for there is room nearly always.
                Err(PushError::Full) => {
                    py.detach(|| std::thread::sleep(pause));
                    pause = (2 * pause).min(LONGEST_FULL);
                }
                Err(broken) => return Err(PyRuntimeError::new_err(format!("could not answer: {broken}"))),
            }
        }
    }

    /// Waits for a task; `false` if the worker shall end.
    fn next(&self, py: Python<'_>, body: &mut Body, message: &mut Vec<u8>) -> PyResult<bool> {
        if body.pop(message)? {
            return Ok(true);
        }
        let idle_since = clock::now();
        let mut has_task = body.look(idle_since, message)?;
        while !has_task {
            if body.is_stopped() {
                return Ok(false);
            }
            body.forget_read();
            // One that has retired only waits for being told to end: what is still in its ring is taken back.
            if body.has_retired() || body.tasks.prepare_sleep() {
                // A signal's handler may have something to raise.
                if py.detach(|| self.event.wait(None)).is_err() {
                    py.check_signals()?;
                }
            }
            self.event.drain();
            body.tasks.end_sleep();
            has_task = body.pop(message)?;
        }
        body.patience.learn(clock::now() - idle_since);
        Ok(true)
    }

    /// Follows one order.
    fn follow(&self, py: Python<'_>, body: &mut Body, bytes: &[u8], may_be_outside: bool) -> PyResult<()> {
        match message::read_order(bytes) {
            Some(Order::Task { task, function, arguments }) => {
                if !function.is_empty() {
                    body.functions.insert(task.function, parcel::load(py, function).map(Bound::unbind));
                }
                match body.receive(arguments, self.parent, self.writes) {
                    Ok(Arguments::Inline(items)) if task.items > 0 => self.run_batch(py, body, &task, items),
                    Ok(arguments) => self.run_task(py, body, &task, arguments),
                    Err(error) => self.fail(py, body, task.serial, "arguments", error.into()),
                }
            }
            Some(Order::Outside { descriptor, len, serial }) if may_be_outside => {
                match message::read_outside(self.parent, descriptor, len) {
                    Ok(message) => self.follow(py, body, &message, false),
                    Err(error) => self.fail(py, body, serial, "arguments", error.into()),
                }
            }
            _ => Err(PyRuntimeError::new_err("the pool sent a message of no known kind")),
        }
    }

    /// Reads one order as a call to be made by whoever runs coroutines; `None` if it was answered with a failure.
    fn read_order<'py>(
        &self,
        py: Python<'py>,
        body: &mut Body,
        bytes: &[u8],
        may_be_outside: bool,
    ) -> PyResult<Option<TakenCall<'py>>> {
        match message::read_order(bytes) {
            Some(Order::Task { task, function, arguments }) => {
                if !function.is_empty() {
                    body.functions.insert(task.function, parcel::load(py, function).map(Bound::unbind));
                }
                let arguments = match body.receive(arguments, self.parent, self.writes) {
                    Ok(arguments) => arguments,
                    Err(error) => {
                        return self.fail(py, body, task.serial, "arguments", error.into()).map(|()| None);
                    }
                };
                match read_task(py, body, &task, arguments) {
                    Ok((function, (args, kwargs, variables))) => {
                        Ok(Some((task.serial, function, args, kwargs, variables)))
                    }
                    Err(error) => {
                        let (has_failed, pickled) = pack(py, Err(error))?;
                        let answer = |is_large| message::answer(task.serial, has_failed, is_large, 0, 0);
                        self.answer_pickled(py, body, task.serial, pickled, answer).map(|()| None)
                    }
                }
            }
            Some(Order::Outside { descriptor, len, serial }) if may_be_outside => {
                match message::read_outside(self.parent, descriptor, len) {
                    Ok(message) => self.read_order(py, body, &message, false),
                    Err(error) => self.fail(py, body, serial, "arguments", error.into()).map(|()| None),
                }
            }
            _ => Err(PyRuntimeError::new_err("the pool sent a message of no known kind")),
        }
    }

    fn run_task(
        &self,
        py: Python<'_>,
        body: &mut Body,
        task: &Task,
        arguments: Arguments<'_>,
    ) -> PyResult<()> {
        let (began, cpu) = (clock::now(), clock::thread_cpu());
        draft::begin_item(&body.control.0, began);
        let result = call(py, body, task, arguments);
        let run = clock::now() - began;
        let cpu = clock::thread_cpu().saturating_sub(cpu);
        self.flush_all(py)?;
        let (has_failed, pickled) = pack(py, result)?;
        body.count_tasks(1);
        let (run, cpu) = (nanoseconds(run), nanoseconds(cpu));
        let header = |is_large| message::answer(task.serial, has_failed, is_large, run, cpu);
        self.answer_pickled(py, body, task.serial, pickled, header)?;
        body.await_opening(py);
        Ok(())
    }

    /// Answers with a pickle, behind a header that says whether it is large; with a failure if there is no room for it.
    fn answer_pickled<const N: usize>(
        &self,
        py: Python<'_>,
        body: &mut Body,
        serial: u64,
        pickled: Pickled,
        header: impl Fn(bool) -> [u8; N],
    ) -> PyResult<()> {
        let answered = match pickled {
            Pickled::Small(bytes) => self.answer(py, body, serial, &[&header(false), &bytes]),
            Pickled::Large(parts) => place(py, body, self.parent, parts).and_then(|place| {
                body.shown += u64::from(!place.is_yours);
                self.push(py, &[&header(true), &place.encode()])
            }),
        };
        match answered {
            Err(error) if error.is_instance_of::<PyOSError>(py) => {
                self.fail(py, body, serial, "result", error)
            }
            answered => answered,
        }
    }

    /// Sends what the output streams hold of lines.
    fn flush_all(&self, py: Python<'_>) -> PyResult<()> {
        (0..STREAMS).try_for_each(|stream| self.flush(py, stream))
    }

    /// Runs the items of a batch, as long as that does not take too long; what is left the pool takes back.
    fn run_batch(&self, py: Python<'_>, body: &mut Body, task: &Task, items: &[u8]) -> PyResult<()> {
        let (began, cpu) = (clock::now(), clock::thread_cpu());
        let segment = Arc::clone(&body.control.0);
        let malformed = || PyRuntimeError::new_err("the pool sent a batch that is too short");
        let (variables, items) = items.split_at_checked(task.context_len as usize).ok_or_else(malformed)?;
        let context = native::copy_current_context(py)?;
        if !variables.is_empty() {
            let variables = parcel::load(py, variables)?;
            native::in_context(&context, || parcel::apply_context(&variables))?;
        }
        let mut turn = Turn::begin(began);
        let (mut reader, mut results) = (Reader::new(items), Results::default());
        let mut part_began = began;
        let draft = Draft::begin(&segment, task.serial, body.share_of(task.items));
        let function = function_of(py, body, task);
        let (mut done, mut is_long) = (0, false);
        let mut before = None;
        while !is_long && draft.claim() {
            done += 1;
            let from = results.bytes.len();
            let began_item = before.take().or_else(|| Before::of(task.manner));
            if let Some(began_item) = &began_item {
                draft::begin_item(&segment, began_item.wall);
            }
            let result = native::in_context(&context, || call_item(&function, task.manner, &mut reader, py));
            let (times, ended_item) = began_item.map(Before::end).unzip();
            results.add(py, result, times)?;
            draft.note(results.done, &results.bytes, from);
            // Reading the clocks costs more than the smallest items: the end of one is the beginning of the next.
            before = ended_item.filter(|_| results.bytes.len() - from < SMALL_RESULT);
            is_long = done % LOOK_AROUND == 0 && {
                let now = clock::now();
                turn.give_way(py, now);
                before = None;
                now - began > LONGEST_BATCH
            };
            if Draft::is_full(results.bytes.len()) {
                before = None;
                let now = clock::now();
                self.send_part(py, body, task, &mut results, now - part_began)?;
                draft.clear(done);
                part_began = now;
            }
        }
        if results.done > 0 {
            self.send_part(py, body, task, &mut results, clock::now() - part_began)?;
            draft.clear(done);
        }
        body.count_tasks(done);
        let (run, cpu) = (clock::now() - began, clock::thread_cpu().saturating_sub(cpu));
        let header = message::answer(task.serial, false, false, nanoseconds(run), nanoseconds(cpu));
        self.answer(py, body, task.serial, &[&header])
    }

    fn send_part(
        &self,
        py: Python<'_>,
        body: &mut Body,
        task: &Task,
        results: &mut Results,
        run: Duration,
    ) -> PyResult<()> {
        self.flush_all(py)?;
        let header = message::part(task.serial, results.done, results.failed, nanoseconds(run));
        let sent = self.answer(py, body, task.serial, &[&header, &results.bytes]);
        if let Err(error) = sent {
            if !error.is_instance_of::<PyOSError>(py) {
                return Err(error);
            }
            // There is no memory for so much: every one of them is told so.
            let pickled = pack_failure(py, &explain_unsent(py, "result", &error))?;
            let done = results.done;
            *results = Results::default();
            for _ in 0..done {
                results.done += 1;
                results.failed += 1;
                wire::encode_failed_item(&pickled, task.manner, Duration::ZERO, &mut results.bytes);
            }
            let header = message::part(task.serial, results.done, results.failed, nanoseconds(run));
            self.answer(py, body, task.serial, &[&header, &results.bytes])?;
        }
        body.await_opening(py);
        *results = Results::default();
        Ok(())
    }

    /// Answers that a task's `what` could not be sent: the machine has no room for it.
    fn fail(&self, py: Python<'_>, body: &mut Body, serial: u64, what: &str, error: PyErr) -> PyResult<()> {
        let bytes = pack_failure(py, &explain_unsent(py, what, &error))?;
        let header = message::answer(serial, true, false, 0, 0);
        self.answer(py, body, serial, &[&header, &bytes])
    }
}

/// Copies a large answer to where the pool can read it.
fn place(py: Python<'_>, body: &mut Body, parent: i32, parts: Parts) -> PyResult<Place> {
    body.forget_read();
    if parts.len() >= offer::LEAST
        && !body.stock.has(parts.len())
        && let Some(mut segment) = offer::accept(&body.control.0, parent, parts.len())
    {
        parts.fill(py, &mut segment)?;
        return Ok(Place::yours());
    }
    let mut segment = parts.take_from(py, &body.stock)?;
    parts.fill(py, &mut segment)?;
    let is_memorable = parts.is_memorable();
    // The result itself, which may be as large.
    drop(parts);
    Ok(body.lend(segment, is_memorable))
}

fn explain_unsent(py: Python<'_>, what: &str, error: &PyErr) -> PyErr {
    let text = format!("could not send the {what} of a task: {}", error.value(py));
    let explained = PyOSError::new_err(text);
    explained.set_cause(py, Some(error.clone_ref(py)));
    explained
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Results of items that were not sent yet.
#[derive(Default)]
struct Results {
    bytes: Vec<u8>,
    done: u32,
    failed: u32,
}

impl Results {
    fn add(
        &mut self,
        py: Python<'_>,
        result: PyResult<Bound<'_, PyAny>>,
        times: Option<Times>,
    ) -> PyResult<()> {
        self.done += 1;
        if let Some(times) = times {
            wire::encode_times(times, &mut self.bytes);
        }
        let error = match result {
            Ok(value) => match wire::encode(&value, &mut self.bytes) {
                Ok(()) => return Ok(()),
                Err(error) => explain_unpickled(&value, error)?,
            },
            Err(error) => error,
        };
        self.failed += 1;
        wire::encode_failure(&pack_failure(py, &error)?, &mut self.bytes);
        Ok(())
    }
}

/// When an item was begun.
struct Before {
    wall: Tick,
    cpu: Option<Duration>,
}

impl Before {
    fn of(manner: Manner) -> Option<Self> {
        let cpu = manner.is_measured.then(clock::thread_cpu);
        manner.is_timed.then(|| Self { wall: clock::now(), cpu })
    }

    /// What it took until now, from when the next may begin.
    fn end(self) -> (Times, Self) {
        let now = Self { wall: clock::now(), cpu: self.cpu.map(|_| clock::thread_cpu()) };
        let cpu = now.cpu.zip(self.cpu).map(|(after, before)| after.saturating_sub(before));
        (Times { wall: now.wall - self.wall, cpu }, now)
    }
}

/// The function of a task, if it could be read.
fn function_of<'py>(py: Python<'py>, body: &Body, task: &Task) -> PyResult<Bound<'py, PyAny>> {
    match body.functions.get(&task.function) {
        Some(Ok(function)) => Ok(function.bind(py).clone()),
        Some(Err(error)) => Err(error.clone_ref(py)),
        None => Err(PyRuntimeError::new_err("the worker was not sent the function")),
    }
}

fn call_item<'py>(
    function: &PyResult<Bound<'py, PyAny>>,
    manner: Manner,
    items: &mut Reader<'_>,
    py: Python<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let item = items.decode(py);
    let function = function.as_ref().map_err(|error| error.clone_ref(py))?;
    let item = item?;
    let result = match (manner.spreads, item.cast::<PyTuple>()) {
        (true, Ok(args)) => native::call(function, args, None)?,
        _ => function.call1((item,))?,
    };
    crate::thread_crew::refuse_coroutine(function, result, "in a worker process")
}

fn read_task<'py>(
    py: Python<'py>,
    body: &Body,
    task: &Task,
    arguments: Arguments<'_>,
) -> PyResult<(Bound<'py, PyAny>, ReadCall<'py>)> {
    let function = function_of(py, body, task)?;
    let call = match arguments {
        Arguments::Inline([]) => (PyTuple::empty(py), None, None),
        Arguments::Inline(bytes) => read_call(&parcel::load(py, bytes)?.cast_into()?)?,
        Arguments::Large(bundle) => read_call(&bundle.load(py)?.cast_into()?)?,
    };
    Ok((function, call))
}

fn call<'py>(
    py: Python<'py>,
    body: &Body,
    task: &Task,
    arguments: Arguments<'_>,
) -> PyResult<Bound<'py, PyAny>> {
    let (function, (args, kwargs, variables)) = read_task(py, body, task, arguments)?;
    let context = native::copy_current_context(py)?;
    if let Some(seed) = task.seed {
        crate::seed::set(&context, seed)?;
    }
    let result = native::in_context(&context, || {
        variables.as_ref().map_or(Ok(()), parcel::apply_context)?;
        native::call(&function, &args, kwargs.as_ref())
    })?;
    crate::thread_crew::refuse_coroutine(&function, result, "in a worker process")
}

/// A call as whoever runs coroutines gets it.
type TakenCall<'py> =
    (u64, Bound<'py, PyAny>, Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>, Option<Bound<'py, PyAny>>);

fn corrupt(error: ring::RingError) -> PyErr {
    PyRuntimeError::new_err(format!("the task ring is corrupt: {error}"))
}

type ReadCall<'py> = (Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>, Option<Bound<'py, PyAny>>);

/// The arguments of a call, and the context variables that it shall see.
fn read_call<'py>(call: &Bound<'py, PyTuple>) -> PyResult<ReadCall<'py>> {
    let variables = if call.len() > 2 { Some(call.get_item(2)?) } else { None };
    Ok((call.get_item(0)?.cast_into()?, call.get_item(1)?.extract()?, variables))
}

/// Pickles a result, or why there is none.
fn pack(py: Python<'_>, result: PyResult<Bound<'_, PyAny>>) -> PyResult<(bool, Pickled)> {
    let error = match result {
        Ok(value) => match Pickled::new(&value, Weight::of(&value)) {
            Ok(pickled) => return Ok((false, pickled)),
            Err(error) => explain_unpickled(&value, error)?,
        },
        Err(error) => error,
    };
    Ok((true, Pickled::Small(pack_failure(py, &error)?)))
}

/// Pickles an exception with its traceback.
fn pack_failure(py: Python<'_>, error: &PyErr) -> PyResult<Vec<u8>> {
    let traceback = format_exception(error, py)?;
    let pair = (error.value(py), &traceback).into_pyobject(py)?;
    let reason = match parcel::dump(pair.as_any()) {
        // An exception that pickles but cannot be read would fail in the parent; better to know here.
        Ok(bytes) => match parcel::load(py, &bytes) {
            Ok(_) => return Ok(bytes),
            Err(failure) => {
                format!("it cannot be made again from its pickle: {}", text_of(failure.value(py)))
            }
        },
        Err(failure) => {
            let culprit = Culprit { value: pair.as_any(), names: &["exception", "traceback"] };
            let place = culprit.place().unwrap_or_default();
            format!("it cannot be pickled: {}{place}", text_of(failure.value(py)))
        }
    };
    let stand_in = crate::error::unsendable_error(py)?.call1((
        error.get_type(py).fully_qualified_name()?,
        text_of(error.value(py)),
        reason,
    ))?;
    let pair = (stand_in, traceback).into_pyobject(py)?;
    parcel::dump(pair.as_any())
}

fn text_of(error: &Bound<'_, PyBaseException>) -> String {
    error.str().map_or_else(|_| "?".to_owned(), |text| text.to_string_lossy().into_owned())
}

fn explain_unpickled(value: &Bound<'_, PyAny>, error: PyErr) -> PyResult<PyErr> {
    let kind = value.get_type().fully_qualified_name()?;
    let what = format!("could not send the result, a {kind}, back from the worker process");
    Ok(parcel::unpicklable(error, &what, &Culprit { value, names: &["result"] }))
}

fn format_exception(error: &PyErr, py: Python<'_>) -> PyResult<String> {
    let lines: Vec<String> = py
        .import("traceback")?
        .call_method1("format_exception", (error.get_type(py), error.value(py), error.traceback(py)))?
        .extract()?;
    Ok(lines.concat())
}

#[pymethods]
impl ProcessWorker {
    /// Take over the descriptors that the pool passed on.
    #[new]
    #[pyo3(signature = (parent, segment, event, pool_event, *, max_tasks = None, max_memory = None, writable_arguments = false))]
    fn new(
        parent: i32,
        segment: i32,
        event: i32,
        pool_event: i32,
        max_tasks: Option<u64>,
        max_memory: Option<u64>,
        writable_arguments: bool,
    ) -> PyResult<Self> {
        let segment = Arc::new(Segment::from_fd(own(segment)?)?);
        if segment.len() < SEGMENT {
            return Err(PyRuntimeError::new_err("the segment is too small to be a worker's"));
        }
        let fault = |error: ring::RingError| PyRuntimeError::new_err(error.to_string());
        let tasks = ring::consumer(Arc::clone(&segment), 0, RING).map_err(fault)?;
        let answers = ring::producer(Arc::clone(&segment), RING, RING).map_err(fault)?;
        let (functions, outside) = (HashMap::new(), VecDeque::new());
        let share = Share { tasks: max_tasks, memory: max_memory };
        let (control, lent, stock) =
            (Arc::new(Control(segment, Known::default())), Slots::new(RESULTS), Stock::default());
        let patience = Arc::new(Patience::new(LOOK));
        let body =
            Body { tasks, functions, outside, forgotten: 0, shown: 0, lent, stock, control, share, patience };
        Ok(Self {
            writes: if writable_arguments { Writes::Private } else { Writes::Refused },
            parent,
            event: Event::from_fd(own(event)?)?,
            pool_event: Event::from_fd(own(pool_event)?)?,
            body: Mutex::new(Some(body)),
            answers: Mutex::new(answers),
            lines: Lines::default(),
            born: pool::fork_generation(),
        })
    }

    /// Tell the pool that the initializer raised.
    fn initializer_failed(&self, py: Python<'_>, traceback: &str) -> PyResult<()> {
        let body = self.body.lock().unwrap_or_else(PoisonError::into_inner).take();
        match body {
            Some(mut body) => self.answer(py, &mut body, 0, &[&message::not_ready(), traceback.as_bytes()]),
            None => Ok(()),
        }
    }

    /// Tell the pool something besides answers: `kind` is for `Notes` in Python to know.
    fn note(&self, py: Python<'_>, kind: u8, bytes: &[u8]) -> PyResult<()> {
        if bytes.len() >= INLINE {
            return Err(PyRuntimeError::new_err(format!("a note of {} bytes is too long", bytes.len())));
        }
        if self.born != pool::fork_generation() {
            // A fork of the worker has no part in its ring.
            return Ok(());
        }
        self.push(py, &[&message::note(kind), bytes])
    }

    /// Write to an output stream: whole lines go out at once, the rest when it is complete or flushed.
    fn write(&self, py: Python<'_>, stream: u8, bytes: &[u8]) -> PyResult<()> {
        match self.lines.add(stream, bytes) {
            Some(lines) => self.note(py, stream, &lines),
            None => Ok(()),
        }
    }

    /// Send what an output stream holds of a line.
    fn flush(&self, py: Python<'_>, stream: u8) -> PyResult<()> {
        match self.lines.take(stream) {
            Some(rest) => self.note(py, stream, &rest),
            None => Ok(()),
        }
    }

    /// Tell the pool that coroutines can be run; from now on whoever runs them asks for them.
    fn begin(&self, py: Python<'_>) -> PyResult<()> {
        self.push(py, &[&message::ready()])
    }

    /// The descriptor that is readable when it is worth asking.
    fn fileno(&self) -> i32 {
        self.event.fd().as_raw_fd()
    }

    /// Take the next call, if there is one: its number, a coroutine function, arguments, keywords, context variables.
    fn take_call<'py>(&self, py: Python<'py>) -> PyResult<Option<TakenCall<'py>>> {
        let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(body) = body.as_mut() else { return Ok(None) };
        let mut message = Vec::new();
        while body.pop(&mut message)? {
            body.count_tasks(1);
            if let Some(call) = self.read_order(py, body, &message, true)? {
                return Ok(Some(call));
            }
        }
        Ok(None)
    }

    /// Take the number of a call that is to be cancelled, if there is one.
    fn take_cancellation(&self) -> Option<u64> {
        let body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        cancellations::read(&body.as_ref()?.control.0)
    }

    /// Tell the pool in which frame a call is that is about to be cancelled.
    fn say_where(&self, py: Python<'_>, serial: u64, frame: &str) -> PyResult<()> {
        self.push(py, &[&message::seen(serial), frame.as_bytes()])
    }

    /// Have the descriptor become readable for whatever comes; False if something has come already.
    fn prepare_sleep(&self) -> bool {
        let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(body) = body.as_mut() else { return true };
        body.forget_read();
        body.has_retired() || body.tasks.prepare_sleep()
    }

    /// Take note that the descriptor was seen.
    fn end_sleep(&self) {
        self.event.drain();
        if let Some(body) = &mut *self.body.lock().unwrap_or_else(PoisonError::into_inner) {
            body.tasks.end_sleep();
        }
    }

    /// Whether the pool wants this worker to end when it has nothing left to do.
    #[getter]
    fn is_stopped(&self) -> bool {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_none_or(Body::is_stopped)
    }

    /// Answer a call that was taken: with a value, or with an exception if it has failed.
    fn answer_call(
        &self,
        py: Python<'_>,
        serial: u64,
        outcome: Bound<'_, PyAny>,
        has_failed: bool,
        nanoseconds: u64,
    ) -> PyResult<()> {
        self.flush_all(py)?;
        let result = if has_failed { Err(PyErr::from_value(outcome)) } else { Ok(outcome) };
        let (has_failed, pickled) = pack(py, result)?;
        let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(body) = body.as_mut() else { return Ok(()) };
        let header = |is_large| message::answer(serial, has_failed, is_large, nanoseconds, 0);
        self.answer_pickled(py, body, serial, pickled, header)
    }

    /// Run tasks until told to stop.
    fn run(&self, py: Python<'_>) -> PyResult<()> {
        let body = self.body.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut body) = body else { return Ok(()) };
        self.push(py, &[&message::ready()])?;
        let mut message = Vec::new();
        loop {
            if !self.next(py, &mut body, &mut message)? {
                return Ok(());
            }
            self.follow(py, &mut body, &message, true)?;
        }
    }
}

/// Takes over a descriptor that was inherited for this purpose.
fn own(descriptor: i32) -> PyResult<OwnedFd> {
    native::own_descriptor(descriptor)
}
