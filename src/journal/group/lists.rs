//! Lists of tasks. Each takes its rows from an index that has them in its order, so that it costs the
//! same however many rows there are: by submission, in the order of the starts, by the ends.
//!
//! Where an index may have to pass over entries, it has all columns that decide on them, and no row is
//! read for those. Rows are read for what is shown.

use std::cmp::Reverse;
use std::collections::HashMap;

use rusqlite::{Connection, Result, ToSql, params};

use crate::api::lists::{Bound, Class, Filter, List, Page, Query, Version};
use crate::api::{Pool, Row, State};
use crate::file::transaction;
use crate::group::pauses;
use crate::rows::store::{self, Detail, PERMIT, known_application};

/// So many rows are looked at in one step, which other operations wait for.
const LOOKED_AT: i64 = 2_000;
/// So many failures are counted by their classes: the last ones.
const COUNTED: i64 = 5_000;
/// So few ended tasks of a function are read and sorted for a list.
const FEW: i64 = 500;
/// The states of a file: newer code adds those below 0, which are no ends.
const STORED: [i64; 19] = [
    -9, -8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
];
/// The class of an error, as the index `failed` has it: the JSON of an error begins with it.
const CLASS: &str = "CASE WHEN substr(error, 1, 10) = '{\"type\": \"' THEN \
     substr(error, 11, instr(substr(error, 11, 200) || '\"', '\"') - 1) END";

// --- SQL ----------------------------------------------------------------------------

/// The next rows of an application that come before `below`, newest first.
pub(crate) fn rows_below(
    connection: &Connection,
    application: i64,
    below: i64,
) -> Result<(Vec<Row>, Option<i64>)> {
    below_in(connection, application, below, LOOKED_AT, None)
}

