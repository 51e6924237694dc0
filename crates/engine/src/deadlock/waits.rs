//! Who waits for what: if those who could end a wait can never do so, that is a deadlock.
//!
//! **Guarantees.** [`Waits::wait`] and [`Waits::look`] tell of a wait if and only if it would never end, by what
//! [`Holders`] say. Every deadlock is therefore found by the one who completes it, before he sleeps; one that is completed
//! by something else than a wait, such as the end of a thread, is found by whoever looks again.
//!
//! **What counts.** A thing is held by one (a lock), by several (a lock for readers), or by nobody who is known (an event).
//! Whoever waits for it depends on all who hold it, or on any of them ([`Holding`]). Those are stuck who depend on somebody
//! stuck, or on somebody who is gone and lets go of nothing any more; whoever gives up by himself is not. A task can only go
//! on while its thread does: if that is stuck, so is the task.
//!
//! **Not here.** What a thing is called, where it was made, whose stack looks how: the caller knows its numbers. Who holds what:
//! locks know that themselves, and taking one that is free need not be told here.
//!
//! **Source.** The wait-for graph of R. C. Holt, "Some deadlock properties of computer systems", ACM Computing Surveys 4
//! (1972), with its two kinds of requests, AND and OR; the stuck are what is left when everybody went on who can.

use std::collections::{HashMap, HashSet};

/// Somebody who can wait: a thread or a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Who(pub u64);

/// Something that can be held and waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Thing(pub u64);

/// How somebody waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// He gives up by himself some time.
    Limited,
    /// For ever, unless he is told of a deadlock.
    Endless,
    /// For ever, and he is not to be told: he cannot go on without.
    Stubborn,
}

/// Those on whom somebody depends who waits. Nobody: nobody who is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holding {
    /// All of them have to let go.
    All(Vec<Who>),
    /// One of them has to.
    Any(Vec<Who>),
}

impl Holding {
    fn each(&self) -> &[Who] {
        match self {
            Self::All(holders) | Self::Any(holders) => holders,
        }
    }
}

/// One link of a cycle: `who` waits for `thing`, which the next link's `who` holds (the last link's, the first). Behind a
/// cycle stand those who are stuck in it as well and without whom it would be none.
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
    manner: Manner,
}

/// Those who know who holds what.
pub trait Holders {
    /// On whom `who` depends, who waits for `thing`.
    fn holders(&self, who: Who, thing: Thing) -> Holding;

    /// The thread that runs a task; `None` for a thread.
    fn thread_of(&self, who: Who) -> Option<Who>;

    /// Whether he has ended, and lets go of nothing any more.
    fn is_gone(&self, who: Who) -> bool;
}

/// The graph; see the module.
#[derive(Debug, Default)]
pub struct Waits {
    waiting: HashMap<Who, Wait>,
}

/// Those who may be stuck, and on whom each depends.
type Stuck = HashMap<Who, (Thing, Holding)>;

impl Waits {
    /// Nobody waits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `who` is about to sleep until he has `thing`. If he does so endlessly and it would be for ever, returns the cycle,
    /// beginning with `who`, who must not sleep then.
    pub fn wait(
        &mut self,
        who: Who,
        thing: Thing,
        manner: Manner,
        holders: &impl Holders,
    ) -> Option<Vec<Link>> {
        self.waiting.insert(who, Wait { thing, manner });
        self.look(who, holders)
    }

    /// The same for somebody who has waited for a while; he waits no more if he is told of a deadlock.
    pub fn look(&mut self, who: Who, holders: &impl Holders) -> Option<Vec<Link>> {
        self.waiting.get(&who).filter(|wait| wait.manner == Manner::Endless)?;
        let stuck = self.stuck(who, holders);
        if !stuck.contains_key(&who) {
            return None;
        }
        self.waiting.remove(&who);
        Some(links(who, &stuck, holders))
    }

    /// What he waits for, if he does so in that manner.
    #[must_use]
    pub fn awaited(&self, who: Who, manner: Manner) -> Option<Thing> {
        self.waiting.get(&who).filter(|wait| wait.manner == manner).map(|wait| wait.thing)
    }

