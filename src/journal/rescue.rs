//! Copies of a journal: a backup of a sound one, and what can be read of a damaged one.
//!
//! For commands. Each opens a connection of its own, for as long as it takes, inside the gate.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, Result as Sql, params_from_iter};

use crate::api::{Error, ErrorKind};
use crate::file::filesystem::{self, Place};
use crate::file::layout::Layout;
use crate::file::schema::{self, Use};
use crate::file::{liveness, migrate, vfs};
use crate::group::{chains, poison};
use crate::process::part;
use crate::shared::clock::now;
use crate::shared::gate::gate;

/// The tables of processes, which end with them.
const OF_PROCESSES: [&str; 5] = ["process", "known", "waiter", "command", "worker"];
/// Where this many numbers in a row cannot be read, only those are tried that an index has.
const GAP: i64 = 10_000_000;

/// What `salvage` has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Tasks that are in the new file.
    pub tasks: u64,
    /// Of these, the tasks that have not ended.
    pub unfinished: u64,
    /// Rows that are known to be lost, of all tables.
    pub lost: u64,
    /// Whether more may be lost: parts of the file could not be read at all.
    pub is_partial: bool,
}

/// See `flask_delay_journal::backup`.
pub(crate) fn backup(layout: &Layout, path: &Path, to: &Path) -> Result<(), Error> {
    let place = there(path)?;
    let _inside = gate().enter();
    let connection = schema::open(&place, layout, Use::Look)?;
    let copied = schema::copy(&connection, &Place::new(to));
    close(connection);
    copied
}

/// See `flask_delay_journal::inspect`.
pub(crate) fn inspect(layout: &Layout, path: &Path) -> Vec<(bool, String)> {
    let place = Place::new(path);
    let mut found = filesystem::check(&place);
    if !path.exists() {
        found.push((true, format!("{}: there is no journal yet", path.display())));
        return found;
    }
    let _inside = gate().enter();
    let connection = match schema::open(&place, layout, Use::Look) {
        Ok(connection) => connection,
        Err(error) => {
            found.push((false, error.text));
            return found;
        }
    };
    match faults(&connection) {
        Ok(faults) if faults.is_empty() => {
            found.push((true, format!("{}: the file is sound", path.display())));
        }
        Ok(faults) => found.extend(
            faults
                .into_iter()
                .map(|fault| (false, format!("{}: {fault}", path.display()))),
        ),
        Err(error) => found.push((false, schema::failed(&place, &error).text)),
    }
    close(connection);
    found
}

/// See `flask_delay_journal::salvage`.
pub(crate) fn salvage(layout: &Layout, path: &Path, to: &Path) -> Result<Salvaged, Error> {
    let place = there(path)?;
    for slot in place.slots() {
        if matches!(liveness::is_free(&place, slot), Ok(false)) {
            let text = format!(
                "{}: a process uses this journal: stop the app before",
                path.display()
            );
            return Err(Error::new(ErrorKind::Locks, text));
        }
    }
    let _inside = gate().enter();
    if !vfs::prepare() {
        let text = format!("{}: SQLite takes no locks of ours", path.display());
        return Err(Error::new(ErrorKind::Locks, text));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let old = Connection::open_with_flags(path, flags)
        .and_then(|old| {
            // The first look fails for what is no database.
            old.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
                row.get::<_, i64>(0)
            })?;
            Ok((schema::version(&old)?, old))
        })
        .map_err(|error| schema::failed(&place, &error));
    let (version, old) = old?;
    if version > layout.version() {
        // What it has beyond this code's layout would be lost.
        return Err(schema::outdated(&place, layout));
    }
    let target = Place::new(to);
    schema::make_new(&target)?;
    let failed = |error: rusqlite::Error| schema::failed(&target, &error);
    let new = schema::open_new(&target, layout, version.max(1))?;
    let done = fill(&old, &new).map_err(failed);
    let done = done.and_then(|done| migrate::migrate(&target, layout, &new).map(|()| done));
    let done = done.and_then(|done| match faults(&new).map_err(failed)?.first() {
        None => Ok(done),
        Some(fault) => {
            let text = format!("{}: the copy is not sound: {fault}", to.display());
            Err(Error::new(ErrorKind::Corrupt, text))
        }
    });
    // One file, which can be moved.
    let alone = new.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()));
    part::close(new);
    part::close(old);
    let done = done?;
    alone.map_err(failed)?;
    schema::sync(&target)?;
    Ok(done)
}

