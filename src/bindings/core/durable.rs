//! Durable tasks: what ties a task of this process to its row in the journal.
//!
//! A durable task has two lives. In the journal it is a row, which any process may claim. Here it
//! is a [`Task`], whose rules have a [`policy::Durable`]: with a claim while this process runs the
//! row, and without one while the row waits or another process runs it.
//!
//! The thread that takes the claim out of a task ends the attempt in the journal; no other does.

use std::sync::Arc;

use flask_delay_journal::{Change, Changed, Claim, Error, Kept, Outcome, Pool};
use pyo3::prelude::*;

use super::executor::Note;
use super::id::Id;
use super::link::{Ending, Link, Message, Stored};
use super::policy::{self, Rules};
use super::task::{Task, name_of};
use super::transition::End;
use crate::bindings::codec::json;
use crate::bindings::convert::to_micros;
use crate::bindings::ffi::clock::now;

/// Gives a task the claim of its row, which `Link` has counted, and what the row has kept.
pub(crate) fn set_claim(this: &Task, claim: Claim, kept: Kept) {
    let kept = (kept != Kept::default()).then(|| Box::new(kept.into()));
    policy::with(this, |rules| {
        if let Some(durable) = &mut rules.durable {
            durable.claim = Some(claim);
            durable.is_death = false;
        }
        rules.kept = kept;
        rules.attempts = claim.attempt.saturating_sub(1);
    });
}

/// Notes for which tick of a job a task runs.
pub(crate) fn set_tick(this: &Task, tick: Option<i64>) {
    policy::with(this, |rules| {
        if let Some(durable) = &mut rules.durable {
            durable.tick = tick;
        }
    });
}

/// The tick of the job that a task is a run of, in microseconds since 1970.
pub(crate) fn tick(this: &Task) -> Option<i64> {
    find(this, |rules| rules.durable.as_ref()?.tick)
}

/// As [`set_claim`], for the submit itself.
pub(crate) fn claim_here(this: &Task, claim: Claim) {
    if let Some(durable) = link_of(this) {
        durable.0.count(durable.1);
    }
    set_claim(this, claim, Kept::default());
}

/// As [`policy::find`], for a task with a row in a journal; nothing for any other. One load for tasks
/// without.
#[inline]
fn find<R>(this: &Task, step: impl FnOnce(&mut Rules) -> Option<R>) -> Option<R> {
    this.is_journaled()
        .then(|| policy::find(this, step))
        .flatten()
}

/// The link and the pool of a durable task.
pub(crate) fn link_of(this: &Task) -> Option<(Arc<Link>, Pool)> {
    find(this, |rules| {
        let durable = rules.durable.as_ref()?;
        Some((Arc::clone(&durable.link), durable.pool))
    })
}

/// Notes which tasks a durable one follows, by their ids.
pub(crate) fn set_followed(this: &Task, after: Vec<String>) {
    policy::with(this, |rules| {
        if let Some(durable) = &mut rules.durable {
            durable.after = after;
        }
    });
}

/// The link of a durable task that this process does not run.
pub(crate) fn elsewhere(this: &Task) -> Option<Arc<Link>> {
    find(this, |rules| {
        let durable = rules.durable.as_ref()?;
        durable.claim.is_none().then(|| Arc::clone(&durable.link))
    })
}

/// Whether the task is durable.
pub(crate) fn is_durable(this: &Task) -> bool {
    find(this, |rules| rules.durable.as_ref().map(|_| ())).is_some()
}

/// Whether this process has the claim of the task's row.
pub(crate) fn has_claim(this: &Task) -> bool {
    find(this, |rules| rules.durable.as_ref()?.claim).is_some()
}

/// Notes that the child process which ran the attempt of a durable task has died.
pub(crate) fn note_death(this: &Task) {
    find(this, |rules| {
        rules.durable.as_mut()?.is_death = true;
        Some(())
    });
}

/// Whether the child process that ran the attempt of a durable task has died.
pub(crate) fn has_died(this: &Task) -> bool {
    find(this, |rules| {
        let durable = rules.durable.as_ref()?;
        durable.claim.filter(|_| durable.is_death)
    })
    .is_some()
}