    /// `who` was given `thing`: if it is what he waits for, he does so no more, though he may still sleep. Returns whether it is.
    pub fn receive(&mut self, who: Who, thing: Thing) -> bool {
        let is_it = self.waiting.get(&who).is_some_and(|wait| wait.thing == thing);
        if is_it {
            self.waiting.remove(&who);
        }
        is_it
    }

    /// `who` does not wait any more.
    pub fn stop_waiting(&mut self, who: Who) {
        self.waiting.remove(&who);
    }

    /// Of `who` and those on whom he depends, directly or through others, those who can never go on.
    fn stuck(&self, who: Who, holders: &impl Holders) -> Stuck {
        let mut stuck = Stuck::new();
        let mut todo = vec![who];
        while let Some(at) = todo.pop() {
            let wait = self.waiting.get(&at).filter(|wait| wait.manner != Manner::Limited);
            let Some(wait) = wait.filter(|_| !stuck.contains_key(&at)) else { continue };
            let holding = holders.holders(at, wait.thing);
            for &holder in holding.each() {
                todo.extend([Some(holder), holders.thread_of(holder)].into_iter().flatten());
            }
            stuck.insert(at, (wait.thing, holding));
        }
        loop {
            let goes_on = |(_, (_, holding)): &(&Who, &(Thing, Holding))| match holding {
                Holding::All(all) => !all.iter().any(|who| is_hopeless(*who, &stuck, holders)),
                Holding::Any(any) => {
                    any.is_empty() || !any.iter().all(|who| is_hopeless(*who, &stuck, holders))
                }
            };
            let free: Vec<Who> = stuck.iter().filter(goes_on).map(|(who, _)| *who).collect();
            if free.is_empty() {
                return stuck;
            }
            for who in free {
                stuck.remove(&who);
            }
        }
    }
}

/// Whether this holder will never let go.
fn is_hopeless(holder: Who, stuck: &Stuck, holders: &impl Holders) -> bool {
    // What keeps a task from going on is what it waits for, or what its thread does.
    let mut keepers = [Some(holder), holders.thread_of(holder)].into_iter().flatten();
    keepers.any(|who| stuck.contains_key(&who) || holders.is_gone(who))
}

/// What there is to say of the stuck: the cycle that leads back to `who`, if there is one; then who else matters.
fn links(who: Who, stuck: &Stuck, holders: &impl Holders) -> Vec<Link> {
    let mut links = Vec::new();
    if !path((who, who), stuck, holders, &mut links, &mut HashSet::new()) {
        links.clear();
    }
    let mut seen: HashSet<Who> = links.iter().map(|link| link.who).collect();
    let mut todo: Vec<Who> = links.iter().flat_map(|link| others(link.who, stuck, holders)).collect();
    todo.extend(links.is_empty().then_some(who));
    while let Some(at) = todo.pop() {
        let Some((thing, holding)) = stuck.get(&at).filter(|_| seen.insert(at)) else { continue };
        let holder = holding.each().iter().find(|holder| is_hopeless(**holder, stuck, holders));
        links.extend(holder.map(|&holder| Link { who: at, thing: *thing, holder }));
        todo.extend(
            holder.into_iter().flat_map(|&holder| [Some(holder), holders.thread_of(holder)]).flatten(),
        );
        todo.extend(others(at, stuck, holders));
    }
    links
}

/// Those of whom any would do, and none can.
fn others(who: Who, stuck: &Stuck, holders: &impl Holders) -> Vec<Who> {
    let Some((_, Holding::Any(any))) = stuck.get(&who) else { return Vec::new() };
    any.iter().flat_map(|&holder| [Some(holder), holders.thread_of(holder)]).flatten().collect()
}

/// Extends `path` from `at` to `goal`, depth first.
fn path(
    (goal, at): (Who, Who),
    stuck: &Stuck,
    holders: &impl Holders,
    path_so_far: &mut Vec<Link>,
    seen: &mut HashSet<Who>,
) -> bool {
    let Some((thing, holding)) = stuck.get(&at).filter(|_| seen.insert(at)) else { return false };
    for &holder in holding.each() {
        for next in [Some(holder), holders.thread_of(holder)].into_iter().flatten() {
            path_so_far.push(Link { who: at, thing: *thing, holder });
            if next == goal || path((goal, next), stuck, holders, path_so_far, seen) {
                return true;
            }
            path_so_far.pop();
        }
    }
    false
}

#[cfg(test)]
mod tests;
