//! The output streams of a worker process, as far as their lines are not complete.
//!
//! A line is one message, so that lines of several workers do not run into each other. Threads of a task may write at
//! once; the lock is held for the copying alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many streams there are: standard output and standard error.
pub(crate) const STREAMS: u8 = 2;
/// A line that is longer is sent in pieces.
const LONGEST: usize = 1 << 16;

/// What the streams hold.
#[derive(Default)]
pub(crate) struct Lines {
    streams: [Stream; STREAMS as usize],
}

#[derive(Default)]
struct Stream {
    rest: Mutex<Vec<u8>>,
    /// Whether there is any: nearly always not, at the end of a task.
    has_rest: AtomicBool,
}

impl Stream {
    fn rest(&self) -> MutexGuard<'_, Vec<u8>> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    /// Adds text to a stream; returns the lines that are complete now.
    pub(crate) fn add(&self, stream: u8, text: &[u8]) -> Option<Vec<u8>> {
        let stream = self.streams.get(usize::from(stream))?;
        let mut rest = stream.rest();
        rest.extend_from_slice(text);
        let end = match memchr::memrchr(b'\n', text) {
            _ if rest.len() > LONGEST => Some(rest.len()),
            Some(newline) => Some(rest.len() - text.len() + newline + 1),
            None => None,
        };
        let lines = end.map(|end| {
            let kept = rest.split_off(end);
            std::mem::replace(&mut *rest, kept)
        });
        stream.has_rest.store(!rest.is_empty(), Ordering::Relaxed);
        lines
    }

    /// Takes what a stream holds of a line.
    pub(crate) fn take(&self, stream: u8) -> Option<Vec<u8>> {
        let stream = self.streams.get(usize::from(stream))?;
        // Relaxed: a thread sees what it has written itself, and what others write may as well come later.
        if !stream.has_rest.swap(false, Ordering::Relaxed) {
            return None;
        }
        Some(std::mem::take(&mut *stream.rest())).filter(|rest| !rest.is_empty())
    }
}
