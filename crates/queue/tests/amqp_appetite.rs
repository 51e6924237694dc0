//! What nobody asks for takes no memory, whatever comes with it. Alone in its program, for it looks at all that this has.

mod servers;

use std::fs;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use manyhands_queue::address::Address;
use manyhands_queue::open::{Options, open_broker};

use self::servers::rabbitmq::RabbitMq;

/// The memory that this process has now, in bytes.
fn held() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn large_headers_of_broadcasts_are_not_kept() {
    const COUNT: usize = 400;
    const SIZE: usize = 100_000;
    let url = tokio::task::spawn_blocking(RabbitMq::shared).await.unwrap();
    let worker = open_broker(&Address::parse(url).unwrap(), &Options::default()).unwrap();
    let (mark, _) = worker.revocations(0).await.unwrap();
    let connection =
        Connection::connect(url.trim_end_matches('/'), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let mut headers = FieldTable::default();
    headers.insert("x-baggage".into(), AMQPValue::LongString("b".repeat(SIZE).into()));
    let properties = BasicProperties::default().with_headers(headers);
    let say = async |body: &[u8]| {
        let (options, properties) = (BasicPublishOptions::default(), properties.clone());
        let said = channel.basic_publish("celery.pidbox".into(), "".into(), options, body, properties);
        said.await.unwrap().await.unwrap();
    };
    for _ in 0..10 {
        say(b"{}").await; // what is done once
    }
    worker.revocations(mark).await.unwrap();
    let before = held();
    for _ in 0..COUNT {
        say(b"{}").await;
    }
    say(br#"{"method": "revoke", "arguments": {"task_id": "7", "terminate": false}}"#).await;
    let (_, revoked) = worker.revocations(mark).await.unwrap();
    assert_eq!(revoked.iter().map(|revocation| revocation.id.as_str()).collect::<Vec<_>>(), ["7"]);
    let grown = held().saturating_sub(before);
    assert!(grown < COUNT * SIZE / 4, "{grown} bytes for {COUNT} headers of {SIZE}");
}
