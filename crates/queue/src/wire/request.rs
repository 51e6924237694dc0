//! What a bound task sees as its `self.request`: one JSON object, with the names of Celery's own.

use super::json::{self, Object};
use crate::message::Message;

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival<'a> {
    /// The exchange that it was published to; empty for the anonymous one.
    pub exchange: &'a str,
    /// By which it found its queue.
    pub routing_key: &'a str,
    /// Whether somebody may have had it before.
    pub is_redelivered: bool,
    /// The worker's name.
    pub hostname: &'a str,
}

/// The request as JSON: all of Celery's headers by their names, the others under `headers`, and how it came.
#[must_use]
pub fn encode(message: &Message, arrival: &Arrival<'_>) -> Vec<u8> {
    let Message { headers, properties, .. } = message;
    let mut out = Vec::with_capacity(1024);
    let mut request = Object::begin(&mut out);
    json::headers(&mut request, headers);
    request.put("headers", &headers.other);
    request.put("hostname", arrival.hostname);
    request.put("correlation_id", &properties.correlation_id);
    request.put("reply_to", &properties.reply_to);
    let mut info = request.object("delivery_info");
    info.put("exchange", arrival.exchange);
    info.put("routing_key", arrival.routing_key);
    info.put("priority", &properties.priority);
    info.put("redelivered", &arrival.is_redelivered);
    info.end();
    let mut object = request.object("properties");
    object.put("content_type", &properties.content_type);
    object.put("content_encoding", &properties.content_encoding);
    object.put("delivery_mode", if properties.is_persistent { &2 } else { &1 });
    object.put("expiration", &properties.expiration);
    object.end();
    request.end();
    out
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::message::{Headers, Properties};

    #[test]
    fn a_request_tells_all_that_the_message_does() {
        let headers = Headers {
            task: "shop.charge".into(),
            id: "7".into(),
            retries: 2,
            timelimit: [Some(30.0), Some(1.5)],
            other: serde_json::from_str(r#"{"x-tenant": "acme", "task \"": [1]}"#).unwrap(),
            ..Headers::default()
        };
        let properties = Properties { priority: 5, reply_to: Some("me".into()), ..Properties::default() };
        let message = Message { headers, properties, body: Bytes::new() };
        let arrival =
            Arrival { exchange: "", routing_key: "billing", is_redelivered: true, hostname: "w1@here" };
        let request: Value = serde_json::from_slice(&encode(&message, &arrival)).unwrap();
        assert_eq!(request["task"], "shop.charge");
        assert_eq!(request["eta"], Value::Null);
        assert_eq!(request["retries"], 2);
        assert_eq!(request["timelimit"], json!([30, 1.5]));
        assert_eq!(request["headers"], json!({"x-tenant": "acme", "task \"": [1]}));
        assert_eq!(request["hostname"], "w1@here");
        assert_eq!(request["reply_to"], "me");
        let info = json!({"exchange": "", "routing_key": "billing", "priority": 5, "redelivered": true});
        assert_eq!(request["delivery_info"], info);
        assert_eq!(request["properties"]["delivery_mode"], 2);
    }
}
