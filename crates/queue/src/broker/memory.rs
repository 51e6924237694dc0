//! `memory://name`: messages in this process, for tests and for programs that want no server.
//!
//! **Guarantees.** One address is one broker, for everybody in the process; it is there as long as it is used or holds a
//! message. The larger priority goes first, and what is equal goes in order. Everything that one call does becomes
//! visible in one step.
//!
//! **Not here.** Nothing outlives the process.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::control::Revoked;
use super::{
    Broker, Consumer, DeadLetter, Declaration, Delivery, Revocation, Settle, Settlement, Subscription, Tag,
    seconds_since_1970, too_large,
};
use crate::address::Address;
use crate::error::{Error, PublishError};
use crate::message::{Message, Outgoing};
use crate::named::{Houses, Named, Resident, locked};

/// A message, and whether somebody has had it.
#[derive(Debug)]
struct Kept {
    message: Message,
    is_redelivered: bool,
}

/// A message that a consumer has.
#[derive(Debug)]
struct Given {
    queue: Arc<str>,
    kept: Kept,
    is_held: bool,
}

/// A message that nobody could do anything with.
#[derive(Debug)]
struct Dead {
    key: u64,
    reason: String,
    died: f64,
    message: Message,
}

#[derive(Debug, Default)]
struct Queue {
    /// Those that wait, by priority. No priority is there without a message.
    waiting: BTreeMap<u8, VecDeque<Kept>>,
    dead: VecDeque<Dead>,
}

impl Queue {
    fn push_back(&mut self, kept: Kept) {
        self.waiting.entry(kept.message.properties.priority).or_default().push_back(kept);
    }

    fn push_front(&mut self, kept: Kept) {
        self.waiting.entry(kept.message.properties.priority).or_default().push_front(kept);
    }

    fn best(&self) -> Option<u8> {
        self.waiting.last_key_value().map(|(priority, _)| *priority)
    }

    fn pop(&mut self) -> Option<Kept> {
        let mut best = self.waiting.last_entry()?;
        let kept = best.get_mut().pop_front();
        if best.get().is_empty() {
            best.remove();
        }
        kept
    }

    fn depth(&self) -> u64 {
        self.waiting.values().map(|kept| kept.len() as u64).sum()
    }
}

#[derive(Debug)]
struct Subscriber {
    queues: Vec<Arc<str>>,
    prefetch: usize,
    max_body: u64,
    given: BTreeMap<Tag, Given>,
    /// How many of `given` are not held.
    counted: usize,
    is_stopped: bool,
    bell: Arc<Notify>,
}

impl Subscriber {
    fn release(&mut self, tag: Tag) -> Option<Given> {
        let given = self.given.remove(&tag)?;
        self.counted -= usize::from(!given.is_held);
        Some(given)
    }
}

#[derive(Debug, Default)]
struct State {
    queues: HashMap<Arc<str>, Queue>,
    subscribers: BTreeMap<u64, Subscriber>,
    revoked: Revoked,
    /// The last number that was given to a message, a consumer or a dead letter.
    last: u64,
}

/// What `memory://name` is.
#[derive(Debug, Default)]
struct Hub {
    state: Mutex<State>,
}

static HUBS: LazyLock<Houses<Hub>> = LazyLock::new(Houses::default);

