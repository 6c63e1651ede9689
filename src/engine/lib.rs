//! A queue of jobs and an elastic set of threads that run them.
//!
//! Plain Rust: nothing here knows what a job is or what its threads hold while they run
//! one. `README.md` beside this file states the rules; start there.
#![forbid(unsafe_code)]

mod bound;
mod lane;
mod park;
mod pool;
mod queue;
mod schedule;
mod shutdown;
mod state;
mod sync;
mod timer;
mod waits;
mod worker;

pub use bound::Bound;
pub use lane::{Lane, Rate, Terms};
pub use pool::{Config, Hold, Pool, Rank, Stats, SubmitError};
pub use schedule::{Schedule, Ticket};
pub use state::{Advance, Phase, State};
pub use sync::{Mutex, spin};
pub use timer::Timer;
pub use waits::{Entered, Key, Link, Obstacle, Target, Wait, Waits};
pub use worker::{Handle, Stuck, Waiting, Worker};

/// What the models in `tests/loom.rs` need and nobody else.
#[cfg(loom)]
pub mod model {
    /// One thread's bed.
    pub struct Parker(crate::park::Parker);

    impl Parker {
        /// A parker for the calling thread.
        #[must_use]
        pub fn new() -> Self {
            Self(crate::park::Parker::new())
        }

        /// Leaves the token.
        pub fn unpark(&self) {
            self.0.unpark();
        }

        /// Waits for the token; `false` when it has not come in time.
        #[must_use]
        pub fn park(&self, deadline: Option<std::time::Instant>) -> bool {
            self.0.park(deadline)
        }
    }

    impl Default for Parker {
        fn default() -> Self {
            Self::new()
        }
    }
}
