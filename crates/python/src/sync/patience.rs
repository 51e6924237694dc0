//! How long a caller is ready to wait: the arguments `blocking` and `timeout`, with the standard library's errors.

use manyhands_engine::clock::Tick;
use manyhands_os::clock;
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;

use crate::enter;

/// `threading.TIMEOUT_MAX`: 2^63 nanoseconds, cut to seconds.
const TIMEOUT_MAX: f64 = 9_223_372_036.0;

/// How long to wait.
pub(crate) enum Patience {
    None,
    Until(Tick),
    Endless,
}

impl Patience {
    pub(crate) fn deadline(&self) -> Option<Tick> {
        if let Self::Until(deadline) = self { Some(*deadline) } else { None }
    }

    /// When to give up, also for who must try at least.
    pub(crate) fn limit(&self) -> Option<Tick> {
        if let Self::None = self { Some(clock::now()) } else { self.deadline() }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.limit().is_some_and(|limit| clock::now() >= limit)
    }

    /// As `threading.Lock.acquire` reads them, where −1 is no limit.
    pub(crate) fn of_lock(blocking: Option<&Bound<'_, PyAny>>, timeout: Option<f64>) -> PyResult<Self> {
        let blocking = is_true(blocking)?;
        let timeout = timeout.unwrap_or(-1.0);
        #[expect(clippy::float_cmp, reason = "−1 is a sign, not a quantity")]
        match (blocking, timeout == -1.0) {
            (true, true) => Ok(Self::Endless),
            (false, true) => Ok(Self::None),
            (false, false) => Err(PyValueError::new_err("can't specify a timeout for a non-blocking call")),
            (true, false) if timeout < 0.0 => {
                Err(PyValueError::new_err("timeout value must be a non-negative number"))
            }
            (true, false) if timeout > TIMEOUT_MAX => {
                Err(PyOverflowError::new_err("timeout value is too large"))
            }
            (true, false) => Self::seconds(Some(timeout)),
        }
    }

    /// As `threading.Semaphore.acquire` reads them, where None is no limit.
    pub(crate) fn of_semaphore(blocking: Option<&Bound<'_, PyAny>>, timeout: Option<f64>) -> PyResult<Self> {
        match (is_true(blocking)?, timeout) {
            (true, timeout) => Self::seconds(timeout),
            (false, None) => Ok(Self::None),
            (false, Some(_)) => Err(PyValueError::new_err("can't specify timeout for non-blocking acquire")),
        }
    }

    /// As `queue.Queue.get` reads them, where a timeout without blocking is ignored.
    #[inline]
    pub(crate) fn of_queue(block: Option<&Bound<'_, PyAny>>, timeout: Option<f64>) -> PyResult<Self> {
        match timeout {
            None if block.is_none() => Ok(Self::Endless),
            _ if !is_true(block)? => Ok(Self::None),
            Some(seconds) if seconds < 0.0 => {
                Err(PyValueError::new_err("'timeout' must be a non-negative number"))
            }
            timeout => Self::seconds(timeout),
        }
    }

    /// So many seconds from now; None is no limit, less than nothing is none at all.
    pub(crate) fn seconds(timeout: Option<f64>) -> PyResult<Self> {
        match timeout {
            None => Ok(Self::Endless),
            Some(seconds) if seconds <= 0.0 => Ok(Self::None),
            Some(_) => Ok(enter::deadline(timeout)?.map_or(Self::Endless, Self::Until)),
        }
    }
}

fn is_true(blocking: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
    blocking.map_or(Ok(true), Bound::is_truthy)
}
