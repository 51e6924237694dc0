//! Writing JSON straight into bytes.

use serde::Serialize;

use crate::message::Headers;

/// An object that is being written.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> Object<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_empty: true }
    }

    /// Writes a name, and gives the place for its value.
    pub(super) fn name(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        write(self.out, name);
        self.out.push(b':');
        self.out
    }

    /// As [`Object::name`], for a name that needs no escapes.
    fn plain_name(&mut self, name: &'static str) -> &mut Vec<u8> {
        self.out.extend_from_slice(if self.is_empty { b"\"" } else { b",\"" });
        self.is_empty = false;
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    pub(super) fn put<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) {
        write(self.plain_name(name), value);
    }

    pub(super) fn put_if<T: Serialize>(&mut self, name: &'static str, value: Option<&T>) {
        if let Some(value) = value {
            self.put(name, value);
        }
    }

    /// A member that is an object itself.
    pub(super) fn object(&mut self, name: &'static str) -> Object<'_> {
        Object::begin(self.plain_name(name))
    }

    pub(super) fn end(self) {
        self.out.push(b'}');
    }
}

/// Writes a value.
pub(super) fn write<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("memory takes all, and every name of ours is a text");
}

/// Writes the headers that Celery knows as it writes them: all of them, null where there is nothing.
pub(super) fn headers(object: &mut Object<'_>, headers: &Headers) {
    object.put("lang", &headers.lang);
    object.put("task", &headers.task);
    object.put("id", &headers.id);
    object.put("shadow", &headers.shadow);
    object.put("eta", &headers.eta);
    object.put("expires", &headers.expires);
    object.put("group", &headers.group);
    object.put("group_index", &headers.group_index);
    object.put("retries", &headers.retries);
    let limits = object.plain_name("timelimit");
    limits.push(b'[');
    number(limits, headers.timelimit[0]);
    limits.push(b',');
    number(limits, headers.timelimit[1]);
    limits.push(b']');
    object.put("root_id", &headers.root_id);
    object.put("parent_id", &headers.parent_id);
    object.put("argsrepr", &headers.argsrepr);
    object.put("kwargsrepr", &headers.kwargsrepr);
    object.put("origin", &headers.origin);
    object.put("ignore_result", &headers.ignore_result);
    object.put("replaced_task_nesting", &headers.replaced_task_nesting);
    object.put("stamped_headers", &headers.stamped_headers);
    object.put("stamps", &headers.stamps);
    object.put_if("compression", headers.compression.as_ref());
}

/// Seconds, whole ones as a whole number: Celery shows a limit as it was given.
fn number(out: &mut Vec<u8>, seconds: Option<f64>) {
    match seconds.map(whole_seconds) {
        Some(Ok(whole)) => write(out, &whole),
        Some(Err(seconds)) => write(out, &seconds),
        None => out.extend_from_slice(b"null"),
    }
}

/// The number as a whole one, if it is.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Both are looked at before.
pub(super) fn whole_seconds(seconds: f64) -> Result<u32, f64> {
    let is_whole = seconds.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&seconds);
    if is_whole { Ok(seconds as u32) } else { Err(seconds) }
}
