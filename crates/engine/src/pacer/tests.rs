use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::{Clock, VirtualClock};

/// Those who wait, under a clock that jumps to the next time that somebody means to look at.
struct World {
    pacer: Pacer<usize>,
    clock: VirtualClock,
    /// By number: the ticket and when he looks, of those who wait.
    waiting: Vec<Option<(Ticket, Tick)>>,
    passed: Vec<(usize, Tick)>,
}

impl World {
    fn new(rate: &str) -> Self {
        let pacer = Pacer::new(rate.parse().unwrap());
        Self { pacer, clock: VirtualClock::default(), waiting: Vec::new(), passed: Vec::new() }
    }

    fn wake(&mut self, wakes: Vec<usize>) {
        for who in wakes {
            let (_, until) = self.waiting[who].as_mut().expect("who is woken waits");
            *until = self.clock.now();
        }
    }

    fn come(&mut self) -> usize {
        let (who, now) = (self.waiting.len(), self.clock.now());
        self.waiting.push(None);
        let (turn, wakes) = self.pacer.enter(now, who);
        match turn {
            Turn::Passes => self.passed.push((who, now)),
            Turn::Waits(ticket, until) => self.waiting[who] = Some((ticket, until)),
        }
        self.wake(wakes);
        who
    }

    fn look(&mut self, who: usize) {
        let Some((ticket, _)) = self.waiting[who] else { return };
        let now = self.clock.now();
        let (turn, wakes) = self.pacer.poll(now, ticket);
        self.waiting[who] = match turn {
            Turn::Passes => {
                self.passed.push((who, now));
                None
            }
            Turn::Waits(ticket, until) => Some((ticket, until)),
        };
        self.wake(wakes);
    }

    fn give_up(&mut self, who: usize) {
        let Some((ticket, _)) = self.waiting[who].take() else { return };
        let now = self.clock.now();
        let (has_passed, wakes) = self.pacer.leave(now, ticket);
        self.wake(wakes);
        if has_passed {
            let wakes = self.pacer.give_back(now, ticket);
            self.wake(wakes);
        }
    }

    /// Who looks next, and when.
    fn due(&self) -> Option<(usize, Tick)> {
        let due = |(who, place): (usize, &Option<(Ticket, Tick)>)| place.map(|(_, until)| (who, until));
        self.waiting.iter().enumerate().filter_map(due).min_by_key(|(_, until)| *until)
    }

    /// Everybody who means to look until then looks, each at his time.
    fn run(&mut self, until: Tick) {
        while let Some((who, at)) = self.due().filter(|(_, at)| *at <= until) {
            self.clock.advance(at - self.clock.now());
            self.look(who);
        }
        self.clock.advance(until - self.clock.now());
    }

    fn millis(&self) -> Vec<(usize, u64)> {
        self.passed.iter().map(|(who, at)| (*who, at.as_nanos() / 1_000_000)).collect()
    }
}

const SECOND: Tick = Tick::from_nanos(1_000_000_000);

#[test]
fn those_who_wait_pass_in_order_and_exactly_on_time() {
    let mut world = World::new("100/s");
    for _ in 0..5 {
        world.come();
    }
    world.run(SECOND);
    assert_eq!(world.millis(), [(0, 0), (1, 10), (2, 20), (3, 30), (4, 40)]);
}

#[test]
fn a_rate_does_not_drift() {
    let mut world = World::new("3/s burst 2");
    for _ in 0..3002 {
        world.come();
    }
    world.run(Tick::from_nanos(2000 * SECOND.as_nanos()));
    assert_eq!(world.passed.len(), 3002);
    assert_eq!(world.passed[3001].1, Tick::from_nanos(1000 * SECOND.as_nanos()));
}

