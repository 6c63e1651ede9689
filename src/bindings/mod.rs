//! The Python side: futures, executors and worker loops. The engine below knows no Python.
//!
//! Floors, each a folder, above the shared files of floor 0. A folder imports from lower floors
//! only; `tests/core/test_layers.py` enforces that.
//!
//! 9. `api`: the classes and functions that Python sees; a thin layer.
//! 8. `process`: setup at import, shutdown at exit.
//! 7. `run`: running an attempt: on a worker, as a coroutine, inline, in another process.
//! 6. `sched`: timer, dispatch, limits, dependents, and the work after a task ends.
//! 5. `wait`: blocking until a task ends, with deadlock detection.
//! 4. `host`: Flask and the process: contexts, loggers, signals, gevent.
//! 3. `core`: tasks and executors: data and leaf locks, no user code.
//! 2. `codec`: values as text, for a journal.
//! 1. `ffi`: the only `unsafe`.
//! 0. `errors`, `names`, `convert`: shared by every floor.
//!
//! # The path of a submission
//!
//! `api::submit_method -> run::submit -> sched::dispatch ->` the engine's pool
//! `-> run::worker -> run::attempt -> core::transition -> sched::completion`.
//!
//! - `run::submit` checks the function and its arguments and makes the future.
//! - `sched::dispatch` applies the limits, then uses the queue or the event loop.
//! - The queue holds jobs (`core::executor::Job`): tasks, callbacks of tasks that ended without a
//!   worker, ticks of periodic jobs, and claimed rows of a journal.
//! - `run::attempt` calls the function; `run::retry` decides whether another attempt follows.
//! - Only `core::transition` changes a phase. `sched::completion` takes the value it returns and
//!   does all work after an end, in one order.
//!
//! A durable task is submitted by `run::durable`, which waits until the journal (the crate
//! `src/journal`) has it. The row comes back as a claim: at once, or later as a job. The attempt is
//! that of any task; `completion::store_end` and `run::retry` write its end to the row before any
//! other thread sees it.
//!
//! # Lock rules
//!
//! 1. Lock orders: a future's condition (Python's), its `Extra`, the registry or a link's
//!    `Holders`; a key `Table` (Python's RLock), a limiter (`Lane`) or an `Extra`; a pool's `Strays`, a worker's
//!    `Waits`, the engine's roster. All other locks are leaves.
//! 2. Under a Rust lock no Python code runs, no Python object is dropped and nothing is logged.
//! 3. A thread that blocks detaches from Python first.
//!
//! # Where user code runs
//!
//! Task functions run in `run::attempt` and `run::event_loop`; callbacks and signals in
//! `sched::completion`; initializers in `run::worker`; ticks on workers; jobs that another process
//! asks for on the threads of `core::obey`. Keys, retry policies and app contexts run where a
//! submission or an attempt needs them. All calls go through `ffi::call`.
//! The timer thread calls and drops no user object: see `core::leftovers`.
//!
//! # Where to make a change
//!
//! - an option of a task: its data in `core::options` and `core::policy`; its effect in
//!   `sched::limits` (keys, rates, debounce, expiry), `sched::dispatch` (countdown, eta),
//!   `sched::backpressure` (queue size), `sched::dependents` (then, gather), `run::timeout` or
//!   `run::retry`;
//! - limits that hold on the machine: `core::machine`, `sched::permits`, and the crate
//!   `src/journal`;
//! - work after an end: `sched::completion`;
//! - events of tasks: `core::events`, and its subscribers `core::metrics`, `host::signals`,
//!   `core::recorder` and `sched::sampling`;
//! - a way to run an attempt: a file in `run` that ends tasks by `completion::finish` on their
//!   worker, or by `completion::finish_detached`;
//! - what a journal gives to this process, and on which thread: `core::link`;
//! - what a row of the journal keeps, and what of it Python sees: `core::durable`, `run::durable`,
//!   `api::journal`; how values are stored: `codec::json`;
//! - blocking waits: `wait`.

pub(crate) mod api;
pub(crate) mod codec;
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
