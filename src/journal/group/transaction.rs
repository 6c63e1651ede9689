//! A transaction as every subject sees it: the connection, what this process knows, and what follows
//! from a commit.
//!
//! What a group does to the file counts when it is committed. So whatever follows from it is
//! collected in `Effects`, and done by the writer thread then, or forgotten.

use std::collections::BTreeSet;
use std::sync::Arc;

use log::Level;
use rusqlite::Connection;

use crate::api::operation::Said;
use crate::api::{Claim, Claimed, DeadLetter, Pool, Row};
use crate::file::filesystem::refused;
use crate::file::trouble::{Result, Trouble};
use crate::file::{liveness, schema, wakeup};
use crate::process::memory::{Memory, Running, Watched};
use crate::process::part::{Files, Part};
use crate::rows::{events, store};
use crate::shared::answer::Answer;

/// By what a commit of unknown fate is known to have happened.
#[derive(Clone, Debug)]
pub(crate) enum Evidence {
    /// A row with this id is there.
    Inserted(String),
    /// This claim holds no more.
    Changed(Claim),
    /// This process has this claim.
    Claimed(Claim),
    /// A row with this id is there no more.
    Removed(String),
    /// The permit in this place is granted.
    Granted(i64),
}

/// What follows from a group when it is committed.
#[derive(Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub(crate) struct Effects {
    /// What to tell each operation, in order.
    pub said: Vec<Said>,
    pub evidence: Option<Evidence>,
    /// The slot that this process has by this group.
    pub slot: Option<i64>,
    pub since: i64,
    pub started: Vec<(i64, Running)>,
    pub stopped: Vec<i64>,
    pub run: Vec<Claimed>,
    pub watched: Vec<(i64, Watched)>,
    pub unwatched: Vec<i64>,
    pub ended: Vec<Row>,
    pub stops: Vec<String>,
    pub stops_told: Vec<i64>,
    pub published: Vec<(String, i64)>,
    pub unpublished: Vec<String>,
    /// Permits of this process.
    pub granted: Vec<i64>,
    /// Commands of this process, and where their answers go; and those for which no thread waits
    /// any more.
    pub asked: Vec<(i64, Answer<Option<String>>)>,
    pub left: Vec<i64>,
    /// Processes to wake.
    pub wake: BTreeSet<i64>,
    pub reports: Vec<(Level, String)>,
    pub dead: Vec<DeadLetter>,
    /// Tasks that this process has parked.
    pub tried: Vec<i64>,
    /// Slots whose files go.
    pub gone: Vec<i64>,
    pub reserved: Option<i64>,
    pub next_due: Option<i64>,
    pub is_hungry: bool,
    /// There is more to do at once.
    pub is_eager: bool,
    pub claims: bool,
    /// Within a second, if the level says so.
    pub has_to_sync: bool,
    pub is_closed: bool,
}

/// What a group has to do about lanes.
#[derive(Default)]
pub(crate) struct Lanes {
    /// Those in which a task is ready or runs no more, or has started.
    pub touched: BTreeSet<String>,
    /// How many tasks were blocked at their claim.
    pub blocked: usize,
    /// Whether tasks are ready that this process cannot run.
    pub has_others: bool,
}

/// A transaction that has begun: what subjects read and change.
pub(crate) struct Group<'a> {
    pub part: &'a Arc<Part>,
    pub connection: &'a Connection,
    pub files: &'a mut Files,
    pub memory: &'a mut Memory,
    pub capacity: [Option<usize>; 3],
    pub now: i64,
    pub effects: Effects,
    /// The file belongs to newer code: nothing is submitted or claimed.
    pub is_outdated: bool,
    pub flight: [usize; 3],
    /// Durable tasks in flight that must run alone.
    pub suspects: usize,
    /// Whether ready tasks are left that this process could run.
    pub left: [bool; 3],
    pub may_start: bool,
    pub application: Option<i64>,
    /// The paused functions, once they are read.
    pub paused: Option<Vec<i64>>,
    pub has_ready: bool,
    pub lanes: Lanes,
    pub deliver: Vec<i64>,
}

impl<'a> Group<'a> {
    pub(crate) fn new(
        part: &'a Arc<Part>,
        connection: &'a Connection,
        files: &'a mut Files,
        memory: &'a mut Memory,
        capacity: [Option<usize>; 3],
        now: i64,
    ) -> Self {
        let mut flight = [0; 3];
        let mut suspects = 0;
        for running in memory.running.values() {
            flight[running.pool as usize] += 1;
            suspects += usize::from(running.is_suspect);
        }
        let effects = Effects {
            reserved: memory.reserved,
            next_due: memory.next_due,
            claims: memory.claims,
            ..Effects::default()
        };
        Self {
            part,
            connection,
            files,
            memory,
            capacity,
            now,
            effects,
            is_outdated: false,
            flight,
            suspects,
            left: [false; 3],
            may_start: false,
            application: None,
            paused: None,
            has_ready: false,
            lanes: Lanes::default(),
            deliver: Vec::new(),
        }
    }

