//! A queue of jobs and an elastic set of threads that run them.
//!
//! Plain Rust: nothing here knows what a job is or what its threads hold while they run
//! one. `README.md` beside this file states the rules; start there.
#![forbid(unsafe_code)]

mod bound;
mod channel;
mod crontab;
mod lane;
mod line;
mod park;
mod per_process;
mod pool;
mod queue;
mod rhythm;
mod schedule;
mod shutdown;
mod state;
mod sync;
mod ticks;
mod timer;
mod waits;
mod worker;

pub use bound::Bound;
pub use lane::{Lane, Rate, Terms};
pub use line::{Level, Rank};
pub use per_process::{LazyPerProcess, PerProcess, begin_generation, generation};
pub use pool::{Config, Hold, Pool, Stats, SubmitError, Summoned};
pub use rhythm::{Rhythm, RhythmError};
pub use schedule::{Schedule, Ticket};
pub use state::{Advance, Phase, State};
pub use sync::{Mutex, spin};
pub use ticks::{Ticks, has_come};
pub use timer::Timer;
pub use waits::{Entered, Key, Link, Obstacle, Target, Wait, Waits};
pub use worker::{Handle, Stuck, Waiting, Worker};

/// What the models in `tests` need and nobody else.
#[cfg(loom)]
pub mod model {
    /// The queue of a pool; a job is its own birth or rank.
    pub struct Queue(crate::queue::Queue<i64>);

    impl Queue {
        /// An empty one.
        #[must_use]
        pub fn new() -> Self {
            Self(crate::queue::Queue::new(|&birth| birth))
        }

        /// Adds a plain job.
        pub fn push(&self, birth: i64) {
            self.0.push(birth);
        }

        /// Adds a ranked job.
        pub fn push_ranked(&self, rank: i64) {
            self.0.push_ranked(rank, 0, rank);
        }

        /// Takes out the job that is next.
        #[must_use]
        pub fn pop(&self) -> Option<i64> {
            self.0.pop()
        }

        /// Whether there is no job.
        #[must_use]
        pub fn is_empty(&self) -> bool {
            self.0.is_empty()
        }
    }

    impl Default for Queue {
        fn default() -> Self {
            Self::new()
        }
    }

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
