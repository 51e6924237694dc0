//! Who has what, who waits for what, and where each was made.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use manyhands_engine::deadlock::orders::{Chain, Class, Orders};
use manyhands_engine::deadlock::waits::{Holders, Holding, Link, Manner, Thing, Waits, Who};
use manyhands_engine::line::Ticket;
use pyo3::prelude::*;

use super::asleep::Rounds;
use super::conditions::Conditions;
use crate::future::Future;
use crate::sync::who;

static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);

/// While this is held, no Python code runs, and no object is made or freed.
pub(super) fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A map by numbers that nobody outside chooses, so no hash has to stand up to anybody.
pub(super) type ByNumber<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// Source: Knuth, The Art of Computer Programming 3, section 6.4, on multiplicative hashing.
#[derive(Default)]
pub(super) struct NumberHasher(u64);

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
pub(super) struct State {
    pub(super) waits: Waits,
    pub(super) holders: Held,
    pub(super) orders: Orders<Arc<str>>,
    pub(super) conditions: Conditions,
    pub(super) rounds: Rounds,
    /// What each has, in the order of taking.
    held: ByNumber<Who, Vec<(Thing, Class)>>,
    places: HashMap<(Thing, Ticket), Who>,
    people: HashMap<Who, Person>,
    classes: HashMap<Arc<str>, Class>,
    sites: Vec<Arc<str>>,
}

/// Somebody who waits.
pub(super) struct Person {
    /// As Python knows him: the identity of a thread, or a task.
    pub(super) object: Py<PyAny>,
    pub(super) what: What,
}

/// What somebody waits for, as he is told of it.
pub(super) enum What {
    /// Such a thing, of that class.
    Made(&'static str, Class),
    Result(String),
}

/// Who holds what.
#[derive(Default)]
pub(super) struct Held {
    /// Who has each that somebody has alone, and where it was made.
    owners: ByNumber<Thing, (Who, Class)>,
    /// Those who have something together, each as often as he took it.
    sharers: ByNumber<Thing, Vec<Who>>,
    /// Of how many permits each semaphore is that is waited for.
    permits: ByNumber<Thing, usize>,
    /// Those who wait to write in front of somebody who waits to read.
    ahead: ByNumber<Who, Vec<Who>>,
    /// Results that are waited for, and who might bring them.
    results: ByNumber<Thing, Awaited>,
    /// The threads of tasks that have something.
    threads: ByNumber<Who, Who>,
    /// The names of threads that have had something.
    names: ByNumber<Who, String>,
    gone: HashSet<Who>,
}

/// A result that somebody waits for.
struct Awaited {
    future: Py<Future>,
    holding: Holding,
    waiters: usize,
}

impl Holders for Held {
    fn holders(&self, waiter: Who, thing: Thing) -> Holding {
        if let Some((owner, _)) = self.owners.get(&thing) {
            return Holding::All(vec![*owner]);
        }
        if let Some(awaited) = self.results.get(&thing) {
            let is_done = awaited.future.get().state().is_done();
            return if is_done { Holding::All(Vec::new()) } else { awaited.holding.clone() };
        }
        let sharers = self.sharers.get(&thing).cloned().unwrap_or_default();
        match (self.permits.get(&thing), self.ahead.get(&waiter)) {
            // A permit that was taken by other means may come back from anywhere.
            (Some(permits), _) if *permits != sharers.len() => Holding::Any(Vec::new()),
            (Some(_), _) => Holding::Any(sharers),
            (None, Some(ahead)) => Holding::All(ahead.clone()),
            (None, None) => Holding::All(sharers),
        }
    }

    fn thread_of(&self, who: Who) -> Option<Who> {
        self.threads.get(&who).copied()
    }

    fn is_gone(&self, who: Who) -> bool {
        self.gone.contains(&who)
    }
}

impl State {
    pub(super) fn class_of(&mut self, site: &str) -> Class {
        if let Some(class) = self.classes.get(site) {
            return *class;
        }
        let site: Arc<str> = site.into();
        self.sites.push(Arc::clone(&site));
        let class = Class(self.sites.len() as u64);
        self.classes.insert(site, class);
        class
    }

    pub(super) fn site_of(&self, class: Class) -> Option<Arc<str>> {
        let index = usize::try_from(class.0).ok()?.checked_sub(1)?;
        self.sites.get(index).cloned()
    }

    pub(super) fn is_owned(&self, thing: Thing) -> bool {
        self.holders.owners.contains_key(&thing)
    }

