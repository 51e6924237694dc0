//! `manyhands.sync.Channel` and `select`.
//!
//! The rules are [`engine`](manyhands_engine::channel)'s: whoever comes second gives an item to who waits, or takes it from
//! him, so somebody who waits has nothing to look for when he is woken, only to look what was decided. To wait at one
//! channel is to choose among one.

mod candidate;
mod choice;
mod classes;
mod selecting;

pub(crate) use classes::Channel;
pub(crate) use selecting::{aselect, select};
