//! Those who wait in this process for results that are not there yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::Found;
use crate::named::locked;

#[derive(Debug, Default)]
struct Rows {
    of_task: HashMap<Box<str>, Vec<(u64, oneshot::Sender<Found>)>>,
    last: u64,
}

/// Who waits for which task.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    rows: Mutex<Rows>,
}

impl Waiters {
    /// Waits from now on. Whoever comes looks at the store after this, and not before: so nothing passes between.
    pub(super) fn enter(self: &Arc<Self>, id: &str) -> Waiting {
        let (sender, receiver) = oneshot::channel();
        let mut rows = locked(&self.rows);
        rows.last += 1;
        let number = rows.last;
        rows.of_task.entry(id.into()).or_default().push((number, sender));
        Waiting { waiters: Arc::clone(self), id: id.into(), number, receiver }
    }

    /// Whether anybody waits for the task.
    pub(super) fn wants(&self, id: &str) -> bool {
        locked(&self.rows).of_task.contains_key(id)
    }

    /// The tasks that somebody waits for.
    pub(super) fn ids(&self) -> Vec<String> {
        locked(&self.rows).of_task.keys().map(|id| String::from(&**id)).collect()
    }

    /// Whether nobody waits for anything.
    pub(super) fn is_empty(&self) -> bool {
        locked(&self.rows).of_task.is_empty()
    }

    /// Whether not more than one waits.
    pub(super) fn is_at_most_one(&self) -> bool {
        let rows = locked(&self.rows);
        rows.of_task.len() <= 1 && rows.of_task.values().all(|row| row.len() <= 1)
    }

    /// Tells all who wait for the task.
    pub(super) fn tell(&self, id: &str, found: &Found) {
        let told = locked(&self.rows).of_task.remove(id);
        for (_, sender) in told.into_iter().flatten() {
            // One who has just given up will leave its row itself.
            let _ = sender.send(found.clone());
        }
    }
}

/// A place among those who wait. Dropped, it is left.
#[derive(Debug)]
pub(super) struct Waiting {
    waiters: Arc<Waiters>,
    id: Box<str>,
    number: u64,
    receiver: oneshot::Receiver<Found>,
}

impl Waiting {
    /// The result; `None` if nobody is left who could tell.
    pub(super) async fn found(&mut self) -> Option<Found> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut rows = locked(&self.waiters.rows);
        if let Some(row) = rows.of_task.get_mut(&self.id) {
            row.retain(|(number, _)| *number != self.number);
            if row.is_empty() {
                rows.of_task.remove(&self.id);
            }
        }
    }
}
