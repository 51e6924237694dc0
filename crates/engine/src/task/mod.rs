//! One task's life: the state machine under every future.
//!
//! ```text
//!              start                finish
//!   Pending ──────────▶ Running ──────────────▶ Finished
//!      │  ▲───────────────┘ │ requeue (retry)
//!      │                    │ cancel (forced)
//!      ▼ cancel             ▼
//!   Cancelled ──────▶ CancelledAndNotified
//!              start
//! ```
//!
//! The states and their meaning are PEP 3148's, plus the way back from Running to Pending that a retry takes.
//! A [`Cell`] holds the call until someone starts it, the outcome once there is one, and everybody who waits
//! for it. Transitions are atomic; each returns what its caller must do next, so that waking, calling back
//! and dropping happen outside the cell's lock.
//!
//! # Guarantees
//! - A call is handed out at most once between two `requeue`s.
//! - Exactly one of `finish` and `cancel` succeeds; everybody else is told so and gets their values back.
//! - A waiter accepted by `subscribe` is handed to exactly one caller: the one whose transition ended the task,
//!   or the one who took it back with `unsubscribe`. No wake-up is lost.
//!
//! # Guards
//! The standard library's `wait` and `as_completed` hold a future's condition while they look at its state and
//! enrol themselves. A cell that was [guarded](Cell::guard) refuses transitions by callers that do not hold
//! that condition, with `Guarded`; they acquire it and come again with [`Key::Held`].
//!
//! The critical sections move values and compare states: they never call out, so a caller may hold any other
//! lock, and whoever holds this one never waits.

mod cell;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;

pub use cell::{Cancel, Cell, Finish, Key, Start, State};
