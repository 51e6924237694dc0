//! One file of messages and results, shared by all processes of a machine that name it.
//!
//! **Guarantees.** What was answered is in the file: it survives the death of the process, and what was published the
//! loss of power, too. A change is seen whole or not at all. Who waits for a change is woken by whoever made it, in
//! whichever process, and costs nothing until then. What a consumer had comes back when its process dies.
//!
//! **How.** One thread for each process and file does all work on it (`SQLite` blocks). What comes in while it is at the
//! disk is done together, in one transaction, and so for the price of one. Beside the file lies a folder with a socket for
//! each process that consumes or waits: by it the others ring, and see that it is dead when nobody holds it any more.

mod file;
mod peers;
mod session;
mod store;

pub(crate) use file::Trouble;
pub(crate) use session::Session;
pub(crate) use store::{Hears, Job, Kind, Listener, Store, now_in_ms};

/// A number for the file, whose numbers end a bit before.
pub(crate) fn bounded(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
