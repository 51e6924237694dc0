//! A timer wheel: very many timers, most of which are cancelled before they fire.
//!
//! **Guarantees.** [`TimerWheel::insert`] and [`TimerWheel::cancel`] cost the same for one timer and for a
//! million. A timer never fires early, and late by less than one resolution, whenever [`TimerWheel::expire`]
//! is called in time. Timers fire in the order of their times rounded up to the resolution; with equal ones,
//! in the order of insertion.
//!
//! **How.** Time is counted in steps of one resolution, and a step is a number of eleven digits of six bits.
//! Level `n` of the wheel has a slot for each value of digit `n`. A timer stands at the level of the highest
//! digit in which its step differs from the current one, in the slot of its digit there. When time enters
//! that slot, the timer moves to a lower level: ten times at most in its life, and never if it is cancelled
//! soon. Eleven levels reach the end of time, so there is no list of timers that are too far away.
//!
//! **Invariants.** A timer that is due stands in the list `DUE`, every other where `list_of` says. The slots
//! in use at a level are all ahead of the current digit. A bit in `occupied` is set exactly if its slot has a
//! timer. Lists are circular and doubly linked through the slab, so the head's `prev` is the tail.
//!
//! **Source.** G. Varghese and T. Lauck, "Hashed and hierarchical timing wheels", SOSP 1987 (scheme 7). The
//! choice of level by differing bits replaces their per-level clocks.
//!
//! **Cost.** A few tens of bytes a timer beside its value. Most calls of `expire` touch only what fires; one
//! that enters a slot of a higher level moves all its timers down (with 500,000 timers over a minute:
//! milliseconds).
//!
//! **Not here.** No clock and no sleeping: the owner waits until [`TimerWheel::next`], or for something else.
//! The slab never shrinks: the wheel keeps the memory of its fullest moment.

use std::time::Duration;

use crate::clock::Tick;

#[cfg(test)]
mod tests;

const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
/// Selects the lowest digit.
const DIGIT: u64 = (1 << BITS) - 1;
/// Eleven times six bits hold every 64-bit step.
const LEVELS: u32 = 11;
/// The list of timers that fire at the next [`TimerWheel::expire`], whatever the time.
const DUE: usize = LEVELS as usize * SLOTS;
/// No node.
const NIL: u32 = u32::MAX;

/// Names one timer of one wheel. The name of a timer that fired or was cancelled is harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimerKey {
    index: u32,
    generation: u32,
}

/// Timers that carry a `T` each.
#[derive(Debug)]
pub struct TimerWheel<T> {
    /// Nanoseconds in a step.
    resolution: u64,
    /// The current step: no timer of this step or an earlier one is in a slot.
    step: u64,
    nodes: Vec<Node<T>>,
    /// Head of the list, through `next`, of nodes without a timer.
    vacant: u32,
    len: usize,
    heads: Vec<u32>,
    occupied: [u64; LEVELS as usize],
}

#[derive(Debug)]
struct Node<T> {
    step: u64,
    next: u32,
    prev: u32,
    generation: u32,
    value: Option<T>,
}

impl<T> Default for TimerWheel<T> {
    /// A wheel with a resolution of one millisecond.
    fn default() -> Self {
        Self::new(Duration::from_millis(1))
    }
}

impl<T> TimerWheel<T> {
    /// A wheel whose timers may be late by up to `resolution` (at least a nanosecond). Empty, it takes 3 kB.
    #[must_use]
    pub fn new(resolution: Duration) -> Self {
        Self {
            resolution: u64::try_from(resolution.as_nanos()).unwrap_or(u64::MAX).max(1),
            step: 0,
            nodes: Vec::new(),
            vacant: NIL,
            len: 0,
            heads: vec![NIL; DUE + 1],
            occupied: [0; LEVELS as usize],
        }
    }

    /// Adds a timer that fires at `at`; if that has passed, at the next [`expire`](Self::expire).
    ///
    /// # Panics
    ///
    /// With more than 2³² − 1 timers at once.
    pub fn insert(&mut self, at: Tick, value: T) -> TimerKey {
        let index = self.occupy(at.as_nanos().div_ceil(self.resolution), value);
        self.link(index);
        self.len += 1;
        TimerKey { index, generation: self.node(index).generation }
    }

