//! `_core.Policy`: how a task is to be tried, in Python's terms.

use std::time::Duration;

use manyhands_engine::gate::Limits;
use manyhands_engine::policy::{Backoff, Policy as Rules};
use manyhands_engine::rate::Rate;
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
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
    /// The rate as it was written.
    rate: Option<Py<PyAny>>,
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
    #[pyo3(signature = (*, timeout = None, total_timeout = None, retries = None, retry_on = None, backoff = None,
        max_backoff = None, jitter = true, rate = None, concurrency = None, priority = None),
        text_signature = "(*, timeout=None, total_timeout=None, retries=0, retry_on=None, backoff=None, \
        max_backoff=None, jitter=True, rate=None, concurrency=None, priority=0)")]
    #[expect(clippy::too_many_arguments, reason = "the one record in which every option stands once")]
    fn new(
        timeout: Option<Bound<'_, PyAny>>,
        total_timeout: Option<Bound<'_, PyAny>>,
        retries: Option<Bound<'_, PyAny>>,
        retry_on: Option<Bound<'_, PyAny>>,
        backoff: Option<Bound<'_, PyAny>>,
        max_backoff: Option<Bound<'_, PyAny>>,
        jitter: bool,
        rate: Option<Bound<'_, PyAny>>,
        concurrency: Option<Bound<'_, PyAny>>,
        priority: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let defaults = Backoff::default();
        let base = time("backoff", backoff)?.unwrap_or(defaults.base);
        let cap = time("max_backoff", max_backoff)?.unwrap_or(defaults.cap.max(base));
        Ok(Self {
            rules: Rules {
                timeout: positive("timeout", time("timeout", timeout)?)?,
                total_timeout: positive("total_timeout", time("total_timeout", total_timeout)?)?,
                retries: whole("retries", retries, 0)?.unwrap_or(0),
                backoff: Backoff { base, cap, jitter, ..defaults },
                priority: whole("priority", priority, i64::MIN)?.unwrap_or(0),
            },
            retry_on: retry_on.map(check_retry_on).transpose()?,
            limits: Limits {
                rate: rate.as_ref().map(read_rate).transpose()?,
                concurrency: whole("concurrency", concurrency, 1)?,
            },
            rate: rate.map(Bound::unbind),
        })
    }

    /// Seconds that one attempt may take, or None.
    #[getter]
    fn timeout(&self) -> Option<f64> {
        self.rules.timeout.map(|limit| limit.as_secs_f64())
    }

    /// Seconds that all attempts may take, or None.
    #[getter]
    fn total_timeout(&self) -> Option<f64> {
        self.rules.total_timeout.map(|limit| limit.as_secs_f64())
    }

    /// How often a failed attempt is repeated.
    #[getter]
    fn retries(&self) -> u32 {
        self.rules.retries
    }

    /// The exceptions that are worth another attempt, as given.
    #[getter]
    fn retry_on(&self, py: Python<'_>) -> Py<PyAny> {
        let default = || py.get_type::<pyo3::exceptions::PyException>().into_any().unbind();
        self.retry_on.as_ref().map_or_else(default, |retry_on| retry_on.clone_ref(py))
    }

    /// The most seconds before the first retry.
    #[getter]
    fn backoff(&self) -> f64 {
        self.rules.backoff.base.as_secs_f64()
    }

    /// The most seconds between two attempts.
    #[getter]
    fn max_backoff(&self) -> f64 {
        self.rules.backoff.cap.as_secs_f64()
    }

    /// Whether the waits between attempts are randomised.
    #[getter]
    fn jitter(&self) -> bool {
        self.rules.backoff.jitter
    }

    /// How often attempts may start, as given, or None.
    #[getter]
    fn rate(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.rate.as_ref().map(|rate| rate.clone_ref(py))
    }

    /// How many of these tasks may run at once, or None.
    #[getter]
    fn concurrency(&self) -> Option<usize> {
        self.limits.concurrency
    }

    /// Higher goes first.
    #[getter]
    fn priority(&self) -> i32 {
        self.rules.priority
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
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
        if let Some(retry_on) = &self.retry_on {
            part("retry_on", in_short(retry_on.bind(py))?);
        }
        let (Backoff { base, cap, jitter, .. }, defaults) = (self.rules.backoff, Backoff::default());
        if base != defaults.base {
            part("backoff", base.as_secs_f64().to_string());
        }
        if cap != defaults.cap.max(base) {
            part("max_backoff", cap.as_secs_f64().to_string());
        }
        if !jitter {
            part("jitter", "False".to_owned());
        }
        if let Some(rate) = &self.rate {
            part("rate", rate.bind(py).repr()?.to_string());
        }
        if let Some(concurrency) = self.limits.concurrency {
            part("concurrency", concurrency.to_string());
        }
        if self.rules.priority != 0 {
            part("priority", self.rules.priority.to_string());
        }
        Ok(format!("Policy({})", parts.join(", ")))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.retry_on)?;
        visit.call(&self.rate)
    }
}

