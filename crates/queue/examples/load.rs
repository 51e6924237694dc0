//! What a broker and a result store do in a second: `cargo run --release --example load -- redis://localhost [RESULTS]`.
//!
//! Everything is done by one task, as a producer or a worker does it; the queue and the results are deleted at the end.

use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use manyhands_queue::Broker;
use manyhands_queue::address::Address;
use manyhands_queue::backend::{State, Stored};
use manyhands_queue::broker::{Consumer, Declaration, Settlement, Subscription};
use manyhands_queue::message::{Headers, Message, Outgoing, Properties};
use manyhands_queue::open::{Options, open_backend, open_broker};
use uuid::Uuid;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How many messages each figure is of.
const COUNT: usize = 50_000;

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("expected the address of a broker")?;
    let results = arguments.next().unwrap_or_else(|| address.clone());
    // What is stored here is gone soon, should it not be deleted.
    let options = Options { keep_results: Duration::from_secs(600), ..Options::default() };
    let broker = open_broker(&Address::parse(&address)?, &options)?;
    let results = open_backend(&Address::parse(&results)?, None, &options)?;
    let queue = format!("load-{}", Uuid::new_v4());

    let all: Vec<Outgoing> = (0..COUNT).map(|_| outgoing(&queue)).collect();
    let some = &all[..COUNT / 5];
    let began = Instant::now();
    for one in some {
        broker.publish(std::slice::from_ref(one)).await?;
    }
    say("publish, one by one", some.len(), began);
    broker.purge(&queue).await?;
    for _ in 0..3 {
        let began = Instant::now();
        for batch in all.chunks(100) {
            broker.publish(batch).await?;
        }
        say("publish, 100 at once", COUNT, began);
        let began = Instant::now();
        drain(&broker, &queue, COUNT, async |_| Ok(())).await?;
        say("consume and settle, 256 at once", COUNT, began);

        for batch in all.chunks(500) {
            broker.publish(batch).await?;
        }
        let began = Instant::now();
        drain(&broker, &queue, COUNT, async |stored| Ok(results.store(stored).await?)).await?;
        say("consume, store the result and settle, 256 at once", COUNT, began);
    }

    let mut consumer = consume(&broker, &queue, 1).await?;
    let mut waits = Vec::new();
    for _ in 0..500 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let began = Instant::now();
        let (came, ()) = tokio::join!(consumer.next(1), async {
            broker.publish(&[outgoing(&queue)]).await.expect("it has been published before");
        });
        waits.push(began.elapsed());
        consumer.settler().settle(vec![(came?[0].tag, Settlement::Done)]).await?;
    }
    waits.sort_unstable();
    let (half, most) = (waits[250], waits[495]);
    writeln!(std::io::stdout(), "an idle consumer has a message after {half:?} (p50), {most:?} (p99)")?;

    for one in &all {
        results.forget(&one.message.headers.id).await?;
    }
    drop(consumer);
    broker.close().await;
    results.close().await;
    Ok(())
}

/// Takes so many messages and settles them, a batch at a time, after `also` had what the worker would store.
async fn drain(
    broker: &Arc<dyn Broker>,
    queue: &str,
    count: usize,
    also: impl AsyncFn(&[Stored]) -> Outcome<()>,
) -> Outcome<()> {
    let mut consumer = consume(broker, queue, 1024).await?;
    let settler = consumer.settler();
    let mut rest = count;
    while rest > 0 {
        let came = consumer.next(256).await?;
        rest -= came.len();
        let stored: Vec<Stored> =
            came.iter().filter_map(|delivery| Some(stored(delivery.content.as_ref().ok()?))).collect();
        also(&stored).await?;
        settler.settle(came.iter().map(|delivery| (delivery.tag, Settlement::Done)).collect()).await?;
    }
    Ok(())
}

async fn consume(broker: &Arc<dyn Broker>, queue: &str, prefetch: u32) -> Outcome<Box<dyn Consumer>> {
    let subscription = Subscription {
        queues: vec![Declaration { name: queue.into(), ..Declaration::default() }],
        prefetch,
        max_body: 1 << 20,
        visibility: Duration::from_secs(3600),
        name: "load".into(),
    };
    Ok(broker.consume(subscription).await?)
}

/// A message as a producer of Celery writes it.
fn outgoing(queue: &str) -> Outgoing {
    let id = Uuid::new_v4().to_string();
    let headers = Headers {
        lang: Some("py".into()),
        task: "shop.tasks.charge".into(),
        root_id: Some(id.clone()),
        argsrepr: Some("(2, 3)".into()),
        kwargsrepr: Some("{}".into()),
        origin: Some("gen14656@vm".into()),
        ignore_result: Some(false),
        id: id.clone(),
        ..Headers::default()
    };
    let properties = Properties {
        correlation_id: Some(id),
        reply_to: Some(Uuid::nil().to_string()),
        ..Properties::default()
    };
    let body = br#"[[2, 3], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;
    Outgoing { queue: queue.into(), message: Message { headers, properties, body: Bytes::from_static(body) } }
}

fn stored(message: &Message) -> Stored {
    let id = message.headers.id.clone();
    let document = format!(
        r#"{{"status": "SUCCESS", "result": 5, "traceback": null, "children": [], "date_done": "2031-01-02T03:04:05.678901+00:00", "task_id": "{id}"}}"#
    );
    Stored {
        id,
        state: State::Success,
        document: document.into(),
        content_type: "application/json".into(),
        content_encoding: "utf-8".into(),
        reply_to: message.properties.reply_to.clone(),
    }
}

fn say(what: &str, count: usize, began: Instant) {
    let rate = f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / began.elapsed().as_secs_f64();
    // Who reads no more needs no more.
    let _ = writeln!(std::io::stdout(), "{what}: {rate:.0} a second");
}
