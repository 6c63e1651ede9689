//! What the writer thread knows without asking the file.

use std::collections::{HashMap, HashSet};

use crate::api::Pool;

/// A task that this process runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    pub epoch: i64,
    pub pool: Pool,
    pub is_suspect: bool,
    /// Whether this process wants to hear of its end if another one has it then.
    pub is_watched: bool,
    /// Whether it was told to stop.
    pub is_told: bool,
}

/// Why a task is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// This process has submitted it: no more when it runs here.
    Implied,
    /// Somebody has asked: until it ends, wherever it runs.
    Asked,
}

#[derive(Default)]
pub(crate) struct Memory {
    pub slot: Option<i64>,
    pub application: Option<i64>,
    pub functions: HashMap<String, i64>,
    /// The functions that this process can run.
    pub known: HashSet<i64>,
    pub claims: bool,
    pub running: HashMap<i64, Running>,
    pub watched: HashMap<i64, Watch>,
    pub published: HashMap<String, i64>,
    /// The published tasks that were told to stop.
    pub told_plain: HashSet<i64>,
    /// The suspect that this process will run alone.
    pub reserved: Option<i64>,
    pub next_due: Option<i64>,
    /// How many tasks wait, about; counted anew each second.
    pub waiting: Option<u64>,
}

impl Memory {
    /// After a transaction that was rolled back: what it made is not there.
    pub(crate) fn forget_names(&mut self) {
        self.application = None;
        self.functions.clear();
        self.known.clear();
    }
}
