use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// A ring's memory in this process.
#[derive(Clone, Debug)]
struct Boxed(Arc<(AtomicU64, Box<[AtomicU64]>)>);

impl Boxed {
    fn new(words: usize) -> Self {
        Self(Arc::new((AtomicU64::new(0), (0..words).map(|_| AtomicU64::new(0)).collect())))
    }
}

impl Memory for Boxed {
    type Slot = AtomicU64;

    fn state(&self) -> &AtomicU64 {
        &self.0.0
    }

    fn data(&self) -> &[AtomicU64] {
        &self.0.1
    }
}

fn ring(words: usize) -> (Boxed, Producer<Boxed>, Consumer<Boxed>) {
    let memory = Boxed::new(words);
    let producer = Producer::open(memory.clone()).unwrap();
    let consumer = Consumer::open(memory.clone()).unwrap();
    (memory, producer, consumer)
}

fn message(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((seed * 31 + at * 7) % 251).unwrap()).collect()
}

fn pop(consumer: &mut Consumer<Boxed>) -> Option<Vec<u8>> {
    let mut into = Vec::new();
    consumer.try_pop(&mut into).unwrap().then_some(into)
}

fn push(producer: &mut Producer<Boxed>, message: &[u8]) {
    assert_eq!(producer.try_push(&[message]), Ok(Pushed { must_wake: false }));
}

#[test]
fn messages_come_out_in_the_order_in_which_they_went_in() {
    let (_, mut producer, mut consumer) = ring(16);
    push(&mut producer, b"first");
    push(&mut producer, b"");
    push(&mut producer, b"third, longer than one word");
    assert_eq!((producer.unclaimed(), consumer.unclaimed()), (3, 3));
    assert_eq!(pop(&mut consumer).unwrap(), b"first");
    assert_eq!(pop(&mut consumer).unwrap(), b"");
    assert_eq!(pop(&mut consumer).unwrap(), b"third, longer than one word");
    assert_eq!(pop(&mut consumer), None);
}

#[test]
fn what_was_taken_back_never_comes_out() {
    let (_, mut producer, mut consumer) = ring(16);
    (0..4).for_each(|number| push(&mut producer, &[number]));
    assert_eq!(pop(&mut consumer).unwrap(), [0]);
    assert_eq!(producer.take_back(2), 2);
    push(&mut producer, &[9]);
    assert_eq!(pop(&mut consumer).unwrap(), [1]);
    assert_eq!(pop(&mut consumer).unwrap(), [9]);
    assert_eq!(producer.take_back(usize::MAX), 0);
}

#[test]
fn every_size_fits_at_every_offset_up_to_exactly_full() {
    const WORDS: usize = 7;
    for offset in 0..WORDS {
        for length in 0..=(WORDS - 1) * WORD {
            let (_, mut producer, mut consumer) = ring(WORDS);
            for _ in 0..offset {
                push(&mut producer, b"");
                pop(&mut consumer);
            }
            push(&mut producer, &message(offset, length));
            let left = WORDS - bytes::words(length);
            (0..left).for_each(|_| push(&mut producer, b""));
            assert_eq!(producer.try_push(&[b""]), Err(PushError::Full));
            assert_eq!(pop(&mut consumer).unwrap(), message(offset, length));
            assert_eq!(consumer.unclaimed(), left);
        }
    }
}

#[test]
fn a_message_larger_than_the_ring_is_refused_with_the_most_it_takes() {
    let (_, mut producer, mut consumer) = ring(4);
    assert_eq!(producer.max_message(), 24);
    assert_eq!(producer.try_push(&[&[0; 20], &[0; 5]]), Err(PushError::TooLarge { max: 24 }));
    push(&mut producer, &message(1, 24));
    assert_eq!(pop(&mut consumer).unwrap(), message(1, 24));
}

#[test]
fn the_counters_wrap() {
    let (_, mut producer, mut consumer) = ring(4);
    let memory = move_to(&mut producer, &mut consumer, 0x3fff_fffe);
    for round in 0..5 {
        push(&mut producer, &[round]);
        push(&mut producer, &[round + 100]);
        assert_eq!(producer.unclaimed(), 2);
        assert_eq!(producer.take_back(1), 1);
        assert_eq!(pop(&mut consumer).unwrap(), [round]);
        assert_eq!(pop(&mut consumer), None);
    }
    assert_eq!(state::State(memory.state().load(Ordering::Relaxed)).end().get(), 3);
}

/// Puts an empty ring where it would be after `count` messages.
fn move_to(producer: &mut Producer<Boxed>, consumer: &mut Consumer<Boxed>, messages: u32) -> Boxed {
    let memory = Boxed::new(4);
    let count = state::Count::ZERO.plus(messages);
    memory.state().store(u64::from(messages) << 34 | u64::from(messages), Ordering::Relaxed);
    *producer = Producer::at(memory.clone(), count);
    *consumer = Consumer::at(memory.clone(), count);
    memory
}

