//! What happens to tasks: one stream of events per process, in order.
//!
//! Three subscribe to it: the figures of `stats()`, Python's signals, and the log of events, a
//! ring that a page reads. Each event is looked up in one word, [`WANTED`]: while nobody
//! subscribes to it, that load is all it costs.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};

use flask_delay_engine::{LazyPerProcess, Mutex};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::id::Id;
use super::metrics;
use super::task::Task;
use super::task_name::name_of;
use super::transition::Phase;
use crate::bindings::errors::TaskExpired;
use crate::bindings::ffi::clock::now;

/// What may happen to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Submitted = 0,
    Started = 1,
    Succeeded = 2,
    Failed = 3,
    Cancelled = 4,
    // From here on without a signal.
    Expired = 5,
    Retrying = 6,
    Progress = 7,
}

/// The kinds that have a signal come first.
pub(crate) const SIGNALS: usize = 5;

impl Kind {
    /// The end that a phase is, if it is one. Whether a failed task has expired is left open.
    pub(crate) fn of(phase: Phase) -> Option<Self> {
        match phase {
            Phase::Pending | Phase::Running => None,
            Phase::Cancelled | Phase::Notified => Some(Self::Cancelled),
            Phase::Finished => Some(Self::Succeeded),
            Phase::Failed => Some(Self::Failed),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Started => "started",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Retrying => "retrying",
            Self::Progress => "progress",
        }
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Who subscribes to events: each has a byte of [`WANTED`], in which each kind has a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subscriber {
    Metrics = 0,
    Signals = 8,
    Log = 16,
}

/// What subscribers want. Bits of the figures and the signals stay once they are set.
static WANTED: AtomicU32 = AtomicU32::new(0);

/// Has a subscriber told of events from now on.
pub(crate) fn subscribe(subscriber: Subscriber, kinds: &[Kind]) {
    let bits = kinds.iter().fold(0, |bits, kind| bits | kind.bit());
    // Relaxed, here and in `wanted`: an event that happens meanwhile may be told or not.
    WANTED.fetch_or(bits << subscriber as u32, Ordering::Relaxed);
}

/// Who wants to be told of an event.
#[derive(Clone, Copy)]
pub(crate) struct Wanted(u32);

/// Who wants events of this kind. A failure may turn out to be an expiry, which is told to the
/// same.
pub(crate) fn wanted(kind: Kind) -> Wanted {
    Wanted(WANTED.load(Ordering::Relaxed) >> kind as u32)
}

impl Wanted {
    pub(crate) fn by(self, subscriber: Subscriber) -> bool {
        self.0 & 1 << subscriber as u32 != 0
    }

    /// Whether the event is to be noted: for that, no code of users is called.
    pub(crate) fn to_be_noted(self) -> bool {
        self.0 & (1 << Subscriber::Metrics as u32 | 1 << Subscriber::Log as u32) != 0
    }
}

/// Notes what happens to a task, for the figures and for the log. Signals are sent elsewhere:
/// they call code of users, with an app context.
#[inline]
pub(crate) fn happened(this: &Bound<'_, Task>, kind: Kind) {
    let wanted = wanted(kind);
    if wanted.to_be_noted() {
        note(this, kind, wanted);
    }
}

#[cold]
pub(crate) fn note(this: &Bound<'_, Task>, kind: Kind, wanted: Wanted) {
    if wanted.by(Subscriber::Metrics) {
        match kind {
            Kind::Retrying => metrics::retried(this),
            _ => metrics::ended(this),
        }
    }
    if wanted.by(Subscriber::Log) {
        let kind = if kind == Kind::Failed && has_expired(this) {
            Kind::Expired
        } else {
            kind
        };
        let (id, name) = (this.get().quiet_id(), name_of(this));
        LOG.get_or_init(Mutex::default).lock().add(kind, id, name);
    }
}

fn has_expired(this: &Bound<'_, Task>) -> bool {
    let outcome = this.get().done_outcome(this.py());
    matches!(outcome, Some(Err(exception)) if exception.is_instance_of::<TaskExpired>())
        && !this.get().has_begun()
}

/// What happened to a task.
#[derive(Clone)]
pub(crate) struct Event {
    /// Counts the process's events from 1.
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) id: Id,
    pub(crate) name: String,
    /// Nanoseconds since 1970.
    pub(crate) time: u64,
}

/// So many events are kept; the oldest goes first.
const CAPACITY: usize = 8_192;

/// The newest events of a process. The lock around it is a leaf, and nothing of Python's is in it.
#[derive(Default)]
struct Log {
    events: VecDeque<Event>,
    last: u64,
}

impl Log {
    fn add(&mut self, kind: Kind, id: Id, name: String) {
        if self.events.len() == CAPACITY {
            self.events.pop_front();
        }
        self.last += 1;
        self.events.push_back(Event {
            number: self.last,
            kind,
            id,
            name,
            time: now(),
        });
    }
}

static LOG: LazyPerProcess<Mutex<Log>> = LazyPerProcess::new();

/// How many read the log. The last one takes it off the subscribers. The lock is a leaf.
static READERS: Mutex<usize> = Mutex::new(0);

/// The events that figures count.
pub(crate) const COUNTED: [Kind; 4] = [
    Kind::Succeeded,
    Kind::Failed,
    Kind::Cancelled,
    Kind::Retrying,
];

const ALL: [Kind; 8] = [
    Kind::Submitted,
    Kind::Started,
    Kind::Succeeded,
    Kind::Failed,
    Kind::Cancelled,
    Kind::Expired,
    Kind::Retrying,
    Kind::Progress,
];

/// Events are kept while there is one of these.
pub(crate) struct Reader(());

impl Reader {
    pub(crate) fn new() -> Self {
        *READERS.lock() += 1;
        subscribe(Subscriber::Log, &ALL);
        Self(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut readers = READERS.lock();
        *readers -= 1;
        if *readers == 0 {
            // Under the lock, so that a new reader subscribes after that.
            WANTED.fetch_and(!(0xff << Subscriber::Log as u32), Ordering::Relaxed);
        }
    }
}

/// Up to `most` of the events after number `after`, oldest first, and how many of those after it
/// are not kept any more.
pub(crate) fn read(after: u64, most: usize) -> (Vec<Event>, u64) {
    let log = LOG.get_or_init(Mutex::default).lock();
    let next = after.saturating_add(1);
    let first = log
        .events
        .front()
        .map_or(log.last + 1, |event| event.number);
    let skipped = usize::try_from(next.saturating_sub(first)).unwrap_or(usize::MAX);
    let read = log.events.iter().skip(skipped).take(most).cloned();
    (read.collect(), first.saturating_sub(next))
}

pub(crate) struct Signal {
    pub(crate) receivers: Py<PyDict>,
    /// Called if there are receivers: some may listen to other apps alone.
    pub(crate) listens: Py<PyAny>,
    /// Called as `send(future=future)`.
    pub(crate) send: Py<PyAny>,
}

/// An executor's signals. Not shown to the garbage collector, so they may refer to nothing
/// that refers to the executor.
pub(crate) struct Signals(pub(crate) [Signal; SIGNALS]);
