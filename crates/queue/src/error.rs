//! What may go wrong between here and a server.

use thiserror::Error;

/// Why something could not be done with a broker or a result store. No text holds a password.
#[derive(Debug, Error)]
pub enum Error {
    /// The address is none that this library understands.
    #[error("could not use the address {address}: {reason}")]
    Address {
        /// As it was given, without its password.
        address: String,
        /// What was found, and what was expected.
        reason: String,
    },
    /// The server is not there, or went away: it may be worth trying again.
    #[error("could not reach {server}: {reason}")]
    Unreachable {
        /// Its address, without the password.
        server: String,
        /// In the words of the operating system or of the server.
        reason: String,
    },
    /// The server does not let us do that: to try again will not help.
    #[error("could not {action} at {server}: {reason}")]
    Refused {
        /// What was to be done, as a verb and its object.
        action: String,
        /// Its address, without the password.
        server: String,
        /// In the words of the server.
        reason: String,
    },
    /// A message or a result is larger than it may be.
    #[error("could not take {what}: found {found} bytes, expected at most {most}")]
    TooLarge {
        /// Of what.
        what: String,
        /// Its size.
        found: u64,
        /// The limit.
        most: u64,
    },
    /// There is no place left to keep messages: a full disk, or a server at its limit of memory.
    #[error("could not keep more at {server}: {reason}")]
    Full {
        /// Its address, without the password.
        server: String,
        /// In the words of the server or of the operating system.
        reason: String,
    },
    /// What was to be settled has been given to somebody else meanwhile.
    #[error("could not settle a message: {server} has taken it back when the connection was lost")]
    TakenBack {
        /// Its address, without the password.
        server: String,
    },
    /// It was closed here.
    #[error("could not use {server}: it was closed")]
    Closed {
        /// Its address, without the password.
        server: String,
    },
}

impl Error {
    /// Whether the same may succeed later, without anybody changing anything here.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Full { .. })
    }
}

/// A batch was not published to its end.
#[derive(Debug, Error)]
#[error("{error} ({confirmed} messages of the batch were taken)")]
pub struct PublishError {
    /// How many, from the first on, the broker has for certain.
    pub confirmed: usize,
    /// Why it has not all of them.
    #[source]
    pub error: Error,
}
