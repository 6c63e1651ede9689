//! Putting one thread to sleep until another one calls it: a token, as in crossbeam's parker.

use std::time::Instant;

use crate::sync::{AtomicBool, Ordering, Thread, current, park};

/// One worker's place to sleep. Only its own thread parks; any thread may unpark it.
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
        // Release: what the caller did before is seen by the woken thread. A swap, because
        // loom does not order a plain store among the swaps of `take`.
        self.called.swap(true, Ordering::Release);
        self.thread.unpark();
    }

    /// Sleeps until the token is there (`true`, and takes it) or `deadline` has passed
    /// (`false`). `None` waits for ever. The thread's own park may return early; the
    /// token decides.
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