#[test]
fn each_side_can_be_opened_once_and_the_consumer_late() {
    let (memory, mut producer, consumer) = ring(8);
    drop(consumer);
    push(&mut producer, b"early");
    assert!(matches!(Producer::open(memory.clone()), Err(RingError::InUse { .. })));
    let mut late = Consumer::open(memory.clone()).unwrap();
    assert_eq!(pop(&mut late).unwrap(), b"early");
    assert!(matches!(Consumer::open(memory), Err(RingError::InUse { .. })));
}

#[test]
fn a_sleeping_consumer_is_woken_once() {
    let (_, mut producer, mut consumer) = ring(8);
    assert!(consumer.prepare_sleep());
    assert_eq!(producer.try_push(&[b"a"]), Ok(Pushed { must_wake: true }));
    assert_eq!(producer.try_push(&[b"b"]), Ok(Pushed { must_wake: false }));
    consumer.end_sleep();
    assert!(!consumer.prepare_sleep());
    assert!(pop(&mut consumer).is_some() && pop(&mut consumer).is_some());
    assert!(consumer.prepare_sleep());
    consumer.end_sleep();
    assert_eq!(producer.try_push(&[b"c"]), Ok(Pushed { must_wake: false }));
}

#[test]
fn a_starved_producer_is_woken_when_room_is_made() {
    let (_, mut producer, mut consumer) = ring(4);
    assert!(!producer.prepare_sleep(24));
    assert!(!producer.prepare_sleep(25), "it would sleep for ever");
    push(&mut producer, &message(1, 16));
    assert!(producer.prepare_sleep(8));
    assert!(!consumer.must_wake());
    assert!(pop(&mut consumer).is_some());
    assert!(consumer.must_wake());
    assert!(!consumer.must_wake());
    push(&mut producer, &message(1, 24));
}

/// A message whose followers were taken back while it ran must not keep its room for ever.
#[test]
fn a_consumer_that_finds_nothing_lets_its_last_message_go() {
    let (_, mut producer, mut consumer) = ring(8);
    push(&mut producer, &message(1, 40));
    push(&mut producer, b"x");
    assert!(pop(&mut consumer).is_some());
    assert_eq!(producer.take_back(1), 1);
    assert!(producer.prepare_sleep(40));
    assert!(!consumer.prepare_sleep(), "it has something to do");
    assert_eq!(pop(&mut consumer), None);
    assert!(consumer.must_wake());
    assert!(consumer.prepare_sleep());
    assert_eq!(producer.try_push(&[&message(2, 40)]), Ok(Pushed { must_wake: true }));
}

#[test]
fn errors_say_what_was_found() {
    let (memory, mut producer, mut consumer) = ring(8);
    push(&mut producer, b"x");
    memory.data()[0].store(1 << 20, Ordering::Relaxed);
    let error = consumer.try_pop(&mut Vec::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "could not use the ring: found message length 1048576, expected at most 56"
    );
    memory.data()[0].store(1, Ordering::Relaxed);
    assert_eq!(consumer.try_pop(&mut Vec::new()), Err(error), "it stays broken");
    assert!(!consumer.prepare_sleep(), "nobody sleeps on a broken ring");

    memory.state().store(5, Ordering::Relaxed);
    let error = producer.try_push(&[b"y"]).unwrap_err();
    assert_eq!(error.to_string(), "could not use the ring: found end of messages 0, expected 1");
    assert_eq!((producer.take_back(1), producer.unclaimed()), (0, 0));
    assert_eq!(producer.try_push(&[b"y"]), Err(error));
}

#[test]
fn claims_that_nobody_made_are_noticed() {
    for lie in [state::HELD, 2, state::HELD | 2] {
        let (memory, mut producer, _) = ring(8);
        push(&mut producer, b"x");
        memory.state().fetch_add(lie, Ordering::Relaxed);
        let found = producer.try_push(&[b"y"]);
        assert!(matches!(found, Err(PushError::Corrupt(RingError::Corrupt { .. }))), "{lie}: {found:?}");
    }
}

#[test]
fn messages_that_nobody_pushed_are_noticed() {
    let found = |lie: fn(&Boxed)| {
        let (memory, mut producer, mut consumer) = ring(8);
        push(&mut producer, b"x");
        lie(&memory);
        match consumer.try_pop(&mut Vec::new()) {
            Err(RingError::Corrupt { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    };
    let next_of_two = |memory: &Boxed| memory.state().store(state::ONE * 2 + 1, Ordering::Relaxed);
    assert_eq!(found(next_of_two), Field::Next);
    assert_eq!(found(|memory| memory.state().store(state::ONE * 9, Ordering::Relaxed)), Field::Unclaimed);
    assert_eq!(found(|memory| memory.data()[0].store(7 << 32 | 1, Ordering::Relaxed)), Field::Number);
    assert_eq!(found(|memory| memory.data()[0].store(57, Ordering::Relaxed)), Field::Length);
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize, Vec<Index>),
    Pop,
    TakeBack(usize),
    ConsumerSleeps,
    ConsumerWakes,
    ProducerSleeps(usize),
}

fn step(most: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..=most, prop::collection::vec(any::<Index>(), 0..4)).prop_map(|(length, cuts)| Step::Push(length, cuts)),
        4 => Just(Step::Pop),
        1 => (0_usize..6).prop_map(Step::TakeBack),
        1 => Just(Step::ConsumerSleeps),
        1 => Just(Step::ConsumerWakes),
        1 => (0..=most).prop_map(Step::ProducerSleeps),
    ]
}

