//! The contract of brokers, held by a real `RabbitMQ`.

mod contract;
mod servers;

use std::sync::Arc;

use lapin::types::{AMQPValue, FieldTable};
use manyhands_queue::address::Address;
use manyhands_queue::broker::{Declaration, Delivery, Settlement};
use manyhands_queue::open::{Options, open_broker};
use manyhands_queue::{Broker, Error};
use tokio::io::AsyncWriteExt;

use self::contract::Fixture;
use self::servers::rabbitmq::RabbitMq;

struct Shared {
    address: Address,
}

impl contract::Fixture for Shared {
    // The part of the server that counts the prefetched may ask for one more before it is back.
    const RETURNS_AT_ONCE: bool = false;

    async fn new() -> Self {
        let url = tokio::task::spawn_blocking(RabbitMq::shared).await.unwrap();
        Self { address: Address::parse(url).unwrap() }
    }

    fn broker(&self, options: &Options) -> Arc<dyn Broker> {
        open_broker(&self.address, options).unwrap()
    }
}

contract::broker_laws!(Shared);

fn broker_at(url: &str) -> Arc<dyn Broker> {
    open_broker(&Address::parse(url).unwrap(), &Options::default()).unwrap()
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_shown() {
    let url = tokio::task::spawn_blocking(RabbitMq::shared).await.unwrap();
    let broker = broker_at(&url.replace("guest:guest", "guest:hunter2"));
    let error = broker.depth("queue").await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert!(!format!("{error} {error:?} {broker:?}").contains("hunter2"), "{error:?}");
    let unknown = broker_at(&format!("{}/nowhere", url.trim_end_matches('/')));
    let error = unknown.publish(&[contract::outgoing("queue", 1)]).await.unwrap_err();
    assert!(matches!(error.error, Error::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn where_no_server_is_nothing_is_reached() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let broker = broker_at(&format!("amqp://guest:hunter2@127.0.0.1:{port}//"));
    let failed = broker.publish(&[contract::outgoing("queue", 1)]).await.unwrap_err();
    assert!(matches!(failed.error, Error::Unreachable { .. }), "{failed:?}");
    assert_eq!(failed.confirmed, 0);
    assert!(!format!("{failed} {failed:?}").contains("hunter2"), "{failed:?}");
}

#[tokio::test]
async fn a_queue_is_not_declared_twice_in_two_ways() {
    let broker = Shared::new().await.broker(&Options::default());
    let queue = contract::unique("declared");
    let sorted = Declaration { max_priority: Some(10), ..contract::plain(&queue) };
    broker.declare(&sorted).await.unwrap();
    broker.declare(&sorted).await.unwrap();
    let other = Shared::new().await.broker(&Options::default());
    let error = other.declare(&contract::plain(&queue)).await.unwrap_err();
    assert!(
        matches!(&error, Error::Refused { reason, .. } if reason.contains("x-max-priority")),
        "{error:?}"
    );
    // Who does not declare it takes it as it is.
    other.publish(&[contract::outgoing(&queue, 1)]).await.unwrap();
    assert_eq!(other.depth(&queue).await.unwrap(), 1);
    // As the options say is as somebody says.
    let options = Options { max_priority: Some(10), ..Options::default() };
    let alike = Shared::new().await.broker(&options);
    alike.declare(&contract::plain(&queue)).await.unwrap();
    alike.publish(&[contract::outgoing(&queue, 2)]).await.unwrap();
    let options = Options { max_priority: Some(5), ..Options::default() };
    let different = Shared::new().await.broker(&options);
    let failure = different.publish(&[contract::outgoing(&queue, 3)]).await.unwrap_err();
    assert!(matches!(failure.error, Error::Refused { .. }), "{failure:?}");
    assert_eq!(other.depth(&queue).await.unwrap(), 2);
}

#[tokio::test]
async fn a_queue_that_went_away_is_named_and_declared_again() {
    let fixture = Shared::new().await;
    let broker = fixture.broker(&Options::default());
    let (gone, stays) = (contract::unique("gone"), contract::unique("stays"));
    let both = [contract::outgoing(&stays, 1), contract::outgoing(&gone, 2), contract::outgoing(&stays, 3)];
    broker.publish(&both).await.unwrap();
    let connection = lapin::Connection::connect(
        fixture.address.secret().trim_end_matches('/'),
        lapin::ConnectionProperties::default(),
    )
    .await
    .unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.queue_delete(gone.as_str().into(), lapin::options::QueueDeleteOptions::default()).await.unwrap();
    let failed = broker.publish(&both).await.unwrap_err();
    assert_eq!(failed.confirmed, 1);
    assert!(failed.to_string().contains(&gone), "{failed}");
    broker.publish(&both).await.unwrap();
    assert_eq!(broker.depth(&gone).await.unwrap(), 1);
}

#[tokio::test]
async fn a_name_that_is_too_long_is_refused() {
    let broker = Shared::new().await.broker(&Options::default());
    let long = "q".repeat(300);
    let failed = broker.publish(&[contract::outgoing(&long, 1)]).await.unwrap_err();
    assert!(matches!(failed.error, Error::Refused { .. }), "{failed:?}");
    assert!(matches!(broker.declare(&contract::plain(&long)).await, Err(Error::Refused { .. })));
    assert!(broker.depth(&long).await.is_err());
    assert!(broker.purge(&long).await.is_err());
    assert!(broker.dead_letters(&long, 1).await.is_err());
    assert!(broker.bury(&long).await.is_err());
    assert!(broker.consume(contract::subscription(&[&long], 1)).await.is_err());
}

/// Publishes what no client of ours would.
async fn publish_foreign(url: &str, queue: &str, properties: lapin::BasicProperties, body: &[u8]) {
    let properties_of_connection = lapin::ConnectionProperties::default();
    let connection =
        lapin::Connection::connect(url.trim_end_matches('/'), properties_of_connection).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(lapin::options::ConfirmSelectOptions::default()).await.unwrap();
    let options = lapin::options::BasicPublishOptions::default();
    let confirm = channel.basic_publish("".into(), queue.into(), options, body, properties).await.unwrap();
    confirm.await.unwrap();
}

fn deep(levels: usize) -> lapin::BasicProperties {
    let list = |inner, _| AMQPValue::FieldArray(vec![inner].into());
    let mut headers = FieldTable::default();
    headers.insert("deep".into(), (0..levels).fold(AMQPValue::Void, list));
    lapin::BasicProperties::default().with_headers(headers).with_correlation_id("7".into())
}

#[tokio::test]
async fn headers_that_lie_too_deep_make_a_dead_letter() {
    let fixture = Shared::new().await;
    let (broker, queue) = (fixture.broker(&Options::default()), contract::unique("deep"));
    broker.declare(&contract::plain(&queue)).await.unwrap();
    publish_foreign(fixture.address.secret(), &queue, deep(200), b"body").await;
    broker.publish(&[contract::outgoing(&queue, 1)]).await.unwrap();
    let mut consumer = broker.consume(contract::subscription(&[&queue], 10)).await.unwrap();
    let mut came = Vec::new();
    while came.len() < 2 {
        came.extend(contract::in_time(consumer.next(2)).await.unwrap());
    }
    let reason = came[0].content.as_ref().unwrap_err().reason.clone();
    assert_eq!(reason, "could not read the message: found headers nested 200 deep, expected at most 64");
    assert!(came[1].content.is_ok());
    consumer
        .settler()
        .settle(vec![(came[0].tag, Settlement::Dead { reason: reason.clone(), held: None })])
        .await
        .unwrap();
    let letters = broker.dead_letters(&queue, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].reason.as_str(), letters[0].queue.as_str()), (reason.as_str(), queue.as_str()));
}

#[tokio::test]
async fn what_was_held_and_is_not_brought_along_comes_again() {
    let fixture = Shared::new().await;
    let (broker, queue) = (fixture.broker(&Options::default()), contract::unique("forgotten"));
    broker.publish(&[contract::outgoing(&queue, 1), contract::outgoing(&queue, 2)]).await.unwrap();
    let mut consumer = broker.consume(contract::subscription(&[&queue], 10)).await.unwrap();
    let held = contract::receive(&mut consumer, 2).await;
    let tags: Vec<_> = held.iter().map(|delivery| delivery.tag).collect();
    let settler = consumer.settler();
    settler.hold(&tags).await.unwrap();
    let ways = [Settlement::Requeue { held: None }, Settlement::Dead { reason: "enough".into(), held: None }];
    settler.settle(tags.into_iter().zip(ways).collect()).await.unwrap();
    let mut came = contract::receive(&mut consumer, 2).await;
    came.sort_unstable_by_key(contract::number);
    assert_eq!(came.iter().map(contract::number).collect::<Vec<_>>(), [1, 2]);
    assert!(came.iter().all(|delivery| delivery.is_redelivered));
    assert_eq!(broker.dead_letters(&queue, 10).await.unwrap(), []);
}

#[tokio::test]
async fn headers_of_any_size_come_in_and_go_on() {
    let fixture = Shared::new().await;
    let (broker, queue) = (fixture.broker(&Options::default()), contract::unique("wide"));
    let sizes = [10, 9_000, 40_000, 100_000];
    let messages = sizes.map(|size| {
        let mut outgoing = contract::outgoing(&queue, size);
        outgoing.message.headers.other.insert("x-baggage".into(), "b".repeat(size).into());
        outgoing
    });
    broker.publish(&messages).await.unwrap();
    let mut consumer = broker.consume(contract::subscription(&[&queue], 10)).await.unwrap();
    for settlement in [
        |_| Settlement::Requeue { held: None },
        |_| Settlement::Dead { reason: "enough".into(), held: None },
        |number| Settlement::Replace(Box::new(number)),
    ] {
        let mut came = Vec::new();
        while came.len() < messages.len() {
            came.extend(contract::in_time(consumer.next(10)).await.unwrap());
        }
        for (delivery, sent) in came.iter().zip(&messages) {
            assert_eq!(delivery.content.as_ref().unwrap(), &sent.message);
        }
        let all = came.iter().zip(&messages).map(|(came, sent)| (came.tag, settlement(sent.clone())));
        consumer.settler().settle(all.collect()).await.unwrap();
        if broker.depth(&format!("{queue}.dead")).await.unwrap() > 0 {
            let letters = broker.dead_letters(&queue, 10).await.unwrap();
            for (letter, sent) in letters.iter().zip(&messages) {
                assert_eq!(letter.content.as_ref().unwrap().headers, sent.message.headers);
            }
            assert_eq!(broker.revive(&queue, &[]).await.unwrap(), messages.len() as u64);
        }
    }
}

/// A server that answers with these bytes whatever it is told.
async fn babbler(bytes: Vec<u8>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let _ = client.write_all(&bytes).await;
            let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
        }
    });
    port
}

