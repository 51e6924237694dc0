//! How messages are written down: the formats of the brokers, as pure functions over bytes.
//!
//! **Guarantees.** Whatever the bytes are, reading them ends in a [`Message`](crate::message::Message) or in an
//! [`Unreadable`](crate::broker::Unreadable) with the reason: never in a panic, and never in more memory than a small
//! multiple of what the [`Limits`] let through. What was read and is written again means the same. Every header but
//! `task` and `id` may be missing, null, or of an odd type: it is read for what it can mean, or left out.
//!
//! **Not here.** No connection, no clock, no identifier is made up: all of that comes in as a value. Bodies stay as they
//! are, but for those of protocol 1, which are put into the form of protocol 2.

pub mod envelope;
mod headers;
mod json;
pub mod request;
pub mod row;
pub mod table;
pub mod time;
mod v1;

/// How large what is read may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The body, in bytes.
    pub body: u64,
    /// All headers and properties together, in bytes as they are written.
    pub headers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // Headers take many times their text in memory; AMQP lets half of this through.
        Self { body: 128 << 20, headers: 256 << 10 }
    }
}

/// A message that a broker's format cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not write the message: {reason}")]
pub struct Unwritable {
    /// What was found, and what was expected.
    pub reason: String,
}

/// Cuts a reason that may quote what somebody sent.
fn shortened(mut reason: String) -> String {
    const MOST: usize = 300;
    if reason.len() > MOST {
        let end = (0..=MOST).rev().find(|&end| reason.is_char_boundary(end)).unwrap_or(0);
        reason.truncate(end);
        reason.push('…');
    }
    reason
}
