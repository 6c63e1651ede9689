//! The only place that knows Python: futures, executors and the loop of a worker.

pub(crate) mod async_check;
pub(crate) mod callbacks;
pub(crate) mod clock;
pub(crate) mod condition;
pub(crate) mod core;
pub(crate) mod coroutine;
pub(crate) mod current;
pub(crate) mod errors;
pub(crate) mod executor;
pub(crate) mod ffi;
pub(crate) mod future;
pub(crate) mod governor;
pub(crate) mod lifecycle;
pub(crate) mod listeners;
pub(crate) mod logging;
pub(crate) mod making;
pub(crate) mod map;
pub(crate) mod names;
pub(crate) mod naming;
pub(crate) mod registry;
pub(crate) mod scope;
pub(crate) mod settle;
pub(crate) mod task;
pub(crate) mod wait;
pub(crate) mod warm;
pub(crate) mod worker;
