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
//! # Where a submit goes
//!
//! `api::submit_method -> run::submit -> sched::dispatch ->` the engine's pool
//! `-> run::worker -> run::attempt -> core::transition -> sched::completion`.
//!
//! - `run::submit` checks the function and its arguments and makes the future.
//! - `sched::dispatch` takes it past its limits into the queue, or to the event loop.
//! - The queue holds jobs (`core::executor::Job`): tasks to run, callbacks of tasks that have
//!   ended without a worker, ticks of periodic jobs.
//! - `run::attempt` calls the function; `run::retry` decides whether another attempt follows.
//! - `core::transition` alone changes a phase. What it returns goes to `sched::completion`, which
//!   does all that follows an end, in one order.
//!
//! # Rules for locks
//!
//! 1. The lock orders are: a future's condition (a lock of Python's), its `Extra`, the registry;
//!    a table of keys (an RLock of Python's), a lane; the strays of a pool, a worker's waits, the
//!    engine's roster. All other locks are leaves.
//! 2. Under a lock of ours no Python code runs, nothing of Python's is dropped, nothing is logged.
//! 3. A thread that blocks detaches from Python first.
//!
//! # What may run code of users
//!
//! Task functions run in `run::attempt` and `run::event_loop`; callbacks and signals in
//! `sched::completion`; initializers in `run::worker`; ticks on workers; keys, retry policies and
//! app contexts where a submit or an attempt needs them. All are called through `ffi::call`. On
//! the timer's thread nothing of users is called or dropped: see `core::leftovers`.
//!
//! # To change
//!
//! - an option of a task: its data is in `core::options` and `core::policy`, its act in
//!   `sched::limits` (keys, rates, expiry), `sched::dispatch` (countdown, eta),
//!   `sched::backpressure` (the size of the queue), `sched::dependents` (then, gather),
//!   `run::timeout` or `run::retry`;
//! - what happens after an end: `sched::completion`;
//! - what is told of tasks: `core::events`, and its subscribers `core::metrics` and
//!   `host::signals`;
//! - a way to run an attempt: a file in `run`, which ends tasks by `completion::finish` on their
//!   worker, or by `completion::finish_detached`;
//! - what a thread waits for: `wait`.

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