#[tokio::test]
async fn what_is_no_amqp_ends_the_connection_with_the_reason() {
    let start = |table: &[u8]| {
        let payload = [&[0, 10, 0, 10, 0, 9][..], table].concat();
        [&[1, 0, 0][..], &u32::try_from(payload.len()).unwrap().to_be_bytes(), &payload, &[0xCE]].concat()
    };
    // 20,000 lists in each other: more than a thread's stack has room for.
    let mut table = Vec::new();
    for level in (0..=20_000_u32).rev() {
        table.extend(b"A");
        table.extend((5 * level).to_be_bytes());
    }
    table.splice(0..0, *b"\x01a");
    let size = u32::try_from(table.len()).unwrap().to_be_bytes();
    for (bytes, expected) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "found a byte 0x48"),
        (vec![1, 0, 0, 0x7F, 0, 0, 0], "found a frame of 2130706432 bytes"),
        (start(&[&size[..], &table].concat()), "found headers nested 20001 deep, expected at most 64"),
    ] {
        let broker = broker_at(&format!("amqp://127.0.0.1:{}//", babbler(bytes).await));
        let error = contract::in_time(broker.depth("queue")).await.unwrap_err();
        assert!(matches!(&error, Error::Unreachable { reason, .. } if reason.contains(expected)), "{error}");
    }
}

