//! `manyhands.sync.RWLock` and its two sides.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use manyhands_engine::line::Ticket;
use manyhands_engine::passage::{Mode, Passage};
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::awaiting::{Awaiting, Done, Operation, boolean};
use super::detection::{self, Watched};
use super::patience::Patience;
use super::waiting::{Entered, Waitable, Waiter, block};
use super::who::{self, Generation, NOBODY};

/// Who is there: a writer, or readers, each as often as he came.
#[derive(Default)]
struct Present {
    writer: u64,
    /// The thread of the writer.
    thread: u64,
    /// Not many at a time, as a rule: then this is faster to look through than any table.
    readers: Vec<Reader>,
}

struct Reader {
    who: u64,
    thread: u64,
    times: usize,
}

impl Present {
    fn reader(&self, who: u64) -> Option<usize> {
        self.readers.iter().position(|reader| reader.who == who)
    }

    fn reads(&self, who: u64) -> bool {
        self.reader(who).is_some()
    }
}

/// Somebody who waits, and who he is.
type Named = (Waiter, u64);

struct Inner {
    passage: Passage<Named>,
    present: Present,
    watched: Watched,
}

/// A lock for many who read at the same time, or one who writes; for threads and asyncio tasks alike.
///
/// ``with lock.read:`` reads, ``with lock.write:`` writes, in a coroutine with ``async with``. Each side has the
/// methods of a `Lock`: ``acquire(blocking=True, timeout=-1)``, ``release()``, ``locked()``, ``aacquire()``. All are
/// served in the order in which they come, readers side by side together: so neither readers nor writers starve.
///
/// Who reads cannot write before he has stopped reading, and nobody can take the writing side twice: that would be to
/// wait for himself, and is an error. A reader who wants to read again while a writer waits would have to wait for
/// him, who waits for the reader: an error too.
///
/// Thread safety: every method may be called from any thread, and from any event loop.
///
/// Example:
///     >>> from manyhands.sync import RWLock
///     >>> lock = RWLock()
///     >>> with lock.read:
///     ...     lock.write.acquire(blocking=False)
///     False
///     >>> with lock.write:
///     ...     lock.read.locked(), lock.write.locked()
///     (False, True)
///
/// Source: the readers-writer problem without starvation, as in P. J. Courtois et al., CACM 14 (1971), solved by one
/// line for both.
#[pyclass(frozen, subclass, weakref, module = "manyhands.sync")]
pub(crate) struct RWLock {
    inner: Mutex<Inner>,
    generation: Generation,
}

/// The reading or the writing side of an `RWLock`; it has the methods of a `Lock`.
#[pyclass(frozen, module = "manyhands._core")]
pub(crate) struct RWLockSide {
    lock: Py<RWLock>,
    mode: Mode,
}

impl RWLock {
    /// While this is held, nothing of Python may be made, dropped or called.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if self.generation.has_passed() {
            // Not dropped: what they refer to was another process's, and this is no place to drop it.
            std::mem::forget(inner.passage.dismiss(|(waiter, _)| waiter.is_gone()));
        }
        inner
    }
}

impl Inner {
    /// Takes note that somebody, of that thread, is there.
    fn note(&mut self, mode: Mode, who: u64, thread: u64) {
        if detection::is_on() {
            match mode {
                Mode::Write => self.watched.owned(who, thread),
                Mode::Read => self.watched.shared(who, thread),
            }
        }
        match mode {
            Mode::Write => (self.present.writer, self.present.thread) = (who, thread),
            Mode::Read => match self.present.reader(who) {
                Some(position) => self.present.readers[position].times += 1,
                None => self.present.readers.push(Reader { who, thread, times: 1 }),
            },
        }
    }

    /// Takes note that somebody leaves; a reader may have somebody else stop reading for him.
    fn forget(&mut self, mode: Mode, who: u64) {
        if mode == Mode::Write {
            (self.present.writer, self.present.thread) = (NOBODY, NOBODY);
            if detection::is_on() {
                self.watched.given();
            }
            return;
        }
        let position = self.present.reader(who).unwrap_or(0);
        let readers = &mut self.present.readers;
        if let Some(reader) = readers.get_mut(position) {
            if detection::is_on() {
                self.watched.unshared(reader.who);
            }
            reader.times -= 1;
            if reader.times == 0 {
                readers.swap_remove(position);
            }
        }
    }

    /// Why this one must not wait, if so.
    fn refusal(&self, mode: Mode, who: u64) -> Option<&'static str> {
        let reads = self.present.reads(who);
        if self.present.writer == who {
            return Some("found that the caller writes, expected that he releases that first");
        }
        if reads && mode == Mode::Write {
            return Some("found that the caller reads, expected that he releases that before he writes");
        }
        if reads {
            return Some(
                "found that the caller reads and a writer waits for him, expected that he reads once at a time",
            );
        }
        let is_gone = who::is_gone(self.present.thread)
            || mode == Mode::Write && self.present.readers.iter().any(|reader| who::is_gone(reader.thread));
        is_gone.then_some(
            "found it held by a thread that was left behind by a fork, expected one that can release it",
        )
    }
}

