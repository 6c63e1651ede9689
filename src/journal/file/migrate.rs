//! How a file that older code has made gets the layout of this code.
//!
//! A migration that only adds columns with defaults, indexes and tables is done at once. Older code
//! goes on beside it, since it names its columns. Any other one waits until no older process lives,
//! leaves a copy of the file, and raises `oldest`: older code does not use the file any more.
//!
//! A process is safe from that while it has its liveness lock, and a process without one looks at
//! `oldest` in the transaction that gives it a slot. So no other transaction needs to look at it.

use std::fs;
use std::io;
use std::path::PathBuf;

use rusqlite::{Connection, Result as Sql};

use crate::api::{Error, ErrorKind};
use crate::file::filesystem::{Place, refused};
use crate::file::layout::Layout;
use crate::file::{liveness, schema, transaction};

/// Migrates a file of older code, with the turnstile and the gate held.
///
/// # Errors
///
/// `ErrorKind::Older` while processes of older code use a file that they could not go on with.
pub(crate) fn migrate(
    place: &Place,
    layout: &Layout,
    connection: &Connection,
) -> Result<(), Error> {
    let failed = |error| schema::failed(place, &error);
    let version = schema::version(connection).map_err(failed)?;
    if version >= layout.version() {
        return Ok(());
    }
    let has_to_wait = layout.after(version).any(|(_, it)| !it.only_adds);
    if has_to_wait {
        refuse_older(place, layout, connection)?;
        copy(place, connection, version)?;
    }
    transaction::begin(connection).map_err(failed)?;
    let mut done = Ok(());
    if has_to_wait {
        // One that does not wait for the turnstile may have come meanwhile.
        done = refuse_older(place, layout, connection);
    }
    let done = done
        .and_then(|()| change(layout, connection, version).map_err(failed))
        .and_then(|()| transaction::commit(connection).map_err(failed));
    if done.is_err() {
        transaction::roll_back(connection);
    }
    done
}

fn change(layout: &Layout, connection: &Connection, version: i64) -> Sql<()> {
    for (_, migration) in layout.after(version) {
        connection.execute_batch(migration.sql)?;
    }
    connection.execute_batch(&format!("PRAGMA user_version = {}", layout.version()))?;
    let sql = "UPDATE meta SET value = ?1 WHERE key = 'oldest'";
    connection.execute(sql, [layout.oldest()])?;
    Ok(())
}

/// Refuses to go on while a process lives that could not use this layout.
fn refuse_older(place: &Place, layout: &Layout, connection: &Connection) -> Result<(), Error> {
    let older = older(connection, layout.oldest());
    let mut living = Vec::new();
    for (slot, pid) in older.map_err(|error| schema::failed(place, &error))? {
        let is_dead = liveness::is_dead(place, slot, pid)
            .map_err(|error| refused(&place.alive(slot), "cannot be looked at", &error))?;
        if !is_dead {
            living.push(pid.to_string());
        }
    }
    if living.is_empty() {
        return Ok(());
    }
    let text = format!(
        "{}: this code has to change the layout of the journal, and processes of older code still use \
         it: {}; stop them, then start this one again",
        place.database.display(),
        living.join(", ")
    );
    Err(Error::new(ErrorKind::Older, text))
}

/// The slots and numbers of the processes whose code knows layouts before this one only.
fn older(connection: &Connection, layout: i64) -> Sql<Vec<(i64, i64)>> {
    let mut statement = connection.prepare("SELECT slot, pid FROM process WHERE layout < ?1")?;
    let rows = statement.query_map([layout], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// The copy of a file that a migration leaves.
fn copy_of(place: &Place, version: i64) -> PathBuf {
    let mut name = place.database.clone().into_os_string();
    name.push(format!(".v{version}"));
    name.into()
}

/// Copies the file as it is before a migration. One that an earlier attempt has left is replaced.
fn copy(place: &Place, connection: &Connection, version: i64) -> Result<(), Error> {
    let to = copy_of(place, version);
    let mut half = to.clone().into_os_string();
    half.push("-half");
    let half = PathBuf::from(half);
    let failed = |error| refused(&to, "cannot be made", &error);
    match fs::remove_file(&half) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    schema::copy(connection, &Place::new(&half))?;
    fs::rename(&half, &to).map_err(failed)?;
    place.sync_names().map_err(failed)
}

#[cfg(all(test, not(loom)))]
#[path = "../tests/unit/migrations.rs"]
#[allow(clippy::unwrap_used, reason = "a failed test has to panic")]
mod tests;
