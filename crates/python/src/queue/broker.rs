//! `_core.QueueBroker`: a broker by its address, for producers and for whoever looks after queues.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_os::clock;
use manyhands_queue::address::Address;
use manyhands_queue::broker::Declaration;
use manyhands_queue::message::Outgoing;
use manyhands_queue::open::{Options, open_broker};
use manyhands_queue::{Broker, Error, PublishError};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::batch::TaskBatch;
use super::errand::{Brought, Errand};
use super::outbox::{self, Outbox};
use super::{broker_error, options, publish_error, runtime};
use crate::{enter, error};

/// What a producer does when the broker is away.
#[derive(Clone, Copy)]
enum Away {
    /// Tries again for so long.
    Wait(Duration),
    /// Keeps up to so many messages.
    Keep(usize),
}

/// A broker, shared by all who name the same address and options.
#[pyclass(module = "manyhands._core", frozen)]
pub(crate) struct QueueBroker {
    address: Address,
    options: Options,
    /// All that makes this broker the one it is. Not to be shown: it holds the password.
    name: String,
    away: Away,
}

/// Dead letters as Python gets them: key, queue, reason, time of death, then task, id and body if they can be read.
type Letter<'py> = (String, String, String, f64, Option<(String, String, Bound<'py, PyBytes>)>);

impl QueueBroker {
    /// The broker itself.
    pub(crate) fn broker(&self) -> Result<Arc<dyn Broker>, Error> {
        runtime::era().brokers.get_or_open(&self.name, || open_broker(&self.address, &self.options))
    }

    /// The address, without its password.
    pub(crate) fn shown(&self) -> &str {
        self.address.shown()
    }

    /// Where messages are kept while it is away.
    fn outbox(&self) -> Result<Arc<Outbox>, Error> {
        let broker = self.broker()?;
        runtime::era().outboxes.get_or_open(&self.name, || Ok(Outbox::new(broker)))
    }

    /// Publishes as this producer was told to.
    fn publishing(
        &self,
        messages: Vec<Outgoing>,
        patience: Option<Duration>,
    ) -> PyResult<impl Future<Output = Result<(), PublishError>> + Send + 'static + use<>> {
        let broker = self.broker().map_err(|failure| broker_error(&failure))?;
        let away = patience.map_or(self.away, Away::Wait);
        let outbox = match away {
            Away::Keep(most) => Some((self.outbox().map_err(|failure| broker_error(&failure))?, most)),
            Away::Wait(_) => None,
        };
        Ok(async move {
            match (away, outbox) {
                (Away::Wait(patience), _) => outbox::publish(&*broker, &messages, patience).await,
                (Away::Keep(_), Some((outbox, most))) => outbox.publish(messages, most).await,
                (Away::Keep(_), None) => unreachable!("an outbox was fetched above"),
            }
        })
    }

    /// Asks the broker something, and waits for the answer.
    fn ask<T, F>(&self, py: Python<'_>, question: impl FnOnce(Arc<dyn Broker>) -> F) -> PyResult<T>
    where
        T: Send,
        F: Future<Output = Result<T, Error>> + Send,
    {
        let broker = self.broker().map_err(|failure| broker_error(&failure))?;
        match runtime::wait(py, None, question(broker))? {
            Some(answer) => answer.map_err(|failure| broker_error(&failure)),
            None => Err(error::gave_up_waiting(py)),
        }
    }
}

