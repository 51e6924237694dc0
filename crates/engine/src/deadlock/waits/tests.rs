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

#[test]
fn two_who_wait_for_each_other() {
    let mut waits = Waits::new();
    waits.hold(ANN, None, CUP);
    waits.hold(BOB, None, JUG);
    assert_eq!(waits.wait(ANN, JUG, false), None);
    assert_eq!(waits.wait(BOB, CUP, false), Some(vec![link(BOB, CUP, ANN), link(ANN, JUG, BOB)]));
    // Whoever is told does not wait: the other can go on as soon as he lets go.
    waits.release(BOB, JUG);
    waits.stop_waiting(ANN);
    waits.hold(ANN, None, JUG);
    assert_eq!(waits.wait(BOB, CUP, false), None);
}

#[test]
fn three_in_a_ring_and_one_with_himself() {
    let mut waits = Waits::new();
    for (who, thing) in [(ANN, CUP), (BOB, JUG), (CAT, PAN)] {
        waits.hold(who, None, thing);
    }
    assert_eq!(waits.wait(ANN, JUG, false), None);
    assert_eq!(waits.wait(BOB, PAN, false), None);
    let cycle = vec![link(CAT, CUP, ANN), link(ANN, JUG, BOB), link(BOB, PAN, CAT)];
    assert_eq!(waits.wait(CAT, CUP, false), Some(cycle));
    assert_eq!(waits.wait(CAT, PAN, false), Some(vec![link(CAT, PAN, CAT)]));
}

#[test]
fn a_writer_waits_for_each_of_the_readers() {
    let mut waits = Waits::new();
    waits.hold(ANN, None, CUP);
    waits.hold(BOB, None, CUP);
    waits.hold(CAT, None, JUG);
    assert_eq!(waits.wait(BOB, JUG, false), None);
    assert_eq!(waits.wait(CAT, CUP, false), Some(vec![link(CAT, CUP, BOB), link(BOB, JUG, CAT)]));
}

#[test]
fn whoever_gives_up_by_himself_keeps_nobody_for_ever() {
    let mut waits = Waits::new();
    waits.hold(ANN, None, CUP);
    waits.hold(BOB, None, JUG);
    assert_eq!(waits.wait(ANN, JUG, true), None);
    assert_eq!(waits.wait(BOB, CUP, false), None);
    waits.stop_waiting(ANN);
    assert_eq!(waits.wait(ANN, JUG, true), None);
    waits.stop_waiting(ANN);
    assert!(waits.wait(ANN, JUG, false).is_some());
}

#[test]
fn a_task_waits_with_its_thread() {
    let (thread, task) = (ANN, BOB);
    let mut waits = Waits::new();
    waits.hold(task, Some(thread), CUP);
    // The thread itself sleeps for what only its own task can give it.
    assert_eq!(waits.wait(thread, CUP, false), Some(vec![link(thread, CUP, task)]));
    // Another thread sleeps for it, which is fine as long as that one runs.
    assert_eq!(waits.wait(CAT, CUP, false), None);
    waits.hold(CAT, None, JUG);
    let cycle = vec![link(thread, JUG, CAT), link(CAT, CUP, task)];
    assert_eq!(waits.wait(thread, JUG, false), Some(cycle));
    waits.release(task, CUP);
    assert_eq!(waits.wait(thread, JUG, false), None);
}

#[test]
fn what_was_taken_twice_is_held_until_it_is_let_go_twice() {
    let mut waits = Waits::new();
    waits.hold(ANN, None, CUP);
    waits.hold(ANN, None, CUP);
    assert_eq!(waits.release(ANN, CUP), Some(ANN));
    assert_eq!(waits.holders(CUP), [ANN]);
    // A lock may be released by another than took it.
    assert_eq!(waits.release(BOB, CUP), Some(ANN));
    assert_eq!(waits.holders(CUP), []);
    assert_eq!(waits.release(BOB, CUP), None);
    waits.hold(ANN, Some(CAT), CUP);
    waits.forget(CUP);
    assert_eq!(waits.holders(CUP), []);
    assert!(waits.threads.is_empty() && waits.held.is_empty() && waits.holders.is_empty());
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
                        waits.hold(Who(who), None, Thing(thing));
                        continue;
                    }
                    let found = waits.wait(Who(who), Thing(thing), is_limited);
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
                    prop_assert_eq!(waits.release(Who(who), Thing(thing)), Some(Who(who)));
                    machine.owner.remove(&thing);
                    // The first of those who wait for it has it.
                    let heir = machine.waits.iter().find(|(_, wait)| wait.0 == thing).map(|(heir, _)| *heir);
                    if let Some(heir) = heir {
                        machine.waits.remove(&heir);
                        machine.owner.insert(thing, heir);
                        waits.stop_waiting(Who(heir));
                        waits.hold(Who(heir), None, Thing(thing));
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
