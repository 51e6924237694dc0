//! The kernel's side of manyhands: sleeping and waking, the time, the processors we may use, durable files.
//!
//! Raw system calls come through `rustix`, which makes them safe; nothing here needs `unsafe` yet.

pub mod clock;
pub mod journal;
pub mod output;
pub mod park;
pub mod processors;
#[cfg(test)]
mod scratch;
pub mod spool;
