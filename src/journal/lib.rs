//! The journal: durable tasks in one SQLite file that the processes of a machine share.
//!
//! Knows nothing of Python: names, arguments and results are text. `README.md` beside this file
//! argues why nothing is lost; start there.
//!
//! Floors, each a folder. A file imports from lower floors only, and no files import each other;
//! `tests/core/test_layers.py` enforces that.
//!
//! 9. `lib`: the names of the crate.
//! 8. `face`, `model`: what a process asks of its `Journal`, a file for each subject; for the loom models.
//! 7. `rescue`: backups, checks of the file, and what can be read of a damaged one.
//! 6. `writer`: the writer thread: turns, the look of each second, what follows from a commit.
//! 5. `group`: one transaction, a file for each subject; `work` applies the operations.
//! 4. `process`: what one process has of a journal and knows; the thread that syncs.
//! 3. `rows`: SQL that the subjects share.
//! 2. `file`: the database and the files beside it: layout, locks, FIFOs; the only `unsafe`.
//! 1. `api`: plain data: what goes in and comes out, and what threads ask of the writer thread.
//! 0. `shared`: errors, the clock, and how threads meet.
#![deny(unsafe_code)]

// The tests within the crate share their support with those outside.
#[cfg(test)]
extern crate self as flask_delay_journal;

mod api;
mod face;
mod file;
mod group;
mod process;
mod rescue;
mod rows;
mod shared;
#[cfg(all(test, not(loom)))]
#[path = "tests/support/mod.rs"]
mod support;
mod writer;

pub use api::chains::{Before, EXCEPTION, Follows, GATHER, How, RESULT};
pub use api::commands::{Command, Order, Reply};
pub use api::histogram::Histogram;
pub use api::jobs::{Job, Run, Tick, Ticked, When};
pub use api::lists::{Bound, Class, Filter, List, Version};
pub use api::permits::{NewPermit, Permit};
pub use api::record::{Event, Figures, Levels, Link, Links, Sample, Step, Vitals, Worker};
pub use api::submission::Submitted;
pub use api::{
    Accepted, Cancelled, Change, Changed, Claim, Claimed, DeadLetter, Error, ErrorKind, Found,
    Held, Host, Kept, Key, Limits, NewTask, Outcome, Pool, Retried, Row, Settings, State, Stats,
    SyncLevel,
};
pub use face::files::{backup, check, inspect, salvage, sqlite_version};
pub use face::journal::Journal;
pub use face::others::Told;
pub use process::part::{after_fork_in_child, after_fork_in_parent, before_fork};
pub use rescue::Salvaged;

#[cfg(loom)]
pub mod model;
