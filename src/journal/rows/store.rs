//! SQL that subjects share, mostly of tasks. Each function is a step of a transaction that its caller has
//! begun, or reads.

use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::api::{
    Change, Claim, Claimed, Found, Kept, Key, Limits, NewTask, Outcome, Pool, Row, State,
};
use crate::rows::lanes::{self, column};

/// Arguments above this many bytes are kept beside their task's row, which changes more often.
const BODY: usize = 1000;
/// The state of ready tasks that were set aside.
pub(crate) const ASIDE: i64 = 5;
/// So many parked tasks are found at once.
const FEW: u32 = 200;
/// So many scheduled tasks become ready in one transaction.
pub(crate) const PROMOTED: i64 = 500;

pub(crate) fn application(connection: &Connection, name: &str) -> Result<i64> {
    let sql = "INSERT INTO application (name) VALUES (?1) ON CONFLICT DO NOTHING";
    connection.prepare_cached(sql)?.execute([name])?;
    let sql = "SELECT application FROM application WHERE name = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([name], |row| row.get(0))
}

pub(crate) fn function(connection: &Connection, application: i64, name: &str) -> Result<i64> {
    let sql = "INSERT INTO function (application, name) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    connection
        .prepare_cached(sql)?
        .execute(params![application, name])?;
    let sql = "SELECT function FROM function WHERE application = ?1 AND name = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row(params![application, name], |row| row.get(0))
}

/// The place of the row with an id.
pub(crate) fn place(connection: &Connection, id: &str) -> Result<Option<i64>> {
    let sql = "SELECT sequence FROM task WHERE id = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([id], |row| row.get(0)).optional()
}

pub(crate) fn known_application(connection: &Connection, app: &str) -> Result<Option<i64>> {
    let sql = "SELECT application FROM application WHERE name = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([app], |row| row.get(0)).optional()
}

// --- Processes ----------------------------------------------------------------------

/// A process that has the journal open.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub slot: i64,
    pub pid: i64,
    pub boot: String,
    pub claims: bool,
    pub began_at: i64,
}

pub(crate) fn add_process(
    connection: &Connection,
    boot: &str,
    code: &str,
    layout: i64,
    now: i64,
) -> Result<i64> {
    let sql = "INSERT INTO process (pid, boot, code, layout, claims, began_at) VALUES (?1, ?2, ?3, ?4, 0, ?5)";
    connection.prepare_cached(sql)?.execute(params![
        std::process::id(),
        boot,
        code,
        layout,
        now
    ])?;
    Ok(connection.last_insert_rowid())
}

/// Whether this process still has that slot.
pub(crate) fn has_process(connection: &Connection, slot: i64, since: i64) -> Result<bool> {
    let sql = "SELECT 1 FROM process WHERE slot = ?1 AND pid = ?2 AND began_at = ?3";
    connection
        .prepare_cached(sql)?
        .exists(params![slot, std::process::id(), since])
}

pub(crate) fn set_claims(connection: &Connection, slot: i64, claims: bool) -> Result<()> {
    let sql = "UPDATE process SET claims = ?2 WHERE slot = ?1";
    connection
        .prepare_cached(sql)?
        .execute(params![slot, claims])?;
    Ok(())
}

pub(crate) fn remove_process(connection: &Connection, slot: i64) -> Result<bool> {
    for sql in [
        "DELETE FROM known WHERE slot = ?1",
        "DELETE FROM waiter WHERE slot = ?1",
        "DELETE FROM command WHERE process = ?1",
    ] {
        connection.prepare_cached(sql)?.execute([slot])?;
    }
    let sql = "DELETE FROM process WHERE slot = ?1";
    Ok(connection.prepare_cached(sql)?.execute([slot])? > 0)
}

/// The number of the process that has a slot.
pub(crate) fn pid(connection: &Connection, slot: i64) -> Result<Option<i64>> {
    let sql = "SELECT pid FROM process WHERE slot = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([slot], |row| row.get(0)).optional()
}

pub(crate) fn processes(connection: &Connection) -> Result<Vec<Process>> {
    let mut statement =
        connection.prepare_cached("SELECT slot, pid, boot, claims, began_at FROM process")?;
    let rows = statement.query_map([], |row| {
        Ok(Process {
            slot: row.get(0)?,
            pid: row.get(1)?,
            boot: row.get(2)?,
            claims: row.get(3)?,
            began_at: row.get(4)?,
        })
    })?;
    rows.collect()
}

