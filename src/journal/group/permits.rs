//! Permits: the places of plain tasks in lanes. So `limit` and `rate` hold for them on the whole
//! machine, and for durable tasks of the same key in one line with them.
//!
//! A permit is a row that is never ready and never claimed: it waits in its lane, blocked, and
//! `limits.rs` makes it a running one. It belongs to its process from the start, is removed when its
//! task gives it back, and goes with its process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::api::Claim;
use crate::api::Error;
use crate::api::ErrorKind;
use crate::api::Held;
use crate::api::Limits;
use crate::group::limits;
use crate::group::limits::column;
use crate::group::work as group;
use crate::group::work::Evidence;
use crate::group::work::Group;
use crate::shared::answer::Answer;

/// What a row has as `published` that is a permit.
pub(crate) const PERMIT: i64 = 2;
const BLOCKED: i64 = 3;
const RUNNING: i64 = 2;

/// A permit of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permit(u64);

impl Permit {
    /// Unlike any other of this process.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // Relaxed: it only has to be another one each time.
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Default for Permit {
    fn default() -> Self {
        Self::new()
    }
}

/// A permit to ask for.
#[derive(Clone, Debug)]
pub struct NewPermit {
    /// It is given back by this.
    pub permit: Permit,
    /// The function's name, for people.
    pub function: String,
    /// Smaller ones go first.
    pub rank: i64,
    /// The conditions of its lane.
    pub limits: Limits,
}

/// What a thread asks about a permit.
pub(crate) enum Ask {
    /// Answers whether it is granted, or was given back before.
    Enter(Box<NewPermit>, Answer<bool>),
    Leave(Permit),
    /// The code of a durable task goes on after its end, which comes after this: it keeps its place.
    Stay(Claim, Permit),
    /// What holds up one that waits.
    Held(Permit, Answer<Option<Box<Held>>>),
}

impl Ask {
    /// Whether it has to be written some time.
    pub(crate) fn is_end(&self) -> bool {
        matches!(self, Self::Leave(_) | Self::Stay(..))
    }

    /// Whether it only reads.
    pub(crate) fn is_read(&self) -> bool {
        matches!(self, Self::Held(..))
    }

    /// Answers what was read.
    pub(crate) fn give(self, told: Told) {
        if let (Self::Held(_, answer), Told::Held(held)) = (self, told) {
            answer.give(Ok(held));
        }
    }

    /// Answers with an error.
    pub(crate) fn refuse(self, error: Error) {
        match self {
            Self::Enter(_, answer) => answer.give(Err(error)),
            Self::Held(_, answer) => answer.give(Err(error)),
            Self::Leave(_) | Self::Stay(..) => {}
        }
    }
}

/// What the writer thread has done for it.
pub(crate) enum Told {
    /// The place of a new permit, and whether it is granted.
    Entered(i64, bool),
    Held(Option<Box<Held>>),
    Nothing,
}

// --- What the writer thread knows ---------------------------------------------------

/// The permits of this process that wait.
#[derive(Default)]
pub(crate) struct Permits {
    waiting: HashMap<Permit, Waiting>,
    /// The same by their places in the file.
    places: HashMap<i64, Permit>,
}

struct Waiting {
    task: i64,
    answer: Answer<bool>,
}

impl Permits {
    /// Whether any wait.
    pub(crate) fn are_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the permit in this place waits.
    pub(crate) fn waits(&self, task: i64) -> bool {
        self.places.contains_key(&task)
    }

    /// After the commit of what was asked.
    pub(crate) fn follow(&mut self, ask: Ask, told: Told) {
        match (ask, told) {
            (Ask::Enter(_, answer), Told::Entered(_, true)) => answer.give(Ok(true)),
            (Ask::Enter(new, answer), Told::Entered(task, false)) => {
                self.places.insert(task, new.permit);
                self.waiting.insert(new.permit, Waiting { task, answer });
            }
            (Ask::Leave(permit), _) => self.answer(permit, false),
            (ask, told) => ask.give(told),
        }
    }

    /// The permit in this place is granted.
    pub(crate) fn grant(&mut self, task: i64) {
        if let Some(permit) = self.places.get(&task).copied() {
            self.answer(permit, true);
        }
    }

