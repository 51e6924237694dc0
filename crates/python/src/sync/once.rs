//! `_core.Once`, the base of `manyhands.sync.Once`, which adds what runs a coroutine.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use manyhands_engine::line::Ticket;
use manyhands_engine::once::{self, Turn};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::awaiting::{Awaiting, awaiting, boolean};
use super::waiting::{Entered, Waitable, Waiter, block};
use super::who::{self, Generation, NOBODY};
use crate::native;

/// Whose turn it is, and who is at it.
pub(crate) struct Turns {
    once: once::Once<Waiter>,
    /// The thread, and the thread or task, that is at it. A hint for others; whoever finds himself there wrote it.
    thread: AtomicU64,
    who: AtomicU64,
    generation: Generation,
}

impl Turns {
    fn new() -> Self {
        let (thread, who) = (AtomicU64::new(NOBODY), AtomicU64::new(NOBODY));
        Self { once: once::Once::default(), thread, who, generation: Generation::new() }
    }

    /// Whether it is the caller's turn, if he need not wait.
    fn told(&self, py: Python<'_>, turn: Turn) -> Entered<bool> {
        match turn {
            Turn::Done => Entered::Through(false),
            Turn::Waits(ticket) => Entered::Waits(ticket),
            Turn::Mine => {
                self.thread.store(who::this_thread(), Ordering::Relaxed);
                self.who.store(caller(py), Ordering::Relaxed);
                Entered::Through(true)
            }
        }
    }

    /// # Errors
    /// The caller would wait for himself, for a task that cannot run meanwhile, or for somebody who does not exist.
    fn refuse(&self, py: Python<'_>, is_task: bool) -> PyResult<()> {
        if !self.once.is_running() {
            return Ok(());
        }
        let (thread, runner) = (self.thread.load(Ordering::Relaxed), self.who.load(Ordering::Relaxed));
        if who::is_gone(thread) {
            return Err(PyRuntimeError::new_err(
                "could not call once: found a call by a thread that was left behind by a fork, expected one that can end",
            ));
        }
        let waiter = caller(py);
        // A task keeps a green thread from running, and the other way round.
        let takes_turns = is_task == who::is_task(runner) && who::is_within_thread(waiter);
        if thread == who::this_thread() && (!takes_turns || runner == waiter) {
            return Err(PyRuntimeError::new_err(
                "could not call once: found the first call in this very thread or task, expected one that can end \
                 meanwhile",
            ));
        }
        Ok(())
    }

    fn wake(&self, py: Python<'_>, calls: Vec<(Ticket, Waiter)>) {
        for (ticket, waiter) in calls {
            if !waiter.wake(py) {
                self.forsake(py, ticket);
            }
        }
    }

    fn forsake(&self, py: Python<'_>, ticket: Ticket) {
        let calls = self.once.leave(ticket);
        self.wake(py, calls);
    }

    fn fail(&self, py: Python<'_>) {
        self.dismiss();
        let calls = self.once.fail();
        self.wake(py, calls);
    }

    fn finish(&self, py: Python<'_>) {
        self.dismiss();
        let calls = self.once.finish();
        self.wake(py, calls);
    }

    /// Forgets those whom a fork left behind.
    fn dismiss(&self) {
        if self.generation.has_passed() {
            drop(self.once.dismiss(Waiter::is_gone));
        }
    }
}

fn caller(py: Python<'_>) -> u64 {
    who::this_task(py).unwrap_or_else(|| who::caller(py))
}

fn without_waiting(entered: Entered<bool>) -> Option<bool> {
    if let Entered::Through(is_mine) = entered { Some(is_mine) } else { None }
}

/// What one gains is whether it is one's turn.
impl Waitable for Turns {
    type Gain = bool;

