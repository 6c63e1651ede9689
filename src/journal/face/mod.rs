//! What a process asks of its journal: `Journal`, a file for each subject.

mod commands;
pub(crate) mod files;
mod jobs;
pub(crate) mod journal;
mod lists;
mod manage;
pub(crate) mod others;
mod permits;
mod record;
mod submit;