fn there(path: &Path) -> Result<Place, Error> {
    if path.exists() {
        return Ok(Place::new(path));
    }
    let text = format!("{}: there is no journal", path.display());
    Err(Error::new(ErrorKind::Io, text))
}

/// Closes a connection to a file that others may use.
fn close(connection: Connection) {
    // Without it the close would only take longer.
    _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    part::close(connection);
}

/// What SQLite finds wrong in a file.
fn faults(connection: &Connection) -> Sql<Vec<String>> {
    let mut statement = connection.prepare("PRAGMA integrity_check(10)")?;
    let lines = statement.query_map([], |row| row.get(0))?;
    let mut found = lines.collect::<Sql<Vec<String>>>()?;
    found.retain(|line| line != "ok");
    Ok(found)
}

/// Copies all tables, and has no process own a task.
fn fill(old: &Connection, new: &Connection) -> Sql<Salvaged> {
    let mut done = Salvaged::default();
    new.execute_batch("BEGIN IMMEDIATE; DELETE FROM meta WHERE key <> 'oldest'")?;
    let mut tables = new.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'table'")?;
    let tables = tables
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Sql<Vec<(String, String)>>>()?;
    for (table, sql) in tables {
        let is_of_sqlite = table.starts_with("sqlite_");
        if !is_of_sqlite && !OF_PROCESSES.contains(&table.as_str()) {
            let has_rowid = !sql.contains("WITHOUT ROWID");
            Copy::new(old, new, &table, has_rowid)?.run(&mut done)?;
        }
    }
    // Their tasks went with their processes.
    new.execute("DELETE FROM task WHERE published = 2", [])?;
    fill_in(new, &mut done)?;
    let died = poison::error("WorkerDied", "the process ended before the task did");
    new.execute(
        "UPDATE task SET state = 7, ended_at = ?1, error = ?2 WHERE state = 2 AND published = 1",
        (now(), died),
    )?;
    new.execute(
        "UPDATE task SET state = 0, interrupted = 0 WHERE state = 2",
        [],
    )?;
    // Nothing of their lanes runs, whose end would have them looked at.
    new.execute(
        "UPDATE task SET state = 0 WHERE state = 3 AND waiting_for = 0",
        [],
    )?;
    new.execute("UPDATE task SET owner = NULL WHERE owner IS NOT NULL", [])?;
    new.execute("UPDATE periodic SET owner = NULL", [])?;
    let why = "a task before this one is lost: the file was damaged";
    chains::fail_lost(new, why, now())?;
    clear(new)?;
    let count = |sql: &str| new.query_row(sql, [], |row| row.get::<_, i64>(0));
    done.tasks = count("SELECT count(*) FROM task")?.cast_unsigned();
    done.unfinished = count("SELECT count(*) FROM task WHERE state < 6")?.cast_unsigned();
    new.execute_batch("COMMIT")?;
    Ok(done)
}

/// Has nothing new come into the place of what is lost. A function or an application gets a name that
/// none has, so that no other gets its number and with it its tasks. A task without arguments fails.
fn fill_in(new: &Connection, done: &mut Salvaged) -> Sql<()> {
    for sql in [
        "INSERT INTO application SELECT application, '(lost ' || application || ')' FROM \
         (SELECT application FROM task UNION SELECT application FROM function UNION SELECT application FROM rate \
         UNION SELECT application FROM periodic UNION SELECT application FROM paused) \
         WHERE application NOT IN (SELECT application FROM application)",
        "INSERT INTO function SELECT function, application, '(lost ' || function || ')' FROM \
         (SELECT function, application FROM task UNION SELECT function, application FROM paused WHERE function <> 0) \
         WHERE function NOT IN (SELECT function FROM function)",
    ] {
        done.lost += new.execute(sql, [])? as u64;
    }
    let error = poison::error(
        "JournalUnavailable",
        "its arguments are lost: the file was damaged",
    );
    // As of a plain task, the journal does not have what another attempt needs.
    let sql = format!(
        "UPDATE task SET published = 1, error = CASE WHEN state < 6 THEN ?1 ELSE error END, \
         ended_at = CASE WHEN state < 6 THEN ?2 ELSE ended_at END, \
         state = CASE WHEN state < 6 THEN 7 ELSE state END \
         WHERE {WITH_BODY} AND sequence NOT IN (SELECT task FROM body)"
    );
    new.execute(&sql, (error, now()))?;
    Ok(())
}

