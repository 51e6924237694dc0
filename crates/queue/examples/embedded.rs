//! How much the brokers without a server carry: messages in and out of a file, or of memory, by way of the interface that
//! workers use. The figures depend on the disk; the first line says how fast that is.
//!
//! ```text
//! cargo run --release -p manyhands-queue --example embedded -- sqlite:////var/tmp/bench.db [messages]
//! ```

#![allow(clippy::print_stdout)] // It is what this program is for.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use manyhands_queue::address::Address;
use manyhands_queue::backend::{State, Stored};
use manyhands_queue::broker::{Settlement, Subscription};
use manyhands_queue::message::{Headers, Message, Outgoing, Properties};
use manyhands_queue::open::{Options, open_backend, open_broker};
use manyhands_queue::{Backend, Broker};

const QUEUE: &str = "bench";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let address = Address::parse(&arguments.next().expect("an address")).expect("an address");
    let count: usize = arguments.next().map_or(20_000, |count| count.parse().expect("a number of messages"));
    if let Some(folder) = Path::new(address.file()).parent().filter(|folder| folder.is_dir()) {
        println!(
            "{:>36}: {:>9.0} µs",
            "one write and sync of this disk",
            sync_time(folder).as_secs_f64() * 1e6
        );
    }
    let broker = open_broker(&address, &Options::default()).expect("a broker");
    let backend = open_backend(&address, None, &Options::default()).expect("a result store");
    broker.purge(QUEUE).await.expect("to begin with an empty queue");

    let messages: Vec<Outgoing> = (0..count).map(message).collect();
    measure("published in batches of 500", count, async {
        for batch in messages.chunks(500) {
            broker.publish(batch).await.expect("to publish");
        }
    })
    .await;
    drain(&broker, &backend, count, 1).await;
    measure("published one by one", count, async {
        for message in messages.chunks(1) {
            broker.publish(message).await.expect("to publish");
        }
    })
    .await;
    drain(&broker, &backend, count, 2).await;
    let eight = messages.chunks(count.div_ceil(8)).map(|part| {
        let (broker, part) = (Arc::clone(&broker), part.to_vec());
        tokio::spawn(async move {
            for message in part.chunks(1) {
                broker.publish(message).await.expect("to publish");
            }
        })
    });
    measure("published one by one by eight", count, async {
        for part in eight.collect::<Vec<_>>() {
            part.await.expect("to publish");
        }
    })
    .await;
    drain(&broker, &backend, count, 1).await;
    round_trips(&broker, &backend).await;
}

async fn measure(what: &str, count: usize, run: impl Future<Output = ()>) {
    let begin = Instant::now();
    run.await;
    println!("{what:>36}: {:>9.0} /s", count as f64 / begin.elapsed().as_secs_f64());
}

/// Consumes all, stores a result for each, and settles it.
async fn drain(broker: &Arc<dyn Broker>, backend: &Arc<dyn Backend>, count: usize, consumers: usize) {
    let left = Arc::new(tokio::sync::Semaphore::new(0));
    let mut tasks = Vec::new();
    let begin = Instant::now();
    for _ in 0..consumers {
        let mut consumer = broker.consume(subscription()).await.expect("to consume");
        let (backend, left) = (Arc::clone(backend), Arc::clone(&left));
        tasks.push(tokio::spawn(async move {
            loop {
                let came = consumer.next(100).await.expect("to consume");
                let results: Vec<Stored> = came
                    .iter()
                    .map(|delivery| result(&delivery.content.as_ref().expect("a message").headers.id))
                    .collect();
                let settler = consumer.settler();
                let (backend, left) = (Arc::clone(&backend), Arc::clone(&left));
                // As a worker does: the next are under way while these are written.
                tokio::spawn(async move {
                    backend.store(&results).await.expect("to store");
                    let done = came.iter().map(|delivery| (delivery.tag, Settlement::Done)).collect();
                    settler.settle(done).await.expect("to settle");
                    left.add_permits(came.len());
                });
            }
        }));
    }
    let all = u32::try_from(count).expect("not so many");
    let _all = left.acquire_many(all).await.expect("it is not closed");
    let name = format!("consumed, stored, settled by {consumers}");
    println!("{name:>36}: {:>9.0} /s", count as f64 / begin.elapsed().as_secs_f64());
    for task in tasks {
        task.abort();
        // It ends by being cancelled.
        let _ = task.await;
    }
}

/// How long it takes from a call to its result, with a worker that waits.
async fn round_trips(broker: &Arc<dyn Broker>, backend: &Arc<dyn Backend>) {
    let mut consumer = broker.consume(subscription()).await.expect("to consume");
    let worker = tokio::spawn({
        let backend = Arc::clone(backend);
        async move {
            loop {
                let came = consumer.next(100).await.expect("to consume");
                for delivery in came {
                    let id = &delivery.content.as_ref().expect("a message").headers.id;
                    backend.store(&[result(id)]).await.expect("to store");
                    let done = vec![(delivery.tag, Settlement::Done)];
                    consumer.settler().settle(done).await.expect("to settle");
                }
            }
        }
    });
    let mut times = Vec::new();
    for at in 0..500 {
        let begin = Instant::now();
        let message = message(1_000_000_000 + at);
        let id = message.message.headers.id.clone();
        backend.forget(&id).await.expect("to forget");
        broker.publish(&[message]).await.expect("to publish");
        backend.wait(&id, Duration::from_secs(10)).await.expect("a result");
        times.push(begin.elapsed());
    }
    worker.abort();
    times.sort();
    println!("{:>36}: {:>9.0} µs", "from call to result, median", times[times.len() / 2].as_secs_f64() * 1e6);
}

fn subscription() -> Subscription {
    Subscription {
        queues: vec![manyhands_queue::broker::Declaration { name: QUEUE.into(), ..Default::default() }],
        prefetch: 400,
        max_body: 1 << 20,
        visibility: Duration::from_secs(3600),
        name: "bench".into(),
    }
}

/// A call as a producer in Python writes it.
fn message(at: usize) -> Outgoing {
    let id = format!("11111111-2222-4333-8444-{at:012}");
    let headers = Headers {
        lang: Some("py".into()),
        task: "bench.tasks.nothing".into(),
        id: id.clone(),
        root_id: Some(id.clone()),
        argsrepr: Some("(1, 2)".into()),
        kwargsrepr: Some("{}".into()),
        origin: Some("gen1234@host".into()),
        ignore_result: Some(false),
        ..Headers::default()
    };
    let properties = Properties { correlation_id: Some(id), ..Properties::default() };
    let body = r#"[[1, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;
    Outgoing {
        queue: QUEUE.into(),
        message: Message { headers, properties, body: Bytes::from_static(body.as_bytes()) },
    }
}

fn result(id: &str) -> Stored {
    let document = format!(
        r#"{{"status": "SUCCESS", "result": null, "traceback": null, "children": [], "date_done": "2031-01-02T03:04:05+00:00", "task_id": "{id}"}}"#
    );
    Stored {
        id: id.into(),
        state: State::Success,
        document: document.into(),
        content_type: "application/json".into(),
        content_encoding: "utf-8".into(),
        reply_to: None,
    }
}

fn sync_time(folder: &Path) -> Duration {
    const ROUNDS: u32 = 200;
    let path = folder.join("sync-time.tmp");
    let mut file = File::create(&path).expect("to write there");
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        file.write_all(&[0; 4096]).expect("to write there");
        file.sync_data().expect("to write there");
    }
    let time = begin.elapsed() / ROUNDS;
    std::fs::remove_file(&path).expect("to delete it");
    time
}
