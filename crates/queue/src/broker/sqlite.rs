//! `sqlite:///file`: messages in a file, for all processes of a machine, without a server.
//!
//! **Guarantees.** What was published is on the disk. What a consumer had comes back within moments of its process's
//! death, and is never given to two at once. The larger priority goes first, and what is equal goes in order; what a
//! settlement does to several messages is done to all of them or to none.
//!
//! **Not here.** A message has no lease: only a death takes it from its consumer. A task that forks without executing
//! another program leaves its child holding what shows that the worker lives: until the child has ended, too, nothing
//! comes back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{OptionalExtension, params};
use tokio::sync::{Notify, oneshot};

use super::{
    Broker, Consumer, DeadLetter, Declaration, Delivery, Revocation, Settle, Settlement, Subscription, Tag,
    Unreadable, limit_of, seconds_since_1970, too_large,
};
use crate::address::Address;
use crate::error::{Error, PublishError};
use crate::message::{Message, Outgoing};
use crate::named::locked;
use crate::open::Options;
use crate::sqlite::{Hears, Job, Kind, Listener, Session, Store, Trouble, bounded};
use crate::wire::row;

/// How much goes into one transaction: others wait for its end.
const BATCH_ROWS: usize = 2000;
const BATCH_BYTES: usize = 8 << 20;

/// For how many seconds revocations are remembered.
const REVOKED_FOR: f64 = 10_800.0;

/// A message on its way into the file.
struct Row {
    queue: String,
    rank: u8,
    head: Vec<u8>,
    body: Bytes,
}

impl Row {
    fn new(outgoing: &Outgoing) -> Self {
        Self {
            queue: outgoing.queue.clone(),
            rank: u8::MAX - outgoing.message.properties.priority,
            head: row::encode(&outgoing.message),
            body: outgoing.message.body.clone(),
        }
    }
}

fn insert(session: &mut Session, rows: &[Row]) -> Result<(), Trouble> {
    for rows in rows.chunk_by(|one, other| one.queue == other.queue) {
        let queue = session.queue(&rows[0].queue)?;
        let first = session.numbers(rows.len())?;
        let mut message = session.db.prepare_cached("INSERT INTO message VALUES (?, ?, ?)")?;
        let mut waiting = session.db.prepare_cached("INSERT INTO waiting VALUES (?1, ?2, ?3, ?3, 0)")?;
        for (number, row) in (first..).zip(rows) {
            message.execute(params![number, row.head, &*row.body])?;
            waiting.execute(params![queue, row.rank, number])?;
        }
    }
    session.news.messages |= !rows.is_empty();
    Ok(())
}

/// The broker in a file.
#[derive(Debug)]
pub struct SqliteBroker {
    store: Arc<Store>,
    is_closed: Arc<AtomicBool>,
    consumers: Mutex<Vec<Weak<Inner>>>,
    max_size: u64,
}

impl SqliteBroker {
    /// The broker in the file of that address, which is opened when it is first used.
    ///
    /// # Errors
    /// [`Error::Address`] if it names no file in a folder that there is.
    pub fn open(address: &Address, options: &Options) -> Result<Self, Error> {
        Ok(Self {
            store: Store::find(address, options.timeout)?,
            is_closed: Arc::default(),
            consumers: Mutex::default(),
            max_size: options.max_size,
        })
    }

    async fn call<T, F>(&self, kind: Kind, run: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnMut(&mut Session) -> Result<T, Trouble> + Send + 'static,
    {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(self.store.closed());
        }
        self.store.call(kind, run).await
    }

    /// As `call`, on a queue that may not be there: then the answer is the usual one.
    async fn on_queue<T, F>(&self, kind: Kind, queue: &str, mut run: F) -> Result<T, Error>
    where
        T: Send + Default + 'static,
        F: FnMut(&mut Session, i64) -> Result<T, Trouble> + Send + 'static,
    {
        let queue = queue.to_owned();
        let run = move |session: &mut Session| match session.known_queue(&queue)? {
            Some(id) => run(session, id),
            None => Ok(T::default()),
        };
        self.call(kind, run).await
    }
}

#[async_trait]
impl Broker for SqliteBroker {
    fn address(&self) -> &str {
        self.store.shown()
    }

    async fn declare(&self, queue: &Declaration) -> Result<(), Error> {
        let name = queue.name.clone();
        self.call(Kind::Durable, move |session| Ok(session.queue(&name).map(|_| ())?)).await
    }

