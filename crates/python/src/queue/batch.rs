//! `_core.TaskBatch`: task messages that are written here, and published together.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use manyhands_queue::message::{Headers, Message, Outgoing, Properties};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde_json::{Map, Value};
use uuid::Uuid;

/// Messages on their way to a broker. Publishing empties it.
#[pyclass(module = "manyhands._core", frozen)]
pub(crate) struct TaskBatch(Mutex<Vec<Outgoing>>);

impl TaskBatch {
    fn messages(&self) -> MutexGuard<'_, Vec<Outgoing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(&self) -> Vec<Outgoing> {
        std::mem::take(&mut self.messages())
    }
}

#[pymethods]
impl TaskBatch {
    #[new]
    fn new() -> Self {
        Self(Mutex::default())
    }

    fn __len__(&self) -> usize {
        self.messages().len()
    }

    /// Write a message; returns its task's id.
    #[pyo3(signature = (
        task, queue, body, *, id=None, content_type="application/json", content_encoding="utf-8",
        compression=None, argsrepr=None, kwargsrepr=None, origin=None, eta=None, expires=None, expiration=None,
        priority=0, time_limit=None, soft_time_limit=None, ignore_result=None, root_id=None, parent_id=None,
        group=None, group_index=None, shadow=None, retries=0, reply_to=None, headers=None, is_persistent=true,
    ))]
    #[expect(clippy::too_many_arguments, reason = "a message has that many fields")]
    fn add(
        &self,
        task: String,
        queue: String,
        body: &[u8],
        id: Option<String>,
        content_type: &str,
        content_encoding: &str,
        compression: Option<String>,
        argsrepr: Option<String>,
        kwargsrepr: Option<String>,
        origin: Option<String>,
        eta: Option<String>,
        expires: Option<String>,
        expiration: Option<u64>,
        priority: u8,
        time_limit: Option<f64>,
        soft_time_limit: Option<f64>,
        ignore_result: Option<bool>,
        root_id: Option<String>,
        parent_id: Option<String>,
        group: Option<String>,
        group_index: Option<i64>,
        shadow: Option<String>,
        retries: u32,
        reply_to: Option<String>,
        headers: Option<&str>,
        is_persistent: bool,
    ) -> PyResult<String> {
        let id = id.unwrap_or_else(|| Uuid::new_v4().to_string());
        let headers = Headers {
            lang: Some("py".into()),
            task,
            root_id: Some(root_id.unwrap_or_else(|| id.clone())),
            id: id.clone(),
            shadow,
            eta,
            expires,
            group,
            group_index,
            retries,
            timelimit: [time_limit, soft_time_limit],
            parent_id,
            argsrepr,
            kwargsrepr,
            origin,
            ignore_result,
            compression,
            other: headers.map_or(Ok(Map::new()), others)?,
            ..Headers::default()
        };
        let properties = Properties {
            content_type: content_type.into(),
            content_encoding: content_encoding.into(),
            correlation_id: Some(id.clone()),
            reply_to,
            priority,
            is_persistent,
            expiration,
        };
        let message = Message { headers, properties, body: Bytes::copy_from_slice(body) };
        self.messages().push(Outgoing { queue, message });
        Ok(id)
    }
}

/// The user's headers, written as JSON.
fn others(json: &str) -> PyResult<Map<String, Value>> {
    serde_json::from_str(json).map_err(|failure| {
        PyValueError::new_err(format!("could not use `headers`: found {failure}, expected what JSON holds"))
    })
}
