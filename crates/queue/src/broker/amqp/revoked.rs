//! Revocations: a broadcast, which reaches the workers that are there at the moment, Celery's and ours.

use std::sync::Mutex;

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, ExchangeKind};

use super::Post;
use crate::broker::Revocation;
use crate::broker::control::{self, EXCHANGE, Revoked};
use crate::error::Error;
use crate::named::locked;

/// What this program has heard.
#[derive(Debug)]
pub(super) struct Ear {
    /// The queue that broadcasts come into.
    name: String,
    heard: Mutex<Revoked>,
}

impl Default for Ear {
    fn default() -> Self {
        let name = format!("manyhands@{}.{EXCHANGE}", uuid::Uuid::new_v4().hyphenated());
        Self { name, heard: Mutex::default() }
    }
}

pub(super) async fn revoke(post: &Post, ids: &[String], terminate: bool) -> Result<(), Error> {
    let channel = post.channel().await?;
    let request = control::revoke(ids, terminate);
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_priority(0)
        .with_delivery_mode(2);
    let publishing = async {
        declare_exchange(&channel).await?;
        let options = BasicPublishOptions::default();
        channel.basic_publish(EXCHANGE.into(), "".into(), options, &request, properties).await?.await
    };
    post.server.answer("revoke a task", publishing).await.map(drop)
}

/// Hears what has been said, and tells what was said after the mark.
pub(super) async fn since(post: &Post, mark: u64) -> Result<(u64, Vec<Revocation>), Error> {
    let live = post.back.live().await?;
    let channel = live.channel().await?;
    let action = "ask for revoked tasks";
    // Of one name, and declared by the one connection that may: where it is there already, nothing happens.
    post.server.answer(action, listen(&channel, &post.ear.name)).await?;
    let options = BasicGetOptions { no_ack: true };
    while let Some(said) =
        post.server.answer(action, channel.basic_get(post.ear.name.as_str().into(), options)).await?
    {
        drop(live.whole(said.delivery.properties)); // or they would be kept for somebody who asks for them
        for revocation in control::revocations(&said.delivery.data) {
            locked(&post.ear.heard).add(revocation);
        }
    }
    Ok(locked(&post.ear.heard).since(mark))
}

async fn declare_exchange(channel: &Channel) -> lapin::Result<()> {
    let options = ExchangeDeclareOptions::default();
    channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Fanout, options, FieldTable::default()).await
}

/// Has broadcasts come into a queue, as Celery declares those of its workers.
async fn listen(channel: &Channel, name: &str) -> lapin::Result<()> {
    declare_exchange(channel).await?;
    let options =
        QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-expires".into(), AMQPValue::LongInt(10_000));
    arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(300_000));
    channel.queue_declare(name.into(), options, arguments).await?;
    let nothing = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(name.into(), EXCHANGE.into(), "".into(), nothing.0, nothing.1).await
}
