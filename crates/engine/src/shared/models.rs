//! Models of what lies in a table of seats, with the guard, the bell and the sleep that go with it.

use loom::sync::Condvar;
use loom::thread;

use super::rwlock::Caller;
use super::seats::{BELL, GUARD, Seats};
use super::{Owner, barrier, condition, lock, rwlock, semaphore};
use crate::prim::atomic::{AtomicU64, Ordering};
use crate::prim::{Arc, Mutex, lock as lock_of};

const ME: Owner = Owner::new(7, 1);
const OTHER: Owner = Owner::new(8, 1);
const DEAD: Owner = Owner::new(9, 1);

/// A table, two words that it guards, and the kernel's side of sleeping.
struct Table {
    words: Vec<AtomicU64>,
    pair: [AtomicU64; 2],
    kernel: Mutex<()>,
    sleepers: Condvar,
}

impl Table {
    fn new(limit: u64) -> Arc<Self> {
        let words: Vec<_> = (0..super::seats::words(3)).map(|_| AtomicU64::new(0)).collect();
        Seats::new(&words).unwrap().initialise(limit);
        let pair = [AtomicU64::new(0), AtomicU64::new(0)];
        Arc::new(Self { words, pair, kernel: Mutex::new(()), sleepers: Condvar::new() })
    }

    fn guarded<R>(&self, me: Owner, body: impl FnOnce(Seats<'_>) -> R) -> R {
        while !lock::try_acquire(&self.words[GUARD], me, false) {
            thread::yield_now();
        }
        let result = body(Seats::new(&self.words).unwrap());
        assert!(lock::release(&self.words[GUARD], me).is_some());
        result
    }

    fn change<R>(&self, me: Owner, body: impl FnOnce(Seats<'_>) -> R) -> R {
        let (result, is_waited_for) = self.guarded(me, |seats| (body(seats), seats.ring()));
        if is_waited_for {
            let _kernel = lock_of(&self.kernel);
            self.sleepers.notify_all();
        }
        result
    }

    /// Waits until `attempt` comes to something. Who is never woken is a deadlock, of which the model tells.
    fn wait_for(&self, me: Owner, mut attempt: impl FnMut(Seats<'_>, &mut Option<usize>) -> bool) {
        let mut seat = None;
        loop {
            let bell = &self.words[BELL];
            let look = |seats: Seats<'_>| (attempt(seats, &mut seat), bell.load(Ordering::Relaxed));
            let (is_over, seen) = self.guarded(me, look);
            if is_over {
                return;
            }
            let kernel = lock_of(&self.kernel);
            if bell.load(Ordering::Relaxed) == seen {
                drop(self.sleepers.wait(kernel));
            }
        }
    }

    /// Adds to both words, which nobody else must do meanwhile.
    fn write(&self) {
        for word in &self.pair {
            word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    fn read(&self) -> [u64; 2] {
        [0, 1].map(|index: usize| self.pair[index].load(Ordering::Relaxed))
    }
}

/// Runs the two at the same time.
fn both(table: &Arc<Table>, one: fn(&Table, Owner), other: fn(&Table, Owner)) {
    let running = {
        let table = Arc::clone(table);
        thread::spawn(move || other(&table, OTHER))
    };
    one(table, ME);
    running.join().unwrap();
}

#[test]
fn loom_a_permit_of_a_dead_one_goes_to_one_at_a_time() {
    fn use_permit(table: &Table, me: Owner) {
        table.change(me, |seats| seats.bury(&[DEAD], |_| ()));
        table.wait_for(me, |seats, seat| semaphore::acquire(seats, me, seat, true).unwrap());
        table.write();
        table.change(me, |seats| semaphore::release(seats, me, 1)).unwrap();
    }
    loom::model(|| {
        let table = Table::new(1);
        assert_eq!(table.guarded(ME, |seats| semaphore::acquire(seats, DEAD, &mut None, false)), Ok(true));
        both(&table, use_permit, use_permit);
        assert_eq!((table.read(), table.guarded(ME, semaphore::free)), ([2, 2], 1));
    });
}

#[test]
fn loom_a_reader_sees_a_writers_work_as_a_whole() {
    fn read(table: &Table, owner: Owner) {
        let me = Caller { owner, thread: 1 };
        table.wait_for(owner, |seats, seat| rwlock::read(seats, me, seat, true).unwrap());
        let [one, other] = table.read();
        assert_eq!(one, other);
        table.change(owner, |seats| rwlock::end_read(seats, me)).unwrap();
    }
    fn write(table: &Table, owner: Owner) {
        let me = Caller { owner, thread: 1 };
        table.wait_for(owner, |seats, seat| rwlock::write(seats, me, seat, true).unwrap());
        table.write();
        table.change(owner, |seats| rwlock::end_write(seats, me)).unwrap();
    }
    loom::model(|| {
        let table = Table::new(0);
        both(&table, read, write);
        assert_eq!(table.read(), [1, 1]);
    });
    loom::model(|| {
        let table = Table::new(0);
        both(&table, write, write);
        assert_eq!(table.read(), [2, 2]);
    });
}

#[test]
fn loom_who_waits_to_be_called_hears_the_call() {
    /// Waits for the word under the guard, which stands for the lock of a condition.
    fn wait(table: &Table, me: Owner) {
        let take_seat = |seats: Seats<'_>| {
            let is_there = table.pair[0].load(Ordering::Relaxed) == 1;
            if is_there { None } else { Some(condition::wait(seats, me, 0).unwrap()) }
        };
        if let Some(seat) = table.change(me, take_seat) {
            table.wait_for(me, |seats, _| condition::is_called(seats, seat));
        }
        assert_eq!(table.guarded(me, |_| table.pair[0].load(Ordering::Relaxed)), 1);
    }
    fn call(table: &Table, me: Owner) {
        table.change(me, |seats| {
            table.pair[0].store(1, Ordering::Relaxed);
            condition::notify(seats, 1);
        });
    }
    loom::model(|| both(&Table::new(0), wait, call));
}

#[test]
fn loom_those_who_meet_at_a_barrier_all_go_on() {
    fn meet(table: &Table, me: Owner) {
        table.pair[usize::from(me == OTHER)].store(1, Ordering::Relaxed);
        let (_, seat) = table.change(me, |seats| barrier::arrive(seats, me, 0)).unwrap();
        if let Some(seat) = seat {
            table.wait_for(me, |seats, _| barrier::look(seats, seat) == barrier::Wait::Over);
        }
        assert_eq!(table.read(), [1, 1], "nobody goes on before the other has come");
    }
    loom::model(|| {
        let table = Table::new(2);
        both(&table, meet, meet);
        assert_eq!(table.guarded(ME, barrier::waiting), 0);
    });
}
