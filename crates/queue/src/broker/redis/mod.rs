//! `redis://` and `rediss://`: messages in Redis, laid out as kombu does, so that Celery's producers and workers take part.
//!
//! **Guarantees.** A message is either in its list or among the unacknowledged ones, at every moment: it is taken, given
//! back, buried and replaced in one step of the server. The smaller priority goes first, in steps of three, as with kombu.
//! What a consumer of ours had when it died is given to others within seconds.
//!
//! **Not here.** No exchanges but the anonymous one for what is published; those of other producers are understood where a
//! message goes back. Redis 6.2 or newer; no cluster, since kombu's layout has keys for all queues together.

pub(crate) mod connection;
mod consumer;
mod held;
pub(crate) mod keys;
mod life;
mod revoked;
mod scripts;
mod tls;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use redis::{Cmd, Pipeline, Value, pipe};

use self::connection::{Link, Server};
use self::consumer::{Core, RedisConsumer};
use self::keys::{Keys, binding, step_of};
use super::{Broker, Consumer, DeadLetter, Declaration, Revocation, Subscription, Unreadable, control};
use crate::address::Address;
use crate::error::{Error, PublishError};
use crate::message::Outgoing;
use crate::open::Options;
use crate::wire::{Limits, envelope};

/// How many messages, and about how many bytes, are published in one go.
const PUBLISHED_AT_ONCE: (usize, usize) = (500, 4 << 20);

/// How many dead letters are brought back in one step.
const REVIVED_AT_ONCE: usize = 100;

/// About how many bytes of dead letters are listed.
const LISTED_AT_ONCE: usize = 64 << 20;

/// The largest value that Redis takes.
const LARGEST: usize = 512 << 20;

/// What a broker and its consumers share.
#[derive(Debug)]
struct Shared {
    link: Link,
    keys: Keys,
    /// The channel by which Celery's workers are told something.
    broadcasts: String,
    ear: revoked::Ear,
    limits: Limits,
    is_closed: AtomicBool,
    /// The queues that were declared by the connection of that number.
    declared: Mutex<(u64, HashSet<String>)>,
}

impl Shared {
    fn open(&self) -> Result<(), Error> {
        if self.is_closed.load(Ordering::Acquire) { Err(self.link.server().closed()) } else { Ok(()) }
    }

    fn lost(&self) -> Error {
        Error::Unreachable {
            server: self.link.server().shown().into(),
            reason: "was away for so long that others were given the messages of this consumer".into(),
        }
    }

    /// The list that a message goes to, and how it lies there.
    fn written(&self, outgoing: &Outgoing) -> Result<(String, Vec<u8>), Error> {
        let Outgoing { queue, message } = outgoing;
        let tag = uuid::Uuid::new_v4().hyphenated().to_string();
        let written = envelope::encode(message, &tag, "", queue);
        if written.len() >= LARGEST {
            let what = format!("the message {}", message.headers.id);
            return Err(Error::TooLarge { what, found: written.len() as u64, most: LARGEST as u64 - 1 });
        }
        Ok((self.keys.list(queue, step_of(message.properties.priority)), written))
    }

    /// Adds what declares the queue, unless this connection has done so. Returns whether it had to.
    fn declare_in(&self, queue: &str, number: u64, all: &mut Pipeline) -> bool {
        let mut declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
        if declared.0 != number {
            *declared = (number, HashSet::new());
        }
        let is_new = !declared.1.contains(queue);
        if is_new {
            declared.1.insert(queue.into());
            for table in self.keys.bindings(queue) {
                all.cmd("SADD").arg(table).arg(binding(queue, queue)).ignore();
            }
        }
        is_new
    }

    /// What was not declared after all is so the next time.
    fn forget_declarations(&self) {
        self.declared.lock().unwrap_or_else(PoisonError::into_inner).1.clear();
    }

    async fn declare_once(&self, queue: &str) -> Result<(), Error> {
        let number = self.link.connect().await?;
        let mut declare = pipe();
        declare.atomic();
        if !self.declare_in(queue, number, &mut declare) {
            return Ok(());
        }
        let declared = self.link.run_all::<()>("declare a queue", &declare).await;
        if declared.is_err() {
            self.forget_declarations();
        }
        declared
    }

