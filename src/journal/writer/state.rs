//! What the writer thread works with.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::api::operation::Operation;
use crate::api::record::Sample;
use crate::api::{Error, Row, State, Stats};
use crate::file::trouble::{Result, Trouble};
use crate::group::poison;
use crate::process::chores::Chores;
use crate::process::memory::Memory;
use crate::process::part::{Files, Part};
use crate::rows::kept::Checkpoints;
use crate::shared::answer::Answer;
use crate::shared::clock::now;
use crate::shared::gate::gate;

/// Between attempts to get SQLite's lock while something else has it.
pub(crate) const BUSY: Duration = Duration::from_millis(2);
/// After a failure, before operations without a waiting thread are tried again.
pub(crate) const REST: Duration = Duration::from_secs(1);

#[allow(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub(crate) struct Writer {
    pub(crate) part: Arc<Part>,
    pub(crate) memory: Memory,
    /// Where other processes call.
    pub(crate) fifo: Option<Arc<File>>,
    pub(crate) next_look: Instant,
    pub(crate) seldom_at: Instant,
    /// Since when this process sees tasks of functions that no process knows.
    pub(crate) unknown: HashMap<i64, Instant>,
    /// There may be tasks to claim.
    pub(crate) is_eager: bool,
    pub(crate) chores: Chores,
    /// Ready tasks were left for lack of workers.
    pub(crate) is_hungry: bool,
    /// There are rows to prune or to release, more than go at once.
    pub(crate) is_pruning: bool,
    pub(crate) last_error: Option<Error>,
    /// The file belongs to newer code: this process claims nothing more.
    pub(crate) is_outdated: bool,
    pub(crate) progress_at: Instant,
    /// Those that were taken and are not in the file yet.
    pub(crate) checkpoints: Checkpoints,
    pub(crate) checkpoints_at: Instant,
    /// As `checkpoints`.
    pub(crate) samples: Vec<Sample>,
    /// Another process has called.
    pub(crate) is_called: bool,
    /// Ends that could not be written, to be tried again.
    pub(crate) kept: Vec<Operation>,
    /// Permits that waited in a file which is gone, to be refused.
    pub(crate) lost_permits: Vec<Answer<bool>>,
    /// Nothing but what threads wait for before this time: the last attempt has failed.
    pub(crate) rests_until: Option<Instant>,
    /// The file is damaged: nothing more is done with it.
    pub(crate) broken: Option<Error>,
    /// Since when something else has SQLite's lock.
    pub(crate) busy_since: Option<Instant>,
    /// Since when the flusher cannot write to the disk.
    pub(crate) sick_since: Option<Instant>,
}

impl Writer {
    pub(crate) fn new(part: Arc<Part>) -> Self {
        let now = Instant::now();
        Self {
            part,
            memory: Memory::default(),
            fifo: None,
            next_look: now,
            seldom_at: now,
            unknown: HashMap::new(),
            is_eager: false,
            chores: Chores::default(),
            is_hungry: false,
            is_pruning: false,
            last_error: None,
            is_outdated: false,
            progress_at: now,
            checkpoints: Checkpoints::default(),
            checkpoints_at: now,
            samples: Vec::new(),
            is_called: false,
            kept: Vec::new(),
            lost_permits: Vec::new(),
            rests_until: None,
            broken: None,
            busy_since: None,
            sick_since: None,
        }
    }

    /// Calls `work`, which only reads, with the connection, inside the gate.
    pub(crate) fn with<T>(
        part: &Part,
        mut work: impl FnMut(&Connection, &mut Files) -> Result<T>,
    ) -> Result<T> {
        let began = Instant::now();
        loop {
            let done = {
                let _inside = gate().enter();
                let mut disk = part.disk.lock();
                let done = disk
                    .open(&part.core)
                    .and_then(|(connection, files)| work(connection, files));
                if matches!(&done, Err(trouble @ Trouble::Sql(_)) if !trouble.is_busy()) {
                    // The next one begins afresh.
                    disk.suspend();
                    // Newer code may have changed the tables that it is about.
                    if let Err(newer) = disk.open(&part.core)
                        && newer.is_newer()
                    {
                        return Err(newer);
                    }
                }
                done
            };
            match done {
                Err(trouble) if trouble.is_busy() && began.elapsed() < REST => {
                    std::thread::sleep(BUSY);
                }
                done => return done,
            }
        }
    }

    pub(crate) fn with_bytes(&self, mut stats: Stats) -> Stats {
        let place = &self.part.core.place;
        stats.bytes = [&place.database, &place.log()]
            .into_iter()
            .filter_map(|path| std::fs::metadata(path).ok())
            .map(|found| found.len())
            .sum();
        stats
    }
}

/// What there is to say of a task whose row is gone.
pub(crate) fn lost_row(id: String, message: &str) -> Row {
    Row {
        id,
        function: String::new(),
        state: State::Failed,
        plain: false,
        attempt: 0,
        deaths: 0,
        stop_requested: false,
        is_mine: false,
        due: None,
        expires: None,
        submitted_at: 0,
        began: None,
        ended: Some(now()),
        progress: None,
        result: None,
        unkept: None,
        error: Some(poison::error("JournalUnavailable", message)),
        reason: None,
        is_paused: false,
        lane: None,
        is_held: false,
        after: None,
        waiting_for: 0,
        place: 0,
        pid: None,
        attempt_began: None,
        options: None,
        arguments: None,
    }
}
