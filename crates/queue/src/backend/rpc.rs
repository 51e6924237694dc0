//! `rpc://`: results as messages, over the broker's `RabbitMQ`, to the one who asked for the task.
//!
//! **Guarantees.** Who asks has a queue of his own, named by [`Backend::reply_to`]; [`Backend::prepare`] declares it, as
//! Celery does, and must have returned before a task is sent. What was stored is found by `get` as soon as `store` has
//! returned. Results wait here for whoever asks, as long as results are kept: but at most [`MOST`] of them, and at most
//! [`MOST_BYTES`] together. Beyond that the oldest go first, whether or not anybody has asked for them.
//!
//! **Not here.** Only he whom a message names finds its result. What comes while he has no connection is lost, since
//! his queue goes with his last connection: that is how Celery's own does it, and the tasks themselves are not affected.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use lapin::message::{Delivery, DeliveryResult};
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, ConsumerDelegate};
use serde::Deserialize;
use tokio::sync::Notify;
use uuid::Uuid;

use super::waiters::Waiters;
use super::{Backend, Found, State, Stored};
use crate::address::Address;
use crate::broker::amqp::link::Link;
use crate::broker::amqp::publish::{Letter, publish};
use crate::broker::amqp::server::Server;
use crate::error::Error;
use crate::named::locked;
use crate::open::Options;

/// So many results wait for somebody to ask for them.
pub const MOST: usize = 50_000;

/// So many bytes of them.
pub const MOST_BYTES: usize = 256 << 20;

/// After how long one who waits tries again to reach the server.
const AGAIN: Duration = Duration::from_millis(250);

/// Results over the broker.
#[derive(Debug)]
pub struct RpcBackend {
    server: Arc<Server>,
    shown: String,
    /// What we are called: the name of our queue.
    name: String,
    keep: Duration,
    out: Link,
    back: Link,
    inbox: Arc<Inbox>,
    /// The channel that results come in by.
    line: tokio::sync::Mutex<Option<Channel>>,
}

impl RpcBackend {
    /// Results by way of the broker at an address. Connects when it is first used.
    ///
    /// # Errors
    /// [`Error::Address`] if the broker's address is not understood.
    pub fn open(address: &Address, broker: &Address, options: &Options) -> Result<Self, Error> {
        let server = Arc::new(Server::at(broker, options)?);
        Ok(Self {
            shown: address.shown().into(),
            name: Uuid::new_v4().to_string(),
            keep: options.keep_results,
            out: Link::new(Arc::clone(&server), "manyhands: sends results"),
            back: Link::new(Arc::clone(&server), "manyhands: awaits results"),
            server,
            inbox: Arc::new(Inbox { keep: options.keep_results, ..Inbox::default() }),
            line: tokio::sync::Mutex::default(),
        })
    }

    /// Sees to it that results come in.
    async fn listen(&self) -> Result<Channel, Error> {
        self.server.check()?;
        let mut line = self.line.lock().await;
        if let Some(channel) = line.as_ref().filter(|channel| channel.status().connected()) {
            return Ok(channel.clone());
        }
        let channel = self.back.live().await?.channel().await?;
        self.server.answer("await results", self.consume(&channel)).await?;
        *line = Some(channel.clone());
        Ok(channel)
    }

