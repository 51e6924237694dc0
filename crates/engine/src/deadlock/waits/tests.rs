use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const ANN: Who = Who(1);
const BOB: Who = Who(2);
const CAT: Who = Who(3);
const CUP: Thing = Thing(10);
const JUG: Thing = Thing(11);
const PAN: Thing = Thing(12);

fn link(who: Who, thing: Thing, holder: Who) -> Link {
    Link { who, thing, holder }
}

/// Who holds what, as a test has it.
#[derive(Default)]
struct Held {
    holders: BTreeMap<u64, Vec<Who>>,
    threads: BTreeMap<u64, Who>,
}

impl Held {
    fn by<const N: usize>(pairs: [(Thing, Who); N]) -> Self {
        let mut held = Self::default();
        for (thing, who) in pairs {
            held.holders.entry(thing.0).or_default().push(who);
        }
        held
    }
}

impl Holders for Held {
    fn holders(&self, thing: Thing) -> Vec<Who> {
        self.holders.get(&thing.0).cloned().unwrap_or_default()
    }

    fn thread_of(&self, who: Who) -> Option<Who> {
        self.threads.get(&who.0).copied()
    }
}

#[test]
fn two_who_wait_for_each_other() {
    let mut waits = Waits::new();
    let held = Held::by([(CUP, ANN), (JUG, BOB)]);
    assert_eq!(waits.wait(ANN, JUG, false, &held), None);
    assert_eq!(waits.wait(BOB, CUP, false, &held), Some(vec![link(BOB, CUP, ANN), link(ANN, JUG, BOB)]));
    // Whoever is told does not wait: the other can go on as soon as he lets go.
    waits.stop_waiting(ANN);
    assert_eq!(waits.wait(BOB, CUP, false, &Held::by([(CUP, ANN), (JUG, ANN)])), None);
}

#[test]
fn three_in_a_ring_and_one_with_himself() {
    let mut waits = Waits::new();
    let held = Held::by([(CUP, ANN), (JUG, BOB), (PAN, CAT)]);
    assert_eq!(waits.wait(ANN, JUG, false, &held), None);
    assert_eq!(waits.wait(BOB, PAN, false, &held), None);
    let cycle = vec![link(CAT, CUP, ANN), link(ANN, JUG, BOB), link(BOB, PAN, CAT)];
    assert_eq!(waits.wait(CAT, CUP, false, &held), Some(cycle));
    assert_eq!(waits.wait(CAT, PAN, false, &held), Some(vec![link(CAT, PAN, CAT)]));
}

#[test]
fn a_writer_waits_for_each_of_the_readers() {
    let mut waits = Waits::new();
    let held = Held::by([(CUP, ANN), (CUP, BOB), (JUG, CAT)]);
    assert_eq!(waits.wait(BOB, JUG, false, &held), None);
    assert_eq!(waits.wait(CAT, CUP, false, &held), Some(vec![link(CAT, CUP, BOB), link(BOB, JUG, CAT)]));
}

#[test]
fn whoever_gives_up_by_himself_keeps_nobody_for_ever() {
    let mut waits = Waits::new();
    let held = Held::by([(CUP, ANN), (JUG, BOB)]);
    assert_eq!(waits.wait(ANN, JUG, true, &held), None);
    assert_eq!(waits.wait(BOB, CUP, false, &held), None);
    waits.stop_waiting(ANN);
    assert_eq!(waits.wait(ANN, JUG, true, &held), None);
    waits.stop_waiting(ANN);
    assert!(waits.wait(ANN, JUG, false, &held).is_some());
}

#[test]
fn a_task_waits_with_its_thread() {
    let (thread, task) = (ANN, BOB);
    let mut waits = Waits::new();
    let mut held = Held::by([(CUP, task), (JUG, CAT)]);
    held.threads.insert(task.0, thread);
    // The thread itself sleeps for what only its own task can give it.
    assert_eq!(waits.wait(thread, CUP, false, &held), Some(vec![link(thread, CUP, task)]));
    // Another thread sleeps for it, which is fine as long as that one runs.
    assert_eq!(waits.wait(CAT, CUP, false, &held), None);
    let cycle = vec![link(thread, JUG, CAT), link(CAT, CUP, task)];
    assert_eq!(waits.wait(thread, JUG, false, &held), Some(cycle));
    held.holders.remove(&CUP.0);
    assert_eq!(waits.wait(thread, JUG, false, &held), None);
}

