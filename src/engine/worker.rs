//! One thread's side of the pool: finding the next job, or sleeping until there is one.

use std::cell::Cell;
use std::mem;
use std::time::Instant;

use log::debug;

use crate::park::Parker;
use crate::pool::{CLOSED, HAS_CAPACITY, OVER_CAPACITY, Roster, SEARCHING, Shared, Woken};
use crate::sync::{Arc, MutexGuard, Ordering, fence, spin, within};

/// What a thread of the pool is given. Dropping it takes the thread off the pool's books,
/// also when the thread unwinds.
pub struct Worker<J: Send + 'static> {
    shared: Arc<Shared<J>>,
    parker: Arc<Parker>,
    name: String,
    /// This worker was called, or has called itself, and has not looked at the queue since.
    searching: bool,
    /// The last job came so soon that looking on for the next one may pay.
    keen: bool,
    /// The roster has already been told that this thread leaves.
    left: Cell<bool>,
}

impl<J: Send + 'static> Worker<J> {
    pub(crate) fn new(shared: Arc<Shared<J>>, name: String) -> Self {
        Self {
            parker: Arc::new(Parker::new()),
            name,
            searching: true,
            // In a model, where there is no "soon", at once.
            keen: cfg!(loom) && !shared.config.spin.is_zero(),
            shared,
            left: Cell::new(false),
        }
    }

    /// The thread's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next job, or `None` when this thread has to leave.
    ///
    /// `asleep` is called when there is nothing to do; it must call the function it is
    /// given, which blocks, and may let go of what the thread holds around that call. That
    /// function returns whether it has looked on and seen a job this very moment: then its
    /// submitter may still hold what this thread is about to need.
    pub fn next(&mut self, mut asleep: impl FnMut(&mut (dyn FnMut() -> bool + Send))) -> Option<J> {
        while !self.left.get() {
            // Relaxed: a hint; the lock in `retire_surplus` decides.
            let surplus = self.shared.flags.load(Ordering::Relaxed) & OVER_CAPACITY != 0;
            if !surplus && let Some(job) = self.shared.queue.pop() {
                // Here and not in `rest`, although that would be sooner: many threads that
                // wake at once get in each other's way for what they all need.
                if self.searching {
                    self.found();
                }
                return Some(job);
            }
            asleep(&mut || self.rest(surplus));
        }
        None
    }

    /// Rests until there may be something to do, or this thread has to leave; whether a job
    /// was seen by looking on.
    fn rest(&mut self, surplus: bool) -> bool {
        if self.left.get() {
            return false;
        }
        if !surplus && self.spin() {
            return true;
        }
        let rest = if surplus {
            self.retire_surplus()
        } else {
            self.park()
        };
        if matches!(rest, Rest::InBed) {
            self.sleep();
        }
        false
    }

    /// Spins for a while instead of parking, if jobs come that soon; whether there is
    /// one. Who submits meanwhile need not call anybody: this worker is the one that is
    /// searching.
    fn spin(&mut self) -> bool {
        let shared = &*self.shared;
        if !self.keen {
            return false;
        }
        // Relaxed, as in `Shared::wake_one`.
        if !self.searching && shared.flags.fetch_or(SEARCHING, Ordering::Relaxed) & SEARCHING != 0 {
            return false;
        }
        self.searching = true;
        spin(shared.config.spin, || {
            !shared.queue.is_empty() || shared.flags.load(Ordering::Relaxed) & CLOSED != 0
        });
        self.keen = !shared.queue.is_empty();
        self.keen
    }

    /// Notes that this worker's job waits for another job of the pool until the guard is
    /// dropped: another worker may be active in its place. What is to be logged of that is
    /// given back.
    pub fn waiting(&self) -> (Waiting<J>, Woken) {
        Waiting::new(Arc::clone(&self.shared))
    }

    /// What [`Worker::waiting`] needs, for a thread that cannot reach its worker.
    #[must_use]
    pub fn handle(&self) -> Handle<J> {
        Handle(Arc::clone(&self.shared))
    }

    /// The search is over, with a job in hand; if there is more, the next one is called.
    fn found(&mut self) {
        self.searching = false;
        self.shared.flags.fetch_and(!SEARCHING, Ordering::Relaxed);
        // Submits that saw SEARCHING called nobody: look for their jobs after clearing it.
        fence(Ordering::SeqCst);
        if !self.shared.queue.is_empty()
            && self.shared.flags.load(Ordering::Relaxed) & HAS_CAPACITY != 0
        {
            self.shared.wake_one().log();
        }
    }

    /// Stops although there may be work, if more workers are active than allowed.
    fn retire_surplus(&mut self) -> Rest {
        let mut roster = self.shared.roster.lock();
        if roster.active <= self.shared.config.max_workers {
            return Rest::Up;
        }
        roster.active -= 1;
        // The others, as many as are allowed, look at the queue before they sleep.
        if mem::take(&mut self.searching) {
            self.shared.flags.fetch_and(!SEARCHING, Ordering::Relaxed);
        }
        // Relaxed: CLOSED is set under the lock that is held here.
        if self.shared.flags.load(Ordering::Relaxed) & CLOSED != 0 {
            // Nobody calls the sleepers of a closed pool any more.
            self.leave(roster, "the pool is closed");
            return Rest::Left;
        }
        roster.idle.push(Arc::clone(&self.parker));
        self.shared.publish(&roster);
        Rest::InBed
    }

    /// The queue was empty: takes a slot, then looks once more.
    fn park(&mut self) -> Rest {
        let mut roster = self.shared.roster.lock();
        roster.active -= 1;
        self.shared.publish(&roster);
        let searched = mem::take(&mut self.searching);
        if searched {
            self.shared.flags.fetch_and(!SEARCHING, Ordering::Relaxed);
        }
        // Pairs with the fence in `Pool::submit`: a job pushed by someone who saw no HAS_CAPACITY,
        // or saw SEARCHING, is visible here.
        fence(Ordering::SeqCst);
        if !self.shared.queue.is_empty() {
            roster.active += 1;
            self.shared.publish(&roster);
            // More than one job may be there: the search goes on, unless another worker
            // has been called since and carries it on.
            self.searching = searched
                && self.shared.flags.fetch_or(SEARCHING, Ordering::Relaxed) & SEARCHING == 0;
            return Rest::Up;
        }
        // Relaxed: CLOSED is set under the lock that is held here.
        if self.shared.flags.load(Ordering::Relaxed) & CLOSED != 0 {
            self.leave(roster, "the pool is closed");
            return Rest::Left;
        }
        roster.idle.push(Arc::clone(&self.parker));
        self.shared.tell_if_quiet(&roster);
        Rest::InBed
    }

    /// Sleeps in the slot taken, until called or for so long that the thread leaves.
    fn sleep(&mut self) {
        let config = &self.shared.config;
        let began = Instant::now();
        let mut deadline = began.checked_add(config.idle_timeout);
        loop {
            if self.parker.park(deadline) {
                // The caller counted this worker among the active ones and set SEARCHING.
                self.searching = true;
                self.keen = within(began, config.spin);
                return;
            }
            let mut roster = self.shared.roster.lock();
            let Some(slot) = self.slot(&roster) else {
                // Called between the time-out and the lock; the token is there or about
                // to be.
                drop(roster);
                deadline = None;
                continue;
            };
            if roster.threads > 1 {
                roster.idle.remove(slot);
                self.leave(roster, "idle");
                return;
            }
            // The last thread stays, so that a submit need never fail for want of one.
            deadline = None;
        }
    }

    /// Where this worker's slot is, if it has one.
    fn slot(&self, roster: &Roster) -> Option<usize> {
        let mut slots = roster.idle.iter();
        slots.position(|slot| Arc::ptr_eq(slot, &self.parker))
    }

    /// Takes this thread, no longer active nor in a slot, off the books.
    fn leave(&self, mut roster: MutexGuard<'_, Roster>, why: &str) {
        self.left.set(true);
        roster.threads -= 1;
        roster.leaving += 1;
        self.shared.publish(&roster);
        drop(roster);
        debug!(target: "flask_delay::engine", "thread {} leaves: {why}", self.name);
    }
}

