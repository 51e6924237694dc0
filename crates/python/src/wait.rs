//! Waiting for several futures: `wait` and `as_completed`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use manyhands_engine::clock::Tick;
use manyhands_os::park;
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

/// The futures of `as_completed`, in the order in which they are settled.
#[pyclass(frozen, subclass, generic, module = "manyhands._core")]
pub(crate) struct Completed {
    mailbox: Arc<Mailbox>,
    originals: Mutex<Vec<Option<Py<PyAny>>>>,
    adopted: Vec<Py<Future>>,
    deadline: Option<Tick>,
}

impl Completed {
    fn originals(&self) -> MutexGuard<'_, Vec<Option<Py<PyAny>>>> {
        self.originals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_out(&self, number: Option<u64>) -> Option<Py<PyAny>> {
        let position = usize::try_from(number?).ok()?;
        self.originals().get_mut(position)?.take()
    }

    fn unfinished(&self) -> usize {
        self.originals().iter().filter(|original| original.is_some()).count()
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
        let pending = Pending::new(py, adopted);
        let originals = Mutex::new(futures.into_iter().map(Some).collect());
        Ok(Self { mailbox: pending.mailbox, originals, adopted: pending.futures, deadline })
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let left = self.unfinished();
        if left == 0 {
            return Ok(None);
        }
        match next_number(py, &self.mailbox, self.deadline)? {
            Some(number) => Ok(self.hand_out(Some(number))),
            None => Err(error::error(
                error::timeout_error(py),
                format!("{left} (of {}) futures unfinished", self.adopted.len()),
            )),
        }
    }

    /// Return the next settled future without waiting: None if there is none now.
    fn take(&self) -> Option<Py<PyAny>> {
        self.hand_out(self.mailbox.take())
    }

    /// How many futures have not been handed out.
    fn __len__(&self) -> usize {
        self.unfinished()
    }

    /// Have `future` of `event_loop` woken for the next settled future; False if there is one already.
    fn enrol_loop(&self, event_loop: Py<PyAny>, future: Py<PyAny>) -> bool {
        self.mailbox.enrol_loop(LoopWaiter { event_loop, future })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.originals().iter().try_for_each(|original| visit.call(original))?;
        self.adopted.iter().try_for_each(|future| visit.call(future))
    }
}

impl Drop for Completed {
    fn drop(&mut self) {
        Python::try_attach(|py| {
            Pending { mailbox: Arc::clone(&self.mailbox), futures: std::mem::take(&mut self.adopted) }
                .forget(py);
        });
    }
}
