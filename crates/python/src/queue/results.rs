//! `_core.ResultStore`: a result store by its address, for whoever waits for results.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use manyhands_queue::address::Address;
use manyhands_queue::backend::{State, Stored};
use manyhands_queue::open::{Options, open_backend};
use manyhands_queue::{Backend, Error};
use pyo3::prelude::*;

use super::errand::{Brought, Errand, found_object};
use super::{broker_error, options, runtime};
use crate::{enter, error};

/// A result store, shared by all who name the same address and options.
#[pyclass(module = "manyhands._core", frozen)]
pub(crate) struct ResultStore {
    address: Address,
    broker: Option<Address>,
    options: Options,
    /// All that makes this store the one it is. Not to be shown: it holds the password.
    name: String,
}

impl ResultStore {
    /// The store itself.
    pub(crate) fn store(&self) -> Result<Arc<dyn Backend>, Error> {
        let make = || open_backend(&self.address, self.broker.as_ref(), &self.options);
        runtime::era().stores.get_or_open(&self.name, make)
    }

    fn opened(&self) -> PyResult<Arc<dyn Backend>> {
        self.store().map_err(|failure| broker_error(&failure))
    }

    /// Asks the store something, and waits for the answer; `None` if the time is over first.
    fn ask<T, F>(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        question: impl FnOnce(Arc<dyn Backend>) -> F,
    ) -> PyResult<Option<T>>
    where
        T: Send,
        F: Future<Output = Result<T, Error>> + Send,
    {
        let deadline = enter::deadline(timeout)?;
        let answer = runtime::wait(py, deadline, question(self.opened()?))?;
        answer.transpose().map_err(|failure| broker_error(&failure))
    }
}

fn stored(
    (id, state, document): (String, &str, &[u8]),
    (content_type, content_encoding): (&str, &str),
    reply_to: Option<String>,
) -> Stored {
    Stored {
        id,
        state: State::of_name(state),
        document: Bytes::copy_from_slice(document),
        content_type: content_type.into(),
        content_encoding: content_encoding.into(),
        reply_to,
    }
}

#[pymethods]
impl ResultStore {
    /// `broker` is the one that results by messages go through.
    #[new]
    #[pyo3(signature = (
        address, broker=None, *, key_prefix="", timeout=10.0, keep_results=86_400.0, max_size=134_217_728,
    ))]
    fn new(
        address: &str,
        broker: Option<&str>,
        key_prefix: &str,
        timeout: f64,
        keep_results: f64,
        max_size: u64,
    ) -> PyResult<Self> {
        let understood = |text| Address::parse(text).map_err(|failure| broker_error(&failure));
        let address = understood(address)?;
        let broker = broker.map(understood).transpose()?;
        let options = options(key_prefix, timeout, keep_results, max_size)?;
        let places: Vec<&Address> = std::iter::once(&address).chain(&broker).collect();
        let name = runtime::name(&places, &options);
        Ok(Self { address, broker, options, name })
    }

    /// The address, without its password.
    #[getter]
    fn address(&self) -> &str {
        self.address.shown()
    }

    fn __repr__(&self) -> String {
        format!("<ResultStore {}>", self.address)
    }

    /// What goes into `reply_to` of a message, if results come as messages: once this is known, they find their way.
    #[getter]
    fn reply_to(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let name = self.opened()?.reply_to().map(String::from);
        if name.is_some() {
            self.ask(py, None, |store| async move { store.prepare().await })?;
        }
        Ok(name)
    }

    /// What is known of a task: its state and its document, or None.
    fn get(&self, py: Python<'_>, id: String) -> PyResult<Py<PyAny>> {
        let found = self.ask(py, None, |store| async move { store.get(&id).await })?;
        found_object(py, found.flatten().as_ref())
    }

    /// The same when the task is ready.
    ///
    /// # Errors
    /// `TimeoutError` when the time is over; `BrokerError` if the store is away for longer than `patience`.
    #[pyo3(signature = (id, timeout=None, *, patience=30.0))]
    fn wait(&self, py: Python<'_>, id: String, timeout: Option<f64>, patience: f64) -> PyResult<Py<PyAny>> {
        let patience = super::patience(patience)?;
        let waited_for = id.clone();
        let found = self.ask(py, timeout, |store| async move { store.wait(&id, patience).await })?;
        match (found, timeout) {
            (Some(found), _) => found_object(py, Some(&found)),
            (None, Some(seconds)) => Err(error::not_in_time(
                py,
                format!(
                    "could not get the result of the task {waited_for}: it has not come within {seconds} s"
                ),
            )),
            (None, None) => Err(error::gave_up_waiting(py)),
        }
    }

    /// `wait` in the background.
    #[pyo3(signature = (id, *, patience=30.0))]
    fn begin_wait(&self, id: String, patience: f64) -> PyResult<Errand> {
        let (store, patience) = (self.opened()?, super::patience(patience)?);
        Errand::send(async move { Brought::Found(store.wait(&id, patience).await.map(Some)) })
    }

    /// `get` in the background.
    fn begin_get(&self, id: String) -> PyResult<Errand> {
        let store = self.opened()?;
        Errand::send(async move { Brought::Found(store.get(&id).await) })
    }

    /// Store the document of a task.
    #[pyo3(signature = (
        id, state, document, *, content_type="application/json", content_encoding="utf-8", reply_to=None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "a result has that many fields")]
    fn put(
        &self,
        py: Python<'_>,
        id: String,
        state: &str,
        document: &[u8],
        content_type: &str,
        content_encoding: &str,
        reply_to: Option<String>,
    ) -> PyResult<()> {
        let stored = stored((id, state, document), (content_type, content_encoding), reply_to);
        self.ask(py, None, |store| async move { store.store(&[stored]).await }).map(drop)
    }

    /// `put` in the background.
    #[pyo3(signature = (
        id, state, document, *, content_type="application/json", content_encoding="utf-8", reply_to=None,
    ))]
    fn begin_put(
        &self,
        id: String,
        state: &str,
        document: &[u8],
        content_type: &str,
        content_encoding: &str,
        reply_to: Option<String>,
    ) -> PyResult<Errand> {
        let stored = stored((id, state, document), (content_type, content_encoding), reply_to);
        let store = self.opened()?;
        Errand::send(async move { Brought::Nothing(store.store(&[stored]).await) })
    }

    /// Delete what is known of a task.
    fn forget(&self, py: Python<'_>, id: String) -> PyResult<()> {
        self.ask(py, None, |store| async move { store.forget(&id).await }).map(drop)
    }

    /// `forget` in the background.
    fn begin_forget(&self, id: String) -> PyResult<Errand> {
        let store = self.opened()?;
        Errand::send(async move { Brought::Nothing(store.forget(&id).await) })
    }

    /// Close its connections, for all who share it. The next use opens it anew.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let Some(store) = runtime::era().stores.take(&self.name) else { return Ok(()) };
        runtime::wait(py, None, async move { store.close().await }).map(drop)
    }
}
