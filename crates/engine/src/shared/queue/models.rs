use loom::thread;

use super::super::lock;
use super::*;
use crate::prim::Arc;

const ME: Owner = Owner::new(7, 1);
const OTHER: Owner = Owner::new(8, 1);
const DEAD: Owner = Owner::new(9, 1);

struct Fixed(Vec<AtomicU64>);

impl Fixed {
    fn new() -> Arc<Self> {
        let words: Vec<_> = (0..LEAST).map(|_| AtomicU64::new(0)).collect();
        initialise(&words, ME, 0);
        Arc::new(Self(words))
    }

    fn queue(&self) -> Queue<'_, Self> {
        Queue::new(self).unwrap()
    }

    /// Does something with the guard of that word.
    fn guarded<R>(&self, guard: usize, me: Owner, body: impl FnOnce() -> R) -> R {
        while !lock::try_acquire(&self.0[guard], me, false) {
            thread::yield_now();
        }
        let result = body();
        assert!(lock::release(&self.0[guard], me).is_some());
        result
    }

    fn put(&self, me: Owner, bytes: &[u8]) {
        let queue = self.queue();
        let mut draft = if bytes.len() <= SHORT {
            Draft::Short(bytes)
        } else {
            let fill = |cursor: &mut Cursor<'_, '_, Self>| cursor.write(bytes).ok_or(());
            Draft::Long(queue.store(me, bytes.len(), fill).unwrap().unwrap())
        };
        let put = self.guarded(PUTTERS, me, || queue.put(me, 1, &mut draft));
        assert_eq!(put, Ok(Put::Done));
    }

    fn take(&self, me: Owner) -> Option<Vec<u8>> {
        let queue = self.queue();
        match self.guarded(GETTERS, me, || queue.take(me)).unwrap() {
            Take::Short(_, bytes) => Some(bytes),
            Take::Long(_, long) => {
                let mut bytes = vec![0; long.len()];
                long.cursor().read(&mut bytes).unwrap();
                Some(bytes)
            }
            Take::Empty | Take::Shut => None,
        }
    }
}

impl Memory for Fixed {
    type Error = ();

    fn words(&self, end: usize) -> Option<&[AtomicU64]> {
        (end <= self.0.len()).then_some(&self.0[..])
    }

    fn grow(&self, _end: usize) -> Result<(), ()> {
        Err(())
    }
}

/// Two short items fill a page, so the third is in another, and a long one in two of its own.
fn item(number: u8) -> Vec<u8> {
    vec![number; if number == 2 { 80 } else { 24 }]
}

#[test]
fn loom_items_come_out_whole_and_in_order() {
    loom::model(|| {
        let memory = Fixed::new();
        let putter = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || (1..4).for_each(|number| memory.put(OTHER, &item(number))))
        };
        let mut found: Vec<_> = (0..2).filter_map(|_| memory.take(ME)).collect();
        putter.join().unwrap();
        found.extend(std::iter::from_fn(|| memory.take(ME)));
        assert_eq!(found, [1, 2, 3].map(item));
    });
}

#[test]
fn loom_of_two_who_put_and_two_who_take_none_loses_anything() {
    loom::model(|| {
        let memory = Fixed::new();
        memory.put(ME, &item(1));
        let other = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                memory.put(OTHER, &item(2));
                memory.take(OTHER)
            })
        };
        memory.put(ME, &item(3));
        let mut found: Vec<_> = memory.take(ME).into_iter().collect();
        found.extend(other.join().unwrap());
        found.extend(std::iter::from_fn(|| memory.take(ME)));
        found.sort();
        assert_eq!(found, [1, 2, 3].map(item));
    });
}

#[test]
fn loom_a_sweep_takes_nothing_from_the_living() {
    loom::model(|| {
        let memory = Fixed::new();
        // Left by one who died before he could put it.
        std::mem::forget(memory.queue().reserve(DEAD, 80));
        let other = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                memory.put(OTHER, &item(2));
                memory.take(OTHER)
            })
        };
        memory.guarded(PUTTERS, ME, || {
            memory.guarded(GETTERS, ME, || {
                memory.queue().make_room(ME, PAGE_BYTES, |owner| owner != DEAD).unwrap();
            });
        });
        assert_eq!(other.join().unwrap(), Some(item(2)));
        assert!(memory.queue().reserve(ME, 6 * PAGE_BYTES).is_some(), "all are free but one");
    });
}
