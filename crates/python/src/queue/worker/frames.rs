//! How a task goes to whoever runs it, and what comes back: see `manyhands.queue._run`, which is the other side.

use std::time::Duration;

use bytes::Bytes;
use manyhands_engine::clock::Tick;
use manyhands_queue::inbox::{Answer, Outcome, Work};
use manyhands_queue::wire::request::{self, Arrival};
use serde::Deserialize;

use crate::wire;

/// A task as the arguments of a function: the number of its task (`-1 - number` if nobody wants its result), its id, its
/// body, and what else there is to know, if there is anything.
pub(super) struct Frame {
    pub(super) number: i64,
    pub(super) id: String,
    pub(super) body: Bytes,
    pub(super) extra: Option<String>,
}

impl Frame {
    pub(super) fn new(work: &Work<'_>, needs_request: bool, hostname: &str) -> Self {
        let number = i64::try_from(work.task).unwrap_or(i64::MAX);
        let number = if work.is_result_wanted { number } else { -1 - number };
        let (headers, properties) = (&work.message.headers, &work.message.properties);
        let is_plain = !needs_request
            && !work.is_tracked
            && work.limits[1].is_none()
            && headers.compression.is_none()
            && properties.content_type == "application/json"
            && properties.content_encoding == "utf-8"
            && headers.retries == 0
            && headers.root_id.as_ref().is_none_or(|root| *root == headers.id);
        let extra = (!is_plain).then(|| {
            let arrival = Arrival {
                exchange: "",
                routing_key: work.queue,
                is_redelivered: work.is_redelivered,
                hostname,
            };
            let request = request::encode(work.message, &arrival);
            let request = String::from_utf8(request).unwrap_or_else(|_| "{}".into());
            let soft = work.limits[1].map_or_else(|| "null".into(), |soft| soft.to_string());
            let tracked = work.is_tracked;
            format!("{{\"soft\": {soft}, \"tracked\": {tracked}, \"request\": {request}}}")
        });
        Self { number, id: headers.id.clone(), body: work.message.body.clone(), extra }
    }

    /// How many bytes it takes, about.
    pub(super) fn len(&self) -> usize {
        self.body.len() + self.id.len() + self.extra.as_ref().map_or(0, String::len) + 32
    }

    /// Writes it as an item of a bulk.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        wire::begin_tuple(if self.extra.is_some() { 4 } else { 3 }, out);
        wire::push_whole(self.number, out);
        wire::push_text(&self.id, out);
        wire::push_bytes(&self.body, out);
        if let Some(extra) = &self.extra {
            wire::push_text(extra, out);
        }
    }
}

/// What comes before the rest of a reply that is not a plain result.
#[derive(Deserialize)]
struct Head {
    state: String,
    #[serde(default)]
    summary: String,
    #[serde(default)]
    traceback: Option<String>,
    /// The document is whole, in the form of the store's results.
    #[serde(default)]
    is_whole: bool,
    /// When it is to be tried again, in seconds since 1970.
    #[serde(default)]
    at: f64,
    #[serde(default)]
    requeue: bool,
    /// How long the new body is that follows.
    #[serde(default)]
    body: Option<usize>,
}

/// Understands a reply: `=` and a result in JSON, or a line of JSON and what belongs to it.
pub(super) fn read_reply(reply: &[u8]) -> Option<Outcome> {
    if let Some(result) = reply.strip_prefix(b"=") {
        return Some(Outcome::Returned(Answer {
            result: Bytes::copy_from_slice(result),
            ..Answer::default()
        }));
    }
    let end = memchr::memchr(b'\n', reply)?;
    let (head, rest) = (serde_json::from_slice::<Head>(&reply[..end]).ok()?, &reply[end + 1..]);
    let (body, result) = match head.body {
        Some(len) => {
            rest.split_at_checked(len).map(|(body, rest)| (Some(Bytes::copy_from_slice(body)), rest))?
        }
        None => (None, rest),
    };
    let traceback = head.traceback.and_then(|text| serde_json::to_vec(&text).ok()).unwrap_or_default();
    let answer = Answer {
        result: Bytes::copy_from_slice(result),
        traceback: traceback.into(),
        children: Bytes::new(),
        is_whole: head.is_whole,
    };
    Some(match head.state.as_str() {
        "SUCCESS" => Outcome::Returned(answer),
        "FAILURE" => Outcome::Raised(answer, head.summary),
        "RETRY" => Outcome::Again { answer, summary: head.summary, at: wall(head.at), body },
        "REJECT" => Outcome::Rejected { requeue: head.requeue, summary: head.summary },
        "IGNORE" => Outcome::Ignored,
        "UNREADABLE" => Outcome::Unreadable(head.summary),
        _ => return None,
    })
}

fn wall(seconds: f64) -> Tick {
    let since = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
    Tick::ZERO + since
}
