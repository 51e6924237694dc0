//! Who waits for what: if a cycle goes through those who hold it, that is a deadlock.
//!
//! **Guarantees.** [`Waits::wait`] finds a cycle if and only if the new wait closes one in which nobody gives up by himself.
//! Every deadlock is therefore found by the one who completes it, before he sleeps; if what [`Holders`] say is up to date.
//!
//! **What counts.** A thing is held by one (a lock), by several (a lock for readers), or by nobody who is known (an event), and
//! whoever waits for it waits for all of its holders. A task can only go on while its thread does: if that sleeps, the task
//! waits for what the thread waits for.
//!
//! **Not here.** What a thing is called, where it was made, whose stack looks how: the caller knows its numbers. Who holds what:
//! locks know that themselves, and taking one that is free need not be told here.
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

/// Those who know who holds what.
pub trait Holders {
    /// Who holds `thing` at present, in any order.
    fn holders(&self, thing: Thing) -> Vec<Who>;

    /// The thread that runs a task; `None` for a thread.
    fn thread_of(&self, who: Who) -> Option<Who>;
}

/// The graph; see the module.
#[derive(Debug, Default)]
pub struct Waits {
    waiting: HashMap<Who, Wait>,
}

impl Waits {
    /// Nobody waits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `who` is about to sleep until it has `thing`; with `is_limited` it gives up by itself some time. If that would close a
    /// cycle in which nobody gives up, returns it, beginning with `who`, who must not sleep then.
    pub fn wait(
        &mut self,
        who: Who,
        thing: Thing,
        is_limited: bool,
        holders: &impl Holders,
    ) -> Option<Vec<Link>> {
        if !is_limited {
            let mut path = Vec::new();
            if self.search(holders, (who, who), thing, &mut path, &mut HashSet::new()) {
                return Some(path);
            }
        }
        self.waiting.insert(who, Wait { thing, is_limited });
        None
    }

    /// `who` does not wait any more.
    pub fn stop_waiting(&mut self, who: Who) {
        self.waiting.remove(&who);
    }

    /// Extends `path` by `at`, who waits for `thing`, and what comes behind it up to `goal`, depth first.
    fn search(
        &self,
        holders: &impl Holders,
        (goal, at): (Who, Who),
        thing: Thing,
        path: &mut Vec<Link>,
        seen: &mut HashSet<Thing>,
    ) -> bool {
        if !seen.insert(thing) {
            return false;
        }
        for holder in holders.holders(thing) {
            // What keeps a task from going on is what it waits for, or what its thread does.
            for next in [Some(holder), holders.thread_of(holder)].into_iter().flatten() {
                path.push(Link { who: at, thing, holder });
                if next == goal {
                    return true;
                }
                if let Some(wait) = self.waiting.get(&next)
                    && !wait.is_limited
                    && self.search(holders, (goal, next), wait.thing, path, seen)
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
