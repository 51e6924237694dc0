//! The wheel against an ordered map, in virtual time.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const MILLISECOND: u64 = 1_000_000;

fn at(nanos: u64) -> Tick {
    Tick::from_nanos(nanos)
}

fn expired<T>(wheel: &mut TimerWheel<T>, now: Tick) -> Vec<T> {
    let mut fired = Vec::new();
    wheel.expire(now, &mut fired);
    fired
}

#[test]
fn a_timer_fires_at_its_time_rounded_up_to_the_resolution() {
    let mut wheel = TimerWheel::default();
    wheel.insert(at(5 * MILLISECOND), "on the step");
    wheel.insert(at(5 * MILLISECOND + 1), "just after");
    assert!(expired(&mut wheel, at(5 * MILLISECOND - 1)).is_empty());
    assert_eq!(expired(&mut wheel, at(5 * MILLISECOND)), ["on the step"]);
    assert!(expired(&mut wheel, at(6 * MILLISECOND - 1)).is_empty());
    assert_eq!(expired(&mut wheel, at(6 * MILLISECOND)), ["just after"]);
    assert!(wheel.is_empty());
}

#[test]
fn a_time_that_has_passed_fires_at_once() {
    let mut wheel = TimerWheel::default();
    assert!(expired(&mut wheel, at(90 * MILLISECOND)).is_empty());
    wheel.insert(at(50 * MILLISECOND), 1);
    wheel.insert(Tick::ZERO, 2);
    assert!(wheel.next().is_some_and(|next| next <= at(90 * MILLISECOND)));
    assert_eq!(expired(&mut wheel, at(90 * MILLISECOND)), [1, 2]);
    assert_eq!(wheel.next(), None);
}

#[test]
fn a_stale_key_cancels_nothing() {
    let mut wheel = TimerWheel::default();
    let fired = wheel.insert(at(1), 1);
    expired(&mut wheel, at(MILLISECOND));
    let reused = wheel.insert(at(2 * MILLISECOND), 2);
    assert_eq!(wheel.cancel(fired), None);
    assert_eq!(wheel.cancel(reused), Some(2));
    assert_eq!(wheel.cancel(reused), None);
    assert_eq!((wheel.len(), wheel.next()), (0, None));
}

#[test]
fn what_is_looked_for_comes_out_and_the_rest_fires() {
    let mut wheel = TimerWheel::default();
    let keys: Vec<_> =
        (0..1000).map(|number| wheel.insert(at(number * number * MILLISECOND), number)).collect();
    assert_eq!(expired(&mut wheel, at(9 * MILLISECOND)), [0, 1, 2, 3]);
    let mut odd = wheel.extract(|number| number % 2 == 1);
    odd.sort_unstable();
    assert!(odd.into_iter().eq((5..1000).step_by(2)));
    assert_eq!(wheel.cancel(keys[5]), None);
    assert_eq!(wheel.len(), 498);
    assert!(wheel.extract(|number| *number < 4).is_empty());
    assert!(expired(&mut wheel, Tick::NEVER).into_iter().eq((4..1000).step_by(2)));
}

#[test]
fn never_is_never() {
    let mut wheel = TimerWheel::default();
    let key = wheel.insert(Tick::NEVER, ());
    assert!(expired(&mut wheel, at(u64::MAX - 1)).is_empty());
    assert_eq!(wheel.next(), Some(Tick::NEVER));
    assert_eq!(wheel.cancel(key), Some(()));
}

#[test]
fn each_place_of_the_finest_wheel_reaches_the_end_of_time() {
    let mut wheel = TimerWheel::new(Duration::ZERO);
    let times: Vec<u64> = (0..64).map(|bit| u64::MAX >> bit).rev().collect();
    for time in &times {
        wheel.insert(at(*time), *time);
    }
    assert_eq!(expired(&mut wheel, Tick::NEVER), times);
}

#[test]
fn a_timer_stays_small() {
    assert!(size_of::<Node<u64>>() <= 48);
    assert!(size_of::<Node<[u8; 64]>>() <= 48 + 64);
}

#[test]
fn a_million_timers_fire_in_order() {
    let mut wheel = TimerWheel::default();
    // A multiplicative generator of period 2³²: every time once, in no order.
    let mut time = 1_u64;
    let keys: Vec<TimerKey> = (0..1_000_000)
        .map(|_| {
            time = time * 0xADB4_A92D % (1 << 32);
            wheel.insert(at(time * 1000), time)
        })
        .collect();
    assert!(keys.iter().step_by(2).all(|key| wheel.cancel(*key).is_some()));
    let fired = expired(&mut wheel, at(u64::MAX - 1));
    assert_eq!(fired.len(), 500_000);
    assert!(fired.is_sorted_by_key(|time| (time * 1000).div_ceil(MILLISECOND)));
}

/// The rules, over an ordered map.
struct Model {
    resolution: u64,
    now: u64,
    inserted: u64,
    /// By step and number of insertion: the time asked for, and the key.
    timers: BTreeMap<(u64, u64), (Tick, TimerKey)>,
}

