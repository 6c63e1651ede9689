//! Running an attempt: on a worker, as a coroutine, inline, or in another process.

pub(crate) mod attempt;
pub(crate) mod chains;
pub(crate) mod durable;
pub(crate) mod event_loop;
pub(crate) mod generator;
pub(crate) mod inline;
pub(crate) mod kept;
pub(crate) mod remote;
pub(crate) mod retry;
pub(crate) mod submit;
pub(crate) mod timeout;
pub(crate) mod worker;
