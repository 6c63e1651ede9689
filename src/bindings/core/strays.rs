//! Calls that nobody waits for any more and that have not ended: their workers are replaced,
//! up to a limit, since each of them keeps a thread.

use std::sync::Arc;

use flask_delay_engine::{Mutex, Woken};

use super::worker_slot::Waits;

/// Of one pool, in one process.
#[derive(Default)]
pub(crate) struct Strays(Mutex<Inner>);

// The lock is held while a worker's waits change, whose lock is taken under it; nothing of
// Python's is done meanwhile.
#[derive(Default)]
struct Inner {
    count: usize,
    /// Workers that others are active in place of.
    replaced: usize,
    /// Those for which there was none left.
    others: Vec<Arc<Waits>>,
}

/// What there is to do for a call that has gone astray, once no lock is held.
#[must_use]
pub(crate) struct Added {
    pub(crate) woken: Option<Woken>,
    /// There was no other.
    pub(crate) first: bool,
    /// It is the first that is not replaced.
    pub(crate) full: bool,
}

impl Strays {
    /// How many of them are replaced in a pool of so many workers.
    pub(crate) fn limit(max_workers: usize) -> usize {
        max_workers.saturating_mul(4).max(16)
    }

    /// Nobody waits any more for a call, on a worker if it has waits.
    pub(crate) fn add(&self, waits: Option<&Arc<Waits>>, limit: usize) -> Added {
        let mut inner = self.0.lock();
        inner.count += 1;
        let mut added = Added {
            woken: None,
            first: inner.count == 1,
            full: false,
        };
        if let Some(waits) = waits {
            let replaced = inner.replaced < limit;
            added.woken = waits.give_up(replaced);
            if replaced {
                inner.replaced += 1;
            } else {
                added.full = inner.others.is_empty();
                inner.others.push(Arc::clone(waits));
            }
        }
        added
    }

    /// Such a call has ended, and another one may be replaced.
    #[must_use]
    pub(crate) fn remove(&self, waits: Option<&Arc<Waits>>, limit: usize) -> Option<Woken> {
        let mut inner = self.0.lock();
        inner.count -= 1;
        let waits = waits?;
        let place = inner.others.iter().position(|it| Arc::ptr_eq(it, waits));
        if let Some(place) = place {
            waits.come_back(false);
            inner.others.remove(place);
            return None;
        }
        waits.come_back(true);
        inner.replaced -= 1;
        if inner.replaced >= limit || inner.others.is_empty() {
            return None;
        }
        inner.replaced += 1;
        inner.others.remove(0).replace()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().count
    }
}