impl Resident for Hub {
    fn houses() -> &'static Houses<Self> {
        &HUBS
    }

    fn is_empty(&self) -> bool {
        let state = locked(&self.state);
        state.subscribers.is_empty()
            && state.queues.values().all(|queue| queue.depth() == 0 && queue.dead.is_empty())
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn name(&mut self, queue: &str) -> Arc<str> {
        if let Some((name, _)) = self.queues.get_key_value(queue) {
            return Arc::clone(name);
        }
        let name: Arc<str> = queue.into();
        self.queues.insert(Arc::clone(&name), Queue::default());
        name
    }

    fn queue(&mut self, name: &str) -> &mut Queue {
        let name = self.name(name);
        self.queues.entry(name).or_default()
    }

    /// Wakes those who could take something from any of these queues.
    fn wake<'a>(&self, queues: impl Iterator<Item = &'a str> + Clone) {
        for subscriber in self.subscribers.values() {
            if subscriber.queues.iter().any(|mine| queues.clone().any(|queue| queue == &**mine)) {
                subscriber.bell.notify_one();
            }
        }
    }

    fn publish(&mut self, outgoing: Outgoing) {
        self.queue(&outgoing.queue).push_back(Kept { message: outgoing.message, is_redelivered: false });
    }

    /// What the consumer gets now. `None`: it has to wait.
    fn take(&mut self, consumer: u64, most: usize) -> Option<Vec<Delivery>> {
        let subscriber = self.subscribers.get_mut(&consumer)?;
        if subscriber.is_stopped {
            return Some(Vec::new());
        }
        let room = most.max(1).min(subscriber.prefetch.saturating_sub(subscriber.counted));
        let mut deliveries = Vec::new();
        while deliveries.len() < room {
            // The first of the best: `max_by_key` would take the last.
            let candidates =
                subscriber.queues.iter().filter_map(|name| Some((self.queues.get(name)?.best()?, name)));
            let Some((_, name)) = candidates.reduce(|one, other| if other.0 > one.0 { other } else { one })
            else {
                break;
            };
            let Some(kept) = self.queues.get_mut(name).and_then(Queue::pop) else { break };
            self.last += 1;
            let tag = Tag(self.last);
            let size = kept.message.body.len() as u64;
            let content = if size > subscriber.max_body {
                Err(too_large(size, subscriber.max_body))
            } else {
                Ok(kept.message.clone())
            };
            deliveries.push(Delivery {
                tag,
                queue: name.to_string(),
                is_redelivered: kept.is_redelivered,
                content,
            });
            subscriber.given.insert(tag, Given { queue: Arc::clone(name), kept, is_held: false });
        }
        subscriber.counted += deliveries.len();
        (!deliveries.is_empty()).then_some(deliveries)
    }

    fn settle(&mut self, given: Given, settlement: Settlement) {
        let Given { queue, mut kept, .. } = given;
        match settlement {
            Settlement::Done => {}
            Settlement::Return => {
                kept.is_redelivered = true;
                self.queue(&queue).push_front(kept);
                self.wake(std::iter::once(&*queue));
            }
            Settlement::Requeue { .. } => {
                kept.is_redelivered = true;
                self.queue(&queue).push_back(kept);
                self.wake(std::iter::once(&*queue));
            }
            Settlement::Dead { reason, .. } => {
                let dead =
                    Dead { key: self.number(), reason, died: seconds_since_1970(), message: kept.message };
                self.queue(&queue).dead.push_back(dead);
            }
            Settlement::Replace(outgoing) => {
                let name = outgoing.queue.clone();
                self.publish(*outgoing);
                self.wake(std::iter::once(&*name));
            }
        }
    }

    /// The end of a consumer: what it had comes next, in the order in which it came.
    fn remove(&mut self, consumer: u64) {
        let Some(subscriber) = self.subscribers.remove(&consumer) else { return };
        for (_, given) in subscriber.given.into_iter().rev() {
            self.settle(given, Settlement::Return);
        }
        subscriber.bell.notify_one();
    }
}

/// One who has opened the address.
#[derive(Debug)]
struct Door {
    hub: Named<Hub>,
    shown: String,
    is_closed: AtomicBool,
}

impl Door {
    fn enter(&self) -> Result<MutexGuard<'_, State>, Error> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(Error::Closed { server: self.shown.clone() });
        }
        Ok(locked(&self.hub.state))
    }
}

/// The broker behind `memory://name`.
#[derive(Debug)]
pub struct MemoryBroker {
    door: Arc<Door>,
    /// The consumers of this door: they end with it.
    consumers: Mutex<Vec<u64>>,
}