    pub(super) fn held_by(&self, who: Who) -> &[(Thing, Class)] {
        self.held.get(&who).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether it was seen before that somebody who holds what `who` does, but for `thing`, takes a lock of `class`.
    pub(super) fn is_in_order(&self, who: Who, thing: Thing, class: Class) -> bool {
        let others = self.held_by(who).iter().filter(|(held, _)| *held != thing);
        let chain = others.fold(Chain::EMPTY, |chain, (_, class)| chain.with(*class));
        chain == Chain::EMPTY || self.orders.is_known(chain.with(class))
    }

    /// `who`, who is or runs on that thread, has it alone.
    pub(super) fn hold(&mut self, who: Who, thread: u64, thing: Thing, class: Class) {
        self.receive(who, thing);
        if self.holders.owners.insert(thing, (who, class)).is_some_and(|(owner, _)| owner == who) {
            return;
        }
        self.keep(who, thread, thing, class);
    }

    /// He has it with others.
    pub(super) fn share(&mut self, who: Who, thread: u64, thing: Thing, class: Class) {
        self.receive(who, thing);
        self.holders.sharers.entry(thing).or_default().push(who);
        self.keep(who, thread, thing, class);
    }

    fn receive(&mut self, who: Who, thing: Thing) {
        if self.waits.receive(who, thing) {
            self.rounds.change(who);
        }
    }

    /// He has one of its permits.
    pub(super) fn permit(&mut self, who: Who, thing: Thing) {
        self.holders.sharers.entry(thing).or_default().push(who);
    }

    fn keep(&mut self, who: Who, thread: u64, thing: Thing, class: Class) {
        if who::is_within_thread(who.0) {
            self.holders.threads.insert(who, Who(thread));
        }
        self.held.entry(who).or_default().push((thing, class));
    }

    /// Whoever has it alone lets go of it.
    pub(super) fn let_go(&mut self, thing: Thing) {
        if let Some((who, _)) = self.holders.owners.remove(&thing) {
            self.lose(who, thing);
        }
    }

    /// He shares it no more, once.
    pub(super) fn leave(&mut self, who: Who, thing: Thing) {
        let Some(sharers) = self.holders.sharers.get_mut(&thing) else { return };
        let Some(position) = sharers.iter().position(|sharer| *sharer == who) else { return };
        sharers.swap_remove(position);
        if sharers.is_empty() {
            self.holders.sharers.remove(&thing);
        }
        self.lose(who, thing);
    }

    fn lose(&mut self, who: Who, thing: Thing) {
        let Some(held) = self.held.get_mut(&who) else { return };
        if let Some(position) = held.iter().rposition(|(held, _)| *held == thing) {
            held.remove(position);
        }
        // A thread takes the next one soon; a task may be over.
        if held.is_empty() && who::is_within_thread(who.0) {
            self.held.remove(&who);
            self.holders.threads.remove(&who);
        }
    }

    /// Somebody waits; returns who had that number before, to be freed later, and the cycle if there is one.
    pub(super) fn wait(
        &mut self,
        who: Who,
        person: Person,
        thing: Thing,
        manner: Manner,
    ) -> (Option<Person>, Option<Vec<Link>>) {
        self.rounds.change(who);
        let previous = self.people.insert(who, person);
        (previous, self.waits.wait(who, thing, manner, &self.holders))
    }

    /// Whether somebody who waits would do so for ever.
    pub(super) fn look(&mut self, who: Who) -> Option<Vec<Link>> {
        self.waits.look(who, &self.holders)
    }

    pub(super) fn stop(&mut self, who: Who) -> Option<Person> {
        self.rounds.change(who);
        self.waits.stop_waiting(who);
        self.holders.ahead.remove(&who);
        for ahead in self.holders.ahead.values_mut() {
            ahead.retain(|other| *other != who);
        }
        self.people.remove(&who)
    }

    pub(super) fn join(&mut self, place: (Thing, Ticket), who: Who) {
        self.places.insert(place, who);
    }

    pub(super) fn leave_place(&mut self, place: (Thing, Ticket)) -> Option<Who> {
        self.places.remove(&place)
    }

    /// `who` waits to read, behind those who wait to write.
    pub(super) fn queue_behind(&mut self, who: Who, ahead: Vec<Who>) {
        self.holders.ahead.insert(who, ahead);
    }

    pub(super) fn set_permits(&mut self, thing: Thing, permits: usize) {
        self.holders.permits.insert(thing, permits);
    }

    /// One more waits for a result, which these might bring; returns the future if it was known, to be freed later.
    pub(super) fn add_result(
        &mut self,
        result: Thing,
        future: Py<Future>,
        holding: Holding,
    ) -> Option<Py<Future>> {
        match self.holders.results.entry(result) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.waiters += 1;
                known.holding = holding;
                Some(future)
            }
            Entry::Vacant(place) => {
                place.insert(Awaited { future, holding, waiters: 1 });
                None
            }
        }
    }