fn below_in(
    connection: &Connection,
    application: i64,
    below: i64,
    most: i64,
    slot: Option<i64>,
) -> Result<(Vec<Row>, Option<i64>)> {
    let columns = store::columns(Detail::All);
    let sql =
        format!("SELECT {columns} FROM task WHERE sequence < ?1 ORDER BY sequence DESC LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![below, most])?;
    let (mut found, mut last, mut count) = (Vec::new(), below, 0);
    while let Some(row) = rows.next()? {
        last = row.get(store::SEQUENCE)?;
        count += 1;
        let is_permit = row.get::<_, i64>(store::PUBLISHED)? == PERMIT;
        if !is_permit && row.get::<_, i64>(store::SEQUENCE + 1)? == application {
            found.push(store::row_of(row, slot)?);
        }
    }
    Ok((found, (count == most).then_some(last)))
}

/// Numbers for `IN`; 0 is no function.
fn list(numbers: &[i64]) -> String {
    if numbers.is_empty() {
        // SQLite would not use the index.
        return "(0)".to_owned();
    }
    let texts: Vec<_> = numbers.iter().map(i64::to_string).collect();
    format!("({})", texts.join(", "))
}

/// The functions of an application with one of these names, or all of them.
fn functions(
    connection: &Connection,
    application: i64,
    names: Option<&[String]>,
) -> Result<Vec<i64>> {
    let Some(names) = names else {
        let sql = "SELECT function FROM function WHERE application = ?1";
        let mut statement = connection.prepare_cached(sql)?;
        return statement
            .query_map([application], |row| row.get(0))?
            .collect();
    };
    let mut found = Vec::new();
    for name in names {
        let sql = "SELECT function FROM function WHERE application = ?1 AND name = ?2";
        let mut statement = connection.prepare_cached(sql)?;
        let rows = statement.query_map(params![application, name], |row| row.get(0))?;
        found.extend(rows.collect::<Result<Vec<i64>>>()?);
    }
    Ok(found)
}

/// The first values of a query, which are places.
fn places(connection: &Connection, sql: &str, values: &[&dyn ToSql]) -> Result<Vec<i64>> {
    // With numbers in it, it would only take the place of another one in the cache.
    let mut statement = connection.prepare(sql)?;
    statement.query_map(values, |row| row.get(0))?.collect()
}

/// The places of tasks of some functions in some of the stored states below a place, newest first.
fn newest(
    connection: &Connection,
    (functions, states): (&[i64], &[i64]),
    below: i64,
    most: i64,
) -> Result<Vec<i64>> {
    // SQLite leaves each pair of them as soon as the rest of that is too old.
    let sql = format!(
        "SELECT sequence FROM task INDEXED BY of_function WHERE function IN {} AND state IN {} \
         AND published < 2 AND sequence < ?1 ORDER BY sequence DESC LIMIT ?2",
        list(functions),
        list(states)
    );
    places(connection, &sql, params![below, most])
}

/// As `newest`, but the oldest.
fn oldest(
    connection: &Connection,
    (functions, states): (&[i64], &[i64]),
    most: i64,
) -> Result<Vec<i64>> {
    let sql = format!(
        "SELECT sequence FROM task INDEXED BY of_function WHERE function IN {} AND state IN {} \
         AND published < 2 ORDER BY sequence LIMIT ?1",
        list(functions),
        list(states)
    );
    places(connection, &sql, params![most])
}

/// Which functions are paused, and which are not.
fn by_pause(
    connection: &Connection,
    application: i64,
    functions: Vec<i64>,
) -> Result<(Vec<i64>, Vec<i64>)> {
    let paused = pauses::paused(connection, application)?;
    let is_all = pauses::is_all(&paused);
    Ok(functions
        .into_iter()
        .partition(|function| is_all || paused.contains(function)))
}

/// The stored states in which a task of a state may be, of a function that is paused or not.
fn stored(state: State, is_paused: bool) -> Vec<i64> {
    match state {
        // A plain task that waits in its process is stored as one that runs.
        State::Ready if is_paused => vec![State::Running.code()],
        State::Ready => vec![state.code(), State::Running.code()],
        State::Blocked => {
            let ready = is_paused.then(|| State::Ready.code());
            let others = STORED.into_iter().filter(|it| *it < 0);
            let own = [state.code(), store::ASIDE];
            others.chain(own).chain(ready).collect()
        }
        state => vec![state.code()],
    }
}

/// The next rows below a place that may be meant, newest first, and where to go on.
fn candidates(
    connection: &Connection,
    application: i64,
    filter: &Filter,
    below: i64,
    most: usize,
    slot: Option<i64>,
) -> Result<(Vec<Row>, Option<i64>)> {
    let most = i64::try_from(most).unwrap_or(LOOKED_AT).clamp(1, LOOKED_AT);
    if filter.states.is_empty() && filter.functions.is_none() {
        return below_in(connection, application, below, most, slot);
    }
    let meant = functions(connection, application, filter.functions.as_deref())?;
    let mut found = Vec::new();
    if filter.states.is_empty() {
        found = newest(connection, (&meant, &STORED), below, most)?;
    } else {
        let (paused, others) = by_pause(connection, application, meant)?;
        for (functions, is_paused) in [(paused, true), (others, false)] {
            let mut states: Vec<i64> = (filter.states.iter())
                .flat_map(|state| stored(*state, is_paused))
                .collect();
            states.sort_unstable();
            states.dedup();
            if !functions.is_empty() {
                found.extend(newest(connection, (&functions, &states), below, most)?);
            }
        }
    }
    found.sort_unstable_by_key(|place| Reverse(*place));
    let most = usize::try_from(most).unwrap_or_default();
    found.truncate(most);
    let next = found.last().copied().filter(|_| found.len() == most);
    Ok((read(connection, &found, Detail::All, slot)?, next))
}

/// The rows at these places.
fn read(
    connection: &Connection,
    places: &[i64],
    detail: Detail,
    slot: Option<i64>,
) -> Result<Vec<Row>> {
    let rows = places
        .iter()
        .map(|place| store::row_with(connection, *place, detail, slot));
    rows.filter_map(Result::transpose).collect()
}

/// What is asked for, or a part of it.
pub(crate) fn page(
    connection: &Connection,
    app: &str,
    query: &Query,
    slot: Option<i64>,
) -> Result<Page> {
    let Some(application) = known_application(connection, app)? else {
        return Ok(Page::default());
    };
    match query {
        Query::Newest(filter, below, most) => {
            let (rows, next) = candidates(connection, application, filter, *below, *most, slot)?;
            let rows = rows.into_iter().filter(|row| filter.fits(row));
            let rows = rows.take(*most).collect();
            Ok(Page { rows, next })
        }
        Query::List(list, names, most, arguments) => {
            let most = i64::try_from(*most).unwrap_or(LOOKED_AT).min(LOOKED_AT);
            let found = listed(connection, application, list, names.as_deref(), most)?;
            let detail = if *arguments {
                Detail::Arguments
            } else {
                Detail::Few
            };
            let mut rows = read(connection, &found, detail, slot)?;
            if *list == List::Held {
                rows.sort_by_key(|row| (may_start(row).unwrap_or(i64::MAX), row.place));
                rows.truncate(usize::try_from(most).unwrap_or_default());
            }
            Ok(Page { rows, next: None })
        }
    }
}

/// When a task that is held may start, if that is known.
fn may_start(row: &Row) -> Option<i64> {
    match row.state {
        State::Scheduled => row.due,
        _ => row.held().and_then(|held| held.until),
    }
}

/// The places of a list's tasks; of what is held more than are asked for.
fn listed(
    connection: &Connection,
    application: i64,
    list: &List,
    names: Option<&[String]>,
    most: i64,
) -> Result<Vec<i64>> {
    let meant = functions(connection, application, names)?;
    match list {
        List::Ready => ready(connection, application, meant, most),
        List::Held => {
            let sql = format!(
                "SELECT sequence FROM task INDEXED BY scheduled WHERE application = ?1 AND state = 1 \
                 AND function IN {} ORDER BY due, sequence LIMIT ?2",
                self::list(&meant)
            );
            let mut found = places(connection, &sql, params![application, most])?;
            let (paused, others) = by_pause(connection, application, meant)?;
            for (functions, is_paused) in [(paused, true), (others, false)] {
                let mut states = stored(State::Blocked, is_paused);
                states.push(State::Parked.code());
                if !functions.is_empty() {
                    found.extend(oldest(connection, (&functions, &states), most)?);
                }
            }
            Ok(found)
        }
        List::Running => {
            let sql = format!(
                "SELECT sequence FROM task INDEXED BY owned WHERE owner IS NOT NULL AND state = 2 \
                 AND (published = 0 OR published = 1 AND began_at IS NOT NULL) \
                 AND function IN {} ORDER BY began_at, sequence LIMIT ?1",
                self::list(&meant)
            );
            places(connection, &sql, params![most])
        }
        List::Ended(before) => {
            let before = before.unwrap_or(LAST);
            if names.is_some()
                && let Some(found) = few_ended(connection, &meant, before, most)?
            {
                return Ok(found);
            }
            let sql = format!(
                "SELECT sequence FROM task INDEXED BY ended WHERE state BETWEEN 6 AND 8 AND application = ?1 \
                 AND state <> 7 AND (ended_at, sequence) < (?2, ?3) AND {} \
                 ORDER BY ended_at DESC, sequence DESC LIMIT ?4",
                these(names, &meant)
            );
            let values = params![application, before.ended, before.place, most];
            places(connection, &sql, values)
        }
        List::Failed(before, classes) => {
            let before = before.unwrap_or(LAST);
            let sql = format!(
                "SELECT sequence FROM task INDEXED BY failed WHERE application = ?1 AND state IN (7, 9) \
                 AND (ended_at, sequence) < (?2, ?3) AND {} \
                 AND (?4 IS NULL OR {CLASS} IN (?4, ?5, ?6, ?7)) ORDER BY ended_at DESC, sequence DESC LIMIT ?8",
                these(names, &meant)
            );
            let class = |number: usize| {
                classes
                    .as_ref()
                    .and_then(|it| it.get(number).or(it.first()))
            };
            places(
                connection,
                &sql,
                params![
                    application,
                    before.ended,
                    before.place,
                    class(0),
                    class(1),
                    class(2),
                    class(3),
                    most
                ],
            )
        }
    }
}

/// As `List::Ended`, of functions of which few tasks have ended: the index by ends might have to pass
/// over all others. `None` if they are many.
fn few_ended(
    connection: &Connection,
    functions: &[i64],
    before: Bound,
    most: i64,
) -> Result<Option<Vec<i64>>> {
    let sql = format!(
        "SELECT sequence FROM task INDEXED BY of_function WHERE function IN {} AND state IN (6, 8) \
         AND published < 2 LIMIT ?1",
        list(functions)
    );
    let found = places(connection, &sql, params![FEW])?;
    if i64::try_from(found.len()) == Ok(FEW) {
        return Ok(None);
    }
    let sql = format!(
        "SELECT sequence FROM task WHERE sequence IN {} AND (ended_at, sequence) < (?1, ?2) \
         ORDER BY ended_at DESC, sequence DESC LIMIT ?3",
        list(&found)
    );
    places(connection, &sql, params![before.ended, before.place, most]).map(Some)
}

/// The condition for tasks of some functions, or of any.
fn these(names: Option<&[String]>, meant: &[i64]) -> String {
    names.map_or("1".to_owned(), |_| format!("function IN {}", list(meant)))
}

/// Before all ends.
const LAST: Bound = Bound {
    ended: i64::MAX,
    place: i64::MAX,
};

/// The places of what waits for a worker, in the order of the starts.
fn ready(
    connection: &Connection,
    application: i64,
    meant: Vec<i64>,
    most: i64,
) -> Result<Vec<i64>> {
    let (_, meant) = by_pause(connection, application, meant)?;
    let meant = list(&meant);
    let sql = format!(
        "SELECT sequence, rank FROM task INDEXED BY ready WHERE application = ?1 AND pool = ?2 AND state = 0 \
         AND function IN {meant} ORDER BY rank, sequence LIMIT ?3"
    );
    let mut statement = connection.prepare(&sql)?;
    let mut found: Vec<(i64, i64)> = Vec::new();
    for pool in Pool::ALL {
        let rows = statement.query_map(params![application, pool.code(), most], ranked)?;
        found.extend(rows.collect::<Result<Vec<_>>>()?);
    }
    // Plain tasks wait in their processes.
    let sql = format!(
        "SELECT sequence, rank FROM task INDEXED BY owned WHERE owner IS NOT NULL AND state = 2 \
         AND published = 1 AND began_at IS NULL AND function IN {meant} ORDER BY rank, sequence LIMIT ?1"
    );
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map(params![most], ranked)?;
    found.extend(rows.collect::<Result<Vec<_>>>()?);
    found.sort_unstable();
    let places = found.into_iter().map(|(_, place)| place);
    Ok(places
        .take(usize::try_from(most).unwrap_or_default())
        .collect())
}

fn ranked(row: &rusqlite::Row<'_>) -> Result<(i64, i64)> {
    Ok((row.get(1)?, row.get(0)?))
}

/// The last failures of some functions, or of all, that ended at `since` or after, by their classes: the
/// most frequent class first.
pub(crate) fn classes(
    connection: &Connection,
    app: &str,
    names: Option<&[String]>,
    since: i64,
) -> Result<Vec<Class>> {
    let Some(application) = known_application(connection, app)? else {
        return Ok(Vec::new());
    };
    let meant = functions(connection, application, names)?;
    let sql = format!(
        "SELECT {CLASS}, ended_at FROM task INDEXED BY failed \
         WHERE application = ?1 AND state IN (7, 9) AND ended_at >= ?2 AND {} ORDER BY ended_at DESC LIMIT ?3",
        these(names, &meant)
    );
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query(params![application, since, COUNTED])?;
    // SQLite would sort them all by their names.
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut found: Vec<Class> = Vec::new();
    while let Some(row) = rows.next()? {
        let name = row.get_ref(0)?.as_str_or_null()?;
        let name = name.filter(|it| !it.is_empty());
        let key = name.unwrap_or_default();
        if let Some(place) = places.get(key) {
            found[*place].count += 1;
        } else {
            places.insert(key.to_owned(), found.len());
            found.push(Class {
                name: name.map(str::to_owned),
                count: 1,
                last: row.get(1)?,
            });
        }
    }
    found.sort_by(|one, other| (other.count, &one.name).cmp(&(one.count, &other.name)));
    Ok(found)
}

/// Those of the ids that no task has or has had.
pub(crate) fn lacking(connection: &Connection, ids: &[String]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for id in ids {
        if !store::is_taken(connection, id)? {
            found.push(id.clone());
        }
    }
    Ok(found)
}

/// The version of a file that was opened so often.
pub(crate) fn version(connection: &Connection, opened: u64) -> Result<Version> {
    Ok(Version {
        opened,
        others: transaction::data_version(connection)?,
        own: connection.total_changes(),
    })
}
