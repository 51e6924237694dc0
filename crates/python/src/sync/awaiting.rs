//! `_core.Awaiting`: what the methods for coroutines return. It waits for a primitive as an asyncio task.
//!
//! It does nothing before it is awaited, has the methods of a coroutine, so that `asyncio.create_task` takes it, and
//! needs no event loop as long as it need not wait.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use manyhands_engine::line::Ticket;
use pyo3::PyClass;
use pyo3::exceptions::{PyBaseException, PyRuntimeError, PyStopIteration, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::types::{PyBool, PyTuple, PyType};

use crate::error;
use crate::native;

use super::queue::{AwaitGet, AwaitPut};
use super::waiting::{Entered, TaskPlace, Waitable, Waiter, running_loop};

/// What a task waits for, step by step.
pub(crate) trait Operation: Send + Sync {
    /// Gets through if that needs no waiting.
    fn try_now(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>>;

    /// Gets through, or waits.
    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<Py<PyAny>>>;

    /// Looks, after a wake-up, whether it gets through now; it may wait for something else from now on.
    fn poll(&self, py: Python<'_>, ticket: Ticket, waiter: Waiter) -> PyResult<Entered<Py<PyAny>>>;

    /// Gives up, at once.
    fn leave(&self, py: Python<'_>, ticket: Ticket);

    /// Gives up because of an exception; `Some` if there is something to wait for before it may be raised.
    fn thrown(&self, py: Python<'_>, ticket: Ticket, _waiter: Waiter) -> PyResult<Option<Ticket>> {
        self.leave(py, ticket);
        Ok(None)
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError>;
}

/// Waits for `part` of the Python object `owner`; what it gains becomes what the coroutine gets.
pub(crate) struct On<P: PyClass, T: Waitable> {
    pub(crate) owner: Py<P>,
    pub(crate) part: fn(&P) -> &T,
    pub(crate) gained: fn(Python<'_>, T::Gain) -> Py<PyAny>,
}

impl<P: PyClass<Frozen = True> + Send + Sync, T: Waitable> On<P, T> {
    fn part(&self) -> &T {
        (self.part)(self.owner.get())
    }
}

impl<P: PyClass<Frozen = True> + Send + Sync, T: Waitable> Operation for On<P, T> {
    fn try_now(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        Ok(self.part().try_now(py)?.map(|gain| (self.gained)(py, gain)))
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        Ok(match self.part().enter(py, waiter)? {
            Entered::Through(gain) => Entered::Through((self.gained)(py, gain)),
            Entered::Waits(ticket) => Entered::Waits(ticket),
        })
    }

    fn poll(&self, py: Python<'_>, ticket: Ticket, _waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        Ok(match self.part().poll(py, ticket)? {
            Some(gain) => Entered::Through((self.gained)(py, gain)),
            None => Entered::Waits(ticket),
        })
    }

    fn leave(&self, py: Python<'_>, ticket: Ticket) {
        if let Some(gain) = self.part().leave(py, ticket) {
            self.part().give_back(py, gain);
        }
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.owner)
    }
}

/// Makes the awaitable for a simple wait; see [`On`].
pub(crate) fn awaiting<P: PyClass<Frozen = True> + Send + Sync, T: Waitable + 'static>(
    owner: Py<P>,
    part: fn(&P) -> &T,
    gained: fn(Python<'_>, T::Gain) -> Py<PyAny>,
) -> Awaiting {
    Awaiting::new(Box::new(On { owner, part, gained }))
}

/// What a coroutine gets that asked whether it may.
pub(crate) fn yes(py: Python<'_>, (): ()) -> Py<PyAny> {
    boolean(py, true)
}

pub(crate) fn boolean(py: Python<'_>, value: bool) -> Py<PyAny> {
    PyBool::new(py, value).to_owned().into_any().unbind()
}

/// What a coroutine gets that only waited.
pub(crate) fn nothing(py: Python<'_>, (): ()) -> Py<PyAny> {
    py.None()
}

/// Small, for most coroutines never wait.
enum State {
    New,
    Waits(Box<Wait>),
    Over,
}

struct Wait {
    ticket: Ticket,
    place: Arc<TaskPlace>,
    /// To be raised when it is over.
    error: Option<PyErr>,
}

/// What a step of a coroutine comes to.
enum Next {
    Yielded(Py<PyAny>),
    Returned(Py<PyAny>),
}

/// Waits for a primitive when it is awaited.
#[pyclass(frozen, module = "manyhands._core")]
pub(crate) struct Awaiting {
    work: Work,
    state: Mutex<State>,
}

/// What is awaited. An item of a queue needs no memory of its own, for that is awaited by far the most often.
pub(crate) enum Work {
    Get(AwaitGet),
    Put(AwaitPut),
    Other(Box<dyn Operation>),
}

impl Awaiting {
    pub(crate) fn new(operation: Box<dyn Operation>) -> Self {
        Self::of(Work::Other(operation))
    }

    #[inline]
    pub(crate) fn of(work: Work) -> Self {
        Self { work, state: Mutex::new(State::New) }
    }

    #[inline]
    fn operation(&self) -> &dyn Operation {
        match &self.work {
            Work::Get(operation) => operation,
            Work::Put(operation) => operation,
            Work::Other(operation) => &**operation,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_state(&self) -> State {
        std::mem::replace(&mut *self.state(), State::Over)
    }

    fn step(&self, py: Python<'_>) -> PyResult<Next> {
        match self.take_state() {
            State::New => self.begin(py),
            State::Waits(wait) => self.resume(py, *wait),
            State::Over => Err(PyRuntimeError::new_err("cannot reuse already awaited coroutine")),
        }
    }

    fn begin(&self, py: Python<'_>) -> PyResult<Next> {
        if let Some(gained) = self.operation().try_now(py)? {
            return Ok(Next::Returned(gained));
        }
        let event_loop = running_loop(py)?;
        if event_loop.is_none() {
            return Err(PyRuntimeError::new_err("no running event loop"));
        }
        let future = new_future(&event_loop)?;
        let place = TaskPlace::new(event_loop.unbind(), future.clone_ref(py));
        match self.operation().enter(py, Waiter::task(py, &place))? {
            Entered::Through(gained) => Ok(Next::Returned(gained)),
            Entered::Waits(ticket) => self.wait(py, Wait { ticket, place, error: None }, future),
        }
    }

    fn resume(&self, py: Python<'_>, Wait { ticket, place, error }: Wait) -> PyResult<Next> {
        let over = |gained| {
            place.ending.by_himself();
            error.as_ref().map_or(Ok(Next::Returned(gained)), |error| Err(error.clone_ref(py)))
        };
        if place.ending.is_for_him() {
            return Err(PyRuntimeError::new_err("Event loop is closed"));
        }
        let ticket = match self.poll(py, ticket, &place)? {
            Entered::Through(gained) => return over(gained),
            Entered::Waits(ticket) => ticket,
        };
        // A wake-up may have come for the old future already; with the new one in its place, another look.
        let future = new_future(place.event_loop().bind(py))?;
        place.renew(future.clone_ref(py));
        match self.poll(py, ticket, &place)? {
            Entered::Through(gained) => over(gained),
            Entered::Waits(ticket) => self.wait(py, Wait { ticket, place, error }, future),
        }
    }

    fn poll(&self, py: Python<'_>, ticket: Ticket, place: &Arc<TaskPlace>) -> PyResult<Entered<Py<PyAny>>> {
        let polled = self.operation().poll(py, ticket, Waiter::task(py, place));
        if polled.is_err() && place.ending.by_himself() {
            self.operation().leave(py, ticket);
        }
        polled
    }

    /// Gives the future to the event loop, as a coroutine does that awaits it.
    fn wait(&self, py: Python<'_>, wait: Wait, future: Py<PyAny>) -> PyResult<Next> {
        *self.state() = State::Waits(Box::new(wait));
        future.setattr(py, pyo3::intern!(py, "_asyncio_future_blocking"), true)?;
        Ok(Next::Yielded(future))
    }

    fn abandon(&self, py: Python<'_>) {
        if let State::Waits(wait) = self.take_state()
            && wait.place.ending.by_himself()
        {
            self.operation().leave(py, wait.ticket);
        }
    }
}

fn new_future(event_loop: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    event_loop.call_method0(pyo3::intern!(event_loop.py(), "create_future")).map(Bound::unbind)
}

/// Whether `StopIteration` would take it for its arguments, or for itself.
fn is_ambiguous(value: &Bound<'_, PyAny>) -> bool {
    value.is_instance_of::<PyTuple>() || value.is_instance_of::<PyBaseException>()
}

/// How a coroutine says what it returns.
fn returned(value: Py<PyAny>) -> PyErr {
    PyStopIteration::new_err((value,))
}

/// The exception that `throw` was given, in any of the three ways.
fn thrown(kind: &Bound<'_, PyAny>, value: Option<Bound<'_, PyAny>>) -> PyErr {
    match (kind.cast::<PyType>(), value) {
        (Ok(_), Some(value)) if !value.is_none() && value.is_instance(kind).unwrap_or(false) => {
            PyErr::from_value(value)
        }
        (Ok(kind), Some(value)) if !value.is_none() => PyErr::from_type(kind.clone(), (value.unbind(),)),
        (Ok(kind), _) => PyErr::from_type(kind.clone(), ()),
        (Err(_), _) if kind.is_instance_of::<PyBaseException>() => PyErr::from_value(kind.clone()),
        (Err(_), _) => {
            PyTypeError::new_err("exceptions must be classes or instances deriving from BaseException")
        }
    }
}

#[pymethods]
impl Awaiting {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        match self.step(py)? {
            Next::Yielded(future) => Ok(Some(future)),
            // The end of an iterator needs no exception.
            Next::Returned(value) if value.is_none(py) => Ok(None),
            Next::Returned(value) if is_ambiguous(value.bind(py)) => Err(returned(value)),
            Next::Returned(value) => {
                native::stop_with(value.bind(py));
                Ok(None)
            }
        }
    }

    fn send(&self, py: Python<'_>, _value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        match self.step(py)? {
            Next::Yielded(future) => Ok(future),
            Next::Returned(value) => Err(returned(value)),
        }
    }

    #[pyo3(signature = (kind, value=None, _traceback=None))]
    fn throw(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let error = thrown(kind, value);
        let State::Waits(wait) = self.take_state() else { return Err(error) };
        let Wait { ticket, place, error: earlier } = *wait;
        if place.ending.is_for_him() {
            return Err(error);
        }
        let future = new_future(place.event_loop().bind(py))?;
        place.renew(future.clone_ref(py));
        match self.operation().thrown(py, ticket, Waiter::task(py, &place))? {
            None => {
                place.ending.by_himself();
                Err(earlier.unwrap_or(error))
            }
            Some(ticket) => {
                let error = Some(earlier.unwrap_or(error));
                self.wait(py, Wait { ticket, place, error }, future.clone_ref(py))?;
                Ok(future)
            }
        }
    }

    fn close(&self, py: Python<'_>) {
        self.abandon(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.operation().traverse(&visit)
    }
}

/// An awaitable for what is done already: awaiting it gives None.
#[pyclass(frozen, module = "manyhands._core")]
pub(crate) struct Done;

#[pymethods]
impl Done {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[expect(clippy::unused_self, reason = "a slot")]
    fn __next__(&self) -> Option<Py<PyAny>> {
        None
    }
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        if matches!(self.state.get_mut(), Ok(State::Waits(..))) {
            error::put_aside(|py| self.abandon(py));
        }
    }
}