    async fn revive(&self, revive: &Cmd) -> Result<(u64, String), Error> {
        self.link.call("bring dead letters back", &scripts::REVIVE, revive).await
    }

    /// Publishes messages from the first on, as many as go at once. Returns how many.
    async fn publish_some(&self, messages: &[Outgoing]) -> Result<usize, PublishError> {
        let nothing = |error| PublishError { confirmed: 0, error };
        let number = self.link.connect().await.map_err(nothing)?;
        let mut all = pipe();
        let mut declares = false;
        let mut batch = Batch::default();
        for outgoing in messages {
            let (list, written) = match self.written(outgoing) {
                Ok(written) => written,
                Err(error) if batch.count == 0 => return Err(nothing(error)),
                // Those before it go first.
                Err(_) => break,
            };
            declares |= self.declare_in(&outgoing.queue, number, &mut all);
            batch.add(list, written);
            if batch.count >= PUBLISHED_AT_ONCE.0 || batch.size >= PUBLISHED_AT_ONCE.1 {
                break;
            }
        }
        for (list, written) in &batch.lists {
            all.cmd("LPUSH").arg(list).arg(written).ignore();
        }
        match self.link.run_alone::<()>("publish messages", &all).await {
            Ok(()) => Ok(batch.count),
            Err(error) => {
                if declares {
                    self.forget_declarations();
                }
                Err(nothing(error))
            }
        }
    }
}

/// Messages for one list after another.
#[derive(Default)]
struct Batch {
    lists: Vec<(String, Vec<Vec<u8>>)>,
    count: usize,
    size: usize,
}

impl Batch {
    fn add(&mut self, list: String, written: Vec<u8>) {
        self.count += 1;
        self.size += written.len();
        match self.lists.last_mut() {
            Some((same, messages)) if *same == list => messages.push(written),
            _ => self.lists.push((list, vec![written])),
        }
    }
}

/// The broker behind a `redis://` address.
#[derive(Debug)]
pub struct RedisBroker {
    shared: Arc<Shared>,
    consumers: Mutex<Vec<Weak<Core>>>,
}

impl RedisBroker {
    /// # Errors
    /// [`Error::Address`] if the address is none of a Redis server.
    pub fn open(address: &Address, options: &Options) -> Result<Self, Error> {
        let server = Server::of(address, options.timeout)?;
        let shared = Shared {
            broadcasts: format!("{}/{}.{}", options.key_prefix, server.database(), control::EXCHANGE),
            ear: revoked::Ear::new(&server),
            link: server.link(pipe()),
            keys: Keys::new(&options.key_prefix),
            limits: Limits { body: options.max_size, ..Limits::default() },
            is_closed: AtomicBool::new(false),
            declared: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared), consumers: Mutex::default() })
    }

    fn letter(&self, queue: &str, [key, reason, message]: [Value; 3]) -> DeadLetter {
        let text = |value: &Value| match value {
            Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        };
        let key = text(&key);
        let milliseconds = key.split_once('-').and_then(|(time, _)| time.parse().ok()).unwrap_or(0.0);
        let content = match message {
            Value::BulkString(message) => {
                envelope::decode(&message, &self.shared.limits).map(|found| found.message)
            }
            Value::Int(size) => {
                Err(Unreadable { reason: format!("could not take the message: found {size} bytes") })
            }
            _ => Err(Unreadable { reason: "could not take the message: found none".into() }),
        };
        DeadLetter { key, queue: queue.into(), reason: text(&reason), died: milliseconds / 1000.0, content }
    }
}

#[async_trait]
impl Broker for RedisBroker {
    fn address(&self) -> &str {
        self.shared.link.server().shown()
    }

    async fn declare(&self, queue: &Declaration) -> Result<(), Error> {
        self.shared.open()?;
        self.shared.declare_once(&queue.name).await
    }

    async fn publish(&self, messages: &[Outgoing]) -> Result<(), PublishError> {
        let mut confirmed = 0;
        self.shared.open().map_err(|error| PublishError { confirmed, error })?;
        while confirmed < messages.len() {
            let published = self.shared.publish_some(&messages[confirmed..]).await;
            confirmed += published.map_err(|error| PublishError { confirmed, error: error.error })?;
        }
        Ok(())
    }