    async fn publish(&self, messages: &[Outgoing]) -> Result<(), PublishError> {
        let mut confirmed = 0;
        while confirmed < messages.len() {
            let (mut rows, mut size) = (Vec::new(), 0);
            while rows.len() < BATCH_ROWS
                && size < BATCH_BYTES
                && let Some(outgoing) = messages.get(confirmed + rows.len())
            {
                let row = Row::new(outgoing);
                size += row.head.len() + row.body.len();
                rows.push(row);
            }
            let count = rows.len();
            let published = self.call(Kind::Durable, move |session| insert(session, &rows)).await;
            published.map_err(|error| PublishError { confirmed, error })?;
            confirmed += count;
        }
        if self.is_closed.load(Ordering::Acquire) {
            return Err(PublishError { confirmed, error: self.store.closed() });
        }
        Ok(())
    }

    async fn consume(&self, subscription: Subscription) -> Result<Box<dyn Consumer>, Error> {
        let names: Vec<String> = subscription.queues.into_iter().map(|queue| queue.name).collect();
        let bells = Arc::clone(self.store.bells());
        let begin = move |session: &mut Session| {
            session.listen(&bells, Hears { consumes: true, waits: false })?;
            let id = session.numbers(1)?;
            let mut insert = session.db.prepare_cached("INSERT INTO consumer VALUES (?, ?)")?;
            insert.execute(params![id, session.name()])?;
            drop(insert);
            let queues = names.iter().map(|name| Ok((session.queue(name)?, name.clone())));
            let queues = queues.collect::<Result<Vec<_>, Trouble>>()?;
            Ok((id, session.generation, queues))
        };
        let (id, generation, queues) = self.call(Kind::Write, begin).await?;
        let inner = Arc::new(Inner {
            store: Arc::clone(&self.store),
            is_closed: Arc::clone(&self.is_closed),
            id,
            generation,
            queues,
            prefetch: limit_of(subscription.prefetch),
            max_body: subscription.max_body,
            state: Mutex::default(),
            bell: Notify::new(),
        });
        let listener: Weak<Inner> = Arc::downgrade(&inner);
        self.store.enlist(listener.clone());
        let mut mine = locked(&self.consumers);
        mine.retain(|consumer| consumer.strong_count() > 0);
        mine.push(listener);
        Ok(Box::new(SqliteConsumer { inner }))
    }

    async fn depth(&self, queue: &str) -> Result<u64, Error> {
        self.on_queue(Kind::Read, queue, |session, queue| {
            let mut count = session.db.prepare_cached("SELECT count(*) FROM waiting WHERE queue = ?")?;
            Ok(count.query_row([queue], |row| row.get::<_, i64>(0))?.unsigned_abs())
        })
        .await
    }

    async fn purge(&self, queue: &str) -> Result<u64, Error> {
        self.on_queue(Kind::Durable, queue, |session, queue| {
            let sql = "DELETE FROM message WHERE id IN (SELECT message FROM waiting WHERE queue = ?)";
            session.db.prepare_cached(sql)?.execute([queue])?;
            let deleted =
                session.db.prepare_cached("DELETE FROM waiting WHERE queue = ?")?.execute([queue])?;
            Ok(deleted as u64)
        })
        .await
    }

