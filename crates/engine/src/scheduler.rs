//! The scheduler: which task starts next, and when.
//!
//! Tasks wait in lanes, one before each gate and one for those without a gate. [`Scheduler::pop`] hands over
//! the best task of all whose gate is open: higher priority first, within one priority the older first.
//!
//! **Guarantees.**
//! - Every task pushed is popped or drained exactly once.
//! - A gate gives a token and a slot at the moment of the hand-over: its rate bounds starts, not pushes.
//! - A closed gate holds up nobody but its own tasks; a delayed task keeps the age of its push.
//! - [`Pop::Wait`] is exact: nothing becomes ready before that tick, something does at it (unless something
//!   is pushed, finished or drained meanwhile).
//! - Time never goes back: a `now` earlier than one already seen (two threads that read the clock and came in
//!   the other order) counts as the later one.
//!
//! **Cost.** A task without priority, gate and delay goes through a ring buffer: no allocation, no search.
//! Another costs O(log n) in its lane, and a gated one O(log g) in the number of gates that have tasks.
//!
//! **Invariants.** A gate stands in `ready` under the rank of its best task exactly if that task could start
//! now, and in `alarms` under the next tick at which that may change by the mere passing of time.
//! `settle` restores both after every change to a gate.
//!
//! **Not here.** No thread, no lock, no waiting, no retries: the owner serialises the calls and does what the
//! answer says. Priorities are strict; a stream of urgent tasks that never ends starves the rest.

use std::collections::BTreeSet;

use crate::clock::Tick;
use crate::gate::{Gate, GateId, Limits, Opens};
use crate::lane::{Lane, Rank};

#[cfg(test)]
mod tests;

/// Where a task stands in the queue; by default at the end, free to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Order {
    /// Higher goes first.
    pub priority: i32,
    /// The gate it has to pass. A gate that is gone holds nothing back.
    pub gate: Option<GateId>,
    /// When it may start at the earliest.
    pub not_before: Option<Tick>,
    /// The age an earlier push gave it, so that a retried task stays older than newer ones. An age that was
    /// never given counts as none.
    pub age: Option<u64>,
}

/// What [`Scheduler::pop`] found.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Pop<T> {
    /// Start this task now; if it has a gate, say [`Scheduler::finished`] when it is over.
    Ready {
        /// The task.
        task: T,
        /// Its age, to be given back in [`Order::age`] if it is pushed again.
        age: u64,
    },
    /// Nothing can start before this tick, something can then.
    Wait(Tick),
    /// There are tasks, all behind gates whose slots are taken: [`Scheduler::finished`] frees them.
    Blocked,
    /// There are no tasks.
    Empty,
}

/// Tasks of type `T` that wait for their turn.
#[derive(Debug)]
pub struct Scheduler<T> {
    /// The latest tick seen.
    now: Tick,
    next_age: u64,
    len: usize,
    delayed: usize,
    ungated: Lane<T>,
    gates: Vec<Slot<T>>,
    /// Slots of `gates` without a gate.
    vacant: Vec<u32>,
    ready: BTreeSet<(Rank, u32)>,
    alarms: BTreeSet<(Tick, u32)>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    gated: Option<Gated<T>>,
}

/// A gate, the tasks before it, and where it stands in the scheduler's two indices.
#[derive(Debug)]
struct Gated<T> {
    gate: Gate,
    lane: Lane<T>,
    removed: bool,
    rank: Option<Rank>,
    alarm: Option<Tick>,
}