    /// Whether anybody waits for that result.
    pub(super) fn awaits(&self, result: Thing) -> bool {
        self.holders.results.contains_key(&result)
    }

    /// It is known better who might bring a result, if anybody still waits for it.
    pub(super) fn set_holding(&mut self, result: Thing, holding: Holding) {
        if let Some(known) = self.holders.results.get_mut(&result) {
            known.holding = holding;
        }
    }

    /// One fewer waits for a result; returns the future if nobody does any more, to be freed later.
    pub(super) fn take_result(&mut self, result: Thing) -> Option<Py<Future>> {
        let known = self.holders.results.get_mut(&result)?;
        known.waiters -= 1;
        if known.waiters > 0 {
            return None;
        }
        self.holders.results.remove(&result).map(|awaited| awaited.future)
    }

    pub(super) fn set_thread(&mut self, task: Who, thread: Who) {
        self.holders.threads.insert(task, thread);
    }

    pub(super) fn name_thread(&mut self, who: Who, name: String) {
        self.holders.names.insert(who, name);
    }

    /// A thread has ended: what it has it keeps.
    pub(super) fn end_thread(&mut self, who: Who) {
        if self.held.remove(&who).is_some_and(|held| !held.is_empty()) {
            self.holders.gone.insert(who);
        } else {
            self.holders.names.remove(&who);
        }
    }

    /// The thing is no more.
    pub(super) fn forget(&mut self, thing: Thing) {
        self.let_go(thing);
        while let Some(who) = self.holders.sharers.get(&thing).and_then(|sharers| sharers.first().copied()) {
            self.leave(who, thing);
        }
        self.holders.permits.remove(&thing);
        self.conditions.forget(thing);
    }

    /// What there is to say of a cycle.
    pub(super) fn describe(&self, py: Python<'_>, cycle: &[Link]) -> super::Deadlock {
        let links = cycle.iter().map(|link| {
            let person = self.people.get(&link.who).map(|person| person.object.clone_ref(py));
            (person, self.what(link.who), self.name(py, link.holder))
        });
        super::Deadlock(links.collect())
    }

    /// What there is to say of somebody who waits, for a lock of somebody's or for what nobody will bring.
    pub(super) fn tell(&self, py: Python<'_>, who: Who) -> Option<super::Told> {
        let owner = self.waits.awaited(who, Manner::Endless).and_then(|thing| self.owner_of(thing));
        let name = owner.and_then(|owner| self.name(py, owner));
        let name = name.unwrap_or_else(|| pyo3::types::PyString::new(py, "").into_any().unbind());
        Some((Some(self.object_of(py, who)?), self.what(who), Some(name)))
    }

    pub(super) fn object_of(&self, py: Python<'_>, who: Who) -> Option<Py<PyAny>> {
        self.people.get(&who).map(|person| person.object.clone_ref(py))
    }

    pub(super) fn owner_of(&self, thing: Thing) -> Option<Who> {
        self.holders.owners.get(&thing).map(|(owner, _)| *owner)
    }

    fn what(&self, who: Who) -> String {
        match self.people.get(&who).map(|person| &person.what) {
            Some(What::Result(text)) => text.clone(),
            Some(What::Made(noun, class)) => super::made(noun, self.site_of(*class).as_deref()),
            None => super::made("lock", None),
        }
    }

    /// Somebody who has something: as Python knows him, or by his name.
    fn name(&self, py: Python<'_>, holder: Who) -> Option<Py<PyAny>> {
        let keepers = [Some(holder), self.holders.thread_of(holder)];
        let person = keepers.into_iter().flatten().find_map(|who| self.people.get(&who));
        if let Some(person) = person {
            return Some(person.object.clone_ref(py));
        }
        let name = self.holders.names.get(&holder)?;
        let end = if self.holders.is_gone(holder) { " (which has ended)" } else { "" };
        Some(pyo3::types::PyString::new(py, &format!("{name}{end}")).into_any().unbind())
    }
}
