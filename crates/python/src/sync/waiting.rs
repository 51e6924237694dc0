//! Waiting for a primitive: the one place that knows how a thread, a green thread and an asyncio task wait, and how each is
//! woken.
//!
//! A primitive keeps a [line](manyhands_engine::line) of [`Waiter`]s and says, as a [`Waitable`], how one gets through
//! and how one gives up; [`block`] and [`Awaiting`](super::awaiting::Awaiting) do the waiting.
//!
//! **No wake-up is lost.** Who gives up (a timeout, a signal's exception, a cancelled task, a coroutine that is thrown
//! away) leaves the line, and what he was given meanwhile goes to the next. Who cannot be woken, because his event loop
//! is closed, is taken to have given up: whoever would have to wake him [ends](Ending) the wait for him, and then he himself
//! does not, whenever what is left of him is thrown away.
//!
//! **Locks.** The lock of a line is held for a few instructions, by an attached thread, and no Python code runs
//! meanwhile, not even an allocation or a `Drop`: so nobody waits for it long, a fork finds it free, and the garbage
//! collector may look at any line.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_engine::deadlock::waits::Manner;
use manyhands_engine::line::Ticket;
use manyhands_engine::permits::{Permits, Wake};
use manyhands_os::clock;
use manyhands_os::park::{self, Parker, Woken};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::hubs::{self, GreenWait};
use super::{detection, who};
use crate::{bridge, enter};

/// Somebody who waits.
#[derive(Clone)]
pub(crate) struct Waiter {
    /// The thread, or the one whose event loop runs the task.
    thread: u64,
    /// The thread or the task, for the detection of deadlocks.
    who: u64,
    manner: Manner,
    place: Place,
}

#[derive(Clone)]
enum Place {
    Thread(Arc<Parker>),
    Green(GreenWait),
    Task(Arc<TaskPlace>),
}

/// Who ends a wait: the one who waits, or, if he cannot be woken, whoever would have to. Only one of them gives on what
/// he was given.
#[derive(Default)]
pub(crate) struct Ending(AtomicU8);

const OPEN: u8 = 0;
const BY_HIMSELF: u8 = 1;
const FOR_HIM: u8 = 2;

impl Ending {
    /// Ends it as the one who waits; `false` if it was ended for him.
    pub(crate) fn by_himself(&self) -> bool {
        self.end(BY_HIMSELF).map_or_else(|found| found == BY_HIMSELF, |_| true)
    }

    /// Ends it for one who cannot be woken; `false` if it is over already, so that nothing is to be done for him.
    fn for_him(&self) -> bool {
        self.end(FOR_HIM).is_ok()
    }

    /// Whether it was ended for him, so that he has no place any more.
    pub(crate) fn is_for_him(&self) -> bool {
        self.0.load(Ordering::Acquire) == FOR_HIM
    }

    fn end(&self, how: u8) -> Result<u8, u8> {
        self.0.compare_exchange(OPEN, how, Ordering::AcqRel, Ordering::Acquire)
    }
}

/// Where a task waits.
pub(crate) struct TaskPlace {
    pub(crate) ending: Ending,
    event_loop: Py<PyAny>,
    /// The asyncio future that it awaits at present.
    future: Mutex<Py<PyAny>>,
}

impl TaskPlace {
    pub(crate) fn new(event_loop: Py<PyAny>, future: Py<PyAny>) -> Arc<Self> {
        Arc::new(Self { ending: Ending::default(), event_loop, future: Mutex::new(future) })
    }

    fn future(&self) -> MutexGuard<'_, Py<PyAny>> {
        self.future.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn event_loop(&self) -> &Py<PyAny> {
        &self.event_loop
    }

    /// Has the task woken by another future from now on.
    pub(crate) fn renew(&self, future: Py<PyAny>) {
        let previous = std::mem::replace(&mut *self.future(), future);
        drop(previous);
    }

    fn wake(&self, py: Python<'_>) -> PyResult<()> {
        let future = self.future().clone_ref(py);
        if running_loop(py)?.is(&self.event_loop) {
            return bridge::wake(future.bind(py));
        }
        let arguments = (bridge::wake_function(py)?, future);
        self.event_loop.bind(py).call_method1(pyo3::intern!(py, "call_soon_threadsafe"), arguments)?;
        Ok(())
    }
}

/// The event loop that runs in this thread, or None.
pub(crate) fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static FUNCTION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let function = FUNCTION.get_or_try_init(py, || {
        py.import("asyncio.events")?.getattr("_get_running_loop").map(Bound::unbind)
    })?;
    function.bind(py).call0()
}

impl Waiter {
    /// The caller, to be woken where he sleeps.
    fn sleeping(py: Python<'_>, sleeper: &Sleeper, manner: Manner) -> Self {
        let place = match sleeper {
            Sleeper::Thread(parker) => Place::Thread(Arc::clone(parker)),
            Sleeper::Green(wait) => Place::Green(wait.clone()),
        };
        Self { thread: who::this_thread(), who: who::caller(py), manner, place }
    }

