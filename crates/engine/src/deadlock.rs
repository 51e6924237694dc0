//! Deadlocks: those that are there ([`waits`]), and those that have only been lucky so far ([`orders`]).
//!
//! Both are for debugging: nobody asks them unless the user has switched the detection on.

pub mod orders;
pub mod waits;
