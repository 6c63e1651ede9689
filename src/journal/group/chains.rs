//! Tasks that follow others.
//!
//! A follower is a blocked row, and `dependency` says what it waits for. The transaction that ends a
//! task makes its followers ready, or ends them, too: so no crash comes between the two. A result is
//! copied into the arguments of the follower, so that the row of the task before may be pruned.
//!
//! A task that failed may run again by hand. So a follower that has failed with it keeps its
//! dependencies, and waits for it again then.

use std::collections::{HashSet, VecDeque};

use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::api::chains::{EXCEPTION, How, RESULT};
use crate::api::{Pool, State};
use crate::file::trouble;
use crate::group::poison;
use crate::group::transaction::Group;
use crate::rows::links;
use crate::rows::store::{self, End};

/// The error of a cancelled task.
const CANCELLED: &str =
    r#"{"type": "concurrent.futures._base.CancelledError", "message": "", "arguments": []}"#;

// --- SQL ----------------------------------------------------------------------------

/// How a task has ended.
struct Outcome {
    state: State,
    result: Option<String>,
    unkept: Option<String>,
    error: Option<String>,
}

fn outcome(connection: &Connection, task: i64) -> Result<Option<Outcome>> {
    let sql = "SELECT state, result, unkept, error FROM task WHERE sequence = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row([task], |row| {
        Ok(Outcome {
            state: State::of(row.get(0)?),
            result: row.get(1)?,
            unkept: row.get(2)?,
            error: row.get(3)?,
        })
    });
    found.optional()
}

/// The tasks that wait for one, and how.
fn followers(connection: &Connection, task: i64) -> Result<Vec<(i64, How)>> {
    // In the order in which they were submitted. One may follow it at several places.
    let sql = "SELECT DISTINCT task.sequence, follows FROM dependency JOIN task ON task.sequence = dependency.task \
               WHERE predecessor = ?1 AND state = 3 ORDER BY task.sequence";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([task], |row| {
        let how: Option<i64> = row.get(1)?;
        Ok((row.get(0)?, How::of(how.unwrap_or_default())))
    })?;
    rows.collect()
}

/// Counts a task off that a follower waits for; for how many it waits then.
fn count_off(connection: &Connection, follower: i64) -> Result<i64> {
    let sql = "UPDATE task SET waiting_for = max(waiting_for - 1, 0) \
               WHERE sequence = ?1 RETURNING waiting_for";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([follower], |row| row.get(0))
}

/// Counts a task in again that runs again, for those that gather all ends and have heard of its last
/// one.
fn count_on(connection: &Connection, task: i64) -> Result<()> {
    let sql = "UPDATE task SET waiting_for = waiting_for + 1 \
               WHERE state = 3 AND follows = 3 AND sequence IN (SELECT task FROM dependency WHERE predecessor = ?1)";
    connection.prepare_cached(sql)?.execute([task])?;
    Ok(())
}

/// Forgets what a task waits for.
fn forget_dependencies(connection: &Connection, task: i64) -> Result<()> {
    let sql = "DELETE FROM dependency WHERE task = ?1";
    connection.prepare_cached(sql)?.execute([task])?;
    Ok(())
}

/// Forgets what a pruned task waits for, and what waits for it.
pub(crate) fn remove(connection: &Connection, task: i64) -> Result<()> {
    forget_dependencies(connection, task)?;
    let sql = "DELETE FROM dependency WHERE predecessor = ?1";
    connection.prepare_cached(sql)?.execute([task])?;
    Ok(())
}

/// A condition for rows that a follower still waits with: their results are needed.
pub(crate) const NEEDED: &str = "EXISTS (SELECT 1 FROM dependency JOIN task AS follower ON follower.sequence = dependency.task \
     WHERE dependency.predecessor = task.sequence AND follower.state = 3)";

/// Whether a follower still waits with the result of a task.
pub(crate) fn is_needed(connection: &Connection, task: i64) -> Result<bool> {
    let sql = format!("SELECT 1 FROM task WHERE sequence = ?1 AND {NEEDED}");
    connection.prepare_cached(&sql)?.exists([task])
}

