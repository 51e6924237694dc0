//! `sqlite:///file`: results in a file, for all processes of a machine; in the same file as the messages, if it is named so.
//!
//! **Guarantees.** What was stored is on the disk, and found by every process until it expires. Who waits is woken by
//! whichever process stores the result.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{OptionalExtension, params};
use tokio::sync::{Notify, oneshot};

use super::waiters::Waiters;
use super::{Backend, Found, State, Stored};
use crate::address::Address;
use crate::error::Error;
use crate::open::Options;
use crate::sqlite::{Hears, Job, Kind, Listener, Session, Store, Trouble, now_in_ms};

/// The result store in a file.
#[derive(Debug)]
pub struct SqliteBackend {
    watch: Arc<Watch>,
    /// Milliseconds.
    keep: Option<i64>,
    is_closed: AtomicBool,
    end: Notify,
}

impl SqliteBackend {
    /// The result store in the file of that address, which is opened when it is first used.
    ///
    /// # Errors
    /// [`Error::Address`] if it names no file in a folder that there is.
    pub fn open(address: &Address, options: &Options) -> Result<Self, Error> {
        let store = Store::find(address, options.timeout)?;
        let watch = Arc::new(Watch {
            store: Arc::clone(&store),
            waiters: Arc::default(),
            is_asked: AtomicBool::new(false),
            seen: AtomicI64::new(0),
        });
        let listener: Weak<Watch> = Arc::downgrade(&watch);
        store.enlist(listener);
        Ok(Self {
            watch,
            keep: i64::try_from(options.keep_results.as_millis()).ok(),
            is_closed: AtomicBool::new(false),
            end: Notify::new(),
        })
    }

    fn store(&self) -> Result<&Arc<Store>, Error> {
        let store = &self.watch.store;
        if self.is_closed.load(Ordering::Acquire) { Err(store.closed()) } else { Ok(store) }
    }
}

#[async_trait]
impl Backend for SqliteBackend {
    fn address(&self) -> &str {
        self.watch.store.shown()
    }

    async fn store(&self, results: &[Stored]) -> Result<(), Error> {
        let rows: Vec<(String, State, Bytes)> = results
            .iter()
            .map(|result| (result.id.clone(), result.state.clone(), result.document.clone()))
            .collect();
        let keep = self.keep;
        self.store()?.call(Kind::Durable, move |session| insert(session, &rows, keep)).await
    }

    async fn get(&self, id: &str) -> Result<Option<Found>, Error> {
        let id = id.to_owned();
        self.store()?.call(Kind::Read, move |session| find(session, &id)).await
    }

    async fn wait(&self, id: &str, _patience: Duration) -> Result<Found, Error> {
        let mut end = std::pin::pin!(self.end.notified());
        end.as_mut().enable();
        let store = self.store()?;
        let mut waiting = self.watch.waiters.enter(id);
        let (reply, answer) = oneshot::channel();
        let watch = Arc::clone(&self.watch);
        store.send(Box::new(Look { watch, id: id.into(), kind: Kind::Read, found: None, seen: None, reply }));
        let found = answer.await.unwrap_or_else(|_| Err(store.closed()))?;
        if let Some(found) = found.filter(|found| found.state.is_ready()) {
            return Ok(found);
        }
        let found = tokio::select! {
            found = waiting.found() => found,
            () = end => None,
        };
        found.ok_or_else(|| store.closed())
    }

    async fn forget(&self, id: &str) -> Result<(), Error> {
        let id = id.to_owned();
        let forget = move |session: &mut Session| {
            session.db.prepare_cached("DELETE FROM result WHERE id = ?")?.execute([&id])?;
            Ok(())
        };
        self.store()?.call(Kind::Durable, forget).await
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.end.notify_waiters();
    }
}

fn insert(session: &mut Session, rows: &[(String, State, Bytes)], keep: Option<i64>) -> Result<(), Trouble> {
    let now = now_in_ms();
    let expires = keep.and_then(|keep| now.checked_add(keep));
    let first = session.numbers(rows.len())?;
    // A success is final, unless it has expired. What stays there is not overwritten by the second statement.
    let free = "DELETE FROM result WHERE id = ?1 AND (state <> 'SUCCESS' OR expires <= ?2)";
    let mut free = session.db.prepare_cached(free)?;
    let mut insert = session.db.prepare_cached("INSERT OR IGNORE INTO result VALUES (?, ?, ?, ?, ?)")?;
    for (seq, (id, state, document)) in (first..).zip(rows) {
        free.execute(params![id, now])?;
        insert.execute(params![seq, id, state.name(), &**document, expires])?;
    }
    session.news.results |= rows.iter().any(|(_, state, _)| state.is_ready());
    Ok(())
}