#[derive(Debug, Clone)]
enum Call {
    Insert(u64),
    Cancel(usize),
    Pass(u64),
    WaitForNext,
}

struct Pair {
    wheel: TimerWheel<u64>,
    model: Model,
    stale: Vec<TimerKey>,
}

impl Pair {
    fn new(resolution: u64) -> Self {
        let model = Model { resolution, now: 0, inserted: 0, timers: BTreeMap::new() };
        Self { wheel: TimerWheel::new(Duration::from_nanos(resolution)), model, stale: Vec::new() }
    }

    fn run(&mut self, call: &Call) {
        match call {
            Call::Insert(nanos) => self.insert(at(*nanos)),
            Call::Cancel(which) => self.cancel(*which),
            Call::Pass(nanos) => drop(self.expire(self.model.now.saturating_add(*nanos).min(u64::MAX - 1))),
            Call::WaitForNext => self.wait_for_next(),
        }
        assert_eq!(self.wheel.len(), self.model.timers.len());
        assert_eq!(self.wheel.is_empty(), self.model.timers.is_empty());
        self.check_next();
    }

    fn insert(&mut self, time: Tick) {
        let Model { resolution, now, inserted, timers } = &mut self.model;
        let key = self.wheel.insert(time, *inserted);
        // One that comes too late queues behind those that did so before.
        let step = time.as_nanos().div_ceil(*resolution).max(*now / *resolution);
        timers.insert((step, *inserted), (time, key));
        *inserted += 1;
    }

    fn cancel(&mut self, which: usize) {
        if let Some(which) = which.checked_rem(self.model.timers.len()) {
            let order = *self.model.timers.keys().nth(which).unwrap();
            let (_, key) = self.model.timers.remove(&order).unwrap();
            assert_eq!(self.wheel.cancel(key), Some(order.1));
            self.stale.push(key);
        }
        for key in &self.stale {
            assert_eq!(self.wheel.cancel(*key), None);
        }
    }

    /// Fires what is due at `now`, and says how many.
    fn expire(&mut self, now: u64) -> usize {
        self.model.now = now;
        let later = self.model.timers.split_off(&(now / self.model.resolution + 1, 0));
        let due = std::mem::replace(&mut self.model.timers, later);
        let expected: Vec<u64> = due.keys().map(|(_, number)| *number).collect();
        assert_eq!(expired(&mut self.wheel, at(now)), expected);
        assert!(due.values().all(|(time, _)| *time <= at(now)), "early");
        let resolution = Duration::from_nanos(self.model.resolution);
        assert!(self.model.timers.values().all(|(time, _)| *time + resolution > at(now)), "late");
        self.stale.extend(due.values().map(|(_, key)| *key));
        due.len()
    }

    fn check_next(&self) {
        let earliest =
            self.model.timers.keys().next().map(|(step, _)| step.saturating_mul(self.model.resolution));
        assert_eq!(self.wheel.next().is_some(), earliest.is_some());
        assert!(self.wheel.next() <= earliest.map(at));
    }

    /// Waking at each tick the wheel names reaches the earliest timer soon.
    fn wait_for_next(&mut self) {
        for _ in 0..LEVELS {
            match self.wheel.next() {
                None | Some(Tick::NEVER) => return,
                Some(next) => {
                    if self.expire(next.as_nanos().max(self.model.now)) > 0 {
                        return;
                    }
                }
            }
        }
        panic!("no timer after {LEVELS} wake-ups");
    }
}

/// Every magnitude equally often.
fn any_time() -> impl Strategy<Value = u64> {
    prop_oneof![9 => (any::<u64>(), 0..64_u32).prop_map(|(time, bits)| time >> bits), 1 => Just(u64::MAX)]
}

fn any_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        10 => any_time().prop_map(Call::Insert),
        4 => any::<usize>().prop_map(Call::Cancel),
        // Beyond 2⁵⁰ the first jump would leave nothing for the second.
        4 => (0..1_u64 << 50, 0..50_u32).prop_map(|(nanos, bits)| Call::Pass(nanos >> bits)),
        4 => Just(Call::WaitForNext),
    ]
}

proptest! {
    #[test]
    fn every_answer_is_the_one_of_the_ordered_map(
        resolution in prop_oneof![Just(1), Just(MILLISECOND), 1..10_000_u64],
        calls in proptest::collection::vec(any_call(), 1..150),
    ) {
        let mut pair = Pair::new(resolution);
        for call in &calls {
            pair.run(call);
        }
        pair.expire(u64::MAX - 1);
    }

    #[test]
    fn close_timers_and_small_steps_agree_too(
        calls in proptest::collection::vec((0..5000_u64, 0..40_u64, any::<usize>()), 1..200),
    ) {
        let mut pair = Pair::new(1);
        for (ahead, step, which) in calls {
            pair.run(&Call::Insert(pair.model.now + ahead));
            pair.run(&Call::Insert(pair.model.now + ahead / 64));
            pair.run(&Call::Pass(step));
            pair.run(&if which % 3 == 0 { Call::WaitForNext } else { Call::Cancel(which) });
        }
        pair.expire(u64::MAX - 1);
    }
}
