//! The classes of queues, as Python sees them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::super::awaiting::{Awaiting, Work, awaiting, nothing};
use super::super::mutual::Mutual;
use super::super::patience::Patience;
use super::super::waiting::{Waiter, block, tell};
use super::super::who::Generation;
use super::desk::{Caller, Desk, Step};
use super::steps::{empty, full};
use super::waits::{AwaitGet, AwaitPut, Getting, Putting};

/// Which item comes out next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Fifo,
    Lifo,
    Priority,
}

/// The most items that a queue holds. Of the standard library's one may ask any number, which counts as the next whole one.
struct Most(isize);

impl FromPyObject<'_, '_> for Most {
    type Error = PyErr;

    fn extract(number: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        if let Ok(whole) = number.extract::<isize>() {
            return Ok(Self(whole));
        }
        #[expect(clippy::cast_possible_truncation, reason = "what is too large is as large as can be")]
        let next = number.extract::<f64>()?.ceil() as isize;
        Ok(Self(next))
    }
}

/// A queue that threads and asyncio tasks put into and take out of, side by side: the oldest item comes first.
///
/// Args:
///     maxsize: The most items that it holds, for more of which `put` waits; any number if it is 0 or less.
///
/// A thread uses ``put``, ``get`` and ``join``, a coroutine ``await queue.aput(item)``, ``await queue.aget()`` and
/// ``await queue.ajoin()``. Who gives up waiting takes no item along, and who waits longest is called first; a running
/// thread may be faster, once.
///
/// A subclass may replace ``_init``, ``_qsize``, ``_put`` and ``_get``, as with the standard library's.
///
/// Thread safety: every method may be called from any thread, and from any event loop.
///
/// Example:
///     >>> import asyncio, threading
///     >>> from manyhands.sync import Queue
///     >>> queue = Queue()
///     >>> async def consume():
///     ...     return [await queue.aget() for _ in range(3)]
///     >>> threading.Thread(target=queue.put_many, args=("abc",)).start()
///     >>> asyncio.run(consume())
///     ['a', 'b', 'c']
///
/// Source: ``queue.Queue`` of CPython 3.13, whose methods and errors it has.
#[pyclass(frozen, subclass, weakref, generic, module = "manyhands.sync")]
pub(crate) struct Queue {
    desk: Mutex<Desk>,
    generation: Generation,
    pub(crate) kind: Kind,
    /// Whether a subclass does the putting and taking.
    pub(crate) has_hooks: AtomicBool,
    /// The items of a queue with priorities, for the one who has the gate.
    pub(crate) heap: Option<Py<PyList>>,
    pub(crate) gate: Mutual,
}

impl Queue {
    fn of(py: Python<'_>, kind: Kind) -> Self {
        Self {
            desk: Mutex::new(Desk::new()),
            generation: Generation::new(),
            kind,
            has_hooks: AtomicBool::new(false),
            heap: (kind == Kind::Priority).then(|| PyList::empty(py).unbind()),
            gate: Mutual::new(),
        }
    }

