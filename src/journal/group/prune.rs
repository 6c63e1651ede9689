//! Which rows go, and when: ended tasks that are old or too many, and what belongs to them.

use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::api::Claim;
use crate::group::chains;
use crate::rows::store::exclude;
use crate::rows::{events, kept, lanes};

/// So many ids of pruned tasks are kept.
const FORGOTTEN: i64 = 100_000;
/// So many free pages are given back in one transaction.
const FREED: i64 = 200;
/// So many rows are pruned in one transaction.
const PRUNED: u32 = 200;

/// Whether a row has ended before `since`, or a dead letter or parked one before `long_since`.
pub(crate) fn has_old(connection: &Connection, since: i64, long_since: i64) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM task WHERE state BETWEEN 6 AND 8 AND ended_at < ?1 AND NOT {needed}) \
               OR EXISTS (SELECT 1 FROM task WHERE state = 9 AND ended_at < ?2)";
    let sql = sql.replace("{needed}", chains::NEEDED);
    let mut statement = connection.prepare_cached(&sql)?;
    statement.query_row(params![since, long_since], |row| row.get(0))
}

/// Whether a quarter of the file is free.
pub(crate) fn has_much_room(connection: &Connection) -> Result<bool> {
    let number = |sql: &str| -> Result<i64> {
        let mut statement = connection.prepare_cached(sql)?;
        statement.query_row([], |row| row.get(0))
    };
    let free = number("PRAGMA freelist_count")?;
    // A small file is not worth the while.
    Ok(free > FREED && free * 4 > number("PRAGMA page_count")?)
}

/// Gives free pages back to the file system, not all at once.
pub(crate) fn vacuum(connection: &Connection) -> Result<()> {
    let mut statement = connection.prepare_cached("PRAGMA incremental_vacuum(200)")?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

pub(crate) fn has_long_parked(
    connection: &Connection,
    application: i64,
    long_since: i64,
) -> Result<bool> {
    let sql = "SELECT 1 FROM task WHERE state = 4 AND parked_at < ?1 AND application = ?2";
    connection
        .prepare_cached(sql)?
        .exists([long_since, application])
}

/// A task that was parked long ago.
pub(crate) struct LongParked {
    pub sequence: i64,
    pub id: String,
    pub function: String,
    pub deaths: u32,
    pub reason: String,
}

/// Tasks of an application that were parked long ago; not all at once.
pub(crate) fn long_parked(
    connection: &Connection,
    application: i64,
    long_since: i64,
) -> Result<Vec<LongParked>> {
    let sql = "SELECT sequence, id, (SELECT name FROM function WHERE function.function = task.function), deaths, \
               coalesce(reason, '') FROM task WHERE state = 4 AND parked_at < ?1 AND application = ?2 LIMIT ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![long_since, application, PRUNED], |row| {
        Ok(LongParked {
            sequence: row.get(0)?,
            id: row.get(1)?,
            function: row.get::<_, Option<String>>(2)?.unwrap_or_default(),
            deaths: row.get(3)?,
            reason: row.get(4)?,
        })
    })?;
    rows.collect()
}

/// How many ended rows there are, but for those whose results others wait with.
pub(crate) fn count_ended(connection: &Connection) -> Result<u64> {
    let sql = "SELECT count(*) FROM task WHERE state BETWEEN 6 AND 8";
    let mut statement = connection.prepare_cached(sql)?;
    let count: i64 = statement.query_row([], |row| row.get(0))?;
    let needed = chains::count_needed(connection)?;
    Ok(count.cast_unsigned().saturating_sub(needed))
}

