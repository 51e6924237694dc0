//! Who holds and who waits: threads, tasks and green threads, by numbers that are never given twice.
//!
//! A task and a green thread carry theirs along: the address of one that is gone would soon be another one's.
//!
//! In the child of a fork only the thread that forked goes on. The numbers tell which threads are gone: all that are
//! older than the process, but that one.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::hubs;
use crate::native;

static NEXT: AtomicU64 = AtomicU64::new(1);
static NEXT_WITHIN: AtomicU64 = AtomicU64::new(1);
static FIRST_HERE: AtomicU64 = AtomicU64::new(1);
static FORKER: AtomicU64 = AtomicU64::new(0);
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// What a task's identity has and a thread's number never reaches.
const TASK: u64 = 1 << 63;
/// What that of a green thread has.
const GREEN: u64 = 1 << 62;

/// Nobody.
pub(crate) const NOBODY: u64 = 0;

thread_local! {
    static MINE: Cell<u64> = const { Cell::new(NOBODY) };
}

/// The number of this thread.
#[inline]
pub(crate) fn this_thread() -> u64 {
    MINE.with(|mine| match mine.get() {
        NOBODY => {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            mine.set(number);
            number
        }
        number => number,
    })
}

/// The identity of the asyncio task that runs in this thread, if there is one.
pub(crate) fn this_task(py: Python<'_>) -> Option<u64> {
    // Without a running loop there is no task, which the function says by an exception.
    let task = current_task(py).ok()?.call0().ok()?;
    (!task.is_none()).then(|| of_task(&task))
}

/// The identity of an asyncio task.
pub(crate) fn of_task(task: &Bound<'_, PyAny>) -> u64 {
    TASK | number_of(task)
}

/// Who calls, unless he is a task: the green thread that runs, or else this thread.
#[inline]
pub(crate) fn caller(py: Python<'_>) -> u64 {
    if hubs::are_there(py) { green_or_thread(py) } else { this_thread() }
}

#[cold]
fn green_or_thread(py: Python<'_>) -> u64 {
    hubs::green(py).map_or_else(this_thread, |green| GREEN | number_of(green.bind(py)))
}

/// The number that a task or a green thread carries along, from now on.
fn number_of(object: &Bound<'_, PyAny>) -> u64 {
    let name = pyo3::intern!(object.py(), "_manyhands_number");
    if let Ok(Some(number)) = object.getattr_opt(name)
        && let Ok(number) = number.extract()
    {
        return number;
    }
    let number = NEXT_WITHIN.fetch_add(1, Ordering::Relaxed);
    // What takes no attributes is known by its address: better than by a new number each time.
    object.setattr(name, number).map_or(object.as_ptr() as u64, |()| number)
}

/// The caller, whose number that is, as Python knows him.
pub(crate) fn person(py: Python<'_>, who: u64) -> PyResult<Py<PyAny>> {
    if is_task(who) {
        return Ok(current_task(py)?.call0()?.unbind());
    }
    if is_within_thread(who)
        && let Some(green) = hubs::green(py)
    {
        return Ok(green);
    }
    Ok(native::thread_ident(py).into_pyobject(py)?.into_any().unbind())
}

fn current_task(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static FUNCTION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let function = || py.import("asyncio")?.getattr("current_task").map(Bound::unbind);
    FUNCTION.get_or_try_init(py, function).map(|function| function.bind(py))
}

/// Whether this is a task rather than a thread.
pub(crate) fn is_task(who: u64) -> bool {
    who & TASK != 0
}

/// Whether this is somebody who shares his thread with others: a task or a green thread.
pub(crate) fn is_within_thread(who: u64) -> bool {
    who & (TASK | GREEN) != 0
}

/// Whether this thread existed only in the process that ours was forked from.
pub(crate) fn is_gone(who: u64) -> bool {
    who != NOBODY
        && !is_within_thread(who)
        && who < FIRST_HERE.load(Ordering::Relaxed)
        && who != FORKER.load(Ordering::Relaxed)
}

/// Takes note that this process was forked, by this thread.
pub(crate) fn after_fork_in_child() {
    FORKER.store(this_thread(), Ordering::Relaxed);
    FIRST_HERE.store(NEXT.load(Ordering::Relaxed), Ordering::Relaxed);
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// The fork since which a line was last looked through for those who are gone.
pub(crate) struct Generation(AtomicU32);

impl Generation {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(GENERATION.load(Ordering::Relaxed)))
    }

    /// Whether there was a fork since the last time that this was asked.
    pub(crate) fn has_passed(&self) -> bool {
        let now = GENERATION.load(Ordering::Relaxed);
        self.0.load(Ordering::Relaxed) != now && self.0.swap(now, Ordering::Relaxed) != now
    }
}
