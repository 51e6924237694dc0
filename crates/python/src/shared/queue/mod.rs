//! A queue of processes: [`manyhands_engine::shared::queue`], with its guards and waits.
//!
//! Items become bytes before anything is locked and objects again after: under a guard no Python runs. Those who wait
//! sleep on bells, one of whom a ring wakes; who has slept and leaves wakes the next.

mod items;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_engine::shared::bell;
use manyhands_engine::shared::queue::{
    self, ALL_DONE, Draft, GETTERS, ITEMS, LEAST, MOST, PUTTERS, Put, ROOM, Take,
};
use manyhands_os::clock;
use manyhands_os::shared::Shared;
use manyhands_os::shared::wait::{self, Held, Nap, Slept};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyType};

use super::{Kind, Patience, Place, Reduced, open, open_shared, reduce, unmade};
use crate::patience::Patience as Look;
use crate::{enter, error};
use items::{Item, Rules, failed, object};

const QUEUE: Kind = Kind(13, "Queue");
/// How long to look for what another process is about to bring: as long as it takes to be woken.
const LONGEST_LOOK: Duration = Duration::from_micros(50);

/// The core of `manyhands.shared.Queue`.
#[pyclass(frozen, subclass, name = "SharedQueue", module = "manyhands._core", generic)]
pub(crate) struct Queue {
    memory: Shared,
    look: Look,
    is_closed: AtomicBool,
}

/// As `queue.Queue` reads them: a timeout counts only for those who block.
fn patience(block: bool, timeout: Option<f64>) -> PyResult<Patience> {
    match timeout {
        _ if !block => Ok(Patience::None),
        Some(seconds) if seconds < 0.0 => {
            Err(PyValueError::new_err("'timeout' must be a non-negative number"))
        }
        timeout => enter::deadline(timeout).map(Patience::Until),
    }
}

fn raised(kind: PyResult<&Bound<'_, PyType>>) -> PyErr {
    match kind {
        Ok(kind) => PyErr::from_type(kind.clone(), ()),
        Err(failure) => failure,
    }
}