#[derive(Debug, Clone)]
enum Step {
    /// Take a thing if it is free, else wait for it.
    Take {
        who: u64,
        thing: u64,
        is_limited: bool,
    },
    Release {
        who: u64,
    },
    GiveUp {
        who: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0..5_u64;
    let step = prop_oneof![
        4 => (who.clone(), 0..5_u64, prop::bool::weighted(0.2))
            .prop_map(|(who, thing, is_limited)| Step::Take { who, thing, is_limited }),
        2 => who.clone().prop_map(|who| Step::Release { who }),
        1 => who.prop_map(|who| Step::GiveUp { who }),
    ];
    prop::collection::vec(step, 0..120)
}

/// A machine with locks, in which whoever would complete a deadlock is told, and goes on.
#[derive(Default)]
struct Machine {
    owner: BTreeMap<u64, u64>,
    waits: BTreeMap<u64, (u64, bool)>,
}

impl Holders for Machine {
    fn holders(&self, thing: Thing) -> Vec<Who> {
        self.owner.get(&thing.0).map(|owner| Who(*owner)).into_iter().collect()
    }

    fn thread_of(&self, _who: Who) -> Option<Who> {
        None
    }
}

impl Machine {
    /// Takes the thing if it is free; else waits for it.
    fn take(&mut self, who: u64, thing: u64, is_limited: bool) -> bool {
        match self.owner.entry(thing) {
            Entry::Vacant(free) => {
                free.insert(who);
                true
            }
            Entry::Occupied(_) => {
                self.waits.insert(who, (thing, is_limited));
                false
            }
        }
    }

    /// Whether `who` would be stuck for ever, found by letting everybody go on who can.
    fn is_stuck(&self, who: u64) -> bool {
        let mut free: BTreeSet<u64> =
            (0..5).filter(|it| self.waits.get(it).is_none_or(|wait| wait.1)).collect();
        loop {
            let can_go = |it: &u64| {
                !free.contains(it)
                    && self.owner.get(&self.waits[it].0).is_none_or(|owner| free.contains(owner))
            };
            match (0..5).find(can_go) {
                Some(next) => free.insert(next),
                None => return !free.contains(&who),
            };
        }
    }
}

proptest! {
    #[test]
    fn it_finds_deadlocks_and_nothing_else(steps in steps()) {
        let (mut waits, mut machine) = (Waits::new(), Machine::default());
        for step in steps {
            match step {
                Step::Take { who, thing, is_limited } if !machine.waits.contains_key(&who) => {
                    if machine.take(who, thing, is_limited) {
                        continue;
                    }
                    let found = waits.wait(Who(who), Thing(thing), is_limited, &machine);
                    prop_assert_eq!(found.is_some(), machine.is_stuck(who));
                    if let Some(cycle) = found {
                        machine.waits.remove(&who);
                        prop_assert_eq!(cycle[0].who, Who(who));
                        for (at, link) in cycle.iter().enumerate() {
                            prop_assert_eq!(machine.owner[&link.thing.0], link.holder.0);
                            prop_assert_eq!(link.holder, cycle[(at + 1) % cycle.len()].who);
                        }
                    }
                }
                Step::Release { who } if !machine.waits.contains_key(&who) => {
                    let Some((&thing, _)) = machine.owner.iter().find(|(_, owner)| **owner == who) else { continue };
                    machine.owner.remove(&thing);
                    // The first of those who wait for it has it.
                    let heir = machine.waits.iter().find(|(_, wait)| wait.0 == thing).map(|(heir, _)| *heir);
                    if let Some(heir) = heir {
                        machine.waits.remove(&heir);
                        machine.owner.insert(thing, heir);
                        waits.stop_waiting(Who(heir));
                    }
                }
                Step::GiveUp { who } if machine.waits.get(&who).is_some_and(|wait| wait.1) => {
                    machine.waits.remove(&who);
                    waits.stop_waiting(Who(who));
                }
                _ => {}
            }
        }
    }
}