/// One side of a lock.
struct Side<'l> {
    lock: &'l RWLock,
    mode: Mode,
}

impl Side<'_> {
    fn try_take(&self, who: u64) -> bool {
        let mut inner = self.lock.inner();
        let taken = inner.passage.try_enter(self.mode);
        if taken {
            inner.note(self.mode, who, who::this_thread());
        }
        taken
    }

    /// Takes note that the caller, who has taken it, would have waited.
    ///
    /// # Errors
    /// A warning about the order in which he takes locks. Then he is out again.
    #[inline]
    fn note_order(&self, py: Python<'_>, who: u64) -> PyResult<()> {
        if !detection::is_on() {
            return Ok(());
        }
        let order = self.lock.inner().watched.order(who);
        order.check(py).inspect_err(|_| self.give_back(py, ()))
    }

    /// Takes note that somebody is about to wait.
    ///
    /// # Errors
    /// `DeadlockError` if that would be for ever; a warning about the order in which he takes locks.
    #[cold]
    fn watch(&self, py: Python<'_>, waiter: &Waiter) -> PyResult<()> {
        let wait = {
            let inner = self.lock.inner();
            let writers = inner.passage.writers().map(|(_, who)| *who);
            let ahead = (self.mode == Mode::Read).then(|| writers.collect());
            inner.watched.wait(waiter, ahead)
        };
        wait.begin(py)
    }

    fn take(&self, py: Python<'_>, patience: &Patience) -> PyResult<bool> {
        let who = who::caller(py);
        if self.try_take(who) {
            if !matches!(patience, Patience::None) {
                self.note_order(py, who)?;
            }
            return Ok(true);
        }
        match patience {
            Patience::None => Ok(false),
            patience => Ok(block(py, self, patience.deadline())?.is_some()),
        }
    }

    /// # Errors
    /// Nobody has it.
    fn give(&self, py: Python<'_>) -> PyResult<()> {
        let mut who = who::caller(py);
        let mut inner = self.lock.inner();
        if self.mode == Mode::Read && !inner.present.reads(who) {
            // To ask for the task takes longer than all the rest, and most often the thread itself is the one.
            drop(inner);
            who = who::this_task(py).unwrap_or(who);
            inner = self.lock.inner();
        }
        let served = inner.passage.exit(self.mode);
        if let Ok(served) = &served {
            inner.forget(self.mode, who);
            note_all(&mut inner, served);
        }
        drop(inner);
        let served = served.map_err(|_| PyRuntimeError::new_err("release unlocked lock"))?;
        self.wake(py, served);
        Ok(())
    }

    /// Wakes those who are there now; who cannot be woken has left at once.
    fn wake(&self, py: Python<'_>, served: Vec<(Mode, Named)>) {
        let mut served = VecDeque::from(served);
        while let Some((mode, (waiter, who))) = served.pop_front() {
            if !waiter.wake(py) {
                let mut inner = self.lock.inner();
                if let Ok(next) = inner.passage.exit(mode) {
                    inner.forget(mode, who);
                    note_all(&mut inner, &next);
                    served.extend(next);
                }
            }
        }
    }

    /// Takes note that whoever waited with this ticket does not any more.
    #[cold]
    fn stops_waiting(&self, ticket: Ticket) {
        let who = self.lock.inner().watched.left(ticket);
        if let Some(who) = who {
            detection::stops(who);
        }
    }

    fn is_taken(&self) -> bool {
        let inner = self.lock.inner();
        if self.mode == Mode::Read { inner.passage.readers() > 0 } else { inner.passage.is_written() }
    }
}

fn note_all(inner: &mut Inner, served: &[(Mode, Named)]) {
    for (mode, (waiter, who)) in served {
        inner.note(*mode, *who, waiter.thread_number());
    }
}

