//! Field tables of AMQP, as lapin reads them: what can be read can be written, unless AMQP has no place for it.
#![no_main]

use amq_protocol::protocol::BasicProperties;
use amq_protocol::types::parsing::parse_field_table;
use libfuzzer_sys::fuzz_target;
use manyhands_queue::wire::{Limits, table};

fuzz_target!(|fields: &[u8]| {
    let mut bytes = u32::try_from(fields.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(fields);
    let Ok((_, fields)) = parse_field_table(&bytes[..]) else { return };
    let properties = BasicProperties::default().with_headers(fields);
    let Ok(message) = table::decode(&properties, "[[], {}, {}]".into(), &Limits::default()) else { return };
    let Ok(written) = table::encode(&message, 0) else { return };
    let again = table::decode(&written, message.body.clone(), &Limits::default()).unwrap();
    assert_eq!((again.headers.task, again.headers.id), (message.headers.task, message.headers.id));
});
