//! The layout of the file, and how it is opened.

use std::fs::{self, File};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};

use crate::api::{Error, ErrorKind};
use crate::file::filesystem::{Place, refused, remedy};
use crate::file::layout::Layout;
use crate::file::vfs;

/// "FLDY": what `file` and SQLite's shell tell a journal by.
const APPLICATION_ID: i64 = 0x464c_4459;
/// The layout that this code makes. What is released is never changed: a migration is added.
pub(crate) static LAYOUT: Layout = Layout {
    first: &FIRST,
    migrations: &[],
};
/// The pages in the log at which SQLite begins a checkpoint.
const CHECKPOINT: u64 = 1000;
/// The log's length then, and room for the last group: each page with its header.
pub(crate) const LONG_LOG: u64 = (CHECKPOINT + 100) * (4096 + 24);

/// Tables and indexes, each as SQLite keeps its text.
///
/// States: 0 ready, 1 scheduled, 2 running, 3 blocked, 4 parked, 6 finished, 7 failed, 8 cancelled,
/// 9 dead; 5 is ready but for its function, which is paused. Times are in microseconds since 1970. A published row is a plain task's: never claimed. Where `published` is 2 it is a permit.
const FIRST: [&str; 44] = [
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID",
    // Never uses a number twice: the files of a slot are named by it.
    "CREATE TABLE process (slot INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER NOT NULL, boot TEXT NOT NULL, code TEXT NOT NULL, layout INTEGER NOT NULL, claims INTEGER NOT NULL, began_at INTEGER NOT NULL) STRICT",
    "CREATE TABLE application (application INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT",
    "CREATE TABLE function (function INTEGER PRIMARY KEY, application INTEGER NOT NULL, name TEXT NOT NULL, UNIQUE (application, name)) STRICT",
    // The functions that a process can run.
    "CREATE TABLE known (function INTEGER NOT NULL, slot INTEGER NOT NULL, PRIMARY KEY (function, slot)) STRICT, WITHOUT ROWID",
    "CREATE TABLE task (sequence INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, state INTEGER NOT NULL, \
     application INTEGER NOT NULL, function INTEGER NOT NULL, pool INTEGER NOT NULL, published INTEGER NOT NULL DEFAULT 0, \
     submitter INTEGER, owner INTEGER, epoch INTEGER NOT NULL DEFAULT 0, attempt INTEGER NOT NULL DEFAULT 0, deaths INTEGER NOT NULL DEFAULT 0, \
     interrupted INTEGER NOT NULL DEFAULT 0, stop_requested INTEGER NOT NULL DEFAULT 0, rank INTEGER NOT NULL, \
     due INTEGER, expires INTEGER, submitted_at INTEGER NOT NULL, began_at INTEGER, began_by INTEGER, attempt_at INTEGER, ended_at INTEGER, \
     parked_at INTEGER, \
     tick INTEGER, unique_key TEXT, once_key TEXT, limit_key TEXT, limit_most INTEGER, rate_count INTEGER, rate_span INTEGER, \
     follows INTEGER, waiting_for INTEGER NOT NULL DEFAULT 0, countdown INTEGER, \
     options TEXT, arguments TEXT, done REAL, total REAL, note TEXT, result TEXT, unkept TEXT, error TEXT, reason TEXT) STRICT",
    // What some indexes have behind their order is for lists, which pass over entries without reading the rows.
    "CREATE INDEX ready ON task (application, pool, rank, sequence, function, due, submitted_at) WHERE state = 0",
    "CREATE INDEX suspect ON task (application, rank) WHERE state = 0 AND deaths > 0",
    "CREATE INDEX scheduled ON task (application, due, sequence, function) WHERE state = 1",
    "CREATE INDEX owned ON task (owner) WHERE owner IS NOT NULL",
    "CREATE INDEX parked ON task (function) WHERE state = 4",
    "CREATE INDEX aside ON task (function) WHERE state = 5",
    "CREATE INDEX asked ON task (owner) WHERE stop_requested = 1 AND state = 2",
    // One for each state, since SQLite takes the bounds of a state for a better way into an index than the state itself.
    "CREATE INDEX limited_ready ON task (limit_key, rank) WHERE limit_key IS NOT NULL AND state = 0",
    "CREATE INDEX limited_running ON task (limit_key) WHERE limit_key IS NOT NULL AND state = 2",
    "CREATE INDEX limited_blocked ON task (limit_key, waiting_for, rank, published) WHERE limit_key IS NOT NULL AND state = 3",
    "CREATE INDEX following ON task (application) WHERE state = 3 AND waiting_for > 0",
    "CREATE UNIQUE INDEX unique_key ON task (unique_key) WHERE unique_key IS NOT NULL AND state < 6",
    "CREATE UNIQUE INDEX once_key ON task (once_key) WHERE once_key IS NOT NULL",
    "CREATE INDEX ended ON task (ended_at, sequence, application, function, state) WHERE state BETWEEN 6 AND 8",
    "CREATE INDEX dead ON task (ended_at) WHERE state = 9",
    "CREATE INDEX failed ON task (application, ended_at, sequence, function, \
     CASE WHEN substr(error, 1, 10) = '{\"type\": \"' THEN substr(error, 11, instr(substr(error, 11, 200) || '\"', '\"') - 1) END) WHERE state IN (7, 9)",
    "CREATE INDEX of_function ON task (function, state) WHERE published < 2",
    // Arguments above a size: a change of their task need not write them again.
    "CREATE TABLE body (task INTEGER PRIMARY KEY, arguments TEXT NOT NULL) STRICT",
    // What a task keeps for its next attempt. Place 0 is the task's own checkpoint, and n that of its n-th loop.
    "CREATE TABLE checkpoint (task INTEGER NOT NULL, place INTEGER NOT NULL, value TEXT NOT NULL, PRIMARY KEY (task, place)) STRICT, WITHOUT ROWID",
    "CREATE TABLE step (task INTEGER NOT NULL, name TEXT NOT NULL, result TEXT NOT NULL, PRIMARY KEY (task, name)) STRICT, WITHOUT ROWID",
    // What a task waits for; kept after a failure of that, which may run again.
    "CREATE TABLE dependency (predecessor INTEGER NOT NULL, task INTEGER NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (predecessor, task, place)) STRICT, WITHOUT ROWID",
    "CREATE INDEX follower ON dependency (task, place)",
    // The processes that want to hear of a task's end, and whether it has come.
    "CREATE TABLE waiter (task INTEGER NOT NULL, slot INTEGER NOT NULL, ended INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (task, slot)) STRICT, WITHOUT ROWID",
    "CREATE INDEX told ON waiter (slot) WHERE ended = 1",
    // The lanes with a rate: how many tasks have started, the largest count and the longest span that was asked
    // for, until when a start counts, and when the first task that waits may start.
    "CREATE TABLE rate (rate INTEGER PRIMARY KEY, limit_key TEXT NOT NULL UNIQUE, application INTEGER NOT NULL, number INTEGER NOT NULL, \
     most INTEGER NOT NULL, span INTEGER NOT NULL, last INTEGER NOT NULL, until INTEGER NOT NULL, wake_at INTEGER) STRICT",
    "CREATE INDEX waking ON rate (application, wake_at) WHERE wake_at IS NOT NULL",
    "CREATE INDEX over ON rate (until)",
    "CREATE TABLE start (rate INTEGER NOT NULL, number INTEGER NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (rate, number)) STRICT, WITHOUT ROWID",
    // Jobs. Up to `tick` all ticks are taken; `owner` is the process of a plain job's run.
    "CREATE TABLE periodic (application INTEGER NOT NULL, job TEXT NOT NULL, name TEXT NOT NULL, tick INTEGER, due INTEGER, ran INTEGER, \
     task TEXT, runs INTEGER NOT NULL, left_out INTEGER NOT NULL, paused INTEGER NOT NULL, owner INTEGER, PRIMARY KEY (application, job)) STRICT, WITHOUT ROWID",
    // The functions whose tasks do not start; 0 is any.
    "CREATE TABLE paused (application INTEGER NOT NULL, function INTEGER NOT NULL, PRIMARY KEY (application, function)) STRICT, WITHOUT ROWID",
    // What processes ask others to do, for a minute. Without `process`: any that has the target.
    "CREATE TABLE command (sequence INTEGER PRIMARY KEY AUTOINCREMENT, application INTEGER NOT NULL, given_at INTEGER NOT NULL, \
     verb TEXT NOT NULL, target TEXT NOT NULL, process INTEGER, sender INTEGER NOT NULL, actor TEXT, taken_at INTEGER, outcome TEXT) STRICT",
    "CREATE INDEX untaken ON command (sequence) WHERE taken_at IS NULL",
    // For pages. What has happened to tasks, beyond what their rows tell.
    "CREATE TABLE event (number INTEGER PRIMARY KEY, task INTEGER NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL, \
     text TEXT, actor TEXT, pid INTEGER NOT NULL) STRICT",
    "CREATE INDEX happened ON event (task)",
    // What all processes did in steps of so many seconds, with percentiles of waits and runs in microseconds.
    "CREATE TABLE sample (application INTEGER NOT NULL, step INTEGER NOT NULL, at INTEGER NOT NULL, done INTEGER NOT NULL, \
     failed INTEGER NOT NULL, queued INTEGER NOT NULL, held INTEGER NOT NULL, running INTEGER NOT NULL, wait BLOB, run BLOB, \
     wait_half INTEGER, wait_most INTEGER, run_half INTEGER, run_most INTEGER, PRIMARY KEY (application, step, at)) STRICT, WITHOUT ROWID",
    "CREATE TABLE figure (application INTEGER NOT NULL, step INTEGER NOT NULL, at INTEGER NOT NULL, name TEXT NOT NULL, \
     done INTEGER NOT NULL, failed INTEGER NOT NULL, cancelled INTEGER NOT NULL, retried INTEGER NOT NULL, dead INTEGER NOT NULL, \
     wait BLOB, run BLOB, PRIMARY KEY (application, step, at, name)) STRICT, WITHOUT ROWID",
    // How processes are, also those that have died.
    "CREATE TABLE worker (slot INTEGER PRIMARY KEY, application INTEGER NOT NULL, pid INTEGER NOT NULL, began_at INTEGER NOT NULL, \
     seen_at INTEGER, about TEXT, threads INTEGER, running INTEGER, idle INTEGER, waiting INTEGER, stuck INTEGER, memory INTEGER, \
     lost_at INTEGER, tasks TEXT) STRICT",
    // The ids of pruned tasks.
    "CREATE TABLE forgotten (place INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, ended_at INTEGER NOT NULL) STRICT",
];

