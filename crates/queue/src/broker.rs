//! Brokers: who keeps messages between producers and workers.
//!
//! A broker is an address that messages are published to and consumed from. Each connects when it is first used, and
//! again by itself when it was cut off: a call that meets no server fails with [`Error::Unreachable`], and the next one
//! tries anew. How long to go on trying is for the caller to say.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::error::{Error, PublishError};
use crate::message::{Message, Outgoing};

pub mod amqp;
pub(crate) mod control;
pub mod memory;
pub mod redis;
mod roll;
pub mod sqlite;

/// What a message is called by its consumer until it is settled. Of no use to anybody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u64);

/// A queue as it is declared. A broker that knows of no declarations looks only at the name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Declaration {
    /// Its name; its exchange and its routing key are called the same.
    pub name: String,
    /// The highest priority that it sorts by, on a broker that must be told (`x-max-priority`).
    pub max_priority: Option<u8>,
    /// "classic" or "quorum", on a broker that has kinds; `None` for its default.
    pub kind: Option<String>,
}

impl Declaration {
    /// Whether it is a name, and nothing else.
    pub(crate) fn says_nothing(&self) -> bool {
        self.max_priority.is_none() && self.kind.is_none()
    }
}

/// What a consumer asks for.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// From which queues, in which order where several have messages of the same priority.
    pub queues: Vec<Declaration>,
    /// How many messages it may have that are neither settled nor held; 0: as many as there are.
    pub prefetch: u32,
    /// A message with a larger body becomes a dead letter, without being read whole.
    pub max_body: u64,
    /// After how long a message that nobody has settled is given to another consumer, on a broker that does not see
    /// a consumer die.
    pub visibility: Duration,
    /// Who consumes, for the broker's lists of consumers.
    pub name: String,
}

/// A message that was delivered.
#[derive(Debug)]
pub struct Delivery {
    /// By which it is settled.
    pub tag: Tag,
    /// From which queue it came.
    pub queue: String,
    /// Whether somebody may have had it before.
    pub is_redelivered: bool,
    /// What came; or why nobody can read it: such a one is to be settled like any other, by rights as dead.
    pub content: Result<Message, Unreadable>,
}

/// A message that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unreadable {
    /// What was found, and what was expected.
    pub reason: String,
}

/// What becomes of a delivered message.
#[derive(Debug, Clone, PartialEq)]
pub enum Settlement {
    /// It is done with.
    Done,
    /// It goes back to its queue, to be the next one delivered.
    Return,
    /// It goes back to its queue, behind the others.
    Requeue {
        /// What it is and where it came from, if it was [held](Settle::hold).
        held: Option<Box<Outgoing>>,
    },
    /// It goes to the dead letters of its queue, with the reason.
    Dead {
        /// Why nobody could do anything with it.
        reason: String,
        /// What it is and where it came from, if it was [held](Settle::hold).
        held: Option<Box<Outgoing>>,
    },
    /// Another message takes its place, in one step where the broker can: a retry.
    Replace(Box<Outgoing>),
}

/// A dead letter, as it lies in the broker.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// By which it can be brought back.
    pub key: String,
    /// The queue that it came from.
    pub queue: String,
    /// Why it is there.
    pub reason: String,
    /// Seconds since 1970 at which it died.
    pub died: f64,
    /// What it was, if it can be read.
    pub content: Result<Message, Unreadable>,
}

/// A task that shall not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The task's id.
    pub id: String,
    /// Whether it is stopped also if it runs already.
    pub terminate: bool,
}

/// What keeps messages. All methods may be called from several tasks at once.
#[async_trait]
pub trait Broker: Send + Sync + std::fmt::Debug {
    /// The address, without its password.
    fn address(&self) -> &str;

    /// Declares a queue before its first use. Idempotent. A declaration that is nothing but a name is completed by the
    /// [options](crate::open::Options) of the broker.
    ///
    /// # Errors
    /// [`Error::Refused`] if the server has one by that name that is declared otherwise.
    async fn declare(&self, queue: &Declaration) -> Result<(), Error>;

    /// Publishes the messages in order and returns when the broker has confirmed all of them. A queue that was not
    /// declared is declared with its defaults.
    ///
    /// # Errors
    /// How many are safe, and why not all.
    async fn publish(&self, messages: &[Outgoing]) -> Result<(), PublishError>;

    /// Begins to consume.
    ///
    /// # Errors
    /// If the server cannot be reached, or refuses.
    async fn consume(&self, subscription: Subscription) -> Result<Box<dyn Consumer>, Error>;

