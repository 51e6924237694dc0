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
    permits: BTreeSet<u64>,
    gone: BTreeSet<u64>,
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
    fn holders(&self, _who: Who, thing: Thing) -> Holding {
        let holders = self.holders.get(&thing.0).cloned().unwrap_or_default();
        if self.permits.contains(&thing.0) { Holding::Any(holders) } else { Holding::All(holders) }
    }

    fn is_gone(&self, who: Who) -> bool {
        self.gone.contains(&who.0)
    }

    fn thread_of(&self, who: Who) -> Option<Who> {
        self.threads.get(&who.0).copied()
    }
}

#[test]
fn two_who_wait_for_each_other() {
    let mut waits = Waits::new();
    let held = Held::by([(CUP, ANN), (JUG, BOB)]);
    assert_eq!(waits.wait(ANN, JUG, Manner::Endless, &held), None);
    assert_eq!(
        waits.wait(BOB, CUP, Manner::Endless, &held),
        Some(vec![link(BOB, CUP, ANN), link(ANN, JUG, BOB)])
    );
    // Whoever is told does not wait: the other can go on as soon as he lets go.
    waits.stop_waiting(ANN);
    assert_eq!(waits.wait(BOB, CUP, Manner::Endless, &Held::by([(CUP, ANN), (JUG, ANN)])), None);
}

#[test]
fn three_in_a_ring_and_one_with_himself() {
    let mut waits = Waits::new();
    let held = Held::by([(CUP, ANN), (JUG, BOB), (PAN, CAT)]);
    assert_eq!(waits.wait(ANN, JUG, Manner::Endless, &held), None);
    assert_eq!(waits.wait(BOB, PAN, Manner::Endless, &held), None);
    let cycle = vec![link(CAT, CUP, ANN), link(ANN, JUG, BOB), link(BOB, PAN, CAT)];
    assert_eq!(waits.wait(CAT, CUP, Manner::Endless, &held), Some(cycle));
    assert_eq!(waits.wait(CAT, PAN, Manner::Endless, &held), Some(vec![link(CAT, PAN, CAT)]));
}

#[test]
fn a_writer_waits_for_each_of_the_readers() {
    let mut waits = Waits::new();
    let held = Held::by([(CUP, ANN), (CUP, BOB), (JUG, CAT)]);
    assert_eq!(waits.wait(BOB, JUG, Manner::Endless, &held), None);
    assert_eq!(
        waits.wait(CAT, CUP, Manner::Endless, &held),
        Some(vec![link(CAT, CUP, BOB), link(BOB, JUG, CAT)])
    );
}

#[test]
fn whoever_gives_up_by_himself_keeps_nobody_for_ever() {
    let mut waits = Waits::new();
    let held = Held::by([(CUP, ANN), (JUG, BOB)]);
    assert_eq!(waits.wait(ANN, JUG, Manner::Limited, &held), None);
    assert_eq!(waits.wait(BOB, CUP, Manner::Endless, &held), None);
    waits.stop_waiting(ANN);
    assert_eq!(waits.wait(ANN, JUG, Manner::Limited, &held), None);
    waits.stop_waiting(ANN);
    assert!(waits.wait(ANN, JUG, Manner::Endless, &held).is_some());
}

#[test]
fn a_task_waits_with_its_thread() {
    let (thread, task) = (ANN, BOB);
    let mut waits = Waits::new();
    let mut held = Held::by([(CUP, task), (JUG, CAT)]);
    held.threads.insert(task.0, thread);
    // The thread itself sleeps for what only its own task can give it.
    assert_eq!(waits.wait(thread, CUP, Manner::Endless, &held), Some(vec![link(thread, CUP, task)]));
    // Another thread sleeps for it, which is fine as long as that one runs.
    assert_eq!(waits.wait(CAT, CUP, Manner::Endless, &held), None);
    let cycle = vec![link(thread, JUG, CAT), link(CAT, CUP, task)];
    assert_eq!(waits.wait(thread, JUG, Manner::Endless, &held), Some(cycle));
    held.holders.remove(&CUP.0);
    assert_eq!(waits.wait(thread, JUG, Manner::Endless, &held), None);
}

#[test]
fn of_several_permits_any_will_do() {
    let mut waits = Waits::new();
    let mut held = Held::by([(CUP, ANN), (CUP, BOB), (JUG, CAT)]);
    held.permits.insert(CUP.0);
    assert_eq!(waits.wait(ANN, JUG, Manner::Endless, &held), None);
    assert_eq!(waits.wait(CAT, CUP, Manner::Endless, &held), None, "as long as one of them goes on");
    let links = waits.wait(BOB, CUP, Manner::Endless, &held).expect("nobody goes on");
    assert_eq!(links[0].who, BOB);
    let mut told: Vec<Who> = links.iter().map(|link| link.who).collect();
    told.sort();
    assert_eq!(told, [ANN, BOB, CAT]);
}

