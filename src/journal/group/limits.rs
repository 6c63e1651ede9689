//! Limits and rates: which tasks of a lane may start. A lane is all tasks of a `limit_key`.
//!
//! One place decides: the claim, which counts what runs and what has started. A task that may not
//! start is blocked, so that no claim looks at it. Whenever a task of a lane is ready or runs no
//! more, or starts, the lane is looked at in the same transaction, and the first blocked ones are
//! made ready if they may start now. `README.md` argues why no task waits forever.

use rusqlite::{Connection, OptionalExtension, Result, Row, params};

use crate::api::Limits;
use crate::file::trouble;
use crate::group::transaction::{Evidence, Group};
use crate::rows::lanes::{Rate, call, column, see, wake_at};
use crate::rows::store::{self, PERMIT};

/// The states of tasks that are ready, and of those that are blocked.
const READY_NOW: i64 = 0;
const BLOCKED: i64 = 3;
/// So many tasks of a lane are ready at most, but for those that were ready by themselves. Each
/// that starts has the lane looked at again.
const READY: i64 = 64;
/// So many tasks of a lane are set aside, and so many tasks blocked, in one transaction.
const CHANGED: usize = 500;
/// So many lanes with a rate are looked at, and so many forgotten, in one transaction.
const LANES: usize = 500;
/// Lanes are forgotten so long after their last start has ceased to count, in microseconds.
const GRACE: i64 = 1_000_000;

/// What a task of a lane asks for.
pub(crate) struct Terms {
    key: String,
    most: Option<i64>,
    rate: Option<Rate>,
    rank: i64,
}

/// Why a task may not start.
enum Obstacle {
    /// Until another one ends, or is ready no more.
    Others,
    /// Until this time.
    Until(i64),
}

impl Terms {
    fn new(key: &str, limits: &Limits, rank: i64) -> Self {
        Self {
            key: key.to_owned(),
            most: limits.limit.map(column),
            rate: limits.rate.map(|(count, span)| Rate {
                count: column(count).max(1),
                span: column(span),
            }),
            rank,
        }
    }
}

/// The columns of a task from `rank` on, at this place.
const TERMS: &str = "rank, limit_key, limit_most, rate_count, rate_span";

fn terms_of(row: &Row<'_>, place: usize) -> Result<Terms> {
    let count: Option<i64> = row.get(place + 3)?;
    let span: Option<i64> = row.get(place + 4)?;
    Ok(Terms {
        rank: row.get(place)?,
        key: row.get(place + 1)?,
        most: row.get(place + 2)?,
        rate: count.zip(span).map(|(count, span)| Rate { count, span }),
    })
}

// --- Steps of a transaction ---------------------------------------------------------

/// The lane of a task, if it has one.
fn lane(connection: &Connection, task: i64) -> Result<Option<String>> {
    let sql = "SELECT limit_key FROM task WHERE sequence = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row([task], |row| row.get(0)).optional()?;
    Ok(found.flatten())
}

/// How many tasks of a lane run; no more than `most` are counted.
fn running(connection: &Connection, key: &str, most: i64) -> Result<i64> {
    let sql =
        "SELECT count(*) FROM (SELECT 1 FROM task WHERE limit_key = ?1 AND state = 2 LIMIT ?2)";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row(params![key, most], |row| row.get(0))
}

/// How many ready tasks go before a rank, or at it. Those of paused functions do not go.
fn ready(connection: &Connection, key: &str, rank: i64) -> Result<i64> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM task WHERE limit_key = ?1 AND state = 0 \
               AND rank <= ?2 AND NOT EXISTS (SELECT 1 FROM paused \
               WHERE paused.application = task.application AND paused.function = task.function) LIMIT ?3)";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row(params![key, rank, READY], |row| row.get(0))
}

/// The first blocked task of a lane.
struct First {
    task: i64,
    function: i64,
    is_paused: bool,
    /// Whether it is the permit of a plain task, of the process `owner`.
    is_permit: bool,
    owner: Option<i64>,
    terms: Terms,
}