/// The tasks whose arguments are in `body`.
const WITH_BODY: &str = "arguments IS NULL AND published = 0";

/// Removes what belongs to rows that are lost: a new one could get their number.
fn clear(new: &Connection) -> Sql<()> {
    for sql in [
        "DELETE FROM body WHERE task NOT IN (SELECT sequence FROM task)",
        "DELETE FROM checkpoint WHERE task NOT IN (SELECT sequence FROM task)",
        "DELETE FROM step WHERE task NOT IN (SELECT sequence FROM task)",
        "DELETE FROM event WHERE task NOT IN (SELECT sequence FROM task)",
        "DELETE FROM start WHERE rate NOT IN (SELECT rate FROM rate)",
    ] {
        new.execute(sql, [])?;
    }
    Ok(())
}

/// The columns of a table's own index, by which its rows are known.
fn index(table: &str) -> Option<&'static str> {
    match table {
        "task" | "forgotten" => Some("id"),
        "rate" => Some("limit_key"),
        "application" => Some("name"),
        "function" => Some("application, name"),
        _ => None,
    }
}

/// The copying of one table.
struct Copy<'a> {
    old: &'a Connection,
    new: &'a Connection,
    table: &'a str,
    /// What its rows are ordered by.
    key: String,
    columns: Vec<String>,
    has_rowid: bool,
}

impl<'a> Copy<'a> {
    fn new(old: &'a Connection, new: &'a Connection, table: &'a str, has_rowid: bool) -> Sql<Self> {
        let columns = |connection: &Connection| {
            let mut statement = connection.prepare("SELECT name, pk FROM pragma_table_info(?1)")?;
            let found = statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?;
            found.collect::<Sql<Vec<(String, i64)>>>()
        };
        let mut known = columns(new)?;
        // An older layout has fewer. If even that cannot be read, nothing of the table can be.
        let there = columns(old).unwrap_or_default();
        known.retain(|(name, _)| there.iter().any(|(it, _)| it == name));
        let mut keys: Vec<_> = known.iter().filter(|(_, place)| *place > 0).collect();
        keys.sort_by_key(|(_, place)| *place);
        let keys: Vec<_> = keys.iter().map(|(name, _)| name.as_str()).collect();
        Ok(Self {
            old,
            new,
            table,
            key: if has_rowid {
                "rowid".to_owned()
            } else {
                keys.join(", ")
            },
            columns: known.into_iter().map(|(name, _)| name).collect(),
            has_rowid,
        })
    }

    fn run(&self, done: &mut Salvaged) -> Sql<()> {
        if self.columns.is_empty() {
            done.is_partial = true;
            return Ok(());
        }
        let mut read = BTreeSet::new();
        if self.scan(&self.key, "", done, &mut read)? {
            return Ok(());
        }
        let first = read.last().copied().unwrap_or(i64::MIN);
        let mut later = BTreeSet::new();
        self.scan(&self.key, " DESC", done, &mut later)?;
        if let ("application" | "function", Some(by)) = (self.table, index(self.table)) {
            // All of a row is in the index too.
            if self.scan(by, "", done, &mut BTreeSet::new())? {
                return Ok(());
            }
            self.scan(by, " DESC", done, &mut BTreeSet::new())?;
        }
        if !self.has_rowid {
            done.is_partial = true;
            return Ok(());
        }
        let last = later.iter().find(|key| **key > first).copied();
        self.search(first, last, done)
    }

