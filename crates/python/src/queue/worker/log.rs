//! The worker's log: a line for each task, written here, for there may be tens of thousands in a second.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use manyhands_queue::inbox::{Event, Note};
use manyhands_queue::wire::time;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde_json::{Value, json};

use super::room;

const LEVELS: [&str; 4] = ["debug", "info", "warning", "error"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
    None,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Log {
    form: Form,
    least: usize,
    lines: Mutex<String>,
}

impl Log {
    /// A log as the user wants it: "text", "json" or "none", from a level on.
    ///
    /// # Errors
    /// `ValueError` for other words.
    pub(super) fn new(form: &str, level: &str) -> PyResult<Self> {
        let refuse = |what: &str, found: &str, expected: &str| {
            PyValueError::new_err(format!("could not log: found the {what} {found:?}, expected {expected}"))
        };
        let form = match form {
            "text" => Form::Text,
            "json" => Form::Json,
            "none" => Form::None,
            other => return Err(refuse("format", other, "text, json or none")),
        };
        let least = LEVELS.iter().position(|known| *known == level.to_lowercase());
        let least = least.ok_or_else(|| refuse("level", level, &LEVELS.join(", ")))?;
        Ok(Self { form, least, lines: Mutex::default() })
    }

    /// Says something of no task.
    pub(super) fn say(&self, level: &str, text: &str) {
        self.line(rank(level), text, &[], "");
        self.flush();
    }

    /// Says what happened to tasks.
    pub(super) fn write(&self, notes: &[Note]) {
        if self.form == Form::None {
            return;
        }
        for note in notes {
            self.note(note);
        }
        self.flush();
    }

    fn note(&self, Note { task, id, event }: &Note) {
        let (level, outcome) = match event {
            Event::Received => ("debug", "received"),
            Event::Succeeded(_) => ("info", "succeeded"),
            Event::Failed(..) => ("error", "failed"),
            Event::Retried(..) => ("info", "retried"),
            Event::Revoked(_) => ("info", "revoked"),
            Event::Rejected(_) => ("info", "rejected"),
            Event::Lost(..) => ("error", "lost"),
            Event::Dead(_) => ("error", "dead"),
        };
        let level = rank(level);
        if level < self.least {
            return;
        }
        let mut more = vec![("task", json!(&**task)), ("id", json!(id)), ("event", json!(outcome))];
        let mut traceback = String::new();
        let text = match event {
            Event::Received => format!("{task}[{id}] received"),
            Event::Succeeded(run) => format!("{task}[{id}] succeeded in {}", shown(*run)),
            Event::Failed(run, summary, trace) => {
                traceback = serde_json::from_slice(trace).unwrap_or_default();
                format!("{task}[{id}] failed in {}: {summary}", shown(*run))
            }
            Event::Retried(run, summary) => format!("{task}[{id}] retried after {}: {summary}", shown(*run)),
            Event::Revoked(why) => format!("{task}[{id}] revoked: {why}"),
            Event::Rejected(why) => format!("{task}[{id}] rejected: {why}"),
            Event::Lost(how, then) => format!("{task}[{id}] lost its worker: {how}; {then}"),
            Event::Dead(reason) => format!("{task}[{id}] became a dead letter: {reason}"),
        };
        if let Event::Succeeded(run) | Event::Failed(run, ..) | Event::Retried(run, _) = event {
            more.push(("seconds", json!(run.as_secs_f64())));
        }
        self.line(level, &text, &more, traceback.trim_end());
    }

    fn line(&self, level: usize, text: &str, more: &[(&str, Value)], detail: &str) {
        if level < self.least || self.form == Form::None {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "milliseconds are shown")]
        let seconds = room::now().wall.as_nanos() as f64 / 1e9;
        let when = time::write(seconds).unwrap_or_default();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        // A string takes whatever is written to it.
        let _ = if self.form == Form::Json {
            let mut object = json!({"time": when, "level": LEVELS[level], "message": text});
            for (name, value) in more {
                object[*name] = value.clone();
            }
            if !detail.is_empty() {
                object["traceback"] = json!(detail);
            }
            writeln!(lines, "{object}")
        } else {
            let when = when.get(..23).unwrap_or(&when).replace('T', " ");
            let text = text.replace('\n', "\\n");
            let detail = if detail.is_empty() { String::new() } else { format!("\n{detail}") };
            writeln!(lines, "{when} {:7} {text}{detail}", LEVELS[level].to_uppercase())
        };
    }

    /// Writes what has gathered to the standard error.
    pub(super) fn flush(&self) {
        let lines = std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner));
        if !lines.is_empty() {
            // Whoever has closed it does not want to know.
            let _ = std::io::stderr().write_all(lines.as_bytes());
        }
    }
}

fn rank(level: &str) -> usize {
    LEVELS.iter().position(|known| *known == level).unwrap_or(LEVELS.len())
}

fn shown(run: Duration) -> String {
    format!("{:.6} s", run.as_secs_f64())
}
