//! Which of its tasks a worker that has ended may have begun, as far as the memory that it has left tells.
//!
//! Before a worker begins a task it notes the task's number, as two words of which each is the other's complement. That
//! says more than its ring does, where a task is claimed a moment before it is begun, and says it once more: a task that
//! writes over memory which is not its own may hit the one place and not the other.
//!
//! | note | ring | may have been begun |
//! |---|---|---|
//! | whole | whatever it holds | what is noted |
//! | garbage | sound | what is claimed |
//! | garbage | garbage | everything |
//!
//! **Guarantees.** A task that was begun is always among [those that may have been](count), unless garbage looks like a
//! note: of random words one pair in 2⁶⁴ does, and none that repeats one word. Where the note is whole, no other task is.
//!
//! **Not here.** The memory that the words are in, and the answers: of a task that was begun and not answered nobody can
//! say how far it came.

/// What the worker has written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// The number of the first task that it may not have begun.
    next: u64,
}

impl Note {
    /// Nothing has been begun.
    pub const NOTHING: Self = Self { next: 0 };

    /// The task of that number is about to begin, as those with smaller numbers did before.
    #[must_use]
    pub fn up_to(serial: u64) -> Self {
        Self { next: serial.wrapping_add(1) }
    }

    /// As it is written to memory.
    #[must_use]
    pub fn words(self) -> [u64; 2] {
        [self.next, !self.next]
    }

    /// As it was read from memory; `None` if nobody wrote it, or only half.
    #[must_use]
    pub fn from_words([next, complement]: [u64; 2]) -> Option<Self> {
        (complement == !next).then_some(Self { next })
    }
}

