use loom::thread;

use super::sleeper::Sleeper;
use super::*;
use crate::prim::Arc;
use crate::prim::atomic::AtomicUsize;

fn wake_all(wakes: Vec<Wake<Sleeper>>) {
    for wake in wakes {
        let (Wake::Called(_, sleeper) | Wake::Served(sleeper)) = wake;
        sleeper.wake();
    }
}

pub(crate) fn take(permits: &Permits<Sleeper>) {
    if permits.try_take() {
        return;
    }
    let sleeper = Sleeper::new();
    if let Some(ticket) = permits.take_or_join(sleeper.clone()) {
        while !permits.poll(ticket) {
            sleeper.sleep();
        }
    }
}

pub(crate) fn give(permits: &Permits<Sleeper>) {
    match permits.try_give() {
        Some(given) => given.unwrap(),
        None => wake_all(permits.give(1, |_| ()).unwrap()),
    }
}

/// A lost wake-up is a deadlock, which loom reports; two holders at a time are a wrong sum.
#[test]
fn loom_one_permit_excludes_and_nobody_sleeps_for_ever() {
    loom::model(|| {
        let shared = Arc::new((Permits::new(1, 1), AtomicUsize::new(0)));
        let work = |shared: &(Permits<Sleeper>, AtomicUsize)| {
            take(&shared.0);
            let seen = shared.1.load(Ordering::Relaxed);
            shared.1.store(seen + 1, Ordering::Relaxed);
            give(&shared.0);
        };
        let others: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || work(&shared))
            })
            .collect();
        work(&shared);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(shared.1.load(Ordering::Relaxed), 3);
        assert_eq!(shared.0.free(), 1);
    });
}

/// One waiter gives up at any moment; the permit reaches the other all the same.
#[test]
fn loom_who_gives_up_never_takes_a_wake_up_along() {
    loom::model(|| {
        let permits = Arc::new(Permits::new(0, 1));
        let patient = {
            let permits = Arc::clone(&permits);
            thread::spawn(move || take(&permits))
        };
        let hasty = {
            let permits = Arc::clone(&permits);
            thread::spawn(move || {
                let Some(ticket) = permits.take_or_join(Sleeper::new()) else { return give(&permits) };
                match permits.leave(ticket) {
                    GaveUp::Left(wakes) => wake_all(wakes),
                    GaveUp::Holds => give(&permits),
                }
            })
        };
        give(&permits);
        hasty.join().unwrap();
        patient.join().unwrap();
        assert_eq!(permits.free(), 0);
    });
}

/// One comes in his turn, behind whoever waits; two permits come back, and nobody is left asleep.
#[test]
fn loom_who_comes_in_his_turn_gets_there() {
    loom::model(|| {
        let permits = Arc::new(Permits::new(0, 2));
        let others = [true, false].map(|is_polite| {
            let permits = Arc::clone(&permits);
            thread::spawn(move || if is_polite { take_in_turn(&permits) } else { take(&permits) })
        });
        give(&permits);
        give(&permits);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(permits.free(), 0);
    });
}

fn take_in_turn(permits: &Permits<Sleeper>) {
    if permits.try_take_in_turn() {
        return;
    }
    let sleeper = Sleeper::new();
    if let Some((ticket, wakes)) = permits.take_in_turn_or_join(sleeper.clone()) {
        wake_all(wakes);
        while !permits.poll(ticket) {
            sleeper.sleep();
        }
    }
}
