//! Envelopes in Redis: what can be read is the same when it was written and is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use manyhands_queue::wire::{Limits, envelope};

fuzz_target!(|bytes: &[u8]| {
    let tag = envelope::delivery_tag(bytes);
    let marked = envelope::mark_redelivered(bytes);
    let Ok(read) = envelope::decode(bytes, &Limits::default()) else { return };
    assert!(tag.is_none() || tag == read.delivery_tag);
    let again = envelope::decode(&marked.unwrap(), &Limits::default()).unwrap();
    assert!(again.is_redelivered && again.message == read.message);
    let written = envelope::encode(&read.message, "tag", &read.exchange, &read.routing_key);
    assert_eq!(envelope::decode(&written, &Limits::default()).unwrap().message, read.message);
});
