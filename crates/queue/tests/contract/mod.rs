//! The contract that every broker and every result store holds, as one test for each law.
//!
//! To hold a new one against it, write `tests/<name>.rs`:
//!
//! ```ignore
//! mod contract;
//!
//! struct Server { /* what a test needs: an address, a share in a running server */ }
//!
//! impl contract::Fixture for Server {
//!     async fn new() -> Self { /* starts the server, or joins those who use it; called once for each test */ }
//!     fn broker(&self, options: &Options) -> Arc<dyn Broker> { open_broker(&self.address, options).unwrap() }
//!     fn backend(&self, options: &Options) -> Arc<dyn Backend> { open_backend(&self.address, None, options).unwrap() }
//!     const PRIORITIES: [u8; 3] = [0, 3, 9]; // if it serves the smallest first
//! }
//!
//! contract::broker_laws!(Server);
//! contract::backend_laws!(Server);
//! ```
//!
//! Each call of `broker` and `backend` is a connection of its own. Queues and tasks have names that no other test uses,
//! so a server may be shared. One that cannot hold all laws by its nature names those that it holds, by
//! `contract::laws!(Server, backend: a_result_is_found, …)`, and says why.

// Not every broker is a result store, and not every one is held against every law.
#![allow(dead_code, unused_macros, unused_imports)]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use manyhands_queue::broker::{Consumer, Declaration, Delivery, Settlement, Subscription};
use manyhands_queue::message::{Headers, Message, Outgoing, Properties};
use manyhands_queue::open::Options;
use manyhands_queue::{Backend, Broker};
use uuid::Uuid;

pub(crate) mod backend;
pub(crate) mod broker;

/// A server, or what takes its place, for one test.
pub(crate) trait Fixture: Sized {
    /// Three priorities, the one that goes first first.
    const PRIORITIES: [u8; 3] = [9, 5, 0];

    /// Whether what is returned is there before the next message is given out.
    const RETURNS_AT_ONCE: bool = true;

    /// Called by each test.
    async fn new() -> Self;

    /// A broker with a connection of its own.
    fn broker(&self, _options: &Options) -> Arc<dyn Broker> {
        panic!("it keeps no messages")
    }

    /// A result store with a connection of its own.
    fn backend(&self, _options: &Options) -> Arc<dyn Backend> {
        panic!("it keeps no results")
    }
}

/// One test for each law that is named.
macro_rules! laws {
    ($fixture:ty, $kind:ident: $($law:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $law() {
                contract::in_time(contract::$kind::$law::<$fixture>()).await;
            }
        )+
    };
}

/// All laws of brokers.
macro_rules! broker_laws {
    ($fixture:ty) => {
        contract::laws!(
            $fixture,
            broker: messages_come_in_order,
            a_message_arrives_as_it_was,
            every_name_and_body_travels,
            the_better_priority_comes_first,
            what_was_published_is_there_for_others,
            one_batch_fills_several_queues,
            who_waits_is_woken,
            what_is_done_is_gone,
            what_is_returned_comes_next,
            what_is_requeued_comes_last,
            the_dead_are_listed_and_come_back,
            the_dead_are_buried,
            a_replacement_takes_the_place,
            nothing_is_lost_when_next_is_given_up,
            a_consumer_has_no_more_than_it_asked_for,
            what_is_held_does_not_count,
            what_is_held_is_settled_in_every_way,
            two_consumers_share_and_double_nothing,
            a_dropped_consumer_gives_back,
            a_large_body_is_not_read,
            a_purge_deletes_what_waits,
            workers_learn_of_revocations,
            a_stopped_consumer_drains,
            after_close_nothing_works,
            thousands_travel_in_batches,
        );
    };
}

/// Laws that a broker can hold whose queues are in its own hands.
macro_rules! embedded_laws {
    ($fixture:ty) => {
        contract::laws!(
            $fixture,
            broker: queues_are_served_in_order,
            what_is_given_back_keeps_its_order,
            what_is_returned_together_keeps_its_order,
            a_message_is_settled_once,
            what_is_requeued_was_delivered_before,
        );
    };
}

