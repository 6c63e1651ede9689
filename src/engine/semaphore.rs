//! The permits of a bounded queue: one for each job in it.

use std::time::Instant;

use crate::sync::{AtomicUsize, Condvar, Mutex, Ordering, fence, wait};

/// A number of permits. Waiting threads have no claim on one: the first to come takes it.
pub struct Semaphore {
    permits: usize,
    taken: AtomicUsize,
    /// Threads in [`Semaphore::take`] that found no permit; written under the lock.
    waiting: AtomicUsize,
    lock: Mutex<()>,
    /// Notified when a permit is given back.
    bell: Condvar,
}

impl Semaphore {
    /// A semaphore with so many free permits; zero means that no thread ever gets one.
    #[must_use]
    pub fn new(permits: usize) -> Self {
        Self {
            permits,
            taken: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            lock: Mutex::new(()),
            bell: Condvar::new(),
        }
    }

    /// Takes a permit, if there is one.
    #[must_use]
    pub fn try_take(&self) -> bool {
        // Relaxed, here and in `give`: the number guards itself by being changed in one step, and
        // publishes nothing.
        let mut taken = self.taken.load(Ordering::Relaxed);
        while taken < self.permits {
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

    /// Takes a permit, and waits for one until `deadline`, or without limit; returns whether it has
    /// one.
    #[must_use]
    pub fn take(&self, deadline: Option<Instant>) -> bool {
        if self.try_take() {
            return true;
        }
        let mut held = self.lock.lock();
        // Relaxed: the fence below does what is needed.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Pairs with the fence in `give`: either the permit is seen here, or `give` sees that a
        // thread waits.
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

    /// Gives back a permit that was taken.
    pub fn give(&self) {
        let taken = self.taken.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(taken > 0, "a permit that nobody had taken");
        // Pairs with the fence in `take`.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            // A thread that has not seen the permit sleeps once the lock is free.
            drop(self.lock.lock());
            self.bell.notify_one();
        }
    }

    /// How many permits are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}
