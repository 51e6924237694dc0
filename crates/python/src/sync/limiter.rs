//! `manyhands.sync.RateLimiter`.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_engine::line::Ticket;
use manyhands_engine::pacer::{Pacer, Turn};
use manyhands_engine::rate::Rate;
use manyhands_os::clock;
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::awaiting::{Awaiting, Done, Operation, boolean};
use super::patience::Patience;
use super::waiting::{Entered, Waitable, Waiter, block};
use super::who::Generation;
use crate::{enter, policy};

/// Lets threads and asyncio tasks go on so many times in so many seconds, in the order in which they come.
///
/// ``with``, ``acquire``, ``async with`` and ``aacquire`` wait until it is one's time; nothing is given back. In no span of
/// time do more than ``burst + span * rate / per`` go on, and whoever is there takes every chance: the rate does not drift.
/// Who gives up waiting lets those behind him move up.
///
/// Args:
///     rate: How many may go on in `per` seconds (a number above 0); or a text, as the ``rate`` of a `Policy`:
///         "100/s", "6/m", "1000/h burst 20".
///     per: Seconds (float > 0); 1 unless `rate` is a text.
///     burst: How many may go on at once after a pause (int ≥ 1). By default 1: an even rate, one every ``per / rate`` seconds.
///
/// Raises:
///     ValueError: The rate, `per` or `burst` is not above 0, or cannot be read.
///
/// Thread safety: every method may be called from any thread, and from any event loop.
///
/// Example:
///     >>> from manyhands.sync import RateLimiter
///     >>> limiter = RateLimiter(1, per=60, burst=2)
///     >>> with limiter:
///     ...     limiter.try_acquire(), limiter.try_acquire()
///     (True, False)
///     >>> limiter.acquire(timeout=0.001)
///     False
///     >>> limiter
///     RateLimiter('1/m burst 2')
///
/// Source: the generic cell rate algorithm of ITU-T recommendation I.371, in whole numbers.
#[pyclass(frozen, subclass, weakref, module = "manyhands.sync")]
pub(crate) struct RateLimiter {
    pacer: Pacer<Waiter>,
    rate: Rate,
    generation: Generation,
}

impl RateLimiter {
    /// The pacer, without those whom a fork left behind.
    fn pacer(&self) -> &Pacer<Waiter> {
        if self.generation.has_passed() {
            drop(self.pacer.dismiss(Waiter::is_gone));
        }
        &self.pacer
    }

    fn try_pass(&self, py: Python<'_>) -> bool {
        let (passes, wakes) = self.pacer().try_pass(clock::now());
        self.wake(py, wakes);
        passes
    }

    /// Wakes those who have passed, or are to look again. Who cannot be woken leaves when his coroutine is thrown away; until
    /// then his time passes unused.
    #[expect(clippy::unused_self, reason = "as with every other primitive")]
    fn wake(&self, py: Python<'_>, wakes: Vec<Waiter>) {
        for waiter in wakes {
            let _ = waiter.wake(py);
        }
    }

    fn told(&self, py: Python<'_>, (turn, wakes): (Turn, Vec<Waiter>)) -> Turn {
        self.wake(py, wakes);
        turn
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> Turn {
        let told = self.pacer().enter(clock::now(), waiter);
        self.told(py, told)
    }

    fn poll(&self, py: Python<'_>, ticket: Ticket) -> Turn {
        let told = self.pacer().poll(clock::now(), ticket);
        self.told(py, told)
    }

    /// Takes somebody out of the line; `true` if he had passed.
    fn leave(&self, py: Python<'_>, ticket: Ticket) -> bool {
        let (has_passed, wakes) = self.pacer().leave(clock::now(), ticket);
        self.wake(py, wakes);
        has_passed
    }

    /// Takes somebody out of the line who has no use for it if he has passed.
    fn give_up(&self, py: Python<'_>, ticket: Ticket) {
        if self.leave(py, ticket) {
            self.give_back(py, ticket);
        }
    }

    fn give_back(&self, py: Python<'_>, ticket: Ticket) {
        let wakes = self.pacer().give_back(clock::now(), ticket);
        self.wake(py, wakes);
    }

    fn pass(&self, py: Python<'_>, patience: &Patience) -> PyResult<bool> {
        match patience {
            _ if self.try_pass(py) => Ok(true),
            Patience::None => Ok(false),
            patience => {
                let time = Time { limiter: self, due: Cell::new(Tick::NEVER) };
                Ok(block(py, &time, patience.deadline())?.is_some())
            }
        }
    }
}

/// A thread's wait for its time. Whoever came out of the line has his ticket, to give it back with.
struct Time<'l> {
    limiter: &'l RateLimiter,
    due: Cell<Tick>,
}