    /// Answers for a permit, if it waits.
    fn answer(&mut self, permit: Permit, is_granted: bool) {
        if let Some(Waiting { task, answer }) = self.waiting.remove(&permit) {
            self.places.remove(&task);
            answer.give(Ok(is_granted));
        }
    }

    /// Takes those that wait: their file is not used any more.
    pub(crate) fn take(&mut self) -> Vec<Answer<bool>> {
        self.places.clear();
        let waiting = self.waiting.drain();
        waiting.map(|(_, waiting)| waiting.answer).collect()
    }
}

/// Answers that permits were lost with their file.
pub(crate) fn refuse(waiting: Vec<Answer<bool>>, error: &Error) {
    for answer in waiting {
        answer.give(Err(error.clone()));
    }
}

/// The error for permits in a file that is not there any more.
pub(crate) fn lost(file: &std::path::Path) -> Error {
    let text = format!(
        "{}: the file of the journal was removed or replaced while the task waited for its key",
        file.display()
    );
    Error::new(ErrorKind::Io, text)
}

// --- SQL ----------------------------------------------------------------------------

/// The id of a permit's row. No task has such an id.
fn id(slot: i64, permit: Permit) -> String {
    format!("{}{slot}.{}", limits::SEPARATOR, permit.0)
}

/// Does an `Ask` that only reads.
pub(crate) fn read(connection: &Connection, slot: Option<i64>, ask: &Ask) -> Result<Told> {
    let (Ask::Held(permit, _), Some(slot)) = (ask, slot) else {
        return Ok(Told::Held(None));
    };
    let sql = format!(
        "SELECT {} FROM task WHERE id = ?1 AND state = 3",
        limits::LANE
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let held = statement.query_row([id(slot, *permit)], |row| limits::lane_of(row, 0));
    Ok(Told::Held(held.optional()?.flatten()))
}

/// Removes a permit: its lane, if it was there.
fn remove(connection: &Connection, id: &str) -> Result<Option<String>> {
    let sql = "DELETE FROM task WHERE id = ?1 RETURNING sequence, limit_key";
    let mut statement = connection.prepare_cached(sql)?;
    let removed = statement.query_row([id], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)));
    let Some((task, lane)) = removed.optional()? else {
        return Ok(None);
    };
    let sql = "DELETE FROM waiter WHERE task = ?1";
    connection.prepare_cached(sql)?.execute([task])?;
    Ok(lane)
}

/// Removes all permits of a process that has ended, or those that wait: their lanes.
pub(crate) fn remove_all(
    connection: &Connection,
    slot: i64,
    only_waiting: bool,
) -> Result<Vec<String>> {
    let sql = "DELETE FROM waiter WHERE task IN (SELECT sequence FROM task WHERE owner = ?1 AND published = 2)";
    connection.prepare_cached(sql)?.execute([slot])?;
    let sql = "DELETE FROM task WHERE owner = ?1 AND published = 2 AND (state = 3 OR NOT ?2) RETURNING limit_key";
    let mut statement = connection.prepare_cached(sql)?;
    statement
        .query_map(params![slot, only_waiting], |row| row.get(0))?
        .collect()
}

/// Whether a process has permits.
pub(crate) fn has_any(connection: &Connection, slot: i64) -> Result<bool> {
    let sql = "SELECT 1 FROM task WHERE owner = ?1 AND published = 2";
    connection.prepare_cached(sql)?.exists([slot])
}

/// Makes a blocked permit a running one, and tells its process if that is another one.
pub(crate) fn grant(connection: &Connection, task: i64, to: Option<i64>) -> Result<()> {
    let sql = "UPDATE task SET state = 2 WHERE sequence = ?1 AND state = 3";
    connection.prepare_cached(sql)?.execute([task])?;
    if let Some(slot) = to {
        let sql =
            "INSERT INTO waiter (task, slot, ended) VALUES (?1, ?2, 1) ON CONFLICT DO NOTHING";
        connection
            .prepare_cached(sql)?
            .execute(params![task, slot])?;
    }
    Ok(())
}

