//! The kernel's side of manyhands: sleeping and waking, the time, the processors we may use, durable files.
//!
//! Raw system calls come through `rustix`, which makes nearly all of them safe. What is left (mapping memory) is
//! in `sys`, the only folder here with `unsafe` in it; elsewhere a function or two pass a promise of their caller on to it.

mod cgroup;
pub mod clock;
pub mod event;
pub mod journal;
pub mod memory;
pub mod output;
pub mod park;
pub mod process;
pub mod processors;
pub mod ring;
#[cfg(test)]
mod scratch;
pub mod segment;
pub mod shared;
pub mod slots;
pub mod spool;
pub mod stock;
mod sys;