#[test]
fn whoever_is_gone_lets_go_of_nothing() {
    let mut waits = Waits::new();
    let mut held = Held::by([(CUP, ANN), (JUG, BOB)]);
    assert_eq!(waits.wait(BOB, CUP, Manner::Endless, &held), None);
    assert_eq!(waits.wait(CAT, JUG, Manner::Endless, &held), None);
    held.gone.insert(ANN.0);
    let behind = vec![link(CAT, JUG, BOB), link(BOB, CUP, ANN)];
    assert_eq!(waits.look(CAT, &held), Some(behind));
    assert_eq!(waits.look(BOB, &held), Some(vec![link(BOB, CUP, ANN)]));
    assert_eq!(waits.look(BOB, &held), None, "he waits no more");
}

#[test]
fn whoever_was_given_what_he_waits_for_is_not_stuck_before_he_wakes() {
    let mut waits = Waits::new();
    assert_eq!(waits.wait(ANN, CUP, Manner::Endless, &Held::by([(CUP, BOB)])), None);
    let handed = Held::by([(CUP, ANN)]);
    assert!(!waits.receive(ANN, JUG));
    assert!(waits.wait(CAT, CUP, Manner::Endless, &handed).is_some(), "it was something else");
    assert!(waits.receive(ANN, CUP));
    assert_eq!(waits.wait(CAT, CUP, Manner::Endless, &handed), None);
}

#[test]
fn whoever_waits_stubbornly_keeps_others_but_is_not_told() {
    let mut waits = Waits::new();
    let held = Held::by([(CUP, ANN), (JUG, BOB)]);
    assert_eq!(waits.wait(ANN, JUG, Manner::Stubborn, &held), None);
    let cycle = vec![link(BOB, CUP, ANN), link(ANN, JUG, BOB)];
    assert_eq!(waits.wait(BOB, CUP, Manner::Endless, &held), Some(cycle));
    assert_eq!(waits.wait(BOB, CUP, Manner::Stubborn, &held), None);
    assert_eq!(waits.look(ANN, &held), None);
    assert_eq!(
        (waits.awaited(ANN, Manner::Stubborn), waits.awaited(ANN, Manner::Endless)),
        (Some(JUG), None)
    );
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

/// Of these there are two, and any will do.
fn is_shared(thing: u64) -> bool {
    thing >= 3
}

/// A machine with locks, in which whoever would complete a deadlock is told, and goes on.
#[derive(Default)]
struct Machine {
    owners: BTreeMap<u64, Vec<u64>>,
    waits: BTreeMap<u64, (u64, bool)>,
}

impl Holders for Machine {
    fn holders(&self, _who: Who, thing: Thing) -> Holding {
        let owners = self.owners.get(&thing.0).into_iter().flatten().map(|owner| Who(*owner)).collect();
        if is_shared(thing.0) { Holding::Any(owners) } else { Holding::All(owners) }
    }

    fn is_gone(&self, _who: Who) -> bool {
        false
    }

    fn thread_of(&self, _who: Who) -> Option<Who> {
        None
    }
}

impl Machine {
    /// Takes the thing if it is free; else waits for it.
    fn take(&mut self, who: u64, thing: u64, is_limited: bool) -> bool {
        let owners = self.owners.entry(thing).or_default();
        let is_free = owners.len() < if is_shared(thing) { 2 } else { 1 };
        if is_free {
            owners.push(who);
        } else {
            self.waits.insert(who, (thing, is_limited));
        }
        is_free
    }

    /// Whether `who` would be stuck for ever, found by letting everybody go on who can.
    fn is_stuck(&self, who: u64) -> bool {
        let mut free: BTreeSet<u64> =
            (0..5).filter(|it| self.waits.get(it).is_none_or(|wait| wait.1)).collect();
        loop {
            // One of several owners is enough, and of a lock there is only one.
            let can_go = |it: &u64| {
                let is_free = |owner: &u64| free.contains(owner);
                !free.contains(it) && self.owners[&self.waits[it].0].iter().any(is_free)
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
                    let manner = if is_limited { Manner::Limited } else { Manner::Endless };
                    let found = waits.wait(Who(who), Thing(thing), manner, &machine);
                    prop_assert_eq!(found.is_some(), machine.is_stuck(who));
                    if let Some(links) = found {
                        machine.waits.remove(&who);
                        prop_assert_eq!(links[0].who, Who(who));
                        let told: BTreeSet<u64> = links.iter().map(|link| link.who.0).collect();
                        prop_assert_eq!(told.len(), links.len(), "each is told of once");
                        for link in &links {
                            let owners = &machine.owners[&link.thing.0];
                            prop_assert!(owners.contains(&link.holder.0));
                            // Whoever matters is told of.
                            prop_assert!(told.contains(&link.holder.0));
                            prop_assert!(!is_shared(link.thing.0) || owners.iter().all(|it| told.contains(it)));
                        }
                    }
                }
                Step::Release { who } if !machine.waits.contains_key(&who) => {
                    let Some((&thing, _)) = machine.owners.iter().find(|(_, owners)| owners.contains(&who)) else {
                        continue;
                    };
                    let owners = machine.owners.get_mut(&thing).unwrap();
                    let position = owners.iter().position(|owner| *owner == who).unwrap();
                    owners.remove(position);
                    // The first of those who wait for it has it.
                    let heir = machine.waits.iter().find(|(_, wait)| wait.0 == thing).map(|(heir, _)| *heir);
                    if let Some(heir) = heir {
                        machine.waits.remove(&heir);
                        machine.owners.get_mut(&thing).unwrap().push(heir);
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
