//! The consumer's side of [bulks](crate::bulk): submits items, collects what became of them; and `Executor.map` over
//! worker processes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_os::clock;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt, PyList, PyTuple};

use crate::bulk::{Bulk, Items, Manner, Part};
use crate::enter;
use crate::error;
use crate::executor::Executor;
use crate::future::Future;
use crate::parcel::{self, Culprit, Function};
use crate::pool::Pool;
use crate::progress::Counts;
use crate::wait::next_number;
use crate::waiter::{LoopWaiter, Mailbox, Waiter};
use crate::wire::{self, Reader};

/// Items of more bytes are worth a task of their own.
const LARGE_ITEM: usize = 8 << 10;
/// A bulk of more bytes is submitted before it is as long as it may be.
pub(crate) const LARGE_BULK: usize = 4 << 20;
/// How many items are submitted at first, so that workers begin early, and at most.
const FIRST_BULK: usize = 1 << 10;
const MOST_ITEMS: usize = 1 << 16;
/// How often to look whether the last items of a cancelled bulk have come back.
const ENDING: Duration = Duration::from_millis(10);
/// After how many items in a row to look for signals.
const LOOK_FOR_SIGNALS: usize = 1 << 10;

/// A bulk whose results were not all taken.
struct Flying {
    bulk: Arc<Bulk>,
    token: Py<Future>,
    /// The number of its first item.
    base: u64,
    /// The items, if the consumer wants to see them again.
    inputs: Vec<Py<PyAny>>,
    /// How many results were taken; in order, the next one's position.
    taken: usize,
}

/// What became of consecutive items.
pub(crate) struct Harvest {
    /// The number of the first.
    pub(crate) first: u64,
    pub(crate) count: usize,
    pub(crate) bytes: Vec<u8>,
    /// The items, if they were kept.
    pub(crate) inputs: Vec<Py<PyAny>>,
    /// Who worked on them, if anybody did, and how long they had waited for that.
    pub(crate) worker: Option<Arc<str>>,
    pub(crate) waited: Duration,
    /// What they belong to, and which of its items are the first.
    bulk: Arc<Bulk>,
    from: usize,
}

impl Harvest {
    /// How many bytes were sent for an item.
    pub(crate) fn sent(&self, index: usize) -> usize {
        let position = self.from + index;
        self.bulk.bytes(&(position..position + 1)).len()
    }

    /// An item as it was sent. What it is made of may be code, so this is for the rare case.
    fn item(&self, py: Python<'_>, index: usize) -> Option<Py<PyAny>> {
        let position = self.from + index;
        Reader::new(self.bulk.bytes(&(position..position + 1))).decode(py).ok().map(Bound::unbind)
    }
}

/// Bulks in flight, the oldest first, all of one function.
pub(crate) struct Bulks {
    pool: Arc<Pool>,
    function: Arc<Function>,
    /// The variables of the submitter's context, pickled.
    context: Arc<Vec<u8>>,
    manner: Manner,
    mailbox: Arc<Mailbox>,
    progress: Option<Arc<Counts>>,
    flying: VecDeque<Flying>,
    next_number: u64,
    next_index: u64,
    /// How many items were submitted and not taken.
    outstanding: usize,
}

impl Bulks {
    /// Bulks on the worker processes of `executor`; `None` if it has none, or its tasks need bookkeeping one by one.
    pub(crate) fn on(
        executor: &Executor,
        function: &Bound<'_, PyAny>,
        manner: Manner,
    ) -> PyResult<Option<Self>> {
        let pool = executor.pool()?;
        if !pool.takes_bulks() || executor.has_terms()? {
            return Ok(None);
        }
        let context = parcel::dump_context(function.py())?;
        let function = pool.functions.get(function)?;
        Ok(Some(Self {
            pool: Arc::clone(pool),
            function,
            context: Arc::new(context),
            manner,
            mailbox: Arc::default(),
            progress: None,
            flying: VecDeque::new(),
            next_number: 0,
            next_index: 0,
            outstanding: 0,
        }))
    }

