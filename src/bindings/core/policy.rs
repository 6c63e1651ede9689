//! What one task keeps of its policy, and what is done at its start, after each attempt, and
//! at its end.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flask_delay_engine::Ticket;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::interrupt::Why;
use super::keys::{self, Lane};
use super::leftovers;
use super::options::Policy;
use super::task::Task;
use super::transition::Phase;
use crate::bindings::ffi::clock::now;

/// See the module.
#[derive(Default)]
pub(crate) struct Rules {
    /// None for a task that has asked to run again and has no other rules.
    pub(crate) policy: Option<Py<Policy>>,
    pub(crate) lane: Option<Py<Lane>>,
    /// The lane, if the task has ended and its code goes on in there.
    pub(crate) behind: Option<Py<Lane>>,
    /// The key that this task has claimed.
    pub(crate) claim: Option<Py<PyAny>>,
    pub(crate) attempts: u32,
    /// When the first of several attempts was started, in nanoseconds since 1970.
    pub(crate) first_start: Option<u64>,
    /// What the last attempts have raised, oldest first.
    pub(crate) previous: Vec<Py<PyAny>>,
    /// While it has not started: when it expires, or runs again.
    pub(crate) alarm: Option<Ticket>,
    /// From when on it may start.
    pub(crate) start: Option<Start>,
    /// That moment, if it is known by a clock that nobody sets.
    pub(crate) from: Option<Instant>,
    /// While it is held until then.
    pub(crate) begin: Option<Ticket>,
    /// When it is too late to start.
    pub(crate) expires: Option<Instant>,
    /// Why its coroutine was cancelled.
    pub(crate) why: Option<Why>,
    /// What it waits for before it may start, if it still does.
    pub(crate) dependencies: Option<Dependencies>,
    /// Not ours to decide is whether it runs again.
    pub(crate) elsewhere: bool,
}

impl Rules {
    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.policy)?;
        visit.call(&self.lane)?;
        visit.call(&self.behind)?;
        visit.call(&self.claim)?;
        if let Some(dependencies) = &self.dependencies {
            dependencies.visit(visit)?;
        }
        self.previous.iter().try_for_each(|it| visit.call(it))
    }
}

/// Reads or changes the rules of a task, if it has any. Nothing is dropped inside.
pub(crate) fn with<R>(this: &Task, step: impl FnOnce(&mut Rules) -> R) -> Option<R> {
    if !this.is_ruled() {
        return None;
    }
    let extra = this.known_extra()?;
    extra.lock().rules.as_mut().map(|rules| step(rules))
}

/// As [`with`], for a task that need not have had any.
pub(crate) fn with_new<R>(this: &Task, step: impl FnOnce(&mut Rules) -> R) -> R {
    let done = {
        let mut extra = this.extra().lock();
        step(extra.rules.get_or_insert_with(Box::default))
    };
    this.mark_ruled();
    done
}

/// As [`with_new`], for a task that nobody else has yet: it is not in the queue until it is put
/// there.
pub(crate) fn begin<R>(this: &Task, step: impl FnOnce(&mut Rules) -> R) -> R {
    this.leave_queue();
    with_new(this, step)
}

/// Gives a task that runs elsewhere, or comes from there, its rules: others see to the rest.
pub(crate) fn runs_elsewhere(this: &Task, attempts: u32) {
    begin(this, |rules| {
        rules.attempts = attempts;
        rules.elsewhere = true;
    });
}

/// Whether others decide if the task runs again.
pub(crate) fn is_elsewhere(this: &Task) -> bool {
    with(this, |rules| rules.elsewhere).unwrap_or(false)
}

/// There will be another attempt.
pub(crate) fn begins_again(this: &Task) {
    with(this, |rules| {
        rules.first_start.get_or_insert_with(|| this.last_start());
    });
}

