//! Results by messages of a real `RabbitMQ`.

mod contract;
mod servers;

use std::sync::Arc;

use manyhands_queue::address::Address;
use manyhands_queue::backend::{Found, State, Stored};
use manyhands_queue::open::{Options, open_backend};
use manyhands_queue::{Backend, Error};

use self::contract::{Fixture, PATIENCE, unique};
use self::servers::rabbitmq::RabbitMq;

struct Shared {
    broker: Address,
}

impl contract::Fixture for Shared {
    async fn new() -> Self {
        let url = tokio::task::spawn_blocking(RabbitMq::shared).await.unwrap();
        Self { broker: Address::parse(url).unwrap() }
    }

    fn backend(&self, options: &Options) -> Arc<dyn Backend> {
        open_backend(&Address::parse("rpc://").unwrap(), Some(&self.broker), options).unwrap()
    }
}

// A result is found by him alone who asked for the task. So the laws stay out in which somebody else finds it, too
// (`a_result_is_found`, `all_who_wait_are_woken`), forgets it for him (`what_was_forgotten_is_unknown`), or says for him
// how long it is kept (`a_result_expires`). In the others, a reader who is not prepared would miss what was stored.
contract::laws!(
    Shared,
    backend: nothing_is_known_of_a_stranger,
    a_closed_store_says_so,
);

async fn reader() -> Arc<dyn Backend> {
    let reader = Shared::new().await.backend(&Options::default());
    reader.prepare().await.unwrap();
    reader
}

fn result(reader: &Arc<dyn Backend>, id: &str, state: State) -> Stored {
    let document = format!(r#"{{"status": "{}", "result": 5, "task_id": "{id}"}}"#, state.name());
    Stored {
        id: id.into(),
        state,
        document: document.into(),
        content_type: "application/json".into(),
        content_encoding: "utf-8".into(),
        reply_to: reader.reply_to().map(Into::into),
    }
}

fn found(stored: &Stored) -> Found {
    Found { state: stored.state.clone(), document: stored.document.clone() }
}

#[tokio::test]
async fn what_was_stored_is_found_at_once_by_its_reader_alone() {
    let (writer, one, other) =
        (Shared::new().await.backend(&Options::default()), reader().await, reader().await);
    let id = unique("found");
    for state in
        [State::Started, State::Custom("PROGRESS".into()), State::Retry, State::Failure, State::Success]
    {
        let stored = result(&one, &id, state);
        writer.store(std::slice::from_ref(&stored)).await.unwrap();
        assert_eq!(one.get(&id).await.unwrap(), Some(found(&stored)));
        assert_eq!(other.get(&id).await.unwrap(), None);
    }
    writer.store(&[result(&one, &id, State::Failure)]).await.unwrap();
    assert_eq!(one.get(&id).await.unwrap().unwrap().state, State::Success, "a success is final");
    one.forget(&id).await.unwrap();
    assert_eq!(one.get(&id).await.unwrap(), None);
}

#[tokio::test]
async fn who_waits_is_woken_by_what_is_ready() {
    let (writer, reader) = (Shared::new().await.backend(&Options::default()), reader().await);
    let waits: Vec<_> = (0..500)
        .map(|at| {
            let reader = Arc::clone(&reader);
            tokio::spawn(async move { reader.wait(&format!("task-{at}"), PATIENCE).await })
        })
        .collect();
    let results: Vec<_> = (0..500)
        .flat_map(|at| {
            [State::Started, State::Success].map(|state| result(&reader, &format!("task-{at}"), state))
        })
        .collect();
    for batch in results.chunks(70) {
        writer.store(batch).await.unwrap();
    }
    for (at, wait) in waits.into_iter().enumerate() {
        let outcome = contract::in_time(wait).await.unwrap().unwrap();
        assert_eq!(outcome, found(&results[2 * at + 1]));
    }
}

#[tokio::test]
async fn who_has_nobody_to_answer_to_stores_nothing() {
    let (writer, gone) = (reader().await, reader().await);
    let (to_nobody, to_gone) = (result(&writer, "id", State::Success), result(&gone, "id", State::Success));
    gone.close().await;
    writer.store(&[Stored { reply_to: None, ..to_nobody }, to_gone]).await.unwrap();
    assert_eq!(writer.get("id").await.unwrap(), None);
}

#[test]
fn it_needs_a_broker_that_carries_messages() {
    let options = Options::default();
    let (rpc, redis) = (Address::parse("rpc://").unwrap(), Address::parse("redis://host").unwrap());
    for broker in [None, Some(&redis)] {
        assert!(matches!(open_backend(&rpc, broker, &options), Err(Error::Address { .. })));
    }
}
