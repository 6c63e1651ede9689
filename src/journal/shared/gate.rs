//! The fork gate: no process is forked while one of its threads is inside SQLite or opens a file.
//!
//! A child that was forked then would find SQLite's own locks held forever, by a thread that it
//! does not have, and connections that it must not use.

use flask_delay_engine::LazyPerProcess;

use crate::shared::sync::{Bell, Mutex};

/// The gate of one process. Any number of threads may be inside, or one that forks.
pub(crate) struct Gate {
    state: Mutex<State>,
    bell: Bell,
}

#[derive(Default)]
struct State {
    inside: usize,
    /// Threads that want to fork; they go first, or steady work would keep them out.
    forks: usize,
    is_forking: bool,
}

impl Gate {
    /// An open gate.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State::default()),
            bell: Bell::default(),
        }
    }

    /// Enters, and is inside until the result is dropped.
    pub(crate) fn enter(&self) -> Inside<'_> {
        let mut state = self.state.lock();
        while state.is_forking || state.forks > 0 {
            state = self.bell.wait(state);
        }
        state.inside += 1;
        Inside(self)
    }

    /// Waits until no other thread is inside, and keeps all out.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.forks += 1;
        while state.is_forking || state.inside > 0 {
            state = self.bell.wait(state);
        }
        state.forks -= 1;
        state.is_forking = true;
    }

    /// Ends what `close` began, on the same thread.
    pub(crate) fn open(&self) {
        let mut state = self.state.lock();
        state.is_forking = false;
        self.bell.ring();
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

/// While it exists, the process is not forked.
pub(crate) struct Inside<'a>(&'a Gate);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.inside -= 1;
        // Only a thread that forks waits for others to leave.
        if state.inside == 0 && state.forks > 0 {
            self.0.bell.ring();
        }
    }
}

static GATE: LazyPerProcess<Gate> = LazyPerProcess::new();

/// The gate of this process.
pub(crate) fn gate() -> &'static Gate {
    GATE.get_or_init(Gate::new)
}