    /// Reads all rows in order, until one cannot be read; whether all can.
    fn scan(
        &self,
        by: &str,
        order: &str,
        done: &mut Salvaged,
        read: &mut BTreeSet<i64>,
    ) -> Sql<bool> {
        let key = if self.has_rowid { "rowid" } else { "0" };
        let by: Vec<_> = by.split(", ").map(|key| format!("{key}{order}")).collect();
        let sql = format!(
            "SELECT {key}, {} FROM {} ORDER BY {}",
            self.columns.join(", "),
            self.table,
            by.join(", ")
        );
        let Ok(mut statement) = self.old.prepare(&sql) else {
            return Ok(false);
        };
        let Ok(mut rows) = statement.query([]) else {
            return Ok(false);
        };
        loop {
            match rows.next() {
                Ok(Some(row)) => {
                    read.insert(row.get(0).unwrap_or_default());
                    self.put(row, done)?;
                }
                Ok(None) => return Ok(true),
                Err(_) => return Ok(false),
            }
        }
    }

    /// Reads the rows between two places one by one.
    fn search(&self, first: i64, last: Option<i64>, done: &mut Salvaged) -> Sql<()> {
        let sql = format!(
            "SELECT rowid, {} FROM {} WHERE rowid = ?1",
            self.columns.join(", "),
            self.table
        );
        let known = self.known(first, last);
        let end = last.or_else(|| known.last().map(|key| key + 1));
        let (Some(end), true) = (end, first > i64::MIN) else {
            // Neither end of the table can be read.
            done.is_partial = true;
            return self.look(&sql, known.iter().copied(), &known, done);
        };
        done.is_partial |= last.is_none();
        if end - first > GAP {
            done.is_partial = true;
            return self.look(&sql, known.iter().copied(), &known, done);
        }
        self.look(&sql, first + 1..end, &known, done)
    }

    fn look(
        &self,
        sql: &str,
        keys: impl Iterator<Item = i64>,
        known: &BTreeSet<i64>,
        done: &mut Salvaged,
    ) -> Sql<()> {
        let Ok(mut statement) = self.old.prepare(sql) else {
            return Ok(());
        };
        for key in keys {
            let Ok(mut rows) = statement.query([key]) else {
                continue;
            };
            match rows.next() {
                Ok(Some(row)) => self.put(row, done)?,
                Ok(None) => done.lost += u64::from(known.contains(&key)),
                Err(_) if known.contains(&key) => done.lost += 1,
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// The places in the gap that an index of the table has, or the tasks that have been copied.
    fn known(&self, first: i64, last: Option<i64>) -> BTreeSet<i64> {
        let mut found = BTreeSet::new();
        let mut read = |order: &str| -> Sql<()> {
            let (connection, sql) = match index(self.table) {
                Some(by) => {
                    let by = by.replace(',', &format!("{order},"));
                    let sql = format!("SELECT rowid FROM {} ORDER BY {by}{order}", self.table);
                    (self.old, sql)
                }
                None if self.table == "body" => {
                    let sql = format!("SELECT sequence FROM task WHERE {WITH_BODY}");
                    (self.new, sql)
                }
                None => return Ok(()),
            };
            let mut statement = connection.prepare(&sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let key = row.get(0)?;
                if key > first && last.is_none_or(|last| key < last) {
                    found.insert(key);
                }
            }
            Ok(())
        };
        // As far as either goes.
        if read("").is_err() {
            _ = read(" DESC");
        }
        found
    }

    /// Puts a row into the new table. One that has no place there is lost.
    fn put(&self, row: &rusqlite::Row<'_>, done: &mut Salvaged) -> Sql<()> {
        let values = (1..=self.columns.len()).map(|column| row.get::<_, Value>(column));
        let Ok(values) = values.collect::<Sql<Vec<_>>>() else {
            done.lost += 1;
            return Ok(());
        };
        let marks = vec!["?"; values.len()].join(", ");
        let sql = format!(
            "INSERT OR IGNORE INTO {} ({}) VALUES ({marks})",
            self.table,
            self.columns.join(", ")
        );
        let mut statement = self.new.prepare_cached(&sql)?;
        match statement.execute(params_from_iter(values)) {
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) =>
            {
                done.lost += 1;
                Ok(())
            }
            other => other.map(drop),
        }
    }
}