/// How many of its tasks a worker may have begun: of those with these numbers, the oldest first, that it has not answered;
/// of which so many are `unclaimed` in its ring, if that can be read.
#[must_use]
pub fn count(
    serials: impl ExactSizeIterator<Item = u64>,
    note: Option<Note>,
    unclaimed: Option<usize>,
) -> usize {
    match (note, unclaimed) {
        (Some(note), _) => {
            let begun = serials.enumerate().filter(|(_, serial)| *serial < note.next).last();
            begun.map_or(0, |(index, _)| index + 1)
        }
        (None, Some(unclaimed)) => serials.len().saturating_sub(unclaimed),
        (None, None) => serials.len(),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::prim::atomic::{AtomicU64, Ordering};
    use crate::ring::{Consumer, Memory, Producer};

    const RING: usize = 64;

    /// A ring's state word and data, and the note.
    #[derive(Clone, Debug)]
    struct Shared(Arc<[AtomicU64; RING + 3]>);

    impl Shared {
        fn new() -> Self {
            let shared = Self(Arc::new(std::array::from_fn(|_| AtomicU64::new(0))));
            shared.write(Note::NOTHING);
            shared
        }

        fn write(&self, note: Note) {
            for (word, written) in self.0[RING + 1..].iter().zip(note.words()) {
                word.store(written, Ordering::Relaxed);
            }
        }

        fn read(&self) -> Option<Note> {
            Note::from_words([RING + 1, RING + 2].map(|place| self.0[place].load(Ordering::Relaxed)))
        }
    }

    impl Memory for Shared {
        type Slot = AtomicU64;

        fn state(&self) -> &AtomicU64 {
            &self.0[0]
        }

        fn data(&self) -> &[AtomicU64] {
            &self.0[1..=RING]
        }
    }

    /// A worker and its pool, and what really happens.
    struct Model {
        memory: Shared,
        tasks: Producer<Shared>,
        worker: Consumer<Shared>,
        flights: VecDeque<u64>,
        /// What was claimed and is not yet noted; what is noted and not yet begun.
        claimed: Option<u64>,
        noted: Option<u64>,
        begun: Vec<u64>,
        next_serial: u64,
    }

    impl Model {
        fn new() -> Self {
            let memory = Shared::new();
            Self {
                tasks: Producer::open(memory.clone()).unwrap(),
                worker: Consumer::open(memory.clone()).unwrap(),
                memory,
                flights: VecDeque::new(),
                claimed: None,
                noted: None,
                begun: Vec::new(),
                next_serial: 0,
            }
        }

        fn push(&mut self) {
            if self.tasks.try_push(&[&self.next_serial.to_le_bytes()]).is_ok() {
                self.flights.push_back(self.next_serial);
                self.next_serial += 1;
            }
        }

        fn take_back(&mut self) {
            let taken = self.tasks.take_back(1);
            self.flights.truncate(self.flights.len() - taken);
        }

        /// The pool has read the answer of the oldest task, if that has ended: the next has begun.
        fn answer(&mut self) {
            if self.begun.last().is_some_and(|last| self.flights.front().is_some_and(|front| front < last)) {
                self.flights.pop_front();
            }
        }

        /// The worker's next step of claiming, noting and beginning.
        fn step(&mut self) {
            if let Some(serial) = self.noted.take() {
                self.begun.push(serial);
            } else if let Some(serial) = self.claimed.take() {
                self.memory.write(Note::up_to(serial));
                self.noted = Some(serial);
            } else {
                let mut message = Vec::new();
                if self.worker.try_pop(&mut message) == Ok(true) {
                    self.claimed = Some(u64::from_le_bytes(message.try_into().unwrap()));
                }
            }
        }

        fn may_have_begun(&self) -> usize {
            let flights: Vec<u64> = self.flights.iter().copied().collect();
            count(flights.into_iter(), self.memory.read(), self.tasks.known_unclaimed())
        }

        fn have_begun(&self) -> usize {
            self.flights.iter().filter(|flight| self.begun.contains(flight)).count()
        }
    }

    proptest! {
        #[test]
        fn what_was_begun_may_have_been_whatever_the_memory_holds(
            steps in prop::collection::vec(0..8_u8, 0..100),
            ring: Option<u64>,
            note: Option<[u64; 2]>,
        ) {
            let mut model = Model::new();
            for step in steps {
                match step {
                    0..=1 => model.push(),
                    2 => model.take_back(),
                    3 => model.answer(),
                    _ => model.step(),
                }
            }
            let begun = model.have_begun();
            // One that is noted and not begun cannot be told from one that is.
            let noted = begun + model.noted.iter().count();
            prop_assert_eq!(model.may_have_begun(), noted);
            if let Some(garbage) = ring {
                model.memory.state().store(garbage, Ordering::Relaxed);
                prop_assert_eq!(model.may_have_begun(), noted);
            }
            if let Some(garbage) = note {
                for (word, garbage) in model.memory.0[RING + 1..].iter().zip(garbage) {
                    word.store(garbage, Ordering::Relaxed);
                }
                prop_assert!(model.may_have_begun() >= begun);
                let all = ring.is_some();
                let claimed = noted + model.claimed.iter().count();
                prop_assert_eq!(model.may_have_begun(), if all { model.flights.len() } else { claimed });
            }
        }

        #[test]
        fn a_word_that_repeats_is_no_note(word: u64) {
            prop_assert_eq!(Note::from_words([word, word]), None);
        }

        #[test]
        fn half_a_note_is_none(serial in 0..u64::MAX - 1) {
            let (old, new) = (Note::up_to(serial).words(), Note::up_to(serial + 1).words());
            prop_assert_eq!(Note::from_words([new[0], old[1]]), None);
            prop_assert_eq!(Note::from_words([old[0], new[1]]), None);
            prop_assert_eq!(Note::from_words(new), Some(Note::up_to(serial + 1)));
        }
    }

    #[test]
    fn a_note_of_what_came_later_counts_for_all_before_it() {
        // The one that was noted is not among them any more: it was cancelled.
        assert_eq!(count([3, 4, 6].into_iter(), Some(Note::up_to(5)), None), 2);
        assert_eq!(count([3, 4, 6].into_iter(), Some(Note::NOTHING), Some(0)), 0);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;
    use crate::prim::Arc;
    use crate::prim::atomic::{AtomicU64, Ordering};
    use crate::ring::{Consumer, Memory, Producer};

    #[derive(Clone, Debug)]
    struct Shared(Arc<(AtomicU64, Vec<AtomicU64>)>);

    impl Memory for Shared {
        type Slot = AtomicU64;

        fn state(&self) -> &AtomicU64 {
            &self.0.0
        }

        fn data(&self) -> &[AtomicU64] {
            &self.0.1
        }
    }

    /// Whoever looks sees the memory as a worker leaves it that is killed at that moment.
    #[test]
    fn loom_no_task_that_has_begun_is_missed() {
        loom::model(|| {
            let ring = Shared(Arc::new((AtomicU64::new(0), (0..4).map(|_| AtomicU64::new(0)).collect())));
            let mut tasks = Producer::open(ring.clone()).unwrap();
            let note = Arc::new(Note::NOTHING.words().map(AtomicU64::new));
            let begun = Arc::new(AtomicU64::new(0));
            for serial in 0..2_u64 {
                assert!(tasks.try_push(&[&serial.to_le_bytes()]).is_ok());
            }
            let worker = {
                let (note, begun) = (Arc::clone(&note), Arc::clone(&begun));
                thread::spawn(move || {
                    let mut worker = Consumer::open(ring).unwrap();
                    let mut message = Vec::new();
                    while worker.try_pop(&mut message).unwrap() {
                        let serial = u64::from_le_bytes(message.as_slice().try_into().unwrap());
                        for (word, written) in note.iter().zip(Note::up_to(serial).words()) {
                            word.store(written, Ordering::Release);
                        }
                        begun.store(serial + 1, Ordering::Release);
                    }
                })
            };
            let has_begun = usize::try_from(begun.load(Ordering::Acquire)).unwrap();
            let noted = Note::from_words([0, 1].map(|half: usize| note[half].load(Ordering::Acquire)));
            assert!(count([0, 1].into_iter(), noted, tasks.known_unclaimed()) >= has_begun);
            worker.join().unwrap();
        });
    }
}