impl Queue {
    fn rules(&self) -> PyResult<Rules<'_>> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(PyValueError::new_err(
                "could not use a shared Queue: found it closed in this process",
            ));
        }
        Rules::new(&self.memory).map_err(failed)
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.memory.words()[index]
    }

    fn guarded<R: Send>(&self, py: Python<'_>, guard: usize, body: impl FnOnce() -> R + Send) -> R {
        let guard = self.word(guard);
        match Held::soon(guard) {
            Some(_held) => body(),
            None => py.detach(|| {
                let _held = Held::now(guard);
                body()
            }),
        }
    }

    fn ring(&self, index: usize) {
        if bell::ring(self.word(index)) {
            wait::wake(self.word(index), 1);
        }
    }

    fn ring_for_all(&self, index: usize) {
        if bell::ring(self.word(index)) {
            wait::wake(self.word(index), i32::MAX.unsigned_abs());
        }
    }

    /// Sees to it that so many bytes can be stored.
    fn make_room(&self, py: Python<'_>, rules: &Rules<'_>, bytes: usize) -> PyResult<()> {
        py.detach(|| {
            let _putters = Held::now(self.word(PUTTERS));
            let _getters = Held::now(self.word(GETTERS));
            rules.make_room(wait::me(), bytes, wait::is_alive)
        })
        .map_err(failed)
    }

    /// Writes a long item to pages, of which there are made more if need be.
    fn store<'b, 'a>(
        &self,
        py: Python<'_>,
        rules: &Rules<'a>,
        item: &Item<'_>,
    ) -> PyResult<Draft<'b, 'a, Shared>> {
        loop {
            if let Some(long) = item.store(py, rules)? {
                return Ok(Draft::Long(long));
            }
            self.make_room(py, rules, item.len())?;
        }
    }

    /// Puts an item, if there is room for it.
    fn try_put<'a>(
        &self,
        py: Python<'_>,
        rules: &Rules<'a>,
        item: &Item<'_>,
        draft: &mut Option<Draft<'_, 'a, Shared>>,
    ) -> PyResult<bool> {
        let draft = match draft {
            Some(draft) => draft,
            // What is long is not copied for nothing.
            None if rules.is_full() => return Ok(false),
            None => draft.insert(self.store(py, rules, item)?),
        };
        let tag = item.tag();
        loop {
            match self.guarded(py, PUTTERS, || rules.put(wait::me(), tag, draft)).map_err(failed)? {
                Put::Done => break,
                Put::Full => return Ok(false),
                Put::Shut => return Err(raised(error::queue_shut_down(py))),
                Put::NoPage => self.make_room(py, rules, 1)?,
            }
        }
        self.ring(ITEMS);
        Ok(true)
    }

    /// Puts an item; whether there was room for it in time.
    fn put_within(&self, item: &Bound<'_, PyAny>, patience: Patience) -> PyResult<bool> {
        let (py, rules) = (item.py(), self.rules()?);
        let item = Item::new(item)?;
        let mut draft = item.is_short().then(|| item.draft());
        let has_room = || !rules.is_full() || rules.is_shut();
        let attempt = || Ok(self.try_put(py, &rules, &item, &mut draft)?.then_some(()));
        Ok(self.within(py, patience, ROOM, has_room, attempt)?.is_some())
    }

    /// Takes up to so many items, if there is one.
    fn try_take<'a>(
        &self,
        py: Python<'_>,
        rules: &Rules<'a>,
        most: usize,
    ) -> PyResult<Option<Vec<Take<'a, Shared>>>> {
        let mut taken = Vec::with_capacity(1);
        let end = self.guarded(py, GETTERS, || {
            while taken.len() < most {
                match rules.take(wait::me()) {
                    Ok(item @ (Take::Short(..) | Take::Long(..))) => taken.push(item),
                    end => return Some(end),
                }
            }
            None
        });
        if !taken.is_empty() {
            // What is wrong behind them will be found again.
            self.ring(ROOM);
            return Ok(Some(taken));
        }
        match end.transpose().map_err(failed)? {
            Some(Take::Shut) => Err(raised(error::queue_shut_down(py))),
            _ => Ok(None),
        }
    }

    fn take_within<'py>(
        &self,
        py: Python<'py>,
        most: usize,
        patience: Patience,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let rules = self.rules()?;
        let has_item = || !rules.is_empty() || rules.is_shut();
        let taken = self.within(py, patience, ITEMS, has_item, || self.try_take(py, &rules, most))?;
        let taken = taken.ok_or_else(|| raised(error::queue_empty(py)))?;
        taken.into_iter().filter_map(|item| object(py, item).transpose()).collect()
    }

    /// Attempts something until it succeeds, or it is too late; sleeps on a bell as long as it is not `worth` it.
    fn within<T>(
        &self,
        py: Python<'_>,
        patience: Patience,
        bell: usize,
        is_worth: impl Fn() -> bool + Sync,
        mut attempt: impl FnMut() -> PyResult<Option<T>>,
    ) -> PyResult<Option<T>> {
        if let Some(done) = attempt()? {
            return Ok(Some(done));
        }
        let Patience::Until(deadline) = patience else { return Ok(None) };
        let mut nap = Nap::default();
        let mut has_slept = false;
        let result = loop {
            let slept = self.sleep(py, bell, deadline, &is_worth, &mut nap, &mut has_slept);
            // After every nap, for a signal that came between two has interrupted neither.
            if let Err(failure) = py.check_signals() {
                break Err(failure);
            }
            match attempt() {
                Ok(None) if slept != Slept::TimedOut => {}
                result => break result,
            }
        };
        if has_slept && bell::pass_on(self.word(bell), is_worth) {
            wait::wake(self.word(bell), 1);
        }
        result
    }

    /// Looks for a moment whether it is worth an attempt, and sleeps if it is not.
    fn sleep(
        &self,
        py: Python<'_>,
        bell: usize,
        deadline: Option<Tick>,
        is_worth: &(impl Fn() -> bool + Sync),
        nap: &mut Nap,
        has_slept: &mut bool,
    ) -> Slept {
        let word = self.word(bell);
        py.detach(|| {
            let began = clock::now();
            let looked = self.look.look(began, deadline, || Ok::<_, ()>(is_worth()));
            if looked == Ok(true) {
                return Slept::Woken;
            }
            let seen = bell::announce(word);
            if is_worth() {
                return Slept::Woken;
            }
            *has_slept = true;
            let slept = nap.sleep(word, seen, deadline);
            self.look.learn(clock::now() - began);
            slept
        })
    }
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (maxsize=0, *, name=None, place=None), text_signature = "(maxsize=0, *, name=None)")]
    fn new(maxsize: i64, name: Option<&str>, place: Option<Place>) -> PyResult<Self> {
        let limit = u64::try_from(maxsize).unwrap_or(0);
        if limit > MOST {
            return Err(PyValueError::new_err(format!(
                "could not use `maxsize`: found {maxsize}, expected {MOST} at most, or 0 for as many as that"
            )));
        }
        let create = || {
            let fill = |words: &[AtomicU64]| queue::initialise(words, wait::me(), limit);
            Shared::create_growing(QUEUE.0, LEAST * size_of::<u64>(), name, fill)
                .map_err(|error| unmade(QUEUE, name, error))
        };
        let memory = place.map_or_else(create, |place| open(place, &[QUEUE], LEAST))?;
        Ok(Self { memory, look: Look::new(LONGEST_LOOK), is_closed: AtomicBool::new(false) })
    }

    /// Open the one of that name, which any process of this user may have made.
    ///
    /// Raises:
    ///     FileNotFoundError: No process has one.
    ///     TypeError: It is something else.
    #[classmethod]
    #[pyo3(signature = (name, /))]
    fn open<'py>(cls: &Bound<'py, PyType>, name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        open_shared(cls, name)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        slf.get().rules()?;
        reduce(slf.as_any(), Place::of(&slf.get().memory))
    }

    /// Put an item in, waiting for room if need be.
    ///
    /// Args:
    ///     item: What can be pickled.
    ///     block: Whether to wait at all.
    ///     timeout: Seconds to wait at most; None waits for ever.
    ///
    /// Raises:
    ///     queue.Full: There was no room in time.
    ///     ShutDown: The queue was shut down.
    ///     ValueError: The timeout is negative.
    #[pyo3(signature = (item, block=true, timeout=None))]
    fn put(&self, item: &Bound<'_, PyAny>, block: bool, timeout: Option<f64>) -> PyResult<()> {
        let is_put = self.put_within(item, patience(block, timeout)?)?;
        if is_put { Ok(()) } else { Err(raised(error::queue_full(item.py()))) }
    }

    /// Take the next item out, waiting for one if need be.
    ///
    /// Args:
    ///     block: Whether to wait at all.
    ///     timeout: Seconds to wait at most; None waits for ever.
    ///
    /// Raises:
    ///     queue.Empty: There was no item in time.
    ///     ShutDown: The queue was shut down, and there is none left.
    ///     ValueError: The timeout is negative.
    #[pyo3(signature = (block=true, timeout=None))]
    fn get<'py>(&self, py: Python<'py>, block: bool, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let taken = self.take_within(py, 1, patience(block, timeout)?)?;
        taken.into_iter().next().ok_or_else(super::corrupt)
    }

    /// Put an item in if there is room now.
    ///
    /// Raises:
    ///     queue.Full: There is none.
    ///     ShutDown: The queue was shut down.
    fn put_nowait(&self, item: &Bound<'_, PyAny>) -> PyResult<()> {
        self.put(item, false, None)
    }

    /// Take the next item out if there is one now.
    ///
    /// Raises:
    ///     queue.Empty: There is none.
    ///     ShutDown: The queue was shut down, and there is none left.
    fn get_nowait<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.get(py, false, None)
    }

    /// Put many items in, one after the other, waiting for room if need be.
    ///
    /// Args:
    ///     items: Any iterable.
    ///     block: Whether to wait at all.
    ///     timeout: Seconds to wait at most, for all of them together; None waits for ever.
    ///
    /// Returns: How many were put: fewer than there are means that there was no room in time.
    ///
    /// Raises:
    ///     ShutDown: The queue was shut down.
    #[pyo3(signature = (items, block=true, timeout=None))]
    fn put_many(&self, items: &Bound<'_, PyAny>, block: bool, timeout: Option<f64>) -> PyResult<usize> {
        let patience = patience(block, timeout)?;
        let mut put = 0;
        for item in items.try_iter()? {
            if !self.put_within(&item?, patience)? {
                break;
            }
            put += 1;
        }
        Ok(put)
    }

    /// Take up to `most` items out, waiting only for the first.
    ///
    /// Args:
    ///     most: The most items to take (int ≥ 1).
    ///     block: Whether to wait at all.
    ///     timeout: Seconds to wait at most; None waits for ever.
    ///
    /// Returns: A list of at least one item.
    ///
    /// Raises:
    ///     queue.Empty: There was no item in time.
    ///     ShutDown: The queue was shut down, and there is none left.
    ///     ValueError: `most` is less than one, or the timeout is negative.
    #[pyo3(signature = (most, block=true, timeout=None))]
    fn get_many<'py>(
        &self,
        py: Python<'py>,
        most: isize,
        block: bool,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyList>> {
        let patience = patience(block, timeout)?;
        match usize::try_from(most) {
            Ok(most @ 1..) => PyList::new(py, self.take_within(py, most, patience)?),
            _ => Err(PyValueError::new_err(format!(
                "could not take items: found most={most}, expected 1 or more"
            ))),
        }
    }

    /// Say that the work for one of the items that were taken is done, for those who ``join``.
    ///
    /// Raises:
    ///     ValueError: It was said more often than items were put.
    fn task_done(&self) -> PyResult<()> {
        match self.rules()?.finish() {
            Some(0) => self.ring_for_all(ALL_DONE),
            Some(_) => {}
            None => return Err(PyValueError::new_err("task_done() called too many times")),
        }
        Ok(())
    }

    /// Wait until the work for every item that was put is done. A process that dies with an item in its hands does not say
    /// so of it.
    ///
    /// Args:
    ///     timeout: Seconds to wait at most; None waits for ever.
    ///
    /// Returns: Whether it is done.
    #[pyo3(signature = (timeout=None))]
    fn join(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let rules = self.rules()?;
        let is_done = || rules.unfinished() == 0;
        let attempt = || Ok(is_done().then_some(()));
        Ok(self.within(py, patience(true, timeout)?, ALL_DONE, is_done, attempt)?.is_some())
    }

    /// Let nobody put any more, and nobody wait any more, in all processes: who does gets a ``ShutDown``.
    ///
    /// Args:
    ///     immediate: Whether to throw away what is in the queue, as if it were done, instead of letting it be taken.
    #[pyo3(signature = (immediate=false))]
    fn shutdown(&self, py: Python<'_>, immediate: bool) -> PyResult<()> {
        let rules = self.rules()?;
        self.guarded(py, PUTTERS, || rules.shut(immediate));
        if immediate {
            self.guarded(py, GETTERS, || rules.clear(wait::me())).map_err(failed)?;
        }
        for bell in [ITEMS, ROOM, ALL_DONE] {
            self.ring_for_all(bell);
        }
        Ok(())
    }

    /// Have this object refuse any further use, in this process alone. The memory goes with the last process that has the
    /// queue.
    fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    /// How many items there are; by the time that you look, there may be more or fewer.
    fn qsize(&self) -> PyResult<u64> {
        Ok(self.rules()?.len())
    }

    /// Whether there is no item.
    fn empty(&self) -> PyResult<bool> {
        Ok(self.rules()?.is_empty())
    }

    /// Whether there is no room.
    fn full(&self) -> PyResult<bool> {
        Ok(self.rules()?.is_full())
    }

    /// The most items that it holds; 0 for as many as memory has room for.
    #[getter]
    fn maxsize(&self) -> PyResult<u64> {
        Ok(self.rules()?.limit())
    }

    /// Whether it was shut down.
    #[getter]
    fn is_shutdown(&self) -> PyResult<bool> {
        Ok(self.rules()?.is_shut())
    }

    fn __repr__(&self) -> PyResult<String> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Ok("<Queue, closed>".into());
        }
        Ok(format!("<Queue of {}>", self.rules()?.len()))
    }
}