fn find(session: &Session, id: &str) -> Result<Option<Found>, Trouble> {
    let sql = "SELECT state, document FROM result WHERE id = ?1 AND (expires IS NULL OR expires > ?2)";
    let mut select = session.db.prepare_cached(sql)?;
    Ok(select.query_row(params![id, now_in_ms()], |row| found(row, 0)).optional()?)
}

fn found(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Found> {
    let state = State::of_name(row.get_ref(at)?.as_str()?);
    Ok(Found { state, document: row.get::<_, Vec<u8>>(at + 1)?.into() })
}

/// Those of one handle who wait, and how far the file has been read for them.
#[derive(Debug)]
struct Watch {
    store: Arc<Store>,
    waiters: Arc<Waiters>,
    /// A scan is on its way.
    is_asked: AtomicBool,
    /// Up to where; used on the thread of the file only.
    seen: AtomicI64,
}

impl Listener for Watch {
    fn messages(self: Arc<Self>) {}

    fn results(self: Arc<Self>) {
        if !self.waiters.is_empty() && !self.is_asked.swap(true, Ordering::AcqRel) {
            let store = Arc::clone(&self.store);
            store.send(Box::new(Scan { watch: self, seen: 0, found: Vec::new() }));
        }
    }
}

/// The first look of one who waits. Whatever is stored later is found by a scan.
struct Look {
    watch: Arc<Watch>,
    id: Box<str>,
    kind: Kind,
    found: Option<Found>,
    seen: Option<i64>,
    reply: oneshot::Sender<Result<Option<Found>, Error>>,
}

impl Job for Look {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn is_needed(&mut self, session: &mut Session) -> Result<bool, Trouble> {
        self.kind = if session.hears_results() { Kind::Read } else { Kind::Write };
        Ok(true)
    }

    fn run(&mut self, session: &mut Session) -> Result<(), Trouble> {
        if self.kind == Kind::Write {
            session.listen(self.watch.store.bells(), Hears { consumes: false, waits: true })?;
        }
        // If nobody else waits, what came before concerns nobody.
        self.seen = None;
        if self.watch.waiters.is_at_most_one() {
            let mut select = session.db.prepare_cached("SELECT last FROM counter")?;
            self.seen = Some(select.query_row([], |row| row.get(0))?);
        }
        self.found = find(session, &self.id)?;
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), Trouble>) {
        let Self { watch, found, seen, reply, .. } = *self;
        if let (Ok(()), Some(seen)) = (&outcome, seen) {
            watch.seen.store(seen, Ordering::Relaxed);
        }
        // Whoever asked may have given up.
        let _ = reply.send(outcome.map(|()| found).map_err(|trouble| trouble.error(watch.store.shown())));
    }
}

/// Looks through what was stored since the last time.
struct Scan {
    watch: Arc<Watch>,
    seen: i64,
    found: Vec<(String, Found)>,
}

impl Job for Scan {
    fn kind(&self) -> Kind {
        Kind::Read
    }

    fn run(&mut self, session: &mut Session) -> Result<(), Trouble> {
        // From here on whoever rings asks for another one.
        self.watch.is_asked.store(false, Ordering::Release);
        self.seen = self.watch.seen.load(Ordering::Relaxed);
        self.found.clear();
        let mut select = session
            .db
            .prepare_cached("SELECT seq, id, state, document FROM result WHERE seq > ? ORDER BY seq")?;
        let mut rows = select.query([self.seen])?;
        while let Some(row) = rows.next()? {
            self.seen = row.get(0)?;
            let id = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
            if self.watch.waiters.wants(id) {
                self.found.push((id.to_owned(), found(row, 2)?));
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), Trouble>) {
        if outcome.is_err() {
            // The next round looks again, from where this one began.
            return;
        }
        self.watch.seen.store(self.seen, Ordering::Relaxed);
        for (id, found) in self.found.iter().filter(|(_, found)| found.state.is_ready()) {
            self.watch.waiters.tell(id, found);
        }
    }
}
