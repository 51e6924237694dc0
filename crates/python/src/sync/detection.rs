//! Deadlock detection for the locks of `manyhands.sync`; off, and then a look at one flag, unless the user wants it.
//!
//! What is a deadlock, and what only looks like one to come, is `engine`'s to [say](manyhands_engine::deadlock). Here is kept who
//! has which lock, who waits for one, and where each was made.
//!
//! **Who** waits or holds is a thread or a task, by its [number](super::who). A wait is told before its place in the line is
//! taken, and withdrawn after that is left; a lock is let go here before it is let go. So whatever is found in the graph is so:
//! nobody in a cycle can have moved on meanwhile.
//!
//! **Locks.** The state's lock is held for a few look-ups, no Python code runs meanwhile, and no object is freed.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use manyhands_engine::deadlock::orders::{Chain, Class, Inversion, Orders};
use manyhands_engine::deadlock::waits::{Holders, Link, Thing, Waits, Who};
use manyhands_engine::line::Ticket;
use pyo3::call::PyCallArgs;
use pyo3::prelude::*;

use super::who;

static IS_ON: AtomicBool = AtomicBool::new(false);
static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);
static NEXT_THING: AtomicU64 = AtomicU64::new(1);

/// Whether somebody wants to know of deadlocks.
#[inline]
pub(crate) fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Has the locks of `manyhands.sync` watched from now on, or not any more.
#[pyfunction]
pub(crate) fn watch_locks(on: bool) {
    let forgotten = std::mem::take(&mut *state());
    IS_ON.store(on, Ordering::Relaxed);
    drop(forgotten);
}

/// Whether the locks of `manyhands.sync` are watched.
#[pyfunction]
pub(crate) fn watches_locks() -> bool {
    is_on()
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A lock as the detection knows it; nothing as long as that is off.
#[derive(Default)]
pub(crate) struct Watched {
    /// 0: not known yet.
    thing: AtomicU64,
    /// Where it was made; 0: not known.
    class: AtomicU64,
}

impl Watched {
    /// A lock that the running Python code makes.
    pub(crate) fn new() -> Self {
        let watched = Self::default();
        if is_on() {
            Python::attach(|py| watched.name_birthplace(py));
        }
        watched
    }

    #[cold]
    fn name_birthplace(&self, py: Python<'_>) {
        let site = call(py, "here", ()).and_then(|site| site.extract::<String>());
        if let Ok(site) = site {
            self.class.store(state().class_of(&site).0, Ordering::Relaxed);
        }
    }

    fn thing(&self) -> Thing {
        let known = self.thing.load(Ordering::Relaxed);
        if known != 0 {
            return Thing(known);
        }
        let new = NEXT_THING.fetch_add(1, Ordering::Relaxed);
        let named = self.thing.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed);
        Thing(named.map_or_else(|known| known, |_| new))
    }

    /// What it has in common with other locks: those without a birthplace have nothing.
    fn class(&self) -> Class {
        match self.class.load(Ordering::Relaxed) {
            0 => Class(self.thing().0 | NAMELESS),
            class => Class(class),
        }
    }

    /// The caller has taken it, without waiting. With `is_bound`, it would have waited, so the order counts.
    ///
    /// # Errors
    /// The warning about an order that contradicts another, where warnings are errors. The caller has the lock.
    #[cold]
    pub(crate) fn taken(&self, py: Python<'_>, taker: u64, is_bound: bool) -> PyResult<()> {
        let (thing, class, who) = (self.thing(), self.class(), Who(taker));
        let is_in_order = {
            let mut state = state();
            let is_in_order = !is_bound || state.is_in_order(who, class);
            state.hold(who, thing, class);
            is_in_order
        };
        if is_in_order { Ok(()) } else { check_order(py, who, thing, class) }
    }

    /// Somebody is about to wait for it.
    ///
    /// # Errors
    /// `DeadlockError` if the wait would never end; what `taken` raises. The caller must not wait then.
    #[cold]
    pub(crate) fn waits(&self, py: Python<'_>, waiter: u64, is_limited: bool) -> PyResult<()> {
        let (thing, who) = (self.thing(), Who(waiter));
        let person = who::person(py, waiter)?;
        let deadlock = {
            let mut state = state();
            let State { waits, locks, people, .. } = &mut *state;
            match waits.wait(who, thing, is_limited, locks) {
                None => {
                    let previous = people.insert(who, person);
                    drop(state);
                    drop(previous);
                    return check_order(py, who, thing, self.class()).inspect_err(|_| Self::stops(waiter));
                }
                Some(cycle) => state.describe(py, &cycle, person),
            }
        };
        Err(deadlock.raise(py))
    }

    /// He does not wait for it any more.
    #[cold]
    pub(crate) fn stops(waiter: u64) {
        let mut state = state();
        state.waits.stop_waiting(Who(waiter));
        let person = state.people.remove(&Who(waiter));
        drop(state);
        drop(person);
    }

    /// Somebody waits at this place in the line.
    #[cold]
    pub(crate) fn joins(&self, ticket: Ticket, waiter: u64) {
        state().places.insert((self.thing(), ticket), Who(waiter));
    }

    /// Who waited at this place in the line does not any more; with `has_it`, because it is his.
    #[cold]
    pub(crate) fn leaves(&self, ticket: Ticket, has_it: bool) {
        let thing = self.thing();
        let Some(who) = state().places.remove(&(thing, ticket)) else { return };
        Self::stops(who.0);
        if has_it {
            state().hold(who, thing, self.class());
        }
    }

    /// It is given to somebody who waits.
    #[cold]
    pub(crate) fn handed(&self, heir: u64) {
        let (thing, class) = (self.thing(), self.class());
        state().hold(Who(heir), thing, class);
    }

    /// Whoever has it is about to let go of it.
    #[cold]
    pub(crate) fn given(&self) {
        state().let_go(self.thing());
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if is_on() && self.thing.load(Ordering::Relaxed) != 0 {
            state().let_go(self.thing());
        }
    }
}

