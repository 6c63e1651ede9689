//! The options and the state that one task keeps for its start, its attempts and its end.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flask_delay_engine::Ticket;
use flask_delay_journal::{Claim, Pool};
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::interrupt::Why;
use super::kept::Keeping;
use super::keys::Lane;
use super::leftovers;
use super::link::Link;
use super::machine::{Place, TakenPermit};
use super::options::{Policy, Start};
use super::task::Task;
use crate::bindings::ffi::clock::now;

#[derive(Default)]
pub(crate) struct Rules {
    /// None for a task without options that has asked to run again.
    pub(crate) policy: Option<Py<Policy>>,
    pub(crate) lane: Option<Py<Lane>>,
    /// The limiter of a task that ended while its code still runs.
    pub(crate) behind: Option<Py<Lane>>,
    /// Where it waits, if its limits hold on the machine.
    pub(crate) place: Option<Box<Place>>,
    /// As `behind`.
    pub(crate) permit_behind: Option<Box<TakenPermit>>,
    /// The key that this task has claimed.
    pub(crate) claim: Option<Py<PyAny>>,
    pub(crate) attempts: u32,
    /// When the first of several attempts started, in nanoseconds since 1970.
    pub(crate) first_start: Option<u64>,
    /// The exceptions of the last attempts, oldest first.
    pub(crate) previous: Vec<Py<PyAny>>,
    /// The timer for its expiry or its next attempt, until it starts.
    pub(crate) alarm: Option<Ticket>,
    /// The earliest start.
    pub(crate) start: Option<Start>,
    /// The same on the monotonic clock, if known.
    pub(crate) from: Option<Instant>,
    /// The timer for that start, while the task is held.
    pub(crate) begin: Option<Ticket>,
    /// The latest start.
    pub(crate) expires: Option<Instant>,
    /// The place of a debounced task among the calls of its key.
    pub(crate) window: Option<Box<Window>>,
    /// Whether it is held until a release.
    pub(crate) withheld: bool,
    /// Why its coroutine was cancelled.
    pub(crate) why: Option<Why>,
    /// The tasks that it waits for before it may start.
    pub(crate) dependencies: Option<Dependencies>,
    /// The sender or the backend, not this process, decides whether it runs again.
    pub(crate) elsewhere: bool,
    /// The row of a durable task.
    pub(crate) durable: Option<Box<Durable>>,
    /// What a durable task keeps for its next attempt, once there is any of it.
    pub(crate) kept: Option<Box<Keeping>>,
    /// The journal that was told of this plain task, until the task has ended.
    pub(crate) published: Option<Arc<Link>>,
}

impl Rules {
    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.policy)?;
        visit.call(&self.lane)?;
        visit.call(&self.behind)?;
        visit.call(&self.claim)?;
        if let Some(window) = &self.window {
            visit.call(&window.key)?;
            visit.call(&window.replaces)?;
        }
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

/// As [`with`], for a step that may find nothing.
#[inline]
pub(crate) fn find<R>(this: &Task, step: impl FnOnce(&mut Rules) -> Option<R>) -> Option<R> {
    with(this, step).flatten()
}

/// As [`with`], for a task that may have no rules yet.
pub(crate) fn with_new<R>(this: &Task, step: impl FnOnce(&mut Rules) -> R) -> R {
    let done = {
        let mut extra = this.extra().lock();
        step(extra.rules.get_or_insert_with(Box::default))
    };
    this.mark_ruled();
    done
}

/// As [`with_new`], for a task that is not shared yet: it is not in the queue until it is put
/// there.
pub(crate) fn begin<R>(this: &Task, step: impl FnOnce(&mut Rules) -> R) -> R {
    this.leave_queue();
    with_new(this, step)
}

/// Gives rules to a task that another process runs, or has sent here, and retries.
pub(crate) fn runs_elsewhere(this: &Task, attempts: u32) {
    begin(this, |rules| {
        rules.attempts = attempts;
        rules.elsewhere = true;
    });
}

/// Whether the decision on another attempt is not made here.
pub(crate) fn is_elsewhere(this: &Task) -> bool {
    with(this, |rules| rules.elsewhere).unwrap_or(false)
}

/// Keeps the first start, before another attempt.
pub(crate) fn begins_again(this: &Task) {
    with(this, |rules| {
        rules.first_start.get_or_insert_with(|| this.last_start());
    });
}

pub(crate) fn policy<'py>(this: &Bound<'py, Task>) -> Option<Bound<'py, Policy>> {
    let py = this.py();
    find(this.get(), |rules| {
        rules.policy.as_ref().map(|policy| policy.bind(py).clone())
    })
}

pub(crate) fn lane<'py>(this: &Bound<'py, Task>) -> Option<Bound<'py, Lane>> {
    let py = this.py();
    find(this.get(), |rules| {
        rules.lane.as_ref().map(|lane| lane.bind(py).clone())
    })
}

/// The task's priority and rank in the queue. None for a plain task, which goes by its age; a
/// delayed task is younger than that.
pub(crate) fn level_and_rank(this: &Bound<'_, Task>) -> Option<(i32, i64)> {
    let policy = policy(this)?;
    let asked = policy.get();
    let is_plain = asked.priority == 0 && asked.start.is_none() && asked.debounce.is_none();
    (!is_plain).then(|| (asked.priority, asked.rank(ready(this.get()))))
}

