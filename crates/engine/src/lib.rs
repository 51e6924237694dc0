//! The rules of manyhands, written once for every model of concurrency.
//!
//! This crate knows no Python, does no I/O, reads no clock and starts no thread: time comes in as
//! [`clock::Tick`]s, side effects go out as `#[must_use]` values that tell the caller what to do next.
//! That is what lets every rule be tested under virtual time and every hand-over under `loom`.

#![forbid(unsafe_code)]

pub mod begun;
pub mod channel;
pub mod claims;
pub mod clock;
pub mod crew;
pub mod deadlock;
pub mod door;
pub mod doorbell;
pub mod gate;
pub mod keyed;
mod lane;
pub mod line;
pub mod notices;
pub mod once;
pub mod pacer;
pub mod park;
pub mod parts;
pub mod passage;
pub mod permits;
pub mod policy;
pub mod prim;
pub mod rate;
pub mod ring;
pub mod rounds;
pub mod scheduler;
pub mod shared;
pub mod start;
pub mod statistics;
pub mod task;
pub mod timer;
pub mod turnstile;
