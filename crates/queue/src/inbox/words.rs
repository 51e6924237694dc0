//! The words in which the inbox is told and tells.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::tz::TimeZone;
use manyhands_engine::clock::Tick;
use manyhands_engine::rate::Rate;

use super::document::Answer;
use crate::backend::Stored;
use crate::broker::{Settlement, Tag};
use crate::message::{Message, Outgoing};

/// Now, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// By a clock that never goes back: for rates and for how long something took.
    pub steady: Tick,
    /// By the clock on the wall, since 1970: for what messages say.
    pub wall: Tick,
}

/// Which consumer a message came from: a new one after each lost connection.
pub type Line = u32;

/// By what a delivery is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// From which consumer.
    pub line: Line,
    /// What that one calls it.
    pub tag: Tag,
    /// Whether somebody may have had it before.
    pub is_redelivered: bool,
}

/// What a worker was told about all tasks.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The content types that it reads.
    pub accepts: HashSet<String>,
    /// A message that has taken so many workers with it is not given to another.
    pub most_losses: u32,
    /// Whether small priorities go first, as with Redis.
    pub small_goes_first: bool,
    /// Where times without an offset belong.
    pub zone: TimeZone,
    /// How the store's results are written. What the inbox itself writes is JSON, and says so.
    pub content_type: String,
    /// "utf-8" or "binary".
    pub content_encoding: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            accepts: HashSet::from(["application/json".into()]),
            most_losses: 3,
            small_goes_first: false,
            zone: TimeZone::UTC,
            content_type: "application/json".into(),
            content_encoding: "utf-8".into(),
        }
    }
}

/// What a worker was told about the tasks of one name.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of the user's, of its own")]
pub struct Terms {
    /// The name in messages.
    pub name: Arc<str>,
    /// By which of the worker's models they are run.
    pub model: usize,
    /// How often they may begin.
    pub rate: Option<Rate>,
    /// Whether a message is settled when its task has ended, not when it begins.
    pub acks_late: bool,
    /// Whether a message goes back whose worker was lost.
    pub reject_on_worker_lost: bool,
    /// Whether nobody wants results.
    pub ignore_result: bool,
    /// Whether somebody wants to know when they begin.
    pub track_started: bool,
    /// The hard and the soft limit, in seconds, if the message says none.
    pub limits: [Option<f64>; 2],
}

/// A task that was handed out, until it is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// A task that is to be begun.
#[derive(Debug)]
pub struct Work<'a> {
    /// By which it is finished.
    pub handle: Handle,
    /// The position of its terms.
    pub task: usize,
    /// What came.
    pub message: &'a Message,
    /// From which queue.
    pub queue: &'a str,
    /// Whether somebody may have had it before.
    pub is_redelivered: bool,
    /// Seconds: the hard limit, then the soft one.
    pub limits: [Option<f64>; 2],
    /// Whether somebody wants its result.
    pub is_result_wanted: bool,
    /// Whether somebody wants to know when it begins, which is for whoever runs it to say.
    pub is_tracked: bool,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It returned.
    Returned(Answer),
    /// It raised; with the exception in a few words.
    Raised(Answer, String),
    /// It wants to be tried again.
    Again {
        /// The exception because of which.
        answer: Answer,
        /// The same in a few words.
        summary: String,
        /// The wall clock's time from which.
        at: Tick,
        /// The arguments, if they are others.
        body: Option<Bytes>,
    },
    /// It will not have the message.
    Rejected {
        /// Somebody else may.
        requeue: bool,
        /// Why, in a few words.
        summary: String,
    },
    /// It says nothing.
    Ignored,
    /// It was ended at its hard limit, of so many seconds.
    TimedOut(f64),
    /// Its worker ended; with how.
    Lost(String),
    /// It was not begun after all.
    NotBegun,
    /// Its arguments cannot be read; with the reason.
    Unreadable(String),
}

/// What is to be done with a message, and before that with the result of its task.
#[derive(Debug, PartialEq)]
pub struct Step {
    /// The task's id.
    pub id: String,
    /// Stored first.
    pub result: Option<Stored>,
    /// Settled then.
    pub settle: Option<(Ticket, Settlement)>,
    /// Published: the next attempt of a message that was settled before this one began.
    pub publish: Option<Box<Outgoing>>,
}

impl Step {
    pub(crate) fn new(id: String, result: Option<Stored>, settle: Option<(Ticket, Settlement)>) -> Self {
        Self { id, result, settle, publish: None }
    }
}

/// What a log has to say of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// The task's name.
    pub task: Arc<str>,
    /// Its id.
    pub id: String,
    /// What happened.
    pub event: Event,
}

/// What happened to a task.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It came.
    Received,
    /// It returned, after so long.
    Succeeded(Duration),
    /// It raised, after so long; the exception, and its traceback in JSON.
    Failed(Duration, String, Bytes),
    /// It will be tried again.
    Retried(Duration, String),
    /// It was called off or came too late.
    Revoked(&'static str),
    /// It was rejected, or did not want to say.
    Rejected(String),
    /// Its worker was lost; how, and what becomes of it.
    Lost(String, &'static str),
    /// It became a dead letter.
    Dead(String),
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Effects {
    /// In this order.
    pub steps: Vec<Step>,
    /// Messages that do not count as prefetched any more.
    pub hold: Vec<Ticket>,
    /// For the log.
    pub notes: Vec<Note>,
}

/// What the worker has, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Ready to begin, or before a rate.
    pub ready: usize,
    /// Handed out and not finished.
    pub running: usize,
    /// Due later.
    pub held: usize,
    /// Of the ready ones, those that do not count as prefetched.
    pub behind_rates: usize,
    /// The memory of what is due later, in bytes.
    pub held_bytes: usize,
}
