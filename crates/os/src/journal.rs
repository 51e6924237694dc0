//! What a run has done, row by row, in a file that survives the run.
//!
//! A run over rows appends one record for each row it finishes. After a crash the same run opens the journal
//! again, learns which rows are done, reads their results back and runs only the others.
//!
//! ```text
//! rows ──claim──▶ Ledger ──▶ run it, or: done before      results ──finish──▶ Ledger ──▶ rows in their order
//!                   │ which rows are done (in memory: key → offset)               │
//!                   └────────────────────── Journal (on disk: the results) ◀──────┘
//! ```
//!
//! - A row's [`Key`] is what it contains and the how-manieth of its like it is, never its place: rows may be
//!   inserted, removed and moved between two runs.
//! - [`Journal::append`] returns when the kernel has the record, so a killed process loses no finished row; the
//!   disk has it within a second, so a power cut loses a second's rows at most. Lost rows are run again.
//! - The file only grows. Its last records may be torn by a crash: they fail their checksum and are cut off.
//!   Damage before a place that is known to have been synced is no crash's work and is reported instead.
//! - One run at a time: the file is locked for as long as it is open.
//! - Everything read is checked before it is believed: kind, length against the file, checksum.
//!
//! The format is written down in `record`.

mod file;
mod ledger;
mod order;
mod record;
#[cfg(test)]
mod tests;

pub use file::{Journal, JournalError, Recovered};
pub use ledger::{Claim, Ledger, Row, Ticket};
pub use record::{Content, Key, Kind, MAX_PAYLOAD};