/// How many ended tasks are kept for followers.
pub(crate) fn count_needed(connection: &Connection) -> Result<u64> {
    let sql = "SELECT count(DISTINCT predecessor) FROM task AS follower INDEXED BY following \
               CROSS JOIN dependency ON dependency.task = follower.sequence \
               CROSS JOIN task AS first ON first.sequence = predecessor \
               WHERE follower.state = 3 AND follower.waiting_for > 0 AND first.state BETWEEN 6 AND 8";
    let mut statement = connection.prepare_cached(sql)?;
    let count: i64 = statement.query_row([], |row| row.get(0))?;
    Ok(count.cast_unsigned())
}

/// The task because of which a task has ended without having been ready: its id.
pub(crate) fn hindrance(connection: &Connection, id: &str) -> Result<Option<String>> {
    let sql = "SELECT (SELECT first.id FROM dependency JOIN task AS first ON first.sequence = predecessor \
               WHERE dependency.task = task.sequence ORDER BY first.state NOT IN (7, 9), place LIMIT 1) \
               FROM task WHERE id = ?1 AND (waiting_for > 0 OR follows >= 2)";
    let mut statement = connection.prepare_cached(sql)?;
    let found: Option<Option<String>> = statement.query_row([id], |row| row.get(0)).optional()?;
    Ok(found.map(Option::unwrap_or_default))
}

/// What a follower needs to become ready.
struct Held {
    arguments: String,
    due: Option<i64>,
    countdown: Option<i64>,
    pool: Pool,
}

fn held(connection: &Connection, task: i64) -> Result<Held> {
    let sql = "SELECT coalesce(arguments, (SELECT arguments FROM body WHERE body.task = task.sequence)), due, countdown, pool \
               FROM task WHERE sequence = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([task], |row| {
        Ok(Held {
            arguments: row.get::<_, Option<String>>(0)?.unwrap_or_default(),
            due: row.get(1)?,
            countdown: row.get(2)?,
            pool: Pool::of(row.get(3)?),
        })
    })
}

/// The results of all tasks before a task, as a list of at most so many bytes; or the error of a
/// task that gathers them.
fn results(
    connection: &Connection,
    task: i64,
    has_exceptions: bool,
    most: usize,
) -> Result<std::result::Result<String, String>> {
    let sql = "SELECT result, state, error, unkept, id FROM dependency LEFT JOIN task AS first ON first.sequence = predecessor \
               WHERE dependency.task = ?1 ORDER BY place";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([task])?;
    let mut list = String::from("[");
    while let Some(row) = rows.next()? {
        if list.len() > 1 {
            list.push(',');
        }
        if let Some(result) = row.get_ref(0)?.as_str_or_null()? {
            list.push_str(result);
        } else {
            let error = match row.get::<_, Option<i64>>(1)?.map(State::of) {
                Some(State::Cancelled) => CANCELLED.to_owned(),
                Some(State::Failed | State::Dead) => {
                    row.get::<_, Option<String>>(2)?.unwrap_or_default()
                }
                _ => {
                    let kind = row.get::<_, Option<String>>(3)?;
                    let id = row.get::<_, Option<String>>(4)?;
                    unkept(&kind.unwrap_or_default(), &id.unwrap_or_default())
                }
            };
            if !has_exceptions {
                return Ok(Err(error));
            }
            list.push_str("{\"");
            list.push_str(EXCEPTION);
            list.push_str("\":");
            poison::quote(&mut list, &error);
            list.push('}');
        }
        if list.len() >= most {
            return Ok(Err(too_long(most)));
        }
    }
    list.push(']');
    Ok(Ok(list))
}

fn too_long(most: usize) -> String {
    poison::error(
        "ResultNotKept",
        &format!(
            "the gathered results are longer together than the limit of {most} bytes: gather fewer, \
             have the tasks return ids, or set DELAY_JOURNAL_MAX_BYTES higher"
        ),
    )
}

fn unkept(kind: &str, id: &str) -> String {
    poison::error(
        "ResultNotKept",
        &format!(
            "task {id} has succeeded, but its result, of the type {kind}, cannot be stored, so no \
             durable task can follow: return what JSON can carry"
        ),
    )
}