impl<J: Send + 'static> Drop for Worker<J> {
    fn drop(&mut self) {
        let mut roster = self.shared.roster.lock();
        if self.left.get() {
            roster.leaving -= 1;
            drop(roster);
        } else {
            // The thread ends in the middle of things; it may have had a slot.
            match self.slot(&roster) {
                Some(slot) => drop(roster.idle.remove(slot)),
                None => roster.active -= 1,
            }
            roster.threads -= 1;
            self.shared.publish(&roster);
            // It may have been called without knowing. Cleared for another, the flag
            // costs one call too many; left behind, it would stop all calls.
            self.shared.flags.fetch_and(!SEARCHING, Ordering::Relaxed);
            drop(roster);
            // Its work falls to another: as in `found`.
            fence(Ordering::SeqCst);
            if !self.shared.queue.is_empty() {
                self.shared.wake_one().log();
            }
        }
        self.shared.bell.notify_all();
    }
}

/// What has become of a worker that wanted to rest.
enum Rest {
    /// Nothing: it goes on looking for jobs.
    Up,
    /// It is in the roster as a sleeper and must sleep.
    InBed,
    /// It is off the books and must end.
    Left,
}

/// A way to reach a worker's pool from anywhere on its thread.
pub struct Handle<J: Send + 'static>(Arc<Shared<J>>);

