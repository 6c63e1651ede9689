//! What a live page shows of the tasks of one process and the rest of the crate does not know: which
//! tasks are in the queue, which run on other machines, and the last ones that ended.
//!
//! Nothing of it calls Python. A task pays for two short locks, at its place in the queue and at its
//! start, and the first tasks that end in a second for a record. Nothing is woken.
//!
//! Memory: a pointer for each task in the queue, and [`ENDED`] records of at most a few kilobytes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use flask_delay_engine::{Mutex, Phase};
use pyo3::prelude::*;
use smallvec::SmallVec;

use super::held::HeldTasks;
use super::id::Id;
use super::leftovers;
use super::policy;
use super::progress::Progress;
use super::task::{Task, name_of};
use super::timeline::Timeline;

/// So many ended tasks are remembered; of those that end in one second, no more than the first ones.
const ENDED: usize = 100;
/// The most tasks on other machines that are listed.
const ELSEWHERE: usize = 1_000;
/// An empty queue gives up the room of more tasks than that.
const ROOM: usize = 8_192;
/// The most tasks whose arguments are kept as text.
const TEXTS: usize = 10_000;

const SECOND: u64 = 1_000_000_000;

/// The record of one process. Its locks are leaves, and nothing is dropped under them.
#[derive(Default)]
pub(crate) struct Recorder {
    /// Tasks without a rank in the queue, in its order. Each keeps its task no longer than the queue
    /// does, see [`Recorder::left_queue`].
    queued: Mutex<VecDeque<Py<Task>>>,
    /// Tasks that were sent to other machines and have not ended.
    elsewhere: HeldTasks,
    /// Tasks that returned or were cancelled, oldest first.
    ended: Mutex<VecDeque<Ended>>,
    /// A second of the clock, and how many tasks that ended in it are remembered.
    second: AtomicU64,
    seen: AtomicUsize,
    timeline: Timeline,
}

/// A task that returned or was cancelled.
#[derive(Clone)]
pub(crate) struct Ended {
    pub(crate) id: Id,
    pub(crate) name: String,
    pub(crate) is_cancelled: bool,
    pub(crate) progress: Option<Progress>,
    pub(crate) attempts: u32,
    /// Nanoseconds since 1970, 0 for never.
    pub(crate) enqueued: u64,
    pub(crate) started: u64,
    pub(crate) finished: u64,
    pub(crate) arguments: Option<String>,
}

impl Ended {
    fn of(this: &Bound<'_, Task>) -> Self {
        let cell = this.get();
        let (progress, arguments) = cell.known_extra().map_or((None, None), |extra| {
            let extra = extra.lock();
            (
                extra.progress.clone(),
                extra.arguments.as_ref().map(|it| it.get()),
            )
        });
        Self {
            id: cell.quiet_id(),
            name: name_of(this),
            is_cancelled: cell.phase().is_cancelled(),
            progress,
            attempts: policy::attempts(cell).unwrap_or_else(|| u32::from(cell.has_begun())),
            enqueued: cell.enqueued,
            started: cell.last_start(),
            finished: cell.ended(),
            arguments,
        }
    }
}

impl Recorder {
    /// Notes a task that was put into the queue without a rank.
    #[inline(never)]
    pub(crate) fn queued(&self, this: &Bound<'_, Task>) {
        let mut queued = self.queued.lock();
        // A worker that has started it meanwhile has not looked here yet: it would keep the task.
        if this.get().phase() == Phase::Pending {
            queued.push_back(this.clone().unbind());
        }
    }

    /// Called after a task has started, or has ended in the queue: forgets those at the head that
    /// wait no more. A task that was cancelled behind others stays until these start, as in the
    /// queue itself.
    pub(crate) fn left_queue(&self, py: Python<'_>) {
        let mut gone = SmallVec::<[Py<Task>; 2]>::new();
        {
            let mut queued = self.queued.lock();
            while let Some(first) = queued.front()
                && first.get().phase() != Phase::Pending
            {
                gone.extend(queued.pop_front());
            }
            if queued.is_empty() && queued.capacity() > ROOM {
                *queued = VecDeque::new();
            }
        }
        for task in gone {
            leftovers::let_go(Some(task.into_bound(py)));
        }
    }

