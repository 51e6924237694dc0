//! `manyhands.sync.Semaphore` and `BoundedSemaphore`.

use std::sync::atomic::{AtomicU64, Ordering};

use manyhands_engine::line::Ticket;
use manyhands_engine::permits::{GaveUp, Permits};
use pyo3::exceptions::{PyOverflowError, PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::awaiting::{Awaiting, Done, awaiting, nothing, yes};
use super::detection::{self, Watched};
use super::patience::Patience;
use super::waiting::{Entered, Waitable, Waiter, block, take_or_join, wake_all};
use super::who::{self, Generation, NOBODY};

/// Permits that anybody takes and gives.
pub(crate) struct Counted {
    permits: Permits<Waiter>,
    /// Whether there were any at first: otherwise who takes one does not borrow it.
    is_lent: bool,
    /// The number of the thread that took one last.
    taker: AtomicU64,
    generation: Generation,
    watched: Watched,
}

impl Counted {
    fn new(value: isize, is_bounded: bool) -> PyResult<Self> {
        let Ok(value) = usize::try_from(value) else {
            return Err(PyValueError::new_err("semaphore initial value must be >= 0"));
        };
        let most = if is_bounded { value } else { Permits::<Waiter>::LIMIT };
        let watched = Watched::new("semaphore");
        let (taker, generation) = (AtomicU64::new(NOBODY), Generation::new());
        Ok(Self { permits: Permits::new(value, most), is_lent: value > 0, taker, generation, watched })
    }

    #[inline]
    fn take(&self, py: Python<'_>, patience: &Patience) -> PyResult<bool> {
        if self.permits.try_take() {
            self.note_taken();
            return Ok(true);
        }
        match patience {
            Patience::None => Ok(false),
            patience => Ok(block(py, self, patience.deadline())?.is_some()),
        }
    }

    /// Takes one for a block of code of the calling thread, which gives it back.
    #[inline]
    fn take_for_block(&self, py: Python<'_>) -> PyResult<bool> {
        let taken = self.take(py, &Patience::Endless)?;
        if detection::is_on() {
            self.watched.permitted(py);
        }
        Ok(taken)
    }

    #[inline]
    fn give_from_block(&self, py: Python<'_>) -> PyResult<()> {
        if detection::is_on() {
            self.watched.unshared(who::this_thread());
        }
        self.give(py, 1)
    }

    #[inline]
    fn note_taken(&self) {
        self.taker.store(who::this_thread(), Ordering::Relaxed);
    }

    /// # Errors
    /// There is none, and whoever took the last one does not exist in this process.
    fn refuse_orphan(&self) -> PyResult<()> {
        self.dismiss();
        let is_orphan = self.is_lent && who::is_gone(self.taker.load(Ordering::Relaxed));
        if is_orphan && self.permits.free() == 0 {
            return Err(PyRuntimeError::new_err(
                "could not acquire semaphore: found its last permit taken by a thread that was left behind by a fork, \
                 expected one that can release it",
            ));
        }
        Ok(())
    }

    fn is_bounded(&self) -> bool {
        self.permits.most() != Permits::<Waiter>::LIMIT
    }

    #[inline]
    fn give(&self, py: Python<'_>, count: usize) -> PyResult<()> {
        if count == 1
            && let Some(given) = self.permits.try_give()
        {
            return given.map_err(|_| self.too_many());
        }
        self.give_to_waiters(py, count)
    }

    #[cold]
    fn give_to_waiters(&self, py: Python<'_>, count: usize) -> PyResult<()> {
        self.dismiss();
        let hand = |waiter: &Waiter| self.taker.store(waiter.thread_number(), Ordering::Relaxed);
        let wakes = self.permits.give(count, hand).map_err(|_| self.too_many())?;
        wake_all(py, self, wakes);
        Ok(())
    }

    fn too_many(&self) -> PyErr {
        if !self.is_bounded() {
            return PyOverflowError::new_err("could not release semaphore: its value would be too large");
        }
        PyValueError::new_err("Semaphore released too many times")
    }

    /// Forgets those whom a fork left behind.
    fn dismiss(&self) {
        if self.generation.has_passed() {
            drop(self.permits.dismiss(Waiter::is_gone));
        }
    }

    fn release(&self, py: Python<'_>, n: isize) -> PyResult<()> {
        match usize::try_from(n) {
            Ok(count) if count >= 1 => self.give(py, count),
            _ => Err(PyValueError::new_err("n must be one or more")),
        }
    }

    fn describe(&self, object: &Bound<'_, PyAny>) -> PyResult<String> {
        let bound = match self.permits.most() {
            most if most == Permits::<Waiter>::LIMIT => String::new(),
            most => format!("/{most}"),
        };
        super::describe(object, &format!("value={}{bound}", self.permits.free()))
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let mut result = Ok(());
        self.permits.for_each_waiter(|waiter| {
            if result.is_ok() {
                result = waiter.traverse(visit);
            }
        });
        result
    }
}

impl Waitable for Counted {
    type Gain = ();

    fn try_now(&self, _py: Python<'_>) -> PyResult<Option<()>> {
        let taken = self.permits.try_take_in_turn();
        if taken {
            self.note_taken();
        }
        Ok(taken.then_some(()))
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<()>> {
        self.refuse_orphan()?;
        // Permits of one without bounds may come from anybody.
        let watched = (detection::is_on() && self.is_bounded()).then(|| waiter.who());
        if let Some(who) = watched {
            self.watched.waits_for_permit(py, who, waiter.manner(), self.permits.most())?;
        }
        let ticket = take_or_join(py, self, &self.permits, waiter);
        if ticket.is_none() {
            self.note_taken();
        }
        match (watched, ticket) {
            (Some(who), Some(ticket)) => self.watched.joins(ticket, who),
            (Some(who), None) => detection::stops(who),
            (None, _) => {}
        }
        Ok(ticket.map_or(Entered::Through(()), Entered::Waits))
    }

    fn poll(&self, _py: Python<'_>, ticket: Ticket) -> PyResult<Option<()>> {
        let through = self.permits.poll(ticket);
        if through {
            self.note_taken();
        }
        if through && detection::is_on() {
            self.watched.leaves(ticket, false);
        }
        Ok(through.then_some(()))
    }

    fn leave(&self, py: Python<'_>, ticket: Ticket) -> Option<()> {
        let left = self.permits.leave(ticket);
        if detection::is_on() {
            self.watched.leaves(ticket, false);
        }
        match left {
            GaveUp::Holds => Some(()),
            GaveUp::Left(wakes) => {
                wake_all(py, self, wakes);
                None
            }
        }
    }

    fn give_back(&self, py: Python<'_>, (): ()) {
        // Of what was taken there is always room.
        let _ = self.give(py, 1);
    }
}

macro_rules! semaphore {
    ($(#[$documentation:meta])* $name:ident, bounded: $bounded:literal) => {
        $(#[$documentation])*
        #[pyclass(frozen, subclass, weakref, module = "manyhands.sync")]
        pub(crate) struct $name {
            counted: Counted,
        }

        impl $name {
            fn counted(&self) -> &Counted {
                &self.counted
            }
        }

        #[pymethods]
        impl $name {
            #[new]
            #[pyo3(signature = (value=1))]
            fn new(value: isize) -> PyResult<Self> {
                Ok(Self { counted: Counted::new(value, $bounded)? })
            }

            /// Take a permit, waiting for one if need be; return whether one was got.
            ///
            /// Args:
            ///     blocking: Whether to wait at all.
            ///     timeout: Seconds to wait at most; None waits for ever.
            ///
            /// Raises:
            ///     ValueError: A timeout without blocking.
            ///     RuntimeError: There is none, and a thread took the last one that a fork has left behind.
            #[pyo3(signature = (blocking=None, timeout=None), text_signature = "($self, blocking=True, timeout=None)")]
            fn acquire(
                &self,
                py: Python<'_>,
                blocking: Option<&Bound<'_, PyAny>>,
                timeout: Option<f64>,
            ) -> PyResult<bool> {
                if blocking.is_none() && timeout.is_none() {
                    return self.counted.take(py, &Patience::Endless);
                }
                let patience = Patience::of_semaphore(blocking, timeout)?;
                self.counted.take(py, &patience)
            }

            /// Give `n` permits back.
            ///
            /// Raises:
            ///     ValueError: `n` is less than one, or that would be more than a bounded semaphore has.
            #[pyo3(signature = (n=1))]
            fn release(&self, py: Python<'_>, n: isize) -> PyResult<()> {
                self.counted.release(py, n)
            }

            /// Whether there is no permit to be had.
            fn locked(&self) -> bool {
                self.counted.permits.free() == 0
            }

            /// Take a permit, as a coroutine; awaiting it gives True.
            fn aacquire(slf: Py<Self>) -> Awaiting {
                awaiting(slf, Self::counted, yes)
            }

            fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
                self.counted.take_for_block(py)
            }

            #[pyo3(signature = (_kind=None, _value=None, _traceback=None))]
            fn __exit__(
                &self,
                py: Python<'_>,
                _kind: Option<&Bound<'_, PyAny>>,
                _value: Option<&Bound<'_, PyAny>>,
                _traceback: Option<&Bound<'_, PyAny>>,
            ) -> PyResult<()> {
                self.counted.give_from_block(py)
            }

            fn __aenter__(slf: Py<Self>) -> Awaiting {
                awaiting(slf, Self::counted, nothing)
            }

            #[pyo3(signature = (_kind=None, _value=None, _traceback=None))]
            fn __aexit__(
                &self,
                py: Python<'_>,
                _kind: Option<&Bound<'_, PyAny>>,
                _value: Option<&Bound<'_, PyAny>>,
                _traceback: Option<&Bound<'_, PyAny>>,
            ) -> PyResult<Done> {
                self.counted.give(py, 1)?;
                Ok(Done)
            }

            fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
                slf.get().counted.describe(slf.as_any())
            }

            fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
                self.counted.traverse(&visit)
            }
        }
    };
}

semaphore! {
    /// So many permits for threads and asyncio tasks: who finds none waits for one to come back.
    ///
    /// ``with``, ``acquire``, ``async with`` and ``aacquire`` take one; anybody may ``release`` any number, also more than were
    /// taken. Whoever waits longest gets the next one, unless a running thread is faster; nobody is passed over twice.
    ///
    /// Args:
    ///     value: How many permits there are at first (int ≥ 0).
    ///
    /// Raises:
    ///     ValueError: `value` is negative.
    ///
    /// Thread safety: every method may be called from any thread, and from any event loop.
    ///
    /// Example:
    ///     >>> from manyhands.sync import Semaphore
    ///     >>> tables = Semaphore(2)
    ///     >>> with tables, tables:
    ///     ...     tables.acquire(blocking=False)
    ///     False
    ///
    /// Source: ``threading.Semaphore`` and ``asyncio.Semaphore`` of CPython, whose methods and errors it has.
    Semaphore, bounded: false
}

semaphore! {
    /// A `Semaphore` that refuses a permit which was never taken: then something was released twice.
    ///
    /// Args:
    ///     value: How many permits there are, at first and at most (int ≥ 0).
    ///
    /// Raises:
    ///     ValueError: `value` is negative.
    ///
    /// Thread safety: every method may be called from any thread, and from any event loop.
    ///
    /// Example:
    ///     >>> from manyhands.sync import BoundedSemaphore
    ///     >>> tables = BoundedSemaphore(2)
    ///     >>> tables.release()
    ///     Traceback (most recent call last):
    ///     ...
    ///     ValueError: Semaphore released too many times
    ///
    /// Source: ``threading.BoundedSemaphore`` of CPython, whose methods and errors it has.
    BoundedSemaphore, bounded: true
}
