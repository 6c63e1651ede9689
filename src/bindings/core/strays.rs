//! Abandoned calls: their tasks have ended, their code still runs. Their workers are replaced up
//! to a limit, since each of them keeps a thread.

use std::sync::Arc;

use flask_delay_engine::{Mutex, Woken};

use super::worker_slot::Waits;

/// The abandoned calls of one pool, in one process.
#[derive(Default)]
pub(crate) struct Strays(Mutex<Inner>);

// The lock is held while a worker's `Waits` change, and their lock is taken under it. No call into
// Python happens meanwhile.
#[derive(Default)]
struct Inner {
    count: usize,
    /// The number of workers that were replaced.
    replaced: usize,
    /// Workers that were not replaced, because of the limit.
    others: Vec<Arc<Waits>>,
}

/// Work to do for an abandoned call, once no lock is held.
#[must_use]
pub(crate) struct Added {
    pub(crate) woken: Option<Woken>,
    /// It is the only one.
    pub(crate) first: bool,
    /// It is the first that is not replaced.
    pub(crate) full: bool,
}

impl Strays {
    /// The most workers to replace in a pool of this size.
    pub(crate) fn limit(max_workers: usize) -> usize {
        max_workers.saturating_mul(4).max(16)
    }

    /// Adds an abandoned call; `waits` are those of its worker, if it runs on one.
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

    /// Removes an abandoned call that has ended; another worker may be replaced for it.
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

    pub(crate) fn count(&self) -> usize {
        self.0.lock().count
    }
}
