//! A queue of jobs and an elastic set of threads that run them.
//!
//! Plain Rust: nothing here knows what a job is or what its threads hold while they run one.
//! `README.md` beside this file states the rules; start there.
#![forbid(unsafe_code)]

mod clock;
mod crontab;
mod fifo;
mod limiter;
mod park;
mod per_process;
mod pool;
mod priority;
mod queue;
mod recurrence;
mod semaphore;
mod shutdown;
mod sync;
mod task_state;
mod timer;
mod timer_heap;
mod wait_graph;
mod worker;

pub use clock::{Ticks, has_come};
pub use limiter::{Limiter, Limits, Rate};
pub use per_process::{LazyPerProcess, PerProcess, begin_generation, generation};
pub use pool::{Config, Hold, Pool, Stats, SubmitError, Woken};
pub use priority::{Level, Rank};
pub use recurrence::{Recurrence, RecurrenceError};
pub use semaphore::Semaphore;
pub use sync::{Mutex, spin};
pub use task_state::{Advance, Phase, TaskState};
pub use timer::Timer;
pub use timer_heap::{Ticket, TimerHeap};
pub use wait_graph::{Entered, Key, Link, Obstacle, Target, Wait, WaitGraph};
pub use worker::{Handle, Stuck, Waiting, Worker};

/// Parts that only the models in `tests` need.
#[cfg(loom)]
pub mod model {
    /// The queue of a pool; a job is its own birth or rank.
    pub struct Queue(crate::queue::Queue<i64>);

    impl Queue {
        /// An empty queue.
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

        /// Takes out the next job.
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

    /// A thread's parker.
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

        /// Waits for the token; `false` if the deadline comes first.
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
