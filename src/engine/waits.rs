//! Who waits for whom: refuses the wait that would close a circle.
//!
//! One entry per job that waits for another job; a job waits for at most one at a time,
//! so the graph is a set of chains and a circle is found by following one of them.

use std::collections::HashMap;

use parking_lot::Mutex;

/// A job, by whatever number its owner gives it.
pub type Key = usize;

/// The waits of one process; `T` is what a job is called in the error.
#[derive(Default)]
pub struct Waits<T> {
    // A leaf: nothing else is locked while this is held.
    edges: Mutex<Option<HashMap<Key, Wait<T>>>>,
}

struct Wait<T> {
    name: T,
    target: Key,
}

impl<T: Clone> Waits<T> {
    /// No waits yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            edges: Mutex::new(None),
        }
    }

    /// Notes that `waiter`, called `name`, waits for `target` until the guard is dropped.
    ///
    /// # Errors
    ///
    /// When `target` is `waiter` or waits, directly or not, for it: the names of the
    /// circle's jobs, from `waiter` on, each waiting for the next and the last for the
    /// first.
    pub fn enter(&self, waiter: Key, target: Key, name: T) -> Result<Entered<'_, T>, Vec<T>> {
        let mut edges = self.edges.lock();
        let edges = edges.get_or_insert_with(HashMap::new);
        let mut chain = vec![name.clone()];
        let mut job = target;
        while job != waiter {
            let Some(wait) = edges.get(&job) else {
                edges.insert(waiter, Wait { name, target });
                return Ok(Entered {
                    waits: self,
                    waiter,
                });
            };
            chain.push(wait.name.clone());
            job = wait.target;
        }
        Err(chain)
    }
}

/// Ends the wait when dropped.
pub struct Entered<'a, T> {
    waits: &'a Waits<T>,
    waiter: Key,
}

impl<T> Drop for Entered<'_, T> {
    fn drop(&mut self) {
        let removed = match self.waits.edges.lock().as_mut() {
            Some(edges) => edges.remove(&self.waiter),
            None => None,
        };
        drop(removed);
    }
}