    /// A task of the calling thread's event loop.
    pub(crate) fn task(py: Python<'_>, place: &Arc<TaskPlace>) -> Self {
        let thread = who::this_thread();
        let who = if detection::is_on() { who::this_task(py).unwrap_or(thread) } else { thread };
        Self { thread, who, manner: Manner::Endless, place: Place::Task(Arc::clone(place)) }
    }

    /// The same one, who must have it.
    pub(crate) fn stubborn(self) -> Self {
        Self { manner: Manner::Stubborn, ..self }
    }

    pub(crate) fn who(&self) -> u64 {
        self.who
    }

    pub(crate) fn is_task(&self) -> bool {
        matches!(self.place, Place::Task(_))
    }

    pub(crate) fn manner(&self) -> Manner {
        self.manner
    }

    /// The number of the thread that he waits in.
    pub(crate) fn thread_number(&self) -> u64 {
        self.thread
    }

    /// Whether he was left behind by a fork.
    pub(crate) fn is_gone(&self) -> bool {
        who::is_gone(self.thread)
    }

    /// Wakes him; `false` if he cannot be woken: then whoever calls this has to do for him what he would do to give up.
    #[must_use]
    pub(crate) fn wake(&self, py: Python<'_>) -> bool {
        match &self.place {
            Place::Thread(parker) => {
                parker.unpark();
                true
            }
            Place::Green(wait) => wait.wake(py).is_ok() || !wait.ending().for_him(),
            Place::Task(place) => place.wake(py).is_ok() || !place.ending.for_him(),
        }
    }

    /// Has a task woken after a while, unless the handle is cancelled; a thread sees to that itself.
    pub(crate) fn wake_after(&self, py: Python<'_>, pause: Duration) -> PyResult<Option<Py<PyAny>>> {
        let Place::Task(place) = &self.place else { return Ok(None) };
        let (wake, future) = (bridge::wake_function(py)?, place.future().clone_ref(py));
        let arguments = (pause.as_secs_f64(), wake, future);
        place.event_loop.call_method1(py, pyo3::intern!(py, "call_later"), arguments).map(Some)
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match &self.place {
            Place::Thread(_) => Ok(()),
            Place::Green(wait) => visit.call(wait.object()),
            Place::Task(place) => {
                visit.call(&place.event_loop)?;
                visit.call(&*place.future())
            }
        }
    }
}

/// What became of somebody who wanted something.
pub(crate) enum Entered<G> {
    /// He has it.
    Through(G),
    /// He has a place in the line.
    Waits(Ticket),
}

/// Something that one can wait for.
pub(crate) trait Waitable {
    /// What one has who gets through.
    type Gain;

