//! Queues as Celery declares them: to the letter, or the server refuses whoever comes second.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use crate::broker::Declaration;

/// The reply codes of the server that are looked at.
pub(super) const NOT_FOUND: u16 = 404;
pub(super) const NOT_IMPLEMENTED: u16 = 540;

/// Declares an exchange and a queue of that name, and binds them by that name.
pub(super) async fn declare(channel: &Channel, queue: &Declaration) -> lapin::Result<()> {
    let name = queue.name.as_str();
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name.into(), ExchangeKind::Direct, durable, FieldTable::default()).await?;
    channel.queue_declare(name.into(), durable_queue(), arguments(queue)).await?;
    let nothing = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(name.into(), name.into(), name.into(), nothing.0, nothing.1).await
}

/// Declares a durable queue that is reached by its name alone.
pub(super) async fn declare_bare(channel: &Channel, name: &str) -> lapin::Result<u32> {
    let queue = channel.queue_declare(name.into(), durable_queue(), FieldTable::default()).await?;
    Ok(queue.message_count())
}

/// How many messages wait in a queue that exists.
pub(super) async fn count(channel: &Channel, name: &str) -> lapin::Result<u32> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    Ok(channel.queue_declare(name.into(), options, FieldTable::default()).await?.message_count())
}

fn durable_queue() -> QueueDeclareOptions {
    QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }
}

fn arguments(queue: &Declaration) -> FieldTable {
    let mut arguments = FieldTable::default();
    if let Some(most) = queue.max_priority {
        arguments.insert("x-max-priority".into(), AMQPValue::LongInt(most.into()));
    }
    if let Some(kind) = &queue.kind {
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.as_str().into()));
    }
    arguments
}
