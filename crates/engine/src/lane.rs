//! A lane: the tasks that wait at one gate, in the order in which they should pass.
//!
//! **Invariants.** `in_order` holds tasks of priority 0 with ascending ages, so its front is its best.
//! Whatever does not fit there (another priority, a task older than the last one) is in `sorted`. The best
//! ready task is therefore the better of the two heads, and the common case costs what a ring buffer costs.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

use crate::clock::Tick;

/// The place of a task in the order; the lesser passes first: higher priority, then lower age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    priority: Reverse<i32>,
    pub(crate) age: u64,
}

impl Rank {
    pub(crate) fn new(priority: i32, age: u64) -> Self {
        Self { priority: Reverse(priority), age }
    }
}

/// How many tasks' worth of memory an empty lane keeps: enough that a lane that is often empty does not
/// allocate.
const KEPT: usize = 16_384;

/// A queue of ready tasks, and those not due yet.
#[derive(Debug)]
pub(crate) struct Lane<T> {
    in_order: VecDeque<(u64, T)>,
    sorted: BinaryHeap<Keyed<Rank, T>>,
    delayed: BinaryHeap<Keyed<(Tick, Rank), T>>,
}

impl<T> Lane<T> {
    pub(crate) fn new() -> Self {
        Self { in_order: VecDeque::new(), sorted: BinaryHeap::new(), delayed: BinaryHeap::new() }
    }

    pub(crate) fn push(&mut self, rank: Rank, task: T) {
        let fits = rank.priority.0 == 0 && self.in_order.back().is_none_or(|(age, _)| *age < rank.age);
        if fits {
            self.in_order.push_back((rank.age, task));
        } else {
            self.sorted.push(Keyed { key: rank, task });
        }
    }

    pub(crate) fn push_delayed(&mut self, due: Tick, rank: Rank, task: T) {
        self.delayed.push(Keyed { key: (due, rank), task });
    }

    /// Makes the delayed tasks ready that are due, and says how many.
    pub(crate) fn admit(&mut self, now: Tick) -> usize {
        let before = self.delayed.len();
        while let Some(next) = self.delayed.peek()
            && next.key.0 <= now
            && let Some(Keyed { key: (_, rank), task }) = self.delayed.pop()
        {
            self.push(rank, task);
        }
        before - self.delayed.len()
    }

    /// When the next delayed task becomes ready.
    pub(crate) fn due(&self) -> Option<Tick> {
        self.delayed.peek().map(|next| next.key.0)
    }

    /// The rank of the best ready task.
    pub(crate) fn first(&self) -> Option<Rank> {
        let in_order = self.in_order.front().map(|(age, _)| Rank::new(0, *age));
        let sorted = self.sorted.peek().map(|entry| entry.key);
        match (in_order, sorted) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Takes the best ready task.
    pub(crate) fn pop(&mut self) -> Option<(u64, T)> {
        let sorted = self.sorted.peek().map(|entry| entry.key);
        let in_order = self.in_order.front().map(|(age, _)| Rank::new(0, *age));
        let popped = if in_order.is_some_and(|rank| sorted.is_none_or(|other| rank < other)) {
            self.in_order.pop_front()
        } else {
            self.sorted.pop().map(|entry| (entry.key.age, entry.task))
        };
        self.shrink_if_empty();
        popped
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.in_order.is_empty() && self.sorted.is_empty() && self.delayed.is_empty()
    }

    /// Moves every task, ready or not, to `tasks`, in no order.
    pub(crate) fn drain_into(&mut self, tasks: &mut Vec<(u64, T)>) {
        tasks.extend(self.in_order.drain(..));
        tasks.extend(self.sorted.drain().map(|entry| (entry.key.age, entry.task)));
        tasks.extend(self.delayed.drain().map(|entry| (entry.key.1.age, entry.task)));
        self.shrink_if_empty();
    }

    /// Gives back the memory of a rush once it is over.
    fn shrink_if_empty(&mut self) {
        if self.is_empty() {
            self.in_order.shrink_to(KEPT);
            self.sorted.shrink_to(KEPT);
            self.delayed.shrink_to(KEPT);
        }
    }
}

/// A task in a heap whose top has the least key.
#[derive(Debug)]
struct Keyed<K, T> {
    key: K,
    task: T,
}

impl<K: Ord, T> Ord for Keyed<K, T> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key.cmp(&self.key)
    }
}

impl<K: Ord, T> PartialOrd for Keyed<K, T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Ord, T> PartialEq for Keyed<K, T> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<K: Ord, T> Eq for Keyed<K, T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_rush_is_given_back() {
        let mut lane = Lane::new();
        for age in 0..100_000 {
            lane.push(Rank::new(i32::from(age % 2 == 0), age), age);
            lane.push_delayed(Tick::NEVER, Rank::new(0, age), age);
        }
        lane.drain_into(&mut Vec::new());
        assert!(lane.delayed.capacity() <= KEPT && lane.sorted.capacity() <= KEPT);
        for age in 0..100_000 {
            lane.push(Rank::new(0, age), age);
        }
        assert_eq!(std::iter::from_fn(|| lane.pop()).count(), 100_000);
        assert!(lane.in_order.capacity() <= KEPT);
    }
}