pub(crate) fn policy<'py>(this: &Bound<'py, Task>) -> Option<Bound<'py, Policy>> {
    let py = this.py();
    with(this.get(), |rules| {
        rules.policy.as_ref().map(|policy| policy.bind(py).clone())
    })
    .flatten()
}

pub(crate) fn lane<'py>(this: &Bound<'py, Task>) -> Option<Bound<'py, Lane>> {
    let py = this.py();
    with(this.get(), |rules| {
        rules.lane.as_ref().map(|lane| lane.bind(py).clone())
    })
    .flatten()
}

/// Where the task stands among those that wait: its priority, and its rank. None for a plain
/// one, which goes by its age; one that had to wait for its time is younger than that.
pub(crate) fn level_and_rank(this: &Bound<'_, Task>) -> Option<(i32, i64)> {
    let policy = policy(this)?;
    let asked = policy.get();
    let is_plain = asked.priority == 0 && asked.start.is_none();
    (!is_plain).then(|| (asked.priority, asked.rank(ready(this.get()))))
}

/// Since when a task has waited, in nanoseconds since 1970: from when on it might start.
pub(crate) fn ready(this: &Task) -> i64 {
    let start = with(this, |rules| rules.start).flatten();
    start.map_or(this.born(), |start| start.ready(this.born()))
}

/// Whether the task is one of those of a key.
pub(crate) fn has_lane(this: &Task) -> bool {
    with(this, |rules| rules.lane.is_some()).unwrap_or(false)
}

/// Whether something else may keep the task from starting.
pub(crate) fn may_be_held(this: &Task) -> bool {
    with(this, |rules| {
        rules.lane.is_some() || rules.dependencies.is_some()
    })
    .unwrap_or(false)
}

/// What holds up a task that has not started, by its key: some addresses of tasks that run,
/// and how many of them have to end.
pub(crate) fn held_up(this: &Bound<'_, Task>) -> Option<(Vec<usize>, usize)> {
    // One that has failed has left its lane, but may be about to tell.
    if this.get().phase() != Phase::Pending {
        return None;
    }
    let lane = lane(this)?;
    let terms = policy(this)?.get().terms(ready(this.get()))?;
    keys::held_up(&lane, this, terms.limit)
}

/// The time limit of one attempt.
pub(crate) fn timeout(this: &Bound<'_, Task>) -> Option<Duration> {
    policy(this)?.get().timeout
}

/// How often the task has been begun.
pub(crate) fn attempts(this: &Task) -> Option<u32> {
    with(this, |rules| rules.attempts)
}

/// When the first attempt was started, in nanoseconds since 1970, if another one followed.
pub(crate) fn first_start(this: &Task) -> Option<u64> {
    with(this, |rules| rules.first_start).flatten()
}

/// Counts the time before which the task is not to start from now on.
pub(crate) fn wait_from_now(this: &Task) {
    let age = now().cast_signed().saturating_sub(this.born());
    let age = Duration::from_nanos(u64::try_from(age).unwrap_or_default());
    with(this, |rules| {
        if let Some(Start::After(time)) = rules.start {
            rules.from = Instant::now().checked_add(time);
            rules.start = Some(Start::After(age.saturating_add(time)));
        }
    });
}

/// Whether it is the one task of its key.
pub(crate) fn has_claim(this: &Task) -> bool {
    with(this, |rules| rules.claim.is_some()).unwrap_or(false)
}

/// Whether it is too late to start the task for the first time.
pub(crate) fn is_late(this: &Task) -> bool {
    let expires = with(this, |rules| rules.expires.filter(|_| rules.attempts == 0));
    expires.flatten().is_some_and(|at| at <= Instant::now())
}

/// Why a coroutine was cancelled, if that was for its rules.
pub(crate) fn why(this: &Task) -> Option<Why> {
    with(this, |rules| rules.why).flatten()
}

/// Where a task that has not ended stands in its lane.
pub(crate) fn rank(this: &Bound<'_, Task>) -> i64 {
    policy(this).map_or(0, |it| it.get().rank(ready(this.get())))
}

