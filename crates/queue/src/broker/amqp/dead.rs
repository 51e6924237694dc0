//! Dead letters: messages in the queue `<queue>.dead`, as they were, with the reason in their headers.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use uuid::Uuid;

use super::link::Live;
use super::publish::Letter;
use super::{Post, declare, server};
use crate::broker::DeadLetter;
use crate::error::Error;
use crate::wire::{Limits, table};

/// Why it died, when, and in which queue: the headers that a dead letter has more.
const REASON: &str = "x-manyhands-reason";
const DIED: &str = "x-manyhands-died";
const QUEUE: &str = "x-manyhands-queue";

/// How many letters are brought back at a time.
const BATCH: usize = 256;

/// Where the dead letters of a queue lie.
pub(super) fn queue_of(queue: &str) -> String {
    format!("{queue}.dead")
}

/// What becomes of a message that nobody can do anything with.
pub(super) fn bury(letter: Letter, reason: &str) -> Letter {
    let Letter { queue, properties, body } = letter;
    let mut headers = properties.headers().clone().unwrap_or_default();
    let died = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    headers.insert(REASON.into(), AMQPValue::LongString(reason.into()));
    headers.insert(DIED.into(), AMQPValue::Double(died));
    headers.insert(QUEUE.into(), AMQPValue::LongString(queue.as_str().into()));
    let key = ShortString::from(Uuid::new_v4().to_string());
    Letter {
        queue: queue_of(&queue),
        properties: lasting(properties).with_headers(headers).with_message_id(key),
        body,
    }
}

/// The same properties, for a message that stays until somebody looks at it.
fn lasting(properties: BasicProperties) -> BasicProperties {
    let kept = BasicProperties::default().with_delivery_mode(2);
    let kept = match properties.content_type() {
        Some(text) => kept.with_content_type(text.clone()),
        None => kept,
    };
    let kept = match properties.content_encoding() {
        Some(text) => kept.with_content_encoding(text.clone()),
        None => kept,
    };
    let kept = match properties.correlation_id() {
        Some(text) => kept.with_correlation_id(text.clone()),
        None => kept,
    };
    let kept = match properties.reply_to() {
        Some(text) => kept.with_reply_to(text.clone()),
        None => kept,
    };
    match properties.priority() {
        Some(priority) => kept.with_priority(*priority),
        None => kept,
    }
}

/// Brings a letter back to life: without what only a dead one has.
fn raise(queue: &str, properties: BasicProperties, body: Bytes) -> Letter {
    let headers = stripped(&properties);
    Letter { queue: queue.into(), properties: lasting(properties).with_headers(headers), body }
}

fn stripped(properties: &BasicProperties) -> FieldTable {
    let mut fields = properties.headers().clone().unwrap_or_default().inner().clone();
    for name in [REASON, DIED, QUEUE] {
        fields.remove(name);
    }
    fields.into()
}

/// The oldest dead letters of a queue. They are taken and given back: for that moment nobody else sees them.
pub(super) async fn list(post: &Post, queue: &str, most: usize) -> Result<Vec<DeadLetter>, Error> {
    let live = post.back.live().await?;
    let channel = live.channel().await?;
    let action = format!("look into the queue {}", queue_of(queue));
    let mut letters = Vec::new();
    while letters.len() < most {
        let Some(delivery) = post.server.answer(&action, get(&live, &channel, queue)).await? else { break };
        letters.push(read(queue, delivery));
    }
    give_back(post, &channel).await?;
    Ok(letters)
}

/// Publishes dead letters to their queue again; all of those that there are now if no keys are given.
pub(super) async fn revive(post: &Post, queue: &str, keys: &[String]) -> Result<u64, Error> {
    let wanted: HashSet<&str> = keys.iter().map(String::as_str).collect();
    let action = format!("take from the queue {}", queue_of(queue));
    let mut left = post.count(&queue_of(queue)).await?;
    let mut revived = 0;
    let live = post.back.live().await?;
    let channel = live.channel().await?;
    while left > 0 && (wanted.is_empty() || revived < wanted.len() as u64) {
        let (mut letters, mut tags) = (Vec::new(), Vec::new());
        while left > 0 && letters.len() < BATCH {
            let Some(delivery) = post.server.answer(&action, get(&live, &channel, queue)).await? else {
                left = 0;
                break;
            };
            left -= 1;
            if wanted.is_empty() || wanted.contains(key_of(&delivery.properties).as_str()) {
                tags.push(delivery.delivery_tag);
                letters.push(raise(queue, delivery.properties, delivery.data.into()));
            }
        }
        let found = letters.len();
        if found > 0 {
            post.send(letters).await.map_err(|failed| failed.error)?;
        }
        for tag in tags {
            post.server.answer(&action, channel.basic_ack(tag, BasicAckOptions::default())).await?;
        }
        revived += found as u64;
    }
    give_back(post, &channel).await?;
    Ok(revived)
}

/// What was taken and not acknowledged goes back to where it was.
async fn give_back(post: &Post, channel: &Channel) -> Result<(), Error> {
    if channel.status().connected() {
        // Closing alone gives it back some time later.
        let all = BasicNackOptions { multiple: true, requeue: true };
        post.server.answer("give back messages", channel.basic_nack(0, all)).await?;
        post.server.answer("close a channel", channel.close(200, "OK".into())).await?;
    }
    Ok(())
}

async fn get(live: &Live, channel: &Channel, queue: &str) -> lapin::Result<Option<Delivery>> {
    match channel.basic_get(queue_of(queue).into(), BasicGetOptions::default()).await {
        Err(error) if server::is(&error, declare::NOT_FOUND) => Ok(None),
        answer => Ok(answer?.map(|message| {
            let mut delivery = message.delivery;
            delivery.properties = live.whole(delivery.properties);
            delivery
        })),
    }
}

fn read(queue: &str, delivery: Delivery) -> DeadLetter {
    let properties = delivery.properties;
    let header = |name| properties.headers().as_ref().and_then(|headers| headers.inner().get(name));
    let text = |name| match header(name) {
        Some(AMQPValue::LongString(text)) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        _ => None,
    };
    let died = match header(DIED) {
        Some(AMQPValue::Double(seconds)) => *seconds,
        _ => 0.0,
    };
    DeadLetter {
        key: key_of(&properties),
        queue: text(QUEUE).unwrap_or_else(|| queue.into()),
        reason: text(REASON).unwrap_or_default(),
        died,
        content: {
            let headers = stripped(&properties);
            table::decode(&properties.with_headers(headers), delivery.data.into(), &Limits::default())
        },
    }
}

/// What a letter is called: the number that we gave it, or whatever tells it from others that somebody else put there.
fn key_of(properties: &BasicProperties) -> String {
    let name = properties.message_id().as_ref().or(properties.correlation_id().as_ref());
    name.map(|name| name.as_str().to_owned()).unwrap_or_default()
}