/// The error for what SQLite says.
pub(crate) fn failed(place: &Place, error: &rusqlite::Error) -> Error {
    let file = place.database.display();
    let code = error.sqlite_error_code();
    let kind = match code {
        Some(ErrorCode::DiskFull) => ErrorKind::Full,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::Corrupt,
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => {
            ErrorKind::Permission
        }
        Some(ErrorCode::FileLockingProtocolFailed) => ErrorKind::Locks,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::Busy,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("{file}: {error}{}", remedy(kind)))
}

/// For what a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// To work with it. If there is none, or its maker has not finished it, it is made. With the
    /// turnstile held; the caller migrates it.
    Own,
    /// To work with it as it is.
    Shared,
    /// To look at it, whatever layout it has.
    Look,
}

/// Opens the database with the gate held.
pub(crate) fn open(place: &Place, layout: &Layout, to: Use) -> Result<Connection, Error> {
    let trouble = |kind, what| {
        let text = format!("{}: {what}", place.database.display());
        Error::new(kind, text)
    };
    let may_make = to == Use::Own;
    if may_make {
        place.make_database()?;
    }
    if !vfs::prepare() {
        return Err(trouble(ErrorKind::Locks, "SQLite takes no locks of ours"));
    }
    let failed = |error| failed(place, &error);
    let connection = connect(place).map_err(failed)?;
    if !vfs::persist_log(&connection) {
        return Err(trouble(ErrorKind::Io, "SQLite does not keep the log"));
    }
    if is_new(&connection).map_err(failed)? {
        if !may_make {
            return Err(trouble(ErrorKind::Io, "the journal is not made yet"));
        }
        lay_out(&connection, layout, layout.version()).map_err(failed)?;
    }
    check(place, layout, &connection)?;
    if to == Use::Shared && version(&connection).map_err(failed)? < layout.version() {
        return Err(trouble(
            ErrorKind::Io,
            "the journal is of older code, and not migrated yet",
        ));
    }
    // A copy made by VACUUM is in another mode.
    if mode(&connection, "").map_err(failed)? != "wal"
        && !(may_make && mode(&connection, " = WAL").map_err(failed)? == "wal")
    {
        return Err(trouble(ErrorKind::Io, "the journal cannot have a log"));
    }
    // The log is there from the first look on.
    number(&connection, "SELECT count(*) FROM meta").map_err(failed)?;
    Ok(connection)
}

