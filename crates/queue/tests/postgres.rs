//! The contract of result stores, held by a real `PostgreSQL`, and what Celery finds there.

mod contract;
mod servers;

use std::sync::Arc;

use bytes::Bytes;
use manyhands_queue::address::Address;
use manyhands_queue::backend::{State, Stored};
use manyhands_queue::open::{Options, open_backend};
use manyhands_queue::{Backend, Error};
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use self::contract::{Fixture, PATIENCE, unique};
use self::servers::postgres::Postgres;

struct Shared {
    address: Address,
}

impl contract::Fixture for Shared {
    async fn new() -> Self {
        let url = tokio::task::spawn_blocking(Postgres::shared).await.unwrap();
        Self { address: Address::parse(url).unwrap() }
    }

    fn backend(&self, options: &Options) -> Arc<dyn Backend> {
        open_backend(&self.address, None, options).unwrap()
    }
}

contract::backend_laws!(Shared);

async fn shared() -> (Arc<dyn Backend>, Client) {
    let fixture = Shared::new().await;
    (fixture.backend(&Options::default()), connect(fixture.address.secret()).await)
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn stored(id: &str, state: State, document: Value) -> Stored {
    Stored {
        id: id.into(),
        state,
        document: document.to_string().into(),
        content_type: "application/json".into(),
        content_encoding: "utf-8".into(),
        reply_to: None,
    }
}

#[tokio::test]
async fn celery_finds_a_result_in_its_columns() {
    let (store, client) = shared().await;
    let id = unique("columns");
    let document = json!({
        "status": "FAILURE", "result": {"exc_type": "ValueError", "exc_message": ["boom"], "exc_module": "builtins"},
        "traceback": "Traceback", "children": [[["child", null], null]], "date_done": "2031-01-02T04:04:05.5+01:00",
        "task_id": id, "name": "shop.charge", "args": [1], "kwargs": {}, "worker": "w1@host", "retries": 2,
        "queue": "celery",
    });
    store.store(&[stored(&id, State::Failure, document)]).await.unwrap();
    let query = "SELECT status, convert_from(result, 'UTF8'), traceback, convert_from(children, 'UTF8'),
        date_done::text, name, convert_from(args, 'UTF8'), worker, retries::text, queue
        FROM celery_taskmeta WHERE task_id = $1";
    let row = client.query_one(query, &[&id]).await.unwrap();
    let found: Vec<String> = (0..10).map(|at| row.get(at)).collect();
    assert_eq!(
        found,
        [
            "FAILURE",
            r#"{"exc_type":"ValueError","exc_message":["boom"],"exc_module":"builtins"}"#,
            "Traceback",
            r#"[[["child",null],null]]"#,
            "2031-01-02 03:04:05.5",
            "shop.charge",
            "[1]",
            "w1@host",
            "2",
            "celery",
        ]
    );
}

/// As Celery's worker stores a result, which tells nobody.
async fn store_as_celery(client: &Client, id: &str, status: &str, result: &[u8]) {
    let insert = "INSERT INTO celery_taskmeta (id, task_id, status, result, date_done)
        VALUES (nextval('task_id_sequence'), $1, $2, $3, '2031-01-02 03:04:05.25')
        ON CONFLICT (task_id) DO UPDATE SET status = excluded.status, result = excluded.result";
    client.execute(insert, &[&id, &status, &result]).await.unwrap();
}

#[tokio::test]
async fn what_celery_stores_is_found_and_ends_a_wait() {
    let (store, client) = shared().await;
    let id = unique("celery");
    assert_eq!(store.get(&id).await.unwrap(), None); // makes the tables
    let waits = tokio::spawn({
        let (store, id) = (Arc::clone(&store), id.clone());
        async move { store.wait(&id, PATIENCE).await }
    });
    store_as_celery(&client, &id, "RETRY", b"1").await;
    assert_eq!(store.get(&id).await.unwrap().unwrap().state, State::Retry);
    store_as_celery(&client, &id, "SUCCESS", br#"{"a": [1, 2]}"#).await;
    let found = contract::in_time(waits).await.unwrap().unwrap();
    assert_eq!(found.state, State::Success);
    let document: Value = serde_json::from_slice(&found.document).unwrap();
    let expected = json!({
        "status": "SUCCESS", "result": {"a": [1, 2]}, "traceback": null, "children": [],
        "date_done": "2031-01-02T03:04:05.250000+00:00", "task_id": id,
    });
    assert_eq!(document, expected);
}

#[tokio::test]
async fn what_is_no_json_is_refused_in_both_directions() {
    let (store, client) = shared().await;
    let id = unique("pickle");
    let pickled =
        Stored { document: Bytes::from_static(b"\x80\x04}q\0."), ..stored(&id, State::Success, json!({})) };
    assert!(matches!(store.store(&[pickled]).await, Err(Error::Refused { .. })));
    assert_eq!(store.get(&id).await.unwrap(), None);
    store_as_celery(&client, &id, "SUCCESS", b"\x80\x04K\x05.").await;
    let error = store.get(&id).await.unwrap_err();
    assert!(error.to_string().contains("another serializer"), "{error}");
}

#[tokio::test]
async fn a_table_of_an_older_celery_is_completed() {
    let (_, client) = shared().await;
    let schema = unique("old").replace('-', "_");
    let make = format!(
        "CREATE SCHEMA {schema}; SET search_path TO {schema}; CREATE SEQUENCE task_id_sequence;
         CREATE TABLE celery_taskmeta (id INTEGER NOT NULL PRIMARY KEY, task_id VARCHAR(155) UNIQUE, status VARCHAR(50),
            result BYTEA, date_done TIMESTAMP WITHOUT TIME ZONE, traceback TEXT)"
    );
    client.batch_execute(&make).await.unwrap();
    let url = format!("{}?options=-csearch_path%3D{schema}", Shared::new().await.address.secret());
    let store = open_backend(&Address::parse(&url).unwrap(), None, &Options::default()).unwrap();
    let id = unique("old");
    store.store(&[stored(&id, State::Success, json!({"result": 1}))]).await.unwrap();
    assert_eq!(store.get(&id).await.unwrap().unwrap().state, State::Success);
    let count =
        client.query_one("SELECT count(*) FROM celery_taskmeta WHERE task_id = $1", &[&id]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_shown() {
    let url = Shared::new().await.address.secret().replace("secret", "hunter2");
    let store = open_backend(&Address::parse(&url).unwrap(), None, &Options::default()).unwrap();
    let error = store.get("id").await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert!(!format!("{error} {error:?} {store:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_server_is_reached_through_tls_as_far_as_it_is_trusted() {
    let url = Shared::new().await.address.secret().to_owned();
    let port = url::Url::parse(&url).unwrap().port().unwrap();
    let open = |place: &str, query: &str| {
        let (host, name) = place.split_once('/').unwrap_or((place, "postgres"));
        let address = format!("postgresql://guest:secret@{host}:{port}/{name}?{query}");
        let address = Address::parse(&address).unwrap();
        open_backend(&address, None, &Options::default())
    };
    let watcher = connect(&url).await;
    let authority = concat!("sslrootcert=", env!("CARGO_MANIFEST_DIR"), "/tests/servers/tls/ca.pem");
    for (host, query, is_encrypted) in [
        ("127.0.0.1", "sslmode=disable".into(), false),
        ("127.0.0.1", "sslmode=prefer".into(), true),
        ("127.0.0.2", "sslmode=require".into(), true),
        ("127.0.0.2", format!("sslmode=verify-ca&{authority}"), true),
        ("localhost", format!("sslmode=verify-full&{authority}"), true),
    ] {
        // In a database of its own, so that its connections are told from those of others.
        let name = unique("tls").replace('-', "_");
        watcher.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let store = open(&format!("{host}/{name}"), &query).unwrap();
        assert_eq!(store.get("id").await.unwrap(), None);
        let look =
            "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE datname = $1";
        let row = watcher.query_one(look, &[&name]).await.unwrap();
        assert_eq!(row.get::<_, Option<bool>>(0), Some(is_encrypted), "{host} {query}");
    }
    let distrusted = [
        ("127.0.0.1", "sslmode=verify-full".into(), "UnknownIssuer"),
        ("127.0.0.2", format!("sslmode=verify-full&{authority}"), "not valid for name"),
    ];
    for (host, query, expected) in distrusted {
        let error = open(host, &query).unwrap().get("id").await.unwrap_err();
        assert!(matches!(&error, Error::Refused { reason, .. } if reason.contains(expected)), "{error}");
    }
    for wrong in [
        "sslmode=perhaps",
        "sslrootcert=/nowhere&sslmode=verify-full",
        "sslrootcert=/dev/null&sslmode=verify-full",
    ] {
        let error = open("127.0.0.1", wrong).unwrap_err();
        assert!(matches!(error, Error::Address { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_outlives_a_killed_server() {
    let mut server = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    let open = || open_backend(&Address::parse(&server.url()).unwrap(), None, &Options::default()).unwrap();
    let (store, reader) = (open(), open());
    store.store(&[stored("before", State::Success, json!({"result": 1}))]).await.unwrap();
    assert_eq!(reader.get("id").await.unwrap(), None);
    let waits = tokio::spawn({
        let reader = Arc::clone(&reader);
        async move { reader.wait("id", PATIENCE).await }
    });
    let server = tokio::task::spawn_blocking(move || {
        server.kill();
        server
    });
    let mut server = server.await.unwrap();
    let error = store.store(&[stored("id", State::Success, json!({"result": 1}))]).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let server = tokio::task::spawn_blocking(move || {
        server.resume();
        server
    });
    let _server = server.await.unwrap();
    store.store(&[stored("id", State::Success, json!({"result": 1}))]).await.unwrap();
    assert_eq!(contract::in_time(waits).await.unwrap().unwrap().state, State::Success);
    assert_eq!(reader.get("before").await.unwrap().unwrap().state, State::Success);
}