#[tokio::test]
async fn a_server_is_reached_through_tls_if_it_is_trusted() {
    let authority = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/tls/ca.pem");
    let [known, other] =
        tokio::task::spawn_blocking(|| ["localhost", "127.0.0.2"].map(RabbitMq::shared_through_tls))
            .await
            .unwrap();
    let open = |url: &str, query: &str| {
        open_broker(&Address::parse(&format!("{url}?{query}")).unwrap(), &Options::default())
    };
    let trusting = format!("ssl_ca_certs={authority}");
    let (broker, queue) = (open(&known, &trusting).unwrap(), contract::unique("tls"));
    broker.publish(&[contract::outgoing(&queue, 1)]).await.unwrap();
    let mut consumer = broker.consume(contract::subscription(&[&queue], 10)).await.unwrap();
    assert_eq!(contract::in_time(consumer.next(1)).await.unwrap().len(), 1);
    for (url, query, expected) in
        [(&known, "", "UnknownIssuer"), (&other, trusting.as_str(), "not valid for name")]
    {
        let error = open(url, query).unwrap().depth(&queue).await.unwrap_err();
        assert!(matches!(&error, Error::Refused { reason, .. } if reason.contains(expected)), "{error}");
    }
    assert!(open(&other, "ssl_cert_reqs=none").unwrap().depth(&queue).await.is_ok());
    for wrong in
        ["ssl_ca_certs=/nowhere", "ssl_ca_certs=/dev/null", "ssl_cert_reqs=perhaps", "ssl_certfile=/dev/null"]
    {
        let refused = open(&known, wrong).unwrap_err();
        assert!(matches!(refused, Error::Address { .. }), "{refused}");
    }
    // Without TLS there, and with TLS where none is spoken to.
    let port = url::Url::parse(&known).unwrap().port().unwrap();
    let error = broker_at(&format!("amqp://127.0.0.1:{port}//")).depth(&queue).await.unwrap_err();
    assert!(error.to_string().contains("is its address amqps://?"), "{error}");
}