/// The other processes that claim.
pub(crate) fn claimers(connection: &Connection, slot: Option<i64>) -> Result<Vec<i64>> {
    let sql = "SELECT slot FROM process WHERE claims AND slot IS NOT ?1";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([slot], |row| row.get(0))?.collect()
}

pub(crate) fn add_known(connection: &Connection, slot: i64, function: i64) -> Result<()> {
    let sql = "INSERT INTO known (function, slot) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    connection
        .prepare_cached(sql)?
        .execute(params![function, slot])?;
    Ok(())
}

// --- Submits ------------------------------------------------------------------------

/// A row to insert: a task with its place among the others.
pub(crate) struct NewRow<'a> {
    pub task: &'a NewTask,
    pub application: i64,
    pub function: i64,
    pub state: State,
    /// Whether it is set aside, since its function is paused.
    pub is_aside: bool,
    pub owner: Option<i64>,
    /// For how many tasks it waits.
    pub waiting_for: i64,
    /// The process that wants to hear of its end.
    pub submitter: i64,
    pub unique_key: Option<&'a str>,
    pub once_key: Option<&'a str>,
    /// Its limits, and the key of its lane.
    pub limits: Option<(&'a Limits, &'a str)>,
    pub now: i64,
}

/// Inserts a row; `None` if another one excludes it.
pub(crate) fn insert(connection: &Connection, row: &NewRow<'_>) -> Result<Option<i64>> {
    let task = row.task;
    let is_running = row.state == State::Running;
    let is_large = task.arguments.len() > BODY;
    let follows = task.follows.as_ref();
    let rate = row.limits.and_then(|(limits, _)| limits.rate);
    let sql = "INSERT INTO task (id, state, application, function, pool, owner, epoch, attempt, rank, due, expires, \
               submitted_at, began_at, attempt_at, unique_key, once_key, options, arguments, submitter, \
               limit_key, limit_most, rate_count, rate_span, follows, waiting_for, countdown, began_by) \
               SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8, ?9, ?10, ?11, ?12, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, \
               ?22, ?23, ?24, ?25 \
               WHERE NOT EXISTS (SELECT 1 FROM forgotten WHERE id = ?1) ON CONFLICT DO NOTHING";
    let count = connection.prepare_cached(sql)?.execute(params![
        task.id,
        if row.is_aside {
            ASIDE
        } else {
            row.state.code()
        },
        row.application,
        row.function,
        task.pool.code(),
        row.owner,
        i64::from(is_running),
        task.rank,
        task.due,
        task.expires,
        row.now,
        is_running.then_some(row.now),
        row.unique_key,
        row.once_key,
        task.options,
        (!is_large).then_some(&task.arguments),
        row.submitter,
        row.limits.map(|(_, key)| key),
        row.limits.and_then(|(limits, _)| limits.limit).map(column),
        rate.map(|(count, _)| column(count)),
        rate.map(|(_, span)| column(span)),
        follows.map(|it| it.how.code()),
        row.waiting_for,
        follows.and_then(|it| it.countdown),
        is_running.then(std::process::id),
    ])?;
    if count == 0 {
        return Ok(None);
    }
    let sequence = connection.last_insert_rowid();
    if is_large {
        let sql = "INSERT INTO body (task, arguments) VALUES (?1, ?2)";
        connection
            .prepare_cached(sql)?
            .execute(params![sequence, task.arguments])?;
    }
    Ok(Some(sequence))
}

/// Replaces the arguments of a row.
pub(crate) fn set_arguments(connection: &Connection, task: i64, arguments: &str) -> Result<()> {
    let is_large = arguments.len() > BODY;
    let sql = "UPDATE task SET arguments = ?2 WHERE sequence = ?1";
    let short = (!is_large).then_some(arguments);
    connection
        .prepare_cached(sql)?
        .execute(params![task, short])?;
    let sql = "DELETE FROM body WHERE task = ?1";
    connection.prepare_cached(sql)?.execute([task])?;
    if is_large {
        let sql = "INSERT INTO body (task, arguments) VALUES (?1, ?2)";
        connection
            .prepare_cached(sql)?
            .execute(params![task, arguments])?;
    }
    Ok(())
}

/// Whether a task has this id, or has had it.
pub(crate) fn is_taken(connection: &Connection, id: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM task WHERE id = ?1) OR EXISTS (SELECT 1 FROM forgotten WHERE id = ?1)";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([id], |row| row.get(0))
}