/// The task is about to end without its code, which keeps its turn until it ends too.
pub(crate) fn keep_turn(this: &Task) {
    with(this, |rules| rules.behind = rules.lane.take());
}

/// From when on a task may start.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// So long after its submit, whatever becomes of the clocks.
    After(Duration),
    /// As soon as it is that late by the system's clock, which may be set meanwhile.
    At(SystemTime),
}

/// More than a submit takes, even where its thread has to wait for a processor.
const LAG: Duration = Duration::from_secs(1);

impl Start {
    /// That moment by a clock that nobody sets, if it is known, for a task that was made at
    /// `born`.
    pub(crate) fn from(self, born: i64) -> Option<Instant> {
        let Self::After(time) = self else {
            return None;
        };
        // From then on, and not from now: tasks are to come in the order of their times.
        let age = now().cast_signed().saturating_sub(born);
        let age = Duration::from_nanos(u64::try_from(age).unwrap_or_default());
        // A clock that was set just now makes no task old.
        Instant::now().checked_add(time.saturating_sub(age.min(LAG)))
    }

    /// In nanoseconds since 1970, for a task that was made at `born`.
    pub(crate) fn ready(self, born: i64) -> i64 {
        match self {
            Self::After(time) => {
                let nanos = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
                born.saturating_add(nanos)
            }
            Self::At(time) => {
                let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
                let nanos = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
                nanos.max(born)
            }
        }
    }
}

/// What a task waits for before it may start.
pub(crate) struct Dependencies {
    pub(crate) kind: Kind,
    pub(crate) futures: Vec<Py<Task>>,
    /// How many of them have not told that they are done.
    pub(crate) left: usize,
}

/// What becomes of the others' results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is called with the one result.
    Then,
    /// It is the list of the results.
    Gather,
    /// The same, with the exceptions of those that failed.
    GatherAll,
}

impl Dependencies {
    /// The task has ended without them.
    pub(crate) fn forget(self, this: &Bound<'_, Task>) {
        let futures = self.futures.into_iter();
        let futures: Vec<_> = futures.map(|it| it.into_bound(this.py())).collect();
        forget(this, &futures);
        for future in futures {
            leftovers::let_go(Some(future));
        }
    }

    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.futures.iter().try_for_each(|it| visit.call(it))
    }
}

/// `this` does not wait for these any more.
pub(crate) fn forget(this: &Bound<'_, Task>, futures: &[Bound<'_, Task>]) {
    for future in futures {
        let Some(extra) = future.get().known_extra() else {
            continue;
        };
        let mut extra = extra.lock();
        let left: Vec<_> = extra.dependents.extract_if(.., |it| it.is(this)).collect();
        drop(extra);
        drop(left);
    }
}

/// Those that a task waits for before it may start, as far as they are not done; None if it
/// waits for none.
pub(crate) fn followed<'py>(this: &Bound<'py, Task>) -> Option<Vec<Bound<'py, Task>>> {
    let py = this.py();
    with(this.get(), |rules| {
        let dependencies = rules.dependencies.as_ref()?;
        let open = dependencies.futures.iter().map(|it| it.bind(py).clone());
        Some(open.collect::<Vec<_>>())
    })?
    .map(|mut futures| {
        futures.retain(|it| !it.get().phase().is_done());
        futures
    })
}

/// Whether a task, or one that it has to wait for before it may start, `is` one of a kind.
pub(crate) fn needs(this: &Bound<'_, Task>, is: impl Fn(&Task) -> bool) -> bool {
    // As nearly always.
    if !this.get().is_ruled() {
        return is(this.get());
    }
    let mut seen = HashSet::new();
    let mut open = vec![this.clone()];
    while let Some(task) = open.pop() {
        if is(task.get()) {
            return true;
        }
        if seen.insert(task.as_ptr() as usize) {
            open.extend(followed(&task).into_iter().flatten());
        }
    }
    false
}
