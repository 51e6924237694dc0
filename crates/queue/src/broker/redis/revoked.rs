//! Revocations: remembered in a sorted set for our workers, and broadcast for Celery's.

use bytes::Bytes;

use super::{Shared, scripts};
use crate::broker::{Revocation, control};
use crate::error::Error;

/// For how long, and how many.
const SECONDS: u64 = 10_800;
const MOST: usize = 10_000;

pub(super) async fn revoke(shared: &Shared, ids: &[String], terminate: bool) -> Result<(), Error> {
    let mut remember = scripts::REVOKE.begin(1);
    remember.arg(&shared.keys.revoked).arg(SECONDS).arg(MOST);
    for id in ids {
        remember.arg(format!("{}{id}", u8::from(terminate)));
    }
    shared.link.call::<()>("revoke a task", &scripts::REVOKE, &remember).await?;
    let (channel, request) = (&shared.broadcasts, broadcast(&control::revoke(ids, terminate)));
    shared.link.run::<()>("revoke a task", redis::cmd("PUBLISH").arg(channel).arg(request)).await
}

pub(super) async fn since(shared: &Shared, mark: u64) -> Result<(u64, Vec<Revocation>), Error> {
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
    use base64::Engine as _;
    let envelope = serde_json::json!({
        "body": base64::engine::general_purpose::STANDARD.encode(Bytes::copy_from_slice(request)),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"clock": 0, "expires": 0},
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
