//! Plain data: what goes in and comes out, and what threads ask of the writer thread.

pub(crate) mod chains;
pub(crate) mod commands;
pub(crate) mod histogram;
mod host;
pub(crate) mod jobs;
pub(crate) mod lists;
pub(crate) mod operation;
pub(crate) mod permits;
pub(crate) mod record;
pub(crate) mod submission;
mod task;

pub use crate::shared::errors::{Error, ErrorKind};
pub use host::{Host, Settings, SyncLevel};
pub use task::{
    Accepted, Cancelled, Change, Changed, Claim, Claimed, DeadLetter, Found, Held, Kept, Key,
    Limits, NewTask, Outcome, Pool, Retried, Row, State, Stats,
};
