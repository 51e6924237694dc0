//! From an address to what stands behind it.

use std::sync::Arc;
use std::time::Duration;

use crate::address::{Address, Kind};
use crate::backend::Backend;
use crate::backend::memory::MemoryBackend;
use crate::backend::postgres::PostgresBackend;
use crate::backend::redis::RedisBackend;
use crate::backend::rpc::RpcBackend;
use crate::backend::sqlite::SqliteBackend;
use crate::broker::Broker;
use crate::broker::amqp::AmqpBroker;
use crate::broker::memory::MemoryBroker;
use crate::broker::redis::RedisBroker;
use crate::broker::sqlite::SqliteBroker;
use crate::error::Error;

/// How to use a server, where the address does not say it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Before every key and channel in Redis (`global_keyprefix`).
    pub key_prefix: String,
    /// How long to wait for a connection, and for an answer.
    pub timeout: Duration,
    /// How long results are kept.
    pub keep_results: Duration,
    /// The largest message or result that is read, in bytes.
    pub max_size: u64,
    /// The highest priority that queues sort by, on a broker that must be told (`x-max-priority`).
    pub max_priority: Option<u8>,
    /// "classic" or "quorum", on a broker that has kinds of queues (`x-queue-type`).
    pub queue_type: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            key_prefix: String::new(),
            timeout: Duration::from_secs(10),
            keep_results: Duration::from_secs(86_400),
            max_size: 128 << 20,
            max_priority: None,
            queue_type: None,
        }
    }
}

/// The broker at an address. Connects when it is first used.
///
/// # Errors
/// [`Error::Address`] if no broker has such an address.
pub fn open_broker(address: &Address, options: &Options) -> Result<Arc<dyn Broker>, Error> {
    match address.kind() {
        Kind::Memory => Ok(Arc::new(MemoryBroker::open(address))),
        Kind::Amqp => Ok(Arc::new(AmqpBroker::open(address, options)?)),
        Kind::Redis => Ok(Arc::new(RedisBroker::open(address, options)?)),
        Kind::Sqlite => Ok(Arc::new(SqliteBroker::open(address, options)?)),
        kind => Err(Error::Address {
            address: address.shown().into(),
            reason: format!("{kind:?} keeps no messages"),
        }),
    }
}

/// The result store at an address. Connects when it is first used; `broker` is the one that results by messages go
/// through.
///
/// # Errors
/// [`Error::Address`] if no result store has such an address.
pub fn open_backend(
    address: &Address,
    broker: Option<&Address>,
    options: &Options,
) -> Result<Arc<dyn Backend>, Error> {
    match address.kind() {
        Kind::Memory => Ok(Arc::new(MemoryBackend::open(address, options))),
        Kind::Redis => Ok(Arc::new(RedisBackend::open(address, options)?)),
        Kind::Postgres => Ok(Arc::new(PostgresBackend::open(address, options)?)),
        Kind::Rpc => match broker.filter(|broker| broker.kind() == Kind::Amqp) {
            Some(broker) => Ok(Arc::new(RpcBackend::open(address, broker, options)?)),
            None => Err(Error::Address {
                address: address.shown().into(),
                reason: "results by messages need a broker at amqp:// or amqps://".into(),
            }),
        },
        Kind::Sqlite => Ok(Arc::new(SqliteBackend::open(address, options)?)),
        Kind::Amqp => Err(Error::Address {
            address: address.shown().into(),
            reason: "it keeps no results, but brings them as messages: expected rpc://".into(),
        }),
    }
}
