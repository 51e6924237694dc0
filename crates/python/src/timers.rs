//! The thread that watches the time limits of running tasks.
//!
//! One Rust thread per process, started with the first limit, asleep until the next one is due. It attaches to the
//! interpreter only when a limit was really passed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_engine::timer::{TimerKey, TimerWheel};
use manyhands_os::clock;
use manyhands_os::park::Parker;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::future::Future;
use crate::gather::Gather;
use crate::pool::fork_generation;
use crate::soft_limit::LimitedCall;
use crate::thread_crew::ThreadHand;

/// Limits are kept to the millisecond: far below what a thread switch of the interpreter may take.
const RESOLUTION: Duration = Duration::from_millis(1);

/// What to do when a limit has passed.
pub(crate) enum Alarm {
    /// Stop what that hand runs, if it still runs that.
    Thread { hand: Arc<ThreadHand>, serial: u64, future: Py<Future> },
    /// Cancel the coroutine of that attempt.
    Coroutine { future: Py<Future>, attempt: u32 },
    /// Raise the exception in that call, if it is not over.
    Call { call: Arc<LimitedCall>, exception: Py<PyType> },
    /// Fail a `gather` or `race` that took too long.
    Gather { gather: Py<Gather>, limit: Duration },
}

impl Alarm {
    fn fire(self, py: Python<'_>) {
        let result = match self {
            Self::Thread { hand, serial, future } => {
                crate::thread_crew::time_out(py, &hand, serial, future.bind(py))
            }
            Self::Coroutine { future, attempt } => crate::loop_crew::time_out(future.bind(py), attempt),
            Self::Call { call, exception } => {
                call.interrupt(exception.bind(py));
                Ok(())
            }
            Self::Gather { gather, limit } => Gather::time_out(gather.bind(py), limit),
        };
        if let Err(error) = result {
            error.write_unraisable(py, None);
        }
    }
}

struct Watch {
    wheel: TimerWheel<Alarm>,
    /// When the thread will look next.
    wakes_at: Tick,
}

struct Timers {
    watch: Mutex<Watch>,
    parker: Parker,
    born: u32,
}

static TIMERS: Mutex<Option<Arc<Timers>>> = Mutex::new(None);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A limit that is being watched.
pub(crate) struct Watched {
    timers: Arc<Timers>,
    key: TimerKey,
}

impl Watched {
    /// Stops watching.
    pub(crate) fn disarm(self) {
        if self.timers.born != fork_generation() {
            // In a forked child: the parent's thread, which is not here, may have held the lock.
            std::mem::forget(self);
            return;
        }
        let alarm = lock(&self.timers.watch).wheel.cancel(self.key);
        // Outside the lock: it holds a Python object.
        drop(alarm);
    }
}

/// Watches a limit.
pub(crate) fn arm(at: Tick, alarm: Alarm) -> std::io::Result<Watched> {
    let timers = timers()?;
    let (key, is_earlier) = {
        let mut watch = lock(&timers.watch);
        let key = watch.wheel.insert(at, alarm);
        (key, at < watch.wakes_at)
    };
    if is_earlier {
        timers.parker.unpark();
    }
    Ok(Watched { timers, key })
}

/// The process's timers; a forked child, which has no such thread, gets its own.
fn timers() -> std::io::Result<Arc<Timers>> {
    let mut slot = lock(&TIMERS);
    if let Some(timers) = slot.as_ref().filter(|timers| timers.born == fork_generation()) {
        return Ok(Arc::clone(timers));
    }
    let timers = Arc::new(Timers {
        watch: Mutex::new(Watch { wheel: TimerWheel::new(RESOLUTION), wakes_at: Tick::ZERO }),
        parker: Parker::default(),
        born: fork_generation(),
    });
    let watched = Arc::clone(&timers);
    std::thread::Builder::new().name("manyhands-timers".to_owned()).spawn(move || watched.run())?;
    if let Some(of_parent) = slot.replace(Arc::clone(&timers)) {
        // Its lock may be held by a thread that does not exist here: leave it alone.
        std::mem::forget(of_parent);
    }
    Ok(timers)
}

impl Timers {
    fn run(&self) {
        let mut due = Vec::new();
        loop {
            let next = {
                let mut watch = lock(&self.watch);
                watch.wheel.expire(clock::now(), &mut due);
                watch.wakes_at =
                    if due.is_empty() { watch.wheel.next().unwrap_or(Tick::NEVER) } else { Tick::ZERO };
                watch.wakes_at
            };
            if due.is_empty() {
                let deadline = (next != Tick::NEVER).then_some(next);
                // Whatever ended the sleep, the wheel says what is due.
                let _ = self.parker.park(deadline);
            } else if Python::try_attach(|py| due.drain(..).for_each(|alarm| alarm.fire(py))).is_none() {
                // The interpreter is gone, and with it everybody who could be late.
                std::mem::forget(due);
                return;
            }
        }
    }
}