#[tokio::test]
async fn a_quorum_queue_is_taken_as_it_is() {
    let fixture = Shared::new().await;
    let (celerys, queue) = (fixture.broker(&Options::default()), contract::unique("quorum"));
    celerys.declare(&Declaration { kind: Some("quorum".into()), ..contract::plain(&queue) }).await.unwrap();
    let ours = fixture.broker(&Options::default());
    ours.publish(&[1, 2, 3].map(|number| contract::outgoing(&queue, number))).await.unwrap();
    let mut consumer = ours.consume(contract::subscription(&[&queue], 10)).await.unwrap();
    let mut came = Vec::new();
    while came.len() < 3 {
        came.extend(contract::in_time(consumer.next(3)).await.unwrap());
    }
    let settler = consumer.settler();
    settler.hold(&[came[0].tag]).await.unwrap();
    let dead = Settlement::Dead { reason: "enough".into(), held: None };
    let settlements = vec![(came[1].tag, dead), (came[2].tag, Settlement::Return)];
    settler.settle(settlements).await.unwrap();
    let again = contract::in_time(consumer.next(1)).await.unwrap();
    let body = |delivery: &Delivery| delivery.content.as_ref().unwrap().body.clone();
    assert_eq!(body(&again[0]), body(&came[2]));
    assert!(again[0].is_redelivered);
    assert_eq!(ours.dead_letters(&queue, 10).await.unwrap().len(), 1);
    settler.settle(vec![(came[0].tag, Settlement::Done), (again[0].tag, Settlement::Done)]).await.unwrap();
    assert_eq!(ours.revive(&queue, &[]).await.unwrap(), 1);
    assert_eq!(body(&contract::in_time(consumer.next(1)).await.unwrap()[0]), body(&came[1]));
}
