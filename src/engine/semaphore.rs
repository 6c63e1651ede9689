//! The places of a bounded queue: one for each job in it.

use std::time::Instant;

use crate::sync::{AtomicUsize, Condvar, Mutex, Ordering, fence, wait};

/// So many places. Who waits for one has no claim on it: whoever comes first takes it.
pub struct Bound {
    places: usize,
    taken: AtomicUsize,
    /// Threads in [`Bound::take`] that found no place; written under the lock.
    waiting: AtomicUsize,
    lock: Mutex<()>,
    /// Rung when a place is given back.
    bell: Condvar,
}

impl Bound {
    /// As many free places; without any, nobody ever gets one.
    #[must_use]
    pub fn new(places: usize) -> Self {
        Self {
            places,
            taken: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            lock: Mutex::new(()),
            bell: Condvar::new(),
        }
    }

    /// Takes a place, if there is one.
    #[must_use]
    pub fn try_take(&self) -> bool {
        // Relaxed, here and in `give`: the number guards itself by being changed in one step,
        // and publishes nothing.
        let mut taken = self.taken.load(Ordering::Relaxed);
        while taken < self.places {
            match self.taken.compare_exchange_weak(
                taken,
                taken + 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(found) => taken = found,
            }
        }
        false
    }

    /// Takes a place, and waits for one until `deadline` (for ever without one); whether it
    /// has one.
    #[must_use]
    pub fn take(&self, deadline: Option<Instant>) -> bool {
        if self.try_take() {
            return true;
        }
        let mut held = self.lock.lock();
        // Relaxed: the fence below does what is needed.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Pairs with the fence in `give`: either the place is seen here, or its giver sees
        // that somebody waits.
        fence(Ordering::SeqCst);
        let took = loop {
            if self.try_take() {
                break true;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break false;
            }
            held = wait(&self.bell, held, deadline);
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        drop(held);
        took
    }

    /// Gives a place back, of those that were taken.
    pub fn give(&self) {
        let taken = self.taken.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(taken > 0, "a place that nobody had taken");
        // Pairs with the fence in `take`.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            // Who has not seen the place sleeps once the lock is free.
            drop(self.lock.lock());
            self.bell.notify_one();
        }
    }

    /// How many places are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}
