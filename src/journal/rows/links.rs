//! What a task follows, and what follows it, for its page.
//!
//! `dependency` has what a task waits for, as long as it waits. Events keep it for later, once there is
//! a page.

use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::api::record::{Link, Links};
use crate::rows::events::{self, FOLLOWED, FOLLOWS};
use crate::rows::store;

/// So many are known of a task, in each direction.
const MOST: u32 = 20;

/// Notes that a new task follows others.
pub(crate) fn note(connection: &Connection, task: i64, before: &[i64], now: i64) -> Result<()> {
    let id = store::id(connection, task)?;
    for &first in before.iter().take(MOST as usize) {
        let other = store::id(connection, first)?;
        for (of, kind, text) in [(task, FOLLOWS, &other), (first, FOLLOWED, &id)] {
            let sql = "SELECT count(*) FROM event WHERE task = ?1 AND kind = ?2";
            let mut statement = connection.prepare_cached(sql)?;
            let count: u32 = statement.query_row(params![of, kind], |row| row.get(0))?;
            if count < MOST {
                events::add(connection, of, now, &events::New::of(kind, Some(text)))?;
            }
        }
    }
    Ok(())
}

/// The tasks before and after the one with an id.
pub(crate) fn of(connection: &Connection, id: &str) -> Result<Links> {
    let Some(task) = store::place(connection, id)? else {
        return Ok(Links::default());
    };
    let mut links = Links::default();
    for (found, kind, sql) in [
        (
            &mut links.follows,
            FOLLOWS,
            "SELECT id FROM dependency JOIN task ON sequence = predecessor WHERE dependency.task = ?1 \
             ORDER BY place LIMIT ?2",
        ),
        (
            &mut links.followed,
            FOLLOWED,
            "SELECT id FROM dependency JOIN task ON sequence = dependency.task WHERE predecessor = ?1 \
             ORDER BY sequence LIMIT ?2",
        ),
    ] {
        let mut ids = texts(connection, sql, params![task, MOST])?;
        let noted = "SELECT text FROM event WHERE task = ?1 AND kind = ?2 ORDER BY number";
        ids.extend(texts(connection, noted, params![task, kind])?);
        for id in ids {
            if found.len() < MOST as usize && found.iter().all(|it: &Link| it.0 != id) {
                let name = name(connection, &id)?;
                found.push((id, name));
            }
        }
    }
    Ok(links)
}

fn texts(connection: &Connection, sql: &str, values: impl rusqlite::Params) -> Result<Vec<String>> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(values, |row| row.get(0))?;
    rows.collect()
}

/// The function of a task; nothing if that is not known any more.
fn name(connection: &Connection, id: &str) -> Result<String> {
    let sql = "SELECT function.name FROM task JOIN function USING (function) WHERE id = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row([id], |row| row.get(0)).optional()?;
    Ok(found.unwrap_or_default())
}
