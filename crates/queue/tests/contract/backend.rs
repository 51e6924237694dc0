//! What every result store does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use manyhands_queue::backend::{Found, State, Stored};
use manyhands_queue::open::Options;
use manyhands_queue::{Backend, Error};

use super::{Fixture, PATIENCE, QUIET, unique};

fn open(fixture: &impl Fixture) -> Arc<dyn Backend> {
    fixture.backend(&Options::default())
}

/// A result for whoever asks by way of `reader`.
fn result(reader: &Arc<dyn Backend>, id: &str, state: State, document: &str) -> Stored {
    Stored {
        id: id.into(),
        state,
        document: Bytes::from(document.to_owned()),
        content_type: "application/json".into(),
        content_encoding: "utf-8".into(),
        reply_to: reader.reply_to().map(Into::into),
    }
}

/// A document in Celery's form, as a worker writes it.
fn document(id: &str, state: &State, value: &str) -> String {
    format!(
        r#"{{"status": "{}", "result": "{value}", "traceback": null, "children": [], "date_done": "2031-01-02T03:04:05+00:00", "task_id": "{id}"}}"#,
        state.name()
    )
}

/// It, in the form of a worker.
fn written(reader: &Arc<dyn Backend>, id: &str, state: State, value: &str) -> Stored {
    let document = document(id, &state, value);
    result(reader, id, state, &document)
}

/// What is found of a result that was stored.
fn found(stored: &Stored) -> Found {
    Found { state: stored.state.clone(), document: stored.document.clone() }
}

pub(crate) async fn nothing_is_known_of_a_stranger<F: Fixture>() {
    let fixture = F::new().await;
    assert_eq!(open(&fixture).get(&unique("stranger")).await.unwrap(), None);
}

pub(crate) async fn a_result_is_found<F: Fixture>() {
    let (fixture, id) = (F::new().await, unique("found"));
    let (writer, reader) = (open(&fixture), open(&fixture));
    for state in [State::Started, State::Retry, State::Custom("PROGRESS".into()), State::Failure] {
        let stored = written(&reader, &id, state, "1");
        writer.store(std::slice::from_ref(&stored)).await.unwrap();
        assert_eq!(reader.get(&id).await.unwrap(), Some(found(&stored)));
        assert_eq!(writer.get(&id).await.unwrap(), Some(found(&stored)));
    }
}

pub(crate) async fn every_id_and_document_is_kept<F: Fixture>() {
    let fixture = F::new().await;
    let store = open(&fixture);
    for word in ["käse", "订单", "with space", "%s*?[a]", "'; drop table result; --"] {
        let id = unique(word);
        let stored = written(&store, &id, State::Success, &"ü\u{1F980}".repeat(500));
        store.store(std::slice::from_ref(&stored)).await.unwrap();
        assert_eq!(store.get(&id).await.unwrap(), Some(found(&stored)));
    }
}

pub(crate) async fn a_success_is_final<F: Fixture>() {
    let (fixture, id) = (F::new().await, unique("final"));
    let (one, other) = (open(&fixture), open(&fixture));
    let success = written(&one, &id, State::Success, "1");
    one.store(std::slice::from_ref(&success)).await.unwrap();
    for state in
        [State::Started, State::Retry, State::Failure, State::Revoked, State::Custom("PROGRESS".into())]
    {
        other.store(&[written(&one, &id, state, "2")]).await.unwrap();
        assert_eq!(one.get(&id).await.unwrap(), Some(found(&success)));
    }
    one.store(std::slice::from_ref(&success)).await.unwrap();
    assert_eq!(one.get(&id).await.unwrap(), Some(found(&success)));
}

pub(crate) async fn a_failure_is_not<F: Fixture>() {
    let (fixture, id) = (F::new().await, unique("failure"));
    let store = open(&fixture);
    store.store(&[written(&store, &id, State::Failure, "1")]).await.unwrap();
    let success = written(&store, &id, State::Success, "2");
    store.store(std::slice::from_ref(&success)).await.unwrap();
    assert_eq!(store.get(&id).await.unwrap(), Some(found(&success)));
}

pub(crate) async fn the_last_of_a_batch_counts<F: Fixture>() {
    let (fixture, id) = (F::new().await, unique("batch"));
    let store = open(&fixture);
    let last = written(&store, &id, State::Failure, "3");
    let batch =
        [written(&store, &id, State::Started, "1"), written(&store, &id, State::Retry, "2"), last.clone()];
    store.store(&batch).await.unwrap();
    assert_eq!(store.get(&id).await.unwrap(), Some(found(&last)));
}

pub(crate) async fn a_wait_finds_what_was_stored_before<F: Fixture>() {
    let (fixture, id) = (F::new().await, unique("before"));
    let (writer, reader) = (open(&fixture), open(&fixture));
    for state in [State::Revoked, State::Failure, State::Success] {
        let stored = written(&reader, &id, state, "1");
        writer.store(std::slice::from_ref(&stored)).await.unwrap();
        assert_eq!(reader.wait(&id, PATIENCE).await.unwrap(), found(&stored));
    }
}

pub(crate) async fn a_wait_is_woken_by_another_handle<F: Fixture>() {
    let fixture = F::new().await;
    let (writer, reader) = (open(&fixture), open(&fixture));
    for _ in 0..10 {
        let id = unique("after");
        let stored = written(&reader, &id, State::Success, "1");
        let (woken, ()) = tokio::join!(reader.wait(&id, PATIENCE), async {
            tokio::task::yield_now().await;
            writer.store(std::slice::from_ref(&stored)).await.unwrap();
        });
        assert_eq!(woken.unwrap(), found(&stored));
    }
}

