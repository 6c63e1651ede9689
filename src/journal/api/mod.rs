//! Plain data: what goes in and comes out, and what threads ask of the writer thread.

pub(crate) mod chains;
pub(crate) mod commands;
pub(crate) mod histogram;
pub(crate) mod jobs;
pub(crate) mod lists;
pub(crate) mod operation;
pub(crate) mod permits;
pub(crate) mod record;
mod task;

pub use crate::shared::errors::{Error, ErrorKind};
pub use task::{
    Accepted, Cancelled, Change, Changed, Claim, Claimed, DeadLetter, Found, Held, Host, Kept, Key,
    Limits, NewTask, Outcome, Pool, Retried, Row, Settings, State, Stats, SyncLevel,
};
