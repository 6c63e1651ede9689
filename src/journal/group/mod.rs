//! One transaction of the writer thread: a file for each subject, and `work`, which applies operations.

pub(crate) mod chains;
pub(crate) mod commands;
pub(crate) mod limits;
pub(crate) mod lists;
pub(crate) mod manage;
pub(crate) mod others;
pub(crate) mod pauses;
pub(crate) mod periodic;
pub(crate) mod permits;
pub(crate) mod poison;
pub(crate) mod prune;
pub(crate) mod record;
pub(crate) mod submits;
pub(crate) mod transaction;
pub(crate) mod work;
