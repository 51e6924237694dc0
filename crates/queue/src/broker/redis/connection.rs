//! A connection that is made when it is needed, and made anew after it was lost.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo,
    Pipeline, ProtocolVersion, PushInfo, RedisError, ServerErrorKind,
};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::tls;
use crate::address::Address;
use crate::caller;
use crate::error::Error;

/// How a server is reached.
#[derive(Clone)]
pub(crate) struct Server {
    client: Client,
    shown: String,
    timeout: Duration,
}

impl Server {
    /// # Errors
    /// [`Error::Address`] if the address is none of a Redis server.
    pub(crate) fn of(address: &Address, timeout: Duration) -> Result<Self, Error> {
        let refuse =
            |error: RedisError| Error::Address { address: address.shown().into(), reason: error.to_string() };
        let info = address.secret().into_connection_info().map_err(refuse)?;
        // Version 3 of the protocol has messages that nobody has asked for.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let info = info.set_redis_settings(settings);
        let client = match info.addr() {
            ConnectionAddr::TcpTls { .. } => tls::client(info, address)?,
            _ => Client::open(info).map_err(refuse)?,
        };
        Ok(Self { client, shown: address.shown().into(), timeout })
    }

    /// The address without its password.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// The number of the database.
    pub(crate) fn database(&self) -> i64 {
        self.client.get_connection_info().redis_settings().db()
    }

    fn place(&self) -> &ConnectionAddr {
        self.client.get_connection_info().addr()
    }

    pub(crate) fn closed(&self) -> Error {
        Error::Closed { server: self.shown.clone() }
    }

