//! The thread that has committed groups written to the disk, and answers for them then.
//!
//! One sync answers for as many groups as have come meanwhile, and no process waits with SQLite's lock
//! held for a disk.

use std::fs::File;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::api::submission::Waiting;
use crate::api::{Error, ErrorKind};
use crate::shared::sync::{Bell, Mutex};

/// With `SyncLevel::Second`, and for operations without a waiting thread.
const LATER: Duration = Duration::from_millis(900);

#[derive(Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
struct State {
    has_thread: bool,
    is_busy: bool,
    is_closed: bool,
    /// A sync has failed: nothing more is answered for before `recover`.
    is_sick: bool,
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

    fn take(&mut self) -> (Vec<Arc<File>>, Vec<Waiting>) {
        self.later = None;
        (
            std::mem::take(&mut self.logs),
            std::mem::take(&mut self.waiting),
        )
    }

    /// How long there is nothing to do; `None` if there is no end to that.
    fn rest(&self) -> Option<Duration> {
        if self.is_sick {
            return None;
        }
        if !self.waiting.is_empty() {
            return Some(Duration::ZERO);
        }
        let later = self.later?;
        Some(later.saturating_duration_since(Instant::now()))
    }
}

/// Whose flusher it is: the thread keeps it.
pub(crate) trait Owner: Send + Sync + 'static {
    fn flusher(&self) -> &Flusher;

    /// A sync has failed: nothing is answered for before `Flusher::recover`.
    fn disk_failed(&self, error: &std::io::Error);
}

/// The flusher of one process.
pub(crate) struct Flusher {
    state: Mutex<State>,
    bell: Bell,
}

impl Flusher {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State::default()),
            bell: Bell::default(),
        }
    }

    /// Answers these when the log is on the disk.
    pub(crate) fn answer(&self, owner: &Arc<impl Owner>, log: &Arc<File>, waiting: Vec<Waiting>) {
        let mut state = self.state.lock();
        state.add_log(log);
        state.waiting.extend(waiting);
        start(owner, &mut state);
        self.bell.ring();
    }

    /// Has the log on the disk within a second.
    pub(crate) fn note(&self, owner: &Arc<impl Owner>, log: &Arc<File>) {
        let mut state = self.state.lock();
        state.add_log(log);
        if state.later.is_none() {
            state.later = Some(Instant::now() + LATER);
            start(owner, &mut state);
            self.bell.ring();
        }
    }

    fn run(&self, owner: &impl Owner) {
        loop {
            let mut state = self.state.lock();
            state.is_busy = false;
            self.bell.ring();
            loop {
                if state.is_closed {
                    return;
                }
                state = match state.rest() {
                    None => self.bell.wait(state),
                    Some(Duration::ZERO) => break,
                    Some(left) => self.bell.wait_for(state, left),
                };
            }
            state.is_busy = true;
            let (logs, waiting) = state.take();
            drop(state);
            match sync(&logs) {
                Ok(()) => answer(waiting),
                Err(error) => self.stall(owner, waiting, &error),
            }
        }
    }

    /// Keeps what cannot be answered for, and has the writer thread look into it.
    fn stall(&self, owner: &impl Owner, waiting: Vec<Waiting>, error: &std::io::Error) {
        let mut state = self.state.lock();
        state.is_sick = true;
        let since = std::mem::replace(&mut state.waiting, waiting);
        state.waiting.extend(since);
        drop(state);
        owner.disk_failed(error);
    }

    /// All that waits is on the disk after all.
    pub(crate) fn recover(&self) {
        let mut state = self.state.lock();
        state.is_sick = false;
        let (_, waiting) = state.take();
        drop(state);
        answer(waiting);
    }

    /// The tasks that wait although a sync has failed.
    pub(crate) fn stalled(&self) -> Vec<Waiting> {
        std::mem::take(&mut self.state.lock().waiting)
    }

    /// Syncs what there is, and ends the thread.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        self.bell.ring();
        while state.is_busy {
            state = self.bell.wait(state);
        }
        let is_sick = state.is_sick;
        let (logs, waiting) = state.take();
        drop(state);
        match sync(&logs) {
            Ok(()) if !is_sick => answer(waiting),
            Ok(()) => refuse(waiting, "the journal is closed"),
            Err(error) => refuse(waiting, &error.to_string()),
        }
    }
}

fn start(owner: &Arc<impl Owner>, state: &mut State) {
    if state.has_thread {
        return;
    }
    let its = Arc::clone(owner);
    let thread = thread::Builder::new().name("flask-delay-flusher".to_owned());
    // If it cannot be started, the next group tries again, and the close syncs.
    state.has_thread = thread.spawn(move || its.flusher().run(&*its)).is_ok();
}

fn sync(logs: &[Arc<File>]) -> std::io::Result<()> {
    logs.iter().try_for_each(|log| log.sync_data())
}

fn answer(waiting: Vec<Waiting>) {
    for it in waiting {
        it.answer.give(Ok(it.submitted));
    }
}

/// Says that these may not survive a power cut.
pub(crate) fn refuse(waiting: Vec<Waiting>, cause: &str) {
    for it in waiting {
        let text = format!(
            "task {} is not accepted, since it is not on the disk: {cause}",
            it.ids.join(", ")
        );
        it.answer.give(Err(Error::new(ErrorKind::Io, text)));
    }
}