fn connect(place: &Place) -> rusqlite::Result<Connection> {
    // One thread at a time uses it, by the gate.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&place.database, flags)?;
    // The turnstile is what processes wait at. This is for SQLite's moments of its own, such as
    // recovery after a crash; the gate is held meanwhile, so it is short.
    connection.busy_timeout(Duration::from_millis(50))?;
    connection.set_prepared_statement_cache_capacity(96);
    for (option, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
        // Otherwise SQLite plans a cached statement again for each value that it is run with, to
        // see whether a partial index would do.
        (DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true),
    ] {
        connection.set_db_config(option, on)?;
    }
    // NORMAL: the log is synced before a checkpoint. What is answered for is synced by the flusher.
    connection.execute_batch(&format!(
        "PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0; PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = {CHECKPOINT}",
    ))?;
    Ok(connection)
}

fn number(connection: &Connection, sql: &str) -> rusqlite::Result<i64> {
    connection.query_row(sql, [], |row| row.get(0))
}

fn is_new(connection: &Connection) -> rusqlite::Result<bool> {
    Ok(version(connection)? == 0 && number(connection, "SELECT count(*) FROM sqlite_schema")? == 0)
}

/// Asks for a mode of SQLite's own journal; the mode that it has then.
fn mode(connection: &Connection, wish: &str) -> rusqlite::Result<String> {
    connection.query_row(&format!("PRAGMA journal_mode{wish}"), [], |row| row.get(0))
}

