//! What has happened to the plain tasks of a process beyond what they tell themselves: why they were
//! held, and how attempts have failed. For a page; the journal notes it of durable tasks.
//!
//! A task pays for it when it is held or runs again, and only if a page shows it.

use std::collections::VecDeque;

use flask_delay_engine::Mutex;
use flask_delay_journal::Journal;
use pyo3::prelude::*;

use super::id::Id;
use super::policy;
use super::recorder;
use super::task::{Task, name_of};
use crate::bindings::ffi::clock::now;

/// So many notes are kept, of all tasks: at most 2 MB.
const MOST: usize = 1_000;
/// So many tasks are noted that a task follows, and that follow it; as in the journal.
const LINKS: usize = 20;

pub(crate) const HELD: &str = "held";
pub(crate) const RETRYING: &str = "retrying";
pub(crate) const STARTED: &str = "started";
/// The id of a task that it follows, and of one that follows it: the journal has the same kinds.
const FOLLOWS: &str = "follows";
const FOLLOWED: &str = "followed";

/// Why a task is held: by its limit or its rate, or until the transaction ends that has submitted it.
pub(crate) const LANE: &str = "lane";
pub(crate) const TRANSACTION: &str = "transaction";

/// When, in microseconds since 1970, what, and more about it.
#[derive(Clone)]
pub(crate) struct Entry {
    id: Id,
    pub(crate) at: u64,
    pub(crate) kind: &'static str,
    pub(crate) text: String,
}

impl Entry {
    /// Whether it is of another task. Those are not told as what has happened.
    pub(crate) fn is_link(&self) -> bool {
        [FOLLOWS, FOLLOWED].contains(&self.kind)
    }

    /// Tells the journal of a published task. It knows of starts itself.
    pub(crate) fn tell(&self, journal: &Journal) {
        if self.kind != STARTED {
            let at = self.at.cast_signed();
            journal.note_event(&self.id.to_string(), at, self.kind, self.text.clone());
        }
    }
}

/// The last notes of a process, oldest first. The lock is a leaf, and nothing is dropped under it.
#[derive(Default)]
pub(crate) struct Timeline(Mutex<VecDeque<Entry>>);

impl Timeline {
    fn add(&self, note: Entry) {
        let mut notes = self.0.lock();
        let oldest = (notes.len() >= MOST).then(|| notes.pop_front());
        notes.push_back(note);
        drop(notes);
        drop(oldest);
    }

    /// The notes of a task, oldest first.
    pub(crate) fn of(&self, id: &Id) -> Vec<Entry> {
        let notes = self.0.lock();
        notes.iter().filter(|it| it.id == *id).cloned().collect()
    }

    /// How many of a kind there are of a task.
    fn count(&self, id: &Id, kind: &str) -> usize {
        let notes = self.0.lock();
        let those = notes.iter().filter(|it| it.id == *id && it.kind == kind);
        those.count()
    }
}

/// Whether a page shows the task.
pub(crate) fn is_shown(this: &Task) -> bool {
    this.core().is_some_and(|core| core.recorder().is_some())
}

/// Notes that a task is held.
pub(crate) fn held(this: &Bound<'_, Task>, why: impl FnOnce() -> String) {
    note(this, now(), HELD, why);
}

/// Notes that a task is held until its start time.
pub(crate) fn held_until(this: &Bound<'_, Task>) {
    held(this, || {
        format!("until {}", policy::ready(this.get()) / 1_000)
    });
}

/// Notes that a task is held until others have ended.
pub(crate) fn held_after(this: &Bound<'_, Task>, others: &[Bound<'_, Task>]) {
    if let Some(first) = others.first() {
        let id = || first.get().quiet_id();
        held(this, || format!("after {} {}", name_of(first), id()));
        link(this, others);
    }
}

/// Notes what a task follows, for the pages of other processes once they have ended: their futures
/// tell it until then.
fn link(this: &Bound<'_, Task>, others: &[Bound<'_, Task>]) {
    let Some(recorder) = this.get().core().and_then(|core| core.recorder()) else {
        return;
    };
    let (id, at) = (this.get().quiet_id(), now());
    for other in others.iter().take(LINKS) {
        let before = other.get().quiet_id();
        note(this, at, FOLLOWS, || before.to_string());
        // One task may have any number behind it.
        if recorder.timeline().count(&before, FOLLOWED) < LINKS {
            note(other, at, FOLLOWED, || id.to_string());
        }
    }
}

/// Notes an event of a plain task that was at `nanos` since 1970.
pub(crate) fn note(
    this: &Bound<'_, Task>,
    nanos: u64,
    kind: &'static str,
    text: impl FnOnce() -> String,
) {
    let cell = this.get();
    let Some(recorder) = cell.core().and_then(|core| core.recorder()) else {
        return;
    };
    if policy::with(cell, |rules| rules.durable.is_some()).unwrap_or(false) {
        return;
    }
    let note = Entry {
        id: cell.quiet_id(),
        at: nanos / 1_000,
        kind,
        text: text(),
    };
    if let Some(link) = policy::with(cell, |rules| rules.published.clone()).flatten() {
        link.tell(|journal| note.tell(journal));
    }
    recorder.timeline().add(note);
    recorder::count();
}