/// Removes old rows, the oldest first: those that have ended before `since`, `surplus` in any case, and dead
/// letters from before `long_since`. Not all at once.
pub(crate) fn prune(
    connection: &Connection,
    since: i64,
    long_since: i64,
    surplus: u64,
) -> Result<()> {
    let surplus = u32::try_from(surplus).unwrap_or(PRUNED).min(PRUNED);
    let sql = "SELECT sequence, id, ended_at FROM (SELECT sequence, id, ended_at, row_number() OVER (ORDER BY ended_at) AS place \
               FROM (SELECT sequence, id, ended_at FROM task WHERE state BETWEEN 6 AND 8 AND NOT {needed} ORDER BY ended_at LIMIT ?4)) \
               WHERE ended_at < ?1 OR place <= ?3 \
               UNION ALL SELECT sequence, id, ended_at FROM (SELECT sequence, id, ended_at FROM task WHERE state = 9 \
               AND ended_at < ?2 ORDER BY ended_at LIMIT ?4)";
    let sql = sql.replace("{needed}", chains::NEEDED);
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(params![since, long_since, surplus, PRUNED], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })?;
    let old = rows.collect::<Result<Vec<_>>>()?;
    forget(connection, &old)
}

/// Removes rows, given by place, id and time of their end; the ids are known as those of pruned
/// tasks.
pub(crate) fn forget(connection: &Connection, old: &[(i64, String, i64)]) -> Result<()> {
    for (sequence, id, ended) in old {
        exclude(connection, id, *ended)?;
        let sql = "DELETE FROM task WHERE sequence = ?1";
        connection.prepare_cached(sql)?.execute([sequence])?;
        remove_parts(connection, *sequence)?;
        chains::remove(connection, *sequence)?;
    }
    if !old.is_empty() {
        let sql = "DELETE FROM forgotten WHERE place <= (SELECT max(place) FROM forgotten) - ?1";
        connection.prepare_cached(sql)?.execute([FORGOTTEN])?;
    }
    Ok(())
}

/// Removes the row of a plain task of an application that has ended, so that the next one with its id can
/// have one; not while others still are to hear of that end, or wait with its result.
pub(crate) fn give_way(connection: &Connection, id: &str, application: i64) -> Result<()> {
    let sql = "DELETE FROM task WHERE id = ?1 AND application = ?2 AND published = 1 AND state BETWEEN 6 AND 9 \
               AND NOT EXISTS (SELECT 1 FROM waiter WHERE waiter.task = task.sequence) AND NOT {needed} \
               RETURNING sequence";
    let sql = sql.replace("{needed}", chains::NEEDED);
    let mut statement = connection.prepare_cached(&sql)?;
    let removed = statement.query_row(params![id, application], |row| row.get(0));
    let Some(task) = removed.optional()? else {
        return Ok(());
    };
    remove_parts(connection, task)?;
    chains::remove(connection, task)
}

/// Removes what belongs to a row that is gone: another one may get its place.
fn remove_parts(connection: &Connection, task: i64) -> Result<()> {
    for sql in [
        "DELETE FROM body WHERE task = ?1",
        "DELETE FROM waiter WHERE task = ?1",
    ] {
        connection.prepare_cached(sql)?.execute([task])?;
    }
    events::remove(connection, task)?;
    kept::remove(connection, task)
}

/// Removes a task that has not begun. One that was inserted as running has not if `claim`, by its
/// process's slot, is the first and was never told.
pub(crate) fn remove_unbegun(
    connection: &Connection,
    id: &str,
    claim: Option<(Claim, i64)>,
    now: i64,
) -> Result<()> {
    let sql = "DELETE FROM task WHERE id = ?1 AND (state IN (0, 1, 3, 5) AND attempt = 0 \
               OR state = 2 AND epoch = ?2 AND owner = ?3 AND ?2 IS NOT NULL) RETURNING sequence, application, limit_key";
    let (epoch, slot) = claim.map(|(claim, slot)| (claim.epoch, slot)).unzip();
    let mut statement = connection.prepare_cached(sql)?;
    let removed = statement.query_row(params![id, epoch, slot], |row| {
        let lane: Option<String> = row.get(2)?;
        Ok((row.get(0)?, row.get(1)?, lane))
    });
    let Some((task, application, lane)) = removed.optional()? else {
        return Ok(());
    };
    remove_parts(connection, task)?;
    if let Some(key) = lane {
        lanes::call(connection, application, &key, now)?;
    }
    Ok(())
}