/// All laws of result stores.
macro_rules! backend_laws {
    ($fixture:ty) => {
        contract::laws!(
            $fixture,
            backend: nothing_is_known_of_a_stranger,
            a_result_is_found,
            every_id_and_document_is_kept,
            a_success_is_final,
            a_failure_is_not,
            the_last_of_a_batch_counts,
            a_wait_finds_what_was_stored_before,
            a_wait_is_woken_by_another_handle,
            a_wait_is_not_ended_by_what_is_not_ready,
            all_who_wait_are_woken,
            a_wait_that_was_given_up_takes_nothing_away,
            what_was_forgotten_is_unknown,
            a_result_expires,
            thousands_are_stored_and_awaited,
            a_closed_store_says_so,
        );
    };
}

pub(crate) use {backend_laws, broker_laws, embedded_laws, laws};

/// Longer than anything here takes on any machine: what lasts so long has lost its wake-up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How long nothing comes when nothing is to come. On a slow machine a breach may stay unseen, but none is invented.
pub(crate) const QUIET: Duration = Duration::from_millis(150);

/// A law that does not hang.
pub(crate) async fn in_time<T>(law: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, law).await.expect("it hangs")
}

/// A name that nobody else uses.
pub(crate) fn unique(word: &str) -> String {
    format!("{word}-{}", Uuid::new_v4())
}

/// The message with the number for its body.
pub(crate) fn message(number: usize) -> Message {
    Message {
        headers: Headers {
            lang: Some("py".into()),
            task: "contract.task".into(),
            id: format!("id-{number}"),
            ..Headers::default()
        },
        properties: Properties { correlation_id: Some(format!("id-{number}")), ..Properties::default() },
        body: Bytes::from(number.to_string()),
    }
}

/// It, for a queue.
pub(crate) fn outgoing(queue: &str, number: usize) -> Outgoing {
    Outgoing { queue: queue.into(), message: message(number) }
}

/// Those, for a queue.
pub(crate) fn numbered(queue: &str, numbers: impl IntoIterator<Item = usize>) -> Vec<Outgoing> {
    numbers.into_iter().map(|number| outgoing(queue, number)).collect()
}

/// The number of a message.
pub(crate) fn number(delivery: &Delivery) -> usize {
    let body = &delivery.content.as_ref().expect("it can be read").body;
    std::str::from_utf8(body).unwrap().parse().unwrap()
}

/// A queue with nothing special.
pub(crate) fn plain(name: &str) -> Declaration {
    Declaration { name: name.into(), ..Declaration::default() }
}

/// Who wants these queues, and so many messages at once.
pub(crate) fn subscription(queues: &[&str], prefetch: u32) -> Subscription {
    Subscription {
        queues: queues.iter().map(|name| plain(name)).collect(),
        prefetch,
        max_body: 1 << 20,
        visibility: Duration::from_secs(3600),
        name: "contract".into(),
    }
}

/// A consumer of one queue.
pub(crate) async fn consume(broker: &Arc<dyn Broker>, queue: &str, prefetch: u32) -> Box<dyn Consumer> {
    broker.consume(subscription(&[queue], prefetch)).await.unwrap()
}

/// So many deliveries, in as many calls as it takes.
pub(crate) async fn receive(consumer: &mut Box<dyn Consumer>, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    while deliveries.len() < count {
        let more = consumer.next(count - deliveries.len()).await.unwrap();
        assert!(!more.is_empty(), "it ended after {} of {count}", deliveries.len());
        deliveries.extend(more);
    }
    assert_eq!(deliveries.len(), count, "more came than were asked for");
    deliveries
}

/// Says of all that they are done with.
pub(crate) fn done(
    consumer: &dyn Consumer,
    deliveries: &[Delivery],
) -> impl Future<Output = ()> + Send + use<> {
    let settler = consumer.settler();
    let done = deliveries.iter().map(|delivery| (delivery.tag, Settlement::Done)).collect();
    async move { settler.settle(done).await.unwrap() }
}

/// Checks that nothing comes.
pub(crate) async fn nothing_comes(consumer: &mut Box<dyn Consumer>) {
    if let Ok(came) = tokio::time::timeout(QUIET, consumer.next(10)).await {
        panic!("found {came:?}, expected nothing");
    }
}
