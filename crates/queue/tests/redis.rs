//! The contract of brokers and result stores, held by `redis://`.

mod contract;
mod servers;

use std::sync::Arc;

use manyhands_queue::address::Address;
use manyhands_queue::open::{Options, open_backend, open_broker};
use manyhands_queue::{Backend, Broker};
use servers::redis::{Durability, Redis};

/// A server for each test.
struct Server {
    _server: Redis,
    address: Address,
}

impl contract::Fixture for Server {
    const PRIORITIES: [u8; 3] = [0, 3, 9];

    async fn new() -> Self {
        let server = Redis::start(Durability::None);
        let address = Address::parse(&format!("{}/1", server.url())).unwrap();
        Self { _server: server, address }
    }

    fn broker(&self, options: &Options) -> Arc<dyn Broker> {
        open_broker(&self.address, options).unwrap()
    }

    fn backend(&self, options: &Options) -> Arc<dyn Backend> {
        open_backend(&self.address, None, options).unwrap()
    }
}

contract::broker_laws!(Server);
contract::backend_laws!(Server);