    /// The items and those who wait. While this is held, nothing of Python may be made, dropped or called.
    #[inline]
    pub(crate) fn desk(&self) -> MutexGuard<'_, Desk> {
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        if self.generation.has_passed() {
            // Not dropped: what they refer to was another process's, and this is no place to drop it.
            std::mem::forget(desk.getters.dismiss(Waiter::is_gone));
            std::mem::forget(desk.putters.dismiss(Waiter::is_gone));
            std::mem::forget(desk.joiners.dismiss(Waiter::is_gone));
        }
        desk
    }

    fn put_within<'py>(
        slf: &Bound<'py, Self>,
        item: &Bound<'py, PyAny>,
        patience: &Patience,
    ) -> PyResult<bool> {
        if Self::put_at_once(slf, item) {
            return Ok(true);
        }
        if let Step::Through(()) = Self::try_put(slf, item, Caller::Fresh)? {
            return Ok(true);
        }
        match patience {
            Patience::None => Ok(false),
            patience => Ok(block(slf.py(), &Putting(slf, item), patience.deadline())?.is_some()),
        }
    }

    fn get_within(slf: &Bound<'_, Self>, patience: &Patience) -> PyResult<Py<PyAny>> {
        if let Some(item) = Self::get_at_once(slf) {
            return Ok(item);
        }
        if let Step::Through(item) = Self::try_get(slf, Caller::Fresh)? {
            return Ok(item);
        }
        let got = match patience {
            Patience::None => None,
            patience => block(slf.py(), &Getting(slf), patience.deadline())?,
        };
        got.ok_or_else(|| empty(slf.py()))
    }

    /// Whether a subclass has its own way of keeping items.
    fn is_replaced(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let (kind, base) = (slf.get_type(), slf.py().get_type::<Self>());
        for name in ["_init", "_qsize", "_put", "_get"] {
            if !kind.getattr(name)?.is(&base.getattr(name)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(py: Python<'_>, _args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self::of(py, Kind::Fifo)
    }

    #[pyo3(signature = (maxsize=Most(0)))]
    fn __init__(slf: &Bound<'_, Self>, maxsize: Most) -> PyResult<()> {
        let Most(maxsize) = maxsize;
        slf.get().desk().maxsize = maxsize;
        let is_replaced = Self::is_replaced(slf)?;
        slf.get().has_hooks.store(is_replaced, Ordering::Relaxed);
        if is_replaced {
            slf.call_method1("_init", (maxsize,))?;
        }
        Ok(())
    }

    /// Put an item in, waiting for room if need be.
    ///
    /// Args:
    ///     item: Anything.
    ///     block: Whether to wait at all.
    ///     timeout: Seconds to wait at most; None waits for ever.
    ///
    /// Raises:
    ///     queue.Full: There was no room in time.
    ///     ShutDown: The queue was shut down.
    ///     ValueError: The timeout is negative.
    #[pyo3(signature = (item, block=None, timeout=None), text_signature = "($self, item, block=True, timeout=None)")]
    fn put<'py>(
        slf: &Bound<'py, Self>,
        item: &Bound<'py, PyAny>,
        block: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let patience = Patience::of_queue(block, timeout)?;
        if Self::put_within(slf, item, &patience)? { Ok(()) } else { Err(full(slf.py())) }
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
    #[pyo3(signature = (block=None, timeout=None), text_signature = "($self, block=True, timeout=None)")]
    fn get(
        slf: &Bound<'_, Self>,
        block: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<Py<PyAny>> {
        Self::get_within(slf, &Patience::of_queue(block, timeout)?)
    }

    /// Put an item in if there is room now.
    ///
    /// Raises:
    ///     queue.Full: There is none.
    ///     ShutDown: The queue was shut down.
    fn put_nowait<'py>(slf: &Bound<'py, Self>, item: &Bound<'py, PyAny>) -> PyResult<()> {
        if Self::put_within(slf, item, &Patience::None)? { Ok(()) } else { Err(full(slf.py())) }
    }

    /// Take the next item out if there is one now.
    ///
    /// Raises:
    ///     queue.Empty: There is none.
    ///     ShutDown: The queue was shut down, and there is none left.
    fn get_nowait(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Self::get_within(slf, &Patience::None)
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
    #[pyo3(signature = (items, block=None, timeout=None), text_signature = "($self, items, block=True, timeout=None)")]
    fn put_many<'py>(
        slf: &Bound<'py, Self>,
        items: &Bound<'py, PyAny>,
        block: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<usize> {
        let patience = Patience::of_queue(block, timeout)?;
        let mut put = 0;
        for item in items.try_iter()? {
            if !Self::put_within(slf, &item?, &patience)? {
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
    #[pyo3(signature = (most, block=None, timeout=None), text_signature = "($self, most, block=True, timeout=None)")]
    fn get_many(
        slf: &Bound<'_, Self>,
        most: isize,
        block: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<Vec<Py<PyAny>>> {
        let patience = Patience::of_queue(block, timeout)?;
        let Some(more) = usize::try_from(most).ok().and_then(|most| most.checked_sub(1)) else {
            return Err(PyValueError::new_err(format!(
                "could not take items: found most={most}, expected 1 or more"
            )));
        };
        let mut items = vec![Self::get_within(slf, &patience)?];
        for _ in 0..more {
            // What is there is worth more than the news that nothing else comes.
            let Ok(Step::Through(item)) = Self::try_get(slf, Caller::Fresh) else { break };
            items.push(item);
        }
        Ok(items)
    }

    /// Put an item in, as a coroutine.
    fn aput(slf: Py<Self>, item: Py<PyAny>) -> Awaiting {
        Awaiting::of(Work::Put(AwaitPut(slf, item)))
    }

    /// Take the next item out, as a coroutine; awaiting it gives the item.
    fn aget(slf: Py<Self>) -> Awaiting {
        Awaiting::of(Work::Get(AwaitGet(slf)))
    }

    /// Say that the work for one of the items that were taken is done, for those who ``join``.
    ///
    /// Raises:
    ///     ValueError: It was said more often than items were put.
    fn task_done(&self, py: Python<'_>) -> PyResult<()> {
        let joiners = {
            let mut desk = self.desk();
            let Some(unfinished) = desk.unfinished.checked_sub(1) else {
                drop(desk);
                return Err(PyValueError::new_err("task_done() called too many times"));
            };
            desk.unfinished = unfinished;
            if unfinished == 0 { desk.joiners.serve_all() } else { Vec::new() }
        };
        tell(py, &joiners);
        Ok(())
    }

    /// Wait until the work for every item that was put is done.
    fn join(&self, py: Python<'_>) -> PyResult<()> {
        block(py, self, None).map(drop)
    }

    /// Wait until the work for every item that was put is done, as a coroutine.
    fn ajoin(slf: Py<Self>) -> Awaiting {
        awaiting(slf, |queue| queue, nothing)
    }

    /// Let nobody put any more, and nobody wait any more: who does gets a ``ShutDown``.
    ///
    /// Args:
    ///     immediate: Whether to throw away what is in the queue, as if it were done, instead of letting it be taken.
    #[pyo3(signature = (immediate=false))]
    fn shutdown(slf: &Bound<'_, Self>, immediate: bool) -> PyResult<()> {
        Self::end(slf, immediate)
    }

    /// How many items there are; by the time that you look, there may be more or fewer.
    fn qsize(slf: &Bound<'_, Self>) -> PyResult<usize> {
        Self::size(slf)
    }

    /// Whether there is no item.
    fn empty(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Ok(Self::size(slf)? == 0)
    }

    /// Whether there is no room.
    fn full(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let size = Self::size(slf)?;
        Ok(usize::try_from(slf.get().desk().maxsize).is_ok_and(|most| 0 < most && most <= size))
    }

    /// The most items that it holds; any number if it is 0 or less.
    #[getter]
    fn maxsize(&self) -> isize {
        self.desk().maxsize
    }

    #[setter]
    fn set_maxsize(&self, py: Python<'_>, maxsize: Most) {
        let Most(maxsize) = maxsize;
        let calls = {
            let mut desk = self.desk();
            desk.maxsize = maxsize;
            desk.call_putters()
        };
        self.wake_putters(py, calls);
    }

    /// How many items were put whose work nobody has said to be done.
    #[getter]
    fn unfinished_tasks(&self) -> usize {
        self.desk().unfinished
    }

    /// Whether it was shut down.
    #[getter]
    fn is_shutdown(&self) -> bool {
        self.desk().is_shut_down
    }

    #[expect(clippy::unused_self, reason = "a hook")]
    fn _init(&self, _maxsize: isize) {}

    fn _qsize(&self, py: Python<'_>) -> usize {
        self.own_size(py)
    }

    fn _put(&self, py: Python<'_>, item: Py<PyAny>) -> PyResult<()> {
        self.own_put(py, item)
    }

    fn _get(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.own_get(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.heap.as_ref().map_or(Ok(()), |heap| visit.call(heap))?;
        self.gate.traverse(&visit)?;
        let desk = self.desk();
        desk.items.iter().try_for_each(|item| visit.call(item))?;
        desk.waiters().try_for_each(|waiter| waiter.traverse(&visit))
    }

    fn __clear__(&self) {
        let items = {
            let mut desk = self.desk();
            desk.size = 0;
            std::mem::take(&mut desk.items)
        };
        drop(items);
    }
}

/// A `Queue` whose newest item comes out first.
///
/// Args:
///     maxsize: The most items that it holds, for more of which ``put`` waits; any number if it is 0 or less.
///
/// Thread safety: every method may be called from any thread, and from any event loop.
///
/// Example:
///     >>> from manyhands.sync import LifoQueue
///     >>> stack = LifoQueue()
///     >>> stack.put_many("abc")
///     3
///     >>> stack.get_many(2)
///     ['c', 'b']
///
/// Source: ``queue.LifoQueue`` of CPython 3.13, whose methods and errors it has.
#[pyclass(frozen, subclass, generic, extends = Queue, module = "manyhands.sync")]
pub(crate) struct LifoQueue;

#[pymethods]
impl LifoQueue {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        py: Python<'_>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<Self> {
        PyClassInitializer::from(Queue::of(py, Kind::Lifo)).add_subclass(Self)
    }
}

/// A `Queue` whose smallest item comes out first.
///
/// Items are compared with ``<``; usually they are tuples of a number and something else.
///
/// Args:
///     maxsize: The most items that it holds, for more of which ``put`` waits; any number if it is 0 or less.
///
/// Thread safety: every method may be called from any thread, and from any event loop.
///
/// Example:
///     >>> from manyhands.sync import PriorityQueue
///     >>> todo = PriorityQueue()
///     >>> todo.put_many([(2, "sweep"), (1, "cook")])
///     2
///     >>> todo.get()
///     (1, 'cook')
///
/// Source: ``queue.PriorityQueue`` of CPython 3.13, whose methods and errors it has.
#[pyclass(frozen, subclass, generic, extends = Queue, module = "manyhands.sync")]
pub(crate) struct PriorityQueue;

#[pymethods]
impl PriorityQueue {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        py: Python<'_>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<Self> {
        PyClassInitializer::from(Queue::of(py, Kind::Priority)).add_subclass(Self)
    }
}