impl Waitable for Side<'_> {
    type Gain = ();

    fn try_now(&self, py: Python<'_>) -> PyResult<Option<()>> {
        let who = who::this_task(py).unwrap_or_else(who::this_thread);
        let taken = self.try_take(who);
        if taken {
            self.note_order(py, who)?;
        }
        Ok(taken.then_some(()))
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<()>> {
        let thread = who::this_thread();
        let who = if waiter.is_task() { who::this_task(py).unwrap_or(thread) } else { who::caller(py) };
        if detection::is_on() {
            self.watch(py, &waiter)?;
        }
        let mut inner = self.lock.inner();
        if inner.passage.try_enter(self.mode) {
            inner.note(self.mode, who, thread);
            drop(inner);
            detection::stops(who);
            return Ok(Entered::Through(()));
        }
        if let Some(reason) = inner.refusal(self.mode, who) {
            drop(inner);
            detection::stops(who);
            return Err(PyRuntimeError::new_err(format!("could not acquire lock: {reason}")));
        }
        let ticket = inner.passage.enter(self.mode, (waiter, who));
        if let Some(ticket) = ticket.filter(|_| detection::is_on()) {
            inner.watched.joins(ticket, who);
        }
        Ok(ticket.map_or(Entered::Through(()), Entered::Waits))
    }

    fn poll(&self, _py: Python<'_>, ticket: Ticket) -> PyResult<Option<()>> {
        let is_there = !self.lock.inner().passage.waits(ticket);
        if is_there && detection::is_on() {
            self.stops_waiting(ticket);
        }
        Ok(is_there.then_some(()))
    }

    fn leave(&self, py: Python<'_>, ticket: Ticket) -> Option<()> {
        let served = {
            let mut inner = self.lock.inner();
            let served = inner.passage.give_up(ticket);
            if let Some(served) = &served {
                note_all(&mut inner, served);
            }
            served
        };
        if detection::is_on() {
            self.stops_waiting(ticket);
        }
        match served {
            None => Some(()),
            Some(served) => {
                self.wake(py, served);
                None
            }
        }
    }

    fn give_back(&self, py: Python<'_>, (): ()) {
        // Who was let in is there, until he leaves.
        let _ = self.give(py);
    }
}

/// A task's wait for one side; awaiting it gives `gain`.
struct AwaitSide {
    side: Py<RWLockSide>,
    gain: Option<bool>,
}

impl AwaitSide {
    fn gained(&self, py: Python<'_>) -> Py<PyAny> {
        self.gain.map_or_else(|| py.None(), |gain| boolean(py, gain))
    }
}

impl Operation for AwaitSide {
    fn try_now(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        Ok(self.side.get().side().try_now(py)?.map(|()| self.gained(py)))
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        Ok(match self.side.get().side().enter(py, waiter)? {
            Entered::Through(()) => Entered::Through(self.gained(py)),
            Entered::Waits(ticket) => Entered::Waits(ticket),
        })
    }

    fn poll(&self, py: Python<'_>, ticket: Ticket, _waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        let through = self.side.get().side().poll(py, ticket)?;
        Ok(through.map_or(Entered::Waits(ticket), |()| Entered::Through(self.gained(py))))
    }

    fn leave(&self, py: Python<'_>, ticket: Ticket) {
        let side = self.side.get().side();
        if side.leave(py, ticket).is_some() {
            side.give_back(py, ());
        }
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.side)
    }
}

#[pymethods]
impl RWLock {
    #[new]
    #[pyo3(signature = ())]
    fn new() -> Self {
        let watched = Watched::new("lock for readers and writers");
        let inner = Inner { passage: Passage::default(), present: Present::default(), watched };
        Self { inner: Mutex::new(inner), generation: Generation::new() }
    }

    /// The side of those who read.
    #[getter]
    fn read(slf: Py<Self>) -> RWLockSide {
        RWLockSide { lock: slf, mode: Mode::Read }
    }

    /// The side of those who write.
    #[getter]
    fn write(slf: Py<Self>) -> RWLockSide {
        RWLockSide { lock: slf, mode: Mode::Write }
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let (readers, is_written) = {
            let inner = slf.get().inner();
            (inner.passage.readers(), inner.passage.is_written())
        };
        super::describe(slf.as_any(), &format!("readers={readers} writers={}", u8::from(is_written)))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.inner().passage.iter().try_for_each(|(waiter, _)| waiter.traverse(&visit))
    }
}

impl RWLockSide {
    fn side(&self) -> Side<'_> {
        Side { lock: self.lock.get(), mode: self.mode }
    }
}

#[pymethods]
impl RWLockSide {
    /// Take this side, waiting for it if need be; return whether it was got.
    #[pyo3(signature = (blocking=None, timeout=None), text_signature = "($self, blocking=True, timeout=-1)")]
    fn acquire(
        &self,
        py: Python<'_>,
        blocking: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<bool> {
        self.side().take(py, &Patience::of_lock(blocking, timeout)?)
    }

    /// Let others have it.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.side().give(py)
    }

    /// Whether somebody has this side.
    fn locked(&self) -> bool {
        self.side().is_taken()
    }

    /// Take this side, as a coroutine; awaiting it gives True.
    fn aacquire(slf: Py<Self>) -> Awaiting {
        Awaiting::new(Box::new(AwaitSide { side: slf, gain: Some(true) }))
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.side().take(py, &Patience::Endless)
    }

    #[pyo3(signature = (_kind=None, _value=None, _traceback=None))]
    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.side().give(py)
    }

    fn __aenter__(slf: Py<Self>) -> Awaiting {
        Awaiting::new(Box::new(AwaitSide { side: slf, gain: None }))
    }

    #[pyo3(signature = (_kind=None, _value=None, _traceback=None))]
    fn __aexit__(
        &self,
        py: Python<'_>,
        _kind: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Done> {
        self.side().give(py)?;
        Ok(Done)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.lock)
    }
}
