//! Bodies of protocol 1: what can be read has a task and an id, and a body of protocol 2.
#![no_main]

use amq_protocol::protocol::BasicProperties;
use libfuzzer_sys::fuzz_target;
use manyhands_queue::wire::{Limits, table};

fuzz_target!(|body: &[u8]| {
    let read = table::decode(&BasicProperties::default(), body.to_vec().into(), &Limits::default());
    if let Ok(message) = read {
        assert!(!message.headers.task.is_empty() && !message.headers.id.is_empty());
        assert!(message.body.starts_with(b"[") && message.body.ends_with(b"]"));
    }
});
