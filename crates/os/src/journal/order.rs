//! Puts rows that finish in any order back into the order in which they were claimed.

use std::collections::VecDeque;

/// Bytes of results kept in memory while an earlier row is still running; beyond it they are read back from
/// the journal, so that one slow row costs twenty-four bytes for each row behind it and no more.
const HELD_BYTES: usize = 16 << 20;

/// Where the outcome of a row is.
#[derive(Debug)]
pub(super) enum Slot<T> {
    /// The row is still running.
    Open,
    /// Here.
    Held(Box<T>),
    /// In the journal, at this offset.
    Stored(u64),
}

/// A window over the rows between the first that is still running and the last that was claimed.
#[derive(Debug)]
pub(super) struct Order<T> {
    base: u64,
    /// With the line of the input on which each row begins.
    slots: VecDeque<(u64, Slot<T>)>,
    held_bytes: usize,
}

impl<T> Default for Order<T> {
    fn default() -> Self {
        Self { base: 0, slots: VecDeque::new(), held_bytes: 0 }
    }
}

impl<T> Order<T> {
    /// Takes the place after all rows so far for the one that begins on `line`.
    pub(super) fn claim(&mut self, line: u64) -> u64 {
        self.slots.push_back((line, Slot::Open));
        self.base + self.slots.len() as u64 - 1
    }

    /// Whether another outcome of `bytes` may be held rather than left in the journal: there is room, or it
    /// will leave at once.
    pub(super) fn may_hold(&self, position: u64, bytes: usize) -> bool {
        position == self.base || self.held_bytes + bytes <= HELD_BYTES
    }

    /// Keeps an outcome of `bytes` for the row at `position` until its turn.
    pub(super) fn hold(&mut self, position: u64, outcome: T, bytes: usize) {
        self.held_bytes += bytes;
        self.fill(position, Slot::Held(Box::new(outcome)));
    }

    /// Notes that the outcome of the row at `position` stands in the journal at `offset`.
    pub(super) fn store(&mut self, position: u64, offset: u64) {
        self.fill(position, Slot::Stored(offset));
    }

    fn fill(&mut self, position: u64, outcome: Slot<T>) {
        let slot = position
            .checked_sub(self.base)
            .and_then(|index| self.slots.get_mut(usize::try_from(index).ok()?));
        match slot {
            Some((_, slot @ Slot::Open)) => *slot = outcome,
            _ => unreachable!("a row is finished once, after it was claimed"),
        }
    }

    /// The next outcome in order and its line, unless that row is still running. `size` tells how many bytes were
    /// held.
    pub(super) fn pop(&mut self, size: impl FnOnce(&T) -> usize) -> Option<(u64, Slot<T>)> {
        if matches!(self.slots.front()?.1, Slot::Open) {
            return None;
        }
        let (line, slot) = self.slots.pop_front()?;
        self.base += 1;
        if let Slot::Held(outcome) = &slot {
            self.held_bytes -= size(outcome);
        }
        Some((line, slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pop(order: &mut Order<u64>) -> Option<u64> {
        order.pop(|_| 1).map(|(line, slot)| match slot {
            Slot::Held(value) if *value == line => line,
            Slot::Stored(offset) if offset == line => line,
            slot => panic!("row {line} left as {slot:?}"),
        })
    }

    proptest! {
        #[test]
        fn rows_leave_in_the_order_they_came(finish in Just((0..60_u64).collect::<Vec<_>>()).prop_shuffle(),
                                             stored in proptest::collection::vec(any::<bool>(), 60)) {
            let mut order = Order::default();
            for row in 0..60 {
                prop_assert_eq!(order.claim(row), row);
            }
            let mut left = Vec::new();
            for row in finish {
                if stored[usize::try_from(row).unwrap()] { order.store(row, row) } else { order.hold(row, row, 1) }
                left.extend(std::iter::from_fn(|| pop(&mut order)));
            }
            prop_assert_eq!(left, (0..60).collect::<Vec<_>>());
            prop_assert_eq!(order.held_bytes, 0);
        }
    }

    #[test]
    fn a_slow_head_bounds_what_is_held() {
        let mut order: Order<()> = Order::default();
        let head = order.claim(1);
        let next = order.claim(2);
        order.hold(next, (), HELD_BYTES);
        let last = order.claim(3);
        assert!(!order.may_hold(last, 1));
        assert!(order.may_hold(head, 1));
    }

    #[test]
    fn a_waiting_row_costs_twenty_four_bytes() {
        assert_eq!(size_of::<(u64, Slot<[u64; 9]>)>(), 24);
    }
}
