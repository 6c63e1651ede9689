//! What has happened to a task, beyond what its row tells: further attempts, deaths, and what people
//! did. A task that returns in its first attempt has none, so it pays nothing.

use rusqlite::{Connection, Result, params};

use crate::api::record::Event;

/// So many are kept, of all tasks.
const MOST: i64 = 50_000;
/// After so many new ones, the oldest are removed.
const OFTEN: i64 = 256;

pub(crate) const STARTED: &str = "started";
pub(crate) const HELD: &str = "held";
pub(crate) const FAILED: &str = "failed";
/// What is said of the first start, which the row tells.
const FIRST: &str = "attempt 1";
pub(crate) const RETRYING: &str = "retrying";
pub(crate) const PUT_BACK: &str = "put back";
pub(crate) const PARKED: &str = "parked";
pub(crate) const DIED: &str = "died";
pub(crate) const STOPPING: &str = "stop asked";
pub(crate) const RETRIED: &str = "retried";
pub(crate) const ACTED: &str = "acted";

/// What it follows, and what follows it: see `links`.
pub(crate) const FOLLOWS: &str = "follows";
pub(crate) const FOLLOWED: &str = "followed";

/// Why a task is held: by its limit or its rate, or since its function is paused.
pub(crate) const LANE: &str = "lane";
pub(crate) const PAUSED: &str = "paused";

/// Why a task is held: until a time.
pub(crate) fn until(due: i64) -> String {
    format!("until {due}")
}

/// Why a task is held: until another one has ended. The name of that one, and its id.
pub(crate) fn after(connection: &Connection, task: i64) -> Result<String> {
    let sql = "SELECT 'after ' || coalesce(function.name, '') || ' ' || id FROM task LEFT JOIN function USING (function) \
               WHERE sequence = ?1";
    connection
        .prepare_cached(sql)?
        .query_row([task], |row| row.get(0))
}

/// An event to add.
#[derive(Clone, Copy, Default)]
pub(crate) struct New<'a> {
    pub kind: &'a str,
    pub text: Option<&'a str>,
    pub actor: Option<&'a str>,
}

impl<'a> New<'a> {
    pub(crate) fn of(kind: &'a str, text: Option<&'a str>) -> Self {
        Self {
            kind,
            text,
            actor: None,
        }
    }
}

pub(crate) fn add(connection: &Connection, task: i64, at: i64, event: &New<'_>) -> Result<()> {
    let sql =
        "INSERT INTO event (task, at, kind, text, actor, pid) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    connection.prepare_cached(sql)?.execute(params![
        task,
        at,
        event.kind,
        event.text,
        event.actor,
        std::process::id()
    ])?;
    let number = connection.last_insert_rowid();
    if number % OFTEN == 0 {
        let sql = "DELETE FROM event WHERE number <= ?1";
        connection.prepare_cached(sql)?.execute([number - MOST])?;
    }
    Ok(())
}

/// The events of the task with an id, oldest first, and before them its first start.
pub(crate) fn of(connection: &Connection, id: &str) -> Result<Vec<Event>> {
    let sql = "SELECT began_at, ?2, ?3, NULL, began_by, 0 AS number FROM task WHERE id = ?1 AND began_by IS NOT NULL \
               UNION ALL SELECT at, kind, text, actor, pid, number FROM event \
               WHERE task = (SELECT sequence FROM task WHERE id = ?1) AND kind NOT IN ('follows', 'followed') \
               ORDER BY number";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([id, STARTED, FIRST], |row| {
        Ok(Event {
            at: row.get(0)?,
            kind: row.get(1)?,
            text: row.get(2)?,
            actor: row.get(3)?,
            pid: row.get(4)?,
        })
    })?;
    rows.collect()
}

/// Removes the events of a task, with the task.
pub(crate) fn remove(connection: &Connection, task: i64) -> Result<()> {
    let sql = "DELETE FROM event WHERE task = ?1";
    connection.prepare_cached(sql)?.execute([task])?;
    Ok(())
}