    fn try_now(&self, py: Python<'_>) -> PyResult<Option<bool>> {
        let turn = if self.once.is_done() { Some(Turn::Done) } else { self.once.try_enter() };
        Ok(turn.and_then(|turn| without_waiting(self.told(py, turn))))
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<bool>> {
        let is_task = waiter.is_task();
        self.dismiss();
        self.refuse(py, is_task)?;
        Ok(self.told(py, self.once.enter(waiter)))
    }

    fn poll(&self, py: Python<'_>, ticket: Ticket) -> PyResult<Option<bool>> {
        Ok(without_waiting(self.told(py, self.once.poll(ticket))))
    }

    fn leave(&self, py: Python<'_>, ticket: Ticket) -> Option<bool> {
        self.forsake(py, ticket);
        None
    }

    fn give_back(&self, py: Python<'_>, is_mine: bool) {
        if is_mine {
            self.fail(py);
        }
    }
}

#[pyclass(frozen, subclass, weakref, generic, module = "manyhands._core")]
pub(crate) struct Once {
    turns: Turns,
    /// There before it is done, and for good: it cannot be cleared, so a cycle through it needs another member that can.
    value: OnceLock<Py<PyAny>>,
}

impl Once {
    fn turns(&self) -> &Turns {
        &self.turns
    }

    fn finish(&self, py: Python<'_>, value: Py<PyAny>) {
        // Nobody else is at it, so nobody has put one there.
        let _ = self.value.set(value);
        self.turns.finish(py);
    }

    fn told(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        if self.turns.once.is_done() { self.value.get().map(|value| value.clone_ref(py)) } else { None }
    }
}

#[pymethods]
impl Once {
    #[new]
    #[pyo3(signature = ())]
    fn new() -> Self {
        Self { turns: Turns::new(), value: OnceLock::new() }
    }

    /// Return what the function returned the first time; call it if nobody has, and wait if somebody is at it.
    ///
    /// Args:
    ///     function: Called in this thread. Not an ``async def``: that is for `acall`.
    ///     args: Its arguments.
    ///     kwargs: Its keyword arguments.
    ///
    /// Raises:
    ///     RuntimeError: The function that is being called waits for its own result here, or a fork has left it behind.
    ///     TypeError: The function returned a coroutine.
    #[pyo3(signature = (function, /, *args, **kwargs))]
    fn call(
        &self,
        py: Python<'_>,
        function: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        if let Some(value) = self.told(py) {
            return Ok(value);
        }
        if block(py, &self.turns, None)?.unwrap_or(false) {
            let value = function.call(args, kwargs).and_then(plain);
            let value = value.inspect_err(|_| self.turns.fail(py))?;
            self.finish(py, value.unbind());
        }
        Ok(self.told(py).unwrap_or_else(|| py.None()))
    }

    /// Whether a call has succeeded.
    fn is_done(&self) -> bool {
        self.turns.once.is_done()
    }

    /// Wait for one's turn, as a coroutine; awaiting it gives whether it has come, False if there is a value.
    fn _begin(slf: Py<Self>) -> Awaiting {
        awaiting(slf, Self::turns, boolean)
    }

    fn _finish(&self, py: Python<'_>, value: Py<PyAny>) {
        self.finish(py, value);
    }

    fn _fail(&self, py: Python<'_>) {
        self.turns.fail(py);
    }

    #[getter]
    fn _value(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.told(py)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let once = &slf.get().turns.once;
        let state = match (once.is_done(), once.is_running()) {
            (true, _) => "done",
            (false, true) => "running",
            (false, false) => "not done",
        };
        super::describe(slf.as_any(), state)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(value) = self.value.get() {
            visit.call(value)?;
        }
        let mut result = Ok(());
        self.turns.once.for_each_waiter(|waiter| {
            if result.is_ok() {
                result = waiter.traverse(&visit);
            }
        });
        result
    }
}

/// # Errors
/// A coroutine, which can be awaited once, is no value for everybody.
fn plain(value: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    if !native::is_coroutine(&value) {
        return Ok(value);
    }
    value.call_method0(pyo3::intern!(value.py(), "close"))?;
    Err(PyTypeError::new_err(
        "could not call once: found a function that returns a coroutine, expected a plain function; `acall` awaits it",
    ))
}