    async fn consume(&self, channel: &Channel) -> lapin::Result<()> {
        let mut arguments = FieldTable::default();
        let expires = i32::try_from(self.keep.as_millis()).unwrap_or(i32::MAX).max(1);
        arguments.insert("x-expires".into(), AMQPValue::LongInt(expires));
        let lasting =
            QueueDeclareOptions { durable: true, auto_delete: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(self.name.as_str().into(), lasting, arguments).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consumer = channel
            .basic_consume(self.name.as_str().into(), "".into(), options, FieldTable::default())
            .await?;
        consumer.set_delegate(Inlet(Arc::clone(&self.inbox)));
        Ok(())
    }

    /// Waits until all is here that the server had for us when this was called: what it answers comes behind it.
    async fn catch_up(&self) -> Result<(), Error> {
        let channel = self.listen().await?;
        let look = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let question = channel.queue_declare(self.name.as_str().into(), look, FieldTable::default());
        self.server.answer("look for results", question).await.map(drop)
    }
}

/// The message that brings a result to whom it is for.
fn letter(result: &Stored) -> Option<Letter> {
    let queue = result.reply_to.as_deref().filter(|queue| !queue.is_empty() && queue.len() <= 255)?;
    let short = |text: &str| ShortString::try_new(text).ok();
    let mut headers = FieldTable::default();
    if !result.content_type.ends_with("json") {
        // Nobody can look into such a document on its way.
        headers.insert(STATE.into(), AMQPValue::LongString(result.state.name().into()));
    }
    let properties = BasicProperties::default()
        .with_content_type(short(&result.content_type)?)
        .with_content_encoding(short(&result.content_encoding)?)
        .with_correlation_id(short(&result.id)?)
        .with_headers(headers)
        .with_delivery_mode(1);
    Some(Letter { queue: queue.into(), properties, body: result.document.clone() })
}

/// The header that says which state a document is of.
const STATE: &str = "x-manyhands-state";

/// Results that have come in.
#[derive(Debug, Default)]
struct Inbox {
    keep: Duration,
    results: Mutex<Results>,
    waiters: Arc<Waiters>,
    /// No more will come by this line.
    is_down: Notify,
}

#[derive(Debug, Default)]
struct Results {
    of_task: HashMap<Arc<str>, (u64, Found)>,
    /// When which came, the oldest first. It may have been replaced or forgotten since.
    order: VecDeque<(Instant, u64, Arc<str>)>,
    bytes: usize,
    last: u64,
}

impl Inbox {
    fn take(&self, delivery: Delivery) {
        let Some(id) = delivery.properties.correlation_id() else { return };
        let state = state_of(&delivery.properties, &delivery.data);
        let found = Found { state, document: Bytes::from(delivery.data) };
        locked(&self.results).keep(id.as_str(), found.clone(), Instant::now(), self.keep);
        if found.state.is_ready() {
            self.waiters.tell(id.as_str(), &found);
        }
    }

    fn get(&self, id: &str) -> Option<Found> {
        let mut results = locked(&self.results);
        results.sweep(Instant::now(), self.keep);
        results.of_task.get(id).map(|(_, found)| found.clone())
    }
}

impl Results {
    fn keep(&mut self, id: &str, found: Found, now: Instant, keep: Duration) {
        if self.of_task.get(id).is_some_and(|(_, found)| found.state == State::Success) {
            return;
        }
        self.forget(id);
        let id: Arc<str> = id.into();
        self.last += 1;
        self.bytes += found.document.len();
        self.order.push_back((now, self.last, Arc::clone(&id)));
        self.of_task.insert(id, (self.last, found));
        self.sweep(now, keep);
    }

    fn forget(&mut self, id: &str) {
        if let Some((_, found)) = self.of_task.remove(id) {
            self.bytes -= found.document.len();
        }
    }

    fn sweep(&mut self, now: Instant, keep: Duration) {
        while let Some((came, number, id)) = self.order.front() {
            let is_current = self.of_task.get(id).is_some_and(|(current, _)| current == number);
            let is_due = now.saturating_duration_since(*came) >= keep;
            if is_current && !is_due && self.order.len() <= MOST && self.bytes <= MOST_BYTES {
                break;
            }
            if is_current {
                let id = Arc::clone(id);
                self.forget(&id);
            }
            self.order.pop_front();
        }
    }
}

/// Puts into the inbox what comes over a line, in its order and before any later answer is heard.
struct Inlet(Arc<Inbox>);

impl ConsumerDelegate for Inlet {
    fn on_new_delivery(&self, delivery: DeliveryResult) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        match delivery {
            Ok(Some(delivery)) => self.0.take(delivery),
            Ok(None) | Err(_) => self.0.is_down.notify_waiters(),
        }
        Box::pin(std::future::ready(()))
    }
}

/// The state that a document is of.
fn state_of(properties: &BasicProperties, document: &[u8]) -> State {
    #[derive(Deserialize)]
    struct Status {
        status: String,
    }
    let header = properties.headers().as_ref().and_then(|headers| headers.inner().get(STATE));
    if let Some(AMQPValue::LongString(name)) = header {
        return State::of_name(&String::from_utf8_lossy(name.as_bytes()));
    }
    if let Ok(Status { status }) = serde_json::from_slice(document) {
        return State::of_name(&status);
    }
    // In msgpack, pickle and yaml the name of the state stands close behind the word.
    let word = b"status";
    let behind = document.windows(word.len()).position(|window| window == word).map(|at| at + word.len());
    let near = behind.map_or(&[][..], |at| &document[at..document.len().min(at + 24)]);
    let states = [State::Started, State::Success, State::Failure, State::Retry, State::Revoked];
    let names =
        |state: &State| near.windows(state.name().len()).any(|window| window == state.name().as_bytes());
    // What nobody can look into is for him to understand who has waited for it.
    states.into_iter().find(names).unwrap_or(State::Success)
}

