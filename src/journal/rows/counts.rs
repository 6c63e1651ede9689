//! How many tasks there are.

use rusqlite::{Connection, Result};

use crate::api::Stats;

/// How many tasks wait for a worker or their time.
pub(crate) fn count_waiting(connection: &Connection) -> Result<u64> {
    let sql = "SELECT (SELECT count(*) FROM task WHERE state = 0) + (SELECT count(*) FROM task WHERE state = 1) \
               + (SELECT count(*) FROM task WHERE state = 5) \
               + (SELECT count(*) FROM task WHERE limit_key IS NOT NULL AND state = 3 AND published = 0)";
    let mut statement = connection.prepare_cached(sql)?;
    let count: i64 = statement.query_row([], |row| row.get(0))?;
    Ok(count.cast_unsigned())
}

pub(crate) fn stats(connection: &Connection) -> Result<Stats> {
    let count = |sql: &str| -> Result<u64> {
        let mut statement = connection.prepare_cached(sql)?;
        let count: i64 = statement.query_row([], |row| row.get(0))?;
        Ok(count.cast_unsigned())
    };
    let paused = count_paused(connection)?;
    // Of those that start next: behind so many, an older one has a lower priority. Those that are paused and not set
    // aside are rare, and mostly gone at the next look.
    let sql = "SELECT min(since) FROM (SELECT coalesce(due, submitted_at) AS since FROM task INDEXED BY ready \
               WHERE state = 0 AND NOT EXISTS (SELECT 1 FROM paused \
               WHERE paused.application = task.application AND paused.function IN (0, task.function)) LIMIT 1000)";
    let oldest = connection
        .prepare_cached(sql)?
        .query_row([], |row| row.get(0))?;
    Ok(Stats {
        ready: count("SELECT count(*) FROM task WHERE state = 0")?.saturating_sub(paused),
        scheduled: count("SELECT count(*) FROM task WHERE state = 1")?,
        running: count(
            "SELECT count(*) FROM task WHERE owner IS NOT NULL AND state = 2 AND published = 0",
        )?,
        blocked: count(
            "SELECT count(*) FROM task WHERE limit_key IS NOT NULL AND state = 3 AND waiting_for = 0 AND published = 0",
        )? + count_following(connection)?
            + count("SELECT count(*) FROM task WHERE state = 5")?
            + paused,
        parked: count("SELECT count(*) FROM task WHERE state = 4")?,
        dead: count("SELECT count(*) FROM task WHERE state = 9")?,
        processes: count("SELECT count(*) FROM process WHERE claims")?,
        bytes: 0,
        oldest,
    })
}

/// How many tasks wait for others.
fn count_following(connection: &Connection) -> Result<u64> {
    let sql = "SELECT count(*) FROM task WHERE state = 3 AND waiting_for > 0";
    let mut statement = connection.prepare_cached(sql)?;
    let count: i64 = statement.query_row([], |row| row.get(0))?;
    Ok(count.cast_unsigned())
}

/// How many ready tasks are those of paused functions and not set aside yet.
fn count_paused(connection: &Connection) -> Result<u64> {
    let sql = "SELECT count(DISTINCT sequence) FROM paused CROSS JOIN task \
               WHERE task.application = paused.application AND task.state = 0 \
               AND paused.function IN (0, task.function)";
    let mut statement = connection.prepare_cached(sql)?;
    let count: i64 = statement.query_row([], |row| row.get(0))?;
    Ok(count.cast_unsigned())
}