/// Fails the followers of tasks that are gone without having ended, and those of these; which ones.
/// `why` is what there is to say of it.
pub(crate) fn fail_lost(connection: &Connection, why: &str, now: i64) -> Result<Vec<i64>> {
    let error = poison::error("JournalUnavailable", why);
    let mut lost = Vec::new();
    loop {
        // A follower of a task that has ended without it was to hear of that in the same transaction.
        let sql = "UPDATE task SET state = 7, error = ?1, ended_at = ?2 WHERE state = 3 AND waiting_for > 0 AND waiting_for > \
                   (SELECT count(DISTINCT predecessor) FROM dependency JOIN task AS first ON first.sequence = predecessor \
                   WHERE dependency.task = task.sequence AND first.state < 6) RETURNING sequence";
        let mut statement = connection.prepare(sql)?;
        let found = statement.query_map(params![error, now], |row| row.get(0))?;
        let found = found.collect::<Result<Vec<i64>>>()?;
        if found.is_empty() {
            break;
        }
        lost.extend(found);
    }
    let sql = "DELETE FROM dependency WHERE task NOT IN (SELECT sequence FROM task) \
               OR predecessor NOT IN (SELECT sequence FROM task)";
    connection.execute(sql, [])?;
    Ok(lost)
}

// --- In a group ---------------------------------------------------------------------

