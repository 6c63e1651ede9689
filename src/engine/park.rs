//! Parks and wakes one thread by a token, as crossbeam's parker does.

use std::time::Instant;

use crate::sync::{AtomicBool, Ordering, Thread, current, park};

/// A worker's parker. Only its own thread parks; any thread may unpark it.
pub(crate) struct Parker {
    called: AtomicBool,
    thread: Thread,
}

impl Parker {
    /// A parker for the calling thread.
    pub(crate) fn new() -> Self {
        Self {
            called: AtomicBool::new(false),
            thread: current(),
        }
    }

    /// Leaves the token and wakes the thread.
    pub(crate) fn unpark(&self) {
        // Release: the woken thread sees what the caller did before. A swap, because loom does not
        // order a plain store among the swaps of `take`.
        self.called.swap(true, Ordering::Release);
        self.thread.unpark();
    }

    /// Sleeps until the token is there (`true`, and takes it) or `deadline` has passed (`false`).
    /// `None` waits without limit. The thread's own park may return early; the token decides.
    pub(crate) fn park(&self, deadline: Option<Instant>) -> bool {
        while !self.take() {
            if !park(&self.thread, deadline) {
                return self.take();
            }
        }
        true
    }

    /// Takes the token if it is there.
    fn take(&self) -> bool {
        // Acquire pairs with the Release in `unpark`.
        self.called.swap(false, Ordering::Acquire)
    }
}
