//! Which of its coroutines a worker process shall cancel: a small ring of serial numbers in the memory that it shares with
//! its pool, beside the ring of tasks, in which every message is a task.

use std::sync::atomic::{AtomicU64, Ordering};

use manyhands_os::segment::Segment;

use crate::process_crew::DRAFT;

/// How many may be under way. A worker that reads none of them does not run its loop any more.
const ROOM: u64 = 1024;
/// How many were written, and how many read. A worker with a loop runs no batches, so it needs no draft.
const WRITTEN: usize = DRAFT;
const READ: usize = DRAFT + 1;
const SERIALS: usize = DRAFT + 2;

/// Has the worker cancel its task `serial`; `false` if it has not read the last ones.
pub(crate) fn write(segment: &Segment, serial: u64) -> bool {
    let words = segment.words();
    let written = words[WRITTEN].load(Ordering::Relaxed);
    if written.wrapping_sub(words[READ].load(Ordering::Acquire)) >= ROOM {
        return false;
    }
    slot(words, written).store(serial, Ordering::Relaxed);
    // Release: the number comes before the count.
    words[WRITTEN].store(written.wrapping_add(1), Ordering::Release);
    true
}

/// Whether the worker has read all.
pub(crate) fn are_read(segment: &Segment) -> bool {
    let words = segment.words();
    words[WRITTEN].load(Ordering::Relaxed) == words[READ].load(Ordering::Acquire)
}

/// The next task to cancel.
pub(crate) fn read(segment: &Segment) -> Option<u64> {
    let words = segment.words();
    let read = words[READ].load(Ordering::Relaxed);
    if read == words[WRITTEN].load(Ordering::Acquire) {
        return None;
    }
    let serial = slot(words, read).load(Ordering::Relaxed);
    // Release: the slot may be written again from now on.
    words[READ].store(read.wrapping_add(1), Ordering::Release);
    Some(serial)
}

fn slot(words: &[AtomicU64], number: u64) -> &AtomicU64 {
    let position = usize::try_from(number % ROOM).unwrap_or(0);
    &words[SERIALS + position]
}
