use loom::thread;

use super::*;
use crate::permits::sleeper;
use crate::prim::Arc;

const DUE: Tick = Tick::from_nanos(1_000_000_000);

fn wake(wakes: Vec<sleeper::Sleeper>) {
    wakes.into_iter().for_each(|sleeper| sleeper.wake());
}

/// The second in line means to sleep longer than he needs once the first has given up; he is told, whenever that is.
#[test]
fn loom_who_gets_to_the_front_is_told() {
    loom::model(|| {
        let pacer = Arc::new(Pacer::new("1/s".parse().unwrap()));
        assert!(pacer.try_pass(Tick::ZERO).0);
        let (Turn::Waits(first, _), _) = pacer.enter(Tick::ZERO, sleeper::Sleeper::new()) else { panic!() };
        let second = {
            let pacer = Arc::clone(&pacer);
            thread::spawn(move || {
                let sleeper = sleeper::Sleeper::new();
                let (mut turn, _) = pacer.enter(Tick::ZERO, sleeper.clone());
                while let Turn::Waits(ticket, until) = turn {
                    // His alarm rings when the first call is due, and not later: that would be too late.
                    let now = if until <= DUE { until } else { Tick::ZERO };
                    if until > DUE {
                        sleeper.sleep();
                    }
                    let (next, wakes) = pacer.poll(now, ticket);
                    wake(wakes);
                    turn = next;
                }
            })
        };
        let (has_passed, wakes) = pacer.leave(Tick::ZERO, first);
        wake(wakes);
        assert!(!has_passed);
        second.join().unwrap();
        assert_eq!(pacer.waiting(), 0);
    });
}
