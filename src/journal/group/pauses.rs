//! Functions whose tasks do not start.
//!
//! A paused function costs the others nothing: the first claim that meets one of its tasks sets it
//! aside, where no claim looks. What is set aside becomes ready when its function is resumed, not
//! all at once; if the process that resumes it dies meanwhile, the look of another one goes on.

use rusqlite::{Connection, Result, params};

use crate::api::Pool;
use crate::file::trouble;
use crate::group::transaction::Group;

/// So many rows are changed in one transaction.
const CHANGED: usize = 500;
/// Stands for all functions of an application where one of them may be paused.
const ALL: i64 = 0;

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
}