    pub(crate) fn slot(&mut self) -> Result<i64> {
        if let Some(slot) = self.effects.slot.or(self.memory.slot) {
            return Ok(slot);
        }
        let core = &self.part.core;
        // From here on, no newer code makes the file one that this code cannot use.
        schema::check_version(&core.place, core.layout, self.connection)?;
        // The lock is there before the row can be seen, or others would find a dead process.
        loop {
            let code = &core.settings.code;
            let layout = core.layout.version();
            let slot = store::add_process(self.connection, &core.boot, code, layout, self.now)?;
            let path = core.place.alive(slot);
            let failed = |error| Trouble::Other(refused(&path, "cannot be locked", &error));
            // The name may belong to a process of a file that was here before, and still live.
            let Some(alive) = liveness::claim(&core.place, slot).map_err(failed)? else {
                store::remove_process(self.connection, slot)?;
                continue;
            };
            self.effects.slot = Some(slot);
            self.effects.since = self.now;
            self.files.alive = Some(alive);
            self.sweep(slot)?;
            let failed =
                |error| Trouble::Other(refused(&core.place.wake(slot), "cannot be made", &error));
            self.files.fifo = Some(Arc::new(wakeup::make(&core.place, slot).map_err(failed)?));
            return Ok(slot);
        }
    }

    /// Removes what processes have left that died between making their files and having a slot.
    /// Others make theirs with SQLite's lock held, as this process has it now.
    fn sweep(&mut self, slot: i64) -> Result<()> {
        let processes = store::processes(self.connection)?;
        let place = &self.part.core.place;
        for found in place.slots() {
            let is_known = found == slot || processes.iter().any(|it| it.slot == found);
            // Locked: by a process of a file that was here before, and that will notice.
            if !is_known && matches!(liveness::is_free(place, found), Ok(true)) {
                liveness::remove(place, found);
            }
        }
        Ok(())
    }

    pub(crate) fn application(&mut self) -> Result<i64> {
        if let Some(application) = self.memory.application.or(self.application) {
            return Ok(application);
        }
        let name = &self.part.core.settings.app;
        let application = store::application(self.connection, name)?;
        self.application = Some(application);
        self.memory.application = Some(application);
        Ok(application)
    }

    pub(crate) fn function(&mut self, name: &str) -> Result<i64> {
        if let Some(&function) = self.memory.functions.get(name) {
            return Ok(function);
        }
        let application = self.application()?;
        let function = store::function(self.connection, application, name)?;
        self.memory.functions.insert(name.to_owned(), function);
        Ok(function)
    }

    /// Notes what has happened to a task, if a page shows it.
    pub(crate) fn event(&self, task: i64, kind: &str, text: Option<&str>) -> Result<()> {
        if self.part.records() {
            let event = events::New::of(kind, text);
            events::add(self.connection, task, self.now, &event)?;
        }
        Ok(())
    }

    /// Tells the processes that wait for a task that it has ended.
    pub(crate) fn notify(&mut self, task: i64) -> Result<()> {
        let me = self.effects.slot.or(self.memory.slot);
        for slot in store::tell_waiters(self.connection, task, me)? {
            if Some(slot) == me {
                self.deliver.push(task);
            } else {
                self.effects.wake.insert(slot);
            }
        }
        let new = self.effects.watched.iter().any(|(it, _)| *it == task);
        if new || self.memory.watched.contains_key(&task) {
            self.deliver.push(task);
        }
        self.effects.has_to_sync = true;
        Ok(())
    }

    pub(crate) fn note(&mut self, evidence: impl FnOnce() -> Evidence) {
        if self.effects.evidence.is_none() {
            self.effects.evidence = Some(evidence());
        }
    }

    pub(crate) fn schedule(&mut self, due: Option<i64>) {
        self.effects.next_due = match (self.effects.next_due, due) {
            (Some(known), Some(due)) => Some(known.min(due)),
            (known, due) => known.or(due),
        };
    }

    pub(crate) fn free(&self, pool: Pool) -> usize {
        let flight = self.flight[pool as usize];
        // However many plain tasks there are, a durable one may be in flight.
        let least = usize::from(flight == 0);
        self.capacity[pool as usize].map_or(0, |most| most.saturating_sub(flight).max(least))
    }

    pub(crate) fn is_claiming(&self) -> bool {
        self.effects.claims
            && !self.part.is_leaving()
            && !self.effects.is_closed
            && !self.is_outdated
    }

    /// A key as the file has it.
    pub(crate) fn scoped(&self, key: &str) -> String {
        format!("{}|{key}", self.part.core.settings.app)
    }

    pub(crate) fn has_new_due(&mut self, due: Option<i64>) {
        self.schedule(due);
        // A process that does not claim leaves it to the others to wake in time.
        self.has_ready |= !self.effects.claims;
    }

    /// A task has become ready.
    pub(crate) fn has_new_ready(&mut self, pool: Pool) {
        self.has_ready = true;
        if self.may_start {
            // The claims of this group are over.
            self.left[pool as usize] = true;
            self.effects.is_hungry = true;
            self.effects.is_eager = true;
        }
    }
}
