//! A task message: headers that say what is to be done, properties that say how it travels, and a body left as it is.
//!
//! The names and meanings are those of Celery's protocol 2. How a broker writes one down is told by the modules of the
//! brokers.

use bytes::Bytes;
use serde_json::{Map, Value};

/// One task message, whatever broker carries it.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// What a worker needs in order to decide, without looking into the body.
    pub headers: Headers,
    /// How it travels, and how its body is written.
    pub properties: Properties,
    /// The arguments, serialized and perhaps compressed: `[args, kwargs, embed]`.
    pub body: Bytes,
}

/// The headers of a task message. What is `None` (and empty) is what a producer leaves out or sends as null.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Headers {
    /// The language of the producer: "py".
    pub lang: Option<String>,
    /// The task's registered name.
    pub task: String,
    /// The task's id; any text, by default a UUID.
    pub id: String,
    /// The name to show instead of the task's.
    pub shadow: Option<String>,
    /// Not to be run before: a time in ISO 8601, as it was written.
    pub eta: Option<String>,
    /// Not to be begun after: a time in ISO 8601, as it was written.
    pub expires: Option<String>,
    /// The id of the group that it is a member of.
    pub group: Option<String>,
    /// Its position in the group.
    pub group_index: Option<i64>,
    /// How many attempts came before.
    pub retries: u32,
    /// Seconds: the hard limit, then the soft one.
    pub timelimit: [Option<f64>; 2],
    /// The first task of the workflow.
    pub root_id: Option<String>,
    /// The task that sent this one.
    pub parent_id: Option<String>,
    /// The arguments as text, for logs.
    pub argsrepr: Option<String>,
    /// The keyword arguments as text, for logs.
    pub kwargsrepr: Option<String>,
    /// The producer: `gen<pid>@<host>`.
    pub origin: Option<String>,
    /// Whether the result is not wanted; `None`: as the task itself has it.
    pub ignore_result: Option<bool>,
    /// How deep in replacements of tasks by others.
    pub replaced_task_nesting: u32,
    /// The names of its stamps.
    pub stamped_headers: Option<Vec<String>>,
    /// Its stamps.
    pub stamps: Map<String, Value>,
    /// The codec of the body, if it is compressed.
    pub compression: Option<String>,
    /// All other headers: the user's, and those of tools.
    pub other: Map<String, Value>,
}

/// The properties of a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Properties {
    /// How the body is serialized, e.g. "application/json".
    pub content_type: String,
    /// "utf-8" or "binary".
    pub content_encoding: String,
    /// The task's id, once more.
    pub correlation_id: Option<String>,
    /// Where results by messages go.
    pub reply_to: Option<String>,
    /// Which messages go first; which end of the scale that is, is the broker's.
    pub priority: u8,
    /// Whether it shall outlive a restart of the broker.
    pub is_persistent: bool,
    /// Milliseconds after which the broker may drop it.
    pub expiration: Option<u64>,
}

impl Default for Properties {
    fn default() -> Self {
        Self {
            content_type: "application/json".into(),
            content_encoding: "utf-8".into(),
            correlation_id: None,
            reply_to: None,
            priority: 0,
            is_persistent: true,
            expiration: None,
        }
    }
}

/// A message and the queue that it is for.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// The queue's name.
    pub queue: String,
    /// What is to be sent.
    pub message: Message,
}
