//! Programs all of whose threads sleep: then nobody is left to notify a condition.
//!
//! Who might notify is not known, so a wait for a condition is hopeless only if nobody is awake: if every thread waits
//! without a limit, for what is known here or for the end of such a thread, and there is no thread of others, and no handler
//! of signals. That is looked for by whoever waits for a lock that somebody has who waits for a condition: so nothing is told
//! of a program that only waits for the outside.
//!
//! **No false alarm.** Somebody may have been notified and not have woken yet. So all must have looked, in vain, since the
//! last of them lay down, which is counted; from then on nobody was there to notify.

use manyhands_engine::deadlock::waits::{Manner, Who};
use pyo3::prelude::*;

use super::state::{ByNumber, State, state};
use super::{Deadlock, call, stops};

/// When everybody has looked.
#[derive(Default)]
pub(super) struct Rounds {
    /// How often somebody has begun or ended a wait.
    changes: u64,
    looks: ByNumber<Who, Looks>,
}

struct Looks {
    /// What was counted before the last look.
    last: u64,
    /// And before the one before, which has ended.
    before: Option<u64>,
}

impl Rounds {
    /// Somebody has begun or ended a wait.
    pub(super) fn change(&mut self, who: Who) {
        self.changes += 1;
        self.looks.remove(&who);
    }

    /// Somebody is about to look again whether his wait is over; the last time it was not.
    fn look(&mut self, who: Who) {
        let before = self.looks.get(&who).map(|looks| looks.last);
        self.looks.insert(who, Looks { last: self.changes, before });
    }

    /// Those who have looked since the last change.
    fn asleep(&self) -> impl Iterator<Item = Who> {
        let have_looked = |(_, looks): &(&Who, &Looks)| looks.before == Some(self.changes);
        self.looks.iter().filter(have_looked).map(|(who, _)| *who)
    }
}

/// Somebody has waited for a while, in which there was no deadlock that is one by itself.
///
/// # Errors
/// `DeadlockError` if he waits for somebody who waits for a condition, and nobody is awake.
pub(super) fn look(py: Python<'_>, waiter: u64) -> PyResult<()> {
    let who = Who(waiter);
    let asleep: Vec<_> = {
        let mut state = state();
        state.rounds.look(who);
        if !is_kept_by_condition(&state, who) {
            return Ok(());
        }
        state.rounds.asleep().filter_map(|who| state.object_of(py, who)).collect()
    };
    if !call(py, "all_asleep", (asleep,))?.is_truthy()? {
        return Ok(());
    }
    let told = {
        let state = state();
        let others = state.rounds.asleep().filter(|other| *other != who);
        Deadlock([who].into_iter().chain(others).filter_map(|who| state.tell(py, who)).collect())
    };
    stops(waiter);
    Err(told.raise(py))
}

/// Whether he waits for a lock whose owner waits for a condition.
fn is_kept_by_condition(state: &State, who: Who) -> bool {
    let owner = || state.owner_of(state.waits.awaited(who, Manner::Endless)?);
    owner().is_some_and(|owner| state.waits.awaited(owner, Manner::Stubborn).is_some())
}