    async fn dead_letters(&self, queue: &str, most: usize) -> Result<Vec<DeadLetter>, Error> {
        let (name, max_size) = (queue.to_owned(), self.max_size);
        self.on_queue(Kind::Read, queue, move |session, queue| {
            let sql = "SELECT dead.id, reason, died, head, length(body), CASE WHEN length(body) <= ?1 THEN body END
                       FROM dead JOIN message ON message.id = dead.message WHERE queue = ?2 ORDER BY dead.id LIMIT ?3";
            let mut select = session.db.prepare_cached(sql)?;
            let letter = |row: &rusqlite::Row<'_>| {
                let (size, body): (i64, Option<Vec<u8>>) = (row.get(4)?, row.get(5)?);
                Ok(DeadLetter {
                    key: row.get::<_, i64>(0)?.to_string(),
                    queue: name.clone(),
                    reason: row.get(1)?,
                    died: row.get(2)?,
                    content: read(&row.get::<_, Vec<u8>>(3)?, body.map(Bytes::from), size.unsigned_abs(), max_size),
                })
            };
            let letters = select.query_map(params![bounded(max_size), queue, bounded(most)], letter)?;
            Ok(letters.collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn revive(&self, queue: &str, keys: &[String]) -> Result<u64, Error> {
        let chosen: Vec<i64> = keys.iter().filter_map(|key| key.parse().ok()).collect();
        let is_all = keys.is_empty();
        self.on_queue(Kind::Durable, queue, move |session, queue| {
            let ids: Vec<i64> = if is_all {
                let mut select = session.db.prepare_cached("SELECT id FROM dead WHERE queue = ? ORDER BY id")?;
                select.query_map([queue], |row| row.get(0))?.collect::<Result<_, _>>()?
            } else {
                chosen.clone()
            };
            let first = session.numbers(ids.len())?;
            let sql = "INSERT INTO waiting SELECT queue, rank, ?3, message, 1 FROM dead WHERE queue = ?1 AND id = ?2";
            let mut rise = session.db.prepare_cached(sql)?;
            let mut leave = session.db.prepare_cached("DELETE FROM dead WHERE queue = ? AND id = ?")?;
            let mut risen = 0;
            for (place, id) in (first..).zip(ids) {
                risen += rise.execute([queue, id, place])? as u64;
                leave.execute([queue, id])?;
            }
            session.news.messages |= risen > 0;
            Ok(risen)
        })
        .await
    }

    async fn bury(&self, queue: &str) -> Result<u64, Error> {
        self.on_queue(Kind::Durable, queue, |session, queue| {
            let sql = "DELETE FROM message WHERE id IN (SELECT message FROM dead WHERE queue = ?)";
            session.db.prepare_cached(sql)?.execute([queue])?;
            let deleted = session.db.prepare_cached("DELETE FROM dead WHERE queue = ?")?.execute([queue])?;
            Ok(deleted as u64)
        })
        .await
    }

    async fn revoke(&self, ids: &[String], terminate: bool) -> Result<(), Error> {
        let ids = ids.to_vec();
        self.call(Kind::Durable, move |session| {
            let now = seconds_since_1970();
            let mut insert =
                session.db.prepare_cached("INSERT INTO revoked (id, terminate, at) VALUES (?, ?, ?)")?;
            for id in &ids {
                insert.execute(params![id, terminate, now])?;
            }
            session.db.prepare_cached("DELETE FROM revoked WHERE at < ?")?.execute([now - REVOKED_FOR])?;
            Ok(())
        })
        .await
    }

    async fn revocations(&self, since: u64) -> Result<(u64, Vec<Revocation>), Error> {
        let mark = since.cast_signed();
        self.call(Kind::Read, move |session| {
            let sql = "SELECT number, id, terminate FROM revoked WHERE number > ? ORDER BY number";
            let mut asked = session.db.prepare_cached(sql)?;
            let (mut last, mut revoked) = (mark, Vec::new());
            let mut rows = asked.query([mark])?;
            while let Some(row) = rows.next()? {
                last = row.get(0)?;
                revoked.push(Revocation { id: row.get(1)?, terminate: row.get(2)? });
            }
            Ok((last.cast_unsigned(), revoked))
        })
        .await
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        let consumers = std::mem::take(&mut *locked(&self.consumers));
        for consumer in consumers.iter().filter_map(Weak::upgrade) {
            consumer.bell.notify_one();
            let (id, generation) = (consumer.id, consumer.generation);
            // If that fails, it is done by the others when this process has ended.
            let _ = self.store.call(Kind::Write, move |session| leave(session, id, generation)).await;
        }
    }
}

fn read(head: &[u8], body: Option<Bytes>, size: u64, most: u64) -> Result<Message, Unreadable> {
    row::decode(head, body.ok_or_else(|| too_large(size, most))?)
}

fn leave(session: &mut Session, consumer: i64, generation: u64) -> Result<(), Trouble> {
    if generation == session.generation {
        session.end_consumer(consumer)?;
    }
    Ok(())
}

/// A message as it was found.
#[derive(Debug)]
struct Taken {
    message: i64,
    /// Which of the consumer's queues it came from.
    queue: usize,
    is_redelivered: bool,
    head: Vec<u8>,
    size: u64,
    body: Option<Bytes>,
}

/// A message that was handed out.
#[derive(Debug, Clone, Copy)]
struct Given {
    message: i64,
    is_held: bool,
}

#[derive(Debug, Default)]
struct State {
    /// What has come and was not asked for yet.
    ready: VecDeque<Taken>,
    given: BTreeMap<Tag, Given>,
    /// How many are ready, or given and not held.
    counted: usize,
    last: u64,
    /// Somebody is at the file for more.
    is_asking: bool,
    /// Nothing was left when the file was looked at last, and nobody has rung since.
    is_dry: bool,
    is_stopped: bool,
    over: Option<Trouble>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    is_closed: Arc<AtomicBool>,
    id: i64,
    generation: u64,
    queues: Vec<(i64, String)>,
    prefetch: usize,
    max_body: u64,
    state: Mutex<State>,
    bell: Notify,
}

impl Listener for Inner {
    fn messages(self: Arc<Self>) {
        locked(&self.state).is_dry = false;
        self.bell.notify_one();
    }

    fn results(self: Arc<Self>) {}
}

impl Inner {
    fn check(&self) -> Result<(), Error> {
        if self.is_closed.load(Ordering::Acquire) { Err(self.store.closed()) } else { Ok(()) }
    }

    /// What `next` returns now; nothing if it has to wait.
    fn advance(self: &Arc<Self>, most: usize) -> Option<Result<Vec<Taken>, Error>> {
        let mut state = locked(&self.state);
        if let Some(trouble) = &state.over {
            return Some(Err(trouble.clone().error(self.store.shown())));
        }
        if !state.ready.is_empty() {
            let count = most.min(state.ready.len());
            return Some(Ok(state.ready.drain(..count).collect()));
        }
        if state.is_asking {
            return None;
        }
        if state.is_stopped {
            return Some(Ok(Vec::new()));
        }
        let room = most.min(self.prefetch.saturating_sub(state.counted));
        if room > 0 && !state.is_dry {
            state.is_asking = true;
            state.is_dry = true;
            drop(state);
            let take = Take { inner: Arc::clone(self), room, taken: Vec::new(), is_gone: false };
            if !self.store.send(Box::new(take)) {
                return Some(Err(self.store.closed()));
            }
        }
        None
    }

    fn hand_out(&self, taken: Vec<Taken>) -> Vec<Delivery> {
        let first = {
            let mut state = locked(&self.state);
            let first = state.last + 1;
            for taken in &taken {
                state.last += 1;
                let tag = Tag(state.last);
                state.given.insert(tag, Given { message: taken.message, is_held: false });
            }
            first
        };
        let delivery = |(tag, taken): (u64, Taken)| Delivery {
            tag: Tag(tag),
            queue: self.queues[taken.queue].1.clone(),
            is_redelivered: taken.is_redelivered,
            content: read(&taken.head, taken.body, taken.size, self.max_body),
        };
        (first..).zip(taken).map(delivery).collect()
    }
}

/// Takes messages out of the file for a consumer.
struct Take {
    inner: Arc<Inner>,
    room: usize,
    taken: Vec<Taken>,
    is_gone: bool,
}

impl Take {
    /// The best priority that waits, and in which queue; the first of several.
    fn best(&self, session: &Session) -> Result<Option<(u8, usize)>, Trouble> {
        let mut best: Option<(u8, usize)> = None;
        let sql = "SELECT rank FROM waiting WHERE queue = ? ORDER BY rank, place LIMIT 1";
        let mut select = session.db.prepare_cached(sql)?;
        for (at, (queue, _)) in self.inner.queues.iter().enumerate() {
            let rank: Option<u8> = select.query_row([queue], |row| row.get(0)).optional()?;
            best = best.into_iter().chain(rank.map(|rank| (rank, at))).min();
        }
        Ok(best)
    }

    /// Takes what waits in one queue at one priority; whether there was room for all of it.
    fn take(&mut self, session: &Session, rank: u8, at: usize) -> Result<(), Trouble> {
        let (queue, consumer) = (self.inner.queues[at].0, self.inner.id);
        let sql = "SELECT place, message, redelivered, head, length(body), CASE WHEN length(body) <= ?1 THEN body END
                   FROM waiting JOIN message ON message.id = waiting.message
                   WHERE queue = ?2 AND rank = ?3 ORDER BY place LIMIT ?4";
        let mut select = session.db.prepare_cached(sql)?;
        let room = self.room - self.taken.len();
        let mut rows = select.query(params![bounded(self.inner.max_body), queue, rank, bounded(room)])?;
        let mut last: i64 = 0;
        while let Some(row) = rows.next()? {
            last = row.get(0)?;
            self.taken.push(Taken {
                message: row.get(1)?,
                queue: at,
                is_redelivered: row.get(2)?,
                head: row.get(3)?,
                size: row.get::<_, i64>(4)?.unsigned_abs(),
                body: row.get::<_, Option<Vec<u8>>>(5)?.map(Bytes::from),
            });
        }
        drop(rows);
        let sql = "INSERT INTO given SELECT ?1, message, queue, rank, place FROM waiting
                   WHERE queue = ?2 AND rank = ?3 AND place <= ?4";
        session.db.prepare_cached(sql)?.execute(params![consumer, queue, rank, last])?;
        let sql = "DELETE FROM waiting WHERE queue = ? AND rank = ? AND place <= ?";
        session.db.prepare_cached(sql)?.execute(params![queue, rank, last])?;
        Ok(())
    }
}

impl Job for Take {
    fn kind(&self) -> Kind {
        // With the power all consumers are gone, and what they had waits again.
        Kind::Write
    }

    fn is_needed(&mut self, session: &mut Session) -> Result<bool, Trouble> {
        self.is_gone = self.inner.generation != session.generation;
        Ok(!self.is_gone && self.best(session)?.is_some())
    }

    fn run(&mut self, session: &mut Session) -> Result<(), Trouble> {
        self.taken.clear();
        while self.taken.len() < self.room
            && let Some((rank, at)) = self.best(session)?
        {
            self.take(session, rank, at)?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), Trouble>) {
        let Self { inner, room, taken, is_gone } = *self;
        let mut state = locked(&inner.state);
        state.is_asking = false;
        match outcome {
            Ok(()) if is_gone => state.over = Some(Trouble::Gone("the file was opened anew".into())),
            Ok(()) => {
                // Had it all, and perhaps not all of it.
                state.is_dry &= taken.len() < room;
                state.counted += taken.len();
                state.ready.extend(taken);
            }
            // It stays dry until somebody rings, or until the next round, at the latest: what the consumer has is still its own.
            Err(Trouble::Passing(_) | Trouble::Full(_)) => {}
            Err(trouble) => state.over = Some(trouble),
        }
        drop(state);
        inner.bell.notify_one();
    }
}

struct SqliteConsumer {
    inner: Arc<Inner>,
}

#[async_trait]
impl Consumer for SqliteConsumer {
    async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, Error> {
        loop {
            self.inner.check()?;
            // What has been taken lies in `ready` until it is returned here, without another await.
            if let Some(taken) = self.inner.advance(most.max(1)) {
                return Ok(self.inner.hand_out(taken?));
            }
            self.inner.bell.notified().await;
        }
    }

    fn settler(&self) -> Arc<dyn Settle> {
        Arc::new(SqliteSettler { inner: Arc::clone(&self.inner) })
    }
}

impl Drop for SqliteConsumer {
    fn drop(&mut self) {
        locked(&self.inner.state).given.clear();
        let (id, generation) = (self.inner.id, self.inner.generation);
        self.inner.store.send(Box::new(Leave { store: Arc::downgrade(&self.inner.store), id, generation }));
    }
}

/// The end of a consumer. If it cannot be written now, it is tried again.
struct Leave {
    store: Weak<Store>,
    id: i64,
    generation: u64,
}

impl Job for Leave {
    fn kind(&self) -> Kind {
        Kind::Write
    }

    fn run(&mut self, session: &mut Session) -> Result<(), Trouble> {
        leave(session, self.id, self.generation)
    }

    fn finish(self: Box<Self>, outcome: Result<(), Trouble>) {
        if matches!(outcome, Err(Trouble::Passing(_) | Trouble::Full(_)))
            && let Some(store) = self.store.upgrade()
        {
            store.send_later(self);
        }
    }
}

struct SqliteSettler {
    inner: Arc<Inner>,
}

/// What is to be done with a message.
enum Act {
    Done,
    Return,
    Requeue,
    Dead(String),
    Replace(Row),
}

impl From<Settlement> for Act {
    fn from(settlement: Settlement) -> Self {
        match settlement {
            Settlement::Done => Self::Done,
            Settlement::Return => Self::Return,
            Settlement::Requeue { .. } => Self::Requeue,
            Settlement::Dead { reason, .. } => Self::Dead(reason),
            Settlement::Replace(outgoing) => Self::Replace(Row::new(&outgoing)),
        }
    }
}

#[async_trait]
impl Settle for SqliteSettler {
    async fn settle(&self, settlements: Vec<(Tag, Settlement)>) -> Result<(), Error> {
        self.inner.check()?;
        let count = settlements.len();
        let acts: Vec<(Tag, i64, Act)> = {
            let state = locked(&self.inner.state);
            let known = |(tag, settlement): (Tag, Settlement)| {
                Some((tag, state.given.get(&tag)?.message, Act::from(settlement)))
            };
            settlements.into_iter().filter_map(known).collect()
        };
        let is_known = acts.len() == count;
        let mut is_mine = true;
        if !acts.is_empty() {
            let (reply, answer) = oneshot::channel();
            let inner = Arc::clone(&self.inner);
            self.inner.store.send(Box::new(Settling { inner, acts, is_mine: true, reply }));
            is_mine = answer.await.unwrap_or_else(|_| Err(self.inner.store.closed()))?;
        }
        if is_known && is_mine {
            return Ok(());
        }
        Err(Error::TakenBack { server: self.inner.store.shown().into() })
    }

    async fn hold(&self, tags: &[Tag]) -> Result<(), Error> {
        self.inner.check()?;
        let mut state = locked(&self.inner.state);
        for tag in tags {
            if let Some(given) = state.given.get_mut(tag).filter(|given| !given.is_held) {
                given.is_held = true;
                state.counted -= 1;
            }
        }
        drop(state);
        self.inner.bell.notify_one();
        Ok(())
    }

    async fn stop(&self) {
        locked(&self.inner.state).is_stopped = true;
        self.inner.bell.notify_one();
    }
}

/// A settlement on its way into the file. What it frees is free when it is there, whether or not anybody waits for that.
struct Settling {
    inner: Arc<Inner>,
    acts: Vec<(Tag, i64, Act)>,
    is_mine: bool,
    reply: oneshot::Sender<Result<bool, Error>>,
}

impl Settling {
    /// Whether the message was still the consumer's.
    fn act(&self, session: &mut Session, message: i64, act: &Act) -> Result<bool, Trouble> {
        const BACK: &str =
            "INSERT INTO waiting SELECT queue, rank, coalesce(?3, place), message, 1 FROM given
                            WHERE consumer = ?1 AND message = ?2";
        let consumer = self.inner.id;
        let sql = match act {
            Act::Return => {
                session.db.prepare_cached(BACK)?.execute(params![consumer, message, None::<i64>])?;
                session.news.messages = true;
                None
            }
            Act::Requeue => {
                let place = session.numbers(1)?;
                session.db.prepare_cached(BACK)?.execute(params![consumer, message, place])?;
                session.news.messages = true;
                None
            }
            Act::Dead(reason) => {
                let sql = "INSERT INTO dead SELECT queue, ?3, message, rank, ?4, ?5 FROM given
                           WHERE consumer = ?1 AND message = ?2";
                let died = params![consumer, message, session.numbers(1)?, reason, seconds_since_1970()];
                session.db.prepare_cached(sql)?.execute(died)?;
                None
            }
            Act::Done | Act::Replace(_) => Some("DELETE FROM message WHERE id = ?"),
        };
        let given = "DELETE FROM given WHERE consumer = ? AND message = ?";
        let was_mine = session.db.prepare_cached(given)?.execute([consumer, message])? == 1;
        if let Some(sql) = sql.filter(|_| was_mine) {
            session.db.prepare_cached(sql)?.execute([message])?;
        }
        if let Act::Replace(row) = act
            && was_mine
        {
            insert(session, std::slice::from_ref(row))?;
        }
        Ok(was_mine)
    }
}

impl Job for Settling {
    fn kind(&self) -> Kind {
        Kind::Durable
    }

    fn run(&mut self, session: &mut Session) -> Result<(), Trouble> {
        self.is_mine = self.inner.generation == session.generation;
        if self.is_mine {
            let mut all = true;
            for (_, message, act) in &self.acts {
                all &= self.act(session, *message, act)?;
            }
            self.is_mine = all;
        }
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), Trouble>) {
        let Self { inner, acts, is_mine, reply } = *self;
        let answer = match outcome {
            Ok(()) => {
                let mut state = locked(&inner.state);
                for (tag, ..) in &acts {
                    let was_counted = state.given.remove(tag).is_some_and(|given| !given.is_held);
                    state.counted -= usize::from(was_counted);
                }
                drop(state);
                inner.bell.notify_one();
                Ok(is_mine)
            }
            Err(trouble) => Err(trouble.error(inner.store.shown())),
        };
        // Whoever asked may have given up.
        let _ = reply.send(answer);
    }
}