    /// A connection that is greeted with these commands when it has been made.
    pub(crate) fn link(&self, greeting: Pipeline) -> Link {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout))
            .set_pipeline_buffer_size(1024)
            .set_write_backpressure_boundary(1 << 18);
        Link {
            server: self.clone(),
            config,
            greeting,
            live: Mutex::default(),
            solo: tokio::sync::Mutex::default(),
            door: tokio::sync::Mutex::default(),
            last: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

/// The number of no connection that all share.
const NO_NUMBER: u64 = u64::MAX;

/// A connection, as long as it lasts.
#[derive(Debug, Clone)]
struct Live {
    connection: MultiplexedConnection,
    /// How many there were before it.
    number: u64,
    since: Instant,
}

/// A connection that whoever uses it moves along himself, and not a task elsewhere: no other thread has to be woken in
/// order to write, or to read.
struct Solo {
    connection: MultiplexedConnection,
    driver: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// One connection after another to the same server.
///
/// A call that meets none makes one. If it cannot, those that waited for it meanwhile fail as it does, instead of each
/// trying for itself; the next call tries again.
pub(crate) struct Link {
    server: Server,
    config: AsyncConnectionConfig,
    greeting: Pipeline,
    live: Mutex<Option<Live>>,
    /// A connection for one at a time.
    solo: tokio::sync::Mutex<Option<Solo>>,
    /// Whoever connects is inside; when that failed the last time, and why.
    door: tokio::sync::Mutex<Option<(Instant, String)>>,
    last: AtomicU64,
    is_closed: AtomicBool,
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Link({})", self.server.shown)
    }
}

impl Link {
    /// Has what the server sends unasked told.
    pub(crate) fn told(mut self, tell: impl Fn(PushInfo) + Send + Sync + 'static) -> Self {
        self.config = self.config.set_push_sender(move |push| {
            tell(push);
            Ok::<(), redis::aio::SendError>(())
        });
        self
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Since when the present connection has lasted, if there is one.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.lock().as_ref().map(|live| live.since)
    }

    /// Ends the connection. There will be no other.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.lock().take();
    }

    /// The connection's number: another one, another number.
    ///
    /// # Errors
    /// If there is none and none can be made.
    pub(crate) async fn connect(&self) -> Result<u64, Error> {
        self.live().await.map(|live| live.number)
    }

    /// Has a command done. `action` says what it is for, as a verb and its object.
    pub(crate) async fn run<T: FromRedisValue>(&self, action: &str, command: &Cmd) -> Result<T, Error> {
        let mut live = self.live().await?;
        let done = command.query_async(&mut live.connection).await;
        done.map_err(|error| self.failed(action, live.number, &error))
    }

    /// Has several commands done, one after another, or in one step if they are a transaction.
    pub(crate) async fn run_all<T: FromRedisValue>(&self, action: &str, all: &Pipeline) -> Result<T, Error> {
        let mut live = self.live().await?;
        let done = all.query_async(&mut live.connection).await;
        done.map_err(|error| self.failed(action, live.number, &error))
    }

    /// Has commands done that change nothing: once more over a new connection if the one that there was turns out to be
    /// lost, for that may be noticed no earlier than with its next use.
    pub(crate) async fn ask<T: FromRedisValue>(&self, action: &str, all: &Pipeline) -> Result<T, Error> {
        let was_there = self.since().is_some();
        match self.run_all(action, all).await {
            Err(Error::Unreachable { .. }) if was_there => self.run_all(action, all).await,
            done => done,
        }
    }

    /// Has several commands done, as quickly as one alone can: for whoever waits for each answer before he goes on.
    pub(crate) async fn run_alone<T: FromRedisValue>(
        &self,
        action: &str,
        all: &Pipeline,
    ) -> Result<T, Error> {
        // Nobody waits for another here, who might not go on himself; there is the connection that all share.
        let (true, Ok(mut place), ConnectionAddr::Tcp(host, port)) =
            (caller::is_here(), self.solo.try_lock(), self.server.place())
        else {
            return self.run_all(action, all).await;
        };
        self.present()?;
        // If this call is given up, the connection ends with it: an answer is still to come on it.
        let mut solo = match place.take() {
            Some(solo) => solo,
            None => self.timed(self.make_solo(host, *port), NO_NUMBER).await?,
        };
        let done = tokio::select! {
            biased;
            done = all.query_async(&mut solo.connection) => done,
            () = &mut solo.driver => Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
            () = self.patience() => Err(self.too_late()),
        };
        match done.map_err(|error| self.failed(action, NO_NUMBER, &error)) {
            Err(error @ Error::Unreachable { .. }) => Err(error),
            done => {
                *place = Some(solo);
                done
            }
        }
    }

    async fn make_solo(&self, host: &str, port: u16) -> Result<Solo, RedisError> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let stream = caller::Socket::new(stream.into_std()?)?;
        let settings = self.server.client.get_connection_info().redis_settings();
        // A timeout of the runtime's would wake its thread for each question.
        let config = self.config.clone().set_response_timeout(None);
        let made = tokio::select! {
            biased;
            made = MultiplexedConnection::new_with_config(settings, stream, config) => made?,
            () = self.patience() => return Err(self.too_late()),
        };
        let (connection, driver) = made;
        Ok(Solo { connection, driver: Box::pin(driver) })
    }

    /// Ends when the server has been waited for long enough, where the caller waits himself.
    async fn patience(&self) {
        caller::moment(Instant::now().into_std() + self.server.timeout).await;
    }

    fn too_late(&self) -> RedisError {
        let reason = format!("found no answer within {:?}", self.server.timeout);
        io::Error::new(io::ErrorKind::TimedOut, reason).into()
    }

    /// Makes a connection, or says that it took too long.
    async fn timed<T>(
        &self,
        making: impl Future<Output = Result<T, RedisError>>,
        number: u64,
    ) -> Result<T, Error> {
        let Ok(made) = timeout(self.server.timeout, making).await else {
            let reason = format!("found no answer within {:?}", self.server.timeout);
            return Err(Error::Unreachable { server: self.server.shown.clone(), reason });
        };
        made.map_err(|error| self.failed("connect", number, &error))
    }

    /// Has a script done, which the server may not know yet.
    pub(crate) async fn call<T: FromRedisValue>(
        &self,
        action: &str,
        script: &Script,
        command: &Cmd,
    ) -> Result<T, Error> {
        let mut live = self.live().await?;
        let mut done = command.query_async(&mut live.connection).await;
        if matches!(&done, Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)) {
            let load = redis::cmd("SCRIPT").arg("LOAD").arg(script.code).to_owned();
            done = match load.query_async::<redis::Value>(&mut live.connection).await {
                Ok(_) => command.query_async(&mut live.connection).await,
                Err(error) => Err(error),
            };
        }
        done.map_err(|error| self.failed(action, live.number, &error))
    }

    /// Has the connection told what is said on channels.
    pub(crate) async fn subscribe(&self, channels: &[&String]) -> Result<(), Error> {
        let mut live = self.live().await?;
        let done = live.connection.subscribe(channels).await;
        done.map_err(|error| self.failed("listen to channels", live.number, &error))
    }

    /// Has it told no more.
    pub(crate) async fn unsubscribe(&self, channels: &[&String]) -> Result<(), Error> {
        let mut live = self.live().await?;
        let done = live.connection.unsubscribe(channels).await;
        done.map_err(|error| self.failed("listen to channels no more", live.number, &error))
    }

    /// What the error means for whoever called.
    pub(crate) fn failed(&self, action: &str, number: u64, error: &RedisError) -> Error {
        let server = self.server.shown.clone();
        let reason = error.to_string();
        match code(error).as_deref() {
            Some("OOM" | "MISCONF") => return Error::Full { server, reason },
            // Another server may have taken its place, or it is about to be one that can be used.
            Some(
                "READONLY" | "LOADING" | "MASTERDOWN" | "BUSY" | "CLUSTERDOWN" | "TRYAGAIN" | "NOREPLICAS",
            ) => {}
            _ if matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse) => {}
            _ => {
                if error.kind() == ErrorKind::AuthenticationFailed || code(error).as_deref() == Some("NOAUTH")
                {
                    self.forget(number);
                }
                return Error::Refused { action: action.into(), server, reason };
            }
        }
        self.forget(number);
        Error::Unreachable { server, reason }
    }

    fn forget(&self, number: u64) {
        let mut live = self.lock();
        if live.as_ref().is_some_and(|live| live.number == number) {
            live.take();
        }
    }

    async fn live(&self) -> Result<Live, Error> {
        let asked = Instant::now();
        if let Some(live) = self.present()? {
            return Ok(live);
        }
        let mut failed = self.door.lock().await;
        if let Some(live) = self.present()? {
            return Ok(live);
        }
        if let Some((when, reason)) = &*failed
            && *when > asked
        {
            return Err(Error::Unreachable { server: self.server.shown.clone(), reason: reason.clone() });
        }
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let made = self.timed(self.make(), number).await;
        match made {
            Ok(connection) => {
                let live = Live { connection, number, since: Instant::now() };
                *self.lock() = Some(live.clone());
                // If it was closed meanwhile, nobody else will take this away.
                self.present()?;
                Ok(live)
            }
            Err(error) => {
                *failed = Some((Instant::now(), error.to_string()));
                Err(error)
            }
        }
    }

    fn present(&self) -> Result<Option<Live>, Error> {
        if self.is_closed.load(Ordering::Acquire) {
            self.lock().take();
            return Err(self.server.closed());
        }
        Ok(self.lock().clone())
    }

    async fn make(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut connection =
            self.server.client.get_multiplexed_async_connection_with_config(&self.config).await?;
        if !self.greeting.is_empty() {
            self.greeting.query_async::<()>(&mut connection).await?;
        }
        Ok(connection)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the server calls the error. A transaction is aborted because of its first one.
fn code(error: &RedisError) -> Option<String> {
    let first =
        error.clone().into_server_errors().and_then(|errors| Some(errors.first()?.1.code().to_owned()));
    first.or_else(|| error.code().map(String::from))
}

/// A script that the server runs in one step.
#[derive(Debug)]
pub(crate) struct Script {
    code: &'static str,
    hash: String,
}

impl Script {
    pub(crate) fn new(code: &'static str) -> Self {
        Self { code, hash: redis::Script::new(code).get_hash().into() }
    }

    /// The beginning of a call: so many of the arguments that follow are keys.
    pub(crate) fn begin(&self, keys: usize) -> Cmd {
        redis::cmd("EVALSHA").arg(&self.hash).arg(keys).to_owned()
    }
}
