//! `engine`'s ring in a segment: where its words lie, and who may open it.
//!
//! ```text
//! byte 0     the mark: what this is, and its version
//!      8     the capacity of the data area in bytes
//!    128     the state word: both sides change it at every message
//!    256 …   the data area
//! ```
//!
//! The three parts are 128 bytes apart, because processors fetch cache lines of 64 bytes in pairs: a change of
//! the state must not take the first messages' lines from the other side.
//!
//! The creator calls [`initialise`], then each process opens its side, once: the position in the ring is known
//! to the open handle alone. A consumer may be opened after messages were pushed.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use manyhands_engine::ring::{self, Field, MAX_WORDS, Memory, WORD};
pub use manyhands_engine::ring::{PushError, Pushed, RingError};

use crate::segment::Segment;

/// What the offset of a ring is a multiple of.
pub const ALIGN: usize = 128;
/// Bytes of a ring that hold no messages.
pub const OVERHEAD: usize = 256;
/// The least bytes of a ring, its overhead included.
pub const LEAST: usize = OVERHEAD + 64;

/// The name of the format, its version last. Change the version with the layout, here or in `engine`.
const MARK: u64 = u64::from_be_bytes(*b"mhring\0\x01");
const STATE: usize = 128 / WORD;
const DATA: usize = OVERHEAD / WORD;

/// The side that pushes; see [`ring::Producer`].
pub type Producer = ring::Producer<Mapped>;
/// The side that pops; see [`ring::Consumer`].
pub type Consumer = ring::Consumer<Mapped>;

/// A ring's place in a segment.
#[derive(Debug)]
pub struct Mapped {
    segment: Arc<Segment>,
    range: Range<usize>,
}

impl Mapped {
    fn new(segment: Arc<Segment>, offset: usize, len: usize) -> Result<Self, RingError> {
        let range = place(&segment, offset, len)?;
        Ok(Self { segment, range })
    }

    fn words(&self) -> &[AtomicU64] {
        &self.segment.words()[self.range.clone()]
    }

    /// Checks what the creator wrote.
    fn check(self) -> Result<Self, RingError> {
        let words = self.words();
        // Acquire pairs with the Release in `initialise`.
        let found = words[0].load(Ordering::Acquire);
        if found != MARK {
            return Err(RingError::Foreign { found, expected: MARK });
        }
        let (found, expected) = (words[1].load(Ordering::Relaxed), capacity(words));
        if found != expected {
            return Err(RingError::Corrupt { field: Field::Capacity, found, expected });
        }
        Ok(self)
    }
}

impl Memory for Mapped {
    type Slot = AtomicU64;

    #[inline]
    fn state(&self) -> &AtomicU64 {
        &self.words()[STATE]
    }

    #[inline]
    fn data(&self) -> &[AtomicU64] {
        &self.words()[DATA..]
    }
}

/// Makes an empty ring of the `len` bytes at `offset`, whatever they held. Nobody may have it open.
///
/// # Errors
/// [`RingError::Place`] if no ring can be there.
pub fn initialise(segment: &Segment, offset: usize, len: usize) -> Result<(), RingError> {
    let words = &segment.words()[place(segment, offset, len)?];
    words[STATE].store(0, Ordering::Relaxed);
    words[1].store(capacity(words), Ordering::Relaxed);
    words[0].store(MARK, Ordering::Release);
    Ok(())
}

/// Opens the side that pushes of the ring in the `len` bytes at `offset`.
///
/// # Errors
/// [`RingError::Place`] and [`RingError::Foreign`] if there is no ring of this size, [`RingError::InUse`] if
/// somebody has pushed to it before.
pub fn producer(segment: Arc<Segment>, offset: usize, len: usize) -> Result<Producer, RingError> {
    Producer::open(Mapped::new(segment, offset, len)?.check()?)
}

/// Opens the side that pops of the ring in the `len` bytes at `offset`.
///
/// # Errors
/// [`RingError::Place`] and [`RingError::Foreign`] if there is no ring of this size, [`RingError::InUse`] if
/// somebody has popped from it before.
pub fn consumer(segment: Arc<Segment>, offset: usize, len: usize) -> Result<Consumer, RingError> {
    Consumer::open(Mapped::new(segment, offset, len)?.check()?)
}