/// Makes a journal of a version in an empty file.
pub(crate) fn open_new(place: &Place, layout: &Layout, version: i64) -> Result<Connection, Error> {
    let failed = |error| failed(place, &error);
    let connection = connect(place).map_err(failed)?;
    lay_out(&connection, layout, version).map_err(failed)?;
    Ok(connection)
}

/// Makes the tables and indexes of a version in an empty file.
fn lay_out(connection: &Connection, layout: &Layout, version: i64) -> rusqlite::Result<()> {
    // Before the first table.
    connection.execute_batch(&format!(
        "PRAGMA auto_vacuum = INCREMENTAL; BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}"
    ))?;
    layout.make(connection, version)?;
    let sql = "INSERT INTO meta (key, value) VALUES ('oldest', ?1)";
    connection.execute(sql, [layout.oldest_at(version)])?;
    connection.execute_batch(&format!("{NEW_IDENTITY} COMMIT"))
}

/// The number of the layout that a file has.
pub(crate) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    number(connection, "PRAGMA user_version")
}

/// Refuses what is no journal, or one that this code must not write to.
fn check(place: &Place, layout: &Layout, connection: &Connection) -> Result<(), Error> {
    let failed = |error| failed(place, &error);
    let file = place.database.display();
    let id = number(connection, "PRAGMA application_id").map_err(failed)?;
    if id != APPLICATION_ID {
        let text = format!("{file}: this file is not a journal; set DELAY_JOURNAL to another path");
        return Err(Error::new(ErrorKind::Corrupt, text));
    }
    check_version(place, layout, connection)?;
    let version = version(connection).map_err(failed)?;
    if !layout.is_known(connection, version).map_err(failed)? {
        let text = format!(
            "{file}: the tables of this journal are not those that this code has made; move it \
             away, or put a backup in its place"
        );
        return Err(Error::new(ErrorKind::Corrupt, text));
    }
    Ok(())
}

