//! The doorway between Python and waiting: every wait of every binding goes through here.
//!
//! A wait detaches from the interpreter, so that other threads run, and runs the Python signal handlers when a
//! signal cuts it short, so that Ctrl-C works everywhere.

use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_os::clock;
use manyhands_os::event::wait_ready;
use manyhands_os::park::{Parker, Woken};
use manyhands_os::process;
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::patience::Patience;

/// How long Rust code may stay attached at a stretch before it looks whether another thread wants to run: well below the
/// interpreter's own switch interval of 5 ms, after which a thread that waits may ask for its turn.
const TURN: Duration = Duration::from_millis(1);

/// A stretch of attached work without Python bytecode, which has to give way to other threads by itself.
pub(crate) struct Turn {
    began: Tick,
}

impl Turn {
    pub(crate) fn begin(now: Tick) -> Self {
        Self { began: now }
    }

    /// Lets another thread run, if the turn has lasted long enough and the interpreter was asked for one.
    ///
    /// A function in bytecode is called, for only there does the interpreter look whether somebody has waited for his
    /// turn, and see to it that he gets it. To detach and attach again would starve him: it wakes him, finds him too
    /// slow, and has him begin his wait, after which he may ask, anew.
    pub(crate) fn give_way(&mut self, py: Python<'_>, now: Tick) {
        static BREATH: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if now - self.began >= TURN {
            let breath =
                BREATH.get_or_try_init(py, || py.eval(c"lambda: None", None, None).map(Bound::unbind));
            if let Err(failure) = breath.and_then(|breath| breath.call0(py)) {
                failure.write_unraisable(py, None);
            }
            self.began = clock::now();
        }
    }
}

/// How long to look at a socket before sleeping: about as long as a server on the same machine takes for something small.
static SOCKETS: Patience = Patience::new(Duration::from_micros(100));

/// How long the thread that handles signals sleeps at a stretch, first and at most.
const SHORT_SLEEP: Duration = Duration::from_millis(10);
const LONG_SLEEP: Duration = Duration::from_secs(1);

/// Sleeps on `parker`, detached. After `Interrupted` the signal has been handled.
///
/// A signal that comes when this thread has just looked for one and is about to sleep does not cut the sleep short: its
/// handler in C only makes a note. So the thread that handles signals sleeps in stretches, and looks between them.
///
/// # Errors
/// What a signal handler raised.
pub(crate) fn park(py: Python<'_>, parker: &Parker, deadline: Option<Tick>) -> PyResult<Woken> {
    sleep(py, deadline, |deadline| parker.park(deadline))
}

/// The same until a socket can be read or written, as far as `reads_writes` ask for it.
///
/// # Errors
/// What a signal handler raised.
pub(crate) fn watch(
    py: Python<'_>,
    socket: BorrowedFd<'_>,
    reads_writes: [bool; 2],
    deadline: Option<Tick>,
) -> PyResult<Woken> {
    let began = clock::now();
    let is_ready = || wait_ready(socket, reads_writes, Some(Duration::ZERO));
    if py.detach(|| SOCKETS.look(began, deadline, is_ready)).unwrap_or(true) {
        SOCKETS.learn(clock::now() - began);
        return Ok(Woken::Notified);
    }
    let woken = sleep(py, deadline, |deadline| {
        let left = deadline.map(|deadline| deadline.since(clock::now()));
        match wait_ready(socket, reads_writes, left) {
            Ok(false) => Woken::TimedOut,
            Err(error) if error.kind() == ErrorKind::Interrupted => Woken::Interrupted,
            // What is wrong with it turns out when it is used.
            Ok(true) | Err(_) => Woken::Notified,
        }
    });
    SOCKETS.learn(clock::now() - began);
    woken
}

/// Sleeps in the way of `nap`, which is given a deadline.
fn sleep(
    py: Python<'_>,
    deadline: Option<Tick>,
    nap: impl Fn(Option<Tick>) -> Woken + Sync,
) -> PyResult<Woken> {
    let handles_signals = process::is_main_thread();
    let mut stretch = SHORT_SLEEP;
    loop {
        let soon = handles_signals.then(|| clock::now() + stretch);
        let soon = soon.filter(|soon| deadline.is_none_or(|deadline| *soon < deadline));
        match py.detach(|| nap(soon.or(deadline))) {
            Woken::TimedOut if soon.is_some() => {
                py.check_signals()?;
                stretch = (2 * stretch).min(LONG_SLEEP);
            }
            Woken::Interrupted => {
                py.check_signals()?;
                return Ok(Woken::Interrupted);
            }
            woken => return Ok(woken),
        }
    }
}

/// Waits on `parker` until `is_over`; `false` if `deadline` came first.
///
/// # Errors
/// What a signal handler raised.
pub(crate) fn wait_until(
    py: Python<'_>,
    parker: &Parker,
    deadline: Option<Tick>,
    is_over: impl Fn() -> bool,
) -> PyResult<bool> {
    loop {
        if is_over() {
            return Ok(true);
        }
        if park(py, parker, deadline)? == Woken::TimedOut {
            return Ok(is_over());
        }
    }
}

/// Seconds from now as a point in time; `None` for "never".
///
/// # Errors
/// `ValueError` for NaN.
pub(crate) fn deadline(timeout: Option<f64>) -> PyResult<Option<Tick>> {
    let Some(seconds) = timeout else { return Ok(None) };
    if seconds.is_nan() {
        return Err(PyValueError::new_err("could not wait: found a timeout of NaN, expected seconds"));
    }
    // Too long for a Duration is longer than anybody waits.
    let Ok(duration) = Duration::try_from_secs_f64(seconds.max(0.0)) else { return Ok(None) };
    Ok(Some(clock::now() + duration))
}

/// A span of time that a user gave in seconds.
///
/// # Errors
/// `ValueError` if it is negative or NaN, `OverflowError` if it does not fit.
pub(crate) fn seconds(name: &str, seconds: f64) -> PyResult<Duration> {
    if seconds.is_nan() || seconds < 0.0 {
        return Err(PyValueError::new_err(format!(
            "could not use `{name}`: found {seconds}, expected seconds, 0 or more"
        )));
    }
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| PyOverflowError::new_err(format!("could not use `{name}`: {seconds} s is too long")))
}
