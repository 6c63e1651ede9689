//! What processes tell each other of tasks that the file does not have, for a page that shows the
//! tasks of all.
//!
//! A question is a byte in the FIFO of each process, and the answer a file beside its lock. Neither
//! goes through the database: a commit is news for every page that is open, so each would ask
//! again. Nothing is written without a question.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use rusqlite::{Connection, Result};

use crate::api::record::Answered;
use crate::file::filesystem::Place;
use crate::file::liveness;
use crate::process::part::Files;

/// The bytes of an answer, at most.
const MOST: u64 = 1 << 20;

/// The other processes that may have tasks of an app: slots and numbers. What a process has told of
/// itself says for which app it is; without that, its answer does.
pub(crate) fn find(
    connection: &Connection,
    place: &Place,
    application: i64,
    own: Option<i64>,
) -> Result<Vec<(i64, i64)>> {
    let sql = "SELECT slot, process.pid FROM process LEFT JOIN worker USING (slot) \
               WHERE coalesce(application, ?1) = ?1 AND (claims OR seen_at IS NOT NULL) ORDER BY slot";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([application], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let is_other = |&(slot, pid): &(i64, i64)| {
        Some(slot) != own && !liveness::is_dead(place, slot, pid).unwrap_or_default()
    };
    rows.filter(|row| row.as_ref().map_or(true, is_other))
        .collect()
}

/// Asks those processes.
pub(crate) fn ask(files: &mut Files, place: &Place, found: &Answered) {
    if let Answered::Others(found) = found {
        for &(slot, _) in found {
            files.peers.ask(place, slot);
        }
    }
}

/// Writes the answer to a question of that time. If it cannot be written, there is none.
pub(crate) fn write(place: &Place, slot: i64, at: i64, text: &str) {
    let path = place.tasks(slot);
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    let made = options.write(true).create(true).truncate(true).mode(0o600);
    let written = made.open(&new).and_then(|mut file| {
        writeln!(file, "{at}")?;
        file.write_all(text.as_bytes())
    });
    // Some file systems write a file to the disk at once if it takes the place of another one.
    _ = fs::remove_file(&path);
    _ = match written {
        Ok(()) => fs::rename(&new, &path),
        Err(_) => fs::remove_file(&new),
    };
}

/// The answer of a process to a question that was asked then, or later.
pub(crate) fn read(place: &Place, slot: i64, since: i64) -> Option<String> {
    let mut text = String::new();
    let file = File::open(place.tasks(slot)).ok()?;
    file.take(MOST).read_to_string(&mut text).ok()?;
    let (at, answer) = text.split_once('\n')?;
    (at.parse::<i64>().ok()? >= since).then(|| answer.to_owned())
}