    /// Up to `most` tasks of the queue, in its order, but for those with a rank.
    pub(crate) fn in_queue<'py>(&self, py: Python<'py>, most: usize) -> Vec<Bound<'py, Task>> {
        let queued = self.queued.lock();
        let waiting = queued
            .iter()
            .filter(|it| it.get().phase() == Phase::Pending);
        waiting.take(most).map(|it| it.bind(py).clone()).collect()
    }

    /// Notes a task that another machine runs.
    pub(crate) fn sent(&self, this: &Bound<'_, Task>) {
        if self.elsewhere.len() < ELSEWHERE {
            self.elsewhere.add(this, None);
        }
    }

    /// Forgets a task that another machine does not run after all.
    pub(crate) fn withdrawn(&self, this: &Bound<'_, Task>) {
        self.elsewhere.remove(this);
    }

    /// The tasks on other machines.
    pub(crate) fn elsewhere(&self) -> &HeldTasks {
        &self.elsewhere
    }

    /// What has happened to tasks that were held or run again.
    pub(crate) fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Notes the end of a task.
    pub(crate) fn ended(&self, this: &Bound<'_, Task>) {
        let cell = this.get();
        if cell.is_ruled() {
            self.elsewhere.remove(this);
        }
        if cell.phase() != Phase::Finished {
            self.left_queue(this.py());
        }
        if cell.phase() == Phase::Failed {
            // Python keeps its view, with the error.
            return;
        }
        let second = cell.ended() / SECOND;
        // Relaxed, here and below: of two threads that do this at once, both may be right.
        if self.second.load(Ordering::Relaxed) != second {
            self.second.store(second, Ordering::Relaxed);
            self.seen.store(0, Ordering::Relaxed);
        }
        if self.seen.load(Ordering::Relaxed) < ENDED {
            self.seen.fetch_add(1, Ordering::Relaxed);
            self.remember(this);
        }
    }

    #[inline(never)]
    fn remember(&self, this: &Bound<'_, Task>) {
        let new = Ended::of(this);
        let mut ended = self.ended.lock();
        let oldest = (ended.len() >= ENDED).then(|| ended.pop_front());
        ended.push_back(new);
        drop(ended);
        drop(oldest);
    }

    /// The last tasks that returned or were cancelled, oldest first.
    pub(crate) fn last_ended(&self) -> Vec<Ended> {
        self.ended.lock().iter().cloned().collect()
    }

    /// Forgets the tasks that have not ended: no code can ask for them any more, and they keep the
    /// core, which keeps this.
    pub(crate) fn clear(&self) {
        let queued = std::mem::take(&mut *self.queued.lock());
        drop(queued);
        self.elsewhere.clear();
    }
}

/// How many events there were in this process since a page was made.
static EVENTS: AtomicU64 = AtomicU64::new(0);

/// Counts an event.
pub(crate) fn count() {
    // Relaxed: a reader that misses it asks again.
    EVENTS.fetch_add(1, Ordering::Relaxed);
}

/// How many events were counted.
pub(crate) fn counted() -> u64 {
    EVENTS.load(Ordering::Relaxed)
}

/// The arguments of a task as text.
pub(crate) struct Text(Box<str>);

/// How many there are.
static ALL_TEXTS: AtomicUsize = AtomicUsize::new(0);

impl Text {
    /// None if too many tasks have one.
    pub(crate) fn new(text: &str) -> Option<Box<Self>> {
        // Relaxed, here and below: a bound of the memory, which may be missed by a few.
        if ALL_TEXTS.load(Ordering::Relaxed) >= TEXTS {
            return None;
        }
        ALL_TEXTS.fetch_add(1, Ordering::Relaxed);
        Some(Box::new(Self(text.into())))
    }

    pub(crate) fn get(&self) -> String {
        self.0.to_string()
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        ALL_TEXTS.fetch_sub(1, Ordering::Relaxed);
    }
}