impl<T> Default for Scheduler<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Scheduler<T> {
    /// A scheduler without tasks and gates. Allocates nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            now: Tick::ZERO,
            next_age: 0,
            len: 0,
            delayed: 0,
            ungated: Lane::new(),
            gates: Vec::new(),
            vacant: Vec::new(),
            ready: BTreeSet::new(),
            alarms: BTreeSet::new(),
        }
    }

    /// Adds a gate with its whole burst and all its slots free.
    pub fn add_gate(&mut self, limits: Limits) -> GateId {
        let gated =
            Gated { gate: Gate::new(limits), lane: Lane::new(), removed: false, rank: None, alarm: None };
        let index = self.vacant.pop().unwrap_or_else(|| self.new_slot());
        let slot = &mut self.gates[index as usize];
        slot.gated = Some(gated);
        GateId { index, generation: slot.generation }
    }

    /// Removes a gate: it limits the tasks before it to the last, then it is forgotten.
    ///
    /// A task pushed to a gate that was forgotten starts without limit, so keep a gate while a task that may
    /// be retried names it.
    pub fn remove_gate(&mut self, gate: GateId) {
        if let Some(gated) = self.gated(gate) {
            gated.removed = true;
            self.forget_if_done(gate.index);
        }
    }

    /// Adds a task and returns its age: greater than that of every task before, unless `order` has one.
    pub fn push(&mut self, task: T, order: Order) -> u64 {
        let age = self.age(order.age);
        let rank = Rank::new(order.priority, age);
        let due = order.not_before.filter(|due| *due > self.now);
        self.len += 1;
        self.delayed += usize::from(due.is_some());
        let gate = order.gate.filter(|gate| self.gated(*gate).is_some());
        let lane = match gate.and_then(|gate| self.gated(gate)) {
            Some(gated) => &mut gated.lane,
            None => &mut self.ungated,
        };
        match due {
            Some(due) => lane.push_delayed(due, rank, task),
            None => lane.push(rank, task),
        }
        if let Some(gate) = gate {
            self.settle(gate.index);
        }
        age
    }

    /// Takes the task that should start at `now`, with a token and a slot of its gate; else says when to ask.
    pub fn pop(&mut self, now: Tick) -> Pop<T> {
        self.advance(now);
        let gated = self.ready.first().copied();
        match (self.ungated.first(), gated) {
            (None, None) => self.nothing_ready(),
            (Some(rank), Some((other, gate))) if other < rank => self.pop_gated(gate),
            (None, Some((_, gate))) => self.pop_gated(gate),
            (Some(_), _) => {
                let popped = self.ungated.pop();
                self.hand_over(popped)
            }
        }
    }

    /// Gives back the slot of a task that passed `gate`: once for each such task, whatever its outcome.
    pub fn finished(&mut self, gate: GateId) {
        if let Some(gated) = self.gated(gate) {
            gated.gate.leave();
            self.settle(gate.index);
        }
    }

    /// Takes every task, ready or delayed, the oldest first. Gates keep their tokens and slots as they are.
    pub fn drain(&mut self) -> Vec<T> {
        let mut tasks = Vec::with_capacity(self.len);
        self.ungated.drain_into(&mut tasks);
        for gated in self.gates.iter_mut().filter_map(|slot| slot.gated.as_mut()) {
            gated.lane.drain_into(&mut tasks);
        }
        self.len = 0;
        self.delayed = 0;
        for index in (0_u32..).take(self.gates.len()) {
            self.settle(index);
            self.forget_if_done(index);
        }
        tasks.sort_by_key(|(age, _)| *age);
        tasks.into_iter().map(|(_, task)| task).collect()
    }

    /// How many tasks there are, ready, delayed and held by gates.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no tasks at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many tasks are not delayed, as of the latest [`pop`](Self::pop): free to start or held by their
    /// gates. A delay that ends before a closed gate is noticed when the gate opens.
    #[must_use]
    pub fn ready_len(&self) -> usize {
        self.len - self.delayed
    }

    /// Whether a task waits for more than a free hand: for its delay to pass, or for its gate.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        let before_gate = |slot: &Slot<T>| slot.gated.as_ref().is_some_and(|gated| !gated.lane.is_empty());
        self.delayed > 0 || self.gates.iter().any(before_gate)
    }

    fn age(&mut self, earlier: Option<u64>) -> u64 {
        earlier.filter(|age| *age < self.next_age).unwrap_or_else(|| {
            self.next_age += 1;
            self.next_age - 1
        })
    }

    fn gated(&mut self, id: GateId) -> Option<&mut Gated<T>> {
        let slot = self.gates.get_mut(id.index as usize)?;
        if slot.generation == id.generation { slot.gated.as_mut() } else { None }
    }

    fn new_slot(&mut self) -> u32 {
        let index = u32::try_from(self.gates.len()).expect("fewer than 2³² gates");
        self.gates.push(Slot { generation: 0, gated: None });
        index
    }

    /// Lets time pass: delayed tasks become ready, gates open.
    fn advance(&mut self, now: Tick) {
        // Never itself is never reached: what waits for it stays where it is.
        self.now = self.now.max(now.min(LAST));
        self.delayed -= self.ungated.admit(self.now);
        while let Some((at, gate)) = self.alarms.first().copied()
            && at <= self.now
        {
            self.settle(gate);
        }
    }

    fn pop_gated(&mut self, index: u32) -> Pop<T> {
        let now = self.now;
        let popped = self.gates[index as usize].gated.as_mut().and_then(|gated| {
            gated.gate.enter(now);
            gated.lane.pop()
        });
        self.settle(index);
        self.forget_if_done(index);
        self.hand_over(popped)
    }

    fn hand_over(&mut self, popped: Option<(u64, T)>) -> Pop<T> {
        let (age, task) = popped.expect("a lane with a first task has one to pop");
        self.len -= 1;
        Pop::Ready { task, age }
    }

    fn nothing_ready(&self) -> Pop<T> {
        let alarm = self.alarms.first().map(|(at, _)| *at);
        match self.ungated.due().into_iter().chain(alarm).min() {
            Some(at) => Pop::Wait(at),
            None if self.is_empty() => Pop::Empty,
            None => Pop::Blocked,
        }
    }

    /// Puts a gate where it belongs in `ready` and `alarms`. The alarm it leaves behind is later than now.
    fn settle(&mut self, index: u32) {
        let Some(gated) = &mut self.gates[index as usize].gated else { return };
        self.delayed -= gated.lane.admit(self.now);
        let (rank, alarm) = gated.turn(self.now);
        reindex(&mut self.ready, index, &mut gated.rank, rank);
        reindex(&mut self.alarms, index, &mut gated.alarm, alarm);
    }

    fn forget_if_done(&mut self, index: u32) {
        let slot = &mut self.gates[index as usize];
        if slot.gated.as_ref().is_some_and(|gated| gated.removed && gated.lane.is_empty()) {
            slot.gated = None;
            slot.generation = slot.generation.wrapping_add(1);
            self.vacant.push(index);
        }
    }
}

/// The last tick before [`Tick::NEVER`].
const LAST: Tick = Tick::from_nanos(u64::MAX - 1);

impl<T> Gated<T> {
    /// The rank under which the gate's best task could start now, and when that may change by itself.
    fn turn(&self, now: Tick) -> (Option<Rank>, Option<Tick>) {
        match (self.gate.opens(now), self.lane.first()) {
            (Opens::OnFinish, _) => (None, None),
            (Opens::Now, first) => (first, self.lane.due()),
            (Opens::At(at), Some(_)) => (None, Some(at)),
            (Opens::At(at), None) => (None, self.lane.due().map(|due| due.max(at))),
        }
    }
}

fn reindex<K: Ord + Copy>(index: &mut BTreeSet<(K, u32)>, gate: u32, old: &mut Option<K>, new: Option<K>) {
    if *old != new {
        if let Some(key) = old.take() {
            index.remove(&(key, gate));
        }
        if let Some(key) = new {
            index.insert((key, gate));
        }
        *old = new;
    }
}
