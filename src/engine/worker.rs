//! One thread's side of the pool: finds the next job, or sleeps until there is one.

use std::cell::Cell;
use std::mem;
use std::time::Instant;

use log::debug;

use crate::park::Parker;
use crate::pool::{CLOSED, HAS_CAPACITY, OVER_CAPACITY, Roster, SEARCHING, Shared, Woken};
use crate::sync::{Arc, MutexGuard, Ordering, fence, spin, within};

/// A thread's access to the pool. Dropping it removes the thread from the roster, also when the
/// thread unwinds.
pub struct Worker<J: Send + 'static> {
    shared: Arc<Shared<J>>,
    parker: Arc<Parker>,
    name: String,
    /// This worker was woken, or began to spin, and has not looked at the queue since.
    searching: bool,
    /// The last job came so soon that spinning for the next one may pay.
    keen: bool,
    /// The roster already counts this thread as leaving.
    left: Cell<bool>,
}

impl<J: Send + 'static> Worker<J> {
    pub(crate) fn new(shared: Arc<Shared<J>>, name: String) -> Self {
        Self {
            parker: Arc::new(Parker::new()),
            name,
            searching: true,
            // A model has no clock, so spin at once.
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
    /// `asleep` is called when there is nothing to do. It must call the given function, which
    /// blocks, and may release what the thread holds around that call. That function returns
    /// whether spinning has found a job this very moment: then its submitter may still hold what
    /// this thread is about to need.
    pub fn next(&mut self, mut asleep: impl FnMut(&mut (dyn FnMut() -> bool + Send))) -> Option<J> {
        while !self.left.get() {
            // Relaxed: a hint; the lock in `retire_surplus` decides.
            let surplus = self.shared.flags.load(Ordering::Relaxed) & OVER_CAPACITY != 0;
            if !surplus && let Some(job) = self.shared.queue.pop() {
                // Here and not in `rest`, although that would be sooner: many threads that wake at
                // once compete for what they all need.
                if self.searching {
                    self.found();
                }
                return Some(job);
            }
            asleep(&mut || self.rest(surplus));
        }
        None
    }

    /// Rests until there may be a job, or this thread has to leave; returns whether spinning has
    /// found one.
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

    /// Spins for a while instead of parking, if jobs come that soon; returns whether there is one.
    /// Meanwhile submitters need not wake a worker: this one is searching.
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

    /// Notes that this worker's job waits for another job of the pool until the guard is dropped:
    /// another worker may be active in its place. Returns the log message, too.
    pub fn waiting(&self) -> (Waiting<J>, Woken) {
        Waiting::new(Arc::clone(&self.shared))
    }

    /// What [`Worker::waiting`] needs, for a thread that cannot reach its worker.
    #[must_use]
    pub fn handle(&self) -> Handle<J> {
        Handle(Arc::clone(&self.shared))
    }

    /// Ends the search with a job in hand; if there is another job, wakes the next worker.
    fn found(&mut self) {
        self.searching = false;
        self.shared.flags.fetch_and(!SEARCHING, Ordering::Relaxed);
        // Submitters that saw SEARCHING woke no worker: look for their jobs after clearing it.
        fence(Ordering::SeqCst);
        if !self.shared.queue.is_empty()
            && self.shared.flags.load(Ordering::Relaxed) & HAS_CAPACITY != 0
        {
            self.shared.wake_one().log();
        }
    }

    /// Parks despite queued jobs, if more workers are active than allowed.
    fn retire_surplus(&mut self) -> Rest {
        let mut roster = self.shared.roster.lock();
        if roster.active <= self.shared.config.max_workers {
            return Rest::Up;
        }
        roster.active -= 1;
        // The other workers, as many as are allowed, look at the queue before they park.
        if mem::take(&mut self.searching) {
            self.shared.flags.fetch_and(!SEARCHING, Ordering::Relaxed);
        }
        // Relaxed: CLOSED is set under the lock that is held here.
        if self.shared.flags.load(Ordering::Relaxed) & CLOSED != 0 {
            // Parked workers of a closed pool are never woken.
            self.leave(roster, "the pool is closed");
            return Rest::Left;
        }
        roster.idle.push(Arc::clone(&self.parker));
        self.shared.publish(&roster);
        Rest::InBed
    }

    /// The queue was empty: parks, unless a second look finds a job.
    fn park(&mut self) -> Rest {
        let mut roster = self.shared.roster.lock();
        roster.active -= 1;
        self.shared.publish(&roster);
        let searched = mem::take(&mut self.searching);
        if searched {
            self.shared.flags.fetch_and(!SEARCHING, Ordering::Relaxed);
        }
        // Pairs with the fence in `Pool::submit`: a job is visible here if its submitter saw no
        // HAS_CAPACITY, or saw SEARCHING.
        fence(Ordering::SeqCst);
        if !self.shared.queue.is_empty() {
            roster.active += 1;
            self.shared.publish(&roster);
            // There may be more than one job: the search goes on, unless another worker was woken
            // since and carries it on.
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

    /// Sleeps until woken or until the idle timeout, after which the thread leaves.
    fn sleep(&mut self) {
        let config = &self.shared.config;
        let began = Instant::now();
        let mut deadline = began.checked_add(config.idle_timeout);
        loop {
            if self.parker.park(deadline) {
                // The waking thread counted this worker as active and set SEARCHING.
                self.searching = true;
                self.keen = within(began, config.spin);
                return;
            }
            let mut roster = self.shared.roster.lock();
            let Some(slot) = self.slot(&roster) else {
                // Woken between the time-out and the lock; the token is there or about to be.
                drop(roster);
                deadline = None;
                continue;
            };
            if roster.threads > 1 {
                roster.idle.remove(slot);
                self.leave(roster, "idle");
                return;
            }
            // The last thread stays, so that `submit` need never fail for want of one.
            deadline = None;
        }
    }

    /// The place of this worker's parker in `idle`, if it is there.
    fn slot(&self, roster: &Roster) -> Option<usize> {
        let mut slots = roster.idle.iter();
        slots.position(|slot| Arc::ptr_eq(slot, &self.parker))
    }

    /// Removes this thread, which is neither active nor parked, from the roster.
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
            // The thread ends by a panic; its parker may be in `idle`.
            match self.slot(&roster) {
                Some(slot) => drop(roster.idle.remove(slot)),
                None => roster.active -= 1,
            }
            roster.threads -= 1;
            self.shared.publish(&roster);
            // It may have been woken without knowing. A flag cleared for another worker costs one
            // wake-up too many; a flag left set would stop all wake-ups.
            self.shared.flags.fetch_and(!SEARCHING, Ordering::Relaxed);
            drop(roster);
            // Another worker takes its work: as in `found`.
            fence(Ordering::SeqCst);
            if !self.shared.queue.is_empty() {
                self.shared.wake_one().log();
            }
        }
        self.shared.bell.notify_all();
    }
}

/// The result of a worker's attempt to rest.
enum Rest {
    /// It goes on looking for jobs.
    Up,
    /// Its parker is in `idle`, and it must sleep.
    InBed,
    /// It is no longer in the roster and must end.
    Left,
}

/// Access to a worker's pool from anywhere on its thread.
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

    /// Notes that a worker's job is abandoned: until the guard is dropped, the pool may be quiet
    /// and be joined without it. Drop it before a [`Waiting`] of that worker.
    #[must_use]
    pub fn stuck(&self) -> Stuck<J> {
        self.0.roster.lock().stuck += 1;
        // Both `wait_quiet` and `join` may have waited for this.
        self.0.bell.notify_all();
        Stuck(Arc::clone(&self.0))
    }
}

/// A worker's job is abandoned; see [`Handle::stuck`].
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
        // A worker that is stuck as well does not keep the pool from being quiet.
        shared.tell_if_quiet(&roster);
        drop(roster);
        // Pairs with the fence in `Pool::submit`: a job is visible here if its submitter saw no
        // HAS_CAPACITY.
        fence(Ordering::SeqCst);
        let woken = if shared.queue.is_empty() {
            Woken::nobody()
        } else {
            // If no thread can be started, a busy worker takes the job when it is free. Without
            // one, the next `look_after` tries again.
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
