//! What people do with the tasks of a journal: have them run again, pause functions, prune.
//!
//! A paused function costs the others nothing: the first claim that meets one of its tasks sets it
//! aside, where no claim looks. What is set aside becomes ready when its function is resumed, not
//! all at once; if the process that resumes it dies meanwhile, the look of another one goes on.

use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::api::lists::Filter;
use crate::api::operation::{Operation, Said};
use crate::api::{Found, Pool, Retried, State};
use crate::file::trouble;
use crate::group::work::Group;
use crate::group::{chains, lists, periodic, permits, prune};
use crate::rows::events;
use crate::rows::store::{self, place};

/// So many rows are changed in one transaction.
const CHANGED: usize = 500;
/// Stands for all functions of an application where one of them may be paused.
const ALL: i64 = 0;

// --- SQL ----------------------------------------------------------------------------

/// The names of an app's functions in the file.
fn names(connection: &Connection, app: &str) -> Result<Vec<String>> {
    let sql = "SELECT function.name FROM function JOIN application USING (application) \
               WHERE application.name = ?1 ORDER BY function.name";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([app], |row| row.get(0))?.collect()
}

/// The paused functions of an app: `None` for all of them.
fn paused_names(connection: &Connection, app: &str) -> Result<Vec<Option<String>>> {
    let sql = "SELECT function.name FROM paused JOIN application USING (application) \
               LEFT JOIN function ON function.function = paused.function \
               WHERE application.name = ?1 ORDER BY function.name";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([app], |row| row.get(0))?.collect()
}

/// The paused functions of an application; `ALL` stands for all of them.
pub(crate) fn paused(connection: &Connection, application: i64) -> Result<Vec<i64>> {
    let sql = "SELECT function FROM paused WHERE application = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    statement
        .query_map([application], |row| row.get(0))?
        .collect()
}

/// Whether all functions are paused.
pub(crate) fn is_all(paused: &[i64]) -> bool {
    paused.contains(&ALL)
}

/// Sets ready tasks of paused functions aside, among the first ones of a pool: whether all those
/// before `most` others are.
fn set_aside(
    connection: &Connection,
    application: i64,
    pool: Pool,
    paused: &[i64],
    most: usize,
) -> Result<bool> {
    let sql = "SELECT sequence, function FROM task \
               WHERE application = ?1 AND pool = ?2 AND state = 0 AND deaths = 0 ORDER BY rank";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![application, pool.code()])?;
    let (mut found, mut others) = (Vec::new(), 0);
    while others < most && found.len() < CHANGED {
        let Some(row) = rows.next()? else { break };
        if paused.contains(&row.get(1)?) {
            found.push(row.get::<_, i64>(0)?);
        } else {
            others += 1;
        }
    }
    drop(rows);
    for task in &found {
        let sql = "UPDATE task SET state = 5 WHERE sequence = ?1";
        connection.prepare_cached(sql)?.execute([task])?;
    }
    Ok(found.len() < CHANGED)
}

/// Makes tasks ready that were set aside and whose functions are not paused any more; how many.
fn release(connection: &Connection, application: i64) -> Result<usize> {
    let mut count = 0;
    for function in resumed(connection, application)? {
        let sql = "UPDATE task SET state = 0 WHERE sequence IN \
                   (SELECT sequence FROM task WHERE function = ?1 AND state = 5 LIMIT ?2)";
        let most = i64::try_from(CHANGED - count).unwrap_or_default();
        count += connection
            .prepare_cached(sql)?
            .execute(params![function, most])?;
        if count >= CHANGED {
            break;
        }
    }
    Ok(count)
}

/// The functions that are not paused and have tasks that were set aside.
pub(crate) fn resumed(connection: &Connection, application: i64) -> Result<Vec<i64>> {
    let sql = "SELECT function FROM function WHERE application = ?1 \
               AND EXISTS (SELECT 1 FROM task WHERE task.function = function.function AND state = 5) \
               AND NOT EXISTS (SELECT 1 FROM paused WHERE paused.application = ?1 \
               AND paused.function IN (0, function.function))";
    let mut statement = connection.prepare_cached(sql)?;
    statement
        .query_map([application], |row| row.get(0))?
        .collect()
}

/// Does an operation that only reads.
pub(crate) fn read(
    connection: &Connection,
    app: &str,
    slot: Option<i64>,
    operation: &Operation,
) -> Result<Said> {
    Ok(match operation {
        Operation::Place(id, _) => Said::Place(place(connection, id)?),
        Operation::List(query, _) => Said::Page(lists::page(connection, app, query, slot)?),
        Operation::Lacking(ids, _) => Said::Names(lists::lacking(connection, ids)?),
        Operation::Classes(functions, since, _) => Said::Classes(lists::classes(
            connection,
            app,
            functions.as_deref(),
            *since,
        )?),
        Operation::Names(_) => Said::Names(names(connection, app)?),
        Operation::Paused(_) => Said::Paused(paused_names(connection, app)?),
        Operation::Periodic(ask) => Said::Periodic(periodic::read(connection, app, ask)?),
        Operation::Permit(ask) => Said::Permit(permits::read(connection, slot, ask)?),
        _ => Said::Nothing,
    })
}

// --- In a group ---------------------------------------------------------------------

