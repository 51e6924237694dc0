use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const A: Class = Class(1);
const B: Class = Class(2);
const C: Class = Class(3);

#[test]
fn both_orders_of_two_are_told_once() {
    let mut orders = Orders::new();
    assert_eq!(orders.take(&[A], B, || "first"), []);
    let told = Inversion { held: B, taken: A, order: vec![A, B], sites: vec!["first"] };
    assert_eq!(orders.take(&[B], A, || "second"), [told]);
    assert_eq!(orders.take(&[B], A, || "again"), []);
    assert_eq!(orders.take(&[C, B], A, || "and again"), []);
    assert_eq!(orders.take(&[A], B, || "as before"), []);
}

#[test]
fn an_order_may_be_contradicted_in_several_steps() {
    let mut orders = Orders::new();
    assert_eq!(orders.take(&[A], B, || "A, B"), []);
    assert_eq!(orders.take(&[B], C, || "B, C"), []);
    let told = Inversion { held: C, taken: A, order: vec![A, B, C], sites: vec!["A, B", "B, C"] };
    assert_eq!(orders.take(&[C], A, || "C, A"), [told]);
}

#[test]
fn locks_of_one_class_have_no_order() {
    let mut orders = Orders::new();
    assert_eq!(orders.take(&[A], A, || ()), []);
    assert_eq!(orders.take(&[A, B], A, || ()), []);
    assert!(orders.edges.values().all(|after| !after.contains_key(&A) || after.len() == 1));
}

#[test]
fn a_chain_is_known_once_it_was_looked_at() {
    let mut orders = Orders::new();
    let chain = Chain::of(&[A, B]).with(C);
    assert!(!orders.is_known(chain));
    let mut looked = 0;
    assert_eq!(orders.take(&[A, B], C, || looked += 1), []);
    assert!(orders.is_known(chain));
    assert_eq!(looked, 1);
    assert_ne!(Chain::of(&[A, B]), Chain::of(&[B, A]));
}

/// What somebody held when he took something more.
fn takings() -> impl Strategy<Value = Vec<(Vec<u64>, u64)>> {
    prop::collection::vec((prop::collection::vec(0..8_u64, 0..4), 0..8_u64), 0..60)
}

proptest! {
    #[test]
    fn one_order_of_all_is_never_contradicted(takings in takings(), rank in Just((0..8_u64).collect::<Vec<_>>()).prop_shuffle()) {
        let mut orders = Orders::new();
        for (mut held, _) in takings {
            held.sort_by_key(|class| rank[usize::try_from(*class).unwrap()]);
            held.dedup();
            let held: Vec<Class> = held.into_iter().map(Class).collect();
            let Some((taken, held)) = held.split_last() else { continue };
            prop_assert_eq!(orders.take(held, *taken, || ()), []);
        }
    }

    #[test]
    fn the_first_taking_that_closes_a_cycle_is_told(takings in takings()) {
        let mut orders = Orders::new();
        let mut edges: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for (held, taken) in takings {
            let classes: Vec<Class> = held.iter().copied().map(Class).collect();
            let told = orders.take(&classes, Class(taken), || ());
            let contradicts = held.iter().any(|class| *class != taken && reaches(&edges, taken, *class));
            prop_assert_eq!(!told.is_empty(), contradicts);
            for inversion in &told {
                prop_assert_eq!((inversion.order[0], *inversion.order.last().unwrap()), (inversion.taken, inversion.held));
                for pair in inversion.order.windows(2) {
                    prop_assert!(edges[&pair[0].0].contains(&pair[1].0));
                }
            }
            if contradicts {
                break;
            }
            for class in held.into_iter().filter(|class| *class != taken) {
                edges.entry(class).or_default().insert(taken);
            }
        }
    }
}

fn reaches(edges: &BTreeMap<u64, BTreeSet<u64>>, from: u64, to: u64) -> bool {
    let mut seen = BTreeSet::from([from]);
    let mut queue = vec![from];
    while let Some(class) = queue.pop() {
        if class == to {
            return true;
        }
        queue.extend(edges.get(&class).into_iter().flatten().filter(|next| seen.insert(**next)));
    }
    false
}
