//! Plain data: what goes in and comes out, and what threads ask of the writer thread.

pub(crate) mod histogram;
pub(crate) mod operation;
mod task;

pub use task::{
    Accepted, Cancelled, Change, Changed, Claim, Claimed, DeadLetter, Error, ErrorKind, Found,
    Held, Host, Kept, Key, Limits, NewTask, Outcome, Pool, Row, Settings, State, Stats, SyncLevel,
};
