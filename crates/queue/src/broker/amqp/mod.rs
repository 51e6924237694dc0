//! AMQP 0-9-1, which is `RabbitMQ`, as Celery uses it.
//!
//! **Guarantees.** What is published is confirmed by the server, and a queue that does not exist is an error: nothing
//! vanishes. Messages go out over one connection and come in over another, so that a server that is short of memory, and
//! takes no more messages, still takes what settles those that it has. Whoever was cut off gets a new connection with
//! the next call. A queue is declared as Celery declares it, to the letter.
//!
//! **Settling.** An acknowledgement is not answered in AMQP: [`Settle::settle`](crate::broker::Settle::settle) returns
//! when it was written. Were it lost with the connection, the message would come again. `Requeue`, `Dead` and `Replace`
//! publish first and acknowledge then: a crash in between doubles a message and loses none.
//!
//! **Hostile headers.** What comes in passes a guard first: headers that lie too deep in each other, or that nobody can
//! read, are taken off their message, which becomes a dead letter with its body and the reason; what is no AMQP ends the
//! connection.
//!
//! **Large bodies.** The server says how large a body is before it sends it, but the library that reads the connection
//! puts the whole body together before it hands it over: what is larger than `max_body` becomes a dead letter only then.
//! What protects the memory is the server's own limit (`max_message_size`, 128 MiB by default), for each of the
//! prefetched messages.
//!
//! **Alarms.** A server short of memory or disk takes no messages: to publish waits as long as one waits for answers,
//! and fails with [`Error::Full`] then; what had been written when the alarm came may still arrive, once it is over.
//!
//! **Held messages.** The server closes the channel of a consumer that keeps a message unsettled for longer than its
//! `consumer_timeout` (half an hour by default): all that it had come again, to the next consumer. Only the server's
//! configuration can change that.
//!
//! **Quorum queues.** What somebody has declared as one is taken as it is. Their server limits each consumer by itself, so
//! that messages which are held count as prefetched, there.
//!
//! **Prefetch.** It counts for all queues of a consumer together where the server can do that (classic queues of
//! `RabbitMQ` 3), else for each of its queues.

mod aside;
mod book;
mod consume;
mod dead;
mod declare;
mod desk;
mod guard;
mod ledger;
pub(crate) mod link;
pub(crate) mod publish;
mod revoked;
pub(crate) mod server;
mod stream;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use lapin::Channel;
use lapin::options::QueuePurgeOptions;

use self::link::{Link, Live};
use self::publish::Letter;
use self::revoked::Ear;
use self::server::Server;
use super::{Broker, Consumer, DeadLetter, Declaration, Revocation, Subscription};
use crate::address::Address;
use crate::error::{Error, PublishError};
use crate::message::{Message, Outgoing};
use crate::named::locked;
use crate::open::Options;
use crate::wire::table;

/// The largest frame that every server takes; the headers of a message must fit into one.
const FRAME: usize = 128 << 10;

/// The largest frame but for properties on a connection by which messages come in: lapin keeps room for 64 of them. AMQP
/// allows no smaller limit.
const SMALL_FRAME: usize = 4 << 10;

/// A `RabbitMQ` that keeps messages.
#[derive(Debug)]
pub struct AmqpBroker(Arc<Post>);

/// What the broker and its consumers share.
#[derive(Debug)]
struct Post {
    server: Arc<Server>,
    /// The connection that messages go out by.
    out: Link,
    /// The connection that they come in by, and by which the server is asked.
    back: Link,
    /// The queues that somebody has declared here, as they were declared.
    known: Mutex<HashMap<String, Declaration>>,
    /// How all others are declared.
    usual: Declaration,
    /// What is heard of broadcasts.
    ear: Ear,
}

