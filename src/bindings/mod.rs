//! The only place that knows Python: futures, executors and the loop of a worker.
//!
//! Eight floors, a folder each. A folder imports from lower floors only:
//! `tests/core/test_layers.py` reads the floors here and enforces that.
//!
//! 8. `api`: the classes and functions that Python sees, each a thin layer.
//! 7. `process`: what is made at import, and what happens at exit.
//! 6. `run`: how an attempt is run: on a worker, as a coroutine, inline, in another process.
//! 5. `sched`: what runs when: timer, dispatch, limits, dependents, and what follows an end.
//! 4. `wait`: blocking until a task ends, and never in a circle.
//! 3. `host`: what Flask and the process lend us: contexts, loggers, signals, gevent.
//! 2. `core`: what a task and an executor are: data and leaf locks, no code of users.
//! 1. `ffi`: the only `unsafe`.
//! 0. `errors`, `names`, `convert`: what every floor uses.
//!
//! A submit goes `api::executor -> run::submit -> sched::dispatch -> ` the engine's pool
//! ` -> run::worker -> run::attempt -> core::transition -> sched::completion`. A policy is data in
//! `core::options` and `core::policy`, and an act in `sched` or `run`.

pub(crate) mod api;
pub(crate) mod convert;
pub(crate) mod core;
pub(crate) mod errors;
pub(crate) mod ffi;
pub(crate) mod host;
pub(crate) mod names;
pub(crate) mod process;
pub(crate) mod run;
pub(crate) mod sched;
pub(crate) mod wait;
