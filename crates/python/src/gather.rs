//! Several futures as one: `gather` (all their values) and `race` (the first value).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use manyhands_os::clock;
use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyTuple, PyType};

use crate::adopt::adopt;
use crate::enter;
use crate::error;
use crate::future::{Future, Outcome};
use crate::timers::{self, Alarm, Watched};
use crate::waiter::{Waiter, Wakes};

/// The position by which a group's own future is enrolled with the group.
const TARGET: usize = usize::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A list of all values; the first failure fails it.
    All,
    /// A list of all values and exceptions.
    Everything,
    /// The first value; fails when all have failed, and cancels the rest when it is settled.
    First,
}

/// The members of a `gather` or a `race`, and the future of the whole.
#[pyclass(frozen, module = "manyhands._core")]
pub(crate) struct Gather {
    mode: Mode,
    members: Vec<Py<Future>>,
    target: Py<Future>,
    remaining: AtomicUsize,
    watched: Mutex<Option<Watched>>,
}

/// One of the futures; whoever gives them all in one list is told how to spread it.
fn member<'py>(given: &Bound<'py, PyAny>, mode: Mode) -> PyResult<Bound<'py, Future>> {
    let py = given.py();
    let is_future =
        given.is_instance_of::<Future>() || given.hasattr(pyo3::intern!(py, "add_done_callback"))?;
    if is_future || !given.hasattr(pyo3::intern!(py, "__iter__"))? {
        return adopt(given);
    }
    let name = if mode == Mode::First { "race" } else { "gather" };
    let kind = given.get_type().name()?;
    Err(PyTypeError::new_err(format!(
        "could not {name}: found a {kind}, expected futures\nhint: {name}(*futures)"
    )))
}

impl Gather {
    fn start<'py>(
        py: Python<'py>,
        futures: &Bound<'py, PyTuple>,
        mode: Mode,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, Future>> {
        let members =
            futures.iter().map(|future| Ok(member(&future, mode)?.unbind())).collect::<PyResult<Vec<_>>>()?;
        let target = Future::create(py)?;
        if members.is_empty() {
            let empty = match mode {
                Mode::First => {
                    Err(pyo3::exceptions::PyValueError::new_err("could not race: found no futures"))
                }
                Mode::All | Mode::Everything => Ok(PyList::empty(py).into_any().unbind()),
            };
            let _ = Future::finish(&target, Outcome::of(py, Ok(empty?)), &mut Wakes::default())?;
            return Ok(target);
        }
        let limit = timeout.map(|timeout| enter::seconds("timeout", timeout)).transpose()?;
        let gather = Bound::new(
            py,
            Self {
                mode,
                remaining: AtomicUsize::new(members.len()),
                members,
                target: target.clone().unbind(),
                watched: Mutex::new(None),
            },
        )?;
        Self::enrol(&gather, limit)?;
        Ok(target)
    }

    fn enrol(slf: &Bound<'_, Self>, limit: Option<Duration>) -> PyResult<()> {
        let this = slf.get();
        let py = slf.py();
        let mut wakes = Wakes::default();
        let _ = this.target.bind(py).get().subscribe(Waiter::Gather(slf.clone().unbind(), TARGET));
        for (position, member) in this.members.iter().enumerate() {
            let member = member.bind(py);
            if member.get().subscribe(Waiter::Gather(slf.clone().unbind(), position)).is_err() {
                Self::member_is_settled(slf, member, position, &mut wakes);
            }
        }
        if let Some(limit) = limit {
            let alarm = Alarm::Gather { gather: slf.clone().unbind(), limit };
            let watched = timers::arm(clock::now() + limit, alarm)?;
            *this.watched.lock().unwrap_or_else(PoisonError::into_inner) = Some(watched);
            if this.target.bind(py).get().state().is_done() {
                this.disarm();
            }
        }
        Ok(())
    }

    fn disarm(&self) {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(watched) = watched {
            watched.disarm();
        }
    }

    /// A member, or the whole, was settled.
    pub(crate) fn member_is_settled(
        slf: &Bound<'_, Self>,
        future: &Bound<'_, Future>,
        position: usize,
        wakes: &mut Wakes,
    ) {
        let this = slf.get();
        let settled = if position == TARGET {
            this.disarm();
            if this.mode == Mode::First || future.get().state().is_cancelled() {
                this.cancel_members(slf.py());
            }
            Ok(())
        } else {
            this.take_note(future, wakes)
        };
        if let Err(failure) = settled {
            failure.write_unraisable(slf.py(), Some(slf.as_any()));
        }
    }

    fn take_note(&self, member: &Bound<'_, Future>, wakes: &mut Wakes) -> PyResult<()> {
        let py = member.py();
        let is_last = self.remaining.fetch_sub(1, Ordering::AcqRel) == 1;
        member.get().observe();
        let outcome = member.get().outcome(py).unwrap_or_else(|| Ok(py.None()));
        match (self.mode, outcome) {
            (Mode::First, Ok(value)) => self.finish(py, Ok(value), wakes),
            (Mode::First, Err(_)) if is_last => self.finish(py, Err(self.everybody_failed(py)?), wakes),
            (Mode::All, Err(error)) => self.finish(py, Err(error), wakes),
            (Mode::All | Mode::Everything, _) if is_last => self.finish(py, Ok(self.values(py)?), wakes),
            _ => Ok(()),
        }
    }