/// The id and the function of the task that has a key.
pub(crate) fn twin(
    connection: &Connection,
    by: Key,
    key: &str,
) -> Result<Option<(String, String)>> {
    let sql = match by {
        Key::Unique => {
            "SELECT task.id, function.name FROM task LEFT JOIN function USING (function) \
             WHERE unique_key = ?1 AND unique_key IS NOT NULL AND state < 6"
        }
        Key::Once => {
            "SELECT task.id, function.name FROM task LEFT JOIN function USING (function) \
             WHERE once_key = ?1 AND once_key IS NOT NULL"
        }
    };
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row([key], |row| {
        Ok((
            row.get(0)?,
            row.get::<_, Option<String>>(1)?.unwrap_or_default(),
        ))
    });
    found.optional()
}

pub(crate) fn exists(connection: &Connection, id: &str) -> Result<bool> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM task WHERE id = ?1")?;
    statement.exists([id])
}

/// Whether the task with this place and id is there.
pub(crate) fn has(connection: &Connection, task: i64, id: &str) -> Result<bool> {
    let mut statement = connection.prepare_cached("SELECT id FROM task WHERE sequence = ?1")?;
    let found: Option<String> = statement.query_row([task], |row| row.get(0)).optional()?;
    Ok(found.as_deref() == Some(id))
}

// --- Published tasks ----------------------------------------------------------------

pub(crate) struct Published<'a> {
    pub id: &'a str,
    pub application: i64,
    pub function: i64,
    pub owner: i64,
    pub submitted_at: i64,
    pub began: Option<i64>,
}

pub(crate) fn publish(connection: &Connection, task: &Published<'_>) -> Result<Option<i64>> {
    let sql = "INSERT INTO task (id, state, application, function, pool, published, owner, epoch, attempt, rank, \
               submitted_at, began_at, attempt_at, began_by) VALUES (?1, 2, ?2, ?3, 0, 1, ?4, 1, ?7, ?5, ?5, ?6, ?6, ?8) \
               ON CONFLICT DO NOTHING";
    let count = connection.prepare_cached(sql)?.execute(params![
        task.id,
        task.application,
        task.function,
        task.owner,
        task.submitted_at,
        task.began,
        task.began.is_some(),
        task.began.map(|_| std::process::id()),
    ])?;
    Ok((count > 0).then(|| connection.last_insert_rowid()))
}

/// A published task begins an attempt: its number, unless the task has ended.
pub(crate) fn publish_began(
    connection: &Connection,
    task: i64,
    slot: i64,
    at: i64,
) -> Result<Option<i64>> {
    let sql = "UPDATE task SET began_by = ?4, began_at = coalesce(began_at, ?3), attempt_at = ?3, attempt = attempt + 1 \
               WHERE sequence = ?1 AND owner = ?2 AND state = 2 RETURNING attempt";
    let mut statement = connection.prepare_cached(sql)?;
    let values = params![task, slot, at, std::process::id()];
    statement.query_row(values, |row| row.get(0)).optional()
}

// --- Claims -------------------------------------------------------------------------

/// A ready task, as it is looked at before it is claimed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub sequence: i64,
    pub expires: Option<i64>,
    pub stop_requested: bool,
    /// Whether it has a limit or a rate.
    pub is_limited: bool,
}

/// The first `most` ready tasks of a pool whose functions are known, in order; no suspects.
pub(crate) fn ready(
    connection: &Connection,
    application: i64,
    pool: Pool,
    most: usize,
    is_known: impl Fn(i64) -> bool,
) -> Result<Vec<Ready>> {
    let sql = "SELECT sequence, function, deaths, expires, stop_requested, limit_key IS NOT NULL FROM task \
               WHERE application = ?1 AND pool = ?2 AND state = 0 ORDER BY rank";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![application, pool.code()])?;
    let mut found = Vec::new();
    while found.len() < most {
        let Some(row) = rows.next()? else { break };
        if is_known(row.get(1)?) && row.get::<_, i64>(2)? == 0 {
            found.push(Ready {
                sequence: row.get(0)?,
                expires: row.get(3)?,
                stop_requested: row.get(4)?,
                is_limited: row.get(5)?,
            });
        }
    }
    Ok(found)
}

/// The functions of ready tasks that are not known to `is_known`.
pub(crate) fn ready_unknown(
    connection: &Connection,
    application: i64,
    is_known: impl Fn(i64) -> bool,
) -> Result<Vec<i64>> {
    let sql = "SELECT DISTINCT function FROM task WHERE application = ?1 AND state = 0 AND pool IN (0, 1, 2)";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([application])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let function = row.get(0)?;
        if !is_known(function) {
            found.push(function);
        }
    }
    Ok(found)
}