    /// Has letters go into that mailbox, which somebody else reads for more than these bulks.
    pub(crate) fn use_mailbox(&mut self, mailbox: Arc<Mailbox>) {
        self.mailbox = mailbox;
    }

    pub(crate) fn set_progress(&mut self, counts: Arc<Counts>) {
        self.progress = Some(counts);
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// How many items workers have to do, or do.
    pub(crate) fn unsettled(&self) -> usize {
        self.flying.iter().map(|flying| flying.bulk.unsettled()).sum()
    }

    /// Writes an item as a worker reads it.
    ///
    /// # Errors
    /// A `TypeError` that names the function, if it cannot be pickled.
    pub(crate) fn encode(&self, item: &Bound<'_, PyAny>, bytes: &mut Vec<u8>) -> PyResult<()> {
        wire::encode(item, bytes).map_err(|error| {
            let culprit = Culprit { value: item, names: &["item"] };
            parcel::cannot_send(error, &self.function.name, &culprit)
        })
    }

    /// Submits items; `inputs`, if there are any, come back with what became of them.
    pub(crate) fn submit(&mut self, py: Python<'_>, items: Items, inputs: Vec<Py<PyAny>>) -> PyResult<()> {
        if items.len() == 0 {
            return Ok(());
        }
        let (number, base) = (self.next_number, self.next_index);
        let letters = (Arc::clone(&self.mailbox), number);
        let bulk = Bulk::new(
            (Arc::clone(&self.function), Arc::clone(&self.context)),
            self.manner,
            items,
            letters,
            self.progress.clone(),
        );
        let token = self.pool.submit_bulk(py, &bulk)?;
        // Whoever waits shall hear of a cancellation, too.
        let _ = token.get().subscribe(Waiter::Mailbox(Arc::clone(&self.mailbox), number));
        let count = bulk.len();
        self.flying.push_back(Flying { bulk, token: token.unbind(), base, inputs, taken: 0 });
        self.next_number += 1;
        self.next_index += count as u64;
        self.outstanding += count;
        Ok(())
    }

    /// Takes results that have come: the next in order, or any.
    ///
    /// # Errors
    /// Why there will be none: the pool was told to drop what it had not begun, or cannot run anything.
    pub(crate) fn take(&mut self, py: Python<'_>, is_ordered: bool) -> PyResult<Option<Harvest>> {
        let count = if is_ordered { self.flying.len().min(1) } else { self.flying.len() };
        for position in 0..count {
            let flying = &mut self.flying[position];
            let part =
                if is_ordered { flying.bulk.take_part(flying.taken) } else { flying.bulk.take_any_part() };
            if let Some(part) = part {
                return Ok(Some(self.harvest(py, position, part)));
            }
            let Some(error) = flying.failure(py) else { continue };
            if !self.manner.is_measured {
                return Err(error);
            }
            // Each item has an outcome of its own.
            let pickled = parcel::dump((error.value(py), py.None()).into_pyobject(py)?.as_any())?;
            flying.bulk.fail_waiting(&pickled);
            return self.take(py, is_ordered);
        }
        Ok(None)
    }

    fn harvest(&mut self, py: Python<'_>, position: usize, part: Part) -> Harvest {
        let flying = &mut self.flying[position];
        let count = part.items.len();
        flying.taken += count;
        self.outstanding -= count;
        let from = part.items.start;
        let first = flying.base + from as u64;
        let inputs = flying.inputs.get(part.items.clone()).unwrap_or_default();
        let inputs = inputs.iter().map(|input| input.clone_ref(py)).collect();
        let bulk = Arc::clone(&flying.bulk);
        let Part { bytes, worker, waited, .. } = part;
        let harvest = Harvest { first, count, bytes, inputs, worker, waited, bulk, from };
        if flying.taken == flying.bulk.len() {
            let _ = self.flying.remove(position);
        }
        harvest
    }

    /// Waits until it is worth another look; `false` if `deadline` came first.
    pub(crate) fn wait(&self, py: Python<'_>, deadline: Option<Tick>) -> PyResult<bool> {
        // Items whose bulk was cancelled may come back from their worker, of which nobody tells.
        let is_ending = self.flying.front().is_some_and(|flying| flying.token.get().state().is_done());
        let patience = is_ending.then(|| clock::now() + ENDING);
        if next_number(py, &self.mailbox, patience.into_iter().chain(deadline).min())?.is_some() {
            return Ok(true);
        }
        Ok(deadline.is_none_or(|deadline| clock::now() < deadline))
    }

    /// Forgets what was announced; what has come is looked for after that.
    pub(crate) fn empty_mailbox(&self) {
        while self.mailbox.take().is_some() {}
    }

    /// Has an asyncio future woken when something comes; `false` if something has.
    pub(crate) fn enrol_loop(&self, waiter: LoopWaiter) -> bool {
        self.mailbox.enrol_loop(waiter)
    }

    /// Ends the worker that is at the item of that number: the item fails as with any death of its worker, and what else
    /// the worker had goes to others. `false` if none is at it now.
    pub(crate) fn end_item(&self, py: Python<'_>, number: u64) -> PyResult<bool> {
        let holds =
            |flying: &&Flying| (flying.base..flying.base + flying.bulk.len() as u64).contains(&number);
        let Some(flying) = self.flying.iter().find(holds) else { return Ok(false) };
        let item = usize::try_from(number - flying.base).unwrap_or(usize::MAX);
        self.pool.end_item(py, &flying.bulk, item)
    }

    /// Drops what no worker has begun; with `stop`, ends the workers that are at it, too.
    pub(crate) fn give_up(&mut self, py: Python<'_>, stop: bool) -> PyResult<()> {
        for flying in self.flying.drain(..) {
            flying.token.get().observe();
            if stop {
                self.pool.give_up_bulk(py, &flying.bulk)?;
            } else {
                flying.bulk.give_up();
            }
        }
        Ok(())
    }

    pub(crate) fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.flying.iter().try_for_each(|flying| {
            visit.call(&flying.token)?;
            flying.inputs.iter().try_for_each(|input| visit.call(input))
        })
    }
}

