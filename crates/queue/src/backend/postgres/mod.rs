//! `postgresql://`: results in the tables of Celery's database store, which reads ours as we read its.
//!
//! **Guarantees.** A result is committed when `store` returns. Whoever waits is told by the server (`LISTEN`) of what we
//! store; for what Celery's workers store, who tell nobody, the store looks as often as [`LOOK`] says. The tables are
//! made if they are missing. A result expires when whoever stored it has said so; those of Celery's workers never do,
//! here: its `celery.backend_cleanup` deletes them.
//!
//! **TLS.** As much as the address demands, in the words of `PostgreSQL`'s own clients; by default, where the server has it.
//!
//! **Not here.** Documents that are not JSON: Celery keeps the parts of a result in columns of their own, and only JSON
//! is taken apart here.

mod document;
mod schema;
mod tls;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Config, Row, Statement};

use self::document::Columns;
use self::tls::Tls;
use super::waiters::Waiters;
use super::{Backend, Found, State, Stored};
use crate::address::Address;
use crate::error::Error;
use crate::named::locked;
use crate::open::Options;

/// How often it is looked for results that nobody tells of, while somebody waits.
pub const LOOK: Duration = Duration::from_millis(500);

/// How often what has expired is deleted.
const SWEEP: Duration = Duration::from_secs(60);

/// After how long one who waits tries again to reach the server.
const AGAIN: Duration = Duration::from_millis(250);

/// Results in a database.
#[derive(Debug)]
pub struct PostgresBackend {
    server: Arc<Server>,
    live: tokio::sync::Mutex<Option<Arc<Live>>>,
    waiters: Arc<Waiters>,
    /// The connection was lost, or is not wanted any more.
    is_down: Arc<Notify>,
    swept: Mutex<Option<Instant>>,
}

/// The server, connected to or not.
struct Server {
    config: Config,
    tls: Tls,
    shown: String,
    timeout: Duration,
    /// Seconds.
    keep: Option<f64>,
    is_closed: AtomicBool,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Server").field(&self.shown).finish()
    }
}

/// A connection, and what was prepared on it.
#[derive(Debug)]
struct Live {
    client: Client,
    put: Statement,
    get: Statement,
    forget: Statement,
}

impl PostgresBackend {
    /// The database at an address. Connects when it is first used.
    ///
    /// # Errors
    /// [`Error::Address`] if the address is not understood, or names certificates that cannot be read.
    pub fn open(address: &Address, options: &Options) -> Result<Self, Error> {
        const CENTURY: f64 = 100.0 * 365.0 * 86_400.0;
        let refuse = |reason| Error::Address { address: address.shown().into(), reason };
        let (tls, mode, rest) = tls::of_address(address.secret()).map_err(refuse)?;
        let mut config: Config = rest.parse().map_err(|error| refuse(format!("{error}")))?;
        config.ssl_mode(mode).connect_timeout(options.timeout).application_name("manyhands");
        let keep = options.keep_results.as_secs_f64();
        let server = Server {
            config,
            tls,
            shown: address.shown().into(),
            timeout: options.timeout,
            keep: (keep < CENTURY).then_some(keep),
            is_closed: AtomicBool::new(false),
        };
        Ok(Self {
            server: Arc::new(server),
            live: tokio::sync::Mutex::default(),
            waiters: Arc::default(),
            is_down: Arc::default(),
            swept: Mutex::default(),
        })
    }

    async fn live(&self) -> Result<Arc<Live>, Error> {
        self.server.check()?;
        let mut slot = self.live.lock().await;
        if let Some(live) = slot.as_ref().filter(|live| !live.client.is_closed()) {
            return Ok(Arc::clone(live));
        }
        *slot = None;
        let (live, heard) = self.server.connect().await?;
        let live = Arc::new(live);
        let (waiters, is_down) = (Arc::clone(&self.waiters), Arc::clone(&self.is_down));
        let (server, weak) = (Arc::clone(&self.server), Arc::downgrade(&live));
        tokio::spawn(async move {
            listen(&server, weak, &waiters, heard).await;
            is_down.notify_waiters();
        });
        *slot = Some(Arc::clone(&live));
        Ok(live)
    }