    /// Removes a timer and returns what it carried; `None` if it has fired or was cancelled before.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let node = self.nodes.get(key.index as usize)?;
        if node.generation != key.generation {
            return None;
        }
        self.unlink(key.index);
        self.release(key.index)
    }

    /// Removes the timers that carry what is looked for, in no order; looks at every one.
    pub fn extract(&mut self, mut is_looked_for: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut found = Vec::new();
        for index in 0..u32::try_from(self.nodes.len()).unwrap_or(NIL) {
            if self.nodes[index as usize].value.as_ref().is_some_and(&mut is_looked_for) {
                self.unlink(index);
                found.extend(self.release(index));
            }
        }
        found
    }

    /// When to call [`expire`](Self::expire) next; `None` without timers.
    ///
    /// Never later than the earliest timer fires, and if earlier, then with progress: of the calls of
    /// `expire` at each tick named here, the eleventh at the latest fires it.
    #[must_use]
    pub fn next(&self) -> Option<Tick> {
        let step = if self.heads[DUE] == NIL { self.next_slot()?.1 } else { self.step };
        Some(Tick::from_nanos(step.saturating_mul(self.resolution)))
    }

    /// Appends what the timers carried that are due at `now` to `fired`.
    pub fn expire(&mut self, now: Tick, fired: &mut Vec<T>) {
        let target = now.as_nanos() / self.resolution;
        self.empty(DUE, fired);
        while let Some((list, start)) = self.next_slot()
            && start <= target
        {
            self.step = start;
            self.empty(list, fired);
        }
        self.step = self.step.max(target);
    }

    /// How many timers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no timers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The occupied slot that time enters next, and the step at which it does.
    fn next_slot(&self) -> Option<(usize, u64)> {
        // Slots of a lower level all lie before the next slot of a higher one.
        let level = (0..LEVELS).find(|level| self.occupied[*level as usize] != 0)?;
        let slot = self.occupied[level as usize].trailing_zeros();
        let shift = level * BITS;
        let above = self.step.checked_shr(shift + BITS).map_or(0, |digits| digits << (shift + BITS));
        Some((level as usize * SLOTS + slot as usize, above | u64::from(slot) << shift))
    }

    /// The list in which a timer of this step stands.
    fn list_of(&self, step: u64) -> usize {
        if step <= self.step {
            return DUE;
        }
        let level = (step ^ self.step).ilog2() / BITS;
        level as usize * SLOTS + ((step >> (level * BITS)) & DIGIT) as usize
    }

    /// Takes every timer out of a list and fires it, or moves it to a lower level.
    fn empty(&mut self, list: usize, fired: &mut Vec<T>) {
        let head = self.heads[list];
        if head == NIL {
            return;
        }
        self.set_head(list, NIL);
        let mut index = head;
        loop {
            let Node { step, next, .. } = *self.node(index);
            if step <= self.step {
                fired.extend(self.release(index));
            } else {
                self.link(index);
            }
            if next == head {
                return;
            }
            index = next;
        }
    }

    /// Appends a node to the list it belongs to.
    fn link(&mut self, index: u32) {
        let list = self.list_of(self.node(index).step);
        let head = self.heads[list];
        let (prev, next) = if head == NIL { (index, index) } else { (self.node(head).prev, head) };
        if head == NIL {
            self.set_head(list, index);
        }
        self.node_mut(index).prev = prev;
        self.node_mut(index).next = next;
        self.node_mut(prev).next = index;
        self.node_mut(next).prev = index;
    }

    fn unlink(&mut self, index: u32) {
        let Node { step, prev, next, .. } = *self.node(index);
        let list = self.list_of(step);
        if self.heads[list] == index {
            self.set_head(list, if next == index { NIL } else { next });
        }
        self.node_mut(prev).next = next;
        self.node_mut(next).prev = prev;
    }

    fn set_head(&mut self, list: usize, head: u32) {
        self.heads[list] = head;
        if list != DUE {
            let bit = 1 << (list % SLOTS);
            let slots = &mut self.occupied[list / SLOTS];
            *slots = if head == NIL { *slots & !bit } else { *slots | bit };
        }
    }

    /// Puts a timer into a vacant node, or a new one.
    fn occupy(&mut self, step: u64, value: T) -> u32 {
        let index = self.vacant;
        if index != NIL {
            let node = self.node_mut(index);
            (node.step, node.value) = (step, Some(value));
            self.vacant = node.next;
            return index;
        }
        let index = u32::try_from(self.nodes.len()).ok().filter(|index| *index != NIL);
        let index = index.expect("fewer than 2³² timers");
        self.nodes.push(Node { step, next: NIL, prev: NIL, generation: 0, value: Some(value) });
        index
    }

    /// Makes a node vacant; every key that names it is stale from now on.
    fn release(&mut self, index: u32) -> Option<T> {
        let vacant = self.vacant;
        let node = self.node_mut(index);
        node.generation = node.generation.wrapping_add(1);
        node.next = vacant;
        let value = node.value.take();
        self.vacant = index;
        self.len -= 1;
        value
    }

    fn node(&self, index: u32) -> &Node<T> {
        &self.nodes[index as usize]
    }

    fn node_mut(&mut self, index: u32) -> &mut Node<T> {
        &mut self.nodes[index as usize]
    }
}