impl Flying {
    /// Why there will be no more results, if that is so.
    fn failure(&self, py: Python<'_>) -> Option<PyErr> {
        let token = self.token.get();
        if self.bulk.is_at_work() || !token.state().is_done() {
            return None;
        }
        token.observe();
        token.outcome(py)?.err()
    }
}

/// Whether an item that was written in so many bytes may go with others.
pub(crate) const fn is_small(bytes: usize) -> bool {
    bytes <= LARGE_ITEM
}

struct State {
    bulks: Bulks,
    /// What the next call raises.
    error: Option<PyErr>,
    is_begun: bool,
}

/// An iterator over iterables of values, in the order of the items. Made by `Executor.map` on worker processes.
#[pyclass(frozen, module = "manyhands._core")]
pub(crate) struct Batched {
    deadline: Option<Tick>,
    state: Mutex<Option<State>>,
}

impl Batched {
    /// Submits every item of `source`; `None`, and nothing submitted, if they are better off with a task each.
    pub(crate) fn start(
        executor: &Executor,
        function: &Bound<'_, PyAny>,
        source: &Bound<'_, PyAny>,
        spreads: bool,
        timeout: Option<f64>,
    ) -> PyResult<Result<Self, Option<Py<PyAny>>>> {
        let py = source.py();
        let Some(mut bulks) = Bulks::on(executor, function, Manner { spreads, ..Manner::default() })? else {
            return Ok(Err(None));
        };
        let deadline = enter::deadline(timeout)?;
        let mut items = Items::default();
        for (count, item) in source.try_iter()?.enumerate() {
            let item = item?;
            items.push(|bytes| bulks.encode(&item, bytes))?;
            if count == 0 && !is_small(items.bytes_len()) {
                return Ok(Err(Some(item.unbind())));
            }
            let most = if bulks.next_index == 0 { FIRST_BULK } else { MOST_ITEMS };
            if items.len() >= most || items.bytes_len() >= LARGE_BULK {
                bulks.submit(py, std::mem::take(&mut items), Vec::new())?;
            }
            if count % LOOK_FOR_SIGNALS == LOOK_FOR_SIGNALS - 1 {
                py.check_signals()?;
            }
        }
        bulks.submit(py, items, Vec::new())?;
        let state = State { bulks, error: None, is_begun: false };
        Ok(Ok(Self { deadline, state: Mutex::new(Some(state)) }))
    }

