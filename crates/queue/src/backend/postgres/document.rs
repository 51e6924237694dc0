//! A result as its columns, and as one document of JSON.

use std::io::{self, Write};

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::ser::Formatter;
use serde_json::value::RawValue;

use crate::wire::time;

/// How many characters a text has that is shorter than a text may be.
const SHORT: usize = 155;

/// The columns that make up a document. What Celery's serializer writes is bytes there, and is JSON here.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Columns {
    pub(super) status: String,
    pub(super) result: Option<Vec<u8>>,
    /// Seconds since 1970.
    pub(super) date_done: Option<f64>,
    pub(super) traceback: Option<String>,
    pub(super) children: Option<Vec<u8>>,
    pub(super) name: Option<String>,
    pub(super) args: Option<Vec<u8>>,
    pub(super) kwargs: Option<Vec<u8>>,
    pub(super) worker: Option<String>,
    pub(super) retries: Option<i32>,
    pub(super) queue: Option<String>,
}

#[derive(Deserialize)]
struct Read<'a> {
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    traceback: Option<String>,
    #[serde(borrow, default)]
    children: Option<&'a RawValue>,
    #[serde(default)]
    date_done: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(borrow, default)]
    args: Option<&'a RawValue>,
    #[serde(borrow, default)]
    kwargs: Option<&'a RawValue>,
    #[serde(default)]
    worker: Option<String>,
    #[serde(default)]
    retries: Option<i32>,
    #[serde(default)]
    queue: Option<String>,
}

#[derive(Serialize)]
struct Written<'a> {
    status: &'a str,
    result: Option<&'a RawValue>,
    traceback: Option<&'a str>,
    children: &'a RawValue,
    date_done: Option<String>,
    task_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kwargs: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retries: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<&'a str>,
}

impl Columns {
    /// The columns of a document, or why it has none.
    pub(super) fn of(status: &str, document: &[u8]) -> Result<Self, String> {
        let read: Read = serde_json::from_slice(document)
            .map_err(|error| format!("found a document that is not what tasks store in JSON: {error}"))?;
        let bytes = |value: &RawValue| value.get().as_bytes().to_vec();
        let is_empty = |value: &&RawValue| value.get().split_whitespace().collect::<String>() == "[]";
        Ok(Self {
            status: status.into(),
            result: read.result.map(bytes),
            date_done: read.date_done.and_then(|text| time::read(&text, &TimeZone::UTC).ok()),
            traceback: read.traceback.map(|text| text.replace('\0', "\u{FFFD}")),
            children: read.children.filter(|value| !is_empty(value)).map(bytes),
            name: read.name.map(short),
            args: read.args.map(bytes),
            kwargs: read.kwargs.map(bytes),
            worker: read.worker.map(short),
            retries: read.retries,
            queue: read.queue.map(short),
        })
    }

    /// The document of these columns, or why there is none.
    pub(super) fn document(&self, task_id: &str) -> Result<Vec<u8>, String> {
        let date_done =
            self.date_done.map(time::write).transpose().map_err(|unreadable| unreadable.reason)?;
        let empty = RawValue::from_string("[]".into()).map_err(|error| error.to_string())?;
        let written = Written {
            status: &self.status,
            result: json("result", self.result.as_deref())?,
            traceback: self.traceback.as_deref(),
            children: json("children", self.children.as_deref())?.unwrap_or(&empty),
            date_done,
            task_id,
            name: self.name.as_deref(),
            args: json("args", self.args.as_deref())?,
            kwargs: json("kwargs", self.kwargs.as_deref())?,
            worker: self.worker.as_deref(),
            retries: self.retries,
            queue: self.queue.as_deref(),
        };
        let mut document = Vec::new();
        let mut serializer = serde_json::Serializer::with_formatter(&mut document, Spaced);
        written.serialize(&mut serializer).map_err(|error| error.to_string())?;
        Ok(document)
    }
}

/// JSON with spaces where Python writes them.
struct Spaced;

impl Formatter for Spaced {
    fn begin_object_key<W: Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// A text that fits into its column, and has nothing that the server does not take.
fn short(text: String) -> String {
    text.replace('\0', "\u{FFFD}").chars().take(SHORT).collect()
}

fn json<'a>(column: &str, bytes: Option<&'a [u8]>) -> Result<Option<&'a RawValue>, String> {
    let read = bytes.map(serde_json::from_slice::<&RawValue>).transpose();
    read.map_err(|_| {
        format!("found something in the column {column} that is no JSON: another serializer has written it")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn value(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn a_document_comes_back_from_its_columns() {
        let document = json!({
            "status": "FAILURE",
            "result": {"exc_type": "ValueError", "exc_message": ["bööm"], "exc_module": "builtins"},
            "traceback": "Traceback\n  \"x\"",
            "children": [[["id", null], null]],
            "date_done": "2031-01-02T03:04:05.678901+00:00",
            "task_id": "id",
            "name": "shop.charge",
            "args": [1],
            "kwargs": {},
            "worker": "w1@host",
            "retries": 2,
            "queue": "celery",
        });
        let columns = Columns::of("FAILURE", document.to_string().as_bytes()).unwrap();
        assert_eq!(columns.retries, Some(2));
        assert_eq!(value(&columns.document("id").unwrap()), document);
    }

    #[test]
    fn nothing_is_written_as_celery_writes_nothing() {
        let columns =
            Columns::of("SUCCESS", br#"{"result": null, "children": [ ], "date_done": null}"#).unwrap();
        assert_eq!(columns, Columns { status: "SUCCESS".into(), ..Columns::default() });
        let expected = json!({
            "status": "SUCCESS", "result": null, "traceback": null, "children": [], "date_done": null, "task_id": "id",
        });
        assert_eq!(value(&columns.document("id").unwrap()), expected);
    }

    #[test]
    fn large_numbers_and_spaces_stay_as_they_were() {
        let columns = Columns::of("SUCCESS", br#"{"result": [12345678901234567890123,  1.0e5]}"#).unwrap();
        assert_eq!(columns.result.as_deref(), Some(&b"[12345678901234567890123,  1.0e5]"[..]));
    }

    #[test]
    fn what_is_no_json_is_said_to_be_none() {
        assert!(Columns::of("SUCCESS", b"\x80\x04}").unwrap_err().contains("JSON"));
        let columns = Columns { result: Some(b"\x80\x04K\x05.".to_vec()), ..Columns::default() };
        assert!(columns.document("id").unwrap_err().contains("result"));
    }
}