/// Claims a ready task. Also tells which process has submitted it.
pub(crate) fn claim(
    connection: &Connection,
    task: i64,
    slot: i64,
    now: i64,
) -> Result<Option<(Claimed, Option<i64>)>> {
    let sql = "UPDATE task SET state = 2, owner = ?2, epoch = epoch + 1, attempt = attempt + 1, \
               began_by = CASE WHEN began_at IS NULL THEN ?4 ELSE began_by END, began_at = coalesce(began_at, ?3), attempt_at = ?3 WHERE sequence = ?1 AND state = 0 \
               RETURNING epoch, attempt, id, (SELECT name FROM function WHERE function.function = task.function), pool, \
               coalesce(arguments, (SELECT arguments FROM body WHERE body.task = task.sequence)), options, submitted_at, began_at, submitter, tick";
    let mut statement = connection.prepare_cached(sql)?;
    let pid = std::process::id();
    let claimed = statement.query_row(params![task, slot, now, pid], |row| {
        let began: i64 = row.get(8)?;
        let claimed = Claimed {
            claim: Claim {
                task,
                epoch: row.get(0)?,
                attempt: row.get(1)?,
            },
            id: row.get(2)?,
            function: row.get::<_, Option<String>>(3)?.unwrap_or_default(),
            pool: Pool::of(row.get(4)?),
            arguments: row.get::<_, Option<String>>(5)?.unwrap_or_default(),
            options: row.get(6)?,
            submitted_at: row.get(7)?,
            began: (began != now).then_some(began),
            tick: row.get(10)?,
            kept: Kept::default(),
        };
        Ok((claimed, row.get(9)?))
    });
    claimed.optional()
}

/// Makes scheduled tasks ready whose time has come; how many.
pub(crate) fn promote(connection: &Connection, application: i64, now: i64) -> Result<usize> {
    let sql = "UPDATE task SET state = 0 WHERE sequence IN (SELECT sequence FROM task \
               WHERE application = ?1 AND state = 1 AND due <= ?2 ORDER BY due LIMIT ?3)";
    connection
        .prepare_cached(sql)?
        .execute(params![application, now, PROMOTED])
}

/// When the next scheduled task is due, or a rate may let one start.
pub(crate) fn next_due(connection: &Connection, application: i64) -> Result<Option<i64>> {
    let sql = "SELECT due FROM task WHERE application = ?1 AND state = 1 ORDER BY due LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    let found: Option<Option<i64>> = statement
        .query_row([application], |row| row.get(0))
        .optional()?;
    let woken = lanes::next_wake(connection, application)?;
    Ok(match (found.flatten(), woken) {
        (Some(due), Some(woken)) => Some(due.min(woken)),
        (due, woken) => due.or(woken),
    })
}

/// A suspect that this process may run: one that no process has reserved, or any if this process is idle.
pub(crate) fn suspect(
    connection: &Connection,
    application: i64,
    slot: i64,
    is_idle: bool,
    may_run: impl Fn(i64, Pool) -> bool,
) -> Result<Option<Ready>> {
    let sql = "SELECT sequence, function, pool, expires, owner, stop_requested, limit_key IS NOT NULL FROM task \
               WHERE application = ?1 AND state = 0 AND deaths > 0 ORDER BY rank";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([application])?;
    while let Some(row) = rows.next()? {
        let owner: Option<i64> = row.get(4)?;
        let is_free = is_idle || owner.is_none_or(|owner| owner == slot);
        if is_free && may_run(row.get(1)?, Pool::of(row.get(2)?)) {
            return Ok(Some(Ready {
                sequence: row.get(0)?,
                expires: row.get(3)?,
                stop_requested: row.get(5)?,
                is_limited: row.get(6)?,
            }));
        }
    }
    Ok(None)
}

pub(crate) fn reserve(connection: &Connection, task: i64, slot: i64) -> Result<()> {
    let sql = "UPDATE task SET owner = ?2 WHERE sequence = ?1 AND state = 0";
    connection
        .prepare_cached(sql)?
        .execute(params![task, slot])?;
    Ok(())
}

pub(crate) fn is_reserved(connection: &Connection, task: i64, slot: i64) -> Result<bool> {
    let sql = "SELECT 1 FROM task WHERE sequence = ?1 AND state = 0 AND owner = ?2";
    connection.prepare_cached(sql)?.exists(params![task, slot])
}

// --- Changes ------------------------------------------------------------------------