fn first(connection: &Connection, key: &str) -> Result<Option<First>> {
    let sql = format!(
        "SELECT sequence, function, published = 0 AND EXISTS (SELECT 1 FROM paused \
         WHERE paused.application = task.application AND paused.function = task.function), \
         published, owner, {TERMS} FROM task WHERE limit_key = ?1 AND state = 3 \
         AND waiting_for = 0 ORDER BY rank, sequence LIMIT 1"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement.query_row([key], |row| {
        Ok(First {
            task: row.get(0)?,
            function: row.get(1)?,
            is_paused: row.get(2)?,
            is_permit: row.get::<_, i64>(3)? == PERMIT,
            owner: row.get(4)?,
            terms: terms_of(row, 5)?,
        })
    });
    found.optional()
}

fn set_state(connection: &Connection, task: i64, state: i64) -> Result<()> {
    let sql = "UPDATE task SET state = ?2, owner = NULL WHERE sequence = ?1";
    connection
        .prepare_cached(sql)?
        .execute(params![task, state])?;
    Ok(())
}

/// When the rate lets a task start, behind so many others; `None` if it does now.
fn hindrance(
    connection: &Connection,
    key: &str,
    rate: Rate,
    before: i64,
    now: i64,
) -> Result<Option<Obstacle>> {
    let sql = "SELECT rate, number, last FROM rate WHERE limit_key = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row([key], |row| {
        Ok((
            row.get::<_, i64>(0)?,
            row.get::<_, i64>(1)?,
            row.get::<_, i64>(2)?,
        ))
    });
    if before >= rate.count {
        return Ok(Some(Obstacle::Others));
    }
    let Some((lane, number, last)) = found.optional()? else {
        return Ok(None);
    };
    if last > now {
        turn_back(connection, lane, now)?;
    }
    // If this start is still within the span, one more would exceed the rate.
    let sql = "SELECT at FROM start WHERE rate = ?1 AND number = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let start = statement.query_row(params![lane, number + before - rate.count], |row| {
        row.get::<_, i64>(0)
    });
    let over = start.optional()?.map(|at| at.saturating_add(rate.span));
    Ok(over.filter(|over| *over > now).map(Obstacle::Until))
}

/// The system's clock was set back: what has started since then counts as if it had started now.
fn turn_back(connection: &Connection, lane: i64, now: i64) -> Result<()> {
    let sql = "UPDATE start SET at = ?2 WHERE rate = ?1 AND at > ?2";
    connection.prepare_cached(sql)?.execute([lane, now])?;
    let sql = "UPDATE rate SET last = ?2, until = ?2 + span WHERE rate = ?1";
    connection.prepare_cached(sql)?.execute([lane, now])?;
    Ok(())
}

/// Notes the start of a task, if its lane has a rate.
fn note_start(connection: &Connection, key: &str, now: i64) -> Result<()> {
    let sql = "UPDATE rate SET number = number + 1, last = ?2, until = max(until, ?2 + span) WHERE limit_key = ?1 \
               RETURNING rate, number, most";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row(params![key, now], |row| {
        Ok((
            row.get::<_, i64>(0)?,
            row.get::<_, i64>(1)?,
            row.get::<_, i64>(2)?,
        ))
    });
    let Some((lane, number, most)) = found.optional()? else {
        return Ok(());
    };
    let sql = "INSERT INTO start (rate, number, at) VALUES (?1, ?2, ?3)";
    connection
        .prepare_cached(sql)?
        .execute([lane, number - 1, now])?;
    let sql = "DELETE FROM start WHERE rate = ?1 AND number < ?2";
    connection
        .prepare_cached(sql)?
        .execute([lane, number - most])?;
    Ok(())
}

/// The lanes that are to be looked at by now; they are not any more.
fn take_due(connection: &Connection, application: i64, now: i64) -> Result<Vec<String>> {
    let sql = "UPDATE rate SET wake_at = NULL WHERE rate IN (SELECT rate FROM rate WHERE application = ?1 AND wake_at IS NOT NULL \
               AND wake_at <= ?2 ORDER BY wake_at LIMIT ?3) RETURNING limit_key";
    let mut statement = connection.prepare_cached(sql)?;
    let lanes = column(LANES as u64);
    statement
        .query_map([application, now, lanes], |row| row.get(0))?
        .collect()
}

/// Whether there are lanes of which nothing has to be known any more.
pub(crate) fn has_old(connection: &Connection, now: i64) -> Result<bool> {
    let sql = "SELECT 1 FROM rate WHERE until < ?1 AND wake_at IS NULL";
    connection.prepare_cached(sql)?.exists([now - GRACE])
}

/// Forgets some of these lanes.
pub(crate) fn forget(connection: &Connection, now: i64) -> Result<()> {
    let sql = "DELETE FROM rate WHERE rate IN (SELECT rate FROM rate WHERE until < ?1 AND wake_at IS NULL LIMIT ?2) \
               RETURNING rate";
    let mut statement = connection.prepare_cached(sql)?;
    let gone = statement.query_map([now - GRACE, column(LANES as u64)], |row| row.get(0))?;
    for lane in gone.collect::<Result<Vec<i64>>>()? {
        let sql = "DELETE FROM start WHERE rate = ?1";
        connection.prepare_cached(sql)?.execute([lane])?;
    }
    Ok(())
}

