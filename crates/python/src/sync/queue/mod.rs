//! `manyhands.sync.Queue` and its kinds.
//!
//! Items and those who wait for them lie under one lock, the desk's. An item leaves a queue only in the hands of
//! somebody who runs and takes it, and comes in the same way: who waits is called when there is something for him,
//! and looks himself. So who gives up loses neither an item nor, because he leaves his call behind, a wake-up.
//!
//! What may run Python code, comparing priorities and the hooks `_put` and `_get` of a subclass, does not happen under
//! the desk's lock but while one has the queue's *gate*, for which one waits detached.

mod classes;
mod desk;
mod steps;
mod waits;

pub(crate) use classes::{LifoQueue, PriorityQueue, Queue};
pub(crate) use waits::{AwaitGet, AwaitPut};