#[test]
fn a_burst_passes_at_once_and_comes_back_with_time() {
    let mut world = World::new("100/s burst 3");
    for _ in 0..4 {
        world.come();
    }
    world.run(SECOND);
    for _ in 0..4 {
        world.come();
    }
    world.run(Tick::from_nanos(2 * SECOND.as_nanos()));
    let expected = [(0, 0), (1, 0), (2, 0), (3, 10), (4, 1000), (5, 1000), (6, 1000), (7, 1010)];
    assert_eq!(world.millis(), expected);
}

#[test]
fn who_gives_up_lets_those_behind_him_move_up() {
    let mut world = World::new("100/s");
    let everybody: Vec<_> = (0..5).map(|_| world.come()).collect();
    world.give_up(everybody[1]);
    world.give_up(everybody[3]);
    world.run(SECOND);
    assert_eq!(world.millis(), [(0, 0), (2, 10), (4, 20)]);
}

#[test]
fn one_who_is_late_holds_up_nobody() {
    let mut world = World::new("100/s");
    let everybody: Vec<_> = (0..3).map(|_| world.come()).collect();
    world.clock.advance(Duration::from_millis(20));
    world.look(everybody[2]);
    assert_eq!(world.millis(), [(0, 0)], "the rate was not used in time, so it lets one pass now");
    world.run(SECOND);
    assert_eq!(world.millis(), [(0, 0), (1, 20), (2, 30)]);
}

#[test]
fn a_call_that_is_given_back_is_the_next_ones() {
    let pacer = Pacer::new("100/s".parse().unwrap());
    let at = |millis: u64| Tick::from_nanos(millis * 1_000_000);
    assert!(pacer.try_pass(at(0)).0);
    let (Turn::Waits(first, _), _) = pacer.enter(at(0), "a") else { panic!() };
    let (Turn::Waits(second, _), _) = pacer.enter(at(0), "b") else { panic!() };
    assert_eq!(pacer.try_pass(at(10)), (false, vec!["a"]));
    assert_eq!(pacer.leave(at(11), first), (true, vec![]));
    assert_eq!(pacer.give_back(at(11), first), ["b"]);
    assert_eq!(pacer.poll(at(11), second), (Turn::Passes, vec![]));
    assert_eq!(pacer.give_back(at(12), first), [""; 0], "only once");
    assert_eq!(pacer.next(), at(21));
}

proptest! {
    /// Whoever comes and gives up, those who stay pass in order, no faster than the rate allows and no later.
    #[test]
    fn nobody_waits_longer_than_the_rate_demands(
        calls in 1_u32..50,
        burst in 1_u32..4,
        steps in prop::collection::vec((0_u8..3, 0_usize..40, 0_u64..60), 1..120),
    ) {
        let mut world = World::new(&format!("{calls}/s burst {burst}"));
        // Exactly what happens if calls that are given up are never made: a line without those.
        let mut gave_up = Vec::new();
        let mut came = Vec::new();
        for (step, who, millis) in steps {
            match step {
                0 => {
                    came.push(world.clock.now());
                    world.come();
                }
                1 if who < world.waiting.len() && world.waiting[who].is_some() => {
                    world.give_up(who);
                    gave_up.push(who);
                }
                _ => world.run(world.clock.now() + Duration::from_millis(millis)),
            }
        }
        world.run(Tick::from_nanos(1000 * SECOND.as_nanos()));
        let order: Vec<_> = world.passed.iter().map(|(who, _)| *who).collect();
        let mut expected: Vec<_> = (0..came.len()).filter(|who| !gave_up.contains(who)).collect();
        expected.sort_unstable();
        prop_assert_eq!(&order, &expected);
        let mut alone = Gcra::new(format!("{calls}/s burst {burst}").parse().unwrap());
        for (who, passed) in world.passed {
            // Nobody passes before those who were there before him, given up or not at that time.
            let earliest = came[who].max(alone.next());
            prop_assert!(passed >= earliest);
            prop_assert_eq!(alone.try_acquire(passed), Ok(()));
            prop_assert!(passed <= earliest, "{} waited until {:?} instead of {:?}", who, passed, earliest);
        }
    }
}