    /// How many messages wait in a queue: those that nobody has been given.
    ///
    /// # Errors
    /// If the server cannot be asked.
    async fn depth(&self, queue: &str) -> Result<u64, Error>;

    /// Deletes what waits in a queue; returns how many there were.
    ///
    /// # Errors
    /// If the server cannot be asked.
    async fn purge(&self, queue: &str) -> Result<u64, Error>;

    /// The dead letters of a queue, the oldest first, at most so many.
    ///
    /// # Errors
    /// If the server cannot be asked.
    async fn dead_letters(&self, queue: &str, most: usize) -> Result<Vec<DeadLetter>, Error>;

    /// Puts dead letters back into their queue; all of them if no keys are given. Returns how many.
    ///
    /// # Errors
    /// If the server cannot be asked.
    async fn revive(&self, queue: &str, keys: &[String]) -> Result<u64, Error>;

    /// Deletes the dead letters of a queue; returns how many.
    ///
    /// # Errors
    /// If the server cannot be asked.
    async fn bury(&self, queue: &str) -> Result<u64, Error>;

    /// Has workers drop tasks that have not begun. Those of this library learn of it by [`revocations`](Self::revocations);
    /// Celery's by a broadcast, where they have one.
    ///
    /// # Errors
    /// If the server cannot be told.
    async fn revoke(&self, ids: &[String], terminate: bool) -> Result<(), Error> {
        let _ = (ids, terminate);
        let action = "revoke a task".into();
        Err(Error::Refused {
            action,
            server: self.address().into(),
            reason: "it keeps no revocations".into(),
        })
    }

    /// What was revoked after the mark `since`, and the mark to ask with next time. A worker asks with 0 before it takes
    /// its first message, for all that is kept (three hours and some ten thousand are enough), and from then on about
    /// once a second.
    ///
    /// # Errors
    /// If the server cannot be asked.
    async fn revocations(&self, since: u64) -> Result<(u64, Vec<Revocation>), Error> {
        Ok((since, Vec::new()))
    }

    /// Closes its connections. Everything fails with [`Error::Closed`] from then on.
    async fn close(&self);
}

/// One consumer of a broker. Dropped, it gives back what it was delivered and nobody has settled.
#[async_trait]
pub trait Consumer: Send {
    /// The next messages: waits for the first one, then takes with it what is there, at most `most`. Nothing is lost if
    /// the call is given up. Returns an empty list only when the consumer was stopped.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when the connection was lost: this consumer is over, and what it has not settled may come
    /// again, to whoever consumes next.
    async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, Error>;

    /// The door by which messages are settled, from other tasks, too. It outlives the consumer.
    fn settler(&self) -> std::sync::Arc<dyn Settle>;
}

/// What settles delivered messages.
#[async_trait]
pub trait Settle: Send + Sync {
    /// Settles messages; returns when the broker has it.
    ///
    /// # Errors
    /// [`Error::TakenBack`] if they belong to a connection that was lost, on a broker that gives them to others then;
    /// [`Error::Unreachable`] if it is worth trying again.
    async fn settle(&self, settlements: Vec<(Tag, Settlement)>) -> Result<(), Error>;

    /// The messages are kept for later, unsettled: they do not count as prefetched any more, and are not given to others
    /// while this consumer lives. Whoever holds a message keeps it: a settlement that sends it elsewhere has to bring it
    /// along. Without it, where the broker has not kept it either, the message goes back to its queue instead.
    ///
    /// # Errors
    /// If the server must be told and cannot be.
    async fn hold(&self, tags: &[Tag]) -> Result<(), Error>;

    /// From now on the consumer may have so many messages that are neither settled nor held. One that fetches only what
    /// `next` asks for need not be told.
    ///
    /// # Errors
    /// If the server must be told and cannot be.
    async fn prefetch(&self, most: u32) -> Result<(), Error> {
        let _ = most;
        Ok(())
    }

    /// Stops deliveries: `next` hands out what has already come, and then ends.
    async fn stop(&self);
}

/// Why a message with so large a body is not read.
fn too_large(found: u64, most: u64) -> Unreadable {
    Unreadable {
        reason: format!("could not take the message: found a body of {found} bytes, expected at most {most}"),
    }
}

/// How many messages a consumer may have: as many as there are, if it names no limit.
fn limit_of(prefetch: u32) -> usize {
    if prefetch == 0 { usize::MAX } else { prefetch as usize }
}

fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