impl Waitable for Time<'_> {
    type Gain = Option<Ticket>;

    fn try_now(&self, py: Python<'_>) -> PyResult<Option<Self::Gain>> {
        Ok(self.limiter.try_pass(py).then_some(None))
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<Self::Gain>> {
        Ok(match self.limiter.enter(py, waiter) {
            Turn::Passes => Entered::Through(None),
            Turn::Waits(ticket, due) => {
                self.due.set(due);
                Entered::Waits(ticket)
            }
        })
    }

    fn poll(&self, py: Python<'_>, ticket: Ticket) -> PyResult<Option<Self::Gain>> {
        Ok(match self.limiter.poll(py, ticket) {
            Turn::Passes => Some(Some(ticket)),
            Turn::Waits(_, due) => {
                self.due.set(due);
                None
            }
        })
    }

    fn leave(&self, py: Python<'_>, ticket: Ticket) -> Option<Self::Gain> {
        self.limiter.leave(py, ticket).then_some(Some(ticket))
    }

    fn give_back(&self, py: Python<'_>, ticket: Self::Gain) {
        if let Some(ticket) = ticket {
            self.limiter.give_back(py, ticket);
        }
    }

    fn looks_at(&self) -> Option<Tick> {
        Some(self.due.get())
    }
}

fn read(rate: &Bound<'_, PyAny>, per: Option<f64>, burst: Option<isize>) -> PyResult<Rate> {
    if rate.extract::<String>().is_ok() {
        if per.is_some() || burst.is_some() {
            return Err(PyValueError::new_err(
                "could not set rate: found a text and `per` or `burst`, expected one of them; \"100/10s burst 5\" says all",
            ));
        }
        return policy::read_rate(rate);
    }
    let mut read = policy::read_rate(rate)?;
    if let Some(per) = per {
        let factor = enter::seconds("per", per)?;
        let whole = rate.extract::<u32>().ok();
        let length = match whole {
            Some(calls) => {
                read.calls = calls;
                Some(factor)
            }
            None => Duration::try_from_secs_f64(read.per.as_secs_f64() * per).ok(),
        };
        read.per = length.filter(|length| !length.is_zero()).ok_or_else(|| {
            PyValueError::new_err(format!("could not use `per`: found {per}, expected more than 0 seconds"))
        })?;
    }
    if let Some(burst) = burst {
        read.burst = u32::try_from(burst).ok().filter(|burst| *burst > 0).ok_or_else(|| {
            PyValueError::new_err(format!("could not use `burst`: found {burst}, expected 1 or more"))
        })?;
    }
    Ok(read)
}

#[pymethods]
impl RateLimiter {
    #[new]
    #[pyo3(signature = (rate, per=None, burst=None), text_signature = "(rate, per=1.0, burst=1)")]
    fn new(rate: &Bound<'_, PyAny>, per: Option<f64>, burst: Option<isize>) -> PyResult<Self> {
        let rate = read(rate, per, burst)?;
        Ok(Self { pacer: Pacer::new(rate), rate, generation: Generation::new() })
    }