#[async_trait]
impl Backend for RpcBackend {
    fn address(&self) -> &str {
        &self.shown
    }

    fn reply_to(&self) -> Option<&str> {
        Some(&self.name)
    }

    async fn prepare(&self) -> Result<(), Error> {
        self.listen().await.map(drop)
    }

    async fn store(&self, results: &[Stored]) -> Result<(), Error> {
        self.server.check()?;
        let letters: Vec<Letter> = results.iter().filter_map(letter).collect();
        if letters.is_empty() {
            return Ok(());
        }
        let live = self.out.live().await?;
        publish(&self.server, &live, letters, false).await.map_err(|failed| failed.error)
    }

    async fn get(&self, id: &str) -> Result<Option<Found>, Error> {
        self.server.check()?;
        let found = self.inbox.get(id);
        if found.as_ref().is_some_and(|found| found.state == State::Success) {
            return Ok(found); // which is final
        }
        self.catch_up().await?;
        Ok(self.inbox.get(id))
    }

    async fn wait(&self, id: &str, patience: Duration) -> Result<Found, Error> {
        let mut waiting = self.inbox.waiters.enter(id);
        let mut away: Option<Instant> = None;
        loop {
            let mut is_down = std::pin::pin!(self.inbox.is_down.notified());
            is_down.as_mut().enable();
            if let Some(found) = self.inbox.get(id).filter(|found| found.state.is_ready()) {
                return Ok(found);
            }
            match self.listen().await {
                Ok(_) => {
                    away = None;
                    tokio::select! {
                        found = waiting.found() => if let Some(found) = found { return Ok(found) },
                        () = is_down => {}
                    }
                }
                Err(error)
                    if error.is_transient() && away.get_or_insert_with(Instant::now).elapsed() < patience =>
                {
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn forget(&self, id: &str) -> Result<(), Error> {
        self.catch_up().await?; // what is still on its way is forgotten, too
        locked(&self.inbox.results).forget(id);
        Ok(())
    }

    async fn close(&self) {
        self.server.close();
        self.inbox.is_down.notify_waiters();
        self.out.close().await;
        self.back.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(size: usize) -> Found {
        Found { state: State::Failure, document: vec![b'x'; size].into() }
    }

    #[test]
    fn the_oldest_results_go_first() {
        let (now, keep) = (Instant::now(), Duration::from_secs(3600));
        let mut results = Results::default();
        for at in 0..MOST + 3 {
            results.keep(&at.to_string(), found(1), now, keep);
        }
        assert_eq!((results.of_task.len(), results.bytes), (MOST, MOST));
        assert!(!results.of_task.contains_key("2") && results.of_task.contains_key("3"));
        results.keep("large", found(MOST_BYTES - 10), now, keep);
        assert_eq!(results.of_task.len(), 11);
        results.sweep(now + keep, keep);
        assert_eq!((results.of_task.len(), results.bytes, results.order.len()), (0, 0, 0));
    }

    #[test]
    fn what_was_replaced_or_forgotten_leaves_nothing() {
        let (now, keep) = (Instant::now(), Duration::from_secs(3600));
        let mut results = Results::default();
        for _ in 0..10 {
            results.keep("again", found(5), now, keep);
        }
        assert_eq!((results.of_task.len(), results.bytes), (1, 5));
        results.forget("again");
        results.sweep(now, keep);
        assert_eq!((results.of_task.len(), results.bytes, results.order.len()), (0, 0, 0));
    }

    #[test]
    fn the_state_is_read_from_documents_of_every_kind() {
        let plain = BasicProperties::default();
        for (document, expected) in [
            (&br#"{"result": {"status": "no"}, "status": "RETRY"}"#[..], State::Retry),
            (br#"{"status": "PROGRESS", "result": 1}"#, State::Custom("PROGRESS".into())),
            (b"\x87\xa6status\xa7FAILURE\xa6result\x01", State::Failure),
            (b"\x80\x04\x95}\x94(\x8c\x06status\x94\x8c\x07REVOKED\x94", State::Revoked),
            (b"\0celery-compressed\0gzip\0...", State::Success),
        ] {
            assert_eq!(state_of(&plain, document), expected);
        }
        let mut headers = FieldTable::default();
        headers.insert(STATE.into(), AMQPValue::LongString("STARTED".into()));
        assert_eq!(state_of(&plain.with_headers(headers), b"?"), State::Started);
    }
}
