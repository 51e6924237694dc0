//! Conditions that are waited for with a lock in hand which those take who notify: then nobody can notify.
//!
//! It is told of single locks, not of their classes: those of one class may well belong to different conditions. And only
//! of what one has alone: readers do not keep each other out.

use std::collections::HashSet;
use std::sync::Arc;

use manyhands_engine::deadlock::waits::{Thing, Who};
use pyo3::prelude::*;

use super::state::{ByNumber, state};
use super::{Watched, call, made};
use crate::sync::who;

/// Of so many locks it is remembered where they were held.
const MOST: usize = 16;

/// What one does about a condition.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Wait,
    Notify,
}

/// Where a lock was held, and by a thread that did what.
struct Seen {
    lock: Thing,
    deed: Deed,
    stack: Arc<str>,
}

#[derive(Default)]
pub(super) struct Conditions {
    seen: ByNumber<Thing, Vec<Seen>>,
    told: HashSet<(Thing, Thing)>,
}

impl Conditions {
    pub(super) fn forget(&mut self, condition: Thing) {
        self.seen.remove(&condition);
        self.told.retain(|(told, _)| *told != condition);
    }

    fn knows(&self, condition: Thing, lock: Thing, deed: Deed) -> bool {
        let seen = self.seen.get(&condition).map(Vec::as_slice).unwrap_or_default();
        seen.iter().any(|seen| seen.lock == lock && seen.deed == deed)
    }

    /// Takes note; if the opposite was done with that lock, returns where, once.
    fn note(&mut self, condition: Thing, lock: Thing, deed: Deed, stack: &Arc<str>) -> Option<Arc<str>> {
        let seen = self.seen.entry(condition).or_default();
        let opposite = seen.iter().find(|seen| seen.lock == lock && seen.deed != deed);
        let opposite = opposite.map(|seen| Arc::clone(&seen.stack));
        if seen.len() < MOST {
            seen.push(Seen { lock, deed, stack: Arc::clone(stack) });
        }
        opposite.filter(|_| self.told.insert((condition, lock)))
    }
}

/// The caller waits for a condition, or notifies; `own` is the lock of the condition itself.
///
/// # Errors
/// The warning, where warnings are errors.
#[cold]
pub(crate) fn look(py: Python<'_>, condition: &Watched, own: Option<&Watched>, deed: Deed) -> PyResult<()> {
    let (condition, own) = (condition.thing(), own.map(Watched::thing));
    let callers = [Some(who::caller(py)), who::this_task(py)];
    let new: Vec<_> = {
        let state = state();
        let held = callers.into_iter().flatten().flat_map(|who| state.held_by(Who(who)));
        let others = held.filter(|(thing, _)| Some(*thing) != own && state.is_owned(*thing));
        others.filter(|(thing, _)| !state.conditions.knows(condition, *thing, deed)).copied().collect()
    };
    if new.is_empty() {
        return Ok(());
    }
    let stack: Arc<str> = call(py, "stack", ())?.extract::<String>()?.into();
    for (lock, class) in new {
        let (before, site) = {
            let mut state = state();
            let before = state.conditions.note(condition, lock, deed, &stack);
            (before, state.site_of(class))
        };
        if let Some(before) = before {
            let lock = made("lock", site.as_deref());
            let (waits, notifies) = match deed {
                Deed::Wait => (&stack, &before),
                Deed::Notify => (&before, &stack),
            };
            let text = format!(
                "a condition is waited for with {lock} in hand, which is taken to notify it, a deadlock to come\n\
                 waits:\n{waits}\nnotifies:\n{notifies}"
            );
            call(py, "warn_of_order", (text,))?;
        }
    }
    Ok(())
}
