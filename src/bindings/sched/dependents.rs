//! Tasks that are held until other tasks are done.
//!
//! When a task ends, on any thread, it calls [`go_on`] for its dependents. A dependent of a task
//! that succeeded goes to a worker. A dependent without anything to run ends on that thread,
//! because it only gathers results or because a dependency failed. A worker runs its callbacks.

use std::collections::VecDeque;
use std::sync::Arc;

use flask_delay_engine::Hold;
use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::completion::{self, Detached};
use super::dispatch::{self, announce, withdraw};
use crate::bindings::codec::json;
use crate::bindings::core::executor::{Core, Queued};
use crate::bindings::core::links;
use crate::bindings::core::policy::{self, Dependencies, Kind, forget};
use crate::bindings::core::settings::Mode;
use crate::bindings::core::task::{Task, name_of};
use crate::bindings::core::timeline;
use crate::bindings::core::transition::{End, Phase};
use crate::bindings::errors::{CancelledError, ResultNotKept, closed, into_exception};

/// Holds a task until `futures` are done.
pub(crate) fn hold(
    this: &Bound<'_, Task>,
    core: &Arc<Core>,
    kind: Kind,
    futures: &[Bound<'_, Task>],
) -> PyResult<()> {
    begin(this, core, kind, futures).inspect_err(|_| withdraw(this))?;
    links::note(this, futures, core);
    let (mut told, mut turns) = (VecDeque::new(), Turns::default());
    if futures.is_empty() {
        turns.end(
            this,
            End::Returned(PyList::empty(this.py()).into_any()),
            &mut told,
        );
    }
    for future in futures {
        if this.get().phase().is_done() {
            break;
        }
        let tell = this.clone().unbind();
        if !future.get().leave(|extra| extra.dependents.push(tell)) {
            told.push_back((future.clone(), this.clone()));
        }
    }
    turns.hear(told);
    if this.get().phase().is_done() {
        // A future ended while it was registering `this`.
        forget(this, futures);
    }
    turns.take()
}

fn begin(
    this: &Bound<'_, Task>,
    core: &Arc<Core>,
    kind: Kind,
    futures: &[Bound<'_, Task>],
) -> PyResult<()> {
    // Before the check: a pool that is closed after that waits for the task.
    let hold = hold_pool(core);
    if core.pool().is_closed() {
        return Err(closed());
    }
    let dependencies = Dependencies {
        kind,
        futures: futures.iter().map(|it| it.clone().unbind()).collect(),
        left: futures.len(),
    };
    policy::begin(this.get(), |rules| rules.dependencies = Some(dependencies));
    core.held().add(this, hold);
    dispatch::set_expiry(this)?;
    announce(this, core)?;
    timeline::held_after(this, futures);
    Ok(())
}

/// Keeps a pool from ending. Not one without threads: there only an awaited coroutine holds it.
fn hold_pool(core: &Arc<Core>) -> Option<Hold<Queued>> {
    (core.mode == Mode::Threads).then(|| core.pool().hold())
}

/// `future` is done: its dependents start, or end as it did.
pub(crate) fn go_on(future: &Bound<'_, Task>, followed: Vec<Py<Task>>) -> PyResult<()> {
    let py = future.py();
    let told = followed
        .into_iter()
        .map(|this| (future.clone(), this.into_bound(py)));
    let mut turns = Turns::default();
    turns.hear(told.collect());
    turns.take()
}

/// A future that is done, and a task that waits for it.
type Told<'py> = VecDeque<(Bound<'py, Task>, Bound<'py, Task>)>;

/// What to do once all dependents are notified, since it may run user code.
#[derive(Default)]
struct Turns<'py> {
    /// Tasks to call, each with its argument, if it gets one.
    ready: Vec<(Bound<'py, Task>, Option<Bound<'py, PyAny>>)>,
    ended: Vec<Detached<'py>>,
}

impl<'py> Turns<'py> {
    /// Notifies all dependents, and the dependents of those that end by that. A queue instead of
    /// recursion, so that a long chain does not overflow the stack.
    fn hear(&mut self, mut told: Told<'py>) {
        while let Some((future, this)) = told.pop_front() {
            let end = match count(&this, &future) {
                Counted::Waits => continue,
                Counted::Failed => outcome(&future),
                Counted::Last(Dependencies {
                    kind: Kind::Then, ..
                }) => match outcome(&future) {
                    End::Returned(result) => match carried(&this, &future, result) {
                        Ok(result) => {
                            self.ready.push((this, Some(result)));
                            continue;
                        }
                        Err(error) => End::Raised(into_exception(this.py(), error)),
                    },
                    end => end,
                },
                Counted::Last(Dependencies {
                    kind: Kind::End, ..
                }) => {
                    self.ready.push((this, None));
                    continue;
                }
                Counted::Last(dependencies) => match collect(this.py(), &dependencies) {
                    Ok(results) => End::Returned(results.into_any()),
                    Err(error) => End::Raised(into_exception(this.py(), error)),
                },
            };
            self.end(&this, end, &mut told);
        }
    }

    /// Ends a task that has nothing to run.
    fn end(&mut self, this: &Bound<'py, Task>, end: End<'py>, told: &mut Told<'py>) {
        let cell = this.get();
        // Taken before the task's end would notify them recursively.
        let next = cell.take_dependents();
        let ended = completion::take_over(this)
            .then(|| completion::detach(this, end))
            .flatten();
        for next in next {
            // Another thread may be about to end it.
            if !cell.leave(|extra| extra.dependents.push(next.clone_ref(this.py()))) {
                told.push_back((this.clone(), next.into_bound(this.py())));
            }
        }
        self.ended.extend(ended);
    }

    fn take(self) -> PyResult<()> {
        let mut done = Ok(());
        for (this, result) in self.ready {
            done = done.and(start(&this, result));
        }
        for ended in self.ended {
            ended.send(None);
        }
        done
    }
}

/// What the end of a dependency means for a task.
enum Counted {
    /// Nothing yet, or nothing any more.
    Waits,
    Failed,
    Last(Dependencies),
}

fn count(this: &Bound<'_, Task>, future: &Bound<'_, Task>) -> Counted {
    let succeeded = future.get().phase() == Phase::Finished;
    let counted = policy::find(this.get(), |rules| {
        let dependencies = rules.dependencies.as_mut()?;
        if !succeeded && !matches!(dependencies.kind, Kind::GatherAll | Kind::End) {
            // A failure is not counted, so no dependency will be the last.
            return Some(Counted::Failed);
        }
        dependencies.left -= 1;
        rules
            .dependencies
            .take_if(|it| it.left == 0)
            .map(Counted::Last)
    });
    counted.unwrap_or(Counted::Waits)
}

/// The result as a task gets it: if it is durable, and there is no journal, then as from that.
fn carried<'py>(
    this: &Bound<'py, Task>,
    future: &Bound<'py, Task>,
    result: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let policy = policy::policy(this);
    let Some(most) = policy.and_then(|policy| policy.get().keeps) else {
        return Ok(result);
    };
    let py = this.py();
    let copied = |value: &Bound<'py, PyAny>| {
        let text = json::encode(value, most).map_err(|error| {
            ResultNotKept::new_err(format!(
                "task {} has succeeded, but its result cannot be stored, so no durable task can \
                 follow: {error}",
                name_of(future)
            ))
        })?;
        json::decode(py, &text, None)
    };
    match result.cast_exact::<PyList>() {
        // Without a journal, of the durable tasks only those that gather have no options.
        Ok(results) if future.get().is_journaled() && policy::policy(future).is_none() => {
            let copies = PyList::empty(py);
            for value in results {
                let is_exception = value.is_instance_of::<PyBaseException>();
                copies.append(if is_exception { value } else { copied(&value)? })?;
            }
            Ok(copies.into_any())
        }
        _ => copied(&result),
    }
}