    fn slot(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_list<'py>(&self, py: Python<'py>, state: &mut State) -> PyResult<Option<Bound<'py, PyList>>> {
        state.is_begun = true;
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        if state.bulks.outstanding() == 0 {
            return Ok(None);
        }
        loop {
            state.bulks.empty_mailbox();
            if let Some(harvest) = state.bulks.take(py, true)? {
                return Self::read(py, state, &harvest).map(Some);
            }
            if !state.bulks.wait(py, self.deadline)? {
                return Err(error::gave_up_waiting(py));
            }
        }
    }

    /// The values up to the first failure, which is kept for the next call.
    fn read<'py>(py: Python<'py>, state: &mut State, harvest: &Harvest) -> PyResult<Bound<'py, PyList>> {
        let mut reader = Reader::new(&harvest.bytes);
        let mut values = Vec::with_capacity(harvest.count);
        for index in 0..harvest.count {
            let error = match reader.decode(py) {
                Ok(value) => {
                    values.push(value);
                    continue;
                }
                Err(error) => error,
            };
            if error.is_instance(py, error::worker_died(py)?) {
                let item = harvest.item(py, index);
                error::name_item(py, &error, harvest.first + index as u64, item.as_ref());
            }
            if values.is_empty() {
                return Err(error);
            }
            state.error = Some(error);
            break;
        }
        PyList::new(py, values)
    }
}

#[pymethods]
impl Batched {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(mut state) = self.slot().take() else { return Ok(None) };
        match self.next_list(py, &mut state) {
            Ok(Some(values)) => {
                *self.slot() = Some(state);
                handed_over(values).map(Some)
            }
            Ok(None) => Ok(None),
            Err(error) => {
                state.bulks.give_up(py, false)?;
                Err(error)
            }
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.slot().as_ref().map_or(Ok(()), |state| state.bulks.traverse(visit))
    }
}

/// An iterable over values that keeps none of them once it has handed them out. A list would; for values that are small
/// and that nothing can refer to weakly nobody notices, and it is faster.
fn handed_over(values: Bound<'_, PyList>) -> PyResult<Bound<'_, PyAny>> {
    if values.iter().all(|value| is_plain(&value)) {
        return Ok(values.into_any());
    }
    let itertools = values.py().import("itertools")?;
    let repeats = itertools.call_method1("repeat", (PyTuple::empty(values.py()), values.len()))?;
    values.reverse()?;
    itertools.call_method1("starmap", (values.getattr("pop")?, repeats))
}

fn is_plain(value: &Bound<'_, PyAny>) -> bool {
    value.is_none()
        || value.is_exact_instance_of::<PyBool>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
}

impl Drop for Batched {
    fn drop(&mut self) {
        let Some(mut state) = self.slot().take() else { return };
        if !state.is_begun {
            // It is also called for what the function does; the standard library goes on, too.
            return;
        }
        error::put_aside(|py| {
            if let Err(error) = state.bulks.give_up(py, false) {
                error.write_unraisable(py, None);
            }
        });
    }
}
