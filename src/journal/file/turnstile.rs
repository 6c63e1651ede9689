//! A lock that processes wait for in turn, before they ask SQLite for its own.
//!
//! SQLite's waiting is sleeping: the process that has just written writes again, and others oversleep. A
//! blocking lock of the kernel is fair. SQLite's lock stays the one that keeps the file safe.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use crate::api::Error;
use crate::file::filesystem::{Place, refused};

/// After this long, a thread that waits says which process keeps it waiting.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Opens the file of the lock.
pub(crate) fn open(place: &Place) -> Result<File, Error> {
    let path = place.turnstile();
    let opened = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path);
    opened.map_err(|error| refused(&path, "cannot be opened", &error))
}

/// Waits for the lock.
pub(crate) fn lock(file: &File) -> io::Result<()> {
    loop {
        match file.lock() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The process that holds the lock, as the kernel tells: to note it in the file would be a write
/// for each commit.
pub(crate) fn holder(path: &Path) -> Option<u32> {
    let inode = std::fs::metadata(path).ok()?.ino().to_string();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // "1: FLOCK  ADVISORY  WRITE 708 08:01:42 0 EOF"; those that wait have "->" before the kind.
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, file, ..] = words[..] else {
            return None;
        };
        (file.rsplit(':').next() == Some(&inode)).then(|| pid.parse().ok())?
    })
}
