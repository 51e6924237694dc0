//! What a consumer has, by number: in few bytes also when it is very much, and has been there for long.
//!
//! Numbers come in order, or nearly so, and go in any. So they lie in order, one behind another; what has gone leaves a
//! gap, and gaps are closed when they are half of all. A row takes its number, its value and no more; a hash table would
//! take twice to four times that, and never let go of it.

use std::collections::VecDeque;

/// So few gaps are not worth closing, and so little room is not worth giving back.
const FEW: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Roll<T> {
    /// Rising numbers. The first and the last are no gaps.
    rows: VecDeque<(u64, Option<T>)>,
    len: usize,
}

impl<T> Default for Roll<T> {
    fn default() -> Self {
        Self { rows: VecDeque::new(), len: 0 }
    }
}

impl<T> Roll<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The memory that the rows take, without what their values point to.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.rows.capacity() * size_of::<(u64, Option<T>)>()
    }

    /// Takes a number in, or gives it another value.
    pub(super) fn insert(&mut self, number: u64, value: T) {
        let at = match self.rows.back() {
            Some((last, _)) if *last >= number => self.find(number),
            _ => Err(self.rows.len()),
        };
        match at {
            Ok(at) => self.len += usize::from(self.rows[at].1.replace(value).is_none()),
            Err(at) => {
                self.rows.insert(at, (number, Some(value)));
                self.len += 1;
            }
        }
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        self.rows[self.find(number).ok()?].1.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let at = self.find(number).ok()?;
        self.rows[at].1.as_mut()
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let at = self.find(number).ok()?;
        let value = self.rows[at].1.take()?;
        self.len -= 1;
        while self.rows.front().is_some_and(|(_, value)| value.is_none()) {
            self.rows.pop_front();
        }
        while self.rows.back().is_some_and(|(_, value)| value.is_none()) {
            self.rows.pop_back();
        }
        if self.rows.len() > 2 * self.len + FEW {
            self.rows.retain(|(_, value)| value.is_some());
        }
        if self.rows.capacity() > 4 * (self.rows.len() + FEW) {
            self.rows.shrink_to(2 * self.rows.len());
        }
        Some(value)
    }

    /// All that is there, by rising numbers.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &T)> {
        self.rows.iter().filter_map(|(number, value)| Some((*number, value.as_ref()?)))
    }

    fn find(&self, number: u64) -> Result<usize, usize> {
        self.rows.binary_search_by_key(&number, |(number, _)| *number)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_answer_is_the_one_of_a_map(
            acts in proptest::collection::vec((0..5_u8, 0..200_u64, any::<u32>()), 0..600),
        ) {
            let (mut roll, mut map, mut next) = (Roll::default(), BTreeMap::new(), 0);
            for (act, number, value) in acts {
                match act {
                    0 | 1 => {
                        next += 1 + number / 100;
                        roll.insert(next, value);
                        map.insert(next, value);
                    }
                    2 => {
                        roll.insert(number, value);
                        map.insert(number, value);
                        next = next.max(number);
                    }
                    3 => prop_assert_eq!(roll.remove(number), map.remove(&number)),
                    _ => {
                        prop_assert_eq!(roll.get(number), map.get(&number));
                        if let (Some(one), Some(other)) = (roll.get_mut(number), map.get_mut(&number)) {
                            (*one, *other) = (value, value);
                        }
                    }
                }
                prop_assert_eq!(roll.len(), map.len());
                prop_assert!(roll.rows.len() <= 2 * roll.len() + FEW);
            }
            let found: Vec<_> = roll.iter().map(|(number, value)| (number, *value)).collect();
            prop_assert_eq!(found, map.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_goes_leaves_no_room_behind() {
        let mut roll = Roll::default();
        for number in 0..100_000_u64 {
            roll.insert(number, true);
        }
        assert!(roll.bytes() <= 2 * 16 * 100_000);
        // All but each hundredth: those lie between everything else that was there.
        for number in (0..100_000_u64).filter(|number| number % 100 > 0) {
            assert!(roll.remove(number).is_some());
        }
        assert_eq!(roll.len(), 1000);
        assert!(roll.bytes() <= 16 * 4 * (2 * 1000 + 2 * FEW), "{} bytes", roll.bytes());
        // Very many that come and go while they stay.
        for number in 100_000..200_000_u64 {
            roll.insert(number, true);
            assert!(roll.remove(number).is_some());
        }
        assert!(roll.bytes() <= 16 * 4 * (2 * 1000 + 2 * FEW), "{} bytes", roll.bytes());
        assert!(roll.get(100).is_some() && roll.get(101).is_none());
    }
}