    /// Deletes what has expired, now and then.
    async fn sweep(&self, live: &Live) -> Result<(), Error> {
        let is_due = {
            let mut swept = locked(&self.swept);
            let is_due = swept.is_none_or(|last| last.elapsed() >= SWEEP);
            if is_due {
                *swept = Some(Instant::now());
            }
            is_due
        };
        if !is_due {
            return Ok(());
        }
        self.server.answer("delete expired results", live.client.execute(schema::SWEEP, &[])).await.map(drop)
    }
}

impl Server {
    fn check(&self) -> Result<(), Error> {
        if self.is_closed.load(Ordering::Acquire) {
            Err(Error::Closed { server: self.shown.clone() })
        } else {
            Ok(())
        }
    }

    async fn connect(&self) -> Result<(Live, mpsc::UnboundedReceiver<String>), Error> {
        let (client, mut connection) = self.answer("connect", self.config.connect(self.tls.clone())).await?;
        let (tell, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) =
                std::future::poll_fn(|context| connection.poll_message(context)).await
            {
                if let AsyncMessage::Notification(notification) = message {
                    // Nobody listens when the connection is just being made, or has just been given up.
                    let _ = tell.send(notification.payload().into());
                }
            }
        });
        self.answer("make the tables of results", schema::prepare(&client)).await?;
        let prepare = async {
            client.batch_execute("LISTEN manyhands_results").await?;
            let (put, get) = (client.prepare(schema::PUT).await?, client.prepare(schema::GET).await?);
            Ok((put, get, client.prepare(schema::FORGET).await?))
        };
        let (put, get, forget) = self.answer("prepare statements", prepare).await?;
        Ok((Live { client, put, get, forget }, heard))
    }

    /// Waits for an answer, as long as one waits for answers; `action` is a verb and its object.
    async fn answer<T>(
        &self,
        action: &str,
        question: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.timeout, question).await {
            Ok(answer) => answer.map_err(|error| self.explain(action, &error)),
            Err(_) => {
                Err(self.unreachable(format!("could not {action} within {:?}: no answer", self.timeout)))
            }
        }
    }

    fn unreachable(&self, reason: String) -> Error {
        Error::Unreachable { server: self.shown.clone(), reason }
    }

    fn refused(&self, action: &str, reason: String) -> Error {
        Error::Refused { action: action.into(), server: self.shown.clone(), reason }
    }

    /// What an error of the server's means to whoever wanted `action`.
    fn explain(&self, action: &str, error: &tokio_postgres::Error) -> Error {
        if let Err(closed) = self.check() {
            return closed;
        }
        let Some(said) = error.as_db_error() else {
            let cause =
                std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
            let is_distrust = std::error::Error::source(error)
                .and_then(|cause| cause.downcast_ref())
                .is_some_and(crate::tls::is_distrust);
            let reason = format!("{error}{cause}");
            return if is_distrust { self.refused(action, reason) } else { self.unreachable(reason) };
        };
        match said.code() {
            &(SqlState::DISK_FULL | SqlState::OUT_OF_MEMORY) => {
                Error::Full { server: self.shown.clone(), reason: said.message().into() }
            }
            // Connections, resources, an operator's intervention, an internal error, a transaction that met another.
            code if ["08", "53", "57", "58", "XX", "40"]
                .iter()
                .any(|class| code.code().starts_with(class)) =>
            {
                self.unreachable(said.message().into())
            }
            _ => self.refused(action, said.message().into()),
        }
    }

    /// What is known of tasks.
    async fn find(&self, live: &Live, ids: &[&str]) -> Result<Vec<(String, Found)>, Error> {
        let rows = self.answer("read results", live.client.query(&live.get, &[&ids])).await?;
        let refuse = |reason| self.refused("read a result", reason);
        rows.iter().map(|row| read(row).map_err(refuse)).collect()
    }
}

fn read(row: &Row) -> Result<(String, Found), String> {
    let id: String = row.get(0);
    let columns = Columns {
        status: row.get::<_, Option<String>>(1).unwrap_or_default(),
        result: row.get(2),
        date_done: row.get(3),
        traceback: row.get(4),
        children: row.get(5),
        name: row.get(6),
        args: row.get(7),
        kwargs: row.get(8),
        worker: row.get(9),
        retries: row.get(10),
        queue: row.get(11),
    };
    let document = columns.document(&id)?;
    Ok((id, Found { state: State::of_name(&columns.status), document: document.into() }))
}

