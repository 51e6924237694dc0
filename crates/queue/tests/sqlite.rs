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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_says_whether_to_wait_for_the_disk() {
    use contract::Fixture;
    let folder = Folder::new().await;
    let with = |query: &str| Address::parse(&format!("{}?{query}", folder.address.secret())).unwrap();
    let error = open_broker(&with("synchronous=off"), &Options::default()).unwrap_err().to_string();
    assert!(error.contains("expected synchronous=full or synchronous=normal"), "{error}");
    // It is the same file, whoever waits for what.
    let hasty = open_broker(&with("synchronous=normal"), &Options::default()).unwrap();
    let patient = open_broker(&with("synchronous=full"), &Options::default()).unwrap();
    let mut consumer = contract::consume(&patient, "either", 10).await;
    for at in 0..20 {
        let (came, ()) = tokio::join!(contract::receive(&mut consumer, 1), async {
            hasty.publish(&[contract::outgoing("either", at)]).await.unwrap();
        });
        assert_eq!(contract::number(&came[0]), at);
        contract::done(&*consumer, &came).await;
    }
    assert_eq!(hasty.depth("either").await.unwrap(), 0);
}
