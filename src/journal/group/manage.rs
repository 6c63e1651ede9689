//! What people do with the tasks of a journal: have them run again, remove them.

use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::api::lists::Filter;
use crate::api::operation::{Operation, Said};
use crate::api::{Found, Retried, State};
use crate::file::trouble;
use crate::group::transaction::Group;
use crate::group::{chains, lists, periodic, permits, prune};
use crate::rows::events;
use crate::rows::store::{self, place};

/// So many rows are removed in one transaction.
const CHANGED: usize = 500;

// --- SQL ----------------------------------------------------------------------------

/// The names of an app's functions in the file.
fn names(connection: &Connection, app: &str) -> Result<Vec<String>> {
    let sql = "SELECT function.name FROM function JOIN application USING (application) \
               WHERE application.name = ?1 ORDER BY function.name";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([app], |row| row.get(0))?.collect()
}

/// The paused functions of an app: `None` for all of them.
fn paused_names(connection: &Connection, app: &str) -> Result<Vec<Option<String>>> {
    let sql = "SELECT function.name FROM paused JOIN application USING (application) \
               LEFT JOIN function ON function.function = paused.function \
               WHERE application.name = ?1 ORDER BY function.name";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([app], |row| row.get(0))?.collect()
}

/// Does an operation that only reads.
pub(crate) fn read(
    connection: &Connection,
    app: &str,
    slot: Option<i64>,
    operation: &Operation,
) -> Result<Said> {
    Ok(match operation {
        Operation::Place(id, _) => Said::Place(place(connection, id)?),
        Operation::List(query, _) => Said::Page(lists::page(connection, app, query, slot)?),
        Operation::Lacking(ids, _) => Said::Names(lists::lacking(connection, ids)?),
        Operation::Classes(functions, since, _) => Said::Classes(lists::classes(
            connection,
            app,
            functions.as_deref(),
            *since,
        )?),
        Operation::Names(_) => Said::Names(names(connection, app)?),
        Operation::Paused(_) => Said::Paused(paused_names(connection, app)?),
        Operation::Periodic(ask) => Said::Periodic(periodic::read(connection, app, ask)?),
        Operation::Permit(ask) => Said::Permit(permits::read(connection, slot, ask)?),
        _ => Said::Nothing,
    })
}

// --- In a group ---------------------------------------------------------------------

impl Group<'_> {
    /// Makes a task ready again that has failed.
    pub(crate) fn retry(&mut self, id: &str) -> trouble::Result<Retried> {
        let row = match store::find(self.connection, id, None)?.0 {
            Found::Row(row) => row,
            Found::Gone => return Ok(Retried::Gone),
            Found::Unknown => return Ok(Retried::Unknown),
        };
        if row.plain {
            return Ok(Retried::Plain);
        }
        if !matches!(row.state, State::Failed | State::Dead) {
            return Ok(Retried::Not(row.state));
        }
        if let Some(before) = chains::hindrance(self.connection, id)? {
            return Ok(Retried::Follows(Some(before).filter(|it| !it.is_empty())));
        }
        // It is due now, whenever it was before; and what was too late for it is asked for again.
        let sql = "UPDATE OR IGNORE task SET state = 0, owner = NULL, submitter = NULL, deaths = 0, interrupted = 0, \
                   stop_requested = 0, due = ?2, expires = NULL, ended_at = NULL, done = NULL, total = NULL, note = NULL, \
                   error = NULL, reason = NULL WHERE id = ?1 AND state IN (7, 9)";
        let count = self
            .connection
            .prepare_cached(sql)?
            .execute(params![id, self.now])?;
        if count == 0 {
            let sql = "SELECT twin.id FROM task JOIN task AS twin ON twin.unique_key = task.unique_key \
                       WHERE task.id = ?1 AND twin.unique_key IS NOT NULL AND twin.state < 6";
            let mut statement = self.connection.prepare_cached(sql)?;
            let twin = statement.query_row([id], |row| row.get(0)).optional()?;
            return Ok(Retried::Twin(twin.unwrap_or_default()));
        }
        // Processes that have not heard of that end yet go on waiting.
        let sql =
            "UPDATE waiter SET ended = 0 WHERE task = (SELECT sequence FROM task WHERE id = ?1)";
        self.connection.prepare_cached(sql)?.execute([id])?;
        self.has_ready = true;
        if let Some(task) = place(self.connection, id)? {
            if self.part.records() {
                // The row has room for one end.
                let at = row.ended.unwrap_or(self.now);
                let failed = events::New::of(events::FAILED, None);
                events::add(self.connection, task, at, &failed)?;
                let retried = events::New::of(events::RETRIED, None);
                events::add(self.connection, task, self.now, &retried)?;
            }
            self.wait_again(task)?;
        }
        Ok(Retried::Yes)
    }

    /// Removes ended tasks that are meant, below a place: how many, and where to go on.
    pub(crate) fn forget(
        &mut self,
        filter: &Filter,
        below: i64,
    ) -> trouble::Result<(u64, Option<i64>)> {
        let application = self.application()?;
        let (found, mut next) = lists::rows_below(self.connection, application, below)?;
        let mut old = Vec::new();
        for found in found {
            if !found.state.is_end() || !filter.fits(&found) {
                continue;
            }
            if chains::is_needed(self.connection, found.place)? {
                continue;
            }
            let ended = found.ended.unwrap_or(self.now);
            old.push((found.place, found.id, ended));
            if old.len() == CHANGED {
                next = Some(found.place);
                break;
            }
        }
        prune::forget(self.connection, &old)?;
        Ok((old.len() as u64, next))
    }
}
