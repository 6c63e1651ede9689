//! The end of a pool: no more jobs, all jobs done, all threads gone.

use std::time::Instant;

use log::debug;

use crate::pool::{CLOSED, Pool, Roster, Shared};
use crate::sync::{Ordering, fence, wait};

impl<J: Send + 'static> Pool<J> {
    /// Takes no more jobs. Those in the queue still run; then the threads leave.
    pub fn close(&self) {
        let shared = &self.shared;
        let mut roster = shared.roster.lock();
        // Release pairs with the Acquire in `submit`.
        if shared.flags.fetch_or(CLOSED, Ordering::Release) & CLOSED != 0 {
            return;
        }
        let sleepers = std::mem::take(&mut roster.idle);
        // As in `wake_one`, the waking thread counts them as active. Those above the limit leave at
        // once, see `Worker::retire_surplus`.
        roster.active += sleepers.len();
        shared.publish(&roster);
        drop(roster);
        for parker in &sleepers {
            parker.unpark();
        }
        debug!(target: "flask_delay::engine", "pool {} closed", shared.config.name);
    }

    /// Whether [`Pool::close`] was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.flags.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Waits until no job is queued or running; `false` when `deadline` came first.
    #[must_use]
    pub fn wait_quiet(&self, deadline: Option<Instant>) -> bool {
        self.wait_for(deadline, |shared, roster| shared.is_quiet(roster))
    }

    /// Whether [`Pool::wait_quiet`] would return at once; `None` if the pool's lock is taken, maybe
    /// by this very thread, which a signal has interrupted.
    #[must_use]
    pub fn try_is_quiet(&self) -> Option<bool> {
        let roster = self.shared.roster.try_lock()?;
        Some(self.shared.is_quiet(&roster))
    }

    /// Waits until every thread has left a closed pool, except stuck ones; `false` when `deadline`
    /// came first. After `true` no other thread of the pool ever runs again.
    #[must_use]
    pub fn join(&self, deadline: Option<Instant>) -> bool {
        self.wait_for(deadline, |shared, roster| {
            // A thread counts in the roster until its very end; see `Worker::drop`.
            if roster.threads > roster.stuck || roster.leaving > 0 || roster.held > 0 {
                return false;
            }
            let closed = shared.flags.load(Ordering::Relaxed) & CLOSED != 0;
            // Pairs with the fence in `Pool::submit`: a job is visible here if its submitter does
            // not see CLOSED afterwards.
            fence(Ordering::SeqCst);
            let empty = shared.queue.is_empty();
            roster.ended |= closed && empty;
            empty
        })
    }

    fn wait_for(
        &self,
        deadline: Option<Instant>,
        reached: impl Fn(&Shared<J>, &mut Roster) -> bool,
    ) -> bool {
        let shared = &*self.shared;
        let mut roster = shared.roster.lock();
        while !reached(shared, &mut roster) {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return false;
            }
            roster = wait(&shared.bell, roster, deadline);
        }
        true
    }
}
