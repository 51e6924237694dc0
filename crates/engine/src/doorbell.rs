//! A wake-up that is sent once, however many things there are to tell.
//!
//! Producers put their item into a queue and [`ring`](Doorbell::ring); only the ring that finds the bell silent
//! must wake the consumer. The consumer [`answer`](Doorbell::answer)s *before* it empties the queue: an item put
//! after that rings again, an item put before it is seen.

use crate::prim::atomic::{AtomicBool, Ordering};

/// Whether somebody has already called the consumer.
#[derive(Debug, Default)]
pub struct Doorbell(AtomicBool);

impl Doorbell {
    /// Rings. `true`: the bell was silent, so the caller must wake the consumer.
    #[must_use]
    pub fn ring(&self) -> bool {
        // Release publishes the item; Acquire orders a `false` after the ring that it relies on.
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// Silences the bell; call it before emptying the queue.
    pub fn answer(&self) {
        // Acquire pairs with the Release in `ring`, so every item whose ring was swallowed is seen.
        self.0.swap(false, Ordering::AcqRel);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_ring_wakes() {
        let bell = Doorbell::default();
        assert!(bell.ring());
        assert!(!bell.ring());
        bell.answer();
        assert!(bell.ring());
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;
    use crate::prim::atomic::AtomicU32;
    use crate::prim::{Arc, Mutex, lock};

    #[test]
    fn loom_every_item_is_seen_or_a_wake_up_is_due() {
        loom::model(|| {
            let shared = Arc::new((Doorbell::default(), Mutex::new(Vec::new()), AtomicU32::new(0)));
            let producers: Vec<_> = (0..2)
                .map(|item| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || {
                        lock(&shared.1).push(item);
                        if shared.0.ring() {
                            shared.2.fetch_add(1, Ordering::AcqRel);
                        }
                    })
                })
                .collect();
            let (bell, queue, calls) = &*shared;
            let mut answered = 0;
            let mut seen = 0;
            if calls.load(Ordering::Acquire) > answered {
                answered += 1;
                bell.answer();
                seen += lock(queue).drain(..).count();
            }
            for producer in producers {
                producer.join().unwrap();
            }
            while calls.load(Ordering::Acquire) > answered {
                answered += 1;
                bell.answer();
                seen += lock(queue).drain(..).count();
            }
            assert_eq!(seen, 2);
        });
    }
}
