//! Something for each key that is in use, made when the first one wants it and dropped when the last one has gone.
//!
//! Keys are compared by the owner, who may run any code for that; so nothing is compared under the lock, but what was
//! met there, afterwards. Whoever found no equal key among those makes an entry, unless others have come meanwhile.
//!
//! **Invariant**, whenever the lock is free: of equal keys there is one entry, and somebody uses it.

use std::collections::HashMap;

use crate::prim::atomic::{AtomicUsize, Ordering};
use crate::prim::{Arc, Mutex, lock};

/// A key, and what there is for it.
#[derive(Debug)]
pub struct Entry<K, V> {
    hash: isize,
    key: K,
    value: V,
    /// Changed under the table's lock.
    users: AtomicUsize,
}

impl<K, V> Entry<K, V> {
    /// The key, as whoever made the entry gave it.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// What there is for it.
    pub fn value(&self) -> &V {
        &self.value
    }
}

type Bucket<K, V> = Vec<Arc<Entry<K, V>>>;

/// The entries in use, by the hash of their keys.
#[derive(Debug)]
pub struct Table<K, V> {
    buckets: Mutex<HashMap<isize, Bucket<K, V>>>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { buckets: Mutex::new(HashMap::new()) }
    }
}

impl<K, V> Table<K, V> {
    /// How many keys are in use.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.buckets).values().map(Vec::len).sum()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        lock(&self.buckets).is_empty()
    }

    /// The entry of a key, for one more to use it, until he [leaves](Self::leave).
    ///
    /// # Errors
    /// What `is_same` says.
    pub fn enter<E>(
        &self,
        hash: isize,
        key: K,
        value: V,
        mut is_same: impl FnMut(&K) -> Result<bool, E>,
    ) -> Result<Arc<Entry<K, V>>, E> {
        let fresh = Arc::new(Entry { hash, key, value, users: AtomicUsize::new(1) });
        let mut strangers = Bucket::new();
        loop {
            let Some(met) = self.enter_beside(&fresh, &strangers) else { return Ok(fresh) };
            for entry in met {
                if !is_same(&entry.key)? {
                    strangers.push(entry);
                } else if self.enter_again(&entry) {
                    return Ok(entry);
                }
            }
        }
    }

    /// Puts in an entry if there are only strangers; otherwise returns the others.
    fn enter_beside(&self, fresh: &Arc<Entry<K, V>>, strangers: &Bucket<K, V>) -> Option<Bucket<K, V>> {
        let mut buckets = lock(&self.buckets);
        let bucket = buckets.entry(fresh.hash).or_default();
        let met = others(bucket, strangers);
        if met.is_empty() {
            bucket.push(Arc::clone(fresh));
            return None;
        }
        Some(met)
    }

    /// Uses an entry that was met; `false` if it is dropped meanwhile.
    fn enter_again(&self, entry: &Entry<K, V>) -> bool {
        let _buckets = lock(&self.buckets);
        let users = entry.users.load(Ordering::Relaxed);
        if users > 0 {
            entry.users.store(users + 1, Ordering::Relaxed);
        }
        users > 0
    }

    /// The entry of a key that is in use; whoever looks for it is no user of it.
    ///
    /// # Errors
    /// What `is_same` says.
    pub fn find<E>(
        &self,
        hash: isize,
        mut is_same: impl FnMut(&K) -> Result<bool, E>,
    ) -> Result<Option<Arc<Entry<K, V>>>, E> {
        let met = lock(&self.buckets).get(&hash).map(|bucket| others(bucket, &Bucket::new()));
        for entry in met.into_iter().flatten() {
            if is_same(&entry.key)? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// One stops using the entry. Returns what is to be dropped.
    pub fn leave(&self, entry: &Arc<Entry<K, V>>) -> Option<Arc<Entry<K, V>>> {
        let mut buckets = lock(&self.buckets);
        let users = entry.users.load(Ordering::Relaxed) - 1;
        entry.users.store(users, Ordering::Relaxed);
        if users > 0 {
            return None;
        }
        let bucket = buckets.get_mut(&entry.hash)?;
        let position = bucket.iter().position(|other| Arc::ptr_eq(other, entry))?;
        let dropped = bucket.swap_remove(position);
        if bucket.is_empty() {
            buckets.remove(&entry.hash);
        }
        Some(dropped)
    }

    /// Looks at every entry, until an error. `look` must not call out.
    ///
    /// # Errors
    /// The first one.
    pub fn look<E>(&self, look: impl FnMut(&Arc<Entry<K, V>>) -> Result<(), E>) -> Result<(), E> {
        lock(&self.buckets).values().flatten().try_for_each(look)
    }
}

/// Those of a bucket that are not among the strangers.
fn others<K, V>(bucket: &Bucket<K, V>, strangers: &Bucket<K, V>) -> Bucket<K, V> {
    let is_new = |entry: &&Arc<Entry<K, V>>| !strangers.iter().any(|stranger| Arc::ptr_eq(stranger, entry));
    bucket.iter().filter(is_new).cloned().collect()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::convert::Infallible;

    use super::*;

    type Names = Table<&'static str, u32>;

    fn enter(table: &Names, hash: isize, key: &'static str, value: u32) -> Arc<Entry<&'static str, u32>> {
        table.enter(hash, key, value, |other| Ok::<_, Infallible>(*other == key)).unwrap()
    }

    fn find(table: &Names, hash: isize, key: &'static str) -> Option<u32> {
        let found = table.find(hash, |other| Ok::<_, Infallible>(*other == key)).unwrap();
        found.map(|entry| *entry.value())
    }

    #[test]
    fn equal_keys_share_an_entry_until_the_last_one_leaves() {
        let table = Names::default();
        let first = enter(&table, 1, "a", 10);
        let second = enter(&table, 1, "a", 20);
        assert!(Arc::ptr_eq(&first, &second));
        assert!(table.leave(&first).is_none());
        assert_eq!((find(&table, 1, "a"), table.len()), (Some(10), 1));
        assert!(table.leave(&second).is_some());
        assert_eq!(find(&table, 1, "a"), None);
        assert!(table.is_empty());
        assert_eq!(*enter(&table, 1, "a", 30).value(), 30);
    }

    #[test]
    fn keys_of_one_hash_are_told_apart() {
        let table = Names::default();
        let entries = ["a", "b", "c"].map(|key| enter(&table, 7, key, 0));
        assert_eq!(table.len(), 3);
        assert!(Arc::ptr_eq(&entries[1], &enter(&table, 7, "b", 0)));
        assert!(table.leave(&entries[0]).is_some());
        assert_eq!((find(&table, 7, "a"), find(&table, 7, "c")), (None, Some(0)));
        assert_eq!(find(&table, 8, "c"), None);
    }

    #[test]
    fn a_comparison_that_fails_changes_nothing() {
        let table = Names::default();
        let entry = enter(&table, 1, "a", 0);
        assert_eq!(table.enter(1, "b", 0, |_| Err("no")).unwrap_err(), "no");
        assert!(table.leave(&entry).is_some());
        assert!(table.is_empty());
    }

    #[test]
    fn what_comes_and_goes_during_a_comparison_is_seen() {
        let table = Names::default();
        let stranger = enter(&table, 1, "a", 0);
        let mut meanwhile = None;
        let mine = table.enter(1, "b", 1, |other| {
            if meanwhile.is_none() {
                meanwhile = Some(enter(&table, 1, "b", 2));
                let _ = table.leave(&stranger);
            }
            Ok::<_, Infallible>(*other == "b")
        });
        assert!(Arc::ptr_eq(&mine.unwrap(), &meanwhile.unwrap()));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn an_entry_that_is_dropped_during_a_comparison_is_not_used() {
        let table = Names::default();
        let first = enter(&table, 1, "a", 1);
        let mine = table.enter(1, "a", 2, |_| {
            let _ = table.leave(&first);
            Ok::<_, Infallible>(true)
        });
        assert_eq!(*mine.unwrap().value(), 2);
        assert_eq!(find(&table, 1, "a"), Some(2));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::convert::Infallible;

    use loom::thread;

    use super::*;
    use crate::permits::Permits;
    use crate::permits::loom_tests::{give, take};
    use crate::permits::sleeper::Sleeper;

    /// Two locks for one key at the same time would be a wrong sum.
    #[test]
    fn loom_one_key_never_has_two_locks() {
        loom::model(|| {
            let shared = Arc::new((Table::<u8, Permits<Sleeper>>::default(), AtomicUsize::new(0)));
            let work = |shared: &(Table<u8, Permits<Sleeper>>, AtomicUsize)| {
                let same = |key: &u8| Ok::<_, Infallible>(*key == 1);
                let entry = shared.0.enter(0, 1, Permits::new(1, 1), same).unwrap();
                take(entry.value());
                let seen = shared.1.load(Ordering::Relaxed);
                shared.1.store(seen + 1, Ordering::Relaxed);
                give(entry.value());
                drop(shared.0.leave(&entry));
            };
            let other = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    work(&shared);
                    work(&shared);
                })
            };
            work(&shared);
            other.join().unwrap();
            assert_eq!(shared.1.load(Ordering::Relaxed), 3);
            assert!(shared.0.is_empty());
        });
    }
}
