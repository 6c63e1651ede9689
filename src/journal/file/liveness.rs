//! Which processes live: each locks a file of its own, and the kernel lets go of the lock when the
//! process ends, however it ends. So a death is never assumed, and needs no clock.
//!
//! `flock`, because it belongs to the open file: another thread that reads the folder cannot drop
//! it, as it could a POSIX lock. A forked child closes its copy.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use crate::file::filesystem::Place;

/// Locks the file of a slot. `None` if another process has it: one of a journal that was here
/// before.
pub(crate) fn claim(place: &Place, slot: i64) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(place.alive(slot))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether no process has the file of a slot locked. An error of the kind `NotFound`: there is no
/// file.
pub(crate) fn is_free(place: &Place, slot: i64) -> io::Result<bool> {
    let file = File::open(place.alive(slot))?;
    match file.try_lock_shared() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether the process of a slot is dead.
pub(crate) fn is_dead(place: &Place, slot: i64, pid: i64) -> io::Result<bool> {
    match is_free(place, slot) {
        // The file of a living process was removed by somebody, or the database is a copy that was
        // put back. Only the process's number is left to tell.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(!std::path::Path::new(&format!("/proc/{pid}")).exists())
        }
        other => other,
    }
}

/// Removes the files of a slot; for a process that is dead or has closed its journal.
pub(crate) fn remove(place: &Place, slot: i64) {
    // What is left costs nothing but its name.
    _ = std::fs::remove_file(place.wake(slot));
    _ = std::fs::remove_file(place.tasks(slot));
    _ = std::fs::remove_file(place.alive(slot));
}
