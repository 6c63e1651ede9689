//! The tasks of a dead process.
//!
//! All that ran are suspects, and a suspect runs alone in its process: when that dies, it is known
//! which task ended it. So a task that kills its processes is found out, and no other with it.

use std::fmt::Write as _;

use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::api::{Claim, DeadLetter, State};
use crate::group::permits;
use crate::rows::store;

/// The error of a task as the package reads it.
pub(crate) fn error(kind: &str, message: &str) -> String {
    let mut text = format!("{{\"type\": \"flask_delay.{kind}\", \"message\": ");
    quote(&mut text, message);
    text.push_str(", \"traceback\": \"\", \"notes\": []}");
    text
}

/// Adds a string as JSON has it.
pub(crate) fn quote(text: &mut String, string: &str) {
    text.push('"');
    for character in string.chars() {
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
    text.push('"');
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
    /// The ids of the tasks that it ran, and the places of those that are not plain.
    pub tasks: Vec<String>,
    pub again: Vec<i64>,
    /// The new dead letters.
    pub dead: Vec<DeadLetter>,
}

/// A task that the dead process ran.
struct Orphan {
    sequence: i64,
    id: String,
    function: String,
    application: i64,
    plain: bool,
    deaths: u32,
    interrupted: bool,
    stop_requested: bool,
    lane: Option<String>,
}

fn orphans(connection: &Connection, slot: i64) -> Result<Vec<Orphan>> {
    let sql = "SELECT sequence, id, (SELECT name FROM function WHERE function.function = task.function), published, deaths, \
               interrupted, stop_requested, limit_key, application FROM task WHERE owner = ?1 AND state = 2";
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
            application: row.get(8)?,
        })
    })?;
    rows.collect()
}

/// Takes over the tasks of a dead process. `counts`: whether its death may be the fault of a task;
/// that of a machine is not. `allowed` is what this process's `application` allows: the suspects of
/// others are ready again, and their own processes see that they are dead letters. `None` if another
/// process has done it.
pub(crate) fn take_over(
    connection: &Connection,
    process: &store::Process,
    counts: bool,
    application: i64,
    allowed: u32,
    now: i64,
) -> Result<Option<Takeover>> {
    if !store::remove_process(connection, process.slot)? {
        return Ok(None);
    }
    store::unreserve(connection, process.slot)?;
    let lanes = permits::remove_all(connection, process.slot, false)?;
    let orphans = orphans(connection, process.slot)?;
    let is_guilty = |it: &Orphan| counts && !it.plain && !it.interrupted;
    let was_alone = orphans.iter().any(|it| is_guilty(it) && it.deaths > 0);
    let mut done = Takeover {
        lanes,
        ..Takeover::default()
    };
    for orphan in orphans {
        done.tasks.push(orphan.id.clone());
        if !orphan.plain {
            done.again.push(orphan.sequence);
        }
        let is_suspect = is_guilty(&orphan) && (!was_alone || orphan.deaths > 0);
        let deaths = orphan.deaths + u32::from(is_suspect);
        let (state, error) = if orphan.plain {
            let message = format!("process {} ended before the task did", process.pid);
            (State::Failed, Some(error("WorkerDied", &message)))
        } else if orphan.stop_requested {
            (State::Cancelled, None)
        } else if is_suspect && deaths >= allowed && orphan.application == application {
            let message = format!(
                "process {} ended while it ran this task; it was the {} that did",
                process.pid,
                ordinal(deaths)
            );
            let error = error("WorkerDied", &message);
            done.dead.push(DeadLetter {
                id: orphan.id,
                function: orphan.function,
                deaths,
                error: error.clone(),
            });
            (State::Dead, Some(error))
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

/// Counts the death of a child in which this process ran a task by that claim: the task's state then,
/// and what it is as a dead letter. `None` if it is not this process's.
pub(crate) fn died(
    connection: &Connection,
    claim: Claim,
    slot: i64,
    allowed: u32,
    error: &str,
    now: i64,
) -> Result<Option<(State, DeadLetter)>> {
    // What was asked to stop does not begin again.
    let sql = "UPDATE task SET state = CASE WHEN stop_requested THEN 8 WHEN deaths + 1 >= ?4 THEN 9 ELSE 0 END, \
               deaths = deaths + 1, owner = NULL, interrupted = 0, \
               error = CASE WHEN NOT stop_requested AND deaths + 1 >= ?4 THEN ?5 END, \
               ended_at = CASE WHEN stop_requested OR deaths + 1 >= ?4 THEN ?6 END \
               WHERE sequence = ?1 AND owner = ?2 AND epoch = ?3 AND state = 2 \
               RETURNING state, id, (SELECT name FROM function WHERE function.function = task.function), deaths";
    let mut statement = connection.prepare_cached(sql)?;
    let values = params![claim.task, slot, claim.epoch, allowed, error, now];
    let found = statement.query_row(values, |row| {
        let letter = DeadLetter {
            id: row.get(1)?,
            function: row.get::<_, Option<String>>(2)?.unwrap_or_default(),
            deaths: row.get(3)?,
            error: error.to_owned(),
        };
        Ok((State::of(row.get(0)?), letter))
    });
    found.optional()
}

/// The dead letter that a ready task is to become, which has ended as many processes as are allowed:
/// the takeover was another app's, or more were allowed then.
pub(crate) fn condemned(
    connection: &Connection,
    task: i64,
    allowed: u32,
) -> Result<Option<DeadLetter>> {
    let sql = "SELECT id, (SELECT name FROM function WHERE function.function = task.function), deaths FROM task \
               WHERE sequence = ?1 AND deaths >= ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row(params![task, allowed], |row| {
        let deaths = row.get(2)?;
        let message = format!(
            "a process ended while it ran this task; it was the {} that did",
            ordinal(deaths)
        );
        Ok(DeadLetter {
            id: row.get(0)?,
            function: row.get::<_, Option<String>>(1)?.unwrap_or_default(),
            deaths,
            error: error("WorkerDied", &message),
        })
    });
    found.optional()
}

fn ordinal(number: u32) -> String {
    match number {
        1 => "first".to_owned(),
        2 => "second".to_owned(),
        3 => "third".to_owned(),
        _ => format!("{number}th"),
    }
}
