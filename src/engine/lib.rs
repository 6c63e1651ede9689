//! A queue of jobs and an elastic set of threads that run them.
//!
//! Plain Rust: nothing here knows what a job is or what its threads hold while they run
//! one. `README.md` beside this file states the rules; start there.
#![forbid(unsafe_code)]

mod park;
mod pool;
mod queue;
mod shutdown;
mod sync;
mod waits;
mod worker;

pub use pool::{Config, Pool, Stats, SubmitError};
pub use waits::{Entered, Key, Waits};
pub use worker::{Handle, Waiting, Worker};