impl AmqpBroker {
    /// The broker at an address. Connects when it is first used.
    ///
    /// # Errors
    /// [`Error::Address`] if the address is not understood.
    pub fn open(address: &Address, options: &Options) -> Result<Self, Error> {
        let server = Arc::new(Server::at(address, options)?);
        Ok(Self(Arc::new(Post {
            out: Link::new(Arc::clone(&server), "manyhands: publishes"),
            back: Link::with_small_frames(Arc::clone(&server), "manyhands: consumes"),
            server,
            known: Mutex::default(),
            usual: Declaration {
                max_priority: options.max_priority,
                kind: options.queue_type.clone(),
                ..Declaration::default()
            },
            ear: Ear::default(),
        })))
    }
}

impl Post {
    /// Declares a queue by a connection, once.
    async fn declare(&self, live: &Live, queue: &Declaration) -> Result<(), Error> {
        if live.has_declared(&queue.name) {
            return Ok(());
        }
        let action = format!("declare the queue {}", queue.name);
        let channel = live.channel().await?;
        self.server.answer(&action, declare::declare(&channel, queue)).await?;
        live.declared(&queue.name);
        Ok(())
    }

    /// Sees to it that a queue exists of which nothing is said but its name.
    async fn prepare(&self, live: &Live, queue: &str) -> Result<(), Error> {
        if live.has_declared(queue) {
            return Ok(());
        }
        if let Some(known) = self.known(queue) {
            return self.declare(live, &known).await;
        }
        let usual = Declaration { name: queue.into(), ..self.usual.clone() };
        if !usual.says_nothing() {
            return self.declare(live, &usual).await;
        }
        let channel = live.channel().await?;
        let question = async {
            match declare::count(&channel, queue).await {
                Err(error) if server::is(&error, declare::NOT_FOUND) => Ok(false),
                answer => answer.map(|_| true),
            }
        };
        // One that is there has been declared by somebody who knows how.
        if self.server.answer(&format!("look for the queue {queue}"), question).await? {
            live.declared(queue);
            return Ok(());
        }
        self.declare(live, &usual).await
    }

    fn known(&self, queue: &str) -> Option<Declaration> {
        locked(&self.known).get(queue).cloned()
    }

    fn remember(&self, queue: &Declaration) {
        if queue.says_nothing() {
            return;
        }
        locked(&self.known).insert(queue.name.clone(), queue.clone());
    }

    /// Publishes to queues, and declares those that are not there.
    async fn send(&self, letters: Vec<Letter>) -> Result<(), PublishError> {
        let nothing = |error| PublishError { confirmed: 0, error };
        let live = self.out.live().await.map_err(nothing)?;
        let queues: BTreeSet<&str> = letters.iter().map(|letter| letter.queue.as_str()).collect();
        for queue in queues {
            self.prepare(&live, queue).await.map_err(nothing)?;
        }
        publish::publish(&self.server, &live, letters, true).await
    }

    /// Publishes to the dead letters of queues.
    async fn send_dead(&self, letters: Vec<Letter>) -> Result<(), PublishError> {
        let nothing = |error| PublishError { confirmed: 0, error };
        let live = self.out.live().await.map_err(nothing)?;
        let queues: BTreeSet<&str> = letters.iter().map(|letter| letter.queue.as_str()).collect();
        for queue in queues.into_iter().filter(|queue| !live.has_declared(queue)) {
            let channel = live.channel().await.map_err(nothing)?;
            let question = declare::declare_bare(&channel, queue);
            self.server.answer(&format!("declare the queue {queue}"), question).await.map_err(nothing)?;
            live.declared(queue);
        }
        publish::publish(&self.server, &live, letters, true).await
    }

    /// Refuses a name for which AMQP has no room, with that of its dead letters.
    fn check(&self, queue: &str) -> Result<(), Error> {
        const MOST: usize = 250;
        if queue.len() <= MOST {
            return Ok(());
        }
        let reason = format!("found a name of {} bytes, expected at most {MOST}", queue.len());
        Err(self.server.refused("use a queue", reason))
    }

