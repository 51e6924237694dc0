//! In which order locks are taken: two orders that contradict each other are a deadlock that has not happened yet.
//!
//! Locks are told apart by their class, such as the line that made them: what one of them does, all of them may. "B was taken
//! while A was held" is an edge from A to B. An edge that would close a cycle is an inversion, and is told once for each pair of
//! classes. It is not kept, so the graph stays free of cycles, and each inversion is told with the order that came first.
//!
//! **Guarantees.** No inversion is told as long as all locks are taken in accordance with one order of their classes. If two
//! classes are taken in both orders, in whatever threads and however long apart, it is told.
//!
//! **Cost.** Whoever takes a lock carries the [`Chain`] of what he holds, one number; a chain that was seen before needs no
//! search, and programs have few.
//!
//! **Not here.** Locks of one class among each other: hand over hand along a list they are taken in all orders, rightly.
//!
//! **Source.** The validator of the Linux kernel (`Documentation/locking/lockdep-design.rst`), its classes and its chain cache.

use std::collections::{HashMap, HashSet, VecDeque};

/// What locks have in common that follow the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class(pub u64);

/// What somebody holds, in the order in which it was taken, as one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chain(u64);

impl Chain {
    /// Of who holds nothing.
    pub const EMPTY: Self = Self(0);

    /// With one more, taken after all others.
    #[must_use]
    pub fn with(self, class: Class) -> Self {
        // The finaliser of SplitMix64: every bit of the input changes half of the output's.
        let mut word = self.0.rotate_left(5) ^ class.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(word ^ (word >> 31))
    }

    /// Of somebody who holds these.
    #[must_use]
    pub fn of(held: &[Class]) -> Self {
        held.iter().fold(Self::EMPTY, |chain, class| chain.with(*class))
    }
}

/// Two orders that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inversion<S> {
    /// The class that is held.
    pub held: Class,
    /// The class that is taken meanwhile.
    pub taken: Class,
    /// The order so far: `taken` first, each the next one's predecessor, `held` last.
    pub order: Vec<Class>,
    /// Where each but the first of them was taken while the one before it was held.
    pub sites: Vec<S>,
}

/// The orders seen so far. An `S` says where something happened.
#[derive(Debug)]
pub struct Orders<S> {
    edges: HashMap<Class, HashMap<Class, S>>,
    chains: HashSet<Chain>,
    told: HashSet<(Class, Class)>,
}

impl<S> Default for Orders<S> {
    fn default() -> Self {
        Self { edges: HashMap::new(), chains: HashSet::new(), told: HashSet::new() }
    }
}

impl<S: Clone> Orders<S> {
    /// Nothing was seen.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether everything in that chain was looked at before.
    #[must_use]
    pub fn is_known(&self, chain: Chain) -> bool {
        self.chains.contains(&chain)
    }

    /// Somebody who holds `held`, in the order of taking, takes `taken` as well. Returns what contradicts an order seen before.
    ///
    /// `site` is called at most once, if the order of two classes is new.
    pub fn take(&mut self, held: &[Class], taken: Class, site: impl FnOnce() -> S) -> Vec<Inversion<S>> {
        let chain = Chain::of(held).with(taken);
        if !self.chains.insert(chain) {
            return Vec::new();
        }
        let mut site = Some(site);
        let mut here: Option<S> = None;
        let mut inversions = Vec::new();
        for &class in held {
            let is_known = self.edges.get(&class).is_some_and(|after| after.contains_key(&taken));
            if class == taken || is_known {
                continue;
            }
            if let Some((order, sites)) = self.path(taken, class) {
                if self.told.insert((class.min(taken), class.max(taken))) {
                    inversions.push(Inversion { held: class, taken, order, sites });
                }
                continue;
            }
            if let Some(site) = site.take() {
                here = Some(site());
            }
            let after = self.edges.entry(class).or_default();
            after.extend(here.clone().map(|here| (taken, here)));
        }
        inversions
    }

    /// The shortest way along the edges, and where each of them was seen.
    fn path(&self, from: Class, to: Class) -> Option<(Vec<Class>, Vec<S>)> {
        let mut before: HashMap<Class, Class> = HashMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(class) = queue.pop_front() {
            if class == to {
                let mut order = vec![to];
                while let Some(&class) = order.last().filter(|class| **class != from) {
                    order.push(before[&class]);
                }
                order.reverse();
                let sites = order.windows(2).map(|pair| self.edges[&pair[0]][&pair[1]].clone()).collect();
                return Some((order, sites));
            }
            for &next in self.edges.get(&class).into_iter().flat_map(HashMap::keys) {
                if next != from && !before.contains_key(&next) {
                    before.insert(next, class);
                    queue.push_back(next);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