fn outcome<'py>(future: &Bound<'py, Task>) -> End<'py> {
    match future.get().done_outcome(future.py()) {
        Some(Ok(result)) => End::Returned(result),
        Some(Err(exception)) => End::Raised(exception),
        None => End::Cancelled,
    }
}

/// The outcomes of all dependencies.
pub(crate) fn collect<'py>(
    py: Python<'py>,
    dependencies: &Dependencies,
) -> PyResult<Bound<'py, PyList>> {
    let results = PyList::empty(py);
    for future in &dependencies.futures {
        match outcome(future.bind(py)) {
            End::Returned(outcome) | End::Raised(outcome) => results.append(outcome)?,
            End::Cancelled => {
                results.append(into_exception(py, CancelledError::new_err(())))?;
            }
        }
    }
    Ok(results)
}

/// Dispatches a task with its argument.
fn start<'py>(this: &Bound<'py, Task>, argument: Option<Bound<'py, PyAny>>) -> PyResult<()> {
    let cell = this.get();
    if let Some(argument) = argument {
        cell.put_argument(this, argument);
    }
    let Some(core) = cell.core() else {
        return Ok(());
    };
    match core.mode {
        Mode::Threads => {
            policy::wait_from_now(this.get());
            dispatch::ring(this);
            return Ok(());
        }
        Mode::Manual => dispatch::shelve(this, core),
        Mode::Immediate => {}
    }
    core.held().remove(this);
    if core.mode == Mode::Immediate && cell.phase() == Phase::Pending {
        return (core.runner.run_here)(this, core);
    }
    Ok(())
}
