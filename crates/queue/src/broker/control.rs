//! What workers are told beside their messages, in the words of Celery's remote control ("pidbox").
//!
//! Of its requests only `revoke` is written and understood; all others are passed over.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::Revocation;

/// The exchange by which every worker of a broker is told something.
pub(crate) const EXCHANGE: &str = "celery.pidbox";

/// How many revocations are remembered.
const MOST: usize = 10_000;

/// The request to revoke tasks.
pub(crate) fn revoke(ids: &[String], terminate: bool) -> Vec<u8> {
    let request = json!({
        "method": "revoke",
        "arguments": {"task_id": ids, "terminate": terminate, "signal": "SIGTERM"},
        "destination": null,
        "pattern": null,
        "matcher": null,
    });
    request.to_string().into_bytes()
}

/// The revocations in a request that somebody has sent.
pub(crate) fn revocations(request: &[u8]) -> Vec<Revocation> {
    let Ok(request) = serde_json::from_slice::<Value>(request) else { return Vec::new() };
    // A request to certain workers is not to be taken for one to all.
    if request["method"] != "revoke" || !request["destination"].is_null() {
        return Vec::new();
    }
    let arguments = &request["arguments"];
    let terminate = arguments["terminate"].as_bool().unwrap_or(false);
    let ids = match &arguments["task_id"] {
        Value::Array(ids) => ids.iter().filter_map(Value::as_str).collect(),
        id => id.as_str().into_iter().collect::<Vec<_>>(),
    };
    ids.into_iter().map(|id| Revocation { id: id.into(), terminate }).collect()
}

/// The revocations that are remembered here, each with its number.
#[derive(Debug, Default)]
pub(crate) struct Revoked {
    last: u64,
    kept: VecDeque<(u64, Revocation)>,
}

impl Revoked {
    pub(crate) fn add(&mut self, revocation: Revocation) {
        self.last += 1;
        self.kept.push_back((self.last, revocation));
        if self.kept.len() > MOST {
            self.kept.pop_front();
        }
    }

    /// Those after a number, and the number of the last one.
    pub(crate) fn since(&self, mark: u64) -> (u64, Vec<Revocation>) {
        let known = self.kept.partition_point(|(number, _)| *number <= mark);
        (self.last, self.kept.iter().skip(known).map(|(_, revocation)| revocation.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revocation(id: &str, terminate: bool) -> Revocation {
        Revocation { id: id.into(), terminate }
    }

    #[test]
    fn a_request_is_understood_as_it_was_written() {
        let ids = ["a".to_owned(), "b".to_owned()];
        assert_eq!(revocations(&revoke(&ids, true)), [revocation("a", true), revocation("b", true)]);
    }

    #[test]
    fn what_celery_writes_is_understood_and_what_is_none_of_ours_is_passed_over() {
        let one = br#"{"method": "revoke", "arguments": {"task_id": "a", "terminate": false}, "destination": null}"#;
        assert_eq!(revocations(one), [revocation("a", false)]);
        for other in [
            &br#"{"method": "ping", "arguments": {}}"#[..],
            br#"{"method": "revoke", "arguments": {"task_id": "a"}, "destination": ["w1@vm"]}"#,
            br#"{"method": "revoke", "arguments": {"task_id": 5}}"#,
            br#"{"method": "revoke"}"#,
            b"[]",
            b"\xff",
        ] {
            assert_eq!(revocations(other), []);
        }
    }

    #[test]
    fn each_revocation_is_told_once_to_whoever_asks_from_mark_to_mark() {
        let mut revoked = Revoked::default();
        revoked.add(revocation("a", false));
        let (mark, first) = revoked.since(0);
        assert_eq!(first, [revocation("a", false)]);
        revoked.add(revocation("b", true));
        assert_eq!(revoked.since(mark), (2, vec![revocation("b", true)]));
        assert_eq!(revoked.since(2), (2, vec![]));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut revoked = Revoked::default();
        for number in 0..MOST + 5 {
            revoked.add(revocation(&number.to_string(), false));
        }
        let (_, kept) = revoked.since(0);
        assert_eq!((kept.len(), kept[0].id.as_str()), (MOST, "5"));
    }
}