impl Group<'_> {
    /// Notes what a new row waits for. What of that has ended already counts at once.
    pub(crate) fn hold(&mut self, task: i64, before: &[i64]) -> trouble::Result<()> {
        for (place, predecessor) in before.iter().enumerate() {
            let sql = "INSERT INTO dependency (predecessor, task, place) VALUES (?1, ?2, ?3)";
            let place = i64::try_from(place).unwrap_or(i64::MAX);
            let values = params![predecessor, task, place];
            self.connection.prepare_cached(sql)?.execute(values)?;
        }
        if self.part.records() {
            links::note(self.connection, task, before, self.now)?;
        }
        let mut told = HashSet::new();
        for &predecessor in before {
            let ended = outcome(self.connection, predecessor)?;
            if ended.is_some_and(|it| it.state.is_end()) && told.insert(predecessor) {
                self.go_on(predecessor, Some(task))?;
            }
        }
        Ok(())
    }

    /// A task has ended: what follows it becomes ready, or ends as well, and what follows that. With
    /// `only`, of its own followers that one alone.
    pub(crate) fn go_on(&mut self, task: i64, only: Option<i64>) -> trouble::Result<()> {
        // A queue: a long chain must not overflow the stack.
        let mut ended = VecDeque::from([(task, only)]);
        while let Some((task, only)) = ended.pop_front() {
            let mut found = followers(self.connection, task)?;
            found.retain(|(follower, _)| only.is_none_or(|only| only == *follower));
            if found.is_empty() {
                continue;
            }
            let Some(outcome) = outcome(self.connection, task)? else {
                continue;
            };
            for (follower, how) in found {
                if self.hear(follower, how, task, &outcome)? {
                    self.notify(follower)?;
                    ended.push_back((follower, None));
                }
            }
        }
        Ok(())
    }

    /// Has a follower hear of an end; whether it has ended by that.
    fn hear(
        &mut self,
        follower: i64,
        how: How,
        task: i64,
        outcome: &Outcome,
    ) -> trouble::Result<bool> {
        let kept = outcome.result.as_deref();
        match (how, outcome.state, kept) {
            (How::End, ..) => {
                self.make_ready(follower, None)?;
                Ok(false)
            }
            (How::Success, State::Finished, Some(result)) => {
                self.make_ready(follower, Some(result))?;
                Ok(false)
            }
            (How::GatherAll, ..) | (How::Gather, State::Finished, Some(_)) => {
                if count_off(self.connection, follower)? > 0 {
                    return Ok(false);
                }
                self.gathered(follower, how == How::GatherAll)?;
                Ok(true)
            }
            (_, State::Finished, None) => {
                let id = store::id(self.connection, task)?;
                let error = unkept(outcome.unkept.as_deref().unwrap_or_default(), &id);
                self.end_follower(follower, State::Failed, Some(&error))
            }
            (_, State::Cancelled, _) => self.end_follower(follower, State::Cancelled, None),
            // It keeps its dependencies, and with them waits again if that runs again.
            _ => self.end_follower(follower, State::Failed, outcome.error.as_deref()),
        }
    }

    fn end_follower(
        &mut self,
        follower: i64,
        state: State,
        error: Option<&str>,
    ) -> trouble::Result<bool> {
        let end = End {
            state,
            result: None,
            unkept: None,
            error,
        };
        store::end_any(self.connection, follower, &end, self.now)?;
        Ok(true)
    }

    /// Ends a task that gathers results, with all of them.
    fn gathered(&mut self, task: i64, has_exceptions: bool) -> trouble::Result<()> {
        let sql = "UPDATE task SET state = ?2, result = ?3, error = ?4, ended_at = ?5 WHERE sequence = ?1";
        let most = self.part.core.settings.most;
        let (state, result, error) = match results(self.connection, task, has_exceptions, most)? {
            Ok(list) => (State::Finished, Some(list), None),
            Err(error) => (State::Failed, None, Some(error)),
        };
        let values = params![task, state.code(), result, error, self.now];
        self.connection.prepare_cached(sql)?.execute(values)?;
        Ok(forget_dependencies(self.connection, task)?)
    }

    /// Makes a follower ready, with the result of the task before if it gets that, or has it wait
    /// for its time.
    fn make_ready(&mut self, task: i64, result: Option<&str>) -> trouble::Result<()> {
        let held = held(self.connection, task)?;
        if let Some(result) = result {
            let arguments = held.arguments.replacen(RESULT, result, 1);
            store::set_arguments(self.connection, task, &arguments)?;
        }
        let after = held.countdown.map(|it| self.now.saturating_add(it));
        let due = held.due.max(after).filter(|due| *due > self.now);
        let state = due.map_or(State::Ready, |_| State::Scheduled);
        let sql = "UPDATE task SET state = ?2, waiting_for = 0, due = ?3 WHERE sequence = ?1";
        let values = params![task, state.code(), due];
        self.connection.prepare_cached(sql)?.execute(values)?;
        forget_dependencies(self.connection, task)?;
        match due {
            Some(_) => self.has_new_due(due),
            None => self.has_new_ready(held.pool),
        }
        Ok(())
    }

    /// Forgets what a task waits for that ends by itself.
    pub(crate) fn leave(&mut self, task: i64) -> trouble::Result<()> {
        let sql = "UPDATE task SET waiting_for = 0 WHERE sequence = ?1 AND waiting_for > 0";
        if self.connection.prepare_cached(sql)?.execute([task])? > 0 {
            forget_dependencies(self.connection, task)?;
        }
        Ok(())
    }

    /// Has the tasks that have failed with a task wait for it again, since it runs again, and so
    /// those that have failed with them.
    pub(crate) fn wait_again(&mut self, task: i64) -> trouble::Result<()> {
        let mut again = VecDeque::from([task]);
        while let Some(task) = again.pop_front() {
            count_on(self.connection, task)?;
            let sql = "SELECT DISTINCT task.sequence FROM dependency JOIN task ON task.sequence = dependency.task \
                       WHERE predecessor = ?1 AND state = 7 AND waiting_for > 0";
            let mut statement = self.connection.prepare_cached(sql)?;
            let found = statement.query_map([task], |row| row.get(0))?;
            for follower in found.collect::<Result<Vec<i64>>>()? {
                if self.waits_again(follower)? {
                    again.push_back(follower);
                }
            }
        }
        Ok(())
    }

    /// Has a task that has failed with one before it wait again, unless another one of those has
    /// failed too, or another task has its key; whether it does.
    fn waits_again(&mut self, task: i64) -> trouble::Result<bool> {
        let sql = "SELECT count(DISTINCT predecessor), count(DISTINCT iif(state < 6, predecessor, NULL)), \
                   count(DISTINCT iif(state = 6 AND result IS NOT NULL, predecessor, NULL)) \
                   FROM dependency LEFT JOIN task AS first ON first.sequence = predecessor WHERE dependency.task = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let (all, open, kept): (i64, i64, i64) =
            statement.query_row([task], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        if open == 0 || open + kept < all {
            return Ok(false);
        }
        let sql = "UPDATE OR IGNORE task SET state = 3, waiting_for = ?2, submitter = NULL, expires = NULL, error = NULL, \
                   ended_at = NULL WHERE sequence = ?1";
        let changed = self.connection.prepare_cached(sql)?.execute([task, open])?;
        if changed > 0 {
            let sql = "UPDATE waiter SET ended = 0 WHERE task = ?1";
            self.connection.prepare_cached(sql)?.execute([task])?;
        }
        Ok(changed > 0)
    }
}