/// Tells those who wait of results that the server tells of, and of those that it does not, as long as the connection
/// lasts.
async fn listen(
    server: &Server,
    live: Weak<Live>,
    waiters: &Waiters,
    mut heard: mpsc::UnboundedReceiver<String>,
) {
    const AT_ONCE: usize = 1000;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ids = Vec::new();
    loop {
        ids.clear();
        tokio::select! {
            told = heard.recv_many(&mut ids, AT_ONCE) => if told == 0 { return },
            _ = look.tick() => ids = waiters.ids(),
        }
        ids.retain(|id| waiters.wants(id));
        for ids in ids.chunks(AT_ONCE) {
            let Some(live) = live.upgrade() else { return };
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            // If that fails, whoever waits finds out when the connection ends, or at the next look.
            let found = server.find(&live, &ids).await.unwrap_or_default();
            for (id, found) in found.iter().filter(|(_, found)| found.state.is_ready()) {
                waiters.tell(id, found);
            }
        }
    }
}

/// What of a batch is to be stored: the last of each task, but nothing behind a success.
fn effective(results: &[Stored]) -> Vec<&Stored> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut effective: Vec<&Stored> = Vec::new();
    for result in results {
        match places.get(result.id.as_str()) {
            Some(&at) if effective[at].state != State::Success => effective[at] = result,
            Some(_) => {}
            None => {
                places.insert(&result.id, effective.len());
                effective.push(result);
            }
        }
    }
    effective
}

#[async_trait]
impl Backend for PostgresBackend {
    fn address(&self) -> &str {
        &self.server.shown
    }

    async fn store(&self, results: &[Stored]) -> Result<(), Error> {
        self.server.check()?;
        let results = effective(results);
        let columns: Result<Vec<Columns>, String> =
            results.iter().map(|result| Columns::of(result.state.name(), &result.document)).collect();
        let columns = columns.map_err(|reason| self.server.refused("store a result", reason))?;
        let live = self.live().await?;
        let ids: Vec<&str> = results.iter().map(|result| result.id.as_str()).collect();
        let texts = |of: fn(&Columns) -> Option<&str>| columns.iter().map(of).collect::<Vec<_>>();
        let bytes = |of: fn(&Columns) -> Option<&[u8]>| columns.iter().map(of).collect::<Vec<_>>();
        let status: Vec<&str> = columns.iter().map(|columns| columns.status.as_str()).collect();
        let date_done: Vec<Option<f64>> = columns.iter().map(|columns| columns.date_done).collect();
        let retries: Vec<Option<i32>> = columns.iter().map(|columns| columns.retries).collect();
        let put = async {
            live.client
                .query_one(
                    &live.put,
                    &[
                        &ids,
                        &status,
                        &bytes(|columns| columns.result.as_deref()),
                        &date_done,
                        &texts(|columns| columns.traceback.as_deref()),
                        &bytes(|columns| columns.children.as_deref()),
                        &texts(|columns| columns.name.as_deref()),
                        &bytes(|columns| columns.args.as_deref()),
                        &bytes(|columns| columns.kwargs.as_deref()),
                        &texts(|columns| columns.worker.as_deref()),
                        &retries,
                        &texts(|columns| columns.queue.as_deref()),
                        &self.server.keep,
                    ],
                )
                .await
        };
        self.server.answer("store results", put).await?;
        self.sweep(&live).await
    }

    async fn get(&self, id: &str) -> Result<Option<Found>, Error> {
        let live = self.live().await?;
        Ok(self.server.find(&live, &[id]).await?.pop().map(|(_, found)| found))
    }

    async fn wait(&self, id: &str, patience: Duration) -> Result<Found, Error> {
        let mut waiting = self.waiters.enter(id);
        let mut away: Option<Instant> = None;
        loop {
            let mut is_down = std::pin::pin!(self.is_down.notified());
            is_down.as_mut().enable();
            match self.get(id).await {
                Ok(Some(found)) if found.state.is_ready() => return Ok(found),
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
        let live = self.live().await?;
        self.server.answer("forget a result", live.client.execute(&live.forget, &[&id])).await.map(drop)
    }

    async fn close(&self) {
        self.server.is_closed.store(true, Ordering::Release);
        *self.live.lock().await = None;
        self.is_down.notify_waiters();
    }
}