/// The lanes of the ready tasks of a function.
fn lanes_of_ready(connection: &Connection, function: i64) -> Result<Vec<String>> {
    let sql = "SELECT DISTINCT limit_key FROM task WHERE limit_key IS NOT NULL AND state = 0 AND function = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([function], |row| row.get(0))?.collect()
}

/// Parks the tasks of a function that lanes have blocked; how many.
pub(crate) fn park_blocked(
    connection: &Connection,
    function: i64,
    reason: &str,
    now: i64,
) -> Result<usize> {
    let sql = "UPDATE task SET state = 4, reason = ?2, parked_at = ?3 WHERE limit_key IS NOT NULL AND state = 3 \
               AND waiting_for = 0 AND published = 0 AND pool IN (0, 1, 2) AND function = ?1";
    connection
        .prepare_cached(sql)?
        .execute(params![function, reason, now])
}

/// The lanes of the parked tasks of a function.
fn lanes_of_parked(connection: &Connection, function: i64) -> Result<Vec<String>> {
    let sql = "SELECT DISTINCT limit_key FROM task WHERE state = 4 AND function = ?1 AND limit_key IS NOT NULL";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([function], |row| row.get(0))?.collect()
}

/// Makes a blocked permit a running one, and tells its process if that is another one.
fn grant(connection: &Connection, task: i64, to: Option<i64>) -> Result<()> {
    let sql = "UPDATE task SET state = 2 WHERE sequence = ?1 AND state = 3";
    connection.prepare_cached(sql)?.execute([task])?;
    if let Some(slot) = to {
        let sql =
            "INSERT INTO waiter (task, slot, ended) VALUES (?1, ?2, 1) ON CONFLICT DO NOTHING";
        connection
            .prepare_cached(sql)?
            .execute(params![task, slot])?;
    }
    Ok(())
}

// --- In a group ---------------------------------------------------------------------

