//! Why an operation was not accepted.

use std::fmt;

/// What kind of trouble there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The file is on a network file system.
    Network,
    /// Files cannot be made, read or written.
    Permission,
    /// The file system has no locks.
    Locks,
    /// The file was made by newer code.
    Newer,
    /// The file is in use by older code, which could not go on with the layout of this code.
    Older,
    /// The file is damaged, or something else.
    Corrupt,
    /// The disk is full.
    Full,
    /// The writer thread did not take the operation in time.
    Timeout,
    /// The journal is closed.
    Closed,
    /// Reading or writing has failed.
    Io,
    /// Something else has a lock of SQLite's.
    Busy,
    /// A process of another machine uses the file.
    OtherMachine,
    /// The folder cannot be used.
    Folder,
}

/// Why an operation was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The kind of trouble.
    pub kind: ErrorKind,
    /// The file, the cause and the remedy.
    pub text: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}
