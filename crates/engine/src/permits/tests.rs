use proptest::prelude::*;

use super::*;

type Named = Permits<usize>;

fn taken(permits: &Named, waiter: usize) -> Ticket {
    permits.take_or_join(waiter).expect("none is free")
}

#[test]
fn a_free_permit_is_taken_and_given_back_without_a_line() {
    let permits = Named::new(1, 1);
    assert!(permits.try_take());
    assert!(!permits.try_take());
    assert_eq!(permits.try_give(), Some(Ok(())));
    assert_eq!(permits.try_give(), Some(Err(TooMany)));
}

#[test]
fn the_first_in_line_is_called_and_may_be_forestalled_only_once() {
    let permits = Named::new(0, 1);
    let ticket = taken(&permits, 7);
    assert_eq!(permits.try_give(), None);
    assert!(matches!(permits.give(1, |_| ()).unwrap()[..], [Wake::Called(_, 7)]));
    assert!(permits.try_take(), "a permit that is announced is there for whoever comes first");
    assert!(!permits.poll(ticket));
    let mut handed = Vec::new();
    let wake = permits.give(1, |waiter| handed.push(*waiter)).unwrap();
    assert!(matches!(wake[..], [Wake::Served(7)]));
    assert_eq!(handed, [7]);
    assert!(!permits.try_take());
    assert!(permits.poll(ticket));
}

#[test]
fn who_gives_up_after_a_call_passes_it_on() {
    let permits = Named::new(0, 1);
    let first = taken(&permits, 1);
    let second = taken(&permits, 2);
    let _ = permits.give(1, |_| ()).unwrap();
    let GaveUp::Left(wake) = permits.leave(first) else { panic!("he was only called") };
    assert!(matches!(wake[..], [Wake::Called(_, 2)]));
    assert!(permits.poll(second));
    assert_eq!(permits.try_give(), Some(Ok(())), "nobody waits any more");
}

#[test]
fn who_gives_up_after_he_was_served_has_it() {
    let permits = Named::new(0, 1);
    let ticket = taken(&permits, 1);
    let _ = permits.give(1, |_| ()).unwrap();
    assert!(permits.try_take());
    assert!(!permits.poll(ticket));
    let _ = permits.give(1, |_| ()).unwrap();
    assert!(matches!(permits.leave(ticket), GaveUp::Holds));
}

#[test]
fn who_comes_in_his_turn_forestalls_nobody() {
    let permits = Named::new(0, 2);
    let first = taken(&permits, 1);
    let _ = permits.give(1, |_| ()).unwrap();
    assert!(!permits.try_take_in_turn(), "it is announced to the first");
    let (second, wake) = permits.take_in_turn_or_join(2).expect("somebody waits");
    assert!(wake.is_empty(), "it is announced to the first");
    let wake = permits.give(1, |_| ()).unwrap();
    assert!(matches!(wake[..], [Wake::Called(_, 2)]));
    assert!(permits.poll(first));
    assert!(permits.poll(second));
    assert!(permits.take_in_turn_or_join(3).is_some());
}

#[test]
fn who_comes_in_his_turn_and_finds_enough_is_called_at_once() {
    let permits = Named::new(0, 2);
    let first = taken(&permits, 1);
    let _ = permits.give(2, |_| ()).unwrap();
    let (second, wake) = permits.take_in_turn_or_join(2).expect("somebody waits");
    assert!(matches!(wake[..], [Wake::Called(_, 2)]));
    assert!(permits.poll(first));
    assert!(permits.poll(second));
    assert_eq!(permits.try_give(), Some(Ok(())));
    assert!(permits.try_take_in_turn(), "nobody waits any more");
}

proptest! {
    /// Random histories of three who take, two at a time at most, give, come when called, and give up.
    #[test]
    fn permits_are_neither_lost_nor_made(steps in prop::collection::vec((0_usize..5, 0_usize..3), 1..60)) {
        let permits = Named::new(2, 2);
        let mut held = 0;
        let mut tickets = [None; 3];
        let mut called = Vec::new();
        let note = |wakes: Vec<Wake<usize>>, called: &mut Vec<usize>| {
            for wake in wakes {
                let (Wake::Called(_, waiter) | Wake::Served(waiter)) = wake;
                called.push(waiter);
            }
        };
        for (step, who) in steps {
            match (step, tickets[who]) {
                (0, None) => match permits.take_or_join(who) {
                    None => held += 1,
                    ticket => tickets[who] = ticket,
                },
                (4, None) => match permits.take_in_turn_or_join(who) {
                    None => held += 1,
                    Some((ticket, wakes)) => {
                        tickets[who] = Some(ticket);
                        note(wakes, &mut called);
                    }
                },
                (1, _) if held > 0 => {
                    held -= 1;
                    match permits.try_give() {
                        Some(given) => prop_assert_eq!(given, Ok(())),
                        None => note(permits.give(1, |_| ()).unwrap(), &mut called),
                    }
                }
                (2, Some(ticket)) => {
                    if let GaveUp::Left(wakes) = permits.leave(ticket) { note(wakes, &mut called) } else { held += 1 }
                    tickets[who] = None;
                    called.retain(|waiter| *waiter != who);
                }
                (3, Some(ticket)) if called.contains(&who) => {
                    called.retain(|waiter| *waiter != who);
                    if permits.poll(ticket) {
                        held += 1;
                        tickets[who] = None;
                    }
                }
                _ => {}
            }
            let waiting = tickets.iter().flatten().count();
            prop_assert!(waiting == 0 || permits.free() == 0 || !called.is_empty(), "a permit and a waiter never meet");
        }
        // Those who were called come; then nobody is left who could have been served.
        while let Some(who) = called.pop() {
            if let Some(ticket) = tickets[who] && permits.poll(ticket) {
                held += 1;
                tickets[who] = None;
            }
        }
        prop_assert_eq!(held + permits.free(), 2);
    }
}
