//! What is done with a journal's file while no `Journal` is needed: checks, copies.

use std::path::Path;

use crate::api::Error;
use crate::file::filesystem::{self, Place};
use crate::file::schema;
use crate::rescue::{self, Salvaged};

/// The version of SQLite that is linked.
#[must_use]
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

/// What `flask delay check` says of a journal's place: whether each is well, and a text.
#[must_use]
pub fn check(path: &Path) -> Vec<(bool, String)> {
    filesystem::check(&Place::new(path))
}

/// As `check`, with what is wrong in the file.
#[must_use]
pub fn inspect(path: &Path) -> Vec<(bool, String)> {
    rescue::inspect(&schema::LAYOUT, path)
}

/// Copies a journal to a new file, as it is at one moment; processes may use it meanwhile.
///
/// # Errors
///
/// If the journal cannot be read, or the new file is there already or cannot be written.
pub fn backup(path: &Path, to: &Path) -> Result<(), Error> {
    rescue::backup(&schema::LAYOUT, path, to)
}

/// Copies what can be read of a damaged journal to a new file. What ran in it is ready again.
///
/// # Errors
///
/// If a process uses the journal, nothing of it can be read, or the new file is there already or
/// cannot be written.
pub fn salvage(path: &Path, to: &Path) -> Result<Salvaged, Error> {
    rescue::salvage(&schema::LAYOUT, path, to)
}
