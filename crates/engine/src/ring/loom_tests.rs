use loom::sync::Notify;
use loom::thread;

use super::*;
use crate::prim::Arc;

/// What stands in a word that nobody needs any more.
const DONE: u64 = 0xdead_beef;

/// A word that knows whether it may be written. Reading it marks it as done with; a write looks for that mark,
/// with a relaxed load: unless the reading happened before in the sense of the memory model, there is a schedule
/// in which the mark is not seen.
#[derive(Debug)]
struct Checked(AtomicU64);

impl Slot for Checked {
    fn load(&self) -> u64 {
        let word = self.0.load(Ordering::Relaxed);
        self.0.store(DONE, Ordering::Relaxed);
        word
    }

    fn store(&self, word: u64) {
        assert_eq!(self.0.load(Ordering::Relaxed), DONE, "it was written while it was needed");
        self.0.store(word, Ordering::Relaxed);
    }
}

#[derive(Clone, Debug)]
struct Modelled(Arc<(AtomicU64, Vec<Checked>)>);

impl Memory for Modelled {
    type Slot = Checked;

    fn state(&self) -> &AtomicU64 {
        &self.0.0
    }

    fn data(&self) -> &[Checked] {
        &self.0.1
    }
}

/// A message is one word, which with its header makes two.
const MESSAGE: usize = 2;

fn ring(messages: usize) -> (Modelled, Producer<Modelled>, Consumer<Modelled>) {
    let words = (0..messages * MESSAGE).map(|_| Checked(AtomicU64::new(DONE))).collect();
    let memory = Modelled(Arc::new((AtomicU64::new(0), words)));
    let producer = Producer::open(memory.clone()).unwrap();
    let consumer = Consumer::open(memory.clone()).unwrap();
    (memory, producer, consumer)
}

/// Pushes `number`; `None` if there was no room.
fn push(producer: &mut Producer<Modelled>, number: u64) -> Option<Pushed> {
    match producer.try_push(&[&number.to_le_bytes()]) {
        Ok(pushed) => Some(pushed),
        Err(PushError::Full) => None,
        Err(error) => panic!("{error}"),
    }
}

fn pop(consumer: &mut Consumer<Modelled>) -> Option<u64> {
    let mut into = Vec::new();
    consumer.try_pop(&mut into).unwrap().then(|| u64::from_le_bytes(into.try_into().unwrap()))
}

fn pop_all(consumer: &mut Consumer<Modelled>) -> Vec<u64> {
    std::iter::from_fn(|| pop(consumer)).collect()
}

/// Runs the two sides on threads of their own: the thread that only waits for both costs no preemption.
fn race<P: 'static, C: 'static>(
    produce: impl FnOnce() -> P + 'static,
    consume: impl FnOnce() -> C + 'static,
) -> (P, C) {
    let (producer, consumer) = (thread::spawn(produce), thread::spawn(consume));
    (producer.join().unwrap(), consumer.join().unwrap())
}

#[test]
fn loom_messages_arrive_once_in_order_and_their_words_are_reused_after() {
    loom::model(|| {
        let (_, mut producer, mut consumer) = ring(2);
        let produce =
            move || -> Vec<u64> { (1..=4).filter(|number| push(&mut producer, *number).is_some()).collect() };
        let consume = move || {
            let popped: Vec<u64> = (0..3).filter_map(|_| pop(&mut consumer)).collect();
            (popped, consumer)
        };
        let (pushed, (mut popped, mut consumer)) = race(produce, consume);
        popped.extend(pop_all(&mut consumer));
        assert_eq!(popped, pushed);
    });
}

#[test]
fn loom_a_message_is_claimed_or_taken_back() {
    loom::model(|| {
        let (memory, mut producer, mut consumer) = ring(2);
        let produce = move || {
            let mut kept: Vec<u64> =
                (1..=2).filter(|number| push(&mut producer, *number).is_some()).collect();
            let end = kept.len();
            let taken = producer.take_back(2);
            kept.truncate(end - taken);
            // What was taken back is nobody's.
            for word in &memory.data()[(end - taken) * MESSAGE..end * MESSAGE] {
                word.load();
            }
            kept.extend((3..=4).filter(|number| push(&mut producer, *number).is_some()));
            kept
        };
        let consume = move || {
            let popped: Vec<u64> = (0..3).filter_map(|_| pop(&mut consumer)).collect();
            (popped, consumer)
        };
        let (kept, (mut popped, mut consumer)) = race(produce, consume);
        popped.extend(pop_all(&mut consumer));
        assert_eq!(popped, kept);
    });
}

#[test]
fn loom_both_sides_may_sleep_and_neither_for_ever() {
    const MESSAGES: u64 = 3;
    loom::model(|| {
        let (_, mut producer, mut consumer) = ring(1);
        let (room, work) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (make_room, wait_for_work) = (Arc::clone(&room), Arc::clone(&work));
        let produce = move || {
            for number in 0..MESSAGES {
                let pushed = loop {
                    if let Some(pushed) = push(&mut producer, number) {
                        break pushed;
                    }
                    if producer.prepare_sleep(WORD) {
                        room.wait();
                        producer.end_sleep();
                    }
                };
                if pushed.must_wake {
                    work.notify();
                }
            }
        };
        let consume = move || {
            for number in 0..MESSAGES {
                let popped = loop {
                    if let Some(popped) = pop(&mut consumer) {
                        break popped;
                    }
                    if consumer.prepare_sleep() {
                        wait_for_work.wait();
                        consumer.end_sleep();
                    }
                };
                assert_eq!(popped, number);
                if consumer.must_wake() {
                    make_room.notify();
                }
            }
        };
        race(produce, consume);
    });
}

/// A sleep with a deadline may end on its own just when the message comes.
#[test]
fn loom_a_message_that_meets_the_end_of_a_sleep_is_seen() {
    loom::model(|| {
        let (_, mut producer, mut consumer) = ring(1);
        let produce = move || push(&mut producer, 1).unwrap().must_wake;
        let consume = move || {
            let slept = consumer.prepare_sleep();
            consumer.end_sleep();
            (slept, pop(&mut consumer), consumer)
        };
        let (woken, (slept, popped, mut consumer)) = race(produce, consume);
        assert!(slept || !woken, "only a sleeper is woken");
        assert!(popped.is_some() || !woken, "no wake-up is spent on a sleeper that looked too early");
        assert_eq!(popped.or_else(|| pop(&mut consumer)), Some(1));
    });
}
