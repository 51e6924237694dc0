//! The task queue's side of Python: brokers and result stores by their addresses, and the runtime that they live on.
//!
//! Who runs Rust here reaches both as what they are: [`broker::QueueBroker::broker`] is an `Arc<dyn Broker>`,
//! [`results::ResultStore::store`] an `Arc<dyn Backend>`, and [`runtime::handle`] the runtime.
//!
//! **Guarantees.** A wait happens detached, ends on Ctrl-C, and a call that is given up is dropped. A forked child has a
//! runtime, brokers and stores of its own: it never touches a connection of its parent's.

pub(crate) mod batch;
pub(crate) mod broker;
pub(crate) mod errand;
pub(crate) mod outbox;
pub(crate) mod results;
pub(crate) mod runtime;
pub(crate) mod worker;

use std::time::Duration;

use manyhands_queue::open::Options;
use manyhands_queue::{Error, PublishError};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::{enter, error};

/// What Python raises for what went wrong with a server.
pub(crate) fn broker_error(failure: &Error) -> PyErr {
    match failure {
        Error::Address { .. } => PyValueError::new_err(failure.to_string()),
        other => made(other.to_string(), other.is_transient(), None),
    }
}

/// The same for a batch, of which some messages may be safe.
pub(crate) fn publish_error(failure: &PublishError) -> PyErr {
    match &failure.error {
        Error::Address { .. } => broker_error(&failure.error),
        other => made(other.to_string(), other.is_transient(), Some(failure.confirmed)),
    }
}

fn made(message: String, is_transient: bool, confirmed: Option<usize>) -> PyErr {
    Python::attach(|py| {
        let made = error::error(error::broker_error(py), message);
        let told = made.value(py).setattr("is_transient", is_transient).and_then(|()| match confirmed {
            Some(confirmed) => made.value(py).setattr("confirmed", confirmed),
            None => Ok(()),
        });
        told.err().unwrap_or(made)
    })
}

/// How a server is used, from what Python gave.
pub(crate) fn options(key_prefix: &str, timeout: f64, keep_results: f64, max_size: u64) -> PyResult<Options> {
    Ok(Options {
        key_prefix: key_prefix.into(),
        timeout: enter::seconds("timeout", timeout)?,
        keep_results: enter::seconds("keep_results", keep_results)?,
        max_size,
        ..Options::default()
    })
}

/// How long to go on trying, from what Python gave.
pub(crate) fn patience(seconds: f64) -> PyResult<Duration> {
    if seconds == f64::INFINITY {
        return Ok(Duration::MAX);
    }
    enter::seconds("patience", seconds)
}

/// Tells the user what happens in the background.
pub(crate) fn log(level: &str, message: &str) {
    // An interpreter that is about to end has nobody left to tell.
    Python::try_attach(|py| {
        let logged = py.import("logging").and_then(|logging| {
            let logger = logging.call_method1("getLogger", ("manyhands.queue",))?;
            logger.call_method1(level, ("%s", message))
        });
        if let Err(failure) = logged {
            failure.write_unraisable(py, None);
        }
    });
}
