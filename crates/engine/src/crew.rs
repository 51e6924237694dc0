//! Whom to wake: the rules by which sleeping workers and new tasks find each other.
//!
//! A [`Crew`] knows which hands (workers) sleep, not what they do. Its caller keeps it and the queue of tasks under one
//! lock, asks [`wake`](Crew::wake) after every change of the queue, and does what it says after the lock is released.
//!
//! # Rules
//! - A task that comes in wakes at most one hand, and none while one is on its way. The woken hand takes a task and asks
//!   again, so a flood of tiny tasks wakes one hand, and a flood of slow ones wakes all, one after the other.
//! - The hand that went to sleep last is woken first: its caches are warm.
//! - With nobody asleep, a new hand is started, up to the maximum.
//! - When everything queued has to wait for a time, the hand that noticed sleeps only until then: it is the timekeeper.
//!   A hand that learns of an earlier time becomes the timekeeper in its place.
//!
//! # Invariant
//! While a task could be taken and there is a hand asleep or still to be started, some hand is on its way: woken and not
//! yet [up](Crew::is_up), being started, or up and going to ask. While tasks wait for a time and none can be taken, some
//! hand will wake by then, unless all are busy, for each asks when it is done.

use crate::clock::Tick;

/// What the caller has to do so that tasks find hands.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake<H> {
    /// Nothing.
    Nobody,
    /// Wake this hand.
    Hand(H),
    /// Start another hand; say [`Crew::could_not_start`] if that fails.
    Spawn,
}

/// The hands of a pool: how many there are, and which of them sleep.
#[derive(Debug)]
pub struct Crew<H> {
    max: usize,
    live: usize,
    idle: Vec<H>,
    /// The hand that was woken and is not up yet.
    waking: Option<H>,
    /// The earliest time at which some hand will wake by itself.
    timekeeper: Option<Tick>,
}

