//! The queue of jobs: plain ones in a FIFO, ranked ones in a priority queue, behind a lock.
//!
//! Plain jobs touch neither that priority queue nor its lock while it is empty. `README.md` beside
//! this file states what code without the lock may rely on.

use crate::fifo::Fifo;
use crate::priority::{Level, PriorityQueue, Rank};
use crate::sync::{AtomicUsize, Mutex, Ordering, fence};

/// No ranked job ever came.
const UNUSED: usize = 0;
/// One job in the priority queue; the bit below means that it is not [`UNUSED`].
const ONE: usize = 2;

pub(crate) struct Queue<J> {
    plain: Fifo<J>,
    /// A leaf: under it nothing is called but `birth`, and what looks at jobs.
    priority: Mutex<PriorityQueue<J>>,
    /// What the priority queue holds; written under its lock.
    ranked: AtomicUsize,
    birth: fn(&J) -> Rank,
}

impl<J> Queue<J> {
    pub(crate) fn new(birth: fn(&J) -> Rank) -> Self {
        Self {
            plain: Fifo::new(),
            priority: Mutex::new(PriorityQueue::new()),
            ranked: AtomicUsize::new(UNUSED),
            birth,
        }
    }

    pub(crate) fn push(&self, job: J) {
        self.plain.push(job);
    }

    pub(crate) fn push_ranked(&self, job: J, level: Level, rank: Rank) {
        let mut priority = self.priority.lock();
        priority.add(job, level, rank);
        self.publish(&priority);
    }

    /// Takes out the next job; `None` only if the queue was empty at some moment.
    pub(crate) fn pop(&self) -> Option<J> {
        // Relaxed: a thread that misses a ranked job takes a plain one first, or looks again.
        if self.ranked.load(Ordering::Relaxed) < ONE {
            let job = self.plain.pop();
            if job.is_some() {
                return job;
            }
        }
        self.pop_from_priority()
    }

    #[cold]
    fn pop_from_priority(&self) -> Option<J> {
        // Plain jobs may have been moved into the priority queue since. If so, this thread sees
        // here that it was used, see `take`. Its present content is seen under the lock only.
        fence(Ordering::Acquire);
        if self.ranked.load(Ordering::Relaxed) == UNUSED {
            return None;
        }
        self.take(PriorityQueue::first)
    }

    /// Takes out the oldest job of the lowest level.
    pub(crate) fn pop_lowest(&self) -> Option<J> {
        self.take(PriorityQueue::lowest)
    }

    pub(crate) fn is_empty(&self) -> bool {
        if !self.plain.is_empty() {
            return false;
        }
        // In this order, as in `pop`: a job is moved from the FIFO into the priority queue and
        // never back. A thread that sees that it left the one sees that it is in the other.
        fence(Ordering::Acquire);
        self.ranked.load(Ordering::Relaxed) < ONE
    }

    /// Calls `look` with up to `most` ranked jobs, in their order.
    pub(crate) fn look(&self, most: usize, look: impl FnMut(&J)) {
        self.priority.lock().ranked().take(most).for_each(look);
    }

    /// How many jobs there are; one that is being moved may count twice.
    pub(crate) fn len(&self) -> usize {
        self.plain.len() + self.ranked.load(Ordering::Relaxed) / ONE
    }

    fn take(&self, which: fn(&mut PriorityQueue<J>) -> Option<J>) -> Option<J> {
        let mut priority = self.priority.lock();
        if !priority.has_head() {
            // Pairs with the fences in `pop` and `is_empty`. A thread that sees that the FIFO has
            // lost this job sees a priority queue in use, and not empty until the job is taken.
            fence(Ordering::Release);
            if let Some(job) = self.plain.pop() {
                let birth = (self.birth)(&job);
                priority.set_head(job, birth);
            }
        }
        let job = which(&mut priority);
        self.publish(&priority);
        job
    }

    /// Called under the lock, and once for all that was done under it: a plain job that is moved
    /// while there are ranked ones must not be missed in between.
    fn publish(&self, priority: &PriorityQueue<J>) {
        let used = usize::from(priority.is_used());
        // Relaxed: the lock orders the writers, and for the readers see `Pool::submit`.
        self.ranked
            .store(priority.len() * ONE + used, Ordering::Relaxed);
    }
}