    fn finish(&self, py: Python<'_>, result: PyResult<Py<PyAny>>, wakes: &mut Wakes) -> PyResult<()> {
        // A whole that is settled already keeps its outcome.
        let _ = Future::finish(self.target.bind(py), Outcome::of(py, result), wakes)?;
        Ok(())
    }

    fn outcomes<'py>(&self, py: Python<'py>) -> impl Iterator<Item = PyResult<Bound<'py, PyAny>>> {
        self.members.iter().map(move |member| {
            let outcome = member.bind(py).get().outcome(py).unwrap_or_else(|| Ok(py.None()));
            outcome.map(|value| value.into_bound(py))
        })
    }

    fn values(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let values = self.outcomes(py).map(|outcome| match outcome {
            Ok(value) => value,
            Err(error) => error.into_value(py).into_bound(py).into_any(),
        });
        Ok(PyList::new(py, values.collect::<Vec<_>>())?.into_any().unbind())
    }

    fn everybody_failed(&self, py: Python<'_>) -> PyResult<PyErr> {
        let failures = self.outcomes(py).filter_map(|outcome| Some(outcome.err()?.into_value(py)));
        let failures = PyList::new(py, failures.collect::<Vec<_>>())?;
        let group = exception_group(py)?.call1(("every future of the race failed", failures))?;
        Ok(PyErr::from_value(group))
    }

    fn cancel_members(&self, py: Python<'_>) {
        for member in &self.members {
            if let Err(failure) = member.bind(py).call_method0(pyo3::intern!(py, "cancel")) {
                failure.write_unraisable(py, None);
            }
        }
    }

    /// Fails the whole, because it took longer than it may, and cancels its members.
    pub(crate) fn time_out(slf: &Bound<'_, Self>, limit: Duration) -> PyResult<()> {
        let this = slf.get();
        let py = slf.py();
        let name = if this.mode == Mode::First { "race" } else { "gather" };
        let error = error::task_timeout(py)?.call1((name, limit.as_secs_f64()))?;
        this.finish(py, Err(PyErr::from_value(error)), &mut Wakes::default())?;
        this.cancel_members(py);
        Ok(())
    }
}

#[pymethods]
impl Gather {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.target)?;
        self.members.iter().try_for_each(|member| visit.call(member))
    }
}

/// `ExceptionGroup`, the interpreter's or the backport's.
fn exception_group(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, if cfg!(Py_3_11) { "builtins" } else { "exceptiongroup" }, "BaseExceptionGroup")
}

/// Return a future of all values, as a list in the order of `futures`.
///
/// The first failure fails the whole at once; the other members go on. Cancelling the whole cancels its members.
///
/// Args:
///     futures: Futures of ours or of `concurrent.futures`.
///     return_exceptions: Put exceptions into the list instead of failing.
///     timeout: Seconds until the whole fails with `TaskTimeout` and its members are cancelled.
///
/// Raises:
///     TypeError: One of them is not such a future.
///
/// Example:
///     >>> import manyhands as mh
///     >>> with mh.ThreadExecutor() as pool:
///     ...     mh.gather(pool.submit(pow, 2, 3), pool.submit(pow, 3, 2)).result()
///     [8, 9]
#[pyfunction]
#[pyo3(signature = (*futures, return_exceptions = false, timeout = None))]
pub(crate) fn gather<'py>(
    py: Python<'py>,
    futures: &Bound<'py, PyTuple>,
    return_exceptions: bool,
    timeout: Option<f64>,
) -> PyResult<Bound<'py, Future>> {
    Gather::start(py, futures, if return_exceptions { Mode::Everything } else { Mode::All }, timeout)
}

/// Return a future of the first value: the first success wins and the other members are cancelled.
///
/// If all fail, it fails with an `ExceptionGroup` of their exceptions. A function that runs on a thread already is
/// not interrupted, as by `Future.cancel`: it goes on, and its outcome is dropped.
///
/// Args:
///     futures: Futures of ours or of `concurrent.futures`; at least one.
///     timeout: Seconds until the race fails with `TaskTimeout` and its members are cancelled.
///
/// Raises:
///     ValueError: There are no futures.
///     TypeError: One of them is not such a future.
///
/// Example:
///     >>> import time, manyhands as mh
///     >>> with mh.ThreadExecutor(2) as pool:
///     ...     mh.race(pool.submit(max, 1, 2), pool.submit(time.sleep, 0.2)).result()
///     2
#[pyfunction]
#[pyo3(signature = (*futures, timeout = None))]
pub(crate) fn race<'py>(
    py: Python<'py>,
    futures: &Bound<'py, PyTuple>,
    timeout: Option<f64>,
) -> PyResult<Bound<'py, Future>> {
    Gather::start(py, futures, Mode::First, timeout)
}
