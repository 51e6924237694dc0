//! The contract of brokers and result stores, held by `memory://`.

mod contract;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use manyhands_queue::address::Address;
use manyhands_queue::open::{Options, open_backend, open_broker};
use manyhands_queue::{Backend, Broker};

/// A name of its own for each test: the tests of one binary share its memory.
struct Memory {
    address: Address,
}

impl contract::Fixture for Memory {
    async fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let name = format!("memory://contract-{}", LAST.fetch_add(1, Ordering::Relaxed));
        Self { address: Address::parse(&name).unwrap() }
    }

    fn broker(&self, options: &Options) -> Arc<dyn Broker> {
        open_broker(&self.address, options).unwrap()
    }

    fn backend(&self, options: &Options) -> Arc<dyn Backend> {
        open_backend(&self.address, None, options).unwrap()
    }
}

contract::broker_laws!(Memory);
contract::embedded_laws!(Memory);
contract::backend_laws!(Memory);