pub(crate) fn id(connection: &Connection, task: i64) -> Result<String> {
    let mut statement = connection.prepare_cached("SELECT id FROM task WHERE sequence = ?1")?;
    statement.query_row([task], |row| row.get(0))
}

/// The columns of an end.
pub(crate) struct End<'a> {
    pub state: State,
    pub result: Option<&'a str>,
    pub unkept: Option<&'a str>,
    pub error: Option<&'a str>,
}

impl<'a> From<&'a Outcome> for End<'a> {
    fn from(outcome: &'a Outcome) -> Self {
        let (state, result, unkept, error) = match outcome {
            Outcome::Finished { result, unkept } => {
                (State::Finished, result.as_deref(), unkept.as_deref(), None)
            }
            Outcome::Failed { error } => (State::Failed, None, None, Some(&**error)),
            Outcome::Cancelled => (State::Cancelled, None, None, None),
        };
        Self {
            state,
            result,
            unkept,
            error,
        }
    }
}

/// Ends a task that this process runs by that claim; whether it does.
pub(crate) fn end(
    connection: &Connection,
    task: i64,
    epoch: i64,
    slot: i64,
    end: &End<'_>,
    now: i64,
) -> Result<bool> {
    let sql = "UPDATE task SET state = ?4, owner = NULL, deaths = 0, interrupted = 0, ended_at = ?5, result = ?6, unkept = ?7, \
               error = ?8 WHERE sequence = ?1 AND owner = ?2 AND epoch = ?3 AND state = 2";
    let count = connection.prepare_cached(sql)?.execute(params![
        task,
        slot,
        epoch,
        end.state.code(),
        now,
        end.result,
        end.unkept,
        end.error
    ])?;
    Ok(count > 0)
}

/// Ends a task in whatever state it is.
pub(crate) fn end_any(connection: &Connection, task: i64, end: &End<'_>, now: i64) -> Result<()> {
    let sql = "UPDATE task SET state = ?2, owner = NULL, interrupted = 0, ended_at = ?3, error = ?4 WHERE sequence = ?1";
    connection
        .prepare_cached(sql)?
        .execute(params![task, end.state.code(), now, end.error])?;
    Ok(())
}

/// A change that is no end, of a task that this process runs by that claim: the state it is in
/// then, `None` if it is not this process's.
pub(crate) fn put_back(
    connection: &Connection,
    claim: Claim,
    slot: i64,
    change: &Change,
    now: i64,
) -> Result<Option<State>> {
    // What was asked to stop does not begin again.
    let sql = match change {
        Change::Again { due, .. } => {
            let sql = "UPDATE task SET state = CASE WHEN stop_requested THEN 8 WHEN ?4 IS NULL THEN 0 ELSE 1 END, due = ?4, owner = NULL, \
                       deaths = 0, interrupted = 0, ended_at = CASE WHEN stop_requested THEN ?5 END \
                       WHERE sequence = ?1 AND owner = ?2 AND epoch = ?3 AND state = 2 RETURNING state";
            let mut statement = connection.prepare_cached(sql)?;
            let values = params![claim.task, slot, claim.epoch, due, now];
            return statement.query_row(values, state_of).optional();
        }
        Change::PutBack => {
            "UPDATE task SET state = CASE WHEN stop_requested THEN 8 ELSE 0 END, owner = NULL, interrupted = 0, \
             attempt = attempt - 1, ended_at = CASE WHEN stop_requested THEN ?4 END \
             WHERE sequence = ?1 AND owner = ?2 AND epoch = ?3 AND state = 2 RETURNING state"
        }
        Change::Park { reason } => {
            let sql = "UPDATE task SET state = CASE WHEN stop_requested THEN 8 ELSE 4 END, reason = ?4, parked_at = ?5, owner = NULL, \
                       interrupted = 0, attempt = attempt - 1, ended_at = CASE WHEN stop_requested THEN ?5 END \
                       WHERE sequence = ?1 AND owner = ?2 AND epoch = ?3 AND state = 2 RETURNING state";
            let mut statement = connection.prepare_cached(sql)?;
            let values = params![claim.task, slot, claim.epoch, reason, now];
            return statement.query_row(values, state_of).optional();
        }
        Change::End(_) | Change::Died { .. } => return Ok(None),
    };
    let mut statement = connection.prepare_cached(sql)?;
    let values = params![claim.task, slot, claim.epoch, now];
    statement.query_row(values, state_of).optional()
}

fn state_of(row: &rusqlite::Row<'_>) -> Result<State> {
    Ok(State::of(row.get(0)?))
}

