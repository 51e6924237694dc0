//! Properties that are larger than the frames of their connection, kept until whoever takes their message asks for them.
//!
//! **Why.** lapin keeps room for 32 frames each way and goes round in it, so with frames of the usual 128 KiB a
//! connection touches 4 MiB before it uses anything twice. Small frames cost a small part of that. But the properties of
//! a message come in one frame, however large they are, and lapin gives up a connection by which a larger one comes.
//!
//! So the [guard](super::guard) takes such properties out and leaves a key in their place, which nobody can guess.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use amq_protocol::frame::{AMQPFrame, parse_frame};
use lapin::BasicProperties;
use lapin::types::AMQPValue;
use uuid::Uuid;

use crate::named::locked;

/// The header that has the key, instead of all properties.
pub(super) const ASIDE: &str = "x-manyhands-aside";

/// See the module. Clones share what they keep.
#[derive(Debug, Clone, Default)]
pub(super) struct Aside(Arc<Mutex<HashMap<String, Vec<u8>>>>);

impl Aside {
    /// Keeps the frame that has the properties; returns its key.
    pub(super) fn keep(&self, frame: &[u8]) -> String {
        let key = Uuid::new_v4().simple().to_string();
        locked(&self.0).insert(key.clone(), frame.to_vec());
        key
    }

    /// The properties that a message came with: those that were found, or what they are the key to.
    pub(super) fn whole(&self, found: BasicProperties) -> BasicProperties {
        let key = found.headers().as_ref().and_then(|headers| headers.inner().get(ASIDE));
        let Some(AMQPValue::LongString(key)) = key else { return found };
        let frame = str::from_utf8(key.as_bytes()).ok().and_then(|key| locked(&self.0).remove(key));
        match frame.as_deref().map(parse_frame::<&[u8]>) {
            Some(Ok((_, AMQPFrame::Header(_, header)))) => header.properties,
            // Somebody has sent a header of that name.
            _ => found,
        }
    }
}
