//! Result documents, in Celery's form, from parts that are JSON already.

use bytes::Bytes;
use manyhands_engine::clock::Tick;

use super::times;
use crate::backend::State;
use crate::message::Headers;

/// What a task came to, in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// What it returned; or the description of the exception.
    pub result: Bytes,
    /// The traceback, as a string of JSON; empty for none.
    pub traceback: Bytes,
    /// What it has sent itself, as a list of JSON; empty for nothing.
    pub children: Bytes,
    /// `result` is the whole document, in whatever form the store's results have.
    pub is_whole: bool,
}

/// The document of a task's outcome.
pub(crate) fn write(state: &State, answer: &Answer, headers: &Headers, now: Tick) -> Bytes {
    if answer.is_whole {
        return answer.result.clone();
    }
    let mut text = Vec::with_capacity(answer.result.len() + answer.traceback.len() + 192);
    text.extend(b"{\"status\": ");
    push_text(&mut text, state.name());
    text.extend(b", \"result\": ");
    text.extend(or(&answer.result, b"null"));
    text.extend(b", \"traceback\": ");
    text.extend(or(&answer.traceback, b"null"));
    text.extend(b", \"children\": ");
    text.extend(or(&answer.children, b"[]"));
    text.extend(b", \"date_done\": ");
    if state.is_ready() {
        push_text(&mut text, &times::show(now));
    } else {
        text.extend(b"null");
    }
    for (name, value) in [("group_id", &headers.group), ("parent_id", &headers.parent_id)] {
        if let Some(value) = value {
            text.extend(format!(", \"{name}\": ").as_bytes());
            push_text(&mut text, value);
        }
    }
    text.extend(b", \"task_id\": ");
    push_text(&mut text, &headers.id);
    text.push(b'}');
    text.into()
}

/// An exception as a reader of results finds it.
pub(crate) fn exception(kind: &str, module: &str, arguments: &serde_json::Value) -> Answer {
    let described = serde_json::json!({"exc_type": kind, "exc_message": arguments, "exc_module": module});
    Answer { result: described.to_string().into(), ..Answer::default() }
}

/// The exception of a task that was called off, and how.
pub(crate) fn revoked(why: &str) -> Answer {
    exception("TaskRevokedError", "celery.exceptions", &serde_json::json!([why]))
}

fn or<'a>(given: &'a [u8], otherwise: &'static [u8]) -> &'a [u8] {
    if given.is_empty() { otherwise } else { given }
}

/// Appends a string of JSON.
fn push_text(out: &mut Vec<u8>, text: &str) {
    let is_plain = |byte: u8| (b' '..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        out.push(b'"');
        out.extend(text.as_bytes());
        out.push(b'"');
    } else {
        out.extend(serde_json::Value::from(text).to_string().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers() -> Headers {
        Headers { id: "i\"d".into(), parent_id: Some("p".into()), ..Headers::default() }
    }

    #[test]
    fn a_document_is_written_as_celery_writes_it() {
        let answer = Answer { result: "5".into(), ..Answer::default() };
        let document =
            write(&State::Success, &answer, &headers(), Tick::from_nanos(1_795_211_410_603_222_000));
        let expected = r#"{"status": "SUCCESS", "result": 5, "traceback": null, "children": [], "date_done": "2026-11-20T21:50:10.603222+00:00", "parent_id": "p", "task_id": "i\"d"}"#;
        assert_eq!(document, expected.as_bytes());
    }

    #[test]
    fn what_is_not_ready_has_no_date() {
        let document = write(&State::Retry, &Answer::default(), &headers(), Tick::from_nanos(1));
        let read: serde_json::Value = serde_json::from_slice(&document).unwrap();
        assert_eq!(read["date_done"], serde_json::Value::Null);
        assert_eq!(read["status"], "RETRY");
    }

    #[test]
    fn a_whole_document_is_left_as_it_is() {
        let answer = Answer { result: "\u{1}x".into(), is_whole: true, ..Answer::default() };
        assert_eq!(write(&State::Success, &answer, &headers(), Tick::ZERO), "\u{1}x".as_bytes());
    }
}
