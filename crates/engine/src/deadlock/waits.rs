//! Who holds what, and who waits for it: a cycle of those is a deadlock.
//!
//! **Guarantees.** [`Waits::wait`] finds a cycle if and only if the new wait closes one in which nobody gives up by himself.
//! Every deadlock among what is told here is therefore found by the one who completes it, before he sleeps.
//!
//! **What counts.** A thing is held by one (a lock), by several (a lock for readers), or by nobody who is known (an event), and
//! whoever waits for it waits for all of its holders. A task can only go on while its thread does: if that sleeps, the task
//! waits for what the thread waits for. Someone may hold a thing more than once, and let go of what another has taken.
//!
//! **Not here.** What a thing is called, where it was made, whose stack looks how: the caller knows its numbers.
//!
//! **Source.** The walk from holder to holder is that of importlib's `_ModuleLock.has_deadlock`; the graph is the wait-for graph
//! of R. C. Holt, "Some deadlock properties of computer systems", ACM Computing Surveys 4 (1972).

use std::collections::{HashMap, HashSet};

/// Somebody who can wait: a thread or a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Who(pub u64);

/// Something that can be held and waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Thing(pub u64);

/// One link of a cycle: `who` waits for `thing`, which the next link's `who` holds (the last link's, the first).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The one who waits. For a task whose thread sleeps: the thread.
    pub who: Who,
    /// What for.
    pub thing: Thing,
    /// Who holds it: the next one's `who`, or a task that only that thread can run.
    pub holder: Who,
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    thing: Thing,
    is_limited: bool,
}

/// The graph; see the module.
#[derive(Debug, Default)]
pub struct Waits {
    waiting: HashMap<Who, Wait>,
    /// Each holder as often as it holds the thing.
    holders: HashMap<Thing, Vec<Who>>,
    /// The thread of a task that holds something.
    threads: HashMap<Who, Who>,
    /// How many things a task holds.
    held: HashMap<Who, usize>,
}

impl Waits {
    /// An empty graph.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `who` has taken `thing`; `thread` is the one that runs it, if it is a task.
    pub fn hold(&mut self, who: Who, thread: Option<Who>, thing: Thing) {
        self.holders.entry(thing).or_default().push(who);
        if let Some(thread) = thread {
            *self.held.entry(who).or_default() += 1;
            self.threads.insert(who, thread);
        }
    }

    /// `who` has let go of `thing` once; of what somebody else has taken, if he has not taken it himself. Says who had taken it.
    pub fn release(&mut self, who: Who, thing: Thing) -> Option<Who> {
        let holders = self.holders.get_mut(&thing)?;
        let position =
            holders.iter().rposition(|holder| *holder == who).or_else(|| holders.len().checked_sub(1))?;
        let holder = holders.swap_remove(position);
        if holders.is_empty() {
            self.holders.remove(&thing);
        }
        if let Some(held) = self.held.get_mut(&holder) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&holder);
                self.threads.remove(&holder);
            }
        }
        Some(holder)
    }

    /// `who` is about to sleep until it has `thing`; with `is_limited` it gives up by itself some time. If that would close a
    /// cycle in which nobody gives up, returns it, beginning with `who`, who must not sleep then.
    pub fn wait(&mut self, who: Who, thing: Thing, is_limited: bool) -> Option<Vec<Link>> {
        if !is_limited && let Some(cycle) = self.cycle(who, thing) {
            return Some(cycle);
        }
        self.waiting.insert(who, Wait { thing, is_limited });
        None
    }

    /// `who` does not wait any more.
    pub fn stop_waiting(&mut self, who: Who) {
        self.waiting.remove(&who);
    }

    /// The thing that is gone had these holders.
    pub fn forget(&mut self, thing: Thing) {
        while let Some(&holder) = self.holders.get(&thing).and_then(|holders| holders.last()) {
            self.release(holder, thing);
        }
    }

    /// Who holds it.
    #[must_use]
    pub fn holders(&self, thing: Thing) -> &[Who] {
        self.holders.get(&thing).map_or(&[], Vec::as_slice)
    }

    /// A path from `thing` back to `who`, depth first.
    fn cycle(&self, who: Who, thing: Thing) -> Option<Vec<Link>> {
        let mut path = Vec::new();
        let mut seen = HashSet::new();
        self.search(who, who, thing, &mut path, &mut seen).then_some(path)
    }

    /// Extends `path` by `at`, who waits for `thing`, and what comes behind it up to `goal`.
    fn search(
        &self,
        goal: Who,
        at: Who,
        thing: Thing,
        path: &mut Vec<Link>,
        seen: &mut HashSet<Thing>,
    ) -> bool {
        if !seen.insert(thing) {
            return false;
        }
        for &holder in self.holders(thing) {
            // What keeps a task from going on is what it waits for, or what its thread does.
            for next in [Some(holder), self.threads.get(&holder).copied()].into_iter().flatten() {
                path.push(Link { who: at, thing, holder });
                if next == goal {
                    return true;
                }
                if let Some(wait) = self.waiting.get(&next)
                    && !wait.is_limited
                    && self.search(goal, next, wait.thing, path, seen)
                {
                    return true;
                }
                path.pop();
            }
        }
        false
    }
}

#[cfg(test)]
mod tests;
