//! Waiting for several futures: `wait` and `as_completed`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use manyhands_engine::clock::Tick;
use manyhands_os::{clock, park};
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::adopt::adopt;
use crate::enter;
use crate::error;
use crate::future::Future;
use crate::waiter::{LoopWaiter, Mailbox, Waiter, Wakes};

/// Futures of which one asks which is settled next.
pub(crate) struct Pending {
    mailbox: Arc<Mailbox>,
    futures: Vec<Py<Future>>,
}

impl Pending {
    fn new(py: Python<'_>, futures: Vec<Py<Future>>) -> Self {
        let mailbox = Arc::<Mailbox>::default();
        for (number, future) in futures.iter().enumerate() {
            enrol(&mailbox, future.bind(py), number as u64);
        }
        Self { mailbox, futures }
    }

    /// Takes back the enrolment of those that are not settled.
    fn forget(&self, py: Python<'_>) {
        for future in &self.futures {
            future.bind(py).get().unsubscribe(
                |waiter| matches!(waiter, Waiter::Mailbox(mailbox, _) if Arc::ptr_eq(mailbox, &self.mailbox)),
            );
        }
    }
}

/// Has `number` put into the mailbox when `future` is settled, at once if it is.
pub(crate) fn enrol(mailbox: &Arc<Mailbox>, future: &Bound<'_, Future>, number: u64) {
    if future.get().subscribe(Waiter::Mailbox(Arc::clone(mailbox), number)).is_err() {
        mailbox.put(future.py(), number, &mut Wakes::default());
    }
}

/// The number of the next settled future; `None` if `deadline` came first.
pub(crate) fn next_number(
    py: Python<'_>,
    mailbox: &Mailbox,
    deadline: Option<Tick>,
) -> PyResult<Option<u64>> {
    if let Some(number) = mailbox.take() {
        return Ok(Some(number));
    }
    let parker = park::mine();
    let number = std::cell::Cell::new(None);
    enter::wait_until(py, &parker, deadline, || {
        number.set(mailbox.take_or_enrol(&parker));
        number.get().is_some()
    })?;
    Ok(number.get())
}

/// Wait until as many of `futures` are settled as `return_when` asks; return the positions of those that are.
#[pyfunction]
pub(crate) fn wait_for(
    py: Python<'_>,
    futures: &Bound<'_, PyList>,
    timeout: Option<f64>,
    return_when: &str,
) -> PyResult<Vec<u64>> {
    let adopted = futures.iter().map(|future| Ok(adopt(&future)?.unbind())).collect::<PyResult<Vec<_>>>()?;
    let is_enough: fn(&Future) -> bool = match return_when {
        "ALL_COMPLETED" => |_| false,
        "FIRST_COMPLETED" => |_| true,
        "FIRST_EXCEPTION" => Future::has_failed,
        _ => {
            return Err(PyValueError::new_err(format!(
                "could not wait: found return_when={return_when:?}, expected ALL_COMPLETED, FIRST_COMPLETED or \
                 FIRST_EXCEPTION"
            )));
        }
    };
    let deadline = enter::deadline(timeout)?;
    let pending = Pending::new(py, adopted);
    let waited = wait_while(py, &pending, deadline, is_enough);
    pending.forget(py);
    waited
}

fn wait_while(
    py: Python<'_>,
    pending: &Pending,
    deadline: Option<Tick>,
    is_enough: fn(&Future) -> bool,
) -> PyResult<Vec<u64>> {
    let mut settled = Vec::new();
    let mut enough = false;
    while settled.len() < pending.futures.len() {
        // Those that are settled already are all reported, as the standard library does.
        let next = if enough { pending.mailbox.take() } else { next_number(py, &pending.mailbox, deadline)? };
        let Some(number) = next else { break };
        enough |=
            usize::try_from(number).is_ok_and(|position| is_enough(pending.futures[position].bind(py).get()));
        settled.push(number);
    }
    Ok(settled)
}

/// A future that `as_completed` was given, and ours that stands for it.
struct Awaited {
    original: Py<PyAny>,
    adopted: Py<Future>,
}

/// What has not been handed out, by position. What has been is let go at once: its value may be large.
struct Left {
    futures: Vec<Option<Awaited>>,
    count: usize,
}

/// The futures of `as_completed`, in the order in which they are settled.
#[pyclass(frozen, subclass, generic, module = "manyhands._core")]
pub(crate) struct Completed {
    mailbox: Arc<Mailbox>,
    left: Mutex<Left>,
    total: usize,
    deadline: Option<Tick>,
}

impl Completed {
    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_out(&self, number: u64) -> Option<Py<PyAny>> {
        let position = usize::try_from(number).ok()?;
        let awaited = {
            let mut left = self.left();
            let awaited = left.futures.get_mut(position)?.take()?;
            left.count -= 1;
            awaited
        };
        Some(awaited.original)
    }

    fn gave_up(&self, py: Python<'_>) -> PyErr {
        let message = format!("{} (of {}) futures unfinished", self.left().count, self.total);
        error::error(error::timeout_error(py), message)
    }
}

#[pymethods]
impl Completed {
    #[new]
    fn new(py: Python<'_>, futures: Vec<Py<PyAny>>, timeout: Option<f64>) -> PyResult<Self> {
        let deadline = enter::deadline(timeout)?;
        let adopted = futures
            .iter()
            .map(|future| Ok(adopt(future.bind(py))?.unbind()))
            .collect::<PyResult<Vec<_>>>()?;
        let Pending { mailbox, futures: adopted } = Pending::new(py, adopted);
        let total = futures.len();
        let pairs = futures.into_iter().zip(adopted);
        let futures = pairs.map(|(original, adopted)| Some(Awaited { original, adopted })).collect();
        Ok(Self { mailbox, left: Mutex::new(Left { futures, count: total }), total, deadline })
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        if self.left().count == 0 {
            return Ok(None);
        }
        match next_number(py, &self.mailbox, self.deadline)? {
            Some(number) => Ok(self.hand_out(number)),
            None => Err(self.gave_up(py)),
        }
    }

    /// Return the next settled future without waiting: None if there is none now.
    ///
    /// Raises:
    ///     concurrent.futures.TimeoutError: There is none, and the time is up.
    fn take(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        match self.mailbox.take() {
            Some(number) => Ok(self.hand_out(number)),
            None if self.deadline.is_some_and(|deadline| clock::now() >= deadline) => Err(self.gave_up(py)),
            None => Ok(None),
        }
    }

    /// How many seconds are left, or None for any number.
    fn seconds_left(&self) -> Option<f64> {
        self.deadline.map(|deadline| (deadline - clock::now()).as_secs_f64())
    }

    /// How many futures have not been handed out.
    fn __len__(&self) -> usize {
        self.left().count
    }

    /// Have `future` of `event_loop` woken for the next settled future; False if there is one already.
    fn enrol_loop(&self, event_loop: Py<PyAny>, future: Py<PyAny>) -> bool {
        self.mailbox.enrol_loop(LoopWaiter { event_loop, future })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.left().futures.iter().flatten().try_for_each(|awaited| {
            visit.call(&awaited.original)?;
            visit.call(&awaited.adopted)
        })
    }
}

impl Drop for Completed {
    fn drop(&mut self) {
        let futures = std::mem::take(&mut self.left().futures);
        let futures = futures.into_iter().flatten().map(|awaited| awaited.adopted).collect();
        error::put_aside(|py| Pending { mailbox: Arc::clone(&self.mailbox), futures }.forget(py));
    }
}