/// Whether a permit is there and is granted.
pub(crate) fn is_granted(connection: &Connection, task: i64) -> Result<bool> {
    let sql = "SELECT 1 FROM task WHERE sequence = ?1 AND state = 2 AND published = 2";
    connection.prepare_cached(sql)?.exists([task])
}

// --- In a group ---------------------------------------------------------------------

impl Group<'_> {
    pub(crate) fn permit(&mut self, ask: &Ask) -> group::Result<Told> {
        match ask {
            Ask::Enter(new, _) => return self.enter_lane(new),
            Ask::Leave(permit) => self.leave_lane(*permit)?,
            Ask::Stay(claim, permit) => self.stay(*claim, *permit)?,
            Ask::Held(..) => {
                let slot = self.effects.slot.or(self.memory.slot);
                return Ok(read(self.connection, slot, ask)?);
            }
        }
        Ok(Told::Nothing)
    }

    fn enter_lane(&mut self, new: &NewPermit) -> group::Result<Told> {
        let (function, application) = (self.function(&new.function)?, self.application()?);
        let slot = self.slot()?;
        let app = &self.part.core.settings.app;
        let key = format!("{app}{}{}", limits::SEPARATOR, new.limits.key);
        let is_granted = self.enter(&key, &new.limits, new.rank)?;
        let id = id(slot, new.permit);
        let rate = new.limits.rate;
        let sql = "INSERT INTO task (id, state, application, function, pool, published, owner, epoch, rank, \
                   submitted_at, limit_key, limit_most, rate_count, rate_span) \
                   VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, 1, ?7, ?8, ?9, ?10, ?11, ?12)";
        self.connection.prepare_cached(sql)?.execute(params![
            id,
            if is_granted { RUNNING } else { BLOCKED },
            application,
            function,
            PERMIT,
            slot,
            new.rank,
            self.now,
            key,
            new.limits.limit.map(column),
            rate.map(|(count, _)| column(count)),
            rate.map(|(_, span)| column(span)),
        ])?;
        let task = self.connection.last_insert_rowid();
        self.note(|| Evidence::Inserted(id));
        if is_granted {
            self.starts(&key, &new.limits)?;
        }
        Ok(Told::Entered(task, is_granted))
    }

    fn leave_lane(&mut self, permit: Permit) -> group::Result<()> {
        // Without a slot, this process has none in this file.
        let Some(slot) = self.effects.slot.or(self.memory.slot) else {
            return Ok(());
        };
        let id = id(slot, permit);
        if let Some(lane) = remove(self.connection, &id)? {
            self.note(|| Evidence::Removed(id));
            self.touch_lanes(vec![lane]);
        }
        Ok(())
    }

    /// As long as the row runs, the lane counts both: more than run, but never less.
    fn stay(&mut self, claim: Claim, permit: Permit) -> group::Result<()> {
        let Some((claim, slot)) = self.memory.read(claim).zip(self.memory.slot) else {
            return Ok(());
        };
        let sql = "INSERT INTO task (id, state, application, function, pool, published, owner, epoch, rank, submitted_at, \
                   began_at, limit_key, limit_most, rate_count, rate_span) \
                   SELECT ?1, 2, application, function, 0, ?2, owner, 1, rank, submitted_at, \
                   began_at, limit_key, limit_most, rate_count, rate_span FROM task \
                   WHERE sequence = ?3 AND owner = ?4 AND epoch = ?5 AND state = 2 AND limit_key IS NOT NULL \
                   ON CONFLICT DO NOTHING";
        self.connection.prepare_cached(sql)?.execute(params![
            id(slot, permit),
            PERMIT,
            claim.task,
            slot,
            claim.epoch,
        ])?;
        Ok(())
    }

    /// Grants the first permit that waits in a lane, which may start now.
    pub(crate) fn grant(&mut self, task: i64, owner: Option<i64>) -> group::Result<()> {
        let me = self.effects.slot.or(self.memory.slot);
        let other = owner.filter(|_| owner != me);
        grant(self.connection, task, other)?;
        self.note(|| Evidence::Granted(task));
        match other {
            Some(slot) => _ = self.effects.wake.insert(slot),
            None => self.effects.granted.push(task),
        }
        Ok(())
    }
}
