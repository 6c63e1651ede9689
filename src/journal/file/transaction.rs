//! Transactions of a connection, and its log.

use rusqlite::{Connection, Result};

pub(crate) fn begin(connection: &Connection) -> Result<()> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    Ok(())
}

pub(crate) fn commit(connection: &Connection) -> Result<()> {
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

/// Ends a transaction that has failed; SQLite may have ended it itself.
pub(crate) fn roll_back(connection: &Connection) {
    if !connection.is_autocommit() {
        _ = connection.execute_batch("ROLLBACK");
    }
}

/// Changes when another connection commits.
pub(crate) fn data_version(connection: &Connection) -> Result<i64> {
    let mut statement = connection.prepare_cached("PRAGMA data_version")?;
    statement.query_row([], |row| row.get(0))
}

/// Checks the file, and copies the whole log into the database and that to the disk; whether that
/// was possible.
pub(crate) fn check_and_copy(connection: &Connection) -> Result<bool> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Ok(false);
    }
    connection.query_row("PRAGMA wal_checkpoint(FULL)", [], |row| {
        let (busy, pages, copied): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(busy == 0 && pages == copied)
    })
}