/// The link of a durable task that this process runs, and its claim.
pub(crate) fn claim_of(this: &Task) -> Option<(Arc<Link>, Claim)> {
    find(this, |rules| {
        let durable = rules.durable.as_ref()?;
        Some((Arc::clone(&durable.link), durable.claim?))
    })
}

/// Tells the journal the progress of a task that runs here. Returns at once.
pub(crate) fn report(this: &Task) {
    let claimed = claim_of(this);
    let published = find(this, |rules| rules.published.clone());
    if claimed.is_none() && published.is_none() {
        return;
    }
    let progress = this.known_extra().and_then(|it| it.lock().progress.clone());
    let Some(progress) = progress else {
        return;
    };
    let (done, total, note) = progress.parts();
    let note = note.to_owned();
    if let Some(link) = published {
        let id = this.quiet_id().to_string();
        link.tell(|journal| journal.publish_progress(&id, done, total, note));
    } else if let Some((link, claim)) = claimed {
        link.tell(|journal| journal.progress(claim, done, total, note));
    }
}

/// A claim that was taken out of its task: the caller must change the row.
#[must_use = "the row would stay claimed"]
pub(crate) struct TakenClaim {
    link: Arc<Link>,
    claim: Claim,
}

/// Takes the claim of a durable task that runs here.
pub(crate) fn take_claim(this: &Task) -> Option<TakenClaim> {
    let (link, pool, claim) = find(this, |rules| {
        let durable = rules.durable.as_mut()?;
        let claim = durable.claim.take()?;
        Some((Arc::clone(&durable.link), durable.pool, claim))
    })?;
    link.uncount(pool);
    Some(TakenClaim { link, claim })
}

impl TakenClaim {
    /// Changes the row, and waits until the journal has committed that.
    pub(crate) fn change(self, py: Python<'_>, change: Change) -> PyResult<()> {
        let Self { link, claim } = self;
        link.ask(py, |journal| journal.change(claim, change))
            .map(|_: Changed| ())
    }

    /// Counts the death of a child process, which `exception` tells of, and waits until the journal has
    /// committed that.
    pub(crate) fn die(self, this: &Bound<'_, Task>, exception: &Bound<'_, PyAny>) -> PyResult<()> {
        let error = error_of(this, &self.link, exception);
        self.change(this.py(), Change::Died { error })
    }

    /// Stores the end of the task, and waits until the journal has committed that. An error is
    /// logged: the outcome stands in this process. The task is forgotten before: once the end is
    /// committed, the row may run again by hand, and that is another task of this process.
    pub(crate) fn end(self, this: &Bound<'_, Task>, end: &End<'_>) {
        let outcome = outcome_of(this, &self.link, end);
        let link = Arc::clone(&self.link);
        link.forget(&this.get().quiet_id().to_string(), this);
        if let Err(error) = self.change(this.py(), Change::End(outcome)) {
            link.send(Message::Report(log::Level::Error, lost(this.get(), &error)));
        }
    }

    /// As [`TakenClaim::end`], without waiting: the courier ends the task when the journal has it.
    pub(crate) fn end_later<'py>(self, this: &Bound<'py, Task>, end: End<'py>, note: Option<Note>) {
        let Self { link, claim } = self;
        let outcome = outcome_of(this, &link, &end);
        link.forget(&this.get().quiet_id().to_string(), this);
        let stored = Stored {
            task: this.clone().unbind(),
            end: Ending::of(end),
            note,
        };
        let courier = Arc::clone(&link);
        link.tell(move |journal| {
            let then = move |changed: Result<Changed, Error>| {
                if let Err(error) = changed {
                    let text = lost(stored.task.get(), &error);
                    courier.send(Message::Report(log::Level::Error, text));
                }
                courier.send(Message::Stored(stored));
            };
            journal.change_later(claim, Change::End(outcome), Box::new(then));
        });
    }
}

impl Ending {
    fn of(end: End<'_>) -> Self {
        match end {
            End::Returned(result) => Self::Returned(result.unbind()),
            End::Raised(exception) => Self::Raised(exception.unbind()),
            End::Cancelled => Self::Cancelled,
        }
    }

