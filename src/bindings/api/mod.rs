//! The classes and functions that Python sees, each a thin layer over the floors below.

pub(crate) mod compose;
pub(crate) mod current_task;
pub(crate) mod event_log;
pub(crate) mod executor;
pub(crate) mod future;
pub(crate) mod journal;
pub(crate) mod periodic;
pub(crate) mod recorder;
pub(crate) mod schedule;
pub(crate) mod stream;
pub(crate) mod submit_method;
