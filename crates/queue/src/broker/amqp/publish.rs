//! A batch of messages, written one behind the other and confirmed together.

use std::collections::HashSet;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};

use super::link::Live;
use super::server::Server;
use crate::error::{Error, PublishError};

/// A message as it goes to a queue.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    pub(crate) queue: String,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
}

/// Publishes letters in order and waits until each is confirmed. If `must_arrive`, one for a queue that does not exist
/// is an error; else it vanishes.
pub(crate) async fn publish(
    server: &Server,
    live: &Live,
    letters: Vec<Letter>,
    must_arrive: bool,
) -> Result<(), PublishError> {
    let nothing = |error| PublishError { confirmed: 0, error };
    live.unblocked().await.map_err(nothing)?;
    let channel = live.confirming().await.map_err(nothing)?;
    let queues: Vec<String> = letters.iter().map(|letter| letter.queue.clone()).collect();
    let writes = write(&channel, letters, must_arrive);
    let mut returned = HashSet::new();
    for (at, write) in writes.into_iter().enumerate() {
        let answer = match server.answer("publish", confirmed(write)).await {
            Err(Error::Unreachable { .. }) if live.is_blocked() => Err(live.full()),
            answer => answer,
        };
        // The channel is given up with what is still on its way.
        let failed = |error| PublishError { confirmed: at, error };
        match answer.map_err(failed)? {
            Confirmation::Nack(_) => return Err(failed(server.full("it has refused to keep the message"))),
            Confirmation::Ack(Some(letter)) => {
                returned.insert(queue_of(*Box::new(letter)));
            }
            Confirmation::Ack(None) | Confirmation::NotRequested => {}
        }
    }
    live.is_idle(channel);
    let Some(lost) = queues.iter().position(|queue| returned.contains(queue)) else { return Ok(()) };
    let queue = &queues[lost];
    live.forget(queue);
    let error = server.refused(&format!("publish to the queue {queue}"), "there is no such queue".into());
    Err(PublishError { confirmed: lost, error })
}

fn queue_of(letter: BasicReturnMessage) -> String {
    letter.delivery.routing_key.as_str().into()
}

/// Hands all letters to the connection before it waits for any of them.
fn write(
    channel: &Channel,
    letters: Vec<Letter>,
    mandatory: bool,
) -> Vec<Begun<impl Future<Output = lapin::Result<PublisherConfirm>> + use<>>> {
    let write = |letter: Letter| {
        let channel = channel.clone();
        begin(async move {
            let options = BasicPublishOptions { mandatory, immediate: false };
            let Letter { queue, properties, body } = letter;
            channel.basic_publish("".into(), queue.into(), options, &body, properties).await
        })
    };
    letters.into_iter().map(write).collect()
}

async fn confirmed(
    write: Begun<impl Future<Output = lapin::Result<PublisherConfirm>>>,
) -> lapin::Result<Confirmation> {
    write.end().await?.await
}

/// Something that was begun, and perhaps done already.
pub(super) enum Begun<F: Future> {
    Done(F::Output),
    Pending(Pin<Box<F>>),
}

/// Begins something: with lapin, what is to be written has its place in the order from then on.
pub(super) fn begin<F: Future>(future: F) -> Begun<F> {
    let mut future = Box::pin(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Begun::Done(output),
        Poll::Pending => Begun::Pending(future),
    }
}

impl<F: Future> Begun<F> {
    /// Waits for its end.
    pub(super) async fn end(self) -> F::Output {
        match self {
            Self::Done(output) => output,
            Self::Pending(future) => future.await,
        }
    }
}
