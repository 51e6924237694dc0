//! How far a worker is in a batch, and the results that it has not sent yet, where they survive it.
//!
//! A worker answers a batch when it is done with all of it. What it has done before it dies must not be lost with it,
//! nor be done again: it writes each result down in the memory that it shares with its pool, and then, in one word, how
//! many there are. Only the worker writes; the pool reads when the worker has ended, or is long at one item.
//!
//! What the worker has not begun, the pool may [take](take_rest) at any time.
//!
//! Behind the results the worker notes which task it [begins](begin): see [`begun`].

use std::sync::atomic::{AtomicU64, Ordering, fence};

use manyhands_engine::begun::Note;
use manyhands_engine::claims::Claims;
use manyhands_engine::clock::Tick;
use manyhands_os::segment::Segment;

use crate::process_crew::DRAFT;

/// The room for results: more are sent before the batch is done.
const ROOM: usize = 64 << 10;
/// The serial number of the batch; how many of its items were sent before; and how many are done since (upper half) in
/// how many bytes.
const SERIAL: usize = DRAFT;
const SENT: usize = DRAFT + 1;
const STATE: usize = DRAFT + 2;
/// How far the worker has [claimed](manyhands_engine::claims) the items.
const CLAIMS: usize = DRAFT + 3;
/// When it began the call that it is at, or the item, if items are timed.
const ITEM_BEGAN: usize = DRAFT + 4;
const RESULTS: usize = DRAFT + 5;
/// The [note](manyhands_engine::begun) of what it has begun: far from the rings, so that what goes beyond their ends does
/// not reach it.
const BEGUN: usize = RESULTS + ROOM / 8;
pub(crate) const BYTES: usize = 7 * 8 + ROOM;

/// The worker's side.
pub(crate) struct Draft<'a>(&'a [AtomicU64]);

impl<'a> Draft<'a> {
    /// Begins the draft of a batch of `items` items.
    pub(crate) fn begin(segment: &'a Segment, serial: u64, items: u32) -> Self {
        let draft = Self(segment.words());
        draft.0[STATE].store(0, Ordering::Release);
        draft.0[SERIAL].store(serial, Ordering::Release);
        draft.clear(0);
        draft.0[CLAIMS].store(Claims::new(serial, items).word(), Ordering::Release);
        draft
    }

    /// Claims the next item; `false` if there is none that is still this worker's.
    pub(crate) fn claim(&self) -> bool {
        change(self.0, Claims::claim).is_some()
    }

    /// Forgets everything: `sent` items were sent.
    pub(crate) fn clear(&self, sent: u32) {
        self.0[STATE].store(0, Ordering::Release);
        self.0[SENT].store(sent.into(), Ordering::Release);
        // Whoever sees results that are written from now on sees that, too: see `read`.
        fence(Ordering::Release);
    }

    /// Notes that there are `done` results now, which are `bytes`; those before `from` are known.
    pub(crate) fn note(&self, done: u32, bytes: &[u8], from: usize) {
        if bytes.len() > ROOM {
            return;
        }
        let first = from / 8;
        for (slot, word) in self.0[RESULTS + first..].iter().zip(bytes[first * 8..].chunks(8)) {
            let mut whole = [0; 8];
            whole[..word.len()].copy_from_slice(word);
            slot.store(u64::from_le_bytes(whole), Ordering::Relaxed);
        }
        // Release: the results come before their number.
        self.0[STATE].store(u64::from(done) << 32 | bytes.len() as u64, Ordering::Release);
    }

    /// Whether so many bytes of results are as many as there is room for, or nearly.
    pub(crate) const fn is_full(bytes: usize) -> bool {
        bytes >= ROOM / 2
    }
}

fn change(words: &[AtomicU64], change: impl Fn(Claims) -> Option<Claims>) -> Option<Claims> {
    let change = |word| change(Claims::from_word(word)).map(Claims::word);
    // No data hangs on it, only who runs what.
    words[CLAIMS].fetch_update(Ordering::AcqRel, Ordering::Acquire, change).ok().map(Claims::from_word)
}

/// Takes what the worker has not claimed of the batch `serial`: tells from which item on. `None` if it is not at that batch.
pub(crate) fn take_rest(segment: &Segment, serial: u64) -> Option<u32> {
    change(segment.words(), |claims| claims.cut(serial)).map(Claims::claimed)
}

/// What a worker has done of the batch `serial`, of which `sent` items were answered: how many more, and their results.
pub(crate) fn read(segment: &Segment, serial: u64, sent: u32) -> (u32, Vec<u8>) {
    let words = segment.words();
    let state = words[STATE].load(Ordering::Acquire);
    let done = u32::try_from(state >> 32).unwrap_or(0);
    let len = usize::try_from(state & u64::from(u32::MAX)).unwrap_or(usize::MAX);
    if len > ROOM {
        return (0, Vec::new());
    }
    let results = words[RESULTS..].iter().take(len.div_ceil(8));
    let mut bytes: Vec<u8> = results.flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
    bytes.truncate(len);
    // The worker may have gone on and written over what was just read; then it has said so before.
    fence(Ordering::Acquire);
    let is_its = words[SERIAL].load(Ordering::Relaxed) == serial;
    // It may have sent items, and not have said so there yet.
    let is_new = words[SENT].load(Ordering::Relaxed) == u64::from(sent);
    if is_its && is_new { (done, bytes) } else { (0, Vec::new()) }
}

/// How many items of the batch `serial`, which has at most `most`, the worker has begun; `None` if that is not known.
pub(crate) fn claimed(segment: &Segment, serial: u64, most: u32) -> Option<u32> {
    let claims = Claims::from_word(segment.words()[CLAIMS].load(Ordering::Acquire));
    claims.of(serial, most)
}

/// The pool makes a note that nothing is begun.
pub(crate) fn initialise(segment: &Segment) {
    note_begun(segment, Note::NOTHING);
}

/// The worker notes that it begins a task, before it does anything for it.
pub(crate) fn begin(segment: &Segment, serial: u64) {
    note_begun(segment, Note::up_to(serial));
}

fn note_begun(segment: &Segment, note: Note) {
    for (word, written) in segment.words()[BEGUN..].iter().zip(note.words()) {
        word.store(written, Ordering::Release);
    }
}

/// Which tasks a worker that has ended has begun; `None` if that is not to be read any more.
pub(crate) fn begun(segment: &Segment) -> Option<Note> {
    Note::from_words([BEGUN, BEGUN + 1].map(|place| segment.words()[place].load(Ordering::Acquire)))
}

/// The worker notes when it begins a call or an item.
pub(crate) fn begin_item(segment: &Segment, now: Tick) {
    segment.words()[ITEM_BEGAN].store(now.as_nanos(), Ordering::Relaxed);
}

/// When a worker that has ended began the call or the item that it was at, as far as it has said so.
pub(crate) fn item_began(segment: &Segment) -> Option<Tick> {
    let nanos = segment.words()[ITEM_BEGAN].load(Ordering::Relaxed);
    (nanos != 0).then(|| Tick::from_nanos(nanos))
}
