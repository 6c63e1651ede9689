//! The process as a journal sees it: its settings, and what it is told.

use std::path::PathBuf;
use std::time::Duration;

use super::commands::Command;
use super::task::{Claimed, DeadLetter, Row};

/// When a submit answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncLevel {
    /// When the task is on the disk.
    Commit,
    /// When it is committed; it is on the disk within a second.
    Second,
    /// When it is committed; it is on the disk when the system likes.
    Never,
}

/// How a process uses a journal.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The database file. Its folder is made if it is missing.
    pub path: PathBuf,
    /// The namespace of functions and keys: several apps may share a file.
    pub app: String,
    /// When a submit answers.
    pub sync: SyncLevel,
    /// For how long ended tasks are known.
    pub keep: Duration,
    /// How many ended tasks are known at most.
    pub limit: u64,
    /// How many processes a task may take with it before it is a dead letter.
    pub deaths: u32,
    /// How long an operation waits for the writer thread to take it.
    pub timeout: Duration,
    /// How many tasks may wait; 0 is any number.
    pub waiting: u64,
    /// The most bytes of a list of gathered results.
    pub most: usize,
    /// The version of the package, to name processes by.
    pub code: String,
}

/// What the journal needs of its process. Called by the writer thread, with no lock of the journal
/// held: must not block.
pub trait Host: Send + Sync + 'static {
    /// How many tasks each pool could run if no task of the journal did. `None`: claim none for
    /// that pool.
    fn capacity(&self) -> [Option<usize>; 3];
    /// Takes claimed tasks, in order. Each is answered with a change.
    fn run(&self, tasks: Vec<Claimed>);
    /// These watched tasks have ended. Each is reported once.
    fn ended(&self, rows: Vec<Row>);
    /// The task with this id, which runs here, is asked to stop.
    fn stop(&self, id: &str);
    /// Another process asks for this. If the target is here, the host takes the command, does what
    /// it asks, and says what became of it.
    fn command(&self, command: Command);
    /// Another process asks which tasks there are here, since that time. The host answers by
    /// `Journal::show`.
    fn asked(&self, at: i64);
    /// These tasks of the app have become dead letters, by a transaction of this process: no other
    /// one is told.
    fn dead(&self, letters: Vec<DeadLetter>);
    /// A line for the log. May come from any thread that uses the journal.
    fn report(&self, level: log::Level, text: String);
}
