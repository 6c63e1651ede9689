//! Permits: the places of plain tasks in lanes. So `limit` and `rate` hold for them on the whole
//! machine, and for durable tasks of the same key in one line with them.
//!
//! A permit is a row that is never ready and never claimed: it waits in its lane, blocked, and
//! `limits.rs` makes it a running one. It belongs to its process from the start, is removed when its
//! task gives it back, and goes with its process.

use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::api::Claim;
use crate::api::permits::{Ask, NewPermit, Permit, Told};
use crate::file::trouble;
use crate::group::transaction::{Evidence, Group};
use crate::rows::lanes::{self, column};
use crate::rows::store::PERMIT;

const BLOCKED: i64 = 3;
const RUNNING: i64 = 2;

// --- SQL ----------------------------------------------------------------------------

/// The id of a permit's row. No task has such an id.
fn id(slot: i64, permit: Permit) -> String {
    format!("{}{slot}.{}", lanes::SEPARATOR, permit.0)
}

/// Does an `Ask` that only reads.
pub(crate) fn read(connection: &Connection, slot: Option<i64>, ask: &Ask) -> Result<Told> {
    let (Ask::Held(permit, _), Some(slot)) = (ask, slot) else {
        return Ok(Told::Held(None));
    };
    let sql = format!(
        "SELECT {} FROM task WHERE id = ?1 AND state = 3",
        lanes::LANE
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let held = statement.query_row([id(slot, *permit)], |row| lanes::lane_of(row, 0));
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

/// Whether a permit is there and is granted.
pub(crate) fn is_granted(connection: &Connection, task: i64) -> Result<bool> {
    let sql = "SELECT 1 FROM task WHERE sequence = ?1 AND state = 2 AND published = 2";
    connection.prepare_cached(sql)?.exists([task])
}

// --- In a group ---------------------------------------------------------------------

impl Group<'_> {
    pub(crate) fn permit(&mut self, ask: &Ask) -> trouble::Result<Told> {
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

    fn enter_lane(&mut self, new: &NewPermit) -> trouble::Result<Told> {
        let (function, application) = (self.function(&new.function)?, self.application()?);
        let slot = self.slot()?;
        let app = &self.part.core.settings.app;
        let key = format!("{app}{}{}", lanes::SEPARATOR, new.limits.key);
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

    fn leave_lane(&mut self, permit: Permit) -> trouble::Result<()> {
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
    fn stay(&mut self, claim: Claim, permit: Permit) -> trouble::Result<()> {
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
}
