//! Many calls of one function, submitted at once: the items of a map on worker processes.
//!
//! One bulk stands in the scheduler for all its items that nobody has begun, by a *token*: a future of its own. Whoever
//! dispatches carves a batch of items off it, as many as a worker shall do in one go, and puts the token back while
//! there are more. When all are handed out the bulk keeps the token itself; items that come back (of a worker that died,
//! say) put it into the queue again.
//!
//! What workers answer is a *part*: the results of consecutive items. The consumer is told by a letter in its mailbox,
//! and takes parts in the order of the items, or as they come.
//!
//! Nothing here needs the interpreter: items are bytes already, results still are.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use manyhands_engine::claims;
use manyhands_engine::clock::Tick;
use manyhands_os::clock;
use pyo3::prelude::*;

use crate::future::Future;
use crate::parcel::Function;
use crate::progress::Counts;
use crate::waiter::Mailbox;
use crate::wire;

/// The most bytes of items in one batch, so that a message goes through the ring.
const MOST_BYTES: usize = 128 << 10;

/// The results of consecutive items.
pub(crate) struct Part {
    pub(crate) items: Range<usize>,
    /// One [value](crate::wire) after the other, each preceded by its time if the bulk is timed.
    pub(crate) bytes: Vec<u8>,
    /// Who worked on them, if anybody did, and how long they had waited for that.
    pub(crate) worker: Option<Arc<str>>,
    pub(crate) waited: Duration,
}

/// The items of a bulk as bytes.
#[derive(Default)]
pub(crate) struct Items {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Items {
    /// Adds the item that `write` appends.
    pub(crate) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>) -> PyResult<()>) -> PyResult<()> {
        write(&mut self.bytes)?;
        self.ends.push(self.bytes.len());
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    fn slice(&self, items: &Range<usize>) -> &[u8] {
        &self.bytes[self.start(items.start)..self.start(items.end)]
    }

    /// Where a batch of at most `most` items from `from` on ends: at least one item.
    fn end_of_batch(&self, from: usize, most: usize) -> usize {
        let furthest = (from + most.max(1)).min(self.len());
        let limit = self.start(from) + MOST_BYTES;
        let fitting = self.ends[from..furthest].partition_point(|end| *end <= limit);
        from + fitting.max(1)
    }
}

/// How the calls are to be made.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manner {
    /// Each item is the tuple of the arguments, not the one argument.
    pub(crate) spreads: bool,
    /// Each result is preceded by the [time](crate::wire::Times) that it took.
    pub(crate) is_timed: bool,
    /// That includes processor time, which costs two system calls an item.
    pub(crate) is_measured: bool,
}

#[derive(Default)]
struct State {
    /// The first item that was never handed out.
    next: usize,
    /// Items that came back.
    returned: Vec<Range<usize>>,
    parts: BTreeMap<usize, Part>,
    /// Items whose results have not come.
    unsettled: usize,
    /// Those of them that workers have.
    at_work: usize,
    /// Kept here while there is nothing to hand out.
    token: Option<Py<Future>>,
    is_given_up: bool,
}

impl State {
    fn has_more(&self, len: usize) -> bool {
        !self.is_given_up && (self.next < len || !self.returned.is_empty())
    }
}

/// See the module.
pub(crate) struct Bulk {
    pub(crate) function: Arc<Function>,
    /// The variables that the calls shall see, pickled.
    pub(crate) context: Arc<Vec<u8>>,
    pub(crate) manner: Manner,
    pub(crate) submitted: Tick,
    items: Items,
    /// What to put into the mailbox for each part.
    number: u64,
    mailbox: Arc<Mailbox>,
    pub(crate) progress: Option<Arc<Counts>>,
    state: Mutex<State>,
}