    async fn consume(&self, subscription: Subscription) -> Result<Box<dyn Consumer>, Error> {
        self.shared.open()?;
        for queue in &subscription.queues {
            self.shared.declare_once(&queue.name).await?;
        }
        let core = Core::new(Arc::clone(&self.shared), &subscription);
        core.join().await?;
        tokio::spawn(Arc::clone(&core).serve());
        tokio::spawn(Core::live(Arc::downgrade(&core)));
        let mut consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        consumers.retain(|core| core.strong_count() > 0);
        consumers.push(Arc::downgrade(&core));
        Ok(Box::new(RedisConsumer { core }))
    }

    async fn depth(&self, queue: &str) -> Result<u64, Error> {
        self.shared.open()?;
        let mut ask = pipe();
        ask.atomic();
        for list in self.shared.keys.lists(queue) {
            ask.llen(list);
        }
        let depths: Vec<u64> = self.shared.link.ask("ask for the depth of a queue", &ask).await?;
        Ok(depths.iter().sum())
    }

    async fn purge(&self, queue: &str) -> Result<u64, Error> {
        self.shared.open()?;
        let mut purge = pipe();
        purge.atomic();
        for list in self.shared.keys.lists(queue) {
            purge.llen(&list);
            purge.unlink(list).ignore();
        }
        let depths: Vec<u64> = self.shared.link.run_all("purge a queue", &purge).await?;
        Ok(depths.iter().sum())
    }

    async fn dead_letters(&self, queue: &str, most: usize) -> Result<Vec<DeadLetter>, Error> {
        self.shared.open()?;
        let mut list = scripts::DEAD.begin(1);
        list.arg(self.shared.keys.dead(queue)).arg(most);
        list.arg(self.shared.limits.body.saturating_mul(2)).arg(LISTED_AT_ONCE);
        let mut found: std::vec::IntoIter<Value> = self
            .shared
            .link
            .call::<Vec<Value>>("list dead letters", &scripts::DEAD, &list)
            .await?
            .into_iter();
        let mut letters = Vec::new();
        while let (Some(key), Some(reason), Some(message)) = (found.next(), found.next(), found.next()) {
            letters.push(self.letter(queue, [key, reason, message]));
        }
        Ok(letters)
    }

    async fn revive(&self, queue: &str, keys: &[String]) -> Result<u64, Error> {
        self.shared.open()?;
        let stream = self.shared.keys.dead(queue);
        if !keys.is_empty() {
            let mut revived = 0;
            for keys in keys.chunks(REVIVED_AT_ONCE) {
                let mut revive = scripts::REVIVE.begin(1);
                revive.arg(&stream).arg("these").arg(keys);
                revived += self.shared.revive(&revive).await?.0;
            }
            return Ok(revived);
        }
        // Those that are there now: one that dies again meanwhile stays.
        let (mut revived, mut last) = (0, String::new());
        loop {
            let mut revive = scripts::REVIVE.begin(1);
            revive.arg(&stream).arg("all").arg(last).arg(REVIVED_AT_ONCE);
            let count;
            (count, last) = self.shared.revive(&revive).await?;
            if count == 0 {
                return Ok(revived);
            }
            revived += count;
        }
    }

    async fn bury(&self, queue: &str) -> Result<u64, Error> {
        self.shared.open()?;
        let stream = self.shared.keys.dead(queue);
        let mut bury = pipe();
        bury.atomic();
        bury.cmd("XLEN").arg(&stream);
        bury.unlink(stream).ignore();
        let (count,) = self.shared.link.run_all("delete dead letters", &bury).await?;
        Ok(count)
    }

    async fn revoke(&self, ids: &[String], terminate: bool) -> Result<(), Error> {
        self.shared.open()?;
        revoked::revoke(&self.shared, ids, terminate).await
    }

    async fn revocations(&self, since: u64) -> Result<(u64, Vec<Revocation>), Error> {
        self.shared.open()?;
        revoked::since(&self.shared, since).await
    }

    async fn close(&self) {
        self.shared.is_closed.store(true, Ordering::Release);
        let consumers = std::mem::take(&mut *self.consumers.lock().unwrap_or_else(PoisonError::into_inner));
        for core in consumers.iter().filter_map(Weak::upgrade) {
            core.finish().await;
        }
        self.shared.ear.close();
        self.shared.link.close();
    }
}