pub(crate) async fn a_wait_is_not_ended_by_what_is_not_ready<F: Fixture>() {
    let (fixture, id) = (F::new().await, unique("unready"));
    let (writer, reader) = (open(&fixture), open(&fixture));
    let last = written(&reader, &id, State::Success, "5");
    let (woken, ()) = tokio::join!(reader.wait(&id, PATIENCE), async {
        for state in [State::Started, State::Retry, State::Custom("PROGRESS".into())] {
            writer.store(&[written(&reader, &id, state, "1")]).await.unwrap();
            tokio::time::sleep(QUIET / 3).await;
        }
        writer.store(std::slice::from_ref(&last)).await.unwrap();
    });
    assert_eq!(woken.unwrap(), found(&last));
}

pub(crate) async fn all_who_wait_are_woken<F: Fixture>() {
    let (fixture, id) = (F::new().await, unique("many"));
    let (writer, one, other) = (open(&fixture), open(&fixture), open(&fixture));
    let waits: Vec<_> = [&one, &one, &one, &other, &other]
        .map(|reader| {
            let (reader, id) = (Arc::clone(reader), id.clone());
            tokio::spawn(async move { reader.wait(&id, PATIENCE).await })
        })
        .into();
    tokio::time::sleep(QUIET / 3).await;
    let stored = written(&one, &id, State::Failure, "1");
    writer.store(std::slice::from_ref(&stored)).await.unwrap();
    for wait in waits {
        assert_eq!(wait.await.unwrap().unwrap(), found(&stored));
    }
}

pub(crate) async fn a_wait_that_was_given_up_takes_nothing_away<F: Fixture>() {
    let (fixture, id) = (F::new().await, unique("given-up"));
    let store = open(&fixture);
    for patience in [0, 1, 20] {
        let given_up = tokio::time::timeout(Duration::from_millis(patience), store.wait(&id, PATIENCE)).await;
        assert!(given_up.is_err());
    }
    let stored = written(&store, &id, State::Success, "1");
    store.store(std::slice::from_ref(&stored)).await.unwrap();
    assert_eq!(store.wait(&id, PATIENCE).await.unwrap(), found(&stored));
}

pub(crate) async fn what_was_forgotten_is_unknown<F: Fixture>() {
    let (fixture, id) = (F::new().await, unique("forgotten"));
    let (one, other) = (open(&fixture), open(&fixture));
    one.store(&[written(&one, &id, State::Success, "1")]).await.unwrap();
    other.forget(&id).await.unwrap();
    assert_eq!(one.get(&id).await.unwrap(), None);
    other.forget(&id).await.unwrap();
    // It is not final any more, either.
    let again = written(&one, &id, State::Failure, "2");
    one.store(std::slice::from_ref(&again)).await.unwrap();
    assert_eq!(other.get(&id).await.unwrap(), Some(found(&again)));
}

pub(crate) async fn a_result_expires<F: Fixture>() {
    let (fixture, id, later) = (F::new().await, unique("expires"), unique("stays"));
    let short = fixture.backend(&Options { keep_results: Duration::from_secs(1), ..Options::default() });
    let long = open(&fixture);
    short.store(&[written(&long, &id, State::Success, "1")]).await.unwrap();
    long.store(&[written(&long, &later, State::Success, "1")]).await.unwrap();
    while long.get(&id).await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(long.get(&later).await.unwrap().is_some());
    // An expired success is as if it had never been.
    let again = written(&long, &id, State::Failure, "2");
    long.store(std::slice::from_ref(&again)).await.unwrap();
    assert_eq!(long.get(&id).await.unwrap(), Some(found(&again)));
}

pub(crate) async fn thousands_are_stored_and_awaited<F: Fixture>() {
    const COUNT: usize = 2000;
    let (fixture, run) = (F::new().await, unique("thousands"));
    let (writer, reader) = (open(&fixture), open(&fixture));
    let results: Vec<Stored> = (0..COUNT)
        .map(|at| written(&reader, &format!("{run}-{at}"), State::Success, &at.to_string()))
        .collect();
    let waits: Vec<_> = (0..COUNT)
        .map(|at| {
            let (reader, id) = (Arc::clone(&reader), format!("{run}-{at}"));
            tokio::spawn(async move { reader.wait(&id, PATIENCE).await })
        })
        .collect();
    for batch in results.chunks(150) {
        writer.store(batch).await.unwrap();
    }
    for (wait, stored) in waits.into_iter().zip(&results) {
        assert_eq!(wait.await.unwrap().unwrap(), found(stored));
    }
}

pub(crate) async fn a_closed_store_says_so<F: Fixture>() {
    let (fixture, id) = (F::new().await, unique("closed"));
    let (store, other) = (open(&fixture), open(&fixture));
    let waits = tokio::spawn({
        let (store, id) = (Arc::clone(&store), id.clone());
        async move { store.wait(&id, PATIENCE).await }
    });
    tokio::time::sleep(QUIET / 3).await;
    store.close().await;
    assert!(matches!(store.get(&id).await, Err(Error::Closed { .. })));
    assert!(matches!(
        store.store(&[written(&other, &id, State::Success, "1")]).await,
        Err(Error::Closed { .. })
    ));
    assert!(matches!(waits.await.unwrap(), Err(Error::Closed { .. })), "who waits is told");
    assert_eq!(other.get(&id).await.unwrap(), None);
}