impl<H: Clone + PartialEq> Crew<H> {
    /// A crew of up to `max` hands, none of which is started.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { max, live: 0, idle: Vec::new(), waking: None, timekeeper: None }
    }

    /// Whom to wake. `ready`: there are tasks that no time holds back. `queued`: there are tasks at all. `due`: the time
    /// for which the task that has just come in has to wait.
    pub fn wake(&mut self, ready: bool, queued: bool, due: Option<Tick>) -> Wake<H> {
        let nobody_minds = self.timekeeper.is_none_or(|earliest| due.is_some_and(|due| due < earliest));
        let wanted = ready || (queued && nobody_minds);
        if !wanted {
            return Wake::Nobody;
        }
        if self.idle.is_empty() {
            if self.live == self.max {
                return Wake::Nobody;
            }
            self.live += 1;
            return Wake::Spawn;
        }
        if self.waking.is_some() {
            return Wake::Nobody;
        }
        self.waking = self.idle.pop();
        self.waking.clone().map_or(Wake::Nobody, Wake::Hand)
    }

    /// Takes everybody who sleeps, to be woken: something has changed that concerns all.
    pub fn take_idle(&mut self) -> Vec<H> {
        std::mem::take(&mut self.idle)
    }

    /// A hand is awake. `alarm` is what [`lie_down`](Self::lie_down) had told it.
    pub fn is_up(&mut self, hand: &H, alarm: Option<Tick>) {
        self.idle.retain(|other| other != hand);
        if self.waking.as_ref() == Some(hand) {
            self.waking = None;
        }
        if alarm.is_some() && self.timekeeper == alarm {
            self.timekeeper = None;
        }
    }

    /// A hand found nothing to do, or nothing before `until`. Returns when it shall wake by itself.
    #[must_use]
    pub fn lie_down(&mut self, hand: &H, until: Option<Tick>) -> Option<Tick> {
        self.idle.push(hand.clone());
        let until = until.filter(|at| self.timekeeper.is_none_or(|earliest| *at < earliest))?;
        self.timekeeper = Some(until);
        Some(until)
    }

    /// A hand is gone for good.
    pub fn dismiss(&mut self) {
        self.live -= 1;
    }

    /// A hand could not be started. Returns how many there are.
    pub fn could_not_start(&mut self) -> usize {
        self.live -= 1;
        self.live
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::scheduler::{Order, Pop, Scheduler};

    /// What one hand of the simulation is doing.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Doing {
        /// It was started, or woke, and will look at the queue; it had set this alarm.
        Rising(Option<Tick>),
        /// It sleeps until it is woken or that time comes.
        Asleep(Option<Tick>),
        /// It runs a task.
        Busy,
    }

    /// A pool in virtual time: the loop that a worker thread goes through, in steps that can come in any order.
    struct Pool {
        now: Tick,
        scheduler: Scheduler<usize>,
        crew: Crew<usize>,
        hands: Vec<Doing>,
        /// Wake-ups decided under the lock and not delivered yet.
        under_way: Vec<Wake<usize>>,
        /// When each task submitted may run.
        due: Vec<Tick>,
        ran: Vec<usize>,
    }

    impl Pool {
        fn new(max: usize) -> Self {
            Self {
                now: Tick::ZERO,
                scheduler: Scheduler::new(),
                crew: Crew::new(max),
                hands: Vec::new(),
                under_way: Vec::new(),
                due: Vec::new(),
                ran: Vec::new(),
            }
        }

        fn ask(&mut self, due: Option<Tick>) {
            let wake = self.crew.wake(self.scheduler.ready_len() > 0, !self.scheduler.is_empty(), due);
            if wake != Wake::Nobody {
                self.under_way.push(wake);
            }
        }

        fn submit(&mut self, delay: u64) {
            let not_before = (delay > 0).then(|| self.now + Duration::from_millis(delay));
            self.scheduler.push(self.due.len(), Order { not_before, ..Order::default() });
            self.due.push(not_before.unwrap_or(self.now));
            self.ask(not_before);
        }

        /// Delivers one of the wake-ups.
        fn deliver(&mut self, which: usize) {
            if self.under_way.is_empty() {
                return;
            }
            let which = which % self.under_way.len();
            match self.under_way.swap_remove(which) {
                Wake::Hand(hand) => self.rise(hand),
                Wake::Spawn => self.hands.push(Doing::Rising(None)),
                Wake::Nobody => {}
            }
        }

        fn rise(&mut self, hand: usize) {
            if let Doing::Asleep(alarm) = self.hands[hand] {
                self.hands[hand] = Doing::Rising(alarm);
            }
        }

        /// One hand does its next step.
        fn step(&mut self, hand: usize) {
            if self.hands.is_empty() {
                return;
            }
            let hand = hand % self.hands.len();
            match self.hands[hand] {
                Doing::Rising(alarm) => {
                    self.crew.is_up(&hand, alarm);
                    self.look(hand);
                }
                Doing::Busy => self.look(hand),
                Doing::Asleep(Some(alarm)) if alarm <= self.now => self.rise(hand),
                Doing::Asleep(_) => {}
            }
        }

        fn look(&mut self, hand: usize) {
            match self.scheduler.pop(self.now) {
                Pop::Ready { task, .. } => {
                    self.ran.push(task);
                    self.hands[hand] = Doing::Busy;
                    self.ask(None);
                }
                Pop::Wait(at) => self.hands[hand] = Doing::Asleep(self.crew.lie_down(&hand, Some(at))),
                Pop::Empty | Pop::Blocked => {
                    self.hands[hand] = Doing::Asleep(self.crew.lie_down(&hand, None));
                }
            }
        }

        /// Lets everybody go on, without anything new, until nobody has anything to do at this time.
        fn settle(&mut self) {
            for round in 0.. {
                assert!(round < 100_000, "the hands never come to rest");
                self.deliver(0);
                let before = (self.hands.clone(), self.ran.len());
                (0..self.hands.len()).for_each(|hand| self.step(hand));
                if self.under_way.is_empty() && before == (self.hands.clone(), self.ran.len()) {
                    break;
                }
            }
        }
    }

    proptest! {
        /// Whatever the order of steps, tasks never wait while a hand sleeps, and delayed ones run when their time comes
        /// without anybody submitting anything.
        #[test]
        fn no_task_is_left_behind(
            max in 1_usize..4,
            steps in prop::collection::vec((0_u8..6, 0_usize..8, 0_u64..4), 1..80),
        ) {
            let mut pool = Pool::new(max);
            for (kind, which, delay) in steps {
                match kind {
                    0 | 1 => pool.submit(delay),
                    2 => pool.deliver(which),
                    3 => pool.now = pool.now + Duration::from_millis(delay),
                    _ => pool.step(which),
                }
                prop_assert!(pool.hands.len() <= max);
            }
            for _ in 0..8 {
                pool.settle();
                let may_run = (0..pool.due.len()).filter(|task| pool.due[*task] <= pool.now);
                pool.ran.sort_unstable();
                prop_assert_eq!(&pool.ran, &may_run.collect::<Vec<_>>());
                pool.now = pool.now + Duration::from_millis(1);
            }
            prop_assert!(pool.scheduler.is_empty());
        }
    }

    #[test]
    fn a_flood_wakes_one_hand_at_a_time() {
        let mut crew = Crew::new(3);
        for _ in 0..3 {
            assert_eq!(crew.wake(true, true, None), Wake::Spawn);
        }
        assert_eq!(crew.wake(true, true, None), Wake::Nobody);
        for hand in 0..3 {
            assert_eq!(crew.lie_down(&hand, None), None);
        }
        assert_eq!(crew.wake(true, true, None), Wake::Hand(2));
        assert_eq!(crew.wake(true, true, None), Wake::Nobody);
        crew.is_up(&2, None);
        assert_eq!(crew.wake(true, true, None), Wake::Hand(1));
    }

    #[test]
    fn a_hand_that_woke_by_itself_does_not_block_the_next_wake_up() {
        let mut crew = Crew::new(2);
        for hand in 0..2 {
            let _ = crew.lie_down(&hand, None);
        }
        assert_eq!(crew.wake(true, true, None), Wake::Hand(1));
        // The hand's own alarm rang before the wake-up reached it; the notification is still under way.
        crew.is_up(&1, None);
        assert_eq!(crew.wake(true, true, None), Wake::Hand(0));
    }

    #[test]
    fn an_earlier_time_changes_the_timekeeper() {
        let mut crew = Crew::new(2);
        let (late, early) = (Tick::from_nanos(20), Tick::from_nanos(10));
        assert_eq!(crew.lie_down(&0, Some(late)), Some(late));
        assert_eq!(crew.lie_down(&1, Some(early)), Some(early));
        assert_eq!(crew.wake(false, true, None), Wake::Nobody);
        assert_eq!(crew.wake(false, true, Some(late)), Wake::Nobody);
        crew.is_up(&1, Some(early));
        assert_eq!(crew.wake(false, true, None), Wake::Hand(0));
    }
}
