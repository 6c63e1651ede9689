//! The lanes of tasks, as other SQL needs them: what a row tells of its lane, and when a lane with a rate
//! is to be looked at.

use rusqlite::{Connection, OptionalExtension, Result, Row, params};

use crate::api::{Held, Limits};

/// The limit and the rate of a task that has not ended: columns for `lane_of`.
pub(crate) const LANE: &str = "CASE WHEN state < 6 THEN limit_key END, limit_most, rate_count, rate_span, \
     CASE WHEN state < 6 AND limit_key IS NOT NULL THEN (SELECT count(*) FROM task AS other \
     WHERE other.limit_key = task.limit_key AND other.state = 2) END, \
     CASE WHEN state = 3 AND waiting_for = 0 THEN (SELECT wake_at FROM rate WHERE rate.limit_key = task.limit_key) END";

pub(crate) fn lane_of(row: &Row<'_>, place: usize) -> Result<Option<Box<Held>>> {
    let Some(key) = row.get::<_, Option<String>>(place)? else {
        return Ok(None);
    };
    let number = |place| -> Result<Option<u64>> {
        let number: Option<i64> = row.get(place)?;
        Ok(number.map(i64::cast_unsigned))
    };
    let rate = number(place + 2)?.zip(number(place + 3)?);
    Ok(Some(Box::new(Held {
        limits: Limits {
            // The name of the application stands before it.
            key: key
                .split_once(SEPARATOR)
                .map_or(key.clone(), |(_, key)| key.to_owned()),
            limit: number(place + 1)?,
            rate,
        },
        running: number(place + 4)?.unwrap_or_default(),
        until: row.get(place + 5)?,
    })))
}

/// Between the application's name and a key; in no name.
pub(crate) const SEPARATOR: char = '\u{1f}';

/// So many starts in any span of so many microseconds.
#[derive(Clone, Copy)]
pub(crate) struct Rate {
    pub count: i64,
    pub span: i64,
}

/// Signed, for a column.
pub(crate) fn column(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Has the starts of a lane counted from now on, as many and as old as this rate needs.
pub(crate) fn see(
    connection: &Connection,
    application: i64,
    key: &str,
    rate: Rate,
    now: i64,
) -> Result<()> {
    let sql = "INSERT INTO rate (limit_key, application, number, most, span, last, until) \
               VALUES (?1, ?2, 0, ?3, ?4, ?5, ?5 + ?4) ON CONFLICT (limit_key) DO UPDATE \
               SET most = max(most, excluded.most), span = max(span, excluded.span) \
               WHERE most < excluded.most OR span < excluded.span";
    connection.prepare_cached(sql)?.execute(params![
        key,
        application,
        rate.count,
        rate.span,
        now
    ])?;
    Ok(())
}

/// Has a lane looked at at that time.
pub(crate) fn wake_at(connection: &Connection, key: &str, at: i64) -> Result<()> {
    let sql = "UPDATE rate SET wake_at = ?2 WHERE limit_key = ?1 AND wake_at IS NOT ?2";
    connection.prepare_cached(sql)?.execute(params![key, at])?;
    Ok(())
}

/// Has a lane looked at in a later transaction, by whichever process.
pub(crate) fn call(connection: &Connection, application: i64, key: &str, now: i64) -> Result<()> {
    let none = Rate { count: 1, span: 0 };
    see(connection, application, key, none, now)?;
    wake_at(connection, key, now)
}

/// When the next lane is to be looked at.
pub(crate) fn next_wake(connection: &Connection, application: i64) -> Result<Option<i64>> {
    let sql = "SELECT wake_at FROM rate WHERE application = ?1 AND wake_at IS NOT NULL ORDER BY wake_at LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    statement
        .query_row([application], |row| row.get(0))
        .optional()
}