    /// A channel for questions, which an error closes.
    async fn channel(&self) -> Result<Channel, Error> {
        self.back.live().await?.channel().await
    }

    fn letter(&self, queue: &str, message: &Message) -> Result<Letter, Error> {
        self.check(queue)?;
        let properties = table::encode(message, FRAME)
            .map_err(|unwritable| self.server.refused("publish a message", unwritable.reason))?;
        Ok(Letter { queue: queue.into(), properties, body: message.body.clone() })
    }

    async fn count(&self, queue: &str) -> Result<u64, Error> {
        let channel = self.channel().await?;
        let question = zero_if_missing(declare::count(&channel, queue));
        self.server.answer(&format!("count the messages of {queue}"), question).await
    }

    async fn purge(&self, queue: &str) -> Result<u64, Error> {
        let channel = self.channel().await?;
        let question = zero_if_missing(channel.queue_purge(queue.into(), QueuePurgeOptions::default()));
        self.server.answer(&format!("empty the queue {queue}"), question).await
    }
}

/// In a queue that does not exist there is nothing.
async fn zero_if_missing(question: impl Future<Output = lapin::Result<u32>>) -> lapin::Result<u64> {
    match question.await {
        Err(error) if server::is(&error, declare::NOT_FOUND) => Ok(0),
        answer => answer.map(u64::from),
    }
}

#[async_trait]
impl Broker for AmqpBroker {
    fn address(&self) -> &str {
        self.0.server.shown()
    }

    async fn declare(&self, queue: &Declaration) -> Result<(), Error> {
        self.0.check(&queue.name)?;
        let live = self.0.out.live().await?;
        live.forget(&queue.name);
        if queue.says_nothing() {
            let usual = Declaration { name: queue.name.clone(), ..self.0.usual.clone() };
            return self.0.declare(&live, &usual).await;
        }
        self.0.declare(&live, queue).await?;
        self.0.remember(queue);
        Ok(())
    }

    async fn publish(&self, messages: &[Outgoing]) -> Result<(), PublishError> {
        let letters: Result<Vec<_>, _> =
            messages.iter().map(|outgoing| self.0.letter(&outgoing.queue, &outgoing.message)).collect();
        self.0.send(letters.map_err(|error| PublishError { confirmed: 0, error })?).await
    }

    async fn consume(&self, subscription: Subscription) -> Result<Box<dyn Consumer>, Error> {
        for queue in &subscription.queues {
            self.0.check(&queue.name)?;
            self.0.remember(queue);
        }
        Ok(Box::new(consume::begin(&self.0, &subscription).await?))
    }

    async fn depth(&self, queue: &str) -> Result<u64, Error> {
        self.0.check(queue)?;
        self.0.count(queue).await
    }

    async fn purge(&self, queue: &str) -> Result<u64, Error> {
        self.0.check(queue)?;
        self.0.purge(queue).await
    }

    async fn dead_letters(&self, queue: &str, most: usize) -> Result<Vec<DeadLetter>, Error> {
        self.0.check(queue)?;
        dead::list(&self.0, queue, most).await
    }

    async fn revive(&self, queue: &str, keys: &[String]) -> Result<u64, Error> {
        self.0.check(queue)?;
        dead::revive(&self.0, queue, keys).await
    }

    async fn bury(&self, queue: &str) -> Result<u64, Error> {
        self.0.check(queue)?;
        self.0.purge(&dead::queue_of(queue)).await
    }

    async fn revoke(&self, ids: &[String], terminate: bool) -> Result<(), Error> {
        revoked::revoke(&self.0, ids, terminate).await
    }

    async fn revocations(&self, since: u64) -> Result<(u64, Vec<Revocation>), Error> {
        revoked::since(&self.0, since).await
    }

    async fn close(&self) {
        self.0.server.close();
        self.0.out.close().await;
        self.0.back.close().await;
    }
}
