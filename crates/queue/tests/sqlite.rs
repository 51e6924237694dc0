//! The contract of brokers and result stores, held by a file.

mod contract;

use std::path::PathBuf;
use std::sync::Arc;

use manyhands_queue::address::Address;
use manyhands_queue::open::{Options, open_backend, open_broker};
use manyhands_queue::{Backend, Broker};

/// A folder with one file, which goes with the test.
struct Folder {
    path: PathBuf,
    address: Address,
}

impl contract::Fixture for Folder {
    async fn new() -> Self {
        let path = std::env::temp_dir().join(contract::unique("manyhands-sqlite"));
        std::fs::create_dir(&path).unwrap();
        let address = Address::parse(&format!("sqlite:///{}/jobs.db", path.display())).unwrap();
        Self { path, address }
    }

    fn broker(&self, options: &Options) -> Arc<dyn Broker> {
        open_broker(&self.address, options).unwrap()
    }

    fn backend(&self, options: &Options) -> Arc<dyn Backend> {
        open_backend(&self.address, None, options).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

contract::broker_laws!(Folder);
contract::embedded_laws!(Folder);
contract::backend_laws!(Folder);