/// What the ring should do, said with a queue.
#[derive(Default)]
struct Model {
    capacity: usize,
    waiting: VecDeque<Vec<u8>>,
    held: usize,
    asleep: bool,
    starved: bool,
    must_wake: bool,
}

impl Model {
    fn free(&self) -> usize {
        self.capacity
            - self.held
            - self.waiting.iter().map(|message| bytes::words(message.len())).sum::<usize>()
    }

    fn push(&mut self, message: Vec<u8>) -> Result<Pushed, PushError> {
        let (max, words) = ((self.capacity - 1) * WORD, bytes::words(message.len()));
        match () {
            () if message.len() > max => Err(PushError::TooLarge { max }),
            () if words > self.free() => Err(PushError::Full),
            () => {
                self.waiting.push_back(message);
                Ok(Pushed { must_wake: std::mem::take(&mut self.asleep) })
            }
        }
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let message = self.waiting.pop_front();
        let claimed = message.is_some();
        // Claiming lets the one before go, and so does finding nothing.
        if claimed || self.held > 0 {
            self.must_wake |= std::mem::take(&mut self.starved);
        }
        let more = !self.waiting.is_empty();
        self.held = message.as_ref().filter(|_| more).map_or(0, |message| bytes::words(message.len()));
        message
    }

    fn take_back(&mut self, most: usize) -> usize {
        let count = most.min(self.waiting.len());
        self.waiting.truncate(self.waiting.len() - count);
        count
    }
}

fn cut<'a>(message: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(message.len() + 1)).collect();
    places.sort_unstable();
    places.push(message.len());
    let mut from = 0;
    places.iter().map(|place| &message[std::mem::replace(&mut from, *place)..*place]).collect()
}

proptest! {
    #[test]
    fn it_does_what_a_queue_does(words in 2_usize..24, steps in prop::collection::vec(step(100), 1..200)) {
        let (_, mut producer, mut consumer) = ring(words);
        let mut model = Model { capacity: words, ..Model::default() };
        let mut into = message(3, 50);
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push(length, cuts) => {
                    let message = message(number, length);
                    let pushed = producer.try_push(&cut(&message, &cuts));
                    prop_assert_eq!(pushed, model.push(message));
                }
                Step::Pop => {
                    let popped = consumer.try_pop(&mut into).unwrap().then(|| into.clone());
                    prop_assert_eq!(popped, model.pop());
                }
                Step::TakeBack(most) => prop_assert_eq!(producer.take_back(most), model.take_back(most)),
                Step::ConsumerSleeps => {
                    model.asleep = model.waiting.is_empty() && model.held == 0;
                    prop_assert_eq!(consumer.prepare_sleep(), model.asleep);
                }
                Step::ConsumerWakes => {
                    consumer.end_sleep();
                    model.asleep = false;
                }
                Step::ProducerSleeps(length) => {
                    model.starved = length <= (words - 1) * WORD && bytes::words(length) > model.free();
                    prop_assert_eq!(producer.prepare_sleep(length), model.starved);
                }
            }
            prop_assert_eq!(producer.unclaimed(), model.waiting.len());
            prop_assert_eq!(consumer.unclaimed(), model.waiting.len());
            prop_assert_eq!(consumer.must_wake(), std::mem::take(&mut model.must_wake));
        }
    }

    /// The other side writes what it likes where it likes, between any two of our steps.
    #[test]
    fn garbage_in_the_memory_harms_nobody(
        words in 2_usize..24,
        rounds in prop::collection::vec((step(100), any::<Option<(Index, u64, bool)>>()), 1..100),
    ) {
        let (memory, mut producer, mut consumer) = ring(words);
        let mut into = Vec::new();
        for (number, (step, scribble)) in rounds.into_iter().enumerate() {
            if let Some((place, bits, whole)) = scribble {
                let place = place.index(words + 1);
                let word = if place == words { memory.state() } else { &memory.data()[place] };
                // A single bit changed is the garbage that looks most like sense.
                if whole { word.store(bits, Ordering::Relaxed) } else { word.fetch_xor(1 << (bits % 64), Ordering::Relaxed); }
            }
            match step {
                Step::Push(length, cuts) => drop(producer.try_push(&cut(&message(number, length), &cuts))),
                Step::Pop => if consumer.try_pop(&mut into) == Ok(true) {
                    prop_assert!(into.len() <= (words - 1) * WORD);
                },
                Step::TakeBack(most) => prop_assert!(producer.take_back(most) <= most),
                Step::ConsumerSleeps => drop(consumer.prepare_sleep()),
                Step::ConsumerWakes => consumer.end_sleep(),
                Step::ProducerSleeps(length) => drop(producer.prepare_sleep(length)),
            }
            prop_assert!(producer.unclaimed() <= words && consumer.unclaimed() <= words);
        }
    }
}