/// A class by its name, a tuple of classes by theirs, and anything else as it shows itself.
fn in_short(retry_on: &Bound<'_, PyAny>) -> PyResult<String> {
    if let Ok(class) = retry_on.cast::<PyType>() {
        return Ok(class.name()?.to_string());
    }
    if let Ok(classes) = retry_on.cast::<PyTuple>() {
        let names = classes.iter().map(|class| in_short(&class)).collect::<PyResult<Vec<_>>>()?;
        let end = if names.len() == 1 { "," } else { "" };
        return Ok(format!("({}{end})", names.join(", ")));
    }
    Ok(retry_on.repr()?.to_string())
}

/// What is said when an option has the wrong type.
fn not_a(expected: &str, name: &str, given: &Bound<'_, PyAny>) -> PyErr {
    let found = given.repr().map_or_else(|_| "?".to_owned(), |text| text.to_string());
    PyTypeError::new_err(format!("could not use `{name}`: found {found}, expected {expected}"))
}

/// A whole number of at least `least`.
fn whole<T: TryFrom<i64>>(name: &str, given: Option<Bound<'_, PyAny>>, least: i64) -> PyResult<Option<T>> {
    let Some(given) = given else { return Ok(None) };
    let too_large = || PyOverflowError::new_err(format!("could not use `{name}`: {given} is too large"));
    let found: i64 = match given.extract() {
        Ok(found) => found,
        Err(error) if error.is_instance_of::<PyOverflowError>(given.py()) => return Err(too_large()),
        Err(_) => return Err(not_a("a whole number", name, &given)),
    };
    if found < least {
        return Err(PyValueError::new_err(format!(
            "could not use `{name}`: found {found}, expected {least} or more"
        )));
    }
    T::try_from(found).map(Some).map_err(|_| too_large())
}

/// A number of seconds.
fn time(name: &str, given: Option<Bound<'_, PyAny>>) -> PyResult<Option<Duration>> {
    let Some(given) = given else { return Ok(None) };
    let found = given.extract().map_err(|_| not_a("a number of seconds", name, &given))?;
    seconds(name, found).map(Some)
}

/// A limit that lets something pass.
fn positive(name: &str, limit: Option<Duration>) -> PyResult<Option<Duration>> {
    if limit == Some(Duration::ZERO) {
        return Err(PyValueError::new_err(format!(
            "could not use `{name}`: found 0, expected more than 0 seconds"
        )));
    }
    Ok(limit)
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

/// A rate as a text, or as a number per second.
///
/// # Errors
/// `ValueError` or `TypeError` if it is none.
pub(crate) fn read_rate(rate: &Bound<'_, PyAny>) -> PyResult<Rate> {
    let read = match rate.extract::<String>() {
        Ok(text) => text.parse(),
        Err(_) => Rate::new(
            rate.extract()
                .map_err(|_| not_a("a text such as \"100/s\" or a number per second", "rate", rate))?,
            1,
        ),
    };
    read.map_err(|error| PyValueError::new_err(format!("{error}\nhint: {}", error.hint())))
}
