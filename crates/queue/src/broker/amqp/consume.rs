//! One consumer: a channel with a subscription to each queue.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use lapin::Channel;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio::runtime::Handle;

use super::desk::{Desk, Prefetch, limit};
use super::link::Live;
use super::{Post, declare, server};
use crate::broker::{Consumer, Declaration, Delivery, Settle, Subscription, Tag};
use crate::error::Error;
use crate::wire::{Limits, table};

/// What comes over one channel.
pub(super) struct AmqpConsumer {
    post: Arc<Post>,
    streams: Vec<Option<lapin::Consumer>>,
    desk: Arc<Desk>,
    limits: Limits,
    runtime: Handle,
    /// Why there is no more, if that was seen beside deliveries.
    end: Option<Error>,
    /// The connection lives as long as a consumer does.
    live: Arc<Live>,
}

/// Declares the queues of a subscription and begins to consume from them.
pub(super) async fn begin(post: &Arc<Post>, subscription: &Subscription) -> Result<AmqpConsumer, Error> {
    let is_quorum = |queue: &Declaration| queue.kind.as_deref() == Some("quorum");
    let may_be_common = !subscription.queues.iter().chain([&post.usual]).any(is_quorum);
    let live = prepare(post, subscription).await?;
    let channel = live.channel().await?;
    let begun = consume(&channel, subscription, may_be_common);
    // A quorum queue that somebody else has declared, or a server that has no common limit any more.
    let begun = match tokio::time::timeout(post.server.timeout(), begun).await {
        Ok(Err(error)) if may_be_common && server::is(&error, declare::NOT_IMPLEMENTED) => None,
        Ok(answer) => Some(answer.map_err(|error| post.server.explain("consume", &error))?),
        Err(_) => return Err(post.server.silent("consume")),
    };
    if let Some(streams) = begun {
        return Ok(consumer(post, live, channel, subscription, streams, may_be_common));
    }
    let live = prepare(post, subscription).await?; // that error has closed the connection
    let channel = live.channel().await?;
    let streams = post.server.answer("consume", consume(&channel, subscription, false)).await?;
    Ok(consumer(post, live, channel, subscription, streams, false))
}

async fn prepare(post: &Post, subscription: &Subscription) -> Result<Arc<Live>, Error> {
    let live = post.back.live().await?;
    for queue in &subscription.queues {
        // Who does not say how it is declared takes it as it is.
        if queue.says_nothing() {
            post.prepare(&live, &queue.name).await?;
        } else {
            post.declare(&live, queue).await?;
        }
    }
    Ok(live)
}

async fn consume(
    channel: &Channel,
    subscription: &Subscription,
    global: bool,
) -> lapin::Result<Vec<lapin::Consumer>> {
    channel.basic_qos(limit(subscription.prefetch), BasicQosOptions { global }).await?;
    let mut streams = Vec::with_capacity(subscription.queues.len());
    for (at, queue) in subscription.queues.iter().enumerate() {
        let tag = format!("{}.{at}", shortened(&subscription.name));
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        streams
            .push(channel.basic_consume(queue.name.as_str().into(), tag.into(), options, arguments).await?);
    }
    Ok(streams)
}

/// The name of a consumer may be 255 bytes long, number included.
fn shortened(name: &str) -> &str {
    let end = (0..=name.len().min(200)).rev().find(|&end| name.is_char_boundary(end));
    &name[..end.unwrap_or(0)]
}

fn consumer(
    post: &Arc<Post>,
    live: Arc<Live>,
    channel: Channel,
    subscription: &Subscription,
    streams: Vec<lapin::Consumer>,
    is_common: bool,
) -> AmqpConsumer {
    let told = tokio::sync::Mutex::new(limit(subscription.prefetch));
    let prefetch = Prefetch { wanted: subscription.prefetch.into(), is_common, told };
    let queues = subscription.queues.iter().map(|queue| queue.name.clone()).collect();
    let tags = streams.iter().map(lapin::Consumer::tag).collect();
    AmqpConsumer {
        post: Arc::clone(post),
        streams: streams.into_iter().map(Some).collect(),
        desk: Arc::new(Desk::new(Arc::clone(post), channel, queues, tags, prefetch)),
        limits: Limits { body: subscription.max_body, ..Limits::default() },
        runtime: Handle::current(),
        end: None,
        live,
    }
}

/// A delivery, and the queue it came from.
type Raw = (usize, lapin::message::Delivery);

impl AmqpConsumer {
    /// Takes what is there; if that is nothing, says so when something comes.
    fn poll_raw(&mut self, most: usize, context: &mut Context<'_>) -> Poll<Result<Vec<Raw>, Error>> {
        let mut found = Vec::new();
        for at in 0..self.streams.len() {
            while found.len() < most
                && let Some(stream) = &mut self.streams[at]
            {
                match Pin::new(stream).poll_next(context) {
                    Poll::Ready(Some(Ok(delivery))) => found.push((at, delivery)),
                    Poll::Ready(end) => {
                        self.streams[at] = None;
                        self.ends(end.and_then(Result::err));
                    }
                    Poll::Pending => break,
                }
            }
        }
        if !found.is_empty() {
            return Poll::Ready(Ok(found));
        }
        match self.end.take() {
            Some(error) => Poll::Ready(Err(error)),
            None if self.streams.iter().all(Option::is_none) => Poll::Ready(Ok(found)),
            None => Poll::Pending,
        }
    }

    /// A queue will deliver no more: because it was asked not to, or because something has happened.
    fn ends(&mut self, error: Option<lapin::Error>) {
        let server = &self.post.server;
        if self.end.is_some() {
            return;
        }
        self.end = match error {
            _ if server.check().is_err() => server.check().err(),
            // Whatever the server has against us, the next consumer will hear it, too.
            Some(error) => Some(match server.explain("consume", &error) {
                Error::Refused { reason, .. } => server.unreachable(reason),
                error => error,
            }),
            None if self.desk.is_stopped() => None,
            None => {
                Some(server.unreachable("the server has ended the consumer: was its queue deleted?".into()))
            }
        };
    }
}

#[async_trait]
impl Consumer for AmqpConsumer {
    async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, Error> {
        let raw = std::future::poll_fn(|context| self.poll_raw(most.max(1), context)).await?;
        let (mut kept, mut found) = (Vec::with_capacity(raw.len()), Vec::with_capacity(raw.len()));
        for (at, delivery) in raw {
            let body = Bytes::from(delivery.data);
            let properties = self.live.whole(delivery.properties);
            found.push(Delivery {
                tag: Tag(delivery.delivery_tag),
                queue: self.desk.queue(at).into(),
                is_redelivered: delivery.redelivered,
                content: table::decode(&properties, body.clone(), &self.limits),
            });
            kept.push((delivery.delivery_tag, at, Box::new(properties), body));
        }
        self.desk.keep(kept.into_iter());
        Ok(found)
    }

    fn settler(&self) -> Arc<dyn Settle> {
        Arc::clone(&self.desk) as Arc<dyn Settle>
    }
}

impl Drop for AmqpConsumer {
    fn drop(&mut self) {
        // The server gives what is not settled to others as soon as the channel is closed.
        let channel = self.desk.channel().clone();
        self.runtime.spawn(async move {
            let _ = channel.close(200, "OK".into()).await;
        });
    }
}
