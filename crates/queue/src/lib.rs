//! Messages between producers and workers of the task queue, in the words of Celery's protocol.
//!
//! ```text
//! producer ──Outgoing──▶ Broker ══▶ Consumer ──Delivery──▶ worker ──Settlement──▶ Broker
//!                                                            └────────Stored──────▶ Backend ──▶ whoever waits
//! ```
//!
//! **Guarantees.** What [`Broker::publish`] confirmed is delivered until it is settled: at least once. Bytes that come
//! from a broker are hostile: sizes are limited, a message that cannot be read becomes a dead letter with the reason, and
//! never an error of the one who reads. A password is in no text that this crate writes.
//!
//! **Not here.** No task is run, and no body is decoded: it stays the bytes that it was. No Python.

pub mod address;
pub mod backend;
pub mod broker;
pub mod caller;
mod error;
pub mod inbox;
pub mod message;
mod named;
pub mod open;
mod packed;
mod sqlite;
mod tls;
pub mod wire;

pub use backend::Backend;
pub use broker::Broker;
pub use error::{Error, PublishError};
