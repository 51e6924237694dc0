//! What lives under a name for all of this process, as long as somebody uses it or it holds something.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What can live under a name.
pub(crate) trait Resident: Default + Send + Sync + 'static {
    /// Where its kind lives.
    fn houses() -> &'static Houses<Self>;

    /// Whether nothing is lost with it.
    fn is_empty(&self) -> bool;
}

/// All that live under names.
pub(crate) type Houses<T> = Mutex<BTreeMap<String, Arc<T>>>;

/// A share in what lives under a name.
#[derive(Debug)]
pub(crate) struct Named<T: Resident> {
    name: String,
    resident: Arc<T>,
}

impl<T: Resident> Named<T> {
    /// What lives under the name: from now on, if nothing did.
    pub(crate) fn find(name: &str) -> Self {
        let resident = Arc::clone(locked(T::houses()).entry(name.into()).or_default());
        Self { name: name.into(), resident }
    }
}

impl<T: Resident> Clone for Named<T> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), resident: Arc::clone(&self.resident) }
    }
}

impl<T: Resident> Deref for Named<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.resident
    }
}

impl<T: Resident> Drop for Named<T> {
    fn drop(&mut self) {
        let mut houses = locked(T::houses());
        // One share is ours, one the house's. Others come into being under the same lock, or from a share that is alive.
        if Arc::strong_count(&self.resident) == 2 && self.resident.is_empty() {
            houses.remove(&self.name);
        }
    }
}

/// Locks, whether or not a thread has panicked in there: every section leaves its state whole.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[derive(Default)]
    struct Guest {
        stays: AtomicBool,
    }

    static GUESTS: Houses<Guest> = Mutex::new(BTreeMap::new());

    impl Resident for Guest {
        fn houses() -> &'static Houses<Self> {
            &GUESTS
        }

        fn is_empty(&self) -> bool {
            !self.stays.load(Ordering::Relaxed)
        }
    }

    fn lives(name: &str) -> bool {
        locked(&GUESTS).contains_key(name)
    }

    #[test]
    fn one_lives_under_a_name_until_nobody_needs_it() {
        let first = Named::<Guest>::find("one");
        let second = Named::<Guest>::find("one");
        assert!(Arc::ptr_eq(&first.resident, &second.resident));
        drop(first);
        assert!(lives("one"));
        drop(second);
        assert!(!lives("one"));
    }

    #[test]
    fn what_holds_something_outlives_its_users() {
        let guest = Named::<Guest>::find("stays");
        guest.stays.store(true, Ordering::Relaxed);
        drop(guest);
        assert!(lives("stays"));
        let again = Named::<Guest>::find("stays");
        again.stays.store(false, Ordering::Relaxed);
        drop(again);
        assert!(!lives("stays"));
    }
}