/// The words of the segment that a ring there would take.
fn place(segment: &Segment, offset: usize, len: usize) -> Result<Range<usize>, RingError> {
    let end = offset.checked_add(len).filter(|end| *end <= segment.len());
    let fits = len >= LEAST && len / WORD - DATA <= MAX_WORDS && offset.is_multiple_of(ALIGN);
    match end {
        Some(_) if fits => Ok(offset / WORD..offset / WORD + len / WORD),
        _ => Err(RingError::Place { offset, len, align: ALIGN, segment: segment.len(), least: LEAST }),
    }
}

/// The bytes of the data area of the ring in `words`.
const fn capacity(words: &[AtomicU64]) -> u64 {
    ((words.len() - DATA) * WORD) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 4096;

    fn ring() -> (Arc<Segment>, Producer, Consumer) {
        let segment = Arc::new(Segment::create(2 * LEN).unwrap());
        initialise(&segment, LEN, LEN).unwrap();
        let producer = producer(Arc::clone(&segment), LEN, LEN).unwrap();
        let consumer = consumer(Arc::clone(&segment), LEN, LEN).unwrap();
        (segment, producer, consumer)
    }

    #[test]
    fn two_threads_see_each_message_once_and_in_order() {
        const MESSAGES: u32 = 200_000;
        let (_, mut producer, mut consumer) = ring();
        let other = std::thread::spawn(move || {
            for number in 0..MESSAGES {
                let filling = vec![b'x'; number as usize % 300];
                while producer.try_push(&[&number.to_le_bytes(), &filling]).is_err() {
                    std::thread::yield_now();
                }
            }
        });
        let mut into = Vec::new();
        for number in 0..MESSAGES {
            while !consumer.try_pop(&mut into).unwrap() {
                std::thread::yield_now();
            }
            let (head, filling) = into.split_at(4);
            assert_eq!(head, number.to_le_bytes());
            assert_eq!(filling.len(), number as usize % 300);
            assert!(filling.iter().all(|byte| *byte == b'x'));
        }
        other.join().unwrap();
    }

    #[test]
    fn the_whole_place_is_used() {
        let (_, producer, _) = ring();
        assert_eq!(producer.max_message(), LEN - OVERHEAD - WORD);
    }

    #[test]
    fn two_messages_of_half_the_data_area_have_room_with_the_word_before_each() {
        let (_, mut producer, _) = ring();
        let half = [b'x'; (LEN - OVERHEAD) / 2 - WORD];
        assert!(producer.try_push(&[&half]).is_ok() && producer.try_push(&[&half]).is_ok());
        assert_eq!(producer.try_push(&[]), Err(PushError::Full));
    }

    #[test]
    fn a_ring_is_initialised_whatever_its_memory_held() {
        let (segment, ..) = ring();
        segment.words().iter().for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
        assert!(matches!(
            producer(Arc::clone(&segment), 0, LEN),
            Err(RingError::Foreign { found: u64::MAX, .. })
        ));
        initialise(&segment, 0, LEN).unwrap();
        let mut consumer = consumer(Arc::clone(&segment), 0, LEN).unwrap();
        assert_eq!(consumer.try_pop(&mut Vec::new()), Ok(false));
    }

    #[test]
    fn both_sides_must_mean_the_same_ring() {
        let (segment, ..) = ring();
        let found = consumer(Arc::clone(&segment), LEN, LEN - 8).unwrap_err();
        assert!(matches!(found, RingError::Corrupt { field: Field::Capacity, .. }), "{found:?}");
    }

    #[test]
    fn a_place_that_cannot_hold_a_ring_is_refused() {
        let (segment, ..) = ring();
        for (offset, len) in
            [(0, LEAST - 1), (8, LEN), (ALIGN, 2 * LEN), (usize::MAX - 127, LEN), (0, usize::MAX)]
        {
            let found = initialise(&segment, offset, len).unwrap_err();
            assert!(matches!(found, RingError::Place { .. }), "{offset} {len}: {found:?}");
        }
    }
}