impl<J: Send + 'static> Handle<J> {
    /// See [`Worker::waiting`].
    pub fn waiting(&self) -> (Waiting<J>, Woken) {
        Waiting::new(Arc::clone(&self.0))
    }

    /// See [`Pool::look_after`].
    ///
    /// [`Pool::look_after`]: crate::Pool::look_after
    pub fn look_after(&self) {
        self.0.look_after().log();
    }

    /// Notes that nobody waits any more for a worker's job: until the guard is dropped, the
    /// pool may be quiet and be joined without it. Before a [`Waiting`] of that worker's is.
    #[must_use]
    pub fn stuck(&self) -> Stuck<J> {
        self.0.roster.lock().stuck += 1;
        // Those who wait for quiet and those who join may have waited for this.
        self.0.bell.notify_all();
        Stuck(Arc::clone(&self.0))
    }
}

/// Nobody waits for a worker's job; see [`Handle::stuck`].
pub struct Stuck<J: Send + 'static>(Arc<Shared<J>>);

impl<J: Send + 'static> Drop for Stuck<J> {
    fn drop(&mut self) {
        self.0.roster.lock().stuck -= 1;
    }
}

/// A worker's job waits for another job; see [`Worker::waiting`]. A worker has at most one.
pub struct Waiting<J: Send + 'static>(Arc<Shared<J>>);

impl<J: Send + 'static> Waiting<J> {
    fn new(shared: Arc<Shared<J>>) -> (Self, Woken) {
        let mut roster = shared.roster.lock();
        roster.active -= 1;
        roster.waiting += 1;
        shared.publish(&roster);
        // One that is stuck as well is not waited for.
        shared.tell_if_quiet(&roster);
        drop(roster);
        // Pairs with the fence in `Pool::submit`: a job pushed by someone who saw no HAS_CAPACITY
        // is visible here.
        fence(Ordering::SeqCst);
        let woken = if shared.queue.is_empty() {
            Woken::nobody()
        } else {
            // If no thread can be started, a busy worker comes for the job when it is free; if
            // there is none, whoever looks after the pool tries again.
            shared.wake_one()
        };
        (Self(shared), woken)
    }
}

impl<J: Send + 'static> Drop for Waiting<J> {
    fn drop(&mut self) {
        let mut roster = self.0.roster.lock();
        roster.active += 1;
        roster.waiting -= 1;
        self.0.publish(&roster);
    }
}