    /// Gets it for the running task if that needs no waiting.
    fn try_now(&self, py: Python<'_>) -> PyResult<Option<Self::Gain>>;

    /// Gets it, or a place in the line.
    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<Self::Gain>>;

    /// Looks, after a wake-up, whether the one with this ticket gets it now.
    fn poll(&self, py: Python<'_>, ticket: Ticket) -> PyResult<Option<Self::Gain>>;

    /// Takes him out of the line; `Some` if he was given it before he left.
    fn leave(&self, py: Python<'_>, ticket: Ticket) -> Option<Self::Gain>;

    /// Takes back what was given to somebody who has no use for it.
    fn give_back(&self, py: Python<'_>, gain: Self::Gain);

    /// When a thread that waits looks without having been woken, if what it waits for comes by itself.
    fn looks_at(&self) -> Option<Tick> {
        None
    }
}

/// Gets a permit, or a place in the line. A task comes in its turn, for it would save nobody a switch of threads.
pub(crate) fn take_or_join<T: Waitable<Gain = ()>>(
    py: Python<'_>,
    awaited: &T,
    permits: &Permits<Waiter>,
    waiter: Waiter,
) -> Option<Ticket> {
    if !waiter.is_task() {
        return permits.take_or_join(waiter);
    }
    let (ticket, wakes) = permits.take_in_turn_or_join(waiter)?;
    wake_all(py, awaited, wakes);
    Some(ticket)
}

/// Leaves the line; what was given meanwhile is given back.
fn give_up<T: Waitable>(py: Python<'_>, awaited: &T, ticket: Ticket) {
    if let Some(gain) = awaited.leave(py, ticket) {
        awaited.give_back(py, gain);
    }
}

/// Wakes them. Who cannot be woken is taken to have given up, which may mean that others are to be woken.
pub(crate) fn wake_all<T: Waitable<Gain = ()>>(py: Python<'_>, awaited: &T, wakes: Vec<Wake<Waiter>>) {
    for wake in wakes {
        match wake {
            Wake::Called(ticket, waiter) if !waiter.wake(py) => give_up(py, awaited, ticket),
            Wake::Served(waiter) if !waiter.wake(py) => awaited.give_back(py, ()),
            Wake::Called(..) | Wake::Served(_) => {}
        }
    }
}

/// Wakes them; who has nobody left to be woken has no use for the news either.
pub(crate) fn tell(py: Python<'_>, waiters: &[Waiter]) {
    for waiter in waiters {
        let _ = waiter.wake(py);
    }
}

/// Where a caller sleeps who is no task.
enum Sleeper {
    Thread(Arc<Parker>),
    Green(GreenWait),
}

impl Sleeper {
    /// The caller's.
    fn here(py: Python<'_>) -> PyResult<Self> {
        let green = if hubs::are_there(py) { GreenWait::here(py)? } else { None };
        Ok(green.map_or_else(|| Self::Thread(park::mine()), Self::Green))
    }

    /// Ends the wait; `false` if somebody has ended it for him.
    fn ends(&self) -> bool {
        if let Self::Green(wait) = self { wait.ending().by_himself() } else { true }
    }

    /// Sleeps until somebody wakes him, or that time has come. A handler, and a green thread, may themselves have waited
    /// meanwhile: so whoever returns from here looks again.
    ///
    /// # Errors
    /// What a signal's handler raised, or what was thrown into a green thread.
    fn sleep(&self, py: Python<'_>, until: Option<Tick>) -> PyResult<Woken> {
        match self {
            Self::Thread(parker) => enter::park(py, parker, until),
            Self::Green(wait) => {
                wait.sleep(py, until)?;
                let is_late = until.is_some_and(|until| clock::now() >= until);
                Ok(if is_late { Woken::TimedOut } else { Woken::Notified })
            }
        }
    }

    /// Sleeps until `alarm` at most; whether `deadline` has come.
    ///
    /// # Errors
    /// The same.
    fn sleep_until(&self, py: Python<'_>, alarm: Tick, deadline: Option<Tick>) -> PyResult<bool> {
        self.sleep(py, Some(deadline.map_or(alarm, |deadline| deadline.min(alarm))))?;
        Ok(deadline.is_some_and(|deadline| deadline <= clock::now()))
    }

    /// Sleeps; whether `deadline` has come.
    ///
    /// # Errors
    /// The same, and `DeadlockError`.
    fn sleep_watched(&self, py: Python<'_>, deadline: Option<Tick>) -> PyResult<bool> {
        let is_late = self.sleep(py, detection::nap(deadline))? == Woken::TimedOut;
        if is_late && deadline.is_none() {
            detection::look_again(py, who::caller(py))?;
        }
        Ok(is_late && deadline.is_some())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        if let Self::Green(wait) = self {
            Python::attach(|py| wait.close(py));
        }
    }
}

/// Gets it, waiting detached until `deadline`; `None` if that came first.
///
/// # Errors
/// What a signal handler raised, what was thrown into a green thread, or what the primitive has to say.
pub(crate) fn block<T: Waitable>(
    py: Python<'_>,
    awaited: &T,
    deadline: Option<Tick>,
) -> PyResult<Option<T::Gain>> {
    let sleeper = Sleeper::here(py)?;
    let manner = if deadline.is_some() { Manner::Limited } else { Manner::Endless };
    let ticket = match awaited.enter(py, Waiter::sleeping(py, &sleeper, manner))? {
        Entered::Through(gain) => return Ok(Some(gain)),
        Entered::Waits(ticket) => ticket,
    };
    loop {
        let slept = match awaited.looks_at() {
            Some(alarm) => sleeper.sleep_until(py, alarm, deadline),
            None => sleeper.sleep_watched(py, deadline),
        };
        match slept.and_then(|is_late| Ok((awaited.poll(py, ticket)?, is_late))) {
            Ok((None, false)) => {}
            Ok((None, true)) => {
                return Ok(if sleeper.ends() { awaited.leave(py, ticket) } else { None });
            }
            Ok((gain, _)) => {
                sleeper.ends();
                return Ok(gain);
            }
            Err(error) => {
                if sleeper.ends() {
                    give_up(py, awaited, ticket);
                }
                return Err(error);
            }
        }
    }
}

/// Gets it even if a signal's handler raises; the exception is returned beside it, to be raised afterwards. Only a second
/// one ends the wait: who presses Ctrl-C twice means it. Of a deadlock it is not told: whoever waits so must have it.
///
/// # Errors
/// What the second handler raised.
pub(crate) fn block_stubbornly<T: Waitable>(
    py: Python<'_>,
    awaited: &T,
) -> PyResult<(T::Gain, Option<PyErr>)> {
    let sleeper = Sleeper::here(py)?;
    let ticket = match awaited.enter(py, Waiter::sleeping(py, &sleeper, Manner::Stubborn))? {
        Entered::Through(gain) => return Ok((gain, None)),
        Entered::Waits(ticket) => ticket,
    };
    let mut raised = None;
    loop {
        if let Err(error) = sleeper.sleep(py, None)
            && raised.replace(error).is_some()
        {
            if sleeper.ends() {
                give_up(py, awaited, ticket);
            }
            return Err(raised.take().expect("put there above"));
        }
        if let Some(gain) = awaited.poll(py, ticket)? {
            sleeper.ends();
            return Ok((gain, raised));
        }
    }
}