/// The earliest start of a task, from which its wait counts, in nanoseconds since 1970.
pub(crate) fn ready(this: &Task) -> i64 {
    let start = find(this, |rules| rules.start);
    start.map_or(this.born(), |start| start.ready(this.born()))
}

/// Whether the task has a limiter, here or on the machine.
pub(crate) fn has_lane(this: &Task) -> bool {
    with(this, |rules| rules.lane.is_some() || rules.place.is_some()).unwrap_or(false)
}

/// Whether a limiter or a dependency may delay the start.
pub(crate) fn may_be_held(this: &Task) -> bool {
    with(this, |rules| {
        let follows = (rules.durable.as_ref()).is_some_and(|it| !it.after.is_empty());
        rules.lane.is_some() || rules.place.is_some() || rules.dependencies.is_some() || follows
    })
    .unwrap_or(false)
}

/// The timeout of one attempt.
pub(crate) fn timeout(this: &Bound<'_, Task>) -> Option<Duration> {
    policy(this)?.get().timeout
}

/// The number of attempts that have begun.
pub(crate) fn attempts(this: &Task) -> Option<u32> {
    with(this, |rules| rules.attempts)
}

/// When the first attempt started, in nanoseconds since 1970, if another one followed.
pub(crate) fn first_start(this: &Task) -> Option<u64> {
    find(this, |rules| rules.first_start)
}

/// Restarts the countdown of the task now.
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

/// Whether the task has claimed its key.
pub(crate) fn has_claim(this: &Task) -> bool {
    with(this, |rules| rules.claim.is_some()).unwrap_or(false)
}

/// Whether it is too late to start the task for the first time.
pub(crate) fn is_late(this: &Task) -> bool {
    let expires = find(this, |rules| rules.expires.filter(|_| rules.attempts == 0));
    expires.is_some_and(|at| at <= Instant::now())
}

/// Why a coroutine was cancelled, if its rules did that.
pub(crate) fn why(this: &Task) -> Option<Why> {
    find(this, |rules| rules.why)
}

/// The rank of an open task in its limiter.
pub(crate) fn rank(this: &Bound<'_, Task>) -> i64 {
    policy(this).map_or(0, |it| it.get().rank(ready(this.get())))
}

/// The place of a debounced task among the calls of its key.
pub(crate) struct Window {
    pub(crate) key: Py<PyAny>,
    /// The first of the calls that have replaced each other.
    pub(crate) began: Instant,
    /// When it starts, unless another call replaces it before.
    pub(crate) due: Instant,
    /// The call that it replaces, until it is accepted itself.
    pub(crate) replaces: Option<Py<Task>>,
}

/// The journal's part of a task's rules.
pub(crate) struct Durable {
    pub(crate) link: Arc<Link>,
    pub(crate) pool: Pool,
    /// The row's claim, while this process runs it.
    pub(crate) claim: Option<Claim>,
    /// The tick of the job that it is a run of, in microseconds since 1970.
    pub(crate) tick: Option<i64>,
    /// The ids of the tasks that it follows.
    pub(crate) after: Vec<String>,
    /// Whether the child process that ran the attempt has died.
    pub(crate) is_death: bool,
}

impl Durable {
    pub(crate) fn new(link: Arc<Link>, pool: Pool) -> Self {
        Self {
            link,
            pool,
            claim: None,
            tick: None,
            after: Vec::new(),
            is_death: false,
        }
    }
}

/// The tasks that another one waits for before it may start.
pub(crate) struct Dependencies {
    pub(crate) kind: Kind,
    pub(crate) futures: Vec<Py<Task>>,
    /// The number of them that have not reported their end.
    pub(crate) left: usize,
}

/// The use of the dependencies' results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The function is called with the one result.
    Then,
    /// The function is called without it, however the one task has ended.
    End,
    /// The task's result is the list of the results.
    Gather,
    /// The same, with the exceptions of failed tasks.
    GatherAll,
}

impl Dependencies {
    /// Called when the task has ended without them.
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

/// Removes `this` from the dependents of these futures.
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

/// The dependencies of a task that are not done; None if it has no dependencies.
pub(crate) fn followed<'py>(this: &Bound<'py, Task>) -> Option<Vec<Bound<'py, Task>>> {
    let py = this.py();
    find(this.get(), |rules| {
        let dependencies = rules.dependencies.as_ref()?;
        let open = dependencies.futures.iter().map(|it| it.bind(py).clone());
        Some(open.collect::<Vec<_>>())
    })
    .or_else(|| followed_rows(this))
    .map(|mut futures| {
        futures.retain(|it| !it.get().phase().is_done());
        futures
    })
}

/// The tasks of this process that a durable one follows; None if it follows none.
fn followed_rows<'py>(this: &Bound<'py, Task>) -> Option<Vec<Bound<'py, Task>>> {
    let (link, after) = find(this.get(), |rules| {
        let durable = rules.durable.as_ref().filter(|it| !it.after.is_empty())?;
        Some((Arc::clone(&durable.link), durable.after.clone()))
    })?;
    let found = after.iter().filter_map(|id| link.find(this.py(), id));
    Some(found.collect())
}

/// Whether `is` holds for a task, or for one of its dependencies, direct or not.
pub(crate) fn needs(this: &Bound<'_, Task>, is: impl Fn(&Task) -> bool) -> bool {
    // The usual case.
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
