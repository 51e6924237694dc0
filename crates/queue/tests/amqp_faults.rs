//! What is left when a `RabbitMQ`, or one of its consumers, dies.

// It counts what was sent twice, and one process tells another how far it is.
#![allow(clippy::print_stdout)]

mod contract;
mod servers;

use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use std::{env, thread};

use manyhands_queue::address::Address;
use manyhands_queue::backend::{State, Stored};
use manyhands_queue::broker::Settlement;
use manyhands_queue::open::{Options, open_backend, open_broker};
use manyhands_queue::{Backend, Broker, Error};

use self::contract::{PATIENCE, consume, done, number, numbered, outgoing, receive, unique};
use self::servers::rabbitmq::RabbitMq;

fn options() -> Options {
    Options { timeout: Duration::from_secs(20), ..Options::default() }
}

fn open(url: &str) -> Arc<dyn Broker> {
    open_broker(&Address::parse(url).unwrap(), &options()).unwrap()
}

fn results(url: &str) -> Arc<dyn Backend> {
    open_backend(&Address::parse("rpc://").unwrap(), Some(&Address::parse(url).unwrap()), &options()).unwrap()
}

/// Publishes batch after batch, and tries again what was not confirmed, until all is; returns what was sent twice.
async fn publish_all(broker: Arc<dyn Broker>, queue: String, count: usize) -> BTreeSet<usize> {
    let (mut confirmed, mut again) = (0, BTreeSet::new());
    while confirmed < count {
        let batch = confirmed..count.min(confirmed + 100);
        match broker.publish(&numbered(&queue, batch.clone())).await {
            Ok(()) => confirmed = batch.end,
            Err(failed) => {
                assert!(failed.error.is_transient(), "{failed:?}");
                confirmed += failed.confirmed;
                again.extend(confirmed..batch.end);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    again
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confirmed_outlives_a_killed_server() {
    const COUNT: usize = 6000;
    let mut server = tokio::task::spawn_blocking(RabbitMq::start).await.unwrap();
    let url = server.url();
    let (broker, queue, held) = (open(&url), unique("load"), unique("held"));
    // Messages that a consumer has, a result that somebody waits for, and a producer in full swing.
    broker.publish(&numbered(&held, 0..10)).await.unwrap();
    let mut consumer = consume(&broker, &held, 10).await;
    let came = receive(&mut consumer, 10).await;
    let reader = results(&url);
    reader.prepare().await.unwrap();
    let waits = tokio::spawn({
        let reader = Arc::clone(&reader);
        async move { reader.wait("task", PATIENCE).await }
    });
    let publishes = tokio::spawn(publish_all(Arc::clone(&broker), queue.clone(), COUNT));
    let watcher = open(&url);
    while watcher.depth(&queue).await.unwrap() < COUNT as u64 / 10 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!publishes.is_finished());
    server = tokio::task::spawn_blocking(move || {
        server.kill();
        server
    })
    .await
    .unwrap();

    let lost = consumer.next(1).await;
    assert!(matches!(lost, Err(Error::Unreachable { .. })), "{lost:?}");
    let settled = consumer.settler().settle(vec![(came[0].tag, Settlement::Done)]).await;
    assert!(matches!(settled, Err(Error::TakenBack { .. })), "{settled:?}");
    assert!(matches!(watcher.depth(&queue).await, Err(Error::Unreachable { .. })));

    let server = tokio::task::spawn_blocking(move || {
        server.resume();
        server
    })
    .await
    .unwrap();
    let again = publishes.await.unwrap();
    let mut seen: HashMap<usize, usize> = HashMap::new();
    let mut reader_of_all = consume(&broker, &queue, 1000).await;
    while seen.len() < COUNT {
        let came = reader_of_all.next(500).await.unwrap();
        for delivery in &came {
            *seen.entry(number(delivery)).or_default() += 1;
        }
        done(&*reader_of_all, &came).await;
    }
    let doubled: BTreeSet<usize> =
        seen.iter().filter(|(_, times)| **times > 1).map(|(number, _)| *number).collect();
    println!("0 of {COUNT} lost, {} sent twice, {} doubled", again.len(), doubled.len());
    assert!(doubled.is_subset(&again), "{doubled:?}");
    let mut back = consume(&broker, &held, 10).await;
    let back: Vec<usize> = receive(&mut back, 10).await.iter().map(number).collect();
    assert_eq!(back, (0..10).collect::<Vec<_>>());

    reader.prepare().await.unwrap();
    let stored = Stored {
        id: "task".into(),
        state: State::Success,
        document: r#"{"status": "SUCCESS"}"#.into(),
        content_type: "application/json".into(),
        content_encoding: "utf-8".into(),
        reply_to: reader.reply_to().map(Into::into),
    };
    results(&url).store(&[stored]).await.unwrap();
    assert_eq!(waits.await.unwrap().unwrap().state, State::Success);
    a_server_without_memory_says_that_it_is_full(&server).await;
}

/// With the same server, since each takes seconds to start.
async fn a_server_without_memory_says_that_it_is_full(server: &RabbitMq) {
    let hurried = Options { timeout: Duration::from_secs(2), ..Options::default() };
    let broker = open_broker(&Address::parse(&server.url()).unwrap(), &hurried).unwrap();
    let queue = unique("alarm");
    broker.publish(&numbered(&queue, 0..3)).await.unwrap();
    let mut consumer = consume(&broker, &queue, 3).await;
    let came = receive(&mut consumer, 3).await;
    server.control(&["set_vm_memory_high_watermark", "0.00001"]);
    for number in 3..5 {
        let failed = broker.publish(&[outgoing(&queue, number)]).await.unwrap_err();
        assert!(matches!(failed.error, Error::Full { .. }), "{failed:?}");
        assert_eq!(failed.confirmed, 0);
    }
    done(&*consumer, &came).await; // that is what helps such a server
    server.control(&["set_vm_memory_high_watermark", "0.4"]);
    let broker = open(&server.url());
    broker.publish(&[outgoing(&queue, 5)]).await.unwrap();
    let mut last = None;
    while last != Some(5) {
        last = receive(&mut consumer, 1).await.first().map(number);
        assert!(last > Some(2), "{last:?}");
    }
}

const ROLE: &str = "MANYHANDS_TEST_CONSUMER";

#[tokio::test]
async fn what_a_killed_process_had_comes_again() {
    if let Ok(queue) = env::var(ROLE) {
        consume_for_ever(&queue).await;
    }
    let url = tokio::task::spawn_blocking(RabbitMq::shared).await.unwrap();
    let (broker, queue) = (open(url), unique("killed"));
    broker.publish(&numbered(&queue, 0..20)).await.unwrap();
    let mut process = Command::new(env::current_exe().unwrap())
        .args(["--exact", "what_a_killed_process_had_comes_again", "--nocapture"])
        .env(ROLE, format!("{url} {queue}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("has five, and settled two")));
    process.kill().unwrap();
    process.wait().unwrap();
    let mut consumer = consume(&broker, &queue, 20).await;
    let came = receive(&mut consumer, 18).await;
    let redelivered: Vec<usize> =
        came.iter().filter(|delivery| delivery.is_redelivered).map(number).collect();
    assert!(redelivered.starts_with(&[2, 3, 4]), "{redelivered:?}");
    assert_eq!(came.iter().map(number).collect::<BTreeSet<_>>(), (2..20).collect());
}

/// The consumer in a process of its own, until that is killed.
async fn consume_for_ever(role: &str) {
    let (url, queue) = role.split_once(' ').unwrap();
    let broker = open(url);
    let mut consumer = consume(&broker, queue, 3).await;
    let came = receive(&mut consumer, 2).await;
    done(&*consumer, &came).await;
    receive(&mut consumer, 3).await;
    println!("\nhas five, and settled two");
    loop {
        thread::park();
    }
}