impl Bulk {
    pub(crate) fn new(
        (function, context): (Arc<Function>, Arc<Vec<u8>>),
        manner: Manner,
        items: Items,
        letters: (Arc<Mailbox>, u64),
        progress: Option<Arc<Counts>>,
    ) -> Arc<Self> {
        let state = State { unsettled: items.len(), ..State::default() };
        let (mailbox, number) = letters;
        let submitted = clock::now();
        Arc::new(Self {
            function,
            context,
            manner,
            submitted,
            items,
            number,
            mailbox,
            progress,
            state: state.into(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// The items as a worker reads them.
    pub(crate) fn bytes(&self, items: &Range<usize>) -> &[u8] {
        self.items.slice(items)
    }

    /// Takes at most `most` items to be worked on, fewer if that leaves others without work, but not fewer than `least`
    /// for that; `None` if there are none.
    pub(crate) fn carve(&self, least: usize, most: usize, workers: usize) -> Option<Range<usize>> {
        let mut state = self.state();
        if state.is_given_up {
            return None;
        }
        let (from, until) = match state.returned.pop() {
            Some(range) => (range.start, range.end),
            None if state.next < self.len() => (state.next, self.len()),
            None => return None,
        };
        let share = (until - from).div_ceil(2 * workers.max(1));
        let end = self.items.end_of_batch(from, most.min(share.max(least))).min(until);
        if until == self.len() && from == state.next {
            state.next = end;
        } else if end < until {
            state.returned.push(end..until);
        }
        state.at_work += end - from;
        Some(from..end)
    }

    /// Keeps the token, unless there is something to hand out after all: then it is to be queued.
    #[must_use]
    pub(crate) fn keep(&self, token: Py<Future>) -> Option<Py<Future>> {
        let mut state = self.state();
        if state.has_more(self.len()) {
            return Some(token);
        }
        // Whoever has nothing to hand out any more needs no token: see `settle`.
        if !state.is_given_up && state.unsettled > 0 {
            state.token = Some(token);
        }
        None
    }

    /// Takes items back that nobody has worked on. Returns the token, if it has to be queued again.
    #[must_use]
    pub(crate) fn give_back(&self, items: Range<usize>) -> Option<Py<Future>> {
        if items.is_empty() {
            return None;
        }
        let mut state = self.state();
        state.at_work = state.at_work.saturating_sub(items.len());
        state.returned.push(items);
        if state.is_given_up { None } else { state.token.take() }
    }

    /// Takes the results of items. Returns the mailbox and the letter to put into it.
    pub(crate) fn settle(&self, part: Part, failed: usize) -> (&Arc<Mailbox>, u64) {
        if let Some(counts) = &self.progress {
            counts.add_many(part.items.len() as u64, failed as u64);
        }
        let mut state = self.state();
        state.unsettled = state.unsettled.saturating_sub(part.items.len());
        state.at_work = state.at_work.saturating_sub(part.items.len());
        if !part.items.is_empty() {
            state.parts.insert(part.items.start, part);
        }
        if state.unsettled == 0 {
            // The token knows its bulk: they would keep each other for ever.
            drop(state.token.take());
        }
        (&self.mailbox, self.number)
    }

    /// Settles what nobody will work on any more, with a failure for each item.
    pub(crate) fn fail_waiting(&self, pickled: &[u8]) {
        let mut state = self.state();
        let mut ranges = std::mem::take(&mut state.returned);
        ranges.push(state.next..self.len());
        state.next = self.len();
        for items in ranges.into_iter().filter(|items| !items.is_empty()) {
            let mut bytes = Vec::new();
            for _ in items.clone() {
                wire::encode_failed_item(pickled, self.manner, Duration::ZERO, &mut bytes);
            }
            state.unsettled = state.unsettled.saturating_sub(items.len());
            let part = Part { items, bytes, worker: None, waited: Duration::ZERO };
            state.parts.insert(part.items.start, part);
        }
    }

    /// The part that begins with that item, if it has come.
    pub(crate) fn take_part(&self, first: usize) -> Option<Part> {
        self.state().parts.remove(&first)
    }

    /// Any part that has come.
    pub(crate) fn take_any_part(&self) -> Option<Part> {
        self.state().parts.pop_first().map(|(_, part)| part)
    }

    /// How many items there are whose results have not come.
    pub(crate) fn unsettled(&self) -> usize {
        self.state().unsettled
    }

    /// How many items wait for a worker. Their token is in the queue, if there are any.
    pub(crate) fn waiting(&self) -> usize {
        let state = self.state();
        if state.is_given_up { 0 } else { state.unsettled - state.at_work.min(state.unsettled) }
    }

    /// Whether workers have some of the items.
    pub(crate) fn is_at_work(&self) -> bool {
        self.state().at_work > 0
    }

    /// Hands out nothing more.
    pub(crate) fn give_up(&self) {
        let token = {
            let mut state = self.state();
            state.is_given_up = true;
            state.token.take()
        };
        drop(token);
    }
}

/// Items of a bulk that a worker has.
pub(crate) struct Batch {
    pub(crate) bulk: Arc<Bulk>,
    /// Those that it has not answered.
    pub(crate) items: Range<usize>,
    /// How many it has answered.
    pub(crate) done: u32,
    /// What was read of its draft: results that it will send all the same.
    pub(crate) read: ReadAhead,
    /// When to look into its draft.
    pub(crate) next_look: Option<Tick>,
    /// The name of the worker, from when it can have begun.
    pub(crate) worker: Option<Arc<str>>,
}

/// Results that were taken before they were sent: how many, and their bytes.
#[derive(Default)]
pub(crate) struct ReadAhead {
    pub(crate) count: u32,
    pub(crate) len: usize,
}

impl Batch {
    pub(crate) fn new(bulk: &Arc<Bulk>, items: Range<usize>) -> Self {
        let (bulk, read) = (Arc::clone(bulk), ReadAhead::default());
        Self { bulk, items, done: 0, read, next_look: None, worker: None }
    }

    /// Takes the next `count` items, which were answered; `None` if there are not so many.
    pub(crate) fn take(&mut self, count: u32) -> Option<Range<usize>> {
        let end = self.items.start + count as usize;
        if end > self.items.end {
            return None;
        }
        let taken = self.items.start..end;
        self.items.start = end;
        self.done += count;
        Some(taken)
    }

    /// Takes the items from the `first` on, counted from the batch's first; `None` if it is not among those that are left.
    pub(crate) fn cut(&mut self, first: u32) -> Option<Range<usize>> {
        let from = self.items.start + (first.checked_sub(self.done)?) as usize;
        if from >= self.items.end {
            return None;
        }
        let taken = from..self.items.end;
        self.items.end = from;
        Some(taken)
    }
}

/// How many items of that length make a batch that takes `span`: at least one.
pub(crate) fn batch_len(mean: Option<Duration>, span: Duration) -> usize {
    let fitting = mean.map_or(1, |mean| span.as_nanos() / mean.as_nanos().max(1));
    usize::try_from(fitting).unwrap_or(usize::MAX).clamp(1, claims::MOST as usize)
}
