//! Result stores: where outcomes are kept for whoever asks.
//!
//! A result is a document: the bytes that a worker wrote, in Celery's form. The store looks at the task's id and state,
//! and never into the document.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Error;

pub mod memory;
pub mod postgres;
pub mod redis;
pub mod rpc;
pub mod sqlite;
mod waiters;

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It has begun.
    Started,
    /// It has returned. Final: nothing overwrites it.
    Success,
    /// It has raised.
    Failure,
    /// It will be tried again.
    Retry,
    /// It was called off, or came too late.
    Revoked,
    /// A state of the user's own, in upper case.
    Custom(String),
}

impl State {
    /// The name by which Celery knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Started => "STARTED",
            Self::Success => "SUCCESS",
            Self::Failure => "FAILURE",
            Self::Retry => "RETRY",
            Self::Revoked => "REVOKED",
            Self::Custom(name) => name,
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        match name {
            "STARTED" => Self::Started,
            "SUCCESS" => Self::Success,
            "FAILURE" => Self::Failure,
            "RETRY" => Self::Retry,
            "REVOKED" => Self::Revoked,
            other => Self::Custom(other.into()),
        }
    }

    /// Whether the task will change no more.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Success | Self::Failure | Self::Revoked)
    }
}

/// The outcome of a task, or how far it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The task's id.
    pub id: String,
    /// How far it is.
    pub state: State,
    /// What whoever asks gets, byte by byte.
    pub document: Bytes,
    /// How `document` is written, e.g. "application/json" and "utf-8".
    pub content_type: String,
    /// "utf-8" or "binary".
    pub content_encoding: String,
    /// Where results by messages go: the `reply_to` of the task's message.
    pub reply_to: Option<String>,
}

/// A result as it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// How far the task is.
    pub state: State,
    /// As it was stored.
    pub document: Bytes,
}

/// What keeps results. All methods may be called from several tasks at once.
#[async_trait]
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// The address, without its password.
    fn address(&self) -> &str;

    /// What a producer puts into `reply_to`, if this store is reached by messages.
    fn reply_to(&self) -> Option<&str> {
        None
    }

    /// Makes ready for the results of tasks that are sent from now on: to be awaited before the first of them is sent, if
    /// this store is reached by messages.
    ///
    /// # Errors
    /// If the store cannot be reached.
    async fn prepare(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Stores results, in order, each for as long as the store was told to keep them.
    ///
    /// # Errors
    /// If not all could be stored: to store all of them again does no harm.
    async fn store(&self, results: &[Stored]) -> Result<(), Error>;

    /// What is known of a task; `None` if nothing is.
    ///
    /// # Errors
    /// If the store cannot be asked.
    async fn get(&self, id: &str) -> Result<Option<Found>, Error>;

    /// Waits until the task is ready, for ever. Nothing is lost if the call is given up.
    ///
    /// # Errors
    /// If the store cannot be asked, and cannot be for longer than `patience`.
    async fn wait(&self, id: &str, patience: Duration) -> Result<Found, Error>;

    /// Deletes what is known of a task.
    ///
    /// # Errors
    /// If the store cannot be asked.
    async fn forget(&self, id: &str) -> Result<(), Error>;

    /// Closes its connections.
    async fn close(&self);
}