/// Sets the classes of locks whose birthplace is not known apart from the others.
const NAMELESS: u64 = 1 << 63;

/// A map by numbers that nobody outside chooses, so no hash has to stand up to anybody.
type ByNumber<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// Source: Knuth, The Art of Computer Programming 3, section 6.4, on multiplicative hashing.
#[derive(Default)]
struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(32) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

#[derive(Default)]
struct State {
    waits: Waits,
    locks: Locks,
    held: ByNumber<Who, Vec<(Thing, Class)>>,
    places: HashMap<(Thing, Ticket), Who>,
    /// Those who wait, as Python knows them: the identity of a thread, or a task.
    people: HashMap<Who, Py<PyAny>>,
    orders: Orders<Arc<str>>,
    classes: HashMap<Arc<str>, Class>,
    sites: Vec<Arc<str>>,
}

#[derive(Default)]
struct Locks {
    /// Who has each that somebody has, and where it was made.
    owners: ByNumber<Thing, (Who, Class)>,
    /// The threads of tasks that have locks.
    threads: ByNumber<Who, Who>,
}

impl Holders for Locks {
    fn holders(&self, thing: Thing) -> Vec<Who> {
        self.owners.get(&thing).map(|(who, _)| *who).into_iter().collect()
    }

    fn thread_of(&self, who: Who) -> Option<Who> {
        self.threads.get(&who).copied()
    }
}

impl State {
    fn class_of(&mut self, site: &str) -> Class {
        if let Some(class) = self.classes.get(site) {
            return *class;
        }
        let site: Arc<str> = site.into();
        self.sites.push(Arc::clone(&site));
        let class = Class(self.sites.len() as u64);
        self.classes.insert(site, class);
        class
    }

    fn site_of(&self, class: Class) -> Option<Arc<str>> {
        let index = usize::try_from(class.0).ok()?.checked_sub(1)?;
        self.sites.get(index).cloned()
    }

    /// Whether it was seen before that somebody who holds what `who` does takes a lock of `class`.
    fn is_in_order(&self, who: Who, class: Class) -> bool {
        let held = self.held.get(&who).map(Vec::as_slice).unwrap_or_default();
        let chain = held.iter().fold(Chain::EMPTY, |chain, (_, class)| chain.with(*class));
        held.is_empty() || self.orders.is_known(chain.with(class))
    }

    fn hold(&mut self, who: Who, thing: Thing, class: Class) {
        if self.locks.owners.insert(thing, (who, class)).is_some_and(|(owner, _)| owner == who) {
            return;
        }
        if who::is_task(who.0) {
            self.locks.threads.insert(who, Who(who::this_thread()));
        }
        self.held.entry(who).or_default().push((thing, class));
    }

    fn let_go(&mut self, thing: Thing) {
        let Some((who, _)) = self.locks.owners.remove(&thing) else { return };
        let Some(held) = self.held.get_mut(&who) else { return };
        held.retain(|(held, _)| *held != thing);
        // A thread takes the next one soon; a task may be over.
        if held.is_empty() && who::is_task(who.0) {
            self.held.remove(&who);
            self.locks.threads.remove(&who);
        }
    }

    /// What there is to say of a cycle, which the one who `closes` it has found.
    fn describe(&self, py: Python<'_>, cycle: &[Link], closes: Py<PyAny>) -> Deadlock {
        let mut closes = Some(closes);
        let links = cycle.iter().map(|link| {
            let person = self.people.get(&link.who).map(|person| person.clone_ref(py));
            let lock = self.locks.owners.get(&link.thing);
            let site = lock.and_then(|(_, class)| self.site_of(*class));
            (closes.take().or(person), site.map(|site| site.to_string()))
        });
        Deadlock(links.collect())
    }
}

/// A cycle: who waits, and where the lock was made that he waits for.
struct Deadlock(Vec<(Option<Py<PyAny>>, Option<String>)>);

impl Deadlock {
    fn raise(self, py: Python<'_>) -> PyErr {
        call(py, "deadlock", (self.0,)).map_or_else(|failure| failure, PyErr::from_value)
    }
}

/// Warns if `who` takes `thing` in an order that contradicts another.
fn check_order(py: Python<'_>, who: Who, thing: Thing, class: Class) -> PyResult<()> {
    let held: Vec<Class> = {
        let state = state();
        if state.is_in_order(who, class) {
            return Ok(());
        }
        let held = state.held.get(&who).map(Vec::as_slice).unwrap_or_default();
        held.iter().filter(|(held, _)| *held != thing).map(|(_, class)| *class).collect()
    };
    let stack: Arc<str> = call(py, "stack", ())?.extract::<String>()?.into();
    let inversions = state().orders.take(&held, class, || Arc::clone(&stack));
    for Inversion { held, taken, sites, .. } in inversions {
        let (held, taken) = {
            let state = state();
            (state.site_of(held), state.site_of(taken))
        };
        let before: Vec<String> = sites.iter().map(ToString::to_string).collect();
        let sites = (held.as_deref().map(str::to_owned), taken.as_deref().map(str::to_owned));
        call(py, "warn_of_order", (sites.0, sites.1, &*stack, before))?;
    }
    Ok(())
}

fn call<'py>(
    py: Python<'py>,
    function: &str,
    arguments: impl PyCallArgs<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    py.import("manyhands._deadlock")?.getattr(function)?.call1(arguments)
}