impl Group<'_> {
    /// The paused functions, asked once for each group.
    pub(crate) fn paused(&mut self) -> trouble::Result<&[i64]> {
        if self.paused.is_none() {
            let application = self.application()?;
            self.paused = Some(paused(self.connection, application)?);
        }
        Ok(self.paused.as_deref().unwrap_or_default())
    }

    pub(crate) fn is_paused(&mut self, function: i64) -> trouble::Result<bool> {
        let paused = self.paused()?;
        Ok(is_all(paused) || paused.contains(&function))
    }

    /// Sets aside what a claim for `most` tasks of a pool would meet of paused functions; whether
    /// nothing of them is left there.
    pub(crate) fn set_aside(
        &mut self,
        application: i64,
        pool: Pool,
        most: usize,
    ) -> trouble::Result<bool> {
        let paused = self.paused.as_deref().unwrap_or_default();
        if paused.is_empty() {
            return Ok(true);
        }
        Ok(set_aside(self.connection, application, pool, paused, most)?)
    }

    /// Pauses a function or, without one, all of them.
    pub(crate) fn pause(&mut self, name: Option<&str>) -> trouble::Result<()> {
        let application = self.application()?;
        let function = name.map_or(Ok(ALL), |name| self.function(name))?;
        let sql =
            "INSERT INTO paused (application, function) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
        self.connection
            .prepare_cached(sql)?
            .execute(params![application, function])?;
        self.paused = None;
        self.touch_ready(function)
    }

    /// Ends the pause of a function or, without one, every pause; whether there may be more to
    /// release.
    pub(crate) fn resume(&mut self, name: Option<&str>) -> trouble::Result<bool> {
        let application = self.application()?;
        if let Some(name) = name {
            let function = self.function(name)?;
            let sql = "DELETE FROM paused WHERE application = ?1 AND function = ?2";
            self.connection
                .prepare_cached(sql)?
                .execute(params![application, function])?;
        } else {
            let sql = "DELETE FROM paused WHERE application = ?1";
            self.connection
                .prepare_cached(sql)?
                .execute([application])?;
        }
        self.paused = None;
        // Those that were not set aside are ready, too.
        self.has_ready = true;
        self.release()
    }

    /// Makes some tasks ready that were set aside; whether there may be more.
    pub(crate) fn release(&mut self) -> trouble::Result<bool> {
        let application = self.application()?;
        let count = release(self.connection, application)?;
        self.has_ready |= count > 0;
        Ok(count >= CHANGED)
    }

    /// Makes a task ready again that has failed.
    pub(crate) fn retry(&mut self, id: &str) -> trouble::Result<Retried> {
        let row = match store::find(self.connection, id, None)?.0 {
            Found::Row(row) => row,
            Found::Gone => return Ok(Retried::Gone),
            Found::Unknown => return Ok(Retried::Unknown),
        };
        if row.plain {
            return Ok(Retried::Plain);
        }
        if !matches!(row.state, State::Failed | State::Dead) {
            return Ok(Retried::Not(row.state));
        }
        if let Some(before) = chains::hindrance(self.connection, id)? {
            return Ok(Retried::Follows(Some(before).filter(|it| !it.is_empty())));
        }
        // It is due now, whenever it was before; and what was too late for it is asked for again.
        let sql = "UPDATE OR IGNORE task SET state = 0, owner = NULL, submitter = NULL, deaths = 0, interrupted = 0, \
                   stop_requested = 0, due = ?2, expires = NULL, ended_at = NULL, done = NULL, total = NULL, note = NULL, \
                   error = NULL, reason = NULL WHERE id = ?1 AND state IN (7, 9)";
        let count = self
            .connection
            .prepare_cached(sql)?
            .execute(params![id, self.now])?;
        if count == 0 {
            let sql = "SELECT twin.id FROM task JOIN task AS twin ON twin.unique_key = task.unique_key \
                       WHERE task.id = ?1 AND twin.unique_key IS NOT NULL AND twin.state < 6";
            let mut statement = self.connection.prepare_cached(sql)?;
            let twin = statement.query_row([id], |row| row.get(0)).optional()?;
            return Ok(Retried::Twin(twin.unwrap_or_default()));
        }
        // Processes that have not heard of that end yet go on waiting.
        let sql =
            "UPDATE waiter SET ended = 0 WHERE task = (SELECT sequence FROM task WHERE id = ?1)";
        self.connection.prepare_cached(sql)?.execute([id])?;
        self.has_ready = true;
        if let Some(task) = place(self.connection, id)? {
            if self.part.records() {
                // The row has room for one end.
                let at = row.ended.unwrap_or(self.now);
                let failed = events::New::of(events::FAILED, None);
                events::add(self.connection, task, at, &failed)?;
                let retried = events::New::of(events::RETRIED, None);
                events::add(self.connection, task, self.now, &retried)?;
            }
            self.wait_again(task)?;
        }
        Ok(Retried::Yes)
    }

    /// Removes ended tasks that are meant, below a place: how many, and where to go on.
    pub(crate) fn forget(
        &mut self,
        filter: &Filter,
        below: i64,
    ) -> trouble::Result<(u64, Option<i64>)> {
        let application = self.application()?;
        let (found, mut next) = lists::rows_below(self.connection, application, below)?;
        let mut old = Vec::new();
        for found in found {
            if !found.state.is_end() || !filter.fits(&found) {
                continue;
            }
            if chains::is_needed(self.connection, found.place)? {
                continue;
            }
            let ended = found.ended.unwrap_or(self.now);
            old.push((found.place, found.id, ended));
            if old.len() == CHANGED {
                next = Some(found.place);
                break;
            }
        }
        prune::forget(self.connection, &old)?;
        Ok((old.len() as u64, next))
    }
}