impl MemoryBroker {
    /// The broker of that address, which all in this process share.
    #[must_use]
    pub fn open(address: &Address) -> Self {
        let door = Door {
            hub: Named::find(address.secret()),
            shown: address.shown().into(),
            is_closed: AtomicBool::new(false),
        };
        Self { door: Arc::new(door), consumers: Mutex::default() }
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    fn address(&self) -> &str {
        &self.door.shown
    }

    async fn declare(&self, queue: &Declaration) -> Result<(), Error> {
        self.door.enter()?.name(&queue.name);
        Ok(())
    }

    async fn publish(&self, messages: &[Outgoing]) -> Result<(), PublishError> {
        let mut state = self.door.enter().map_err(|error| PublishError { confirmed: 0, error })?;
        for outgoing in messages {
            state.publish(outgoing.clone());
        }
        state.wake(messages.iter().map(|outgoing| &*outgoing.queue));
        Ok(())
    }

    async fn consume(&self, subscription: Subscription) -> Result<Box<dyn Consumer>, Error> {
        let mut state = self.door.enter()?;
        let bell = Arc::new(Notify::new());
        let subscriber = Subscriber {
            queues: subscription.queues.iter().map(|queue| state.name(&queue.name)).collect(),
            prefetch: super::limit_of(subscription.prefetch),
            max_body: subscription.max_body,
            given: BTreeMap::new(),
            counted: 0,
            is_stopped: false,
            bell: Arc::clone(&bell),
        };
        let number = state.number();
        state.subscribers.insert(number, subscriber);
        let mut mine = locked(&self.consumers);
        mine.retain(|consumer| state.subscribers.contains_key(consumer));
        mine.push(number);
        Ok(Box::new(MemoryConsumer {
            settler: Arc::new(MemorySettler { door: Arc::clone(&self.door), number }),
            bell,
        }))
    }

    async fn depth(&self, queue: &str) -> Result<u64, Error> {
        Ok(self.door.enter()?.queues.get(queue).map_or(0, Queue::depth))
    }

    async fn purge(&self, queue: &str) -> Result<u64, Error> {
        let mut state = self.door.enter()?;
        let Some(queue) = state.queues.get_mut(queue) else { return Ok(0) };
        let depth = queue.depth();
        queue.waiting.clear();
        Ok(depth)
    }

    async fn dead_letters(&self, queue: &str, most: usize) -> Result<Vec<DeadLetter>, Error> {
        let state = self.door.enter()?;
        let dead = state.queues.get(queue).map(|queue| queue.dead.iter().take(most)).into_iter().flatten();
        let letter = |dead: &Dead| DeadLetter {
            key: dead.key.to_string(),
            queue: queue.into(),
            reason: dead.reason.clone(),
            died: dead.died,
            content: Ok(dead.message.clone()),
        };
        Ok(dead.map(letter).collect())
    }

    async fn revive(&self, queue: &str, keys: &[String]) -> Result<u64, Error> {
        let mut state = self.door.enter()?;
        let Some(found) = state.queues.get_mut(queue) else { return Ok(0) };
        let chosen: HashSet<u64> = keys.iter().filter_map(|key| key.parse().ok()).collect();
        let (rise, stay): (VecDeque<Dead>, VecDeque<Dead>) =
            found.dead.drain(..).partition(|dead| keys.is_empty() || chosen.contains(&dead.key));
        found.dead = stay;
        let risen = rise.len() as u64;
        for dead in rise {
            found.push_back(Kept { message: dead.message, is_redelivered: true });
        }
        state.wake(std::iter::once(queue));
        Ok(risen)
    }

    async fn bury(&self, queue: &str) -> Result<u64, Error> {
        let mut state = self.door.enter()?;
        Ok(state.queues.get_mut(queue).map_or(0, |queue| queue.dead.drain(..).len() as u64))
    }

    async fn revoke(&self, ids: &[String], terminate: bool) -> Result<(), Error> {
        let mut state = self.door.enter()?;
        for id in ids {
            state.revoked.add(Revocation { id: id.clone(), terminate });
        }
        Ok(())
    }

    async fn revocations(&self, since: u64) -> Result<(u64, Vec<Revocation>), Error> {
        Ok(self.door.enter()?.revoked.since(since))
    }

    async fn close(&self) {
        let mut state = locked(&self.door.hub.state);
        self.door.is_closed.store(true, Ordering::Release);
        for consumer in locked(&self.consumers).drain(..) {
            state.remove(consumer);
        }
    }
}

struct MemoryConsumer {
    settler: Arc<MemorySettler>,
    bell: Arc<Notify>,
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, Error> {
        loop {
            // What is taken is returned without another await, so that there is no moment in which it could be lost.
            if let Some(deliveries) = self.settler.door.enter()?.take(self.settler.number, most) {
                return Ok(deliveries);
            }
            self.bell.notified().await;
        }
    }

    fn settler(&self) -> Arc<dyn Settle> {
        Arc::clone(&self.settler) as Arc<dyn Settle>
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        locked(&self.settler.door.hub.state).remove(self.settler.number);
    }
}

struct MemorySettler {
    door: Arc<Door>,
    number: u64,
}

impl MemorySettler {
    fn taken_back(&self) -> Error {
        Error::TakenBack { server: self.door.shown.clone() }
    }
}

#[async_trait]
impl Settle for MemorySettler {
    async fn settle(&self, mut settlements: Vec<(Tag, Settlement)>) -> Result<(), Error> {
        // Of several that go back to the front the last goes first, so that they lie as they came.
        settlements.sort_by_key(|(tag, settlement)| {
            (*settlement == Settlement::Return).then_some(std::cmp::Reverse(*tag))
        });
        let mut state = self.door.enter()?;
        let mut all_were_mine = true;
        for (tag, settlement) in settlements {
            let given =
                state.subscribers.get_mut(&self.number).and_then(|subscriber| subscriber.release(tag));
            match given {
                Some(given) => state.settle(given, settlement),
                None => all_were_mine = false,
            }
        }
        if let Some(subscriber) = state.subscribers.get(&self.number) {
            subscriber.bell.notify_one();
        }
        if all_were_mine { Ok(()) } else { Err(self.taken_back()) }
    }

    async fn hold(&self, tags: &[Tag]) -> Result<(), Error> {
        let mut state = self.door.enter()?;
        let subscriber = state.subscribers.get_mut(&self.number).ok_or_else(|| self.taken_back())?;
        for tag in tags {
            if let Some(given) = subscriber.given.get_mut(tag).filter(|given| !given.is_held) {
                given.is_held = true;
                subscriber.counted -= 1;
            }
        }
        subscriber.bell.notify_one();
        Ok(())
    }

    async fn stop(&self) {
        let mut state = locked(&self.door.hub.state);
        if let Some(subscriber) = state.subscribers.get_mut(&self.number) {
            subscriber.is_stopped = true;
            subscriber.bell.notify_one();
        }
    }
}
