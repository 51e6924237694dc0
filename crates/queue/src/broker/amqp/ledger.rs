//! Which deliveries of a channel are settled and which are not, and in how few acknowledgements the rest of them can be said.
//!
//! The server numbers the deliveries of a channel from 1 on. One acknowledgement can speak for all up to a number, as
//! long as that one is not settled yet; it must never speak for one that is still in work.
//!
//! What is settled is kept as ranges: behind one message that is held for hours, very many come and go.

use std::collections::BTreeMap;

/// What is settled.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Everything below is settled.
    floor: u64,
    /// The last one that came.
    last: u64,
    /// What is settled above it: from each number up to another, which is not settled.
    settled: BTreeMap<u64, u64>,
}

/// One acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    /// Of all up to this one that are not settled yet.
    UpTo(u64),
    /// Of this one.
    One(u64),
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self { floor: 1, last: 0, settled: BTreeMap::new() }
    }

    /// This one has come.
    pub(super) fn deliver(&mut self, tag: u64) {
        self.last = self.last.max(tag);
    }

    /// Whether it has come and is not settled.
    pub(super) fn has(&self, tag: u64) -> bool {
        let before = || self.settled.range(..=tag).next_back();
        (self.floor..=self.last).contains(&tag) && before().is_none_or(|(_, end)| *end <= tag)
    }

    /// This one was settled otherwise, if it was not before: the server must know before it is told of the next
    /// acknowledgement.
    pub(super) fn strike(&mut self, tag: u64) -> bool {
        let is_new = self.add(tag);
        self.rise();
        is_new
    }

    /// How to acknowledge these. Those that are settled already are taken out of them.
    pub(super) fn acknowledge(&mut self, tags: &mut Vec<u64>) -> Vec<Ack> {
        tags.retain(|&tag| self.add(tag));
        self.rise();
        let last = tags.iter().filter(|&&tag| tag < self.floor).max();
        let others = tags.iter().filter(|&&tag| tag > self.floor);
        last.map(|&tag| Ack::UpTo(tag)).into_iter().chain(others.map(|&tag| Ack::One(tag))).collect()
    }

    fn add(&mut self, tag: u64) -> bool {
        if !self.has(tag) {
            return false;
        }
        let end = self.settled.remove(&(tag + 1)).unwrap_or(tag + 1);
        match self.settled.range_mut(..tag).next_back() {
            Some((_, before)) if *before == tag => *before = end,
            _ => drop(self.settled.insert(tag, end)),
        }
        true
    }

    fn rise(&mut self) {
        if let Some(end) = self.settled.remove(&self.floor) {
            self.floor = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// One by which so many have come.
    fn ledger(last: u64) -> Ledger {
        let mut ledger = Ledger::new();
        ledger.deliver(last);
        ledger
    }

    fn acknowledge(ledger: &mut Ledger, tags: &[u64]) -> Vec<Ack> {
        ledger.acknowledge(&mut tags.to_vec())
    }

    #[test]
    fn what_comes_and_goes_behind_one_that_is_held_takes_no_room() {
        let mut ledger = ledger(10_002);
        for tag in 2..=10_000 {
            // In pairs, the second one first.
            let tag = tag ^ 1;
            assert_eq!(acknowledge(&mut ledger, &[tag]), [Ack::One(tag)]);
            assert!(ledger.settled.len() <= 2);
        }
        assert_eq!(ledger.settled, BTreeMap::from([(2, 10_000), (10_001, 10_002)]));
        assert_eq!(acknowledge(&mut ledger, &[10_000]), [Ack::One(10_000)]);
        assert_eq!(acknowledge(&mut ledger, &[1, 10_002]), [Ack::UpTo(10_002)]);
    }

    #[test]
    fn what_is_settled_is_settled_once() {
        let mut ledger = ledger(6);
        assert_eq!(acknowledge(&mut ledger, &[2, 2, 5, 7]), [Ack::One(2), Ack::One(5)]);
        assert!(ledger.strike(3) && !ledger.strike(3) && !ledger.strike(5) && !ledger.strike(7));
        assert_eq!((0..8).filter(|&tag| ledger.has(tag)).collect::<Vec<_>>(), [1, 4, 6]);
        assert_eq!(acknowledge(&mut ledger, &[1, 2]), [Ack::UpTo(1)]);
        assert_eq!((0..8).filter(|&tag| ledger.has(tag)).collect::<Vec<_>>(), [4, 6]);
    }

    #[test]
    fn what_was_settled_in_order_takes_one_acknowledgement() {
        let mut ledger = ledger(8);
        assert_eq!(acknowledge(&mut ledger, &[2, 1, 3]), [Ack::UpTo(3)]);
        assert_eq!(acknowledge(&mut ledger, &[6, 5]), [Ack::One(6), Ack::One(5)]);
        assert_eq!(acknowledge(&mut ledger, &[4]), [Ack::UpTo(4)]);
        ledger.strike(7);
        assert_eq!(acknowledge(&mut ledger, &[8]), [Ack::UpTo(8)]);
    }

    proptest! {
        /// Against a server that keeps its own list, as `RabbitMQ` does.
        #[test]
        fn a_server_hears_of_each_once_and_of_none_too_early(
            order in Just((1_u64..=60).collect::<Vec<_>>()).prop_shuffle(),
            cuts in proptest::collection::vec(1_usize..8, 60),
            struck in proptest::collection::hash_set(1_u64..=60, 0..20),
        ) {
            let mut ledger = ledger(60);
            let mut unsettled: BTreeSet<u64> = (1..=60).collect();
            let mut meant = unsettled.clone();
            let mut rest = order.as_slice();
            for cut in cuts {
                let (batch, others) = rest.split_at(cut.min(rest.len()));
                rest = others;
                let (returned, done): (Vec<u64>, Vec<u64>) = batch.iter().partition(|tag| struck.contains(tag));
                for tag in returned {
                    ledger.strike(tag);
                    prop_assert!(unsettled.remove(&tag));
                    meant.remove(&tag);
                }
                meant.retain(|tag| !done.contains(tag));
                for ack in acknowledge(&mut ledger, &done) {
                    let (Ack::UpTo(tag) | Ack::One(tag)) = ack;
                    prop_assert!(unsettled.contains(&tag), "an unknown tag closes the channel");
                    unsettled.retain(|&other| match ack {
                        Ack::UpTo(tag) => other > tag,
                        Ack::One(tag) => other != tag,
                    });
                }
                prop_assert_eq!(&unsettled, &meant);
            }
        }
    }
}
