//! The tasks of a dead process.
//!
//! All that ran are suspects, and a suspect runs alone in its process: when that dies, it is known
//! which task ended it. So a task that kills its processes is found out, and no other with it.

use std::fmt::Write as _;

use rusqlite::{Connection, Result, params};

use crate::api::State;
use crate::store;

/// The error of a task as the package reads it.
pub(crate) fn error(kind: &str, message: &str) -> String {
    let mut text = format!("{{\"type\": \"flask_delay.{kind}\", \"message\": \"");
    for character in message.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            control if u32::from(control) < 0x20 => {
                // Writing to a text cannot fail.
                _ = write!(text, "\\u{:04x}", u32::from(control));
            }
            other => text.push(other),
        }
    }
    text.push_str("\", \"traceback\": \"\", \"notes\": []}");
    text
}

/// What a takeover has done.
#[derive(Debug, Default)]
pub(crate) struct Takeover {
    /// Whether tasks became ready.
    pub has_ready: bool,
    /// The tasks that have ended by it.
    pub ended: Vec<i64>,
    /// The lanes in which less runs now.
    pub lanes: Vec<String>,
    /// The new dead letters, by id and function.
    pub dead: Vec<(String, String)>,
}

/// A task that the dead process ran.
struct Orphan {
    sequence: i64,
    id: String,
    function: String,
    plain: bool,
    deaths: u32,
    interrupted: bool,
    stop_requested: bool,
    lane: Option<String>,
}

fn orphans(connection: &Connection, slot: i64) -> Result<Vec<Orphan>> {
    let sql = "SELECT sequence, id, (SELECT name FROM function WHERE function.function = task.function), published, deaths, \
               interrupted, stop_requested, limit_key FROM task WHERE owner = ?1 AND state = 2";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([slot], |row| {
        Ok(Orphan {
            sequence: row.get(0)?,
            id: row.get(1)?,
            function: row.get::<_, Option<String>>(2)?.unwrap_or_default(),
            plain: row.get(3)?,
            deaths: row.get(4)?,
            interrupted: row.get(5)?,
            stop_requested: row.get(6)?,
            lane: row.get(7)?,
        })
    })?;
    rows.collect()
}

/// Takes over the tasks of a dead process. `counts`: whether its death may be the fault of a task;
/// that of a machine is not. `None` if another process has done it.
pub(crate) fn take_over(
    connection: &Connection,
    process: &store::Process,
    counts: bool,
    allowed: u32,
    now: i64,
) -> Result<Option<Takeover>> {
    if !store::remove_process(connection, process.slot)? {
        return Ok(None);
    }
    store::unreserve(connection, process.slot)?;
    let orphans = orphans(connection, process.slot)?;
    let is_guilty = |it: &Orphan| counts && !it.plain && !it.interrupted;
    let was_alone = orphans.iter().any(|it| is_guilty(it) && it.deaths > 0);
    let mut done = Takeover::default();
    for orphan in orphans {
        let is_suspect = is_guilty(&orphan) && (!was_alone || orphan.deaths > 0);
        let deaths = orphan.deaths + u32::from(is_suspect);
        let (state, error) = if orphan.plain {
            let message = format!("process {} ended before the task did", process.pid);
            (State::Failed, Some(error("WorkerDied", &message)))
        } else if orphan.stop_requested {
            (State::Cancelled, None)
        } else if is_suspect && deaths >= allowed {
            let message = format!(
                "process {} ended while it ran this task; it was the {} that did",
                process.pid,
                ordinal(deaths)
            );
            done.dead.push((orphan.id, orphan.function));
            (State::Dead, Some(error("WorkerDied", &message)))
        } else {
            done.has_ready = true;
            (State::Ready, None)
        };
        let sql = "UPDATE task SET state = ?2, owner = NULL, interrupted = 0, deaths = ?3, error = ?4, ended_at = ?5 \
                   WHERE sequence = ?1";
        done.lanes.extend(orphan.lane);
        let ended = state.is_end().then_some(now);
        connection.prepare_cached(sql)?.execute(params![
            orphan.sequence,
            state.code(),
            deaths,
            error,
            ended
        ])?;
        if state.is_end() {
            done.ended.push(orphan.sequence);
        }
    }
    Ok(Some(done))
}

fn ordinal(number: u32) -> String {
    match number {
        1 => "first".to_owned(),
        2 => "second".to_owned(),
        3 => "third".to_owned(),
        _ => format!("{number}th"),
    }
}
