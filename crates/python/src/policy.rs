//! `_core.Policy`: how a task is to be tried, in Python's terms.

use std::time::Duration;

use manyhands_engine::gate::Limits;
use manyhands_engine::policy::{Backoff, Policy as Rules};
use manyhands_engine::rate::Rate;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::enter::seconds;

/// The terms on which tasks run: time limits, retries, rate, priority.
///
/// Args:
///     timeout: Seconds that one attempt may take; None is no limit.
///     total_timeout: Seconds from submission that all attempts and the waits between them may take.
///     retries: How often a failed attempt is repeated.
///     retry_on: The exceptions that are worth another attempt: a class, a tuple of classes, or a function that
///         takes the exception and says yes or no. A `TaskTimeout` is an exception like others.
///     backoff: Seconds before the first retry (float ≥ 0, default 0.1), doubled for each further one up to
///         `max_backoff`, and multiplied by a random number between 0 and 1 ("full jitter").
///     max_backoff: The most seconds between two attempts, before jitter.
///     jitter: Whether to randomise the waits.
///     rate: How often attempts may start: "100/s", "6/m", "1000/h", "100/10s", or a number per second. Evenly, unless
///         a burst is allowed: with "100/s burst 20", up to 20 start at once after a pause.
///     concurrency: How many of these tasks may run at once.
///     priority: Higher goes first (int, default 0); equals go in order of submission.
///
/// Raises:
///     ValueError: A number is out of its range, or the rate cannot be read.
///
/// Example:
///     >>> import manyhands as mh
///     >>> careful = mh.Policy(timeout=10, retries=3, rate="100/s")
///     >>> with mh.ThreadExecutor(4) as pool:
///     ...     pool.with_policy(careful).submit(pow, 2, 5).result()
///     32
#[pyclass(frozen, module = "manyhands", name = "Policy")]
pub(crate) struct Policy {
    pub(crate) rules: Rules,
    retry_on: Option<Py<PyAny>>,
    limits: Limits,
}

impl Policy {
    /// Whether a task under it needs any bookkeeping of its own.
    pub(crate) fn is_trivial(&self) -> bool {
        self.rules == Rules::default() && self.limits().is_none()
    }

    /// What its gate must hold back; `None` if nothing.
    pub(crate) fn limits(&self) -> Option<Limits> {
        let limited = self.limits.rate.is_some() || self.limits.concurrency.is_some();
        limited.then_some(self.limits)
    }

    /// Whether `error` is worth another attempt.
    pub(crate) fn retries_on(&self, error: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Some(retry_on) = &self.retry_on else {
            return Ok(error.is_instance_of::<pyo3::exceptions::PyException>());
        };
        let retry_on = retry_on.bind(error.py());
        if retry_on.is_instance_of::<PyType>() || retry_on.is_instance_of::<PyTuple>() {
            return error.is_instance(retry_on);
        }
        retry_on.call1((error,))?.is_truthy()
    }
}

#[pymethods]
impl Policy {
    #[new]
    #[pyo3(signature = (*, timeout = None, total_timeout = None, retries = 0, retry_on = None, backoff = None,
        max_backoff = None, jitter = true, rate = None, concurrency = None, priority = 0))]
    #[expect(clippy::too_many_arguments, reason = "the one record in which every option stands once")]
    fn new(
        timeout: Option<f64>,
        total_timeout: Option<f64>,
        retries: u32,
        retry_on: Option<Bound<'_, PyAny>>,
        backoff: Option<f64>,
        max_backoff: Option<f64>,
        jitter: bool,
        rate: Option<Bound<'_, PyAny>>,
        concurrency: Option<usize>,
        priority: i32,
    ) -> PyResult<Self> {
        let defaults = Backoff::default();
        let span = |name, value: Option<f64>| value.map(|value| positive(name, value)).transpose();
        let base = backoff.map_or(Ok(defaults.base), |base| seconds("backoff", base))?;
        let cap = max_backoff.map_or(Ok(defaults.cap.max(base)), |cap| seconds("max_backoff", cap))?;
        if concurrency == Some(0) {
            return Err(PyValueError::new_err("could not use `concurrency`: found 0, expected 1 or more"));
        }
        Ok(Self {
            rules: Rules {
                timeout: span("timeout", timeout)?,
                total_timeout: span("total_timeout", total_timeout)?,
                retries,
                backoff: Backoff { base, cap, jitter, ..defaults },
                priority,
            },
            retry_on: retry_on.map(check_retry_on).transpose()?,
            limits: Limits { rate: rate.map(|rate| read_rate(&rate)).transpose()?, concurrency },
        })
    }

    fn __repr__(&self) -> String {
        let mut parts = Vec::new();
        let mut part = |name: &str, value: String| parts.push(format!("{name}={value}"));
        if let Some(limit) = self.rules.timeout {
            part("timeout", limit.as_secs_f64().to_string());
        }
        if let Some(limit) = self.rules.total_timeout {
            part("total_timeout", limit.as_secs_f64().to_string());
        }
        if self.rules.retries > 0 {
            part("retries", self.rules.retries.to_string());
        }
        if let Some(rate) = &self.limits.rate {
            part("rate", format!("'{}/{}s'", rate.calls, rate.per.as_secs_f64()));
        }
        if let Some(concurrency) = self.limits.concurrency {
            part("concurrency", concurrency.to_string());
        }
        if self.rules.priority != 0 {
            part("priority", self.rules.priority.to_string());
        }
        format!("Policy({})", parts.join(", "))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.retry_on)
    }
}

fn positive(name: &str, value: f64) -> PyResult<Duration> {
    match seconds(name, value)? {
        Duration::ZERO => Err(PyValueError::new_err(format!(
            "could not use `{name}`: found 0, expected more than 0 seconds"
        ))),
        duration => Ok(duration),
    }
}

/// An exception class, a tuple of them, or any function.
fn check_retry_on(retry_on: Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let is_exception = |class: &Bound<'_, PyAny>| {
        class
            .cast::<PyType>()
            .is_ok_and(|class| class.is_subclass_of::<pyo3::exceptions::PyBaseException>().unwrap_or(false))
    };
    let fits = match retry_on.cast::<PyTuple>() {
        Ok(classes) => classes.iter().all(|class| is_exception(&class)),
        Err(_) => is_exception(&retry_on) || (retry_on.is_callable() && !retry_on.is_instance_of::<PyType>()),
    };
    if fits {
        return Ok(retry_on.unbind());
    }
    Err(PyTypeError::new_err(format!(
        "could not use `retry_on`: found {}, expected an exception class, a tuple of them, or a function",
        retry_on.repr()?
    )))
}

fn read_rate(rate: &Bound<'_, PyAny>) -> PyResult<Rate> {
    let read = match rate.extract::<String>() {
        Ok(text) => text.parse(),
        Err(_) => Rate::new(rate.extract()?, 1),
    };
    read.map_err(|error| PyValueError::new_err(format!("{error}\nhint: {}", error.hint())))
}