    /// Wait until it is one's time; return False if `timeout` seconds were too short for that.
    ///
    /// Args:
    ///     timeout: Seconds to wait at most; None waits for ever.
    #[pyo3(signature = (timeout=None))]
    fn acquire(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        self.pass(py, &Patience::seconds(timeout)?)
    }

    /// Go on if that is allowed now, and nobody waits; return whether it is.
    fn try_acquire(&self, py: Python<'_>) -> bool {
        self.try_pass(py)
    }

    /// Wait until it is one's time, as a coroutine; awaiting it gives True.
    fn aacquire(slf: Py<Self>) -> Awaiting {
        AwaitTime::of(slf, true)
    }

    /// How many wait.
    #[getter]
    fn waiting(&self) -> usize {
        self.pacer().waiting()
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<()> {
        self.pass(py, &Patience::Endless).map(drop)
    }

    #[expect(clippy::unused_self, reason = "a slot")]
    #[pyo3(signature = (_kind=None, _value=None, _traceback=None))]
    fn __exit__(
        &self,
        _kind: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) {
    }

    fn __aenter__(slf: Py<Self>) -> Awaiting {
        AwaitTime::of(slf, false)
    }

    #[expect(clippy::unused_self, reason = "a slot")]
    #[pyo3(signature = (_kind=None, _value=None, _traceback=None))]
    fn __aexit__(
        &self,
        _kind: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> Done {
        Done
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        Ok(format!("{}('{}')", slf.get_type().qualname()?, slf.get().rate))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let mut result = Ok(());
        self.pacer.for_each_waiter(|waiter| {
            if result.is_ok() {
                result = waiter.traverse(&visit);
            }
        });
        result
    }
}

/// A task's wait for its time, with a timer of its event loop.
struct AwaitTime {
    limiter: Py<RateLimiter>,
    says_yes: bool,
    timer: Mutex<Option<Py<PyAny>>>,
}

impl AwaitTime {
    fn of(limiter: Py<RateLimiter>, says_yes: bool) -> Awaiting {
        Awaiting::new(Box::new(Self { limiter, says_yes, timer: Mutex::new(None) }))
    }

    fn timer(&self) -> MutexGuard<'_, Option<Py<PyAny>>> {
        self.timer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has another timer in place of the one that there is.
    fn set_timer(&self, py: Python<'_>, timer: Option<Py<PyAny>>) {
        let previous = std::mem::replace(&mut *self.timer(), timer);
        if let Some(timer) = previous {
            // Of a loop that is being torn down it may fail; a timer that rings for nothing harms nobody.
            let _ = timer.call_method0(py, pyo3::intern!(py, "cancel"));
        }
    }

    fn answer(&self, py: Python<'_>) -> Py<PyAny> {
        if self.says_yes { boolean(py, true) } else { py.None() }
    }

    fn told(&self, py: Python<'_>, turn: Turn, waiter: &Waiter) -> PyResult<Entered<Py<PyAny>>> {
        match turn {
            Turn::Passes => {
                self.set_timer(py, None);
                Ok(Entered::Through(self.answer(py)))
            }
            Turn::Waits(ticket, until) => {
                let timer = waiter.wake_after(py, until - clock::now());
                let timer = timer.inspect_err(|_| self.leave(py, ticket))?;
                self.set_timer(py, timer);
                Ok(Entered::Waits(ticket))
            }
        }
    }
}

impl Operation for AwaitTime {
    fn try_now(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        Ok(self.limiter.get().try_pass(py).then(|| self.answer(py)))
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        let turn = self.limiter.get().enter(py, waiter.clone());
        self.told(py, turn, &waiter)
    }

    fn poll(&self, py: Python<'_>, ticket: Ticket, waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        let turn = self.limiter.get().poll(py, ticket);
        self.told(py, turn, &waiter)
    }

    fn leave(&self, py: Python<'_>, ticket: Ticket) {
        self.set_timer(py, None);
        self.limiter.get().give_up(py, ticket);
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.limiter)?;
        self.timer().as_ref().map_or(Ok(()), |timer| visit.call(timer))
    }
}