/// What there is of a task before it is cancelled or stopped.
pub(crate) struct Standing {
    pub sequence: i64,
    pub state: State,
    pub owner: Option<i64>,
}

pub(crate) fn standing(connection: &Connection, id: &str) -> Result<Option<Standing>> {
    let sql = "SELECT sequence, state, owner FROM task WHERE id = ?1 AND published < 2";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row([id], |row| {
        Ok(Standing {
            sequence: row.get(0)?,
            state: State::of(row.get(1)?),
            owner: row.get(2)?,
        })
    });
    found.optional()
}

pub(crate) fn ask_to_stop(connection: &Connection, task: i64) -> Result<()> {
    let sql = "UPDATE task SET stop_requested = 1 WHERE sequence = ?1";
    connection.prepare_cached(sql)?.execute([task])?;
    Ok(())
}

/// The tasks that a process runs and is asked to stop.
pub(crate) fn asked_to_stop(connection: &Connection, slot: i64) -> Result<Vec<(i64, String)>> {
    let sql = "SELECT sequence, id FROM task WHERE owner = ?1 AND stop_requested = 1 AND state = 2";
    let mut statement = connection.prepare_cached(sql)?;
    statement
        .query_map([slot], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// How far a task of this process is.
pub(crate) struct Progress {
    pub done: f64,
    pub total: Option<f64>,
    pub note: String,
}

pub(crate) fn set_progress(
    connection: &Connection,
    task: i64,
    epoch: i64,
    slot: i64,
    progress: &Progress,
) -> Result<()> {
    let sql = "UPDATE task SET done = ?4, total = ?5, note = ?6 WHERE sequence = ?1 AND owner = ?2 AND epoch = ?3 AND state = 2";
    connection.prepare_cached(sql)?.execute(params![
        task,
        slot,
        epoch,
        progress.done,
        progress.total,
        progress.note
    ])?;
    Ok(())
}

/// Marks the tasks that a process leaves behind as it ends in order, so that this does not count as a death;
/// how many are durable.
pub(crate) fn interrupt(connection: &Connection, slot: i64) -> Result<usize> {
    let sql = "UPDATE task SET interrupted = 1 WHERE owner = ?1 AND state = 2 AND published = 0";
    connection.prepare_cached(sql)?.execute([slot])
}

/// The plain tasks that a process has published and that have not ended.
pub(crate) fn published_by(connection: &Connection, slot: i64) -> Result<Vec<i64>> {
    let sql = "SELECT sequence FROM task WHERE owner = ?1 AND state = 2 AND published = 1";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([slot], |row| row.get(0))?.collect()
}

/// Lets go of the suspects that a process has reserved.
pub(crate) fn unreserve(connection: &Connection, slot: i64) -> Result<()> {
    let sql = "UPDATE task SET owner = NULL WHERE owner = ?1 AND state = 0";
    connection.prepare_cached(sql)?.execute([slot])?;
    Ok(())
}

// --- Parking ------------------------------------------------------------------------

/// Parks the ready tasks of a function that no process knows; how many.
pub(crate) fn park_unknown(
    connection: &Connection,
    application: i64,
    function: i64,
    reason: &str,
    now: i64,
) -> Result<usize> {
    let sql = "UPDATE task SET state = 4, owner = NULL, reason = ?3, parked_at = ?4 \
               WHERE application = ?1 AND state = 0 AND pool IN (0, 1, 2) AND function = ?2 \
               AND NOT EXISTS (SELECT 1 FROM known WHERE known.function = ?2)";
    connection
        .prepare_cached(sql)?
        .execute(params![application, function, reason, now])
}

/// Makes the parked tasks of a function ready again; how many.
pub(crate) fn revive(connection: &Connection, function: i64) -> Result<usize> {
    let sql = "UPDATE task SET state = 0, reason = NULL, parked_at = NULL WHERE function = ?1 AND state = 4";
    connection.prepare_cached(sql)?.execute([function])
}

/// Some of the parked tasks that are meant, by place and function.
pub(crate) fn misfits(
    connection: &Connection,
    application: i64,
    is_meant: impl Fn(i64, i64) -> bool,
) -> Result<Vec<i64>> {
    let sql = "SELECT sequence, function FROM task WHERE state = 4 AND application = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([application])?;
    let mut found = Vec::new();
    while found.len() < FEW as usize {
        let Some(row) = rows.next()? else { break };
        let task = row.get(0)?;
        if is_meant(task, row.get(1)?) {
            found.push(task);
        }
    }
    Ok(found)
}

/// Makes a parked task ready again; whether it was parked.
pub(crate) fn revive_one(connection: &Connection, task: i64) -> Result<bool> {
    let sql = "UPDATE task SET state = 0, reason = NULL, parked_at = NULL WHERE sequence = ?1 AND state = 4";
    Ok(connection.prepare_cached(sql)?.execute([task])? > 0)
}

pub(crate) fn is_known_to_any(connection: &Connection, function: i64) -> Result<bool> {
    let sql = "SELECT 1 FROM known WHERE function = ?1";
    connection.prepare_cached(sql)?.exists([function])
}

pub(crate) fn function_name(connection: &Connection, function: i64) -> Result<Option<String>> {
    let sql = "SELECT name FROM function WHERE function = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([function], |row| row.get(0)).optional()
}

// --- Waiters ------------------------------------------------------------------------

pub(crate) fn watch(connection: &Connection, task: i64, slot: i64) -> Result<()> {
    let sql = "INSERT INTO waiter (task, slot) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    connection
        .prepare_cached(sql)?
        .execute(params![task, slot])?;
    Ok(())
}

pub(crate) fn unwatch(connection: &Connection, task: i64, slot: i64) -> Result<()> {
    let sql = "DELETE FROM waiter WHERE task = ?1 AND slot = ?2";
    connection
        .prepare_cached(sql)?
        .execute(params![task, slot])?;
    Ok(())
}

/// Marks that a task has ended for all that wait for it; which processes they are. The process that
/// has submitted it waits for it too, and is not noted as such before: mostly it ends it itself.
pub(crate) fn tell_waiters(
    connection: &Connection,
    task: i64,
    me: Option<i64>,
) -> Result<Vec<i64>> {
    let sql = "INSERT INTO waiter (task, slot) SELECT sequence, submitter FROM task JOIN process ON slot = submitter \
               WHERE sequence = ?1 AND submitter IS NOT ?2 ON CONFLICT DO NOTHING";
    connection.prepare_cached(sql)?.execute(params![task, me])?;
    let sql = "UPDATE waiter SET ended = 1 WHERE task = ?1 RETURNING slot";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([task], |row| row.get(0))?.collect()
}

/// The ended tasks that a process waits for.
pub(crate) fn told(connection: &Connection, slot: i64) -> Result<Vec<i64>> {
    let sql = "SELECT task FROM waiter WHERE slot = ?1 AND ended = 1";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([slot], |row| row.get(0))?.collect()
}

// --- Reads --------------------------------------------------------------------------

const COLUMNS: &str = "id, (SELECT name FROM function WHERE function.function = task.function), state, published, attempt, \
     deaths, stop_requested, owner, due, expires, submitted_at, began_at, ended_at, done, total, note, {result}, unkept, error, \
     reason, state = 5 OR state = 0 AND EXISTS (SELECT 1 FROM paused WHERE paused.application = task.application \
     AND paused.function IN (0, task.function)), waiting_for, \
     CASE WHEN state = 3 AND waiting_for > 0 THEN (SELECT coalesce(function.name, '') || ' ' || first.id FROM dependency \
     JOIN task AS first ON first.sequence = predecessor LEFT JOIN function USING (function) \
     WHERE dependency.task = task.sequence AND first.state < 6 ORDER BY place LIMIT 1) END, sequence, application, \
     CASE WHEN state = 2 THEN (SELECT pid FROM process WHERE slot = owner) END, attempt_at, options, {arguments}";
/// Where the place of the row is among them.
pub(crate) const SEQUENCE: usize = 23;
/// What a row has as `published` that is a permit.
pub(crate) const PERMIT: i64 = 2;
/// And what says whether it is a plain task's, or a permit.
pub(crate) const PUBLISHED: usize = 3;
/// And what belongs to its limit and its rate.
const LANE: usize = SEQUENCE + 6;
/// So many characters of arguments are read for a list.
const SHOWN: usize = 4_000;

/// What is read of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// All but the arguments.
    All,
    /// Without the result, which may be long.
    Few,
    /// As `Few`, with the beginning of the arguments.
    Arguments,
}

/// The columns of a row with its limit and its rate.
pub(crate) fn columns(detail: Detail) -> String {
    let result = if detail == Detail::All {
        "result"
    } else {
        "NULL"
    };
    let arguments = match detail {
        Detail::Arguments => format!(
            "substr(coalesce(arguments, (SELECT arguments FROM body WHERE body.task = task.sequence)), 1, {SHOWN})"
        ),
        _ => "NULL".to_owned(),
    };
    let columns = COLUMNS
        .replace("{result}", result)
        .replace("{arguments}", &arguments);
    format!("{columns}, {}", lanes::LANE)
}

pub(crate) fn row_of(row: &rusqlite::Row<'_>, slot: Option<i64>) -> Result<Row> {
    let plain: bool = row.get(3)?;
    let began: Option<i64> = row.get(11)?;
    let stored = State::of(row.get(2)?);
    // A plain task is its owner's from the start, and waits there.
    let waits = plain && began.is_none() && stored == State::Running;
    let is_paused: bool = row.get(20)?;
    let state = match stored {
        _ if waits => State::Ready,
        _ if is_paused => State::Blocked,
        stored => stored,
    };
    let after: Option<String> = row.get(22)?;
    let after = after.and_then(|it| {
        let (name, id) = it.split_once(' ')?;
        Some((name.to_owned(), id.to_owned()))
    });
    let owner: Option<i64> = row.get(7)?;
    let done: Option<f64> = row.get(13)?;
    let total: Option<f64> = row.get(14)?;
    let note: Option<String> = row.get(15)?;
    let waiting_for = row.get(21)?;
    Ok(Row {
        place: row.get(SEQUENCE)?,
        id: row.get(0)?,
        function: row.get::<_, Option<String>>(1)?.unwrap_or_default(),
        state,
        plain,
        attempt: row.get(4)?,
        deaths: row.get(5)?,
        stop_requested: row.get(6)?,
        is_mine: stored == State::Running && owner.is_some() && owner == slot,
        due: row.get(8)?,
        expires: row.get(9)?,
        submitted_at: row.get(10)?,
        began,
        ended: row.get(12)?,
        progress: done.map(|done| (done, total, note.unwrap_or_default())),
        result: row.get(16)?,
        unkept: row.get(17)?,
        error: row.get(18)?,
        reason: row.get(19)?,
        is_paused,
        waiting_for,
        after,
        lane: lanes::lane_of(row, LANE)?,
        is_held: stored == State::Blocked && !is_paused && waiting_for == 0,
        pid: row.get(SEQUENCE + 2)?,
        attempt_began: row.get(SEQUENCE + 3)?,
        options: row.get(SEQUENCE + 4)?,
        arguments: row.get(SEQUENCE + 5)?,
    })
}

/// The row with an id, and its place.
pub(crate) fn find(
    connection: &Connection,
    id: &str,
    slot: Option<i64>,
) -> Result<(Found, Option<i64>)> {
    let sql = format!(
        "SELECT {} FROM task WHERE id = ?1 AND published < 2",
        columns(Detail::All)
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement.query_row([id], |row| Ok((row_of(row, slot)?, row.get(SEQUENCE)?)));
    if let Some((row, sequence)) = found.optional()? {
        return Ok((Found::Row(Box::new(row)), Some(sequence)));
    }
    let mut statement = connection.prepare_cached("SELECT 1 FROM forgotten WHERE id = ?1")?;
    let found = if statement.exists([id])? {
        Found::Gone
    } else {
        Found::Unknown
    };
    Ok((found, None))
}

pub(crate) fn row(connection: &Connection, task: i64, slot: Option<i64>) -> Result<Option<Row>> {
    row_with(connection, task, Detail::All, slot)
}

/// The row at a place, with as much of it as is asked for.
pub(crate) fn row_with(
    connection: &Connection,
    task: i64,
    detail: Detail,
    slot: Option<i64>,
) -> Result<Option<Row>> {
    let sql = format!("SELECT {} FROM task WHERE sequence = ?1", columns(detail));
    let mut statement = connection.prepare_cached(&sql)?;
    statement
        .query_row([task], |row| row_of(row, slot))
        .optional()
}

/// Whether a claim holds.
pub(crate) fn is_claimed(connection: &Connection, claim: Claim, slot: i64) -> Result<bool> {
    let sql = "SELECT 1 FROM task WHERE sequence = ?1 AND owner = ?2 AND epoch = ?3 AND state = 2";
    connection
        .prepare_cached(sql)?
        .exists(params![claim.task, slot, claim.epoch])
}

/// Keeps an id, so that no task gets it.
pub(crate) fn exclude(connection: &Connection, id: &str, at: i64) -> Result<()> {
    let sql = "INSERT INTO forgotten (id, ended_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    connection.prepare_cached(sql)?.execute(params![id, at])?;
    Ok(())
}
