//! The thread that has committed groups written to the disk, and answers for them then.
//!
//! One sync answers for as many groups as have come meanwhile, and no process waits with SQLite's lock
//! held for a disk.

use std::fs::File;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::answer::Answer;
use crate::api::{Accepted, Error, ErrorKind};
use crate::sync::{Bell, Mutex};

/// With `SyncLevel::Second`, and for what nobody waits for.
const LATER: Duration = Duration::from_millis(900);

/// What waits for the disk.
pub(crate) type Waiting = (Answer<Accepted>, Accepted);

#[derive(Default)]
struct State {
    has_thread: bool,
    is_busy: bool,
    is_closed: bool,
    /// The logs to sync: more than one only if the file was opened anew meanwhile.
    logs: Vec<Arc<File>>,
    waiting: Vec<Waiting>,
    /// When to sync although nothing waits.
    later: Option<Instant>,
}

impl State {
    fn add_log(&mut self, log: &Arc<File>) {
        if !self.logs.iter().any(|it| Arc::ptr_eq(it, log)) {
            self.logs.push(Arc::clone(log));
        }
    }
}

/// The flusher of one process.
#[derive(Default)]
pub(crate) struct Flusher {
    state: Mutex<State>,
    bell: Bell,
}

impl Flusher {
    /// Answers these when the log is on the disk.
    pub(crate) fn answer(self: &Arc<Self>, log: &Arc<File>, waiting: Vec<Waiting>) {
        let mut state = self.state.lock();
        state.add_log(log);
        state.waiting.extend(waiting);
        self.start(state.has_thread, &mut state);
        self.bell.ring();
    }

    /// Has the log on the disk within a second.
    pub(crate) fn note(self: &Arc<Self>, log: &Arc<File>) {
        let mut state = self.state.lock();
        state.add_log(log);
        if state.later.is_none() {
            state.later = Some(Instant::now() + LATER);
            self.start(state.has_thread, &mut state);
            self.bell.ring();
        }
    }

    fn start(self: &Arc<Self>, has_thread: bool, state: &mut State) {
        if has_thread {
            return;
        }
        let flusher = Arc::clone(self);
        let thread = thread::Builder::new().name("flask-delay-flusher".to_owned());
        // Without the thread the answers would never come: the next group tries again, and the
        // writer thread syncs at the close.
        state.has_thread = thread.spawn(move || flusher.run()).is_ok();
    }

    fn run(&self) {
        loop {
            let mut state = self.state.lock();
            state.is_busy = false;
            self.bell.ring();
            loop {
                let wait = match state.later {
                    _ if !state.waiting.is_empty() => None,
                    _ if state.is_closed => return,
                    Some(later) => {
                        let left = later.saturating_duration_since(Instant::now());
                        if left.is_zero() { None } else { Some(left) }
                    }
                    None => Some(Duration::MAX),
                };
                state = match wait {
                    None => break,
                    Some(Duration::MAX) => self.bell.wait(state),
                    Some(left) => self.bell.wait_for(state, left),
                };
            }
            state.is_busy = true;
            let (logs, waiting) = state.take();
            drop(state);
            answer(&logs, waiting);
        }
    }

    /// Syncs what there is, and ends the thread.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        self.bell.ring();
        while state.is_busy {
            state = self.bell.wait(state);
        }
        let (logs, waiting) = state.take();
        drop(state);
        answer(&logs, waiting);
    }
}

impl State {
    fn take(&mut self) -> (Vec<Arc<File>>, Vec<Waiting>) {
        self.later = None;
        (
            std::mem::take(&mut self.logs),
            std::mem::take(&mut self.waiting),
        )
    }
}

fn answer(logs: &[Arc<File>], waiting: Vec<Waiting>) {
    let synced = logs.iter().try_for_each(|log| log.sync_data());
    for (answer, accepted) in waiting {
        answer.give(match &synced {
            Ok(()) => Ok(accepted),
            Err(error) => Err(Error::new(
                ErrorKind::Io,
                format!("the journal cannot be written to the disk: {error}"),
            )),
        });
    }
}