#[pymethods]
impl QueueBroker {
    /// `patience`: for how many seconds to go on trying when it is away; `keep`: keep so many messages then, instead.
    #[new]
    #[pyo3(signature = (
        address, *, key_prefix="", timeout=10.0, max_size=134_217_728, patience=30.0, keep=None,
        max_priority=None, queue_type=None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "a broker has that many settings")]
    fn new(
        address: &str,
        key_prefix: &str,
        timeout: f64,
        max_size: u64,
        patience: f64,
        keep: Option<usize>,
        max_priority: Option<u8>,
        queue_type: Option<String>,
    ) -> PyResult<Self> {
        let address = Address::parse(address).map_err(|failure| broker_error(&failure))?;
        let options = options(key_prefix, timeout, Options::default().keep_results.as_secs_f64(), max_size)?;
        let options = Options { max_priority, queue_type, ..options };
        let away = match keep {
            Some(most) => Away::Keep(most),
            None => Away::Wait(super::patience(patience)?),
        };
        let name = runtime::name(&[&address], &options);
        Ok(Self { address, options, name, away })
    }

    /// The address, without its password.
    #[getter(address)]
    fn shown_address(&self) -> &str {
        self.address.shown()
    }

    fn __repr__(&self) -> String {
        format!("<QueueBroker {}>", self.address)
    }

    /// Publish a batch, and return when the broker has confirmed all of it, or keeps it.
    #[pyo3(signature = (batch, *, patience=None))]
    fn publish(&self, py: Python<'_>, batch: &TaskBatch, patience: Option<f64>) -> PyResult<()> {
        let patience = patience.map(super::patience).transpose()?;
        match runtime::wait(py, None, self.publishing(batch.take(), patience)?)? {
            Some(published) => published.map_err(|failure| publish_error(&failure)),
            None => Err(error::gave_up_waiting(py)),
        }
    }

    /// Publish a batch in the background.
    #[pyo3(signature = (batch, *, patience=None))]
    fn begin(&self, batch: &TaskBatch, patience: Option<f64>) -> PyResult<Errand> {
        let patience = patience.map(super::patience).transpose()?;
        let publishing = self.publishing(batch.take(), patience)?;
        Errand::send(async move { Brought::Published(publishing.await) })
    }

    /// Declare a queue; `kind` is "classic" or "quorum" where there are kinds.
    #[pyo3(signature = (queue, *, max_priority=None, kind=None))]
    fn declare(
        &self,
        py: Python<'_>,
        queue: String,
        max_priority: Option<u8>,
        kind: Option<String>,
    ) -> PyResult<()> {
        let declaration = Declaration { name: queue, max_priority, kind };
        self.ask(py, |broker| async move { broker.declare(&declaration).await })
    }

    /// How many messages wait in a queue.
    fn depth(&self, py: Python<'_>, queue: String) -> PyResult<u64> {
        self.ask(py, |broker| async move { broker.depth(&queue).await })
    }

    /// Delete what waits in a queue; how many there were.
    fn purge(&self, py: Python<'_>, queue: String) -> PyResult<u64> {
        self.ask(py, |broker| async move { broker.purge(&queue).await })
    }

    /// The dead letters of a queue, the oldest first.
    fn dead_letters<'py>(&self, py: Python<'py>, queue: String, most: usize) -> PyResult<Vec<Letter<'py>>> {
        let letters = self.ask(py, |broker| async move { broker.dead_letters(&queue, most).await })?;
        let shown = letters.into_iter().map(|letter| {
            let content = letter.content.ok().map(|message| {
                let body = PyBytes::new(py, &message.body);
                (message.headers.task, message.headers.id, body)
            });
            (letter.key, letter.queue, letter.reason, letter.died, content)
        });
        Ok(shown.collect())
    }

    /// Put dead letters back into their queue; all of them if no keys are given.
    fn revive(&self, py: Python<'_>, queue: String, keys: Vec<String>) -> PyResult<u64> {
        self.ask(py, |broker| async move { broker.revive(&queue, &keys).await })
    }

    /// Delete the dead letters of a queue; how many there were.
    fn bury(&self, py: Python<'_>, queue: String) -> PyResult<u64> {
        self.ask(py, |broker| async move { broker.bury(&queue).await })
    }

    /// Have workers drop tasks that have not begun; with `terminate`, stop those that run.
    fn revoke(&self, py: Python<'_>, ids: Vec<String>, terminate: bool) -> PyResult<()> {
        self.ask(py, |broker| async move { broker.revoke(&ids, terminate).await })
    }

    /// `revoke` in the background.
    fn begin_revoke(&self, ids: Vec<String>, terminate: bool) -> PyResult<Errand> {
        let broker = self.broker().map_err(|failure| broker_error(&failure))?;
        Errand::send(async move { Brought::Nothing(broker.revoke(&ids, terminate).await) })
    }

    /// How many messages are kept here because the broker is away.
    #[getter]
    fn kept(&self) -> usize {
        runtime::era().outboxes.find(&self.name).map_or(0, |outbox| outbox.len())
    }

    /// Close its connections, for all who share it. The next use opens it anew.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let Some(broker) = runtime::era().brokers.take(&self.name) else { return Ok(()) };
        runtime::era().outboxes.take(&self.name);
        runtime::wait(py, None, async move { broker.close().await }).map(drop)
    }
}

/// Waits until brokers that were away have taken what was kept for them; how many messages are left, and how many were
/// refused, when the time is over.
#[pyfunction]
pub(crate) fn flush_queues(py: Python<'_>, timeout: f64) -> PyResult<(usize, usize)> {
    let outboxes = runtime::era().outboxes.all();
    let left = || outboxes.iter().map(|outbox| outbox.len()).sum::<usize>();
    if left() > 0 {
        let deadline: Option<Tick> = enter::deadline(Some(timeout))?;
        let flushed = async {
            while left() > 0 && deadline.is_none_or(|deadline| clock::now() < deadline) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        runtime::wait(py, deadline, flushed)?;
    }
    Ok((left(), outboxes.iter().map(|outbox| outbox.lost()).sum()))
}

/// The address, without its password.
///
/// # Errors
/// `ValueError` if it is none that this library understands.
#[pyfunction]
pub(crate) fn shown_address(address: &str) -> PyResult<String> {
    match Address::parse(address) {
        Ok(address) => Ok(address.shown().into()),
        Err(failure) => Err(PyValueError::new_err(failure.to_string())),
    }
}
