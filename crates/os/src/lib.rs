//! The kernel's side of manyhands: sleeping and waking, the time, the processors we may use.
//!
//! Raw system calls come through `rustix`, which makes them safe; nothing here needs `unsafe` yet.

pub mod clock;
pub mod park;
pub mod processors;