impl Group<'_> {
    /// Whether a new task may start now, or be ready to; otherwise it is to be blocked. `key` is
    /// that of its lane in the file.
    pub(crate) fn enter(&mut self, key: &str, limits: &Limits, rank: i64) -> trouble::Result<bool> {
        let terms = Terms::new(key, limits, rank);
        if let Some(rate) = terms.rate {
            let application = self.application()?;
            see(self.connection, application, key, rate, self.now)?;
        }
        let first = first(self.connection, key)?;
        if first.is_some_and(|first| first.terms.rank <= rank) {
            return Ok(false);
        }
        let obstacle = self.obstacle(&terms, ready(self.connection, key, rank)?)?;
        self.wait_for(key, obstacle.as_ref())?;
        Ok(obstacle.is_none())
    }

    /// Whether a ready task may start: its terms for `has_started` if so. Otherwise it is blocked.
    pub(crate) fn admit(&mut self, task: i64) -> trouble::Result<Option<Terms>> {
        let sql = format!("SELECT {TERMS} FROM task WHERE sequence = ?1");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let terms = statement.query_row([task], |row| terms_of(row, 0))?;
        let first = first(self.connection, &terms.key)?;
        if first.is_some_and(|first| (first.terms.rank, first.task) < (terms.rank, task)) {
            // What goes before it may be able to start by now.
            self.lanes.touched.insert(terms.key);
        } else {
            let obstacle = self.obstacle(&terms, 0)?;
            self.wait_for(&terms.key, obstacle.as_ref())?;
            if obstacle.is_none() {
                return Ok(Some(terms));
            }
        }
        set_state(self.connection, task, BLOCKED)?;
        self.lanes.blocked += 1;
        Ok(None)
    }

    /// Whether more tasks were blocked than one transaction should.
    pub(crate) fn has_blocked_many(&self) -> bool {
        self.lanes.blocked >= CHANGED
    }

    /// A claimed task starts, which was admitted in this transaction.
    pub(crate) fn has_started(&mut self, terms: Terms) -> trouble::Result<()> {
        self.count_start(&terms)?;
        self.lanes.touched.insert(terms.key);
        Ok(())
    }

    /// A new task starts, which may do so.
    pub(crate) fn starts(&mut self, key: &str, limits: &Limits) -> trouble::Result<()> {
        self.count_start(&Terms::new(key, limits, 0))
    }

    fn count_start(&mut self, terms: &Terms) -> trouble::Result<()> {
        if let Some(rate) = terms.rate {
            // The lane may have been forgotten since the task was submitted.
            let application = self.application()?;
            see(self.connection, application, &terms.key, rate, self.now)?;
        }
        Ok(note_start(self.connection, &terms.key, self.now)?)
    }

    /// Why a task may not start behind so many ready ones.
    fn obstacle(&self, terms: &Terms, before: i64) -> trouble::Result<Option<Obstacle>> {
        if before >= READY {
            return Ok(Some(Obstacle::Others));
        }
        if let Some(most) = terms.most
            && running(self.connection, &terms.key, most)? + before >= most
        {
            return Ok(Some(Obstacle::Others));
        }
        match terms.rate {
            Some(rate) => Ok(hindrance(
                self.connection,
                &terms.key,
                rate,
                before,
                self.now,
            )?),
            None => Ok(None),
        }
    }

    fn wait_for(&mut self, key: &str, obstacle: Option<&Obstacle>) -> trouble::Result<()> {
        if let Some(Obstacle::Until(at)) = obstacle {
            wake_at(self.connection, key, *at)?;
            self.schedule(Some(*at));
        }
        Ok(())
    }

    /// A task is ready or runs no more: its lane is to be looked at.
    pub(crate) fn touch(&mut self, task: i64) -> trouble::Result<()> {
        let lane = lane(self.connection, task)?;
        self.lanes.touched.extend(lane);
        Ok(())
    }

    pub(crate) fn touch_lanes(&mut self, lanes: Vec<String>) {
        self.lanes.touched.extend(lanes);
    }

    /// The ready tasks of a function do not go before others any more.
    pub(crate) fn touch_ready(&mut self, function: i64) -> trouble::Result<()> {
        let lanes = lanes_of_ready(self.connection, function)?;
        self.touch_lanes(lanes);
        Ok(())
    }

    /// Tasks of a function were parked.
    pub(crate) fn touch_parked(&mut self, function: i64) -> trouble::Result<()> {
        let lanes = lanes_of_parked(self.connection, function)?;
        self.touch_lanes(lanes);
        Ok(())
    }

    /// The time has come for these lanes.
    pub(crate) fn touch_due(&mut self, application: i64) -> trouble::Result<()> {
        let lanes = take_due(self.connection, application, self.now)?;
        self.touch_lanes(lanes);
        Ok(())
    }

    /// Makes the first blocked tasks ready in all lanes that something has happened to; whether
    /// there are any.
    pub(crate) fn advance(&mut self) -> trouble::Result<bool> {
        let mut count = 0;
        while let Some(key) = self.lanes.touched.pop_first() {
            count += self.advance_lane(&key)?;
        }
        self.has_ready |= count > 0;
        Ok(count > 0)
    }

    fn advance_lane(&mut self, key: &str) -> trouble::Result<usize> {
        let (mut count, mut aside, mut granted) = (0, 0, 0);
        while let Some(first) = first(self.connection, key)? {
            if first.is_paused {
                if aside == CHANGED {
                    self.advance_later(key)?;
                    break;
                }
                aside += 1;
                set_state(self.connection, first.task, store::ASIDE)?;
                continue;
            }
            let before = ready(self.connection, key, first.terms.rank)?;
            let obstacle = self.obstacle(&first.terms, before)?;
            self.wait_for(key, obstacle.as_ref())?;
            if obstacle.is_some() {
                break;
            }
            if first.is_permit {
                // It starts at once: its process has the task.
                self.count_start(&first.terms)?;
                self.grant(first.task, first.owner)?;
                granted += 1;
                if granted == CHANGED {
                    self.advance_later(key)?;
                    break;
                }
                continue;
            }
            set_state(self.connection, first.task, READY_NOW)?;
            self.lanes.has_others |= !self.memory.known.contains(&first.function);
            count += 1;
        }
        Ok(count)
    }

    /// Goes on with a lane in another transaction.
    fn advance_later(&mut self, key: &str) -> trouble::Result<()> {
        let application = self.application()?;
        call(self.connection, application, key, self.now)?;
        self.schedule(Some(self.now));
        Ok(())
    }

    /// Grants the first permit that waits in a lane, which may start now.
    fn grant(&mut self, task: i64, owner: Option<i64>) -> trouble::Result<()> {
        let me = self.effects.slot.or(self.memory.slot);
        let other = owner.filter(|_| owner != me);
        grant(self.connection, task, other)?;
        self.note(|| Evidence::Granted(task));
        match other {
            Some(slot) => _ = self.effects.wake.insert(slot),
            None => self.effects.granted.push(task),
        }
        Ok(())
    }
}
