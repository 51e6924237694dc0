//! Revocations: remembered in a sorted set for our workers, and broadcast for Celery's.
//!
//! What Celery broadcasts, the workers of ours that hear it remember there for all, also for those that come later.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use redis::{PushInfo, PushKind, Value};

use super::connection::{Link, Server};
use super::{Shared, scripts};
use crate::broker::{Revocation, control};
use crate::error::Error;
use crate::named::locked;

/// For how long, and how many.
const SECONDS: u64 = 10_800;
const MOST: usize = 10_000;
/// No request to revoke so many tasks is larger.
const LARGEST: usize = 1 << 20;
/// Says that our workers know already.
const OURS: &str = "x-manyhands";

/// What this program hears of broadcasts, from when it first asks.
#[derive(Debug)]
pub(super) struct Ear {
    link: Link,
    heard: Arc<Mutex<Vec<Revocation>>>,
    /// The number of the connection that listens.
    listens: tokio::sync::Mutex<Option<u64>>,
}

impl Ear {
    pub(super) fn new(server: &Server) -> Self {
        let heard: Arc<Mutex<Vec<Revocation>>> = Arc::default();
        let told = Arc::clone(&heard);
        let link = server.link(redis::pipe()).told(move |push| {
            let mut heard = locked(&told);
            heard.extend(understood(push));
            let excess = heard.len().saturating_sub(MOST);
            heard.drain(..excess);
        });
        Self { link, heard, listens: tokio::sync::Mutex::default() }
    }

    /// Listens, if it does not.
    async fn listen(&self, channel: &String) -> Result<(), Error> {
        let mut listens = self.listens.lock().await;
        // A connection that was lost is not noticed as long as nothing is asked of it.
        self.link.run::<()>("listen for revoked tasks", &redis::cmd("PING")).await?;
        let number = self.link.connect().await?;
        if *listens != Some(number) {
            self.link.subscribe(&[channel]).await?;
            *listens = Some(number);
        }
        Ok(())
    }

    pub(super) fn close(&self) {
        self.link.close();
    }
}

/// The revocations in what was said on the channel, unless we said it.
fn understood(push: PushInfo) -> Vec<Revocation> {
    let request = match (push.kind, push.data.into_iter().next_back()) {
        (PushKind::Message, Some(Value::BulkString(envelope))) => opened(&envelope),
        _ => None,
    };
    request.map(|request| control::revocations(&request)).unwrap_or_default()
}

/// The request in an envelope of kombu's.
fn opened(envelope: &[u8]) -> Option<Vec<u8>> {
    if envelope.len() > LARGEST {
        return None;
    }
    let envelope: serde_json::Value = serde_json::from_slice(envelope).ok()?;
    if envelope["headers"].get(OURS).is_some() {
        return None;
    }
    let body = envelope["body"].as_str()?;
    match envelope["properties"]["body_encoding"].as_str() {
        Some("base64") => STANDARD.decode(body).ok(),
        _ => Some(body.into()),
    }
}

pub(super) async fn revoke(shared: &Shared, ids: &[String], terminate: bool) -> Result<(), Error> {
    let revoked: Vec<Revocation> = ids.iter().map(|id| Revocation { id: id.clone(), terminate }).collect();
    remember(shared, &revoked).await?;
    let (channel, request) = (&shared.broadcasts, broadcast(&control::revoke(ids, terminate)));
    shared.link.run::<()>("revoke a task", redis::cmd("PUBLISH").arg(channel).arg(request)).await
}

async fn remember(shared: &Shared, revoked: &[Revocation]) -> Result<(), Error> {
    let mut remember = scripts::REVOKE.begin(1);
    remember.arg(&shared.keys.revoked).arg(SECONDS).arg(MOST);
    for Revocation { id, terminate } in revoked {
        remember.arg(format!("{}{id}", u8::from(*terminate)));
    }
    shared.link.call("revoke a task", &scripts::REVOKE, &remember).await
}

pub(super) async fn since(shared: &Shared, mark: u64) -> Result<(u64, Vec<Revocation>), Error> {
    // Who may not listen knows what is remembered all the same.
    let _ = shared.ear.listen(&shared.broadcasts).await;
    let heard = std::mem::take(&mut *locked(&shared.ear.heard));
    if !heard.is_empty()
        && let Err(error) = remember(shared, &heard).await
    {
        locked(&shared.ear.heard).extend(heard);
        return Err(error);
    }
    let mut ask = redis::cmd("ZRANGEBYSCORE");
    ask.arg(&shared.keys.revoked).arg(format!("({mark}")).arg("+inf").arg("WITHSCORES");
    let found: Vec<(String, f64)> = shared.link.run("ask for revoked tasks", &ask).await?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "microseconds since 1970")]
    let last = found.iter().map(|(_, number)| *number as u64).max().unwrap_or(mark);
    let told = found.into_iter().filter_map(|(member, _)| {
        let id = member.get(1..)?.into();
        Some(Revocation { id, terminate: member.starts_with('1') })
    });
    Ok((last, told.collect()))
}

/// A request as kombu publishes it.
fn broadcast(request: &[u8]) -> String {
    let envelope = serde_json::json!({
        "body": STANDARD.encode(request),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"clock": 0, "expires": 0, OURS: true},
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": control::EXCHANGE, "routing_key": ""},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": uuid::Uuid::new_v4().hyphenated().to_string(),
        },
    });
    envelope.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(envelope: &[u8]) -> Vec<Revocation> {
        let data = ["subscribed", "/0.celery.pidbox"].map(|text| Value::BulkString(text.into()));
        let data = data.into_iter().skip(1).chain([Value::BulkString(envelope.into())]).collect();
        understood(PushInfo { kind: PushKind::Message, data })
    }

    #[test]
    fn a_broadcast_of_celerys_is_understood() {
        let body = r#"{"method": "revoke", "arguments": {"task_id": ["a", "b"], "terminate": true, "signal": "SIGTERM"}, "destination": null, "pattern": null, "matcher": null}"#;
        let envelope = |encoding: &str, body: &str| {
            let envelope = serde_json::json!({
                "body": body, "content-encoding": "utf-8", "content-type": "application/json",
                "headers": {"clock": 1, "expires": 1_795_211_411.5},
                "properties": {"delivery_mode": 2, "priority": 0, "body_encoding": encoding},
            });
            envelope.to_string()
        };
        let both = ["a", "b"].map(|id| Revocation { id: id.into(), terminate: true });
        assert_eq!(said(envelope("base64", &STANDARD.encode(body)).as_bytes()), both);
        assert_eq!(said(envelope("utf-8", body).as_bytes()), both);
        assert_eq!(said(envelope("base64", "no base64!").as_bytes()), []);
    }

    #[test]
    fn what_we_said_ourselves_and_what_nobody_understands_is_passed_over() {
        let ours = broadcast(&control::revoke(&["a".to_owned()], false));
        assert_eq!(said(ours.as_bytes()), []);
        for nonsense in [&b"{}"[..], b"[]", b"5", b"\xff", br#"{"body": 5}"#] {
            assert_eq!(said(nonsense), []);
        }
        let large = format!("{{\"body\": \"{}\"}}", "x".repeat(LARGEST));
        assert_eq!(said(large.as_bytes()), []);
    }
}