const NEW_IDENTITY: &str =
    "INSERT INTO meta (key, value) VALUES ('identity', lower(hex(randomblob(16))));";

/// What tells this journal from all others; a copy has the same. A file that has none gets one, so
/// the turnstile must be held.
pub(crate) fn identity(connection: &Connection) -> rusqlite::Result<String> {
    let read = || {
        let sql = "SELECT value FROM meta WHERE key = 'identity'";
        connection.query_row(sql, [], |row| row.get(0)).optional()
    };
    if let Some(identity) = read()? {
        return Ok(identity);
    }
    // On the disk before a row of another database has it.
    connection.execute_batch(&format!(
        "PRAGMA synchronous = FULL; {NEW_IDENTITY} PRAGMA synchronous = NORMAL"
    ))?;
    read()?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

/// The error for a file whose layout newer code has changed so that this code cannot use it.
pub(crate) fn outdated(place: &Place, layout: &Layout) -> Error {
    let text = format!(
        "{}: newer code has changed the layout of this journal; this code knows version {} and \
         cannot use it any more: deploy the newer code here too",
        place.database.display(),
        layout.version()
    );
    Error::new(ErrorKind::Newer, text)
}

/// Whether this code may use the layout that the file has now.
pub(crate) fn check_version(
    place: &Place,
    layout: &Layout,
    connection: &Connection,
) -> Result<(), Error> {
    let sql = "SELECT value FROM meta WHERE key = 'oldest'";
    let read = || {
        let mut statement = connection.prepare_cached(sql)?;
        statement.query_row([], |row| row.get::<_, i64>(0))
    };
    let oldest = read().map_err(|error| failed(place, &error))?;
    if oldest > layout.version() {
        return Err(outdated(place, layout));
    }
    Ok(())
}

/// Copies the file, as it is at one moment, to a new one.
pub(crate) fn copy(connection: &Connection, target: &Place) -> Result<(), Error> {
    make_new(target)?;
    let to = &target.database;
    let name = to.to_str().ok_or_else(|| {
        let text = format!("{}: the name is no text", to.display());
        Error::new(ErrorKind::Io, text)
    });
    let copied = name.and_then(|name| {
        let copied = connection.execute("VACUUM INTO ?1", [name]);
        copied.map_err(|error| failed(target, &error))
    });
    let copied = copied.and_then(|_| sync(target));
    copied.inspect_err(|_| _ = fs::remove_file(to))
}

/// Makes an empty file for this user only.
pub(crate) fn make_new(target: &Place) -> Result<(), Error> {
    if target.database.exists() {
        let text = format!(
            "{}: this file is there already: name another one",
            target.database.display()
        );
        return Err(Error::new(ErrorKind::Io, text));
    }
    target.make_database()
}

pub(crate) fn sync(target: &Place) -> Result<(), Error> {
    let path = &target.database;
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced
        .and_then(|()| target.sync_names())
        .map_err(|error| refused(path, "cannot be written", &error))
}
