//! A small cache of things that are costly to make and shared by the evaluations or jobs of a process.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Cache of the last few values made. Concurrent callers for one value wait for the first of them (single
/// flight) instead of making it twice. Failures are not kept.
pub struct Memo<K, V> {
    entries: Mutex<VecDeque<Entry<K, V>>>,
    capacity: usize,
}

/// A key with its value, once that is made.
type Entry<K, V> = (K, Arc<Mutex<Option<V>>>);

impl<K: PartialEq + Clone, V: Clone> Memo<K, V> {
    /// A cache of at most `capacity` values.
    pub fn new(capacity: usize) -> Self {
        Self { entries: Mutex::new(VecDeque::new()), capacity: capacity.max(1) }
    }

    /// The value of `key`, made now if it is not there.
    ///
    /// # Errors
    /// Whatever `make` fails with.
    pub fn get_or_make<E>(&self, key: &K, make: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        let slot = self.slot(key);
        // A panic in `make` leaves the slot empty, which is a state like any other.
        let mut value = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = &*value {
            return Ok(value.clone());
        }
        let made = make()?;
        *value = Some(made.clone());
        Ok(made)
    }

    /// Throws out the value of `key`, which turned out to be none.
    pub fn forget(&self, key: &K) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| known != key);
    }

    /// The slot of `key`, now the last to be thrown out.
    fn slot(&self, key: &K) -> Arc<Mutex<Option<V>>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let known = entries.iter().position(|(known, _)| known == key);
        let entry =
            known.and_then(|index| entries.remove(index)).unwrap_or_else(|| (key.clone(), Arc::default()));
        let slot = entry.1.clone();
        entries.push_back(entry);
        while entries.len() > self.capacity {
            entries.pop_front();
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn get(memo: &Memo<u32, u32>, key: u32) -> (u32, bool) {
        let mut made = false;
        let value = memo.get_or_make(&key, || {
            made = true;
            Ok::<_, Infallible>(key * 10)
        });
        (value.unwrap(), made)
    }

    #[test]
    fn the_least_recently_used_value_is_thrown_out() {
        let memo = Memo::new(2);
        assert_eq!([get(&memo, 1), get(&memo, 2), get(&memo, 1)], [(10, true), (20, true), (10, false)]);
        assert_eq!([get(&memo, 3), get(&memo, 1), get(&memo, 2)], [(30, true), (10, false), (20, true)]);
    }

    #[test]
    fn a_failure_is_not_kept() {
        let memo: Memo<u32, u32> = Memo::new(2);
        assert_eq!(memo.get_or_make(&1, || Err("no")), Err("no"));
        assert_eq!(get(&memo, 1), (10, true));
    }

    #[test]
    fn a_value_is_made_once_for_everybody() {
        let memo: Memo<u32, u32> = Memo::new(2);
        let made = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    memo.get_or_make(&1, || {
                        Ok::<_, Infallible>(made.fetch_add(1, std::sync::atomic::Ordering::SeqCst))
                    })
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn a_panic_while_making_leaves_the_key_free() {
        let memo: Memo<u32, u32> = Memo::new(2);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            memo.get_or_make(&1, || -> Result<u32, Infallible> { panic!("broken") })
        }));
        assert!(panicked.is_err());
        assert_eq!(get(&memo, 1), (10, true));
    }
}
