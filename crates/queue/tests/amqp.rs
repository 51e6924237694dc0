//! The contract of brokers, held by a real `RabbitMQ`.

mod contract;
mod servers;

use std::sync::Arc;

use manyhands_queue::address::Address;
use manyhands_queue::broker::Declaration;
use manyhands_queue::open::{Options, open_broker};
use manyhands_queue::{Broker, Error};

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
    // Who does not say how it is declared takes it as it is.
    other.publish(&[contract::outgoing(&queue, 1)]).await.unwrap();
    assert_eq!(other.depth(&queue).await.unwrap(), 1);
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
