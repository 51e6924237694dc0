//! Those who wait for a future: the one place that knows how each kind is woken.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use manyhands_os::park::Parker;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::bridge;
use crate::future::Future;
use crate::gather::Gather;
use crate::progress::Counts;

/// Somebody who wants to know when a task is settled.
pub(crate) enum Waiter {
    /// A thread in `result()`.
    Thread(Arc<Parker>),
    /// A function for `add_done_callback`.
    Callback(Py<PyAny>),
    /// An asyncio task: the future that it really awaits.
    Loop(LoopWaiter),
    /// Somebody who waits for several: put this number into the mailbox.
    Mailbox(Arc<Mailbox>, u64),
    /// A progress bar.
    Progress(Arc<Counts>),
    /// A `gather` or `race`: this is its member of that position.
    Gather(Py<Gather>, usize),
    /// The asyncio task that runs the task, which must be stopped if somebody else settles it.
    Coroutine(LoopWaiter),
}

/// An asyncio future or task and the loop that it belongs to.
pub(crate) struct LoopWaiter {
    pub(crate) event_loop: Py<PyAny>,
    pub(crate) future: Py<PyAny>,
}

impl LoopWaiter {
    /// Has the loop call `function` with the future. A loop that was closed has nobody left to tell.
    fn call_soon(&self, function: PyResult<&Bound<'_, PyAny>>) {
        match function {
            Ok(function) => {
                let event_loop = self.event_loop.bind(function.py());
                let name = pyo3::intern!(function.py(), "call_soon_threadsafe");
                let _ = event_loop.call_method1(name, (function, &self.future));
            }
            Err(error) => Python::attach(|py| error.write_unraisable(py, None)),
        }
    }
}

impl Waiter {
    /// Tells the waiter that `future` is settled. Threads to wake are left in `wakes`.
    pub(crate) fn notify(self, future: &Bound<'_, Future>, wakes: &mut Wakes) {
        let py = future.py();
        match self {
            Self::Thread(parker) => wakes.add(parker),
            Self::Callback(callback) => call_back(callback.bind(py), future),
            Self::Loop(waiter) => waiter.call_soon(bridge::wake_function(py)),
            Self::Mailbox(mailbox, number) => mailbox.put(py, number, wakes),
            Self::Progress(counts) => {
                let detail = future.get().detail();
                let retries = detail.map_or(0, |detail| detail.history().attempts.saturating_sub(1));
                counts.add(future.get().has_failed(), retries.into());
            }
            Self::Gather(gather, position) => {
                Gather::member_is_settled(gather.bind(py), future, position, wakes);
            }
            Self::Coroutine(waiter) => waiter.call_soon(bridge::cancel_function(py)),
        }
    }

    /// Tells the waiter without the interpreter, if it can be told so; otherwise gives it back.
    pub(crate) fn notify_detached(self, failed: bool, retries: u64, wakes: &mut Wakes) -> Result<(), Self> {
        match self {
            Self::Thread(parker) => wakes.add(parker),
            Self::Progress(counts) => counts.add(failed, retries),
            Self::Mailbox(mailbox, number) => {
                if !mailbox.put_detached(number, wakes) {
                    return Err(Self::Mailbox(mailbox, number));
                }
            }
            other => return Err(other),
        }
        Ok(())
    }

    pub(crate) fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Callback(callback) => visit.call(callback),
            Self::Loop(waiter) | Self::Coroutine(waiter) => {
                visit.call(&waiter.event_loop)?;
                visit.call(&waiter.future)
            }
            Self::Gather(gather, _) => visit.call(gather),
            Self::Thread(_) | Self::Mailbox(..) | Self::Progress(_) => Ok(()),
        }
    }
}

/// Calls a done callback; what it raises is logged, as `concurrent.futures` does.
pub(crate) fn call_back(callback: &Bound<'_, PyAny>, future: &Bound<'_, Future>) {
    if let Err(error) = callback.call1((future,)) {
        let shown = future.repr().map(|text| text.to_string()).unwrap_or_default();
        let message = format!("exception calling callback for {shown}");
        crate::error::log_exception(future.py(), "error", &message, &error);
    }
}

/// Threads to wake, when the caller is ready for them to run.
///
/// A woken thread asks for the interpreter at once; a worker that is about to detach anyway wakes it after that,
/// so that it does not wait twice.
#[derive(Default)]
pub(crate) struct Wakes(Vec<Arc<Parker>>);

impl Wakes {
    pub(crate) fn add(&mut self, parker: Arc<Parker>) {
        self.0.push(parker);
    }

    /// Wakes them.
    pub(crate) fn flush(&mut self) {
        for parker in self.0.drain(..) {
            parker.unpark();
        }
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Who empties a mailbox.
enum Reader {
    Thread(Arc<Parker>),
    Loop(LoopWaiter),
}

#[derive(Default)]
struct Letters {
    numbers: VecDeque<u64>,
    reader: Option<Reader>,
}

/// The numbers of settled futures, in the order in which they were settled, for one reader.
#[derive(Default)]
pub(crate) struct Mailbox(Mutex<Letters>);

impl Mailbox {
    fn letters(&self) -> MutexGuard<'_, Letters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, py: Python<'_>, number: u64, wakes: &mut Wakes) {
        let reader = {
            let mut letters = self.letters();
            letters.numbers.push_back(number);
            letters.reader.take()
        };
        match reader {
            Some(Reader::Thread(parker)) => wakes.add(parker),
            Some(Reader::Loop(waiter)) => waiter.call_soon(bridge::wake_function(py)),
            None => {}
        }
    }

    /// Puts a number without the interpreter; `false` if an asyncio task reads this mailbox.
    pub(crate) fn put_detached(&self, number: u64, wakes: &mut Wakes) -> bool {
        let mut letters = self.letters();
        if matches!(letters.reader, Some(Reader::Loop(_))) {
            return false;
        }
        letters.numbers.push_back(number);
        if let Some(Reader::Thread(parker)) = letters.reader.take() {
            wakes.add(parker);
        }
        true
    }

    /// Takes the next number.
    pub(crate) fn take(&self) -> Option<u64> {
        self.letters().numbers.pop_front()
    }

    /// Takes the next number, or enrols the thread of `parker` to be woken for one.
    pub(crate) fn take_or_enrol(&self, parker: &Arc<Parker>) -> Option<u64> {
        let mut letters = self.letters();
        let number = letters.numbers.pop_front();
        if number.is_some() {
            return number;
        }
        let previous = letters.reader.replace(Reader::Thread(Arc::clone(parker)));
        drop(letters);
        // Outside the lock: a forgotten asyncio future may have anything behind it.
        drop(previous);
        None
    }

    /// Enrols an asyncio future; `false` if there is a number to take already.
    pub(crate) fn enrol_loop(&self, waiter: LoopWaiter) -> bool {
        let mut letters = self.letters();
        if !letters.numbers.is_empty() {
            return false;
        }
        let previous = letters.reader.replace(Reader::Loop(waiter));
        drop(letters);
        drop(previous);
        true
    }
}