    pub(crate) fn into_end(self, py: Python<'_>) -> End<'_> {
        match self {
            Self::Returned(result) => End::Returned(result.into_bound(py)),
            Self::Raised(exception) => End::Raised(exception.into_bound(py)),
            Self::Cancelled => End::Cancelled,
        }
    }
}

/// The log line for an end that the journal has not stored.
pub(crate) fn lost(this: &Task, error: &dyn std::fmt::Display) -> String {
    format!(
        "the end of task {} could not be stored, so it runs again when this process has ended: \
         {error}",
        this.quiet_id()
    )
}

/// The task's id; its executor, and other processes by the journal, find the task by it from now on.
pub(crate) fn public_id(this: &Bound<'_, Task>) -> Id {
    let (id, is_first) = this.get().register(this);
    if is_first {
        publish(this, &id);
    }
    id
}

/// Tells the journal of a plain task with an id that was asked for, or of one that failed where a page
/// shows it, so that other processes find it. Returns at once.
pub(crate) fn publish(this: &Bound<'_, Task>, id: &Id) {
    let cell = this.get();
    let journal = cell.core().and_then(|core| core.journal());
    let Some(link) = journal.filter(|link| link.publishes()) else {
        return;
    };
    // Durable, or published before.
    if cell.is_journaled() || policy::is_elsewhere(cell) {
        return;
    }
    let recorder = cell.core().and_then(|core| core.recorder());
    let notes = recorder.map_or_else(Vec::new, |it| it.timeline().of(id));
    policy::with_new(cell, |rules| {
        rules.published = Some(Arc::clone(&link));
        rules.attempts = rules.attempts.max(u32::from(cell.has_begun()));
    });
    cell.mark_journaled();
    let born = cell.born() / 1_000;
    let began = cell.has_begun().then(|| to_micros(cell.last_start()));
    link.tell(|journal| journal.publish(id.to_string(), name_of(this), born, began));
    for note in notes {
        link.tell(|journal| note.tell(journal));
    }
    if cell.phase().is_done() {
        publish_end(this);
    }
}

/// Tells the journal that a published task has begun.
pub(crate) fn publish_start(this: &Task) {
    if let Some(link) = find(this, |rules| rules.published.clone()) {
        let id = this.quiet_id().to_string();
        link.tell(|journal| journal.publish_began(&id, to_micros(now())));
    }
}

/// Tells the journal how a published task has ended. Returns at once.
pub(crate) fn publish_end(this: &Bound<'_, Task>) {
    let cell = this.get();
    // TakenClaim, so that an end that comes while the task is published is told once.
    let Some(link) = find(cell, |rules| rules.published.take()) else {
        return;
    };
    let end = match cell.done_outcome(this.py()) {
        Some(Ok(result)) => End::Returned(result),
        Some(Err(exception)) => End::Raised(exception),
        None => End::Cancelled,
    };
    let outcome = outcome_of(this, &link, &end);
    let id = cell.quiet_id().to_string();
    link.tell(|journal| journal.publish_ended(id, outcome));
}

/// The outcome of a task as the journal keeps it. A result or an exception that cannot be encoded
/// does not fail the task: others are told its type.
pub(crate) fn outcome_of(this: &Bound<'_, Task>, link: &Arc<Link>, end: &End<'_>) -> Outcome {
    match end {
        End::Returned(result) => match json::encode(result, link.most) {
            Ok(text) => Outcome::Finished {
                result: Some(text),
                unkept: None,
            },
            Err(error) => {
                let kind = result.get_type().fully_qualified_name();
                let kind = kind.map_or_else(|_| "?".to_owned(), |name| name.to_string());
                let name = name_of(this);
                link.warn_once(format!("the results of {name}"), || {
                    format!(
                        "results of the task {name:?} are not kept for other processes: {error}"
                    )
                });
                Outcome::Finished {
                    result: None,
                    unkept: Some(kind),
                }
            }
        },
        End::Raised(exception) => Outcome::Failed {
            error: error_of(this, link, exception),
        },
        End::Cancelled => Outcome::Cancelled,
    }
}

/// An exception of a task as the journal keeps it.
fn error_of(this: &Bound<'_, Task>, link: &Arc<Link>, exception: &Bound<'_, PyAny>) -> String {
    let encode = link.hooks.encode_error.bind(this.py());
    let encoded = encode
        .call1((exception,))
        .and_then(|text| text.extract::<String>());
    encoded.unwrap_or_else(|error| {
        error.write_unraisable(this.py(), Some(this));
        "{}".to_owned()
    })
}
